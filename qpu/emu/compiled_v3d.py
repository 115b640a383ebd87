"""The V3D machine, compiled engine: programs run as machine code, one call per thread and suspension point.

Dispatch, placement, requests that are not plain 32-bit loads and stores, and reports are those of the reference engine.
Programs, or parts, that the translator leaves alone run on the reference engine; `RunStats.fallbacks` says why.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.emu.compiled import NativeCode, build, has_avx512
from qpu.emu.interrupts import StopRequest
from qpu.emu.lanes import quiet
from qpu.emu.machine import Execution, RunStats
from qpu.emu.memory import PAGE, Memory
from qpu.emu.tmu import AccessError, result_words
from qpu.emu.v3d import CLOCKS_PER_INSTRUCTION, MachineProfile, V3dReferenceMachine
from qpu.emu.v3d_dispatch import Dispatch, Placement, Start
from qpu.emu.v3d_llvm import DATA_SLOTS, FIFO_SLOTS, GO_ON, Node, NodeStats, Reason, Slot, Untranslatable, translate
from qpu.emu.v3d_prepare import prepare
from qpu.emu.v3d_services import DispatchServices
from qpu.emu.v3d_state import CLOBBERED, Group, undefined_register
from qpu.errors import EmuFault, FaultPlace

__all__ = ["V3dCompiledMachine"]

U32: TypeAlias = NDArray[np.uint32]

LANES = 16
_LANE = np.arange(LANES, dtype=np.uint32)
_SAVE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int32)
CHUNK = 1 << 20  # instructions a thread runs at most before the others get their turn
QUICK, FULL = 0, 2  # optimisation levels
HOT = 2_000_000  # instructions after which a program is worth the full level
PARALLEL = 100_000  # instructions of an epoch that make host threads worth it
MAX_REMARKS = 256  # on overflowing result FIFOs, before requests of that size become fast
MAX_WORDS = 1 << 17  # of code looked at


class _Program:
    """A translated program: its machine code, and how its blocks count."""

    def __init__(self, isa: Isa, words: tuple[int, ...], single_segment: bool) -> None:
        self.isa = isa
        self.words = words
        self.single_segment = single_segment
        self.nodes: list[Node] = [Node(0)]
        self.level = QUICK
        self.stats: list[NodeStats] = []
        self.reach = self.max_rf = 0
        self.translate_s = 0.0
        self.hits = self.misses = 0
        self.executed = 0
        self.calls = 0
        self.run: Any = None
        self._keep: list[NativeCode] = []
        self.build()

    def build(self) -> None:
        """Translate from all known entry nodes; numbers given out before stay valid."""
        avx512 = has_avx512()
        identity = repr((self.isa, self.single_segment, avx512, self.nodes, self.words)).encode()

        def make() -> tuple[str, dict[str, Any]]:
            made = translate(self.isa, self.words, self.nodes, single_segment=self.single_segment, avx512=avx512)
            entries = sorted(made.entries, key=made.entries.__getitem__)
            return made.ir, {
                "stats": [asdict(s) for s in made.stats],
                "entries": [list(n) for n in entries],
                "reach": made.reach,
                "max_rf": made.max_rf,
            }

        code = build(identity, make, level=self.level)
        self._keep.append(code)
        self.stats = [NodeStats(**s) for s in code.meta["stats"]]
        self.nodes = [Node(n[0], n[1], n[2], tuple(n[3]), n[4], n[5]) for n in code.meta["entries"]]
        self.reach = int(code.meta["reach"])
        self.max_rf = int(code.meta["max_rf"])
        self.translate_s += code.translate_s
        self.hits += code.from_cache
        self.misses += not code.from_cache
        self.run = code.function(ctypes.c_int32, *[ctypes.c_void_p] * 6, ctypes.c_int64)

    def hot(self, instructions: int) -> bool:
        """Account for executed instructions; True when the program is worth a better translation."""
        self.executed += instructions
        return self.level != FULL and self.executed >= HOT

    def improve(self) -> None:
        """Translate at the full level."""
        self.level = FULL
        self.build()

    def number(self, node: Node) -> int:
        """The entry number of a node that was found at run time."""
        if node not in self.nodes:
            self.nodes.append(node)
            self.build()
        return self.nodes.index(node)


# Rules of the checker whose breaking gives results that hardware does not define.
_UNDEFINED = ("sfu-", "thrsw-sfu", "branch-slot", "unifa-", "rot-", "uniform-pair", "small-imm-reserved", "lane-op")

_PROGRAMS: dict[tuple[Isa, bool, tuple[int, ...]], _Program | str] = {}
_MAX_PROGRAMS = 256


def _program(memory: Memory, dispatch: Dispatch, isa: Isa) -> _Program:
    region = memory.region_at(dispatch.code)
    if region is None:
        raise Untranslatable("code outside all buffers")
    count = min((region.end - dispatch.code) // 8, MAX_WORDS)
    words = memory.bytes[dispatch.code : dispatch.code + 8 * count].view(np.uint64)
    used = np.flatnonzero(words)
    key = (isa, dispatch.single_segment, tuple(words[: int(used[-1]) + 1].tolist()) if used.size else ())
    found = _PROGRAMS.get(key)
    if found is None:
        if len(_PROGRAMS) >= _MAX_PROGRAMS:
            _PROGRAMS.clear()
        try:
            found = _Program(isa, key[2], dispatch.single_segment)
            _refuse_hazards(found)
        except Untranslatable as reason:
            found = str(reason)
        _PROGRAMS[key] = found
    if isinstance(found, str):
        raise Untranslatable(found)
    return found


def _refuse_hazards(program: _Program) -> None:
    """What hardware does not define is reported instruction by instruction: by the reference engine."""
    from qpu.v3d.hazards import check

    words = program.words[: program.reach + 1]
    for finding in check(program.isa, words, single_segment=program.single_segment):
        if finding.rule.startswith(_UNDEFINED) and finding.rule != "unifa-branch":
            raise Untranslatable(f"hazard {finding.rule} at instruction {finding.index}")


class V3dCompiledMachine:
    """V3D 4.2 or 7.1 of an emulated board; arguments as `V3dReferenceMachine`."""

    def __init__(self, profile: MachineProfile, memory: Memory, *, strict: bool) -> None:
        self.reference = V3dReferenceMachine(profile, memory, strict=strict)
        self.profile = profile
        self.memory = memory
        self.strict = strict

        self._tables: list[NDArray[np.uint64]] = []

    @property
    def qpus(self) -> int:
        """Number of QPUs."""
        return self.reference.qpus

    def take_table(self) -> NDArray[np.uint64]:
        """A table with a zero for each page; 8 MiB, so it is kept for the next dispatch."""
        return self._tables.pop() if self._tables else np.zeros(self.memory.size // PAGE, np.uint64)

    def return_table(self, table: NDArray[np.uint64]) -> None:
        """Give back a table whose entries are zero again."""
        if len(self._tables) < 2:
            self._tables.append(table)

    def dispatch(self, cfg: Sequence[int]) -> Execution:
        """Take a dispatch; see `V3dReferenceMachine.dispatch`."""
        dispatch = Dispatch.from_cfg(cfg, exact_batches=self.profile.exact_batches)
        try:
            program = _program(self.memory, dispatch, self.profile.isa)
            if dispatch.threads == 4 and program.max_rf >= 32:
                raise Untranslatable(f"rf{program.max_rf} with four threads per QPU")
        except Untranslatable as reason:
            execution = self.reference.dispatch(cfg)
            execution.stats.fallbacks[str(reason)] += 1
            return execution
        return CompiledV3dExecution(self, dispatch, program, list(cfg))


class CompiledV3dExecution:
    """A dispatch on the compiled engine; see `qpu.emu.machine.Execution`."""

    def __init__(self, machine: V3dCompiledMachine, dispatch: Dispatch, program: _Program, cfg: list[int]) -> None:
        profile, memory = machine.profile, machine.memory
        self.isa = profile.isa
        self.stats = RunStats(profile.isa, engine="compiled")
        self._memory = memory
        self._dispatch = dispatch
        self._program = program
        self._before = (program.translate_s, program.hits, program.misses)
        if program.calls == 0:
            self._before = (0.0, 0, 0)
        program.calls += 1
        self._placement = Placement(dispatch, machine.reference.qpus)
        self._services = DispatchServices(
            profile.name, profile.isa, memory, dispatch, self._placement, self.stats, strict=machine.strict
        )
        capacity = self._placement.capacity
        raw = np.zeros(capacity * int(Slot.WORDS) + LANES, np.uint32)
        skew = (-raw.ctypes.data // 4) % LANES
        self._states: U32 = raw[skew : skew + capacity * int(Slot.WORDS)].reshape(capacity, int(Slot.WORDS))
        self._wide = self._states.view(np.uint64)
        self._pointers = [int(self._states[i].ctypes.data) for i in range(capacity)]
        self._machine = machine
        self._copies = machine.take_table()  # host addresses of page snapshots
        self._known_copies = 0
        self._workers = min(os.cpu_count() or 1, 8)
        self._counters: list[tuple[int, NDArray[np.int64]]] = []
        self._counts = [self._new_counters() for _ in range(self._workers)]
        self._ready: list[int] = []
        self._waiting: dict[int, int] = {}  # thread at a barrier -> supergroup
        self._last_on = [-1] * self._placement.qpus  # thread that ran last on each QPU
        self._resumed: set[int] = set()
        self._done_counts = [NodeStats()]
        self._tmu = [0, 0, 0]  # requests, bytes read, bytes written by threads that ended
        self._failed: BaseException | None = None
        self._group = Group(np.zeros(1, np.intp), dispatch.code, dispatch.uniforms)
        self._pool: ThreadPoolExecutor | None = None
        self._last_epoch = 0
        self._lock = threading.Lock()
        self._overflows = 0
        self._save = _SAVE(self._keep_pages)
        self._fresh = self._template()

    def _new_counters(self) -> NDArray[np.int64]:
        return np.zeros(max(1, len(self._program.stats)), np.int64)

    # -- Execution

    @property
    def clocks(self) -> int:
        """Emulated clocks of the busiest QPU."""
        return CLOCKS_PER_INSTRUCTION * int(self._services.qpu_instructions.max())

    @property
    def done(self) -> bool:
        """All batches have finished."""
        return self._placement.done

    @property
    def batches(self) -> int:
        """Batches of the dispatch."""
        return self._dispatch.batches

    @property
    def batches_done(self) -> int:
        """Finished batches."""
        return self._placement.finished

    def run(self, clocks: int | None = None) -> bool:
        """Advance by about `clocks` emulated clocks (None: to the end); see `qpu.emu.machine.Execution.run`."""
        if self._failed is not None:
            raise self._failed
        target = None if clocks is None else self.clocks + clocks
        begun = time.perf_counter()
        before = self._program.translate_s
        try:
            with quiet(), StopRequest() as stop:
                while not self.done and not stop.requested:
                    budget = CHUNK
                    if target is not None:
                        left = target - self.clocks
                        if left <= 0:
                            break
                        budget = min(CHUNK, max(1, left // (CLOCKS_PER_INSTRUCTION * len(self._dispatch.slots))))
                    self._epoch(budget)
        except EmuFault as fault:
            self._failed = fault
            raise
        finally:
            if self.done or self._failed is not None:
                self._release_host()
            self.stats.execute_s += time.perf_counter() - begun - (self._program.translate_s - before)
            self._count()
        if stop.requested:
            raise KeyboardInterrupt
        return self.done

    def _release_host(self) -> None:
        """The dispatch is over: worker threads end, the page table goes back."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._copies.size:
            for page in self._services.snapshot.copies:
                self._copies[page] = 0
            self._machine.return_table(self._copies)
            self._copies = np.zeros(0, np.uint64)

    def _count(self) -> None:
        s, x, p = self.stats, self._services, self._program
        self._settle_counters()
        total = self._done_counts[0]
        s.instructions = int(x.qpu_instructions.sum())
        s.per_qpu = {q: int(n) for q, n in enumerate(x.qpu_instructions) if n}
        s.threads = self._placement.started
        s.clocks = self.clocks
        s.add_ops, s.mul_ops, s.fadds, s.fmuls = total.add_ops, total.mul_ops, total.fadds, total.fmuls
        s.sfu_ops, s.branches, s.thread_switches = total.sfu_ops, total.branches, total.switches
        s.uniform_bytes = 4 * total.uniforms
        live = [self._tmu_of(t) for t in self._placement.running]
        requests, read, written = (
            a + sum(b) for a, b in zip(self._tmu, zip(*live, (0, 0, 0), strict=True), strict=True)
        )
        s.tmu_requests = requests + x.tmu.requests
        s.tmu_read_bytes = read + x.tmu.read_bytes
        s.tmu_write_bytes = written + x.tmu.write_bytes
        s.translate_s = p.translate_s - self._before[0]
        s.cache_hits, s.cache_misses = p.hits - self._before[1], p.misses - self._before[2]

    def _settle_counters(self) -> None:
        """Turn block counts into operation counts; needed before the program is translated again."""
        total = self._done_counts[0]
        counts = np.sum([c[: len(self._program.stats)] for c in self._counts], axis=0)
        for n, block in zip(counts.tolist(), self._program.stats, strict=False):
            if n:
                for name in NodeStats.__slots__:
                    setattr(total, name, getattr(total, name) + n * getattr(block, name))
        self._counts = [self._new_counters() for _ in range(self._workers)]

    def _tmu_of(self, thread: int) -> tuple[int, int, int]:
        wide = self._wide[thread]
        return (
            int(wide[int(Slot.REQUESTS) // 2]),
            int(wide[int(Slot.READ_BYTES) // 2]),
            int(wide[int(Slot.WRITE_BYTES) // 2]),
        )

    # -- threads

    def _template(self) -> U32:
        """The state of a thread before anything is known of it."""
        state = np.zeros(int(Slot.WORDS), np.uint32)
        for n in range(64):
            state[Slot.RF + LANES * n : Slot.RF + LANES * (n + 1)] = undefined_register(n)
        for n in range(6):
            state[Slot.ACC + LANES * n : Slot.ACC + LANES * (n + 1)] = undefined_register(64 + n)
        state[Slot.UNIFORM] = self._dispatch.uniforms
        state[Slot.CONFIG] = 0xFFFFFFFF
        state[Slot.CODE] = self._dispatch.code
        state[Slot.LIMIT] = result_words(self._dispatch.threads)
        address = ctypes.cast(self._save, ctypes.c_void_p).value or 0
        state[Slot.SAVE : Slot.SAVE + 2] = address & 0xFFFFFFFF, address >> 32
        return state

    def _start(self, started: list[Start]) -> None:
        payload = self._dispatch.payload([s.batch for s in started], [s.supergroup_slot for s in started])
        ids = Slot.RF + LANES * (0 if self.isa is Isa.V3D42 else 3)
        for row, begun in enumerate(started):
            state = self._states[begun.thread]
            state[:] = self._fresh
            state[ids : ids + LANES] = payload.ids[row]
            state[Slot.RF + 2 * LANES : Slot.RF + 3 * LANES] = payload.index[row]
            state[Slot.MSF : Slot.MSF + LANES] = payload.live[row]
            state[Slot.TIDX] = self._placement.tidx(begun.thread)
            self._resumed.discard(begun.thread)
            self._ready.append(begun.thread)

    def _keep_pages(self, state_address: int, extent: int) -> None:
        """Called by translated code before it stores to pages that the uniform streams may have to see unchanged."""
        state = self._states[(state_address - self._pointers[0]) // (4 * int(Slot.WORDS))]
        live = (np.uint32(state[Slot.MASK]) >> _LANE & np.uint32(1)).astype(np.bool_)
        first = state[Slot.ADDRESS : Slot.ADDRESS + LANES][live]
        with self._lock:
            self._services.snapshot.before_store(np.concatenate([first, first + np.uint32(extent)]) >> np.uint32(12))
            self._sync_copies()

    def _epoch(self, budget: int) -> None:
        """Every ready thread runs to its next suspension point."""
        started = self._placement.start()
        if started:
            self._start(started)
        if not self._ready:
            self._deadlock()
        threads = sorted(self._ready)
        self._ready = []
        if self._program.hot(self._last_epoch):
            self._settle_counters()
            self._program.improve()
            self._counts = [self._new_counters() for _ in range(self._workers)]
        reasons = self._run_all(threads, budget)
        self._last_epoch = 0
        for thread, reason in zip(threads, reasons, strict=True):
            self._account(thread, budget)
            self._handle(thread, Reason(reason))
        self._release()

    def _run_all(self, threads: list[int], budget: int) -> list[int]:
        run = self._program.run
        memory = self._memory
        fixed = (
            memory.pointer,
            memory.pages.ctypes.data,
            self._services.snapshot.kept.ctypes.data,
            self._copies.ctypes.data,
        )
        qpus = self._placement.qpus
        result = dict.fromkeys(threads, 0)

        for thread in threads:
            self._before_run(thread)

        def work(mine: list[int], counters: NDArray[np.int64]) -> None:
            place = counters.ctypes.data
            for thread in mine:
                result[thread] = run(self._pointers[thread], *fixed, place, budget)

        groups = min(self._workers, len({t % qpus for t in threads}))
        if groups < 2 or self._expected * len(threads) < PARALLEL:
            work(threads, self._counts[0])
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._workers, "qpu-emulator")
            # The threads of one QPU stay together and in order.
            shares = [[t for t in threads if t % qpus % groups == i] for i in range(groups)]
            list(self._pool.map(work, shares, self._counts))
        return [result[t] for t in threads]

    @property
    def _expected(self) -> int:
        """Instructions of a thread until it stops, guessed from the mean so far."""
        executed = int(self._services.qpu_instructions.sum())
        return executed // max(1, self._epochs)

    def _before_run(self, thread: int) -> None:
        """4.2: accumulators are shared by a QPU's threads; they are lost when another one ran since the switch."""
        if self.isa is Isa.V3D42:
            qpu = self._placement.qpu(thread)
            if thread in self._resumed and self._last_on[qpu] != thread:
                self._states[thread][Slot.ACC : Slot.ACC + 6 * LANES] = CLOBBERED
            self._last_on[qpu] = thread
            self._resumed.add(thread)

    _epochs = 0

    def _account(self, thread: int, budget: int) -> None:
        left = int(self._wide[thread].view(np.int64)[int(Slot.LEFT) // 2])
        used = budget - left
        self._services.qpu_instructions[self._placement.qpu(thread)] += used
        self._last_epoch += used
        self._epochs += 1

    # -- events

    def _handle(self, thread: int, reason: Reason) -> None:
        state = self._states[thread]
        if reason is Reason.TMU:
            self._request(thread)
            then = int(state[Slot.THEN])
            if then == GO_ON:
                self._resumed.discard(thread)  # no switch: accumulators are its own
                self._ready.append(thread)
                return
            reason = Reason(then)
        if reason in (Reason.BUDGET, Reason.YIELD):
            self._resumed.discard(thread)  # hardware would not have switched here
            self._ready.append(thread)
        elif reason is Reason.SWITCH:
            self._ready.append(thread)
        elif reason is Reason.END:
            for i, n in enumerate(self._tmu_of(thread)):
                self._tmu[i] += n
            self._placement.finish(thread)
        elif reason is Reason.BARRIER:
            state[Slot.SYNC] = 0
            self._waiting[thread] = self._placement.running[thread].supergroup
            self._placement.arrive(thread)
        elif reason is Reason.JUMP:
            self._jump(thread)
        elif reason is Reason.EMPTY:
            g = self._standing(thread)
            self._services.fault(g, "tmu-empty", "ldtmu finds no result pending; hardware hangs here")
        elif reason is Reason.UNIFORM:
            g = self._standing(thread)
            self._services._access(AccessError("out-of-bounds", 0, 0, int(state[Slot.JUMP]), 4, False, "uniform fetch"))
            raise EmuFault("out-of-bounds", "uniform fetch outside of every buffer", self._services.place(g))
        elif reason is Reason.BAD_CODE:
            g = self._standing(thread)
            problem = prepare(self.isa, self._word(int(state[Slot.AT]))).problem
            self._services.fault(g, *(problem or ("undefined-opcode", "no instruction")))
        else:
            raise EmuFault("engine", f"the compiled program stopped with {reason.name}", FaultPlace())

    def _standing(self, thread: int) -> Group:
        """The thread as the reference engine's services see it, at its current instruction."""
        g = self._group
        g.threads = np.array([thread], np.intp)
        index = int(self._states[thread][Slot.AT])
        g.pc = self._dispatch.code + 8 * index
        g.count = 0
        self._services.group = g
        self._services.prepared = prepare(self.isa, self._word(index))
        return g

    def _word(self, index: int) -> int:
        words = self._program.words
        return words[index] if 0 <= index < len(words) else 0

    def _request(self, thread: int) -> None:
        """A TMU request that the translated code left to the host."""
        state, g = self._states[thread], self._standing(thread)
        pending = int(state[Slot.PENDING])
        if pending > DATA_SLOTS:
            self._services.fault(g, "tmu-data-overflow", f"{pending} data words of one request")
        g.config = int(state[Slot.CONFIG])
        g.data = [state[Slot.DATA + LANES * k : Slot.DATA + LANES * (k + 1)].copy() for k in range(pending)]
        head, count = int(state[Slot.HEAD]), int(state[Slot.COUNT])
        g.results = [np.zeros(LANES, np.uint32)] * count
        live = (np.uint32(state[Slot.MASK]) >> _LANE & np.uint32(1)).astype(np.bool_)
        address = state[Slot.ADDRESS : Slot.ADDRESS + LANES].copy().reshape(1, LANES)
        self._services.request(g, address, live.reshape(1, LANES))
        state[Slot.CONFIG] = g.config if isinstance(g.config, int) else g.config[0]
        state[Slot.PENDING] = 0
        fresh = g.results[count:]
        if len(g.results) > state[Slot.LIMIT]:
            self._overflows += 1
            if self._overflows > MAX_REMARKS:  # said often enough
                self._states[:, Slot.LIMIT] = self._fresh[Slot.LIMIT] = FIFO_SLOTS
        if len(g.results) > FIFO_SLOTS:
            self._services.fault(g, "tmu-overflow", f"{len(g.results)} result words are pending")
        for k, value in enumerate(fresh):
            at = Slot.FIFO + LANES * ((head + count + k) % FIFO_SLOTS)
            state[at : at + LANES] = np.broadcast_to(value, (1, LANES))[0]
        state[Slot.COUNT] = count + len(fresh)
        self._sync_copies()

    def _sync_copies(self) -> None:
        """Pages that were copied before their first store: streams read the copies from now on."""
        copies = self._services.snapshot.copies
        if len(copies) == self._known_copies:
            return
        for page in islice(reversed(copies), len(copies) - self._known_copies):
            self._copies[page] = copies[page].ctypes.data
        self._known_copies = len(copies)
        self._wide[:, int(Slot.UNIFORM_HOST) // 2] = 0
        self._wide[:, int(Slot.UNIFA_HOST) // 2] = 0

    def _jump(self, thread: int) -> None:
        state = self._states[thread]
        offset = int(state[Slot.JUMP]) - self._dispatch.code
        index = offset // 8
        if offset % 8 or not 0 <= index < len(self._program.words):
            g = self._standing(thread)
            self._services.fault(
                g, "code-out-of-bounds", f"the branch goes to 0x{int(state[Slot.JUMP]):08x}, outside of the program"
            )
        node = Node(index, marked=bool(state[Slot.MARKED]))
        self._settle_counters()
        try:
            state[Slot.RESUME] = self._program.number(node)
        except Untranslatable as reason:
            g = self._standing(thread)
            self._services.fault(g, "engine", f"the compiled engine cannot go on at instruction {index}: {reason}")
        self._counts = [self._new_counters() for _ in range(self._workers)]
        self._ready.append(thread)

    def _release(self) -> None:
        if not self._waiting:
            return
        full = self._placement.release()
        for thread in [t for t, s in self._waiting.items() if s in full]:
            del self._waiting[thread]
            self._ready.append(thread)

    def _deadlock(self) -> None:
        place = FaultPlace(board=self._services.board)
        if self._waiting:
            place = self._services.place(self._standing(next(iter(self._waiting))))
        raise EmuFault("deadlock", self._placement.deadlock(), place)
