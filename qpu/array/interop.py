"""Arrays beside NumPy's: ufuncs and functions of NumPy that arrays answer to, DLPack, kernels that take arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qpu.array.array import LATE, Array, provides
from qpu.array.current import current
from qpu.array.elementwise import FUNCTIONS
from qpu.array.operations import OPERATIONS
from qpu.buffers import Buffer, BufferView
from qpu.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qpu.array.node import Node

__all__ = ["array_function", "array_ufunc", "qpu_view", "restored", "to_dlpack"]

_UFUNCS: Final[dict[str, str]] = {
    **{row.ufunc or row.name: row.name for row in OPERATIONS.values() if row.ufunc != "-"},
    "true_divide": "divide",
    "fabs": "abs",
    "float_power": "pow",
    "conj": "conj",
    "mod": "remainder",
}
_REDUCTIONS: Final = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min", "logical_and": "all",
                      "logical_or": "any"}  # fmt: skip


def _first(values: Sequence[Any]) -> Array:
    for v in values:
        if isinstance(v, Array):
            return v
        if isinstance(v, list | tuple):
            found = next((x for x in v if isinstance(x, Array)), None)
            if found is not None:
                return found
    raise UsageError("no array of a device among the arguments", help="gpu.xp.asarray(x)")


def _taken(x: Any, like: Array) -> Any:
    """An operand as an array of the same device; numbers as they are."""
    if isinstance(x, np.ndarray):
        return like.__array_namespace__().asarray(x)
    return x.item() if isinstance(x, np.generic) else x


@provides("ufunc")
def array_ufunc(ufunc: Any, method: str, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """A ufunc of NumPy with arrays of a device among its operands."""
    options = dict(keywords)
    out = options.pop("out", None)
    if out is not None:
        out = out[0]
    like = _first([*inputs, *([] if out is None else [out])])
    xp = like.__array_namespace__()
    if method == "reduce" and ufunc.__name__ in _REDUCTIONS:
        options.setdefault("axis", 0)
        options = {k: v for k, v in options.items() if v is not None or k == "axis"}
        found = getattr(xp, _REDUCTIONS[ufunc.__name__])(_taken(inputs[0], like), **options)
    elif method == "__call__" and ufunc.__name__ == "matmul" and not options:
        found = xp.matmul(*(_taken(x, like) for x in inputs))
    elif method == "__call__" and ufunc.__name__ in _UFUNCS:
        where, dtype = options.pop("where", True), options.pop("dtype", None)
        if options:
            raise UsageError(f"np.{ufunc.__name__}(..., {', '.join(options)}=) of an array of a device",
                             help="allowed: dtype=, out=, where= with out=")  # fmt: skip
        given = [_taken(x, like) for x in inputs]
        if dtype is not None:
            given = [xp.astype(x, dtype, copy=False) if isinstance(x, Array) else x for x in given]
        found = FUNCTIONS[_UFUNCS[ufunc.__name__]](*given)
        if where is not True:
            if out is None:
                raise UsageError("where= without out=", help="xp.where(condition, a, b)")
            found = xp.where(_taken(where, like), found, out)
    else:
        return NotImplemented
    if out is None:
        return found
    if not isinstance(out, Array):
        raise UsageError(f"out is a {type(out).__name__}", help="an array of the device, or x.numpy()")
    out[...] = found
    return out


# -- functions of NumPy


def _concatenate(arrays: Any, axis: Any = 0, **options: Any) -> Any:
    like = _first([arrays])
    return like.__array_namespace__().concat([_taken(a, like) for a in arrays], axis=axis)


def _stack(arrays: Any, axis: int = 0, **options: Any) -> Any:
    like = _first([arrays])
    return like.__array_namespace__().stack([_taken(a, like) for a in arrays], axis=axis)


def _same(name: str) -> Callable[..., Any]:
    """The function of the namespace, with positional axes as NumPy has them."""

    def function(x: Any, axis: Any = None, **options: Any) -> Any:
        options = {k: v for k, v in options.items() if v is not None and v is not np._NoValue}
        if "ddof" in options:
            options["correction"] = options.pop("ddof")
        return getattr(x.__array_namespace__(), name)(x, axis=axis, **options)

    return function


def _plain(name: str) -> Callable[..., Any]:
    def function(*args: Any, **options: Any) -> Any:
        like = _first(args)
        return getattr(like.__array_namespace__(), name)(*(_taken(a, like) for a in args), **options)

    return function


def _like(name: str) -> Callable[..., Any]:
    def function(x: Array, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> Any:
        xp = x.__array_namespace__()
        return getattr(xp, name)(x.shape if shape is None else shape, dtype=x.dtype if dtype is None else dtype)

    return function


def _full_like(
    x: Array, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None
) -> Any:
    xp = x.__array_namespace__()
    return xp.full(x.shape if shape is None else shape, fill_value, dtype=x.dtype if dtype is None else dtype)


def _outer(a: Any, b: Any) -> Any:
    like = _first([a, b])
    xp = like.__array_namespace__()
    return xp.linalg.outer(*(xp.reshape(_taken(x, like), (-1,)) for x in (a, b)))


def _transpose(x: Array, axes: Any = None) -> Any:
    return x.__array_namespace__().permute_dims(x, tuple(range(x.ndim))[::-1] if axes is None else tuple(axes))


def _expand(x: Array, axis: Any) -> Any:
    return x.__array_namespace__().expand_dims(x, axis=axis)


def _squeeze(x: Array, axis: Any = None) -> Any:
    gone = tuple(n for n, m in enumerate(x.shape) if m == 1) if axis is None else axis
    return x.__array_namespace__().squeeze(x, gone)


def _dot(a: Any, b: Any) -> Any:
    like = _first([a, b])
    xp = like.__array_namespace__()
    a, b = _taken(a, like), _taken(b, like)
    if not isinstance(a, Array) or not isinstance(b, Array) or not a.ndim or not b.ndim:
        return a * b
    return xp.tensordot(a, b, axes=((a.ndim - 1,), (max(b.ndim - 2, 0),)))


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    like = _first([a, b])
    return like.__array_namespace__().tensordot(_taken(a, like), _taken(b, like), axes=axes)


_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "concatenate": _concatenate,
    "stack": _stack,
    "transpose": _transpose,
    "expand_dims": _expand,
    "squeeze": _squeeze,
    "dot": _dot,
    "tensordot": _tensordot,
    "empty_like": _like("empty"),
    "zeros_like": _like("zeros"),
    "ones_like": _like("ones"),
    "full_like": _full_like,
    "outer": _outer,
    "where": _plain("where"),
    "clip": _plain("clip"),
    "reshape": lambda x, shape=None, *more, **options: x.__array_namespace__().reshape(x, shape),
    "ravel": lambda x, order="C": x.__array_namespace__().reshape(x, (-1,)),
    "broadcast_to": lambda x, shape, subok=False: x.__array_namespace__().broadcast_to(x, shape),
    "moveaxis": _plain("moveaxis"),
    "roll": lambda x, shift, axis=None: x.__array_namespace__().roll(x, shift, axis=axis),
    "flip": lambda x, axis=None: x.__array_namespace__().flip(x, axis=axis),
    "take": lambda x, indices, axis=None, **o: x.__array_namespace__().take(x, indices, axis=axis),
    "tile": lambda x, reps: x.__array_namespace__().tile(x, reps),
    "repeat": lambda x, repeats, axis=None: x.__array_namespace__().repeat(x, repeats, axis=axis),
    "real": lambda x: x.real,
    "imag": lambda x: x.imag,
    "shape": lambda x: x.shape,
    "ndim": lambda x: x.ndim,
    "size": lambda x: x.size,
    "copy": lambda x, **o: x.__copy__(),
    "round": lambda x, decimals=0, out=None: x.__array_namespace__().round(x),
    "nonzero": _plain("nonzero"),
    **{name: _same(name) for name in ("sum", "prod", "min", "max", "mean", "std", "var", "any", "all", "argmin",
                                      "argmax", "count_nonzero")},
    "amin": _same("min"),
    "amax": _same("max"),
    "cumsum": _same("cumulative_sum"),
    "sort": lambda x, axis=-1, **o: x.__array_namespace__().sort(x, axis=axis),
    "argsort": lambda x, axis=-1, **o: x.__array_namespace__().argsort(x, axis=axis),
}  # fmt: skip
"""Functions of NumPy, by name, for arrays of a device."""


@provides("function")
def array_function(function: Any, types: Any, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """A function of NumPy with arrays of a device among its arguments."""
    found = _FUNCTIONS.get(function.__name__)
    if found is None or not getattr(function, "__module__", "numpy").startswith("numpy"):
        return NotImplemented
    return found(*args, **keywords)


# -- memory


def exposed(node: Node) -> None:
    """The memory is known outside from now on: it is not used again for other arrays."""
    storage = node.ready()
    storage.shared, storage.own = True, False


@provides("dlpack")
def to_dlpack(x: Array, stream: Any, max_version: Any, device: Any, copy: bool | None) -> Any:
    """A capsule of the array's memory, which stays valid while it is used. Raises: UsageError, BufferError."""
    if stream is not None:
        raise UsageError(f"stream = {stream!r}", help="the memory is the processor's: stream=None")
    if device is not None and tuple(int(n) for n in device) != (1, 0):
        raise BufferError(f"dl_device = {device}\n  help: (1, 0), the processor's memory")
    view: NDArray[Any] = x._node.view()
    options = {"max_version": max_version} if np.lib.NumpyVersion(np.__version__) >= "2.1.0" else {}
    if copy:
        return np.array(view).__dlpack__(**options)
    exposed(x._node)
    return view.__dlpack__(**options)


def qpu_view(x: Array, mode: str) -> Buffer | BufferView:
    """The array's memory for a kernel that reads ("in") or writes it."""
    node = x._node
    storage = node.ready()
    if mode != "in":
        storage.settle()
        storage.written(Everything(storage.memory))  # type: ignore[arg-type]  # waits as a run does
    buffer = storage.buffer
    if node.strides is None and not node.offset and buffer.shape == node.shape and buffer.dtype == node.dtype:
        return buffer
    strides = tuple(s * node.dtype.itemsize for s in node.steps)
    return BufferView(storage.buffer, node.offset, node.shape, node.dtype, strides)


LATE["view"] = qpu_view


class Everything:
    """What waits for all launches of a device."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def wait(self) -> None:
        """Wait."""
        self.memory.quiet()


@provides("restored")
def restored(data: NDArray[Any]) -> Array:
    """An array from a pickle: on the device of `qpu.cluster`'s worker, or the one that `use` named."""
    return current().xp.asarray(data)  # type: ignore[no-any-return]  # of the device's namespace
