"""Counts of hardware events, estimated from the statistics of a job, and performance monitors (drivers.md 3)."""

from __future__ import annotations

from qpu.drivers.counters import COUNTERS
from qpu.emu.boards import BoardProfile
from qpu.emu.engine.machine import RunStats

__all__ = ["Perfmon", "count_event"]

CLOCKS_PER_INSTRUCTION = 4
LINE = 64  # bytes of a cache line; ASSUMED, for the conversion of bytes into accesses


def count_event(name: str, stats: RunStats, clocks: int, profile: BoardProfile) -> int:
    """How often a named event happened, estimated from the statistics of a job.

    Clocks and instruction counts are exact for the emulation. Cache events are computed from bytes, as if the first
    access to each line missed. Graphics events are 0. The counts are not measurements of hardware.
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
    """A performance monitor of a file: counters whose values only grow."""

    def __init__(self, profile: BoardProfile, counters: bytes) -> None:
        self.profile = profile
        self.counters = counters
        self.values = [0] * len(counters)

    def add(self, stats: RunStats, clocks: int) -> None:
        """Add a job that has ended. Hardware counts in 32 bits, and Linux adds the counts of each job."""
        names = COUNTERS[self.profile.isa]
        for i, counter in enumerate(self.counters):
            name = names[counter] if counter < len(names) else ""
            self.values[i] += count_event(name, stats, clocks, self.profile) & 0xFFFFFFFF
