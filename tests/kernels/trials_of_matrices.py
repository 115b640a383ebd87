"""Trials of vectors, matrices, integer products and transforms."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.core.isa import Isa
from qpu.kernels import blas1, blas2, fft, igemm
from qpu.kernels.fft.spectra import reference_spectrogram
from qpu.kernels.gemm import gemm, reference_gemm, reference_syrk, reference_trsm, syrk, trsm
from tests.kernels.trials import SIDES, C, D, F, N, Trial, U, case

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
    t.close(a, blas1.reference_scal(alpha, x), 1, alpha * x)
    return (a,)


@case("blas1.axpy")
def _(t: Trial) -> Any:
    x, y, alpha = t.floats(n := t.n()), t.floats(n), t.pick(0.0, -1.5)
    b = t.put(y)
    blas1.axpy(alpha, t.put(x), b)
    t.close(b, blas1.reference_axpy(alpha, x, y), 2, abs(alpha * x) + abs(y))
    return (b,)


@case("blas1.rot")
def _(t: Trial) -> Any:
    x, y = t.floats(n := t.n()), t.floats(n)
    a, b = t.put(x), t.put(y)
    blas1.rot(a, b, 0.5, -0.75)
    for found, want in zip((a, b), blas1.reference_rot(x, y, 0.5, -0.75), strict=True):
        t.close(found, want, 2, abs(x) + abs(y))
    return a, b


@case("blas1.dot")
def _(t: Trial) -> Any:
    x, y = t.floats(n := t.n()), t.floats(n)
    t.close(blas1.dot(t.put(x), t.put(y)), blas1.reference_dot(x, y), 9, abs(x) @ abs(y))
    return ()


@case("blas1.asum, nrm2, iamax")
def _(t: Trial) -> Any:
    x = t.floats(t.n())
    a = t.put(x)
    t.close(blas1.asum(a), blas1.reference_asum(x), 9, abs(x).sum())
    length = blas1.reference_nrm2(x)
    t.close(blas1.nrm2(a), length, 9, length)
    if len(x):
        assert blas1.iamax(a) == blas1.reference_iamax(x)
    return ()


@case("blas2.gemv")
def _(t: Trial) -> Any:
    a, trans, beta = t.floats(t.n(*SIDES, 70), t.n(*SIDES, 70)), t.pick(False, True), t.pick(0.0, -1.5)
    op = a.T if trans else a
    x, y = t.floats(op.shape[1]), t.floats(op.shape[0])
    out = t.put(y)
    blas2.gemv(1.25, t.put(a), t.put(x), beta, out, trans=trans)
    size = 1.25 * abs(op.astype(D)) @ abs(x.astype(D)) + abs(beta * y)
    t.close(out, blas2.reference_gemv(1.25, a, x, beta, y, trans), len(x) + 6, size)
    return (out,)


@case("blas2.ger")
def _(t: Trial) -> Any:
    a = t.floats(t.n(*SIDES), t.n(*SIDES, 70))
    x, y, out = t.floats(a.shape[0]), t.floats(a.shape[1]), t.put(a)
    blas2.ger(-0.75, t.put(x), t.put(y), out)
    t.close(out, blas2.reference_ger(-0.75, x, y, a), 3, abs(np.outer(x, y)) + abs(a))
    return (out,)


@case("gemm.gemm")
def _(t: Trial) -> Any:
    m, n, k = t.pick((1, 1, 1), (5, 70, 9), (50, 65, 41), (0, 3, 4), (3, 4, 0))
    a, b, c, v = t.floats(m, k), t.floats(k, n), t.floats(m, n), t.floats(n)
    beta, relu, add = t.pick(0.0, -0.5), t.pick(False, True), t.pick(False, True)
    out = t.put(c)
    gemm(t.put(a), t.put(b), out, alpha=1.5, beta=beta, bias=t.put(v) if add else None, relu=relu)
    want = reference_gemm(a, b, c, 1.5, beta, v if add else None, relu)
    size = 1.5 * (abs(a.astype(D)) @ abs(b.astype(D))) + abs(beta * c) + abs(v)
    t.close(out, want, k + 5, size)
    return (out,)


@case("gemm.syrk")
def _(t: Trial) -> Any:
    a = t.floats(n := t.n(*SIDES), t.n(*SIDES))
    c, upper = t.floats(n, n), t.pick(False, True)
    out = t.put(c)
    syrk(t.put(a), out, alpha=0.5, beta=-2.0, upper=upper)
    inside = np.tri(n, dtype=bool).T if upper else np.tri(n, dtype=bool)
    want = reference_syrk(a, c, 0.5, -2.0, upper)
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
    want = reference_trsm(a, b, 1.5, upper, unit, right)
    s = (np.triu(a) if upper else np.tril(a)).astype(D)
    if unit:
        np.fill_diagonal(s, 1)
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
    total = igemm.reference_igemm(a, b)
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
    want = reference_spectrogram(x, w, hop)
    t.close(out, want, 64, want.max())
    return (out,)
