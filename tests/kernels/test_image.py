"""Functions of images against NumPy; the boards take the cases in turn, and inputs are cut out of larger arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import qpu
from qpu.buffers import BufferView
from qpu.device import Device
from qpu.errors import UsageError
from qpu.kernels import image as im
from qpu.kernels.common.rounding import bound
from qpu.kernels.image import colour, filters, ranks, sizes
from tests.kernels.turns import turns

F, B = np.float32, np.uint8
BOARDS = ("pi3", "pi4", "pi5")
pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")


@pytest.fixture(scope="module")
def boards() -> Iterator[dict[str, Device]]:
    opened = {name: qpu.open_device(name, engine="reference") for name in BOARDS}
    yield opened
    for gpu in opened.values():
        gpu.close()


def picture(shape: tuple[int, ...], dtype: Any = B, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def cut(gpu: Device, x: NDArray[Any]) -> BufferView:
    """An image as a part of a larger one."""
    whole = np.full((x.shape[0] + 3, x.shape[1] + 5, *x.shape[2:]), 77, x.dtype)
    whole[2:-1, 1:-4] = x
    return gpu.array(whole)[2:-1, 1:-4]


def close(gpu: Device, found: Any, want: NDArray[Any], roundings: float, size: Any) -> None:
    """Floats within a bound; bytes within half of one more."""
    got = found.numpy()
    limit = bound(gpu.isa, roundings, size) + (0.5 if got.dtype == B else 0)
    assert (np.abs(got - np.clip(want, 0, 255) if got.dtype == B else got - want) <= limit).all()


# -- filters


@pytest.mark.parametrize(
    ("board", "border", "kinds"),
    turns([("pi3", "reflect", (B, F)), ("pi4", "constant", (F, B)), ("pi5", "clamp", (B, B))], 2),
)
def test_separable_filters(boards: dict[str, Device], board: str, border: str, kinds: tuple[Any, Any]) -> None:
    gpu = boards[board]
    rows, columns = (0.25, 0.5, 0.125), (-0.5, 1.0, 2.0, 0.25, -1.0)

    @settings(max_examples=4, deadline=None, derandomize=True)
    @given(shape=st.tuples(st.integers(3, 7), st.sampled_from((3, 16, 21, 40))), seed=st.integers(0, 9))
    def check(shape: tuple[int, int], seed: int) -> None:
        x, out = picture(shape, kinds[0], seed), gpu.zeros(shape, kinds[1])
        im.separable(cut(gpu, x), out, rows, columns, border, 9)
        w = np.outer(rows, columns)
        close(gpu, out, filters.reference_filter2d(x, w, border, 9), 10, 255 * np.abs(w).sum())

    check()


@pytest.mark.parametrize(("board", "border"), turns([("pi3", "clamp"), ("pi4", "reflect"), ("pi5", "constant")], 1))
def test_filters_of_many_taps(boards: dict[str, Device], board: str, border: str) -> None:
    """Weights in memory instead of the program."""
    gpu, x = boards[board], picture((12, 18))
    out = gpu.zeros(x.shape)
    im.gaussian(cut(gpu, x), out, 2.6, border, 50)
    w = filters.weights_of(2.6)
    close(gpu, out, filters.reference_filter2d(x, np.outer(w, w), border, 50), 4 * len(w), 256)


@pytest.mark.parametrize("board", turns(BOARDS, 2))
def test_weights_that_are_not_a_mean(boards: dict[str, Device], board: str) -> None:
    """Beyond the first and last row are sums of rows of the constant."""
    gpu, x, w = boards[board], picture((6, 18), F), np.ones(17)
    out = gpu.zeros(x.shape)
    im.separable(gpu.array(x), out, w[:3], w, "constant", 50)
    close(gpu, out, filters.reference_filter2d(x, np.ones((3, 17)), "constant", 50), 60, 51 * 256)


def test_channels_are_filtered_one_by_one(boards: dict[str, Device]) -> None:
    gpu, x = boards["pi5"], picture((5, 20, 3))
    out = gpu.zeros(x.shape, B)
    im.box(gpu.array(x), out, (1, 3))
    for n in range(3):
        want = filters.reference_filter2d(x[:, :, n], np.full((1, 3), 1 / 3))
        assert np.abs(out.numpy()[:, :, n] - want).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("board", "kinds"), turns([("pi3", (B, F)), ("pi5", (F, B))], 0))
def test_filter2d(boards: dict[str, Device], board: str, kinds: tuple[Any, Any]) -> None:
    gpu, x = boards[board], picture((6, 35), kinds[0])
    w = np.array([[1, 0, -2, 0.5, 1], [0, 3, 0, -1, 0], [0.25, 0, 0, 0, -0.75]])
    out = gpu.zeros(x.shape, kinds[1])
    im.filter2d(cut(gpu, x), out, w)
    close(gpu, out, filters.reference_filter2d(x, w), 12, 255 * np.abs(w).sum())


@pytest.mark.parametrize(("board", "direction"), turns([("pi3", "magnitude"), ("pi4", "x"), ("pi5", "magnitude")], 2))
def test_sobel(boards: dict[str, Device], board: str, direction: str) -> None:
    gpu, x = boards[board], picture((6, 35))
    out = gpu.zeros(x.shape)
    im.sobel(cut(gpu, x), out, direction, 0.5, "reflect")
    close(gpu, out, 0.5 * filters.reference_sobel(x, direction, "reflect"), 20, 1500)


# -- order


@pytest.mark.parametrize(
    ("board", "size", "dtype", "border"),
    turns([("pi3", 3, B, "clamp"), ("pi4", 5, B, "reflect"), ("pi5", 3, F, "constant")], 0),
)
def test_median(boards: dict[str, Device], board: str, size: int, dtype: Any, border: str) -> None:
    gpu, x = boards[board], picture((7, 37), dtype)
    out = gpu.zeros(x.shape, dtype)
    im.median(cut(gpu, x), out, size, border, 20)
    assert np.array_equal(out.numpy(), ranks.reference_rank(x, size, size, "median", border, 20))


def test_the_network_of_5_by_5_is_right_for_all_orders_of_ones() -> None:
    """A network of exchanges is right where it is right for zeros and ones; random ones of each number."""
    random = np.random.default_rng(2)
    for count, n in ((9, 6), (25, 14)):
        for ones in range(count + 1):
            columns = np.stack([random.permutation(np.arange(count) < ones) for _ in range(64)], 1).astype(int)
            v = list(columns[:n])
            for more in columns[n:]:
                v = [*_ends_out(v), more]
            assert np.array_equal(_ends_out(v)[0], np.full(64, ones > count // 2))


def _ends_out(values: list[Any]) -> list[Any]:
    """`ranks.ends_out` with NumPy's minimum and maximum."""
    names = {**ranks.ends_out.__globals__, "minimum": np.minimum, "maximum": np.maximum}
    found: list[Any] = type(ranks.ends_out)(ranks.ends_out.__code__, names)(values)
    return found


@pytest.mark.parametrize(
    ("board", "dtype", "border"), turns([("pi3", B, "constant"), ("pi4", F, "clamp"), ("pi5", B, "reflect")], 1)
)
def test_morphology(boards: dict[str, Device], board: str, dtype: Any, border: str) -> None:
    gpu, x = boards[board], picture((7, 37), dtype)
    out = gpu.zeros(x.shape, dtype)
    function, rank = (im.erode, "min") if board == "pi4" else (im.dilate, "max")
    function(cut(gpu, x), out, (3, 5), border, 100)
    assert np.array_equal(out.numpy(), ranks.reference_rank(x, 3, 5, rank, border, 100))


# -- sizes


@pytest.mark.parametrize(
    ("board", "method", "kinds"),
    turns([("pi3", "bilinear", (B, F)), ("pi4", "area", (B, B)), ("pi5", "nearest", (F, F))], 0, 2),
)
def test_resize(boards: dict[str, Device], board: str, method: str, kinds: tuple[Any, Any]) -> None:
    gpu = boards[board]
    for shape, size in (((9, 20), (4, 33)), ((3, 40), (7, 9)), ((1, 1), (2, 17))):
        x, out = picture(shape, kinds[0]), gpu.zeros(size, kinds[1])
        im.resize(cut(gpu, x), out, method)
        tables = [sizes.table(a, b, method) for a, b in zip(shape, size, strict=True)]
        want = sizes.reference_resample(x, *tables)
        if method == "nearest":
            assert np.array_equal(out.numpy(), want)
        else:
            close(gpu, out, want, 3 * sum(len(t.at) for t in tables), 256)


@pytest.mark.parametrize("board", ["pi3", "pi4"])
def test_pyramids(boards: dict[str, Device], board: str) -> None:
    gpu, x = boards[board], picture((9, 20))
    if board == "pi3":
        out = gpu.zeros((5, 10))
        im.pyramid_down(cut(gpu, x), out, "reflect")
        want = filters.reference_filter2d(x, np.outer((1, 4, 6, 4, 1), (1, 4, 6, 4, 1)) / 256, "reflect")[::2, ::2]
    else:
        out = gpu.zeros((18, 40))
        im.pyramid_up(cut(gpu, x), out)

        def up(lines: NDArray[Any]) -> NDArray[Any]:
            p = np.pad(lines, ((1, 1), (0, 0)), "edge").astype(float)
            even, odd = (p[:-2] + 6 * p[1:-1] + p[2:]) / 8, (p[1:-1] + p[2:]) / 2
            return np.stack([even, odd], 1).reshape(-1, lines.shape[1])

        want = up(up(x).T).T
    close(gpu, out, want, 30, 256)


@pytest.mark.parametrize(
    ("board", "perspective", "border"),
    turns([("pi3", False, "clamp"), ("pi4", True, "constant"), ("pi5", False, "constant")], 2),
)
def test_warp(boards: dict[str, Device], board: str, perspective: bool, border: str) -> None:
    gpu, x = boards[board], picture((9, 23))
    m = np.array([[0.9, 0.2, 1.3], [-0.1, 1.1, -0.7], [0.001, 0.002, 1.0]])[: 3 if perspective else 2]
    out = gpu.zeros((12, 30))
    im.warp(cut(gpu, x), out, m, border, 40)
    # a place errs by some roundings of its terms, a pixel by its slope, at most 255 a pixel each way
    slope = 2 * 255 * bound(gpu.isa, 12, 40.0)
    want = sizes.reference_warp(x, (12, 30), m, border, 40)
    assert np.abs(out.numpy() - want).max() <= slope + bound(gpu.isa, 8, 4 * 255)


# -- colours: bytes are exact


@pytest.mark.parametrize("board", turns(BOARDS, 0))
def test_yuv420(boards: dict[str, Device], board: str) -> None:
    gpu, x = boards[board], picture((5, 19, 3))
    x[0, :3] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    y, u, v = gpu.zeros((5, 19), B), gpu.zeros((3, 10), B), gpu.zeros((3, 10), B)
    im.yuv420_of_rgb(cut(gpu, x), y, u, v)
    planes = colour.reference_yuv420_of_rgb(x)
    for found, want in zip((y, u, v), planes, strict=True):
        assert np.array_equal(found.numpy(), want)
    out = gpu.zeros(x.shape, B)
    im.rgb_of_yuv420(y, u, v, out, full=board != "pi4")
    assert np.array_equal(out.numpy(), colour.reference_rgb_of_yuv420(*planes, full=board != "pi4"))


def test_a_picture_of_one_colour_comes_back() -> None:
    for rgb in ((0, 0, 0), (255, 255, 255), (200, 30, 90), (1, 254, 128)):
        x = np.full((2, 2, 3), rgb, B)
        back = colour.reference_rgb_of_yuv420(*colour.reference_yuv420_of_rgb(x))
        assert np.abs(back.astype(int) - x).max() <= 2


@pytest.mark.parametrize("board", BOARDS)
def test_brightness(boards: dict[str, Device], board: str) -> None:
    gpu, x = boards[board], picture((6, 21))
    x[0, :9] = x[0, 9]  # a value that is frequent
    out = gpu.zeros(x.shape, B)
    if board == "pi3":
        im.threshold(cut(gpu, x), out, 100.5, 200, 3)
        want = np.where(x > 100, 200, 3)
    elif board == "pi4":
        y = picture(x.shape, B, 1)
        im.blend(cut(gpu, x), gpu.array(y), out, 0.3)
        want = x + (((y.astype(int) - x) * 77 + 128) >> 8)
    else:
        im.equalise(cut(gpu, x), out)
        want = colour.levels(np.bincount(x.ravel(), minlength=256))[x]
    assert np.array_equal(out.numpy(), want)


def test_grey_tint_and_tables(boards: dict[str, Device]) -> None:
    gpu, x = boards["pi5"], picture((5, 19, 3))
    out, three, table = gpu.zeros((5, 19), B), gpu.zeros(x.shape, B), picture((256,))
    im.grey(cut(gpu, x), out)
    one = colour.reference_grey(x)
    assert np.array_equal(out.numpy(), one) and np.abs(one - x @ (0.299, 0.587, 0.114)).max() < 0.52
    im.rgb_of_grey(out, three)
    assert np.array_equal(three.numpy(), np.repeat(one[:, :, None], 3, 2))
    im.lookup(gpu.array(one), out, gpu.array(table))
    assert np.array_equal(out.numpy(), table[one])
    im.tint(cut(gpu, x), three, (1, 0.5, 2))
    assert np.array_equal(three.numpy(), np.floor(np.clip(x * np.array((1, 0.5, 2)), 0, 255) + 0.5))
    bins = gpu.zeros(256, np.int32)
    im.histogram(cut(gpu, x[:, :, 0]), bins)
    assert np.array_equal(bins.numpy(), np.bincount(x[:, :, 0].ravel(), minlength=256))


def test_refusals(boards: dict[str, Device]) -> None:
    gpu = boards["pi4"]
    x, f, c = gpu.zeros((4, 5), B), gpu.zeros((4, 5)), gpu.zeros((4, 5, 3), B)
    cases: list[tuple[Any, str]] = [
        (lambda: im.box(x, gpu.zeros((4, 6), B)), "out has the shape"),
        (lambda: im.box(x, x), "out overlaps x"),
        (lambda: im.box(x, f, 0), "size = 0"),
        (lambda: im.separable(x, f, (1, 2), (1,)), "rows are 2 numbers"),
        (lambda: im.separable(x, f, (1,), (1,), "wrap"), "border = 'wrap'"),
        (lambda: im.box(x, f, 3.0), "size = 3.0; allowed: a whole number"),
        (lambda: im.box(x, f, (3,)), r"size = \(3,\); allowed: a number, or"),
        (lambda: im.box(x, f, 3, "constant", 300), "value = 300; allowed: a number from 0 to 255"),
        (lambda: im.median(x, gpu.zeros((4, 5), B), 3, "constant", 0.5), "value = 0.5; allowed: 0..255"),
        (lambda: im.warp(x, f, np.eye(3), value=float("nan")), "value = nan"),
        (lambda: im.threshold(x, gpu.zeros((4, 5), B), float("nan")), "level = nan; allowed: a number"),
        (lambda: im.threshold(x, gpu.zeros((4, 5), B), 3, 1.5), "above = 1.5; allowed: 0..255"),
        (lambda: im.sobel(x, f, scale=float("inf")), "scale = inf"),
        (lambda: im.filter2d(x, f, [[1, 2], [3]]), "weights = .*; allowed: finite numbers"),
        (lambda: im.tint(x, f, "red"), "gains = 'red'"),
        (lambda: im.gaussian(x, f, 2.0, "reflect"), "a mirror of 6 pixels"),
        (lambda: im.gaussian(x, f, -1), "sigma = -1; allowed"),
        (lambda: im.filter2d(x, f, np.ones((2, 3))), "weights of shape"),
        (lambda: im.sobel(x, f, "up"), "direction = 'up'"),
        (lambda: im.median(x, f), "out holds float32"),
        (lambda: im.median(f, gpu.zeros((4, 5)), 7), "size = 7"),
        (lambda: im.erode(f, gpu.zeros((4, 5)), 4), "size = 4"),
        (lambda: im.warp(f, gpu.zeros((4, 5)), np.eye(3), "wrap"), "border = 'wrap'"),
        (lambda: im.resize(x, c), "out has the shape"),
        (lambda: im.resize(x, f, "cubic"), "method = 'cubic'"),
        (lambda: im.pyramid_down(x, f), "out has the shape"),
        (lambda: im.warp(x, f, np.eye(2)), "a matrix of shape"),
        (lambda: im.grey(x, f), "x has the shape"),
        (lambda: im.rgb_of_yuv420(x, x, x, c), "u has the shape"),
        (lambda: im.threshold(x, gpu.zeros((4, 5), B), 3, 300), "above = 300"),
        (lambda: im.blend(x, x, gpu.zeros((4, 5), B), 2), "share = 2"),
        (lambda: im.tint(c, gpu.zeros((4, 5, 3), B), (1, 2)), "gains of shape"),
        (lambda: im.lookup(x, f, gpu.zeros(16)), "table has the shape"),
        (lambda: im.box(gpu.zeros((4, 5), np.int16), f), "x holds int16"),
    ]
    for call, found in cases:
        with pytest.raises(UsageError, match=found) as caught:
            call()
        assert "help: " in str(caught.value)
