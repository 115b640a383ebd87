"""Several launches that belong together, such as packing and multiplying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpu.device import Launch
    from qpu.emu.engine.machine import RunStats

__all__ = ["Run", "total"]


@dataclass(frozen=True, slots=True)
class Run:
    """Finished launches in order."""

    launches: tuple[Launch, ...]

    @property
    def stats(self) -> RunStats | None:
        """Statistics of all of them together on an emulated board; None on a real one."""
        found = [launch.stats for launch in self.launches]
        known = [x for x in found if x is not None]
        return total(known) if known and len(known) == len(found) else None

    def _repr_html_(self) -> str:
        stats = self.stats
        return f"<div>{len(self.launches)} launches</div>{'' if stats is None else stats._repr_html_()}"


def total(parts: Sequence[RunStats]) -> RunStats:
    """Sums of every figure, by QPU where they are by QPU. Of names (ISA, engine) the first counts."""
    result = replace(parts[0])
    for one in parts[1:]:
        for field in fields(one):
            old, new = getattr(result, field.name), getattr(one, field.name)
            if isinstance(old, dict):
                merged = {key: old.get(key, 0) + new.get(key, 0) for key in {**old, **new}}
                setattr(result, field.name, type(old)(merged))
            elif isinstance(old, (int, float, list)):
                setattr(result, field.name, old + new)
    return result
