"""Long launches in parts: the threads of one launch end before the watchdog of Linux looks for one that has ended.

A launch of a fused kernel keeps its threads to its end. One over many elements is cut along its outermost axis into
launches that each take a fraction of the watchdog's half second, on the slowest board too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qpu.launch import Run

__all__ = ["FREE", "WORK", "Several", "parted"]

FREE: Final = 1 << 20
"""Items of a launch that is never cut."""

WORK: Final = 1 << 25
"""Vectors times instructions of a program in one launch: a tenth of a second where eight QPUs of 500 MHz wait most of
the time."""

EVEN = 64  # items, so that addresses of parts are as aligned as those of the whole


class Several:
    """Launches that are waited for together."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs

    def wait(self) -> None:
        """Wait for all of them. Raises: what they raise."""
        for run in self.runs:
            run.wait()


def parted(numbers: dict[str, int], form: str, length: int, steps: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """The launch values of each part. numbers: those of the whole; form: of the iteration; length: instructions of the
    program; steps: bytes from one item of the outermost axis to the next, by the name of the array.
    """
    items, outer = numbers["n"], numbers["n"] if form == "flat" else numbers["d0"]
    inner = numbers["n"] * numbers.get("rows", 1) // outer
    most = max(WORK * 16 // (length * inner), 1)
    if form == "flat":
        most = max(most // EVEN * EVEN, EVEN)
    for first in range(0, outer, most):
        count = min(most, outer - first)
        part = dict(numbers)
        if form == "rows":
            part["rows"] = numbers["rows"] // outer * count
        else:
            part["n"] = items // outer * count
        part["d0"] = count
        for name, step in steps.items():
            part[f"{name}.base"] += first * step
        yield part
