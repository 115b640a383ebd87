"""Arrays that are larger than the GPU's memory, block by block."""

from __future__ import annotations

import itertools
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qpu.array.array import Array
from qpu.errors import UsageError, counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qpu.device import Device

__all__ = ["map_blocks"]

BLOCK = 1 << 22  # bytes of a block where none is given: a launch of it ends long before any watchdog


def _per_axis(name: str, value: Any, ndim: int, least: int) -> tuple[int, ...]:
    try:
        found = tuple(operator.index(n) for n in value) if isinstance(value, tuple | list) else None
        found = (operator.index(value),) * ndim if found is None else found
    except TypeError:
        raise UsageError(f"{name} = {value!r}", help="an integer, or one for each axis") from None
    if len(found) != ndim or any(n < least for n in found):
        raise UsageError(
            f"{name} = {value!r} for {counted(ndim, 'axis')}", help=f"integers from {least}, one for each axis"
        )
    return found


def _default(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Blocks of whole rows of about BLOCK bytes."""
    block = list(shape)
    for axis in range(len(shape)):
        rest = itemsize
        for n in block[axis + 1 :]:
            rest *= n
        block[axis] = max(1, min(shape[axis], BLOCK // max(rest, 1)))
        if block[axis] > 1:
            break
    return tuple(block)


class _Bar:
    """A progress bar, which appears at once or when half a second is over, whether a block has ended or not."""

    def __init__(self, make: Callable[..., Any], total: int, at_once: bool) -> None:
        self.make, self.total, self.done = make, total, 0
        self.bar: Any = None
        self.lock = threading.Lock()
        self.timer = threading.Timer(0.0 if at_once else 0.5, self._show)
        self.timer.daemon = True
        if at_once:
            self._show()
        else:
            self.timer.start()

    def _show(self) -> None:
        with self.lock:
            if self.total:
                self.bar = self.make(total=self.total, initial=self.done, unit="block")

    def update(self) -> None:
        """One more block."""
        with self.lock:
            self.done += 1
            if self.bar is not None:
                self.bar.update()

    def close(self) -> None:
        """The last state stays."""
        self.timer.cancel()
        with self.lock:
            self.total = 0
            if self.bar is not None:
                self.bar.close()


def _bar(total: int, wanted: bool | None) -> _Bar | None:
    """A progress bar where there is tqdm and a terminal; None otherwise."""
    if wanted is False:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        if wanted:
            raise UsageError("progress=True without tqdm", help="pip install tqdm, or progress=None") from None
        return None
    return _Bar(tqdm if wanted else partial(tqdm, disable=None), total, bool(wanted))


def _places(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    axes = [[slice(a, min(a + b, n)) for a in range(0, n, b)] for n, b in zip(shape, block, strict=True)]
    return itertools.product(*axes)


def map_blocks(
    gpu: Device,
    f: Callable[..., Any],
    data: Any,
    *more: Any,
    block: Any = None,
    halo: Any = 0,
    out: NDArray[Any] | None = None,
    dtype: Any = None,
    progress: bool | None = None,
) -> NDArray[Any]:
    """f of each block of data that is in ordinary memory or in a file (np.memmap), joined to an array of its shape.

    f(x, ...) takes arrays of the device and returns one of the shape of x. more: further arrays of the same shape.
    block: extents of a block, by default rows of about 4 MiB. halo: elements that f sees beyond the block on both sides
    of each axis, repeated at the edges; what f gives for them is dropped. out: where the result goes, such as a memmap;
    progress: True for a bar, None for one when it takes more than half a second, tqdm is there and the output is a
    terminal, False for none.

    A block may be large: launches of many elements are cut, so that each ends before the watchdog of Linux asks.
    Ctrl-C stops between two blocks: `out` has the blocks so far, and the device's memory is released.
    Raises: UsageError, and what f raises.
    """
    arrays = [np.asanyarray(x) for x in (data, *more)]
    shape = arrays[0].shape
    if any(a.shape != shape for a in arrays):
        raise UsageError(f"shapes {', '.join(str(a.shape) for a in arrays)}", help="arrays of one shape")
    ndim = len(shape)
    if not ndim:
        raise UsageError("blocks of an array without axes", help="f(gpu.xp.asarray(x))")
    sizes = _default(shape, arrays[0].dtype.itemsize) if block is None else _per_axis("block", block, ndim, 1)
    edge = _per_axis("halo", halo, ndim, 0)
    if out is not None and out.shape != shape:
        raise UsageError(f"out of shape {out.shape} for data of shape {shape}", help="an array of the data's shape")
    xp = gpu.xp
    places = list(_places(shape, sizes))
    result: NDArray[Any] | None = out
    bar = _bar(len(places), progress)
    try:
        for place in places:
            inside = tuple(slice(h, h + s.stop - s.start) for h, s in zip(edge, place, strict=True))
            given = [xp.asarray(_with_edge(a, place, edge), dtype=dtype) for a in arrays]
            found = f(*given)
            if not isinstance(found, Array) or found.shape != given[0].shape:
                what = f"{found.shape}" if isinstance(found, Array) else type(found).__name__
                raise UsageError(f"f of a block of shape {given[0].shape} gave {what}", help="an array of that shape")
            values = (found[inside] if any(edge) else found).numpy()
            if result is None:
                result = np.empty(shape, values.dtype)
            result[place] = values
            if bar is not None:
                bar.update()
    finally:
        if bar is not None:
            bar.close()
    if result is None:
        result = np.empty(shape, np.float32 if dtype is None else dtype)
    return result


def _with_edge(a: NDArray[Any], place: tuple[slice, ...], edge: tuple[int, ...]) -> NDArray[Any]:
    """A block with its halo; what is outside of the array repeats its edge."""
    if not any(edge):
        return a[place]
    rows = [np.clip(np.arange(s.start - h, s.stop + h), 0, n - 1) for s, h, n in zip(place, edge, a.shape, strict=True)]
    return a[np.ix_(*rows)]  # type: ignore[no-any-return]  # of the device's namespace
