"""Choosing knobs by trying them: instructions on an emulated board, seconds on a real one.

What was found for kernels without knobs of their own is kept in `tuned.json`, which ships; a kernel is known there by
its syntax tree and the values that it reaches.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from qpu.core.isa import Isa
from qpu.errors import CompileError
from qpu.lang.schedule import Schedule

if TYPE_CHECKING:
    from qpu.device import Device

__all__ = ["FILE", "Trial", "confirmed", "schedules", "trials", "tuned"]

FILE: Final = Path(__file__).parent / "tuned.json"
TIMES: Final = 5  # runs on a real board, of which the fastest counts


class Tunable(Protocol):
    """A kernel that can be made with other knobs."""

    schedule: Schedule

    @property
    def team(self) -> bool: ...
    def with_knobs(self, schedule: Schedule) -> Any: ...


class Trial(NamedTuple):
    """One combination of knobs. cost: instructions or seconds."""

    cost: float
    schedule: Schedule


def schedules(base: Schedule, isa: Isa, *, team: bool) -> Iterator[Schedule]:
    """The combinations worth trying, `base` first."""
    yield base
    coarsen = (1,) if team else (1, 2, 4, 8)
    threads: tuple[int | str, ...] = ("auto",) if isa is Isa.VC4 else (2, 4)
    for c, t, u in itertools.product(coarsen, threads, (1, 2, 4)):
        yield base._replace(coarsen=None if team else c, threads=t, unroll=u)


def trials(k: Tunable, gpu: Device, arguments: Callable[[], tuple[Any, ...]]) -> list[Trial]:
    """Every combination that compiles, the cheapest first; of equals the one that was tried first.

    arguments: fresh ones for each launch.
    """
    found: list[Trial] = []
    seen: set[tuple[int, ...]] = set()
    for schedule in schedules(k.schedule, gpu.isa, team=k.team):
        made = k.with_knobs(schedule)
        try:
            run = made.on(gpu)(*arguments())
        except CompileError:
            continue  # more values than registers
        words = next(iter(made.compiled)).words if made.compiled else ()
        if words in seen:
            continue  # a knob without effect
        seen.add(words)
        stats = run.stats
        cost = float(stats.instructions) if stats is not None else _seconds(made.on(gpu), arguments)
        found.append(Trial(cost, schedule))
    return sorted(found, key=lambda t: t.cost)


def confirmed(
    k: Tunable, ranked: Sequence[Trial], board: Device, arguments: Callable[[], tuple[Any, ...]], most: int = 4
) -> list[Trial]:
    """The first trials of a ranking, and the kernel's own knobs, by seconds on a board, the fastest first.

    ranked: by `trials` on an emulated board of the same instruction set; arguments: fresh ones on the board.
    """
    chosen = list(ranked[:most])
    chosen += [t for t in ranked if t.schedule == k.schedule and t not in chosen]
    found = [Trial(_seconds(k.with_knobs(t.schedule).on(board), arguments), t.schedule) for t in chosen]
    return sorted(found, key=lambda t: t.cost)


def _seconds(launch: Callable[..., Any], arguments: Callable[[], tuple[Any, ...]]) -> float:
    """The fastest of some launches."""
    best = float("inf")
    launch(*arguments())  # compiles
    for _ in range(TIMES):
        args = arguments()
        start = time.perf_counter()
        launch(*args)
        best = min(best, time.perf_counter() - start)
    return best


@cache
def _file() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    try:
        found: Mapping[str, Mapping[str, Mapping[str, Any]]] = json.loads(FILE.read_text())
    except OSError:
        return {}
    return found


def tuned(identity: Callable[[], str | None], isa: Isa, schedule: Schedule) -> Schedule:
    """The knobs of the file for a kernel that has none of its own. identity: of the kernel, where it has one."""
    if schedule != Schedule() or not _file():
        return schedule
    name = identity()
    knobs = _file().get(name or "", {}).get(str(isa))
    return schedule if knobs is None else schedule._replace(**knobs)
