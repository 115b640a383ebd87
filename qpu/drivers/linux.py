"""The `Port` of the real machine: system calls of Linux, whose modules are imported when a call is made."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from qpu.drivers.port import FileStat, Lock, Mapping, Registers
from qpu.errors import UsageError

if TYPE_CHECKING:
    import mmap as mmap_module

__all__ = ["LinuxMapping", "LinuxPort", "LinuxRegisters"]

_REDIRECTED = ("proc", "sys", "dev", "run")
_MAX_LINKS = 40


class LinuxMapping:
    """A shared map of a device file."""

    __slots__ = ("_map", "address")

    def __init__(self, fd: int, size: int, offset: int) -> None:
        import ctypes
        import mmap

        # mmap duplicates the descriptor, so that each buffer costs one; Python 3.13 can switch that off.
        extra: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        self._map: mmap_module.mmap | None = mmap.mmap(
            fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=offset, **extra
        )
        probe = ctypes.c_char.from_buffer(self._map)
        self.address: int = ctypes.addressof(probe)
        del probe  # it would count as a view

    @property
    def view(self) -> memoryview:
        """The bytes; a new view each time."""
        if self._map is None:
            raise ValueError("this memory is unmapped")
        return memoryview(self._map)

    def close(self) -> None:
        """Unmap. Raises BufferError while views are alive."""
        if self._map is not None:
            self._map.close()
            self._map = None


class _Words:
    """32-bit words of a map that supports slices only."""

    def __init__(self, registers: mmap_module.mmap) -> None:
        self._map = registers

    def __getitem__(self, index: int) -> int:
        return int.from_bytes(self._map[4 * index : 4 * index + 4], "little")

    def __setitem__(self, index: int, value: int) -> None:
        self._map[4 * index : 4 * index + 4] = value.to_bytes(4, "little")

    def release(self) -> None:
        """Nothing to release."""


class LinuxRegisters:
    """Registers through /dev/mem: single aligned 32-bit accesses, never a block copy."""

    __slots__ = ("_base", "_fd", "_map", "_size", "_words")

    def __init__(self, fd: int, base: int, size: int, page_size: int) -> None:
        import mmap

        start = base - base % page_size
        self._base = base - start
        self._size = size
        self._fd = fd
        length = (self._base + size + page_size - 1) // page_size * page_size
        self._map = mmap.mmap(fd, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=start)
        self._words: memoryview | _Words | None
        try:
            self._words = memoryview(self._map).cast("I")
        except TypeError:  # under `qpu emulate` the registers are not memory
            self._words = _Words(self._map)

    def _index(self, offset: int) -> int:
        if offset % 4 or not 0 <= offset <= self._size - 4:
            raise ValueError(f"register offset {offset:#x}; allowed: multiples of 4 below {self._size:#x}")
        return (self._base + offset) // 4

    def _open(self) -> memoryview | _Words:
        if self._words is None:
            raise ValueError("these registers are unmapped")
        return self._words

    def read32(self, offset: int) -> int:
        """The register at `offset` bytes."""
        return int(self._open()[self._index(offset)])

    def write32(self, offset: int, value: int) -> None:
        """Set the register at `offset` bytes to a u32."""
        self._open()[self._index(offset)] = value

    def close(self) -> None:
        """Unmap; idempotent."""
        if self._words is not None:
            self._words.release()
            self._words = None
            self._map.close()
            os.close(self._fd)


class LinuxPort:
    """System calls of this process.

    sysroot: directory below which names in /proc, /sys, /dev and /run are looked up (default: QPU_SYSROOT, else none).
    Symbolic links are followed inside the sysroot. Raises: UsageError when it is not a directory.
    """

    def __init__(self, sysroot: str | None = None) -> None:
        self.sysroot = os.environ.get("QPU_SYSROOT", "") if sysroot is None else sysroot
        if self.sysroot and not os.path.isdir(self.sysroot):
            raise UsageError(
                f"QPU_SYSROOT={self.sysroot!r} is not a directory",
                help="unset it, or name a directory that holds proc, sys and dev",
            )

    @property
    def emulated(self) -> str | None:
        """Name of the board under `qpu emulate`, so that its times are not mistaken for a Pi's; else None."""
        return os.environ.get("QPU_EMULATE") or None

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer of this Python; a 32-bit Python may run on a 64-bit Linux kernel."""
        import ctypes  # not `struct`, which has other sizes under `qpu emulate --board pi3,bits=32`

        return ctypes.sizeof(ctypes.c_void_p)

    @property
    def page_size(self) -> int:
        """Bytes of a CPU page: 4096, or 16384 with the default Linux kernel of a Pi 5."""
        import mmap

        return mmap.PAGESIZE

    def locate(self, path: str, *, follow: bool = True) -> str:
        """The path to open for `path`: below the sysroot, with links resolved inside it, as after a chroot."""
        if not self.sysroot:
            return path
        parts = PurePosixPath(os.path.normpath(path)).parts
        if len(parts) < 2 or parts[0] != "/" or (parts[1] not in _REDIRECTED and not path.startswith("/.")):
            return path
        todo = list(parts[1:])
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                del done[-1:]
                continue
            here = os.path.join(self.sysroot, *done, part)
            if Path(here).is_symlink() and (todo or follow):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = PurePosixPath(Path(here).readlink())
                if target.is_absolute():
                    done.clear()
                todo = [p for p in target.parts if p != "/"] + todo
            else:
                done.append(part)
        return os.path.join(self.sysroot, *done)

    def open(self, path: str, *, read_only: bool = False, sync: bool = False) -> int:
        """Open a device node close-on-exec."""
        flags = os.O_RDONLY if read_only else os.O_RDWR
        flags |= getattr(os, "O_CLOEXEC", 0)
        if sync:
            flags |= getattr(os, "O_SYNC", 0)
        return os.open(self.locate(path), flags)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def ioctl(self, fd: int, request: int, arg: bytearray) -> int:
        """One ioctl; `arg` is updated in place, on failure too where the interpreter copies it back."""
        try:
            import fcntl
        except ImportError:
            raise OSError(errno.ENOSYS, "this system has no ioctl; use an emulated board") from None
        return int(fcntl.ioctl(fd, request, arg, True))

    def flock(self, fd: int, lock: Lock) -> None:
        """Take, change or drop the lock of an open file; never waits."""
        try:
            import fcntl
        except ImportError:
            raise OSError(errno.ENOSYS, "this system has no flock; use an emulated board") from None
        how = {Lock.SHARED: fcntl.LOCK_SH, Lock.EXCLUSIVE: fcntl.LOCK_EX, Lock.NONE: fcntl.LOCK_UN}[lock]
        fcntl.flock(fd, how | fcntl.LOCK_NB)

    def mmap(self, fd: int, size: int, offset: int) -> Mapping:
        """Map shared, readable and writable."""
        _needs_linux()
        return LinuxMapping(fd, size, offset)

    def mmio(self, base: int, size: int) -> Registers:
        """Device registers through /dev/mem, opened with O_SYNC."""
        _needs_linux()
        fd = self.open("/dev/mem", sync=True)
        try:
            return LinuxRegisters(fd, base, size, self.page_size)
        except BaseException:
            os.close(fd)
            raise

    def read_bytes(self, path: str) -> bytes:
        """A whole small file."""
        with open(self.locate(path), "rb") as file:
            return file.read()

    def listdir(self, path: str) -> list[str]:
        """Names in a directory, sorted."""
        return sorted(os.listdir(self.locate(path)))

    def readlink(self, path: str) -> str:
        """Target of a symbolic link, as the link contains it."""
        return str(Path(self.locate(path, follow=False)).readlink())

    def stat(self, path: str) -> FileStat:
        """Mode and owner of a file; links are followed."""
        found = Path(self.locate(path)).stat()
        user, group = _name("pwd", "getpwuid", found.st_uid), _name("grp", "getgrgid", found.st_gid)
        return FileStat(found.st_mode, found.st_uid, found.st_gid, user, group)

    def monotonic(self) -> float:
        """Seconds; on Linux the clock that SYNCOBJ_WAIT uses."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep for a number of seconds."""
        time.sleep(seconds)

    def getpid(self) -> int:
        """Process id."""
        return os.getpid()


def _needs_linux() -> None:
    import mmap

    if not hasattr(mmap, "MAP_SHARED"):
        raise OSError(errno.ENOSYS, "this system cannot map device memory; use an emulated board")


def _name(module: str, function: str, number: int) -> str:
    """Name of a user or group, empty where it has none."""
    try:
        return str(getattr(importlib.import_module(module), function)(number)[0])
    except (ImportError, KeyError):
        return ""
