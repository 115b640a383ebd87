"""Trials of images: one and several channels, bytes and floats, all borders, cut and turned; filters against SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qpu.kernels import image as im
from qpu.kernels.common.rounding import bound
from qpu.kernels.image import colour, filters, sizes
from tests.kernels.trials import D, F, N, Trial, case

B = np.uint8
SHAPES = ((1, 1), (3, 16), (5, 17), (4, 40), (6, 5, 3))
MODES = {"clamp": "nearest", "reflect": "mirror", "constant": "constant"}


def _ndimage() -> Any:
    """SciPy's filters, of the packages of the group `full`."""
    return pytest.importorskip("scipy.ndimage", reason="SciPy is in the group full")


"""Borders, and what SciPy calls them."""
EXACT = {3: (1, 2, 1), 5: (1, 4, 6, 4, 1), 7: (1, 6, 15, 20, 15, 6, 1), 11: (1, 0, 2, 0, 3, 4, 3, 0, 2, 0, 1)}
"""Weights over a power of two, by their number: bytes under them are exact."""


def _picture(t: Trial, dtype: Any = None, *shapes: Any) -> Any:
    """Pixels of a drawn shape and type."""
    shape = t.pick(*(shapes or SHAPES))
    dtype = dtype or t.pick(B, F)
    x = t.noise.integers(0, 256, shape)
    return x.astype(B) if dtype is B else (x - 100.5).astype(F)


def _border(t: Trial, x: Any, reach: int) -> str:
    """A border that the image allows."""
    return str(t.pick("clamp", "constant", *(["reflect"] if reach < min(x.shape[:2]) else [])))


def _each(x: Any, function: Callable[[Any], Any]) -> Any:
    """A function of each channel."""
    if x.ndim == 2:
        return function(x)
    return np.stack([function(x[:, :, n]) for n in range(x.shape[2])], -1)


def _near(t: Trial, out: Any, want: Any, operations: float, size: Any) -> None:
    """Floats within a bound; bytes within half of one more."""
    got = out.numpy()
    byte = got.dtype == B
    limit = bound(t.gpu.isa, operations, size) + (0.5 if byte else 0)
    error = np.abs(got - (np.clip(want, 0, 255) if byte else want))
    assert (error <= limit).all(), (error - limit).max()


def _correlated(x: Any, w: Any, border: str, value: float) -> Any:
    return _each(x.astype(D), lambda p: _ndimage().correlate(p, np.asarray(w, D), mode=MODES[border], cval=value))


@case("image.separable")
def _(t: Trial) -> Any:
    high, wide, exact = t.n(1, 3, 5, 7, 11, 17), t.n(1, 3, 5, 9, 11, 17), t.pick(True, False)
    x = _picture(t)
    border = _border(t, x, max(high, wide) // 2)
    rows, columns = (
        np.array(EXACT[n]) / 2.0 ** (8 if n == 11 else n - 1) if exact and n in EXACT
        else np.ones(1) if exact else t.floats(n)
        for n in (high, 5 if exact and wide == 9 else wide)
    )  # fmt: skip
    out = t.out(x.shape, t.pick(B, F))
    im.separable(t.put(x), out, rows, columns, border, 9)
    want = _correlated(x, np.outer(rows, columns), border, 9)
    if exact and x.dtype == out.dtype == B:
        t.same(out, np.floor(np.clip(want, 0, 255) + 0.5))
    else:
        _near(t, out, want, 2 * (high + wide) + 6, 256 * np.abs(np.outer(rows, columns)).sum())
    return (out,)


@case("image.box, gaussian")
def _(t: Trial) -> Any:
    x = _picture(t)
    size = (t.n(1, 3, 5, 9), t.n(1, 3, 11))
    border = _border(t, x, 5)
    one, two = t.out(x.shape, t.pick(B, F)), t.out(x.shape, t.pick(B, F))
    given = t.put(x)
    im.box(given, one, size, border, 30)
    _near(t, one, _correlated(x, np.full(size, 1 / np.prod(size)), border, 30), 30, 400)
    sigma = t.pick(0.5, 1.3)
    im.gaussian(given, two, sigma, border, 30)
    w = filters.weights_of(sigma)
    _near(t, two, _correlated(x, np.outer(w, w), border, 30), 40, 400)
    return one, two


@case("image.filter2d")
def _(t: Trial) -> Any:
    x = _picture(t)
    w = t.floats(t.n(1, 3, 7, 9), t.n(1, 3, 9))
    border = _border(t, x, 4)
    out = t.out(x.shape, t.pick(B, F))
    im.filter2d(t.put(x), out, w, border, 9)
    _near(t, out, _correlated(x, w, border, 9), w.size + 4, 256 * np.abs(w).sum())
    return (out,)


@case("image.sobel")
def _(t: Trial) -> Any:
    x, direction = _picture(t), t.pick("x", "y", "magnitude")
    border = _border(t, x, 1)
    out = t.out(x.shape, t.pick(B, F))
    im.sobel(t.put(x), out, direction, 0.25, border, 9)
    w = np.outer((1, 2, 1), (-1, 0, 1))
    across, down = (_correlated(x, v, border, 9) for v in (w, w.T))
    want = {"x": across, "y": down, "magnitude": np.hypot(across, down)}[direction]
    _near(t, out, 0.25 * want, 24, 512)
    return (out,)


@case("image.median")
def _(t: Trial) -> Any:
    x, size = _picture(t), t.pick(3, 5)
    border = _border(t, x, size // 2)
    out = t.out(x.shape, x.dtype)
    im.median(t.put(x), out, size, border, 20)
    t.same(out, _each(x, lambda p: _ndimage().median_filter(p, size, mode=MODES[border], cval=20)))
    return (out,)


@case("image.erode, dilate")
def _(t: Trial) -> Any:
    x, size, largest = _picture(t), (t.n(1, 3, 7, 9, 33), t.n(1, 3, 5, 11)), t.pick(False, True)
    border = _border(t, x, max(size) // 2)
    out = t.out(x.shape, x.dtype)
    (im.dilate if largest else im.erode)(t.put(x), out, size, border, 100)
    function = _ndimage().maximum_filter if largest else _ndimage().minimum_filter
    t.same(out, _each(x, lambda p: function(p, size, mode=MODES[border], cval=100)))
    return (out,)


@case("image.resize")
def _(t: Trial) -> Any:
    x, method = _picture(t), t.pick("nearest", "bilinear", "area")
    size = (t.n(1, 4, 9), t.n(2, 17, 33))
    out = t.out((*size, *x.shape[2:]), x.dtype if method == "nearest" else t.pick(B, F))
    im.resize(t.put(x), out, method)
    tables = [sizes.table(a, b, method) for a, b in zip(x.shape, size, strict=False)]
    want = _each(x, lambda p: sizes.reference_resample(p, *tables))
    _near(t, out, want, 0 if method == "nearest" else 3 * sum(len(v.at) for v in tables), 256)
    return (out,)


def _twice(x: Any, border: str) -> Any:
    """Rows of an image, each becoming two."""
    p = np.pad(x.astype(D), ((1, 1), (0, 0)), {"clamp": "edge"}.get(border, border))
    return np.stack([(p[:-2] + 6 * p[1:-1] + p[2:]) / 8, (p[1:-1] + p[2:]) / 2], 1).reshape(-1, x.shape[1])


@case("image.pyramid_down, pyramid_up")
def _(t: Trial) -> Any:
    x = _picture(t)
    border = _border(t, x, 2)
    given = t.put(x)
    half = t.out((-(-x.shape[0] // 2), -(-x.shape[1] // 2), *x.shape[2:]), t.pick(B, F))
    im.pyramid_down(given, half, border)
    w = np.array((1, 4, 6, 4, 1)) / 16
    _near(t, half, _correlated(x, np.outer(w, w), border, 0)[::2, ::2], 30, 256)
    double = t.out((2 * x.shape[0], 2 * x.shape[1], *x.shape[2:]), t.pick(B, F))
    im.pyramid_up(given, double, border)
    _near(t, double, _each(x, lambda p: _twice(_twice(p, border).T, border).T), 30, 256)
    return half, double


@case("image.warp")
def _(t: Trial) -> Any:
    x, border = _picture(t), t.pick("constant", "clamp", "reflect")
    m = np.array([[0.9, 0.2, t.pick(1.3, -30)], [-0.1, 1.1, t.pick(-0.7, 21)], [0.001, 0.002, 1.0]])[: t.pick(2, 3)]
    size = (t.n(1, 5), t.n(3, 18))
    out = t.out((*size, *x.shape[2:]), t.pick(B, F))
    im.warp(t.put(x), out, m, border, 40)
    # a place errs by some roundings of its terms, a pixel by its slope, at most 256 a pixel each way
    slope = 2 * 256 * float(bound(t.gpu.isa, 16, 100.0))
    found, want = out.numpy(), _each(x, lambda p: sizes.reference_warp(p, size, m, border, 40))
    limit = slope + bound(t.gpu.isa, 8, 4 * 256) + (0.5 if found.dtype == B else 0)
    assert (np.abs(found - (np.clip(want, 0, 255) if found.dtype == B else want)) <= limit).all()
    return (out,)


@case("image.grey, rgb_of_grey")
def _(t: Trial) -> Any:
    x = _picture(t, None, (1, 1, 3), (5, 19, 3), (4, 33, 3))
    one, three = t.out(x.shape[:2], x.dtype), t.out(x.shape, x.dtype)
    im.grey(t.put(x), one)
    if x.dtype == B:
        t.same(one, colour.reference_grey(x))
    else:
        t.close(one, x.astype(D) @ (0.299, 0.587, 0.114), 6, 256)
    im.rgb_of_grey(one, three)
    t.same(three, np.repeat(one.numpy()[:, :, None], 3, 2))
    return one, three


@case("image.yuv420_of_rgb, rgb_of_yuv420")
def _(t: Trial) -> Any:
    x, full = _picture(t, B, (1, 1, 3), (5, 19, 3), (4, 33, 3)), t.pick(True, False)
    half = (-(-x.shape[0] // 2), -(-x.shape[1] // 2))
    planes, back = [t.out(s, B) for s in (x.shape[:2], half, half)], t.out(x.shape, B)
    im.yuv420_of_rgb(t.put(x), *planes)
    want = colour.reference_yuv420_of_rgb(x)
    for found, plane in zip(planes, want, strict=True):
        t.same(found, plane)
    im.rgb_of_yuv420(*planes, back, full=full)
    t.same(back, colour.reference_rgb_of_yuv420(*want, full=full))
    return *planes, back


@case("image.threshold")
def _(t: Trial) -> Any:
    x, level = _picture(t), t.pick(0.5, 99, 254.5)
    out = t.out(x.shape, x.dtype)
    im.threshold(t.put(x), out, level, 200, 3)
    t.same(out, np.where(x > level, 200, 3))
    return (out,)


@case("image.lookup")
def _(t: Trial) -> Any:
    x, dtype = _picture(t, B), t.pick(B, F)
    table = (t.noise.integers(0, 256, 256)).astype(dtype)
    out = t.out(x.shape, dtype)
    im.lookup(t.put(x), out, t.put(table))
    t.same(out, table[x])
    return (out,)


@case("image.histogram, equalise")
def _(t: Trial) -> Any:
    x = _picture(t, B, *SHAPES[:4]) // t.pick(1, 9)
    given, bins, out = t.put(x), t.out(256, N), t.out(x.shape, B)
    im.histogram(given, bins)
    counts = np.bincount(x.ravel(), minlength=256)
    t.same(bins, counts)
    im.equalise(given, out)
    t.same(out, colour.levels(counts)[x])
    return bins, out


@case("image.blend")
def _(t: Trial) -> Any:
    x, share = _picture(t), t.pick(0.0, 0.3, 1.0)
    y = x[::-1, ::-1].copy()
    out = t.out(x.shape, x.dtype)
    im.blend(t.put(x), t.put(y), out, share)
    if x.dtype == B:
        t.same(out, x + (((y.astype(int) - x) * round(share * 256) + 128) >> 8))
    else:
        t.close(out, x.astype(D) + (y.astype(D) - x) * share, 4, 600)
    return (out,)


@case("image.tint")
def _(t: Trial) -> Any:
    x = _picture(t)
    gains = np.array((1, 0.5, 2)) if x.ndim == 3 else np.array([1.5])
    out = t.out(x.shape, t.pick(B, F))
    im.tint(t.put(x), out, gains)
    _near(t, out, x * gains, 2, 512)
    return (out,)
