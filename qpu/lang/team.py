"""Operations of the kernel object beyond items: lanes, workers, memory of the team, tiles, streams."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from qpu.lang import surface
from qpu.lang.access import stored
from qpu.lang.front import Front
from qpu.lang.front_merge import under_mask
from qpu.lang.intrinsics import call_asm
from qpu.lang.kir import Value
from qpu.lang.lane_trees import active, join_lanes, scan_lanes
from qpu.lang.operators import truth
from qpu.lang.types import DTYPES
from qpu.lang.values import Complex, View

__all__ = ["OPERATIONS"]

LANES = 16
SHARED = 1 << 16
"""Bytes of memory that a team may have."""


def _reduce(kind: str) -> Callable[..., Any]:
    def reduce(f: Front, node: ast.Call, value: Any) -> Any:
        """The 16 lanes joined by a tree: 8, 4, 2, 1 lanes apart; the same in every lane."""
        if isinstance(value, Complex) and kind == "sum":
            return Complex(reduce(f, node, value.real), reduce(f, node, value.imag))
        v = f.lift(value, node)
        if v.type == "b":
            raise f.error(node, "lang-bool", f"k.{kind} of a condition", help="k.any, k.all, or where(c, 1, 0)")
        return join_lanes(f, active(f, v, kind), kind)

    return reduce


def _any(f: Front, node: ast.Call, value: Any) -> Value:
    return f.q.emit("any", f.under(truth(f, node, value)))


def _all(f: Front, node: ast.Call, value: Any) -> Value:
    q = f.q
    v = truth(f, node, value)
    if f.mask is not None:
        v = q.emit("bor", v, q.emit("bnot", f.mask))
    return q.emit("all", v)


def _scan(f: Front, node: ast.Call, value: Any) -> Value:
    """Inclusive prefix sum over the lanes."""
    v = f.lift(value, node)
    if v.type == "b":
        raise f.error(node, "lang-bool", "k.scan of a condition", help="where(c, 1, 0)")
    return scan_lanes(f, active(f, v, "sum"), "sum")


def _last(f: Front, node: ast.Call, value: Any) -> Value:
    v, q = f.lift(value, node), f.q
    if v.op == "add" and v.type in ("i", "u"):
        for a, b in (v.args, v.args[::-1]):
            if not b.varying and a.varying:  # added to the lane alone: what carries sums on waits for less
                return q.emit("add", q.emit("bcast", a, q.const("i", 15)), b)
    return q.emit("bcast", v, q.const("i", 15))


def _integer(f: Front, node: ast.AST, what: str, x: Any) -> Value:
    """A number of lanes."""
    v = f.lift(x, node)
    if v.type not in ("i", "u"):
        raise f.error(node, "lang-type", f"{what} {f.describe(x)}", allowed="integers", help="i32(...)")
    return f.convert(v, "i", node)


def _rotate(f: Front, node: ast.Call, value: Any, n: Any) -> Value:
    v = f.lift(value, node)
    amount = _integer(f, node, "k.rotate by", n)
    if amount.constant is not None:
        return f.q.emit("rot", v, attr=amount.constant % 16) if amount.constant % 16 else v
    if amount.varying:
        raise f.error(node, "lang-varying", "k.rotate by a value that varies", help="k.shuffle(v, index)")
    return f.q.emit("rotv", v, amount)


def _broadcast(f: Front, node: ast.Call, value: Any, lane: Any) -> Value:
    at = _integer(f, node, "k.broadcast of lane", lane)
    if at.varying:
        raise f.error(node, "lang-varying", "k.broadcast of a lane that varies", help="k.shuffle(v, index)")
    return f.q.emit("bcast", f.lift(value, node), at)


def _shuffle(f: Front, node: ast.Call, value: Any, index: Any) -> Value:
    return f.q.emit("shuffle", f.lift(value, node), _integer(f, node, "k.shuffle by", index))


def _barrier(f: Front, node: ast.Call) -> None:
    if f.mask is not None and f.mask.varying:
        raise f.error(
            node, "lang-barrier", "a barrier under a condition that varies", help="all workers must reach the barrier"
        )
    f.q.append("barrier", (), "", None, varying=False)


def _shared(f: Front, node: ast.Call, type_: Any, n: Any) -> View:
    if f.is_value(n) or not isinstance(n, int) or n < 1:
        message = "the size of shared memory must be known when compiling"
        raise f.error(node, "lang-shared", message, allowed="whole numbers from 1")
    if not isinstance(type_, surface.ScalarType) or DTYPES[type_.name].size != 4:
        raise f.error(node, "lang-shared", f"shared memory of {type_}", allowed="f32, i32, u32")
    q = f.q
    place = (node.lineno, node.col_offset)
    start = f.shared.setdefault(place, (sum(size for _, size in f.shared.values()), 4 * n))[0]
    if sum(size for _, size in f.shared.values()) > SHARED:
        raise f.error(node, "lang-shared", f"{start + 4 * n} bytes of shared memory", allowed=f"{SHARED}")
    base = q.emit("add", q.emit("param", type_="u", attr="%shared"), q.const("u", start))
    return View("shared memory", -1, DTYPES[type_.name], "inout", 1, base, (q.const("i", n),), ())


def _store_tile(f: Front, node: ast.Call, c: Any, i0: Any, j0: Any, acc: Any) -> None:
    """c[i0 + i, j0 + 16 * j + lane] = acc[i][j], inside c only; a row may be one value instead of a list of one."""
    if not isinstance(c, View) or c.rank != 2:
        raise f.error(node, "lang-type", f"k.store_tile into {f.describe(c)}", allowed="an Out2 parameter")
    q = f.q
    if not isinstance(acc, list | tuple) or not acc:
        raise f.error(node, "lang-type", f"k.store_tile of {f.describe(acc)}",
                      allowed="a list of rows: of values, or of lists of values, 16 columns each")  # fmt: skip
    acc = [list(row) if isinstance(row, list | tuple) else [row] for row in acc]
    if len({len(row) for row in acc}) > 1:
        raise f.error(node, "lang-type", "the rows of the tile differ in length")
    if c.dtype.size > 4 or c.dtype.lanes > 1:
        raise f.error(node, "lang-type", f"k.store_tile into {c.dtype}", allowed="arrays of numbers")
    if c.mode == "in":
        raise f.error(node, "lang-write-in", f"{c.name} is an In parameter and is written", help="declare it Out2")
    r, first = (f.convert(x, "i", node) for x in (i0, j0))
    if r.varying or first.varying:
        raise f.error(node, "lang-varying", "the corner of a tile varies", allowed="what k.tiles gives")
    base = q.emit("add", c.base, q.emit("bitcast", q.emit("mul", r, c.strides[0]), type_="u"))
    access = f.access(c, 0, node, "store")
    lane, size = q.emit("lane"), q.const("u", c.dtype.size.bit_length() - 1)
    start, end = q.emit("shl", q.emit("add", first, lane), size), q.emit("shl", c.shape[1], size)
    offsets = [q.emit("add", start, q.const("i", LANES * c.dtype.size * j)) for j in range(len(acc[0]))]
    inside = [q.emit("lt", x, end, type_="b", attr="i") for x in offsets]
    if c.strided:
        offsets = [q.emit("mul", q.emit("asr", x, size), c.strides[1]) for x in offsets]
    left = q.emit("sub", c.shape[0], r)
    for i, row in enumerate(acc):
        values = [stored(f, node, c, v) for v in row]

        def put(base: Value = base, values: Sequence[Value] = values) -> None:
            for v, off, mask in zip(values, offsets, inside, strict=True):
                q.append("store", (base, off, v, f.under(mask)), "", access)

        under_mask(f, node, q.emit("lt", q.const("i", i), left, type_="b", attr="i"), put, [])
        base = q.emit("add", base, q.emit("bitcast", c.strides[0], type_="u"))


OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: _reduce(name) for name in ("sum", "min", "max")},
    "any": _any,
    "all": _all,
    "scan": _scan,
    "last": _last,
    "rotate": _rotate,
    "broadcast": _broadcast,
    "shuffle": _shuffle,
    "barrier": _barrier,
    "shared": _shared,
    "store_tile": _store_tile,
    "asm": call_asm,
}
