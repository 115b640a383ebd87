"""Running sums and products, and how arrays use the functions of the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qpu.array import build
from qpu.array.array import Array
from qpu.array.dtypes import F32, I32, dtype_of, sum_dtype
from qpu.array.interop import qpu_view
from qpu.array.manipulation import array_of, axis_of, concat
from qpu.array.node import Node, in_memory
from qpu.errors import UsageError, counted

__all__ = ["called", "cumulative_prod", "cumulative_sum"]


def called(function: Callable[..., Any], node: Node, dtype: Any, *args: Any, **options: Any) -> Node:
    """The result of a function of the library, function(x, ..., out), of the shape of x."""
    memory: Any = node.memory
    out = memory.storage(node.shape, dtype)
    function(qpu_view(Array(node), "in"), *args, out.buffer, **options)
    memory.launches += 1
    return in_memory(out, node.shape, dtype)


def _cumulative(name: str, x: Array, axis: Any, dtype: Any, include_initial: bool) -> Array:
    from qpu.kernels import scan

    library = getattr(scan, name)
    node = array_of(x)
    if axis is None:
        if len(node.shape) != 1:
            raise UsageError(f"{name} of {counted(len(node.shape), 'axis')} without axis", help="axis=0, ...")
        axis = 0
    at = axis_of(axis, len(node.shape))
    kind = sum_dtype(node.dtype, None if dtype is None else dtype_of(dtype))
    if kind.kind == "c":
        if name != "cumulative_sum":
            raise UsageError(f"{name} of complex64", help="xp.cumulative_sum, or of real numbers")
        wide = node if node.dtype == kind else build.cast(node, kind)
        real, imag = (
            _cumulative(name, Array(build.unary(part, wide)), at, None, include_initial) for part in ("real", "imag")
        )
        whole: Array = real + imag * 1j
        return whole
    result = kind
    if kind.itemsize < 4:
        kind = F32 if kind.kind == "f" else I32
    if node.dtype != kind:
        node = build.cast(node, kind)
    if not node.size:
        found = Array(node)
    else:
        found = Array(called(library, node, kind, axis=at))
    if result != kind:
        found = Array(build.cast(found._node, result))
    if include_initial:
        shape = (*node.shape[:at], 1, *node.shape[at + 1 :])
        xp = x.__array_namespace__()
        first = xp.zeros if name == "cumulative_sum" else xp.ones
        found = concat([first(shape, dtype=result), found], axis=at)
    return found


def cumulative_sum(x: Array, /, *, axis: Any = None, dtype: Any = None, include_initial: bool = False) -> Array:
    """The sums of the elements up to each one along an axis, which one axis need not name. dtypes: as `sum`.

    include_initial: a zero comes first. Raises: UsageError.
    """
    return _cumulative("cumulative_sum", x, axis, dtype, include_initial)


def cumulative_prod(x: Array, /, *, axis: Any = None, dtype: Any = None, include_initial: bool = False) -> Array:
    """The products of the elements up to each one along an axis; see `cumulative_sum`. dtypes: not complex64.

    include_initial: a one comes first. Raises: UsageError.
    """
    return _cumulative("cumulative_prod", x, axis, dtype, include_initial)
