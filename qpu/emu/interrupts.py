"""Ctrl-C between steps of an emulation instead of inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

__all__ = ["StopRequest"]


class StopRequest:
    """``with StopRequest() as stop``: Ctrl-C sets `stop.requested` while the block runs in the main thread.

    The caller looks at it between steps and raises KeyboardInterrupt itself, so that its state stays whole. Elsewhere
    than in the main thread, or where the program has a handler of its own, nothing changes.
    """

    __slots__ = ("_restore", "requested")

    def __init__(self) -> None:
        self.requested = False
        self._restore = False

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def __enter__(self) -> StopRequest:
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._stop)
            self._restore = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._restore:
            signal.signal(signal.SIGINT, signal.default_int_handler)
