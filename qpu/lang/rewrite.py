"""Making KIR anew, operation by operation: the base of passes that replace some of them."""

from __future__ import annotations

from collections.abc import Iterable

from qpu.core.scalar_lanes import float_bits
from qpu.lang.fold import fold
from qpu.lang.kir import ROWS, Builder, Loop, Region, Skip, Value

__all__ = ["Rewriter"]


class Rewriter:
    """Makes the region anew, operation by operation, with those replaced that the instruction set lacks. map: what
    stands for each value; regions: for each loop's region.
    """

    def __init__(self, isa: str) -> None:
        self.isa = isa
        self.q = Builder(fold)
        self.map: dict[int, Value] = {}
        self.regions: dict[int, Region] = {}

    def get(self, value: Value) -> Value:
        return self.map[id(value)]

    def region(self, region: Region) -> None:
        """The operations of a region into the current one."""
        self.sequence(region.ops)

    def sequence(self, ops: Iterable[Value]) -> None:
        """Some operations, in order."""
        for v in ops:
            self.q.loc = v.loc
            self.one(v)

    def one(self, v: Value) -> None:
        q = self.q
        if isinstance(v.attr, Loop):
            self.loop(v, v.attr)
            return
        if isinstance(v.attr, Skip):
            self.skip(v, v.attr)
            return
        args = tuple(self.get(a) for a in v.args)
        made = self.replace(v, args)
        if made is not None:
            self.map[id(v)] = made
            return
        if v.op == "const":
            self.map[id(v)] = q.const(v.type, v.attr)
        elif not ROWS[v.op].pure:
            self.map[id(v)] = q.append(v.op, args, v.type, v.attr, varying=v.varying)
        else:
            self.map[id(v)] = q.emit(v.op, *args, type_=v.type, attr=v.attr)

    def replace(self, v: Value, args: tuple[Value, ...]) -> Value | None:
        """What stands for an operation instead of itself; None: the operation itself."""
        return None

    def loop(self, v: Value, attr: Loop) -> None:
        q = self.q
        args = tuple(self.get(a) for a in v.args)
        region = Region(q.region, loop=True)
        for p in attr.region.parameters:
            self.map[id(p)] = q.parameter(region, p.type, p.varying)
        self.regions[id(attr.region)] = region
        outer, q.region = q.region, region
        self.region(attr.region)
        made = Loop(region, [self.get(y) for y in attr.yields], self.get(attr.cond), items=attr.items)
        q.region = outer
        op = q.append("loop", args, "", made, varying=False)
        for r in attr.results:
            self.map[id(r)] = q.result(op, r.type, r.varying)

    def skip(self, v: Value, attr: Skip) -> None:
        q = self.q
        args = tuple(self.get(a) for a in v.args)
        region = Region(q.region)
        outer, q.region = q.region, region
        self.region(attr.region)
        made = Skip(region, [self.get(y) for y in attr.yields])
        q.region = outer
        op = q.append("if_any", args, "", made, varying=False)
        for r in attr.results:
            self.map[id(r)] = q.result(op, r.type, r.varying)

    # -- pieces

    def u(self, value: int) -> Value:
        """An unsigned constant."""
        return self.q.const("u", value & 0xFFFFFFFF)

    def f(self, value: float) -> Value:
        """A float constant."""
        return self.q.const("f", float_bits(value))

    def cast(self, v: Value, type_: str) -> Value:
        """The same bits as another type."""
        return self.q.emit("bitcast", v, type_=type_)
