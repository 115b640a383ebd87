"""Addresses that grow by the same amount each turn of a loop, carried instead of computed: no product in the loop; and
counters that count up to zero, so that one addition advances and tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from qpu.lang.kir import Loop, Region, Value
from qpu.lang.rewrite import Rewriter

__all__ = ["Linear", "Lines", "carry_addresses"]

CARRIED = 6  # addresses that a loop carries at most
_ADDRESSED = frozenset({"load", "store", "atomic", "request", "commit"})


@dataclass(frozen=True, slots=True)
class Linear:
    """start + step * (a carried value), both known in front of the loop. of: number of the carried value, -1: none."""

    of: int
    start: Value
    step: Value


class Lines:
    """Which values of a loop are linear in one of its counters. The parts are made in front of the loop."""

    def __init__(self, r: Rewriter, loop: Value, attr: Loop) -> None:
        self.r = r
        self.region = attr.region
        self.known: dict[int, Linear | None] = {}
        self.advance: dict[int, Value] = {}  # what a turn adds to each counter
        self.first: dict[int, Value] = {}
        q = r.q
        for n, (p, y) in enumerate(zip(attr.region.parameters, attr.yields, strict=True)):
            if p.type not in ("i", "u") or y.op != "add" or p not in y.args:
                continue
            other = y.args[1] if y.args[0] is p else y.args[0]
            if other is p or self.region.contains(other):
                continue
            self.advance[n], self.first[n] = r.get(other), r.get(loop.args[1 + n])
            self.known[id(p)] = Linear(n, q.const(p.type, 0), q.const(p.type, 1))

    def of(self, v: Value) -> Linear | None:
        """A value as a line; None where it is not."""
        if id(v) not in self.known:
            self.known[id(v)] = self._find(v)
        return self.known[id(v)]

    def at_first(self, line: Linear) -> Value:
        """A line's value in the first turn."""
        q, first = self.r.q, self.first[line.of]
        return q.emit("add", line.start, q.emit("mul", line.step, self.r.cast(first, line.step.type)))

    def each(self, line: Linear) -> Value:
        """What a turn adds to a line."""
        return self.r.q.emit("mul", line.step, self.r.cast(self.advance[line.of], line.step.type))

    def _find(self, v: Value) -> Linear | None:
        q = self.r.q
        if v.type not in ("i", "u"):
            return None
        if not self.region.contains(v):
            return Linear(-1, self.r.get(v), q.const(v.type, 0))
        if v.region is not self.region:
            return None
        if v.op == "bitcast":
            line = self.of(v.args[0])
            return line and Linear(line.of, self.r.cast(line.start, v.type), self.r.cast(line.step, v.type))
        if v.op not in ("add", "sub", "shl", "mul"):
            return None
        a, b = (self.of(x) for x in v.args)
        if a is None or b is None or (a.of >= 0 and b.of >= 0 and a.of != b.of):
            return None
        of = max(a.of, b.of)
        if v.op in ("add", "sub"):
            return Linear(of, q.emit(v.op, a.start, b.start), q.emit(v.op, a.step, b.step))
        if v.op == "mul" and a.of >= 0:
            a, b = b, a
            return None if a.of >= 0 else Linear(of, q.emit("mul", b.start, a.start), q.emit("mul", b.step, a.start))
        if v.op == "mul":
            return Linear(of, q.emit("mul", a.start, b.start), q.emit("mul", b.step, a.start))
        if b.of >= 0:
            return None
        return Linear(of, q.emit("shl", a.start, b.start), q.emit("shl", a.step, b.start))


class _Carrier(Rewriter):
    """made: values of the loop that a carried one stands for."""

    def __init__(self, isa: str) -> None:
        super().__init__(isa)
        self.made: set[int] = set()

    def one(self, v: Value) -> None:
        if id(v) not in self.made:
            super().one(v)

    def loop(self, v: Value, attr: Loop) -> None:
        q = self.q
        args = [self.get(a) for a in v.args]
        lines = Lines(self, v, attr)
        chosen = self._chosen(attr.region, lines) if lines.advance else []
        region = Region(q.region, loop=True)
        for p in attr.region.parameters:
            self.map[id(p)] = q.parameter(region, p.type, p.varying)
        self.regions[id(attr.region)] = region
        leaders: dict[tuple[int, int], tuple[Linear, Value]] = {}
        steps: list[tuple[Value, Value]] = []
        rest: list[tuple[Value, Value, Value]] = []
        for x, line in chosen:
            key = (line.of, line.step.number)
            if key in leaders:
                leader, carried = leaders[key]
                rest.append((x, carried, q.emit("sub", line.start, leader.start)))
                continue
            carried = q.parameter(region, x.type, x.varying)
            leaders[key] = line, carried
            args.append(lines.at_first(line))
            steps.append((carried, lines.each(line)))
            self.map[id(x)] = carried
        zero = self._zero(v, attr, lines)
        if zero is not None:
            n, limit = zero
            args.append(q.emit("sub", lines.first[n], limit))
            steps.append((q.parameter(region, "i", False), lines.advance[n]))
        outer, q.region = q.region, region
        for x, carried, apart in rest:
            self.map[id(x)] = q.emit("add", carried, apart)
        self.made |= {id(x) for x, _ in chosen}
        self.region(attr.region)
        yields = [self.get(y) for y in attr.yields]
        yields += [q.emit("add", carried, step) for carried, step in steps]
        cond = self.get(attr.cond) if zero is None else q.emit("lt", yields[-1], q.const("i", 0), type_="b", attr="i")
        q.region = outer
        op = q.append("loop", tuple(args), "", Loop(region, yields, cond, items=attr.items), varying=False)
        for r in attr.results:
            self.map[id(r)] = q.result(op, r.type, r.varying)
        ends = [q.result(op, carried.type, carried.varying) for carried, _ in steps]
        if zero is not None and attr.results[zero[0]].type == "i":  # the counter itself need not be carried
            self.map[id(attr.results[zero[0]])] = q.emit("add", ends[-1], zero[1])

    def _chosen(self, region: Region, lines: Lines) -> list[tuple[Value, Linear]]:
        """Addresses that take more than one operation of the loop."""
        found: dict[int, tuple[Value, Linear]] = {}
        for v in region.ops:
            if v.op not in _ADDRESSED:
                continue
            for x in v.args[:2]:
                line = lines.of(x) if region.contains(x) and x.op != "parameter" else None
                if line is not None and line.of >= 0 and _cost(x, region) > 1:
                    found.setdefault(id(x), (x, line))
        if len({(line.of, line.step.number) for _, line in found.values()}) > CARRIED:
            return []
        return list(found.values())

    def _zero(self, loop: Value, attr: Loop, lines: Lines) -> tuple[int, Value] | None:
        """The counter and limit of `while counter < limit` whose difference does not overflow: the counter starts from
        a constant of at least 0 and adds constants, or numbers items.
        """
        cond = attr.cond
        items = attr.items and not any(isinstance(x.attr, Loop) for x in attr.region.ops)
        if cond.op != "lt" or cond.attr != "i" or attr.region.contains(cond.args[1]) or cond.args[1].op == "const":
            return None
        for n in lines.advance:
            first, step = lines.first[n].constant, lines.advance[n].constant
            if attr.yields[n] is not cond.args[0]:
                continue
            if items:
                return n, self.get(cond.args[1])
            if first is None or step is None:
                continue
            if first < 1 << 31 and 0 < step < 1 << 16:
                return n, self.get(cond.args[1])
        return None


def _cost(v: Value, region: Region) -> int:
    """Operations of a loop that make a value."""
    if not region.contains(v) or v.op == "parameter":
        return 0
    return (v.op != "bitcast") + (v.op == "mul") + sum(_cost(a, region) for a in v.args)


def carry_addresses(top: Region, isa: str) -> Region:
    """The same kernel with carried addresses in its loops."""
    r = _Carrier(isa)
    r.region(top)
    return r.q.top
