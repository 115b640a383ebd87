"""The NumPy implementation of `LaneOps`: vectors are uint32 arrays whose last axis is the 16 lanes, masks bool arrays.

Results may be read-only or may be the array of a constant; callers must not write into them. Run inside `quiet()`:
overflow and invalid operations are ordinary values here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine import sfu

__all__ = ["LANES", "NumpyLanes", "quiet"]

LANES = 16

U32: TypeAlias = NDArray[np.uint32]
Mask: TypeAlias = NDArray[np.bool_]
F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]


def quiet() -> Any:
    """A context manager that suppresses NumPy's floating-point warnings."""
    return np.errstate(all="ignore")


@lru_cache(maxsize=4096)
def _const(value: int) -> U32:
    lanes = np.full(LANES, value & 0xFFFFFFFF, np.uint32)
    lanes.flags.writeable = False
    return lanes


_LANE_ID: U32 = np.arange(LANES, dtype=np.uint32)
_LANE_ID.flags.writeable = False
_TRUE: Mask = np.ones(LANES, np.bool_)
_FALSE: Mask = np.zeros(LANES, np.bool_)
_I32_MIN, _I32_MAX, _U32_MAX = -(2.0**31), 2.0**31 - 1, 2.0**32 - 1


def _f(a: U32) -> F32:
    return a.view(np.float32)


def _u(a: NDArray[Any]) -> U32:
    return a.view(np.uint32)


def _narrow_rz(exact: F64) -> F32:
    """Convert binary64 to binary32, rounding toward zero."""
    near = exact.astype(np.float32)
    bits = _u(near)
    return _f(np.where(np.abs(near.astype(np.float64)) > np.abs(exact), bits - np.uint32(1), bits))


_One: TypeAlias = "staticmethod[[U32], U32]"
_Two: TypeAlias = "staticmethod[[U32, U32], U32]"
_Compare: TypeAlias = "staticmethod[[U32, U32], Mask]"
_Select: TypeAlias = "staticmethod[[Mask, U32, U32], U32]"
_Mask: TypeAlias = "staticmethod[[Mask], Mask]"
_Masks: TypeAlias = "staticmethod[[Mask, Mask], Mask]"


class NumpyLanes:
    """The NumPy implementation of `qpu.core.lanes.LaneOps`."""

    __slots__ = ()

    add: _Two = staticmethod(operator.add)
    sub: _Two = staticmethod(operator.sub)
    mul: _Two = staticmethod(operator.mul)
    and_: _Two = staticmethod(operator.and_)
    or_: _Two = staticmethod(operator.or_)
    xor: _Two = staticmethod(operator.xor)
    not_: _One = staticmethod(operator.invert)
    shl: _Two = staticmethod(operator.lshift)
    shr: _Two = staticmethod(operator.rshift)
    eq: _Compare = staticmethod(np.equal)
    ult: _Compare = staticmethod(np.less)
    select: _Select = staticmethod(np.where)
    mand: _Masks = staticmethod(operator.and_)
    mor: _Masks = staticmethod(operator.or_)
    mnot: _Mask = staticmethod(operator.invert)
    feq: _Compare = staticmethod(lambda a, b: np.equal(_f(a), _f(b)))
    flt: _Compare = staticmethod(lambda a, b: np.less(_f(a), _f(b)))
    fle: _Compare = staticmethod(lambda a, b: np.less_equal(_f(a), _f(b)))
    fadd: _Two = staticmethod(lambda a, b: _u(_f(a) + _f(b)))
    fsub: _Two = staticmethod(lambda a, b: _u(_f(a) - _f(b)))
    fmul: _Two = staticmethod(lambda a, b: _u(_f(a) * _f(b)))
    ffloor: _One = staticmethod(lambda a: _u(np.floor(_f(a))))
    fceil: _One = staticmethod(lambda a: _u(np.ceil(_f(a))))
    ftrunc: _One = staticmethod(lambda a: _u(np.trunc(_f(a))))
    fround: _One = staticmethod(lambda a: _u(np.rint(_f(a))))

    def const(self, value: int) -> U32:
        return _const(value)

    def lane_id(self) -> U32:
        return _LANE_ID

    def permute(self, a: U32, index: U32) -> U32:
        at = (index & np.uint32(15)).astype(np.intp)
        a, at = np.broadcast_arrays(a, at)
        return np.take_along_axis(a, at, axis=-1)

    def mover(self, order: Sequence[int]) -> Callable[[U32], U32]:
        index = np.array(order, np.intp)
        return lambda a: a[..., index]

    def umulh(self, a: U32, b: U32) -> U32:
        return ((a.astype(np.uint64) * b) >> np.uint64(32)).astype(np.uint32)

    def asr(self, a: U32, n: U32) -> U32:
        return _u(a.view(np.int32) >> n.view(np.int32))

    def clz(self, a: U32) -> U32:
        bit_length = np.frexp(a.astype(np.float64))[1]
        return (32 - bit_length).astype(np.uint32)

    def udiv(self, a: U32, n: int) -> U32:
        return a // np.uint32(n)

    def slt(self, a: U32, b: U32) -> Mask:
        return np.less(a.view(np.int32), b.view(np.int32))

    def mconst(self, value: bool) -> Mask:
        return _TRUE if value else _FALSE

    def first(self, m: Mask) -> U32:
        lowest = np.where(m.any(-1, keepdims=True), m.argmax(-1, keepdims=True), LANES)
        return np.broadcast_to(lowest.astype(np.uint32), m.shape)

    def fadd_rz(self, a: U32, b: U32) -> U32:
        # The binary64 sum of two binary32 values can be rounded itself. TwoSum gives its exact error, which matters
        # only if the rounded sum is a binary32 value that the exact sum does not reach.
        x, y = _f(a).astype(np.float64), _f(b).astype(np.float64)
        total = x + y
        back = total - x
        error = (x - (total - back)) + (y - back)
        result = _narrow_rz(total)
        beyond = (result.astype(np.float64) == total) & (error != 0) & (np.signbit(error) != np.signbit(total))
        beyond &= np.isfinite(total)
        bits = _u(result)
        return np.where(beyond, bits - np.uint32(1), bits)

    def itof(self, a: U32) -> U32:
        return _u(a.view(np.int32).astype(np.float32))

    def utof(self, a: U32) -> U32:
        return _u(a.astype(np.float32))

    def itof_rz(self, a: U32) -> U32:
        return _u(_narrow_rz(a.view(np.int32).astype(np.float64)))

    def ftoi(self, a: U32) -> U32:
        value = np.nan_to_num(_f(a).astype(np.float64), nan=0.0, posinf=_I32_MAX, neginf=_I32_MIN)
        return _u(np.clip(value, _I32_MIN, _I32_MAX).astype(np.int32))

    def ftou(self, a: U32) -> U32:
        value = np.nan_to_num(_f(a).astype(np.float64), nan=0.0, posinf=_U32_MAX, neginf=0.0)
        return np.clip(value, 0.0, _U32_MAX).astype(np.uint32)

    def h2f(self, a: U32) -> U32:
        return _u(a.astype(np.uint16).view(np.float16).astype(np.float32))

    def f2h(self, a: U32) -> U32:
        return _f(a).astype(np.float16).view(np.uint16).astype(np.uint32)

    def recip(self, a: U32) -> U32:
        return _u(sfu.recip(_DOUBLES, _f(a).astype(np.float64)).astype(np.float32))

    def rsqrt(self, a: U32) -> U32:
        return _u(sfu.rsqrt(_DOUBLES, _f(a).astype(np.float64)).astype(np.float32))

    def exp2(self, a: U32) -> U32:
        return _u(sfu.exp2(_DOUBLES, _f(a).astype(np.float64)).astype(np.float32))

    def log2(self, a: U32) -> U32:
        return _u(sfu.log2(_DOUBLES, _f(a).astype(np.float64)).astype(np.float32))

    def sinpi(self, a: U32) -> U32:
        return _u(sfu.sinpi(_DOUBLES, _f(a).astype(np.float64)).astype(np.float32))


class _NumpyDoubles:
    """`qpu.emu.engine.sfu.Doubles` over float64 arrays."""

    __slots__ = ()

    def rint(self, x: F64) -> F64:
        return np.rint(x)

    def sqrt(self, x: F64) -> F64:
        return np.sqrt(x)

    def absolute(self, x: F64) -> F64:
        return np.abs(x)

    def less(self, x: F64, y: float) -> Mask:
        return np.less(x, y)

    def equal(self, x: F64, y: float) -> Mask:
        return np.equal(x, y)

    def where(self, m: Mask, x: F64 | float, y: F64 | float) -> F64:
        return np.where(m, x, y)

    def pow2(self, n: F64) -> F64:
        return ((n.astype(np.int64) + 1023) << 52).view(np.float64)

    def split(self, x: F64) -> tuple[F64, F64]:
        bits = np.ascontiguousarray(x).view(np.int64)
        mantissa = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
        return mantissa, (((bits >> 52) & 0x7FF) - 1023).astype(np.float64)


_DOUBLES = _NumpyDoubles()
