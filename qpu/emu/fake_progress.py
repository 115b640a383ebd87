"""A line on the terminal while a long emulation runs. Host time drives it, and nothing else."""

from __future__ import annotations

import sys
import time

__all__ = ["Progress"]

FIRST_S = 2.0
AGAIN_S = 0.5


class Progress:
    """Shows how far a job is, once it has taken about two seconds, on a terminal only."""

    def __init__(self, board: str, what: str) -> None:
        self._label = f"qpu: emulating {board}, {what}"
        self._next = time.monotonic() + FIRST_S
        self._shown = 0

    def update(self, emulated_s: float, done: int, total: int | None) -> None:
        """done, total: threads that ended, threads in all (None: unknown)."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + AGAIN_S
        if not sys.stderr.isatty():
            return
        of = "" if total is None else f" of {total}"
        line = f"{self._label}: {done}{of} threads done, {emulated_s:.4f} s of emulated time"
        sys.stderr.write("\r" + line.ljust(self._shown))
        sys.stderr.flush()
        self._shown = len(line)

    def close(self) -> None:
        """Remove the line."""
        if self._shown:
            sys.stderr.write("\r" + " " * self._shown + "\r")
            sys.stderr.flush()
            self._shown = 0
