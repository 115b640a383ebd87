"""The progress bar on the terminal while a long emulation runs. It depends on host time only."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["Progress"]

FIRST_S = 2.0
AGAIN_S = 0.5


class Progress:
    """A progress bar, shown after about two seconds of a job, on a terminal only, and only if tqdm is installed."""

    def __init__(self, board: str, what: str) -> None:
        self._label = f"qpu: emulating {board}, {what}"
        self._bar: Any = None
        self._absent = False
        self.begin()

    def begin(self) -> None:
        """Start a job."""
        self._next = time.monotonic() + FIRST_S

    def update(self, emulated_s: float, done: int, total: int | None) -> None:
        """Update the bar. done, total: threads that have ended, all threads (None: unknown)."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + AGAIN_S
        if self._bar is None:
            self._bar = self._open(total)
            if self._bar is None:
                return
        self._bar.n = done
        self._bar.set_postfix_str(f"{emulated_s:.4f} s of emulated time")

    def _open(self, total: int | None) -> Any:
        if self._absent or not sys.stderr.isatty():
            return None
        try:
            from tqdm import tqdm
        except ImportError:
            self._absent = True
            return None
        return tqdm(total=total, desc=self._label, unit="thread", leave=False, file=sys.stderr)

    def close(self) -> None:
        """Remove the bar; another `update` of the same job shows it again."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
