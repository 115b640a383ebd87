"""The toolkit of an instruction set: the interface of `qpu.vc4` and `qpu.v3d` to the layers above them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from qpu.core import collector
from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.errors import UsageError

if TYPE_CHECKING:
    from qpu.core.hazards import Finding

__all__ = ["Source", "Toolkit"]

# A builder function (called with the typed builder first), assembly text, or 64-bit words.
Source: TypeAlias = "Callable[..., None] | str | Iterable[int]"


class Toolkit(ABC):
    """Assembler, disassembler, encoder, decoder and checker of one instruction set."""

    __slots__ = ()

    isa: Isa

    def assemble(
        self,
        source: Source,
        *,
        check: bool | None = None,
        filename: str | None = None,
        args: Sequence[object] = (),
        single_segment: bool = False,
        **text: Any,
    ) -> Code:
        """A program from a builder function (called as ``source(q, *args)``), text, or 64-bit words.

        check: apply the hazard rules; None means yes for builders, no for text and words. filename: named in the
        diagnostics of text. text: further options of the family's text assembler.
        Raises: AsmError with every diagnostic, HazardError, UsageError.
        """
        if callable(source):
            code = self._build(source, args)
        elif args:
            raise UsageError("text and words take no arguments", help="leave args out, or pass a builder function")
        elif isinstance(source, str):
            with collector.paused():
                code = self._text(source, filename or "<text>", **text)
        else:
            code = Code.of_words(self.isa, source)
        if callable(source) if check is None else check:
            from qpu.core.hazards import raise_errors

            raise_errors(self.check(code.code, single_segment=single_segment), code)
        return code

    @abstractmethod
    def _build(self, source: Callable[..., None], args: Sequence[object]) -> Code:
        """The program of a builder function, without the hazard rules."""

    @abstractmethod
    def _text(self, source: str, filename: str, **options: Any) -> Code:
        """The program of a text, without the hazard rules."""

    @abstractmethod
    def disassemble(self, word: int) -> str:
        """Text of one instruction, no label or comment. Raises: DecodeError (V3D)."""

    @abstractmethod
    def note(self, word: int) -> str | None:
        """What the text of `word` leaves out, such as surplus bits; None when the text is complete."""

    @abstractmethod
    def encode(self, instr: Any) -> int:
        """The word of an instruction. Raises: AsmError when a field does not fit."""

    @abstractmethod
    def decode(self, word: int) -> Any:
        """The instruction of a word. Raises: DecodeError (V3D)."""

    @abstractmethod
    def check(self, words: Iterable[int], *, single_segment: bool = False) -> list[Finding]:
        """Validity and hazard findings in program order; those about the whole program have ``index == len(words)``.

        single_segment: the V3D launch mode; it changes which thread switches are legal.
        """

    @abstractmethod
    def listing(self, program: Code) -> str:
        """Disassembly with labels, one instruction a line; it assembles to the same program."""
