"""Assembled code: instruction words with labels and source locations, as builders and text assemblers return them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import index as as_integer
from typing import TYPE_CHECKING, Any, Self

from qpu.core.isa import Isa
from qpu.errors import Diagnostic, Loc, UsageError, counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["UNIFORM_KINDS", "Code"]

UNIFORM_KINDS = ("ptr", "f32", "i32", "u32")

LocLike = Loc | tuple[Any, int] | None


@dataclass(slots=True, eq=False, weakref_slot=True)
class Code:
    """A program of one instruction set.

    code: the 64-bit words. labels: name -> instruction index. locs: one source location per word, or empty; builders
    store ``(code object, line)`` pairs, which `loc()` converts to `Loc` on demand.
    warnings: warnings of the text assembler. uniforms: name and kind (`UNIFORM_KINDS`) of each word of the uniform
    stream, where the program declares them.
    """

    isa: Isa
    code: tuple[int, ...]
    labels: dict[str, int] = field(default_factory=dict)
    locs: Sequence[LocLike] = ()
    warnings: tuple[Diagnostic, ...] = ()
    uniforms: tuple[tuple[str, str], ...] | None = None

    @classmethod
    def of_words(cls, isa: Isa, words: Iterable[int]) -> Self:
        """The program of given 64-bit words. Raises: UsageError."""
        try:
            values = tuple(as_integer(word) for word in words)
        except TypeError as error:
            raise UsageError(str(error), help="pass a builder function, text, or integers of 64 bits") from None
        for index, word in enumerate(values):
            if not 0 <= word < 1 << 64:
                raise UsageError(f"word {index} is {word:#x}", help="pass instruction words: 0..2**64-1")
        return cls(isa, values)

    def __reduce__(self) -> tuple[object, ...]:
        """A program is data: a pickled one has its words, labels and source lines, without Python's code objects."""
        locs = tuple(loc if loc is None or isinstance(loc, Loc) else self.loc(i) for i, loc in enumerate(self.locs))
        return type(self), (self.isa, self.code, self.labels, locs, self.warnings, self.uniforms)

    def __len__(self) -> int:
        return len(self.code)

    def __iter__(self) -> Iterator[int]:
        return iter(self.code)

    @property
    def words(self) -> NDArray[np.uint64]:
        """The words as a new array, shape (len,), uint64."""
        import numpy as np

        return np.array(self.code, np.uint64)

    @property
    def data(self) -> bytes:
        """The words as bytes, little-endian, as the GPU fetches them."""
        return b"".join(w.to_bytes(8, "little") for w in self.code)

    def loc(self, index: int) -> Loc | None:
        """The source location of instruction `index`; None when it is not known."""
        if not 0 <= index < len(self.locs):
            return None
        place = self.locs[index]
        if place is None or isinstance(place, Loc):
            return place
        code, line = place
        return Loc(code.co_filename, line)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.isa} {counted(len(self.code), 'instruction')}>"
