"""Names that current Python removed from its library, for old programs (`qpu emulate --compat`)."""

from __future__ import annotations

import array
import collections
import collections.abc
import fractions
import inspect
import math
import time
from typing import Any

__all__ = ["install"]


class _Array(array.array):  # type: ignore[type-arg]  # of any number
    """array.array with the methods that Python 3.9 removed."""

    def tostring(self) -> bytes:
        """tobytes"""
        return self.tobytes()

    def fromstring(self, data: Any) -> None:
        """frombytes"""
        self.frombytes(data.encode("latin-1") if isinstance(data, str) else data)


_Array.__name__ = _Array.__qualname__ = "array"
_Array.__module__ = "array"


_ArgSpec = collections.namedtuple("_ArgSpec", "args varargs keywords defaults")  # untyped: of any program


def _getargspec(func: Any) -> Any:
    """args, varargs, keywords, defaults"""
    full = inspect.getfullargspec(func)
    return _ArgSpec(full.args, full.varargs, full.varkw, full.defaults)


def install() -> None:
    """Add the names, in this process, until it ends."""
    for name in collections.abc.__all__:
        if not hasattr(collections, name):
            setattr(collections, name, getattr(collections.abc, name))
    added: tuple[tuple[Any, str, Any], ...] = (
        (time, "clock", time.perf_counter),
        (fractions, "gcd", math.gcd),
        (inspect, "getargspec", _getargspec),
    )
    for module, name, value in added:
        if not hasattr(module, name):
            setattr(module, name, value)
    if not hasattr(array.array, "tostring"):
        array.array = array.ArrayType = _Array  # type: ignore[misc]  # a subclass in its place
