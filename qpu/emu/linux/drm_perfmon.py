"""The ioctls of the emulated v3d driver for performance monitors (drivers.md 1.3)."""

from __future__ import annotations

import errno
import struct

from qpu.drivers.counters import COUNTERS
from qpu.drivers.uapi import drm
from qpu.emu.linux.core import fail, fail_if, lookup
from qpu.emu.linux.drm_core import Arguments, lowest_free
from qpu.emu.linux.drm_objects import Calls, V3dFile
from qpu.emu.linux.events import Perfmon
from qpu.emu.linux.user_memory import write_user

__all__ = ["CALLS"]


def _limit(file: V3dFile) -> int:
    return len(COUNTERS[file.linux.profile.isa])


def create(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_PERFMON_CREATE."""
    count = a["ncounters"]
    fail_if(not 1 <= count <= drm.MAX_PERFMON_COUNTERS, errno.EINVAL)
    counters = bytes(a.numbers("counters")[:count])
    fail_if(max(counters) >= _limit(file), errno.EINVAL)
    handle = lowest_free(file.perfmons)
    file.perfmons[handle] = Perfmon(file.linux.profile, counters)
    a["id"] = handle


def destroy(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_PERFMON_DESTROY."""
    monitor = lookup(file.perfmons, a["id"])
    del file.perfmons[a["id"]]
    if file.device.global_perfmon is monitor:
        file.device.global_perfmon = None


def get_values(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_PERFMON_GET_VALUES. It does not wait for jobs."""
    fail_if(a["pad"], errno.EINVAL)
    values = lookup(file.perfmons, a["id"]).values
    write_user(a["values_ptr"], struct.pack(f"<{len(values)}Q", *values))


def get_counter(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_PERFMON_GET_COUNTER. Descriptions are made from category and name, unlike Linux's."""
    fail_if(any(a.numbers("reserved")), errno.EINVAL)
    names = COUNTERS[file.linux.profile.isa]
    fail_if(a["counter"] >= len(names), errno.EINVAL)
    name = names[a["counter"]]
    category = name.partition("-")[0]
    a.text("name", name)
    a.text("category", category if category.isupper() else "CORE")
    a.text("description", f"[{category}] {name.replace('-', ' ')}")


def set_global(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_PERFMON_SET_GLOBAL."""
    fail_if(a["flags"] & ~drm.PERFMON_CLEAR_GLOBAL, errno.EINVAL)
    monitor = lookup(file.perfmons, a["id"])
    device = file.device
    if a["flags"] & drm.PERFMON_CLEAR_GLOBAL:
        if device.global_perfmon is None:
            raise fail(errno.EINVAL)
        device.global_perfmon = None
        return
    fail_if(device.global_perfmon is not None, errno.EBUSY)
    device.global_perfmon = monitor


CALLS: Calls = {
    "DRM_IOCTL_V3D_PERFMON_CREATE": create,
    "DRM_IOCTL_V3D_PERFMON_DESTROY": destroy,
    "DRM_IOCTL_V3D_PERFMON_GET_VALUES": get_values,
    "DRM_IOCTL_V3D_PERFMON_GET_COUNTER": get_counter,
    "DRM_IOCTL_V3D_PERFMON_SET_GLOBAL": set_global,
}
