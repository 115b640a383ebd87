"""The passes of a Fourier transform of rows: which kernel takes one, and how its work is divided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from qpu.buffers import BufferView
from qpu.core.isa import Isa
from qpu.kernels.fft import passes, passes_vc4
from qpu.kernels.fft.passes import Pass

if TYPE_CHECKING:
    from qpu.device import Device
    from qpu.kernels.common.jobs import Jobs

__all__ = ["shares", "submit"]

SPREAD: Final = 64
"""Rows of items that a pass is cut into, at least, so that all threads have some."""
FEWEST: Final = 4
"""Groups of a share, at least: the kernels of many groups fetch factors and find their place before the first one."""


def submit(jobs: Jobs, step: Pass) -> None:
    """Submit a pass: assembly on VideoCore IV, two neighbouring items at once on V3D, where rows are long enough."""
    if jobs.gpu.isa is Isa.VC4:
        if step.n >= passes_vc4.SHORTEST:
            program = passes_vc4.program(step.radix, step.w is not None, step.inverse)
            jobs.start(program, passes_vc4.streams(step, jobs.gpu.qpus))
        else:
            _one_by_one(jobs, step)
    elif step.radix != 4 or step.n < 8:
        _one_by_one(jobs, step)
    elif cut := shares(jobs.gpu, step.rows, step.n, step.p):
        _runs(jobs, step, cut)
    else:
        _pairs(jobs, step)


def _one_by_one(jobs: Jobs, step: Pass) -> None:
    """Each item by itself, as complex numbers."""
    rows, n, radix = step.rows, step.n, step.radix
    high = 1  # parts of a row: a power of two, with 16 items or more in a part
    while rows * high < SPREAD and n // radix // high > 16:
        high *= 2
    x, out = _flat(step.x, rows * n), _flat(step.y, rows, radix * high, n // radix // high)
    if step.w is not None:
        jobs.add(passes.turned4, step.inverse, x, step.w, out, step.p, high)
    elif radix == 4:
        jobs.add(passes.last4, step.inverse, step.scale, x, out, high)
    else:
        jobs.add(passes.last2, step.scale, x, out, high)


def _pairs(jobs: Jobs, step: Pass) -> None:
    """Two neighbouring items at once."""
    x, y, apart, part = _words(step.x), _words(step.y), 2 * step.p, step.n // 2
    if step.w is None:
        jobs.add(passes.last4_pairs, step.inverse, step.scale, x, y, part)
    else:
        views = (*_views(x, apart, 4), *_views(_words(step.w), apart, 3))
        jobs.add(passes.turned4_pairs, step.inverse, *views, y, apart, part)


def _runs(jobs: Jobs, step: Pass, cut: list[tuple[int, int, int]]) -> None:
    """The same by the kernels of many groups."""
    x, y, apart, part = _words(step.x), _words(step.y), 2 * step.p, step.n // 2
    places = max(step.p // 2, 16)
    for start, share, count in cut:
        if step.w is None:
            runs = _views(x, 4, 4)
            items = 16 * count
            jobs.add(passes.last4_runs, step.inverse, step.scale, *runs, y, part, items, start, share, step.scale == 1)
        else:
            shift = places.bit_length() - 1
            rest = (apart, part, places * count, places, shift, start, share)
            jobs.add(passes.turned4_runs, step.inverse, *_views(x, apart, 4), _words(step.w), y, *rest)


def shares(gpu: Device, rows: int, n: int, p: int) -> list[tuple[int, int, int]]:
    """How the groups of a pass are divided for the kernels of many groups: first group, groups of a share, shares.

    Nothing where too few shares of `FEWEST` groups would be left for all threads.
    """
    places = max(p // 32, 1)  # vectors of lanes in a run, two numbers in a lane
    groups = rows * n // (128 * places)
    most = min(groups // FEWEST, 4 * gpu.qpus // places or 1)
    if n < 128 or places * most < 2 * gpu.qpus:
        return []
    count = next((c for c in range(most, most // 2, -1) if groups % c == 0), most)
    share, longer = divmod(groups, count)
    first = longer * (share + 1)
    return [(0, share + 1, longer)] * (longer > 0) + [(first, share, count - longer)]


def _views(x: BufferView, apart: int, count: int) -> list[BufferView]:
    """x from its start on, and from each further distance on."""
    return [x[apart * j :] for j in range(count)]


def _words(x: BufferView) -> BufferView:
    """Complex numbers, contiguous, as two words each."""
    return BufferView(x.buffer, x.offset, (2 * x.size,), np.float32)


def _flat(x: BufferView, *shape: int) -> BufferView:
    return BufferView(x.buffer, x.offset, shape, x.dtype)
