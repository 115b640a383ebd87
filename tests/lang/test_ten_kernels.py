"""The ten kernels of `ten_kernels` on the three boards, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpu
from qpu.device import Device
from tests.lang import ten_kernels as ten
from tests.lang.rig import script

pytestmark = [pytest.mark.every_board, pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")]
RANDOM = np.random.default_rng(21)


@pytest.mark.parametrize("name", ten.__all__)
def test_programs_break_no_rule(gpu: Device, name: str) -> None:
    assert getattr(ten, name).compile(gpu.isa).program.check() == []


def close(gpu: Device, got: Any, want: Any, magnitude: Any, roundings: float) -> None:
    """Within so many roundings of the magnitude: half a unit each, a whole one where sums truncate."""
    unit = 2.0**-23 if gpu.isa is qpu.Isa.VC4 else 2.0**-24
    assert (np.abs(got - want) <= unit * roundings * magnitude + 1e-37).all()


@pytest.mark.parametrize("n", [1, 15, 64, 65, 1000])
def test_saxpy(gpu: Device, n: int) -> None:
    x, y = RANDOM.uniform(-1, 1, (2, n)).astype(np.float32)
    by = gpu.array(y)
    ten.saxpy(1.5, gpu.array(x), by)
    want = 1.5 * x.astype(np.float64) + y
    close(gpu, by.numpy(), want, np.abs(x) * 1.5 + np.abs(y), 2)


@pytest.mark.parametrize("n", [1, 17, 300])
def test_soft_threshold(gpu: Device, n: int) -> None:
    x = RANDOM.uniform(-1, 1, n).astype(np.float32)
    y = gpu.zeros(n)
    ten.soft_threshold(0.25, gpu.array(x), y)
    want = np.sign(x) * np.maximum(np.abs(x.astype(np.float64)) - 0.25, 0)
    close(gpu, y.numpy(), want, np.abs(x), 1)


@pytest.mark.parametrize("n", [1, 100, 3000])
def test_dot(gpu: Device, n: int) -> None:
    x, y = RANDOM.uniform(-1, 1, (2, n)).astype(np.float32)
    part = gpu.zeros(16)
    ten.dot(gpu.array(x), gpu.array(y), part)
    want = np.dot(x.astype(np.float64), y)
    close(gpu, part.numpy().astype(np.float64).sum(), want, np.abs(x * y).sum(), n / 100 + 20)


@pytest.mark.parametrize("n", [1, 16, 100, 640, 1001])
def test_prefix_sum(gpu: Device, n: int) -> None:
    x = RANDOM.integers(-1000, 1000, n).astype(np.int32)
    for kernel in (ten.prefix_sum, *([ten.prefix_in_quads] if n % 64 == 0 else [])):
        y, totals = gpu.zeros(n, np.int32), gpu.zeros(5, np.int32)
        kernel.on(gpu, workers=5)(gpu.array(x), y, totals)
        if kernel is ten.prefix_in_quads:  # runs of whole blocks of 64
            each = (n // 64 + 4) // 5 * 64
            parts = [x[w * each : (w + 1) * each] for w in range(5)]
            assert np.array_equal(y.numpy(), np.concatenate([p.cumsum() for p in parts]))
            assert totals.numpy().tolist() == [p.sum() for p in parts]
            continue
        ten.add_offsets.on(gpu, workers=5)(y, totals)
        assert np.array_equal(y.numpy(), x.cumsum())


@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (3, 140)])
def test_blur(gpu: Device, shape: tuple[int, int]) -> None:
    src = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    dst = gpu.zeros(shape, np.uint8)
    ten.blur(gpu.array(src), dst)
    padded, weights = np.pad(src.astype(int), 2, mode="edge"), (1, 4, 6, 4, 1)
    total = sum(
        weights[r] * weights[c] * padded[r : r + shape[0], c : c + shape[1]] for r in range(5) for c in range(5)
    )
    assert np.array_equal(dst.numpy(), (total + 128) >> 8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 16, 32), (7, 20, 50)])
def test_gemm_tile(gpu: Device, shape: tuple[int, int, int]) -> None:
    m, p, n = shape
    a, b = RANDOM.uniform(-1, 1, (m, p)).astype(np.float32), RANDOM.uniform(-1, 1, (p, n)).astype(np.float32)
    c = gpu.zeros((m, n))
    ten.gemm_tile.on(gpu, workers=4)(gpu.array(a), gpu.array(b), c)
    close(gpu, c.numpy(), a.astype(np.float64) @ b, np.abs(a) @ np.abs(b), p + 2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 16, 16), (6, 30, 37)])
def test_gemm_narrow(gpu: Device, shape: tuple[int, int, int]) -> None:
    m, p, n = shape
    a = RANDOM.integers(-(2**15), 2**15, (m, p)).astype(np.int16)
    b = RANDOM.integers(-128, 128, (p, n)).astype(np.int8)
    c = gpu.zeros((m, n), np.int32)
    ten.gemm_narrow.on(gpu, workers=4)(gpu.array(a), gpu.array(b), c)
    assert np.array_equal(c.numpy(), a.astype(np.int32) @ b.astype(np.int32))


@pytest.mark.parametrize("n", [2, 32, 256])
def test_fft(gpu: Device, n: int) -> None:
    x = (RANDOM.uniform(-1, 1, n) + 1j * RANDOM.uniform(-1, 1, n)).astype(np.complex64)
    twiddle = np.exp(-2j * np.pi * np.arange(n // 2) / n).astype(np.complex64)
    a, b, w = gpu.array(x), gpu.empty(n, np.complex64), gpu.array(twiddle)
    m = 1
    while m < n:
        ten.fft_pass(a, w, b, m)
        a, b = b, a
        m *= 2
    want = np.fft.fft(x.astype(np.complex128))
    error = np.sqrt((np.abs(a.numpy() - want) ** 2).mean() / (np.abs(want) ** 2).mean())
    assert error < (1e-6 if gpu.isa is qpu.Isa.VC4 else 5e-7)


@pytest.mark.parametrize("n", [1, 17, 500])
def test_histogram(gpu: Device, n: int) -> None:
    x = RANDOM.integers(0, 256, n, dtype=np.uint8)
    bins = gpu.zeros(256, np.int32)
    ten.histogram(gpu.array(x), bins)
    assert np.array_equal(bins.numpy(), np.bincount(x, minlength=256))


def test_mandelbrot(gpu: Device) -> None:
    shape = (20, 24)
    out = gpu.zeros(shape, np.int32)
    ten.mandelbrot(-2.0, -1.5, 0.15, 40, out)
    want = script("examples/mandelbrot.py").reference(-2.0, -1.5, 0.15, shape, 40)
    differing = int((out.numpy() != want).sum())
    assert differing <= (10 if gpu.isa is qpu.Isa.VC4 else 0)  # truncated sums leave a little earlier or later
