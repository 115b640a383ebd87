"""What must stay in order inside a block: registers, flags, streams and the TMU's queues, as a graph for scheduling."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from qpu.lang.mir import STREAM, Fixed, MOp

__all__ = ["Node", "graph", "virtual_effects"]


class Node:
    """An operation to be scheduled. after: those that must wait for it, with the least distance in instructions;
    asked: the request whose result it takes; rest: instructions from it to the end that no edge tells.
    """

    __slots__ = ("after", "asked", "earliest", "index", "m", "priority", "rest", "waits")

    def __init__(self, m: MOp, index: int) -> None:
        self.m = m
        self.index = index
        self.after: list[tuple[Node, int]] = []
        self.waits = 0
        self.priority = 0
        self.earliest = 0
        self.asked: Node | None = None
        self.rest = 0

    def before(self, other: Node, distance: int) -> None:
        """`other` comes at least `distance` instructions later."""
        if other is not self:
            self.after.append((other, distance))
            other.waits += 1


Effects = tuple[Collection[object], Collection[object], int]
"""Resources read, resources written, and instructions until a reader may follow."""


def virtual_effects(m: MOp) -> Effects:
    """Effects of an operation on virtual registers."""
    reads: list[object] = []
    writes: list[object] = []
    for x in (m.a, m.b):
        if type(x) is int or (isinstance(x, Fixed) and x.kind in ("acc", "rf")):
            reads.append(x)
    d, s, role = m.dst, m.sig_dst, m.role
    if type(d) is int:
        writes.append(d)
        if m.cond or m.pack:
            reads.append(d)
    if type(s) is int:
        writes.append(s)
    if role in ("sfu", "pop"):
        writes.append(_R4)
    elif role == "r5":
        writes.append(_R5)
    elif role == "barrier":
        writes.append("barrier")
    elif role == "vpm":
        reads.append("vpm")
        writes.append("vpm")
    if m.rot is not None and m.rot < 0:
        reads.append(_R5)
    if m.cond or m.update:
        reads.append("flags")
    if m.push or m.update:
        writes.append("flags")
    if m.op == "multop":
        writes.append("rtop")
    elif m.op == "umul24":
        reads.append("rtop")
        writes.append("rtop")
    return reads, writes, 3 if role == "sfu" else 2 if m.rf_only else 1


_R4: Final = Fixed("acc", 4)
_R5: Final = Fixed("acc", 5)


def graph(
    ops: Sequence[MOp],
    effects: Callable[[MOp], Effects],
    capacity: int,
    tmu_latency: int,
    branch: int = 0,
    pending: int = 0,
    rotation: int = 1,
) -> list[Node]:
    """The nodes of a block with their edges and priorities: the longest way to the end.

    capacity: result words that may be pending; tmu_latency: instructions from a request to its first result, which
    count for priorities alone, as the hardware waits; branch: instructions of a branch at the end that asks the flags;
    pending: result words that were asked for before the block; rotation: instructions from a value to its rotation.
    """
    nodes = [Node(m, i) for i, m in enumerate(ops)]
    writer: dict[object, tuple[Node, int]] = {}
    readers: dict[object, list[Node]] = {}
    words: list[Node | None] = [None] * pending  # the request of each result word
    pops: list[Node] = []
    last_request: Node | None = None
    last_uniform: Node | None = None
    for node in nodes:
        m = node.m
        reads, writes, latency = effects(m)
        least = rotation if m.rot is not None else 1
        for w in writes:
            for reader in readers.get(w, ()):
                reader.before(node, 0)
            if w in writer:
                writer[w][0].before(node, 1)
        for r in reads:
            if r in writer:
                before, distance = writer[r]
                before.before(node, distance if distance > least else least)
            if r in readers:
                readers[r].append(node)
            else:
                readers[r] = [node]
        for w in writes:
            writer[w] = node, latency
            readers[w] = [node] if w in reads else []
        if m.role in ("request", "store", "data", "config"):
            if last_request is not None:
                last_request.before(node, 1)
            last_request = node
            if m.role == "request":
                over = len(words) + m.words - capacity
                if 0 < over <= len(pops):
                    pops[over - 1].before(node, 1)
                words += [node] * m.words
        elif m.role == "pop":
            if pops:
                pops[-1].before(node, 1)
            asked = words[len(pops)] if len(pops) < len(words) else None
            if asked is not None:
                asked.before(node, 1)
                node.asked = asked
            pops.append(node)
        if m.role in ("uniform", "stream") or STREAM in (m.a, m.b):
            if last_uniform is not None:
                last_uniform.before(node, 1)
            last_uniform = node
    pushes = [n for n in nodes if n.m.push or n.m.update]
    if branch and pushes:
        pushes[-1].rest = branch
    for request in words[len(pops) :]:  # whose result a later block takes
        if request is not None:
            request.rest = tmu_latency
    for node in reversed(nodes):
        longest = node.rest
        for other, distance in node.after:
            if other.asked is node:
                distance = tmu_latency
            way = other.priority + (distance - 1 if distance > 1 else 0)
            if way > longest:
                longest = way
        node.priority = longest + 1
        if m_is_payload(node.m):
            node.priority += 1 << 20
    return nodes


def m_is_payload(m: MOp) -> bool:
    """Reads what the launch left in a register, which the first load into it overwrites."""
    return m.role == "payload"
