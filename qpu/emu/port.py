"""`EmuPort`: the system calls of a process on an emulated board, as a `Port` for drivers."""

from __future__ import annotations

import errno
import os
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qpu.drivers.port import FileStat, Lock, Mapping, Registers, Run
from qpu.emu.boards import BoardProfile, parse_board
from qpu.emu.engine.host_limit import chosen_limit
from qpu.emu.engine.machine import RunStats
from qpu.emu.linux.board import Board
from qpu.emu.linux.core import READ_CLOCK_NS, FdTable, Interrupt, Linux, RegisterBlock, Span, fail, fail_if
from qpu.emu.testing import Injector, ioctl_name

if TYPE_CHECKING:
    from qpu.emu.engine.machine import V3dMachine, Vc4Machine
    from qpu.emu.engine.trace import Trace

__all__ = ["EmuMapping", "EmuPort", "EmuRegisters"]


class EmuMapping:
    """A map of GPU memory. As a real map, it cannot be closed while views of it are alive."""

    __slots__ = ("__weakref__", "_array", "_board", "_span", "address")

    def __init__(self, board: Board, span: Span) -> None:
        self._board = board
        self._span: Span | None = span
        self.address = board.memory.pointer + span.address
        if span.placed is not None:
            span.placed(self.address)
        self._array: weakref.ref[NDArray[np.uint8]] | None = None

    @property
    def view(self) -> memoryview:
        """The bytes, writable."""
        if self._span is None:
            raise ValueError("this memory is unmapped; map it again")
        array = self._array() if self._array is not None else None
        if array is None:
            # Only views refer to this array: while it is alive, views are.
            array = self._board.memory.bytes[self._span.address : self._span.address + self._span.size]
            self._array = weakref.ref(array)
        return array.data

    def close(self) -> None:
        """Unmap; idempotent. Raises: BufferError while views of the map are alive."""
        if self._span is None:
            return
        if self._array is not None and self._array() is not None:
            raise BufferError("cannot close exported pointers exist")
        self.drop()

    def drop(self) -> None:
        """Unmap at the end of the process, even if views are alive."""
        span, self._span = self._span, None
        if span is not None:
            with self._board.whole():
                if not self._board.closed:
                    span.release()


class EmuRegisters:
    """A map of device registers."""

    __slots__ = ("_block", "_board")

    def __init__(self, board: Board, block: RegisterBlock) -> None:
        self._board = board
        self._block: RegisterBlock | None = block

    def _open(self) -> RegisterBlock:
        if self._block is None:
            raise ValueError("these registers are unmapped; map them again")
        return self._block

    def read32(self, offset: int) -> int:
        """The register at `offset` bytes."""
        block = self._open()
        with self._board.call():
            return block.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        """Set the register at `offset` bytes to a u32."""
        block = self._open()
        with self._board.call():
            block.write32(offset, value)

    def close(self) -> None:
        """Unmap; idempotent."""
        self._block = None


class ExactBounds:
    """Exact bounds of buffer objects (`qpu.drivers.port.Bounds`) in the page table of a board."""

    __slots__ = ("_board", "_mask", "_unit")

    def __init__(self, board: Board) -> None:
        self._board = board
        self._unit = 1 if board.profile.is_drm else 4  # VideoCore IV has no loads of less than a word
        self._mask = 0xFFFFFFFF if board.profile.is_drm else 0x3FFFFFFF  # bus addresses name a cache alias as well

    def buffer(self, address: int, used: int, name: str) -> None:
        """See `Bounds.buffer`."""
        with self._board.lock:
            self._board.memory.limit(address & self._mask, -(-used // self._unit) * self._unit, name)

    def expose(self, address: int) -> None:
        """See `Bounds.expose`."""
        with self._board.lock:
            self._board.memory.expose(address & self._mask)

    def discard(self, address: int) -> None:
        """See `Bounds.discard`."""
        with self._board.lock:
            self._board.memory.discard(address & self._mask)

    def code(self, address: int) -> None:
        """See `Bounds.code`."""
        with self._board.lock:
            self._board.memory.reserve(address & self._mask, "code")

    def streams(self, address: int, streams: Sequence[tuple[int, int]]) -> None:
        """See `Bounds.streams`."""
        with self._board.lock:
            self._board.memory.place_streams(address & self._mask, [(a & self._mask, n) for a, n in streams])

    def known_streams(self, address: int) -> list[tuple[int, int]]:
        """See `Bounds.known_streams`."""
        with self._board.lock:
            region = self._board.memory.region_starting(address & self._mask)
            above = address & ~self._mask
            return [] if region is None else [(a | above, n) for a, n in region.streams]


class EmuPort:
    """System calls of a process on an emulated board.

    board: a profile or a name such as ``pi5,slices=3``. strict: stop with EmuFault where hardware would continue with a
    wrong or unknown result. engine: ``auto``, ``reference``, ``compiled``. host_limit_s: EmuFault for a job that takes
    more host time (default: QPU_EMU_HOST_LIMIT_S, else no limit). pointer_size: 4 for a 32-bit process. trace: record
    of executed instructions (reference engine). machine: makes another machine instead (tests).
    Time is emulated: system calls, `sleep`, and waiting for jobs advance `monotonic`.
    """

    def __init__(
        self,
        board: BoardProfile | str = "pi5",
        *,
        strict: bool = True,
        engine: str = "auto",
        host_limit_s: float | None = None,
        pointer_size: int | None = None,
        trace: Trace | None = None,
        machine: Callable[[Linux], V3dMachine | Vc4Machine] | None = None,
    ) -> None:
        self.profile = parse_board(board) if isinstance(board, str) else board
        self.leaked: list[str] = []  # what the process still held at `shutdown`
        # DRM_IOCTL_VERSION has pointers of this process, so V3D keeps its width; other structures have no pointers.
        natural = self.profile.bits // 8 if self.profile.bits and not self.profile.is_drm else struct.calcsize("P")
        self._pointer_size = natural if pointer_size is None else pointer_size
        self._injector = Injector()
        self._fds = FdTable()
        self._gone = False
        self._maps: weakref.WeakSet[EmuMapping] = weakref.WeakSet()
        self.board = Board(
            self.profile,
            strict=strict,
            engine=engine,
            pointer_size=self._pointer_size,
            trace=trace,
            machine=machine,
            fds=self._fds,
        )
        self.board.host_limit_s = chosen_limit(host_limit_s)

    # not part of `Port`: for tests and the device layer

    @property
    def bounds(self) -> ExactBounds | None:
        """The bounds that devices announce, in strict runs; without them bounds are those of whole pages."""
        return ExactBounds(self.board) if self.board.strict else None

    @property
    def runs(self) -> deque[RunStats]:
        """Statistics of the latest launches, oldest first."""
        return self.board.runs

    def submitted(self) -> Run | None:
        """See `qpu.drivers.port.submitted`."""
        run, self.board.submitted.run = self.board.submitted.run, None
        return run

    def inject(self, call: str, errno: int, *, at: int = 1, count: int = 1) -> None:
        """Make system calls fail; see `qpu.emu.testing.Injector.inject`."""
        self._injector.inject(call, errno, at=at, count=count)

    def process(self) -> EmuPort:
        """A port of another process on the same board. It has its own descriptors; memory, clock and GPU are common.

        Its `shutdown` ends that process; the `shutdown` of the last process powers the board off.
        """
        fail_if(self.board.closed, errno.EBADF)
        other = object.__new__(EmuPort)
        other.profile, other.board, other._pointer_size = self.profile, self.board, self._pointer_size
        other.leaked, other._injector, other._fds, other._gone = [], Injector(), FdTable(), False
        other._maps = weakref.WeakSet()
        with self.board.whole():
            self.board.tables.append(other._fds)
        return other

    @contextmanager
    def interrupting(self, threads: Collection[int] | None = None) -> Iterator[None]:
        """While the block runs, calls of other threads of this process that emulate a job fail with EINTR.

        threads: only calls of these threads. Other processes are not affected.
        """
        request = Interrupt(threading.get_ident(), self._fds, threads)
        self.board.interrupts.append(request)
        try:
            yield
        finally:
            self.board.interrupts.remove(request)

    def allocated(self) -> list[str]:
        """What programs hold now (descriptors, memory, handles), one line each; empty when nothing leaked."""
        with self.board.whole():
            return [] if self.board.closed else self.board.allocated()

    def shutdown(self) -> None:
        """End the process. The last process powers the board off: everything is freed, later calls fail with EBADF.

        Idempotent. `leaked` lists what was held by this process, or by any process if it was the last one.
        """
        with self.board.whole():
            if self._gone or self.board.closed:
                return
            self._gone = True
            if self.board.tables == [self._fds]:
                self.leaked = self.allocated()
                self.board.close()
                return
            self.leaked = [f"fd {fd}: {file.path}" for fd, file in self._fds.open]
            self.end_process()
            self.board.tables.remove(self._fds)

    def end_process(self) -> None:
        """Do what the board does when the process ends for any reason: unmap its maps, then close its descriptors.

        Firmware memory and the power of the QPUs do not belong to a process and are unchanged. Does nothing on a board
        that is off.
        """
        if self.board.closed:
            return
        with self.board.call(self._fds):
            for mapping in list(self._maps):
                mapping.drop()
            self._fds.close_all()

    # Port

    @property
    def emulated(self) -> str | None:
        """The name of the board."""
        return self.profile.name

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer."""
        return self._pointer_size

    @property
    def page_size(self) -> int:
        """Bytes of a CPU page of the emulated board."""
        return self.profile.page_size

    def open(self, path: str, *, read_only: bool = False, sync: bool = False) -> int:
        """Open a device node."""
        with self.board.call(self._fds):
            self._injector.check("open", path, path)
            file = self.board.open(path)
            file.writable = not read_only
            return self._fds.install(file)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        with self.board.call(self._fds):
            try:
                self._injector.check("close")
            finally:
                self._fds.close(fd)  # Linux frees a descriptor whose close fails

    def ioctl(self, fd: int, request: int, arg: bytearray) -> int:
        """Perform an ioctl.

        Raises: OSError with Linux's errno; EmuFault for what is not modelled, and for faults of a job that this call
        waits for.
        """
        with self.board.call(self._fds):
            self._injector.check("ioctl", ioctl_name(request))
            return self._fds.get(fd).ioctl(request, arg)

    def flock(self, fd: int, lock: Lock) -> None:
        """Take, change or release the lock of an open file; never waits."""
        with self.board.call(self._fds):
            self._injector.check("flock", lock.value)
            self.board.flock(self._fds.get(fd), lock)

    def mmap(self, fd: int, size: int, offset: int) -> Mapping:
        """Map GPU memory. Registers are mapped by `mmio`."""
        with self.board.call(self._fds):
            self._injector.check("mmap")
            fail_if(size <= 0 or offset % self.page_size, errno.EINVAL)
            found = self._fds.get(fd).mmap(size, offset)
            if isinstance(found, RegisterBlock):
                raise self.board.not_modelled("mapping registers as memory", "use Port.mmio")
            made = EmuMapping(self.board, found)
            self._maps.add(made)
            return made

    def mmio(self, base: int, size: int) -> Registers:
        """Map device registers through /dev/mem. Raises: OSError ENOENT, EACCES, EPERM."""
        with self.board.call(self._fds):
            self._injector.check("mmio")
            self.board.open("/dev/mem")
            block = self.board.mem.registers(base, size)
            if block is None:
                raise fail(errno.EPERM)
            return EmuRegisters(self.board, block)

    def read_bytes(self, path: str) -> bytes:
        """The contents of a file of the board."""
        with self.board.call(self._fds):
            self._injector.check("read", path, path)
            return self.board.files.read(path)

    def listdir(self, path: str) -> list[str]:
        """The names in a directory."""
        with self.board.call(self._fds):
            self._injector.check("listdir", path, path)
            return self.board.files.listdir(path)

    def readlink(self, path: str) -> str:
        """The target of a symbolic link."""
        with self.board.call(self._fds):
            self._injector.check("readlink", path, path)
            return self.board.files.readlink(path)

    def stat(self, path: str) -> FileStat:
        """Mode and owner of a file."""
        with self.board.call(self._fds):
            self._injector.check("stat", path, path)
            return self.board.files.resolve(path)[1].as_stat()

    def monotonic(self) -> float:
        """Seconds of emulated time since the board's boot."""
        with self.board.lock:  # drivers call it often, and a signal handler may come between
            self.board.clock.now_ns += READ_CLOCK_NS
            return self.board.clock.now_ns / 1e9

    def sleep(self, seconds: float) -> None:
        """Advance emulated time."""
        with self.board.whole():
            self.board.clock.now_ns += max(0, round(seconds * 1e9))

    def getpid(self) -> int:
        """The process id of the host process."""
        return os.getpid()
