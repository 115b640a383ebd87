"""Texture and memory units of VideoCore IV: request queues, memory reads and texture requests."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.engine.numpy_lanes import LANES
from qpu.emu.vc4.faults import Level, Reporter
from qpu.emu.vc4.state import BUS_MASK, Group, Vector
from qpu.emu.vc4.texture import Request, TextureError, lookup
from qpu.emu.vc4.uniforms import Uniforms

__all__ = ["FIFO_DEPTH", "SAFE_DEPTH", "Queues", "Tmu"]

FIFO_DEPTH = 8  # vectors a QPU can have pending in one TMU (guide)
SAFE_DEPTH = 4  # more pending requests are unreliable, by reports from hardware
_COMPONENTS = "strb"


Queues: TypeAlias = tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]
"""Results, the place of the first, and their number: shapes (2, QPUs, FIFO_DEPTH, 16) and twice (2, QPUs)."""


def new_queues(n: int) -> Queues:
    """Queues of n QPUs."""
    return np.zeros((2, n, FIFO_DEPTH, LANES), np.uint32), np.zeros((2, n), np.int64), np.zeros((2, n), np.int64)


class Tmu:
    """Both TMUs as a program names them, 0 and 1; which unit of the slice serves a request is not visible.

    A request reads memory when it is made; the result stays in a queue of the QPU until a load signal pops it.
    """

    __slots__ = ("_count", "_data", "_faults", "_head", "_memory", "_partial", "_stats", "_uniforms", "noswap", "used")

    def __init__(
        self,
        n: int,
        memory: Memory,
        stats: RunStats,
        faults: Reporter,
        uniforms: Uniforms,
        queues: Queues | None = None,
    ) -> None:
        self._memory = memory
        self._stats = stats
        self._faults = faults
        self._uniforms = uniforms
        self._data, self._head, self._count = new_queues(n) if queues is None else queues
        self._partial: list[list[Request | None]] = [[None] * n, [None] * n]
        self.noswap = [False] * n
        self.used = [False] * n

    def reset(self, q: int) -> None:
        """A program starts on QPU `q`."""
        self._head[:, q] = self._count[:, q] = 0
        self._partial[0][q] = self._partial[1][q] = None
        self.noswap[q] = self.used[q] = False

    def outstanding(self, q: int) -> tuple[int, int]:
        """The numbers of results that QPU `q` has not collected, by TMU."""
        return int(self._count[0, q]), int(self._count[1, q])

    def collecting(self, q: int) -> bool:
        """Whether QPU `q` has written part of a texture request to either TMU."""
        one, two = self._partial
        return one[q] is not None or two[q] is not None

    def texturing(self, q: int, tmu: int) -> bool:
        """Whether QPU `q` has written part of a texture request, so that S takes a uniform too."""
        return self._partial[tmu][q] is not None

    def write(self, g: Group, tmu: int, component: int, value: Vector) -> None:
        """A write of S, T, R or B (component 0..3). S launches the request."""
        partial = self._partial[tmu]
        if component == 0 and all(partial[q] is None for q in g.ids):
            self._push(g, tmu, g.rows, self._direct(g, value))
            return
        if component == 0 and any(partial[q] is None for q in g.ids):
            # Only some members wrote other components before: each request is made separately.
            words = np.zeros(g.n, np.uint32)
            texturing = [i for i, q in enumerate(g.ids) if partial[q] is not None]
            words[texturing] = self._uniforms.take(g, texturing)
            for i in range(g.n):
                self._push(g, tmu, g.rows[i : i + 1], self._one(g, i, tmu, value, int(words[i])), i)
            return
        words = self._uniforms.take(g, range(g.n))
        if component == 0:
            for i in range(g.n):
                self._push(g, tmu, g.rows[i : i + 1], self._one(g, i, tmu, value, int(words[i])), i)
            return
        for i, q in enumerate(g.ids):
            request = partial[q]
            if request is None:
                request = partial[q] = Request()
            name = _COMPONENTS[component]
            if name in request.components:
                text = f"t{tmu}{name} is written twice in one texture request"
                self._faults.report(Level.UNKNOWN, "tmu-component-twice", text, g, i)
            request.components[name] = value[i].copy()
            request.setup.append(int(words[i]))

    def take(self, g: Group, tmu: int) -> Vector:
        """Pop the oldest result, for a load signal."""
        rows = g.rows
        count = self._count[tmu, rows]
        if not count.all():
            i = int(np.flatnonzero(count == 0)[0])
            text = f"ldtmu{tmu} with no pending request: the QPU would wait forever"
            self._faults.report(Level.STOP, "tmu-empty", text, g, i)
        head = self._head[tmu, rows]
        answer: Vector = self._data[tmu, rows, head]
        self._head[tmu, rows] = (head + 1) % FIFO_DEPTH
        self._count[tmu, rows] = count - 1
        return answer

    def set_noswap(self, g: Group, value: Vector) -> None:
        """A write of TMU_NOSWAP; lane 0 counts."""
        for i, q in enumerate(g.ids):
            new = bool(value[i, 0])
            if self._count[:, q].any():
                text = "tmu_noswap is written while TMU requests are pending; collect them first"
                self._faults.report(Level.UNKNOWN, "tmu-noswap-busy", text, g, i)
            elif self.used[q] and new != self.noswap[q]:
                text = "tmu_noswap is changed after the TMU was used; change it before the first request"
                self._faults.report(Level.WARN, "H10", text, g, i)
            self.noswap[q] = new

    def _direct(self, g: Group, value: Vector, at: int = 0) -> Vector:
        """Read one word for each lane. at: position in the group of the first row of `value`."""
        memory = self._memory
        address = value & np.uint32(BUS_MASK & ~3)
        legal = memory.legal(address)
        if not legal.all():
            i, lane = (int(x) for x in np.argwhere(~legal)[0])
            raise self._faults.out_of_bounds("TMU read", int(address[i, lane]), g, at + i, lane=lane)
        self._stats.tmu_read_bytes += 4 * LANES * len(value)
        values: Vector = memory.words[address >> np.uint32(2)]
        return values

    def _one(self, g: Group, i: int, tmu: int, value: Vector, word: int) -> Vector:
        """The result of the request that member `i` launches with S. word: its uniform, for a texture request."""
        q = g.ids[i]
        request = self._partial[tmu][q]
        if request is None:
            return self._direct(g, value[i : i + 1], i)
        self._partial[tmu][q] = None
        request.components["s"] = value[i].copy()
        request.setup.append(word)
        try:
            answer, concerns = lookup(request, self._memory)
        except TextureError as error:
            if error.address is not None:
                raise self._faults.out_of_bounds("texture read", error.address, g, i, lane=error.lane) from None
            self._faults.report(Level.STOP, error.rule, str(error), g, i, lane=error.lane)
            raise
        for text in concerns:
            self._faults.report(Level.WARN, "texture-uncertain", text, g, i)
        self._stats.tmu_read_bytes += 4 * LANES
        return answer[None, :]

    def _push(
        self, g: Group, tmu: int, rows: np.ndarray[tuple[int], np.dtype[np.intp]], values: Vector, at: int = 0
    ) -> None:
        count = self._count[tmu, rows]
        most = int(count.max()) + 1
        if most > SAFE_DEPTH:
            i = at + int(count.argmax())
            if most > FIFO_DEPTH:
                text = (
                    f"request {most} of TMU{tmu}: its queue holds {FIFO_DEPTH}; collect results with ldtmu{tmu} first"
                )
                self._faults.report(Level.STOP, "tmu-overflow", text, g, i)
            text = f"{most} requests pending in TMU{tmu}; more than {SAFE_DEPTH} are unreliable on hardware"
            self._faults.report(Level.WARN, "H26", text, g, i)
        slot = (self._head[tmu, rows] + count) % FIFO_DEPTH
        self._data[tmu, rows, slot] = values
        self._count[tmu, rows] = count + 1
        self._stats.tmu_requests += len(rows)
        for q in rows:
            self.used[q] = True
