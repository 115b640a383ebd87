"""Performance monitors of the emulated v3d driver, with counts from what the emulation did (drivers.md 1.3, 3)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from qpu.drivers.counters import COUNTERS
from qpu.drivers.uapi import drm
from qpu.emu.engine.machine import RunStats
from qpu.emu.linux.core import fail
from qpu.emu.linux.user_memory import write_user

if TYPE_CHECKING:
    from qpu.emu.boards import BoardProfile
    from qpu.emu.linux.drm import Arguments, V3dFile

__all__ = ["Perfmon", "count_event"]

CLOCKS_PER_INSTRUCTION = 4
LINE = 64  # bytes of a cache line; ASSUMED for turning bytes into accesses


def count_event(name: str, stats: RunStats, clocks: int, profile: BoardProfile) -> int:
    """How often a named event happened, estimated from the statistics of a job.

    Clocks and instruction counts are exact for the emulation; cache events follow from bytes as if every first touch
    of a line missed. Graphics events are 0. None of it is a measurement of hardware.
    """
    busy = stats.instructions * CLOCKS_PER_INSTRUCTION
    reads = (stats.tmu_read_bytes + LINE - 1) // LINE
    writes = (stats.tmu_write_bytes + LINE - 1) // LINE
    uniform_lines = (stats.uniform_bytes + LINE - 1) // LINE
    code_lines = min(stats.instructions, (stats.instructions * 8 + LINE - 1) // LINE)
    match name:
        case "cycle-count" | "core-active" | "compute-active-cycles":
            return clocks
        case "QPU-total-idle-clk-cycles":
            return max(0, clocks * profile.qpus - busy)
        case "QPU-total-clk-cycles-executing-valid-instr" | "QPU-active":
            return busy
        case "QPU-total-instr-cache-hit":
            return stats.instructions - code_lines
        case "QPU-total-instr-cache-miss":
            return code_lines
        case "QPU-total-uniform-cache-hit":
            return max(0, stats.uniform_bytes // 4 - uniform_lines)
        case "QPU-total-uniform-cache-miss":
            return uniform_lines
        case "TMU-total-text-quads-access" | "TMU-total-text-quads-processed" | "TMU-total-text-quads-x4-access":
            return stats.tmu_requests * 4
        case "TMU-active-cycles":
            return min(clocks, stats.tmu_requests * CLOCKS_PER_INSTRUCTION)
        case "TMU-total-text-cache-miss":
            return reads
        case "L2T-TMU-reads" | "L2T-TMU-read-hits":
            return reads
        case "L2T-TMU-writes":
            return writes
        case "L2T-total-cache-hit" | "L2C-total-cache-hit":
            return uniform_lines + code_lines
        case "L2T-total-cache-miss" | "L2C-total-cache-miss" | "L2T-TMU-read-miss":
            return reads
        case "L2T-memory-reads" | "core-memory-reads":
            return reads + uniform_lines + code_lines
        case "L2T-memory-writes" | "core-memory-writes":
            return writes
    return 0


class Perfmon:
    """Some counters of a file; values only grow."""

    def __init__(self, profile: BoardProfile, counters: bytes) -> None:
        self.profile = profile
        self.counters = counters
        self.values = [0] * len(counters)

    def add(self, stats: RunStats, clocks: int) -> None:
        """A job that it watches is over. Hardware counts in 32 bits and the kernel adds per job."""
        names = COUNTERS[self.profile.isa]
        for i, counter in enumerate(self.counters):
            name = names[counter] if counter < len(names) else ""
            self.values[i] += count_event(name, stats, clocks, self.profile) & 0xFFFFFFFF


def _limit(file: V3dFile) -> int:
    return len(COUNTERS[file.kernel.profile.isa])


def create(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_PERFMON_CREATE."""
    count = a["ncounters"]
    if not 1 <= count <= drm.MAX_PERFMON_COUNTERS:
        raise fail(errno.EINVAL)
    counters = bytes(a.numbers("counters")[:count])
    if max(counters) >= _limit(file):
        raise fail(errno.EINVAL)
    from qpu.emu.linux.drm import lowest_free

    handle = lowest_free(file.perfmons)
    file.perfmons[handle] = Perfmon(file.kernel.profile, counters)
    a["id"] = handle


def _find(file: V3dFile, handle: int) -> Perfmon:
    found = file.perfmons.get(handle)
    if found is None:
        raise fail(errno.EINVAL)
    return found


def destroy(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_PERFMON_DESTROY."""
    found = _find(file, a["id"])
    del file.perfmons[a["id"]]
    if file.device.global_perfmon is found:
        file.device.global_perfmon = None


def get_values(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_PERFMON_GET_VALUES; does not wait for jobs."""
    if a["pad"]:
        raise fail(errno.EINVAL)
    values = _find(file, a["id"]).values
    write_user(a["values_ptr"], struct.pack(f"<{len(values)}Q", *values))


def get_counter(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_PERFMON_GET_COUNTER: the name; descriptions here are the category only."""
    if any(a.numbers("reserved")):
        raise fail(errno.EINVAL)
    names = COUNTERS[file.kernel.profile.isa]
    if a["counter"] >= len(names):
        raise fail(errno.EINVAL)
    name = names[a["counter"]]
    category = name.partition("-")[0]
    a.text("name", name)
    a.text("category", category if category.isupper() else "CORE")
    a.text("description", f"[{category}] {name.replace('-', ' ')}")


def set_global(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_PERFMON_SET_GLOBAL."""
    if a["flags"] & ~drm.PERFMON_CLEAR_GLOBAL:
        raise fail(errno.EINVAL)
    found = _find(file, a["id"])
    device = file.device
    if a["flags"] & drm.PERFMON_CLEAR_GLOBAL:
        if device.global_perfmon is None:
            raise fail(errno.EINVAL)
        device.global_perfmon = None
        return
    if device.global_perfmon is not None:
        raise fail(errno.EBUSY)
    device.global_perfmon = found
