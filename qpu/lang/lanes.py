"""Values of kernels as plain Python: one lane at a time, with the language's types and functions. An oracle that
shares no code with the front end, and what `Kernel.python` computes with, so that pdb and `print` work.

A `Scalar` is a 32-bit value of type f32, i32 or u32; arithmetic follows the language's rules (Python numbers are weak,
integers wrap, floats are binary32).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from qpu.core.scalar_lanes import ScalarLanes, float_bits, float_of
from qpu.lang.types import DTYPES, DType

__all__ = ["Scalar", "Word", "apply", "convert", "pick", "saturate"]

_M: Final = 0xFFFFFFFF
_S: Final = ScalarLanes()
_WIDE: Final = {"f32": "f", "i32": "i", "u32": "u"}


class Scalar:
    """One value of a lane. kind: "f", "i" or "u"; bits: its pattern."""

    __slots__ = ("bits", "kind")

    def __init__(self, kind: str, bits: int) -> None:
        self.kind = kind
        self.bits = bits & _M

    # -- as Python numbers

    @property
    def number(self) -> float | int:
        """The value as a Python number."""
        if self.kind == "f":
            return float_of(self.bits)
        return self.bits - (1 << 32) if self.kind == "i" and self.bits >> 31 else self.bits

    def __repr__(self) -> str:
        return repr(self.number)

    def __index__(self) -> int:
        if self.kind == "f":
            raise TypeError("f32 is not an index; use i32(...)")
        return int(self.number)

    def __int__(self) -> int:
        return int(self.number)

    def __float__(self) -> float:
        return float(self.number)

    def __bool__(self) -> bool:
        return self.number != 0

    def __hash__(self) -> int:
        return hash((self.kind, self.bits))

    # -- arithmetic

    def _pair(self, other: Any) -> tuple[str, int, int] | None:
        if isinstance(other, bool | Condition):
            raise TypeError("a condition (bool) in arithmetic; use where")
        if isinstance(other, Scalar):
            if self.kind != other.kind and "f" not in (self.kind, other.kind):
                raise TypeError("i32 with u32: which one is meant?")
            kind = "f" if "f" in (self.kind, other.kind) else self.kind
            return kind, _as(kind, self), _as(kind, other)
        if isinstance(other, int):
            return self.kind, self.bits, _number(self.kind, other)
        if isinstance(other, float):
            return "f", _as("f", self), float_bits(other)
        return None

    def _binary(self, other: Any, name: str, swap: bool = False) -> Any:
        pair = self._pair(other)
        if pair is None:
            return NotImplemented
        kind, a, b = pair
        if swap:
            a, b = b, a
        return Scalar(kind, _BINARY[name][kind](a, b))

    def __add__(self, other: Any) -> Any:
        return self._binary(other, "add")

    def __radd__(self, other: Any) -> Any:
        return self._binary(other, "add", True)

    def __sub__(self, other: Any) -> Any:
        return self._binary(other, "sub")

    def __rsub__(self, other: Any) -> Any:
        return self._binary(other, "sub", True)

    def __mul__(self, other: Any) -> Any:
        return self._binary(other, "mul")

    def __rmul__(self, other: Any) -> Any:
        return self._binary(other, "mul", True)

    def __truediv__(self, other: Any) -> Any:
        return _divide(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _divide(other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self._binary(other, "floordiv")

    def __rfloordiv__(self, other: Any) -> Any:
        return self._binary(other, "floordiv", True)

    def __mod__(self, other: Any) -> Any:
        return self._binary(other, "mod")

    def __rmod__(self, other: Any) -> Any:
        return self._binary(other, "mod", True)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __pow__(self, n: Any) -> Any:
        if not isinstance(n, int):
            return apply("pow", math.pow, (self, n))
        result, square = None, self
        if n == 0:
            return Scalar(self.kind, _number(self.kind, 1))
        while True:
            if n & 1:
                result = square if result is None else result * square
            n >>= 1
            if not n:
                return result
            square = square * square

    def __rpow__(self, other: Any) -> Any:
        return apply("pow", math.pow, (other, self))

    def __and__(self, other: Any) -> Any:
        return self._binary(other, "and")

    def __or__(self, other: Any) -> Any:
        return self._binary(other, "or")

    def __xor__(self, other: Any) -> Any:
        return self._binary(other, "xor")

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __lshift__(self, n: Any) -> Scalar:
        return Scalar(self.kind, _S.shl(self.bits, int(n) & 31))

    def __rlshift__(self, a: int) -> Scalar:
        return Scalar("i", a) << self

    def __rshift__(self, n: Any) -> Scalar:
        move = _S.asr if self.kind == "i" else _S.shr
        return Scalar(self.kind, move(self.bits, int(n) & 31))

    def __rrshift__(self, a: int) -> Scalar:
        return Scalar("i", a) >> self

    def __neg__(self) -> Scalar:
        return Scalar(self.kind, self.bits ^ 0x80000000 if self.kind == "f" else -self.bits)

    def __pos__(self) -> Scalar:
        return self

    def __invert__(self) -> Scalar:
        return Scalar(self.kind, ~self.bits)

    def __round__(self) -> Any:
        return apply("rint", round, [self])

    def __abs__(self) -> Scalar:
        if self.kind == "f":
            return Scalar("f", self.bits & 0x7FFFFFFF)
        return Scalar(self.kind, abs(int(self.number)))

    # -- comparisons

    def _compare(self, other: Any, test: Callable[[Any, Any], bool]) -> Any:
        pair = self._pair(other)
        if pair is None:
            return NotImplemented
        kind, a, b = pair
        return truth(test(Scalar(kind, a).number, Scalar(kind, b).number))

    def __lt__(self, other: Any) -> Any:
        return self._compare(other, lambda a, b: a < b)

    def __le__(self, other: Any) -> Any:
        return self._compare(other, lambda a, b: a <= b)

    def __gt__(self, other: Any) -> Any:
        return self._compare(other, lambda a, b: a > b)

    def __ge__(self, other: Any) -> Any:
        return self._compare(other, lambda a, b: a >= b)

    def __eq__(self, other: object) -> Any:
        return self._compare(other, lambda a, b: a == b)

    def __ne__(self, other: object) -> Any:
        return self._compare(other, lambda a, b: a != b)


class Condition:
    """What a comparison gives: true or false, and `~` is the other one, which it is not of Python's bool."""

    __slots__ = ("value",)

    def __init__(self, value: bool) -> None:
        self.value = value

    def __bool__(self) -> bool:
        return self.value

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        return repr(self.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __invert__(self) -> Condition:
        return truth(not self.value)

    def __and__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a and b)

    def __or__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a or b)

    def __xor__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a is not b)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __eq__(self, other: object) -> Any:
        return self._with(other, lambda a, b: a is b)

    def __ne__(self, other: object) -> Any:
        return self._with(other, lambda a, b: a is not b)

    def _with(self, other: object, join: Callable[[bool, bool], bool]) -> Any:
        return truth(join(self.value, bool(other))) if isinstance(other, bool | Condition) else NotImplemented


_TRUE, _FALSE = Condition(True), Condition(False)


def truth(value: object) -> Condition:
    """The condition that is true where `value` is."""
    return _TRUE if value else _FALSE


def _number(kind: str, value: int) -> int:
    return float_bits(float(value)) if kind == "f" else value & _M


def _as(kind: str, value: Scalar) -> int:
    """The bits of a value of another kind, converted."""
    if kind == value.kind:
        return value.bits
    if kind == "f":
        return _S.itof(value.bits) if value.kind == "i" else _S.utof(value.bits)
    if value.kind == "f":
        x = float_of(value.bits)
        if x != x or math.isinf(x):
            return 0
        return int(x) & _M
    return value.bits


def _floor_divide(kind: str) -> Callable[[int, int], int]:
    def divide(a: int, b: int) -> int:
        x, y = Scalar(kind, a).number, Scalar(kind, b).number
        return 0 if y == 0 else int(x) // int(y) & _M

    return divide


def _modulo(kind: str) -> Callable[[int, int], int]:
    def modulo(a: int, b: int) -> int:
        x, y = Scalar(kind, a).number, Scalar(kind, b).number
        return int(x) & _M if y == 0 else int(x) % int(y) & _M

    return modulo


def _float_floor(a: int, b: int) -> int:
    x, y = float_of(a), float_of(b)
    if math.isinf(y) and math.isfinite(x):
        return float_bits(-1.0 if x * y < 0 else 0.0)
    return _S.fround(float_bits(float_of(_S.fsub(a, _float_mod(a, b))) / y)) if y else 0


def _float_mod(a: int, b: int) -> int:
    x, y = float_of(a), float_of(b)
    if not math.isfinite(x) or y == 0 or y != y:
        return 0x7FC00000
    rest = math.fmod(x, y)
    if rest == 0:
        return float_bits(math.copysign(0.0, y))
    return float_bits(rest) if (rest < 0) == (y < 0) else _S.fadd(float_bits(rest), b)


def _integer(f: Callable[[int, int], int]) -> dict[str, Callable[[int, int], int]]:
    return {"i": f, "u": f}


_BINARY: Final[dict[str, dict[str, Callable[[int, int], int]]]] = {
    "add": {"f": _S.fadd, **_integer(_S.add)},
    "sub": {"f": _S.fsub, **_integer(_S.sub)},
    "mul": {"f": _S.fmul, **_integer(_S.mul)},
    "floordiv": {"f": _float_floor, "i": _floor_divide("i"), "u": _floor_divide("u")},
    "mod": {"f": _float_mod, "i": _modulo("i"), "u": _modulo("u")},
    "and": _integer(_S.and_),
    "or": _integer(_S.or_),
    "xor": _integer(_S.xor),
}


def _divide(a: Any, b: Any) -> Scalar:
    x, y = (float_of(_as("f", v)) if isinstance(v, Scalar) else float(v) for v in (a, b))
    if y == 0:
        if x == 0 or x != x:
            return Scalar("f", 0x7FC00000)
        negative = math.copysign(1, x) * math.copysign(1, y) < 0
        return Scalar("f", 0xFF800000 if negative else 0x7F800000)
    return Scalar("f", float_bits(x / y))


def convert(name: str, values: Sequence[Any]) -> Any:
    """f32(x), u8(x), c64(re, im), u8x4(a, b, c, d)."""
    t = DTYPES[name]
    if t.lanes > 1:
        return Word(t, values[0].bits if len(values) == 1 else _packed(t, values))
    if name == "c64":
        if len(values) == 1 and isinstance(values[0], complex):
            return values[0]
        parts = [float(v) for v in values]
        return complex(*parts)
    (x,) = values
    if isinstance(x, Word):
        x = Scalar("u", x.bits)
    if isinstance(x, bool | Condition):
        return Scalar(t.value, _number(t.value, int(bool(x))))
    if not isinstance(x, Scalar):
        x = (
            Scalar("f", float_bits(x))
            if isinstance(x, float) and t.value == "f"
            else Scalar(t.value, _number(t.value, int(x) if t.value != "f" else x))
        )
    bits = _as(t.value, x)
    if name == "f16":
        return Scalar("f", _S.h2f(_S.f2h(bits)))
    if t.size < 4:
        width = 8 * t.size
        bits &= (1 << width) - 1
        if t.low < 0 and bits >> (width - 1):
            bits -= 1 << width
    return Scalar(t.value, bits)


def saturate(name: str, value: Any) -> Scalar:
    """u8.sat(x)."""
    t = DTYPES[name]
    number = value.number if isinstance(value, Scalar) else value
    if number != number:
        number = t.low
    return Scalar(t.value, int(min(max(number, t.low), t.high)))


class Word:
    """A packed word."""

    def __init__(self, dtype: DType, bits: int) -> None:
        self.dtype = dtype
        self.bits = bits & _M

    def __getitem__(self, lane: int) -> Scalar:
        width = 32 // self.dtype.lanes
        part = self.bits >> width * lane & (1 << width) - 1
        if self.dtype.low < 0 and part >> (width - 1):
            part -= 1 << width
        return Scalar("i", part)


def _packed(t: DType, values: Sequence[Any]) -> int:
    width = 32 // t.lanes
    return sum((int(v) & (1 << width) - 1) << width * j for j, v in enumerate(values))


def _typed(x: Any) -> Scalar:
    """A number with its type: of plain ones f32 and i32."""
    return x if isinstance(x, Scalar) else convert("f32" if isinstance(x, float) else "i32", [x])


def apply(name: str, number: Callable[..., Any], args: Sequence[Any]) -> Any:
    """A function of the language on scalars or Python numbers. number: what it computes on Python numbers."""
    if name != "bitcast" and not any(isinstance(a, Scalar | complex | Word) for a in args):
        return number(*args)
    exact = _EXACT.get(name)
    if exact is not None:
        return exact(*args)
    numbers = [float(a) for a in args]
    try:
        return Scalar("f", float_bits(float(number(*numbers))))
    except (ValueError, ZeroDivisionError, OverflowError):  # where Python raises, IEEE has infinities and NaN
        with np.errstate(all="ignore"):
            return Scalar("f", float_bits(float(_IEEE[name](*map(np.float64, numbers)))))


_IEEE: Final[dict[str, Callable[..., Any]]] = {
    "recip": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "pow": np.power,
    "acos": np.arccos,
    "asin": np.arcsin,
    **{name: getattr(np, name) for name in ("cos", "cosh", "exp", "exp2", "expm1", "fmod", "hypot", "log", "log10",
                                            "log1p", "log2", "sin", "sinh", "sqrt", "tan")},
}  # fmt: skip


def pick(larger: bool) -> Callable[..., Any]:
    """minimum, or maximum."""

    def pick(*args: Any) -> Any:
        result = args[0]
        for other in args[1:]:
            first = result if isinstance(result, Scalar) else None
            pair = first._pair(other) if first is not None else other._pair(result)
            assert pair is not None
            kind = pair[0]
            a, b = (Scalar(kind, pair[1]), Scalar(kind, pair[2]))
            if first is None:
                a, b = b, a
            result = (b if b > a else a) if larger else (b if b < a else a)
        return result

    return pick


def _select(condition: Any, a: Any, b: Any) -> Any:
    kinds = {x.kind for x in (a, b) if isinstance(x, Scalar)}
    chosen = a if condition else b
    if isinstance(chosen, Scalar) or not kinds:
        if isinstance(chosen, Scalar) and "f" in kinds and chosen.kind != "f":
            return Scalar("f", _as("f", chosen))
        if any(isinstance(x, float) for x in (a, b)) and isinstance(chosen, Scalar) and chosen.kind != "f":
            return Scalar("f", _as("f", chosen))
        return chosen
    kind = (
        "f" if "f" in kinds or isinstance(chosen, float) or isinstance(a if chosen is b else b, float) else kinds.pop()
    )
    return Scalar(kind, float_bits(float(chosen)) if kind == "f" else int(chosen))


_EXACT: Final[dict[str, Callable[..., Any]]] = {
    "where": _select,
    "minimum": pick(False),
    "maximum": pick(True),
    "clamp": lambda x, low, high: pick(False)(pick(True)(x, low), high),
    "abs": abs,
    "sign": lambda x: Scalar(x.kind, _number(x.kind, (x.number > 0) - (x.number < 0))),
    "fma": lambda a, b, c: convert("f32", [a]) * b + c,
    "bitcast": lambda x, type_: Scalar(_WIDE[type_.name], _typed(x).bits),
    "clz": lambda x: Scalar("i", _S.clz(x.bits)),
    "popcount": lambda x: Scalar("i", x.bits.bit_count()),
    "ror": lambda x, n: Scalar(x.kind, x.bits >> int(n) % 32 | x.bits << (-int(n) % 32)),
    "mul24": lambda a, b: _mul24(a, b),
    "floor": lambda x: Scalar("f", _S.ffloor(_as("f", x))),
    "ceil": lambda x: Scalar("f", _S.fceil(_as("f", x))),
    "trunc": lambda x: Scalar("f", _S.ftrunc(_as("f", x))),
    "rint": lambda x: Scalar("f", _S.fround(_as("f", x))),
    "isnan": lambda x: truth(math.isnan(float(x))),
    "isinf": lambda x: truth(math.isinf(float(x))),
    "isfinite": lambda x: truth(math.isfinite(float(x))),
    "copysign": lambda x, y: Scalar("f", convert("f32", [x]).bits & 0x7FFFFFFF | convert("f32", [y]).bits & 0x80000000),
}


def _mul24(a: Any, b: Any) -> Scalar:
    kind = a.kind if isinstance(a, Scalar) else b.kind
    x, y = (int(v) & 0xFFFFFF for v in (a, b))
    if kind == "i":
        x, y = (v - (1 << 24) if v >> 23 else v for v in (x, y))
    return Scalar(kind, x * y)
