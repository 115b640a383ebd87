"""Interface to the operating system: drivers and detection make every system call through a `Port`."""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = [
    "Bounds", "FileStat", "Interruptions", "Lock", "Mapping", "Port", "Registers", "Run", "bounds_of", "interrupting",
    "retrying", "submitted",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileStat:
    """Facts about a file that detection and advice use: type and permission bits, owner, group."""

    mode: int
    uid: int
    gid: int
    owner: str = ""
    group: str = ""


class Lock(enum.Enum):
    """Advisory lock of an open file, as in flock(2)."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"
    NONE = "none"


class Mapping(Protocol):
    """Memory shared with a device."""

    @property
    def view(self) -> memoryview:
        """The bytes, writable, format ``B``."""
        ...

    @property
    def address(self) -> int:
        """Host address of the first byte (VCSM locks by it)."""
        ...

    def close(self) -> None:
        """Unmap; idempotent. Raises: BufferError while views are alive."""
        ...


class Registers(Protocol):
    """A block of device registers. Only aligned 32-bit accesses exist."""

    def read32(self, offset: int) -> int: ...
    def write32(self, offset: int, value: int) -> None: ...
    def close(self) -> None: ...


@runtime_checkable
class Port(Protocol):
    """Every system call a driver makes. Failures are OSError with Linux's errno."""

    @property
    def emulated(self) -> str | None:
        """Name of the emulated board, None for the real machine.

        Drivers use it as a label, and to tell whether two ports reach the same machine.
        """
        ...

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer of this process, 4 or 8; request codes that hold pointers depend on it."""
        ...

    @property
    def page_size(self) -> int:
        """Bytes of a CPU page."""
        ...

    def open(self, path: str, *, read_only: bool = False, sync: bool = False) -> int:
        """Open a device node close-on-exec; returns the descriptor."""
        ...

    def close(self, fd: int) -> None:
        """Close a descriptor. Linux frees it also when this fails (close(2)), so it is never repeated."""
        ...

    def ioctl(self, fd: int, request: int, arg: bytearray) -> int:
        """One ioctl. `arg` is read and written in place, also when the call fails; EINTR is raised, not retried."""
        ...

    def flock(self, fd: int, lock: Lock) -> None:
        """Take, change or drop the lock of an open file; never waits.

        Raises: OSError EAGAIN when another holder excludes it. Changing a lock is not atomic: the old one may be lost.
        """
        ...

    def mmap(self, fd: int, size: int, offset: int) -> Mapping:
        """Map shared, readable and writable. `offset` is a multiple of the page size and may exceed 4 GiB."""
        ...

    def mmio(self, base: int, size: int) -> Registers:
        """Map `size` bytes of device registers at the physical address `base` through /dev/mem."""
        ...

    def read_bytes(self, path: str) -> bytes:
        """A whole small file: /proc, /sys, device tree."""
        ...

    def listdir(self, path: str) -> list[str]: ...
    def readlink(self, path: str) -> str: ...
    def stat(self, path: str) -> FileStat: ...

    def monotonic(self) -> float:
        """Seconds on a monotonic clock."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def getpid(self) -> int: ...


class Bounds(Protocol):
    """Exact bounds on an emulated board: what programs may access of each buffer object. Addresses are bus addresses.

    A buffer object that is not announced can be accessed as a whole, to the end of its last page.
    """

    def buffer(self, address: int, used: int, name: str) -> None:
        """Programs may access the first `used` bytes of the buffer object at `address`."""
        ...

    def expose(self, address: int) -> None:
        """The CPU gets access to the buffer object at `address`, and may write any of it."""
        ...

    def discard(self, address: int) -> None:
        """Nobody reads the buffer object at `address`; the order of stores to it does not matter."""
        ...

    def code(self, address: int) -> None:
        """The buffer object at `address` holds code, which only instruction fetch reads."""
        ...

    def streams(self, address: int, streams: Sequence[tuple[int, int]]) -> None:
        """Only uniform streams read the buffer object: pages of `streams`, each of which ends with a page.

        streams: address and bytes of each. The page after it belongs to no other.
        """
        ...

    def known_streams(self, address: int) -> Sequence[tuple[int, int]]:
        """The uniform streams of the buffer object at `address`: address and bytes of each."""
        ...


class Run(Protocol):
    """Identity of a job on an emulated board; the fence holds it, so that each job has its own statistics."""

    @property
    def stats(self) -> object | None:
        """`qpu.emu.engine.machine.RunStats` of the job once it has ended; None before, and when it never started."""
        ...


def bounds_of(port: Port) -> Bounds | None:
    """The exact bounds that a port checks; None on a real board, and where bounds are those of pages."""
    found: Bounds | None = getattr(port, "bounds", None)
    return found


def submitted(port: Port) -> Run | None:
    """The last job that the calling thread submitted through `port`; None on a port that does not identify jobs.

    Each job is returned once; a driver calls this function right after its submission.
    """
    found = getattr(port, "submitted", None)
    run: Run | None = None if found is None else found()
    return run


RETRY_S = 5.0  # how long, and how often at most, a call that signals interrupt is repeated
RETRIES = 10_000


class Interruptions:
    """The interruptions of one wait: many in a short time mean that the call does nothing else."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._count, self._since = 0, port.monotonic()

    def again(self) -> bool:
        """Count one; False when the wait has to be given up."""
        self._count += 1
        if self._count < RETRIES:
            return True
        now = self._port.monotonic()
        if now - self._since < RETRY_S:
            return False
        self._count, self._since = 0, now
        return True


def retrying(
    port: Port,
    fd: int,
    request: int,
    arg: bytearray,
    errnos: Collection[int] = (errno.EINTR,),
    check: Callable[[], None] | None = None,
) -> int:
    """One ioctl, repeated while it fails with one of `errnos`; KeyboardInterrupt is raised between attempts.

    check: called between attempts; an exception that it raises ends the repetition. Raises: OSError.
    """
    deadline: float | None = None
    for left in range(RETRIES, -1, -1):
        try:
            return port.ioctl(fd, request, arg)
        except OSError as error:
            now = port.monotonic()
            deadline = now + RETRY_S if deadline is None else deadline
            if error.errno not in errnos or now > deadline or not left:
                raise
        if check is not None:
            check()
    raise AssertionError("unreachable")


def interrupting(port: Port, threads: Collection[int] | None = None) -> AbstractContextManager[None]:
    """Interrupt system calls of other threads while the block runs, where the port can.

    On an emulated board a call of another thread may emulate for a long time; the interrupted call fails with EINTR.
    On a real Linux nothing is done, because a waiting thread does not keep another one from closing the device.
    threads: identifiers of the threads concerned (default: all others).
    """
    found = getattr(port, "interrupting", None)
    context: AbstractContextManager[None] = nullcontext() if found is None else found(threads)
    return context
