"""DRM of an emulated Pi 4 or 5: the v3d nodes with buffers and parameters, and the display card beside them.

Source: drivers.md 1.1 to 1.8; errno for errno.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from qpu.core.isa import Isa
from qpu.drivers.uapi import dma_buf, drm
from qpu.drivers.uapi.drm import Param
from qpu.drivers.uapi.layout import Ioctl, Layout
from qpu.emu.engine.memory import PAGE, Region
from qpu.emu.linux.core import OpenFile, RegisterBlock, Span, fail
from qpu.emu.linux.user_memory import write_user

if TYPE_CHECKING:
    from qpu.emu.boards import BoardProfile
    from qpu.emu.linux.core import Kernel
    from qpu.emu.linux.drm_perfmon import Perfmon
    from qpu.emu.linux.drm_sync import SyncObject
    from qpu.emu.linux.gpu_jobs import Fence, V3dQueue

__all__ = ["Arguments", "BufferObject", "DisplayFile", "DmaBufFile", "DrmDevice", "DrmNode", "V3dFile"]

MMAP_BASE = 1 << 32  # of fake file offsets on 64-bit kernels
POLL_NS = 100_000  # what a wait without time takes here; a jiffy at most on hardware (drivers.md 1.3)
NR_DRIVER = 0x40
NR_DRIVER_END = 0xA0
PRIME_FLAGS = 0x80002  # O_CLOEXEC, O_RDWR
INFINITE = 1 << 62
_DIR_WRITE, _DIR_READ = 1, 2


class Arguments:
    """The structure of one ioctl, as long as the kernel knows it; short arguments are extended with zeros."""

    __slots__ = ("data", "layout")

    def __init__(self, layout: Layout, data: bytearray) -> None:
        self.layout = layout
        self.data = data

    def __getitem__(self, name: str) -> int:
        return self.layout.number(self.data, name)

    def __setitem__(self, name: str, value: int) -> None:
        self.layout.put(self.data, name, value)

    def numbers(self, name: str) -> tuple[int, ...]:
        """An array of numbers."""
        return self.layout.numbers(self.data, name)

    def text(self, name: str, value: str) -> None:
        """Set a char array."""
        self.layout.put(self.data, name, value.encode())


class DrmNode(OpenFile):
    """An open DRM node: what the DRM core does for every driver."""

    label = "drm"
    NAME: ClassVar[str] = ""
    DESCRIPTION: ClassVar[str] = ""
    DATE: ClassVar[str] = "20180419"
    CALLS: ClassVar[Mapping[str, str]] = {}  # ioctl name -> method
    _CORE: ClassVar[Mapping[str, str]] = {
        "DRM_IOCTL_VERSION": "version",
        "DRM_IOCTL_GET_MAGIC": "get_magic",
        "DRM_IOCTL_AUTH_MAGIC": "auth_magic",
        "DRM_IOCTL_GET_CAP": "get_cap",
    }
    # Not for render nodes (DRM core's permission flags).
    _CARD_ONLY: ClassVar[frozenset[str]] = frozenset({"DRM_IOCTL_GET_MAGIC", "DRM_IOCTL_AUTH_MAGIC"})

    def __init__(self, kernel: Kernel, path: str, *, render: bool = False) -> None:
        super().__init__(kernel, path)
        self.render = render
        self.authenticated = True
        self._table: dict[int, tuple[Ioctl, Callable[[Arguments], None]]] = {}
        for name, method in {**self._CORE, **self.CALLS}.items():
            row = drm.IOCTLS[name]
            self._table[row.nr] = row, getattr(self, method)

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Dispatch on the number only, as the DRM core does; sizes of other times are fine (drivers.md 1.2)."""
        if request >> 8 & 0xFF != ord("d"):
            raise fail(errno.ENOTTY)
        nr = request & 0xFF
        found = self._table.get(nr)
        if found is None:
            raise self.unknown(nr, request)
        row, method = found
        if self.render and row.name in self._CARD_ONLY:
            raise fail(errno.EACCES)
        layout = row.layout(self.kernel.pointer_size)
        size = request >> 16 & 0x3FFF
        if len(arg) < size:
            raise fail(errno.EFAULT)
        direction = request >> 30
        copy_in = size if direction & _DIR_WRITE and "W" in row.direction else 0
        copy_out = size if direction & _DIR_READ and "R" in row.direction else 0
        data = bytearray(max(layout.size, size))
        data[:copy_in] = arg[:copy_in]
        try:
            method(Arguments(layout, data))
        finally:
            arg[:copy_out] = data[:copy_out]
        return 0

    def unknown(self, nr: int, request: int) -> Exception:
        """The exception for a number without a handler."""
        if NR_DRIVER <= nr < NR_DRIVER_END:
            return fail(errno.EINVAL)  # beyond the driver's table
        name = next((n for n, row in drm.IOCTLS.items() if row.nr == nr), f"DRM core ioctl 0x{nr:02x}")
        return self.kernel.not_modelled(f"{name} (request 0x{request:08x}) on {self.path}")

    # the core

    def version(self, a: Arguments) -> None:
        a["version_major"], a["version_minor"], a["version_patchlevel"] = 1, 0, 0
        date = self.DATE if self.kernel.profile.old_kernel else "0"
        for name, text in (("name", self.NAME), ("date", date), ("desc", self.DESCRIPTION)):
            room = a[f"{name}_len"]
            if room and a[name]:
                write_user(a[name], text.encode()[:room])
            a[f"{name}_len"] = len(text)

    def get_cap(self, a: Arguments) -> None:
        known = {drm.CAP_PRIME: 3, drm.CAP_SYNCOBJ: 1, drm.CAP_SYNCOBJ_TIMELINE: 0, 0x6: 1}
        if a["capability"] not in known:
            raise self.kernel.not_modelled(f"DRM capability 0x{a['capability']:x} (DRM_IOCTL_GET_CAP)")
        a["value"] = known[a["capability"]]

    def get_magic(self, a: Arguments) -> None:
        a["magic"] = 1

    def auth_magic(self, a: Arguments) -> None:
        raise fail(errno.EACCES)


class DisplayFile(DrmNode):
    """The vc4 node: display on Pi 4 and 5, display and 3D engine on Pi 0 to 3 with KMS. It launches no programs.

    Requests of the v3d driver sent to it answer EINVAL (drivers.md 1.1).
    """

    NAME = "vc4"
    DESCRIPTION = "Broadcom VC4 graphics"
    DATE = "20140616"


@dataclass(eq=False, slots=True)
class BufferObject:
    """GPU memory. users: handles, maps, exports and jobs that hold it; it is freed with the last one.

    fence: of the last job that listed it. outside: maps and exports, which let results be seen without a handle.
    """

    device: DrmDevice
    region: Region
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
            self.device.free(self)

    def map(self, size: int) -> Span:
        """Map from the start."""
        if not 0 < size <= self.size:
            raise fail(errno.EINVAL)
        self.take()
        self.outside += 1

        def release() -> None:
            self.outside -= 1
            self.drop()

        return Span(self.address, size, release)


class DmaBufFile(OpenFile):
    """A buffer shared by descriptor."""

    label = "dma-buf"

    def __init__(self, kernel: Kernel, bo: BufferObject) -> None:
        super().__init__(kernel, f"dma-buf of 0x{bo.address:08x}")
        self.bo = bo
        bo.take()
        bo.outside += 1

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Only DMA_BUF_IOCTL_SYNC."""
        return dma_buf_ioctl(self.kernel, request, arg)

    def mmap(self, size: int, offset: int) -> Span:
        """Map from the start."""
        if offset or size > self.bo.size:
            raise fail(errno.EINVAL)
        return self.bo.map(size)

    def release(self) -> None:
        """The last descriptor is gone."""
        self.bo.outside -= 1
        self.bo.drop()


def dma_buf_ioctl(kernel: Kernel, request: int, arg: bytearray) -> int:
    """Requests to shared buffers: synchronising is free of effect, the memory is coherent (drivers.md 5.2)."""
    row = dma_buf.IOCTLS["DMA_BUF_IOCTL_SYNC"]
    if request >> 8 & 0xFF != ord("b"):
        raise fail(errno.ENOTTY)
    if request & 0xFF != row.nr:
        raise kernel.not_modelled(f"dma-buf ioctl 0x{request & 0xFF:02x} (request 0x{request:08x})")
    if len(arg) < 8:
        raise fail(errno.EFAULT)
    flags = row.layout(kernel.pointer_size).number(arg, "flags")
    if flags & ~(dma_buf.SYNC_RW | dma_buf.SYNC_END) or not flags & dma_buf.SYNC_RW:
        raise fail(errno.EINVAL)
    return 0


class DrmDevice:
    """The v3d device that all its nodes lead to."""

    def __init__(self, kernel: Kernel, queue: V3dQueue) -> None:
        self.kernel = kernel
        self.queue = queue
        self.buffers: list[BufferObject] = []
        self.files: list[V3dFile] = []
        self.master: V3dFile | None = None
        self.global_perfmon: Perfmon | None = None
        # Host pages may be larger than the board's; maps by descriptor need their alignment.
        self.alignment = max(kernel.profile.page_size, mmap.ALLOCATIONGRANULARITY)
        if kernel.profile.old_kernel:
            self.alignment = max(self.alignment, 128 << 10)

    def open(self, path: str, *, render: bool) -> V3dFile:
        """Open a node of it."""
        file = V3dFile(self, path, render=render)
        if not render and not self.kernel.profile.root:
            # The first opener of a card node becomes DRM master and is authenticated (drivers.md 1.1).
            file.authenticated = self.master is None
        if not render and self.master is None:
            self.master = file
        self.files.append(file)
        return file

    def allocate(self, size: int) -> BufferObject:
        """A buffer of `size` bytes, page-rounded already. Raises: OSError ENOMEM, ENOSPC."""
        memory = self.kernel.memory
        if sum(bo.size for bo in self.buffers) + size > self.kernel.profile.memory:
            raise fail(errno.ENOMEM)
        step = self.alignment
        # One page stays free behind each buffer, so that running over an end hits nothing else.
        at = step
        for region in memory.regions:
            if at + size + PAGE <= region.address:
                break
            at = (region.end + PAGE + step - 1) // step * step
        if at + size > memory.size:
            raise fail(errno.ENOSPC)
        bo = BufferObject(self, memory.map(at, size, f"BO of {size} bytes"))
        self.buffers.append(bo)
        return bo

    def free(self, bo: BufferObject) -> None:
        """The last user is gone."""
        self.buffers.remove(bo)
        self.kernel.memory.unmap(bo.region)

    def at_offset(self, offset: int) -> BufferObject | None:
        """The buffer whose fake file offset is `offset`."""
        region = self.kernel.memory.region_at(offset - MMAP_BASE)
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


def lowest_free(taken: Mapping[int, object]) -> int:
    """The lowest number from 1 that is not taken."""
    handle = 1
    while handle in taken:
        handle += 1
    return handle


class V3dFile(DrmNode):
    """An open node of the v3d driver."""

    NAME = "v3d"
    DESCRIPTION = "Broadcom V3D graphics"
    CALLS: ClassVar[Mapping[str, str]] = {
        "DRM_IOCTL_GEM_CLOSE": "gem_close",
        "DRM_IOCTL_PRIME_HANDLE_TO_FD": "prime_export",
        "DRM_IOCTL_PRIME_FD_TO_HANDLE": "prime_import",
        "DRM_IOCTL_V3D_WAIT_BO": "wait_bo",
        "DRM_IOCTL_V3D_CREATE_BO": "create_bo",
        "DRM_IOCTL_V3D_MMAP_BO": "mmap_bo",
        "DRM_IOCTL_V3D_GET_PARAM": "get_param",
        "DRM_IOCTL_V3D_GET_BO_OFFSET": "get_bo_offset",
        "DRM_IOCTL_V3D_SUBMIT_CL": "submit_cl",
        "DRM_IOCTL_V3D_SUBMIT_TFU": "submit_tfu",
        "DRM_IOCTL_V3D_SUBMIT_CSD": "submit_csd",
        "DRM_IOCTL_V3D_SUBMIT_CPU": "submit_cpu",
        "DRM_IOCTL_V3D_PERFMON_CREATE": "perfmon_create",
        "DRM_IOCTL_V3D_PERFMON_DESTROY": "perfmon_destroy",
        "DRM_IOCTL_V3D_PERFMON_GET_VALUES": "perfmon_get_values",
        "DRM_IOCTL_V3D_PERFMON_GET_COUNTER": "perfmon_get_counter",
        "DRM_IOCTL_V3D_PERFMON_SET_GLOBAL": "perfmon_set_global",
        "DRM_IOCTL_SYNCOBJ_CREATE": "syncobj",
        "DRM_IOCTL_SYNCOBJ_DESTROY": "syncobj",
        "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD": "syncobj",
        "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE": "syncobj",
        "DRM_IOCTL_SYNCOBJ_WAIT": "syncobj",
        "DRM_IOCTL_SYNCOBJ_RESET": "syncobj",
        "DRM_IOCTL_SYNCOBJ_SIGNAL": "syncobj",
        "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT": "syncobj",
        "DRM_IOCTL_SYNCOBJ_QUERY": "syncobj",
        "DRM_IOCTL_SYNCOBJ_TRANSFER": "syncobj",
        "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL": "syncobj",
    }
    # Numbers that kernels of the 5.4 era do not have (drivers.md 1.3, availability).
    _NEW: ClassVar[frozenset[int]] = frozenset({0x48, 0x49, 0x4A, 0x4B, 0x4C, 0x4D})

    def __init__(self, device: DrmDevice, path: str, *, render: bool) -> None:
        super().__init__(device.kernel, path, render=render)
        self.device = device
        self.handles: dict[int, BufferObject] = {}
        self.syncobjs: dict[int, SyncObject] = {}
        self.perfmons: dict[int, Perfmon] = {}
        self.resets = 0  # caused by this file
        for nr in range(0xBF, 0xCE):
            if nr in self._table:
                row = self._table[nr][0]
                self._table[nr] = row, self._syncobj_call(row.name)
        if device.kernel.profile.old_kernel:
            for nr in self._NEW:
                self._table.pop(nr, None)

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
            self._close_handle(handle)
        device.files.remove(self)

    # identity

    def auth_magic(self, a: Arguments) -> None:
        if self.device.master is not self:
            raise fail(errno.EACCES)
        index = a["magic"] - 1
        if not 0 <= index < len(self.device.files):
            raise fail(errno.EINVAL)
        self.device.files[index].authenticated = True

    def get_magic(self, a: Arguments) -> None:
        a["magic"] = self.device.files.index(self) + 1

    def get_param(self, a: Arguments) -> None:
        if a["pad"]:
            raise fail(errno.EINVAL)
        param = a["param"]
        if param <= Param.V3D_CORE0_IDENT2 and a["value"]:
            raise fail(errno.EINVAL)
        values = self._params()
        if param not in values:
            raise fail(errno.EINVAL)
        a["value"] = values[param]

    @staticmethod
    def identity(p: BoardProfile) -> dict[int, int]:
        """Identification registers by number of GET_PARAM."""
        ident = p.slices << 4 | p.qpus_per_slice << 8
        values: dict[int, int]
        if p.isa is Isa.V3D42:
            # Printed by boards (drivers.md 1.3). The VPM field and the low bits belong to the chip.
            values = {
                Param.V3D_UIFCFG: 0x45,
                Param.V3D_HUB_IDENT1: 0x000E1124,
                Param.V3D_HUB_IDENT2: 0x100,
                Param.V3D_HUB_IDENT3: p.rev << 8,
                Param.V3D_CORE0_IDENT0: 0x04443356,
                Param.V3D_CORE0_IDENT1: 0x81001002 | ident,
                Param.V3D_CORE0_IDENT2: 0x40078121,
            }
        else:
            # Upper bits of HUB_IDENT1, UIFCFG, HUB_IDENT2, the VPM field and IDENT2 are ASSUMED.
            values = {
                Param.V3D_UIFCFG: 0x45,
                Param.V3D_HUB_IDENT1: 0x000E1117,
                Param.V3D_HUB_IDENT2: 0x100,
                Param.V3D_HUB_IDENT3: p.rev << 8,
                Param.V3D_CORE0_IDENT0: 0x07443356,
                Param.V3D_CORE0_IDENT1: 0x00000001 | ident | p.slices * p.tmus_per_slice << 12,
                Param.V3D_CORE0_IDENT2: 0x40078121,
            }
        return values

    def _params(self) -> dict[int, int]:
        p = self.kernel.profile
        found = self.identity(p)
        found[Param.SUPPORTS_TFU] = 1
        found[Param.SUPPORTS_CSD] = 1
        if not p.old_kernel:
            found |= dict.fromkeys(range(Param.SUPPORTS_CACHE_FLUSH, Param.SUPPORTS_CPU_QUEUE + 1), 1)
            found[Param.MAX_PERF_COUNTERS] = 87 if p.isa is Isa.V3D42 else 93
            found[Param.SUPPORTS_SUPER_PAGES] = 0
            found[Param.GLOBAL_RESET_COUNTER] = self.device.queue.resets
            found[Param.CONTEXT_RESET_COUNTER] = self.resets
        return found

    # buffers

    def buffer(self, handle: int, missing: int) -> BufferObject:
        """The buffer behind a handle. Raises: OSError `missing`."""
        bo = self.handles.get(handle)
        if bo is None:
            raise fail(missing)
        return bo

    def _new_handle(self, bo: BufferObject) -> int:
        handle = lowest_free(self.handles)
        self.handles[handle] = bo
        bo.take()
        bo.holders.add(id(self))
        return handle

    def _close_handle(self, handle: int) -> None:
        bo = self.handles.pop(handle)
        if bo not in self.handles.values():
            bo.holders.discard(id(self))
        bo.drop()

    def create_bo(self, a: Arguments) -> None:
        if a["flags"]:
            raise fail(errno.EINVAL)
        page = self.kernel.profile.page_size
        size = (a["size"] + page - 1) // page * page & 0xFFFFFFFF  # rounded in 32 bits
        if size == 0:
            raise fail(errno.EINVAL)
        bo = self.device.allocate(size)
        a["handle"] = self._new_handle(bo)
        a["offset"] = bo.address

    def gem_close(self, a: Arguments) -> None:
        if a["handle"] not in self.handles:
            raise fail(errno.EINVAL)
        self._close_handle(a["handle"])

    def mmap_bo(self, a: Arguments) -> None:
        if a["flags"]:
            raise fail(errno.EINVAL)
        a["offset"] = MMAP_BASE + self.buffer(a["handle"], errno.ENOENT).address

    def get_bo_offset(self, a: Arguments) -> None:
        a["offset"] = self.buffer(a["handle"], errno.ENOENT).address

    def mmap(self, size: int, offset: int) -> Span | RegisterBlock:
        """Map a buffer by its fake offset."""
        bo = self.device.at_offset(offset)
        if bo is None:
            raise fail(errno.EINVAL)
        if id(self) not in bo.holders:
            raise fail(errno.EACCES)
        return bo.map(size)

    def wait_bo(self, a: Arguments) -> None:
        if a["pad"]:
            raise fail(errno.EINVAL)
        bo = self.buffer(a["handle"], errno.EINVAL)
        if bo.fence is None:
            return
        clock = self.kernel.clock
        start, timeout = clock.now_ns, a["timeout_ns"]
        deadline = None if timeout >= INFINITE else start + max(timeout, POLL_NS)
        queue = self.device.queue
        fence = bo.fence
        done = False
        try:
            done = queue.wait((fence,), deadline)
            while not done and deadline is None:
                # Held up by a sync object that only another thread can signal.
                self.kernel.changed.wait(0.01)
                done = queue.wait((fence,), None)
        finally:
            a["timeout_ns"] = max(0, timeout - (clock.now_ns - start))
        if not done:
            raise fail(errno.ETIME)

    def prime_export(self, a: Arguments) -> None:
        if a["flags"] & ~PRIME_FLAGS:
            raise fail(errno.EINVAL)
        bo = self.buffer(a["handle"], errno.ENOENT)
        a["fd"] = self.kernel.fds.install(DmaBufFile(self.kernel, bo))

    def prime_import(self, a: Arguments) -> None:
        file = self.kernel.fds.get(a["fd"])
        if not isinstance(file, DmaBufFile):
            raise fail(errno.EINVAL)
        for handle, bo in self.handles.items():
            if bo is file.bo:
                a["handle"] = handle
                return
        a["handle"] = self._new_handle(file.bo)

    # jobs, monitors, sync objects: modules of their own

    def _may_submit(self) -> None:
        if not self.render and not self.authenticated:
            raise fail(errno.EACCES)

    def submit_cl(self, a: Arguments) -> None:
        self._may_submit()
        raise self.kernel.not_modelled("DRM_IOCTL_V3D_SUBMIT_CL (graphics, nr 0x40)")

    def submit_tfu(self, a: Arguments) -> None:
        self._may_submit()
        raise self.kernel.not_modelled("DRM_IOCTL_V3D_SUBMIT_TFU (texture formatting unit, nr 0x46)")

    def submit_csd(self, a: Arguments) -> None:
        from qpu.emu.linux.drm_submit import submit_csd

        self._may_submit()
        submit_csd(self, a)

    def submit_cpu(self, a: Arguments) -> None:
        from qpu.emu.linux.drm_submit import submit_cpu

        self._may_submit()
        submit_cpu(self, a)

    def perfmon_create(self, a: Arguments) -> None:
        from qpu.emu.linux import drm_perfmon as fake_perfmon

        fake_perfmon.create(self, a)

    def perfmon_destroy(self, a: Arguments) -> None:
        from qpu.emu.linux import drm_perfmon as fake_perfmon

        fake_perfmon.destroy(self, a)

    def perfmon_get_values(self, a: Arguments) -> None:
        from qpu.emu.linux import drm_perfmon as fake_perfmon

        fake_perfmon.get_values(self, a)

    def perfmon_get_counter(self, a: Arguments) -> None:
        from qpu.emu.linux import drm_perfmon as fake_perfmon

        fake_perfmon.get_counter(self, a)

    def perfmon_set_global(self, a: Arguments) -> None:
        from qpu.emu.linux import drm_perfmon as fake_perfmon

        fake_perfmon.set_global(self, a)

    def syncobj(self, a: Arguments) -> None:
        """Replaced per number in the constructor."""

    def _syncobj_call(self, name: str) -> Callable[[Arguments], None]:
        from qpu.emu.linux import drm_sync as fake_sync

        handler = fake_sync.CALLS[name]
        return lambda a: handler(self, a)
