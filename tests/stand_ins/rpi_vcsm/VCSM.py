"""STAND-IN for rpi_vcsm.VCSM; see the package. `VCSM.nodes`: devices that exist; `VCSM.open_ones`: open objects."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from types import TracebackType
from typing import ClassVar


class VCSM:
    """Memory shared with the GPU; every argument is keyword-only, as since 3.0.0."""

    nodes: ClassVar[dict[str, int]] = {"/dev/vcsm-cma": 0}  # path -> errno of opening it, 0 = opens
    open_ones: ClassVar[list[VCSM]] = []
    page: ClassVar[int] = 4096
    fail_malloc: ClassVar[int] = 0  # errno of malloc_cache, 0 = works

    def __init__(
        self, *, force: str | None = None, path_vcsm: str | None = None, path_vcsm_cma: str | None = None
    ) -> None:
        assert force in (None, "vcsm", "vcsm-cma")
        candidates = [("vcsm-cma", path_vcsm_cma or "/dev/vcsm-cma"), ("vcsm", path_vcsm or "/dev/vcsm")]
        if force is not None:
            candidates = [c for c in candidates if c[0] == force]
        for name, path in candidates:
            number = self.nodes.get(path, errno.ENOENT)
            if number == errno.ENOENT and name != candidates[-1][0]:
                continue  # FileNotFoundError alone falls through to the next device
            if number:
                raise OSError(number, os.strerror(number), path)
            self.name = name
            break
        self.live: dict[int, tuple[mmap.mmap, str, int]] = {}
        self._next = 7
        self.closed = False
        self.open_ones.append(self)

    @property
    def raw(self) -> VCSM:
        return self

    def __enter__(self) -> VCSM:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True
        if self in self.open_ones:
            self.open_ones.remove(self)

    def get_driver(self) -> str:
        return self.name

    def malloc_cache(self, *, size: int, cached: int, name: str) -> tuple[int, int, int, mmap.mmap]:
        assert not self.closed
        assert len(name.encode("ascii")) <= 31
        if self.fail_malloc:
            raise OSError(self.fail_malloc, os.strerror(self.fail_malloc))
        length = size if self.name == "vcsm-cma" else (size + self.page - 1) // self.page * self.page
        buffer = mmap.mmap(-1, length)
        buffer[:] = b"\xa5" * length  # fresh memory holds anything
        probe = ctypes.c_char.from_buffer(buffer)
        address = ctypes.addressof(probe)
        del probe
        handle = self._next
        self._next += 1
        self.live[handle] = (buffer, name, cached)
        return handle, 0xC0000000 + 0x100000 * handle, address, buffer

    def free(self, *, handle: int, usr_buf: mmap.mmap) -> None:
        assert self.live[handle][0] is usr_buf
        usr_buf.close()  # BufferError while arrays refer to it: nothing is freed then
        del self.live[handle]

    def clean_invalidate(
        self, *, op: int, handle: int | None = None, usr_ptr: int | None = None, size: int | None = None
    ) -> None:
        if self.name == "vcsm-cma":
            assert handle is not None
        else:
            assert usr_ptr is not None
            assert size is not None

    def invalidate(self, *, handle: int | None = None, usr_ptr: int | None = None, size: int | None = None) -> None:
        self.clean_invalidate(op=1, handle=handle, usr_ptr=usr_ptr, size=size)

    def clean(self, *, handle: int | None = None, usr_ptr: int | None = None, size: int | None = None) -> None:
        self.clean_invalidate(op=2, handle=handle, usr_ptr=usr_ptr, size=size)
