"""The packing kernel of VideoCore IV: copies a matrix with any two strides into the panels that sgemm reads.

A panel is `width` neighbouring lines (rows of A, columns of B) cut out of the matrix; for each k it holds one item of
every line. So A, B and their transposes differ in the strides only, and the transpose of a matrix is one panel of all
of its lines (`transpose_vc4`). Data goes through TMU, four VPM rows and DMA store.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qpu.kernels.tiles import batch
from qpu.vc4 import vpm

if TYPE_CHECKING:
    from qpu.vc4.builder import Asm
    from qpu.vc4.operands import Src

__all__ = ["CHUNK", "MAX_STRIDE", "ROWS", "STORES", "WRITES", "kernel", "launches"]

ROWS = 4  # steps of k at once, each a row of the VPM: 12 QPUs use 48 of its 64 rows
CHUNK = 128  # steps of k in a record
PACKED = 1 << 22  # items of a launch, so that it ends in time, see `sgemm`
MAX_STRIDE = (1 << 13) - 1  # the guide's field; a measurement says 16 bits (vc4.md 14.4)
WRITES: dict[int, vpm.VpmMode] = {1: "8bit horizontal packed", 2: "16bit horizontal packed", 4: "32bit horizontal"}
STORES: dict[int, vpm.DmaMode] = {1: "8bit horizontal", 2: "16bit horizontal", 4: "32bit horizontal"}
"""Modes by the bytes of an item."""


def kernel(q: Asm, narrow: bool = False, strided: bool = True) -> None:
    """Emit the packing kernel. Uniforms: records (see `records`), one for up to 16 lines and `CHUNK` steps of k.

    narrow: items of one or two bytes, which the lanes shift out of the words that they load. strided: one DMA transfer
    stores four rows; else each row has its own, because rows of the panel are too far apart.
    """
    at, shift, step = q.r1, q.r2, q.r3
    count, target, fill, store, bits = q.ra[0], q.ra[1], q.ra[2], q.ra[3], q.ra[4]
    advance, stride, row = q.rb[0], q.rb[1], q.rb[2]

    def four(step: Src, mask: Src | None) -> None:
        """Four vectors from memory to the VPM, when it has been stored. Without a mask, counts the loops down."""
        for _ in range(ROWS):
            q.add(at, at, step).mov(q.tmu0_s, at)
        q.mov(q.vw_setup, fill)
        q.read(q.vw_wait, sig=q.ldtmu0)  # the four rows before are still in the VPM
        for i in range(ROWS):
            sig = q.ldtmu0 if i + 1 < ROWS else None
            if narrow:
                q.shr(q.vpm if mask is None else q.r0, q.r4, shift, sig=sig)
                q.add(shift, shift, bits if mask is None else q.uniform)
            if mask is not None:
                q.and_(q.vpm, q.r0 if narrow else q.r4, mask, sig=None if narrow else sig)
            elif not narrow and i + 1 < ROWS:
                q.mov(q.vpm, q.r4, sig=sig)
        if mask is not None:
            q.mov(q.null, q.uniform, push="z")
        elif narrow:
            q.sub(count, count, 1, push="z")
        else:
            q.sub(count, count, 1, push="z").mov(q.vpm, q.r4)

    def save(back: str, store: Src, advance: Src) -> None:
        """Store them, and branch back unless the flag is set; the last three instructions are delay slots."""
        if not strided:
            q.mov(q.r0, store)
            for i in range(ROWS):
                if i + 1 == ROWS:
                    q.b(back, cond="allnz")
                if i:
                    q.wait_dma_store()
                q.add(q.r0, q.r0, row).mov(q.vw_setup, q.r0)
                q.add(target, target, advance).mov(q.vw_addr, target)
            return
        q.b(back, cond="allnz")
        q.mov(q.vw_setup, store)
        q.mov(q.vw_setup, stride)
        q.add(target, target, advance).mov(q.vw_addr, target)

    if not strided:
        q.ldi(row, 1 << 7)  # one row in the set-up of a DMA store
    q.label("record")
    q.min(q.r0, q.element_number, q.uniform)
    q.nop().mul24(q.r2, q.r0, q.uniform)
    q.shl(q.r2, q.r2, -8).mul24(at, q.r0, q.uniform)  # the upper eight bits by 24
    q.add(at, at, q.uniform)
    q.add(at, at, q.r2)
    q.mov(step, q.uniform)
    q.mov(count, q.uniform, push="z")
    q.mov(store, q.uniform)
    if strided:
        q.mov(stride, q.uniform)
    if narrow:
        q.shl(shift, at, 3)  # of which five bits count
        q.shl(bits, step, 3)
    q.b("last", cond="allz")
    q.mov(fill, q.uniform)
    q.mov(target, q.uniform)
    q.mov(advance, q.uniform)
    loop = q.label("whole")
    four(step, None)
    save(loop.name, store, advance)
    # The last four steps: steps past k read the last one again.
    q.label("last")
    four(q.uniform, q.uniform)
    save("record", q.uniform if strided else store, advance if strided else q.uniform)
    q.wait_dma_store()
    q.end()


def launches(
    *,
    source: int,
    lines: int,
    line_stride: int,
    k: int,
    k_stride: int,
    depth: int,
    target: int,
    width: int,
    step: int,
    panel: int,
    qpus: int,
    size: int = 4,
    strided: bool = True,
    chunk: int = CHUNK,
) -> Iterator[list[NDArray[np.uint32]]]:
    """The parameter stream of each QPU, for one launch after the other.

    source: address of the matrix. lines, k: its extent; all strides are in bytes and may be negative. depth: k in the
    panels; steps past k become zero, lines past the last repeat the last. target: address of the panels; step, panel:
    bytes from one k and from one panel to the next. size: bytes of an item. strided: see `kernel`; step - 64 is at
    most `MAX_STRIDE` then. chunk: steps of k in a record, a multiple of `ROWS`.
    A record: last lane that reads, upper 8 and lower 24 bits of the line stride, address, bytes to the next k, loops,
    DMA set-up, its stride if strided, VPM set-up, target, bytes to the next rows of it; for the last loop four steps,
    four masks (before each, bits to the next item if narrow), 1 if another record follows, and its DMA set-up or, if
    not strided, four steps of the target.
    """
    units = np.stack(
        np.meshgrid(
            np.arange(-(-lines // width)), np.arange(-(-width // 16)), np.arange(0, depth, chunk), indexing="ij"
        ),
        -1,
    ).reshape(-1, 3)
    number = np.arange(len(units))
    group = batch(len(units), 16 * chunk, PACKED, qpus)
    qpu = number % qpus
    which, part, k0 = units.T.astype(np.int64)
    line = np.minimum(which * width + 16 * part, lines - 1)
    across = np.minimum(16, width - 16 * part)
    steps = np.minimum(depth - k0, chunk)
    loops = -(-steps // ROWS) - 1
    tail = k0 + ROWS * loops  # first step of the last loop
    rows = k0 + steps - tail
    store = np.array([vpm.dma_store(ROWS if strided else 1, 1, STORES[size], y=ROWS * i) for i in range(qpus)])[qpu]
    store += across - 1 << 16
    fill = np.array([vpm.vpm_write(WRITES[size], y=ROWS * i, stride=4 // size) for i in range(qpus)])[qpu]
    columns = [np.clip(lines - 1 - which * width - 16 * part, 0, across - 1)]
    columns += [line_stride >> 24, line_stride & 0xFFFFFF, source + line * line_stride + k0 * k_stride, k_stride]
    columns += [loops, store]
    if strided:
        columns.append(vpm.dma_store_stride(0) + step - size * across)
    columns += [fill, target + which * panel + k0 * step + 16 * size * part, ROWS * step if strided else step]
    further = [np.where(tail + i + 1 < k, k_stride, 0) for i in range(ROWS)]
    columns += further
    for i in range(ROWS):
        columns += [8 * further[i]] * (size < 4) + [np.where((tail + i < k) | (i >= rows), 0xFFFFFFFF, 0)]
    columns.append((number % group + qpus < group) & (number + qpus < len(units)))
    if strided:
        columns.append(store - (ROWS - rows << 23))
    else:
        columns += [np.where(i + 1 < rows, step, 0) for i in range(ROWS)]  # rows past the last are that one again
    table = np.stack([np.broadcast_to(np.asarray(x, np.int64), number.shape) for x in columns], 1)
    words = (table & 0xFFFFFFFF).astype(np.uint32)
    for first in range(0, len(units), group):
        some = words[first : first + group]
        yield [some[i::qpus].reshape(-1) for i in range(min(qpus, len(some)))]
