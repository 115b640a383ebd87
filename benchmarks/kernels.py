"""Benchmark of kernels: both sgemm kernels, and copying, filling and adding up, on every GPU.

Examples:
    uv run benchmarks/kernels.py --json
    uv run benchmarks/kernels.py --device hardware

Counts (instructions, bytes, shares) come from the assembled code and from the statistics of emulated boards. Seconds of
an emulated board (emulated = true) are host time of the emulator and say nothing about a Pi.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import _common
import library
import numpy as np

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.emu.engine.machine import RunStats
from qpu.kernels import sgemm, sgemm_layout

BOARDS = ("pi3", "pi4", "pi5")
EXAMPLES = Path(__file__).parent.parent / "examples"
# The best inner loops of older libraries, counted in their assembled code: share of the issue peak.
PEERS = {
    Isa.VC4: {"py-videocore": 0.955, "qmkl": 0.51},
    Isa.V3D42: {"py-videocore6": 0.340, "qmkl6": 0.29},
    Isa.V3D71: {"py-videocore7": 0.474},
}
# Example, and bytes that its purpose requires for one element, whatever the program requests.
STREAMING = {"scopy": 8, "memset": 4, "summation": 4}


class Figures:
    """Adds the same description to every figure of a board."""

    def __init__(self, report: _common.Report, gpu: Device) -> None:
        self.report = report
        self.about: dict[str, Any] = {
            "isa": str(gpu.isa),
            "device": gpu.info.emulated or gpu.info.board.model,
            "emulated": gpu.emulated,
        }

    def add(self, name: str, values: list[float], unit: str, **extra: object) -> None:
        """One figure."""
        self.report.add(name, values, unit, **self.about, **extra)


def inner_loop(figures: Figures, gpu: Device, kernel: sgemm.Kernel) -> None:
    """Part of the issue peak that the loop over k reaches: by its code, and by the statistics of 40 more rounds."""
    code = sgemm.program(gpu.isa, kernel)
    length, floats = sgemm.inner_loop(code)
    peers = PEERS[gpu.isa]
    figures.add("sgemm inner loop length", [length], "instructions", kernel=kernel, counted="code")
    figures.add(
        "sgemm inner loop share", [floats / (2 * length)], "of peak", kernel=kernel, counted="code", peers=peers
    )
    if not gpu.emulated:
        return
    shape = sgemm_layout.SHAPES[gpu.isa is Isa.VC4, kernel]
    found = []
    for k in (4, 164):
        with sgemm.Sgemm(gpu, shape.rows, shape.columns, k, kernel=kernel) as job:
            job.load(np.zeros((shape.rows, k), np.float32), np.zeros((k, shape.columns), np.float32))
            found.append(job.launch().launches[-1].stats)
    short, long = found
    assert short is not None and long is not None
    instructions = long.instructions - short.instructions
    done = long.fadds + long.fmuls - short.fadds - short.fmuls
    figures.add("sgemm inner loop share", [done / (2 * instructions)], "of peak", kernel=kernel, counted="executed")


def whole(figures: Figures, gpu: Device, kernel: sgemm.Kernel, size: int, runs: int) -> None:
    """All launches of one multiplication, packing included."""
    random = np.random.default_rng(0)
    a, b, c = (random.uniform(-1, 1, (size, size)).astype(np.float32) for _ in range(3))
    with sgemm.Sgemm(gpu, size, size, size, kernel=kernel) as job:
        job.load(a, b, c, 1.5, -0.5)
        done: list[Any] = []
        times = _common.seconds(lambda: done.append(job.launch()), runs)
    flops = 2 * size**3
    stats = done[-1].stats
    about: dict[str, Any] = {"kernel": kernel, "size": size}
    if stats is not None:
        about["engine"] = stats.engine
        figures.add("sgemm instructions", [stats.instructions], "instructions", **about)
        figures.add("sgemm useful share", [flops / (32 * stats.instructions)], "of peak", **about)
        figures.add("sgemm traffic", [stats.bytes_moved / flops], "B/flop", **about)
    else:
        figures.add("sgemm speed", [flops / t * 1e-9 for t in times], "Gflop/s", **about)
    figures.add("sgemm time", times, "s", **about)


@contextmanager
def example(name: str) -> Iterator[ModuleType]:
    """An example in assembly as a module; the `_common` of the examples replaces that of the benchmarks meanwhile."""
    mine, before = sys.modules.pop("_common"), list(sys.path)
    sys.path[:0] = [str(EXAMPLES / "assembly"), str(EXAMPLES)]
    try:
        yield importlib.import_module(name)
    finally:
        sys.path[:] = before
        sys.modules["_common"] = mine


def streaming(figures: Figures, gpu: Device, name: str, n: int) -> None:
    """Bytes of a program that reads or writes long vectors."""
    launches: list[Any] = []
    launch = gpu.run

    def recorded(*arguments: Any, **options: Any) -> Any:
        launches.append(launch(*arguments, **options))
        return launches[-1]

    gpu.run = recorded  # type: ignore[method-assign]
    try:
        with example(name) as module:
            row = module.work(gpu, n, 0xDEADBEEF) if name == "memset" else module.work(gpu, n)
    finally:
        del gpu.run  # the method again
    if not row["ok"]:
        raise SystemExit(f"{name} computed something wrong on {gpu.info}")
    useful = STREAMING[name] * n
    about: dict[str, Any] = {"n": n}
    figures.add(f"{name} useful bytes", [useful], "B", **about)
    if gpu.emulated:
        stats = RunStats.total([x.stats for x in launches[-len(launches) // 4 :]])  # of four runs, the last
        about["engine"] = stats.engine
        figures.add(f"{name} requested bytes", [stats.bytes_moved], "B", **about)
        figures.add(f"{name} instructions", [stats.instructions], "instructions", **about)
        figures.add(f"{name} bytes per instruction", [useful / stats.instructions], "B/instr", **about)
    else:
        figures.add(f"{name} speed", [useful / row["seconds"] * 1e-9], "GB/s", **about)
    figures.add(f"{name} time", [row["seconds"]], "s", **about)


def main() -> None:
    """Run the benchmark."""
    parser = _common.parser(__doc__)
    parser.add_argument("--device", action="append", help="name as for the examples (may be repeated; default: all)")
    parser.add_argument("--size", type=_common.positive, default=1024, help="m = n = k of sgemm (default 1024)")
    parser.add_argument(
        "--n", type=_common.positive, default=1 << 20, help="elements of the long vectors (default 2**20)"
    )
    parser.add_argument("--part", choices=("programs", "library"), help="only the programs, or the library's functions")
    parser.add_argument("--function", action="append", help="of the library, only this one (may be repeated)")
    parser.add_argument(
        "--page", action="store_true", help=f"write {library.PAGE.name} of the guide, or its --function lines"
    )
    options = parser.parse_args()
    if options.page:
        library.PAGE.write_text(library.page(names=options.function))
        return
    report = _common.Report(options.json)
    for name in options.device or BOARDS:
        with qpu.open_device(name) as gpu:
            figures = Figures(report, gpu)
            if options.part != "programs" and gpu.emulated:
                library.figures(figures.add, gpu, options.function)
            if options.part == "library" or options.function:
                continue
            for kernel in sgemm.KERNELS:
                inner_loop(figures, gpu, kernel)
                whole(figures, gpu, kernel, options.size, options.runs)
            choice = sgemm.choose(gpu)
            for kernel, seconds in choice.seconds.items():
                figures.add("sgemm probe", [seconds], "s", kernel=kernel, chosen=choice.kernel)
            for streamed in STREAMING:
                streaming(figures, gpu, streamed, options.n)


if __name__ == "__main__":
    _common.main(main)
