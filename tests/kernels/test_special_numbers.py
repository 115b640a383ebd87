"""NaN, infinities, denormals and many items: what docs/library.md says of them, on the three boards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.kernels import blas1, misc, nn, scan, search, sort
from qpu.kernels.common.rounding import bound
from qpu.kernels.gemm import gemm
from tests.kernels.turns import turns

F, N, B = np.float32, np.int32, np.int8
BOARDS = ("pi3", "pi4", "pi5")
INF, NAN = math.inf, math.nan


@pytest.fixture(scope="module")
def boards() -> Iterator[dict[str, Device]]:
    opened = {name: qpu.open_device(name, engine="reference") for name in BOARDS}
    yield opened
    for gpu in opened.values():
        gpu.close()


@pytest.mark.parametrize("board", turns(BOARDS, 0, 2))
def test_vectors(boards: dict[str, Device], board: str) -> None:
    gpu, vc4 = boards[board], boards[board].isa is Isa.VC4
    x = np.array([1, INF, -INF, -0.0, 1e-40, NAN], F)[: 4 if vc4 else 6]
    y = gpu.array(np.ones(len(x), F))
    blas1.axpy(2.0, gpu.array(x), y)
    np.testing.assert_array_equal(y.numpy(), 2 * x + F(1))
    blas1.scal(0.0, a := gpu.array(np.array([INF, -2], F)))
    assert [bool(v == 0) for v in a.numpy()] == [vc4, True]  # inf times 0 is NaN by IEEE
    blas1.scal(0.5, a := gpu.array(np.array([2.0**-126], F)))
    assert a.numpy()[0] == (0 if vc4 else 2.0**-127)
    assert blas1.nrm2(gpu.array(np.array([INF, 1, -INF], F))) == INF
    assert blas1.asum(gpu.array(np.array([1, -INF], F))) == INF
    if not vc4:
        assert math.isnan(blas1.nrm2(gpu.array(np.array([NAN, 1], F))))
        assert blas1.nrm2(gpu.array(np.array([NAN, INF], F))) == INF
        assert math.isnan(blas1.dot(gpu.array(x), gpu.array(x)))


@pytest.mark.parametrize("board", turns(BOARDS, 1))
def test_order_and_limits(boards: dict[str, Device], board: str) -> None:
    gpu = boards[board]
    x = np.array([1, INF, -INF, 3e38, -5], F)
    out = gpu.zeros(5)
    scan.cumulative_max(gpu.array(x), out)
    np.testing.assert_array_equal(out.numpy(), np.maximum.accumulate(x))
    nn.activate(gpu.array(x), out, "relu")
    np.testing.assert_array_equal(out.numpy(), np.maximum(x, 0))
    places = gpu.zeros(5, N)
    search.searchsorted(gpu.array(np.sort(x)), gpu.array(x), places)
    np.testing.assert_array_equal(places.numpy(), np.searchsorted(np.sort(x), x))
    small = gpu.zeros(5, B)
    nn.quantise(gpu.array(x), small, 0.1)
    np.testing.assert_array_equal(small.numpy(), [10, 127, -128, 127, -50])
    pooled = gpu.zeros((1, 1, 1, 4))
    nn.max_pool(gpu.array(x.reshape(1, 1, 1, 5)), pooled, (1, 2), 1)
    np.testing.assert_array_equal(pooled.numpy().ravel(), np.maximum(x[1:], x[:-1]))


@pytest.mark.soak
@pytest.mark.parametrize("board", BOARDS[1:])
def test_matrices(boards: dict[str, Device], board: str) -> None:
    """By both kernels of products; what is multiplied by 0 is not read."""
    gpu = boards[board]
    for n in (5, 50):
        a, b = np.ones((n, n), F), np.ones((n, n), F)
        a[1, 2], a[3, 0], b[4, 1] = NAN, INF, -INF
        out = gpu.array(np.full((n, n), NAN, F))
        gemm(gpu.array(a), gpu.array(b), out)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(out.numpy(), a @ b)
            gemm(gpu.array(a), gpu.array(b), out, relu=True)
            np.testing.assert_array_equal(out.numpy(), np.where(a @ b < 0, 0, a @ b))  # a NaN stays
        gemm(gpu.array(a), gpu.array(b), out, alpha=0.0)
        assert not out.numpy().any()


@pytest.mark.soak
@pytest.mark.parametrize("board", BOARDS)
def test_a_million_items(board: str) -> None:
    n = 1_000_003
    random = np.random.default_rng(1)
    x, y = random.normal(size=(2, n)).astype(F)
    i = random.integers(-(2**31), 2**31, n, np.int64).astype(N)
    with qpu.open_device(board) as gpu:
        a, b, c, out = gpu.array(x), gpu.array(y), gpu.array(i), gpu.zeros(n, N)
        products = x.astype(float) * y
        steps = -(-n // 1024) + 7
        assert abs(blas1.dot(a, b) - products.sum()) <= bound(gpu.isa, steps, abs(products).sum())
        assert blas1.iamax(a) == int(abs(x).argmax())
        scan.cumulative_sum(c, out)
        np.testing.assert_array_equal(out.numpy(), i.cumsum(dtype=N))
        best = gpu.zeros(100, N)
        sort.topk(c, best)
        np.testing.assert_array_equal(best.numpy(), np.sort(i)[::-1][:100])
        part: Any = c[::9]
        sort.sort(part, part)
        np.testing.assert_array_equal(c.numpy()[::9], np.sort(i[::9]))
        taps, smooth = gpu.array(np.array([0.25, 0.5, 0.25], F)), gpu.zeros(n)
        misc.convolve(a, taps, smooth, "same")
        want = np.convolve(x.astype(float), [0.25, 0.5, 0.25], "same")
        assert (abs(smooth.numpy() - want) <= bound(gpu.isa, 4, np.convolve(abs(x), [0.25, 0.5, 0.25], "same"))).all()
