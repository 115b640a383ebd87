"""Storage types on the boards: narrow and wide elements, packed words, casts, strides, stores under masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.device import Device
from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.lang import (
    Grid,
    In,
    In2,
    In3,
    InOut,
    Out,
    Out2,
    Out3,
    c64,
    f16,
    f32,
    i8,
    i8x4,
    i16,
    i16x2,
    i32,
    kernel,
    u8,
    u8x4,
    u16,
    u32,
)
from qpu.lang.compile import to_kir
from qpu.lang.interp import Interpreter
from qpu.lang.kir import walk
from qpu.lang.legalise import legalise
from qpu.lang.memory import plan_memory

SIZES = (1, 16, 17, 100)

pytestmark = [pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")]
RANDOM = np.random.default_rng(5)


def launch(gpu: Device, k: Any, *args: Any) -> list[np.ndarray]:
    """The arrays after a launch, whose program breaks no rule."""
    buffers = [gpu.array(a) if isinstance(a, np.ndarray) else a for a in args]
    assert k.compile(gpu.isa).program.check() == []
    k(*buffers)
    return [b.numpy() if isinstance(a, np.ndarray) else a for a, b in zip(args, buffers, strict=True)]


@kernel(coarsen=1)
def copy_u8(k: Grid, x: In[u8], y: Out[u8]) -> None:
    i = k.index()
    y[i] = x[i] + 1


@kernel(coarsen=1)
def copy_i8(k: Grid, x: In[i8], y: Out[i8]) -> None:
    i = k.index()
    y[i] = x[i] + 1


@kernel(coarsen=1)
def copy_u16(k: Grid, x: In[u16], y: Out[u16]) -> None:
    i = k.index()
    y[i] = x[i] + 1


@kernel(coarsen=1)
def copy_i16(k: Grid, x: In[i16], y: Out[i16]) -> None:
    i = k.index()
    y[i] = x[i] + 1


@kernel
def copy_f16(k: Grid, x: In[f16], y: Out[f16]) -> None:
    i = k.index()
    y[i] = x[i] + 1.0


COPIES = {"u8": copy_u8, "i8": copy_i8, "u16": copy_u16, "i16": copy_i16}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", COPIES)
def test_narrow_integers_wrap(gpu: Device, name: str, n: int) -> None:
    dtype = np.dtype(f"{'uint' if name[0] == 'u' else 'int'}{name[1:]}")
    info = np.iinfo(dtype)
    x = RANDOM.integers(info.min, info.max + 1, n).astype(dtype)
    x[0] = info.max
    _, y = launch(gpu, COPIES[name], x, np.zeros_like(x))
    assert np.array_equal(y, x + dtype.type(1))


@pytest.mark.parametrize("n", SIZES)
def test_half_floats(gpu: Device, n: int) -> None:
    x = RANDOM.uniform(-100, 100, n).astype(np.float16)
    _, y = launch(gpu, copy_f16, x, np.zeros_like(x))
    want = (x.astype(np.float32) + 1).astype(np.float16)
    assert np.array_equal(y, want)


@kernel(coarsen=1)
def narrow_everything(k: Grid, x: In[f32], a: Out[u8], b: Out[i8], c: Out[u16], d: Out[i16], e: Out[u8]) -> None:
    i = k.index(x.size)
    v = x[i]
    a[i] = u8.sat(v)
    b[i] = i8.sat(i32(v))
    c[i] = u16.sat(v)
    d[i] = i16.sat(i32(v))
    e[i] = u8(i32(v))


@pytest.mark.every_board
def test_saturating_casts(gpu: Device) -> None:
    x = np.array([0, 1.5, -1.5, 127, 128, 255, 256, 300, -128, -129, 65535, 65536, 1e6, -1e6, 32767, 32768, -40000],
                 np.float32)  # fmt: skip
    n = len(x)
    _, a, b, c, d, e = launch(gpu, narrow_everything, x, np.zeros(n, np.uint8), np.zeros(n, np.int8),
                              np.zeros(n, np.uint16), np.zeros(n, np.int16), np.zeros(n, np.uint8))  # fmt: skip
    whole = np.trunc(x).astype(np.int64)
    assert np.array_equal(a, np.clip(whole, 0, 255))
    assert np.array_equal(b, np.clip(whole, -128, 127))
    assert np.array_equal(c, np.clip(whole, 0, 65535))
    assert np.array_equal(d, np.clip(whole, -32768, 32767))
    assert np.array_equal(e, whole & 255)


@kernel
def conjugate(k: Grid, x: In[c64], y: Out[c64]) -> None:
    i = k.index()
    y[i] = x[i] * x[i] + c64(1.0, -2.0)


@pytest.mark.parametrize("n", SIZES)
def test_complex_numbers(gpu: Device, n: int) -> None:
    x = (RANDOM.uniform(-2, 2, n) + 1j * RANDOM.uniform(-2, 2, n)).astype(np.complex64)
    _, y = launch(gpu, conjugate, x, np.zeros_like(x))
    np.testing.assert_allclose(y, x * x + np.complex64(1 - 2j), rtol=1e-5, atol=1e-5)


@kernel(coarsen=4)
def both(k: Grid, x: In[c64], y: Out[c64], z: Out[f32]) -> None:
    i = k.index()
    y[i] = x[i] * 2.0
    z[i] = x[i].real + x[i].imag


@pytest.mark.parametrize("n", [64, 130])
def test_columns_and_rows_in_one_kernel(gpu: Device, n: int) -> None:
    """A stride for one store is not the next one's."""
    x = (RANDOM.integers(-9, 9, n) + 1j * RANDOM.integers(-9, 9, n)).astype(np.complex64)
    _, y, z = launch(gpu, both, x, np.zeros_like(x), np.zeros(n, np.float32))
    assert np.array_equal(y, x * 2)
    assert np.array_equal(z, x.real + x.imag)


@kernel
def words(k: Grid, x: In[u8x4], y: In[i16x2], s: In[i8x4], out: Out[u8x4], total: Out[i32], pairs: Out[i16x2]) -> None:
    i = k.index(x.size)
    w = x[i]
    out[i] = u8x4(w[3], w[2], w[1], w[0])
    p = y[i]
    total[i] = w[0] + w[3] + p[0] - p[1] + s[i][2]
    pairs[i] = i16x2(p[1], p[0] + 1)


@pytest.mark.every_board
def test_packed_words(gpu: Device) -> None:
    n = 37
    x, y, s = (RANDOM.integers(0, 2**32, n, dtype=np.uint32) for _ in range(3))
    zero = np.zeros(n, np.uint32)
    _, _, _, out, total, pairs = launch(gpu, words, x, y, s, zero, np.zeros(n, np.int32), zero.copy())
    assert np.array_equal(out, x.byteswap())
    bytes_, halves, signed = x.view(np.uint8).reshape(n, 4), y.view(np.int16).reshape(n, 2), s.view(np.int8)
    want = bytes_[:, 0].astype(int) + bytes_[:, 3] + halves[:, 0] - halves[:, 1] + signed.reshape(n, 4)[:, 2]
    assert np.array_equal(total, want)
    with np.errstate(over="ignore"):
        swapped = np.stack([halves[:, 1], halves[:, 0] + np.int16(1)], 1)
    assert np.array_equal(pairs.view(np.int16).reshape(n, 2), swapped)


@kernel(coarsen=1)
def spread(k: Grid, x: In[i32], y: InOut[i32]) -> None:
    i = k.index(x.size)
    y[3 * i + 1] = x[i]


@kernel(coarsen=1)
def spread_bytes(k: Grid, x: In[i32], y: InOut[u8]) -> None:
    i = k.index(x.size)
    y[5 * i] = x[i]


@pytest.mark.every_board
@pytest.mark.parametrize("n", SIZES)
def test_stores_with_a_stride(gpu: Device, n: int) -> None:
    x = RANDOM.integers(-1000, 1000, n).astype(np.int32)
    y = np.full(3 * n, 7, np.int32)
    want = y.copy()
    want[1::3] = x
    assert np.array_equal(launch(gpu, spread, x, y)[1], want)
    bytes_ = np.full(5 * n, 9, np.uint8)
    wanted = bytes_.copy()
    wanted[::5] = x.astype(np.uint8)
    assert np.array_equal(launch(gpu, spread_bytes, x, bytes_)[1], wanted)


@kernel(coarsen=1)
def some(k: Grid, x: In[i32], y: InOut[u16], z: InOut[i32]) -> None:
    i = k.index(x.size)
    v = x[i]
    if v > 3 and i > 4:
        y[i] = v
    if i + 5 < x.size:
        z[i + 5] = v
    if v % 3 == 0:
        z[x.size - 1 - i] = v


@pytest.mark.every_board
@pytest.mark.parametrize("n", SIZES)
def test_stores_under_masks(gpu: Device, n: int) -> None:
    x = RANDOM.integers(-10, 10, n).astype(np.int32)
    y, z = np.full(n, 77, np.uint16), np.full(n, 78, np.int32)
    want_y = y.copy()
    for i in range(n):
        if x[i] > 3 and i > 4:
            want_y[i] = x[i]
    got_x, got_y, got_z = launch(gpu, some, x, y, z)
    assert np.array_equal(got_y, want_y)
    ordinary = np.full(n, 78, np.int32)
    ordinary[5:] = x[: max(n - 5, 0)]
    reverse = {n - 1 - i: x[i] for i in range(n) if x[i] % 3 == 0}
    for i in range(n):  # both stores may hit one place, in either order
        allowed = {ordinary[i], reverse.get(i, ordinary[i])}
        assert got_z[i] in allowed
    assert np.array_equal(got_x, x)


@kernel(coarsen=1)
def transpose(k: Grid, x: In2[f32], y: Out2[f32]) -> None:
    r, c = k.index(*x.shape)
    y[c, r] = x[r, c]


@kernel(coarsen=1)
def permute(k: Grid, x: In3[i16], y: Out3[i16]) -> None:
    a, b, c = k.index(*x.shape)
    y[c, a, b] = x[a, b, c]


@pytest.mark.every_board
def test_two_and_three_axes(gpu: Device) -> None:
    x = RANDOM.uniform(-1, 1, (5, 21)).astype(np.float32)
    assert np.array_equal(launch(gpu, transpose, x, np.zeros((21, 5), np.float32))[1], x.T)
    y = RANDOM.integers(-9, 9, (3, 4, 18)).astype(np.int16)
    got = launch(gpu, permute, y, np.zeros((18, 3, 4), np.int16))[1]
    assert np.array_equal(got, y.transpose(2, 0, 1))


@kernel(coarsen=1)
def gather(k: Grid, table: In[f32], at: In[u32], y: Out[f32]) -> None:
    i = k.index()
    y[i] = table[at[i]]


@kernel(coarsen=1)
def scatter(k: Grid, x: In[f32], at: In[i32], y: InOut[f32]) -> None:
    i = k.index(x.size)
    y[at[i]] = x[i]


@pytest.mark.parametrize("n", SIZES)
def test_gather_and_scatter(gpu: Device, n: int) -> None:
    table = RANDOM.uniform(-1, 1, n).astype(np.float32)
    at = RANDOM.permutation(n)
    assert np.array_equal(launch(gpu, gather, table, at.astype(np.uint32), np.zeros(n, np.float32))[2], table[at])
    y = launch(gpu, scatter, table, at.astype(np.int32), np.zeros(n, np.float32))[2]
    assert np.array_equal(y[at], table)


@kernel(coarsen=1)
def bounds_of_each_kind(k: Grid, x: In[i32], y: InOut[i32], z: InOut[u8]) -> None:
    i = k.index(x.size)
    if 4 * i + 1 < x.size:
        y[i] = x[i]
    if 2 * i - 3 <= x.size:
        z[i] = x[i]


@pytest.mark.parametrize("n", range(1, 40, 3))
def test_masks_that_are_bounds(gpu: Device, n: int) -> None:
    x = RANDOM.integers(0, 100, n).astype(np.int32)
    y, z = np.full(n, -1, np.int32), np.full(n, 200, np.uint8)
    _, got_y, got_z = launch(gpu, bounds_of_each_kind, x, y, z)
    i = np.arange(n)
    assert np.array_equal(got_y, np.where(4 * i + 1 < n, x, -1))
    assert np.array_equal(got_z, np.where(2 * i - 3 <= n, x, 200))


@kernel
def twice_in_some_lanes(k: Grid, x: In[i32], y: InOut[i32]) -> None:
    i = k.index(x.size)
    v = x[i]
    large = v > 3
    odd = v & 1 == 1
    if large:
        y[i] = v + 100
    if not large or odd:
        y[i] = v - 100


@kernel
def neighbours(k: Grid, x: In[i32], y: In[i32], w: In[i32], z: Out[i32]) -> None:
    i = k.index()
    z[i] = x[i] * 3 + y[i + 1] - y[i + 3] + w[i]


@pytest.mark.parametrize("n", [1, 16, 64, 130])
def test_order_of_stores_and_of_results(gpu: Device, n: int) -> None:
    x, y = RANDOM.integers(-9, 9, (2, n + 3)).astype(np.int32)
    got = launch(gpu, twice_in_some_lanes, x, np.zeros_like(x))[1]
    assert np.array_equal(got, np.where((x <= 3) | (x & 1 == 1), x - 100, x + 100))
    z = launch(gpu, neighbours, x[:n].copy(), y, y[:n].copy(), np.zeros(n, np.int32))[3]
    assert np.array_equal(z, x[:n] * 3 + y[1 : n + 1] - y[3 : n + 3] + y[:n])


@kernel
def either(k: Grid, x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    if x[i] > 3:
        y[i] = 1
    elif x[i] == 0:
        y[i] = 2
    else:
        y[i] = 3


def test_stores_of_all_branches_are_one(gpu: Device) -> None:
    x = RANDOM.integers(-3, 8, 100).astype(np.int32)
    assert np.array_equal(launch(gpu, either, x, np.zeros_like(x))[1], np.where(x > 3, 1, np.where(x == 0, 2, 3)))
    assert not either.compile("vc4").notes  # no lane after another


def test_single_results_come_behind_those_asked_for_before() -> None:
    """Requests as V3D queues them give what loads give, with wide and single ones among each other."""
    ir = to_kir(neighbours.source, "v3d71", {}, coarsen=4, layout="quad")
    legal = legalise(ir.region, "v3d71")
    planned = plan_memory(legal, "v3d71", 8, frozenset(range(4)), None)
    words = {v.attr.words for v in walk(planned) if v.op == "request"}
    assert words == {1, 4}
    n = 64
    x, y, w = RANDOM.integers(-9, 9, (3, n + 3)).astype(np.int32)
    found = []
    for region in (legal, planned):
        z = np.zeros(n, np.int32)
        params = {"z.shape0": n, **{f"{name}.base": 0 for name in "xyzw"}}
        memory = [a.view(np.uint8) for a in (x, y, w, z)]
        Interpreter(region, params, memory, 1, NumpyLanes()).run()
        found.append(z)
    assert np.array_equal(found[0], x[:n] * 3 + y[1 : n + 1] - y[3 : n + 3] + w[:n])
    assert np.array_equal(*found)
