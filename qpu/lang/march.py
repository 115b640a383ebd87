"""Workers that share the columns of a Grid: each goes down all rows with the vectors of its own (`march="y"`).

Columns whose neighbours are all inside the arrays come first, in chunks of four a lane: there `clamp` and `get` need no
tests, and the words around an element may be read. The columns at the two edges, and what is left over, are single
vectors under a mask.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from qpu.lang.device_loops import device_loop
from qpu.lang.front import Front
from qpu.lang.kir import Region, Skip, Value
from qpu.lang.values import Index

__all__ = ["marching", "rows_loop"]

LANES: Final = 16
WORD: Final = 4  # narrow elements that one word holds at most

One: TypeAlias = Callable[[tuple[Any, ...]], None]


def rows_loop(
    f: Front, node: ast.stmt, extent: tuple[Value, ...], first: Value, step: Value,
    body: Callable[[tuple[Value, ...]], None],
) -> None:  # fmt: skip
    """Rows first, first + step, ... of the leading axes."""
    q = f.q
    total = extent[0]
    for n in extent[1:-1]:
        total = q.emit("mul", total, n)
    name = "%row"
    f.names[name] = first

    def going() -> Value:
        return q.emit("lt", f.names[name], total, type_="b", attr="i")

    def turn() -> None:
        number: Value = f.names[name]
        row: tuple[Value, ...] = (number,)
        if len(extent) == 3:
            plane = q.emit("div", number, extent[1])
            row = (plane, q.emit("sub", number, q.emit("mul", plane, extent[1])))
        kept = dict(f.names)
        body(row)
        f.names.clear()
        f.names.update(kept)

    def advance() -> None:
        f.names[name] = q.emit("add", f.names[name], step)

    device_loop(f, node, [name], going, turn, ast.copy_location(ast.Constant(True), node), advance)
    f.names.pop(name, None)


def marching(f: Front, node: ast.stmt, extent: tuple[Value, ...], coarsen: int, layout: str, one: One) -> None:
    """All items, a column of them a lane. one: evaluates the body for the item at some indices."""
    q = f.q
    found = _reach(f, extent, one)
    if found is None:
        return
    before, after, inside = found
    n = extent[-1]
    size = LANES * coarsen
    shift = q.const("u", (4 * size).bit_length() - 1)
    least = n
    for width in inside:
        if width is not n or after:
            words = q.emit("and", width, q.const("i", -WORD & 0xFFFFFFFF))
            least = q.emit("min", least, q.emit("sub", words, q.const("i", after)))
    room = q.emit("max", q.emit("sub", least, q.const("i", before)), q.const("i", 0))
    whole = q.emit("and", room, q.const("i", -size & 0xFFFFFFFF))
    limit = q.emit("shl", q.emit("add", whole, q.const("i", before)), q.const("u", 2))
    lane = q.emit("lane")
    worker, workers = q.emit("worker"), q.emit("workers")
    lane_bytes = q.emit("shl", lane, q.const("u", 1 + (coarsen if layout == "quad" else 1).bit_length()))
    first = q.emit("sub", q.emit("shl", worker, shift), q.emit("shl", whole, q.const("u", 2)))
    true = ast.copy_location(ast.Constant(True), node)
    name = f"%off{id(node)}"
    f.names[name] = q.emit("add", lane_bytes, first)

    def down(items: int, body: Callable[[tuple[Value, ...]], None]) -> None:
        def row(at: tuple[Value, ...]) -> None:
            f.turns[id(q.region)] = (q.region, items)
            body(at)

        rows_loop(f, node, extent, q.const("i", 0), q.const("i", 1), row)

    def going() -> Value:
        # a chunk is whole: the same answer in all lanes, which a branch tests at no cost
        return q.emit("any", q.emit("lt", f.names[name], q.const("i", 0), type_="b", attr="i"))

    def turn() -> None:
        off = f.names[name]
        f.interior[id(off)] = []
        items = [Index(off, limit, u if layout == "quad" else LANES * u) for u in range(coarsen)]

        def each(at: tuple[Value, ...]) -> None:
            for ix in items:
                one((*at, ix))

        down(size, each)

    def advance() -> None:
        f.names[name] = q.emit("add", f.names[name], q.emit("shl", workers, shift))

    device_loop(f, node, [name], going, turn, true, advance)
    f.names.pop(name, None)

    def vector(off: Value, wanted: Value) -> None:
        ix = Index(off, q.const("i", 0))
        part = Region(q.region)

        def each(at: tuple[Value, ...]) -> None:
            with f.masked(wanted):
                one((*at, ix))

        with f.into(part):
            down(LANES, each)
        q.append("if_any", (wanted,), "", Skip(part, []), varying=False)

    _edges(f, node, n, before, whole, vector)


def _edges(
    f: Front, node: ast.stmt, n: Value, before: int, whole: Value, vector: Callable[[Value, Value], None]
) -> None:
    """The columns 0..before-1 and those from before + whole on, a vector a turn."""
    q = f.q

    def i(value: int) -> Value:
        return q.const("i", value & 0xFFFFFFFF)

    left = -(-before // LANES)
    start = q.emit("add", whole, i(before))
    rest = q.emit("max", q.emit("sub", n, start), i(0))
    count = q.emit("add", q.emit("asr", q.emit("add", rest, i(LANES - 1)), q.const("u", 4)), i(left))
    name = f"%edge{id(node)}"
    f.names[name] = q.emit("worker")

    def going() -> Value:
        return q.emit("lt", f.names[name], count, type_="b", attr="i")

    def turn() -> None:
        number = f.names[name]
        end, at = n, q.emit("add", start, q.emit("shl", q.emit("sub", number, i(left)), q.const("u", 4)))
        if left:
            first = q.emit("lt", number, i(left), type_="b", attr="i")
            end = q.emit("select", first, q.emit("min", n, i(before)), end)
            at = q.emit("select", first, q.emit("shl", number, q.const("u", 4)), at)
        off = q.emit("shl", q.emit("add", at, q.emit("lane")), q.const("u", 2))
        vector(off, q.emit("lt", off, q.emit("shl", end, q.const("u", 2)), type_="b", attr="i"))

    def advance() -> None:
        f.names[name] = q.emit("add", f.names[name], q.emit("workers"))

    device_loop(f, node, [name], going, turn, ast.copy_location(ast.Constant(True), node), advance)
    f.names.pop(name, None)


def _reach(f: Front, extent: tuple[Value, ...], one: One) -> tuple[int, int, list[Value]] | None:
    """Columns before and after an item's own that its accesses touch, in whole words, and the widths of those arrays;
    None after an error. The body is evaluated once for that, and what it makes is dropped.
    """
    q = f.q
    known = len(f.findings)
    region = Region(q.region, loop=True)
    with f.dropped(), f.into(region):
        at = tuple(q.parameter(region, "i", False) for _ in extent[:-1])
        off = q.parameter(region, "i", True)
        touched = f.interior[id(off)] = []
        one((*at, Index(off, q.const("i", 0))))
    f.interior.pop(id(off))
    if len(f.findings) > known:
        return None
    before = max((-plus for _, plus in touched), default=0)
    after = max((plus for _, plus in touched), default=0)
    widths = {id(width): width for width, _ in touched}
    return max(0, -(-before // WORD) * WORD), max(0, -(-after // WORD) * WORD), list(widths.values())
