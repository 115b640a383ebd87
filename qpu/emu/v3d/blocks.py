"""Arrays of the compiled engine that one dispatch uses after the other: state blocks, counters, copies of pages.

Making them takes longer than a short dispatch does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.emu.engine.memory import PAGE
from qpu.emu.v3d.copies import Copies
from qpu.emu.v3d.dispatch import Dispatch, Start
from qpu.emu.v3d.state import UNDEFINED
from qpu.emu.v3d.translate_state import CHAIN_COUNTS, Control, Slot

__all__ = ["REPORTED", "Blocks", "fill", "kept_block", "part"]

U32: TypeAlias = NDArray[np.uint32]
LANES = 16
# Number of instructions, from the start of the program, for which it is recorded that an access outside every buffer
# was reported.
REPORTED = 1 << 12
_SCRATCH = int(Control.SCRATCH)  # first of three words
APART = 16  # counters between those of two host threads, so that no cache line belongs to both


def _initial_state() -> U32:
    """The state block of a thread whose registers were never written."""
    state = np.zeros(int(Slot.WORDS), np.uint32)
    state[Slot.RF : Slot.RF + 64 * LANES] = np.concatenate(UNDEFINED[:64])
    state[Slot.ACC : Slot.ACC + 6 * LANES] = np.concatenate(UNDEFINED[64:])
    state[Slot.CONFIG] = 0xFFFFFFFF
    return state


_INITIAL = _initial_state()


def part(threads: list[int]) -> slice | list[int]:
    """An index of some threads in ascending order: slices are much faster than lists."""
    first, last = threads[0], threads[-1]
    return slice(first, last + 1) if last - first + 1 == len(threads) else threads


def fill(states: U32, isa: Isa, dispatch: Dispatch, limit: int, started: Sequence[Start], tidx: Sequence[int]) -> None:
    """Make the state blocks of threads that start. limit: results that a FIFO holds. tidx: of each thread."""
    payload = dispatch.payload([s.batch for s in started], [s.supergroup_slot for s in started])
    ids = int(Slot.RF) + LANES * (0 if isa is Isa.V3D42 else 3)
    index, live = int(Slot.RF) + 2 * LANES, int(Slot.MSF)
    states[:] = _INITIAL
    states[:, int(Slot.UNIFORM)] = dispatch.uniforms
    states[:, int(Slot.CODE)] = dispatch.code
    states[:, int(Slot.LIMIT)] = limit
    states[:, ids : ids + LANES] = payload.ids
    states[:, index : index + LANES] = payload.index
    states[:, live : live + LANES] = payload.live
    states[:, int(Slot.TIDX)] = tidx
    states[:, int(Slot.SLOT)] = [s.supergroup_slot for s in started]


@lru_cache(64)
def kept_block(isa: Isa, dispatch: Dispatch, limit: int, started: Start, tidx: int) -> U32:
    """The state block of one thread that starts; launches of one thread repeat."""
    states = np.empty((1, int(Slot.WORDS)), np.uint32)
    fill(states, isa, dispatch, limit, [started], [tidx])
    block: U32 = states[0]
    return block


class _Line:
    """The arguments of one call by a host thread: state blocks to run, and the reasons for which they stopped."""

    __slots__ = ("order", "order_at", "reasons", "reasons_at")

    def __init__(self, capacity: int) -> None:
        self.order = np.zeros(capacity, np.uint64)
        self.reasons = np.zeros(capacity, np.int32)
        self.order_at, self.reasons_at = int(self.order.ctypes.data), int(self.reasons.ctypes.data)


class Blocks:
    """The arrays of a dispatch with up to `capacity` threads.

    states, wide: a state block for each thread, as 32 and 64 bits; pointers: their host addresses. stops: what the host
    reads of each at a stop: LEFT, REQUESTS, READ_BYTES, WRITE_BYTES, COUNT | SYNC << 32, HELD | FROM_LINK << 32. lines:
    one for each host thread. scratch: the page for accesses outside every buffer. table_at, control_at: host addresses
    of arrays of `copies`. shared: other host threads than the calling one have counted.
    """

    def __init__(self, capacity: int, workers: int, pages: int) -> None:
        size = int(Slot.WORDS)
        raw = np.empty(capacity * size + LANES, np.uint32)  # the block of a thread is filled when it starts
        skew = (-raw.ctypes.data // 4) % LANES
        self.capacity = capacity
        self.states: U32 = raw[skew : skew + capacity * size].reshape(capacity, size)
        self.wide = self.states.view(np.uint64)
        self.stops: NDArray[np.int64] = self.wide[:, int(Slot.LEFT) // 2 : int(Slot.FROM_LINK) // 2 + 1].view(np.int64)
        first = int(self.states.ctypes.data)
        self.pointers = np.arange(capacity, dtype=np.uint64) * np.uint64(4 * size) + np.uint64(first)
        self.lines = [_Line(capacity) for _ in range(workers)]
        self.scratch = np.zeros(PAGE, np.uint8)
        self.reported = np.zeros(REPORTED, np.uint8)
        self.copies = Copies(pages)
        self.table_at, self.control_at = int(self.copies.table.ctypes.data), int(self.copies.control.ctypes.data)
        self._fixed = int(self.scratch.ctypes.data), int(self.reported.ctypes.data), REPORTED
        self._counts = np.zeros((workers, APART), np.int64)
        self._size = 0
        self.shared = False
        self.counts_at: list[int] = []

    def begin(self, known: dict[int, U32]) -> None:
        """Begin a dispatch. known: as for `Copies.begin`."""
        self.copies.begin(known)
        self.shared = False
        self.scratch.fill(0)
        self.reported.fill(0)
        self.copies.control[_SCRATCH : _SCRATCH + 3] = self._fixed

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
        if self.shared:
            executed = np.add.reduce(self._counts[:, : self._size])
            self._counts.fill(0)
            shared: NDArray[np.int64] = executed @ stats
            return shared
        mine = self._counts[0]
        total: NDArray[np.int64] = mine[: self._size] @ stats
        mine.fill(0)
        return total
