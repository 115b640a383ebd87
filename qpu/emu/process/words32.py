"""The word sizes of a 32-bit Python for `qpu emulate --board pi3,bits=32`: `struct` and `array` with four-byte longs.

On 32-bit Arm ``L``, ``l``, ``P``, ``n`` and ``N`` have four bytes, and 64-bit integers are aligned to eight as on
64-bit systems, so a native format means what it means here once those letters are written as ``I`` and ``i``. `ctypes`
keeps the sizes of the host, whose addresses it handles.
"""

from __future__ import annotations

import array
import struct
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["narrow_words"]

_NARROW = str.maketrans("lLPnN", "iIIiI")
_EXPLICIT = ("<", ">", "=", "!")  # formats with sizes of their own


def _format(text: Any) -> Any:
    """The format with the letters of 32-bit words; explicit formats and bad arguments as they are."""
    if isinstance(text, (bytes, bytearray)):
        return _format(text.decode("ascii", "replace"))
    if not isinstance(text, str) or text.lstrip().startswith(_EXPLICIT):
        return text
    return text.translate(_NARROW)


def _function(real: Callable[..., Any]) -> Callable[..., Any]:
    def call(format: Any, /, *args: Any, **named: Any) -> Any:
        return real(_format(format), *args, **named)

    call.__name__ = real.__name__
    call.__doc__ = real.__doc__
    return call


class _Struct(struct.Struct):
    """struct.Struct"""

    def __new__(cls, format: Any, *args: Any) -> Any:
        return super().__new__(cls, _format(format), *args)  # type: ignore[call-arg]  # takes the format

    def __init__(self, format: Any) -> None:
        super().__init__(_format(format))


_Struct.__name__ = _Struct.__qualname__ = "Struct"
_Struct.__module__ = "struct"


def _array() -> type[Any]:
    """A subclass of array.array, which may itself have been replaced."""

    class Array(array.array):  # type: ignore[type-arg]  # of any number
        """array.array"""

        def __new__(cls, typecode: Any, *args: Any) -> Any:
            long = isinstance(typecode, str) and typecode in ("l", "L")
            return super().__new__(cls, typecode.translate(_NARROW) if long else typecode, *args)

    Array.__name__ = Array.__qualname__ = Array.__module__ = "array"
    return Array


def narrow_words() -> Iterator[tuple[Any, str, Any]]:
    """The replacements: module, name, replacement."""
    for name in ("calcsize", "pack", "pack_into", "unpack", "unpack_from", "iter_unpack"):
        yield struct, name, _function(getattr(struct, name))
    yield struct, "Struct", _Struct
    made = _array()
    yield array, "array", made
    yield array, "ArrayType", made
