"""Images of another size or place: resizing, pyramids, affine and perspective warps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, finite, recast, separate
from qpu.kernels.common.retyped import name_of, retyped
from qpu.kernels.image.borders import check_border, image, outside, pairs, pixel, to_store
from qpu.kernels.image.tables import Table, resample
from qpu.lang import Const, Grid, In, In2, Out2, clamp, f32, floor, i32, kernel, maximum
from qpu.launch import Run

__all__ = ["METHODS", "pyramid_down", "pyramid_up", "reference_resample", "reference_warp", "resize", "table", "warp"]

METHODS = ("nearest", "bilinear", "area")


@kernel(coarsen=1)
def picked(k: Grid, x: In2[f32], rows: In[i32], columns: In[i32], out: Out2[f32]) -> None:
    r, c = k.index(*out.shape)
    out[r, c] = x[rows[r], columns[c]]


def mirrored(u: Any, n: Any) -> Any:
    """A place in a line of n pixels that is mirrored at its first and last one again and again, in a kernel."""
    end = f32(n - 1)
    turn = maximum(2.0 * end, 1.0)
    far = abs(u)
    return end - abs(end - (far - floor(far / turn) * turn))


@kernel(coarsen=1)
def warped(
    k: Grid, x: In2[f32], out: Out2[f32], a: f32, b: f32, c: f32, d: f32, e: f32, f: f32, g: f32, h: f32,
    perspective: Const[bool], border: Const[str], value: f32, byte: Const[bool],
) -> None:  # fmt: skip
    """Bilinear samples at (a q + b p + c, d q + e p + f), divided by g q + h p + 1; q: column, p: row."""
    p, q = k.index(*out.shape)
    across, down = f32(q), f32(p)
    u, v = a * across + b * down + c, d * across + e * down + f
    if perspective:
        w = g * across + h * down + 1.0
        u, v = u / w, v / w
    if border == "reflect":
        u, v = mirrored(u, x.shape[1]), mirrored(v, x.shape[0])
    u = clamp(u, -2.0, f32(x.shape[1]) + 1.0)
    v = clamp(v, -2.0, f32(x.shape[0]) + 1.0)
    left, top = floor(u), floor(v)
    j, i = i32(left), i32(top)
    fu, fv = u - left, v - top
    outer = "constant" if border == "constant" else "clamp"
    n = [[pixel(x, i + m, j + n, outer, value) for n in range(2)] for m in range(2)]
    high = n[0][0] + (n[0][1] - n[0][0]) * fu
    low = n[1][0] + (n[1][1] - n[1][0]) * fu
    out[p, q] = to_store(high + (low - high) * fv, byte)


def table(n: int, size: int, method: str) -> Table:
    """How `size` lines come from n lines. method: "nearest", "bilinear" or "area"."""
    i = np.arange(size)
    if method == "nearest":
        return Table.of(((2 * i + 1) * n // (2 * size))[None], np.ones((1, size)), n, "clamp", 0.0)
    if method == "bilinear":
        exact = (i + 0.5) * n / size - 0.5
        first = np.floor(exact).astype(np.int64)
        part = exact - first
        return Table.of(np.stack([first, first + 1]), np.stack([1 - part, part]), n, "clamp", 0.0)
    low, high = i * n / size, (i + 1) * n / size
    at = np.floor(low).astype(np.int64)[None] + np.arange(int(np.ceil(n / size)) + 1)[:, None]
    w = np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, None) * size / n
    return Table.of(at, w, n, "clamp", 0.0)


@entry
def resize(x: Memory, out: Memory, method: str = "bilinear") -> Run:
    """x in the size of out. method: "nearest", "bilinear" (between pixel centres, edges repeated), "area" (the mean of
    what a pixel of the result covers).

    x, out: images with the same channels, u8 or f32 each ("nearest": one type); bytes are rounded.
    """
    if method not in METHODS:
        raise UsageError(f"method = {method!r}", help=f"allowed: {', '.join(METHODS)}")
    source, target = image("x", x), image("out", out, "out")
    if target.size and not source.size:
        raise UsageError("x is empty", help="an image with pixels")
    separate("out", target, x=source)
    both = pairs(source, target, sized=False)
    rows, columns = (table(max(source.shape[n], 1), target.shape[n], method) for n in (0, 1))
    with Jobs(device(x=source, out=target)) as jobs:
        if method != "nearest":
            for a, b in both:
                resample(jobs, a, b, rows, columns)
            return jobs.run()
        if source.dtype != target.dtype:
            raise UsageError(f"out holds {target.dtype} and x {source.dtype}; allowed: one type", help="gpu.empty()")
        kind = np.dtype(np.uint8 if source.dtype == np.uint8 else np.int32)
        moved = retyped(picked, "i32", x=name_of(kind), out=name_of(kind))
        places = [jobs.constant(t.at[0]) for t in (rows, columns)]
        for a, b in both:
            jobs.add(moved, recast(a, kind), *places, recast(b, kind))
        return jobs.run()


def _down(n: int, border: str) -> Table:
    at = 2 * np.arange((n + 1) // 2)[None] + np.arange(-2, 3)[:, None]
    return Table.of(at, np.array([1, 4, 6, 4, 1])[:, None] / 16, n, border, 0.0)


def _up(n: int, border: str) -> Table:
    i = np.arange(2 * n)
    at = (i // 2)[None] + np.where(i % 2 == 0, np.array([-1, 0, 1])[:, None], np.array([0, 1, 1])[:, None])
    w = np.where(i % 2 == 0, np.array([1, 6, 1])[:, None], np.array([4, 4, 0])[:, None]) / 8
    return Table.of(at, w, n, border, 0.0)


@entry
def pyramid_down(x: Memory, out: Memory, border: str = "clamp") -> Run:
    """Half the size, rounded up: every other pixel of x under the weights 1, 4, 6, 4, 1. border: as for `separable`."""
    source, target = image("x", x), image("out", out, "out")
    check_border(border, 2, source.shape)
    wanted = ((source.shape[0] + 1) // 2, (source.shape[1] + 1) // 2)
    return _stepped(source, target, wanted, _down(source.shape[0], border), _down(source.shape[1], border))


@entry
def pyramid_up(x: Memory, out: Memory, border: str = "clamp") -> Run:
    """Twice the size: pixels under the weights 1, 6, 1, and between them 4, 4. border: as for `separable`."""
    source, target = image("x", x), image("out", out, "out")
    check_border(border, 1, source.shape)
    wanted = (2 * source.shape[0], 2 * source.shape[1])
    return _stepped(source, target, wanted, _up(source.shape[0], border), _up(source.shape[1], border))


def _stepped(source: Any, target: Any, wanted: tuple[int, int], rows: Table, columns: Table) -> Run:
    if target.shape[:2] != wanted:
        raise UsageError(
            f"out has the shape {list(target.shape)}; allowed: {[*wanted, *source.shape[2:]]}", help="gpu.empty(shape)"
        )
    separate("out", target, x=source)
    with Jobs(device(x=source, out=target)) as jobs:
        for a, b in pairs(source, target, sized=False):
            resample(jobs, a, b, rows, columns)
        return jobs.run()


@entry
def warp(x: Memory, out: Memory, matrix: Any, border: str = "constant", value: float = 0.0) -> Run:
    """out[r, c] = x at the place matrix @ (c, r, 1), column first, between pixels by their four neighbours.

    matrix: 2 by 3 (affine) or 3 by 3 (perspective, scaled to 1 at the lower right); from pixels of the result to pixels
    of x. border: "constant" (`value`), "clamp" or "reflect". x, out: images with the same channels, u8 or f32 each.
    """
    m = finite("matrix", matrix, np.float64)
    if m.shape not in ((2, 3), (3, 3)):
        raise UsageError(f"a matrix of shape {m.shape}", help="allowed: 2 by 3 or 3 by 3 finite numbers")
    if m.shape == (3, 3) and m[2, 2] == 0:
        raise UsageError("matrix[2, 2] = 0; allowed: any other number", help="a perspective is scaled to 1 there")
    check_border(border)
    source, target = image("x", x), image("out", out, "out")
    separate("out", target, x=source)
    perspective = m.shape == (3, 3) and not np.array_equal(m[2], (0, 0, 1))
    if m.shape == (3, 3):
        m = m / m[2, 2]
    numbers = [float(v) for v in m.reshape(-1)[:8]] + [0.0] * (8 - min(m.size, 8))
    kind = retyped(warped, "f32", x=name_of(source.dtype), out=name_of(target.dtype))
    constant = outside(value, source.dtype)
    with Jobs(device(x=source, out=target)) as jobs:
        for a, b in pairs(source, target, sized=False):
            jobs.add(kind, a, b, *numbers, perspective, border, constant, target.dtype == np.uint8)
        return jobs.run()


def reference_resample(x: NDArray[Any], rows: Table, columns: Table) -> NDArray[np.float64]:
    """What tables make of an image of two axes, in NumPy, before rounding to bytes."""
    inner = x.astype(np.float64) @ columns.matrix(x.shape[1]).T + columns.bias
    return np.asarray(rows.matrix(x.shape[0]) @ inner + rows.bias[:, None])


def reference_warp(
    x: NDArray[Any], shape: tuple[int, int], matrix: Any, border: str = "constant", value: float = 0.0
) -> NDArray[np.float64]:
    """The same as `warp` of an image of two axes in NumPy, before rounding to bytes."""
    m = np.vstack([matrix, (0, 0, 1)]) if len(matrix) == 2 else np.asarray(matrix)
    r, c = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    u, v, w = np.tensordot(m, np.stack([c, r, np.ones_like(c)]), 1)
    u, v = u / w, v / w
    if border == "reflect":
        ends = [max(n - 1, 0.5) for n in x.shape]
        u, v = (e - np.abs(e - np.abs(p) % (2 * e)) for p, e in ((u, ends[1]), (v, ends[0])))
    u, v = np.clip(u, -2, x.shape[1] + 1), np.clip(v, -2, x.shape[0] + 1)
    j, i = np.floor(u).astype(int), np.floor(v).astype(int)
    fu, fv = u - j, v - i

    def at(p: Any, q: Any) -> Any:
        inside = (p >= 0) & (p < x.shape[0]) & (q >= 0) & (q < x.shape[1])
        found = x[np.clip(p, 0, x.shape[0] - 1), np.clip(q, 0, x.shape[1] - 1)].astype(np.float64)
        return np.where(inside, found, value) if border == "constant" else found

    high, low = (at(i + n, j) * (1 - fu) + at(i + n, j + 1) * fu for n in (0, 1))
    return np.asarray(high * (1 - fv) + low * fv)
