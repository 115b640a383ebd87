"""What must stay in order inside a block: registers, flags, streams and the TMU's queues, as a graph for scheduling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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


Effects = tuple[Iterable[object], Iterable[object], int]
"""Resources read, resources written, and instructions until a reader may follow."""


def virtual_effects(m: MOp) -> Effects:
    """Effects of an operation on virtual registers."""
    reads: set[object] = set(m.reads())
    writes: set[object] = set(m.writes())
    reads.update(x for x in (m.a, m.b) if isinstance(x, Fixed) and x.kind in ("acc", "rf"))
    if m.role in ("sfu", "pop", "r5"):
        writes.add(Fixed("acc", 5 if m.role == "r5" else 4))
    if m.role == "barrier":
        writes.add("barrier")
    if m.role == "vpm":
        reads.add("vpm")
        writes.add("vpm")
    if m.rot is not None and m.rot < 0:
        reads.add(Fixed("acc", 5))
    if m.cond or m.update:
        reads.add("flags")
    if m.push or m.update:
        writes.add("flags")
    if m.op == "multop":
        writes.add("rtop")
    elif m.op == "umul24":
        reads.add("rtop")
        writes.add("rtop")
    return reads, writes, 3 if m.role == "sfu" else 2 if m.rf_only else 1


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
        for r in reads:
            if r in writer:
                writer[r][0].before(node, max(writer[r][1], least))
        for w in writes:
            for reader in readers.get(w, ()):
                reader.before(node, 0)
            if w in writer:
                writer[w][0].before(node, 1)
        for r in reads:
            readers.setdefault(r, []).append(node)
        for w in writes:
            writer[w] = (node, latency)
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
        node.priority = 1 + max((_way(node, n, d, tmu_latency) for n, d in node.after), default=node.rest)
        node.priority = max(node.priority, 1 + node.rest)
        if m_is_payload(node.m):
            node.priority += 1 << 20
    return nodes


def _way(node: Node, after: Node, distance: int, tmu_latency: int) -> int:
    """Instructions from an operation to the end by way of one that follows."""
    if after.asked is node:
        distance = tmu_latency
    return after.priority + max(distance - 1, 0)


def m_is_payload(m: MOp) -> bool:
    """Reads what the launch left in a register, which the first load into it overwrites."""
    return m.role == "payload"
