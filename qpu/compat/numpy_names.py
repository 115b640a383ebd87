"""Names and calls of NumPy 1 that NumPy 2 removed, for old programs (`qpu emulate --compat`).

`install` adds what the NumPy at hand lacks; what it has stays as it is, except `array`, `asarray` and `full`, which
take ``copy=False`` and integers outside the dtype's range (kept to its low bits) as NumPy 1 did. Assignments of such
integers to elements of an existing array (``x[:] = -1`` with uint32) still raise OverflowError.
"""

from __future__ import annotations

import builtins
import ctypes
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["install", "missing"]

_TYPES: dict[str, Any] = {
    "bool": builtins.bool, "int": builtins.int, "float": builtins.float, "complex": builtins.complex,
    "object": builtins.object, "str": builtins.str, "long": builtins.int, "unicode": builtins.str,
    "float_": np.float64, "complex_": np.complex128, "cfloat": np.complex128, "singlecomplex": np.complex64,
    "longfloat": np.longdouble, "longcomplex": np.clongdouble, "clongfloat": np.clongdouble, "string_": np.bytes_,
    "unicode_": np.str_, "bool8": np.bool_, "object0": np.object_, "int0": np.intp, "uint0": np.uintp,
    "str0": np.str_, "bytes0": np.bytes_, "void0": np.void,
}  # fmt: skip
_CONSTANTS: dict[str, float] = {
    "Inf": np.inf, "Infinity": np.inf, "infty": np.inf, "PINF": np.inf, "NINF": -np.inf, "NaN": np.nan,
    "PZERO": 0.0, "NZERO": -0.0,
}  # fmt: skip
_RENAMED = {
    "product": "prod", "cumproduct": "cumprod", "sometrue": "any", "alltrue": "all", "row_stack": "vstack",
    "in1d": "isin", "trapz": "trapezoid", "round_": "round", "mat": "asmatrix", "issubclass_": "issubdtype",
}  # fmt: skip


def _asfarray(a: Any, dtype: Any = np.float64) -> Any:
    """The array as one of floats."""
    return np.asarray(a, dtype if np.issubdtype(dtype, np.inexact) else np.float64)


def _msort(a: Any) -> Any:
    """Sorted along the first axis."""
    return np.sort(a, axis=0)


def _asscalar(a: Any) -> Any:
    """The only element of an array."""
    return a.item()


def _find_common_type(array_types: Any, scalar_types: Any) -> Any:
    """The dtype that holds all of them."""
    return np.result_type(*(np.dtype(t) for t in (*array_types, *scalar_types)))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "asfarray": _asfarray, "msort": _msort, "asscalar": _asscalar, "find_common_type": _find_common_type,
}  # fmt: skip


def _tostring(self: Any, order: str = "C") -> bytes:
    """tobytes"""
    found: bytes = self.tobytes(order)
    return found


def _itemset(self: Any, *args: Any) -> None:
    """Set an element: ``a.itemset(value)``, ``a.itemset(index, value)``."""
    *where, value = args
    place = where[0] if len(where) == 1 else tuple(where)
    if where and not isinstance(place, tuple):
        self.flat[place] = value
    else:
        self[place] = value


def _ptp(self: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
    """Greatest minus least."""
    return np.ptp(self, axis, out, keepdims)


def _newbyteorder(self: Any, new_order: str = "S") -> Any:
    """The same bytes read in another order."""
    return self.view(self.dtype.newbyteorder(new_order))


_METHODS = {"tostring": _tostring, "itemset": _itemset, "ptp": _ptp, "newbyteorder": _newbyteorder}


def missing() -> Iterator[tuple[str, Any]]:
    """Names that this NumPy lacks, with what they were."""
    for table in (_TYPES, _CONSTANTS, _FUNCTIONS):
        for name, value in table.items():
            if not _has(name):
                yield name, value
    for name, new in _RENAMED.items():
        if not _has(name):
            yield name, getattr(np, new)


def _has(name: str) -> bool:
    return name in vars(np)


def _wrapped(given: Any, dtype: Any, error: OverflowError) -> Any:
    """Integers as an array of `dtype`, low bits kept. Raises: the error where they are no integers."""
    kind = np.dtype(dtype)
    if kind.kind not in "iu":
        raise error
    bits, mask = 8 * kind.itemsize, (1 << 8 * kind.itemsize) - 1
    numbers = np.asarray(given, dtype=object)
    words = [int(n) & mask for n in numbers.flat]
    return np.array(words, dtype=f"u{bits // 8}").reshape(numbers.shape).astype(kind)


def _array(real: Callable[..., Any]) -> Callable[..., Any]:
    def array(object: Any, dtype: Any = None, *args: Any, **named: Any) -> Any:
        if named.get("copy") is False:
            named["copy"] = None  # where possible
        if named.get("like", 0) is None:
            del named["like"]
        try:
            return real(object, dtype, *args, **named)
        except OverflowError as error:
            return _wrapped(object, dtype, error)

    array.__name__ = real.__name__
    array.__doc__ = real.__doc__
    return array


def _full(real: Callable[..., Any]) -> Callable[..., Any]:
    def full(shape: Any, fill_value: Any, dtype: Any = None, *args: Any, **named: Any) -> Any:
        try:
            return real(shape, fill_value, dtype, *args, **named)
        except OverflowError as error:
            return real(shape, _wrapped(fill_value, dtype, error), dtype, *args, **named)

    return full


def _fromstring(real: Callable[..., Any]) -> Callable[..., Any]:
    def fromstring(string: Any, dtype: Any = float, count: int = -1, *, sep: str = "", **named: Any) -> Any:
        if sep == "":
            return np.frombuffer(string.encode() if isinstance(string, str) else string, dtype, count).copy()
        return real(string, dtype, count, sep=sep, **named)

    return fromstring


_installed = False


def install() -> None:
    """Add the names and methods to NumPy, in this process, until it ends."""
    global _installed
    if _installed:
        return
    _installed = True
    for name, value in list(missing()):
        setattr(np, name, value)
    for name, wrap in (("array", _array), ("asarray", _array), ("full", _full), ("fromstring", _fromstring)):
        setattr(np, name, wrap(getattr(np, name)))
    _add_methods()


def _add_methods() -> None:
    """Add methods to ndarray. It takes none by assignment; its dictionary is what its read-only view refers to."""
    found = gc.get_referents(np.ndarray.__dict__)
    names = next((each for each in found if isinstance(each, dict) and "tobytes" in each), None)
    if names is None:
        return
    for name, method in _METHODS.items():
        if not _works(name):
            names[name] = method
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(np.ndarray))


def _works(name: str) -> bool:
    """Whether the method exists; some versions keep removed ones that only raise AttributeError."""
    if not hasattr(np.ndarray, name):
        return False
    try:
        getattr(np.zeros(1), name)(*((0, 0) if name == "itemset" else ()))
    except AttributeError:
        return False
    return True
