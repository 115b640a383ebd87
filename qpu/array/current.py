"""The device on which arrays from pickles are made."""

from __future__ import annotations

from qpu.device import Device, open_device
from qpu.errors import UsageError

__all__ = ["current", "use"]

_current: Device | None = None


def use(gpu: Device | None) -> None:
    """Make arrays from pickles on this device; None: on the one that `open_device()` opens when it is needed.

    Raises: UsageError for something else.
    """
    global _current
    if gpu is not None and not isinstance(gpu, Device):
        raise UsageError(f"{type(gpu).__name__} is not a device", help="pass what qpu.open_device() gave")
    _current = gpu


def current() -> Device:
    """The device of arrays from pickles. Raises: as `open_device`."""
    global _current
    if _current is None or _current._pool.closed:
        _current = open_device()
    return _current
