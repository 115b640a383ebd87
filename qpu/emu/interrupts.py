"""Signals between steps of an emulation instead of inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

__all__ = ["StopRequest"]

_NAMES = ("INT", "ALRM", "VTALRM", "PROF", "TERM", "HUP", "QUIT", "USR1", "USR2", "CHLD", "BREAK")
_SIGNALS = tuple(getattr(signal, f"SIG{name}") for name in _NAMES if hasattr(signal, f"SIG{name}"))


class StopRequest:
    """``with StopRequest() as stop``: a signal sets `stop.requested` while the block runs in the main thread.

    The caller looks at it between steps and leaves the block; then `deliver` calls the handlers: Python's own raises
    KeyboardInterrupt, others do what they like. So the state stays whole whatever they raise. Elsewhere than in the
    main thread, where Python runs no handlers, nothing changes.
    """

    __slots__ = ("_came", "_held", "requested")

    def __init__(self) -> None:
        self.requested = False
        self._held: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._came: list[tuple[int, FrameType | None]] = []

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))
        self.requested = True

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._held[number] = handler
                    signal.signal(number, self._stop)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._held.items():
            signal.signal(number, handler)

    def deliver(self) -> None:
        """After the block: call the handlers of the signals that came, in their order.

        Raises: what they raise, KeyboardInterrupt for Ctrl-C where the program has no handler of its own.
        """
        while self._came:
            number, frame = self._came.pop(0)
            self._held[number](number, frame)
