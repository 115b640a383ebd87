"""Fewer values that live through inner loops, where registers run out: what can be computed again is computed where it
is used, once before and once behind each inner loop, instead of being kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qpu.lang.kir import ROWS, Loop, Region, Skip, Value, walk
from qpu.lang.rewrite import Rewriter

__all__ = ["outside", "sink"]


class _Sinker(Rewriter):
    """near: what was computed since the last loop, by value: of the region that is written and those around it up to
    the next loop. much: operations beyond which a value is kept; costs: operations that compute a value again, from
    those that are kept; innermost: regions of loops without loops inside.
    """

    def __init__(self, isa: str, much: int) -> None:
        super().__init__(isa)
        self.much = much
        self.near: list[dict[int, Value]] = [{}]
        self.innermost: set[int] = set()
        self.inner = False
        self.costs: dict[int, int] = {}
        self.used: dict[int, list[Value]] = {}

    def get(self, value: Value) -> Value:
        todo = [value]  # chains of operations may be longer than Python's stack
        while True:
            found = self._kept(todo[-1])
            if found is None:
                v = todo[-1]
                missing = [a for a in v.args if self._kept(a) is None]
                if missing:
                    todo += reversed(missing)
                    continue
                found = self._again(v)
            todo.pop()
            if not todo:
                return found

    def _kept(self, value: Value) -> Value | None:
        """What is there of a value, constants included."""
        for known in reversed(self.near):
            if id(value) in known:
                return known[id(value)]
        if id(value) in self.map:
            return self.map[id(value)]
        return self.q.const(value.type, value.attr) if value.op == "const" else None

    def _again(self, value: Value) -> Value:
        """A value computed again from those that are there."""
        args = tuple(self._kept(a) or a for a in value.args)
        made = self.q.append(value.op, args, value.type, value.attr, varying=value.varying)
        self.near[-1][id(value)] = made
        parts = (self.costs.get(id(a), 0) for a in value.args)
        self.costs.setdefault(id(value), 1 + sum(c for c in parts if c <= self.much))
        return made

    def one(self, v: Value) -> None:
        if isinstance(v.attr, Loop | Skip):
            super().one(v)
        elif not ROWS[v.op].pure:
            args = tuple(self.get(a) for a in v.args)
            self.map[id(v)] = self.q.append(v.op, args, v.type, v.attr, varying=v.varying)
        elif self.inner:  # in its place: pressure is least in the order that the kernel says
            self.get(v)

    def region(self, region: Region) -> None:
        if region.loop and id(region) not in self.innermost:
            self.near = [{}]
        super().region(region)

    def sequence(self, ops: Iterable[Value]) -> None:
        rest = list(ops)
        for at, v in enumerate(rest):
            self.q.loc = v.loc
            self.one(v)
            if isinstance(v.attr, Skip):
                self._forget(rest[at + 1 :])

    def _forget(self, rest: Sequence[Value]) -> None:
        """Behind a skipped part: keep only what the operations that follow need."""
        near, kept = self.near[-1], set()
        todo: list[Value] = []
        for v in rest:
            if isinstance(v.attr, Loop | Skip):
                todo += self._used(v.attr.region, v.attr.yields)
            if isinstance(v.attr, Loop | Skip) or not ROWS[v.op].pure:
                todo += v.args
        seen: set[int] = set()
        while todo:
            x = todo.pop()
            if id(x) in near:
                kept.add(id(x))
            elif id(x) not in seen and id(x) not in self.map:
                seen.add(id(x))
                todo += x.args
        self.near[-1] = {n: near[n] for n in near if n in kept}

    def _used(self, region: Region, yields: Sequence[Value]) -> list[Value]:
        found = self.used.get(id(region))
        if found is None:
            found = self.used[id(region)] = outside(region, yields)
        return found

    def loop(self, v: Value, attr: Loop) -> None:
        outer = self.near
        if any(isinstance(x.attr, Loop) for x in walk(attr.region)):
            super().loop(v, attr)
        else:
            self.innermost.add(id(attr.region))
            for x in outside(attr.region, (*attr.yields, attr.cond)):  # ready in front of it
                self.get(x)
            self.near, self.inner = [*outer, {}], True
            super().loop(v, attr)
            self.inner = False
        self.near = [{n: x for n, x in known.items() if self.costs[n] > self.much} for known in outer]

    def skip(self, v: Value, attr: Skip) -> None:
        for x in self._used(attr.region, attr.yields):
            if x.type != "b":
                self.get(x)
        self.near.append({})
        super().skip(v, attr)
        self.near.pop()


def outside(region: Region, yields: Sequence[Value]) -> list[Value]:
    """Values made outside a region that its operations use."""
    used = [a for v in walk(region) for a in v.args]
    for v in walk(region):
        if isinstance(v.attr, Skip):
            used += v.attr.yields
    return [a for a in (*used, *yields) if not region.contains(a) and a.op != "const"]


def sink(top: Region, isa: str, much: int) -> Region:
    """The same kernel with values computed again. much: operations beyond which a value is kept instead."""
    r = _Sinker(isa, much)
    r.region(top)
    return r.q.top
