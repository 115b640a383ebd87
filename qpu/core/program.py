"""A program: words, where each came from, its labels, and how it shows itself."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qpu.core.isa import Isa
from qpu.errors import Diagnostic, Loc

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qpu.core.hazards import Finding

__all__ = ["Program", "program_at"]

LocLike = Loc | tuple[Any, int] | None

# Programs that know their source and are alive, by age: an emulated board names the line of a fault from them.
_located: weakref.WeakValueDictionary[int, Program] = weakref.WeakValueDictionary()
_ages = itertools.count()


@dataclass(slots=True, eq=False, weakref_slot=True)
class Program:
    """Instructions of one instruction set, ready to launch.

    code: the 64-bit words. labels: name -> instruction index. locs: one source place a word, or empty; builders
    store ``(code object, line)`` pairs, which `loc()` turns into `Loc` when somebody asks.
    warnings: what the text assembler remarked without refusing the text.
    """

    isa: Isa
    code: tuple[int, ...]
    labels: dict[str, int] = field(default_factory=dict)
    locs: Sequence[LocLike] = ()
    warnings: tuple[Diagnostic, ...] = ()

    def __post_init__(self) -> None:
        if len(self.locs):
            _located[next(_ages)] = self

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
        """Source place of instruction `index`; None when the program does not know."""
        if not 0 <= index < len(self.locs):
            return None
        place = self.locs[index]
        if place is None or isinstance(place, Loc):
            return place
        code, line = place
        return Loc(code.co_filename, line)

    @property
    def text(self) -> str:
        """Disassembly, one instruction a line; labels stand on lines of their own."""
        from qpu.instruction_sets import isa

        return isa(self.isa).listing(self)

    def check(self, *, single_segment: bool = False) -> list[Finding]:
        """All hazard and validity findings, in program order. single_segment: V3D launch mode."""
        from qpu.instruction_sets import isa

        return list(isa(self.isa).check(self.code, single_segment=single_segment))

    def __repr__(self) -> str:
        return f"<Program {self.isa} {len(self.code)} instructions>"

    def _repr_html_(self) -> str:
        from qpu.display.program import program_html

        return program_html(self)


def program_at(isa: Isa, read: Callable[[int], bytes]) -> Program | None:
    """The latest program with source places whose words lie in memory, however they came there.

    read: the first n bytes of the code; fewer where memory ends.
    """
    for _, program in sorted(_located.items(), reverse=True):
        if program.isa is isa and program.data == read(8 * len(program)):
            return program
    return None
