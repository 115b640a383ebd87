"""Buffers: memory that CPU and GPU share, with an ndarray for the CPU and an address for the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qpu.core.arguments import whole
from qpu.errors import UsageError
from qpu.runtime.pool import MemoryPool, Place

if TYPE_CHECKING:
    from qpu.drivers.base import Bo

__all__ = ["Buffer", "BufferView", "as_array"]


def _closed() -> UsageError:
    return UsageError("this buffer is closed, and its memory may be reused", help="allocate a new one")


class Buffer(Place):
    """Memory on the device, shaped like an ndarray.

    `array` is a plain ndarray view of the shared memory: fine to write, but reads may be slow on a real board
    (write-combined memory), so fetch results with `numpy()` in one piece. Indexing with a slice of the first axis
    gives a `BufferView`, whose address can be a uniform.
    """

    __slots__ = ("__weakref__", "_array", "_bo", "_pool", "dtype", "nbytes", "shape")

    def __init__(self, pool: MemoryPool, bo: Bo, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._pool = pool
        self._bo: Bo | None = bo
        self.shape = shape
        self.dtype = dtype
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._array: NDArray[Any] | None = np.frombuffer(bo.view, dtype, count=self.nbytes // dtype.itemsize).reshape(
            shape
        )

    @property
    def pool(self) -> MemoryPool:
        """The memory pool of the device that the buffer belongs to."""
        return self._pool

    @property
    def closed(self) -> bool:
        """True once the memory was released."""
        return self._bo is None

    @property
    def bo(self) -> Bo:
        """The driver's buffer object. Raises: UsageError after `close`."""
        if self._bo is None:
            raise _closed()
        return self._bo

    @property
    def address(self) -> int:
        """GPU address of the first byte, u32. Raises: UsageError after `close`."""
        return self.bo.address

    @property
    def extent(self) -> tuple[Bo, int, int]:
        """See `Place.extent`."""
        return self.bo, 0, self.nbytes

    @property
    def array(self) -> NDArray[Any]:
        """The shared memory as an ndarray of `shape` and `dtype`. Raises: UsageError after `close`."""
        if self._array is None:
            raise _closed()
        return self._array

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.nbytes // self.dtype.itemsize

    def numpy(self) -> NDArray[Any]:
        """A copy in ordinary memory, read in one piece."""
        data = self.array
        _ = self._pool.driver  # raises when the device is closed
        return np.array(data)

    def write(self, data: Any) -> None:
        """Copy `data` (broadcastable to `shape`, same kind of dtype) to the device.

        Raises: UsageError when shape or dtype does not fit.
        """
        target, source = self.array, as_array(data)
        if not np.can_cast(source.dtype, self.dtype, "same_kind"):
            raise UsageError(
                f"data of dtype {source.dtype} for a buffer of {self.dtype}", help="convert it: x.astype()"
            )
        try:
            np.copyto(target, source, casting="same_kind")
        except ValueError as error:
            message = f"data of shape {source.shape} does not fit a buffer of shape {self.shape}"
            raise UsageError(message, help="pass data of that shape, or broadcastable to it") from error

    def view(self, offset: SupportsIndex = 0) -> BufferView:
        """The memory from byte `offset` on. Raises: UsageError outside the buffer."""
        start = whole("offset", offset)
        if not 0 <= start <= self.nbytes:
            raise UsageError(f"offset {start} is outside the buffer", help=f"pass 0..{self.nbytes}")
        return BufferView(self, start)

    def __getitem__(self, index: SupportsIndex | slice) -> BufferView:
        if not self.shape:
            raise UsageError("a scalar buffer has no parts", help="use its address")
        if isinstance(index, slice):
            if index.step not in (None, 1):
                raise UsageError("only contiguous slices have an address", help="use step 1")
            start = 0 if index.start is None else whole("start", index.start)
        else:
            start = whole("index", index)
        given, length = start, self.shape[0]
        if start < 0:
            start += length
        if not 0 <= start <= length:
            raise UsageError(f"index {given} is outside the first axis", help=f"pass {-length}..{length}")
        row = self.nbytes // length if length else 0
        return BufferView(self, start * row)

    def __iter__(self) -> Iterator[BufferView]:
        """Places along the first axis; for values iterate over `array` or `numpy()`."""
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            return self.array if dtype is None else self.array.astype(dtype, copy=False)
        return np.array(self.array, dtype=dtype)

    def close(self) -> None:
        """Release the memory; calling it twice is fine. It stays mapped while ndarrays still refer to it."""
        if self._bo is not None:
            self.detach()
            self._pool.release(self)

    def detach(self) -> None:
        """Drop the views of the memory without releasing it; the pool calls this when the device closes."""
        self._bo, self._array = None, None

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._bo is None:
            return "<Buffer closed>"
        return f"<Buffer {self.dtype}{list(self.shape)} at 0x{self.address:08x}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Buffer belongs to one device of one process\n  help: send buffer.numpy() instead")


@dataclass(frozen=True, slots=True)
class BufferView(Place):
    """A place inside a buffer, `offset` bytes from its start."""

    buffer: Buffer
    offset: int

    @property
    def pool(self) -> MemoryPool:
        """The memory pool of the buffer."""
        return self.buffer.pool

    @property
    def address(self) -> int:
        """GPU address, u32. Raises: UsageError when the buffer is closed."""
        return self.buffer.address + self.offset

    @property
    def extent(self) -> tuple[Bo, int, int]:
        """See `Place.extent`."""
        return self.buffer.bo, self.offset, self.buffer.nbytes


def as_array(data: Any, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """`np.asarray`. Raises: UsageError for what NumPy cannot make an array of, or an unknown dtype."""
    try:
        return np.asarray(data, dtype)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{type(data).__name__} makes no array: {error}", help="pass numbers") from error
