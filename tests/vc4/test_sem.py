"""Tests of operations, pack modes and SFU functions against independent models in Python integers and fractions."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qpu.core.isa import Isa, Unit
from qpu.emu.engine.numpy_lanes import NumpyLanes, quiet
from qpu.vc4 import pack, sem
from qpu.vc4.ops import ADD_OPS, MUL_OPS, SFU, TABLE, float_operands, float_result, is_move, saturated

V = NumpyLanes()
M32 = 0xFFFFFFFF
U32 = st.integers(0, M32)
SPECIAL = [0, 0x80000000, 1, 0x807FFFFF, 0x00800000, 0x3F800000, 0xBF800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000,
           0xFF800000, 0x7FC00000, 0xFFC00001, 0x4F000000, 0xCF000000, 0x4EFFFFFF, 0x7FFFFFFF, M32]  # fmt: skip
FLOATS = st.one_of(
    U32, st.sampled_from(SPECIAL), st.integers(0x3F000000, 0x41000000), st.integers(0xBF000000, 0xC1000000)
)


def run(fn: Callable[..., object], *args: int) -> int:
    with quiet():
        out = fn(V, *(V.const(a) for a in args))
    lanes = np.broadcast_to(np.asarray(out), 16)
    assert (lanes == lanes[0]).all() or (lanes != lanes).all()
    return int(lanes[0])


def apply(name: str, a: int, b: int) -> tuple[int, bool]:
    """Result and carry of an operation."""
    op = TABLE[name]
    assert op.sem is not None
    result = run(op.sem, a, b)
    carry = False
    if op.carry is not None:
        carry = bool(run(op.carry, a, b, result))
    return result, carry


def s(x: int) -> int:
    return x - (x >> 31 << 32)


def f(x: int) -> float:
    return float(struct.unpack("<f", x.to_bytes(4, "little"))[0])


def p(x: float) -> int:
    return int.from_bytes(struct.pack("<f", x), "little")


def is_nan(x: int) -> bool:
    return x & 0x7FFFFFFF > 0x7F800000


def is_inf(x: int) -> bool:
    return x & 0x7FFFFFFF == 0x7F800000


def flush(x: int) -> int:
    return x if x & 0x7F800000 else 0


def round_to(value: Fraction, mode: str) -> int:
    """The binary32 pattern of an exact value; denormals become 0."""
    if value == 0:
        return 0
    sign = 0x80000000 if value < 0 else 0
    value = abs(value)
    e = value.numerator.bit_length() - value.denominator.bit_length()
    if Fraction(2) ** e > value:
        e -= 1
    scaled = value / Fraction(2) ** (e - 23)
    m = int(scaled)
    if mode == "nearest":
        rest = scaled - m
        if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and m & 1):
            m += 1
    if m == 1 << 24:
        m, e = m >> 1, e + 1
    if e < -126:
        return 0 if mode == "zero" or value < Fraction(2) ** -126 - Fraction(2) ** -150 else sign | 0x00800000
    if e > 127:
        return sign | (0x7F7FFFFF if mode == "zero" else 0x7F800000)
    return sign | (e + 127) << 23 | m & 0x7FFFFF


def model_fadd(a: int, b: int) -> int:
    if is_nan(b):
        return b & 0x80000000 | 0x7F800000
    if is_nan(a):
        return a & 0x80000000 | 0x7F800000
    if is_inf(a):
        return a
    if is_inf(b):
        return b
    return round_to(Fraction(f(flush(a))) + Fraction(f(flush(b))), "zero")


def model_fmul(a: int, b: int) -> int:
    if not flush(a) or not flush(b):
        return 0
    if a & 0x7FFFFFFF >= 0x7F800000 or b & 0x7FFFFFFF >= 0x7F800000:
        return (a ^ b) & 0x80000000 | 0x7F800000
    return round_to(Fraction(f(a)) * Fraction(f(b)), "nearest")


def unknown_sum(a: int, b: int) -> bool:
    """Inf + -Inf: no result is recorded."""
    return is_inf(a) and is_inf(b) and a != b


@given(FLOATS, FLOATS)
@example(0x3F800000, 0xB3000000)
@example(0x3F800001, 0xBF800000)
@example(0x7F7FFFFF, 0x7F7FFFFF)
@example(0x00800001, 0x80800000)
def test_fadd_and_fsub(a: int, b: int) -> None:
    if not unknown_sum(a, b):
        result, carry = apply("fadd", a, b)
        assert result == model_fadd(a, b)
        assert carry == (0 < result < 0x80000000)
    if not unknown_sum(a, b ^ 0x80000000):
        assert apply("fsub", a, b)[0] == model_fadd(a, b ^ 0x80000000)


@given(FLOATS, FLOATS)
@example(0, 0x7F800000)
@example(0x00000001, 0x7FC00000)
@example(0x00800000, 0x3F7FFFFF)
@example(0x3F800001, 0x3F800001)
def test_fmul(a: int, b: int) -> None:
    assert apply("fmul", a, b) == (model_fmul(a, b), False)


def order(x: int) -> int:
    return -(x & 0x7FFFFFFF) if x >> 31 else x


@given(FLOATS, FLOATS)
@example(0x7FC00000, 0x7F800000)
@example(0xFFC00000, 0xFF800000)
def test_float_minimum_and_maximum(a: int, b: int) -> None:
    low, high = (a, b) if order(a) <= order(b) else (b, a)
    if order(a) != order(b):
        assert apply("fmin", a, b) == (low, order(a) > order(b))
        assert apply("fmax", a, b) == (high, order(a) > order(b))
    x, y = a & 0x7FFFFFFF, b & 0x7FFFFFFF
    assert apply("fminabs", a, b) == (min(x, y), x > y)
    assert apply("fmaxabs", a, b) == (max(x, y), x > y)


def test_fmax_of_zeros_gives_the_second() -> None:
    assert apply("fmax", 0, 0x80000000)[0] == 0x80000000
    assert apply("fmax", 0x80000000, 0)[0] == 0


@given(FLOATS)
def test_ftoi(a: int) -> None:
    if a & 0x7FFFFFFF == 0x7F7FFFFF:
        return  # one unusual measurement, which is not asserted
    x = f(a)
    want = 0 if math.isnan(x) or abs(x) >= 2**31 else int(x) & M32
    assert apply("ftoi", a, 0) == (want, False)


@given(U32)
def test_itof_truncates(a: int) -> None:
    assert apply("itof", a, 0)[0] == round_to(Fraction(s(a)), "zero")


@given(U32, U32)
@example(M32, 1)
@example(0x7FFFFFFF, 1)
@example(0, 1)
def test_integers(a: int, b: int) -> None:
    assert apply("add", a, b) == (a + b & M32, a + b > M32)
    assert apply("sub", a, b) == (a - b & M32, a < b)
    assert apply("min", a, b) == (min(s(a), s(b)) & M32, s(a) > s(b))
    assert apply("max", a, b) == (max(s(a), s(b)) & M32, s(a) > s(b))
    assert apply("and", a, b) == (a & b, False)
    assert apply("or", a, b) == (a | b, False)
    assert apply("xor", a, b) == (a ^ b, False)
    assert apply("not", a, b) == (~a & M32, False)
    assert apply("clz", a, b) == (32 - a.bit_length(), False)
    assert apply("mul24", a, b)[0] == (a & 0xFFFFFF) * (b & 0xFFFFFF) & M32


@given(U32, U32)
@example(0x80000001, 0)
@example(0x80000001, 32)
@example(0x80000001, 31)
def test_shifts(a: int, b: int) -> None:
    n = b & 31
    right = bool(n and a >> n - 1 & 1)
    assert apply("shr", a, b) == (a >> n, right)
    assert apply("asr", a, b) == (s(a) >> n & M32, right)
    assert apply("shl", a, b) == (a << n & M32, bool(n and a >> 32 - n & 1))
    assert apply("ror", a, b) == ((a >> n | a << 32 - n) & M32, False)


def bytewise(fn: Callable[[int, int], int], a: int, b: int) -> int:
    return sum(fn(a >> n & 255, b >> n & 255) << n for n in (0, 8, 16, 24))


@given(U32, U32)
@example(M32, M32)
@example(0, M32)
@example(0x80FF0001, 0xFF800100)
def test_bytes(a: int, b: int) -> None:
    assert apply("v8adds", a, b) == (bytewise(lambda x, y: min(x + y, 255), a, b), False)
    assert apply("v8subs", a, b) == (bytewise(lambda x, y: max(x - y, 0), a, b), False)
    assert apply("v8min", a, b) == (bytewise(min, a, b), False)
    assert apply("v8max", a, b) == (bytewise(max, a, b), False)
    got = apply("v8muld", a, b)[0]
    for n in (0, 8, 16, 24):  # hardware was checked to +-1
        assert abs((got >> n & 255) - (a >> n & 255) * (b >> n & 255) / 255) <= 1


@given(U32)
def test_moves(a: int) -> None:
    for op in TABLE:
        if is_move(op):
            assert apply(op.name, a, a)[0] == a, op.name


@given(U32, U32)
@example(0x7FFFFFFF, 1)
@example(0x80000000, M32)
@example(0x80000000, 0x80000000)
def test_saturation_of_a_sum(a: int, b: int) -> None:
    op = TABLE["add"]
    got = run(lambda v, x, y: saturated(v, op, x, y, v.add(x, y)), a, b)
    assert got == max(-(1 << 31), min(s(a) + s(b), (1 << 31) - 1)) & M32
    op = TABLE["or"]
    assert run(lambda v, x, y: saturated(v, op, x, y, v.or_(x, y)), a, b) == a | b


# -- rows


def test_every_operation_has_its_code() -> None:
    """Opcodes of the guide, written out independently."""
    add = {
        0: "nop", 1: "fadd", 2: "fsub", 3: "fmin", 4: "fmax", 5: "fminabs", 6: "fmaxabs", 7: "ftoi", 8: "itof",
        12: "add", 13: "sub", 14: "shr", 15: "asr", 16: "ror", 17: "shl", 18: "min", 19: "max", 20: "and",
        21: "or", 22: "xor", 23: "not", 24: "clz", 30: "v8adds", 31: "v8subs",
    }  # fmt: skip
    mul = ["nop", "fmul", "mul24", "v8muld", "v8min", "v8max", "v8adds", "v8subs"]
    assert {n: op.name for n, op in enumerate(ADD_OPS) if op} == add
    assert [op.name for op in MUL_OPS if op] == mul
    assert TABLE["v8adds"].units_on(Isa.VC4) == {Unit.ADD, Unit.MUL}
    for op in TABLE:
        assert op.doc
        assert op.source
        assert (op.sem is None) == (op.name == "nop")


def test_float_operations() -> None:
    floats = {"fadd", "fsub", "fmin", "fmax", "fminabs", "fmaxabs", "fmul"}
    assert {op.name for op in TABLE if float_operands(op)} == floats | {"ftoi"}
    assert {op.name for op in TABLE if float_result(op)} == floats | {"itof"}


# -- packing


def unpacked(name: str, x: int, *, as_float: bool) -> int:
    row = pack.unpack_mode(name)
    assert row is not None
    return run(row.as_float if as_float else row.as_int, x)


@given(U32)
def test_unpack_integers(x: int) -> None:
    for n, name in enumerate(("8a", "8b", "8c", "8d")):
        assert unpacked(name, x, as_float=False) == x >> 8 * n & 255
    for n, name in enumerate(("16a", "16b")):
        half = x >> 16 * n & 0xFFFF
        assert s(unpacked(name, x, as_float=False)) == half - (half >> 15 << 16)
    assert unpacked("8dr", x, as_float=False) == (x >> 24) * 0x01010101 == unpacked("8dr", x, as_float=True)
    assert unpacked("32", x, as_float=True) == x


@given(st.integers(0, 0xFFFF))
@example(0x7C00)
@example(0xFC01)
@example(0x0001)
@example(0x8000)
def test_unpack_halves(h: int) -> None:
    got = unpacked("16a", h, as_float=True)
    assert unpacked("16b", h << 16 | 0x1234, as_float=True) == got
    exponent = h >> 10 & 31
    if exponent == 31:
        assert got == (h >> 15) << 31 | 0x7F800000 | (h & 1023) << 13
    elif exponent:
        assert f(got) == float(np.array([h], np.uint16).view(np.float16)[0])
    else:
        assert flush(got) == 0
        assert got & 0x7FFFFF == (h & 1023) << 13


def test_unpack_bytes_to_floats() -> None:
    for n in range(256):
        got = f(unpacked("8b", n << 8, as_float=True))
        assert abs(got - n / 255) <= 2.0**-24  # the last bit is not known
    assert unpacked("8a", 255, as_float=True) == 0x3F800000
    assert unpacked("8a", 0, as_float=True) == 0


def packed(name: str, old: int, x: int, *, is_float: bool = False) -> int:
    row = pack.pack_a(name)
    assert row is not None
    return run(lambda v, o, y: row.sem(v, o, y, is_float), old, x)


@given(U32, U32)
@example(0x11223344, 0xFFFFFFFF)
@example(0x11223344, 0x80000000)
@example(0x11223344, 0x7FFFFFFF)
@example(0x11223344, 256)
def test_pack_integers(old: int, x: int) -> None:
    byte = max(0, min(s(x), 255))
    half = max(-32768, min(s(x), 32767)) & 0xFFFF
    for n, name in enumerate("abcd"):
        keep = old & ~(255 << 8 * n)
        assert packed(f"8{name}", old, x) == keep | (x & 255) << 8 * n
        assert packed(f"8{name}s", old, x) == keep | byte << 8 * n
    assert packed("8888", old, x) == (x & 255) * 0x01010101
    assert packed("8888s", old, x) == byte * 0x01010101
    assert packed("16a", old, x) == old & 0xFFFF0000 | x & 0xFFFF
    assert packed("16b", old, x) == old & 0xFFFF | (x & 0xFFFF) << 16
    assert packed("16as", old, x) == old & 0xFFFF0000 | half
    assert packed("16bs", old, x) == old & 0xFFFF | half << 16
    assert packed("32", old, x) == packed("32s", old, x) == x


@given(st.floats(-60000, 60000, width=32).filter(lambda x: abs(x) >= 2.0**-14))
def test_pack_halves_are_close(x: float) -> None:
    """Rounding is not known; neighbours are accepted."""
    for name in ("16a", "16as"):
        got = packed(name, 0xABCD0000, p(x), is_float=True)
        assert got >> 16 == 0xABCD
        half = float(np.array([got & 0xFFFF], np.uint16).view(np.float16)[0])
        assert abs(half - x) <= abs(x) * 2.0**-10


def test_pack_halves_exactly_where_exact() -> None:
    for h in range(0x0400, 0x7C00):
        x = p(float(np.array([h], np.uint16).view(np.float16)[0]))
        assert packed("16b", 0, x, is_float=True) == h << 16
    assert packed("16a", 0, p(1e6), is_float=True) == 0x7C00
    assert packed("16a", 0, p(-1e6), is_float=True) == 0xFC00
    assert packed("16a", 0, 0, is_float=True) == 0


@given(U32, st.floats(-2, 3, width=32))
def test_pack_colours(old: int, x: float) -> None:
    want = max(0.0, min(x * 255, 255.0))
    for n, name in enumerate("abcd"):
        row = pack.pack_mul(f"8{name}sf")
        assert row is not None
        got = run(lambda v, o, y, row=row: row.sem(v, o, y, True), old, p(x))
        assert got & ~(255 << 8 * n) == old & ~(255 << 8 * n)
        assert abs((got >> 8 * n & 255) - want) <= 1
        assert row.lanes == 255 << 8 * n
    row = pack.pack_mul("8888sf")
    assert row is not None
    got = run(lambda v, o, y: row.sem(v, o, y, True), old, p(x))
    assert got % 0x01010101 == 0


@given(U32, U32)
def test_packs_keep_what_they_do_not_write(old: int, x: int) -> None:
    for row in pack.PACK_A:
        for is_float in (False, True):
            got = run(lambda v, o, y, row=row, is_float=is_float: row.sem(v, o, y, is_float), old, x)
            assert got & ~row.lanes == old & ~row.lanes & M32


def test_pack_rows_are_in_their_places() -> None:
    assert [row.code for row in pack.PACK_A] == list(range(16))
    assert [row.code for row in pack.UNPACK] == list(range(8))
    assert all(code == row.code for code, row in pack.PACK_MUL.items())
    assert sorted(pack.PACK_MUL) == [0, 3, 4, 5, 6, 7]


# -- SFU, rotation, immediates, conditions


@given(st.floats(2.0**-100, 2.0**100, width=32), st.booleans())
def test_special_functions(x: float, negative: bool) -> None:
    a = p(-x if negative else x)
    assert f(run(SFU[52].sem, a)) == pytest.approx(1 / f(a), rel=1e-4)
    assert f(run(SFU[53].sem, a)) == pytest.approx(1 / math.sqrt(x), rel=1e-3)
    assert f(run(SFU[55].sem, a)) == pytest.approx(math.log2(x), rel=1e-2, abs=1e-4)


def test_special_functions_at_the_edges() -> None:
    assert run(SFU[52].sem, 0) == 0x7F800000
    assert run(SFU[53].sem, 0) == 0x7F800000
    assert run(SFU[55].sem, 0) == 0xFF800000
    assert run(SFU[54].sem, p(200.0)) == 0x7F800000
    assert run(SFU[54].sem, p(-200.0)) == 0
    assert f(run(SFU[54].sem, p(3.0))) == 8.0


@pytest.mark.parametrize("n", range(16))
def test_rotations(n: int) -> None:
    lanes = np.arange(100, 116, dtype=np.uint32)
    full = sem.rotate_full(V, lanes, V.const(n))
    assert [int(full[(i + n) % 16]) for i in range(16)] == list(range(100, 116))
    quads = sem.rotate_in_quads(V, lanes, V.const(n))
    for q in range(4):
        assert [int(quads[4 * q + (e + n) % 4]) for e in range(4)] == list(range(100 + 4 * q, 104 + 4 * q))


def test_load_immediates() -> None:
    def lanes(mode: int, imm: int) -> list[int]:
        return [s(int(x)) for x in np.broadcast_to(sem.load_immediate(V, mode, imm), 16)]

    assert lanes(0, 0x12345678) == [0x12345678] * 16
    assert lanes(3, 0xCCCCAAAA) == [0, 1, 2, 3] * 4
    assert lanes(1, 0x3333AAAA) == [-2, -1, 0, 1] * 4
    with pytest.raises(ValueError, match="reserved"):
        sem.load_immediate(V, 2, 0)


def test_conditions() -> None:
    z, n, c = (np.array([bool(i >> k & 1) for i in range(16)]) for k in range(3))
    found = [list(np.broadcast_to(sem.condition(V, code, z, n, c), 16)) for code in range(8)]
    assert found[0] == [False] * 16
    assert found[1] == [True] * 16
    for k, flag in enumerate((z, n, c)):
        assert found[2 + 2 * k] == list(flag)
        assert found[3 + 2 * k] == list(~flag)
