"""Signals, distances, k-means and bodies against NumPy; the boards take turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.errors import UsageError
from qpu.kernels import misc
from qpu.kernels.common.rounding import bound
from tests.kernels.turns import turns

F, N = np.float32, np.int32
RANDOM = np.random.default_rng(5)


@pytest.fixture(scope="module")
def boards() -> Iterator[dict[str, Device]]:
    opened = {name: qpu.open_device(name, engine="reference") for name in ("pi3", "pi4", "pi5")}
    yield opened
    for gpu in opened.values():
        gpu.close()


@pytest.mark.parametrize("board", turns(["pi3", "pi5"], 0))
def test_convolve(boards: dict[str, Device], board: str) -> None:
    gpu, x, w = boards[board], RANDOM.normal(size=40).astype(F), RANDOM.normal(size=6).astype(F)
    for mode in ("full", "same", "valid"):
        want = np.convolve(x.astype(float), w, mode)  # type: ignore[call-overload]  # a str
        out = gpu.zeros(len(want))
        misc.convolve(gpu.array(x), gpu.array(w), out, mode)
        limit = bound(gpu.isa, 7, np.convolve(abs(x).astype(float), abs(w), mode))  # type: ignore[call-overload]
        assert (np.abs(out.numpy() - want) <= limit).all()


@pytest.mark.parametrize("board", turns(["pi4", "pi3"], 0))
def test_distances(boards: dict[str, Device], board: str) -> None:
    gpu, x, y = boards[board], RANDOM.normal(size=(5, 3)).astype(F), RANDOM.normal(size=(20, 3)).astype(F)
    y[7] = x[2]
    out = gpu.zeros((5, 20))
    misc.distances(gpu.array(x), gpu.array(y), out)
    want = misc.reference_distances(x, y)
    assert (np.abs(out.numpy() - want) <= bound(gpu.isa, 16, want + 1e-3)).all() and out.numpy()[2, 7] == 0


@pytest.mark.parametrize("board", turns(["pi3", "pi5"], 1))
def test_kmeans(boards: dict[str, Device], board: str) -> None:
    gpu, x = boards[board], RANDOM.normal(size=(37, 2)).astype(F)
    centres = np.array([[0, 1], [1, -1], [99, 99]], F)
    labels, new = gpu.zeros(37, N), gpu.zeros((3, 2))
    misc.kmeans_step(gpu.array(x), gpu.array(centres), labels, new)
    near = misc.reference_distances(x, centres).argmin(1)
    assert np.array_equal(labels.numpy(), near)
    want = np.array([x[near == j].mean(0) if (near == j).any() else centres[j] for j in range(3)])
    assert np.abs(new.numpy() - want).max() < 1e-5


@pytest.mark.parametrize("board", turns(["pi4", "pi3"], 0))
def test_bodies(boards: dict[str, Device], board: str) -> None:
    gpu = boards[board]
    p, v = RANDOM.normal(size=(2, 3, 18)).astype(F)
    m = RANDOM.uniform(0.5, 1, 18).astype(F)
    bp, bv = gpu.array(p), gpu.array(v)
    misc.nbody_step(bp, bv, gpu.array(m), 0.01, 0.05)
    speed = v + 0.01 * misc.reference_accelerations(p, m, 0.05)
    assert np.abs(bv.numpy() - speed).max() < 2e-5 and np.abs(bp.numpy() - (p + 0.01 * speed)).max() < 2e-6


def test_refusals(boards: dict[str, Device]) -> None:
    gpu = boards["pi5"]
    x, y = gpu.zeros(8), gpu.zeros((3, 4))
    cases: list[tuple[Any, str]] = [
        (lambda: misc.convolve(x, gpu.zeros(3), gpu.zeros(8)), "out has the shape"),
        (lambda: misc.convolve(x, gpu.zeros(9), gpu.zeros(8)), "9 weights for 8 items"),
        (lambda: misc.convolve(x, gpu.zeros(3), x, "same"), "out overlaps x"),
        (lambda: misc.distances(y, gpu.zeros((3, 5)), gpu.zeros((3, 3))), "points of 4 and 5"),
        (lambda: misc.kmeans_step(y, gpu.zeros((2, 3)), gpu.zeros(3, N), gpu.zeros((2, 3))), "centres has the shape"),
        (lambda: misc.accelerations(y, gpu.zeros(4), gpu.zeros((3, 4)), 0), "softening = 0"),
    ]
    for call, found in cases:
        with pytest.raises(UsageError, match=found) as caught:
            call()
        assert "help: " in str(caught.value)
