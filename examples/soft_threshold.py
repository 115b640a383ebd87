"""Soft threshold: values moved toward zero by t, with an `if` that lanes decide for themselves.

Examples:
    uv run examples/soft_threshold.py --device all
"""

from __future__ import annotations

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import Grid, In, Out, f32


@qpu.kernel
def soft_threshold(k: Grid, t: f32, x: In[f32], y: Out[f32]) -> None:
    """What is within t of zero becomes zero."""
    i = k.index()
    v = x[i]
    if v > t:
        y[i] = v - t
    elif v < -t:
        y[i] = v + t
    else:
        y[i] = 0.0


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size."""
    values = np.random.default_rng(0).uniform(-1, 1, n).astype(np.float32)
    x, y = gpu.array(values), gpu.zeros(n)
    seconds, counts = _common.launched(gpu, lambda: soft_threshold(0.25, x, y))
    error = np.abs(y.numpy() - np.sign(values) * np.maximum(np.abs(values) - 0.25, 0)).max()
    ok = bool(error <= (2.0**-23 if gpu.isa is qpu.Isa.VC4 else 0))
    return _common.result(gpu, "soft_threshold", n=n, seconds=seconds, max_abs_error=float(error), ok=ok, **counts)


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 10007, _common.LARGEST))
