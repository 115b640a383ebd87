"""Expressions of the debugger: arithmetic on vectors of 16 lanes, evaluated without Python's `eval`.

Names, numbers, operators, comparisons, indices and a few functions; no attributes, no other calls, nothing that takes
more than a moment. `and`, `or` and `not` work lane by lane.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from qpu.errors import UsageError, counted

__all__ = ["FUNCTIONS", "evaluate", "names_in", "number_in", "shown", "word_of"]

_LONGEST = 1000


def _bits(x: Any) -> Any:
    """Words of 32 bits, raw."""
    found = np.asarray(x)
    if found.dtype.kind == "f":
        return found.astype(np.float32).view(np.uint32)
    for most in (found.max(initial=0), found.min(initial=0)):
        _fits(int(most))
    return (found.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)


def _fits(n: int) -> int:
    if not -(1 << 31) <= n < 1 << 32:
        help = "registers and words of memory have 32 bits: write a smaller number"
        raise UsageError(f"{n} as a word; allowed: {-(1 << 31)}..{(1 << 32) - 1}", help=help)
    return n


def word_of(text: str) -> np.uint32:
    """The bits of a number that is written as an integer (decimal, 0x, 0b) or as a float (with a point or an exponent).

    Raises: UsageError for other texts, and for numbers that 32 bits cannot hold.
    """
    if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]{1,99}|0[bB][01]{1,99}|0|[1-9][0-9]{0,99})", text):
        return np.uint32(_fits(int(text, 0)) & 0xFFFFFFFF)
    if re.fullmatch(
        r"[+-]?(([0-9]{1,99}\.[0-9]{0,99}|\.[0-9]{1,99}|[0-9]{1,99}(?=[eE]))([eE][+-]?[0-9]{1,9})?|inf|nan)", text
    ):
        with np.errstate(all="ignore"):
            found = np.float32(text)
        if np.isinf(found) and "inf" not in text:
            help = "write inf for infinity"
            raise UsageError(f"{text} as a float; allowed: up to {np.finfo(np.float32).max:g}", help=help)
        return np.uint32(found.view(np.uint32))
    help = "write an integer, such as 5, -5 or 0x1f, or a float, such as 0.5 or 1e6"
    raise UsageError(f"{text[:99]} is not a number; allowed: integers and floats of 32 bits", help=help)


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "f32": lambda x: _bits(x).view(np.float32),
    "i32": lambda x: _bits(x).view(np.int32),
    "u32": _bits,
    "any": np.any,
    "all": np.all,
    "min": np.min,
    "max": np.max,
    "sum": np.sum,
    "abs": np.abs,
}
"""Functions of expressions; f32, i32 and u32 take the bits as another type."""


ALLOWED: Final = (
    "names, numbers, + - * / // % & | ^ ~ << >>, comparisons, and, or, not, indices, "
    + " ".join(FUNCTIONS)
    + " of a value"
)


def _divided(a: Any, b: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.true_divide(a, b)


def _whole(by: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Division of integers by 0 has no value; that of floats has."""

    def divided(a: Any, b: Any) -> Any:
        if np.asarray(a).dtype.kind != "f" and np.asarray(b).dtype.kind != "f" and not np.all(b):
            raise UsageError(
                "// or % of integers by 0; allowed: other divisors", help="divide by another number, or floats by /"
            )
        return by(a, b)

    return divided


def _shift(by: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def shifted(a: Any, b: Any) -> Any:
        if "f" in (np.asarray(a).dtype.kind, np.asarray(b).dtype.kind):
            raise TypeError
        for n in np.asarray(b).reshape(-1).tolist():
            if not 0 <= n < 64:
                raise UsageError(f"shift by {n}; allowed: 0..63", help="shift by `n & 31` as the QPUs do")
        return by(np.asarray(a).astype(np.int64), np.asarray(b).astype(np.int64))

    return shifted


_BINARY: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: _divided,
    ast.FloorDiv: _whole(np.floor_divide),
    ast.Mod: _whole(np.remainder),
    ast.BitAnd: np.bitwise_and,
    ast.BitOr: np.bitwise_or,
    ast.BitXor: np.bitwise_xor,
    ast.LShift: _shift(np.left_shift),
    ast.RShift: _shift(np.right_shift),
}
_UNARY: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.UAdd: operator.pos,
    ast.USub: np.negative,
    ast.Invert: np.invert,
    ast.Not: np.logical_not,
}
_COMPARE: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}


def _refused(what: str) -> UsageError:
    return UsageError(f"{what} in an expression; allowed: {ALLOWED}", help="see `help print`; `variables` lists names")


def _shown(node: ast.AST) -> str:
    """A part of an expression as it was written, about."""
    text = ast.unparse(node).replace("__register_", "%")
    return f"`{text}`" if len(text) < 60 else f"`{text[:60]}...`"


def _tree(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        help = "print parts of it"
        raise UsageError(f"{counted(len(text), 'character')} of an expression; allowed: {_LONGEST}", help=help)
    if not text.strip():
        raise UsageError(
            f"nothing to evaluate; allowed: {ALLOWED}", help="write an expression, such as `print rf1 + 2`"
        )
    try:
        return ast.parse(re.sub(r"%(?=[A-Za-z])", "__register_", text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error) or "too deep"
        raise UsageError(
            f"{text.strip()!r} is not an expression ({why}); allowed: {ALLOWED}", help="see `help print`"
        ) from None


def names_in(text: str) -> set[str]:
    """The names in an expression; ``%name`` keeps its sign. Raises: UsageError."""
    found = {node.id for node in ast.walk(_tree(text)) if isinstance(node, ast.Name)}
    return {re.sub("^__register_", "%", name) for name in found}


def evaluate(text: str, names: Mapping[str, Any]) -> Any:
    """The value of an expression: an ndarray or a NumPy scalar. names: values by name; ``%name`` with its sign.

    Raises: UsageError for anything but arithmetic on those names, and for names that are not there.
    """
    try:
        with np.errstate(all="ignore"):
            return _value(_tree(text), names)
    except UsageError:
        raise
    except TypeError:
        what = f"{text.strip()}: an operator that numbers of these types do not have"
        help = "f32, i32 and u32 take the bits of a value as another type"
        raise UsageError(f"{what}; allowed: & | ^ ~ << >> of integers, + - of numbers", help=help) from None
    except (ValueError, IndexError, OverflowError, ZeroDivisionError, RecursionError) as error:
        raise UsageError(f"{text.strip()}: {error}", help="registers are vectors of 16 numbers") from None


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        if isinstance(node.value, float):
            return np.float64(node.value)
        if node.value >= 1 << 63:
            raise UsageError(
                f"{_shown(node)[1:-1]}; allowed: integers below 2 to the 63", help="registers have 32 bits"
            )
        return np.int64(node.value)
    if isinstance(node, ast.Name):
        name = re.sub("^__register_", "%", node.id)
        if name not in names:
            raise UsageError(f"{name}: no such register or variable", help="`variables` lists those of a kernel")
        return names[name]
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand, names))
    if isinstance(node, ast.BoolOp):
        both = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        found = _value(node.values[0], names)
        for more in node.values[1:]:
            found = both(found, _value(more, names))
        return found
    if isinstance(node, ast.Compare):
        left, found = _value(node.left, names), None
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            if type(op) not in _COMPARE:
                raise _refused(_shown(node))
            right = _value(right_node, names)
            one = _COMPARE[type(op)](left, right)
            found, left = one if found is None else np.logical_and(found, one), right
        return found
    if isinstance(node, ast.Subscript):
        of = np.asarray(_value(node.value, names))
        try:
            return of[_index(node.slice, names)]
        except IndexError:
            what = f"{_shown(node)}: the index is outside of {_shown(node.value)}"
            if of.ndim == 0:
                raise UsageError(f"{_shown(node)}: an index of one number", help="leave the index out") from None
            allowed = ", ".join(f"0..{n - 1}" for n in of.shape)
            raise UsageError(f"{what}; allowed: {allowed}", help="negative indices count from the end") from None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        if len(node.args) == 1 and not node.keywords and not isinstance(node.args[0], ast.Starred):
            return FUNCTIONS[node.func.id](_value(node.args[0], names))
        raise _refused(f"{_shown(node)}, a call with other than one value,")
    raise _refused(_shown(node))


def _index(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Slice):
        parts = (node.lower, node.upper, node.step)
        return slice(*(None if n is None else _index_of(np.asarray(_value(n, names)), n) for n in parts))
    if isinstance(node, ast.Tuple):
        return tuple(_index(n, names) for n in node.elts)
    found = np.asarray(_value(node, names))
    return _index_of(found, node)


def _index_of(found: Any, node: ast.expr) -> int:
    if found.ndim or found.dtype.kind not in "iu":
        what = "several numbers" if found.ndim else f"{found.dtype.name} {found}"
        help = "write a number such as x[2], or a part such as x[2:4]"
        raise UsageError(f"index {_shown(node)}, {what}; allowed: one integer", help=help)
    return int(found)


def number_in(text: str) -> int | None:
    """A whole number that is written as such, else None."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


_SHOWN = 32  # elements that are printed


def shown(value: object, form: str) -> str:
    """Lanes as text. form: ``d``, ``f`` or ``x`` for the bits as integers, floats, hexadecimal; "": as they are."""
    lanes = np.asarray(value).reshape(-1)
    if form == "x" or (form == "f" and lanes.dtype.kind != "f") or (form == "d" and lanes.dtype.kind == "f"):
        lanes = FUNCTIONS[{"x": "u32", "f": "f32", "d": "i32"}[form]](lanes)
    texts = [f"0x{x:08x}" if form == "x" else f"{x:g}" if isinstance(x, float) else f"{x}" for x in lanes.tolist()]
    if len(texts) > 1 and len(set(texts)) == 1:
        return f"{texts[0]} in all {'lanes' if len(texts) == 16 else counted(len(texts), 'element')}"
    more = "" if len(texts) <= _SHOWN else f" ... ({counted(len(texts), 'element')})"
    return " ".join(texts[:_SHOWN]) + more
