"""Stand-in for rpi_vcsm.VCSM: memory through /dev/vcsm-cma or /dev/vcsm, system calls included."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os

import rpi_vcsm


class AllocCma(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("num", ctypes.c_uint32),
        ("cached", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("name", ctypes.c_char * 32),
        ("handle", ctypes.c_int32),
        ("vc_handle", ctypes.c_uint32),
        ("dma_addr", ctypes.c_uint64),
    ]


class Alloc(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("num", ctypes.c_uint32),
        ("cached", ctypes.c_uint32),
        ("name", ctypes.c_char * 32),
        ("handle", ctypes.c_uint32),
    ]


class Words(ctypes.Structure):
    _fields_ = [("w", ctypes.c_uint32 * 4)]


class Block(ctypes.Structure):
    _fields_ = [
        ("mode", ctypes.c_uint16),
        ("count", ctypes.c_uint16),
        ("start", ctypes.c_void_p),
        ("size", ctypes.c_uint32),
        ("stride", ctypes.c_uint32),
    ]


class Clean(ctypes.Structure):
    _fields_ = [("op_count", ctypes.c_uint8), ("zero", ctypes.c_uint8 * 3), ("s", Block * 1)]


def address(buffer: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class Cma:
    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR)

    def malloc(self, size: int, cached: int, name: str) -> tuple[int, int, int, mmap.mmap]:
        a = AllocCma(size=size, num=1, cached=cached, name=name.encode())
        fcntl.ioctl(self.fd, 0x80404A5A, a)
        buffer = mmap.mmap(a.handle, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.sync(a.handle, 3)
        assert a.dma_addr < 1 << 32
        return a.handle, a.dma_addr, address(buffer), buffer

    def sync(self, handle: int, flags: int) -> None:
        fcntl.ioctl(handle, 0x40086200, ctypes.c_uint64(flags))

    def free(self, handle: int, buffer: mmap.mmap) -> None:
        self.sync(handle, 7)
        buffer.close()
        os.close(handle)

    def maintain(self, op: int, handle: int, start: int, size: int) -> None:
        self.sync(handle, 3 if op == rpi_vcsm.CACHE_OP_INVALIDATE else 7)


class Plain(Cma):
    def malloc(self, size: int, cached: int, name: str) -> tuple[int, int, int, mmap.mmap]:
        size = (size + 4095) // 4096 * 4096
        a = Alloc(size=size, num=1, cached=cached, name=name.encode())
        fcntl.ioctl(self.fd, 0x8030495A, a)
        buffer = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=a.handle)
        lock = Words((a.handle, 0, 0, 0))
        fcntl.ioctl(self.fd, 0x8008495C, lock)
        assert lock.w[1] == address(buffer) & 0xFFFFFFFF
        where = Words((os.getpid(), a.handle, 0, 0))
        fcntl.ioctl(self.fd, 0x8010496A, where)
        return a.handle, where.w[2], address(buffer), buffer

    def free(self, handle: int, buffer: mmap.mmap) -> None:
        buffer.close()
        fcntl.ioctl(self.fd, 0x8008495E, Words((handle, 0, 0, 0)))
        fcntl.ioctl(self.fd, 0x80044961, Words((handle, 0, 0, 0)))

    def maintain(self, op: int, handle: int, start: int, size: int) -> None:
        fcntl.ioctl(self.fd, 0x80204970, Clean(op_count=1, s=(Block * 1)(Block(op, 1, start, size, 0))))


class VCSM:
    def __init__(self, *, force: str | None = None) -> None:
        assert force in (None, "vcsm", "vcsm-cma")
        self.raw: Cma | None = None
        if force != "vcsm":
            try:
                self.raw = Cma("/dev/vcsm-cma")
                self.driver = "vcsm-cma"
            except FileNotFoundError:
                if force:
                    raise
        if self.raw is None:
            self.raw = Plain("/dev/vcsm")
            self.driver = "vcsm"

    def get_driver(self) -> str:
        return self.driver

    def malloc_cache(self, *, size: int, cached: int, name: str) -> tuple[int, int, int, mmap.mmap]:
        return self.raw.malloc(size, cached, name)

    def free(self, *, handle: int, usr_buf: mmap.mmap) -> None:
        self.raw.free(handle, usr_buf)

    def invalidate(self, *, handle: int, usr_ptr: int, size: int) -> None:
        self.raw.maintain(rpi_vcsm.CACHE_OP_INVALIDATE, handle, usr_ptr, size)

    def clean(self, *, handle: int, usr_ptr: int, size: int) -> None:
        self.raw.maintain(rpi_vcsm.CACHE_OP_CLEAN, handle, usr_ptr, size)

    def close(self) -> None:
        os.close(self.raw.fd)

    def __enter__(self) -> VCSM:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()
