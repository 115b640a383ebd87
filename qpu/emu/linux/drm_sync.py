"""The ioctls of the emulated DRM core for binary sync objects; V3D does not offer timelines (drivers.md 1.3)."""

from __future__ import annotations

import errno

from qpu.drivers.uapi import drm
from qpu.emu.linux.core import NS, Linux, OpenFile, fail, fail_if, lookup
from qpu.emu.linux.drm_core import Arguments, lowest_free
from qpu.emu.linux.drm_objects import Calls, SyncObject, V3dFile
from qpu.emu.linux.gpu_jobs import Fence
from qpu.emu.linux.user_memory import read_words

__all__ = ["CALLS"]

SYNC_FILE = 1  # flag of HANDLE_TO_FD and FD_TO_HANDLE: a sync_file instead of a sync object
FOREVER = (1 << 63) - 1
HOST_STEP_S = 0.01
POLL_NS = 10_000


class SyncObjectFile(OpenFile):
    """A sync object that was exported as a descriptor."""

    label = "syncobj"

    def __init__(self, linux: Linux, target: SyncObject) -> None:
        super().__init__(linux, "syncobj file")
        self.target = target


class SyncFile(OpenFile):
    """A fence that was exported as a descriptor."""

    label = "sync_file"

    def __init__(self, linux: Linux, fence: Fence) -> None:
        super().__init__(linux, "sync_file")
        self.fence = fence

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Merging and inspecting sync files: not modelled."""
        raise self.linux.not_modelled(f"sync_file ioctl 0x{request & 0xFF:02x} (request 0x{request:08x})")


def _signalled(file: V3dFile) -> Fence:
    return Fence(file.linux.clock.now_ns)


def create(file: V3dFile, a: Arguments) -> None:
    fail_if(a["flags"] & ~drm.SYNCOBJ_CREATE_SIGNALED, errno.EINVAL)
    handle = lowest_free(file.syncobjs)
    file.syncobjs[handle] = SyncObject(_signalled(file) if a["flags"] else None)
    a["handle"] = handle


def destroy(file: V3dFile, a: Arguments) -> None:
    fail_if(a["pad"], errno.EINVAL)
    lookup(file.syncobjs, a["handle"])
    del file.syncobjs[a["handle"]]


def handle_to_fd(file: V3dFile, a: Arguments) -> None:
    fail_if(a["pad"] or a["flags"] & ~SYNC_FILE, errno.EINVAL)
    as_file = a["flags"] & SYNC_FILE
    target = lookup(file.syncobjs, a["handle"], errno.ENOENT if as_file else errno.EINVAL)
    if not as_file:
        a["fd"] = file.linux.fds.install(SyncObjectFile(file.linux, target))
        return
    if target.fence is None:
        raise fail(errno.EINVAL)
    a["fd"] = file.linux.fds.install(SyncFile(file.linux, target.fence))


def fd_to_handle(file: V3dFile, a: Arguments) -> None:
    fail_if(a["pad"] or a["flags"] & ~SYNC_FILE, errno.EINVAL)
    try:
        source = file.linux.fds.get(a["fd"])
    except OSError:
        raise fail(errno.EINVAL) from None
    if a["flags"] & SYNC_FILE:
        if not isinstance(source, SyncFile):
            raise fail(errno.EINVAL)
        lookup(file.syncobjs, a["handle"], errno.ENOENT).fence = source.fence
        file.linux.changed.notify_all()
        return
    if not isinstance(source, SyncObjectFile):
        raise fail(errno.EINVAL)
    handle = lowest_free(file.syncobjs)
    file.syncobjs[handle] = source.target
    a["handle"] = handle


def _handles(file: V3dFile, a: Arguments) -> list[SyncObject]:
    return [lookup(file.syncobjs, h, errno.ENOENT) for h in read_words(a["handles"], a["count_handles"])]


def wait(file: V3dFile, a: Arguments) -> None:
    flags = a["flags"]
    fail_if(flags & ~(drm.SYNCOBJ_WAIT_ALL | drm.SYNCOBJ_WAIT_FOR_SUBMIT), errno.EINVAL)
    if a["count_handles"] == 0:
        fail_if(file.linux.profile.old_linux, errno.EINVAL)
        return
    objects = _handles(file, a)
    later = bool(flags & drm.SYNCOBJ_WAIT_FOR_SUBMIT)
    if not later and any(o.fence is None for o in objects):
        raise fail(errno.EINVAL)
    every = bool(flags & drm.SYNCOBJ_WAIT_ALL)
    linux = file.linux
    clock = linux.clock
    forever = a["timeout_nsec"] >= FOREVER
    # A wait with timeout 0 also takes time, so that polling loops end.
    deadline = None if forever else max(clock.now_ns + POLL_NS, clock.absolute(a["timeout_nsec"]))
    enough = all if every else any
    while True:
        fences = [o.fence for o in objects if o.fence is not None]
        ready = len(fences) == len(objects) if every else bool(fences)
        if ready:
            if file.device.queue.wait(fences, deadline, every=every):
                break
            fail_if(deadline is not None, errno.ETIME)
        if enough(o.fence is not None and o.fence.done for o in objects):
            break
        fail_if(deadline is not None and clock.now_ns >= deadline, errno.ETIME)
        # Only another thread can signal; wait in host time, and advance emulated time as much.
        linux.changed.wait(HOST_STEP_S)
        step = clock.now_ns + int(HOST_STEP_S * NS)
        clock.reach(step if deadline is None else min(step, deadline))
    times = [o.fence.done_ns if o.fence is not None else None for o in objects]
    known = [t for t in times if t is not None]
    a["first_signaled"] = times.index(min(known))


def reset(file: V3dFile, a: Arguments) -> None:
    for each in _array(file, a):
        each.fence = None


def signal(file: V3dFile, a: Arguments) -> None:
    for each in _array(file, a):
        each.fence = _signalled(file)
    file.linux.changed.notify_all()


def _array(file: V3dFile, a: Arguments) -> list[SyncObject]:
    fail_if(a["pad"] or a["count_handles"] == 0, errno.EINVAL)
    return _handles(file, a)


def timeline(file: V3dFile, a: Arguments) -> None:
    raise fail(errno.EOPNOTSUPP)


CALLS: Calls = {
    "DRM_IOCTL_SYNCOBJ_CREATE": create,
    "DRM_IOCTL_SYNCOBJ_DESTROY": destroy,
    "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD": handle_to_fd,
    "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE": fd_to_handle,
    "DRM_IOCTL_SYNCOBJ_WAIT": wait,
    "DRM_IOCTL_SYNCOBJ_RESET": reset,
    "DRM_IOCTL_SYNCOBJ_SIGNAL": signal,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT": timeline,
    "DRM_IOCTL_SYNCOBJ_QUERY": timeline,
    "DRM_IOCTL_SYNCOBJ_TRANSFER": timeline,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL": timeline,
}
