"""Test helpers for ports: a port that records every call, and the injection of failures into calls."""

from __future__ import annotations

import errno as errno_module
import fnmatch
import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from qpu.drivers.port import interrupting, submitted
from qpu.drivers.uapi import dma_buf, drm, mailbox, vcsm

if TYPE_CHECKING:
    from qpu.drivers.port import FileStat, Lock, Mapping, Port, Registers, Run

__all__ = ["Call", "Injector", "RecordingPort", "ioctl_name"]

_Result = TypeVar("_Result")
_TABLES = (drm.IOCTLS, vcsm.IOCTLS, mailbox.IOCTLS, dma_buf.IOCTLS)


@cache
def ioctl_name(request: int) -> str:
    """The name of a request in the headers, found by type and number; ``0x...`` for an unknown request.

    DRM and the mailbox have the same type letter; the only request of the mailbox is recognised by its size.
    """
    kind, nr = request >> 8 & 0xFF, request & 0xFF
    if kind == mailbox.PROPERTY.type and nr == mailbox.PROPERTY.nr and request >> 16 & 0x3FFF in (4, 8):
        return mailbox.PROPERTY.name
    for table in _TABLES:
        for name, row in table.items():
            if row.type == kind and row.nr == nr:
                return name
    return f"0x{request:08x}"


@dataclass(slots=True)
class _Rule:
    pattern: str
    errno: int
    at: int
    count: int
    seen: int = 0


@dataclass(slots=True)
class Injector:
    """The failures to inject: rules, which are matched against call names in the order in which they were added."""

    rules: list[_Rule] = field(default_factory=list)

    def inject(self, call: str, errno: int, *, at: int = 1, count: int = 1) -> None:
        """Let the `at`-th matching call from now fail with `errno`, and the `count` - 1 matching calls after it.

        call: a pattern with ``*``, matched against ``ioctl:DRM_IOCTL_V3D_WAIT_BO``, ``open:/dev/vcio``, ``mmap``,
        ``mmio``, ``close``, ``flock:shared``, ``read:/proc/cpuinfo``, ``listdir:...``, ``readlink:...``,
        ``stat:...``. A single word such as ``ioctl`` or ``open`` matches all calls of its kind; an ioctl name, with or
        without its prefix (``WAIT_BO``), matches that ioctl.
        Raises: ValueError for an impossible number or errno.
        """
        if at < 1 or count < 1:
            raise ValueError(f"at={at}, count={count}; allowed: numbers from 1")
        if errno not in errno_module.errorcode:
            raise ValueError(f"errno {errno} does not exist on this system; use the numbers of the module errno")
        self.rules.append(_Rule(call, errno, at, count))

    def clear(self) -> None:
        """Remove all rules."""
        self.rules.clear()

    def check(self, kind: str, name: str = "", path: str | None = None) -> None:
        """Called before a system call. Raises: OSError if a rule matches."""
        for rule in self.rules:
            full = f"{kind}:{name}" if name else kind
            core = name.removeprefix("DRM_IOCTL_")
            if rule.pattern not in (kind, name, core, core.removeprefix("V3D_")) and not fnmatch.fnmatchcase(
                full, rule.pattern
            ):
                continue
            rule.seen += 1
            if rule.at <= rule.seen < rule.at + rule.count:
                text = os.strerror(rule.errno)
                raise OSError(rule.errno, text) if path is None else OSError(rule.errno, text, path)


@dataclass(frozen=True, slots=True)
class Call:
    """One system call.

    name: ioctl name or path. fd, request, size, offset: where they apply. before, after: bytes of the argument of an
    ioctl. result: the return value; error: the errno of a failure.
    """

    kind: str
    name: str = ""
    fd: int | None = None
    request: int | None = None
    size: int | None = None
    offset: int | None = None
    before: bytes = b""
    after: bytes = b""
    result: object = None
    error: int | None = None

    def __str__(self) -> str:
        end = f" -> {errno_module.errorcode.get(self.error, str(self.error))}" if self.error is not None else ""
        return f"{self.kind}{':' if self.name else ''}{self.name}{end}"


class RecordingPort:
    """A port that wraps another port. `calls` lists every call in order; `inject` makes calls fail."""

    def __init__(self, inner: Port) -> None:
        self.inner = inner
        self.calls: list[Call] = []
        self._injector = Injector()

    def inject(self, call: str, errno: int, *, at: int = 1, count: int = 1) -> None:
        """See `Injector.inject`."""
        self._injector.inject(call, errno, at=at, count=count)

    def names(self, kind: str | None = None) -> list[str]:
        """The names of the calls of a kind, or ``kind:name`` of all calls."""
        return [c.name if kind else str(c) for c in self.calls if kind in (None, c.kind)]

    @property
    def emulated(self) -> str | None:
        """As the inner port."""
        return self.inner.emulated

    @property
    def pointer_size(self) -> int:
        """As the inner port."""
        return self.inner.pointer_size

    @property
    def page_size(self) -> int:
        """As the inner port."""
        return self.inner.page_size

    def _record(
        self, call: Call, path: str | None, make: Callable[[], _Result], arg: bytearray | None = None
    ) -> _Result:
        """Make a call, or raise its injected failure, and record it. arg: the buffer that becomes `after`."""
        error: int | None = None
        result: object = None
        try:
            self._injector.check(call.kind, call.name, path)
            made = make()
            result = made
            return made
        except OSError as failed:
            error = failed.errno
            raise
        finally:
            fd = result if call.kind == "open" and isinstance(result, int) else call.fd
            after = b"" if arg is None else bytes(arg)
            self.calls.append(replace(call, fd=fd, after=after, result=result, error=error))

    def open(self, path: str, *, read_only: bool = False, sync: bool = False) -> int:
        """Recorded."""
        return self._record(Call("open", path), path, lambda: self.inner.open(path, read_only=read_only, sync=sync))

    def close(self, fd: int) -> None:
        """Recorded."""
        self._record(Call("close", fd=fd), None, lambda: self.inner.close(fd))

    def ioctl(self, fd: int, request: int, arg: bytearray) -> int:
        """Recorded, with the argument before and after."""
        call = Call("ioctl", ioctl_name(request), fd, request, before=bytes(arg))
        return self._record(call, None, lambda: self.inner.ioctl(fd, request, arg), arg)

    def flock(self, fd: int, lock: Lock) -> None:
        """Recorded, with the lock as its name."""
        self._record(Call("flock", lock.value, fd), None, lambda: self.inner.flock(fd, lock))

    def mmap(self, fd: int, size: int, offset: int) -> Mapping:
        """Recorded."""
        call = Call("mmap", fd=fd, size=size, offset=offset)
        return self._record(call, None, lambda: self.inner.mmap(fd, size, offset))

    def mmio(self, base: int, size: int) -> Registers:
        """Recorded; register accesses are not recorded."""
        return self._record(Call("mmio", size=size, offset=base), None, lambda: self.inner.mmio(base, size))

    def read_bytes(self, path: str) -> bytes:
        """Recorded."""
        return self._file("read", path, self.inner.read_bytes)

    def listdir(self, path: str) -> list[str]:
        """Recorded."""
        return self._file("listdir", path, self.inner.listdir)

    def readlink(self, path: str) -> str:
        """Recorded."""
        return self._file("readlink", path, self.inner.readlink)

    def stat(self, path: str) -> FileStat:
        """Recorded."""
        return self._file("stat", path, self.inner.stat)

    def _file(self, kind: str, path: str, function: Callable[[str], _Result]) -> _Result:
        try:
            self._injector.check(kind, path, path)
        except OSError as error:
            self.calls.append(Call(kind, path, error=error.errno))
            raise
        self.calls.append(Call(kind, path))
        return function(path)

    def monotonic(self) -> float:
        """As the inner port."""
        return self.inner.monotonic()

    def sleep(self, seconds: float) -> None:
        """As the inner port."""
        self.inner.sleep(seconds)

    def getpid(self) -> int:
        """As the inner port."""
        return self.inner.getpid()

    def interrupting(self, threads: Collection[int] | None = None) -> AbstractContextManager[None]:
        """As the inner port."""
        return interrupting(self.inner, threads)

    def submitted(self) -> Run | None:
        """As the inner port."""
        return submitted(self.inner)

    def shutdown(self) -> None:
        """Shut down the inner port, if it has that method."""
        closing = getattr(self.inner, "shutdown", None)
        if closing is not None:
            closing()

    @property
    def runs(self) -> object:
        """Statistics of an emulated inner port; else None."""
        return getattr(self.inner, "runs", None)
