"""Products of matrices and vectors, and the functions of the `linalg` extension."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import isfinite, prod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from qpu.array import build, factor, reduce
from qpu.array.array import Array
from qpu.array.dtypes import F32, I32, U32, Scalar, promoted
from qpu.array.interop import qpu_view
from qpu.array.manipulation import (
    array_of,
    axes_of,
    axis_of,
    broadcast_to,
    matrix_transpose,
    permute_dims,
    reshape,
    stack,
    unstack,
)
from qpu.array.memory import ABSORB, EVALUATE, DeviceMemory
from qpu.array.node import Node, in_memory, pending
from qpu.core.scalar_lanes import float_of
from qpu.errors import UsageError, counted

if TYPE_CHECKING:
    from qpu.array.fuse import Walk
    from qpu.array.node import Storage

__all__ = ["EXTENSION", "matmul", "outer", "tensordot", "vecdot", "vector_norm"]

LARGE: Final = 1 << 15  # products of a matrix product from which the library's kernel is faster


def _same(name: str, a: Node, b: Node) -> tuple[Node, Node]:
    """Both in one dtype. Raises: UsageError."""
    for x in (a, b):
        if x.dtype.kind == "b":
            raise UsageError(f"{name} of bool", help="write the cast: xp.astype(x, xp.int32)")
    kind = promoted(a.dtype, b.dtype)
    return (a if a.dtype == kind else build.cast(a, kind)), (b if b.dtype == kind else build.cast(b, kind))


def _seen(node: Node, shape: Sequence[int], strides: Sequence[int]) -> Node:
    """The memory of a node with other axes."""
    storage = node.ready()
    return in_memory(storage, tuple(shape), node.dtype, node.offset, tuple(strides))


def _contracted(a: Node, b: Node, kept: tuple[int, ...]) -> Node:
    """Products of two nodes of one shape, summed along the last axis."""
    wide = I32 if a.dtype.kind == "i" else U32 if a.dtype.kind == "u" else a.dtype
    product = build.binary("multiply", a, b)
    if product.dtype != wide:
        product = build.cast(product, wide)
    axis = len(kept)
    found = pending("%reduce", (product,), kept, wide, ("sum", (axis,), False))
    return found if a.dtype in (wide, F32) else build.cast(found, a.dtype)


def matmul(x1: Array, x2: Array, /) -> Array:
    """The matrix product; further axes are broadcast, one axis is a vector. dtypes: numbers of one kind.

    Large products of float32 matrices run in the library's kernel. Raises: UsageError.
    """
    a, b = _same("matmul", array_of(x1, "x1"), array_of(x2, "x2"))
    if not a.shape or not b.shape:
        raise UsageError("matmul of an array without axes", help="x * y")
    rows, columns = len(a.shape) > 1, len(b.shape) > 1
    m, k = (a.shape[-2] if rows else 1), a.shape[-1]
    other, n = (b.shape[-2], b.shape[-1]) if columns else (b.shape[0], 1)
    if k != other:
        raise UsageError(f"matmul of shapes {a.shape} and {b.shape}", help="the inner extents must be equal")
    batch = build.broadcast(a.shape[:-2], b.shape[:-2])
    shape = (*batch, *((m,) if rows else ()), *((n,) if columns else ()))
    if rows and columns and not batch and a.dtype == F32 and m * n * k >= LARGE:
        return Array(pending("%matmul", (a, b), shape, F32))
    if not k:
        return x1.__array_namespace__().zeros(shape, dtype=a.dtype)  # type: ignore[no-any-return]  # of the device's namespace
    a.ready(), b.ready()
    full = (*batch, m, n, k)
    sa = a.steps if rows else (0, *a.steps)
    sb = b.steps if columns else (*b.steps, 0)
    wide_a = build.broadcast_to(_seen(a, (*a.shape[:-2], m, k), sa), (*batch, m, k))
    wide_b = build.broadcast_to(_seen(b, (*b.shape[:-2], k, n), sb), (*batch, k, n))
    va = _seen(wide_a, full, (*wide_a.steps[:-1], 0, wide_a.steps[-1]))
    vb = _seen(wide_b, full, (*wide_b.steps[:-2], 0, wide_b.steps[-1], wide_b.steps[-2]))
    found = Array(_contracted(va, vb, (*batch, m, n)))
    return found if rows and columns else reshape(found, shape)


def _product(memory: DeviceMemory, node: Node) -> None:
    """A product of float32 matrices by the library."""
    node.becomes(_multiplied(memory, node, 1.0, None, False))


def _multiplied(memory: DeviceMemory, node: Node, alpha: float, bias: Node | None, relu: bool) -> Storage:
    from qpu.kernels.gemm import gemm

    storage = memory.storage(node.shape, F32)
    a, b = (qpu_view(Array(x), "in") for x in node.args)
    add = None if bias is None else qpu_view(Array(bias), "in")
    gemm(a, b, storage.buffer, alpha=alpha, bias=add, relu=relu)
    memory.launches += 1
    return storage


def _absorb(memory: DeviceMemory, walk: Walk, node: Node, root: Node) -> bool:
    """A product with what follows it, where that is the library's: a factor, a number for each column, and ReLU."""
    found, alpha, bias, relu = root, 1.0, None, False
    if found.op == "maximum" and found.args[1].__class__ is Scalar and found.args[1].bits == (0,):
        found, relu = found.args[0], True
    if found.op == "add":
        row = node.shape[1:]
        rows = [x for x in found.args if x.__class__ is Node and not x.op and x.shape in (row, (1, *row))]
        if len(rows) == 1 and node.shape[0] > 1 and rows[0].dtype == F32:
            bias = reshape(Array(rows[0]), row)._node
            found = found.args[1] if found.args[0] is rows[0] else found.args[0]
    if found.op == "multiply":
        factors = [x for x in found.args if x.__class__ is Scalar]
        if len(factors) == 1:
            alpha = float_of(factors[0].bits[0])
            found = found.args[1] if found.args[0] is factors[0] else found.args[0]
    if found is not node or root.dtype != F32 or not isfinite(alpha) or not alpha:
        return False
    root.becomes(_multiplied(memory, node, alpha, bias, relu))
    return True


EVALUATE["%matmul"] = _product
ABSORB["%matmul"] = _absorb


def tensordot(x1: Array, x2: Array, /, *, axes: Any = 2) -> Array:
    """Products summed along pairs of axes: the last and first ones, or two sequences of axes. dtypes: as `matmul`.

    Raises: UsageError.
    """
    a, b = _same("tensordot", array_of(x1, "x1"), array_of(x2, "x2"))
    if isinstance(axes, tuple | list):
        first, second = (x if isinstance(x, tuple | list) else (x,) for x in axes)
    else:
        n = operator.index(axes)
        if not 0 <= n <= min(len(a.shape), len(b.shape)):
            raise UsageError(f"axes = {n} of {len(a.shape)} and {len(b.shape)}", help="as many as both have")
        first, second = tuple(range(len(a.shape) - n, len(a.shape))), tuple(range(n))
    of_a = tuple(axis_of(k, len(a.shape)) for k in first)
    of_b = tuple(axis_of(k, len(b.shape)) for k in second)
    if [a.shape[k] for k in of_a] != [b.shape[k] for k in of_b]:
        raise UsageError(f"tensordot of shapes {a.shape} and {b.shape} along {first} and {second}",
                         help="pairs of axes with equal extents")  # fmt: skip
    rest_a = [k for k in range(len(a.shape)) if k not in of_a]
    rest_b = [k for k in range(len(b.shape)) if k not in of_b]
    shape = (*(a.shape[k] for k in rest_a), *(b.shape[k] for k in rest_b))
    m, k, n = prod(a.shape[j] for j in rest_a), prod(a.shape[j] for j in of_a), prod(b.shape[j] for j in rest_b)
    left = reshape(permute_dims(Array(a), (*rest_a, *of_a)), (m, k))
    right = reshape(permute_dims(Array(b), (*of_b, *rest_b)), (k, n))
    return reshape(matmul(left, right), shape)


def vecdot(x1: Array, x2: Array, /, *, axis: Any = -1) -> Array:
    """Products of the conjugate of x1 and x2, summed along an axis. dtypes: as `matmul`. Raises: UsageError."""
    a, b = _same("vecdot", array_of(x1, "x1"), array_of(x2, "x2"))
    at = axis_of(axis, min(len(a.shape), len(b.shape)))
    at = axis if axis < 0 else at
    if a.shape[at] != b.shape[at]:
        raise UsageError(f"vecdot of shapes {a.shape} and {b.shape} along axis {axis}", help="equal extents there")
    if a.dtype.kind == "c":
        a = build.unary("conj", a)
    shape = build.broadcast(a.shape, b.shape)
    wide = I32 if a.dtype.kind == "i" else U32 if a.dtype.kind == "u" else a.dtype
    product = build.binary("multiply", a, b)
    if product.dtype != wide:
        product = build.cast(product, wide)
    place = axis_of(axis, len(shape))
    kept = shape[:place] + shape[place + 1 :]
    found = pending("%reduce", (product,), kept, wide, ("sum", (place,), False))
    return Array(found if found.dtype == a.dtype else build.cast(found, a.dtype))


def outer(x1: Array, x2: Array, /) -> Array:
    """All products of two vectors. dtypes: numbers of one kind. Raises: UsageError."""
    a, b = array_of(x1, "x1"), array_of(x2, "x2")
    if len(a.shape) != 1 or len(b.shape) != 1:
        raise UsageError(f"outer of {len(a.shape)} and {counted(len(b.shape), 'axis')}", help="one axis each")
    return Array(build.binary("multiply", reshape(x1, (-1, 1))._node, b))


def vector_norm(x: Array, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Array:
    """The norm of vectors along axes: ord any number, inf or -inf. dtypes: floats and complex64. Raises: UsageError."""
    node = array_of(x)
    _floats("vector_norm", node)
    axes = axes_of(axis, len(node.shape))
    size = Array(build.unary("abs", node))
    options: dict[str, Any] = {"axis": axes, "keepdims": keepdims}
    if ord == float("inf"):
        return reduce.max(size, **options)
    if ord == float("-inf"):
        return reduce.min(size, **options)
    if ord == 0:
        return Array(build.cast(reduce.count_nonzero(size, **options)._node, F32))
    if ord == 1:
        return reduce.sum(size, **options)
    if ord == 2:
        return Array(build.unary("sqrt", reduce.sum(size * size, **options)._node))
    found: Array = reduce.sum(size**ord, **options) ** (1.0 / ord)
    return found


def trace(x: Array, /, *, offset: int = 0, dtype: Any = None) -> Array:
    """The sum along the diagonals of matrices. Raises: UsageError."""
    return reduce.sum(diagonal(x, offset=offset), axis=-1, dtype=dtype)


def diagonal(x: Array, /, *, offset: int = 0) -> Array:
    """A view of the diagonals of matrices. Raises: UsageError below two axes."""
    node = array_of(x)
    if len(node.shape) < 2:
        raise UsageError(f"the diagonal of {counted(len(node.shape), 'axis')}", help="two axes or more")
    node.ready()
    rows, columns = node.shape[-2:]
    down, across = node.steps[-2:]
    start = (offset * across if offset >= 0 else -offset * down) * node.dtype.itemsize
    n = max(min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns), 0)
    storage = node.ready()
    storage.shared = True
    return Array(in_memory(storage, (*node.shape[:-2], n), node.dtype, node.offset + (start if n else 0),
                           (*node.steps[:-2], down + across)))  # fmt: skip


def cross(x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """The cross products of vectors of three elements along an axis. dtypes: as `matmul`. Raises: UsageError."""
    a, b = _same("cross", array_of(x1, "x1"), array_of(x2, "x2"))
    shape = build.broadcast(a.shape, b.shape)
    at = axis_of(axis, min(len(a.shape), len(b.shape)))
    at = axis if axis < 0 else at
    if a.shape[at] != 3 or b.shape[at] != 3:
        raise UsageError(f"cross of shapes {a.shape} and {b.shape} along axis {axis}", help="three elements there")
    place = axis_of(axis, len(shape))
    left, right = (unstack(broadcast_to(Array(x), shape), axis=place) for x in (a, b))
    pairs = ((1, 2), (2, 0), (0, 1))
    return stack([left[i] * right[j] - left[j] * right[i] for i, j in pairs], axis=place)


def matrix_power(x: Array, n: int, /) -> Array:
    """Square matrices multiplied by themselves n times; of a negative n the inverses. Raises: UsageError."""
    node = array_of(x)
    if len(node.shape) < 2 or node.shape[-1] != node.shape[-2]:
        raise UsageError(f"matrix_power of shape {node.shape}", help="square matrices")
    exponent = operator.index(n)
    if exponent < 0:
        x, exponent = factor.inv(x), -exponent
    if not exponent:
        one = x.__array_namespace__().eye(node.shape[-1], dtype=x.dtype)
        return Array(build.copied(broadcast_to(one, node.shape)._node))
    given = x
    found: Array | None = None
    while exponent:
        if exponent & 1:
            found = x if found is None else matmul(found, x)
        exponent >>= 1
        if exponent:
            x = matmul(x, x)
    assert found is not None
    return found if found is not given else Array(build.copied(given._node))


def matrix_norm(x: Array, /, *, keepdims: bool = False, ord: Any = "fro") -> Array:
    """The norms of matrices. ord: "fro", "nuc", 1, -1, 2, -2, inf, -inf. dtypes: as `vector_norm`.

    Raises: UsageError.
    """
    node = array_of(x)
    if len(node.shape) < 2:
        raise UsageError(f"matrix_norm of {counted(len(node.shape), 'axis')}", help="two axes or more")
    if ord == "fro":
        return vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord in (1, -1, float("inf"), float("-inf")):
        size = Array(build.unary("abs", _floats("matrix_norm", node)))
        sums = reduce.sum(size, axis=-2 if abs(ord) == 1 else -1, keepdims=True)
        found = (reduce.max if ord > 0 else reduce.min)(sums, axis=(-2, -1), keepdims=keepdims)
    elif ord in ("nuc", 2, -2):
        values = factor.svdvals(x)
        found = (reduce.sum if ord == "nuc" else reduce.max if ord == 2 else reduce.min)(values, axis=-1)
        if keepdims:
            found = reshape(found, (*found.shape, 1, 1))
    else:
        raise UsageError(f"ord = {ord!r}", help="'fro', 'nuc', 1, -1, 2, -2, inf, -inf")
    return found


def _floats(name: str, node: Node) -> Node:
    if node.dtype.kind not in "fc":
        raise UsageError(f"{name} of {node.dtype.name}", help="write the cast: xp.astype(x, xp.float32)")
    return node


EXTENSION: Final = SimpleNamespace(
    __name__="qpu.array.linalg",
    matmul=matmul,
    matrix_transpose=matrix_transpose,
    outer=outer,
    tensordot=tensordot,
    vecdot=vecdot,
    vector_norm=vector_norm,
    diagonal=diagonal,
    trace=trace,
    cross=cross,
    matrix_power=matrix_power,
    matrix_norm=matrix_norm,
    **{name: getattr(factor, name) for name in factor.__all__},
)
"""The `linalg` extension of the namespace."""
