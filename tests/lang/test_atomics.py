"""Atomic operations on the boards: at one address, at an address of each lane, their old elements."""

from __future__ import annotations

import numpy as np
import pytest

from qpu.device import Device
from qpu.lang import Grid, In, InOut, Out, PerformanceNote, Team, f32, i32, kernel, u32

pytestmark = [pytest.mark.every_board, pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")]
RANDOM = np.random.default_rng(9)


@kernel(coarsen=1)
def histogram(k: Grid, x: In[i32], bins: InOut[i32]) -> None:
    i = k.index(x.size)
    if x[i] >= 0:
        bins.atomic_add(x[i] & 15, 1)


@pytest.mark.parametrize("n", [1, 16, 100, 333])
def test_histogram(gpu: Device, n: int) -> None:
    x = RANDOM.integers(-20, 100, n).astype(np.int32)
    bins = gpu.zeros(16, np.int32)
    assert histogram.compile(gpu.isa).program.check() == []
    histogram(gpu.array(x), bins)
    assert np.array_equal(bins.numpy(), np.bincount(x[x >= 0] & 15, minlength=16))


@kernel(coarsen=1)
def one_address(k: Grid, x: In[i32], u: In[u32], out: InOut[i32], wide: InOut[u32]) -> None:
    i = k.index(x.size)
    out.atomic_add(0, x[i])
    out.atomic_min(1, x[i])
    out.atomic_max(2, x[i])
    wide.atomic_min(0, u[i])
    wide.atomic_max(1, u[i])
    wide.atomic_and(2, u[i])
    wide.atomic_or(3, u[i])
    wide.atomic_xor(4, u[i])


@pytest.mark.parametrize("n", [1, 17, 150])
def test_one_address(gpu: Device, n: int) -> None:
    x = RANDOM.integers(-1000, 1000, n).astype(np.int32)
    u = RANDOM.integers(0, 2**32, n, dtype=np.uint32)
    out = gpu.array(np.array([5, 10**6, -(10**6)], np.int32))
    wide = gpu.array(np.array([0xFFFFFFFF, 0, 0xFFFFFFFF, 0, 0], np.uint32))
    assert one_address.compile(gpu.isa).program.check() == []
    one_address(gpu.array(x), gpu.array(u), out, wide)
    assert out.numpy().tolist() == [5 + x.sum(), x.min(), x.max()]
    want = [u.min(), u.max(), np.bitwise_and.reduce(u), np.bitwise_or.reduce(u), np.bitwise_xor.reduce(u)]
    assert wide.numpy().tolist() == want


@kernel(coarsen=1)
def each_its_own(k: Grid, at: In[i32], x: In[u32], y: InOut[u32], old: Out[u32]) -> None:
    i = k.index(x.size)
    j = at[i]
    old[i] = y.atomic_max(j, x[i])
    y.atomic_xor(j, 1)


def test_an_address_of_each_lane(gpu: Device) -> None:
    n = 45
    at, x = RANDOM.permutation(n).astype(np.int32), RANDOM.integers(0, 2**32, n, dtype=np.uint32)
    y = RANDOM.integers(0, 2**32, n, dtype=np.uint32)
    by, old = gpu.array(y), gpu.zeros(n, np.uint32)
    each_its_own(gpu.array(at), gpu.array(x), by, old)
    assert np.array_equal(old.numpy(), y[at])
    want = y.copy()
    want[at] = np.maximum(y[at], x)
    assert np.array_equal(by.numpy(), want ^ 1)


@kernel(coarsen=1)
def tickets(k: Grid, count: InOut[i32], out: Out[i32]) -> None:
    i = k.index(out.size)
    out[i] = count.atomic_add(0, 1)


def test_old_elements_are_tickets(gpu: Device) -> None:
    count, out = gpu.array(np.array([100], np.int32)), gpu.zeros(77, np.int32)
    tickets(count, out)
    assert sorted(out.numpy().tolist()) == list(range(100, 177))
    assert count.numpy().tolist() == [177]


@kernel(coarsen=1)
def claim(k: Grid, want: In[i32], slots: InOut[i32], got: Out[i32]) -> None:
    i = k.index(want.size)
    got[i] = slots.atomic_cas(want[i], -1, i)


def test_compare_and_swap(gpu: Device) -> None:
    want = RANDOM.integers(0, 9, 60).astype(np.int32)
    slots, got = gpu.array(np.full(9, -1, np.int32)), gpu.zeros(60, np.int32)
    claim(gpu.array(want), slots, got)
    winners = slots.numpy()
    for i, (slot, found) in enumerate(zip(want, got.numpy(), strict=True)):
        assert (found == -1) == (winners[slot] == i)
        assert found in (-1, winners[slot])


@kernel(coarsen=1)
def add_floats(k: Grid, x: In[f32], at: In[i32], out: InOut[f32]) -> None:
    i = k.index(x.size)
    out.atomic_add(at[i] % 3, x[i])
    out.atomic_add(3, x[i])


def test_sums_of_floats(gpu: Device) -> None:
    x, at = RANDOM.integers(-50, 50, 100).astype(np.float32), RANDOM.integers(0, 90, 100).astype(np.int32)
    out = gpu.zeros(4)
    add_floats(gpu.array(x), gpu.array(at), out)
    assert out.numpy().tolist() == [x[at % 3 == k].sum() for k in range(3)] + [x.sum()]


@kernel
def count_team(k: Team, x: In[i32], out: InOut[i32]) -> None:
    for i in k.items(x.size):
        if x[i] > 0:
            out.atomic_add(0, 1)


def test_in_a_team(gpu: Device) -> None:
    x = RANDOM.integers(-5, 5, 300).astype(np.int32)
    out = gpu.zeros(1, np.int32)
    count_team.on(gpu, workers=5)(gpu.array(x), out)
    assert out.numpy().tolist() == [(x > 0).sum()]


@kernel(coarsen=1)
def noted(k: Grid, x: In[i32], bins: InOut[i32]) -> None:
    i = k.index(x.size)
    bins.atomic_add(x[i] & 7, 1)


@pytest.mark.filterwarnings("error")
def test_what_takes_lane_after_lane_is_noted() -> None:
    with pytest.warns(PerformanceNote, match="one after another"):
        noted.compile("vc4")
    noted.compile("v3d71")
    one_address.compile("vc4")
