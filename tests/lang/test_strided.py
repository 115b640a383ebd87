"""Arguments whose elements are apart: slices with steps, transposes, rectangles, repeated and backward elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.buffers import BufferView
from qpu.device import Device
from qpu.lang import Grid, In, In2, In3, InOut, Out, Out2, Out3, Team, c64, f16, f32, i32, kernel, u8, ufunc

F, I = np.float32, np.int32  # noqa: E741  # as in NumPy's own examples


@kernel
def saxpy(k: Grid, a: f32, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(y.size)
    y[i] = a * x[i] + y[i]


@kernel
def near(k: Grid, x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    y[i] = 100 * x.get(i + 1, -1) + x.clamp[i - 2] + x[0]


@kernel
def narrow(k: Grid, x: In[u8], h: In[f16], y: Out[u8], z: Out[f16]) -> None:
    i = k.index()
    y[i] = u8(x[i] + 1)
    z[i] = h[i] * 2.0


@kernel
def turned(k: Grid, z: In[c64], out: Out[c64]) -> None:
    i = k.index()
    out[i] = z[i].conjugate()


@kernel
def sheet(k: Grid, x: In2[i32], y: Out2[i32]) -> None:
    r, c = k.index(*y.shape)
    y[r, c] = x[r, c] * 10 + x[r, 0]


@kernel
def solid(k: Grid, x: In3[i32], y: Out3[i32]) -> None:
    a, b, c = k.index()
    y[a, b, c] = x[a, b, c]


@kernel
def total(k: Team, x: In[i32], y: InOut[i32], part: Out[i32]) -> None:
    acc = 0
    for i in k.items(x.size):
        acc += x.get(i, 0)
        y[i] = y[i] + x[i]
    part[k.worker] = k.sum(acc)


@kernel
def tile(k: Team, c: Out2[i32]) -> None:
    for i, j in k.tiles(c.shape[0], c.shape[1], 2, 16):
        k.store_tile(c, i, j, [j + k.lane, 100 + i])


@kernel
def counted(k: Grid, at: In[i32], bins: InOut[i32]) -> None:
    i = k.index(at.size)
    bins.atomic_add(at[i], 1)


def _saxpy(take: Callable[[Any], Any], put: Callable[[Any], Any]) -> Callable[[Device], tuple[Any, Any]]:
    def run(gpu: Device) -> tuple[Any, Any]:
        x, y = np.arange(200, dtype=F), np.arange(300, dtype=F) * 3
        a, b = gpu.array(x), gpu.array(y)
        saxpy(2.0, take(a), put(b))
        put(y)[:] = F(2) * take(x) + put(y)
        return b.numpy(), y

    return run


def _near(gpu: Device) -> tuple[Any, Any]:
    x, want = np.arange(100, dtype=I)[90:3:-4], np.zeros(22, I)
    y = gpu.zeros(44, I)
    near(gpu.array(np.arange(100, dtype=I))[90:3:-4], y[::2])
    near.python(x, want)
    return y.numpy()[::2], want


def _narrow(gpu: Device) -> tuple[Any, Any]:
    x, h = np.arange(250, dtype=np.uint8), np.arange(120).astype(np.float16)
    y, z = gpu.zeros(100, np.uint8), gpu.zeros((33, 2), np.float16)
    narrow(gpu.array(x)[200::-5][:33], gpu.array(h)[1:100:3], y[1::3], z[:, 1])
    want_y, want_z = np.zeros(100, np.uint8), np.zeros((33, 2), np.float16)
    want_y[1::3], want_z[:, 1] = x[200::-5][:33] + 1, h[1:100:3] * 2
    return np.concatenate([y.numpy(), z.numpy().ravel()]), np.concatenate([want_y, want_z.ravel()])


def _turned(gpu: Device) -> tuple[Any, Any]:
    z = (np.arange(60) + 1j * np.arange(60)[::-1]).astype(np.complex64)
    out = gpu.zeros(40, np.complex64)
    turned(gpu.array(z)[::-3], out[1::2])
    want = np.zeros(40, np.complex64)
    want[1::2] = z[::-3].conj()
    return out.numpy(), want


def _sheet(take: Callable[[Any], Any], put: Callable[[Any], Any]) -> Callable[[Device], tuple[Any, Any]]:
    def run(gpu: Device) -> tuple[Any, Any]:
        x, y = np.arange(40 * 50, dtype=I).reshape(40, 50), np.zeros((60, 70), I)
        b = gpu.array(y)
        sheet(take(gpu.array(x)), put(b))
        sheet.python(take(x), put(y))
        return b.numpy(), y

    return run


def _repeated(gpu: Device) -> tuple[Any, Any]:
    x = np.arange(50, dtype=I)
    y, z = gpu.zeros((3, 50), I), gpu.zeros((3, 20), I)
    sheet(gpu.array(x).view(0, (1, 50)).broadcast_to((3, 50)), y)
    sheet(gpu.array(x).view(20, (3, 1)).broadcast_to((3, 20)), z)
    row, column = np.broadcast_to(x, (3, 50)), np.broadcast_to(x[5:8, None], (3, 20))
    want = [row * 10 + row[:, :1], column * 11]
    return np.concatenate([y.numpy(), z.numpy()], 1), np.concatenate(want, 1)


def _solid(gpu: Device) -> tuple[Any, Any]:
    x, y = np.arange(3 * 5 * 20, dtype=I).reshape(3, 5, 20), gpu.zeros((20, 3, 10), I)
    solid(gpu.array(x)[:, ::2].transpose(2, 0, 1)[::-1], y[:, :, 2:8:2])
    want = np.zeros((20, 3, 10), I)
    want[:, :, 2:8:2] = x[:, ::2].transpose(2, 0, 1)[::-1]
    return y.numpy(), want


def _total(gpu: Device) -> tuple[Any, Any]:
    x, y, part = np.arange(3 * 77, dtype=I), gpu.zeros((77, 2), I), gpu.zeros((3, 4), I)
    total(gpu.array(x)[::3], y[:, 1], part[::-1, 2])
    want_y, want_part = np.zeros((77, 2), I), np.zeros((3, 4), I)
    total.python(x[::3], want_y[:, 1], want_part[::-1, 2], workers=3)
    return np.concatenate([y.numpy().ravel(), part.numpy().ravel()]), np.concatenate(
        [want_y.ravel(), want_part.ravel()]
    )


def _tile(gpu: Device) -> tuple[Any, Any]:
    c, want = gpu.zeros((21, 5), I), np.zeros((21, 5), I)
    tile.on(gpu, workers=2)(c.T)
    for i in range(5):
        want[:, i] = np.arange(21) if i % 2 == 0 else 100 + i - 1
    return c.numpy(), want


def _counted(gpu: Device) -> tuple[Any, Any]:
    at = (np.arange(90, dtype=I) * 7) % 5
    bins = gpu.zeros(15, I)
    counted(gpu.array(at)[::2], bins[::-3])
    want = np.zeros(15, I)
    want[::-3] = np.bincount(at[::2], minlength=5)
    return bins.numpy(), want


class Thing:
    """Something of another package that stands for memory."""

    def __init__(self, view: BufferView) -> None:
        self.view, self.modes = view, list[str]()

    def __qpu_view__(self, mode: str) -> BufferView:
        self.modes.append(mode)
        return self.view


def _thing(gpu: Device) -> tuple[Any, Any]:
    x, y = Thing(gpu.array(np.arange(40, dtype=F))[::2]), Thing(gpu.zeros((20, 2)).T[1])
    saxpy(3.0, x, y)
    assert (x.modes, y.modes) == (["in"], ["inout"])
    return y.view.numpy(), np.arange(0, 40, 2, dtype=F) * 3


@ufunc
def minus(a: i32, b: i32) -> i32:
    return a - b


@ufunc(identity=0)
def plus(a: i32, b: i32) -> i32:
    return a + b


def _ufunc(gpu: Device) -> tuple[Any, Any]:
    x = np.arange(6 * 8 * 10, dtype=I).reshape(6, 8, 10)
    a, out = gpu.array(x), gpu.zeros((10, 8, 12), I)
    got = minus(a.T, a[::-1, 0, 3].broadcast_to((8, 6)), out=out[:, :, ::2])
    want = np.zeros((10, 8, 12), I)
    want[:, :, ::2] = x.T - x[::-1, 0, 3]
    assert isinstance(got, BufferView)
    assert plus.reduce(a[:, ::2, 1]) == x[:, ::2, 1].sum() and plus.reduce(a[1, 1, ::-3]) == x[1, 1, ::-3].sum()
    return out.numpy(), want


CASES: dict[str, Callable[[Device], tuple[Any, Any]]] = {
    "steps": _saxpy(lambda x: x[::2], lambda y: y[::3]),
    "backward": _saxpy(lambda x: x[100:20:-1], lambda y: y[:80]),
    "into steps": _saxpy(lambda x: x[3:20], lambda y: y[280::-16][:17]),
    "one": _saxpy(lambda x: x[7:8], lambda y: y[299::-7][:1]),
    "none": _saxpy(lambda x: x[7:7:2], lambda y: y[9:2:2]),
    "interleaved": _saxpy(lambda x: x[1::2], lambda y: y[:100]),
    "get and clamp": _near,
    "narrow": _narrow,
    "complex": _turned,
    "transposed": _sheet(lambda x: x.T, lambda y: y[:50, :40]),
    "into transposed": _sheet(lambda x: x[:20, 10:27], lambda y: y.T[3:23, 5:22]),
    "rectangle": _sheet(lambda x: x[3:7, 5:38], lambda y: y[50:54, 1:34]),
    "backward rows": _sheet(lambda x: x[::-8, ::-3], lambda y: y[:5, ::-4][:, :17]),
    "column": _sheet(lambda x: x[:, 3:4], lambda y: y[:40, 9:10]),
    "repeated": _repeated,
    "three axes": _solid,
    "team": _total,
    "tile": _tile,
    "atomics": _counted,
    "other objects": _thing,
    "ufunc": _ufunc,
}


@pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", ["vc4", "v3d"])
def test_elements_that_are_apart(case: str, family: str) -> None:
    board = "pi3" if family == "vc4" else ("pi4", "pi5")[list(CASES).index(case) % 2]
    with qpu.open_device(board, engine="reference") as gpu:
        got, want = CASES[case](gpu)
    np.testing.assert_array_equal(got, want)


def test_neighbours_have_programs_of_their_own() -> None:
    with qpu.open_device("pi5", engine="reference") as gpu:
        x, y = gpu.zeros(64), gpu.zeros(128)
        fresh = kernel(saxpy.fn)
        fresh(1.0, x, y[:64])
        fresh(1.0, x[::1], y[64:])
        fresh(1.0, x, y[::2])
        fresh(1.0, x, y[::-2])
        fresh(1.0, x[:1], y[:2:2])  # one element has neighbours enough
        plain, apart = fresh.compiled
    assert len(apart.program) > len(plain.program)
    one = saxpy.compile("v3d71", coarsen=1, strided=("x",)).program
    assert len(one) > len(saxpy.compile("v3d71", coarsen=1).program)
    with pytest.raises(qpu.UsageError, match="names of arrays: x, y"):
        saxpy.compile("v3d71", strided=("z",))


def _x(gpu: Device) -> Any:
    return gpu.zeros(100)


REFUSED: list[tuple[str, Callable[[Device, Any], Any], str]] = [
    ("launch-overlap", lambda g, x: saxpy(1.0, x[::2], x[::3][:50]), "x and y overlap"),
    ("launch-overlap", lambda g, x: saxpy(1.0, x[50:], x[98::-2][:25]), "x and y overlap"),
    ("launch-overlap", lambda g, x: saxpy(1.0, x, x[:1].broadcast_to((5,))), "elements of y share memory"),
    ("launch-overlap", lambda g, x: sheet(g.zeros((3, 3), I), BufferView(g.zeros(9, I), 0, (3, 3), None, (8, 4))), "y"),
    ("launch-align", lambda g, x: saxpy(1.0, BufferView(x, 2, (8,), None, (4,)), x[50:]), "x begins at address"),
    (
        "launch-align",
        lambda g, x: saxpy(1.0, BufferView(x, 0, (8,), None, (6,)), x[50:]),
        "x has elements 6 bytes apart",
    ),
    ("launch-type", lambda g, x: saxpy(1.0, x.view(0, (4, 4)), x[50:]), "x has 2 axes"),
    ("launch-type", lambda g, x: saxpy(1.0, x[3], x[50:]), "x has 0 axes"),
    ("launch-type", lambda g, x: saxpy(1.0, x.view(0, (4,), I), x[50:]), "x holds int32"),
    ("launch-bounds", lambda g, x: saxpy(1.0, x[:20:2], x[50:61]), "reaches index 10 of 'x', which has 10"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c[2])
def test_refused(case: tuple[str, Callable[[Device, Any], Any], str]) -> None:
    rule, call, words = case
    with qpu.open_device("pi4", engine="reference") as gpu:
        with pytest.raises(qpu.UsageError) as caught:
            call(gpu, _x(gpu))
        assert not gpu.port.runs  # type: ignore[attr-defined]  # of an emulated board
    (finding,) = caught.value.diagnostics
    assert finding.rule == rule and words in finding.message, finding


def test_what_lies_between_is_no_overlap() -> None:
    with qpu.open_device("pi5", engine="reference") as gpu:
        x = gpu.array(np.arange(40, dtype=F))
        saxpy(1.0, x[::2], x[1::2])
        y = BufferView(x, 0, (2, 3), np.dtype(I), (8, 12))  # elements 0 3 6 and 2 5 8
        sheet(gpu.zeros((2, 3), I), y)
        want = np.arange(40, dtype=F)
        want[1::2] += want[::2]
        want[[0, 3, 6, 2, 5, 8]] = 0
        assert np.array_equal(x.numpy(), want)


def test_plain_python_and_interpreter_take_them() -> None:
    x, y = np.arange(30, dtype=I), np.zeros((2, 10), I)
    near.interpret(x[::-3], y.T[:, 0])
    near.python(x[::-3], y.T[:, 1])
    assert np.array_equal(y[0], y[1]) and y.any()


@kernel(coarsen=1)
def transpose(k: Grid, n: i32, x: In2[f32], y: Out2[f32], z: InOut[i32]) -> None:
    r, c = k.index(*x.shape)
    y[c, r] = x[r, c]
    if c < 21:
        z[(r * 24 + c) * n] = c


def test_steps_of_stores_that_the_launch_knows() -> None:
    """VideoCore IV: one DMA for 16 elements, also under a bound; further apart and backward lane by lane."""
    x = np.arange(9 * 40, dtype=F).reshape(9, 40)
    with qpu.open_device("pi3") as gpu:
        counts = []
        for n, wide, turn in ((3, 9, 1), (-2, 20000, -1)):
            y, z = gpu.zeros((40, wide)), gpu.zeros(9 * 24 * abs(n), I)
            where = z if n > 0 else z[::-1]
            run = transpose(abs(n), gpu.array(x), y[:, :9][:, ::turn], where)
            want = np.zeros(len(z.numpy()), I)
            (want if n > 0 else want[::-1])[:: abs(n)].reshape(9, 24)[:, :21] = np.arange(21)
            assert np.array_equal(y.numpy()[:, :9][:, ::turn], x.T) and np.array_equal(z.numpy(), want)
            assert run.stats is not None
            counts.append(run.stats.instructions)
        assert counts[0] * 6 < counts[1]
