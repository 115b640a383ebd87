"""The public interface of the instruction sets: `isa()` finds one by name, `assemble()` makes a program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from os import PathLike
from typing import TYPE_CHECKING, Any

from qpu.core.isa import Isa
from qpu.core.toolkit import Source
from qpu.errors import UsageError, brief
from qpu.program import Program, toolkit

if TYPE_CHECKING:
    from qpu.core.hazards import Finding

__all__ = ["InstructionSet", "Source", "assemble", "isa"]


class InstructionSet:
    """Assembler, disassembler and checker of one instruction set; instructions: see `qpu.vc4`, `qpu.v3d`."""

    __slots__ = ("_toolkit", "isa")

    def __init__(self, which: Isa) -> None:
        self.isa = which
        self._toolkit = toolkit(which)

    @brief
    def assemble(
        self,
        source: Source,
        *,
        check: bool | None = None,
        filename: str | None = None,
        args: Sequence[object] = (),
        single_segment: bool = False,
        include_path: Sequence[str | PathLike[str]] = (),
        include_root: str | PathLike[str] | None = None,
        defines: Mapping[str, int | float | str] | None = None,
    ) -> Program:
        """A program from a builder function, text or words.

        check: apply hazard rules, errors raise HazardError; None means yes for builders, no for text and words.
        args: further arguments of a builder function. include_path, include_root, defines: for VideoCore IV text, see
        `qpu.vc4.vc4asm.assemble_text`. Raises: AsmError with every diagnostic, UsageError.
        """
        text: dict[str, Any] = {}
        if include_path or include_root is not None or defines:
            if self.isa is not Isa.VC4:
                raise UsageError(f"include_path and defines are not for text of {self.isa}", help="leave them out")
            text = {"include_path": include_path, "include_root": include_root, "defines": defines}
        code = self._toolkit.assemble(
            source, check=check, filename=filename, args=args, single_segment=single_segment, **text
        )
        return Program.of(code)

    def disassemble(self, word: int) -> str:
        """Text of one instruction, no label or comment. Raises: DecodeError (V3D)."""
        return self._toolkit.disassemble(word)

    def note(self, word: int) -> str | None:
        """What the text of `word` leaves out, such as surplus bits; None when the text is complete."""
        return self._toolkit.note(word)

    def encode(self, instr: Any) -> int:
        """The word of an instruction. Raises: AsmError."""
        return self._toolkit.encode(instr)

    def decode(self, word: int) -> Any:
        """The instruction of a word. Raises: DecodeError (V3D)."""
        return self._toolkit.decode(word)

    def check(self, words: Iterable[int], *, single_segment: bool = False) -> list[Finding]:
        """Validity and hazard findings in program order."""
        return self._toolkit.check(words, single_segment=single_segment)

    def listing(self, program: Program) -> str:
        """Disassembly with labels, one instruction a line; it assembles to the same program."""
        return self._toolkit.listing(program)

    def __repr__(self) -> str:
        return f"<instruction set {self.isa}>"


@cache
def isa(name: str | Isa) -> InstructionSet:
    """Instruction set `name`: ``vc4``, ``v3d42`` or ``v3d71``. Raises: UsageError."""
    try:
        return InstructionSet(Isa(name))
    except ValueError:
        raise UsageError(f"unknown instruction set {str(name)!r}", help=f"pass {', '.join(Isa)}") from None


@brief
def assemble(
    source: Source,
    *args: object,
    isa: str | Isa,
    check: bool | None = None,
    filename: str | None = None,
    single_segment: bool = False,
) -> Program:
    """A program for `isa` from a builder function (called as ``source(q, *args)``), text, or 64-bit words.

    check: apply the hazard rules; None applies them to builder programs only. Errors raise HazardError at the source
    line. single_segment: the V3D launch mode the program is for; it changes which thread switches are legal.
    Raises: AsmError, HazardError, UsageError.
    """
    return _find(isa).assemble(source, check=check, filename=filename, args=args, single_segment=single_segment)


_find = isa
