"""Canary pages: known bytes around each buffer, compared when a launch has ended, where nothing else stops wild stores.

VideoCore IV has no memory protection, so they are on by default on real boards with it; QPU_CANARIES=1 turns them on
for every board, 0 for none. They see what wrote next to a buffer, after it happened; a rehearsal sees it before.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Final

from qpu.core.isa import Isa
from qpu.errors import OverrunError, UsageError, counted

if TYPE_CHECKING:
    from qpu.drivers.base import Bo, DeviceInfo, Driver

__all__ = ["PAGE", "Guarded", "raw", "wanted"]

PAGE: Final = 4096
_PATTERN: Final = random.Random(0x51).randbytes(2 * PAGE)


def wanted(variable: str, info: DeviceInfo) -> bool:
    """Whether a device is opened with a protection against wild stores, canary pages or rehearsal. variable: of the
    environment, which says so. Raises: UsageError for a value that is neither 0 nor 1."""
    chosen = os.environ.get(variable, "")
    if chosen not in ("", "0", "1"):
        raise UsageError(
            f"{variable}={chosen!r}", help="set it to 0 (never) or 1 (on every board) before opening a device"
        )
    return chosen == "1" or (not chosen and info.isa is Isa.VC4 and info.emulated is None)


def raw(bo: Bo) -> tuple[Bo, int]:
    """The driver's buffer object, and the offset of a buffer in it."""
    return (bo.inner, PAGE) if isinstance(bo, Guarded) else (bo, 0)


class Guarded:
    """A buffer object with a canary page before it and one after it. used: bytes that belong to the buffer; the rest of
    its last page is canary, too."""

    def __init__(self, driver: Driver, used: int) -> None:
        self.used = used
        self.size = -(-used // PAGE) * PAGE
        self.inner: Bo = driver.alloc(self.size + 2 * PAGE)
        self._after = PAGE + used
        view = self.inner.view
        view[:PAGE] = _PATTERN[:PAGE]
        self._length = self.size + 2 * PAGE - self._after
        view[self._after : self._after + self._length] = _PATTERN[: self._length]

    @property
    def address(self) -> int:
        """See `qpu.drivers.base.Bo`."""
        return self.inner.address + PAGE

    @property
    def view(self) -> memoryview:
        """See `qpu.drivers.base.Bo`."""
        return self.inner.view[PAGE : PAGE + self.size]

    def close(self) -> None:
        """See `qpu.drivers.base.Bo`."""
        self.inner.close()

    def damage(self) -> list[tuple[int, int]]:
        """(first byte, bytes) of what was changed before and after the buffer, counted from its beginning, and both
        canaries as they should be again."""
        found = []
        for start, length in ((0, PAGE), (self._after, self._length)):
            view = self.inner.view[start : start + length]
            data, pattern = bytes(view), _PATTERN[:length]
            if data != pattern:
                changed = [n for n in range(length) if data[n] != pattern[n]]
                found.append((start + changed[0] - PAGE, len(changed)))
                view[:] = pattern
        return found

    def check(self, label: str) -> None:
        """Raises: OverrunError when something wrote next to the buffer. label: of the buffer."""
        damage = self.damage()
        if damage:
            first, count = damage[0]
            past = first - self.used + 1
            where = (
                f"{counted(past, 'byte')} past the end" if first >= 0 else f"{counted(-first, 'byte')} before the start"
            )
            message = f"a launch wrote outside of {label}: {counted(count, 'byte')} changed, the first {where}"
            help = "check addresses and sizes; gpu.run(..., rehearse=True) shows the instruction"
            raise OverrunError(f"{message} (bus or GPU address 0x{self.address + first:08x})", help=help)
