"""Files of the debugging tools: errors of Linux as errors of this package, with what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from qpu.errors import UsageError

__all__ = ["named", "opened", "put"]

_ROOM = "look for room on the disk, or name another file"


def named(path: object) -> str:
    """A path as text. Raises: UsageError for what is not a path."""
    if isinstance(path, str | os.PathLike):
        found = os.fspath(path)
        if isinstance(found, str) and found and "\0" not in found:
            return found
    raise UsageError(f"path = {path!r}; allowed: a text or a pathlib.Path", help="name a file, such as 'run.qpu'")


def _refused(verb: str, path: str, error: OSError, help: str) -> UsageError:
    return UsageError(f"cannot {verb} {path}: {error.strerror or error}", help=help)


@contextmanager
def opened(path: object, mode: str) -> Iterator[IO[bytes]]:
    """A file, open in the block. mode: ``rb`` or ``wb``. Raises: UsageError when it cannot be opened."""
    name = named(path)
    try:
        file = open(name, mode)  # noqa: SIM115  # closed below, where its errors are ours
    except OSError as error:
        if "w" in mode:
            raise _refused("write", name, error, "name a file in a directory that you can write to") from None
        raise _refused("read", name, error, "name a file that exists and that you can read") from None
    try:
        yield file
    except BaseException:
        with suppress(OSError):  # what went wrong in the block counts
            file.close()
        raise
    try:
        file.close()
    except OSError as error:
        raise _refused("write", name, error, _ROOM) from None


def put(file: IO[bytes], data: bytes) -> None:
    """Write to a file at once, so that others can read it. Raises: UsageError, such as for a full disk."""
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise _refused("write", str(file.name), error, _ROOM) from None
