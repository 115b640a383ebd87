"""Colouring: a place for every virtual register, greedily in the order in which values appear, round robin over what is
free, so that neighbouring values do not share a place and wait for each other. Where that does not suffice, values with
many conflicts come first (`simplified`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qpu.core.isa import Isa
from qpu.lang.liveness import bits, conflicts, liveness
from qpu.lang.mir import Fixed, Function, OutOfRegisters

__all__ = ["colour_v3d", "simplified"]

ACCUMULATORS = 5  # r0..r4; r5 has readers and writers of its own
OFTEN = 8  # reads of a value of one block that is worth an accumulator: fewer ports of the files
SHORT = 24  # operations that a value in an accumulator may live


def simplified(
    clash: list[int], registers: Iterable[int], count: int, cost: Mapping[int, float] | None = None
) -> list[int]:
    """An order for colouring (Briggs): what has fewer conflicts than places comes after those it conflicts with, then
    what costs least for each conflict. cost: of having no place.
    """
    nodes = list(registers)
    present = sum(1 << r for r in nodes)
    degree = {r: (clash[r] & present).bit_count() for r in nodes}
    easy = [r for r in nodes if degree[r] < count]
    hard = sorted((r for r in nodes if degree[r] >= count), key=lambda r: -(cost or {}).get(r, 1) / (degree[r] + 1))
    found: list[int] = []
    while easy or hard:
        r = easy.pop() if easy else hard.pop()
        if not present >> r & 1:
            continue
        present &= ~(1 << r)
        found.append(r)
        for x in bits(clash[r] & present):
            degree[x] -= 1
            if degree[x] == count - 1:
                easy.append(x)
    return found[::-1]


def colour_v3d(
    function: Function, isa: Isa, count: int, *, briggs: bool = False, cost: Mapping[int, float] | None = None
) -> dict[int, Fixed]:
    """A register, or on 4.2 an accumulator, for each value. count: registers a thread has; briggs: in the order of
    `simplified`, with that cost. Raises: OutOfRegisters.
    """
    clash = conflicts(function)
    into, out = liveness(function)
    across = 0
    for block in function.blocks:
        across |= into[block] | out[block]
    order: dict[int, list[int]] = {}
    counts: dict[int, int] = {}
    needs_acc: set[int] = set()
    needs_rf: set[int] = set()
    for block in function.blocks:
        for i, m in enumerate(block.ops):
            if m.rot is not None and isinstance(m.a, int):
                needs_acc.add(m.a)
            if m.rf_only and isinstance(m.dst, int):
                needs_rf.add(m.dst)
            for r in (*m.writes(), *m.sources()):
                span = order.setdefault(r, [i, i])
                span[1] = i
            for r in m.sources():
                counts[r] = counts.get(r, 0) + 1
    usable = [n for n in range(count) if not (isa is Isa.V3D71 and n == 0)]
    found: dict[int, Fixed] = {}
    failed: list[int] = []
    next_rf = next_acc = 0
    sequence = simplified(clash, order, len(usable), cost) if briggs else list(order)
    often = {r for r, n in counts.items() if n >= OFTEN and not across >> r & 1} if isa is Isa.V3D42 else set()
    for r in sorted(sequence, key=lambda r: (r not in needs_acc, r not in often)):
        taken = {found[x] for x in bits(clash[r]) if x in found}
        local = r in often or (not across >> r & 1 and order[r][1] - order[r][0] <= SHORT)
        if isa is Isa.V3D42 and r not in needs_rf and (r in needs_acc or local):
            place = _pick("acc", list(range(ACCUMULATORS)), next_acc, taken)
            if place is not None:
                found[r] = place
                next_acc = place.n + 1
                continue
            if r in needs_acc:
                failed.append(r)
                continue
        place = _pick("rf", usable, next_rf, taken)
        if place is None:
            failed.append(r)
            continue
        found[r] = place
        next_rf = usable.index(place.n) + 1
    if failed:
        raise OutOfRegisters(failed)
    return found


def _pick(kind: str, numbers: list[int], start: int, taken: set[Fixed]) -> Fixed | None:
    n = len(numbers)
    for k in range(n):
        place = Fixed(kind, numbers[(start + k) % n])
        if place not in taken:
            return place
    return None
