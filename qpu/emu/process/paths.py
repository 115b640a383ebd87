"""The paths of the emulated board under `qpu emulate`, and its directories: entries, descriptors, working directory."""

from __future__ import annotations

import os
import posixpath
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from qpu.emu.linux.files import OWNED

__all__ = ["ANCESTORS", "Entry", "Paths", "Scan"]

_ROOTS = tuple({"/" + p.split("/")[1] for p in OWNED})
# Directories with entries of both the host and the board: /dev, /proc, /sys, /sys/class, ...
ANCESTORS = frozenset(
    posixpath.join("/", *path.split("/")[1:n]) for path in OWNED for n in range(2, len(path.split("/")))
)
_REAL_OPEN, _REAL_FSTAT, _REAL_READLINK = os.open, os.fstat, os.readlink
_REAL_GETCWD, _REAL_FCHDIR, _REAL_CHDIR = os.getcwd, os.fchdir, os.chdir
_REAL_CLOSE = os.close


class Entry:
    """A directory entry, as from os.scandir."""

    def __init__(self, stats: Stats, directory: str, name: str, path: str) -> None:
        self._stats = stats
        self._full = posixpath.join(directory, name)
        self.name = name
        self.path = path

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """The result of os.stat for the entry."""
        return self._stats.stat(self._full, follow_symlinks=follow_symlinks)

    def _kind(self, follow: bool) -> int:
        try:
            return stat.S_IFMT(self.stat(follow_symlinks=follow).st_mode)
        except OSError:
            return 0

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether the entry is a directory."""
        return self._kind(follow_symlinks) == stat.S_IFDIR

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether the entry is a regular file."""
        return self._kind(follow_symlinks) == stat.S_IFREG

    def is_symlink(self) -> bool:
        """Whether the entry is a symbolic link."""
        return self._kind(False) == stat.S_IFLNK

    def is_junction(self) -> bool:
        """Whether the entry is a junction: never."""
        return False

    def inode(self) -> int:
        """The inode number."""
        return self.stat(follow_symlinks=False).st_ino

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"


class Stats(Protocol):
    """The functions that a directory entry calls."""

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        """os.stat"""
        ...


class Scan:
    """The iterator of os.scandir."""

    def __init__(self, entries: list[Any]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._entries)

    def close(self) -> None:
        """End the iteration."""
        self._entries = iter(())

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Paths:
    """Absolute paths, the working directory, and descriptors of directories that only the board has.

    The real descriptor or working directory is then a deleted directory of the host, so that a function that is not
    replaced finds nothing in it instead of files of the host.
    """

    def __init__(self) -> None:
        self._cwd: str | None = None  # the working directory, while it is a directory of the board
        self._directories: dict[int, str] = {}
        self._empty = -1
        self._identity: tuple[int, int] | None = None

    @property
    def own(self) -> set[int]:
        """Descriptors that programs must not close."""
        return {self._empty} if self._empty >= 0 else set()

    def _placeholder(self) -> int:
        if self._empty < 0:
            made = tempfile.mkdtemp(prefix="qpu-emulate-")
            self._empty = _REAL_OPEN(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            Path(made).rmdir()
            found = _REAL_FSTAT(self._empty)
            self._identity = found.st_dev, found.st_ino
        return self._empty

    # directory descriptors

    def open_directory(self, full: str, flags: int) -> int:
        """A descriptor of the directory `full` of the board."""
        keep = flags & os.O_CLOEXEC
        fd = _REAL_OPEN(f"/proc/self/fd/{self._placeholder()}", os.O_RDONLY | os.O_DIRECTORY | keep)
        self._directories[fd] = full
        return fd

    def directory(self, fd: object) -> str | None:
        """The directory of the board that a descriptor refers to; None for other descriptors."""
        if not isinstance(fd, int) or fd not in self._directories:
            return None
        try:
            found = _REAL_FSTAT(fd)
            if (found.st_dev, found.st_ino) == self._identity:
                return self._directories[fd]
        except OSError:
            pass
        del self._directories[fd]  # closed, or closed and reused, without the replacements
        return None

    def duplicate_directory(self, fd: int, copy: int) -> None:
        """Record that `copy` duplicates the directory descriptor `fd`."""
        self._directories[copy] = self._directories[fd]

    def forget_directories(self, low: int, high: int) -> None:
        """Drop the directory descriptors low <= fd < high."""
        for fd in [fd for fd in self._directories if low <= fd < high]:
            del self._directories[fd]

    # the working directory

    def enter(self, full: str) -> None:
        """Make the directory `full` of the board the working directory."""
        _REAL_FCHDIR(self._placeholder())
        self._cwd = full

    def leave(self) -> None:
        """Use the working directory of the host again."""
        self._cwd = None

    def getcwd(self) -> str:
        """os.getcwd"""
        return self._cwd if self._cwd is not None else _REAL_GETCWD()

    def getcwdb(self) -> bytes:
        """os.getcwdb"""
        return os.fsencode(self.getcwd())

    def close(self) -> None:
        """Leave the board's directories, and release the deleted directory."""
        if self._cwd is not None:
            self._cwd = None
            _REAL_CHDIR("/")
        if self._empty >= 0:
            _REAL_CLOSE(self._empty)
            self._empty = -1

    # paths

    def absolute(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The normalised absolute path if it can concern the board, else None. For a descriptor: its directory."""
        if isinstance(path, int):
            return self.directory(path)
        try:
            text = os.fsdecode(os.fspath(path))
        except TypeError:
            return None
        if not text.startswith("/"):
            where = self._base(dir_fd)
            if where is None:
                return None
            text = posixpath.join(where, text) if text else where
        if not text.startswith(_ROOTS) and ".." not in text and "//" not in text:
            return None
        full = posixpath.normpath(text)
        return full[1:] if full.startswith("//") else full

    def _base(self, dir_fd: int | None) -> str | None:
        """The directory that relative paths start from, if it can concern the board; else None."""
        if dir_fd is not None:
            mine = self.directory(dir_fd)
            if mine is not None:
                return mine
        elif self._cwd is not None:
            return self._cwd
        try:
            where = _REAL_GETCWD() if dir_fd is None else str(_REAL_READLINK(f"/proc/self/fd/{dir_fd}"))
        except OSError:
            return None
        return where if where.startswith(_ROOTS) or where == "/" else None

    def owned(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The absolute path if it belongs to the board, else None."""
        full = self.absolute(path, dir_fd)
        if full is None:
            return None
        for mine in OWNED:
            if full == mine or full.startswith(mine + "/"):
                return full
        return None

    def real(self, path: Any, dir_fd: int | None = None) -> tuple[Any, int | None]:
        """Path and dir_fd for the system's function. A path relative to a directory of the board becomes absolute."""
        if isinstance(path, int) or (self._cwd is None and not self._directories):
            return path, dir_fd
        mine = self.directory(dir_fd) if dir_fd is not None else self._cwd
        if mine is None:
            return path, dir_fd
        text = os.fspath(path)
        relative = os.fsdecode(text)
        if relative.startswith("/") or not relative:
            return path, dir_fd
        full = posixpath.normpath(posixpath.join(mine, relative))
        return (os.fsencode(full) if isinstance(text, bytes) else full), None
