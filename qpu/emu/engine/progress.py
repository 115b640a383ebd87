"""Progress of a long emulation on the terminal: a bar where tqdm is installed, else a line.

When it appears depends on host time.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

__all__ = ["Progress", "translating"]

FIRST_S = 1.0
AGAIN_S = 0.5
_CLEAR = "\r\x1b[K"
_present = threading.local()


class Progress:
    """Shows a job that has taken more than a second, on a terminal only, inside ``with progress:``.

    board: its name. what: the kind of job.
    """

    def __init__(self, board: str, what: str) -> None:
        self._head = f"qpu: emulating {board}, "
        self._what = what
        self._bar: Any = None
        self._line = False
        self._outer: Progress | None = None
        self.begin()

    def begin(self) -> None:
        """Start a job."""
        self._next = time.monotonic() + FIRST_S

    def __enter__(self) -> None:
        self._outer = getattr(_present, "progress", None)
        _present.progress = self

    def __exit__(self, *_: object) -> None:
        _present.progress = self._outer
        self._erase()

    def update(self, emulated_s: float, done: int, total: int | None) -> None:
        """Show how far the job is. done, total: threads that have ended, all threads (None: unknown)."""
        if not self._due():
            return
        if self._bar is None:
            self._bar = self._open(total)
        if self._bar is None:
            of = "" if total is None else f" of {total}"
            self._write(f"{self._what}: {done}{of} threads, {emulated_s:.4f} s of emulated time")
        else:
            self._bar.n = done
            self._bar.set_postfix_str(f"{emulated_s:.4f} s of emulated time")

    def translate(self) -> None:
        """Show that the job waits for a translation."""
        if self._due():
            self._write("translating a program that is not in the cache")

    def _due(self) -> bool:
        now = time.monotonic()
        if now < self._next or getattr(_present, "progress", None) is not self:
            return False
        self._next = now + AGAIN_S
        return sys.stderr is not None and sys.stderr.isatty()

    def _open(self, total: int | None) -> Any:
        try:
            from tqdm import tqdm
        except ImportError:
            return None
        self._erase()
        return tqdm(total=total, desc=self._head + self._what, unit="thread", leave=False, file=sys.stderr)

    def _write(self, text: str) -> None:
        self._erase()
        self._line = True
        sys.stderr.write(self._head + text)
        sys.stderr.flush()

    def _erase(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._line:
            self._line = False
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()


def translating() -> None:
    """Called again and again while the job of this thread waits for a translation."""
    progress: Progress | None = getattr(_present, "progress", None)
    if progress is not None:
        progress.translate()
