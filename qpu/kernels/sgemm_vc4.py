"""The sgemm kernels of VideoCore IV, which read panels that `pack_vc4` made.

* `UNIFORM`: tiles of 64 x 16, all 64 registers of a QPU are accumulators. A runs through the uniform stream; all QPUs
  read the same panel at the same time. 262 instructions for 256 fused steps.
* `ROTATE`: tiles of 12 x 64. A comes through the TMU, 16 words a register, and each word is broadcast from there by a
  rotated move to r5. 249 instructions for 192 fused steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qpu.kernels.pack_vc4 import STORES, WRITES
from qpu.kernels.tiles import AHEAD, NOTHING, UNROLL, After, Shape
from qpu.vc4 import vpm

if TYPE_CHECKING:
    from qpu.vc4.builder import Asm
    from qpu.vc4.generated.ops import AddSlot
    from qpu.vc4.operands import ReadWrite, Signal, Src

__all__ = ["CHUNK", "ROTATE", "UNIFORM", "Shape", "kernel", "record_words", "streams"]

CHUNK = 4  # rows of C that a QPU keeps in the VPM: 12 QPUs use 48 of its 64 rows
UNIFORM, ROTATE = Shape(64, 1), Shape(12, 4)


def kernel(
    q: Asm,
    shape: Shape,
    product: bool,
    accumulate: bool,
    strided: bool,
    whole: bool = False,
    after: After = NOTHING,
) -> None:
    """Emit a kernel. Uniforms: the records of the QPU, one a tile (see `streams`).

    product: add alpha * A @ B; else C is only scaled. accumulate: add beta * C; else C is not read. strided: one DMA
    transfer stores four rows; else each row has its own, because rows of C are too far apart. whole: A and B are
    unsigned integers of up to 24 bits, C is one of 32, and the factors count as 1. after: what follows a product;
    requantising is for `whole` that does not accumulate, with `tiles.HALF` in the place of alpha.
    """
    tile = q.label("tile")
    if product and shape is UNIFORM:
        acc = _uniform(q, whole)
    elif product:
        acc = _rotate(q, whole)
    else:
        acc = {}
    _finish(q, shape, acc, accumulate, strided, whole, after)
    q.mov(q.null, q.uniform, push="z")
    q.b(tile, cond="allnz")
    q.nop()
    q.nop()
    q.nop()
    q.wait_dma_store()
    q.end()


def _step(q: Asm, whole: bool, done: ReadWrite, t: ReadWrite, a: Src, b: Src, sig: Signal | None) -> None:
    """Add t to `done`, and multiply a and b to t."""
    if whole:
        q.add(done, done, t, sig=sig).mul24(t, a, b)
    else:
        q.fadd(done, done, t, sig=sig).fmul(t, a, b)


def _last_step(q: Asm, whole: bool, done: ReadWrite, t: ReadWrite) -> None:
    """Add t to `done`."""
    if whole:
        q.add(done, done, t)
    else:
        q.fadd(done, done, t)


def _uniform(q: Asm, whole: bool) -> Mapping[tuple[int, int], ReadWrite]:
    """Uniforms: B, bytes of a row of it, loops, address of the rest of the record, A. Returns the accumulators.

    r1 is both the loop counter and the return address of the uniform stream, because all other registers are in use:
    lanes 1..15 count down by their lane number (all reach zero together); lane 0, from which 0 is subtracted, keeps the
    address of the rest of the record, where the stream continues after the panel.
    """
    rows = UNIFORM.rows
    acc = [(q.ra if i % 2 == 0 else q.rb)[i // 2] for i in range(rows)]
    product, state, at, step = q.r0, q.r1, q.r2, q.r3

    def request() -> None:
        q.add(at, at, step).mov(q.tmu0_s, at)

    q.shl(at, q.element_number, 2)
    q.add(at, at, q.uniform)
    q.mov(step, q.uniform)
    q.mov(product, q.uniform)
    q.nop().mul24(state, product, q.element_number)
    q.mov(q.null, q.element_number, push="z")
    q.mov(state, q.uniform, cond="ifz")
    q.mov(q.uniforms_address, q.uniform)
    for _ in range(AHEAD):
        request()
    _clear(q, acc)
    q.nop(sig=q.ldtmu0)

    # Slot i multiplies for accumulator i and adds the product of the slot before; r4 holds the row of B.
    loop = q.label("k")
    q.sub(state, state, q.element_number, push="z")
    for k in range(UNROLL):
        for i in range(rows):
            if k == UNROLL - 1 and i == rows - 3:
                q.b(loop, cond="allnz")
            sig = q.ldtmu0 if i == rows - 1 else None
            _step(q, whole, acc[i - 1], product, q.uniform, q.r4, sig)
            if i == rows // 2:
                request()
    _last_step(q, whole, acc[-1], product)
    q.mov(q.uniforms_address, state)
    for _ in range(AHEAD - 1):
        q.nop(sig=q.ldtmu0)
    return {(i, 0): register for i, register in enumerate(acc)}


def _clear(q: Asm, acc: Sequence[ReadWrite]) -> None:
    q.xor(q.r0, q.r0, q.r0)
    for i in range(0, len(acc), 2):
        q.xor(acc[i], q.r0, q.r0).v8subs(acc[i + 1], q.r0, q.r0)


def _rotate(q: Asm, whole: bool) -> Mapping[tuple[int, int], ReadWrite]:
    """Uniforms: B, A, 64 * loops. Returns the accumulators.

    An instruction reads one register of each file. So the accumulators of a column are in the file that does not hold
    its B, columns alternate between the files, and a product is added two slots after it was computed.
    Word w = 12 * step + row of A is lane w % 16 of r1. The add slot of each broadcast moves results from r4 and sends
    requests; four are outstanding at most.
    """
    rows, columns = ROTATE.rows, (0, 2, 1, 3)  # in the order of the slots
    acc = {(r, c): (q.rb if c < 2 else q.ra)[2 * r + c % 2] for r in range(rows) for c in columns}
    b = [[(q.ra if c < 2 else q.rb)[24 + 2 * side + c % 2] for c in range(4)] for side in range(2)]
    products, a, s64 = (q.r0, q.r2), q.r1, q.r3
    at_b, at_a, count = q.ra[28], q.ra[29], q.ra[30]
    order = [(r, c) for r in range(rows) for c in columns]

    def request(pointer: ReadWrite) -> None:
        q.add(pointer, pointer, s64).mov(q.tmu0_s, pointer)

    q.shl(q.r0, q.element_number, 2)
    q.add(at_b, q.r0, q.uniform)
    q.add(at_a, q.r0, q.uniform)
    q.mov(count, q.uniform)
    q.ldi(s64, 64)
    request(at_a)
    q.nop()
    request(at_b)
    q.nop(sig=q.ldtmu0)
    q.mov(a, q.r4)
    for c in range(4):
        if c:
            request(at_b)
        q.nop(sig=q.ldtmu0)
        q.mov(b[0][c], q.r4)
    for _ in range(AHEAD):
        q.nop()
        request(at_b)
    registers = [*acc.values()]
    _clear(q, [x for pair in zip(registers[1::2], registers[::2], strict=True) for x in pair])
    q.xor(q.r2, q.r2, q.r2)

    # Pops: (row, half of the row's slots) -> column of B, or None for A after the use of its 16th word.
    plan: list[dict[tuple[int, int], int | None]] = [{(1, 0): 0, (4, 0): 1, (5, 1): 2, (8, 1): 3} for _ in range(4)]
    for step, row in ((1, 3), (2, 7), (3, 11)):
        plan[step][row, 0] = None
    loads = [plan[step][key] for step in range(UNROLL) for key in sorted(plan[step])]
    sent = AHEAD
    waiting: deque[Callable[[], AddSlot]] = deque()

    def send() -> None:
        nonlocal sent
        pointer = at_a if loads[sent % len(loads)] is None else at_b
        waiting.append(lambda: q.mov(q.tmu0_s, pointer))
        waiting.append(lambda: q.add(pointer, pointer, s64))
        sent += 1

    send()
    loop = q.label("k")
    for step in range(UNROLL):
        for i, (row, c) in enumerate(order):
            word = rows * step + row
            half = i % 4 // 2
            if i % 2 == 0 and (row, half) in plan[step]:
                column = plan[step][row, half]
                target = a if column is None else b[(step + 1) % 2][column]
            else:
                target = None
            if i % 4 == 0:
                if target is not None:
                    slot = q.mov(target, q.r4)
                elif step == 0 and row == 0:
                    slot = q.sub(count, count, s64, push="z")
                else:
                    slot = waiting.popleft()() if waiting else q.nop()
                slot.mov(q.r5rep, a, rotate=-word % 16)
            elif target is not None:
                slot = waiting.popleft()() if waiting else q.nop()
                slot.mov(target, q.r4)
            if target is not None and sent < len(loads) + AHEAD:
                send()
            following = (row, half + 1) if half == 0 else (row + 1, 0)
            pop = i % 2 == 1 and following in plan[step]
            if step == UNROLL - 1 and i == len(order) - 3:
                q.b(loop, cond="allnz")
            done = acc[order[i - 2]]
            t = products[i % 2]
            _step(q, whole, done, t, q.r5, b[step % 2][c], q.ldtmu0 if pop else None)
    assert not waiting and sent == len(loads) + AHEAD
    for i in (-2, -1):
        done = acc[order[i]]
        _last_step(q, whole, done, products[i % 2])
    for _ in range(AHEAD):
        q.nop(sig=q.ldtmu0)
    return acc


def _finish(
    q: Asm,
    shape: Shape,
    acc: Mapping[tuple[int, int], ReadWrite],
    accumulate: bool,
    strided: bool,
    whole: bool,
    after: After,
) -> None:
    """C = alpha * tile + beta * C, `CHUNK` rows of 16 columns at a time through the VPM."""
    product, at, beta = q.r0, q.r2, q.r3
    bias = q.r2 if accumulate else q.r4
    q.mov(q.r5rep, q.uniform)
    if accumulate:
        q.mov(beta, q.uniform)
    for vector in range(shape.vectors):
        for first in range(0, shape.rows, CHUNK):
            if after.bias or after.narrow:
                _columns(q, after, accumulate)
            if accumulate:
                q.min(at, q.element_number, q.uniform)
                q.shl(at, at, 2)
                for _ in range(CHUNK):
                    q.add(q.tmu0_s, at, q.uniform)
                if after.bias:
                    q.mov(q.r2, q.r1)
            q.wait_dma_store()
            q.mov(q.vw_setup, q.uniform)
            for row in range(first, first + CHUNK):
                done = acc.get((row, vector))
                sig = q.ldtmu0 if accumulate else None
                if after.narrow and done is not None:
                    _narrow_element(q, done, after)
                elif done is None:
                    q.nop(sig=sig)
                    if accumulate:
                        q.nop().fmul(q.vpm, q.r4, beta)
                    else:
                        q.ldi(q.vpm, 0)
                elif whole:
                    terms = ([q.r4] if accumulate else []) + ([bias] if after.bias else [])
                    if accumulate:
                        q.nop(sig=sig)
                    for n, term in enumerate(terms):
                        last = n + 1 == len(terms) and not after.relu
                        q.add(q.vpm if last else product, product if n else done, term)
                    if after.relu:
                        q.max(q.vpm, product if terms else done, 0)
                    elif not terms:
                        q.mov(q.vpm, done)
                else:
                    plain = not after.bias and not after.relu
                    target = q.vpm if plain else product
                    if accumulate:
                        q.nop(sig=sig).fmul(product, done, q.r5)
                        q.nop().fmul(q.r1, q.r4, beta)
                        q.fadd(target, product, q.r1)
                    else:
                        q.nop().fmul(target, done, q.r5)
                    if after.bias:
                        q.fadd(product if after.relu else q.vpm, product, bias)
                    if after.relu:
                        q.fmax(q.vpm, product, 0)
            for row in range(1 if strided else CHUNK):
                if row:
                    q.wait_dma_store()
                q.mov(q.vw_setup, q.uniform)
                if strided:
                    q.mov(q.vw_setup, q.uniform)
                q.mov(q.vw_addr, q.uniform)


def _columns(q: Asm, after: After, accumulate: bool) -> None:
    """The factors of 16 columns to r3, and their bias to r4, or to r1 if that is needed."""
    q.min(q.r2, q.element_number, q.uniform)
    q.shl(q.r2, q.r2, 2)
    if after.narrow:
        q.add(q.tmu0_s, q.r2, q.uniform)
    if after.bias:
        q.add(q.tmu0_s, q.r2, q.uniform)
    if after.narrow:
        q.nop(sig=q.ldtmu0)
        q.mov(q.r3, q.r4)
    if after.bias:
        q.nop(sig=q.ldtmu0)
        if accumulate:
            q.mov(q.r1, q.r4)


def _narrow_element(q: Asm, done: Src, after: After) -> None:
    """(done + bias) * factor / 2**(16 + shift), rounded half up and limited, to the VPM; see `igemm`.

    r3: factors of 16 bits, shifts above 24. By halves of 16 bits, the upper one as if it were not negative: then
    2**16 times the factor is too much.
    """
    v, high, other = q.r0, q.r1, q.r2
    if after.bias:
        q.add(v, done, q.r4)
    else:
        q.mov(v, done)
    q.shr(high, v, -16)
    q.nop().mul24(high, high, q.r3)
    q.shl(other, q.r3, -16)
    q.mov(q.null, v, push="z")
    q.sub(high, high, other, cond="ifn")
    q.shl(v, v, -16)
    q.shr(v, v, -16)
    q.nop().mul24(v, v, q.r3)
    q.shr(other, q.r3, -8, push="z")
    q.add(v, v, q.r5, cond="ifz")
    q.shr(v, v, -16)
    q.add(high, high, v)
    q.shl(v, 1, other)
    q.shr(v, v, 1)
    q.add(high, high, v)
    q.asr(high, high, other)
    q.add(high, high, q.uniform)
    q.max(high, high, q.uniform)
    q.min(q.vpm, high, q.uniform)


def streams(
    *,
    shape: Shape,
    tiles: tuple[int, int],
    part: tuple[int, int],
    panels: tuple[int, int] | None,
    panel_words: tuple[int, int],
    loops: int,
    c: int,
    extent: tuple[int, int],
    ld: int,
    spare: int,
    alpha: int,
    beta: int | None,
    strided: bool,
    qpus: int,
    base: int,
    after: After = NOTHING,
    values: tuple[int, int] = (0, 0),
    limits: tuple[int, int, int] = (0, 0, 0),
) -> NDArray[np.uint32]:
    """The parameter stream of each QPU, one a row.

    tiles: down and across. part: first of them, row by row, and how many. panels: addresses of packed A and B, None
    without their product. panel_words: of one panel of A and of B. loops: over k. c, extent, ld: address, (rows,
    columns) and row length in words of C. spare: address of 16 words that take what lies outside C, and of 16 more that
    are loaded in its place, so that no load meets a store that may still run. alpha, beta: binary32 patterns. base:
    where the streams will lie. after, values, limits: see `kernel`; addresses of factors and of the bias; zero, lowest
    and highest result.
    A record: what `_uniform` or `_rotate` reads; alpha; beta if not None; for each chunk: last lane inside C and
    addresses of the factors and the bias of its column (as `after` has them), last lane and four row addresses (with
    beta), VPM set-up, the limits for each row (narrow results), and DMA set-up, stride and address (or set-up and
    address of each row); then 1 if another tile follows.
    """
    first_tile, count = part
    i, j = np.divmod(np.arange(first_tile, first_tile + count), tiles[1])
    qpus = min(qpus, count)
    slot = np.arange(count) % qpus
    columns: list[NDArray[np.int64]] = []

    def word(value: ArrayLike) -> None:
        columns.append(np.broadcast_to(np.asarray(value, np.int64), count))

    if panels is not None:
        a, b = panels[0] + 4 * panel_words[0] * i, panels[1] + 4 * panel_words[1] * j
        for value in (b, 64, loops, 0, a) if shape is UNIFORM else (b, a, 64 * loops):
            word(value)
    head = len(columns)
    word(alpha)
    if beta is not None:
        word(beta)
    size = after.size
    fill = np.array([vpm.vpm_write(WRITES[size], y=CHUNK * x, stride=4 // size) for x in range(qpus)])[slot]
    for vector in range(shape.vectors):
        column = shape.columns * j + 16 * vector
        wide = np.clip(extent[1] - column, 0, 16)
        for first in range(0, shape.rows, CHUNK):
            row = shape.rows * i + first
            high = np.where(wide > 0, np.clip(extent[0] - row, 0, CHUNK), 0)
            given = [after.narrow, after.bias]
            if any(given):
                word(np.maximum(wide - 1, 0))
            for start, there in zip(values, given, strict=True):
                if there:
                    word(start + 4 * np.minimum(column, extent[1] - 1))
            if beta is not None:
                word(np.maximum(wide - 1, 0))
                for r in range(CHUNK):
                    word(np.where(r < high, c + 4 * ((row + r) * ld + column), spare + 64))
            word(fill)
            for limit in limits * CHUNK if after.narrow else ():
                word(limit & 0xFFFFFFFF)
            top = c + size * (row * ld + column)
            sixteen = np.where(high > 0, wide, 16)
            if strided:
                word(_store(size, CHUNK * slot, np.maximum(high, 1), sixteen))
                word(vpm.dma_store_stride(0) + size * np.maximum(ld - sixteen, 0))  # one row has none
                word(np.where(high > 0, top, spare))
            else:
                for r in range(CHUNK):
                    word(_store(size, CHUNK * slot + r, 1, np.where(r < high, wide, 16)))
                    word(np.where(r < high, top + size * ld * r, spare))
    word(np.arange(count) + qpus < count)
    record = np.stack(columns, 1)
    number = np.arange(count) // qpus
    words = record.shape[1]
    assert words == record_words(shape, panels is not None, beta is not None, strided, after)
    length = -(-count // qpus) * words
    if panels is not None and shape is UNIFORM:
        record[:, 3] = base + 4 * (slot * length + number * words + head)
    out = np.zeros((qpus, length // words, words), np.uint32)
    out[slot, number] = record.astype(np.uint32)
    return out.reshape(qpus, length)


def record_words(shape: Shape, product: bool, accumulate: bool, strided: bool, after: After = NOTHING) -> int:
    """Words of a record of `streams`."""
    head = (5 if shape is UNIFORM else 3) if product else 0
    chunk = (1 + CHUNK if accumulate else 0) + 1 + (3 if strided else 2 * CHUNK)
    chunk += (1 + after.narrow + after.bias if after.narrow or after.bias else 0) + 3 * CHUNK * after.narrow
    return head + 1 + accumulate + shape.vectors * (shape.rows // CHUNK) * chunk + 1


def _store(
    size: int, y: NDArray[np.int64] | int, rows: NDArray[np.int64] | int, columns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`vpm.dma_store` for arrays."""
    return np.asarray(
        vpm.dma_store(1, 1, STORES[size]) + (y << 7) + ((rows - 1) << 23) + ((columns - 1) << 16), np.int64
    )
