"""Arrays of the compiled engine that one dispatch uses after the other: state blocks, counters, copies of pages.

Making them takes longer than a short dispatch does.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.v3d.copies import Copies
from qpu.emu.v3d.state import UNDEFINED
from qpu.emu.v3d.translate_state import CHAIN_COUNTS, Control, Slot

__all__ = ["REPORTED", "Blocks", "initial_state"]

U32: TypeAlias = NDArray[np.uint32]
LANES = 16
# Number of instructions, from the start of the program, for which it is recorded that an access outside every buffer
# was reported.
REPORTED = 1 << 12
APART = 16  # counters between those of two host threads, so that no cache line belongs to both


def _initial_state() -> U32:
    """The state block of a thread whose registers were never written."""
    state = np.zeros(int(Slot.WORDS), np.uint32)
    state[Slot.RF : Slot.RF + 64 * LANES] = np.concatenate(UNDEFINED[:64])
    state[Slot.ACC : Slot.ACC + 6 * LANES] = np.concatenate(UNDEFINED[64:])
    state[Slot.CONFIG] = 0xFFFFFFFF
    return state


_INITIAL = _initial_state()


def initial_state(uniforms: int, code: int, limit: int) -> U32:
    """The state block of a thread that starts, without payload. limit: results that its FIFO holds."""
    state = _INITIAL.copy()
    state[Slot.UNIFORM] = uniforms
    state[Slot.CODE] = code
    state[Slot.LIMIT] = limit
    return state


class _Line:
    """The arguments of one call by a host thread: state blocks to run, and the reasons for which they stopped."""

    __slots__ = ("order", "order_at", "reasons", "reasons_at")

    def __init__(self, capacity: int) -> None:
        self.order = np.zeros(capacity, np.uint64)
        self.reasons = np.zeros(capacity, np.int32)
        self.order_at, self.reasons_at = int(self.order.ctypes.data), int(self.reasons.ctypes.data)


class Blocks:
    """The arrays of a dispatch with up to `capacity` threads.

    states, wide: a state block for each thread, as 32 and 64 bits; pointers: their host addresses. lines: one for each
    host thread. last_on: the thread that ran last on each QPU. resumed: whether the last stop of a thread was a switch.
    """

    def __init__(self, capacity: int, qpus: int, workers: int, pages: int) -> None:
        size = int(Slot.WORDS)
        raw = np.empty(capacity * size + LANES, np.uint32)  # the block of a thread is filled when it starts
        skew = (-raw.ctypes.data // 4) % LANES
        self.capacity = capacity
        self.states: U32 = raw[skew : skew + capacity * size].reshape(capacity, size)
        self.wide = self.states.view(np.uint64)
        first = int(self.states.ctypes.data)
        self.pointers = np.arange(capacity, dtype=np.uint64) * np.uint64(4 * size) + np.uint64(first)
        self.lines = [_Line(capacity) for _ in range(workers)]
        self.reported = np.zeros(REPORTED, np.uint8)
        self.last_on = np.empty(qpus, np.int64)
        self.resumed = np.empty(capacity, np.bool_)
        self.copies = Copies(pages)
        self._counts = np.zeros((workers, APART), np.int64)
        self._size = 0
        self.counts_at: list[int] = []

    def begin(self, known: dict[int, U32], scratch: NDArray[np.uint8]) -> None:
        """Begin a dispatch. known: as for `Copies.begin`. scratch: the page for accesses outside every buffer."""
        self.copies.begin(known)
        self.last_on.fill(-1)
        self.resumed.fill(False)
        self.reported.fill(0)
        control = self.copies.control
        control[Control.SCRATCH] = scratch.ctypes.data
        control[Control.REPORTED] = self.reported.ctypes.data
        control[Control.INSTRUCTIONS] = REPORTED

    def count(self, chains: int) -> None:
        """Count the executions of so many chains from 0 on, for each host thread at its address in `counts_at`."""
        if self._size != chains:
            workers = len(self._counts)
            self._counts = np.zeros((workers, -(-chains // APART) * APART + APART), np.int64)
            step = self._counts.strides[0]
            self.counts_at = [int(self._counts.ctypes.data) + step * worker for worker in range(workers)]
            self._size = chains
        else:
            self._counts.fill(0)

    def counted(self, stats: NDArray[np.int64]) -> NDArray[np.int64]:
        """What was counted since the last call. stats: as `Program.stats`. Returns: counts as `CHAIN_COUNTS`."""
        if not len(stats):
            return np.zeros(len(CHAIN_COUNTS), np.int64)
        executed = self._counts[:, : self._size].sum(0)
        self._counts.fill(0)
        total: NDArray[np.int64] = executed @ stats
        return total
