"""Indexing: views for integers and slices; gathering and scattering for arrays of integers and truth values."""

from __future__ import annotations

import numbers
import operator
from typing import Any

import numpy as np

from qpu.array.array import Array, provides
from qpu.array.build import binary, broadcast, broadcast_to, cast, where
from qpu.array.dtypes import BOOL, I32, NpDType, can_cast, of_scalar, scalar_for
from qpu.array.formula import caller
from qpu.array.fuse import scatter, write
from qpu.array.manipulation import OutOfRange, array_of, axis_of, expand_dims, reshape
from qpu.array.manipulation import broadcast_to as spread
from qpu.array.node import Node, c_strides, in_memory, pending
from qpu.array.scan import cumulative_sum
from qpu.errors import UsageError, counted

FEW = 16  # elements that the processor writes

__all__ = ["get", "nonzero", "put", "repeat", "take", "take_along_axis"]


def _expanded(node: Node, key: Any) -> list[Any]:
    """One entry an axis or None; ... filled up. Raises: UsageError for too many."""
    given = list(key) if isinstance(key, tuple) else [key]
    axes = 0
    for k in given:
        if k is not None and k is not Ellipsis:
            axes += k.ndim if isinstance(k, Array) and k.dtype == BOOL else 1
    if axes > len(node.shape):
        raise OutOfRange(
            f"{counted(axes, 'index')} for {counted(len(node.shape), 'axis')}", help="at most one for each axis"
        )
    dots = [n for n, k in enumerate(given) if k is Ellipsis]
    if len(dots) > 1:
        raise UsageError("more than one ... in an index", help="one at most")
    fill = [slice(None)] * (len(node.shape) - axes)
    at = dots[0] if dots else len(given)
    return [*given[:at], *fill, *given[at + 1 :]]


def _view(node: Node, keys: list[Any]) -> Node:
    """The view that integers, slices and None give. Raises: UsageError for an index outside of its axis."""
    storage = node.ready()
    steps = node.steps
    shape: list[int] = []
    strides: list[int] = []
    offset, axis = node.offset, 0
    size = node.dtype.itemsize
    for k in keys:
        if k is None:
            shape.append(1)
            strides.append(0)
            continue
        n = node.shape[axis]
        if isinstance(k, slice):
            start, stop, step = k.indices(n)
            count = len(range(start, stop, step))
            shape.append(count)
            strides.append(steps[axis] * step)
            offset += start * steps[axis] * size if count else 0
        else:
            i = _integer(k)
            if not -n <= i < n:
                raise OutOfRange(f"index {i} of axis {axis} with {counted(n, 'element')}",
                                 help=f"allowed: {-n}..{n - 1}" if n else "the axis is empty")  # fmt: skip
            offset += i % n * steps[axis] * size
        axis += 1
    storage.shared = True
    return in_memory(storage, tuple(shape), node.dtype, offset, tuple(strides))


def _integer(k: Any) -> int:
    try:
        return operator.index(k)
    except TypeError:
        raise OutOfRange(f"an index is {k!r}", help="integers, slices, None, ..., arrays of int or bool") from None


def _is_array(k: Any) -> bool:
    return isinstance(k, Array | np.ndarray | list) and not (isinstance(k, Array) and not k.shape and k.dtype != BOOL)


@provides("get")
def get(x: Array, key: Any) -> Array:
    """x[key]. Raises: UsageError."""
    node = x._node
    if isinstance(key, bool | np.bool_):
        raise UsageError(f"an index is {key!r}", help="integers, slices, None, ..., arrays of int or bool")
    if isinstance(key, Array) and not key.shape and key.dtype == BOOL:
        return Array(_view(node, [None, *[slice(None)] * len(node.shape)]))[slice(None) if key else slice(0)]
    keys = _expanded(node, key)
    if not any(_is_array(k) for k in keys):
        return Array(_view(node, keys))
    base, indices, shape = _positions(x, keys)
    return Array(_gather(base, indices, shape))


def _gather(base: Node, index: Node, shape: tuple[int, ...]) -> Node:
    found = pending("gather", (base, index), index.shape, base.dtype)
    found.site = caller()
    if found.shape == shape:
        return found
    return reshape(Array(found), shape)._node


def _positions(x: Array, keys: list[Any]) -> tuple[Node, Node, tuple[int, ...]]:
    """Where the elements are that arrays in an index name: the array in memory, indices from its first element on, as
    elements, and the shape of the result.
    """
    keys = _without_masks(x, keys)
    plain = [slice(None) if _is_array(k) else k for k in keys]
    view = _view(x._node, plain)
    # axes of the view, in order; those that an array indexes are replaced
    places = [n for n, k in enumerate(k for k in keys if k is None or isinstance(k, slice) or _is_array(k))
              if _is_array([k for k in keys if k is None or isinstance(k, slice) or _is_array(k)][n])]  # fmt: skip
    arrays = [_indices(x, k, view.shape[at]) for k, at in zip([k for k in keys if _is_array(k)], places, strict=True)]
    wide = broadcast(*(a.shape for a in arrays))
    steps = view.steps
    total: Node | None = None
    for a, at in zip(arrays, places, strict=True):
        n = view.shape[at]
        if not n and 0 not in a.shape:
            raise OutOfRange("an index of an empty axis", help="the axis has no elements")
        wrapped = where(binary("less", a, 0), binary("add", a, n), a)
        part = binary("multiply", wrapped, steps[at]) if steps[at] != 1 else wrapped
        total = part if total is None else binary("add", total, part)
    assert total is not None
    kept = [n for n in range(len(view.shape)) if n not in places]
    together = places == list(range(places[0], places[-1] + 1))
    first = places[0] if together else 0
    before, after = [n for n in kept if n < first], [n for n in kept if n >= first]
    shape = (*(view.shape[n] for n in before), *wide, *(view.shape[n] for n in after))
    if kept:
        grid = np.zeros((), np.int64)
        for n in kept:
            line = np.arange(view.shape[n], dtype=np.int64) * steps[n]
            grid = np.add.outer(grid, line)
        inner = (*(view.shape[n] for n in before), *(1,) * len(wide), *(view.shape[n] for n in after))
        memory: Any = x._node.memory
        rest = memory.upload(grid.astype(np.int32).reshape(inner), I32)
        offsets = in_memory(rest, inner, I32)
        flat = reshape(Array(total), (*wide, *(1,) * len(after)))._node if after else total
        total = binary("add", offsets, flat)
    assert view.storage is not None
    base = in_memory(view.storage, (max(view.size, 1),), view.dtype, view.offset)
    return base, total, shape


def _without_masks(x: Array, keys: list[Any]) -> list[Any]:
    """Arrays of truth values replaced by the indices of their true elements. Raises: UsageError for a wrong shape."""
    found: list[Any] = []
    axis = 0
    for k in keys:
        if isinstance(k, np.ndarray | list):
            k = _namespace(x).asarray(np.asarray(k).astype(np.int32) if np.asarray(k).dtype.kind in "iu" else k)
        if isinstance(k, Array) and k.dtype == BOOL:
            if k.shape != x.shape[axis : axis + k.ndim]:
                raise OutOfRange(f"a mask of shape {k.shape} for axes of {x.shape[axis : axis + k.ndim]}",
                                 help="the extents of the axes that it indexes")  # fmt: skip
            found += nonzero(k)
            axis += k.ndim
            continue
        found.append(k)
        axis += k is not None
    return found


def _namespace(x: Array) -> Any:
    return x.__array_namespace__()


def _indices(x: Array, k: Array, n: int) -> Node:
    node = k._node
    if node.dtype.kind not in "iu":
        raise UsageError(f"an index array of {node.dtype.name}", help="integers or bool: xp.astype(i, xp.int32)")
    return node if node.dtype == I32 else cast(node, I32)


# -- writing


@provides("put")
def put(x: Array, key: Any, value: Any) -> None:
    """x[key] = value. Raises: UsageError."""
    node = x._node
    memory: Any = node.memory
    if isinstance(key, np.ndarray) and key.dtype == BOOL:
        key = _namespace(x).asarray(key)
    if isinstance(key, Array) and not key.shape and key.dtype == BOOL:
        if key:
            put(x, ..., value)
        return
    if isinstance(key, Array) and key.dtype == BOOL and key.shape == node.shape:
        new = _value(x, value)
        if new.__class__ is not Node or new.shape == () or new.size == 1:
            if new.__class__ is Node:
                new = reshape(Array(new), ())._node
            put(x, ..., Array(where(key._node, new if new.__class__ is Node else new.value, node)))
            return
    keys = _expanded(node, key)
    if any(_is_array(k) for k in keys):
        base, index, shape = _positions(x, keys)
        new = _as_node(x, value, shape)
        if index.shape != shape:
            new = reshape(Array(new), index.shape)._node
        scatter(memory, base, index, new)
        return
    view = _view(node, keys)
    if 0 < view.size <= FEW and isinstance(value, numbers.Number):
        _set(view, _value(x, value).value)
        return
    new = _as_node(x, value, view.shape)
    if 0 not in view.shape:
        write(memory, view, new)


def _set(view: Node, value: Any) -> None:
    """Write a number into a few elements, by the processor: cheaper than a launch."""
    storage = view.storage
    assert storage is not None
    storage.settle()
    storage.memory.quiet()
    with np.errstate(over="ignore"):
        view.view()[...] = value
    storage.written(None)


def _value(x: Array, value: Any) -> Any:
    """A value to be written: a node of the array's dtype, or a scalar. Raises: UsageError."""
    dtype: NpDType = x._node.dtype
    if isinstance(value, np.ndarray | list | tuple):
        value = _namespace(x).asarray(value, dtype=None if isinstance(value, np.ndarray) else dtype)
    if isinstance(value, Array):
        node = value._node
        if node.memory is not x._node.memory:
            raise UsageError("the arrays are on two devices", help="copy one: gpu.xp.asarray(y.numpy())")
        if node.dtype != dtype:
            if not can_cast(node.dtype, dtype):
                raise UsageError(f"{node.dtype.name} written into {dtype.name}",
                                 help=f"write the cast: xp.astype(y, xp.{dtype.name})")  # fmt: skip
            node = cast(node, dtype)
        return node
    if of_scalar(value, dtype) != dtype:
        raise UsageError(f"{value!r} written into {dtype.name}", help="its real part, or a complex64 array")
    return scalar_for(value, dtype)


def _as_node(x: Array, value: Any, shape: tuple[int, ...]) -> Node:
    new = _value(x, value)
    if new.__class__ is not Node:
        memory: Any = x._node.memory
        new = in_memory(memory.upload(np.asarray(new.value, new.dtype), new.dtype), (), new.dtype)
    if new.shape == shape:
        return new
    extra = len(new.shape) - len(shape)
    if extra > 0 and set(new.shape[:extra]) == {1}:
        new = reshape(Array(new), new.shape[extra:])._node
    return broadcast_to(new, shape)


# -- functions


def nonzero(x: Array, /) -> tuple[Array, ...]:
    """The indices of the elements that are not 0 (or true), int32, one array an axis. Raises: UsageError."""
    node = array_of(x)
    if not node.shape:
        raise UsageError("nonzero of an array without axes", help="xp.reshape(x, (1,))")
    mask = node if node.dtype == BOOL else binary("not_equal", node, 0)
    memory: Any = node.memory
    flat = reshape(Array(mask), (-1,))
    n = flat.size
    if not n:
        return tuple(_namespace(x).zeros(0, dtype=I32) for _ in node.shape)
    place = cumulative_sum(Array(cast(flat._node, I32)))
    count = int(place[n - 1])
    if not count:
        return tuple(_namespace(x).zeros(0, dtype=I32) for _ in node.shape)
    found = in_memory(memory.storage((count,), I32), (count,), I32)
    numbers = _namespace(x).arange(n)._node
    scatter(memory, found, binary("subtract", place._node, 1), numbers, only=flat._node)
    if len(node.shape) == 1:
        return (Array(found),)
    parts: list[Array] = []
    rest: Node = found
    for step in c_strides(node.shape)[:-1]:
        index = binary("floor_divide", rest, step)
        parts.append(Array(index))
        rest = binary("subtract", rest, binary("multiply", index, step))
    return (*parts, Array(rest))


def take(x: Array, indices: Array, /, *, axis: Any = None) -> Array:
    """The elements at indices along an axis, which may be left out for one axis. Raises: UsageError."""
    node = array_of(x)
    if axis is None:
        if len(node.shape) != 1:
            raise UsageError(f"take of {counted(len(node.shape), 'axis')} without axis", help="axis=0, ...")
        axis = 0
    at = axis_of(axis, len(node.shape))
    return get(x, (*[slice(None)] * at, indices))


def take_along_axis(x: Array, indices: Array, /, *, axis: Any = -1) -> Array:
    """The elements at indices along an axis, other indices as in the result; shapes broadcast. Raises: UsageError."""
    node, index = array_of(x), array_of(indices, "indices")
    at = axis_of(axis, len(node.shape))
    if len(index.shape) != len(node.shape):
        raise UsageError(f"indices of {counted(len(index.shape), 'axis')} for {len(node.shape)}", help="as many axes")
    others = broadcast(*((*s[:at], 1, *s[at + 1 :]) for s in (node.shape, index.shape)))
    shape = (*others[:at], index.shape[at], *others[at + 1 :])
    keys: list[Any] = []
    for k in range(len(shape)):
        if k == at:
            keys.append(indices)
            continue
        line = np.arange(shape[k], dtype=np.int32).reshape([-1 if n == k else 1 for n in range(len(shape))])
        keys.append(_namespace(x).asarray(line))
    wide = Array(broadcast_to(node, (*others[:at], node.shape[at], *others[at + 1 :])))
    return get(wide, tuple(keys))


def repeat(x: Array, repeats: Any, /, *, axis: Any = None) -> Array:
    """Each element several times along an axis. repeats: an integer, or an array of one for each element."""
    node = array_of(x)
    if axis is None:
        return repeat(reshape(x, (-1,)), repeats, axis=0)
    at = axis_of(axis, len(node.shape))
    if isinstance(repeats, Array):
        counts = repeats.numpy()
        if counts.ndim == 0:
            return repeat(x, int(counts), axis=at)
        where = np.repeat(np.arange(node.shape[at], dtype=np.int32), counts)
        return take(x, _namespace(x).asarray(where), axis=at)
    n = operator.index(repeats)
    wide = expand_dims(x, axis=at + 1)
    shape = (*node.shape[: at + 1], n, *node.shape[at + 1 :])
    final = (*node.shape[:at], node.shape[at] * n, *node.shape[at + 1 :])
    return reshape(spread(wide, shape), final, copy=True)
