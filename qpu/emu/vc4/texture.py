"""Texture lookups of VideoCore IV that compute programs use: 32-bit texels, nearest, one level, 2D.

Everything else (filtering, mip levels, cube maps, child images, other types) raises a `TextureError` that names it.
Source: VideoCore IV 3D architecture guide, texture chapter; storage orders as the Mesa driver uses them on hardware.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.memory import Memory
from qpu.emu.engine.numpy_lanes import LANES

__all__ = ["Request", "TextureError", "lookup", "texel_offsets"]

_BASE_MASK = 0x3FFFF000
_NAMES = (
    "RGBA8888", "RGBX8888", "RGBA4444", "RGBA5551", "RGB565", "luminance8", "alpha8", "lum-alpha", "ETC1", "S16F",
    "S8", "S16", "BW1", "A4", "A1", "RGBA64", "RGBA32 raster", "YUYV raster",
)  # fmt: skip
_RGBA8888, _RGBX8888, _RGBA32R = 0, 1, 16
_MICRO = 4  # a 64-byte micro-tile of 32-bit texels is 4 x 4
_SUB = 16  # a 1 KiB sub-tile
_TILE = 32  # a 4 KiB tile
# Position in memory of the sub-tile at (x, y) of a tile, by parity of the tile row.
_SUB_ORDER = np.array([[[0, 3], [1, 2]], [[2, 1], [3, 0]]])  # [parity][y][x]


class TextureError(Exception):
    """A lookup that cannot be done. address: set when it reads outside GPU memory."""

    def __init__(self, rule: str, message: str, *, address: int | None = None, lane: int | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.address = address
        self.lane = lane


@dataclass(slots=True)
class Request:
    """A texture request under construction. components: s, t, r, b -> 16 raw floats; setup: words in write order."""

    components: dict[str, NDArray[np.uint32]] = field(default_factory=dict)
    setup: list[int] = field(default_factory=list)


def _wrap(position: NDArray[np.int64], size: int, mode: int) -> NDArray[np.int64]:
    """Texel number inside the image. mode: 0 repeat, 1 clamp, 2 mirror, 3 border, which gives -1 outside."""
    if mode == 0:
        return position % size
    if mode == 1:
        return np.clip(position, 0, size - 1)
    if mode == 2:
        folded = position % (2 * size)
        return np.where(folded < size, folded, 2 * size - 1 - folded)
    return np.where((position >= 0) & (position < size), position, -1)


def texel_offsets(kind: str, x: NDArray[np.int64], y: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Byte offsets of 32-bit texels. kind: ``raster``, ``lt`` or ``t``; width in texels."""
    if kind == "raster":
        return (y * width + x) * 4
    inner = (y % _MICRO * _MICRO + x % _MICRO) * 4
    if kind == "lt":
        across = -(-width // _MICRO)
        return (y // _MICRO * across + x // _MICRO) * 64 + inner
    across = -(-width // _TILE)
    row, column = y // _TILE, x // _TILE
    odd = row % 2
    tile = row * across + np.where(odd == 1, across - 1 - column, column)
    sub = _SUB_ORDER[odd, y % _TILE // _SUB, x % _TILE // _SUB]
    micro = y % _SUB // _MICRO * (_SUB // _MICRO) + x % _SUB // _MICRO
    return np.asarray(tile * 4096 + sub * 1024 + micro * 64 + inner)


def lookup(request: Request, memory: Memory) -> tuple[NDArray[np.uint32], tuple[str, ...]]:
    """The packed texels of 16 lanes, shape (16,), and what is uncertain about them.

    Raises: TextureError.
    """
    setup = request.setup
    if len(setup) < 2:
        raise TextureError("texture-setup", "a texture request needs at least s and t, hence two setup words")
    if any(word >> 30 for word in setup[2:]):
        raise TextureError("texture-unsupported", "cube maps and child images are not emulated")
    one, two = setup[0], setup[1]
    kind = (one >> 4 & 15) | (two >> 31) << 4
    if kind not in (_RGBA8888, _RGBX8888, _RGBA32R):
        name = _NAMES[kind] if kind < len(_NAMES) else f"type {kind}"
        raise TextureError("texture-unsupported", f"texture type {name} is not emulated; 32-bit RGBA types are")
    if one >> 9 & 1:
        raise TextureError("texture-unsupported", "cube maps are not emulated")
    height, width = (two >> 20 & 0x7FF) or 2048, (two >> 8 & 0x7FF) or 2048
    minify = two >> 4 & 7
    if minify > 1 and one & 15:
        raise TextureError("texture-unsupported", "lookups in mip levels are not emulated; min filter 0 or 1 is")
    if minify != 1 or not two >> 7 & 1:
        raise TextureError("texture-unsupported", "linear filtering is not emulated; set mag and min filter to nearest")
    zero = np.zeros(LANES, np.uint32)
    s, t = (request.components.get(c, zero).view(np.float32).astype(np.float64) for c in "st")
    with np.errstate(all="ignore"):
        column, row = np.floor(s * width), np.floor(t * height)
    for lane in range(LANES):
        if not (abs(column[lane]) < 2**31 and abs(row[lane]) < 2**31):
            raise TextureError("texture-coordinate", f"coordinate ({s[lane]}, {t[lane]}) is out of range", lane=lane)
    x = _wrap(column.astype(np.int64), width, two & 3)
    y = _wrap(row.astype(np.int64), height, two >> 2 & 3)
    border = (x < 0) | (y < 0)
    x, y = np.where(border, 0, x), np.where(border, 0, y)
    if one >> 8 & 1:
        y = height - 1 - y
    concerns: list[str] = []
    if kind == _RGBA32R:
        layout = "raster"
        if width & (width - 1):
            concerns.append(f"raster texture {width} texels wide: hardware assumes a power of two (issue 2898)")
    elif width <= _MICRO * 4 or height <= _MICRO * 4:
        layout = "lt"
    else:
        layout = "t"
        if width < _TILE or height < _TILE:
            concerns.append("the guide stores images smaller than a 4 KiB tile in LT order, Mesa from 16 texels down")
    address = (one & _BASE_MASK) + texel_offsets(layout, x, y, width)
    lanes = address.astype(np.uint32)
    legal = memory.legal(lanes)
    if not legal.all():
        lane = int(np.flatnonzero(~legal)[0])
        raise TextureError("out-of-bounds", "texture read", address=int(lanes[lane]), lane=lane)
    texels = memory.words[lanes >> np.uint32(2)]
    if kind == _RGBX8888:
        texels = texels | np.uint32(0xFF000000)
    if border.any():
        colour = request.components.get("r", zero)[0]
        texels = np.where(border, colour, texels)
    return texels, tuple(concerns)
