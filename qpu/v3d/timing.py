"""Result latencies of V3D instructions, for schedulers.

The numbers come from the windows of `qpu.v3d.rules` and the column `latency` of `qpu.v3d.ops`. Delay slots:
`qpu.v3d.rules.BRANCH_SLOTS` and `SWITCH_SLOTS`.
"""

from __future__ import annotations

from qpu.core.isa import Isa, Unit
from qpu.v3d import effects as facts
from qpu.v3d.instr import Alu, AluHalf, Instr
from qpu.v3d.rules import RULES

__all__ = ["latency"]


def latency(isa: Isa, writer: AluHalf | Instr, resource: str) -> int:
    """Instructions from `writer` to the first one that reads `resource` correctly and without a stall; 1: the next one.

    writer: an instruction or one half of it. resource: as in `Effects.writes`: ``rf5``, ``r4``, ``unifa``, ...
    """
    if isinstance(writer, AluHalf):
        halves: tuple[AluHalf, ...] = (writer,)
        unit = Unit.ADD if Unit.ADD in writer.op.units_on(isa) else Unit.MUL
        found = facts.half_effects(isa, unit, writer)
    else:
        halves = (writer.add, writer.mul) if isinstance(writer, Alu) else ()
        found = facts.effects(writer)
    waits = [h.op.latency for h in halves if h.dst is not None and facts.resource(isa, h.dst) == resource]
    return max([RULES.windows[isa].latency(found, resource), *waits])
