"""The ioctls of the emulated v3d driver for parameters and buffers (drivers.md 1.3)."""

from __future__ import annotations

import errno

from qpu.drivers.uapi.drm import Param
from qpu.emu.linux.core import fail, fail_if
from qpu.emu.linux.drm_core import Arguments
from qpu.emu.linux.drm_objects import MMAP_BASE, Calls, DmaBufFile, V3dFile

__all__ = ["CALLS"]

POLL_NS = 100_000  # emulated time of a wait with timeout 0; on hardware it is a jiffy at most
_GLOBAL, _CONTEXT = int(Param.GLOBAL_RESET_COUNTER), int(Param.CONTEXT_RESET_COUNTER)
PRIME_FLAGS = 0x80002  # O_CLOEXEC, O_RDWR
INFINITE = 1 << 62


def get_magic(file: V3dFile, a: Arguments) -> None:
    a["magic"] = file.device.files.index(file) + 1


def auth_magic(file: V3dFile, a: Arguments) -> None:
    fail_if(file.device.master is not file, errno.EACCES)
    index = a["magic"] - 1
    fail_if(not 0 <= index < len(file.device.files), errno.EINVAL)
    file.device.files[index].authenticated = True


def get_param(file: V3dFile, a: Arguments) -> None:
    fail_if(a["pad"], errno.EINVAL)
    param = a["param"]
    fail_if(param <= Param.V3D_CORE0_IDENT2 and a["value"], errno.EINVAL)
    value = file.device.params.get(param)
    if value is None and not file.linux.profile.old_linux:
        value = {_GLOBAL: file.device.queue.resets, _CONTEXT: file.resets}.get(param)
    if value is None:
        raise fail(errno.EINVAL)
    a["value"] = value


def create_bo(file: V3dFile, a: Arguments) -> None:
    fail_if(a["flags"], errno.EINVAL)
    page = file.linux.profile.page_size
    size = (a["size"] + page - 1) // page * page & 0xFFFFFFFF  # rounded in 32 bits
    fail_if(size == 0, errno.EINVAL)
    bo = file.device.allocate(size)
    a["handle"] = file.new_handle(bo)
    a["offset"] = bo.address


def gem_close(file: V3dFile, a: Arguments) -> None:
    fail_if(a["handle"] not in file.handles, errno.EINVAL)
    file.close_handle(a["handle"])


def mmap_bo(file: V3dFile, a: Arguments) -> None:
    fail_if(a["flags"], errno.EINVAL)
    a["offset"] = MMAP_BASE + file.buffer(a["handle"], errno.ENOENT).address


def get_bo_offset(file: V3dFile, a: Arguments) -> None:
    a["offset"] = file.buffer(a["handle"], errno.ENOENT).address


def wait_bo(file: V3dFile, a: Arguments) -> None:
    fail_if(a["pad"], errno.EINVAL)
    bo = file.buffer(a["handle"], errno.EINVAL)
    if bo.fence is None:
        return
    clock = file.linux.clock
    start, timeout = clock.now_ns, a["timeout_ns"]
    deadline = None if timeout >= INFINITE else start + max(timeout, POLL_NS)
    queue = file.device.queue
    fence = bo.fence
    done = False
    try:
        done = queue.wait((fence,), deadline)
        while not done and deadline is None:
            # The job waits for a sync object that only another thread can signal.
            file.linux.changed.wait(0.01)
            done = queue.wait((fence,), None)
    finally:
        a["timeout_ns"] = max(0, timeout - (clock.now_ns - start))
    fail_if(not done, errno.ETIME)


def prime_export(file: V3dFile, a: Arguments) -> None:
    fail_if(a["flags"] & ~PRIME_FLAGS, errno.EINVAL)
    bo = file.buffer(a["handle"], errno.ENOENT)
    a["fd"] = file.linux.fds.install(DmaBufFile(file.linux, bo))


def prime_import(file: V3dFile, a: Arguments) -> None:
    shared = file.linux.fds.get(a["fd"])
    if not isinstance(shared, DmaBufFile):
        raise fail(errno.EINVAL)
    for handle, bo in file.handles.items():
        if bo is shared.bo:
            a["handle"] = handle
            return
    a["handle"] = file.new_handle(shared.bo)


CALLS: Calls = {
    "DRM_IOCTL_GET_MAGIC": get_magic,
    "DRM_IOCTL_AUTH_MAGIC": auth_magic,
    "DRM_IOCTL_GEM_CLOSE": gem_close,
    "DRM_IOCTL_PRIME_HANDLE_TO_FD": prime_export,
    "DRM_IOCTL_PRIME_FD_TO_HANDLE": prime_import,
    "DRM_IOCTL_V3D_WAIT_BO": wait_bo,
    "DRM_IOCTL_V3D_CREATE_BO": create_bo,
    "DRM_IOCTL_V3D_MMAP_BO": mmap_bo,
    "DRM_IOCTL_V3D_GET_PARAM": get_param,
    "DRM_IOCTL_V3D_GET_BO_OFFSET": get_bo_offset,
}
