"""What every example shares: its options, the line about the device, JSON output and exit status."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import qpu
from qpu.core.isa import Isa
from qpu.device import Buffer, Device
from qpu.errors import UsageError
from qpu.toolkit import assemble
from qpu.vc4 import vpm

ALL = ("pi3", "pi4", "pi5")
OK, FAILED, REFUSED = 0, 1, 2


class Parser(argparse.ArgumentParser):
    """argparse, with one clear line and exit status 2 for wrong usage."""

    def error(self, message: str) -> None:  # type: ignore[override]  # exits
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(REFUSED)


def parser(description: str | None) -> Parser:
    """An argument parser with --device and --json."""
    made = Parser(description=(description or "").splitlines()[0])
    made.add_argument(
        "--device",
        default=None,
        metavar="NAME",
        help="auto, hardware, pi0 .. pi5 (emulated, options as in pi5,slices=3), a node's path, or all = pi3, pi4, pi5",
    )
    made.add_argument("--json", action="store_true", help="one JSON object a device, and nothing else")
    return made


def devices(name: str | None) -> tuple[str | None, ...]:
    """The device names that --device stands for."""
    return ALL if name == "all" else (name,)


@contextmanager
def opened(name: str | None) -> Iterator[Device]:
    """An open device."""
    with qpu.open_device(name) as gpu:
        yield gpu


def label(gpu: Device) -> str:
    """What a time on this device was measured on."""
    if gpu.emulated:
        return f"host time of the emulator, {gpu.info.emulated}; says nothing about a real board"
    clock = "" if gpu.info.clock_hz is None else f" at a nominal {gpu.info.clock_hz / 1e6:.0f} MHz"
    return f"measured on {gpu.info.board.model}{clock}"


def median_time(launch: Callable[[], object], prepare: Callable[[], object], runs: int = 3) -> float:
    """Median host seconds of `launch` over `runs`, after one that is not counted; `prepare` goes before each."""
    times: list[float] = []
    for _ in range(runs + 1):
        prepare()
        start = time.perf_counter()
        launch()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def result(gpu: Device, example: str, **values: object) -> dict[str, object]:
    """One line of --json: who ran what where, then `values`; instructions as well on an emulated board."""
    row: dict[str, object] = {
        "example": example,
        "device": gpu.info.emulated or gpu.info.board.model,
        "isa": str(gpu.isa),
        "emulated": gpu.emulated,
        **values,
    }
    if gpu.stats is not None:
        row["instructions"] = gpu.stats.instructions
    return row


def show(gpu: Device, row: dict[str, object]) -> None:
    """A result for people: what was computed, measured and checked."""
    print(gpu.info)
    if "n" in row:
        print(f"  size     {row['n']:,}")
    if "seconds" in row:
        print(f"  time     {row['seconds']:.6f} s, median of 3 launches ({label(gpu)})")
    if "instructions" in row:
        print(f"  executed {row['instructions']:,} instructions")
    if "max_abs_error" in row:
        print(f"  error    {row['max_abs_error']:.3e} at most, against NumPy")
    print(f"  {'ok' if row['ok'] else 'WRONG: not what NumPy computes'}", flush=True)


def count_of(options: argparse.Namespace, largest: int = 1 << 28) -> int:
    """The checked --n."""
    n = int(options.n)
    if not 1 <= n <= largest:
        raise UsageError(f"--n {n}: allowed are 1 .. {largest}")
    return n


def on_devices(
    options: argparse.Namespace,
    work: Callable[[Device], dict[str, object]],
    display: Callable[[Device, dict[str, object]], None] = show,
) -> int:
    """Do `work` on every device of the command line and report it. Returns the exit status."""
    good = True
    for name in devices(options.device):
        start = time.perf_counter()
        with opened(name) as gpu:
            row = work(gpu)
            row["total_seconds"] = time.perf_counter() - start
            good = good and bool(row["ok"])
            if options.json:
                emit(row)
            else:
                display(gpu, row)
    return OK if good else FAILED


# -- the loop that programs over long vectors share

ROWS = 4  # vectors of 16 words that a QPU of VideoCore IV stores at once: 12 QPUs use 48 of the 64 rows of the VPM
BLOCK = 16 * ROWS

Body = Callable[..., None]  # body(q, inputs, scalars, out): see `Elementwise`


def _loop_v3d(q: Any, inputs: int, scalars: int, body: Body) -> None:
    """Uniforms: n, elements per round of all threads, addresses of inputs and output, scalars."""
    rf = q.rf
    group = rf[0] if q.isa is Isa.V3D42 else rf[3]  # workgroup id: x low, y high; y is 0 here
    index, count, step, offset = (rf[i] for i in range(4, 8))
    at = [rf[8 + i] for i in range(inputs + 1)]
    constants = [rf[12 + i] for i in range(scalars)]
    data = [rf[16 + i] for i in range(inputs)]
    for register in (count, step, *at, *constants):
        q.nop(sig=q.ldunifrf(register))
    q.shl(index, group, 4)
    q.eidx(offset)
    q.add(index, index, offset)
    q.sub(q.null, index, count, push="pushc")  # flag A: there was a borrow, so this lane has an element
    with q.loop() as loop:
        q.shl(offset, index, 2)
        for pointer in at[:-1]:
            q.add(q.tmua, pointer, offset, cond="ifa")
        if inputs:
            q.nop(sig=q.thrsw)  # another thread works while memory answers; two more instructions come before it
            q.nop()
            q.nop()
        for register in data:
            q.nop(sig=q.ldtmu(register))
        body(q, data, constants, q.tmud)
        q.add(q.tmua, at[-1], offset, cond="ifa")
        q.add(index, index, step)
        q.sub(q.null, index, count, push="pushc")
        q.b(loop.start, cond="anya")
        q.nop()
        q.nop()
        q.nop()
    q.end()


def _loop_vc4(q: Any, inputs: int, scalars: int, body: Body) -> None:
    """Uniforms: blocks, addresses of inputs and output, scalars, and the VPM set-ups of this QPU."""
    at = [q.r1, q.r2][:inputs]
    count, out, fill, store = q.ra[0], q.rb[1], q.ra[2], q.rb[2]
    constants = [q.rb[4 + i] for i in range(scalars)]
    q.mov(count, q.uniform)
    q.shl(q.r0, q.element_number, 2)
    for pointer in at:
        q.add(pointer, q.r0, q.uniform)
    for register in (out, *constants, fill, store):
        q.mov(register, q.uniform)
    q.ldi(q.r3, 64)
    q.ldi(q.ra[3], 4 * BLOCK)
    q.setup_dma_store_stride(0)
    with q.loop() as loop:
        for pointer, request in zip(at, (q.tmu0_s, q.tmu1_s), strict=False):
            for _ in range(ROWS):  # four requests are as many as a TMU surely holds
                q.add(pointer, pointer, q.r3).mov(request, pointer)
        q.wait_dma_store()  # of the block before, which still lies in these rows
        q.mov(q.vw_setup, fill)
        for _ in range(ROWS):
            if inputs:
                q.nop(sig="ldtmu0")
                q.mov(q.r0, q.r4, sig="ldtmu1" if inputs == 2 else None)
            body(q, [q.r0, q.r4][:inputs], constants, q.vpm)
        q.mov(q.vw_setup, store)
        q.mov(q.vw_addr, out)
        q.sub(count, count, 1, sf=True)
        loop.repeat(cond="anynz")
        q.add(out, out, q.ra[3])
        q.nop()
        q.nop()
    q.wait_dma_store()
    q.exit()


class Elementwise:
    """out[i] = body of in0[i], in1[i] and scalars, 32-bit elements, on all QPUs of any board.

    body(q, inputs, scalars, out) emits the instructions for one vector. `inputs` are registers it may overwrite,
    `scalars` registers with the same value in all lanes, `out` takes the result, once.
    V3D: every thread takes each W-th vector; lanes beyond n neither load nor store. VideoCore IV: every QPU takes
    neighbouring blocks of 64, and memory is padded to whole blocks, because DMA stores and TMU loads have no mask.
    """

    def __init__(
        self, gpu: Device, body: Body, inputs: Sequence[Any], scalars: Sequence[int | float], out: Any
    ) -> None:
        """Copy `inputs` to the device. out: dtype of the result, or an array with what is in memory before."""
        self.gpu = gpu
        self.n = len(out)
        self.inputs = [self._padded(x) for x in inputs]
        self.out = self._padded(out)
        self.scalars = list(scalars)
        kernel = _loop_vc4 if gpu.isa is Isa.VC4 else _loop_v3d
        self.program = assemble(kernel, len(inputs), len(self.scalars), body, isa=gpu.isa)

    def _padded(self, data: Any) -> Buffer:
        buffer = self.gpu.zeros(-(-self.n // BLOCK) * BLOCK, data.dtype)
        buffer.array[: self.n] = data
        return buffer

    def launch(self) -> None:
        """Run once."""
        if self.gpu.isa is Isa.VC4:
            blocks = -(-self.n // BLOCK)
            qpus = min(self.gpu.qpus, blocks)
            rows = [self._row(i, blocks * i // qpus, blocks * (i + 1) // qpus) for i in range(qpus)]
            self.gpu.run(self.program, rows, timeout_s=600.0)
        else:
            groups = min(4 * self.gpu.qpus, -(-self.n // 16))
            uniforms = [self.n, 16 * groups, *self.inputs, self.out, *self.scalars]
            self.gpu.run(self.program, uniforms, workgroups=groups, timeout_s=600.0)

    def _row(self, qpu: int, first: int, last: int) -> list[Any]:
        y = ROWS * qpu
        buffers = [b.view(4 * BLOCK * first) for b in (*self.inputs, self.out)]
        return [last - first, *buffers, *self.scalars, vpm.vpm_write(y=y), vpm.dma_store(ROWS, y=y)]

    def result(self) -> Any:
        """The n results."""
        return self.out.numpy()[: self.n]


def emit(row: dict[str, object]) -> None:
    """One JSON object a line."""
    print(json.dumps(row), flush=True)


def _one_line(error: Exception) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines())


def main(run: Callable[[], int]) -> None:
    """Run an example; errors of the package become one clear line and the right exit status."""
    try:
        status = run()
    except UsageError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        status = REFUSED
    except qpu.DriverError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        status = REFUSED
    except qpu.QpuError as error:
        print(f"error: {error}", file=sys.stderr)
        status = FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    raise SystemExit(status)
