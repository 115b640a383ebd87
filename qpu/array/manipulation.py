"""Functions that change shapes, orders and dtypes. Most give views; those that cannot copy."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from qpu.array.array import Array
from qpu.array.build import broadcast, cast, copied
from qpu.array.build import broadcast_to as broadcast_node
from qpu.array.dtypes import dtype_of, promoted
from qpu.array.fuse import write
from qpu.array.node import Node, in_memory
from qpu.errors import UsageError, counted

__all__ = [
    "OutOfRange",
    "astype",
    "axes_of",
    "axis_of",
    "broadcast_arrays",
    "broadcast_to",
    "concat",
    "expand_dims",
    "flip",
    "matrix_transpose",
    "moveaxis",
    "permute_dims",
    "reshape",
    "roll",
    "squeeze",
    "stack",
    "tile",
    "unstack",
]


class OutOfRange(UsageError, IndexError):
    """An index outside of an axis, or an axis that is not there: IndexError ends a loop over an array, too."""


def array_of(x: Any, what: str = "x") -> Node:
    """The node of an argument that must be an array. Raises: UsageError."""
    if x.__class__ is not Array:
        raise UsageError(f"{what} is a {type(x).__name__}", help=f"make it an array: xp.asarray({what})")
    return x._node


def axis_of(axis: Any, ndim: int) -> int:
    """An axis counted from the first. Raises: UsageError."""
    try:
        found = operator.index(axis)
    except TypeError:
        raise UsageError(f"axis = {axis!r}", help="an integer") from None
    if not -ndim <= found < ndim:
        raise OutOfRange(
            f"axis {found} of {counted(ndim, 'axis')}", help=f"allowed: {-ndim}..{ndim - 1}" if ndim else "no axis"
        )
    return found % ndim


def axes_of(axis: Any, ndim: int) -> tuple[int, ...]:
    """Axes counted from the first, all for None. Raises: UsageError."""
    if axis is None:
        return tuple(range(ndim))
    found = tuple(axis_of(a, ndim) for a in (axis if isinstance(axis, tuple | list) else (axis,)))
    if len(set(found)) != len(found):
        raise UsageError(f"axis = {axis}: an axis twice", help="name each axis once")
    return found


def _viewed(node: Node, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Array:
    storage = node.ready()
    storage.shared = True
    return Array(in_memory(storage, tuple(shape), node.dtype, node.offset + offset, tuple(strides)))


def astype(x: Array, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Array:
    """The values in another dtype: truncated to integers, wrapped to narrow ones.

    copy: False gives the array itself where the dtype is the same. Raises: UsageError.
    """
    node, target = array_of(x), dtype_of(dtype)
    if node.dtype == target and not copy:
        return x
    return Array(cast(node, target))


def reshape(x: Array, /, shape: Any, *, copy: bool | None = None) -> Array:
    """The same elements in C order with another shape; one extent may be -1. A view where that is possible.

    Raises: UsageError for another number of elements, and where copy=False cannot be.
    """
    node = array_of(x)
    given = [operator.index(n) for n in (shape if isinstance(shape, tuple | list) else (shape,))]
    if given.count(-1) == 1:
        rest = 1
        for n in given:
            rest *= n if n != -1 else 1
        if rest and not node.size % rest:
            given[given.index(-1)] = node.size // rest
    target = tuple(given)
    size = 1
    for n in target:
        size *= n
    if size != node.size or any(n < 0 for n in target):
        raise UsageError(f"shape {node.shape} as {tuple(shape) if isinstance(shape, tuple | list) else shape}",
                         help=f"{counted(node.size, 'element')}; one extent may be -1")  # fmt: skip
    storage = node.ready()
    if copy:
        fresh = copied(node)
        fresh.ready()
        return reshape(Array(fresh), target)
    strides: tuple[int, ...] | None = None
    if node.strides is not None:
        strides = _reshaped(node, target)
        if strides is None:
            if copy is False:
                raise UsageError("this reshape needs a copy", help="copy=None, or copy=True")
            fresh = copied(node)
            fresh.ready()
            node, storage = fresh, fresh.ready()
    storage.shared = True
    return Array(in_memory(storage, target, node.dtype, node.offset, strides))


def _reshaped(node: Node, target: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of a view with another shape; None where there is none."""
    probe = np.lib.stride_tricks.as_strided(np.empty(0, np.int8), node.shape, node.steps)
    try:
        found = probe.reshape(target, copy=False) if np.lib.NumpyVersion(np.__version__) >= "2.1.0" else None
    except ValueError:
        return None
    if found is None:
        found = probe.view()
        try:
            found.shape = target
        except AttributeError:
            return None
    return tuple(found.strides)


def permute_dims(x: Array, /, axes: Any) -> Array:
    """A view with the axes in another order."""
    node = array_of(x)
    order = axes_of(tuple(axes), len(node.shape))
    if len(order) != len(node.shape):
        raise UsageError(f"axes {tuple(axes)} of {counted(len(node.shape), 'axis')}", help="name every axis")
    node.ready()
    steps = node.steps
    return _viewed(node, [node.shape[a] for a in order], [steps[a] for a in order])


def matrix_transpose(x: Array, /) -> Array:
    """A view with the last two axes swapped."""
    n = array_of(x).shape
    if len(n) < 2:
        raise UsageError(
            f"the transpose of {counted(len(n), 'axis')}", help="two axes or more: xp.reshape, xp.expand_dims"
        )
    return permute_dims(x, (*range(len(n) - 2), len(n) - 1, len(n) - 2))


def moveaxis(x: Array, source: Any, destination: Any, /) -> Array:
    """A view with axes moved to other places."""
    ndim = array_of(x).shape.__len__()
    sources, targets = axes_of(source, ndim), axes_of(destination, ndim)
    if len(sources) != len(targets):
        raise UsageError(f"{counted(len(sources), 'axis')} to {len(targets)} places", help="as many of each")
    order = [a for a in range(ndim) if a not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return permute_dims(x, tuple(order))


def expand_dims(x: Array, /, axis: Any = 0) -> Array:
    """A view with an axis of extent 1 more."""
    node = array_of(x)
    ndim = len(node.shape) + (len(axis) if isinstance(axis, tuple | list) else 1)
    places = axes_of(axis, ndim)
    node.ready()
    shape, steps = list(node.shape), list(node.steps)
    for at in sorted(places):
        shape.insert(at, 1)
        steps.insert(at, 0)
    return _viewed(node, shape, steps) if node.strides is not None else reshape(x, tuple(shape))


def squeeze(x: Array, /, axis: Any) -> Array:
    """A view without axes of extent 1. Raises: UsageError for an axis of another extent."""
    node = array_of(x)
    gone = axes_of(axis, len(node.shape))
    if any(node.shape[a] != 1 for a in gone):
        raise UsageError(f"squeeze of axes {gone} of shape {node.shape}", help="axes of extent 1")
    node.ready()
    kept = [a for a in range(len(node.shape)) if a not in gone]
    steps = node.steps
    return _viewed(node, [node.shape[a] for a in kept], [steps[a] for a in kept])


def flip(x: Array, /, *, axis: Any = None) -> Array:
    """A view with elements in the opposite order along axes."""
    node = array_of(x)
    turned = axes_of(axis, len(node.shape))
    node.ready()
    steps, offset = list(node.steps), 0
    if 0 in node.shape:
        return x
    for a in turned:
        offset += (node.shape[a] - 1) * steps[a] * node.dtype.itemsize
        steps[a] = -steps[a]
    return _viewed(node, node.shape, steps, offset)


def broadcast_to(x: Array, /, shape: Any) -> Array:
    """A view of the array broadcast to a shape. Raises: UsageError."""
    node = array_of(x)
    found = broadcast_node(node, tuple(operator.index(n) for n in shape))
    if found is node:
        return x
    found.ready().shared = True
    return Array(found)


def broadcast_arrays(*arrays: Array) -> list[Array]:
    """Views of the arrays broadcast together. Raises: UsageError."""
    if not arrays:
        return []
    shape = broadcast(*(array_of(a).shape for a in arrays))
    return [broadcast_to(a, shape) for a in arrays]


def _empty(like: Node, shape: tuple[int, ...], dtype: Any = None) -> Node:
    memory: Any = like.memory
    kind = like.dtype if dtype is None else dtype
    return in_memory(memory.storage(shape, kind), shape, kind)


def _part(node: Node, axis: int, start: int, stop: int) -> Node:
    """A view of a part along one axis."""
    shape = (*node.shape[:axis], stop - start, *node.shape[axis + 1 :])
    assert node.storage is not None
    return in_memory(node.storage, shape, node.dtype, node.offset + start * node.steps[axis] * node.dtype.itemsize,
                     node.steps)  # fmt: skip


def concat(arrays: Any, /, *, axis: Any = 0) -> Array:
    """The arrays one after the other along an axis; None: flattened first. Raises: UsageError."""
    given = list(arrays)
    if not given:
        raise UsageError("concat of nothing", help="at least one array")
    if axis is None:
        given, axis = [reshape(a, (-1,)) for a in given], 0
    nodes = [array_of(a) for a in given]
    first = nodes[0]
    at = axis_of(axis, len(first.shape))
    dtype = first.dtype
    for node in nodes[1:]:
        if node.dtype != dtype:
            dtype = promoted(dtype, node.dtype)
        alike = len(node.shape) == len(first.shape) and all(
            n == m for k, (n, m) in enumerate(zip(node.shape, first.shape, strict=False)) if k != at
        )
        if not alike:
            raise UsageError(f"concat of shapes {first.shape} and {node.shape} along axis {at}",
                             help="the other extents must be equal")  # fmt: skip
    total = sum(n.shape[at] for n in nodes)
    shape = (*first.shape[:at], total, *first.shape[at + 1 :])
    result = _empty(first, shape, dtype)
    place = 0
    for node in nodes:
        n = node.shape[at]
        _fill(_part(result, at, place, place + n), node)
        place += n
    return Array(result)


def _fill(target: Node, value: Node) -> None:
    if value.dtype != target.dtype:
        value = cast(value, target.dtype)
    memory: Any = target.memory
    write(memory, target, value)


def stack(arrays: Any, /, *, axis: Any = 0) -> Array:
    """The arrays along a new axis. Raises: UsageError for shapes that differ."""
    given = list(arrays)
    if not given:
        raise UsageError("stack of nothing", help="at least one array")
    at = axis_of(axis, len(array_of(given[0]).shape) + 1)
    return concat([expand_dims(a, axis=at) for a in given], axis=at)


def unstack(x: Array, /, *, axis: Any = 0) -> tuple[Array, ...]:
    """Views of the array along an axis, one an index."""
    node = array_of(x)
    at = axis_of(axis, len(node.shape))
    return tuple(x[(*[slice(None)] * at, i)] for i in range(node.shape[at]))


def roll(x: Array, /, shift: Any, *, axis: Any = None) -> Array:
    """Elements moved along axes; what leaves at the end comes in at the start."""
    node = array_of(x)
    if axis is None:
        return reshape(roll(reshape(x, (-1,)), shift, axis=0), node.shape)
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    shifts = shift if isinstance(shift, tuple | list) else (shift,) * len(axes)
    if len(axes) != len(shifts):
        raise UsageError(f"{counted(len(shifts), 'shift')} for {counted(len(axes), 'axis')}", help="as many of each")
    for a, s in zip(axes, shifts, strict=True):
        at = axis_of(a, len(node.shape))
        n = node.shape[at]
        k = operator.index(s) % n if n else 0
        if k:
            head: tuple[Any, ...] = (slice(None),) * at
            x = concat([x[(*head, slice(n - k, None))], x[(*head, slice(None, n - k))]], axis=at)
    return x if x._node is not node else Array(copied(node))


def tile(x: Array, repetitions: Any, /) -> Array:
    """The array repeated along axes."""
    node = array_of(x)
    counts = tuple(
        operator.index(n) for n in (repetitions if isinstance(repetitions, tuple | list) else (repetitions,))
    )
    ndim = max(len(counts), len(node.shape))
    counts = (1,) * (ndim - len(counts)) + counts
    shape = (1,) * (ndim - len(node.shape)) + node.shape
    split = [m for n in shape for m in (1, n)]
    full = [m for c, n in zip(counts, shape, strict=True) for m in (c, n)]
    wide = broadcast_to(reshape(x, tuple(split)), tuple(full))
    return reshape(wide, tuple(c * n for c, n in zip(counts, shape, strict=True)), copy=True)
