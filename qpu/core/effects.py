"""Effects of instructions: the resources that they read and write, and the events that hazard rules refer to.

One form serves all instruction sets. `qpu.v3d.effects` and `qpu.vc4.effects` derive the effects of instructions and of
their halves; hazard checkers, emulator and schedulers use them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qpu.core.optable import Token

__all__ = ["NOTHING", "Effects", "union"]

_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of an instruction or of a part of one.

    reads, writes: names of resources: registers (``rf3``, ``ra3``, ``r4``), flags, queues and streams, I/O registers.
    partial: registers among the writes that keep their old value in some lanes or bits. tokens: ordered sequences that
    the instruction belongs to. events: other facts that hazard rules refer to, such as ``thrsw`` or ``branch``.
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
    """The combined effects of all parts."""
    total = NOTHING
    for part in parts:
        if part is not NOTHING:
            total = part if total is NOTHING else total | part
    return total
