"""Power iteration: the largest eigenvalue of a symmetric matrix and its vector, by the library's BLAS.

The vector is multiplied by the matrix and made one long again, until it turns no more. The matrix is a product with its
own transpose, made on the GPU as well.

Examples:
    uv run examples/power_iteration.py --device all
    uv run examples/power_iteration.py --n 200 --device pi5
"""

from __future__ import annotations

import _common
import numpy as np

from qpu.device import Device
from qpu.kernels import blas1, blas2
from qpu.kernels.gemm import gemm

STEPS = 20


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check a matrix of n x n."""
    random = np.random.default_rng(1)
    direction = random.normal(size=n)
    host = (random.normal(size=(n, n)) / n + np.outer(direction, direction) / n).astype(np.float32)
    half, matrix = gpu.array(host), gpu.empty((n, n))
    gemm(half, half.T, matrix)
    x, y = gpu.array(np.ones(n, np.float32)), gpu.empty(n)
    values: list[float] = []

    def iterate() -> None:
        for _ in range(STEPS):
            blas2.gemv(1.0, matrix, x, 0.0, y)
            values.append(blas1.nrm2(y))
            blas1.scal(1.0 / values[-1], y)
            blas1.copy(y, x)

    seconds = _common.median_time(iterate, lambda: x.array.fill(1))
    wide = host.astype(np.float64)
    wanted = float(np.linalg.eigvalsh(wide @ wide.T)[-1])
    error = abs(values[-1] - wanted) / wanted
    return _common.result(gpu, "power_iteration", n=n, eigenvalue=values[-1], seconds=seconds, max_abs_error=error,
                          ok=error <= 1e-5)  # fmt: skip


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 64, 512))
