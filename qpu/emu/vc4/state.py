"""State of the emulated QPUs of VideoCore IV: register arrays, control state, and groups of QPUs that run in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.numpy_lanes import LANES

__all__ = ["BUS_MASK", "CLOCKS_PER_INSTRUCTION", "Bank", "Flag", "Group", "Qpu", "Status", "Vector"]

Vector: TypeAlias = NDArray[np.uint32]  # shape (QPUs, 16)
Flag: TypeAlias = NDArray[np.bool_]

BUS_MASK = 0x3FFFFFFF  # bits 31:30 of a bus address choose a cache alias of the same memory
CLOCKS_PER_INSTRUCTION = 4

# Contents at program start are undefined on hardware (guide); a pattern shows up in results, a zero does not.
# 0xDEADfrrl: f the file (a, b, or c for accumulators), rr the register, l the lane.
_LANE = np.arange(LANES, dtype=np.uint32)
_UNDEFINED: Vector = np.concatenate(
    [
        np.uint32(0xDEAD0000 | mark << 12) | np.arange(count, dtype=np.uint32)[:, None] << np.uint32(4) | _LANE
        for mark, count in ((0xA, 32), (0xB, 32), (0xC, 6))
    ]
)
_UNDEFINED_LATCH = np.uint32(0xDEADFFF0) | _LANE[:4]
_UNDEFINED_FLAGS = _LANE % 3 == 0, _LANE % 3 == 1, _LANE % 2 == 0


class Bank:
    """Registers of all QPUs. Axis 0 is the register where there are several, then the QPU, then the lane."""

    __slots__ = (
        "a", "acc", "b", "c", "latch_a", "latch_b", "latch_mul", "n", "neg", "registers", "rows", "sfu_left",
        "sfu_value", "uniform", "z",
    )  # fmt: skip

    def __init__(self, n: int) -> None:
        self.n = n
        self.place(np.empty((70, n, LANES), np.uint32))
        self.z: Flag = np.empty((n, LANES), np.bool_)
        self.neg: Flag = np.empty((n, LANES), np.bool_)
        self.c: Flag = np.empty((n, LANES), np.bool_)
        self.latch_a = np.empty((n, 4), np.uint32)
        self.latch_b = np.empty((n, 4), np.uint32)
        self.latch_mul = np.empty((n, 4), np.uint32)
        self.uniform = np.zeros(n, np.uint32)
        self.sfu_left = np.zeros(n, np.int8)  # instructions until the SFU result lands in r4; 0 = none pending
        self.sfu_value = np.zeros((n, LANES), np.uint32)

    def place(self, registers: NDArray[np.uint32]) -> None:
        """Use this array for the registers from now on: ra0..31, rb0..31, r0..r5, shape (70, QPUs, 16)."""
        self.registers = registers
        self.rows: list[NDArray[np.uint32]] = list(registers)
        self.a, self.b, self.acc = registers[:32], registers[32:64], registers[64:]

    def begin(self) -> None:
        """Give all registers the contents they have before a launch."""
        self.undefine(slice(None))
        self.uniform[:] = 0

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Every array of the state."""
        parts = ("a", "acc", "b", "n", "rows")
        return tuple(getattr(self, name) for name in self.__slots__ if name not in parts)

    def undefine(self, q: int | slice) -> None:
        """Fill the registers of a QPU, or of all, with the pattern of registers that were never written."""
        self.registers[:, q] = _UNDEFINED if isinstance(q, int) else _UNDEFINED[:, None]
        for latch in (self.latch_a, self.latch_b, self.latch_mul):
            latch[q] = _UNDEFINED_LATCH
        self.undefine_flags(q)
        self.sfu_left[q] = 0

    def lose_accumulators(self, q: int) -> None:
        """Undefine accumulators and flags, which a thread switch loses (guide)."""
        self.acc[:, q] = _UNDEFINED[64:]
        self.undefine_flags(q)

    def undefine_flags(self, q: int | slice) -> None:
        """Give the flags of a QPU, or of all, values no program can rely on."""
        self.z[q], self.neg[q], self.c[q] = _UNDEFINED_FLAGS


class Status:
    """Scheduling states of a QPU; integers, because the scheduler's inner loop compares them."""

    FREE, READY, YIELDED, BLOCKED = range(4)


class Qpu:
    """Control state of one QPU: everything that the scheduler needs between two stretches of execution."""

    __slots__ = (
        "blocked_on", "branch_left", "branch_taken", "branch_target", "clock", "end_left", "entry", "history",
        "number", "pc", "program", "spent", "status", "steps", "switch_left", "waiting",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.program = -1  # index of the launch entry
        self.clock = 0
        self.steps = 0  # instructions of the current program
        self.start(0)
        self.status = Status.FREE

    def start(self, code: int) -> None:
        """Begin a program at the physical address `code`."""
        self.entry = self.pc = code
        self.branch_left = self.end_left = self.switch_left = 0  # instructions until the event; 0 = none pending
        self.branch_taken = False
        self.branch_target = 0
        self.history = (0, 0, 0)  # effects of the last three instructions, newest first
        self.status = Status.READY
        self.blocked_on = ""
        self.waiting = False  # was blocked: its clock advances to that of the QPU that released it
        self.spent = 0  # instructions of the current time slice
        self.steps = 0

    @property
    def key(self) -> tuple[int, int, int, int]:
        """QPUs with equal keys can execute as one group."""
        return self.pc, self.branch_left, self.end_left, self.switch_left


class Group:
    """QPUs with one program counter that execute in step: `ids` ascending, `sel` selects their rows of the bank."""

    __slots__ = (
        "bank", "branch_taken", "branch_target", "done", "ids", "n", "old_a", "old_b", "pc", "qpus", "rows", "sel",
        "sfu_live", "suspend", "wrote_a", "wrote_b",
    )  # fmt: skip

    def __init__(self, ids: Sequence[int], qpus: Sequence[Qpu], bank: Bank) -> None:
        self.ids = tuple(ids)
        self.n = len(self.ids)
        self.rows: NDArray[np.intp] = np.array(self.ids, np.intp)
        self.qpus = tuple(qpus[q] for q in self.ids)
        self.bank = bank
        first, last = self.ids[0], self.ids[-1]
        self.sel: slice | NDArray[np.intp]
        if last - first + 1 == self.n:
            self.sel = slice(first, last + 1)
        else:
            self.sel = self.rows
        self.pc = 0
        self.done = 0  # instructions executed since the members' clocks were brought up to date
        self.suspend = False  # set by an instruction after which the group yields to others
        self.sfu_live = bool(bank.sfu_left[self.sel].any())
        self.branch_taken: Flag = np.zeros(self.n, np.bool_)
        self.branch_target: NDArray[np.int64] = np.zeros(self.n, np.int64)
        # Lanes that the last write of a physical register changed (None: all), and the old contents of the register.
        self.wrote_a: Flag | None = None
        self.wrote_b: Flag | None = None
        self.old_a: Vector | None = None
        self.old_b: Vector | None = None

    def clock(self, i: int) -> int:
        """Emulated clock of member `i` at the start of the current instruction."""
        return self.qpus[i].clock + self.done * CLOCKS_PER_INSTRUCTION

    def index(self, i: int) -> int:
        """Instruction index of the current instruction in the program of member `i`."""
        return (self.pc - self.qpus[i].entry) >> 3

    def start_sfu(self, value: Vector, latency: int) -> None:
        """Start an SFU operation: the instruction `latency` later finds the result in r4."""
        self.bank.sfu_value[self.sel] = value
        self.bank.sfu_left[self.sel] = latency
        self.sfu_live = True

    def tick_sfu(self) -> None:
        """Count one instruction down for pending SFU results, and write those that are due to r4."""
        bank, sel = self.bank, self.sel
        left = bank.sfu_left[sel]
        landing = left == 1
        if landing.any():
            r4 = bank.acc[4]
            r4[sel] = np.where(landing[:, None], bank.sfu_value[sel], r4[sel])
        left = np.maximum(left - 1, 0)
        bank.sfu_left[sel] = left
        self.sfu_live = bool(left.any())
