"""Trigonometric functions and their inverses, as KIR: reduction by multiples of a quarter turn, and polynomials."""

from __future__ import annotations

from typing import Final

from qpu.lang.kir import Value
from qpu.lang.math_kit import INFINITY, Kit
from qpu.lang.math_roots import divide, reciprocal, root

__all__ = ["acos", "asin", "atan", "atan2", "cos", "sin", "tan"]

HALF_PI, PI = 1.5707963705062866, 3.1415927410125732
TWO_OVER_PI: Final = 0.6366197723675814
QUARTER: Final = (1.5703125, 0.00048351287841796875, 3.1391647326017846e-07)
"""pi / 2 in parts of 9 bits and a last one of 24: products with 15-bit integers are exact."""
QUARTER_LONG: Final = (1.5703125, 0.00048351287841796875, 3.1385570764541626e-07, 6.070877134334296e-11,
                       6.217248937900877e-14, 6.123234262925839e-17)  # fmt: skip
LARGEST: Final = 2.0**22
"""Beyond, an argument says nothing about the angle: NaN, on VideoCore IV 0."""

# sin(r) / r - 1 over r**2, and cos(r) - 1 + r**2 / 2 over r**4, in r**2 for abs(r) <= pi / 4
_SIN: Final = (-0.1666666716337204, 0.008333378471434116, -0.00019852464902214706, 2.8243500764801865e-06)
_COS: Final = (0.04166664555668831, -0.0013887288514524698, 2.4428209144389257e-05)
# (tan(r) - r) / r**3 in r**2 for abs(r) <= pi / 4
_TAN: Final = (0.3333335518836975, 0.13332462310791016, 0.054083701223134995, 0.021155649796128273,
               0.011171173304319382, -0.000342960876878351, 0.004592529032379389)  # fmt: skip
# (asin(x) - x) / x**3 in x**2 for abs(x) <= 1/2
_ASIN: Final = (0.16666752099990845, 0.07495306432247162, 0.045469772070646286, 0.02418077364563942,
                0.04216641187667847)  # fmt: skip
# (atan(x) - x) / x**3 in x**2 for abs(x) <= 1
_ATAN: Final = (-0.33333298563957214, 0.1999852955341339, -0.14264015853405, 0.10950880497694016,
                -0.08399306237697601, 0.05788138881325722, -0.031096987426280975, 0.01086869090795517,
                -0.0017828245181590319)  # fmt: skip


def _reduced(m: Kit, x: Value, parts: tuple[float, ...]) -> tuple[Value, Value]:
    """n and r with x = n * pi / 2 + r, abs(r) <= pi / 4."""
    whole, n = m.nearest(m.mul(x, m.number(TWO_OVER_PI)))
    r = x
    for part in parts:
        r = m.sub(r, m.mul(whole, m.number(part)))
    inside = m.less(m.abs(x), m.number(LARGEST))
    return n, m.select(inside, r, m.number(0.0) if m.vc4 else m.pattern(0x7FC00000))


def _wave(m: Kit, x: Value, quarters: int) -> Value:
    q = m.q
    n, r = _reduced(m, x, QUARTER)
    if quarters:
        n = q.emit("add", n, m.i(quarters))
    z = m.mul(r, r)
    sine = m.mul(r, m.add(m.number(1.0), m.mul(z, m.horner(z, _SIN))))
    cosine = m.sub(m.number(1.0), m.mul(z, m.number(0.5)))
    cosine = m.add(cosine, m.mul(m.mul(z, z), m.horner(z, _COS)))
    even = m.equal(q.emit("and", n, m.i(1)), m.i(0))
    value = m.select(even, sine, cosine)
    sign = q.emit("shl", q.emit("and", m.bits(n), m.u(2)), m.u(30))
    return m.as_float(q.emit("xor", m.bits(value), sign))


def sin(m: Kit, x: Value) -> Value:
    """The sine."""
    return _wave(m, x, 0)


def cos(m: Kit, x: Value) -> Value:
    """The cosine."""
    return _wave(m, x, 1)


def tan(m: Kit, x: Value) -> Value:
    """The tangent; in odd quarters -1 / tan of the rest."""
    q = m.q
    n, r = _reduced(m, x, QUARTER_LONG)
    z = m.mul(r, r)
    t = m.add(r, m.mul(m.mul(r, z), m.horner(z, _TAN)))
    if not m.vc4:  # the sign of 0
        t = m.select(m.equal(r, m.number(0.0)), r, t)
    even = m.equal(q.emit("and", n, m.i(1)), m.i(0))
    return m.select(even, t, q.emit("fneg", reciprocal(m, t)))


def _arc(m: Kit, x: Value) -> tuple[Value, Value, Value]:
    """abs(x); where it exceeds 1/2; and asin of it below, asin(sqrt((1 - abs(x)) / 2)) above."""
    size = m.abs(x)
    half = m.number(0.5)
    large = m.less(half, size)
    z = m.select(large, m.mul(m.sub(m.number(1.0), size), half), m.mul(size, size))
    s = m.select(large, root(m, z), size)
    return size, large, m.add(s, m.mul(m.mul(s, z), m.horner(z, _ASIN)))


def asin(m: Kit, x: Value) -> Value:
    """The inverse sine; for abs(x) > 1 NaN, on VideoCore IV any value."""
    _, large, p = _arc(m, x)
    return m.with_sign(m.select(large, m.sub(m.number(HALF_PI), m.add(p, p)), p), x)


def acos(m: Kit, x: Value) -> Value:
    """The inverse cosine; for abs(x) > 1 NaN, on VideoCore IV any value."""
    _, large, p = _arc(m, x)
    twice = m.add(p, p)
    negative = m.less(x, m.number(0.0))
    outer = m.select(negative, m.sub(m.number(PI), twice), twice)
    return m.select(large, outer, m.sub(m.number(HALF_PI), m.with_sign(p, x)))


def _atan_of(m: Kit, ratio: Value) -> Value:
    """atan for 0..1."""
    z = m.mul(ratio, ratio)
    return m.add(ratio, m.mul(m.mul(ratio, z), m.horner(z, _ATAN)))


def atan(m: Kit, x: Value) -> Value:
    """The inverse tangent; of large arguments pi / 2 - atan(1 / x)."""
    size = m.abs(x)
    large = m.less(m.number(1.0), size)
    p = _atan_of(m, m.select(large, reciprocal(m, size), size))
    result = m.select(large, m.sub(m.number(HALF_PI), p), p)
    return m.with_sign(result, x)


def atan2(m: Kit, y: Value, x: Value) -> Value:
    """The angle of the point (x, y)."""
    q = m.q
    a, b = m.abs(x), m.abs(y)
    top, low = q.emit("fmax", a, b), q.emit("fmin", a, b)
    ratio = divide(m, low, top)
    ratio = m.select(m.equal(m.bits(low), m.bits(top)), m.number(1.0), ratio)  # both infinite, too
    ratio = m.select(m.equal(top, m.number(0.0)), m.number(0.0), ratio)
    p = _atan_of(m, ratio)
    p = m.select(m.less(a, b), m.sub(m.number(HALF_PI), p), p)
    left = m.less(m.signed(x), m.i(0))
    p = m.select(left, m.sub(m.number(PI), p), p)
    if not m.vc4:
        nan = m.less(m.u(INFINITY), q.emit("umax", m.bits(a), m.bits(b)))
        p = m.select(nan, m.pattern(0x7FC00000), p)
    return m.with_sign(p, y)
