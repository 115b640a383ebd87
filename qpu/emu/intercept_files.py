"""File functions for unmodified programs: paths of the emulated board lead to its files, all others to the system."""

from __future__ import annotations

import builtins
import errno
import io
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qpu.emu.fake_kernel import FdTable, OpenFile, fail
from qpu.emu.files import OWNED, Node

if TYPE_CHECKING:
    from qpu.emu.fake_kernel import Kernel

__all__ = ["FilePatches", "RealFds"]

_ROOTS = tuple({"/" + p.split("/")[1] for p in OWNED})
_ANCESTORS = frozenset(
    posixpath.join("/", *path.split("/")[1:n]) for path in OWNED for n in range(2, len(path.split("/")))
)
_UNMODELLED = ("read", "write", "pread", "pwrite", "readv", "writev", "preadv", "pwritev", "lseek", "ftruncate")


class RealFds(FdTable):
    """Descriptors of the process itself. Behind each device is an open /dev/null, so that the number is taken."""

    def __init__(self, opened: Callable[..., int], closed: Callable[[int], None]) -> None:
        super().__init__()
        self._open = opened
        self._close = closed
        self._null = _REAL["stat"]("/dev/null").st_rdev

    def allocate(self) -> int:
        """A new descriptor."""
        return self._open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def discard(self, fd: int) -> None:
        """Close it for good."""
        self._close(fd)

    def forget(self, fd: int) -> None:
        """The descriptor was closed by somebody else."""
        file = self._files.pop(fd)
        file.count -= 1
        if file.count == 0:
            file.release()

    def known(self, fd: int) -> bool:
        """True when `fd` is ours and still what it was."""
        if fd not in self._files:
            return False
        try:
            if _REAL["fstat"](fd).st_rdev == self._null:
                return True
        except OSError:
            pass
        self.forget(fd)  # closed, or closed and reused, behind our back
        return False


_REAL: dict[str, Any] = {
    name: getattr(os, name)
    for name in (
        "open close dup dup2 closerange fstat stat lstat access readlink listdir scandir " + " ".join(_UNMODELLED)
    ).split()
    if hasattr(os, name)
}
_REAL_OPEN = builtins.open


class Entry:
    """A directory entry as os.scandir gives them."""

    def __init__(self, patches: FilePatches, directory: str, shown: str, name: str, path: str) -> None:
        self._patches = patches
        self._full = posixpath.join(directory, name)
        self.name = name
        self.path = path

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat."""
        return self._patches.stat(self._full, follow_symlinks=follow_symlinks)

    def _kind(self, follow: bool) -> int:
        try:
            return stat.S_IFMT(self.stat(follow_symlinks=follow).st_mode)
        except OSError:
            return 0

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """True for a directory."""
        return self._kind(follow_symlinks) == stat.S_IFDIR

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """True for a regular file."""
        return self._kind(follow_symlinks) == stat.S_IFREG

    def is_symlink(self) -> bool:
        """True for a symbolic link."""
        return self._kind(False) == stat.S_IFLNK

    def is_junction(self) -> bool:
        """Never true here."""
        return False

    def inode(self) -> int:
        """Inode number."""
        return self.stat(follow_symlinks=False).st_ino

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"


class Scan:
    """The iterator of os.scandir."""

    def __init__(self, entries: list[Any]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._entries)

    def close(self) -> None:
        """Stop."""
        self._entries = iter(())

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class FilePatches:
    """Replacements for the functions of `os` and `io`, and putting them in and out of place."""

    def __init__(self, kernel: Callable[[], Kernel], made: Callable[[], Kernel | None], inherited: set[int]) -> None:
        """kernel: the board, made when needed. made: None while there is none. inherited: descriptors of a parent."""
        self._kernel = kernel
        self._made = made
        self._inherited = inherited
        self._undo: list[tuple[Any, str, Any]] = []

    # which paths are ours

    def owned(self, path: Any) -> str | None:
        """The absolute path when it belongs to the board, else None."""
        full = self._absolute(path)
        if full is None:
            return None
        for mine in OWNED:
            if full == mine or full.startswith(mine + "/"):
                return full
        return None

    def _absolute(self, path: Any) -> str | None:
        if isinstance(path, int):
            return None
        try:
            text = os.fsdecode(os.fspath(path))
        except TypeError:
            return None
        if not text.startswith("/"):
            try:
                where = str(Path.cwd())
            except OSError:
                return None
            if not where.startswith(_ROOTS):
                return None
            text = posixpath.join(where, text)
        if not text.startswith(_ROOTS) and ".." not in text and "//" not in text:
            return None
        full = posixpath.normpath(text)
        return full[1:] if full.startswith("//") else full

    def _node(self, path: str, shown: Any, *, follow: bool = True) -> Node:
        try:
            return self._kernel().files.resolve(path, follow=follow)[1]
        except OSError as error:
            raise fail(error.errno or errno.ENOENT, shown) from None

    # descriptors

    def known(self, fd: object) -> bool:
        """True for a descriptor of an emulated device. Raises: EmuFault for one that was opened before fork."""
        if not isinstance(fd, int):
            return False
        if fd in self._inherited:
            raise self._kernel().not_modelled(
                f"descriptor {fd}, a device opened before fork() (open it in the child instead),"
            )
        kernel = self._made()
        if kernel is None or fd not in kernel.fds:
            return False
        assert isinstance(kernel.fds, RealFds)
        with kernel.lock:
            return kernel.fds.known(fd)

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """os.open"""
        full = self.owned(path) if dir_fd is None or self._rooted(path) else None
        if full is None:
            return int(_REAL["open"](path, flags, mode, dir_fd=dir_fd))
        return self._open_owned(full, path, flags)

    @staticmethod
    def _rooted(path: Any) -> bool:
        return os.fsdecode(path).startswith("/")

    def _open_owned(self, full: str, shown: Any, flags: int) -> int:
        kernel = self._kernel()
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        with kernel.call():
            node = self._node(full, shown)
            if flags & os.O_CREAT and flags & os.O_EXCL:
                raise fail(errno.EEXIST, shown)
            if node.kind == stat.S_IFDIR:
                if writing:
                    raise fail(errno.EISDIR, shown)
                raise kernel.not_modelled(f"a descriptor of the directory {full}")
            if node.kind == stat.S_IFREG:
                if writing:
                    raise fail(errno.EACCES, shown)
                fd = os.memfd_create(posixpath.basename(full), os.MFD_CLOEXEC if flags & os.O_CLOEXEC else 0)
                _REAL["write"](fd, node.data)
                _REAL["lseek"](fd, 0, os.SEEK_SET)
                return fd
            try:
                file = kernel.open(full)
            except OSError as error:
                raise fail(error.errno or errno.EIO, shown) from None
            file.writable = writing
            fd = int(_REAL["open"]("/dev/null", flags & (os.O_ACCMODE | os.O_CLOEXEC | os.O_NONBLOCK)))
            kernel.fds.adopt(fd, file)
            return fd

    def close(self, fd: int) -> None:
        """os.close"""
        if fd in self._inherited:
            self._inherited.discard(fd)
        elif self.known(fd):
            with self._kernel().call():
                self._kernel().fds.close(fd)
            return
        _REAL["close"](fd)

    def closerange(self, low: int, high: int) -> None:
        """os.closerange"""
        kernel = self._made()
        if kernel is not None:
            with kernel.lock:
                for fd, _ in kernel.fds.open:
                    if low <= fd < high:
                        kernel.fds.close(fd)
        _REAL["closerange"](low, high)

    def _share(self, fd: int, copy: int) -> int:
        kernel = self._kernel()
        with kernel.lock:
            kernel.fds.adopt(copy, kernel.fds.get(fd))
        return copy

    def dup(self, fd: int) -> int:
        """os.dup"""
        known = self.known(fd)
        copy = int(_REAL["dup"](fd))
        return self._share(fd, copy) if known else copy

    def dup2(self, fd: int, fd2: int, inheritable: bool = True) -> int:
        """os.dup2"""
        known = self.known(fd)
        if fd != fd2 and self.known(fd2):
            self.forget(fd2)
        copy = int(_REAL["dup2"](fd, fd2, inheritable))
        return self._share(fd, copy) if known and fd != fd2 else copy

    def fcntl_dup(self, fd: int, copy: int) -> int:
        """A descriptor was duplicated by fcntl."""
        return self._share(fd, copy)

    def fstat(self, fd: int) -> os.stat_result:
        """os.fstat"""
        if self.known(fd):
            file: OpenFile = self._kernel().fds.get(fd)
            try:
                real, node = self._kernel().files.resolve(file.path)
            except OSError:  # a buffer or a sync object: an anonymous file
                return _REAL["fstat"](fd)  # type: ignore[no-any-return]  # taken from a table
            return self._result(real, node)
        return _REAL["fstat"](fd)  # type: ignore[no-any-return]  # taken from a table

    def _refusing(self, name: str) -> Callable[..., Any]:
        real = _REAL[name]

        def refuse(fd: int, *args: Any, **named: Any) -> Any:
            if self.known(fd):
                raise self._kernel().not_modelled(f"os.{name} on {self._kernel().fds.get(fd).path}")
            return real(fd, *args, **named)

        refuse.__name__ = name
        return refuse

    # paths

    def _result(self, path: str, node: Node) -> os.stat_result:
        kernel = self._kernel()
        size = len(node.data) if node.kind == stat.S_IFREG else len(node.target)
        found = node.as_stat()
        inode = 1 + sorted(p for p, _ in kernel.files).index(path)
        return os.stat_result(
            (node.mode, inode, 0xE40, 1, found.uid, found.gid, size, 0, 0, 0),
            {"st_rdev": os.makedev(*node.rdev), "st_blksize": 4096, "st_blocks": (size + 511) // 512},
        )

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        """os.stat"""
        full = self.owned(path) if dir_fd is None else None
        if full is not None:
            real, node = self._resolve(full, path, follow_symlinks)
            return self._result(real, node)
        try:
            result: os.stat_result = _REAL["stat"](path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
            return result
        except FileNotFoundError:
            up = self._absolute(path)
            if up not in _ANCESTORS:
                raise
            real, node = self._resolve(up, path, follow_symlinks)
            return self._result(real, node)

    def _resolve(self, full: str, shown: Any, follow: bool) -> tuple[str, Node]:
        try:
            return self._kernel().files.resolve(full, follow=follow)
        except OSError as error:
            raise fail(error.errno or errno.ENOENT, shown) from None

    def lstat(self, path: Any, *, dir_fd: int | None = None) -> os.stat_result:
        """os.lstat"""
        return self.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def access(self, path: Any, mode: int, **named: Any) -> bool:
        """os.access"""
        full = self.owned(path) if named.get("dir_fd") is None else None
        if full is None:
            return bool(_REAL["access"](path, mode, **named))
        try:
            node = self._node(full, path)
        except OSError:
            return False
        kernel = self._kernel()
        if node.kind == stat.S_IFCHR:
            closed = kernel.profile.deny or (node.device == "mem" and not kernel.profile.devmem)
            return not mode & os.X_OK and not (closed and mode & (os.R_OK | os.W_OK))
        if node.kind == stat.S_IFREG:
            return not mode & (os.X_OK | os.W_OK)
        return not mode & os.W_OK

    def readlink(self, path: Any, *, dir_fd: int | None = None) -> Any:
        """os.readlink"""
        full = self.owned(path) if dir_fd is None else None
        if full is None:
            return _REAL["readlink"](path, dir_fd=dir_fd)
        node = self._node(full, path, follow=False)
        if node.kind != stat.S_IFLNK:
            raise fail(errno.EINVAL, path)
        return os.fsencode(node.target) if isinstance(path, bytes) else node.target

    def _names(self, full: str, shown: Any) -> list[str]:
        node = self._node(full, shown)
        if node.kind != stat.S_IFDIR:
            raise fail(errno.ENOTDIR, shown)
        return sorted(node.names)

    def listdir(self, path: Any = ".") -> list[Any]:
        """os.listdir"""
        full = self._absolute(path)
        if full is not None and self.owned(full) is not None:
            names = self._names(full, path)
        elif full in _ANCESTORS:
            names = sorted({e.name for e in self._merged(full, path)})
        else:
            return list(_REAL["listdir"](path))
        return [os.fsencode(n) for n in names] if isinstance(path, bytes) else list(names)

    def scandir(self, path: Any = ".") -> Any:
        """os.scandir"""
        full = self._absolute(path)
        if full is not None and (self.owned(full) is not None or full in _ANCESTORS):
            return Scan(self._merged(full, path))
        return _REAL["scandir"](path)

    def _merged(self, full: str, shown: Any) -> list[Any]:
        text = os.fsdecode(os.fspath(shown))
        entries: list[Any] = []
        if self.owned(full) is None:
            try:
                with _REAL["scandir"](text) as scan:
                    entries = [e for e in scan if self.owned(posixpath.join(full, e.name)) is None]
            except FileNotFoundError:
                self._node(full, shown)  # an ancestor that only the board has
        present = {e.name for e in entries}
        try:
            names = self._names(full, shown)
        except FileNotFoundError:
            if self.owned(full) is not None:
                raise
            names = []
        entries += [Entry(self, full, text, n, posixpath.join(text, n)) for n in names if n not in present]
        return entries

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
        device = self.known(file)
        full = self.owned(file) if opener is None else None
        if not device and full is None:
            return _REAL_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if full is not None and self._node(full, file).kind != stat.S_IFCHR:
            if any(c in mode for c in "wax+"):
                raise fail(errno.EACCES, file)
            return _REAL_OPEN(
                file, mode, buffering, encoding, errors, newline, closefd, lambda p, f: self._open_owned(full, p, f)
            )
        patches = self

        class DeviceFile(io.FileIO):
            """A file object of an emulated device; closing it closes the device."""

            def close(self) -> None:
                if not self.closed:
                    fd = self.fileno()
                    super().close()
                    if closefd:
                        patches.forget(fd)

            def _refuse(self, what: str) -> Any:
                kernel = patches._kernel()
                raise kernel.not_modelled(f"{what} a file object of {kernel.fds.get(self.fileno()).path}")

            def read(self, size: int | None = -1, /) -> bytes:
                return self._refuse("reading")  # type: ignore[no-any-return]  # raises

            def readinto(self, buffer: Any, /) -> int:
                return self._refuse("reading")  # type: ignore[no-any-return]  # raises

            def readall(self) -> bytes:
                return self._refuse("reading")  # type: ignore[no-any-return]  # raises

            def write(self, data: Any, /) -> int:
                return self._refuse("writing")  # type: ignore[no-any-return]  # raises

        raw_mode = mode.replace("t", "").replace("b", "")
        if full is not None:
            raw = DeviceFile(file, raw_mode, True, lambda p, f: self._open_owned(full, p, f & ~os.O_TRUNC))
        else:
            raw = DeviceFile(file, raw_mode, closefd)
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
        return io.TextIOWrapper(buffered, encoding, errors, newline)

    def forget(self, fd: int) -> None:
        """A file object closed a descriptor itself."""
        kernel = self._kernel()
        with kernel.lock:
            if fd in kernel.fds and not kernel.closed:
                assert isinstance(kernel.fds, RealFds)
                kernel.fds.forget(fd)

    # in and out of place

    def _put(self, where: Any, name: str, value: Any) -> None:
        self._undo.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    def install(self) -> None:
        """Put the replacements in place."""
        for name in "open close closerange dup dup2 fstat stat lstat access readlink listdir scandir".split():
            self._put(os, name, getattr(self, name))
        for name in _UNMODELLED:
            if name in _REAL:
                self._put(os, name, self._refusing(name))
        self._put(builtins, "open", self.open_file)
        self._put(io, "open", self.open_file)

    def uninstall(self) -> None:
        """Take them out again."""
        while self._undo:
            where, name, value = self._undo.pop()
            setattr(where, name, value)
