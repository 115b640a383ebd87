"""Uniform and unifa fetches of V3D, which see memory as it was when the dispatch started.

They are fetched through a cache of their own, and the hardware tests assert the stale value (`test_tmu.py` of
py-videocore6 and py-videocore7, read-write-uniform case). So a page is copied at its first store of the dispatch.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.memory import PAGE, Memory

__all__ = ["Snapshot", "uses_side_streams"]

U32: TypeAlias = NDArray[np.uint32]
_SHIFT = PAGE.bit_length() - 1
_COPIED = 2  # in `kept`; 0: to be copied before the first store, 1: never needed
_SCAN = 1 << 15  # instructions that are searched; longer code counts as using everything


def uses_side_streams(memory: Memory, code: int) -> bool:
    """Whether code at `code` may fetch uniforms from elsewhere than the region its stream starts in.

    Looks for unifa loads and branches that move the uniform stream in the rest of the code's region; data after the
    code can cause a false True, never a false False.
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
    """Memory as of the start of a dispatch, for word fetches. The caller checks that addresses are mapped.

    uniforms, code: addresses of the dispatch; they limit which pages may be read.
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
        # Code is fetched through a cache of its own too; a program that overwrites itself runs the old code.
        home = memory.region_at(code)
        if home is not None:
            self.kept[home.address >> _SHIFT : home.end >> _SHIFT] = 0

    def before_store(self, pages: NDArray[np.integer]) -> None:
        """Copy pages (any shape) that are about to be written, unless a copy exists."""
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
