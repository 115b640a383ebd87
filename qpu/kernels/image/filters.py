"""Filters: weighted sums of neighbouring pixels, separable ones in two passes, and edges.

Weights of few taps belong to the program; others are in memory, in tables that `tables` makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.core.arguments import number
from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, finite, separate
from qpu.kernels.common.retyped import name_of, retyped
from qpu.kernels.image.borders import check_border, image, odd, outside, padded, pairs, pixel, placed, to_store
from qpu.kernels.image.tables import of_weights, resample
from qpu.lang import Const, Grid, In2, Out2, f32, i32, kernel, sqrt, u8, unroll
from qpu.launch import Run

__all__ = ["box", "filter2d", "gaussian", "reference_filter2d", "reference_sobel", "separable", "sobel", "weights_of"]

LARGEST: Final = 2.0**64
"""Factor of edges."""
FEW: Final = 15
"""Taps of a pass along one axis that belong to the program."""
HIGH, WIDE = 5, 9
"""Taps down the columns of a pass over both axes, whose sums stay in registers from row to row, and in its rows."""
MANY: Final = 49
"""Taps of a filter of two axes that belong to the program; of larger ones they are in memory."""


@kernel(coarsen=1)
def along_columns(
    k: Grid, x: In2[f32], out: Out2[f32], weights: Const[tuple[float, ...]], border: Const[str], value: f32,
    byte: Const[bool],
) -> None:  # fmt: skip
    """Neighbours in a row."""
    r, c = k.index(*out.shape)
    acc = f32(0)
    for n in unroll(range(len(weights))):
        acc += weights[n] * pixel(x, r, c + n - len(weights) // 2, border, value)
    out[r, c] = to_store(acc, byte)


@kernel(march="y")
def along_rows(
    k: Grid, x: In2[f32], out: Out2[f32], weights: Const[tuple[float, ...]], border: Const[str], value: f32,
    byte: Const[bool],
) -> None:  # fmt: skip
    """Neighbours in a column."""
    r, c = k.index(*out.shape)
    acc = f32(0)
    for n in unroll(range(len(weights))):
        acc += weights[n] * pixel(x, r + n - len(weights) // 2, c, border, value)
    out[r, c] = to_store(acc, byte)


@kernel(march="y")
def along_both(
    k: Grid, x: In2[f32], out: Out2[f32], rows: Const[tuple[float, ...]], columns: Const[tuple[float, ...]],
    border: Const[str], value: f32, byte: Const[bool],
) -> None:  # fmt: skip
    """Neighbours in rows, then in columns."""
    r, c = k.index(*out.shape)
    acc = f32(0)
    for m in unroll(range(len(rows))):
        total = f32(0)
        for n in unroll(range(len(columns))):
            part = columns[n] * pixel(x, r + m - len(rows) // 2, c + n - len(columns) // 2, border, value)
            total = part if n == 0 else total + part
        acc = rows[m] * total if m == 0 else acc + rows[m] * total
    out[r, c] = to_store(acc, byte)


@kernel(march="y")
def along_both_exactly(
    k: Grid, x: In2[u8], out: Out2[u8], rows: Const[tuple[int, ...]], columns: Const[tuple[int, ...]],
    shift: Const[int], border: Const[str], value: i32,
) -> None:  # fmt: skip
    """As `along_both`, with weights that are integers over a power of two."""
    r, c = k.index(*out.shape)
    acc = i32(1 << shift >> 1)
    for m in unroll(range(len(rows))):
        total = i32(0)
        for n in unroll(range(len(columns))):
            part = columns[n] * placed(x, r + m - len(rows) // 2, c + n - len(columns) // 2, border, value)
            total = part if n == 0 else total + part
        acc += rows[m] * total
    out[r, c] = acc >> shift


def _exactly(rows: tuple[float, ...], columns: tuple[float, ...], value: float) -> tuple[Any, Any, int] | None:
    """Weights as integers and the bits of what they are over; None where they are negative or need too many bits, or
    where a result may be above 255.
    """
    found, shift = [], 0
    for weights in (rows, columns):
        bits = next((n for n in range(9) if all((w * (1 << n)).is_integer() for w in weights)), None)
        if bits is None or min(weights) < 0 or sum(weights) > 1:
            return None
        found.append(tuple(int(w * (1 << bits)) for w in weights))
        shift += bits
    return (found[0], found[1], shift) if value in range(256) else None


@kernel(march="y")
def of_area(
    k: Grid, x: In2[f32], out: Out2[f32], weights: Const[tuple[tuple[float, ...], ...]], border: Const[str],
    value: f32, byte: Const[bool],
) -> None:  # fmt: skip
    """Neighbours in rows and columns; weights of 0 cost nothing."""
    r, c = k.index(*out.shape)
    acc = f32(0)
    for m in unroll(range(len(weights))):
        for n in unroll(range(len(weights[0]))):
            if weights[m][n] != 0:
                dr, dc = m - len(weights) // 2, n - len(weights[0]) // 2
                acc += weights[m][n] * pixel(x, r + dr, c + dc, border, value)
    out[r, c] = to_store(acc, byte)


@kernel(coarsen=1)
def of_large_area(
    k: Grid, x: In2[f32], weights: In2[f32], out: Out2[f32], border: Const[str], value: f32, byte: Const[bool]
) -> None:
    """As `of_area`, with any number of weights."""
    r, c = k.index(*out.shape)
    up, left = weights.shape[0] >> 1, weights.shape[1] >> 1
    acc = f32(0)
    for m in range(weights.shape[0]):
        for n in range(weights.shape[1]):
            acc += weights[m, n] * pixel(x, r + m - up, c + n - left, border, value)
    out[r, c] = to_store(acc, byte)


@kernel(march="y")
def edges(
    k: Grid, x: In2[f32], out: Out2[f32], direction: Const[str], border: Const[str], value: f32, scale: f32,
    byte: Const[bool],
) -> None:  # fmt: skip
    """Sobel's operators, which share the eight neighbours."""
    r, c = k.index(*out.shape)
    p = [[pixel(x, r + m, c + n, border, value) if m != 0 or n != 0 else 0.0 for n in (-1, 0, 1)] for m in (-1, 0, 1)]
    across = (p[0][2] - p[0][0]) + 2.0 * (p[1][2] - p[1][0]) + (p[2][2] - p[2][0])
    down = (p[2][0] - p[0][0]) + 2.0 * (p[2][1] - p[0][1]) + (p[2][2] - p[0][2])
    if direction == "x":
        v = across
    elif direction == "y":
        v = down
    else:
        v = sqrt(across * across + down * down)
    out[r, c] = to_store(scale * v, byte)


def weights_of(sigma: float, radius: int | None = None) -> tuple[float, ...]:
    """Weights of a Gaussian, the sum 1; radius: 3 sigma, rounded up. Raises: UsageError."""
    if not 0 < number("sigma", sigma) <= 100:
        raise UsageError(f"sigma = {sigma}; allowed: above 0, up to 100", help="the width of the Gaussian in pixels")
    reach = max(1, int(np.ceil(3 * sigma))) if radius is None else radius
    w = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return tuple(float(v) for v in w / w.sum())


def _checked(name: str, weights: Sequence[float]) -> tuple[float, ...]:
    found = finite(name, weights)
    if found.ndim != 1 or len(found) % 2 == 0:
        raise UsageError(f"{name} are {found.size} numbers", help="allowed: an odd number of them, one after another")
    return tuple(map(float, found))


def _separable(
    jobs: Jobs, x: BufferView, out: BufferView, rows: tuple[float, ...], columns: tuple[float, ...], border: str,
    value: float,
) -> None:  # fmt: skip
    exact = _exactly(rows, columns, value) if x.dtype == out.dtype == np.uint8 else None
    if exact is not None and len(rows) <= HIGH and len(columns) <= WIDE:
        jobs.add(along_both_exactly, x, out, *exact, border, int(value))
        return
    if len(rows) <= HIGH and len(columns) <= WIDE:
        kind = retyped(along_both, "f32", x=name_of(x.dtype), out=name_of(out.dtype))
        jobs.add(kind, x, out, rows, columns, border, value, out.dtype == np.uint8)
        return
    # beyond the first or last row lie results of rows of the constant
    outer = float(np.float32(value) * np.float32(sum(columns)))
    if len(rows) > FEW or len(columns) > FEW:
        wide, high = of_weights(columns, x.shape[1], border, value), of_weights(rows, x.shape[0], border, outer)
        resample(jobs, x, out, high, wide)
        return
    between = jobs.scratch(x.shape, np.float32)
    first = retyped(along_columns, "f32", x=name_of(x.dtype))
    second = retyped(along_rows, "f32", out=name_of(out.dtype))
    jobs.add(first, x, between.view(0, x.shape), columns, border, value, False)
    jobs.add(second, between.view(0, x.shape), out, rows, border, outer, out.dtype == np.uint8)


@entry
def separable(
    x: Memory, out: Memory, rows: Sequence[float], columns: Sequence[float], border: str = "clamp", value: float = 0.0
) -> Run:
    """out[r, c] = the sum of rows[m] * columns[n] * x[r + m - M, c + n - N]; M, N: half of the odd numbers of weights.

    x, out: images of one shape, u8 or f32 each; bytes are rounded and limited to 0..255. border: "clamp", "reflect" or
    "constant", which is `value`. The sums are f32; the error is below taps + 2 roundings of the sum of magnitudes.
    """
    source, target = image("x", x), image("out", out, "out")
    w, v = _checked("rows", rows), _checked("columns", columns)
    check_border(border, max(len(w), len(v)) // 2, source.shape)
    value = outside(value, source.dtype)
    separate("out", target, x=source)
    with Jobs(device(x=source, out=target)) as jobs:
        for a, b in pairs(source, target):
            _separable(jobs, a, b, w, v, border, value)
        return jobs.run()


@entry
def box(x: Memory, out: Memory, size: int | tuple[int, int] = 3, border: str = "clamp", value: float = 0.0) -> Run:
    """The mean of the pixels around. size: odd, of rows and columns. See `separable`."""
    rows, columns = odd("size", size)
    return separable(x, out, (1.0 / rows,) * rows, (1.0 / columns,) * columns, border, value)


@entry
def gaussian(x: Memory, out: Memory, sigma: float, border: str = "clamp", value: float = 0.0) -> Run:
    """Gaussian blur. sigma: pixels; the weights reach 3 sigma. See `separable`."""
    w = weights_of(sigma)
    return separable(x, out, w, w, border, value)


@entry
def filter2d(x: Memory, out: Memory, weights: Any, border: str = "clamp", value: float = 0.0) -> Run:
    """out[r, c] = the sum of weights[m, n] * x[r + m - M, c + n - N]: the weights as they lie, not turned.

    weights: odd numbers of rows and columns; up to 49 belong to the program, more are in memory. See `separable`.
    """
    w = finite("weights", weights)
    if w.ndim != 2 or w.shape[0] % 2 == 0 or w.shape[1] % 2 == 0:
        raise UsageError(f"weights of shape {w.shape}", help="allowed: odd rows and columns of numbers")
    source, target = image("x", x), image("out", out, "out")
    check_border(border, max(w.shape) // 2, source.shape)
    value = outside(value, source.dtype)
    separate("out", target, x=source)
    const = tuple(tuple(float(v) for v in row) for row in w)
    stored = {"x": name_of(source.dtype), "out": name_of(target.dtype)}
    with Jobs(device(x=source, out=target)) as jobs:
        table = jobs.constant(w) if w.size > MANY else None
        for a, b in pairs(source, target):
            if table is None:
                jobs.add(retyped(of_area, "f32", **stored), a, b, const, border, value, target.dtype == np.uint8)
            else:
                large = retyped(of_large_area, "f32", **stored)
                jobs.add(large, a, table, b, border, value, target.dtype == np.uint8)
        return jobs.run()


@entry
def sobel(
    x: Memory, out: Memory, direction: str = "magnitude", scale: float = 1.0, border: str = "clamp", value: float = 0.0
) -> Run:
    """Edges: scale times the differences of Sobel "x" or "y", or the root of the sum of their squares ("magnitude").

    See `separable`; bytes hold nothing below 0.
    """
    if direction not in ("x", "y", "magnitude"):
        raise UsageError(f"direction = {direction!r}", help="allowed: 'x', 'y', 'magnitude'")
    source, target = image("x", x), image("out", out, "out")
    check_border(border, 1, source.shape)
    value, scale = outside(value, source.dtype), number("scale", scale, -LARGEST, LARGEST)
    separate("out", target, x=source)
    kind = retyped(edges, "f32", x=name_of(source.dtype), out=name_of(target.dtype))
    with Jobs(device(x=source, out=target)) as jobs:
        for a, b in pairs(source, target):
            jobs.add(kind, a, b, direction, border, value, scale, target.dtype == np.uint8)
        return jobs.run()


def reference_filter2d(x: NDArray[Any], weights: Any, border: str = "clamp", value: float = 0.0) -> NDArray[np.float64]:
    """The same as `filter2d` of an image of two axes in NumPy, before rounding to bytes."""
    w = np.asarray(weights, np.float64)
    p = padded(x, w.shape[0] // 2, w.shape[1] // 2, border, value)
    return sum(
        (w[m, n] * p[m : m + x.shape[0], n : n + x.shape[1]] for m in range(w.shape[0]) for n in range(w.shape[1])),
        np.zeros(x.shape),
    )


def reference_sobel(
    x: NDArray[Any], direction: str = "magnitude", border: str = "clamp", value: float = 0.0
) -> NDArray[np.float64]:
    """The same as `sobel` of an image of two axes in NumPy."""
    w = np.outer((1, 2, 1), (-1, 0, 1))
    across, down = (reference_filter2d(x, v, border, value) for v in (w, w.T))
    return {"x": across, "y": down}.get(direction, np.hypot(across, down))
