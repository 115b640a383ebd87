"""What integers of a kernel are at least and at most: which products fit the 24 bits that every chip multiplies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from qpu.lang.kir import Loop, Region, Value, walk
from qpu.lang.types import DTYPES

__all__ = ["Span", "Spans"]

Span: TypeAlias = tuple[int, int]

_WHOLE: Final[dict[str, Span]] = {"i": (-(1 << 31), (1 << 31) - 1), "u": (0, (1 << 32) - 1)}


class Spans:
    """The spans of a kernel's values, found when asked for. An operation that may wrap has the whole span.

    params: of launch values, by name.
    """

    def __init__(self, top: Region, params: Mapping[str, Span] | None = None) -> None:
        self._params = params or {}
        self._loops: dict[int, tuple[Value, Loop]] = {}
        self._known: dict[int, Span] = {}
        for v in walk(top):
            if isinstance(v.attr, Loop):
                self._loops[id(v.attr.region)] = (v, v.attr)

    def of(self, v: Value) -> Span:
        """Least and greatest value of an i32 or u32."""
        return self._of(v, self._known)

    def fits(self, v: Value, bits: int) -> bool:
        """Whether an integer is 0 .. 2**bits - 1."""
        low, high = self.of(v)
        return low >= 0 and high < 1 << bits

    def _of(self, v: Value, known: dict[int, Span]) -> Span:
        if id(v) not in known:
            whole = _WHOLE.get(v.type, (0, 0))
            known[id(v)] = whole  # a carried value that depends on itself
            low, high = self._find(v, known) or whole
            known[id(v)] = (low, high) if whole[0] <= low and high <= whole[1] else whole
        return known[id(v)]

    def _find(self, v: Value, known: dict[int, Span]) -> Span | None:
        if v.op == "const":
            bits = v.attr & 0xFFFFFFFF
            return (bits, bits) if v.type == "u" or not bits >> 31 else (bits - (1 << 32),) * 2
        if v.op == "lane":
            return 0, 15
        if v.op == "param":
            return self._params.get(v.attr)
        if v.op == "load":
            t = DTYPES[v.attr.dtype]
            return (t.low, t.high) if t.lanes == 1 and t.high else None
        if v.op in ("bitcast", "same", "rot", "bcast"):
            return self._of(v.args[0], known) if v.args[0].type in _WHOLE else None
        if v.op == "select":
            (a, b), (c, d) = (self._of(x, known) for x in v.args[1:])
            return min(a, c), max(b, d)
        if v.op == "parameter":
            return self._carried(v, known)
        if v.op == "result" and isinstance(v.args[0].attr, Loop):
            return self._of(v.args[0].attr.region.parameters[v.attr], known)
        rule = _RULES.get(v.op)
        if rule is None or any(x.type not in _WHOLE for x in v.args):
            return None
        return rule(*(self._of(x, known) for x in v.args))

    def _carried(self, v: Value, known: dict[int, Span]) -> Span | None:
        """A carried value stays in the span of its initial value where each turn keeps it there."""
        row = self._loops.get(id(v.region))
        if row is None:
            return None
        loop, attr = row
        low, high = self._of(loop.args[1 + v.attr], known)
        y, test = attr.yields[v.attr], attr.cond
        if y.op == "add" and y.args[0] is v and test.op == "lt" and test.attr == "i" and test.args[0] is y:
            step = self._of(y.args[1], known)
            last = self._of(test.args[1], known)[1] - 1
            if step[0] >= 0 and max(high, last) + step[1] < 1 << 31:  # counts up to a limit
                return low, max(high, last)
        trial = dict(known)
        trial[id(v)] = low, high
        after = self._of(attr.yields[v.attr], trial)
        if low <= after[0] and after[1] <= high:
            return low, high
        wide = min(low, after[0]), max(high, after[1])
        trial = dict(known)
        trial[id(v)] = wide
        after = self._of(attr.yields[v.attr], trial)
        return wide if wide[0] <= after[0] and after[1] <= wide[1] else None


def _shift(a: Span, b: Span) -> tuple[Span, int] | None:
    return (a, b[0] & 31) if b[0] == b[1] else None


def _shl(a: Span, b: Span) -> Span | None:
    found = _shift(a, b)
    return found and (a[0] << found[1], a[1] << found[1])


def _asr(a: Span, b: Span) -> Span | None:
    found = _shift(a, b)
    return found and (a[0] >> found[1], a[1] >> found[1])


def _shr(a: Span, b: Span) -> Span | None:
    found = _shift(a, b)
    if found is None:
        return None
    return (a[0] >> found[1], a[1] >> found[1]) if a[0] >= 0 else (0, 0xFFFFFFFF >> found[1])


def _and(a: Span, b: Span) -> Span | None:
    highs = [x[1] for x in (a, b) if x[0] >= 0]
    return (0, min(highs)) if highs else None


def _product(a: Span, b: Span) -> Span:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


_RULES: Final = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _product,
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "shl": _shl,
    "asr": _asr,
    "shr": _shr,
    "and": _and,
}
