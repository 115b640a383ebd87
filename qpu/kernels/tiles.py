"""The tile shape of the sgemm kernels, and the unrolling and prefetch distance that all of them use."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AHEAD", "UNROLL", "Shape"]

UNROLL = 4  # steps of k per loop
# Rows of B requested ahead. V3D: two words each, 6 of the 8 result slots of a thread (v3d.md 9.5). VideoCore IV: four
# outstanding requests are safe (vc4.md 13.1).
AHEAD = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """Tile of a kernel. vectors: of 16 columns."""

    rows: int
    vectors: int

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        return 16 * self.vectors
