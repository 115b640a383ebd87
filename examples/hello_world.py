"""First kernel: adds two vectors and checks the sum against NumPy.

Examples:
    uv run examples/hello_world.py --device all
    uv run examples/hello_world.py --device pi5 --n 100 --json
"""

from __future__ import annotations

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import Grid, In, Out, f32


@qpu.kernel
def add(k: Grid, a: In[f32], b: In[f32], total: Out[f32]) -> None:
    """What happens to one item; the GPU does all of them. One source for every Raspberry Pi."""
    i = k.index(total.size)
    total[i] = a[i] + b[i]


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size."""
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, n)).astype(np.float32)
    on_gpu, total = [gpu.array(a), gpu.array(b)], gpu.zeros(n)
    seconds, counts = _common.launched(gpu, lambda: add(*on_gpu, total))
    error = np.abs(total.numpy() - (a + b))
    # The adder of VideoCore IV truncates; the others round to nearest, as NumPy does.
    limit = 2.0**-23 * 2 if gpu.isa is qpu.Isa.VC4 else 0.0
    return _common.result(
        gpu, "hello_world", n=n, seconds=seconds, max_abs_error=float(error.max()), ok=bool((error <= limit).all()),
        **counts,
    )  # fmt: skip


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 1000, 100_000))
