"""Bit fields of instruction words, declared as text: layouts with checked widths, packing and unpacking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Field", "Layout"]


@dataclass(frozen=True, slots=True)
class Field:
    """A run of bits `hi:lo` of a word."""

    name: str
    lo: int
    width: int

    @property
    def hi(self) -> int:
        """Highest bit, inclusive."""
        return self.lo + self.width - 1

    @property
    def max(self) -> int:
        """Largest value the field holds."""
        return (1 << self.width) - 1

    @property
    def mask(self) -> int:
        """The field's bits in place."""
        return self.max << self.lo

    def get(self, word: int) -> int:
        """The field's value in `word`."""
        return (word >> self.lo) & self.max

    def put(self, value: int) -> int:
        """`value` shifted into place. Raises ValueError when it does not fit; nothing is masked."""
        if not 0 <= value <= self.max:
            raise ValueError(f"{self.name}: {value} does not fit {self.width} bits (bits {self.hi}:{self.lo})")
        return value << self.lo


class Layout:
    """All fields of a word, most significant first: ``Layout("sig:4 unpack:3 ...")``; the widths must sum to `width`.

    The name ``_`` marks bits that must be zero; they get no field.
    """

    __slots__ = ("_fields", "width")

    def __init__(self, text: str, width: int = 64) -> None:
        self.width = width
        self._fields: dict[str, Field] = {}
        top = width
        for item in text.split():
            name, _, size = item.partition(":")
            top -= int(size)
            if top < 0:
                raise ValueError(f"layout is wider than {width} bits at {item!r}")
            field = Field(name, top, int(size))
            if name == "_":
                continue
            if name in self._fields:
                raise ValueError(f"field {name!r} appears twice")
            self._fields[name] = field
        if top:
            raise ValueError(f"layout covers {width - top} of {width} bits")

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields.values())

    def pack(self, values: Mapping[str, int]) -> int:
        """A word from field values; missing fields are zero. Raises KeyError or ValueError on bad input."""
        word = 0
        for name, value in values.items():
            word |= self._fields[name].put(value)
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """All field values of `word`."""
        return {name: field.get(word) for name, field in self._fields.items()}
