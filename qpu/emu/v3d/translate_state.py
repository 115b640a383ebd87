"""The interface between translated V3D code and its caller: state block, nodes, counts, reasons to return."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from qpu.emu.v3d import uniforms
from qpu.emu.v3d.prepare import COUNTS
from qpu.emu.v3d.tmu import DATA_CAPACITY, RESULT_CAPACITY

__all__ = [
    "CHAIN",
    "CHAIN_COUNTS",
    "CONTINUE",
    "DATA_SLOTS",
    "FIFO_SLOTS",
    "NONE",
    "Arg",
    "Control",
    "Hold",
    "Kept",
    "Node",
    "Reason",
    "Slot",
    "Translation",
    "Untranslatable",
]  # fmt: skip

FIFO_SLOTS = RESULT_CAPACITY  # result vectors a thread can have pending
DATA_SLOTS = DATA_CAPACITY
CHAIN_COUNTS = ("instructions", "thread_switches", *COUNTS)
CHAIN = 512  # instructions of a chain at most
CONTINUE = 0xFF  # value of `Slot.THEN`: the thread continues


class Reason(enum.IntEnum):
    """Why the code of a thread returned."""

    END = 0
    SWITCH = 1
    BARRIER = 2
    BUDGET = 3
    TMU = 4  # before a request that the host must perform
    CHECK = 5  # the chain at `Slot.RESUME` lacks a result or a word of a stream
    RULE = 6  # a broken rule; see `Slot.RULE`
    JUMP = 7  # a branch to a node that was not translated; `Slot.JUMP` holds the address
    UNSUPPORTED = 8  # `Slot.RESUME` is not an entry number
    BAD_CODE = 9  # a word that cannot be executed, or an address outside the program
    YIELD = 10  # a suspension point without an event


class Slot(enum.IntEnum):
    """Offsets into the state block of a thread, in 32-bit words."""

    RF = 0
    ACC = 1024  # r0..r5
    RTOP = 1120
    MSF = 1136
    LATE = 1152  # 4.2: an SFU result that is not yet in r4
    ADDRESS = 1168  # of a request that is left to the host
    REVF = 1184
    DATA = 1200  # DATA_SLOTS vectors
    FIFO = DATA + 16 * DATA_SLOTS
    SCALARS = FIFO + 16 * FIFO_SLOTS
    RESUME = SCALARS
    UNIFORM = SCALARS + 1
    UNIFA = SCALARS + 2
    CONFIG = SCALARS + 3
    HEAD = SCALARS + 4  # of the result ring
    MARKED = SCALARS + 5  # with JUMP: fields of the target `Node`: marked, late << 1, unifa << 2
    PENDING = SCALARS + 6  # data words written
    LINK = SCALARS + 7
    A_LO = SCALARS + 8  # flags: one bit a lane, for each half
    A_HI = SCALARS + 9
    B_LO = SCALARS + 10
    B_HI = SCALARS + 11
    TIDX = SCALARS + 12
    MASK = SCALARS + 13  # live lanes of a request that is left to the host
    TAKEN = SCALARS + 14
    TARGET = SCALARS + 15
    JUMP = SCALARS + 16
    RULE = SCALARS + 17
    AT = SCALARS + 18  # instruction index of the last suspension
    CODE = SCALARS + 19  # address of instruction 0
    LAST = SCALARS + 20  # address of the last load of consecutive lanes
    THEN = SCALARS + 21  # the reason to return after the host has done a request; CONTINUE: none
    UNIFORM_HOST = SCALARS + 22  # 64 bits: host address of the next uniform
    UNIFA_HOST = SCALARS + 24
    LEFT = SCALARS + 26  # 64 bits: what remained of the budget. The host reads LEFT .. FROM_LINK at each stop
    REQUESTS = SCALARS + 28  # 64 bits each: TMU requests and bytes of the translated code, since the thread started
    READ_BYTES = SCALARS + 30
    WRITE_BYTES = SCALARS + 32
    COUNT = SCALARS + 34  # of the result ring
    SYNC = SCALARS + 35  # barrier joined; from bit 1 on: 1 + its instruction, if results were outstanding
    HELD = SCALARS + 36  # the request of a return with TMU is a store or atomic on hold, see `Hold`
    FROM_LINK = SCALARS + 37  # 1 + the last instruction that moved the uniform stream to the link register
    LIMIT = SCALARS + 38  # result words that may be pending on the fast path
    LATE_MASK = SCALARS + 39
    SLOT = SCALARS + 40  # supergroup slot
    VOLATILE = SCALARS + 41  # 7.1: a switch in an instruction whose signal writes a register loses rf0
    UNIFORM_LEFT = SCALARS + 43  # words that can be read from UNIFORM_HOST on
    UNIFA_LEFT = SCALARS + 44
    SHARED = SCALARS + 45  # 4.2: other threads of the QPU run, so a switch destroys the accumulators
    WORDS = SCALARS + 48


class Arg(enum.IntEnum):
    """Parameters of the code of one thread."""

    STATE = 0
    MEMORY = 1
    PAGES = 2  # region id of each page
    KEPT = 3  # a `Kept` byte for each page
    COPIES = 4  # host address of the copy of each page, or 0
    CONTROL = 5
    COUNTERS = 6
    BUDGET = 7


class Kept(enum.IntEnum):
    """State of a page. Streams read memory as it was when the dispatch started.

    FREE, NEVER and COPIED are those of `qpu.emu.v3d.uniforms`.
    """

    NEVER = uniforms.NEVER  # no stream reads the page
    COPIED = uniforms.COPIED
    FREE = uniforms.FREE  # to be copied before the first store
    STREAM = 3  # streams hold pointers into the page: the host performs the first store to it


class Control(enum.IntEnum):
    """64-bit words of the block that is common to all threads: room for copies of pages, and `Hold`."""

    USED = 0
    ROOM = 1  # in pages
    POOL = 2  # address of the room
    PAGES = 3  # address of the list of copied pages, 32 bits each
    HOLD = 4  # a `Hold`
    SCRATCH = 5  # address of the page that accesses outside every buffer use on a board that is not strict
    REPORTED = 6  # address of a byte for each of INSTRUCTIONS instructions: whether such an access was reported there
    INSTRUCTIONS = 7
    WORDS = 8


class Hold(enum.IntEnum):
    """Requests before which threads stop, because they happen in thread order."""

    NOTHING = 0
    STORES = 1  # stores and atomics
    ATOMICS = 2


NONE = -(1 << 40)  # no instruction


class Untranslatable(Exception):
    """A program, or a part of it, that only the reference engine can execute. args[0]: why."""


class Node(NamedTuple):
    """An instruction with the pending effects at its start.

    at: instruction, counted from the program start; negative numbers are possible. branch: remaining delay slots of a
    branch, 0 = none. target: instruction of its target, NONE = in `Slot.TARGET`. switch: countdowns of thread switches.
    marked: the last-switch marker was seen. ending: instructions until the program ends, 0 = not ending. late: 4.2: an
    SFU result is written to r4 after this instruction. unifa: instructions for which unifa may not be read. before: the
    instruction executed before, where it matters, else NONE.
    """

    at: int
    branch: int = 0
    target: int = NONE
    switch: tuple[int, ...] = ()
    marked: bool = False
    ending: int = 0
    late: bool = False
    unifa: int = 0
    before: int = NONE

    @classmethod
    def of(cls, row: Sequence[Any]) -> Node:
        """A node from its JSON list."""
        at, branch, target, switch, *rest = row
        return cls(at, branch, target, tuple(switch), *rest)

    @property
    def plain(self) -> bool:
        """Whether nothing is pending, so that the node can be the target of computed branches."""
        return self == Node(self.at, marked=self.marked, before=self.before)


@dataclass(slots=True)
class Translation:
    """The IR of a program.

    stats[i]: static `CHAIN_COUNTS` of the chain of counters[i]. entries: node -> number for `Slot.RESUME`. needs:
    number -> what the chain there takes, in order: (r, u or a for result, uniform or unifa; instruction). rules: rule
    and message by the number in `Slot.RULE`. reached: the translated instructions. lockstep: every request is a
    suspension point. split: the halves of lanes have separate flags.
    """

    module: object  # its str is the IR
    stats: list[list[int]] = field(default_factory=list)
    entries: dict[Node, int] = field(default_factory=dict)
    needs: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    rules: list[tuple[str, str]] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)
    lockstep: bool = False
    split: bool = False
