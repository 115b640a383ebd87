"""Exponentials, logarithms, powers, hyperbolic functions and the error function, as KIR.

V3D's unit is right to 3 + 2 abs(x) units in the last place for 2**x and to 3 for log2(x), or 2**-21 near 1 (v3d.md
7.1): it serves where the argument is small. On VideoCore IV, whose unit has 10 to 12 bits (vc4.md 11), polynomials do.
"""

from __future__ import annotations

from typing import Final

from qpu.lang.kir import Value
from qpu.lang.math_kit import INFINITY, Kit
from qpu.lang.math_roots import reciprocal

__all__ = ["cosh", "erf", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "power", "sinh", "tanh"]

LOG2_E: Final = 1.4426950216293335
LN2_HIGH, LN2_LOW = 0.693359375, -0.00021219444170128554  # 9 bits, so that products with exponents are exact
LOG10_E: Final = 0.4342944920063019
LOG10_2_HIGH, LOG10_2_LOW = 0.301025390625, 4.605039066518657e-06
SQRT_HALF: Final = 0x3F3504F3

# (e**r - 1 - r) / r**2 for abs(r) <= ln(2) / 2
_EXP: Final = (0.4999999701976776, 0.16666541993618011, 0.041667431592941284, 0.008366876281797886,
               0.0013871878618374467)  # fmt: skip
# (2**r - 1) / r for abs(r) <= 1/2
_EXP2: Final = (0.6931471824645996, 0.24022647738456726, 0.05550358071923256, 0.009618503041565418,
                0.0013391891261562705, 0.0001532925816718489)  # fmt: skip
# (log(1 + f) - f + f**2 / 2) / f**3 for sqrt(1/2) <= 1 + f < sqrt(2)
_LOG: Final = (0.3333333134651184, -0.2500081956386566, 0.2000124156475067, -0.166234090924263, 0.14201581478118896,
               -0.1315961331129074, 0.12762200832366943, -0.07636403292417526)  # fmt: skip
# (sinh(x) - x) / x**3 in x**2, abs(x) <= 1
_SINH: Final = (0.1666666716337204, 0.00833331048488617, 0.00019842895562760532, 2.7822131869470468e-06)
# (tanh(x) - x) / x**3 in x**2, abs(x) <= 0.625
_TANH: Final = (-0.3333328068256378, 0.13331405818462372, -0.05373651534318924, 0.02062816731631756,
                -0.005692296661436558)  # fmt: skip
# erf(x) / x in x**2, abs(x) <= 1
_ERF: Final = (1.1283791065216064, -0.3761262595653534, 0.11283578723669052, -0.026853347197175026,
               0.005187162198126316, -0.0007997853099368513, 7.806903886375949e-05)  # fmt: skip
# log(erfc(x)), 0.92 <= x <= 4
_ERFC: Final = (0.00017468302394263446, -1.1295149326324463, -0.6333468556404114, -0.1082802340388298,
                0.025119606405496597, -0.004171174950897694, 0.0004344971966929734,
         -2.1099236619193107e-05)  # fmt: skip
# log((1 + s) / (1 - s)) = 2/3 s (3 + s**2 + s**4 * this(s**2))
_POWER: Final = (0.5999999642372131, 0.4285795986652374, 0.33269423246383667, 0.29339197278022766)
POWER_HIGH, POWER_LOW, POWER_SCALE = 0.961669921875, 0.00012677205086220056, 0.9617967009544373  # 2 / (3 log(2))

LOWEST, HIGHEST = -105.0, 90.0  # beyond, e**x is 0 or infinite
LOWEST2, HIGHEST2 = -160.0, 130.0


# -- exponentials


def _two_to(m: Kit, f: Value) -> Value:
    """2**f for abs(f) <= 1/2, or a little more."""
    if m.vc4:
        return m.add(m.number(1.0), m.mul(f, m.horner(f, _EXP2)))
    return m.unit("exp2", f)


def exp2(m: Kit, x: Value) -> Value:
    """2**x: the unit, or a polynomial, for the fraction."""
    limited = m.limit(x, LOWEST2, HIGHEST2)
    whole, n = m.nearest(limited)
    return m.unless_nan(x, m.scaled(_two_to(m, m.sub(limited, whole)), n))


def _reduced(m: Kit, x: Value) -> tuple[Value, Value]:
    """n and r with e**x = 2**n * e**r, abs(r) <= log(2) / 2; x within LOWEST, HIGHEST."""
    whole, n = m.nearest(m.mul(x, m.number(LOG2_E)))
    r = m.sub(x, m.mul(whole, m.number(LN2_HIGH)))
    return n, m.sub(r, m.mul(whole, m.number(LN2_LOW)))


def _minus_one(m: Kit, r: Value) -> Value:
    """e**r - 1 for abs(r) <= log(2) / 2."""
    return m.add(r, m.mul(m.mul(r, r), m.horner(r, _EXP)))


def _e_to(m: Kit, x: Value, more: int = 0) -> Value:
    """e**x * 2**more, x not NaN."""
    n, r = _reduced(m, m.limit(x, LOWEST, HIGHEST))
    if more:
        n = m.q.emit("add", n, m.i(more))
    part = m.add(m.number(1.0), _minus_one(m, r)) if m.vc4 else m.unit("exp2", m.mul(r, m.number(LOG2_E)))
    return m.scaled(part, n)


def exp(m: Kit, x: Value) -> Value:
    """e**x = 2**n * e**r."""
    return m.unless_nan(x, _e_to(m, x))


def expm1(m: Kit, x: Value) -> Value:
    """e**x - 1 = 2**n * (e**r - 1) + (2**n - 1), with 2**n in two factors."""
    q = m.q
    n, r = _reduced(m, m.limit(x, LOWEST, HIGHEST))
    half = q.emit("asr", n, m.u(1))
    rest = q.emit("sub", n, half)
    first, second = m.power_of_two(half), m.power_of_two(rest)
    inverse = m.power_of_two(q.emit("sub", m.i(0), rest))
    total = m.add(m.mul(_minus_one(m, r), first), m.sub(first, inverse))
    return m.unless_zero_or_nan(x, m.mul(total, second))


# -- logarithms


def _parts(m: Kit, x: Value, *, denormals: bool = True) -> tuple[Value, Value]:
    """e as a float and f with x = 2**e * (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), for finite x > 0."""
    q = m.q
    small = None
    if denormals and not m.vc4:
        small = m.less(x, m.pattern(0x00800000))
        x = m.select(small, m.mul(x, m.number(2.0**24)), x)
    above = q.emit("sub", m.signed(x), m.i(SQRT_HALF))
    e = q.emit("itof", q.emit("asr", above, m.u(23)))
    if small is not None:
        e = m.sub(e, m.select(small, m.number(24.0), m.number(0.0)))
    one = m.as_float(q.emit("add", q.emit("and", above, m.i(0x7FFFFF)), m.i(SQRT_HALF)))
    return e, m.sub(one, m.number(1.0))


def _tail(m: Kit, f: Value) -> Value:
    """log(1 + f) - f."""
    return m.mul(m.mul(f, f), m.sub(m.mul(f, m.horner(f, _LOG)), m.number(0.5)))


def _proper(m: Kit, x: Value, result: Value) -> Value:
    """The result for finite x > 0; else what the unit's logarithm gives: -infinity, infinity or NaN."""
    inside = m.less(m.q.emit("sub", m.bits(x), m.u(1)), m.u(INFINITY - 1))
    return m.select(inside, result, m.unit("log2", x))


def _natural(m: Kit, e: Value, f: Value) -> Value:
    total = m.add(f, m.add(_tail(m, f), m.mul(e, m.number(LN2_LOW))))
    return m.add(total, m.mul(e, m.number(LN2_HIGH)))


def log(m: Kit, x: Value) -> Value:
    """The natural logarithm."""
    return _proper(m, x, _natural(m, *_parts(m, x)))


def log2(m: Kit, x: Value) -> Value:
    """The logarithm to base 2."""
    if not m.vc4:
        return m.unit("log2", x)
    e, f = _parts(m, x)
    return _proper(m, x, m.add(e, m.mul(m.add(f, _tail(m, f)), m.number(LOG2_E))))


def log10(m: Kit, x: Value) -> Value:
    """The logarithm to base 10."""
    e, f = _parts(m, x)
    low = m.add(m.mul(m.add(f, _tail(m, f)), m.number(LOG10_E)), m.mul(e, m.number(LOG10_2_LOW)))
    return _proper(m, x, m.add(low, m.mul(e, m.number(LOG10_2_HIGH))))


def log1p(m: Kit, x: Value) -> Value:
    """log(1 + x); near 0 from x itself, so that the sum loses nothing."""
    q = m.q
    total = m.add(x, m.number(1.0))
    e, f = _parts(m, total, denormals=False)
    near = m.less(q.emit("sub", m.bits(total), m.u(SQRT_HALF)), m.u(0x00800000))
    zero = m.number(0.0)
    result = _natural(m, m.select(near, zero, e), m.select(near, x, f))
    return m.unless_zero_or_nan(x, _proper(m, total, result))


# -- powers


def _high(m: Kit, x: Value) -> Value:
    """x with the low 12 bits of its mantissa cleared: products of two such are exact."""
    return m.as_float(m.q.emit("and", m.bits(x), m.u(0xFFFFF000)))


def _log2_pair(m: Kit, x: Value) -> tuple[Value, Value]:
    """log2(x) as the sum of a value of 12 bits and a small one, by s = f / (2 + f)."""
    e, f = _parts(m, x)
    base = m.add(f, m.number(2.0))
    inverse = reciprocal(m, base)
    s = m.mul(f, inverse)
    s1, base1 = _high(m, s), _high(m, base)
    base2 = m.sub(f, m.sub(base1, m.number(2.0)))
    s2 = m.mul(m.sub(m.sub(f, m.mul(s1, base1)), m.mul(s1, base2)), inverse)
    z = m.mul(s, s)
    series = m.add(m.mul(m.mul(z, z), m.horner(z, _POWER)), m.mul(s2, m.add(s1, s)))
    square = m.mul(s1, s1)
    three = m.number(3.0)
    t1 = _high(m, m.add(m.add(three, square), series))
    t2 = m.sub(series, m.sub(m.sub(t1, three), square))
    u, v = m.mul(s1, t1), m.add(m.mul(s2, t1), m.mul(t2, s))
    p1 = _high(m, m.add(u, v))
    p2 = m.sub(v, m.sub(p1, u))
    z1 = m.mul(p1, m.number(POWER_HIGH))
    z2 = m.add(m.mul(p1, m.number(POWER_LOW)), m.mul(p2, m.number(POWER_SCALE)))
    high = _high(m, m.add(m.add(z1, z2), e))
    return high, m.sub(z2, m.sub(m.sub(high, e), z1))


def power(m: Kit, x: Value, y: Value) -> Value:
    """x**y = 2**(y log2(x)), the logarithm in two parts. Negative x: integral y only."""
    q = m.q
    size = m.abs(x)
    high, low = _log2_pair(m, size)
    y1 = _high(m, y)
    p2 = m.add(m.mul(m.sub(y, y1), high), m.mul(y, low))
    p1 = m.mul(y1, high)
    total = m.limit(m.add(p1, p2), LOWEST2, HIGHEST2)
    whole, n = m.nearest(total)
    result = m.scaled(_two_to(m, m.add(m.sub(p1, whole), p2)), n)
    # what is far outside the range; the logarithms of 0 and infinity are the unit's
    proper = m.less(q.emit("sub", m.bits(size), m.u(1)), m.u(INFINITY - 1))
    rough = m.mul(y, m.select(proper, high, m.unit("log2", size)))
    infinity, zero, one = m.pattern(INFINITY), m.number(0.0), m.number(1.0)
    far = m.less(m.number(155.0), m.abs(rough))
    result = m.select(far, m.select(m.less(zero, rough), infinity, zero), result)
    result = m.select(q.emit("bor", m.equal(y, zero), m.equal(size, one)), one, result)
    # the sign of an odd power of a negative number
    half = m.mul(y, m.number(0.5))
    whole_y = m.equal(q.emit("ftrunc", y), y)
    odd = q.emit("band", whole_y, q.emit("bnot", m.equal(q.emit("ftrunc", half), half)))
    sign = q.emit("and", m.bits(x), m.select(odd, m.u(0x80000000), m.u(0)))
    result = m.as_float(q.emit("xor", m.bits(result), sign))
    if m.vc4:
        return result
    neither = q.emit("band", m.less(x, zero), q.emit("bnot", whole_y))
    neither = q.emit("band", neither, m.less(size, infinity))
    result = m.select(neither, m.pattern(0x7FC00000), result)
    unordered = q.emit("bor", q.emit("bnot", m.equal(x, x)), q.emit("bnot", m.equal(y, y)))
    exact = q.emit("bor", m.equal(y, zero), m.equal(x, one))
    return m.select(q.emit("band", unordered, q.emit("bnot", exact)), m.add(x, y), result)


# -- hyperbolic functions


def sinh(m: Kit, x: Value) -> Value:
    """(e**x - e**-x) / 2, or a polynomial for abs(x) < 1."""
    size = m.abs(x)
    half = _e_to(m, size, -1)
    large = m.with_sign(m.sub(half, m.mul(m.number(0.25), reciprocal(m, half))), x)
    z = m.mul(x, x)
    small = m.add(x, m.mul(m.mul(x, z), m.horner(z, _SINH)))
    return m.unless_zero_or_nan(x, m.select(m.less(size, m.number(1.0)), small, large))


def cosh(m: Kit, x: Value) -> Value:
    """(e**x + e**-x) / 2."""
    half = _e_to(m, m.abs(x), -1)
    return m.unless_nan(x, m.add(half, m.mul(m.number(0.25), reciprocal(m, half))))


def tanh(m: Kit, x: Value) -> Value:
    """1 - 2 / (e**2x + 1), or a polynomial for abs(x) < 0.625."""
    size = m.abs(x)
    e = m.add(_e_to(m, m.add(size, size)), m.number(1.0))
    large = m.sub(m.number(1.0), m.mul(m.number(2.0), reciprocal(m, e)))
    z = m.mul(x, x)
    small = m.add(x, m.mul(m.mul(x, z), m.horner(z, _TANH)))
    result = m.select(m.less(size, m.number(0.625)), small, m.with_sign(large, x))
    return m.unless_zero_or_nan(x, result)


def erf(m: Kit, x: Value) -> Value:
    """The error function: a polynomial below 1, 1 - exp(polynomial) above."""
    size = m.abs(x)
    t = m.q.emit("fmin", size, m.number(4.0))
    large = m.with_sign(m.sub(m.number(1.0), _e_to(m, m.horner(t, _ERFC))), x)
    z = m.mul(x, x)
    small = m.mul(x, m.horner(z, _ERF))
    return m.unless_zero_or_nan(x, m.select(m.less(size, m.number(0.96875)), small, large))
