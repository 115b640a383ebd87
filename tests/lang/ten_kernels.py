"""Ten kernels that people write: each against NumPy on the three boards by `test_ten_kernels`."""

from __future__ import annotations

from qpu.lang import (
    Const,
    Grid,
    In,
    In2,
    InOut,
    Out,
    Out2,
    Team,
    c64,
    f32,
    i8,
    i16,
    i32,
    kernel,
    u8,
    unroll,
)

__all__ = ["add_offsets", "blur", "dot", "fft_pass", "gemm_narrow", "gemm_tile", "histogram", "mandelbrot",
           "prefix_in_quads", "prefix_sum", "saxpy", "soft_threshold"]  # fmt: skip


@kernel
def saxpy(k: Grid, a: f32, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(y.size)
    y[i] = a * x[i] + y[i]


@kernel
def soft_threshold(k: Grid, t: f32, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    v = x[i]
    if v > t:
        y[i] = v - t
    elif v < -t:
        y[i] = v + t
    else:
        y[i] = 0.0


@kernel
def dot(k: Team, x: In[f32], y: In[f32], part: Out[f32]) -> None:
    """A partial sum for each worker."""
    acc = f32(0)
    for i in k.items(x.size):
        acc += x.get(i, 0) * y.get(i, 0)
    part[k.worker] = k.sum(acc)


@kernel
def prefix_sum(k: Team, x: In[i32], y: Out[i32], totals: Out[i32]) -> None:
    """Prefix sums of the run of each worker, and its total: `add_offsets` makes one of them."""
    total = i32(0)
    for i in k.items(x.size, run=True):
        v = k.scan(x[i]) + total
        y[i] = v
        total = k.last(v)
    totals[k.worker] = total


@kernel
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


@kernel
def add_offsets(k: Team, y: InOut[i32], totals: In[i32]) -> None:
    """The totals of the workers before are added; as many workers as made them."""
    offset = i32(0)
    for w in range(k.worker):
        offset += totals[w]
    for i in k.items(y.size, run=True):
        y[i] = y[i] + offset


@kernel(coarsen=1)
def blur(k: Grid, src: In2[u8], dst: Out2[u8]) -> None:
    """5 x 5, binomial weights, edges repeated."""
    r, c = k.index(*dst.shape)
    weights = (1, 4, 6, 4, 1)
    acc = i32(128)
    for dr in unroll(range(5)):
        row = i32(0)
        for dc in unroll(range(5)):
            row += src.clamp[r + dr - 2, c + dc - 2] * weights[dc]
        acc += row * weights[dr]
    dst[r, c] = acc >> 8


@kernel
def gemm_tile(k: Team, a: In2[f32], b: In2[f32], c: Out2[f32], rows: Const[int] = 4, cols: Const[int] = 32) -> None:
    """c = a b, a tile of registers at a time."""
    for i0, j0 in k.tiles(c.shape[0], c.shape[1], rows, cols):
        acc = [[f32(0) for _ in range(cols // 16)] for _ in range(rows)]
        for p in range(a.shape[1]):
            right = [b.get(p, j0 + 16 * j + k.lane, 0.0) for j in range(cols // 16)]
            for i in unroll(range(rows)):
                left = a.get(i0 + i, p, 0.0)
                for j in unroll(range(cols // 16)):
                    acc[i][j] += left * right[j]
        k.store_tile(c, i0, j0, acc)


@kernel
def gemm_narrow(k: Team, a: In2[i16], b: In2[i8], c: Out2[i32], rows: Const[int] = 4, cols: Const[int] = 16) -> None:
    """c = a b of 16-bit and 8-bit integers in 32 bits."""
    for i0, j0 in k.tiles(c.shape[0], c.shape[1], rows, cols):
        acc = [[i32(0) for _ in range(cols // 16)] for _ in range(rows)]
        for p in range(a.shape[1]):
            right = [b.get(p, j0 + 16 * j + k.lane, 0) for j in range(cols // 16)]
            for i in unroll(range(rows)):
                left = a.get(i0 + i, p, 0)
                for j in unroll(range(cols // 16)):
                    acc[i][j] += left * right[j]
        k.store_tile(c, i0, j0, acc)


@kernel(coarsen=1)
def fft_pass(k: Grid, x: In[c64], twiddle: In[c64], y: Out[c64], m: i32) -> None:
    """One radix-2 pass of Stockham's transform: the items are the n / 2 butterflies, m the length of finished parts."""
    i = k.index(x.size // 2)
    a = x[i]
    b = x[i + x.size // 2]
    first = i // m * m
    y[i + first] = a + b
    y[i + first + m] = (a - b) * twiddle[first]


@kernel(coarsen=1)
def histogram(k: Grid, x: In[u8], bins: InOut[i32]) -> None:
    i = k.index(x.size)
    bins.atomic_add(x[i], 1)


@kernel(coarsen=1)
def mandelbrot(k: Grid, width: i32, scale: f32, limit: i32, out: Out[i32]) -> None:
    i = k.index()
    cx = f32(i % width) * scale - 2.0
    cy = f32(i // width) * scale - 1.5
    zx = 0.0
    zy = 0.0
    n = 0
    while n < limit and zx * zx + zy * zy < 4.0:
        zx, zy = zx * zx - zy * zy + cx, 2.0 * zx * zy + cy
        n += 1
    out[i] = n
