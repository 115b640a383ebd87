"""Building nodes of elementwise operations: dtypes and shapes are checked here, at the call of the operation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from qpu.array.dtypes import BOOL, C64, F32, NpDType, Scalar, kind_of, of_scalar, promoted, scalar_for
from qpu.array.node import Node, in_memory, pending
from qpu.array.operations import OPERATIONS
from qpu.errors import UsageError

__all__ = ["binary", "broadcast", "broadcast_to", "cast", "clip", "copied", "unary", "where"]

_NAMES = {"b": "bool", "i": "signed integers", "u": "unsigned integers", "f": "floats", "c": "complex64"}
_SQUARES = 16  # exponents up to which a power is products


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of all broadcast together. Raises: UsageError."""
    found = shapes[0]
    for shape in shapes[1:]:
        if shape == found or not shape:
            continue
        if not found:
            found = shape
            continue
        try:
            found = np.broadcast_shapes(found, shape)
        except ValueError:
            text = ", ".join(map(str, shapes))
            raise UsageError(
                f"shapes {text} cannot be broadcast together", help="axes must be equal or 1, counted from the last"
            ) from None
    return found


def _refused(name: str, dtype: NpDType, groups: str, other: NpDType | None = None) -> UsageError:
    found = dtype.name if other is None else f"{dtype.name} and {other.name}"
    target = "float32" if groups[0] == "f" else "bool" if groups == "b" else "int32"
    return UsageError(
        f"{name} of {found}; allowed: {', '.join(_NAMES[g] for g in groups)}",
        help=f"write the cast: xp.astype(x, xp.{target})",
    )


def _result(name: str, common: NpDType) -> tuple[NpDType, str | None]:
    """The dtype of the result, and that of the operands where it is another one. Raises: UsageError."""
    row = OPERATIONS[name]
    group = kind_of(common).group
    if group not in row.groups and not (row.result == "float" and group in "iu"):
        raise _refused(name, common, row.groups)
    if row.result == "bool":
        return BOOL, common.name
    if row.result == "float" and group in "iu":
        return F32, "float32"
    if row.result == "real" and group == "c":
        return F32, "complex64"
    if common.name == "float16":
        return F32, None
    return common, None


@lru_cache(maxsize=4096)
def _of_two(name: str, a: NpDType, b: NpDType) -> tuple[NpDType, str | None]:
    groups = OPERATIONS[name].groups
    for d in (a, b):
        if kind_of(d).group not in groups and not (OPERATIONS[name].result == "float" and kind_of(d).group in "iu"):
            raise _refused(name, a, groups, b)
    return _result(name, promoted(a, b))


@lru_cache(maxsize=1024)
def _of_one(name: str, a: NpDType) -> tuple[NpDType, str | None]:
    return _result(name, a)


def _scalar(name: str, x: Any, beside: NpDType) -> tuple[Scalar, NpDType]:
    """A Python number beside an array; the dtype that the array counts as."""
    if isinstance(x, np.bool_):
        x = bool(x)
    group = kind_of(beside).group
    if OPERATIONS[name].result == "float" and group in "iu" and not isinstance(x, bool):
        beside = F32
    dtype = of_scalar(x, beside)
    if dtype.name == "float16":
        dtype = F32
    if dtype is C64 and beside is not C64:
        beside = C64
    return scalar_for(x, dtype), beside


def binary(name: str, a: Any, b: Any) -> Node:
    """name(a, b); one may be a Python number. Raises: UsageError."""
    if a.__class__ is Node and b.__class__ is Node:
        dtype, attr = _of_two(name, a.dtype, b.dtype)
        shape = a.shape if a.shape == b.shape else broadcast(a.shape, b.shape)
    elif a.__class__ is Node:
        if name == "pow" and (found := _known_power(a, b)) is not None:
            return found
        b, beside = _scalar(name, b, a.dtype)
        dtype, attr = _of_two(name, beside, b.dtype)
        shape = a.shape
    elif b.__class__ is Node:
        a, beside = _scalar(name, a, b.dtype)
        dtype, attr = _of_two(name, a.dtype, beside)
        shape = b.shape
    else:
        raise UsageError(f"{name} of two Python numbers", help="make one an array: xp.asarray(x)")
    return pending(name, (a, b), shape, dtype, attr)


def _known_power(a: Node, n: Any) -> Node | None:
    """x ** n for an exponent that is products, a root, or a reciprocal."""
    group = kind_of(a.dtype).group
    if _whole(n):
        exponent = int(n)
        if exponent < 0 and group in "iu":
            raise UsageError(f"{a.dtype.name} to the power {exponent}", help="xp.astype(x, xp.float32) before")
        if 2 <= exponent <= _SQUARES and group != "b":
            dtype = F32 if a.dtype.name == "float16" else a.dtype
            return pending("power", (a,), a.shape, dtype, exponent)
        if exponent == -1 and group in "fc":
            return unary("reciprocal", a)
    return unary("sqrt", a) if n == 0.5 and group == "f" else None


def _whole(x: Any) -> bool:
    """Whether it is an integer, and not a truth value."""
    return isinstance(x, int | np.integer) and x is not True and x is not False


def unary(name: str, a: Node) -> Node:
    """name(a). Raises: UsageError."""
    if a.__class__ is not Node:
        raise UsageError(f"{name} of {a!r}", help="make it an array: xp.asarray(x)")
    dtype, attr = _of_one(name, a.dtype)
    return pending(name, (a,), a.shape, dtype, attr)


def cast(a: Node, dtype: NpDType) -> Node:
    """The values in another dtype, truncated or wrapped. Raises: UsageError for complex to real."""
    if a.dtype.kind == "c" and dtype == BOOL:
        return binary("not_equal", a, 0)
    if a.dtype.kind == "c" and dtype.kind != "c":
        raise UsageError(f"complex64 as {dtype.name}", help="xp.real(x), xp.imag(x) or xp.abs(x)")
    return pending("astype", (a,), a.shape, dtype)


def copied(a: Node) -> Node:
    """A copy in C order, not computed yet."""
    return pending("astype", (a,), a.shape, a.dtype)


def where(condition: Node, a: Any, b: Any) -> Node:
    """a where the condition holds, else b. Raises: UsageError."""
    if condition.__class__ is not Node or condition.dtype != BOOL:
        found = condition.dtype.name if condition.__class__ is Node else repr(condition)
        raise UsageError(f"where with a condition of {found}", help="write the comparison: x != 0")
    dtypes = [x.dtype for x in (a, b) if x.__class__ is Node]
    if not dtypes:
        raise UsageError("where of two Python numbers", help="make one an array: xp.asarray(x)")
    dtype = promoted(dtypes[0], dtypes[-1]) if len(dtypes) == 2 and dtypes[0] != dtypes[1] else dtypes[0]
    operands = []
    for x in (a, b):
        if x.__class__ is not Node:
            dtype = of_scalar(x, dtype)
            x = scalar_for(x, dtype)
        operands.append(x)
    shape = broadcast(condition.shape, *(x.shape for x in operands if x.__class__ is Node))
    return pending("where", (condition, *operands), shape, dtype)


def clip(a: Node, low: Any, high: Any) -> Node:
    """a between two bounds, either of which may be missing. Raises: UsageError."""
    if a.dtype.kind not in "iuf":
        raise _refused("clip", a.dtype, "iuf")
    if low is None and high is None:
        return copied(a)
    result = F32 if a.dtype.name == "float16" else a.dtype
    operands = []
    for x in (low, high):
        if x is None:
            continue
        if x.__class__ is Node:
            if kind_of(x.dtype).group != kind_of(a.dtype).group or x.dtype.itemsize > a.dtype.itemsize:
                raise UsageError(
                    f"clip of {a.dtype.name} with bounds of {x.dtype.name}",
                    help=f"write the cast: xp.astype(bound, xp.{a.dtype.name})",
                )
        else:
            if a.dtype.kind in "iu" and _whole(x):
                info = np.iinfo(a.dtype)
                x = min(max(int(x), info.min), info.max)
            x = scalar_for(x, of_scalar(x, result))
        operands.append(x)
    shape = broadcast(a.shape, *(x.shape for x in operands if x.__class__ is Node))
    if len(operands) == 2:
        return pending("clip", (a, *operands), shape, result)
    return pending("maximum" if high is None else "minimum", (a, *operands), shape, result)


def broadcast_to(a: Node, shape: Sequence[int]) -> Node:
    """A view of a shape that the array is broadcast to. Raises: UsageError."""
    target = tuple(shape)
    if a.shape == target:
        return a
    if broadcast(a.shape, target) != target:
        raise UsageError(
            f"shape {a.shape} broadcast to {target}", help="axes must be equal or 1, counted from the last"
        )
    storage = a.ready()
    extra = len(target) - len(a.shape)
    steps = [0] * extra + [0 if n == 1 and m != 1 else s for n, s, m in
                           zip(a.shape, a.steps, target[extra:], strict=True)]  # fmt: skip
    return in_memory(storage, target, a.dtype, a.offset, tuple(steps))
