"""/dev/vcsm-cma and /dev/vcsm of an emulated board: memory for both the CPU and VideoCore IV (drivers.md 5)."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from qpu.drivers.uapi import vcsm
from qpu.drivers.uapi.layout import Ioctl
from qpu.emu.engine.memory import Region
from qpu.emu.linux.core import Linux, OpenFile, RegisterBlock, Span, fail, fail_if
from qpu.emu.linux.drm_core import Arguments, dma_buf_ioctl
from qpu.emu.linux.heap import Heap

__all__ = ["CmaHeap", "VcsmDevice"]

UNCACHED = 0xC000_0000
L2_CACHED = 0x4000_0000


class CmaHeap:
    """Linux's contiguous memory area, from which VCSM-CMA allocates."""

    def __init__(self, linux: Linux) -> None:
        self.linux = linux
        p = linux.profile
        self.heap = Heap(linux.memory, p.cma_base, p.cma) if not p.is_drm else None
        self.vc_handles = 0
        linux.openers["vcsm-cma"] = partial(CmaFile, self)

    def allocate(self, size: int, name: str) -> Region:
        """A region of `size` bytes, rounded up to pages. Raises: OSError EINVAL, ENOMEM."""
        page = self.linux.profile.page_size
        size = (size + page - 1) // page * page & 0xFFFFFFFF
        fail_if(size == 0, errno.EINVAL)
        region = self.heap.allocate(size, page, name) if self.heap is not None else None
        if region is None:
            raise fail(errno.ENOMEM)
        return region

    def bus_address(self, region: Region) -> int:
        """The bus address of a region, in the uncached alias. On BCM2835 other aliases may be used (uncertain)."""
        return region.address | UNCACHED


class _Node(OpenFile):
    """An open node whose driver dispatches on the number of a request only. calls: handlers by ioctl name."""

    letter: ClassVar[str]
    calls: Mapping[str, Callable[[Arguments], None]]

    def _row(self, request: int) -> Ioctl | None:
        rows = vcsm.IOCTLS.values()
        return next((r for r in rows if r.nr == request & 0xFF and r.type == ord(self.letter)), None)

    def argument_size(self, request: int, peek: Callable[[int], bytes]) -> int:
        """Bytes of the argument by number: the handlers ignore the size bits."""
        row = self._row(request)
        if row is not None and row.argument:
            return row.layout(self.linux.width_of(row, request)).size
        return request >> 16 & 0x3FFF

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Dispatch on the number only."""
        fail_if(request >> 8 & 0xFF != ord(self.letter), errno.ENOTTY)
        row = self._row(request)
        if row is None or row.name not in self.calls:
            raise self.unknown(row, request)
        layout = row.layout(self.linux.width_of(row, request))
        fail_if(len(arg) < layout.size, errno.EFAULT)
        self.calls[row.name](Arguments(layout, arg))
        return 0

    def unknown(self, row: Ioctl | None, request: int) -> Exception:
        """The exception for a request without a handler."""
        return fail(errno.EINVAL)


class CmaFile(_Node):
    """An open /dev/vcsm-cma."""

    label = "vcsm-cma"
    letter = "J"

    def __init__(self, heap: CmaHeap, path: str) -> None:
        super().__init__(heap.linux, path)
        self._heap = heap
        # CLEAN_INVALID2 and unknown requests fail with EINVAL in current versions of Linux.
        self.calls = {"VC_SM_CMA_IOCTL_MEM_ALLOC": self._alloc, "VC_SM_CMA_IOCTL_MEM_IMPORT_DMABUF": self._import}

    def _alloc(self, a: Arguments) -> None:
        region = self._heap.allocate(a["size"], f"VCSM-CMA {_label(a)}")
        self._answer(a, _Shared(self._heap, region))

    def _import(self, a: Arguments) -> None:
        source = self.linux.fds.get(a["dmabuf_fd"])
        if not isinstance(source, CmaBuffer):
            raise fail(errno.EINVAL)
        a["size"] = source.shared.region.size
        self._answer(a, source.shared)

    def _answer(self, a: Arguments, shared: _Shared) -> None:
        heap = self._heap
        heap.vc_handles += 1
        a["vc_handle"] = heap.vc_handles
        a["dma_addr"] = heap.bus_address(shared.region)
        a["handle"] = self.linux.fds.install(CmaBuffer(self.linux, shared, _label(a)))


def _label(a: Arguments) -> str:
    raw = a.layout.get(a.data, "name")
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
    """An open dma-buf of contiguous memory."""

    label = "dma-buf"

    def __init__(self, linux: Linux, shared: _Shared, name: str) -> None:
        super().__init__(linux, f"dma-buf {name}")
        self.shared = shared
        shared.take()

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Perform DMA_BUF_IOCTL_SYNC, the only ioctl."""
        return dma_buf_ioctl(self.linux, request, arg)

    def mmap(self, size: int, offset: int) -> Span | RegisterBlock:
        """Map a part of the memory."""
        shared = self.shared
        fail_if(size <= 0 or offset + size > shared.region.size, errno.EINVAL)
        shared.take()
        return Span(shared.region.address + offset, size, shared.drop)

    def release(self) -> None:
        """Drop the memory, after the last descriptor was closed."""
        self.shared.drop()


@dataclass(eq=False, slots=True)
class _Plain:
    """An allocation of /dev/vcsm. It is freed when `freed` is set and `maps` is 0."""

    region: Region
    cached: int
    maps: int = 0
    locks: int = 0
    freed: bool = False


class VcsmDevice:
    """The device /dev/vcsm: memory of the firmware, identified by GUID.

    On a real board, 32-bit processes on a 64-bit Linux cannot use it; the emulated Linux is as wide as the process.
    """

    def __init__(self, linux: Linux, heap: Heap | None) -> None:
        self.linux = linux
        self._heap = heap
        self.next_guid = 1
        linux.openers["vcsm"] = partial(VcsmFile, self)

    def heap(self) -> Heap:
        """The allocator of the memory. Raises: OSError EPERM on boards that have none."""
        if self._heap is None:
            raise fail(errno.EPERM)
        return self._heap


class VcsmFile(_Node):
    """An open /dev/vcsm. Order of use: ALLOC, mmap(offset = handle), LOCK, bus address ... munmap, UNLOCK, FREE."""

    label = "vcsm"
    letter = "I"

    def __init__(self, device: VcsmDevice, path: str) -> None:
        super().__init__(device.linux, path)
        self._device = device
        self.blocks: dict[int, _Plain] = {}
        self.addresses: dict[int, int] = {}  # handle -> user address of its map
        self.calls = {
            "VMCS_SM_IOCTL_MEM_ALLOC": self._alloc,
            "VMCS_SM_IOCTL_MEM_LOCK": self._lock,
            "VMCS_SM_IOCTL_MEM_UNLOCK": self._unlock,
            "VMCS_SM_IOCTL_MEM_FREE": self._free,
            "VMCS_SM_IOCTL_MAP_VC_ADDR_FR_HDL": self._bus,
            "VMCS_SM_IOCTL_MEM_CLEAN_INVALID2": self._clean,
        }

    def argument_size(self, request: int, peek: Callable[[int], bytes]) -> int:
        """Bytes of the argument by number; the blocks of CLEAN_INVALID2 follow its structure."""
        size = super().argument_size(request, peek)
        if request & 0xFF == vcsm.IOCTLS["VMCS_SM_IOCTL_MEM_CLEAN_INVALID2"].nr:
            size += peek(1)[0] * self._block_size
        return size

    @property
    def _block_size(self) -> int:
        return vcsm.layout("vmcs_sm_ioctl_clean_invalid_block", self.linux.pointer_size).size

    def unknown(self, row: Ioctl | None, request: int) -> Exception:
        """The exception for a request without a handler: requests that exist are not modelled."""
        if row is None:
            return fail(errno.EINVAL)
        return self.linux.not_modelled(f"{row.name} (request 0x{request:08x})")

    def _block(self, handle: int) -> _Plain:
        block = self.blocks.get(handle)
        if block is None or block.freed:
            raise fail(errno.EINVAL)
        return block

    def _alloc(self, a: Arguments) -> None:
        page = self.linux.profile.page_size
        size = a["size"] * max(1, a["num"])
        size = (size + page - 1) // page * page
        fail_if(size == 0 or a["cached"] > vcsm.Cache.BOTH, errno.EINVAL)
        device = self._device
        region = device.heap().allocate(size, page, f"VCSM {_label(a)}")
        if region is None:
            raise fail(errno.ENOMEM)
        handle = device.next_guid * page  # a GUID: a multiple of the page size, used as mmap offset
        device.next_guid += 1
        self.blocks[handle] = _Plain(region, a["cached"])
        a["handle"] = handle

    def _lock(self, a: Arguments) -> None:
        self._block(a["handle"]).locks += 1
        # The low 32 bits of the user address of the map.
        a["addr"] = self.addresses.get(a["handle"], 0) & 0xFFFFFFFF

    def _unlock(self, a: Arguments) -> None:
        block = self._block(a["handle"])
        block.locks = max(0, block.locks - 1)

    def _free(self, a: Arguments) -> None:
        self._block(a["handle"]).freed = True
        self._collect()

    def _bus(self, a: Arguments) -> None:
        block = self.blocks.get(a["handle"])
        if a["pid"] not in (0, os.getpid()) or block is None or block.freed:
            a["addr"] = 0
            return
        a["addr"] = block.region.address | (L2_CACHED if block.cached & vcsm.Cache.VC else UNCACHED)

    def _clean(self, a: Arguments) -> None:
        """Cache maintenance: the blocks are checked; there is no effect, because the memory is coherent."""
        start, size, data = a.layout.size, self._block_size, a.data
        end = start + a["op_count"] * size
        fail_if(len(data) < end, errno.EFAULT)
        modes = [struct.unpack_from("<H", data, at)[0] for at in range(start, end, size)]
        fail_if(any(mode > vcsm.CacheOp.FLUSH for mode in modes), errno.EINVAL)

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
        """Free all allocations, after the last descriptor was closed; mapped ones are freed when they are unmapped."""
        for block in self.blocks.values():
            block.freed = True
        self._collect()
