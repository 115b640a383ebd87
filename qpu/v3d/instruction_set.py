"""The toolkit of V3D 4.2 or 7.1, which `qpu.instruction_sets` and `qpu.program` use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.core.listing import listing
from qpu.core.toolkit import Toolkit
from qpu.errors import DecodeError, UsageError
from qpu.v3d.decode import decode
from qpu.v3d.encode import encode
from qpu.v3d.instr import Branch, Instr
from qpu.v3d.printer import branch_text, note, text

if TYPE_CHECKING:
    from qpu.core.hazards import Finding

__all__ = ["V3dToolkit"]


class V3dToolkit(Toolkit):
    """Assembler, disassembler, encoder, decoder and checker of V3D 4.2 or 7.1."""

    __slots__ = ("isa",)

    def __init__(self, isa: Isa) -> None:
        if isa not in (Isa.V3D42, Isa.V3D71):
            raise UsageError(f"{isa} is not a V3D instruction set", help="pass v3d42 or v3d71")
        self.isa = isa

    def _build(self, source: Callable[..., None], args: Sequence[object]) -> Code:
        from qpu.v3d.asm import assemble

        return assemble(self.isa, source, *args, check=False)

    def _text(self, source: str, filename: str, **options: Any) -> Code:
        from qpu.v3d.parser import assemble_text

        return assemble_text(self.isa, source, filename=filename, **options)

    def disassemble(self, word: int) -> str:
        return text(decode(self.isa, word))

    def note(self, word: int) -> str | None:
        """What the text of the instruction leaves out (signals ucb and rot, surplus bits), or None."""
        return note(decode(self.isa, word), word)

    def encode(self, instr: Instr) -> int:
        if instr.isa is not self.isa:
            raise UsageError(f"an instruction of {instr.isa.label}", help=f"pass one of {self.isa.label}")
        return encode(instr)

    def decode(self, word: int) -> Instr:
        return decode(self.isa, word)

    def check(self, words: Iterable[int], *, single_segment: bool = False) -> list[Finding]:
        from qpu.v3d.hazards import check

        return check(self.isa, words, single_segment=single_segment)

    def listing(self, program: Code) -> str:
        """Disassembly with labels on lines of their own, branch targets by label and notes as comments.

        The text assembles to the same words again, surplus bits aside; undecodable words are ``.word`` lines.
        """
        instrs: list[Instr | None] = []
        targets: dict[int, int] = {}
        for index, word in enumerate(program.code):
            try:
                instr: Instr | None = decode(self.isa, word)
            except DecodeError:
                instr = None
            instrs.append(instr)
            if isinstance(instr, Branch) and (target := instr.target(index)) is not None:
                targets[index] = target

        def line(index: int, target: str | None) -> str:
            word, instr = program.code[index], instrs[index]
            if instr is None:
                return f".word 0x{word:016x}  # not an instruction"
            extra = note(instr, word)
            what = branch_text(instr, target) if isinstance(instr, Branch) else text(instr)
            return f"{what}  # {extra}" if extra else what

        return listing(program, targets, line, "{}:")
