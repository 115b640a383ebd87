"""Dot product: workers with 16 lanes each go through two vectors, and add their lanes in the end.

Examples:
    uv run examples/dot.py --device all
"""

from __future__ import annotations

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import In, Out, Team, f32


@qpu.kernel
def dot(k: Team, x: In[f32], y: In[f32], part: Out[f32]) -> None:
    """A partial sum for each worker; there are as many as `part` has room for."""
    acc = f32(0)
    for i in k.items(x.size):
        acc += x.get(i, 0) * y.get(i, 0)  # 0 outside of the array: a shorter one counts as zeros
    part[k.worker] = k.sum(acc)


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size."""
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, n)).astype(np.float32)
    x, y, part = gpu.array(a), gpu.array(b), gpu.zeros(64)
    seconds, counts = _common.launched(gpu, lambda: dot(x, y, part))
    wide = a.astype(np.float64) * b
    error = abs(float(part.numpy().astype(np.float64).sum()) - float(wide.sum()))
    roundings = 4 * -(-n // 4096) + 8  # that one product takes part in
    bound = (2 if gpu.isa is qpu.Isa.VC4 else 1) * roundings * 2.0**-24 * float(np.abs(wide).sum())
    return _common.result(gpu, "dot", n=n, seconds=seconds, max_abs_error=error, ok=error <= bound, **counts)


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 10007, _common.LARGEST))
