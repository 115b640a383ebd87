"""The fence of a dispatch that was split into several jobs, for `qpu.launch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qpu.errors import EmuFault, GpuResetError

if TYPE_CHECKING:
    from qpu.drivers.base import Fence

__all__ = ["Parts"]


class Parts:
    """A dispatch that was split into jobs, which run one after another. now: seconds on the device's clock."""

    def __init__(self, fences: Sequence[Fence], now: Callable[[], float]) -> None:
        self.fences = list(fences)
        self._now = now
        self._resets: list[tuple[int, GpuResetError]] = []
        self._fault: EmuFault | None = None
        self._finished = 0

    @property
    def run(self) -> None:
        """None: each part has a run of its own."""
        return None

    @property
    def done(self) -> bool:
        """True once every part has finished."""
        return self._finished == len(self.fences)

    def wait(self, timeout_s: float | None = None) -> None:
        """See `qpu.drivers.base.Fence.wait`. After a part that was reset it waits for the other parts, too."""
        deadline = None if timeout_s is None else self._now() + timeout_s
        while not self.done:
            self._wait_for_next(None if deadline is None else max(0.0, deadline - self._now()))
        if self._fault is not None:
            raise self._fault
        if self._resets:
            part, error = self._resets[0]
            more = f", and {len(self._resets) - 1} more" if len(self._resets) > 1 else ""
            raise GpuResetError(f"part {part} of {len(self.fences)}{more}: {error}", error.errno)

    def poll(self, timeout_s: float = 0.0) -> bool:
        """See `qpu.drivers.base.Fence.poll`."""
        while not self.done:
            fence = self.fences[self._finished]
            try:
                if not fence.poll(timeout_s):
                    return False
            except EmuFault:
                if not fence.done:
                    raise
            self._wait_for_next(0.0)
        return True

    def _wait_for_next(self, timeout_s: float | None) -> None:
        fence = self.fences[self._finished]
        try:
            fence.wait(timeout_s)
        except GpuResetError as error:
            self._resets.append((self._finished + 1, error))
        except EmuFault as fault:
            if not fence.done:
                raise  # a fault of another launch
            self._fault = self._fault or fault
        self._finished += 1
