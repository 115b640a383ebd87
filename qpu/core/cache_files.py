"""Files of a cache on disk. They are a trust boundary: what an entry holds is executed.

An entry is one file: a digest in hexadecimal, and a body. The digest covers the name of the entry and the body, so
damaged entries are misses. Digests do not protect against other users who can write entries. Ownership does:
the directory and each entry must belong to this user or root and must not be writable by others, and links are not
followed.
Files are written under another name and renamed, so that concurrent processes see complete entries or none.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CacheFiles", "base_directory"]

SCRAP_AGE = 3600  # seconds after which a file that was not renamed is removed
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO does not wait for a writer
_USERS = hasattr(os, "geteuid")


class _Untrusted(OSError):
    """A directory that others can write to."""


def base_directory() -> Path | None:
    """Where the caches of this package are; None without a home."""
    home = os.environ.get("USERPROFILE" if sys.platform == "win32" else "HOME")
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or (home and str(Path(home) / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home and str(Path(home) / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or (home and str(Path(home) / ".cache"))
    return Path(base) / "qpu" if base else None


def chosen_directory() -> Path | str | None:
    """The directory that QPU_CACHE_DIR names; "" where it switches caches off (empty, ``0`` or ``off``), None unset."""
    chosen = os.environ.get("QPU_CACHE_DIR")
    if chosen is None:
        return None
    return "" if chosen.lower() in ("", "0", "off", "none") else Path(chosen)


def _distrusted(status: os.stat_result) -> str:
    """Why other users could have written a file; empty when only this user and root could."""
    if not _USERS:
        return ""
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}"
    return "is writable by others" if status.st_mode & 0o022 else ""


@contextlib.contextmanager
def _opened(directory: Path, *, create: bool = False) -> Iterator[int | None]:
    """A descriptor of the checked directory; None where the system cannot open directories. Raises: OSError."""
    if create:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(0o700)
    if os.open not in os.supports_dir_fd:
        yield None
        return
    if directory.is_symlink():
        raise _Untrusted(f"{directory} is a link; choose the directory itself with QPU_CACHE_DIR")
    fd = os.open(directory, os.O_RDONLY | _DIRECTORY | _NO_FOLLOW)
    try:
        status = os.fstat(fd)
        problem = _distrusted(status)
        if problem:
            mine = status.st_uid == os.geteuid()
            advice = f"chmod 700 {directory}, or choose another directory" if mine else "choose another directory"
            raise _Untrusted(f"{directory} {problem}; {advice} with QPU_CACHE_DIR")
        yield fd
    finally:
        os.close(fd)


def _at(directory: Path, name: str, fd: int | None) -> str:
    return name if fd is not None else str(directory / name)


@dataclass(frozen=True, slots=True)
class CacheFiles:
    """The entries in one directory. suffix: of their names; what: they hold, in the plural; digest: of bytes, in
    hexadecimal; limit: bytes of all entries, beyond which the oldest are evicted; entry_limit: bytes of one body; said:
    problems that were reported, each once. nested: the directory above is ours as well, holds such directories only,
    and counts towards the limit.
    """

    directory: Path
    suffix: str
    what: str
    digest: Callable[[bytes], str]
    limit: int
    entry_limit: int
    said: set[str]
    nested: bool = False

    def load(self, key: str) -> bytes | None:
        """The body of an entry; None when there is none, or none that is whole and trusted."""
        try:
            with self._trusted() as fd:
                data = self._read(key + self.suffix, fd)
        except _Untrusted as error:
            self._say(f"no cache of {self.what}: {error}")
            return None
        except (OSError, ValueError):
            return None  # missing
        seal, newline, body = data.partition(b"\n")
        whole = newline and seal == self._seal(key, body) and len(body) <= self.entry_limit
        return body if whole else None

    def store(self, key: str, body: bytes) -> None:
        """Write or replace an entry, and keep the cache within its limit; nothing where that is not possible."""
        if len(body) > self.entry_limit:
            return
        scrap = f".new-{os.urandom(8).hex()}"
        directory = self.directory
        try:
            with self._trusted(create=True) as fd:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW
                handle = os.open(_at(directory, scrap, fd), flags, 0o600, dir_fd=fd)
                try:
                    with open(handle, "wb") as file:
                        file.write(self.sealed(key, body))
                    name = key + self.suffix
                    os.replace(_at(directory, scrap, fd), _at(directory, name, fd), src_dir_fd=fd, dst_dir_fd=fd)
                except BaseException:
                    os.unlink(_at(directory, scrap, fd), dir_fd=fd)
                    raise
                self._evict(fd)
        except _Untrusted as error:
            self._say(f"no cache of {self.what}: {error}")
        except IsADirectoryError:
            pass  # where the entry should be: always a miss
        except OSError as error:
            cure = "choose another directory with QPU_CACHE_DIR"
            self._say(f"no cache of {self.what}: {directory}: {error.strerror}; {cure}")

    def sealed(self, key: str, body: bytes) -> bytes:
        """What the file of an entry holds."""
        return self._seal(key, body) + b"\n" + body

    def _seal(self, key: str, body: bytes) -> bytes:
        return self.digest(key.encode() + b"\0" + body).encode()

    @contextlib.contextmanager
    def _trusted(self, *, create: bool = False) -> Iterator[int | None]:
        with contextlib.ExitStack() as stack:
            if self.nested:
                stack.enter_context(_opened(self.directory.parent, create=create))
            yield stack.enter_context(_opened(self.directory, create=create))

    def _say(self, problem: str) -> None:
        """One line for each problem, once."""
        if problem not in self.said:
            self.said.add(problem)
            print(f"qpu: {problem}", file=sys.stderr)

    def _read(self, name: str, directory_fd: int | None) -> bytes:
        path = _at(self.directory, name, directory_fd)
        fd = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NONBLOCK, dir_fd=directory_fd)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > self.entry_limit:
                return b""
            problem = _distrusted(status)
            if problem:
                self._say(f"ignored and replaced one of the {self.what}: {self.directory / name} {problem}")
                return b""
            if os.utime in os.supports_fd:
                os.utime(fd)
            return file.read(self.entry_limit)

    def _evict(self, fd: int | None) -> None:
        """Remove the oldest entries beyond the limit, and what processes left that died while they wrote."""
        entries = _entries(self.directory, fd, self.suffix)
        others: list[Path] = []
        if self.nested:
            others = [p for p in self.directory.parent.iterdir() if p != self.directory]
        for other in others:
            with contextlib.suppress(OSError), _opened(other) as other_fd:
                entries += _entries(other, other_fd, self.suffix)
        total = sum(size for _, size, _, _ in entries)
        for _, size, directory, name in sorted(entries):
            if total <= self.limit:
                break
            with contextlib.suppress(OSError):
                os.unlink(directory / name)
                total -= size
        for other in others:
            with contextlib.suppress(OSError):
                other.rmdir()  # of an earlier version, and empty


def _entries(directory: Path, fd: int | None, suffix: str) -> list[tuple[float, int, Path, str]]:
    """Age, size, directory and name of each entry; abandoned files go."""
    found: list[tuple[float, int, Path, str]] = []
    for name in os.listdir(directory if fd is None else fd):
        try:
            status = os.stat(_at(directory, name, fd), dir_fd=fd, follow_symlinks=False)
            if name.startswith(".new-") and time.time() - status.st_mtime > SCRAP_AGE:
                os.unlink(_at(directory, name, fd), dir_fd=fd)
            elif name.endswith(suffix):
                found.append((status.st_mtime, status.st_size, directory, name))
        except OSError:
            continue  # another process was faster
    return found
