"""Constant expressions and located errors of the V3D text assembler."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from qpu.errors import Diagnostic, suggest
from qpu.v3d.advice import mistake

__all__ = ["TextError", "comment_help", "evaluate", "near", "wrong"]


near: Final = partial(suggest, form="{}", most=3)
"""Help with the known names that are similar to a name of the text, or None."""


class TextError(Exception):
    """A diagnostic at a column (from 0) of the current line."""

    def __init__(self, column: int, found: Diagnostic) -> None:
        super().__init__(found.message)
        self.column = column
        self.found = found


def wrong(column: int, kind: str, message: str, allowed: str | None = None, help: str | None = None) -> TextError:
    """The error for a kind of mistake; arguments as in `mistake`."""
    return TextError(column, mistake(kind, message, allowed, help))


_FOREIGN_COMMENT: Final = re.compile(r"//|/\*|--|(?:^|\s);;")


def comment_help(code: str) -> str | None:
    """Help for a wrong line in which a comment of another language begins, else None."""
    return "start a comment with #" if _FOREIGN_COMMENT.search(code) else None


Undefined = Callable[[str, int], TextError]


def evaluate(text: str, column: int, constants: Mapping[str, int | float], undefined: Undefined) -> int | float:
    """The value of an expression: numbers, names, ``+ - * / << >> & | ^ ~`` and parentheses.

    column: where the text starts. undefined: makes the error for an unknown name. Raises: TextError.
    """
    try:
        tree = ast.parse(text, mode="eval").body
        return _Evaluator(text, column, constants, undefined).value(tree)
    except (SyntaxError, ValueError, MemoryError):
        raise wrong(column, "operand-syntax", f"{text!r} is neither a register nor a value") from None
    except RecursionError:
        raise wrong(column, "too-deep", f"{text!r} is nested too deeply") from None
    except OverflowError:
        raise wrong(column, "number-size", f"{text!r} is too large") from None


class _Evaluator:
    __slots__ = ("column", "constants", "text", "undefined")

    def __init__(self, text: str, column: int, constants: Mapping[str, int | float], undefined: Undefined) -> None:
        self.text = text
        self.column = column
        self.constants = constants
        self.undefined = undefined

    def value(self, node: ast.expr) -> int | float:
        at = self.column + node.col_offset
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            assert isinstance(node.value, (int, float))
            return node.value
        if isinstance(node, ast.Name):
            if node.id in self.constants:
                return self.constants[node.id]
            raise self.undefined(node.id, at)
        if isinstance(node, ast.UnaryOp):
            a = self.value(node.operand)
            if isinstance(node.op, ast.USub):
                return -a
            if isinstance(node.op, ast.UAdd):
                return a
            if isinstance(node.op, ast.Invert) and isinstance(a, int):
                return ~a
        if isinstance(node, ast.BinOp):
            found = self.binary(node.op, self.value(node.left), self.value(node.right), at)
            if isinstance(found, int) and not -1 << 63 <= found < 1 << 64:
                raise wrong(at, "result-size", f"{self.text!r} does not fit 64 bits")
            return found
        raise self.refused(at)

    def refused(self, at: int) -> TextError:
        return wrong(at, "expression", f"{self.text!r} is not a value")

    def binary(self, op: ast.operator, a: int | float, b: int | float, at: int) -> int | float:
        if isinstance(op, ast.Add):
            return a + b
        if isinstance(op, ast.Sub):
            return a - b
        if isinstance(op, ast.Mult):
            return a * b
        if isinstance(op, ast.Div):
            return self.quotient(a, b, at)
        if isinstance(a, int) and isinstance(b, int):
            if isinstance(op, ast.BitAnd):
                return a & b
            if isinstance(op, ast.BitOr):
                return a | b
            if isinstance(op, ast.BitXor):
                return a ^ b
            if isinstance(op, (ast.LShift, ast.RShift)):
                if not 0 <= b < 128:
                    raise wrong(at, "shift-count", f"shift by {b}")
                return a << b if isinstance(op, ast.LShift) else a >> b
        raise self.refused(at)

    def quotient(self, a: int | float, b: int | float, at: int) -> int | float:
        if b == 0:
            raise wrong(at, "zero-divisor", f"{self.text!r} divides by zero")
        if isinstance(a, int) and isinstance(b, int):
            if a % b:
                raise wrong(at, "not-divisible", f"{a} is not divisible by {b}")
            return a // b
        return a / b
