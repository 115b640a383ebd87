"""SAXPY, y = alpha * x + y in float32, on every QPU, checked against NumPy.

Examples:
    uv run examples/saxpy.py --device all
    uv run examples/saxpy.py --device pi5 --n 1000000 --json
"""

from __future__ import annotations

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import Grid, In, InOut, f32


@qpu.kernel
def saxpy(k: Grid, a: f32, x: In[f32], y: InOut[f32]) -> None:
    """y = a x + y."""
    i = k.index(y.size)
    y[i] = a * x[i] + y[i]


def work(gpu: Device, n: int, alpha: float) -> dict[str, object]:
    """Run and check one size."""
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, n)).astype(np.float32)
    left, right = gpu.array(x), gpu.zeros(n)

    def prepare() -> None:
        right.array[:] = y

    seconds = _common.median_time(lambda: saxpy(alpha, left, right), prepare)
    expected = np.float64(np.float32(alpha)) * x + y
    error = np.abs(right.numpy() - expected)
    # Two roundings; VideoCore IV's adder truncates, which may cost a whole unit instead of half of one.
    bound = 2.0**-23 * (np.abs(np.float64(alpha) * x) + np.abs(expected)) + 1e-37
    return _common.result(
        gpu, "saxpy", n=n, seconds=seconds, max_abs_error=float(error.max()), ok=bool((error <= bound).all())
    )


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--n", type=int, default=10007, help="elements (default 10007)")
    parser.add_argument("--alpha", type=_common.finite, default=1.5, help="a finite float32 (default 1.5)")
    options = parser.parse_args()
    n = _common.count_of(options)
    return _common.on_devices(options, lambda gpu: work(gpu, n, options.alpha))


if __name__ == "__main__":
    _common.main(run)
