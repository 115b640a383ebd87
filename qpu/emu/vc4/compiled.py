"""The compiled engine of VideoCore IV: runs programs as machine code, chain by chain, on several host threads.

The reference engine is the scheduler. It also executes and reports instructions that affect other QPUs (semaphores,
program ends, waits for the mutex), that break a rule, or that fault. A QPU changes engine only where that is faster.

Order: QPUs run in parallel until each needs the reference engine, has spent its time slice (`FIRST_CHUNK`, doubled up
to `CHUNK`) or is about to write the VPM or memory or to take or release the mutex. When all QPUs have stopped, those
accesses are performed, one QPU after the other in the order of their numbers; the release of the mutex ends a time
slice. So a program leaves the same memory and counts on every run, on any number of host cores and however a run is
divided into calls. If its QPUs do not race, the reference engine leaves the same. In a race (a QPU reads what another
stores, and neither a semaphore nor the mutex orders them) the engines may differ. Where several QPUs fault or wait, the
engines may also report a different one first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.directed import Floats
from qpu.emu.engine.memory import Memory
from qpu.emu.engine.native import Interrupted
from qpu.emu.engine.numpy_lanes import LANES
from qpu.emu.engine.workers import Workers, cores
from qpu.emu.vc4.chip import Chip, Profile
from qpu.emu.vc4.compiled_programs import MAX_NANS, Program, program_at
from qpu.emu.vc4.prepare import COUNTS
from qpu.emu.vc4.reference import TIME_SLICE, ReferenceExecution, Stretch
from qpu.emu.vc4.state import CLOCKS_PER_INSTRUCTION, Bank, Group, Qpu, Status
from qpu.emu.vc4.tmu import FIFO_DEPTH
from qpu.emu.vc4.translate_graph import breaks
from qpu.emu.vc4.translate_state import COUNTERS, NO_PITCH, Reason, Slot
from qpu.emu.vc4.vpm import Port, Setups
from qpu.emu.vc4.vpm_setup import (
    ROWS,
    GenericSetup,
    LoadSetup,
    StoreSetup,
    load_geometry,
    parse_read_setup,
    parse_write_setup,
    store_geometry,
)

__all__ = ["Vc4CompiledMachine"]

FIRST_CHUNK, CHUNK = 1 << 12, 1 << 18  # instructions of a native time slice
SHORT, LONG = 1 << 18, 1 << 22  # clocks of a step
SERIAL = 4096  # instructions a QPU executes alone from a pending store on, before the others continue
PARALLEL = 25_000  # native instructions that a round is expected to have from which on several host threads save time


_REASONS = tuple(Reason)  # by number
_LEFT, _CLOCK, _RELEASED, _STORE_UNTIL, _LOAD_UNTIL, _DMA_BYTES, _DMA_LOADED, _READ_LESS, _WRITE_LESS = (
    slot // 2  # in 64-bit words
    for slot in (
        Slot.LEFT, Slot.CLOCK, Slot.RELEASED, Slot.STORE_UNTIL, Slot.LOAD_UNTIL, Slot.DMA_BYTES, Slot.DMA_LOADED,
        Slot.READ_LESS, Slot.WRITE_LESS,
    )
)  # fmt: skip


class _States:
    """State blocks of all QPUs, and the reference engine's registers and queues as views into them.

    One launch uses them after the other: making them takes longer than a short launch does.
    """

    def __init__(self, n: int) -> None:
        size = int(Slot.WORDS)
        raw = np.zeros(n * size + 16, np.uint32)
        skip = -raw.ctypes.data % 64 // 4
        self.words: NDArray[np.uint32] = raw[skip : skip + n * size].reshape(n, size)
        self.wide: NDArray[np.int64] = self.words.view(np.int64)
        self.words[:, Slot.QPU] = np.arange(n)
        self.pointers = [self.words[q].ctypes.data for q in range(n)]
        # The same words as memory views: single words are much faster to access than in an array.
        self.fast = [memoryview(self.words[q]) for q in range(n)]
        self.fast_wide = [memoryview(self.wide[q]) for q in range(n)]
        self.bank = self._bank(n)
        s = Slot
        results = self.words[:, s.FIFO : s.FIFO + 2 * FIFO_DEPTH * LANES].reshape(n, 2, FIFO_DEPTH, LANES)
        self.queues = (
            results.transpose(1, 0, 2, 3),
            self.wide[:, s.HEAD // 2 : s.HEAD // 2 + 2].T,
            self.wide[:, s.COUNT // 2 : s.COUNT // 2 + 2].T,
        )

    def _bank(self, n: int) -> Bank:
        s = Slot
        flags = self.words.view(np.bool_)
        bank = Bank(n)
        bank.place(self.words[:, s.A : s.A + 70 * LANES].reshape(n, 70, LANES).transpose(1, 0, 2))
        bank.sfu_value = self.words[:, s.SFU : s.SFU + LANES]
        bank.z = flags[:, 4 * s.Z : 4 * s.Z + LANES]
        bank.neg = flags[:, 4 * s.N : 4 * s.N + LANES]
        bank.c = flags[:, 4 * s.C : 4 * s.C + LANES]
        bank.latch_a = self.words[:, s.LATCH_A : s.LATCH_A + 4]
        bank.latch_b = self.words[:, s.LATCH_B : s.LATCH_B + 4]
        bank.latch_mul = self.words[:, s.LATCH_MUL : s.LATCH_MUL + 4]
        bank.uniform = self.words[:, s.UNIFORM]
        return bank


class CompiledVc4Execution(ReferenceExecution):
    """One launch on the compiled engine (`qpu.emu.engine.machine.Vc4Execution`).

    workers: host threads. states: what a launch that has ended left; None: new state blocks.
    """

    def __init__(
        self, chip: Chip, entries: Sequence[tuple[int, int]], workers: int, states: _States | None = None
    ) -> None:
        self._states = _States(chip.profile.qpus) if states is None else states
        super().__init__(chip, entries, bank=self._states.bank, queues=self._states.queues)
        qpus, memory, vpm = chip.profile.qpus, chip.memory, chip.vpm
        self.stats.engine = "compiled"
        self._by_code: dict[int, Program | None] = {}
        self._began: dict[int, tuple[float, int, int]] = {}
        self._setups: list[Setups | None] = [None] * qpus  # VPM and DMA set-ups that the state blocks hold
        self._stale: set[int] = set()  # QPUs whose set-ups native code changed: those of the port are older
        self._chunk = [FIRST_CHUNK] * qpus  # native time slice; grows while a QPU spends all of it
        self._slice = [FIRST_CHUNK] * qpus  # what remains of the current time slice
        self._budget = [FIRST_CHUNK] * qpus  # instructions of the current native call
        self._hold = [0] * qpus  # instructions the reference engine is to execute before native code is tried again
        self._before: dict[int, int] = {}  # QPU with a pending store -> node where it continues
        self._workers = workers
        self._crew = Workers(workers)
        self._counters: dict[int, list[NDArray[np.int64]]] = {}  # program -> executions of chains, by worker
        self._addresses: dict[int, list[int]] = {}  # program -> addresses of those counters
        self._pages = memory.pages
        self._fixed = memory.pointer, memory.pages.ctypes.data, memory.size, vpm.words.ctypes.data
        self._lengths: dict[tuple[int, int], int] = {}  # instructions of the last call from (program, node)
        self._ran = [0] * qpus  # instructions of native code that the statistics do not have yet
        self._native = 0
        self._renumbered = False  # a program was translated again: earlier numbers are invalid
        self._vpm_free = vpm.reserved >= ROWS

    @property
    def slice(self) -> int:
        """Clocks of a step that takes milliseconds of the host: many if most instructions were native so far."""
        return LONG if 2 * self._native > self.stats.instructions else SHORT

    def left(self) -> _States | None:
        """The state blocks, which another launch may use if this one has ended as it should; else None."""
        return self._states if self.done and self._fault is None else None

    # -- programs

    def _program_of(self, q: Qpu) -> Program | None:
        if q.entry not in self._by_code:
            program = program_at(self._memory, q.entry)
            self._by_code[q.entry] = program
            if program is not None and id(program) not in self._began:
                fresh = program.executed == 0
                self._began[id(program)] = (0.0, 0, 0) if fresh else (program.translate_s, program.hits, program.misses)
        return self._by_code[q.entry]

    def _programs(self, parts: Sequence[tuple[Qpu, object]]) -> list[Program]:
        """The translated programs of some QPUs, once each."""
        found = [self._by_code[entry] for entry in {q.entry for q, _ in parts}]
        return list({id(p): p for p in found if p is not None}.values())

    def _start_of(self, q: Qpu) -> int | None:
        """The node number at which native code can continue QPU `q`; None when it cannot."""
        n = q.number
        if q.branch_left or q.end_left or q.switch_left or self._hold[n] or n in self._before:
            return None
        program = self._program_of(q)
        offset = q.pc - q.entry
        if program is None or offset % 8 or offset < 0 or self._units.tmu.collecting(n):
            return None
        situation = offset >> 3, int(self._bank.sfu_left[n]), q.history
        known = program.known
        if situation in known:
            return known[situation]
        builds = program.builds
        start = program.start(*situation, before=self._settle)
        if program.builds != builds:
            self._renumber()
        return start

    def _renumber(self) -> None:
        """Drop the numbers of nodes and counters after a program was translated again."""
        self._counters.clear()
        self._addresses.clear()
        self._lengths.clear()
        self._before.clear()  # the reference engine performs the pending stores
        self._renumbered = True

    # -- scheduling

    def _run_native(self, ready: list[Qpu], limit: int | None) -> bool:
        self._renumbered = False
        starts = [(q, start) for q in ready if (start := self._start_of(q)) is not None]
        if self._renumbered:
            return True
        if starts:
            self._run_starts(starts, limit)
        elif self._before:
            self._run_stores(ready)
        else:
            return False
        return True

    def _run_group(self, g: Group, stop: int | None) -> None:
        """Execute a group as the reference engine does, but stop where native code can continue."""
        self._refresh(g.ids)
        state = Stretch(g)
        budget = TIME_SLICE - max(q.spent for q in g.qpus)
        hold = max(self._hold[member] for member in g.ids)
        for member in g.ids:
            self._hold[member] = 0
        programs = [(q.entry, p) for q in g.qpus if (p := self._program_of(q)) is not None]
        first = programs[0] if programs else None
        at = frozenset[int]() if first is None else first[1].at
        entry = 0 if first is None else first[0]
        while True:
            block = self._block(g, state.pc)
            count = min(len(block.steps), max(1, budget))
            if stop is not None and stop > state.pc:
                count = min(count, (stop - state.pc) >> 3)
            index = (state.pc - entry) >> 3
            for k in range(max(1, hold), count):
                if index + k in at:
                    count = k
                    break
            members = g.qpus
            left, done = self._run_block(g, state, block, count)
            if first is not None:
                first[1].executed_by_reference(index, done)
            hold = max(0, hold - done)
            if left is None:
                return
            g = left
            budget -= done
            index = (state.pc - entry) >> 3
            native = False
            if first is not None and not hold and not state.branch_left and (index in at or first[1].ripe(index)):
                # An instruction that breaks a rule stays in its group: only the group has a record of the lanes
                # written.
                following = first[1].graph.plan(index)
                native = following is not None and not breaks(following, state.history)
            if budget <= 0 or state.pc == stop or native:
                for q in members:
                    self._hold[q.number] = hold
                self._leave(g, state, [state.pc] * g.n, Status.YIELDED if budget <= 0 else Status.READY)
                return

    # -- native code

    def _run_starts(self, starts: list[tuple[Qpu, int]], limit: int | None) -> None:
        """Run QPUs natively until each needs the reference engine, has spent its time slice or reaches `limit`."""
        programs = self._programs(starts)
        for program in programs:
            if program.hot:
                program.improve()
        alone = self._next >= len(self._entries) and sum(q.status != Status.FREE for q in self._qpus) == 1
        for q, number in starts:
            budget = self._slice[q.number]
            if limit is not None:
                budget = min(budget, max(1, (limit - q.clock) // CLOCKS_PER_INSTRUCTION))
            self._enter(q, number, budget, alone)
        results: dict[int, int] = {}

        def work(q: Qpu, worker: int) -> None:
            results[q.number] = self._call(q, worker)

        if self._workers > 1 and self._expected(starts) >= PARALLEL:
            for program in programs:  # made here: the threads only look them up
                self._addresses_of(program, self._workers)
            self._crew.share([q for q, _ in starts], work)
        else:
            for q, _ in starts:
                work(q, 0)
        if self._workers > 1:
            for q, number in starts:
                self._lengths[q.entry, number] = self._used(q)
        self._return_all([(q, _REASONS[results[q.number]]) for q, _ in starts])

    def _expected(self, starts: list[tuple[Qpu, int]]) -> int:
        """Instructions that QPUs will execute until they stop, if each does as the last one from its node did."""
        lengths, budget = self._lengths, self._budget
        return sum([min(budget[q.number], lengths.get((q.entry, number), 0)) for q, number in starts])

    def _run_stores(self, ready: list[Qpu]) -> None:
        """Run the QPUs with pending stores, one after the other: each performs its store and continues for a while."""
        before, self._before = self._before, {}
        done = []
        for q in ready:
            if q.number in before:
                self._enter(q, before[q.number], SERIAL, True)
                done.append((q, _REASONS[self._call(q, 0)]))
        self._return_all(done)

    def _return_all(self, results: list[tuple[Qpu, Reason]]) -> None:
        for q, reason in results:
            self._return(q, reason)
        for program in self._programs(results):
            if program.nans > MAX_NANS and program.floats is not Floats.EXACT:
                self._settle()
                fast, program.floats = program.floats, Floats.EXACT
                try:
                    program.build()
                except Interrupted:
                    program.floats = fast  # continue with the existing translation and retry later
                else:
                    self._renumber()

    def _addresses_of(self, program: Program, workers: int) -> list[int]:
        """Addresses of the counters of a program's chains, for so many workers or more."""
        counters, found = self._counters.setdefault(id(program), []), self._addresses.setdefault(id(program), [])
        while len(found) < workers:
            counters.append(np.zeros(len(program.matrix) + 8, np.int64))
            found.append(counters[-1].ctypes.data)
        return found

    def _call(self, q: Qpu, worker: int) -> int:
        program = self._by_code[q.entry]
        assert program is not None
        known = self._addresses.get(id(program), ())
        counts = known[worker] if worker < len(known) else self._addresses_of(program, worker + 1)[worker]
        assert self._memory.pages is self._pages, "the memory was closed"
        result: int = program.run(self._states.pointers[q.number], *self._fixed, counts, self._budget[q.number])
        if self._states.fast[q.number][Slot.ALONE]:
            self._mutex_out(q)
        return result

    def _mutex_out(self, q: Qpu) -> None:
        """Update the mutex after native code that ran alone."""
        state, wide, sync = self._states.fast[q.number], self._states.fast_wide[q.number], self._sync
        if state[Slot.GAVE]:
            q.waiting = False
            sync.release_mutex(int(wide[_RELEASED]))
        elif state[Slot.MUTEX] == 1:
            q.waiting = False
            sync.holder = q

    def _enter(self, q: Qpu, number: int, budget: int, alone: bool) -> None:
        self._budget[q.number] = budget
        state, wide = self._states.fast[q.number], self._states.fast_wide[q.number]
        state[Slot.ALONE], state[Slot.USED] = alone, 0
        state[Slot.RESUME] = number
        state[Slot.BASE] = q.entry & 0xFFFFFFFF
        wide[_CLOCK] = q.clock
        wide[_DMA_BYTES] = 0
        port = self._units.vpm.ports[q.number]
        wide[_STORE_UNTIL] = port.store_until
        wide[_LOAD_UNTIL] = port.load_until
        wide[_DMA_LOADED] = wide[_READ_LESS] = wide[_WRITE_LESS] = 0
        holder = self._sync.holder
        state[Slot.MUTEX] = 0 if holder is None else 1 if holder is q else 2
        state[Slot.GAVE] = 0
        wide[_RELEASED] = self._sync.released
        if q.number not in self._stale and (setups := port.setups) != self._setups[q.number]:
            self._vpm_in(state, port)
            self._setups[q.number] = setups

    def _refresh(self, numbers: Iterable[int]) -> None:
        """Bring the ports of QPUs up to date, before the reference engine uses them."""
        for n in self._stale.intersection(numbers):
            state, port = self._states.fast[n], self._units.vpm.ports[n]
            self._vpm_out(state, port)
            self._reads_out(state, port)
            self._setups[n] = port.setups
        self._stale.difference_update(numbers)

    def _vpm_in(self, state: memoryview, port: Port) -> None:
        state[Slot.TOUCHED] = 0
        self._reads_in(state, port)
        if not self._vpm_free:
            state[Slot.WRITE] = 2
        elif port.write is None:
            state[Slot.WRITE] = 0
        else:
            setup, address = port.write
            state[Slot.WRITE], state[Slot.WRITE_WORD] = 1, setup.word
            state[Slot.WRITE_AT], state[Slot.WRITE_STEP] = address, setup.stride
        store = port.store
        state[Slot.STORE] = 0
        if store is not None and not store_geometry(store, False).concerns:
            state[Slot.STORE], state[Slot.STORE_WORD] = 1, store.word
        state[Slot.STRIDE] = 3 << 30 | int(port.stride.blockmode) << 16 | port.stride.stride

    @staticmethod
    def _reads_in(state: memoryview, port: Port) -> None:
        state[Slot.READ_LEFT] = state[Slot.QUEUED_LEFT] = 0
        if port.read is not None:
            setup, address, left = port.read
            state[Slot.READ_WORD], state[Slot.READ_AT], state[Slot.READ_LEFT] = setup.word, address, left
            if port.queued is not None:
                state[Slot.QUEUED_WORD], state[Slot.QUEUED_LEFT] = port.queued[0].word, port.queued[2]
        load = port.load
        state[Slot.LOAD] = 0
        if load is not None and not load_geometry(load).concerns:
            state[Slot.LOAD], state[Slot.LOAD_WORD] = 1, load.word
        state[Slot.PITCH] = NO_PITCH if port.pitch is None else port.pitch

    @staticmethod
    def _reads_out(state: memoryview, port: Port) -> None:
        port.read = port.queued = None
        if left := int(state[Slot.READ_LEFT]):
            setup = parse_read_setup(int(state[Slot.READ_WORD]))
            assert isinstance(setup, GenericSetup)
            port.read = (setup, int(state[Slot.READ_AT]), left)
        if left := int(state[Slot.QUEUED_LEFT]):
            setup = parse_read_setup(int(state[Slot.QUEUED_WORD]))
            assert isinstance(setup, GenericSetup)
            port.queued = (setup, setup.address, left)
        if state[Slot.LOAD]:
            load = parse_read_setup(int(state[Slot.LOAD_WORD]))
            assert isinstance(load, LoadSetup)
            port.load = load
        pitch = int(state[Slot.PITCH])
        port.pitch = None if pitch == NO_PITCH else pitch

    def _vpm_out(self, state: memoryview, port: Port) -> None:
        if state[Slot.WRITE] == 1:
            setup = parse_write_setup(int(state[Slot.WRITE_WORD]))
            assert isinstance(setup, GenericSetup)
            port.write = (setup, int(state[Slot.WRITE_AT]))
        if state[Slot.STORE]:
            store = parse_write_setup(int(state[Slot.STORE_WORD]))
            assert isinstance(store, StoreSetup)
            port.store = store
        stride: Any = parse_write_setup(int(state[Slot.STRIDE]))
        port.stride = stride

    def _used(self, q: Qpu) -> int:
        """Instructions of the last native call."""
        left: int = self._states.fast_wide[q.number][_LEFT]
        return self._budget[q.number] - left

    def _return(self, q: Qpu, reason: Reason) -> None:
        """Bring the control state of `q` up to date after native code."""
        n, entry = q.number, q.entry
        program = self._by_code[entry]
        assert program is not None and reason is not Reason.BAD
        state, wide = self._states.fast[n], self._states.fast_wide[n]
        used = self._budget[n] - wide[_LEFT]
        self._slice[n] -= used
        self._ran[n] += used
        program.executed += used
        q.clock = wide[_CLOCK] + used * CLOCKS_PER_INSTRUCTION
        q.steps += used
        at, left, goal, sfu, one, two, three = program.nodes[state[Slot.AT]]
        q.pc = entry + 8 * at if at >= 0 else state[Slot.TARGET]
        q.branch_left = left
        q.branch_taken = bool(left) and bool(state[Slot.TAKEN])
        q.branch_target = (entry + 8 * goal) & 0xFFFFFFFF if goal >= 0 else state[Slot.TARGET]
        q.history = one, two, three
        self._bank.sfu_left[n] = sfu
        if state[Slot.USED]:
            self._units.tmu.used[n] = True
        port = self._units.vpm.ports[n]
        port.store_until, port.load_until = wide[_STORE_UNTIL], wide[_LOAD_UNTIL]
        stats = self.stats
        stats.dma_write_bytes += wide[_DMA_BYTES]
        stats.dma_read_bytes += wide[_DMA_LOADED]
        if state[Slot.TOUCHED]:
            state[Slot.TOUCHED] = 0
            stats.vpm_read_bytes -= wide[_READ_LESS]
            stats.vpm_write_bytes -= wide[_WRITE_LESS]
            self._stale.add(n)
        if reason is Reason.YIELD:
            q.status = Status.YIELDED
        elif reason is Reason.BUDGET:
            if self._slice[n] <= 0:  # otherwise its clock has reached the limit of this call
                q.status = Status.YIELDED
                self._chunk[n] = min(CHUNK, 2 * self._chunk[n])
        elif reason is Reason.FAIL and not state[Slot.ALONE] and state[Slot.AT] in program.stores:
            self._before[n] = state[Slot.AT]
        elif reason in (Reason.FAIL, Reason.NAN):
            self._hold[n] = state[Slot.HOLD]
            program.nans += reason is Reason.NAN

    # -- statistics

    def _settle(self) -> None:
        """Add the counts of native code to the statistics."""
        if not any(self._ran):
            return
        per_qpu = self.stats.per_qpu
        for n, ran in enumerate(self._ran):
            if ran:
                per_qpu[n] = per_qpu.get(n, 0) + ran
                self._native += ran
                self._ran[n] = 0
        total = np.zeros(len(COUNTERS), np.int64)
        for program in {id(p): p for p in self._by_code.values() if p is not None}.values():
            mine = self._counters.get(id(program), ())
            if mine:
                total += sum(counts[: len(program.matrix)] for counts in mine) @ program.matrix
                for counts in mine:
                    counts[:] = 0
        if not total.any():
            return
        found = dict(zip(COUNTERS, total.tolist(), strict=True))
        for i, name in enumerate(COUNTS):
            self._counts[i] += found[name]
        self.stats.uniform_bytes += 4 * found["uniforms"]
        self.stats.tmu_requests += found["requests"]
        self.stats.tmu_read_bytes += 4 * LANES * found["requests"]
        self.stats.vpm_write_bytes += 4 * LANES * found["vpm_writes"]
        self.stats.vpm_read_bytes += 4 * LANES * found["vpm_reads"]

    def _next_slice(self) -> None:
        self._settle()
        self._slice[:] = self._chunk
        super()._next_slice()

    def _publish(self) -> None:
        self._settle()
        super()._publish()
        if self.stats.instructions:
            rest = self.stats.instructions - self._native
            if rest:
                self.stats.fallbacks["instructions of the reference engine"] = rest
        stats = self.stats
        stats.translate_s = 0.0
        stats.cache_hits = stats.cache_misses = 0
        programs = {id(p): p for p in self._by_code.values() if p is not None}
        for key, program in programs.items():
            seconds, hits, misses = self._began[key]
            stats.translate_s += program.translate_s - seconds
            stats.cache_hits += program.hits - hits
            stats.cache_misses += program.misses - misses


class Vc4CompiledMachine(Chip):
    """A chip on the compiled engine; arguments as for `Chip`. workers: host threads, None: as many as cores."""

    def __init__(self, profile: Profile, memory: Memory, *, workers: int | None = None, **more: Any) -> None:
        super().__init__(profile, memory, **more)
        self.workers = min(workers or cores(), profile.qpus)
        self._last: CompiledVc4Execution | None = None

    def launch(self, entries: Sequence[tuple[int, int]]) -> CompiledVc4Execution:
        """Start programs; see `Vc4ReferenceMachine.launch`."""
        states = None if self._last is None else self._last.left()
        self._last = CompiledVc4Execution(self, entries, self.workers, states)
        return self._last
