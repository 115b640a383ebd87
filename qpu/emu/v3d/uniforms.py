"""Uniform and unifa fetches of V3D, which read memory as it was when the dispatch started.

Hardware fetches them through a separate cache, and the hardware tests assert the stale value (`test_tmu.py` of
py-videocore6 and py-videocore7, read-write-uniform case). So a page is copied before its first store of the dispatch.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.memory import PAGE, Memory

__all__ = ["Snapshot", "uses_side_streams"]

U32: TypeAlias = NDArray[np.uint32]
_SHIFT = PAGE.bit_length() - 1
_COPIED = 2  # a value of `kept`; 0: to be copied before the first store, 1: never read by a stream
_SCAN = 1 << 15  # instructions that are searched; longer code is assumed to use all streams


def uses_side_streams(memory: Memory, code: int) -> bool:
    """Whether the code may fetch uniforms outside the region in which its uniform stream starts.

    The function searches the rest of the code's region for unifa loads and branches that move the uniform stream. Data
    after the code can cause a false True, never a false False.
    """
    region = memory.region_at(code)
    if region is None:
        return True
    count = (region.end - code) // 8
    if count > _SCAN:
        return True
    words = memory.bytes[code : code + 8 * count].view(np.uint64)
    op_mul = words >> np.uint64(58)
    sig = words >> np.uint64(53) & np.uint64(31)
    unifa = (op_mul != 0) & ((sig == 24) | (sig == 25))
    moves = (op_mul == 0) & (words >> np.uint64(56) & np.uint64(3) == 2) & (words >> np.uint64(14) & np.uint64(1) == 1)
    return bool((unifa | moves).any())


class Snapshot:
    """Memory as it was at the start of a dispatch, for word fetches. The caller checks that addresses are mapped.

    uniforms, code: addresses of the dispatch; they decide which pages streams may read.
    """

    def __init__(self, memory: Memory, uniforms: int, code: int) -> None:
        self._memory = memory
        self.copies: dict[int, U32] = {}
        pages = memory.size >> _SHIFT
        region = memory.region_at(uniforms)
        if region is None or uses_side_streams(memory, code):
            self.kept = np.zeros(pages, np.uint8)
        else:
            self.kept = np.ones(pages, np.uint8)
            self.kept[region.address >> _SHIFT : region.end >> _SHIFT] = 0
        # Code is fetched through a separate cache too: a program that overwrites itself runs the old code.
        home = memory.region_at(code)
        if home is not None:
            self.kept[home.address >> _SHIFT : home.end >> _SHIFT] = 0

    def before_store(self, pages: NDArray[np.integer]) -> None:
        """Copy pages that are about to be written, unless a copy exists. pages: page numbers in any shape."""
        if self.kept.take(pages).all():
            return
        for page in np.unique(pages[self.kept.take(pages) == 0]).tolist():
            start = page << (_SHIFT - 2)
            self.copies[page] = self._memory.words[start : start + PAGE // 4].copy()
            self.kept[page] = _COPIED

    def word(self, address: int) -> int:
        """The 32-bit word at a 4-byte aligned, mapped address."""
        copy = self.copies.get(address >> _SHIFT)
        if copy is None:
            return int(self._memory.words[address >> 2])
        return int(copy[(address & (PAGE - 1)) >> 2])

    def words(self, addresses: U32) -> U32:
        """The words at 4-byte aligned, mapped addresses."""
        if not self.copies:
            return self._memory.words.take(addresses >> np.uint32(2))
        found = self._memory.words.take(addresses >> np.uint32(2))
        stale = self.kept.take(addresses >> np.uint32(_SHIFT)) == _COPIED
        if stale.any():
            found[stale] = [self.word(a) for a in addresses[stale].tolist()]
        return found
