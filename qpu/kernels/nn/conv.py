"""Convolutions in two dimensions: one kernel for all groups, strides and dilations, for f32 and for int8.

The input is copied into a frame of zeros once, so that the inner loop has no borders. A lane makes one pixel of up to
four output channels: a pixel that is loaded meets the weights of all of them, which follow each other in memory. Large
convolutions without groups become a product of matrices instead, by the kernels of `gemm`. On V3D what the weights see
is written as those kernels read it.

int8: products of eight-bit numbers are summed as f32, which is exact below 2**24, and as i32 after every 512 of them.
Products of matrices do so, too: one for so many channels, and the sums of all of them are added when they are rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import Buffer, BufferView
from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.kernels import sgemm
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.matrices import lying
from qpu.kernels.common.operands import Memory, device, operand, part, separate
from qpu.kernels.common.retyped import name_of, retyped
from qpu.kernels.common.shapes import collected, copied, flat, moved, returned
from qpu.kernels.gemm import gemm
from qpu.kernels.nn.activation import activated, check_kind
from qpu.kernels.nn.int8 import requantised
from qpu.lang import Const, Grid, In, In3, InOut3, Out, Out2, Out3, Team, f32, i32, kernel, maximum, unroll
from qpu.launch import Run

__all__ = [
    "Shape",
    "biased",
    "check_shape",
    "conv2d",
    "conv2d_int8",
    "pair",
    "reference_conv2d",
    "submit",
    "submit_int8",
]

LARGE: Final = 1 << 21
"""Products of an image from which a convolution becomes a product of matrices, if both have LEAST rows."""
LEAST: Final = 16
WORKERS: Final = 64
FEW: Final = 9
"""Taps of a channel that one turn of the inner loop has."""
EXACT: Final = 1024
"""Products of int8 whose sum f32 holds exactly: 1,024 * 2**14 is 2**24."""
RUN: Final = 1024
"""Neighbouring pixels that a worker finishes."""


@kernel(coarsen=1)
def frame(k: Grid, x: In3[f32], out: Out3[f32], top: i32, left: i32, zero: f32) -> None:
    p, r, c = k.index(*out.shape)
    out[p, r, c] = x.get(p, r - top, c - left, zero)


def taps(
    x: Any, w: Any, acc: Any, plane: Any, at: Any, r: Any, c: Any, high: Any, down: Any, across: Any, spread_r: Any,
    spread_c: Any, wide: int, together: int, tile: int,
) -> Any:  # fmt: skip
    """A channel under its weights, in a kernel: the sums with its products, and where the next one's weights are."""
    if together > 1:
        for i in unroll(range(together)):
            for j in unroll(range(wide)):
                v = x[plane, r * down + i * spread_r, c * across + j * spread_c]
                for t in unroll(range(tile)):
                    acc[t] += v * w[at + tile * (i * wide + j) + t]
        at += tile * wide * together
    else:
        for i in range(high):
            for j in unroll(range(wide)):
                v = x[plane, r * down + i * spread_r, c * across + j * spread_c]
                for t in unroll(range(tile)):
                    acc[t] += v * w[at + tile * j + t]
            at += tile * wide
    return acc, at


@kernel(coarsen=1)
def direct(
    k: Grid, x: In3[f32], w: In[f32], bias: In[f32], out: Out3[f32], count: i32, tiles: i32, channels: i32, each: i32,
    group: i32, high: i32, down: i32, across: i32, spread_r: i32, spread_c: i32,
    wide: Const[int], together: Const[int], tile: Const[int], kind: Const[str],
) -> None:  # fmt: skip
    """count: items of the first axis, images times tiles of output channels; channels, each: of an image, of a group;
    group: tiles of a group; high, wide: rows and columns of the weights; down, across: strides; spread_r, spread_c:
    dilations; together: rows of the weights in a turn of the inner loop.
    """
    a, r, c = k.index(count, out.shape[1], out.shape[2])
    n = a // tiles
    number = a - n * tiles
    first = n * channels + number // group * each
    at = number * (tile * each * high * wide)
    acc = [bias[number * tile + t] for t in range(tile)]
    for channel in range(each):
        acc, at = taps(x, w, acc, first + channel, at, r, c, high, down, across, spread_r, spread_c, wide, together,
                       tile)  # fmt: skip
    for t in unroll(range(tile)):
        out[a * tile + t, r, c] = activated(kind, acc[t])


@kernel(coarsen=1)
def direct_int8(
    k: Grid, x: In3[f32], w: In[f32], bias: In[i32], scale: In[f32], out: Out3[f32], count: i32, tiles: i32,
    channels: i32, each: i32, group: i32, high: i32, down: i32, across: i32, spread_r: i32, spread_c: i32, most: i32,
    zero: i32, wide: Const[int], together: Const[int], tile: Const[int], relu: Const[bool], narrow: Const[bool],
) -> None:  # fmt: skip
    """As `direct`; `most` channels make a sum that f32 holds. narrow: the result is int8 again."""
    a, r, c = k.index(count, out.shape[1], out.shape[2])
    n = a // tiles
    number = a - n * tiles
    first = n * channels + number // group * each
    at = number * (tile * each * high * wide)
    acc = [bias[number * tile + t] for t in range(tile)]
    for start in range(0, each, most):
        part = [f32(0) for _ in range(tile)]
        for channel in range(start, min(start + most, each)):
            part, at = taps(x, w, part, first + channel, at, r, c, high, down, across, spread_r, spread_c, wide,
                            together, tile)  # fmt: skip
        for t in unroll(range(tile)):
            acc[t] += i32(part[t])
    for t in unroll(range(tile)):
        total = maximum(acc[t], 0) if relu else acc[t]
        out[a * tile + t, r, c] = requantised(total, scale[number * tile + t], zero) if narrow else total


def pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    """Numbers of rows and columns. Raises: UsageError."""
    found = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    numbers = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in found)
    if len(found) != 2 or not numbers or min(found) < least:
        raise UsageError(f"{name} = {value!r}", help=f"allowed: a number from {least}, or one for rows and for columns")
    return int(found[0]), int(found[1])


@dataclass(frozen=True)
class Shape:
    """A convolution: images, channels, rows and columns of the input, output channels, and the numbers of its call."""

    n: int
    c: int
    h: int
    w: int
    o: int
    each: int
    high: int
    wide: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, x: BufferView, w: BufferView, stride: Any, padding: Any, dilation: Any, groups: int) -> Shape:
        """The shape of a call. Raises: UsageError."""
        n, c, h, wide = x.shape
        o, each, rows, columns = w.shape
        if groups < 1 or c % groups or o % groups or each * groups != c:
            raise UsageError(
                f"x has {c} channels, the weights {list(w.shape)}, groups = {groups}",
                help="allowed: weights of out, channels / groups, rows, columns; groups divides both channels",
            )
        found = cls(n, c, h, wide, o, each, rows, columns, pair("stride", stride, 1), pair("padding", padding, 0),
                    pair("dilation", dilation, 1), groups)  # fmt: skip
        if min(found.out[2:]) < 1 or not rows * columns:
            raise UsageError(f"images of {h} x {wide} are smaller than the weights", help="more padding")
        return found

    @property
    def out(self) -> tuple[int, int, int, int]:
        """The shape of the result."""
        lengths, taps = (self.h, self.w), (self.high, self.wide)
        rows, columns = (
            (lengths[n] + 2 * self.padding[n] - self.dilation[n] * (taps[n] - 1) - 1) // self.stride[n] + 1
            for n in (0, 1)
        )
        return self.n, self.o, rows, columns

    @property
    def tile(self) -> int:
        """Output channels of an item."""
        return next(t for t in (4, 2, 1) if self.o // self.groups % t == 0)

    @property
    def depth(self) -> int:
        """Products of a sum."""
        return self.each * self.high * self.wide

    @property
    def product(self) -> bool:
        """Whether it becomes a product of matrices."""
        large = self.o * self.depth * self.out[2] * self.out[3] >= LARGE
        return self.groups == 1 and min(self.o, self.depth) >= LEAST and large

    @property
    def seen(self) -> tuple[int, ...]:
        """What `windows` takes: taps, columns of the weights, strides, dilations, whether columns are neighbours."""
        return self.high * self.wide, self.wide, *self.stride, *self.dilation, self.stride[1] == 1

    @property
    def together(self) -> int:
        """Rows of the weights that a turn of the inner loop has: all of small ones."""
        return self.high if self.high * self.wide <= FEW else 1

    @property
    def numbers(self) -> tuple[int, ...]:
        """What the kernels take: count, tiles, channels, each, group, high, strides, dilations."""
        tiles = self.o // self.tile
        return self.n * tiles, tiles, self.c, self.each, tiles // self.groups, self.high, *self.stride, *self.dilation


def framed(jobs: Jobs, planes: BufferView, padding: tuple[int, int], zero: int = 0) -> BufferView:
    """The channels of all images as f32, each inside of a frame; or themselves, where there is nothing to do."""
    if padding == (0, 0) and planes.dtype == np.float32:
        return planes
    count, h, w = planes.shape
    shape = (count, h + 2 * padding[0], w + 2 * padding[1])
    out = jobs.scratch(shape, np.float32)
    if planes.dtype == np.float32:
        jobs.add(frame, planes, out, *padding, 0.0)
    else:
        jobs.add(retyped(frame_int8, "f32", x=name_of(planes.dtype)), planes, out, *padding, zero)
    return out.view(0, shape)


@kernel
def windows(
    k: Team, x: In3[f32], out: Out3[f32], first: i32, taps: i32, wide: i32, down: i32, across: i32, spread_r: i32,
    spread_c: i32, near: Const[bool],
) -> None:  # fmt: skip
    """For each tap of each channel, from `first` on, what it sees from each pixel of the result. near: across is 1.

    A worker makes whole planes.
    """
    depth, rows, columns = out.shape
    whole = columns - columns % 64
    for a in range(k.worker, depth, k.workers):
        channel = a // taps
        tap = a - channel * taps
        i = tap // wide
        start = (tap - i * wide) * spread_c
        plane = first + channel
        for b in range(0, whole, 64):  # down a stripe of columns, whose addresses go on from row to row
            at = [b + 16 * q + k.lane if k.isa == "vc4" else b + 4 * k.lane + q for q in range(4)]
            places = [c + start if near else c * across + start for c in at]
            for r in range(rows):
                found = [x[plane, r * down + i * spread_r, c] for c in places]
                for q in unroll(range(4)):
                    out[a, r, at[q]] = found[q]
        for b in range(whole, columns, 16):
            c = b + k.lane
            place = min(c, columns - 1) * across + start
            for r in range(rows):
                v = x[plane, r * down + i * spread_r, place]
                if c < columns:
                    out[a, r, c] = v


@kernel
def level(k: Grid, out: Out[f32], value: f32) -> None:
    i = k.index()
    out[i] = value


@kernel(coarsen=1)
def finished(k: Grid, out: InOut3[f32], kind: Const[str]) -> None:
    a, r, c = k.index(*out.shape)
    out[a, r, c] = activated(kind, out[a, r, c])


@kernel
def panels(
    k: Team, x: In3[f32], out: Out3[f32], first: i32, channels: i32, whole: i32, columns: i32, last: i32, high: i32,
    down: i32, across: i32, spread_r: i32, spread_c: i32, wide: Const[int], together: Const[int], vectors: Const[int],
    ones: Const[bool],
) -> None:  # fmt: skip
    """As `windows` for `channels` from `first` on, in the panels of `pack_v3d`: out: panels, steps, their columns.

    whole: steps that are used; last: the last pixel of the result. ones: ones behind the last tap. The rest is zeros.
    """
    for panel in range(k.worker, out.shape[0], k.workers):
        pixels = [min((panel * vectors + q) * 16 + k.lane, last) for q in range(vectors)]
        lines = [p // columns for p in pixels]
        left = [(pixels[q] - lines[q] * columns) * across for q in range(vectors)]
        top = [r * down for r in lines]
        places = [vectors * k.lane + q for q in range(vectors)]
        step = i32(0)
        for channel in range(first, first + channels):
            if together > 1:
                for i in unroll(range(together)):
                    for j in unroll(range(wide)):
                        found = [x[channel, top[q] + i * spread_r, left[q] + j * spread_c] for q in range(vectors)]
                        for q in unroll(range(vectors)):
                            out[panel, step + (i * wide + j), places[q]] = found[q]
                step += together * wide
            else:
                for i in range(high):
                    for j in unroll(range(wide)):
                        found = [x[channel, top[q] + i * spread_r, left[q] + j * spread_c] for q in range(vectors)]
                        for q in unroll(range(vectors)):
                            out[panel, step + j, places[q]] = found[q]
                    step += wide
        if ones:
            for q in unroll(range(vectors)):
                out[panel, step, places[q]] = 1.0
            step += 1
        for rest in range(step, whole):
            for q in unroll(range(vectors)):
                out[panel, rest, places[q]] = 0.0


@kernel
def finished_int8(
    k: Team, x: In3[f32], bias: In[i32], scale: In[f32], out: Out2[f32], zero: i32, relu: Const[bool],
    narrow: Const[bool],
) -> None:  # fmt: skip
    """x: sums of parts, output channels, pixels. Workers take runs of pixels."""
    parts, channels, pixels = x.shape
    runs = (pixels + RUN - 1) // RUN
    whole = pixels - pixels % 64
    for task in range(k.worker, channels * runs, k.workers):
        a = task // runs
        begin = (task - a * runs) * RUN
        end = min(begin + RUN, pixels)
        add, factor = bias[a], scale[a]
        for b in range(begin, min(end, whole), 64):
            places = [b + 16 * q + k.lane if k.isa == "vc4" else b + 4 * k.lane + q for q in range(4)]
            totals = [add for _ in range(4)]
            for p in range(parts):
                found = [x[p, a, place] for place in places]
                for q in unroll(range(4)):
                    totals[q] += i32(found[q])
            for q in unroll(range(4)):
                total = maximum(totals[q], 0) if relu else totals[q]
                out[a, places[q]] = requantised(total, factor, zero) if narrow else total
        for b in range(max(begin, whole), end, 16):
            place = b + k.lane
            total = add
            for p in range(parts):
                total += i32(x.get(p, a, place, 0.0))
            if relu:
                total = maximum(total, 0)
            if place < pixels:
                out[a, place] = requantised(total, factor, zero) if narrow else total


def product(
    jobs: Jobs, planes: BufferView, weights: BufferView, out: BufferView, s: Shape, channels: range, ones: bool,
    relu: bool = False,
) -> None:  # fmt: skip
    """Submit the sums of an image: weights: a row an output channel; out: the same with a column a pixel, f32.

    channels: of `planes`. ones: the last column of the weights sees ones.
    """
    (rows, columns), depth = s.out[2:], len(channels) * s.high * s.wide
    width, (place, left) = depth + ones, (lying(m) for m in (out, weights))
    if jobs.gpu.isa is Isa.VC4 or place is None or left is None or place.transposed or left.transposed:
        seen = jobs.scratch((width, rows, columns))[:]
        if ones:
            jobs.add(level, flat(jobs, seen[depth]), 1.0)
        jobs.add(windows, planes, seen[:depth], channels.start, *s.seen, workers=min(WORKERS, depth))
        jobs.take(gemm(weights, part(seen, (width, rows * columns)), out, relu=relu))
        return
    choice = sgemm.choose(jobs.gpu).kernel
    plan = sgemm.layout(jobs.gpu.isa, s.o, rows * columns, width, kernel=choice)
    tiles, words, vectors = plan.tiles[1], plan.panel_words[1], plan.shape.vectors
    seen = jobs.scratch(tiles * words)[:]
    target = part(seen, (tiles, words // plan.shape.columns, plan.shape.columns))
    jobs.add(panels, planes, target, channels.start, len(channels), plan.depth, columns, rows * columns - 1, s.high,
             *s.stride, *s.dilation, s.wide, s.together, vectors, ones, workers=min(WORKERS, tiles))  # fmt: skip
    with sgemm.Sgemm(
        jobs.gpu, s.o, rows * columns, width, a=left.rows, lda=left.ld, b=seen, packed=True, c=place.rows,
        ldc=place.ld, kernel=choice, ending=sgemm.Ending(relu=relu),
    ) as job:  # fmt: skip
        job.set()
        jobs.take(job.launch())


def submit(
    jobs: Jobs, x: BufferView, w: BufferView, bias: Any, out: BufferView, s: Shape, activation: str, add: bool
) -> None:
    """Submit a convolution of f32. x, out: the channels of all images, three axes; w: a row an output channel; add:
    whether bias is more than zeros.
    """
    planes = framed(jobs, x, s.padding)
    if not s.product:
        jobs.add(direct, planes, packed(jobs, w, s), bias, out, *s.numbers, s.wide, s.together, s.tile, activation)
        return
    weights = w
    if add:  # Bias: another tap, which sees ones.
        weights = jobs.scratch((s.o, s.depth + 1))[:]
        copied(jobs, w, weights[:, : s.depth])
        column = BufferView(bias.buffer, bias.offset, (s.o, 1), bias.dtype, (*bias.strides, 4))
        copied(jobs, column, weights[:, s.depth :])
    for n in range(s.n):
        result = out[n * s.o : (n + 1) * s.o]
        place = collected(jobs, result, 1, 2, read=False)
        product(jobs, planes, weights, place, s, range(n * s.c, (n + 1) * s.c), add, activation == "relu")
        returned(jobs, place, result)
        if activation not in ("none", "relu"):
            jobs.add(finished, result, activation)


def submit_int8(
    jobs: Jobs, x: BufferView, w: BufferView, bias: Any, scale: Any, out: BufferView, s: Shape, zeros: tuple[int, int],
    relu: bool,
) -> None:  # fmt: skip
    """Submit a convolution of int8. zeros: of x and of out; others as for `submit`."""
    stored, narrow = name_of(out.dtype), out.dtype == np.int8
    planes, taps = framed(jobs, x, s.padding, zeros[0]), s.high * s.wide
    most = max(1, EXACT // (2 * taps))  # x - zero has nine bits
    if not s.product:
        kind = retyped(direct_int8, "f32", out=stored)
        jobs.add(kind, planes, packed(jobs, w, s), bias, scale, out, *s.numbers, most, zeros[1], s.wide, s.together,
                 s.tile, relu, narrow)  # fmt: skip
        return
    pixels, firsts = s.out[2] * s.out[3], range(0, s.c, most)
    weights, sums = jobs.scratch((s.o, s.depth))[:], jobs.scratch((len(firsts), s.o, pixels))[:]
    jobs.add(
        retyped(moved, "f32", x=name_of(w.dtype)),
        *(BufferView(v.buffer, v.offset, (1, *v.shape), v.dtype, (0, *v.strides)) for v in (w, weights)),
    )
    for n in range(s.n):
        for number, first in enumerate(firsts):
            last = min(first + most, s.c)
            product(jobs, planes, weights[:, first * taps : last * taps], sums[number], s,
                    range(n * s.c + first, n * s.c + last), False)  # fmt: skip
        result = out[n * s.o : (n + 1) * s.o]
        place = collected(jobs, result, 1, 2, read=False)
        jobs.add(retyped(finished_int8, "f32", out=stored), sums, bias, scale, place, zeros[1], relu, narrow,
                 workers=WORKERS)  # fmt: skip
        returned(jobs, place, result)


@kernel(coarsen=1)
def frame_int8(k: Grid, x: In3[f32], out: Out3[f32], top: i32, left: i32, zero: i32) -> None:
    """Bytes as f32, their zero taken off."""
    p, r, c = k.index(*out.shape)
    out[p, r, c] = f32(x.get(p, r - top, c - left, zero) - zero)


def packed(jobs: Jobs, w: BufferView, s: Shape) -> Buffer:
    """The weights of the output channels of an item side by side, as f32."""
    depth = s.depth
    out = jobs.scratch(s.o * depth, np.float32)
    (row, step), tile = w.strides, s.tile
    source = BufferView(w.buffer, w.offset, (s.o // tile, depth, tile), w.dtype, (tile * row, step, row))
    kind = retyped(moved, "f32", x=name_of(w.dtype))
    jobs.add(kind, source, out.view(0, source.shape))
    return out


def biased(jobs: Jobs, bias: Memory | None, o: int, dtype: Any) -> tuple[BufferView, dict[str, BufferView]]:
    """The bias of a layer, zeros where there is none, and it by its name where there is one."""
    if bias is None:
        return jobs.constant(np.zeros(o, dtype))[:], {}
    found = operand("bias", bias, dtype, 1)
    return found, {"bias": found}


def check_shape(name: str, x: BufferView, shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        raise UsageError(f"{name} has the shape {list(x.shape)}; allowed: {list(shape)}", help="gpu.empty(shape)")


@entry
def conv2d(
    x: Memory, w: Memory, out: Memory, bias: Memory | None = None, *, stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0, dilation: int | tuple[int, int] = 1, groups: int = 1, activation: str = "none",
) -> Run:  # fmt: skip
    """Each output channel is the sum of its input channels under its weights, plus its bias, through the activation.

    x: n, channels, rows, columns; w: out channels, channels / groups, rows, columns; out: n, out channels, rows,
    columns; bias: one an output channel; all f32. stride, padding (zeros on each side), dilation: one number, or one
    for rows and one for columns. groups = channels: depthwise. activation: see `activate`. As in other libraries the
    weights are not turned. The error is below as many roundings of the sum of magnitudes as a sum has products, and 2.
    """
    source, weights = operand("x", x, np.float32, 4), operand("w", w, np.float32, 4)
    target = operand("out", out, np.float32, 4, "out")
    check_kind(activation)
    s = Shape.of(source, weights, stride, padding, dilation, groups)
    check_shape("out", target, s.out)
    with Jobs(device(x=source, w=weights, out=target)) as jobs:
        given, named = biased(jobs, bias, s.o, np.float32)
        separate("out", target, False, x=source, w=weights, **named)
        for b in named.values():
            check_shape("bias", b, (s.o,))
        if target.size:
            place = collected(jobs, target, 2, 1, 1, read=False)
            planes, rows = collected(jobs, source, 2, 1, 1), collected(jobs, weights, 1, 3)
            submit(jobs, planes, rows, given, place, s, activation, bool(named))
            returned(jobs, place, target)
        return jobs.run()


@entry
def conv2d_int8(
    x: Memory, w: Memory, out: Memory, bias: Memory | None = None, scale: Memory | None = None, *, zero: int = 0,
    zero_out: int = 0, stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1, groups: int = 1, relu: bool = False,
) -> Run:  # fmt: skip
    """A convolution of int8, exact: sum of (x - zero) * w, plus bias, not below 0 with relu; padding is `zero`.

    x, w: int8; bias: i32; shapes as for `conv2d`. out: i32; or int8, then out = round(sum * scale) + zero_out,
    limited to -128..127, scale: f32, one an output channel. Sums are right up to 2**31; times a scale up to 2**24.
    Weights: at most 512 for each pair of channels.
    """
    source, weights = operand("x", x, np.int8, 4), operand("w", w, np.int8, 4)
    target = operand("out", out, (np.int8, np.int32), 4, "out")
    narrow = target.dtype == np.int8
    if not -128 <= zero <= 127 or not -128 <= zero_out <= 127:
        raise UsageError(f"zero = {zero}, zero_out = {zero_out}", help="allowed: -128..127")
    if narrow != (scale is not None):
        raise UsageError(f"out holds {target.dtype}, and scale is {scale}", help="int8 needs a scale, int32 has none")
    if zero_out and scale is None:
        raise UsageError(f"zero_out = {zero_out} without a scale", help="bias, or int8 results with a scale")
    s = Shape.of(source, weights, stride, padding, dilation, groups)
    if s.high * s.wide > EXACT // 2:
        raise UsageError(f"weights of {s.high} rows and {s.wide} columns; allowed: {EXACT // 2} of a channel",
                         help="f32 holds no sum of more: add the results of parts")  # fmt: skip
    check_shape("out", target, s.out)
    with Jobs(device(x=source, w=weights, out=target)) as jobs:
        given, named = biased(jobs, bias, s.o, np.int32)
        scales = jobs.constant(np.ones(s.o, np.float32)) if scale is None else operand("scale", scale, np.float32, 1)
        separate("out", target, False, x=source, w=weights, **named)
        for b in (*named.values(), *([] if isinstance(scales, Buffer) else [scales])):
            check_shape("bias or scale", b, (s.o,))
        if target.size:
            place = collected(jobs, target, 2, 1, 1, read=False)
            planes, rows = collected(jobs, source, 2, 1, 1), collected(jobs, weights, 1, 3)
            submit_int8(jobs, planes, rows, given, scales, place, s, (zero, zero_out), relu)
            returned(jobs, place, target)
        return jobs.run()


def reference_conv2d(
    x: NDArray[Any], w: NDArray[Any], bias: NDArray[Any] | None = None, *, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> NDArray[Any]:  # fmt: skip
    """The same as `conv2d` in NumPy; floats in float64, integers in int64."""
    kind = np.float64 if x.dtype.kind == "f" else np.int64
    (sy, sx), (py, px), (dy, dx) = (pair("", v, 0) for v in (stride, padding, dilation))
    p = np.pad(x.astype(kind), ((0, 0), (0, 0), (py, py), (px, px)))
    o, each, high, wide = w.shape
    rows = (p.shape[2] - dy * (high - 1) - 1) // sy + 1
    columns = (p.shape[3] - dx * (wide - 1) - 1) // sx + 1
    out = np.zeros((x.shape[0], o, rows, columns), kind)
    for g in range(groups):
        mine, theirs = slice(g * o // groups, (g + 1) * o // groups), slice(g * each, (g + 1) * each)
        for i in range(high):
            for j in range(wide):
                some = p[
                    :, theirs, i * dy : i * dy + sy * (rows - 1) + 1 : sy, j * dx : j * dx + sx * (columns - 1) + 1 : sx
                ]
                out[:, mine] += np.einsum("ncrs,oc->nors", some, w[mine, :, i, j].astype(kind))
    return out if bias is None else out + bias.astype(kind)[:, None, None]
