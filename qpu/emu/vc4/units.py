"""Everything around the QPUs of VideoCore IV that a program can reach: uniforms, TMUs, VPM, synchronisation, host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import PAGE, Memory
from qpu.emu.engine.numpy_lanes import LANES
from qpu.emu.vc4.faults import Level, Reporter
from qpu.emu.vc4.state import BUS_MASK, Flag, Group, Vector
from qpu.emu.vc4.sync import Sync
from qpu.emu.vc4.tmu import Tmu
from qpu.emu.vc4.vpm import VpmUnit
from qpu.emu.vc4.vpm_setup import Vpm

__all__ = ["Units"]

_ELEMENT = np.arange(LANES, dtype=np.uint32)
_PAGE_SHIFT = np.uint32(PAGE.bit_length() - 1)


class Units:
    """The units one launch uses. VPM and semaphores belong to the machine and outlive it."""

    __slots__ = ("faults", "host_interrupts", "memory", "stats", "sync", "tmu", "vpm")

    def __init__(self, n: int, memory: Memory, stats: RunStats, faults: Reporter, vpm: Vpm, sync: Sync) -> None:
        self.memory = memory
        self.stats = stats
        self.faults = faults
        self.sync = sync
        self.tmu = Tmu(n, self)
        self.vpm = VpmUnit(n, self, vpm)
        self.host_interrupts = 0

    def reset(self, q: int) -> None:
        """A program starts on QPU `q`."""
        self.tmu.reset(q)
        self.vpm.reset(q)

    # -- uniforms
    def uniforms(self, g: Group, members: Sequence[int]) -> NDArray[np.uint32]:
        """The next uniform of each of `members` (positions in the group), shape (len,); advances their pointers."""
        rows = g.sel if len(members) == g.n else g.rows[list(members)]
        pointer = g.bank.uniform[rows]
        memory = self.memory
        try:
            mapped = memory.pages[pointer >> _PAGE_SHIFT].all()
        except IndexError:
            mapped = False
        if not mapped:
            self._bad_uniform(g, members, pointer)
        values: NDArray[np.uint32] = memory.words[pointer >> np.uint32(2)]
        g.bank.uniform[rows] = pointer + np.uint32(4)
        self.stats.uniform_bytes += 4 * len(pointer)
        return values

    def _bad_uniform(self, g: Group, members: Sequence[int], pointer: NDArray[np.uint32]) -> None:
        for i, p in zip(members, pointer.tolist(), strict=True):
            if not p:
                text = "uniform read, but the program was launched without uniforms (address 0)"
                self.faults.report(Level.STOP, "no-uniforms", text, g, i)
            if self.memory.region_at(p) is None:
                raise self.faults.out_of_bounds("uniform read", p, g, i)

    def read_uniform(self, g: Group) -> Vector:
        """The next uniform in all lanes of each member."""
        return np.repeat(self.uniforms(g, range(g.n))[:, None], LANES, axis=1)

    def set_uniforms(self, g: Group, value: Vector) -> None:
        """A write to address 40, file A: new uniform pointer from lane 0."""
        pointer = value[:, 0]
        odd = pointer & np.uint32(3)
        if odd.any():
            i = int(np.flatnonzero(odd)[0])
            text = f"uniforms address 0x{int(pointer[i]):08x} is no multiple of 4; the low bits are ignored"
            self.faults.report(Level.UNKNOWN, "uniforms-unaligned", text, g, i)
        g.bank.uniform[g.sel] = pointer & np.uint32(BUS_MASK & ~3)

    def move_uniforms(self, g: Group, value: Vector) -> None:
        """A write to address 40, file B: relative, with an undocumented base; guessed to be the pointer itself."""
        text = "a relative change of the uniforms address (address 40, file B) has an undocumented base"
        self.faults.report(Level.UNKNOWN, "uniforms-relative", text, g)
        moved = g.bank.uniform[g.sel] + value[:, 0]
        g.bank.uniform[g.sel] = moved & np.uint32(BUS_MASK & ~3)

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
        """A write to address 51."""
        for i, q in enumerate(g.qpus):
            holder = self.sync.holder
            if holder is not q:
                who = "nobody" if holder is None else f"QPU {holder.number}"
                self.faults.report(Level.WARN, "mutex-not-held", f"the mutex is released while {who} holds it", g, i)
            self.sync.release_mutex(g.clock(i))
        g.suspend = True

    def host_interrupt(self, g: Group, value: Vector, mask: Flag | None) -> None:
        """A write to address 38: a non-zero value in a lane that is written raises the QPU's interrupt bit."""
        live = value != 0 if mask is None else (value != 0) & mask
        self.host_interrupts += int(live.any(axis=1).sum())
