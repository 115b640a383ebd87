"""Kernels of VideoCore IV that are written by hand: any shapes, strides and types, exactly, and nothing beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import qpu
from qpu.buffers import BufferView
from qpu.device import Device
from qpu.errors import UsageError
from qpu.kernels import histogram_vc4, move, pack_vc4, search

SIDES = st.sampled_from((1, 3, 4, 15, 16, 17, 37))
STEPS = st.sampled_from((-2, -1, 1, 3))


@pytest.fixture(scope="module")
def gpu() -> Iterator[Device]:
    with qpu.open_device("pi3", engine="reference") as opened:
        yield opened


# -- transposes


@pytest.mark.parametrize(("narrow", "strided"), [(False, True), (True, True), (False, False), (True, False)])
def test_transpose(gpu: Device, monkeypatch: pytest.MonkeyPatch, narrow: bool, strided: bool) -> None:
    """Into some rows and columns of a matrix whose other items stay; in several launches, too."""
    monkeypatch.setattr(pack_vc4, "PACKED", 1 << 10)
    monkeypatch.setattr(move, "retyped", None)  # of the compiled one
    if not strided:
        monkeypatch.setattr(pack_vc4, "MAX_STRIDE", 0)
    types = (np.uint8, np.int16, np.float16) if narrow else (np.float32, np.uint32)

    @settings(max_examples=20, deadline=None, derandomize=True, database=None, phases=(Phase.generate,))
    @given(dtype=st.sampled_from(types), m=SIDES, n=SIDES, steps=st.tuples(STEPS, STEPS), back=st.booleans())
    def check(dtype: Any, m: int, n: int, steps: tuple[int, int], back: bool) -> None:
        data = np.random.default_rng(m * n).integers(0, 255, (m * abs(steps[0]), n * abs(steps[1]) + 1)).astype(dtype)
        x, view = gpu.array(data)[:, 1:][:: steps[0], :: steps[1]], data[:, 1:][:: steps[0], :: steps[1]]
        want = np.full((n + 2, m + 3), 9, dtype)
        out = gpu.array(want)
        turn = slice(None, None, -1 if back else 1)
        want[turn][1 : n + 1, 2 : m + 2] = view.T
        move.transpose(x, out[turn][1 : n + 1, 2 : m + 2])
        assert np.array_equal(out.numpy(), want)

    check()


def test_transposes_by_hand_and_by_the_compiler(gpu: Device) -> None:
    """3.5 instructions for 16 items; each word is read and written once. Gaps in the rows of out: compiled."""
    x = np.arange(64 * 144, dtype=np.int32).reshape(64, 144)
    out, less = gpu.zeros(x.T.shape, x.dtype), gpu.zeros((96, 64), x.dtype)
    runs = move.transpose(gpu.array(x), out), move.transpose(gpu.array(x)[:, :96], less)
    assert np.array_equal(out.numpy(), x.T) and np.array_equal(less.numpy(), x[:, :96].T)
    all_, some = (run.stats for run in runs)
    assert all_ is not None and some is not None and all_.instructions - some.instructions < 4 * 48 * 4
    assert all_.bytes_moved <= 1.05 * 8 * x.size
    wide = gpu.zeros((144, 128), x.dtype)
    move.transpose(gpu.array(x), wide[:, ::2])
    assert np.array_equal(wide.numpy()[:, ::2], x.T) and not wide.numpy()[:, 1::2].any()


# -- histograms


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32])
def test_histogram(gpu: Device, monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    """Any length, place, first value and number of bins; bins that overflow unless lanes are added in time."""
    limits = np.iinfo(dtype)
    first, last = max(limits.min, -400), min(limits.max, 400)

    @settings(max_examples=4, deadline=None, derandomize=True, database=None, phases=(Phase.generate,))
    @given(
        n=st.sampled_from((1, 5, 63, 64, 65, 129, 800, 3300)),
        begin=st.integers(0, 5),
        step=st.sampled_from((1, 1, -1, 3)),
        low=st.one_of(
            st.integers(first - 300, last + 5), st.sampled_from((limits.min, limits.max, 2**31 - 300, -(2**31)))
        ),
        bins=st.sampled_from((1, 17, 256, 300)),
        alike=st.sampled_from((0, 1, 2)),
        vectors=st.sampled_from((2, 13, 1 << 19)),
    )
    def check(n: int, begin: int, step: int, low: int, bins: int, alike: int, vectors: int) -> None:
        monkeypatch.setattr(histogram_vc4, "LAUNCH", max(vectors, n // 160))
        low = min(low, 2**31 - bins)
        x = np.random.default_rng(n).integers(first, last, n * abs(step) + begin, endpoint=True).astype(dtype)
        x[: len(x) * alike // 2] = np.clip(low + bins // 2, limits.min, limits.max)
        x[-1], x[begin] = limits.min, limits.max
        out = gpu.zeros(bins, np.int32)
        search.histogram(gpu.array(x)[begin:][::step], out, low)
        assert np.array_equal(out.numpy(), search.reference_histogram(x[begin:][::step], bins, low))

    check()


def test_instructions_of_a_histogram(gpu: Device) -> None:
    """46 for 16 bytes, and a byte is read once."""
    runs = []
    for vectors in (36, 144):
        x = (np.arange(64 * vectors) % 256).astype(np.uint8)
        runs.append(search.histogram(gpu.array(x), gpu.zeros(256, np.int32)).stats)
    few, many = runs
    assert few is not None and many is not None
    assert many.instructions - few.instructions < 48 * 4 * 108 and many.bytes_moved - few.bytes_moved < 1.1 * 64 * 108


def test_items_between_words_are_refused(gpu: Device) -> None:
    x = BufferView(gpu.zeros(16, np.uint8), 1, (2, 2), np.int16)
    for call in (
        lambda: search.histogram(x[0], gpu.zeros(4, np.int32)),
        lambda: move.transpose(x, gpu.zeros((2, 2), x.dtype)),
    ):
        with pytest.raises(UsageError, match="multiples of 2"):
            call()
