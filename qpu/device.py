"""Devices, buffers and launches: where programs of an instruction set meet a driver."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import numpy as np
from numpy.typing import DTypeLike

from qpu.buffers import Buffer, BufferView, Uniforms, close_bo, pack_uniforms
from qpu.core.isa import Isa
from qpu.core.program import Program
from qpu.drivers.base import Bo, CsdJob, DeviceInfo, Driver, Fence, QpuJob
from qpu.errors import DriverError, EmuFault, NoDeviceError, UsageError

if TYPE_CHECKING:
    from qpu.drivers.port import Port
    from qpu.emu.machine import RunStats

__all__ = ["Buffer", "BufferView", "Device", "Launch", "Uniforms", "open_device", "pack_uniforms"]

MAX_GROUPS = 65535  # per dimension (drivers.md section 2)
MAX_GROUP_ITEMS = 256
MAX_SUPERGROUP_ID = 63  # six bits of CFG3
PREFETCH_SLACK = 512  # instruction fetch runs past the end of a program (v3d.md 8.3)


class _Counting(Protocol):
    """A driver that can count hardware events."""

    def counters(self, names: Sequence[str]) -> AbstractContextManager[dict[str, int]]: ...


# -- launches


class Launch:
    """A submitted job: `wait`, `poll`, or `await` it. Its buffers stay alive until it is done."""

    __slots__ = ("_device", "_fence", "_keep", "_lock", "_program", "_stats", "error")

    def __init__(self, device: Device, program: Program, fence: Fence, keep: Sequence[Bo]) -> None:
        self._device = device
        self._program = program
        self._fence: Fence | None = fence
        self._keep = list(keep)
        self._lock = threading.Lock()
        self._stats: RunStats | None = None
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        """True when the job is known to have ended, well or not."""
        return self._fence is None

    @property
    def stats(self) -> RunStats | None:
        """Statistics of the emulation once the job is done; None on a real board."""
        return self._stats

    def poll(self) -> bool:
        """True when the job has ended; never blocks for long."""
        with self._lock:
            if self._fence is None:
                return True
            try:
                ended = self._fence.poll()
            except EmuFault as fault:
                self._finish(fault)
                raise self._located(fault) from None
            if ended:
                self._settle(0.0)
            return ended

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the end.

        timeout_s: emulated or real seconds; None waits as long as it takes.
        Raises: GpuTimeoutError (the job may still run; wait again), GpuResetError, EmuFault.
        """
        with self._lock:
            if self._fence is None:
                if self.error is not None:
                    raise self.error
                return
            self._settle(timeout_s)

    def _settle(self, timeout_s: float | None) -> None:
        fence = self._fence
        assert fence is not None
        try:
            fence.wait(timeout_s)
        except TimeoutError:
            raise  # not over: buffers stay alive
        except EmuFault as fault:
            located = self._located(fault)
            self._finish(located)
            raise located from None
        except DriverError as error:
            self._finish(error)
            raise
        self._finish(None)

    def _finish(self, error: BaseException | None) -> None:
        self.error = error
        self._fence = None
        self._stats = self._device.latest_stats()
        for bo in self._keep:
            self._device.recycle(bo)
        self._keep.clear()
        self._device.retire(self)

    def _located(self, fault: EmuFault) -> EmuFault:
        place = fault.place
        if place.loc is not None or place.instruction is None:
            return fault
        loc = self._program.loc(place.instruction)
        return fault if loc is None else EmuFault(fault.rule, fault.message, replace(place, loc=loc))

    def __await__(self) -> Generator[Any, None, None]:
        import asyncio

        return asyncio.get_running_loop().run_in_executor(None, self.wait).__await__()

    def __repr__(self) -> str:
        return f"<Launch of {self._program!r}, {'done' if self.done else 'running'}>"


# -- devices


class Device(AbstractContextManager["Device"]):
    """A GPU, real or emulated. Open one with `open_device`; close it or use it in a ``with`` block."""

    def __init__(self, driver: Driver, port: Port) -> None:
        self._driver: Driver | None = driver
        self._port = port
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()
        self._bos: dict[int, Bo] = {}
        self._code: dict[int, tuple[weakref.ref[Program], Bo]] = {}
        self._idle: list[Bo] = []
        self._lingering: list[Bo] = []  # closed buffers that ndarrays still refer to
        self._running: set[Launch] = set()
        self._info = driver.info

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
        """True when no real GPU is behind this device."""
        return self._info.emulated is not None

    @property
    def port(self) -> Port:
        """The kernel as this device's adapter sees it: for what goes beyond launches, such as firmware properties."""
        return self._port

    @property
    def driver(self) -> Driver:
        """The adapter. Raises: UsageError when the device is closed or was inherited through fork."""
        self.check_usable()
        assert self._driver is not None
        return self._driver

    def check_usable(self) -> None:
        """Raise UsageError when the device is closed, or belongs to the parent of a forked process."""
        if self._driver is None:
            raise UsageError("this device is closed; open it again with qpu.open_device()")
        if os.getpid() != self._pid:
            raise UsageError(
                "this device was opened before fork(); open it in the child, or use the spawn start method"
            )

    # memory

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> Buffer:
        """A buffer of `shape` and `dtype` with zeros from the kernel. Raises: UsageError, DriverError (no memory)."""
        dims = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
        kind = np.dtype(dtype)
        if any(n < 0 for n in dims):
            raise UsageError(f"shape {dims} has a negative length")
        if kind.hasobject or kind.itemsize == 0:
            raise UsageError(f"dtype {kind} has no fixed layout; use numbers")
        size = int(np.prod(dims, dtype=object)) * kind.itemsize if dims else kind.itemsize
        if size == 0:
            raise UsageError(f"shape {dims} holds nothing; a buffer needs at least one element")
        if size >= 1 << 32:
            raise UsageError(f"{size} bytes exceed the GPU's 4 GiB of addresses")
        with self._lock:
            self._tidy()
            bo = self.driver.alloc(size)
            try:
                buffer = Buffer(self, bo, dims, kind)
            except BaseException:
                close_bo(bo)
                raise
            self._buffers.add(buffer)
            self._bos[id(buffer)] = bo
            weakref.finalize(buffer, self._drop, id(buffer)).atexit = False
            return buffer

    def zeros(self, shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> Buffer:
        """As `empty`, and zero for certain."""
        buffer = self.empty(shape, dtype)
        buffer.array[...] = 0
        return buffer

    def array(self, data: Any, dtype: DTypeLike | None = None) -> Buffer:
        """A buffer with a copy of `data` (anything np.asarray takes)."""
        source = np.asarray(data, dtype)
        buffer = self.empty(source.shape, source.dtype)
        buffer.array[...] = source
        return buffer

    def forget(self, buffer: Buffer, bo: Bo) -> None:
        """Called by a buffer that closes."""
        with self._lock:
            self._buffers.discard(buffer)
            self._bos.pop(id(buffer), None)
            self._return(bo)

    def _drop(self, key: int) -> None:
        """A buffer was garbage-collected. Its ndarray may still be about to go: `_return` tries again later."""
        bo = self._bos.pop(key, None)
        if bo is not None and self._driver is not None and os.getpid() == self._pid:
            self._return(bo)

    def _return(self, bo: Bo) -> None:
        if not close_bo(bo):
            self._lingering.append(bo)

    def _tidy(self) -> None:
        """Close what could not be closed before because ndarrays referred to it."""
        self._lingering = [bo for bo in self._lingering if not close_bo(bo)]

    # programs

    def load(self, program: Program) -> int:
        """GPU address of the program's code; uploads it on first use. Raises: UsageError for the wrong ISA."""
        return self._upload(program).address

    def _upload(self, program: Program) -> Bo:
        if not isinstance(program, Program):
            raise UsageError(f"{type(program).__name__} is no Program; make one with qpu.assemble()")
        if program.isa is not self.isa:
            raise UsageError(
                f"a program for {program.isa.label} cannot run on {self.isa.label}; assemble it for {self.isa}"
            )
        if not len(program):
            raise UsageError("the program is empty")
        with self._lock:
            known = self._code.get(id(program))
            if known is not None and known[0]() is program:
                return known[1]
            data = program.data
            bo = self.driver.alloc(len(data) + PREFETCH_SLACK)
            bo.view[: len(data)] = data
            key = id(program)
            self._code[key] = (weakref.ref(program, lambda _: self._unload(key)), bo)
            return bo

    def _unload(self, key: int) -> None:
        known = self._code.pop(key, None)
        if known is not None and self._driver is not None and os.getpid() == self._pid and not self._running:
            close_bo(known[1])

    def _scratch(self, size: int) -> Bo:
        with self._lock:
            for i, bo in enumerate(self._idle):
                if bo.size >= size:
                    return self._idle.pop(i)
        return self.driver.alloc(max(size, 4096))

    def recycle(self, bo: Bo) -> None:
        """Called by a launch that is over."""
        with self._lock:
            if self._driver is None:
                return
            if len(self._idle) < 8:
                self._idle.append(bo)
            else:
                close_bo(bo)

    def retire(self, launch: Launch) -> None:
        """Called by a launch that is over."""
        with self._lock:
            self._running.discard(launch)

    # launches

    def submit(
        self,
        program: Program,
        uniforms: Uniforms | Buffer | BufferView = (),
        *,
        workgroups: int | tuple[int, int, int] | None = None,
        workgroup_size: int | None = None,
        workgroups_per_supergroup: int | None = None,
        max_supergroup_id: int | None = None,
        threads: int | None = None,
        single_segment: bool | None = None,
        qpus: int | None = None,
        streams: Sequence[Buffer | BufferView] | None = None,
        timeout_s: float = 10.0,
        after: Sequence[Launch] = (),
    ) -> Launch:
        """Start a program and return at once where the kernel interface allows it.

        uniforms: the words of the uniform stream (see `pack_uniforms`), or a buffer that holds them. On VideoCore IV
        a sequence of sequences (or a 2-D array) starts one program per row, each with its own stream; a flat one
        starts `qpus` programs (default 1) that share it.

        V3D only: workgroups (counts in x, y, z; default 1), workgroup_size (items, 1..256, default 16),
        workgroups_per_supergroup (1..16, default 1), max_supergroup_id (0..63, default 63: as many supergroups in
        flight as there is room for; a program that uses shared-memory slots says 0, because their numbering across
        supergroups is not known), threads (per QPU, 2 or 4, default 4), single_segment.
        VideoCore IV only: qpus; streams (uniform streams that already lie in device memory, one per program).

        after: launches that must end first. Launches of one device run in order anyway; those of other devices are
        waited for here.
        Raises: UsageError before anything is submitted; DriverError.
        """
        driver = self.driver
        for earlier in after:
            if earlier._device is not self:
                earlier.wait(timeout_s)
        if self.isa is Isa.VC4:
            foreign = {
                "workgroups": workgroups,
                "workgroup_size": workgroup_size,
                "workgroups_per_supergroup": workgroups_per_supergroup,
                "max_supergroup_id": max_supergroup_id,
                "threads": threads,
                "single_segment": single_segment,
            }
            _refuse(foreign, "V3D", self.isa)
            count, rows = self._rows(uniforms, qpus, streams)
        else:
            _refuse({"qpus": qpus, "streams": streams}, "VideoCore IV", self.isa)
            groups = _triple(workgroups)
            size = 16 if workgroup_size is None else workgroup_size
            per_super = 1 if workgroups_per_supergroup is None else workgroups_per_supergroup
            ways = 4 if threads is None else threads
            _within("workgroup_size", size, 1, MAX_GROUP_ITEMS)
            _within("workgroups_per_supergroup", per_super, 1, 16)
            top = MAX_SUPERGROUP_ID if max_supergroup_id is None else max_supergroup_id
            _within("max_supergroup_id", top, 0, MAX_SUPERGROUP_ID)
            if ways not in (2, 4):
                raise UsageError(f"threads = {ways}; V3D runs 2 or 4 threads per QPU")
        if timeout_s <= 0:
            raise UsageError(f"timeout_s = {timeout_s}; it must be positive")
        code = self._upload(program)
        keep: list[Bo] = []
        job: QpuJob | CsdJob
        try:
            if self.isa is Isa.VC4:
                addresses = self._stream(rows, keep)
                with self._lock:
                    bos = (code, *keep, *self._bos.values())
                job = QpuJob(tuple((addresses[i % len(addresses)], code.address) for i in range(count)), bos)
            else:
                if isinstance(uniforms, (Buffer, BufferView)):
                    _own(uniforms, self)
                    stream = uniforms.address
                else:
                    stream = self._stream([pack_uniforms(uniforms, self)], keep)[0]
                with self._lock:
                    bos = (code, *keep, *self._bos.values())
                job = CsdJob(
                    code=code.address,
                    uniforms=stream,
                    bos=bos,
                    workgroups=groups,
                    workgroup_size=size,
                    workgroups_per_supergroup=per_super,
                    max_supergroup_id=top,
                    threads=ways,
                    single_segment=bool(single_segment),
                )
            fence = driver.submit(job, timeout_s)
        except TimeoutError:
            raise  # it may still run: what it uses must not be handed out again
        except EmuFault as fault:
            launch = Launch(self, program, _Over(), keep)
            launch._finish(fault)
            raise launch._located(fault) from None
        except BaseException:
            for bo in keep:
                self.recycle(bo)
            raise
        launch = Launch(self, program, fence, keep)
        with self._lock:
            self._running.add(launch)
        return launch

    def run(
        self,
        program: Program,
        uniforms: Uniforms | Buffer | BufferView = (),
        *,
        workgroups: int | tuple[int, int, int] | None = None,
        workgroup_size: int | None = None,
        workgroups_per_supergroup: int | None = None,
        max_supergroup_id: int | None = None,
        threads: int | None = None,
        single_segment: bool | None = None,
        qpus: int | None = None,
        streams: Sequence[Buffer | BufferView] | None = None,
        timeout_s: float = 10.0,
    ) -> Launch:
        """Start a program and wait for its end. Arguments and errors: see `submit` and `Launch.wait`."""
        launch = self.submit(
            program,
            uniforms,
            workgroups=workgroups,
            workgroup_size=workgroup_size,
            workgroups_per_supergroup=workgroups_per_supergroup,
            max_supergroup_id=max_supergroup_id,
            threads=threads,
            single_segment=single_segment,
            qpus=qpus,
            streams=streams,
            timeout_s=timeout_s,
        )
        launch.wait(timeout_s)
        return launch

    def _rows(
        self,
        uniforms: Uniforms | Buffer | BufferView,
        qpus: int | None,
        streams: Sequence[Buffer | BufferView] | None,
    ) -> tuple[int, list[bytes | int]]:
        rows: list[bytes | int]
        if streams is not None:
            if isinstance(uniforms, (Buffer, BufferView)) or len(uniforms):
                raise UsageError("give uniforms or streams, not both")
            for part in streams:
                _own(part, self)
            rows = [part.address for part in streams]
        elif isinstance(uniforms, (Buffer, BufferView)):
            _own(uniforms, self)
            rows = [uniforms.address]
        elif len(uniforms) and isinstance(uniforms[0], (list, tuple, np.ndarray)):
            rows = [pack_uniforms(cast("Uniforms", row), self) for row in uniforms]
        else:
            rows = [pack_uniforms(uniforms, self)]
        count = qpus if qpus is not None else len(rows)
        if len(rows) > 1 and count != len(rows):
            raise UsageError(f"qpus = {qpus}, but there are {len(rows)} rows of uniforms; give one of the two")
        _within("qpus", count, 1, self.qpus)
        return count, rows

    def _stream(self, streams: Sequence[bytes | int], keep: list[Bo]) -> list[int]:
        """Put uniform streams into device memory; 64-byte aligned rows."""
        data = [s for s in streams if isinstance(s, bytes)]
        total = sum(_up(len(s) + 64, 64) for s in data)
        base = 0
        if data:
            bo = self._scratch(total)
            keep.append(bo)
            base = bo.address
            view = bo.view
            at = 0
            addresses: list[int] = []
            for s in streams:
                if isinstance(s, int):
                    addresses.append(s)
                    continue
                view[at : at + len(s)] = s
                addresses.append(base + at)
                at += _up(len(s) + 64, 64)
            return addresses
        return [s for s in streams if isinstance(s, int)]

    # measurement

    @property
    def stats(self) -> RunStats | None:
        """Statistics of the last finished launch on an emulated board; None on a real one."""
        return self.latest_stats()

    def latest_stats(self) -> RunStats | None:
        """As `stats`."""
        runs = getattr(self._port, "runs", None)
        return runs[-1] if runs else None

    @contextmanager
    def counters(self, *names: str) -> Iterator[dict[str, int]]:
        """Count hardware events by name while the block runs; the dict is filled at its end.

        Names are the kernel's (drivers.md section 3). Raises: UsageError for an unknown name; DriverError where the
        kernel has no counters.
        """
        counting = getattr(self.driver, "counters", None)
        if counting is None:
            raise DriverError(f"{self.info.adapter} offers no performance counters")
        with cast("_Counting", self.driver).counters(names) as values:
            yield values

    # end

    def close(self) -> None:
        """Wait for nothing, release everything; idempotent."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        if os.getpid() != self._pid:
            return  # the parent's device: leave it to the parent
        with self._lock:
            for buffer in list(self._buffers):
                bo, buffer._bo, buffer._array = buffer._bo, None, None
                if bo is not None:
                    close_bo(bo)
            for bo in [*self._bos.values(), *(bo for _, bo in self._code.values()), *self._idle, *self._lingering]:
                close_bo(bo)
            for launch in self._running:
                for bo in launch._keep:
                    close_bo(bo)
            self._bos.clear()
            self._code.clear()
            self._idle.clear()
            self._lingering.clear()
            self._running.clear()
        try:
            driver.close()
        finally:
            closing = getattr(self._port, "shutdown", None)
            if closing is not None:
                closing()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Device belongs to one process; open it where it is used, for example in each worker")

    def __repr__(self) -> str:
        return f"<Device {'closed' if self._driver is None else self._info}>"

    def _repr_html_(self) -> str:
        from html import escape

        rows = {
            "board": self._info.board.model,
            "instruction set": self._info.isa.label,
            "QPUs": f"{self._info.slices} × {self._info.qpus_per_slice}",
            "adapter": f"{self._info.adapter} on {self._info.node}",
            "emulated": self._info.emulated or "no",
        }
        cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows.items())
        return f"<table>{cells}</table>"


class _Over:
    """The fence of a job that ended inside its submission."""

    def wait(self, timeout_s: float | None = None) -> None:
        return None

    def poll(self) -> bool:
        return True


def _up(n: int, to: int) -> int:
    return (n + to - 1) // to * to


def _within(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise UsageError(f"{name} = {value!r}; allowed: {low}..{high}")


def _triple(groups: int | tuple[int, int, int] | None) -> tuple[int, int, int]:
    if groups is None:
        return (1, 1, 1)
    triple = (groups, 1, 1) if isinstance(groups, (int, np.integer)) else tuple(groups)
    if len(triple) != 3:
        raise UsageError(f"workgroups = {groups!r}; give one count, or three for x, y, z")
    for axis, n in zip("xyz", triple, strict=True):
        _within(f"workgroups in {axis}", n, 1, MAX_GROUPS)
    return (int(triple[0]), int(triple[1]), int(triple[2]))


def _refuse(arguments: Mapping[str, object], family: str, isa: Isa) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise UsageError(f"{name} is a launch argument of {family}; this device is {isa.label}")


def _own(part: Buffer | BufferView, device: Device) -> None:
    owner = part if isinstance(part, Buffer) else part.buffer
    if owner.device is not device:
        raise UsageError("the buffer belongs to another device; allocate it on this one")


def open_device(
    device: str | None = None,
    *,
    port: Port | None = None,
    strict: bool | None = None,
    engine: str | None = None,
) -> Device:
    """Open a GPU.

    device: ``auto`` (real board, else an emulated Pi 5), ``hardware`` (real board or an error), ``pi0`` .. ``pi5``
    with options such as ``pi5,slices=3`` (emulated), or the path of a node. Default: the environment variable
    QPU_DEVICE, else ``auto``.
    port: talk to the kernel through this one instead (an EmuPort, a recording port). strict: emulated boards stop
    with EmuFault at the first fault (default: yes, unless QPU_EMU_STRICT=0). engine: ``auto``, ``reference`` or
    ``compiled`` (default: QPU_EMU_ENGINE, else auto).
    Raises: UsageError for a bad name, NoDeviceError with every reason when there is no usable GPU.
    """
    name = device if device is not None else os.environ.get("QPU_DEVICE", "auto")
    if port is not None:
        return _open(port, name if "/" in name else "hardware")
    if name.startswith("pi"):
        return _emulated(name, strict, engine)
    if name not in ("auto", "hardware") and "/" not in name:
        raise UsageError(
            f"unknown device {name!r}; allowed: auto, hardware, pi0 .. pi5 (with options such as pi5,slices=3), a path"
        )
    from qpu.drivers.linux import LinuxPort

    try:
        return _open(LinuxPort(), "hardware" if name == "auto" else name)
    except NoDeviceError as error:
        if name != "auto":
            raise
        reason = str(error).splitlines()[0]
        print(f"qpu: using an emulated Pi 5 ({reason})", file=sys.stderr)
        return _emulated("pi5", strict, engine)


def _open(port: Port, name: str) -> Device:
    from qpu.drivers.probe import open_driver

    return Device(open_driver(port, name), port)


def _emulated(name: str, strict: bool | None, engine: str | None) -> Device:
    from qpu.emu.boards import parse_board
    from qpu.emu.engines import require
    from qpu.emu.port import EmuPort

    chosen = engine or os.environ.get("QPU_EMU_ENGINE", "auto")
    require(chosen, parse_board(name).isa)
    if strict is None:
        strict = os.environ.get("QPU_EMU_STRICT", "1") != "0"
    port = EmuPort(name, strict=strict, engine=chosen)
    try:
        return _open(port, "hardware")
    except BaseException:
        port.shutdown()
        raise
