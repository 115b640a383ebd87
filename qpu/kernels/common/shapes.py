"""Other shapes of views: the same memory where the strides allow it, else a copy in scratch memory."""

from __future__ import annotations

import numpy as np

from qpu.buffers import BufferView
from qpu.kernels.common.jobs import Jobs
from qpu.kernels.common.operands import folded
from qpu.kernels.common.retyped import name_of, retyped
from qpu.lang import Grid, In3, Out3, f32, kernel

__all__ = ["around", "collected", "copied", "flat", "moved", "returned"]


@kernel(coarsen=1)
def moved(k: Grid, x: In3[f32], out: Out3[f32]) -> None:
    """out = x."""
    a, b, c = k.index(*out.shape)
    out[a, b, c] = x[a, b, c]


def copied(jobs: Jobs, x: BufferView, out: BufferView) -> None:
    """Submit out = x, bit for bit. x, out: one shape, one type."""
    if len(x.shape) > 3:
        for n in range(x.shape[0]):
            copied(jobs, x[n], out[n])
        return
    kind = {4: np.int32, 2: np.int16, 1: np.uint8}[x.dtype.itemsize]
    missing = 3 - len(x.shape)
    views = [
        BufferView(v.buffer, v.offset, (*[1] * missing, *v.shape), kind, (*[0] * missing, *v.strides)) for v in (x, out)
    ]
    stored = name_of(kind)
    jobs.add(retyped(moved, "i32", x=stored, out=stored), *views)


def collected(jobs: Jobs, x: BufferView, *groups: int, read: bool = True) -> BufferView:
    """`x` with its axes joined, so many for each axis of the result: itself or a copy (unset unless `read`)."""
    found = folded(x, *groups)
    if found is None:
        copy = jobs.scratch(x.shape, x.dtype).view(0, x.shape)
        if read:
            copied(jobs, x, copy)
        found = folded(copy, *groups)
        assert found is not None
    return found


def returned(jobs: Jobs, place: BufferView, out: BufferView) -> None:
    """Submit the copy back of what `collected` made of an output, if it made a copy."""
    if place.buffer is not out.buffer:
        copied(jobs, BufferView(place.buffer, place.offset, out.shape, out.dtype), out)


def around(jobs: Jobs, x: BufferView, axis: int, read: bool = True) -> BufferView:
    """`x` with three axes: those before `axis` as one, that axis, those after it as one; see `collected`."""
    return collected(jobs, x, axis, 1, len(x.shape) - axis - 1, read=read)


def flat(jobs: Jobs, x: BufferView, read: bool = True) -> BufferView:
    """`x` with one axis; see `collected`."""
    return collected(jobs, x, len(x.shape), read=read)
