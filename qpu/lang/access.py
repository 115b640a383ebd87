"""Arrays inside a kernel: addresses, loads and stores, `get`, `clamp`, atomics, packed words."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

from qpu.errors import counted
from qpu.lang.front import Front
from qpu.lang.kir import Access, Value
from qpu.lang.lane_trees import IDENTITY, JOIN, active, join_lanes, scan_lanes
from qpu.lang.operators import select
from qpu.lang.types import LETTER
from qpu.lang.values import Bound, Complex, Index, Packed, View

__all__ = ["call_bound", "check_store", "load", "packed_lane", "store", "view_attribute"]

ATOMICS = {"atomic_add", "atomic_min", "atomic_max", "atomic_and", "atomic_or", "atomic_xor", "atomic_cas"}


def view_attribute(f: Front, node: ast.AST, view: View, name: str) -> Any:
    """x.size, x.shape, x.clamp, x.get, x.atomic_*."""
    if name == "shape":
        return view.shape
    if name == "size":
        total = view.shape[0]
        for extent in view.shape[1:]:
            total = f.q.emit("mul", total, extent)
        return total
    if name == "clamp":
        return replace(view, clamped=True)
    if name == "ndim":
        return view.rank
    if name == "get" or name in ATOMICS:
        return Bound(view, name)
    raise f.error(
        node,
        "lang-name",
        f"an array has no attribute {name!r}",
        allowed="size, shape, get, clamp, " + ", ".join(sorted(ATOMICS)),
    )


def _indices(f: Front, node: ast.AST, view: View, key: Any) -> list[Any]:
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(isinstance(k, slice) for k in keys):
        raise f.error(node, "lang-syntax", "slices are not part of the kernel language", help="index by k.index")
    if len(keys) != view.rank:
        axes = counted(view.rank, "axis")
        message = f"{view.name} has {axes}, the access gives {len(keys)}"
        allowed = f"one index for each axis, as in {view.name}[{', '.join('ijk'[: view.rank])}]"
        raise f.error(node, "lang-type", message, allowed=allowed)
    for k in keys:
        if isinstance(k, bool | float) or (isinstance(k, Value) and k.type not in ("i", "u")):
            raise f.error(node, "lang-type", f"an index is {f.describe(k)}", allowed="i32, u32", help="i32(...)")
        if isinstance(k, Complex | Packed | View | str):
            raise f.error(node, "lang-type", f"an index is {f.describe(k)}", allowed="i32, u32")
        if isinstance(k, int) and k < 0:
            raise f.error(node, "lang-type", f"the index {k} is negative", help=f"{view.name}.size - {-k}")
    return keys


def _clamped(f: Front, node: ast.AST, view: View, keys: list[Any]) -> list[Any]:
    q = f.q
    found = []
    for k, extent in zip(keys, view.shape, strict=True):
        if _interior(f, k, extent):
            found.append(k)
            continue
        v = f.convert(k, "i", node)
        top = q.emit("sub", extent, q.const("i", 1))
        found.append(q.emit("min", q.emit("max", v, q.const("i", 0)), top))
    return found


def _interior(f: Front, k: Any, extent: Value) -> bool:
    """Whether an index is known to be inside, because the items at the edges are others."""
    touched = f.interior.get(id(k.off)) if isinstance(k, Index) else None
    if touched is not None:
        touched.append((extent, k.plus))
    return touched is not None


def address(
    f: Front, node: ast.AST, view: View, key: Any, *, inside: bool = False, stored: bool = False
) -> tuple[Value, Value, int]:
    """Base (the same in all lanes), byte offset and constant bytes of an element. inside: nothing to check."""
    q = f.q
    keys = _indices(f, node, view, key)
    if view.number < 0:  # memory of the team: no launch knows it
        inside = not f.check
    elif not (view.clamped or inside) and (f.check or not f.quiet):
        known = f.ranges.note(view.name, keys, q.region, f.mask, node, f.loc(node), stored)
        inside = known or not f.check
    else:
        inside = inside or not f.check
    if view.clamped or not inside:
        keys = _clamped(f, node, view, keys)
    base, offset, constant = view.base, None, 0
    size = view.dtype.size
    for axis, k in reversed(list(enumerate(keys))):  # what loops over rows do not change comes first
        last = axis == len(view.strides)  # neighbours
        if isinstance(k, Index) and view.strided and axis == view.rank - 1:
            by = view.strides[axis]
            base = q.emit("add", base, q.emit("bitcast", k.moved_by(q, by), type_="u"))
            more = q.emit("mul", q.emit("asr", k.off, q.const("u", 2)), by)
            offset = more if offset is None else q.emit("add", offset, more)
            continue
        if isinstance(k, Index) and last:
            _interior(f, k, view.shape[axis])
            off, limit, plus = k.scaled(q, size)
            base = q.emit("add", base, q.emit("bitcast", limit, type_="u"))
            offset = off if offset is None else q.emit("add", offset, off)
            constant += plus
            continue
        if isinstance(k, int) and last:
            constant += k * size
            continue
        v = f.convert(k, "i", node)
        inner = 0
        if v.op == "add" and v.args[1].op == "const" and last:
            inner = v.args[1].attr
            v = v.args[0]
            inner = (inner - (1 << 32) if inner >> 31 else inner) * size
        scaled = q.emit("mul", v, q.const("i", size) if last else view.strides[axis])
        constant += inner
        if scaled.varying:
            offset = scaled if offset is None else q.emit("add", offset, scaled)
        else:
            base = q.emit("add", base, q.emit("bitcast", scaled, type_="u"))
    return base, q.const("i", 0) if offset is None else offset, constant


def _mask(f: Front) -> tuple[Value, ...]:
    return () if f.mask is None else (f.mask,)


def load(f: Front, node: ast.AST, view: View, key: Any, *, zero: bool = False, inside: bool = False) -> Any:
    """view[key]. zero: lanes that the mask leaves out read 0; inside: the mask keeps the index within the array."""
    if view.mode == "out":
        raise f.error(node, "lang-write-in", f"{view.name} is an Out parameter and is read", help="declare it InOut")
    base, offset, constant = address(f, node, view, key, inside=zero or inside)
    q, t = f.q, view.dtype
    last = key[-1] if isinstance(key, tuple) and key else key
    around = isinstance(last, Index) and id(last.off) in f.interior
    values = []
    for at in (0, 4) if t.name == "c64" else (0,):
        access = replace(f.access(view, constant + at, node, "load"), zero=zero, around=around)
        values.append(q.append("load", (base, offset, *_mask(f)), t.value, access))
    if len(values) == 2:
        return Complex(*values)
    return Packed(values[0], t) if t.lanes > 1 else values[0]


def check_store(f: Front, node: ast.AST, view: View, key: Any) -> None:
    """Raises: LangError where view[key] cannot be written, whatever the value."""
    if view.mode == "in":
        raise f.error(
            node,
            "lang-write-in",
            f"{view.name} is an In parameter and is written",
            help=f"declare it InOut[{view.dtype}] or Out[{view.dtype}]",
        )
    _indices(f, node, view, key)


def store(f: Front, node: ast.AST, view: View, key: Any, value: Any) -> None:
    """view[key] = value."""
    check_store(f, node, view, key)
    base, offset, constant = address(f, node, view, key, stored=True)
    q, t = f.q, view.dtype
    if t.name == "c64":
        if not isinstance(value, Complex):
            value = Complex(f.convert(value, "f", node), q.const("f", 0))
        for part, at in ((value.real, 0), (value.imag, 4)):
            access = f.access(view, constant + at, node, "store")
            q.append("store", (base, offset, f.convert(part, "f", node), *_mask(f)), "", access)
        return
    if t.lanes > 1:
        if not isinstance(value, Packed) or value.dtype is not t:
            raise f.error(node, "lang-type", f"{f.describe(value)} is stored into {t}", help=f"{t}(...)")
        v = value.word
    else:
        v = stored(f, node, view, value)
    q.append("store", (base, offset, v, *_mask(f)), "", f.access(view, constant, node, "store"))


def stored(f: Front, node: ast.AST, view: View, value: Any) -> Value:
    """A value as an array stores it: floats into float arrays, integers into integer arrays."""
    t = view.dtype
    if isinstance(value, Complex | Packed | View):
        raise f.error(node, "lang-type", f"{f.describe(value)} is stored into {t}", help="store its parts")
    if (isinstance(value, Value) and value.type == "b") or isinstance(value, bool):
        if t.value == "f":
            raise f.error(node, "lang-bool", f"a condition is stored into {t}", help="where(condition, 1.0, 0.0)")
        return f.convert(value, t.value, node)
    if t.value == "f":
        return f.convert(value, "f", node)
    v = f.lift(value, node, "" if f.is_value(value) else t.value)
    if v.type == "f":
        raise f.error(
            node, "lang-type", f"f32 is stored into {t}", help=f"{t}(...) truncates, rint(...) before it rounds"
        )
    if v.type != t.value:
        if t.size == 4:
            raise f.error(node, "lang-type", f"{LETTER[v.type]} is stored into {t}", help=f"{t}(...)")
        v = f.convert(v, t.value, node)
    return v


def packed_lane(f: Front, node: ast.AST, word: Packed, key: Any) -> Value:
    """w[j]: lane j of a packed word as i32."""
    t = word.dtype
    if f.is_value(key) or not isinstance(key, int) or not 0 <= key < t.lanes:
        raise f.error(
            node, "lang-type", f"lane {f.describe(key)} of {t}", allowed=f"0..{t.lanes - 1}, known when compiling"
        )
    q = f.q
    bits = 32 // t.lanes
    v = q.emit("bitcast", word.word, type_="i")
    if t.low < 0:
        return q.emit("asr", q.emit("shl", v, q.const("u", 32 - bits * (key + 1))), q.const("u", 32 - bits))
    return q.emit("and", q.emit("shr", v, q.const("u", bits * key)), q.const("i", (1 << bits) - 1))


def call_bound(f: Front, node: ast.Call, bound: Bound, args: list[Any], keywords: dict[str, Any]) -> Any:
    """A method of the kernel object, of a view or of a value."""
    if isinstance(bound.owner, Complex):
        q = f.q
        return Complex(bound.owner.real, q.emit("fneg", f.convert(bound.owner.imag, "f", node)))
    if not isinstance(bound.owner, View):
        return bound.owner.call(f, node, bound.name, args, keywords)
    view = bound.owner
    if bound.name == "get":
        return _get(f, node, view, args, keywords)
    if keywords:
        raise f.error(node, "lang-call", f"{bound.name} takes no keywords", allowed="an index and values")
    return _atomic(f, node, view, bound.name, args)


def _get(f: Front, node: ast.Call, view: View, args: list[Any], keywords: dict[str, Any]) -> Any:
    """x.get(i, default), x.get(r, c, default), x.get((r, c), default): the default outside the array."""
    unknown = [name for name in keywords if name != "default"]
    if unknown:
        raise f.error(node, "lang-call", f"{view.name}.get has no parameter {unknown[0]!r}", allowed="indices, default")
    default = keywords.get("default", 0)
    keys = [*args[0], *args[1:]] if args and isinstance(args[0], tuple) else list(args)
    if len(keys) == view.rank + 1:
        default = keys.pop()
    keys = _indices(f, node, view, tuple(keys))
    q = f.q
    inside: Value | None = None
    for k, extent in zip(keys, view.shape, strict=True):
        known = f.inside.get(id(k.off)) if isinstance(k, Index) else None
        if known is not None and id(extent) in known.extents and k.plus in known.plus:
            continue
        if _interior(f, k, extent):
            continue
        v = f.convert(k, "u", node)
        test = q.emit("lt", v, q.emit("bitcast", extent, type_="u"), type_="b", attr="u")
        inside = test if inside is None else q.emit("band", inside, test)
    if inside is None:
        return load(f, node, view, tuple(keys), inside=True)
    zero = not f.is_value(default) and not default
    with f.masked(f.under(inside)):
        found = load(f, node, view, tuple(keys), zero=zero, inside=True)
    if zero:
        return found
    return select(f, node, inside, found, default)


def _atomic(f: Front, node: ast.Call, view: View, name: str, args: list[Any]) -> Value:
    operation = name.removeprefix("atomic_")
    wanted = 3 if operation == "cas" else 2
    if view.mode == "in":
        raise f.error(node, "lang-write-in", f"{view.name} is an In parameter and is written", help="declare it InOut")
    if len(args) != wanted:
        raise f.error(node, "lang-call", f"{name} takes an index and {wanted - 1} value(s)")
    if view.dtype.size != 4 or view.dtype.lanes > 1 or (view.dtype.value == "f" and operation not in ("add",)):
        raise f.error(node, "lang-type", f"{name} of {view.dtype}", allowed="i32, u32; atomic_add also f32")
    base, offset, constant = address(f, node, view, args[0], stored=True)
    values = [stored(f, node, view, x) for x in args[1:]]
    q = f.q
    access: Access = f.access(view, constant, node, "atomic", operation)
    if offset.varying or operation == "cas":
        return q.append("atomic", (base, offset, *values, *_mask(f)), view.dtype.value, access, varying=True)
    # one address: the lanes are joined first, and lane 0 updates; a lane's old element has what earlier lanes add
    kind = "sum" if operation == "add" else operation
    v = active(f, values[0], kind)
    total = join_lanes(f, v, kind)
    old = q.append("atomic", (base, offset, total), view.dtype.value, replace(access, once=True), varying=True)
    before = q.emit("rot", scan_lanes(f, v, kind), attr=15)
    first = q.emit("eq", q.emit("lane"), q.const("i", 0), type_="b", attr="i")
    before = q.emit("select", first, q.const(v.type, IDENTITY[kind][v.type]), before)
    return q.emit(JOIN[kind][v.type], q.emit("bcast", old, q.const("i", 0)), before)
