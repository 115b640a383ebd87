"""Hazards: rules at a distance as rows, findings, and the window that reads them."""

from __future__ import annotations

from dataclasses import dataclass

from qpu.core.isa import Basis, Isa
from qpu.errors import Severity

__all__ = ["Distance", "Finding"]


@dataclass(frozen=True, slots=True)
class Distance:
    """ "`before` must not stand within `distance` instructions after `after`": data for checker and scheduler alike.

    after, before: names of instruction effects, as the instruction set's `effects()` reports them. A scheduler may
    place `before` at ``index(after) + distance + 1`` at the earliest.
    """

    rule: str
    isas: frozenset[Isa]
    after: str
    before: str
    distance: int
    message: str
    source: str
    basis: Basis
    severity: Severity = Severity.ERROR
    first: int = 1  # the window starts here: 0 = the same instruction counts too


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a program breaks. index: the offending instruction; other: the earlier one concerned, if any."""

    rule: str
    severity: Severity
    index: int
    message: str
    other: int | None = None
    distance: int | None = None
