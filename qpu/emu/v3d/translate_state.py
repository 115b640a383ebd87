"""What translated V3D code and the machine around it share: the state block of a thread, nodes, counts, reasons."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from qpu.emu.v3d.tmu import DATA_CAPACITY, RESULT_CAPACITY

__all__ = [
    "CHAIN",
    "DATA_SLOTS",
    "FIFO_SLOTS",
    "GO_ON",
    "NONE",
    "Arg",
    "Keeper",
    "Kept",
    "Node",
    "NodeStats",
    "Reason",
    "Slot",
    "Translation",
    "Untranslatable",
    "Wait",
]

FIFO_SLOTS = RESULT_CAPACITY  # result vectors a thread can have pending
DATA_SLOTS = DATA_CAPACITY
CHAIN = 512  # instructions of a chain at most
GO_ON = 0xFF  # in THEN: the thread simply goes on


class Reason(enum.IntEnum):
    """Why the code of a thread returned."""

    END = 0
    SWITCH = 1
    BARRIER = 2
    BUDGET = 3
    TMU = 4  # a request that the translated code leaves to the host
    CHECK = 5  # the chain at `resume` cannot run as it is: a result or a word of a stream is missing
    RULE = 6  # what hardware does not define; `rule` says which
    JUMP = 7  # a branch to a node that was not translated; `jump` holds the address
    UNSUPPORTED = 8
    BAD_CODE = 9  # execution came to a word that cannot be executed, or left the program
    YIELD = 10  # others get their turn; nothing else happens


class Slot(enum.IntEnum):
    """Offsets into the state block of a thread, in 32-bit words."""

    RF = 0
    ACC = 1024  # r0..r5
    RTOP = 1120
    MSF = 1136
    LATE = 1152  # 4.2: an SFU result on its way to r4
    ADDRESS = 1168  # of a request handed to the host
    REVF = 1184
    DATA = 1200  # DATA_SLOTS vectors
    FIFO = DATA + 16 * DATA_SLOTS
    SCALARS = FIFO + 16 * FIFO_SLOTS
    RESUME = SCALARS
    UNIFORM = SCALARS + 1
    UNIFA = SCALARS + 2
    CONFIG = SCALARS + 3
    HEAD = SCALARS + 4  # of the result ring
    COUNT = SCALARS + 5
    PENDING = SCALARS + 6  # data words written
    LINK = SCALARS + 7
    A_LO = SCALARS + 8  # flags: one bit a lane, for each half
    A_HI = SCALARS + 9
    B_LO = SCALARS + 10
    B_HI = SCALARS + 11
    TIDX = SCALARS + 12
    MASK = SCALARS + 13  # live lanes of a request handed to the host
    TAKEN = SCALARS + 14
    TARGET = SCALARS + 15
    JUMP = SCALARS + 16
    SYNC = SCALARS + 17  # a barrier was asked for; above bit 0: 1 + the instruction, if results were outstanding there
    AT = SCALARS + 18  # instruction index of the last suspension
    CODE = SCALARS + 19  # address of instruction 0
    PEAK = SCALARS + 20  # most result words pending
    THEN = SCALARS + 21  # the reason that holds once the host has done a request; GO_ON for none
    UNIFORM_HOST = SCALARS + 22  # 64 bits: host address of the next uniform
    UNIFA_HOST = SCALARS + 24
    LEFT = SCALARS + 26  # 64 bits: what remained of the budget
    REQUESTS = SCALARS + 28  # 64 bits each: TMU requests and bytes of the translated code, since the thread started
    READ_BYTES = SCALARS + 30
    WRITE_BYTES = SCALARS + 32
    MARKED = SCALARS + 34  # with JUMP: what is pending there: marked, late << 1, unifa << 2 of `Node`
    UNIFORM_LEFT = SCALARS + 35  # words that can be read from UNIFORM_HOST on
    UNIFA_LEFT = SCALARS + 36
    RULE = SCALARS + 37
    LIMIT = SCALARS + 38  # result words that may be pending before the host looks at it
    LATE_MASK = SCALARS + 39
    SLOT = SCALARS + 40  # supergroup slot
    DOUBTFUL = SCALARS + 41  # 7.1: rf0 does not survive a switch beside another signal's register
    FROZEN = SCALARS + 43  # the request of a TMU exit is a store that waits
    REMARK = SCALARS + 44  # 1 + the last instruction that moved the uniform stream to the link register
    LAST = SCALARS + 42  # where the last request began that loaded consecutive lanes
    SHARED = SCALARS + 45  # 4.2: other threads of the QPU run as well, and a switch costs the accumulators
    WORDS = SCALARS + 48


class Arg(enum.IntEnum):
    """Parameters of the code of one thread."""

    STATE = 0
    MEMORY = 1
    PAGES = 2  # region id of each page
    KEPT = 3  # a `Kept` byte for each page
    COPIES = 4  # host address of the copy of each page, or 0
    KEEPER = 5
    COUNTERS = 6
    BUDGET = 7


class Kept(enum.IntEnum):
    """What the dispatch knows of a page: streams see memory as it was when it started.

    FREE, NEVER and COPIED are those of `qpu.emu.v3d.uniforms`.
    """

    FREE = 0  # copied before the first store, unless a stream comes first
    NEVER = 1  # no stream reads it
    COPIED = 2
    STREAM = 3  # streams read the page itself: the first store is left to the host


class Keeper(enum.IntEnum):
    """64-bit words of the block that all threads share; it has the room for copies of pages."""

    USED = 0
    ROOM = 1  # in pages
    POOL = 2  # address of the room
    PAGES = 3  # address of the list of copied pages, 32 bits each
    FROZEN = 4  # a `Wait`
    WORDS = 5


class Wait(enum.IntEnum):
    """Which threads stop before a request, until it is their turn."""

    NOBODY = 0
    STORES = 1  # who wants to store or has an atomic
    ATOMICS = 2


NONE = -(1 << 40)  # no instruction


class Untranslatable(Exception):
    """The program, or a part that was asked for, is left to the reference engine. args[0]: why."""


class Node(NamedTuple):
    """An instruction with what is pending when it begins.

    at: instruction, counted from where the program starts; branches can go in front of that. branch: delay slots left
    of a branch, 0 = none. target: instruction of its target, NONE = in the state.
    switch: countdowns of thread switches. marked: the last-switch marker was seen. ending: instructions until the
    program ends, 0 = not ending. late: 4.2: an SFU result reaches r4 after this instruction. unifa: instructions in
    which unifa may not be read. before: the instruction executed before, where it matters, else NONE.
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
        """From a list, as JSON gives it."""
        at, branch, target, switch, *rest = row
        return cls(at, branch, target, tuple(switch), *rest)

    @property
    def plain(self) -> bool:
        """Nothing is pending: where computed branches can arrive."""
        return self == Node(self.at, marked=self.marked, before=self.before)


@dataclass(slots=True)
class NodeStats:
    """Static counts of a chain; a run multiplies them with the chain's execution count."""

    instructions: int = 0
    add_ops: int = 0
    mul_ops: int = 0
    fadds: int = 0
    fmuls: int = 0
    uniforms: int = 0
    sfu_ops: int = 0
    branches: int = 0
    switches: int = 0


@dataclass(slots=True)
class Translation:
    """The IR of a program.

    stats[i] belongs to counters[i]. entries: node -> number that `resume` takes. needs: number -> what the chain there
    takes from outside, in order: (r, u or a for result, uniform or unifa; instruction). rules: what `Slot.RULE` means.
    reached: the instructions translated. lockstep: threads take turns at every request. split: the halves of lanes have
    flags of their own.
    """

    ir: str
    stats: list[NodeStats] = field(default_factory=list)
    entries: dict[Node, int] = field(default_factory=dict)
    needs: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    rules: list[tuple[str, str]] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)
    lockstep: bool = False
    split: bool = False
