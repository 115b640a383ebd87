"""Kernels of VideoCore IV that are written by hand: any shapes, strides and types, exactly, and nothing beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import qpu
from qpu.device import Device
from qpu.kernels import move, pack_vc4

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
