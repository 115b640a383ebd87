"""Teams: barriers, shared memory, lane operations, runs of items, tiles."""

from __future__ import annotations

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.lang import Grid, In, In2, InOut, Out, Out2, Team, f32, i16, i32, kernel, u8, unroll
from qpu.lang.kir import walk
from qpu.lang.legalise_vc4 import legalise_vc4

pytestmark = [pytest.mark.every_board, pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")]
RANDOM = np.random.default_rng(11)


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
    legal = legalise_vc4(ir.region, ["x"], inputs=ir.inputs)
    assert not any(v.op == "request" for v in walk(legal))
    x, y = RANDOM.integers(-9, 9, (2, 77)).astype(np.float32)
    by, bz = gpu.array(y), gpu.zeros(77)
    twice(gpu.array(x), by, bz)
    assert np.array_equal(by.numpy(), x + y) and np.array_equal(bz.numpy(), 2 * x)


@kernel
def lane_operations(k: Team, n: i32, x: In[i32], out: Out2[i32]) -> None:
    v = x[16 * k.worker + k.lane]
    at = 16 * k.worker + k.lane
    out[0, at] = k.sum(v)
    out[1, at] = k.min(v)
    out[2, at] = k.max(v)
    out[3, at] = k.scan(v)
    out[4, at] = k.last(v)
    out[5, at] = k.rotate(v, 3) + k.rotate(v, -1) * 2
    out[6, at] = k.rotate(v, n)
    out[7, at] = k.broadcast(v, 5) + k.broadcast(v, n)
    out[8, at] = k.shuffle(v, v)
    out[9, at] = i32(k.any(v > 90)) + 2 * i32(k.all(v > 10))
    out[10, at] = k.sum(7) + k.sum(n) + k.scan(1)
    s = 0
    if v > 50:
        s = k.sum(v) - k.max(v) + k.scan(v)
        if k.any(v > 97):
            s += 1000
    else:
        s = k.min(v) + i32(k.all(v < 45)) * 5000
    out[11, at] = s
    t = 0
    for j in range(v & 3):
        t += k.sum(j + 1)
    out[12, at] = t


@pytest.mark.parametrize("n", [0, 1, 6, 15])
def test_lane_operations(gpu: Device, n: int) -> None:
    """The boards, the interpreter and plain Python agree."""
    workers = 3
    x = RANDOM.integers(0, 100, 16 * workers).astype(np.int32)
    want, interpreted = np.zeros((13, 16 * workers), np.int32), np.zeros((13, 16 * workers), np.int32)
    lane_operations.python(n, x, want, workers=workers)
    vectors = x.reshape(workers, 16)
    assert np.array_equal(want[0].reshape(workers, 16)[:, 0], vectors.sum(1))
    assert np.array_equal(want[3].reshape(workers, 16), vectors.cumsum(1))
    lane_operations.interpret(n, x, interpreted, workers=workers)
    assert np.array_equal(interpreted, want)
    out = gpu.zeros((13, 16 * workers), np.int32)
    assert lane_operations.compile(gpu.isa).program.check() == []
    lane_operations.on(gpu, workers=workers)(n, gpu.array(x), out)
    assert np.array_equal(out.numpy(), want)


@kernel
def runs(k: Team, x: In[i32], y: Out[i32], last: Out[i32]) -> None:
    total = 0
    for i in k.items(x.size, run=True):
        v = k.scan(x[i]) + total
        y[i] = v
        total = k.max(v)
    last[k.worker] = k.max(total)


@kernel
def quads(k: Team, x: In[i32], y: InOut[i32], sums: Out[i32]) -> None:
    total = 0
    for i in k.items(x.size, run=True, per_lane=4):
        a = [x.get(i + j, 0) for j in unroll(range(4))]
        for j in unroll(range(4)):
            if i + j < x.size:
                y[i + j] = a[j] * 3
        total += a[0] + a[1] + a[2] + a[3]
    sums[k.worker] = k.sum(total)


@kernel
def pairs(k: Team, x: In[i32], y: InOut[i32]) -> None:
    for i in k.items(x.size, per_lane=2):
        if i + 1 < x.size:
            y[i + 1] = x[i]
        y[i] = x.get(i + 1, -1)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 63, 64, 65, 200, 1000])
def test_runs_of_items(gpu: Device, n: int) -> None:
    workers = 3
    x = RANDOM.integers(0, 9, n).astype(np.int32)
    y, last = gpu.zeros(n, np.int32), gpu.zeros(workers, np.int32)
    runs.on(gpu, workers=workers)(gpu.array(x), y, last)
    want, wanted = np.zeros(n, np.int32), np.zeros(workers, np.int32)
    if n <= 65:
        runs.python(x, want, wanted, workers=workers)
    else:
        each = (-(-n // 16) + workers - 1) // workers * 16
        parts = [x[w * each : (w + 1) * each] for w in range(workers)]
        want, wanted = np.concatenate([p.cumsum() for p in parts]), np.array([p.sum() for p in parts])
    assert np.array_equal(y.numpy(), want)
    assert np.array_equal(last.numpy(), wanted)
    z, sums = gpu.zeros(n, np.int32), gpu.zeros(workers, np.int32)
    quads.on(gpu, workers=workers)(gpu.array(x), z, sums)
    assert np.array_equal(z.numpy(), 3 * x)
    each = (-(-n // 64) + workers - 1) // workers * 64
    assert sums.numpy().tolist() == [x[w * each : (w + 1) * each].sum() for w in range(workers)]
    swapped = gpu.zeros(n, np.int32)
    pairs.on(gpu, workers=workers)(gpu.array(x), swapped)
    expected = np.append(x, -1)[: n // 2 * 2 + 2 if n % 2 else n].reshape(-1, 2)[:, ::-1].ravel()[:n]
    assert np.array_equal(swapped.numpy(), expected)


@kernel
def tiled(k: Team, a: In2[f32], b: In2[f32], c: Out2[f32]) -> None:
    for i0, j0 in k.tiles(c.shape[0], c.shape[1], 4, 32):
        acc = [[f32(0) for _ in range(2)] for _ in range(4)]
        for p in range(a.shape[1]):
            rows = [a.get(i0 + i, p, 0.0) for i in range(4)]
            columns = [b.get(p, j0 + 16 * j + k.lane, 0.0) for j in range(2)]
            for i in unroll(range(4)):
                for j in unroll(range(2)):
                    acc[i][j] += rows[i] * columns[j]
        k.store_tile(c, i0, j0, acc)


@kernel
def tiled_bytes(k: Team, a: In2[u8], c: Out2[i16]) -> None:
    for i0, j0 in k.tiles(c.shape[0], c.shape[1], 3, 16):
        k.store_tile(c, i0, j0, [a.get(i0 + i, j0 + k.lane, 0) * 2 - 5 for i in range(3)])


@pytest.mark.parametrize("shape", [(1, 1), (3, 16), (7, 37)])
def test_tiles_of_narrow_elements(gpu: Device, shape: tuple[int, int]) -> None:
    a, c = RANDOM.integers(0, 256, shape, dtype=np.uint8), gpu.zeros(shape, np.int16)
    tiled_bytes.on(gpu, workers=2)(gpu.array(a), c)
    assert np.array_equal(c.numpy(), a.astype(int) * 2 - 5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 8, 32), (5, 7, 33), (9, 16, 70)])
def test_tiles(gpu: Device, shape: tuple[int, int, int]) -> None:
    m, p, n = shape
    a, b = RANDOM.integers(-4, 5, (m, p)).astype(np.float32), RANDOM.integers(-4, 5, (p, n)).astype(np.float32)
    c = gpu.zeros((m, n))
    assert tiled.compile(gpu.isa).program.check() == []
    tiled.on(gpu, workers=4)(gpu.array(a), gpu.array(b), c)
    assert np.array_equal(c.numpy(), a @ b)


@kernel
def forks(k: Team, n: i32, x: In[f32], out: Out[f32]) -> None:
    total = f32(0)
    if n > 4:
        for r in range(n):
            v = x[r]
            total += v
    else:
        for r in range(n):
            v = x[r]
            total += 2 * v
    out[k.worker] = total


def test_loops_with_the_same_names_in_both_branches() -> None:
    x = np.arange(9, dtype=np.float32)
    for n, wanted in ((3, 6), (9, 36)):
        out = np.zeros(1, np.float32)
        forks.interpret(n, x, out, workers=1)
        assert out[0] == wanted
