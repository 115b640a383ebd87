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
from qpu.emu.linux.identity import v3d_params

__all__ = ["MMAP_BASE", "BufferObject", "Calls", "DmaBufFile", "DrmDevice", "SyncObject", "V3dFile"]

MMAP_BASE = 1 << 32  # base of the fake file offsets on 64-bit systems


@dataclass(eq=False, slots=True)
class BufferObject:
    """A buffer in GPU memory.

    users: number of handles, maps, exports and jobs that hold it; it is freed with the last one. fence: of the last job
    that listed it. outside: number of maps and exports, through which results can be seen without a handle.
    """

    region: Region
    free: Callable[[BufferObject], None]
    users: int = 0
    outside: int = 0
    fence: Fence | None = None
    holders: set[int] = field(default_factory=set)  # `id` of the files that have a handle

    @property
    def size(self) -> int:
        """Bytes, page-rounded."""
        return self.region.size

    @property
    def address(self) -> int:
        """GPU address."""
        return self.region.address

    def take(self) -> None:
        """Add a user."""
        self.users += 1

    def drop(self) -> None:
        """Remove a user; the last one frees the buffer."""
        self.users -= 1
        if self.users == 0:
            self.free(self)

    def map(self, size: int) -> Span:
        """Map `size` bytes from the start."""
        fail_if(not 0 < size <= self.size, errno.EINVAL)
        self.take()
        self.outside += 1

        def release() -> None:
            self.outside -= 1
            self.drop()

        return Span(self.address, size, release)


class DmaBufFile(OpenFile):
    """A buffer that was exported as a descriptor."""

    label = "dma-buf"

    def __init__(self, linux: Linux, bo: BufferObject) -> None:
        super().__init__(linux, f"dma-buf of 0x{bo.address:08x}")
        self.bo = bo
        bo.take()
        bo.outside += 1

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Perform DMA_BUF_IOCTL_SYNC, the only ioctl."""
        return dma_buf_ioctl(self.linux, request, arg)

    def mmap(self, size: int, offset: int) -> Span:
        """Map `size` bytes from the start."""
        fail_if(offset or size > self.bo.size, errno.EINVAL)
        return self.bo.map(size)

    def release(self) -> None:
        """Drop the buffer, after the last descriptor was closed."""
        self.bo.outside -= 1
        self.bo.drop()


class SyncObject:
    """A sync object, which holds a fence. fence: None until a job is submitted with the object or it is signalled."""

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
        self.resets = 0  # GPU resets that jobs of this file have caused
        self.serve(device.calls)

    def release(self) -> None:
        """Drop jobs, monitors, sync objects and handles, after the last descriptor was closed (drivers.md 1.8)."""
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
        """The buffer of a handle. Raises: OSError `missing`."""
        return lookup(self.handles, handle, missing)

    def new_handle(self, bo: BufferObject) -> int:
        """A new handle for `bo`: the lowest free one."""
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
    """The v3d device, common to all its nodes."""

    def __init__(self, linux: Linux, queue: V3dQueue, calls: Calls) -> None:
        self.linux = linux
        self.queue = queue
        self.calls = calls
        self.params = v3d_params(linux.profile)
        self.buffers: list[BufferObject] = []
        self.files: list[V3dFile] = []
        self.master: V3dFile | None = None
        self.global_perfmon: Perfmon | None = None
        # Host pages may be larger than those of the board; maps by descriptor need the alignment of the host.
        self.alignment = max(linux.profile.page_size, mmap.ALLOCATIONGRANULARITY)
        if linux.profile.old_linux:
            self.alignment = max(self.alignment, 128 << 10)

    def open(self, path: str, *, render: bool) -> V3dFile:
        """Open a node of the device."""
        file = V3dFile(self, path, render=render)
        if not render and not self.linux.profile.root:
            # The first opener of a card node becomes DRM master and is authenticated (drivers.md 1.1).
            file.authenticated = self.master is None
        if not render and self.master is None:
            self.master = file
        self.files.append(file)
        return file

    def allocate(self, size: int) -> BufferObject:
        """A new buffer of `size` bytes, a multiple of the page size. Raises: OSError ENOMEM, ENOSPC."""
        memory = self.linux.memory
        fail_if(sum(bo.size for bo in self.buffers) + size > self.linux.profile.memory, errno.ENOMEM)
        step = self.alignment
        # One page stays free after each buffer, so that an access past its end does not reach another buffer.
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
        """Free a buffer without users."""
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
