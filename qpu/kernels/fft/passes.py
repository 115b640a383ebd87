"""The kernels of the Fourier transform: passes of radix 4 and 2, real input and output, chirps.

A pass takes n numbers as R runs inside blocks: with p numbers in a run, item i of n / R is place k = i % p of its
block, reads the numbers p apart there, transforms the R of them, turns result j by j k of R p parts of a circle, and
writes it to part j of the output (Stockham, decimation in frequency: no reordering). So stores are contiguous in every
pass, and only loads are spread. From pass to pass p falls to a quarter; the last pass, p = 1, turns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qpu.lang import Const, Grid, In, In2, Out, Out2, Out3, c64, f32, i32, kernel, maximum, unroll, where

if TYPE_CHECKING:
    from qpu.buffers import BufferView

__all__ = [
    "Pass",
    "chirped",
    "copied",
    "copied_real",
    "from_real",
    "joined",
    "last2",
    "last4",
    "last4_pairs",
    "last4_runs",
    "mirrored",
    "real_parts",
    "split",
    "times",
    "turned4",
    "turned4_pairs",
    "turned4_runs",
]


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass works on. x, y: rows of complex numbers, contiguous. w: factors (see `passes.turned4`), unless p = 1.

    p: numbers in a run of an item's inputs. scale: of the results of the last pass.
    """

    x: BufferView
    y: BufferView
    w: BufferView | None
    radix: int
    p: int
    inverse: bool
    scale: float

    @property
    def rows(self) -> int:
        return self.x.shape[0]

    @property
    def n(self) -> int:
        """Numbers in a row."""
        return self.x.shape[1]


def _four(inverse: bool, a: Any, b: Any, c: Any, d: Any) -> list[tuple[Any, Any]]:
    """The transform of four numbers, forward or inverse, as pairs."""
    sr, si, tr, ti = a.real + c.real, a.imag + c.imag, a.real - c.real, a.imag - c.imag
    ur, ui, vr, vi = b.real + d.real, b.imag + d.imag, b.real - d.real, b.imag - d.imag
    plus, minus = (tr - vi, ti + vr), (tr + vi, ti - vr)
    return [(sr + ur, si + ui), plus if inverse else minus, (sr - ur, si - ui), minus if inverse else plus]


def _product(a: tuple[Any, Any], b: Any) -> Any:
    return c64(a[0] * b.real - a[1] * b.imag, a[0] * b.imag + a[1] * b.real)


@kernel(coarsen=1)
def turned4(k: Grid, inverse: Const[bool], x: In[c64], w: In[c64], y: Out3[c64], p: i32, high: i32) -> None:
    """x: rows of n; w: for j = 1, 2, 3 the p factors of result j; y: (rows, 4 * high, n / 4 / high)."""
    r, h, c = k.index(y.shape[0], high, y.shape[2])
    i = h * y.shape[2] + c
    q = i & (p - 1)
    at = (r * high * y.shape[2] + i) * 4 - q * 3
    found = _four(inverse, x[at], x[at + p], x[at + 2 * p], x[at + 3 * p])
    y[r, h, c] = c64(*found[0])
    for j in unroll(range(1, 4)):
        y[r, j * high + h, c] = _product(found[j], w[(j - 1) * p + q])


@kernel(coarsen=1)
def last4(k: Grid, inverse: Const[bool], scale: f32, x: In[c64], y: Out3[c64], high: i32) -> None:
    """The pass with p = 1; the result is multiplied by `scale`."""
    r, h, c = k.index(y.shape[0], high, y.shape[2])
    at = (r * high * y.shape[2] + h * y.shape[2] + c) * 4
    found = _four(inverse, x[at], x[at + 1], x[at + 2], x[at + 3])
    for j in unroll(range(4)):
        y[r, j * high + h, c] = c64(scale * found[j][0], scale * found[j][1])


# Two neighbouring items at once, as words: the TMU of V3D moves the four words of two numbers by one request. It stores
# to any places, too, so all rows are one range of items there.


def _two(x: Any, at: Any) -> tuple[Any, Any]:
    """Two neighbouring numbers."""
    return c64(x[at], x[at + 1]), c64(x[at + 2], x[at + 3])


def _put(y: Any, at: Any, a: tuple[Any, Any], b: tuple[Any, Any]) -> None:
    """Store two neighbouring numbers."""
    y[at] = a[0]
    y[at + 1] = a[1]
    y[at + 2] = b[0]
    y[at + 3] = b[1]


@kernel(coarsen=1)
def turned4_pairs(
    k: Grid, inverse: Const[bool], x0: In[f32], x1: In[f32], x2: In[f32], x3: In[f32],
    w1: In[f32], w2: In[f32], w3: In[f32], y: Out[f32], p: i32, part: i32,
) -> None:  # fmt: skip
    """`turned4` of words, two a number. p: words in a run of x, 4 or more; part: in a quarter of a row of y.

    x1: x0 from its p-th word on, and so on; so do the factors: one place serves all of them.
    """
    i = k.index(y.size >> 4) * 4
    q, c = i & (p - 1), i & (part - 1)
    at, to = (i - q) * 4 + q, (i - c) * 4 + c
    runs = [_two(x, at) for x in (x0, x2, x1, x3)]  # in this order, V3D 4.2 takes the fewest instructions
    a, b = [_four(inverse, *[runs[j][n] for j in (0, 2, 1, 3)]) for n in unroll(range(2))]
    _put(y, to, a[0], b[0])
    for j, w in unroll([(1, w1), (2, w2), (3, w3)]):
        t = _two(w, q)
        v, u = _product(a[j], t[0]), _product(b[j], t[1])
        _put(y, to + j * part, (v.real, v.imag), (u.real, u.imag))


@kernel(coarsen=1)
def last4_pairs(k: Grid, inverse: Const[bool], scale: f32, x: In[f32], y: Out[f32], part: i32) -> None:
    """`last4` of words, two a number. part: words in a quarter of a row of y."""
    i = k.index(y.size >> 4) * 4
    c = i & (part - 1)
    to = (i - c) * 4 + c
    runs = [_two(x, i * 4 + 4 * j) for j in unroll(range(4))]
    a = _four(inverse, *runs[0], *runs[1])
    b = _four(inverse, *runs[2], *runs[3])
    for j in unroll(range(4)):
        _put(y, to + j * part, (scale * a[j][0], scale * a[j][1]), (scale * b[j][0], scale * b[j][1]))


# The same for many rows, or short runs: a lane keeps its place in a run, and with it the factors, and goes through
# `share` groups of items, from one run to the next one, in the end of a row to the next row.


def _further(to: Any, gap: Any, unit: Any) -> Any:
    """The place `unit` words further in the first quarter of a row, or of the next row: a carry passes `gap`."""
    return ((to | gap) + unit) & ~gap


@kernel(coarsen=1)
def turned4_runs(
    k: Grid, inverse: Const[bool], x0: In[f32], x1: In[f32], x2: In[f32], x3: In[f32], w: In[f32], y: Out[f32],
    p: i32, part: i32, items: i32, places: i32, shift: i32, start: i32, share: i32,
) -> None:  # fmt: skip
    """`turned4_pairs` of groups from number `start` on.

    places: those of lanes in a run, at least 16; shift: its logarithm. items: places times shares.
    """
    i = k.index(items)
    place = 4 * (i & (places - 1))
    first = start + (i >> shift) * share
    q = place & (p - 1)
    unit = maximum(p, 64)
    step, gap = 4 * unit, 3 * part
    at = 4 * place - 3 * q + step * first
    o = place + unit * first
    to = 4 * o - 3 * (o & (part - 1))
    t = [_two(w, q + j * p) for j in unroll(range(3))]
    for _ in range(share):  # in this order, V3D 4.2 takes 73 instructions and 7.1 takes 60; in most others up to 80
        a0, b0 = _two(x0, at)
        a2, b2 = _two(x2, at)
        a1, b1 = _two(x1, at)
        a3, b3 = _two(x3, at)
        a, b = _four(inverse, a0, a1, a2, a3), _four(inverse, b0, b1, b2, b3)
        v, u = _product(a[2], t[1][0]), _product(b[2], t[1][1])
        _put(y, to + 2 * part, (v.real, v.imag), (u.real, u.imag))
        _put(y, to, a[0], b[0])
        for j in unroll([1, 3]):
            v, u = _product(a[j], t[j - 1][0]), _product(b[j], t[j - 1][1])
            _put(y, to + j * part, (v.real, v.imag), (u.real, u.imag))
        at += step
        to = _further(to, gap, unit)


@kernel(coarsen=1)
def last4_runs(
    k: Grid, inverse: Const[bool], scale: f32, x0: In[f32], x1: In[f32], x2: In[f32], x3: In[f32], y: Out[f32],
    part: i32, items: i32, start: i32, share: i32, one: Const[bool],
) -> None:  # fmt: skip
    """`last4_pairs` of groups from number `start` on; x1: x0 from its fourth word on, and so on. one: scale is 1."""
    i = k.index(items)
    o = 4 * (i & 15) + 64 * (start + (i >> 4) * share)
    at = 4 * o
    to = at - 3 * (o & (part - 1))
    gap = 3 * part
    for _ in range(share):
        runs = [_two(x, at) for x in (x0, x1, x2, x3)]
        a, b = _four(inverse, *runs[0], *runs[1]), _four(inverse, *runs[2], *runs[3])
        for j in unroll([0, 2, 1, 3]):
            if one:
                _put(y, to + j * part, a[j], b[j])
            else:
                _put(y, to + j * part, (scale * a[j][0], scale * a[j][1]), (scale * b[j][0], scale * b[j][1]))
        at += 256
        to = _further(to, gap, 64)


@kernel(coarsen=1)
def last2(k: Grid, scale: f32, x: In[c64], y: Out3[c64], high: i32) -> None:
    """The pass with p = 1 of lengths that are not powers of 4."""
    r, h, c = k.index(y.shape[0], high, y.shape[2])
    at = (r * high * y.shape[2] + h * y.shape[2] + c) * 2
    a, b = x[at], x[at + 1]
    y[r, h, c] = c64(scale * (a.real + b.real), scale * (a.imag + b.imag))
    y[r, high + h, c] = c64(scale * (a.real - b.real), scale * (a.imag - b.imag))


# -- real numbers


@kernel(coarsen=1)
def split(k: Grid, z: In2[c64], w: In[c64], y: Out2[c64]) -> None:
    """The n / 2 + 1 results for n real numbers, from the transform z of their pairs as complex numbers.

    w: exp(-2 pi i j / n) / 2.
    """
    r, j = k.index(*y.shape)
    half = y.shape[1] - 1
    a = z[r, where(j == half, 0, j)]
    b = z[r, where(j == 0, 0, half - j)]
    t = w[j]
    sr, si = a.real + b.real, a.imag - b.imag
    dr, di = a.imag + b.imag, b.real - a.real
    y[r, j] = c64(0.5 * sr + (dr * t.real - di * t.imag), 0.5 * si + (dr * t.imag + di * t.real))


@kernel(coarsen=1)
def joined(k: Grid, x: In2[c64], w: In[c64], z: Out2[c64]) -> None:
    """The inverse of `split`, times 2. w: exp(-2 pi i j / n) / 2. The imaginary parts of the first and of the last
    number count as zero.
    """
    r, j = k.index(*z.shape)
    half = z.shape[1]
    a, b, t = x[r, j], x[r, half - j], w[j]
    ai, bi = where(j == 0, 0.0, a.imag), where(j == 0, 0.0, b.imag)
    dr, di = 2 * (a.real - b.real), 2 * (ai + bi)
    z[r, j] = c64(a.real + b.real - (dr * -t.imag + di * t.real), ai - bi + (dr * t.real - di * -t.imag))


@kernel(coarsen=1)
def mirrored(k: Grid, x: In2[c64], z: Out2[c64]) -> None:
    """All n numbers of which the second half are the conjugates of the first in the opposite order."""
    r, j = k.index(*z.shape)
    there = j < x.shape[1]
    v = x[r, where(there, j, z.shape[1] - j)]
    z[r, j] = c64(v.real, where(j == 0, 0.0, where(there, v.imag, -v.imag)))


@kernel(coarsen=1)
def real_parts(k: Grid, x: In2[c64], y: Out2[f32]) -> None:
    r, j = k.index(*y.shape)
    y[r, j] = x[r, j].real


@kernel(coarsen=1)
def from_real(k: Grid, x: In2[f32], y: Out2[c64]) -> None:
    r, j = k.index(*y.shape)
    y[r, j] = c64(x[r, j], 0.0)


@kernel(coarsen=1)
def copied(k: Grid, x: In2[c64], y: Out2[c64]) -> None:
    r, j = k.index(*y.shape)
    v = x[r, j]
    y[r, j] = c64(v.real, v.imag)


@kernel(coarsen=1)
def copied_real(k: Grid, x: In2[f32], y: Out2[f32]) -> None:
    r, j = k.index(*y.shape)
    y[r, j] = x[r, j]


# -- lengths that are not powers of two


@kernel(coarsen=1)
def chirped(k: Grid, x: In2[c64], w: In[c64], y: Out2[c64]) -> None:
    """x times w, and zeros past the end of x's rows."""
    r, j = k.index(*y.shape)
    v, t = x[r, min(j, x.shape[1] - 1)], w[min(j, x.shape[1] - 1)]
    inside = j < x.shape[1]
    re, im = v.real * t.real - v.imag * t.imag, v.real * t.imag + v.imag * t.real
    y[r, j] = c64(where(inside, re, 0.0), where(inside, im, 0.0))


@kernel(coarsen=1)
def times(k: Grid, x: In2[c64], w: In[c64], y: Out2[c64]) -> None:
    """x times w, for the columns of y."""
    r, j = k.index(*y.shape)
    v, t = x[r, j], w[j]
    y[r, j] = c64(v.real * t.real - v.imag * t.imag, v.real * t.imag + v.imag * t.real)
