"""One door to the instruction sets: `isa()` finds the toolkit of a name, `assemble()` makes a program of any source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from qpu.core.isa import Isa
from qpu.errors import UsageError

if TYPE_CHECKING:
    from qpu.core.hazards import Finding
    from qpu.core.program import Program

__all__ = ["InstructionSet", "Source", "assemble", "isa"]

# A builder function (called with the typed builder first), assembly text, or 64-bit words.
Source: TypeAlias = "Callable[..., None] | str | Iterable[int]"


class InstructionSet(Protocol):
    """What every instruction set can do. Instructions are the frozen dataclasses of `qpu.vc4` or `qpu.v3d`."""

    @property
    def isa(self) -> Isa: ...

    def assemble(
        self,
        source: Source,
        *,
        check: bool | None = None,
        filename: str | None = None,
        args: Sequence[object] = (),
        single_segment: bool = False,
    ) -> Program:
        """A program from a builder function, text or words.

        check: apply hazard rules, errors raise HazardError; None means yes for builders, no for text and words.
        args: further arguments of a builder function. Raises: AsmError with every diagnostic.
        """
        ...

    def disassemble(self, word: int) -> str:
        """Text of one instruction, no label or comment. Raises: DecodeError (V3D)."""
        ...

    def encode(self, instr: Any) -> int: ...
    def decode(self, word: int) -> Any: ...

    def check(self, words: Iterable[int], *, single_segment: bool = False) -> list[Finding]:
        """Validity and hazard findings in program order."""
        ...

    def listing(self, program: Program) -> str:
        """Disassembly for people: one instruction a line, branch targets labelled."""
        ...


@cache
def isa(name: str | Isa) -> InstructionSet:
    """The toolkit of instruction set `name`: ``vc4``, ``v3d42`` or ``v3d71``. Raises: UsageError."""
    try:
        which = Isa(name)
    except ValueError:
        allowed = ", ".join(Isa)
        raise UsageError(f"unknown instruction set {str(name)!r}; allowed: {allowed}") from None
    if which is Isa.VC4:
        from qpu.vc4.instruction_set import Vc4Toolkit

        return Vc4Toolkit()
    from qpu.v3d.instruction_set import V3dToolkit

    return V3dToolkit(which)


def assemble(
    source: Source,
    *args: object,
    isa: str | Isa,
    check: bool | None = None,
    filename: str | None = None,
    single_segment: bool = False,
) -> Program:
    """A program for `isa` from a builder function (called as ``source(q, *args)``), text, or 64-bit words.

    check: None applies the hazard rules to builder programs only; errors raise HazardError at the source line.
    single_segment: the V3D launch mode the program is meant for; it changes which switches are legal.
    Raises: AsmError, HazardError, UsageError.
    """
    return _find(isa).assemble(source, check=check, filename=filename, args=args, single_segment=single_segment)


_find = isa
