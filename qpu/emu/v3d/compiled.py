"""The compiled engine of V3D: programs run as machine code, threads one after another or on several host cores.

Dispatch, placement, requests that break a rule, and reports are those of the reference engine. Programs that the
translator does not support run on the reference engine; `RunStats.fallbacks` names the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from operator import attrgetter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.emu.engine.host_cpu import host
from qpu.emu.engine.machine import Execution
from qpu.emu.engine.memory import PAGE, Memory
from qpu.emu.engine.workers import Workers, cores
from qpu.emu.v3d.blocks import Blocks, fill, kept_block, part
from qpu.emu.v3d.compiled_programs import Program, fetcher, program_at
from qpu.emu.v3d.dispatch import Dispatch, Start
from qpu.emu.v3d.execution import DispatchExecution, MachineProfile
from qpu.emu.v3d.handover import ReferenceRest
from qpu.emu.v3d.prepare import prepare
from qpu.emu.v3d.reference import V3dReferenceMachine
from qpu.emu.v3d.state import CLOBBERED, Group
from qpu.emu.v3d.tmu import Action, decode_request, result_words
from qpu.emu.v3d.translate_graph import Fetch
from qpu.emu.v3d.translate_state import (
    CHAIN_COUNTS,
    CONTINUE,
    DATA_SLOTS,
    FIFO_SLOTS,
    Control,
    Hold,
    Kept,
    Node,
    Reason,
    Slot,
    Untranslatable,
)
from qpu.errors import EmuFault

__all__ = ["V3dCompiledMachine"]

U32: TypeAlias = NDArray[np.uint32]

LANES = 16
_LANE = np.arange(LANES, dtype=np.uint32)
_REASONS = tuple(Reason)  # by value
_END, _SWITCH, _BUDGET, _TMU = int(Reason.END), int(Reason.SWITCH), int(Reason.BUDGET), int(Reason.TMU)
_HELD, _HOLD, _SHARED = int(Slot.HELD), int(Control.HOLD), int(Slot.SHARED)  # members of enumerations are slow
_STORES, _NOTHING = int(Hold.STORES), int(Hold.NOTHING)
_LOW = 0xFFFFFFFF
QUANTUM, MAX_QUANTUM = 1 << 12, 1 << 20  # time slice of a thread in instructions: initial and maximum
PARALLEL = 100_000  # instructions of all threads between stores from which on several host threads save time
MAX_RECENT = 1 << 12  # addresses of programs
MAX_WARNINGS = 256  # about overflowing result FIFOs; after that many the limit of the fast path is raised
ALL_PAGES = (1 << 32) // PAGE


class V3dCompiledMachine:
    """V3D 4.2 or 7.1 of an emulated board. Arguments as for `V3dReferenceMachine`.

    workers: host threads; None: as many as host cores, at most 8.
    """

    def __init__(self, profile: MachineProfile, memory: Memory, *, strict: bool, workers: int | None = None) -> None:
        self.reference = V3dReferenceMachine(profile, memory, strict=strict)
        self.profile = profile
        self.memory = memory
        self.strict = strict
        self.workers = workers or min(cores(), 8)
        self._spare: list[Blocks] = []
        whole = len(memory.pages) == ALL_PAGES
        self._pages = memory.pages if whole else np.zeros(ALL_PAGES, np.uint32)
        self.pages_at = int(self._pages.ctypes.data)
        self._recent: dict[tuple[int, bool, int], Program] = {}  # the last program at an address

    @property
    def qpus(self) -> int:
        """Number of QPUs."""
        return self.reference.qpus

    def page_owners(self) -> U32:
        """Region id of every page of the 32-bit address space, even where the memory window is smaller."""
        if self._pages is not self.memory.pages:
            self._pages[: len(self.memory.pages)] = self.memory.pages
        return self._pages

    def take_blocks(self, capacity: int) -> Blocks:
        """Arrays for a dispatch with up to `capacity` threads."""
        for blocks in self._spare:
            if blocks.capacity == capacity:
                self._spare.remove(blocks)
                return blocks
        return Blocks(capacity, self.workers, self.memory.size // PAGE)

    def return_blocks(self, blocks: Blocks) -> None:
        """Return the arrays of a dispatch that has ended; later ones use them."""
        if len(self._spare) < 2:
            self._spare.append(blocks)

    def dispatch(self, cfg: Sequence[int]) -> Execution:
        """Begin a dispatch; see `V3dReferenceMachine.dispatch`."""
        dispatch = Dispatch.from_cfg(cfg, exact_batches=self.profile.exact_batches)
        try:
            return CompiledV3dExecution(self, dispatch, self._program(dispatch))
        except Untranslatable as reason:
            execution = self.reference.dispatch(cfg)
            execution.stats.fallbacks[str(reason)] += 1
            return execution

    def _program(self, dispatch: Dispatch) -> Program:
        """The program of a dispatch; first the one that its address had before. Raises: Untranslatable."""
        key = dispatch.code, dispatch.single_segment, dispatch.threads
        recent = self._recent.get(key)
        if recent is not None and recent.kind.host is host() and recent.covers(self.memory, dispatch.code):
            return recent
        found = program_at(self.memory, dispatch, self.profile.isa, strict=self.strict)
        if len(self._recent) >= MAX_RECENT:
            self._recent.clear()
        self._recent[key] = found
        return found


class CompiledV3dExecution(DispatchExecution):
    """A dispatch on the compiled engine; see `qpu.emu.engine.machine.Execution`."""

    segment = MAX_QUANTUM
    arithmetic = nullcontext  # the host adds no floats
    slice = 1 << 22  # clocks, milliseconds of the host

    def __init__(self, machine: V3dCompiledMachine, dispatch: Dispatch, program: Program) -> None:
        super().__init__(
            machine.profile, machine.memory, dispatch, machine.qpus, engine="compiled", strict=machine.strict
        )
        self._machine = machine
        self._program = program
        self._before = (program.translate_s, program.hits, program.misses) if program.calls else (0.0, 0, 0)
        self._translated = program.translate_s
        program.calls += 1
        self._blocks = blocks = machine.take_blocks(self._placement.capacity)
        services = self._services
        services.scratch = blocks.scratch
        blocks.begin(services.snapshot.copies)
        self._states, self._wide, self._pointers = blocks.states, blocks.wide, blocks.pointers
        self._copies = blocks.copies
        kept_at = services.snapshot.kept_at
        self._fixed = (machine.memory.pointer, machine.pages_at, kept_at, blocks.table_at, blocks.control_at)
        self._workers = machine.workers
        self._split = program.split
        self._new_counters()
        self._lost: dict[int, tuple[Node, str]] = {}  # thread -> node that cannot be translated, and why
        self._rest: ReferenceRest | None = None
        self._ready: list[int] = []
        self._held: set[int] = set()  # ready threads that are stopped before a store or atomic
        self._waiting: dict[int, int] = {}  # thread at a barrier -> supergroup
        self._resumed: set[int] = set()  # threads whose last stop was a switch
        self._last_on: dict[int, int] = {}  # 4.2: QPU -> the thread that ran last
        self._shared = False  # 4.2: whether threads have the mark of `Slot.SHARED`
        self._total: NDArray[np.int64] | None = None  # by `CHAIN_COUNTS`; None: nothing yet
        self._tmu = [0, 0, 0]  # requests, bytes read, bytes written by threads that ended
        self._words: dict[tuple[int, str], U32] = {}  # copies of stream words that are not contiguous on the host
        self._crew = Workers(self._workers)
        self._overflows = 0
        self._rounds_run = 0  # rounds of all threads together
        self._quantum = QUANTUM
        self._limit = result_words(dispatch.threads)  # of a FIFO of results

    @cached_property
    def _group(self) -> Group:
        return Group(np.zeros(1, np.intp), self._dispatch.code, self._dispatch.uniforms)

    @cached_property
    def _fetch(self) -> Fetch:
        return fetcher(self._memory, self._dispatch.code)

    # -- statistics

    def _new_counters(self) -> None:
        """Count for the current translation; also updates the state that depends on the translation."""
        self._stats = self._program.stats
        if self._program.split and not self._split:
            self._split = True  # until now the state blocks held one set of flags for both halves
            self._states[:, (Slot.A_HI, Slot.B_HI)] = self._states[:, (Slot.A_LO, Slot.B_LO)]
        self._blocks.count(len(self._program.stats))

    def _over(self) -> None:
        """Stop the worker threads and return the page table."""
        self._crew.close()
        self._copies.release()
        if self._failed is None:
            self._machine.return_blocks(self._blocks)
        super()._over()

    def _count(self) -> None:
        s, p = self.stats, self._program
        for name, value in zip(CHAIN_COUNTS, self._settle_counters().tolist(), strict=True):
            setattr(s, name, value)  # `instructions` is counted by QPU, and replaced
        running, served = self._tallies(list(self._placement.running)), self._services.tallies()
        s.tmu_requests, s.tmu_read_bytes, s.tmu_write_bytes = map(sum, zip(self._tmu, running, served, strict=True))
        s.execute_s -= p.translate_s - self._translated
        self._translated = p.translate_s
        if self._rest is not None:
            self._add_rest(self._rest)
        s.translate_s = p.translate_s - self._before[0]
        s.cache_hits, s.cache_misses = p.hits - self._before[1], p.misses - self._before[2]

    def standing(self) -> list[int]:
        """See `DispatchExecution.standing`."""
        if self._rest is not None:
            return self._rest.standing()
        nodes = self._program.nodes
        return [nodes[int(self._states[t, Slot.RESUME])].at for t in sorted({*self._ready, *self._waiting})]

    def _add_rest(self, rest: ReferenceRest) -> None:
        s = self.stats
        rest.settle()
        for name in CHAIN_COUNTS[1:]:
            setattr(s, name, getattr(s, name) + getattr(rest.stats, name))
        for _, reason in self._lost.values():
            s.fallbacks[reason] = rest.executed
            break

    def _settle_counters(self) -> NDArray[np.int64]:
        """Convert chain counts to operation counts. Required before a new translation replaces the chains."""
        counted = self._blocks.counted(self._stats)
        self._total = total = counted if self._total is None else self._total + counted
        return total

    def _tallies(self, threads: list[int]) -> list[int]:
        """TMU requests, bytes read and bytes written by threads."""
        found: list[int] = self._blocks.stops[threads, 1:4].sum(0).tolist() if threads else [0, 0, 0]
        return found

    # -- threads

    def _start(self, started: list[Start]) -> None:
        states, dispatch, tidx = self._states, self._dispatch, self._placement.tidx
        started.sort(key=attrgetter("thread"))
        threads = [begun.thread for begun in started]
        if len(threads) == 1:
            states[threads[0]] = kept_block(self.isa, dispatch, self._limit, started[0], tidx[threads[0]])
        else:
            mine = part(threads)
            made = states[mine] if isinstance(mine, slice) else np.empty((len(threads), states.shape[1]), np.uint32)
            fill(made, self.isa, dispatch, self._limit, started, [tidx[t] for t in threads])
            if not isinstance(mine, slice):
                states[mine] = made
        self._resumed.difference_update(threads)
        self._ready += threads

    def _run_round(self, budget: int) -> None:
        if self._rest is not None:
            self._rest.advance(budget, self._stop)
            return
        started = self._placement.start()
        if started:
            self._start(started)
        if not self._ready:
            waiting = next(iter(self._waiting), None)
            raise self._deadlocked(None if waiting is None else self._as_group(waiting))
        threads = sorted(self._ready)
        self._ready = []
        if self._program.hot:
            self._program.improve()
        if self._program.stats is not self._stats:  # translated again, here or by another dispatch
            self._settle_counters()
            self._new_counters()
        budget = min(budget, self._quantum)
        reasons = self._run_all(threads, budget)
        self._copies.note()
        stops = self._blocks.stops[part(threads)].tolist()
        self._account(threads, stops, budget)
        spent = reasons.count(_BUDGET)
        if 0 < spent < len(reasons):
            self._quantum = QUANTUM  # other threads make progress: a spinning thread must not delay them
        elif spent:
            self._quantum = min(2 * self._quantum, MAX_QUANTUM)
        ended: list[int] = []
        for thread, reason in zip(threads, reasons, strict=True):
            if reason == _SWITCH:
                self._ready.append(thread)
            elif reason == _END:
                ended.append(thread)
            elif reason == _TMU and self._states[thread, _HELD]:
                self._held.add(thread)
                self._requeue(thread)
            else:
                self._handle(thread, _REASONS[reason], ended)
        self._end(ended)
        self._release()
        if self._lost:
            self._hand_over()

    def _run_all(self, threads: list[int], budget: int) -> list[int]:
        if self.isa is Isa.V3D42:
            self._clobber(threads)
        blocks, fixed = self._blocks, self._fixed
        self._machine.page_owners()  # buffers may have been mapped since the last round
        result: dict[int, int] = {}
        states = self._states

        def work(mine: list[int], worker: int) -> None:
            line, count = blocks.lines[worker], len(mine)
            line.order[:count] = self._pointers[part(mine)]
            at = blocks.counts_at[worker]
            self._program.run(line.order_at, count, *fixed, at, budget, line.reasons_at)
            result.update(zip(mine, line.reasons[:count].tolist(), strict=True))

        # Phase 1: run every thread up to its first store or atomic. Memory does not change, so the order of the
        # threads and the number of host threads have no effect. Phase 2: do the stores serially, in thread order.
        control = self._copies.control
        control[_HOLD] = _STORES
        starting = threads
        if self._held:
            starting = [t for t in threads if t not in self._held]
            held = list(self._held)
            self._wide[held, int(Slot.LEFT) // 2] = budget
            result.update(dict.fromkeys(held, int(Reason.TMU)))
            self._held.clear()
        if starting:
            portions = self._portions(starting)
            blocks.shared |= len(portions) > 1
            self._crew.share(portions, work)
        control[_HOLD] = _NOTHING
        found = [result[t] for t in threads]
        if self._program.lockstep or any(r == _TMU and states[t, _HELD] for t, r in result.items()):
            pointers, most = self._pointers[threads], PARALLEL
            reasons = np.array(found, np.int32)
            at = blocks.counts_at[0]
            self._program.rounds(pointers.ctypes.data, len(threads), *fixed, at, most, reasons.ctypes.data)
            found = reasons.tolist()
        return found

    def _portions(self, threads: list[int]) -> list[list[int]]:
        """Distribution of the threads over host threads."""
        workers = min(self._workers, len(threads))
        if workers < 2 or self._program.lockstep or self._mean * len(threads) < PARALLEL:
            return [threads]
        return [threads[i::workers] for i in range(workers)]

    @property
    def _mean(self) -> int:
        """Mean number of instructions between two stops of a thread so far."""
        return int(self._services.qpu_instructions.sum()) // max(1, self._rounds_run)

    def _clobber(self, threads: list[int]) -> None:
        """4.2: overwrite the accumulators of threads if another thread of their QPU has run since their switch."""
        qpus, last_on, resumed = self._placement.qpus, self._last_on, self._resumed
        for thread in threads:
            qpu = thread % qpus
            if thread in resumed and last_on.get(qpu) != thread:
                self._states[thread, Slot.ACC : Slot.ACC + 6 * LANES] = CLOBBERED
            last_on[qpu] = thread
        resumed.update(threads)
        alone = len({thread % qpus for thread in threads}) == len(threads)
        if self._shared or not alone:
            count = Counter(thread % qpus for thread in threads)
            self._states[threads, _SHARED] = [count[thread % qpus] > 1 for thread in threads]
            self._shared = True

    def _account(self, threads: list[int], stops: list[list[int]], budget: int) -> None:
        """Count the instructions of a round. stops: of the threads, as `Blocks.stops`."""
        qpus, counts = self._placement.qpus, self._services.qpu_instructions
        executed = 0
        for thread, (left, _, _, _, _, link) in zip(threads, stops, strict=True):
            counts[thread % qpus] += budget - left
            executed += budget - left
            if link > _LOW:
                self._services.warn(self._as_group(thread, (link >> 32) - 1), "uniforms-from-link")
                self._states[thread, Slot.FROM_LINK] = 0
        self._program.executed += executed
        self._rounds_run += len(threads)

    # -- events

    def _handle(self, thread: int, reason: Reason, ended: list[int]) -> None:
        state = self._states[thread]
        if reason is Reason.TMU:
            self._request(thread)
            then = int(state[Slot.THEN])
            if then == CONTINUE:
                self._requeue(thread)
                return
            reason = Reason(then)
        if reason in (Reason.BUDGET, Reason.YIELD):
            self._requeue(thread)
        elif reason is Reason.SWITCH:
            self._ready.append(thread)
        elif reason is Reason.END:
            ended.append(thread)
        elif reason is Reason.BARRIER:
            asked = int(state[Slot.SYNC]) >> 1
            if asked:
                g = self._as_group(thread, asked - 1)
                self._services.warn(g, "barrier-tmu")
            state[Slot.SYNC] = 0
            self._waiting[thread] = self._placement.running[thread].supergroup
            self._placement.arrive(thread)
        elif reason is Reason.JUMP:
            self._jump(thread)
        elif reason is Reason.CHECK:
            self._check(thread)
        elif reason is Reason.RULE:
            self._rule(thread)
        elif reason is Reason.BAD_CODE:
            g = self._as_group(thread)
            word = self._fetch(int(state.view(np.int32)[Slot.AT]))
            if word is None:
                self._services.prepared = None
                self._services.fault(g, "code-out-of-bounds", g.pc)
            self._services.fault(g, *(prepare(self.isa, word).problem or ("decode", "not an instruction")))
        else:
            raise AssertionError(f"the compiled program stopped with {reason.name}")

    def _requeue(self, thread: int) -> None:
        """Make a thread ready after a stop that is not a thread switch on hardware: the accumulators survive it."""
        self._resumed.discard(thread)
        self._ready.append(thread)

    def _end(self, threads: list[int]) -> None:
        """Account for threads whose programs have ended, and free their places."""
        if not threads:
            return
        stops = self._blocks.stops[part(threads)].tolist()
        for thread, (_, requests, read, written, results, _) in zip(threads, stops, strict=True):
            self._tmu[0] += requests
            self._tmu[1] += read
            self._tmu[2] += written
            count, asked = results & _LOW, results >> 32
            if count:
                g = self._as_group(thread)
                g.pc += 8
                self._services.warn(g, "tmu-unpopped", count)
            if asked:  # the barrier waits at the last switch, which is the end: the thread has arrived (assumed)
                self._placement.arrive(thread)
            self._placement.finish(thread)

    def _as_group(self, thread: int, index: int | None = None) -> Group:
        """The thread as a `Group` for the services, at its current (or another) instruction."""
        g = self._group
        g.threads = np.array([thread], np.intp)
        at = int(self._states[thread].view(np.int32)[Slot.AT]) if index is None else index
        g.pc = (self._dispatch.code + 8 * at) & 0xFFFFFFFF
        g.count = 0
        self._services.group = g
        self._services.prepared = prepare(self.isa, self._word(at))
        return g

    def _word(self, index: int) -> int:
        return self._fetch(index) or 0

    def _rule(self, thread: int) -> None:
        """Raise the fault that the translated code reported."""
        state = self._states[thread]
        rule, message = self._program.rules[int(state[Slot.RULE])]
        found = message or int(state[Slot.TARGET])  # without a message: a branch target, known at run time only
        self._services.fault(self._as_group(thread), rule, found)

    def _check(self, thread: int) -> None:
        """Make the results and stream words that a chain needs available: collect the words in one contiguous piece.

        Raises: EmuFault when a result or word is missing.
        """
        state = self._states[thread]
        number = int(state[Slot.RESUME])
        start = self._program.nodes[number].at
        results = int(state[Slot.COUNT])
        words: dict[str, list[int]] = {"u": [], "a": []}
        x = self._services
        g = self._group
        g.unif, g.unifa, g.unifa_at = int(state[Slot.UNIFORM]), int(state[Slot.UNIFA]), -100
        qpu = self._placement.qpu(thread)
        for kind, index in self._program.needs[number]:
            self._as_group(thread, index)
            try:
                if kind == "r":
                    if not results:
                        x.fault(g, "tmu-empty")
                    results -= 1
                else:
                    word = x.uniform(g) if kind == "u" else x.unifa_word(g)
                    assert isinstance(word, int)
                    words[kind].append(word)
            except EmuFault:
                x.qpu_instructions[qpu] += index - start
                raise
        for kind, at, left in (("u", Slot.UNIFORM_HOST, Slot.UNIFORM_LEFT), ("a", Slot.UNIFA_HOST, Slot.UNIFA_LEFT)):
            if words[kind]:
                piece = self._words[thread, kind] = np.array(words[kind], np.uint32)
                self._wide[thread][int(at) // 2] = piece.ctypes.data
                state[left] = len(piece)
        self._requeue(thread)

    def _request(self, thread: int) -> None:
        """Perform a TMU request that translated code left to the host."""
        state, g = self._states[thread], self._as_group(thread)
        pending = int(state[Slot.PENDING])
        g.config = int(state[Slot.CONFIG])
        kept_data = min(pending, DATA_SLOTS)  # more words are a fault, whatever they contain
        g.data = [state[Slot.DATA + LANES * k : Slot.DATA + LANES * (k + 1)].copy() for k in range(kept_data)]
        g.data += [np.zeros(LANES, np.uint32)] * (pending - kept_data)
        head, count = int(state[Slot.HEAD]), int(state[Slot.COUNT])
        g.results = [np.zeros(LANES, np.uint32)] * count
        live = (np.uint32(state[Slot.MASK]) >> _LANE & np.uint32(1)).astype(np.bool_)
        address = state[Slot.ADDRESS : Slot.ADDRESS + LANES].copy().reshape(1, LANES)
        streamed = self._open_pages(g.config, pending, address)
        self._services.request(g, address, live.reshape(1, LANES))
        if g.pc in self._services.outside:  # translated code performs the following ones
            at = int(state[Slot.AT])
            self._blocks.reported[at : at + 1] = 1
        kept = self._services.snapshot.kept
        kept[streamed[kept[streamed] == Kept.FREE]] = Kept.STREAM  # the request did not store there
        state[Slot.CONFIG] = g.config if isinstance(g.config, int) else g.config[0]
        state[Slot.PENDING] = 0
        fresh = g.results[count:]
        if len(g.results) > state[Slot.LIMIT]:
            self._overflows += 1
            if self._overflows > MAX_WARNINGS:  # enough warnings
                self._states[:, Slot.LIMIT] = self._limit = FIFO_SLOTS
        for k, value in enumerate(fresh):
            at = Slot.FIFO + LANES * ((head + count + k) % FIFO_SLOTS)
            state[at : at + LANES] = np.broadcast_to(value, (1, LANES))[0]
        state[Slot.COUNT] = count + len(fresh)
        if self._copies.enter():
            self._states[:, (Slot.UNIFORM_LEFT, Slot.UNIFA_LEFT)] = 0  # refill: pages may have been copied

    def _open_pages(self, config: int, pending: int, address: U32) -> NDArray[np.intp]:
        """Mark stream pages that a request may store to, so that they are copied first; returns these pages."""
        if decode_request(config & 0xFF, pending).action not in (Action.STORE, Action.ATOMIC):
            return np.zeros(0, np.intp)
        kept = self._services.snapshot.kept
        reach = np.concatenate([address & np.uint32(0xFFFFFFF0), address, address + np.uint32(15)])
        pages = np.unique(reach >> np.uint32(12)).astype(np.intp)
        pages = pages[pages < len(kept)]
        streamed: NDArray[np.intp] = pages[kept[pages] == Kept.STREAM]
        kept[streamed] = Kept.FREE
        return streamed

    def _jump(self, thread: int) -> None:
        state = self._states[thread]
        offset = int(state[Slot.JUMP]) - self._dispatch.code
        index = (offset + (1 << 31) & 0xFFFFFFFF) - (1 << 31) >> 3
        pending = int(state[Slot.MARKED])
        node = Node(index, marked=bool(pending & 1), late=bool(pending & 2), unifa=pending >> 2)
        try:
            state[Slot.RESUME] = self._program.number(node, self._fetch)
        except Untranslatable as reason:
            self._lost[thread] = node, str(reason)
        if self._program.stats is not self._stats:
            self._settle_counters()
            self._new_counters()
        self._requeue(thread)

    def _hand_over(self) -> None:
        """Continue the dispatch on the reference engine."""
        ended: list[int] = []
        for thread in sorted(self._held):
            self._ready.remove(thread)
            self._handle(thread, Reason.TMU, ended)
        self._held.clear()
        self._end(ended)
        self._release()
        self._copies.note()
        running = list(self._placement.running)
        self._tmu = [a + b for a, b in zip(self._tmu, self._tallies(running), strict=True)]
        self._wide[running, int(Slot.REQUESTS) // 2 : int(Slot.REQUESTS) // 2 + 3] = 0
        nodes = self._program.nodes

        def next_nodes(threads: Iterable[int]) -> dict[int, Node]:
            return {
                t: self._lost[t][0] if t in self._lost else nodes[int(self._states[t, Slot.RESUME])] for t in threads
            }

        self._rest = ReferenceRest(
            self._machine.reference,
            self._dispatch,
            self._placement,
            self._services,
            self._states,
            next_nodes(sorted(self._ready)),
            next_nodes(self._waiting),
            self._resumed,
            self._fetch,
            split=self._split,
        )

    def _release(self) -> None:
        if not self._waiting:
            return
        full = self._placement.release()
        for thread in [t for t, s in self._waiting.items() if s in full]:
            del self._waiting[thread]
            self._ready.append(thread)
