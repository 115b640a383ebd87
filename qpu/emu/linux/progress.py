"""A progress bar on the terminal while a long emulation runs. Host time drives it, and nothing else."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["Progress"]

FIRST_S = 2.0
AGAIN_S = 0.5


class Progress:
    """Shows how far a job is, once it has taken about two seconds; on a terminal only, and only where tqdm is."""

    def __init__(self, board: str, what: str) -> None:
        self._label = f"qpu: emulating {board}, {what}"
        self._bar: Any = None
        self._absent = False
        self.begin()

    def begin(self) -> None:
        """A job starts."""
        self._next = time.monotonic() + FIRST_S

    def update(self, emulated_s: float, done: int, total: int | None) -> None:
        """done, total: threads that ended, threads in all (None: unknown)."""
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
        """Remove the bar; another `update` of the same job brings it back."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
