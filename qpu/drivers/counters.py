"""Names of the performance counters, by number (drivers.md section 3; V3D: Linux's driver, `Basis.DRIVER`).

The numbers of 4.2 and 7.1 are unrelated: always look counters up by name. ``L2T-stalls-wrightback`` is the driver's
spelling.
Whether the AXI byte counters count with the driver's defaults is uncertain.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from qpu.core.isa import Isa
from qpu.errors import UsageError

__all__ = ["COUNTERS", "V3D42_COUNTERS", "V3D71_COUNTERS", "VC4_COUNTERS", "counter_ids"]


def parse_counters(table: str) -> tuple[str, ...]:
    """Names by number from a text: names in order; each line begins with the number of its first name."""
    names: list[str] = []
    for line in table.split("\n"):
        number, *found = line.split() or [str(len(names))]
        assert int(number) == len(names), f"counter {number} is the {len(names)}th of its table"
        names += found
    return tuple(names)


V3D42_COUNTERS = parse_counters(
    """
     0 FEP-valid-primitives-no-rendered-pixels FEP-valid-primitives-rendered-pixels FEP-clipped-quads FEP-valid-quads
     4 TLB-quads-not-passing-stencil-test TLB-quads-not-passing-z-and-stencil-test
     6 TLB-quads-passing-z-and-stencil-test TLB-quads-with-zero-coverage TLB-quads-with-non-zero-coverage
     9 TLB-quads-written-to-color-buffer PTB-primitives-discarded-outside-viewport PTB-primitives-need-clipping
    12 PTB-primitives-discarded-reversed QPU-total-idle-clk-cycles QPU-total-active-clk-cycles-vertex-coord-shading
    15 QPU-total-active-clk-cycles-fragment-shading QPU-total-clk-cycles-executing-valid-instr
    17 QPU-total-clk-cycles-waiting-TMU QPU-total-clk-cycles-waiting-scoreboard QPU-total-clk-cycles-waiting-varyings
    20 QPU-total-instr-cache-hit QPU-total-instr-cache-miss QPU-total-uniform-cache-hit QPU-total-uniform-cache-miss
    24 TMU-total-text-quads-access TMU-total-text-cache-miss VPM-total-clk-cycles-VDW-stalled
    27 VPM-total-clk-cycles-VCD-stalled CLE-bin-thread-active-cycles CLE-render-thread-active-cycles
    30 L2T-total-cache-hit L2T-total-cache-miss cycle-count QPU-total-clk-cycles-waiting-vertex-coord-shading
    34 QPU-total-clk-cycles-waiting-fragment-shading PTB-primitives-binned AXI-writes-seen-watch-0
    37 AXI-reads-seen-watch-0 AXI-writes-stalled-seen-watch-0 AXI-reads-stalled-seen-watch-0
    40 AXI-write-bytes-seen-watch-0 AXI-read-bytes-seen-watch-0 AXI-writes-seen-watch-1 AXI-reads-seen-watch-1
    44 AXI-writes-stalled-seen-watch-1 AXI-reads-stalled-seen-watch-1 AXI-write-bytes-seen-watch-1
    47 AXI-read-bytes-seen-watch-1 TLB-partial-quads-written-to-color-buffer TMU-total-config-access L2T-no-id-stalled
    51 L2T-command-queue-stalled L2T-TMU-writes TMU-active-cycles TMU-stalled-cycles CLE-thread-active-cycles
    56 L2T-TMU-reads L2T-CLE-reads L2T-VCD-reads L2T-TMU-config-reads L2T-SLC0-reads L2T-SLC1-reads L2T-SLC2-reads
    63 L2T-TMU-write-miss L2T-TMU-read-miss L2T-CLE-read-miss L2T-VCD-read-miss L2T-TMU-config-read-miss
    68 L2T-SLC0-read-miss L2T-SLC1-read-miss L2T-SLC2-read-miss core-memory-writes L2T-memory-writes PTB-memory-writes
    74 TLB-memory-writes core-memory-reads L2T-memory-reads PTB-memory-reads PSE-memory-reads TLB-memory-reads
    80 GMP-memory-reads PTB-memory-words-writes TLB-memory-words-writes PSE-memory-words-reads TLB-memory-words-reads
    85 TMU-MRU-hits compute-active-cycles
    """
)
V3D71_COUNTERS = parse_counters(
    """
     0 cycle-count core-active CLE-bin-thread-active-cycles CLE-render-thread-active-cycles compute-active-cycles
     5 FEP-valid-primitives-no-rendered-pixels FEP-valid-primitives-rendered-pixels FEP-clipped-quads FEP-valid-quads
     9 TLB-quads-not-passing-stencil-test TLB-quads-not-passing-z-and-stencil-test
    11 TLB-quads-passing-z-and-stencil-test TLB-quads-written-to-color-buffer
    13 TLB-partial-quads-written-to-color-buffer PTB-primitives-need-clipping
    15 PTB-primitives-discarded-outside-viewport PTB-primitives-binned PTB-primitives-discarded-reversed
    18 QPU-total-instr-cache-hit QPU-total-instr-cache-miss QPU-total-uniform-cache-hit QPU-total-uniform-cache-miss
    22 TMU-active-cycles TMU-stalled-cycles TMU-total-text-quads-access TMU-cache-x4-active-cycles
    26 TMU-cache-x4-stalled-cycles TMU-total-text-quads-x4-access L2T-total-cache-hit L2T-total-cache-miss L2T-local
    31 L2T-writeback L2T-zero L2T-merge L2T-fill L2T-stalls-no-wid L2T-stalls-no-rid L2T-stalls-queue-full
    38 L2T-stalls-wrightback L2T-stalls-mem L2T-stalls-fill L2T-hitq L2T-hitq-full L2T-stalls-read-data
    44 L2T-TMU-read-hits L2T-TMU-read-miss L2T-VCD-read-hits L2T-VCD-read-miss L2T-SLC-read-hits L2T-SLC-read-miss
    50 AXI-writes-seen-watch-0 AXI-reads-seen-watch-0 AXI-writes-stalled-seen-watch-0 AXI-reads-stalled-seen-watch-0
    54 AXI-write-bytes-seen-watch-0 AXI-read-bytes-seen-watch-0 AXI-writes-seen-watch-1 AXI-reads-seen-watch-1
    58 AXI-writes-stalled-seen-watch-1 AXI-reads-stalled-seen-watch-1 AXI-write-bytes-seen-watch-1
    61 AXI-read-bytes-seen-watch-1 core-memory-writes L2T-memory-writes PTB-memory-writes TLB-memory-writes
    66 core-memory-reads L2T-memory-reads PTB-memory-reads PSE-memory-reads TLB-memory-reads PTB-memory-words-writes
    72 TLB-memory-words-writes PSE-memory-words-reads TLB-memory-words-reads AXI-read-trans AXI-write-trans
    77 AXI-read-wait-cycles AXI-write-wait-cycles AXI-max-outstanding-reads AXI-max-outstanding-writes QPU-wait-bubble
    82 QPU-ic-miss-bubble QPU-active QPU-total-active-clk-cycles-fragment-shading QPU-stalls
    86 QPU-total-clk-cycles-waiting-fragment-shading QPU-stalls-TMU QPU-stalls-TLB QPU-stalls-VPM QPU-stalls-uniforms
    91 QPU-stalls-SFU QPU-stalls-other
    """
)
# VideoCore IV: sources of the event counters by number (MANUAL), with the names of the graphics drivers (DRIVER).
VC4_COUNTERS = parse_counters(
    """
     0 FEP-valid-primitives-no-rendered-pixels FEP-valid-primitives-rendered-pixels FEP-clipped-quads FEP-valid-quads
     4 TLB-quads-not-passing-stencil-test TLB-quads-not-passing-z-and-stencil-test
     6 TLB-quads-passing-z-and-stencil-test TLB-quads-with-zero-coverage TLB-quads-with-non-zero-coverage
     9 TLB-quads-written-to-color-buffer PTB-primitives-discarded-outside-viewport PTB-primitives-need-clipping
    12 PTB-primitives-discarded-reversed QPU-total-idle-clk-cycles QPU-total-clk-cycles-vertex-coord-shading
    15 QPU-total-clk-cycles-fragment-shading QPU-total-clk-cycles-executing-valid-instr
    17 QPU-total-clk-cycles-waiting-TMU QPU-total-clk-cycles-waiting-scoreboard QPU-total-clk-cycles-waiting-varyings
    20 QPU-total-instr-cache-hit QPU-total-instr-cache-miss QPU-total-uniform-cache-hit QPU-total-uniform-cache-miss
    24 TMU-total-text-quads-processed TMU-total-text-cache-miss VPM-total-clk-cycles-VDW-stalled
    27 VPM-total-clk-cycles-VCD-stalled L2C-total-cache-hit L2C-total-cache-miss
    """
)

COUNTERS: Mapping[Isa, tuple[str, ...]] = {Isa.V3D42: V3D42_COUNTERS, Isa.V3D71: V3D71_COUNTERS}


def counter_ids(names: Sequence[str], table: Sequence[str], limit: int) -> list[int]:
    """Ids of counters by name, in the order given.

    table: all names by id. limit: counters of one monitor. Raises: UsageError for an unknown or a repeated name, for
    no name, and for too many.
    """
    if not names:
        raise UsageError(f"no counter named; allowed: 1..{limit}", help="name at least one, for example 'cycle-count'")
    if len(names) > limit:
        raise UsageError(
            f"{len(names)} counters; the hardware counts at most {limit} at a time", help="count them in several runs"
        )
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if list(names).count(n) > 1})
        raise UsageError(f"counter named twice: {', '.join(twice)}", help="name each counter once")
    index = {name: i for i, name in enumerate(table) if name}
    ids: list[int] = []
    for name in names:
        if name not in index:
            name = str(name)
            near = difflib.get_close_matches(name, index, 3, 0.4)
            advice = "the reference page `qpu.drivers.counters` lists the names"
            if near:
                advice = f"did you mean {' or '.join(near)}? {advice}"
            raise UsageError(f"unknown counter {name!r}; this GPU has {len(index)}", help=advice)
        ids.append(index[name])
    return ids
