"""Coalescing: copies vanish where source and destination can be one register, innermost loops first, and accumulation
chains (`acc = acc + t`) keep their register.
"""

from __future__ import annotations

from qpu.lang.liveness import conflicts
from qpu.lang.mir import Function

__all__ = ["coalesce"]


def coalesce(function: Function, *, early: bool = False) -> None:
    """Merge registers of copies, then of accumulations; drop copies onto themselves. early: not what an operation
    writes that sets flags, so that it need not wait for others that read the old value.
    """
    n = function.registers
    clash = conflicts(function)
    parent = list(range(n))
    members = [1 << i for i in range(n)]

    def find(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    def merge(x: int, y: int) -> bool:
        x, y = find(x), find(y)
        if x == y:
            return True
        if clash[x] & members[y] or clash[y] & members[x]:
            return False
        parent[x] = y
        members[y] |= members[x]
        clash[y] |= clash[x]
        return True

    setters = {m.dst: m for m in function.ops() if early and m.push and type(m.dst) is int}
    reads: dict[int, int] = {}
    for m in function.ops() if setters else ():
        for r in m.reads():
            reads[r] = reads.get(r, 0) + 1
    # a counter that only its own addition reads has nothing to wait for
    counters = {m.a for m in function.ops() if m.role == "copy" and type(m.dst) is int and reads.get(m.dst) == 1
                and m.a in setters and m.dst in setters[m.a].sources()}  # fmt: skip
    pushed = setters.keys() - counters
    copies = [
        (block.depth, m)
        for block in function.blocks
        for m in block.ops
        if m.role == "copy" and not m.cond and m.a not in pushed
    ]
    carried = set()
    for _, m in sorted(copies, key=lambda row: -row[0]):
        if type(m.dst) is int and type(m.a) is int:
            merge(m.dst, m.a)
            carried.add(m.dst)
    roots = {find(x) for x in carried}
    rotated = {m.a for m in function.ops() if m.rot is not None}  # wants an accumulator, which nothing keeps for a turn
    single = pushed | rotated
    for block in sorted(function.blocks, key=lambda b: -b.depth):
        for m in block.ops:
            if type(m.dst) is int and not m.cond and m.role != "copy" and m.dst not in single:
                for source in m.sources():
                    if find(source) in roots and find(source) != find(m.dst) and merge(m.dst, source):
                        break
    for block in function.blocks:
        for m in block.ops:
            if type(m.dst) is int:
                m.dst = find(m.dst)
            if type(m.sig_dst) is int:
                m.sig_dst = find(m.sig_dst)
            if type(m.a) is int:
                m.a = find(m.a)
            if type(m.b) is int:
                m.b = find(m.b)
        block.ops = [m for m in block.ops if not (m.role == "copy" and m.dst == m.a and not m.cond)]
