"""The sgemm kernel of VideoCore IV: tiles of 64 x 16 of C, all 64 registers of a QPU are accumulators."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpu.vc4.asm import Asm

__all__ = [
    "AHEAD",
    "CHUNK",
    "COLUMNS",
    "MAX_STRIDE",
    "ROWS",
    "UNROLL",
    "record",
    "record_words",
    "vc4_kernel",
]

ROWS, COLUMNS = 64, 16
UNROLL = 4  # steps of k per loop
AHEAD = 3  # rows of B requested ahead; 4 outstanding requests are safe (vc4.md 13.1)
CHUNK = 4  # rows of C that a QPU keeps in the VPM: 12 QPUs use 48 of its 64 rows

MAX_STRIDE = (1 << 13) - 1  # the guide's field; a measurement says 16 bits (vc4.md 14.4)

# A tile's record in the parameter stream: B, row bytes, loops, address of the rest of the record, panel; then C, row
# bytes, and for each chunk a VPM set-up, (alpha, beta) a row, and the words of its DMA; then 1 if a tile follows.
HEAD_WORDS = 5


def record_words(strided: bool) -> int:
    """Words of a tile's record."""
    return HEAD_WORDS + 2 + ROWS // CHUNK * (1 + 2 * CHUNK + (3 if strided else 2 * CHUNK)) + 1


def record(
    *,
    b: int,
    row: int,
    loops: int,
    here: int,
    panel: int,
    c: int,
    slot: int,
    alpha: int,
    beta: int,
    more: bool,
    strided: bool,
) -> list[int]:
    """The record of one tile as words.

    b, c, panel: addresses of the tile's first column of B, first element of C, and panel of A. row: bytes of a row of
    B and C. here: address of this record. slot: which of the 12 shares of the VPM. alpha, beta: binary32 patterns.
    """
    words = [b, row, loops, here + 4 * HEAD_WORDS, panel, c, row]
    first = CHUNK * slot
    for chunk in range(ROWS // CHUNK):
        words.append(vpm_write_setup(first))
        words += [alpha, beta] * CHUNK
        top = c + CHUNK * chunk * row
        if strided:
            words += [dma_store_setup(first, CHUNK), dma_stride_setup(row - 4 * COLUMNS), top]
        else:
            for r in range(CHUNK):
                words += [dma_store_setup(first + r, 1), top + r * row]
    words.append(int(more))
    return words


def vpm_write_setup(row: int) -> int:
    """Generic VPM write, 32-bit horizontal from `row` on, each vector one row further (vc4.md 14.2)."""
    return 1 << 12 | 1 << 11 | 2 << 8 | row


def dma_store_setup(row: int, rows: int) -> int:
    """DMA store of `rows` VPM rows of 16 words from `row` on (vc4.md 14.4)."""
    return 2 << 30 | rows << 23 | 16 << 16 | 1 << 14 | row << 7


def dma_stride_setup(gap: int) -> int:
    """Bytes from the end of one stored row to the start of the next (vc4.md 14.4)."""
    return 3 << 30 | gap


def vc4_kernel(q: Asm, strided: bool) -> None:
    """Emit the kernel. Uniforms: the parameter stream of the QPU (see `record`).

    strided: one DMA stores a chunk of rows; without it, each row has its own (rows of C too far apart).

    No register is left for a loop counter or a return address. r1 holds both: lanes 1..15 count down by their lane
    number (all reach zero together), lane 0 keeps the address of the rest of the record, where the uniform stream
    returns after the panel; subtracting the element number leaves it alone.
    """
    acc = [(q.ra if i % 2 == 0 else q.rb)[i // 2] for i in range(ROWS)]
    product, state, at, step = q.r0, q.r1, q.r2, q.r3

    def request() -> None:
        q.add(at, at, step).mov(q.tmu0_s, at)

    tile = q.label("tile")
    q.shl(at, q.element_number, 2)
    q.add(at, at, q.uniform)
    q.mov(step, q.uniform)
    q.mov(product, q.uniform)
    q.nop().mul24(state, product, q.element_number)
    q.mov(q.null, q.element_number, sf=True)
    q.mov(state, q.uniform, cond="ifz")
    q.mov(q.uniforms_address, q.uniform)
    for _ in range(AHEAD):
        request()
    q.xor(product, product, product)
    for i in range(0, ROWS, 2):
        q.xor(acc[i], product, product).v8subs(acc[i + 1], product, product)
    q.nop(sig="ldtmu0")

    # Slot i multiplies for accumulator i and adds the product of the slot before; r4 holds the row of B.
    loop = q.label("k")
    q.sub(state, state, q.element_number, sf=True)
    for k in range(UNROLL):
        for i in range(ROWS):
            if k == UNROLL - 1 and i == ROWS - 3:
                q.brr(loop, cond="allnz")
            q.fadd(acc[i - 1], acc[i - 1], product, sig="ldtmu0" if i == ROWS - 1 else None).fmul(
                product, q.uniform, q.r4
            )
            if i == ROWS // 2:
                request()
    q.fadd(acc[-1], acc[-1], product)
    q.mov(q.uniforms_address, state)
    for _ in range(AHEAD - 1):
        q.nop(sig="ldtmu0")

    # C = alpha * tile + beta * C, four rows at a time through the VPM.
    q.shl(at, q.element_number, 2)
    q.nop()
    q.add(at, at, q.uniform)
    q.mov(step, q.uniform)
    for first in range(0, ROWS, CHUNK):
        for _ in range(CHUNK):
            request()
        q.read(q.vpm_st_wait)
        q.mov(q.vpmvcd_wr_setup, q.uniform)
        for r in range(first, first + CHUNK):
            q.nop(sig="ldtmu0")
            q.nop().fmul(product, acc[r], q.uniform)
            q.nop().fmul(state, q.r4, q.uniform)
            q.fadd(q.vpm, product, state)
        if strided:
            q.mov(q.vpmvcd_wr_setup, q.uniform)
            q.mov(q.vpmvcd_wr_setup, q.uniform)
            q.mov(q.vpm_st_addr, q.uniform)
        else:
            for _ in range(CHUNK):
                q.read(q.vpm_st_wait)
                q.mov(q.vpmvcd_wr_setup, q.uniform)
                q.mov(q.vpm_st_addr, q.uniform)
    q.mov(q.null, q.uniform, sf=True)
    q.brr(tile, cond="allnz")
    q.nop()
    q.nop()
    q.nop()
    q.read(q.vpm_st_wait)
    q.ldi(q.host_interrupt, 1)
    q.nop(sig="thrend")
    q.nop()
    q.nop()
