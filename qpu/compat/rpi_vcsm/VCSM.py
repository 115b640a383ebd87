"""The class of rpi-vcsm, with the calls of its versions 2.x (by position) and 3.x (by keyword), over system calls.

It makes the system calls itself, through `os`, `fcntl` and `mmap`, so it works on a real board and under `qpu emulate`.
The order of positional arguments in 2.x is [uncertain]: it is that of the keywords in 3.x.
"""

from __future__ import annotations

import ctypes
import os
import struct
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qpu.compat import rpi_vcsm
from qpu.drivers.uapi import dma_buf, vcsm
from qpu.drivers.uapi.layout import Ioctl
from qpu.errors import UsageError

if TYPE_CHECKING:
    import mmap

__all__ = ["VCSM"]


def _ioctl(fd: int, request: int, data: bytearray) -> None:
    import fcntl  # here: the module does not exist on every system, and `qpu emulate` replaces its functions

    fcntl.ioctl(fd, request, data, True)


def _map(fd: int, size: int, offset: int = 0) -> mmap.mmap:
    import mmap

    return mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class _Service:
    """An open device of one memory service."""

    name: str

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.width = struct.calcsize("P")

    def call(self, row: Ioctl, fd: int | None = None, /, **fields: Any) -> dict[str, int]:
        """Perform an ioctl. Returns: the numbers of its structure afterwards."""
        layout = row.layout(self.width)
        data = layout.pack(**fields)
        _ioctl(self.fd if fd is None else fd, row.request(self.width), data)
        return {name: layout.number(data, name) for name in layout.fields if name != "name"}

    def allocate(self, size: int, cached: int, name: bytes) -> tuple[int, int, mmap.mmap]:
        """Returns: handle, bus address, map."""
        raise NotImplementedError

    def free(self, handle: int, memory: mmap.mmap) -> None:
        raise NotImplementedError

    def maintain(self, op: int, handle: int | None, address: int | None, size: int | None) -> None:
        raise NotImplementedError


class _Cma(_Service):
    name = "vcsm-cma"

    def allocate(self, size: int, cached: int, name: bytes) -> tuple[int, int, mmap.mmap]:
        found = self.call(vcsm.ioctl("VC_SM_CMA_IOCTL_MEM_ALLOC"), size=size, num=1, cached=cached, name=name)
        handle = found["handle"]
        memory = _map(handle, size)
        self._sync(handle, dma_buf.SYNC_RW)
        return handle, found["dma_addr"], memory

    def free(self, handle: int, memory: mmap.mmap) -> None:
        self._sync(handle, dma_buf.SYNC_RW | dma_buf.SYNC_END)
        memory.close()
        os.close(handle)

    def maintain(self, op: int, handle: int | None, address: int | None, size: int | None) -> None:
        if handle is None:
            raise UsageError("no handle for /dev/vcsm-cma", help="pass handle=")
        end = 0 if op == rpi_vcsm.CACHE_OP_INVALIDATE else dma_buf.SYNC_END
        self._sync(handle, dma_buf.SYNC_RW | end)

    def _sync(self, handle: int, flags: int) -> None:
        self.call(dma_buf.IOCTLS["DMA_BUF_IOCTL_SYNC"], handle, flags=flags)


class _Plain(_Service):
    name = "vcsm"

    def allocate(self, size: int, cached: int, name: bytes) -> tuple[int, int, mmap.mmap]:
        import mmap

        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        found = self.call(vcsm.ioctl("VMCS_SM_IOCTL_MEM_ALLOC"), size=size, num=1, cached=cached, name=name)
        handle = found["handle"]
        memory = _map(self.fd, size, handle)
        self.call(vcsm.ioctl("VMCS_SM_IOCTL_MEM_LOCK"), handle=handle)
        bus = self.call(vcsm.ioctl("VMCS_SM_IOCTL_MAP_VC_ADDR_FR_HDL"), pid=os.getpid(), handle=handle)["addr"]
        return handle, bus, memory

    def free(self, handle: int, memory: mmap.mmap) -> None:
        memory.close()
        self.call(vcsm.ioctl("VMCS_SM_IOCTL_MEM_UNLOCK"), handle=handle)
        self.call(vcsm.ioctl("VMCS_SM_IOCTL_MEM_FREE"), handle=handle)

    def maintain(self, op: int, handle: int | None, address: int | None, size: int | None) -> None:
        if address is None or size is None:
            raise UsageError("no address or size for /dev/vcsm", help="pass usr_ptr= and size=")
        row = vcsm.ioctl("VMCS_SM_IOCTL_MEM_CLEAN_INVALID2")
        width = ctypes.sizeof(ctypes.c_void_p)  # of the address that follows
        block = vcsm.layout("vmcs_sm_ioctl_clean_invalid_block", width)
        data = row.layout(width).pack(op_count=1)
        data += block.pack(invalidate_mode=op, block_count=1, start_address=address, block_size=size)
        _ioctl(self.fd, row.request(width), data)


class VCSM:
    """Memory of the GPU: ``malloc_cache``, ``free``, cache maintenance. A context manager.

    force: None (the service that exists), ``vcsm`` or ``vcsm-cma``. Raises: OSError of the service.
    """

    def __init__(
        self, force: str | None = None, path_vcsm: str | None = None, path_vcsm_cma: str | None = None
    ) -> None:
        assert force in (None, "vcsm", "vcsm-cma")
        self.raw: _Service
        self._maps: dict[int, mmap.mmap] = {}
        cma, plain = path_vcsm_cma or "/dev/vcsm-cma", path_vcsm or "/dev/vcsm"
        if force == "vcsm":
            self.raw = _Plain(plain)
            return
        try:
            self.raw = _Cma(cma)
        except FileNotFoundError:
            if force is not None:
                raise
            self.raw = _Plain(plain)

    def get_driver(self) -> str:
        """``vcsm`` or ``vcsm-cma``."""
        return self.raw.name

    def malloc_cache(
        self, size: int, cached: int = rpi_vcsm.CACHE_NONE, name: str | bytes = "rpi_vcsm"
    ) -> tuple[int, int, int, mmap.mmap]:
        """Allocate `size` bytes. Returns: handle, bus address, user address, map. Raises: OSError."""
        label = (name.encode() if isinstance(name, str) else bytes(name))[: vcsm.RESOURCE_NAME - 1]
        handle, bus, memory = self.raw.allocate(int(size), int(cached), label)
        assert bus < 1 << 32
        self._maps[handle] = memory
        return handle, bus, _address(memory), memory

    def free(self, handle: int, usr_buf: mmap.mmap | None = None) -> None:
        """Free an allocation and close its map. Raises: BufferError while arrays refer to the map, OSError."""
        memory = self._maps[handle] if usr_buf is None else usr_buf
        self.raw.free(handle, memory)
        self._maps.pop(handle, None)

    def clean_invalidate(self, op: int, *given: int, **named: int) -> None:
        """Cache maintenance: `op` on ``handle=``, ``usr_ptr=``, ``size=``, or these by position."""
        names = {1: ("handle",), 2: ("usr_ptr", "size"), 3: ("handle", "usr_ptr", "size")}.get(len(given), ())
        known = dict(zip(names, given, strict=False)) | named
        self.raw.maintain(op, known.get("handle"), known.get("usr_ptr"), known.get("size"))

    def invalidate(self, *given: int, **named: int) -> None:
        """Before the CPU reads what the GPU wrote; arguments as of `clean_invalidate`."""
        self.clean_invalidate(rpi_vcsm.CACHE_OP_INVALIDATE, *given, **named)

    def clean(self, *given: int, **named: int) -> None:
        """Before the GPU reads what the CPU wrote; arguments as of `clean_invalidate`."""
        self.clean_invalidate(rpi_vcsm.CACHE_OP_CLEAN, *given, **named)

    def close(self) -> None:
        """Close the service; again is fine."""
        fd, self.raw.fd = self.raw.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> VCSM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
