"""Pooling: the largest item or the mean of each window."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, separate
from qpu.kernels.common.retyped import name_of, retyped
from qpu.kernels.common.shapes import collected, returned
from qpu.kernels.nn.conv import pair
from qpu.lang import Const, Grid, In3, Out3, f32, i32, kernel, maximum, recip, unroll
from qpu.launch import Run

__all__ = ["average_pool", "max_pool", "reference_pool"]


FEW: Final = 81
"""Items of a window that the program has one by one; of larger ones it goes over rows and columns."""


@kernel(coarsen=1)
def largest(
    k: Grid, x: In3[f32], out: Out3[f32], high: Const[int], wide: Const[int], down: i32, across: i32, top: i32,
    left: i32, edges: Const[bool],
) -> None:  # fmt: skip
    """Beyond the edges the nearest item, which changes no maximum of a window that touches the image."""
    p, r, c = k.index(*out.shape)
    first, start = r * down - top, c * across - left
    best = x.clamp[p, first, start] if edges else x[p, first, start]
    if high * wide <= FEW:
        for i in unroll(range(high)):
            for j in unroll(range(wide)):
                if i + j > 0:
                    v = x.clamp[p, first + i, start + j] if edges else x[p, first + i, start + j]
                    best = maximum(best, v)
    else:
        for i in range(high):
            for j in range(wide):
                v = x.clamp[p, first + i, start + j] if edges else x[p, first + i, start + j]
                best = maximum(best, v)
    out[p, r, c] = best


def divided(total: Any, count: Any, byte: bool) -> Any:
    """A mean, in a kernel; of bytes rounded, halves up."""
    return (2 * total + count) // (2 * count) if byte else total * recip(f32(count))


@kernel(coarsen=1)
def mean(
    k: Grid, x: In3[f32], out: Out3[f32], high: Const[int], wide: Const[int], down: i32, across: i32, top: i32,
    left: i32, byte: Const[bool],
) -> None:  # fmt: skip
    p, r, c = k.index(*out.shape)
    first, start = r * down - top, c * across - left
    acc = f32(0)
    if high * wide <= FEW:
        for i in unroll(range(high)):
            for j in unroll(range(wide)):
                acc += x.get(p, first + i, start + j, 0)
    else:
        for i in range(high):
            for j in range(wide):
                acc += x.get(p, first + i, start + j, 0)
    rows = min(first + high, x.shape[1]) - max(first, 0)
    columns = min(start + wide, x.shape[2]) - max(start, 0)
    out[p, r, c] = divided(acc, rows * columns, byte)


def _pool(kind: Any, value: str, x: Memory, out: Memory, size: Any, stride: Any, padding: Any) -> Run:
    source = operand("x", x, (np.float32, np.int8, np.uint8), 4)
    target = operand("out", out, source.dtype, 4, "out")
    high, wide = pair("size", size, 1)
    steps, more = pair("stride", size if stride is None else stride, 1), pair("padding", padding, 0)
    if more[0] >= high or more[1] >= wide:
        raise UsageError(f"size = {size}, padding = {padding}", help="allowed: padding below the size")
    n, c, h, w = source.shape
    if high > h + 2 * more[0] or wide > w + 2 * more[1]:
        raise UsageError(
            f"windows of {high} x {wide} in an image of {h} x {w}, padding = {padding}",
            help="allowed: a size that fits",
        )
    wanted = (n, c, *((a + 2 * p - s) // t + 1 for a, p, s, t in zip((h, w), more, (high, wide), steps, strict=True)))
    if target.shape != wanted:
        raise UsageError(f"out has the shape {list(target.shape)}; allowed: {list(wanted)}", help="gpu.empty(shape)")
    separate("out", target, x=source)
    stored = name_of(source.dtype)
    with Jobs(device(x=source, out=target)) as jobs:
        if target.size:
            place = collected(jobs, target, 2, 1, 1, read=False)
            typed = kind if stored == "f32" else retyped(kind, value, x=stored, out=stored)
            edges = stored != "f32" if kind is mean else more != (0, 0)
            jobs.add(typed, collected(jobs, source, 2, 1, 1), place, high, wide, *steps, *more, edges)
            returned(jobs, place, target)
        return jobs.run()


@entry
def max_pool(x: Memory, out: Memory, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None,
             padding: int | tuple[int, int] = 0) -> Run:  # fmt: skip
    """The largest item of each window. x, out: n, channels, rows, columns, f32, int8 or u8; stride: the size.

    With a NaN in a window: unspecified.
    """
    return _pool(largest, "i32", x, out, size, stride, padding)


@entry
def average_pool(x: Memory, out: Memory, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None,
                 padding: int | tuple[int, int] = 0) -> Run:  # fmt: skip
    """The mean of what is inside of the image in each window; of bytes rounded, halves up. See `max_pool`."""
    return _pool(mean, "i32", x, out, size, stride, padding)


def reference_pool(x: NDArray[Any], kind: str, size: Any, stride: Any = None, padding: Any = 0) -> NDArray[Any]:
    """The same in NumPy. kind: "max" or "mean"."""
    high, wide = pair("", size, 1)
    (sy, sx), (py, px) = pair("", size if stride is None else stride, 1), pair("", padding, 0)
    p = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (py, py), (px, px)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(p, (high, wide), (2, 3))[:, :, ::sy, ::sx]
    return np.asarray((np.nanmax if kind == "max" else np.nanmean)(windows, axis=(4, 5)))
