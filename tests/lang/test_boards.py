"""Kernels on the emulated boards against NumPy and plain Python."""

from __future__ import annotations

import numpy as np
import pytest

import qpu
from qpu.device import Device
from tests.lang import kernels as ks

pytestmark = pytest.mark.every_board

V3D = ("pi4", "pi5")
BOARDS = ("pi3", *V3D)
SIZES = (1, 15, 16, 17, 64, 65, 300)


def draw(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + n).uniform(-2, 2, n).astype(np.float32)


@pytest.mark.parametrize("n", SIZES)
def test_saxpy(gpu: Device, n: int) -> None:
    x, y = draw(n), draw(n, 1)
    bx, by = gpu.array(x), gpu.array(y)
    ks.saxpy(2.0, bx, by)
    if gpu.isa is qpu.Isa.VC4:  # sums truncate
        np.testing.assert_allclose(by.numpy(), np.float32(2) * x + y, rtol=3e-7, atol=1e-6)
    else:
        assert np.array_equal(by.numpy(), np.float32(2) * x + y)


@pytest.mark.parametrize("n", SIZES)
def test_branches(gpu: Device, n: int) -> None:
    x = draw(n)
    bx, by = gpu.array(x), gpu.zeros(n)
    ks.soft(0.5, bx, by)
    t = np.float32(0.5)
    np.testing.assert_allclose(by.numpy(), np.where(x > t, x - t, np.where(x < -t, x + t, 0)), rtol=3e-7, atol=1e-7)


def test_loops_with_break_and_continue(gpu: Device) -> None:
    x = np.arange(40, dtype=np.int32) % 13
    out = gpu.zeros(40, np.int32)
    ks.leave(gpu.array(x), out)
    assert out.numpy().tolist() == [sum(j for j in range(n) if j < 7 and j % 2) for n in x]


def test_loop_with_a_condition_of_its_own_in_each_lane(gpu: Device) -> None:
    n = 200
    out, want = gpu.zeros(n, np.int32), np.zeros(n, np.int32)
    ks.mandelbrot(20, 0.15, out)
    ks.mandelbrot.python(20, 0.15, want)
    differing = int((out.numpy() != want).sum())
    assert differing <= (6 if gpu.isa is qpu.Isa.VC4 else 0)  # truncated sums leave a little earlier or later


def test_teams(gpu: Device) -> None:
    x, y = draw(1000), draw(1000, 5)
    part = gpu.zeros(64)
    ks.dot(gpu.array(x), gpu.array(y), part)
    assert abs(part.numpy().sum() - np.dot(x, y)) < 1e-3
    out = gpu.zeros(64)
    ks.norm(gpu.array(x), out)
    assert out.numpy().max() == np.abs(x).max()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 40), (4, 33)])
def test_two_axes(gpu: Device, shape: tuple[int, int]) -> None:
    source = draw(shape[0] * shape[1]).reshape(shape)
    target = gpu.zeros(shape)
    ks.blur(gpu.array(source), target)
    padded = np.pad(source, 1, mode="edge")
    want = sum(padded[a : a + shape[0], b : b + shape[1]] for a in range(3) for b in range(3)) * 0.125
    np.testing.assert_allclose(target.numpy(), want, rtol=1e-5, atol=1e-5)


def test_integers(gpu: Device) -> None:
    x = np.random.default_rng(3).integers(-1000, 1000, 70).astype(np.int32)
    y, want = gpu.zeros(70, np.int32), np.zeros(70, np.int32)
    ks.wrap(9, gpu.array(x), y)
    ks.wrap.python(9, x, want)
    assert np.array_equal(y.numpy(), want)


@pytest.mark.parametrize("board", V3D)
def test_bytes_and_atomics(board: str) -> None:
    with qpu.open_device(board, engine="reference") as device:
        x = np.arange(200, dtype=np.uint8)
        y = device.zeros(200, np.uint8)
        ks.bytes_up(device.array(x), y)
        assert np.array_equal(y.numpy(), np.minimum(x.astype(int) * 2 + 1, 255))
        values = np.random.default_rng(1).integers(0, 100, 333).astype(np.int32)
        bins = device.zeros(16, np.int32)
        ks.histogram(device.array(values), bins)
        assert np.array_equal(bins.numpy(), np.bincount(values & 15, minlength=16))


def test_programs_break_no_rule(gpu: Device) -> None:
    for kernel in (ks.saxpy, ks.soft, ks.mandelbrot, ks.dot, ks.leave, ks.blur, ks.norm, ks.wrap):
        assert kernel.compile(gpu.isa).program.check() == [], kernel


def test_both_engines(gpu: Device) -> None:
    with qpu.open_device(gpu.info.emulated or "pi5", engine="compiled") as fast:
        results = []
        for device in (gpu, fast):
            out = device.zeros(100, np.int32)
            ks.mandelbrot(10, 0.25, out)
            results.append(out.numpy())
        assert np.array_equal(*results)


def test_refusals_before_anything_is_submitted() -> None:
    with qpu.open_device("pi5", engine="reference") as a, qpu.open_device("pi4", engine="reference") as b:
        x, y = a.zeros(8), a.zeros(8)
        for args, words in (
            ((1.0, x, x), "overlap"),
            ((1.0, np.zeros(8, np.float32), y), "gpu.array(x)"),
            ((1.0, a.zeros(8, np.int32), y), "holds int32"),
            (("1", x, y), "is a str"),
            ((1.0, x), "needs 'y'"),
            ((1.0, x, y, y), "takes 3 arguments"),
            ((1.0, a.zeros((2, 4)), y), "2 axes"),
            ((1.0, b.zeros(8), y), "another device"),
        ):
            with pytest.raises(qpu.UsageError, match=words.replace("(", r"\(").replace(")", r"\)")):
                ks.saxpy(*args)
        with pytest.raises(qpu.UsageError, match="no parameter 'z'"):
            ks.saxpy(1.0, x, z=y)
