"""Constant expressions and located errors of the V3D text assembler."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

__all__ = ["TextError", "evaluate", "mistake"]


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


class Advice(NamedTuple):
    """The rule, what the text language allows, and what to do, for one kind of mistake."""

    rule: str
    allowed: str | None
    help: str


ADVICE: Final[Mapping[str, Advice]] = {
    "expression": Advice(
        "syntax", "numbers, names, + - * / ( ); on integers << >> & | ^ ~", "write a constant expression"
    ),
    "operand-syntax": Advice("syntax", None, "write a register, a number, a name from .set or an expression of them"),
    "number-size": Advice("value", "64-bit integers, floats", "use a smaller number"),
    "result-size": Advice("value", "-2**63 .. 2**64 - 1", "use smaller numbers"),
    "rotation": Advice("rotate", "rot.1 .. rot.15, rot.-16 .. rot.-1, rot.r5", "put other amounts into r5"),
    "rf": Advice("register", "rf0..rf63", "use one of the 64 registers"),
    "rf-index": Advice("register", "rf[0] .. rf[63]", "use one of the 64 registers"),
    "one-pack": Advice("modifier", "one: .l, .h", "keep one of them"),
    "one-modifier": Advice("modifier", "one modifier an operand", "apply the second one in another instruction"),
    "no-operand": Advice("syntax", None, "write the operand, or leave out the comma"),
    "write-only": Advice("register", "rf0..rf63, small immediates", "copy it to a register when it is written"),
    "no-accumulators": Advice("register", "rf0..rf63, small immediates", "use a register: V3D 7.1 has no accumulators"),
    "address": Advice("register", "0..63", "see the list in v3d.md 5"),
    "no-destination": Advice("syntax", None, "write the destination first; - discards the result"),
    "not-a-source": Advice("operand", "registers, small immediates", "use a register"),
    "uniform-target": Advice(
        "branch-target", "a:unif, r:unif, lri, rf0..rf63", "write a:unif if the next uniform is an address, else r:unif"
    ),
    "after-branch": Advice("syntax", "link, once", "put signals into another instruction; a branch takes none"),
    "one-branch-register": Advice("branch-target", "the same register for both", "use the same register for both"),
    "branch-address": Advice("branch-target", None, "use a multiple of 8, the size of an instruction"),
    "label-name": Advice("label", "other names", "choose a name that is not a register"),
    "third-operation": Advice("syntax", "two operations, then signals", "put it into the next line"),
    "no-operation": Advice("syntax", None, "write the operation first, then its operands: add rf0, rf1, rf2"),
    "word": Advice("word", "integers 0 .. 2**64 - 1", "write the word in hexadecimal: .word 0x38003186bb03f000"),
    "empty-part": Advice("syntax", None, "leave out the semicolon, or write nop"),
    "constant-name": Advice("name", "letters, digits, _; not a register", "choose a name that is not a register"),
    "signal-twice": Advice("signal", "each signal once", "leave one of them out"),
    "rot-signal": Advice("signal", None, "use the add operation rot"),
    "signal-set": Advice("signal", None, "spread them over several instructions"),
    "one-writing-signal": Advice(
        "signal", "one such signal an instruction", "put one of them into another instruction"
    ),
    "signal-takes-none": Advice("signal-destination", None, "leave the destination out"),
}
"""Advice by kind of mistake; several kinds may belong to one rule."""


def mistake(column: int, name: str, message: str) -> TextError:
    """The error for a kind of mistake in `ADVICE`."""
    rule, allowed, help = ADVICE[name]
    return TextError(column, rule, message, allowed, help)


Undefined = Callable[[str, int], TextError]


def evaluate(text: str, column: int, constants: Mapping[str, int | float], undefined: Undefined) -> int | float:
    """The value of an expression: numbers, names, ``+ - * / << >> & | ^ ~`` and parentheses.

    column: where the text starts. undefined: makes the error for an unknown name. Raises: TextError.
    """
    try:
        tree = ast.parse(text, mode="eval").body
        return _Evaluator(text, column, constants, undefined).value(tree)
    except (SyntaxError, ValueError, MemoryError):
        raise mistake(column, "operand-syntax", f"{text!r} is neither a register nor a value") from None
    except RecursionError:
        raise TextError(column, "syntax", f"{text!r} is nested too deeply", help="name parts of it with .set") from None
    except OverflowError:
        raise mistake(column, "number-size", f"{text!r} is too large") from None


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
                raise mistake(at, "result-size", f"{self.text!r} does not fit 64 bits")
            return found
        raise self.wrong(at)

    def wrong(self, at: int) -> TextError:
        return mistake(at, "expression", f"{self.text!r} is not a value")

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
            raise TextError(at, "value", f"{self.text!r} divides by zero", help="use a divisor that is not 0")
        if isinstance(a, int) and isinstance(b, int):
            if a % b:
                raise TextError(at, "value", f"{a} is not divisible by {b}", help="write floats for a float result")
            return a // b
        return a / b
