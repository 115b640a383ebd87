"""The GPU-visible memory of an emulated board: one flat reservation on the host, regions in it, bounds by page."""

from __future__ import annotations

import gc
import mmap
import os
import sys
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["ID_SHIFT", "LIMIT_MASK", "PAGE", "Memory", "Region"]

PAGE = 4096  # bytes of a page of the V3D MMU, also where Linux has 16 KiB pages (drivers.md 1.5)
# An entry of the page table: the number of the region << ID_SHIFT | bytes of the page that programs may access.
ID_SHIFT = 13
LIMIT_MASK = (1 << ID_SHIFT) - 1
_INSIDE, _LIMIT, _ONE, _THREE = np.uint32(PAGE - 1), np.uint32(LIMIT_MASK), np.uint32(1), np.uint32(3)
_MAX_ID = (1 << (32 - ID_SHIFT)) - 1
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # in `mmap` only with newer Pythons


@dataclass(slots=True, eq=False)
class Region:
    """Memory mapped for the GPU: [address, address + size), page aligned. `id` is its number in the page table.

    used: bytes from the start that programs may access. private: only uniform streams and instruction fetch may read
    it. streams: address and bytes of each uniform stream in it, where they are known. fresh: the CPU has not accessed
    it since it was allocated, so that only what the GPU stored has a meaning. discarded: nobody reads it.
    """

    id: int
    address: int
    size: int
    name: str
    used: int = -1
    private: bool = False
    fresh: bool = False
    discarded: bool = False
    streams: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.used < 0:
            self.used = self.size

    @property
    def end(self) -> int:
        """The first address after the region."""
        return self.address + self.size

    @property
    def last(self) -> int:
        """The last address that programs may access; that of the region where they may access none."""
        return self.address + (self.used or self.size) - 1


class Memory:
    """The GPU's address space: the byte at GPU address A is `bytes[A]`.

    size: bytes of the window, a power of two; it is smaller on hosts that cannot reserve that much.
    shared: the memory is a memory file, whose descriptor `fd` other processes can map (Linux only).
    pages: an entry for each page, 0 where nothing is mapped. Bounds are those of whole pages, as of the MMU
    (drivers.md 1.3), unless `limit`, `reserve` or `place_streams` say more.
    """

    def __init__(self, size: int = 1 << 32, *, shared: bool = False) -> None:
        if sys.maxsize < 1 << 33 and size > 1 << 30:  # a Pi 0-3, whose memory has fixed places, gets its 1 GiB
            size = 1 << 29
        self.fd = -1
        collected = False
        while True:
            try:
                self._map = self._reserve(size, shared)
                break
            except (OSError, ValueError, OverflowError):
                if not collected:  # 32-bit processes have room for few boards: closed ones may wait for the collector
                    collected = True
                    gc.collect()
                    continue
                if size <= 1 << 26:
                    raise
                size >>= 1
        self.size = size
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.words: NDArray[np.uint32] = self.bytes.view(np.uint32)
        self.pointer: int = self.bytes.ctypes.data
        self.pages: NDArray[np.uint32] = np.zeros(size // PAGE, np.uint32)
        self._regions: dict[int, Region] = {}
        self._starts: list[tuple[int, int]] = []  # (address, id), sorted
        self._next = 1
        self._free: list[int] = []  # numbers of unmapped regions, for when `_next` has reached the largest number

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
        if self._next <= _MAX_ID:
            number, self._next = self._next, self._next + 1
        elif self._free:
            number = self._free.pop(0)
        else:
            raise ValueError(f"{name}: more than {_MAX_ID} regions")
        region = Region(number, address, size, name)
        pages[:] = number << ID_SHIFT | PAGE
        self._regions[region.id] = region
        insort(self._starts, (address, region.id))
        return region

    def unmap(self, region: Region) -> None:
        """Remove a region and release its host memory."""
        del self._regions[region.id]
        self._free.append(region.id)
        self._starts.remove((region.address, region.id))
        self.pages[region.address // PAGE : region.end // PAGE] = 0
        self._discard(region.address, region.size)

    # exact bounds

    def limit(self, address: int, used: int, name: str) -> None:
        """Let programs access only the first `used` bytes of the region that starts at `address`. used: 0 for none."""
        region = self.region_starting(address)
        if region is None:
            return
        region.name, region.used, region.private, region.streams = name, used, False, []
        region.fresh, region.discarded = True, False
        pages = self._pages_of(region)
        whole, rest = divmod(used, PAGE)
        pages[:whole] = region.id << ID_SHIFT | PAGE
        if rest:
            pages[whole] = region.id << ID_SHIFT | rest
        pages[whole + bool(rest) :] = 0

    def expose(self, address: int) -> None:
        """The CPU gets access to the region that starts at `address`: from now on all of it may have been written."""
        region = self.region_starting(address)
        if region is not None:
            region.fresh = False

    def discard(self, address: int) -> None:
        """Nobody reads the region that starts at `address`: the order of stores to it does not matter."""
        region = self.region_starting(address)
        if region is not None:
            region.discarded = True

    def reserve(self, address: int, name: str) -> None:
        """Let only streams and instruction fetch access the region that starts at `address`."""
        region = self.region_starting(address)
        if region is not None:
            region.name, region.used, region.private, region.streams = name, 0, True, []
            self._pages_of(region)[:] = region.id << ID_SHIFT

    def place_streams(self, address: int, streams: Sequence[tuple[int, int]]) -> None:
        """Let only streams read the region that starts at `address`: the pages of `streams`, which end with a page.

        streams: address and bytes of each; the page after it must belong to no other.
        """
        region = self.region_starting(address)
        if region is None or (region.private and region.streams and region.streams == streams):
            return  # many launches place their streams as the one before
        region.name, region.used, region.private, region.streams = "uniforms", 0, True, list(streams)
        pages = self._pages_of(region)
        pages[:] = 0
        for start, size in streams:
            end = (start + size - region.address) // PAGE
            pages[min((start - region.address) // PAGE, end - 1) : end] = region.id << ID_SHIFT

    def region_starting(self, address: int) -> Region | None:
        """The region that starts at an address."""
        at = bisect_right(self._starts, (address, 1 << 62)) - 1
        found = None if at < 0 else self._regions[self._starts[at][1]]
        return found if found is not None and found.address == address else None

    def _pages_of(self, region: Region) -> NDArray[np.uint32]:
        return self.pages[region.address // PAGE : region.end // PAGE]

    def stream_before(self, address: int) -> tuple[int, int] | None:
        """The uniform stream that ends at or shortly before an address: (its start, words); None if there is none."""
        for region in self._regions.values():
            for start, size in region.streams:
                if start + size <= address < start + size + PAGE:
                    return start, size // 4
        return None

    # look-ups

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
        return self._regions.get(int(self.pages[address // PAGE]) >> ID_SHIFT)

    def nearest(self, address: int) -> tuple[Region, int] | None:
        """The region nearest to `address` and the distance to it: bytes past its end (>0) or before its start (<0)."""
        if not self._starts:
            return None
        at = bisect_right(self._starts, (address, 1 << 62))
        found: list[tuple[Region, int]] = []
        if at:
            region = self._regions[self._starts[at - 1][1]]
            found.append((region, max(0, address - region.last)))
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
        same = (one ^ two) >> np.uint32(ID_SHIFT) == 0
        return np.asarray(inside & same & (last % np.uint64(PAGE) < two & np.uint32(LIMIT_MASK)))

    def owns(self, address: int, size: int) -> bool:
        """Whether one access [address, address + size) lies inside one region."""
        last = address + size - 1
        if address < 0 or last >= self.size:
            return False
        one, two = int(self.pages[address // PAGE]), int(self.pages[last // PAGE])
        return not (one ^ two) >> ID_SHIFT and last % PAGE < two & LIMIT_MASK

    def fetched(self, address: int) -> bool:
        """Whether a stream can read the word at an aligned address."""
        if not 0 <= address < self.size:
            return False
        entry = int(self.pages[address // PAGE])
        return bool(entry) and address % PAGE + 4 <= (entry & LIMIT_MASK or PAGE)

    def fetchable(self, addresses: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """For each aligned address whether a stream can read the word there."""
        inside = addresses <= np.uint32(self.size - 4)
        entries = self.pages[np.where(inside, addresses, np.uint32(0)) // np.uint32(PAGE)]
        # Of pages that only streams read (limit 0) every word counts: 0 - 1 is the largest limit.
        last = (entries - np.uint32(1)) & np.uint32(LIMIT_MASK)
        return np.asarray(inside & (entries != 0) & (addresses % np.uint32(PAGE) + np.uint32(3) <= last))

    def all_fetchable(self, addresses: NDArray[np.uint32]) -> bool:
        """Whether streams can read the words at all of these aligned addresses."""
        try:
            entries = self.pages.take((addresses >> np.uint32(12)).astype(np.intp))
        except IndexError:
            return False
        if not (entries & _INSIDE).any():  # whole pages, and pages that only streams read
            return bool(entries.all())
        last = (entries - _ONE) & _LIMIT
        return bool(((addresses & _INSIDE) + _THREE <= last).all() and entries.all())

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
