"""Kernels whose loops `benchmarks/lang.py` measures and `tests/lang/test_loops.py` counts."""

from __future__ import annotations

from qpu.lang import Const, Grid, In, In2, InOut, Out, Out2, Team, f32, i32, kernel, u8, unroll

__all__ = ["blur", "dot", "gemm", "mandelbrot", "many", "polynomial", "prefix", "prefix_quads", "saxpy", "soft"]


@kernel
def saxpy(k: Grid, a: f32, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(y.size)
    y[i] = a * x[i] + y[i]


@kernel
def polynomial(k: Grid, a: f32, b: f32, c: f32, d: f32, e: f32, g: f32, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    v = x[i]
    y[i] = ((((a * v + b) * v + c) * v + d) * v + e) * v + g


@kernel
def soft(k: Grid, t: f32, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    v = x[i]
    r = 0.0
    if v > t:
        r = v - t
    if v < -t:
        r = v + t
    y[i] = r


@kernel
def dot(k: Team, x: In[f32], y: In[f32], part: Out[f32]) -> None:
    acc = f32(0)
    for i in k.items(x.size):
        acc += x.get(i, 0) * y.get(i, 0)
    part[k.worker] = k.sum(acc)


@kernel
def mandelbrot(k: Grid, w: i32, scale: f32, limit: i32, out: Out[i32]) -> None:
    i = k.index(out.size)
    cx = f32(i % w) * scale
    cy = f32(i // w) * scale
    zx = 0.0
    zy = 0.0
    n = 0
    while n < limit and zx * zx + zy * zy < 4.0:
        zx, zy = zx * zx - zy * zy + cx, 2.0 * zx * zy + cy
        n += 1
    out[i] = n


@kernel(march="y")
def blur(k: Grid, src: In2[u8], dst: Out2[u8]) -> None:
    """5 x 5, binomial weights, edges repeated."""
    r, c = k.index(*dst.shape)
    weights = (1, 4, 6, 4, 1)
    acc = i32(128)
    for dr in unroll(range(5)):
        p, q, s, t, u = [src.clamp[r + dr - 2, c + dc - 2] for dc in range(5)]
        acc += (p + u + (q + t) * weights[1] + s * weights[2]) * weights[dr]
    dst[r, c] = acc >> 8


@kernel
def prefix(k: Team, x: In[i32], y: Out[i32]) -> None:
    """Prefix sum of each worker's own run."""
    carry = i32(0)
    for i in k.items(x.size, run=True):
        s = k.scan(x[i]) + carry
        y[i] = s
        carry = k.last(s)


@kernel
def many(k: Grid, x: In[f32], y: Out[f32], terms: Const[int] = 32) -> None:
    """About 300 instructions."""
    i = k.index()
    v = x[i]
    acc = v
    for n in unroll(range(terms)):
        acc = acc * v + (1.0 + n)
    y[i] = acc


@kernel
def gemm(k: Team, a: In2[f32], b: In2[f32], c: Out2[f32], rows: Const[int] = 24, cols: Const[int] = 32) -> None:
    """c = a' b by tiles that stay in registers: a holds panels of `rows` rows of the left matrix, column by column."""
    for i0, j0 in k.tiles(c.shape[0], c.shape[1], rows, cols):
        acc = [[f32(0) for _ in range(cols // 16)] for _ in range(rows)]
        panel = i0 // rows
        for p in range(b.shape[0]):
            line = [b[p, j0 + 16 * j + k.lane] for j in range(cols // 16)]
            for i in unroll(range(rows)):
                v = a[panel, p * rows + i]
                for j in unroll(range(cols // 16)):
                    acc[i][j] += v * line[j]
        k.store_tile(c, i0, j0, acc)


@kernel
def prefix_quads(k: Team, x: In[i32], y: Out[i32]) -> None:
    """As `prefix`, with four items a lane, for lengths that are multiples of 64."""
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
