"""The first-fit allocator of physical memory on an emulated VideoCore IV board, for firmware and contiguous memory."""

from __future__ import annotations

import mmap

from qpu.emu.engine.memory import PAGE, Memory, Region

__all__ = ["Heap"]


class Heap:
    """An allocator of page-aligned regions in [base, base + size) of the address window."""

    def __init__(self, memory: Memory, base: int, size: int) -> None:
        self.memory = memory
        self.base = base
        self.size = size
        self.regions: list[Region] = []  # by address

    def allocate(self, size: int, alignment: int, name: str) -> Region | None:
        """A zero-filled region of `size` bytes, a multiple of the page size; None when there is no room.

        If there is room, a page stays free after each region, so that an access past its end does not reach another.
        """
        step = max(PAGE, alignment, mmap.ALLOCATIONGRANULARITY)
        if alignment > 1 and step % alignment:
            return None
        for gap in (PAGE, 0):
            at = self._fit(size, step, gap)
            if at is not None:
                region = self.memory.map(at, size, name)
                self.regions.append(region)
                self.regions.sort(key=lambda r: r.address)
                return region
        return None

    def _fit(self, size: int, step: int, gap: int) -> int | None:
        at = (self.base + step - 1) // step * step
        for region in self.regions:
            if at + size + gap <= region.address:
                return at
            at = (region.end + gap + step - 1) // step * step
        return at if at + size <= self.base + self.size else None

    def free(self, region: Region) -> None:
        """Free a region."""
        self.regions.remove(region)
        self.memory.unmap(region)

    def holds(self, address: int, size: int) -> bool:
        """Whether [address, address + size) belongs to this heap, allocated or not."""
        return self.base <= address and address + size <= self.base + self.size
