"""The GPU-visible memory of an emulated board: one flat reservation on the host, regions in it, bounds by page."""

from __future__ import annotations

import mmap
import os
import sys
from bisect import bisect_right, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PAGE", "Memory", "Region"]

PAGE = 4096  # bytes of a page of the V3D MMU, also where Linux has 16 KiB pages (drivers.md 1.5)
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # in `mmap` only with newer Pythons


@dataclass(slots=True, eq=False)
class Region:
    """Memory mapped for the GPU: [address, address + size), page aligned. `id` is its number in the page table."""

    id: int
    address: int
    size: int
    name: str

    @property
    def end(self) -> int:
        """The first address after the region."""
        return self.address + self.size


class Memory:
    """The GPU's address space: the byte at GPU address A is `bytes[A]`.

    size: bytes of the window, a power of two; it is smaller on hosts that cannot reserve that much.
    shared: the memory is a memory file, whose descriptor `fd` other processes can map (Linux only).
    Source of page-granular bounds: drivers.md 1.3 (MMU).
    """

    def __init__(self, size: int = 1 << 32, *, shared: bool = False) -> None:
        if sys.maxsize < 1 << 33:
            size = min(size, 1 << 29)
        self.fd = -1
        while True:
            try:
                self._map = self._reserve(size, shared)
                break
            except (OSError, ValueError, OverflowError):
                if size <= 1 << 26:
                    raise
                size >>= 1
        self.size = size
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.words: NDArray[np.uint32] = self.bytes.view(np.uint32)
        self.pointer: int = self.bytes.ctypes.data
        self.pages: NDArray[np.uint32] = np.zeros(size // PAGE, np.uint32)  # region id per page, 0 = none
        self._regions: dict[int, Region] = {}
        self._starts: list[tuple[int, int]] = []  # (address, id), sorted
        self._next = 1

    def _reserve(self, size: int, shared: bool) -> mmap.mmap:
        if shared:
            self.fd = os.memfd_create("qpu-gpu-memory", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, size)
            return mmap.mmap(self.fd, size)
        if hasattr(mmap, "MAP_PRIVATE"):
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        return mmap.mmap(-1, size)

    def map(self, address: int, size: int, name: str) -> Region:
        """Map [address, address + size), page aligned, for the GPU, zero-filled. Raises: ValueError when in use."""
        if address % PAGE or size % PAGE or size <= 0 or address < 0 or address + size > self.size:
            raise ValueError(f"{name}: 0x{address:x}+0x{size:x} is not a page range of the window")
        pages = self.pages[address // PAGE : (address + size) // PAGE]
        if pages.any():
            raise ValueError(f"{name}: 0x{address:x}+0x{size:x} overlaps another region")
        region = Region(self._next, address, size, name)
        self._next += 1
        pages[:] = region.id
        self._regions[region.id] = region
        insort(self._starts, (address, region.id))
        return region

    def unmap(self, region: Region) -> None:
        """Remove a region and release its host memory."""
        del self._regions[region.id]
        self._starts.remove((region.address, region.id))
        self.pages[region.address // PAGE : region.end // PAGE] = 0
        self._discard(region.address, region.size)

    def _discard(self, address: int, size: int) -> None:
        advice = getattr(mmap, "MADV_REMOVE" if self.fd >= 0 else "MADV_DONTNEED", None)
        if advice is not None and size >= mmap.PAGESIZE and not (address % mmap.PAGESIZE or size % mmap.PAGESIZE):
            try:
                self._map.madvise(advice, address, size)
                return
            except OSError:
                pass  # a file system without holes: write zeros
        self.bytes[address : address + size] = 0

    @property
    def regions(self) -> list[Region]:
        """All live regions by address."""
        return [self._regions[i] for _, i in self._starts]

    def region_at(self, address: int) -> Region | None:
        """The region that contains `address`; None outside all regions."""
        if not 0 <= address < self.size:
            return None
        return self._regions.get(int(self.pages[address // PAGE]))

    def nearest(self, address: int) -> tuple[Region, int] | None:
        """The region nearest to `address` and the distance to it: bytes past its end (>0) or before its start (<0)."""
        if not self._starts:
            return None
        at = bisect_right(self._starts, (address, 1 << 62))
        found: list[tuple[Region, int]] = []
        if at:
            region = self._regions[self._starts[at - 1][1]]
            found.append((region, max(0, address - region.end + 1)))
        if at < len(self._starts):
            region = self._regions[self._starts[at][1]]
            found.append((region, address - region.address))
        return min(found, key=lambda f: abs(f[1]))

    def legal(self, addresses: NDArray[np.uint32], size: int = 4) -> NDArray[np.bool_]:
        """For each access [a, a + size): whether it lies inside one region. addresses: any shape."""
        first = addresses.astype(np.uint64)
        last = first + np.uint64(size - 1)
        inside = last < np.uint64(self.size)
        top = np.uint64(self.size - 1)
        one = self.pages[np.minimum(first, top) // np.uint64(PAGE)]
        two = self.pages[np.minimum(last, top) // np.uint64(PAGE)]
        return np.asarray(inside & (one != 0) & (one == two))

    def view(self, address: int, size: int) -> memoryview:
        """`size` bytes at `address`, writable."""
        return memoryview(self._map)[address : address + size]

    def close(self) -> None:
        """Release the reservation. Views of it keep it alive."""
        self.bytes = np.zeros(0, np.uint8)  # from now on any use is an IndexError
        self.words = self.pages = np.zeros(0, np.uint32)
        self.pointer = 0
        self._regions.clear()
        self._starts.clear()
        try:
            self._map.close()
        except BufferError:
            pass
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
