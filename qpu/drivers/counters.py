"""Names of the performance counters, by number (drivers.md section 3; the kernel's V3D driver, `Basis.DRIVER`).

The numbering of the two versions is unrelated: always resolve by name. ``L2T-stalls-wrightback`` is the kernel's
spelling.
Whether the AXI byte counters count with the kernel's defaults is uncertain.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from qpu.core.isa import Isa
from qpu.errors import UsageError

__all__ = ["COUNTERS", "V3D42_COUNTERS", "V3D71_COUNTERS", "counter_ids"]

V3D42_COUNTERS: tuple[str, ...] = (
    "FEP-valid-primitives-no-rendered-pixels", "FEP-valid-primitives-rendered-pixels", "FEP-clipped-quads",  # 0..
    "FEP-valid-quads", "TLB-quads-not-passing-stencil-test", "TLB-quads-not-passing-z-and-stencil-test",  # 3..
    "TLB-quads-passing-z-and-stencil-test", "TLB-quads-with-zero-coverage",  # 6..
    "TLB-quads-with-non-zero-coverage", "TLB-quads-written-to-color-buffer",  # 8..
    "PTB-primitives-discarded-outside-viewport", "PTB-primitives-need-clipping",  # 10..
    "PTB-primitives-discarded-reversed", "QPU-total-idle-clk-cycles",  # 12..
    "QPU-total-active-clk-cycles-vertex-coord-shading", "QPU-total-active-clk-cycles-fragment-shading",  # 14..
    "QPU-total-clk-cycles-executing-valid-instr", "QPU-total-clk-cycles-waiting-TMU",  # 16..
    "QPU-total-clk-cycles-waiting-scoreboard", "QPU-total-clk-cycles-waiting-varyings",  # 18..
    "QPU-total-instr-cache-hit", "QPU-total-instr-cache-miss", "QPU-total-uniform-cache-hit",  # 20..
    "QPU-total-uniform-cache-miss", "TMU-total-text-quads-access", "TMU-total-text-cache-miss",  # 23..
    "VPM-total-clk-cycles-VDW-stalled", "VPM-total-clk-cycles-VCD-stalled", "CLE-bin-thread-active-cycles",  # 26..
    "CLE-render-thread-active-cycles", "L2T-total-cache-hit", "L2T-total-cache-miss", "cycle-count",  # 29..
    "QPU-total-clk-cycles-waiting-vertex-coord-shading", "QPU-total-clk-cycles-waiting-fragment-shading",  # 33..
    "PTB-primitives-binned", "AXI-writes-seen-watch-0", "AXI-reads-seen-watch-0",  # 35..
    "AXI-writes-stalled-seen-watch-0", "AXI-reads-stalled-seen-watch-0", "AXI-write-bytes-seen-watch-0",  # 38..
    "AXI-read-bytes-seen-watch-0", "AXI-writes-seen-watch-1", "AXI-reads-seen-watch-1",  # 41..
    "AXI-writes-stalled-seen-watch-1", "AXI-reads-stalled-seen-watch-1", "AXI-write-bytes-seen-watch-1",  # 44..
    "AXI-read-bytes-seen-watch-1", "TLB-partial-quads-written-to-color-buffer", "TMU-total-config-access",  # 47..
    "L2T-no-id-stalled", "L2T-command-queue-stalled", "L2T-TMU-writes", "TMU-active-cycles",  # 50..
    "TMU-stalled-cycles", "CLE-thread-active-cycles", "L2T-TMU-reads", "L2T-CLE-reads",  # 54..
    "L2T-VCD-reads", "L2T-TMU-config-reads", "L2T-SLC0-reads", "L2T-SLC1-reads",  # 58..
    "L2T-SLC2-reads", "L2T-TMU-write-miss", "L2T-TMU-read-miss", "L2T-CLE-read-miss",  # 62..
    "L2T-VCD-read-miss", "L2T-TMU-config-read-miss", "L2T-SLC0-read-miss", "L2T-SLC1-read-miss",  # 66..
    "L2T-SLC2-read-miss", "core-memory-writes", "L2T-memory-writes", "PTB-memory-writes",  # 70..
    "TLB-memory-writes", "core-memory-reads", "L2T-memory-reads", "PTB-memory-reads",  # 74..
    "PSE-memory-reads", "TLB-memory-reads", "GMP-memory-reads", "PTB-memory-words-writes",  # 78..
    "TLB-memory-words-writes", "PSE-memory-words-reads", "TLB-memory-words-reads", "TMU-MRU-hits",  # 82..
    "compute-active-cycles",  # 86..
)  # fmt: skip

V3D71_COUNTERS: tuple[str, ...] = (
    "cycle-count", "core-active", "CLE-bin-thread-active-cycles", "CLE-render-thread-active-cycles",  # 0..
    "compute-active-cycles", "FEP-valid-primitives-no-rendered-pixels",  # 4..
    "FEP-valid-primitives-rendered-pixels", "FEP-clipped-quads", "FEP-valid-quads",  # 6..
    "TLB-quads-not-passing-stencil-test", "TLB-quads-not-passing-z-and-stencil-test",  # 9..
    "TLB-quads-passing-z-and-stencil-test", "TLB-quads-written-to-color-buffer",  # 11..
    "TLB-partial-quads-written-to-color-buffer", "PTB-primitives-need-clipping",  # 13..
    "PTB-primitives-discarded-outside-viewport", "PTB-primitives-binned",  # 15..
    "PTB-primitives-discarded-reversed", "QPU-total-instr-cache-hit", "QPU-total-instr-cache-miss",  # 17..
    "QPU-total-uniform-cache-hit", "QPU-total-uniform-cache-miss", "TMU-active-cycles", "TMU-stalled-cycles",  # 20..
    "TMU-total-text-quads-access", "TMU-cache-x4-active-cycles", "TMU-cache-x4-stalled-cycles",  # 24..
    "TMU-total-text-quads-x4-access", "L2T-total-cache-hit", "L2T-total-cache-miss", "L2T-local",  # 27..
    "L2T-writeback", "L2T-zero", "L2T-merge", "L2T-fill",  # 31..
    "L2T-stalls-no-wid", "L2T-stalls-no-rid", "L2T-stalls-queue-full", "L2T-stalls-wrightback",  # 35..
    "L2T-stalls-mem", "L2T-stalls-fill", "L2T-hitq", "L2T-hitq-full",  # 39..
    "L2T-stalls-read-data", "L2T-TMU-read-hits", "L2T-TMU-read-miss", "L2T-VCD-read-hits",  # 43..
    "L2T-VCD-read-miss", "L2T-SLC-read-hits", "L2T-SLC-read-miss", "AXI-writes-seen-watch-0",  # 47..
    "AXI-reads-seen-watch-0", "AXI-writes-stalled-seen-watch-0", "AXI-reads-stalled-seen-watch-0",  # 51..
    "AXI-write-bytes-seen-watch-0", "AXI-read-bytes-seen-watch-0", "AXI-writes-seen-watch-1",  # 54..
    "AXI-reads-seen-watch-1", "AXI-writes-stalled-seen-watch-1", "AXI-reads-stalled-seen-watch-1",  # 57..
    "AXI-write-bytes-seen-watch-1", "AXI-read-bytes-seen-watch-1", "core-memory-writes", "L2T-memory-writes",  # 60..
    "PTB-memory-writes", "TLB-memory-writes", "core-memory-reads", "L2T-memory-reads",  # 64..
    "PTB-memory-reads", "PSE-memory-reads", "TLB-memory-reads", "PTB-memory-words-writes",  # 68..
    "TLB-memory-words-writes", "PSE-memory-words-reads", "TLB-memory-words-reads", "AXI-read-trans",  # 72..
    "AXI-write-trans", "AXI-read-wait-cycles", "AXI-write-wait-cycles", "AXI-max-outstanding-reads",  # 76..
    "AXI-max-outstanding-writes", "QPU-wait-bubble", "QPU-ic-miss-bubble", "QPU-active",  # 80..
    "QPU-total-active-clk-cycles-fragment-shading", "QPU-stalls",  # 84..
    "QPU-total-clk-cycles-waiting-fragment-shading", "QPU-stalls-TMU", "QPU-stalls-TLB", "QPU-stalls-VPM",  # 86..
    "QPU-stalls-uniforms", "QPU-stalls-SFU", "QPU-stalls-other",  # 90..
)  # fmt: skip

COUNTERS: Mapping[Isa, tuple[str, ...]] = {Isa.V3D42: V3D42_COUNTERS, Isa.V3D71: V3D71_COUNTERS}


def counter_ids(names: Sequence[str], table: Sequence[str], limit: int) -> list[int]:
    """Ids of counters by name, in the order given.

    table: all names by id. limit: counters of one monitor. Raises: UsageError for unknown or repeated names, none, or
    too many.
    """
    if not names:
        raise UsageError("no counter named; name at least one, for example 'cycle-count'")
    if len(names) > limit:
        raise UsageError(f"{len(names)} counters; the hardware counts at most {limit} at a time")
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if list(names).count(n) > 1})
        raise UsageError(f"counter named twice: {', '.join(twice)}")
    index = {name: i for i, name in enumerate(table) if name}
    ids: list[int] = []
    for name in names:
        if name not in index:
            name = str(name)
            near = difflib.get_close_matches(name, index, 3, 0.4)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(f"unknown counter {name!r}; {hint}{len(index)} are known: qpu.drivers.counters.COUNTERS")
        ids.append(index[name])
    return ids
