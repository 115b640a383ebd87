"""Common part of the examples: options, the line about the device, JSON output, errors and exit status."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

try:
    import numpy as np

    import qpu
    from qpu.device import Device
    from qpu.errors import UsageError
    from qpu.launch import Run
except ModuleNotFoundError as missing:  # started with another Python than that of the project
    print(f"error: no module {missing.name!r} here; start it with: uv run {sys.argv[0]}", file=sys.stderr)
    raise SystemExit(2) from None

ALL = ("pi3", "pi4", "pi5")
OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


# -- options


class Parser(argparse.ArgumentParser):
    """argparse, with one clear line and exit status 2 for wrong usage."""

    def error(self, message: str) -> None:  # type: ignore[override]  # exits
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(REFUSED)


def parser(description: str | None) -> Parser:
    """An argument parser with --device and --json. description: the module's docstring, examples included."""
    made = Parser(description=description or "", formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--device",
        default=None,
        metavar="NAME",
        help="auto, hardware, pi0 .. pi5 (emulated, options as in pi5,slices=3), a node's path, or all = pi3, pi4, pi5",
    )
    made.add_argument("--json", action="store_true", help="one JSON object a device, and nothing else")
    return made


def word(text: str) -> int:
    """The value of an option that takes a 32-bit word, decimal or 0x..., for argparse."""
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a 32-bit word; allowed: 0 .. 0xffffffff, decimal or 0x...")
    return value


def finite(text: str) -> float:
    """The value of an option that takes a finite float32, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= 3.4028234e38:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite float32; allowed: numbers up to 3.4e38 either way")
    return value


def within(option: str, value: float, low: float, high: float) -> None:
    """Refuse a value out of range. Raises: UsageError."""
    if not low <= value <= high:
        raise UsageError(f"{option} {value}: allowed are {low} .. {high}", help="choose a value in that range")


LARGEST = (1 << 28) - 64
"""Elements of 4 bytes: a buffer of VideoCore IV has less than 1 GiB."""


def count_of(options: argparse.Namespace, largest: int = LARGEST) -> int:
    """The checked --n."""
    n = int(options.n)
    within("--n", n, 1, largest)
    return n


# -- devices and measuring


def devices(name: str | None) -> tuple[str | None, ...]:
    """The device names that --device stands for."""
    return ALL if name == "all" else (name,)


@contextmanager
def opened(name: str | None) -> Iterator[Device]:
    """An open device."""
    with qpu.open_device(name) as gpu:
        yield gpu


def process_start() -> float:
    """The start of this process on the clock of `time.perf_counter`.

    Linux reports it in clock ticks since boot (a resolution of 10 ms); elsewhere it is the import of this module.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return _IMPORTED
    return min(time.perf_counter() - max(age, 0.0), _IMPORTED)


_IMPORTED = time.perf_counter()


def label(gpu: Device) -> str:
    """The description of what a time on this device was measured on."""
    if gpu.emulated:
        return f"host time of the emulator, {gpu.info.emulated}; says nothing about a real board"
    clock = "" if gpu.info.clock_hz is None else f" at a nominal {gpu.info.clock_hz / 1e6:.0f} MHz"
    return f"measured on {gpu.info.board.model}{clock}"


def slow(gpu: Device) -> bool:
    """True on an emulated board without the compiled engine: defaults are smaller there."""
    return gpu.emulated and (os.environ.get("QPU_EMU_ENGINE") == "reference" or find_spec("llvmlite") is None)


def median_time(launch: Callable[[], object], prepare: Callable[[], object], runs: int = 3) -> float:
    """Median host seconds of `launch` over `runs`, after one that is not counted; `prepare` is called before each."""
    times: list[float] = []
    for _ in range(runs + 1):
        prepare()
        start = time.perf_counter()
        launch()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def launched(gpu: Device, *launches: Callable[[], Run]) -> tuple[float, dict[str, int]]:
    """Median seconds of some kernels, one after another, and on an emulated board "instructions": that they execute."""
    counts: list[int] = []

    def launch() -> None:
        runs = [start() for start in launches]
        counts.append(sum(x.stats.instructions for r in runs for x in r.launches if x.stats is not None))

    seconds = median_time(launch, lambda: None)
    return seconds, {"instructions": counts[-1]} if gpu.emulated else {}


def sized(description: str | None, work: Callable[[Device, int], dict[str, object]], n: int, largest: int) -> int:
    """A whole example whose only option is --n; its default is `n`."""
    made = parser(description)
    made.add_argument("--n", type=int, default=n, help=f"elements, 1 .. {largest} (default {n})")
    options = made.parse_args()
    count = count_of(options, largest)
    return on_devices(options, lambda gpu: work(gpu, count))


def difference(found: object, expected: object) -> tuple[float, int]:
    """Largest absolute difference of two arrays as numbers, and how many elements differ; for results that are exact.

    Integers are compared as integers, so words of any value count with their true distance.
    """
    a, b = np.asarray(found), np.asarray(expected)
    if a.dtype.kind in "iu":
        a, b = a.astype(np.int64), b.astype(np.int64)
    apart = np.abs(a - b)
    return float(apart.max()), int(np.count_nonzero(apart))


# -- results


def result(gpu: Device, example: str, **values: object) -> dict[str, object]:
    """One line of --json: example and device, then `values`, and on an emulated board the number of instructions, that
    of the last launch where `values` has none.
    """
    row: dict[str, object] = {
        "example": example,
        "device": gpu.info.emulated or gpu.info.board.model,
        "isa": str(gpu.isa),
        "emulated": gpu.emulated,
        **values,
    }
    if "seconds" in values:
        row["measured"] = label(gpu)
    if gpu.stats is not None:
        row.setdefault("instructions", gpu.stats.instructions)
    return row


def show(gpu: Device, row: dict[str, object]) -> None:
    """Print a result: what was computed, measured and checked."""
    print(gpu.info)
    if "n" in row:
        print(f"  size     {row['n']:,}")
    if "seconds" in row:
        print(f"  time     {row['seconds']:.6f} s, median of 3 launches ({label(gpu)})")
    if "instructions" in row:
        print(f"  executed {row['instructions']:,} instructions")
    if "max_abs_error" in row:
        print(f"  error    {row['max_abs_error']:.3e} at most, against {row.get('against', 'NumPy')}")
    if row.get("wrong"):
        print(f"  wrong    {row['wrong']:,} elements")
    print(f"  {'ok' if row['ok'] else 'WRONG: not what was expected'}", flush=True)


def emit(row: dict[str, object]) -> None:
    """One JSON object a line."""
    print(json.dumps(row), flush=True)


def on_devices(
    options: argparse.Namespace,
    work: Callable[[Device], dict[str, object]],
    display: Callable[[Device, dict[str, object]], None] = show,
) -> int:
    """Do `work` on every device of the command line and report it. Returns the exit status.

    total_seconds counts from the start of the process; for the second and third device of ``all`` it counts from the
    end of the previous one.
    """
    good = True
    start = process_start()
    for name in devices(options.device):
        with opened(name) as gpu:
            row = work(gpu)
            row["total_seconds"] = time.perf_counter() - start
            good = good and bool(row["ok"])
            if options.json:
                emit(row)
            else:
                display(gpu, row)
        start = time.perf_counter()
    return OK if good else FAILED


# -- errors


def _one_line(error: BaseException) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__


def main(run: Callable[[], int]) -> None:
    """Run an example; an error becomes one line and the exit status for it."""
    try:
        status = run()
    except (UsageError, qpu.DriverError, MemoryError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        status = REFUSED
    except qpu.QpuError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        status = FAILED
    except ModuleNotFoundError as error:
        print(f"error: no module {error.name!r} here; start it with: uv run {sys.argv[0]}", file=sys.stderr)
        status = REFUSED
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    except OSError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        status = REFUSED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    raise SystemExit(status)
