"""The reference engine of V3D: threads that share a program counter run as one NumPy batch.

Order: all threads advance in step from one suspension point to the next. Suspension points are thread switches,
barriers, program ends, exhausted budgets, and every atomic (atomics are performed in order of thread number). Threads
are numbered slot by slot, QPU by QPU. Programs that were validated on silicon contain races that need this order
(docs/hardware/v3d.md 8.4).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qpu.core.isa import Isa
from qpu.emu.engine.memory import Memory
from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.emu.engine.trace import Trace
from qpu.emu.v3d import alu
from qpu.emu.v3d.alu import ACC
from qpu.emu.v3d.dispatch import Dispatch, Start
from qpu.emu.v3d.execution import CLOCKS_PER_INSTRUCTION, DispatchExecution, MachineProfile
from qpu.emu.v3d.prepare import COUNTS, Prepared, after_thrsw, broken, disassembly, pending, prepare
from qpu.emu.v3d.reference_branches import branch_step
from qpu.emu.v3d.state import CLOBBERED, LANES, Group, each
from qpu.emu.v3d.tmu import Action
from qpu.errors import EmuFault
from qpu.v3d.instr import Branch

__all__ = ["CLOCKS_PER_INSTRUCTION", "Code", "MachineProfile", "V3dExecution", "V3dReferenceMachine", "build"]

_LANES = NumpyLanes()


@lru_cache(maxsize=1 << 14)
def build(p: Prepared) -> alu.Step:
    """The step of an instruction without a `problem`: (group, services) -> None, or the groups that a branch makes."""
    return branch_step(p.instr) if isinstance(p.instr, Branch) else alu.build(p, _LANES)


@dataclass(slots=True, eq=False)
class Code:
    """An instruction at its address. hits: executions."""

    prepared: Prepared
    step: alu.Step
    special: bool  # a branch or request: budget and configuration are checked first
    hits: int = 0


class V3dReferenceMachine:
    """V3D 4.2 or 7.1 of an emulated board.

    strict: what hardware does not define is an `EmuFault`; otherwise it is recorded in ``stats.faults`` and the
    program continues. trace: records every executed instruction (slow).
    """

    def __init__(self, profile: MachineProfile, memory: Memory, *, strict: bool, trace: Trace | None = None) -> None:
        if profile.isa not in (Isa.V3D42, Isa.V3D71):
            raise ValueError(f"{profile.name}: {profile.isa} is not a V3D instruction set")
        self.profile = profile
        self.memory = memory
        self.strict = strict
        self.trace = trace
        self.qpus = profile.slices * profile.qpus_per_slice

    def dispatch(self, cfg: Sequence[int]) -> V3dExecution:
        """Begin a dispatch. cfg: CFG0..CFG6 as submitted. Nothing runs before `V3dExecution.run`.

        Raises: EmuFault ``dispatch`` when the registers contradict each other.
        """
        return V3dExecution(self, Dispatch.from_cfg(cfg, exact_batches=self.profile.exact_batches))


class V3dExecution(DispatchExecution):
    """A dispatch on the reference engine; see `qpu.emu.engine.machine.Execution`."""

    segment = 4096

    def __init__(self, machine: V3dReferenceMachine, dispatch: Dispatch) -> None:
        super().__init__(
            machine.profile, machine.memory, dispatch, machine.qpus, engine="reference", strict=machine.strict
        )
        self.machine = machine
        self._code: dict[int, Code] = {}
        self._queue: deque[Group] = deque()  # to run in this round
        self._ready: list[Group] = []  # to run in the next round
        self._waiting: list[Group] = []  # at a barrier
        self._round = 0
        self._ran = np.full(self._placement.capacity, -1, np.int64)  # round in which a thread last ran
        self._budget = self.segment
        self._trace = machine.trace
        if self._trace is not None:
            self._trace.begin()

    def _count(self) -> None:
        s, x = self.stats, self._services
        for g in (*self._queue, *self._ready, *self._waiting):
            x.flush(g)
        s.tmu_requests, s.tmu_read_bytes, s.tmu_write_bytes = x.tallies()
        for k, name in enumerate(COUNTS):
            setattr(s, name, sum(code.hits * code.prepared.counts[k] for code in self._code.values()))

    def standing(self) -> list[int]:
        """See `DispatchExecution.standing`."""
        groups = (*self._queue, *self._ready, *self._waiting)
        return [(g.pc - self._dispatch.code) // 8 for g in groups for _ in g.threads]

    # -- rounds

    def _run_round(self, budget: int) -> None:
        """Run every ready thread to its next suspension point."""
        self._budget = budget
        if not self._queue:
            self._begin_round()
        while self._queue:
            g = self._queue.popleft()
            self._run_segment(g)
            if self._stop.pending:
                return
        self._release()

    def _begin_round(self) -> None:
        started = self._placement.start()
        if started:
            self._ready.append(self._new_group(started))
        if not self._ready:
            raise self._stuck()
        self._round += 1
        groups = self._merged(self._ready)
        self._ready = []
        if self.isa is Isa.V3D42:
            groups = [self._clobbered(g, groups) for g in groups]
        for g in groups:
            g.begun = g.count
            self._ran[g.threads] = self._round
        self._queue.extend(groups)

    def _merged(self, groups: list[Group]) -> list[Group]:
        """Join groups at the same instruction and with the same control state. The order is that of first threads."""
        if len(groups) == 1:
            return groups
        for g in groups:
            self._services.flush(g)
        by_key: dict[object, list[Group]] = {}
        for g in groups:
            by_key.setdefault(g.key, []).append(g)
        joined = [Group.join(same) for same in by_key.values()]
        ordered = [g for g in joined if g.ordered]
        if len(ordered) > 1:
            # Atomics are performed strictly in order of threads: divide groups whose threads interleave.
            joined = [g for g in joined if not g.ordered]
            owner = {int(t): (g, row) for g in ordered for row, t in enumerate(g.threads)}
            run: list[int] = []
            current: Group | None = None
            for t in sorted(owner):
                g, row = owner[t]
                if current is not None and g is not current:
                    joined.append(current.take(np.array(run, np.intp)))
                    run = []
                current = g
                run.append(row)
            assert current is not None
            joined.append(current.take(np.array(run, np.intp)))
        joined.sort(key=lambda g: int(g.threads[0]))
        return joined

    def _new_group(self, started: list[Start]) -> Group:
        """A group of threads at the program start, with their payload."""
        started = sorted(started, key=lambda s: s.thread)
        d = self._dispatch
        threads = np.array([s.thread for s in started], np.intp)
        g = Group(threads, d.code, d.uniforms)
        g.supergroups = np.array([s.supergroup for s in started], np.intp)
        payload = d.payload([s.batch for s in started], [s.supergroup_slot for s in started])
        g.regs[0 if self.isa is Isa.V3D42 else 3] = payload.ids
        g.regs[2] = payload.index
        g.msf = payload.live.astype(np.uint32)
        g.live = payload.live
        tidx = np.array([self._placement.tidx[int(t)] for t in threads], np.uint32)
        g.tidx = g.splat(tidx)
        return g

    def _clobbered(self, g: Group, groups: list[Group]) -> Group:
        """4.2: overwrite the accumulators of threads if another thread of their QPU has run since their switch."""
        if g.switched < 0:
            return g
        since, g.switched = g.switched, -1
        qpus, slots = self._placement.qpus, len(self._dispatch.slots)
        if min(self._placement.started, self._placement.capacity) <= qpus:
            return g
        ready = np.zeros(self._placement.capacity, np.bool_)
        for other in groups:
            ready[other.threads] = True
        lost = np.zeros(g.n, np.bool_)
        for slot in range(slots):
            other_threads = g.threads % qpus + slot * qpus
            different = other_threads != g.threads
            later = (self._ran[other_threads] == since) & (other_threads > g.threads)
            lost |= different & (
                (self._ran[other_threads] > since) | later | (ready[other_threads] & (other_threads < g.threads))
            )
        if lost.any():
            pattern = np.full(LANES, CLOBBERED, np.uint32)
            for k in range(ACC, ACC + 6):
                g.regs[k] = pattern if lost.all() else np.where(lost[:, None], pattern, g.regs[k])
        return g

    def _release(self) -> None:
        """Make the threads ready whose barrier is complete."""
        if not self._waiting:
            return
        full = self._placement.release()
        if not full:
            return
        waiting, self._waiting = self._waiting, []
        for g in waiting:
            go = np.isin(g.supergroups, list(full))
            if go.all():
                g.sync = None
                self._ready.append(g)
                continue
            self._services.flush(g)
            if go.any():
                freed = g.take(np.flatnonzero(go))
                freed.sync = None
                self._ready.append(freed)
                g = g.take(np.flatnonzero(~go))
            self._waiting.append(g)

    def _stuck(self) -> EmuFault:
        self._services.prepared = None
        return self._deadlocked(self._waiting[0] if self._waiting else None)

    # -- segments

    def _run_segment(self, g: Group) -> None:
        """Run the threads of a group to their suspension points. The threads may diverge and join again."""
        work = [g]
        while work:
            if len(work) > 1:
                # The group with the lowest program counter runs; groups at the same point join.
                work.sort(key=lambda w: (-w.pc, -int(w.threads[0])))
                while len(work) > 1 and work[-1].key == work[-2].key:
                    a, b = work.pop(), work.pop()
                    self._services.flush(a)
                    self._services.flush(b)
                    work.append(Group.join([a, b]))
            g = work.pop()
            meet = min((w.pc for w in work if w.pc > g.pc), default=1 << 32)
            work += self._run_group(g, meet)

    def _run_group(self, g: Group, meet: int) -> list[Group]:
        """Run until the threads suspend, diverge, or reach others at `meet`. Returns: the groups that continue."""
        code, x, budget = self._code, self._services, self._budget
        tracing = self._trace is not None
        x.group = g
        while True:
            c = code.get(g.pc) or self._fetch(g)
            p = c.prepared
            x.prepared = p
            if p.before and g.busy:
                self._check_slots(g, p)
            if c.special:
                if g.count - g.begun >= budget or self._stop.pending:
                    g.ordered = False
                    self._suspend(g)
                    return []
                if p.starts_request:
                    parts = self._before_request(g, p)
                    if parts is not None:
                        return parts
            c.hits += g.n
            split: list[Group] | None = self._traced(c, g) if tracing else c.step(g, x)
            if split is not None:
                for part in split:
                    part.count += 1
                    part.previous = p
                return [part for part in split if not self._advance(part)]
            g.count += 1
            g.previous = p
            if p.thrsw:
                self._switch_signal(g)
            if g.busy:
                if self._advance(g):
                    return []
            else:
                g.pc += 8
            if g.pc >= meet:
                return [g]

    def _fetch(self, g: Group) -> Code:
        """Decode the instruction at the program counter, at its first execution."""
        x, memory, pc = self._services, self.machine.memory, g.pc
        x.prepared = None
        if not 0 <= pc < memory.size or memory.region_at(pc) is None:
            x.fault(g, "code-out-of-bounds", pc)
        word = x.snapshot.word(pc) | x.snapshot.word(pc + 4) << 32
        p = prepare(self.isa, word)
        x.prepared = p
        if p.problem is not None:
            x.fault(g, *p.problem)
        if self._dispatch.threads == 4 and p.max_rf >= 32:
            x.hazard(g, "register-range", p.max_rf)
        code = Code(p, build(p), p.starts_request or p.branch)
        self._code[pc] = code
        return code

    def _before_request(self, g: Group, p: Prepared) -> list[Group] | None:
        """Split the threads by configuration byte, and suspend them before an atomic. None: the request can start."""
        x = self._services
        request, config = x.coming_request(g, p)
        if request is None:
            x.flush(g)
            low = each(config, g.n) & np.uint32(0xFF)
            parts: list[Group] = []
            for byte in np.unique(low).tolist():
                part = g.take(np.flatnonzero(low == np.uint32(byte)))
                part.parted = byte + 1
                parts.append(part)
            return parts
        if request.action is Action.ATOMIC and g.count != g.begun:
            g.ordered = True
            self._suspend(g)
            return []
        g.ordered = False
        g.parted = 0
        return None

    # -- delayed effects

    def _check_slots(self, g: Group, p: Prepared) -> None:
        """Check the rules about pending effects before an instruction executes."""
        x = self._services
        switch, branch = bool(g.switches) or g.ending > 0, g.branch_left > 0
        for rule, message in broken(p, pending(self.isa, late=g.late_left == 1, switch=switch, branch=branch)):
            if p.branch and branch:
                x.fault(g, rule, message)
            x.hazard(g, rule, message)

    def _switch_signal(self, g: Group) -> None:
        """Start the countdown of a thrsw, which takes effect after its delay slots."""
        g.busy = True
        single = self._dispatch.single_segment
        g.switches, g.last, g.ending = after_thrsw(g.switches, g.last, g.ending, single_segment=single)

    def _advance(self, g: Group) -> bool:
        """Advance the program counter and the countdowns; True when the segment ends."""
        g.pc += 8
        if g.late_left:
            g.late_left -= 1
            if not g.late_left:
                g.regs[ACC + 4] = np.where(g.late_on, g.late, g.regs[ACC + 4])
        if g.branch_left:
            g.branch_left -= 1
            if not g.branch_left:
                g.pc = g.target
        switched = False
        if g.switches:
            left = tuple(n - 1 for n in g.switches)
            switched = left[0] == 0
            g.switches = left[1:] if switched else left
        ended = False
        if g.ending:
            g.ending -= 1
            ended = not g.ending
        g.busy = bool(g.late_left or g.branch_left or g.switches or g.ending)
        if ended:
            self._end(g)
        elif switched:
            self._switch(g)
        return ended or switched

    def _suspend(self, g: Group) -> None:
        self._services.flush(g)
        self._ready.append(g)

    def _switch(self, g: Group) -> None:
        """Perform a thread switch."""
        x = self._services
        x.flush(g)
        self.stats.thread_switches += g.n
        g.rtop = _LANES.const(0)
        p = x.prepared
        if self.isa is Isa.V3D71 and g.rf0_volatile and p is not None and p.addressed_signal:
            g.regs[0] = np.full(LANES, CLOBBERED, np.uint32)
        g.switched = self._round
        if g.sync is None:
            self._ready.append(g)
            return
        stop = g.sync
        if not stop.all():
            self._ready.append(g.take(np.flatnonzero(~stop)))
            g = g.take(np.flatnonzero(stop))
        for t in g.threads:
            self._placement.arrive(int(t))
        self._waiting.append(g)

    def _end(self, g: Group) -> None:
        """End the program in all threads of the group."""
        x = self._services
        x.flush(g)
        if g.results:
            x.warn(g, "tmu-unpopped", len(g.results))
        if g.sync is not None:  # the barrier waits at the last switch, which is the end: they have arrived (assumed)
            for t in g.threads[g.sync]:
                self._placement.arrive(int(t))
        for t in g.threads:
            self._placement.finish(int(t))

    # -- trace

    def _traced(self, c: Code, g: Group) -> list[Group] | None:
        trace, x = self._trace, self._services
        assert trace is not None
        before, a, b, pc, n = list(g.regs), g.a, g.b, g.pc, g.n
        threads = g.threads
        result: list[Group] | None = c.step(g, x)
        index = (pc - self._dispatch.code) // 8
        text = disassembly(self.isa, c.prepared.word)
        changed = [
            (f"rf{k}" if k < ACC else f"r{k - ACC}", old, new)
            for k, (old, new) in enumerate(zip(before, g.regs, strict=True))
            if old is not new
        ]
        if g.late_left == 1:  # an SFU result is written to r4 before the next instruction
            changed.append(("r4", g.regs[ACC + 4], np.where(g.late_on, g.late, g.regs[ACC + 4])))
        for name, old_flag, new_flag in (("a", a, g.a), ("b", b, g.b)):
            if old_flag is not new_flag:
                changed.append((name, old_flag.astype(np.uint32), new_flag.astype(np.uint32)))
        for row in range(n):
            thread = int(threads[row])
            qpu, slot = self._placement.qpu(thread), self._placement.slot(thread)
            changes: dict[str, list[int]] = {}
            if trace.registers and trace.wants(qpu, slot, index):
                for name, old, new in changed:
                    was, now = np.broadcast_to(old, (n, LANES))[row], np.broadcast_to(new, (n, LANES))[row]
                    if (was != now).any():
                        changes[name] = now.tolist()
            trace.add(qpu=qpu, thread=slot, step=g.count, index=index, word=c.prepared.word, text=text, changes=changes)
        return result
