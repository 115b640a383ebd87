"""Effects: what an instruction or a half of it reads, writes and triggers, in one form for every instruction set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qpu.core.optable import Token

__all__ = ["NOTHING", "Effects", "union"]

_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Effects:
    """Resources and events of an instruction or of a part of one.

    reads, writes: names of resources: registers (``rf3``, ``ra3``, ``r4``), flags, queues and streams, I/O registers.
    partial: registers among the writes that keep their old value in some lanes or bits. tokens: sequences whose order
    must be kept. events: what else the rules of the instruction set ask for, such as ``thrsw`` or ``branch``.
    """

    reads: frozenset[str] = _NONE
    writes: frozenset[str] = _NONE
    partial: frozenset[str] = _NONE
    tokens: frozenset[Token] = frozenset()
    events: frozenset[str] = _NONE

    @property
    def needs(self) -> frozenset[str]:
        """Resources whose earlier value matters: those read, and registers that are written in part."""
        return self.reads | self.partial

    def __or__(self, other: Effects) -> Effects:
        return Effects(
            self.reads | other.reads,
            self.writes | other.writes,
            self.partial | other.partial,
            self.tokens | other.tokens,
            self.events | other.events,
        )


NOTHING = Effects()


def union(parts: Iterable[Effects]) -> Effects:
    """The effects of all parts together."""
    total = NOTHING
    for part in parts:
        if part is not NOTHING:
            total = part if total is NOTHING else total | part
    return total
