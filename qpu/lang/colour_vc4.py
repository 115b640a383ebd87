"""Colouring for VideoCore IV: accumulators for rotated operands and values of one block, the two files for the others,
by what is read together; and moves for operands that one instruction cannot read together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from qpu.core.isa import Isa, Unit
from qpu.lang.colour import ROUNDS, Places, copy_rotated, simplified
from qpu.lang.liveness import conflicts, liveness, mutual
from qpu.lang.mir import Fixed, Function, Imm, MOp, OutOfRegisters
from qpu.vc4.ops import TABLE

__all__ = ["colour_vc4", "repair"]

REPAIR = Fixed("acc", 3)
"""The accumulator that moves repair a conflict with."""


def colour_vc4(
    function: Function,
    *,
    briggs: bool = False,
    cost: Mapping[int, float] | None = None,
    count: int = 31,
    rounds: int = ROUNDS,
) -> dict[int, Fixed]:
    """Accumulators for rotated operands and values of one block, files for the others; `repair` comes next.

    briggs: files in the order of `simplified`, with that cost; count: registers of a file; rounds: of
    copying what rotates. Raises: OutOfRegisters.
    """
    into, out = liveness(function)
    across = 0
    for block in function.blocks:
        across |= into[block] | out[block]
    copy_rotated(function, across)
    clash = conflicts(function)
    spans: dict[int, list[int]] = {}
    uses: dict[int, int] = {}
    counts: dict[int, int] = {}
    rotated: set[int] = set()
    unpacked: set[int] = set()
    partners: dict[int, dict[int, int]] = {}
    wants_a: dict[int, int] = {}
    leans: dict[int, int] = {}  # above 0: of operations of the mul ALU, which beside additions read the other file
    for block in function.blocks:
        weight = 8 ** min(block.depth, 6)
        for i, m in enumerate(block.ops):
            sources = m.sources()
            if m.rot is not None and isinstance(m.a, int):
                rotated.add(m.a)
            if m.amod and isinstance(m.a, int):
                unpacked.add(m.a)
            for r in (*m.writes(), *sources):
                spans.setdefault(r, [i, i])[1] = i
            units = () if m.op in ("", "mov", "ldi", "sema") or m.role == "lanes" else TABLE[m.op].units_on(Isa.VC4)
            lean = 0 if len(units) != 1 else weight if Unit.MUL in units else -weight
            for r in sources:
                uses[r] = uses.get(r, 0) + weight
                counts[r] = counts.get(r, 0) + 1
                leans[r] = leans.get(r, 0) + lean
            if len(set(sources)) == 2:
                x, y = sources
                partners.setdefault(x, {})[y] = partners.setdefault(x, {}).get(y, 0) + weight
                partners.setdefault(y, {})[x] = partners.setdefault(y, {}).get(x, 0) + weight
            elif len(sources) == 1 and any(isinstance(z, Imm) for z in (m.a, m.b)):
                wants_a[sources[0]] = wants_a.get(sources[0], 0) + weight
    found: dict[int, Fixed] = {}
    failed: list[int] = []
    local = [r for r in spans if not across >> r & 1 and r not in unpacked]
    often = {r for r in local if counts.get(r, 0) >= OFTEN}
    order = sorted(
        local, key=lambda r: (r not in rotated, r not in often, spans[r][1] - spans[r][0] > 8, -uses.get(r, 0))
    )
    accumulators = Places("acc", range(ACCUMULATORS), clash)
    for r in order:
        place = accumulators.take(r)
        if place is not None:
            found[r] = place
        elif r in rotated:
            failed.append(r)
    if failed and rounds:
        copy_rotated(function, sum(1 << r for r in (failed if rounds > 1 else rotated)))
        return colour_vc4(function, briggs=briggs, cost=cost, count=count, rounds=rounds - 1)
    needs = _Needs(partners, wants_a, unpacked, leans, clash, count)
    rest = [r for r in spans if r not in found and r not in rotated]
    if briggs:
        orders = [simplified(mutual(clash), rest, 2 * count - 2, cost)]
    else:  # the order of appearance needs fewer, but pairs operands worse
        orders = [sorted(rest, key=lambda r: -uses.get(r, 0)), rest]
    # as the files would be if they had room for all
    ideal, _ = _files(_by_partners(rest, uses, partners), found, needs._replace(most=len(spans) + 1), {})
    for order in orders:
        places, without = _files(order, found, needs, ideal)
        if not without:
            break
    if without or failed:
        raise OutOfRegisters(failed + without)
    return places


def _by_partners(rest: Iterable[int], uses: Mapping[int, int], partners: Mapping[int, Mapping[int, int]]) -> list[int]:
    """Values in an order in which each follows those that decide its file: most that is read with it comes before."""
    weight = dict.fromkeys(rest, 0)
    heap = [(0, -uses.get(r, 0), n, r) for n, r in enumerate(weight)]
    heapify(heap)
    found: list[int] = []
    while heap:
        decided, _, n, r = heappop(heap)
        if r not in weight or -decided != weight[r]:
            continue
        del weight[r]
        found.append(r)
        for other, more in partners.get(r, {}).items():
            if other in weight:
                weight[other] += more
                heappush(heap, (-weight[other], -uses.get(other, 0), n, other))
    return found


class _Needs(NamedTuple):
    """What decides the file of a value. partners: how often each pair is read by one operation; wants_a: how often
    beside an immediate; unpacked: what only file A can hold; leans: above 0 how often by the mul ALU alone, below by
    the add ALU; clash: live together; most: registers of a file.
    """

    partners: dict[int, dict[int, int]]
    wants_a: dict[int, int]
    unpacked: set[int]
    leans: dict[int, int]
    clash: list[int]
    most: int


def _files(
    order: Iterable[int], done: dict[int, Fixed], needs: _Needs, ideal: Mapping[int, Fixed]
) -> tuple[dict[int, Fixed], list[int]]:
    """A place in a file for each value, those with accumulators in `done` besides; and values that found none. ideal:
    where values are expected that have none yet.
    """
    found = dict(done)
    failed: list[int] = []
    files = {kind: Places(kind, [n for n in range(needs.most) if n != UNUSED], needs.clash) for kind in ("a", "b")}
    for r in order:
        lean = needs.leans.get(r, 0)
        cost = {"a": max(lean, 0), "b": _CONFLICT * needs.wants_a.get(r, 0) + max(-lean, 0)}
        for other, weight in needs.partners.get(r, {}).items():
            place_of = found.get(other) or ideal.get(other)
            if place_of is not None and place_of.kind in cost:
                cost[place_of.kind] += _CONFLICT * weight
        for kind in "a" if r in needs.unpacked else sorted(cost, key=lambda k: (cost[k], files[k].last)):
            place = files[kind].take(r)
            if place is not None:
                found[r] = place
                break
        else:
            failed.append(r)
    return found, failed


ACCUMULATORS: Final = 3  # r0..r2; r3 repairs, r4 and r5 have writers of their own
UNUSED: Final = 14  # ra14 and rb14 are not for the end of a program (vc4.md 19, H20)

OFTEN: Final = 8  # reads of a value of one block that is worth an accumulator before shorter ones

_CONFLICT: Final = 4
"""What a move costs beside two operations that cannot be one instruction."""


def repair(function: Function, colour: dict[int, Fixed]) -> None:
    """Moves into the reserved accumulator for operands that one instruction cannot read together."""
    for block in function.blocks:
        ops: list[MOp] = []
        for m in block.ops:
            places = [colour[x] if isinstance(x, int) else x for x in (m.a, m.b)]
            kinds = ["b" if isinstance(p, Imm) else p.kind if isinstance(p, Fixed) else "" for p in places]
            kinds = [{"io_a": "a", "io_b": "b"}.get(k, k) for k in kinds]
            clash = kinds[0] == kinds[1] and kinds[0] in ("a", "b") and places[0] != places[1]
            if clash:
                first = isinstance(m.a, int)
                moved = m.a if first else m.b
                ops.append(MOp("mov", REPAIR, moved, loc=m.loc))
                if first:
                    m.a = REPAIR
                else:
                    m.b = REPAIR
            ops.append(m)
        block.ops = ops
