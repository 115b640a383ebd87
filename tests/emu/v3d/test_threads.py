"""Tests of programs of many threads: barriers, atomics, locks and queues, supergroups, partial workgroups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.v3d.asm import assemble
from tests.emu.v3d.idioms import (
    ADD,
    ALWAYS,
    XOR,
    barrier,
    draw,
    first_lane,
    group_x,
    jump,
    load,
    program,
    rounds,
    row_address,
    rows_of,
    store,
    switch,
    take,
)
from tests.emu.v3d.rig import Rig, move, payload

U = np.uint32


def local_index(q: Any, d: Any, shift: Any) -> None:
    """Number of the invocation in its workgroup; `shift` holds 26, 25 or 24."""
    q.shr(d, q.rf[2], shift)


@program()
def test_tree_sum_with_a_barrier_a_level(isa: Isa) -> None:
    rig, n = Rig(isa), 16
    x = np.random.default_rng(1).integers(0, 1 << 32, (n, 16), dtype=U)
    work = rig.buffer(x)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5])
        row_address(q, r[6], r[5], r[4])
        move(q, r[7], 8)
        move(q, r[8], r[7])
        q.shl(r[8], r[8], 6)
        with q.loop() as loop:
            q.sub(q.null, r[4], r[7], push="pushn")  # A: this thread adds
            jump(q, "wait", "na0")
            q.add(r[10], r[6], r[8])
            load(q, r[11], r[10])
            load(q, r[12], r[6])
            q.add(r[12], r[12], r[11])
            store(q, r[12], r[6])
            q.label("wait")
            barrier(q)
            q.shr(r[8], r[8], 1)
            q.shr(r[7], r[7], 1, push="pushz")
            jump(q, loop.start, "na0")
        q.end()

    rig.run(whole, [work], workgroups=(n, 1, 1), per_supergroup=n)
    assert (rig.u32(work, 16) == x.sum(axis=0, dtype=U)).all()


@program()
def test_running_sum_over_threads(isa: Isa) -> None:
    """Hillis and Steele between two buffers: log2(n) barriers, every thread works in every step."""
    rig, n = Rig(isa), 12
    x = np.random.default_rng(2).integers(0, 1000, (n, 16)).astype(U)
    a, b = rig.buffer(x), rig.buffer(x.nbytes)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6])
        row_address(q, r[7], r[5], r[4])
        row_address(q, r[8], r[6], r[4])
        move(q, r[10], 1)
        for _ in range(4):
            load(q, r[11], r[7])
            q.sub(q.null, r[4], r[10], push="pushn")  # A: no neighbour at that distance
            q.shl(r[12], r[10], 6)
            q.sub(r[12], r[7], r[12])
            move(q, q.tmua, r[12], cond="ifna")
            q.nop(sig=q.ldtmu(r[13]))
            q.add(r[11], r[11], r[13], cond="ifna")
            store(q, r[11], r[8])
            barrier(q)
            q.xor(r[7], r[7], r[8])
            q.xor(r[8], r[7], r[8])
            q.xor(r[7], r[7], r[8])
            q.add(r[10], r[10], r[10])
        q.end()

    rig.run(whole, [a, b], workgroups=(n, 1, 1), per_supergroup=n)
    assert (rig.u32(a, 16 * n).reshape(n, 16) == x.cumsum(axis=0)).all()


@program()
def test_bitonic_sort_in_memory(isa: Isa) -> None:
    """256 keys: sixteen threads compare and exchange, a barrier after each of 36 steps."""
    rig, n = Rig(isa), 16
    keys = np.random.default_rng(3).integers(0, 1 << 32, 256, dtype=U)
    at = rig.buffer(keys)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5])
        q.shl(r[6], r[4], 4)
        q.eidx(r[7])
        q.add(r[6], r[6], r[7])  # own number i
        q.shl(r[7], r[6], 2)
        q.add(r[7], r[7], r[5])
        move(q, r[8], 2)  # k
        move(q, r[16], 8)
        with rounds(q, r[16]):
            q.shr(r[10], r[8], 1)  # j
            with q.loop() as inner:
                q.xor(r[11], r[6], r[10])
                q.shl(r[12], r[11], 2)
                q.add(r[12], r[12], r[5])
                load(q, r[13], r[7])
                load(q, r[14], r[12])
                barrier(q)
                q.umin(r[15], r[13], r[14])
                q.umax(r[13], r[13], r[14])
                q.and_(r[14], r[6], r[8])  # falling part
                q.and_(r[17], r[6], r[10])  # upper partner
                move(q, q.null, r[14], push="pushz")
                q.vfla(r[14])
                move(q, q.null, r[17], push="pushz")
                q.vfla(r[17])
                q.xor(q.null, r[14], r[17], push="pushz")  # A: keeps the smaller one
                move(q, r[13], r[15], cond="ifa")
                store(q, r[13], r[7])
                barrier(q)
                q.shr(r[10], r[10], 1, push="pushz")
                jump(q, inner.start, "na0")
            q.add(r[8], r[8], r[8])
        q.end()

    rig.run(whole, [at], workgroups=(n, 1, 1), per_supergroup=n, limit=ALWAYS)
    assert (rig.u32(at, 256) == np.sort(keys)).all()


@program()
def test_heat_flows_through_all_threads(isa: Isa) -> None:
    """Ten steps of a one-dimensional diffusion in place: two barriers a step keep old and new values apart."""
    rig, n, steps = Rig(isa), 8, 10
    x = np.zeros(16 * n + 2, np.float32)
    x[40], x[90] = 256, 64
    at = rig.buffer(x)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6])
        row_address(q, r[7], r[5], r[4])
        with rounds(q, r[6]):
            move(q, r[8], r[7])
            for k in range(3):
                load(q, r[10 + k], r[8])
                q.add(r[8], r[8], 4)
            q.fadd(r[10], r[10], r[12])
            q.nop().fmul(r[10], r[10], 0.25)
            q.nop().fmul(r[11], r[11], 0.5)
            q.fadd(r[10], r[10], r[11])
            barrier(q)
            q.add(r[8], r[7], 4)
            store(q, r[10], r[8])
            barrier(q)
        q.end()

    rig.run(whole, [at, steps], workgroups=(n, 1, 1), per_supergroup=n)
    for _ in range(steps):
        x[1:-1] = (x[:-2] + x[2:]) * np.float32(0.25) + x[1:-1] * np.float32(0.5)
    assert (rig.f32(at, len(x)) == x).all()


@program()
def test_barrier_reached_on_different_paths(isa: Isa) -> None:
    """Odd and even threads meet at barriers that are different instructions, after different numbers of rounds."""
    rig, n = Rig(isa), 10
    cell = rig.buffer(64)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        first_lane(q, r[7])
        q.and_(q.null, r[4], 1, push="pushz")
        jump(q, "odd", "na0")
        draw(q, r[8], r[5], r[7], r[6])
        barrier(q)
        jump(q, "meet")
        q.label("odd")
        q.add(r[10], r[4], 1)
        with rounds(q, r[10]):
            draw(q, r[8], r[5], r[7], r[6])
            switch(q)
        barrier(q)
        q.label("meet")
        load(q, r[11], r[5])
        return r[11]

    total = sum(i + 1 if i % 2 else 1 for i in range(n))
    assert (rows_of(rig, n, body, (cell, ADD)) == total).all()


@program()
def test_workgroups_reduce_in_their_shared_memory(isa: Isa) -> None:
    """Supergroups of two workgroups of 64 run one after the other in the same two blocks of shared memory."""
    rig, groups, size = Rig(isa), 8, 64
    x = np.random.default_rng(6).integers(0, 1000, (groups, size)).astype(U)
    src, shared, out = rig.buffer(x), rig.buffer(2 * 4 * size), rig.buffer(4 * groups)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8], r[10])
        local_index(q, r[11], r[10])
        q.shl(r[12], r[2], 6)  # drop the local index ...
        q.shr(r[12], r[12], 6)
        q.shr(r[12], r[12], -16)  # ... and z: the slot
        q.shl(r[13], r[12], 8)
        q.add(r[6], r[6], r[13])
        q.shl(r[14], r[11], 2)
        q.add(r[6], r[6], r[14])  # own word in the block
        q.shl(r[13], r[4], 8)
        q.add(r[13], r[13], r[14])
        q.add(r[5], r[5], r[13])
        load(q, r[15], r[5])
        store(q, r[15], r[6])
        move(q, r[16], 1)
        q.shl(r[16], r[16], 5)
        with q.loop() as loop:
            barrier(q)
            q.sub(q.null, r[11], r[16], push="pushn")  # A: adds
            q.shl(r[17], r[16], 2)
            q.add(r[17], r[17], r[6])
            jump(q, "idle", "allna")
            move(q, q.tmua, r[17], cond="ifa")
            q.nop(sig=q.ldtmu(r[18]))
            move(q, q.tmua, r[6], cond="ifa")
            q.nop(sig=q.ldtmu(r[19]))
            q.add(r[19], r[19], r[18])
            move(q, q.tmud, r[19])
            move(q, q.tmua, r[6], cond="ifa")
            q.tmuwt(q.null)
            q.label("idle")
            q.shr(r[16], r[16], 1, push="pushz")
            jump(q, loop.start, "na0")
        move(q, q.null, r[11], push="pushz")
        q.shl(r[13], r[4], 2)
        q.add(r[13], r[13], r[7])
        jump(q, "out", "allna")
        move(q, q.tmud, r[19])
        move(q, q.tmua, r[13], cond="ifa")
        q.tmuwt(q.null)
        q.label("out")
        q.end()

    rig.run(whole, [src, shared, out, 0, 26], workgroups=(groups, 1, 1), size=size, per_supergroup=2, limit=ALWAYS)
    assert (rig.u32(out, groups) == x.sum(axis=1)).all()


@program()
@pytest.mark.parametrize(("size", "per_supergroup", "shift"), [(100, 1, 25), (20, 3, 26), (7, 5, 26), (250, 1, 24)])
def test_partial_workgroups_write_what_they_own(
    isa: Isa, size: int, per_supergroup: int, shift: int, engine: str
) -> None:
    """Workgroups that do not fill whole batches, packed or not: every invocation runs exactly once."""
    rig, groups = Rig(isa), 8
    out, hits = rig.buffer(np.full(4096, 0xFFFF, U)), rig.buffer(4 * 4096)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8], r[10])
        local_index(q, r[11], r[7])
        q.nop().umul24(r[12], r[4], r[8])
        q.add(r[12], r[12], r[11])  # number of the invocation
        q.shl(r[13], r[12], 2)
        q.add(r[14], r[13], r[6])
        move(q, q.tmuc, r[10])
        move(q, q.tmud, 1)
        move(q, q.tmua, r[14])
        q.nop(sig=q.ldtmu(q.null))
        q.add(r[13], r[13], r[5])
        store(q, r[12], r[13])
        q.end()

    rig.run(
        whole,
        [out, hits, shift, size, ADD],
        workgroups=(groups, 1, 1),
        size=size,
        per_supergroup=per_supergroup,
        max_id=3,
    )
    m = groups * size
    assert (rig.u32(out, m) == np.arange(m)).all()
    assert (rig.u32(out, 4096)[m:] == 0xFFFF).all()
    assert (rig.u32(hits, 4096) == (np.arange(4096) < m)).all()


@program()
@pytest.mark.parametrize("grid", [(37, 1, 1), (5, 7, 1), (3, 4, 5)])
def test_ids_in_one_two_and_three_dimensions(isa: Isa, grid: tuple[int, int, int]) -> None:
    """A volume written by its coordinates: x fastest, offsets added by the hardware."""
    rig = Rig(isa)
    cells = grid[0] * grid[1] * grid[2]
    out = rig.buffer(64 * cells)
    offset = (2, 1, 3)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        q.shr(r[5], payload(q), -16) if isa is Isa.V3D42 else q.shr(r[5], r[3], -16)
        q.shl(r[6], r[2], -16)
        q.shr(r[6], r[6], -16)
        take(q, r[7], r[8], r[10])
        for d, k in ((r[4], 2), (r[5], 1), (r[6], 3)):
            q.sub(d, d, k)
        q.nop().umul24(r[11], r[6], r[10])
        q.add(r[11], r[11], r[5])
        q.nop().umul24(r[11], r[11], r[8])
        q.add(r[11], r[11], r[4])
        row_address(q, r[12], r[7], r[11])
        q.shl(r[6], r[6], 8)
        q.or_(r[6], r[6], r[5])
        q.shl(r[6], r[6], 8)
        q.or_(r[6], r[6], r[4])
        store(q, r[6], r[12])
        q.end()

    rig.run(whole, [out, grid[0], grid[1]], workgroups=grid, first=offset, max_id=63)
    got = rig.u32(out, 16 * cells).reshape(cells, 16)
    want = [z << 16 | y << 8 | x for z in range(grid[2]) for y in range(grid[1]) for x in range(grid[0])]
    assert (got == np.array(want)[:, None]).all()


@program()
def test_four_threads_share_a_qpu(isa: Isa) -> None:
    """More rows than threads: each of the 32 or 64 threads has 32 registers, all used and none disturbed."""
    rig = Rig(isa)
    n = 5 * rig.machine.qpus
    out = rig.buffer(64 * n)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5])
        for k in range(6, 31):
            q.add(r[k], r[k - 1] if k > 6 else r[4], k & 7)
        row_address(q, r[6], r[5], r[4])
        switch(q)
        move(q, r[7], 0)
        for k in range(8, 31):
            q.add(r[7], r[7], r[k])
        switch(q)
        store(q, r[7], r[6])
        q.end()

    rig.run(whole, [out], workgroups=(n, 1, 1), threads=4, max_id=63)
    got = rig.u32(out, 16 * n).reshape(n, 16)
    step = np.cumsum([k & 7 for k in range(6, 31)])[2:]
    assert (got == (23 * np.arange(n) + step.sum())[:, None]).all()


@program()
def test_single_segment_program_with_loads(isa: Isa) -> None:
    """No switch but the end; loads and atomics wait in place."""
    rig, n = Rig(isa), 20
    x = np.random.default_rng(7).integers(0, 1 << 32, 16 * n, dtype=U)
    src, dst, cell = rig.buffer(x), rig.buffer(64 * n), rig.buffer(64)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8])
        row_address(q, r[10], r[5], r[4])
        load(q, r[11], r[10])
        draw(q, r[12], r[7], r[11], r[8])
        row_address(q, r[10], r[6], r[4])
        q.not_(r[11], r[11])
        store(q, r[11], r[10])
        q.end(single_segment=True)

    run = rig.run(whole, [src, dst, cell, XOR], workgroups=(n, 1, 1), single=True, max_id=63)
    assert (rig.u32(dst, 16 * n) == ~x).all()
    assert rig.u32(cell, 1)[0] == np.bitwise_xor.reduce(x)
    assert run.stats.thread_switches == 0


@program(Isa.V3D71)
@pytest.mark.parametrize("board", ["pi5", "pi5,slices=3"])
def test_worker_numbers_from_tidx(isa: Isa, board: str) -> None:
    """A grid-stride loop over the thread numbers of a board with 16 or 12 QPUs; 24 batches cover all rows."""
    rig = Rig(isa, board=board)
    qpus, rows = rig.machine.qpus, 100
    n = 2 * qpus
    out, seen = rig.buffer(64 * rows), rig.buffer(4 * 64)

    def whole(q: Any) -> None:
        r = q.rf
        take(q, r[5], r[6], r[7], r[8], r[10])
        q.tidx(r[11])
        q.and_(r[12], r[11], 3)
        q.shr(r[11], r[11], 2)
        q.shr(r[12], r[12], 1)
        q.nop().umul24(r[12], r[12], r[10])
        q.add(r[11], r[11], r[12])  # QPU + QPUs * (slot / 2)
        q.shl(r[13], r[11], 2)
        q.add(r[13], r[13], r[6])
        first_lane(q, r[14])
        draw(q, r[15], r[13], r[14], r[8])
        with q.loop() as loop:
            q.sub(q.null, r[11], r[7], push="pushn")
            jump(q, loop.end, "na0")
            row_address(q, r[12], r[5], r[11])
            store(q, r[11], r[12])
            q.add(r[11], r[11], r[10])
            q.add(r[11], r[11], r[10])
            jump(q, loop.start)
        q.end()

    rig.run(whole, [out, seen, rows, ADD, qpus], workgroups=(n, 1, 1), max_id=63)
    assert (rig.u32(seen, 64) == (np.arange(64) < n)).all()
    assert (rig.u32(out, 16 * rows).reshape(rows, 16) == np.arange(rows)[:, None]).all()


@program()
def test_supergroup_size_that_does_not_fit_its_field(isa: Isa) -> None:
    """24 workgroups a supergroup written unmasked into four bits, 24 batches: all meet, twice, and swap rows."""
    rig = Rig(isa, board="pi5,slices=3") if isa is Isa.V3D71 else Rig(isa)
    n = 24 if isa is Isa.V3D71 else 16
    words = rig.buffer(64 * n)

    def whole(q: Any) -> None:
        r = q.rf
        q.tidx(r[4])
        q.shr(r[5], r[4], 2)
        q.and_(r[4], r[4], 2)
        q.shl(r[6], r[4], 2)  # slot 2: 8 and, with twelve QPUs, 4 more
        take(q, r[7], r[8], r[10])
        q.add(r[4], r[4], r[4])
        move(q, q.null, r[10], push="pushz")
        move(q, r[4], 0, cond="ifa")
        q.add(r[5], r[5], r[6])
        q.add(r[5], r[5], r[4])  # 0 .. n - 1
        row_address(q, r[11], r[7], r[5])
        store(q, r[5], r[11])
        barrier(q)
        q.sub(r[12], r[8], r[5])
        row_address(q, r[13], r[7], r[12])
        load(q, r[14], r[13])
        barrier(q)
        store(q, r[14], r[11])
        q.end()

    cfg3 = 16 | n << 8 | (n - 1) << 12
    at = rig.buffer(np.array([words, n - 1, n - 16], U))
    code = rig.buffer(np.array(assemble(isa, whole).code, np.uint64))
    cfg = [16 << 16, 1 << 16, 1 << 16, cfg3, n if rig.profile.exact_batches else n - 1, code, at]
    assert rig.machine.dispatch(cfg).run(ALWAYS)
    assert (rig.u32(words, 16 * n).reshape(n, 16) == n - 1 - np.arange(n)[:, None]).all()


@program()
def test_three_dispatches_share_their_memory(isa: Isa) -> None:
    """Each dispatch reads the output of the previous one, uniforms included."""
    rig, n = Rig(isa), 4
    cells = rig.buffer(np.ones(16 * n + 16, U))

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5])
        q.b(0, unif="abs")
        q.nop()
        q.nop()
        q.nop()
        take(q, r[6])  # the first word of the buffer, as it was when the dispatch began
        row_address(q, r[7], r[5], r[4])
        load(q, r[8], r[7])
        q.add(r[8], r[8], r[6])
        q.add(r[8], r[8], r[4])
        store(q, r[8], r[7])
        q.end()

    for _ in range(3):
        rig.run(whole, [cells, cells], workgroups=(n, 1, 1), per_supergroup=n)
    want, first = np.ones(n, int), 1
    for _ in range(3):
        want, first = want + first + np.arange(n), int(2 * first)
    assert (rig.u32(cells, 16 * n).reshape(n, 16) == want[:, None]).all()
