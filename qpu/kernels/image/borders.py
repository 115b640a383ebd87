"""Arguments of image functions, and what lies outside of an image: repeated edges, a mirror, or a constant."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.core.arguments import number, whole
from qpu.errors import UsageError
from qpu.kernels.common.operands import Memory, operand
from qpu.lang import f32, i32, maximum, minimum

__all__ = [
    "BORDERS",
    "TYPES",
    "check_border",
    "image",
    "odd",
    "outside",
    "padded",
    "pairs",
    "pixel",
    "placed",
    "places",
    "planes",
    "to_store",
]

TYPES: Final = (np.uint8, np.float32)
"""Of the elements of images."""
BORDERS: Final[dict[str, Any]] = {"clamp": "edge", "reflect": "reflect", "constant": "constant"}
"""Borders, and what `numpy.pad` calls them. A mirror does not repeat the edge."""


def placed(x: Any, r: Any, c: Any, border: str, value: Any) -> Any:
    """A pixel as it is stored, in a kernel."""
    if border == "constant":
        return x.get(r, c, value)
    if border == "clamp":
        return x.clamp[r, c]
    bottom, right = x.shape[0] - 1, x.shape[1] - 1
    return x[bottom - abs(bottom - abs(r)), right - abs(right - abs(c))]


def pixel(x: Any, r: Any, c: Any, border: str, value: Any) -> Any:
    """A pixel as a number, in a kernel."""
    return f32(placed(x, r, c, border, value))


def to_store(v: Any, byte: bool) -> Any:
    """A value as an image stores it: bytes are limited and rounded to the nearest, halves up."""
    return i32(minimum(maximum(v, 0.0), 255.0) + 0.5) if byte else v


def check_border(border: str, reach: int = 0, shape: tuple[int, ...] = (1, 1)) -> None:
    """Refuse a border that does not exist, or a mirror of more than there is. Raises: UsageError."""
    if border not in BORDERS:
        raise UsageError(f"border = {border!r}", help=f"allowed: {', '.join(BORDERS)}")
    if border == "reflect" and reach >= min(shape[:2]):
        raise UsageError(f"a mirror of {reach} pixels beyond an image of {list(shape[:2])}", help="border='clamp'")


def odd(name: str, value: Any) -> tuple[int, int]:
    """Odd numbers of rows and columns; one number is both. Raises: UsageError."""
    both = list(value) if isinstance(value, (tuple, list)) else [value, value]
    if len(both) != 2:
        raise UsageError(f"{name} = {value!r}; allowed: a number, or those of rows and columns", help="(3, 5)")
    rows, columns = (whole(name, n) for n in both)
    if rows < 1 or columns < 1 or rows % 2 == 0 or columns % 2 == 0:
        raise UsageError(f"{name} = {value}", help="allowed: odd numbers from 1, of rows and of columns")
    return rows, columns


def outside(value: Any, dtype: Any) -> float:
    """What a constant border of an image of that type is; of bytes a whole number of 0..255. Raises: UsageError."""
    if dtype == np.uint8:
        found = number("value", value, 0, 255)
        if not found.is_integer():
            raise UsageError(f"value = {value}; allowed: 0..255 for bytes", help="pass a whole number")
        return int(found)
    return math.nan if isinstance(value, float) and math.isnan(value) else number("value", value)


def image(name: str, value: Memory, mode: str = "in", dtypes: Any = TYPES) -> BufferView:
    """An image as a view of two or three axes. Raises: UsageError."""
    found = operand(name, value, dtypes, mode=mode)
    if len(found.shape) not in (2, 3) or (len(found.shape) == 3 and not 1 <= found.shape[2] <= 4):
        raise UsageError(
            f"{name} has the shape {list(found.shape)}; allowed: rows, columns, or rows, columns, 1..4 channels",
            help=f"part({name}, shape) gives it another shape",
        )
    return found


def planes(x: BufferView) -> list[BufferView]:
    """The channels of an image, two axes each."""
    return [x] if len(x.shape) == 2 else [x[:, :, n] for n in range(x.shape[2])]


def pairs(x: BufferView, out: BufferView, sized: bool = True) -> list[tuple[BufferView, BufferView]]:
    """The channels of two images that belong together. sized: both have one size. Raises: UsageError."""
    if x.shape[2:] != out.shape[2:] or (sized and x.shape != out.shape):
        wanted = list(x.shape) if sized else ["rows", "columns", *x.shape[2:]]
        raise UsageError(
            f"out has the shape {list(out.shape)}; allowed: {wanted}", help="gpu.empty(shape, dtype) for the result"
        )
    return list(zip(planes(x), planes(out), strict=True)) if x.size and out.size else []


def places(at: NDArray[Any], n: int, border: str) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Which of n pixels stand at the places `at`, and which of those are outside of an image with a constant border."""
    outside = (at < 0) | (at >= n)
    if border == "reflect":
        found = (n - 1) - np.abs((n - 1) - np.abs(at))
        return found.astype(np.int32), np.zeros(at.shape, bool)
    found = np.clip(at, 0, n - 1).astype(np.int32)
    return found, outside if border == "constant" else np.zeros(at.shape, bool)


def padded(x: NDArray[Any], rows: int, columns: int, border: str, value: float = 0.0) -> NDArray[np.float64]:
    """An image of two axes with its border, for references in NumPy."""
    more = {"constant_values": value} if border == "constant" else {}
    return np.pad(x.astype(np.float64), ((rows, rows), (columns, columns)), BORDERS[border], **more)
