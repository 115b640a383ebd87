"""Fourier transforms along an axis: complex and real, forward and inverse, of any length.

Powers of two take passes of radix 4 (`passes`); other lengths are a convolution with a chirp (Bluestein) by transforms
of the next power of two from 2 n - 1 on. n real numbers with n even are n / 2 complex ones.

Relative RMS error for white noise, powers of two up to 2**20: below 5e-7 on V3D, 1e-6 on VideoCore IV, whose sums are
truncated; other lengths: below 1.5e-6 and 3e-6.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np

from qpu.buffers import BufferView
from qpu.errors import UsageError, counted
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, same_shape, separate
from qpu.kernels.fft import passes, tables
from qpu.kernels.fft.passes import Pass
from qpu.kernels.fft.steps import submit
from qpu.launch import Run

__all__ = ["fft", "fft2", "ifft", "ifft2", "irfft", "rfft"]

C, F = np.complex64, np.float32
LONGEST = 1 << 24


# -- what users call


@entry
def fft(x: Memory, out: Memory, axis: int = -1) -> Run:
    """out = the transforms of x along an axis: sum of x[j] exp(-2 pi i j k / n). out may be x itself.

    x, out: complex64 of one shape. Raises: UsageError.
    """
    return _complex(x, out, axis, 1)


@entry
def ifft(x: Memory, out: Memory, axis: int = -1) -> Run:
    """out = the inverse transforms of x along an axis: sum of x[j] exp(2 pi i j k / n) / n. out may be x itself.

    x, out: complex64 of one shape. Raises: UsageError.
    """
    return _complex(x, out, axis, -1)


@entry
def fft2(x: Memory, out: Memory) -> Run:
    """out = the transforms of x along the last two axes. x, out: complex64 of one shape. Raises: UsageError."""
    return _square(x, out, 1)


@entry
def ifft2(x: Memory, out: Memory) -> Run:
    """out = the inverse transforms of x along the last two axes, complex64 of one shape. Raises: UsageError."""
    return _square(x, out, -1)


@entry
def rfft(x: Memory, out: Memory) -> Run:
    """out = the first n // 2 + 1 numbers of the transforms of x along the last axis, n long.

    x: float32 (..., n); out: complex64 (..., n // 2 + 1). Raises: UsageError.
    """
    a, b = operand("x", x, F), operand("out", out, C, mode="out")
    gpu = device(x=a, out=b)
    n = _length("x", a)
    _check_half("out", b, a.shape)
    separate("out", b, x=a)
    with Jobs(gpu) as jobs:
        if not a.size:
            return jobs.run()
        target = _target(jobs, b)
        rows = target.shape[0]
        if n % 2 == 0:
            pairs = _as_complex(jobs, a)
            found = _view(jobs.scratch((rows, n // 2), C))
            _transform(jobs, pairs, found, 1, 1.0)
            jobs.add(passes.split, found, tables.halves(gpu, n), target)
        else:
            whole, found = (_view(jobs.scratch((rows, n), C)) for _ in "ab")
            _each(jobs, passes.from_real, a, whole)
            _transform(jobs, whole, found, 1, 1.0)
            jobs.add(passes.copied, found[:, : n // 2 + 1], target)
        _deliver(jobs, target, b)
        return jobs.run()


@entry
def irfft(x: Memory, out: Memory) -> Run:
    """out = the n real numbers along the last axis whose transform begins with x; the inverse of `rfft`.

    x: complex64 (..., n // 2 + 1); out: float32 (..., n). Imaginary parts that real numbers cannot have count as zero.
    Raises: UsageError.
    """
    a, b = operand("x", x, C), operand("out", out, F, mode="out")
    gpu = device(x=a, out=b)
    n = _length("out", b)
    _check_half("x", a, b.shape)
    separate("out", b, x=a)
    with Jobs(gpu) as jobs:
        if not b.size:
            return jobs.run()
        given = _source(jobs, a)
        rows = given.shape[0]
        direct = b.contiguous and b.address % 8 == 0
        if n % 2 == 0:
            half = n // 2
            joined = _view(jobs.scratch((rows, half), C))
            jobs.add(passes.joined, given, tables.halves(gpu, n), joined)
            if direct:
                found = BufferView(b.buffer, b.offset, (rows, half), C)
                _transform(jobs, joined, found, -1, 1 / n)
                return jobs.run()
            found = _view(jobs.scratch((rows, half), C))
            _transform(jobs, joined, found, -1, 1 / n)
            numbers = BufferView(found.buffer, 0, (rows, n), F)
            _each(jobs, passes.copied_real, numbers, b, spread=True)
        else:
            whole, found = (_view(jobs.scratch((rows, n), C)) for _ in "ab")
            jobs.add(passes.mirrored, given, whole)
            _transform(jobs, whole, found, -1, 1 / n)
            _each(jobs, passes.real_parts, found, b, spread=True)
        return jobs.run()


# -- arguments


def _complex(x: Memory, out: Memory, axis: int, sign: int) -> Run:
    a, b = operand("x", x, C), operand("out", out, C, mode="out")
    same_shape(x=a, out=b)
    gpu = device(x=a, out=b)
    separate("out", b, same=True, x=a)
    rank = len(a.shape)
    if not rank or not -rank <= axis < rank:
        raise UsageError(
            f"axis = {axis} of {counted(rank, 'axis')}; allowed: {-rank}..{rank - 1}", help="pass an axis of x"
        )
    order = [i for i in range(rank) if i != axis % rank] + [axis % rank]
    with Jobs(gpu) as jobs:
        _along(jobs, a.transpose(*order), b.transpose(*order), sign)
        return jobs.run()


def _square(x: Memory, out: Memory, sign: int) -> Run:
    a, b = operand("x", x, C), operand("out", out, C, mode="out")
    same_shape(x=a, out=b)
    gpu = device(x=a, out=b)
    separate("out", b, same=True, x=a)
    rank = len(a.shape)
    if rank < 2:
        raise UsageError(f"x has the shape {list(a.shape)}; allowed: two axes or more", help="fft transforms one axis")
    order = [*range(rank - 2), rank - 1, rank - 2]
    with Jobs(gpu) as jobs:
        _along(jobs, a, b, sign)
        _along(jobs, b.transpose(*order), b.transpose(*order), sign)
        return jobs.run()


def _along(jobs: Jobs, a: BufferView, b: BufferView, sign: int) -> None:
    """Transform the last axis."""
    n = _length("x", a)
    if not a.size:
        return
    given, target = _source(jobs, a), _target(jobs, b)
    _transform(jobs, given, target, sign, 1.0 if sign > 0 else 1 / n)
    _deliver(jobs, target, b)


def _length(name: str, x: BufferView) -> int:
    n = x.shape[-1] if x.shape else 0
    if not 1 <= n <= LONGEST:
        raise UsageError(
            f"{name} has the shape {list(x.shape)}; allowed: 1..{LONGEST} numbers to transform",
            help="cut it into parts",
        )
    return n


def _check_half(name: str, x: BufferView, real: tuple[int, ...]) -> None:
    wanted = (*real[:-1], real[-1] // 2 + 1)
    if x.shape != wanted:
        raise UsageError(
            f"{name} has the shape {list(x.shape)}; allowed: {list(wanted)}, for {real[-1]} real numbers a row",
            help=f"allocate {name} with that shape",
        )


# -- rows: what the kernels work on


def _view(x: Any) -> BufferView:
    return BufferView(x.buffer, x.offset, x.shape, x.dtype) if isinstance(x, BufferView) else x.view(0, x.shape)


def _direct(x: BufferView) -> bool:
    """Whether the kernels can take it as it lies."""
    return x.contiguous and x.address % 8 == 0


def _flat(x: BufferView, *shape: int) -> BufferView:
    return BufferView(x.buffer, x.offset, shape, x.dtype)


def _rows(x: BufferView) -> tuple[int, int]:
    return prod(x.shape[:-1]), x.shape[-1]


def _source(jobs: Jobs, x: BufferView) -> BufferView:
    """x as rows, one behind the other; copied where it lies in another way."""
    if _direct(x):
        return _flat(x, *_rows(x))
    copy = _view(jobs.scratch(_rows(x), C))
    _each(jobs, passes.copied, x, copy)
    return copy


def _target(jobs: Jobs, x: BufferView) -> BufferView:
    """Memory for the rows of an output: its own, or scratch."""
    return _flat(x, *_rows(x)) if _direct(x) else _view(jobs.scratch(_rows(x), C))


def _deliver(jobs: Jobs, target: BufferView, out: BufferView) -> None:
    """Move results from scratch to where they belong."""
    if not _direct(out):
        _each(jobs, passes.copied, target, out, spread=True)


def _each(jobs: Jobs, kernel: Any, x: BufferView, y: BufferView, spread: bool = False) -> None:
    """Apply a kernel of two matrices to an array of any rank, and to rows: x to y; spread: y has the rank."""
    array, rows = (y, x) if spread else (x, y)
    while len(array.shape) < 2:
        array = BufferView(array.buffer, array.offset, (1, *array.shape), array.dtype, (0, *array.strides))
    lines = array.shape[-2]
    for number, index in enumerate(product(*(range(n) for n in array.shape[:-2]))):
        part, there = rows[number * lines : (number + 1) * lines], array[index]
        if spread and abs(there.strides[0]) < abs(there.strides[1]):  # neighbours of memory to neighbouring lanes
            part, there = part.T, there.T
        jobs.add(kernel, *((part, there) if spread else (there, part)))


def _as_complex(jobs: Jobs, x: BufferView) -> BufferView:
    """Rows of n real numbers as rows of n / 2 complex ones."""
    rows, n = _rows(x)
    if _direct(x):
        return BufferView(x.buffer, x.offset, (rows, n // 2), C)
    copy = _view(jobs.scratch((rows, n), F))
    _each(jobs, passes.copied_real, x, copy)
    return BufferView(copy.buffer, 0, (rows, n // 2), C)


# -- transforms of rows


def _transform(jobs: Jobs, x: BufferView, y: BufferView, sign: int, scale: float) -> None:
    """y = scale times the transforms of the rows of x."""
    n = x.shape[1]
    if n == 1 or n & (n - 1):
        _bluestein(jobs, x, y, sign, scale)
    else:
        _power(jobs, x, y, sign, scale)


def _power(jobs: Jobs, x: BufferView, y: BufferView, sign: int, scale: float) -> None:
    """Rows of a power of two, from 2 on. Passes go from memory to memory, the last one to y."""
    rows, n = x.shape
    steps = tables.radices(n)
    spare = _view(jobs.scratch((rows, n), C)) if len(steps) > 1 else y
    if len(steps) % 2 and (x.buffer, x.offset) == (y.buffer, y.offset):  # the first pass would write what it reads
        copy = _view(jobs.scratch((rows, n), C))
        jobs.add(passes.copied, x, copy)
        x = copy
    factors = tables.turns(jobs.gpu, n, sign)
    p = n
    for number, radix in enumerate(steps):
        p //= radix
        target = y if (len(steps) - number) % 2 else spare
        submit(jobs, Pass(x, target, factors.get(p), radix, p, sign < 0, scale))
        x = target


def _bluestein(jobs: Jobs, x: BufferView, y: BufferView, sign: int, scale: float) -> None:
    """Rows of any length, as a convolution: j k = (j j + k k - (j - k)(j - k)) / 2."""
    rows, n = x.shape
    m = 1 << (2 * n - 2).bit_length() if n > 1 else 2
    wave, other, scaled = tables.chirp(jobs.gpu, n, m, sign, scale)
    a, b = (_view(jobs.scratch((rows, m), C)) for _ in "ab")
    jobs.add(passes.chirped, x, wave, a)
    _power(jobs, a, b, 1, 1.0)
    jobs.add(passes.times, b, other, a)
    _power(jobs, a, b, -1, 1 / m)
    jobs.add(passes.times, b[:, :n], scaled, y)
