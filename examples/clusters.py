"""Clusters: random points on the GPU, k-means until nothing moves, then the points nearest to each centre.

Uses the library throughout: normal numbers, distances, k-means, sorting, counting and choosing.

Examples:
    uv run examples/clusters.py --device all
    uv run examples/clusters.py --n 5000 --device pi5
"""

from __future__ import annotations

import _common
import numpy as np

from qpu.device import Device
from qpu.kernels import blas1, misc, move, scan, search, sort
from qpu.kernels.random import Generator

CENTRES = np.float32([[0, 0], [8, 1], [-3, 7]])
STEPS, NEAREST = 8, 5


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check n points around each of three places."""
    k, total = len(CENTRES), len(CENTRES) * n
    points = gpu.empty((total, 2))
    g = Generator(2026)
    for c, (x, y) in enumerate(CENTRES):
        group = points[c * n : (c + 1) * n]
        g.normal(group[:, 0], float(x), 1.0)  # a column of points: every second number
        g.normal(group[:, 1], float(y), 1.0)
    host = points.numpy()
    labels, old, new = gpu.empty(total, np.int32), gpu.array(host[::n] + np.float32(0.5)), gpu.empty((k, 2))

    def step() -> None:
        misc.kmeans_step(points, old, labels, new)
        blas1.copy(new.view(0, (2 * k,)), old.view(0, (2 * k,)))

    seconds = _common.median_time(step, lambda: None, STEPS)
    found, centres = labels.numpy(), new.numpy()
    sizes, ends = gpu.zeros(k, np.int32), gpu.empty(k, np.int32)
    search.histogram(labels, sizes)
    scan.cumulative_sum(sizes, ends)
    apart, order = gpu.empty((k, total)), gpu.empty(total, np.int32)
    misc.distances(new, points, apart)
    mine = gpu.array(found == 0)
    chosen = gpu.empty(total)
    count = move.compact(apart[0], mine, chosen)
    sort.argsort(apart[0], order)

    wide = np.sqrt(((host[None].astype(np.float64) - centres[:, None]) ** 2).sum(2))
    error = float(np.abs(apart.numpy() - wide).max())
    means = np.array([host[found == c].mean(0, dtype=np.float64) for c in range(k)])
    ok = (
        np.array_equal(sizes.numpy(), np.bincount(found, minlength=k))
        and int(ends.numpy()[-1]) == total
        and count == int((found == 0).sum())
        and np.allclose(wide[0][order.numpy()[:NEAREST]], np.sort(wide[0])[:NEAREST], atol=1e-4)
        and np.abs(means - centres).max() < 1e-4
        and error < 1e-4
    )
    return _common.result(gpu, "clusters", n=n, sizes=sizes.numpy().tolist(), seconds=seconds, max_abs_error=error,
                          ok=bool(ok))  # fmt: skip


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 60, 100_000))
