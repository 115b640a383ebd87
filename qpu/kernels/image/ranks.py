"""Filters by order: medians by networks of exchanges, and the smallest and largest pixels around."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, separate
from qpu.kernels.common.retyped import name_of, retyped
from qpu.kernels.image.borders import check_border, image, odd, outside, padded, pairs, placed
from qpu.lang import Const, Grid, In2, Out2, f32, kernel, maximum, minimum, unroll
from qpu.launch import Run

__all__ = ["dilate", "erode", "median", "reference_rank"]


def ends_out(values: list[Any]) -> list[Any]:
    """The values without the smallest and the largest."""
    v = list(values)
    n = len(v)
    for a in unroll(range(n // 2)):  # the smaller of each pair to the front
        v[a], v[n - 1 - a] = minimum(v[a], v[n - 1 - a]), maximum(v[a], v[n - 1 - a])
    for a in unroll(range(1, (n + 1) // 2)):
        v[0], v[a] = minimum(v[0], v[a]), maximum(v[0], v[a])
    for a in unroll(range(n // 2, n - 1)):
        v[a], v[n - 1] = minimum(v[a], v[n - 1]), maximum(v[a], v[n - 1])
    return v[1:-1]


@kernel(march="y")
def middle(k: Grid, x: In2[f32], out: Out2[f32], size: Const[int], border: Const[str], value: f32) -> None:
    """Some more than half of the values lose their smallest and largest, and one more comes in, until one is left."""
    r, c = k.index(*out.shape)
    at = [(m - size // 2, n - size // 2) for m in range(size) for n in range(size)]
    v = [placed(x, r + dr, c + dc, border, value) for dr, dc in at[: len(at) // 2 + 2]]
    for dr, dc in unroll(at[len(at) // 2 + 2 :]):
        v = [*ends_out(v), placed(x, r + dr, c + dc, border, value)]
    out[r, c] = ends_out(v)[0]


@kernel(coarsen=1)
def extreme(
    k: Grid, x: In2[f32], out: Out2[f32], size: Const[int], down: Const[bool], largest: Const[bool],
    border: Const[str], value: f32,
) -> None:  # fmt: skip
    """Along one axis."""
    r, c = k.index(*out.shape)
    best = None
    for n in unroll(range(size)):
        d = n - size // 2
        v = placed(x, r + d, c, border, value) if down else placed(x, r, c + d, border, value)
        best = v if n == 0 else maximum(best, v) if largest else minimum(best, v)
    out[r, c] = best


@kernel(march="y")
def extreme_of_area(
    k: Grid, x: In2[f32], out: Out2[f32], rows: Const[int], columns: Const[int], largest: Const[bool],
    border: Const[str], value: f32,
) -> None:  # fmt: skip
    """Along both axes."""
    r, c = k.index(*out.shape)
    best = None
    for m in unroll(range(rows)):
        line = None
        for n in unroll(range(columns)):
            v = placed(x, r + m - rows // 2, c + n - columns // 2, border, value)
            line = v if n == 0 else maximum(line, v) if largest else minimum(line, v)
        best = line if m == 0 else maximum(best, line) if largest else minimum(best, line)
    out[r, c] = best


HIGH: Final = 7
"""Rows and columns of a rectangle whose extremes stay in registers from row to row."""
LONG: Final = 31
"""Pixels of a line in one launch; longer lines take several, which add their reaches."""


def _lines(size: int) -> list[int]:
    """Lines whose extremes, one after another, are those of a line of `size` pixels."""
    full, rest = divmod(size - 1, LONG - 1)
    return [LONG] * full + ([rest + 1] if rest or not full else [])


def _value(dtype: Any) -> str:
    return "i32" if dtype == np.uint8 else "f32"


def _same(x: Any, out: Any) -> None:
    if x.dtype != out.dtype:
        raise UsageError(f"out holds {out.dtype} and x {x.dtype}; allowed: one type", help="gpu.empty(shape, x.dtype)")


@entry
def median(x: Memory, out: Memory, size: int = 3, border: str = "clamp", value: float = 0) -> Run:
    """The median of size x size pixels, size 3 or 5. x, out: images of one shape and type, u8 or f32; borders as for
    `separable`. With a NaN among the pixels: unspecified.
    """
    if size not in (3, 5):
        raise UsageError(f"size = {size}", help="allowed: 3, 5")
    source, target = image("x", x), image("out", out, "out")
    _same(source, target)
    check_border(border, size // 2, source.shape)
    constant = outside(value, source.dtype)
    separate("out", target, x=source)
    stored = name_of(source.dtype)
    kind = retyped(middle, _value(source.dtype), x=stored, out=stored)
    with Jobs(device(x=source, out=target)) as jobs:
        for a, b in pairs(source, target):
            jobs.add(kind, a, b, size, border, constant)
        return jobs.run()


def _extreme(x: Memory, out: Memory, size: int | tuple[int, int], largest: bool, border: str, value: float) -> Run:
    rows, columns = odd("size", size)
    source, target = image("x", x), image("out", out, "out")
    _same(source, target)
    check_border(border, max(rows, columns) // 2, source.shape)
    separate("out", target, x=source)
    stored = name_of(source.dtype)
    kind = retyped(extreme, _value(source.dtype), x=stored, out=stored)
    constant = outside(value, source.dtype)
    with Jobs(device(x=source, out=target)) as jobs:
        for a, b in pairs(source, target):
            if max(rows, columns) <= HIGH:
                both = retyped(extreme_of_area, _value(source.dtype), x=stored, out=stored)
                jobs.add(both, a, b, rows, columns, largest, border, constant)
                continue
            steps = [(n, False) for n in _lines(columns)] + [(n, True) for n in _lines(rows)]
            for size_, down in steps[:-1]:
                between = jobs.scratch(a.shape, a.dtype).view(0, a.shape)
                jobs.add(kind, a, between, size_, down, largest, border, constant)
                a = between
            jobs.add(kind, a, b, *steps[-1], largest, border, constant)
        return jobs.run()


@entry
def erode(x: Memory, out: Memory, size: int | tuple[int, int] = 3, border: str = "clamp", value: float = 0) -> Run:
    """The smallest pixel of a rectangle around. size: odd, of rows and columns. See `median`."""
    return _extreme(x, out, size, False, border, value)


@entry
def dilate(x: Memory, out: Memory, size: int | tuple[int, int] = 3, border: str = "clamp", value: float = 0) -> Run:
    """The largest pixel of a rectangle around. size: odd, of rows and columns. See `median`."""
    return _extreme(x, out, size, True, border, value)


def reference_rank(
    x: NDArray[Any], rows: int, columns: int, rank: str, border: str = "clamp", value: float = 0
) -> NDArray[Any]:
    """Medians ("median"), smallest ("min") or largest ("max") pixels of an image of two axes in NumPy."""
    p = padded(x, rows // 2, columns // 2, border, value)
    windows = np.lib.stride_tricks.sliding_window_view(p, (rows, columns))
    function: Any = {"median": np.median, "min": np.min, "max": np.max}[rank]
    return np.asarray(function(windows, axis=(2, 3))).astype(x.dtype)
