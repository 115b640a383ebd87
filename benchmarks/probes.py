"""Probes for unpublished properties of these GPUs that the sgemm kernels depend on.

    uv run benchmarks/probes.py --device hardware --json

Each probe measures the host time of a long loop minus that of a shorter one, so that the time of the launch cancels
out: the rate of uniforms, the cost of restarting the stream, the size of the uniform cache, the size and speed of the
L2 cache, the cost of a TMU request over 16 cache lines and of a contiguous one, and the number of QPUs that run
programs.
On an emulated board everything runs, but the numbers are meaningless: host times of an emulator without caches.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import _common
import numpy as np

import qpu
from qpu.core.isa import Isa
from qpu.device import Buffer, Device
from qpu.vc4 import vpm

BODY = 64  # instructions of an inner loop, without its end
LONG_ENOUGH = 0.03  # seconds that a measured launch takes at least, on a real board
KIB = 1024


# -- programs: `outer` times over the same data, in `inner` steps


def uniforms_v3d(q: Any, every: int) -> None:
    """Read a uniform with every so many instructions; 0: none. Uniforms: outer, inner, address of the stream."""
    rf = q.rf
    outer, inner, left, stream, total = (rf[i] for i in range(10, 15))
    for register in (outer, inner, stream):
        q.nop(sig=q.ldunifrf(register))
    q.mov(total, 0)
    with q.loop() as around:
        q.b(0, unif=stream)
        q.mov(left, inner)
        q.nop()
        q.nop()
        with q.loop() as loop:
            for i in range(BODY):
                q.fadd(total, total, rf[20], sig=q.ldunifrf(rf[20]) if every and i % every == 0 else None)
            q.sub(left, left, 1, push="pushz")
            q.b(loop.start, cond="na0")
            q.nop()
            q.nop()
            q.nop()
        q.sub(outer, outer, 1, push="pushz")
        q.b(around.start, cond="na0")
        q.nop()
        q.nop()
        q.nop()
    q.end()


def uniforms_vc4(q: Any, every: int) -> None:
    """As `uniforms_v3d`."""
    outer, inner, left, stream = q.ra[10], q.rb[11], q.ra[12], q.rb[13]
    for register in (outer, inner, stream):
        q.mov(register, q.uniform)
    q.ldi(q.r1, 0)
    around = q.label("around")
    q.mov(q.uniforms_address, stream)
    q.mov(left, inner)
    q.nop()
    q.nop()
    loop = q.label("loop")
    for i in range(BODY):
        q.fadd(q.r1, q.r1, q.uniform if every and i % every == 0 else q.r2)
    q.sub(left, left, 1, push="z")
    q.b(loop, cond="anynz")
    q.nop()
    q.nop()
    q.nop()
    q.sub(outer, outer, 1, push="z")
    q.b(around, cond="anynz")
    q.nop()
    q.nop()
    q.nop()
    q.end()


REQUESTS = 4  # in flight


def requests_v3d(q: Any) -> None:
    """Read through the TMU. Uniforms: outer, inner, address, bytes from lane to lane, bytes from request to request."""
    rf = q.rf
    outer, inner, left, base, lanes, step, at = (rf[i] for i in range(10, 17))
    for register in (outer, inner, base, lanes, step):
        q.nop(sig=q.ldunifrf(register))
    q.eidx(at)
    q.nop().umul24(lanes, lanes, at)
    q.add(base, base, lanes)
    q.nop(sig=q.thrsw)
    q.nop(sig=q.thrsw)
    q.nop()
    q.nop()
    with q.loop() as around:
        q.mov(at, base)
        q.mov(left, inner)
        with q.loop() as loop:
            for _ in range(REQUESTS):
                q.add(at, at, step).mov(q.tmua, at)
            for i in range(REQUESTS):
                q.nop(sig=q.ldtmu(rf[20 + i]))
            q.sub(left, left, 1, push="pushz")
            q.b(loop.start, cond="na0")
            q.nop()
            q.nop()
            q.nop()
        q.sub(outer, outer, 1, push="pushz")
        q.b(around.start, cond="na0")
        q.nop()
        q.nop()
        q.nop()
    q.nop(sig=q.thrsw)
    q.nop()
    q.nop()


def requests_vc4(q: Any) -> None:
    """As `requests_v3d`."""
    outer, inner, left, base, at, step = q.ra[10], q.rb[11], q.ra[12], q.ra[13], q.r1, q.r3
    q.mov(outer, q.uniform)
    q.mov(inner, q.uniform)
    q.mov(q.r0, q.uniform)
    q.mov(q.r2, q.uniform)
    q.mov(step, q.uniform)
    q.nop().mul24(q.r2, q.r2, q.element_number)
    q.add(base, q.r0, q.r2)
    q.nop()
    around = q.label("around")
    q.mov(at, base)
    q.mov(left, inner)
    loop = q.label("loop")
    for _ in range(REQUESTS):
        q.add(at, at, step).mov(q.tmu0_s, at)
    for _ in range(REQUESTS):
        q.nop(sig=q.ldtmu0)
    q.sub(left, left, 1, push="z")
    q.b(loop, cond="anynz")
    q.nop()
    q.nop()
    q.nop()
    q.sub(outer, outer, 1, push="z")
    q.b(around, cond="anynz")
    q.nop()
    q.nop()
    q.nop()
    q.end()


def who_v3d(q: Any) -> None:
    """Spin, then store the thread and QPU number (tidx) of every workgroup. Uniforms: rounds, address."""
    rf = q.rf
    group = rf[0] if q.isa is Isa.V3D42 else rf[3]
    count, out, word = rf[10], rf[11], rf[12]
    q.nop(sig=q.ldunifrf(count))
    q.nop(sig=q.ldunifrf(out))
    with q.loop() as loop:
        q.sub(count, count, 1, push="pushz")
        q.b(loop.start, cond="na0")
        q.nop()
        q.nop()
        q.nop()
    q.shl(word, group, -16)
    q.shr(word, word, -16)
    q.shl(word, word, 6)
    q.add(out, out, word)
    q.eidx(word)
    q.shl(word, word, 2)
    q.add(out, out, word)
    q.tidx(q.tmud)
    q.mov(q.tmua, out)
    q.end()


def who_vc4(q: Any) -> None:
    """Store the QPU's number. Uniforms: VPM set-up, DMA set-up, address."""
    q.mov(q.vw_setup, q.uniform)
    q.mov(q.vpm, q.qpu_number)
    q.mov(q.vw_setup, q.uniform)
    q.mov(q.vw_addr, q.uniform)
    q.wait_dma_store()
    q.end()


# -- measuring


class Prober:
    """Launches on all QPUs of one device and takes times."""

    def __init__(self, gpu: Device, report: _common.Report, runs: int) -> None:
        self.gpu, self.report, self.runs = gpu, report, runs
        self.old = gpu.isa is Isa.VC4
        self.programs: dict[tuple[Any, ...], qpu.Program] = {}

    def add(self, name: str, values: list[float], unit: str, **extra: object) -> None:
        """One figure, with a note on its value as evidence."""
        gpu = self.gpu
        device = gpu.info.emulated or gpu.info.board.model
        worth = "nothing: host time of an emulator" if gpu.emulated else "measured"
        self.report.add(
            name, values, unit, isa=str(gpu.isa), device=device, emulated=gpu.emulated, worth=worth, **extra
        )

    def launch(
        self, v3d: Callable[..., None], vc4: Callable[..., None], args: tuple[int, ...], words: list[Any]
    ) -> float:
        """Host seconds of one launch on every QPU, two threads each on V3D."""
        key = (v3d, *args)
        if key not in self.programs:
            self.programs[key] = qpu.assemble(vc4 if self.old else v3d, *args, isa=self.gpu.isa)
        start = time.perf_counter()
        if self.old:
            self.gpu.run(self.programs[key], [words] * self.gpu.qpus, timeout_s=60.0)
        else:
            self.gpu.run(
                self.programs[key], words, qpu.v3d.Dispatch(workgroups=2 * self.gpu.qpus, threads=2), timeout_s=60.0
            )
        return time.perf_counter() - start

    def per_round(
        self, v3d: Callable[..., None], vc4: Callable[..., None], args: tuple[int, ...], words: list[Any]
    ) -> list[float]:
        """Host seconds of one round of the outer loop, measured several times: 3n rounds minus n rounds."""
        rounds = 1
        while not self.gpu.emulated and self.launch(v3d, vc4, args, [3 * rounds, *words]) < LONG_ENOUGH:
            rounds *= 2
        self.launch(v3d, vc4, args, [rounds, *words])
        times = []
        for _ in range(self.runs):
            short, long = (self.launch(v3d, vc4, args, [n, *words]) for n in (rounds, 3 * rounds))
            times.append((long - short) / (2 * rounds))
        return times

    def uniforms(self, memory: Buffer) -> None:
        """Rate of uniforms, cost of a restart, size of their cache."""
        inner = memory.size // BODY
        for every in (0, 4, 2, 1):
            times = self.per_round(uniforms_v3d, uniforms_vc4, (every,), [inner, memory])
            self.add("uniform stream", [t / (inner * BODY) * 1e9 for t in times], "ns/instr", every=every)
        for every in (0, 1):
            times = self.per_round(uniforms_v3d, uniforms_vc4, (every,), [1, memory])
            self.add("restart of the stream and 64 instructions", [t * 1e9 for t in times], "ns", every=every)
        size = 1 * KIB
        while size <= memory.nbytes:
            inner = size // 4 // BODY
            times = self.per_round(uniforms_v3d, uniforms_vc4, (1,), [inner, memory])
            self.add("uniforms again and again", [t / (inner * BODY) * 1e9 for t in times], "ns/instr", bytes=size)
            size *= 4

    def requests(self, memory: Buffer) -> None:
        """Time of several kinds of TMU requests, and bandwidth for growing amounts of data."""
        threads = self.gpu.qpus * (1 if self.old else 2)
        kinds = {"contiguous": (4, 64), "16 lines": (64, 4), "16 new lines": (64, 1024), "one word": (0, 4)}
        for kind, (lanes, step) in kinds.items():
            inner = 16 * KIB // max(64, step) // REQUESTS
            times = self.per_round(requests_v3d, requests_vc4, (), [inner, memory, lanes, step])
            self.add("TMU request", [t / (inner * REQUESTS) * 1e9 for t in times], "ns", kind=kind)
        size = 4 * KIB
        while size <= memory.nbytes:
            inner = size // 64 // REQUESTS
            times = self.per_round(requests_v3d, requests_vc4, (), [inner, memory, 4, 64])
            self.add("TMU bandwidth", [threads * size / t * 1e-9 if t > 0 else 0.0 for t in times], "GB/s", bytes=size)
            size *= 4

    def qpus(self) -> None:
        """Which QPUs run programs."""
        count = self.gpu.qpus if self.old else 8 * self.gpu.qpus
        out = self.gpu.zeros((count, 16), np.uint32)
        if self.old:
            setup = [[vpm.vpm_write(y=i), vpm.dma_store(y=i), out[i]] for i in range(count)]
            self.gpu.run(qpu.assemble(who_vc4, isa=self.gpu.isa), setup)
            numbers = out.numpy()[:, 0]
        else:
            rounds = 100 if self.gpu.emulated else 100_000
            self.gpu.run(qpu.assemble(who_v3d, isa=self.gpu.isa), [rounds, out], qpu.v3d.Dispatch(workgroups=count))
            numbers = out.numpy()[:, 0] >> 2
        seen = sorted({int(x) for x in numbers})
        self.add("QPUs that took part", [len(seen)], "QPUs", reported=self.gpu.qpus, numbers=seen)


def main() -> None:
    """Run every probe."""
    parser = _common.parser(__doc__)
    parser.add_argument("--device", default="auto", help="name as for the examples")
    parser.add_argument(
        "--largest", type=_common.positive, default=None, help="KiB of data (default 4096, emulated 64)"
    )
    options = parser.parse_args()
    report = _common.Report(options.json)
    with qpu.open_device(options.device) as gpu:
        if gpu.emulated:
            print(f"{gpu.info}: the figures below say nothing about silicon", file=sys.stderr)
        largest = options.largest or (64 if gpu.emulated else 4096)
        prober = Prober(gpu, report, options.runs)
        # A request reads up to 15 lanes of 64 bytes past its address.
        memory = gpu.zeros(largest * KIB // 4 + 256)
        data = gpu.zeros(largest * KIB // 4)
        prober.qpus()
        prober.uniforms(data)
        prober.requests(memory)


if __name__ == "__main__":
    _common.main(main)
