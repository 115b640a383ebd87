"""What the compiler of the kernel language makes, and what it takes.

Loop instructions: instructions that an emulated board executes for 16 items more, from launches of two sizes, beside
the floor: the instructions that no program can do without (see FLOORS). Compile times are CPU time on this machine,
imports excluded, nothing cached; a launch is compared with `gpu.run` of the same program and uniforms, in turns in one
run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import _common
import numpy as np
from _loops import blur, dot, gemm, mandelbrot, many, polynomial, prefix, prefix_quads, saxpy, soft

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.lang.compiled import Compiled
from qpu.lang.entry import Kernel
from qpu.lang.specialise import specialise

BOARDS = {Isa.V3D71: "pi5", Isa.V3D42: "pi4", Isa.VC4: "pi3"}
ORDER = (Isa.V3D71, Isa.V3D42, Isa.VC4)


# Instructions for 16 items that no program can do without, on 7.1, 4.2 and VC4. saxpy on 7.1: for 64 items a
# configuration, two addresses of loads and one of stores, four data and a branch; on 4.2 taking a result is an access
# of the peripherals as well; on VC4 a vector has two requests, two results and a store. The others likewise, or their
# operations by the two ALUs, whichever is more. A prefix sum of four vectors a turn has, for each, four rotations, four
# sums, a mask for what flags do not tell (two on V3D), the last lane spread, two sums with what came before, and its
# accesses; for the turn the flags of the lanes, two counters and the branch. The blur of 64 pixels
# with two sums of 16 bits in a word: three words are asked for and taken apart by 9 operations, 13 make the sums of a
# row, 8 those of the columns (four passes of neighbours), 2 round, 4 join the bytes, 2 store, and a branch: 42, of
# which VideoCore IV's add ALU alone has 31.
FLOORS: dict[str, tuple[float | None, ...]] = {
    "saxpy": (2.25, 4.25, 4.25),
    "polynomial": (5, 5, 5),
    "soft": (5, 5, 5.5),
    "dot": (2.25, 3, 4.25),
    "mandelbrot": (8, 8, 9),
    "blur": (5.25, 5.25, 7.75),
    "prefix": (8.25, 8.25, 7.75),
    "prefix_quads": (4, 5, 5.25),
}

F = np.float32


def instructions(gpu: Device, run: Callable[[Device, int], Any], small: int, large: int, per: float) -> float:
    """Instructions for 16 items: the difference of two launches. per: items of one step of the size."""
    counts = []
    for n in (small, large):
        done = run(gpu, n)
        counts.append(sum(launch.stats.instructions for launch in done.launches))
    return 16 * (counts[1] - counts[0]) / ((large - small) * per)


def arrays(gpu: Device, n: int, count: int) -> list[Any]:
    """Buffers of small numbers."""
    return [gpu.array(np.linspace(-1, 1, n, dtype=F)) for _ in range(count)]


def runs(k: Kernel, gpu: Device, n: int) -> Any:
    """A kernel of integers in which each of eight workers has its own run."""
    return k.on(gpu, workers=8)(*(gpu.zeros(n * STEP, np.int32) for _ in "ab"))


STEP = 64 * 64  # items: a chunk of four vectors for each of up to 64 workers

LOOPS: dict[str, tuple[Callable[[Device, int], Any], int, int, float]] = {
    "saxpy": (lambda g, n: saxpy(2.0, *arrays(g, n * STEP, 2)), 2, 10, STEP),
    "polynomial": (lambda g, n: polynomial(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, *arrays(g, n * STEP, 2)), 2, 10, STEP),
    "soft": (lambda g, n: soft(0.5, *arrays(g, n * STEP, 2)), 2, 10, STEP),
    "dot": (lambda g, n: dot(*arrays(g, n * STEP, 2), g.zeros(64)), 2, 10, STEP),
    "mandelbrot": (lambda g, n: mandelbrot(64, 0.0, n, g.zeros(16 * 96, np.int32)), 20, 100, 16 * 96),
    "blur": (lambda g, n: blur(*(g.zeros((48, 64 * n), np.uint8) for _ in "ab")), 2, 10, 48 * 64),
    "prefix": (lambda g, n: runs(prefix, g, n), 2, 10, STEP),
    "prefix_quads": (lambda g, n: runs(prefix_quads, g, n), 2, 10, STEP),
}


TUNABLE: dict[Kernel, Callable[[Device], tuple[Any, ...]]] = {
    saxpy: lambda g: (2.0, *arrays(g, 4 * STEP, 2)),
    polynomial: lambda g: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, *arrays(g, 4 * STEP, 2)),
    soft: lambda g: (0.5, *arrays(g, 4 * STEP, 2)),
}
"""Kernels whose knobs tools/tune.py chooses, with arguments; their cost does not depend on the data."""


def loops(report: _common.Report) -> None:
    """Instructions of the main loops."""
    for at, isa in enumerate(ORDER):
        with qpu.open_device(BOARDS[isa], engine="compiled") as gpu:
            for name, (run, small, large, per) in LOOPS.items():
                try:
                    value = instructions(gpu, run, small, large, per)
                except qpu.QpuError as error:
                    print(f"{name} on {isa}: {str(error).splitlines()[0]}", file=sys.stderr)
                    continue
                most = bound(KERNELS[name].compile(isa), value)
                report.add(name, [value], "instructions for 16 items", isa=str(isa), floor=FLOORS[name][at], bound=most)
            cores(report, isa)


def bound(compiled: Compiled, value: float) -> float:
    """What the innermost loop uses most of: shorter than that it gets with other operations only."""
    depth = max(x.depth for x in compiled.report.loops)
    loop = max((x for x in compiled.report.loops if x.depth == depth), key=lambda x: x.instructions)
    return round(value * max(loop.uses.values()) / loop.instructions, 2)


KERNELS = {k.fn.__name__: k for k in (saxpy, polynomial, soft, dot, mandelbrot, blur, prefix, prefix_quads)}
TILES = {Isa.V3D71: (24, 32), Isa.V3D42: (24, 32), Isa.VC4: (48, 16)}


def cores(report: _common.Report, isa: Isa) -> None:
    """Arithmetic of the GEMM core: (fadd + fmul) / (2 x instructions) of the innermost loop."""
    rows, cols = TILES[isa]
    try:
        compiled = gemm.compile(isa, rows=rows, cols=cols)
    except qpu.CompileError as error:
        print(f"gemm on {isa}: {str(error).splitlines()[0]}", file=sys.stderr)
        return
    depth = max(loop.depth for loop in compiled.report.loops)
    inner = max((x for x in compiled.report.loops if x.depth == depth), key=lambda x: x.uses["mul"])
    work = 2 * rows * cols // 16
    report.add("gemm core", [100 * work / (2 * inner.instructions)], "% of the issue peak", isa=str(isa), rows=rows,
               cols=cols, instructions=inner.instructions)  # fmt: skip


def cpu_ms(work: Callable[[], object], runs: int) -> list[float]:
    """Milliseconds of CPU time, after one run that is not counted."""
    work()
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1e3)
    return times


def compiling(report: _common.Report, runs: int) -> None:
    """CPU time of compiling, from the source to the program."""
    for isa in ORDER:
        rows, cols = TILES[isa]
        cases: list[tuple[Kernel, dict[str, Any]]] = [
            (saxpy, {}), (polynomial, {}), (soft, {}), (dot, {}), (mandelbrot, {}), (many, {}),
            (gemm, {"rows": rows, "cols": cols}),
        ]  # fmt: skip
        for k, consts in cases:
            special = k.special(isa, **consts)
            try:
                size = len(k.made(special).program)
                values = cpu_ms(lambda k=k, s=special: specialise(k.source, k.team, s), runs)  # type: ignore[misc]  # run here
            except qpu.CompileError as error:
                print(f"compile {k.fn.__name__} on {isa}: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            report.add(f"compile {k.fn.__name__}", values, "CPU ms", isa=str(isa), instructions=size)


LAUNCHES = 200


def arguments(gpu: Device, work: Callable[[], object]) -> tuple[Any, ...]:
    """What `work` gives to `gpu.run`, its uniforms as a list."""
    seen: list[Any] = []
    run = gpu.run

    def looks_on(program: Any, uniforms: Any, shape: Any) -> Any:
        seen.append((program, uniforms.tolist(), shape))
        return run(program, uniforms, shape)

    gpu.run = looks_on  # type: ignore[method-assign]  # for one launch
    work()
    del gpu.run
    return tuple(seen[0])


def launching(report: _common.Report, runs: int) -> None:
    """A launch whose plan is kept, beside `gpu.run` of the same program."""
    for isa in ORDER:
        with qpu.open_device(BOARDS[isa], engine="compiled") as gpu:
            x, y = arrays(gpu, 16, 2)
            program, words, shape = arguments(gpu, lambda x=x, y=y: saxpy(2.0, x, y))

            def ours(x: Any = x, y: Any = y) -> None:
                saxpy(2.0, x, y)

            def raw(gpu: Device = gpu, program: Any = program, words: Any = words, shape: Any = shape) -> None:
                gpu.run(program, words, shape)

            pairs = []
            for work in (ours, raw):
                cpu_ms(work, 20)
            for _ in range(max(runs, 5)):
                pairs.append([sum(cpu_ms(work, LAUNCHES)) / LAUNCHES * 1e3 for work in (ours, raw)])
            report.add("launch", [a for a, _ in pairs], "us", isa=str(isa))
            report.add("launch, gpu.run", [b for _, b in pairs], "us", isa=str(isa))
            report.add("launch, ratio", [a / b for a, b in pairs], "x", isa=str(isa))


def importing(report: _common.Report, runs: int) -> None:
    """Milliseconds of `import qpu.lang` with a kernel's names and a decorated function, beyond `import qpu`."""
    code = (
        "import time, qpu\nt = time.process_time()\n"
        "from qpu.lang import Grid, In, InOut, f32, kernel\n"
        "@kernel\ndef k(k: Grid, a: f32, x: In[f32], y: InOut[f32]) -> None: ...\n"
        "print((time.process_time() - t) * 1e3)"
    )
    values = []
    for _ in range(max(runs, 5)):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        values.append(float(done.stdout))
    report.add("import qpu.lang", values, "CPU ms")


PARTS = {"loops": None, "compile": compiling, "launch": launching, "import": importing}


def main() -> None:
    """Run everything."""
    parser = _common.parser(__doc__)
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="only this one (may be repeated)")
    options = parser.parse_args()
    os.environ["QPU_CACHE_DIR"] = "off"  # kernels are compiled, not found
    report = _common.Report(options.json)
    for name in options.part or PARTS:
        work = PARTS[name]
        if work is None:
            loops(report)
        else:
            work(report, options.runs)


if __name__ == "__main__":
    _common.main(main)
