"""The cost model: estimated times on real boards from counts of a launch and figures that others published.

Four constants are shared by all boards and fitted to published figures: the shares of the memory's data rate that
loads, stores and DMA loads reach, and the clocks of a wait that nothing hides. Each board has its number of QPUs, its
clock, the data rate of its memory, and the overhead of a launch. None of them was measured by this project. A time from
here is an estimate, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Final

from qpu.errors import UsageError

__all__ = ["BOARDS", "FITTED", "PUBLISHED", "BoardCost", "Constants", "Estimate", "Figure", "estimate", "fit"]

_GB: Final = 1e9
_CLOCKS: Final = 4  # of an instruction


@dataclass(frozen=True, slots=True)
class Constants:
    """What all boards share. read, write, dma_read: shares of the memory's data rate that loads of the TMU, stores, and
    DMA loads to the VPM reach. wait: clocks of a wait that nothing hides, such as for the load of a loop's turn."""

    read: float
    write: float
    dma_read: float
    wait: float


FITTED: Final = Constants(read=0.566, write=0.300, dma_read=0.192, wait=500.0)
"""The constants, as `fit` finds them from `PUBLISHED`."""


@dataclass(frozen=True, slots=True)
class BoardCost:
    """Constants of a board. clock: Hz. memory: bytes per second of its memory chips. overhead: seconds of a launch.
    error: factor by which estimates missed figures of this GPU, each left out of the fit. source: of these."""

    qpus: int
    clock: float
    memory: float
    overhead: float
    error: float
    source: str


_VC4: Final = (
    "clock and peak: published_figures; memory: sdram_freq of Linux's firmware; overhead: 1k points of GPU_FFT"
)
BOARDS: Final[Mapping[str, BoardCost]] = MappingProxyType(
    {
        "pi0": BoardCost(12, 250e6, 3.6 * _GB, 70e-6, 3.0, _VC4),
        "pi1": BoardCost(12, 250e6, 3.2 * _GB, 70e-6, 3.0, _VC4),
        "pi2": BoardCost(12, 250e6, 3.6 * _GB, 70e-6, 3.0, _VC4),
        "pi3": BoardCost(12, 300e6, 3.6 * _GB, 70e-6, 3.0, _VC4),
        "pi4": BoardCost(8, 500e6, 12.8 * _GB, 137e-6, 1.5, "memory: LPDDR4-3200; overhead: smallest launch of VkFFT"),
        "pi5": BoardCost(
            12, 800e6, 17.07 * _GB, 170e-6, 1.5,
            "12 QPUs at 800 MHz as py-videocore7 runs; memory: LPDDR4X-4267; overhead: log of a tiny dispatch",
        ),
    }
)  # fmt: skip
"""Constants of the boards. Memory has 32 bits; its rate is that of the product briefs."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated time on a real board, in seconds. low, high: the error bar. bound: ``issue``, ``waiting``,
    ``memory`` or ``overhead``, whichever decides. parts: seconds of each."""

    board: str
    seconds: float
    low: float
    high: float
    bound: str
    parts: Mapping[str, float]

    def __str__(self) -> str:
        times = ", ".join(f"{name} {1e3 * s:.3g} ms" for name, s in self.parts.items())
        return (
            f"estimate for a real {self.board}: {1e3 * self.seconds:.3g} ms ({1e3 * self.low:.3g} to "
            f"{1e3 * self.high:.3g}), bound by {self.bound} ({times})"
        )


def cost_of(board: str) -> BoardCost:
    """The constants of a board such as ``pi4`` or ``pi5,slices=3``. Raises: UsageError."""
    found = BOARDS.get(board.partition(",")[0]) if isinstance(board, str) else None
    if found is None:
        raise UsageError(f"no figures are known for {board!r}", help=f"choose one of {', '.join(BOARDS)}")
    return found


def estimate(
    board: str,
    instructions: float,
    read: float,
    write: float,
    launches: int = 1,
    *,
    waits: float = 0.0,
    dma_read: float = 0.0,
) -> Estimate:
    """The estimated time on a real board.

    instructions: of all QPUs, evenly distributed. read, write: bytes that loads of the TMU and uniforms ask for, and
    stores. dma_read: bytes of DMA loads. waits: that nothing hides, one after another on the busiest QPU. Issue and
    memory overlap. Raises: UsageError for a board without figures.
    """
    return _estimate(board, cost_of(board), FITTED, instructions, read, write, dma_read, waits, launches)


def _estimate(
    board: str,
    cost: BoardCost,
    c: Constants,
    instructions: float,
    read: float,
    write: float,
    dma_read: float,
    waits: float,
    launches: int,
) -> Estimate:
    parts = {
        "issue": instructions * _CLOCKS / (cost.qpus * cost.clock),
        "waiting": waits * c.wait / cost.clock,
        "memory": (read / c.read + write / c.write + dma_read / c.dma_read) / cost.memory,
        "overhead": launches * cost.overhead,
    }
    busy = parts["issue"] + parts["waiting"]
    seconds = max(busy, parts["memory"]) + parts["overhead"]
    bound = max(("issue", "waiting"), key=lambda name: parts[name]) if busy > parts["memory"] else "memory"
    if parts["overhead"] > max(busy, parts["memory"]):
        bound = "overhead"
    return Estimate(board, seconds, seconds / cost.error, seconds * cost.error, bound, MappingProxyType(parts))


@dataclass(frozen=True, slots=True)
class Figure:
    """A published figure. value: in `unit`. work: amount of work, in units times seconds. instructions, read, write,
    dma_read, waits: as of `estimate`. qpus, clock: those of the measurement, where they are not the board's. miss: why
    the model is wrong by more than half when the figure is left out, where it is."""

    what: str
    board: str
    value: float
    unit: str
    work: float
    instructions: float = 0.0
    read: float = 0.0
    write: float = 0.0
    dma_read: float = 0.0
    waits: float = 0.0
    qpus: int = 0
    clock: float = 0.0
    miss: str = ""

    def by(self, c: Constants) -> float:
        """The figure according to the model with these constants, without launch overhead."""
        cost = cost_of(self.board)
        cost = replace(cost, qpus=self.qpus or cost.qpus, clock=self.clock or cost.clock)
        counts = (self.instructions, self.read, self.write, self.dma_read, self.waits)
        return self.work / _estimate(self.board, cost, c, *counts, 0).seconds

    @property
    def predicted(self) -> float:
        """The figure according to the model."""
        return self.by(FITTED)

    @property
    def left_out(self) -> float:
        """The figure according to the model whose constants are fitted to the other figures."""
        return self.by(fit(f for f in PUBLISHED if f is not self))


def fit(figures: Iterable[Figure]) -> Constants:
    """The constants with the least sum of absolute logarithms of predicted / published: an outlier does not move them.

    A constant that no figure depends on: the share of DMA loads becomes that of the TMU's loads.
    """
    rows = list(figures)
    start = Constants(read=0.5, write=0.3, dma_read=0.5, wait=400.0)
    shared = not any(f.dma_read for f in rows)

    def whole(c: Constants) -> Constants:
        return replace(c, dma_read=c.read) if shared else c

    def wrong(c: Constants) -> float:
        return sum(abs(math.log(f.by(whole(c)) / f.value)) for f in rows)

    return whole(_least(wrong, start))


def _least(wrong: Callable[[Constants], float], c: Constants) -> Constants:
    """Coordinate search, with factors that become smaller."""
    names = [f.name for f in fields(Constants)]
    best, factor = wrong(c), 1.2
    while factor > 1.0005:
        moved = False
        for name in names:
            for by in (factor, 1 / factor):
                tried = replace(c, **{name: getattr(c, name) * by})
                value = wrong(tried)
                if value < best - 1e-12:
                    c, best, moved = tried, value, True
        if not moved:
            factor = math.sqrt(factor)
    return c


_N: Final = 1e9  # bytes of the bandwidth figures


def _product(
    what: str,
    board: str,
    gflops: float,
    instructions: float,
    per: float,
    bytes_per_flop: float,
    flops: float = 2 * 1024.0**3,
    *,
    qpus: int = 0,
    clock: float = 0.0,
    miss: str = "",
) -> Figure:
    """A product whose inner loop takes `instructions` for `per` floating-point operations in one turn, and waits once
    in each: for the load of that turn, or for its uniforms."""
    turns = flops / per
    used = qpus or cost_of(board).qpus
    return Figure(
        what, board, gflops, "Gflop/s", flops / 1e9, turns * instructions, bytes_per_flop * flops, 0.0,
        waits=turns / used, qpus=qpus, clock=clock, miss=miss,
    )  # fmt: skip


_LAYERS: Final = 2.0 * 96 * 363 * 3072
PUBLISHED: Final = (
    Figure("summation, py-videocore6", "pi4", 7.24, "GB/s", _N / 1e9, read=_N),
    Figure("memset, py-videocore6", "pi4", 3.75, "GB/s", _N / 1e9, write=_N),
    Figure("scopy, py-videocore6", "pi4", 2.42, "GB/s", _N / 1e9, read=_N, write=_N),
    Figure("scopy, 12 threads, py-videocore7", "pi5", 4.14, "GB/s", _N / 1e9, read=_N, write=_N),
    Figure("VPM DMA store", "pi3", 1.12, "GB/s", _N / 1e9, write=_N),
    Figure("VPM DMA load", "pi3", 0.69, "GB/s", _N / 1e9, dma_read=_N,
           miss="the only figure of DMA loads; without it they count as loads of the TMU"),
    _product("sgemm, py-videocore (README)", "pi3", 8, 67, 2048, 0.156, clock=250e6),
    _product("sgemm, 12 threads, py-videocore#5", "pi3", 6.7, 67, 2048, 0.156, _LAYERS,
             miss="12 QPUs get 8.4 times what one gets; the model does not let them wait for each other"),
    _product("sgemm, 1 thread, py-videocore#5", "pi3", 0.80, 67, 2048, 0.156, _LAYERS, qpus=1),
    _product("sgemm, QMKL", "pi3", 13, 142, 2048, 0.156,
             miss="its loop of 126 to 158 instructions hides the wait that the model counts for each turn"),
    _product("sgemm, py-videocore6", "pi4", 3.88, 47, 512, 0.25),
    _product("sgemm, py-videocore7", "pi5", 21.4, 135, 2048, 0.25),
)  # fmt: skip
"""The published figures whose counts can be derived, with the prediction of the model."""
