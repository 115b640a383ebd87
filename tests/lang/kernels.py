"""Kernels that several tests run."""

from __future__ import annotations

from qpu.lang import Grid, In, In2, InOut, Out, Out2, Team, f32, fast, i32, kernel, u8, u32, unroll, where

__all__ = ["blur", "bytes_up", "dot", "histogram", "leave", "mandelbrot", "norm", "saxpy", "soft", "wrap"]

_ = (fast, u32, where)


@kernel
def saxpy(k: Grid, a: f32, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(y.size)
    y[i] = a * x[i] + y[i]


@kernel
def soft(k: Grid, t: f32, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    v = x[i]
    if v > t:
        y[i] = v - t
    elif v < -t:
        y[i] = v + t
    else:
        y[i] = 0.0


@kernel(coarsen=1)
def mandelbrot(k: Grid, w: i32, scale: f32, out: Out[i32]) -> None:
    i = k.index(out.size)
    cx = f32(i % w) * scale - 2.0
    cy = f32(i // w) * scale - 1.5
    zx = 0.0
    zy = 0.0
    n = 0
    while n < 30 and zx * zx + zy * zy < 4.0:
        zx, zy = zx * zx - zy * zy + cx, 2.0 * zx * zy + cy
        n += 1
    out[i] = n


@kernel
def dot(k: Team, x: In[f32], y: In[f32], part: Out[f32]) -> None:
    acc = f32(0)
    for i in k.items(x.size):
        acc += x.get(i, 0) * y.get(i, 0)
    part[k.worker] = k.sum(acc)


@kernel(coarsen=1)
def leave(k: Grid, x: In[i32], out: Out[i32]) -> None:
    i = k.index()
    s = 0
    for j in range(x[i]):
        if j == 7:
            break
        if j % 2 == 0:
            continue
        s += j
    out[i] = s


@kernel(coarsen=1)
def blur(k: Grid, src: In2[f32], dst: Out2[f32]) -> None:
    r, c = k.index(*dst.shape)
    acc = 0.0
    for dr in unroll(range(3)):
        for dc in unroll(range(3)):
            acc += src.clamp[r + dr - 1, c + dc - 1]
    dst[r, c] = acc * 0.125


@kernel(coarsen=1)
def bytes_up(k: Grid, x: In[u8], y: Out[u8]) -> None:
    i = k.index()
    y[i] = u8.sat(x[i] * 2 + 1)


@kernel(coarsen=1)
def histogram(k: Grid, x: In[i32], bins: InOut[i32]) -> None:
    i = k.index(x.size)
    bins.atomic_add(x[i] & 15, 1)


@kernel
def norm(k: Team, x: In[f32], out: Out[f32]) -> None:
    most = f32(0)
    for i in k.items(x.size):
        most = max(most, abs(x.get(i, 0)))
    out[k.worker] = k.max(most)


@kernel(coarsen=2)
def wrap(k: Grid, n: i32, x: In[i32], y: Out[i32]) -> None:
    i = k.index(y.size)
    y[i] = x[(i + n) % x.size] * 3 // 7
