"""Attribution of GPU resets to jobs: Linux counts resets, but does not report the cancelled jobs (drivers.md 1.6)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from qpu.drivers.drm.objects import DrmFence
from qpu.drivers.errors_table import HELP
from qpu.errors import counted

__all__ = ["WATCHDOG_S", "blame", "warn_unknown"]

WATCHDOG_S = 0.5  # a job without a finished batch for that long is cancelled (Linux driver, drivers.md 1.6)


def blame(ended: Sequence[DrmFence], before: int | None, now: int | None) -> list[tuple[DrmFence, str]]:
    """The jobs that a reset has cut short or may have cut short, with the reason for each.

    ended: jobs that ended between two reads of the reset counter, oldest first. before, now: the values read; None
    where Linux does not count resets. A job without its completion word counts as cut short. Resets beyond these are
    attributed to jobs that have no such word, then to jobs whose word is set. If a group has more jobs than
    unattributed resets, every job of it is named: results that may be incomplete are never reported as complete.
    """
    cut = [(f, why) for f in ended if f.completion is not None and (why := f.completion.missing())]
    if before is None or now is None or now == before:
        return cut
    count = f"{counted(now, 'reset')}, {before} before the job"
    cut = [(f, f"{count}; {why}") for f, why in cut]
    left = now - before - len(cut)
    known = {id(f) for f, _ in cut}
    silent = [f for f in ended if f.completion is None]
    spoken = [f for f in ended if f.completion is not None and id(f) not in known]
    for group in (silent, spoken):  # a program can set its word and hang afterwards
        if left > 0 and group:
            several = f"; it may be another of the {counted(len(group), 'launch')} that ended by then"
            other = "" if left >= len(group) else several
            cut += [(f, count + other) for f in group]
            left -= len(group)
    return cut


def warn_unknown(node: str, seconds: float) -> None:
    """Warn about a long launch without a completion word that a reset may have cut short, as Linux counts none."""
    warnings.warn(
        f"{node}: a launch took up to {seconds:.2f} s, and this Linux (older than about 6.17) does not count GPU "
        f"resets. If its watchdog stopped this launch ({WATCHDOG_S} s without a finished batch), nothing here would "
        f"show it and the results may be incomplete{HELP}let the program set a word at its end (launch argument "
        "completion), or split the dispatch into short parts (max_batches)",
        RuntimeWarning,
        stacklevel=2,
    )
