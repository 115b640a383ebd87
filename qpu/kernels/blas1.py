"""Vectors, as level 1 of BLAS: copy, swap, scal, axpy, rot, dot, nrm2, asum, iamax.

x and y are float32 on the device; `copy` and `swap` take every type of four bytes, bit for bit. Sums are made by 64
workers of 16 lanes each on every board, and their 64 parts on the host in float64, so that a result does not depend on
how many QPUs there are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, recast, same_shape, separate
from qpu.lang import Grid, In, InOut, Out, Team, f32, i32, kernel, u32
from qpu.launch import Run

if TYPE_CHECKING:
    from qpu.device import Device

__all__ = [
    "asum", "axpy", "copy", "dot", "iamax", "nrm2", "reference_asum", "reference_axpy", "reference_dot",
    "reference_iamax", "reference_nrm2", "reference_rot", "reference_scal", "rot", "scal", "swap",
]  # fmt: skip

WORKERS = 64
F = np.float32
WORDS = (np.float32, np.int32, np.uint32)
SMALL, LARGE = 2.0**-96, 2.0**126
"""A sum of squares between them has lost nothing to underflow or overflow."""


@kernel
def _copy(k: Grid, x: In[u32], y: Out[u32]) -> None:
    i = k.index()
    y[i] = x[i]


@kernel
def _swap(k: Grid, x: InOut[u32], y: InOut[u32]) -> None:
    i = k.index(x.size)
    kept = x[i]
    x[i] = y[i]
    y[i] = kept


@kernel
def _scal(k: Grid, alpha: f32, x: InOut[f32]) -> None:
    i = k.index()
    x[i] = alpha * x[i]


@kernel
def _axpy(k: Grid, alpha: f32, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(y.size)
    y[i] = alpha * x[i] + y[i]


@kernel
def _rot(k: Grid, x: InOut[f32], y: InOut[f32], c: f32, s: f32) -> None:
    i = k.index(x.size)
    a, b = x[i], y[i]
    x[i] = c * a + s * b
    y[i] = c * b - s * a


@kernel
def _dot(k: Team, x: In[f32], y: In[f32], parts: Out[f32]) -> None:
    total = f32(0)
    for i in k.items(x.size):
        total += x.get(i, 0) * y.get(i, 0)
    parts[k.worker] = k.sum(total)


@kernel
def _squares(k: Team, factor: f32, x: In[f32], parts: Out[f32]) -> None:
    total = f32(0)
    for i in k.items(x.size):
        v = factor * x.get(i, 0)
        total += v * v
    parts[k.worker] = k.sum(total)


@kernel
def _magnitudes(k: Team, x: In[f32], parts: Out[f32]) -> None:
    total = f32(0)
    for i in k.items(x.size):
        total += abs(x.get(i, 0))
    parts[k.worker] = k.sum(total)


@kernel
def _largest(k: Team, x: In[f32], places: Out[i32], values: Out[f32]) -> None:
    best = f32(-1)
    place = i32(0)
    for i in k.items(x.size):
        v = abs(x.get(i, 0))
        if v > best:
            best = v
            place = i
    top = k.max(best)
    if best < top:
        place = i32(0x7FFFFFFF)
    places[k.worker] = k.min(place)
    values[k.worker] = top


def _pair(
    x: Memory, y: Memory, dtypes: object = F, modes: tuple[str, str] = ("in", "in")
) -> tuple[Device, BufferView, BufferView]:
    a, b = operand("x", x, dtypes, 1, modes[0]), operand("y", y, dtypes, 1, modes[1])
    same_shape(x=a, y=b)
    return device(x=a, y=b), a, b


def _words(x: BufferView) -> BufferView:
    return recast(x, np.uint32)


@entry
def copy(x: Memory, y: Memory) -> Run:
    """y = x, for vectors of one length and one type of four bytes. Raises: UsageError."""
    gpu, a, b = _pair(x, y, WORDS, ("in", "out"))
    operand("y", b, a.dtype)
    separate("y", b, x=a)
    with Jobs(gpu) as jobs:
        jobs.add(_copy, _words(a), _words(b))
        return jobs.run()


@entry
def swap(x: Memory, y: Memory) -> Run:
    """Exchange x and y, vectors of one length and one type of four bytes. Raises: UsageError."""
    gpu, a, b = _pair(x, y, WORDS, ("inout", "inout"))
    operand("y", b, a.dtype)
    separate("y", b, x=a)
    with Jobs(gpu) as jobs:
        jobs.add(_swap, _words(a), _words(b))
        return jobs.run()


@entry
def scal(alpha: float, x: Memory) -> Run:
    """x = alpha x. Raises: UsageError."""
    a = operand("x", x, F, 1, "inout")
    with Jobs(device(x=a)) as jobs:
        jobs.add(_scal, alpha, a)
        return jobs.run()


@entry
def axpy(alpha: float, x: Memory, y: Memory) -> Run:
    """y = alpha x + y, for vectors of one length. Raises: UsageError."""
    gpu, a, b = _pair(x, y, F, ("in", "inout"))
    separate("y", b, x=a)
    with Jobs(gpu) as jobs:
        jobs.add(_axpy, alpha, a, b)
        return jobs.run()


@entry
def rot(x: Memory, y: Memory, c: float, s: float) -> Run:
    """x, y = c x + s y, c y - s x: a rotation of the points (x, y). Raises: UsageError."""
    gpu, a, b = _pair(x, y, F, ("inout", "inout"))
    separate("y", b, x=a)
    with Jobs(gpu) as jobs:
        jobs.add(_rot, a, b, c, s)
        return jobs.run()


@entry
def dot(x: Memory, y: Memory) -> float:
    """The sum of x[i] y[i], rounded to float32. Raises: UsageError."""
    gpu, a, b = _pair(x, y)
    with Jobs(gpu) as jobs:
        parts = jobs.scratch(WORKERS)
        jobs.add(_dot, a, b, parts)
        jobs.run()
        return _sum(parts.numpy())


@entry
def asum(x: Memory) -> float:
    """The sum of the magnitudes of x, rounded to float32. Raises: UsageError."""
    a = operand("x", x, F, 1)
    with Jobs(device(x=a)) as jobs:
        parts = jobs.scratch(WORKERS)
        jobs.add(_magnitudes, a, parts)
        jobs.run()
        return _sum(parts.numpy())


@entry
def nrm2(x: Memory) -> float:
    """The Euclidean length of x, without overflow or underflow on the way. Raises: UsageError.

    A sum of squares that comes near the limits of float32 is made again from scaled elements.
    """
    a = operand("x", x, F, 1)
    with Jobs(device(x=a)) as jobs:
        parts = jobs.scratch(WORKERS)
        jobs.add(_squares, 1.0, a, parts)
        jobs.run()
        total = math.fsum(parts.numpy().tolist()) if np.isfinite(parts.numpy()).all() else math.inf
        if SMALL < total < LARGE:
            return float(F(math.sqrt(total)))
        places, values = jobs.scratch(WORKERS, np.int32), jobs.scratch(WORKERS)
        jobs.add(_largest, a, places, values)
        jobs.run()
        top = float(values.numpy().max())
        if not top > 0 or not math.isfinite(top):
            return 0.0 if top <= 0 else top
        factor = 2.0 ** -max(min(math.frexp(top)[1], 126), -126)
        jobs.add(_squares, factor, a, parts)
        jobs.run()
        with np.errstate(over="ignore"):
            return float(F(math.sqrt(math.fsum(parts.numpy().tolist())) / factor))


@entry
def iamax(x: Memory) -> int:
    """The first index of the element of x with the largest magnitude. Raises: UsageError for an empty x."""
    a = operand("x", x, F, 1)
    if not a.shape[0]:
        raise UsageError("x is empty, so nothing is the largest", help="pass at least one element")
    with Jobs(device(x=a)) as jobs:
        places, values = jobs.scratch(WORKERS, np.int32), jobs.scratch(WORKERS)
        jobs.add(_largest, a, places, values)
        jobs.run()
        found = values.numpy()
        return int(places.numpy()[found == found.max()].min())


def _sum(parts: NDArray[np.float32]) -> float:
    """The parts of the workers as one number."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(F(parts.astype(np.float64).sum()))


# -- the same in NumPy, in float64; copy and swap move bits


def reference_scal(alpha: float, x: NDArray[Any]) -> NDArray[np.float64]:
    """alpha x."""
    return np.asarray(alpha * x.astype(np.float64))


def reference_axpy(alpha: float, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """alpha x + y."""
    return np.asarray(alpha * x.astype(np.float64) + y)


def reference_rot(
    x: NDArray[Any], y: NDArray[Any], c: float, s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """c x + s y, c y - s x."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    return c * a + s * b, c * b - s * a


def reference_dot(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The sum of x[i] y[i]."""
    return float(x.astype(np.float64) @ y.astype(np.float64))


def reference_asum(x: NDArray[Any]) -> float:
    """The sum of the magnitudes."""
    return float(np.abs(x.astype(np.float64)).sum())


def reference_nrm2(x: NDArray[Any]) -> float:
    """The Euclidean length."""
    return float(np.linalg.norm(x.astype(np.float64)))


def reference_iamax(x: NDArray[Any]) -> int:
    """The first index of the largest magnitude."""
    return int(np.argmax(np.abs(x)))
