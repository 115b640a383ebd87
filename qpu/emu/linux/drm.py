"""The DRM nodes of an emulated board: the v3d nodes of a Pi 4 or 5 with all their ioctls, and the display card."""

from __future__ import annotations

from functools import partial

from qpu.drivers.uapi import drm
from qpu.emu.linux import drm_buffers, drm_perfmon, drm_submit, drm_sync
from qpu.emu.linux.core import Linux
from qpu.emu.linux.drm_core import CORE_CALLS, DisplayFile
from qpu.emu.linux.drm_objects import Calls, DrmDevice
from qpu.emu.linux.gpu_jobs import V3dQueue

__all__ = ["attach_display", "attach_v3d"]

CALLS: Calls = {**CORE_CALLS, **drm_buffers.CALLS, **drm_submit.CALLS, **drm_perfmon.CALLS, **drm_sync.CALLS}
# Ioctl numbers that versions of Linux around 5.4 do not have (drivers.md 1.3, availability).
_NEW = frozenset(range(0x48, 0x4E))


def attach_v3d(linux: Linux, queue: V3dQueue) -> DrmDevice:
    """Make the v3d driver, and register its nodes."""
    old = linux.profile.old_linux
    calls = {name: call for name, call in CALLS.items() if not (old and drm.IOCTLS[name].nr in _NEW)}
    device = DrmDevice(linux, queue, calls)
    linux.openers["v3d-card"] = partial(device.open, render=False)
    linux.openers["v3d-render"] = partial(device.open, render=True)
    linux.holders.append(device.allocated)
    return device


def attach_display(linux: Linux) -> None:
    """Register the nodes of the vc4 driver."""
    for node in ("vc4-card", "vc4-render"):
        linux.openers[node] = partial(DisplayFile, linux)
