"""Kernels that try the language at its edges: divergence in divergence, more values than registers, strides, narrow
types under masks, lane operations in branches, memory of a team.
"""

from __future__ import annotations

from typing import Any

from qpu.lang import (
    Grid,
    In,
    In2,
    In3,
    InOut,
    Out,
    Out2,
    Out3,
    Team,
    c64,
    f16,
    f32,
    i8,
    i16,
    i32,
    kernel,
    u8,
    u8x4,
    u16,
    u32,
    unroll,
    where,
)

_ = (c64, u32)


def steps(v: Any, most: Any) -> Any:
    """A helper that returns out of two loops."""
    total = i32(0)
    for a in range(most):
        b = i32(0)
        while b < a:
            total += a * b
            if total > v:
                return total - v
            if (total ^ b) & 7 == 5:
                break
            b += 1
        else_ = total & 1
        if else_ == 1:
            continue
        total += 3
    return -total


@kernel(coarsen=1)
def walks(k: Grid, n: i32, x: In[i32], y: InOut[i32]) -> None:
    """Returns, breaks and continues of three loops in each other, with stores on the way."""
    i = k.index(x.size)
    a = x[i]
    if a < 0:
        y[i] = -1
        return
    s = i32(0)
    for j in range(n):
        w = a & 7
        while w > 0:
            w -= 1
            for u in range(w):
                if (u + j) % 3 == 2:
                    break
                s += u * j + 1
                if s > 60:
                    y[i] = s
                    return
            if s & 3 == 3:
                continue
            if s % 11 == 10:
                break
            y[i] = s - 100
        a = (a * 5 + j) & 31
    y[i] = s + steps(a, 4) * 1000


@kernel(coarsen=2)
def two_a_turn(k: Grid, x: In[i32], y: InOut[i32], z: InOut[i32]) -> None:
    """As several items at once, with a loop of each and a return in between."""
    i = k.index(x.size)
    v = x[i]
    while v > 10:
        v = v // 2 if v & 1 == 0 else v - 7
        if v == 13:
            z[i] = v
            return
    y[i] = v
    if v < 3:
        z[i] = y[i] + v


@kernel(coarsen=1)
def crowd(k: Grid, n: i32, x: In[i32], y: Out[i32]) -> None:
    """Seventy values that a loop with divergent branches changes."""
    i = k.index(y.size)
    v = [x[i] * (j + 1) + j for j in unroll(range(70))]
    for t in range(n):
        if (v[0] + t) & 1 == 1:
            first = v[0]
            for j in unroll(range(69)):
                v[j] = v[j + 1]
            v[69] = first
        elif v[3] > 20:
            for j in unroll(range(0, 70, 7)):
                v[j] -= v[69 - j]
    total = i32(0)
    for j in unroll(range(70)):
        total = total * 3 + v[j]
    y[i] = total


@kernel
def interleave(k: Grid, x: In[f32], y: InOut[f32]) -> None:
    """Even places from the front, odd ones from the back."""
    i = k.index(x.size)
    y[2 * i] = x[i]
    y[2 * i + 1] = x[x.size - 1 - i] * 2.0


@kernel
def windows(k: Grid, x: In[i32], y: Out[i32]) -> None:
    """Steps of three with overlap and a neighbour before."""
    i = k.index()
    before = x[3 * i - 1] if i > 0 else 0
    y[i] = x[3 * i] + x[3 * i + 4] * 10 - before


@kernel(coarsen=1)
def narrow(k: Grid, a: In[i8], b: In[u16], c: In[f16], d: InOut[u8], e: InOut[i16], f: InOut[f16]) -> None:
    """Narrow elements that some lanes store."""
    i = k.index(a.size)
    s = a[i] * 3 - b[i]
    if s & 1 == 1:
        d[i] = s
        if c[i] > 0.0:
            f[i] = c[i] * 0.5 + f32(a[i])
    elif s > -2000:
        e[i] = s
    else:
        d[i] = u8.sat(s)
        e[i] = i16.sat(s * 100)


@kernel(coarsen=1)
def words(k: Grid, x: In[u8x4], t: i32, y: InOut[u8x4], n: Out[i32]) -> None:
    i = k.index(x.size)
    w = x[i]
    s = w[0] + w[1] * 2 - w[3]
    if s > t:
        y[i] = u8x4(u8.sat(s), w[1], t, w[0] + w[2])
    n[i] = s if w[2] > 127 else -s


@kernel(coarsen=1)
def edges(k: Grid, x: In2[i32], y: Out2[i32]) -> None:
    """A stencil with four kinds of borders."""
    r, c = k.index(*y.shape)
    s = x.get(r - 1, c, -5) + 10 * x.clamp[r + 1, c + 1]
    if c > 0 and r < x.shape[0] - 1:
        s += 100 * x[r + 1, c - 1]
    y[r, c] = s - x.get(r, c + 2, 7)


@kernel(coarsen=1)
def cube(k: Grid, x: In3[i32], y: Out3[i32]) -> None:
    a, b, c = k.index(*x.shape)
    v = x[a, b, c]
    if v % 2 == 0:
        v += a * 100 + b * 10 + c
    y[c, a, b] = v


@kernel
def lanes(k: Team, x: In[i32], out: Out2[i32]) -> None:
    """Lane operations where some lanes, or none, take part; loops until no lane wants more."""
    at = 16 * k.worker + k.lane
    v = x[at]
    s = i32(0)
    if v > 50:
        s = k.sum(v) * 2 + k.scan(i32(1))
        if k.any(v > 1000):
            s = -1
    elif k.all(v < 20):
        s = k.max(v)
    out[0, at] = s
    turns = i32(0)
    w = v
    while k.any(w > 3):
        w = w // 2
        turns += 1
        if k.all(w < 9):
            break
    out[1, at] = turns * 1000 + w
    u = k.rotate(v, k.broadcast(v, 3) & 15) - k.shuffle(v, 15 - k.lane)
    out[2, at] = u
    out[3, at] = k.last(where(v & 1 == 1, v, 0)) + k.min(v)


@kernel
def passing(k: Team, turns: i32, x: InOut[i32], sums: Out[i32]) -> None:
    """Shared memory that is written and read in turns."""
    box = k.shared(i32, 256)
    me = 16 * k.worker + k.lane
    v = x[me]
    for t in range(turns):
        box[me] = v
        k.barrier()
        other = box[(me + 16 * (t + 1)) % (16 * k.workers)]
        v = v * 3 + other
        k.barrier()
    x[me] = v
    sums[k.worker] = k.sum(v & 255)


@kernel
def runs(k: Team, x: In[f32], y: Out[f32], most: Out[f32]) -> None:
    """A worker's run of items with names that some lanes change."""
    best, carry = f32(-1e30), f32(0)
    for i in k.items(x.size, run=True):
        v = x.get(i, 0.0)
        if v > best:
            best = v
        carry += k.sum(v)
        if i < x.size:
            y[i] = carry + v
    most[k.worker] = k.max(best)


@kernel(coarsen=1)
def counts(k: Grid, x: In[i32], bins: InOut[i32], low: InOut[i32], seen: InOut[u32]) -> None:
    """Atomics under masks and in loops of each lane."""
    i = k.index(x.size)
    v = x[i]
    for j in range(v & 3):
        if (v >> j) & 1 == 1:
            bins.atomic_add((v + j) & 7, j + 1)
    if v < 0:
        low.atomic_min(0, v)
        seen.atomic_or(v & 1, u32(1) << u32(v & 31))


@kernel(coarsen=1)
def turning(k: Grid, z: In[c64], w: InOut[c64]) -> None:
    i = k.index(z.size)
    p = z[i]
    if p.real > p.imag:
        p = p * p
        if p.imag < 0.0:
            w[i] = p + w[i]
            return
    w[i] = p - c64(1.0, 2.0)


@kernel(coarsen=1)
def integers(k: Grid, a: In[i32], b: In[u32], y: Out[i32], z: Out[u32]) -> None:
    """Quotients, remainders and shifts by values of each lane, of both kinds."""
    i = k.index()
    p, q = a[i], b[i]
    d = (p & 31) - 16
    d = where(d == 0, 5, d)
    y[i] = (p // d) * 7 + p % d - (p >> (p & 35)) + (p << u32(d & 7)) + i32(q % 1000 // 7)
    z[i] = q // (u32(p & 1023) + 1) + (q >> (q & 37)) * 3 + u32(p) % 10
