"""Operations of complex64, made of functions of floats.

Roots and logarithms scale their operand by a power of two, so that no square leaves the range; the inverse functions
are Kahan's, by roots of 1 + z and 1 - z, which keep their digits beside the branch cuts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qpu.array import special
from qpu.array.values import Complex, Maker
from qpu.lang import math_roots
from qpu.lang.kir import Value
from qpu.lang.math import EXPANSIONS

__all__ = ["FUNCTIONS", "divide", "power", "times"]

_LN2, _LN10 = 0.6931471805599453, 2.302585092994046
_HUGE, _TINY = 2.0**60, 2.0**-60


def _real(m: Maker, name: str, *values: Value) -> Value:
    return EXPANSIONS[name](m.kit, *values)


def _asinh(m: Maker, a: tuple[Value, Value], b: tuple[Value, Value], op: Callable[[Value, Value], Value]) -> Value:
    """The inverse hyperbolic sine of op(a[0] a[1], b[0] b[1]), a sum or difference, which may leave the range."""
    k = m.kit
    x = op(k.mul(*a), k.mul(*b))
    quarter = op(*(k.mul(k.mul(u, k.number(0.25)), v) for u, v in (a, b)))
    size = k.abs(x)
    square = k.mul(size, size)
    root = _real(m, "sqrt", k.add(square, k.number(1.0)))
    small = _real(m, "log1p", k.add(size, math_roots.divide(k, square, k.add(root, k.number(1.0)))))
    large = k.add(_real(m, "log", k.abs(quarter)), k.number(3 * _LN2))
    found = k.select(k.less(k.number(1e9), size), large, small)
    return k.unless_nan(x, k.with_sign(found, x))


def times(m: Maker, a: Complex, b: Complex) -> Complex:
    """a b."""
    k = m.kit
    real = k.sub(k.mul(a.real, b.real), k.mul(a.imag, b.imag))
    return Complex(real, k.add(k.mul(a.real, b.imag), k.mul(a.imag, b.real)))


def _top(m: Maker, z: Complex) -> Value:
    return m.q.emit("fmax", m.kit.abs(z.real), m.kit.abs(z.imag))


def _scale(m: Maker, z: Complex, down: float, up: float) -> tuple[Value, Value]:
    """A power of two that brings z near to 1 where it is huge or tiny, as often 1; the powers given of it for both."""
    k = m.kit
    top = _top(m, z)
    huge, tiny = k.less(k.number(_HUGE), top), k.less(top, k.number(_TINY))
    by = k.select(huge, k.number(_TINY), k.select(tiny, k.number(_HUGE), k.number(1.0)))
    return by, k.select(huge, k.number(down), k.select(tiny, k.number(up), k.number(1.0)))


def divide(m: Maker, a: Complex, b: Complex) -> Complex:
    """a / b."""
    k = m.kit
    by, _ = _scale(m, b, 1.0, 1.0)
    s = Complex(k.mul(b.real, by), k.mul(b.imag, by))
    r = math_roots.divide(k, k.number(1.0), k.add(k.mul(s.real, s.real), k.mul(s.imag, s.imag)))
    found = times(m, a, Complex(k.mul(s.real, r), k.mul(k.q.emit("fneg", s.imag), r)))
    return Complex(k.mul(found.real, by), k.mul(found.imag, by))


def _root(m: Maker, z: Complex) -> Complex:
    k = m.kit
    by, back = _scale(m, z, 2.0**30, 2.0**-30)
    x, y = k.mul(z.real, by), k.mul(z.imag, by)
    half = k.mul(k.add(k.abs(x), _real(m, "hypot", x, y)), k.number(0.5))
    t = _real(m, "sqrt", half)
    zero = k.equal(half, k.number(0.0))
    u = k.select(zero, k.number(0.0), k.mul(math_roots.divide(k, k.abs(y), t), k.number(0.5)))
    left = k.less(x, k.number(0.0))
    real, imag = k.select(left, u, t), k.select(left, t, u)
    return Complex(k.mul(real, back), k.with_sign(k.mul(imag, back), z.imag))


def _log_size(m: Maker, z: Complex) -> Value:
    """log(abs(z)): near the unit circle by log1p."""
    k, q = m.kit, m.q
    by, shift = _scale(m, z, 1.0, -1.0)
    a, b = k.abs(z.real), k.abs(z.imag)
    top, low = q.emit("fmax", a, b), q.emit("fmin", a, b)
    one = k.number(1.0)
    distance = k.add(k.mul(k.sub(top, one), k.add(top, one)), k.mul(low, low))
    near = k.mul(_real(m, "log1p", distance), k.number(0.5))
    far = _real(m, "log", _real(m, "hypot", k.mul(z.real, by), k.mul(z.imag, by)))
    moved = k.select(k.equal(by, one), k.number(0.0), k.mul(shift, k.number(60 * _LN2)))
    inside = q.emit("band", k.less(k.number(0.5), top), k.less(top, k.number(2.0)))
    return k.select(inside, near, k.add(far, moved))


def _log(m: Maker, z: Complex) -> Complex:
    return Complex(_log_size(m, z), special.atan2(m, m.f32, z.imag, z.real))


def _log_of(base: float) -> Callable[[Maker, Complex], Complex]:
    def emit(m: Maker, z: Complex) -> Complex:
        found, by = _log(m, z), m.kit.number(1.0 / base)
        return Complex(m.kit.mul(found.real, by), m.kit.mul(found.imag, by))

    return emit


def _log1p(m: Maker, z: Complex) -> Complex:
    k, q = m.kit, m.q
    a, b = z
    sum_ = Complex(k.add(a, k.number(1.0)), b)
    distance = k.add(k.mul(a, k.add(a, k.number(2.0))), k.mul(b, b))
    near = k.mul(_real(m, "log1p", distance), k.number(0.5))
    small = k.less(q.emit("fmax", k.abs(a), k.abs(b)), k.number(0.5))
    whole = _log(m, sum_)
    return Complex(k.select(small, near, whole.real), whole.imag)


def _waves(m: Maker, x: Value) -> tuple[Value, Value]:
    """Sine and cosine."""
    return special.sine(m, m.f32, x), special.cosine(m, m.f32, x)


def _exp(m: Maker, z: Complex) -> Complex:
    k = m.kit
    sine, cosine = _waves(m, z.imag)
    # half of the exponent at a time: a small sine or cosine brings back what is beyond the range
    half = _real(m, "exp", k.mul(z.real, k.number(0.5)))
    return Complex(k.mul(k.mul(half, cosine), half), k.mul(k.mul(half, sine), half))


def _expm1(m: Maker, z: Complex) -> Complex:
    k = m.kit
    cosine = special.cosine(m, m.f32, z.imag)
    s = special.sine(m, m.f32, k.mul(z.imag, k.number(0.5)))
    less = k.mul(k.mul(s, s), k.number(2.0))
    whole = _exp(m, z)
    small = k.sub(k.mul(_real(m, "expm1", z.real), cosine), less)
    real = k.select(k.less(k.number(10.0), k.abs(z.real)), k.sub(whole.real, k.number(1.0)), small)
    return Complex(real, whole.imag)


def _hyperbolic(m: Maker, x: Value) -> tuple[Value, Value]:
    return _real(m, "sinh", x), _real(m, "cosh", x)


def _sinh(m: Maker, z: Complex) -> Complex:
    k = m.kit
    (sinh, cosh), (sine, cosine) = _hyperbolic(m, z.real), _waves(m, z.imag)
    return Complex(k.mul(sinh, cosine), k.mul(cosh, sine))


def _cosh(m: Maker, z: Complex) -> Complex:
    k = m.kit
    (sinh, cosh), (sine, cosine) = _hyperbolic(m, z.real), _waves(m, z.imag)
    return Complex(k.mul(cosh, cosine), k.mul(sinh, sine))


def _tanh(m: Maker, z: Complex) -> Complex:
    k = m.kit
    sinh, cosh = _hyperbolic(m, k.limit(z.real, -20.0, 20.0))
    sine, cosine = _waves(m, z.imag)
    size = k.add(k.mul(sinh, sinh), k.mul(cosine, cosine))
    real = math_roots.divide(k, k.mul(sinh, cosh), size)
    return Complex(k.unless_nan(z.real, real), math_roots.divide(k, k.mul(sine, cosine), size))


def _one_less(m: Maker, z: Complex) -> Complex:
    """1 - z."""
    return Complex(m.kit.sub(m.kit.number(1.0), z.real), m.q.emit("fneg", z.imag))


def _one_more(m: Maker, z: Complex) -> Complex:
    """1 + z."""
    return Complex(m.kit.add(m.kit.number(1.0), z.real), z.imag)


def _angle(m: Maker, y: Value, x: Value) -> Value:
    return special.atan2(m, m.f32, y, x)


def _arsinh(m: Maker, z: Complex) -> Complex:
    k, q = m.kit, m.q
    turned = Complex(q.emit("fneg", z.imag), z.real)  # i z
    s, t = _root(m, _one_less(m, turned)), _root(m, _one_more(m, turned))
    real = _asinh(m, (s.real, t.imag), (t.real, s.imag), k.sub)
    return Complex(real, _angle(m, z.imag, k.sub(k.mul(s.real, t.real), k.mul(s.imag, t.imag))))


def _acos(m: Maker, z: Complex) -> Complex:
    k = m.kit
    s, t = _root(m, _one_less(m, z)), _root(m, _one_more(m, z))
    angle = _angle(m, s.real, t.real)
    return Complex(k.add(angle, angle), _asinh(m, (t.real, s.imag), (t.imag, s.real), k.sub))


def _arcosh(m: Maker, z: Complex) -> Complex:
    k = m.kit
    s, t = _root(m, Complex(k.sub(z.real, k.number(1.0)), z.imag)), _root(m, _one_more(m, z))
    angle = _angle(m, s.imag, t.real)
    return Complex(_asinh(m, (s.real, t.real), (s.imag, t.imag), k.add), k.add(angle, angle))


def _artanh(m: Maker, z: Complex) -> Complex:
    k, q = m.kit, m.q
    one = k.number(1.0)
    sign = q.emit("and", k.bits(z.real), k.u(0x80000000))

    def turned(v: Value) -> Value:
        return k.as_float(q.emit("xor", k.bits(v), sign))

    a, b = k.abs(z.real), turned(z.imag)
    square, less = k.mul(b, b), k.sub(one, a)
    far = k.add(k.mul(less, less), square)
    top = k.mul(q.emit("fmin", a, k.number(1e19)), k.number(4.0))
    real = k.mul(_real(m, "log1p", math_roots.divide(k, top, far)), k.number(0.25))
    angle = _angle(m, k.add(b, b), k.sub(k.mul(less, k.add(one, a)), square))
    return Complex(turned(real), turned(k.mul(angle, k.number(0.5))))


def _by_turns(function: Callable[[Maker, Complex], Complex]) -> Callable[[Maker, Complex], Complex]:
    """f(z) = -i g(i z)."""

    def emit(m: Maker, z: Complex) -> Complex:
        found = function(m, Complex(m.q.emit("fneg", z.imag), z.real))
        return Complex(found.imag, m.q.emit("fneg", found.real))

    return emit


def power(m: Maker, a: Complex, b: Complex) -> Complex:
    """a to the power b: exp(b log(a)); 0 to the power 0 is 1, to others 0."""
    k, q = m.kit, m.q
    zero, one = k.number(0.0), k.number(1.0)
    found = _exp(m, times(m, b, _log(m, a)))
    empty = k.equal(_top(m, a), zero)
    whole = k.equal(_top(m, b), zero)
    real = k.select(whole, one, k.select(empty, zero, found.real))
    return Complex(real, k.select(q.emit("bor", empty, whole), zero, found.imag))


FUNCTIONS: Final[dict[str, Callable[[Maker, Complex], Complex]]] = {
    "sqrt": _root,
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "log2": _log_of(_LN2),
    "log10": _log_of(_LN10),
    "sin": _by_turns(_sinh),
    "cos": lambda m, z: _cosh(m, Complex(m.q.emit("fneg", z.imag), z.real)),
    "tan": _by_turns(_tanh),
    "asin": _by_turns(_arsinh),
    "acos": _acos,
    "atan": _by_turns(_artanh),
    "sinh": _sinh,
    "cosh": _cosh,
    "tanh": _tanh,
    "asinh": _arsinh,
    "acosh": _arcosh,
    "atanh": _artanh,
}
"""Functions of one complex number by the name of the operation."""
