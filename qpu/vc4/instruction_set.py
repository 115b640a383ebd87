"""The toolkit of VideoCore IV: assembler, disassembler, encoder, decoder and checker in one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

from qpu.core.code import Code
from qpu.core.hazards import Finding
from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.vc4.instr import Instr

__all__ = ["Vc4Toolkit"]


class Vc4Toolkit:
    """Assembler, disassembler, encoder, decoder and checker of VideoCore IV. Parts are loaded when first used."""

    __slots__ = ()

    isa = Isa.VC4

    def __repr__(self) -> str:
        return "<instruction set vc4>"

    def assemble(
        self,
        source: Callable[..., None] | str | Iterable[int],
        *,
        check: bool | None = None,
        filename: str | None = None,
        args: Sequence[object] = (),
        single_segment: bool = False,
        include_path: Sequence[str | PathLike[str]] = (),
        include_root: str | PathLike[str] | None = None,
        defines: Mapping[str, int | float | str] | None = None,
    ) -> Code:
        """A program from a builder function (called as ``source(q, *args)``), text, or 64-bit words.

        check: apply the hazard rules; None means yes for builders, no for text and words. filename: named in the
        diagnostics of text. single_segment concerns V3D only. include_path, include_root, defines: of text, see
        `qpu.vc4.vc4asm.assemble_text`; its warnings are `Code.warnings`.
        Raises: AsmError, HazardError, UsageError.
        """
        if callable(source):
            from qpu.vc4.builder import build

            program = build(source, *args)
            check = True if check is None else check
        elif args:
            raise UsageError("arguments belong to builder functions; text and words take none")
        elif isinstance(source, str):
            from qpu.vc4.vc4asm import assemble_text

            text = assemble_text(
                source,
                filename=filename or "<text>",
                include_path=include_path,
                include_root=include_root,
                defines=defines,
            )
            labels = {name: offset // 8 for name, offset in text.labels.items() if offset % 8 == 0}
            program = Code(Isa.VC4, text.words, labels, text.locs, text.warnings)
        else:
            program = Code.of_words(Isa.VC4, source)
        if check:
            from qpu.vc4.hazards import enforce

            enforce(program)
        return program

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
        """Validity and hazard findings in program order. single_segment concerns V3D only."""
        from qpu.vc4.hazards import check

        return check(words)

    def listing(self, program: Code) -> str:
        """Disassembly for people: one instruction a line with its byte offset, branch targets labelled."""
        from qpu.vc4.printer import listing

        return listing(program)
