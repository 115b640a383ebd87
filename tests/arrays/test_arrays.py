"""Tests of arrays as objects: laziness, fusion, views, writing, errors at the call that is wrong."""

from __future__ import annotations

import gc
import pickle
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.array import fuse, parts
from qpu.array.blocks import _Bar
from qpu.array.node import MOST
from qpu.device import Device
from qpu.errors import UsageError

F = np.float32


def counted(gpu: Device) -> int:
    return gpu.xp._memory.launches


def data(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(F)


def test_import_stays_light() -> None:
    code = "import sys, qpu; print([m for m in sys.modules if m.startswith(('numpy', 'qpu.array', 'qpu.kernels'))])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_a_chain_is_one_launch(device: Any, board: str) -> None:
    gpu = device(board)
    xp = gpu.xp
    a, b = data(1000), data(1000, seed=1)
    x, y = xp.asarray(a), xp.asarray(b)
    before = counted(gpu)
    z = xp.abs((x * 2.0 + y) * y - x) / 4.0
    assert counted(gpu) == before
    found = z.numpy()
    assert counted(gpu) == before + 1
    tolerance = 1e-6 if board == "pi3" else 5e-7
    np.testing.assert_allclose(found, np.abs((a * F(2) + b) * b - a) / F(4), rtol=0, atol=tolerance)
    assert (z.numpy() == found).all() and counted(gpu) == before + 1  # it is in memory now


def test_the_same_expression_is_compiled_once(gpu: Device) -> None:
    xp = gpu.xp
    x = xp.asarray(data(64))
    (x * 3.0 + 1.0).evaluate()
    kernels = len(xp._memory.kernels)
    for factor in (4.0, 5.0):
        found = (x * factor + 1.0).numpy()
        np.testing.assert_allclose(found, x.numpy() * F(factor) + F(1), rtol=1e-6)
    assert len(xp._memory.kernels) == kernels


def test_what_others_need_is_stored_in_the_same_launch(gpu: Device) -> None:
    xp = gpu.xp
    x = xp.asarray(data(100))
    middle = x * 2.0
    first, second = middle + 1.0, middle - 1.0
    before = counted(gpu)
    first.evaluate()
    assert not middle._node.op and counted(gpu) == before + 1
    np.testing.assert_allclose(second.numpy(), x.numpy() * F(2) - F(1), rtol=0, atol=1e-6)


def test_a_temporary_is_not_stored(gpu: Device) -> None:
    xp = gpu.xp
    x = xp.asarray(data(100))
    middle = x * 2.0
    (middle + 1.0).evaluate()
    assert middle._node.op  # only the user knows it: computed again if it is wanted
    (middle + 3.0).evaluate()
    assert not middle._node.op  # a second time it is kept


def test_expressions_are_cut(gpu: Device) -> None:
    """At 64 operations, and where more than 6 arrays are read."""
    xp = gpu.xp
    arrays = [xp.asarray(data(20, seed=n)) for n in range(9)]
    before = counted(gpu)
    total = arrays[0] * 1.0
    for x in arrays[1:]:
        total = total + x
    np.testing.assert_allclose(total.numpy(), np.sum([x.numpy() for x in arrays], axis=0), rtol=1e-5, atol=1e-6)
    assert counted(gpu) == before + 2
    assert len(arrays) > fuse.INPUTS
    long = arrays[0]
    for _ in range(MOST + 1):
        long = long + 1
    assert long._node.weight <= MOST
    np.testing.assert_allclose(long.numpy(), arrays[0].numpy() + F(MOST + 1), rtol=1e-5)


def test_writing_evaluates_readers_first(gpu: Device) -> None:
    xp = gpu.xp
    x = xp.asarray(np.arange(8, dtype=F))
    y = x + 1
    x[2:4] = 100.0
    assert y.numpy().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert x.numpy().tolist() == [0, 1, 100, 100, 4, 5, 6, 7]
    x[1:] = x[:-1]  # what is read is not overwritten before
    assert x.numpy().tolist() == [0, 0, 1, 100, 100, 4, 5, 6]
    view = x[::2]
    x += 1
    assert view.numpy().tolist() == [1, 2, 101, 6]
    view[...] = view * 2
    assert x.numpy().tolist() == [2, 1, 4, 101, 202, 5, 12, 7]


def test_eager(gpu: Device) -> None:
    xp = gpu.xp
    x = xp.asarray(data(10))
    with xp.eager():
        assert not (x + 1)._node.op
    assert (x + 1)._node.op


def test_views_and_broadcasting(gpu: Device) -> None:
    """Rows, short rows, strides in both directions: each form of the iteration."""
    xp = gpu.xp
    for shape in ((5, 60), (40, 5), (3, 4, 50)):
        a = data(*shape)
        x = xp.asarray(a)
        tolerance = {"rtol": 1e-6, "atol": 1e-6}
        np.testing.assert_allclose((x + x[0] * x[..., :1]).numpy(), a + a[0] * a[..., :1], **tolerance)
    a = data(6, 7)
    x = xp.asarray(a)
    found = x[::2, ::-1].T + x[1, 2]
    np.testing.assert_allclose(found.numpy(), a[::2, ::-1].T + a[1, 2], rtol=1e-6)
    np.testing.assert_array_equal(x[None, 3, 1:].numpy(), a[None, 3, 1:])


def test_integer_and_boolean_indexing(gpu: Device) -> None:
    xp = gpu.xp
    a = np.random.default_rng(3).integers(-100, 100, (9, 11)).astype(np.int8)
    x, k = xp.asarray(a), np.array([3, -1, 5], np.int32)
    at = xp.asarray(k)
    np.testing.assert_array_equal(x[at].numpy(), a[k])
    np.testing.assert_array_equal(x[1:, at].numpy(), a[1:, k])
    np.testing.assert_array_equal(x[at, at].numpy(), a[k, k])
    np.testing.assert_array_equal(x[x > 50].numpy(), a[a > 50])
    x[at] = xp.asarray(np.arange(11, dtype=np.int8))
    a[k] = np.arange(11)
    x[x < 0] = 1
    a[a < 0] = 1
    np.testing.assert_array_equal(x.numpy(), a)
    np.testing.assert_array_equal(xp.take(x, at, axis=1).numpy(), np.take(a, k, axis=1))
    assert [i.numpy().tolist() for i in xp.nonzero(x[:2] > 50)] == [i.tolist() for i in np.nonzero(a[:2] > 50)]


def test_reductions(gpu: Device) -> None:
    """Rows, columns, parts; what is reduced is computed on the way."""
    xp = gpu.xp
    for shape, axis in (((20000,), 0), ((70, 50), 0), ((4, 7, 40), (0, 1))):
        a = data(*shape)
        x = xp.asarray(a)
        before = counted(gpu)
        found = xp.sum(x * 2.0 + 1.0, axis=axis)
        want = (a.astype(np.float64) * 2 + 1).sum(axis=axis)
        np.testing.assert_allclose(found.numpy(), want, rtol=1e-5, atol=1e-4)
        assert counted(gpu) - before <= 2
    a = data(30, 70)
    x = xp.asarray(a)
    np.testing.assert_array_equal(xp.argmax(x, axis=1).numpy(), a.argmax(1))
    assert int(xp.argmin(x)) == a.argmin()
    np.testing.assert_array_equal(xp.max(x, axis=0, keepdims=True).numpy(), a.max(0, keepdims=True))
    np.testing.assert_allclose(((x - x.mean()) / x.std()).numpy(), (a - a.mean()) / a.std(), rtol=1e-4, atol=1e-5)
    assert bool(xp.any(x > 0.9)) and not bool(xp.all(x > 0.9))
    c = (a[:3] + 1j * a[3:6]).astype(np.complex64)
    np.testing.assert_allclose(xp.mean(xp.asarray(c), axis=1).numpy(), c.mean(1), rtol=1e-4, atol=1e-5)


def test_matmul(gpu: Device) -> None:
    xp = gpu.xp
    a, b = data(10, 20), data(20, 30)
    found = (xp.asarray(a) @ xp.asarray(b)).numpy()
    np.testing.assert_allclose(found, a @ b, rtol=0, atol=1e-5)
    i, j = np.arange(12, dtype=np.int32).reshape(3, 4), np.arange(8, dtype=np.int32).reshape(4, 2)
    np.testing.assert_array_equal((xp.asarray(i) @ xp.asarray(j)).numpy(), i @ j)


@pytest.mark.parametrize(("board", "size"), [("pi3", 9), ("pi4", 40), pytest.param("pi5", 17, marks=pytest.mark.soak)])
def test_products_absorb_what_follows(device: Any, board: str, size: int) -> None:
    """Small products any expression, those of the library a factor, numbers for columns, and ReLU: the same bits."""
    gpu = device(board)
    xp = gpu.xp
    x, y, bias = xp.asarray(data(size, 33)), xp.asarray(data(33, 34)), xp.asarray(data(34))
    alone = (x @ y).evaluate()
    before = counted(gpu)
    found = xp.maximum(0.5 * (x @ y) + bias, 0.0).evaluate()
    assert counted(gpu) == before + 1
    np.testing.assert_array_equal(found.numpy(), xp.maximum(0.5 * alone + bias, 0.0).numpy())
    shared = x @ y
    first, second = shared + 1.0, shared * 2.0
    first.evaluate()
    assert not shared._node.op and second._node.op  # what others need is stored


def test_reductions_absorb_what_follows(gpu: Device) -> None:
    """In one kernel, which joins the elements in the same order as without."""
    xp = gpu.xp
    x, y = xp.asarray(data(30, 70)), xp.asarray(data(30))
    alone = xp.sum(x * x, axis=1).evaluate()
    before = counted(gpu)
    found = (xp.sum(x * x, axis=1) * y - 1.0).evaluate()
    assert counted(gpu) == before + 1
    np.testing.assert_array_equal(found.numpy(), (alone * y - 1.0).numpy())


def test_kernels_take_arrays(gpu: Device) -> None:
    xp = gpu.xp
    x = xp.asarray(np.arange(40, dtype=F))
    y = xp.zeros(40)
    late = y + 1
    _saxpy(2.0, x, y)
    np.testing.assert_array_equal(y.numpy(), 2 * np.arange(40))
    np.testing.assert_array_equal(late.numpy(), np.ones(40))  # evaluated before the kernel wrote


from qpu.lang import Grid, In, InOut, f32  # noqa: E402  # beside the kernel


@qpu.kernel
def _saxpy(k: Grid, a: f32, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(y.size)
    y[i] = a * x[i] + y[i]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda xp: xp.asarray(np.zeros(3)),
        lambda xp: xp.asarray(np.zeros(3, np.int64)),
        lambda xp: xp.zeros(3, dtype=np.float64),
        lambda xp: xp.zeros(3, dtype=xp.int32) + xp.zeros(3, dtype=xp.uint32),
        lambda xp: xp.zeros(3) + xp.zeros(4),
        lambda xp: xp.zeros(3, dtype=xp.int32) + 1.5,
        lambda xp: xp.zeros(3, dtype=xp.int8) + 200,
        lambda xp: xp.zeros(3)[5],
        lambda xp: xp.zeros(3)[1, 2],
        lambda xp: bool(xp.zeros(3)),
        lambda xp: xp.sin(xp.zeros(3, dtype=xp.int32)),
        lambda xp: xp.sum(xp.zeros(3), axis=1),
        lambda xp: xp.reshape(xp.zeros(6), (4, 2)),
        lambda xp: xp.max(xp.zeros((0, 3)), axis=0),
        lambda xp: xp.zeros((2, 3)) @ xp.zeros((2, 3)),
        lambda xp: xp.zeros(3).__setitem__(slice(None), xp.zeros(3) + 1j),
    ],
)
def test_errors_at_the_call(device: Any, wrong: Any) -> None:
    with pytest.raises(UsageError, match="help:"):
        wrong(device("pi5").xp)


def test_names_of_64_bits(device: Any) -> None:
    xp = device("pi5").xp
    assert not hasattr(xp, "float64")
    with pytest.raises(AttributeError, match="help:"):
        xp.sinus()


def test_displays_and_reports(device: Any) -> None:
    xp = device("pi5").xp
    x = xp.asarray([1.0, 2.0])
    assert repr(x) == "Array([1., 2.], dtype=float32, device=pi5)"
    assert "<th>dtype</th><td>float32</td>" in x._repr_html_()
    text = (xp.asarray(data(200)) * 2).explain()
    assert "1 launch" in text and "instructions" in text and "bytes loaded" in text
    assert "in memory" in x.explain()
    y = xp.asarray(data(200))
    assert "1. abs((x0 * s0) - x0): 200 items" in xp.abs(y * 2.0 - y).explain()


def test_faults_name_the_expression(device: Any) -> None:
    """An index outside of an array, which is only known on the device."""
    xp = device("pi5").xp
    x = xp.asarray(data(200))
    y = xp.take(x, xp.asarray([1, 5_000_000]))
    with pytest.raises(qpu.EmuFault) as fault:
        (y * 2.0).numpy()
    note = "\n".join(fault.value.__notes__)
    assert "in the expression x0[where(x1 < s0, x1 + s1, x1)] * s2" in note and "test_arrays.py" in note


def test_interchange(device: Any) -> None:
    gpu = device("pi4")
    xp = gpu.xp
    gpu.transfers.reset()
    x = xp.asarray(np.arange(6, dtype=F).reshape(2, 3))
    assert (gpu.transfers.uploads, gpu.transfers.bytes_up) == (1, 24)
    shared = np.from_dlpack(x[:, 1:])
    assert shared.tolist() == [[1, 2], [4, 5]]
    x[0, 1] = 9.0
    assert shared[0, 0] == 9  # the same memory
    y = np.add(x, 1) * np.ones(3, F)
    assert isinstance(y, type(x)) and y.numpy().tolist() == [[1, 10, 3], [4, 5, 6]]
    assert isinstance(np.concatenate([x, y]), type(x)) and np.sum(x) == 23
    assert gpu.transfers.downloads == 2
    del x
    gc.collect()
    assert shared[1].tolist() == [4, 5]  # memory that is known outside stays
    from qpu.array.current import use

    use(gpu)
    try:
        assert pickle.loads(pickle.dumps(y)).numpy().tolist() == y.numpy().tolist()
    finally:
        use(None)


def test_blocks(gpu: Device, tmp_path: Any) -> None:
    a = data(50, 40)
    path = tmp_path / "data"
    a.tofile(path)
    big = np.memmap(path, F, "r", shape=(50, 40))

    def smooth(x: Any) -> Any:
        y = x * 1.0
        y[1:-1] = (x[:-2] + x[1:-1] + x[2:]) / 3.0
        return y

    found = gpu.map_blocks(smooth, big, block=(20, 40), halo=(1, 0))
    wide = np.pad(a, ((1, 1), (0, 0)), mode="edge")
    np.testing.assert_allclose(found, (wide[:-2] + wide[1:-1] + wide[2:]) / F(3), rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="help:"):
        gpu.map_blocks(lambda x: x[:1], big)


def test_large_blocks_are_launched_in_parts(monkeypatch: Any) -> None:
    """What the watchdog would end as one launch ends as several, with the same results; also by rows, and by index."""

    def f(x: Any) -> Any:
        return x**x  # a loop of 31 turns

    a = np.random.default_rng(0).integers(1 << 30, 1 << 31, (8, 1 << 17), np.int32)
    with qpu.open_device("pi5,watchdog=1") as gpu:  # 1 ms instead of 500
        with pytest.raises(qpu.GpuResetError):
            gpu.map_blocks(f, a, block=a.shape)
        monkeypatch.setattr(parts, "FREE", 1 << 10)
        monkeypatch.setattr(parts, "WORK", 1 << 19)
        found = gpu.map_blocks(f, a, block=a.shape)
        np.testing.assert_array_equal(found, a**a)
        monkeypatch.setattr(parts, "WORK", 1 << 12)
        b = a[:, :500]
        x, before = gpu.xp.asarray(b), counted(gpu)
        np.testing.assert_array_equal((x[:, ::2] - 1).numpy(), b[:, ::2] - 1)
        order = np.random.default_rng(1).permutation(b.size).astype(np.int32)
        y, flat = gpu.xp.zeros(b.size, dtype=gpu.xp.int32), gpu.xp.reshape(x, (-1,))
        y[gpu.xp.asarray(order)] = flat
        np.testing.assert_array_equal(y[gpu.xp.asarray(order)].numpy(), b.reshape(-1))
        assert counted(gpu) > before + 8  # three expressions


def test_the_bar_appears_before_the_first_block_ends(gpu: Device, capsys: Any) -> None:
    tqdm = pytest.importorskip("tqdm.auto").tqdm
    bar = _Bar(tqdm, 3, False)
    time.sleep(0.7)
    assert "0/3" in capsys.readouterr().err
    bar.update()
    bar.close()
    assert "1/3" in capsys.readouterr().err


def test_interrupted_blocks(gpu: Device, capsys: Any) -> None:
    """Ctrl-C stops between two blocks: results so far are there, the device works on, no buffer is lost."""
    a, out = data(40, 8), np.zeros((40, 8), F)
    gpu.map_blocks(lambda x: x + 1.0, a, block=(10, 8))
    gc.collect()
    before = len(gpu.xp._memory.pool._bos)
    seen = 0

    def stopped(x: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 3:
            signal.raise_signal(signal.SIGINT)
        return x + 1.0

    with pytest.raises(KeyboardInterrupt):
        gpu.map_blocks(stopped, a, block=(10, 8), out=out)
    np.testing.assert_array_equal(out[:20], a[:20] + F(1))
    assert not out[20:].any()
    gc.collect()
    assert len(gpu.xp._memory.pool._bos) == before
    assert (gpu.xp.ones(3) + 1.0).numpy().tolist() == [2, 2, 2]
    pytest.importorskip("tqdm")
    capsys.readouterr()
    gpu.map_blocks(lambda x: x + 1.0, a, block=(10, 8), progress=True)
    assert "4/4" in capsys.readouterr().err
    gpu.map_blocks(lambda x: x + 1.0, a, block=(10, 8), progress=False)
    assert capsys.readouterr().err == ""
