"""Critical sections that Python's signal handlers do not interrupt.

Drivers, memory pool and emulator use them, so that Ctrl-C cannot come between a system call and its bookkeeping.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable
from importlib import import_module
from types import FrameType, TracebackType
from typing import Any, Protocol

__all__ = ["CriticalSection", "critical", "run_pending"]

_NAMES = ("INT", "ALRM", "VTALRM", "PROF", "TERM", "HUP", "QUIT", "USR1", "USR2", "CHLD", "BREAK")
_SIGNALS = tuple(int(getattr(signal, f"SIG{name}")) for name in _NAMES if hasattr(signal, f"SIG{name}"))
# The C functions below the `signal` module, which wraps them to return enumeration members. Calling the C functions
# directly is ten times as fast, and every emulated system call enters a critical section.
_C: Any = import_module("_signal")
_get: Callable[[int], object] = _C.getsignal
_set: Callable[[int, object], object] = _C.signal
LATE_S = 0.01  # from the end of a finalizer to its deferred handlers, so that the interrupted code finishes first
POLL_S = 0.05  # of host time, between checks for signals while waiting for a lock
_ident = threading.get_ident
_main = threading.main_thread().ident  # after a fork, the thread that has forked


def _forked() -> None:
    global _main
    _main = _ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

_Handler = Callable[[int, "FrameType | None"], object]
_innermost: CriticalSection | None = None  # of the main thread, the only one that runs signal handlers


class _Lock(Protocol):
    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool: ...
    def release(self) -> None: ...


class CriticalSection:
    """See `critical`. pending: True once a signal has arrived; long loops poll it and leave the section."""

    __slots__ = ("_arrived", "_deferred", "_entered", "_late", "_lock", "_outer", "pending")

    def __init__(self, late: bool, lock: _Lock | None) -> None:
        self.pending = False
        self._deferred: dict[int, _Handler] = {}
        self._arrived: list[tuple[_Handler, int, FrameType | None]] = []
        self._outer: CriticalSection | None = None
        self._entered = False
        self._late = late
        self._lock = lock

    def _handler(self, number: int, frame: FrameType | None) -> None:
        if not self._entered:  # an exception in `_restore` left this handler installed
            self._deferred[number](number, frame)
            return
        if all(number != other for _, other, _ in self._arrived):  # Linux keeps one pending signal of each number, too
            self._arrived.append((self._deferred[number], number, frame))
        each = _innermost
        while each is not None:
            each.pending = True
            each = each._outer

    def _install(self) -> None:
        self._entered = True
        handler, deferred = self._handler, self._deferred
        try:
            for number, before in zip(_SIGNALS, map(_get, _SIGNALS), strict=True):
                if before is not None and before.__class__ is not int and callable(before) and before != handler:
                    deferred[number] = before
                    _set(number, handler)  # a signal that is pending right now runs the old handler first
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        self._entered = False
        try:
            for number, handler in self._deferred.items():
                if _get(number) == self._handler:  # unless the section set another one
                    _set(number, handler)
        except BaseException:
            self._restore()  # a handler that was restored already raised
            raise

    def __enter__(self) -> CriticalSection:
        global _innermost
        if _ident() == _main:
            outer = _innermost
            if outer is None:
                self._install()
            else:
                self._deferred, self._arrived = outer._deferred, outer._arrived
                self.pending = bool(self._arrived)
                self._outer, self._entered = outer, True
            _innermost = self
        if self._lock is not None:
            try:
                while not self._lock.acquire(timeout=POLL_S):
                    run_pending()
            except BaseException:
                self._leave()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.release()
        try:
            self._leave()
        finally:
            if self._arrived and self._outer is None:
                if self._late:
                    numbers = [number for _, number, _ in self._arrived]
                    threading.Thread(target=_interrupt_later, args=(numbers,), daemon=True).start()
                else:
                    self._run_handlers()

    def _leave(self) -> None:
        global _innermost
        if self._entered:
            _innermost = self._outer
            if self._outer is None:
                self._restore()
            self._entered = False

    def _run_handlers(self) -> None:
        handler, number, frame = self._arrived.pop(0)
        try:
            handler(number, frame)
        finally:
            if self._arrived:
                self._run_handlers()


def critical(*, late: bool = False, lock: _Lock | None = None) -> CriticalSection:
    """Defer Unix signal handlers until the end of a ``with critical()`` block, whatever they raise.

    Sections nest: the handlers run at the end of the outermost one, in the order of arrival, or in `run_pending`.
    late: for finalizers, where exceptions are lost: the handlers run shortly after the section. lock: held inside the
    section; handlers do run while the section waits for it. In other threads than the main one, where Python runs no
    handlers, only the lock has an effect.
    """
    return CriticalSection(late, lock)


def run_pending() -> None:
    """Run the handlers of the signals that arrived, at a point inside critical sections where the state is consistent.

    For waits and long loops. Raises: what the handlers raise, KeyboardInterrupt for Ctrl-C by default.
    """
    inner = _innermost
    if inner is not None and inner._arrived and _ident() == _main:
        inner._run_handlers()  # signals that arrive meanwhile stay deferred


def _interrupt_later(numbers: list[int]) -> None:
    time.sleep(LATE_S)
    for number in numbers:
        _thread.interrupt_main(signal.Signals(number))
