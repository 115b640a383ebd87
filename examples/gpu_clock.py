"""Clock of the GPU in Hz, from the clocks counted during a loop and the time of the loop.

Two loops of different length run, so that the time of their common part, such as the start of a launch, cancels out:
(clocks of the long one - clocks of the short one) / (time of the long one - time of the short one).

Clocks come from the performance counters: `cycle-count` on V3D; on VideoCore IV the clocks in which the only busy QPU
executed an instruction, which needs root. Without counters they follow from the instructions of the loop, at four
clocks each, if the QPU never waits. On an emulated board both clocks and time are those of the emulator.

Examples:
    uv run examples/gpu_clock.py --device all
    uv run examples/gpu_clock.py --device hardware --loops 20000000
"""

from __future__ import annotations

import sys
from typing import Any

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.vc4 import Asm

COUNTER = {
    qpu.Isa.VC4: "QPU-total-clk-cycles-executing-valid-instr",
    qpu.Isa.V3D42: "cycle-count",
    qpu.Isa.V3D71: "cycle-count",
}
BODY = 5  # instructions of a round of the loop
CLOCKS = 4  # of an instruction
EMULATED_LOOPS, LOOPS = 20_000, 10_000_000
# An emulated clock is exact up to the last clocks of a launch. A real one changes with load and heat.
TOLERANCE = {True: 0.01, False: 0.6}


def loop_v3d(q: Any) -> None:
    """Uniforms: rounds, address. Every lane adds its number in every round and stores the sum."""
    rounds, at, lane, total = (q.rf[i] for i in range(4, 8))
    q.nop(sig=q.ldunifrf(rounds))
    q.nop(sig=q.ldunifrf(at))
    q.eidx(lane)
    q.mov(total, 0)
    with q.loop() as loop:
        q.sub(rounds, rounds, 1, push="pushz")
        q.b(loop.start, cond="anyna")
        q.add(total, total, lane)
        q.nop()
        q.nop()
    q.shl(lane, lane, 2)
    q.mov(q.tmud, total)
    q.add(q.tmua, at, lane)
    q.end()


def loop_vc4(q: Asm) -> None:
    """The same; the sum leaves through the VPM."""
    q.mov(q.ra[0], q.uniform)
    q.mov(q.r0, q.element_number)
    q.ldi(q.r1, 0)
    with q.loop() as loop:
        q.sub(q.ra[0], q.ra[0], 1, push="z")
        q.b(loop.start, cond="anynz")
        q.add(q.r1, q.r1, q.r0)
        q.nop()
        q.nop()
    q.setup_vpm_write()
    q.mov(q.vpm, q.r1)
    q.setup_dma_store()
    q.start_dma_store(q.uniform)
    q.wait_dma_store()
    q.end()


class Clock:
    """Measures one device."""

    def __init__(self, gpu: Device) -> None:
        self.gpu = gpu
        self.out = gpu.zeros(16, np.uint32)
        self.program = qpu.assemble(loop_vc4 if gpu.isa is qpu.Isa.VC4 else loop_v3d, isa=gpu.isa)
        self.method = "performance counters"
        self.reason = ""

    def run(self, rounds: int) -> float:
        """Seconds of one launch on the clock of the device's port; emulated seconds on an emulated board."""
        begin = self.gpu.port.monotonic()
        self.gpu.run(self.program, [rounds, self.out], timeout_s=60.0)
        return self.gpu.port.monotonic() - begin

    def measure(self, rounds: int) -> tuple[int, float]:
        """Clocks and seconds of one launch."""
        if self.method == "performance counters":
            try:
                with self.gpu.counters(COUNTER[self.gpu.isa]) as counted:
                    seconds = self.run(rounds)
                return counted[COUNTER[self.gpu.isa]], seconds
            except qpu.DriverError as error:
                self.method = f"instructions of the loop, {CLOCKS} clocks each"
                self.reason = str(error).splitlines()[0]
        return CLOCKS * BODY * rounds, self.run(rounds)


def work(gpu: Device, loops: int | None) -> dict[str, object]:
    """Measure, and check that every lane executed every round of the loop."""
    rounds = loops or (EMULATED_LOOPS if gpu.emulated else LOOPS)
    clock = Clock(gpu)
    clock.measure(rounds)  # warms up caches and raises the clock
    short_clocks, short_s = clock.measure(rounds)
    long_clocks, long_s = clock.measure(2 * rounds)
    expected = (2 * rounds * np.arange(16, dtype=np.uint64)) & 0xFFFFFFFF
    error, wrong = _common.difference(clock.out.numpy(), expected)
    hz = (long_clocks - short_clocks) / (long_s - short_s) if long_s > short_s else 0.0
    nominal = gpu.info.clock_hz
    near = nominal is None or abs(hz - nominal) <= TOLERANCE[gpu.emulated] * nominal
    seconds = _common.median_time(lambda: gpu.run(clock.program, [rounds, clock.out], timeout_s=60.0), lambda: None)
    if clock.reason:
        print(f"gpu_clock: no counters: {clock.reason}", file=sys.stderr)
    return _common.result(
        gpu,
        "gpu_clock",
        n=rounds,
        seconds=seconds,
        clock_hz=hz,
        nominal_hz=nominal,
        clocks=long_clocks - short_clocks,
        clock_seconds=long_s - short_s,
        time="emulated" if gpu.emulated else "real",
        method=clock.method,
        max_abs_error=error,
        wrong=wrong,
        ok=wrong == 0 and near,
    )


def show(gpu: Device, row: dict[str, object]) -> None:
    """The result for people."""
    _common.show(gpu, row)
    nominal = "unknown" if row["nominal_hz"] is None else f"{row['nominal_hz'] / 1e6:.1f} MHz"  # type: ignore[operator]
    print(f"  clock    {row['clock_hz'] / 1e6:.1f} MHz by {row['method']}; nominal {nominal}")  # type: ignore[operator]
    print(f"           {row['clocks']:,} clocks in {row['clock_seconds']:.6f} s of {row['time']} time")
    if gpu.emulated:
        print("           the emulator derives its time from its clocks: this shows the method, not a board")


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument(
        "--loops",
        type=int,
        help=f"rounds of the short loop (default {EMULATED_LOOPS} on an emulated board, {LOOPS} on a real one)",
    )
    options = parser.parse_args()
    if options.loops is not None:
        _common.within("--loops", options.loops, 1000, 1 << 30)
    return _common.on_devices(options, lambda gpu: work(gpu, options.loops), show)


if __name__ == "__main__":
    _common.main(run)
