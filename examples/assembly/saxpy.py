"""SAXPY, y = alpha * x + y in float32, on every QPU, checked against NumPy.

Examples:
    uv run examples/assembly/saxpy.py --device all
    uv run examples/assembly/saxpy.py --device pi5 --n 1000000 --json
"""

from __future__ import annotations

from typing import Any

import _above  # noqa: F401  # before what is there
import _common
import numpy as np
from _elementwise import Elementwise, check_length

from qpu.device import Device


def body(q: Any, inputs: list[Any], scalars: list[Any], out: Any) -> None:
    """One vector of 16; the same lines on all three instruction sets."""
    x, y = inputs
    q.fmul(x, x, scalars[0])
    q.fadd(out, x, y)


def work(gpu: Device, n: int, alpha: float) -> dict[str, object]:
    """Run and check one size."""
    check_length(gpu, n)
    random = np.random.default_rng(0)
    x, y = (random.uniform(-1, 1, n).astype(np.float32) for _ in range(2))
    job = Elementwise(gpu, body, [x, y], [alpha], y)
    seconds = _common.median_time(job.launch, lambda: None)
    expected = np.float64(np.float32(alpha)) * x + y
    error = np.abs(job.result() - expected)
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
