"""Neighbouring accesses of one region that can be one request: which loads move up, and which stores to the end.

Items of a Grid are independent, so their loads may pass the stores of other items. The items of a Team follow one
another: there only arrays that the launch keeps apart from all that is written (`In`) may pass a store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qpu.lang.kir import Access, Value
from qpu.lang.types import DTYPES

__all__ = ["Grouping", "groups", "unique"]

WORDS = 4  # of a group
_BARS = frozenset({"atomic", "barrier", "loop", "if_any", "lock", "unlock"})


@dataclass(frozen=True, slots=True)
class Grouping:
    """What may be grouped. arrays: numbers of the arrays; ops: "load", "store"; spacing: bytes from word to word;
    align: of which the first offset is a multiple; inputs: arrays that overlap nothing that is written, None where
    items are independent; singles: arrays whose loads may move up alone, to make room for each other.
    """

    arrays: Collection[int]
    ops: Collection[str]
    spacing: int
    align: int
    inputs: Collection[int] | None = None
    singles: Collection[int] = ()


def groups(ops: Sequence[Value], rule: Grouping) -> dict[int, list[Value]]:
    """Loads and stores of four words, by each of their operations."""
    lines: dict[tuple[object, ...], list[Value]] = {}
    blocked: set[int] = set()
    written: set[tuple[int, int]] = set()
    for v in ops:
        if v.op not in ("load", "store") or v.attr.array < 0:
            if v.op in _BARS:
                return {}
            continue
        a: Access = v.attr
        masked = len(v.args) > (2 if v.op == "load" else 3)
        if v.op == "store":
            written.add((a.array, a.offset))
        elif (a.array, a.offset) in written:
            blocked.add(a.array)
        if masked or DTYPES[a.dtype].size != 4 or a.array not in rule.arrays:
            blocked.add(a.array)
            continue
        if v.op in rule.ops:
            lines.setdefault((v.op, id(v.args[0]), id(v.args[1]), a.array), []).append(v)
    if rule.inputs is not None and written:
        _keep_order(ops, rule.inputs, lines, blocked)
    found: dict[int, list[Value]] = {}
    for (_, _, _, array), line in lines.items():
        if array in blocked:
            continue
        line.sort(key=lambda v: v.attr.offset)
        at = 0
        while at + WORDS <= len(line):
            four = line[at : at + WORDS]
            first = four[0].attr.offset
            wanted = [n * rule.spacing for n in range(WORDS)]
            if first % rule.align == 0 and [v.attr.offset - first for v in four] == wanted:
                found.update((id(v), four) for v in four)
                at += WORDS
            else:
                at += 1
    rest = [v for v in ops if v.op == "load" and _alone(v, rule) and id(v) not in found]
    if found or (len(rest) > 1 and written):
        found.update((id(v), [v]) for v in rest)
    return found


def _alone(v: Value, rule: Grouping) -> bool:
    return v.attr.array in rule.singles and len(v.args) == 2 and v.attr.dtype != "f16"


def _keep_order(
    ops: Sequence[Value], inputs: Collection[int], lines: dict[tuple[object, ...], list[Value]], blocked: set[int]
) -> None:
    """Block what may overlap a store, and all stores that are not to one run of places."""
    accesses = [v for v in ops if v.op in ("load", "store")]
    loaded = {v.attr.array for v in accesses if v.op == "load" and v.attr.array not in inputs}
    blocked |= loaded
    stores = [v for v in accesses if v.op == "store"]
    places = {(id(v.args[0]), id(v.args[1]), v.attr.array) for v in stores}
    if loaded or len(places) > 1 or len({v.attr.offset for v in stores}) < len(stores):
        blocked |= {v.attr.array for v in stores}


def unique(ops: Sequence[Value], found: dict[int, list[Value]], op: str) -> list[list[Value]]:
    """The groups of one kind, in the order of their first operations."""
    seen: set[int] = set()
    rows = []
    for v in ops:
        g = found.get(id(v))
        if g is not None and g[0].op == op and id(g[0]) not in seen:
            seen.add(id(g[0]))
            rows.append(g)
    return rows
