"""Products of integer matrices: 8 or 16 bits times 8 or 16 bits, sums of 32 bits, exact modulo 2**32; requantisation.

The elements are widened to words once, and multiplied by the kernels of `sgemm` with an integer multiplication and an
integer addition in each instruction of the inner loop (97 %). VideoCore IV multiplies unsigned numbers of 24 bits only:
there an offset makes signed elements unsigned, and four more steps of k put right what that adds, from the sums of the
rows and columns: (a + p)(b + q) = a b + q (a + p) + p (b + q) - p q.
Bias, ReLU and requantisation happen where the kernel stores its sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.kernels import sgemm
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.matrices import copied_words, lying, words
from qpu.kernels.common.operands import Memory, device, finite, operand, separate
from qpu.kernels.common.retyped import NARROW, name_of, retyped
from qpu.kernels.gemm import check_product, flat_copy, matrices
from qpu.kernels.sgemm import Ending, Sgemm
from qpu.lang import Const, Grid, In, In2, Out2, Team, f32, i32, kernel, mul24, u32, where
from qpu.launch import Run

__all__ = ["fixed_point", "igemm", "reference_igemm", "reference_requantise", "requantise"]

I32 = np.int32
EXTRA = 4
"""Steps of k that put the offsets right."""
WORKERS = 64


@kernel(coarsen=1)
def _widened(k: Grid, x: In2[f32], more: i32, y: Out2[f32]) -> None:
    r, j = k.index(*x.shape)
    y[r, j] = x[r, j] + more


@kernel
def _row_sums(k: Team, x: In2[i32], factor: i32, y: Out2[i32]) -> None:
    """Beside each row of x: -factor times its sum in two halves, 1 and 65536."""
    m, n = x.shape
    for r in range(k.worker, m, k.workers):
        total = i32(0)
        for j in range(0, n, 16):
            total += x.get(r, j + k.lane, 0)
        put = -factor * k.sum(total)
        halves = where(k.lane == 0, put & 0xFFFF, where(k.lane == 1, i32(u32(put) >> 16), where(k.lane == 2, 1, 65536)))
        if k.lane < 4:
            y[r, k.lane] = halves


@kernel(coarsen=1)
def _column_sums(k: Grid, x: In2[i32], factor: i32, rest: i32, y: Out2[i32]) -> None:
    """Below each column of x: 1, 65536, and rest - factor times its sum in two halves."""
    j = k.index(x.shape[1])
    total = i32(0)
    for r in range(x.shape[0]):
        total += x[r, j]
    put = rest - factor * total
    y[0, j] = 1
    y[1, j] = 65536
    y[2, j] = put & 0xFFFF
    y[3, j] = i32(u32(put) >> 16)


@kernel(coarsen=1)
def _requantised(
    k: Grid, x: In2[i32], bias: In[i32], factors: In[i32], shifts: In[i32], zero: i32, low: i32, high: i32, y: Out2[f32]
) -> None:
    """See `requantise`: (x + bias) factor / 2**(16 + shift), by halves of 16 bits, so that nothing is lost."""
    r, j = k.index(*y.shape)
    v, factor, shift = x[r, j] + bias[j], factors[j], shifts[j]
    below = u32(mul24(v & 0xFFFF, factor)) + u32(where(shift == 0, 0x8000, 0))
    whole = mul24(v >> 16, factor) + i32(below >> 16) + ((i32(1) << shift) >> 1)
    y[r, j] = min(max((whole >> shift) + zero, low), high)


@kernel(coarsen=1)
def _added(k: Grid, x: In2[i32], bias: In[i32], y: Out2[i32], relu: Const[bool]) -> None:
    r, j = k.index(*y.shape)
    v = x[r, j] + bias[j]
    y[r, j] = max(v, 0) if relu else v


class _Product(Sgemm):
    """`Sgemm` of words: integers that the chip multiplies exactly."""

    dtype = np.int32


@entry
def igemm(
    a: Memory,
    b: Memory,
    c: Memory,
    *,
    accumulate: bool = False,
    bias: Memory | None = None,
    relu: bool = False,
    scale: float | Sequence[float] | NDArray[Any] | None = None,
    zero: int = 0,
) -> Run:
    """c = a b, or c + a b, exact modulo 2**32, then + bias for each row, then max(., 0) if relu; or requantised.

    a: (m, k), b: (k, n) of int8, uint8, int16 or uint16, not necessarily the same; c: (m, n), int32. Each may have an
    axis of batches in front, where c has one. Views may be transposed. bias: int32 (n,). With a scale c holds int8,
    uint8, int16 or uint16, and takes what `requantise` makes of the sums, bias, zero and relu. All of this happens in
    the kernel of the product, unless c is stored by columns, neither its rows nor its columns are neighbours, or k is
    above 65536. Raises: UsageError.
    """
    left, right = operand("a", a, NARROW), operand("b", b, NARROW)
    out = operand("c", c, (I32, *NARROW), mode="out" if scale is not None else "inout")
    if (out.dtype == I32) != (scale is None):
        raise UsageError(
            f"c holds {out.dtype}, {'without' if scale is None else 'with'} a scale; "
            f"allowed: int32 for sums, {', '.join(np.dtype(d).name for d in NARROW)} with a scale",
            help="scale= makes narrow numbers of sums" if scale is None else "without scale= c takes the sums",
        )
    add = None if bias is None else operand("bias", bias, I32, 1)
    given = {} if add is None else {"bias": add}
    gpu = device(a=left, b=right, c=out, **given)
    check_product(left, right, out)
    n = out.shape[-1]
    if add is not None and add.shape != (n,):
        raise UsageError(f"bias has the shape {list(add.shape)}; allowed: {[n]}", help="a number for each column of c")
    if accumulate and scale is not None:
        raise UsageError("accumulate with a scale: c holds no sums", help="igemm to int32, then requantise")
    if zero and scale is None:
        raise UsageError(f"zero = {zero} without a scale; allowed: 0", help="pass a scale")
    separate("c", out, False, a=left, b=right, **given)
    with Jobs(gpu) as jobs:
        if add is not None and not add.contiguous:
            add = flat_copy(jobs, add)
        scaled = None if scale is None else _scaled(jobs, scale, n, out.dtype, zero, relu)
        ending = Ending(add, relu) if scaled is None else Ending(add, relu, scaled[0], scaled[3])
        count = out.shape[0] if len(out.shape) == 3 else 1
        for x, y, z in zip(matrices(left, count), matrices(right, count), matrices(out), strict=True):
            if z.size and left.shape[-1]:
                _multiply(jobs, x, y, z, accumulate, ending, scaled)
            elif z.size:
                _without_terms(z, accumulate, add, relu, scale, zero)
        return jobs.run()


def _offset(dtype: np.dtype[Any]) -> int:
    """What makes every number of a type positive."""
    return -int(np.iinfo(dtype).min)


def _without_terms(c: BufferView, accumulate: bool, bias: BufferView | None, relu: bool, scale: Any, zero: int) -> None:
    """c of sums without terms, by the host."""
    total = c.array if accumulate else np.zeros(c.shape, I32)
    add = np.zeros(c.shape[1], I32) if bias is None else bias.numpy()
    if scale is not None:
        c.array[...] = reference_requantise(total, scale, c.dtype, bias=add, zero=zero, relu=relu)
    else:
        c.array[...] = np.maximum(total + add, 0) if relu else total + add


def _multiply(
    jobs: Jobs, a: BufferView, b: BufferView, c: BufferView, accumulate: bool, ending: Ending, scaled: _Scaled | None
) -> None:
    """One product, and what follows."""
    place = lying(c)
    follows = ending.bias is not None or scaled is not None
    if place is not None and place.transposed and not follows:
        a, b, c, place = b.T, a.T, c.T, lying(c.T)
    more = EXTRA if jobs.gpu.isa is Isa.VC4 and (_offset(a.dtype) or _offset(b.dtype)) else 0
    fits = scaled is None or a.shape[1] + more <= sgemm.STEPS
    if place is not None and not place.transposed and fits:
        _product(jobs, a, b, place.rows, place.ld, more, accumulate, ending)
        return
    sums = jobs.scratch((c.shape[0], c.shape[1]), I32)[:]
    if accumulate:
        jobs.add(copied_words, words(c), words(sums))
    _product(jobs, a, b, sums, c.shape[1], more, accumulate, Ending() if follows else ending)
    add = jobs.constant(np.zeros(c.shape[1], I32)) if ending.bias is None else ending.bias
    if scaled is not None:
        _, factors, shifts, limits = scaled
        code = retyped(_requantised, "i32", y=name_of(c.dtype))
        jobs.add(code, sums, add, jobs.constant(factors), jobs.constant(shifts), *limits, c)
    elif follows:
        jobs.add(_added, sums, add, c, ending.relu)
    else:
        jobs.add(copied_words, words(sums), words(c))


def _product(
    jobs: Jobs, a: BufferView, b: BufferView, c: BufferView, ld: int, more: int, accumulate: bool, ending: Ending
) -> None:
    """One product into rows."""
    (m, k), n = a.shape, b.shape[1]
    p, q = _offset(a.dtype), _offset(b.dtype)
    left, right = (jobs.scratch(shape, I32) for shape in ((m, k + more), (k + more, n)))
    for x, y, offset in ((a, left, p), (b, right, q)):
        jobs.add(retyped(_widened, "i32", x=name_of(x.dtype)), x, offset if more else 0, y)
    if more:
        rest = k * p * q & 0xFFFFFFFF
        jobs.add(_row_sums, left[:, :k], q, left[:, k:], workers=min(WORKERS, m))
        jobs.add(_column_sums, right[:k], p, rest - (1 << 32) if rest >> 31 else rest, right[k:])
    with _Product(jobs.gpu, m, n, k + more, a=left, b=right, c=c, ldc=ld, ending=ending) as job:
        job.set(1.0, 1.0 if accumulate else 0.0)
        jobs.take(job.launch())


# -- requantisation


def fixed_point(scale: float | Sequence[float] | NDArray[Any], n: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Factors and shifts for n columns: scale = factor / 2**(16 + shift), the factor below 2**16 and rounded.

    scale: a number, or one for each column, from 2**-24 to below 1. Raises: UsageError.
    """
    given = finite("scale", scale, np.float64)
    if given.shape not in ((), (n,)) or not ((given >= 2.0**-24) & (given < 1)).all():
        raise UsageError(
            f"scale = {scale!r}; allowed: a number from 2**-24 to below 1, or {n} of them",
            help="scales from 1 on belong into the weights",
        )
    shifts = np.clip(-np.frexp(np.broadcast_to(given, (n,)))[1], 0, 15)
    factors = np.minimum(np.rint(given * 2.0 ** (16 + shifts)), 65535)
    return factors.astype(np.int32), shifts.astype(np.int32)


_Scaled: TypeAlias = tuple[BufferView, NDArray[np.int32], NDArray[np.int32], tuple[int, int, int]]


def _scaled(jobs: Jobs, scale: Any, n: int, dtype: np.dtype[Any], zero: int, relu: bool) -> _Scaled:
    """Factors with their shifts for `Ending`, both alone, and its limits."""
    low, high = _limits(dtype, zero, relu)
    factors, shifts = fixed_point(scale, n)
    return jobs.constant((factors | shifts << 24).view(np.uint32))[:], factors, shifts, (zero, low, high)


@entry
def requantise(
    x: Memory,
    scale: float | Sequence[float] | NDArray[Any],
    out: Memory,
    *,
    bias: Memory | None = None,
    zero: int = 0,
    relu: bool = False,
) -> Run:
    """out = (x + bias) scale + zero, rounded half up and limited to the type of `out`; with relu, to zero and above it.

    x: int32 (m, n), as `igemm` makes it; out: (m, n) of int8, uint8, int16 or uint16; bias: int32 (n,); scale: a
    number or one for each column, from 2**-24 to below 1, of which 16 bits count (`fixed_point`). x + bias wraps. The
    same bits on every chip and by `reference_requantise`. Raises: UsageError.
    """
    a, target = operand("x", x, I32, 2), operand("out", out, NARROW, 2, "out")
    add = None if bias is None else operand("bias", bias, I32, 1)
    gpu = device(x=a, out=target, **({} if add is None else {"bias": add}))
    n = a.shape[1]
    if target.shape != a.shape or (add is not None and add.shape != (n,)):
        wrong = "" if add is None else f", bias {list(add.shape)}"
        raise UsageError(
            f"x has the shape {list(a.shape)}, out {list(target.shape)}{wrong}; allowed: equal ones, {[n]} for bias",
            help="bias has a number for each column",
        )
    low, high = _limits(target.dtype, zero, relu)
    factors, shifts = fixed_point(scale, n)
    separate("out", target, False, x=a, **({} if add is None else {"bias": add}))
    with Jobs(gpu) as jobs:
        given = jobs.constant(np.zeros(n, I32)) if add is None else add
        code = retyped(_requantised, "i32", y=name_of(target.dtype))
        jobs.add(code, a, given, jobs.constant(factors), jobs.constant(shifts), zero, low, high, target)
        return jobs.run()


def _limits(dtype: np.dtype[Any], zero: int, relu: bool) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    if not isinstance(zero, (int, np.integer)) or not limits.min <= zero <= limits.max:
        raise UsageError(f"zero = {zero}; allowed: {limits.min}..{limits.max}, as {dtype} holds", help="0 is usual")
    return (zero if relu else int(limits.min)), int(limits.max)


def reference_igemm(a: NDArray[Any], b: NDArray[Any], bias: Any = 0, relu: bool = False) -> NDArray[np.int32]:
    """The int32 of `igemm`, by NumPy."""
    found = (a.astype(np.int64) @ b.astype(np.int64) + bias).astype(np.int32)
    return np.asarray(np.maximum(found, 0) if relu else found)


def reference_requantise(
    x: NDArray[np.int32],
    scale: float | Sequence[float] | NDArray[Any],
    dtype: Any,
    *,
    bias: NDArray[np.int32] | None = None,
    zero: int = 0,
    relu: bool = False,
) -> NDArray[Any]:
    """What `requantise` computes, by NumPy."""
    factors, shifts = fixed_point(scale, x.shape[1])
    low, high = _limits(np.dtype(dtype), zero, relu)
    total = (x if bias is None else x + bias).astype(np.int32).astype(np.int64) * factors
    rounded = (total + (1 << (15 + shifts.astype(np.int64)))) >> (16 + shifts)
    return np.asarray(np.clip(rounded + zero, low, high).astype(dtype))
