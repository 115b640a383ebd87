"""Host threads that help the calling one with independent pieces of work."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["Workers", "cores"]

T = TypeVar("T")


def cores() -> int:
    """Host cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """The calling thread (worker 0) and `count - 1` threads beside it, which start when they are first needed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def share(self, items: Iterable[T], work: Callable[[T, int], None]) -> None:
        """Call `work(item, worker)` for every item, each on the next worker that is free.

        The caller works too, and does not wait for a thread that has not begun when no items are left: that costs
        little where the other cores are busy. Raises: what `work` raises, after all calls have returned.
        """
        waiting = deque(items)
        if len(waiting) < 2 or self.count < 2:
            for item in waiting:
                work(item, 0)
            return

        def some(worker: int) -> None:
            while waiting:
                try:
                    item = waiting.popleft()
                except IndexError:  # another worker took the last one
                    return
                work(item, worker)

        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.count - 1, "qpu-emulator")
        helpers = [self._pool.submit(some, worker) for worker in range(1, min(self.count, len(waiting)))]
        try:
            some(0)
        finally:
            errors = [helper.exception() for helper in helpers if not helper.cancel()]
        for error in errors:
            if error is not None:
                raise error

    def close(self) -> None:
        """Stop the threads; the next call of `share` starts new ones."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
