"""The expression parser, which evaluates source text while it reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.registers import NOP_REG
from qpu.vc4.vc4asm.values import BINARY, NAMED, UNARY, LabelRef, PerElement, Value, binary, unary

__all__ = ["Callable_", "Environment", "Parser", "comment_help", "evaluate"]

Callable_ = Callable[[Sequence[Value], int], Value]
T = TypeVar("T")


class Environment(Protocol):
    """The interface of expressions to names, functions and labels; the engine implements it."""

    def lookup(self, name: str) -> Value | None:
        """The value of a name (constant or register), or None."""
        ...

    def function(self, name: str) -> Callable_ | None:
        """The function of that name, called with argument values and a position, or None."""
        ...

    def label(self, name: str, pos: int) -> LabelRef:
        """The label `name` (``1f`` is the next label 1)."""
        ...

    def label_difference(self, a: LabelRef, b: LabelRef) -> int:
        """Bytes from label `b` to label `a`."""
        ...

    def warn(self, rule: str, message: str, pos: int, help: str | None = None) -> None:
        """Record a warning at a position of the line."""
        ...

    def unknown(self, name: str, pos: int) -> Fault:
        """The fault for a name that is not defined, with a suggestion."""
        ...


_NESTING_LIMIT = 200
_NUMBER = re.compile(
    r"0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)|0[oO](?P<oct>[0-7]+)|0[dD](?P<dec>[0-9]+)"
    r"|(?P<float>[0-9]+\.[0-9]*(?:[eE]-?[0-9]+)?|[0-9]+[eE]-?[0-9]+|\.[0-9]+(?:[eE]-?[0-9]+)?)(?P<plus>[eE](?=\+))?"
    r"|(?P<intplus>[0-9]+)[eE](?=\+)|(?P<int>[0-9]+)"
)
_DIGITS = frozenset("0123456789")
_LONGEST_NUMBER = 400  # digits
_WORD = re.compile(r"[A-Za-z_]\w*")
_LABEL = re.compile(r"(?:r\s*)?:\s*(\w+)")
_OPERATOR = re.compile(
    r">>><|><<<|>>>|<<<|>><|><<|<=>|===|!==|!\^\^|<<|>>|<=|>=|==|!=|!\^|\*\*|&&|\|\||\^\^|[-+*/%&|^<>]"
)
_END_OF_OPERAND = frozenset(",;)].:")


class Parser:
    """Evaluates an expression of `text` from `pos` on, and advances `pos` to the end of the expression."""

    __slots__ = ("depth", "env", "pos", "text")

    def __init__(self, text: str, env: Environment, pos: int = 0) -> None:
        self.text = text
        self.env = env
        self.pos = pos
        self.depth = 0

    def skip(self) -> int:
        """Skip white space; returns the position."""
        text, pos = self.text, self.pos
        if text[pos : pos + 1].isspace():
            pos += 1
            while text[pos : pos + 1].isspace():
                pos += 1
            self.pos = pos
        return pos

    def peek(self) -> str:
        """The next character that is not white space, or an empty string at the end."""
        char = self.text[self.pos : self.pos + 1]
        if char.isspace():
            pos = self.skip()
            return self.text[pos : pos + 1]
        return char

    def accept(self, char: str) -> bool:
        """Skip `char` if it comes next; returns whether it did."""
        if self.peek() == char:
            self.pos += 1
            return True
        return False

    def expect(self, char: str, what: str) -> None:
        """Skip `char`. Raises: Fault if something else comes next."""
        if not self.accept(char):
            raise Fault("syntax", f"expected {char!r} {what}, found {self.rest()}", self.pos)

    def listed(self, item: Callable[[], T]) -> list[T]:
        """Parse items separated by commas."""
        found = [item()]
        while self.accept(","):
            found.append(item())
        return found

    def placed(self) -> tuple[Value, int]:
        """An expression and its position."""
        pos = self.skip()
        return self.expression(), pos

    def rest(self) -> str:
        """The next word, number or character, for messages."""
        pos = self.skip()
        if pos >= len(self.text):
            return "the end of the line"
        match = _WORD.match(self.text, pos) or _NUMBER.match(self.text, pos)
        return repr(match.group() if match else self.text[pos])

    def expression(self, lowest: int = 1) -> Value:
        """An expression of operators that bind at least as tightly as `lowest`."""
        left = self.operand()
        while True:
            pos = self.skip()
            match = _OPERATOR.match(self.text, pos)
            if match is None:
                return left
            op = match.group()
            level = BINARY[op][0]
            if level < lowest:
                return left
            self.pos = match.end()
            right = self.expression(level + 1)
            if op == "-" and isinstance(left, LabelRef) and isinstance(right, LabelRef):
                left = self.env.label_difference(left, right)
            else:
                left = binary(op, left, right, pos)

    def operand(self) -> Value:
        """A value with its prefix operators."""
        pos = self.skip()
        text = self.text
        if pos >= len(text):
            raise Fault("missing-operand", "an expression is missing here", pos)
        char = text[pos]
        if char in UNARY:
            self._deeper(pos)
            self.pos = pos + 1
            if char == "-":
                following = self.peek()
                if not following or (following in _END_OF_OPERAND and not _LABEL.match(text, self.pos)):
                    return NOP_REG
            value = unary(char, self.operand(), pos)
            self.depth -= 1
            return value
        if char == "(":
            self._deeper(pos)
            self.pos = pos + 1
            value = self.expression()
            self.depth -= 1
            if not self.accept(")"):
                raise Fault(
                    "unbalanced", f"expected ')' for the '(' at column {pos + 1}, found {self.rest()}", self.pos
                )
            return value
        if char == "[":
            return self._vector(pos)
        match = _LABEL.match(text, pos) if char in ":r" else None
        if match is not None:
            self.pos = match.end()
            return self.env.label(match.group(1), pos)
        if char in _DIGITS or (char == "." and text[pos + 1 : pos + 2] in _DIGITS):
            return self._number(pos)
        match = _WORD.match(text, pos)
        if match is None:
            raise Fault("syntax", f"a value cannot start with {char!r}", pos, help=comment_help(text[pos - 1 :]))
        self.pos = match.end()
        return self._named(match.group(), pos)

    def _deeper(self, pos: int) -> None:
        self.depth += 1
        if self.depth > _NESTING_LIMIT:
            raise Fault("recursion", f"parentheses and signs are nested more than {_NESTING_LIMIT} deep", pos)

    def _element(self) -> int:
        value, pos = self.placed()
        if not isinstance(value, int) or not -2 <= value <= 3:
            raise Fault("per-element", "an element must be an integer of two bits", pos, allowed="-2..1 or 0..3")
        return value

    def _vector(self, pos: int) -> Value:
        self.pos = pos + 1
        values = self.listed(self._element)
        if not self.accept("]"):
            raise Fault("unbalanced", f"expected ',' or ']' in a per-element vector, found {self.rest()}", self.pos)
        if len(values) != 16:
            raise Fault("per-element", f"a per-element vector has 16 elements, not {len(values)}", pos)
        vector = PerElement(tuple(values))
        if not (vector.signed or vector.unsigned):
            raise Fault(
                "per-element",
                "this vector has both a negative element and one above 1",
                pos,
                allowed="elements of -2..1, or elements of 0..3",
            )
        return vector

    def _number(self, pos: int) -> Value:
        match = _NUMBER.match(self.text, pos)
        assert match is not None  # the caller saw a digit
        self.pos = match.end()
        after = self.text[self.pos : self.pos + 1]
        kind = match.lastgroup
        plus = kind in ("plus", "intplus")
        if after and (after.isalnum() or after == "_"):
            tail = re.compile(r"\w*").match(self.text, self.pos)
            assert tail is not None
            raise Fault("number", f"{match.group() + tail.group()!r} is not a number", pos)
        if len(match.group()) > _LONGEST_NUMBER:
            raise Fault("number", f"a number of {len(match.group())} digits does not fit 64 bits", pos)
        value: Value
        if kind == "hex":
            value = int(match.group("hex"), 16)
        elif kind == "bin":
            value = int(match.group("bin"), 2)
        elif kind == "oct":
            value = int(match.group("oct"), 8)
        elif kind == "dec":
            value = int(match.group("dec"))
        elif kind == "int":
            digits = match.group("int")
            value = int(digits)
            if len(digits) > 1 and digits[0] == "0" and value > 7:
                self.env.warn("leading-zero", f"{digits} is read as decimal {value}", pos,
                              f"write {value}, or 0o{digits.lstrip('0')} for octal")  # fmt: skip
        else:
            value = float(match.group("intplus") or match.group("float"))
        if isinstance(value, int):
            if value >= 1 << 64:
                raise Fault("number", f"{match.group()} does not fit 64 bits", pos)
            value = value - (1 << 64) if value >> 63 else value
        if plus:
            self.env.warn("exponent-sign",
                          f"'{match.group()}+...' is {value} plus a number: '+' ends a number in this language", pos,
                          "write the exponent without a sign")  # fmt: skip
        return value

    def _named(self, name: str, pos: int) -> Value:
        env = self.env
        following = self.peek()
        value = env.lookup(name)
        if value is not None and not (name in NAMED and self._value_follows(following)):
            return value
        if following == "(":
            function = env.function(name)
            if function is not None:
                return function(self.arguments(), pos)
        if name in NAMED:
            if not following:
                raise Fault("missing-operand", f"{name} needs an operand", self.pos)
            self._deeper(pos)
            value = unary(name, self.operand(), pos)
            self.depth -= 1
            return value
        if following != "(" and env.function(name) is not None:
            raise Fault("syntax", f"{name} is a function; its arguments are written in parentheses", pos)
        raise env.unknown(name, pos)

    @staticmethod
    def _value_follows(following: str) -> bool:
        return following == "(" or following.isalnum()

    def arguments(self) -> list[Value]:
        """A parenthesised argument list."""
        start = self.skip()
        self.expect("(", "before the arguments")
        if self.accept(")"):
            return []
        values = self.listed(self.expression)
        if not self.accept(")"):
            raise Fault(
                "unbalanced", f"expected ',' or ')' for the '(' at column {start + 1}, found {self.rest()}", self.pos
            )
        return values


def comment_help(text: str) -> str | None:
    """Help for text that starts like a comment of another language, else None."""
    return "start a comment with #" if text.lstrip().startswith(("//", "/*", "--")) else None


def evaluate(text: str, env: Environment, pos: int = 0) -> Value:
    """The value of `text` from `pos` to its end. Raises: Fault, also for text after the expression."""
    parser = Parser(text, env, pos)
    value = parser.expression()
    if parser.peek():
        raise Fault("trailing-text", f"unexpected {parser.rest()} after the expression", parser.pos)
    return value
