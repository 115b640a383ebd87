"""Fill of memory with a 32-bit word on every QPU, checked against NumPy.

Examples:
    uv run examples/memset.py --device all
    uv run examples/memset.py --device pi4 --n 1000000 --value 0xdeadbeef --json
"""

from __future__ import annotations

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import Grid, Out, u32


@qpu.kernel
def fill(k: Grid, value: u32, out: Out[u32]) -> None:
    """The same word everywhere."""
    i = k.index()
    out[i] = value


def work(gpu: Device, n: int, value: int) -> dict[str, object]:
    """Run and check one size."""
    out = gpu.empty(n, np.uint32)
    seconds = _common.median_time(lambda: fill(value, out), lambda: out.array.fill(value ^ 0xFFFFFFFF))
    error, wrong = _common.difference(out.numpy(), np.uint32(value))
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
