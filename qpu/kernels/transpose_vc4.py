"""The transpose of VideoCore IV: the packing kernel, with the whole matrix as one panel."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from qpu.core.isa import Isa
from qpu.instruction_sets import assemble
from qpu.kernels import pack_vc4

if TYPE_CHECKING:
    from qpu.buffers import BufferView
    from qpu.kernels.common.jobs import Jobs
    from qpu.program import Program

__all__ = ["program", "transpose"]


@cache
def program(narrow: bool, strided: bool) -> Program:
    """The assembled kernel, see `pack_vc4.kernel`."""
    return assemble(pack_vc4.kernel, narrow, strided, isa=Isa.VC4)


def transpose(jobs: Jobs, x: BufferView, out: BufferView) -> bool:
    """Submit out[c, r] = x[r, c]. x: any strides; out: items of a row follow each other.

    Returns: False, and submits nothing, for other strides of out and items that are not at multiples of their size.
    """
    size = x.dtype.itemsize
    (rows, columns), step = x.shape, out.strides[0] if out.shape[0] > 1 else size * out.shape[1]
    places = (x.offset, out.offset, *x.strides, *out.strides)
    if (out.strides[1] != size and rows > 1) or any(place % size for place in places):
        return False
    strided = size * min(rows, 16) <= step <= pack_vc4.MAX_STRIDE
    each = -(-columns * -(-rows // 16) // jobs.gpu.qpus)  # steps, where all QPUs take part once
    for streams in pack_vc4.launches(
        source=x.address,
        lines=rows,
        line_stride=x.strides[0],
        k=columns,
        k_stride=x.strides[1],
        depth=columns,
        target=out.address,
        width=rows,
        step=step,
        panel=0,
        qpus=jobs.gpu.qpus,
        size=size,
        strided=strided,
        chunk=min(max(16, -(-each // pack_vc4.ROWS) * pack_vc4.ROWS), pack_vc4.CHUNK),
    ):
        jobs.start(program(size < 4, strided), streams)
    return True
