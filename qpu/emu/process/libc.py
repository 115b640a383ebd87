"""The C library through ctypes under `qpu emulate`: open, close, ioctl, mmap and munmap for devices of the board.

Other functions of the library raise EmuFault for files and descriptors of the board.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from qpu.emu.linux.board import Board
from qpu.emu.linux.core import RegisterBlock, Span, fail, fail_if
from qpu.emu.process.files import FilePatches

__all__ = ["LibcCalls", "is_libc"]

_WORD = (1 << 8 * ctypes.sizeof(ctypes.c_void_p)) - 1
_FAILED = _WORD  # MAP_FAILED, and -1
# Functions that are faults with a path of the board, and the position of that argument.
_BY_PATH = {
    **dict.fromkeys(
        "fopen fopen64 creat access stat lstat stat64 lstat64 opendir readlink chmod chown statx".split(), 0
    ),
    **dict.fromkeys("openat openat64 faccessat readlinkat fstatat fstatat64 __xstat __lxstat __xstat64".split(), 1),
}
# Functions that are faults with a descriptor of the board, and the position of that argument.
_BY_FD = dict.fromkeys(
    "read write pread pwrite pread64 pwrite64 readv writev lseek lseek64 fdopen fcntl fcntl64 dup dup2 dup3 fstat "
    "fstat64 ftruncate fsync fchmod flock lockf".split(),
    0,
)


def is_libc(name: object) -> bool:
    """Whether loading `name` gives the C library: its file, or None for the process itself."""
    if name is None:
        return True
    if not isinstance(name, (str, os.PathLike)):
        return False
    return re.match(r"(libc|libpthread)([.-]|$)", os.path.basename(os.fspath(name))) is not None


class LibcCalls:
    """The replaced functions of the C library. Every emulation has one object."""

    def __init__(
        self, files: FilePatches, board: Callable[[], Board], ioctl_at: Callable[[int, int, int], int]
    ) -> None:
        """board: gives the board, which is made at its first use. ioctl_at: ioctl(2): descriptor, request, address."""
        self._files = files
        self._board = board
        self._ioctl_at = ioctl_at
        self._maps: dict[int, tuple[int, Board, Span]] = {}  # address -> length, board and mapped memory
        self._mine: dict[str, Callable[..., int | None]] = {
            "open": self._open,
            "open64": self._open,
            "close": self._close,
            "ioctl": self._ioctl,
            "mmap": self._mmap,
            "mmap64": self._mmap,
            "munmap": self._munmap,
            "msync": self._msync,
        }

    def wrap(self, name: str, function: Any, use_errno: bool) -> Any:
        """The function `name` of the library; a replacement if the function can access the board."""
        if name in self._mine:
            return _Function(name, function, self._mine[name], use_errno)
        if name in _BY_PATH or name in _BY_FD:
            return _Function(name, function, lambda *args: self._refuse(name, args), use_errno)
        return function

    # A result of None means: not a device of the board, call the system's function.

    def _refuse(self, name: str, args: Sequence[Any]) -> None:
        files, board = self._files, self._board()
        at = _BY_PATH.get(name)
        if at is not None and len(args) > at:
            full = files.owned(_text(args[at]))
            if full is not None:
                raise board.not_modelled(f"{name}() of the C library on {full}")
        at = _BY_FD.get(name)
        if at is not None and len(args) > at and files.known(_number(args[at])):
            raise board.not_modelled(f"{name}() of the C library on {board.fds.get(_number(args[at])).path}")

    def _open(self, path: Any, flags: Any, *mode: Any) -> int | None:
        text = _text(path)
        if text is None or self._files.owned(text) is None:
            return None
        return self._files.open(text, _number(flags))

    def _close(self, fd: Any) -> int | None:
        if not self._files.known(_number(fd)):
            return None
        self._files.close(_number(fd))
        return 0

    def _ioctl(self, fd: Any, request: Any, *arg: Any) -> int | None:
        number = _number(fd)
        if not self._files.known(number):
            return None
        return self._ioctl_at(number, _number(request), _number(arg[0]) if arg else 0)

    def _mmap(self, address: Any, length: Any, prot: Any, flags: Any, fd: Any, offset: Any) -> int | None:
        number = ctypes.c_int(_number(fd)).value
        if number < 0 or not self._files.known(number):
            return None
        board = self._board()
        size, start, how = _number(length), _number(offset), _number(flags)
        with board.call():
            path = board.fds.get(number).path
            fail_if(not 0 < size <= _WORD >> 1 or start % board.profile.page_size, errno.EINVAL)
            if not how & mmap.MAP_SHARED:
                raise board.not_modelled(f"a private map (flags 0x{how:x}) of {path}")
            found = board.fds.get(number).mmap(size, start)
            if isinstance(found, RegisterBlock):
                advice = "use mmap.mmap: accesses through a pointer cannot be emulated"
                raise board.not_modelled(f"mmap() of the C library of registers at 0x{found.base:x}", advice)
            kinds = ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64
            real = ctypes.CFUNCTYPE(ctypes.c_void_p, *kinds, use_errno=True)(
                ("mmap64" if ctypes.sizeof(ctypes.c_void_p) == 4 else "mmap", ctypes.CDLL(None))
            )
            at = real(_number(address), size, _number(prot), how, board.memory.fd, found.address)
            if at in (None, _FAILED):
                found.release()
                raise fail(ctypes.get_errno())
            self._maps[at] = size, board, found
            if found.placed is not None:
                found.placed(at)
        return int(at)

    def _munmap(self, address: Any, length: Any) -> int | None:
        at, size = _number(address), _number(length)
        if at not in self._maps:
            for start, (have, board, _) in self._maps.items():
                if start < at + size and at < start + have:
                    raise board.not_modelled(f"munmap() of 0x{size:x} bytes inside a map of 0x{have:x} bytes")
            return None
        have, board, span = self._maps[at]
        page = mmap.PAGESIZE - 1
        if (size + page) & ~page != (have + page) & ~page:
            raise board.not_modelled(f"munmap() of 0x{size:x} bytes of a map of 0x{have:x} bytes")
        del self._maps[at]
        with board.whole():
            if not board.closed:
                span.release()
        return None  # the system's function unmaps the addresses

    def _msync(self, address: Any, length: Any, flags: Any) -> int | None:
        return 0 if _number(address) in self._maps else None


class _Function:
    """A function of a library as ctypes has it: restype, argtypes and errcheck apply to the replacement too."""

    def __init__(self, name: str, real: Any, mine: Callable[..., int | None], use_errno: bool) -> None:
        object.__setattr__(self, "_parts", (name, real, mine, use_errno))
        self.__name__ = name

    @property
    def _as_parameter_(self) -> Any:
        return self._parts[1]

    def __getattr__(self, name: str) -> Any:
        if name == "_parts":
            raise AttributeError(name)
        return getattr(self._parts[1], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._parts[1], name, value)

    def __call__(self, *args: Any) -> Any:
        _, real, mine, use_errno = self._parts
        try:
            value = mine(*args)
        except OSError as error:
            number = error.errno or errno.EIO
            if use_errno:
                ctypes.set_errno(number)
            value = -1
        except TypeError:
            if real.argtypes is not None:
                return real(*args)  # the system's function gives the better message
            raise
        if value is None:
            return real(*args)
        result = _as(real.restype, value)
        check = getattr(real, "errcheck", None)
        return check(result, self, args) if check is not None else result


def _as(kind: Any, value: int) -> Any:
    """A C result converted as ctypes does it for a restype."""
    if kind is None:
        return None
    if isinstance(kind, type) and issubclass(kind, ctypes._SimpleCData):
        made = kind(value & _WORD if value < 0 and kind is ctypes.c_void_p else value)
        return made.value if kind.__mro__[1] is ctypes._SimpleCData else made
    if isinstance(kind, type) and issubclass(kind, ctypes._Pointer):
        return ctypes.cast(ctypes.c_void_p(value), kind)
    return kind(ctypes.c_int(value).value)


def _number(arg: Any) -> int:
    """An argument as the C function receives it: a number unchanged, everything else as an address."""
    if arg is None:
        return 0
    if isinstance(arg, int):
        return arg
    parameter = getattr(arg, "_as_parameter_", None)
    if parameter is not None:
        return _number(parameter)
    if isinstance(arg, ctypes._SimpleCData):
        value = arg.value
        if value is None:
            return 0
        if isinstance(value, int):
            return value
    found = ctypes.cast(arg, ctypes.c_void_p).value
    return 0 if found is None else found


def _text(arg: Any) -> bytes | None:
    """A path argument as bytes; None if the argument is not text."""
    if isinstance(arg, bytes):
        return arg
    if isinstance(arg, (ctypes.c_char_p, ctypes.Array)):
        value = arg.value
        return value if isinstance(value, bytes) else None
    return None
