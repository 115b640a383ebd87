"""Objects of the emulated v3d driver: the device, its open files, buffers, sync objects (drivers.md 1.3, 1.8)."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qpu.emu.engine.memory import PAGE, Region
from qpu.emu.linux.core import Linux, OpenFile, RegisterBlock, Span, fail, fail_if, lookup
from qpu.emu.linux.drm_core import Arguments, DrmNode, dma_buf_ioctl, lowest_free
from qpu.emu.linux.events import Perfmon
from qpu.emu.linux.gpu_jobs import Fence, V3dQueue

__all__ = ["MMAP_BASE", "BufferObject", "Calls", "DmaBufFile", "DrmDevice", "SyncObject", "V3dFile"]

MMAP_BASE = 1 << 32  # of fake file offsets on 64-bit systems


@dataclass(eq=False, slots=True)
class BufferObject:
    """GPU memory. users: handles, maps, exports and jobs that hold it; it is freed with the last one.

    fence: of the last job that listed it. outside: maps and exports, which let results be seen without a handle.
    """

    region: Region
    free: Callable[[BufferObject], None]
    users: int = 0
    outside: int = 0
    fence: Fence | None = None
    holders: set[int] = field(default_factory=set)  # id of files with a handle

    @property
    def size(self) -> int:
        """Bytes, page-rounded."""
        return self.region.size

    @property
    def address(self) -> int:
        """GPU address."""
        return self.region.address

    def take(self) -> None:
        """One more user."""
        self.users += 1

    def drop(self) -> None:
        """One user less."""
        self.users -= 1
        if self.users == 0:
            self.free(self)

    def map(self, size: int) -> Span:
        """Map from the start."""
        fail_if(not 0 < size <= self.size, errno.EINVAL)
        self.take()
        self.outside += 1

        def release() -> None:
            self.outside -= 1
            self.drop()

        return Span(self.address, size, release)


class DmaBufFile(OpenFile):
    """A buffer shared by descriptor."""

    label = "dma-buf"

    def __init__(self, linux: Linux, bo: BufferObject) -> None:
        super().__init__(linux, f"dma-buf of 0x{bo.address:08x}")
        self.bo = bo
        bo.take()
        bo.outside += 1

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Only DMA_BUF_IOCTL_SYNC."""
        return dma_buf_ioctl(self.linux, request, arg)

    def mmap(self, size: int, offset: int) -> Span:
        """Map from the start."""
        fail_if(offset or size > self.bo.size, errno.EINVAL)
        return self.bo.map(size)

    def release(self) -> None:
        """The last descriptor is gone."""
        self.bo.outside -= 1
        self.bo.drop()


class SyncObject:
    """A holder of a fence. fence: None until something is submitted with it or it is signalled."""

    __slots__ = ("fence",)

    def __init__(self, fence: Fence | None = None) -> None:
        self.fence = fence


class V3dFile(DrmNode):
    """An open node of the v3d driver."""

    NAME = "v3d"
    DESCRIPTION = "Broadcom V3D graphics"

    def __init__(self, device: DrmDevice, path: str, *, render: bool) -> None:
        super().__init__(device.linux, path, render=render)
        self.device = device
        self.handles: dict[int, BufferObject] = {}
        self.syncobjs: dict[int, SyncObject] = {}
        self.perfmons: dict[int, Perfmon] = {}
        self.resets = 0  # caused by this file
        self.serve(device.calls)

    def release(self) -> None:
        """The last descriptor is gone (drivers.md 1.8)."""
        device = self.device
        device.queue.drop(self)
        if device.master is self:
            device.master = None
        if device.global_perfmon is not None and device.global_perfmon in self.perfmons.values():
            device.global_perfmon = None
        self.perfmons.clear()
        self.syncobjs.clear()
        for handle in list(self.handles):
            self.close_handle(handle)
        device.files.remove(self)

    def buffer(self, handle: int, missing: int) -> BufferObject:
        """The buffer behind a handle. Raises: OSError `missing`."""
        return lookup(self.handles, handle, missing)

    def new_handle(self, bo: BufferObject) -> int:
        """The lowest free handle, for `bo` from now on."""
        handle = lowest_free(self.handles)
        self.handles[handle] = bo
        bo.take()
        bo.holders.add(id(self))
        return handle

    def close_handle(self, handle: int) -> None:
        """Drop a handle that exists."""
        bo = self.handles.pop(handle)
        if bo not in self.handles.values():
            bo.holders.discard(id(self))
        bo.drop()

    def mmap(self, size: int, offset: int) -> Span | RegisterBlock:
        """Map a buffer by its fake offset."""
        bo = self.device.at_offset(offset)
        if bo is None:
            raise fail(errno.EINVAL)
        if id(self) not in bo.holders:
            raise fail(errno.EACCES)
        return bo.map(size)


Calls = Mapping[str, Callable[[V3dFile, Arguments], None]]


class DrmDevice:
    """The v3d device that all its nodes lead to."""

    def __init__(self, linux: Linux, queue: V3dQueue, calls: Calls) -> None:
        self.linux = linux
        self.queue = queue
        self.calls = calls
        self.buffers: list[BufferObject] = []
        self.files: list[V3dFile] = []
        self.master: V3dFile | None = None
        self.global_perfmon: Perfmon | None = None
        # Host pages may be larger than the board's; maps by descriptor need their alignment.
        self.alignment = max(linux.profile.page_size, mmap.ALLOCATIONGRANULARITY)
        if linux.profile.old_linux:
            self.alignment = max(self.alignment, 128 << 10)

    def open(self, path: str, *, render: bool) -> V3dFile:
        """Open a node of it."""
        file = V3dFile(self, path, render=render)
        if not render and not self.linux.profile.root:
            # The first opener of a card node becomes DRM master and is authenticated (drivers.md 1.1).
            file.authenticated = self.master is None
        if not render and self.master is None:
            self.master = file
        self.files.append(file)
        return file

    def allocate(self, size: int) -> BufferObject:
        """A buffer of `size` bytes, page-rounded already. Raises: OSError ENOMEM, ENOSPC."""
        memory = self.linux.memory
        fail_if(sum(bo.size for bo in self.buffers) + size > self.linux.profile.memory, errno.ENOMEM)
        step = self.alignment
        # One page stays free behind each buffer, so that running over an end hits nothing else.
        at = step
        for region in memory.regions:
            if at + size + PAGE <= region.address:
                break
            at = (region.end + PAGE + step - 1) // step * step
        fail_if(at + size > memory.size, errno.ENOSPC)
        bo = BufferObject(memory.map(at, size, f"BO of {size} bytes"), self.free)
        self.buffers.append(bo)
        return bo

    def free(self, bo: BufferObject) -> None:
        """The last user is gone."""
        self.buffers.remove(bo)
        self.linux.memory.unmap(bo.region)

    def at_offset(self, offset: int) -> BufferObject | None:
        """The buffer whose fake file offset is `offset`."""
        region = self.linux.memory.region_at(offset - MMAP_BASE)
        if region is None or region.address + MMAP_BASE != offset:
            return None
        return next((bo for bo in self.buffers if bo.region is region), None)

    def allocated(self) -> list[str]:
        """Objects that open files hold, one line each."""
        found: list[str] = []
        for file in self.files:
            found += [f"{file.path}: BO handle {h}" for h in sorted(file.handles)]
            found += [f"{file.path}: syncobj {h}" for h in sorted(file.syncobjs)]
            found += [f"{file.path}: perfmon {h}" for h in sorted(file.perfmons)]
        return found
