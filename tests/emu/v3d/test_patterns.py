"""Tests of memory traffic: gathers, scatters, vectors, small types, queues of requests, big buffers."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.core.isa import Isa
from tests.emu.v3d.idioms import (
    ADD,
    LANE,
    VEC2,
    barrier,
    draw,
    group_x,
    jump,
    lane_address,
    lanes_of,
    load,
    program,
    rounds,
    rows_of,
    store,
    switch,
    take,
)
from tests.emu.v3d.rig import Rig, move, payload

U = np.uint32


def copy_queued(isa: Isa, depth: int, threads: int) -> None:
    """A copy that keeps `depth` loads in flight over its loop."""
    rig = Rig(isa)
    n, blocks = 12, 3
    data = np.random.default_rng(13).integers(0, 1 << 32, n * blocks * depth * 16, dtype=U)
    src, dst = rig.buffer(data), rig.buffer(data.nbytes)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8])
        q.nop().umul24(r[10], r[4], r[7])
        for base in (r[5], r[6]):
            q.add(base, base, r[10])
            lane_address(q, r[11], base)
            move(q, base, r[11])
        move(q, r[12], 1)
        q.shl(r[12], r[12], 6)
        switch(q)
        for _ in range(depth):
            move(q, q.tmua, r[5])
            q.add(r[5], r[5], r[12])
        with rounds(q, r[8]):
            for k in range(depth):
                q.nop(sig=q.ldtmu(r[13]))
                move(q, q.tmud, r[13])
                move(q, q.tmua, r[6])
                move(q, q.tmua, r[5])
                q.add(r[5], r[5], r[12])
                q.add(r[6], r[6], r[12])
                q.nop() if k else q.tmuwt(q.null)
        for _ in range(depth):
            q.nop(sig=q.ldtmu(r[13]))
            move(q, q.tmud, r[13])
            move(q, q.tmua, r[6])
            q.add(r[6], r[6], r[12])
        q.end()

    uniforms = [src, dst, 64 * depth * blocks, blocks - 1]
    rig.run(whole, uniforms, workgroups=(n, 1, 1), per_supergroup=n, threads=threads)
    assert (rig.u32(dst, len(data)) == data).all()


@program()
def test_gather_through_two_tables(isa: Isa) -> None:
    """out[i] = data[index[i]], a workgroup a row."""
    rig, n = Rig(isa), 7
    rng = np.random.default_rng(1)
    index = rng.permutation(16 * n).astype(U)
    data = rng.integers(0, 1 << 32, 16 * n, dtype=U)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        q.shl(r[7], r[4], 6)
        q.add(r[7], r[7], r[5])
        lane_address(q, r[8], r[7])
        load(q, r[10], r[8])
        q.shl(r[10], r[10], 2)
        q.add(r[10], r[10], r[6])
        load(q, r[11], r[10])
        return r[11]

    assert (rows_of(rig, n, body, (rig.buffer(index), rig.buffer(data))).ravel() == data[index]).all()


@program()
def test_scatter_inverts_a_permutation(isa: Isa) -> None:
    rig, n = Rig(isa), 8
    p = np.random.default_rng(2).permutation(16 * n).astype(U)
    at = rig.buffer(p)
    inverse = rig.buffer(64 * n)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6])
        q.shl(r[7], r[4], 4)
        q.eidx(r[8])
        q.add(r[7], r[7], r[8])  # own number
        q.shl(r[8], r[7], 2)
        q.add(r[8], r[8], r[5])
        load(q, r[10], r[8])
        q.shl(r[10], r[10], 2)
        q.add(r[10], r[10], r[6])
        store(q, r[7], r[10])
        q.end()

    rig.run(whole, [at, inverse], workgroups=(n, 1, 1), per_supergroup=n)
    assert (rig.u32(inverse, 16 * n) == np.argsort(p)).all()


@program()
def test_transpose(isa: Isa) -> None:
    """64 x 64: rows are read along, columns written, a tile of 16 x 16 a workgroup."""
    rig = Rig(isa)
    a = np.random.default_rng(3).integers(0, 1 << 32, (64, 64), dtype=U)
    src, dst = rig.buffer(a), rig.buffer(a.nbytes)

    def whole(q: Any) -> None:
        r = q.rf
        q.shr(r[4], payload(q), -16)  # y
        group_x(q, r[5])
        take(q, r[6], r[7], r[8])
        q.eidx(r[10])
        q.shl(r[11], r[4], 12)  # 16 rows of 256 bytes
        q.shl(r[12], r[5], 6)
        q.add(r[13], r[11], r[12])
        q.shl(r[14], r[10], 2)
        q.add(r[13], r[13], r[14])
        q.add(r[6], r[6], r[13])
        q.shl(r[11], r[5], 12)
        q.shl(r[12], r[4], 6)
        q.add(r[13], r[11], r[12])
        q.shl(r[14], r[10], 8)
        q.add(r[13], r[13], r[14])
        q.add(r[7], r[7], r[13])
        move(q, r[15], -16)
        with q.loop() as loop:
            load(q, r[16], r[6])
            store(q, r[16], r[7])
            q.add(r[6], r[6], r[8])
            q.add(r[7], r[7], 4)
            q.add(r[15], r[15], 1, push="pushz")
            jump(q, loop.start, "na0")
        q.end()

    rig.run(whole, [src, dst, 256], workgroups=(4, 4, 1), per_supergroup=4)
    assert (rig.u32(dst, 64 * 64).reshape(64, 64) == a.T).all()


@program()
def test_counting_sort(isa: Isa) -> None:
    """Histogram by atomics, prefix sum by one thread, places by atomics: three phases between barriers."""
    rig, n = Rig(isa), 6
    keys = np.random.default_rng(4).integers(0, 16, 16 * n).astype(U)
    src, counts, dst = rig.buffer(keys), rig.buffer(64), rig.buffer(64 * n)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8])
        q.shl(r[10], r[4], 6)
        q.add(r[5], r[5], r[10])
        lane_address(q, r[10], r[5])
        load(q, r[11], r[10])
        q.shl(r[12], r[11], 2)
        q.add(r[12], r[12], r[6])
        move(q, r[13], 1)
        draw(q, r[14], r[12], r[13], r[8])
        barrier(q)
        move(q, q.null, r[4], push="pushz")
        jump(q, "sums", "na0")
        lane_address(q, r[14], r[6])  # exclusive prefix sum by one vector, through memory, word by word
        move(q, r[15], 0)
        move(q, r[16], r[6])
        move(q, r[17], 8)
        q.add(r[17], r[17], r[17])
        with rounds(q, r[17]):
            load(q, r[18], r[16])
            store(q, r[15], r[16])
            q.add(r[15], r[15], r[18])
            q.add(r[16], r[16], 4)
        q.label("sums")
        barrier(q)
        draw(q, r[14], r[12], r[13], r[8])
        q.shl(r[14], r[14], 2)
        q.add(r[14], r[14], r[7])
        store(q, r[11], r[14])
        q.end()

    rig.run(whole, [src, counts, dst, ADD], workgroups=(n, 1, 1), per_supergroup=n)
    assert (rig.u32(dst, 16 * n) == np.sort(keys)).all()
    assert (rig.u32(counts, 16) == np.cumsum(np.bincount(keys, minlength=16))).all()


@program()
def test_pointer_chasing(isa: Isa) -> None:
    """Sixteen linked lists of different lengths: (next, value) pairs; lanes at their end do not load any more."""
    rig = Rig(isa)
    rng = np.random.default_rng(5)
    at = rig.buffer(4096)
    slots = rng.permutation(256).tolist()
    heads, sums = [], []
    for lane in range(16):
        chain = [slots.pop() for _ in range(1 + lane % 7)]
        values = rng.integers(1, 1000, len(chain)).tolist()
        for k, (s, v) in enumerate(zip(chain, values, strict=True)):
            following = at + 8 * chain[k + 1] if k + 1 < len(chain) else 0
            rig.memory.words[at // 4 + 2 * s : at // 4 + 2 * s + 2] = [following, v]
        heads.append(at + 8 * chain[0])
        sums.append(sum(values))

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        lane_address(q, r[7], r[5])
        load(q, r[8], r[7])
        move(q, r[10], 0)
        with q.loop() as loop:
            move(q, q.null, r[8], push="pushz")  # A: at the end
            jump(q, loop.end, "alla")
            move(q, q.tmuc, r[6])
            move(q, q.tmua, r[8], cond="ifna")
            q.nop(sig=q.ldtmu(r[11]))
            q.nop(sig=q.ldtmu(r[12]))
            q.add(r[10], r[10], r[12], cond="ifna")
            move(q, r[8], r[11], cond="ifna")
            jump(q, loop.start)
        return r[10]

    assert lanes_of(rig, body, (rig.buffer(np.array(heads, U)), VEC2)).tolist() == sums


@program()
def test_stream_compaction(isa: Isa) -> None:
    """Lanes that pass a test take a ticket and store there; the others do neither."""
    rig, n = Rig(isa), 9
    x = np.random.default_rng(12).integers(0, 100, 16 * n).astype(U)
    src, cell, out = rig.buffer(x), rig.buffer(64), rig.buffer(np.full(16 * n, 0xABCD, U))

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8], r[10])
        q.shl(r[11], r[4], 6)
        q.add(r[5], r[5], r[11])
        lane_address(q, r[11], r[5])
        load(q, r[12], r[11])
        q.sub(q.null, r[12], r[10], push="pushn")  # A: below the limit
        jump(q, "none", "allna")
        move(q, q.tmuc, r[8])
        move(q, q.tmud, 1)
        move(q, q.tmua, r[6], cond="ifa")
        q.nop(sig=q.ldtmu(r[13]))
        q.shl(r[13], r[13], 2)
        q.add(r[13], r[13], r[7])
        move(q, q.tmud, r[12])
        move(q, q.tmua, r[13], cond="ifa")
        q.tmuwt(q.null)
        q.label("none")
        q.end()

    rig.run(whole, [src, cell, out, ADD, 30], workgroups=(n, 1, 1), per_supergroup=n)
    want = np.sort(x[x < 30])
    assert rig.u32(cell, 1)[0] == len(want)
    assert (np.sort(rig.u32(out, len(want))) == want).all()
    assert (rig.u32(out, 16 * n)[len(want) :] == 0xABCD).all()


@program()
def test_copy_with_eight_loads_in_flight(isa: Isa) -> None:
    copy_queued(isa, 8, 2)


@program()
def test_copy_with_four_loads_in_flight_in_four_threads(isa: Isa) -> None:
    copy_queued(isa, 4, 4)


@program()
def test_read_modify_write_chain(isa: Isa) -> None:
    """Stores, waits and loads of one location by one thread alternate, with rotated lanes."""
    rig = Rig(isa)
    cells = rig.buffer(np.arange(16, dtype=U))

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        q.eidx(r[6])
        move(q, r[7], 8)
        move(q, r[11], 15)
        with rounds(q, r[7]):
            q.add(r[6], r[6], 1)
            q.and_(r[6], r[6], r[11])
            q.shl(r[8], r[6], 2)
            q.add(r[8], r[8], r[5])
            load(q, r[10], r[8])
            q.add(r[12], r[10], r[10])
            q.add(r[10], r[10], r[12])
            q.add(r[10], r[10], r[6])
            store(q, r[10], r[8])
        load(q, r[10], r[8])
        return r[10]

    cell = np.arange(16, dtype=np.int64)
    for k in range(8):
        turn = (LANE + k + 1) % 16
        cell[turn] = 3 * cell[turn] + turn
    assert (lanes_of(rig, body, (cells,)) == cell[(LANE + 8) % 16] & 0xFFFFFFFF).all()


@program()
def test_three_point_stencil(isa: Isa) -> None:
    """Overlapping loads of neighbours; the array has a margin on both sides."""
    rig, n = Rig(isa), 10
    x = np.random.default_rng(16).normal(size=16 * n + 2).astype(np.float32)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        q.shl(r[6], r[4], 6)
        q.add(r[5], r[5], r[6])
        lane_address(q, r[6], r[5])
        for _ in range(3):
            move(q, q.tmua, r[6])
            q.add(r[6], r[6], 4)
        for k in range(3):
            q.nop(sig=q.ldtmu(r[10 + k]))
        q.fadd(r[10], r[10], r[12])
        q.nop().fmul(r[10], r[10], 0.25)
        q.nop().fmul(r[11], r[11], 0.5)
        q.fadd(r[10], r[10], r[11])
        return r[10]

    got = rows_of(rig, n, body, (rig.buffer(x),)).view(np.float32).ravel()
    assert (got == (x[:-2] + x[2:]) * np.float32(0.25) + x[1:-1] * np.float32(0.5)).all()


@program()
def test_both_ends_of_32_mib(isa: Isa) -> None:
    """A gather with a stride of almost 2 MiB, and stores into the last words of the buffer."""
    rig = Rig(isa)
    size = 32 << 20
    at = rig.buffer(size, "big")
    stride = size // 16 - 4
    for k in range(16):
        rig.memory.words[(at + k * stride) // 4] = 1000 + k
    rig.memory.words[(at + size) // 4 - 1] = 5

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7])
        q.eidx(r[8])
        q.nop().umul24(r[10], r[8], r[6])
        q.add(r[10], r[10], r[5])
        load(q, r[11], r[10])
        q.shl(r[8], r[8], 2)
        q.add(r[7], r[7], r[5])
        q.sub(r[7], r[7], r[8])
        store(q, r[11], r[7])
        q.tmuwt(q.null)
        load(q, r[12], r[7])
        return r[12]

    assert (lanes_of(rig, body, (at, stride, size - 4)) == 1000 + LANE).all()
    assert (rig.u32(at + size - 64, 16) == 1015 - LANE).all()


@program()
def test_last_writer_sees_all_conditions(isa: Isa) -> None:
    """Stores under ifa, ifb, ifna and ifnb to one row: each lane ends with the last one that took it."""
    rig = Rig(isa)
    out = rig.buffer(np.full(16, 99, U))

    def whole(q: Any) -> None:
        r = q.rf
        take(q, r[5])
        lane_address(q, r[6], r[5])
        q.eidx(r[7])
        q.and_(q.null, r[7], 1, push="pushz")  # even
        q.and_(q.null, r[7], 4, push="pushz")  # A: bit 2 clear, B: even
        for k, cond in enumerate(("ifb", "ifna", "ifnb", "ifa")):
            q.sub(q.null, r[7], 8, update="andn") if k == 3 else q.nop()
            move(q, q.tmud, k + 1)
            move(q, q.tmua, r[6], cond=cond)
        q.tmuwt(q.null)
        q.end()

    rig.run(whole, [out])
    want = np.full(16, 99)
    a, b = LANE & 4 == 0, LANE % 2 == 0
    want[b], want[~a], want[~b] = 1, 2, 3
    want[a & (LANE < 8)] = 4
    assert (rig.u32(out, 16) == want).all()
