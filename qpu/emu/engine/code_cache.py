"""The cache of translated programs on disk. It is a trust boundary: the code that it returns is executed.

An entry is one file: a digest in hexadecimal, a line of JSON metadata, and the object code. The digest covers the name
of the entry and everything after the digest, and the object code contains the digest of its metadata (see
`qpu.emu.engine.native`), so damaged entries and mismatched parts are misses. Digests do not protect against other users
who can write entries. Ownership does: the directory and each entry must belong to this user or root and must not be
writable by others, and links are not followed.
Files are written under another name and renamed, so that concurrent processes see complete entries or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["CACHE_LIMIT", "ENTRY_LIMIT", "cache_directory", "digest", "load", "store"]

CACHE_LIMIT = 256 << 20  # bytes; above the limit the oldest entries are evicted
ENTRY_LIMIT = 64 << 20  # bytes of one entry
SCRAP_AGE = 3600  # seconds after which a file that was not renamed is removed
SUFFIX = ".qpuc"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO does not wait for a writer
_USERS = hasattr(os, "geteuid")
_said: set[str] = set()


class _Untrusted(OSError):
    """A directory that others can write to."""


def cache_directory() -> Path | None:
    """The directory of the cache; None when it is off (QPU_CACHE_DIR empty, ``0``, ``off``) or without a home."""
    chosen = os.environ.get("QPU_CACHE_DIR")
    if chosen is not None:
        return None if chosen.lower() in ("", "0", "off", "none") else Path(chosen)
    home = os.environ.get("USERPROFILE" if sys.platform == "win32" else "HOME")
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or (home and str(Path(home) / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home and str(Path(home) / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or (home and str(Path(home) / ".cache"))
    return Path(base) / "qpu" / "emulator" if base else None


def digest(data: bytes) -> bytes:
    """A hash of `data` with 16 bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _say(problem: str) -> None:
    """Print a problem on standard error, once in a process."""
    if problem not in _said:
        _said.add(problem)
        print(f"qpu: {problem}", file=sys.stderr)


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


def load(directory: Path, key: str) -> tuple[dict[str, Any], bytes] | None:
    """Metadata and object code of an entry; None when the entry is missing, damaged or not trusted."""
    try:
        with _opened(directory) as fd:
            data = _read(directory, key + SUFFIX, fd)
        body = data[33:]
        if data[:33] != _sealed(key, body) or len(body) > ENTRY_LIMIT:
            return None
        head, _, code = body.partition(b"\n")
        meta = json.loads(head)
        return (meta, code) if isinstance(meta, dict) and _whole_object(code) else None
    except _Untrusted as error:
        _say(f"no cache of translations: {error}")
    except (OSError, ValueError, RecursionError):
        pass  # missing or damaged
    return None


def _read(directory: Path, name: str, directory_fd: int | None) -> bytes:
    fd = os.open(_at(directory, name, directory_fd), os.O_RDONLY | _NO_FOLLOW | _NONBLOCK, dir_fd=directory_fd)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > ENTRY_LIMIT:
            return b""
        problem = _distrusted(status)
        if problem:
            _say(f"ignored and replaced a translation: {directory / name} {problem}")
            return b""
        if os.utime in os.supports_fd:
            os.utime(fd)
        return file.read(ENTRY_LIMIT)


def _sealed(key: str, body: bytes) -> bytes:
    return digest(key.encode() + b"\0" + body).hex().encode() + b"\n"


def _whole_object(code: bytes) -> bool:
    """Whether all parts of an ELF file lie inside it: LLVM trusts the headers. Other formats are not checked."""
    if code[:4] != b"\x7fELF":
        return bool(code) and not sys.platform.startswith("linux")
    if len(code) < 64 or code[4] != 2:
        return False
    at, entry, count = (*struct.unpack_from("<Q", code, 40), *struct.unpack_from("<HH", code, 58))
    if entry != 64 or at + entry * count > len(code):
        return False
    for n in range(count):
        kind, offset, size = (
            *struct.unpack_from("<I", code, at + 64 * n + 4),
            *struct.unpack_from("<QQ", code, at + 64 * n + 24),
        )
        if kind != 8 and offset + size > len(code):  # 8: no bits in the file
            return False
    return True


def store(directory: Path, key: str, meta: str, code: bytes) -> None:
    """Write or replace an entry, and keep the cache within its limit. Where that is impossible, nothing is stored."""
    body = meta.encode() + b"\n" + code
    if len(body) > ENTRY_LIMIT:
        return
    scrap = f".new-{os.urandom(8).hex()}"
    try:
        with _opened(directory, create=True) as fd:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW
            handle = os.open(_at(directory, scrap, fd), flags, 0o600, dir_fd=fd)
            try:
                with open(handle, "wb") as file:
                    file.write(_sealed(key, body) + body)
                os.replace(_at(directory, scrap, fd), _at(directory, key + SUFFIX, fd), src_dir_fd=fd, dst_dir_fd=fd)
            except BaseException:
                os.unlink(_at(directory, scrap, fd), dir_fd=fd)
                raise
            _evict(directory, fd)
    except _Untrusted as error:
        _say(f"no cache of translations: {error}")
    except IsADirectoryError:
        pass  # a directory has the name of the entry: always a miss
    except OSError as error:
        _say(f"no cache of translations: {directory}: {error.strerror}; choose another directory with QPU_CACHE_DIR")


def _evict(directory: Path, fd: int | None) -> None:
    """Remove the oldest entries above the limit, and unfinished files of processes that died while they wrote."""
    entries: list[tuple[float, int, str]] = []
    for name in os.listdir(directory if fd is None else fd):
        try:
            status = os.stat(_at(directory, name, fd), dir_fd=fd, follow_symlinks=False)
            if name.startswith(".new-") and time.time() - status.st_mtime > SCRAP_AGE:
                os.unlink(_at(directory, name, fd), dir_fd=fd)
            elif name.endswith(SUFFIX):
                entries.append((status.st_mtime, status.st_size, name))
        except OSError:
            continue  # another process has removed the file
    total = sum(size for _, size, _ in entries)
    for _, size, name in sorted(entries):
        if total <= CACHE_LIMIT:
            return
        with contextlib.suppress(OSError):
            os.unlink(_at(directory, name, fd), dir_fd=fd)
            total -= size
