"""Faster float operations for the reference engine: fewer NumPy calls where the operands are ordinary numbers.

Each function returns exactly what the `sem` of the operation's row returns, and calls it when an operand or the result
is not ordinary. The tests compare the two bit for bit.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.optable import Semantics
from qpu.vc4 import sem

__all__ = ["SHORTCUTS"]

U32: TypeAlias = NDArray[np.uint32]

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_EXPONENT = np.uint32(0x7F800000)
_SIGN = np.uint32(0x80000000)
_ONE = np.uint32(1)
_LOW = 0x00FFFFFF


def _ordinary(a: U32, b: U32, result: U32) -> bool:
    """Whether, in all lanes, the operands are 0 or at least 2**-125 and the result is less than 2**127.

    Then nothing is denormal, infinite or NaN, and the sums inside TwoSum cannot overflow. One reduction tests all
    three: 0 - 1 wraps to the largest number, and the largest pattern minus a large result is small.
    """
    distance = np.minimum((a & _MAGNITUDE) - _ONE, (b & _MAGNITUDE) - _ONE)
    return bool(np.minimum(distance, ~result & _MAGNITUDE).min() > _LOW)


def _flush(bits: U32) -> U32:
    """Denormals and -0 become +0."""
    flushed: U32 = bits * ((bits & _EXPONENT) != 0)
    return flushed


def _fadd(v: Any, a: U32, b: U32) -> U32:
    x, y = a.view(np.float32), b.view(np.float32)
    total = x + y
    bits = total.view(np.uint32)
    if not _ordinary(a, b, bits):
        slow: U32 = sem.fadd(v, a, b)
        return slow
    back = total - x
    error = (x - (total - back)) + (y - back)  # the exact error of rounding to nearest
    beyond = (((error.view(np.uint32) ^ bits) & _SIGN) != 0) & (error != 0)
    return _flush(bits - beyond)


def _fsub(v: Any, a: U32, b: U32) -> U32:
    return _fadd(v, a, b ^ _SIGN)


def _fmul(v: Any, a: U32, b: U32) -> U32:
    bits = (a.view(np.float32) * b.view(np.float32)).view(np.uint32)
    if not _ordinary(a, b, bits):
        slow: U32 = sem.fmul(v, a, b)
        return slow
    return _flush(bits)


SHORTCUTS: dict[Semantics, Semantics] = {sem.fadd: _fadd, sem.fsub: _fsub, sem.fmul: _fmul}
"""Semantic function -> the function to call instead of it."""
