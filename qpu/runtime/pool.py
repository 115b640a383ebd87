"""The memory pool of a device: buffer objects of users, uploaded code, scratch memory, and the launches that use them.

`qpu.device`, `qpu.buffers` and `qpu.launch` share it. It decides when a buffer object can be closed.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from qpu.core.code import Code
from qpu.core.deferred_signals import critical
from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.runtime.canary import Guarded, raw

if TYPE_CHECKING:
    from qpu.drivers.base import Bo, Bounds, Driver

__all__ = ["Contents", "MemoryPool", "Place", "Running"]

REAP_AFTER = 32  # unwaited launches, or closed buffers with live ndarrays, before the pool polls for finished ones
PREFETCH_SLACK = 512  # instruction fetch runs past the end of a program (v3d.md 8.3)
SPARE_SCRATCH = 8  # buffer objects of finished launches that are kept for the next ones
MIN_SCRATCH = 4096


class Place(ABC):
    """Device memory with an address: a buffer, or a part of one."""

    __slots__ = ()

    @property
    @abstractmethod
    def pool(self) -> MemoryPool:
        """The pool that the memory belongs to."""

    @property
    @abstractmethod
    def address(self) -> int:
        """GPU address, u32. Raises: UsageError when the buffer is closed."""

    @property
    @abstractmethod
    def extent(self) -> tuple[Bo, int, int]:
        """Buffer object, offset of the place in bytes, bytes of the buffer. Raises: UsageError when it is closed."""

    @property
    def contiguous(self) -> bool:
        """Whether the address alone says where its elements are."""
        return True


class Owner(Protocol):
    """The object that a buffer object is allocated for, such as a `Buffer`."""

    @property
    def used(self) -> int:
        """Bytes that programs may access."""
        ...

    @property
    def label(self) -> str:
        """Its name in messages."""
        ...

    def detach(self) -> None:
        """Drop every view of the memory: the device is closing."""
        ...


@dataclass(frozen=True, slots=True)
class Contents:
    """A buffer object and what it is for. used: bytes of a buffer of the user. kind: ``buffer``, ``code`` or
    ``uniforms``. streams: address and bytes of each uniform stream, where they are known."""

    bo: Bo
    used: int
    kind: str
    name: str
    streams: Sequence[tuple[int, int]] = ()


class Running(Protocol):
    """A launch that may still use memory."""

    error: BaseException | None

    def settle_if_done(self) -> None:
        """Retire the launch if it has finished."""
        ...

    def wait(self) -> None:
        """Wait for its end. Raises: what the launch ended with."""
        ...


_Owner = TypeVar("_Owner", bound=Owner)


class _Submission:
    """See `MemoryPool.submission`."""

    __slots__ = ("_pool",)

    def __init__(self, pool: MemoryPool) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        self._pool.submitting(1)

    def __exit__(self, *_: object) -> None:
        self._pool.submitting(-1)


class MemoryPool:
    """Buffer objects of one device, through its driver.

    Linux's V3D driver keeps memory alive for the jobs that use it. On VideoCore IV no driver does, so the pool closes
    buffer objects there only while no launch runs. A buffer object whose memory is still exported to an ndarray
    cannot be closed; the pool tries again later.
    """

    def __init__(self, driver: Driver, isa: Isa, bounds: Bounds | None = None, *, canaries: bool = False) -> None:
        self._driver: Driver | None = driver
        self._guarded: dict[int, tuple[Guarded, str]] = {}  # by owner: its canaries and its name
        self._canaries = canaries
        self.bounds = bounds  # where programs may access buffer objects, on emulated boards that check it
        self._isa = isa
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._owners: weakref.WeakSet[Owner] = weakref.WeakSet()
        self._bos: dict[int, Bo] = {}
        self._code: dict[int, tuple[weakref.ref[Code], Bo]] = {}
        self._scratch: list[Bo] = []
        self._pending: list[Bo] = []  # released by their owners, to be closed
        self._running: set[Running] = set()
        self._submitting = 0  # launches that have listed their buffers and are not completely submitted

    @property
    def closed(self) -> bool:
        """True once the device is closed."""
        return self._driver is None

    @property
    def usable(self) -> bool:
        """True in the process that opened the device, until it is closed."""
        return self._driver is not None and os.getpid() == self._pid

    @property
    def driver(self) -> Driver:
        """The adapter. Raises: UsageError when the device is closed or was inherited through fork."""
        driver = self._driver
        if driver is None:
            raise UsageError("this device is closed", help="open it again with qpu.open_device()")
        if os.getpid() != self._pid:
            help = "open it in the child, or use the spawn start method"
            raise UsageError("this device was opened before fork()", help=help)
        return driver

    # buffers

    def allocate(self, size: int, make: Callable[[Bo], _Owner]) -> _Owner:
        """A buffer object of `size` bytes, zero-filled, and what `make` builds on it. Raises: DriverError."""
        with self._lock:
            self._reap()
            with critical():  # Ctrl-C between alloc() and the bookkeeping would leak the buffer object
                bo: Bo = Guarded(self.driver, size) if self._canaries else self.driver.alloc(size)
                try:
                    owner = make(bo)
                    if isinstance(bo, Guarded):
                        self._guarded[id(owner)] = bo, owner.label
                    elif self.bounds is not None:
                        self.bounds.buffer(bo.address, owner.used, owner.label)
                except BaseException:
                    _close(bo)
                    raise
                key = id(owner)
                self._owners.add(owner)
                self._bos[key] = bo
                weakref.finalize(owner, self._collected, key).atexit = False
            return owner

    def release(self, owner: Owner) -> None:
        """Close the buffer object of an owner."""
        with self._lock, critical():
            self._owners.discard(owner)
            self._guarded.pop(id(owner), None)
            bo = self._bos.pop(id(owner), None)
            if bo is not None:
                self._dispose(bo)

    def _collected(self, key: int) -> None:
        """Release the buffer object of a garbage-collected owner, whose ndarray may still exist."""
        with critical(late=True):
            self._guarded.pop(key, None)
            bo = self._bos.pop(key, None)
            if bo is not None and self.usable:
                self._dispose(bo)

    def _dispose(self, bo: Bo) -> None:
        if self._in_use or not _close(bo):
            self._pending.append(bo)

    @property
    def _in_use(self) -> bool:
        """Whether a job may use any buffer object: closing one has to wait."""
        return bool(self._submitting or (self._running and self._isa is Isa.VC4))

    def _reap(self) -> None:
        """Retire finished launches that nobody waited for, then close pending buffer objects."""
        if len(self._running) >= REAP_AFTER or len(self._pending) >= REAP_AFTER:
            for launch in list(self._running):  # an interrupted `run` leaves one
                launch.settle_if_done()
        if self._pending and not self._in_use:
            with critical():
                self._pending = [bo for bo in self._pending if not _close(bo)]

    # code and scratch memory of launches

    def upload(self, program: Code) -> Bo:
        """The buffer object with the program's code, uploaded on first use. Raises: UsageError for the wrong ISA."""
        if not isinstance(program, Code):
            raise UsageError(f"{type(program).__name__} is not a program", help="make one with qpu.assemble()")
        if program.isa is not self._isa:
            message = f"a program for {program.isa.label} cannot run on {self._isa.label}"
            raise UsageError(message, help=f"assemble it for {self._isa}")
        if not len(program):
            raise UsageError("the program is empty", help="write at least the end sequence: q.end()")
        key = id(program)
        with self._lock:
            known = self._code.get(key)
            if known is not None and known[0]() is program:
                return known[1]
            data = program.data
            with critical():
                bo = self.driver.alloc(len(data) + PREFETCH_SLACK)
                bo.view[: len(data)] = data
                if self.bounds is not None:
                    self.bounds.code(bo.address)

                def unload(_: object, ends: Callable[[], bool] = sys.is_finalizing) -> None:
                    if not ends():  # modules are empty then
                        self._unload(key)

                self._code[key] = (weakref.ref(program, unload), bo)
            return bo

    def _unload(self, key: int) -> None:
        with critical(late=True):
            known = self._code.pop(key, None)
            if known is not None and self.usable:
                self._dispose(known[1])  # its launches have finished: they keep the program alive

    def scratch(self, size: int) -> Bo:
        """Memory for one launch; `end` takes it back."""
        with self._lock:
            for i, bo in enumerate(self._scratch):
                if bo.size >= size:
                    return self._scratch.pop(i)
        return self.driver.alloc(max(size, MIN_SCRATCH))

    def submission(self) -> AbstractContextManager[None]:
        """A block that lists buffer objects and submits jobs with them; no thread closes any meanwhile."""
        return _Submission(self)

    def submitting(self, change: int) -> None:
        """Count a block of `submission` that begins (1) or ends (-1)."""
        with self._lock:
            self._submitting += change

    def listed(self, *bos: Bo) -> tuple[Bo, ...]:
        """Every buffer object that a job may touch: `bos` and those of all owners."""
        with self._lock:
            return (*bos, *(raw(bo)[0] for bo in self._bos.values()))

    def contents(self, bos: Sequence[Bo]) -> list[Contents]:
        """What the buffer objects of a job are for, each once."""
        with self._lock:
            owners = {
                id(raw(self._bos[id(owner)])[0]): (owner, self._bos[id(owner)])
                for owner in self._owners
                if id(owner) in self._bos
            }
            codes = {id(bo) for _, bo in self._code.values()}
        found: list[Contents] = []
        for bo in {id(bo): bo for bo in bos}.values():
            known = owners.get(id(bo))
            if known is not None:
                owner, bo = known  # with canary pages: what lies between them
                found.append(Contents(bo, owner.used, "buffer", owner.label))
            elif id(bo) in codes:
                found.append(Contents(bo, 0, "code", "code"))
            else:
                streams = () if self.bounds is None else self.bounds.known_streams(bo.address)
                found.append(Contents(bo, 0, "uniforms", "uniforms", streams))
        return found

    # launches

    @property
    def running(self) -> list[Running]:
        """The launches that have not been retired."""
        with self._lock:
            return list(self._running)

    def begin(self, launch: Running) -> None:
        """Record a running launch: memory that it may use stays open."""
        with self._lock:
            self._running.add(launch)
            if len(self._running) >= REAP_AFTER:
                self._reap()

    def end(self, launch: Running | None, scratch: Sequence[Bo]) -> None:
        """Recycle the scratch memory of a launch that finished, or that was not submitted (None)."""
        with self._lock:
            if self._driver is None:
                return
            for bo in scratch:
                if len(self._scratch) < SPARE_SCRATCH:
                    self._scratch.append(bo)
                else:
                    _close(bo)
            if launch is not None:
                self._running.discard(launch)
                if not self._running and self._pending:
                    self._reap()

    def check_canaries(self) -> None:
        """Compare the canary pages of all buffers, after a launch. Raises: OverrunError."""
        if self._guarded:
            with self._lock:
                for bo, label in list(self._guarded.values()):
                    bo.check(label)

    # end

    def close(self) -> bool:
        """Close the driver and with it all memory; False when the pool was closed before, or belongs to the parent."""
        driver, self._driver = self._driver, None
        if driver is None or os.getpid() != self._pid:
            return False
        with driver.leaving(), self._lock:
            for owner in list(self._owners):
                owner.detach()
            for holder in (self._bos, self._guarded, self._code, self._scratch, self._pending, self._running):
                holder.clear()
            # The driver stops running jobs before it frees memory.
            try:
                driver.close()
            except BaseException:
                driver.close()  # an interrupt left the rest undone
                raise
        return True


def _close(bo: Bo) -> bool:
    """Close a buffer object; False while ndarrays still refer to its mapping."""
    try:
        bo.close()
    except BufferError:
        return False
    return True
