"""First program: adds two vectors, 16 elements at a time, and checks the sum against NumPy.

Examples:
    uv run examples/assembly/hello_world.py --device all
    uv run examples/assembly/hello_world.py --device pi5 --n 100 --json
"""

from __future__ import annotations

from collections.abc import Callable

import _above  # noqa: F401  # before what is there
import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.v3d import Asm42, Asm71
from qpu.vc4 import Asm


def add_71(q: Asm71) -> None:
    """V3D 7.1 (Pi 5): a workgroup of 16 items adds 16 numbers. Uniforms: addresses of a, b and the sum."""
    rf = q.rf
    q.eidx(rf[4])  # 0 .. 15, the number of each lane
    q.shl(rf[5], rf[3], 4)  # rf3 holds the workgroup's number in x at the start
    q.add(rf[4], rf[4], rf[5])
    q.shl(rf[4], rf[4], 2)  # bytes
    q.nop(sig=q.ldunifrf(rf[5]))
    q.add(q.tmua, rf[5], rf[4], sig=q.ldunifrf(rf[6]))  # writing an address starts a load
    q.add(q.tmua, rf[6], rf[4], sig=q.ldunifrf(rf[7]))
    q.nop(sig=q.ldtmu(rf[8]))  # results are in the order of the requests
    q.nop(sig=q.ldtmu(rf[9]))
    q.fadd(q.tmud, rf[8], rf[9])  # data first, then the address: a store
    q.add(q.tmua, rf[7], rf[4])
    q.end()


def add_42(q: Asm42) -> None:
    """V3D 4.2 (Pi 4): the same, but the workgroup's number is in rf0."""
    rf = q.rf
    q.eidx(rf[4])
    q.shl(rf[5], rf[0], 4)
    q.add(rf[4], rf[4], rf[5])
    q.shl(rf[4], rf[4], 2)
    q.nop(sig=q.ldunifrf(rf[5]))
    q.nop(sig=q.ldunifrf(rf[6]))
    q.nop(sig=q.ldunifrf(rf[7]))
    q.add(q.tmua, rf[5], rf[4])
    q.add(q.tmua, rf[6], rf[4])
    q.nop(sig=q.ldtmu(rf[8]))
    q.nop(sig=q.ldtmu(rf[9]))
    q.fadd(q.tmud, rf[8], rf[9])
    q.add(q.tmua, rf[7], rf[4])
    q.end()


def add_vc4(q: Asm) -> None:
    """VideoCore IV (Pi 0-3): one QPU loops. Uniforms: number of vectors, addresses of a, b and the sum.

    The TMU of VideoCore IV only reads. Results are written to the VPM, and a DMA stores them to memory.
    """
    q.mov(q.ra[0], q.uniform)
    q.shl(q.r0, q.element_number, 2)
    q.add(q.r1, q.r0, q.uniform)
    q.add(q.r2, q.r0, q.uniform)
    q.mov(q.ra[1], q.uniform)
    q.ldi(q.r3, 64)  # bytes of a vector
    with q.loop() as loop:
        q.mov(q.tmu0_s, q.r1)
        q.mov(q.tmu0_s, q.r2)
        q.nop(sig=q.ldtmu0)  # writes the result to r4, which the next instruction can read
        q.mov(q.r0, q.r4, sig=q.ldtmu0)
        q.setup_vpm_write()
        q.fadd(q.vpm, q.r0, q.r4)
        q.setup_dma_store()
        q.start_dma_store(q.ra[1])
        q.wait_dma_store()
        q.sub(q.ra[0], q.ra[0], 1, push="z")
        q.b(loop.start, cond="anynz")
        q.add(q.r1, q.r1, q.r3)  # the three instructions after a branch are always executed
        q.add(q.r2, q.r2, q.r3)
        q.add(q.ra[1], q.ra[1], q.r3)
    q.end()


KERNELS: dict[qpu.Isa, Callable[..., None]] = {qpu.Isa.VC4: add_vc4, qpu.Isa.V3D42: add_42, qpu.Isa.V3D71: add_71}


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size. Memory is padded to whole vectors, so no lane needs a mask."""
    vectors = -(-n // 16)
    random = np.random.default_rng(0)
    a, b, total = (gpu.zeros(16 * vectors) for _ in range(3))
    a.array[:n], b.array[:n] = random.uniform(-1, 1, (2, n))
    program = qpu.assemble(KERNELS[gpu.isa], isa=gpu.isa)

    def launch() -> None:
        if gpu.isa is qpu.Isa.VC4:
            gpu.run(program, [vectors, a, b, total])
        else:
            gpu.run(program, [a, b, total], qpu.v3d.Dispatch(workgroups=vectors))

    seconds = _common.median_time(launch, lambda: total.array.fill(0))
    error = np.abs(total.numpy()[:n] - (a.numpy() + b.numpy())[:n])
    # The adder of VideoCore IV truncates; the others round to nearest, as NumPy does.
    limit = 2.0**-23 * 2 if gpu.isa is qpu.Isa.VC4 else 0.0
    return _common.result(
        gpu, "hello_world", n=n, seconds=seconds, max_abs_error=float(error.max()), ok=bool((error <= limit).all())
    )


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--n", type=int, default=1000, help="elements, 1 .. 100000 (default 1000)")
    options = parser.parse_args()
    n = _common.count_of(options, 100_000)
    return _common.on_devices(options, lambda gpu: work(gpu, n))


if __name__ == "__main__":
    _common.main(run)
