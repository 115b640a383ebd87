"""Common part of the benchmarks: timing, one JSON object a figure, and a description of the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from qpu.errors import DriverError, QpuError, UsageError


def positive(text: str) -> int:
    """The value of an option that counts something, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: whole numbers from 1")
    return value


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with --json and --runs."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--json", action="store_true", help="one JSON object a figure")
    made.add_argument("--runs", type=positive, default=5, help="runs of each figure, after one that is not counted")
    return made


def machine() -> dict[str, object]:
    """The machine that the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}


class Report:
    """Prints each figure at once, as a JSON object or as a line of text."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        info = machine()
        if as_json:
            print(json.dumps({"name": "machine", **info}), flush=True)
        else:
            print(" ".join(f"{k}={v}" for k, v in info.items()), file=sys.stderr)

    def add(self, name: str, values: list[float], unit: str, **extra: object) -> None:
        """One figure: the median of `values`, with the spread."""
        row = {
            "name": name,
            **extra,
            "value": statistics.median(values),
            "unit": unit,
            "min": min(values),
            "max": max(values),
            "runs": len(values),
        }
        if self.as_json:
            print(json.dumps(row), flush=True)
        else:
            more = " ".join(f"{k}={v}" for k, v in extra.items())
            print(f"{name:34} {row['value']:14,.4g} {unit:12} (min {min(values):,.4g}, max {max(values):,.4g}) {more}")


def both(work: Callable[[], object], runs: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of `work`, `runs` times, after one that is not counted."""
    work()
    times = []
    for _ in range(runs):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    return times


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    """Wall seconds of `work`, `runs` times, after one that is not counted."""
    return [wall for wall, _ in both(work, runs)]


def main(run: Callable[[], None]) -> None:
    """Run a benchmark; an error becomes one message, with the exit status of the examples."""
    status = 0
    try:
        run()
    except (UsageError, DriverError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except QpuError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    raise SystemExit(status)
