"""Devices: opening a GPU, real or emulated, its memory, and launches of programs."""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TextIO, cast

import numpy as np
from numpy.typing import DTypeLike

from qpu.buffers import Buffer, BufferView, as_array
from qpu.core.arguments import seconds, whole
from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.drivers.base import Bo, CompletedFence, DeviceInfo, Driver, Fence, Job
from qpu.drivers.port import bounds_of, submitted
from qpu.errors import (
    DriverError,
    EmuFault,
    GpuTimeoutError,
    NoDeviceError,
    UsageError,
    brief,
    counted,
    keywords,
    suggest,
)
from qpu.launch import Launch, caller
from qpu.runtime.canary import wanted
from qpu.runtime.fences import Parts
from qpu.runtime.jobs import OBSERVERS, Shape, prepare
from qpu.runtime.loops import located
from qpu.runtime.pool import MemoryPool, Place
from qpu.runtime.takes import takes_at_most
from qpu.runtime.uniforms import Uniforms

if TYPE_CHECKING:
    from qpu.array.surface import Surface
    from qpu.debug.rehearse import Rehearsals
    from qpu.debug.trace import Trace
    from qpu.drivers.port import Port
    from qpu.emu.engine.machine import RunStats

__all__ = ["Buffer", "BufferView", "Device", "Launch", "Uniforms", "open_device"]

_users: Counter[int] = Counter()  # open devices by port: closing the last one shuts an emulated board down
_users_lock = threading.Lock()


class _Counting(Protocol):
    """A driver that can count hardware events."""

    def counters(self, names: Sequence[str]) -> AbstractContextManager[dict[str, int]]: ...


# -- devices

_OF_OTHERS = {  # keywords of launches in other libraries
    "n_threads": "pass the launch shape: vc4.Programs(n) on Pi 0-3, or one row of uniforms for each program",
    "thread": "pass the launch shape: v3d.Dispatch(workgroups=n)",
    "threads": "pass the launch shape: v3d.Dispatch(threads=2)",
    "workgroup": "pass the launch shape: v3d.Dispatch(workgroups=(x, y, z))",
    "workgroups": "pass the launch shape: v3d.Dispatch(workgroups=(x, y, z))",
    "local_invocation": "pass the launch shape: v3d.Dispatch(workgroup_size=x * y * z)",
    "wgs_per_sg": "pass the launch shape: v3d.Dispatch(workgroups_per_supergroup=n)",
    "timeout": "write timeout_s, in seconds",
    "timeout_sec": "write timeout_s, in seconds",
    "uniform": "write uniforms=",
    "code": "write program=",
}

_METHODS_OF_OTHERS = {  # methods of devices in other libraries
    "alloc": "gpu.empty(shape, dtype), or gpu.zeros",
    "copy": "gpu.array(data)",
    "program": "qpu.assemble(builder_function, isa=gpu.isa)",
    "execute": "gpu.run(program, uniforms)",
    "to_device": "gpu.array(data)",
    "malloc": "gpu.empty(shape, dtype)",
    "ones": "gpu.array(np.ones(shape, np.float32))",
    "sync": "launch.wait()",
    "synchronize": "launch.wait()",
}


class Device(AbstractContextManager["Device"]):
    """A GPU, real or emulated. Open one with `open_device`; close it or use it in a ``with`` block."""

    def __init__(self, driver: Driver, port: Port) -> None:
        self._port = port
        self._pool = MemoryPool(driver, driver.info.isa, bounds_of(port), canaries=wanted("QPU_CANARIES", driver.info))
        self._info = driver.info
        self._rehearsing = wanted("QPU_REHEARSE", driver.info)
        self._rehearsals: Rehearsals | None = None
        _devices[self._pool] = self
        with _users_lock:
            _users[id(port)] += 1

    def __getattr__(self, name: str) -> NoReturn:
        meant = _METHODS_OF_OTHERS.get(name) or suggest(name, [n for n in dir(Device) if n[0] != "_"], "gpu.{}")
        help = f"\n  help: {'write ' if name in _METHODS_OF_OTHERS else ''}{meant}" if meant else ""
        raise AttributeError(f"a Device has no {name!r}{help}", name=name, obj=self)

    # identity

    @property
    def info(self) -> DeviceInfo:
        """Board, instruction set, slices and QPUs, clock, adapter, node, emulated or not."""
        return self._info

    @property
    def isa(self) -> Isa:
        """The instruction set the device executes."""
        return self._info.isa

    @property
    def qpus(self) -> int:
        """Number of QPUs."""
        return self._info.qpus

    @property
    def emulated(self) -> bool:
        """True when the GPU is emulated."""
        return self._info.emulated is not None

    @property
    def port(self) -> Port:
        """Linux as this device's adapter sees it, for requests beyond launches, such as firmware properties."""
        return self._port

    @property
    def driver(self) -> Driver:
        """The adapter. Raises: UsageError when the device is closed or was inherited through fork."""
        return self._pool.driver

    def owns(self, memory: Buffer | BufferView) -> bool:
        """Whether a buffer, or a part of one, belongs to this device."""
        return isinstance(memory, Place) and memory.pool is self._pool

    # memory

    @brief
    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> Buffer:
        """A buffer of `shape` and `dtype` with zeros from Linux; it may have no elements.

        Raises: UsageError, DriverError (no memory).
        """
        lengths = shape if isinstance(shape, (tuple, list, np.ndarray)) else (shape,)
        dims = tuple(whole("a length of shape", n) for n in lengths)
        try:
            kind = np.dtype(dtype)
        except (TypeError, ValueError) as error:
            raise UsageError(f"dtype = {dtype!r}: {error}", help="pass numbers such as np.float32") from error
        if any(n < 0 for n in dims):
            raise UsageError(f"shape {dims} has a negative length", help="pass lengths of 0 or more")
        if kind.kind in "USMm":
            raise UsageError(f"dtype {kind}: the GPU has no text and no dates", help="pass numbers such as np.float32")
        if kind.hasobject or kind.itemsize == 0:
            raise UsageError(f"dtype {kind} has no fixed layout", help="pass numbers such as np.float32")
        size = int(np.prod(dims, dtype=object)) * kind.itemsize if dims else kind.itemsize
        if size >= 1 << 32:
            raise UsageError(f"{size} bytes exceed the GPU's 4 GiB of addresses", help="split the data")
        return self._pool.allocate(max(size, kind.itemsize), lambda bo: Buffer(self._pool, bo, dims, kind))

    @brief
    def zeros(self, shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> Buffer:
        """A buffer of `shape` and `dtype`, cleared here, whatever Linux returned."""
        buffer = self.empty(shape, dtype)
        buffer.array[...] = 0
        return buffer

    @brief
    def array(self, data: Any, dtype: DTypeLike | None = None) -> Buffer:
        """A buffer with a copy of `data` (anything np.asarray takes).

        dtype: default that of an array; of lists and numbers int32, uint32 or float32. The programs of the GPU handle
        32-bit words, so 64-bit data needs a conversion or its `dtype` spelled out. Raises: UsageError.
        """
        source = as_array(data, dtype)
        if dtype is None and source.dtype.name in _NARROW:
            source = _narrowed(data, source)
        kind = source.dtype if dtype is not None else source.dtype.newbyteorder("<")  # what the GPU reads
        buffer = self.empty(source.shape, kind)
        buffer.array[...] = source
        return buffer

    # arrays

    @property
    def xp(self) -> Surface:
        """The `qpu.array.Namespace` of the device: NumPy's surface, evaluated lazily in fused kernels."""
        found: Surface | None = self.__dict__.get("_xp")
        return found if found is not None else cast("Surface", import_module("qpu.array.namespace").namespace_of(self))

    @property
    def transfers(self) -> Any:
        """Copies of arrays between ordinary and device memory so far (`qpu.array.memory.Transfers`)."""
        return self.xp.transfers

    def map_blocks(self, f: Any, data: Any, *more: Any, **options: Any) -> Any:
        """f of blocks of data that is larger than the GPU's memory; see `qpu.array.blocks.map_blocks`."""
        return import_module("qpu.array.blocks").map_blocks(self, f, data, *more, **options)

    # launches

    @keywords(_OF_OTHERS)
    def submit(
        self,
        program: Code,
        uniforms: Uniforms = (),
        shape: Shape | None = None,
        *,
        timeout_s: float = 10.0,
        after: Sequence[Launch] = (),
        rehearse: bool | None = None,
    ) -> Launch:
        """Start a program and return at once.

        uniforms: the words of the uniform stream (see `qpu.runtime.uniforms.pack_uniforms`), or a buffer that holds
        them. On VideoCore IV a sequence of sequences (or a 2-D array) starts one program per row, each with its own
        stream. shape: a `qpu.v3d.Dispatch` (default: one workgroup of 16 items) or `qpu.vc4.Programs` (default: one
        program, or one per row of uniforms).
        timeout_s: limits the launch where the interface to Linux blocks (firmware mailbox: one second at most).
        after: launches of any device that must finish first (those of this device do anyway). When one of them failed,
        `wait` of this launch raises its error.
        rehearse: run the launch first on an emulated copy of the board, with copies of all buffers, under the
        sanitizer; only without a finding it reaches the device. None: as QPU_REHEARSE (0, 1) said when the device was
        opened, else for the first launch of a program with each set of argument shapes on hardware of VideoCore IV.
        Raises: UsageError before anything is submitted; EmuFault of the rehearsal; DriverError.
        """
        return self._launch(program, uniforms, shape, timeout_s, after, background=True, rehearse=rehearse)

    @keywords(_OF_OTHERS)
    def run(
        self,
        program: Code,
        uniforms: Uniforms = (),
        shape: Shape | None = None,
        *,
        timeout_s: float = 10.0,
        rehearse: bool | None = None,
    ) -> Launch:
        """Start a program and wait for its end. Arguments and errors: see `submit` and `Launch.wait`."""
        launch = self._launch(program, uniforms, shape, timeout_s, (), background=False, rehearse=rehearse)
        launch.wait(timeout_s)
        for observer in OBSERVERS:
            observer.finished()
        return launch

    @brief
    def debug(
        self,
        program: Code,
        uniforms: Uniforms = (),
        shape: Shape | None = None,
        *,
        commands: Iterable[str] | None = None,
        out: TextIO | None = None,
        timeout_s: float = 10.0,
    ) -> Launch:
        """As `run`, in the debugger: it stops at the first instruction and takes commands from the terminal.

        commands: instead of a terminal; after the last one the launch runs to its end. out: where output goes, default
        standard output. Raises: what `run` raises; UsageError on a real board; `qpu.debug.debugger.Quit`.
        """
        from qpu.debug.debugger import Debugger

        with Debugger(commands, out):
            return self.run(program, uniforms, shape, timeout_s=timeout_s)

    @brief
    def trace(
        self,
        program: Code,
        uniforms: Uniforms = (),
        shape: Shape | None = None,
        *,
        steps: int = 2000,
        threads: int = 4,
        timeout_s: float = 10.0,
    ) -> Trace:
        """As `run` on an emulated board, with every step kept: in a notebook a page with a slider.

        steps: of each thread, at most. threads: the first ones that begin. Raises: what `run` raises; UsageError on a
        real board.
        """
        from qpu.debug.trace import Trace

        with Trace(steps, threads) as found:
            self.run(program, uniforms, shape, timeout_s=timeout_s)
        return found

    def _launch(
        self,
        program: Code,
        uniforms: Uniforms,
        shape: Shape | None,
        timeout_s: float,
        after: Sequence[Launch],
        *,
        background: bool,
        rehearse: bool | None = None,
    ) -> Launch:
        pool = self._pool
        driver = pool.driver
        timeout_s = seconds("timeout_s", timeout_s, positive=True)
        if not isinstance(after, (tuple, list)) or not all(isinstance(e, Launch) for e in after):
            raise UsageError(f"after = {after!r}", help="pass a list of launches")
        scratch: list[Bo] = []
        fences: list[Fence] = []
        waits = [e.fence for e in after if e.pool is not pool and e.fence is not None]
        try:
            with pool.submission():
                given: list[int] = []
                jobs = prepare(pool, self._info, program, uniforms, shape, scratch, given)
                if given:
                    _count(program, max(given))
                self._rehearse(rehearse, program, jobs)
                for job in jobs:
                    for observer in OBSERVERS:
                        observer.submitted(pool, self._info, program, job)
                    fences.append(driver.submit(job, timeout_s, background=background, after=waits))
                    waits = []
        except GpuTimeoutError as error:  # the job may still run: its memory is not recycled
            run = submitted(self._port)
            stats = None if run is None else cast("RunStats | None", run.stats)
            raise located(error, program, [] if stats is None else stats.stopped) from error
        except EmuFault as fault:
            raise Launch(pool, program, CompletedFence(submitted(self._port)), scratch).finish(fault) from None
        except BaseException:
            if fences:  # the first parts are running: their memory stays until the device is closed
                pool.begin(Launch(pool, program, Parts(fences, self.now), scratch))
            else:
                pool.end(None, scratch)
            raise
        fence = fences[0] if len(fences) == 1 else Parts(fences, self.now)
        launch = Launch(pool, program, fence, scratch, after)
        pool.begin(launch)
        for observer in OBSERVERS:
            observer.launched(launch)
        return launch

    def _rehearse(self, asked: bool | None, program: Code, jobs: Sequence[Job]) -> None:
        """Run a launch on an emulated copy of the board first, where that is wanted."""
        if asked is not None and not isinstance(asked, bool):
            raise UsageError(f"rehearse = {asked!r}; allowed: True, False, None", help="None: as QPU_REHEARSE says")
        if not (self._rehearsing if asked is None else asked):
            return  # most launches: without loading the rehearsal
        from qpu.debug.rehearse import Rehearsals, check_spans, rehearse

        if self._rehearsals is None:
            self._rehearsals = Rehearsals()
        check_spans(self._pool, program, jobs)
        if asked:
            rehearse(self._pool, self._info, program, jobs)
        else:
            self._rehearsals.first(program, self._pool, self._info, jobs)

    # measurement

    @property
    def stats(self) -> RunStats | None:
        """Statistics of the last finished launch on an emulated board; None on a real one."""
        runs: Sequence[RunStats] | None = getattr(self._port, "runs", None)
        return runs[-1] if runs else None

    def now(self) -> float:
        """Seconds on the board's clock, emulated or real."""
        return self._port.monotonic()

    @contextmanager
    def counters(self, *names: str) -> Iterator[dict[str, int]]:
        """Count hardware events by name while the block runs; the dict is filled at its end.

        Names are those of Linux's driver (drivers.md section 3). Raises: UsageError for an unknown name; DriverError
        where Linux has no counters.
        """
        for name in names:
            if not isinstance(name, str):
                raise UsageError(f"counter name {name!r}", help="give names one by one: gpu.counters('a', 'b')")
        counting = getattr(self.driver, "counters", None)
        if counting is None:
            raise DriverError(f"{self.info.adapter} has no performance counters", help="see the guide, drivers")
        with cast("_Counting", self.driver).counters(names) as values:
            yield values

    # end

    def close(self) -> None:
        """Release everything without waiting for launches; idempotent."""
        if self._pool.closed:
            return
        ours = self._pool.usable  # after fork, the device is the parent's
        try:
            self._pool.close()
        finally:
            _devices.pop(self._pool, None)
            if ours:
                self._leave_port()

    def _leave_port(self) -> None:
        with _users_lock:
            _users[id(self._port)] -= 1
            last = not _users[id(self._port)]
            if last:
                del _users[id(self._port)]
        closing = getattr(self._port, "shutdown", None)
        if last and closing is not None:
            closing()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Device belongs to one process\n  help: open it in each process that uses it")

    def __repr__(self) -> str:
        return f"<Device {'closed' if self._pool.closed else self._info}>"

    def _repr_html_(self) -> str:
        from qpu.display.device import device_html

        return device_html(self._info, closed=self._pool.closed)


_NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}


_devices: dict[MemoryPool, Device] = {}  # those that are open


def device_of(memory: Buffer | BufferView | MemoryPool) -> Device:
    """The device that a buffer, or a memory pool, belongs to. Raises: UsageError when it is closed."""
    device = _devices.get(memory if isinstance(memory, MemoryPool) else memory.pool)
    if device is None:
        raise UsageError("the device of this buffer is closed", help="open it again with qpu.open_device()")
    return device


def _count(program: Code, given: int) -> None:
    """Warn of uniforms that a program cannot take."""
    most = takes_at_most(program)
    if most is not None and given > most:
        text = f"{counted(given, 'uniform')} given, but the program takes {f'at most {most}' if most else 'none'}"
        warnings.warn(f"{text}: the rest is ignored", stacklevel=caller())


def _narrowed(data: Any, source: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Lists and Python numbers as 32-bit data. Raises: UsageError for arrays of 64-bit data, with the cast to write."""
    kind = _NARROW[source.dtype.name]
    if not isinstance(data, (list, tuple, range, int, float, complex)) or hasattr(data, "dtype"):
        raise UsageError(
            f"data of dtype {source.dtype}, but programs of the GPU take 32-bit words",
            help=f"write x.astype(np.{kind}), or dtype=np.{source.dtype} for a buffer of 64-bit data",
        )
    if kind == "int32" and source.size and source.max() > 0x7FFF_FFFF and source.min() >= 0:
        kind = "uint32"
    if kind in ("int32", "uint32") and source.size:
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        if source.min() < low or source.max() > high:
            raise UsageError(f"data from {source.min()} to {source.max()} does not fit 32 bits", help="give a dtype")
    with np.errstate(over="ignore"):
        return source.astype(kind)


@brief
def open_device(
    device: str | None = None,
    *,
    port: Port | None = None,
    strict: bool | None = None,
    engine: str | None = None,
    host_limit_s: float | None = None,
) -> Device:
    """Open a GPU.

    device: ``auto`` (the real board; where its GPU cannot be used that board emulated, on other computers a Pi 5),
    ``hardware`` (real board or an error), ``pi0`` .. ``pi5`` with options such as ``pi5,slices=3`` (emulated), or the
    path of a node. Default: the environment variable QPU_DEVICE, else ``auto``.
    port: talk to Linux through this one instead (an EmuPort, a recording port). strict: emulated boards stop
    with EmuFault at the first fault (default: yes, unless QPU_EMU_STRICT=0). engine: ``auto``, ``reference`` or
    ``compiled`` (default: QPU_EMU_ENGINE, else auto). host_limit_s: an EmuFault ends an emulated job that takes more
    seconds of host time than this (default: QPU_EMU_HOST_LIMIT_S, else no limit).
    Raises: UsageError for a bad name, NoDeviceError with every reason when there is no usable GPU.
    """
    if device is None and os.environ.get("QPU_DEVICE"):
        try:
            return _named(os.environ["QPU_DEVICE"], port, strict, engine, host_limit_s)
        except UsageError as error:
            found, _, help = str(error).partition("\n  help: ")
            raise UsageError(f"QPU_DEVICE: {found}", help=help) from None
    return _named("auto" if device is None else device, port, strict, engine, host_limit_s)


def _named(
    name: object, port: Port | None, strict: bool | None, engine: str | None, host_limit_s: float | None
) -> Device:
    if not isinstance(name, str):
        raise UsageError(f"device = {name!r}", help="give a name such as 'auto' or 'pi5', or a path")
    if port is not None:
        return _open(port, name if "/" in name else "hardware")
    if name.startswith("pi"):
        return _emulated(name, strict, engine, host_limit_s)
    if name not in ("auto", "hardware") and "/" not in name:
        raise UsageError(
            f"unknown device {name!r}; allowed: auto, hardware, pi0 .. pi5, a path",
            help=_device_meant(name) or "write one of these; options follow a comma: pi5,slices=3",
        )
    from qpu.drivers.linux import LinuxPort
    from qpu.drivers.probe import detect_board

    real = LinuxPort()
    try:
        return _open(real, "hardware" if name == "auto" else name)
    except NoDeviceError as error:
        if name != "auto":
            raise
        board = detect_board(real)
        reason = str(error).splitlines()[0] if board.is_pi else "no Raspberry Pi here; qpu doctor says more"
        # Notebooks show stderr in a red box, as they show errors.
        where = sys.stdout if "ipykernel" in sys.modules else sys.stderr
        print(f"qpu: using an emulated Pi {board.emulated_by[2:]} ({reason})", file=where)
        return _emulated(board.emulated_by, strict, engine, host_limit_s)


def _device_meant(name: str) -> str | None:
    """What a wrong device name probably means: a board in other words, or a GPU in words of other libraries."""
    found = re.search(r"(?:pi|cm|zero|raspberrypi)[ _-]*([0-5])?", name.lower())
    if found is not None:
        return f"did you mean 'pi{found[1] or 0}'? That is an emulated board; the real one is 'hardware'"
    if re.match(r"(gpu|cuda|opencl|vulkan|v3d|vc4|videocore|qpu|hw|hard|real|dev)", name.lower()):
        return "did you mean 'hardware'? That is the GPU of this Raspberry Pi"
    return suggest(name.lower(), ("auto", "hardware"))


def _open(port: Port, name: str) -> Device:
    from qpu.drivers.probe import open_driver

    return Device(open_driver(port, name), port)


def _emulated(name: str, strict: bool | None, engine: str | None, host_limit_s: float | None) -> Device:
    from qpu.emu.boards import parse_board
    from qpu.emu.engines import require, strict_by_default
    from qpu.emu.port import EmuPort

    chosen = engine or os.environ.get("QPU_EMU_ENGINE", "auto")
    board = parse_board(name)
    require(chosen, board.isa)
    if strict is None:
        strict = strict_by_default(True)
    port = EmuPort(board, strict=strict, engine=chosen, host_limit_s=host_limit_s)
    try:
        return _open(port, "hardware")
    except BaseException:
        port.shutdown()
        raise
