"""The elementwise functions of the namespace, made from the rows of `qpu.array.operations`."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, Final

from qpu.array import build
from qpu.array.array import Array
from qpu.array.manipulation import array_of
from qpu.array.operations import OPERATIONS, Operation
from qpu.errors import UsageError

__all__ = ["FUNCTIONS", "clip", "where"]


def _operand(x: Any, what: str) -> Any:
    if x.__class__ is Array:
        return x._node
    if isinstance(x, numbers.Number):
        return x
    raise UsageError(f"{what} is a {type(x).__name__}", help=f"make it an array: xp.asarray({what})")


def _one(row: Operation) -> Callable[..., Array]:
    name = row.name

    def function(x: Array, /) -> Array:
        return Array(build.unary(name, array_of(x)))

    return function


def _two(row: Operation) -> Callable[..., Array]:
    name = row.name

    def function(x1: Array, x2: Array, /) -> Array:
        return Array(build.binary(name, _operand(x1, "x1"), _operand(x2, "x2")))

    return function


_WORDS = {"b": "bool", "i": "int8 int16 int32", "u": "uint8 uint16 uint32", "f": "float16 float32", "c": "complex64"}


def dtypes_of(row: Operation) -> str:
    """The dtypes that an operation takes, in words."""
    groups = row.groups if row.result != "float" else "".join(dict.fromkeys("iu" + row.groups))
    return " ".join(_WORDS[g] for g in "biufc" if g in groups)


def _made(row: Operation) -> Callable[..., Array]:
    function = (_one if row.arity == 1 else _two)(row)
    function.__name__ = function.__qualname__ = row.name
    result = {"same": "the common dtype", "bool": "bool", "real": "the common dtype; float32 of complex64",
              "float": "the common dtype; float32 of integers"}[row.result]  # fmt: skip
    function.__doc__ = (
        f"{row.doc}\n\n    dtypes: {dtypes_of(row)}. Result: {result}, shapes broadcast. "
        "Raises: UsageError for other dtypes, or shapes that do not fit.\n    "
    )
    return function


FUNCTIONS: Final[dict[str, Callable[..., Array]]] = {row.name: _made(row) for row in OPERATIONS.values()}
"""Elementwise functions by name."""


def where(condition: Array, x1: Any, x2: Any, /) -> Array:
    """x1 where the condition holds, else x2; shapes broadcast. Raises: UsageError for a condition that is not bool."""
    return Array(build.where(array_of(condition, "condition"), _operand(x1, "x1"), _operand(x2, "x2")))


def clip(x: Array, /, min: Any = None, max: Any = None) -> Array:
    """x between two bounds: numbers, arrays of its dtype, or None. NaN stays NaN. Raises: UsageError."""
    low, high = (b._node if b.__class__ is Array else b for b in (min, max))
    return Array(build.clip(array_of(x), low, high))
