"""The limit on the host time of a run on an emulated board, which is independent of emulated time."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType

from qpu.core.arguments import seconds
from qpu.errors import EmuFault, UsageError

__all__ = ["HostLimit", "chosen_limit", "exceeded"]

_current = threading.local()


def chosen_limit(given: float | None) -> float | None:
    """The limit in seconds: `given`, else QPU_EMU_HOST_LIMIT_S, else None (no limit). Raises: UsageError."""
    if given is not None:
        return seconds("host_limit_s", given, positive=True)
    text = os.environ.get("QPU_EMU_HOST_LIMIT_S", "")
    if not text:
        return None
    try:
        return seconds("QPU_EMU_HOST_LIMIT_S", float(text), positive=True)
    except ValueError:
        raise UsageError(f"QPU_EMU_HOST_LIMIT_S={text!r}", help="set it to a positive number of seconds") from None


class HostLimit:
    """The host time of one run. Use ``with limit:`` around its steps, and `check` after each step.

    seconds: None for no limit.
    """

    __slots__ = ("_begun", "_outer", "_spent", "seconds")

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._spent = 0.0
        self._begun = 0.0
        self._outer: HostLimit | None = None

    def __enter__(self) -> None:
        self._outer = getattr(_current, "limit", None)
        _current.limit = self
        self._begun = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._spent += time.perf_counter() - self._begun
        self._begun = 0.0
        _current.limit = self._outer

    @property
    def spent(self) -> float:
        """Host seconds of the run so far."""
        return self._spent + (time.perf_counter() - self._begun if self._begun else 0.0)

    def check(self, clocks: int) -> None:
        """Raise EmuFault when the run has used up its host time. clocks: emulated so far."""
        if self.seconds is not None and self.spent > self.seconds:
            raise EmuFault(
                "host-limit",
                f"the run took more than {self.seconds:g} s of host time, for {clocks} emulated clocks so far",
                help="raise the limit (host_limit_s= of open_device, QPU_EMU_HOST_LIMIT_S), or give the run less work",
            )


def exceeded() -> bool:
    """Whether the run that this thread executes has used up its host time. For long work inside a step."""
    limit: HostLimit | None = getattr(_current, "limit", None)
    return limit is not None and limit.seconds is not None and limit.spent > limit.seconds
