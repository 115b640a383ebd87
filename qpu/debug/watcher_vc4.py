"""The sanitizer's view of one launch on VideoCore IV: definedness, order, reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.debug.defined import Defined, Origin
from qpu.debug.findings import Finding, Findings
from qpu.debug.memory import ShadowMemory
from qpu.debug.shadow import Clocks, Conflict, Ints
from qpu.debug.uses_vc4 import FLAGS, NAMES, REGISTERS, HalfUse, Use, use_of
from qpu.emu.vc4.alu import R4
from qpu.emu.vc4.faults import Reporter, disassemble
from qpu.emu.vc4.prepare import Plan
from qpu.emu.vc4.reference_execute import ReferenceThread, Step
from qpu.emu.vc4.state import BUS_MASK, Group
from qpu.errors import FaultPlace
from qpu.vc4.instr import Branch

__all__ = ["Watcher"]

Mask: TypeAlias = NDArray[np.bool_]


class Source(Protocol):
    """What a launch under the sanitizer belongs to."""

    findings: Findings
    shadow: ShadowMemory


class Watcher:
    """The sanitizer's view of one launch. QPU numbers are its threads."""

    def __init__(self, n: int, faults: Reporter) -> None:
        self.faults = faults
        self.clocks = Clocks(n)
        self.defined = Defined(n, REGISTERS)
        self.begun = False
        self.init = self.race = False
        self._seen = set[tuple[str, int | None]]()
        self._group: Group | None = None
        self.threads: list[int] = []
        self._known = 0
        self._entries = [0] * n
        # Of the instruction that executes: lanes with a value of the vectors that it takes and writes; None: all.
        self.taken: Mask | None = None
        self.given: Mask | None = None
        self.origin: Origin = ("", 0)

    def attach(self, machine: Source) -> None:
        """The launch begins."""
        self.begun = True
        self.memory = machine.shadow
        self.memory.begin(self.clocks)
        self._findings = machine.findings
        kinds = machine.findings.kinds
        self.init, self.race = "init" in kinds, "race" in kinds

    def begin(self, q: int) -> None:
        """A program starts on a QPU."""
        self.defined.start(q, 0)
        self.clocks.fresh(q)
        self._group = None

    def _enter(self, g: Group) -> None:
        self._group = g
        self.threads = list(g.ids)
        self._known = self.defined.common(self.threads)
        for q in g.qpus:
            self._entries[q.number] = q.entry

    # -- instructions

    def watched(self, step: Step) -> Callable[[ReferenceThread, Plan], None]:
        """The function that executes a step, observed."""
        execute, use = step.execute, use_of(step.plan)
        needs, writes, pops = use.needs, use.writes, use.pops

        def watching(t: ReferenceThread, p: Plan) -> None:
            g = t.group
            if self._group is not g:
                self._enter(g)
            if needs & ~self._known or (pops and self.init):
                self._careful(t, p, use, execute)
                return
            self.given = None
            execute(t, p)
            if writes & ~self._known:
                self.defined.add(self.threads, writes)
                self._known |= writes

        return watching

    def _careful(self, t: ReferenceThread, p: Plan, use: Use, execute: Callable[[ReferenceThread, Plan], None]) -> None:
        g, defined, threads = t.group, self.defined, self.threads
        if isinstance(p.instr, Branch):
            self._branch(p, g)
            execute(t, p)
            defined.add(threads, use.writes)
            self._known = defined.common(threads)
            return
        results: list[tuple[HalfUse, Mask, Mask, Origin]] = []
        self.given = self.taken = None
        for h in use.halves:
            on, good, origin = self._half(h, g)
            results.append((h, on, good, origin))
            if h.sink == "address" and not good.all():
                self._undefined(g, good, "the address of a TMU request", origin)
            elif h.sink == "lane0" and not good[:, :1].all():
                self._undefined(g, good[:, :1], "a set-up or address", origin)
            elif h.sink == "vpm" and not (good & on).all():
                self.given, self.origin = good & on, origin
        olds = {r: defined.lanes(threads, r) for h in use.halves for r in (h.register, FLAGS) if r >= 0}
        execute(t, p)
        taken = self._popped()
        for h, on, good, origin in results:
            if h.vpm and taken is not None:
                good, origin = good & taken, self.origin
            if h.flags:
                defined.put(threads, FLAGS, np.where(on, good, olds[FLAGS]))
                defined.origins[FLAGS] = origin
            if h.register >= 0:
                lanes = np.where(on, good, olds[h.register])
                defined.put(threads, h.register, lanes)
                if not lanes.all():
                    defined.origins[h.register] = origin if origin[0] else (NAMES[h.register], g.index(0))
        if p.load is not None:
            defined.put(threads, R4, np.ones((g.n, 16), np.bool_) if taken is None else taken)
            if taken is not None:
                defined.origins[R4] = self.origin
        self._known = defined.common(threads)

    def _popped(self) -> Mask | None:
        """What the instruction took from the VPM or a TMU."""
        taken, self.taken, self.given = self.taken, None, None
        return taken

    def _half(self, h: HalfUse, g: Group) -> tuple[Mask, Mask, Origin]:
        defined, threads = self.defined, self.threads
        good = np.ones((g.n, 16), np.bool_)
        origin: Origin = ("", 0)
        for r in h.reads:
            lanes = defined.lanes(threads, r)
            if not lanes.all():
                origin = defined.origins.get(r, (NAMES[r], g.index(0)))
                good &= lanes
        if h.mixes:
            good = np.repeat(np.asarray(good.any(axis=1))[:, None], 16, axis=1)
        on = np.ones((g.n, 16), np.bool_)
        if h.flag:
            flag: Mask = getattr(g.bank, h.flag)[g.sel]
            on = flag.copy() if h.when else ~flag
            tested = defined.lanes(threads, FLAGS)
            if not tested.all():
                origin = defined.origins.get(FLAGS, (NAMES[FLAGS], g.index(0)))
                good &= tested
                on |= ~tested
        return on, good, origin

    def _branch(self, p: Plan, g: Group) -> None:
        row = p.branch
        if row is None or not row.flag:
            return
        flag: Mask = getattr(g.bank, {"z": "z", "n": "neg", "c": "c"}[row.flag])[g.sel]
        good = self.defined.lanes(self.threads, FLAGS)
        seen = flag if row.when else ~flag
        decided = np.asarray(((~seen if row.every else seen) & good).any(axis=1))
        bad = ~good & ~decided[:, None]
        if bad.any():
            origin = self.defined.origins.get(FLAGS, (NAMES[FLAGS], g.index(0)))
            self._undefined(g, ~bad, "the condition of a branch", origin)

    # -- memory

    def loads(self, g: Group, i: int, at: Ints, size: int) -> Mask | None:
        """Loads of one member: which elements have a value; None for all. Reports races."""
        cells = at.ravel().astype(np.uint32)
        if self.race:
            epochs, index = self.memory.epochs(cells, size)
            c = epochs.load(index, self._same(g.ids[i], len(cells)), self._places(g, i, len(cells)))
            if c is not None:
                self.conflict(g, i, c, self._memory_cell(cells, size), write=False)
        return self.memory.written_at(cells, size).reshape(at.shape) if self.init else None

    def stores(self, g: Group, i: int, at: Ints, size: int, harmless: Mask, begun: int) -> None:
        """A DMA store of one member, when it is known to be complete. begun: the instruction that started it."""
        cells = at.ravel().astype(np.uint32)
        if self.race:
            epochs, index = self.memory.epochs(cells, size)
            q = g.ids[i]
            places = np.full(len(cells), begun << 4, np.uint32)
            c = epochs.store(index, self._same(q, len(cells)), places, harmless.ravel())
            if c is not None and self.memory.kept(int(cells[c.at])):
                self.conflict(g, i, c, self._memory_cell(cells, size), write=True)

    def _memory_cell(self, cells: NDArray[np.uint32], size: int) -> Callable[[int], str]:
        def text(n: int) -> str:
            address = int(cells[n])
            return f"{self.memory.where(address)} (it holds {self.memory.value(address, size)})"

        return text

    @staticmethod
    def _same(q: int, n: int) -> Ints:
        return np.full(n, q, np.int64)

    def _places(self, g: Group, i: int, n: int) -> NDArray[np.uint32]:
        return np.uint32(g.index(i) << 4) | (np.arange(n, dtype=np.uint32) & np.uint32(15))

    # -- reports

    def report(self, finding: Finding) -> None:
        """Record a finding, or raise it."""
        self._findings.add(finding, self.faults.stats, self._seen)

    def place(self, g: Group, i: int, lane: int | None = None, address: int | None = None) -> FaultPlace:
        """The current instruction of a member."""
        return self.faults.place(g, i, lane=lane, address=address)

    def at(self, q: int, index: int, lane: int | None = None) -> FaultPlace:
        """An instruction of a QPU."""
        pc = (self._entries[q] + 8 * index) & BUS_MASK
        word = int.from_bytes(self.faults.memory.view(pc, 8), "little")
        return FaultPlace(self.faults.board, q, 0, index, lane=lane, disassembly=disassemble(word))

    def conflict(self, g: Group, i: int, c: Conflict, what: Callable[[int], str], *, write: bool) -> None:
        """Report two accesses that are not ordered."""
        other = self.at(c.thread, c.place >> 4, c.place & 15)
        text = (
            f"{'store to' if write else 'load of'} {what(c.at)} and a {'store' if c.wrote else 'load'} there by "
            f"QPU {c.thread} are not ordered"
        )
        self.report(Finding("race", "race", text, self.place(g, i, c.at & 15), other))

    def _undefined(self, g: Group, good: Mask, what: str, origin: Origin) -> None:
        i, lane = (int(x) for x in np.argwhere(~good)[0])
        self.undefined(g, i, lane, what, origin)

    def undefined(self, g: Group, i: int, lane: int, what: str, origin: Origin) -> None:
        """Report a value that matters and was never written."""
        name, index = origin
        place = self.place(g, i, lane)
        other = self.at(g.ids[i], index, lane) if name and index != place.instruction else None
        self.report(
            Finding("init", "uninitialised", f"{what} depends on {name}, which was never written", place, other)
        )
