"""Access to the memory of the calling process, as Linux does it: a bad pointer gives EFAULT instead of a crash."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

__all__ = ["read_user", "read_words", "write_user"]

if sys.platform.startswith("linux"):
    import fcntl

    _CHECKED = True
    # The functions of the system: `qpu emulate` replaces those of `os`.
    _OPEN, _PREAD, _CLOSE, _FCNTL = os.open, os.pread, os.close, fcntl.fcntl
else:
    _CHECKED = False
_MEMORY = "/proc/self/mem"
_HIGH = 500  # least number of the descriptor that stays open
_own: tuple[int, int] | None = None  # process and descriptor
_LIMIT = 1 << 8 * ctypes.sizeof(ctypes.c_void_p)


def _fault() -> OSError:
    return OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def _kept() -> int:
    """A descriptor of the memory of this process that stays open; -1 if the process may not open so many.

    Opening it takes longer than reading. Its number is high, so that no other file gets the number when a program
    closes descriptors that it did not open. After a fork, an inherited descriptor would access the parent's memory.
    """
    global _own
    pid = os.getpid()
    if _own is None or _own[0] != pid:
        fd = _OPEN(_MEMORY, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _own = pid, _FCNTL(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        except OSError:
            return -1
        finally:
            _CLOSE(fd)
    return _own[1]


def _read(fd: int, address: int, size: int) -> bytes:
    """The bytes at an address as Linux reads them; fewer where it cannot."""
    try:
        return _PREAD(fd, size, address)
    except OSError:
        return b""


def _read_anew(address: int, size: int) -> bytes:
    """As `_read`, through a new descriptor: for addresses that the other could not read."""
    global _own
    fd = _OPEN(_MEMORY, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = _read(fd, address, size)
    finally:
        _CLOSE(fd)
    if len(data) == size:
        _own = None  # a program has closed it
    return data


def _probe(address: int, size: int) -> bytes:
    """The bytes at an address. On Linux, the host's Linux checks the address."""
    if not 0 < address <= _LIMIT - size:
        raise _fault()
    if _CHECKED:
        if address >= 1 << 63:
            raise _fault()
        data = _read(_kept(), address, size)
        if len(data) != size:
            data = _read_anew(address, size)
        if len(data) != size:
            raise _fault()
        return data
    return ctypes.string_at(address, size)


def read_user(address: int, size: int) -> bytes:
    """`size` bytes at a pointer of this process. Raises: OSError EFAULT."""
    return _probe(address, size) if size else b""


def read_words(address: int, count: int) -> tuple[int, ...]:
    """`count` u32 words at a pointer of this process. Raises: OSError EFAULT."""
    return struct.unpack(f"<{count}I", read_user(address, 4 * count))


def write_user(address: int, data: bytes | bytearray | memoryview) -> None:
    """Store `data` at a pointer of this process. Raises: OSError EFAULT."""
    raw = bytes(data)
    if raw:
        _probe(address, len(raw))
        ctypes.memmove(address, raw, len(raw))
