"""The sanitizer on V3D: a machine whose dispatches check definedness, order and synchronisation of every access."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import SWITCH_SLOTS, Isa
from qpu.debug.defined import Defined, Origin
from qpu.debug.findings import Finding, Findings
from qpu.debug.memory import ShadowMemory
from qpu.debug.shadow import Clocks, Conflict
from qpu.debug.uses_v3d import ACCUMULATORS, FLAG_A, FLAG_B, NAMES, REGISTERS, HalfUse, Use, use_of
from qpu.emu.v3d.alu import Step
from qpu.emu.v3d.dispatch import Dispatch, Placement, Start
from qpu.emu.v3d.prepare import Prepared, disassembly
from qpu.emu.v3d.reference import Code, V3dExecution, V3dReferenceMachine
from qpu.emu.v3d.services import DispatchServices
from qpu.emu.v3d.state import Group
from qpu.emu.v3d.tmu import Action, Request, TmuMemory, component_address
from qpu.errors import EmuFault, FaultPlace
from qpu.v3d.instr import Branch

__all__ = ["WatchedV3dMachine"]

U32: TypeAlias = NDArray[np.uint32]
Mask: TypeAlias = NDArray[np.bool_]


class WatchedV3dMachine(V3dReferenceMachine):
    """The reference machine under the sanitizer. findings: where findings go. shadow: what was written to memory."""

    findings: Findings
    shadow: ShadowMemory

    def dispatch(self, cfg: Sequence[int]) -> WatchedDispatch:
        """See `V3dReferenceMachine.dispatch`."""
        return WatchedDispatch(self, Dispatch.from_cfg(cfg, exact_batches=self.profile.exact_batches))


class _Placement(Placement):
    """A placement that tells the sanitizer of starts and barriers."""

    watcher: Watcher

    def start(self) -> list[Start]:
        started = super().start()
        for each in started:
            self.watcher.begin(each.thread)
        return started

    def release(self) -> set[int]:
        arrived = {s: list(t) for s, t in self._arrived.items()}
        full = super().release()
        for s in full:
            self.watcher.clocks.meet(arrived[s])
        return full


class WatchedDispatch(V3dExecution):
    """A dispatch under the sanitizer."""

    placement = _Placement

    def __init__(self, machine: WatchedV3dMachine, dispatch: Dispatch) -> None:
        super().__init__(machine, dispatch)
        self.watcher = Watcher(machine, self._services)
        assert isinstance(self._placement, _Placement)
        self._placement.watcher = self.watcher
        self._services.tmu = _Tmu(self.watcher, machine, self._services)

    def _fetch(self, g: Group) -> Code:
        code = super()._fetch(g)
        code.step = self.watcher.watched(code.prepared, code.step)
        return code

    def _switch(self, g: Group) -> None:
        super()._switch(g)
        if self.isa is Isa.V3D42:
            self.watcher.switched(g)

    def _stuck(self) -> EmuFault:
        found = super()._stuck()
        places = [
            replace(self._services.at_barrier(g), qpu=self._placement.qpu(int(t)), thread=self._placement.slot(int(t)))
            for g in self._waiting
            for t in g.threads
        ]
        waiting = "; ".join(f"QPU {p.qpu}, thread {p.thread} waits at instruction {p.instruction}" for p in places)
        other = places[-1] if len(places) > 1 else None
        finding = Finding("sync", "deadlock", f"{found.message}: {waiting}", found.place, other)
        self.watcher.report(finding)
        return found


class Watcher:
    """The sanitizer's view of one dispatch."""

    def __init__(self, machine: WatchedV3dMachine, services: DispatchServices) -> None:
        self.isa = machine.profile.isa
        self.services = services
        threads = services.placement.capacity
        self.clocks = Clocks(threads)
        self.memory = machine.shadow
        self.memory.begin(self.clocks)
        self.defined = Defined(threads, REGISTERS)
        self._findings, self._seen = machine.findings, set[tuple[str, int | None]]()
        self.init = "init" in machine.findings.kinds
        self.race = "race" in machine.findings.kinds
        self._switches = "sync" in machine.findings.kinds
        self._payload = 1 << 2 | 1 << (0 if self.isa is Isa.V3D42 else 3)
        self._group: Group | None = None
        self.threads: list[int] = []
        self.rows: NDArray[np.int64] = np.zeros(0, np.int64)
        self._known = 0
        self._pushed = np.zeros(threads, np.int64)  # TMU results of each thread so far, and those it has taken
        self._popped = np.zeros(threads, np.int64)
        self._bad_results: dict[tuple[int, int], tuple[Mask, Origin]] = {}  # (thread, number) -> lanes, origin
        self._bad_data: dict[int, list[tuple[int, Mask, Origin]]] = {}  # thread -> (number, lanes, origin)

    # -- events

    def begin(self, thread: int) -> None:
        """A program starts on a thread."""
        self.defined.start(thread, self._payload)
        self.clocks.fresh(thread)
        self._bad_data.pop(thread, None)
        for number in range(int(self._popped[thread]), int(self._pushed[thread])):
            self._bad_results.pop((thread, number), None)
        self._pushed[thread] = self._popped[thread] = 0
        self._group = None

    def switched(self, g: Group) -> None:
        """4.2: another thread of the QPU may use the accumulators now."""
        if self._switches:
            self.defined.lose(g.threads.tolist(), ACCUMULATORS, ("lost", self._index(g) - SWITCH_SLOTS - 1))
            self._group = None

    def _index(self, g: Group) -> int:
        return (g.pc - self.services.dispatch.code) // 8

    def enter(self, g: Group) -> None:
        """Another group executes."""
        self._group = g
        self.threads = g.threads.tolist()
        self.rows = g.threads.astype(np.int64)
        self._known = self.defined.common(self.threads)

    # -- instructions

    def watched(self, p: Prepared, step: Step) -> Step:
        """The step of an instruction, observed."""
        if not (self.init or self._switches):

            def entered(g: Group, x: DispatchServices) -> list[Group] | None:
                if self._group is not g:
                    self.enter(g)
                found: list[Group] | None = step(g, x)
                return found

            return entered
        use = use_of(p)
        needs, writes, pops = use.needs, use.writes, use.pops

        def watching(g: Group, x: DispatchServices) -> list[Group] | None:
            if self._group is not g:
                self.enter(g)
            if needs & ~self._known or (pops and self._bad_results) or (self._bad_data and p.starts_request):
                return self._careful(p, use, step, g)
            found: list[Group] | None = step(g, x)
            if writes & ~self._known:
                self.defined.add(self.threads, writes)
                self._known |= writes
            if pops:
                self._popped[self.rows] += 1
            return found

        return watching

    def _careful(self, p: Prepared, use: Use, step: Step, g: Group) -> list[Group] | None:
        """An instruction with undefined operands: find what becomes undefined, or matters."""
        defined, threads = self.defined, self.threads
        if isinstance(p.instr, Branch):
            self._branch(p.instr, g)
            found: list[Group] | None = step(g, self.services)
            return found
        results: list[tuple[HalfUse, Mask, Mask, Origin]] = []
        queued = len(g.data)
        for h in sorted(use.halves, key=lambda h: h.sink == "address"):
            on, good, origin = self._half(h, g)
            results.append((h, on, good, origin))
            if origin[0] == "lost" and any(ACCUMULATORS >> r & 1 for r in h.reads):
                row, lane = (int(x) for x in np.argwhere(~good)[0])
                self._undefined(g, row, lane, "this instruction", origin)
            if h.sink == "data" and (~good & on).any():
                for row, t in enumerate(threads):
                    if (~good[row] & on[row]).any():
                        self._bad_data.setdefault(t, []).append((queued, ~good[row] & on[row], origin))
            queued += h.sink == "data"
            if h.sink == "address":
                self._request(g, on & np.broadcast_to(g.live, on.shape), good, origin)
            elif h.sink == "lane0" and not good[:, 0].all():
                row = int(np.flatnonzero(~good[:, 0])[0])
                self._undefined(g, row, 0, "the configuration or address of a stream", origin)
        olds = {r: defined.lanes(threads, r) for h in use.halves for r in (h.register, FLAG_A) if r >= 0}
        found = step(g, self.services)
        for h, on, good, origin in results:
            if h.push or h.update:
                if h.push:
                    defined.put(threads, FLAG_B, olds[FLAG_A])
                defined.put(threads, FLAG_A, good if h.push else good & olds[FLAG_A])
                self.defined.origins[FLAG_A] = origin
            if h.register >= 0:
                lanes = np.where(on, good, olds[h.register])
                defined.put(threads, h.register, lanes)
                if not lanes.all():
                    defined.origins[h.register] = origin if origin[0] else (NAMES[h.register], self._index(g))
            for r in h.implied:
                defined.add(threads, 1 << r)
        for r in use.loads:
            defined.add(threads, 1 << r)
        if use.pops:
            self._pop(use.popped)
        self._known = defined.common(threads)
        return found

    def _pop(self, register: int) -> None:
        """A TMU result was taken."""
        for row, (t, number) in enumerate(zip(self.threads, self._popped[self.rows].tolist(), strict=True)):
            found = self._bad_results.pop((t, number), None)
            if found is not None and register >= 0:
                lanes = self.defined.lanes(self.threads, register)
                lanes[row] = found[0]
                self.defined.put(self.threads, register, lanes)
                self.defined.origins[register] = found[1]
        self._popped[self.rows] += 1

    def loads(self, r: Request, parts: list[tuple[U32, Mask]]) -> None:
        """A load returns results. parts: addresses and the live lanes inside buffers, for each component."""
        g = self._group
        assert g is not None
        for k, (at, live) in enumerate(parts):
            lanes = np.ones(live.shape, np.bool_)
            lanes[live] = self.memory.written_at(at[live], r.size)
            if lanes.all():
                continue
            for row in np.flatnonzero(~np.asarray(lanes.all(axis=1))).tolist():
                lane = int(np.flatnonzero(~lanes[row])[0])
                origin = self.memory.where(int(at[row, lane])), self._index(g)
                self._bad_results[self.threads[row], int(self._pushed[self.rows[row]]) + k] = lanes[row], origin

    def results(self, count: int) -> None:
        """The request returns that many results."""
        if count:
            self._pushed[self.rows] += count

    def _half(self, h: HalfUse, g: Group) -> tuple[Mask, Mask, Origin]:
        """Lanes that a half may write, those whose result is defined, and where it began otherwise."""
        defined, threads = self.defined, self.threads
        shape = (g.n, 16)
        good = np.ones(shape, np.bool_)
        origin: Origin = ("", 0)
        for r in () if h.known else h.reads:
            lanes = defined.lanes(threads, r)
            if not lanes.all():
                origin = defined.origins.get(r, (NAMES[r], self._index(g)))
                good &= lanes
        if h.mixes:
            good = np.repeat(np.asarray(good.any(axis=1))[:, None], 16, axis=1)
        on = np.ones(shape, np.bool_)
        if h.cond >= 0:
            flag = np.broadcast_to(g.a | g.a_hi if h.cond == FLAG_A else g.b | g.b_hi, shape)
            if h.inverted:
                flag = ~np.broadcast_to(g.a & g.a_hi if h.cond == FLAG_A else g.b & g.b_hi, shape)
            on = np.array(flag)
            tested = defined.lanes(threads, h.cond)
            if not tested.all():
                origin = defined.origins.get(h.cond, (NAMES[h.cond], self._index(g)))
                good &= tested
                on |= ~tested
        return on, good, origin

    def _request(self, g: Group, live: Mask, good: Mask, origin: Origin) -> None:
        bad = live & ~good
        if bad.any():
            row, lane = (int(x) for x in np.argwhere(bad)[0])
            self._undefined(g, row, lane, "the address of a TMU request", origin)
        for row, t in enumerate(self.threads):
            for _, lanes, where in self._bad_data.pop(t, ()):
                lost = lanes & live[row]
                if lost.any():
                    self._undefined(g, row, int(np.flatnonzero(lost)[0]), "stored data", where)

    def _branch(self, b: Branch, g: Group) -> None:
        good = self.defined.lanes(self.threads, FLAG_A)
        shape = (g.n, 16)
        flag, live = np.broadcast_to(g.a, shape), np.broadcast_to(g.live, shape)
        if b.cond in ("a0", "na0"):
            counted = np.arange(16) == 0
            decided = np.zeros(g.n, np.bool_)
        elif b.cond:
            counted = live if b.msfign else np.ones(shape, np.bool_)
            seen = flag if b.cond in ("anya", "allna") else ~flag
            decided = np.asarray((seen & good & counted).any(axis=1))
        else:
            return
        bad = (~good & counted).any(axis=1) & ~decided
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            lane = int(np.flatnonzero(~good[row] & np.broadcast_to(counted, shape)[row])[0])
            origin = self.defined.origins.get(FLAG_A, (NAMES[FLAG_A], self._index(g)))
            self._undefined(g, row, lane, "the condition of a branch", origin)

    # -- memory

    def access(self, r: Request, at: U32, live: Mask, write: bool, same: Mask | None) -> None:
        """A legal access of the group: at, live (n, 16). same: stores that change nothing."""
        g = self._group
        assert g is not None
        if self.init and write:
            self.memory.written(at[live], r.size)
        if self.race:
            self._order(r, at, live, write, same)

    def _order(self, r: Request, at: U32, live: Mask, write: bool, same: Mask | None) -> None:
        """Record accesses, and report the first that is not ordered."""
        g = self._group
        assert g is not None
        rows, lanes = np.nonzero(live)
        cells, threads = at[rows, lanes], self.rows[rows]
        places = (np.uint32(self._index(g)) << np.uint32(4)) | lanes.astype(np.uint32)
        epochs, index = self.memory.epochs(cells, r.size)
        if write:
            harmless = np.zeros(len(cells), np.bool_) if same is None else same[rows, lanes]
            conflict = epochs.store(index, threads, places, harmless)
        else:
            conflict = epochs.load(index, threads, places)
        if conflict is not None and self.memory.kept(int(cells[conflict.at])):
            row, lane = int(rows[conflict.at]), int(lanes[conflict.at])
            self._race(g, r, conflict, row, lane, int(cells[conflict.at]), write)

    def atomic(self, r: Request, at: U32, live: Mask) -> None:
        """Atomics pass on what their threads know, by the word that they change, one thread after another."""
        if self.init:
            self.memory.written(at[live], 4)
        if not self.race:
            return
        for row, t in enumerate(self.threads):
            only = np.zeros(live.shape, np.bool_)
            only[row] = live[row]
            words = np.unique(at[row][live[row]]).tolist()
            for word in words:
                self.clocks.acquire(t, word)
            self._order(r, at, only, True, None)
            for word in words:
                self.clocks.release(t, word)

    # -- reports

    def report(self, finding: Finding) -> None:
        """Record a finding, or raise it."""
        self._findings.add(finding, self.services.stats, self._seen)

    def elsewhere(self, thread: int, place: int) -> FaultPlace:
        """The place of an earlier access. place: instruction << 4 | lane."""
        found = replace(self.services.placement.place(thread), board=self.services.board)
        return self._at(replace(found, instruction=place >> 4, lane=place & 15))

    def _at(self, place: FaultPlace) -> FaultPlace:
        assert place.instruction is not None
        pc = self.services.dispatch.code + 8 * place.instruction
        snapshot = self.services.snapshot
        word = snapshot.word(pc) | snapshot.word(pc + 4) << 32
        return replace(place, disassembly=disassembly(self.isa, word))

    def _undefined(self, g: Group, row: int, lane: int, what: str, origin: Origin) -> None:
        name, index = origin
        place = self.services.place(g, row, lane)
        other = self._at(replace(place, instruction=index, lane=lane)) if index != place.instruction else None
        if name == "lost":
            text = f"{what} depends on an accumulator that other threads may have changed at a thread switch"
            self.report(Finding("sync", "lost", text, place, other))
        else:
            text = f"{what} depends on {name}, which was never written in this lane"
            self.report(Finding("init", "uninitialised", text, place, other))

    def _race(self, g: Group, r: Request, c: Conflict, row: int, lane: int, address: int, write: bool) -> None:
        place, other = self.services.place(g, row, lane, address), self.elsewhere(c.thread, c.place)
        verb = "store to" if write else "load of"
        text = (
            f"{verb} {self.memory.where(address)} and a {'store' if c.wrote else 'load'} there by QPU {other.qpu}, "
            f"thread {other.thread}, lane {other.lane} are not ordered; it holds {self.memory.value(address, r.size)}"
        )
        self.report(Finding("race", "race", text, place, other))


class _Tmu(TmuMemory):
    """The TMU with accesses observed."""

    def __init__(self, watcher: Watcher, machine: WatchedV3dMachine, services: DispatchServices) -> None:
        super().__init__(
            machine.profile.isa, machine.memory, before_store=services.snapshot.before_store, report=services._access
        )
        self._watcher = watcher

    def run(self, request: Request, address: U32, live: Mask, data: Sequence[U32]) -> list[U32]:
        """See `TmuMemory.run`."""
        if request.action is Action.CACHE:
            return super().run(request, address, live, data)
        watch, write = self._watcher, request.action is Action.STORE
        parts: list[tuple[U32, Mask, Mask | None]] = []
        for k in range(request.components):
            at = component_address(self.isa, address, k, request.components) & np.uint32(
                0xFFFFFFFF ^ (request.size - 1)
            )
            inside = live & self.memory.legal(at, request.size)
            same = None
            if write and k < len(data):
                before = self._all.load(request, np.where(inside, at, np.uint32(0)))
                low = np.uint32((1 << 8 * request.size) - 1)
                same = (before ^ np.broadcast_to(data[k], at.shape)) & low == 0
            parts.append((at, inside, same))
        results = super().run(request, address, live, data)
        if watch.init:
            if request.action is Action.LOAD:
                watch.loads(request, [(at, inside) for at, inside, _ in parts])
            watch.results(len(results))
        if request.action is Action.ATOMIC:
            watch.atomic(request, *parts[0][:2])
            return results
        for at, inside, same in parts:
            if inside.any():
                watch.access(request, at, inside, write, same)
        return results
