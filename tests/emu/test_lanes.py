"""Tests of NumpyLanes against exact arithmetic in Python."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpu.emu.engine.numpy_lanes import NumpyLanes, quiet

V = NumpyLanes()
words = st.integers(0, 2**32 - 1)
EDGES = [
    0,
    1,
    0x80000000,
    0x7FFFFFFF,
    0x007FFFFF,
    0x00800000,
    0x3F800000,
    0xBF800000,
    0x7F7FFFFF,
    0xFF7FFFFF,
    0x33800000,
]
patterns = st.one_of(words, st.sampled_from(EDGES))


def vec(x: int) -> np.ndarray:
    return np.full((1, 16), x, np.uint32)


def f(x: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", x))[0])


def bits(x: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", x))[0])


def finite(x: int) -> bool:
    return (x >> 23) & 255 != 255


def to_zero(exact: Fraction) -> int:
    """The binary32 pattern of `exact` rounded toward zero, by search over patterns."""
    size = abs(exact)
    low, high = 0, 0x7F7FFFFF
    while low < high:
        middle = (low + high + 1) // 2
        if Fraction(f(middle)) <= size:
            low = middle
        else:
            high = middle - 1
    return low | (0x80000000 if exact < 0 else 0)


@given(patterns.filter(finite), patterns.filter(finite))
def test_fadd_rz_is_the_exact_sum_truncated(a: int, b: int) -> None:
    exact = Fraction(f(a)) + Fraction(f(b))
    with quiet():
        got = int(V.fadd_rz(vec(a), vec(b))[0, 5])
    if exact == 0:
        assert got & 0x7FFFFFFF == 0
    else:
        assert got == to_zero(exact)


@given(words)
def test_fadd_rz_beyond_binary64(a: int) -> None:
    big, tiny = bits(1.0), bits(-(2.0**-100))
    with quiet():
        assert int(V.fadd_rz(vec(big), vec(tiny))[0, 0]) == big - 1
        assert int(V.fadd_rz(vec(big), vec(bits(2.0**-100)))[0, 0]) == big
        assert int(V.fadd_rz(vec(0x7F7FFFFF), vec(0x7F7FFFFF))[0, 0]) == 0x7F7FFFFF
        assert int(V.fadd_rz(vec(0x7F800000), vec(bits(1.0)))[0, 0]) == 0x7F800000


@given(words)
def test_itof_rz(a: int) -> None:
    signed = a - (1 << 32) if a >> 31 else a
    got = int(V.itof_rz(vec(a))[0, 3])
    assert got == (to_zero(Fraction(signed)) if signed else 0)


@given(words, st.integers(0, 31))
def test_shifts(a: int, n: int) -> None:
    signed = a - (1 << 32) if a >> 31 else a
    assert int(V.shl(vec(a), vec(n))[0, 0]) == (a << n) & 0xFFFFFFFF
    assert int(V.shr(vec(a), vec(n))[0, 0]) == a >> n
    assert int(V.asr(vec(a), vec(n))[0, 0]) == (signed >> n) & 0xFFFFFFFF


@given(words, words)
def test_integers(a: int, b: int) -> None:
    assert int(V.add(vec(a), vec(b))[0, 0]) == (a + b) & 0xFFFFFFFF
    assert int(V.sub(vec(a), vec(b))[0, 0]) == (a - b) & 0xFFFFFFFF
    assert int(V.mul(vec(a), vec(b))[0, 0]) == (a * b) & 0xFFFFFFFF
    assert int(V.umulh(vec(a), vec(b))[0, 0]) == (a * b) >> 32
    assert int(V.clz(vec(a))[0, 0]) == 32 - a.bit_length()
    assert int(V.udiv(vec(a), 255)[0, 0]) == a // 255


@pytest.mark.parametrize(
    ("value", "signed", "unsigned"),
    [
        (0.0, 0, 0),
        (-0.0, 0, 0),
        (1.9, 1, 1),
        (-1.9, -1, 0),
        (2.0**31, 2**31 - 1, 2**31),
        (-(2.0**31), -(2**31), 0),
        (2.0**32, 2**31 - 1, 2**32 - 1),
        (math.inf, 2**31 - 1, 2**32 - 1),
        (-math.inf, -(2**31), 0),
        (math.nan, 0, 0),
    ],
)
def test_float_to_integer_saturates(value: float, signed: int, unsigned: int) -> None:
    with quiet():
        assert int(V.ftoi(vec(bits(value)))[0, 0]) == signed & 0xFFFFFFFF
        assert int(V.ftou(vec(bits(value)))[0, 0]) == unsigned


@given(st.integers(0, 0xFFFF))
def test_half_round_trip(h: int) -> None:
    wide = V.h2f(vec(h | 0xABCD0000))
    with quiet():
        back = int(V.f2h(wide)[0, 0])
    if (h & 0x7C00) == 0x7C00 and h & 0x3FF:
        assert (back & 0x7C00) == 0x7C00 and back & 0x3FF
    else:
        assert back == h
        assert f(int(wide[0, 0])) == struct.unpack("<e", struct.pack("<H", h))[0]


@given(st.lists(words, min_size=16, max_size=16), st.lists(words, min_size=16, max_size=16))
def test_permute(a: list[int], index: list[int]) -> None:
    got = V.permute(np.array([a], np.uint32), np.array([index], np.uint32))[0]
    assert got.tolist() == [a[i & 15] for i in index]
    assert V.permute(np.array([a], np.uint32), V.const(3)).tolist() == [[a[3]] * 16]


@given(patterns)
def test_special_functions_are_rounded_once(a: int) -> None:
    x = f(a)
    with quiet():
        got = {n: f(int(getattr(V, n)(vec(a))[0, 7])) for n in ("recip", "rsqrt", "exp2", "log2", "sinpi")}
    if math.isnan(x):
        assert all(math.isnan(v) for v in got.values())
        return
    with quiet():
        d = np.float64(x)
        want = {
            "recip": float(np.float32(1.0 / d)) if x else math.copysign(math.inf, x),
            "rsqrt": float(np.float32(1.0 / np.sqrt(d))),
            "exp2": float(np.float32(np.exp2(d))),
            "log2": float(np.float32(np.log2(d))),
            "sinpi": math.nan if math.isinf(x) else float(np.float32(math.sin(math.pi * math.remainder(x, 2.0)))),
        }
    for name, value in want.items():
        if math.isnan(value):
            assert math.isnan(got[name]), name
        elif math.isinf(value) or value == 0:
            assert got[name] == value or abs(got[name]) < 1e-7, name
        else:
            assert abs(got[name] - value) <= 2**-23 * abs(value) + 1e-15, (name, x, got[name], value)
