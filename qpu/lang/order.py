"""Ordering: list scheduling on virtual registers, before colouring. It shortens dependences and keeps the number of
live values below a limit: when it is reached, what frees most goes first, and what only adds a live value waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qpu.lang.depend import Node, graph, virtual_effects
from qpu.lang.liveness import bits, liveness
from qpu.lang.mir import Block, Function, MOp

__all__ = ["order"]

Slots = Callable[[MOp], tuple[str, ...]]
"""Which of the slots of an instruction an operation may take: "add", "mul", "signal"."""


def order(function: Function, slots: Slots, capacity: int, limit: int, rotation: int = 1) -> None:
    """Reorder the operations of every block. limit: values that may be live; rotation: instructions
    from a value to its rotation.

    In a block in which values rotate, what the kernel says first goes first: then it needs fewer accumulators at a
    time, of which there are few.
    """
    into, out = liveness(function)
    for block in function.blocks:
        _block(block, slots, capacity, limit, into[block], out[block], rotation)


_SLOTS: Final = {"add": 1, "mul": 2, "signal": 4}


class _Row:
    """A node with what ordering asks of it again and again. rank: among those that may be next, the least first; slots:
    a bit for each slot that it may take, the lowest first.
    """

    __slots__ = ("node", "rank", "reads", "slots", "writes")

    def __init__(self, node: Node, slots: tuple[str, ...]) -> None:
        self.node = node
        self.slots = sum(_SLOTS[slot] for slot in slots)
        self.reads = tuple(set(node.m.reads()))
        self.writes = tuple(node.m.writes())
        self.rank = (-node.priority, node.index)


def _block(block: Block, slots: Slots, capacity: int, limit: int, into: int, out: int, rotation: int) -> None:
    nodes = graph(block.ops, virtual_effects, capacity, 1, pending=block.pending, rotation=rotation)
    rows = {id(n): _Row(n, slots(n.m)) for n in nodes}
    if any(m.rot is not None for m in block.ops):
        for row in rows.values():
            row.rank = (0, row.node.index)
    left: dict[int, int] = {}
    for row in rows.values():
        for r in row.reads:
            left[r] = left.get(r, 0) + 1
    live = set(bits(into))
    stays = set(bits(out))

    def growth(row: _Row) -> int:
        """How many more values are live after the operation."""
        found = 0
        for r in row.reads:
            if left[r] == 1 and r in live and r not in stays:
                found -= 1
        for w in row.writes:
            if w not in live and (left.get(w) or w in stays):
                found += 1
        return found

    ready = [rows[id(n)] for n in nodes if not n.waits]
    result: list[MOp] = []
    cycle = 0
    while len(result) < len(nodes):
        free = 7
        while True:
            now = [row for row in ready if row.slots & free and row.node.earliest <= cycle]
            if not now:
                break
            if len(live) >= limit:
                grows, _, row = min((growth(row), row.node.index, row) for row in now)
                # what only adds a live value waits for what is ready later and frees one
                if grows > 0 and any(growth(x) <= 0 for x in ready):
                    break
            else:
                row = min(now, key=lambda row: row.rank)
            free ^= row.slots & free & -(row.slots & free)
            ready.remove(row)
            n = row.node
            result.append(n.m)
            for r in row.reads:
                left[r] -= 1
                if not left[r] and r not in stays:
                    live.discard(r)
            for w in row.writes:
                if left.get(w) or w in stays:
                    live.add(w)
            for other, distance in n.after:
                other.waits -= 1
                other.earliest = max(other.earliest, cycle + distance)
                if not other.waits:
                    ready.append(rows[id(other)])
        cycle += 1
    block.ops = result
