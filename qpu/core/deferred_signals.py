"""Signals between steps instead of inside one: calls that no handler may cut in two."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable
from importlib import import_module
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopRequest", "Uninterrupted", "deliver_held"]

_NAMES = ("INT", "ALRM", "VTALRM", "PROF", "TERM", "HUP", "QUIT", "USR1", "USR2", "CHLD", "BREAK")
_SIGNALS = tuple(int(getattr(signal, f"SIG{name}")) for name in _NAMES if hasattr(signal, f"SIG{name}"))
# What `signal` wraps to make enumerations of numbers: ten times as fast, and this happens in each emulated call.
_C: Any = import_module("_signal")
_get: Callable[[int], object] = _C.getsignal
_set: Callable[[int, object], object] = _C.signal
LATE_S = 0.01  # after a finalizer: time for what runs it to come to its end
_main = threading.main_thread
_ident = threading.get_ident

_Handler = Callable[[int, "FrameType | None"], object]
_innermost: StopRequest | None = None  # of the main thread: nobody else gets handlers


class StopRequest:
    """``with StopRequest() as stop``: a signal sets `stop.requested` while the block runs in the main thread.

    The caller looks at it between steps and leaves the block; then `deliver` calls the handlers: Python's own raises
    KeyboardInterrupt, others do what they like. So the state stays whole whatever they raise. Blocks nest: what came
    in the outer one requests a stop of the inner one at once, and whichever delivers first delivers all. Elsewhere
    than in the main thread, where Python runs no handlers, nothing changes.
    """

    __slots__ = ("_came", "_held", "_outer", "_over", "requested")

    def __init__(self) -> None:
        self.requested = False
        self._held: dict[int, _Handler] = {}
        self._came: list[tuple[_Handler, int, FrameType | None]] = []
        self._outer: StopRequest | None = None
        self._over = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._over:  # an exception left this handler behind
            self._held[number](number, frame)
            return
        if all(number != other for _, other, _ in self._came):  # as the kernel, which keeps one of each
            self._came.append((self._held[number], number, frame))
        each = _innermost
        while each is not None:
            each.requested = True
            each = each._outer

    def _install(self) -> None:
        self._over = False
        stop = self._stop
        try:
            for number in _SIGNALS:
                handler = _get(number)
                if callable(handler) and handler != stop:
                    self._held[number] = handler
                    _set(number, stop)  # runs the old handler first when a signal waits for it
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        self._over = True
        try:
            for number, handler in self._held.items():
                if _get(number) == self._stop:  # the block may have set another one
                    _set(number, handler)
        except BaseException:
            self._restore()  # one that is back already raised
            raise

    def __enter__(self) -> StopRequest:
        global _innermost
        if _ident() == _main().ident:
            outer = _innermost
            if outer is None:
                self._install()
            else:
                self._held, self._came = outer._held, outer._came
                self.requested = bool(self._came)
                self._outer, self._over = outer, False
            _innermost = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        global _innermost
        if not self._over:
            _innermost = self._outer
            if self._outer is None:
                self._restore()
            self._over = True

    def deliver(self) -> None:
        """After the block: call the handlers of the signals that came, in their order.

        Raises: what they raise, KeyboardInterrupt for Ctrl-C where the program has no handler of its own.
        """
        if not self._came:
            return
        if self._outer is not None:
            deliver_held()
            return
        self._call()

    def _call(self) -> None:
        handler, number, frame = self._came.pop(0)
        try:
            handler(number, frame)
        finally:
            if self._came:
                self._call()


def deliver_held() -> None:
    """Inside blocks of the main thread: call the handlers of what came, as if there were no block around.

    For waits and long runs inside a call, at places where the state is whole. Raises: what they raise.
    """
    inner = _innermost
    if inner is not None and inner._came and _ident() == _main().ident:
        inner._call()  # what comes meanwhile waits: nothing may strike between here and the caller's next step


class Uninterrupted:
    """``with Uninterrupted()``: handlers wait for the end of the block, or for `deliver_held` inside.

    late: for finalizers, where exceptions are lost: handlers run soon after.
    """

    __slots__ = ("_late", "_stop")

    def __init__(self, *, late: bool = False) -> None:
        self._stop = StopRequest()
        self._late = late

    def __enter__(self) -> None:
        self._stop.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        stop = self._stop
        try:
            stop.__exit__(kind, error, at)
        finally:
            if stop._came and stop._outer is None:
                if self._late:
                    numbers = [number for _, number, _ in stop._came]
                    threading.Thread(target=_again, args=(numbers,), daemon=True).start()
                else:
                    stop.deliver()


def _again(numbers: list[int]) -> None:
    time.sleep(LATE_S)
    for number in numbers:
        _thread.interrupt_main(signal.Signals(number))
