"""Tests of vectors and matrices against NumPy in float64, within derived bounds; boards are taken in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qpu.device import Device
from qpu.errors import UsageError
from qpu.kernels import blas1, blas2
from qpu.kernels.common.operands import part
from qpu.kernels.common.rounding import bound

F = np.float32
D = np.float64
few = settings(max_examples=1, deadline=None)
board = st.integers(0, 2)
lengths = st.sampled_from([0, 1, 15, 16, 17, 63, 64, 65, 130, 1025])
Boards = tuple[Device, ...]


def noise(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers of both signs, none of them tiny."""
    return np.random.default_rng(seed).normal(size=shape).astype(F)


def close(gpu: Device, found: Any, wanted: Any, operations: float, size: Any) -> None:
    """Whether results err by no more than so many roundings of terms of that size."""
    error = np.abs(np.asarray(found, D) - wanted)
    assert (error <= bound(gpu.isa, operations, size)).all(), error.max()


@few
@given(board, lengths, st.integers(0, 9), st.sampled_from([1.0, -0.5, 0.0, 3.25]))
@example(0, 65, 0, 2.5)
@example(1, 65, 0, 2.5)
@example(2, 65, 0, 2.5)
def test_elementwise(boards: Boards, at: int, n: int, seed: int, alpha: float) -> None:
    gpu = boards[at]
    x, y = noise(seed, n + 8), noise(seed + 10, n + 8)
    a, b = gpu.array(x), gpu.array(y)
    u, v = part(a, n, 3), part(b, n, 5)  # neither begins at 16 bytes
    xs, ys = x[3 : n + 3].astype(D), y[5 : n + 5].astype(D)
    blas1.axpy(alpha, u, v)
    close(gpu, b.numpy()[5 : n + 5], alpha * xs + ys, 2, abs(alpha * xs) + abs(ys))
    np.testing.assert_array_equal(np.delete(b.numpy(), np.s_[5 : n + 5]), np.delete(y, np.s_[5 : n + 5]))
    b.write(y)
    blas1.scal(alpha, v)
    close(gpu, b.numpy()[5 : n + 5], alpha * ys, 1, abs(alpha * ys))
    b.write(y)
    blas1.rot(u, v, 0.6, 0.8)
    c, s = float(F(0.6)), float(F(0.8))
    close(gpu, a.numpy()[3 : n + 3], c * xs + s * ys, 2, abs(c * xs) + abs(s * ys))
    close(gpu, b.numpy()[5 : n + 5], c * ys - s * xs, 2, abs(c * ys) + abs(s * xs))


@few
@given(board, lengths, st.sampled_from([np.float32, np.int32, np.uint32]))
def test_copy_and_swap_keep_every_bit(boards: Boards, at: int, n: int, dtype: Any) -> None:
    gpu = boards[at]
    bits = np.random.default_rng(n).integers(0, 2**32, 2 * n, np.uint32)
    bits[: min(n, 4)] = [0x7F800001, 0x80000000, 1, 0xFFFFFFFF][:n]  # as floats: NaN, -0, a denormal, NaN
    a, b = gpu.array(bits[:n].view(dtype)), gpu.array(bits[n:].view(dtype))
    blas1.swap(a, b)
    np.testing.assert_array_equal(np.concatenate([b.array, a.array]).view(np.uint32), bits)
    blas1.copy(a, b)
    np.testing.assert_array_equal(b.numpy().view(np.uint32), bits[n:])


@few
@given(board, lengths, st.integers(0, 9))
@example(0, 1025, 0)
@example(1, 1025, 0)
@example(2, 1025, 0)
def test_sums(boards: Boards, at: int, n: int, seed: int) -> None:
    gpu = boards[at]
    x, y = noise(seed, n), noise(seed + 10, n)
    a, b = gpu.array(x), gpu.array(y)
    steps = -(-n // 1024) + 7  # of one lane, and of the tree over lanes; the product, the result
    products = x.astype(D) * y
    close(gpu, blas1.dot(a, b), products.sum(), steps, abs(products).sum())
    close(gpu, blas1.asum(a), abs(x.astype(D)).sum(), steps, abs(x.astype(D)).sum())
    close(gpu, blas1.nrm2(a), np.linalg.norm(x.astype(D)), steps, np.linalg.norm(x.astype(D)))
    if n:
        assert blas1.iamax(a) == int(np.argmax(abs(x)))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_lengths_near_the_limits_of_float32(boards: Boards, at: int) -> None:
    gpu = boards[at]
    for scale in (2.0**-100, 2.0**-64, 2.0**66, 2.0**120):
        x = noise(1, 70) * F(scale)
        assert blas1.nrm2(gpu.array(x)) == pytest.approx(np.linalg.norm(x.astype(D)), rel=2e-6)
    assert blas1.nrm2(gpu.zeros(20)) == 0
    assert blas1.nrm2(gpu.array(np.full(4, np.finfo(F).max))) == math.inf  # the length is beyond float32
    assert blas1.nrm2(gpu.array(F([1, -math.inf, 2]))) == math.inf


def test_the_first_of_equal_magnitudes_wins(boards: Boards) -> None:
    for gpu in boards:
        x = np.zeros(3000, F)
        x[[1500, 700, 2900]] = [4, -4, 4]
        assert blas1.iamax(gpu.array(x)) == 700
        assert blas1.iamax(gpu.zeros(40)) == 0


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
def test_elements_that_are_apart(boards: Boards, at: int) -> None:
    gpu = boards[at]
    x, y, matrix = noise(1, 75), noise(2, 75), noise(3, 20, 37)
    a, b, c = gpu.array(x), gpu.array(y), gpu.array(matrix)
    blas1.axpy(-2.0, a[::2], b[74::-2])
    wanted = y.astype(D)
    wanted[::-2] -= 2.0 * x[::2]
    close(gpu, b.numpy(), wanted, 2, abs(wanted) + 3 * abs(x).max())
    y = b.numpy()
    assert blas1.dot(a[::2], b[::-2]) == pytest.approx(x[::2].astype(D) @ y[::-2], abs=1e-4)
    out = gpu.zeros((10, 2))
    blas2.gemv(1.0, c.T[:, ::2], a[:10], 0.0, part(b, 37))
    close(gpu, b.numpy()[:37], matrix[::2].T.astype(D) @ x[:10], 16, abs(matrix[::2].T.astype(D)) @ abs(x[:10]))
    blas2.ger(1.0, a[:10], a[:2], out)
    close(gpu, out.numpy(), np.outer(x[:10].astype(D), x[:2]), 3, 9)


sides = st.sampled_from([1, 3, 5, 16, 33, 65, 70])


@few
@given(board, sides, sides, st.booleans(), st.sampled_from([0.0, -1.5]))
@example(0, 5, 70, False, 0.5)
@example(0, 33, 70, True, 0.5)
@example(1, 5, 70, False, 0.5)
@example(1, 33, 70, True, 0.5)
@example(2, 5, 70, False, 0.5)
@example(2, 33, 70, True, 0.5)
def test_gemv(boards: Boards, at: int, m: int, n: int, trans: bool, beta: float) -> None:
    gpu = boards[at]
    matrix = noise(m, m, n)
    op = matrix.T if trans else matrix
    x, y = noise(1, op.shape[1]), noise(2, op.shape[0])
    if not beta:
        y[:] = np.nan  # which is not read
    out = gpu.array(y)
    blas2.gemv(1.25, gpu.array(matrix), gpu.array(x), beta, out, trans=trans)
    kept = beta * y.astype(D) if beta else np.zeros(len(y))
    size = 1.25 * abs(op.astype(D)) @ abs(x.astype(D)) + abs(kept)
    close(gpu, out.numpy(), 1.25 * op.astype(D) @ x + kept, len(x) + 6, size)


@few
@given(board, sides, sides)
@example(0, 5, 70)
@example(1, 5, 70)
@example(2, 5, 70)
def test_ger(boards: Boards, at: int, m: int, n: int) -> None:
    gpu = boards[at]
    a, x, y = noise(0, m, n), noise(1, m), noise(2, n)
    out = gpu.array(a)
    blas2.ger(-0.75, gpu.array(x), gpu.array(y), out)
    outer = -0.75 * np.outer(x.astype(D), y)
    close(gpu, out.numpy(), outer + a, 3, abs(outer) + abs(a))


def test_wrong_arguments_are_refused(boards: Boards) -> None:
    gpu = boards[1]
    x, a = gpu.zeros(32), gpu.zeros((4, 32))
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: blas1.axpy(1.0, x, gpu.zeros(31)), r"x has the shape \[32\] and y \[31\]"),
        (lambda: blas1.axpy(1.0, x, x), "y overlaps x"),
        (lambda: blas1.dot(x, np.zeros(32, F)), "y is a ndarray"),  # type: ignore[arg-type]  # a mistake
        (lambda: blas1.copy(x, gpu.zeros(32, np.int32)), "y holds int32; allowed: float32"),
        (lambda: blas1.scal(1e40, x), "scal: alpha = 1e\\+40 is beyond float32"),
        (lambda: blas1.iamax(gpu.zeros(0)), "x is empty"),
        (lambda: blas2.gemv(1.0, a, x, 0.0, gpu.zeros(5)), "y has 5 elements; allowed: 4"),
        (lambda: blas2.gemv(1.0, x, x, 0.0, gpu.zeros(5)), r"a has the shape \[32\]; allowed: 2 axes"),
        (lambda: blas2.ger(1.0, x, gpu.zeros(4), a), r"a has the shape \[4, 32\]; allowed: \[32, 4\]"),
        (lambda: blas1.dot(x, boards[2].zeros(32)), "y belongs to another device"),
    ]
    for work, found in refused:
        with pytest.raises(UsageError, match=found) as caught:
            work()
        assert "allowed: " in str(caught.value) or "help: " in str(caught.value)
        assert caught.traceback[-1].name == "called"
