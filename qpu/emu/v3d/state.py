"""The thread state of the reference engine on V3D: a `Group` of n threads that share a program counter.

Vectors are uint32 arrays of shape (n, 16), or (16,) when all threads hold the same lanes. They are never written in
place: a write replaces the array. So threads, constants and copies may hold the same array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.emu.v3d.alu import ACC
from qpu.emu.v3d.prepare import Prepared
from qpu.emu.v3d.tmu import CONFIG_RESET

__all__ = ["CLOBBERED", "LANES", "TRUE", "UNDEFINED", "Group", "PerThread", "each", "squeeze", "take_number"]

U32: TypeAlias = NDArray[np.uint32]
Mask: TypeAlias = NDArray[np.bool_]
PerThread: TypeAlias = int | U32  # one number for all threads, or an array of shape (n,)

REGISTERS = ACC + 6
LANES = 16
_LANE = np.arange(LANES, dtype=np.uint32)
CLOBBERED = 0xACC0DEAD  # content of accumulators after a switch to another thread of the QPU


# The content of registers before their first write: 0xdead, register, lane. Accumulators are numbered from 64.
UNDEFINED: list[U32] = [np.uint32(0xDEAD0000 | number << 8) | _LANE for number in range(REGISTERS)]
FALSE = np.zeros(LANES, np.bool_)
TRUE = np.ones(LANES, np.bool_)
_const = NumpyLanes().const


def each(value: PerThread, n: int) -> U32:
    """A per-thread number as an array of shape (n,)."""
    return np.full(n, value, np.uint32) if isinstance(value, int) else value


def take_number(value: PerThread, rows: NDArray[np.intp]) -> PerThread:
    """The numbers of the threads in `rows`."""
    return value if isinstance(value, int) else squeeze(value[rows])


def squeeze(values: U32) -> PerThread:
    """The values as one number when all are equal."""
    first = int(values[0])
    return first if (values == np.uint32(first)).all() else values


# Attributes by the way in which threads are selected and groups joined: vectors, flags (with `_hi`), numbers, lists.
_VECTORS = ("msf", "live", "revf", "tidx", "rtop", "late", "late_on")
_FLAGS = ("a", "b")
_NUMBERS = ("link", "unif", "unifa", "config")
_LISTS = ("regs", "data", "results")


@dataclass(slots=True, eq=False)
class Group:
    """n threads that run in step: the `qpu.emu.v3d.alu.Thread` of the reference engine.

    threads: resident thread numbers, ascending. regs: rf0..rf63, r0..r5. a, b: flags of the low halves; a_hi, b_hi of
    the high halves, the same object when they are equal in all lanes. unif, unifa: stream pointers. config: TMU shift
    register. data, results: TMU FIFOs. sync: threads that wrote the barrier and stop at the next switch.
    branch_left, target: instructions until a taken branch jumps. switches: the same for thread switches. last: the
    last-switch marker was seen. ending: instructions until the program ends (0: not ending). late, late_on, late_left:
    SFU result for r4, the lanes that get it, and instructions until then. count: instructions executed, `flushed` of
    which are accounted for.
    """

    threads: NDArray[np.intp]
    pc: int
    unif: PerThread
    regs: list[U32] = field(default_factory=UNDEFINED.copy)
    a: Mask = field(default_factory=lambda: FALSE)  # undefined on hardware
    a_hi: Mask = field(default_factory=lambda: FALSE)
    b: Mask = field(default_factory=lambda: FALSE)
    b_hi: Mask = field(default_factory=lambda: FALSE)
    msf: U32 = field(default_factory=lambda: _const(1))
    live: Mask = field(default_factory=lambda: TRUE)
    revf: U32 = field(default_factory=lambda: _const(0))
    tidx: U32 = field(default_factory=lambda: _const(0))
    rtop: U32 = field(default_factory=lambda: _const(0))
    link: PerThread = 0
    unifa: PerThread = 0
    config: PerThread = CONFIG_RESET
    data: list[U32] = field(default_factory=list)
    results: list[U32] = field(default_factory=list)
    late: U32 = field(default_factory=lambda: _const(0))
    late_on: Mask = field(default_factory=lambda: TRUE)
    late_left: int = 0
    branch_left: int = 0
    target: int = 0
    switches: tuple[int, ...] = ()
    last: bool = False
    ending: int = 0
    busy: bool = False  # a countdown is running
    unifa_at: int = -100  # `count` when unifa was last written
    count: int = 0
    flushed: int = 0
    begun: int = 0  # `count` when the current segment began
    switched: int = -1  # round of the last switch, until the threads resume; else -1
    ordered: bool = False  # stopped before an atomic; atomics are performed in thread order
    parted: int = 0  # split before a request: 1 + the configuration byte of these threads
    previous: Prepared | None = None  # the instruction executed last
    rf0_volatile: bool = False  # see v3d.md 8.2
    sync: Mask | None = None
    qpu_weight: NDArray[np.int64] | None = None
    n: int = field(init=False)
    supergroups: NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        self.n = len(self.threads)
        self.supergroups = self.threads

    @property
    def key(self) -> tuple[object, ...]:
        """Groups with equal keys can be joined."""
        return (
            self.pc,
            self.branch_left,
            self.target if self.branch_left else 0,
            self.switches,
            self.last,
            self.ending,
            self.late_left,
            len(self.data),
            len(self.results),
            self.ordered,
            self.parted,
        )

    def splat(self, number: PerThread) -> U32:
        """A vector with a number of each thread in all lanes of the thread."""
        if isinstance(number, int):
            return _const(number)
        return np.repeat(number, LANES).reshape(self.n, LANES)

    def lane(self, value: U32, lane: int) -> PerThread:
        """One lane of a vector as a number of each thread."""
        column = value[..., lane]
        return int(column) if column.ndim == 0 else squeeze(column)

    def set_msf(self, value: U32) -> None:
        """Change the sample mask, and thus the live lanes."""
        self.msf = value
        self.live = np.not_equal(value, 0)

    @staticmethod
    def _of(
        sources: Sequence[Group],
        threads: NDArray[np.intp],
        vector: Callable[[Sequence[NDArray[Any]]], NDArray[Any]],
        number: Callable[[Sequence[PerThread]], PerThread],
    ) -> Group:
        """A group from the vectors and numbers of `sources`, without lists; other attributes are those of the first."""
        first = sources[0]
        new = Group.__new__(Group)
        for name in _OTHERS:
            setattr(new, name, getattr(first, name))
        for name in _VECTORS + _FLAGS:
            setattr(new, name, vector([getattr(g, name) for g in sources]))
        for name in _FLAGS:
            high = name + "_hi"
            one = all(getattr(g, high) is getattr(g, name) for g in sources)
            setattr(new, high, getattr(new, name) if one else vector([getattr(g, high) for g in sources]))
        for name in _NUMBERS:
            setattr(new, name, number([getattr(g, name) for g in sources]))
        new.threads, new.n, new.qpu_weight = threads, len(threads), None
        return new

    def take(self, rows: NDArray[np.intp]) -> Group:
        """A new group of some of the threads. rows: row numbers, ascending."""

        def vector(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
            value = values[0]
            return value if value.ndim == 1 else value[rows]

        new = Group._of((self,), self.threads[rows], vector, lambda values: take_number(values[0], rows))
        for name in _LISTS:
            setattr(new, name, [v if v.ndim == 1 else v[rows] for v in getattr(self, name)])
        new.supergroups = self.supergroups[rows]
        if self.sync is not None:
            sync = self.sync[rows]
            new.sync = sync if sync.any() else None
        return new

    @staticmethod
    def join(groups: Sequence[Group]) -> Group:
        """One group of several with equal keys and flushed counts; threads in ascending order."""
        first = groups[0]
        if len(groups) == 1:
            return first
        threads = np.concatenate([g.threads for g in groups])
        order = np.argsort(threads, kind="stable")

        def vector(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
            if values[0].ndim == 1 and all(v is values[0] for v in values):
                return values[0]
            rows = [np.broadcast_to(v, (g.n, LANES)) for v, g in zip(values, groups, strict=True)]
            return np.concatenate(rows)[order]

        def number(values: Sequence[PerThread]) -> PerThread:
            if isinstance(values[0], int) and all(isinstance(v, int) and v == values[0] for v in values):
                return values[0]
            return squeeze(np.concatenate([each(v, g.n) for v, g in zip(values, groups, strict=True)])[order])

        new = Group._of(groups, threads[order], vector, number)
        for name in _LISTS:
            setattr(new, name, [vector(v) for v in zip(*(getattr(g, name) for g in groups), strict=True)])
        new.supergroups = np.concatenate([g.supergroups for g in groups])[order]
        if any(g.sync is not None for g in groups):
            parts = [np.zeros(g.n, np.bool_) if g.sync is None else g.sync for g in groups]
            new.sync = np.concatenate(parts)[order]
        new.count = new.flushed = max(g.count for g in groups)
        new.begun = new.count - max(g.count - g.begun for g in groups)
        new.unifa_at = new.count - min(g.count - g.unifa_at for g in groups)
        new.switched = min(g.switched for g in groups)
        new.previous = first.previous if all(g.previous is first.previous for g in groups) else None
        new.rf0_volatile = any(g.rf0_volatile for g in groups)
        return new


_SELECTED = {*_VECTORS, *_FLAGS, *(f"{name}_hi" for name in _FLAGS), *_NUMBERS, *_LISTS}
_OTHERS = tuple(f.name for f in fields(Group) if f.name not in _SELECTED)
