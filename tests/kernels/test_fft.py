"""Tests of the Fourier transform against NumPy in float64; boards are taken in turn, long ones with the soak tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.errors import UsageError
from qpu.instruction_sets import isa as isa_tools
from qpu.kernels import fft as ft
from qpu.kernels.common.jobs import Jobs
from qpu.kernels.fft import passes, passes_vc4, steps, tables

C, F = np.complex64, np.float32
few = settings(max_examples=3, deadline=None)
board = st.integers(0, 2)
Boards = tuple[Device, ...]


def noise(seed: int, *shape: int) -> NDArray[np.complex64]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(C)


def rms(found: Any, wanted: Any) -> float:
    """Relative RMS error."""
    found, wanted = np.asarray(found).astype(np.complex128), np.asarray(wanted)
    return float(np.sqrt(np.mean(abs(found - wanted) ** 2) / np.mean(abs(wanted) ** 2)))


def limit(gpu: Device, n: int) -> float:
    """What the documentation promises, for white noise and lengths up to 2**20."""
    far = n & (n - 1) != 0
    return (3e-6 if far else 1e-6) if gpu.isa is Isa.VC4 else (1.5e-6 if far else 5e-7)


def check(gpu: Device, shape: tuple[int, ...], seed: int) -> None:
    """All four transforms of rows."""
    x = noise(seed, *shape)
    n = shape[-1]
    a, out = gpu.array(x), gpu.zeros(shape, C)
    ft.fft(a, out)
    assert rms(out.numpy(), np.fft.fft(x.astype(np.complex128))) <= limit(gpu, n)
    ft.ifft(a, out)
    assert rms(out.numpy(), np.fft.ifft(x.astype(np.complex128))) <= limit(gpu, n)
    real = np.ascontiguousarray(x.real)
    half, back = gpu.zeros((*shape[:-1], n // 2 + 1), C), gpu.zeros(shape)
    ft.rfft(gpu.array(real), half)
    assert rms(half.numpy(), np.fft.rfft(real.astype(np.float64))) <= limit(gpu, n)
    x = noise(seed + 1, *half.shape)  # the imaginary parts of the ends are not used
    ft.irfft(gpu.array(x), back)
    assert rms(back.numpy(), np.fft.irfft(x.astype(np.complex128), n)) <= limit(gpu, n)


@few
@given(board, st.sampled_from([(2,), (4,), (8,), (1, 16), (3, 32), (64,), (2, 3, 8)]), st.integers(0, 9))
def test_powers_of_two(boards: Boards, at: int, shape: tuple[int, ...], seed: int) -> None:
    check(boards[at], shape, seed)


@few
@given(board, st.sampled_from([(1,), (3,), (5,), (2, 12), (3, 17), (60,), (2, 2, 6)]), st.integers(0, 9))
def test_other_lengths(boards: Boards, at: int, shape: tuple[int, ...], seed: int) -> None:
    check(boards[at], shape, seed)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_every_kernel_on_every_board(boards: Boards, at: int) -> None:
    check(boards[at], (2, 32), 1)
    check(boards[at], (9,), 2)


@pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
@pytest.mark.parametrize("at", [0, 1, 2])
def test_axes_and_two_dimensions(boards: Boards, at: int) -> None:
    gpu = boards[at]
    x = noise(5, 2, 8, 4)
    wide = x.astype(np.complex128)
    a, out = gpu.array(x), gpu.zeros(x.shape, C)
    ft.fft(a, out, axis=1)
    assert rms(out.numpy(), np.fft.fft(wide, axis=1)) <= limit(gpu, 8)
    ft.fft(a[:, ::-1, 2], out[:, :, 1])
    assert rms(out.numpy()[:, :, 1], np.fft.fft(wide[:, ::-1, 2])) <= limit(gpu, 8)
    ft.fft2(a, a)
    assert rms(a.numpy(), np.fft.fft2(wide)) <= limit(gpu, 8)
    ft.ifft2(a, a)
    assert rms(a.numpy(), wide) <= 2 * limit(gpu, 8)


def test_exact_cases(boards: Boards) -> None:
    """An impulse gives ones, and a transform does not depend on other rows."""
    for gpu in boards:
        x = np.zeros((2, 16), C)
        x[0, 0] = 1
        out = gpu.zeros((2, 16), C)
        ft.fft(gpu.array(x), out)
        np.testing.assert_array_equal(out.numpy(), [[1] * 16, [0] * 16])


def test_the_same_bits_on_both_v3d(boards: Boards) -> None:
    x = noise(8, 64)
    found = []
    for gpu in boards[1:]:
        out = gpu.zeros(64, C)
        ft.fft(gpu.array(x), out)
        found.append(out.numpy())
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("at", "inverse", "shape"), [(1, False, (67, 128)), (2, True, (131, 128))])
def test_many_rows_have_the_bits_of_few(boards: Boards, at: int, inverse: bool, shape: tuple[int, int]) -> None:
    """Many rows take other kernels on V3D: shares of two lengths."""
    gpu, (rows, n) = boards[at], shape
    for p in (2, 8, 32):
        assert len(steps.shares(gpu, rows, n, p)) == 2 and not steps.shares(gpu, 8, n, p)
    transform = ft.ifft if inverse else ft.fft
    x, out, one = gpu.array(noise(3, rows, n)), gpu.zeros(shape, C), gpu.zeros(n, C)
    transform(x, out)
    for row in (0, 1, rows // 2, rows - 1):
        transform(x[row], one)
        np.testing.assert_array_equal(out.numpy()[row], one.numpy())


@pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
@settings(max_examples=4, deadline=None)
@given(st.integers(6, 9), st.integers(1, 5), st.integers(1, 12), st.sampled_from([1, -1]))
def test_passes_by_hand_give_the_bits_of_compiled_ones(
    boards: Boards, log: int, rows: int, qpus: int, sign: int
) -> None:
    gpu, n, scale = boards[0], 1 << log, 0.75
    factors = tables.turns(gpu, n, sign)
    p = n
    for radix in tables.radices(n):
        p //= radix
        x, y, z = gpu.array(noise(log, rows, n)), gpu.zeros((rows, n), C), gpu.zeros((rows, radix, n // radix), C)
        step = passes.Pass(x.view(0, (rows, n)), y.view(0, (rows, n)), factors.get(p), radix, p, sign < 0, scale)
        with Jobs(gpu) as jobs:
            jobs.start(passes_vc4.program(radix, p > 1, sign < 0), passes_vc4.streams(step, qpus))
            flat = x.view(0, (rows * n,))
            if p > 1:
                jobs.add(passes.turned4, sign < 0, flat, factors[p], z, p, 1)
            elif radix == 4:
                jobs.add(passes.last4, sign < 0, scale, flat, z, 1)
            else:
                jobs.add(passes.last2, scale, flat, z, 1)
            jobs.run()
        np.testing.assert_array_equal(y.numpy().view(np.uint32).reshape(-1), z.numpy().view(np.uint32).reshape(-1))


@pytest.mark.parametrize(("radix", "turned", "length"), [(4, True, 45), (4, False, 41), (2, False, 21)])
def test_loops_by_hand_have_their_length(radix: int, turned: bool, length: int) -> None:
    """The page on the library says so. A loop ends with the first branch and its three delay slots."""
    program = passes_vc4.program(radix, turned, False)
    lines = [isa_tools(Isa.VC4).disassemble(word) for word in program.code[program.labels["items"] :]]
    assert next(i for i, line in enumerate(lines) if line.startswith("b")) + 4 == length


@pytest.mark.parametrize(
    ("at", "lengths"), [(1, [{73}, {51, 62}, {85}, {63}]), (2, [{60}, {45}, {74}, {51}])], ids=["pi4", "pi5"]
)
def test_compiled_loops_have_their_length(boards: Boards, at: int, lengths: list[set[int]]) -> None:
    """The page on the library says so, for many rows and for few. On V3D 4.2 a last pass with a scale is longer."""
    gpu = boards[at]
    x = gpu.zeros((72, 256), C)
    for rows in (72, 1):
        ft.fft(x[:rows], x[:rows])
        ft.ifft(x[:rows], x[:rows])
    kernels = (passes.turned4_runs, passes.last4_runs, passes.turned4_pairs, passes.last4_pairs)
    for kernel, wanted in zip(kernels, lengths, strict=True):
        reports = [compiled.report for compiled in kernel.compiled if compiled.isa is gpu.isa]
        depth = 2 if kernel in kernels[:2] else 1
        found = [loop.stop - loop.start for report in reports for loop in report.loops if loop.depth == depth]
        assert set(found) == wanted


def test_radices() -> None:
    for log in range(1, 23):
        assert np.prod(tables.radices(1 << log)) == 1 << log


def test_windows_are_even_around_their_peak() -> None:
    ends = {"rectangle": 1.0, "hamming": 0.08, "blackman-harris": 6e-5, "flat-top": -4.21e-4}
    for name in ft.WINDOWS:
        w = ft.window(name, 64)
        assert w.dtype == F and w[32] == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(w[1:], w[1:][::-1], atol=1e-7)
        assert w[0] == pytest.approx(ends.get(name, 0.0), abs=1e-6)
    assert ft.window("hann", 64)[16] == pytest.approx(0.5)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_spectrogram(boards: Boards, at: int) -> None:
    gpu = boards[at]
    x = np.sin(np.arange(100) * (2 * np.pi * 4 / 32)).astype(F) + noise(1, 100).real / 10
    w = ft.window("hann", 32)
    count = (100 - 32) // 8 + 1
    out = gpu.zeros((count, 17))
    ft.spectrogram(gpu.array(x), gpu.array(w), out, 8)
    pieces = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), 32)[::8]
    wanted = abs(np.fft.rfft(pieces * w)) ** 2 / np.sum(w.astype(np.float64) ** 2)
    np.testing.assert_allclose(out.numpy(), wanted, rtol=1e-4, atol=1e-6 * wanted.max())
    assert (out.numpy().argmax(1) == 4).all()


def test_wrong_arguments_are_refused(boards: Boards) -> None:
    gpu = boards[2]
    x, real = gpu.zeros((2, 8), C), gpu.zeros((2, 8))
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: ft.fft(real, x), "x holds float32; allowed: complex64"),
        (lambda: ft.fft(x, gpu.zeros(16, C)), r"x has the shape \[2, 8\] and out \[16\]"),
        (lambda: ft.fft(x, x, axis=2), "axis = 2 of 2 axes; allowed: -2..1"),
        (lambda: ft.fft(x, x[::-1]), "out overlaps x"),
        (lambda: ft.fft2(x[0], x[1]), r"x has the shape \[8\]; allowed: two axes"),
        (lambda: ft.rfft(real, x), r"out has the shape \[2, 8\]; allowed: \[2, 5\]"),
        (lambda: ft.irfft(x, real), r"x has the shape \[2, 8\]; allowed: \[2, 5\]"),
        (lambda: ft.fft(gpu.zeros((2, 0), C), gpu.zeros((2, 0), C)), "numbers to transform"),
        (lambda: ft.window("hat", 8), "window 'hat'; allowed: rectangle, hann"),
        (lambda: ft.frames(real[0], 9, 1), "n = 9; allowed: 1..8"),
        (lambda: ft.spectrogram(real[0], real[1], real, 1), r"out has the shape \[2, 8\]; allowed: \[1, 5\]"),
    ]
    for work, found in refused:
        with pytest.raises(UsageError, match=found) as caught:
            work()
        assert "help: " in str(caught.value)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["pi3", "pi4", "pi5"])
def test_long_rows(name: str) -> None:
    """All powers of two from 2**8 to 2**20, 2**22, and a length that is a prime."""
    with qpu.open_device(name) as gpu:
        for n in [1 << log for log in (*range(8, 21), 22)] + [10007]:
            x = noise(n, n)
            out = gpu.zeros(n, C)
            ft.fft(gpu.array(x), out)
            error = rms(out.numpy(), np.fft.fft(x.astype(np.complex128)))
            assert error <= limit(gpu, n), (n, error)
            out.close()
