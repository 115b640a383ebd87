"""Tests of the parts that the families of the library share."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest

import qpu
import qpu.kernels
from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import device, operand, part, same_shape, separate
from qpu.kernels.common.rounding import bound, unit
from qpu.kernels.gemm import gemm
from qpu.kernels.sort import sort
from qpu.lang import Grid, In, Out, f32, kernel

F = np.float32


@kernel
def twice(k: Grid, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    y[i] = 2 * x[i]


def test_operands_are_buffers_and_parts_of_them() -> None:
    with qpu.open_device("pi5") as gpu:
        x = gpu.array(np.arange(24, dtype=F).reshape(4, 6))
        assert operand("x", x, F, 2).shape == (4, 6)
        assert operand("x", x[1:], F, 2).shape == (3, 6)
        some = operand("x", part(x, (2, 3), 5), (np.int32, F), 2)
        assert (some.shape, some.offset) == ((2, 3), 20)
        assert part(some, 2, 4).offset == 36
        assert device(a=operand("a", x, F), b=some) is gpu
        assert same_shape(a=some, b=part(x, (2, 3))) == (2, 3)
        separate("y", part(x, 4), x=part(x, 4, 4))
        separate("y", part(x, 4), same=True, x=part(x, 4))


def test_wrong_operands_are_refused() -> None:
    with qpu.open_device("pi5") as gpu, qpu.open_device("pi5") as other:
        x = gpu.array(np.zeros((4, 6), F))
        closed = gpu.zeros(4)
        closed.close()
        for work, found in (
            (lambda: operand("x", np.zeros(3, F), F), "x is a ndarray; allowed: device memory"),
            (lambda: operand("x", x, np.int32), "x holds float32; allowed: int32"),
            (lambda: operand("x", x, F, 1), r"x has the shape \[4, 6\]; allowed: 1 axis"),
            (lambda: operand("x", x.view(4), F), "x begins 4 bytes into"),
            (lambda: operand("x", closed, F), "x is closed"),
            (lambda: part(x, 10, 20), "elements 20..29 of an array of 24"),
            (lambda: part(x, 1, -1), "elements -1..-1"),
            (lambda: same_shape(a=part(x, 3), b=part(x, 4)), r"a has the shape \[3\] and b \[4\]"),
            (lambda: separate("y", part(x, 4), x=part(x, 4, 3)), "y overlaps x"),
            (lambda: separate("y", part(x, 4), x=part(x, 4)), "y overlaps x"),
            (lambda: device(a=part(x, 1), b=part(other.zeros(1), 1)), "b belongs to another device than a"),
        ):
            with pytest.raises(UsageError, match=found) as caught:
                work()
            assert "help: " in str(caught.value)


def test_jobs_run_in_order_and_give_their_memory_back() -> None:
    @entry
    def four_times(gpu: qpu.Device, x: object, y: object) -> object:
        with Jobs(gpu) as jobs:
            seen.append(jobs.scratch(20))
            jobs.add(twice, x, seen[-1])
            jobs.add(twice, seen[-1], y)
            return jobs.run()

    seen: list[qpu.Buffer] = []
    with qpu.open_device("pi4") as gpu:
        x, y = gpu.array(np.arange(20, dtype=F)), gpu.zeros(20)
        assert len(four_times(gpu, x, y).launches) == 2  # type: ignore[attr-defined]  # a Run
        np.testing.assert_array_equal(y.numpy(), 4 * np.arange(20))
        assert seen[0].closed
        with pytest.raises(UsageError) as caught:
            four_times(gpu, x, 3)
        assert seen[1].closed
        frames = [f.name for f in caught.traceback]
        assert frames[:2] == ["test_jobs_run_in_order_and_give_their_memory_back", "called"] and len(frames) == 2


def test_bounds_grow_with_the_operations() -> None:
    assert (unit(Isa.V3D42), unit(Isa.VC4)) == (2.0**-24, 2.0**-23)
    assert bound(Isa.V3D71, 3, 2.0) == pytest.approx(6 * 2.0**-24, rel=1e-6)
    assert bound(Isa.VC4, 1, [0.0])[0] == 2.0**-126


WRONG: dict[str, tuple[object, ...]] = {
    "bool": ("no", 1, None, np.ones(2, bool)),
    "float": ("1", None, True, 1e39, 10**400),
    "int": ("1", None, True, 1.0),
}


def test_options_and_numbers_of_each_function_are_checked_under_its_name() -> None:
    seen = set()
    for module in pkgutil.walk_packages(qpu.kernels.__path__, "qpu.kernels."):
        for name, function in vars(importlib.import_module(module.name)).items():
            if getattr(function, "__code__", None) is not gemm.__code__ or function.__module__ != module.name:
                continue  # not made by `entry`
            kinds = {p: a for p, a in function.__annotations__.items() if p != "return"}
            fine = {p: {"bool": np.False_, "float": F(1), "int": np.int8(1)}.get(a) for p, a in kinds.items()}
            for p, a in kinds.items():
                for wrong in WRONG.get(a, ()):
                    with pytest.raises(UsageError, match=rf"{name}: {p} = .*; allowed: .*\n  help: "):
                        function(**{**fine, p: wrong})
                    seen.add(f"{name} {p}")
    assert {
        "gemm relu",
        "axpy alpha",
        "sgemm transa",
        "softmax logarithm",
        "sort descending",
        "gaussian sigma",
        "fft axis",
        "conv2d groups",
    } <= seen


def test_options_may_be_those_of_numpy() -> None:
    with qpu.open_device("pi4") as gpu:
        a, c = gpu.array(-np.eye(2, dtype=F)), gpu.zeros((2, 2))
        gemm(a, a, c, alpha=np.float64(-1), relu=np.True_)  # type: ignore[arg-type]  # as NumPy makes them
        np.testing.assert_array_equal(c.numpy(), 0)
        sort(part(a, 4), part(c, 4), np.True_)  # type: ignore[arg-type]  # as NumPy makes them
        np.testing.assert_array_equal(c.numpy().ravel(), [0, 0, -1, -1])
