"""Semantics of the operations that all QPUs have in common, written over `LaneOps`: raw 32-bit patterns in and out.

`qpu.vc4.sem` and `qpu.v3d.sem` have the operations of one family only; the operation rows of both families refer to
these functions. A flag function is ``(v, a, b, result) -> mask``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qpu.core.lanes import LaneOps, M, V


def unary(name: str) -> Callable[[Any, Any], Any]:
    """The semantic function of an operation that is one primitive of `LaneOps` with one operand."""
    return lambda v, a: getattr(v, name)(a)


def binary(name: str) -> Callable[[Any, Any, Any], Any]:
    """The semantic function of an operation that is one primitive of `LaneOps` with two operands."""
    return lambda v, a, b: getattr(v, name)(a, b)


add, sub, and_, or_, xor = map(binary, ("add", "sub", "and_", "or_", "xor"))


def count(v: LaneOps[V, M], b: V) -> V:
    """The shift count of `shl`, `shr`, `asr` and `ror`: b[4:0]."""
    return v.and_(b, v.const(31))


def shl(v: LaneOps[V, M], a: V, b: V) -> V:
    return v.shl(a, count(v, b))


def shr(v: LaneOps[V, M], a: V, b: V) -> V:
    """Logical shift right."""
    return v.shr(a, count(v, b))


def asr(v: LaneOps[V, M], a: V, b: V) -> V:
    """Arithmetic shift right."""
    return v.asr(a, count(v, b))


def ror(v: LaneOps[V, M], a: V, b: V) -> V:
    """Rotate right."""
    n = count(v, b)
    return v.or_(v.shr(a, n), v.shl(a, count(v, v.sub(v.const(32), n))))


def smin(v: LaneOps[V, M], a: V, b: V) -> V:
    """The smaller signed integer."""
    return v.select(v.slt(b, a), b, a)


def smax(v: LaneOps[V, M], a: V, b: V) -> V:
    """The larger signed integer."""
    return v.select(v.slt(b, a), a, b)


def mul24(v: LaneOps[V, M], a: V, b: V) -> V:
    """Low 32 bits of the product of the low 24 bits, unsigned."""
    mask = v.const(0xFFFFFF)
    return v.mul(v.and_(a, mask), v.and_(b, mask))


def carry_add(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """Carry out of bit 31."""
    return v.ult(result, a)


def carry_sub(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """Borrow: a < b, unsigned."""
    return v.ult(a, b)


def signed_greater(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """a > b, signed."""
    return v.slt(b, a)
