"""Functions that make arrays on a device: from data, from numbers, like other arrays."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from qpu.array.array import Array
from qpu.array.build import cast, copied, where
from qpu.array.dtypes import BOOL, C64, F32, I32, NpDType, dtype_of, scalar_for
from qpu.array.manipulation import array_of, broadcast_arrays, reshape, stack
from qpu.array.memory import DeviceMemory, memory_of
from qpu.array.node import Node, in_memory
from qpu.buffers import Buffer
from qpu.device import Device
from qpu.errors import UsageError, counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Creation"]

_NARROW = {"float64": F32, "int64": I32, "uint64": np.dtype("uint32"), "complex128": C64}


def _shape(shape: Any) -> tuple[int, ...]:
    try:
        found = tuple(operator.index(n) for n in (shape if isinstance(shape, tuple | list) else (shape,)))
    except TypeError:
        raise UsageError(f"shape = {shape!r}", help="an integer, or a tuple of integers") from None
    if any(n < 0 for n in found):
        raise UsageError(f"shape = {shape!r} has a negative extent", help="extents from 0")
    return found


def _holds_arrays(obj: Any) -> bool:
    """Whether a nested list has arrays of a device among its items, at any depth."""
    return isinstance(obj, list | tuple) and any(isinstance(x, Array) or _holds_arrays(x) for x in obj)


def _of_python(data: Any) -> bool:
    """Whether data is Python numbers in lists, which take the default dtypes."""
    if isinstance(data, list | tuple):
        return all(_of_python(x) for x in data)
    return isinstance(data, int | float | complex) and not isinstance(data, np.generic)


class Creation:
    """The functions of a namespace that need its device."""

    def __init__(self, gpu: Device) -> None:
        self._memory: DeviceMemory = memory_of(gpu)

    def _place(self, device: Any) -> None:
        if device is not None and device is not self._memory.gpu:
            raise UsageError(f"device = {device!r} in the namespace of {self._memory.gpu!r}",
                             help="device=None, or the gpu.xp of that device")  # fmt: skip

    def _made(self, data: NDArray[Any], dtype: NpDType) -> Array:
        return Array(in_memory(self._memory.upload(data, dtype), data.shape, dtype))

    def _filled(self, shape: tuple[int, ...], dtype: NpDType, value: Any) -> Array:
        storage = self._memory.storage(shape, dtype)
        if 0 not in shape:
            self._memory.quiet()
            storage.buffer.array[...] = value
        return Array(in_memory(storage, shape, dtype))

    # -- from data

    def asarray(self, obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Array:
        """An array of data: arrays, numbers, nested lists, anything with a buffer or DLPack.

        Lists of Python numbers become int32, float32, complex64 or bool. Data of 64 bits needs `dtype`. copy: True
        copies an array of this device, False refuses where a copy is needed. Raises: UsageError.
        """
        self._place(device)
        kind = None if dtype is None else dtype_of(dtype)
        if obj.__class__ is Array:
            node: Node = obj._node
            if node.memory is self._memory:
                if kind is not None and kind != node.dtype:
                    if copy is False:
                        raise UsageError(f"{node.dtype.name} as {kind.name} without a copy", help="copy=None")
                    return Array(cast(node, kind))
                return Array(copied(node)) if copy else obj
            obj = obj.numpy()
        elif _holds_arrays(obj):
            items = [self.asarray(x) for x in obj]
            found = stack(items)
            return found if kind is None else self.asarray(found, dtype=kind)
        if copy is False:
            raise UsageError("data of ordinary memory without a copy", help="copy=None: the GPU has memory of its own")
        return self._of_data(obj, kind)

    def _of_data(self, obj: Any, kind: NpDType | None) -> Array:
        plain = _of_python(obj)
        if isinstance(obj, Buffer):
            obj = obj.numpy()
        elif not hasattr(obj, "__array__") and hasattr(obj, "__dlpack__"):
            obj = np.from_dlpack(obj)
        try:
            data = np.asarray(obj)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{type(obj).__name__} makes no array: {error}", help="pass numbers") from error
        if data.dtype.hasobject or data.dtype.kind not in "biufc":
            raise UsageError(f"data of dtype {data.dtype}", help="pass numbers")
        if kind is None:
            narrow = _NARROW.get(data.dtype.name)
            if narrow is not None and plain:
                kind = narrow
                if (
                    narrow.kind in "iu"
                    and data.size
                    and not (np.iinfo(np.int32).min <= data.min() and data.max() <= np.iinfo(np.int32).max)
                ):
                    raise UsageError(f"integers from {data.min()} to {data.max()} do not fit int32",
                                     help="dtype=xp.uint32, or dtype=xp.float32")  # fmt: skip
                kind = I32 if narrow.kind in "iu" else narrow
            else:
                kind = dtype_of(data.dtype)
        elif plain and kind.kind in "iu" and data.size and data.dtype.kind in "iu":
            info = np.iinfo(kind)
            if data.min() < info.min or data.max() > info.max:
                raise UsageError(f"integers from {data.min()} to {data.max()} do not fit {kind.name}",
                                 help=f"allowed: {info.min}..{info.max}")  # fmt: skip
        if data.dtype.kind == "c" and kind.kind != "c":
            raise UsageError(f"complex data as {kind.name}", help="its .real, .imag or abs()")
        with np.errstate(over="ignore", invalid="ignore"):
            return self._made(data.astype(kind, copy=False), kind)

    def from_dlpack(self, x: Any, /, *, device: Any = None, copy: bool | None = None) -> Array:
        """An array with a copy of what an object gives by DLPack. Raises: UsageError."""
        self._place(device)
        if x.__class__ is Array:
            return self.asarray(x, copy=copy)
        if copy is False:
            raise UsageError("data of ordinary memory without a copy", help="copy=None: the GPU has memory of its own")
        return self._of_data(np.from_dlpack(x), None)

    # -- of numbers

    def empty(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Array:
        """An array with any content; float32 by default."""
        self._place(device)
        kind, extents = F32 if dtype is None else dtype_of(dtype), _shape(shape)
        return Array(in_memory(self._memory.storage(extents, kind), extents, kind))

    def zeros(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Array:
        """An array of zeros; float32 by default."""
        self._place(device)
        return self._filled(_shape(shape), F32 if dtype is None else dtype_of(dtype), 0)

    def ones(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Array:
        """An array of ones; float32 by default."""
        self._place(device)
        return self._filled(_shape(shape), F32 if dtype is None else dtype_of(dtype), 1)

    def full(self, shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Array:
        """An array of one number; by default bool, int32, float32 or complex64 as the number is. Raises: UsageError."""
        self._place(device)
        if isinstance(fill_value, Array):
            fill_value = fill_value.item()
        kind = dtype_of(type(fill_value)) if dtype is None else dtype_of(dtype)
        scalar_for(fill_value, kind)  # raises where it does not fit
        return self._filled(_shape(shape), kind, fill_value)

    def arange(self, start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None) -> Array:
        """start, start + step, ... below stop; int32 for integers, else float32. Raises: UsageError."""
        self._place(device)
        if stop is None:
            start, stop = 0, start
        if not step:
            raise UsageError("arange with step 0", help="a step that is not 0")
        whole = all(isinstance(x, int) for x in (start, stop, step))
        kind = (I32 if whole else F32) if dtype is None else dtype_of(dtype)
        data = np.arange(start, stop, step)
        if whole and kind.kind in "iu" and data.size:
            scalar_for(int(data[0]), kind), scalar_for(int(data[-1]), kind)
        return self._made(data.astype(kind), kind)

    def linspace(self, start: Any, stop: Any, /, num: int, *, dtype: Any = None, device: Any = None,
                 endpoint: bool = True) -> Array:  # fmt: skip
        """num numbers in equal steps from start to stop, which is the last one unless endpoint is False."""
        self._place(device)
        if num < 0:
            raise UsageError(f"num = {num}", help="a number from 0")
        is_complex = isinstance(start, complex) or isinstance(stop, complex)
        kind = (C64 if is_complex else F32) if dtype is None else dtype_of(dtype)
        return self._made(np.linspace(start, stop, num, endpoint=endpoint).astype(kind), kind)

    def eye(self, n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None,
            device: Any = None) -> Array:  # fmt: skip
        """A matrix with ones on the diagonal k and zeros elsewhere."""
        self._place(device)
        kind = F32 if dtype is None else dtype_of(dtype)
        return self._made(np.eye(n_rows, n_cols, k, kind), kind)

    # -- like other arrays

    def empty_like(self, x: Array, /, *, dtype: Any = None, device: Any = None) -> Array:
        """As `empty`, with the shape of x, and its dtype by default."""
        return self.empty(array_of(x).shape, dtype=x.dtype if dtype is None else dtype, device=device)

    def zeros_like(self, x: Array, /, *, dtype: Any = None, device: Any = None) -> Array:
        """As `zeros`, with the shape of x, and its dtype by default."""
        return self.zeros(array_of(x).shape, dtype=x.dtype if dtype is None else dtype, device=device)

    def ones_like(self, x: Array, /, *, dtype: Any = None, device: Any = None) -> Array:
        """As `ones`, with the shape of x, and its dtype by default."""
        return self.ones(array_of(x).shape, dtype=x.dtype if dtype is None else dtype, device=device)

    def full_like(self, x: Array, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Array:
        """As `full`, with the shape of x, and its dtype by default."""
        return self.full(array_of(x).shape, fill_value, dtype=x.dtype if dtype is None else dtype, device=device)

    def meshgrid(self, *arrays: Array, indexing: str = "xy") -> list[Array]:
        """Coordinate arrays of coordinate vectors, as views. indexing: "xy" or "ij"."""
        if indexing not in ("xy", "ij"):
            raise UsageError(f"indexing = {indexing!r}", help="'xy' or 'ij'")
        n = len(arrays)
        swap = indexing == "xy" and n > 1
        found = []
        for k, x in enumerate(arrays):
            at = 1 - k if swap and k < 2 else k
            found.append(reshape(x, tuple(-1 if axis == at else 1 for axis in range(n))))
        return broadcast_arrays(*found)

    def tril(self, x: Array, /, *, k: int = 0) -> Array:
        """The elements on and below the diagonal k of matrices, zeros elsewhere."""
        return self._triangle(x, k, lower=True)

    def triu(self, x: Array, /, *, k: int = 0) -> Array:
        """The elements on and above the diagonal k of matrices, zeros elsewhere."""
        return self._triangle(x, k, lower=False)

    def _triangle(self, x: Array, k: int, *, lower: bool) -> Array:
        node = array_of(x)
        if len(node.shape) < 2:
            raise UsageError(f"a triangle of {counted(len(node.shape), 'axis')}", help="two axes or more")
        rows = self._made(np.arange(node.shape[-2], dtype=np.int32).reshape(-1, 1), I32)
        columns = self._made(np.arange(node.shape[-1], dtype=np.int32), I32)
        inside = columns - k <= rows if lower else columns - k >= rows
        return Array(where(inside._node, node, False if node.dtype == BOOL else 0))
