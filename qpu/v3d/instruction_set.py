"""The toolkit of one V3D instruction set, behind `qpu.instruction_sets.isa()`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import index as as_integer
from typing import TYPE_CHECKING

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.errors import AsmError, DecodeError, Diagnostic, UsageError
from qpu.v3d.decode import decode
from qpu.v3d.encode import encode
from qpu.v3d.instr import Branch, Instr
from qpu.v3d.printer import branch_text, note, text

if TYPE_CHECKING:
    from qpu.core.hazards import Finding

__all__ = ["V3dToolkit"]


class V3dToolkit:
    """Assembler, disassembler, encoder, decoder and checker of V3D 4.2 or 7.1."""

    __slots__ = ("isa",)

    def __init__(self, isa: Isa) -> None:
        if isa not in (Isa.V3D42, Isa.V3D71):
            raise UsageError(f"{isa} is not a V3D instruction set; allowed: v3d42, v3d71")
        self.isa = isa

    def assemble(
        self,
        source: Callable[..., None] | str | Iterable[int],
        *,
        check: bool | None = None,
        filename: str | None = None,
        args: Sequence[object] = (),
        single_segment: bool = False,
    ) -> Code:
        """A program from a builder function, called as ``source(q, *args)``, from text or from words.

        check: apply the validity rules, errors raise HazardError; None means yes for builders, no for text and words.
        filename: name of the text in messages. Raises: AsmError with every diagnostic.
        """
        if callable(source):
            from qpu.v3d.asm import assemble

            return assemble(self.isa, source, *args, check=check is not False, single_segment=single_segment)
        if isinstance(source, str):
            from qpu.v3d.parser import assemble_text

            program = assemble_text(self.isa, source, filename=filename or "<text>")
        else:
            program = Code(self.isa, self._words(source))
        if check:
            self._raise(program, single_segment)
        return program

    @staticmethod
    def _words(source: Iterable[int]) -> tuple[int, ...]:
        words: list[int] = []
        wrong: list[Diagnostic] = []
        try:
            values = [as_integer(value) for value in source]
        except TypeError as error:
            raise UsageError(f"{error}; a program is a builder function, text, or integers of 64 bits") from None
        for index, word in enumerate(values):
            if not 0 <= word < 1 << 64:
                wrong.append(
                    Diagnostic(
                        "word",
                        f"{word} is not a 64-bit word",
                        allowed="0 .. 2**64 - 1",
                        help="a program is a list of unsigned 64-bit words",
                        index=index,
                    )
                )
            words.append(word)
        if wrong:
            raise AsmError.of(wrong)
        return tuple(words)

    def _raise(self, program: Code, single_segment: bool) -> None:
        from qpu.core.hazards import raise_errors

        raise_errors(self.check(program.code, single_segment=single_segment), program)

    def disassemble(self, word: int) -> str:
        """Text of one instruction, no label or comment. Raises: DecodeError."""
        return text(decode(self.isa, word))

    def note(self, word: int) -> str | None:
        """What the text of the instruction leaves out (signals ucb and rot, surplus bits), or None."""
        return note(decode(self.isa, word), word)

    def encode(self, instr: Instr) -> int:
        """The word of an instruction. Raises: AsmError."""
        if instr.isa is not self.isa:
            raise UsageError(f"an instruction of {instr.isa.label}, expected {self.isa.label}")
        return encode(instr)

    def decode(self, word: int) -> Instr:
        """The instruction of a word. Raises: DecodeError."""
        return decode(self.isa, word)

    def check(self, words: Iterable[int], *, single_segment: bool = False) -> list[Finding]:
        """Validity findings in program order; those about the whole program have ``index == len(words)``."""
        from qpu.v3d.hazards import check

        return check(self.isa, words, single_segment=single_segment)

    def listing(self, program: Code) -> str:
        """Disassembly for people: labels on lines of their own, branch targets by label, notes as comments.

        The text assembles to the same words again, surplus bits aside; undecodable words are ``.word`` lines.
        """
        code = program.code
        labels: dict[int, list[str]] = {}
        for name, index in program.labels.items():
            labels.setdefault(index, []).append(name)
        instrs: list[Instr | None] = []
        targets: dict[int, int] = {}
        for index, word in enumerate(code):
            try:
                instr: Instr | None = decode(self.isa, word)
            except DecodeError:
                instr = None
            instrs.append(instr)
            if isinstance(instr, Branch) and instr.bdi == "rel":
                offset = instr.offset - (1 << 32) if instr.offset >> 31 else instr.offset
                target = index + 4 + offset // 8
                if 0 <= target <= len(code):
                    targets[index] = target
        taken = {name for names in labels.values() for name in names}
        for target in sorted(set(targets.values())):
            if target not in labels:
                name = f"L{target}"
                while name in taken:
                    name += "_"
                taken.add(name)
                labels[target] = [name]
        lines: list[str] = []
        for index, word in enumerate(code):
            lines += [f"{name}:" for name in labels.get(index, ())]
            instr = instrs[index]
            if instr is None:
                lines.append(f"    .word 0x{word:016x}  # no instruction")
                continue
            if isinstance(instr, Branch):
                line = branch_text(instr, labels[targets[index]][0] if index in targets else None)
            else:
                line = text(instr)
            extra = note(instr, word)
            lines.append(f"    {line}" + (f"  # {extra}" if extra else ""))
        lines += [f"{name}:" for name in labels.get(len(code), ())]
        return "\n".join(lines) + "\n" if lines else ""
