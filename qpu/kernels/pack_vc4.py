"""The packing kernel of VideoCore IV: copies a matrix with any two strides into the panels that sgemm reads.

A panel is `width` neighbouring lines (rows of A, columns of B) cut out of the matrix; for each k it holds one word of
every line. So A, B and their transposes differ in the strides only. Data goes through TMU, four VPM rows and DMA store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qpu.vc4 import vpm

if TYPE_CHECKING:
    from qpu.vc4.builder import Asm

__all__ = ["CHUNK", "RECORD_WORDS", "ROWS", "kernel", "records", "streams"]

ROWS = 4  # steps of k at once, each a row of the VPM: 12 QPUs use 48 of its 64 rows
CHUNK = 128  # steps of k in a record
RECORD_WORDS = 19


def kernel(q: Asm) -> None:
    """Emit the packing kernel. Uniforms: records (see `records`), one for up to 16 lines and `CHUNK` steps of k."""
    at, step = q.r1, q.r3
    count, target, advance, fill, store, stride = q.ra[0], q.rb[1], q.ra[2], q.ra[3], q.rb[4], q.rb[5]

    def save() -> None:
        q.mov(q.vw_setup, store)
        q.mov(q.vw_setup, stride)
        q.mov(q.vw_addr, target)

    def wait() -> None:
        q.wait_dma_store()  # of the previous four rows, which are still in the VPM
        q.mov(q.vw_setup, fill)
        q.nop(sig=q.ldtmu0)

    record = q.label("record")
    q.min(q.r0, q.element_number, q.uniform)
    q.nop().mul24(q.r0, q.r0, q.uniform)
    q.shl(q.r0, q.r0, 2)
    q.add(at, q.r0, q.uniform)
    q.mov(step, q.uniform)
    q.mov(count, q.uniform, push="z")
    for register in (target, advance, fill, store, stride):
        q.mov(register, q.uniform)
    q.b("last", cond="allz")
    q.nop()
    q.nop()
    q.nop()
    loop = q.label("whole")
    for _ in range(ROWS):
        q.add(at, at, step).mov(q.tmu0_s, at)
    wait()
    for i in range(ROWS):
        q.mov(q.vpm, q.r4, sig=q.ldtmu0 if i + 1 < ROWS else None)
    q.sub(count, count, 1, push="z")
    save()
    q.b(loop, cond="allnz")
    q.add(target, target, advance)
    q.nop()
    q.nop()
    # The last four steps: steps past k read the last one again and store zero.
    q.label("last")
    for _ in range(ROWS):
        q.add(at, at, q.uniform).mov(q.tmu0_s, at)
    wait()
    for i in range(ROWS):
        q.and_(q.vpm, q.r4, q.uniform, sig=q.ldtmu0 if i + 1 < ROWS else None)
    save()
    q.mov(q.null, q.uniform, push="z")
    q.b(record, cond="allnz")
    q.nop()
    q.nop()
    q.nop()
    q.wait_dma_store()
    q.end()


def records(
    *,
    source: int,
    lines: int,
    line_stride: int,
    k: int,
    k_stride: int,
    depth: int,
    target: int,
    width: int,
    panel_words: int,
) -> NDArray[np.int64]:
    """The work as records, one a row, without the two VPM words that depend on the QPU.

    source: address of the matrix; strides in words. lines, k: its extent. depth: k in the panels, a multiple of 4;
    steps past k become zero, lines past the last repeat the last. target: address of the panels of panel_words words.
    A record: last lane that reads, line stride, address, bytes to the next k, loops, target, bytes to the next four
    steps of it, VPM set-up, DMA set-up (here: lines), DMA stride, four steps and four masks for the last loop, 1 if
    another record follows.
    """
    panels = -(-lines // width)
    parts = -(-width // 16)
    first = np.arange(0, depth, CHUNK, dtype=np.int64)
    units = np.stack(np.meshgrid(np.arange(panels), np.arange(parts), first, indexing="ij"), -1).reshape(-1, 3)
    panel, part, k0 = units.T.astype(np.int64)
    line = np.minimum(panel * width + 16 * part, lines - 1)
    in_panel = np.minimum(16, width - 16 * part)
    steps = np.minimum(depth - k0, CHUNK)
    tail = k0 + steps - ROWS  # first step of the last loop
    words = np.zeros((len(units), RECORD_WORDS), np.int64)
    words[:, 0] = np.clip(lines - 1 - panel * width - 16 * part, 0, in_panel - 1)
    words[:, 1] = line_stride
    words[:, 2] = source + 4 * (line * line_stride + k0 * k_stride)
    words[:, 3] = 4 * k_stride
    words[:, 4] = steps // ROWS - 1
    words[:, 5] = target + 4 * (panel * panel_words + k0 * width + 16 * part)
    words[:, 6] = 4 * ROWS * width
    words[:, 8] = in_panel
    words[:, 9] = vpm.dma_store_stride(0) + 4 * (width - in_panel)
    for i in range(ROWS):
        words[:, 10 + i] = np.where(tail + i + 1 < k, 4 * k_stride, 0)
        words[:, 14 + i] = np.where(tail + i < k, 0xFFFFFFFF, 0)
    return words


def streams(work: NDArray[np.int64], qpus: int) -> list[NDArray[np.uint32]]:
    """The parameter stream of each QPU that takes part in `work`, some rows of `records`."""
    result = []
    for qpu in range(min(qpus, len(work))):
        mine = work[qpu::qpus].copy()
        mine[:, 7] = vpm.vpm_write(y=ROWS * qpu)
        mine[:, 8] = vpm.dma_store(ROWS, 1, y=ROWS * qpu) + (mine[:, 8] - 1 << 16)
        mine[:-1, 18] = 1
        result.append(mine.astype(np.uint32).reshape(-1))
    return result
