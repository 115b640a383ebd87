"""Access to the memory of the calling process, as Linux does it: a bad pointer gives EFAULT instead of a crash."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

__all__ = ["read_user", "read_words", "write_user"]

_CHECKED = sys.platform.startswith("linux")
# The functions of the system: `qpu emulate` replaces those of `os`.
_OPEN, _PREAD, _CLOSE = os.open, getattr(os, "pread", None), os.close
_LIMIT = 1 << 8 * ctypes.sizeof(ctypes.c_void_p)


def _fault() -> OSError:
    return OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def _probe(address: int, size: int) -> bytes:
    """The bytes at an address. On Linux, the host's Linux checks the address."""
    if not 0 < address <= _LIMIT - size:
        raise _fault()
    if _CHECKED and _PREAD is not None:
        # Opened each time: after a fork, an inherited descriptor would access the parent's memory.
        fd = _OPEN("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = _PREAD(fd, size, address) if address < 1 << 63 else b""
        except OSError:
            raise _fault() from None
        finally:
            _CLOSE(fd)
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
