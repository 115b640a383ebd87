"""Handover of a running dispatch from translated code to the reference engine.

It is necessary when a computed branch leads to code that the translator does not support; that is not known earlier.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.deferred_signals import CriticalSection
from qpu.core.isa import Isa
from qpu.emu.engine.numpy_lanes import quiet
from qpu.emu.v3d.dispatch import Dispatch, Placement
from qpu.emu.v3d.prepare import SFU_LATENCY, UNIFA_EARLY, prepare
from qpu.emu.v3d.reference import V3dExecution, V3dReferenceMachine
from qpu.emu.v3d.services import DispatchServices
from qpu.emu.v3d.state import Group
from qpu.emu.v3d.translate_graph import Fetch
from qpu.emu.v3d.translate_state import FIFO_SLOTS, NONE, Kept, Node, Slot

__all__ = ["ReferenceRest", "group_of"]

U32: TypeAlias = NDArray[np.uint32]
LANES = 16
_LANE = np.arange(LANES, dtype=np.uint32)


def _mask(bits: int) -> NDArray[np.bool_]:
    return (np.uint32(bits) >> _LANE & np.uint32(1)).astype(np.bool_)


def group_of(isa: Isa, thread: int, state: U32, node: Node, fetch: Fetch, *, split: bool) -> Group:
    """The `Group` of one thread. state: its state block. node: its next instruction.

    split: the state holds separate flags for the halves of lanes.
    """

    def vector(slot: int) -> U32:
        return state[slot : slot + LANES].copy()

    def number(slot: Slot) -> int:
        return int(state[slot])

    g = Group(np.array([thread], np.intp), (number(Slot.CODE) + 8 * node.at) & 0xFFFFFFFF, number(Slot.UNIFORM))
    g.regs = [vector(Slot.RF + LANES * n) for n in range(64)] + [vector(Slot.ACC + LANES * n) for n in range(6)]
    g.a, g.b = _mask(number(Slot.A_LO)), _mask(number(Slot.B_LO))
    g.a_hi, g.b_hi = (_mask(number(Slot.A_HI)), _mask(number(Slot.B_HI))) if split else (g.a, g.b)
    g.msf, g.rtop = vector(Slot.MSF), vector(Slot.RTOP)
    g.live = g.msf != 0
    g.revf = vector(Slot.REVF)
    g.tidx = np.full(LANES, number(Slot.TIDX), np.uint32)
    g.link, g.unifa, g.config = number(Slot.LINK), number(Slot.UNIFA), number(Slot.CONFIG)
    g.unifa_at = node.unifa - UNIFA_EARLY - 1 if node.unifa else -100
    g.data = [vector(Slot.DATA + LANES * k) for k in range(number(Slot.PENDING))]
    head = number(Slot.HEAD)
    g.results = [vector(Slot.FIFO + LANES * ((head + k) % FIFO_SLOTS)) for k in range(number(Slot.COUNT))]
    g.sync = np.ones(1, np.bool_) if number(Slot.SYNC) else None
    if node.branch and number(Slot.TAKEN):
        g.branch_left = node.branch
        target = number(Slot.TARGET) if node.target == NONE else number(Slot.CODE) + 8 * node.target
        g.target = target & 0xFFFFFFFF
    g.switches, g.last, g.ending = node.switch, node.marked, node.ending
    if node.late:
        g.late, g.late_on, g.late_left = vector(Slot.LATE), _mask(number(Slot.LATE_MASK)), SFU_LATENCY - 1
    g.rf0_volatile = isa is Isa.V3D71 and bool(number(Slot.VOLATILE))
    g.busy = bool(g.branch_left or g.switches or g.ending or g.late_left)
    if node.before != NONE:
        g.previous = prepare(isa, fetch(node.before) or 0)
    return g


class ReferenceRest(V3dExecution):
    """The rest of a dispatch on the reference engine, with placement and services of the execution that began it.

    states: state blocks by thread. ready, waiting: next instructions of threads that can run, and of threads at
    barriers. resumed: threads whose last stop was a switch. `stats` counts only what this execution does.
    """

    def __init__(
        self,
        machine: V3dReferenceMachine,
        dispatch: Dispatch,
        placement: Placement,
        services: DispatchServices,
        states: U32,
        ready: Mapping[int, Node],
        waiting: Mapping[int, Node],
        resumed: Set[int],
        fetch: Fetch,
        *,
        split: bool,
    ) -> None:
        super().__init__(machine, dispatch)
        self._placement = placement
        self._services = services
        kept = services.snapshot.kept
        kept[kept == Kept.STREAM] = Kept.FREE
        self._round = 1
        for nodes, groups in ((ready, self._ready), (waiting, self._waiting)):
            for thread, node in nodes.items():
                g = group_of(self.isa, thread, states[thread], node, fetch, split=split)
                g.supergroups = np.array([placement.running[thread].supergroup], np.intp)
                if thread in waiting:
                    g.sync = np.ones(1, np.bool_)
                if thread in resumed:
                    g.switched = 1
                groups.append(g)
                self._ran[thread] = 1
        self._before = int(services.qpu_instructions.sum())

    @property
    def executed(self) -> int:
        """Instructions that the reference engine executed."""
        return int(self._services.qpu_instructions.sum()) - self._before

    def advance(self, budget: int, stop: CriticalSection) -> None:
        """Run one round. stop: the critical section of the caller."""
        self._stop = stop
        with quiet():
            self._run_round(min(budget, self.segment))

    def settle(self) -> None:
        """Bring `stats` up to date."""
        self._count()
