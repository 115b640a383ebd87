"""Kernels as people write them: nested control flow that lanes leave at different times, more values than registers,
helpers that return in the middle, tails of every length, edges of two axes. `test_others` compares the boards with
plain Python.
"""

from __future__ import annotations

from typing import Any

from qpu.lang import (
    Grid,
    In,
    In2,
    In3,
    InOut,
    InOut2,
    Out,
    Out2,
    Team,
    bitcast,
    clz,
    f16,
    f32,
    i8,
    i16,
    i32,
    kernel,
    minimum,
    popcount,
    ror,
    u8,
    u16,
    u32,
    unroll,
    where,
)


@kernel
def collatz(k: Grid, x: In[u32], steps: Out[i32]) -> None:
    i = k.index()
    v = x[i]
    n = 0
    while v != 1:
        if v & 1 == 1:
            v = v * 3 + 1
        else:
            v = v >> 1
        n += 1
        if n >= 200:
            break
    steps[i] = n


@kernel
def nested(k: Grid, x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    acc = 0
    for a in range(x[i] & 7):
        if a == 5:
            continue
        b = 0
        while b < a:
            if (a + b) % 3 == 0:
                b += 2
                continue
            if acc > 40:
                break
            acc += a * b + 1
            b += 1
        if acc > 60:
            acc -= 17
            if x[i] < 0:
                break
    y[i] = acc


@kernel(coarsen=1)
def many_live(k: Grid, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    v = [x[i] * (j + 1) for j in range(80)]
    total = f32(0)
    for j in unroll(range(79, -1, -1)):
        total = total * 0.5 + v[j]
    other = f32(0)
    for j in unroll(range(80)):
        other = other + v[j] * v[79 - j]
    y[i] = total + other * 0.001


@kernel
def shifted(k: Grid, n: i32, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(n)
    y[i] = x[i + 1] - x[i]


@kernel
def every_third(k: Grid, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(x.size // 3)
    y[i] = x[3 * i] + x[3 * i + 1] * 2.0 + x[3 * i + 2]


@kernel
def laplace(k: Grid, u: In2[f32], v: InOut2[f32]) -> None:
    r, c = k.index(*u.shape)
    if r > 0 and c > 0 and r < u.shape[0] - 1 and c < u.shape[1] - 1:
        v[r, c] = (u[r - 1, c] + u[r + 1, c] + u[r, c - 1] + u[r, c + 1]) * 0.25
    else:
        v[r, c] = u[r, c]


@kernel
def interior(k: Grid, u: In2[i32], v: InOut2[i32]) -> None:
    r, c = k.index(u.shape[0] - 2, u.shape[1] - 2)
    v[r + 1, c + 1] = u[r, c] + u[r + 1, c + 1] + u[r + 2, c + 2]


@kernel
def grey(k: Grid, rgb: In3[u8], out: Out2[u8]) -> None:
    r, c = k.index(*out.shape)
    out[r, c] = (rgb[r, c, 0] * 77 + rgb[r, c, 1] * 150 + rgb[r, c, 2] * 29 + 128) >> 8


@kernel
def bits(k: Grid, x: In[u32], y: Out[i32], z: Out[u32]) -> None:
    i = k.index()
    y[i] = popcount(x[i]) * 100 + clz(x[i])
    z[i] = ror(x[i], i) ^ bitcast(f32(i), u32)


def step(a: Any, b: Any) -> Any:
    if a > b:
        return a - b
    return (b - a) * 2


@kernel
def helpers(k: Grid, x: In[i32], y: In[i32], z: Out[i32]) -> None:
    i = k.index()
    z[i] = step(x[i], y[i]) + step(y[i], 3)


@kernel
def mean_rows(k: Team, x: In2[f32], out: Out[f32]) -> None:
    for q in range((x.shape[0] - k.worker + k.workers - 1) // k.workers):
        r = k.worker + q * k.workers
        acc = f32(0)
        for c in range(0, x.shape[1], 16):
            acc += x.get(r, c + k.lane, 0.0)
        out[r] = k.sum(acc) / f32(x.shape[1])


@kernel
def argmax(k: Team, x: In[f32], value: Out[f32], at: Out[i32]) -> None:
    best = f32(-3.0e38)
    where_ = i32(0)
    for i in k.items(x.size):
        v = x[i]
        if v > best:
            best = v
            where_ = i
    top = k.max(best)
    value[k.worker] = top
    at[k.worker] = k.min(where(best == top, where_, 1 << 30))


@kernel
def distance(k: Grid, x: In[f32], y: In[f32], out: Out[f32]) -> None:
    i = k.index()
    best = 1.0e30
    for j in range(y.size):
        d = abs(x[i] - y[j])
        best = minimum(best, d)
    out[i] = best


@kernel
def bisect(k: Grid, table: In[f32], x: In[f32], out: Out[i32]) -> None:
    i = k.index()
    lo = 0
    hi = table.size
    while lo < hi:
        mid = (lo + hi) // 2
        if table[mid] < x[i]:
            lo = mid + 1
        else:
            hi = mid
    out[i] = lo


@kernel
def early(k: Grid, x: In[i32], y: InOut[i32]) -> None:
    i = k.index()
    v = x[i]
    if v < 0:
        return
    for j in range(10):
        v = v * 2 + j
        if v > 1000:
            y[i] = j
            return
    y[i] = -v


@kernel
def narrow_mix(k: Grid, a: In[i8], b: In[u16], c: In[i16], out: Out[i16], half: Out[f16]) -> None:
    i = k.index()
    s = a[i] * 3 + (b[i] >> 4) - c[i]
    out[i] = i16.sat(s)
    half[i] = f32(s) / 7.0


@kernel
def clampy(k: Grid, x: In[f32], n: i32, y: Out[f32]) -> None:
    i = k.index()
    acc = 0.0
    for j in range(-n, n + 1):
        acc += x.clamp[i + j]
    y[i] = acc


@kernel
def swap(k: Grid, x: InOut[i32], y: InOut[i32]) -> None:
    i = k.index(x.size)
    a, b = x[i], y[i]
    x[i], y[i] = b, a
    if x[i] > y[i]:
        x[i] = y[i] + 1


@kernel
def tree(k: Grid, x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    v = x[i]
    if v < 10:
        if v < 5:
            r = 1 if v < 2 else 2
        else:
            r = 3
            while r < v:
                r += 2
    elif v < 20 and (v & 1 == 0 or v == 13):
        r = 4 + v // 3
    else:
        r = -v
        if not (v > 30 or v % 7 == 3):
            r = r * r
    y[i] = r


@kernel
def in_place_scan(k: Team, x: InOut[i32]) -> None:
    carry = i32(0)
    for i in k.items(x.size, run=True):
        s = k.scan(x[i]) + carry
        x[i] = s
        carry = k.last(s)


@kernel
def medians(k: Grid, x: In[f32], y: Out[f32], z: Out[i32]) -> None:
    i = k.index(y.size)
    near = [x.get(i + d, 0.0) for d in range(-2, 3)]
    y[i] = sorted(near)[2] * 8.0 + max(near) - min([0.5 * v for v in near])
    tens, ones = divmod(i, 10)
    z[i] = 10 * ones + tens + (100 if any(v > 1.5 for v in near) else sum([1 if v > 0.0 else 2 for v in near]))


@kernel
def named(k: Grid, x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    v, count, total = x[i], 0, 0
    while (count := count + 1) < 4 and v > 0:
        total += count * v
        v -= 9
    y[i] = 100 * total + count


@kernel
def skipping(k: Team, x: In[i32], y: Out[i32]) -> None:
    for i in k.items(x.size):
        v = x[i]
        if v < 0:
            continue
        y[i] = 1 if k.any(v > 40) else 2
        for j in range(v & 3):
            if k.any(v == j):
                y[i] = v + j


@kernel
def skipping_runs(k: Team, x: In[i32], y: Out[i32]) -> None:
    count = 0
    for i in k.items(x.size, run=True):
        if x[i] % 2 == 0:
            continue
        count += 1
        y[i] = 10 * x[i] + count


@kernel
def either_loop(k: Team, x: In[i32], y: Out[i32], by: i32) -> None:
    if by > 1:
        for i in k.items(x.size, run=True):
            y[i] = x[i] * by
    else:
        for i in k.items(x.size):
            for j in range(2):
                y[i] = x[i] + j
    k.barrier()  # another worker may have stored to the item
    for i in k.items(x.size):
        if i % 7 == 3:
            for j in range(by):
                y[i] = j
        else:
            j = by
            if i % 7 == 4:
                y[i] = j
