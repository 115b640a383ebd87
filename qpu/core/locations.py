"""Source locations of builder instructions, recorded cheaply and converted to lines on demand.

A recorded location is the code object and the bytecode offset of the first frame outside the builder's own files
(`LAYERS`); `qpu.kernels` counts as user code. Errors and listings look up the line.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence
from types import CodeType
from typing import Final, TypeAlias, overload

from qpu.errors import Loc

__all__ = ["LAYERS", "LINE_LIMIT", "Place", "Places", "here", "loc_of"]

LAYERS: Final[set[str]] = {__file__}
"""Files of the builders. Every module with builder methods adds its ``__file__``."""

LINE_LIMIT: Final = 4000
"""Characters of code in a line of assembly text. It limits the length of numbers and the nesting, too."""

Place: TypeAlias = tuple[CodeType, int]
"""A code object and an offset into its bytecode."""


def here() -> Place:
    """The place of the call that entered the builder."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename in LAYERS and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def loc_of(place: Place) -> Loc:
    """The source line of a place."""
    code, line = Places([place])[0]
    return Loc(code.co_filename, line)


class Places(Sequence[Place]):
    """The places of a program, one per instruction; items are (code object, line) pairs."""

    __slots__ = ("_lines", "_raw")

    def __init__(self, raw: Sequence[Place]) -> None:
        self._raw = raw
        self._lines: dict[CodeType, tuple[list[int], list[int]]] = {}

    def __len__(self) -> int:
        return len(self._raw)

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Place]: ...
    def __getitem__(self, index: int | slice) -> Place | Sequence[Place]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        code, offset = self._raw[index]
        table = self._lines.get(code)
        if table is None:
            spans = [(start, line) for start, _, line in code.co_lines() if line is not None]
            table = self._lines[code] = ([start for start, _ in spans], [line for _, line in spans])
        starts, lines = table
        at = bisect_right(starts, offset) - 1
        return code, lines[at] if at >= 0 else code.co_firstlineno

    def loc(self, index: int) -> Loc:
        """The source line of instruction `index`."""
        code, line = self[index]
        return Loc(code.co_filename, line)
