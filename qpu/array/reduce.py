"""Reductions: what is reduced is computed on the way; long ones are two launches, parts and then the parts."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from math import prod as product
from typing import TYPE_CHECKING, Any

from qpu.array import build
from qpu.array.array import Array
from qpu.array.dtypes import BOOL, F32, I32, NpDType, scalar_for, sum_dtype
from qpu.array.emit import CONTIGUOUS, FIXED, PER_ROW, SOURCE, STRIDED, Group, Leaf, Output, Reduction, Step
from qpu.array.emit_reduce import reduction
from qpu.array.epilogue import Epilogue
from qpu.array.formula import formula
from qpu.array.fuse import INPUTS, Walk, compiled, gathered, merged, numbered, spread_out
from qpu.array.manipulation import array_of, axes_of, axis_of, reshape
from qpu.array.memory import ABSORB, EVALUATE, DeviceMemory
from qpu.array.node import Node, c_strides, in_memory, pending
from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.lang.launch import Plan
from qpu.lang.schedule import Schedule

if TYPE_CHECKING:
    from qpu.array.node import Storage

__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "count_nonzero",
    "max",
    "mean",
    "min",
    "prod",
    "std",
    "sum",
    "var",
]

SCHEDULE = Schedule(coarsen=4)
WORKERS = 64  # that are kept busy, whatever the board
PART = 1024  # elements of a part at least
LONG = 1 << 27  # operations on elements from which what is reduced is computed before, in parts (`qpu.array.parts`)


def _evaluate(memory: DeviceMemory, node: Node) -> None:
    """Compute a pending reduction."""
    op, axes, _ = node.attr
    kept = tuple(n for k, n in enumerate(node.args[0].shape) if k not in axes)
    storage = memory.storage(node.shape, node.dtype)
    if 0 not in kept:
        if 0 in node.args[0].shape:
            _empty(storage, "mean" if node.args[1:] else op)
        else:
            walk, value = _operand(node)
            _launch(memory, walk, [value], op, axes, storage, node.args[1:])
    node.becomes(storage)


def _operand(node: Node) -> tuple[Walk, int]:
    """The group that computes what is reduced, and the number of its value."""
    x: Node = node.args[0]
    if x.op and (x.fused or x.needed((id(node),)) or x.size * x.weight > LONG):
        x.ready()
    walk = gathered(x)
    return walk, walk.numbers[id(x)]


def _absorb(memory: DeviceMemory, walk: Walk, node: Node, root: Node) -> bool:
    """Compute a reduction with the group after it, if both fit in one kernel that joins the same elements in the same
    order as without.
    """
    op, axes, _ = node.attr
    if 0 in node.args[0].shape:
        return False
    inner, value = _operand(node)
    if len(inner.leaves) + len(walk.leaves) > INPUTS:
        return False
    storage = memory.storage(root.shape, root.dtype)
    after = Epilogue.of(walk, node, axes, root)
    if not _launch(memory, inner, [value], op, axes, storage, node.args[1:], after):
        return False
    root.becomes(storage)
    return True


EVALUATE["%reduce"] = _evaluate
ABSORB["%reduce"] = _absorb


def _empty(storage: Storage, op: str) -> None:
    """The reduction of nothing."""
    if op not in ("sum", "prod", "any", "all", "mean"):
        raise UsageError(f"{op} of no elements", help="an array with elements along the axes")
    storage.memory.quiet()
    storage.buffer.array[...] = {"sum": 0, "prod": 1, "any": False, "all": True, "mean": float("nan")}[op]


# -- launches


class Space:
    """The iteration of a reduction: extents of kept and reduced axes after merging, strides of each leaf on them."""

    def __init__(self, shape: tuple[int, ...], axes: Sequence[int], strides: Sequence[Sequence[int]]) -> None:
        kept = [k for k in range(len(shape)) if k not in axes]
        self.kept, self.on_kept = merged([shape[k] for k in kept], [[s[k] for k in kept] for s in strides])
        self.reduced, self.on_reduced = merged([shape[k] for k in axes], [[s[k] for k in axes] for s in strides])

    @property
    def columns(self) -> bool:
        """Whether lanes hold neighbouring results."""
        n = self.kept[-1]
        if n < 16:
            return False
        if self.reduced[-1] < 16:
            return True
        score = 0
        for a, b in zip(self.on_kept, self.on_reduced, strict=True):
            score += (a[-1] in (0, 1)) - (b[-1] in (0, 1))
        return score > 0 or (score == 0 and n >= 256 and self.reduced[-1] < 256)


def _moves(last: int, others: Sequence[int]) -> int:
    if not last:
        return PER_ROW if [s for s in others if s] else FIXED
    return CONTIGUOUS if last == 1 else STRIDED


def _fits(shape: tuple[int, ...], axes: Sequence[int], strides: Sequence[Sequence[int]], after: Epilogue) -> bool:
    """Whether what follows leaves the iteration, and with it the order of the sum, as it is."""
    more = [*strides, *_spread(shape, axes, after.strides)]
    one, other = Space(shape, axes, strides), Space(shape, axes, more)
    return one.kept == other.kept and one.reduced == other.reduced


def _spread(shape: tuple[int, ...], axes: Sequence[int], strides: Sequence[Sequence[int]]) -> list[list[int]]:
    """Strides on the axes of a result as strides on those of what is reduced."""
    found = []
    for row in strides:
        rest = iter(row)
        found.append([0 if k in axes else next(rest) for k in range(len(shape))])
    return found


def _launch(
    memory: DeviceMemory, walk: Walk, values: Sequence[int], op: str, axes: Sequence[int], out: Storage,
    extra: Sequence[Any] = (), after: Epilogue | None = None,
) -> bool:  # fmt: skip
    """Launch a reduction; False where what follows does not fit, and nothing was done.

    extra: operations with a number, (name, dtype, Scalar) each, on the result; after: what follows these.
    """
    shape = walk.shape
    leaves = list(walk.leaves)
    strides = [[0] * len(shape) if k in walk.sources else spread_out(leaf, shape) for k, leaf in enumerate(leaves)]
    space = Space(shape, axes, strides)
    numbers: dict[str, int] = {"row": 0, "worker": 0}
    columns = space.columns
    results = product(space.kept)
    extent = space.reduced[-1]
    turns = product(space.reduced if columns else space.reduced[:-1])
    if columns:
        kept, outer = space.kept[:-1], space.reduced
        rows, busy = product(kept), product(kept) * (-(-space.kept[-1] // 64) if not kept else 1)
        numbers["n"] = numbers["columns"] = space.kept[-1]
        length, least = turns, 32
    else:
        kept, outer = space.kept if results > 1 else [], space.reduced[:-1]
        rows = busy = results
        numbers["n"] = extent
        length = turns if outer else extent
        least = builtins.max(PART // (extent if outer else 1), 1)
    parts, per = 1, length
    if busy < WORKERS and length >= 2 * least:
        parts = builtins.min(WORKERS // busy, length // least)
        per = -(-length // parts)
        if not outer:
            per = -(-per // 64) * 64
        parts = -(-length // per)
    final = parts == 1
    whole = tuple(n for k, n in enumerate(shape) if k not in axes)
    if after is not None:
        joined = (parts, *whole)
        fits = _fits(shape, axes, strides, after) if final else _fits(joined, (0,), [c_strides(joined)], after)
        if not fits:
            return False
    numbers["turns"], numbers["per"], numbers["kept"], numbers["rows"] = turns, per, rows, rows * parts
    for k, n in enumerate(kept):
        numbers[f"d{k}"] = n
    for k, n in enumerate(outer):
        numbers[f"r{k}"] = n
    dtype = _dtype_of(walk, values[0])
    count, scalars = len(leaves), list(walk.scalars)
    following = after if final else None
    if following is not None:
        leaves += following.leaves
        space = Space(shape, axes, [*strides, *_spread(shape, axes, following.strides)])
    found: list[Leaf] = []
    wide: list[bool] = []
    for k, leaf in enumerate(leaves):
        size = leaf.dtype.itemsize
        a, b = space.on_kept[k], space.on_reduced[k]
        later = k >= count
        if columns:
            inner, others = a[-1], [*a[:-1], *b]
        else:
            inner, others = (0 if later else b[-1]), [*a, *b[:-1]]
        moves = SOURCE if k in walk.sources else _moves(inner, others)
        found.append(Leaf(leaf.dtype.name, moves, tuple(s != 0 for s in a[: len(kept)]) if later else (), later))
        assert leaf.storage is not None
        address = leaf.storage.buffer.address + leaf.offset
        numbers[f"x{k}.base"] = address
        numbers[f"x{k}.t"] = numbers[f"x{k}.i0"] = inner * size
        for axis, step in enumerate(a[: len(kept)]):
            numbers[f"x{k}.t{axis}"] = step * size
        for axis, step in enumerate(b[: len(outer)]):
            numbers[f"x{k}.r{axis}"] = step * size
        wide.append(not address & 15 and not [s for s in others if s * size & 15])
    by_rows = bool(kept) or parts > 1 or not columns
    places, steps = numbered(walk)
    result = I32 if op.startswith("arg") else dtype
    scalars += [scalar for _, _, scalar in extra] if final else []
    own = len(scalars)
    scalars += following.scalars if following is not None else []
    for n, scalar in enumerate(scalars):
        numbers[f"s{n}"] = scalar.bits[0]
        if len(scalar.bits) > 1:
            numbers[f"s{n}i"] = scalar.bits[1]
    # leaves and scalars of what follows come behind the others: the numbers of scalars and steps move on
    more, first = len(leaves) - count, count + len(walk.scalars)
    shift = len(scalars) - len(walk.scalars)

    def moved(p: int) -> int:
        return p if p < count else p + more if p < first else p + more + shift

    base = len(leaves) + len(scalars)
    all_steps = [s._replace(args=tuple(moved(a) for a in s.args)) for s in steps]
    all_steps.append(Step("reduce", tuple(moved(places[v]) for v in values), result.name))
    value = base + len(all_steps) - 1
    for n, (name, kind, _) in enumerate(extra if final else ()):
        all_steps.append(Step(name, (value, first + more + n), kind.name))
        value += 1
        result = kind
    if following is not None:
        all_steps += following.steps(count, len(leaves) + own, value, value + 1)
        value = base + len(all_steps) - 1
        result = following.dtype
    targets = [out]
    if not final:
        targets = [memory.storage((parts, *whole), result)]
        if op.startswith("arg"):
            targets.append(memory.storage((parts, *whole), dtype))
    outputs = tuple(Output(value, t.buffer.dtype.name, CONTIGUOUS, (False,) * len(kept)) for t in targets)
    for n, t in enumerate(targets):
        numbers[f"y{n}.base"] = t.buffer.address
        numbers[f"y{n}.t"] = numbers["n"] * t.buffer.dtype.itemsize
        wide.append(not numbers[f"y{n}.t"] & 15 if columns and by_rows else True)
    how = Reduction(op, "columns" if columns else "lanes", len(outer), len(kept), parts > 1, by_rows)
    scalar_dtypes = tuple(s.dtype.name for s in scalars)
    group = Group("rows" if by_rows else "flat", 1, tuple(found), scalar_dtypes, tuple(all_steps), outputs, how)
    widths = tuple(wide) if memory.isa is Isa.V3D42 else ()
    key = (group, widths)
    plan = memory.kernels.get(key)
    if plan is None:
        plan = memory.kernels[key] = Plan(formula(group), {}, compiled(memory.isa, group, widths, reduction, SCHEDULE))
    run = memory.start(plan, numbers, walk.sites)
    for t in targets:
        t.run = run
    if not final:
        nodes = [in_memory(t, t.buffer.shape, t.buffer.dtype) for t in targets]
        if op.startswith("arg"):
            nodes.reverse()
        again = Walk(nodes[0].shape)
        _launch(memory, again, [again.visit(n) for n in nodes], op, (0,), out, extra, after)
    return True


def _dtype_of(walk: Walk, n: int) -> NpDType:
    entry = walk.entries[n]
    if entry is None or entry is False:
        place = len([e for e in walk.entries[:n] if e is None or e is False])
        return walk.leaves[place].dtype
    return entry[2] if isinstance(entry, tuple) else entry  # type: ignore[no-any-return]  # a dtype


# -- nodes


def _shape(shape: tuple[int, ...], axes: Sequence[int], keep: bool) -> tuple[int, ...]:
    return tuple(1 if k in axes else n for k, n in enumerate(shape) if keep or k not in axes)


def _reduced(node: Node, op: str, axis: Any, keepdims: bool, dtype: NpDType, extra: tuple[Any, ...] = ()) -> Node:
    axes = axes_of(axis, len(node.shape))
    shape = _shape(node.shape, axes, keepdims)
    if not axes and not extra and not op.startswith("arg"):
        return build.copied(node)
    if op not in ("sum", "prod", "any", "all") and 0 in node.shape and 0 not in shape and not extra:
        raise UsageError(f"{op} of no elements", help="an array with elements along the axes")
    return pending("%reduce", (node, *extra), shape, dtype, (op, axes, keepdims))


def _added(op: str, x: Array, axis: Any, dtype: Any, keepdims: bool) -> Array:
    node = array_of(x)
    kind = sum_dtype(node.dtype, dtype)
    if node.dtype != kind:
        node = build.cast(node, kind)
    return Array(_reduced(node, op, axis, keepdims, kind))


def sum(x: Array, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Array:
    """The sum along axes, all of them for None.

    dtypes: all; signed integers and bool give int32, unsigned ones uint32, float16 float32. Blocks of 64 vectors are
    added first, then the blocks. Raises: UsageError.
    """
    return _added("sum", x, axis, dtype, keepdims)


def prod(x: Array, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Array:
    """The product along axes, all of them for None. dtypes: as `sum`. Raises: UsageError."""
    return _added("prod", x, axis, dtype, keepdims)


def _extreme(op: str, x: Array, axis: Any, keepdims: bool) -> Array:
    node = array_of(x)
    if node.dtype.kind not in "iuf":
        raise UsageError(f"{op} of {node.dtype.name}", help="integers or floats: xp.astype(x, xp.int32)")
    if node.dtype.name == "float16":
        node = build.cast(node, F32)
    return Array(_reduced(node, op, axis, keepdims, node.dtype))


def max(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    """The largest element along axes, NaN where one is (V3D). dtypes: integers and floats. Raises: UsageError."""
    return _extreme("max", x, axis, keepdims)


def min(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    """The smallest element along axes, NaN where one is (V3D). dtypes: integers and floats. Raises: UsageError."""
    return _extreme("min", x, axis, keepdims)


def _truth(node: Node) -> Node:
    return node if node.dtype == BOOL else build.cast(node, BOOL)


def any(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    """Whether any element along axes is true, or not 0. dtypes: all."""
    return Array(_reduced(_truth(array_of(x)), "any", axis, keepdims, BOOL))


def all(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    """Whether every element along axes is true, or not 0. dtypes: all."""
    return Array(_reduced(_truth(array_of(x)), "all", axis, keepdims, BOOL))


def count_nonzero(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    """How many elements along axes are true, or not 0; int32. dtypes: all."""
    return Array(_reduced(build.cast(_truth(array_of(x)), I32), "sum", axis, keepdims, I32))


def _float_of(x: Array, name: str) -> Node:
    node = array_of(x)
    if node.dtype.kind == "f":
        return node if node.dtype == F32 else build.cast(node, F32)
    if node.dtype.kind in "iu":
        return build.cast(node, F32)
    if node.dtype.kind == "c":
        return node
    raise UsageError(f"{name} of {node.dtype.name}", help="write the cast: xp.astype(x, xp.float32)")


def _mean(node: Node, axis: Any, keepdims: bool, correction: float = 0.0) -> Node:
    axes = axes_of(axis, len(node.shape))
    n = product(node.shape[a] for a in axes) - correction
    if n <= 0:
        n = float("nan")  # so that the result is one
    kind = node.dtype
    return _reduced(node, "sum", axis, keepdims, kind, (("divide", kind, scalar_for(n, kind)),))


def mean(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    """The mean along axes. dtypes: floats, complex64, and integers, which become float32. Raises: UsageError."""
    return Array(_mean(_float_of(x, "mean"), axis, keepdims))


def var(x: Array, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Array:
    """The variance along axes: the sum of squared distances from the mean, by n - correction. dtypes: as `mean`; of
    complex64 it is float32. Raises: UsageError.
    """
    node = _float_of(x, "var")
    middle = _mean(node, axis, True)
    distance = build.binary("subtract", node, middle)
    if node.dtype.kind == "c":
        real, imag = (build.unary("square", build.unary(part, distance)) for part in ("real", "imag"))
        return Array(_mean(build.binary("add", real, imag), axis, keepdims, correction))
    return Array(_mean(build.unary("square", distance), axis, keepdims, correction))


def std(x: Array, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Array:
    """The standard deviation along axes, the root of `var`. Raises: UsageError."""
    return Array(build.unary("sqrt", var(x, axis=axis, correction=correction, keepdims=keepdims)._node))


def _position(op: str, x: Array, axis: Any, keepdims: bool) -> Array:
    node = array_of(x)
    if node.dtype.kind not in "iuf":
        raise UsageError(f"{op} of {node.dtype.name}", help="integers or floats: xp.astype(x, xp.int32)")
    if axis is None:
        flat = reshape(x, (-1,))._node
        found = Array(_reduced(flat, op, 0, False, I32))
        return reshape(found, (1,) * len(node.shape)) if keepdims else found
    return Array(_reduced(node, op, axis_of(axis, len(node.shape)), keepdims, I32))


def argmax(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    """The index of the first largest element along an axis; None: of the flattened array. int32."""
    return _position("argmax", x, axis, keepdims)


def argmin(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    """The index of the first smallest element along an axis; None: of the flattened array. int32."""
    return _position("argmin", x, axis, keepdims)
