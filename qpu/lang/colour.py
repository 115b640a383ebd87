"""Colouring: a place for every virtual register, greedily in the order in which values appear, round robin over what is
free, so that neighbouring values do not share a place and wait for each other. Where that does not suffice, values with
many conflicts come first (`simplified`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qpu.core.isa import Isa
from qpu.lang.liveness import bits, conflicts, liveness, mutual
from qpu.lang.mir import Fixed, Function, MOp, OutOfRegisters

__all__ = ["ROUNDS", "Places", "colour_v3d", "copy_rotated", "simplified"]

ACCUMULATORS = 5  # r0..r4; r5 has readers and writers of its own
OFTEN = 8  # reads of a value of one block that is worth an accumulator: fewer ports of the files
ROUNDS = 6  # of copying what rotates and finds no accumulator
SHORT = 24  # operations that a value in an accumulator may live


class Places:
    """Places of one kind, in turn. clash: of `conflicts`; numbers: of the places; last: the index of the one that was
    given out most recently, so that neighbouring values do not share a place.
    """

    def __init__(self, kind: str, numbers: Iterable[int], clash: list[int]) -> None:
        self.places: list[Fixed] = [Fixed(kind, n) for n in numbers]
        self.clash = clash
        self.last = -1
        self._members = [0] * len(self.places)
        self._refused = [0] * len(self.places)

    def take(self, r: int) -> Fixed | None:
        """A place in which nothing conflicts with the register; None where there is none."""
        clash = self.clash[r]
        members, refused = self._members, self._refused
        count = len(members)
        for n in range(self.last + 1, self.last + 1 + count):
            at: int = n % count
            if not (members[at] & clash or refused[at] >> r & 1):
                members[at] |= 1 << r
                refused[at] |= clash
                self.last = at
                return self.places[at]
        return None


def simplified(
    clash: list[int], registers: Iterable[int], count: int, cost: Mapping[int, float] | None = None
) -> list[int]:
    """An order for colouring (Briggs): what has fewer conflicts than places comes after those it conflicts with, then
    what costs least for each conflict. clash: mutual conflicts; cost: of having no place.
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
    function: Function,
    isa: Isa,
    count: int,
    *,
    briggs: bool = False,
    cost: Mapping[int, float] | None = None,
    rounds: int = ROUNDS,
) -> dict[int, Fixed]:
    """A register, or on 4.2 an accumulator, for each value. count: registers a thread has; briggs: in the order of
    `simplified`, with that cost; rounds: of copying. Raises: OutOfRegisters.
    """
    into, out = liveness(function)
    across = 0
    for block in function.blocks:
        across |= into[block] | out[block]
    copy_rotated(function, across | sum({1 << m.dst for m in function.ops() if m.rf_only and isinstance(m.dst, int)}))
    clash = conflicts(function)
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
    files = Places("rf", [n for n in range(count) if not (isa is Isa.V3D71 and n == 0)], clash)
    accumulators = Places("acc", range(ACCUMULATORS), clash)
    found: dict[int, Fixed] = {}
    failed: list[int] = []
    sequence = simplified(mutual(clash), order, len(files.places), cost) if briggs else list(order)
    often = {r for r, n in counts.items() if n >= OFTEN and not across >> r & 1} if isa is Isa.V3D42 else set()
    for r in sorted(sequence, key=lambda r: (r not in needs_acc, r not in often)):
        local = r in often or (not across >> r & 1 and order[r][1] - order[r][0] <= SHORT)
        place = None
        if isa is Isa.V3D42 and r not in needs_rf and (r in needs_acc or local):
            place = accumulators.take(r)
        if place is None and r not in needs_acc:
            place = files.take(r)
        if place is None:
            failed.append(r)
        else:
            found[r] = place
    if failed:
        without = [r for r in failed if r in needs_acc]
        if rounds and without:
            copy_rotated(function, sum(1 << r for r in (without if rounds > 1 else needs_acc)))
            return colour_v3d(function, isa, count, briggs=briggs, cost=cost, rounds=rounds - 1)
        raise OutOfRegisters(failed)
    return found


def copy_rotated(function: Function, registers: int) -> None:
    """A copy in front of each rotation of these registers (a mask), which do not stay in accumulators: only those
    rotate.
    """
    for block in function.blocks:
        ops: list[MOp] = []
        for m in block.ops:
            if m.rot is not None and isinstance(m.a, int) and registers >> m.a & 1:
                copy = function.registers
                function.registers += 1
                ops.append(MOp("mov", copy, m.a, loc=m.loc))
                m.a = copy
            ops.append(m)
        block.ops = ops
