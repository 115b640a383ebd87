"""How integers grow from lane to lane: what tells rows of memory, strides and prefixes of lanes."""

from __future__ import annotations

from qpu.lang.kir import Loop, Region, Skip, Value

__all__ = ["Steps"]


def _signed(bits: int) -> int:
    return bits - (1 << 32) if bits >> 31 else bits


class Steps:
    """The steps of a kernel's values, found when asked for."""

    def __init__(self, top: Region) -> None:
        self._loops: dict[int, tuple[Value, Loop]] = {}
        self._known: dict[int, int | None] = {}
        self._register(top)

    def _register(self, region: Region) -> None:
        for v in region.ops:
            if isinstance(v.attr, Loop):
                self._loops[id(v.attr.region)] = (v, v.attr)
            if isinstance(v.attr, Loop | Skip):
                self._register(v.attr.region)

    def of(self, v: Value) -> int | None:
        """How much an integer grows from each lane to the next; None where it is not the same everywhere."""
        return self._of(v, self._known)

    def _of(self, v: Value, known: dict[int, int | None]) -> int | None:
        if id(v) in known:
            return known[id(v)]
        known[id(v)] = None  # a carried value that depends on itself
        found = known[id(v)] = self._find(v, known)
        return found

    def _find(self, v: Value, known: dict[int, int | None]) -> int | None:
        if not v.varying:
            return 0
        if v.op == "lane":
            return 1
        if v.op in ("bitcast", "same"):
            return self._of(v.args[0], known)
        if v.op in ("add", "sub"):
            a, b = (self._of(x, known) for x in v.args)
            if a is None or b is None:
                return None
            return a + b if v.op == "add" else a - b
        if v.op in ("shl", "asr", "mul") and v.args[1].constant is not None:
            a, n = self._of(v.args[0], known), v.args[1].constant
            if a is None:
                return None
            if v.op == "mul":
                return a * _signed(n)
            if v.op == "shl":
                return a << (n & 31)
            return a >> (n & 31) if a % (1 << (n & 31)) == 0 else None  # whatever the first lane has
        if v.op == "parameter":
            return self._carried(v, known)
        if v.op == "result" and isinstance(v.args[0].attr, Loop):  # as the carried value that it was
            return self._of(v.args[0].attr.region.parameters[v.attr], known)
        return None

    def _carried(self, v: Value, known: dict[int, int | None]) -> int | None:
        """A carried value steps as its initial value does when each turn adds the same to all lanes."""
        row = self._loops.get(id(v.region))
        if row is None:
            return None
        loop, attr = row
        start = self._of(loop.args[1 + v.attr], known)
        if start is None:
            return None
        known[id(v)] = start
        after = self._of(attr.yields[v.attr], dict(known))
        return start if after == start else None
