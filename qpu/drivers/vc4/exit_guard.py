"""Exit guard: releases what outlives the process, at interpreter exit, SIGTERM and SIGHUP.

Firmware memory and powered QPUs do not belong to a process, so Linux does not release them. SIGINT needs no handler,
because Python raises KeyboardInterrupt. Nothing is released at SIGKILL or `os._exit`.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

__all__ = ["guard", "release_all", "unguard"]

Handler: TypeAlias = "Callable[[int, FrameType | None], object] | int | None"

_SIGNALS = ("SIGTERM", "SIGHUP")
_lock = threading.RLock()
_held: dict[int, tuple[int, Callable[[], None]]] = {}  # key -> (process, closer)
_previous: dict[int, Handler] = {}
_hooked = False


def guard(key: int, closer: Callable[[], None]) -> None:
    """Call `closer` before the process ends, unless `unguard(key)` comes first.

    While anything is guarded, SIGTERM and SIGHUP end the process through SystemExit (128 + number), so that ``with``
    blocks and exit handlers run; a program that handles these signals itself keeps its handlers.
    """
    global _hooked
    with _lock:
        if not _hooked:
            atexit.register(release_all)
            _hooked = True
        _held[key] = (os.getpid(), closer)
        _take_signals()


def unguard(key: int) -> None:
    """Remove a key; an unknown key is ignored."""
    with _lock:
        _held.pop(key, None)
        if not _held:
            _return_signals()


def release_all() -> None:
    """Call every closer of this process, also after one has failed. A forked child does not call its parent's."""
    with _lock:
        for key, (process, closer) in list(_held.items()):
            _held.pop(key, None)
            if process == os.getpid():
                try:
                    closer()
                except Exception as error:
                    print(f"qpu: releasing the GPU at exit failed: {error}", file=sys.stderr)
        _return_signals()


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _take_signals() -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers; atexit still works
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            _previous[number] = signal.signal(number, _leave)


def _return_signals() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in list(_previous.items()):
        if signal.getsignal(number) is _leave:
            signal.signal(number, handler)
        del _previous[number]
