"""Translated VideoCore IV programs, kept between launches, and the decision which parts of a program to translate."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.directed import fastest
from qpu.emu.engine.host_cpu import host
from qpu.emu.engine.memory import Memory
from qpu.emu.engine.native import Interrupted, NativeCode, NativeProgram, Translate, recall, remember
from qpu.emu.vc4.prepare import Place
from qpu.emu.vc4.state import BUS_MASK
from qpu.emu.vc4.translate import translate
from qpu.emu.vc4.translate_graph import MUTEX, NOWHERE, Graph, Node, releases
from qpu.emu.vc4.translate_state import COUNTERS

__all__ = ["MAX_NANS", "Program", "program_at"]

WORTH = 6  # native instructions in a row from which on leaving the reference engine saves time
MAX_WORDS = 1 << 14  # instructions of a program that are examined
MAX_BUILDS = 24  # translations of one program; code that is reached later runs on the reference engine
MAX_SITUATIONS = 50_000
PATIENCE = 3  # times that a QPU must reach code that is not translated before it is translated
WARM = 12  # times the reference engine executes an instruction before it is translated; 0: before anything runs
SOON, SPREAD = 3, 500  # of a program of n instructions SOON + SPREAD / n times, where that is less
SMALL = 256  # instructions up to which a program is translated as a whole, whichever parts of it are warm
LARGEST = 1000  # nodes of one translation; of larger programs the most executed ones
COLD = "not executed often enough"
MAX_NANS = 16  # chains undone because of a NaN before a program is translated again, in the exact variant


class Program(NativeProgram):
    """A program: its control-flow graph, its machine code, and the counts of its chains."""

    HOT = 600_000  # executions after which the full level has repaid its translation

    def __init__(self, words: NDArray[np.uint64]) -> None:
        super().__init__()
        self.graph = Graph(words.tolist())
        self.floats = fastest(host())
        self.builds = 0
        self.nodes: list[Node] = []
        self.starts: dict[tuple[int, int, int, int, int], int] = {}  # (at, sfu, history) -> number
        self.at: frozenset[int] = frozenset()
        self.stores: frozenset[int] = frozenset()  # numbers of nodes that change what other QPUs see
        self.nans = 0
        self._seen: dict[tuple[int, int, tuple[int, int, int]], int] = {}
        self.tallies = np.zeros((0, len(COUNTERS)), np.int64)
        self.matrix = self.tallies
        self.known: dict[tuple[int, int, tuple[int, int, int]], int | None] = {}  # what `start` returns
        self._heat = np.zeros(len(words), np.int64)  # executions by the reference engine
        self._asked: set[int] = set()  # instructions that `start` was called for since they became warm
        self._looked = False  # whether `discover` was called
        self.graph.explore([Node(0)])  # `covers` compares the instructions that can be reached
        self._warm = min(WARM, SOON + SPREAD // max(1, len(self.graph.plans)))
        if WARM:
            self._recall()
        else:
            self.discover([Node(0)])

    # -- what is worth a translation

    def executed_by_reference(self, first: int, count: int) -> None:
        """The reference engine has executed `count` instructions from `first` on, for one group of QPUs."""
        if 0 <= first < len(self._heat):
            self._heat[first : first + count] += 1

    def _recall(self) -> None:
        """Translate at once what was worth it in an earlier process, if the cache has its note."""
        note = recall(self._identity("heat"))
        if note is not None:
            for at, count in note["heat"]:
                self._heat[at] = count
            self.discover([Node(*n) for n in note["roots"]])

    def _remember(self) -> None:
        at = np.flatnonzero(self._heat)
        remember(
            self._identity("heat"),
            {"roots": self.graph.roots, "heat": list(zip(at.tolist(), self._heat[at].tolist(), strict=True))},
        )

    def _identity(self, *more: object) -> bytes:
        """What a cache entry about the program depends on."""
        words = sorted((i, int(self.graph.words[i])) for i in self.graph.plans)
        return repr(("vc4", *more, len(self.graph.words), words)).encode()

    def warm(self, at: int) -> bool:
        """Whether an instruction is worth a translation."""
        return not WARM or (0 <= at < len(self._heat) and self._heat[at] >= self._warm)

    def ripe(self, at: int) -> bool:
        """Whether an instruction has become warm and `start` has not been called for it since."""
        return at not in self._asked and self._due(at)

    def _due(self, at: int) -> bool:
        """Whether an instruction is executed often enough to translate everything again, with what follows it."""
        return self.warm(at) and (not WARM or self._heat[at] >= self._warm + len(self.nodes) // 4)

    def _leave_cold(self) -> None:
        """Mark nodes that are executed too rarely to be worth a translation: outside the loops around warm code."""
        graph, heat = self.graph, self._heat
        if not WARM or len(graph.plans) <= SMALL:
            return
        nodes = [n for n in graph.follow if n not in graph.reasons]
        least = max(2, self._warm // 4)
        loops = graph.loops([n for n in nodes if heat[n.at] >= self._warm])
        if len(nodes) > LARGEST:
            loops.clear()
            least = max(least, int(sorted(heat[[n.at for n in nodes]])[-LARGEST]))
        for node in nodes:
            if heat[node.at] < least and node not in loops:
                graph.reasons[node] = COLD

    def covers(self, words: NDArray[np.uint64]) -> bool:
        """Whether `words` holds this program. Only instructions that can be reached are compared."""
        if len(words) != len(self.graph.words):
            return False
        return all(self.graph.words[i] == words[i] for i in self.graph.plans)

    def discover(self, roots: Sequence[Node]) -> None:
        """Translate again, with these nodes as additional entries."""
        self._looked = True
        graph = self.graph
        graph.explore(roots)
        graph.reasons.clear()
        graph.mark()
        self._leave_cold()
        worth = self._worth()
        # QPUs come from the reference engine or start a time slice here. More entries would only shorten chains.
        doors = set(graph.roots)
        for node, after in graph.follow.items():
            plan = graph.plan(node.at)
            if node in graph.reasons or node.left == 1 or (plan is not None and releases(plan)):
                doors.update(after)
        self._writing = [n for n in graph.follow if n not in graph.reasons and stores(graph, n)]
        self._entries = [n for n in graph.follow if n in doors and not n.left and worth[n] >= WORTH]
        if self._entries:
            with suppress(Interrupted):  # the reference engine continues
                self.build()

    def _worth(self) -> dict[Node, int]:
        """Native instructions from each node to the first that is not native or that jumps, at most WORTH."""
        graph = self.graph
        found: dict[Node, int] = {}
        for node in graph.follow:
            at, count = node, 0
            while count < WORTH and at in graph.follow and at not in graph.reasons:
                count += 1
                after = graph.follow[at]
                if not after:
                    break
                at = after[-1]
            found[node] = count
        return found

    def build(self) -> None:
        """Translate from all entry nodes."""
        graph, doors = self.graph, self._entries
        entries = [*doors, *(n for n in self._writing if n not in set(doors))]
        avx512 = host().avx512
        identity = self._identity(self.floats.value, avx512, graph.latches, entries)

        def make() -> tuple[object, dict[str, Any]]:
            made = translate(graph, entries, floats=self.floats, avx512=avx512)
            return made.module, {
                "nodes": [list(n) for n in made.nodes],
                "tallies": [t.row for t in made.tallies],
                "entries": made.entries,
            }

        misses = self.misses
        meta = self._build(identity, make)
        self.builds += 1
        if WARM and self.misses > misses:
            self._remember()
        self.nodes = [Node(*n) for n in meta["nodes"]]
        self.matrix = np.array(meta["tallies"], np.int64).reshape(-1, len(COUNTERS))
        self.size = int(self.matrix[:, 0].sum())  # instructions of all chains
        self.starts = {}
        self.known.clear()
        numbers = meta["entries"]
        for number in numbers[: len(doors)]:
            n = self.nodes[number]
            self.starts[n.at, n.sfu, n.one, n.two, n.three] = number
        writing = set(self._writing)
        self.stores = frozenset(number for number in numbers if self.nodes[number] in writing)
        self.at = frozenset(n.at for n in doors)

    def _bind(self, code: NativeCode) -> None:
        pointers = [ctypes.c_void_p] * 3
        self.run = code.function(ctypes.c_int32, *pointers, ctypes.c_int64, *pointers[:2], ctypes.c_int64)

    def _again(self) -> Translate:
        if self._code.text:
            return self._translate
        made = self._translate()  # on the calling thread, because the graph may grow while LLVM runs
        return lambda: made

    def start(
        self, at: int, sfu: int, history: tuple[int, int, int], *, before: Callable[[], None] = lambda: None
    ) -> int | None:
        """The number of the node to start native code at; None when the reference engine must continue.

        before: called if the program is to be translated again, while its numbers are still valid.
        """
        situation = at, sfu, history
        if not self.warm(at):
            return None
        if situation not in self.known and at not in self.at and not self._due(at):
            return None
        if situation not in self.known:
            graph = self.graph
            node = graph.node(at, 0, NOWHERE, sfu, history)
            fresh = not self._looked or node not in graph.follow or graph.reasons.get(node) == COLD
            if fresh and self.builds < MAX_BUILDS and graph.plan(at) is not None:
                seen = self._seen[situation] = self._seen.get(situation, 0) + 1
                if self.builds and seen < PATIENCE:
                    return None
                self._seen.clear()
                before()
                self.discover([node])
            found = self.starts.get((at, sfu, node.one, node.two, node.three))
            if len(self.known) > MAX_SITUATIONS:
                self.known.clear()
            self.known[situation] = found
        self._asked.add(at)
        return self.known[situation]


def stores(graph: Graph, node: Node) -> bool:
    """Whether a native instruction changes what other QPUs see.

    That is the VPM (address 48, or 50 of file A), memory (50 of file B), or the mutex.
    """
    plan = graph.plan(node.at)
    if plan is None:
        return False
    if plan.needs_mutex:
        return True
    return any(h.dest.place is Place.IO and h.dest.number in (48, 50, MUTEX) for h in (plan.add, plan.mul))


_PROGRAMS: list[Program] = []
_MAX_PROGRAMS = 128


def program_at(memory: Memory, code: int) -> Program | None:
    """The program at a bus address; None when it lies outside all buffers or is not aligned."""
    address = code & BUS_MASK
    region = memory.region_at(address)
    if region is None or address % 8:
        return None
    count = min((region.end - address) // 8, MAX_WORDS)
    words = memory.bytes[address : address + 8 * count].view(np.uint64)
    for program in _PROGRAMS:
        if program.covers(words):
            return program
    if len(_PROGRAMS) >= _MAX_PROGRAMS:
        del _PROGRAMS[0]
    program = Program(words)
    _PROGRAMS.append(program)
    return program
