"""Sorting, searching and sets, by the kernels of the library."""

from __future__ import annotations

from typing import Any, NamedTuple

from qpu.array import build
from qpu.array.array import Array
from qpu.array.dtypes import BOOL, F32, I32, promoted
from qpu.array.indexing import nonzero, take, take_along_axis
from qpu.array.interop import qpu_view
from qpu.array.manipulation import array_of, axis_of, concat, moveaxis, reshape
from qpu.array.node import Node, in_memory
from qpu.array.scan import called
from qpu.errors import UsageError, counted

__all__ = ["argsort", "searchsorted", "sort", "unique_all", "unique_counts", "unique_inverse",
           "unique_values"]  # fmt: skip


# -- sorting


def _sortable(x: Array, name: str) -> Node:
    node = array_of(x)
    if node.dtype.kind not in "iuf":
        raise UsageError(f"{name} of {node.dtype.name}", help="integers or floats: xp.astype(x, xp.int32)")
    return build.cast(node, F32) if node.dtype.name == "float16" else node


def _order(node: Node, descending: bool) -> Node:
    """The order of the elements of an array of one axis, stable."""
    from qpu.kernels.sort import argsort as library

    return called(library, node, I32, descending=descending)


def argsort(x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """The indices that sort along an axis, int32; equal elements keep their order. NaN come last.

    dtypes: integers and floats. Raises: UsageError.
    """
    node = _sortable(x, "argsort")
    at = axis_of(axis, len(node.shape))
    if len(node.shape) > 1 and at != len(node.shape) - 1:
        return moveaxis(argsort(moveaxis(x, at, -1), axis=-1, descending=descending), -1, at)
    if not node.size:
        return x.__array_namespace__().zeros(node.shape, dtype=I32)  # type: ignore[no-any-return]  # of the device's namespace
    n = node.shape[-1]
    if n == node.size:
        return reshape(Array(_order(reshape(Array(node), (-1,))._node, descending)), node.shape)
    # all rows at once: by value, then by row, each keeping the order of equals
    flat = reshape(Array(node), (-1,))
    by_value = Array(_order(flat._node, descending))
    by_row = Array(_order((by_value // n)._node, False))
    found = take(by_value, by_row)
    return reshape(found % n, node.shape)


def sort(x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """The elements in order along an axis; NaN come last. dtypes: integers and floats. Raises: UsageError."""
    from qpu.kernels.sort import sort as library

    node = _sortable(x, "sort")
    at = axis_of(axis, len(node.shape))
    if not node.size:
        return Array(build.copied(node))
    if node.shape[at] == node.size:
        flat = reshape(Array(node), (-1,))._node
        return reshape(Array(called(library, flat, node.dtype, descending=descending)), node.shape)
    return take_along_axis(Array(node), argsort(x, axis=at, descending=descending), axis=at)


def searchsorted(x1: Array, x2: Array, /, *, side: str = "left", sorter: Array | None = None) -> Array:
    """The places at which x2 would be inserted into the sorted x1, int32. side: "left" or "right" of equal elements;
    sorter: the indices that sort x1. Raises: UsageError.
    """
    from qpu.kernels.search import searchsorted as library

    a, b = _sortable(x1, "searchsorted"), _sortable(x2, "searchsorted")
    if len(a.shape) != 1:
        raise UsageError(f"searchsorted in {counted(len(a.shape), 'axis')}", help="one axis")
    if sorter is not None:
        a = take(Array(a), sorter)._node
    if a.dtype != b.dtype:
        kind = promoted(a.dtype, b.dtype)
        a, b = (x if x.dtype == kind else build.cast(x, kind) for x in (a, b))
    if not b.size:
        return x1.__array_namespace__().zeros(b.shape, dtype=I32)  # type: ignore[no-any-return]  # of the device's namespace
    flat = reshape(Array(b), (-1,))._node
    memory: Any = a.memory
    out = memory.storage(flat.shape, I32)
    library(qpu_view(Array(a), "in"), qpu_view(Array(flat), "in"), out.buffer, side)
    memory.launches += 1
    return reshape(Array(in_memory(out, flat.shape, I32)), b.shape)


# -- sets


class UniqueAll(NamedTuple):
    """values: the different elements in order; indices: of the first of each; inverse_indices: of each element's value;
    counts: of each value.
    """

    values: Array
    indices: Array
    inverse_indices: Array
    counts: Array


class UniqueCounts(NamedTuple):
    """values: the different elements in order; counts: of each."""

    values: Array
    counts: Array


class UniqueInverse(NamedTuple):
    """values: the different elements in order; inverse_indices: of each element's value."""

    values: Array
    inverse_indices: Array


def unique_all(x: Array, /) -> UniqueAll:
    """The different elements in order, where each is first, the index of each element's value, and counts.

    Every NaN is different from every other; complex numbers are in order of their real parts, then of the imaginary
    ones. dtypes: all. Raises: UsageError.
    """
    node = array_of(x)
    xp: Any = x.__array_namespace__()
    if node.dtype == BOOL:
        found = unique_all(Array(build.cast(node, I32)))
        return found._replace(values=Array(build.cast(found.values._node, BOOL)))
    if node.dtype.kind == "c":
        flat = reshape(x, (-1,))
    else:
        flat = reshape(Array(_sortable(x, "unique_all")), (-1,))
    n = flat.size
    if not n:
        none = xp.zeros(0, dtype=I32)
        return UniqueAll(flat, none, xp.zeros(node.shape, dtype=I32), none)
    if node.dtype.kind == "c":  # 0 and -0 are equal: their sum with 0 is the same
        order = argsort(flat.imag + 0.0)
        order = take(order, argsort(take(flat.real + 0.0, order)))
    else:
        order = argsort(flat)
    ordered = take(flat, order)
    first = xp.ones(n, dtype=BOOL)
    if n > 1:
        first[1:] = ordered[1:] != ordered[:-1]
    starts = nonzero(first)[0]
    values, indices = take(ordered, starts), take(order, starts)
    group = xp.cumulative_sum(first.astype(I32)) - 1
    inverse = xp.zeros(n, dtype=I32)
    inverse[order] = group
    ends = concat([starts[1:], xp.asarray([n])])
    return UniqueAll(values, indices, reshape(inverse, node.shape), ends - starts)


def unique_counts(x: Array, /) -> UniqueCounts:
    """The different elements in order, and how often each occurs; see `unique_all`."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Array, /) -> UniqueInverse:
    """The different elements in order, and the index of each element's value; see `unique_all`."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Array, /) -> Array:
    """The different elements in order; see `unique_all`."""
    return unique_all(x).values
