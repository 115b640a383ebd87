"""The array object: NumPy's surface on device memory, evaluated when its values are wanted."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from qpu.array.build import binary, copied, unary
from qpu.array.dtypes import NpDType
from qpu.array.fuse import write
from qpu.array.node import Node
from qpu.device import Device
from qpu.errors import UsageError, counted

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from qpu.array.memory import DeviceMemory
    from qpu.buffers import Buffer

__all__ = ["LATE", "VERSIONS", "Array", "provides"]

_F = TypeVar("_F", bound=Callable[..., Any])

VERSIONS: Final = ("2021.12", "2022.12", "2023.12")
"""Versions of the standard."""

LATE: Final[dict[str, Callable[..., Any]]] = {}
"""What methods of arrays call in modules that are made of arrays; these put it here when the namespace is loaded."""


def provides(name: str) -> Callable[[_F], _F]:
    """Decorator: the function is what methods of arrays call by that name."""

    def keep(function: _F) -> _F:
        LATE[name] = function
        return function

    return keep


def _two(name: str) -> Callable[[Array, Any], Any]:
    def operator(self: Array, other: Any) -> Any:
        if other.__class__ is Array:
            return Array(binary(name, self._node, other._node))
        if isinstance(other, numbers.Number | np.bool_):
            return Array(binary(name, self._node, other))
        return NotImplemented

    operator.__name__ = name
    return operator


def _reflected(name: str) -> Callable[[Array, Any], Any]:
    def operator(self: Array, other: Any) -> Any:
        if isinstance(other, numbers.Number | np.bool_):
            return Array(binary(name, other, self._node))
        return NotImplemented

    return operator


def _in_place(name: str) -> Callable[[Array, Any], Any]:
    def operator(self: Array, other: Any) -> Any:
        """The array has the new values; views of it keep the old ones until it was in memory."""
        found = getattr(self, name)(other)
        if found is NotImplemented:
            return NotImplemented
        if found.dtype != self.dtype or found.shape != self.shape:
            raise UsageError(
                f"in place: {self.dtype.name}{list(self.shape)} cannot hold {found.dtype.name}{list(found.shape)}",
                help="write x = x + y, or cast the other operand",
            )
        self._write(found._node)
        return self

    return operator


class Array:
    """An array on a device: of `gpu.xp`, which makes them. Operators build expressions; values are computed when they
    are wanted: by `numpy()`, `float(x)`, a kernel that takes the array, writing to it, or `evaluate()`.
    """

    __slots__ = ("__weakref__", "_node")
    __array_priority__ = 1000

    def __init__(self, node: Node) -> None:
        if not isinstance(node, Node):
            raise UsageError("Array is not made from data", help="gpu.xp.asarray(data)")
        self._node = node

    # -- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of the axes."""
        return self._node.shape

    @property
    def dtype(self) -> NpDType:
        """The dtype, one of the namespace."""
        return self._node.dtype

    @property
    def ndim(self) -> int:
        """How many axes."""
        return len(self._node.shape)

    @property
    def size(self) -> int:
        """How many elements."""
        return self._node.size

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._node.size * self._node.dtype.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(self._node.dtype.itemsize)

    @property
    def device(self) -> Device:
        """The device that holds it."""
        return self._memory.gpu

    @property
    def _memory(self) -> DeviceMemory:
        return self._node.memory  # type: ignore[return-value]  # the only memory there is

    @property
    def _xp(self) -> Any:
        return self._memory.gpu.xp

    @property
    def T(self) -> Array:
        """The transpose of a matrix. Raises: UsageError for other numbers of axes."""
        if self.ndim != 2:
            raise UsageError(f"x.T of {counted(self.ndim, 'axis')}", help="x.mT, or xp.permute_dims(x, axes)")
        return self.mT

    @property
    def mT(self) -> Array:
        """The transpose of the last two axes. Raises: UsageError below two axes."""
        return self._xp.matrix_transpose(self)  # type: ignore[no-any-return]  # of the device's namespace

    @property
    def real(self) -> Array:
        """The real part."""
        return Array(unary("real", self._node))

    @property
    def imag(self) -> Array:
        """The imaginary part of c64. Raises: UsageError for other dtypes."""
        return Array(unary("imag", self._node))

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """The namespace of the array's device. Raises: UsageError for a version of the standard that it is not."""
        if api_version is not None and api_version not in VERSIONS:
            raise UsageError(f"api_version = {api_version!r}", help=f"allowed: {', '.join(VERSIONS)}")
        return self._xp

    def to_device(self, device: Any, /, *, stream: Any = None) -> Array:
        """The array on another device: a copy, unless it is there. Raises: UsageError."""
        if stream is not None:
            raise UsageError(f"stream = {stream!r}", help="there are no streams: pass None")
        if device is self.device:
            return self
        if not isinstance(device, Device):
            raise UsageError(f"device = {device!r}", help="pass a device that qpu.open_device() gave")
        return device.xp.asarray(self.numpy())  # type: ignore[no-any-return]  # an array

    # -- values

    def evaluate(self) -> Array:
        """Compute the values now, if they are not yet; the array itself. Raises: what a launch raises."""
        self._node.ready().wait()
        return self

    def numpy(self) -> NDArray[Any]:
        """A copy in ordinary memory, read in one piece."""
        view = self._node.view()
        _ = self.device.driver  # raises when the device is closed
        transfers = self._memory.transfers
        transfers.downloads += 1
        transfers.bytes_down += view.nbytes
        return np.array(view)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            view = self._node.view()
            return view if dtype is None else view.astype(dtype, copy=False)
        found = self.numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    @property
    def buffer(self) -> Buffer:
        """The values as a buffer in C order, for `gpu.run` and kernels; a view is copied into one of its own."""
        node = self._dense()
        assert node.storage is not None
        node.storage.wait()
        node.storage.shared, node.storage.own = True, False
        return node.storage.buffer

    def _dense(self) -> Node:
        """The node in memory that fills a buffer of its own shape and dtype."""
        node = self._node
        storage = node.ready()
        buffer = storage.buffer
        if node.strides is not None or node.offset or buffer.shape != node.shape or buffer.dtype != node.dtype:
            node = self._node = copied(node)
            node.ready()
        return node

    def item(self) -> Any:
        """The one element as a Python number. Raises: UsageError for more or fewer."""
        if self.size != 1:
            raise UsageError(f"{counted(self.size, 'element')} as one number", help="index one of them, or reduce them")
        return self.numpy().item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return self.numpy().tolist()

    def __bool__(self) -> bool:
        self._scalar("bool")
        return bool(self.item())

    def __int__(self) -> int:
        self._scalar("int")
        return int(self.item())

    def __float__(self) -> float:
        self._scalar("float")
        return float(self.item())

    def __complex__(self) -> complex:
        self._scalar("complex")
        return complex(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.shape:
            raise TypeError(f"{self.dtype.name}{list(self.shape)} as an index\n  help: an integer array of no axes")
        return int(self.item())

    def _scalar(self, what: str) -> None:
        if self.size != 1:
            raise UsageError(
                f"{what}() of an array of shape {self.shape}", help="reduce it first: xp.any(x), xp.all(x), xp.sum(x)"
            )

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes\n  help: x.size")
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        if not self.shape:
            raise TypeError("iteration over an array without axes\n  help: x.item()")
        return (self[i] for i in range(self.shape[0]))

    def __contains__(self, value: Any) -> bool:
        return bool(self._xp.any(self == value))

    # -- indexing

    def __getitem__(self, key: Any, /) -> Array:
        """A view for integers, slices, None and ...; a copy for arrays of truth values or integers."""
        return LATE["get"](self, key)  # type: ignore[no-any-return]  # of the device's namespace

    def __setitem__(self, key: Any, value: Any, /) -> None:
        """Write into the array; views of it see it. Raises: UsageError for what does not fit."""
        LATE["put"](self, key, value)

    def _write(self, value: Node) -> None:
        """Write a value of the same shape and dtype into the memory of the array."""
        node = self._node
        if node.op or (node.storage is not None and not node.storage.shared):  # no view sees the memory
            self._node = value
            return
        node.ready()
        write(self._memory, node, value)

    # -- operators

    __add__, __radd__, __iadd__ = _two("add"), _reflected("add"), _in_place("__add__")
    __sub__, __rsub__, __isub__ = _two("subtract"), _reflected("subtract"), _in_place("__sub__")
    __mul__, __rmul__, __imul__ = _two("multiply"), _reflected("multiply"), _in_place("__mul__")
    __truediv__, __rtruediv__, __itruediv__ = _two("divide"), _reflected("divide"), _in_place("__truediv__")
    __floordiv__, __rfloordiv__ = _two("floor_divide"), _reflected("floor_divide")
    __ifloordiv__ = _in_place("__floordiv__")
    __mod__, __rmod__, __imod__ = _two("remainder"), _reflected("remainder"), _in_place("__mod__")
    __pow__, __rpow__, __ipow__ = _two("pow"), _reflected("pow"), _in_place("__pow__")
    __and__, __rand__, __iand__ = _two("bitwise_and"), _reflected("bitwise_and"), _in_place("__and__")
    __or__, __ror__, __ior__ = _two("bitwise_or"), _reflected("bitwise_or"), _in_place("__or__")
    __xor__, __rxor__, __ixor__ = _two("bitwise_xor"), _reflected("bitwise_xor"), _in_place("__xor__")
    __lshift__, __rlshift__ = _two("bitwise_left_shift"), _reflected("bitwise_left_shift")
    __rshift__, __rrshift__ = _two("bitwise_right_shift"), _reflected("bitwise_right_shift")
    __ilshift__, __irshift__ = _in_place("__lshift__"), _in_place("__rshift__")
    __eq__ = _two("equal")
    __ne__ = _two("not_equal")
    __lt__, __le__ = _two("less"), _two("less_equal")
    __gt__, __ge__ = _two("greater"), _two("greater_equal")
    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    def __neg__(self) -> Array:
        return Array(unary("negative", self._node))

    def __pos__(self) -> Array:
        return Array(unary("positive", self._node))

    def __abs__(self) -> Array:
        return Array(unary("abs", self._node))

    def __invert__(self) -> Array:
        return Array(unary("bitwise_invert", self._node))

    def __matmul__(self, other: Any) -> Any:
        if other.__class__ is not Array:
            return NotImplemented
        return self._xp.matmul(self, other)

    def __imatmul__(self, other: Any) -> Any:
        return _in_place("__matmul__")(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return NotImplemented

    # -- methods that NumPy's arrays have, too

    def astype(self, dtype: Any, *, copy: bool = True) -> Array:
        """As `xp.astype`."""
        return self._xp.astype(self, dtype, copy=copy)  # type: ignore[no-any-return]  # of the device's namespace

    def reshape(self, *shape: Any) -> Array:
        """As `xp.reshape`; the extents as one tuple or one by one."""
        return self._xp.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)  # type: ignore[no-any-return]  # of the device's namespace

    def __getattr__(self, name: str) -> Any:
        return LATE["method"](self, name)

    # -- interchange

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        return LATE["ufunc"](ufunc, method, inputs, keywords)

    def __array_function__(self, function: Any, types: Any, args: Any, keywords: Any) -> Any:
        return LATE["function"](function, types, args, keywords)

    def __dlpack__(
        self,
        /,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule of the memory, zero copy unless copy is True. Raises: UsageError, BufferError."""
        return LATE["dlpack"](self, stream, max_version, dl_device, copy)

    def __qpu_view__(self, mode: str) -> Any:
        return LATE["view"](self, mode)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # the processor's memory: CPU and GPU share it

    # -- reports

    def explain(self) -> str:
        """The kernels that computing the array would launch, and what they cost."""
        return LATE["explain"](self)  # type: ignore[no-any-return]  # of the device's namespace

    def __repr__(self) -> str:
        return LATE["text"](self)  # type: ignore[no-any-return]  # of the device's namespace

    def _repr_html_(self) -> str:
        return LATE["html"](self)  # type: ignore[no-any-return]  # of the device's namespace

    def __copy__(self) -> Array:
        return Array(copied(self._node))

    def __deepcopy__(self, _: Any) -> Array:
        return self.__copy__()

    def __reduce__(self) -> Any:
        return LATE["restored"], (self.numpy(),)
