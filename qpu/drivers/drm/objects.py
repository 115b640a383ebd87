"""Buffers and fences of the DRM v3d adapter."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qpu.drivers.base import Completion
from qpu.drivers.drm.calls import Calls
from qpu.drivers.port import Mapping, Port, Run
from qpu.drivers.uapi import drm
from qpu.errors import DriverError, EmuFault, UsageError

__all__ = ["DrmBo", "DrmFence", "multisync"]


class DrmBo:
    """A buffer object of v3d, mapped for its whole life."""

    __slots__ = ("_mapping", "_unmapped", "address", "busy", "calls", "handle", "last", "size")

    def __init__(
        self, calls: Calls, unmapped: Callable[[DrmBo], None], handle: int, size: int, address: int, mapping: Mapping
    ) -> None:
        """calls: ioctls of the node that allocated it. unmapped: called after the unmap, to close the handle."""
        self.calls = calls
        self._unmapped = unmapped
        self._mapping: Mapping | None = mapping
        self.handle = handle
        self.size = size
        self.address = address
        self.busy = 0  # unfinished jobs that list the buffer
        self.last = 0  # number of the last job that listed the buffer

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._mapping is None

    @property
    def view(self) -> memoryview:
        """The bytes. The memory is write-combined: copy in bulk. Raises: UsageError after `close`."""
        if self._mapping is None:
            raise UsageError("this buffer is closed", help="keep it open while you use it, or allocate a new one")
        return self._mapping.view

    def unmap(self) -> None:
        """Unmap. Raises: BufferError while views are alive."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None

    def close(self) -> None:
        """Free the memory, after the last job that uses it; idempotent.

        Raises: BufferError while views are alive; nothing is freed then.
        """
        if self._mapping is not None:
            self.unmap()
            self._unmapped(self)

    def __repr__(self) -> str:
        return f"<DrmBo {self.handle}: {self.size} bytes at 0x{self.address:08x}{', closed' if self.closed else ''}>"


class Submitter(Protocol):
    """The part of the adapter that a fence uses."""

    @property
    def port(self) -> Port: ...
    def wait(self, fence: DrmFence, timeout_s: float | None) -> None: ...
    def poll(self, fence: DrmFence, timeout_s: float = 0.0) -> bool: ...
    def export(self, fence: DrmFence) -> int: ...


@dataclass(eq=False, slots=True, weakref_slot=True)
class DrmFence:
    """A submitted job. driver: the adapter that it was submitted to."""

    driver: Submitter
    number: int
    bos: tuple[DrmBo, ...]
    syncobj: int
    submitted_s: float
    perfmon: int
    completion: Completion | None
    run: Run | None
    running_s: float = 0.0  # when the job was last seen unfinished
    done: bool = False
    error: DriverError | EmuFault | None = None

    def __post_init__(self) -> None:
        self.running_s = self.submitted_s

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for completion; the CPU sees the results then.

        Raises: GpuTimeoutError after timeout_s seconds (the buffers stay alive; wait again); GpuResetError.
        """
        self.driver.wait(self, timeout_s)

    def poll(self, timeout_s: float = 0.0) -> bool:
        """True when the job has ended, with or without an error, which `wait` raises."""
        return self.driver.poll(self, timeout_s)


def multisync(pointer_size: int, waits: Sequence[int], syncobj: int, keep: list[array[int]]) -> int:
    """Host address of a multisync extension: sync objects to wait for, and the one to signal (0 for none).

    keep: receives the arrays that the extension points to; the caller keeps them alive until the call returns.
    """
    sem = drm.layout("drm_v3d_sem", pointer_size)

    def sems(syncobjs: Sequence[int]) -> int:
        keep.append(array("B", b"".join(bytes(sem.pack(handle=handle)) for handle in syncobjs)))
        return keep[-1].buffer_info()[0]

    base = drm.layout("drm_v3d_extension", pointer_size).pack(id=drm.ExtensionId.MULTI_SYNC)
    out = [syncobj] if syncobj else []
    extension = drm.layout("drm_v3d_multi_sync", pointer_size).pack(
        base=bytes(base),
        in_syncs=sems(waits),
        out_syncs=sems(out) if out else 0,
        in_sync_count=len(waits),
        out_sync_count=len(out),
        wait_stage=drm.Queue.CSD,
    )
    keep.append(array("B", bytes(extension)))
    return keep[-1].buffer_info()[0]
