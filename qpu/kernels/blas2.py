"""Matrices with vectors, as level 2 of BLAS: gemv and ger, float32 on the device.

A is m rows of n, row after row. `gemv` takes four rows of A at a time, so that a vector of x is loaded once for four
multiplications; with the transpose, several rows of 64 columns at a time, and x from the lanes of one vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.core.isa import Isa
from qpu.errors import UsageError, counted
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.matrices import copied_rows, lying
from qpu.kernels.common.operands import Memory, device, operand, separate
from qpu.lang import Const, Grid, In, In2, InOut, InOut2, Team, f32, i32, kernel, unroll
from qpu.launch import Run

__all__ = ["gemv", "ger", "reference_gemv", "reference_ger"]

WORKERS = 64
ROWS = 4
DEEP = {Isa.V3D71: 4, Isa.V3D42: 8, Isa.VC4: 8}
"""Rows of a turn of `_columns`, by the registers that their addresses take."""
F = np.float32


@kernel
def _rows(k: Team, alpha: f32, a: In2[f32], x: In[f32], beta: f32, y: InOut[f32], keep: Const[bool]) -> None:
    m, n = a.shape
    main = n - n % 64
    for r0 in range(k.worker * ROWS, m, k.workers * ROWS):
        lines = [min(r0 + i, m - 1) for i in range(ROWS)]
        sums = [f32(0) for _ in range(ROWS)]
        for j in range(0, main, 64):
            for q in unroll(range(4)):
                c = j + 16 * q + k.lane if k.isa == "vc4" else j + 4 * k.lane + q
                v = x[c]
                for i in unroll(range(ROWS)):
                    sums[i] += a[lines[i], c] * v
        for j in range(main, n, 16):
            v = x.get(j + k.lane, 0)
            for i in unroll(range(ROWS)):
                sums[i] += a.get(lines[i], j + k.lane, 0) * v
        for i in unroll(range(ROWS)):
            if r0 + i < m:
                total = alpha * k.sum(sums[i])
                if keep:
                    total += beta * y[r0 + i]
                y[r0 + i] = total


@kernel
def _columns(
    k: Team, alpha: f32, a: In2[f32], many: In2[f32], ld: i32, x: In[f32], beta: f32, y: InOut[f32],
    keep: Const[bool], deep: Const[int],
) -> None:  # fmt: skip
    """many: deep rows of `a` as one, in which they begin `ld` items apart."""
    m, n = a.shape
    whole = many.shape[0]
    for j in range(k.worker * 64, n, k.workers * 64):
        columns = [j + 16 * q + k.lane if k.isa == "vc4" else j + 4 * k.lane + q for q in range(4)]
        sums = [f32(0) for _ in range(4)]
        if j + 64 <= n:
            for r in range(whole):
                factors = x[deep * r + (k.lane & (deep - 1))]  # in one request, several times each
                for i in unroll(range(deep)):
                    v = k.broadcast(factors, i)
                    for q in unroll(range(4)):
                        sums[q] += many[r, i * ld + columns[q]] * v
            for r in range(deep * whole, m):
                v = x[r]
                for q in unroll(range(4)):
                    sums[q] += a[r, columns[q]] * v
        else:
            for r in range(m):
                v = x[r]
                for q in unroll(range(4)):
                    sums[q] += a.get(r, columns[q], 0) * v
        for q in unroll(range(4)):
            if columns[q] < n:
                total = alpha * sums[q]
                if keep:
                    total += beta * y[columns[q]]
                y[columns[q]] = total


@kernel
def _ger(k: Grid, alpha: f32, x: In[f32], y: In[f32], a: InOut2[f32]) -> None:
    r, c = k.index(*a.shape)
    a[r, c] = alpha * x[r] * y[c] + a[r, c]


@entry
def gemv(alpha: float, a: Memory, x: Memory, beta: float, y: Memory, *, trans: bool = False) -> Run:
    """y = alpha op(A) x + beta y. a: (m, n); op(A) is its transpose if `trans`; x, y: as long as op(A) asks.

    As in BLAS, y is not read when beta is 0. Raises: UsageError.
    """
    matrix, u, v = operand("a", a, F, 2), operand("x", x, F, 1), operand("y", y, F, 1, "inout")
    gpu = device(a=matrix, x=u, y=v)
    m, n = matrix.shape[::-1] if trans else matrix.shape
    for name, vector, length in (("x", u, n), ("y", v, m)):
        if vector.shape != (length,):
            raise UsageError(
                f"{name} has {counted(vector.shape[0], 'element')}; allowed: {length}, as op(A) is {m} x {n}",
                help=f"part({name}, {length}) takes the first {length}",
            )
    separate("y", v, a=matrix, x=u)
    if matrix.strides[0] < matrix.strides[1]:  # a view of the transpose
        matrix, trans = matrix.T, not trans
    with Jobs(gpu) as jobs:
        if trans:
            found = lying(matrix)
            rows = copied_rows(jobs, matrix) if found is None or found.transposed else found
            at, ld = rows.rows, rows.ld
            deep = DEEP[gpu.isa]
            shape, strides = (n // deep, (deep - 1) * ld + m), (4 * deep * ld, 4)
            many = BufferView(at.buffer, at.offset, shape, F, strides) if n >= deep else at[:0]
            jobs.add(_columns, alpha, at, many, ld, u, beta, v, beta != 0, deep, workers=_most(m, 64))
        else:
            jobs.add(_rows, alpha, matrix, u, beta, v, beta != 0, workers=_most(m, ROWS))
        return jobs.run()


@entry
def ger(alpha: float, x: Memory, y: Memory, a: Memory) -> Run:
    """A = alpha x y' + A. x: (m,), y: (n,), a: (m, n). Raises: UsageError."""
    u, v, matrix = operand("x", x, F, 1), operand("y", y, F, 1), operand("a", a, F, 2, "inout")
    gpu = device(x=u, y=v, a=matrix)
    if matrix.shape != (u.shape[0], v.shape[0]):
        raise UsageError(
            f"a has the shape {list(matrix.shape)}; allowed: {[u.shape[0], v.shape[0]]}, by x and y",
            help="pass a matrix with a row for each element of x and a column for each of y",
        )
    separate("a", matrix, x=u, y=v)
    with Jobs(gpu) as jobs:
        jobs.add(_ger, alpha, u, v, matrix)
        return jobs.run()


def _most(length: int, each: int) -> int:
    """Workers for `length` results, `each` of them at a time."""
    return max(1, min(WORKERS, -(-length // each)))


def reference_gemv(
    alpha: float, a: NDArray[Any], x: NDArray[Any], beta: float, y: NDArray[Any], trans: bool = False
) -> NDArray[np.float64]:
    """The y of `gemv` in NumPy."""
    op = a.T if trans else a
    found = alpha * (op.astype(np.float64) @ x.astype(np.float64))
    return np.asarray(found + beta * y.astype(np.float64) if beta else found)


def reference_ger(alpha: float, x: NDArray[Any], y: NDArray[Any], a: NDArray[Any]) -> NDArray[np.float64]:
    """The A of `ger` in NumPy."""
    return np.asarray(alpha * np.outer(x.astype(np.float64), y) + a)
