"""Result latencies of VideoCore IV instructions, and the effects of one half, for schedulers.

Delay slots: `qpu.vc4.rules.BRANCH_SLOTS` and `SWITCH_SLOTS`.
"""

from __future__ import annotations

from functools import lru_cache

from qpu.core.effects import Effects
from qpu.core.isa import Isa, Unit
from qpu.errors import AsmError, Diagnostic
from qpu.vc4.effects import effects
from qpu.vc4.instr import Half, Instr
from qpu.vc4.pairing import combine
from qpu.vc4.rules import RULES

__all__ = ["half_effects", "latency"]


@lru_cache(1 << 12)
def half_effects(half: Half) -> Effects:
    """Effects of an instruction that has only this half. Raises: AsmError when the half is not valid."""
    found = combine(half) if half.unit is Unit.ADD else combine(None, half)
    if isinstance(found, Diagnostic):
        raise AsmError.of(found)
    return effects(found)


def latency(isa: Isa, writer: Half | Instr, resource: str) -> int:
    """Instructions from `writer` to the first one that reads `resource` correctly; 1: the next one.

    writer: an instruction or one half of it. resource: as in `Effects.writes`: ``ra5``, ``r4``, ``unif_addr``, ...
    """
    found = half_effects(writer) if isinstance(writer, Half) else effects(writer)
    return RULES.windows[isa].latency(found, resource)
