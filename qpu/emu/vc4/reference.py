"""The reference engine of VideoCore IV, and the scheduler of both engines.

The scheduler decides which QPUs execute together, which wait, and which come next. QPUs with one program counter
execute as one group, lowest program counter first, so that diverging paths meet again. The time slice of a QPU ends
when it waits (mutex, semaphore), yields (mutex release, semaphore, DMA wait) or has spent its budget; new slices start
when those of all QPUs have ended. The order depends on nothing else, neither on the host nor on how a run is divided
into calls.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.core.deferred_signals import CriticalSection, critical, run_pending
from qpu.core.isa import Isa
from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.numpy_lanes import U32, quiet
from qpu.emu.vc4.alu import BRANCH_SLOTS, END_SLOTS, SWITCH_SLOTS
from qpu.emu.vc4.chip import Chip
from qpu.emu.vc4.faults import Level, Reporter, disassemble, fault, place
from qpu.emu.vc4.fetch import Block, Code
from qpu.emu.vc4.hazards import broken_rule, keep_old, restore
from qpu.emu.vc4.prepare import COUNTS, FILES, Plan, over_branch
from qpu.emu.vc4.reference_execute import ReferenceThread
from qpu.emu.vc4.state import BUS_MASK, CLOCKS_PER_INSTRUCTION, Bank, Flag, Group, Qpu, Status
from qpu.emu.vc4.tmu import Queues
from qpu.emu.vc4.units import Units
from qpu.errors import EmuFault
from qpu.vc4.instr import Semaphore

__all__ = ["TIME_SLICE", "ReferenceExecution", "Stretch", "Vc4ReferenceMachine"]

TIME_SLICE = 1024  # instructions of a time slice


class _Cycle:
    """A detector of endless loops: the same machine state occurs again, with nothing read or written in between."""

    __slots__ = ("_bank", "_control", "_limit", "_slices")

    def __init__(self) -> None:
        self._control: tuple[object, ...] = ()
        self._bank: list[NDArray[Any]] = []
        self._limit = 1
        self._slices = 0

    def closed(self, control: tuple[object, ...], bank: Bank) -> bool:
        """Whether the state equals the saved one; called once per time slice. control: all state but the registers.

        The state is saved anew after 1, 2, 4, 8, ... time slices.
        """
        arrays = bank.arrays
        if control == self._control and all(map(np.array_equal, arrays, self._bank)):
            return True
        self._slices += 1
        if self._slices >= self._limit:
            self._slices, self._limit = 0, 2 * self._limit
            self._control, self._bank = control, [x.copy() for x in arrays]
        return False


class Stretch:
    """Control state of a running group: the control state of `Qpu`, held once for all members."""

    __slots__ = ("branch_left", "end_left", "ended", "history", "jumped", "pc", "switch_left", "taken", "target")

    def __init__(self, g: Group) -> None:
        first = g.qpus[0]
        self.ended = False
        self.jumped: list[bool] = []  # which members took the branch that took effect last
        self.pc, self.branch_left, self.end_left, self.switch_left = first.key
        one, two, three = first.history
        for q in g.qpus[1:]:
            # The members came here on different paths: only effects that all of them had count.
            one, two, three = one & q.history[0], two & q.history[1], three & q.history[2]
        self.history = (one, two, three)
        self.taken: Flag = np.array([q.branch_taken for q in g.qpus], np.bool_)
        self.target = np.array([q.branch_target for q in g.qpus], np.int64)

    def save(self, q: Qpu, i: int, pc: int) -> None:
        """Store into member `i`."""
        q.pc = pc
        q.branch_left, q.end_left, q.switch_left = self.branch_left, self.end_left, self.switch_left
        q.branch_taken, q.branch_target = bool(self.taken[i]), int(self.target[i])
        q.history = self.history


class ReferenceExecution:
    """One launch on the reference engine (`qpu.emu.engine.machine.Vc4Execution`).

    units: the class of its units. bank, queues: registers and results of the TMUs, which an earlier launch may have
    left; None: new ones.
    """

    units: type[Units] = Units

    def __init__(
        self,
        chip: Chip,
        entries: Sequence[tuple[int, int]],
        *,
        bank: Bank | None = None,
        queues: Queues | None = None,
    ) -> None:
        self.stats = RunStats(Isa.VC4)
        qpus, memory, trace = chip.profile.qpus, chip.memory, chip.trace
        self._entries = [(u & 0xFFFFFFFF, c & 0xFFFFFFFF) for u, c in entries]
        self._strict = chip.strict
        self._memory = memory
        self._sync = chip.sync
        self._faults = Reporter(chip.profile.name, memory, self.stats, strict=chip.strict)
        self._bank = Bank(qpus) if bank is None else bank
        self._bank.begin()
        self._qpus = [Qpu(q) for q in range(qpus)]
        self._units = self.units(qpus, memory, self.stats, self._faults, chip.vpm, chip.sync, queues)
        self._code = Code(memory)
        self._next = 0
        self._finished = 0
        self._counts = [0] * len(COUNTS)
        self._fault: EmuFault | None = None
        self._hung: EmuFault | None = None
        self.open_ended = False  # `extend` may still add programs that release waiting QPUs
        self._idle = 0  # clocks that have passed since the run hung
        self._cycle = _Cycle()
        self._trace = trace
        chip.sync.begin()
        if trace is not None:
            trace.begin()
        self._fill()

    # -- the Execution interface
    @property
    def clocks(self) -> int:
        """Emulated clocks since the start: those of the busiest QPU, as far as the calls of `run` have come."""
        return self.stats.clocks

    def _now(self) -> int:
        """Emulated clocks since the start."""
        return max([q.clock for q in self._qpus]) + self._idle

    @property
    def done(self) -> bool:
        """Whether all programs have ended."""
        return self._finished == len(self._entries)

    @property
    def batches_done(self) -> int:
        """Programs that have ended."""
        return self._finished

    @property
    def host_interrupts(self) -> int:
        """Writes of non-zero values to the host interrupt register."""
        return self._units.host_interrupts

    def run(self, clocks: int | None = None) -> bool:
        """Advance by about `clocks` emulated clocks (None: to the end); True when all programs have ended.

        Raises: EmuFault; later calls raise it again. When the run can never end (`stuck`), the clock advances and the
        result is False; without a limit the call raises. KeyboardInterrupt, and any other exception of a signal
        handler, leaves a state that can be resumed.
        """
        limit = None if clocks is None else self.clocks + clocks
        while True:
            stop = critical()
            try:
                with stop:
                    self._run(limit, stop)
            finally:
                run_pending()
            if self.done or not stop.pending:
                break
        if self._hung is not None:
            if limit is None:
                raise self._hung
            self._idle += max(0, limit - self.clocks)
            self.stats.clocks = self._now()
        return self.done

    def _run(self, limit: int | None, stop: CriticalSection) -> None:
        """Run until the clock reaches `limit`, or a signal is pending."""
        if self._fault is not None:
            raise self._fault
        started = time.perf_counter()
        try:
            with quiet():
                self._advance(limit, stop)
        except EmuFault as found:
            self._fault = found
            raise
        finally:
            self.stats.execute_s += time.perf_counter() - started
            self._publish()

    @property
    def stuck(self) -> bool:
        """Whether it is known that this run never ends: a lenient deadlock, or a loop that changes nothing."""
        return self._hung is not None

    def extend(self, entries: Sequence[tuple[int, int]]) -> None:
        """Add programs for QPUs as they become free; the register interface queues them while others run.

        A launch that hung (`stuck`) continues: the new programs may release the QPUs that wait.
        """
        self._entries += [(u & 0xFFFFFFFF, c & 0xFFFFFFFF) for u, c in entries]
        self._hung = None
        self._cycle = _Cycle()
        if any(q.status == Status.FREE for q in self._qpus):
            self._fill()

    def withdraw(self) -> int:
        """Drop the programs that no QPU has started; returns their number."""
        dropped = len(self._entries) - self._next
        del self._entries[self._next :]
        return dropped

    def standing(self) -> list[int]:
        """The next instructions of the programs that have begun and not ended."""
        return [(q.pc - q.entry) >> 3 for q in self._qpus if q.status != Status.FREE]

    @property
    def hung(self) -> EmuFault | None:
        """The fault that says why this run never ends; None unless that is known."""
        return self._hung

    # -- scheduling
    def _advance(self, limit: int | None, stop: CriticalSection) -> None:
        qpus = self._qpus
        while not self.done and self._hung is None:
            ready = [q for q in qpus if q.status == Status.READY]
            if not ready:
                self._next_slice()
                continue
            if stop.pending or (limit is not None and self._now() >= limit):
                return
            if self._run_native(ready, limit):
                continue
            key = min(q.key for q in ready)
            members = [q.number for q in ready if q.key == key]
            meet = min((q.pc for q in ready if q.pc > key[0]), default=None)
            self._run_group(Group(members, qpus, self._bank), meet)

    def _run_native(self, ready: list[Qpu], limit: int | None) -> bool:
        """Run QPUs as native code; whether any could run. The compiled engine overrides this method."""
        return False

    def _next_slice(self) -> None:
        """Start new time slices, or detect that no QPU can ever continue."""
        started = self._fill()
        waiting = []
        spinning = []
        for q in self._qpus:
            q.spent = 0
            if q.status == Status.YIELDED:
                q.status = Status.READY
                spinning.append(q)
            elif q.status == Status.BLOCKED:
                waiting.append(q)
        if not started and not spinning and waiting:
            self._deadlock(waiting)
        elif spinning and self._cycle.closed(self._control(), self._bank):
            self._endless(spinning[0])

    def _control(self) -> tuple[object, ...]:
        """All state but the registers, and the counts of everything that was read or written outside the QPUs."""
        stats = self.stats
        traffic = (
            stats.tmu_requests,
            stats.uniform_bytes,
            stats.vpm_read_bytes,
            stats.vpm_write_bytes,
            stats.dma_read_bytes,
            stats.dma_write_bytes,
            self.host_interrupts,
        )
        qpus = tuple((q.status, *q.key, q.branch_taken, q.branch_target, q.history) for q in self._qpus)
        return traffic, qpus, self._finished, self._next, tuple(self._sync.counters), self._sync.holder

    def _endless(self, q: Qpu) -> None:
        text = (
            "the program repeats the same instructions with the same registers and accesses nothing else: it never ends"
        )
        self._hung = fault("endless-loop", text, place(self._faults.board, self._memory, q, q.pc))

    def _deadlock(self, waiting: list[Qpu]) -> None:
        lines = []
        for q in waiting:
            reason = q.blocked_on
            holder = self._sync.holder
            if reason == "mutex" and holder is not None:
                state = "has ended" if holder.status == Status.FREE else "is waiting too"
                reason = f"the mutex, which QPU {holder.number} holds; that QPU {state}"
            lines.append(f"QPU {q.number} (instruction {(q.pc - q.entry) >> 3}) waits for {reason}")
        first = waiting[0]
        where = place(self._faults.board, self._memory, first, first.pc)
        dead = fault("deadlock", "no QPU can continue: " + "; ".join(lines), where)
        if not self.open_ended:
            if self._strict:
                raise dead
            self.stats.faults.append(str(dead))
        self._hung = dead

    def _fill(self) -> bool:
        """Start waiting programs on free QPUs, first on the QPU that has been free the longest."""
        started = False
        free = [q for q in self._qpus if q.status == Status.FREE]
        if self._next:
            free.sort(key=lambda q: (q.clock, q.number))
        for q in free:
            if self._next >= len(self._entries):
                break
            uniforms, code = self._entries[self._next]
            if q.program >= 0:
                self._bank.undefine(q.number)
            q.program = self._next
            self._next += 1
            q.start(code)
            self._bank.uniform[q.number] = uniforms & (BUS_MASK & ~3)
            self._units.reset(q.number)
            self.stats.threads += 1
            started = True
        return started

    # -- execution
    def _block(self, g: Group, pc: int) -> Block:
        block = self._code.block(pc)
        if block is None:
            g.pc = pc
            if pc % 8:
                text = f"instruction fetch at 0x{pc:08x}, which is not a multiple of 8"
                self._faults.report(Level.STOP, "unaligned-code", text, g, address=pc)
            raise self._faults.out_of_bounds("instruction fetch", pc, g, 0)
        return block

    def _run_group(self, g: Group, stop: int | None) -> None:
        """Execute a group until it waits, splits, ends, reaches `stop` or has spent its budget."""
        state = Stretch(g)
        budget = TIME_SLICE - max(q.spent for q in g.qpus)
        while True:
            block = self._block(g, state.pc)
            count = min(len(block.steps), budget)
            if stop is not None and stop > state.pc:
                count = min(count, (stop - state.pc) >> 3)
            left, done = self._run_block(g, state, block, count)
            if left is None:
                return
            g = left
            budget -= done
            if budget <= 0 or state.pc == stop:
                self._leave(g, state, [state.pc] * g.n, Status.YIELDED if budget <= 0 else Status.READY)
                return

    def _leave(self, g: Group, state: Stretch, pcs: Sequence[int], status: int) -> None:
        for i, q in enumerate(g.qpus):
            state.save(q, i, pcs[i])
            q.status = status

    def _run_block(self, g: Group, state: Stretch, block: Block, count: int) -> tuple[Group | None, int]:
        """Execute the first `count` instructions of a block, or fewer when the group jumps, waits or ends.

        Returns: the group that continues at `state.pc`, or None when all members have left it; instructions executed.
        """
        steps, base = block.steps, state.pc
        faults, lenient, trace = self._faults, not self._strict, self._trace
        one, two, three = state.history
        thread = ReferenceThread(g, self._units)
        first = k = 0  # the statistics cover instructions up to `first`
        try:
            while k < count:
                step = steps[k]
                plan = step.plan
                g.pc = base + 8 * k
                if plan.checked:
                    self._check(g, plan)
                if plan.blocks:
                    passed = self._acquire(g, plan)
                    if len(passed) < g.n:
                        state.history = one, two, three
                        self._count(g, block, first, k)
                        first = k
                        rest = self._split(g, state, passed)
                        if rest is None:
                            return None, k
                        g = rest
                        thread = ReferenceThread(g, self._units)
                    g.suspend = isinstance(plan.instr, Semaphore)
                patch = None
                if (plan.forbid1 & one) | (plan.forbid2 & two) | (plan.forbid3 & three):
                    patch = broken_rule(faults, g, plan, (one, two, three))
                if lenient and plan.effects & FILES:
                    keep_old(g, plan)
                before = None if trace is None else self._registers(g)
                cancel = patch is not None and patch.cancel
                if not cancel:
                    step.execute(thread, plan)
                if patch is not None:
                    restore(g, patch)
                k += 1
                g.done += 1
                one, two, three = plan.effects, one, two
                if g.sfu_live:
                    g.tick_sfu()
                if before is not None:
                    self._record(g, plan, before)
                if not (state.branch_left or state.end_left or state.switch_left or plan.redirects or g.suspend):
                    continue
                if cancel:
                    state.branch_left = 0
                    continue
                following = base + 8 * k
                jump = self._redirect(g, state, plan, following)
                if state.ended:
                    self._count(g, block, first, k)
                    first = k
                    self._end(g)
                    return None, k
                if jump is None and not g.suspend:
                    continue
                self._count(g, block, first, k)
                first = k
                state.history = one, two, three
                pcs = [following] * g.n if jump is None else jump
                taken = [False] * g.n if jump is None else state.jumped
                landed = over_branch(one), two, three
                if g.suspend or len(set(pcs)) > 1:
                    self._leave(g, state, pcs, Status.YIELDED if g.suspend else Status.READY)
                    for q, jumped in zip(g.qpus, taken, strict=True):
                        if jumped:
                            q.history = landed
                    return None, k
                state.pc = pcs[0]
                if all(taken):
                    state.history = landed
                return g, k
            state.history = one, two, three
            state.pc = base + 8 * k
            return g, k
        finally:
            self._count(g, block, first, k)

    def _redirect(self, g: Group, state: Stretch, plan: Plan, following: int) -> list[int] | None:
        """Count the delay slots down after an instruction. Returns: the members' next addresses when a branch takes
        effect now, else None."""
        jump: list[int] | None = None
        if state.branch_left:
            state.branch_left -= 1
            if not state.branch_left:
                jump = [int(x) for x in np.where(state.taken, state.target, following)]
                state.jumped = state.taken.tolist()
        if plan.is_branch:
            state.branch_left = BRANCH_SLOTS
            state.taken, state.target = g.branch_taken, g.branch_target
        if state.end_left:
            state.end_left -= 1
            state.ended = not state.end_left
        elif plan.ends:
            state.end_left = END_SLOTS
        if state.switch_left:
            state.switch_left -= 1
            if not state.switch_left:
                for q in g.ids:
                    self._bank.lose_accumulators(q)
                g.suspend = True
        elif plan.switches:
            state.switch_left = SWITCH_SLOTS
        return jump

    def _check(self, g: Group, plan: Plan) -> None:
        """Report the issues of an instruction by itself."""
        for level, rule, message in plan.issues:
            self._faults.report(level, rule, message, g)
        if plan.s_with_uniform is not None:
            for i, q in enumerate(g.ids):
                if self._units.tmu.texturing(q, plan.s_with_uniform):
                    text = "a texture write takes a uniform of its own and cannot be combined with a uniform read"
                    self._faults.report(Level.UNKNOWN, "H23", text, g, i)

    def _acquire(self, g: Group, plan: Plan) -> list[int]:
        """Positions of the members that get the mutex or semaphore now; the others are blocked."""
        instr, sync = plan.instr, self._sync
        if isinstance(instr, Semaphore):
            return [i for i, q in enumerate(g.qpus) if sync.semaphore(q, instr.number, instr.acquire, g.clock(i))]
        return [i for i, q in enumerate(g.qpus) if sync.acquire_mutex(q, g.clock(i))]

    def _split(self, g: Group, state: Stretch, passed: list[int]) -> Group | None:
        """Remove the members that are blocked at `g.pc`. Returns: the other members as a group, or None."""
        kept = set(passed)
        for i, q in enumerate(g.qpus):
            if i not in kept:
                state.save(q, i, g.pc)
        if not passed:
            return None
        rest = Group([g.ids[i] for i in passed], self._qpus, self._bank)
        rest.pc = g.pc
        state.taken, state.target = state.taken[passed], state.target[passed]
        rest.wrote_a, rest.wrote_b = (None if x is None else x[passed] for x in (g.wrote_a, g.wrote_b))
        rest.old_a, rest.old_b = (None if x is None else x[passed] for x in (g.old_a, g.old_b))
        return rest

    def _end(self, g: Group) -> None:
        """End the members' programs, and report what they have not released or collected."""
        for i, q in enumerate(g.qpus):
            q.status = Status.FREE
            self._finished += 1
            if self._sync.holder is q:
                self._faults.report(Level.WARN, "mutex-held", "the program ends holding the mutex", g, i)
            pending = sum(self._units.tmu.outstanding(q.number))
            if pending:
                text = f"the program ends with {pending} TMU results uncollected"
                self._faults.report(Level.WARN, "tmu-uncollected", text, g, i)
            unread = self._units.vpm.unread(q.number)
            if unread:
                text = f"the program ends with {unread} vectors of a VPM read set-up unread"
                self._faults.report(Level.WARN, "H25", text, g, i)

    # -- statistics and trace
    def _count(self, g: Group, block: Block, first: int, last: int) -> None:
        """Account for instructions first..last-1 of a block."""
        n = last - first
        if n <= 0:
            return
        counts = self._counts
        for at, (x, y) in enumerate(zip(block.totals[last], block.totals[first], strict=True)):
            counts[at] += (x - y) * g.n
        per_qpu = self.stats.per_qpu
        for q in g.qpus:
            q.clock += n * CLOCKS_PER_INSTRUCTION
            q.steps += n
            q.spent += n
            per_qpu[q.number] = per_qpu.get(q.number, 0) + n
        g.done = 0

    def _publish(self) -> None:
        for name, value in zip(COUNTS, self._counts, strict=True):
            setattr(self.stats, name, value)
        self.stats.clocks = self._now()

    def _registers(self, g: Group) -> list[tuple[str, U32]]:
        """Copies of all registers of the group; empty unless the trace records register changes."""
        if self._trace is None or not self._trace.registers:
            return []
        bank, sel = self._bank, g.sel
        copies = [(f"ra{n}", bank.a[n][sel].copy()) for n in range(32)]
        copies += [(f"rb{n}", bank.b[n][sel].copy()) for n in range(32)]
        copies += [(f"r{n}", bank.acc[n][sel].copy()) for n in range(6)]
        flags = (("z", bank.z), ("n", bank.neg), ("c", bank.c))
        return copies + [(name, flag[sel].astype(np.uint32)) for name, flag in flags]

    def _record(self, g: Group, plan: Plan, before: list[tuple[str, U32]]) -> None:
        trace = self._trace
        assert trace is not None
        after = self._registers(g)
        text = disassemble(plan.word)
        for i, q in enumerate(g.qpus):
            changes = {
                name: new[i].tolist()
                for (name, old), (_, new) in zip(before, after, strict=True)
                if (old[i] != new[i]).any()
            }
            step = q.steps + g.done - 1
            trace.add(qpu=q.number, thread=0, step=step, index=g.index(i), word=plan.word, text=text, changes=changes)


class Vc4ReferenceMachine(Chip):
    """A chip on the reference engine."""

    def launch(self, entries: Sequence[tuple[int, int]]) -> ReferenceExecution:
        """Start programs; they advance when the execution's `run` is called.

        entries: (uniforms, code) bus addresses; uniforms 0 means none. Entry i starts on QPU i; those beyond the
        number of QPUs wait for one to become free. Only one launch may run at a time.
        """
        return ReferenceExecution(self, entries)
