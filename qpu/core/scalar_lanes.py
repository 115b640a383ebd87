"""`LaneOps` on plain Python integers, one lane at a time and without NumPy, for constants and tests.

Constant folding and the text assembler's constants evaluate the semantics of operation rows with it; the tests use it
as a third, exact implementation beside NumPy and LLVM. A vector is one 32-bit pattern, a mask one bool. For primitives
that look across lanes all lanes are equal.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Final, TypeAlias

__all__ = ["ScalarLanes", "float_bits", "float_of"]

_MASK: Final = 0xFFFFFFFF
_SIGN: Final = 0x80000000
_INF: Final = 0x7F800000
_NAN: Final = 0x7FC00000
_FLT_MAX: Final = 0x7F7FFFFF


def float_of(bits: int) -> float:
    """The value of a binary32 pattern."""
    value: float = struct.unpack("<f", struct.pack("<I", bits & _MASK))[0]
    return value


def float_bits(value: float) -> int:
    """The binary32 pattern of a value: nearest even, infinity beyond the range."""
    try:
        bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    except OverflowError:
        return _INF | (_SIGN if value < 0 else 0)
    return bits


def _signed(a: int) -> int:
    return a - (1 << 32) if a & _SIGN else a


def _toward_zero(exact: Fraction) -> int:
    """The pattern of an exact value, rounded toward zero; beyond the range the largest finite value."""
    sign = _SIGN if exact < 0 else 0
    size = abs(exact)
    if size == 0:
        return 0
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    exponent = max(exponent, -126)
    mantissa = int(size / Fraction(2) ** (exponent - 23))  # below 2**24; below 2**23 it is a denormal
    if exponent > 127:
        return sign | _FLT_MAX
    return sign | (mantissa if mantissa < 1 << 23 else (exponent + 127) << 23 | mantissa & 0x7FFFFF)


def _integral(rule: Callable[[float], float]) -> _Float:
    def function(a: int) -> int:
        x = float_of(a)
        return float_bits(math.copysign(float(rule(x)), x)) if math.isfinite(x) else a

    return staticmethod(function)


_Float: TypeAlias = "staticmethod[[int], int]"


class ScalarLanes:
    """The implementation of `qpu.core.lanes.LaneOps` for one lane, except for special functions.

    Special functions are not folded: the last bits of the hardware's results are not published.
    """

    __slots__ = ()

    and_ = staticmethod(operator.and_)
    or_ = staticmethod(operator.or_)
    xor = staticmethod(operator.xor)
    shr = staticmethod(operator.rshift)
    udiv = staticmethod(operator.floordiv)
    eq = staticmethod(operator.eq)
    ult = staticmethod(operator.lt)
    mand = staticmethod(operator.and_)
    mor = staticmethod(operator.or_)
    mnot = staticmethod(operator.not_)
    ffloor = _integral(math.floor)
    fceil = _integral(math.ceil)
    ftrunc = _integral(math.trunc)
    fround = _integral(round)

    def const(self, value: int) -> int:
        return value & _MASK

    def lane_id(self) -> int:
        return 0

    def permute(self, a: int, index: int) -> int:
        return a

    def mover(self, order: Sequence[int]) -> Callable[[int], int]:
        return lambda a: a

    # -- integers

    def add(self, a: int, b: int) -> int:
        return (a + b) & _MASK

    def sub(self, a: int, b: int) -> int:
        return (a - b) & _MASK

    def mul(self, a: int, b: int) -> int:
        return a * b & _MASK

    def umulh(self, a: int, b: int) -> int:
        return a * b >> 32

    def not_(self, a: int) -> int:
        return a ^ _MASK

    def shl(self, a: int, n: int) -> int:
        return a << n & _MASK

    def asr(self, a: int, n: int) -> int:
        return _signed(a) >> n & _MASK

    def clz(self, a: int) -> int:
        return 32 - a.bit_length()

    # -- comparisons and masks

    def slt(self, a: int, b: int) -> bool:
        return _signed(a) < _signed(b)

    def feq(self, a: int, b: int) -> bool:
        return float_of(a) == float_of(b)

    def flt(self, a: int, b: int) -> bool:
        return float_of(a) < float_of(b)

    def fle(self, a: int, b: int) -> bool:
        return float_of(a) <= float_of(b)

    def select(self, m: bool, a: int, b: int) -> int:
        return a if m else b

    def mconst(self, value: bool) -> bool:
        return value

    def first(self, m: bool) -> int:
        return 0 if m else 16

    # -- binary32: a binary64 sum or product of two binary32 values rounds once more to the same result

    def fadd(self, a: int, b: int) -> int:
        return float_bits(float_of(a) + float_of(b))

    def fsub(self, a: int, b: int) -> int:
        return float_bits(float_of(a) - float_of(b))

    def fmul(self, a: int, b: int) -> int:
        return float_bits(float_of(a) * float_of(b))

    def fadd_rz(self, a: int, b: int) -> int:
        x, y = float_of(a), float_of(b)
        if not (math.isfinite(x) and math.isfinite(y)):
            return float_bits(x + y)
        if x == y == 0.0:
            return a & b  # -0 only of two negative zeros
        return _toward_zero(Fraction(x) + Fraction(y))

    # -- conversions

    def itof(self, a: int) -> int:
        return float_bits(float(_signed(a)))

    def utof(self, a: int) -> int:
        return float_bits(float(a))

    def itof_rz(self, a: int) -> int:
        return _toward_zero(Fraction(_signed(a)))

    def ftoi(self, a: int) -> int:
        x = float_of(a)
        if x != x:
            return 0
        return int(min(max(x, -(2.0**31)), 2.0**31 - 1)) & _MASK

    def ftou(self, a: int) -> int:
        x = float_of(a)
        if x != x:
            return 0
        return int(min(max(x, 0.0), 2.0**32 - 1))

    def h2f(self, a: int) -> int:
        half: float = struct.unpack("<e", struct.pack("<H", a & 0xFFFF))[0]
        return float_bits(half) if half == half else _NAN | (a & 0x8000) << 16

    def f2h(self, a: int) -> int:
        x = float_of(a)
        try:
            bits: int = struct.unpack("<H", struct.pack("<e", x))[0]
        except OverflowError:
            return 0x7C00 | (0x8000 if x < 0 else 0)
        return bits
