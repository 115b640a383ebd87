"""Arithmetic on KIR values in the words of mathematics, for the expansions of functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qpu.core.scalar_lanes import float_bits
from qpu.lang.kir import Builder, Value

__all__ = ["Kit"]

INFINITY: Final = 0x7F800000
_MAGIC: Final = 0x4B400000  # 1.5 * 2**23: the sum with it has the integer in its low bits


class Kit:
    """Operations made with a builder. vc4: for VideoCore IV, which truncates sums and has no denormals and no NaN."""

    __slots__ = ("q", "vc4")

    def __init__(self, q: Builder, isa: str) -> None:
        self.q = q
        self.vc4 = isa == "vc4"

    # -- constants and patterns

    def number(self, value: float) -> Value:
        """A float constant."""
        return self.q.const("f", float_bits(value))

    def pattern(self, bits: int) -> Value:
        """A float constant by its bits."""
        return self.q.const("f", bits)

    def u(self, value: int) -> Value:
        """An unsigned constant."""
        return self.q.const("u", value & 0xFFFFFFFF)

    def i(self, value: int) -> Value:
        """A signed constant."""
        return self.q.const("i", value & 0xFFFFFFFF)

    def bits(self, x: Value) -> Value:
        """The pattern of a value as u32."""
        return self.q.emit("bitcast", x, type_="u")

    def signed(self, x: Value) -> Value:
        """The pattern of a value as i32."""
        return self.q.emit("bitcast", x, type_="i")

    def as_float(self, x: Value) -> Value:
        """A pattern as a float."""
        return self.q.emit("bitcast", x, type_="f")

    # -- arithmetic

    def add(self, a: Value, b: Value) -> Value:
        return self.q.emit("fadd", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.q.emit("fsub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.q.emit("fmul", a, b)

    def abs(self, x: Value) -> Value:
        return self.q.emit("fabs", x)

    def horner(self, x: Value, coefficients: Sequence[float]) -> Value:
        """The polynomial with these coefficients, the constant one first."""
        total = self.number(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            total = self.add(self.mul(total, x), self.number(c))
        return total

    def unit(self, name: str, x: Value) -> Value:
        """What the GPU's unit for special functions gives: recip, rsqrt, exp2, log2."""
        return self.q.emit(name, x)

    # -- choices

    def less(self, a: Value, b: Value) -> Value:
        return self.q.emit("lt", a, b, type_="b", attr=a.type)

    def equal(self, a: Value, b: Value) -> Value:
        return self.q.emit("eq", a, b, type_="b", attr=a.type)

    def select(self, mask: Value, a: Value, b: Value) -> Value:
        """a where the mask holds, else b."""
        return self.q.emit("select", mask, a, b)

    def limit(self, x: Value, low: float, high: float) -> Value:
        """x between two numbers; what a NaN becomes is one of them."""
        return self.q.emit("fmin", self.q.emit("fmax", x, self.number(low)), self.number(high))

    def unless_nan(self, x: Value, result: Value) -> Value:
        """The result, but a NaN where x is one."""
        if self.vc4:
            return result
        return self.select(self.equal(x, x), result, x)

    def unless_zero_or_nan(self, x: Value, result: Value) -> Value:
        """The result, but x itself where that is 0 of either sign or NaN."""
        if self.vc4:  # one zero, and expansions give 0 for it
            return result
        magnitude = self.bits(self.abs(x))
        inside = self.less(self.q.emit("sub", magnitude, self.u(1)), self.u(INFINITY))
        return self.select(inside, result, x)

    def with_sign(self, size: Value, of: Value) -> Value:
        """A value that is not negative, with the sign of another."""
        sign = self.q.emit("and", self.bits(of), self.u(0x80000000))
        return self.as_float(self.q.emit("or", self.bits(size), sign))

    # -- powers of two

    def nearest(self, x: Value) -> tuple[Value, Value]:
        """The integer nearest to x, as a float and as i32, for abs(x) < 2**22."""
        if self.vc4:  # sums truncate
            x = self.add(x, self.number(0.5))
        moved = self.add(x, self.pattern(_MAGIC))
        whole = self.sub(moved, self.pattern(_MAGIC))
        return whole, self.q.emit("sub", self.signed(moved), self.i(_MAGIC))

    def power_of_two(self, n: Value) -> Value:
        """2**n for an i32 in -126..127."""
        q = self.q
        return self.as_float(q.emit("add", q.emit("shl", n, self.u(23)), self.i(0x3F800000)))

    def scaled(self, x: Value, n: Value) -> Value:
        """x * 2**n for an i32 in -252..254: in two factors, so that the result may be denormal or infinite."""
        q = self.q
        half = q.emit("asr", n, self.u(1))
        rest = q.emit("sub", n, half)
        return self.mul(self.mul(x, self.power_of_two(half)), self.power_of_two(rest))
