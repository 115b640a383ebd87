"""KIR to KIR: what a turn of a loop over rows computes for rows that later turns see again is carried to them.

A turn of a stencil reads the rows r - 2 .. r + 2; the next one reads four of them again. Here each load reads the
newest row that the turn touches, each operation runs as soon as its operands are there, and its result waits in carried
values until the turn whose row it belongs to. Operations and their order stay the same, so results do, bit for bit.

The age of an operation is the number of turns between the first that can do it and the one that does it in the text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias

from qpu.lang.kir import ROWS, Access, Loop, Region, Skip, Value
from qpu.lang.rewrite import Rewriter

__all__ = ["carry_rows"]

FOREVER: Final = 1 << 30
"""Age of what depends on nothing but the counter: it is computed where it is used."""
OLDEST: Final = 16
"""Turns that a value waits at most."""

Place: TypeAlias = tuple[object, ...]


class _Roller(Rewriter):
    """rows: ids of the regions of loops over rows."""

    def __init__(self, isa: str, rows: frozenset[int]) -> None:
        super().__init__(isa)
        self.rows = rows

    def loop(self, v: Value, attr: Loop) -> None:
        number = _counter(attr) if id(attr.region) in self.rows else None
        if number is None or not _plain(attr.region) or not _again(attr.region):
            super().loop(v, attr)
            return
        q = self.q
        guard, *inits = (self.get(a) for a in v.args)
        part = Region(q.region)
        outer, q.region = q.region, part
        results = _Turn(self, attr, number, part, inits).make()
        q.region = outer
        skip = q.append("if_any", (guard, *inits), "", Skip(part, results), varying=False)
        for r in attr.results:
            self.map[id(r)] = q.result(skip, r.type, r.varying)


def _counter(attr: Loop) -> int | None:
    """Which carried value counts the turns."""
    for n, (p, y) in enumerate(zip(attr.region.parameters, attr.yields, strict=True)):
        if y.op == "add" and y.args[0] is p and y.args[1].constant == 1:
            return n
    return None


def _plain(region: Region) -> bool:
    """Whether a body has nothing but pure operations, loads, and stores to other arrays."""
    loaded: set[int] = set()
    stored: set[int] = set()
    for v in region.ops:
        if v.op in ("load", "store"):
            (loaded if v.op == "load" else stored).add(v.attr.array)
        elif not ROWS[v.op].pure or isinstance(v.attr, Loop | Skip):
            return False
    return not loaded & stored


def _again(region: Region) -> bool:
    """Whether an array is read at more than one place."""
    bases = {(v.attr.array, id(v.args[0])) for v in region.ops if v.op == "load"}
    return len(bases) > len({array for array, _ in bases})


class _Turn:
    """One loop, made anew. age: of the values of the old body; newest: what stands for each at its age."""

    def __init__(self, roller: _Roller, attr: Loop, number: int, part: Region, inits: list[Value]) -> None:
        self.r, self.q, self.attr = roller, roller.q, attr
        self.old = attr.region
        self.counter = self.old.parameters[number]
        self.first = inits[number]
        self.part, self.inits = part, inits
        self.region = Region(part, loop=True)
        self.age: dict[int, int] = {}
        self.newest: dict[int, Value] = {}
        self.loads: dict[Place, Value] = {}
        self.moved: dict[tuple[int, int], Value] = {}
        self.early: dict[tuple[int, int], Value] = {}
        self.early_loads: dict[Place, Value] = {}
        self.waiting: dict[tuple[int, int], Value] = {}
        self.carried: list[tuple[Value, Value]] = []  # initial value and what each turn yields

    def make(self) -> list[Value]:
        """The loop, and what comes out of it for the carried values of the old one."""
        q, old, attr = self.q, self.old, self.attr
        for p in old.parameters:
            self.r.map[id(p)] = self.newest[id(p)] = q.parameter(self.region, p.type, p.varying)
            self.age[id(p)] = FOREVER if p is self.counter else 0
        q.region = self.region
        self._ages()
        for v in old.ops:
            q.loc = v.loc
            if v.op == "store":
                q.append("store", tuple(self.at(a, 0) for a in v.args), "", v.attr)
            elif self.age[id(v)] != FOREVER:
                self._make(v)
        yields = [self.at(y, 0) for y in attr.yields]
        cond = self.at(attr.cond, 0)
        self.r.regions[id(old)] = self.region
        q.region = self.part
        inits = [*self.inits, *(first for first, _ in self.carried)]
        made = Loop(self.region, [*yields, *(y for _, y in self.carried)], cond, items=attr.items)
        _settle(self.region, made.yields)
        op = q.append("loop", (q.const("b", True), *inits), "", made, varying=False)
        return [q.result(op, p.type, p.varying) for p in self.region.parameters][: len(yields)]

    def _ages(self) -> None:
        q, old = self.q, self.old
        places: set[Place] = set()
        loads = []
        for v in old.ops:
            if v.op == "load":
                fixed = all(self.age.get(id(a), FOREVER) == FOREVER for a in v.args[:2])
                self.age[id(v)] = 0
                if fixed and not any(old.contains(m) for m in v.args[2:]):
                    loads.append(v)
                    places.add(self._place(v, 0))
            else:
                self.age[id(v)] = min((self.age.get(id(a), FOREVER) for a in v.args), default=FOREVER)
        for v in loads:
            while self.age[id(v)] < OLDEST and self._place(v, self.age[id(v)] + 1) in places:
                self.age[id(v)] += 1
        for v in old.ops:
            if v.op != "load" and v.op != "store":
                self.age[id(v)] = min((self.age.get(id(a), FOREVER) for a in v.args), default=FOREVER)
        q.loc = None

    def _place(self, v: Value, by: int) -> Place:
        """What a load so many turns later reads."""
        access: Access = replace(v.attr, site=0)
        return (access, *(self.shifted(a, by).number for a in v.args[:2]), *(id(m) for m in v.args[2:]))

    def _make(self, v: Value) -> None:
        """An operation at its age."""
        q, by = self.q, self.age[id(v)]
        if v.op != "load":
            args = tuple(self.at(a, by) for a in v.args)
            self.newest[id(v)] = q.emit(v.op, *args, type_=v.type, attr=v.attr)
            return
        args = tuple(self.at(a, by) for a in v.args)
        place = (replace(v.attr, site=0), *(a.number for a in args))
        if place not in self.loads:
            self.loads[place] = q.append("load", args, v.type, v.attr, varying=v.varying)
        self.newest[id(v)] = self.loads[place]

    def at(self, v: Value, by: int) -> Value:
        """A value of the old body, `by` turns later, in this turn."""
        if not self.old.contains(v) or v.op == "const":
            return self.r.get(v) if v.op != "const" else self.q.const(v.type, v.attr)
        if self.age[id(v)] == FOREVER:
            return self.shifted(v, by)
        newest = self.newest[id(v)]
        for turns in range(1, self.age[id(v)] - by + 1):
            if self.region.contains(newest):
                self._wait(v, newest, turns)
        return self.waiting.get((newest.number, self.age[id(v)] - by), newest)

    def _wait(self, v: Value, newest: Value, turns: int) -> None:
        """Carry what was computed so many turns ago."""
        key = (newest.number, turns)
        if key in self.waiting:
            return
        outer, self.q.region = self.q.region, self.part
        first = self._before(v, self.age[id(v)] - turns)
        self.q.region = outer
        self.carried.append((first, newest if turns == 1 else self.waiting[newest.number, turns - 1]))
        self.waiting[key] = self.q.parameter(self.region, newest.type, newest.varying)

    def shifted(self, v: Value, by: int) -> Value:
        """A value of the counter alone, so many turns later."""
        if v is self.counter:
            here = self.newest[id(v)]
            return self.q.emit("add", here, self.q.const("i", by)) if by else here
        return self._again(v, by, self.moved, self.shifted)

    def _before(self, v: Value, by: int) -> Value:
        """A value of the turn that is `by` turns after the first one, in front of the loop."""
        if v is self.counter:
            return self.q.emit("add", self.first, self.q.const("i", by))
        if v.op != "load":
            return self._again(v, by, self.early, self._before)
        args = tuple(self._before(a, by) for a in v.args)
        place = (replace(v.attr, site=0), *(a.number for a in args))
        if place not in self.early_loads:
            self.early_loads[place] = self.q.append("load", args, v.type, v.attr, varying=v.varying)
        return self.early_loads[place]

    def _again(self, v: Value, by: int, known: dict[tuple[int, int], Value], part: object) -> Value:
        if v.op == "const":
            return self.q.const(v.type, v.attr)
        if not self.old.contains(v):
            return self.r.get(v)
        key = (id(v), by)
        if key not in known:
            assert callable(part)
            args = tuple(part(a, by) for a in v.args)
            known[key] = self.q.emit(v.op, *args, type_=v.type, attr=v.attr)
        return known[key]


def _settle(region: Region, yields: list[Value]) -> None:
    """Order a body so that carried values are read before what takes their place is made, where that can be."""
    number = {id(v): n for n, v in enumerate(region.ops)}
    after: dict[int, set[int]] = {n: set() for n in range(len(region.ops))}
    wish: dict[int, set[int]] = {n: set() for n in range(len(region.ops))}
    nexts = {id(p): number.get(id(y)) for p, y in zip(region.parameters, yields, strict=True)}
    memory = None
    for n, v in enumerate(region.ops):
        after[n] |= {number[id(a)] for a in v.args if id(a) in number}
        for a in v.args:
            made = nexts.get(id(a))
            if made is not None and made != n:
                wish[made].add(n)
        if not ROWS[v.op].pure:
            if memory is not None:
                after[n].add(memory)
            memory = n
    rest = list(range(len(region.ops)))
    done: set[int] = set()
    found = []
    while rest:
        ready = [n for n in rest if after[n] <= done]
        best = next((n for n in ready if wish[n] <= done), ready[0])
        rest.remove(best)
        done.add(best)
        found.append(region.ops[best])
    region.ops = found


def carry_rows(top: Region, isa: str, turns: dict[int, tuple[Region, int]]) -> Region:
    """The same kernel with rows carried. turns: what is known of loops by their region, kept up."""
    r = _Roller(isa, frozenset(turns))
    r.region(top)
    for old, (_, items) in list(turns.items()):
        if old in r.regions:
            turns[id(r.regions[old])] = (r.regions[old], items)
    return r.q.top
