"""Constant expressions of the V3D text assembler, and the error that carries a column."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

__all__ = ["TextError", "evaluate"]


class TextError(Exception):
    """A diagnostic at a column (from 0) of the current line."""

    def __init__(
        self, column: int, rule: str, message: str, allowed: str | None = None, help: str | None = None
    ) -> None:
        super().__init__(message)
        self.column = column
        self.rule = rule
        self.message = message
        self.allowed = allowed
        self.help = help


Undefined = Callable[[str, int], TextError]


def evaluate(text: str, column: int, constants: Mapping[str, int | float], undefined: Undefined) -> int | float:
    """The value of an expression: numbers, names, ``+ - * / << >> & | ^ ~`` and parentheses.

    column: where the text starts. undefined: makes the error for an unknown name. Raises: TextError.
    """
    try:
        tree = ast.parse(text, mode="eval").body
        return _Evaluator(text, column, constants, undefined).value(tree)
    except (SyntaxError, ValueError, MemoryError):
        raise TextError(
            column,
            "syntax",
            f"{text!r} is neither a register nor a value",
            help="write a register, a number, a name from .set or an expression of them",
        ) from None
    except RecursionError:
        raise TextError(column, "syntax", f"{text!r} is nested too deeply", help="name parts of it with .set") from None
    except OverflowError:
        raise TextError(
            column, "value", f"{text!r} is too large", "64-bit integers, floats", help="use a smaller number"
        ) from None


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
                raise TextError(
                    at,
                    "value",
                    f"{self.text!r} does not fit 64 bits",
                    "-2**63 .. 2**64 - 1",
                    help="use smaller numbers",
                )
            return found
        raise self.wrong(at)

    def wrong(self, at: int) -> TextError:
        return TextError(
            at,
            "syntax",
            f"{self.text!r} is not a value",
            "numbers, names, + - * / ( ); on integers << >> & | ^ ~",
            help="write a constant expression",
        )

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
                    raise TextError(at, "value", f"shift by {b}", "0..127", help="use a count of 0..127")
                return a << b if isinstance(op, ast.LShift) else a >> b
        raise self.wrong(at)

    def quotient(self, a: int | float, b: int | float, at: int) -> int | float:
        if b == 0:
            raise TextError(at, "value", f"{self.text!r} divides by zero", help="the divisor must not be 0")
        if isinstance(a, int) and isinstance(b, int):
            if a % b:
                raise TextError(at, "value", f"{a} is not divisible by {b}", help="write floats for a float result")
            return a // b
        return a / b
