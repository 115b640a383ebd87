"""Fourier transforms along an axis: complex and real, forward and inverse, of any length.

Powers of two take passes of radix 4 (`passes`); other lengths are a convolution with a chirp (Bluestein) by transforms
of the next power of two from 2 n - 1 on. n real numbers with n even are n / 2 complex ones.

Relative RMS error for white noise, powers of two up to 2**20: below 5e-7 on V3D, 1e-6 on VideoCore IV, whose sums are
truncated; other lengths: below 1.5e-6 and 3e-6.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from qpu.buffers import BufferView
from qpu.core.isa import Isa
from qpu.errors import UsageError, counted
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, same_shape, separate
from qpu.kernels.fft import passes, passes_vc4, tables
from qpu.launch import Run

if TYPE_CHECKING:
    from qpu.device import Device

__all__ = ["fft", "fft2", "ifft", "ifft2", "irfft", "rfft"]

C, F = np.complex64, np.float32
SPREAD = 64
"""Rows of items that a pass is cut into, at least, so that all threads have some."""
LONGEST = 1 << 24
FEWEST = 4
"""Groups of a share, at least: the kernels of many groups fetch factors and find their place before the first one."""


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


def _flat(x: BufferView, *shape: int, offset: int = 0) -> BufferView:
    return BufferView(x.buffer, x.offset + offset * x.dtype.itemsize, shape or (x.size,), x.dtype)


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
    pairs = n >= 8 and jobs.gpu.isa is not Isa.VC4
    by_hand = n >= passes_vc4.SHORTEST and jobs.gpu.isa is Isa.VC4
    p = n
    for number, radix in enumerate(steps):
        p //= radix
        target = y if (len(steps) - number) % 2 else spare
        high = _cut(rows, n // radix)
        out = _flat(target, rows, radix * high, n // radix // high)
        if by_hand:
            w = factors[p].address if p > 1 else 0
            step = passes_vc4.Pass(rows, n, radix, p, x.address, target.address, w, scale)
            jobs.start(passes_vc4.program(radix, p > 1, sign < 0), passes_vc4.streams(step, jobs.gpu.qpus))
        elif pairs and radix == 4 and (cut := _shares(jobs.gpu, rows, n, p)):
            _runs(jobs, _words(x), factors.get(p), _words(target), sign < 0, scale, p, n, cut)
        elif pairs and p > 1:
            views = (*_views(_words(x), 2 * p, 4), *_views(_words(factors[p]), 2 * p, 3))
            jobs.add(passes.turned4_pairs, sign < 0, *views, _words(target), 2 * p, n // 2)
        elif pairs and radix == 4:
            jobs.add(passes.last4_pairs, sign < 0, scale, _words(x), _words(target), n // 2)
        elif p > 1:
            jobs.add(passes.turned4, sign < 0, _flat(x), factors[p], out, p, high)
        elif radix == 4:
            jobs.add(passes.last4, sign < 0, scale, _flat(x), out, high)
        else:
            jobs.add(passes.last2, scale, _flat(x), out, high)
        x = target


def _shares(gpu: Device, rows: int, n: int, p: int) -> list[tuple[int, int, int]]:
    """How the groups of a pass are divided for the kernels of many groups: first group, groups of a share, shares.

    Nothing where too few shares of `FEWEST` groups would be left for all threads.
    """
    places = max(p // 32, 1)  # vectors of lanes in a run, two numbers in a lane
    groups = rows * n // (128 * places)
    most = min(groups // FEWEST, 4 * gpu.qpus // places or 1)
    if n < 128 or places * most < 2 * gpu.qpus:
        return []
    shares = next((c for c in range(most, most // 2, -1) if groups % c == 0), most)
    share, longer = divmod(groups, shares)
    first = longer * (share + 1)
    return [(0, share + 1, longer)] * (longer > 0) + [(first, share, shares - longer)]


def _runs(
    jobs: Jobs,
    x: BufferView,
    w: BufferView | None,
    y: BufferView,
    inverse: bool,
    scale: float,
    p: int,
    n: int,
    cut: list[tuple[int, int, int]],
) -> None:
    """A pass by the kernels of many groups."""
    places = max(p // 2, 16)
    xs = _views(x, 4 if w is None else 2 * p, 4)
    for start, share, shares in cut:
        if w is None:
            jobs.add(passes.last4_runs, inverse, scale, *xs, y, n // 2, 16 * shares, start, share, scale == 1)
        else:
            rest = (2 * p, n // 2, places * shares, places, places.bit_length() - 1, start, share)
            jobs.add(passes.turned4_runs, inverse, *xs, _words(w), y, *rest)


def _views(x: BufferView, apart: int, count: int) -> list[BufferView]:
    """x from its start on, and from each further distance on."""
    return [x[apart * j :] for j in range(count)]


def _words(x: BufferView) -> BufferView:
    """Complex numbers, contiguous, as two words each."""
    return BufferView(x.buffer, x.offset, (2 * x.size,), F)


def _cut(rows: int, items: int) -> int:
    """Into how many parts the items of a row are cut: a power of two, with 16 items or more in a part."""
    high = 1
    while rows * high < SPREAD and items // high > 16:
        high *= 2
    return high


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
