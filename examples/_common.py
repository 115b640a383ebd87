"""What every example shares: its options, the line about the device, JSON output and exit status."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import qpu
from qpu.device import Device
from qpu.errors import UsageError

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


def emit(row: dict[str, object]) -> None:
    """One JSON object a line."""
    print(json.dumps(row), flush=True)


def main(run: Callable[[], int]) -> None:
    """Run an example; errors of the package become one clear line and the right exit status."""
    try:
        status = run()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        status = REFUSED
    except qpu.DriverError as error:
        print(f"error: {error}", file=sys.stderr)
        status = REFUSED
    except qpu.QpuError as error:
        print(f"error: {error}", file=sys.stderr)
        status = FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    raise SystemExit(status)
