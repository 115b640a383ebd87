"""The thread state of the reference engine on V3D: a `Group` of n threads that share a program counter.

Vectors are uint32 arrays of shape (n, 16), or (16,) when all threads hold the same lanes. They are never written in
place: a write replaces the array. So threads, constants and copies may share arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.emu.v3d.alu import ACC
from qpu.emu.v3d.prepare import Prepared
from qpu.emu.v3d.tmu import CONFIG_RESET

__all__ = ["CLOBBERED", "LANES", "Group", "PerThread", "each", "squeeze", "take_number", "undefined_register"]

U32: TypeAlias = NDArray[np.uint32]
Mask: TypeAlias = NDArray[np.bool_]
PerThread: TypeAlias = int | U32  # one number for all threads, or an array of shape (n,)

REGISTERS = ACC + 6
LANES = 16
_LANE = np.arange(LANES, dtype=np.uint32)
CLOBBERED = 0xACC0DEAD  # accumulators after a switch in which another thread of the QPU ran


def undefined_register(number: int) -> U32:
    """The pattern a register holds before anything is written: 0xdead, register, lane. Accumulators count from 64."""
    return np.uint32(0xDEAD0000 | number << 8) | _LANE


_UNDEFINED = [undefined_register(n) for n in range(REGISTERS)]
_FALSE = np.zeros(LANES, np.bool_)
_const = NumpyLanes().const
_ZERO = _const(0)


def each(value: PerThread, n: int) -> U32:
    """A per-thread number as an array of shape (n,)."""
    return np.full(n, value, np.uint32) if isinstance(value, int) else value


def take_number(value: PerThread, rows: NDArray[np.intp]) -> PerThread:
    """The numbers of some of the threads."""
    return value if isinstance(value, int) else squeeze(value[rows])


def squeeze(values: U32) -> PerThread:
    """One number when all are equal."""
    first = int(values[0])
    return first if (values == np.uint32(first)).all() else values


def _take(value: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    return value if value.ndim == 1 else value[rows]


def _rows(value: NDArray[Any], n: int) -> NDArray[Any]:
    return np.broadcast_to(value, (n, LANES))


class Group:
    """n threads in step. `qpu.emu.v3d.alu.Thread` of the reference engine.

    threads: resident thread numbers, ascending. regs: rf0..rf63, r0..r5. a, b: flags of the low halves; a_hi, b_hi of
    the high halves, the same object when they agree in all lanes. unif, unifa: stream pointers. config: TMU shift
    register. data, results: TMU FIFOs. sync: threads that wrote the barrier and stop at the next switch.
    branch_left, target: instructions until a taken branch jumps. switches: the same for thread switches. last: the
    last-switch marker was seen. ending: instructions until the program ends (0: not ending). late: SFU result on its
    way to r4 and the lanes that get it. count: instructions executed, `flushed` of which are accounted for.
    """

    __slots__ = (
        "a",
        "a_hi",
        "b",
        "b_hi",
        "begun",
        "branch_left",
        "busy",
        "config",
        "count",
        "data",
        "ending",
        "flushed",
        "last",
        "late",
        "late_left",
        "link",
        "live",
        "msf",
        "n",
        "ordered",
        "parted",
        "pc",
        "previous",
        "qpu_weight",
        "regs",
        "results",
        "revf",
        "rf0_volatile",
        "rtop",
        "supergroups",
        "switched",
        "switches",
        "sync",
        "target",
        "threads",
        "tidx",
        "unif",
        "unifa",
        "unifa_at",
    )

    def __init__(self, threads: NDArray[np.intp], pc: int, unif: int) -> None:
        self.n = len(threads)
        self.threads = threads
        self.supergroups: NDArray[np.intp] = threads
        self.pc = pc
        self.regs: list[U32] = list(_UNDEFINED)
        self.a: Mask = _FALSE  # undefined on hardware
        self.a_hi: Mask = _FALSE
        self.b: Mask = _FALSE
        self.b_hi: Mask = _FALSE
        self.msf: U32 = np.ones(LANES, np.uint32)
        self.live: Mask = np.ones(LANES, np.bool_)
        self.revf: U32 = _ZERO
        self.tidx: U32 = _ZERO
        self.rtop: U32 = _ZERO
        self.link: PerThread = 0
        self.unif: PerThread = unif
        self.unifa: PerThread = 0
        self.unifa_at = -100
        self.config: PerThread = CONFIG_RESET
        self.data: list[U32] = []
        self.results: list[U32] = []
        self.sync: Mask | None = None
        self.busy = False  # a countdown is running
        self.branch_left = 0
        self.target: int = 0
        self.switches: tuple[int, ...] = ()
        self.last = False
        self.ending = 0
        self.late: tuple[U32, Mask | None] | None = None
        self.late_left = 0
        self.count = 0
        self.flushed = 0
        self.begun = 0  # count when the current segment began
        self.switched = -1  # round of the last switch, while it is not resumed
        self.ordered = False  # stopped before an atomic, which is served in thread order
        self.parted = 0  # split before a request: 1 + the configuration byte of these threads
        self.previous: Prepared | None = None  # the instruction executed last
        self.rf0_volatile = False
        self.qpu_weight: NDArray[np.int64] | None = None

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
        """A number of each thread in all its lanes."""
        if isinstance(number, int):
            return _const(number)
        return np.repeat(number, LANES).reshape(self.n, LANES)

    def lane(self, value: U32, lane: int) -> PerThread:
        """One lane of a vector as a number of each thread."""
        column = value[..., lane]
        return int(column) if column.ndim == 0 else squeeze(column)

    def set_msf(self, value: U32) -> None:
        """Change the sample mask, and with it the live lanes."""
        self.msf = value
        self.live = np.not_equal(value, 0)

    def take(self, rows: NDArray[np.intp]) -> Group:
        """A new group of some of the threads (row numbers, ascending)."""
        new = Group.__new__(Group)
        new.n = len(rows)
        new.threads = self.threads[rows]
        new.supergroups = self.supergroups[rows]
        new.pc = self.pc
        new.regs = [_take(r, rows) for r in self.regs]
        new.a = _take(self.a, rows)
        new.a_hi = new.a if self.a_hi is self.a else _take(self.a_hi, rows)
        new.b = _take(self.b, rows)
        new.b_hi = new.b if self.b_hi is self.b else _take(self.b_hi, rows)
        new.msf = _take(self.msf, rows)
        new.live = _take(self.live, rows)
        new.revf = _take(self.revf, rows)
        new.tidx = _take(self.tidx, rows)
        new.rtop = _take(self.rtop, rows)
        new.link = take_number(self.link, rows)
        new.unif = take_number(self.unif, rows)
        new.unifa = take_number(self.unifa, rows)
        new.unifa_at = self.unifa_at
        new.config = take_number(self.config, rows)
        new.data = [_take(d, rows) for d in self.data]
        new.results = [_take(d, rows) for d in self.results]
        sync = None if self.sync is None else self.sync[rows]
        new.sync = sync if sync is not None and sync.any() else None
        new.busy = self.busy
        new.branch_left = self.branch_left
        new.target = self.target
        new.switches = self.switches
        new.last = self.last
        new.ending = self.ending
        new.late = None
        if self.late is not None:
            value, mask = self.late
            new.late = _take(value, rows), None if mask is None else _take(mask, rows)
        new.late_left = self.late_left
        new.count = self.count
        new.flushed = self.flushed
        new.begun = self.begun
        new.switched = self.switched
        new.ordered = self.ordered
        new.parted = self.parted
        new.previous = self.previous
        new.rf0_volatile = self.rf0_volatile
        new.qpu_weight = None
        return new

    @staticmethod
    def join(groups: Sequence[Group]) -> Group:
        """One group of several with equal keys and flushed counts; threads in ascending order."""
        first = groups[0]
        if len(groups) == 1:
            return first
        sizes = [g.n for g in groups]
        threads = np.concatenate([g.threads for g in groups])
        order = np.argsort(threads, kind="stable")
        new = Group.__new__(Group)
        new.n = sum(sizes)
        new.threads = threads[order]
        new.supergroups = np.concatenate([g.supergroups for g in groups])[order]

        def vector(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
            if values[0].ndim == 1 and all(v is values[0] for v in values):
                return values[0]
            return np.concatenate([_rows(v, n) for v, n in zip(values, sizes, strict=True)])[order]

        def number(values: Sequence[PerThread]) -> PerThread:
            if isinstance(values[0], int) and all(isinstance(v, int) and v == values[0] for v in values):
                return values[0]
            return squeeze(np.concatenate([each(v, n) for v, n in zip(values, sizes, strict=True)])[order])

        new.pc = first.pc
        new.regs = [vector(r) for r in zip(*(g.regs for g in groups), strict=True)]
        new.a = vector([g.a for g in groups])
        new.a_hi = new.a if all(g.a_hi is g.a for g in groups) else vector([g.a_hi for g in groups])
        new.b = vector([g.b for g in groups])
        new.b_hi = new.b if all(g.b_hi is g.b for g in groups) else vector([g.b_hi for g in groups])
        new.msf = vector([g.msf for g in groups])
        new.live = vector([g.live for g in groups])
        new.revf = vector([g.revf for g in groups])
        new.tidx = vector([g.tidx for g in groups])
        new.rtop = vector([g.rtop for g in groups])
        new.link = number([g.link for g in groups])
        new.unif = number([g.unif for g in groups])
        new.unifa = number([g.unifa for g in groups])
        new.config = number([g.config for g in groups])
        new.data = [vector(d) for d in zip(*(g.data for g in groups), strict=True)]
        new.results = [vector(d) for d in zip(*(g.results for g in groups), strict=True)]
        new.sync = None
        if any(g.sync is not None for g in groups):
            parts = [np.zeros(g.n, np.bool_) if g.sync is None else g.sync for g in groups]
            new.sync = np.concatenate(parts)[order]
        new.busy = first.busy
        new.branch_left = first.branch_left
        new.target = first.target
        new.switches = first.switches
        new.last = first.last
        new.ending = first.ending
        new.late = None
        lates = [g.late for g in groups]
        if lates[0] is not None:
            true = np.ones(LANES, np.bool_)
            values = [_rows(x[0], n) for x, n in zip(lates, sizes, strict=True) if x is not None]
            masks = [
                _rows(true if x[1] is None else x[1], n) for x, n in zip(lates, sizes, strict=True) if x is not None
            ]
            new.late = np.concatenate(values)[order], np.concatenate(masks)[order]
        new.late_left = first.late_left
        new.count = new.flushed = max(g.count for g in groups)
        new.begun = new.count - max(g.count - g.begun for g in groups)
        new.unifa_at = new.count - min(g.count - g.unifa_at for g in groups)
        new.switched = min(g.switched for g in groups)
        new.ordered = first.ordered
        new.parted = first.parted
        new.previous = first.previous if all(g.previous is first.previous for g in groups) else None
        new.rf0_volatile = any(g.rf0_volatile for g in groups)
        new.qpu_weight = None
        return new
