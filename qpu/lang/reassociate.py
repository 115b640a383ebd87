"""KIR to KIR: sums and products of floats regrouped (the knob `reassociate`), which changes roundings.

Constants of one sum or product become one. The rest is joined in pairs instead of one after another, and what a loop
carries comes last, so that a turn waits for the turn before with one operation.
"""

from __future__ import annotations

from collections import Counter

from qpu.core.scalar_lanes import float_bits, float_of
from qpu.lang.kir import Loop, Region, Skip, Value, walk
from qpu.lang.rewrite import Rewriter

__all__ = ["reassociate"]

_SUM, _PRODUCT = frozenset({"fadd", "fsub"}), frozenset({"fmul"})


class _Regrouper(Rewriter):
    """uses: how often each value is used; inner: by id, values that are parts of a larger sum or product."""

    def __init__(self, isa: str, top: Region) -> None:
        super().__init__(isa)
        self.uses: Counter[int] = Counter()
        users: dict[int, Value] = {}
        for v in walk(top):
            for a in v.args:
                self.uses[id(a)] += 1
                users[id(a)] = v
            if isinstance(v.attr, Loop | Skip):
                self.uses.update(id(y) for y in v.attr.yields)
                if isinstance(v.attr, Loop):
                    self.uses[id(v.attr.cond)] += 1
        self.inner: set[int] = set()
        for v in walk(top):
            user = users.get(id(v))
            kind = _kind(v)
            if kind and user is not None and user.op in kind and self.uses[id(v)] == 1 and user.region is v.region:
                self.inner.add(id(v))

    def replace(self, v: Value, args: tuple[Value, ...]) -> Value | None:
        kind = _kind(v)
        if not kind or id(v) in self.inner:
            return None
        leaves: list[tuple[Value, bool]] = []
        self._leaves(v, kind, False, leaves)
        if len(leaves) < 3:
            return None
        number = 0.0 if kind is _SUM else 1.0
        plus: list[Value] = []
        minus: list[Value] = []
        last: list[Value] = []
        for leaf, negative in leaves:
            if leaf.constant is not None:
                x = float_of(leaf.constant)
                joined = number * x if kind is _PRODUCT else number - x if negative else number + x
                number = float_of(float_bits(joined))
            elif leaf.op == "parameter" and not negative:
                last.append(self.get(leaf))
            else:
                (minus if negative else plus).append(self.get(leaf))
        q, op = self.q, "fadd" if kind is _SUM else "fmul"
        if number != (0 if kind is _SUM else 1):
            plus.append(self.f(number))
        total = self._joined(op, plus)
        if minus:
            taken = self._joined("fadd", minus)
            assert taken is not None
            total = q.emit("fsub", self.f(0.0) if total is None else total, taken)
        for carried in last:
            total = carried if total is None else q.emit(op, carried, total)
        return self.f(number) if total is None else total

    def _leaves(self, v: Value, kind: frozenset[str], negative: bool, found: list[tuple[Value, bool]]) -> None:
        for n, a in enumerate(v.args):
            sign = negative != (n == 1 and v.op == "fsub")
            if id(a) in self.inner and a.op in kind:
                self._leaves(a, kind, sign, found)
            else:
                found.append((a, sign))

    def _joined(self, op: str, values: list[Value]) -> Value | None:
        """All values by operations on pairs."""
        while len(values) > 1:
            pairs = [self.q.emit(op, *values[n : n + 2]) for n in range(0, len(values) - 1, 2)]
            values = pairs + values[len(pairs) * 2 :]
        return values[0] if values else None


def _kind(v: Value) -> frozenset[str]:
    return _SUM if v.op in _SUM else _PRODUCT if v.op in _PRODUCT else frozenset()


def reassociate(top: Region, isa: str, turns: dict[int, tuple[Region, int]]) -> Region:
    """The same kernel with sums and products regrouped. turns: what is known of loops by their region, kept up."""
    r = _Regrouper(isa, top)
    r.region(top)
    for old, (_, items) in list(turns.items()):
        if old in r.regions:
            turns[id(r.regions[old])] = (r.regions[old], items)
    return r.q.top
