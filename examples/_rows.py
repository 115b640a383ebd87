"""Loops of programs over pictures, on every instruction set: one word a pixel, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from _common import within

import qpu
from qpu.device import Buffer, Device
from qpu.errors import UsageError
from qpu.vc4 import vpm

LARGEST = 4096  # pixels along an edge: 64 MiB a picture, and products of row and pitch stay below 2**24 vectors
CONSTANTS, ROWS, COLUMNS = 9, 16, 16  # registers that the loops keep for a body


@dataclass(frozen=True)
class Kit:
    """The registers of a body, by the same names on every instruction set.

    x: column of each lane, integer. y: the row, the same in all lanes. constants: as given to `RowProgram`. work: four
    registers for any use; they keep their values until the end of a vector of pixels. row, column: registers set by
    `each_row` and `each_vector`. An instruction reads at most one of x, y and row, and at most one of constants and
    column: VideoCore IV has two register files with one read port each, and a small immediate takes the second.
    source, pitch, last_row, last_column: address and bytes of a row of the input, and its last row and column, each a
    constant. spare: one more register, for the result of a TMU (VideoCore IV: r4, its fixed register).
    """

    isa: qpu.Isa
    x: Any
    y: Any
    constants: Sequence[Any]
    work: Sequence[Any]
    row: Sequence[Any]
    column: Sequence[Any]
    source: Any
    pitch: Any
    last_row: Any
    last_column: Any
    spare: Any


class Body(Protocol):
    """The computation of a pixel."""

    def each_row(self, q: Any, k: Kit) -> None:
        """Emit the part that depends on the row only."""
        ...

    def each_vector(self, q: Any, k: Kit) -> Any:
        """Emit the work on 16 neighbouring pixels. Returns: the register with the result, one of `work`."""
        ...


def _rows_v3d(q: Any, constants: int, body: Body) -> None:
    """One row for each workgroup; two threads on a QPU have 64 registers each.

    Uniforms: output, width, source, pitch, last row, last column, constants.
    """
    rf = q.rf
    y = rf[0] if q.isa is qpu.Isa.V3D42 else rf[3]  # the workgroup's number in x
    out, width, x, at = rf[4], rf[5], rf[6], rf[7]
    k = Kit(q.isa, x, y, [rf[12 + i] for i in range(constants)], [rf[24 + i] for i in range(4)],
            [rf[32 + i] for i in range(ROWS)], [rf[48 + i] for i in range(COLUMNS)],
            rf[8], rf[9], rf[10], rf[11], rf[28])  # fmt: skip
    for register in (out, width, k.source, k.pitch, k.last_row, k.last_column, *k.constants):
        q.nop(sig=q.ldunifrf(register))
    q.eidx(x)
    q.umul24(at, y, k.pitch)
    q.add(out, out, at)
    body.each_row(q, k)
    with q.loop("vectors") as loop:
        result = body.each_vector(q, k)
        q.shl(at, x, 2)
        q.mov(q.tmud, result)
        q.add(q.tmua, out, at)
        q.add(x, x, 8)
        q.add(x, x, 8)  # 16 is not a small immediate
        q.sub(q.null, x, width, push="pushc")
        q.b(loop.start, cond="anya")  # a borrow: there are pixels left
        q.nop()
        q.nop()
        q.nop()
    q.end()


def _rows_vc4(q: Any, constants: int, body: Body) -> None:
    """A band of rows for each QPU.

    Uniforms: rows, first row, output, vectors of a row, VPM and DMA set-up, source, pitch, last row, last column,
    constants.
    """
    ra, rb = q.ra, q.rb
    rows, y, out, left, x = (ra[i] for i in range(5))
    vectors, fill, store = rb[0], rb[1], rb[2]
    k = Kit(qpu.Isa.VC4, x, y, [rb[7 + i] for i in range(constants)], [q.r0, q.r1, q.r2, q.r3],
            [ra[16 + i] for i in range(ROWS)], [rb[16 + i] for i in range(COLUMNS)],
            rb[3], rb[4], rb[5], rb[6], q.r4)  # fmt: skip
    inputs = (rows, y, out, vectors, fill, store, k.source, k.pitch, k.last_row, k.last_column, *k.constants)
    for register in inputs:
        q.mov(register, q.uniform)
    with q.loop("rows") as outer:
        q.mov(x, q.element_number)
        q.mov(left, vectors)
        body.each_row(q, k)
        with q.loop("vectors") as inner:
            result = body.each_vector(q, k)
            q.wait_dma_store()  # of the previous vector, which is still in this row of the VPM
            q.mov(q.vw_setup, fill)
            q.mov(q.vpm, result)
            q.mov(q.vw_setup, store)
            q.mov(q.vw_addr, out)
            q.ldi(q.r3, 16)
            q.sub(left, left, 1, push="z")
            q.b(inner.start, cond="anynz")
            q.add(x, x, q.r3)
            q.shl(q.r3, q.r3, 2)
            q.add(out, out, q.r3)
        q.sub(rows, rows, 1, push="z")
        q.b(outer.start, cond="anynz")
        q.add(y, y, 1)
        q.nop()
        q.nop()
    q.wait_dma_store()
    q.end()


def picture(gpu: Device, data: Any) -> Buffer:
    """A two-dimensional array in device memory, 32 bits a pixel, rows padded to whole vectors of 16."""
    height, width = data.shape
    buffer = gpu.zeros((height, -(-width // 16) * 16), data.dtype)
    buffer.array[:, :width] = data
    return buffer


class RowProgram:
    """out[y, x] = body at (x, y), on all QPUs of any board.

    V3D: each workgroup takes a row, and every thread of the GPU a workgroup at a time. VideoCore IV: each QPU takes a
    band of neighbouring rows.
    """

    def __init__(
        self,
        gpu: Device,
        body: Body,
        shape: tuple[int, int],
        out: Buffer,
        source: Buffer | None = None,
        constants: Sequence[int | float] = (),
    ) -> None:
        """shape: height and width in pixels. out, source: made by `picture`. Raises: UsageError."""
        self.gpu, self.out = gpu, out
        self.height, self.width = shape
        within("the height of a picture", self.height, 1, LARGEST)
        within("the width of a picture", self.width, 1, LARGEST)
        within("the number of constants", len(constants), 0, CONSTANTS)
        padded = (self.height, -(-self.width // 16) * 16)
        for buffer in (out, *(() if source is None else (source,))):
            if buffer.shape != padded or buffer.dtype.itemsize != 4:
                raise UsageError(
                    f"a buffer of {buffer.dtype} of shape {buffer.shape}; allowed: 32-bit pixels of shape {padded}",
                    help="make it with picture()",
                )
        self.uniforms = [source or 0, 4 * padded[1], self.height - 1, self.width - 1, *constants]
        kernel = _rows_vc4 if gpu.isa is qpu.Isa.VC4 else _rows_v3d
        self.program = qpu.assemble(kernel, len(constants), body, isa=gpu.isa)

    def launch(self) -> int:
        """Run once. Returns: instructions executed; 0 on a real board, which does not count them."""
        gpu = self.gpu
        if gpu.isa is qpu.Isa.VC4:
            qpus = min(gpu.qpus, self.height)
            edges = [self.height * i // qpus for i in range(qpus + 1)]
            gpu.run(self.program, [self._band(i, *edges[i : i + 2]) for i in range(qpus)], timeout_s=600.0)
        else:
            uniforms = [self.out, self.width, *self.uniforms]
            gpu.run(self.program, uniforms, qpu.v3d.Dispatch(workgroups=self.height, threads=2), timeout_s=600.0)
        return gpu.stats.instructions if gpu.stats is not None else 0

    def _band(self, number: int, first: int, last: int) -> list[Any]:
        setup = [vpm.vpm_write(y=number), vpm.dma_store(y=number)]
        return [last - first, first, self.out[first], -(-self.width // 16), *setup, *self.uniforms]

    def result(self) -> Any:
        """The pixels, an ndarray of the shape."""
        return np.array(self.out.array[:, : self.width])
