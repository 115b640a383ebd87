"""Division, reciprocals, roots and what is made of them, as KIR.

V3D's unit is right to 2.5 units in the last place for 1/x and to 2 for 1/sqrt(x) (v3d.md 7.1). VideoCore IV's has 10
to 12 bits (vc4.md 11): two Newton steps make up for it, whatever the last of these bits say.
"""

from __future__ import annotations

from qpu.core.scalar_lanes import float_of
from qpu.lang.kir import Loop, Region, Value
from qpu.lang.math_kit import INFINITY, Kit

__all__ = ["divide", "floored", "fmod", "hypot", "reciprocal", "reciprocal_root", "root", "whole_quotient"]


def reciprocal(m: Kit, x: Value) -> Value:
    """1 / x."""
    r = m.unit("recip", x)
    if not m.vc4:
        return r
    for _ in range(2):
        r = m.mul(r, m.sub(m.number(2.0), m.mul(x, r)))  # 0 and infinity stay, as their product is 0 on this chip
    return r


def divide(m: Kit, a: Value, b: Value) -> Value:
    """a / b. By a constant: its reciprocal, exact for powers of two."""
    if b.op == "const" and 0x00800000 <= b.attr & 0x7FFFFFFF <= 0x7E000000:
        if b.attr & 0x7FFFFF == 0:
            return m.mul(a, m.pattern((b.attr & 0x80000000) | (254 << 23) - (b.attr & 0x7F800000)))
        return m.mul(a, m.number(1.0 / float_of(b.attr)))
    if a.op == "const" and a.attr == 0x3F800000:
        return reciprocal(m, b)
    # the reciprocal of a large number has fewer bits, or none: both operands are made smaller
    large = m.less(m.pattern(0x7E000000), m.abs(b))
    scale = m.select(large, m.number(2.0**-24), m.number(1.0))
    a, b = m.mul(a, scale), m.mul(b, scale)
    r = reciprocal(m, b)
    quotient = m.mul(a, r)
    if m.vc4:
        return quotient
    rest = m.sub(a, m.mul(quotient, b))
    corrected = m.add(quotient, m.mul(rest, r))
    # infinities, NaN and overflows have no rest to correct by; a rest of 0 would lose the sign of 0
    proper = m.less(m.q.emit("sub", m.bits(m.abs(rest)), m.u(1)), m.u(INFINITY - 1))
    return m.select(proper, corrected, quotient)


def reciprocal_root(m: Kit, x: Value) -> Value:
    """1 / sqrt(x)."""
    r = m.unit("rsqrt", x)
    return _root_steps(m, x, r, 2) if m.vc4 else r


def _root_steps(m: Kit, x: Value, r: Value, steps: int) -> Value:
    """Newton's: r + r / 2 * (1 - x r r)."""
    for _ in range(steps):
        error = m.sub(m.number(1.0), m.mul(m.mul(x, r), r))
        r = m.add(r, m.mul(m.mul(r, m.number(0.5)), error))
    return r


def root(m: Kit, x: Value) -> Value:
    """sqrt(x): s = x / sqrt(x), corrected by s / 2 * (1 - s / sqrt(x))."""
    r = m.unit("rsqrt", x)
    if m.vc4:
        r = _root_steps(m, x, r, 1)
    s = m.mul(x, r)
    error = m.sub(m.number(1.0), m.mul(s, r))
    better = m.add(s, m.mul(m.mul(s, m.number(0.5)), error))
    special = m.equal(m.bits(x), m.u(INFINITY))
    if not m.vc4:
        special = m.q.emit("bor", m.equal(x, m.number(0.0)), special)
    return m.select(special, x, better)


def hypot(m: Kit, x: Value, y: Value) -> Value:
    """sqrt(x x + y y), scaled by a power of two, so that no square leaves the range."""
    q = m.q
    a, b = m.abs(x), m.abs(y)
    top = q.emit("fmax", a, b)
    exponent = q.emit("and", m.signed(top), m.i(INFINITY))
    exponent = q.emit("max", q.emit("min", exponent, m.i(252 << 23)), m.i(2 << 23))
    down, up = m.as_float(q.emit("sub", m.i(254 << 23), exponent)), m.as_float(exponent)
    a, b = m.mul(a, down), m.mul(b, down)
    size = m.mul(root(m, m.add(m.mul(a, a), m.mul(b, b))), up)
    if m.vc4:
        return size
    infinite = q.emit("bor", m.equal(a, m.pattern(INFINITY)), m.equal(b, m.pattern(INFINITY)))
    return m.select(infinite, m.pattern(INFINITY), size)


def fmod(m: Kit, x: Value, y: Value) -> Value:
    """x - y * trunc(x / y), exactly: the largest multiple of y by a power of two is taken off until less than y is
    left. NaN (VideoCore IV: 0) where x is infinite or y is 0 or denormal.
    """
    q = m.q
    a, b = m.abs(x), m.abs(y)
    below_infinity = m.less(m.signed(a), m.i(INFINITY))
    divisor = m.less(q.emit("sub", m.bits(b), m.u(0x00800000)), m.u(INFINITY - 0x00800000 + 1))
    proper = q.emit("band", below_infinity, divisor)
    start = m.select(proper, a, m.number(0.0))
    mantissa = q.emit("and", m.signed(b), m.i(0x7FFFFF))

    region = Region(q.region, loop=True)
    rest = q.parameter(region, "f", True)
    outer, q.region = q.region, region
    exponent = q.emit("and", m.signed(rest), m.i(INFINITY))
    part = q.emit("or", exponent, mantissa)
    part = q.emit("sub", part, m.select(m.less(m.signed(rest), part), m.i(0x00800000), m.i(0)))
    inside = m.less(m.signed(rest), m.signed(b))
    taken = m.select(inside, rest, m.sub(rest, m.as_float(part)))
    again = q.emit("bnot", m.less(m.signed(taken), m.signed(b)))
    again = q.emit("band", again, m.less(m.i(0), m.signed(taken)))
    q.region = outer
    made = q.append("loop", (q.const("b", True), start), "", Loop(region, [taken], again), varying=False)
    left = q.result(made, "f", True)
    signed = m.with_sign(left, x)
    return m.select(proper, signed, m.number(0.0) if m.vc4 else m.pattern(0x7FC00000))


def _differ(m: Kit, a: Value, b: Value) -> Value:
    """Whether two floats have different signs."""
    return m.less(m.q.emit("xor", m.signed(a), m.signed(b)), m.i(0))


def floored(m: Kit, rest: Value, b: Value) -> Value:
    """The remainder of a division rounded down, with the sign of b, from `rest`, that of the division toward zero."""
    q, zero = m.q, m.number(0.0)
    nonzero = q.emit("ne", rest, zero, type_="b", attr="f")
    moved = m.select(q.emit("band", _differ(m, rest, b), nonzero), m.add(rest, b), rest)
    return m.select(nonzero, moved, m.with_sign(zero, b))


def whole_quotient(m: Kit, a: Value, b: Value, quotient: Value) -> Value:
    """floor(a / b) from `quotient`, (a - remainder) / b before rounding; also of an infinite b (VideoCore IV: any)."""
    q, zero = m.q, m.number(0.0)
    whole = q.emit("fround", quotient)
    if m.vc4:
        return whole
    below = q.emit("band", _differ(m, a, b), q.emit("ne", a, zero, type_="b", attr="f"))
    endless = m.equal(m.bits(m.abs(b)), m.u(INFINITY))
    return m.select(endless, m.select(below, m.number(-1.0), zero), whole)
