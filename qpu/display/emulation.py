"""The notebook displays of an emulated board: statistics of launches, and traces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpu.display.markup import bars, boxes, facts, si, strips, table
from qpu.errors import counted

if TYPE_CHECKING:
    from qpu.emu.engine.machine import RunStats
    from qpu.emu.engine.trace import Trace, TraceEntry

__all__ = ["stats_html", "trace_html"]

ROWS = 200  # of a trace; more would make the notebook cell unreadable
BINS = 112  # along the time line of a trace
LINES = 24  # threads in the time line


def _bytes(n: int) -> str:
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if n >= size:
            return f"{n / size:.3g} {unit}" if n / size < 999.5 else f"{n / size:.0f} {unit}"
    return counted(n, "byte")


def stats_html(stats: RunStats) -> str:
    """Statistics of a launch: executed events, use of the issue slots, bytes moved, instructions of each QPU."""
    n = stats.instructions
    values = {
        "engine": stats.engine,
        "instructions": f"{n:,}",
        "threads started": f"{stats.threads:,}",
        "emulated clocks": f"{stats.clocks:,}",
        "branches": f"{stats.branches:,}",
        "thread switches": f"{stats.thread_switches:,}",
        "TMU requests": f"{stats.tmu_requests:,}",
        "SFU operations": f"{stats.sfu_ops:,}",
        "host time": f"{stats.execute_s * 1e3:.1f} ms, not a time of any board"
        + (f"; {stats.translate_s * 1e3:.0f} ms translating" if stats.translate_s else ""),
    }
    if stats.fallbacks:
        values["executed by the reference engine"] = ", ".join(f"{k}: {v:,}" for k, v in stats.fallbacks.items())
    if stats.faults:
        values["survivable faults"] = f"{len(stats.faults)}, the first: {stats.faults[0]}"
    parts = [facts(f"Launch on an emulated {stats.isa.label}", values)]
    if n:
        used = [
            ("add half used", stats.add_ops / n),
            ("mul half used", stats.mul_ops / n),
            ("of the float peak", stats.float_share),
        ]
        parts.append(bars("issue slots", [(name, x, f"{x:.1%}") for name, x in used], top=1.0))
    moved = [
        ("TMU, read", stats.tmu_read_bytes),
        ("TMU, written", stats.tmu_write_bytes),
        ("uniforms", stats.uniform_bytes),
        ("VPM, read", stats.vpm_read_bytes),
        ("VPM, written", stats.vpm_write_bytes),
        ("DMA to the VPM", stats.dma_read_bytes),
        ("DMA from the VPM", stats.dma_write_bytes),
    ]
    if any(size for _, size in moved):
        parts.append(bars("moved, as the QPUs asked for it", [(a, float(b), _bytes(b)) for a, b in moved if b]))
    if stats.per_qpu:
        most = max(stats.per_qpu.values()) or 1
        worked = [stats.per_qpu.get(i, 0) / most for i in range(max(stats.per_qpu) + 1)]
        parts.append(f"<div>instructions of each QPU; the busiest executed {si(most)}</div>")
        each = 4
        groups = -(-len(worked) // each)
        parts.append(boxes("instructions of each QPU", groups, each, "slice", worked))
    return "".join(parts)


def _changes(entry: TraceEntry) -> str:
    shown = []
    for name, lanes in entry.changes.items():
        if len(lanes) == 1:
            shown.append(f"{name} = {lanes[0]:08x} in all lanes")
        else:
            shown.append(f"{name} = {' '.join(f'{x:08x}' for x in lanes[:4])} …")
    return "\n".join(shown)


def trace_html(trace: Trace) -> str:
    """The threads over time, then the first `ROWS` entries, with four lanes of every changed register."""
    entries = list(trace)
    caption = f"{len(entries):,} traced instructions of {counted(trace.launches, 'launch')}"
    if trace.dropped:
        caption += f"; {trace.dropped:,} {'later' if trace.keep == 'first' else 'earlier'} ones were dropped"
    if not entries:
        return f"<div>{caption}</div>"
    threads = sorted({(e.qpu, e.thread) for e in entries})
    bins = min(BINS, len(entries))
    counts = {key: [0.0] * bins for key in threads[:LINES]}
    for at, entry in enumerate(entries):
        line = counts.get((entry.qpu, entry.thread))
        if line is not None:
            line[at * bins // len(entries)] += 1
    most = max(max(line) for line in counts.values())
    lines = {f"qpu {q}.{t}": [c / most for c in line] for (q, t), line in counts.items()}
    title = "which thread executed when"
    if len(threads) > LINES:
        title += f" (the first {LINES} of {counted(len(threads), 'thread')})"
    rows = [
        (f"{e.launch}.{e.serial}", f"{e.qpu}.{e.thread}", str(e.index), e.text, _changes(e)) for e in entries[:ROWS]
    ]
    if len(entries) > ROWS:
        rows.append(("", "", "", f"… {len(entries) - ROWS:,} more; all are in .text and .json_lines", ""))
    return strips(
        title, lines, axis="instructions in the order of the emulation →", hues=[q for q, _ in counts]
    ) + table(["entry", "qpu", "at", "instruction", "changed: lanes 0 to 3"], rows, caption)
