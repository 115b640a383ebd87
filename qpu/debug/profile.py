"""The profile of launches: instructions, waiting and traffic by source line, timelines, and estimated times.

Counts are those of the emulation and exact. Waiting follows from latencies that are assumed and named here; it is the
time in which no thread of a QPU could issue an instruction.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from typing import Final

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.debug.cost import Estimate, estimate
from qpu.debug.stepping import Before, Moment, Stepping
from qpu.drivers.base import DeviceInfo, Job
from qpu.emu.engine.machine import RunStats
from qpu.emu.engines import WATCHES
from qpu.program import toolkit
from qpu.runtime.jobs import OBSERVERS
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
_MOST_SPANS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of instructions of one thread without a wait. start, end: clocks. first: its first instruction."""

    launch: int
    qpu: int
    thread: int
    start: int
    end: int
    first: int


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
    results: dict[int, list[int]] = field(default_factory=dict)  # thread -> when each pending result arrives
    transfers: dict[int, int] = field(default_factory=dict)  # thread -> when its transfer ends
    open: dict[int, list[int]] = field(default_factory=dict)  # thread -> start, end and first instruction of its span


class Profile:
    """What the launches of a block did.

    board: emulated board. launches: their number. executed: instruction -> executions, all threads. waits:
    (instruction, cause) -> clocks, causes ``load`` and ``transfer``. clocks: of the busiest QPU, waiting included.
    """

    def __init__(self) -> None:
        self.board = ""
        self.isa = Isa.V3D71
        self.launches = 0
        self.executed: Counter[int] = Counter()
        self.waits: Counter[tuple[int, str]] = Counter()
        self.spans: list[Span] = []
        self.program = Code(Isa.V3D71, ())
        self._qpus: dict[int, _Qpu] = {}
        self._clocks = 0
        self._runs: list[RunStats] = []

    # -- observation

    def submitted(self, pool: MemoryPool, info: DeviceInfo, program: Code, job: Job) -> None:
        """A launch begins."""
        if self.launches and program is not self.program:
            self.executed.clear()  # lines and counts are those of the last program
            self.waits.clear()
            self.spans.clear()
        self.board, self.isa, self.program = info.emulated or "", info.isa, program

    def finished(self) -> None:
        """The launch has ended."""

    def begin(self) -> Before:
        """See `qpu.debug.stepping.Stepping`."""
        self._close()
        self.launches += 1
        return self._before

    def _close(self) -> None:
        """End the launch before."""
        for number, q in self._qpus.items():
            for thread in list(q.open):
                self._end(number, q, thread)
        self._clocks += max((q.clock for q in self._qpus.values()), default=0)
        self._qpus = {}

    def _end(self, number: int, q: _Qpu, thread: int) -> None:
        start, end, first = q.open.pop(thread)
        if len(self.spans) < _MOST_SPANS:
            self.spans.append(Span(self.launches - 1, number, thread, start, end, first))

    def _before(self, m: Moment) -> None:
        index = m.index
        self.executed[index] += len(m.threads)
        requests, takes, starts, waits = _kind(m.isa, m.word)
        for number, thread in m.threads:
            q = self._qpus.setdefault(number, _Qpu())
            ready, cause = 0, ""
            if takes and q.results.get(thread):
                ready, cause = q.results[thread].pop(0), "load"
            if waits and thread in q.transfers:
                ready, cause = q.transfers.pop(thread), "transfer"
            if ready > q.clock:
                self.waits[index, cause] += ready - q.clock
                q.clock = ready
                if thread in q.open:
                    self._end(number, q, thread)
            span = q.open.get(thread)
            if span is None or span[1] != q.clock:
                if span is not None:
                    self._end(number, q, thread)
                q.open[thread] = span = [q.clock, q.clock, index]
            q.clock += _ISSUE
            span[1] = q.clock
            if requests:
                q.results.setdefault(thread, []).append(q.clock + TMU_CLOCKS)
            if starts or (requests and m.isa is not Isa.VC4):
                q.transfers[thread] = q.clock + (DMA_CLOCKS if m.isa is Isa.VC4 else TMU_CLOCKS)

    def done(self, runs: list[RunStats]) -> None:
        """The block has ended. runs: statistics of its launches."""
        self._close()
        self._runs = runs

    # -- results

    @property
    def clocks(self) -> int:
        """Clocks of the busiest QPU, waiting included, all launches."""
        return self._clocks

    @property
    def stats(self) -> RunStats:
        """Totals of the launches. Raises: ValueError without a launch."""
        if not self._runs:
            raise ValueError("nothing was launched")
        return self._runs[0].total(self._runs)

    @property
    def issue_share(self) -> float:
        """Instructions of all QPUs over the issue slots of the QPUs that were used."""
        s = self.stats
        slots = self._clocks / _ISSUE * max(1, len(s.per_qpu))
        return s.instructions / slots if slots else 0.0

    def lines(self) -> list[tuple[str, int, int]]:
        """(source line, executions, clocks of waiting), in order of the first instruction."""
        found: dict[str, list[int]] = {}
        for n in range(len(self.program)):
            loc = self.program.loc(n)
            name = "(no line)" if loc is None else f"{loc.line}: {loc.source.strip()}"
            row = found.setdefault(name, [0, 0])
            row[0] += self.executed[n]
            row[1] += self.waits[n, "load"] + self.waits[n, "transfer"]
        return [(name, a, b) for name, (a, b) in found.items() if a]

    def estimate(self, board: str | None = None) -> Estimate:
        """The estimated time on a real board (default: that of the emulated one). Raises: UsageError, ValueError."""
        s = self.stats
        read = s.tmu_read_bytes + s.dma_read_bytes + s.uniform_bytes
        return estimate(board or self.board, s.instructions, read, s.tmu_write_bytes + s.dma_write_bytes, self.launches)

    @property
    def text(self) -> str:
        """The profile as text."""
        s = self.stats
        counts = f"{s.instructions:,} instructions, {self.clocks:,} clocks of the busiest QPU"
        tmu = f"TMU {s.tmu_read_bytes:,} read, {s.tmu_write_bytes:,} written"
        dma = f"DMA {s.dma_read_bytes:,} read, {s.dma_write_bytes:,} written"
        head = [
            f"{self.launches} launches on {self.board}: {counts}, {self.issue_share:.0%} of issue slots used",
            f"bytes: {tmu}; {dma}; uniforms {s.uniform_bytes:,}",
        ]
        rows = [f"{count:>10,} {wait:>10,}  {name}" for name, count, wait in self.lines()]
        return "\n".join([*head, "  executed    waiting  source", *rows])

    def chrome_trace(self) -> str:
        """The timeline as JSON for chrome://tracing or Perfetto: one process per QPU, microseconds are clocks."""
        events = [
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

    def html(self) -> str:
        """A page of its own: source beside instructions with counts, and the timeline. It loads nothing."""
        text = toolkit(self.isa).disassemble
        most = max(self.executed.values(), default=1)
        rows = []
        for n, word in enumerate(self.program.code):
            loc = self.program.loc(n)
            source = "" if loc is None else escape(f"{loc.line}: {loc.source.strip()}")
            wait = self.waits[n, "load"] + self.waits[n, "transfer"]
            share = self.executed[n] / most
            rows.append(
                f"<tr><td>{source}</td><td>{n}</td><td><code>{escape(text(word))}</code></td>"
                f'<td style="--share:{share:.3f}">{self.executed[n]:,}</td><td>{wait:,}</td></tr>'
            )
        return _PAGE.format(head=escape(self.text.split("\n  executed")[0]), rows="\n".join(rows), svg=self._svg())

    def _svg(self) -> str:
        spans = [s for s in self.spans if s.launch == self.launches - 1]
        if not spans:
            return ""
        lanes = sorted({(s.qpu, s.thread) for s in spans})
        end = max(s.end for s in spans)
        bars = []
        for s in spans:
            x, width = 60 + 900 * s.start / end, max(0.5, 900 * (s.end - s.start) / end)
            title = escape(f"QPU {s.qpu}.{s.thread}, clocks {s.start} to {s.end}: {self._name(s.first)}")
            y = 14 * lanes.index((s.qpu, s.thread))
            bars.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="11"><title>{title}</title></rect>')
        names = [f'<text x="0" y="{14 * n + 10}">QPU {q}.{t}</text>' for n, (q, t) in enumerate(lanes)]
        return f'<svg viewBox="0 0 970 {14 * len(lanes) + 4}">{"".join(names + bars)}</svg>'

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text)}</pre>"


_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Profile of a launch</title><style>
:root {{ color-scheme: light dark; font: 14px system-ui, sans-serif; --bar: #2a78c2; --hot: #d9822b55; }}
table {{ border-collapse: collapse; width: 100%; }} td {{ padding: 1px 8px; white-space: pre; }}
td:nth-child(n+4), td:nth-child(2) {{ text-align: right; font-variant-numeric: tabular-nums; }}
td:nth-child(4) {{ background: linear-gradient(var(--hot), var(--hot)) right / calc(100% * var(--share)) no-repeat; }}
svg {{ width: 100%; }} rect {{ fill: var(--bar); }} rect:hover {{ fill: #d9822b; }}
text {{ font-size: 9px; fill: currentColor; }}
</style></head><body><h1>Profile of a launch</h1><pre>{head}</pre>
<h2>Timeline of the last launch (clocks of the emulation, with assumed latencies)</h2>{svg}
<h2>Instructions</h2><table><tr><th>source</th><th></th><th>instruction</th><th>executed</th><th>waiting</th></tr>
{rows}</table></body></html>
"""


@contextmanager
def profile() -> Iterator[Profile]:
    """Profile the launches of the block that are on emulated boards; they run on the reference engine, slowly.

    Yields: the `Profile`, complete at the end of the block. Lines and counts are those of the last program.
    """
    found = Profile()
    watch = Stepping(found.begin)
    WATCHES.append(watch)
    OBSERVERS.append(found)
    try:
        yield found
    finally:
        WATCHES.remove(watch)
        OBSERVERS.remove(found)
        found.done(watch.runs)
