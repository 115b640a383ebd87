"""Fill of memory with a 32-bit word on every QPU, checked against NumPy.

Examples:
    uv run examples/assembly/memset.py --device all
    uv run examples/assembly/memset.py --device pi4 --n 1000000 --value 0xdeadbeef --json
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
    q.mov(out, scalars[0])


def work(gpu: Device, n: int, value: int) -> dict[str, object]:
    """Run and check one size."""
    check_length(gpu, n)
    job = Elementwise(gpu, body, [], [value], np.full(n, value ^ 0xFFFFFFFF, np.uint32))
    seconds = _common.median_time(job.launch, lambda: job.out.array.fill(value ^ 0xFFFFFFFF))
    error, wrong = _common.difference(job.result(), np.uint32(value))
    return _common.result(
        gpu, "memset", n=n, seconds=seconds, bytes=4 * n, max_abs_error=error, wrong=wrong, ok=wrong == 0
    )


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--n", type=int, default=10007, help="elements (default 10007)")
    parser.add_argument(
        "--value", type=_common.word, default=0xDEADBEEF, help="word, 0 .. 0xffffffff (default 0xdeadbeef)"
    )
    options = parser.parse_args()
    n = _common.count_of(options)
    return _common.on_devices(options, lambda gpu: work(gpu, n, options.value))


if __name__ == "__main__":
    _common.main(run)
