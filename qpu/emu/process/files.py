"""The file functions of `qpu emulate`: paths of the emulated board refer to its files, other paths to the host's."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import posixpath
import stat
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from qpu.emu.linux.core import FdTable, OpenFile, fail, fail_if
from qpu.emu.linux.files import Node
from qpu.emu.process.paths import ANCESTORS, Entry, Paths, Scan

if TYPE_CHECKING:
    from qpu.emu.linux.board import Board

__all__ = ["FilePatches", "RealFds"]

_UNMODELLED = (
    "read write pread pwrite readv writev preadv pwritev lseek ftruncate fsync fdatasync fchmod fchown fpathconf "
    "fstatvfs lockf posix_fadvise posix_fallocate sendfile copy_file_range splice"
).split()


class RealFds(FdTable):
    """Descriptors of the real process. For each device, /dev/null is open, which reserves the descriptor."""

    def __init__(self, opened: Callable[..., int], closed: Callable[[int], None]) -> None:
        super().__init__()
        self._open = opened
        self._close = closed
        self._null = _REAL["stat"]("/dev/null").st_rdev

    def allocate(self) -> int:
        """A new descriptor."""
        return self._open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def discard(self, fd: int) -> None:
        """Close the descriptor of the process."""
        self._close(fd)

    def forget(self, fd: int) -> None:
        """Drop a descriptor that the program has closed without the replacements."""
        file = self._files.pop(fd)
        file.count -= 1
        if file.count == 0:
            file.release()

    def known(self, fd: int) -> bool:
        """Whether `fd` is a descriptor of a device, and still refers to it."""
        if fd not in self._files:
            return False
        try:
            if _REAL["fstat"](fd).st_rdev == self._null:
                return True
        except OSError:
            pass
        self.forget(fd)  # closed, or closed and reused, without the replacements
        return False


_TWO = ("sendfile", "copy_file_range", "splice")  # functions with two descriptors
_FD_NAMES = ("fd", "out_fd", "in_fd", "src", "dst")
_REPLACED = (
    "open close closerange dup dup2 fstat stat lstat access readlink listdir scandir chdir fchdir getcwd getcwdb"
).split()
_REAL: dict[str, Any] = {name: getattr(os, name) for name in _REPLACED + _UNMODELLED if hasattr(os, name)}
_REAL_OPEN = builtins.open
_REAL_FILEIO = io.FileIO


class FilePatches:
    """The replacements for functions of `os` and `io`, and their installation."""

    def __init__(self, board: Callable[[], Board], made: Callable[[], Board | None], inherited: set[int]) -> None:
        """board: gives the board, made at its first use. made: gives it or None. inherited: descriptors of a parent."""
        self._board = board
        self._made = made
        self._inherited = inherited
        self.replaced: list[tuple[Any, str, Any]] = []  # where, name, the system's function
        self.paths = Paths()
        self.file_io = self._file_io()
        self.inside = threading.local()  # .depth > 0: a replacement calls the system's functions

    @contextlib.contextmanager
    def _trusted(self) -> Iterator[None]:
        self.inside.depth = self.trusted + 1
        try:
            yield
        finally:
            self.inside.depth = self.trusted - 1

    @property
    def trusted(self) -> int:
        """Greater than 0 while a replacement on this thread calls the system's functions with paths of the board."""
        return getattr(self.inside, "depth", 0)

    def owned(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The absolute path if it belongs to the board, else None."""
        return self.paths.owned(path, dir_fd)

    def _node(self, path: str, shown: Any, *, follow: bool = True) -> Node:
        return self._board().files.resolve(path, follow=follow, shown=shown)[1]

    # descriptors

    def known(self, fd: object) -> bool:
        """Whether `fd` belongs to an emulated device. Raises: EmuFault if it was opened before a fork."""
        if not isinstance(fd, int):
            return False
        if fd in self._inherited:
            advice = "open the device in the child process"
            raise self._board().not_modelled(f"descriptor {fd} of a device that was opened before fork()", advice)
        board = self._made()
        if board is None or fd not in board.fds:
            return False
        assert isinstance(board.fds, RealFds)
        with board.whole():
            return board.fds.known(fd)

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """os.open"""
        full = self.owned(path, dir_fd)
        if full is not None:
            return self._open_owned(full, path, flags)
        path, dir_fd = self.paths.real(path, dir_fd)
        return int(_REAL["open"](path, flags, mode, dir_fd=dir_fd))

    def _open_owned(self, full: str, shown: Any, flags: int) -> int:
        board = self._board()
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        with board.call():
            node = self._node(full, shown)
            fail_if(flags & os.O_CREAT and flags & os.O_EXCL, errno.EEXIST, shown)
            if flags & os.O_PATH == os.O_PATH:
                raise board.not_modelled(f"os.open of {full} with O_PATH")
            if node.kind == stat.S_IFDIR:
                fail_if(writing or flags & os.O_CREAT, errno.EISDIR, shown)
                return self.paths.open_directory(self._board().files.resolve(full)[0], flags)
            fail_if(flags & os.O_DIRECTORY == os.O_DIRECTORY, errno.ENOTDIR, shown)
            if node.kind == stat.S_IFREG:
                fail_if(writing, errno.EACCES, shown)
                return self._copy(posixpath.basename(full), node.data, flags & os.O_CLOEXEC)
            try:
                file = board.open(full)
            except OSError as error:
                raise fail(error.errno or errno.EIO, shown) from None
            file.writable = writing
            fd = int(_REAL["open"]("/dev/null", flags & (os.O_ACCMODE | os.O_CLOEXEC | os.O_NONBLOCK)))
            board.fds.adopt(fd, file)
            return fd

    @staticmethod
    def _copy(name: str, data: bytes, flags: int) -> int:
        """A read-only descriptor of a memory file with `data`."""
        writer = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            _REAL["write"](writer, data)
            _REAL["fchmod"](writer, 0o444)
            return int(_REAL["open"](f"/proc/self/fd/{writer}", os.O_RDONLY | flags))
        finally:
            _REAL["close"](writer)

    def _own(self) -> set[int]:
        """Descriptors that the emulation needs; programs that close all descriptors must not close them."""
        board = self._made()
        return self.paths.own if board is None or board.closed else {board.memory.fd, *self.paths.own}

    def close(self, fd: int) -> None:
        """os.close"""
        if fd in self._own():
            raise fail(errno.EBADF)  # the program has not opened such a descriptor
        if fd in self._inherited:
            self._inherited.discard(fd)
        elif self.known(fd):
            with self._board().call():
                self._board().fds.close(fd)
            return
        _REAL["close"](fd)

    def closerange(self, low: int, high: int) -> None:
        """os.closerange"""
        board = self._made()
        if board is not None:
            with board.whole():
                for fd, _ in board.fds.open:
                    if low <= fd < high:
                        board.fds.close(fd)
        self.paths.forget_directories(low, high)
        for fd in sorted(fd for fd in self._own() if low <= fd < high):
            _REAL["closerange"](low, fd)
            low = fd + 1
        _REAL["closerange"](low, high)

    def duplicated(self, fd: int, copy: int) -> int:
        """Record that `copy` duplicates the descriptor `fd` of the board; returns `copy`."""
        if self.paths.directory(fd) is not None:
            self.paths.duplicate_directory(fd, copy)
            return copy
        board = self._board()
        with board.whole():
            board.fds.adopt(copy, board.fds.get(fd))
        return copy

    def dup(self, fd: int) -> int:
        """os.dup"""
        known = self.known(fd)
        copy = int(_REAL["dup"](fd))
        return self.duplicated(fd, copy) if known or self.paths.directory(fd) is not None else copy

    def dup2(self, fd: int, fd2: int, inheritable: bool = True) -> int:
        """os.dup2"""
        known = self.known(fd)
        if fd2 in self._own():
            advice = "use another number: the emulation uses this one"
            raise self._board().not_modelled(f"os.dup2 to descriptor {fd2}", advice)
        if fd != fd2 and self.known(fd2):
            self.forget(fd2)
        copy = int(_REAL["dup2"](fd, fd2, inheritable))
        mine = known or self.paths.directory(fd) is not None
        return self.duplicated(fd, copy) if mine and fd != fd2 else copy

    def fstat(self, fd: int) -> os.stat_result:
        """os.fstat"""
        if self.known(fd):
            file: OpenFile = self._board().fds.get(fd)
            try:
                real, node = self._board().files.resolve(file.path)
            except OSError:  # a buffer or a sync object: an anonymous file
                return _REAL["fstat"](fd)  # type: ignore[no-any-return]  # taken from a table
            return self._result(real, node)
        directory = self.paths.directory(fd)
        if directory is not None:
            return self.stat(directory)
        return _REAL["fstat"](fd)  # type: ignore[no-any-return]  # taken from a table

    def _refusing(self, name: str) -> Callable[..., Any]:
        real = _REAL[name]
        descriptors = 2 if name in _TWO else 1

        def refuse(*args: Any, **named: Any) -> Any:
            for fd in (*args[:descriptors], *(named[n] for n in _FD_NAMES if n in named)):
                if self.known(fd):
                    raise self._board().not_modelled(f"os.{name} on {self._board().fds.get(fd).path}")
            return real(*args, **named)

        refuse.__name__ = name
        return refuse

    # paths

    def _result(self, path: str, node: Node) -> os.stat_result:
        board = self._board()
        size = len(node.data) if node.kind == stat.S_IFREG else len(node.target)
        found = node.as_stat()
        inode = 1 + sorted(p for p, _ in board.files).index(path)
        return os.stat_result(
            (node.mode, inode, 0xE40, 1, found.uid, found.gid, size, 0, 0, 0),
            {"st_rdev": os.makedev(*node.rdev), "st_blksize": 4096, "st_blocks": (size + 511) // 512},
        )

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        """os.stat"""
        if isinstance(path, int):
            return self.fstat(path)
        full = self.owned(path, dir_fd)
        if full is not None:
            return self._result(*self._board().files.resolve(full, follow=follow_symlinks, shown=path))
        up = self.paths.absolute(path, dir_fd)
        try:
            where, dir_fd = self.paths.real(path, dir_fd)
            return _REAL["stat"](where, dir_fd=dir_fd, follow_symlinks=follow_symlinks)  # type: ignore[no-any-return]
        except FileNotFoundError:
            if up is None or up not in ANCESTORS:
                raise
            return self._result(*self._board().files.resolve(up, follow=follow_symlinks, shown=path))

    def lstat(self, path: Any, *, dir_fd: int | None = None) -> os.stat_result:
        """os.lstat"""
        return self.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def access(self, path: Any, mode: int, *, dir_fd: int | None = None, **named: Any) -> bool:
        """os.access"""
        full = self.owned(path, dir_fd)
        if full is None:
            path, dir_fd = self.paths.real(path, dir_fd)
            return bool(_REAL["access"](path, mode, dir_fd=dir_fd, **named))
        try:
            node = self._node(full, path)
        except OSError:
            return False
        board = self._board()
        if node.kind == stat.S_IFCHR:
            closed = board.profile.deny or (node.device == "mem" and not board.profile.devmem)
            return not mode & os.X_OK and not (closed and mode & (os.R_OK | os.W_OK))
        if node.kind == stat.S_IFREG:
            return not mode & (os.X_OK | os.W_OK)
        return not mode & os.W_OK

    def readlink(self, path: Any, *, dir_fd: int | None = None) -> Any:
        """os.readlink"""
        full = self.owned(path, dir_fd)
        if full is None:
            path, dir_fd = self.paths.real(path, dir_fd)
            return _REAL["readlink"](path, dir_fd=dir_fd)
        node = self._node(full, path, follow=False)
        fail_if(node.kind != stat.S_IFLNK, errno.EINVAL, path)
        return os.fsencode(node.target) if isinstance(path, bytes) else node.target

    def _names(self, full: str, shown: Any) -> list[str]:
        node = self._node(full, shown)
        fail_if(node.kind != stat.S_IFDIR, errno.ENOTDIR, shown)
        return sorted(node.names)

    def listdir(self, path: Any = None) -> list[Any]:
        """os.listdir"""
        path = "." if path is None else path
        full = self.paths.absolute(path)
        if full is not None and self.owned(full) is not None:
            names = self._names(full, path)
        elif full in ANCESTORS:
            names = sorted({e.name for e in self._merged(full, path)})
        else:
            return list(_REAL["listdir"](self.paths.real(path)[0]))
        return [os.fsencode(n) for n in names] if isinstance(path, bytes) else list(names)

    def scandir(self, path: Any = None) -> Any:
        """os.scandir"""
        path = "." if path is None else path
        full = self.paths.absolute(path)
        if full is not None and (self.owned(full) is not None or full in ANCESTORS):
            return Scan(self._merged(full, path))
        return _REAL["scandir"](self.paths.real(path)[0])

    def _merged(self, full: str, shown: Any) -> list[Any]:
        text = "" if isinstance(shown, int) else os.fsdecode(os.fspath(shown))
        entries: list[Any] = []
        if self.owned(full) is None:
            try:
                with _REAL["scandir"](self.paths.real(text or full)[0]) as scan:
                    entries = [e for e in scan if self.owned(posixpath.join(full, e.name)) is None]
            except FileNotFoundError:
                self._node(full, shown)  # the directory exists only on the board
        present = {e.name for e in entries}
        try:
            names = self._names(full, shown)
        except FileNotFoundError:
            if self.owned(full) is not None:
                raise
            names = []
        entries += [Entry(self, full, n, posixpath.join(text, n)) for n in names if n not in present]
        return entries

    # the working directory

    def chdir(self, path: Any) -> None:
        """os.chdir"""
        full = self.paths.absolute(path)
        if full is not None and self.owned(full) is not None:
            self._names(full, path)
            self.paths.enter(self._board().files.resolve(full)[0])
            return
        try:
            _REAL["chdir"](self.paths.real(path)[0])
        except FileNotFoundError:
            if full not in ANCESTORS:
                raise
            self._names(full, path)
            self.paths.enter(full)
            return
        self.paths.leave()

    def fchdir(self, fd: Any) -> None:
        """os.fchdir"""
        directory = self.paths.directory(fd)
        if directory is not None:
            self.paths.enter(directory)
            return
        fail_if(self.known(fd), errno.ENOTDIR)
        _REAL["fchdir"](fd)
        self.paths.leave()

    def getcwd(self) -> str:
        """os.getcwd"""
        return self.paths.getcwd()

    def getcwdb(self) -> bytes:
        """os.getcwdb"""
        return self.paths.getcwdb()

    # file objects

    def open_file(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """builtins.open"""
        if opener is not None or not (self.known(file) or self.owned(file) is not None):
            if opener is None:
                file = self.paths.real(file)[0]
            return _REAL_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw_mode = mode.replace("t", "").replace("b", "").replace("U", "")
        raw = self.file_io(file, raw_mode, closefd)
        if buffering == 0:
            if "b" not in mode:
                raw.close()
                raise ValueError("can't have unbuffered text I/O")
            return raw
        buffered: Any
        if "+" in mode:
            buffered = io.BufferedRandom(raw)
        elif "r" in mode:
            buffered = io.BufferedReader(raw)
        else:
            buffered = io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        wrapped = io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)
        wrapped.mode = mode  # type: ignore[misc]  # as builtins.open does it
        return wrapped

    def _file_io(self) -> type[io.FileIO]:
        """The replacement for io.FileIO."""
        patches = self

        class Kind(type(_REAL_FILEIO)):  # type: ignore[misc]  # `type`, but the stubs say ABCMeta
            """The metaclass: file objects of the system count as instances of the replacement."""

            def __instancecheck__(cls, other: object) -> bool:
                if cls is EmulatedFileIO:
                    return isinstance(other, _REAL_FILEIO)
                return bool(super().__instancecheck__(other))

        class EmulatedFileIO(_REAL_FILEIO, metaclass=Kind):
            """io.FileIO, also for files of the board. Closing the object of a device closes the device."""

            _emulated = False

            def __init__(self, file: Any, mode: str = "r", closefd: bool = True, opener: Any = None) -> None:
                full = patches.owned(file) if opener is None else None
                self._emulated = patches.known(file)
                if full is None:
                    if opener is None:
                        file = patches.paths.real(file)[0]
                    super().__init__(file, mode, closefd, opener)
                    return
                node = patches._node(full, file)
                fail_if(node.kind == stat.S_IFREG and any(c in mode for c in "wax+"), errno.EACCES, file)
                self._emulated = node.kind == stat.S_IFCHR
                with patches._trusted():
                    super().__init__(
                        file, mode, closefd, lambda p, f: patches._open_owned(full, p, f & ~(os.O_TRUNC | os.O_CREAT))
                    )

            def close(self) -> None:
                if self._emulated and not self.closed:
                    fd, ours = self.fileno(), self.closefd
                    super().close()
                    if ours:
                        patches.forget(fd)
                else:
                    super().close()

            def _check(self, what: str) -> None:
                if self._emulated:
                    board = patches._board()
                    raise board.not_modelled(f"{what} a file object of {board.fds.get(self.fileno()).path}")

            def read(self, size: int | None = -1, /) -> Any:
                self._check("reading")
                return super().read(-1 if size is None else size)

            def readinto(self, buffer: Any, /) -> Any:
                self._check("reading")
                return super().readinto(buffer)

            def readall(self) -> Any:
                self._check("reading")
                return super().readall()

            def write(self, data: Any, /) -> Any:
                self._check("writing")
                return super().write(data)

        EmulatedFileIO.__name__ = EmulatedFileIO.__qualname__ = "FileIO"
        EmulatedFileIO.__module__ = "_io"
        return EmulatedFileIO

    def forget(self, fd: int) -> None:
        """Drop a descriptor that a file object has closed."""
        board = self._board()
        with board.whole():
            if fd in board.fds and not board.closed:
                assert isinstance(board.fds, RealFds)
                board.fds.forget(fd)

    # install and uninstall

    def put(self, where: Any, name: str, value: Any) -> None:
        """Replace an attribute until `uninstall`."""
        self.replaced.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    def install(self) -> None:
        """Install the replacements."""
        for name in _REPLACED:
            self.put(os, name, getattr(self, name))
        for name in _UNMODELLED:
            if name in _REAL:
                self.put(os, name, self._refusing(name))
        self.put(builtins, "open", self.open_file)
        self.put(io, "open", self.open_file)
        self.put(io, "FileIO", self.file_io)

    def uninstall(self) -> None:
        """Restore the system's functions."""
        while self.replaced:
            where, name, value = self.replaced.pop()
            setattr(where, name, value)
        self.paths.close()
