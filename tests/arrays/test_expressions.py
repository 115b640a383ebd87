"""Random expressions against NumPy: any order of evaluation, views, writing and reductions in between."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qpu.device import Device

F = np.float32
KINDS = ["add", "sub", "mul", "neg", "abs", "max", "where", "slice", "sum", "evaluate", "write"]
PROGRAMS = 64  # of each board, with new numbers each time: their kernels are compiled once
SHAPES = [(7,), (33,), (3, 1), (3, 20), (1, 20), ()]


class Pair:
    """An array of the device, what NumPy makes of the same in float64, and a bound of the difference.

    size: of the largest intermediate magnitude, which the bound grows with.
    """

    def __init__(self, x: Any, y: Any, bound: float) -> None:
        self.x, self.y, self.bound = x, np.asarray(y, np.float64), bound

    @property
    def size(self) -> float:
        return float(np.abs(self.y).max()) if self.y.size else 0.0


def binary(name: str, a: Pair, b: Pair, eps: float) -> Pair:
    x = getattr(a.x, f"__{name}__")(b.x)
    y = getattr(a.y, f"__{name}__")(b.y)
    if name == "mul":
        bound = a.size * b.bound + b.size * a.bound + a.bound * b.bound
    else:
        bound = a.bound + b.bound
    pair = Pair(x, y, bound)
    pair.bound += eps * (pair.size + (a.size + b.size if name != "mul" else 0))
    return pair


Pick = Callable[[Sequence[Any]], Any]


def step(pick: Pick, pairs: list[Pair], eps: float) -> None:
    """One more array, or a write."""
    kind = pick(KINDS)
    a = pick(pairs)
    if kind in ("add", "sub", "mul", "max", "where"):
        fitting = [p for p in pairs if _fit(p, a)]
        b = pick(fitting)
    xp = a.x.__array_namespace__()
    if kind in ("add", "sub", "mul"):
        made = binary(kind, a, b, eps)
        if made.size < 1e6:
            pairs.append(made)
    elif kind == "neg":
        pairs.append(Pair(-a.x, -a.y, a.bound))
    elif kind == "abs":
        pairs.append(Pair(abs(a.x), abs(a.y), a.bound))
    elif kind == "max":
        pairs.append(Pair(xp.maximum(a.x, b.x), np.maximum(a.y, b.y), max(a.bound, b.bound)))
    elif kind == "where":
        mask = np.arange(a.y.size).reshape(a.y.shape) % 2 == 0
        pairs.append(Pair(xp.where(xp.asarray(mask), a.x, b.x), np.where(mask, a.y, b.y), max(a.bound, b.bound)))
    elif kind == "slice" and a.y.ndim:
        key = pick([slice(None, None, -1), slice(0, 2), slice(1, None)])
        pairs.append(Pair(a.x[key] * 1.0, a.y[key].copy(), a.bound))  # not a view, which would see later writes
    elif kind == "sum" and a.y.ndim:
        axis = pick([None, *range(a.y.ndim)])
        n = a.y.size
        total = float(np.abs(a.y).sum()) + n * a.bound
        pairs.append(Pair(xp.sum(a.x, axis=axis), a.y.sum(axis=axis), n * a.bound + eps * 8 * total))
    elif kind == "evaluate":
        a.x.evaluate()
    elif kind == "write" and a.y.ndim and a.y.shape[0] > 1:
        value = pick(range(-3, 4))
        a.x[:1] = float(value)
        a.y[:1] = value


def _fit(a: Pair, b: Pair) -> bool:
    try:
        np.broadcast_shapes(a.y.shape, b.y.shape)
    except ValueError:
        return False
    return a.y.size + b.y.size > 0


def run(gpu: Device, pick: Pick, seed: int, steps: int) -> int:
    """Two to four arrays, some steps, and all of them compared in any order; how many there were."""
    eps = 2.0**-22 if gpu.isa == "vc4" else 2.0**-23
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(pick(range(2, 5))):
        y = rng.uniform(-2, 2, pick(SHAPES)).astype(F)
        pairs.append(Pair(gpu.xp.asarray(y), y, 0.0))
    for _ in range(steps):
        step(pick, pairs, eps)
    left = list(pairs)
    while left:
        pair = left.pop(pick(range(len(left))))
        found = pair.x.numpy()
        assert found.shape == pair.y.shape
        assert np.all(np.abs(found - pair.y) <= pair.bound + 1e-30)
    return len(pairs)


HEALTH = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


@settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=HEALTH)
@given(data=st.data())
def test_random_expressions(gpu: Device, data: st.DataObject) -> None:
    run(gpu, lambda options: data.draw(st.sampled_from(options)), data.draw(st.integers(0, 5)), 6)


@pytest.mark.soak
@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_many_random_expressions(device: Any, board: str) -> None:
    """10,000 on the three boards: each a program of ten steps over new numbers, all of its arrays compared."""
    base, count = random.randrange(1 << 32), 0

    @settings(max_examples=3334, deadline=None, database=None, suppress_health_check=HEALTH)
    @given(number=st.integers(0, PROGRAMS - 1), seed=st.integers(0, 1 << 32))
    def work(number: int, seed: int) -> None:
        nonlocal count
        count += run(device(board), random.Random(base + number).choice, seed, 10)

    print(f"programs {base} to {base + PROGRAMS - 1}")
    work()
    print(f"{count} arrays compared")
