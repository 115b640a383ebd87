"""KIR to KIR that an instruction set can do: division, wide products, lane tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from qpu.lang.kir import Loop, Region, Value
from qpu.lang.rewrite import Rewriter
from qpu.lang.spans import Span, Spans

__all__ = ["legalise"]


class _Legaliser(Rewriter):
    """Replaces what the instruction set lacks. spans: of the values of the KIR that is read."""

    def __init__(self, isa: str, top: Region, params: Mapping[str, Span]) -> None:
        super().__init__(isa)
        self._params = params
        self._top = top
        self._spans: Spans | None = None

    @property
    def spans(self) -> Spans:
        if self._spans is None:
            self._spans = Spans(self._top, self._params)
        return self._spans

    def replace(self, v: Value, args: tuple[Value, ...]) -> Value | None:
        rule = _RULES.get(v.op)
        return None if rule is None else rule(self, v, args)

    def udivmod(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Quotient and remainder of unsigned integers; by zero any value.

        By a constant: a multiplication by its reciprocal. Else: a float quotient of the high parts, corrected.
        """
        q = self.q
        n = b.constant
        if n is not None and n and n & (n - 1) == 0:
            shift = n.bit_length() - 1
            return q.emit("shr", a, self.u(shift)), q.emit("and", a, self.u(n - 1))
        if n:
            high = self.divide_constant(a, n)
            return high, q.emit("sub", a, q.emit("mul", high, b))
        # The quotient of the floats is off by a few units at most in its 24 bits: three rounds settle 32.
        r = q.emit("recip", q.emit("utof", b))
        r = q.emit("fmul", r, self.f(1.0 - 2.0**-21))  # never too large
        quotient, rest = self.u(0), a
        for _ in range(3):
            part = q.emit("ftou", q.emit("fmul", q.emit("utof", rest), r))
            quotient = q.emit("add", quotient, part)
            rest = q.emit("sub", rest, q.emit("mul", part, b))
        more = q.emit("le", b, rest, type_="b", attr="u")
        quotient = q.emit("select", more, q.emit("add", quotient, self.u(1)), quotient)
        rest = q.emit("select", more, q.emit("sub", rest, b), rest)
        return quotient, rest

    def divide_constant(self, a: Value, n: int) -> Value:
        """a // n by the high half of a product (Granlund and Montgomery)."""
        q = self.q
        bits = (n - 1).bit_length()
        m = ((1 << (32 + bits)) + n - 1) // n  # 33 bits
        if m < 1 << 32 or m * n - (1 << (32 + bits)) <= 0:
            return q.emit("shr", self.umulh(a, self.u(m)), self.u(bits))
        t = self.umulh(a, self.u(m - (1 << 32)))
        half = q.emit("shr", q.emit("sub", a, t), self.u(1))
        return q.emit("shr", q.emit("add", half, t), self.u(bits - 1))

    def umulh(self, a: Value, b: Value) -> Value:
        """High half of an unsigned product, by 16-bit parts."""
        q = self.q
        mask, n = self.u(0xFFFF), self.u(16)
        al, ah = q.emit("and", a, mask), q.emit("shr", a, n)
        bl, bh = q.emit("and", b, mask), q.emit("shr", b, n)
        low, mid1, mid2, high = (q.emit("umul24", x, y) for x, y in ((al, bl), (ah, bl), (al, bh), (ah, bh)))
        carry = q.emit("add", q.emit("shr", low, n), q.emit("and", mid1, mask))
        carry = q.emit("add", carry, q.emit("and", mid2, mask))
        total = q.emit("add", high, q.emit("shr", mid1, n))
        total = q.emit("add", total, q.emit("shr", mid2, n))
        return q.emit("add", total, q.emit("shr", carry, n))

    def divmod(self, v: Value, a: Value, b: Value) -> tuple[Value, Value]:
        """Rounded down, with the sign of the divisor."""
        if v.type == "u":
            return self.udivmod(a, b)
        q = self.q
        n = b.constant
        if n is not None and not n >> 31 and n and n & (n - 1) == 0:
            shift = n.bit_length() - 1
            return q.emit("asr", a, self.u(shift)), q.emit("and", a, q.const("i", n - 1))
        zero = q.const("i", 0)
        sa, sb = (q.emit("asr", x, self.u(31)) for x in (a, b))
        ua, ub = (self.cast(q.emit("sub", q.emit("xor", x, s), s), "u") for x, s in ((a, sa), (b, sb)))
        quotient, rest = self.udivmod(ua, ub)
        sign = q.emit("xor", sa, sb)
        quotient_i, rest_i = self.cast(quotient, "i"), self.cast(rest, "i")
        quotient_i = q.emit("sub", q.emit("xor", quotient_i, sign), sign)
        rest_i = q.emit("sub", q.emit("xor", rest_i, sa), sa)
        off = q.emit(
            "band", q.emit("ne", rest_i, zero, type_="b", attr="i"), q.emit("lt", sign, zero, type_="b", attr="i")
        )
        quotient_i = q.emit("select", off, q.emit("sub", quotient_i, q.const("i", 1)), quotient_i)
        rest_i = q.emit("select", off, q.emit("add", rest_i, b), rest_i)
        return quotient_i, rest_i


def _div(r: _Legaliser, v: Value, args: tuple[Value, ...]) -> Value:
    return r.divmod(v, *args)[0]


def _mod(r: _Legaliser, v: Value, args: tuple[Value, ...]) -> Value:
    return r.divmod(v, *args)[1]


def _mul(r: _Legaliser, v: Value, args: tuple[Value, ...]) -> Value | None:
    """A product of 24 bits where both factors have no more."""
    if all(r.spans.fits(a, 24) for a in v.args):
        return r.cast(r.q.emit("umul24", *(r.cast(a, "u") for a in args)), v.type)
    return None


def _shl(r: _Legaliser, v: Value, args: tuple[Value, ...]) -> Value | None:
    """On VideoCore IV a small multiplication inside loops, as the other ALU does it."""
    n = v.args[1].constant
    if r.isa != "vc4" or n is None or n > 3 or not r.q.region.loop or not r.spans.fits(v.args[0], 24):
        return None
    return r.cast(r.q.emit("umul24", r.cast(args[0], "u"), r.u(1 << n)), v.type)


def _umulh(r: _Legaliser, v: Value, args: tuple[Value, ...]) -> Value:
    return r.umulh(*args)


def _sext(bits: int) -> Callable[..., Any]:
    def extend(r: _Legaliser, v: Value, args: tuple[Value, ...]) -> Value:
        q, n = r.q, r.u(32 - bits)
        return q.emit("asr", q.emit("shl", r.cast(args[0], "i"), n), n)

    return extend


def _rotv(r: _Legaliser, v: Value, args: tuple[Value, ...]) -> Value:
    return r.q.emit("shuffle", args[0], r.q.emit("add", r.q.emit("lane"), args[1]))


def _atomic(r: _Legaliser, v: Value, args: tuple[Value, ...]) -> Value | None:
    """V3D adds integers only: floats by compare-and-swap, again for the lanes whose element changed meanwhile."""
    if v.type != "f" or r.isa == "vc4":
        return None
    q, a = r.q, v.attr
    zero, one = q.const("i", 0), q.const("i", 1)
    start = one
    if a.once:
        start = q.emit("select", q.emit("eq", q.emit("lane"), zero, type_="b", attr="i"), one, zero)
    elif len(args) > 3:
        start = q.emit("select", args[3], one, zero)
    region = Region(q.region, loop=True)
    waiting, found = q.parameter(region, "i", True), q.parameter(region, "f", True)
    outer, q.region = q.region, region
    mask = q.emit("ne", waiting, zero, type_="b", attr="i")
    old = q.append("load", (args[0], args[1], mask), "u", replace(a, dtype="u32", operation=""), varying=True)
    new = q.emit("bitcast", q.emit("fadd", q.emit("bitcast", old, type_="f"), args[2]), type_="u")
    swap = replace(a, dtype="u32", operation="cas", once=False)
    got = q.append("atomic", (args[0], args[1], old, new, mask), "u", swap, varying=True)
    done = q.emit("eq", got, old, type_="b", attr="u")
    left = q.emit("select", done, zero, waiting)
    result = q.emit("select", mask, q.emit("bitcast", old, type_="f"), found)
    again = q.emit("ne", left, zero, type_="b", attr="i")
    q.region = outer
    guard = q.emit("any", q.emit("ne", start, zero, type_="b", attr="i"))
    attr = Loop(region, [left, result], again)
    made = q.append("loop", (guard, start, q.const("f", 0)), "", attr, varying=False)
    q.result(made, "i", True)
    return q.result(made, "f", True)


_RULES: dict[str, Callable[..., Value | None]] = {
    "div": _div,
    "mod": _mod,
    "umulh": _umulh,
    "mul": _mul,
    "shl": _shl,
    "sext8": _sext(8),
    "sext16": _sext(16),
    "rotv": _rotv,
    "atomic": _atomic,
}


def legalise(top: Region, isa: str, params: Mapping[str, Span] | None = None) -> Region:
    """The same kernel in operations that `isa` has. params: least and greatest launch values, by name."""
    r = _Legaliser(isa, top, params or {})
    r.region(top)
    return r.q.top
