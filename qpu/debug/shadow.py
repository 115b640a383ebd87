"""Shadow memory of the sanitizer: what was written, by which thread and when, as NumPy arrays beside the memory.

Times are vector clocks: thread t knows of the events of thread u up to ``clocks[t, u]``. An access is an *epoch*,
thread << 24 | clock of the thread; it comes before an access of thread t if ``clocks[t, thread] >= clock``. Each word
has the epoch of its last store and of the last loads of two threads, so a conflict with a third reader can be missed,
but nothing is reported that is ordered.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clocks", "Conflict", "Epochs", "Ints"]

Ints: TypeAlias = NDArray[np.int64]
U32: TypeAlias = NDArray[np.uint32]
_CLOCK = np.uint32(0xFFFFFF)
_SHIFT = np.uint32(24)
MOST_THREADS = 255


class Clocks:
    """Vector clocks of `n` threads, and of what passes them on: locks, semaphores, barriers, words of atomics."""

    def __init__(self, n: int) -> None:
        self.now: Ints = np.zeros((n, n), np.int64)
        self.now[np.arange(n), np.arange(n)] = 1
        self._passed: dict[object, Ints] = {}

    def tags(self, threads: Ints, later: int = 0) -> U32:
        """Epochs of accesses by `threads` now. later: ticks that must pass first, for accesses that end later."""
        return (threads << 24 | (self.now[threads, threads] + later) & 0xFFFFFF).astype(np.uint32)

    def unordered(self, threads: Ints, epochs: U32) -> NDArray[np.bool_]:
        """For each thread whether the epoch (0: none) is not known to come before now."""
        known = self.now[threads, epochs >> _SHIFT]
        return np.asarray((epochs != 0) & (known < (epochs & _CLOCK)))

    def tick(self, t: int) -> None:
        """Later accesses of thread `t` are not known to those who know of it now."""
        self.now[t, t] += 1

    def fresh(self, t: int) -> None:
        """Thread `t` starts another program: it knows of nothing but its own past."""
        own = self.now[t, t] + 1
        self.now[t] = 0
        self.now[t, t] = own

    def release(self, t: int, what: object) -> None:
        """Those who acquire `what` later know what `t` knows now."""
        passed = self._passed.get(what)
        self._passed[what] = self.now[t].copy() if passed is None else np.maximum(passed, self.now[t])
        self.tick(t)

    def acquire(self, t: int, what: object) -> None:
        """Thread `t` learns what those knew who released `what`."""
        passed = self._passed.get(what)
        if passed is not None:
            np.maximum(self.now[t], passed, out=self.now[t])

    def meet(self, threads: list[int]) -> None:
        """All threads learn what each of them knows: a barrier."""
        self.now[threads] = self.now[threads].max(axis=0)
        for t in threads:
            self.tick(t)


class Conflict:
    """A conflict. at: number of the access in the request. thread, place, wrote: of the other access."""

    __slots__ = ("at", "place", "thread", "wrote")

    def __init__(self, at: int, epoch: int, place: int, wrote: bool) -> None:
        self.at, self.thread, self.place, self.wrote = at, epoch >> 24, place, wrote


class Epochs:
    """Epochs and places of the last accesses of each of `n` cells. Places are numbers below 2**32."""

    def __init__(self, n: int, clocks: Clocks) -> None:
        self.clocks = clocks
        self._store, self._store_at = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
        self._one, self._one_at = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
        self._two, self._two_at = np.zeros(n, np.uint32), np.zeros(n, np.uint32)

    def load(self, cells: Ints, threads: Ints, places: U32, later: int = 0) -> Conflict | None:
        """Record loads; the first conflict with a store. All arguments have one shape; threads ascend."""
        stores = self._store.take(cells)
        found = self._first(stores, self._store_at, cells, threads, True)
        tags = self.clocks.tags(threads, later)
        old, old_at = self._one.take(cells), self._one_at.take(cells)
        # Several threads may load a cell in one request: the first and the last of them are kept.
        self._one[cells[::-1]], self._one_at[cells[::-1]] = tags[::-1], places[::-1]
        first, first_at = self._one.take(cells), self._one_at.take(cells)
        self._one[cells], self._one_at[cells] = tags, places
        last = self._one.take(cells)
        several = (first ^ last) >> _SHIFT != 0
        other = (old ^ last) >> _SHIFT != 0
        second = np.where(several, first, np.where(other, old, self._two.take(cells)))
        self._two_at[cells] = np.where(several, first_at, np.where(other, old_at, self._two_at.take(cells)))
        self._two[cells] = second
        return found

    def store(
        self, cells: Ints, threads: Ints, places: U32, harmless: NDArray[np.bool_], later: int = 0
    ) -> Conflict | None:
        """Record stores; the first conflict. harmless: the store does not change the cell."""
        found = None
        if not harmless.all():
            for epochs, at, wrote in (
                (self._store, self._store_at, True),
                (self._one, self._one_at, False),
                (self._two, self._two_at, False),
            ):
                found = found or self._first(epochs.take(cells), at, cells, threads, wrote, ~harmless)
        tags = self.clocks.tags(threads, later)
        self._store[cells[::-1]], self._store_at[cells[::-1]] = tags[::-1], places[::-1]
        first, first_at = self._store.take(cells), self._store_at.take(cells)
        self._store[cells], self._store_at[cells] = tags, places
        clash = ((first ^ tags) >> _SHIFT != 0) & ~harmless
        if found is None and clash.any():
            n = int(np.flatnonzero(clash)[0])
            found = Conflict(n, int(first[n]), int(first_at[n]), True)
        self._one[cells] = self._two[cells] = 0
        return found

    def _first(
        self,
        epochs: U32,
        places: U32,
        cells: Ints,
        threads: Ints,
        wrote: bool,
        counted: NDArray[np.bool_] | None = None,
    ) -> Conflict | None:
        if not epochs.any():
            return None
        bad = self.clocks.unordered(threads, epochs)
        if counted is not None:
            bad &= counted
        if not bad.any():
            return None
        at = int(np.flatnonzero(bad)[0])
        return Conflict(at, int(epochs[at]), int(places[cells[at]]), wrote)
