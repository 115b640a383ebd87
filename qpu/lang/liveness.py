"""Which registers are live where: bit sets over virtual registers."""

from __future__ import annotations

from collections.abc import Iterator

from qpu.lang.mir import Block, Function

__all__ = ["bits", "conflicts", "crossing", "liveness", "mutual"]


def bits(mask: int) -> Iterator[int]:
    """Positions of the bits that are set."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def liveness(function: Function) -> tuple[dict[Block, int], dict[Block, int]]:
    """Registers live at entry and at exit of each block."""
    use: dict[Block, int] = {}
    kill: dict[Block, int] = {}
    for block in function.blocks:
        used = killed = 0
        for m in block.ops:
            d, a, b = m.dst, m.a, m.b
            if type(a) is int and not killed >> a & 1:
                used |= 1 << a
            if type(b) is int and not killed >> b & 1:
                used |= 1 << b
            if type(d) is int and not killed >> d & 1:
                if m.cond or m.pack:
                    used |= 1 << d
                else:
                    killed |= 1 << d
            if type(m.sig_dst) is int:
                killed |= 1 << m.sig_dst
        use[block], kill[block] = used, killed
    into = dict.fromkeys(function.blocks, 0)
    out = dict.fromkeys(function.blocks, 0)
    changed = True
    while changed:
        changed = False
        for block in reversed(function.blocks):
            after = 0
            for successor in block.successors:
                after |= into[successor]
            before = use[block] | after & ~kill[block]
            if after != out[block] or before != into[block]:
                out[block], into[block] = after, before
                changed = True
    return into, out


def conflicts(function: Function) -> list[int]:
    """For each register those that are live while it is written; two registers cannot share a place where either has
    the other. `mutual` makes both have it.

    The source of a copy does not conflict with its destination by the copy itself.
    """
    _, out = liveness(function)
    found = [0] * function.registers
    for block in function.blocks:
        live = out[block]
        for m in reversed(block.ops):
            d, s = m.dst, m.sig_dst
            if type(d) is int:
                bit = 1 << d
                others = live & ~bit
                if m.role == "copy" and type(m.a) is int:
                    others &= ~(1 << m.a)
                found[d] |= others
                if type(s) is int:
                    found[d] |= 1 << s
                if not (m.cond or m.pack):
                    live &= ~bit
                elif not live & bit:
                    live |= bit
            if type(s) is int:
                bit = 1 << s
                live &= ~bit
                found[s] |= live
            if type(m.a) is int:
                live |= 1 << m.a
            if type(m.b) is int:
                live |= 1 << m.b
    return found


def mutual(clash: list[int]) -> list[int]:
    """Conflicts in both directions: the matrix together with itself mirrored, in time that grows with the conflicts."""
    others: list[list[int]] = [[] for _ in clash]
    for r, row in enumerate(clash):
        for x in bits(row):
            others[x].append(r)
    found = []
    for row, more in zip(clash, others, strict=True):
        mirrored = bytearray(more[-1] // 8 + 1 if more else 0)
        for x in more:
            mirrored[x >> 3] |= 1 << (x & 7)
        found.append(row | int.from_bytes(mirrored, "little"))
    return found


def crossing(function: Function) -> int:
    """The most registers that are live between two blocks: no order of operations changes that."""
    into, _ = liveness(function)
    return max(live.bit_count() for live in into.values())
