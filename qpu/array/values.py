"""Values of array elements inside a kernel that is being emitted, and the operations that several rows share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from qpu.array.dtypes import DTYPES, Kind
from qpu.lang.fold import fold
from qpu.lang.kir import Builder, Loop, Region, Skip, Value
from qpu.lang.math_kit import Kit

__all__ = ["Complex", "Maker", "Operand"]


class Complex(NamedTuple):
    """A c64 value: its parts, f each."""

    real: Value
    imag: Value


Operand: TypeAlias = "Value | Complex"


class Maker:
    """Makes the KIR of one kernel. q: the builder; kit: its arithmetic; isa: for which."""

    f32 = next(k for k in DTYPES if k.name == "float32")
    i32 = next(k for k in DTYPES if k.name == "int32")

    def __init__(self, isa: str) -> None:
        self.isa = isa
        self.q = Builder(fold)
        self.kit = Kit(self.q, isa)
        self.turns: dict[int, tuple[Region, int]] = {}  # items that a turn of a loop takes, by its region

    @contextmanager
    def into(self, region: Region) -> Iterator[None]:
        """Operations are appended to a region."""
        before, self.q.region = self.q.region, region
        try:
            yield
        finally:
            self.q.region = before

    def loop(
        self,
        inits: Sequence[Value],
        varies: Sequence[bool],
        going: Callable[[Sequence[Value]], Value],
        turn: Callable[[Sequence[Value]], Sequence[Value]],
        items: int = 0,
    ) -> Sequence[Value]:
        """Turns while a condition holds that is the same in all lanes; what they carry. items: that a turn takes."""
        q = self.q
        guard = going(inits)
        if guard.op == "const" and not guard.attr:
            return inits
        region = Region(q.region, loop=True)
        parameters = [q.parameter(region, v.type, vary) for v, vary in zip(inits, varies, strict=True)]
        with self.into(region):
            yields = list(turn(parameters))
            cond = going(yields)
        made = q.append("loop", (guard, *inits), "", Loop(region, yields, cond), varying=False)
        if items:
            self.turns[id(region)] = (region, items)
        return [q.result(made, p.type, p.varying) for p in parameters]

    def rarely(self, mask: Value, usual: Value, other: Callable[[], Value]) -> Value:
        """other() where the mask holds, which is skipped where it holds in no lane; else the usual value."""
        q = self.q
        if mask.op == "const":
            return other() if mask.attr else usual
        region = Region(q.region)
        with self.into(region):
            found = q.emit("select", mask, other(), usual)
        made = q.append("if_any", (mask, usual), "", Skip(region, [found]), varying=False)
        return q.result(made, usual.type, mask.varying or found.varying)

    def narrow(self, v: Value, kind: Kind) -> Value:
        """What is left of a value in a narrow dtype: integers wrap, float16 rounds."""
        q = self.q
        if kind.size >= 4 or kind.letter == "b":
            return v
        if kind.letter == "f":
            return q.emit("h2f", q.emit("f2h", v))
        if kind.group == "u":
            return q.emit("and", v, q.const("i", (1 << 8 * kind.size) - 1))
        return q.emit("sext8" if kind.size == 1 else "sext16", v)

    def exclusive(self, a: Value, b: Value) -> Value:
        """Exactly one of two masks."""
        q = self.q
        return q.emit("band", q.emit("bor", a, b), q.emit("bnot", q.emit("band", a, b)))

    def finite(self, v: Value) -> Value:
        """Whether a float is neither infinite nor NaN."""
        return self.kit.less(self.kit.bits(self.kit.abs(v)), self.kit.u(0x7F800000))

    def nan_of(self, a: Value, b: Value, result: Value) -> Value:
        """The result, but the NaN that a or b is."""
        return self.kit.unless_nan(a, self.kit.unless_nan(b, result))

    def extreme(self, op: str, kind: Kind, a: Value, b: Value) -> Value:
        """The smaller ("min") or larger ("max"); of floats NaN where either is."""
        if kind.letter == "f":
            return self.nan_of(a, b, self.q.emit(f"f{op}", a, b))
        return self.q.emit(op if kind.letter == "i" else f"u{op}", a, b)
