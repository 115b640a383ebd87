"""Functions of the language and casts, as KIR: exact ones, and what special functions are made of.

Special functions are expanded by `qpu.lang.math_roots`, `math_exp` and `math_trig`; the error of each over all
arguments is measured by the tests and listed in the documentation. `fast.` functions are the unit alone.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, Final

from qpu.errors import counted
from qpu.lang import math_exp, math_roots, math_trig, surface
from qpu.lang.front import Front
from qpu.lang.kir import Value
from qpu.lang.math_kit import Kit
from qpu.lang.math_roots import hypot
from qpu.lang.operators import join, number, select, truth
from qpu.lang.types import DTYPES, LETTER
from qpu.lang.values import POISON, Complex, Packed, Poison

__all__ = ["EXPANSIONS", "call_function", "cast"]


# -- exact functions


def _where(f: Front, node: ast.AST, condition: Any, a: Any, b: Any) -> Any:
    if not f.is_value(condition):
        return a if condition else b
    return select(f, node, truth(f, _expression(node), condition), a, b)


def _expression(node: ast.AST) -> ast.expr:
    return node if isinstance(node, ast.expr) else ast.copy_location(ast.Constant(None), node)


def _pick(names: dict[str, str]) -> Callable[..., Any]:
    """A function of two operands of one type, an operation for each type."""

    def pick(f: Front, node: ast.AST, *args: Any) -> Any:
        result = args[0]
        for other in args[1:]:
            type_ = join(f, result, other, node)
            result = f.q.emit(names[type_], f.convert(result, type_, node), f.convert(other, type_, node))
        return result

    return pick


_minimum = _pick({"f": "fmin", "i": "min", "u": "umin"})
_maximum = _pick({"f": "fmax", "i": "max", "u": "umax"})


def _clamp(f: Front, node: ast.AST, x: Any, low: Any, high: Any) -> Any:
    return _minimum(f, node, _maximum(f, node, x, low), high)


def _value(f: Front, node: ast.AST, x: Any, kinds: str = "fiu") -> Value:
    v = f.lift(x, node)
    if v.type not in kinds:
        allowed = ", ".join(LETTER[k] for k in kinds)
        raise f.error(node, "lang-type", f"the function takes {allowed}, not {f.describe(x)}")
    return v


def _float(f: Front, node: ast.AST, x: Any) -> Value:
    if isinstance(x, bool) or (isinstance(x, Value) and x.type == "b"):
        raise f.error(node, "lang-bool", "a condition (bool) in arithmetic", help="where(condition, 1.0, 0.0)")
    if isinstance(x, Complex | Packed):
        raise f.error(node, "lang-type", f"the function takes f32, not {f.describe(x)}")
    return f.convert(x, "f", node)


def _abs(f: Front, node: ast.AST, x: Any) -> Value:
    if isinstance(x, Complex):
        return hypot(Kit(f.q, f.isa), _float(f, node, x.real), _float(f, node, x.imag))
    v = _value(f, node, x)
    q = f.q
    if v.type == "f":
        return q.emit("fabs", v)
    return v if v.type == "u" else q.emit("max", v, q.emit("sub", q.const("i", 0), v))


def _sign(f: Front, node: ast.AST, x: Any) -> Value:
    v = _value(f, node, x)
    q = f.q
    zero, one = q.const(v.type, 0), f.lift(1, node, v.type)
    positive = q.emit("select", q.emit("lt", zero, v, type_="b", attr=v.type), one, zero)
    if v.type == "u":
        return positive
    minus = f.lift(-1, node, v.type)
    return q.emit("select", q.emit("lt", v, zero, type_="b", attr=v.type), minus, positive)


def _fma(f: Front, node: ast.AST, a: Any, b: Any, c: Any) -> Value:
    return f.q.emit("fadd", f.q.emit("fmul", _float(f, node, a), _float(f, node, b)), _float(f, node, c))


def _unary_float(op: str) -> Callable[..., Value]:
    return lambda f, node, x: f.q.emit(op, _float(f, node, x))


def _bitcast(f: Front, node: ast.AST, x: Any, type_: Any) -> Value:
    if not isinstance(type_, surface.ScalarType) or type_.name not in ("f32", "i32", "u32"):
        raise f.error(node, "lang-type", f"bitcast to {type_}", allowed="f32, i32, u32")
    if isinstance(x, Packed):
        x = x.word
    return f.q.emit("bitcast", _value(f, node, x), type_=DTYPES[type_.name].value)


def _clz(f: Front, node: ast.AST, x: Any) -> Value:
    return f.q.emit("clz", _value(f, node, x, "iu"))


def _ror(f: Front, node: ast.AST, x: Any, n: Any) -> Value:
    return f.q.emit("ror", _value(f, node, x, "iu"), f.convert(n, "u", node))


def _mul24(f: Front, node: ast.AST, a: Any, b: Any) -> Value:
    type_ = join(f, a, b, node)
    if type_ == "f":
        raise f.error(node, "lang-type", "mul24 of f32", allowed="i32, u32")
    op = "smul24" if type_ == "i" else "umul24"
    return f.q.emit(op, f.convert(a, type_, node), f.convert(b, type_, node))


def _popcount(f: Front, node: ast.AST, x: Any) -> Value:
    q = f.q
    v = q.emit("bitcast", _value(f, node, x, "iu"), type_="u")

    def step(v: Value, n: int, mask: int) -> Value:
        m = q.const("u", mask)
        return q.emit("add", q.emit("and", v, m), q.emit("and", q.emit("shr", v, q.const("u", n)), m))

    for n, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF)):
        v = step(v, n, mask)
    return q.emit("bitcast", v, type_="i")


def _pattern(f: Front, node: ast.AST, x: Any) -> Value:
    return f.q.emit("bitcast", f.q.emit("fabs", _float(f, node, x)), type_="u")


def _isnan(f: Front, node: ast.AST, x: Any) -> Value:
    return f.q.emit("lt", f.q.const("u", 0x7F800000), _pattern(f, node, x), type_="b", attr="u")


def _isinf(f: Front, node: ast.AST, x: Any) -> Value:
    return f.q.emit("eq", _pattern(f, node, x), f.q.const("u", 0x7F800000), type_="b", attr="u")


def _isfinite(f: Front, node: ast.AST, x: Any) -> Value:
    return f.q.emit("lt", _pattern(f, node, x), f.q.const("u", 0x7F800000), type_="b", attr="u")


def _copysign(f: Front, node: ast.AST, x: Any, y: Any) -> Value:
    q = f.q
    size = q.emit("bitcast", q.emit("fabs", _float(f, node, x)), type_="u")
    sign = q.emit("and", q.emit("bitcast", _float(f, node, y), type_="u"), q.const("u", 0x80000000))
    return q.emit("bitcast", q.emit("or", size, sign), type_="f")


def _expansion(make: Callable[..., Value]) -> Callable[..., Value]:
    """A function of floats that `qpu.lang.math_*` expands for the instruction set."""
    return lambda f, node, *args: make(Kit(f.q, f.isa), *(_float(f, node, x) for x in args))


EXPANSIONS: Final[dict[str, Callable[..., Value]]] = {
    "fmod": math_roots.fmod,
    "recip": math_roots.reciprocal,
    "rsqrt": math_roots.reciprocal_root,
    "sqrt": math_roots.root,
    "hypot": hypot,
    "pow": math_exp.power,
    **{name: getattr(math_exp, name)
       for name in ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sinh", "cosh", "tanh", "erf")},
    **{name: getattr(math_trig, name) for name in ("sin", "cos", "tan", "asin", "acos", "atan", "atan2")},
}  # fmt: skip
"""Functions of floats that are made of simpler operations, by name; each takes a Kit and values."""

FAST: Final = {"recip": "recip", "rsqrt": "rsqrt", "exp2": "exp2", "log2": "log2", "sin": "sinpi"}

LOWER: Final[dict[str, Callable[..., Any]]] = {
    "where": _where,
    "minimum": _minimum,
    "maximum": _maximum,
    "clamp": _clamp,
    "abs": _abs,
    "sign": _sign,
    "fma": _fma,
    "floor": _unary_float("ffloor"),
    "ceil": _unary_float("fceil"),
    "trunc": _unary_float("ftrunc"),
    "rint": _unary_float("fround"),
    "bitcast": _bitcast,
    "clz": _clz,
    "ror": _ror,
    "mul24": _mul24,
    "popcount": _popcount,
    "isnan": _isnan,
    "isinf": _isinf,
    "isfinite": _isfinite,
    "copysign": _copysign,
    **{name: _expansion(make) for name, make in EXPANSIONS.items()},
}
"""How each function is made."""


def call_function(
    f: Front, node: ast.AST, function: surface.Function, args: list[Any], keywords: dict[str, Any]
) -> Any:
    """A call of a function of the language."""
    if keywords:
        raise f.error(node, "lang-call", f"{function.__name__} takes no keywords")
    many = function.name in ("minimum", "maximum") and len(args) >= 2
    if len(args) != function.arity and not many:
        raise f.error(
            node, "lang-call", f"{function.__name__} takes {counted(function.arity, 'argument')}, {len(args)} are given"
        )
    if any(isinstance(a, Poison) for a in args):
        return POISON
    if not any(f.is_value(a) for a in args) and function.name not in ("bitcast",):
        try:
            return function.number(*args)
        except Exception as error:
            raise f.error(node, "lang-python", f"{type(error).__name__}: {error}") from None
    if function.name == "sin" and function.fast and f.isa == "vc4":  # its unit has no sine
        m = Kit(f.q, f.isa)
        return math_trig.sin(m, m.mul(_float(f, node, args[0]), m.number(math_trig.PI)))
    if function.fast:
        return f.q.emit(FAST[function.name], _float(f, node, args[0]))
    return LOWER[function.name](f, node, *args)


# -- casts


def cast(
    f: Front, node: ast.AST, type_: surface.ScalarType | surface.Cast, args: list[Any], keywords: dict[str, Any]
) -> Any:
    """f32(x), u8(x), u8.sat(x), u8x4(a, b, c, d), c64(re, im)."""
    t = DTYPES[type_.name]
    if t.lanes > 1:
        return _pack(f, node, t.name, args)
    if t.name == "c64":
        if len(args) not in (1, 2):
            raise f.error(node, "lang-call", f"c64 takes a real and an imaginary part, {len(args)} are given")
        if isinstance(args[0], Complex):
            return args[0]
        parts = [f.convert(a, "f", node) for a in args]
        return Complex(parts[0], parts[1] if len(parts) == 2 else f.q.const("f", 0))
    if len(args) != 1 or keywords:
        raise f.error(node, "lang-call", f"{t} takes one value, {len(args)} are given")
    x = args[0]
    if isinstance(x, Complex):
        raise f.error(node, "lang-type", f"c64 has no conversion to {t}", help="its .real or abs(...)")
    q = f.q
    if isinstance(type_, surface.Cast):
        return _saturate(f, node, t.name, x)
    if t.name == "f16":
        return q.emit("h2f", q.emit("f2h", f.convert(x, "f", node)))
    if isinstance(x, Packed):
        x = x.word
    v = f.convert(x, t.value, node)
    if t.size == 4:
        return v
    if t.low < 0:
        return q.emit("sext8" if t.size == 1 else "sext16", v)
    return q.emit("and", v, q.const("i", t.high))


def _saturate(f: Front, node: ast.AST, name: str, x: Any) -> Any:
    t = DTYPES[name]
    q = f.q
    if not t.integer:
        raise f.error(node, "lang-type", f"{t}.sat", allowed="integer types")
    v = f.lift(x, node)
    if v.type == "f":
        low, high = number(f, float(t.low)), number(f, float(t.high if t.size < 4 else t.high - 127))
        v = q.emit("fmin", q.emit("fmax", v, low), high)
        return f.convert(v, t.value, node)
    if t.size == 4:
        if v.type == t.value:
            return v
        if t.value == "i":
            return f.convert(q.emit("umin", v, q.const("u", t.high)), "i", node)
        return f.convert(q.emit("max", v, q.const("i", 0)), "u", node)
    if v.type == "u":
        return f.convert(q.emit("umin", v, q.const("u", t.high)), "i", node)
    low, high = q.const("i", t.low & 0xFFFFFFFF), q.const("i", t.high)
    return q.emit("min", q.emit("max", f.convert(v, "i", node), low), high)


def _pack(f: Front, node: ast.AST, name: str, args: list[Any]) -> Packed:
    t = DTYPES[name]
    if len(args) == 1 and isinstance(args[0], Packed):
        return Packed(args[0].word, t)
    if len(args) == 1 and t.lanes > 1:
        return Packed(f.convert(args[0], "u", node), t)
    if len(args) != t.lanes:
        raise f.error(node, "lang-call", f"{t} takes {counted(t.lanes, 'value')}, or one word")
    q = f.q
    width = 32 // t.lanes
    word: Value | None = None
    for j, x in enumerate(args):
        v = q.emit("and", f.convert(f.convert(x, "i", node), "u", node), q.const("u", (1 << width) - 1))
        v = q.emit("shl", v, q.const("u", width * j))
        word = v if word is None else q.emit("or", word, v)
    assert word is not None
    return Packed(word, t)
