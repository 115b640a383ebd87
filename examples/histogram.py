"""A histogram of bytes: lanes add to memory that they share, by atomics.

Examples:
    uv run examples/histogram.py --device all
"""

from __future__ import annotations

import warnings

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import Grid, In, InOut, PerformanceNote, i32, u8

warnings.simplefilter("ignore", PerformanceNote)  # VideoCore IV has no atomics: each lane waits for the mutex


@qpu.kernel(coarsen=1)
def histogram(k: Grid, x: In[u8], bins: InOut[i32]) -> None:
    """The items' number is that of x: without it, it would be that of the first output."""
    i = k.index(x.size)
    bins.atomic_add(x[i], 1)


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size."""
    values = np.random.default_rng(0).integers(0, 256, n, dtype=np.uint8)
    x, bins = gpu.array(values), gpu.zeros(256, np.int32)
    seconds = _common.median_time(lambda: histogram(x, bins), lambda: bins.array.fill(0))
    error, wrong = _common.difference(bins.numpy(), np.bincount(values, minlength=256))
    return _common.result(gpu, "histogram", n=n, seconds=seconds, max_abs_error=error, wrong=wrong, ok=wrong == 0)


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 1000, 1 << 20))
