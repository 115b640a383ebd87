"""Colours and brightness: grey, YUV 4:2:0 of cameras, thresholds, tables, blending, tinting, equalisation.

Bytes are computed in integers, so that every board gives what the references in NumPy give. Coefficients: BT.601.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.core.arguments import number, within
from qpu.errors import UsageError
from qpu.kernels import search
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, finite, operand, part, separate
from qpu.kernels.common.retyped import name_of, retyped
from qpu.kernels.common.shapes import collected, returned
from qpu.kernels.image.borders import image, pairs, to_store
from qpu.lang import Const, Grid, In, In2, In3, Out2, f32, i32, kernel, mul24, u8, u32, unroll, where
from qpu.launch import Run

__all__ = [
    "blend", "equalise", "grey", "histogram", "lookup", "reference_grey", "reference_rgb_of_yuv420",
    "reference_yuv420_of_rgb", "rgb_of_grey", "rgb_of_yuv420", "threshold", "tint", "yuv420_of_rgb",
]  # fmt: skip

BITS: Final = 14
"""Of the fixed point of coefficients."""
LUMA: Final = (4899, 9617, 1868)
CHROMA: Final = {"u": (-2765, -5427, 8192), "v": (8192, -6860, -1332)}
FULL: Final = {"offset": 0, "y": 16384, "rv": 22970, "gu": -5638, "gv": -11700, "bu": 29032}
"""Y of 0..255, as JPEG files and cameras have it."""
VIDEO: Final = {"offset": 16, "y": 19077, "rv": 26149, "gu": -6419, "gv": -13320, "bu": 33050}
"""Y of 16..235, as video has it."""
WIDEST: Final = 98303 // 3
"""Columns of an image whose elements `pixel_of` counts."""


def pixel_of(e: Any) -> Any:
    """The pixel of an element of a row with three channels: e // 3, exact below 98304."""
    return i32((u32(e) * 43691) >> 17)


@kernel(coarsen=1)
def weighted(k: Grid, x: In3[u8], out: Out2[u8], a: i32, b: i32, c: i32) -> None:
    """Bytes of three channels under weights of 2**-14."""
    p, q = k.index(*out.shape)
    total = mul24(x[p, q, 0], a) + mul24(x[p, q, 1], b) + mul24(x[p, q, 2], c)
    out[p, q] = (total + 8192) >> 14


@kernel(coarsen=1)
def weighted_floats(k: Grid, x: In3[f32], out: Out2[f32], a: f32, b: f32, c: f32) -> None:
    p, q = k.index(*out.shape)
    out[p, q] = a * x[p, q, 0] + b * x[p, q, 1] + c * x[p, q, 2]


@kernel(coarsen=1)
def spread(k: Grid, x: In2[i32], out: Out2[i32]) -> None:
    p, e = k.index(*out.shape)
    out[p, e] = x[p, pixel_of(e)]


@kernel(coarsen=1)
def chroma(k: Grid, x: In3[u8], out: Out2[u8], a: i32, b: i32, c: i32) -> None:
    """The mean of four pixels, weighted."""
    p, q = k.index(*out.shape)
    total = i32(0)
    for m in unroll(range(2)):
        for n in unroll(range(2)):
            r, s = min(2 * p + m, x.shape[0] - 1), min(2 * q + n, x.shape[1] - 1)
            total += mul24(x[r, s, 0], a) + mul24(x[r, s, 1], b) + mul24(x[r, s, 2], c)
    out[p, q] = u8.sat(((total + (1 << 15)) >> 16) + 128)


@kernel(coarsen=1)
def to_rgb(
    k: Grid, y: In2[u8], u: In2[u8], v: In2[u8], out: Out2[u8], offset: i32, scale: i32, rv: i32, gu: i32, gv: i32,
    bu: i32,
) -> None:  # fmt: skip
    """An element of a row: its channel decides the coefficients."""
    p, e = k.index(*out.shape)
    q = pixel_of(e)
    channel = e - 3 * q
    of_u = where(channel == 2, bu, where(channel == 1, gu, 0))
    of_v = where(channel == 0, rv, where(channel == 1, gv, 0))
    total = mul24(y[p, q] - offset, scale) + mul24(u[p >> 1, q >> 1] - 128, of_u)
    total += mul24(v[p >> 1, q >> 1] - 128, of_v)
    out[p, e] = u8.sat((total + 8192) >> 14)


@kernel
def above_level(k: Grid, x: In2[f32], out: Out2[f32], level: f32, above: f32, below: f32) -> None:
    p, q = k.index(*out.shape)
    out[p, q] = where(x[p, q] > level, above, below)


@kernel(coarsen=1)
def looked_up(k: Grid, x: In2[u8], table: In[f32], out: Out2[f32]) -> None:
    p, q = k.index(*out.shape)
    out[p, q] = table[x[p, q]]


@kernel
def mixed_bytes(k: Grid, x: In2[u8], y: In2[u8], out: Out2[u8], share: i32) -> None:
    p, q = k.index(*out.shape)
    a = x[p, q]
    out[p, q] = a + ((mul24(y[p, q] - a, share) + 128) >> 8)


@kernel
def mixed_floats(k: Grid, x: In2[f32], y: In2[f32], out: Out2[f32], share: f32) -> None:
    p, q = k.index(*out.shape)
    a = x[p, q]
    out[p, q] = a + (y[p, q] - a) * share


@kernel
def scaled(k: Grid, x: In2[f32], out: Out2[f32], gain: f32, byte: Const[bool]) -> None:
    p, q = k.index(*out.shape)
    out[p, q] = to_store(f32(x[p, q]) * gain, byte)


def _rgb(name: str, value: Memory, mode: str = "in", dtypes: Any = np.uint8) -> BufferView:
    found = operand(name, value, dtypes, 3, mode)
    if found.shape[2] != 3 or found.shape[1] > WIDEST:
        raise UsageError(
            f"{name} has the shape {list(found.shape)}; allowed: rows, up to {WIDEST} columns, 3 channels",
            help=f"part({name}, shape) gives it another shape",
        )
    return found


def _shaped(name: str, x: BufferView, shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        raise UsageError(f"{name} has the shape {list(x.shape)}; allowed: {list(shape)}", help="gpu.empty(shape)")


@entry
def grey(x: Memory, out: Memory) -> Run:
    """0.299 red + 0.587 green + 0.114 blue. x: rows, columns, 3; out: rows, columns; both u8 or both f32."""
    source = _rgb("x", x, dtypes=(np.uint8, np.float32))
    target = operand("out", out, source.dtype, 2, "out")
    _shaped("out", target, source.shape[:2])
    separate("out", target, x=source)
    with Jobs(device(x=source, out=target)) as jobs:
        if target.size and source.dtype == np.uint8:
            jobs.add(weighted, source, target, *LUMA)
        elif target.size:
            jobs.add(weighted_floats, source, target, 0.299, 0.587, 0.114)
        return jobs.run()


@entry
def rgb_of_grey(x: Memory, out: Memory) -> Run:
    """Three equal channels. x: rows, columns; out: rows, columns, 3; both u8 or both f32."""
    source = operand("x", x, (np.uint8, np.float32), 2)
    target = _rgb("out", out, "out", source.dtype)
    _shaped("out", target, (*source.shape, 3))
    separate("out", target, x=source)
    stored = name_of(source.dtype)
    kind = retyped(spread, "i32" if source.dtype == np.uint8 else "f32", x=stored, out=stored)
    with Jobs(device(x=source, out=target)) as jobs:
        if target.size:
            place = collected(jobs, target, 1, 2, read=False)
            jobs.add(kind, source, place)
            returned(jobs, place, target)
        return jobs.run()


def _planes_of(shape: tuple[int, ...], planes: dict[str, BufferView]) -> None:
    half = ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
    for name, plane in planes.items():
        _shaped(name, plane, shape[:2] if name == "y" else half)


@entry
def rgb_of_yuv420(y: Memory, u: Memory, v: Memory, out: Memory, full: bool = True) -> Run:
    """Colours of a camera's picture. y: rows, columns; u, v: half of both, rounded up; out: rows, columns, 3; all u8.

    full: Y of 0..255 (cameras, JPEG); else 16..235 (video).
    """
    target = _rgb("out", out, "out")
    planes = {name: operand(name, p, np.uint8, 2) for name, p in (("y", y), ("u", u), ("v", v))}
    _planes_of(target.shape, planes)
    separate("out", target, False, **planes)
    with Jobs(device(out=target, **planes)) as jobs:
        if target.size:
            place = collected(jobs, target, 1, 2, read=False)
            jobs.add(to_rgb, *planes.values(), place, *(FULL if full else VIDEO).values())
            returned(jobs, place, target)
        return jobs.run()


@entry
def yuv420_of_rgb(x: Memory, y: Memory, u: Memory, v: Memory) -> Run:
    """The planes of `rgb_of_yuv420` with Y of 0..255: luma of each pixel, chroma of the mean of four."""
    source = _rgb("x", x)
    planes = {name: operand(name, p, np.uint8, 2, "out") for name, p in (("y", y), ("u", u), ("v", v))}
    _planes_of(source.shape, planes)
    for name, plane in planes.items():
        separate(name, plane, False, x=source, **{n: p for n, p in planes.items() if n < name})
    with Jobs(device(x=source, **planes)) as jobs:
        if source.size:
            jobs.add(weighted, source, planes["y"], *LUMA)
            for name, weights in CHROMA.items():
                jobs.add(chroma, source, planes[name], *weights)
        return jobs.run()


def _one_type(name: str, x: BufferView, dtype: Any) -> None:
    if x.dtype != dtype:
        raise UsageError(f"{name} holds {x.dtype}; allowed: {dtype}, as x", help="gpu.empty(shape, x.dtype)")


@entry
def threshold(x: Memory, out: Memory, level: float, above: float = 255, below: float = 0) -> Run:
    """`above` where x > level, else `below`. x, out: images of one shape and type; u8: whole numbers of 0..255."""
    source, target = image("x", x), image("out", out, "out")
    _one_type("out", target, source.dtype)
    separate("out", target, x=source)
    byte = source.dtype == np.uint8
    if byte:
        numbers: list[float] = [int(np.floor(min(max(number("level", level), -1), 255)))]
        numbers += [within(name, v, 0, 255) for name, v in (("above", above), ("below", below))]
    else:
        numbers = [number(name, v) for name, v in (("level", level), ("above", above), ("below", below))]
    stored = name_of(source.dtype)
    kind = retyped(above_level, "i32" if byte else "f32", x=stored, out=stored)
    with Jobs(device(x=source, out=target)) as jobs:
        for a, b in pairs(source, target):
            jobs.add(kind, a, b, *numbers)
        return jobs.run()


@entry
def lookup(x: Memory, out: Memory, table: Memory) -> Run:
    """out = table[x]. x: an image of u8; out: of its shape, u8 or f32; table: 256 entries of the type of out."""
    source, target = image("x", x, dtypes=np.uint8), image("out", out, "out")
    entries = operand("table", table, target.dtype, 1)
    _shaped("table", entries, (256,))
    separate("out", target, x=source, table=entries)
    with Jobs(device(x=source, out=target, table=entries)) as jobs:
        _look_up(jobs, source, target, entries)
        return jobs.run()


def _look_up(jobs: Jobs, x: BufferView, out: BufferView, table: Any) -> None:
    stored = name_of(out.dtype)
    kind = retyped(looked_up, "i32" if out.dtype == np.uint8 else "f32", x="u8", out=stored, table=stored)
    for a, b in pairs(x, out):
        jobs.add(kind, a, table, b)


def _counts(jobs: Jobs, x: BufferView, bins: Any) -> None:
    if not x.contiguous:
        same = jobs.scratch(x.shape, np.uint8)
        _look_up(jobs, x, same.view(0, x.shape), jobs.constant(np.arange(256, dtype=np.uint8)))
        x = same.view(0, x.shape)
    jobs.take(search.histogram(part(x, x.size), bins))


@entry
def histogram(x: Memory, bins: Memory) -> Run:
    """bins[v] = how many elements are v, of all channels. x: an image of u8; bins: 256 of i32."""
    source, target = image("x", x, dtypes=np.uint8), operand("bins", bins, np.int32, 1, "out")
    _shaped("bins", target, (256,))
    with Jobs(device(x=source, bins=target)) as jobs:
        _counts(jobs, source, target)
        return jobs.run()


def levels(counts: NDArray[Any]) -> NDArray[np.uint8]:
    """The table of `equalise`, from the counts of the 256 values."""
    total = np.cumsum(counts.astype(np.int64))
    first = int(total[np.argmax(counts > 0)])
    rest = max(int(total[-1]) - first, 1)
    return np.clip(((total - first) * 255 + rest // 2) // rest, 0, 255).astype(np.uint8)


@entry
def equalise(x: Memory, out: Memory) -> Run:
    """The values of x spread so that each is about as frequent as the others. x, out: images of u8, two axes."""
    source, target = operand("x", x, np.uint8, 2), operand("out", out, np.uint8, 2, "out")
    _shaped("out", target, source.shape)
    separate("out", target, x=source)
    with Jobs(device(x=source, out=target)) as jobs:
        if source.size:
            bins = jobs.scratch(256, np.int32)
            _counts(jobs, source, bins)
            jobs.run()
            _look_up(jobs, source, target, jobs.constant(levels(bins.numpy())))
        return jobs.run()


@entry
def blend(x: Memory, y: Memory, out: Memory, share: float) -> Run:
    """x + (y - x) * share. Images of one shape and type; share: 0..1, for bytes in steps of 1 / 256."""
    share = number("share", share, 0, 1)
    first, second, target = image("x", x), image("y", y), image("out", out, "out")
    _one_type("y", second, first.dtype)
    _one_type("out", target, first.dtype)
    _shaped("y", second, first.shape)
    separate("out", target, x=first, y=second)
    byte = first.dtype == np.uint8
    with Jobs(device(x=first, y=second, out=target)) as jobs:
        for (a, c), (b, _) in zip(pairs(first, target), pairs(second, target), strict=True):
            if byte:
                jobs.add(mixed_bytes, a, b, c, round(share * 256))
            else:
                jobs.add(mixed_floats, a, b, c, share)
        return jobs.run()


@entry
def tint(x: Memory, out: Memory, gains: Any) -> Run:
    """Each channel times its gain. x, out: images of one shape, u8 or f32 each; gains: one number a channel.

    Bytes are rounded and limited to 0..255.
    """
    source, target = image("x", x), image("out", out, "out")
    g = np.atleast_1d(finite("gains", gains))
    count = source.shape[2] if len(source.shape) == 3 else 1
    if g.shape != (count,):
        raise UsageError(f"gains of shape {g.shape}", help=f"allowed: {count} numbers")
    separate("out", target, x=source)
    kind = retyped(scaled, "f32", x=name_of(source.dtype), out=name_of(target.dtype))
    with Jobs(device(x=source, out=target)) as jobs:
        for n, (a, b) in enumerate(pairs(source, target)):
            jobs.add(kind, a, b, float(g[n]), target.dtype == np.uint8)
        return jobs.run()


# -- the same in NumPy


def reference_grey(x: NDArray[Any]) -> NDArray[Any]:
    """`grey` of bytes."""
    total = x.astype(np.int32) @ np.array(LUMA, np.int32)
    return np.asarray((total + (1 << BITS - 1)) >> BITS).astype(np.uint8)


def reference_rgb_of_yuv420(y: NDArray[Any], u: NDArray[Any], v: NDArray[Any], full: bool = True) -> NDArray[Any]:
    """`rgb_of_yuv420`."""
    c = FULL if full else VIDEO
    r, q = np.indices(y.shape)
    light = (y.astype(np.int32) - c["offset"]) * c["y"]
    blue, red = (p[r >> 1, q >> 1].astype(np.int32) - 128 for p in (u, v))
    sums = (light + red * c["rv"], light + blue * c["gu"] + red * c["gv"], light + blue * c["bu"])
    return np.asarray(np.clip((np.stack(sums, -1) + (1 << BITS - 1)) >> BITS, 0, 255).astype(np.uint8))


def reference_yuv420_of_rgb(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """`yuv420_of_rgb`."""
    p = np.pad(x.astype(np.int32), ((0, x.shape[0] % 2), (0, x.shape[1] % 2), (0, 0)), "edge")
    four = p[::2, ::2] + p[1::2, ::2] + p[::2, 1::2] + p[1::2, 1::2]
    u, v = (np.clip(((four @ np.array(w, np.int32) + (1 << 15)) >> 16) + 128, 0, 255).astype(np.uint8)
            for w in CHROMA.values())  # fmt: skip
    return reference_grey(x), u, v
