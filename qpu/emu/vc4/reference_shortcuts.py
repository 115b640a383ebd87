"""Shortcuts of the reference engine: the row's meaning in fewer NumPy calls where the operands are ordinary numbers.

Each function returns exactly what the row's `sem` returns, and calls it when an operand or the result is not finite or
is denormal. The tests compare them bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.optable import Op, Semantics
from qpu.vc4 import sem
from qpu.vc4.ops import is_move

__all__ = ["shortcut"]

U32: TypeAlias = NDArray[np.uint32]

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_EXPONENT = np.uint32(0x7F800000)
_SIGN = np.uint32(0x80000000)
_ONE = np.uint32(1)
_LARGE = np.float32(2.0**127)
_DENORMALS = 0x007FFFFF  # pattern - 1 of every denormal is below; that of 0 wraps to the top


def _ordinary(a: U32, b: U32, result: NDArray[np.float32]) -> bool:
    """No denormal operand, and no result that is infinite, NaN or so large that TwoSum's own sums could overflow.

    An infinite or NaN operand shows in the result.
    """
    lowest = np.minimum((a & _MAGNITUDE) - _ONE, (b & _MAGNITUDE) - _ONE).min()
    return bool(lowest >= _DENORMALS) and bool(np.abs(result).max() < _LARGE)


def _flush(bits: U32) -> U32:
    """Denormals and -0 become +0."""
    flushed: U32 = bits * ((bits & _EXPONENT) != 0)
    return flushed


def _fadd(v: Any, a: U32, b: U32) -> U32:
    x, y = a.view(np.float32), b.view(np.float32)
    total = x + y
    if not _ordinary(a, b, total):
        slow: U32 = sem.fadd(v, a, b)
        return slow
    back = total - x
    error = (x - (total - back)) + (y - back)  # what rounding to nearest left out, exactly
    bits = total.view(np.uint32)
    beyond = (((error.view(np.uint32) ^ bits) & _SIGN) != 0) & (error != 0)
    return _flush(bits - beyond)


def _fsub(v: Any, a: U32, b: U32) -> U32:
    return _fadd(v, a, b ^ _SIGN)


def _fmul(v: Any, a: U32, b: U32) -> U32:
    product = a.view(np.float32) * b.view(np.float32)
    if not _ordinary(a, b, product):
        slow: U32 = sem.fmul(v, a, b)
        return slow
    return _flush(product.view(np.uint32))


def _move(v: Any, a: U32, b: U32) -> U32:
    return a.copy()


_FAST: dict[Callable[..., Any], Semantics] = {sem.fadd: _fadd, sem.fsub: _fsub, sem.fmul: _fmul}


def shortcut(op: Op, *, same: bool) -> Semantics | None:
    """The function to call for `op`; same: both operands are one value."""
    if op.sem is None:
        return None
    if same and is_move(op):
        return _move
    return _FAST.get(op.sem, op.sem)
