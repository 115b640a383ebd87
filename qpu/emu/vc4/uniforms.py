"""The uniform stream of VideoCore IV: one pointer for each QPU, which uniform reads and texture requests advance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.engine.numpy_lanes import LANES
from qpu.emu.vc4.faults import Level, Reporter
from qpu.emu.vc4.state import BUS_MASK, Group, Vector

__all__ = ["Uniforms"]


class Uniforms:
    """Uniform reads of all QPUs."""

    __slots__ = ("_faults", "_memory", "_stats")

    def __init__(self, memory: Memory, stats: RunStats, faults: Reporter) -> None:
        self._memory = memory
        self._stats = stats
        self._faults = faults

    def take(self, g: Group, members: Sequence[int]) -> NDArray[np.uint32]:
        """The next uniform of each of `members` (positions in the group), shape (len,); advances their pointers."""
        rows = g.sel if len(members) == g.n else g.rows[list(members)]
        pointer = g.bank.uniform[rows]
        memory = self._memory
        if not memory.all_fetchable(pointer):
            self._bad_uniform(g, members, pointer)
        values: NDArray[np.uint32] = memory.words[pointer >> np.uint32(2)]
        g.bank.uniform[rows] = pointer + np.uint32(4)
        self._stats.uniform_bytes += 4 * len(pointer)
        return values

    def _bad_uniform(self, g: Group, members: Sequence[int], pointer: NDArray[np.uint32]) -> None:
        for i, p in zip(members, pointer.tolist(), strict=True):
            if not p:
                text = "uniform read, but the program was launched without uniforms (address 0)"
                self._faults.report(Level.STOP, "no-uniforms", text, g, i)
            if not self._memory.fetched(p):
                if (stream := self._memory.stream_before(p)) is not None:
                    number = (p - stream[0]) // 4 + 1
                    text = f"uniform {number} of {stream[1]}: the program takes more than it was given"
                    self._faults.report(Level.STOP, "uniforms-end", text, g, i, address=p)
                raise self._faults.out_of_bounds("uniform read", p, g, i)

    def read(self, g: Group) -> Vector:
        """The next uniform in all lanes of each member."""
        return np.repeat(self.take(g, range(g.n))[:, None], LANES, axis=1)

    def set(self, g: Group, value: Vector) -> None:
        """A write to address 40, file A: the new uniform pointer, in lane 0."""
        pointer = value[:, 0]
        odd = pointer & np.uint32(3)
        if odd.any():
            i = int(np.flatnonzero(odd)[0])
            text = f"uniforms address 0x{int(pointer[i]):08x} is not a multiple of 4; the low bits are ignored"
            self._faults.report(Level.UNKNOWN, "uniforms-unaligned", text, g, i)
        g.bank.uniform[g.sel] = pointer & np.uint32(BUS_MASK & ~3)

    def move(self, g: Group, value: Vector) -> None:
        """A write to address 40, file B: relative to an undocumented base, assumed to be the pointer itself."""
        text = "a relative change of the uniforms address (address 40, file B) has an undocumented base"
        self._faults.report(Level.UNKNOWN, "uniforms-relative", text, g)
        moved = g.bank.uniform[g.sel] + value[:, 0]
        g.bank.uniform[g.sel] = moved & np.uint32(BUS_MASK & ~3)
