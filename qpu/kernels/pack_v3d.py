"""The packing kernel of V3D 4.2 and 7.1: copies a matrix with any two strides into the panels that sgemm reads.

A panel is `width` neighbouring lines (rows of A, columns of B) cut out of the matrix; for each k it holds one word of
every line. So A, B and their transposes differ in the strides only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpu import v3d
from qpu.kernels.parts_v3d import add_workgroup, load, only_switch, stop

if TYPE_CHECKING:
    from qpu.v3d.builder import Source
    from qpu.v3d.operands import Reg

__all__ = ["CHUNK", "kernel", "order"]

CHUNK = 128  # steps of k that one workgroup packs
BEST = 8  # vectors in flight: as many result words as a thread has with two threads per QPU (v3d.md 9.5)


def order(vectors: int) -> list[int]:
    """The line of the panel at each position of a step, for requests of `vectors` words a lane.

    vectors = 1: in order. Otherwise word q of lane l is line 16 * q + l, so that each word of a request is a vector of
    16 neighbouring columns.
    """
    return [16 * (j % vectors) + j // vectors for j in range(16 * vectors)]


def steps(width: int) -> int:
    """Steps of k per loop: whole vectors, at most `BEST`."""
    return 4 if width < 64 else 2


def kernel(q: v3d.Asm, width: int, vectors: int) -> None:
    """Emit the packing kernel for panels of `width` words a step, arranged as `order(vectors)` says (1: in order).

    Uniforms: first panel, first chunk, 65536 / width rounded up, width, lines, line stride and k stride in words,
    k, address of the matrix, bytes of a panel / 64, address of the panels, 64, steps of k in all panels (a multiple
    of 4). Dispatch: x = chunk of CHUNK steps, y = panel; 16 items, 2 threads.

    Steps past k become zero. Lines past the last repeat the last one; their results are never stored.
    """
    rf = q.rf
    unroll = steps(width)
    count_of_vectors = unroll * width // 16
    (x, y, t, lane) = (rf[i] for i in (4, 5, 6, 7))
    (inverse, wide, line, k_stride, left, source, target, s64, count, advance, lines) = (rf[i] for i in range(8, 19))
    offsets = [rf[20 + i] for i in range(count_of_vectors)]
    masks = [rf[30 + i] for i in range(count_of_vectors)]
    places = [rf[40 + i] for i in range(count_of_vectors)]
    data = [rf[50 + i] for i in range(count_of_vectors)]

    def mul(d: Reg, a: Source, b: Source) -> None:
        q.nop().umul24(d, a, b)

    # Which panel and which steps.
    load(q, y, x)
    add_workgroup(q, x, y, t)
    load(q, inverse, wide, lines, line, k_stride, left)
    q.eidx(lane)
    q.shl(x, x, CHUNK.bit_length() - 1)  # first step of k
    mul(t, y, wide)
    q.sub(lines, lines, t)
    q.sub(lines, lines, 1)  # last line of this panel, or beyond its end
    mul(t, t, line)
    load(q, source)
    q.shl(t, t, 2)
    q.add(source, source, t)
    mul(t, x, k_stride)
    q.shl(t, t, 2)
    q.add(source, source, t)
    load(q, t)
    mul(y, y, t)
    q.shl(y, y, 6)
    load(q, target)
    q.add(target, target, y)
    mul(t, x, wide)
    q.add(t, t, lane)
    q.shl(t, t, 2)
    q.add(target, target, t)
    load(q, s64, count)
    q.sub(count, count, x)
    q.sub(left, left, x)
    q.shl(t, s64, 1)  # CHUNK
    q.min(count, count, t)
    q.shr(count, count, unroll.bit_length() - 1)
    q.shl(advance, k_stride, 2 + unroll.bit_length() - 1)
    # For each vector of a loop: where its lanes read, which step they belong to, a mask for what is past k.
    for v in range(count_of_vectors):
        place, offset = places[v], offsets[v]
        mul(t, lane, inverse)
        q.shr(place, t, -16)
        mul(t, place, wide)
        q.sub(t, lane, t)
        if vectors > 1:
            q.and_(x, t, vectors - 1)
            q.shl(x, x, 4)
            q.shr(t, t, vectors.bit_length() - 1)
            q.add(t, t, x)
        q.min(t, t, lines)
        mul(t, t, line)
        mul(offset, place, k_stride)
        q.add(offset, offset, t)
        q.shl(offset, offset, 2)
        q.mov(masks[v], -1)
        if v + 1 < count_of_vectors:
            q.add(lane, lane, 8)
            q.add(lane, lane, 8)
    only_switch(q)
    with q.loop() as loop:
        q.sub(t, left, unroll + 1, push="pushn")
        whole = q.new_label()
        q.b(whole, cond="allna")
        q.nop()
        q.nop()
        q.nop()
        q.mov(advance, 0)
        for v in range(count_of_vectors):  # the last steps: those past k read a valid address and store zero
            q.sub(q.null, places[v], left, push="pushn")
            offset, mask = offsets[v], masks[v]
            q.sub(offset, offset, offset, cond="ifna").sub(mask, mask, mask, cond="ifna")
        q.label(whole)
        for v in range(count_of_vectors):
            q.add(q.tmua, source, offsets[v])
        for v in range(count_of_vectors):
            q.nop(sig=q.ldtmu(data[v]))
            q.and_(q.tmud, data[v], masks[v])
            if v == count_of_vectors - 1:
                q.sub(count, count, 1, push="pushz")
                q.b(loop.start, cond="na0")
            q.add(target, target, s64).mov(q.tmua, target)
        q.add(source, source, advance)
        q.sub(left, left, unroll)
    stop(q)
