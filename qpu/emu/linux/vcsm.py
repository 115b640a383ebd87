"""/dev/vcsm-cma and /dev/vcsm of an emulated board: memory that CPU and VideoCore IV share (drivers.md 5)."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from qpu.drivers.uapi import vcsm
from qpu.drivers.uapi.layout import Layout
from qpu.emu.engine.memory import Region
from qpu.emu.linux.core import Linux, OpenFile, RegisterBlock, Span, fail, fail_if
from qpu.emu.linux.drm_core import dma_buf_ioctl
from qpu.emu.linux.heap import Heap

__all__ = ["CmaHeap", "VcsmDevice"]

UNCACHED = 0xC000_0000
L2_CACHED = 0x4000_0000


def _name(linux: Linux, nr: int, letter: str, request: int) -> str:
    for name, row in vcsm.IOCTLS.items():
        if row.nr == nr and row.type == ord(letter):
            return f"{name} (request 0x{request:08x})"
    return f"ioctl 0x{nr:02x} (request 0x{request:08x})"


class CmaHeap:
    """Linux's contiguous memory, reached through VCSM-CMA."""

    def __init__(self, linux: Linux) -> None:
        self.linux = linux
        p = linux.profile
        self.heap = Heap(linux.memory, p.cma_base, p.cma) if not p.is_drm else None
        self.vc_handles = 0
        linux.openers["vcsm-cma"] = partial(CmaFile, self)

    def allocate(self, size: int, name: str) -> Region:
        """A region, page-rounded. Raises: OSError EINVAL, ENOMEM."""
        page = self.linux.profile.page_size
        size = (size + page - 1) // page * page & 0xFFFFFFFF
        fail_if(size == 0, errno.EINVAL)
        region = self.heap.allocate(size, page, name) if self.heap is not None else None
        if region is None:
            raise fail(errno.ENOMEM)
        return region

    def bus_address(self, region: Region) -> int:
        """The uncached alias. On BCM2835 other aliases may appear (uncertain); here it is the same everywhere."""
        return region.address | UNCACHED


class CmaFile(OpenFile):
    """An open /dev/vcsm-cma."""

    label = "vcsm-cma"

    def __init__(self, heap: CmaHeap, path: str) -> None:
        super().__init__(heap.linux, path)
        self._heap = heap

    def argument_size(self, request: int, peek: Callable[[int], bytes]) -> int:
        """By number: the handlers do not look at the size bits."""
        return _argument_size(self.linux, "J", request)

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Dispatch on the number only."""
        fail_if(request >> 8 & 0xFF != ord("J"), errno.ENOTTY)
        linux, heap = self.linux, self._heap
        nr = request & 0xFF
        if nr == vcsm.IOCTLS["VC_SM_CMA_IOCTL_MEM_ALLOC"].nr:
            layout = vcsm.layout("vc_sm_cma_ioctl_alloc", linux.pointer_size)
            _need(arg, layout)
            label = _label(layout, arg)
            region = heap.allocate(layout.number(arg, "size"), f"VCSM-CMA {label}")
            heap.vc_handles += 1
            layout.put(arg, "vc_handle", heap.vc_handles)
            layout.put(arg, "dma_addr", heap.bus_address(region))
            layout.put(arg, "handle", linux.fds.install(CmaBuffer(linux, _Shared(heap, region), label)))
            return 0
        if nr == vcsm.IOCTLS["VC_SM_CMA_IOCTL_MEM_IMPORT_DMABUF"].nr:
            layout = vcsm.layout("vc_sm_cma_ioctl_import_dmabuf", linux.pointer_size)
            _need(arg, layout)
            source = linux.fds.get(layout.number(arg, "dmabuf_fd"))
            if not isinstance(source, CmaBuffer):
                raise fail(errno.EINVAL)
            region = source.shared.region
            heap.vc_handles += 1
            layout.put(arg, "vc_handle", heap.vc_handles)
            layout.put(arg, "size", region.size)
            layout.put(arg, "dma_addr", heap.bus_address(region))
            layout.put(arg, "handle", linux.fds.install(CmaBuffer(linux, source.shared, _label(layout, arg))))
            return 0
        # CLEAN_INVALID2 and everything unknown: EINVAL in current kernels.
        raise fail(errno.EINVAL)


def _argument_size(linux: Linux, letter: str, request: int) -> int:
    for row in vcsm.IOCTLS.values():
        if row.nr == request & 0xFF and row.type == ord(letter) and row.argument:
            return row.layout(linux.pointer_size).size
    return request >> 16 & 0x3FFF


def _need(arg: bytearray, layout: Layout) -> None:
    fail_if(len(arg) < layout.size, errno.EFAULT)


def _label(layout: Layout, arg: bytearray) -> str:
    raw = layout.get(arg, "name")
    assert isinstance(raw, bytes)
    return raw.partition(b"\0")[0].decode("ascii", "replace") or "buffer"


class _Shared:
    """Contiguous memory with a count of descriptors and maps."""

    def __init__(self, heap: CmaHeap, region: Region) -> None:
        self._heap = heap
        self.region = region
        self.users = 0

    def take(self) -> None:
        self.users += 1

    def drop(self) -> None:
        self.users -= 1
        heap = self._heap.heap
        if self.users == 0 and heap is not None:
            heap.free(self.region)


class CmaBuffer(OpenFile):
    """A dma-buf of contiguous memory."""

    label = "dma-buf"

    def __init__(self, linux: Linux, shared: _Shared, name: str) -> None:
        super().__init__(linux, f"dma-buf {name}")
        self.shared = shared
        shared.take()

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Only DMA_BUF_IOCTL_SYNC."""
        return dma_buf_ioctl(self.linux, request, arg)

    def mmap(self, size: int, offset: int) -> Span | RegisterBlock:
        """Map a part."""
        shared = self.shared
        fail_if(size <= 0 or offset + size > shared.region.size, errno.EINVAL)
        shared.take()
        return Span(shared.region.address + offset, size, shared.drop)

    def release(self) -> None:
        """The last descriptor is gone."""
        self.shared.drop()


@dataclass(eq=False, slots=True)
class _Plain:
    """An allocation of /dev/vcsm. locked: user addresses given by LOCK."""

    region: Region
    cached: int
    maps: int = 0
    locks: int = 0
    freed: bool = False


class VcsmDevice:
    """/dev/vcsm: memory of the firmware, known by GUID. 32-bit processes on a 64-bit system cannot use it on hardware;
    here the system is as wide as the process.
    """

    def __init__(self, linux: Linux, heap: Heap | None) -> None:
        self.linux = linux
        self._heap = heap
        self.next_guid = 1
        linux.openers["vcsm"] = partial(VcsmFile, self)

    def heap(self) -> Heap:
        """Where memory comes from. Raises: OSError EPERM when there is none."""
        if self._heap is None:
            raise fail(errno.EPERM)
        return self._heap


class VcsmFile(OpenFile):
    """An open /dev/vcsm. Order of use: ALLOC, mmap(offset = handle), LOCK, bus address ... munmap, UNLOCK, FREE."""

    label = "vcsm"

    def __init__(self, device: VcsmDevice, path: str) -> None:
        super().__init__(device.linux, path)
        self._device = device
        self.blocks: dict[int, _Plain] = {}
        self.addresses: dict[int, int] = {}  # handle -> user address of its map

    def argument_size(self, request: int, peek: Callable[[int], bytes]) -> int:
        """By number; the blocks of CLEAN_INVALID2 follow its head."""
        size = _argument_size(self.linux, "I", request)
        if request & 0xFF == vcsm.IOCTLS["VMCS_SM_IOCTL_MEM_CLEAN_INVALID2"].nr:
            size += peek(1)[0] * (24 if self.linux.pointer_size == 8 else 16)
        return size

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Dispatch on the number only."""
        fail_if(request >> 8 & 0xFF != ord("I"), errno.ENOTTY)
        nr = request & 0xFF
        call = {0x5A: self._alloc, 0x5C: self._lock, 0x5E: self._unlock, 0x61: self._free, 0x6A: self._bus}.get(nr)
        if call is not None:
            call(arg)
        elif nr == vcsm.IOCTLS["VMCS_SM_IOCTL_MEM_CLEAN_INVALID2"].nr:
            self._clean(arg)
        elif any(row.nr == nr and row.type == ord("I") for row in vcsm.IOCTLS.values()):
            raise self.linux.not_modelled(_name(self.linux, nr, "I", request))
        else:
            raise fail(errno.EINVAL)
        return 0

    def _layout(self, name: str, arg: bytearray) -> Layout:
        layout = vcsm.layout(name, self.linux.pointer_size)
        _need(arg, layout)
        return layout

    def _block(self, handle: int) -> _Plain:
        block = self.blocks.get(handle)
        if block is None or block.freed:
            raise fail(errno.EINVAL)
        return block

    def _alloc(self, arg: bytearray) -> None:
        layout = self._layout("vmcs_sm_ioctl_alloc", arg)
        page = self.linux.profile.page_size
        size = layout.number(arg, "size") * max(1, layout.number(arg, "num"))
        size = (size + page - 1) // page * page
        cached = layout.number(arg, "cached")
        fail_if(size == 0 or cached > vcsm.Cache.BOTH, errno.EINVAL)
        region = self._device.heap().allocate(size, page, f"VCSM {_label(layout, arg)}")
        if region is None:
            raise fail(errno.ENOMEM)
        device = self._device
        handle = device.next_guid * page  # a GUID: a multiple of the page size, used as mmap offset
        device.next_guid += 1
        self.blocks[handle] = _Plain(region, cached)
        layout.put(arg, "handle", handle)

    def _lock(self, arg: bytearray) -> None:
        layout = self._layout("vmcs_sm_ioctl_lock_unlock", arg)
        handle = layout.number(arg, "handle")
        block = self._block(handle)
        block.locks += 1
        # The user address of the map, as far as 32 bits hold it.
        layout.put(arg, "addr", self.addresses.get(handle, 0) & 0xFFFFFFFF)

    def _unlock(self, arg: bytearray) -> None:
        layout = self._layout("vmcs_sm_ioctl_lock_unlock", arg)
        block = self._block(layout.number(arg, "handle"))
        if block.locks:
            block.locks -= 1

    def _free(self, arg: bytearray) -> None:
        layout = self._layout("vmcs_sm_ioctl_free", arg)
        block = self._block(layout.number(arg, "handle"))
        block.freed = True
        self._collect()

    def _bus(self, arg: bytearray) -> None:
        layout = self._layout("vmcs_sm_ioctl_map", arg)
        block = self.blocks.get(layout.number(arg, "handle"))
        if layout.number(arg, "pid") not in (0, os.getpid()) or block is None or block.freed:
            layout.put(arg, "addr", 0)
            return
        alias = L2_CACHED if block.cached & vcsm.Cache.VC else UNCACHED
        layout.put(arg, "addr", block.region.address | alias)

    def _clean(self, arg: bytearray) -> None:
        """Cache maintenance has no effect on memory that both sides see at once; the blocks are checked."""
        wide = self.linux.pointer_size == 8
        fail_if(len(arg) < 4, errno.EFAULT)
        count = arg[0]
        start, size = (8, 24) if wide else (4, 16)
        fail_if(len(arg) < start + count * size and count, errno.EFAULT)
        for i in range(count):
            mode = struct.unpack_from("<H", arg, start + i * size)[0]
            fail_if(mode > vcsm.CacheOp.FLUSH, errno.EINVAL)

    def mmap(self, size: int, offset: int) -> Span | RegisterBlock:
        """Map an allocation by its handle."""
        block = self._block(offset)
        fail_if(not 0 < size <= block.region.size, errno.EINVAL)
        block.maps += 1

        def placed(address: int) -> None:
            self.addresses[offset] = address

        def release() -> None:
            block.maps -= 1
            self._collect()

        return Span(block.region.address, size, release, placed)

    def _collect(self) -> None:
        for handle, block in list(self.blocks.items()):
            if block.freed and not block.maps:
                del self.blocks[handle]
                self.addresses.pop(handle, None)
                self._device.heap().free(block.region)

    def release(self) -> None:
        """The last descriptor is gone: everything is freed once its maps are gone."""
        for block in self.blocks.values():
            block.freed = True
        self._collect()
