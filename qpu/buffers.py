"""Buffers: memory that CPU and GPU share, with an ndarray for the CPU and an address for the GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qpu.core.arguments import whole
from qpu.errors import UsageError, counted
from qpu.runtime.pool import MemoryPool, Place

if TYPE_CHECKING:
    from qpu.drivers.base import Bo

__all__ = ["Buffer", "BufferView", "as_array", "row_strides"]


def _closed() -> UsageError:
    return UsageError("this buffer is closed, and its memory may be reused", help="allocate a new one")


class Buffer(Place):
    """Memory on the device, shaped like an ndarray.

    `array` is a plain ndarray view of the shared memory: fine to write, but reads may be slow on a real board
    (write-combined memory), so fetch results with `numpy()` in one piece. Indexing gives a `BufferView`, which kernels
    take like a buffer; its address can be a uniform.
    """

    __slots__ = ("__weakref__", "_array", "_bo", "_exposed", "_pool", "dtype", "nbytes", "shape")

    def __init__(self, pool: MemoryPool, bo: Bo, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._pool = pool
        self._bo: Bo | None = bo
        self.shape = shape
        self.dtype = dtype
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._exposed = False  # whether the CPU may have written to it
        self._array: NDArray[Any] | None = np.frombuffer(bo.view, dtype, count=self.nbytes // dtype.itemsize).reshape(
            shape
        )

    @property
    def pool(self) -> MemoryPool:
        """The memory pool of the device that the buffer belongs to."""
        return self._pool

    @property
    def used(self) -> int:
        """Bytes that programs may access: those of its elements."""
        return self.nbytes

    @property
    def label(self) -> str:
        """Its name in messages of emulated boards, such as ``float32[4, 16]``."""
        return f"{self.dtype}{list(self.shape)}"

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
        if not self._exposed:
            self._exposed = True
            if self._pool.bounds is not None:
                self._pool.bounds.expose(self.address)
        return self._memory

    @property
    def _memory(self) -> NDArray[Any]:
        if self._array is None:
            raise _closed()
        return self._array

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.nbytes // self.dtype.itemsize

    def numpy(self) -> NDArray[Any]:
        """A copy in ordinary memory, read in one piece."""
        data = self._memory
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

    def view(
        self, offset: SupportsIndex = 0, shape: Sequence[int] | None = None, dtype: DTypeLike | None = None
    ) -> BufferView:
        """The memory from byte `offset` on; with a shape: so many elements of `dtype` (the buffer's own), row by row.

        Raises: UsageError outside the buffer.
        """
        start = whole("offset", offset)
        if not 0 <= start <= self.nbytes:
            raise UsageError(f"offset {start} is outside the buffer", help=f"pass 0..{self.nbytes}")
        return BufferView(self, start, shape, dtype)

    @property
    def T(self) -> BufferView:
        """A view with the axes in the opposite order; nothing is moved."""
        return self.view(0, self.shape).T

    def __getitem__(self, index: Any) -> BufferView:
        """A view of some elements: whole numbers and slices, one an axis, and `...`, as NumPy means them."""
        if not self.shape:
            raise UsageError("a scalar buffer has no parts", help="use its address")
        return self.view(0, self.shape)[index]

    def __setitem__(self, index: object, value: object) -> NoReturn:
        raise _no_array("values cannot be assigned to a Buffer", "y.write(data) or y.array[...] = data")

    def _arithmetic(self, *other: object) -> NoReturn:
        raise _no_array("a Buffer is memory, without arithmetic", "y.array for NumPy, or gpu.xp.asarray(y) for the GPU")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _arithmetic
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = _arithmetic
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __lshift__ = __rshift__ = _arithmetic
    __neg__ = __abs__ = __invert__ = __lt__ = __le__ = __gt__ = __ge__ = __float__ = __int__ = _arithmetic
    __array_ufunc__ = None  # NumPy leaves ndarray + Buffer to the methods above

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

    def discard(self) -> Buffer:
        """Declare that nobody reads this buffer, and return it: a place for results that are not wanted.

        The sanitizer does not report stores to it that are not ordered. It changes nothing else.
        """
        if self._pool.bounds is not None:
            self._pool.bounds.discard(self.address)
        return self

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


class BufferView(Place):
    """Some elements of a buffer: `shape` of them, of type `dtype`, the first one `offset` bytes from the buffer's start
    and `strides` bytes from one to the next of each axis (negative ones go back, 0 repeats). Without a shape: all that
    follows, as one axis (`open`).

    Indexing as in NumPy, `T`, `transpose` and `broadcast_to` give further views; kernels take them like buffers.
    Raises: UsageError for elements outside of the buffer.
    """

    __slots__ = ("buffer", "dtype", "offset", "open", "shape", "strides")

    def __init__(
        self,
        buffer: Buffer,
        offset: int,
        shape: Sequence[int] | None = None,
        dtype: DTypeLike | None = None,
        strides: Sequence[int] | None = None,
    ) -> None:
        self.buffer, self.offset = buffer, offset
        self.dtype: np.dtype[Any] = buffer.dtype if dtype is None else np.dtype(dtype)
        self.open = shape is None
        size = self.dtype.itemsize
        self.shape = ((buffer.nbytes - offset) // size,) if shape is None else tuple(int(n) for n in shape)
        self.strides = row_strides(self.shape, size) if strides is None else tuple(int(n) for n in strides)
        if len(self.strides) != len(self.shape) or any(n < 0 for n in self.shape):
            raise UsageError(f"a view of shape {self.shape} with strides {self.strides}", help="one stride an axis")
        first, end = self.span
        if first < 0 or end > buffer.nbytes:
            raise UsageError(
                f"a view of the bytes {first}..{end} of a buffer of {buffer.nbytes}", help="stay inside the buffer"
            )

    @property
    def pool(self) -> MemoryPool:
        """The memory pool of the buffer."""
        return self.buffer.pool

    @property
    def address(self) -> int:
        """GPU address of the first element, u32. Raises: UsageError when the buffer is closed."""
        return self.buffer.address + self.offset

    @property
    def extent(self) -> tuple[Bo, int, int]:
        """See `Place.extent`."""
        return self.buffer.bo, self.offset, self.buffer.nbytes

    @property
    def contiguous(self) -> bool:
        """Whether the elements follow each other, row by row."""
        rows = row_strides(self.shape, self.dtype.itemsize)
        return 0 in self.shape or all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, rows, strict=True))

    @property
    def span(self) -> tuple[int, int]:
        """The first byte of the buffer that belongs to an element, and the one behind the last."""
        if 0 in self.shape:
            return self.offset, self.offset
        reach = [(n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)]
        low, high = sum(x for x in reach if x < 0), sum(x for x in reach if x > 0)
        return self.offset + low, self.offset + high + self.dtype.itemsize

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.size * self.dtype.itemsize

    @property
    def array(self) -> NDArray[Any]:
        """The elements in the shared memory as an ndarray. Raises: UsageError when the buffer is closed."""
        memory = self.buffer.array.reshape(-1).view(np.uint8)
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        return np.ndarray(self.shape, self.dtype, memory, self.offset, self.strides)

    def numpy(self) -> NDArray[Any]:
        """A copy of the elements in ordinary memory. Raises: UsageError when the buffer is closed."""
        _ = self.pool.driver  # raises when the device is closed
        return np.array(self.array, order="C")

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            return self.array if dtype is None else self.array.astype(dtype, copy=False)
        return np.array(self.array, dtype=dtype)

    def __getitem__(self, index: Any) -> BufferView:
        """A view of some elements: whole numbers and slices, one an axis, and `...`, as NumPy means them."""
        keys = list(index) if isinstance(index, tuple) else [index]
        dots = [n for n, key in enumerate(keys) if key is Ellipsis]
        if dots:
            keys[dots[0] : dots[0] + 1] = [slice(None)] * (len(self.shape) - len(keys) + 1)
        if len(keys) > len(self.shape) or len(dots) > 1:
            raise UsageError(
                f"{counted(len(keys), 'index')} for {counted(len(self.shape), 'axis')}", help="one an axis at most"
            )
        offset, shape, strides = self.offset, [], []
        for axis, (n, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            key = keys[axis] if axis < len(keys) else slice(None)
            if isinstance(key, slice):
                start, stop, step = _slice(key).indices(n)
                count = len(range(start, stop, step))
                offset += start * stride if count else 0
                shape.append(count)
                strides.append(step * stride)
                continue
            given = at = whole("index", key)
            at += n if at < 0 else 0
            if not 0 <= at < n:
                which = "the first axis" if not axis else f"axis {axis}"
                raise UsageError(f"index {given} is outside {which}", help=f"pass {-n}..{n - 1}")
            offset += at * stride
        if 0 in shape:  # nothing is read, wherever that is
            offset = self.offset
        return BufferView(self.buffer, offset, shape, self.dtype, strides)

    @property
    def T(self) -> BufferView:
        """The axes in the opposite order; nothing is moved."""
        return self.transpose()

    def transpose(self, *axes: int) -> BufferView:
        """The axes in another order: by their numbers, without numbers the opposite one. Raises: UsageError."""
        order = [whole("axis", a) for a in axes] or list(range(len(self.shape)))[::-1]
        if sorted(order) != list(range(len(self.shape))):
            raise UsageError(f"axes {order} of {len(self.shape)}", help="each axis once")
        shape, strides = [self.shape[a] for a in order], [self.strides[a] for a in order]
        return BufferView(self.buffer, self.offset, shape, self.dtype, strides)

    def broadcast_to(self, shape: Sequence[int]) -> BufferView:
        """The elements repeated along new axes and axes of one, as NumPy does it, to read. Raises: UsageError."""
        more = len(shape) - len(self.shape)
        own = [(1, 0)] * more + list(zip(self.shape, self.strides, strict=True))
        if more < 0 or any(n not in (1, wanted) for (n, _), wanted in zip(own, shape, strict=True)):
            raise UsageError(f"shape {self.shape} cannot become {tuple(shape)}", help="axes that are equal or 1")
        strides = [0 if n == 1 and wanted != 1 else s for (n, s), wanted in zip(own, shape, strict=True)]
        return BufferView(self.buffer, self.offset, shape, self.dtype, strides)

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BufferView) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return id(self.buffer), self.offset, self.shape, self.strides, self.dtype, self.open

    def __repr__(self) -> str:
        where = f"{self.dtype}{list(self.shape)} at byte {self.offset} of {self.buffer!r}"
        return f"<BufferView {where}>" if self.contiguous else f"<BufferView {where}, strides {self.strides}>"


def row_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Bytes from one element to the next of each axis, where rows follow each other."""
    found = []
    for n in reversed(shape):
        found.append(itemsize)
        itemsize *= n
    return tuple(found[::-1])


def _slice(key: slice) -> slice:
    """A slice of whole numbers. Raises: UsageError."""
    parts = {name: getattr(key, name) for name in ("start", "stop", "step")}
    start, stop, step = (None if v is None else whole(name, v) for name, v in parts.items())
    if step == 0:
        raise UsageError("a slice with step 0", help="steps forward or back")
    return slice(start, stop, step)


def _no_array(message: str, write: str) -> UsageError:
    return UsageError(message, help=f"write {write}")


def as_array(data: Any, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """`np.asarray`. Raises: UsageError for what NumPy cannot make an array of, or an unknown dtype."""
    try:
        return np.asarray(data, dtype)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{type(data).__name__} makes no array: {error}", help="pass numbers") from error
