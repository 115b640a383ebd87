"""The profile of launches: instructions, waiting and traffic by source line, timelines, and estimated times.

Counts are those of the emulation and exact. Waiting follows from latencies that are assumed and named here; it is the
time in which no thread of a QPU could issue an instruction.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.debug.cost import Estimate, estimate
from qpu.debug.pages import frame, page
from qpu.debug.stepping import Before, Moment, Stepping
from qpu.debug.trace import Registers, packed, source_lines
from qpu.debug.waits import CAUSES, Barriers, Order, Thread, sync_of
from qpu.drivers.base import DeviceInfo, Job
from qpu.emu.engine.machine import RunStats
from qpu.emu.engines import observed
from qpu.errors import UsageError, block, brief, counted
from qpu.program import toolkit
from qpu.runtime.jobs import OBSERVERS, JobObserver
from qpu.runtime.pool import MemoryPool
from qpu.v3d.decode import decode
from qpu.v3d.effects import effects as v3d_effects
from qpu.vc4.effects import effects as vc4_effects

__all__ = ["DMA_CLOCKS", "TMU_CLOCKS", "Profile", "Span", "profile"]

# Assumed: clocks from a TMU request to its result, and from the start of a DMA transfer to its end. Published loads of
# VideoCore take about this long when they miss the first cache; nobody has published a distribution.
TMU_CLOCKS: Final = 80
DMA_CLOCKS: Final = 240
_ISSUE: Final = 4
_MEMORY: Final = ("load", "transfer")
_NAMES: Final = {"mutex": "the mutex", "semaphore": "semaphores", "barrier": "barriers"}
_MOST_SPANS: Final = 20_000
_MOST_SHOWN: Final = 4000  # spans of a page
_MOST_KEPT: Final = 500  # spans whose registers are kept


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of instructions of one thread without a wait. start, end: clocks. first, last: its instructions.
    registers: those that it changed, with their values at its end, where they were kept."""

    launch: int
    qpu: int
    thread: int
    start: int
    end: int
    first: int
    last: int
    registers: tuple[tuple[str, Any], ...] = ()


@lru_cache(1 << 14)
def _kind(isa: Isa, word: int) -> tuple[bool, bool, bool, bool]:
    """Whether an instruction requests a load, takes a result, starts a transfer, waits for one."""
    if isa is Isa.VC4:
        found = vc4_effects(word)
        reads, writes = found.reads, found.writes
        return (
            any(w in ("tmu0_s", "tmu1_s") for w in writes),
            any(r in ("tmu0_result", "tmu1_result") for r in reads),
            bool(writes & {"vr_addr", "vw_addr"}),
            bool(reads & {"vr_wait", "vw_wait"}),
        )
    found = v3d_effects(decode(isa, word))
    return "tmu_start write" in found.events, "ldtmu" in found.events, False, "op tmuwt" in found.events


@dataclass(slots=True)
class _Qpu:
    """A QPU in the model: its clock, and what the threads wait for."""

    clock: int = 0
    waited: int = 0  # clocks of it in which no thread could issue because all waited for memory
    results: dict[int, list[int]] = field(default_factory=dict)  # thread -> when each pending result arrives
    transfers: dict[int, int] = field(default_factory=dict)  # thread -> when its transfer ends
    open: dict[int, list[int]] = field(default_factory=dict)  # thread -> start, end, first, last of its span


class Profile:
    """What the launches of a block did.

    board: emulated board. launches: their number. executed: instruction -> executions, all threads. waits:
    (instruction, cause) -> clocks, causes as in `stalls`. clocks: of the busiest QPU, waiting included.
    """

    def __init__(self) -> None:
        self.board = ""
        self.isa = Isa.V3D71
        self.launches = 0
        self.executed: Counter[int] = Counter()
        self.waits: Counter[tuple[int, str]] = Counter()
        self.spans: list[Span] = []
        self.program = Code(Isa.V3D71, ())
        self.runs: list[RunStats] = []
        self.registers: dict[int, list[tuple[str, Any]]] = {}  # instruction -> what its first execution changed
        self._qpus: dict[int, _Qpu] = {}
        self._order: Order | None = None
        self._barriers = Barriers()
        self._met: dict[Thread, tuple[int, int]] = {}  # barriers that are complete, by threads that have not gone on
        self._clocks = 0
        self._waited = 0
        self._first = Registers()  # before and after instructions that are executed first
        self._stretch = Registers()  # at both ends of spans
        self._after: dict[tuple[int, int], int] = {}  # thread -> the instruction whose changes come next

    def of(self, info: DeviceInfo, program: Code) -> Profile:
        """Begin a launch of a program on a board. Returns itself."""
        self.board, self.isa, self.program = info.emulated or "", info.isa, program
        return self

    # -- observation

    def begin(self) -> Before:
        """See `qpu.debug.stepping.Stepping`."""
        self.close()
        self.launches += 1
        self._order, self._barriers, self._met = None, Barriers(), {}
        return self._before

    def close(self) -> None:
        """End the job before."""
        for number, q in self._qpus.items():
            for thread in list(q.open):
                self._end(number, q, thread)
        busiest = max(self._qpus.values(), key=lambda q: q.clock, default=_Qpu())
        self._clocks += busiest.clock
        self._waited += busiest.waited
        self._qpus = {}

    def _end(self, number: int, q: _Qpu, thread: int, registers: Iterable[tuple[str, Any]] = ()) -> None:
        start, end, first, last = q.open.pop(thread)
        if len(self.spans) < _MOST_SPANS:
            self.spans.append(Span(self.launches - 1, number, thread, start, end, first, last, tuple(registers)))

    def _before(self, m: Moment) -> None:
        index = m.index
        first = not self.executed[index]
        self.executed[index] += len(m.threads)
        kind, sync = _kind(m.isa, m.word), sync_of(m.isa, m.word)
        order = None
        if sync.cause:
            order = self._order = self._order or Order(m.semaphores, sync, len(m.threads))
        for row, each in enumerate(m.threads):
            q = self._qpus.setdefault(each[0], _Qpu())
            if each in self._met:
                self._wait(q, *self._met.pop(each), "barrier")
            if order is not None:
                self._wait(q, index, order.ready(sync), sync.cause)
            after = self._after.pop(each, None)
            if after is not None:
                self.registers[after] = list(self._first.changed(m, row, each).items())
            if first and not row:
                self._first.forget(each)
                self._first.changed(m, row, each)
                self._after[each] = index
            self._issue(m, row, q, kind)
            if order is not None:
                order.done(sync, q.clock)
            if sync.joins:
                self._met |= self._barriers.join(*m.supergroup(row), each, index, q.clock)

    def _wait(self, q: _Qpu, index: int, ready: int, cause: str) -> None:
        """An instruction waits until a clock."""
        wait = ready - q.clock
        if wait > 0:
            self.waits[index, cause] += wait
            q.clock = ready
            if cause in _MEMORY:
                q.waited += wait

    def _issue(self, m: Moment, row: int, q: _Qpu, kind: tuple[bool, bool, bool, bool]) -> None:
        """A thread executes an instruction, when its results and transfers have come."""
        index, each = m.index, m.threads[row]
        number, thread = each
        requests, takes, starts, waits = kind
        if takes and q.results.get(thread):
            self._wait(q, index, q.results[thread].pop(0), "load")
        if waits and thread in q.transfers:
            self._wait(q, index, q.transfers.pop(thread), "transfer")
        span = q.open.get(thread)
        if span is None or span[1] != q.clock:
            kept = len(self.spans) < _MOST_KEPT
            if span is not None:
                self._end(number, q, thread, self._stretch.changed(m, row, each).items() if kept else ())
            elif kept:
                self._stretch.changed(m, row, each)
            q.open[thread] = span = [q.clock, q.clock, index, index]
        q.clock += _ISSUE
        span[1], span[3] = q.clock, index
        if requests:
            q.results.setdefault(thread, []).append(q.clock + TMU_CLOCKS)
        if starts or (requests and m.isa is not Isa.VC4):
            q.transfers[thread] = q.clock + (DMA_CLOCKS if m.isa is Isa.VC4 else TMU_CLOCKS)

    @staticmethod
    def total(profiles: Sequence[Profile]) -> Profile:
        """Profiles of launches together, in order: counts of all; lines and timeline of those with the last program."""
        found = Profile()
        for p in profiles:
            p.close()
            if p.program is not found.program:
                found.board, found.isa, found.program = p.board, p.isa, p.program
                found.executed, found.waits, found.spans, found.registers = Counter(), Counter(), [], {}
            found.executed.update(p.executed)
            found.waits.update(p.waits)
            found.spans += [replace(s, launch=s.launch + found.launches) for s in p.spans]
            found.registers = p.registers | found.registers
            found.launches += p.launches
            found.runs += p.runs
            found._clocks += p._clocks
            found._waited += p._waited
        return found

    # -- results

    @property
    def clocks(self) -> int:
        """Clocks of the busiest QPU, waiting included, all launches."""
        self.close()
        return self._clocks

    @property
    @brief
    def stats(self) -> RunStats:
        """Totals of the launches. Raises: UsageError without a launch."""
        if not self.runs:
            help = "launch a program or a kernel on an emulated board in the block of qpu.profile(), and ask after it"
            raise UsageError("a profile of 0 launches; allowed: 1 or more", help=help)
        return self.runs[0].total(self.runs)

    @property
    @brief
    def issue_share(self) -> float:
        """Instructions of all QPUs over the issue slots of the QPUs that were used."""
        s = self.stats
        slots = self.clocks / _ISSUE * max(1, len(s.per_qpu))
        return s.instructions / slots if slots else 0.0

    @property
    def stalls(self) -> dict[str, int]:
        """Clocks of waiting of all QPUs by cause: ``load`` (a result of the TMU), ``transfer`` (a DMA transfer of
        VideoCore IV, a store of V3D), and for other QPUs or threads: ``mutex`` and ``semaphore`` on VideoCore IV,
        ``barrier`` on V3D."""
        found = dict.fromkeys((*_MEMORY, *CAUSES[self.isa]), 0)
        for (_, cause), clocks in self.waits.items():
            found[cause] += clocks
        return found

    def _waiting(self, index: int) -> int:
        return sum(self.waits[index, cause] for cause in (*_MEMORY, *CAUSES[self.isa]))

    def lines(self) -> list[tuple[str, int, int]]:
        """(source line, executions, clocks of waiting), in order of the first instruction."""
        found: dict[str, list[int]] = {}
        for n in range(len(self.program)):
            loc = self.program.loc(n)
            name = "(no line)" if loc is None else f"{loc.line}: {loc.source.strip()}"
            row = found.setdefault(name, [0, 0])
            row[0] += self.executed[n]
            row[1] += self._waiting(n)
        return [(name, a, b) for name, (a, b) in found.items() if a]

    @brief
    def estimate(self, board: str | None = None) -> Estimate:
        """The estimated time on a real board (default: that of the emulated one). Raises: UsageError.

        Waits of the busiest QPU that nothing hid count as `qpu.debug.cost.Constants.wait` each.
        """
        s = self.stats
        self.close()
        read, write = s.tmu_read_bytes + s.uniform_bytes, s.tmu_write_bytes + s.dma_write_bytes
        latency = DMA_CLOCKS if s.dma_read_bytes else TMU_CLOCKS
        waits, launches = self._waited / latency, self.launches
        return estimate(
            board or self.board, s.instructions, read, write, launches, waits=waits, dma_read=s.dma_read_bytes
        )

    @property
    @brief
    def text(self) -> str:
        """The profile as text."""
        s = self.stats
        counts = (
            f"{counted(s.instructions, 'instruction', ',')}, {counted(self.clocks, 'clock', ',')} of the busiest QPU"
        )
        tmu = f"TMU {s.tmu_read_bytes:,} read, {s.tmu_write_bytes:,} written"
        dma = f"DMA {s.dma_read_bytes:,} read, {s.dma_write_bytes:,} written"
        if self.isa is Isa.VC4:
            dma += f"; VPM {s.vpm_read_bytes:,} read, {s.vpm_write_bytes:,} written"
        number = f"{self.launches} launch{'' if self.launches == 1 else 'es'}"
        stalls, name = self.stalls, "DMA transfers" if self.isa is Isa.VC4 else "stores"
        head = [
            f"{number} on {self.board}: {counts}, {self.issue_share:.0%} of issue slots used",
            f"bytes: {tmu}; {dma}; uniforms {s.uniform_bytes:,}",
            f"waiting, all QPUs: {counted(stalls['load'], 'clock', ',')} for loads, {stalls['transfer']:,} for {name}, "
            + ", ".join([f"{stalls[cause]:,} for {_NAMES[cause]}" for cause in CAUSES[self.isa]]),
        ]
        rows = [f"{count:>10,} {wait:>10,}  {name}" for name, count, wait in self.lines()]
        return "\n".join([*head, "  executed    waiting  source", *rows])

    def chrome_trace(self) -> str:
        """The timeline as JSON for chrome://tracing or Perfetto: one process per QPU, microseconds are clocks."""
        threads = sorted({(span.qpu, span.thread) for span in self.spans})
        names = [("process_name", qpu, 0, f"QPU {qpu}") for qpu in sorted({qpu for qpu, _ in threads})]
        names += [("thread_name", qpu, thread, f"thread {thread}") for qpu, thread in threads]
        events = [
            {"name": kind, "ph": "M", "pid": qpu, "tid": thread, "args": {"name": name}}
            for kind, qpu, thread, name in names
        ] + [
            {
                "name": self._name(span.first), "ph": "X", "ts": span.start, "dur": span.end - span.start,
                "pid": span.qpu, "tid": span.thread, "args": {"launch": span.launch, "instruction": span.first},
            }
            for span in self.spans
        ]  # fmt: skip
        return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"})

    def _name(self, index: int) -> str:
        loc = self.program.loc(index)
        return f"instruction {index}" if loc is None else f"{loc.line}: {loc.source.strip()}"

    @brief
    def html(self) -> str:
        """A page of its own: source beside instructions beside timeline, registers of what is pointed at.

        It loads nothing.
        """
        self.close()
        text = toolkit(self.isa).disassemble
        program = self.program
        lines = source_lines(program)
        number = {(file, line): n for n, (file, line, _) in enumerate(lines)}
        locs = [program.loc(n) for n in range(len(program))]
        spans = [s for s in self.spans if s.launch == self.launches - 1][:_MOST_SHOWN]
        count = range(len(program))
        return page(
            "Profile of a launch" if self.launches == 1 else f"Profile of {counted(self.launches, 'launch')}",
            "profile",
            {
                "head": "\n".join(self.text.split("\n")[:3]),
                "code": [" ".join(text(word).split()) for word in program.code],
                "line": [-1 if loc is None else number[loc.file, loc.line] for loc in locs],
                "source": [[line, source] for _, line, source in lines],
                "executed": [self.executed[n] for n in count],
                "waits": [self._waiting(n) for n in count],
                "registers": [_shown(self.registers.get(n, ())) for n in count],
                "spans": [[s.qpu, s.thread, s.start, s.end, s.first, s.last] for s in spans],
                "changes": [_shown(s.registers) for s in spans],
            },
        )

    def _repr_html_(self) -> str:
        return frame(self.html(), 620)


def _shown(registers: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(name, packed(value)) for name, value in registers]


class _Collector(JobObserver):
    """Makes a profile for each launch."""

    def __init__(self) -> None:
        self.found: list[Profile] = []
        self._waiting: deque[Profile] = deque()
        self._submitted: list[Profile] = []

    def submitted(self, pool: MemoryPool, info: DeviceInfo, program: Code, job: Job) -> None:
        """A job begins."""
        if info.emulated is None:
            help = "open an emulated board; on a real one, time launches and count events with gpu.counters()"
            raise UsageError(f"launches on {info.board.model} cannot be profiled", help=help)
        made = self._submitted[0] if self._submitted else Profile().of(info, program)
        if not self._submitted:
            self.found.append(made)
        self._submitted.append(made)
        self._waiting.append(made)

    def launched(self, launch: Any) -> None:
        """The jobs before are one launch."""
        launch.profiled(self._submitted[0])
        self._submitted.clear()

    def begin(self) -> Before:
        """See `qpu.debug.stepping.Stepping`."""
        if not self._waiting:
            help = "launch by gpu.run, gpu.submit or a kernel's call; a record can be replayed under qpu.sanitize()"
            raise UsageError("a launch without a device was profiled; allowed: launches of devices", help=help)
        return self._waiting.popleft().begin()


@block
def profile() -> Iterator[Profile]:
    """Profile the launches of the block that are on emulated boards; they run on the reference engine, slowly.

    Yields: the `Profile` of all of them, complete at the end of the block; lines and timeline are those of the last
    program. `Launch.profile` is that of one launch. Raises: UsageError for a launch on a real board.
    """
    found, collector = Profile(), _Collector()
    watch = Stepping(collector.begin, "qpu.profile()")
    with observed(watch):
        OBSERVERS.append(collector)
        try:
            yield found
        finally:
            OBSERVERS.remove(collector)
            whole = Profile.total(collector.found)
            whole.runs = watch.runs
            found.__dict__.update(whole.__dict__)
