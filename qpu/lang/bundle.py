"""Bundling: operations on real registers into instructions, cycle by cycle, by the hazard rules' own windows.

What a block leaves under way (an SFU result, a write of unifa) is carried to its successors as the `after` masks of its
last instructions, so that the first of the next block keep the distances.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from qpu.core.hazards import Facts, Windows
from qpu.lang.depend import Node, graph
from qpu.lang.mir import Block, Fixed, Function, MOp
from qpu.lang.modulo import Pipeline, overlap, split
from qpu.lang.watch import passed

__all__ = ["Scheduled", "Target", "bundle"]


class Target(Protocol):
    """What the scheduler asks of a chip. Instructions and half-filled bundles are its own affair."""

    @property
    def colour(self) -> dict[int, Fixed]: ...
    @property
    def windows(self) -> Windows: ...
    @property
    def branch_slots(self) -> int: ...
    @property
    def rotation(self) -> int:
        """Instructions from a value to its rotation, for priorities."""
        ...

    def new(self, closed: int = 0, barred: int = 0) -> Any:
        """An empty bundle. closed: windows that exclude it; barred: windows that it may not open."""
        ...

    def put(self, bundle: Any, m: MOp) -> bool:
        """Add an operation where it has room; one that is there may move to its other unit. What was refused once is
        refused by the same bundle for ever. `bundle.after` and `bundle.before` are its masks of windows.
        """
        ...

    def instruction(self, bundle: Any) -> Any:
        """The instruction of a bundle."""
        ...

    def branch(self, condition: str) -> Any:
        """A branch whose offset is filled in later."""
        ...

    def facts(self, instr: Any) -> Facts:
        """What the hazard rules need to know of an instruction."""
        ...

    def least(self, ops: Sequence[MOp]) -> int:
        """Instructions that these operations need at least."""
        ...

    def effects(self, m: MOp) -> tuple[set[object], set[object], int]:
        """Resources that an operation reads and writes, and instructions until a reader may follow."""
        ...


TMU_LATENCY = 9  # instructions from a request to its result that are worth filling, four threads on a QPU


@dataclass(slots=True)
class Scheduled:
    """An instruction and the operations in it. after, before: its masks of windows; target: of a branch."""

    instr: Any
    ops: list[MOp]
    target: Block | None = None
    after: int = 0
    before: int = 0


def bundle(function: Function, target: Target, capacity: int) -> dict[Block, list[Scheduled]]:
    """The instructions of each block, branches and their delay slots included. Loops of one block whose turns may
    overlap become three blocks (`qpu.lang.modulo`).
    """
    found: dict[Block, list[Scheduled]] = {}
    leads: dict[Block, list[list[int]]] = {}
    runs: dict[Block, _Block] = {}
    alone = _loops(function, target, capacity)
    for block in function.blocks:
        ways = leads.get(block, [])
        run = alone.get(block)
        if run is not None:  # it begins as its turns do: what is under way in front of it ends there
            found[block] = run.out
            next(runs[b] for b in runs if b.falls is block).pad(run.out)
        else:
            run = _shortest(target, block, capacity, _joined(ways, target.windows.reach), found)
            found[block] = run.out
        runs[block] = run
        for successor in block.successors:  # a loop that follows may still pad this block, for those that fall into it
            jumps = block.branch is not None and block.branch[0] is successor
            leads.setdefault(successor, []).append(list(run.history) if jumps else run.history)
    return found


def _loops(function: Function, target: Target, capacity: int) -> dict[Block, _Block]:
    """Loops of one block that only the block in front of them leads to. Their turns overlap where that is shorter."""
    found: dict[Block, _Block] = {}
    blocks: list[Block] = []
    for block in function.blocks:
        blocks.append(block)
        if block.branch is None or block.branch[0] is not block:
            continue
        ways = [b for b in function.blocks if block in b.successors and b is not block]
        if len(ways) != 1 or ways[0].falls is not block:
            continue
        found[block] = run = _shortest(target, block, capacity, [], {})
        pipeline = overlap(block, target, capacity, TMU_LATENCY, len(run.out))
        if pipeline is not None:
            if pipeline.second:
                before, after = split(block, pipeline)
                ways[0].falls = before
                blocks[-1:] = [before, block, after]
            found[block] = _Block(target, block, [], TRIES[0]).take(pipeline)
    if len(blocks) > len(function.blocks):
        function.blocks[:] = blocks
        passed("modulo", function, target.colour)
    return found


TRIES: Final = ("late", "early")
"""Ways to place what sets or asks flags, the shortest loop of one block counts: behind equally urgent operations, as
their instructions have no room for signals; or the addition that tests the end before everything else.
"""


def _shortest(
    target: Target, block: Block, capacity: int, history: list[int], done: dict[Block, list[Scheduled]]
) -> _Block:
    """The block by the best of the ways to place what sets flags."""
    tries = TRIES if block.branch is not None and block.branch[0] is block else TRIES[:1]
    asks = 1 + target.branch_slots if block.branch is not None and block.branch[1] else 0
    nodes = graph(block.ops, target.effects, capacity, TMU_LATENCY, asks, block.pending, target.rotation)
    waits = [n.waits for n in nodes]
    runs = []
    for flags in tries:
        for n, count in zip(nodes, waits, strict=True):
            n.waits, n.earliest = count, 0
        run = _Block(target, block, history, flags)
        run.run(nodes, done)
        runs.append(run)
    return min(runs, key=lambda r: len(r.out))


def _joined(ways: list[list[int]], reach: int) -> list[int]:
    """What may be under way, whatever block came before: the masks of each distance together."""
    masks = [0] * reach
    for way in ways:
        for d, mask in enumerate(reversed(way[-reach:]), 1):
            masks[-d] |= mask
    return masks


class _Block:
    """One block. history: `after` masks of the instructions before it."""

    def __init__(self, target: Target, block: Block, history: list[int], flags: str) -> None:
        self.target = target
        self.flags = flags
        self.block = block
        self.windows = target.windows
        self.history = list(history)
        self.out: list[Scheduled] = []
        self.flags_at = -1
        self.stays = 0  # windows without end that instructions further back have opened

    def run(self, nodes: list[Node], done: dict[Block, list[Scheduled]]) -> None:
        """Make the instructions. nodes: the operations; done: blocks that are scheduled, which a branch may lead
        back to.
        """
        asks = self.block.branch is not None and self.block.branch[1]
        last = next((n for n in reversed(nodes) if n.m.push or n.m.update), None)
        if self.flags == "early" and asks and last is not None:
            last.priority += len(nodes)
        ready = sorted(self._rank(n) for n in nodes if not n.waits)
        left = len(nodes)
        cycle = idle = 0
        while left:
            taken = self._cycle(ready, cycle)
            left -= taken
            cycle += 1
            idle = 0 if taken else idle + 1
            if idle > self.windows.reach + SLOWEST:
                raise AssertionError(f"no instruction can take {ready[0][3].m}")
        self._branch()
        self._keep_out_of(done)

    def take(self, pipeline: Pipeline) -> _Block:
        """Have the instructions of a loop whose turns overlap."""
        assert self.block.branch is not None
        to, cond = self.block.branch
        instr = self.target.branch(cond)
        facts = self.target.facts(instr)
        self.out = [self._made(b) for b in pipeline.bundles]
        self.out.insert(pipeline.branch, Scheduled(instr, [], to, facts.after, facts.before))
        self.history = [s.after for s in self.out]
        return self

    def _recent(self, history: list[int]) -> int:
        """Windows of limited length that exclude an instruction behind these."""
        closed = 0
        for distance in range(1, min(self.windows.reach, len(history)) + 1):
            closed |= history[-distance] & self.windows.at[distance]
        return closed

    def _closed(self, history: list[int]) -> int:
        """Windows that exclude an instruction behind these."""
        closed = self._recent(history)
        for after in history[: -self.windows.reach or None]:
            closed |= after & self.windows.rest
        return closed

    def _cycle(self, ready: list[Ranked], cycle: int) -> int:
        """The next instruction: the most urgent operation that may come now, then what fits beside it. How many."""
        target = self.target
        bundle = target.new(self._recent(self.history) | self.stays)
        later: list[Ranked] = []  # that may come in a later cycle
        todo = ready[:]
        ready.clear()
        at = 0
        while at < len(todo):
            row = todo[at]
            at += 1
            n = row[3]
            if n.earliest > cycle or not target.put(bundle, n.m):
                later.append(row)
                continue
            for other, distance in n.after:
                other.waits -= 1
                other.earliest = max(other.earliest, cycle + distance)
                if not other.waits:
                    insort(todo, self._rank(other), at)
            if n.m.push or n.m.update:
                self.flags_at = cycle
        later.sort()
        ready += later
        self._append(self._made(bundle))
        return len(bundle.ops)

    def _rank(self, n: Node) -> Ranked:
        m = n.m
        return -n.priority, m.role == "pop" or (self.flags == "late" and bool(m.push or m.cond or m.update)), n.index, n

    def _made(self, bundle: Any) -> Scheduled:
        return Scheduled(self.target.instruction(bundle), bundle.ops, None, bundle.after, bundle.before)

    def _append(self, made: Scheduled) -> None:
        self.out.append(made)
        self.history.append(made.after)
        if len(self.history) > self.windows.reach:
            self.stays |= self.history[-self.windows.reach - 1] & self.windows.rest

    def _branch(self) -> None:
        """The branch as early as flags and windows allow, at most `branch_slots` before the end; then nops."""
        if self.block.branch is None:
            return
        to, cond = self.block.branch
        target, slots = self.target, self.target.branch_slots
        instr = target.branch(cond)
        facts = target.facts(instr)
        lowest = max(len(self.out) - slots, self.flags_at + 1 if cond else 0, 0)
        start = len(self.history) - len(self.out)
        at = lowest
        while at < len(self.out) and self._closed(self.history[: start + at]) & facts.before:
            at += 1
        self.out.insert(at, Scheduled(instr, [], to, facts.after, facts.before))
        while at >= 0 and self._closed(self.history[: start + at]) & facts.before:
            self.out.insert(at, self._made(target.new()))
            self.history.insert(start + at, self.out[at].after)
            at += 1
        while len(self.out) - at - 1 < slots:
            self.out.append(self._made(target.new()))
        self.history = self.history[:start] + [s.after for s in self.out]

    def _keep_out_of(self, done: dict[Block, list[Scheduled]]) -> None:
        """A branch back must leave nothing under way that the first instructions of its target must not meet."""
        if self.block.branch is None:
            return
        to = self.block.branch[0]
        first = done.get(to, self.out if to is self.block else None)
        while first is not None and self._clashes(first):
            at = next(i for i, s in enumerate(self.out) if s.target is not None)
            branch = self.out.pop(at)
            self.out.append(self._made(self.target.new()))
            self.out.insert(at + 1, branch)  # one later, so that its slots stay as many
            start = len(self.history) - len(self.out) + 1
            self.history = self.history[:start] + [s.after for s in self.out]

    def pad(self, first: list[Scheduled]) -> None:
        """End with what is under way, so that these instructions may come next."""
        while self._clashes(first):
            self._append(self._made(self.target.new()))

    def _clashes(self, first: list[Scheduled]) -> bool:
        history = list(self.history)
        for row in first[: self.windows.reach]:
            if self._closed(history) & row.before:
                return True
            history.append(row.after)
        return False


SLOWEST = 8  # instructions that an operation may have to wait for another, beside the windows of the rules
Ranked = tuple[int, bool, int, Node]
"""An operation by urgency: the least first."""
