"""Modulo scheduling: turns of a loop of one block overlap. While the second half of a turn runs, the first half of the
next one does, so a loop is as short as what it uses most, not as its longest dependence.

Times are found for one turn, such that the instruction at each place modulo the loop's length has room (the bundler's
own test, on registers that are given out) and what follows in this turn or in the next one keeps its distance. An
operation that finds no room takes a place and those there look for another (B. R. Rau's iterative scheduling). A value
that lives longer than a turn would need a register a turn; colouring gives registers out in turn, so a value seldom
shares its register with another, and the edge from its last reader to the next turn's writer keeps it within a turn.

The first half never runs for a turn that does not come: its flags, which end the loop, are made half a turn early.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, Final, Protocol

from qpu.core.hazards import Facts, Windows
from qpu.lang.depend import Node, graph
from qpu.lang.mir import Block, MOp

__all__ = ["LARGEST", "Pipeline", "overlap", "split"]

LARGEST = 240  # operations of a loop that is worth the time
LARGE = 100  # operations of a loop that has to promise to get shorter by one part of GAIN
GAIN = 12
PAYS = 16  # turns with which a shorter loop has to make up for what comes before and after it
BUDGET = 1.6  # times that each operation may be placed, on average; what is found is found with fewer
_OPPOSITE: Final = {
    "anya": "allna", "anyna": "alla", "anyz": "allnz", "anynz": "allz", "anyn": "allnn", "anynn": "alln",
    "anyc": "allcc", "anycc": "allc",
}  # fmt: skip
_REFUSED: Final = frozenset({"barrier", "payload", "uniform"})


class Chip(Protocol):
    """What scheduling asks of an instruction set; see `qpu.lang.bundle.Target`."""

    @property
    def windows(self) -> Windows: ...
    @property
    def branch_slots(self) -> int: ...
    @property
    def rotation(self) -> int: ...
    def new(self, closed: int = 0, barred: int = 0) -> Any: ...
    def put(self, bundle: Any, m: MOp) -> bool: ...
    def branch(self, condition: str) -> Any: ...
    def facts(self, instr: Any) -> Facts: ...
    def effects(self, m: MOp) -> tuple[set[object], set[object], int]: ...

    def least(self, ops: Sequence[MOp]) -> int:
        """Instructions that these operations need at least."""
        ...


@dataclass(slots=True)
class Pipeline:
    """A loop whose turns overlap. bundles: its instructions, but for the branch, which comes before the one at
    `branch`; first, second: operations of the halves of a turn, in order, of which the second may be empty; ops: of the
    loop, in order; cost: instructions that the halves in front of the loop and behind it take beyond a turn.
    """

    bundles: list[Any]
    branch: int
    cost: int
    first: list[MOp] = field(default_factory=list)
    second: list[MOp] = field(default_factory=list)
    ops: list[MOp] = field(default_factory=list)


class _Row:
    """An operation to be placed. after, before: edges to and from others: (other, distance, turns between); depth: its
    earliest time; height: the longest way from it to the end; time: where it is, -1 nowhere; last: where it was;
    weight: how bad it is to take it out; opens, meets: its masks of windows, as an instruction alone.
    """

    __slots__ = ("after", "before", "depth", "height", "last", "m", "meets", "number", "opens", "time", "weight")

    def __init__(self, m: MOp, number: int, alone: Any) -> None:
        self.m = m
        self.number = number
        self.opens, self.meets = alone.after, alone.before
        self.after: list[tuple[_Row, int, int]] = []
        self.before: list[tuple[_Row, int, int]] = []
        self.height = self.depth = self.weight = 0
        self.time = -1
        self.last = -1


def overlap(block: Block, chip: Chip, capacity: int, latency: int, most: int) -> Pipeline | None:
    """A shorter form of a loop of one block, None where there is none. latency: instructions from a request to its
    result that are worth filling; most: what it has now.
    """
    ops = block.ops
    if block.branch is None or block.branch[1] not in _OPPOSITE or len(ops) > LARGEST:
        return None
    if any(m.role in _REFUSED or m.uniform is not None for m in ops):
        return None
    least = max(chip.least(ops) + 1, chip.branch_slots + 2, chip.windows.reach + 1)
    if least >= most or (len(ops) > LARGE and GAIN * (most - least) < most):
        return None
    rows = _rows(block, chip, capacity, latency)
    push = next((r for r in reversed(rows) if r.m.push or r.m.update), None)
    if push is None:
        return None
    best, now, length = None, most, least
    together: dict[int, bool] = {}
    while least < most:  # the least first, then what is a little shorter, then halves of what is left
        found = _Search(rows, push, chip, length, block.branch[1], together).run()
        if found is None and length == now - 1:
            return None
        if found is None:
            least, length = length + 1, now - 1 if most == now else (length + 1 + most) // 2
            continue
        most = length
        if found.cost <= PAYS * (now - length):
            best = found
        length = (least + most) // 2
    return best


def _rows(block: Block, chip: Chip, capacity: int, latency: int) -> list[_Row]:
    """The operations with their edges. Those to the next turn are found in a graph of two turns."""
    count = len(block.ops)
    nodes = graph(block.ops * 2, chip.effects, capacity, latency, 0, block.pending, chip.rotation)
    rows = []
    for i, m in enumerate(block.ops):
        alone = chip.new()
        chip.put(alone, m)
        rows.append(_Row(m, i, alone))
    for n in nodes[:count]:
        u, edges = rows[n.index], _strongest(n)
        for at, distance in edges.items():
            turns, number = divmod(at, count)
            u.after.append((rows[number], distance, turns))
            rows[number].before.append((u, distance, turns))
    return rows


def _strongest(n: Node) -> dict[int, int]:
    found: dict[int, int] = {}
    for other, distance in n.after:
        found[other.index] = max(found.get(other.index, 0), distance)
    return found


class _Search:
    """Times for all operations with a loop of one length. bundles, members: the instruction at each place, and the
    operations in it; inside: those as bits; together: whether operations, as bits, make one instruction, as far as that
    was found before.
    """

    def __init__(
        self, rows: list[_Row], push: _Row, chip: Chip, length: int, condition: str, together: dict[int, bool]
    ) -> None:
        self.rows, self.push, self.chip, self.length = rows, push, chip, length
        self.branch = length - 1 - chip.branch_slots
        self.facts = chip.facts(chip.branch(condition))
        self.bundles: list[Any] = [None if i == self.branch else chip.new() for i in range(length)]
        self.members: list[list[_Row]] = [[] for _ in range(length)]
        self.inside = [0] * length
        self.together = together
        self.windows = chip.windows
        after, before = self.facts.after, self.facts.before
        for r in rows:
            after, before = after | r.opens, before | r.meets
        self.concerns = after & before  # windows that something here opens and something here must not meet

    def run(self) -> Pipeline | None:
        """The loop, or None where the budget does not suffice."""
        if not self._heights():
            return None
        for r in self.rows:
            r.time = r.last = -1
            r.weight = r.height
        todo = [(-r.height, r.number) for r in self.rows]
        heapify(todo)
        for left in range(int(BUDGET * len(self.rows)), 0, -1):
            if not todo or len(todo) > left:
                break
            gone = self._place(self.rows[heappop(todo)[1]])
            if gone is None:
                return None
            for r in gone:
                r.weight += self.length
                heappush(todo, (-r.height, r.number))
        return None if todo else self._made()

    def _heights(self) -> bool:
        """The earliest time of each operation, and the longest way to the end; whether the loop is long enough for its
        recurrences.
        """
        length, last = self.length, 2 * self.length
        for r in self.rows:
            r.height, r.depth = last - self.branch if r is self.push else 0, 0
        changed = True
        while changed:
            changed = False
            for r in reversed(self.rows):
                height = max((w.height + d - length * turns for w, d, turns in r.after), default=0)
                if height > r.height:
                    r.height, changed = height, True
            for r in self.rows:
                depth = max((u.depth + d - length * turns for u, d, turns in r.before), default=0)
                if depth > r.depth:
                    r.depth, changed = depth, True
                if r.depth + r.height >= last:
                    return False
        return True

    def _place(self, r: _Row) -> list[_Row] | None:
        """Give an operation a time. Returns those that lost theirs; None where there is no place at all."""
        length, latest = self.length, 2 * self.length - 1 - r.height
        before = (u.time + d - length * turns for u, d, turns in r.before if u.time >= 0 and u is not r)
        early = max(r.depth, max(before, default=0))
        for time in range(early, min(early + length, latest + 1)):
            if self._fits(r, time):
                return self._settle(r, time)
        best: tuple[int, int] | None = None
        for time in range(max(latest - length + 1, r.depth), latest + 1):
            if time != r.last and time % length != self.branch:
                cost = self._cost(r, time, None if best is None else best[0])
                if cost is not None:
                    best = cost, time
        if best is None:
            return None
        at = best[1] % length
        others = sorted(self.members[at], key=lambda x: -x.weight)
        self._empty(at)
        self._fits(r, best[1])
        lost = [x for x in others if not self._again(x)]
        return lost + self._settle(r, best[1])

    def _empty(self, at: int) -> None:
        self.bundles[at], self.members[at], self.inside[at] = self.chip.new(), [], 0

    def _cost(self, r: _Row, time: int, most: int | None) -> int | None:
        """What it costs to have an operation at a time: the weights of what has to go. None where it cannot be, and
        where it costs as much as `most`.
        """
        cost = sum([w.weight for w, d, turns in r.after if 0 <= w.time < time + d - self.length * turns])
        cost += sum([u.weight for u, d, turns in r.before if u.time >= 0 and time < u.time + d - self.length * turns])
        if most is not None and cost >= most:
            return None
        at = time % self.length
        closed, barred = self._around(at)
        if r.meets & closed or r.opens & barred:
            return None
        inside = [r]
        for x in sorted(self.members[at], key=lambda x: -x.weight):
            if self._one([*inside, x]):
                inside.append(x)
                continue
            cost += x.weight
            if most is not None and cost >= most:
                return None
        return cost

    def _one(self, members: list[_Row]) -> bool:
        """Whether operations make one instruction, windows aside."""
        key = sum([1 << x.number for x in members])
        found = self.together.get(key)
        if found is None:
            bundle = self.chip.new()
            found = self.together[key] = all(self.chip.put(bundle, x.m) for x in members)
        return found

    def _settle(self, r: _Row, time: int) -> list[_Row]:
        """Note a time; those that come too early or too late for it lose theirs."""
        r.time = r.last = time
        gone = [w for w, d, turns in r.after if w is not r and 0 <= w.time < time + d - self.length * turns]
        before = ((u, u.time + d - self.length * turns) for u, d, turns in r.before if u is not r and u.time >= 0)
        gone += [u for u, least in before if time < least]
        lost = []
        for x in gone:
            if x.time >= 0:
                lost += self._remove(x)
        return lost

    def _remove(self, r: _Row) -> list[_Row]:
        """Take an operation out of its instruction. Returns it, and what cannot stay without it."""
        at = r.time % self.length
        others = [x for x in self.members[at] if x is not r]
        self._empty(at)
        r.time = -1
        return [r, *(x for x in others if not self._again(x))]

    def _again(self, r: _Row) -> bool:
        """Put an operation back where it was, if it fits there."""
        time, r.time = r.time, -1
        if self._fits(r, time):
            r.time = time
            return True
        return False

    def _fits(self, r: _Row, time: int) -> bool:
        """Add an operation to the instruction of a time, where it has room."""
        at = time % self.length
        if at == self.branch:
            return False
        key = self.inside[at] | 1 << r.number
        if self.together.get(key) is False:
            return False
        closed, barred = self._around(at)
        if r.meets & closed or r.opens & barred:
            return False
        bundle = self.bundles[at]
        bundle.closed, bundle.barred = closed, barred
        found = self.chip.put(bundle, r.m)
        if found or not (bundle.before & closed or bundle.after & barred):
            self.together[key] = found
        if found:
            self.members[at].append(r)
            self.inside[at] = key
        return found

    def _around(self, at: int) -> tuple[int, int]:
        """Windows that exclude an instruction at a place, and those that it may not open."""
        closed = barred = 0
        if not self.concerns:
            return closed, barred
        windows, bundles, length = self.windows, self.bundles, self.length
        for d in range(1, windows.reach + 1):
            closed |= (bundles[(at - d) % length] or self.facts).after & windows.at[d]
            barred |= (bundles[(at + d) % length] or self.facts).before & windows.at[d]
        if windows.rest & self.concerns:
            for bundle in bundles:
                closed |= (bundle or self.facts).after & windows.rest
                barred |= (bundle or self.facts).before & windows.rest
        return closed, barred

    def _made(self) -> Pipeline | None:
        """The loop. None where two operations of an instruction read what the other writes."""
        closed, _ = self._around(self.branch)
        if closed & self.facts.before:
            return None
        ops: list[MOp] = []
        for members in self.members:
            for r in _in_order(members, self.length):
                if r is None:
                    return None
                ops.append(r.m)
        first, second = ([r.m for r in self.rows if r.time // self.length == n] for n in (0, 1))
        bundles = [b for b in self.bundles if b is not None]
        end = max(r.time for r in self.rows) + 1 - self.length
        cost = (
            max(r.time + 1 for r in self.rows if r.time < self.length) + self.length - self.branch + end - self.length
        )
        return Pipeline(bundles, self.branch, cost if second else 0, first, second, ops)


def _in_order(members: list[_Row], length: int) -> Iterable[_Row | None]:
    """Operations of one instruction such that those that read come before those that write; None at a circle."""
    left = list(members)
    while left:
        here = {r.number for r in left}
        free = next((r for r in left if not any(u.number in here and u is not r and u.time == r.time + length * turns
                                                for u, _, turns in r.before)), None)  # fmt: skip
        if free is None:
            yield None
            return
        left.remove(free)
        yield free


def split(block: Block, found: Pipeline) -> tuple[Block, Block]:
    """Make a block the loop. Returns the blocks in front of it and behind it: half a turn each."""
    assert block.branch is not None
    before = Block(f"{block.name}a", block.depth - 1, found.first, pending=block.pending, loc=block.loc)
    after = Block(f"{block.name}b", block.depth - 1, found.second, falls=block.falls, loc=block.loc)
    before.branch, before.falls = (after, _OPPOSITE[block.branch[1]]), block
    asked = sum(m.words if m.role in ("request", "store") else -(m.role == "pop") for m in found.first)
    block.ops, block.falls = found.ops, after
    block.pending = after.pending = block.pending + asked
    return before, after
