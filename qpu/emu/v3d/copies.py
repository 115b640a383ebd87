"""Copies of pages that the uniform streams of a dispatch read, so that streams see memory as it was at the start.

The compiled engine uses them; `qpu.emu.v3d.uniforms` decides which pages need a copy.
"""

from __future__ import annotations

from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.memory import PAGE
from qpu.emu.v3d.translate_state import Control

__all__ = ["Copies"]

U32: TypeAlias = NDArray[np.uint32]
_USED = int(Control.USED)
ROOM, MOST_ROOM = 64, 1 << 14  # pages: initial room for copies, and the most that is added at a time


class Copies:
    """Copies of pages, made by translated code or by the host before the first store of a dispatch to the page.

    pages: pages of the memory. Dispatches use one object after the other.
    """

    def __init__(self, pages: int) -> None:
        self._known: dict[int, U32] = {}  # page -> words: the copies that the host reads
        self.table = np.zeros(pages, np.uint64)  # page -> host address: the copies that translated code reads
        self.control = np.zeros(int(Control.WORDS), np.uint64)
        self._entered = 0  # entries of `known` that are in the table
        self._noted = 0  # pages of the room that are in `known`
        self._room = ROOM
        self._supply()

    def _supply(self) -> None:
        self._pool = np.empty((self._room, PAGE // 4), np.uint32)
        self._pages = np.zeros(self._room, np.uint32)
        self._address = int(self._pool.ctypes.data), int(self._pages.ctypes.data)
        self._offer()

    def _offer(self) -> None:
        """Let translated code use the room."""
        self._noted = 0
        self.control[:4] = 0, self._room, *self._address  # USED, ROOM, POOL, PAGES

    def begin(self, known: dict[int, U32]) -> None:
        """Begin a dispatch. known: the copies that the host reads, by page; empty."""
        self._known = known
        self._entered = 0
        self._offer()

    def note(self) -> None:
        """Record the pages that translated code copied; add room when it is used up."""
        wanted = int(self.control[_USED])
        if not wanted:
            return
        used = min(wanted, self._room)
        for i in range(self._noted, used):
            self._known[int(self._pages[i])] = self._pool[i]
        self._entered += used - self._noted
        self._noted = used
        if wanted >= self._room:
            self._room = min(4 * self._room, MOST_ROOM)
            self._supply()

    def enter(self) -> bool:
        """Enter new copies that the host made in the table; returns whether there were any."""
        fresh = len(self._known) - self._entered
        for page in islice(reversed(self._known), fresh):
            self.table[page] = self._known[page].ctypes.data
        self._entered += fresh
        return bool(fresh)

    def release(self) -> None:
        """End the dispatch: no page has a copy any more."""
        self.note()
        for page in self._known:
            self.table[page] = 0
        self._known.clear()
