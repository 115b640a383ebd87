"""The toolkit of VideoCore IV, which `qpu.instruction_sets` and `qpu.program` use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from qpu.core.code import Code
from qpu.core.hazards import Finding
from qpu.core.isa import Isa
from qpu.core.toolkit import Toolkit
from qpu.vc4.instr import Instr

__all__ = ["Vc4Toolkit"]


class Vc4Toolkit(Toolkit):
    """Assembler, disassembler, encoder, decoder and checker of VideoCore IV. Modules are imported on first use."""

    __slots__ = ()

    isa = Isa.VC4

    def __repr__(self) -> str:
        return "<instruction set vc4>"

    def _build(self, source: Callable[..., None], args: Sequence[object]) -> Code:
        from qpu.vc4.builder import build

        return build(source, *args)

    def _text(self, source: str, filename: str, **options: Any) -> Code:
        """Options: include_path, include_root, defines, see `qpu.vc4.vc4asm.assemble_text`."""
        from qpu.vc4.vc4asm import assemble_text

        text = assemble_text(source, filename=filename, **options)
        labels = {name: offset // 8 for name, offset in text.labels.items() if offset % 8 == 0}
        return Code(Isa.VC4, text.words, labels, text.locs, text.warnings)

    def disassemble(self, word: int) -> str:
        """Text of one instruction, no label or comment; reserved encodings print as ``.int64 0x...``."""
        from qpu.vc4.printer import disassemble

        return disassemble(word)

    def note(self, word: int) -> str | None:
        """Why the text of `word` does not assemble back to it; None when it does."""
        from qpu.vc4.printer import note

        return note(word)

    def encode(self, instr: Any) -> int:
        """The word of an instruction. Raises: AsmError when a field does not fit."""
        from qpu.vc4.encode import encode

        return encode(instr)

    def decode(self, word: int) -> Instr:
        """The instruction of a word; total over 64-bit words."""
        from qpu.vc4.decode import decode

        return decode(word)

    def check(self, words: Iterable[int], *, single_segment: bool = False) -> list[Finding]:
        """Validity and hazard findings in program order. single_segment has a meaning on V3D only."""
        from qpu.vc4.hazards import check

        return check(words)

    def listing(self, program: Code) -> str:
        """Disassembly with labels, one instruction a line; it assembles to the same program."""
        from qpu.vc4.printer import listing

        return listing(program)
