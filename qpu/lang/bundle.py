"""Bundling: operations on real registers into instructions, cycle by cycle, by the hazard rules' own windows.

What a block leaves under way (an SFU result, a write of unifa) is carried to its successors as the `after` masks of its
last instructions, so that the first of the next block keep the distances.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import Any, Protocol

from qpu.core.hazards import Facts, Windows
from qpu.lang.depend import Node, graph
from qpu.lang.mir import Block, Function, MOp

__all__ = ["Scheduled", "Target", "bundle"]


class Target(Protocol):
    """What the scheduler asks of a chip. Instructions and half-filled bundles are its own affair."""

    @property
    def windows(self) -> Windows: ...
    @property
    def branch_slots(self) -> int: ...

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
    """The instructions of each block, branches and their delay slots included."""
    found: dict[Block, list[Scheduled]] = {}
    leads: dict[Block, list[list[int]]] = {}
    for block in function.blocks:
        run = _Block(target, block, capacity, _joined(leads.get(block, []), target.windows.reach))
        found[block] = run.run(found)
        for successor in block.successors:
            leads.setdefault(successor, []).append(run.history)
    return found


def _joined(ways: list[list[int]], reach: int) -> list[int]:
    """What may be under way, whatever block came before: the masks of each distance together."""
    masks = [0] * reach
    for way in ways:
        for d, mask in enumerate(reversed(way[-reach:]), 1):
            masks[-d] |= mask
    return masks


class _Block:
    """One block. history: `after` masks of the instructions before it."""

    def __init__(self, target: Target, block: Block, capacity: int, history: list[int]) -> None:
        self.target = target
        self.block = block
        self.capacity = capacity
        self.windows = target.windows
        self.history = list(history)
        self.out: list[Scheduled] = []
        self.flags_at = -1
        self.stays = 0  # windows without end that instructions further back have opened

    def run(self, done: dict[Block, list[Scheduled]]) -> list[Scheduled]:
        """The instructions. done: blocks that are scheduled, which a branch may lead back to."""
        branch = self.block.branch
        asks = 1 + self.target.branch_slots if branch is not None and branch[1] else 0
        nodes = graph(self.block.ops, self.target.effects, self.capacity, TMU_LATENCY, asks, self.block.pending)
        ready = sorted(_rank(n) for n in nodes if not n.waits)
        left = len(nodes)
        cycle = idle = 0
        while left:
            taken = self._cycle(ready, cycle)
            left -= taken
            cycle += 1
            idle = 0 if taken else idle + 1
            if idle > self.windows.reach + SLOWEST:
                raise AssertionError(f"no instruction can take {ready[0][2].m}")
        self._branch()
        self._keep_out_of(done)
        return self.out

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
            n = row[2]
            if n.earliest > cycle or not target.put(bundle, n.m):
                later.append(row)
                continue
            for other, distance in n.after:
                other.waits -= 1
                other.earliest = max(other.earliest, cycle + distance)
                if not other.waits:
                    insort(todo, _rank(other), at)
            if n.m.push or n.m.update:
                self.flags_at = cycle
        later.sort()
        ready += later
        self._append(self._made(bundle))
        return len(bundle.ops)

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

    def _clashes(self, first: list[Scheduled]) -> bool:
        history = list(self.history)
        for row in first[: self.windows.reach]:
            if self._closed(history) & row.before:
                return True
            history.append(row.after)
        return False


SLOWEST = 8  # instructions that an operation may have to wait for another, beside the windows of the rules
Ranked = tuple[int, int, Node]
"""An operation by urgency: the least first, by priority, then by place."""


def _rank(n: Node) -> Ranked:
    return -n.priority, n.index, n
