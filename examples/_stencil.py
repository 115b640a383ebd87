"""Image filters: the taps of a pixel's neighbours, with borders that repeat the edge of the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _common
import _png
import numpy as np
from _common import within
from _rows import COLUMNS, ROWS, Kit

import qpu
from qpu.device import Device

CAMERA = Path(__file__).parent / "images" / "camera.png"


class Taps:
    """The body (see `_rows.Body`) of a filter that reads the pixels at `offsets`, pairs of (down, right).

    start(q, k) is called before the first tap; tap(q, k, i, value) uses the pixel at offsets[i], which is in `value`;
    finish(q, k) returns the register with the result. Addresses are clamped to the picture: pixels outside the border
    are those of the edge.
    """

    def __init__(
        self,
        offsets: Sequence[tuple[int, int]],
        start: Callable[[Any, Kit], None],
        tap: Callable[[Any, Kit, int, Any], None],
        finish: Callable[[Any, Kit], Any],
    ) -> None:
        self.offsets = list(offsets)
        self.down = sorted({d for d, _ in offsets})
        self.right = sorted({r for _, r in offsets})
        within("the rows of a filter", len(self.down), 1, ROWS)
        within("the columns of a filter", len(self.right), 1, COLUMNS)
        self.start, self.tap, self.finish = start, tap, finish

    def each_row(self, q: Any, k: Kit) -> None:
        """row[i] = address of the row `down[i]` below this one."""
        w = k.work[0]
        for down, address in zip(self.down, k.row, strict=False):
            q.add(w, k.y, down)
            q.max(w, w, 0)
            q.min(w, w, k.last_row)
            (q.mul24 if k.isa is qpu.Isa.VC4 else q.umul24)(w, w, k.pitch)
            q.add(address, w, k.source)

    def each_vector(self, q: Any, k: Kit) -> Any:
        """Request up to eight pixels of every lane and use them in order, until all are used."""
        w = k.work[0]
        for right, offset in zip(self.right, k.column, strict=False):
            q.add(w, k.x, right)
            q.max(w, w, 0)
            q.min(w, w, k.last_column)
            q.shl(offset, w, 2)
        self.start(q, k)
        for first in range(0, len(self.offsets), 8):
            group = list(enumerate(self.offsets))[first : first + 8]
            addresses = [(k.row[self.down.index(d)], k.column[self.right.index(r)]) for _, (d, r) in group]
            if k.isa is qpu.Isa.VC4:
                for number, (row, column) in enumerate(addresses):  # two TMUs, four requests each
                    q.add((q.tmu0_s, q.tmu1_s)[number % 2], row, column)
                for number, (i, _) in enumerate(group):
                    q.nop(sig=(q.ldtmu0, q.ldtmu1)[number % 2])
                    self.tap(q, k, i, q.r4)
            else:
                for row, column in addresses:
                    q.add(q.tmua, row, column)
                q.nop(sig=q.thrsw)  # the other thread runs while memory answers
                q.nop()
                q.nop()
                for i, _ in group:
                    q.nop(sig=q.ldtmu(k.spare))
                    self.tap(q, k, i, k.spare)
        return self.finish(q, k)


def pixels_of(path: Path | None) -> Callable[[Device], Any]:
    """The grey picture to filter on a device, uint8; by default `CAMERA`, for a slow device every fifth pixel of it.

    Raises: OSError, UsageError for a file that `_png.read_grey` cannot read.
    """
    pixels = _png.read_grey(path or CAMERA)
    return lambda gpu: pixels[::5, ::5] if path is None and _common.slow(gpu) else pixels


def shifted(pixels: Any, down: int, right: int) -> Any:
    """The neighbour of each pixel by NumPy, with the edge repeated; has the shape of `pixels`."""
    rows = np.clip(np.arange(pixels.shape[0]) + down, 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(pixels.shape[1]) + right, 0, pixels.shape[1] - 1)
    return pixels[np.ix_(rows, columns)]
