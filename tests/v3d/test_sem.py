"""Tests of semantic functions against values computed by hand or by Python's own arithmetic."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.emu.engine.numpy_lanes import NumpyLanes, quiet
from qpu.v3d.ops import PACK, UNPACK, table

V = NumpyLanes()
RNG = np.random.default_rng(5)
U = np.uint32


def lanes(*values: int) -> Any:
    return np.resize(np.array(values, np.uint64), 16).astype(U)


def floats(*values: float) -> Any:
    return np.resize(np.array(values, np.float32), 16).view(U)


def run(name: str, *args: Any) -> Any:
    op = table(Isa.V3D71).get(name) or table(Isa.V3D42)[name]
    assert op.sem is not None
    with quiet():
        return op.sem(V, *args)


def random() -> Any:
    return RNG.integers(0, 1 << 32, 16, U)


def test_multop_and_umul24_make_a_full_product() -> None:
    for _ in range(20):
        a, b = random(), random()
        _, rtop = run("multop", a, b)
        product, cleared = run("umul24", a, b, rtop)
        assert (product == a * b).all()
        assert not cleared.any()
        plain, _ = run("umul24", a, b, lanes(0))
        assert (plain == ((a & 0xFFFFFF).astype(np.uint64) * (b & 0xFFFFFF)).astype(U)).all()


def test_smul24() -> None:
    got = run("smul24", lanes(0xFFFFFF, 0x800000, 0x1000002), lanes(3, 2, 5))
    assert list(got[:3]) == [0xFFFFFFFD, 0xFF000000, 10]


def test_shifts_use_five_bits() -> None:
    a = lanes(0x80000001)
    assert run("shl", a, lanes(33))[0] == 2
    assert run("shr", a, lanes(0xFFFFFFF0))[0] == 0x8000
    assert run("asr", a, lanes(4))[0] == 0xF8000000
    assert [run("ror", a, lanes(n))[0] for n in (0, 1, 32, 31)] == [0x80000001, 0xC0000000, 0x80000001, 3]


def test_halves() -> None:
    assert run("vadd", lanes(0xFFFF0001), lanes(0x0001FFFF))[0] == 0
    assert run("vsub", lanes(0x00000000), lanes(0x00010001))[0] == 0xFFFFFFFF
    assert run("vfpack", floats(1.0), floats(-2.0))[0] == 0xC0003C00
    assert run("vfmin", lanes(0xC0003C00), lanes(0x3C00C000))[0] == 0xC000C000
    assert run("vfmax", lanes(0xC0003C00), lanes(0x3C00C000))[0] == 0x3C003C00
    assert run("vfmul", lanes(0x40003800), lanes(0x4200C000))[0] == 0x4600BC00
    assert run("vpack", lanes(0x12345678), lanes(0x9ABCDEF0))[0] == 0xDEF05678
    assert run("v8pack", lanes(0x11223344), lanes(0x55667788))[0] == 0x66882244
    got = run("v10pack", lanes(0x03FF0155), lanes(0xFFFE02AA))[0]
    assert got == 0x155 | 0x3FF << 10 | 0x2AA << 20 | 2 << 30


@pytest.mark.parametrize(
    ("half", "eleven", "ten"),
    [(0x3C00, 0x3C0, 0x1E0), (0x0000, 0, 0), (0x7C00, 0x7C0, 0x3E0), (0x3C08, 0x3C0, 0x1E0), (0x3C18, 0x3C2, 0x1E1)],
)
def test_v11fpack_rounds_to_even(half: int, eleven: int, ten: int) -> None:
    got = int(run("v11fpack", lanes(half | half << 16), lanes(half))[0])
    assert got == eleven | eleven << 11 | ten << 22


def test_fcmp_flags() -> None:
    op = table(Isa.V3D71)["fcmp"]
    a, b = floats(1.0, 2.0, -0.0, np.nan), floats(2.0, 1.0, 0.0, 1.0)
    assert op.zero is not None and op.negative is not None and op.carry is not None
    with quiet():
        got = [list(f(V, a, b, V.fsub(a, b))[:4]) for f in (op.zero, op.negative, op.carry)]
    assert got == [[False, False, True, False], [True, False, False, False], [True, False, True, False]]


def test_integer_carries() -> None:
    a, b = random(), random()
    ops = table(Isa.V3D42)
    for name, expected in (
        ("add", a.astype(np.uint64) + b > 0xFFFFFFFF),
        ("sub", a < b),
        ("min", a.view(np.int32) > b.view(np.int32)),
    ):
        op = ops[name]
        assert op.carry is not None and op.sem is not None
        assert (op.carry(V, a, b, op.sem(V, a, b)) == expected).all()


def test_float_to_integer() -> None:
    a = floats(2.5, 3.5, -2.5, -1.0, 1e10)
    assert list(run("ftoin", a).view(np.int32)[:4]) == [2, 4, -2, -1]
    assert list(run("ftoiz", a).view(np.int32)[:4]) == [2, 3, -2, -1]
    assert list(run("ftouz", a)[:4]) == [2, 3, 0, 0]


def test_lane_movement() -> None:
    a = np.arange(16, dtype=U) + 100
    j = np.arange(16)
    assert (run("rot", a, np.where(j == 0, 3, 9).astype(U)) == a[(j + 3) % 16]).all()
    amounts = (np.arange(16, dtype=U) * 7) & 3
    expected = [a[4 * (i // 4) + (i % 4 + amounts[4 * (i // 4)]) % 4] for i in range(16)]
    assert list(run("rotq", a, amounts)) == expected
    index = random()
    assert (run("shuffle", a, index) == a[index & 15]).all()
    assert (run("bcastf", a) == 100).all()
    values = np.where(j % 3 == 0, 0, 7).astype(U)
    assert (run("ballot", values) == sum(1 << i for i in range(16) if i % 3)).all()
    assert (run("alleq", lanes(5)) == 1).all()
    assert (run("alleq", a) == 0).all()
    assert (run("allfeq", floats(0.0, -0.0)) == 1).all()
    assert (run("alleq", floats(0.0, -0.0)) == 0).all()
    assert list(run("fdx", floats(*range(16))).view(np.float32)) == [1.0] * 16
    assert list(run("fdy", floats(*[x * x for x in range(16)])).view(np.float32)[:4]) == [4.0, 8.0, 4.0, 8.0]


def test_flag_operations() -> None:
    flags = lanes(0, 1, 2, 3)
    assert list(run("vfla", flags)[:4]) == [0, 1, 0x10000, 0x10001]
    assert list(run("vflna", flags)[:4]) == [0x10001, 0x10000, 1, 0]
    assert list(run("flapush", lanes(5), flags)[:4]) == [20, 21, 22, 23]
    result, popped = run("flpop", lanes(23))
    assert (result[0], popped[0]) == (5, 3)
    late = np.zeros(16, U)
    late[6:] = 3
    assert list(np.flatnonzero(run("flafirst", late))) == [6]
    assert list(np.flatnonzero(run("flnafirst", late))) == [0]
    assert not run("flafirst", lanes(0)).any()


def test_sine_is_limited() -> None:
    got = run("sin", floats(0.5, 0.75, -3.0, 0.0)).view(np.float32)
    assert list(got[:4]) == [1.0, 1.0, -1.0, 0.0]


def half(x: float) -> int:
    return int(struct.unpack("<H", struct.pack("<e", x))[0])


def test_modifiers() -> None:
    value = lanes(half(-1.5) << 16 | half(0.25))
    as_float = {"l": 0.25, "h": -1.5}
    for name, expected in as_float.items():
        assert UNPACK[name](V, value).view(np.float32)[0] == expected
    raw = lanes(0x8001_7FFF)
    got = {name: int(UNPACK[name](V, raw)[0]) for name in ("ll", "hh", "swp", "ul", "uh", "il", "ih")}
    assert got == {
        "ll": 0x7FFF7FFF,
        "hh": 0x80018001,
        "swp": 0x7FFF8001,
        "ul": 0x7FFF,
        "uh": 0x8001,
        "il": 0x7FFF,
        "ih": 0xFFFF8001,
    }
    assert UNPACK["ff"](V, floats(-1.5))[0] == half(-1.5) * 0x10001
    assert UNPACK["abs"](V, floats(-0.0))[0] == 0
    for name, lo, hi in (("sat", 0.0, 1.0), ("nsat", -1.0, 1.0), ("max0", 0.0, 9.0)):
        got_f = UNPACK[name](V, floats(-3.0, 0.5, 9.0)).view(np.float32)[:3]
        assert list(got_f) == [lo, 0.5, hi]
    old = lanes(0x11112222)
    assert PACK["l"](V, old, floats(1.0))[0] == 0x11113C00
    assert PACK["h"](V, old, floats(1.0))[0] == 0x3C002222


def test_normalised_integers() -> None:
    assert list(run("ftounorm16", floats(1.0, -1.0, 0.5, 7.0))[:4]) == [65535, 0, 32768, 65535]
    assert list(run("ftosnorm16", floats(1.0, -1.0, 0.0))[:3]) == [32767, 0x8001, 0]
    pair = lanes(half(1.0) << 16 | half(0.0))
    assert run("vftounorm8", pair)[0] == 255 << 16
    assert run("vftounorm10lo", pair)[0] == 1023 << 16
    assert run("vftounorm10hi", pair)[0] == 3 << 16
    for name, raw, expected in (("funpackunormlo", 65535, 1.0), ("funpacksnormhi", 0x80000000, -1.0)):
        assert run(name, lanes(raw)).view(np.float32)[0] == pytest.approx(expected, rel=1e-6)
