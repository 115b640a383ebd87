"""Convolution of signals, distances between points, steps of k-means and of bodies that attract each other."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.errors import UsageError, counted
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, separate
from qpu.lang import Const, Grid, In, In2, InOut2, Out, Out2, Team, f32, i32, kernel, rsqrt, sqrt, where
from qpu.launch import Run

__all__ = [
    "accelerations", "convolve", "distances", "kmeans_step", "nbody_step", "reference_accelerations",
    "reference_distances", "reference_kmeans_step",
]  # fmt: skip

MODES: Final = ("full", "same", "valid")
WORKERS: Final = 64


@kernel(coarsen=1)
def signal(k: Grid, x: In[f32], w: In[f32], out: Out[f32], first: i32) -> None:
    i = k.index()
    acc = f32(0)
    for t in range(w.size):
        acc += w[t] * x.get(i + first - t, 0.0)
    out[i] = acc


@kernel(coarsen=1)
def apart(k: Grid, x: In2[f32], y: In2[f32], out: Out2[f32], squared: Const[bool]) -> None:
    r, c = k.index(*out.shape)
    acc = f32(0)
    for p in range(x.shape[1]):
        d = y[c, p] - x[r, p]
        acc += d * d
    out[r, c] = acc if squared else sqrt(acc)


@kernel(coarsen=1)
def nearest(k: Grid, x: In2[f32], centres: In2[f32], labels: Out[i32]) -> None:
    """Of equal distances the first."""
    i = k.index()
    best = f32(3.4028234663852886e38)
    label = i32(0)
    for j in range(centres.shape[0]):
        acc = f32(0)
        for p in range(x.shape[1]):
            d = x[i, p] - centres[j, p]
            acc += d * d
        label = where(acc < best, j, label)
        best = min(best, acc)
    labels[i] = label


@kernel
def means(k: Team, x: In2[f32], labels: In[i32], old: In2[f32], new: Out2[f32]) -> None:
    """A worker makes one coordinate of one centre at a time; a centre without points stays."""
    n, width = x.shape
    for unit in range(k.worker, new.shape[0] * width, k.workers):
        j = unit // width
        p = unit - j * width
        total = f32(0)
        count = i32(0)
        for block in range((n + 15) >> 4):
            at = 16 * block + k.lane
            mine = labels.get(at, -1) == j
            total += where(mine, x.get(at, p, 0.0), 0.0)
            count += where(mine, 1, 0)
        points = k.sum(count)
        mean = k.sum(total) / f32(max(points, 1))
        new[j, p] = mean if points > 0 else old[j, p]


@kernel(coarsen=1)
def pulled(k: Grid, p: In2[f32], mass: In[f32], out: Out2[f32], softening: f32) -> None:
    i = k.index(p.shape[1])
    x, y, z = p[0, i], p[1, i], p[2, i]
    ax, ay, az = f32(0), f32(0), f32(0)
    for j in range(mass.size):
        dx, dy, dz = p[0, j] - x, p[1, j] - y, p[2, j] - z
        r = rsqrt(dx * dx + dy * dy + dz * dz + softening)
        s = mass[j] * r * r * r
        ax += dx * s
        ay += dy * s
        az += dz * s
    out[0, i] = ax
    out[1, i] = ay
    out[2, i] = az


@kernel(coarsen=1)
def moved(k: Grid, p: InOut2[f32], v: InOut2[f32], a: In2[f32], dt: f32) -> None:
    r, i = k.index(*p.shape)
    speed = v[r, i] + dt * a[r, i]
    v[r, i] = speed
    p[r, i] = p[r, i] + dt * speed


def _shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise UsageError(f"{name} has the shape {list(found)}; allowed: {list(wanted)}", help="gpu.empty(shape)")


@entry
def convolve(x: Memory, w: Memory, out: Memory, mode: str = "full") -> Run:
    """NumPy's `convolve` of one axis of f32: out[i] = the sum of w[t] * x[i - t], 0 outside of x.

    mode: "full": n + taps - 1 results; "same": n, taps <= n; "valid": those that need nothing outside, n - taps + 1.
    The error is below taps + 1 roundings of the sum of magnitudes.
    """
    source, weights = operand("x", x, np.float32, 1), operand("w", w, np.float32, 1)
    target = operand("out", out, np.float32, 1, "out")
    n, taps = source.shape[0], weights.shape[0]
    if mode not in MODES:
        raise UsageError(f"mode = {mode!r}", help=f"allowed: {', '.join(MODES)}")
    if not 1 <= taps <= n:
        raise UsageError(f"{counted(taps, 'weight')} for {counted(n, 'item')}", help="allowed: 1 .. as many as items")
    count, first = {"full": (n + taps - 1, 0), "same": (n, (taps - 1) // 2), "valid": (n - taps + 1, taps - 1)}[mode]
    _shape("out", target.shape, (count,))
    separate("out", target, x=source, w=weights)
    with Jobs(device(x=source, w=weights, out=target)) as jobs:
        jobs.add(signal, source, weights, target, first)
        return jobs.run()


@entry
def distances(x: Memory, y: Memory, out: Memory, squared: bool = False) -> Run:
    """out[i, j] = the distance between x[i] and y[j], or its square. x: (n, width); y: (m, width); out: (n, m); f32.

    The differences are squared and added, which is exact for equal points, as the shorter way by products is not.
    """
    first, second = operand("x", x, np.float32, 2), operand("y", y, np.float32, 2)
    target = operand("out", out, np.float32, 2, "out")
    if first.shape[1] != second.shape[1]:
        raise UsageError(f"points of {first.shape[1]} and {second.shape[1]} numbers", help="x and y of equal width")
    _shape("out", target.shape, (first.shape[0], second.shape[0]))
    separate("out", target, x=first, y=second)
    with Jobs(device(x=first, y=second, out=target)) as jobs:
        jobs.add(apart, first, second, target, squared)
        return jobs.run()


@entry
def kmeans_step(x: Memory, centres: Memory, labels: Memory, new: Memory) -> Run:
    """One step of k-means: the nearest centre of each point, and the means of the points of each centre.

    x: (n, width); centres, new: (k, width); f32; labels: (n,), i32. A centre without points stays where it was.
    """
    points, old = operand("x", x, np.float32, 2), operand("centres", centres, np.float32, 2)
    which, target = operand("labels", labels, np.int32, 1, "out"), operand("new", new, np.float32, 2, "out")
    if old.shape[1] != points.shape[1] or not old.shape[0]:
        raise UsageError(f"centres has the shape {list(old.shape)}", help=f"allowed: (k, {points.shape[1]}), k from 1")
    _shape("labels", which.shape, points.shape[:1])
    _shape("new", target.shape, old.shape)
    separate("new", target, x=points, centres=old, labels=which)
    with Jobs(device(x=points, centres=old, labels=which, new=target)) as jobs:
        jobs.add(nearest, points, old, which)
        jobs.add(means, points, which, old, target, workers=max(1, min(WORKERS, target.size)))
        return jobs.run()


@entry
def accelerations(positions: Memory, masses: Memory, out: Memory, softening: float = 1e-6) -> Run:
    """What bodies pull each other with: the sum of mass * d / (|d|**2 + softening)**1.5 over all others.

    positions, out: (3, n): a row of x, of y and of z; masses: (n,); f32. softening: above 0, so that a body does not
    pull itself.
    """
    p, m = operand("positions", positions, np.float32, 2), operand("masses", masses, np.float32, 1)
    target = operand("out", out, np.float32, 2, "out")
    _shape("positions", p.shape, (3, m.shape[0]))
    _shape("out", target.shape, p.shape)
    if not softening > 0:
        raise UsageError(f"softening = {softening}", help="allowed: above 0")
    separate("out", target, positions=p, masses=m)
    with Jobs(device(positions=p, masses=m, out=target)) as jobs:
        jobs.add(pulled, p, m, target, softening)
        return jobs.run()


@entry
def nbody_step(positions: Memory, velocities: Memory, masses: Memory, dt: float, softening: float = 1e-6) -> Run:
    """Velocities += dt * accelerations, then positions += dt * velocities. See `accelerations`."""
    p, v = (operand(n, x, np.float32, 2, "inout") for n, x in (("positions", positions), ("velocities", velocities)))
    _shape("velocities", v.shape, p.shape)
    separate("velocities", v, positions=p)
    with Jobs(device(positions=p, velocities=v)) as jobs:
        pull = jobs.scratch(p.shape)
        jobs.take(accelerations(p, masses, pull, softening))
        jobs.add(moved, p, v, pull, dt)
        return jobs.run()


def reference_distances(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """`distances` in NumPy."""
    d = x.astype(np.float64)[:, None] - y.astype(np.float64)[None]
    return np.asarray(np.sqrt((d * d).sum(-1)))


def reference_accelerations(p: NDArray[Any], mass: NDArray[Any], softening: float = 1e-6) -> NDArray[np.float64]:
    """`accelerations` in NumPy."""
    q = p.astype(np.float64)
    d = q[:, None, :] - q[:, :, None]
    return np.asarray((d * (mass * ((d * d).sum(0) + softening) ** -1.5)).sum(-1))


def reference_kmeans_step(x: NDArray[Any], centres: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and new centres of `kmeans_step` in NumPy; where distances are nearly equal, labels may differ."""
    labels = reference_distances(x, centres).argmin(1)
    new = [x[labels == j].mean(0, dtype=np.float64) if (labels == j).any() else c for j, c in enumerate(centres)]
    return labels, np.array(new, np.float64).reshape(centres.shape)
