"""First-fit allocation of physical memory on an emulated VideoCore IV board."""

from __future__ import annotations

import mmap

from qpu.emu.engine.memory import PAGE, Memory, Region

__all__ = ["Heap"]


class Heap:
    """Memory in [base, base + size) of the address window, given out in page-aligned regions."""

    def __init__(self, memory: Memory, base: int, size: int) -> None:
        self.memory = memory
        self.base = base
        self.size = size
        self.regions: list[Region] = []  # by address

    def allocate(self, size: int, alignment: int, name: str) -> Region | None:
        """A zero-filled region of `size` bytes (a page multiple), None when there is no room.

        While there is room a page stays free behind each region, so that running over an end hits nothing else.
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
        """Give a region back."""
        self.regions.remove(region)
        self.memory.unmap(region)

    def holds(self, address: int, size: int) -> bool:
        """True when [address, address + size) belongs to this heap, allocated or not."""
        return self.base <= address and address + size <= self.base + self.size
