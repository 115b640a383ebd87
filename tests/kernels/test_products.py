"""Tests of matrix products: floats within derived bounds of float64, integers exactly; boards are taken in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import qpu
from qpu.device import Device
from qpu.errors import UsageError
from qpu.kernels import sgemm
from qpu.kernels.common.rounding import bound
from qpu.kernels.gemm import gemm, syrk, trsm
from qpu.kernels.igemm import fixed_point, igemm, reference_requantise, requantise
from tests.kernels.turns import turns

F, D, I32 = np.float32, np.float64, np.int32
few = settings(max_examples=1, deadline=None)
board = st.integers(0, 2)
side = st.sampled_from([1, 3, 4, 5, 16, 17, 33])
Boards = tuple[Device, ...]


def noise(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(F)


def product(
    gpu: Device, a: Any, b: Any, c: NDArray[np.float32], alpha: float, beta: float, bias: Any, relu: bool
) -> NDArray[np.float32]:
    """gemm on the device; a, b: arrays whose transposes are stored where they are not contiguous."""
    left, right = (gpu.array(x) if x.flags.c_contiguous else gpu.array(x.T)[:].T for x in (a, b))
    out = gpu.array(c)
    gemm(left, right, out, alpha=alpha, beta=beta, bias=None if bias is None else gpu.array(bias), relu=relu)
    return out.numpy()


def check(
    gpu: Device, a: Any, b: Any, c: NDArray[np.float32], alpha: float, beta: float, bias: Any = None, relu: bool = False
) -> None:
    found = product(gpu, a, b, c, alpha, beta, bias, relu)
    kept = beta * c.astype(D) if beta else np.zeros(c.shape)
    add = np.zeros(c.shape[-1]) if bias is None else bias.astype(D)
    wanted = alpha * (a.astype(D) @ b.astype(D)) + kept + add
    size = abs(alpha) * (abs(a.astype(D)) @ abs(b.astype(D))) + abs(kept) + abs(add)
    error = abs(found - (np.maximum(wanted, 0) if relu else wanted))
    assert (error <= bound(gpu.isa, a.shape[-1] + 4, size)).all(), error.max()


@few
@given(board, side, side, side, st.sampled_from([1.0, -1.5]), st.sampled_from([0.0, 0.75]))
@example(0, 5, 70, 9, 1.5, 0.5)
@example(1, 5, 70, 9, 1.5, 0.5)
@example(2, 5, 70, 9, 1.5, 0.5)
def test_small_products(boards: Boards, at: int, m: int, n: int, k: int, alpha: float, beta: float) -> None:
    c = noise(3, m, n)
    if not beta:
        c[:] = np.nan  # which is not read
    check(boards[at], noise(1, m, k), noise(2, k, n), c, alpha, beta)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_large_products_with_what_follows(boards: Boards, at: int) -> None:
    a, b, c, bias = noise(1, 50, 41), noise(2, 41, 65), noise(3, 50, 65), noise(4, 65)
    check(boards[at], a, b, c, 1.5, -0.5, bias, True)


def test_batches_and_transposes(boards: Boards) -> None:
    gpu = boards[2]
    a, b, c = noise(1, 3, 5, 7), noise(2, 3, 7, 9), noise(3, 3, 5, 9)
    check(gpu, a, b, c, 1.0, 1.0)
    check(gpu, a, b[0], c, 1.0, 1.0, relu=True)
    check(gpu, noise(1, 7, 5).T, noise(2, 9, 7).T, c[0], 1.0, 1.0)
    check(gpu, noise(1, 41, 50).T, noise(2, 65, 41).T, noise(3, 50, 65), 1.0, 0.0)
    check(gpu, noise(1, 2, 50, 41), noise(2, 41, 65), noise(3, 2, 50, 65), 1.0, 1.0)


def test_outputs_as_columns_and_with_gaps(boards: Boards) -> None:
    gpu = boards[1]
    a, b = noise(1, 50, 41), noise(2, 41, 65)
    wanted = a.astype(D) @ b
    out = gpu.zeros((65, 50))
    gemm(gpu.array(a), gpu.array(b), out.T)
    np.testing.assert_allclose(out.numpy().T, wanted, atol=1e-4)
    wide = gpu.array(np.full((50, 130), 7, F))
    gemm(gpu.array(a), gpu.array(b), wide[:, ::2])
    np.testing.assert_allclose(wide.numpy()[:, ::2], wanted, atol=1e-4)
    assert (wide.numpy()[:, 1::2] == 7).all()


def test_what_counts_for_nothing_is_not_read(boards: Boards) -> None:
    gpu = boards[2]
    broken, c = gpu.array(np.full((5, 5), np.nan, F)), gpu.array(noise(1, 5, 5))
    before = c.numpy()
    gemm(broken, broken, c, alpha=0.0, beta=2.0)
    np.testing.assert_array_equal(c.numpy(), 2 * before)
    gemm(gpu.zeros((5, 0)), gpu.zeros((0, 5)), c)
    np.testing.assert_array_equal(c.numpy(), np.zeros((5, 5)))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_syrk_leaves_the_other_triangle(boards: Boards, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = boards[at]
    n = 20
    if at == 2:
        monkeypatch.setattr("qpu.kernels.gemm.HALVES", 16)
    a, c = noise(1, n, 9), noise(2, n, n)
    for upper in (False, True) if at == 2 else (bool(at),):
        out = gpu.array(c)
        syrk(gpu.array(a), out, alpha=0.5, beta=-2.0, upper=upper)
        inside = np.tri(n, dtype=bool).T if upper else np.tri(n, dtype=bool)
        wanted = 0.5 * a.astype(D) @ a.T - 2.0 * c
        size = 0.5 * abs(a.astype(D)) @ abs(a.T) + 2 * abs(c)
        assert (abs(out.numpy() - wanted) <= bound(gpu.isa, 13, size))[inside].all()
        np.testing.assert_array_equal(out.numpy()[~inside], c[~inside])


@pytest.mark.parametrize(("at", "n", "upper", "unit", "right"), [
    (0, 11, False, False, False), (1, 20, True, False, False), (2, 13, False, True, True),
])  # fmt: skip
def test_trsm(boards: Boards, at: int, n: int, upper: bool, unit: bool, right: bool) -> None:
    gpu = boards[at]
    a = noise(1, n, n) / F(4) + 2 * np.eye(n, dtype=F)
    other = np.tri(n, k=-1, dtype=bool) if upper else np.tri(n, k=-1, dtype=bool).T
    a[other] = np.nan  # which is not read
    if unit:
        np.fill_diagonal(a, np.nan)
    b = noise(2, 9, n) if right else noise(2, n, 9)
    out = gpu.array(b)
    trsm(gpu.array(a), out, alpha=1.5, upper=upper, unit=unit, right=right)
    t = np.where(other, 0, a).astype(D)
    if unit:
        np.fill_diagonal(t, 1)
    if right:
        wanted = np.linalg.solve(t.T, 1.5 * b.T.astype(D)).T
        size = abs(wanted) @ abs(t) @ abs(np.linalg.inv(t))
    else:
        wanted = np.linalg.solve(t, 1.5 * b.astype(D))
        size = abs(np.linalg.inv(t)) @ abs(t) @ abs(wanted)
    assert (abs(out.numpy() - wanted) <= bound(gpu.isa, n + 12, size)).all()


narrow = st.sampled_from([np.int8, np.uint8, np.int16, np.uint16])


def integers(seed: int, dtype: Any, *shape: int) -> NDArray[Any]:
    """Numbers of the whole range, and its ends."""
    limits = np.iinfo(dtype)
    found = np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape, dtype)
    found.flat[:: max(found.size // 3, 1)] = limits.min
    return np.asarray(found)


def wrapped(x: Any) -> NDArray[np.int32]:
    return np.asarray(x).astype(np.int64).astype(I32)


@few
@given(board, narrow, narrow, side, side, st.sampled_from([1, 2, 5, 40]), st.booleans())
@example(0, np.int8, np.int8, 5, 33, 7, False)
@example(0, np.int16, np.int16, 5, 33, 7, True)
@example(1, np.int8, np.int8, 5, 33, 7, False)
@example(1, np.int16, np.int16, 5, 33, 7, True)
@example(2, np.int8, np.int8, 5, 33, 7, False)
@example(2, np.int16, np.int16, 5, 33, 7, True)
def test_integers_are_exact(
    boards: Boards, at: int, left: Any, right: Any, m: int, n: int, k: int, accumulate: bool
) -> None:
    gpu = boards[at]
    a, b = integers(1, left, m, k), integers(2, right, k, n)
    c = np.random.default_rng(3).integers(-(2**31), 2**31, (m, n), np.int64).astype(I32)
    out = gpu.array(c)
    igemm(gpu.array(a), gpu.array(b), out, accumulate=accumulate)
    wanted = a.astype(np.int64) @ b.astype(np.int64) + (c if accumulate else 0)
    np.testing.assert_array_equal(out.numpy(), wrapped(wanted))


def test_integer_views_and_batches(boards: Boards) -> None:
    gpu = boards[2]
    a, b = integers(1, np.int8, 2, 9, 5), integers(2, np.int8, 9, 8)
    out = gpu.zeros((2, 8, 5), I32)
    left = gpu.array(b).T  # (8, 9)
    igemm(left, gpu.array(a), out)
    np.testing.assert_array_equal(out.numpy(), wrapped(b.T.astype(np.int64) @ a.astype(np.int64)))
    igemm(left[:, :0], gpu.array(a)[:, :0], out)
    assert not out.numpy().any()


def test_sums_longer_than_a_launch(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgemm, "STEPS", 8)
    a, b = integers(1, np.int16, 3, 21), integers(2, np.int16, 21, 4)
    for gpu in boards:
        out = gpu.zeros((3, 4), I32)
        igemm(gpu.array(a), gpu.array(b), out)
        np.testing.assert_array_equal(out.numpy(), (total := wrapped(a.astype(np.int64) @ b.astype(np.int64))))
        narrow = gpu.zeros((3, 4), np.int8)
        igemm(gpu.array(a), gpu.array(b), narrow, scale=2.0**-20)
        np.testing.assert_array_equal(narrow.numpy(), reference_requantise(total, 2.0**-20, np.int8))
    check(boards[2], noise(1, 50, 41), noise(2, 41, 65), noise(3, 50, 65), 1.0, -0.5, noise(4, 65), True)


@pytest.mark.parametrize("at", turns([0, 1, 2], 1))
def test_the_other_kernel_makes_the_same_of_its_sums(boards: Boards, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgemm, "choose", lambda *_: sgemm.Choice("rotate", "asked for", {}))
    gpu = boards[at]
    check(gpu, noise(1, 50, 41), noise(2, 41, 65), noise(3, 50, 65), 1.5, -0.5, noise(4, 65), True)
    check(gpu, noise(1, 50, 41), noise(2, 41, 65), noise(3, 50, 65), 1.5, 0.0, noise(4, 65), False)
    a, b, bias = integers(1, np.int8, 13, 19), integers(2, np.int8, 19, 70), np.arange(70, dtype=I32) * 100 - 3500
    total, out, narrow = wrapped(a.astype(np.int64) @ b), gpu.zeros((13, 70), I32), gpu.zeros((13, 70), np.int16)
    igemm(gpu.array(a), gpu.array(b), out, bias=gpu.array(bias), relu=True)
    np.testing.assert_array_equal(out.numpy(), np.maximum(total + bias, 0))
    igemm(gpu.array(a), gpu.array(b), narrow, bias=gpu.array(bias), scale=0.3, zero=1)
    np.testing.assert_array_equal(narrow.numpy(), reference_requantise(total, 0.3, np.int16, bias=bias, zero=1))


@pytest.mark.parametrize(("at", "dtype"), [(0, np.int8), (1, np.uint8), (2, np.int16)])
def test_requantise(boards: Boards, at: int, dtype: Any) -> None:
    gpu = boards[at]
    rng = np.random.default_rng(at)
    x = rng.integers(-(2**31), 2**31, (6, 40), np.int64) >> rng.integers(0, 26, (6, 1))
    x = x.astype(I32)
    scale = np.exp2(-rng.uniform(1e-6, 24, 40))
    bias = rng.integers(-500, 500, 40, I32)
    out = gpu.zeros((6, 40), dtype)
    for zero, relu in ((3, False), (10, True)):
        requantise(gpu.array(x), scale, out, bias=gpu.array(bias), zero=zero, relu=relu)
        wanted = reference_requantise(x, scale, dtype, bias=bias, zero=zero, relu=relu)
        np.testing.assert_array_equal(out.numpy(), wanted)
        limits = np.iinfo(dtype)
        plain = np.clip((x + bias).astype(I32) * scale + zero, zero if relu else limits.min, limits.max)
        # half a unit of rounding, and 16 bits of the scale
        assert (
            abs(wanted - plain) <= 0.5 + abs(plain - zero) * 2.0**-16 + 1e-9 + (scale < 2.0**-16) * limits.max
        ).all()
    requantise(gpu.array(x), 0.25, out)
    np.testing.assert_array_equal(out.numpy(), reference_requantise(x, 0.25, dtype))


@pytest.mark.parametrize(("at", "dtype", "out"), [
    (0, np.int8, np.int8), (1, np.int16, np.int16), (2, np.uint8, np.int8),
])  # fmt: skip
def test_products_of_integers_with_what_follows(boards: Boards, at: int, dtype: Any, out: Any) -> None:
    """Bias, ReLU and requantisation in the kernel of the product: no launch of their own, and the same bits."""
    gpu = boards[at]
    a, b = integers(1, dtype, 27, 19), integers(2, dtype, 19, 37)
    bias = np.random.default_rng(3).integers(-5000, 5000, 37, I32)
    total = a.astype(np.int64) @ b.astype(np.int64)
    left, right, add, sums = gpu.array(a), gpu.array(b), gpu.array(bias), gpu.zeros((27, 37), I32)
    plain = igemm(left, right, sums)
    run = igemm(left, right, sums, accumulate=True, bias=add, relu=True)
    np.testing.assert_array_equal(sums.numpy(), np.maximum(wrapped(2 * total + bias), 0))
    scale = np.exp2(-np.random.default_rng(4).uniform(1e-3, 24, 37))
    scale[:3] = 0.75, 0.5, 0.25
    wide = gpu.array(np.full((27, 40), 7, out))
    narrow = igemm(left, right, wide[:, :37], bias=add, scale=scale, zero=-3, relu=at == 1)
    wanted = reference_requantise(wrapped(total), scale, out, bias=bias, zero=-3, relu=at == 1)
    np.testing.assert_array_equal(wide.numpy()[:, :37], wanted)
    assert (wide.numpy()[:, 37:] == 7).all()
    assert len(plain.launches) == len(run.launches) == len(narrow.launches)


def test_results_of_integers_that_a_launch_of_their_own_makes(boards: Boards) -> None:
    gpu = boards[2]
    a, b, bias = integers(1, np.int8, 9, 5), integers(2, np.int8, 5, 8), np.arange(8, dtype=I32)
    total = wrapped(a.astype(np.int64) @ b.astype(np.int64))
    turned, columns = gpu.zeros((8, 9), np.int8), gpu.zeros((8, 9), I32)
    igemm(gpu.array(a), gpu.array(b), turned.T, scale=0.01, bias=gpu.array(bias))
    np.testing.assert_array_equal(turned.numpy().T, reference_requantise(total, 0.01, np.int8, bias=bias))
    igemm(gpu.array(a), gpu.array(b), columns.T, bias=gpu.array(np.repeat(bias, 2))[::2])
    np.testing.assert_array_equal(columns.numpy().T, total + bias)
    igemm(gpu.array(a)[:, :0], gpu.array(b)[:0], turned.T, scale=0.5, bias=gpu.array(bias))
    np.testing.assert_array_equal(turned.numpy().T, np.tile((bias + 1) // 2, (9, 1)))


def test_scales_have_sixteen_bits() -> None:
    scale = np.array([0.5, 0.999999, 1 / 3, 2.0**-16, 3e-3])
    factors, shifts = fixed_point(scale, 5)
    np.testing.assert_allclose(factors / 2.0 ** (16 + shifts), scale, rtol=2.0**-16)
    assert factors.max() < 1 << 16 and factors.min() >= 1 << 15


def test_the_inner_loop_adds_and_multiplies(boards: Boards) -> None:
    for gpu, least in zip(boards, (0.65, 0.80, 0.85), strict=True):
        length, work = sgemm.inner_loop(sgemm.program(gpu.isa, "uniform", whole=True))
        assert work / (2 * length) > max(least, 0.96)


def test_wrong_arguments_are_refused(boards: Boards) -> None:
    gpu = boards[1]
    a, c, small = gpu.zeros((4, 5)), gpu.zeros((4, 4)), gpu.zeros((4, 5), np.int8)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: gemm(a, a, c), r"a has the shape \[4, 5\], b \[4, 5\], c \[4, 4\]"),
        (lambda: gemm(a, a.view(0, (20,)), c), r"b has the shape \[20\]; allowed: a matrix"),
        (lambda: gemm(c, c[:], gpu.zeros((4, 4), np.int32)), "c holds int32; allowed: float32"),
        (lambda: gemm(c, a[:, :4], c), "c overlaps a"),
        (lambda: gemm(a, a[:].T, c, bias=gpu.zeros(5)), r"bias has the shape \[5\]; allowed: \[4\]"),
        (lambda: syrk(a, gpu.zeros((5, 5))), r"c has the shape \[5, 5\]; allowed: \[4, 4\]"),
        (lambda: trsm(c, gpu.zeros((5, 4))), r"a has the shape \[4, 4\] and b \[5, 4\]"),
        (lambda: igemm(small, small.view(0, (5, 4)), c), "c holds float32; allowed: int32"),
        (lambda: igemm(a, a, gpu.zeros((4, 4), I32)), "a holds float32; allowed: int8"),
        (lambda: igemm(small, small.T, gpu.zeros((4, 4), np.int8), scale=2.0), "scale = 2.0; allowed: a number from"),
        (
            lambda: igemm(small, small.T, gpu.zeros((4, 4), np.int8)),
            "c holds int8, without a scale; allowed: int32",
        ),
        (
            lambda: igemm(small, small.T, gpu.zeros((4, 4), I32), scale=0.5),
            "c holds int32, with a scale",
        ),
        (lambda: igemm(small, small.T, gpu.zeros((4, 4), np.int8), accumulate=True, scale=0.5), "c holds no sums"),
        (lambda: igemm(small, small.T, gpu.zeros((4, 4), I32), zero=1), "zero = 1 without a scale"),
        (lambda: igemm(small, small.T, gpu.zeros((4, 4), I32), bias=gpu.zeros(5, I32)), r"bias has the shape \[5\]"),
        (lambda: requantise(gpu.zeros((4, 5), I32), 1.0, small), "scale = 1.0; allowed: a number from"),
        (lambda: requantise(gpu.zeros((4, 5), I32), 0.5, small, zero=128), "zero = 128; allowed: -128..127"),
        (
            lambda: requantise(gpu.zeros((4, 5), I32), 0.5, small, zero=1.5),  # type: ignore[arg-type]
            "requantise: zero = 1.5; allowed: a whole number",
        ),
        (lambda: requantise(gpu.zeros((4, 4), I32), 0.5, small), r"x has the shape \[4, 4\], out \[4, 5\]"),
    ]
    for work, found in refused:
        with pytest.raises(UsageError, match=found) as caught:
            work()
        assert "help: " in str(caught.value)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["pi3", "pi4", "pi5"])
def test_large_integer_products(name: str) -> None:
    with qpu.open_device(name) as gpu:
        for dtype, n in ((np.int8, 256), (np.int16, 300), (np.int8, 1024)):
            a, b = integers(1, dtype, n, n), integers(2, dtype, n, n)
            out = gpu.zeros((n, n), I32)
            igemm(gpu.array(a), gpu.array(b), out)
            exact = (a.astype(D) @ b.astype(D)).astype(np.int64)  # below 2**53
            np.testing.assert_array_equal(out.numpy(), wrapped(exact))
