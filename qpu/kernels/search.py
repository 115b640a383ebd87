"""Places of values in sorted arrays, and counts of values."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qpu.core.arguments import whole
from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, same_shape, separate
from qpu.kernels.common.retyped import ALL, name_of, retyped
from qpu.lang import Const, Grid, In, InOut, Out, Out2, Team, f32, i32, kernel, minimum, u32, unroll, where
from qpu.launch import Run

__all__ = ["histogram", "reference_histogram", "searchsorted"]

GROUP: Final = 256
"""Bins that one pass over the items counts on VideoCore IV: 16 in each lane."""


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


@kernel
def count_lanes(k: Team, x: In[i32], parts: Out2[i32], low: i32) -> None:
    """Counts of 256 bins by each worker.

    A lane counts the bins whose last four bits are its number, and meets all items of a vector as that is rotated. The
    16 counts are digits of four bits in two words for half a vector, of eight bits in four words for up to 15 vectors,
    then words.
    """
    counts = [i32(0) for _ in range(16)]
    vectors = (x.size + 15) >> 4
    each = (vectors + k.workers - 1) // k.workers
    start = each * k.worker
    end = min(start + each, vectors)
    for first in range(start, end, 15):
        some = [i32(0) for _ in range(4)]
        for j in range(first, minimum(first + 15, end)):
            i = 16 * j + k.lane
            at = x.get(i, 0) - low
            one = where(u32(at) < 256, i32(1) << ((at >> 2) & 28), 0)
            one = where(i < x.size, one, 0)
            upper = (at & 128) != 0
            digits = [where(upper, 0, one), where(upper, one, 0)]
            lane = at & 15
            for half in unroll(range(2)):
                sums = [i32(0), i32(0)]
                for n in unroll(range(8 * half, 8 * half + 8)):
                    mine = k.rotate(lane, n) == k.lane
                    for h in unroll(range(2)):
                        sums[h] = where(mine, sums[h] + k.rotate(digits[h], n), sums[h])
                for h in unroll(range(2)):
                    some[2 * h] += sums[h] & 0x0F0F0F0F
                    some[2 * h + 1] += (sums[h] >> 4) & 0x0F0F0F0F
        for n in unroll(range(16)):
            counts[n] += (some[2 * (n // 8) + n % 2] >> (8 * (n % 8 // 2))) & 255
    for n in unroll(range(16)):
        parts[k.worker, 16 * n + k.lane] = counts[n]


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

    x: i32 or narrower integers, one axis. bins: i32. clear: False adds to what the bins hold.
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
        workers = max(1, min(gpu.qpus, source.shape[0] // 64))
        parts = jobs.scratch((workers, GROUP), np.int32)
        for first in range(0, target.shape[0], GROUP):
            jobs.add(retyped(count_lanes, "f32", x=stored), source, parts, low + first, workers=workers)
            some = target[first : first + GROUP]
            jobs.add(add_parts, parts.view(), some, workers)
        return jobs.run()


@kernel
def fill(k: Grid, out: Out[i32], value: i32) -> None:
    i = k.index()
    out[i] = value


def reference_histogram(x: Any, bins: int, low: int = 0) -> Any:
    """The same as `histogram` in NumPy."""
    at = x.astype(np.int64) - low
    return np.bincount(at[(at >= 0) & (at < bins)], minlength=bins)
