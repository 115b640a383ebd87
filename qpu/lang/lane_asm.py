"""`k.vc4`, `k.v3d` and `k.asm` in plain Python: what both kinds of kernel objects offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from qpu.core.scalar_lanes import float_bits
from qpu.errors import UsageError
from qpu.lang.inline_asm import Asm, Recorder, Register, Step, execute, family, letter, row_of
from qpu.lang.lanes import Scalar, Word, convert
from qpu.lang.plain_lanes import PlainLanes

__all__ = ["LaneAsm"]

_LANES: Final = PlainLanes()
_KIND: Final = {"f32": "f", "i32": "i", "u32": "u"}


def _bits(x: Any, kind: str) -> int:
    """An operand of an operation: floats for floats, bits for the rest."""
    if isinstance(x, Word):
        return x.bits
    if kind == "f":
        return int(convert("f32", [x]).bits)
    return x.bits if isinstance(x, Scalar) else float_bits(x) if isinstance(x, float) else int(x) & 0xFFFFFFFF


class _Intrinsics:
    """k.vc4, k.v3d."""

    def __init__(self, name: str, isa: str) -> None:
        if family(isa) != name:
            raise UsageError(f"k.{name} in a kernel for {isa}", help=f'k.python(..., isa="{name}")')
        self._isa = isa

    def __getattr__(self, name: str) -> Callable[..., Scalar]:
        row = row_of(self._isa, name)
        kinds = [letter(o.type) for o in row.parsed]

        def call(*args: Any) -> Scalar:
            inputs = [_bits(x, kind) for x, kind in zip(args, kinds[1:], strict=True)]
            step = Step(name, Register(0), tuple(Register(-1 - n) for n in range(len(inputs))))
            return Scalar(kinds[0], execute(Asm(self._isa, (step,), (Register(0),)), _LANES, inputs))

        return call


class LaneAsm:
    """A kernel object with operations of one instruction set."""

    isa: str

    @property
    def vc4(self) -> _Intrinsics:
        return _Intrinsics("vc4", self.isa)

    @property
    def v3d(self) -> _Intrinsics:
        return _Intrinsics("v3d", self.isa)

    def asm(self, fn: Callable[..., Any], *values: Any, out: Any) -> Any:
        recorder = Recorder(self.isa, len(values))
        made = fn(recorder, *(Register(-1 - n) for n in range(len(values))))
        asm = recorder.finish(made if isinstance(made, tuple | list) else (made,))
        inputs = [*(_bits(x, "") for x in values), *recorder.constants]
        types: Sequence[Any] = out if isinstance(out, tuple | list) else (out,)
        found = [Scalar(_KIND[t.name], execute(asm.part(n), _LANES, inputs)) for n, t in enumerate(types)]
        return tuple(found) if isinstance(out, tuple | list) else found[0]
