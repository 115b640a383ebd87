"""Tests of the kernels of the package, for emulated boards and a real one."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from qpu.device import Device
from qpu.kernels import sgemm


def multiply(
    gpu: Device, shape: tuple[int, int, int], kernel: sgemm.Kernel, runs: int = 1, transposed: bool = False
) -> float:
    """Check one multiplication; host seconds of the fastest launch."""
    m, n, k = shape
    draw = np.random.default_rng(m + n + k)
    turn = -1 if transposed else 1
    a, b, c = (draw.uniform(-1, 1, s).astype(np.float32) for s in ((m, k)[::turn], (k, n)[::turn], (m, n)))
    times = []
    with sgemm.Sgemm(gpu, m, n, k, transa=transposed, transb=transposed, kernel=kernel) as job:
        job.load(a, b, c, 1.5, -0.5)
        for _ in range(runs):
            job.load_c(c)
            start = time.perf_counter()
            job.launch()
            times.append(time.perf_counter() - start)
        result = job.result()
    if transposed:
        a, b = a.T, b.T
    error = np.abs(result - sgemm.reference(1.5, a, b, -0.5, c))
    assert (error <= sgemm.error_bound(gpu.isa, 1.5, a, b, -0.5, c)).all()
    return min(times)


@pytest.mark.parametrize("kernel", sgemm.KERNELS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (16, 16, 16), (70, 65, 9), (33, 130, 50)], ids=str)
def test_sgemm(gpu: Device, shape: tuple[int, int, int], kernel: sgemm.Kernel) -> None:
    multiply(gpu, shape, kernel, transposed=shape[2] == 50)


@pytest.mark.parametrize("kernel", sgemm.KERNELS)
def test_sgemm_speed(gpu: Device, record_figure: Callable[..., None], kernel: sgemm.Kernel) -> None:
    size = 96 if gpu.emulated else 1024
    seconds = multiply(gpu, (size, size, size), kernel, 1 if gpu.emulated else 4)
    about = {"m": size, "n": size, "k": size, "kernel": kernel, "emulated": gpu.emulated}
    record_figure("sgemm", seconds, "s", **about)
    if not gpu.emulated:
        record_figure("sgemm", 2 * size**3 / seconds * 1e-9, "Gflop/s", **about)
