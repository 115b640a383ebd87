"""Operations of one instruction set inside a kernel: `k.vc4.NAME(...)`, `k.v3d.NAME(...)`, and `k.asm(fn, ...)`.

They are recorded as steps over numbered values, which the rows of the instruction set execute in the interpreters and
in plain Python, and which selection hands to the register allocator and the scheduler like everything else. A row can
be used when its result depends on its operands alone.
"""

from __future__ import annotations

import keyword
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from qpu.core.isa import Isa
from qpu.core.optable import Op, OperandType
from qpu.core.scalar_lanes import float_bits
from qpu.errors import UsageError

__all__ = ["Asm", "Recorder", "Recording", "Register", "Step", "execute", "family", "letter", "row_of", "rows"]

_CONDITIONS: Final = {
    "vc4": ("ifz", "ifnz", "ifn", "ifnn", "ifc", "ifcc"),
    "v3d": ("ifa", "ifna", "ifb", "ifnb"),
}
_QUADS: Final = frozenset({"fdx", "fdy"})  # they look at neighbouring lanes
_PUSHES: Final = {"vc4": ("z",), "v3d": ("pushz", "pushn", "pushc")}


def family(isa: str) -> str:
    """ "vc4" or "v3d"."""
    return "vc4" if isa == "vc4" else "v3d"


@cache
def rows(isa: str) -> Mapping[str, Op]:
    """The operations of an instruction set that can be used, by name."""
    if isa == "vc4":
        from qpu.vc4.ops import TABLE

        table = TABLE
    else:
        from qpu.v3d.ops import table as table_of

        table = table_of(Isa(isa))
    found = {}
    for op in table:
        if (
            op.pure
            and op.arity
            and op.operand("d") is not None
            and not (op.graphics or op.lane_op or op.name in _QUADS)
        ):
            found[f"{op.name}_" if keyword.iskeyword(op.name) else op.name] = op
    return found


def row_of(isa: str, name: str) -> Op:
    """The row of an operation. Raises: UsageError with names that are close."""
    found = rows(isa).get(name)
    if found is None:
        import difflib

        close = difflib.get_close_matches(name, list(rows(isa)), 3)
        known = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(sorted(rows(isa)))}"
        raise UsageError(f"{Isa(isa).label} has no operation {name!r} whose result depends on its operands alone",
                         help=known)  # fmt: skip
    return found


def letter(type_: OperandType) -> str:
    """The language's type letter of an operand."""
    return {OperandType.F32: "f", OperandType.I32: "i"}.get(type_, "u")


@dataclass(frozen=True, slots=True)
class Register:
    """A value inside the assembly: input n (negative: -1 - n) or a register that it makes (0, 1, ...)."""

    n: int


@dataclass(frozen=True, slots=True)
class Step:
    """One operation. cond, push: as the builders of the instruction set name them, "" for none."""

    op: str
    dst: Register
    operands: tuple[Register, ...]
    cond: str = ""
    push: str = ""


@dataclass(frozen=True, slots=True)
class Asm:
    """Steps and what they give; out: which result is meant."""

    isa: str
    steps: tuple[Step, ...]
    results: tuple[Register, ...]
    out: int = 0

    def part(self, out: int) -> Asm:
        """The same steps, another result."""
        return replace(self, out=out)


class Recorder:
    """What the function of `k.asm` gets: the operations by name, destination first, as a builder has them.

    `temp()` makes a register. Signals, raw addresses and branches are refused.
    """

    def __init__(self, isa: str, inputs: int) -> None:
        self.isa = isa
        self._steps: list[Step] = []
        self._count = 0
        self._inputs = inputs
        self.constants: list[int] = []  # that follow the inputs, by their bits

    def temp(self) -> Register:
        """A new register."""
        self._count += 1
        return Register(self._count - 1)

    def __getattr__(self, name: str) -> Callable[..., Recorder]:
        row = row_of(self.isa, name)

        def record(dst: Any, *operands: Any, cond: str = "", push: str = "", **others: Any) -> Recorder:
            title = f"q.{name}"
            if others:
                raise UsageError(f"{title}: {next(iter(others))}= is not possible here", help="cond= and push= are")
            if not isinstance(dst, Register) or dst.n < 0:
                raise UsageError(f"{title} writes {dst!r}", help="a register of q.temp(); inputs are read only")
            if len(operands) != row.arity:
                raise UsageError(f"{title} takes {row.arity} operand(s), {len(operands)} are given", help=row.doc)
            self._condition(title, "cond", cond, _CONDITIONS)
            self._condition(title, "push", push, _PUSHES)
            sources = tuple(self._operand(title, x) for x in operands)
            self._steps.append(Step(name, dst, sources, cond, push))
            return self  # q.fadd(...).fmul(...): the scheduler pairs

        return record

    def _operand(self, title: str, x: Any) -> Register:
        if isinstance(x, Register):
            return x
        if isinstance(x, float):
            bits = float_bits(x)
        elif type(x) is not bool and isinstance(x, numbers.Integral) and -(1 << 31) <= int(x) < 1 << 32:
            bits = int(x) & 0xFFFFFFFF
        else:
            help = "the function's parameters, registers of q.temp(), numbers of 32 bits"
            raise UsageError(f"{title}: an operand is {x!r}", help=help)
        if bits not in self.constants:
            self.constants.append(bits)
        return Register(-1 - self._inputs - self.constants.index(bits))

    def _condition(self, title: str, what: str, given: str, allowed: Mapping[str, tuple[str, ...]]) -> None:
        known = allowed[family(self.isa)]
        if given and given not in known:
            raise UsageError(f"{title}: {what}={given!r}", help=f"allowed: {', '.join(known)}")

    def finish(self, results: Sequence[Any]) -> Asm:
        """The recording. Raises: UsageError for results that are not registers of it."""
        written: set[int] = set()
        for step in self._steps:
            for x in step.operands:
                if x.n >= 0 and x.n not in written:
                    raise UsageError(f"q.{step.op} reads a register before it is written", help="write it first")
            written.add(step.dst.n)
        for r in results:
            if not isinstance(r, Register) or (r.n >= 0 and r.n not in written):
                raise UsageError(f"the function gives {r!r}", help="return registers that it has written")
        return Asm(self.isa, tuple(self._steps), tuple(results))


Recording = Callable[..., Any]
"""f(q, *values) -> register or tuple of registers."""


def execute(asm: Asm, v: Any, inputs: Sequence[Any]) -> Any:
    """The result of the steps over a `LaneOps`."""
    table = rows(asm.isa)
    made: dict[int, Any] = {}
    flags: dict[str, Any] = {}

    def get(x: Register) -> Any:
        return inputs[-1 - x.n] if x.n < 0 else made[x.n]

    for step in asm.steps:
        row = table[step.op]
        assert row.sem is not None
        operands = [get(x) for x in step.operands]
        result = row.sem(v, *operands, *([operands[0]] if asm.isa == "vc4" and row.arity == 1 else []))
        kept = made.get(step.dst.n, result)
        made[step.dst.n] = v.select(_holds(v, flags, step.cond), result, kept) if step.cond else result
        if step.push:
            _pushed(v, row, flags, step.push, operands, result)
    return get(asm.results[asm.out])


def _pushed(v: Any, row: Op, flags: dict[str, Any], push: str, operands: Sequence[Any], result: Any) -> None:
    two = [*operands, *operands][:2]
    zero = row.zero(v, *two, result) if row.zero else v.eq(result, v.const(0))
    negative = row.negative(v, *two, result) if row.negative else v.slt(result, v.const(0))
    carry = row.carry(v, *two, result) if row.carry else v.mconst(False)
    if push == "z":
        flags.update(z=zero, n=negative, c=carry)
    else:
        flags["b"] = flags.get("a", v.mconst(False))
        flags["a"] = {"pushz": zero, "pushn": negative, "pushc": carry}[push]


def _holds(v: Any, flags: Mapping[str, Any], cond: str) -> Any:
    name = cond.removeprefix("if")
    inverted = len(name) == 2
    found = flags.get(name[-1], v.mconst(False))
    return v.mnot(found) if inverted else found
