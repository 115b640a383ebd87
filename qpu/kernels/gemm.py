"""Products of matrices, as level 3 of BLAS: gemm with bias and ReLU, batched, syrk, trsm; float32 on the device.

Large products are made by `sgemm`, whose inner loop adds and multiplies in 97 % of its instructions; batches of small
ones by one launch of a compiled kernel that packs nothing. Views may be transposed, reversed or cut (`a.T`, `a[::-1]`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.errors import UsageError, counted
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.matrices import copied_words, lying, neighbours, stored, words
from qpu.kernels.common.operands import Memory, device, operand, separate
from qpu.kernels.common.shapes import copied
from qpu.kernels.sgemm import Ending, Sgemm
from qpu.lang import Const, Grid, In, In2, In3, InOut2, InOut3, Team, f32, kernel, unroll, where
from qpu.launch import Run

__all__ = ["gemm", "reference_gemm", "reference_syrk", "reference_trsm", "syrk", "trsm"]

F = np.float32
SMALL = 48**3
"""Multiplications up to which a product is made without packing."""
BLOCK = 8  # rows that `_solve` has in registers
HALVES = 96
"""Rows of C from which `syrk` takes it apart."""
TILE = (4, 64)
WORKERS = 64
PLAIN = Ending()


@kernel
def _tiles(
    k: Team, alpha: f32, a: In3[f32], b: In3[f32], beta: f32, c: InOut3[f32], bias: In[f32], add: Const[bool],
    relu: Const[bool],
) -> None:  # fmt: skip
    """c = alpha a b + beta c for each matrix of the batch, by tiles of 4 x 64, and what follows."""
    count, m, n = c.shape
    depth = a.shape[2]
    down, across = (m + 3) // 4, (n + 63) // 64
    for tile in range(k.worker, count * down * across, k.workers):
        line = tile // across
        s = line // down
        i, j = (line - s * down) * 4, (tile - line * across) * 64
        rows = [min(i + r, m - 1) for r in range(4)]
        columns = [j + 16 * q + k.lane if k.isa == "vc4" else j + 4 * k.lane + q for q in range(4)]
        sums = [[f32(0) for _ in range(4)] for _ in range(4)]
        if j + 64 <= n:
            for p in range(depth):
                right = [b[s, p, column] for column in columns]
                for r in unroll(range(4)):
                    v = a[s, rows[r], p]
                    for q in unroll(range(4)):
                        sums[r][q] += v * right[q]
        else:
            for p in range(depth):
                right = [b.get(s, p, column, 0) for column in columns]
                for r in unroll(range(4)):
                    v = a[s, rows[r], p]
                    for q in unroll(range(4)):
                        sums[r][q] += v * right[q]
        for r in unroll(range(4)):
            if i + r < m:
                for q in unroll(range(4)):
                    if columns[q] < n:
                        kept = c[s, i + r, columns[q]]
                        v = alpha * sums[r][q] + where(beta == 0.0, 0.0, beta * kept)
                        if add:
                            v += bias[columns[q]]
                        c[s, i + r, columns[q]] = where(v < 0.0, 0.0, v) if relu else v  # a NaN stays


@kernel(coarsen=1)
def _scaled(
    k: Grid, beta: f32, c: InOut2[f32], keep: Const[bool], bias: In[f32], add: Const[bool], relu: Const[bool]
) -> None:
    """c = beta c, and what follows."""
    r, j = k.index(*c.shape)
    v = beta * c[r, j] if keep else f32(0)
    if add:
        v += bias[j]
    c[r, j] = where(v < 0.0, 0.0, v) if relu else v


@kernel(coarsen=1)
def _triangle(k: Grid, x: In2[f32], beta: f32, c: InOut2[f32], keep: Const[bool]) -> None:
    """c = x + beta c on and below the diagonal."""
    r, j = k.index(*c.shape)
    if j <= r:
        total = x[r, j]
        if keep:
            total += beta * c[r, j]
        c[r, j] = total


@kernel(coarsen=1)
def _solve(k: Grid, alpha: f32, a: In2[f32], b: InOut2[f32], unit: Const[bool]) -> None:
    """b = the x with a x = alpha b, a being lower triangular, of up to BLOCK rows."""
    c = k.index(b.shape[1])
    n = a.shape[0]
    found: list[f32] = []
    for i in unroll(range(BLOCK)):
        v = alpha * b.get(i, c, 0.0)
        for j in unroll(range(i)):
            v -= a.get(i, j, 0.0) * found[j]
        found.append(v if unit else v / a.get(i, i, 1.0))
    for i in unroll(range(BLOCK)):
        if i < n:
            b[i, c] = found[i]


# -- gemm


@entry
def gemm(
    a: Memory,
    b: Memory,
    c: Memory,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    bias: Memory | None = None,
    relu: bool = False,
) -> Run:
    """c = alpha a b + beta c, then + bias for each row, then, if relu, 0 for what is below 0 (a NaN stays).

    a: (m, k), b: (k, n), c: (m, n), bias: (n,), float32; a and c may have an axis of batches in front, b too. Views
    may be transposed. As in BLAS, a and b are not read when alpha is 0, c is not read when beta is 0.
    Raises: UsageError.
    """
    left, right, out = operand("a", a, F), operand("b", b, F), operand("c", c, F, mode="inout")
    add = None if bias is None else operand("bias", bias, F, 1)
    gpu = device(a=left, b=right, c=out, **({} if add is None else {"bias": add}))
    check_product(left, right, out)
    if add is not None and add.shape != out.shape[-1:]:
        raise UsageError(
            f"bias has the shape {list(add.shape)}; allowed: {[out.shape[-1]]}, a number for each column of c",
            help="part(bias, n) takes the first n",
        )
    separate("c", out, False, a=left, b=right, **({} if add is None else {"bias": add}))
    with Jobs(gpu) as jobs:
        if out.size:
            if add is not None and not add.contiguous:
                add = flat_copy(jobs, add)
            _multiply(jobs, alpha, left, right, beta, out, Ending(add, relu))
        return jobs.run()


def flat_copy(jobs: Jobs, x: BufferView) -> BufferView:
    """A copy of a vector whose elements are neighbours."""
    copy = jobs.scratch(x.shape, x.dtype)[:]
    copied(jobs, x, copy)
    return copy


def check_product(a: BufferView, b: BufferView, c: BufferView) -> None:
    """Raise UsageError unless a (..., m, k), b (..., k, n) and c (..., m, n) fit, with an axis of batches at most."""
    for name, x in (("a", a), ("b", b), ("c", c)):
        if len(x.shape) not in (2, 3):
            raise UsageError(
                f"{name} has the shape {list(x.shape)}; allowed: a matrix, or a batch of them",
                help="part(x, shape) gives it another shape",
            )
    wanted = (*c.shape[:-2], a.shape[-2], b.shape[-1])
    batches = {x.shape[0] for x in (a, b) if len(x.shape) == 3}
    if a.shape[-1] != b.shape[-2] or c.shape != wanted or not batches <= set(c.shape[:-2]):
        raise UsageError(
            f"a has the shape {list(a.shape)}, b {list(b.shape)}, c {list(c.shape)}; "
            "allowed: (m, k), (k, n) and (m, n), with an axis of batches in front of c and of any other",
            help="a.T is the transpose of a matrix",
        )


def matrices(x: BufferView, count: int | None = None) -> list[BufferView]:
    """The matrices of a batch; a matrix alone, `count` times."""
    return [x[i] for i in range(x.shape[0])] if len(x.shape) == 3 else [x] * (count or 1)


def _multiply(
    jobs: Jobs, alpha: float, a: BufferView, b: BufferView, beta: float, c: BufferView, ending: Ending = PLAIN
) -> None:
    """c = alpha a b + beta c, and what follows."""
    m, n, depth = c.shape[-2], c.shape[-1], a.shape[-1]
    count = c.shape[0] if len(c.shape) == 3 else 1
    if not depth or not alpha:
        for piece in matrices(c):
            _scale(jobs, beta, piece, ending)
    elif m * n * depth <= SMALL:
        left, right, out = (x if len(x.shape) == 3 else x.broadcast_to((count, *x.shape)) for x in (a, b, c))
        workers = min(WORKERS, count * -(-m // TILE[0]) * -(-n // TILE[1]))
        place = neighbours(jobs, out, beta != 0)
        jobs.add(_tiles, alpha, neighbours(jobs, left), neighbours(jobs, right), beta, place, *_bias(jobs, ending),
                 ending.relu, workers=workers)  # fmt: skip
        if place is not out:
            for source, target in zip(matrices(place), matrices(out), strict=True):
                jobs.add(copied_words, words(source), words(target))
    else:
        for left, right, out in zip(matrices(a, count), matrices(b, count), matrices(c), strict=True):
            _large(jobs, alpha, left, right, beta, out, ending)


def _bias(jobs: Jobs, ending: Ending) -> tuple[Any, bool]:
    """The bias of an ending for a compiled kernel, and whether there is one."""
    return (jobs.scratch(1), False) if ending.bias is None else (ending.bias, True)


def _scale(jobs: Jobs, beta: float, c: BufferView, ending: Ending) -> None:
    """c = beta c, and what follows."""
    jobs.add(_scaled, beta, c, beta != 0, *_bias(jobs, ending), ending.relu)


def _large(jobs: Jobs, alpha: float, a: BufferView, b: BufferView, beta: float, c: BufferView, ending: Ending) -> None:
    """One product by `sgemm`."""
    place, later = lying(c), PLAIN
    if place is not None and place.transposed:  # a bias is one of rows then
        a, b, c = b.T, a.T, c.T
        later, ending = (ending, PLAIN) if ending.bias is not None else (PLAIN, ending)
    left, right = stored(jobs, a), stored(jobs, b)
    target = c
    if place is None:
        scratch = jobs.scratch((c.shape[0], c.shape[1]))
        target = scratch.view(0, scratch.shape)
        if beta:
            jobs.add(copied_words, words(c), words(target))
    where = lying(target)
    assert where is not None
    with Sgemm(
        jobs.gpu, c.shape[0], c.shape[1], a.shape[1], transa=left.transposed, transb=right.transposed,
        a=left.rows, b=right.rows, c=where.rows, lda=left.ld, ldb=right.ld, ldc=where.ld, ending=ending,
    ) as job:  # fmt: skip
        job.set(alpha, beta)
        jobs.take(job.launch())
    if place is None:
        jobs.add(copied_words, words(target), words(c))
    if later is not PLAIN:
        _scale(jobs, 1.0, c.T, later)


# -- products with the transpose, triangular systems


@entry
def syrk(a: Memory, c: Memory, *, alpha: float = 1.0, beta: float = 0.0, upper: bool = False) -> Run:
    """c = alpha a a' + beta c on and below the diagonal, or above it if `upper`; the rest of c stays.

    a: (n, k), or a.T of (k, n); c: (n, n), float32. c is not read when beta is 0. Raises: UsageError.
    """
    left, out = operand("a", a, F, 2), operand("c", c, F, 2, "inout")
    n = left.shape[0]
    if out.shape != (n, n):
        raise UsageError(
            f"c has the shape {list(out.shape)}; allowed: {[n, n]}, as a has {counted(n, 'row')}",
            help="a.T is the transpose of a",
        )
    gpu = device(a=left, c=out)
    separate("c", out, a=left)
    with Jobs(gpu) as jobs:
        if n:
            _symmetric(jobs, alpha, left, beta, out.T if upper else out)
        return jobs.run()


def _symmetric(jobs: Jobs, alpha: float, a: BufferView, beta: float, c: BufferView) -> None:
    """The lower triangle of c, by halves: so little more than half of the whole product is made."""
    n = c.shape[0]
    if n >= HALVES:
        half = n // 2
        _symmetric(jobs, alpha, a[:half], beta, c[:half, :half])
        _multiply(jobs, alpha, a[half:], a[:half].T, beta, c[half:, :half])
        _symmetric(jobs, alpha, a[half:], beta, c[half:, half:])
        return
    product = jobs.scratch((n, n))
    _multiply(jobs, alpha, a, a.T, 0.0, product.view(0, (n, n)))
    jobs.add(_triangle, product, beta, c, beta != 0)


@entry
def trsm(
    a: Memory, b: Memory, *, alpha: float = 1.0, upper: bool = False, unit: bool = False, right: bool = False
) -> Run:
    """b = the x with a x = alpha b, or x a = alpha b if `right`, a being triangular.

    a: (n, n), of which the lower triangle is read, or the upper one; with `unit` its diagonal counts as ones and is
    not read. b: (n, m), or (m, n) if `right`. a.T solves with the transpose (whose triangle is the other one).
    Raises: UsageError.
    """
    matrix, out = operand("a", a, F, 2), operand("b", b, F, 2, "inout")
    n = matrix.shape[0]
    if matrix.shape != (n, n) or out.shape[1 if right else 0] != n:
        raise UsageError(
            f"a has the shape {list(matrix.shape)} and b {list(out.shape)}; "
            f"allowed: (n, n) and {'(m, n)' if right else '(n, m)'}",
            help="x a = b needs right=True",
        )
    gpu = device(a=matrix, b=out)
    separate("b", out, a=matrix)
    with Jobs(gpu) as jobs:
        if out.size:
            if right:  # the transpose of both sides
                matrix, out, upper = matrix.T, out.T, not upper
            if upper:  # from the last row up
                matrix, out = matrix[::-1, ::-1], out[::-1]
            place = neighbours(jobs, out)
            _triangular(jobs, alpha, neighbours(jobs, matrix), place, unit)
            if place is not out:
                jobs.add(copied_words, words(place), words(out))
        return jobs.run()


def _triangular(jobs: Jobs, alpha: float, a: BufferView, b: BufferView, unit: bool) -> None:
    """Lower triangular, by halves of whole blocks."""
    n = a.shape[0]
    if n <= BLOCK:
        jobs.add(_solve, alpha, a, b, unit)
        return
    half = -(-n // (2 * BLOCK)) * BLOCK
    _triangular(jobs, alpha, a[:half, :half], b[:half], unit)
    _multiply(jobs, -1.0, a[half:, :half], b[:half], alpha, b[half:])
    _triangular(jobs, 1.0, a[half:, half:], b[half:], unit)


# -- the same in NumPy


def reference_gemm(
    a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], alpha: float = 1.0, beta: float = 0.0,
    bias: NDArray[Any] | None = None, relu: bool = False,
) -> NDArray[np.float64]:  # fmt: skip
    """The c of `gemm`, in float64."""
    found = alpha * (a.astype(np.float64) @ b.astype(np.float64)) + (beta * c.astype(np.float64) if beta else 0.0)
    found = found + (0.0 if bias is None else bias)
    return np.where(found < 0, 0.0, found) if relu else found


def reference_syrk(
    a: NDArray[Any], c: NDArray[Any], alpha: float = 1.0, beta: float = 0.0, upper: bool = False
) -> NDArray[np.float64]:
    """The c of `syrk`, in float64."""
    inside = np.tri(len(a), dtype=bool)
    return np.where(inside.T if upper else inside, reference_gemm(a, a.T, c, alpha, beta), c)


def reference_trsm(
    a: NDArray[Any], b: NDArray[Any], alpha: float = 1.0, upper: bool = False, unit: bool = False, right: bool = False
) -> NDArray[np.float64]:
    """The b of `trsm`, in float64."""
    matrix = (np.triu(a) if upper else np.tril(a)).astype(np.float64)
    if unit:
        np.fill_diagonal(matrix, 1.0)
    given = alpha * b.astype(np.float64)
    found = np.linalg.solve(matrix.T, given.T).T if right else np.linalg.solve(matrix, given)
    return found.astype(np.float64, copy=False)
