"""Launches: what is refused before anything is submitted, workers, empty arrays, NumPy's numbers, kept plans."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.lang import Const, Grid, In, In2, InOut, Out, Out2, Team, f32, i32, kernel, u8, u32

BOARDS = ("pi3", "pi4", "pi5")


@kernel
def shift(k: Grid, n: i32, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    y[i] = x[i + n]


@kernel
def blend(k: Grid, a: f32, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(y.size)
    y[i] = a * x[i] + y[i]


@kernel(coarsen=1)
def stencil(k: Grid, x: In2[f32], y: Out2[f32]) -> None:
    r, c = k.index(*y.shape)
    y[r, c] = x[r, c] + x[r + 1, c + 2]


@kernel(coarsen=1)
def rows(k: Grid, n: i32, x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    s = 0
    for j in range(n):
        s += x[i * n + j]
    y[i] = s


@kernel(coarsen=1)
def guarded(k: Grid, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    v = 0.0
    if i > 0:
        v = x[i - 1]
    y[i] = v + x.get(i + 5, 1.0) + x.clamp[i + 7]


@kernel
def part(k: Team, x: In[f32], out: Out[f32]) -> None:
    acc = f32(0)
    for i in k.items(x.size):
        acc += x[i]
    out[k.worker] = k.sum(acc)


@kernel
def fill(k: Grid, n: i32, value: u32, out: Out[u32], step: Const[int] = 1) -> None:
    i = k.index(n)
    out[i] = value + u32(i) * u32(step)


@kernel
def bytes_(k: Grid, x: In[u8], y: Out[i32]) -> None:
    i = k.index()
    y[i] = x[i]


@kernel
def nothing(k: Grid, n: i32) -> None:
    k.index(n)


@pytest.fixture(scope="module")
def other() -> Iterator[Device]:
    with qpu.open_device("pi5", engine="reference") as device:
        yield device


F = np.float32
LINE = shift.fn.__code__.co_firstlineno + 3
Case = tuple[str, Callable[[Device, Device], Any], str, str]
REFUSED: list[Case] = [
    # rule, call, what the message names, what it says
    ("launch-type", lambda g, o: blend(1.0, np.zeros(8, F), g.zeros(8)), "x", "gpu.array(x)"),
    ("launch-type", lambda g, o: blend(1.0, [1.0], g.zeros(8)), "x", "is a list"),
    ("launch-type", lambda g, o: blend(1.0, None, g.zeros(8)), "x", "is a NoneType"),
    ("launch-type", lambda g, o: blend(1.0, g.zeros(8, np.int32), g.zeros(8)), "x", "holds int32"),
    ("launch-type", lambda g, o: blend(1.0, g.zeros(8), g.zeros(8, np.float64)), "y", "holds float64"),
    ("launch-type", lambda g, o: bytes_(g.zeros(8, np.int8), g.zeros(8, np.int32)), "x", "holds int8"),
    ("launch-type", lambda g, o: blend(1.0, g.zeros((2, 4)), g.zeros(8)), "x", "2 axes"),
    ("launch-type", lambda g, o: stencil(g.zeros(8), g.zeros((1, 1))), "x", "1 axis"),
    ("launch-type", lambda g, o: blend("2", g.zeros(8), g.zeros(8)), "a", "is a str"),
    ("launch-type", lambda g, o: blend(True, g.zeros(8), g.zeros(8)), "a", "is a bool"),
    ("launch-type", lambda g, o: blend(2j, g.zeros(8), g.zeros(8)), "a", "is a complex"),
    ("launch-type", lambda g, o: blend(1e39, g.zeros(8), g.zeros(8)), "a", "beyond f32"),
    ("launch-type", lambda g, o: blend(10**40, g.zeros(8), g.zeros(8)), "a", "beyond f32"),
    ("launch-type", lambda g, o: shift(1.5, g.zeros(8), g.zeros(8)), "n", "not an integer"),
    ("launch-type", lambda g, o: shift(1 << 31, g.zeros(8), g.zeros(8)), "n", "does not fit i32"),
    ("launch-type", lambda g, o: fill(1, -1, g.zeros(8, np.uint32)), "value", "does not fit u32"),
    ("launch-type", lambda g, o: blend(1.0, g.zeros(8)), "y", "it needs 'y'"),
    ("launch-type", lambda g, o: blend(1.0, g.zeros(8), g.zeros(8), 3), "3 arguments", "4 are given"),
    ("launch-type", lambda g, o: blend(1.0, g.zeros(8), z=g.zeros(8)), "z", "no parameter 'z'"),
    ("launch-type", lambda g, o: blend(1.0, g.zeros(8), a=2.0), "a", "two values for 'a'"),
    ("launch-device", lambda g, o: blend(1.0, o.zeros(8), g.zeros(8)), "y", "another device"),
    ("launch-device", lambda g, o: blend.on(o)(1.0, g.zeros(8), g.zeros(8)), "x", "another device"),
    ("launch-device", lambda g, o: nothing(3), "nothing", "nothing.on(gpu)"),
    ("launch-device", lambda g, o: blend(1.0, _closed(g), g.zeros(8)), "x", "is closed"),
    ("launch-overlap", lambda g, o: _twice(g), "x and y", "overlap"),
    ("launch-overlap", lambda g, o: _halves(g), "x and y", "overlap"),
    ("launch-align", lambda g, o: blend(1.0, g.zeros(8).view(2), g.zeros(8)), "x", "2 bytes into its buffer"),
    ("launch-align", lambda g, o: stencil(g.zeros((8, 8)).view(4), g.zeros((1, 1))), "x", "inside a row"),
    ("launch-bounds", lambda g, o: blend(1.0, g.zeros(7), g.zeros(8)), "x", "reaches index 7 of 'x', which has 7"),
    ("launch-bounds", lambda g, o: shift(1, g.zeros(8), g.zeros(8)), "x", f"x[i + n] (line {LINE}) reaches index 8"),
    ("launch-bounds", lambda g, o: shift(-1, g.zeros(8), g.zeros(8)), "x", "reaches index -1"),
    ("launch-bounds", lambda g, o: stencil(g.zeros((4, 6)), g.zeros((4, 4))), "x", "index 4 of axis 0"),
    ("launch-bounds", lambda g, o: stencil(g.zeros((5, 5)), g.zeros((4, 4))), "x", "index 5 of axis 1"),
    ("launch-bounds", lambda g, o: rows(3, g.zeros(11, np.int32), g.zeros(4, np.int32)), "x", "reaches index 11"),
    ("launch-bounds", lambda g, o: fill(9, 1, g.zeros(8, np.uint32)), "out", "reaches index 8"),
    ("launch-bounds", lambda g, o: part.on(g, workers=9)(g.zeros(8), g.zeros(8)), "out", "reaches index 8"),
]


def _closed(gpu: Device) -> Any:
    x = gpu.zeros(8)
    x.close()
    return x


def _twice(gpu: Device) -> Any:
    x = gpu.zeros(8)
    return blend(1.0, x, x)


def _halves(gpu: Device) -> Any:
    x = gpu.zeros(16)
    return blend(1.0, x[4:], x)


@pytest.mark.parametrize("case", REFUSED, ids=[f"{n}-{c[0]}" for n, c in enumerate(REFUSED)])
def test_refused_before_anything_is_submitted(case: Case, gpu: Device, other: Device) -> None:
    rule, call, name, words = case
    before = len(gpu.port.runs)  # type: ignore[attr-defined]  # of an emulated board
    with pytest.raises(qpu.UsageError) as caught:
        call(gpu, other)
    (finding,) = caught.value.diagnostics
    assert finding.rule == rule, caught.value
    assert name in finding.message and words in str(caught.value), caught.value
    assert finding.allowed or finding.help, caught.value
    assert len(gpu.port.runs) == before  # type: ignore[attr-defined]
    ours = [e for e in caught.traceback if "lang/entry.py" in str(e.path) or "lang/launch.py" in str(e.path)]
    assert len(ours) <= 2, "the error is at the user's line"


def test_accesses_under_a_condition_are_not_refused(gpu: Device) -> None:
    x, y = np.arange(1, 21, dtype=F), gpu.zeros(20)
    guarded(gpu.array(x), y)
    want = np.concatenate([[0], x[:-1]]) + np.concatenate([x[5:], np.ones(5)]) + x[np.minimum(np.arange(20) + 7, 19)]
    assert np.array_equal(y.numpy(), want.astype(F))


def test_a_loop_that_does_not_run_accesses_nothing(gpu: Device) -> None:
    y = gpu.array(np.ones(4, np.int32))
    rows(0, gpu.zeros(1, np.int32), y)
    assert not y.numpy().any()
    rows(3, gpu.array(np.arange(12, dtype=np.int32)), y)
    assert y.numpy().tolist() == [3, 12, 21, 30]


@kernel(coarsen=1)
def gather(k: Grid, at: In[i32], x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    y[i] = x[at[i]]


@kernel(coarsen=1)
def strided(k: Grid, n: i32, step: i32, y: Out[i32]) -> None:
    i = k.index()
    s = 0
    for j in range(i, n, step):
        s += j
    y[i] = s


@kernel
def by_rows(k: Team, x: In2[f32], y: Out[f32], part: Out[f32]) -> None:
    for r in range(k.worker, x.shape[0], k.workers):
        acc = f32(0)
        for c in k.items(1):
            acc += f32(c)
        y[r] = acc + x[r, 0]
    part[k.worker] = 0.0


@kernel
def quarters(k: Grid, n: i32, x: In[i32], y: Out2[i32]) -> None:
    r, c = k.index(*y.shape)
    s = x[r >> 2] + x[c // 4]
    for j in range(n):
        s += x[(j + 3) >> 2] - x[j // 4]
    y[r, c] = s


@kernel
def leaves(k: Grid, n: i32, last: i32, x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    s = 0
    for j in range(n):
        s += x[j]
        if j == last:
            break
        s += x[j + 1]
    y[i] = s


def test_what_is_not_certain_is_not_refused(gpu: Device) -> None:
    """Parts of indices, and turns that a loop does not take."""
    x = np.arange(9, dtype=np.int32) ** 2
    for k, shape, numbers in ((quarters, (6, 35), (9,)), (leaves, (5,), (100, 8))):
        y, want = gpu.zeros(shape, np.int32), np.zeros(shape, np.int32)
        k(*numbers, gpu.array(x), y)
        k.python(*numbers, x, want)
        assert np.array_equal(y.numpy(), want), k


@kernel
def clashing(
    k: Team, workers: i32, worker: i32, row: u32, scratch: f32, self: i32, isa: Const[int], out: Out2[f32]
) -> None:
    w = k.worker
    out[w, 0] = f32(workers)
    out[w, 1] = f32(worker)
    out[w, 2] = f32(row) + scratch
    out[w, 3] = f32(self * isa)
    out[w, 4] = f32(k.workers * 100 + w)


@pytest.mark.every_board
def test_parameters_may_have_any_name(gpu: Device) -> None:
    """Those of the launch's own values, and of this package's functions."""
    out = gpu.zeros((5, 5))
    clashing(1000, 2000, 3000, scratch=0.5, self=6, isa=7, out=out)
    assert np.array_equal(out.numpy(), [[1000, 2000, 3000.5, 42, 500 + w] for w in range(5)])
    assert clashing.compile(gpu.isa, isa=2).program


def test_steps_that_the_launch_knows(gpu: Device) -> None:
    y, want = gpu.zeros(20, np.int32), np.zeros(20, np.int32)
    for step in (1, 3, 50):
        strided(17, step, y)
        strided.python(17, step, want)
        assert np.array_equal(y.numpy(), want), step
    for step in (0, -1):
        with pytest.raises(qpu.UsageError, match="has the step"):
            strided(17, step, y)
    x = np.arange(14, dtype=F).reshape(7, 2)
    out = gpu.zeros(7)
    by_rows(gpu.array(x), out, gpu.zeros(3))
    assert np.array_equal(out.numpy(), x[:, 0])


@pytest.mark.every_board
def test_check_clamps_what_is_not_known(gpu: Device) -> None:
    at = gpu.array(np.array([0, 3, -5, 99], np.int32))
    x, y = gpu.array(np.array([10, 11, 12, 13], np.int32)), gpu.zeros(4, np.int32)
    gather.on(gpu, check=True)(at, x, y)
    assert y.numpy().tolist() == [10, 13, 10, 13]
    with pytest.raises(qpu.EmuFault):
        gather(at, x, y)


def test_numbers_of_numpy(gpu: Device) -> None:
    x, y = gpu.array(np.ones(20, F)), gpu.zeros(20)
    for a in (np.float32(2), np.float64(2), np.int64(2), 2, 2.0, np.array(2.0)[()]):
        blend(a, x, y)
    assert np.array_equal(y.numpy(), np.full(20, 12, F))
    out = gpu.zeros(4, np.uint32)
    fill(np.int16(4), np.uint32(7), out)
    assert out.numpy().tolist() == [7, 8, 9, 10]


@pytest.mark.every_board
def test_nothing_is_launched_for_nothing(gpu: Device) -> None:
    x = gpu.zeros(8)
    run = blend(1.0, x[8:], gpu.zeros(8)[8:])
    assert run.launches == () and run.wait() is run and run.stats is None
    assert fill(0, 1, gpu.zeros(8, np.uint32)).launches == ()
    empty = gpu.zeros(0)
    assert empty.size == 0 and empty.numpy().shape == (0,) and gpu.array(np.zeros((0, 3), F)).shape == (0, 3)
    assert blend(1.0, gpu.array(np.zeros(0, F)), empty).launches == ()
    out = gpu.array(np.ones(4, F))
    part(empty, out)
    assert not out.numpy().any()
    fill(-3, 1, gpu.zeros(8, np.uint32))


def test_parts_of_buffers(gpu: Device) -> None:
    x, y = np.arange(40, dtype=F), gpu.zeros((4, 10))
    bx = gpu.array(x)
    blend(1.0, bx[3:], y.view(16))  # four elements on
    got = y.numpy().reshape(-1)
    assert np.array_equal(got[4:], x[3:39]) and not got[:4].any()
    with pytest.raises(qpu.UsageError, match="launch-bounds"):
        blend(1.0, bx[3:], y.view())


@pytest.mark.every_board
def test_unaligned_arrays(gpu: Device) -> None:
    """V3D 4.2 wraps wide accesses within 16 bytes, so where arrays begin belongs to what is compiled."""
    for first in range(4):
        for second in range(4):
            x, y = np.arange(200, dtype=F), np.arange(200, dtype=F)[::-1].copy()
            by = gpu.array(y)
            blend(2.0, gpu.array(x)[first:], by[second:]) if first <= second else None
            if first <= second:
                n = 200 - second
                y[second:] += 2 * x[first : first + n]
                assert np.array_equal(by.numpy(), y), (first, second)


def test_accesses_beside_the_item(gpu: Device) -> None:
    x = np.arange(203, dtype=F)
    for n in range(4):
        y = gpu.zeros(200)
        shift(n, gpu.array(x), y)
        assert np.array_equal(y.numpy(), x[n : n + 200]), n


@pytest.mark.every_board
def test_workers(gpu: Device) -> None:
    x = np.arange(1000, dtype=F)
    for count in (1, 3, 70):
        out = gpu.zeros(count)
        part(gpu.array(x), out)  # as many workers as the output has room for
        assert out.numpy().sum() == x.sum()
    out = gpu.zeros(8)
    part.on(gpu, workers=5)(gpu.array(x), out)
    assert out.numpy().sum() == x.sum() and not out.numpy()[5:].any()
    for workers in (1, 2, 3, 50):
        y = gpu.zeros(150)
        blend.on(gpu, workers=workers)(1.0, gpu.array(x[:150]), y)
        assert np.array_equal(y.numpy(), x[:150]), workers
    for bad in (0, -1, 1.5, True):
        with pytest.raises(qpu.UsageError, match="workers"):
            part.on(gpu, workers=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000])
def test_every_item_once(gpu: Device, n: int) -> None:
    x, y = np.arange(n, dtype=F), gpu.array(np.ones(n, F))
    blend(1.0, gpu.array(x), y)
    assert np.array_equal(y.numpy(), x + 1)


def test_submit_wait_and_await(gpu: Device) -> None:
    x, y = gpu.array(np.ones(50, F)), gpu.zeros(50)
    run = blend.submit(1.0, x, y)
    assert run.wait() is run and run.wait() is run
    assert run.stats is not None and run.launches[-1].done

    async def again() -> None:
        second = blend.submit(1.0, x, y)
        assert await second is second

    asyncio.run(again())
    assert np.array_equal(y.numpy(), np.full(50, 2, F))


def test_a_plan_is_kept_for_each_kind_of_call(gpu: Device) -> None:
    own = kernel(blend.fn)
    for n in (8, 9, 100):
        own(1.0, gpu.zeros(n), gpu.zeros(n))
    plans = [v for k, v in own.plans.items() if k != "signature"]
    assert len(plans) == 1 and len(own._made) == 1
    made = kernel(fill.fn)
    for step in (1, 2, 2, True, 1):
        out = gpu.zeros(3, np.uint32)
        made(3, 0, out, step)
        assert out.numpy().tolist() == [0, int(step), 2 * int(step)]
    assert len(made._made) == 3
