"""Pool of DRM sync objects, which are signalled when a job has ended; other devices can import them."""

from __future__ import annotations

import errno

from qpu.drivers.drm.calls import Calls
from qpu.drivers.errors_table import fault

__all__ = ["SyncObjects"]

_ABSENT = (errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS)


class SyncObjects:
    """Sync objects of one open node; the handle 0 means none, on versions of Linux without sync objects."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._spare: list[int] = []

    def take(self) -> int:
        """A sync object for the next job. Raises: DriverError."""
        if self._spare:
            return self._spare.pop()
        name = "DRM_IOCTL_SYNCOBJ_CREATE"
        try:
            return self._calls.number(name, self._calls.request(name), "handle")
        except OSError as error:
            if error.errno in _ABSENT:
                return 0  # the job is awaited through its buffers
            raise fault("unexpected", self._calls.what(name), error.errno) from error

    def give(self, handle: int) -> None:
        """Return a sync object whose job has ended or was not submitted."""
        if handle:
            self._spare.append(handle)

    def destroy(self, handle: int) -> None:
        """Destroy an imported sync object."""
        try:
            self._calls.request("DRM_IOCTL_SYNCOBJ_DESTROY", handle=handle)
        except OSError:
            pass  # destroyed with the file at the latest

    def adopt(self, fd: int) -> int:
        """Import the sync object of another node from its descriptor. Raises: DriverError."""
        return self._convert("DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE", "handle", fd=fd)

    def export(self, handle: int) -> int:
        """A descriptor of a sync object, for import by another node. Raises: DriverError."""
        return self._convert("DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD", "fd", handle=handle, fd=-1)

    def _convert(self, name: str, field: str, **values: int) -> int:
        try:
            return self._calls.number(name, self._calls.request(name, **values), field)
        except OSError as error:
            raise fault("unexpected", self._calls.what(name), error.errno) from error

    def forget(self) -> None:
        """Forget all sync objects: closing the node destroys them."""
        self._spare.clear()
