"""Teams: barriers, shared memory, lane operations, runs of items, tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.lang import Grid, In, InOut, Out, Team, f32, i32, kernel
from qpu.lang.kir import walk
from qpu.lang.legalise_vc4 import legalise_vc4

pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
RANDOM = np.random.default_rng(11)


@pytest.fixture(scope="module", params=("pi3", "pi4", "pi5"))
def gpu(request: pytest.FixtureRequest) -> Iterator[Device]:
    with qpu.open_device(request.param, engine="reference") as device:
        yield device


@kernel
def neighbours(k: Team, turns: i32, x: InOut[i32]) -> None:
    at = 16 * k.worker + k.lane
    next_ = (at + 17) % (16 * k.workers)
    for _ in range(turns):
        found = x[next_]
        k.barrier()
        x[at] = found + 1
        k.barrier()


@pytest.mark.parametrize("workers", [1, 2, 5, 12])
def test_barriers(gpu: Device, workers: int) -> None:
    n = 16 * workers
    x = RANDOM.integers(0, 1000, n).astype(np.int32)
    want = x.copy()
    for _ in range(7):
        want = want[(np.arange(n) + 17) % n] + 1
    buffer = gpu.array(x)
    assert neighbours.compile(gpu.isa).program.check() == []
    neighbours.on(gpu, workers=workers)(7, buffer)
    assert np.array_equal(buffer.numpy(), want)


def test_a_barrier_needs_workers_that_run_at_once(gpu: Device) -> None:
    with pytest.raises(qpu.UsageError, match="wait for each other"):
        neighbours.on(gpu, workers=40)(1, gpu.zeros(640, np.int32))


@kernel
def shared_sums(k: Team, x: In[f32], out: Out[f32]) -> None:
    part = k.shared(f32, 16)
    turned = k.shared(i32, 256)
    acc = f32(0)
    for i in k.items(x.size):
        acc += x.get(i, 0)
    part[k.worker] = k.sum(acc)
    turned[16 * k.worker + k.lane] = k.lane * 100 + k.worker
    k.barrier()
    total = f32(0)
    for w in range(k.workers):
        total += part[w]
    out[16 * k.worker + k.lane] = total + f32(turned[16 * ((k.worker + 1) % k.workers) + 15 - k.lane])


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_shared_memory(gpu: Device, workers: int) -> None:
    x = RANDOM.integers(-9, 9, 300).astype(np.float32)
    out = gpu.zeros(16 * workers)
    assert shared_sums.compile(gpu.isa).program.check() == []
    shared_sums.on(gpu, workers=workers)(gpu.array(x), out)
    lane, worker = np.tile(np.arange(16), workers), np.repeat(np.arange(workers), 16)
    assert np.array_equal(out.numpy(), x.sum() + (15 - lane) * 100 + (worker + 1) % workers)


@kernel(coarsen=2)
def twice(k: Grid, x: In[f32], y: InOut[f32], z: InOut[f32]) -> None:
    i = k.index(x.size)
    y[i] = y[i] + x[i]
    z[i] = x[i]
    z[i] = z[i] * 2.0


def test_videocore_iv_reads_what_a_launch_stores_by_dma(gpu: Device) -> None:
    """The caches before the TMU do not see stores: a load that may follow a store of its item goes past them."""
    ir = twice.compile("vc4").kir
    legal = legalise_vc4(ir.region, ["x", "y", "z"])
    assert {v.attr.access.array for v in walk(legal) if v.op == "request"} == {0, 1}
    assert {v.attr.access.array for v in walk(legal) if v.op == "fetch"} == {2}
    ir = neighbours.compile("vc4").kir
    legal = legalise_vc4(ir.region, ["x"], grid=False)
    assert not any(v.op == "request" for v in walk(legal))
    x, y = RANDOM.integers(-9, 9, (2, 77)).astype(np.float32)
    by, bz = gpu.array(y), gpu.zeros(77)
    twice(gpu.array(x), by, bz)
    assert np.array_equal(by.numpy(), x + y) and np.array_equal(bz.numpy(), 2 * x)
