"""What expressions cost: launches, bytes and instructions beside a kernel written by hand, Python's time, memory."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.array.memory import DeviceMemory
from qpu.device import Device
from qpu.lang import Grid, In, Out, abs, f32  # of kernels

F = np.float32


@qpu.kernel
def _by_hand(k: Grid, x: In[f32], y: In[f32], out: Out[f32]) -> None:
    i = k.index()
    out[i] = abs((x[i] * y[i] + x[i]) * y[i] - x[i]) * 0.5


def chain(xp: Any, x: Any, y: Any) -> Any:
    """Six functions."""
    return xp.abs((x * y + x) * y - x) * 0.5


def moved(gpu: Device) -> tuple[int, int]:
    stats: Any = gpu.stats
    return stats.instructions, sum(
        getattr(stats, f"{unit}_{way}_bytes") for unit in ("tmu", "dma") for way in ("read", "write")
    )


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
@pytest.mark.parametrize("n", [64 * 800 + 5, pytest.param(10**6, marks=pytest.mark.soak)])
def test_a_chain_costs_what_a_kernel_costs(device: Any, board: str, n: int) -> None:
    gpu = device(board)
    xp = gpu.xp
    rng = np.random.default_rng(0)
    x, y = (xp.asarray(rng.uniform(0.5, 1, n).astype(F)) for _ in range(2))
    out = gpu.empty(n)
    _by_hand(x, y, out)
    instructions, _ = moved(gpu)
    found = chain(xp, x, y)
    before = xp._memory.launches
    found.evaluate()
    assert xp._memory.launches == before + 1
    used, bytes_ = moved(gpu)
    np.testing.assert_array_equal(found.numpy(), out.numpy())
    assert used <= 1.3 * instructions
    assert bytes_ <= 1.05 * 3 * 4 * n


class Stop(Exception):
    """Instead of a launch."""


@pytest.fixture
def without_launch(device: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that does everything for a repeated expression but launch it."""
    xp = device("pi5").xp
    x, y = xp.ones(100), xp.ones(100)
    chain(xp, x, y).evaluate()

    def stop(*_: Any) -> None:
        raise Stop

    monkeypatch.setattr(DeviceMemory, "start", stop)

    def work() -> None:
        try:
            chain(xp, x, y).evaluate()
        except Stop:
            pass

    return work


def test_calls_before_a_launch(without_launch: Any) -> None:
    """A repeated expression of six operations: calls of Python's functions; benchmarks/arrays.py measures the time."""
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        without_launch()
    finally:
        sys.setprofile(None)
    assert calls <= 110


def test_no_buffer_is_left(gpu: Device) -> None:
    leak(gpu, 300)


@pytest.mark.soak
def test_no_buffer_is_left_of_many(gpu: Device) -> None:
    leak(gpu, 100_000)


def leak(gpu: Device, count: int) -> None:
    xp = gpu.xp
    x = xp.ones(64)
    chain(xp, x, x + 1).numpy()
    gc.collect()
    before = len(xp._memory.pool._bos)
    for n in range(count):
        y = chain(xp, x, x + n)
        if n % 3 == 0:
            y.evaluate()
    del y
    gc.collect()
    assert len(xp._memory.pool._bos) - before <= 4
    assert len(x._node.storage.readers) < 200
