"""The network of examples/lenet.py: a sample in the suite, all held-out images on every board as a soak."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture
def lenet(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("_common", "_png", "lenet"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("lenet")


def test_a_sample(lenet: Any) -> None:
    """The classes and, of int8, the bits of NumPy; a picture of the maps has no empty image."""
    weights, largest, digits, _ = lenet.load()
    x = lenet.upsampled(digits[:2])
    with qpu.open_device("pi5") as gpu:
        network = lenet.Network(gpu, weights, 2)
        found, want = network(x), lenet.reference(weights, x)
        assert np.abs(found - want[-1]).max() < 1e-4
        assert np.abs(network.y[1].numpy() - want[0]).max() < 1e-5
        assert lenet.sheet(network, x).reshape(2, 30, -1).std((1, 2)).min() > 20
        narrow = lenet.quantised(weights, largest)
        small = (np.rint(x * 255).astype(np.int64) + lenet.LOW).astype(np.int8)
        network = lenet.Network(gpu, narrow, 2)
        found, layers = network(small), lenet.reference_int8(narrow, small)
        assert np.array_equal(found, layers[-1])
        assert all(np.array_equal(network.y[n].numpy(), layers[m]) for n, m in ((1, 0), (3, 1), (4, 2), (5, 3)))


def test_the_references_agree_and_recognise(lenet: Any) -> None:
    weights, largest, digits, classes = lenet.load()
    x = lenet.upsampled(digits[:40])
    exact = lenet.reference(weights, x)[-1].argmax(1)
    narrow = lenet.quantised(weights, largest)
    small = np.rint(x * 255).astype(np.int64) + lenet.LOW
    assert (exact == classes[:40]).mean() > 0.9
    assert (lenet.reference_int8(narrow, small)[-1].argmax(1) == exact).mean() > 0.9


@pytest.mark.soak
@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_all_held_out_images(lenet: Any, board: str) -> None:
    with qpu.open_device(board) as gpu:
        row = lenet.work(gpu, 360, None)
    assert row["ok"] and row["wrong"] == 0 and row["f32_right"] > 0.96 and row["int8_right"] > 0.96
