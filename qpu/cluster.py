"""Arrays and kernels on the GPUs of several machines, scheduled by Dask (extra `cluster`).

Each worker process has one device. Chunks of a Dask array are arrays of the worker's device; they travel as bytes, and
kernels as source with their compiled programs. A block that silently became NumPy is an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from qpu.array import Array
from qpu.array.current import current, use
from qpu.device import open_device
from qpu.errors import UsageError, counted

if TYPE_CHECKING:
    from dask.array import Array as DaskArray
    from distributed import Client

__all__ = ["QpuWorker", "map_blocks", "map_overlap", "register", "setup", "to_numpy", "to_qpu"]


def _dask() -> Any:
    """`dask.array`, which knows our arrays. Raises: UsageError without Dask."""
    try:
        da: Any = import_module("dask.array")
    except ImportError as error:
        raise UsageError(f"Dask is missing: {error}", help='pip install "videocore-qpu[cluster]"') from None
    register()
    return da


class QpuWorker:
    """The plugin of a worker process: opens its device and says that it has one (`resources={"QPU": 1}`).

    devices: names of devices by worker name, or a list for workers that are numbered; by default QPU_DEVICE of the
    worker's machine, else its GPU.
    """

    name = "qpu"
    idempotent = True

    def __init__(self, devices: Mapping[Any, str] | Sequence[str] | None = None) -> None:
        self.devices = devices
        self.gpu: Any = None

    def _device(self, worker: Any) -> str | None:
        devices = self.devices
        if devices is None:
            return os.environ.get("QPU_DEVICE")
        if isinstance(devices, Mapping):
            return devices[worker.name]
        return devices[int(worker.name) % len(devices)]

    async def setup(self, worker: Any) -> None:
        """Called in the worker process."""
        if worker.state.nthreads != 1:
            message = f"worker {worker.name} has {counted(worker.state.nthreads, 'thread')}, and one device"
            raise UsageError(message, help="start workers with --nthreads 1")
        self.gpu = open_device(self._device(worker))
        use(self.gpu)
        register()
        await worker.set_resources(QPU=1)

    def teardown(self, worker: Any) -> None:
        """Called when the worker ends."""
        use(None)
        if self.gpu is not None:
            self.gpu.close()

    def transition(self, key: Any, start: str, finish: str, **keywords: Any) -> None:
        """Called for each step of each task."""


def setup(client: Client, devices: Mapping[Any, str] | Sequence[str] | None = None) -> None:
    """Give each worker of a cluster its device, those that come later, too.

    devices: see `QpuWorker`. Raises: what opening a device raises, UsageError without Dask.
    """
    _dask()
    client.register_plugin(_plugin(devices))


def _plugin(devices: Any) -> Any:
    """The plugin as Dask wants it: of its own class, which is made in each process."""
    base: Any = import_module("distributed.diagnostics.plugin").WorkerPlugin
    made: Any = type("QpuWorkerPlugin", (QpuWorker, base), {"__reduce__": lambda self: (_plugin, (self.devices,))})
    return made(devices)


# -- what Dask must know of arrays


_registered = False


def register() -> None:
    """Tell Dask that arrays of a device are chunks, and how they are joined and counted. Twice is fine."""
    global _registered
    if _registered:
        return
    chunk_types: Any = import_module("dask.array.chunk_types")
    dispatch: Any = import_module("dask.array.dispatch")
    chunk_types.register_chunk_type(Array)
    dispatch.concatenate_lookup.register(Array, _concatenate)
    dispatch.tensordot_lookup.register(Array, _tensordot)
    dispatch.divide_lookup.register(Array, _divide)
    dispatch.numel_lookup.register(Array, _numel)
    _registered = True


def _concatenate(arrays: Sequence[Any], axis: int = 0, **options: Any) -> Array:
    xp = current().xp
    found: Array = xp.concat([xp.asarray(a) for a in arrays], axis=axis)
    return found


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Array:
    xp = current().xp
    found: Array = xp.tensordot(xp.asarray(a), xp.asarray(b), axes=axes)
    return found


def _divide(a: Any, b: Any, dtype: Any = None) -> Array:
    xp = current().xp
    found: Array = xp.divide(xp.asarray(a), xp.asarray(b))
    return found if dtype is None else xp.astype(found, dtype, copy=False)


def _numel(x: Array, axis: Any = None, keepdims: bool = False, dtype: Any = None, **options: Any) -> Array:
    """How many elements each result of a reduction stands for."""
    axes = tuple(range(x.ndim)) if axis is None else tuple(a % x.ndim for a in np.atleast_1d(axis))
    count = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape) if keepdims or a not in axes)
    found: Array = current().xp.full(shape, count, dtype=np.float32 if dtype is None else dtype)
    return found


# -- arrays


def _meta(dtype: Any, ndim: int) -> Array:
    """An array without elements, by which Dask knows what chunks are."""
    found: Array = current().xp.zeros((0,) * ndim, dtype=dtype)
    return found


def _upload(block: Any) -> Array:
    found: Array = current().xp.asarray(block)
    return found


def _download(block: Any) -> Any:
    if not isinstance(block, Array):
        raise UsageError(f"a block is a {type(block).__name__}, not an array of a device",
                         help="qpu.cluster.to_qpu(x), and functions that keep its blocks on the device")  # fmt: skip
    return block.numpy()


def _checked(f: Callable[..., Any]) -> Callable[..., Any]:
    return _Checked(f)


class _Checked:
    """A function of blocks that must give arrays of the device."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f = f
        self.__name__ = getattr(f, "__name__", "f")

    def __call__(self, *blocks: Any, **keywords: Any) -> Array:
        found = self.f(*(_upload(b) if isinstance(b, np.ndarray) else b for b in blocks), **keywords)
        if not isinstance(found, Array):
            raise UsageError(f"{self.__name__} of a block gave a {type(found).__name__}",
                             help="keep it an array of the device: functions of x.__array_namespace__()")  # fmt: skip
        return found


def to_qpu(x: DaskArray) -> DaskArray:
    """The Dask array with chunks that are arrays of the workers' devices. Raises: UsageError for 64-bit dtypes."""
    da = _dask()
    meta = _meta(x.dtype, x.ndim)  # refuses what the device does not have
    made: DaskArray = da.map_blocks(_upload, x, dtype=x.dtype, meta=meta)
    return made


def to_numpy(x: DaskArray) -> DaskArray:
    """The Dask array with chunks of NumPy. A chunk that is NumPy already is an error when it is computed."""
    da = _dask()
    meta = np.empty((0,) * x.ndim, x.dtype)
    made: DaskArray = da.map_blocks(_download, x, dtype=x.dtype, meta=meta)
    return made


def map_blocks(x: DaskArray, f: Callable[..., Any], *more: Any, dtype: Any = None, **options: Any) -> DaskArray:
    """f of each block, on the device of the worker that has it: f(block, ...) gives an array of its shape.

    dtype: of the result, that of x by default; options: as of `dask.array.map_blocks`. Raises: UsageError; when it is
    computed what f raises, and UsageError where f gives something that is not on the device.
    """
    da = _dask()
    kind = x.dtype if dtype is None else np.dtype(dtype)
    meta = _meta(kind, x.ndim)
    made: DaskArray = da.map_blocks(_checked(f), x, *more, dtype=kind, meta=meta, **options)
    return made


def map_overlap(
    x: DaskArray, f: Callable[..., Any], depth: Any, *, boundary: Any = "nearest", **options: Any
) -> DaskArray:
    """As `map_blocks`, each block with `depth` elements of its neighbours around it, which are dropped afterwards."""
    da = _dask()
    options = {"depth": depth, "boundary": boundary, "dtype": x.dtype, "meta": _meta(x.dtype, x.ndim), **options}
    made: DaskArray = da.map_overlap(_checked(f), x, **options)
    return made
