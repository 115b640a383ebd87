"""Colouring: a place for every virtual register, greedily in the order in which values appear, round robin over what is
free, so that neighbouring values do not share a place and wait for each other.
"""

from __future__ import annotations

from qpu.core.isa import Isa
from qpu.lang.liveness import bits, conflicts, liveness
from qpu.lang.mir import Fixed, Function, OutOfRegisters

__all__ = ["colour_v3d"]

ACCUMULATORS = 5  # r0..r4; r5 has readers and writers of its own
SHORT = 24  # operations that a value in an accumulator may live


def colour_v3d(function: Function, isa: Isa, count: int) -> dict[int, Fixed]:
    """A register, or on 4.2 an accumulator, for each value. count: registers a thread has. Raises: OutOfRegisters."""
    clash = conflicts(function)
    into, out = liveness(function)
    across = 0
    for block in function.blocks:
        across |= into[block] | out[block]
    order: dict[int, list[int]] = {}
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
    usable = [n for n in range(count) if not (isa is Isa.V3D71 and n == 0)]
    found: dict[int, Fixed] = {}
    next_rf = next_acc = 0
    for r in sorted(order, key=lambda r: r not in needs_acc):
        taken = {found[x] for x in bits(clash[r]) if x in found}
        local = not across >> r & 1 and order[r][1] - order[r][0] <= SHORT
        if isa is Isa.V3D42 and r not in needs_rf and (r in needs_acc or local):
            place = _pick("acc", list(range(ACCUMULATORS)), next_acc, taken)
            if place is not None:
                found[r] = place
                next_acc = place.n + 1
                continue
            if r in needs_acc:
                raise OutOfRegisters(r)
        place = _pick("rf", usable, next_rf, taken)
        if place is None:
            raise OutOfRegisters(r)
        found[r] = place
        next_rf = usable.index(place.n) + 1
    return found


def _pick(kind: str, numbers: list[int], start: int, taken: set[Fixed]) -> Fixed | None:
    n = len(numbers)
    for k in range(n):
        place = Fixed(kind, numbers[(start + k) % n])
        if place not in taken:
            return place
    return None
