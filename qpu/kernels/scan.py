"""Cumulative sums, products, minima and maxima: each worker scans a run of items after what comes before it is known.

Two launches read the array: the first joins the run of each worker, the second scans it, from the joined runs before.
Along an axis of an array with several, items are independent of each other, and one launch does.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.core.arguments import within
from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, recast, same_shape, separate
from qpu.kernels.common.retyped import ALL, name_of, retyped
from qpu.kernels.common.shapes import around, returned
from qpu.lang import Const, Grid, In, In3, Out, Out3, Team, f32, kernel, maximum, minimum, unroll, where
from qpu.lang.entry import Kernel
from qpu.launch import Run

__all__ = [
    "cumulative_max", "cumulative_min", "cumulative_prod", "cumulative_sum", "reference", "result_type",
]  # fmt: skip

WORKERS: Final = 64
"""Of each launch, on every board: results do not depend on the number of QPUs."""
BLOCK: Final = 64
"""Items of a step: four a lane."""
_LEAST = {"f32": float("-inf"), "i32": -(2**31), "u32": 0}
_MOST = {"f32": float("inf"), "i32": 2**31 - 1, "u32": 2**32 - 1}
_IDENTITY: Final[dict[str, dict[str, float]]] = {
    "sum": dict.fromkeys(_LEAST, 0),
    "prod": dict.fromkeys(_LEAST, 1),
    "min": _MOST,
    "max": _LEAST,
}


def joined(op: str, a: Any, b: Any) -> Any:
    """Two values by the operation of a scan."""
    if op == "sum":
        return a + b
    if op == "prod":
        return a * b
    return minimum(a, b) if op == "min" else maximum(a, b)


def scanned(k: Any, op: str, v: Any) -> Any:
    """Each lane joined with all lanes before it."""
    if op == "sum":
        return k.scan(v)
    for distance in unroll((1, 2, 4, 8)):
        v = where(k.lane >= distance, joined(op, k.rotate(v, -distance), v), v)
    return v


def before(k: Any, op: str, inclusive: Any, own: Any, exact: bool, identity: Any) -> Any:
    """The lanes before each lane joined, from the inclusive scan. exact: sums have an inverse."""
    if op == "sum" and exact:
        return inclusive - own
    return where(k.lane == 0, identity, k.rotate(inclusive, -1))


@kernel
def join_runs(k: Team, x: In[f32], totals: Out[f32], op: Const[str], identity: f32) -> None:
    """The run of each worker joined; the last one leaves the items after the last whole block out."""
    acc = identity
    for i in k.items(x.size & -64, run=True, per_lane=4):
        acc = joined(op, acc, joined(op, joined(op, x[i], x[i + 1]), joined(op, x[i + 2], x[i + 3])))
    if op == "sum":
        acc = k.sum(acc)
    elif op == "min":
        acc = k.min(acc)
    elif op == "max":
        acc = k.max(acc)
    else:
        for distance in unroll((8, 4, 2, 1)):
            acc = joined(op, acc, k.rotate(acc, distance))
    totals[k.worker] = acc


@kernel
def scan_runs(
    k: Team, x: In[f32], totals: In[f32], y: Out[f32], op: Const[str], exact: Const[bool], identity: f32
) -> None:
    """The run of each worker scanned, after the totals before it; the last one scans what no block holds."""
    total = identity
    for w in range(k.worker):
        total = joined(op, total, totals[w])
    for i in k.items(x.size & -64, run=True, per_lane=4):
        a = x[i]
        b = joined(op, a, x[i + 1])
        c = joined(op, b, x[i + 2])
        d = joined(op, c, x[i + 3])
        sums = scanned(k, op, d)
        first = joined(op, total, before(k, op, sums, d, exact, identity))
        y[i] = joined(op, first, a)
        y[i + 1] = joined(op, first, b)
        y[i + 2] = joined(op, first, c)
        y[i + 3] = joined(op, first, d)
        total = joined(op, total, k.last(sums))
    if k.worker == k.workers - 1:
        for block in range((x.size & -64) >> 4, (x.size + 15) >> 4):
            at = 16 * block + k.lane
            v = joined(op, total, scanned(k, op, x.get(at, 0)))
            if at < x.size:
                y[at] = v
            total = k.last(v)


@kernel(coarsen=1)
def scan_axis(k: Grid, x: In3[f32], y: Out3[f32], op: Const[str], identity: f32) -> None:
    """Along the middle axis: an item is a column."""
    o, i = k.index(y.shape[0], y.shape[2])
    acc = identity
    for j in range(y.shape[1]):
        acc = joined(op, acc, x[o, j, i])
        y[o, j, i] = acc


def result_type(dtype: Any) -> np.dtype[Any]:
    """What the result of a scan of such items holds: f32, i32 or u32."""
    kind = np.dtype(dtype)
    return np.dtype(np.float32 if kind.kind == "f" else np.uint32 if kind.kind in "ub" else np.int32)


def reference(x: NDArray[Any], op: str, axis: int = 0) -> NDArray[Any]:
    """The same in NumPy, floats in float64. op: "sum", "prod", "min", "max"."""
    wide = x.astype(np.float64 if x.dtype.kind == "f" else result_type(x.dtype))
    function = {"sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum}[op]
    return function.accumulate(wide, axis=axis, dtype=wide.dtype)


def _cumulative(op: str, x: Memory, out: Memory, axis: int) -> Run:
    source, target = operand("x", x, (*ALL, bool)), operand("out", out, (np.float32, np.int32, np.uint32), mode="out")
    shape = same_shape(x=source, out=target)
    wanted = result_type(source.dtype)
    if target.dtype != wanted and not (target.dtype.kind in "iu" and source.dtype.itemsize < 4):
        raise UsageError(f"out holds {target.dtype}; allowed: {wanted}", help=f"gpu.empty({shape}, np.{wanted})")
    if not shape:
        raise UsageError("x has no axes; allowed: one or more", help="x.view(0, 1)")
    within("axis", axis, -len(shape), len(shape) - 1)
    gpu = device(x=source, out=target)
    separate("out", target, x=source)
    axis %= len(shape)
    if source.dtype.itemsize < 4:
        target = recast(target, np.int32)
    value = name_of(target.dtype)
    identity = _IDENTITY[op][value]
    with Jobs(gpu) as jobs:
        if len(shape) == 1:
            _along(jobs, op, source, target, value, identity)
        else:
            columns = retyped(scan_axis, value, x=name_of(source.dtype))
            place = around(jobs, target, axis, read=False)
            jobs.add(columns, around(jobs, source, axis), place, op, identity)
            returned(jobs, place, target)
        return jobs.run()


def _along(jobs: Jobs, op: str, x: BufferView, y: BufferView, value: str, identity: float) -> None:
    """A scan of one axis."""
    n = x.shape[0]
    workers = max(min(WORKERS, n // (4 * BLOCK)), 1)
    totals = jobs.scratch(workers, y.dtype)
    kinds: dict[str, Kernel] = {f.fn.__name__: retyped(f, value, x=name_of(x.dtype)) for f in (join_runs, scan_runs)}
    if workers > 1:
        jobs.add(kinds["join_runs"], x, totals, op, identity, workers=workers)
    exact = value != "f32"  # inf - inf is not what was before
    jobs.add(kinds["scan_runs"], x, totals, y, op, exact, identity, workers=workers)


@entry
def cumulative_sum(x: Memory, out: Memory, axis: int = 0) -> Run:
    """out[i] = x[0] + ... + x[i] along an axis.

    x: f32, i32, u32, or narrower integers and bool. out: of the same shape, f32, i32 or u32, each of its kind.
    Integers wrap modulo 2**32. Floats are not joined one after another: the error is below n / 64 + 80 roundings of the
    sum of magnitudes, and a NaN or infinity reaches the results after it (V3D).
    """
    return _cumulative("sum", x, out, axis)


@entry
def cumulative_prod(x: Memory, out: Memory, axis: int = 0) -> Run:
    """out[i] = x[0] * ... * x[i] along an axis; see `cumulative_sum`."""
    return _cumulative("prod", x, out, axis)


@entry
def cumulative_min(x: Memory, out: Memory, axis: int = 0) -> Run:
    """out[i] = the smallest of x[0] ... x[i] along an axis; see `cumulative_sum`. With a NaN: unspecified."""
    return _cumulative("min", x, out, axis)


@entry
def cumulative_max(x: Memory, out: Memory, axis: int = 0) -> Run:
    """out[i] = the largest of x[0] ... x[i] along an axis; see `cumulative_sum`. With a NaN: unspecified."""
    return _cumulative("max", x, out, axis)
