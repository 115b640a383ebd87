"""Arithmetic that VideoCore IV lacks, by what it has: wide products, rounding, unsigned conversions, half floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from qpu.lang.kir import Value
from qpu.lang.rewrite import Rewriter

__all__ = ["ARITHMETIC", "Arithmetic"]


class Arithmetic(Rewriter):
    """A rewriter with what several replacements are made of."""

    def i(self, value: int) -> Value:
        return self.q.const("i", value & 0xFFFFFFFF)

    def product(self, a: Value, b: Value) -> Value:
        """Low 32 bits of a product from products of 24 bits: the high bytes by the other's low part."""
        q = self.q
        a, b = self.cast(a, "u"), self.cast(b, "u")
        low = q.emit("umul24", a, b)
        high: Value | None = None
        for x, y in ((a, b), (b, a)):
            if x.constant is not None and x.constant < 1 << 24:
                continue
            part = q.emit("umul24", q.emit("shr", x, self.u(24)), y)
            high = part if high is None else q.emit("add", high, part)
        return low if high is None else q.emit("add", low, q.emit("shl", high, self.u(24)))

    def trunc(self, x: Value) -> Value:
        """Toward zero; from 2**23 on a float has no fraction."""
        q = self.q
        small = q.emit("lt", q.emit("fabs", x), self.f(8388608.0), type_="b", attr="f")
        return q.emit("select", small, q.emit("itof", q.emit("ftoi", x)), x)

    def half(self, h: Value) -> Value:
        """A half float by moving its fields; half denormals become 0, as this chip has none."""
        q = self.q
        sign = q.emit("shl", q.emit("and", h, self.u(0x8000)), self.u(16))
        rest = q.emit("and", h, self.u(0x7FFF))
        moved = q.emit("add", q.emit("shl", rest, self.u(13)), self.u(112 << 23))
        inf = q.emit("le", self.u(0x7C00), rest, type_="b", attr="u")
        moved = q.emit("select", inf, q.emit("or", moved, self.u(0x7F800000)), moved)
        zero = q.emit("lt", rest, self.u(0x400), type_="b", attr="u")
        moved = q.emit("select", zero, self.u(0), moved)
        return self.cast(q.emit("or", sign, moved), "f")

    def to_half(self, x: Value) -> Value:
        """To a half float, to nearest even; what is below its normal range becomes 0."""
        q = self.q
        b = self.cast(x, "u")
        sign = q.emit("and", q.emit("shr", b, self.u(16)), self.u(0x8000))
        size = q.emit("and", b, self.u(0x7FFFFFFF))
        odd = q.emit("and", q.emit("shr", size, self.u(13)), self.u(1))
        rounded = q.emit("add", q.emit("add", size, self.u(0xFFF)), odd)
        h = q.emit("shr", q.emit("sub", rounded, self.u(112 << 23)), self.u(13))
        small = q.emit("lt", rounded, self.u(113 << 23), type_="b", attr="u")
        large = q.emit("le", self.u(143 << 23), rounded, type_="b", attr="u")
        h = q.emit("select", small, self.u(0), q.emit("select", large, self.u(0x7C00), h))
        return q.emit("or", sign, h)


def _floor(r: Arithmetic, v: Value, args: tuple[Value, ...]) -> Value:
    t = r.trunc(args[0])
    above = r.q.emit("lt", args[0], t, type_="b", attr="f")
    return r.q.emit("select", above, r.q.emit("fsub", t, r.f(1.0)), t)


def _ceil(r: Arithmetic, v: Value, args: tuple[Value, ...]) -> Value:
    t = r.trunc(args[0])
    below = r.q.emit("lt", t, args[0], type_="b", attr="f")
    return r.q.emit("select", below, r.q.emit("fadd", t, r.f(1.0)), t)


def _round(r: Arithmetic, v: Value, args: tuple[Value, ...]) -> Value:
    """Ties to even: by the fraction that truncation left and the parity of what remains."""
    q, x = r.q, args[0]
    t = r.trunc(x)
    rest = q.emit("fabs", q.emit("fsub", x, t))
    half = r.f(0.5)
    odd = q.emit("ne", q.emit("and", q.emit("ftoi", t), r.i(1)), r.i(0), type_="b", attr="i")
    up = q.emit("lt", half, rest, type_="b", attr="f")
    tie = q.emit("band", q.emit("eq", rest, half, type_="b", attr="f"), odd)
    negative = q.emit("lt", x, r.f(0.0), type_="b", attr="f")
    one = q.emit("select", negative, r.f(-1.0), r.f(1.0))
    return q.emit("select", q.emit("bor", up, tie), q.emit("fadd", t, one), t)


def _utof(r: Arithmetic, v: Value, args: tuple[Value, ...]) -> Value:
    q, a = r.q, args[0]
    big = q.emit("lt", r.cast(a, "i"), r.i(0), type_="b", attr="i")
    half = q.emit("itof", r.cast(q.emit("shr", a, r.u(1)), "i"))
    return q.emit("select", big, q.emit("fadd", half, half), q.emit("itof", r.cast(a, "i")))


def _ftou(r: Arithmetic, v: Value, args: tuple[Value, ...]) -> Value:
    q, a = r.q, args[0]
    limit = r.f(2147483648.0)
    big = q.emit("le", limit, a, type_="b", attr="f")
    high = q.emit("xor", r.cast(q.emit("ftoi", q.emit("fsub", a, limit)), "u"), r.u(0x80000000))
    return q.emit("select", big, high, r.cast(q.emit("ftoi", a), "u"))


def _uminmax(smaller: bool) -> Callable[..., Any]:
    def choose(r: Arithmetic, v: Value, args: tuple[Value, ...]) -> Value:
        less = r.q.emit("lt", *args, type_="b", attr="u")
        a, b = args if smaller else (args[1], args[0])
        return r.q.emit("select", less, a, b)

    return choose


def _equal(r: Arithmetic, v: Value, args: tuple[Value, ...]) -> Value | None:
    """Floats by their order: a difference is not 0 for two infinities of one sign."""
    if v.attr != "f" or any(x.constant is not None and x.constant & 0x7F800000 != 0x7F800000 for x in args):
        return None
    a, b = args
    if v.op == "eq":
        both = (r.q.emit("le", x, y, type_="b", attr="f") for x, y in ((a, b), (b, a)))
        return r.q.emit("band", *both)
    return r.q.emit("bor", *(r.q.emit("lt", x, y, type_="b", attr="f") for x, y in ((a, b), (b, a))))


def _smul24(r: Arithmetic, v: Value, args: tuple[Value, ...]) -> Value:
    n = r.u(8)
    a, b = (r.q.emit("asr", r.q.emit("shl", r.cast(x, "i"), n), n) for x in args)
    return r.cast(r.product(a, b), v.type)


ARITHMETIC: Final[dict[str, Callable[..., Value | None]]] = {
    "mul": lambda r, v, args: r.cast(r.product(*args), v.type),
    "ftrunc": lambda r, v, args: r.trunc(args[0]),
    "ffloor": _floor,
    "fceil": _ceil,
    "fround": _round,
    "utof": _utof,
    "ftou": _ftou,
    "umin": _uminmax(True),
    "umax": _uminmax(False),
    "smul24": _smul24,
    "eq": _equal,
    "ne": _equal,
    "h2f": lambda r, v, args: r.half(args[0]),
    "f2h": lambda r, v, args: r.to_half(args[0]),
    "fneg": lambda r, v, args: r.q.emit("fsub", r.f(0.0), args[0]),
}
"""What stands for each operation: a function of the rewriter, the operation, and its new operands."""
