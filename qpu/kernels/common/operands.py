"""Arguments of library functions: device memory as a `BufferView`, checked before anything is launched.

A function takes a `Buffer`, a `BufferView` (`x[4:]`, `x[::2]`, `x.T`, or `part(x, shape)`: another shape) or an object
with a method `__qpu_view__`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import Buffer, BufferView
from qpu.core.arguments import whole
from qpu.device import device_of
from qpu.errors import UsageError, counted
from qpu.lang.arguments import overlap, viewed

if TYPE_CHECKING:
    from qpu.device import Device

__all__ = [
    "Memory", "device", "finite", "folded", "integer", "operand", "part", "real", "recast", "same_shape", "separate",
    "switch",
]  # fmt: skip

LARGEST: Final = 2.0**128 - 2.0**103
"""Where numbers begin that round to infinity in float32."""

Memory: TypeAlias = Buffer | BufferView
"""What library functions take as an array."""


def part(x: Memory, shape: int | Sequence[int], offset: int = 0) -> BufferView:
    """`shape` elements of `x` from element `offset` on, in the order in which they lie in memory.

    Raises: UsageError when `x` is shorter.
    """
    whole = _as_view("x", x)
    size = tuple(map(int, shape)) if isinstance(shape, Sequence) else (int(shape),)
    count, there = int(np.prod(size, dtype=np.int64)), int(np.prod(whole.shape, dtype=np.int64))
    if offset < 0 or min(size, default=0) < 0 or offset + count > there:
        raise UsageError(
            f"elements {offset}..{offset + count - 1} of an array of {there}", help="pass a part that lies inside of it"
        )
    if not whole.contiguous:
        raise UsageError("the elements of x do not follow each other", help="cut it by indices, as in x[2:5, ::2]")
    return BufferView(whole.buffer, whole.offset + offset * whole.dtype.itemsize, size, whole.dtype)


def _as_view(name: str, value: object, mode: str = "in") -> BufferView:
    value = viewed(value, mode)
    if isinstance(value, Buffer):
        return value.view(0, value.shape)
    if not isinstance(value, BufferView):
        help = (
            f"gpu.array({name})" if isinstance(value, (np.ndarray, list, tuple)) else "gpu.array(...), gpu.empty(...)"
        )
        raise UsageError(f"{name} is a {type(value).__name__}; allowed: device memory", help=help)
    if not value.open:
        return value
    buffer, offset = value.buffer, value.offset
    inner = buffer.shape[1:]
    row = buffer.dtype.itemsize * int(np.prod(inner, dtype=np.int64))
    if row and offset % row:
        raise UsageError(
            f"{name} begins {counted(offset, 'byte')} into its buffer; allowed: multiples of {row}, whole rows of it",
            help="part(buffer, shape, offset) begins at any element",
        )
    return BufferView(buffer, offset, ((buffer.nbytes - offset) // row if row else 0, *inner), buffer.dtype)


def recast(x: BufferView, dtype: Any) -> BufferView:
    """The same memory with elements of another type of the same size."""
    return BufferView(x.buffer, x.offset, x.shape, np.dtype(dtype), x.strides)


def operand(name: str, value: object, dtypes: Any, rank: int | None = None, mode: str = "in") -> BufferView:
    """An argument as a view. dtypes: the allowed ones, or one; rank: number of axes, None for any; mode: "in", "out" or
    "inout", as it is used.

    Raises: UsageError with the parameter's name for anything else.
    """
    found = _as_view(name, value, mode)
    if found.buffer.closed:
        raise UsageError(f"{name} is closed, and its memory may be reused", help="allocate a new buffer")
    allowed = [np.dtype(d) for d in (dtypes if isinstance(dtypes, (tuple, list)) else (dtypes,))]
    if found.dtype not in allowed:
        raise UsageError(
            f"{name} holds {found.dtype}; allowed: {', '.join(map(str, allowed))}",
            help=f"gpu.array({name}.numpy().astype({written(allowed[0])}))",
        )
    if rank is not None and len(found.shape) != rank:
        raise UsageError(
            f"{name} has the shape {list(found.shape)}; allowed: {rank} {'axis' if rank == 1 else 'axes'}",
            help=f"part({name}, shape) gives it another shape",
        )
    return found


def written(dtype: np.dtype[Any]) -> str:
    """A dtype as it is typed in a program: bool is that of Python."""
    return "bool" if dtype == np.bool_ else f"np.{dtype}"


def switch(name: str, value: object, where: str = "") -> bool:
    """An option that is true or false. where: what the message begins with. Raises: UsageError for anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise UsageError(
            f"{where}{name} = {reprlib.repr(value)} is of the type {type(value).__name__}; allowed: True or False",
            help=f"bool({name}), if its truth is meant",
        )
    return bool(value)


def integer(name: str, value: object, where: str = "") -> int:
    """A whole number. where: what the message begins with. Raises: UsageError for anything else."""
    return whole(where + name, value)


def real(name: str, value: Any, where: str = "") -> Any:
    """A number that float32 holds, as it is; infinity and NaN, too. where: what the message begins with.

    Raises: UsageError for anything else.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise UsageError(
            f"{where}{name} = {reprlib.repr(value)} is of the type {type(value).__name__}; allowed: a real number",
            help=f"float({name})",
        )
    try:
        found = float(value)
    except OverflowError:  # an int beyond float64
        found = LARGEST * 2
    if math.isfinite(found) and abs(found) >= LARGEST:
        raise UsageError(
            f"{where}{name} = {reprlib.repr(value)} is beyond float32; allowed: up to 3.4e38, infinity and NaN",
            help="math.inf is a number, too",
        )
    return value


def finite(name: str, value: object, dtype: Any = np.float32) -> NDArray[Any]:
    """Numbers of the host as an array. Raises: UsageError unless all of them are finite numbers."""
    try:
        with np.errstate(over="ignore"):
            found = np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError):
        found = np.full(1, np.nan)
    if not np.isfinite(found).all():
        raise UsageError(f"{name} = {value!r}; allowed: finite numbers", help="pass numbers, a list or an ndarray")
    return found


def folded(x: BufferView, *groups: int) -> BufferView | None:
    """`x` with its axes joined, so many for each axis of the result; None where its strides do not allow that."""
    shape, strides, first = [], [], 0
    for size in groups:
        length, step = 1, x.dtype.itemsize
        for n in reversed(range(first, first + size)):
            if x.shape[n] != 1 and length == 1:
                step = x.strides[n]
            elif x.shape[n] != 1 and x.size and x.strides[n] != step * length:
                return None
            length *= x.shape[n]
        shape.append(length)
        strides.append(step)
        first += size
    return BufferView(x.buffer, x.offset, shape, x.dtype, strides)


def same_shape(**arrays: BufferView) -> tuple[int, ...]:
    """The shape that all have. Raises: UsageError naming those that differ."""
    (first, one), *others = arrays.items()
    for name, other in others:
        if other.shape != one.shape:
            raise UsageError(
                f"{first} has the shape {list(one.shape)} and {name} {list(other.shape)}; allowed: equal ones",
                help=f"part({name}, shape) takes some of it",
            )
    return one.shape


def separate(written: str, out: BufferView, same: bool = False, **others: BufferView) -> None:
    """Refuse an output that shares bytes with other arguments. same: exactly the same place is fine.

    Raises: UsageError.
    """
    begin, end = _bytes(out)
    for name, other in others.items():
        a, b = _bytes(other)
        alike = same and (a, b, other.shape, other.strides) == (begin, end, out.shape, out.strides)
        if a < end and begin < b and not alike and overlap(out, other):
            raise UsageError(
                f"{written} overlaps {name}, and is written; allowed: memory of its own",
                help=f"allocate {written}, or pass a copy of {name}",
            )


def _bytes(x: BufferView) -> tuple[int, int]:
    begin, end = x.span
    return x.buffer.address + begin, x.buffer.address + end


def device(**arrays: BufferView) -> Device:
    """The device of all arguments. Raises: UsageError when there are two."""
    (first, one), *others = arrays.items()
    gpu = device_of(one.buffer.pool)
    for name, other in others:
        if other.buffer.pool is not one.buffer.pool:
            raise UsageError(
                f"{name} belongs to another device than {first}", help=f"make a copy there: gpu.array({name}.numpy())"
            )
    return gpu
