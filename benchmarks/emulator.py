"""How fast emulated boards execute: both engines, every instruction set.

Figures: instructions per second in the sgemm kernel (one core and all cores), the 1024-cubed launch, the first launch
of a program that no cache knows, and how time per instruction changes with the number of threads and the length of a
run. Everything here is host time of an emulated board; nothing says anything about a Pi.
"""

from __future__ import annotations

import os
import random
import resource
import tempfile
import time
from typing import Any

import _common
import numpy as np

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.kernels import sgemm

BOARDS = {"vc4": "pi3", "v3d42": "pi4", "v3d71": "pi5"}


def matrices(size: int) -> list[np.ndarray]:
    """A, B and C of a square problem."""
    draw = np.random.default_rng(0)
    return [draw.uniform(-1, 1, (size, size)).astype(np.float32) for _ in range(3)]


def launches(gpu: Device, size: int, runs: int) -> tuple[list[float], Any]:
    """Seconds of sgemm launches after one that is not counted, and the statistics of the last."""
    a, b, c = matrices(size)
    with sgemm.Sgemm(gpu, size, size, size) as job:
        job.load(a, b, c, 1.5, -0.5)
        times = _common.seconds(job.launch, runs)
    stats = gpu.stats
    assert stats is not None
    return times, stats


def engines(report: _common.Report, isa: str, runs: int) -> None:
    """Instructions per second of sgemm on both engines."""
    for engine, size in (("reference", 96), ("compiled", 1024)):
        with qpu.open_device(BOARDS[isa], engine=engine) as gpu:
            times, stats = launches(gpu, size, runs)
            rates = [stats.instructions / t for t in times]
            report.add("sgemm", rates, "instr/s", isa=isa, engine=stats.engine, size=size, cores=os.cpu_count())
            report.add("sgemm launch", times, "s", isa=isa, engine=stats.engine, size=size, cores=os.cpu_count())


def one_core(report: _common.Report, isa: str, runs: int) -> None:
    """The compiled engine pinned to one core."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with qpu.open_device(BOARDS[isa], engine="compiled") as gpu:
            times, stats = launches(gpu, 1024, runs)
            rates = [stats.instructions / t for t in times]
            report.add("sgemm", rates, "instr/s", isa=isa, engine=stats.engine, size=1024, cores=1)
    finally:
        os.sched_setaffinity(0, cores)


def first_launch(report: _common.Report, isa: str, runs: int) -> None:
    """Launches with an empty cache: sgemm 1024, and a program of about 500 instructions nobody has seen."""
    for number in range(runs):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["QPU_CACHE_DIR"] = cache
            with qpu.open_device(BOARDS[isa]) as gpu:
                source = unseen(gpu.isa, number)
                program = qpu.assemble(source, isa=gpu.isa, check=False)
                x = gpu.empty(16, np.uint32)
                start = time.perf_counter()
                gpu.run(program, [x] if gpu.isa is not Isa.VC4 else [])
                took = time.perf_counter() - start
            os.environ.pop("QPU_CACHE_DIR")
        report.add("first launch, unseen program", [took], "s", isa=isa, n=len(program))


def unseen(isa: Isa, seed: int) -> Any:
    """A builder function of about 500 random integer instructions."""
    draw = random.Random(f"{isa}{seed}{time.time_ns()}")
    # Sources are never written, so that no rule about distances is broken.
    rows = [
        (draw.choice(("add", "sub", "xor")), draw.randrange(18, 30), draw.randrange(4, 16), draw.randrange(4, 16))
        for _ in range(490)
    ]

    def v3d(q: Any) -> None:
        for name, d, a, b in rows:
            getattr(q, name)(q.rf[d], q.rf[a], q.rf[b])
        q.end()

    def vc4(q: Any) -> None:
        for name, d, a, b in rows:
            getattr(q, name)(q.ra[d], q.ra[a], q.rb[b])
        q.ldi(q.host_interrupt, 1)
        q.nop(sig="thrend")
        q.nop()
        q.nop()

    return vc4 if isa is Isa.VC4 else v3d


def scaling(report: _common.Report, isa: str, largest: int) -> None:
    """Time per instruction for 1 to many threads, and for short to long runs; memory at the end."""
    if isa == "vc4":
        return

    def loop(q: Any) -> None:
        q.nop(sig=q.ldunifrf(q.rf[10]))
        q.nop(sig=q.ldunifrf(q.rf[11]))
        with q.loop() as body:
            q.sub(q.rf[10], q.rf[10], 1, push="pushz")
            q.fadd(q.rf[12], q.rf[12], q.rf[11])
            q.b(body.start, cond="na0")
            q.nop()
            q.nop()
            q.nop()
        q.end()

    with qpu.open_device(BOARDS[isa]) as gpu:
        program = qpu.assemble(loop, isa=gpu.isa, check=False)
        turns, threads = 1000, 1
        cases = [(n, 10_000) for n in (1, 12, 192)] + [(1, 10**p // 6) for p in range(4, largest + 1)]
        for threads, turns in cases:
            start = time.perf_counter()
            gpu.run(program, [turns, 1.0], workgroups=threads, timeout_s=3600)
            took = time.perf_counter() - start
            stats = gpu.stats
            assert stats is not None
            report.add(
                "time per instruction",
                [took / stats.instructions * 1e9],
                "ns",
                isa=isa,
                engine=stats.engine,
                threads=threads,
                instructions=stats.instructions,
            )
    report.add("peak memory", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024], "MiB", isa=isa)


def main() -> None:
    """Run everything."""
    parser = _common.parser(__doc__)
    parser.add_argument("--isa", choices=tuple(BOARDS), action="append", help="only this one (may be repeated)")
    parser.add_argument("--largest", type=int, default=8, help="longest run of the scaling: 10**N instructions")
    options = parser.parse_args()
    report = _common.Report(options.json)
    for isa in options.isa or BOARDS:
        first_launch(report, isa, options.runs)
        engines(report, isa, options.runs)
        one_core(report, isa, options.runs)
        scaling(report, isa, options.largest)


if __name__ == "__main__":
    main()
