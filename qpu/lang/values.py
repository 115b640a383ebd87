"""What names of a kernel hold while it is evaluated, beyond Python objects and KIR values: indices, views, poison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qpu.lang.kir import Value
from qpu.lang.types import DType

if TYPE_CHECKING:
    from qpu.lang.kir import Builder

__all__ = ["Bound", "Complex", "Index", "Inside", "Packed", "Poison", "Unbound", "View"]


@dataclass(frozen=True, slots=True)
class Index:
    """An item's index as a Grid or `Team.items` makes it: (off + limit) / 4 + plus.

    off: bytes of 4-byte elements, counting up to zero; limit: bytes at which zero stands, the same in all lanes;
    plus: elements. unit: bytes between neighbouring lanes (4, or more where a lane owns several items).
    """

    off: Value
    limit: Value
    plus: int = 0

    def moved(self, by: int) -> Index:
        """The index `by` items on."""
        return Index(self.off, self.limit, self.plus + by)

    def value(self, q: Builder) -> Value:
        """The index as an i32."""
        total = q.emit("add", self.off, self.limit)
        return q.emit("add", q.emit("asr", total, q.const("u", 2)), q.const("i", self.plus & 0xFFFFFFFF))

    def moved_by(self, q: Builder, stride: Value) -> Value:
        """Bytes from item 0 to where `off` is 0, for elements so many bytes apart; the same in all lanes."""
        start = q.emit("add", q.emit("asr", self.limit, q.const("u", 2)), q.const("i", self.plus & 0xFFFFFFFF))
        return q.emit("mul", start, stride)

    def scaled(self, q: Builder, size: int) -> tuple[Value, Value, int]:
        """Byte offset, limit and constant for elements of `size` bytes."""
        off, limit = self.off, self.limit
        if size < 4:
            by = q.const("u", 2 if size == 1 else 1)
            off, limit = q.emit("asr", off, by), q.emit("asr", limit, by)
        elif size > 4:
            by = q.const("u", size.bit_length() - 3)
            off, limit = q.emit("shl", off, by), q.emit("shl", limit, by)
        return off, limit, self.plus * size


@dataclass(frozen=True, slots=True)
class Inside:
    """Indices that are inside arrays: those at an offset with one of these `plus` are below these extents."""

    off: Value
    extents: set[int]
    plus: set[int]


@dataclass(frozen=True, slots=True)
class View:
    """An array parameter inside a kernel. number: of the array; mode: "in", "out" or "inout"; rank: 1 to 3.

    shape: extents as i32 values, strides: bytes from one element to the next of each axis; without the last
    where a row's elements are neighbours.
    """

    name: str
    number: int
    dtype: DType
    mode: str
    rank: int
    base: Value
    shape: tuple[Value, ...]
    strides: tuple[Value, ...]
    clamped: bool = False

    @property
    def strided(self) -> bool:
        """Whether a row's elements are not neighbours."""
        return len(self.strides) == self.rank


@dataclass(frozen=True, slots=True)
class Complex:
    """A c64 value: a pair of f32 values."""

    real: Any
    imag: Any


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed word: one u32 value and how it is divided."""

    word: Value
    dtype: DType


@dataclass(frozen=True, slots=True)
class Bound:
    """A method of the kernel object or of a view, not called yet."""

    owner: Any
    name: str


@dataclass(frozen=True, slots=True)
class Unbound:
    """A name that may have no value here. line: where it was bound for some lanes or turns only; where: in words."""

    line: int
    where: str


class Poison:
    """The result of an expression that is wrong and reported: what is made of it is not reported again."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<wrong>"


POISON = Poison()
