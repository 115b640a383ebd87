"""The core of the emulated Linux: files, descriptors, memory, clock and lock; the emulated devices register here."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, cast

from qpu.core.deferred_signals import CriticalSection, critical, run_pending
from qpu.drivers.port import Lock
from qpu.emu.boards import BoardProfile
from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.engines import ENGINES, Watch, make_machine, observer_of_environment, watching
from qpu.emu.linux.files import board_files
from qpu.errors import EmuFault, UsageError

if TYPE_CHECKING:
    from qpu.drivers.uapi.layout import Ioctl
    from qpu.emu.engine.machine import V3dMachine, Vc4Machine
    from qpu.emu.engine.trace import Trace

__all__ = ["FdTable", "Interrupt", "Linux", "OpenFile", "RegisterBlock", "Run", "Span", "fail", "fail_if", "lookup"]

NS = 1_000_000_000
KEEP_RUNS = 256
SYSCALL_NS = 1_000  # emulated time of one system call; with any positive value polling loops end
READ_CLOCK_NS = 100

Subscriber = Callable[[str], None]
T = TypeVar("T")


def fail(number: int, path: str | None = None) -> OSError:
    """The OSError for an errno."""
    return OSError(number, os.strerror(number)) if path is None else OSError(number, os.strerror(number), path)


def fail_if(condition: object, number: int, path: str | None = None) -> None:
    """Raise the OSError for an errno if the condition holds."""
    if condition:
        raise fail(number, path)


def lookup(table: Mapping[int, T], handle: int, missing: int = errno.EINVAL) -> T:
    """The object that a handle refers to. Raises: OSError `missing`."""
    if handle not in table:
        raise fail(missing)
    return table[handle]


class Clock:
    """Emulated time in nanoseconds. System calls, sleeping, and waiting for jobs advance it.

    host: absolute times from the program are times of the host's monotonic clock, which the program reads itself.
    """

    def __init__(self, *, host: bool = False) -> None:
        self.now_ns = 10 * NS  # since boot
        self._host = host

    def absolute(self, when_ns: int) -> int:
        """The emulated time of an absolute CLOCK_MONOTONIC time of the program."""
        if self._host:
            return self.now_ns + when_ns - time.monotonic_ns()
        return when_ns

    def reach(self, when_ns: int) -> None:
        """Advance the clock to `when_ns`, unless it is later already."""
        self.now_ns = max(self.now_ns, when_ns)


@dataclass(slots=True)
class Span:
    """A piece of GPU-visible memory that a file maps.

    release: called once, when the piece is unmapped. placed: called with the user address of the map.
    """

    address: int
    size: int
    release: Callable[[], None]
    placed: Callable[[int], None] | None = None


class RegisterBlock(ABC):
    """Device registers that a file maps. `base`: physical address. Offsets are multiples of 4 below `size`."""

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.size = size

    @abstractmethod
    def read32(self, offset: int) -> int:
        """The register at `offset`."""

    @abstractmethod
    def write32(self, offset: int, value: int) -> None:
        """Set the register at `offset`."""


class OpenFile:
    """An open file, which descriptors refer to. count: number of these descriptors. writable: opened for writing."""

    label = "file"

    def __init__(self, linux: Linux, path: str) -> None:
        self.linux = linux
        self.path = path
        self.count = 0
        self.writable = True
        self.lock = Lock.NONE

    def argument_size(self, request: int, peek: Callable[[int], bytes]) -> int:
        """Bytes of the argument that Linux reads or writes. peek: returns the first n bytes of the argument."""
        return request >> 16 & 0x3FFF

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Perform one request; `arg` is changed in place. Raises: OSError."""
        raise fail(errno.ENOTTY)

    def mmap(self, size: int, offset: int) -> Span | RegisterBlock:
        """Map a piece of the file. Raises: OSError."""
        raise fail(errno.ENODEV)

    def release(self) -> None:
        """Free what the file holds, after its last descriptor was closed."""


@dataclass(frozen=True, eq=False, slots=True)
class Interrupt:
    """A request by one thread: other threads of its process shall end their system calls with EINTR.

    by: the thread. process: the descriptors of its process. threads: the threads concerned; None for all others.
    """

    by: int
    process: FdTable
    threads: Collection[int] | None

    def means(self, process: FdTable) -> bool:
        """Whether the request concerns the calling thread, which belongs to `process`."""
        me = threading.get_ident()
        return process is self.process and me != self.by and (self.threads is None or me in self.threads)


class FdTable:
    """The descriptors of an emulated process. Subclasses may use descriptors of the real process."""

    FIRST = 3

    def __init__(self) -> None:
        self._files: dict[int, OpenFile] = {}

    def allocate(self) -> int:
        """The lowest free descriptor."""
        fd = self.FIRST
        while fd in self._files:
            fd += 1
        return fd

    def discard(self, fd: int) -> None:
        """Free the descriptor `fd`; for subclasses."""

    def install(self, file: OpenFile) -> int:
        """A new descriptor for `file`."""
        fd = self.allocate()
        self.adopt(fd, file)
        return fd

    def adopt(self, fd: int, file: OpenFile) -> None:
        """Let `fd`, which is free, refer to `file`."""
        file.count += 1
        self._files[fd] = file

    def get(self, fd: int) -> OpenFile:
        """The open file of `fd`. Raises: OSError EBADF."""
        try:
            return self._files[fd]
        except KeyError:
            raise fail(errno.EBADF) from None

    def __contains__(self, fd: object) -> bool:
        return fd in self._files

    def close(self, fd: int) -> None:
        """Close a descriptor. Raises: OSError EBADF."""
        file = self.get(fd)
        del self._files[fd]
        self.discard(fd)
        file.count -= 1
        if file.count == 0:
            file.release()

    def close_all(self) -> None:
        """Close all descriptors, as at the end of a process."""
        for fd in sorted(self._files):
            self.close(fd)

    @property
    def open(self) -> list[tuple[int, OpenFile]]:
        """The open descriptors with their files, in order."""
        return sorted(self._files.items())


@dataclass(eq=False, slots=True)
class Run:
    """The identity of a submitted job. stats: of its execution, after the job has ended; None if it never began."""

    stats: RunStats | None = None


class _Submitted(threading.local):
    """The latest job that a thread has submitted, for each thread. run: None after it was read."""

    run: Run | None = None


class _Call(CriticalSection):
    """The critical section of one system call."""

    __slots__ = ("_linux", "_process")

    def __init__(self, linux: Linux, process: FdTable | None) -> None:
        super().__init__(False, linux.lock)
        self._linux = linux
        self._process = process

    def __enter__(self) -> CriticalSection:
        super().__enter__()
        try:
            self._linux.begin_call(self._process)
        except BaseException:
            super().__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._linux.last_call = time.monotonic()
        super().__exit__(kind, error, at)


class Linux:
    """The Linux of an emulated board. One lock, `lock`, guards its whole state.

    machine: makes the machine for the first job (default: by `engine`). host_clock: the program reads the host's clock
    itself. shared_memory: GPU memory can be mapped by descriptor (`Memory.fd`).
    """

    def __init__(
        self,
        profile: BoardProfile,
        *,
        strict: bool = True,
        engine: str = "auto",
        pointer_size: int = 8,
        trace: Trace | None = None,
        machine: Callable[[Linux], V3dMachine | Vc4Machine] | None = None,
        host_clock: bool = False,
        shared_memory: bool = False,
        fds: FdTable | None = None,
    ) -> None:
        if engine not in ENGINES:
            raise UsageError(f"unknown engine {engine!r}", help=f"write {', '.join(ENGINES)} (also in QPU_EMU_ENGINE)")
        if pointer_size not in (4, 8):
            raise UsageError(f"a pointer cannot have {pointer_size} bytes; allowed: 4, 8", help="pass one of these")
        self.profile = profile
        self.strict = strict
        self.host_limit_s: float | None = None  # of each job
        self.pointer_size = pointer_size
        self.other_width = False  # requests with the other pointer size are understood, too
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  # notified when a job is submitted or a fence signalled
        self.clock = Clock(host=host_clock)
        self.files = board_files(profile)
        self.fds = fds if fds is not None else FdTable()
        # VideoCore IV: bus addresses without their alias are below 1 GiB.
        self.memory = Memory(1 << 32 if profile.is_drm else 1 << 30, shared=shared_memory)
        self.runs: deque[RunStats] = deque(maxlen=KEEP_RUNS)
        self.submitted = _Submitted()
        self.on_work: Callable[[], None] | None = None  # called when a job is queued
        self.interrupts: list[Interrupt] = []
        self.tables = [self.fds]  # descriptors of all processes; `fds` is those of the calling process
        self.last_call = 0.0  # host time of the latest system call
        self.subscribers: list[Subscriber] = []  # called with each finding of a lenient run
        # Functions that devices register: to open a node, by its device; to list what programs hold, one line each; to
        # advance queued jobs; to stop at power-off; to count ended jobs.
        self.openers: dict[str, Callable[[str], OpenFile]] = {}
        self.holders: list[Callable[[], list[str]]] = []
        self.steppers: list[Callable[[], bool]] = []
        self.on_close: list[Callable[[], None]] = []
        self.counters: list[Callable[[RunStats, int], None]] = []
        self.faults: Counter[str] = Counter()
        self.hz = profile.clock_hz
        self._engine = engine
        self._trace = trace
        self._make = machine
        self._machine: V3dMachine | Vc4Machine | None = None
        self._watch = observer_of_environment()
        self._watches: dict[Watch, V3dMachine | Vc4Machine] = {}  # of observers
        self._state: object = None  # the machine that was made first
        self._closed = False
        self._attach()

    def _attach(self) -> None:
        """Make the devices; a `Board` overrides this method."""

    # the machine

    @property
    def machine(self) -> V3dMachine | Vc4Machine:
        """The machine, made at its first use; that of an observer while there is one."""
        watch = watching(self._watch)
        if watch is not None and self._make is None:
            return self._watched(watch)
        if self._machine is None:
            if self._make is not None:
                self._machine = self._make(self)
            else:
                self._machine = make_machine(
                    self.profile, self.memory, strict=self.strict, engine=self._engine, trace=self._trace
                )
            self._share(self._machine)
        return self._machine

    def _watched(self, watch: Watch) -> V3dMachine | Vc4Machine:
        """The machine of an observer."""
        made = self._watches.get(watch)
        if made is None:
            made = self._watches[watch] = watch.machine(self.profile, self.memory, strict=self.strict)
            self._share(made)
        return made

    def _share(self, machine: object) -> None:
        """Machines of one board have common VPM contents and semaphores."""
        if self._state is None:
            self._state = machine
        for name in ("vpm", "sync"):
            if hasattr(self._state, name):
                setattr(machine, name, getattr(self._state, name))

    @property
    def has_machine(self) -> bool:
        """Whether the machine was made: False while nothing has run."""
        return self._state is not None

    @property
    def v3d_machine(self) -> V3dMachine:
        """The machine of a V3D board."""
        return cast("V3dMachine", self.machine)

    @property
    def vc4_machine(self) -> Vc4Machine:
        """The machine of a VideoCore IV board."""
        return cast("Vc4Machine", self.machine)

    def record(self, stats: RunStats, clocks: int) -> None:
        """Keep the statistics of a job that has ended after `clocks`, and report its findings."""
        self.runs.append(stats)
        for count in self.counters:
            count(stats, clocks)
        for text in stats.faults:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Report a finding of a lenient run."""
        self.faults[text] += 1
        for report in self.subscribers:
            report(text)

    def width_of(self, row: Ioctl, request: int) -> int:
        """The pointer size of a request's argument: that of the process, or, where both are understood, the other."""
        other = 12 - self.pointer_size
        return other if self.other_width and request == row.request(other) else self.pointer_size

    def not_modelled(self, what: str, help: str = "run this program on a real board, or avoid the request") -> EmuFault:
        """The fault for a request that the emulated board does not model; the caller raises it, strict or not."""
        return EmuFault("not-modelled", f"{what} is not modelled by the emulated {self.profile.name}", help=help)

    # system calls; callers hold the lock through `call`

    def call(self, process: FdTable | None = None) -> CriticalSection:
        """Guard one system call of a process (default: the first one) and add its emulated time.

        As on a real Linux, Python's signal handlers are deferred until the end of the call, or to `check_interrupted`.
        Raises on entry: OSError EBADF when the board is off or the process has ended.
        """
        return _Call(self, process)

    def begin_call(self, process: FdTable | None) -> None:
        """Begin a system call inside the lock; see `call`."""
        if self._closed or (process is not None and process not in self.tables):
            raise fail(errno.EBADF)
        self.fds = self.tables[0] if process is None else process
        self.clock.now_ns += SYSCALL_NS

    def whole(self) -> CriticalSection:
        """A critical section that holds the lock. Signal handlers run while it waits for the lock, and at its end."""
        return critical(lock=self.lock)

    def check_interrupted(self) -> None:
        """Run deferred signal handlers, at a point between steps of an emulation where the state is consistent.

        Raises: what the handlers raise; OSError EINTR when another thread has requested it (`Interrupt`).
        """
        run_pending()
        fail_if(self.interrupts and any(i.means(self.fds) for i in self.interrupts), errno.EINTR)

    def wake(self) -> None:
        """Call `on_work`, because a job was queued."""
        if self.on_work is not None:
            self.on_work()

    def step(self) -> bool:
        """Advance queued jobs by one slice; False when there are none.

        Programs that poll memory without system calls depend on it.
        """
        with self.lock:
            return not self._closed and any(step() for step in self.steppers)

    def open(self, path: str) -> OpenFile:
        """Open a device node. Raises: OSError: ENOENT, EACCES, EISDIR, ENXIO; EmuFault for nodes without a model."""
        real, node = self.files.resolve(path)
        fail_if(node.kind == stat.S_IFDIR, errno.EISDIR, path)
        fail_if(node.kind != stat.S_IFCHR, errno.ENXIO, path)
        fail_if(self.profile.deny or (node.device == "mem" and not self.profile.devmem), errno.EACCES, path)
        if node.device not in self.openers:
            raise self.not_modelled(f"device {real}")
        return self.openers[node.device](real)

    def flock(self, file: OpenFile, lock: Lock) -> None:
        """Take the advisory lock of an open file. Raises: OSError EAGAIN; the file then has no lock."""
        file.lock = Lock.NONE
        others = {f for table in self.tables for _, f in table.open if f is not file and f.path == file.path}
        held = {other.lock for other in others}
        if lock is not Lock.NONE and (Lock.EXCLUSIVE in held or (lock is Lock.EXCLUSIVE and Lock.SHARED in held)):
            raise fail(errno.EAGAIN)
        file.lock = lock

    # leaks

    def allocated(self) -> list[str]:
        """What programs hold now, one line each; empty when everything was released."""
        found = [f"fd {fd}: {file.path}" for table in self.tables for fd, file in table.open]
        for region in self.memory.regions:
            found.append(f"memory 0x{region.address:08x}+0x{region.size:x}: {region.name}")
        return found + [line for held in self.holders for line in held()]

    def close(self) -> None:
        """Power off: close every descriptor and release all memory. Idempotent."""
        with self.whole():
            if self._closed:
                return
            for stop in self.on_close:
                stop()
            for table in self.tables:
                self.fds = table
                table.close_all()
            self._closed = True
            self._machine = self._state = None
            self._watches.clear()
            self.memory.close()

    def disown(self) -> None:
        """In the child after a fork: drop the board, which belongs to the parent, without freeing anything."""
        self._closed = True
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)

    @property
    def closed(self) -> bool:
        """Whether the board is off."""
        return self._closed
