"""Copy of a float32 vector on every QPU, bit for bit, checked against NumPy.

Examples:
    uv run examples/assembly/scopy.py --device all
    uv run examples/assembly/scopy.py --device pi4 --n 1000000 --json
"""

from __future__ import annotations

from typing import Any

import _above  # noqa: F401  # before what is there
import _common
import numpy as np
from _elementwise import Elementwise, check_length

from qpu.device import Device


def body(q: Any, inputs: list[Any], scalars: list[Any], out: Any) -> None:
    """One vector of 16."""
    q.mov(out, inputs[0])


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size. The words are random bits, NaNs among them, which a copy must not change."""
    check_length(gpu, n)
    x = np.random.default_rng(0).integers(0, 1 << 32, n, dtype=np.uint32)
    job = Elementwise(gpu, body, [x], [], np.zeros_like(x))
    seconds = _common.median_time(job.launch, lambda: job.out.array.fill(0))
    error, wrong = _common.difference(job.result(), x)
    return _common.result(
        gpu, "scopy", n=n, seconds=seconds, bytes=8 * n, max_abs_error=error, wrong=wrong, ok=wrong == 0
    )


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--n", type=int, default=10007, help="elements (default 10007)")
    options = parser.parse_args()
    n = _common.count_of(options)
    return _common.on_devices(options, lambda gpu: work(gpu, n))


if __name__ == "__main__":
    _common.main(run)
