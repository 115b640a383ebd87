"""Moving items: gather, scatter, transpose, and the items that a mask chooses."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qpu.buffers import BufferView
from qpu.core.arguments import within
from qpu.core.isa import Isa
from qpu.errors import UsageError, counted
from qpu.kernels import transpose_vc4
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, recast, same_shape, separate
from qpu.kernels.common.retyped import ALL, name_of, retyped
from qpu.kernels.common.shapes import around, returned
from qpu.kernels.scan import cumulative_sum
from qpu.lang import Const, Grid, In, In2, In3, InOut, Out, Out2, Out3, f32, i32, kernel, u8
from qpu.launch import Run

__all__ = ["compact", "flags", "gather", "nonzero", "reference_compact", "scatter", "transpose", "turned"]

MOVED: Final = (*ALL, np.float16, bool)
"""Types whose items are moved; their bits do not change."""


@kernel(coarsen=1)
def gather_rows(k: Grid, x: In3[f32], at: In[i32], out: Out3[f32]) -> None:
    """out[o, j, i] = x[o, at[j], i]."""
    o, j, i = k.index(*out.shape)
    out[o, j, i] = x[o, at[j], i]


@kernel(coarsen=1)
def gather_items(k: Grid, x: In[f32], at: In[i32], out: Out[f32]) -> None:
    i = k.index()
    out[i] = x[at[i]]


@kernel(coarsen=1)
def scatter_items(k: Grid, x: In[f32], at: In[i32], out: InOut[f32]) -> None:
    i = k.index(x.size)
    out[at[i]] = x[i]


@kernel(coarsen=1)
def transposed(k: Grid, x: In2[f32], out: Out2[f32]) -> None:
    r, c = k.index(*out.shape)
    out[r, c] = x[c, r]


@kernel(coarsen=1)
def put_chosen(k: Grid, x: In[f32], mask: In[u8], ends: In[i32], out: InOut[f32], index: Const[bool]) -> None:
    """The items that the mask chooses, or their numbers, each to its place. ends: the mask's cumulative sum."""
    i = k.index(mask.size)
    if mask[i] != 0:
        out[ends[i] - 1] = i if index else x[i]


@kernel(coarsen=1)
def find_chosen(k: Grid, x: In[f32], ends: In[i32], out: Out[f32], steps: i32, index: Const[bool]) -> None:
    """The same by searching for the place of each item, where stores to any place are dear."""
    i = k.index(out.size)
    low = i32(0)
    high = ends.size - 1
    for _ in range(steps):
        middle = (low + high) >> 1
        if ends[middle] > i:
            high = middle
        else:
            low = middle + 1
    out[i] = low if index else x[low]


def _words(x: BufferView) -> BufferView:
    """Bits of 32-bit items as integers, so that a chip does not change them; bool as bytes."""
    kind = {4: np.int32, 2: np.int16, 1: np.uint8}[x.dtype.itemsize]
    return recast(x, kind)


def _value(x: BufferView) -> tuple[str, str]:
    """Types of values and of storage that move such items."""
    return "i32", name_of(_words(x).dtype)


@entry
def gather(x: Memory, at: Memory, out: Memory, axis: int = 0) -> Run:
    """out[..., j, ...] = x[..., at[j], ...] along an axis: NumPy's `take`.

    x, out: the same type, f32, i32, u32 or a narrower one. at: i32, one axis, each in 0..n - 1 of that axis; others are
    undefined on hardware and a fault on emulated boards.
    """
    source, place = operand("x", x, MOVED), operand("at", at, np.int32, 1)
    target = operand("out", out, MOVED, mode="out")
    shape = source.shape
    within("axis", axis, -len(shape), len(shape) - 1)
    axis %= len(shape)
    _same_type(source, target)
    wanted = (*shape[:axis], place.shape[0], *shape[axis + 1 :])
    if place.size and not shape[axis]:
        raise UsageError(f"x has the shape {list(shape)}, and at {place.size} places", help="allowed: an x with items")
    if wanted != target.shape:
        raise UsageError(f"out has the shape {list(target.shape)}; allowed: {list(wanted)}", help="gpu.empty(shape)")
    gpu = device(x=source, at=place, out=target)
    separate("out", target, x=source, at=place)
    value, stored = _value(source)
    with Jobs(gpu) as jobs:
        if len(shape) == 1 and len(target.shape) == 1:
            items = retyped(gather_items, value, x=stored, out=stored)
            jobs.add(items, _words(source), place, _words(target))
        else:
            rows = retyped(gather_rows, value, x=stored, out=stored)
            result = around(jobs, _words(target), axis, read=False)
            jobs.add(rows, around(jobs, _words(source), axis), place, result)
            returned(jobs, result, _words(target))
        return jobs.run()


@entry
def scatter(x: Memory, at: Memory, out: Memory) -> Run:
    """out[at[i]] = x[i]; where two items have one place, one of them is stored. One axis; see `gather`.

    On VideoCore IV each item takes a transfer of its own.
    """
    source, place = operand("x", x, MOVED, 1), operand("at", at, np.int32, 1)
    target = operand("out", out, MOVED, 1, mode="out")
    _same_type(source, target)
    same_shape(x=source, at=place)
    gpu = device(x=source, at=place, out=target)
    separate("out", target, x=source, at=place)
    value, stored = _value(source)
    with Jobs(gpu) as jobs:
        jobs.add(retyped(scatter_items, value, x=stored, out=stored), _words(source), place, _words(target))
        return jobs.run()


@entry
def transpose(x: Memory, out: Memory) -> Run:
    """out[c, r] = x[r, c]. Two axes; see `gather` for types. Each item is read once and written once.

    On VideoCore IV this is written by hand, where the items of a row of out follow each other.
    """
    source, target = operand("x", x, MOVED, 2), operand("out", out, MOVED, 2, mode="out")
    _same_type(source, target)
    if target.shape != source.shape[::-1]:
        raise UsageError(
            f"out has the shape {list(target.shape)}; allowed: {list(source.shape[::-1])}", help="gpu.empty(shape)"
        )
    gpu = device(x=source, out=target)
    separate("out", target, x=source)
    with Jobs(gpu) as jobs:
        turned(jobs, source, target)
        return jobs.run()


def turned(jobs: Jobs, x: BufferView, out: BufferView) -> None:
    """Submit the transpose. x, out: one type."""
    if x.size and jobs.gpu.isa is Isa.VC4 and transpose_vc4.transpose(jobs, x, out):
        return
    value, stored = _value(x)
    jobs.add(retyped(transposed, value, x=stored, out=stored), _words(x), _words(out))


def flags(name: str, value: object, rank: int | None = 1) -> BufferView:
    """A mask as bytes. Raises: UsageError."""
    return _words(operand(name, value, (bool, np.uint8), rank))


@entry
def compact(x: Memory, mask: Memory, out: Memory) -> int:
    """The items of x where the mask is not 0, in their order, to the front of out: NumPy's `compress`.

    x, out: one axis, one type; see `gather`. mask: bool or u8 of the shape of x. out: as long as x is safe.
    Returns: how many. Raises: UsageError when they are more than out holds.
    """
    source, target = operand("x", x, MOVED, 1), operand("out", out, MOVED, 1, mode="out")
    _same_type(source, target)
    chosen = flags("mask", mask)
    same_shape(x=source, mask=chosen)
    separate("out", target, x=source, mask=chosen)
    return _chosen(source, chosen, target)


@entry
def nonzero(mask: Memory, out: Memory) -> int:
    """The numbers of the items that are not 0 to the front of out, i32. See `compact`.

    mask: bool or u8, one axis. Returns: how many.
    """
    target = operand("out", out, np.int32, 1, mode="out")
    chosen = flags("mask", mask)
    separate("out", target, mask=chosen)
    return _chosen(None, chosen, target)


def _chosen(x: BufferView | None, mask: BufferView, out: BufferView) -> int:
    gpu = device(mask=mask, out=out, **({} if x is None else {"x": x}))
    n = mask.shape[0]
    if not n:
        return 0
    target = _words(out)
    source = target if x is None else _words(x)
    value, stored = _value(target)
    with Jobs(gpu) as jobs:
        ones, ends = jobs.scratch(n, np.uint8), jobs.scratch(n, np.int32)
        jobs.add(truth, mask, ones)
        jobs.take(cumulative_sum(ones, ends))
        count = int(ends.array[n - 1])
        if count > target.shape[0]:
            raise UsageError(f"{counted(count, 'item')} chosen, and out has {target.shape[0]}", help=f"gpu.empty({n})")
        if not count:
            return 0
        index = x is None
        if gpu.isa is Isa.VC4:
            kernel_ = retyped(find_chosen, value, x=stored, out=stored)
            target = target[:count]
            jobs.add(kernel_, ends if index else source, ends, target, n.bit_length(), index)
        else:
            kernel_ = retyped(put_chosen, value, x=stored, out=stored)
            jobs.add(kernel_, ends if index else source, mask, ends, target, index)
        jobs.run()
        return count


@kernel
def truth(k: Grid, mask: In[u8], out: Out[u8]) -> None:
    i = k.index()
    out[i] = i32(mask[i] != 0)


def _same_type(x: BufferView, out: BufferView) -> None:
    if x.dtype != out.dtype:
        raise UsageError(f"out holds {out.dtype} and x {x.dtype}; allowed: one type", help="gpu.empty(n, x.dtype)")


def reference_compact(x: Any, mask: Any) -> Any:
    """The same as `compact` in NumPy."""
    return np.compress(np.asarray(mask).astype(bool), x)
