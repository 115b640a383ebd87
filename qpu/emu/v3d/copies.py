"""Copies of pages that the uniform streams of a dispatch read, so that streams see memory as it was at the start.

The compiled engine uses them; `qpu.emu.v3d.uniforms` decides which pages need a copy.
"""

from __future__ import annotations

from itertools import islice
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.v3d.translate_state import Control

__all__ = ["Copies", "Lender"]

U32: TypeAlias = NDArray[np.uint32]
ROOM, MOST_ROOM = 64, 1 << 14  # pages: initial room for copies, and the most that is added at a time


class Lender(Protocol):
    """The owner of the large arrays that dispatches reuse."""

    room: U32 | None

    def take_table(self) -> NDArray[np.uint64]: ...
    def take_room(self, pages: int) -> U32: ...
    def return_table(self, table: NDArray[np.uint64]) -> None: ...


class Copies:
    """Copies of pages, made by translated code or by the host before the first store of the dispatch to the page."""

    def __init__(self, machine: Lender, known: dict[int, U32]) -> None:
        self._machine = machine
        self._known = known  # page -> words: the copies that the host reads
        self.table = machine.take_table()  # page -> host address: the copies that translated code reads
        self.control = np.zeros(int(Control.WORDS), np.uint64)
        self._entered = 0  # entries of `known` that are in the table
        self._noted = 0  # pages of the room that are in `known`
        self._room = ROOM
        self._supply()

    def _supply(self) -> None:
        self._pool = self._machine.take_room(self._room)
        self._room = len(self._pool)
        self._pages = np.zeros(self._room, np.uint32)
        self._noted = 0
        self.control[Control.USED] = 0
        self.control[Control.ROOM] = self._room
        self.control[Control.POOL] = self._pool.ctypes.data
        self.control[Control.PAGES] = self._pages.ctypes.data

    def note(self) -> None:
        """Record the pages that translated code copied; add room when it is used up."""
        used = min(int(self.control[Control.USED]), self._room)
        for i in range(self._noted, used):
            self._known[int(self._pages[i])] = self._pool[i]
        self._entered += used - self._noted
        self._noted = used
        if int(self.control[Control.USED]) >= self._room:
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
        """Return the arrays at the end of the dispatch."""
        self.note()
        for page in self._known:
            self.table[page] = 0
        self._machine.return_table(self.table)
        self._known.clear()
        self._machine.room = self._pool
