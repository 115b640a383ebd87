"""Bundling: operations on real registers into instructions, cycle by cycle, by the hazard rules' own windows.

What a block leaves under way (an SFU result, a write of unifa) is carried to its successors as the `after` masks of its
last instructions, so that the first of the next block keep the distances.
"""

from __future__ import annotations

from dataclasses import dataclass

from qpu.core.isa import Isa
from qpu.lang.depend import Node, graph
from qpu.lang.mir import Block, Function, MOp
from qpu.lang.target_v3d import Bundle, V3dTarget
from qpu.v3d.hazards import facts_of
from qpu.v3d.instr import Alu, Branch
from qpu.v3d.rules import BRANCH_SLOTS, RULES

__all__ = ["Scheduled", "bundle"]

TMU_LATENCY = 9  # instructions from a request to its result that are worth filling, four threads on a QPU


@dataclass(slots=True)
class Scheduled:
    """An instruction and the operations in it."""

    instr: Alu | Branch
    ops: list[MOp]
    target: Block | None = None


def bundle(function: Function, target: V3dTarget, capacity: int) -> dict[Block, list[Scheduled]]:
    """The instructions of each block, branches and their delay slots included."""
    found: dict[Block, list[Scheduled]] = {}
    history: list[int] = []
    for block in function.blocks:
        found[block], history = _Block(target, block, capacity, history).run()
    return found


class _Block:
    """One block. history: `after` masks of the instructions before it."""

    def __init__(self, target: V3dTarget, block: Block, capacity: int, history: list[int]) -> None:
        self.target = target
        self.block = block
        self.capacity = capacity
        self.windows = RULES.windows[target.isa]
        self.history = list(history)
        self.out: list[Scheduled] = []
        self.flags_at = -1

    def run(self) -> tuple[list[Scheduled], list[int]]:
        nodes = graph(self.block.ops, self.target.effects, self.capacity, TMU_LATENCY)
        ready = [n for n in nodes if not n.waits]
        left = len(nodes)
        cycle = 0
        while left:
            made = self._cycle(ready, cycle)
            left -= len(made.ops)
            cycle += 1
        self._branch()
        reach = self.windows.reach
        return self.out, self.history[-reach:]

    def _cycle(self, ready: list[Node], cycle: int) -> Scheduled:
        """The next instruction: the most urgent operation that may come now, then what fits beside it."""
        bundle = Bundle()
        instr: Alu | None = None
        taken: list[Node] = []
        released: list[Node] = []
        again = True
        while again:
            again = False
            for n in sorted((n for n in ready if n.earliest <= cycle), key=lambda n: (-n.priority, n.index)):
                kept = (bundle.halves, bundle.sig, bundle.sig_dst, bundle.rot, bundle.peripherals, list(bundle.ops))
                if not (self.target.put(bundle, n.m) or self.target.choices_moved(bundle, n.m)):
                    continue
                made = self.target.instruction(bundle)
                facts = facts_of(made)
                if facts.remarks or self.windows.broken(self.history, facts.before):
                    (bundle.halves, bundle.sig, bundle.sig_dst, bundle.rot, bundle.peripherals, bundle.ops) = kept
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
            instr = self.target.instruction(Bundle())
        return self._append(Scheduled(instr, [n.m for n in taken]))

    def _append(self, made: Scheduled) -> Scheduled:
        self.out.append(made)
        self.history.append(facts_of(made.instr).after)
        return made

    def _branch(self) -> None:
        """The branch as early as flags and windows allow, at most BRANCH_SLOTS before the end; then nops."""
        if self.block.branch is None:
            return
        to, cond = self.block.branch
        instr = Branch(self.target.isa, cond=cond, bdi="rel")
        before = facts_of(instr).before
        lowest = max(len(self.out) - BRANCH_SLOTS, self.flags_at + 1 if cond else 0, 0)
        start = len(self.history) - len(self.out)
        at = lowest
        while at < len(self.out) and self.windows.broken(self.history[: start + at], before):
            at += 1
        self.out.insert(at, Scheduled(instr, [], to))
        nop = self.target.instruction(Bundle())
        while at >= 0 and self.windows.broken(self.history[: start + at], before):
            self.out.insert(at, Scheduled(nop, []))
            self.history.insert(start + at, facts_of(nop).after)
            at += 1
        while len(self.out) - at - 1 < BRANCH_SLOTS:
            self.out.append(Scheduled(nop, []))
        self.history = self.history[:start] + [facts_of(s.instr).after for s in self.out]


_ISA = Isa
