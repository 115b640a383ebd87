"""Which jobs a GPU reset cut short: Linux counts resets but does not say whose they were (drivers.md 1.6)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from qpu.drivers.drm.objects import DrmFence

__all__ = ["WATCHDOG_S", "blame", "warn_unknown"]

WATCHDOG_S = 0.5  # a job without a finished batch for that long is cancelled (Linux driver, drivers.md 1.6)


def blame(ended: Sequence[DrmFence], before: int | None, now: int | None) -> list[tuple[DrmFence, str]]:
    """The jobs that did not come to their end, with the reason for each.

    ended: jobs that ended between two looks at the reset counter, oldest first. before, now: the counter; None where
    Linux has none. Completion words decide where there are any; what they leave open falls on the jobs without
    one, on all of them when there are more than resets: results that may be incomplete are not passed off as complete.
    """
    cut = [(f, why) for f in ended if f.completion is not None and (why := f.completion.missing())]
    if before is None or now is None or now == before:
        return cut
    counted = f"{now} resets, {before} before the job"
    cut = [(f, f"{counted}; {why}") for f, why in cut]
    left = now - before - len(cut)
    known = {id(f) for f, _ in cut}
    silent = [f for f in ended if f.completion is None]
    spoken = [f for f in ended if f.completion is not None and id(f) not in known]
    for group in (silent, spoken):  # a word can be set by a program that hangs afterwards
        if left > 0 and group:
            other = "" if left >= len(group) else f"; it may be another of the {len(group)} launches that ended by then"
            cut += [(f, counted + other) for f in group]
            left -= len(group)
    return cut


def warn_unknown(node: str, seconds: float) -> None:
    """Warn about a long launch that may have been cut short: Linux counts no resets, and it has no completion word."""
    warnings.warn(
        f"{node}: a launch took up to {seconds:.2f} s, and this kernel (older than about 6.17) does not count GPU "
        f"resets. If its watchdog stopped this launch ({WATCHDOG_S} s without a finished batch), nothing here would "
        "show it and the results may be incomplete. Let the program set a word at its end (launch "
        "argument completion), or cut the dispatch into short parts (max_batches)",
        RuntimeWarning,
        stacklevel=2,
    )
