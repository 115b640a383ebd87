"""Types of the kernel language: what values are, and how elements lie in memory.

A value is f32, i32, u32 or a mask; everything else is storage that is converted when it is loaded or stored. Packed
words (`i8x4`, `u8x4`, `i16x2`) are loaded as one 32-bit word and taken apart by index.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["DTYPES", "DType", "dtype", "numpy_name"]


class DType(NamedTuple):
    """A storage type. value: type letter of a loaded element (KIR). size: bytes. lanes: elements in a packed word.

    low, high: range of an integer; 0, 0 for floats.
    """

    name: str
    value: str
    size: int
    numpy: str
    low: int = 0
    high: int = 0
    lanes: int = 1

    @property
    def integer(self) -> bool:
        """Whether elements are integers."""
        return self.value in ("i", "u")

    def __str__(self) -> str:
        return self.name


DTYPES: Final[dict[str, DType]] = {
    t.name: t
    for t in (
        DType("f32", "f", 4, "float32"),
        DType("i32", "i", 4, "int32", -(2**31), 2**31 - 1),
        DType("u32", "u", 4, "uint32", 0, 2**32 - 1),
        DType("f16", "f", 2, "float16"),
        DType("i16", "i", 2, "int16", -(2**15), 2**15 - 1),
        DType("u16", "i", 2, "uint16", 0, 2**16 - 1),
        DType("i8", "i", 1, "int8", -128, 127),
        DType("u8", "i", 1, "uint8", 0, 255),
        DType("c64", "f", 8, "complex64"),
        DType("i8x4", "u", 4, "uint32", -128, 127, lanes=4),
        DType("u8x4", "u", 4, "uint32", 0, 255, lanes=4),
        DType("i16x2", "u", 4, "uint32", -(2**15), 2**15 - 1, lanes=2),
    )
}
"""Storage types by name."""

LETTER: Final = {"f": "f32", "i": "i32", "u": "u32", "b": "bool"}
"""KIR's type letters in the language's words."""


def dtype(name: str) -> DType:
    """The storage type of that name. Raises: KeyError."""
    return DTYPES[name]


def numpy_name(type_: str) -> str:
    """NumPy's name of a value type letter."""
    return {"f": "float32", "i": "int32", "u": "uint32", "b": "bool"}[type_]
