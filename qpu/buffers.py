"""Buffers that CPU and GPU share, and uniform streams made of numbers and addresses."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qpu.drivers.base import Bo
from qpu.errors import UsageError

if TYPE_CHECKING:
    from qpu.device import Device

__all__ = ["Buffer", "BufferView", "Scalar", "Uniforms", "as_array", "close_bo", "pack_uniforms", "whole"]

Scalar: TypeAlias = "int | float | np.generic | Buffer | BufferView"
Uniforms: TypeAlias = "Sequence[Scalar | Sequence[Any] | NDArray[Any]] | NDArray[Any]"


class Buffer:
    """Memory on the device, shaped like an ndarray.

    `array` is a plain ndarray view of the shared memory: fine to write, but reads may be slow on a real board
    (write-combined memory), so fetch results with `numpy()` in one piece. Indexing with a slice of the first axis
    gives a `BufferView`, whose address can be a uniform.
    """

    __slots__ = ("__weakref__", "_array", "_bo", "_device", "dtype", "nbytes", "shape")

    def __init__(self, device: Device, bo: Bo, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._device = device
        self._bo: Bo | None = bo
        self.shape = shape
        self.dtype = dtype
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._array: NDArray[Any] | None = np.frombuffer(bo.view, dtype, count=self.nbytes // dtype.itemsize).reshape(
            shape
        )

    @property
    def device(self) -> Device:
        """The device the buffer belongs to."""
        return self._device

    @property
    def closed(self) -> bool:
        """True once the memory went back."""
        return self._bo is None

    @property
    def bo(self) -> Bo:
        """The driver's buffer object. Raises: UsageError after `close`."""
        if self._bo is None:
            raise UsageError("this buffer is closed; its memory may belong to somebody else by now")
        return self._bo

    @property
    def address(self) -> int:
        """GPU address of the first byte, u32. Raises: UsageError after `close`."""
        return self.bo.address

    @property
    def array(self) -> NDArray[Any]:
        """The shared memory as an ndarray of `shape` and `dtype`. Raises: UsageError after `close`."""
        if self._array is None:
            raise UsageError("this buffer is closed; its memory may belong to somebody else by now")
        return self._array

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.nbytes // self.dtype.itemsize

    def numpy(self) -> NDArray[Any]:
        """A copy in ordinary memory, read in one piece."""
        data = self.array
        self._device.check_usable()
        return np.array(data)

    def write(self, data: Any) -> None:
        """Copy `data` (broadcastable to `shape`, same kind of dtype) to the device.

        Raises: UsageError when shape or dtype does not fit.
        """
        target, source = self.array, as_array(data)
        if not np.can_cast(source.dtype, self.dtype, "same_kind"):
            raise UsageError(f"data of dtype {source.dtype} does not fit a buffer of {self.dtype}; convert it first")
        try:
            np.copyto(target, source, casting="same_kind")
        except ValueError as error:
            raise UsageError(f"data of shape {source.shape} does not fit a buffer of shape {self.shape}") from error

    def view(self, offset: SupportsIndex = 0) -> BufferView:
        """The memory from byte `offset` on. Raises: UsageError outside the buffer."""
        start = whole("offset", offset)
        if not 0 <= start <= self.nbytes:
            raise UsageError(f"offset {start} is outside the buffer of {self.nbytes} bytes")
        return BufferView(self, start)

    def __getitem__(self, index: SupportsIndex | slice) -> BufferView:
        if not self.shape:
            raise UsageError("a scalar buffer has no parts")
        if isinstance(index, slice):
            if index.step not in (None, 1):
                raise UsageError("only contiguous slices have an address; use step 1")
            start = 0 if index.start is None else whole("start", index.start)
        else:
            start = whole("index", index)
        given, length = start, self.shape[0]
        if start < 0:
            start += length
        if not 0 <= start <= length:
            raise UsageError(f"index {given} is outside the first axis of length {length}")
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
        """Give the memory back; calling it twice is fine. It stays while ndarrays still refer to it."""
        bo, self._bo, self._array = self._bo, None, None
        if bo is not None:
            self._device.forget(self, bo)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._bo is None:
            return "<Buffer closed>"
        return f"<Buffer {self.dtype}{list(self.shape)} at 0x{self.address:08x}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Buffer lives on one device of one process; send buffer.numpy() instead")


@dataclass(frozen=True, slots=True)
class BufferView:
    """A place inside a buffer."""

    buffer: Buffer
    offset: int

    @property
    def address(self) -> int:
        """GPU address, u32. Raises: UsageError when the buffer is closed."""
        return self.buffer.address + self.offset


def whole(name: str, value: Any) -> int:
    """`value` as an int when it is a whole number of any integer type. Raises: UsageError, for truth values as well."""
    if not isinstance(value, (bool, np.bool_)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise UsageError(f"{name} = {value!r}; give a whole number")


def as_array(data: Any, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """`np.asarray`. Raises: UsageError for what NumPy cannot make an array of, or an unknown dtype."""
    try:
        return np.asarray(data, dtype)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{type(data).__name__} makes no array: {error}") from error


def close_bo(bo: Bo) -> bool:
    """Close a buffer object; False when ndarrays still refer to its mapping, so that it has to be tried again."""
    try:
        bo.close()
    except BufferError:
        return False
    return True


# -- uniforms


def pack_uniforms(values: Uniforms, device: Device | None = None) -> bytes:
    """Uniform words as bytes: ints (-2**31..2**32-1), floats (as binary32), 32-bit NumPy values, buffers (addresses).

    Sequences and arrays are flattened. Raises: UsageError naming the position of a value that is no 32-bit word, or
    of a buffer that is closed or belongs to another device.
    """
    if isinstance(values, np.ndarray):
        return _array_words(values, "uniforms")
    if isinstance(values, (str, bytes, bytearray, Mapping, Set)) or not isinstance(values, Iterable):
        raise UsageError(
            f"uniforms = {values!r}: {type(values).__name__} is no stream of words; give a list, an array or a buffer"
        )
    out = bytearray()
    _pack(out, values, device)
    return bytes(out)


def _array_words(values: NDArray[Any], what: str) -> bytes:
    if values.dtype.itemsize != 4 or values.dtype.kind not in "iuf":
        raise UsageError(
            f"{what}: an array of {values.dtype} is no stream of 32-bit words; use uint32, int32 or float32"
        )
    return np.ascontiguousarray(values).tobytes()


def _pack(out: bytearray, values: Iterable[Any], device: Device | None) -> None:
    for value in values:
        where = f"uniform {len(out) // 4}"
        if isinstance(value, (Buffer, BufferView)):
            owner = value if isinstance(value, Buffer) else value.buffer
            if device is not None and owner.device is not device:
                raise UsageError(f"{where}: the buffer belongs to another device; allocate it on this one")
            out += value.address.to_bytes(4, "little")
        elif isinstance(value, (bool, np.bool_)):
            raise UsageError(f"{where}: {value!r} is a truth value; write 0 or 1")
        elif isinstance(value, (int, np.integer)):
            number = int(value)
            if not -(1 << 31) <= number < 1 << 32:
                raise UsageError(f"{where}: {number} does not fit 32 bits (-2147483648..4294967295)")
            out += (number & 0xFFFFFFFF).to_bytes(4, "little")
        elif isinstance(value, (float, np.floating)):
            with np.errstate(over="ignore"):
                narrow = np.float32(value)
            if np.isinf(narrow) and not np.isinf(value):
                raise UsageError(f"{where}: {value!r} is beyond float32")
            out += narrow.tobytes()
        elif isinstance(value, np.ndarray):
            out += _array_words(value, where)
        elif isinstance(value, (list, tuple)):
            _pack(out, value, device)
        else:
            raise UsageError(
                f"{where}: {type(value).__name__} is no uniform; allowed: int, float, NumPy values, buffers"
            )
