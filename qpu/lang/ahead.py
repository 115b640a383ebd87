"""Loads of the next turn asked for in this one (V3D): a loop begins with results that are there, not with requests.

The last turn asks for its own words again, as what lies behind them may belong to nobody; behind the loop these
results are taken and dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from qpu.lang.kir import ROWS, Loop, Region, Request, Skip, Value, walk
from qpu.lang.rewrite import Rewriter

__all__ = ["load_ahead"]

WORK = 2  # operations for each word loaded or stored; with less the TMU is busy anyway
_BARS = frozenset({"atomic", "barrier", "lock", "fetch"})


class _Ahead(Rewriter):
    """used: values that anything uses. inside: the region of a loop that is made, and what happens behind an operation
    of it.
    """

    def __init__(self, isa: str, top: Region, capacity: int) -> None:
        super().__init__(isa)
        self.capacity = capacity
        self.used: set[int] = set()
        self.skipped: set[int] = set()
        self.behind: dict[int, Callable[[], None]] = {}
        for v in walk(top):
            self.used |= {id(a) for a in v.args}
            if isinstance(v.attr, Loop | Skip):
                self.used |= {id(y) for y in v.attr.yields}

    def one(self, v: Value) -> None:
        if id(v) not in self.skipped:
            super().one(v)
        then = self.behind.get(id(v))
        if then is not None:
            then()

    def loop(self, v: Value, attr: Loop) -> None:
        requests = self._requests(attr)
        moving = [] if requests is None else self._moving(attr, requests)
        fixed = any(id(attr.results[n]) in self.used or not self._pure(attr.yields[n], attr) for n in moving)
        if not requests or fixed:
            super().loop(v, attr)
            return
        q = self.q
        args = [self.get(a) for a in v.args]
        part = Region(q.region)
        outer, q.region = q.region, part
        first = {id(p): x for p, x in zip(attr.region.parameters, args[1:], strict=True)}
        for r in requests:
            q.append("request", tuple(self._again(a, attr, first) for a in r.args), "", r.attr, varying=False)
        region = Region(part, loop=True)
        for p in attr.region.parameters:
            self.map[id(p)] = q.parameter(region, p.type, p.varying)
        self.regions[id(attr.region)] = region
        q.region = region
        going: dict[int, Value] = {}
        self._plan(attr, requests, moving, going)
        self.region(attr.region)
        yields = [going.get(n, self.get(y)) for n, y in enumerate(attr.yields)]
        made = Loop(region, yields, self.get(attr.cond), items=attr.items)
        q.region = part
        op = q.append("loop", (q.const("b", True), *args[1:]), "", made, varying=False)
        results = [q.result(op, p.type, p.varying) for p in attr.region.parameters]
        for _ in range(sum(r.attr.words for r in requests)):
            q.append("pop", (), "i", None, varying=True)
        q.region = outer
        skip = q.append("if_any", tuple(args), "", Skip(part, results), varying=False)
        for r in attr.results:
            self.map[id(r)] = q.result(skip, r.type, r.varying)

    def _plan(self, attr: Loop, requests: list[Value], moving: list[int], going: dict[int, Value]) -> None:
        """Each request of the next turn when its results have room: behind the last result that this turn takes, the
        last one behind the stores.
        """
        q, ops = self.q, attr.region.ops
        pops = [x for x in ops if x.op == "pop"]
        commits = [x for x in ops if x.op == "commit"]

        def ask(row: list[Value]) -> None:
            if not going:
                mask = attr.cond.args[0] if attr.cond.op == "any" else attr.cond
                test = self._again(mask, attr, {})
                for n in moving:
                    old = self.map[id(attr.region.parameters[n])]
                    going[n] = q.emit("select", test, self._again(attr.yields[n], attr, {}), old)
            places = {id(attr.region.parameters[n]): x for n, x in going.items()}
            for r in row:
                q.append("request", tuple(self._again(a, attr, places) for a in r.args), "", r.attr, varying=False)

        at: dict[int, list[Value]] = {}
        words = 0
        for r in requests:
            words += r.attr.words
            last = commits[-1] if commits and r is requests[-1] else pops[words - 1]
            at.setdefault(id(last), []).append(r)
        self.skipped |= {id(r) for r in requests}
        for number, row in at.items():
            self.behind[number] = lambda row=row: ask(row)  # type: ignore[misc]  # a lambda's default

    def _again(self, v: Value, attr: Loop, places: dict[int, Value]) -> Value:
        """A value of the loop computed with other carried values."""
        if id(v) in places:
            return places[id(v)]
        if not attr.region.contains(v):
            return self.get(v)
        if v.op == "parameter":
            return self.map[id(v)]
        if v.op == "const":
            return self.q.const(v.type, v.attr)
        args = tuple(self._again(a, attr, places) for a in v.args)
        return self.q.emit(v.op, *args, type_=v.type, attr=v.attr)

    def _requests(self, attr: Loop) -> list[Value] | None:
        """Requests of a loop over items whose loads can be asked for ahead, with work to do meanwhile."""
        found, pops, stored, work = [], 0, 0, 0
        for v in attr.region.ops:
            if isinstance(v.attr, Loop | Skip) or v.op in _BARS:
                return None
            if v.op == "commit" and (not isinstance(v.attr, Request) or v.attr.byte & 0x78 != 0x78 or len(v.args) > 2):
                return None
            if v.op == "request":
                if len(v.args) > 2 or not all(self._pure(a, attr) for a in v.args):
                    return None
                found.append(v)
            pops += v.op == "pop"
            stored += v.op == "data"
            work += ROWS[v.op].pure
        words = sum(r.attr.words for r in found)
        if not found or not attr.items or pops != words or words > self.capacity or work < WORK * (words + stored):
            return None
        return found if attr.cond.op in ("lt", "any") and self._pure(attr.cond, attr) else None

    def _pure(self, v: Value, attr: Loop) -> bool:
        if v.op == "parameter" or v.op == "const" or not attr.region.contains(v):
            return True
        return ROWS[v.op].pure and all(self._pure(a, attr) for a in v.args)

    def _moving(self, attr: Loop, requests: list[Value]) -> list[int]:
        """Numbers of the carried values that the requests' addresses depend on."""
        found: set[int] = set()
        todo = [a for r in requests for a in r.args]
        while todo:
            v = todo.pop()
            if v.op == "parameter" and v.region is attr.region:
                found.add(v.attr)
            elif attr.region.contains(v):
                todo += v.args
        return sorted(found)


def load_ahead(top: Region, isa: str, capacity: int) -> Region:
    """The same kernel with the loads of its innermost loops asked for a turn before. capacity: words that may be
    pending.
    """
    r = _Ahead(isa, top, capacity)
    r.region(top)
    return r.q.top
