"""Every function of the library (without images) on shapes, layouts and types that hypothesis draws.

Results are compared with NumPy or SciPy in float64, within bounds that the number of roundings gives; integers exactly.
Memory beside a view must stay as it is. A few functions run in the suite, each on one board; all of them, on the three
boards, are a soak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.errors import UsageError
from qpu.kernels import blas1, blas2, fft, igemm, misc, move, nn, scan, search, sort
from qpu.kernels.common.rounding import bound
from qpu.kernels.gemm import gemm, syrk, trsm
from qpu.kernels.nn import activation, conv, dense, int8, norm, pool
from qpu.kernels.random import Generator, reference_normal, reference_uniform, words
from tests.kernels.turns import turns

F, D, C, N, U, B = np.float32, np.float64, np.complex64, np.int32, np.uint32, np.int8
BOARDS = ("pi3", "pi4", "pi5")
LENGTHS = (0, 1, 15, 16, 17, 65, 130)
SIDES = (1, 2, 5, 16, 17)
LAYOUTS = ("plain", "inside", "gaps", "backwards", "turned")
NUMBERS = (F, N, U, np.int8, np.uint8, np.int16, np.uint16)
NOW = ("nn.layer_norm", "scan.cumulative_min", "search.searchsorted")
pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")


@dataclass
class Trial:
    """One call: draws its arguments and knows what must stay as it is."""

    gpu: Device
    data: Any
    kept: list[tuple[Any, Any, Any]] = field(default_factory=list)

    def pick(self, *choices: Any) -> Any:
        """One of the choices."""
        return self.data.draw(st.sampled_from(choices))

    @property
    def noise(self) -> np.random.Generator:
        """Random numbers of a drawn seed."""
        return np.random.default_rng(self.data.draw(st.integers(0, 9)))

    def n(self, *choices: int) -> int:
        """A length."""
        return int(self.pick(*(choices or LENGTHS)))

    def floats(self, *shape: int) -> Any:
        """Numbers of both signs, none of them tiny."""
        return self.noise.normal(size=shape).astype(F)

    def numbers(self, dtype: Any, *shape: int) -> Any:
        """Numbers of a type; integers of its whole range."""
        if dtype is F:
            return self.floats(*shape)
        limits = np.iinfo(dtype)
        return self.noise.integers(limits.min, limits.max + 1, shape, dtype)

    def put(self, x: Any, *layouts: str) -> Any:
        """An array on the device, in a drawn layout."""
        how = self.pick(*(layouts or LAYOUTS)) if x.ndim else "plain"
        shape = list(x.shape)
        index: list[Any] = [slice(None)] * x.ndim
        if how == "inside":
            shape[-1] += 5
            index[-1] = slice(3, shape[-1] - 2)
        elif how == "gaps":
            shape[-1] *= 2
            index[-1] = slice(None, None, 2)
        elif how == "backwards":
            index[0] = slice(None, None, -1)
        elif how == "turned":
            shape.reverse()
        host = np.full(shape, 77).astype(x.dtype)
        place = host.T if how == "turned" else host
        place[tuple(index)] = x
        buffer = self.gpu.array(host)
        view = buffer.T if how == "turned" else buffer[tuple(index)] if x.ndim else buffer
        self.kept.append((buffer, host, (how == "turned", tuple(index))))
        return view

    def out(self, shape: Any, dtype: Any, *layouts: str) -> Any:
        """Memory for a result, which holds NaN or large numbers so far."""
        shape = shape if isinstance(shape, tuple) else (int(shape),)
        kind = np.dtype(dtype)
        return self.put(np.full(shape, np.nan if kind.kind in "fc" else np.iinfo(kind).max - 1, kind), *layouts)

    def stays(self, *written: Any) -> None:
        """Check everything that no view of `written` covers."""
        for buffer, host, (turned, index) in self.kept:
            now, then = np.array(buffer.numpy()), host.copy()
            if any(getattr(v, "buffer", v) is buffer for v in written):
                for x in (now, then):
                    (x.T if turned else x)[index if x.ndim and not turned else ...] = 0
            np.testing.assert_array_equal(now, then)

    def close(self, found: Any, wanted: Any, operations: float, size: Any) -> None:
        """Whether results err by no more than so many roundings of terms of that size."""
        error = np.abs(np.asarray(found.numpy() if hasattr(found, "numpy") else found) - wanted)
        limit = bound(self.gpu.isa, operations, np.abs(size))
        assert (error <= limit).all(), (error - limit).max()

    def same(self, found: Any, wanted: Any) -> None:
        """Whether results are exactly those."""
        np.testing.assert_array_equal(found.numpy() if hasattr(found, "numpy") else found, wanted)


Case = Callable[[Trial], Any]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Decorator: the trial of a function; it returns the views that are written."""

    def added(function: Case) -> Case:
        CASES[name] = function
        return function

    return added


# -- vectors and matrices


@case("blas1.copy")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(F, N, U), t.n())
    y = t.out(len(x), x.dtype)
    blas1.copy(t.put(x), y)
    t.same(y, x)
    return (y,)


@case("blas1.swap")
def _(t: Trial) -> Any:
    x, y = t.floats(n := t.n()), t.floats(n)
    a, b = t.put(x), t.put(y)
    blas1.swap(a, b)
    t.same(a, y)
    t.same(b, x)
    return a, b


@case("blas1.scal")
def _(t: Trial) -> Any:
    x, alpha = t.floats(t.n()), t.pick(0.0, -1.5)
    a = t.put(x)
    blas1.scal(alpha, a)
    t.close(a, alpha * x.astype(D), 1, alpha * x)
    return (a,)


@case("blas1.axpy")
def _(t: Trial) -> Any:
    x, y, alpha = t.floats(n := t.n()), t.floats(n), t.pick(0.0, -1.5)
    b = t.put(y)
    blas1.axpy(alpha, t.put(x), b)
    t.close(b, alpha * x.astype(D) + y, 2, abs(alpha * x) + abs(y))
    return (b,)


@case("blas1.rot")
def _(t: Trial) -> Any:
    x, y = t.floats(n := t.n()), t.floats(n)
    a, b = t.put(x), t.put(y)
    blas1.rot(a, b, 0.5, -0.75)
    t.close(a, 0.5 * x.astype(D) - 0.75 * y, 2, abs(x) + abs(y))
    t.close(b, 0.5 * y.astype(D) + 0.75 * x, 2, abs(x) + abs(y))
    return a, b


@case("blas1.dot")
def _(t: Trial) -> Any:
    x, y = t.floats(n := t.n()), t.floats(n)
    products = x.astype(D) * y
    t.close(blas1.dot(t.put(x), t.put(y)), products.sum(), 9, abs(products).sum())
    return ()


@case("blas1.asum, nrm2, iamax")
def _(t: Trial) -> Any:
    x = t.floats(t.n())
    a = t.put(x)
    t.close(blas1.asum(a), abs(x.astype(D)).sum(), 9, abs(x).sum())
    length = np.linalg.norm(x.astype(D))
    t.close(blas1.nrm2(a), length, 9, length)
    if len(x):
        assert blas1.iamax(a) == int(np.argmax(abs(x)))
    return ()


@case("blas2.gemv")
def _(t: Trial) -> Any:
    a, trans, beta = t.floats(t.n(*SIDES, 70), t.n(*SIDES, 70)), t.pick(False, True), t.pick(0.0, -1.5)
    op = a.T if trans else a
    x, y = t.floats(op.shape[1]), t.floats(op.shape[0])
    out = t.put(y)
    blas2.gemv(1.25, t.put(a), t.put(x), beta, out, trans=trans)
    size = 1.25 * abs(op.astype(D)) @ abs(x.astype(D)) + abs(beta * y)
    t.close(out, 1.25 * op.astype(D) @ x + beta * y.astype(D), len(x) + 6, size)
    return (out,)


@case("blas2.ger")
def _(t: Trial) -> Any:
    a = t.floats(t.n(*SIDES), t.n(*SIDES, 70))
    x, y, out = t.floats(a.shape[0]), t.floats(a.shape[1]), t.put(a)
    blas2.ger(-0.75, t.put(x), t.put(y), out)
    outer = -0.75 * np.outer(x.astype(D), y)
    t.close(out, outer + a, 3, abs(outer) + abs(a))
    return (out,)


@case("gemm.gemm")
def _(t: Trial) -> Any:
    m, n, k = t.pick((1, 1, 1), (5, 70, 9), (50, 65, 41), (0, 3, 4), (3, 4, 0))
    a, b, c, v = t.floats(m, k), t.floats(k, n), t.floats(m, n), t.floats(n)
    beta, relu, add = t.pick(0.0, -0.5), t.pick(False, True), t.pick(False, True)
    out = t.put(c)
    gemm(t.put(a), t.put(b), out, alpha=1.5, beta=beta, bias=t.put(v) if add else None, relu=relu)
    want = 1.5 * (a.astype(D) @ b.astype(D)) + beta * c.astype(D) + (v if add else 0)
    size = 1.5 * (abs(a.astype(D)) @ abs(b.astype(D))) + abs(beta * c) + abs(v)
    t.close(out, np.maximum(want, 0) if relu else want, k + 5, size)
    return (out,)


@case("gemm.syrk")
def _(t: Trial) -> Any:
    a = t.floats(n := t.n(*SIDES), t.n(*SIDES))
    c, upper = t.floats(n, n), t.pick(False, True)
    out = t.put(c)
    syrk(t.put(a), out, alpha=0.5, beta=-2.0, upper=upper)
    inside = np.tri(n, dtype=bool).T if upper else np.tri(n, dtype=bool)
    want = np.where(inside, 0.5 * a.astype(D) @ a.T.astype(D) - 2.0 * c, c)
    t.close(out, want, np.where(inside, a.shape[1] + 4, 0).max(), 0.5 * abs(a) @ abs(a.T) + 2 * abs(c))
    return (out,)


@case("gemm.trsm")
def _(t: Trial) -> Any:
    n, m = t.n(1, 5, 8, 19), t.n(1, 9, 17)
    upper, unit, right = t.pick(False, True), t.pick(False, True), t.pick(False, True)
    a = t.floats(n, n) / F(4) + 2 * np.eye(n, dtype=F)
    b = t.floats(m, n) if right else t.floats(n, m)
    out = t.put(b)
    trsm(t.put(a), out, alpha=1.5, upper=upper, unit=unit, right=right)
    s = (np.triu(a) if upper else np.tril(a)).astype(D)
    if unit:
        np.fill_diagonal(s, 1)
    want = np.linalg.solve(s.T, 1.5 * b.T.astype(D)).T if right else np.linalg.solve(s, 1.5 * b.astype(D))
    inverse = abs(np.linalg.inv(s))
    size = abs(want) @ abs(s) @ inverse if right else inverse @ abs(s) @ abs(want)
    t.close(out, want, n + 12, size)
    return (out,)


@case("igemm.igemm")
def _(t: Trial) -> Any:
    narrow = (np.int8, np.uint8, np.int16, np.uint16)
    m, n, k = t.n(*SIDES, 27), t.n(*SIDES, 40), t.n(0, 1, 5, 19)
    a, b = t.numbers(t.pick(*narrow), m, k), t.numbers(t.pick(*narrow), k, n)
    bias, add, relu = t.noise.integers(-9999, 9999, n, N), t.pick(False, True), t.pick(False, True)
    given = t.put(bias) if add else None
    total = (a.astype(np.int64) @ b.astype(np.int64)).astype(N)
    if t.pick(False, True):
        out, scale = t.out((m, n), t.pick(*narrow)), np.exp2(-t.noise.uniform(1e-3, 24, n))
        igemm.igemm(t.put(a), t.put(b), out, bias=given, relu=relu, scale=scale, zero=5)
        how = {"bias": bias if add else None, "zero": 5, "relu": relu}
        t.same(out, igemm.reference_requantise(total, scale, out.dtype, **how))
    else:
        c, more = t.numbers(N, m, n), t.pick(False, True)
        out = t.put(c)
        igemm.igemm(t.put(a), t.put(b), out, accumulate=more, bias=given, relu=relu)
        with np.errstate(over="ignore"):
            want = total + (c if more else N(0)) + (bias if add else N(0))
        t.same(out, np.maximum(want, 0) if relu else want)
    return (out,)


@case("igemm.requantise")
def _(t: Trial) -> Any:
    m, n = t.n(*SIDES), t.n(*SIDES, 40)
    x = t.numbers(N, m, n) >> t.n(0, 9, 20)
    out, scale = t.out((m, n), t.pick(np.int8, np.uint8, np.int16, np.uint16)), np.exp2(-t.noise.uniform(1e-3, 24, n))
    bias, zero, relu = t.noise.integers(-500, 500, n, N), t.pick(0, 7), t.pick(False, True)
    igemm.requantise(t.put(x), scale, out, bias=t.put(bias), zero=zero, relu=relu)
    t.same(out, igemm.reference_requantise(x, scale, out.dtype, bias=bias, zero=zero, relu=relu))
    return (out,)


# -- transforms


def _rms(t: Trial, found: Any, wanted: Any, n: int, inverse: bool = False) -> None:
    limit = (5e-7 if n & (n - 1) == 0 else 1.5e-6) * (2 if t.gpu.isa is Isa.VC4 else 1)
    error = np.sqrt((abs(found.numpy() - wanted) ** 2).sum())
    assert error <= limit * np.sqrt((abs(wanted) ** 2).sum()), (n, error)


@case("fft.fft, ifft")
def _(t: Trial) -> Any:
    shape = (t.n(1, 2), t.n(1, 2, 9, 16, 32), t.n(1, 3))
    x = (t.floats(*shape) + 1j * t.floats(*shape)).astype(C)
    out, inverse = t.out(shape, C), t.pick(False, True)
    (fft.ifft if inverse else fft.fft)(t.put(x), out, axis=1)
    _rms(t, out, (np.fft.ifft if inverse else np.fft.fft)(x.astype(np.complex128), axis=1), shape[1])
    return (out,)


@case("fft.rfft, irfft")
def _(t: Trial) -> Any:
    x = t.floats(t.n(1, 3), n := t.n(1, 2, 15, 16, 64))
    want = np.fft.rfft(x.astype(D))
    half, back = t.out(want.shape, C), t.out(x.shape, F)
    fft.rfft(t.put(x), half)
    _rms(t, half, want, n)
    fft.irfft(half, back)
    _rms(t, back, np.fft.irfft(half.numpy().astype(np.complex128), n), n)
    return half, back


@case("fft.fft2, ifft2")
def _(t: Trial) -> Any:
    shape = (t.n(4, 6), t.n(8, 5))
    x = (t.floats(*shape) + 1j * t.floats(*shape)).astype(C)
    out, inverse = t.out(shape, C), t.pick(False, True)
    (fft.ifft2 if inverse else fft.fft2)(t.put(x), out)
    _rms(t, out, (np.fft.ifft2 if inverse else np.fft.fft2)(x.astype(np.complex128)), 3)
    return (out,)


@case("fft.spectrogram")
def _(t: Trial) -> Any:
    n, hop = t.n(16, 20), t.n(1, 8)
    x, w = t.floats(50), fft.window(t.pick("hann", "flat-top"), n)
    out = t.out(((50 - n) // hop + 1, n // 2 + 1), F)
    fft.spectrogram(t.put(x), t.put(w), out, hop)
    pieces = np.lib.stride_tricks.sliding_window_view(x.astype(D), n)[::hop] * w
    want = abs(np.fft.rfft(pieces)) ** 2 / np.sum(w.astype(D) ** 2)
    t.close(out, want, 64, want.max())
    return (out,)


# -- scans, order, moving, searching


def _cumulative(op: str) -> Case:
    def trial(t: Trial) -> Any:
        dtype = t.pick(*NUMBERS)
        shape = t.pick((t.n(1, 15, 64, 65, 517),), (3, 5, 18), (2, 17), (1, 0))
        x, axis = t.numbers(dtype, *shape), t.pick(*range(len(shape)))
        if op == "prod" and dtype is F:
            x = np.exp2(np.clip(x, -1, 1) / 8).astype(F)
        out = t.out(shape, scan.result_type(dtype))
        getattr(scan, f"cumulative_{op}")(t.put(x), out, axis)
        want = scan.reference(x, op, axis)
        if dtype is F and op in ("sum", "prod"):
            size = np.abs(x.astype(D)).cumsum(axis) if op == "sum" else want
            t.close(out, want, shape[axis] + 80, size)
        else:
            t.same(out, want)
        return (out,)

    return trial


for _op in ("sum", "prod", "min", "max"):
    case(f"scan.cumulative_{_op}")(_cumulative(_op))


@case("sort.sort")
def _(t: Trial) -> Any:
    x, down = t.numbers(t.pick(*NUMBERS), t.n(*LENGTHS, 300)), t.pick(False, True)
    out = t.out(len(x), x.dtype)
    sort.sort(t.put(x), out, down)
    t.same(out, np.sort(x)[:: -1 if down else 1])
    return (out,)


@case("sort.argsort")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), t.n(*LENGTHS)) // 16 * 16
    out = t.out(len(x), N)
    sort.argsort(t.put(x), out)
    t.same(out, np.argsort(x, kind="stable"))
    return (out,)


@case("sort.topk")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), n := t.n(*LENGTHS, 300)) // 16 * 16
    k = t.pick(*{0, min(n, 1), min(n, 9), min(n, 65), n})
    values, places = t.out(k, x.dtype), t.out(k, N)
    sort.topk(t.put(x), values)
    want, at = sort.reference_topk(x, k)
    t.same(values, want)
    sort.topk(t.put(x), values, places)
    t.same(values, want)
    t.same(places, at)
    return values, places


@case("sort.unique")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), t.n()) // 32 * 32
    out = t.out(len(x), x.dtype)
    count = sort.unique(t.put(x), out)
    t.same(out.numpy()[:count], np.unique(x))
    return (out,)


@case("search.searchsorted")
def _(t: Trial) -> Any:
    dtype, side = t.pick(*NUMBERS), t.pick("left", "right")
    a, v = np.sort(t.numbers(dtype, t.n())), t.numbers(dtype, t.n(1, 17, 65))
    if len(a):
        v[0] = a[-1]
    out = t.out(len(v), N)
    search.searchsorted(t.put(a), t.put(v), out, side)
    t.same(out, np.searchsorted(a, v, side))
    return (out,)


@case("search.histogram")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(np.uint8, np.int8, np.int16), t.n(0, 1, 17, 300))
    bins, low, start = t.n(1, 17, 256, 300), t.pick(0, -9), t.pick(True, False)
    out = t.put(np.full(bins, 3, N))
    search.histogram(t.put(x), out, low, start)
    t.same(out, search.reference_histogram(x, bins, low) + (0 if start else 3))
    return (out,)


@case("move.gather")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), *t.pick((17,), (3, 5, 4), (2, 9)))
    axis = t.pick(*range(x.ndim))
    at = t.noise.integers(0, x.shape[axis], t.n(1, 16, 33)).astype(N)
    out = t.out(x.take(at, axis).shape, x.dtype)
    move.gather(t.put(x), t.put(at), out, axis)
    t.same(out, x.take(at, axis))
    return (out,)


@case("move.scatter")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(F, N, np.uint8), n := t.n(1, 17, 33))
    at = t.noise.permutation(40)[:n].astype(N)
    want = np.full(40, 9, x.dtype)
    out = t.put(want)
    want[at] = x
    move.scatter(t.put(x), t.put(at), out)
    t.same(out, want)
    return (out,)


@case("move.transpose")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), t.n(*SIDES), t.n(*SIDES, 33))
    out = t.out(x.shape[::-1], x.dtype)
    move.transpose(t.put(x), out)
    t.same(out, x.T)
    return (out,)


@case("move.compact, nonzero")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), n := t.n())
    mask = t.noise.random(n) < t.pick(0.0, 0.5, 1.0)
    out, numbers = t.out(n, x.dtype), t.out(n, N)
    given = t.put(mask)
    count = move.compact(t.put(x), given, out)
    t.same(out.numpy()[:count], x[mask])
    count = move.nonzero(given, numbers)
    t.same(numbers.numpy()[:count], np.flatnonzero(mask))
    return out, numbers


@case("random")
def _(t: Trial) -> Any:
    shape, seed, rounds = t.pick((1,), (17,), (5, 13)), t.pick(0, 2**64 - 1), t.pick(7, 10)
    n = int(np.prod(shape))
    whole, g = -(-n // 32) * 32, Generator(seed, rounds)
    outs = [t.out(shape, dtype) for dtype in (U, F, F, N)]
    g.bits(outs[0])
    g.uniform(outs[1])
    g.normal(outs[2])
    g.integers(outs[3], -5, 1000)
    every = words(seed, 4 * whole, rounds).reshape(4, whole)
    t.same(outs[0], every[0, :n].reshape(shape))
    t.same(outs[1], reference_uniform(every[1, :n]).reshape(shape))
    assert abs(outs[2].numpy() - reference_normal(every[2])[:n].reshape(shape)).max() < 6 * 2.0**-18
    t.same(outs[3], ((every[3, :n].astype(np.uint64) * np.uint64(1005) >> np.uint64(32)).astype(N) - 5).reshape(shape))
    return outs


# -- networks


@case("nn.activate")
def _(t: Trial) -> Any:
    kind = t.pick(*activation.KINDS)
    x = t.floats(*t.pick((t.n(),), (3, 5, 4), (2, 3, 4, 5))) * F(3)
    out = t.out(x.shape, F)
    nn.activate(t.put(x), out, kind)
    t.close(out, activation.reference_activate(x, kind), 24, 1 + abs(x))
    return (out,)


def _convolution(t: Trial) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    groups = t.n(1, 2, 4)
    how = {"stride": t.pick(1, (2, 1)), "padding": t.pick(0, (1, 2)), "dilation": t.pick(1, (1, 2)), "groups": groups}
    taps = t.pick((1, 1), (3, 3), (2, 3))
    return (t.n(1, 2), 4, 7, t.n(8, 19)), (4 * t.n(1, 2), 4 // groups, *taps), how


@case("nn.conv2d")
def _(t: Trial) -> Any:
    shape, taps, how = _convolution(t)
    x, w, b, kind = t.floats(*shape), t.floats(*taps), t.floats(taps[0]), t.pick("none", "relu", "leaky_relu")
    want = conv.reference_conv2d(x, w, b, **how)
    out = t.out(want.shape, F)
    nn.conv2d(t.put(x), t.put(w), out, t.put(b), activation=kind, **how)
    size = conv.reference_conv2d(abs(x), abs(w), abs(b), **how)
    t.close(out, activation.reference_activate(want, kind), 2 * np.prod(taps[1:]) + 4, size)
    return (out,)


@case("nn.conv2d_int8")
def _(t: Trial) -> Any:
    shape, taps, how = _convolution(t)
    x, w, b = t.numbers(B, *shape), t.numbers(B, *taps), t.noise.integers(-999, 999, taps[0], N)
    total = conv.reference_conv2d(x.astype(np.int64) + 7, w, b, **how)
    total = np.maximum(total, 0) if (relu := t.pick(False, True)) else total
    given, scale = (t.put(x), t.put(w)), t.noise.uniform(1e-3, 4e-3, taps[0]).astype(F)
    if t.pick(False, True):
        out = t.out(total.shape, N)
        nn.conv2d_int8(*given, out, t.put(b), zero=-7, relu=relu, **how)
        t.same(out, total)
    else:
        out = t.out(total.shape, B)
        nn.conv2d_int8(*given, out, t.put(b), t.put(scale), zero=-7, zero_out=3, relu=relu, **how)
        t.same(out, int8.reference_requantise(total, scale[:, None, None], 3))
    return (out,)


@case("nn.max_pool, average_pool")
def _(t: Trial) -> Any:
    dtype = t.pick(F, B, np.uint8)
    x = t.numbers(dtype, t.n(1, 2), 3, 9, t.n(5, 18))
    how = t.pick((2, None, 0), (3, 2, 1), ((1, 3), (2, 1), (0, 1)))
    kinds = ("max", "mean") if dtype is F else ("max",)
    outs = []
    for kind in kinds:
        want = pool.reference_pool(x, kind, *how)
        outs.append(t.out(want.shape, dtype))
        (nn.max_pool if kind == "max" else nn.average_pool)(t.put(x), outs[-1], *how)
        t.close(outs[-1], want, 0 if kind == "max" else 16, abs(x).max())
    return outs


@case("nn.softmax")
def _(t: Trial) -> Any:
    x, logarithm = t.floats(*t.pick((5,), (2, 3, 16), (3, 37), (1, 1))) * F(9), t.pick(False, True)
    out = t.out(x.shape, F)
    nn.softmax(t.put(x), out, logarithm)
    t.close(out, norm.reference_softmax(x, logarithm), 60, 60.0 if logarithm else 1.0)
    return (out,)


@case("nn.layer_norm")
def _(t: Trial) -> Any:
    x = t.floats(*t.pick((2, 5, 21), (3, 16), (7,))) + F(0.5)
    gain, shift = t.floats(x.shape[-1]), t.floats(x.shape[-1])
    out = t.out(x.shape, F)
    nn.layer_norm(t.put(x), out, t.put(gain), t.put(shift))
    t.close(out, norm.reference_layer_norm(x, gain, shift), 60, 20.0)
    return (out,)


@case("nn.batch_norm")
def _(t: Trial) -> Any:
    x = t.floats(*t.pick((2, 5, 21), (3, 16), (2, 3, 4, 5)))
    mean, gain, shift = (t.floats(x.shape[1]) for _ in range(3))
    variance = t.floats(x.shape[1]) ** 2 + F(0.1)
    out = t.out(x.shape, F)
    nn.batch_norm(t.put(x), out, *(t.put(v) for v in (mean, variance, gain, shift)))
    wide = (slice(None), *[None] * (x.ndim - 2))
    factor = (gain / np.sqrt(variance.astype(D) + 1e-5))[wide]
    want = (x.astype(D) - mean[wide]) * factor + shift[wide]
    t.close(out, want, 16, (abs(x) + abs(mean[wide])) * abs(factor) + abs(shift[wide]))
    return (out,)


@case("nn.attention")
def _(t: Trial) -> Any:
    n, m, causal = t.n(1, 7, 17), t.n(9, 17), t.pick(False, True)
    q, k, v = t.floats(2, n, 5), t.floats(2, m, 5), t.floats(2, m, 6)
    out = t.out((2, n, 6), F)
    nn.attention(t.put(q), t.put(k), t.put(v), out, causal)
    t.close(out, dense.reference_attention(q, k, v, causal), 99, 8.0)
    return (out,)


@case("nn.linear, matmul")
def _(t: Trial) -> Any:
    x, w, b = t.floats(n := t.n(*SIDES), k := t.n(*SIDES)), t.floats(o := t.n(*SIDES), k), t.floats(o)
    kind = t.pick("none", "relu", "tanh")
    out, plain = t.out((n, o), F), t.out((n, o), F)
    nn.linear(t.put(x), t.put(w), out, t.put(b), kind)
    total, size = x.astype(D) @ w.T.astype(D), abs(x) @ abs(w.T) + abs(b) + 1
    t.close(out, activation.reference_activate(total + b, kind), k + 32, size)
    nn.matmul(t.put(x), t.put(np.ascontiguousarray(w.T)), plain)
    t.close(plain, total, k + 2, size)
    return out, plain


@case("nn.linear_int8")
def _(t: Trial) -> Any:
    x, w = t.numbers(B, n := t.n(*SIDES), k := t.n(*SIDES, 70)), t.numbers(B, o := t.n(*SIDES), k)
    b, scale = t.noise.integers(-999, 999, o, N), t.noise.uniform(1e-3, 4e-3, o).astype(F)
    total = (x.astype(np.int64) - 9) @ w.T.astype(np.int64) + b
    out, sums = t.out((n, o), B), t.out((n, o), N)
    nn.linear_int8(t.put(x), t.put(w), sums, t.put(b), zero=9)
    t.same(sums, total)
    nn.linear_int8(t.put(x), t.put(w), out, t.put(b), t.put(scale), zero=9, zero_out=-2, relu=True)
    t.same(out, int8.reference_requantise(np.maximum(total, 0), scale, -2))
    return out, sums


@case("nn.embedding")
def _(t: Trial) -> Any:
    table = t.numbers(t.pick(F, B), 9, t.n(*SIDES))
    at = t.noise.integers(0, 9, t.pick((5,), (2, 3), (1, 0))).astype(N)
    out = t.out((*at.shape, table.shape[1]), table.dtype)
    nn.embedding(t.put(table), t.put(at), out)
    t.same(out, table[at])
    return (out,)


@case("nn.quantise, dequantise")
def _(t: Trial) -> Any:
    x, axis = t.floats(2, 3, t.n(1, 23)) * F(2), t.pick(0, 1, 2)
    scale = t.noise.uniform(0.01, 0.03, x.shape[axis]).astype(F)
    wide = scale.reshape([-1 if n == axis else 1 for n in range(3)])
    small, back = t.out(x.shape, B), t.out(x.shape, F)
    nn.quantise(t.put(x), small, t.put(scale), -9, axis)
    assert abs(small.numpy() - int8.reference_quantise(x, wide, -9)).max() <= 0.5 + 1e-4
    nn.dequantise(small, back, t.put(scale), -9, axis)
    t.close(back, (small.numpy().astype(D) + 9) * wide, 1, 137 * wide)
    return small, back


# -- signals, points, bodies


@case("misc.convolve")
def _(t: Trial) -> Any:
    x, mode = t.floats(t.n(6, 17, 40)), t.pick("full", "same", "valid")
    w = t.floats(t.n(1, 2, 6))
    want = np.convolve(x.astype(D), w.astype(D), mode)
    out = t.out(len(want), F)
    misc.convolve(t.put(x), t.put(w), out, mode)
    t.close(out, want, len(w) + 1, np.convolve(abs(x).astype(D), abs(w).astype(D), mode))
    return (out,)


@case("misc.distances")
def _(t: Trial) -> Any:
    width, squared = t.n(1, 3, 5), t.pick(False, True)
    x, y = t.floats(t.n(*SIDES), width), t.floats(t.n(*SIDES), width)
    out = t.out((len(x), len(y)), F)
    misc.distances(t.put(x), t.put(y), out, squared)
    want = misc.reference_distances(x, y)
    t.close(out, want**2 if squared else want, 2 * width + 16, (want**2 if squared else want) + 1e-3)
    return (out,)


@case("misc.kmeans_step")
def _(t: Trial) -> Any:
    x, old = t.floats(t.n(1, 17, 37), width := t.n(1, 2, 3)), t.floats(t.n(1, 3), width)
    labels, new = t.out(len(x), N), t.out(old.shape, F)
    misc.kmeans_step(t.put(x), t.put(old), labels, new)
    near = labels.numpy()
    apart = misc.reference_distances(x, old)
    assert (apart[np.arange(len(x)), near] <= apart.min(1) * (1 + 1e-5) + 1e-6).all()
    want = np.array([x[near == j].mean(0, dtype=D) if (near == j).any() else old[j] for j in range(len(old))])
    t.close(new, want, len(x) + 8, abs(x).max() + abs(old).max())
    return labels, new


@case("misc.accelerations, nbody_step")
def _(t: Trial) -> Any:
    p, v = t.floats(3, n := t.n(1, 17)), t.floats(3, n)
    m = t.noise.uniform(0.5, 1, n).astype(F)
    pull = misc.reference_accelerations(p, m, 0.05)
    found, bp, bv = t.out((3, n), F), t.put(p), t.put(v)
    misc.accelerations(bp, t.put(m), found, 0.05)
    size = n * 0.05**-1.0
    t.close(found, pull, n + 40, size)
    misc.nbody_step(bp, bv, t.put(m), 0.01, 0.05)
    t.close(bv, v + 0.01 * pull, n + 44, size)
    t.close(bp, p + 0.01 * (v + 0.01 * pull), n + 48, size + abs(p))
    return found, bp, bv


# -- arguments that do not belong together


class Wrong(Trial):
    """The first of all choices, and one argument that is on another device, or of a type that nothing computes with."""

    def __init__(self, gpu: Device, other: Device | None, number: int) -> None:
        super().__init__(gpu, None)
        self.other, self.number = other, number

    def pick(self, *choices: Any) -> Any:
        return choices[-1] if isinstance(choices[-1], (int, tuple)) else choices[0]

    @property
    def noise(self) -> np.random.Generator:
        return np.random.default_rng(1)

    def put(self, x: Any, *layouts: str) -> Any:
        self.number -= 1
        if self.number:
            return self.gpu.array(x)
        return self.gpu.array(np.zeros(x.shape, np.float16)) if self.other is None else self.other.array(x)


ALONE = ("blas1.scal", "blas1.asum, nrm2, iamax", "random")
"""Functions of one array."""


@pytest.mark.parametrize("number", turns([1, 2], 0))
@pytest.mark.parametrize("name", CASES)
def test_arguments_of_another_device_or_type_are_refused(opened: dict[str, Device], name: str, number: int) -> None:
    """Each of the first two: before anything is launched."""
    if name not in ALONE:
        with pytest.raises(UsageError, match="belongs to another device"):
            CASES[name](Wrong(opened["pi5"], opened["pi4"], number))
    if number == 1 or name not in ALONE:
        with pytest.raises(UsageError, match="float16") as caught:
            CASES[name](Wrong(opened["pi5"], None, number))
        assert "help: " in str(caught.value)


# -- the test


@pytest.fixture(scope="module")
def opened() -> Iterator[dict[str, Device]]:
    gpus = {name: qpu.open_device(name, engine="reference") for name in BOARDS}
    yield gpus
    for gpu in gpus.values():
        gpu.close()


def _parameters() -> Iterator[Any]:
    for n, name in enumerate(CASES):
        for board in BOARDS:
            now = name in NOW and board == BOARDS[n % 3]
            yield pytest.param(
                name, board, 1 if now else 4, marks=() if now else pytest.mark.soak, id=f"{name}-{board}"
            )


@pytest.mark.parametrize(("name", "board", "examples"), list(_parameters()))
def test_a_function(opened: dict[str, Device], name: str, board: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: Any) -> None:
        trial = Trial(opened[board], data)
        trial.stays(*CASES[name](trial))

    check()
