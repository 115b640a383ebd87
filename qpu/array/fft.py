"""The `fft` extension of the namespace, by the transforms of the library."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from qpu.array import build
from qpu.array.array import Array
from qpu.array.dtypes import C64, F32, dtype_of
from qpu.array.interop import qpu_view
from qpu.array.manipulation import array_of, axes_of, axis_of, concat, moveaxis, roll
from qpu.array.node import Node, in_memory
from qpu.errors import UsageError, counted
from qpu.kernels import fft as library

if TYPE_CHECKING:
    from qpu.array.creation import Creation

__all__ = ["Fft"]

NORMS = ("backward", "ortho", "forward")


def _complex(x: Array) -> Node:
    node = array_of(x)
    if node.dtype.kind not in "fc":
        raise UsageError(f"a transform of {node.dtype.name}", help="write the cast: xp.astype(x, xp.complex64)")
    return node if node.dtype == C64 else build.cast(node, C64)


def _real(x: Array) -> Node:
    node = array_of(x)
    if node.dtype.kind != "f":
        raise UsageError(f"a transform of real numbers of {node.dtype.name}", help="xp.fft.fft, or a cast")
    return node if node.dtype == F32 else build.cast(node, F32)


def _length(n: Any) -> int:
    found = operator.index(n)
    if found < 1:
        raise UsageError(f"n = {n}", help="a length from 1")
    return found


def _fitted(node: Node, n: int, axis: int) -> Node:
    """The array cut, or filled up with zeros, to n elements along an axis."""
    have = node.shape[axis]
    if have == n:
        return node
    x = Array(node)
    if have > n:
        return x[(*[slice(None)] * axis, slice(0, n))]._node
    shape = (*node.shape[:axis], n - have, *node.shape[axis + 1 :])
    return concat([x, x.device.xp.zeros(shape, dtype=node.dtype)], axis=axis)._node


def _scaled(x: Array, n: int, norm: str, inverse: bool) -> Array:
    """The result with the factor of a norm: the library divides inverse transforms by n, and no other ones."""
    if norm not in NORMS:
        raise UsageError(f"norm = {norm!r}", help=f"allowed: {', '.join(NORMS)}")
    if norm == "backward":
        return x
    power = 0.5 if norm == "ortho" else 1.0
    found: Array = x * (n**power if inverse else n**-power)
    return found


def _run(function: Callable[..., Any], node: Node, shape: tuple[int, ...], dtype: Any, **options: Any) -> Array:
    memory: Any = node.memory
    out = memory.storage(shape, dtype)
    if 0 not in shape:
        function(qpu_view(Array(node), "in"), out.buffer, **options)
        memory.launches += 1
    return Array(in_memory(out, shape, dtype))


def _transform(x: Array, n: Any, axis: int, norm: str, inverse: bool) -> Array:
    node = _complex(x)
    at = axis_of(axis, len(node.shape))
    length = node.shape[at] if n is None else _length(n)
    node = _fitted(node, length, at)
    found = _run(library.ifft if inverse else library.fft, node, node.shape, C64, axis=at)
    return _scaled(found, length, norm, inverse)


class Fft:
    """Discrete Fourier transforms of float32 and complex64, of any length.

    n: elements along the axis, cut or filled up with zeros; norm: "backward" (inverse transforms are divided by n),
    "ortho" (both by the root of n), "forward". All raise UsageError.
    """

    __name__ = "qpu.array.fft"

    def __init__(self, namespace: Creation) -> None:
        self._namespace = namespace

    def fft(self, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
        """The transform along an axis; complex64."""
        return _transform(x, n, axis, norm, False)

    def ifft(self, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
        """The inverse transform along an axis; complex64."""
        return _transform(x, n, axis, norm, True)

    def fftn(self, x: Array, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Array:
        """The transform along several axes, all of them by default; s: elements along each."""
        return self._several(x, s, axes, norm, False)

    def ifftn(self, x: Array, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Array:
        """The inverse transform along several axes; see `fftn`."""
        return self._several(x, s, axes, norm, True)

    def _several(self, x: Array, s: Any, axes: Any, norm: str, inverse: bool) -> Array:
        for axis, n in self._places(x, s, axes):
            x = _transform(x, n, axis, norm, inverse)
        return x

    @staticmethod
    def _places(x: Array, s: Any, axes: Any) -> list[tuple[int, Any]]:
        ndim = array_of(x).shape.__len__()
        if axes is None:
            found = tuple(range(ndim)) if s is None else tuple(range(ndim - len(s), ndim))
        else:
            found = axes_of(tuple(axes), ndim)
        if s is not None and len(s) != len(found):
            raise UsageError(f"s = {s} for {counted(len(found), 'axis')}", help="one length for each axis")
        return list(zip(found, (None,) * len(found) if s is None else s, strict=True))

    def rfft(self, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
        """The first n // 2 + 1 numbers of the transform of real numbers; complex64."""
        node = _real(x)
        at = axis_of(axis, len(node.shape))
        length = node.shape[at] if n is None else _length(n)
        node = _fitted(node, length, at)
        last = moveaxis(Array(node), at, -1)._node if at != len(node.shape) - 1 else node
        found = _run(library.rfft, last, (*last.shape[:-1], length // 2 + 1), C64)
        found = _scaled(found, length, norm, False)
        return moveaxis(found, -1, at) if last is not node else found

    def irfft(self, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
        """n real numbers, 2 (m - 1) by default, whose transform begins with the m numbers of x; float32."""
        node = _complex(x)
        at = axis_of(axis, len(node.shape))
        length = 2 * (node.shape[at] - 1) if n is None else _length(n)
        node = _fitted(node, _length(length) // 2 + 1, at)
        last = moveaxis(Array(node), at, -1)._node if at != len(node.shape) - 1 else node
        found = _run(library.irfft, last, (*last.shape[:-1], length), F32)
        found = _scaled(found, length, norm, True)
        return moveaxis(found, -1, at) if last is not node else found

    def rfftn(self, x: Array, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Array:
        """The transform of real numbers along several axes; the last one as `rfft`."""
        *others, (axis, n) = self._places(x, s, axes)
        found = self.rfft(x, n=n, axis=axis, norm=norm)
        for axis, n in reversed(others):
            found = _transform(found, n, axis, norm, False)
        return found

    def irfftn(self, x: Array, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Array:
        """The inverse of `rfftn`."""
        *others, (axis, n) = self._places(x, s, axes)
        for other, length in others:
            x = _transform(x, length, other, norm, True)
        return self.irfft(x, n=n, axis=axis, norm=norm)

    def hfft(self, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
        """The transform of numbers with a real spectrum, of which x is the first half; float32."""
        node = _complex(x)
        at = axis_of(axis, len(node.shape))
        length = 2 * (node.shape[at] - 1) if n is None else _length(n)
        found = self.irfft(Array(build.unary("conj", node)), n=length, axis=at)
        whole: Array = found * float(length)
        return _scaled(whole, length, norm, False)

    def ihfft(self, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
        """The inverse of `hfft`; complex64."""
        node = _real(x)
        at = axis_of(axis, len(node.shape))
        length = node.shape[at] if n is None else _length(n)
        found = Array(build.unary("conj", self.rfft(Array(node), n=length, axis=at)._node))
        whole: Array = found * (1.0 / length)
        return _scaled(whole, length, norm, True)

    def fftfreq(self, n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Array:
        """The frequencies of a transform of n numbers that are d apart; float32."""
        return self._frequencies(np.fft.fftfreq(_length(n), d), dtype, device)

    def rfftfreq(self, n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Array:
        """The frequencies of `rfft` of n numbers that are d apart; float32."""
        return self._frequencies(np.fft.rfftfreq(_length(n), d), dtype, device)

    def _frequencies(self, values: Any, dtype: Any, device: Any) -> Array:
        return self._namespace.asarray(values, dtype=F32 if dtype is None else dtype_of(dtype), device=device)

    def fftshift(self, x: Array, /, *, axes: Any = None) -> Array:
        """Elements moved so that frequency 0 is in the middle of the axes."""
        places = axes_of(axes, array_of(x).shape.__len__())
        return roll(x, tuple(x.shape[a] // 2 for a in places), axis=places)

    def ifftshift(self, x: Array, /, *, axes: Any = None) -> Array:
        """The inverse of `fftshift`."""
        places = axes_of(axes, array_of(x).shape.__len__())
        return roll(x, tuple(-(x.shape[a] // 2) for a in places), axis=places)
