"""Uniform and unifa fetches of V3D, which read memory as it was when the dispatch started.

Hardware fetches them through a separate cache, and the hardware tests assert the stale value (`test_tmu.py` of
py-videocore6 and py-videocore7, read-write-uniform case). So a page is copied before its first store of the dispatch.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.memory import PAGE, Memory, Region
from qpu.v3d.regs import SIGNAL_ROWS, SIGNALS

__all__ = ["COPIED", "FREE", "NEVER", "Snapshot", "uses_side_streams"]

U32: TypeAlias = NDArray[np.uint32]
_SHIFT = PAGE.bit_length() - 1
# Values of `Snapshot.kept`. Most pages are never read by a stream; `NEVER` is 0, so that a zero-filled array needs
# no initialisation.
NEVER, COPIED, FREE = 0, 1, 2  # FREE: to be copied before the first store
_SEARCHED = 64
_searched: dict[int, tuple[bytes, bool]] = {}  # by address: the code that was last there, whether it uses side streams
_SCAN = 1 << 15  # instructions that are searched; longer code is assumed to use all streams


def uses_side_streams(memory: Memory, code: int) -> bool:
    """Whether the code may fetch uniforms outside the region in which its uniform stream starts.

    The function searches the rest of the code's region for unifa loads and branches that move the uniform stream. Data
    after the code can cause a false True, never a false False.
    """
    return _uses_side_streams(memory, code, memory.region_at(code))


def _uses_side_streams(memory: Memory, code: int, region: Region | None) -> bool:
    if region is None or (count := (region.end - code) // 8) > _SCAN:
        return True
    words = memory.bytes[code : code + 8 * count].tobytes()
    known = _searched.get(code)
    if known is None or known[0] != words:
        if len(_searched) >= _SEARCHED:
            _searched.clear()
        known = _searched[code] = words, _finds_side_streams(words)
    return known[1]


def _finds_side_streams(code: bytes) -> bool:
    words = np.frombuffer(code, np.uint64)
    unifa = _UNIFA[words >> np.uint64(53) & np.uint64(31)] & (words >= _ALU)
    moves = words & _BRANCH_UB == _MOVES
    return bool((unifa | moves).any())


# Whether a set of signals loads from the unifa stream, by number; of either chip, as the code may be for both.
_LOADS = sum(row.bit for row in SIGNAL_ROWS if row.stream == "unifa")
_UNIFA = np.array([any((sig or 0) & _LOADS for sig in sets) for sets in zip(*SIGNALS.values(), strict=True)])
# Instruction words: an ALU instruction, whose operation is not 0, and the fields of a branch with ub.
_ALU, _BRANCH_UB, _MOVES = np.uint64(1 << 58), np.uint64(0xFF << 56 | 1 << 14), np.uint64(2 << 56 | 1 << 14)
# Arrays for `Snapshot.kept`, each up to a MiB, their host addresses, and the pages that are not NEVER.
_spare: list[tuple[NDArray[np.uint8], int, list[slice]]] = []


def _take(pages: int, marked: list[slice]) -> tuple[NDArray[np.uint8], int]:
    """An array of `pages` in which all but those that are marked are NEVER, and its address."""
    if not _spare or len(_spare[-1][0]) != pages:
        kept = np.zeros(pages, np.uint8)
        return kept, int(kept.ctypes.data)
    kept, at, before = _spare.pop()
    if before != marked:
        for part in before:
            kept[part] = NEVER
    return kept, at


class Snapshot:
    """Memory as it was at the start of a dispatch, for word fetches. The caller checks that addresses are mapped.

    uniforms, code: addresses of the dispatch; they decide which pages streams may read. kept_at: host address of
    `kept`.
    """

    def __init__(self, memory: Memory, uniforms: int, code: int) -> None:
        self._memory = memory
        self.copies: dict[int, U32] = {}
        pages = memory.size >> _SHIFT
        region = memory.region_at(uniforms) or memory.region_at(uniforms - 1)  # a stream without words ends its page
        self._marked: list[slice] = []  # pages that were FREE at the start
        home = memory.region_at(code)
        self._reusable = region is not None and not _uses_side_streams(memory, code, home)
        if region is None or not self._reusable:
            self.kept = np.full(pages, FREE, np.uint8)
            self.kept_at = int(self.kept.ctypes.data)
        else:
            self._marked.append(slice(region.address >> _SHIFT, region.end >> _SHIFT))
        # Code is fetched through a separate cache too: a program that overwrites itself runs the old code.
        if home is not None:
            self._marked.append(slice(home.address >> _SHIFT, home.end >> _SHIFT))
        if self._reusable:
            self.kept, self.kept_at = _take(pages, self._marked)
        for part in self._marked:
            self.kept[part] = FREE

    def release(self) -> None:
        """End the dispatch: keep the array for a later one. Only `_marked` pages are not NEVER."""
        if self._reusable and len(_spare) < 4:
            _spare.append((self.kept, self.kept_at, self._marked))
        self._reusable = False

    def before_store(self, pages: NDArray[np.integer]) -> None:
        """Copy pages that are about to be written, unless a copy exists. pages: page numbers in any shape."""
        free = self.kept.take(pages.astype(np.intp)) == FREE
        if not free.any():
            return
        for page in np.unique(pages[free]).tolist():
            start = page << (_SHIFT - 2)
            self.copies[page] = self._memory.words[start : start + PAGE // 4].copy()
            self.kept[page] = COPIED

    def word(self, address: int) -> int:
        """The 32-bit word at a 4-byte aligned, mapped address."""
        copy = self.copies.get(address >> _SHIFT)
        if copy is None:
            return int(self._memory.words[address >> 2])
        return int(copy[(address & (PAGE - 1)) >> 2])

    def words(self, addresses: U32) -> U32:
        """The words at 4-byte aligned, mapped addresses."""
        if not self.copies:
            return self._memory.words.take((addresses >> np.uint32(2)).astype(np.intp))
        found = self._memory.words.take((addresses >> np.uint32(2)).astype(np.intp))
        stale = self.kept.take((addresses >> np.uint32(_SHIFT)).astype(np.intp)) == COPIED
        if stale.any():
            found[stale] = [self.word(a) for a in addresses[stale].tolist()]
        return found
