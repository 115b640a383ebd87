"""Shadow of GPU memory: which bytes were written, and the accesses of the current launch."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.debug.shadow import Clocks, Epochs, Ints
from qpu.emu.engine.memory import Memory, Region
from qpu.errors import counted

__all__ = ["ShadowMemory"]

U32: TypeAlias = NDArray[np.uint32]
_WRITTEN = {1: 0x01, 2: 0x0101, 4: 0x01010101}


class ShadowMemory:
    """The sanitizer's knowledge of the memory of a board.

    Bytes of a buffer count as written when the GPU stored them, or when the CPU has had access to the buffer: only
    buffers that `Device.empty` made and that nobody has looked into can be unwritten.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._base = 0
        self._written: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._known: dict[int, Region] = {}
        self._clocks = Clocks(1)
        self._words: Epochs | None = None
        self._bytes: Epochs | None = None

    def begin(self, clocks: Clocks) -> None:
        """A launch starts."""
        self._clocks, self._words, self._bytes = clocks, None, None
        regions = self._memory.regions
        if not regions:
            return
        base, end = regions[0].address, regions[-1].end
        if base < self._base or end > self._base + len(self._written) or not len(self._written):
            old, start = self._written, self._base
            if len(old):
                base, end = min(base, start), max(end, start + len(old))
            self._written = np.zeros(end - base, np.uint8)
            self._written[start - base : start - base + len(old)] = old
            self._base = base
        live = {r.address: r for r in regions}
        for address, region in live.items():
            known = self._known.get(address)
            part = self._written[address - self._base : region.end - self._base]
            if not region.fresh:
                part[:] = 1
            elif known is not region:
                part[:] = 0
        self._known = live

    def written(self, at: U32, size: int) -> None:
        """Stores of `size` bytes at aligned addresses."""
        cells = self._written[: len(self._written) & ~3].view(f"u{size}")
        cells[(at - np.uint32(self._base)) // np.uint32(size)] = _WRITTEN[size]

    def written_at(self, at: U32, size: int) -> NDArray[np.bool_]:
        """For each aligned address whether one of `size` bytes was written: of a word with elements of one or two bytes
        a program may use those that were, and the rest of the last word of a buffer is nobody's."""
        cells = self._written[: len(self._written) & ~3].view(f"u{size}")
        return np.asarray(cells.take(((at - np.uint32(self._base)) // np.uint32(size)).astype(np.intp)) != 0)

    def epochs(self, at: U32, size: int) -> tuple[Epochs, Ints]:
        """The accesses to the words at aligned addresses, or to their bytes, and the numbers of these cells.

        Words and smaller elements are observed apart from each other.
        """
        offset = (at - np.uint32(self._base)).astype(np.intp)
        if size == 4:
            if self._words is None:
                self._words = Epochs(len(self._written) // 4 + 1, self._clocks)
            return self._words, offset >> 2
        if self._bytes is None:
            self._bytes = Epochs(len(self._written) + 1, self._clocks)
        return self._bytes, offset

    def kept(self, address: int) -> bool:
        """Whether anybody reads the buffer at an address."""
        region = self._memory.region_at(address)
        return region is None or not region.discarded

    def where(self, address: int) -> str:
        """An address as a buffer and an offset."""
        region = self._memory.region_at(address)
        return f"0x{address:08x}" if region is None else f"{region.name} + {counted(address - region.address, 'byte')}"

    def value(self, address: int, size: int) -> str:
        """What the memory holds."""
        return f"0x{int.from_bytes(self._memory.view(address, size), 'little'):0{2 * size}x}"
