"""Benchmark of what the tools for debugging cost: off, exact bounds, canary pages, and the full sanitizer.

Each figure is a ratio of CPU times of the same launches in one process. The two sides take turns in the order a b b a,
and the median of the ratios of all such rounds counts; turning a tool on is not timed. ``off``: as shipped, over the
same with every hook of the tools taken out. ``bounds``: exact bounds of buffers, which devices of this package have by
default, over bounds of pages. ``canaries``: as on VideoCore IV hardware. ``sanitizer``: all kinds, over the reference
engine alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias
from unittest import mock

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.emu.linux import core
from qpu.kernels import sgemm
from qpu.runtime.pool import MemoryPool

WORK = ("product", "small")


def prepared(gpu: Device, work: str, size: int, launches: int) -> Callable[[], object]:
    """A function that launches: one product, or the smallest program many times."""
    if work == "product":
        job = sgemm.Sgemm(gpu, size, size, size)
        ones = np.ones((size, size), np.float32)
        job.load(ones, ones, ones)
        return lambda: job.launch().wait()
    program = qpu.assemble(lambda q: q.end(), isa=gpu.isa)

    def many() -> None:
        for _ in range(launches):
            gpu.run(program)

    return many


HOOKS: dict[tuple[Any, str], Callable[..., None]] = {
    (core, "watching"): lambda _: None,
    (Device, "_rehearse"): lambda *_: None,
    (MemoryPool, "check_canaries"): lambda *_: None,
}
"""Where launches ask whether a tool is on, and what asks nothing."""


@contextmanager
def hooks(*, kept: bool) -> Iterator[None]:
    """Launches in which nothing asks whether a tool is on. kept: the same functions are put in their places again, so
    that both sides pay for what Python forgets about a class that was changed."""
    with ExitStack() as stack:
        for (where, name), nothing in HOOKS.items():
            stack.enter_context(mock.patch.object(where, name, getattr(where, name) if kept else nothing))
        yield


Side: TypeAlias = tuple[Callable[[], object], Callable[[], AbstractContextManager[object]]]
"""What is timed, and the context in which it runs."""


def ratios(ours: Side, base: Side, each_s: float, runs: int) -> list[float]:
    """CPU time of `ours` over that of `base`, `runs` times: the median of rounds, until they took so many seconds."""

    def taken(side: Side) -> float:
        launch, context = side
        with context():
            begun = time.process_time()
            launch()
            return time.process_time() - begun

    for side in (ours, base, ours, base):
        taken(side)  # translated, and in the caches
    found = []
    for _ in range(runs):
        rounds, spent = [], 0.0
        while len(rounds) < 4 or spent < 2 * each_s:
            a, b, c, d = (taken(side) for side in (ours, base, base, ours))
            rounds.append((a + d) / (b + c))
            spent += a + b + c + d
        found.append(statistics.median(rounds))
    return found


def device(board: str, engine: str, *, bounds: bool = True, canaries: bool = False) -> Device:
    """A board. bounds: exact ones."""
    with mock.patch.dict("os.environ", {"QPU_CANARIES": "1" if canaries else "0"}):
        gpu = qpu.open_device(board, engine=engine)
    if not bounds:
        gpu._pool.bounds = None
    return gpu


def measured(report: _common.Report, options: argparse.Namespace, board: str, engine: str, work: str) -> None:
    """The figures of one board, engine and piece of work."""
    with ExitStack() as stack:
        plain, paged, guarded = (
            prepared(stack.enter_context(gpu), work, options.size, options.launches)
            for gpu in (
                device(board, engine),
                device(board, engine, bounds=False),
                device(board, engine, canaries=True),
            )
        )

        as_is, watched = (plain, nullcontext), (plain, qpu.sanitize)
        rows: dict[str, tuple[Side, Side]] = {
            "off": ((plain, partial(hooks, kept=True)), (plain, partial(hooks, kept=False))),
            "bounds": (as_is, (paged, nullcontext)),
            "canaries": ((guarded, nullcontext), (paged, nullcontext)),
        }
        if engine == "reference":
            rows["sanitizer"] = watched, as_is
        for name, (ours, base) in rows.items():
            found = ratios(ours, base, options.seconds, options.runs)
            report.add(f"{name} ratio", found, "of CPU time", device=board, engine=engine, work=work)


def main() -> None:
    args = _common.parser(__doc__)
    args.add_argument("--device", action="append", choices=("pi3", "pi4", "pi5"), help="default: all three")
    args.add_argument("--engine", action="append", choices=("reference", "compiled"), help="default: both")
    args.add_argument("--size", type=_common.positive, default=64, help="of the product")
    args.add_argument("--launches", type=_common.positive, default=10, help="of the smallest program")
    args.add_argument("--seconds", type=float, default=1.0, help="CPU time of each side of a ratio")
    options = args.parse_args()
    report = _common.Report(options.json)
    for board in options.device or ("pi3", "pi4", "pi5"):
        for engine in options.engine or ("reference", "compiled"):
            for work in WORK:
                measured(report, options, board, engine, work)


if __name__ == "__main__":
    main()
