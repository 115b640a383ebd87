"""The tile shape of the sgemm kernels, their unrolling and prefetch distance, and the size of launches."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AHEAD", "HALF", "NOTHING", "UNROLL", "After", "Shape", "batch"]

UNROLL = 4  # steps of k per loop
# Rows of B requested ahead. V3D: two words each, 6 of the 8 result slots of a thread (v3d.md 9.5). VideoCore IV: four
# outstanding requests are safe (vc4.md 13.1).
AHEAD = 3


HALF = 0x8000
"""Half a unit of what is divided by 2**16."""


@dataclass(frozen=True, slots=True)
class After:
    """What a kernel makes of its sums before it stores them. The rest of its words see `sgemm.Ending`.

    bias: adds a word of each column. relu: nothing below zero. size: bytes of a result; below 4, sums of integers are
    multiplied by a factor of each column, shifted, and limited.
    """

    bias: bool = False
    relu: bool = False
    size: int = 4

    @property
    def narrow(self) -> bool:
        """Whether integers are requantised."""
        return self.size < 4

    @property
    def scale(self) -> int:
        """Bits by which the number of a column is shifted to its address."""
        return self.size.bit_length() - 1


NOTHING = After()


@dataclass(frozen=True, slots=True)
class Shape:
    """Tile of a kernel. vectors: of 16 columns."""

    rows: int
    vectors: int

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        return 16 * self.vectors


def batch(count: int, work: int, most: int, qpus: int) -> int:
    """Number of pieces of `work` per launch of about `most`: `count` divided evenly, in whole rounds of the QPUs."""
    launches = -(-count * work // most)
    return -(-count // launches // qpus) * qpus if launches < count else max(1, min(qpus, count))
