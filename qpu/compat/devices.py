"""What the `Driver` classes of the dialects share: the device they open, and one data area with arrays in it."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import numpy as np

from qpu.buffers import Buffer, BufferView
from qpu.core.arguments import whole
from qpu.core.isa import Isa
from qpu.device import Device, open_device
from qpu.errors import NoDeviceError, QpuError, UsageError

__all__ = ["Array", "BaseDriver", "DriverError", "words"]

ALIGNMENT = 64  # bytes; of each array
BOARDS = {Isa.VC4: "pi3", Isa.V3D42: "pi4", Isa.V3D71: "pi5"}


class DriverError(QpuError):
    """An old driver's error."""


def _open(isa: Isa) -> Device:
    """The GPU at hand if it has the instruction set, else an emulated board that has it.

    QPU_DEVICE names another one. Raises: UsageError when that has another instruction set.
    """
    name = os.environ.get("QPU_DEVICE") or "auto"
    if name != "auto":
        gpu = open_device(name)
        if gpu.isa is isa:
            return gpu
        gpu.close()
        raise UsageError(
            f"QPU_DEVICE={name} has {gpu.isa.label}, this program is for {isa.label}",
            help=f"set QPU_DEVICE={BOARDS[isa]}, or leave it unset",
        )
    try:
        gpu = open_device("hardware")
    except NoDeviceError as error:
        reason = str(error).splitlines()[0]
    else:
        if gpu.isa is isa:
            return gpu
        gpu.close()
        reason = f"the GPU here is {gpu.isa.label}"
    print(f"qpu: using an emulated {BOARDS[isa].replace('pi', 'Pi ')} ({reason})", file=sys.stderr)
    return open_device(BOARDS[isa])


class _Area:
    """The data area: one buffer, and where it lies for the CPU and the GPU."""

    def __init__(self, gpu: Device, size: int) -> None:
        self.buffer: Buffer = gpu.empty(size, np.uint8)
        self.bytes = self.buffer.array
        self.pointer: int = self.bytes.__array_interface__["data"][0]
        self.used = 0

    def take(self, size: int) -> int:
        """The offset of `size` more bytes. Raises: DriverError when the area is full."""
        start = -(-self.used // ALIGNMENT) * ALIGNMENT
        if start + size > self.buffer.nbytes:
            raise DriverError(
                f"the data area is full: {size} bytes asked, {self.buffer.nbytes - start} of {self.buffer.nbytes} left",
                help="make it larger: Driver(data_area_size=...)",
            )
        self.used = start + size
        return start

    def at(self, address: int) -> BufferView:
        """The rest of the area from a GPU address on, as words. Raises: UsageError."""
        offset = address - self.buffer.address
        if not 0 <= offset < self.buffer.nbytes or offset % 4:
            raise UsageError(
                f"uniforms at 0x{address:08x} are not in the data area", help="pass an address of an array of alloc()"
            )
        return self.buffer.view(offset, ((self.buffer.nbytes - offset) // 4,), np.uint32)


class Array(np.ndarray):
    """An array in the data area, with its GPU address. Slices are such arrays as well."""

    _area: _Area | None

    def __array_finalize__(self, origin: Any) -> None:
        self._area = getattr(origin, "_area", None)

    @property
    def address(self) -> int:
        """The GPU address of the first element. Raises: AttributeError for arrays outside the data area."""
        area = self._area
        offset = -1 if area is None else self.__array_interface__["data"][0] - area.pointer
        if area is None or not 0 <= offset <= area.buffer.nbytes:
            raise AttributeError("this array is not in the GPU's memory: it is a result of NumPy, not of alloc()")
        return area.buffer.address + offset

    def addresses(self) -> Any:
        """The GPU address of each element, an array of the same shape, uint32."""
        found = np.full(self.shape, self.address, np.int64)
        for axis, (length, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            found += (np.arange(length) * stride).reshape([-1 if i == axis else 1 for i in range(self.ndim)])
        return found.astype(np.uint32)


def words(values: Any) -> list[int]:
    """A row of uniforms as 32-bit words: integers by their low bits, floats as binary32."""
    flat = values if isinstance(values, np.ndarray) else np.asarray(list(values), dtype=object)
    if flat.dtype == np.float32:
        return [int(w) for w in np.ascontiguousarray(flat).view(np.uint32).ravel()]
    found = []
    for value in flat.ravel():
        if isinstance(value, (float, np.floating)):
            found.append(int.from_bytes(struct.pack("<f", value), "little"))
        else:
            found.append(int(value) & 0xFFFFFFFF)
    return found


class BaseDriver(AbstractContextManager["BaseDriver"]):
    """A device and its data area. data_area_size: bytes; other sizes of the old drivers are taken and not needed."""

    isa: Isa

    def __init__(self, *, data_area_size: int = 32 * 1024 * 1024, **unused: Any) -> None:
        self.gpu = _open(self.isa)
        try:
            self._area = _Area(self.gpu, data_area_size)
        except BaseException:
            self.gpu.close()
            raise

    def alloc(self, shape: int | Sequence[int], dtype: Any = np.float64, **named: Any) -> Array:
        """An array of `shape` and `dtype` in the data area. Raises: DriverError when the area is full."""
        kind = np.dtype(dtype)
        lengths = shape if isinstance(shape, (tuple, list, np.ndarray)) else (shape,)
        dims = tuple(whole("a length of shape", n) for n in lengths)
        size = int(np.prod(dims, dtype=np.int64)) * kind.itemsize
        start = self._area.take(max(1, size))
        found: Array = self._area.bytes[start : start + size].view(kind).reshape(dims).view(Array)
        found._area = self._area
        return found

    def copy(self, arr: Any) -> Array:
        """A copy of an array in the data area."""
        source = np.asarray(arr)
        found = self.alloc(source.shape, source.dtype)
        found[...] = source
        return found

    def array(self, *args: Any, **named: Any) -> Array:
        """np.array(...) in the data area."""
        named.pop("copy", None)
        return self.copy(np.array(*args, **named))

    def close(self) -> None:
        """Close the device; again is fine."""
        self.gpu.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
