"""Places of values in sorted arrays, and counts of values."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.core.arguments import whole
from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.kernels import histogram_vc4
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, same_shape, separate
from qpu.kernels.common.retyped import ALL, name_of, retyped
from qpu.kernels.common.shapes import copied
from qpu.lang import Const, Grid, In, InOut, Out, f32, i32, kernel
from qpu.launch import Run

__all__ = ["histogram", "reference_histogram", "searchsorted"]


@kernel(coarsen=1)
def search(k: Grid, a: In[f32], v: In[f32], out: Out[i32], steps: i32, right: Const[bool]) -> None:
    """Binary search; the same number of steps for all lanes."""
    i = k.index(v.size)
    x = v[i]
    low = i32(0)
    high = a.size
    for _ in range(steps):
        middle = (low + high) >> 1
        m = a.clamp[middle]
        below = m <= x if right else m < x
        if below and middle < high:
            low = middle + 1
        else:
            high = middle
    out[i] = low


@kernel(coarsen=1)
def count_atomic(k: Grid, x: In[i32], bins: InOut[i32], low: i32) -> None:
    """One atomic addition an item; what lies outside of the bins is not counted."""
    i = k.index(x.size)
    at = x[i] - low
    if at >= 0 and at < bins.size:
        bins.atomic_add(at, 1)


@kernel(coarsen=1)
def add_parts(k: Grid, parts: In[i32], bins: InOut[i32], count: i32) -> None:
    i = k.index(bins.size)
    acc = bins[i]
    for w in range(count):
        acc += parts[256 * w + i]
    bins[i] = acc


@entry
def searchsorted(a: Memory, v: Memory, out: Memory, side: str = "left") -> Run:
    """The places at which v would be inserted into the sorted a: NumPy's `searchsorted`.

    a: one axis, ascending, without NaN; v: one axis, of the same type (f32, i32, u32 or narrower);
    out: i32 of the shape of v.
    side: "left": the first place; "right": the last one.
    """
    table, wanted, target = (
        operand("a", a, ALL, 1),
        operand("v", v, ALL, 1),
        operand("out", out, np.int32, 1, mode="out"),
    )
    if side not in ("left", "right"):
        raise UsageError(f"side = {side!r}", help="allowed: 'left', 'right'")
    if table.dtype != wanted.dtype:
        message = f"a holds {table.dtype} and v {wanted.dtype}; allowed: one type"
        raise UsageError(message, help="convert one of them")
    same_shape(v=wanted, out=target)
    gpu = device(a=table, v=wanted, out=target)
    separate("out", target, a=table, v=wanted)
    stored = name_of(table.dtype)
    kind = retyped(search, stored if table.dtype.itemsize == 4 else "i32", a=stored, v=stored)
    with Jobs(gpu) as jobs:
        if not table.shape[0]:
            jobs.add(fill, target, 0)
        else:
            jobs.add(kind, table, wanted, target, table.shape[0].bit_length(), side == "right")
        return jobs.run()


@entry
def histogram(x: Memory, bins: Memory, low: int = 0, clear: bool = True) -> Run:
    """bins[b] = how many items of x are low + b; others are not counted.

    x: i32 or narrower integers, one axis. bins: i32. clear: False adds to what the bins hold. On VideoCore IV this is
    written by hand, 256 bins at a time, after a copy of items that are not neighbours.
    """
    source = operand("x", x, (np.uint8, np.int8, np.uint16, np.int16, np.int32), 1)
    target = operand("bins", bins, np.int32, 1, "inout")
    if not -(2**31) <= whole("low", low) <= 2**31 - max(target.shape[0], 1):
        raise UsageError(f"low = {low} and {target.shape[0]} bins", help="allowed: bins of values of int32")
    gpu = device(x=source, bins=target)
    separate("bins", target, x=source)
    stored = name_of(source.dtype)
    with Jobs(gpu) as jobs:
        if clear:
            jobs.add(fill, target, 0)
        if gpu.isa is not Isa.VC4:
            jobs.add(retyped(count_atomic, "f32", x=stored), source, target, low)
            return jobs.run()
        apart = source.size and source.strides[0] != source.dtype.itemsize
        if apart or source.offset % source.dtype.itemsize:  # which the copy refuses
            copy = jobs.scratch(source.shape, source.dtype).view(0, source.shape)
            copied(jobs, source, copy)
            source = copy
        size = histogram_vc4.BINS
        parts = jobs.scratch((gpu.qpus, size), np.int32)
        for first in range(0, target.shape[0], size):
            for streams in histogram_vc4.launches(
                source=source.address,
                n=source.size,
                size=source.dtype.itemsize,
                low=low + first,
                target=parts.address,
                qpus=gpu.qpus,
            ):
                jobs.start(histogram_vc4.program(source.dtype.itemsize, source.dtype.kind == "i"), streams)
                jobs.add(add_parts, parts.view(), target[first : first + size], len(streams))
        return jobs.run()


@kernel
def fill(k: Grid, out: Out[i32], value: i32) -> None:
    i = k.index()
    out[i] = value


def reference_histogram(x: Any, bins: int, low: int = 0) -> Any:
    """The same as `histogram` in NumPy."""
    at = x.astype(np.int64) - low
    return np.bincount(at[(at >= 0) & (at < bins)], minlength=bins)
