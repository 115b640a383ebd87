"""How integers grow from lane to lane: what tells rows of memory, strides and prefixes of lanes."""

from __future__ import annotations

from typing import Any, TypeAlias

from qpu.lang.kir import Loop, Region, Skip, Value

__all__ = ["Formula", "Steps"]

Formula: TypeAlias = "int | Value | tuple[str, Any, Any]"
"""A number, a value that is the same in all lanes, or an operation ("add", "sub", "mul", "shl") of two formulas."""


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

    def formula(self, v: Value) -> Formula | None:
        """How much an integer grows from each lane to the next, by values that the launch decides; None: unknown."""
        return self._formula(v, {})

    def _formula(self, v: Value, known: dict[int, Formula | None]) -> Formula | None:
        if id(v) in known:
            return known[id(v)]
        step = self.of(v)
        if step is not None:
            return step
        if v.op in ("bitcast", "same"):
            return self._formula(v.args[0], known)
        if v.op in ("add", "sub"):
            return _joined(v.op, *(self._formula(x, known) for x in v.args))
        if v.op in ("mul", "shl"):
            a, b = v.args if v.op == "shl" or v.args[0].varying else v.args[::-1]
            return None if b.varying else _joined(v.op, self._formula(a, known), b)
        if v.op == "result" and isinstance(v.args[0].attr, Loop):
            return self._formula(v.args[0].attr.region.parameters[v.attr], known)
        if v.op != "parameter" or id(v.region) not in self._loops:
            return None
        loop, attr = self._loops[id(v.region)]
        start = self._formula(loop.args[1 + v.attr], known)
        return start if self._formula(attr.yields[v.attr], {**known, id(v): start}) == start else None

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


def _joined(op: str, a: Formula | None, b: Formula | None) -> Formula | None:
    if a is None or b is None or (op in ("mul", "shl") and a == 0):
        return None if a is None or b is None else 0
    if b == 0 and op in ("add", "sub"):
        return a
    return b if (a == 0 and op == "add") or (a == 1 and op == "mul") else (op, a, b)
