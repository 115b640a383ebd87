"""Bundling: operations on real registers into instructions, cycle by cycle, by the hazard rules' own windows.

What a block leaves under way (an SFU result, a write of unifa) is carried to its successors as the `after` masks of its
last instructions, so that the first of the next block keep the distances.
"""

from __future__ import annotations

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

    def new(self) -> Any:
        """An empty bundle."""
        ...

    def save(self, bundle: Any) -> Any:
        """What `restore` brings back."""
        ...

    def restore(self, bundle: Any, saved: Any) -> None: ...

    def put(self, bundle: Any, m: MOp) -> bool:
        """Add an operation, where it has room."""
        ...

    def put_moving(self, bundle: Any, m: MOp) -> bool:
        """As `put`, with the operation that is there moved to its other unit."""
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
    """An instruction and the operations in it."""

    instr: Any
    ops: list[MOp]
    target: Block | None = None


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

    def run(self, done: dict[Block, list[Scheduled]]) -> list[Scheduled]:
        """The instructions. done: blocks that are scheduled, which a branch may lead back to."""
        branch = self.block.branch
        asks = 1 + self.target.branch_slots if branch is not None and branch[1] else 0
        nodes = graph(self.block.ops, self.target.effects, self.capacity, TMU_LATENCY, asks, self.block.pending)
        ready = [n for n in nodes if not n.waits]
        left = len(nodes)
        cycle = 0
        while left:
            made = self._cycle(ready, cycle)
            left -= len(made.ops)
            cycle += 1
        self._branch()
        self._keep_out_of(done)
        return self.out

    def _cycle(self, ready: list[Node], cycle: int) -> Scheduled:
        """The next instruction: the most urgent operation that may come now, then what fits beside it."""
        target = self.target
        bundle = target.new()
        instr: Any = None
        taken: list[Node] = []
        released: list[Node] = []
        again = True
        while again:
            again = False
            for n in sorted((n for n in ready if n.earliest <= cycle), key=lambda n: (-n.priority, n.index)):
                kept = target.save(bundle)
                if not (target.put(bundle, n.m) or target.put_moving(bundle, n.m)):
                    continue
                made = target.instruction(bundle)
                facts = target.facts(made)
                if facts.breaches or self.windows.broken(self.history, facts.before):
                    target.restore(bundle, kept)
                    continue
                instr = made
                taken.append(n)
                ready.remove(n)
                for other, distance in n.after:
                    other.waits -= 1
                    other.earliest = max(other.earliest, cycle + distance)
                    if not other.waits:
                        (ready if distance == 0 else released).append(other)
                if n.m.push or n.m.update:
                    self.flags_at = cycle
                again = True
                break
        ready += released
        if instr is None:
            instr = target.instruction(target.new())
        return self._append(Scheduled(instr, [n.m for n in taken]))

    def _append(self, made: Scheduled) -> Scheduled:
        self.out.append(made)
        self.history.append(self.target.facts(made.instr).after)
        return made

    def _branch(self) -> None:
        """The branch as early as flags and windows allow, at most `branch_slots` before the end; then nops."""
        if self.block.branch is None:
            return
        to, cond = self.block.branch
        target, slots = self.target, self.target.branch_slots
        instr = target.branch(cond)
        before = target.facts(instr).before
        lowest = max(len(self.out) - slots, self.flags_at + 1 if cond else 0, 0)
        start = len(self.history) - len(self.out)
        at = lowest
        while at < len(self.out) and self.windows.broken(self.history[: start + at], before):
            at += 1
        self.out.insert(at, Scheduled(instr, [], to))
        nop = target.instruction(target.new())
        while at >= 0 and self.windows.broken(self.history[: start + at], before):
            self.out.insert(at, Scheduled(nop, []))
            self.history.insert(start + at, target.facts(nop).after)
            at += 1
        while len(self.out) - at - 1 < slots:
            self.out.append(Scheduled(nop, []))
        self.history = self.history[:start] + [target.facts(s.instr).after for s in self.out]

    def _keep_out_of(self, done: dict[Block, list[Scheduled]]) -> None:
        """A branch back must leave nothing under way that the first instructions of its target must not meet."""
        if self.block.branch is None:
            return
        to = self.block.branch[0]
        first = done.get(to, self.out if to is self.block else None)
        while first is not None and self._clashes(first):
            at = next(i for i, s in enumerate(self.out) if s.target is not None)
            nop = Scheduled(self.target.instruction(self.target.new()), [])
            branch = self.out.pop(at)
            self.out.append(nop)
            self.out.insert(at + 1, branch)  # one later, so that its slots stay as many
            start = len(self.history) - len(self.out) + 1
            self.history = self.history[:start] + [self.target.facts(s.instr).after for s in self.out]

    def _clashes(self, first: list[Scheduled]) -> bool:
        history = list(self.history)
        for row in first[: self.windows.reach]:
            facts = self.target.facts(row.instr)
            if self.windows.broken(history, facts.before):
                return True
            history.append(facts.after)
        return False
