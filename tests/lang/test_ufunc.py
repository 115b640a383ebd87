"""`ufunc`: broadcasting, numbers, `out=`, `where=`, `reduce`, refusals, kernels that call one."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.errors import CompileError
from qpu.lang import Grid, In, Out, exp, f16, f32, i32, kernel, maximum, u8, ufunc, where

pytestmark = pytest.mark.every_board

F, I = np.float32, np.int32  # noqa: E741  # as in NumPy's own examples
BOARDS = ("pi3", "pi4", "pi5")


@ufunc
def soft(x: f32, t: f32) -> f32:
    """Soft threshold."""
    if x > t:
        return x - t
    if x < -t:
        return x + t
    return f32(0)


@ufunc
def muladd(a: i32, b: i32, c: i32) -> i32:
    return a * b + c


@ufunc
def larger(a: i32, b: i32) -> bool:
    return a > b


@ufunc
def widen(a: u8, b: f16) -> f32:
    return a * b


@ufunc(identity=0)
def add(a: i32, b: i32) -> i32:
    return a + b


@ufunc(identity=float("-inf"))
def most(a: f32, b: f32) -> f32:
    return maximum(a, b)


@ufunc(identity=0.0)
def total(a: f32, b: f32) -> f32:
    return a + b


def soft_of(x: np.ndarray, t: Any) -> np.ndarray:
    return np.where(x > t, x - t, np.where(x < -t, x + t, 0)).astype(F)


def integers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-50, 50, shape).astype(I)


SHAPES = [
    ((40,), (40,), (40,)),
    ((3, 5), (3, 5), (3, 5)),
    ((3, 5), (5,), (1, 5)),
    ((3, 1), (5,), (3, 5)),
    ((4, 1, 6), (1, 3, 1), (4, 3, 6)),
    ((2, 3, 4), (3, 1), (1,)),
    ((1,), (1,), (1,)),
    ((2, 1, 3, 1, 17), (4, 1, 5, 1), (1, 1, 1, 1, 1)),
    ((2, 1, 2, 1, 3), (1, 2, 1, 2, 1), (2, 2, 2, 2, 3)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_broadcasting(gpu: Device, shapes: Any) -> None:
    a, b, c = (integers(s, n) for n, s in enumerate(shapes))
    got = muladd(gpu.array(a), gpu.array(b), gpu.array(c))
    assert got.shape == np.broadcast_shapes(*shapes) and np.array_equal(got.numpy(), a * b + c)


def test_arrays_and_numbers(gpu: Device) -> None:
    x = np.linspace(-2, 2, 50, dtype=F)
    bx = gpu.array(x)
    for t in (0.5, np.float32(0.5), np.float64(0.5)):
        assert np.allclose(soft(bx, t).numpy(), soft_of(x, F(0.5)), atol=1e-6)
    assert np.allclose(soft(1.5, bx).numpy(), soft_of(F(1.5), x), atol=1e-6)
    assert soft(1.5, 0.5) == 1.0 and soft(-2, 1) == -1.0 and muladd(2, 3, 4) == 10 and larger(2, 1) is True
    assert soft.__name__ == "soft" and soft.__doc__ == "Soft threshold." and repr(soft) == "<ufunc soft>"


def test_results_of_conditions_and_narrow_types(gpu: Device) -> None:
    a, b = integers((30,)), integers((30,), 1)
    got = larger(gpu.array(a), gpu.array(b))
    assert got.dtype == np.dtype(bool) and np.array_equal(got.numpy(), a > b)
    x, y = np.arange(30, dtype=np.uint8), np.linspace(0, 2, 30).astype(np.float16)
    assert np.allclose(widen(gpu.array(x), gpu.array(y)).numpy(), x * y.astype(F), rtol=1e-6)


def test_out(gpu: Device) -> None:
    a, b = integers((4, 9)), integers((9,), 1)
    ba, bb = gpu.array(a), gpu.array(b)
    out = gpu.zeros((4, 9), I)
    assert muladd(ba, bb, 1, out=out) is out and np.array_equal(out.numpy(), a * b + 1)
    assert muladd(ba, bb, 1, out=ba) is ba and np.array_equal(ba.numpy(), a * b + 1), "in place"


def test_where(gpu: Device) -> None:
    a, b = integers((4, 9)), integers((4, 9), 1)
    mask = a > b
    out = gpu.array(np.full((4, 9), 7, I))
    muladd(gpu.array(a), 2, gpu.array(b), out=out, where=gpu.array(mask))
    assert np.array_equal(out.numpy(), np.where(mask, a * 2 + b, 7))
    new = muladd(gpu.array(a), 2, 1, where=gpu.array(mask[0]))
    assert np.array_equal(new.numpy(), np.where(mask[0], a * 2 + 1, 0))


@pytest.mark.parametrize("shape", [(1,), (15,), (16,), (17,), (33, 31), (2, 3, 500)])
def test_reduce(gpu: Device, shape: tuple[int, ...]) -> None:
    a = integers(shape)
    assert add.reduce(gpu.array(a)) == a.sum()
    x = np.random.default_rng(3).normal(size=shape).astype(F) - 10
    assert most.reduce(gpu.array(x)) == x.max()
    assert abs(total.reduce(gpu.array(x)) - x.astype(float).sum()) <= 1e-5 * np.abs(x).sum()


def test_a_reduction_is_the_same_on_every_number_of_qpus() -> None:
    x = np.random.default_rng(4).normal(size=5000).astype(F)
    found = set()
    for board in ("pi4", "pi5", "pi5,slices=1"):
        with qpu.open_device(board, engine="reference") as device:
            found.add(float(total.reduce(device.array(x))))
    assert len(found) == 1


def test_inside_a_kernel(gpu: Device) -> None:
    @kernel
    def k(k: Grid, x: In[f32], y: Out[f32]) -> None:
        i = k.index()
        y[i] = soft(x[i], 0.5) + where(x[i] > 1.0, 1.0, 0.0)

    x = np.linspace(-2, 2, 40, dtype=F)
    y = gpu.zeros(40)
    k(gpu.array(x), y)
    assert np.allclose(y.numpy(), soft_of(x, F(0.5)) + (x > 1), atol=1e-6)


def test_one_kernel_for_each_pattern(gpu: Device) -> None:
    own = ufunc(muladd.__qpu_function__)
    for shape in ((8,), (2, 4), (2, 2, 2)):
        a = gpu.array(integers(shape))
        own(a, a, a)
    assert len(own._kernels) == 1
    own(a, 1, a)
    assert len(own._kernels) == 2


def test_it_travels() -> None:
    again = pickle.loads(pickle.dumps(most))
    with qpu.open_device("pi5", engine="reference") as device:
        x = np.arange(20, dtype=F)
        assert again.reduce(device.array(x)) == 19 and again(device.array(x), 7.0).numpy().min() == 7
    assert again.identity == most.identity and again.types == most.types


@ufunc
def free(x, t):  # type: ignore[no-untyped-def]  # what it is called with decides
    return maximum(x - t, 0)


@ufunc
def ratio(x, y):  # type: ignore[no-untyped-def]
    return x / y


@ufunc(identity=0)
def plus(a, b):  # type: ignore[no-untyped-def]
    return a + b


def test_without_annotations(gpu: Device) -> None:
    x, n = np.linspace(-2, 2, 40, dtype=F), np.arange(40, dtype=I)
    assert np.allclose(free(gpu.array(x), 0.5).numpy(), np.maximum(x - F(0.5), 0), atol=1e-6)
    got = free(gpu.array(n), 5)
    assert got.dtype == np.dtype(I) and np.array_equal(got.numpy(), np.maximum(n - 5, 0))
    assert free(gpu.array(n), 0.5).dtype == np.dtype(F), "a float among the numbers makes floats"
    assert ratio(gpu.array(n), gpu.array(n + 1)).dtype == np.dtype(F)
    assert plus.reduce(gpu.array(n)) == n.sum() and plus.reduce(gpu.array(x)) == pytest.approx(0, abs=1e-4)
    assert free(3, 1) == 2 and ratio(1, 2) == 0.5


def refuse(gpu: Device) -> list[tuple[Any, str]]:
    x, i, bits = gpu.zeros(8), gpu.zeros(8, I), gpu.zeros(8, np.uint8)
    return [
        (lambda: soft(x), "it takes 2 arguments, 1 are given"),
        (lambda: soft(i, 1.0), "argument 1 holds int32"),
        (lambda: soft(np.zeros(8, F), 1.0), "argument 1 is a ndarray"),
        (lambda: soft(x, "1"), "argument 2 is a str"),
        (lambda: soft(x, gpu.zeros(7)), r"shapes \(8,\), \(7,\) cannot be broadcast"),
        (lambda: soft(x, 1.0, out=gpu.zeros(7)), r"out is float32 of shape \(7,\)"),
        (lambda: soft(x, 1.0, out=i), "out is int32"),
        (lambda: soft(x, 1.0, out=3), "out is a int"),
        (lambda: soft(x, 1.0, where=bits), "where is not an array of truth values"),
        (lambda: soft(x, 1e39), "beyond f32"),
        (lambda: muladd(i, 1.5, i), "not an integer"),
        (lambda: soft.reduce(x), "has no reduce"),
        (lambda: add.reduce(x), "holds float32"),
        (lambda: ufunc(identity=0)(larger.__qpu_function__).reduce(i), "does not join two values"),
    ]


def test_refusals(gpu: Device) -> None:
    for call, words in refuse(gpu):
        with pytest.raises(qpu.UsageError, match=words) as caught:
            call()
        assert "help:" in str(caught.value) or "allowed:" in str(caught.value)


def test_functions_without_a_name_of_their_own(gpu: Device) -> None:
    def function(a, b):  # type: ignore[no-untyped-def]  # as what kernels call it
        return a + b

    x = gpu.array(np.arange(3, dtype=F))
    assert ufunc(lambda a, b: a + b)(x, x).numpy().tolist() == ufunc(function)(x, x).numpy().tolist() == [0, 2, 4]


def test_wrong_functions() -> None:
    @ufunc
    def untyped(x: str, t: int) -> f32:
        return x

    @ufunc
    def wrong(x: f32) -> f32:
        return exp(x) + missing  # type: ignore[name-defined]  # noqa: F821  # on purpose

    with pytest.raises(CompileError, match="'xs' takes any number of arguments"):
        ufunc(lambda *xs: xs[0])(1.0)
    with pytest.raises(CompileError) as caught:
        untyped(1, 2)
    assert [d.rule for d in caught.value.diagnostics] == ["lang-type", "lang-type"]
    with qpu.open_device("pi5", engine="reference") as device, pytest.raises(CompileError) as caught:
        wrong(device.zeros(3))
    loc = caught.value.diagnostics[0].loc
    assert loc is not None and loc.file == __file__ and "missing" in str(caught.value)
    with pytest.raises(qpu.UsageError):
        ufunc(3)  # type: ignore[call-overload]
