"""Guard pages under the emulator, so that a stray access of native code dies by SIGSEGV (Linux).

`install` changes this process for good: call it in a child process, before a board is opened. Pages of GPU memory that
belong to no buffer are read-only, a megabyte before and behind the window is inaccessible, and the arrays that
translated code writes to (states, copies of pages, VPM) end at an inaccessible page.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
NOTHING, READ, WRITE = 0, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
NORESERVE, FIXED_NOREPLACE = 0x4000, 0x100000
AROUND = 1 << 20
LEAST = 4096  # bytes from which an array of the emulator gets guards

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def protect(address: int, size: int, how: int) -> None:
    """mprotect, page aligned."""
    if _libc.mprotect(address, size, how):
        raise OSError(ctypes.get_errno(), "mprotect")


def guarded(size: int) -> np.ndarray:
    """`size` zero bytes that end at an inaccessible page."""
    whole = -(-size // PAGE) * PAGE
    block = np.frombuffer(
        mmap.mmap(-1, whole + 2 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE), np.uint8
    )
    base = block.ctypes.data
    protect(base, PAGE, NOTHING)
    protect(base + PAGE + whole, PAGE, NOTHING)
    return block[PAGE + whole - size : PAGE + whole]


class Numpy:
    """Replacement of `numpy` in a module that guards large arrays."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def zeros(self, shape: Any, dtype: Any = float, **more: Any) -> np.ndarray:
        made = np.zeros(shape, dtype, **more)
        return made if made.nbytes < LEAST else guarded(made.nbytes).view(made.dtype).reshape(made.shape)

    empty = zeros


def install(*modules: Any) -> None:
    """Guard GPU memory, and the arrays of these modules of the emulator."""
    from qpu.emu.engine import memory as m

    for module in modules:
        module.np = Numpy()
    init, map_, unmap, close = m.Memory.__init__, m.Memory.map, m.Memory.unmap, m.Memory.close

    def new_init(self: Any, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        protect(self.pointer, self.size, READ)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | FIXED_NOREPLACE | NORESERVE
        self.around = [
            at
            for at in (self.pointer - AROUND, self.pointer + self.size)
            if _libc.mmap(at, AROUND, NOTHING, flags, -1, 0) == at
        ]
        pages = guarded(self.pages.nbytes).view(np.uint32)
        self.pages = pages

    def new_map(self: Any, address: int, size: int, name: str) -> Any:
        # The emulator zeroes the memory of a freed buffer, so pages stay writable until then.
        region = map_(self, address, size, name)
        protect(self.pointer + address, size, WRITE)
        return region

    def new_unmap(self: Any, region: Any) -> None:
        at = self.pointer + region.address
        unmap(self, region)
        protect(at, region.size, READ)

    def new_close(self: Any) -> None:
        for at in self.around:
            _libc.munmap(at, AROUND)
        self.around = []
        close(self)

    m.Memory.__init__, m.Memory.map, m.Memory.unmap, m.Memory.close = (  # type: ignore[method-assign]
        new_init, new_map, new_unmap, new_close,
    )  # fmt: skip
    os.environ["QPU_CACHE_DIR"] = "off"


def install_all() -> None:
    """`install` with every module whose arrays translated code writes to."""
    import qpu.emu.v3d.compiled
    import qpu.emu.v3d.copies
    import qpu.emu.v3d.uniforms
    import qpu.emu.vc4.compiled
    import qpu.emu.vc4.vpm_setup

    install(
        qpu.emu.v3d.compiled, qpu.emu.v3d.copies, qpu.emu.v3d.uniforms, qpu.emu.vc4.compiled, qpu.emu.vc4.vpm_setup
    )  # fmt: skip
