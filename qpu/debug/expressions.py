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

__all__ = ["FUNCTIONS", "evaluate", "names_in"]

_LONGEST = 1000


def _bits(x: Any) -> Any:
    """Words of 32 bits, raw."""
    found = np.asarray(x)
    if found.dtype == np.float32:
        return found.view(np.uint32)
    return (found.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)


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


def _divided(a: Any, b: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.true_divide(a, b)


def _shift(by: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: by(np.asarray(a).astype(np.int64), np.asarray(b).astype(np.int64) % 64)


_BINARY: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: _divided,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.remainder,
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
    return UsageError(f"expressions have no {what}", help="write names, numbers, + - * / % & | ^ << >>, comparisons")


def _tree(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise _refused(f"{counted(len(text), 'character')}; allowed: {_LONGEST}")
    try:
        return ast.parse(re.sub(r"%(?=[A-Za-z])", "__register_", text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{text.strip()!r} is not an expression ({error})", help="see `help print`") from None


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
    except (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError, RecursionError) as error:
        raise UsageError(f"{text.strip()}: {error}", help="registers are vectors of 16 numbers") from None


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return np.float64(node.value) if isinstance(node.value, float) else np.int64(node.value)
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
                raise _refused(f"`{type(op).__name__}`")
            right = _value(right_node, names)
            one = _COMPARE[type(op)](left, right)
            found, left = one if found is None else np.logical_and(found, one), right
        return found
    if isinstance(node, ast.Subscript):
        return np.asarray(_value(node.value, names))[_index(node.slice, names)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        if len(node.args) == 1 and not node.keywords and not isinstance(node.args[0], ast.Starred):
            return FUNCTIONS[node.func.id](_value(node.args[0], names))
        raise _refused(f"call of {node.func.id} with other than one argument")
    raise _refused(f"`{type(node).__name__}`")


def _index(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Slice):
        return slice(*(None if n is None else int(_value(n, names)) for n in (node.lower, node.upper, node.step)))
    if isinstance(node, ast.Tuple):
        return tuple(_index(n, names) for n in node.elts)
    return int(_value(node, names))
