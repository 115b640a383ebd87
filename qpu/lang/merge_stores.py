"""KIR to KIR: stores to one place in all branches of a condition become one store of a selected value.

Branches that hold few pure operations and such stores, and that together take every lane that comes to them, are not
worth skipping; a store without a mask is a row of memory on VideoCore IV, and a wide request on V3D.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from qpu.lang.kir import ROWS, Region, Skip, Value, walk
from qpu.lang.rewrite import Rewriter

__all__ = ["merge_stores"]

LIMIT = 24  # pure operations in all branches
ATOMS = 6  # different conditions that are told apart


def merge_stores(top: Region, isa: str, turns: dict[int, tuple[Region, int]]) -> Region:
    """The kernel with stores of exhaustive branches merged. turns: what is known of loops by their region, kept up."""
    while any(isinstance(v.attr, Skip) and _stores(v) for v in walk(top)):
        merger = _Merger(isa)
        merger.region(top)
        if not merger.merged:
            break
        top = merger.q.top
        for old, (_, items) in list(turns.items()):
            if old in merger.regions:
                turns[id(merger.regions[old])] = (merger.regions[old], items)
    return top


def _stores(v: Value) -> list[Value] | None:
    """The stores of a skipped part that holds else pure operations; None where it holds more."""
    found = []
    for x in v.attr.region.ops:
        if x.op == "store" and len(x.args) == 4 and x.args[3] is v.args[0]:
            found.append(x)
        elif not ROWS[x.op].pure or x.op in ("any", "all"):
            return None
    return found or None


def _place(store: Value) -> tuple[object, ...]:
    a = store.attr
    return (_same(store.args[0]), _same(store.args[1]), a.array, a.offset, a.dtype)


def _same(v: Value, depth: int = 4) -> object:
    """Equal for values that are certainly equal: branches beside each other make an address each."""
    if not depth or not v.args or not ROWS[v.op].pure or v.op in ("result", "parameter"):
        return (v.type, v.attr) if v.op == "const" else id(v)
    return (v.op, v.type, v.attr, *(_same(a, depth - 1) for a in v.args))


class _Merger(Rewriter):
    """merged: whether anything was; masks: of the skipped parts around."""

    def __init__(self, isa: str) -> None:
        super().__init__(isa)
        self.merged = False
        self.masks: list[Value | None] = [None]

    def skip(self, v: Value, attr: Skip) -> None:
        self.masks.append(v.args[0])
        super().skip(v, attr)
        self.masks.pop()

    def sequence(self, ops: Iterable[Value]) -> None:
        rows = list(ops)
        at = 0
        while at < len(rows):
            group = self._group(rows, at)
            if group is None:
                self.q.loc = rows[at].loc
                self.one(rows[at])
                at += 1
            else:
                self._merge(rows[at : group[-1] + 1], [rows[n] for n in group])
                at = group[-1] + 1

    def _group(self, rows: Sequence[Value], at: int) -> list[int] | None:
        """Numbers of the branches from `at` on that store to the same places and take every lane together."""
        places = None
        found: list[int] = []
        size = 0
        for n in range(at, len(rows)):
            v = rows[n]
            if not isinstance(v.attr, Skip):
                if not ROWS[v.op].pure:
                    return None
                if not found:
                    return None
                continue
            stores = _stores(v)
            if stores is None:
                return None
            here = [_place(s) for s in stores]
            if places is None:
                places = here
            size += len(v.attr.region.ops)
            if here != places or len(set(here)) != len(here) or size > LIMIT:
                return None
            found.append(n)
            if len(found) > 1 and _exhaustive([rows[k].args[0] for k in found], self.masks[-1]):
                return found
        return None

    def _merge(self, rows: Sequence[Value], parts: Sequence[Value]) -> None:
        q = self.q
        self.merged = True
        values: list[list[Value]] = []
        last: list[Value] = []
        for v in rows:
            q.loc = v.loc
            if v not in parts:
                self.one(v)
                continue
            last = _stores(v) or []
            super().sequence([x for x in v.attr.region.ops if x.op != "store"])
            values.append([self.get(s.args[2]) for s in last])
            for r, new, old in zip(v.attr.results, v.attr.yields, v.args[1:], strict=True):
                self.map[id(r)] = q.emit("select", self.get(v.args[0]), self.get(new), self.get(old))
        outer = self.masks[-1]
        mask = () if outer is None else (self.get(outer),)
        for k, store in enumerate(last):
            chosen = values[-1][k]
            for v, row in zip(reversed(parts[:-1]), reversed(values[:-1]), strict=True):
                chosen = q.emit("select", self.get(v.args[0]), row[k], chosen)
            q.append("store", (self.get(store.args[0]), self.get(store.args[1]), chosen, *mask), "", store.attr)


def _exhaustive(masks: Sequence[Value], outer: Value | None) -> bool:
    """Whether the masks together are the outer one, and no lane is in two, whatever their conditions are."""
    atoms: dict[object, int] = {}
    for m in [*masks, *([] if outer is None else [outer])]:
        _collect(m, atoms)
    if len(atoms) > ATOMS:
        return False
    for values in product((False, True), repeat=len(atoms)):
        wanted = True if outer is None else _value(outer, atoms, values)
        if sum(_value(m, atoms, values) for m in masks) != wanted:
            return False
    return True


def _atom(m: Value) -> tuple[object, bool]:
    """A condition, and whether it is the opposite: `a <= b` of integers is not `b < a`, `a != b` not `a == b`."""
    a, b = (_same(x) for x in m.args) if m.op in ("lt", "le", "eq", "ne") else (None, None)
    if m.op == "lt" or (m.op == "le" and m.attr != "f"):
        return (("lt", m.attr, a, b), False) if m.op == "lt" else (("lt", m.attr, b, a), True)
    if m.op in ("eq", "ne"):
        return ("eq", m.attr, frozenset((a, b))), m.op == "ne"
    return id(m), False


def _collect(m: Value, atoms: dict[object, int]) -> None:
    if m.op in ("band", "bor", "bnot"):
        for a in m.args:
            _collect(a, atoms)
    elif m.op != "const":
        atoms.setdefault(_atom(m)[0], len(atoms))


def _value(m: Value, atoms: dict[object, int], values: Sequence[bool]) -> bool:
    if m.op == "bnot":
        return not _value(m.args[0], atoms, values)
    if m.op == "band":
        return all(_value(a, atoms, values) for a in m.args)
    if m.op == "bor":
        return any(_value(a, atoms, values) for a in m.args)
    if m.op == "const":
        return bool(m.attr)
    key, opposite = _atom(m)
    return values[atoms[key]] is not opposite
