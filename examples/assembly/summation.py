"""Sum of a long float32 vector in two launches: a sum for each thread, then the sum of these sums.

Examples:
    uv run examples/assembly/summation.py --device all
    uv run examples/assembly/summation.py --device pi5 --n 1000000 --json
"""

from __future__ import annotations

from typing import Any

import _above  # noqa: F401  # before what is there
import _common
import numpy as np

import qpu
from qpu.device import Buffer, Device
from qpu.vc4 import Asm, vpm


def sum_v3d(q: Any) -> None:
    """Thread t of W adds vectors t, t + W, ... and stores one number at out[t].

    Uniforms: n, elements per round of all threads, addresses of input and output. Workgroups of 16 items.
    """
    rf = q.rf
    group = rf[0] if q.isa is qpu.Isa.V3D42 else rf[3]
    index, count, step, at, out, total, word = (rf[i] for i in range(4, 11))
    for register in (count, step, at, out):
        q.nop(sig=q.ldunifrf(register))
    q.shl(index, group, 4)
    q.eidx(word)
    q.add(index, index, word)
    q.shl(word, group, 2)
    q.add(out, out, word)
    q.mov(total, 0)
    q.sub(q.null, index, count, push="pushc")  # flag A: a borrow, so this lane has an element
    with q.loop() as loop:
        q.shl(word, index, 2)
        q.add(q.tmua, at, word, cond="ifa")
        q.nop(sig=q.thrsw)  # another thread runs while memory answers
        q.add(index, index, step)
        q.nop()
        q.nop(sig=q.ldtmu(word))
        q.fadd(total, total, word, cond="ifa")  # the word of a lane without an element is undefined
        q.sub(q.null, index, count, push="pushc")
        q.b(loop.start, cond="anya")
        q.nop()
        q.nop()
        q.nop()
    _add_lanes(q, total, word)
    q.eidx(word)
    q.sub(q.null, word, 0, push="pushz")  # flag A: lane 0
    q.mov(q.tmud, total)
    q.mov(q.tmua, out, cond="ifa")
    q.end()


def _add_lanes(q: Any, total: Any, other: Any) -> None:
    """Every lane gets the sum of all 16: add the neighbour at distance 8, 4, 2, 1, around the end."""
    if q.isa is qpu.Isa.V3D71:
        for distance in (8, 4, 2, 1):
            q.rot(other, total, distance)
            q.fadd(total, total, other)
        return
    q.mov(q.r0, total)
    for distance in (8, 4, 2, 1):
        q.nop().mov(q.r1, q.r0, sig=q.rot(distance))  # full rotation needs an accumulator and the mul ALU
        q.fadd(q.r0, q.r0, q.r1)
    q.mov(total, q.r0)


def sum_vc4(q: Asm) -> None:
    """Add `count` neighbouring vectors and store one number. Uniforms: count, input, output, VPM and DMA set-up."""
    q.mov(q.ra[0], q.uniform)
    q.shl(q.r0, q.element_number, 2)
    q.add(q.r1, q.r0, q.uniform)
    q.ldi(q.r3, 64)
    q.ldi(q.r2, 0.0)
    with q.loop() as loop:
        q.add(q.r1, q.r1, q.r3).mov(q.tmu0_s, q.r1)
        q.nop(sig=q.ldtmu0)
        q.sub(q.ra[0], q.ra[0], 1, push="z")
        q.b(loop.start, cond="anynz")
        q.fadd(q.r2, q.r2, q.r4)
        q.nop()
        q.nop()
    for distance in (8, 4, 2, 1):
        q.nop()  # the instruction before a rotation must not write its source
        q.rotate(q.r0, q.r2, distance)
        q.fadd(q.r2, q.r2, q.r0)
    q.mov(q.ra[1], q.uniform)
    q.mov(q.vw_setup, q.uniform)
    q.mov(q.vpm, q.r2)
    q.mov(q.vw_setup, q.uniform)
    q.mov(q.vw_addr, q.ra[1])
    q.wait_dma_store()
    q.end()


def reduce_v3d(gpu: Device, program: qpu.Program, source: Buffer, n: int, out: Buffer, groups: int) -> None:
    """One launch: out[t] for t < groups."""
    gpu.run(program, [n, 16 * groups, source, out], qpu.v3d.Dispatch(workgroups=groups), timeout_s=600.0)


def reduce_vc4(gpu: Device, program: qpu.Program, source: Buffer, n: int, out: Buffer, qpus: int) -> None:
    """One launch: out[t] for t < qpus; `source` is padded with zeros to whole vectors."""
    vectors = -(-n // 16)
    rows = []
    for i in range(qpus):
        first, last = vectors * i // qpus, vectors * (i + 1) // qpus
        setup = [vpm.vpm_write(y=i), vpm.dma_store(1, 1, y=i)]
        rows.append([last - first, source.view(64 * first), out.view(4 * i), *setup])
    gpu.run(program, rows, timeout_s=600.0)


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size."""
    vectors = -(-n // 16)
    x = gpu.zeros(16 * vectors)
    x.array[:n] = np.random.default_rng(0).uniform(-1, 1, n)
    vc4 = gpu.isa is qpu.Isa.VC4
    workers = min(gpu.qpus if vc4 else 4 * gpu.qpus, vectors)
    partial = gpu.zeros(-(-workers // 16) * 16)
    total = gpu.zeros(16)
    program = qpu.assemble(sum_vc4 if vc4 else sum_v3d, isa=gpu.isa)
    reduce = reduce_vc4 if vc4 else reduce_v3d
    instructions = [0]

    def launch() -> None:
        instructions[0] = 0
        for source, length, out, count in ((x, n, partial, workers), (partial, workers, total, 1)):
            reduce(gpu, program, source, length, out, count)
            instructions[0] += gpu.stats.instructions if gpu.stats is not None else 0

    seconds = _common.median_time(launch, lambda: total.array.fill(0))
    values = x.numpy()[:n].astype(np.float64)
    error = abs(float(total.numpy()[0]) - float(values.sum()))
    depth = -(-vectors // workers) + 4 + -(-workers // 16) + 4  # additions that one element takes part in
    bound = (2 if vc4 else 1) * (depth + 1) * 2.0**-24 * float(np.abs(values).sum())
    row = _common.result(gpu, "summation", n=n, seconds=seconds, max_abs_error=error, ok=error <= bound)
    if gpu.emulated:
        row["instructions"] = instructions[0]  # of both launches
    return row


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--n", type=int, default=10007, help="elements (default 10007)")
    options = parser.parse_args()
    n = _common.count_of(options)
    return _common.on_devices(options, lambda gpu: work(gpu, n))


if __name__ == "__main__":
    _common.main(run)
