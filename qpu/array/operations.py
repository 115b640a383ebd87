"""The elementwise operations of arrays, one row each: dtypes taken, dtype of the result, and the KIR that computes it.

The functions of the namespace, the operators of `Array`, NumPy's ufuncs that arrays answer to, and the table in the
documentation derive from these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from qpu.array import complexes, special
from qpu.array.dtypes import Kind
from qpu.array.values import Complex, Maker, Operand
from qpu.lang.kir import Value
from qpu.lang.math import EXPANSIONS

__all__ = ["OPERATIONS", "Operation", "converted"]

Emit: TypeAlias = Callable[..., Operand]
"""emit(maker, kind of the operands, *operands) -> operand; a binary operation's operands have one dtype."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. groups: of dtypes that are taken (b, i, u, f, c); result: "same", "bool", "real" (of c64: float32) or
    "float" (integers become float32); emit: how; ufunc: NumPy's name where it is another; exact: the same bits as NumPy
    on a GPU with IEEE sums; standard: whether the array API standard has it.
    """

    name: str
    arity: int
    groups: str
    result: str
    emit: Emit
    doc: str
    ufunc: str = ""
    exact: bool = True
    standard: bool = True


# -- conversion


def converted(m: Maker, v: Operand, source: Kind, target: Kind) -> Operand:
    """A value of one dtype as another one: truncated to integers, wrapped to narrow ones."""
    if source is target:
        return v
    q = m.q
    if target.letter == "c":
        if isinstance(v, Complex):
            return v
        real = converted(m, v, source, m.f32)
        assert isinstance(real, Value)
        return Complex(real, q.const("f", 0))
    assert isinstance(v, Value)
    if source.letter == "b":
        return q.emit("select", v, q.const(target.letter, 0x3F800000 if target.letter == "f" else 1),
                      q.const(target.letter, 0))  # fmt: skip
    if target.letter == "b":
        return q.emit("ne", v, q.const(v.type, 0), type_="b", attr=v.type)
    if target.letter == "f":
        if v.type != "f":
            v = q.emit("itof" if v.type == "i" else "utof", v)
        return m.narrow(v, target)
    if v.type == "f":
        v = q.emit("ftoi" if target.letter == "i" else "ftou", v)
    elif v.type != target.letter:
        v = q.emit("bitcast", v, type_=target.letter)
    fits = source.letter != "f" and target.size > source.size
    return v if (fits and source.group == "u") or (fits and target.group == "i") else m.narrow(v, target)


# -- builders of rows


def _arithmetic(float_op: str, integer_op: str, complex_op: Callable[[Maker, Complex, Complex], Complex]) -> Emit:
    def emit(m: Maker, kind: Kind, a: Operand, b: Operand) -> Operand:
        if isinstance(a, Complex) and isinstance(b, Complex):
            return complex_op(m, a, b)
        return m.q.emit(float_op, a, b) if kind.letter == "f" else m.narrow(m.q.emit(integer_op, a, b), kind)  # type: ignore[arg-type]  # values

    return emit


def _parts(op: str) -> Callable[[Maker, Complex, Complex], Complex]:
    return lambda m, a, b: Complex(m.q.emit(op, a.real, b.real), m.q.emit(op, a.imag, b.imag))


def _divide(m: Maker, kind: Kind, a: Operand, b: Operand) -> Operand:
    if isinstance(a, Complex) and isinstance(b, Complex):
        return complexes.divide(m, a, b)
    return special.divide(m, kind, a, b)  # type: ignore[arg-type]  # values


def _compare(op: str, swap: bool = False) -> Emit:
    def emit(m: Maker, kind: Kind, a: Operand, b: Operand) -> Operand:
        q = m.q
        if isinstance(a, Complex) and isinstance(b, Complex):
            x, y = (q.emit(op, s, t, type_="b", attr="f") for s, t in ((a.real, b.real), (a.imag, b.imag)))
            return q.emit("band" if op == "eq" else "bor", x, y)
        assert isinstance(a, Value) and isinstance(b, Value)
        if kind.letter == "b":
            differ = m.exclusive(a, b)
            return q.emit("bnot", differ) if op == "eq" else differ
        if swap:
            a, b = b, a
        return q.emit(op, a, b, type_="b", attr=a.type)

    return emit


def _function(name: str) -> Emit:
    return lambda m, kind, *operands: EXPANSIONS[name](m.kit, *operands)


def _either(name: str, real: Emit) -> Emit:
    """A function of a float or of a complex number."""
    of_complex = complexes.FUNCTIONS[name]

    def emit(m: Maker, kind: Kind, v: Operand) -> Operand:
        return of_complex(m, v) if isinstance(v, Complex) else real(m, kind, v)

    return emit


def _extreme(op: str) -> Emit:
    """min, max: of floats with the NaN that either operand is."""

    def emit(m: Maker, kind: Kind, a: Value, b: Value) -> Value:
        return m.extreme(op, kind, a, b)

    return emit


def _rounding(op: str) -> Emit:
    return lambda m, kind, v: m.q.emit(op, v) if kind.letter == "f" else v


def _round(m: Maker, kind: Kind, v: Operand) -> Operand:
    if isinstance(v, Complex):
        return Complex(m.q.emit("fround", v.real), m.q.emit("fround", v.imag))
    return m.q.emit("fround", v) if kind.letter == "f" else v


def _bitwise(op: str, mask_op: str) -> Emit:
    def emit(m: Maker, kind: Kind, a: Value, b: Value) -> Value:
        if kind.letter == "b":
            return m.exclusive(a, b) if op == "xor" else m.q.emit(mask_op, a, b)
        return m.q.emit(op, a, b)

    return emit


def _shift(left: bool) -> Emit:
    def emit(m: Maker, kind: Kind, a: Value, b: Value) -> Value:
        q = m.q
        n = b if b.type == "u" else q.emit("bitcast", b, type_="u")
        far = q.emit("le", q.const("u", 8 * kind.size), n, type_="b", attr="u")
        if left:
            return q.emit("select", far, q.const(a.type, 0), m.narrow(q.emit("shl", a, n), kind))
        if kind.group == "u":
            return q.emit("select", far, q.const(a.type, 0), q.emit("shr", a, n))
        return q.emit("asr", a, q.emit("umin", n, q.const("u", 31)))

    return emit


def _logical(op: str) -> Emit:
    return lambda m, kind, a, b: m.exclusive(a, b) if op == "xor" else m.q.emit(op, a, b)


def _invert(m: Maker, kind: Kind, v: Value) -> Value:
    return m.q.emit("bnot", v) if kind.letter == "b" else m.narrow(m.q.emit("not", v), kind)


def _negative(m: Maker, kind: Kind, v: Operand) -> Operand:
    q = m.q
    if isinstance(v, Complex):
        return Complex(q.emit("fneg", v.real), q.emit("fneg", v.imag))
    return q.emit("fneg", v) if kind.letter == "f" else m.narrow(q.emit("sub", q.const(v.type, 0), v), kind)


def _abs(m: Maker, kind: Kind, v: Operand) -> Operand:
    q = m.q
    if isinstance(v, Complex):
        return EXPANSIONS["hypot"](m.kit, v.real, v.imag)
    if kind.letter == "f":
        return q.emit("fabs", v)
    if kind.group == "u":
        return v
    return m.narrow(q.emit("max", v, q.emit("sub", q.const("i", 0), v)), kind)


def _sign(m: Maker, kind: Kind, v: Operand) -> Operand:
    q = m.q
    if isinstance(v, Complex):
        size = EXPANSIONS["hypot"](m.kit, v.real, v.imag)
        zero = m.kit.equal(size, m.kit.number(0.0))
        found = _divide(m, m.f32, v.real, size), _divide(m, m.f32, v.imag, size)
        return Complex(*(m.kit.select(zero, m.kit.number(0.0), x) for x in found))  # type: ignore[arg-type]  # values
    t = v.type
    zero_, one = q.const(t, 0), q.const(t, 0x3F800000 if t == "f" else 1)
    positive = q.emit("select", q.emit("lt", zero_, v, type_="b", attr=t), one, zero_)
    if kind.group == "u":
        return positive
    minus = q.const(t, 0xBF800000 if t == "f" else 0xFFFFFFFF)
    found_ = q.emit("select", q.emit("lt", v, zero_, type_="b", attr=t), minus, positive)
    return m.kit.unless_nan(v, found_) if t == "f" else found_


def _square(m: Maker, kind: Kind, v: Operand) -> Operand:
    return OPERATIONS["multiply"].emit(m, kind, v, v)


def _power(m: Maker, kind: Kind, a: Operand, b: Operand) -> Operand:
    if isinstance(a, Complex) and isinstance(b, Complex):
        return complexes.power(m, a, b)
    if kind.letter == "f":
        return EXPANSIONS["pow"](m.kit, a, b)
    assert isinstance(a, Value) and isinstance(b, Value)
    q = m.q
    one = q.const(a.type, 1)

    def left(c: Sequence[Value]) -> Value:
        return q.emit("any", q.emit("ne", c[2], q.const("u", 0), type_="b", attr="u"))

    def turn(c: Sequence[Value]) -> Sequence[Value]:
        result, square, n = c
        odd = q.emit("ne", q.emit("and", n, q.const("u", 1)), q.const("u", 0), type_="b", attr="u")
        result = q.emit("mul", result, q.emit("select", odd, square, one))
        return [result, q.emit("mul", square, square), q.emit("shr", n, q.const("u", 1))]

    n = b if b.type == "u" else q.emit("bitcast", b, type_="u")
    return m.narrow(m.loop([one, a, n], [True] * 3, left, turn)[0], kind)


def power_of(m: Maker, kind: Kind, v: Operand, n: int) -> Operand:
    """A value multiplied by itself, n known."""
    times = OPERATIONS["multiply"].emit
    result: Operand | None = None
    while n:
        if n & 1:
            result = v if result is None else times(m, kind, result, v)
        n >>= 1
        if n:
            v = times(m, kind, v, v)
    assert result is not None
    return result


def _test(pattern: Callable[[Maker, Value], Value], either: bool) -> Emit:
    """A property of a float; of integers whether zero has it; of c64 of either or both parts."""

    def emit(m: Maker, kind: Kind, v: Operand) -> Operand:
        if isinstance(v, Complex):
            return m.q.emit("bor" if either else "band", pattern(m, v.real), pattern(m, v.imag))
        if kind.letter != "f":
            return m.q.const("b", not either)
        return pattern(m, v)

    return emit


def _signbit(m: Maker, kind: Kind, v: Value) -> Value:
    return m.q.emit("lt", m.kit.signed(v), m.kit.i(0), type_="b", attr="i")


def _copysign(m: Maker, kind: Kind, a: Value, b: Value) -> Value:
    return m.kit.with_sign(m.q.emit("fabs", a), b)


def _logaddexp(m: Maker, kind: Kind, a: Value, b: Value) -> Value:
    k = m.kit
    top = m.q.emit("fmax", a, b)
    distance = m.q.emit("fneg", m.q.emit("fabs", k.sub(a, b)))
    found = k.add(top, EXPANSIONS["log1p"](k, EXPANSIONS["exp"](k, distance)))
    same = k.equal(a, b)  # infinities: their distance is not a number
    found = k.select(same, k.add(a, k.number(0.6931471805599453)), found)
    return m.nan_of(a, b, found)


def _asinh(m: Maker, kind: Kind, v: Value) -> Value:
    k = m.kit
    x = m.q.emit("fabs", v)
    big = k.less(k.number(1e9), x)
    square = k.mul(x, x)
    root = EXPANSIONS["sqrt"](k, k.add(square, k.number(1.0)))
    small = EXPANSIONS["log1p"](k, k.add(x, _divide(m, kind, square, k.add(root, k.number(1.0)))))  # type: ignore[arg-type]  # values
    large = k.add(EXPANSIONS["log"](k, x), k.number(0.6931471805599453))
    return k.unless_nan(v, k.with_sign(k.select(big, large, small), v))


def _atanh(m: Maker, kind: Kind, v: Value) -> Value:
    k = m.kit
    x = m.q.emit("fabs", v)
    ratio = _divide(m, kind, k.add(x, x), k.sub(k.number(1.0), x))
    half = k.mul(EXPANSIONS["log1p"](k, ratio), k.number(0.5))
    return k.unless_nan(v, k.with_sign(half, v))


def _reciprocal(m: Maker, kind: Kind, v: Operand) -> Operand:
    one: Operand = m.kit.number(1.0)
    return _divide(m, kind, Complex(m.kit.number(1.0), m.kit.number(0.0)) if isinstance(v, Complex) else one, v)


def _conj(m: Maker, kind: Kind, v: Operand) -> Operand:
    return Complex(v.real, m.q.emit("fneg", v.imag)) if isinstance(v, Complex) else v


def _real(m: Maker, kind: Kind, v: Operand) -> Operand:
    return v.real if isinstance(v, Complex) else v


def _imag(m: Maker, kind: Kind, v: Operand) -> Operand:
    return v.imag if isinstance(v, Complex) else m.q.const(kind.letter, 0)


def _same(m: Maker, kind: Kind, v: Operand) -> Operand:
    return v


def _nan(m: Maker, v: Value) -> Value:
    return m.kit.less(m.kit.u(0x7F800000), m.kit.bits(m.kit.abs(v)))


def _infinite(m: Maker, v: Value) -> Value:
    return m.kit.equal(m.kit.bits(m.kit.abs(v)), m.kit.u(0x7F800000))


def _finite(m: Maker, v: Value) -> Value:
    return m.finite(v)


def _rows() -> Sequence[Operation]:
    def row(name: str, groups: str, result: str, emit: Emit, doc: str, **more: Any) -> Operation:
        return Operation(name, more.pop("arity", 1), groups, result, emit, doc, **more)

    def two(name: str, groups: str, result: str, emit: Emit, doc: str, **more: Any) -> Operation:
        return Operation(name, 2, groups, result, emit, doc, **more)

    def real(name: str, doc: str, emit: Emit | None = None, arity: int = 1, **more: Any) -> Operation:
        """A function of floats, and of complex numbers where there is one, within its documented error."""
        both = name in complexes.FUNCTIONS
        emit = emit or _function(name)
        return Operation(
            name, arity, "fc" if both else "f", "same", _either(name, emit) if both else emit, doc, exact=False, **more
        )

    return (
        two("add", "iufc", "same", _arithmetic("fadd", "add", _parts("fadd")), "x1 + x2."),
        two("subtract", "iufc", "same", _arithmetic("fsub", "sub", _parts("fsub")), "x1 - x2."),
        two("multiply", "iufc", "same", _arithmetic("fmul", "mul", complexes.times), "x1 * x2."),
        two("divide", "iufc", "float", _divide, "x1 / x2; integers become float32.", exact=False),
        two("floor_divide", "iuf", "same", special.floor_divide, "x1 / x2, rounded down.", exact=False),
        two("remainder", "iuf", "same", special.remainder, "x1 - x2 * floor(x1 / x2), signed as x2.", exact=False),
        two("pow", "iufc", "same", _power, "x1 to the power x2.", ufunc="power", exact=False),
        two("maximum", "iuf", "same", _extreme("max"), "The larger; NaN where either is."),
        two("minimum", "iuf", "same", _extreme("min"), "The smaller; NaN where either is."),
        two("equal", "biufc", "bool", _compare("eq"), "x1 == x2."),
        two("not_equal", "biufc", "bool", _compare("ne"), "x1 != x2."),
        two("less", "iuf", "bool", _compare("lt"), "x1 < x2."),
        two("less_equal", "iuf", "bool", _compare("le"), "x1 <= x2."),
        two("greater", "iuf", "bool", _compare("lt", True), "x1 > x2."),
        two("greater_equal", "iuf", "bool", _compare("le", True), "x1 >= x2."),
        two("bitwise_and", "biu", "same", _bitwise("and", "band"), "x1 & x2."),
        two("bitwise_or", "biu", "same", _bitwise("or", "bor"), "x1 | x2."),
        two("bitwise_xor", "biu", "same", _bitwise("xor", ""), "x1 ^ x2."),
        two("bitwise_left_shift", "iu", "same", _shift(True), "x1 << x2.", ufunc="left_shift"),
        two("bitwise_right_shift", "iu", "same", _shift(False), "x1 >> x2; the sign moves in.", ufunc="right_shift"),
        row("bitwise_invert", "biu", "same", _invert, "~x.", ufunc="invert"),
        two("logical_and", "b", "bool", _logical("band"), "Both."),
        two("logical_or", "b", "bool", _logical("bor"), "Either."),
        two("logical_xor", "b", "bool", _logical("xor"), "Exactly one."),
        row("logical_not", "b", "bool", _invert, "Not."),
        row("negative", "iufc", "same", _negative, "-x."),
        row("positive", "iufc", "same", _same, "x."),
        row("abs", "iufc", "real", _abs, "The absolute value.", ufunc="absolute"),
        row("sign", "iufc", "same", _sign, "-1, 0 or 1; NaN of NaN; of c64 x / abs(x)."),
        row("square", "iufc", "same", _square, "x * x."),
        row("ceil", "iuf", "same", _rounding("fceil"), "The smallest integral value not below x."),
        row("floor", "iuf", "same", _rounding("ffloor"), "The largest integral value not above x."),
        row("trunc", "iuf", "same", _rounding("ftrunc"), "x without its fraction."),
        row("round", "iufc", "same", _round, "The nearest integral value, ties to even; of both parts.", ufunc="rint"),
        row("isfinite", "iufc", "bool", _test(_finite, False), "Neither infinite nor NaN."),
        row("isinf", "iufc", "bool", _test(_infinite, True), "Infinite."),
        row("isnan", "iufc", "bool", _test(_nan, True), "NaN."),
        row("signbit", "f", "bool", _signbit, "The sign is set."),
        two("copysign", "f", "same", _copysign, "The size of x1 with the sign of x2."),
        row("real", "iufc", "real", _real, "The real part.", ufunc="-"),
        row("imag", "c", "real", _imag, "The imaginary part.", ufunc="-"),
        row("conj", "iufc", "same", _conj, "The complex conjugate.", ufunc="conjugate"),
        real("sqrt", "The square root."),
        real("exp", "e to the power x."),
        real("expm1", "exp(x) - 1."),
        real("log", "The natural logarithm."),
        real("log1p", "log(1 + x)."),
        real("log2", "The logarithm to base 2."),
        real("log10", "The logarithm to base 10."),
        real("sin", "The sine.", special.sine),
        real("cos", "The cosine.", special.cosine),
        real("tan", "The tangent.", special.tangent),
        real("asin", "The inverse sine.", ufunc="arcsin"),
        real("acos", "The inverse cosine.", ufunc="arccos"),
        real("atan", "The inverse tangent.", ufunc="arctan"),
        real("sinh", "The hyperbolic sine."),
        real("cosh", "The hyperbolic cosine."),
        real("tanh", "The hyperbolic tangent."),
        real("asinh", "The inverse hyperbolic sine.", _asinh, ufunc="arcsinh"),
        real("acosh", "The inverse hyperbolic cosine.", special.acosh, ufunc="arccosh"),
        real("atanh", "The inverse hyperbolic tangent.", _atanh, ufunc="arctanh"),
        real("atan2", "The angle of the point (x2, x1).", special.atan2, 2, ufunc="arctan2"),
        real("hypot", "The length of (x1, x2).", arity=2),
        real("logaddexp", "log(exp(x1) + exp(x2)).", _logaddexp, arity=2),
        real("exp2", "2 to the power x.", standard=False),
        real("erf", "The error function.", standard=False, ufunc="-"),
        real("rsqrt", "1 / sqrt(x).", standard=False, ufunc="-"),
        row("reciprocal", "fc", "same", _reciprocal, "1 / x.", standard=False, exact=False),
        real("fmod", "The remainder of division toward zero.", special.fmod, 2, standard=False),
    )  # fmt: skip


OPERATIONS: Final[dict[str, Operation]] = {row.name: row for row in _rows()}
"""Elementwise operations by name."""
