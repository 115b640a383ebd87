"""Functions of floats with the special cases of the standard, made of what the kernel language has.

The language's own functions leave some of them open, because kernels pay for each of them: denormal divisors, angles
of any size, quotients of infinities. What only a few elements need is skipped where no lane needs it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from qpu.array.dtypes import Kind
from qpu.array.values import Maker
from qpu.lang import math_roots
from qpu.lang.kir import Value
from qpu.lang.math import EXPANSIONS
from qpu.lang.math_kit import INFINITY

__all__ = ["acosh", "atan2", "cosine", "divide", "floor_divide", "fmod", "remainder", "sine", "tangent"]

_LN2: Final = 0.6931471805599453
_UP: Final = 2.0**24  # makes a denormal number normal
_FAR: Final = 2.0**15  # angles from here on are reduced with more bits of pi
_TURN: Final = 1.4629180792671596e-09  # 2 pi / 2**32
_TURNS: Final = (0x00000000, 0x28BE60DB, 0x9391054A, 0x7F09D5F4, 0x7D4D3770, 0x36D8A566, 0x4F10E410)
"""1 / (2 pi) in words, the first one before the point."""


# -- quotients


def divide(m: Maker, kind: Kind, a: Value, b: Value) -> Value:
    """a / b, b also denormal."""
    k = m.kit
    if k.vc4 or b.op == "const":
        return math_roots.divide(k, a, b)
    scale = k.select(k.less(k.abs(b), k.number(2.0**-100)), k.number(_UP), k.number(1.0))
    return math_roots.divide(k, k.mul(a, scale), k.mul(b, scale))


def fmod(m: Maker, kind: Kind, x: Value, y: Value) -> Value:
    """x - y * trunc(x / y), exactly; of a denormal y first by 2**24 y."""
    k, q = m.kit, m.q
    if k.vc4:
        return EXPANSIONS["fmod"](k, x, y)
    small = k.less(q.emit("sub", k.bits(k.abs(y)), k.u(1)), k.u(0x00800000 - 1))
    divisor = k.select(small, k.mul(y, k.number(_UP)), y)
    rest = EXPANSIONS["fmod"](k, x, divisor)
    return m.rarely(
        small, rest, lambda: k.mul(EXPANSIONS["fmod"](k, k.mul(rest, k.number(_UP)), divisor), k.number(1 / _UP))
    )


def remainder(m: Maker, kind: Kind, a: Value, b: Value) -> Value:
    """a - b * floor(a / b), with the sign of b."""
    q, k = m.q, m.kit
    if kind.letter != "f":
        return m.narrow(q.emit("mod", a, b), kind)
    return math_roots.floored(k, fmod(m, kind, a, b), b)


def floor_divide(m: Maker, kind: Kind, a: Value, b: Value) -> Value:
    """floor(a / b); infinities as the standard has them, which is not as NumPy."""
    q, k = m.q, m.kit
    if kind.letter != "f":
        return m.narrow(q.emit("div", a, b), kind)
    rest = remainder(m, kind, a, b)
    whole = math_roots.whole_quotient(k, a, b, divide(m, kind, k.sub(a, rest), b))
    zero = k.number(0.0)
    signed = k.as_float(q.emit("and", q.emit("xor", k.bits(a), k.bits(b)), k.u(0x80000000)))
    whole = k.select(k.equal(whole, zero), signed, whole)
    infinite = q.emit("bnot", m.finite(a))
    return k.select(q.emit("bor", infinite, k.equal(b, zero)), divide(m, kind, a, b), whole)


# -- angles


def _near(m: Maker, x: Value) -> Value:
    """x, or where it is large an angle from -pi to pi with the same sine and cosine, right to 2**-22.

    abs(x) is n * 2**e with n of 24 bits: the bits of 1 / (2 pi) before 2**-e only give whole turns.
    """
    k, q = m.kit, m.q
    size = k.signed(k.abs(x))
    far = k.less(q.emit("sub", k.bits(size), k.bits(k.number(_FAR))), k.u(INFINITY - 0x47000000))

    def reduced() -> Value:
        place = q.emit("sub", q.emit("shr", k.bits(size), k.u(23)), k.u(150 - 32))  # of the first bit that matters
        word, shift = q.emit("shr", place, k.u(5)), q.emit("and", place, k.u(31))
        found = []
        for n in range(3):
            value = k.u(_TURNS[n])
            for j in range(1, 5):
                value = k.select(k.equal(word, k.u(j)), k.u(_TURNS[n + j]), value)
            found.append(value)
        back = q.emit("sub", k.u(31), shift)
        high, low = (
            q.emit("or", q.emit("shl", a, shift), q.emit("shr", q.emit("shr", b, k.u(1)), back))
            for a, b in pairwise(found)
        )
        whole = q.emit("or", q.emit("and", k.bits(size), k.u(0x7FFFFF)), k.u(0x800000))
        n_high, n_low = q.emit("shr", whole, k.u(8)), q.emit("and", whole, k.u(255))
        low_high, low_low = q.emit("shr", low, k.u(16)), q.emit("and", low, k.u(0xFFFF))
        turns = q.emit("mul", whole, high)
        for a, b, by in ((n_high, low_high, 8), (n_low, low_high, 16), (n_high, low_low, 24)):
            turns = q.emit("add", turns, q.emit("shr", q.emit("umul24", a, b), k.u(by)))
        angle = k.mul(q.emit("itof", q.emit("bitcast", turns, type_="i")), k.number(_TURN))
        sign = q.emit("and", k.bits(x), k.u(0x80000000))
        return k.as_float(q.emit("xor", k.bits(angle), sign))

    return m.rarely(far, x, reduced)


def sine(m: Maker, kind: Kind, x: Value) -> Value:
    """The sine of an angle of any size."""
    return EXPANSIONS["sin"](m.kit, _near(m, x))


def cosine(m: Maker, kind: Kind, x: Value) -> Value:
    """The cosine of an angle of any size."""
    return EXPANSIONS["cos"](m.kit, _near(m, x))


def tangent(m: Maker, kind: Kind, x: Value) -> Value:
    """The tangent of an angle of any size."""
    return EXPANSIONS["tan"](m.kit, _near(m, x))


def atan2(m: Maker, kind: Kind, y: Value, x: Value) -> Value:
    """The angle of the point (x, y), also of denormal ones."""
    k, q = m.kit, m.q
    if not k.vc4:
        tiny = k.less(q.emit("fmax", k.abs(x), k.abs(y)), k.number(2.0**-100))
        scale = k.select(tiny, k.number(_UP), k.number(1.0))
        y, x = k.mul(y, scale), k.mul(x, scale)
    return EXPANSIONS["atan2"](k, y, x)


def acosh(m: Maker, kind: Kind, v: Value) -> Value:
    """The inverse hyperbolic cosine; NaN below 1, on VideoCore IV any value."""
    k = m.kit
    t = k.sub(v, k.number(1.0))
    root = EXPANSIONS["sqrt"](k, k.mul(t, k.add(v, k.number(1.0))))
    large = k.add(EXPANSIONS["log"](k, v), k.number(_LN2))
    found = k.select(k.less(k.number(1e9), v), large, EXPANSIONS["log1p"](k, k.add(t, root)))
    return found if k.vc4 else k.select(k.less(v, k.number(1.0)), k.pattern(0x7FC00000), found)
