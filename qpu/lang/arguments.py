"""Arguments for the array parameters of kernels: what an object stands for, whether two of them share memory."""

from __future__ import annotations

import math
from typing import Any, Protocol, TypeAlias

import numpy as np

from qpu.buffers import Buffer, BufferView
from qpu.errors import Diagnostic, UsageError, counted

__all__ = ["Span", "apart", "overlap", "refusal", "view_of", "viewed"]

LARGEST = 1 << 20  # elements of views with interleaved axes that are looked at one by one


class Declared(Protocol):
    """An array parameter."""

    @property
    def name(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def type(self) -> object: ...


Span: TypeAlias = "tuple[int, int, Any, Buffer | BufferView]"
"""First address, the one behind the last, the parameter, the argument."""


def refusal(rule: str, kernel: str, message: str, *, allowed: str | None = None, help: str | None = None) -> UsageError:
    """The error for a launch that cannot be."""
    finding = Diagnostic(rule, f"{kernel}: {message}", allowed=allowed, help=help)
    return UsageError(finding.render(), [finding])


def viewed(value: Any, mode: str) -> Any:
    """What `value.__qpu_view__(mode)` gives where there is such a method, else the value itself."""
    of = getattr(type(value), "__qpu_view__", None)
    return value if of is None else of(value, mode)


def view_of(title: str, row: Declared, value: Any) -> Buffer | BufferView:
    """The memory of an argument: a buffer, a view, or what `value.__qpu_view__(mode)` gives, mode being "in", "out" or
    "inout". A view without a shape gets as many axes as the parameter has.

    Raises: UsageError.
    """
    value = viewed(value, row.mode)
    if isinstance(value, Buffer):
        return value
    if isinstance(value, BufferView):
        return _open(title, row, value) if value.open else value
    help_ = (
        f"gpu.array({row.name})" if isinstance(value, (np.ndarray, list, tuple)) else "gpu.array(...), gpu.empty(...)"
    )
    raise refusal("launch-type", title, f"{row.name} is a {type(value).__name__}", allowed=f"a buffer of {row.type}",
                  help=help_)  # fmt: skip


def _open(title: str, row: Declared, value: BufferView) -> BufferView:
    """All that follows a place, with the rank of a parameter: rows of the buffer's other axes."""
    size = value.dtype.itemsize
    if value.offset % size:
        raise refusal("launch-align", title, f"{row.name} begins {counted(value.offset, 'byte')} into its buffer",
                      allowed=f"multiples of {size}, whole elements of {value.dtype}")  # fmt: skip
    inner = value.buffer.shape[1:]
    if row.rank == 1 or len(inner) != row.rank - 1:
        return value
    bytes_ = math.prod(inner) * size
    if not bytes_ or value.offset % bytes_:
        raise refusal("launch-align", title, f"{row.name} begins inside a row of its buffer",
                      allowed=f"multiples of {bytes_} bytes, whole rows")  # fmt: skip
    return BufferView(value.buffer, value.offset, ((value.buffer.nbytes - value.offset) // bytes_, *inner), value.dtype)


def overlap(a: Buffer | BufferView, b: Buffer | BufferView) -> bool:
    """Whether two arguments whose ranges of bytes meet share an element's bytes."""
    if _home(a) is not _home(b) or (_whole(a) and _whole(b)):
        return True
    return bool(np.shares_memory(a.array, b.array))


def _home(a: Buffer | BufferView) -> Buffer:
    return a if isinstance(a, Buffer) else a.buffer


def _whole(a: Buffer | BufferView) -> bool:
    """Whether all bytes of its range belong to it."""
    return isinstance(a, Buffer) or a.contiguous


def apart(a: BufferView) -> bool:
    """Whether no two elements of a view share memory; False also where that takes too long to tell."""
    if a.contiguous:
        return True
    end = a.dtype.itemsize
    axes = sorted((abs(s), n) for n, s in zip(a.shape, a.strides, strict=True) if n > 1)
    for stride, n in axes:
        if stride < end:
            break
        end += (n - 1) * stride
    else:
        return True
    if a.size > LARGEST:
        return False
    places = np.zeros(1, np.int64)
    for stride, n in axes:
        places = (places[:, None] + np.arange(n) * stride).reshape(-1)
    places.sort()
    return bool((np.diff(places) >= a.dtype.itemsize).all())
