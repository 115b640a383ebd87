"""Sum of a long float32 vector in two launches: a sum for each worker, then the sum of these sums.

Examples:
    uv run examples/summation.py --device all
    uv run examples/summation.py --device pi5 --n 1000000 --json
"""

from __future__ import annotations

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import In, Out, Team, f32

WORKERS = 64
"""On every board: the order of additions, and so the result's last bits, do not depend on the number of QPUs."""


@qpu.kernel
def sums(k: Team, x: In[f32], part: Out[f32]) -> None:
    """Each worker goes through its items, 16 lanes at a time, and adds its lanes in the end."""
    total = f32(0)
    for i in k.items(x.size):
        total += x[i]
    part[k.worker] = k.sum(total)


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size."""
    values = np.random.default_rng(0).uniform(-1, 1, n).astype(np.float32)
    x, partial, total = gpu.array(values), gpu.zeros(WORKERS), gpu.zeros(1)
    seconds, counts = _common.launched(gpu, lambda: sums(x, partial), lambda: sums(partial, total))
    error = abs(float(total.numpy()[0]) - float(values.astype(np.float64).sum()))
    depth = 4 * -(-n // (64 * WORKERS)) + 4 + 4 + 4  # additions that one element takes part in
    bound = (2 if gpu.isa is qpu.Isa.VC4 else 1) * (depth + 1) * 2.0**-24 * float(np.abs(values).sum())
    return _common.result(gpu, "summation", n=n, seconds=seconds, max_abs_error=error, ok=error <= bound, **counts)


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 10007, _common.LARGEST))
