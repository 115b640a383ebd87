"""The units around the QPUs of VideoCore IV that a program can reach: uniforms, TMUs, VPM, synchronisation, host."""

from __future__ import annotations

import numpy as np

from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.engine.numpy_lanes import LANES
from qpu.emu.vc4.faults import Level, Reporter
from qpu.emu.vc4.state import Flag, Group, Vector
from qpu.emu.vc4.sync import Sync
from qpu.emu.vc4.tmu import Queues, Tmu
from qpu.emu.vc4.uniforms import Uniforms
from qpu.emu.vc4.vpm import VpmUnit
from qpu.emu.vc4.vpm_setup import Vpm

__all__ = ["Units"]

_ELEMENT = np.arange(LANES, dtype=np.uint32)


class Units:
    """The units of one launch. VPM and semaphores belong to the machine and outlive the launch."""

    __slots__ = ("faults", "host_interrupts", "sync", "tmu", "uniforms", "vpm")

    def __init__(
        self,
        n: int,
        memory: Memory,
        stats: RunStats,
        faults: Reporter,
        vpm: Vpm,
        sync: Sync,
        queues: Queues | None = None,
    ) -> None:
        self.faults = faults
        self.sync = sync
        self.uniforms = Uniforms(memory, stats, faults)
        self.tmu = Tmu(n, memory, stats, faults, self.uniforms, queues)
        self.vpm = VpmUnit(n, memory, stats, faults, vpm)
        self.host_interrupts = 0

    def reset(self, q: int) -> None:
        """A program starts on QPU `q`."""
        self.tmu.reset(q)
        self.vpm.reset(q)

    # -- numbers
    @staticmethod
    def element_number(g: Group) -> Vector:
        """0..15 in each member."""
        return np.broadcast_to(_ELEMENT, (g.n, LANES))

    @staticmethod
    def qpu_number(g: Group) -> Vector:
        """The QPU's number in every lane."""
        return np.repeat(g.rows.astype(np.uint32)[:, None], LANES, axis=1)

    # -- synchronisation and host
    def release_mutex(self, g: Group) -> None:
        """A write to address 51: release the mutex."""
        for i, q in enumerate(g.qpus):
            holder = self.sync.holder
            if holder is not q:
                who = "no QPU" if holder is None else f"QPU {holder.number}"
                self.faults.report(Level.WARN, "mutex-not-held", f"the mutex is released while {who} holds it", g, i)
            self.sync.release_mutex(g.clock(i))
        g.suspend = True

    def host_interrupt(self, g: Group, value: Vector, mask: Flag | None) -> None:
        """A write to address 38: a non-zero value in a lane that is written raises the QPU's interrupt bit."""
        live = value != 0 if mask is None else (value != 0) & mask
        self.host_interrupts += int(live.any(axis=1).sum())
