"""Numbers of eight bits for real ones: q = round(x / scale) + zero, with a scale for each channel or for all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.errors import UsageError, counted
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, same_shape, separate
from qpu.kernels.common.shapes import around, returned
from qpu.lang import Grid, In, In3, Out3, clamp, f32, i8, i32, kernel, rint
from qpu.launch import Run

__all__ = [
    "dequantise", "quantise", "reference_dequantise", "reference_quantise", "reference_requantise", "requantised",
]  # fmt: skip


def requantised(total: Any, scale: Any, zero: Any) -> Any:
    """A sum of 32 bits as int8, in a kernel. Limited before it is an integer: others have no value there."""
    return i8.sat(i32(rint(clamp(f32(total) * scale, -1000.0, 1000.0))) + zero)


@kernel(coarsen=1)
def narrowed(k: Grid, x: In3[f32], inverse: In[f32], out: Out3[i8], zero: i32) -> None:
    a, c, i = k.index(*out.shape)
    out[a, c, i] = requantised(x[a, c, i], inverse[c], zero)


@kernel(coarsen=1)
def widened(k: Grid, x: In3[i8], scale: In[f32], out: Out3[f32], zero: i32) -> None:
    a, c, i = k.index(*out.shape)
    out[a, c, i] = f32(x[a, c, i] - zero) * scale[c]


@kernel
def inverses(k: Grid, x: In[f32], out: Out3[f32]) -> None:
    """1 / x."""
    a, b, i = k.index(*out.shape)
    out[a, b, i] = 1.0 / x[i]


def _scales(jobs: Jobs, scale: float | Memory, n: int) -> Any:
    if isinstance(scale, (int, float, np.floating)):
        if not scale > 0:
            raise UsageError(f"scale = {scale}", help="allowed: above 0")
        return jobs.constant(np.full(n, scale, np.float32))
    found = operand("scale", scale, np.float32, 1)
    if found.shape != (n,):
        raise UsageError(f"scale has the shape {list(found.shape)}; allowed: {[n]}", help="one for each channel")
    return found


def _axis(x: BufferView, out: BufferView, axis: int, zero: int) -> int:
    """The axis of the scales, from 0 on. Raises: UsageError for arguments that do not fit."""
    shape = same_shape(x=x, out=out)
    if not shape or not -len(shape) <= axis < len(shape):
        raise UsageError(
            f"axis = {axis} of an array of {counted(len(shape), 'axis')}", help="allowed: an axis that x has"
        )
    if not -128 <= zero <= 127:
        raise UsageError(f"zero = {zero}", help="allowed: -128..127")
    separate("out", out, x=x)
    return axis % len(shape)


@entry
def quantise(x: Memory, out: Memory, scale: float | Memory, zero: int = 0, axis: int = 0) -> Run:
    """out = round(x * (1 / scale)) + zero, limited to -128..127; ties to even.

    x: f32; out: int8 of its shape; scale: a number, or f32, one for each index of the axis; zero: -128..127.
    """
    source, target = operand("x", x, np.float32), operand("out", out, np.int8, mode="out")
    axis = _axis(source, target, axis, zero)
    with Jobs(device(x=source, out=target)) as jobs:
        n = source.shape[axis]
        scales, inverse = _scales(jobs, scale, n), jobs.scratch(n, np.float32)
        if target.size:
            place = around(jobs, target, axis, read=False)
            jobs.add(inverses, scales, inverse.view(0, (1, 1, n)))
            jobs.add(narrowed, around(jobs, source, axis), inverse, place, zero)
            returned(jobs, place, target)
        return jobs.run()


@entry
def dequantise(x: Memory, out: Memory, scale: float | Memory, zero: int = 0, axis: int = 0) -> Run:
    """out = (x - zero) * scale. x: int8; out: f32 of its shape; scale and zero: see `quantise`."""
    source, target = operand("x", x, np.int8), operand("out", out, np.float32, mode="out")
    axis = _axis(source, target, axis, zero)
    with Jobs(device(x=source, out=target)) as jobs:
        scales = _scales(jobs, scale, source.shape[axis])
        if target.size:
            place = around(jobs, target, axis, read=False)
            jobs.add(widened, around(jobs, source, axis), scales, place, zero)
            returned(jobs, place, target)
        return jobs.run()


def reference_quantise(x: NDArray[Any], scale: Any, zero: int = 0) -> NDArray[np.float64]:
    """`quantise` in NumPy before rounding, limited; scale broadcasts."""
    return np.asarray(np.clip(x / np.asarray(scale, np.float64) + zero, -128, 127))


def reference_dequantise(x: NDArray[Any], scale: Any, zero: int = 0) -> NDArray[np.float64]:
    """`dequantise` in NumPy; scale broadcasts."""
    return np.asarray((x.astype(np.float64) - zero) * scale)


def reference_requantise(total: NDArray[Any], scale: NDArray[Any], zero: int = 0) -> NDArray[np.int8]:
    """What `conv2d_int8` and `linear_int8` make of sums, bit by bit. scale broadcasts."""
    scaled = np.clip(total.astype(np.float32) * scale.astype(np.float32), -1000, 1000)
    return np.clip(np.rint(scaled).astype(np.int64) + zero, -128, 127).astype(np.int8)
