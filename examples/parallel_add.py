"""Sum of two float32 vectors on all QPUs, with programs written as assembly text.

Examples:
    uv run examples/parallel_add.py --device all
    uv run examples/parallel_add.py --device pi4 --n 16000 --json
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.vc4 import vpm

# One vector of 16 for each workgroup. Uniforms: addresses of a, b and the result. PAYLOAD holds the workgroup's number.
V3D = """
    eidx rf4; nop; ldunifrf.rf6
    shl rf5, PAYLOAD, 4         # a small immediate leaves no room for ldunifrf on V3D 4.2
    add rf4, rf4, rf5; nop; ldunifrf.rf7
    nop; nop; ldunifrf.rf8
    shl rf4, rf4, 2
    add tmua, rf6, rf4          # starts a load
    add tmua, rf7, rf4
    nop; nop; ldtmu.rf9
    nop; nop; ldtmu.rf10
    OPERATION rf11, rf9, rf10
    mov tmud, rf11              # data, then address: a store
    add tmua, rf8, rf4
    nop; nop; thrsw             # two in a row: the last switch ...
    nop; nop; thrsw
    nop; nop
    nop; nop
    nop; nop; thrsw             # ... and the end, with its two delay slots
    nop; nop
    nop; nop
"""

# Each QPU takes neighbouring vectors. Uniforms: how many, addresses of a, b and the result, VPM and DMA set-up.
VC4 = """
.include <vc4.qinc>
    mov ra0, unif
    shl r0, elem_num, 2
    add r1, r0, unif
    add r2, r0, unif
    mov ra1, unif
    mov ra2, unif
    mov ra3, unif
    ldi r3, 64
:loop
    mov t0s, r1
    mov t0s, r2
    nop; ldtmu0
    mov r0, r4; ldtmu0
    mov vw_setup, ra2
    OPERATION vpm, r0, r4
    mov vw_setup, ra3
    mov vw_addr, ra1
    mov -, vw_wait
    sub.setf ra0, ra0, 1
    brr.anynz -, :loop
    add r1, r1, r3              # three delay slots
    add r2, r2, r3
    add ra1, ra1, r3
    mov interrupt, 1
    nop; thrend
    nop
    nop
"""


def source(isa: qpu.Isa, operation: str) -> str:
    """The text for an instruction set."""
    text = VC4 if isa is qpu.Isa.VC4 else V3D.replace("PAYLOAD", "rf0" if isa is qpu.Isa.V3D42 else "rf3")
    return text.replace("OPERATION", operation)


def work(gpu: Device, name: str, operation: str, numpy: Callable[[Any, Any], Any], n: int) -> dict[str, object]:
    """Run and check one size. Memory is padded to whole vectors."""
    vectors = -(-n // 16)
    random = np.random.default_rng(0)
    a, b, out = (gpu.zeros(16 * vectors) for _ in range(3))
    a.array[:n], b.array[:n] = random.uniform(-1, 1, (2, n))
    program = qpu.assemble(source(gpu.isa, operation), isa=gpu.isa, check=True, filename=f"{name}.qasm")

    def launch() -> None:
        if gpu.isa is not qpu.Isa.VC4:
            gpu.run(program, [a, b, out], qpu.v3d.Dispatch(workgroups=vectors))
            return
        qpus = min(gpu.qpus, vectors)
        rows = []
        for i in range(qpus):
            first, last = vectors * i // qpus, vectors * (i + 1) // qpus
            setup = [vpm.vpm_write(y=i), vpm.dma_store(y=i)]
            rows.append([last - first, *(x.view(64 * first) for x in (a, b, out)), *setup])
        gpu.run(program, rows)

    seconds = _common.median_time(launch, lambda: out.array.fill(0))
    error = np.abs(out.numpy()[:n].astype(np.float64) - numpy(a.numpy()[:n].astype(np.float64), b.numpy()[:n]))
    return _common.result(
        gpu, name, n=n, seconds=seconds, max_abs_error=float(error.max()), ok=bool((error <= 2.0**-22).all())
    )


def main(name: str, description: str | None, operation: str, numpy: Callable[[Any, Any], Any]) -> int:
    """The whole example, for one operation."""
    parser = _common.parser(description)
    parser.add_argument("--n", type=int, default=3001, help="elements, 1 .. 100000 (default 3001)")
    options = parser.parse_args()
    n = _common.count_of(options, 100_000)
    return _common.on_devices(options, lambda gpu: work(gpu, name, operation, numpy, n))


if __name__ == "__main__":
    _common.main(lambda: main("parallel_add", __doc__, "fadd", np.add))
