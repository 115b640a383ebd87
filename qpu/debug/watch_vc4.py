"""The sanitizer on VideoCore IV: a chip whose launches check definedness, order and synchronisation of every access."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.debug.defined import Origin
from qpu.debug.findings import Finding, Findings
from qpu.debug.memory import ShadowMemory
from qpu.debug.vpm import WatchedVpm
from qpu.debug.watcher_vc4 import Watcher
from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.vc4.faults import Reporter
from qpu.emu.vc4.fetch import Block
from qpu.emu.vc4.prepare import Plan
from qpu.emu.vc4.reference import ReferenceExecution, Vc4ReferenceMachine
from qpu.emu.vc4.reference_execute import Step
from qpu.emu.vc4.state import BUS_MASK, Group, Qpu, Status, Vector
from qpu.emu.vc4.sync import Sync
from qpu.emu.vc4.tmu import Queues, Tmu
from qpu.emu.vc4.uniforms import Uniforms
from qpu.emu.vc4.units import Units
from qpu.emu.vc4.vpm_setup import Vpm
from qpu.errors import EmuFault, FaultPlace
from qpu.vc4.instr import Semaphore

__all__ = ["WatchedVc4Machine"]

Mask: TypeAlias = NDArray[np.bool_]


class WatchedVc4Machine(Vc4ReferenceMachine):
    """The reference chip under the sanitizer. findings: where findings go. shadow: what was written to memory.

    increments: where each semaphore was incremented last.
    """

    findings: Findings
    shadow: ShadowMemory
    increments: dict[int, FaultPlace]

    def launch(self, entries: Sequence[tuple[int, int]]) -> WatchedLaunch:
        """See `Vc4ReferenceMachine.launch`."""
        return WatchedLaunch(self, entries)


class _Units(Units):
    """The units with accesses observed."""

    __slots__ = ("watched", "watcher")

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
        super().__init__(n, memory, stats, faults, vpm, sync, queues)
        self.watcher = watcher = Watcher(n, faults)
        self.vpm = watched = WatchedVpm(n, memory, stats, faults, vpm, watcher)
        self.tmu = _Tmu(n, memory, stats, faults, self.uniforms, watched, queues)
        self.watched = watched

    def release_mutex(self, g: Group) -> None:
        """See `Units.release_mutex`."""
        super().release_mutex(g)
        for q in g.ids:
            self.watcher.clocks.release(q, "mutex")


class WatchedLaunch(ReferenceExecution):
    """A launch under the sanitizer."""

    units = _Units

    def __init__(self, machine: WatchedVc4Machine, entries: Sequence[tuple[int, int]]) -> None:
        self._machine = machine
        self._left = {n: count for n, count in enumerate(machine.sync.counters) if count}
        self._blocks: dict[int, tuple[Block, Block]] = {}
        self._programs: dict[int, int] = {}  # QPU -> program
        self._steps: dict[int, Step] = {}
        super().__init__(machine, entries)

    @property
    def watcher(self) -> Watcher:
        """The sanitizer's view of the launch."""
        return self._observed.watcher

    @property
    def _observed(self) -> _Units:
        assert isinstance(self._units, _Units)
        return self._units

    def _fill(self) -> bool:
        if not self.watcher.begun:
            self.watcher.attach(self._machine)
        started = super()._fill()
        for q in self._qpus:
            if q.status != Status.FREE and self._programs.get(q.number) != q.program:
                self._programs[q.number] = q.program
                self.watcher.begin(q.number)
        return started

    def _block(self, g: Group, pc: int) -> Block:
        block = super()._block(g, pc)
        known = self._blocks.get(id(block))
        if known is None:
            made = Block.__new__(Block)
            made.steps, made.totals = [self._watched(step) for step in block.steps], block.totals
            known = self._blocks[id(block)] = block, made
        return known[1]

    def _watched(self, step: Step) -> Step:
        found = self._steps.get(step.plan.word)
        if found is None:
            found = self._steps[step.plan.word] = Step.__new__(Step)
            found.plan, found.execute = step.plan, self.watcher.watched(step)
        return found

    def _acquire(self, g: Group, plan: Plan) -> list[int]:
        watcher, instr = self.watcher, plan.instr
        if isinstance(instr, Semaphore) and instr.number in self._left:
            count = self._left.pop(instr.number)
            other = self._machine.increments.get(instr.number)
            text = f"semaphore {instr.number} is {count} from the launch before"
            watcher.report(Finding("sync", "semaphore-left", text, watcher.place(g, 0), other))
        passed = super()._acquire(g, plan)
        for i in passed:
            q = g.ids[i]
            if not isinstance(instr, Semaphore):
                watcher.clocks.acquire(q, "mutex")
            elif instr.acquire:
                watcher.clocks.acquire(q, instr.number)
            else:
                watcher.clocks.release(q, instr.number)
                self._machine.increments[instr.number] = watcher.place(g, i)
        return passed

    def _end(self, g: Group) -> None:
        self._observed.watched.end(g)
        super()._end(g)

    def _deadlock(self, waiting: list[Qpu]) -> None:
        try:
            super()._deadlock(waiting)
        except EmuFault as found:
            other = None
            if len(waiting) > 1:
                q = waiting[-1]
                other = self.watcher.at(q.number, (q.pc - q.entry) >> 3)
            self.watcher.report(Finding("sync", "deadlock", found.message, found.place, other))
            raise


_LANES = np.arange(16)


def _leaving(address: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The lanes whose one address is not the next one of the progression that the first lanes begin."""
    if (address[1:] == address[1]).all():
        return _LANES > 0
    off: np.ndarray[tuple[int], np.dtype[np.bool_]] = address != address[0] + _LANES * (address[1] - address[0])
    return off & (address[off] == address[off][0]).all() if off.any() else off


class _Tmu(Tmu):
    """The TMUs with loads observed."""

    __slots__ = ("_good", "_queues", "_vpm", "_watcher")

    def __init__(
        self,
        n: int,
        memory: Memory,
        stats: RunStats,
        faults: Reporter,
        uniforms: Uniforms,
        vpm: WatchedVpm,
        queues: Queues | None = None,
    ) -> None:
        super().__init__(n, memory, stats, faults, uniforms, queues)
        self._vpm, self._watcher = vpm, vpm.watcher
        self._good: dict[int, tuple[Mask, Origin]] = {}
        self._queues: dict[tuple[int, int], deque[tuple[Mask, Origin] | None]] = {}

    def reset(self, q: int) -> None:
        """See `Tmu.reset`."""
        super().reset(q)
        for tmu in range(2):
            self._queues[tmu, q] = deque()

    def _direct(self, g: Group, value: Vector, at: int = 0) -> Vector:
        values = super()._direct(g, value, at)
        watcher = self._watcher
        self._good.clear()
        for row in range(len(value)):
            i = at + row
            address = (value[row] & np.uint32(BUS_MASK & ~3)).astype(np.int64)
            # A lane that is off loads, too: the first element, by the compiler's convention, which is at the lowest
            # address or where the lanes leave the progression of the others. Those lanes do not count for races, but
            # for lane 0 of a vector with several addresses.
            kept = (address > address.min()) & ~_leaving(address)
            kept[0] |= kept.any()
            self._vpm.in_flight(g, i, address[kept])
            watcher.race, race = False, watcher.race
            good = watcher.loads(g, i, address, 4)
            watcher.race = race
            if race and kept.any():
                watcher.init, init = False, watcher.init
                watcher.loads(g, i, address[kept], 4)
                watcher.init = init
            if good is not None and not good.all():
                lane = int(np.flatnonzero(~good)[0])
                self._good[g.ids[i]] = good, (watcher.memory.where(int(address[lane])), g.index(i))
        return values

    def _push(
        self, g: Group, tmu: int, rows: np.ndarray[tuple[int], np.dtype[np.intp]], values: Vector, at: int = 0
    ) -> None:
        super()._push(g, tmu, rows, values, at)
        for q in rows.tolist():
            self._queues[tmu, q].append(self._good.pop(q, None))

    def take(self, g: Group, tmu: int) -> Vector:
        """See `Tmu.take`."""
        answer = super().take(g, tmu)
        found = [self._queues[tmu, q].popleft() for q in g.ids]
        for i, each in enumerate(found):
            if each is not None:
                if self._watcher.taken is None:
                    self._watcher.taken = np.ones((g.n, 16), np.bool_)
                self._watcher.taken[i], self._watcher.origin = each
        return answer
