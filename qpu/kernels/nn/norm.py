"""Normalisation: softmax and layer norm of rows, batch norm of channels. A worker takes whole rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.core.arguments import number
from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, same_shape, separate
from qpu.kernels.common.shapes import around, collected, returned
from qpu.lang import Const, Grid, In, In2, In3, Out2, Out3, Team, exp, f32, i32, kernel, log, maximum, rsqrt, where
from qpu.launch import Run

__all__ = [
    "batch_norm", "layer_norm", "reference_batch_norm", "reference_layer_norm", "reference_softmax", "rows_of",
    "softmax",
]  # fmt: skip

LOWEST = -3.4028234663852886e38
WORKERS = 64


@kernel
def soft_rows(
    k: Team, x: In2[f32], out: Out2[f32], logarithm: Const[bool], causal: Const[bool], square: Const[int]
) -> None:
    """causal: row r of each `square` rows has r + 1 columns; the rest is 0."""
    columns = x.shape[1]
    for r in range(k.worker, x.shape[0], k.workers):
        inside = min(i32(r % square + 1), columns) if causal else columns
        largest = f32(LOWEST)
        for block in range((columns + 15) >> 4):
            c = 16 * block + k.lane
            largest = maximum(largest, where(c < inside, x.get(r, c, LOWEST), LOWEST))
        largest = k.max(largest)
        total = f32(0)
        for block in range((columns + 15) >> 4):
            c = 16 * block + k.lane
            total += where(c < inside, exp(x.get(r, c, 0.0) - largest), 0.0)
        total = k.sum(total)
        shift = log(total) if logarithm else 1.0 / total
        for block in range((columns + 15) >> 4):
            c = 16 * block + k.lane
            v = x.get(r, c, 0.0) - largest
            if c < columns:
                out[r, c] = v - shift if logarithm else where(c < inside, exp(v) * shift, 0.0)


@kernel
def norm_rows(k: Team, x: In2[f32], gain: In[f32], shift: In[f32], out: Out2[f32], epsilon: f32) -> None:
    columns = x.shape[1]
    each = 1.0 / f32(columns)
    for r in range(k.worker, x.shape[0], k.workers):
        total = f32(0)
        for block in range((columns + 15) >> 4):
            total += x.get(r, 16 * block + k.lane, 0.0)
        mean = k.sum(total) * each
        squares = f32(0)
        for block in range((columns + 15) >> 4):
            c = 16 * block + k.lane
            d = where(c < columns, x.get(r, c, 0.0) - mean, 0.0)
            squares += d * d
        factor = rsqrt(k.sum(squares) * each + epsilon)
        for block in range((columns + 15) >> 4):
            c = 16 * block + k.lane
            v = (x.get(r, c, 0.0) - mean) * factor * gain.get(c, 0.0) + shift.get(c, 0.0)
            if c < columns:
                out[r, c] = v


@kernel(coarsen=1)
def norm_channels(
    k: Grid, x: In3[f32], mean: In[f32], variance: In[f32], gain: In[f32], shift: In[f32], out: Out3[f32], epsilon: f32
) -> None:
    a, c, i = k.index(*out.shape)
    factor = gain[c] * rsqrt(variance[c] + epsilon)
    out[a, c, i] = (x[a, c, i] - mean[c]) * factor + shift[c]


def rows_of(jobs: Jobs, x: BufferView, read: bool = True) -> BufferView:
    """An array as rows along its last axis; see `collected`."""
    return collected(jobs, x, len(x.shape) - 1, 1, read=read)


def _both(x: Memory, out: Memory) -> tuple[BufferView, BufferView]:
    source, target = operand("x", x, np.float32), operand("out", out, np.float32, mode="out")
    if not same_shape(x=source, out=target):
        raise UsageError("x has no axis; allowed: one or more", help="an array with rows")
    separate("out", target, x=source)
    return source, target


def softened(jobs: Jobs, x: BufferView, out: BufferView, logarithm: bool = False, causal: bool = False) -> None:
    """Submit the softmax of the rows of an array; causal: the last two axes are a triangle."""
    a, b = rows_of(jobs, x), rows_of(jobs, out, read=False)
    square = x.shape[-2] if causal else 1
    jobs.add(soft_rows, a, b, logarithm, causal, square, workers=min(WORKERS, a.shape[0]))
    returned(jobs, b, out)


@entry
def softmax(x: Memory, out: Memory, logarithm: bool = False) -> Run:
    """exp(x) / sum(exp(x)) along the last axis, or its logarithm. x, out: f32 of one shape.

    What is subtracted first is the largest item, so nothing overflows; a row with NaN or an infinity: unspecified.
    """
    source, target = _both(x, out)
    with Jobs(device(x=source, out=target)) as jobs:
        if target.size:
            softened(jobs, source, target, logarithm)
        return jobs.run()


def _numbers(name: str, value: Memory, n: int) -> BufferView:
    found = operand(name, value, np.float32, 1)
    if found.shape != (n,):
        raise UsageError(f"{name} has the shape {list(found.shape)}; allowed: {[n]}", help="one for each channel")
    return found


@entry
def layer_norm(x: Memory, out: Memory, gain: Memory, shift: Memory, epsilon: float = 1e-5) -> Run:
    """(x - mean) / sqrt(variance + epsilon) * gain + shift along the last axis, which gain and shift have. f32."""
    source, target = _both(x, out)
    epsilon = number("epsilon", epsilon, 0, -LOWEST)
    g, s = (_numbers(name, value, source.shape[-1]) for name, value in (("gain", gain), ("shift", shift)))
    with Jobs(device(x=source, out=target, gain=g, shift=s)) as jobs:
        if target.size:
            a, b = rows_of(jobs, source), rows_of(jobs, target, read=False)
            jobs.add(norm_rows, a, g, s, b, epsilon, workers=min(WORKERS, a.shape[0]))
            returned(jobs, b, target)
        return jobs.run()


@entry
def batch_norm(
    x: Memory, out: Memory, mean: Memory, variance: Memory, gain: Memory, shift: Memory, epsilon: float = 1e-5
) -> Run:
    """(x - mean) / sqrt(variance + epsilon) * gain + shift with numbers for each channel, the second axis. f32."""
    source, target = _both(x, out)
    if len(source.shape) < 2:
        raise UsageError(f"x has the shape {list(source.shape)}; allowed: n, channels, ...", help="two axes or more")
    epsilon = number("epsilon", epsilon, 0, -LOWEST)
    pairs = (("mean", mean), ("variance", variance), ("gain", gain), ("shift", shift))
    numbers = {name: _numbers(name, value, source.shape[1]) for name, value in pairs}
    with Jobs(device(x=source, out=target, **numbers)) as jobs:
        if target.size:
            place = around(jobs, target, 1, read=False)
            jobs.add(norm_channels, around(jobs, source, 1), *numbers.values(), place, epsilon)
            returned(jobs, place, target)
        return jobs.run()


def reference_softmax(x: NDArray[Any], logarithm: bool = False) -> NDArray[np.float64]:
    """`softmax` in NumPy."""
    v = x.astype(np.float64) - x.max(-1, keepdims=True)
    total = np.exp(v).sum(-1, keepdims=True)
    return np.asarray(v - np.log(total) if logarithm else np.exp(v) / total)


def reference_layer_norm(x: NDArray[Any], gain: Any, shift: Any, epsilon: float = 1e-5) -> NDArray[np.float64]:
    """`layer_norm` in NumPy."""
    v = x.astype(np.float64)
    v = v - v.mean(-1, keepdims=True)
    return np.asarray(v / np.sqrt((v * v).mean(-1, keepdims=True) + epsilon) * gain + shift)


def reference_batch_norm(
    x: NDArray[Any], mean: Any, variance: Any, gain: Any = 1.0, shift: Any = 0.0, epsilon: float = 1e-5
) -> NDArray[np.float64]:
    """`batch_norm`."""
    wide = (-1, *[1] * (x.ndim - 2))
    m, v, g, s = (np.broadcast_to(np.asarray(p, np.float64), x.shape[1:2]).reshape(wide)
                  for p in (mean, variance, gain, shift))  # fmt: skip
    return np.asarray((x.astype(np.float64) - m) * (g / np.sqrt(v + epsilon)) + s)
