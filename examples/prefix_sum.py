"""Prefix sums in two launches: each worker's own run, then the totals of the workers before are added.

Examples:
    uv run examples/prefix_sum.py --device all
"""

from __future__ import annotations

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import In, InOut, Out, Team, i32

WORKERS = 16


@qpu.kernel
def prefix_sum(k: Team, x: In[i32], y: Out[i32], totals: Out[i32]) -> None:
    """Prefix sums of the run of each worker, and its total: `add_offsets` makes one of them."""
    total = i32(0)
    for i in k.items(x.size, run=True):
        v = k.scan(x[i]) + total
        y[i] = v
        total = k.last(v)
    totals[k.worker] = total


@qpu.kernel
def prefix_in_quads(k: Team, x: In[i32], y: Out[i32], totals: Out[i32]) -> None:
    """As `prefix_sum`, with four items a lane, for a length that is a multiple of 64."""
    total = i32(0)
    for i in k.items(x.size, run=True, per_lane=4):
        a = x[i]
        b = a + x[i + 1]
        c = b + x[i + 2]
        d = c + x[i + 3]
        sums = k.scan(d)
        before = sums - d + total
        y[i] = before + a
        y[i + 1] = before + b
        y[i + 2] = before + c
        y[i + 3] = before + d
        total = k.last(sums) + total
    totals[k.worker] = total


@qpu.kernel
def add_offsets(k: Team, y: InOut[i32], totals: In[i32]) -> None:
    """The totals of the workers before are added; as many workers as made them."""
    offset = i32(0)
    for w in range(k.worker):
        offset += totals[w]
    for i in k.items(y.size, run=True):
        y[i] += offset


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size."""
    values = np.random.default_rng(0).integers(-1000, 1000, n).astype(np.int32)
    x, y, totals = gpu.array(values), gpu.zeros(n, np.int32), gpu.zeros(WORKERS, np.int32)
    ok = True
    if n % 64 == 0:
        prefix_in_quads(x, y, totals)
        ok = int(totals.numpy().sum()) == int(values.sum())
    # the runs are cut for as many workers as `totals` has room for; nothing tells that of the second kernel
    second = add_offsets.on(gpu, workers=WORKERS)
    seconds, counts = _common.launched(gpu, lambda: prefix_sum(x, y, totals), lambda: second(y, totals))
    error, wrong = _common.difference(y.numpy(), np.cumsum(values, dtype=np.int32))
    return _common.result(
        gpu, "prefix_sum", n=n, seconds=seconds, max_abs_error=error, wrong=wrong, ok=ok and wrong == 0, **counts
    )


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 10007, _common.LARGEST))
