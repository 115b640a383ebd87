"""Sums of many elements: their error, and that nothing but the shape decides about their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpu

F = np.float32
BOUND = {"pi3": 4e-5, "pi4": 2e-5, "pi5": 2e-5}


def error(xp: Any, data: Any) -> float:
    """Of the sum, as a part of the sum of magnitudes."""
    found = float(xp.sum(xp.asarray(data)))
    wide = data.astype(np.float64)
    return float(abs(found - wide.sum()) / np.abs(wide).sum())


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
@pytest.mark.parametrize("n", [1 << 17, pytest.param(1 << 24, marks=pytest.mark.soak)])
def test_error_of_sums(device: Any, board: str, n: int) -> None:
    """All of one sign, which VideoCore IV's truncation hits hardest, and of both signs."""
    rng = np.random.default_rng(0)
    xp = device(board).xp
    bound = BOUND[board] if n >= 1 << 24 else BOUND[board] / 4
    assert error(xp, rng.uniform(0.5, 1, n).astype(F)) <= bound
    if n >= 1 << 24:
        assert error(xp, rng.standard_normal(n).astype(F)) <= bound


def test_bits_depend_on_the_shape_alone(device: Any) -> None:
    """Pi 4 and Pi 5, and fewer QPUs: whole sums, along rows and along columns."""
    data = np.random.default_rng(1).standard_normal((300, 170)).astype(F)
    found = []
    with qpu.open_device("pi5,slices=1") as small:
        for gpu in (device("pi4"), device("pi5"), small):
            x = gpu.xp.asarray(data)
            found.append([gpu.xp.sum(x, axis=axis).numpy().tobytes() for axis in (None, 0, 1)])
    assert found[0] == found[1] == found[2]
