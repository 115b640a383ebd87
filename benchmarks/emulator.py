"""Benchmark of emulated boards: speed of both engines on every instruction set.

Parts (`--part`, may be repeated; all by default):

- launches: a trivial program, launches per CPU second
- outside: loads inside and outside every buffer
- first: the first launch of unseen programs, of sgemm, and the whole sgemm example with an empty cache
- sgemm: the 1024-cubed launch on all cores and on one, instructions per second, the share of a bound (a plain compiled
  loop of the same additions and multiplications, measured before and after, in the same run), the gain of all cores
- scaling: time per instruction and memory by number of threads and length of a run
- assembler: text assembler, decoder and printer on programs of distinct words
- breakdown: the parts of the package in which a launch of sgemm and trivial launches spend CPU time

All times are host times of an emulated board and say nothing about a Pi. CPU time stands beside wall time, because
other work on the host changes the latter most.
"""

from __future__ import annotations

import cProfile
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import _common
import assembler
import bound
import numpy as np

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.kernels import sgemm

BOARDS = {"vc4": "pi3", "v3d42": "pi4", "v3d71": "pi5"}
PATIENT = {"vc4": "pi3", "v3d42": "pi4,watchdog=60000", "v3d71": "pi5,watchdog=60000"}  # for one workgroup of seconds


def matrices(size: int) -> list[np.ndarray]:
    """A, B and C of a square problem."""
    draw = np.random.default_rng(0)
    return [draw.uniform(-1, 1, (size, size)).astype(np.float32) for _ in range(3)]


class Launches(NamedTuple):
    """Counted sgemm launches: wall and CPU seconds, then of the multiplication alone (packing only moves data)
    instructions per second and CPU nanoseconds of an instruction, and the statistics of the last launch.
    """

    walls: list[float]
    cpus: list[float]
    rates: list[float]
    costs: list[float]
    stats: Any


def launches(gpu: Device, size: int, runs: int) -> Launches:
    """Count sgemm launches.

    They are counted again as long as a translation changed or was in preparation meanwhile: a figure never mixes code
    of two optimisation levels.
    """
    a, b, c = matrices(size)
    with sgemm.Sgemm(gpu, size, size, size) as job:
        job.load(a, b, c, 1.5, -0.5)
        job.launch()
        settle()
        while True:
            job.launch()
            found, changed = Launches([], [], [], [], None), False
            for _ in range(runs):
                cpu, start = time.process_time(), time.perf_counter()
                run = job.launch()
                found.walls.append(time.perf_counter() - start)
                found.cpus.append(time.process_time() - cpu)
                parts = [launch.stats for launch in run.launches if launch.stats and launch.stats.fmuls]
                executed, lasted = sum(p.instructions for p in parts), sum(p.execute_s for p in parts)
                found.rates.append(executed / lasted)
                found.costs.append(found.cpus[-1] * lasted / run.stats.execute_s / executed * 1e9)
                changed |= bool(run.stats.cache_hits or run.stats.cache_misses)
            if not settle() and not changed:
                return found._replace(stats=run.stats)


def settle() -> bool:
    """Wait until no translation is being improved in the background. Returns: whether one was."""
    try:
        from qpu.emu.engine.native import Improvement
    except ImportError:
        return False
    return Improvement.wait()


def engine(report: _common.Report, isa: str, runs: int, name: str, size: int, cores: int) -> tuple[float, float]:
    """Instructions per second of sgemm on one engine: of the multiplication, and of everything from the first submit
    to the last completion. Returns the fewest CPU nanoseconds of an instruction of the multiplication, and the median
    of the launch's seconds.
    """
    with qpu.open_device(BOARDS[isa], engine=name) as gpu:
        found = launches(gpu, size, runs)
    about = {"isa": isa, "engine": found.stats.engine, "size": size, "cores": cores, "vectors": vectors()}
    report.add("sgemm multiplication", found.rates, "instr/s", **about)
    report.add("sgemm", [found.stats.instructions / t for t in found.walls], "instr/s", **about)
    report.add("sgemm launch", found.walls, "s", **about)
    report.add("sgemm launch", found.cpus, "CPU s", **about)
    return min(found.costs), statistics.median(found.walls)


def vectors() -> str:
    """The vector unit of the host that translated code uses."""
    try:
        from qpu.emu.engine.host_cpu import host, is_arm, is_x86
    except ImportError:
        return "none"
    if not is_x86():
        return "neon" if is_arm() else "unknown"
    here = host()
    return "avx512" if here.avx512 else "avx2" if here.fma else "sse2" if here.plain else "avx"


def engines(report: _common.Report, isa: str, runs: int) -> None:
    """Both engines with all cores, and the compiled engine pinned to one, as a share of the bound and of all cores."""
    if not hasattr(os, "sched_setaffinity"):
        engine(report, isa, runs, "reference", 96, os.cpu_count() or 1)
        engine(report, isa, runs, "compiled", 1024, os.cpu_count() or 1)
        return
    cores = os.sched_getaffinity(0)
    engine(report, isa, runs, "reference", 96, len(cores))
    _, everything = engine(report, isa, runs, "compiled", 1024, len(cores))
    os.sched_setaffinity(0, {min(cores)})
    try:
        pairs = bound.pair_ns(runs)
        cost, alone = engine(report, isa, runs, "compiled", 1024, 1)
        pairs += bound.pair_ns(runs)
    finally:
        os.sched_setaffinity(0, cores)
    if pairs:
        report.add("bound, 16-lane fadd and fmul", pairs, "CPU ns", isa=isa, engine="compiled")
        share = [min(pairs) / cost]  # the fastest runs of both, because other work on the host only adds time
        report.add("sgemm multiplication, share of the bound", share, "ratio", isa=isa, engine="compiled", cores=1)
    report.add("gain of all cores", [alone / everything], "ratio", isa=isa, engine="compiled", cores=len(cores))


def relative(report: _common.Report, runs: int) -> None:
    """Launches of sgemm on pi3 and pi4 in turn, so that other work on the host disturbs both."""
    with ExitStack() as stack:
        jobs = []
        for name in ("pi3", "pi4"):
            gpu = stack.enter_context(qpu.open_device(name))
            job = stack.enter_context(sgemm.Sgemm(gpu, 1024, 1024, 1024))
            job.load(*matrices(1024), 1.5, -0.5)
            for _ in range(2):  # with the quick translation, then with the optimised one
                job.launch()
                settle()
            jobs.append(job)
        seconds = [[run_s(job.launch) for job in jobs] for _ in range(2 * runs)]
    ratios = [pi3 / pi4 for pi3, pi4 in seconds[1:]]
    report.add("sgemm launch, pi3 relative to pi4", ratios, "ratio", engine="compiled", size=1024)


def run_s(run: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def nothing(q: Any) -> None:
    """A program that only ends."""
    q.end()


def launch_rate(report: _common.Report, isa: str, runs: int) -> None:
    """Launches of an empty program, each awaited, per second of CPU time."""
    for name in ("compiled", "reference"):
        with qpu.open_device(BOARDS[isa], engine=name) as gpu:
            program = qpu.assemble(nothing, isa=gpu.isa)
            for _ in range(50):
                gpu.run(program, [])
            rates = []
            for _ in range(runs):
                start = time.process_time()
                for _ in range(200):
                    gpu.run(program, [])
                rates.append(200 / (time.process_time() - start))
        report.add("launches of a trivial program", rates, "1/CPU s", isa=isa, engine=name)


def outside(report: _common.Report, isa: str, runs: int) -> None:
    """Loads inside a buffer and outside every buffer, on a board that is not strict (V3D only)."""
    if isa == "vc4":
        return

    def loads(q: Any) -> None:
        address, count, lane, value = q.rf[10], q.rf[11], q.rf[12], q.rf[13]
        q.nop(sig=q.ldunifrf(address))
        q.nop(sig=q.ldunifrf(count))
        q.eidx(lane)
        q.shl(lane, lane, 2)
        q.add(address, address, lane)
        with q.loop() as again:
            q.sub(count, count, 1, push="pushz")
            q.or_(q.tmua, address, address)
            q.nop()
            q.nop(sig=q.ldtmu(value))
            q.b(again.start, cond="na0")
            q.nop()
            q.nop()
            q.nop()
        q.end()

    count = 20_000
    with (
        warnings.catch_warnings(),
        qpu.open_device(BOARDS[isa], engine="compiled", strict=False) as gpu,
    ):
        warnings.simplefilter("ignore")
        buffer = gpu.array(np.zeros(1024, np.uint32))
        program = qpu.assemble(loads, isa=gpu.isa)
        for where, at in (("inside", buffer), ("outside", 0xF0000000)):
            gpu.run(program, [at, 10])
            times = []
            for _ in range(runs):
                start = time.process_time()
                gpu.run(program, [at, count])
                times.append((time.process_time() - start) / count * 1e6)
            report.add("load", times, "CPU us", isa=isa, engine="compiled", where=where)


def first_launch(report: _common.Report, isa: str, runs: int) -> None:
    """The first launch of a program of about 500 instructions that is not in the cache."""
    for kind in ("integer", "float"):
        walls, cpus = [], []
        for number in range(runs):
            with tempfile.TemporaryDirectory() as cache:
                os.environ["QPU_CACHE_DIR"] = cache
                with qpu.open_device(BOARDS[isa]) as gpu:
                    program = qpu.assemble(unseen(gpu.isa, number, kind), isa=gpu.isa, check=False)
                    cpu, start = time.process_time(), time.perf_counter()
                    gpu.run(program, [])
                    walls.append(time.perf_counter() - start)
                    cpus.append(time.process_time() - cpu)
                os.environ.pop("QPU_CACHE_DIR")
        for values, unit in ((walls, "s"), (cpus, "CPU s")):
            report.add("first launch, unseen program", values, unit, isa=isa, n=len(program), kind=kind)


FIRST_SGEMM = """
import sys, time
import numpy as np
import qpu
from qpu.kernels import sgemm
def cpu():  # of this process and of what it started
    import resource
    return sum(resource.getrusage(w).ru_utime + resource.getrusage(w).ru_stime for w in (0, -1))
size = 1024
a, b, c = (np.full((size, size), x, np.float32) for x in (0.5, 0.25, 1.0))
with qpu.open_device(sys.argv[1], engine="compiled") as gpu, sgemm.Sgemm(gpu, size, size, size) as job:
    job.load(a, b, c, 1.0, 1.0)
    start, used = time.perf_counter(), cpu()
    job.launch()
    print(time.perf_counter() - start, cpu() - used)
"""


def first_sgemm(report: _common.Report, isa: str, runs: int) -> None:
    """The first launch of sgemm 1024 in a new process, with an empty cache and with a warm one."""
    with tempfile.TemporaryDirectory() as cache:
        for state in ("empty", "warm"):
            walls, cpus = [], []
            for number in range(runs):
                place = str(Path(cache) / (str(number) if state == "empty" else "0"))
                environment = usual(place)
                command = [sys.executable, "-c", FIRST_SGEMM, BOARDS[isa]]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                wall, cpu = done.stdout.split()
                walls.append(float(wall))
                cpus.append(float(cpu))
            report.add("first launch, sgemm", walls, "s", isa=isa, size=1024, cache=state)
            report.add("first launch, sgemm", cpus, "CPU s", isa=isa, size=1024, cache=state)


def example(report: _common.Report, isa: str, runs: int) -> None:
    """The whole example, from the start of Python to its end, with an empty cache."""
    script = Path(__file__).parents[1] / "examples" / "sgemm.py"
    walls, cpus = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as cache:
            before, start = children(), time.perf_counter()
            command = [sys.executable, str(script), "--device", BOARDS[isa]]
            subprocess.run(command, env=usual(cache), capture_output=True, check=True)
            walls.append(time.perf_counter() - start)
            cpus.append(children() - before)
    report.add("examples/sgemm.py", walls, "s", isa=isa, cache="empty")
    report.add("examples/sgemm.py", cpus, "CPU s", isa=isa, cache="empty")


def usual(cache: str) -> dict[str, str]:
    """The environment of a process that keeps translations in `cache`, and bytecode as Python does by default."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"QPU_CACHE_DIR": cache}


def children() -> float:
    """CPU seconds of the processes that this one has started and awaited."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def unseen(isa: Isa, seed: int, kind: str) -> Any:
    """A builder function of about 500 random instructions of integers or floats."""
    names = ("add", "sub", "xor") if kind == "integer" else ("fadd", "fsub", "fmin", "fmax")
    draw = random.Random(f"{isa}{seed}{time.time_ns()}")
    # Sources are never written, so that no rule about distances is broken.
    rows = [(draw.choice(names), draw.randrange(18, 30), *draw.sample(range(4, 16), 2)) for _ in range(490)]

    def v3d(q: Any) -> None:
        for name, d, a, b in rows:
            getattr(q, name)(q.rf[d], q.rf[a], q.rf[b])
        q.end()

    def vc4(q: Any) -> None:
        for name, d, a, b in rows:
            getattr(q, name)(q.ra[d], q.ra[a], q.rb[b])
        q.ldi(q.host_interrupt, 1)
        q.nop(sig=q.thrend)
        q.nop()
        q.nop()

    return vc4 if isa is Isa.VC4 else v3d


def loop(isa: Isa) -> Any:
    """A builder function: `turns` (first uniform) rounds of seven instructions, most of them float additions."""

    def v3d(q: Any) -> None:
        q.nop(sig=q.ldunifrf(q.rf[10]))
        q.nop(sig=q.ldunifrf(q.rf[11]))
        q.sub(q.rf[12], q.rf[11], q.rf[11])
        with q.loop() as body:
            q.sub(q.rf[10], q.rf[10], 1, push="pushz")
            q.fadd(q.rf[12], q.rf[12], q.rf[11])
            q.b(body.start, cond="na0")
            q.fadd(q.rf[12], q.rf[12], q.rf[11])
            q.fadd(q.rf[12], q.rf[12], q.rf[11])
            q.fadd(q.rf[12], q.rf[12], q.rf[11])
        q.end()

    def vc4(q: Any) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, q.uniform)
        q.mov(q.r2, 0)
        again = q.label("again")
        q.sub(q.r0, q.r0, 1, push="z")
        q.fadd(q.r2, q.r2, q.r1)
        q.b(again, cond="anynz")
        q.fadd(q.r2, q.r2, q.r1)
        q.fadd(q.r2, q.r2, q.r1)
        q.fadd(q.r2, q.r2, q.r1)
        q.end()

    return vc4 if isa is Isa.VC4 else v3d


PER_TURN = 6  # instructions of a round of `loop`
QPUS_VC4 = 12
LONGEST_VC4 = 50_000_000  # instructions of a launch: the firmware stops programs after a second of the board's time


def resident() -> float:
    """MiB of memory that this process holds now, or the maximum so far where the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_loop(gpu: Device, program: Any, turns: int, threads: int) -> int:
    """Run `loop` in a number of threads; returns the instructions executed.

    VideoCore IV: at most 12 threads at a time, and several launches where one would take over a second of the board.
    """
    one = int(np.float32(1.0).view(np.uint32))
    if gpu.isa is not Isa.VC4:
        gpu.run(program, [turns, one], qpu.v3d.Dispatch(workgroups=threads), timeout_s=36000)
        assert gpu.stats is not None
        return gpu.stats.instructions
    executed = 0
    while threads:
        now = min(threads, QPUS_VC4)
        left = turns
        while left:
            part = min(left, LONGEST_VC4 // PER_TURN)
            gpu.run(program, np.array([[part, one]] * now, np.uint32), qpu.vc4.Programs(count=now), timeout_s=36000)
            assert gpu.stats is not None
            executed += gpu.stats.instructions
            left -= part
        threads -= now
    return executed


def scaling(report: _common.Report, isa: str, runs: int, largest: int) -> None:
    """Time per instruction for 1, 12 and 192 threads, and for runs of 10**4 to 10**largest instructions; memory."""
    for engine, limit in (("reference", 6), ("compiled", largest)):
        with qpu.open_device(PATIENT[isa], engine=engine) as gpu:
            program = qpu.assemble(loop(gpu.isa), isa=gpu.isa, check=False)
            powers = range(4, min(largest, limit) + 1)
            turns = 10 if engine == "reference" else 1000
            cases = [(n, turns) for n in (1, 12, 192)] + [(1, 10**p // PER_TURN) for p in powers]
            for threads, turns in cases:
                times = []
                long = 10**5 if engine == "reference" else 2 * 10**8
                count = 1 if turns * threads * PER_TURN > long else runs
                for _ in range(count if count == 1 else count + 1):
                    start = time.perf_counter()
                    executed = run_loop(gpu, program, turns, threads)
                    times.append((time.perf_counter() - start) / executed * 1e9)
                report.add(
                    "time per instruction",
                    times[-count:],
                    "ns",
                    isa=isa,
                    engine=engine,
                    threads=threads,
                    instructions=executed,
                    memory_mib=round(resident(), 1),
                )
    report.add("peak memory", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024], "MiB", isa=isa)


PLACES = {  # part of a path -> what is there, first match
    "native": "translated code",
    "/qpu/emu/v3d/": "engine",
    "/qpu/emu/vc4/": "engine",
    "/qpu/emu/engine/": "engine",
    "/qpu/emu/": "emulated Linux",
    "/qpu/drivers/": "driver",
    "/qpu/core/": "core",
    "/qpu/": "device and launch",
    "/numpy/": "NumPy",
    "": "built-in and other",
}


class Profiles:
    """Profiles of the caller and of all threads that start after this object was made, by CPU time of each thread.

    VideoCore IV launches of a queue run on a thread of the driver.
    """

    def __init__(self) -> None:
        self._made: list[cProfile.Profile] = []
        threading.setprofile(self._begin)
        self._begin()

    def _begin(self, *_: object) -> None:
        """Called with the first event of a thread; the profile replaces this function there."""
        profile = cProfile.Profile(time.thread_time)
        self._made.append(profile)
        profile.enable()

    def spent(self) -> Counter[str]:
        """CPU seconds so far by the places of `PLACES`. Built-in functions count where they are called."""
        found: Counter[str] = Counter()
        for profile in self._made:
            for entry in profile.getstats():
                if not isinstance(entry.code, str):
                    found[place(entry.code)] += entry.inlinetime
                    for call in entry.calls or ():
                        if isinstance(call.code, str):
                            found[place(entry.code)] += call.inlinetime
        return found

    def end(self) -> None:
        """Stop the caller's profile, and start no further ones."""
        threading.setprofile(None)
        self._made[0].disable()


def place(code: CodeType) -> str:
    """The place of a function in `PLACES`."""
    path = code.co_name if code.co_name == "native" else code.co_filename.replace(os.sep, "/")
    return next(name for part, name in PLACES.items() if part in path)


def breakdown(report: _common.Report, isa: str, runs: int) -> None:
    """Shares of the CPU time of launches of sgemm and of a trivial program, by Python's profiler, on one core.

    The profiler makes Python code slower than it is; translated code counts at its true cost.
    """
    from qpu.emu.engine.native import NativeCode

    made = NativeCode.function

    def seen(self: NativeCode, *types: Any, **more: Any) -> Any:
        call = made(self, *types, **more)

        def native(*arguments: Any) -> Any:
            return call(*arguments)

        return native

    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    NativeCode.function = seen  # type: ignore[method-assign]
    profiles = Profiles()
    try:
        with qpu.open_device(BOARDS[isa], engine="compiled") as gpu:
            program = qpu.assemble(nothing, isa=gpu.isa)
            with sgemm.Sgemm(gpu, 1024, 1024, 1024) as job:
                job.load(*matrices(1024), 1.5, -0.5)
                for work, launch, count in (("sgemm", job.launch, 1), ("trivial", lambda: gpu.run(program, []), 200)):
                    for _ in range(3):
                        launch()
                        settle()
                    before = profiles.spent()
                    for _ in range(runs * count):
                        launch()
                    spent = profiles.spent()
                    spent.subtract(before)
                    for name in dict.fromkeys(PLACES.values()):
                        share = [spent[name] / spent.total()]
                        report.add("share of CPU time", share, "ratio", isa=isa, work=work, where=name)
    finally:
        profiles.end()
        NativeCode.function = made  # type: ignore[method-assign]
        if cores:
            os.sched_setaffinity(0, cores)


def text(report: _common.Report, isa: str, runs: int) -> None:
    """Rates of the text assembler, the decoder and the printer on programs of distinct instructions."""
    source = assembler.vc4_random if isa == "vc4" else assembler.v3d_random(isa == "v3d71")
    found = assembler.isa(Isa(isa))
    assembler.figures(report, found, "random", source, runs, ())


def first(report: _common.Report, isa: str, runs: int) -> None:
    """Everything about first launches."""
    first_launch(report, isa, runs)
    first_sgemm(report, isa, runs)
    example(report, isa, runs)


PARTS = {"launches": launch_rate, "outside": outside, "first": first, "assembler": text, "breakdown": breakdown}
"""Parts that need an instruction set and a number of runs; `sgemm` and `scaling` need more."""


def main() -> None:
    """Run the benchmark."""
    parser = _common.parser(__doc__)
    parser.add_argument("--isa", choices=tuple(BOARDS), action="append", help="only this one (may be repeated)")
    names = [*PARTS, "sgemm", "scaling"]
    parser.add_argument("--part", choices=names, action="append", help="only this part (may be repeated)")
    parser.add_argument(
        "--largest", type=_common.positive, default=9, help="longest run of the scaling: 10**N instructions"
    )
    options = parser.parse_args()
    report = _common.Report(options.json)
    wanted = options.part or names
    for isa in options.isa or BOARDS:
        for name, measure in PARTS.items():
            if name in wanted:
                measure(report, isa, options.runs)
        if "sgemm" in wanted:
            engines(report, isa, options.runs)
        if "scaling" in wanted:
            scaling(report, isa, options.runs, options.largest)
    if "sgemm" in wanted and not options.isa:
        relative(report, options.runs)


if __name__ == "__main__":
    _common.main(main)
