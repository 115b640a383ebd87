"""The values of assembly expressions and their operators: 64-bit integers, doubles, vectors, registers and labels."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.registers import ROTATE_BY_R5, Reg, numbered

__all__ = [
    "BINARY", "NAMED", "UNARY", "Key", "LabelRef", "PerElement", "Value", "binary", "described", "float_bits",
    "kind_of", "truth", "unary", "word32", "wrap64",
]  # fmt: skip

_M64 = (1 << 64) - 1
_TOP = 1 << 63


def wrap64(value: int) -> int:
    """`value` modulo 2**64 as a signed integer."""
    value &= _M64
    return value - (1 << 64) if value & _TOP else value


@dataclass(frozen=True, slots=True)
class PerElement:
    """Sixteen two-bit values of a per-element load immediate; element 0 first."""

    values: tuple[int, ...]

    @property
    def signed(self) -> bool:
        """True when every value is in -2..1."""
        return all(-2 <= v <= 1 for v in self.values)

    @property
    def unsigned(self) -> bool:
        """True when every value is in 0..3."""
        return all(0 <= v <= 3 for v in self.values)

    @property
    def bits(self) -> int:
        """The 32-bit immediate: bit i is the low, bit 16+i the high bit of element i."""
        return sum(((v & 1) << i) | ((v >> 1 & 1) << (16 + i)) for i, v in enumerate(self.values))


Key: TypeAlias = tuple[str, int]
"""A label's identity: its name and, for local labels, which definition of that name, from 1; else 0."""


@dataclass(frozen=True, slots=True)
class LabelRef:
    """A label plus a number of bytes."""

    key: Key
    addend: int = 0


Value: TypeAlias = int | float | PerElement | Reg | LabelRef
_Unary: TypeAlias = Callable[[Value], Value]


def kind_of(value: Value) -> str:
    """The type of a value, for messages."""
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "float"
    if isinstance(value, PerElement):
        return "per-element vector"
    if isinstance(value, LabelRef):
        return "label"
    if value.semaphore >= 0:
        return "semaphore"
    return "rotated register" if value.rotation else "register"


def described(value: Value) -> str:
    """The type of a value with its article: ``an integer``."""
    kind = kind_of(value)
    return ("an " if kind[0] in "aeiou" else "a ") + kind


def float_bits(value: float) -> int:
    """The single-precision pattern of `value`, rounded to nearest; out of range becomes infinity."""
    if value != value:
        return 0xFFC00000 if math.copysign(1.0, value) < 0 else 0x7FC00000
    try:
        bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    except OverflowError:
        return 0xFF800000 if value < 0 else 0x7F800000
    return bits


def word32(value: Value, pos: int = 0) -> int:
    """The 32-bit pattern of an integer or float operand."""
    if isinstance(value, int):
        if not -(1 << 31) <= value < 1 << 32:
            raise Fault("value-range", f"{value} does not fit 32 bits", pos, allowed="-2147483648..4294967295",
                        help="mask it, e.g. (value) & 0xffffffff")  # fmt: skip
        return value & 0xFFFFFFFF
    if isinstance(value, float):
        return float_bits(value)
    raise Fault("value-type", f"a number is needed here, not {described(value)}", pos)


def truth(value: Value, pos: int = 0) -> bool:
    """Whether a condition holds: True for any number but zero."""
    if isinstance(value, int | float):
        return value != 0
    raise Fault("value-type", f"a condition must be a number, not {described(value)}", pos)


def _numbers(op: str, a: Value, b: Value) -> tuple[int | float, int | float]:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a, b
    raise Fault("value-type", f"{op!r} does not work on {kind_of(a)} and {kind_of(b)}")


def _integers(op: str, a: Value, b: Value) -> tuple[int, int]:
    if isinstance(a, int) and isinstance(b, int):
        return a, b
    raise Fault("value-type", f"{op!r} needs two integers, not {kind_of(a)} and {kind_of(b)}")


def _step(reg: Reg, by: int) -> Reg:
    found = None if reg.rotation else numbered(reg, reg.number + by)
    if found is None:
        raise Fault("register-range", f"there is no register {by:+d} from {reg.name}")
    return found


def _add(a: Value, b: Value) -> Value:
    if isinstance(a, int) and isinstance(b, int):
        return wrap64(a + b)
    if isinstance(a, LabelRef) and isinstance(b, int):
        return LabelRef(a.key, a.addend + b)
    if isinstance(b, LabelRef) and isinstance(a, int):
        return LabelRef(b.key, b.addend + a)
    if isinstance(a, Reg) and isinstance(b, int):
        return _step(a, b)
    if isinstance(b, Reg) and isinstance(a, int):
        return _step(b, a)
    x, y = _numbers("+", a, b)
    return x + y


def _sub(a: Value, b: Value) -> Value:
    if isinstance(a, int) and isinstance(b, int):
        return wrap64(a - b)
    if isinstance(a, LabelRef) and isinstance(b, int):
        return LabelRef(a.key, a.addend - b)
    if isinstance(a, Reg) and isinstance(b, int):
        return _step(a, -b)
    x, y = _numbers("-", a, b)
    return x - y


def _mul(x: int | float, y: int | float) -> Value:
    return wrap64(x * y) if isinstance(x, int) and isinstance(y, int) else float(x * y)


def _div(x: int | float, y: int | float) -> Value:
    if isinstance(x, int) and isinstance(y, int):
        if y == 0:
            raise Fault("division-by-zero", "division by zero")
        q = abs(x) // abs(y)
        return wrap64(q if (x < 0) == (y < 0) else -q)
    if y == 0:
        return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)
    return x / y


def _mod(x: int | float, y: int | float) -> Value:
    if y == 0:
        raise Fault("division-by-zero", "remainder of a division by zero")
    if isinstance(x, int) and isinstance(y, int):
        r = abs(x) % abs(y)
        return -r if x < 0 else r
    return math.fmod(x, y)


def _pow(x: int | float, y: int | float) -> Value:
    if isinstance(x, int) and isinstance(y, int) and y >= 0:
        return wrap64(pow(x, y, 1 << 64))
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0 and y % 2 == 1 else math.inf
    except ValueError:
        raise Fault("math-domain", f"{x} ** {y} is not a real number") from None


def _shift(op: str, a: Value, b: Value, left: bool) -> Value:
    if isinstance(a, Reg):
        if isinstance(b, Reg) and b.mux == 5 and not b.rotation:
            return a.rotated(ROTATE_BY_R5)
        if not isinstance(b, int):
            raise Fault("rotation", f"a register rotates by an integer or by r5, not by {described(b)}")
        return a.rotated((-b if left else b) & 15)
    if not isinstance(b, int):
        raise Fault("value-type", f"{op!r} needs an integer count, not {described(b)}")
    count = b if left else -b
    if isinstance(a, float):
        try:
            return math.ldexp(a, count)
        except OverflowError:
            return math.copysign(math.inf, a)
    x, _ = _integers(op, a, b)
    return wrap64(x << min(count, 64)) if count >= 0 else x >> min(-count, 63)


def _logical(x: int, y: int, left: bool) -> Value:
    count = y if left else -y
    x &= _M64
    return wrap64(x << min(count, 64)) if count >= 0 else wrap64(x >> min(-count, 64))


def _rotate(op: str, x: int, y: int, left: bool, bits: int) -> Value:
    mask = (1 << bits) - 1
    if bits == 32 and not -(1 << 31) <= x < 1 << 32:
        raise Fault("value-range", f"{op!r} rotates 32 bits; {x} does not fit")
    n = (y if left else -y) % bits
    x &= mask
    x = ((x << n) | (x >> (bits - n))) & mask
    return wrap64(x) if bits == 64 else x


def _equal(a: Value, b: Value) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return type(a) is type(b) and a == b


def _identical(a: Value, b: Value) -> bool:
    return type(a) is type(b) and a == b


def _any(op: str, a: Value, b: Value) -> tuple[Value, Value]:
    return a, b


def _truths(op: str, a: Value, b: Value) -> tuple[bool, bool]:
    return truth(a), truth(b)


# name -> (precedence, operands, function); a higher precedence binds tighter. All associate to the left.
BINARY: dict[str, tuple[int, Callable[[str, Value, Value], tuple[Any, Any]], Callable[[Any, Any], Value]]] = {
    "**": (12, _numbers, _pow),
    "*": (11, _numbers, _mul),
    "/": (11, _numbers, _div),
    "%": (11, _numbers, _mod),
    "+": (10, _any, _add),
    "-": (10, _any, _sub),
    "<<": (9, _any, lambda a, b: _shift("<<", a, b, True)),
    ">>": (9, _any, lambda a, b: _shift(">>", a, b, False)),
    "<<<": (9, _integers, lambda x, y: _logical(x, y, True)),
    ">>>": (9, _integers, lambda x, y: _logical(x, y, False)),
    "><<": (9, _integers, lambda x, y: _rotate("><<", x, y, True, 32)),
    ">><": (9, _integers, lambda x, y: _rotate(">><", x, y, False, 32)),
    "><<<": (9, _integers, lambda x, y: _rotate("><<<", x, y, True, 64)),
    ">>><": (9, _integers, lambda x, y: _rotate(">>><", x, y, False, 64)),
    "<": (8, _numbers, lambda x, y: int(x < y)),
    "<=": (8, _numbers, lambda x, y: int(x <= y)),
    ">": (8, _numbers, lambda x, y: int(x > y)),
    ">=": (8, _numbers, lambda x, y: int(x >= y)),
    "<=>": (8, _numbers, lambda x, y: (x > y) - (x < y)),
    "==": (7, _any, lambda a, b: int(_equal(a, b))),
    "!=": (7, _any, lambda a, b: int(not _equal(a, b))),
    "===": (7, _any, lambda a, b: int(_identical(a, b))),
    "!==": (7, _any, lambda a, b: int(not _identical(a, b))),
    "&": (6, _integers, lambda x, y: wrap64(x & y)),
    "^": (5, _integers, lambda x, y: wrap64(x ^ y)),
    "!^": (5, _integers, lambda x, y: wrap64(~(x ^ y))),
    "|": (4, _integers, lambda x, y: wrap64(x | y)),
    "&&": (3, _truths, lambda x, y: int(x and y)),
    "^^": (2, _truths, lambda x, y: int(x != y)),
    "!^^": (2, _truths, lambda x, y: int(x == y)),
    "||": (1, _truths, lambda x, y: int(x or y)),
}


def binary(op: str, a: Value, b: Value, pos: int) -> Value:
    """``a op b``; faults are located at `pos`, the operator."""
    try:
        _, operands, function = BINARY[op]
        return function(*operands(op, a, b))
    except Fault as fault:
        raise fault.at(pos) from None


def _typed(complaint: str, integer: Callable[[int], int], real: Callable[[float], float] | None) -> _Unary:
    """An operator of integers and of floats (None: of integers only)."""

    def run(value: Value) -> Value:
        if isinstance(value, int):
            return integer(value)
        if isinstance(value, float) and real is not None:
            return real(value)
        raise Fault("value-type", f"{complaint} {described(value)}")

    return run


UNARY: dict[str, _Unary] = {
    "-": _typed("'-' does not work on", lambda n: wrap64(-n), operator.neg),
    "+": _typed("'+' does not work on", operator.pos, operator.pos),
    "~": _typed("'~' needs an integer, not", operator.invert, None),
    "!": lambda value: int(not truth(value)),
}


def _rounding(name: str, f: Callable[[float], int]) -> _Unary:
    def run(value: Value) -> Value:
        if isinstance(value, int):
            return value
        if isinstance(value, float):
            try:
                return wrap64(f(value))
            except (OverflowError, ValueError):
                raise Fault("math-domain", f"{name} of {value} is not an integer") from None
        raise Fault("value-type", f"{name} needs a number, not {described(value)}")

    return run


def _real(name: str, f: Callable[[float], float]) -> _Unary:
    def run(value: Value) -> Value:
        if not isinstance(value, int | float):
            raise Fault("value-type", f"{name} needs a number, not {described(value)}")
        try:
            return float(f(value))
        except OverflowError:
            return math.inf
        except ValueError:
            if value == 0 and name.startswith("log"):
                return -math.inf
            raise Fault("math-domain", f"{name} of {value} is not a real number") from None

    return run


_REAL = "exp exp2 log log2 log10 sqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf erfc"

NAMED: dict[str, _Unary] = {
    "abs": _typed("abs needs a number, not", lambda n: wrap64(abs(n)), abs),
    "ceil": _rounding("ceil", math.ceil),
    "floor": _rounding("floor", math.floor),
    "exp10": _real("exp10", lambda x: math.pow(10.0, x)),
    **{name: _real(name, getattr(math, name)) for name in _REAL.split()},
}


def unary(op: str, value: Value, pos: int) -> Value:
    """A sign, complement, negation or named function of `value`; faults are located at `pos`."""
    try:
        return (UNARY.get(op) or NAMED[op])(value)
    except Fault as fault:
        raise fault.at(pos) from None
