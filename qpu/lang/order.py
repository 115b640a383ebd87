"""Ordering: list scheduling on virtual registers, before colouring. It shortens dependences and keeps the number of
live values below a limit: when it is reached, what frees most goes first, and what only adds a live value waits.
"""

from __future__ import annotations

from collections.abc import Callable

from qpu.lang.depend import Node, graph, virtual_effects
from qpu.lang.liveness import bits, liveness
from qpu.lang.mir import Block, Function, MOp

__all__ = ["order"]

Slots = Callable[[MOp], tuple[str, ...]]
"""Which of the slots of an instruction an operation may take: "add", "mul", "signal"."""


def order(function: Function, slots: Slots, capacity: int, limit: int) -> None:
    """Reorder the operations of every block. limit: values that may be live."""
    into, out = liveness(function)
    for block in function.blocks:
        _block(block, slots, capacity, limit, into[block], out[block])


def _block(block: Block, slots: Slots, capacity: int, limit: int, into: int, out: int) -> None:
    nodes = graph(block.ops, virtual_effects, capacity, 1)
    left: dict[int, int] = {}
    for node in nodes:
        for r in set(node.m.reads()):
            left[r] = left.get(r, 0) + 1
    live = set(bits(into))
    stays = set(bits(out))

    def growth(node: Node) -> int:
        """How many more values are live after the operation."""
        m = node.m
        reads = set(m.reads())
        dies = sum(1 for r in reads if left[r] == 1 and r in live and r not in stays)
        born = sum(1 for w in m.writes() if w not in live and (left.get(w, 0) or w in stays))
        return born - dies

    ready = [n for n in nodes if not n.waits]
    result: list[MOp] = []
    cycle = 0
    remaining = len(nodes)
    while remaining:
        taken: set[str] = set()
        while True:
            tight = len(live) >= limit
            best: tuple[tuple[int, ...], Node, str] | None = None
            for n in ready:
                if n.earliest > cycle:
                    continue
                slot = next((s for s in slots(n.m) if s not in taken), None)
                if slot is None:
                    continue
                grows = growth(n) if tight else 0
                key = (grows, n.index) if tight else (-n.priority, n.index)
                if tight and grows > 0 and any(growth(x) <= 0 for x in ready if x is not n):
                    continue
                if best is None or key < best[0]:
                    best = (key, n, slot)
            if best is None:
                break
            _, n, slot = best
            taken.add(slot)
            ready.remove(n)
            remaining -= 1
            result.append(n.m)
            for r in set(n.m.reads()):
                left[r] -= 1
                if not left[r] and r not in stays:
                    live.discard(r)
            for w in n.m.writes():
                if left.get(w, 0) or w in stays:
                    live.add(w)
            for other, distance in n.after:
                other.waits -= 1
                other.earliest = max(other.earliest, cycle + distance)
                if not other.waits:
                    ready.append(other)
        cycle += 1
    block.ops = result
