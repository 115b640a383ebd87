"""Operators of the kernel language on values: common types, arithmetic, comparisons, conditions, selection."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from qpu.core.scalar_lanes import float_bits
from qpu.lang import math_roots
from qpu.lang.front import Front
from qpu.lang.kir import Value, values_made
from qpu.lang.math_kit import Kit
from qpu.lang.surface import DeviceRange, Unrolled
from qpu.lang.types import LETTER
from qpu.lang.values import POISON, Bound, Complex, Index, Packed, Poison, View

__all__ = ["binary", "both", "compare", "decided", "device_range_error", "effect_error", "exclusive", "has_value",
           "is_mask", "iterate", "join", "one_of", "own", "python_operation", "repeated", "select",
           "truth"]  # fmt: skip

PYTHON_TURNS = 100_000  # of a loop that Python runs when compiling
UNROLLED_VALUES = 20_000  # operations that such a loop may make: the time of later passes grows with their square

_PYTHON: Final[dict[type[ast.AST], Callable[..., Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.MatMult: operator.matmul,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
_FLOAT: Final[dict[type[ast.AST], str]] = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul"}
_INTEGER: Final[dict[type[ast.AST], str]] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "shl",
    ast.FloorDiv: "div",
    ast.Mod: "mod",
}
_COMPARE: Final[dict[type[ast.AST], tuple[str, bool]]] = {
    ast.Lt: ("lt", False),
    ast.Gt: ("lt", True),
    ast.LtE: ("le", False),
    ast.GtE: ("le", True),
    ast.Eq: ("eq", False),
    ast.NotEq: ("ne", False),
}
_WORDS: Final[dict[type[ast.AST], str]] = {ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"}
_MASKS: Final = {ast.BitAnd: "band", ast.BitOr: "bor"}


def has_value(f: Front, value: Any) -> bool:
    """Whether a value, or a list or tuple that holds one, exists on the GPU only."""
    if isinstance(value, list | tuple):
        return any(has_value(f, item) for item in value)
    return f.is_value(value)


def own(f: Front, made: Any) -> Any:
    """Note that the evaluation itself made this object, so that it may change it."""
    f.own[id(made)] = made
    f.born.setdefault(id(made), len(f.born))
    return made


def iterate(f: Front, node: ast.expr, items: Any) -> Any:
    """An iterator over a Python iterable. Raises: LangError."""
    if f.is_value(items) or isinstance(items, View | Bound):
        help = f"for j in range({items.name}.size)" if isinstance(items, View) else None
        message = f"{f.describe(items)} cannot be iterated here"
        raise f.error(node, "lang-type", message, allowed="ranges, lists, tuples", help=help)
    if isinstance(items, DeviceRange):
        raise device_range_error(f, node)
    if isinstance(items, Unrolled):
        items = items.items
    try:
        found = iter(items)
    except TypeError as error:
        raise f.error(node, "lang-python", f"TypeError: {error}") from None
    return repeated(f, node, found)


def repeated(f: Front, node: ast.expr, items: Iterable[Any]) -> Iterator[Any]:
    """The items of a loop that Python runs when compiling. Raises: LangError where its turns make too much."""
    first = values_made()
    for count, item in enumerate(items, 1):
        if count > PYTHON_TURNS:
            found = f"this loop has more than {PYTHON_TURNS} turns"
        else:
            yield item
            if values_made() - first <= UNROLLED_VALUES:
                continue
            found = f"{count} turns of this loop make more than {UNROLLED_VALUES} operations"
        raise f.error(node, "lang-size", f"{found}: it is repeated when compiling", allowed="a few thousand operations",
                      help="let the GPU count: `for` over a `range` without unroll, or a `while` over a counter that "
                      "is a value, such as `n = i32(0)`")  # fmt: skip


def device_range_error(f: Front, node: ast.AST) -> Any:
    """The error for a range with bounds of the GPU where Python wants to go through it."""
    help = "a `for` statement over the range itself, or bounds that are known when compiling"
    return f.error(node, "lang-varying", "only the GPU knows how many turns this range has", help=help)


def effect_error(f: Front, node: ast.AST, name: str) -> Any:
    return f.error(
        node,
        "lang-effect",
        f"{name!r} was made outside the kernel and would be changed each time the body is evaluated",
        allowed="changing lists that the kernel itself makes",
        help=f"copy it: mine = list({name})",
    )


# -- operators


def join(f: Front, a: Any, b: Any, node: ast.AST) -> str:
    """The common type letter of two operands, at least one of which is a value. Python numbers are weak."""
    types = [x.type if isinstance(x, Value) else "i" if isinstance(x, Index) else "" for x in (a, b)]
    for x in (a, b):
        if isinstance(x, Poison):
            f.silent()
        if isinstance(x, Complex | Packed | View):
            raise f.error(node, "lang-type", f"{f.describe(x)} in arithmetic", help="use its parts")
    if "b" in types or any(isinstance(x, bool) for x in (a, b)):
        raise f.error(
            node,
            "lang-bool",
            "a condition (bool) in arithmetic",
            allowed="and, or, not, where(condition, a, b)",
            help="where(condition, 1, 0), or i32(condition)",
        )
    if "" in types:
        other = types[0] or types[1]
        weak = a if not types[0] else b
        return "f" if isinstance(weak, float) else other
    if "f" in types:
        return "f"
    if types[0] != types[1]:
        names = [ast.unparse(x) for x in _operands(node)]
        first, second = (LETTER[t] for t in types)
        example = f"{second}({names[0]}) or {first}({names[1]})" if len(names) == 2 else "i32(...) or u32(...)"
        raise f.error(node, "lang-type", f"{first} with {second}: which one is meant?", help=f"write {example}")
    return types[0]


def _operands(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.Compare) and len(node.comparators) == 1:
        return [node.left, node.comparators[0]]
    return []


def python_operation(f: Front, node: ast.expr, kind: type[ast.AST], *operands: Any) -> Any:
    """What Python itself makes of an operation; its errors are the user's."""
    try:
        result = _PYTHON[kind](*operands)
    except Exception as error:
        raise f.error(node, "lang-python", f"{type(error).__name__}: {error}") from None
    return own(f, result) if isinstance(result, list | dict | set) else result


def binary(f: Front, node: ast.expr, kind: type[ast.AST], a: Any, b: Any) -> Any:
    """a op b."""
    if isinstance(a, Poison) or isinstance(b, Poison):
        return POISON
    _refuse_views(f, node, a, b)
    if not f.is_value(a) and not f.is_value(b):
        return python_operation(f, node, kind, a, b)
    if isinstance(a, Complex) or isinstance(b, Complex):
        return complex_binary(f, node, kind, a, b)
    if isinstance(a, Index) and kind in (ast.Add, ast.Sub) and isinstance(b, int) and not isinstance(b, bool):
        return a.moved(b if kind is ast.Add else -b)
    if isinstance(b, Index) and kind is ast.Add and isinstance(a, int) and not isinstance(a, bool):
        return b.moved(a)
    if is_mask(a) and is_mask(b):
        return _mask_operation(f, node, kind, a, b)
    q = f.q
    if kind is ast.Pow:
        return _power(f, node, a, b)
    if kind in (ast.LShift, ast.RShift):
        return _shifted(f, node, kind, a, b)
    type_ = "f" if kind is ast.Div else join(f, a, b, node)
    if kind is ast.Div:
        join(f, a, b, node)
        return divide(f, f.convert(a, "f", node), f.convert(b, "f", node))
    if type_ == "f":
        if kind in (ast.FloorDiv, ast.Mod):
            return floor_divide(f, kind is ast.Mod, f.convert(a, "f", node), f.convert(b, "f", node))
        op = _FLOAT.get(kind)
    else:
        op = _INTEGER.get(kind)
    if op is None:
        if kind is ast.MatMult:
            help = "qpu.kernels.gemm on the host, or a loop that adds products"
            raise f.error(node, "lang-type", f"@ of {LETTER[type_]}, which are single numbers", help=help)
        sign = kind.__name__
        raise f.error(node, "lang-type", f"{sign} of {LETTER[type_]}", help="cast to i32 or u32, or bitcast")
    return q.emit(op, f.convert(a, type_, node), f.convert(b, type_, node))


def _refuse_views(f: Front, node: ast.expr, *operands: Any) -> None:
    for x in operands:
        if isinstance(x, View | Bound) or (x is f.kernel_object and x is not None):
            example = f"{x.name}[i]" if isinstance(x, View) else None
            raise f.error(node, "lang-type", f"{f.describe(x)} in arithmetic", help=example)


def _mask_operation(f: Front, node: ast.expr, kind: type[ast.AST], a: Any, b: Any) -> Any:
    x, y = f.lift(a, node, "b"), f.lift(b, node, "b")
    if kind in _MASKS:
        return f.q.emit(_MASKS[kind], x, y)
    if kind is ast.BitXor:
        return exclusive(f, x, y)
    raise f.error(node, "lang-bool", "a condition (bool) in arithmetic", help="where(condition, a, b)")


def exclusive(f: Front, x: Value, y: Value) -> Value:
    """Exactly one of two masks."""
    q = f.q
    return q.emit("band", q.emit("bor", x, y), q.emit("bnot", q.emit("band", x, y)))


def _shifted(f: Front, node: ast.expr, kind: type[ast.AST], a: Any, b: Any) -> Value:
    type_ = a.type if isinstance(a, Value) else "i"
    if type_ not in ("i", "u") or isinstance(a, float):
        raise f.error(node, "lang-type", f"a shift of {f.describe(a)}", help="cast to i32 or u32, or bitcast")
    x = f.convert(a, type_, node)
    if isinstance(b, float) or (isinstance(b, Value) and b.type not in ("i", "u")):
        raise f.error(node, "lang-type", f"a shift by {f.describe(b)}", allowed="i32, u32; counts are modulo 32")
    n = f.convert(b, "u", node)
    if kind is ast.LShift:
        return f.q.emit("shl", x, n)
    return f.q.emit("asr" if type_ == "i" else "shr", x, n)


def _power(f: Front, node: ast.expr, a: Any, b: Any) -> Any:
    if not isinstance(b, int) or isinstance(b, bool) or not 0 <= b <= 64:
        raise f.error(
            node,
            "lang-type",
            f"** {f.describe(b)}",
            allowed="integer exponents 0..64 known when compiling",
            help="pow(x, y)",
        )
    v = f.lift(a, node)
    if v.type == "b":
        raise f.error(node, "lang-bool", "a condition (bool) in arithmetic", help="where(condition, a, b)")
    if b == 0:
        return f.lift(1, node, v.type)
    op = "fmul" if v.type == "f" else "mul"
    result: Value | None = None
    square, n = v, b
    while True:
        if n & 1:
            result = square if result is None else f.q.emit(op, result, square)
        n >>= 1
        if not n:
            break
        square = f.q.emit(op, square, square)
    assert result is not None
    return result


def compare(f: Front, node: ast.expr, kind: type[ast.AST], a: Any, b: Any) -> Any:
    """a op b for a comparison."""
    if isinstance(a, Poison) or isinstance(b, Poison):
        return POISON
    if kind not in (ast.Is, ast.IsNot):
        _refuse_views(f, node, a, b)
    if not f.is_value(a) and not f.is_value(b):
        return python_operation(f, node, kind, a, b)
    if kind not in _COMPARE:
        sign = _WORDS[kind]
        help = "a == b or a == c" if kind in (ast.In, ast.NotIn) else "a value of the GPU is never None"
        raise f.error(node, "lang-syntax", f"`{sign}` with a value of the GPU", allowed="< <= > >= == !=", help=help)
    masks = [is_mask(x) for x in (a, b)]
    if all(masks) and kind in (ast.Eq, ast.NotEq):
        differ = exclusive(f, f.lift(a, node, "b"), f.lift(b, node, "b"))
        return differ if kind is ast.NotEq else f.q.emit("bnot", differ)
    type_ = join(f, a, b, node)
    op, swap = _COMPARE[kind]
    x, y = f.convert(a, type_, node), f.convert(b, type_, node)
    if swap:
        x, y = y, x
    return f.q.emit(op, x, y, type_="b", attr=type_)


def both(f: Front, node: ast.AST, a: Any, b: Any) -> Any:
    """a and b, where either may be known already."""
    if isinstance(a, Poison) or isinstance(b, Poison):
        return POISON
    if not f.is_value(a):
        return b if a else a
    if not f.is_value(b):
        return a if b else b
    return f.q.emit("band", a, b)


def truth(f: Front, node: ast.expr, value: Any) -> Value:
    """A value as a condition: masks as they are, numbers by being non-zero. Raises: LangError."""
    if isinstance(value, Poison):
        f.silent()
    if isinstance(value, View | Complex | Packed):
        raise f.error(node, "lang-type", f"{f.describe(value)} as a condition")
    v = f.lift(value, node)
    if v.type == "b":
        return v
    return f.q.emit("ne", v, f.q.const(v.type, 0), type_="b", attr=v.type)


def decided(f: Front, node: ast.AST, value: Any) -> bool:
    """What Python says of a condition without a value of the GPU. Raises: LangError for what only stands for something,
    which Python would call true.
    """
    if isinstance(value, View | Bound) or (value is f.kernel_object and value is not None):
        help = f"{value.name}.size > 0" if isinstance(value, View) else "call it, and test what it gives"
        raise f.error(node, "lang-type", f"{f.describe(value)} as a condition", help=help)
    return bool(value)


def is_mask(value: Any) -> bool:
    """Whether a value is a condition."""
    return isinstance(value, bool) or (isinstance(value, Value) and value.type == "b")


def one_of(f: Front, node: ast.expr, conjunction: bool, a: Any, condition: Value, b: Any) -> Any:
    """a and b, a or b, where they are numbers: one of them, as in Python. condition: the truth of a."""
    if is_mask(a) or is_mask(b):
        what = f"{f.describe(a)} {'and' if conjunction else 'or'} {f.describe(b)}, which is a condition or a number"
        raise f.error(node, "lang-bool", what, allowed="two conditions, or two numbers", help="compare: x != 0")
    return select(f, node, condition, b, a) if conjunction else select(f, node, condition, a, b)


def select(f: Front, node: ast.AST, condition: Value, a: Any, b: Any) -> Any:
    """a where the condition holds, else b; leaf by leaf for tuples and lists."""
    if isinstance(a, Poison) or isinstance(b, Poison):
        return POISON
    if a is b or (not f.is_value(a) and not f.is_value(b) and type(a) is type(b) and a == b and not has_value(f, a)):
        return a
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        parts = [select(f, node, condition, x, y) for x, y in zip(a, b, strict=True)]
        return tuple(parts) if isinstance(a, tuple) else own(f, parts)
    if isinstance(a, Complex) and isinstance(b, Complex):
        return Complex(select(f, node, condition, a.real, b.real), select(f, node, condition, a.imag, b.imag))
    if isinstance(a, Packed) and isinstance(b, Packed) and a.dtype is b.dtype:
        return Packed(select(f, node, condition, a.word, b.word), a.dtype)
    masks = [is_mask(x) for x in (a, b)]
    if all(masks):
        q, x, y = f.q, f.lift(a, node, "b"), f.lift(b, node, "b")
        return q.emit("bor", q.emit("band", condition, x), q.emit("band", q.emit("bnot", condition), y))
    if not f.is_value(a) and not f.is_value(b):
        type_ = "f" if isinstance(a, float) or isinstance(b, float) else "i"
        for x in (a, b):
            f.lift(x, node, type_)
    else:
        type_ = join(f, a, b, node)
    return f.q.emit("select", condition, f.convert(a, type_, node), f.convert(b, type_, node))


def number(f: Front, value: float) -> Value:
    """A float constant."""
    return f.q.const("f", float_bits(value))


# -- division


def divide(f: Front, a: Value, b: Value) -> Value:
    """a / b of floats."""
    return math_roots.divide(Kit(f.q, f.isa), a, b)


def floor_divide(f: Front, remainder: bool, a: Value, b: Value) -> Value:
    """a // b and a % b of floats, rounded down; the remainder is that of NumPy, exact but for the sum with b."""
    kit = Kit(f.q, f.isa)
    rest = math_roots.floored(kit, math_roots.fmod(kit, a, b), b)
    return rest if remainder else math_roots.whole_quotient(kit, a, b, divide(f, kit.sub(a, rest), b))


# -- complex numbers


def complex_binary(f: Front, node: ast.expr, kind: type[ast.AST], a: Any, b: Any) -> Complex:
    """a op b of which at least one is c64."""
    x, y = _complex(f, node, a), _complex(f, node, b)
    q = f.q
    if kind in (ast.Add, ast.Sub):
        op = _FLOAT[kind]
        return Complex(q.emit(op, x.real, y.real), q.emit(op, x.imag, y.imag))
    if kind is ast.Mult:
        if not isinstance(a, Complex) or not isinstance(b, Complex):  # by a real number
            z, factor = (x, y.real) if isinstance(a, Complex) else (y, x.real)
            return Complex(q.emit("fmul", z.real, factor), q.emit("fmul", z.imag, factor))
        real = q.emit("fsub", q.emit("fmul", x.real, y.real), q.emit("fmul", x.imag, y.imag))
        return Complex(real, q.emit("fadd", q.emit("fmul", x.real, y.imag), q.emit("fmul", x.imag, y.real)))
    if kind is ast.Div:
        if not isinstance(b, Complex):
            return Complex(divide(f, x.real, y.real), divide(f, x.imag, y.real))
        size = q.emit("fadd", q.emit("fmul", y.real, y.real), q.emit("fmul", y.imag, y.imag))
        turned = complex_binary(f, node, ast.Mult, x, Complex(y.real, q.emit("fneg", y.imag)))
        return Complex(divide(f, turned.real, size), divide(f, turned.imag, size))
    raise f.error(node, "lang-type", f"{kind.__name__} of c64", allowed="+ - * /")


def _complex(f: Front, node: ast.expr, value: Any) -> Complex:
    if isinstance(value, Complex):
        return value
    if isinstance(value, complex):
        return Complex(number(f, value.real), number(f, value.imag))
    return Complex(f.convert(value, "f", node), f.q.const("f", 0))
