"""Copy of a float32 vector on every QPU, bit for bit, checked against NumPy.

Examples:
    uv run examples/scopy.py --device all
    uv run examples/scopy.py --device pi4 --n 1000000 --json
"""

from __future__ import annotations

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import Grid, In, Out, f32


@qpu.kernel
def copy(k: Grid, x: In[f32], y: Out[f32]) -> None:
    """y = x."""
    i = k.index()
    y[i] = x[i]


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size. The words are random bits, NaNs among them, which a copy must not change."""
    words = np.random.default_rng(0).integers(0, 1 << 32, n, dtype=np.uint32)
    x, y = gpu.array(words.view(np.float32)), gpu.zeros(n)
    seconds = _common.median_time(lambda: copy(x, y), lambda: y.array.fill(0))
    error, wrong = _common.difference(y.numpy().view(np.uint32), words)
    return _common.result(
        gpu, "scopy", n=n, seconds=seconds, bytes=8 * n, max_abs_error=error, wrong=wrong, ok=wrong == 0
    )


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 10007, _common.LARGEST))
