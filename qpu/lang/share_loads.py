"""KIR to KIR: an element that is loaded already, and that nothing has stored to since, is not loaded again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from qpu.lang.kir import Loop, Region, Skip, Value, walk
from qpu.lang.rewrite import Rewriter

__all__ = ["share_loads"]

Known: TypeAlias = "dict[tuple[object, ...], list[tuple[Value | None, Value]]]"
"""By place: the mask of each load that is known, None for all lanes, and the load."""


def share_loads(top: Region, isa: str, turns: dict[int, tuple[Region, int]]) -> Region:
    """The kernel without loads of what is loaded. turns: what is known of loops by their region, kept up."""
    places = [_place(v) for v in walk(top) if v.op == "load"]
    if len(set(places)) == len(places):
        return top
    sharer = _Sharer(isa)
    sharer.region(top)
    for old, (_, items) in list(turns.items()):
        if old in sharer.regions:
            turns[id(sharer.regions[old])] = (sharer.regions[old], items)
    return sharer.q.top


def _place(v: Value) -> tuple[object, ...]:
    a = v.attr
    return (a.array, id(v.args[0]), id(v.args[1]), a.offset, a.dtype)


class _Sharer(Rewriter):
    """known: loads whose elements have not changed since."""

    def __init__(self, isa: str) -> None:
        super().__init__(isa)
        self.known: Known = {}

    def sequence(self, ops: Iterable[Value]) -> None:
        for v in ops:
            self.q.loc = v.loc
            if v.op == "load":
                self._load(v)
                continue
            if v.op in ("store", "atomic"):
                self._forget({v.attr.array})
            elif v.op in ("barrier", "asm"):
                self.known = {}
            if not isinstance(v.attr, Loop | Skip):
                self.one(v)
                continue
            changed = _changed(v.attr.region)
            if isinstance(v.attr, Loop):  # a turn may follow another one
                self._forget(changed)
            before = {place: list(rows) for place, rows in self.known.items()}
            self.one(v)
            self.known = before
            self._forget(changed)

    def _load(self, v: Value) -> None:
        place = _place(v)
        mask = v.args[2] if len(v.args) > 2 else None
        for known, other in self.known.get(place, ()):
            if known is mask or (not v.attr.zero and _within(mask, known)):
                self.map[id(v)] = self.get(other)
                return
        self.one(v)
        self.known.setdefault(place, []).append((mask, v))

    def _forget(self, arrays: set[int] | None) -> None:
        """What is loaded from some arrays, None for all, may have changed."""
        if arrays is None:
            self.known = {}
        else:
            self.known = {place: rows for place, rows in self.known.items() if place[0] not in arrays}


def _changed(region: Region) -> set[int] | None:
    found = set()
    for v in walk(region):
        if v.op in ("barrier", "asm"):
            return None
        if v.op in ("store", "atomic"):
            found.add(v.attr.array)
    return found


def _within(mask: Value | None, outer: Value | None) -> bool:
    """Whether the lanes of a mask are certainly among those of another one, None for all."""
    if outer is None:
        return True
    todo: Sequence[Value] = [] if mask is None else [mask]
    while todo:
        if any(m is outer for m in todo):
            return True
        todo = [a for m in todo if m.op == "band" for a in m.args]
    return False
