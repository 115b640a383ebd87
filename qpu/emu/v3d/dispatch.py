"""Compute dispatches of V3D: decoding of CFG0..CFG6, lanes of a batch, placement of batches, barriers.

Both engines place and release threads through `Placement`.
Facts: docs/hardware/v3d.md 7.4, 8.4 and 10; device tests `test_parallel.py` of py-videocore6 and py-videocore7.
Assumed: the slot that has been idle longest is used first; numbering of shared-memory slots when several supergroups
are in flight (supergroup slot times its workgroups).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.v3d.faults import fault
from qpu.errors import FaultPlace, counted

__all__ = ["Dispatch", "Payload", "Placement", "Start"]

U32: TypeAlias = NDArray[np.uint32]

LANES = 16
_NAMED = 8  # threads that a message names at most


@dataclass(frozen=True, slots=True)
class Payload:
    """Registers at the start of n batches: `ids` (x, y) and `index` (z, index word) as (n, 16); `live` lanes."""

    ids: U32
    index: U32
    live: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Dispatch:
    """A decoded dispatch. workgroups, first: counts and first ids in x, y, z. size: items per workgroup.

    batches_per_supergroup decides which threads meet at a barrier; `batches` alone decides when the dispatch ends.
    code, uniforms: GPU addresses. Compared by identity, for speed: `from_cfg` repeats the object of equal registers.
    """

    workgroups: tuple[int, int, int]
    first: tuple[int, int, int]
    size: int
    workgroups_per_supergroup: int
    batches_per_supergroup: int
    max_supergroup_id: int
    batches: int
    code: int
    uniforms: int
    threads: int
    single_segment: bool
    propagate_nans: bool

    @classmethod
    def from_cfg(cls, cfg: Sequence[int], *, exact_batches: bool) -> Dispatch:
        """Decode CFG0..CFG6. exact_batches: CFG4 is the number of batches (7.1 from revision 6), else one less.

        Raises: EmuFault ``dispatch`` for registers that no driver writes and whose effect is unknown.
        """
        return _decoded(tuple(cfg), exact_batches)

    @classmethod
    def _decode(cls, cfg: tuple[int, ...], exact_batches: bool) -> Dispatch:
        if len(cfg) < 7 or any(not 0 <= int(c) <= 0xFFFFFFFF for c in cfg):
            raise fault("dispatch", f"a dispatch has seven unsigned 32-bit CFG words, found {list(cfg)}")
        words = [int(c) for c in cfg]
        # A count of 0 means 65536 (docs/hardware/drivers.md 1.6); newer versions of Linux never submit it.
        counts = (words[0] >> 16 or 65536, words[1] >> 16 or 65536, words[2] >> 16 or 65536)
        batches = words[4] + (0 if exact_batches else 1)
        if batches == 0:
            raise fault("dispatch", "CFG4 requests 0 batches; the effect on hardware is unknown")
        if words[6] & 3:
            raise fault("dispatch", f"uniforms at 0x{words[6]:08x} are not 4-byte aligned")
        return cls(
            workgroups=counts,
            first=(words[0] & 0xFFFF, words[1] & 0xFFFF, words[2] & 0xFFFF),
            size=(words[3] & 0xFF) or 256,
            workgroups_per_supergroup=(words[3] >> 8 & 15) or 16,
            batches_per_supergroup=(words[3] >> 12 & 0xFF) + 1,
            max_supergroup_id=words[3] >> 20 & 63,
            batches=batches,
            code=words[5] & ~7,
            uniforms=words[6],
            threads=4 if words[5] & 1 else 2,
            single_segment=bool(words[5] & 2),
            propagate_nans=bool(words[5] & 4),
        )

    @property
    def slots(self) -> tuple[int, ...]:
        """Hardware thread numbers in use on each QPU."""
        return (0, 1, 2, 3) if self.threads == 4 else (0, 2)

    @property
    def supergroups(self) -> int:
        """Number of supergroups of the batches."""
        return -(-self.batches // self.batches_per_supergroup)

    @property
    def supergroup_workgroups(self) -> int:
        """Workgroups of one supergroup. Where the fields of CFG3 contradict each other, the batches field decides."""
        wanted = -(-self.workgroups_per_supergroup * self.size // LANES)
        if wanted == self.batches_per_supergroup:
            return self.workgroups_per_supergroup
        return max(1, self.batches_per_supergroup * LANES // self.size)

    def supergroup_batches(self, supergroup: int) -> int:
        """Batches of a supergroup; the last one may have fewer (a barrier waits for these: assumed)."""
        return min(self.batches_per_supergroup, self.batches - supergroup * self.batches_per_supergroup)

    def payload(self, batches: Sequence[int], supergroup_slots: Sequence[int]) -> Payload:
        """Start registers of some batches, whose supergroups hold the given slots. The arrays are read-only."""
        shape = self.workgroups, self.first, self.size, self.supergroup_workgroups, self.batches_per_supergroup
        return _payload(*shape, tuple(batches), tuple(supergroup_slots))


_decoded = lru_cache(256)(Dispatch._decode)  # most launches repeat an earlier one


@lru_cache(256)
def _payload(
    workgroups: tuple[int, int, int],
    first: tuple[int, int, int],
    size: int,
    per_group: int,
    batches_per_supergroup: int,
    batches: tuple[int, ...],
    supergroup_slots: tuple[int, ...],
) -> Payload:
    """See `Dispatch.payload`; launches of one shape are frequent."""
    batch = np.asarray(batches, np.int64)[:, None]
    group = batch // batches_per_supergroup
    item = (batch % batches_per_supergroup) * LANES + np.arange(LANES, dtype=np.int64)
    inside = item // size  # workgroup inside the supergroup
    local = item % size
    workgroup = group * per_group + inside
    total = workgroups[0] * workgroups[1] * workgroups[2]
    live = inside < per_group
    # Lanes past the last workgroup are dead, but batches that lie completely past it run with continued ids.
    known = live & (workgroup < total)
    live = np.where(known.any(axis=1, keepdims=True), known, live)
    nx, ny, _ = workgroups
    x = workgroup % nx + first[0]
    y = workgroup // nx % ny + first[1]
    z = workgroup // (nx * ny) + first[2]
    width = max(6, (size - 1).bit_length())
    slot = np.asarray(supergroup_slots, np.int64)[:, None] * per_group + inside
    slot &= (1 << (16 - width)) - 1  # the width of the field; how more slots are numbered is unknown
    word = (local << (16 - width)) | slot
    made = Payload(
        ids=((x & 0xFFFF) | (y & 0xFFFF) << 16).astype(np.uint32),
        index=((z & 0xFFFF) | word << 16).astype(np.uint32),
        live=np.array(live, np.bool_),
    )
    for each in (made.ids, made.index, made.live):
        each.flags.writeable = False
    return made


class Start(NamedTuple):
    """A batch that starts. thread: resident thread number (slot-major), which is also the order of execution."""

    batch: int
    supergroup: int
    supergroup_slot: int
    thread: int


@cache
def _tidx(slots: tuple[int, ...], qpus: int) -> tuple[int, ...]:
    """For each resident thread, what the operation `tidx` returns."""
    return tuple(qpu << 2 | slot for slot in slots for qpu in range(qpus))


class Placement:
    """The placement of batches on threads. Resident thread t is QPU ``t % qpus``, slot ``slots[t // qpus]``.

    Batches start in order, one on each QPU before any QPU gets a second one; at most ``max_supergroup_id + 1``
    supergroups are in flight.
    """

    def __init__(self, dispatch: Dispatch, qpus: int) -> None:
        self.dispatch = dispatch
        self.qpus = qpus
        self.tidx = _tidx(dispatch.slots, qpus)
        self.capacity = len(self.tidx)
        self.started = 0
        self.finished = 0
        self._free = deque(range(self.capacity))  # longest idle first
        self._running: dict[int, Start] = {}
        self._left: dict[int, int] = {}  # supergroup in flight -> batches not finished
        self._slot_of: dict[int, int] = {}
        self._free_slots = list(range(dispatch.max_supergroup_id + 1))
        self._arrived: dict[int, list[int]] = {}  # supergroup -> threads at its barrier

    def qpu(self, thread: int) -> int:
        """QPU number of a resident thread."""
        return thread % self.qpus

    def slot(self, thread: int) -> int:
        """Hardware thread number of a resident thread on its QPU."""
        return self.dispatch.slots[thread // self.qpus]

    def place(self, thread: int) -> FaultPlace:
        """QPU and thread for messages."""
        return FaultPlace(qpu=self.qpu(thread), thread=self.slot(thread))

    @property
    def done(self) -> bool:
        """Whether all batches have finished."""
        return self.finished == self.dispatch.batches

    @property
    def running(self) -> dict[int, Start]:
        """Resident thread -> its batch."""
        return self._running

    def start(self) -> list[Start]:
        """Start every batch that can start now, in order of batch number."""
        fresh: list[Start] = []
        per_supergroup = self.dispatch.batches_per_supergroup
        for batch in range(self.started, min(self.dispatch.batches, self.started + len(self._free))):
            supergroup = batch // per_supergroup
            slot = self._slot_of.get(supergroup)
            if slot is None:
                if not self._free_slots:
                    break
                slot = self._slot_of[supergroup] = self._free_slots.pop(0)
                self._left[supergroup] = self.dispatch.supergroup_batches(supergroup)
            thread = self._free.popleft()
            begun = self._running[thread] = Start(batch, supergroup, slot, thread)
            fresh.append(begun)
        self.started += len(fresh)
        return fresh

    def finish(self, thread: int) -> None:
        """Free `thread`, whose batch has ended."""
        ended = self._running.pop(thread)
        self._free.append(thread)
        self.finished += 1
        left = self._left[ended.supergroup] = self._left[ended.supergroup] - 1
        if not left:
            del self._left[ended.supergroup]
            insort(self._free_slots, self._slot_of.pop(ended.supergroup))

    # -- barriers

    def arrive(self, thread: int) -> None:
        """Record that a thread waits at the barrier of its supergroup."""
        supergroup = self._running[thread].supergroup
        self._arrived.setdefault(supergroup, []).append(thread)

    def release(self) -> set[int]:
        """The supergroups whose barrier is complete; their counts are reset."""
        full = {s for s, t in self._arrived.items() if len(t) >= self.dispatch.supergroup_batches(s)}
        for s in full:
            del self._arrived[s]
        return full

    def missing(self) -> dict[int, tuple[int, int]]:
        """Supergroups with threads at a barrier: (arrived, expected)."""
        return {s: (len(t), self.dispatch.supergroup_batches(s)) for s, t in self._arrived.items()}

    def deadlock(self) -> str:
        """Why no thread can continue: which threads wait at which barrier, and why the others cannot arrive."""
        parts = []
        for s, (n, want) in self.missing().items():
            at = [f"QPU {self.qpu(t)}.{self.slot(t)}" for t in self._arrived[s][:_NAMED]]
            more = f" and {n - _NAMED} more" if n > _NAMED else ""
            parts.append(f"supergroup {s}: {n} of {counted(want, 'batch')} wait at the barrier ({', '.join(at)}{more})")
        size = self.dispatch.batches_per_supergroup
        if size > self.capacity:
            parts.append(
                f"a supergroup has {counted(size, 'batch')}, but only {counted(self.capacity, 'thread')} can run"
            )
        elif self.started == self.dispatch.batches:
            parts.append("the other batches of the dispatch have ended")
        return "; ".join(parts) or "no thread can run"
