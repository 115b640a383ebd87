"""Devices, buffers and launches: where programs of an instruction set meet a driver."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import numpy as np
from numpy.typing import DTypeLike

from qpu.buffers import Buffer, BufferView, Uniforms, as_array, close_bo, pack_uniforms, whole
from qpu.core.deferred_signals import critical
from qpu.core.isa import Isa
from qpu.drivers.base import Bo, CompletedFence, CsdJob, DeviceInfo, Driver, Fence, Job, QpuJob
from qpu.drivers.drm.csd import split_dispatch
from qpu.errors import DriverError, EmuFault, NoDeviceError, UsageError
from qpu.launch import Arguments, Launch, Parts, own, seconds, within
from qpu.program import Program

if TYPE_CHECKING:
    from qpu.drivers.port import Port
    from qpu.emu.engine.machine import RunStats

__all__ = ["Buffer", "BufferView", "Device", "Launch", "Uniforms", "open_device", "pack_uniforms"]

FORGOTTEN = 32  # launches nobody waited for, before the device looks which have ended
PREFETCH_SLACK = 512  # instruction fetch runs past the end of a program (v3d.md 8.3)


_users: Counter[int] = Counter()  # open devices by port: the last one to close shuts an emulated board down
_users_lock = threading.Lock()


class _Counting(Protocol):
    """A driver that can count hardware events."""

    def counters(self, names: Sequence[str]) -> AbstractContextManager[dict[str, int]]: ...


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
        with _users_lock:
            _users[id(port)] += 1

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
        lengths = shape if isinstance(shape, (tuple, list, np.ndarray)) else (shape,)
        dims = tuple(whole("a length of shape", n) for n in lengths)
        try:
            kind = np.dtype(dtype)
        except (TypeError, ValueError) as error:
            raise UsageError(f"dtype = {dtype!r}: {error}; use numbers such as np.float32") from error
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
            with critical():  # from the call to the record of it: an interrupt leaves no memory that nobody knows
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
        """A buffer with a copy of `data` (anything np.asarray takes). Raises: UsageError for what it does not."""
        source = as_array(data, dtype)
        buffer = self.empty(source.shape, source.dtype)
        buffer.array[...] = source
        return buffer

    def forget(self, buffer: Buffer, bo: Bo) -> None:
        """Called by a buffer that closes."""
        with self._lock, critical():
            self._buffers.discard(buffer)
            self._bos.pop(id(buffer), None)
            self._return(bo)

    def _drop(self, key: int) -> None:
        """A buffer was garbage-collected. Its ndarray may still be about to go: `_return` tries again later."""
        with critical(late=True):
            bo = self._bos.pop(key, None)
            if bo is not None and self._driver is not None and os.getpid() == self._pid:
                self._return(bo)

    def _return(self, bo: Bo) -> None:
        # The kernel's V3D driver keeps memory for jobs that use it; VideoCore IV would write to what is gone.
        if (self._running and self.isa is Isa.VC4) or not close_bo(bo):
            self._lingering.append(bo)

    def _tidy(self) -> None:
        """Settle launches that ended unnoticed; close what could not be closed before."""
        if len(self._running) >= FORGOTTEN or len(self._lingering) >= FORGOTTEN:
            for launch in list(self._running):  # an interrupted `run` leaves one
                launch.settle_if_done()
        if not self._running or self.isa is not Isa.VC4:
            with critical():
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
            with critical():
                bo = self.driver.alloc(len(data) + PREFETCH_SLACK)
                bo.view[: len(data)] = data
                key = id(program)
                self._code[key] = (weakref.ref(program, lambda _: self._unload(key)), bo)
            return bo

    def _unload(self, key: int) -> None:
        with critical(late=True):
            known = self._code.pop(key, None)
            if known is not None and self._driver is not None and os.getpid() == self._pid:
                self._return(known[1])  # its launches are over: they hold the program

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
            if not self._running and self._lingering:
                self._tidy()

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
        max_batches: int | None = None,
        completion: tuple[Buffer | BufferView, int] | None = None,
        qpus: int | None = None,
        streams: Sequence[Buffer | BufferView] | None = None,
        timeout_s: float = 10.0,
        after: Sequence[Launch] = (),
    ) -> Launch:
        """Start a program and return at once.

        uniforms: the words of the uniform stream (see `pack_uniforms`), or a buffer that holds them. On VideoCore IV
        a sequence of sequences (or a 2-D array) starts one program per row, each with its own stream; a flat one
        starts `qpus` programs (default 1) that share it.

        V3D only: workgroups (counts in x, y, z; default 1), workgroup_size (items, 1..256, default 16),
        workgroups_per_supergroup (1..16, default 1), max_supergroup_id (0..63, default 63: as many supergroups in
        flight as there is room for; a program that uses shared-memory slots says 0, because their numbering across
        supergroups is not known), threads (per QPU, 2 or 4, default 4), single_segment.
        max_batches: cut the dispatch into parts of at most that many batches (QPU threads of 16 items), jobs of their
        own that run one after another. Fewer threads at a time end sooner, so that the kernel's 500 ms watchdog does
        not take a long dispatch for a hang, and other programs get their turn. Workgroup ids stay what they were; the
        workgroups must not wait for one another, and supergroups are formed anew in every part.
        completion: (word, value): a u32 in device memory that is set to 0 here and that the program makes `value`
        (not 0) when all its threads are done. A launch that ended without it raises GpuResetError; kernels that count
        no resets (older than about 6.17) offer no other proof.
        VideoCore IV only: qpus; streams (uniform streams that already lie in device memory, one per program).

        timeout_s: limits the launch where the kernel interface blocks (firmware mailbox: one second at most).
        after: launches of any device that must end first (those of this device do anyway). When one of them failed,
        its error comes out of this launch's `wait`.
        Raises: UsageError before anything is submitted; DriverError.
        """
        return self._launch(
            program,
            uniforms,
            Arguments(
                workgroups,
                workgroup_size,
                workgroups_per_supergroup,
                max_supergroup_id,
                threads,
                single_segment,
                max_batches,
                completion,
                qpus,
                streams,
            ),
            timeout_s,
            after,
            background=True,
        )

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
        max_batches: int | None = None,
        completion: tuple[Buffer | BufferView, int] | None = None,
        qpus: int | None = None,
        streams: Sequence[Buffer | BufferView] | None = None,
        timeout_s: float = 10.0,
    ) -> Launch:
        """Start a program and wait for its end. Arguments and errors: see `submit` and `Launch.wait`."""
        launch = self._launch(
            program,
            uniforms,
            Arguments(
                workgroups,
                workgroup_size,
                workgroups_per_supergroup,
                max_supergroup_id,
                threads,
                single_segment,
                max_batches,
                completion,
                qpus,
                streams,
            ),
            timeout_s,
            (),
            background=False,
        )
        launch.wait(timeout_s)
        return launch

    def _launch(
        self,
        program: Program,
        uniforms: Uniforms | Buffer | BufferView,
        arguments: Arguments,
        timeout_s: float,
        after: Sequence[Launch],
        *,
        background: bool,
    ) -> Launch:
        driver = self.driver
        arguments.fit(self.isa)
        if self.isa is Isa.VC4:
            count, rows = self._rows(uniforms, arguments.qpus, arguments.streams)
        else:
            shape, proof = arguments.shape(), arguments.proof(self)
        timeout_s = seconds(timeout_s)
        if timeout_s <= 0:
            raise UsageError(f"timeout_s = {timeout_s}; it must be positive")
        if not isinstance(after, (tuple, list)) or not all(isinstance(e, Launch) for e in after):
            raise UsageError(f"after = {after!r}; give a list of launches")
        code = self._upload(program)
        keep: list[Bo] = []
        jobs: list[Job] = []
        fences: list[Fence] = []
        waits = [e.fence for e in after if e.device is not self and e.fence is not None]
        try:
            if self.isa is Isa.VC4:
                addresses = self._stream(rows, keep)
                entries = tuple((addresses[i % len(addresses)], code.address) for i in range(count))
                jobs.append(QpuJob(entries, self._listed(code, keep)))
            else:
                if isinstance(uniforms, (Buffer, BufferView)):
                    own(uniforms, self)
                    stream = uniforms.address
                else:
                    stream = self._stream([pack_uniforms(uniforms, self)], keep)[0]
                job = replace(shape, code=code.address, uniforms=stream, bos=self._listed(code, keep))
                jobs += [job] if arguments.max_batches is None else split_dispatch(job, arguments.max_batches)
                if proof is not None:
                    proof.bo.view[proof.offset : proof.offset + 4] = bytes(4)
                    jobs[-1] = replace(job if len(jobs) == 1 else cast("CsdJob", jobs[-1]), completion=proof)
            for each in jobs:
                fences.append(driver.submit(each, timeout_s, background=background, after=waits))
                waits = []
        except TimeoutError:
            raise  # it may still run: what it uses must not be handed out again
        except EmuFault as fault:
            Launch(self, program, CompletedFence(), keep).finish(fault)
            raise
        except BaseException:
            if fences:  # the parts before run: their buffers stay until the device is closed
                self._running.add(Launch(self, program, Parts(self, fences), keep))
            else:
                for bo in keep:
                    self.recycle(bo)
            raise
        launch = Launch(self, program, fences[0] if len(fences) == 1 else Parts(self, fences), keep, after)
        with self._lock:
            self._running.add(launch)
            if len(self._running) >= FORGOTTEN:
                self._tidy()
        return launch

    def _listed(self, code: Bo, keep: Sequence[Bo]) -> tuple[Bo, ...]:
        """Every buffer that a job may touch."""
        with self._lock:
            return (code, *keep, *self._bos.values())

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
            if not isinstance(streams, (tuple, list)) or not streams:
                raise UsageError(f"streams = {streams!r}; give a list with the stream of each program")
            for part in streams:
                own(part, self)
            rows = [part.address for part in streams]
        elif isinstance(uniforms, (Buffer, BufferView)):
            own(uniforms, self)
            rows = [uniforms.address]
        elif _rowed(uniforms):
            rows = [pack_uniforms(cast("Uniforms", row), self) for row in uniforms]
        else:
            rows = [pack_uniforms(uniforms, self)]
        count = qpus if qpus is not None else len(rows)
        if len(rows) > 1 and count != len(rows):
            raise UsageError(f"qpus = {qpus}, but there are {len(rows)} rows of uniforms; give one of the two")
        within("qpus", count, 1, self.qpus)
        return count, rows

    def _stream(self, streams: Sequence[bytes | int], keep: list[Bo]) -> list[int]:
        """Put uniform streams into device memory; 64-byte aligned rows, zeros behind each.

        A program that takes more words than it was given reads zeros, not the stream of an earlier launch.
        """
        data = [s for s in streams if isinstance(s, bytes)]
        total = sum(_up(len(s) + 64, 64) for s in data)
        base = 0
        if data:
            with critical():
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
                end = at + _up(len(s) + 64, 64)
                view[at:end] = s.ljust(end - at, b"\0")
                addresses.append(base + at)
                at = end
            return addresses
        return [s for s in streams if isinstance(s, int)]

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
        try:
            with driver.leaving(), self._lock:
                for buffer in list(self._buffers):
                    buffer._bo, buffer._array = None, None  # or their views would keep the memory mapped
                for owner in (self._bos, self._code, self._idle, self._lingering, self._running):
                    owner.clear()
                # The driver first stops what runs, then gives the memory back.
                try:
                    driver.close()
                except BaseException:
                    driver.close()  # an interrupt leaves the rest to the next call
                    raise
        finally:
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
        raise TypeError("a Device belongs to one process; open it where it is used, for example in each worker")

    def __repr__(self) -> str:
        return f"<Device {'closed' if self._driver is None else self._info}>"

    def _repr_html_(self) -> str:
        from qpu.display.device import device_html

        return device_html(self._info, closed=self._driver is None)


def _rowed(uniforms: Uniforms) -> bool:
    kinds = (list, tuple, np.ndarray)
    return isinstance(uniforms, kinds) and len(uniforms) > 0 and isinstance(uniforms[0], kinds)


def _up(n: int, to: int) -> int:
    return (n + to - 1) // to * to


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
    if not isinstance(name, str):
        raise UsageError(f"device = {name!r}; give a name such as 'auto', 'pi5' or a path")
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
    from qpu.emu.engines import require, strict_by_default
    from qpu.emu.port import EmuPort

    chosen = engine or os.environ.get("QPU_EMU_ENGINE", "auto")
    require(chosen, parse_board(name).isa)
    if strict is None:
        strict = strict_by_default(True)
    port = EmuPort(name, strict=strict, engine=chosen)
    try:
        return _open(port, "hardware")
    except BaseException:
        port.shutdown()
        raise
