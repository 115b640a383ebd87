"""The cost model: estimated times on real boards from counts of a launch and figures that others published.

Every constant names its source in `published_figures`, the table of the guide's page on debugging; none was measured by
this project. A time from here is an estimate, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from qpu.errors import UsageError

__all__ = ["BOARDS", "PUBLISHED", "BoardCost", "Estimate", "Figure", "estimate"]

_GB: Final = 1e9


@dataclass(frozen=True, slots=True)
class BoardCost:
    """Constants of a board. instructions: per second of all QPUs together. read, write: bytes per second.
    overhead: seconds of a launch. error: factor by which estimates of this board missed published figures. source: of
    the constants."""

    instructions: float
    read: float
    write: float
    overhead: float
    error: float
    source: str


BOARDS: Final[Mapping[str, BoardCost]] = MappingProxyType(
    {
        "pi3": BoardCost(
            12 * 300e6 / 4, 1.25 * _GB, 1.12 * _GB, 70e-6, 2.0,
            "12 QPUs at 300 MHz; loads: sgemm of py-videocore, 8 Gflop/s at 0.156 B/flop; stores: VPM DMA "
            "(masonjwang.com); overhead: 1k points of GPU_FFT",
        ),
        "pi4": BoardCost(
            8 * 500e6 / 4, 7.24 * _GB, 3.75 * _GB, 137e-6, 3.0,
            "8 QPUs at 500 MHz; summation and memset of py-videocore6; overhead: smallest dispatch of VkFFT",
        ),
        "pi5": BoardCost(
            12 * 800e6 / 4, 12.1 * _GB, 6.28 * _GB, 170e-6, 2.0,
            "12 QPUs at 800 MHz as py-videocore7 runs; its scopy, split as on the Pi 4; overhead: unverified log of a "
            "tiny dispatch",
        ),
    }
)  # fmt: skip
"""Constants of the boards with published figures; other boards use those of the same GPU."""

_SAME: Final = {"pi0": "pi3", "pi1": "pi3", "pi2": "pi3"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated time on a real board, in seconds. low, high: the error bar. bound: ``issue``, ``memory`` or
    ``overhead``, whichever takes longest. parts: seconds of each."""

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
    name = board.partition(",")[0]
    found = BOARDS.get(_SAME.get(name, name))
    if found is None:
        raise UsageError(f"no figures are known for {board!r}", help=f"choose one of {', '.join((*_SAME, *BOARDS))}")
    return found


def estimate(board: str, instructions: float, read: float, write: float, launches: int = 1) -> Estimate:
    """The estimated time on a real board.

    instructions: of all QPUs, evenly distributed. read, write: bytes that QPUs ask for. Issue and memory overlap.
    Raises: UsageError for a board without figures.
    """
    cost = cost_of(board)
    parts = {
        "issue": instructions / cost.instructions,
        "memory": read / cost.read + write / cost.write,
        "overhead": launches * cost.overhead,
    }
    seconds = max(parts["issue"], parts["memory"]) + parts["overhead"]
    bound = max(parts, key=lambda name: parts[name])
    return Estimate(board, seconds, seconds / cost.error, seconds * cost.error, bound, MappingProxyType(parts))


@dataclass(frozen=True, slots=True)
class Figure:
    """A published figure. value: in `unit`. work: amount of work, in units times seconds. fitted: a constant of the
    model comes from it. miss: why the model is wrong by more than half, where it is."""

    what: str
    board: str
    value: float
    unit: str
    work: float
    instructions: float
    read: float
    write: float
    fitted: bool = False
    miss: str = ""

    @property
    def predicted(self) -> float:
        """The figure according to the model, without launch overhead."""
        cost = cost_of(self.board)
        found = estimate(self.board, self.instructions, self.read, self.write)
        return self.work / (found.seconds - cost.overhead)


_FLOPS: Final = 2 * 1024.0**3  # of a product of 1024 x 1024 matrices
_N: Final = 1e9  # bytes of the bandwidth figures


def _product(
    what: str,
    board: str,
    gflops: float,
    instructions: float,
    per: float,
    bytes_per_flop: float,
    *,
    fitted: bool = False,
    miss: str = "",
) -> Figure:
    """A product whose inner loop takes `instructions` for `per` floating-point operations."""
    count, read = _FLOPS * instructions / per, bytes_per_flop * _FLOPS
    return Figure(what, board, gflops, "Gflop/s", _FLOPS / 1e9, count, read, 4 * 1024.0**2, fitted, miss)


PUBLISHED: Final = (
    Figure("summation, py-videocore6", "pi4", 7.24, "GB/s", _N / 1e9, 0, _N, 0, True),
    Figure("memset, py-videocore6", "pi4", 3.75, "GB/s", _N / 1e9, 0, 0, _N, True),
    Figure("scopy, py-videocore6", "pi4", 2.42, "GB/s", _N / 1e9, 0, _N, _N),
    Figure("scopy, 12 threads, py-videocore7", "pi5", 4.14, "GB/s", _N / 1e9, 0, _N, _N, True),
    Figure("VPM DMA store", "pi3", 1.12, "GB/s", _N / 1e9, 0, 0, _N, True),
    Figure("VPM DMA load", "pi3", 0.69, "GB/s", _N / 1e9, 0, _N, 0, False,
           "the model has one rate for loads, that of the TMUs; DMA loads are slower"),
    _product("sgemm, py-videocore (README)", "pi3", 8, 67, 2048, 0.156, fitted=True),
    _product("sgemm, 12 threads, py-videocore#5", "pi3", 6.7, 67, 2048, 0.156),
    _product("sgemm, py-videocore6", "pi4", 3.88, 47, 512, 0.25,
             miss="one thread per QPU waits for each load; the model assumes that loads are hidden"),
    _product("sgemm, py-videocore7", "pi5", 21.4, 135, 2048, 0.25,
             miss="A is gathered over 16 cache lines, each of which moves more bytes than are used"),
)  # fmt: skip
"""The published figures whose counts can be derived, with the prediction of the model."""
