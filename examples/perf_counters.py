"""Performance counters: hardware events while the GPU copies a vector (on VideoCore IV as root).

Examples:
    uv run examples/perf_counters.py --device all
    uv run examples/perf_counters.py --device pi4 --json --counter TMU-active-cycles
"""

from __future__ import annotations

from typing import Any

import _common
import numpy as np
from _elementwise import Elementwise, check_length

import qpu
from qpu.device import Device

DEFAULT = {  # names and numbers of counters differ between the versions
    qpu.Isa.VC4: ("QPU-total-clk-cycles-executing-valid-instr", "TMU-total-text-quads-processed"),
    qpu.Isa.V3D42: ("cycle-count", "QPU-total-clk-cycles-executing-valid-instr", "TMU-total-text-quads-access"),
    qpu.Isa.V3D71: ("cycle-count", "TMU-active-cycles", "TMU-total-text-quads-access"),
}


def copy(q: Any, inputs: list[Any], scalars: list[Any], out: Any) -> None:
    """One vector of 16."""
    q.mov(out, inputs[0])


def work(gpu: Device, n: int, names: tuple[str, ...]) -> dict[str, object]:
    """Count, and check the copy."""
    check_length(gpu, n)
    names = names or DEFAULT[gpu.isa]
    x = np.arange(n, dtype=np.uint32)
    job = Elementwise(gpu, copy, [x], [], np.zeros_like(x))
    seconds = _common.median_time(job.launch, lambda: job.out.array.fill(0))
    with gpu.counters(*names) as counts:
        job.launch()
    error, wrong = _common.difference(job.result(), x)
    return _common.result(
        gpu,
        "perf_counters",
        n=n,
        seconds=seconds,
        counters=dict(counts),
        max_abs_error=error,
        wrong=wrong,
        ok=wrong == 0,
    )


def show(gpu: Device, row: dict[str, object]) -> None:
    """The result for people."""
    _common.show(gpu, row)
    print("  counters of one more launch" + (", as modelled by the emulator" if gpu.emulated else ""))
    print(f"  {row['counters']}")


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--n", type=int, default=10007, help="elements (default 10007)")
    parser.add_argument("--counter", action="append", help="a counter's name; may be repeated")
    options = parser.parse_args()
    n = _common.count_of(options)
    names = tuple(options.counter or ())
    return _common.on_devices(options, lambda gpu: work(gpu, n, names), show)


if __name__ == "__main__":
    _common.main(run)
