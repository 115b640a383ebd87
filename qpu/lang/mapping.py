"""How items become work: Grid and Team items over workers and lanes, and the operations of the kernel object.

n items are cut into chunks of 16 x coarsen; worker w takes chunks w, w + W, ... in a loop whose byte offset counts up
to zero, so that one addition advances and tests. What is left over, fewer items than a chunk, is done under a mask, one
vector a worker. Where every access allows it, a lane owns neighbouring items (layout "quad": wide requests); otherwise
neighbouring items are in neighbouring lanes ("row").
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qpu.errors import counted
from qpu.lang.bounds import host
from qpu.lang.carried import may_leave
from qpu.lang.device_loops import device_loop
from qpu.lang.front import Exits, Front
from qpu.lang.front_merge import under_mask
from qpu.lang.front_names import targets
from qpu.lang.intrinsics import Intrinsics
from qpu.lang.kir import Value
from qpu.lang.march import marching, rows_loop
from qpu.lang.source import CHUNK, in_chunks
from qpu.lang.team import OPERATIONS
from qpu.lang.values import Bound, Index, Inside, Unbound, View

__all__ = ["GridBody", "GridObject", "Items", "TeamObject"]

LANES = 16
_GRID = ("index",)
_TEAM = ("items", "tiles", "sum", "min", "max", "any", "all", "scan", "last", "rotate", "broadcast", "shuffle",
         "barrier", "shared", "store_tile")  # fmt: skip
_BOTH = ("asm",)


@dataclass(frozen=True, slots=True)
class Items:
    """What `k.items(...)` and `k.tiles(...)` give to a for loop."""

    n: Any
    run: bool = False
    per_lane: int = 1
    tiles: tuple[Any, Any, int, int] | None = None

    def loop(self, f: Front, node: ast.For) -> None:
        """Evaluate the loop over them."""
        (tiles_loop if self.tiles else items_loop)(f, node, self)


class Extent(Exception):
    """Raised by the first `k.index` of a Grid kernel: how many items there are is known now."""

    def __init__(self, extent: tuple[Value, ...]) -> None:
        super().__init__()
        self.extent = extent


class KernelObject:
    """What the first parameter of a kernel stands for."""

    __qpu_object__ = True
    team = False

    def attribute(self, f: Front, node: ast.AST, name: str) -> Any:
        """k.lane, k.sum, ..."""
        return kernel_attribute(f, node, name)

    def call(self, f: Front, node: ast.Call, name: str, args: list[Any], keywords: dict[str, Any]) -> Any:
        """k.name(...)."""
        work = _CALLS[name]
        try:
            inspect.signature(work).bind(f, node, *args, **keywords)
        except TypeError as error:
            raise f.error(node, "lang-call", f"k.{name}: {error}") from None
        return work(f, node, *args, **keywords)


class GridObject(KernelObject):
    """The kernel object of a Grid. at: what `k.index` gives in the copy that is evaluated, None before the mapping."""

    def __init__(self) -> None:
        self.at: tuple[Any, ...] | None = None
        self.used = False


class TeamObject(KernelObject):
    """The kernel object of a Team."""

    team = True


def kernel_attribute(f: Front, node: ast.AST, name: str) -> Any:
    """k.lane, k.sum, ..."""
    q = f.q
    if name == "isa":
        return f.isa
    if name in ("vc4", "v3d"):
        return Intrinsics(name)
    team = f.kernel_object.team
    if name in _BOTH or name in (_TEAM if team else _GRID):
        return Bound(f.kernel_object, name)
    if team and name in ("lane", "worker", "workers"):
        return q.emit(name)
    other = "Team" if name in _TEAM or name in ("lane", "worker", "workers") else "Grid" if name in _GRID else ""
    kind = "Team" if team else "Grid"
    raise f.error(
        node,
        "lang-team" if other else "lang-name",
        f"a {kind} has no {name!r}" + (f"; a {other} has" if other else ""),
        allowed=", ".join([*(_TEAM if team else _GRID), *_BOTH]),
        help=f"declare the first parameter as {other}" if other else None,
    )


# -- Grid


def _index(f: Front, node: ast.Call, *extent: Any) -> Any:
    grid = f.kernel_object
    if not extent:
        views = [v for v in f.frames[0].names.values() if isinstance(v, View)]
        outputs = [v for v in views if v.mode != "in"]
        if not outputs:
            raise f.error(node, "lang-call", "k.index() needs an Out parameter", help="k.index(n)")
        extent = outputs[0].shape
    if len(extent) > 3:
        raise f.error(node, "lang-call", counted(len(extent), "axis"), allowed="1, 2 or 3")
    if grid.at is None:
        values = []
        for x in extent:
            if isinstance(x, float | bool) or (isinstance(x, Value) and (x.varying or x.type not in ("i", "u"))):
                raise f.error(
                    node, "lang-varying", f"an extent is {f.describe(x)}", allowed="integers, the same in all lanes"
                )
            values.append(f.convert(x, "i", node))
        raise Extent(tuple(values))
    if grid.used:
        raise f.error(node, "lang-call", "k.index is called twice", help="keep its result in a name")
    grid.used = True
    found = grid.at
    return found[0] if len(found) == 1 else found


class GridBody:
    """Evaluates a Grid kernel: finds the extent, then the body once a copy."""

    def __init__(self, f: Front, body: list[ast.stmt], coarsen: int, layout: str, march: str | None = None) -> None:
        self.f = f
        self.body = body
        self.coarsen = coarsen
        self.layout = layout
        self.march = march

    def evaluate(self) -> None:
        f = self.f
        start = dict(f.names)
        try:
            f.execute(self.body)
        except Extent as found:
            extent = found.extent
        else:
            if not f.findings:
                node = self.body[0]
                f.report(f.error(node, "lang-call", "a Grid kernel has no k.index()", help="i = k.index(n)").finding)
            return
        f.names.clear()
        f.names.update(start)
        sizes = [host(n) for n in extent]
        f.ranges.extent = None if None in sizes else [n for n in sizes if n is not None]

        def one(at: tuple[Any, ...]) -> None:
            outer, mask, frame = dict(f.names), f.mask, f.frame
            f.names.clear()
            f.names.update(start)
            f.kernel_object.at, f.kernel_object.used = at, False
            before, frame.exits = frame.exits, [Exits("function", mask=mask)]
            try:
                with f.ranges.items(at, extent, f.q.region, mask, grid=True):
                    f.execute(self.body)
            finally:
                frame.exits, f.mask = before, mask
                f.names.clear()
                f.names.update(outer)

        node = self.body[0]
        if len(extent) == 1:
            chunks(f, node, extent[0], self.coarsen, self.layout, lambda ix: one((ix,)), [])
            return
        if self.march == "y":
            marching(f, node, extent, self.coarsen, self.layout, one)
            return
        worker, workers = f.q.emit("worker"), f.q.emit("workers")
        rows_loop(f, node, extent, worker, workers, lambda row: self._columns(row, extent[-1], one))

    def _columns(self, row: tuple[Value, ...], n: Value, one: Callable[[tuple[Any, ...]], None]) -> None:
        f = self.f
        chunks(f, self.body[0], n, self.coarsen, self.layout, lambda ix: one((*row, ix)), [], alone=True)


def chunks(
    f: Front,
    node: ast.stmt,
    n: Value,
    coarsen: int,
    layout: str,
    one: Callable[[Index], None],
    names: list[str],
    *,
    alone: bool = False,
) -> None:
    """Items 0..n-1: a loop over whole chunks, then what is left under a mask. names: what the items of a Team
    may bind (then a chunk is one vector).

    alone: one worker takes them all (the columns of a row); else they are spread over the workers.
    """
    q = f.q
    shift = (LANES * coarsen * 4).bit_length() - 1
    whole = q.emit("and", n, q.const("i", -(LANES * coarsen) & 0xFFFFFFFF))
    limit = q.emit("shl", whole, q.const("u", 2))
    lane = q.emit("lane")
    wide = coarsen if layout == "quad" else 1
    lane_bytes = q.emit("shl", lane, q.const("u", 1 + wide.bit_length()))
    worker = q.const("i", 0) if alone else q.emit("worker")
    workers = q.const("i", 1) if alone else q.emit("workers")
    first = q.emit("sub", q.emit("shl", worker, q.const("u", shift)), limit)
    step = q.emit("shl", workers, q.const("u", shift))
    name = f"%off{id(node)}"
    f.names[name] = q.emit("add", lane_bytes, first)

    def going() -> Value:
        # a chunk is whole: the same answer in all lanes, which a branch tests at no cost
        return q.emit("any", q.emit("lt", f.names[name], q.const("i", 0), type_="b", attr="i"))

    def turn() -> None:
        vectors = [Index(f.names[name], limit, u if layout == "quad" else LANES * u) for u in range(coarsen)]
        f.turns[id(q.region)] = (q.region, LANES * coarsen)
        for ix in vectors:
            one(ix)

    def advance() -> None:
        f.names[name] = q.emit("add", f.names[name], step)

    device_loop(f, node, [name, *names], going, turn, ast.copy_location(ast.Constant(True), node), advance)
    following = f.names.pop(name)
    if not isinstance(following, Value):  # the loop is wrong: report what the tail finds
        following = lane_bytes
    tail_vectors = coarsen if alone else 1
    left = q.emit("shl", q.emit("sub", n, whole), q.const("u", 2))
    if names:  # of a Team: what is left is the next vector of the worker whose turn it is
        inside = q.emit("lt", following, left, type_="b", attr="i")
        under_mask(f, node, inside, lambda: one(Index(following, limit)), names)
        return
    for u in range(tail_vectors):
        at = q.emit("add", q.emit("shl", worker, q.const("u", 4)), q.const("i", LANES * u))
        off = q.emit("shl", q.emit("add", at, lane), q.const("u", 2))
        inside = q.emit("lt", off, left, type_="b", attr="i")
        under_mask(f, node, inside, lambda off=off: one(Index(off, limit)), names)  # type: ignore[misc]  # a lambda's default


# -- Team


def _items(f: Front, node: ast.Call, n: Any, run: bool = False, per_lane: int = 1) -> Items:
    if isinstance(n, float | bool) or (isinstance(n, Value) and (n.varying or n.type not in ("i", "u"))):
        raise f.error(node, "lang-varying", f"k.items of {f.describe(n)}", allowed="an integer, the same in all lanes")
    if f.is_value(run) or f.is_value(per_lane) or per_lane not in (1, 2, 4, 8, 16):
        raise f.error(node, "lang-call", f"k.items with run={f.describe(run)}, per_lane={f.describe(per_lane)}",
                      allowed="run: True or False; per_lane: 1, 2, 4, 8, 16; known when compiling")  # fmt: skip
    return Items(f.convert(n, "i", node), bool(run), per_lane)


def _tiles(f: Front, node: ast.Call, m: Any, n: Any, rows: int, cols: int) -> Items:
    if f.is_value(rows) or f.is_value(cols):
        raise f.error(node, "lang-varying", "the size of a tile must be known when compiling")
    return Items(None, tiles=(f.convert(m, "i", node), f.convert(n, "i", node), rows, cols))


def items_loop(f: Front, node: ast.For, items: Items) -> None:
    """for i in k.items(n)."""
    names = targets([*node.body, node.target])
    before = set(f.names)

    leaving = may_leave(node)

    def one(ix: Index) -> None:
        f.assign(node.target, ix)
        with f.ranges.items((ix,), (items.n,), f.q.region, f.mask, grid=False):
            _body(f, node, leaving)

    plain = not items.run and items.per_lane == 1
    if plain and len(f.frames) == 1 and in_chunks(node, f.frame.source.kernel):
        _chunks_loop(f, node, items.n, one, names)
    elif items.run or items.per_lane > 1 or leaving:
        _blocks_loop(f, node, items, names, leaving=leaving)
    else:
        chunks(f, node, items.n, 1, "row", one, names)
    _unbind(f, node, names, before)


def _body(f: Front, node: ast.For, leaving: bool) -> None:
    """The body for one item a lane. Lanes that `continue` are back for the next one, which may be of the same turn;
    leaving: lanes may leave the loop, whose turns are one item a lane then.
    """
    if leaving:
        f.execute(node.body)
        return
    mask = f.mask
    f.frame.exits.append(Exits("loop", mask=mask, static=False))
    try:
        f.execute(node.body)
    finally:
        f.frame.exits.pop()
    f.mask = mask


def _chunks_loop(f: Front, node: ast.For, n: Value, one: Callable[[Index], None], names: list[str]) -> None:
    """Chunks of neighbouring items, four a lane (on VideoCore IV: four vectors): chunk w, w + W, ... for worker w.

    Whole chunks inside all arrays that the body reads by `get` come first and need no tests.
    """
    q = f.q
    inside = _sizes(f, node)
    least = n
    for extent in inside:
        least = q.emit("min", least, extent) if extent is not n else least
    size = LANES * CHUNK
    shift = q.const("u", size.bit_length() + 1)
    quad = f.isa != "vc4"
    limit = q.emit("shl", q.emit("and", least, q.const("i", -size & 0xFFFFFFFF)), q.const("u", 2))
    end = q.emit("sub", q.emit("shl", n, q.const("u", 2)), limit)
    lane = q.emit("shl", q.emit("lane"), q.const("u", 4 if quad else 2))
    first = q.emit("sub", q.emit("shl", q.emit("worker"), shift), limit)
    step = q.emit("shl", q.emit("workers"), shift)
    name = f"%off{id(node)}"
    f.names[name] = q.emit("add", lane, first)

    def going(below: Value) -> Value:
        return q.emit("any", q.emit("lt", f.names[name], below, type_="b", attr="i"))

    def items() -> list[Index]:
        return [Index(f.names[name], limit, u if quad else LANES * u) for u in range(CHUNK)]

    def whole() -> None:
        f.turns[id(q.region)] = (q.region, size)
        sizes = {id(n), *(id(x) for x in inside)}
        f.inside[id(f.names[name])] = Inside(f.names[name], sizes, {ix.plus for ix in items()})
        for ix in items():
            one(ix)

    def rest() -> None:
        for ix in items():
            at = q.emit("add", ix.off, q.const("i", 4 * ix.plus))
            here = q.emit("lt", at, end, type_="b", attr="i")
            under_mask(f, node, here, lambda ix=ix: one(ix), names)  # type: ignore[misc]  # a lambda's default

    def advance() -> None:
        f.names[name] = q.emit("add", f.names[name], step)

    true = ast.copy_location(ast.Constant(True), node)
    device_loop(f, node, [name, *names], lambda: going(q.const("i", 0)), whole, true, advance)
    device_loop(f, node, [name, *names], lambda: going(end), rest, true, advance)
    f.names.pop(name, None)


def _sizes(f: Front, node: ast.For) -> list[Value]:
    """Extents of the arrays that a loop's body reads as `x.get(i, ...)`, with i the loop's variable."""
    assert isinstance(node.target, ast.Name)
    found: list[Value] = []
    for x in (x for statement in node.body for x in ast.walk(statement)):
        if not (isinstance(x, ast.Call) and isinstance(x.func, ast.Attribute) and x.func.attr == "get"):
            continue
        view = f.names.get(x.func.value.id) if isinstance(x.func.value, ast.Name) else None
        named = x.args and isinstance(x.args[0], ast.Name) and x.args[0].id == node.target.id
        if named and isinstance(view, View) and view.rank == 1 and view.shape[0] not in found:
            found.append(view.shape[0])
    return found


def _unbind(f: Front, node: ast.For, names: list[str], before: set[str]) -> None:
    """The loop's variable and names that were first bound inside it have no value behind it."""
    line = node.lineno + f.frame.source.first - 1
    for name in names:
        if name not in before:
            f.names[name] = Unbound(line, "inside a loop")
    for name in targets([node.target]):
        f.names[name] = Unbound(line, "as the variable of a loop")


def _blocks_loop(f: Front, node: ast.For, items: Items, names: list[str], *, leaving: bool) -> None:
    """Blocks of 16 lanes with so many items each: a worker owns a contiguous run of them, or takes every one of its
    own. The last one is cut short. leaving: lanes may leave the loop, so that no turn may stand behind it.
    """
    q = f.q
    n, worker, workers, lane = items.n, q.emit("worker"), q.emit("workers"), q.emit("lane")
    size = LANES * items.per_lane
    shift = size.bit_length() - 1
    blocks = q.emit("asr", q.emit("add", n, q.const("i", size - 1)), q.const("u", shift))
    start, stop, step = worker, blocks, workers
    if items.run:
        each = q.emit("div", q.emit("add", blocks, q.emit("sub", workers, q.const("i", 1))), workers)
        start, step = q.emit("mul", worker, each), q.const("i", 1)
        stop = q.emit("min", q.emit("add", start, each), blocks)
    whole = q.emit("asr", n, q.const("u", shift))
    end = q.emit("shl", n, q.const("u", 2))
    name = f"%block{id(node)}"
    f.names[name] = start

    def offset(number: Value) -> Value:
        """Bytes of 4 an item."""
        lanes = q.emit("add", q.emit("shl", number, q.const("u", 4)), lane)
        return q.emit("shl", lanes, q.const("u", shift - 2))

    def one(off: Value, block: int = 0) -> None:
        f.assign(node.target, Index(off, q.const("i", 0), size * block))
        _body(f, node, leaving)

    def going(more: int = 0) -> Value:
        last = stop if leaving else q.emit("min", stop, whole)
        return q.emit("lt", f.names[name], q.emit("sub", last, q.const("i", more)), type_="b", attr="i")

    def several() -> None:
        f.turns[id(q.region)] = (q.region, size * TOGETHER)
        off = offset(f.names[name])
        for block in range(TOGETHER):
            one(off, block)

    def turn() -> None:
        off = offset(f.names[name])
        if leaving:
            inside = q.emit("lt", off, end, type_="b", attr="i")
            under_mask(f, node, inside, lambda: one(off), names)
        else:
            one(off)

    def advance(count: int = 1) -> None:
        f.names[name] = q.emit("add", f.names[name], q.emit("mul", step, q.const("i", count)))

    true = ast.copy_location(ast.Constant(True), node)
    if items.run and not leaving and _short(node):
        ahead = TOGETHER - 1
        device_loop(f, node, [name, *names], lambda: going(ahead), several, true, lambda: advance(TOGETHER))
    device_loop(f, node, [name, *names], going, turn, true, advance)
    number = f.names.pop(name)
    if leaving:
        return
    if not isinstance(number, Value):  # the loop is wrong: report what the tail finds
        number = start
    off = offset(whole)
    mine = q.emit("eq", number, whole, type_="b", attr="i")
    mine = q.emit("band", mine, q.emit("lt", whole, stop, type_="b", attr="i"))
    inside = q.emit("band", mine, q.emit("lt", off, end, type_="b", attr="i"))
    under_mask(f, node, inside, lambda: one(off), names)


TOGETHER = 4  # blocks of a run that one turn of a loop takes, so that they overlap
SHORT = 120  # nodes of the tree of such a loop


def _short(node: ast.For) -> bool:
    """Whether a body is short and without loops."""
    inside = [x for statement in node.body for x in ast.walk(statement)]
    return len(inside) <= SHORT and not any(isinstance(x, ast.For | ast.While | ast.ListComp) for x in inside)


def tiles_loop(f: Front, node: ast.For, items: Items) -> None:
    """for i0, j0 in k.tiles(m, n, rows, cols): tiles w, w + W, ... row by row."""
    assert items.tiles is not None
    m, n, rows, cols = items.tiles
    q = f.q
    down = q.emit("div", q.emit("add", m, q.const("i", rows - 1)), q.const("i", rows))
    across = q.emit("div", q.emit("add", n, q.const("i", cols - 1)), q.const("i", cols))
    total = q.emit("mul", down, across)
    name = f"%tile{id(node)}"
    f.names[name] = q.emit("worker")

    def going() -> Value:
        return q.emit("lt", f.names[name], total, type_="b", attr="i")

    def turn() -> None:
        row = q.emit("div", f.names[name], across)
        column = q.emit("sub", f.names[name], q.emit("mul", row, across))
        i0, j0 = q.emit("mul", row, q.const("i", rows)), q.emit("mul", column, q.const("i", cols))
        f.assign(node.target, (i0, j0))
        f.execute(node.body)

    def advance() -> None:
        f.names[name] = q.emit("add", f.names[name], q.emit("workers"))

    before = set(f.names)
    names = targets([*node.body, node.target])
    device_loop(f, node, [name, *names], going, turn, node.iter, advance)
    f.names.pop(name, None)
    _unbind(f, node, names, before)


_CALLS: dict[str, Callable[..., Any]] = {"index": _index, "items": _items, "tiles": _tiles, **OPERATIONS}
