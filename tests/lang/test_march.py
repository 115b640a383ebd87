"""Workers that go down columns: edges, rows that are carried, and narrow elements as words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpu
from qpu.lang import Grid, In2, Out2, f32, i8, i16, kernel, maximum, sqrt, u8, u16, unroll
from qpu.lang.kir import Loop, walk
from qpu.lang.legalise import legalise
from qpu.lang.spans import Spans

pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
RANDOM = np.random.default_rng(14)
BOARDS = ("pi3", "pi4", "pi5")


@kernel(march="y")
def around(k: Grid, x: In2[u8], y: Out2[u8]) -> None:
    """Clamped, with a default outside, and moved by more than a word."""
    r, c = k.index(*y.shape)
    y[r, c] = (x.clamp[r - 1, c - 5] + 2 * x.get(r + 1, c + 1, 9) + x.clamp[r + 2, c] + x.get(r, c - 2) * 3) >> 2


@kernel(march="y")
def sizes(k: Grid, a: In2[i8], b: In2[u16], x: In2[i16], y: Out2[i16], z: Out2[i8]) -> None:
    """Signed and unsigned elements of one and two bytes."""
    r, c = k.index(*y.shape)
    s = a.clamp[r, c - 1] + a.clamp[r + 1, c] - b.clamp[r + 1, c + 1] * 3 + b[r, c] + x.clamp[r - 1, c + 2]
    y[r, c] = s
    z[r, c] = s >> 3


@kernel(march="y")
def slopes(k: Grid, x: In2[f32], y: Out2[f32]) -> None:
    """Floats: what is carried is added in the same order."""
    r, c = k.index(*y.shape)
    p = [[x.clamp[r + m, c + n] for n in (-1, 0, 1)] for m in (-1, 0, 1)]
    across = sum(p[m][2] - p[m][0] for m in unroll(range(3)))
    down = p[2][0] - p[0][0] + 2.0 * (p[2][1] - p[0][1]) + p[2][2] - p[0][2]
    y[r, c] = maximum(sqrt(across * across + down * down), p[1][1])


@kernel(march="y")
def inner(k: Grid, x: In2[u8], y: Out2[u8]) -> None:
    """Nothing is clamped: the launch checks that all of it is inside."""
    r, c = k.index(y.shape[0], y.shape[1])
    y[r, c] = maximum(maximum(x[r, c], x[r + 1, c + 1]), x[r + 2, c + 3])


def padded(x: Any, mode: str = "edge", **more: Any) -> Any:
    return np.pad(x.astype(np.int64), 6, mode=mode, **more)


def moved(p: Any, r: int, c: int) -> Any:
    """What lies r rows down and c columns to the right, for an image with six pixels around it."""
    return p[6 + r : p.shape[0] - 6 + r, 6 + c : p.shape[1] - 6 + c]


@pytest.mark.parametrize("board", BOARDS)
def test_narrow_elements(board: str) -> None:
    """Widths of whole words and others, narrower than what is touched and wider than a chunk."""
    shapes = {"pi3": ((1, 1), (5, 136)), "pi4": ((4, 201), (3, 68)), "pi5": ((2, 15), (9, 76))}[board]
    with qpu.open_device(board, engine="compiled") as gpu:
        for shape in shapes:
            x, y = RANDOM.integers(0, 256, shape, dtype=np.uint8), gpu.zeros(shape, np.uint8)
            around(gpu.array(x), y)
            e, nine, zero = padded(x), padded(x, "constant", constant_values=9), padded(x, "constant")
            want = (moved(e, -1, -5) + 2 * moved(nine, 1, 1) + moved(e, 2, 0) + moved(zero, 0, -2) * 3) >> 2
            assert np.array_equal(y.numpy(), want.astype(np.uint8))
        a, b, s = (RANDOM.integers(-120, 120, shape).astype(t) for t in (np.int8, np.uint16, np.int16))
        total = moved(padded(a), 0, -1) + moved(padded(a), 1, 0) - moved(padded(b), 1, 1) * 3 + b
        total += moved(padded(s), -1, 2)
        big, small = gpu.zeros(shape, np.int16), gpu.zeros(shape, np.int8)
        sizes(gpu.array(a), gpu.array(b), gpu.array(s), big, small)
        assert np.array_equal(big.numpy(), total.astype(np.int16))
        assert np.array_equal(small.numpy(), (total >> 3).astype(np.int8))
        x = RANDOM.integers(0, 256, (5, 139), dtype=np.uint8)
        part = gpu.zeros((3, 136), np.uint8)
        inner(gpu.array(x), part)
        assert np.array_equal(part.numpy(), np.maximum(np.maximum(x[:-2, :-3], x[1:-1, 1:-2]), x[2:, 3:]))


@pytest.mark.parametrize("board", BOARDS)
def test_parts_of_images(board: str) -> None:
    """Rows that begin anywhere, upside down, or at every second row; nothing beside the output is written."""
    x = RANDOM.integers(0, 256, (24, 200), dtype=np.uint8)
    with qpu.open_device(board, engine="compiled") as gpu:
        source = gpu.array(x)
        for part in (np.s_[2:9, 3:150], np.s_[::2, 4:140], np.s_[::-1, 8:196]):
            target = gpu.zeros(x.shape, np.uint8)
            around(source[part], target[part])
            e, nine, zero = (padded(x[part], m, **v) for m, v in (
                ("edge", {}), ("constant", {"constant_values": 9}), ("constant", {})))  # fmt: skip
            want = np.zeros_like(x)
            want[part] = (moved(e, -1, -5) + 2 * moved(nine, 1, 1) + moved(e, 2, 0) + moved(zero, 0, -2) * 3) >> 2
            assert np.array_equal(target.numpy(), want)


@pytest.mark.parametrize("board", [pytest.param("pi3", marks=pytest.mark.soak), "pi4",
                                   pytest.param("pi5", marks=pytest.mark.soak)])  # fmt: skip
def test_floats_keep_their_bits(board: str) -> None:
    x = RANDOM.standard_normal((7, 150)).astype(np.float32)
    with qpu.open_device(board, engine="compiled") as gpu:
        found = []
        for k in (slopes, slopes.with_knobs(slopes.schedule._replace(march=None))):
            y = gpu.zeros(x.shape)
            k(gpu.array(x), y)
            found.append(y.numpy())
        assert np.array_equal(*found)


def test_each_row_is_loaded_once() -> None:
    for isa in ("vc4", "v3d42", "v3d71"):
        top = slopes.compile(isa).kir.region
        rows = [v.attr for v in walk(top) if isinstance(v.attr, Loop) and v.attr.items]
        inside = [[v for v in loop.region.ops if v.op == "load"] for loop in rows]
        assert {len(loads) for loads in inside if loads} == ({3, 6} if isa != "vc4" else {3, 3 * 4})


def test_products_of_bytes_take_24_bits() -> None:
    top = around.compile("vc4").kir.region
    spans = Spans(top)
    for v in walk(top):
        if v.op == "load":
            assert spans.of(v) == (0, 255)
    assert not [v for v in walk(legalise(sizes.compile("v3d71").kir.region, "v3d71")) if v.op == "mul" and v.varying]
