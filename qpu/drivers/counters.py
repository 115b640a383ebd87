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
    "FEP-valid-primitives-no-rendered-pixels",  # 0
    "FEP-valid-primitives-rendered-pixels",  # 1
    "FEP-clipped-quads",  # 2
    "FEP-valid-quads",  # 3
    "TLB-quads-not-passing-stencil-test",  # 4
    "TLB-quads-not-passing-z-and-stencil-test",  # 5
    "TLB-quads-passing-z-and-stencil-test",  # 6
    "TLB-quads-with-zero-coverage",  # 7
    "TLB-quads-with-non-zero-coverage",  # 8
    "TLB-quads-written-to-color-buffer",  # 9
    "PTB-primitives-discarded-outside-viewport",  # 10
    "PTB-primitives-need-clipping",  # 11
    "PTB-primitives-discarded-reversed",  # 12
    "QPU-total-idle-clk-cycles",  # 13
    "QPU-total-active-clk-cycles-vertex-coord-shading",  # 14
    "QPU-total-active-clk-cycles-fragment-shading",  # 15
    "QPU-total-clk-cycles-executing-valid-instr",  # 16
    "QPU-total-clk-cycles-waiting-TMU",  # 17
    "QPU-total-clk-cycles-waiting-scoreboard",  # 18
    "QPU-total-clk-cycles-waiting-varyings",  # 19
    "QPU-total-instr-cache-hit",  # 20
    "QPU-total-instr-cache-miss",  # 21
    "QPU-total-uniform-cache-hit",  # 22
    "QPU-total-uniform-cache-miss",  # 23
    "TMU-total-text-quads-access",  # 24
    "TMU-total-text-cache-miss",  # 25
    "VPM-total-clk-cycles-VDW-stalled",  # 26
    "VPM-total-clk-cycles-VCD-stalled",  # 27
    "CLE-bin-thread-active-cycles",  # 28
    "CLE-render-thread-active-cycles",  # 29
    "L2T-total-cache-hit",  # 30
    "L2T-total-cache-miss",  # 31
    "cycle-count",  # 32
    "QPU-total-clk-cycles-waiting-vertex-coord-shading",  # 33
    "QPU-total-clk-cycles-waiting-fragment-shading",  # 34
    "PTB-primitives-binned",  # 35
    "AXI-writes-seen-watch-0",  # 36
    "AXI-reads-seen-watch-0",  # 37
    "AXI-writes-stalled-seen-watch-0",  # 38
    "AXI-reads-stalled-seen-watch-0",  # 39
    "AXI-write-bytes-seen-watch-0",  # 40
    "AXI-read-bytes-seen-watch-0",  # 41
    "AXI-writes-seen-watch-1",  # 42
    "AXI-reads-seen-watch-1",  # 43
    "AXI-writes-stalled-seen-watch-1",  # 44
    "AXI-reads-stalled-seen-watch-1",  # 45
    "AXI-write-bytes-seen-watch-1",  # 46
    "AXI-read-bytes-seen-watch-1",  # 47
    "TLB-partial-quads-written-to-color-buffer",  # 48
    "TMU-total-config-access",  # 49
    "L2T-no-id-stalled",  # 50
    "L2T-command-queue-stalled",  # 51
    "L2T-TMU-writes",  # 52
    "TMU-active-cycles",  # 53
    "TMU-stalled-cycles",  # 54
    "CLE-thread-active-cycles",  # 55
    "L2T-TMU-reads",  # 56
    "L2T-CLE-reads",  # 57
    "L2T-VCD-reads",  # 58
    "L2T-TMU-config-reads",  # 59
    "L2T-SLC0-reads",  # 60
    "L2T-SLC1-reads",  # 61
    "L2T-SLC2-reads",  # 62
    "L2T-TMU-write-miss",  # 63
    "L2T-TMU-read-miss",  # 64
    "L2T-CLE-read-miss",  # 65
    "L2T-VCD-read-miss",  # 66
    "L2T-TMU-config-read-miss",  # 67
    "L2T-SLC0-read-miss",  # 68
    "L2T-SLC1-read-miss",  # 69
    "L2T-SLC2-read-miss",  # 70
    "core-memory-writes",  # 71
    "L2T-memory-writes",  # 72
    "PTB-memory-writes",  # 73
    "TLB-memory-writes",  # 74
    "core-memory-reads",  # 75
    "L2T-memory-reads",  # 76
    "PTB-memory-reads",  # 77
    "PSE-memory-reads",  # 78
    "TLB-memory-reads",  # 79
    "GMP-memory-reads",  # 80
    "PTB-memory-words-writes",  # 81
    "TLB-memory-words-writes",  # 82
    "PSE-memory-words-reads",  # 83
    "TLB-memory-words-reads",  # 84
    "TMU-MRU-hits",  # 85
    "compute-active-cycles",  # 86
)

V3D71_COUNTERS: tuple[str, ...] = (
    "cycle-count",  # 0
    "core-active",  # 1
    "CLE-bin-thread-active-cycles",  # 2
    "CLE-render-thread-active-cycles",  # 3
    "compute-active-cycles",  # 4
    "FEP-valid-primitives-no-rendered-pixels",  # 5
    "FEP-valid-primitives-rendered-pixels",  # 6
    "FEP-clipped-quads",  # 7
    "FEP-valid-quads",  # 8
    "TLB-quads-not-passing-stencil-test",  # 9
    "TLB-quads-not-passing-z-and-stencil-test",  # 10
    "TLB-quads-passing-z-and-stencil-test",  # 11
    "TLB-quads-written-to-color-buffer",  # 12
    "TLB-partial-quads-written-to-color-buffer",  # 13
    "PTB-primitives-need-clipping",  # 14
    "PTB-primitives-discarded-outside-viewport",  # 15
    "PTB-primitives-binned",  # 16
    "PTB-primitives-discarded-reversed",  # 17
    "QPU-total-instr-cache-hit",  # 18
    "QPU-total-instr-cache-miss",  # 19
    "QPU-total-uniform-cache-hit",  # 20
    "QPU-total-uniform-cache-miss",  # 21
    "TMU-active-cycles",  # 22
    "TMU-stalled-cycles",  # 23
    "TMU-total-text-quads-access",  # 24
    "TMU-cache-x4-active-cycles",  # 25
    "TMU-cache-x4-stalled-cycles",  # 26
    "TMU-total-text-quads-x4-access",  # 27
    "L2T-total-cache-hit",  # 28
    "L2T-total-cache-miss",  # 29
    "L2T-local",  # 30
    "L2T-writeback",  # 31
    "L2T-zero",  # 32
    "L2T-merge",  # 33
    "L2T-fill",  # 34
    "L2T-stalls-no-wid",  # 35
    "L2T-stalls-no-rid",  # 36
    "L2T-stalls-queue-full",  # 37
    "L2T-stalls-wrightback",  # 38
    "L2T-stalls-mem",  # 39
    "L2T-stalls-fill",  # 40
    "L2T-hitq",  # 41
    "L2T-hitq-full",  # 42
    "L2T-stalls-read-data",  # 43
    "L2T-TMU-read-hits",  # 44
    "L2T-TMU-read-miss",  # 45
    "L2T-VCD-read-hits",  # 46
    "L2T-VCD-read-miss",  # 47
    "L2T-SLC-read-hits",  # 48
    "L2T-SLC-read-miss",  # 49
    "AXI-writes-seen-watch-0",  # 50
    "AXI-reads-seen-watch-0",  # 51
    "AXI-writes-stalled-seen-watch-0",  # 52
    "AXI-reads-stalled-seen-watch-0",  # 53
    "AXI-write-bytes-seen-watch-0",  # 54
    "AXI-read-bytes-seen-watch-0",  # 55
    "AXI-writes-seen-watch-1",  # 56
    "AXI-reads-seen-watch-1",  # 57
    "AXI-writes-stalled-seen-watch-1",  # 58
    "AXI-reads-stalled-seen-watch-1",  # 59
    "AXI-write-bytes-seen-watch-1",  # 60
    "AXI-read-bytes-seen-watch-1",  # 61
    "core-memory-writes",  # 62
    "L2T-memory-writes",  # 63
    "PTB-memory-writes",  # 64
    "TLB-memory-writes",  # 65
    "core-memory-reads",  # 66
    "L2T-memory-reads",  # 67
    "PTB-memory-reads",  # 68
    "PSE-memory-reads",  # 69
    "TLB-memory-reads",  # 70
    "PTB-memory-words-writes",  # 71
    "TLB-memory-words-writes",  # 72
    "PSE-memory-words-reads",  # 73
    "TLB-memory-words-reads",  # 74
    "AXI-read-trans",  # 75
    "AXI-write-trans",  # 76
    "AXI-read-wait-cycles",  # 77
    "AXI-write-wait-cycles",  # 78
    "AXI-max-outstanding-reads",  # 79
    "AXI-max-outstanding-writes",  # 80
    "QPU-wait-bubble",  # 81
    "QPU-ic-miss-bubble",  # 82
    "QPU-active",  # 83
    "QPU-total-active-clk-cycles-fragment-shading",  # 84
    "QPU-stalls",  # 85
    "QPU-total-clk-cycles-waiting-fragment-shading",  # 86
    "QPU-stalls-TMU",  # 87
    "QPU-stalls-TLB",  # 88
    "QPU-stalls-VPM",  # 89
    "QPU-stalls-uniforms",  # 90
    "QPU-stalls-SFU",  # 91
    "QPU-stalls-other",  # 92
)

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
