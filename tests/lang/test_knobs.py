"""Knobs: each has an effect, and only `reassociate` changes a result."""

from __future__ import annotations

import numpy as np
import pytest

import qpu
from qpu.lang import Grid, In, In2, In3, Out, Out2, Out3, f32, i32, kernel
from qpu.lang.entry import Kernel

F, I = np.float32, np.int32  # noqa: E741  # as in NumPy's own examples


@kernel(march="y", coarsen=4)
def vertical(k: Grid, x: In2[f32], y: Out2[f32]) -> None:
    r, c = k.index(*y.shape)
    y[r, c] = x.clamp[r - 1, c] + x.clamp[r + 1, c] * 2.0 + x[r, c]


@kernel(march="y")
def solid(k: Grid, x: In3[i32], y: Out3[i32]) -> None:
    a, b, c = k.index(*y.shape)
    if (a + b + c) % 3 == 0:
        return
    y[a, b, c] = x[a, b, c] + 100 * a + 10 * b + c


@kernel
def constants(k: Grid, a: f32, b: f32, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    y[i] = x[i] + 1.5 + a - 2.25 + b - x[i] * 3.0 * a * 0.5


@kernel
def filtered(k: Grid, n: i32, w: In[f32], x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    acc = 0.0
    for j in range(n):
        acc += w[4 * j] * x[i] + w[4 * j + 1] + w[4 * j + 2] + w[4 * j + 3]
    y[i] = acc


@pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
@pytest.mark.parametrize(("board", "shape"), [("pi3", (5, 150)), ("pi4", (3, 15)), ("pi5", (5, 150)), ("pi4", (1, 1))])
def test_down_the_columns(board: str, shape: tuple[int, int]) -> None:
    x = np.arange(shape[0] * shape[1], dtype=F).reshape(shape)
    want = np.zeros(shape, F)
    vertical.python(x, want)
    with qpu.open_device(board, engine="reference") as gpu:
        y = gpu.zeros(shape)
        run = vertical(gpu.array(x), y)
        assert np.array_equal(y.numpy(), want)
        if gpu.isa is qpu.Isa.V3D71:  # less begins and ends
            rows = vertical.with_knobs(vertical.schedule._replace(march=None))
            assert run.stats.instructions < 0.9 * rows(gpu.array(x), y).stats.instructions
        s, o = np.arange(3 * 2 * 21, dtype=I).reshape(3, 2, 21), gpu.zeros((3, 2, 21), I)
        want3 = np.zeros(s.shape, I)
        solid.python(s, want3)
        solid(gpu.array(s), o)
        assert np.array_equal(o.numpy(), want3)


@pytest.mark.parametrize("board", ["pi3", "pi5"])
def test_sums_are_regrouped(board: str) -> None:
    x = np.linspace(-1, 1, 67, dtype=F)
    with qpu.open_device(board, engine="reference") as gpu:
        results, counts = [], []
        for k in (constants, kernel(reassociate=True)(constants.fn)):
            y = gpu.zeros(67)
            counts.append(k(0.5, 0.25, gpu.array(x), y).stats.instructions)
            results.append(y.numpy())
        assert counts[1] < counts[0]
        np.testing.assert_allclose(results[1], x + 1.5 + 0.5 - 2.25 + 0.25 - x * 0.75, atol=2e-6)


@pytest.mark.parametrize("isa", ["vc4", "v3d71"])
def test_a_knob_makes_another_program(isa: str) -> None:
    def words(k: Kernel, **knobs: object) -> tuple[int, ...]:
        return k.compile(isa, **knobs).words

    for knobs in ({"coarsen": 2}, {"reassociate": True}, *([{"threads": 4}] if isa != "vc4" else [])):
        assert words(constants, **knobs) != words(constants), knobs
    for knobs in ({"unroll": 2}, {"stream": "none"}, {"reassociate": True}):
        assert words(filtered, **knobs) != words(filtered), knobs
    assert words(vertical, march=None) != words(vertical)
