"""The interface between translated VideoCore IV code and its caller: state block, reasons to return, counts."""

from __future__ import annotations

import enum

from qpu.emu.vc4.prepare import COUNTS, Place, Plan, Read

__all__ = ["COUNTERS", "NO_PITCH", "Arg", "Reason", "Slot", "Tally"]

NO_PITCH = 0xFFFFFFFF


class Arg(enum.IntEnum):
    """Arguments of the function: pointers to the QPU's state, GPU memory and page table; bytes of the memory; pointers
    to the VPM's words and the counters; instructions it may execute before it returns at a branch backwards."""

    STATE, MEMORY, PAGES, SIZE, VPM, COUNTERS, BUDGET = range(7)


class Reason(enum.IntEnum):
    """Why the function returned. `Slot.AT` is the number of the QPU's node."""

    EXIT = 0  # at a node for the reference engine
    BUDGET = 1
    JUMP = 2  # at `Slot.TARGET`, after a computed branch
    FAIL = 3  # before a chain that cannot run natively, or not while other QPUs run; `Slot.HOLD` is its length
    NAN = 4  # before a chain that meets a NaN or what its float strategy cannot round
    BAD = 5  # no such entry
    YIELD = 6  # at a node after the release of the mutex


class Slot:
    """Offsets into the state block of a QPU, in 32-bit words."""

    A = 0
    B = 512
    ACC = 1024
    SFU = 1120
    Z = 1136  # flags: a byte a lane
    N = 1140
    C = 1144
    LATCH_A = 1148
    LATCH_B = 1152
    LATCH_MUL = 1156
    FIFO = 1168  # results of TMU 0, then of TMU 1: 8 vectors each
    HEAD = 1424  # two 64-bit numbers each
    COUNT = 1428
    LEFT = 1432  # 64 bits: what remained of the budget
    CLOCK = 1434  # 64 bits: emulated clock at the start of the call
    STORE_UNTIL = 1436  # 64 bits
    DMA_BYTES = 1438  # 64 bits: stored by DMA during the call
    LOAD_UNTIL = 1458  # 64 bits
    DMA_LOADED = 1460  # 64 bits: bytes loaded by DMA during the call
    RESUME = 1440
    AT = 1441
    TAKEN = 1442
    TARGET = 1443
    HOLD = 1444
    BASE = 1445  # bus address of instruction 0
    QPU = 1446
    UNIFORM = 1447
    WRITE = 1448  # VPM write setup: 0 none, 1 set, 2 left to the reference engine: rows are reserved
    WRITE_WORD = 1449
    WRITE_AT = 1450
    WRITE_STEP = 1451
    STORE = 1452  # DMA store setup: 0 none or with something uncertain, 1 set
    STORE_WORD = 1453
    STRIDE = 1454  # the word of the DMA store stride
    USED = 1455  # a TMU request was made during the call
    ALONE = 1456  # no other QPU runs: the VPM and memory may be written
    # A VPM read, and the queued one that follows it; each LEFT counts vectors. WORD: the set-up, AT: the next vector.
    READ_WORD = 1463
    READ_AT = 1464
    READ_LEFT = 1465
    QUEUED_WORD = 1466
    QUEUED_LEFT = 1467
    LOAD = 1468  # DMA load setup: 0 none or with something uncertain, 1 set
    LOAD_WORD = 1469
    PITCH = 1470  # extended pitch of DMA loads in bytes; NO_PITCH before it is set
    TOUCHED = 1471  # setups or positions were changed during the call
    MUTEX = 1472  # 0: free, 1: held by this QPU, 2: held by another QPU
    RELEASED = 1474  # 64 bits: emulated clock of the last release of the mutex
    GAVE = 1476  # the mutex was released during the call
    READ_LESS = 1482  # 64 bits: bytes that VPM reads of the call moved less than reads of words would
    WRITE_LESS = 1484  # 64 bits: the same of VPM writes
    RAW = 1478  # two 64-bit masks: registers with sums or products that are not plain; 0 outside of the function
    WORDS = 1488


COUNTERS = (*COUNTS, "uniforms", "requests", "vpm_writes", "vpm_reads")
"""Names of the counts of a chain."""


class Tally:
    """Counts of one execution of a chain, in the order of `COUNTERS`; the caller multiplies them by the executions."""

    __slots__ = ("row",)

    def __init__(self) -> None:
        self.row = [0] * len(COUNTERS)

    @property
    def instructions(self) -> int:
        """Length of the chain so far."""
        return self.row[0]

    def add(self, plan: Plan) -> None:
        """Account for an instruction."""
        inputs = [s.index for s in (plan.read_a, plan.read_b) if s is not None and s.read is Read.INPUT]
        outputs = [h.dest for h in (plan.add, plan.mul) if h.active and h.dest.place is Place.IO]
        requests, writes = sum(d.unit == "tmu" for d in outputs), sum(d.number == 48 for d in outputs)
        counts = (*plan.counts, inputs.count(32), requests, writes, inputs.count(48))
        self.row = [x + y for x, y in zip(self.row, counts, strict=True)]
