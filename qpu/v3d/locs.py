"""Source places of a builder's instructions."""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType
from typing import overload

from qpu.errors import Loc
from qpu.v3d.operands import Place

__all__ = ["Locs"]


class Locs(Sequence["Place | None"]):
    """Source places of a builder's instructions: kept as bytecode offsets, turned into lines when asked for."""

    __slots__ = ("_lines", "_raw")

    def __init__(self, raw: Sequence[Place]) -> None:
        self._raw = raw
        self._lines: dict[CodeType, dict[int, int]] = {}

    def __len__(self) -> int:
        return len(self._raw)

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Place | None]: ...
    def __getitem__(self, index: int | slice) -> Place | Sequence[Place | None]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        code, offset = self._raw[index]
        lines = self._lines.get(code)
        if lines is None:
            lines = {}
            for start, end, line in code.co_lines():
                if line is not None:
                    for at in range(start, end, 2):
                        lines[at] = line
            self._lines[code] = lines
        return code, lines.get(offset, code.co_firstlineno)

    def loc(self, index: int) -> Loc:
        """The place of instruction `index`."""
        code, line = self[index]
        return Loc(code.co_filename, line)
