"""Tests of atomics under contention, locks and queues: threads that synchronise through memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.core.isa import Isa
from tests.emu.v3d.idioms import (
    ADD,
    ALWAYS,
    AND,
    CMPXCHG,
    LANE,
    OR,
    SMAX,
    SMIN,
    SUB,
    UMAX,
    UMIN,
    XCHG,
    XOR,
    config,
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
from tests.emu.v3d.rig import Rig, move

U = np.uint32


@program()
def test_every_atomic_under_contention(isa: Isa) -> None:
    """All lanes of all threads on one word per operation: results that no order changes; old values form a chain."""
    rig, n = Rig(isa), 14
    rng = np.random.default_rng(4)
    x = rng.integers(0, 1 << 32, (n, 16), dtype=U)
    start = np.array([7, 7, 7, 0, 0xFFFFFFFF, 0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0, 0x1234], U)
    words = [ADD, SUB, XCHG, CMPXCHG, UMIN, UMAX, SMIN, SMAX, AND, OR, XOR]
    data, cells, config_at = rig.buffer(x), rig.buffer(start), rig.buffer(np.array(words, U))
    old = rig.buffer(64 * n * len(words))

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8], r[10])
        row_address(q, r[11], r[5], r[4])
        load(q, r[12], r[11])
        row_address(q, r[13], r[8], r[4])
        move(q, q.unifa, r[7])
        move(q, r[14], 11)
        q.nop()
        q.nop()
        with rounds(q, r[14]):
            q.nop(sig=q.ldunifarf(r[15]))
            move(q, q.tmuc, r[15])
            q.sub(q.null, r[14], 8, push="pushz")  # the fourth: cmpxchg takes two words
            jump(q, "one", "na0")
            move(q, q.tmud, 0)
            q.label("one")
            move(q, q.tmud, r[12])
            move(q, q.tmua, r[6])
            q.nop(sig=q.ldtmu(r[16]))
            store(q, r[16], r[13])
            q.add(r[6], r[6], 4)
            q.add(r[13], r[13], r[10])
        q.end()

    rig.run(whole, [data, cells, config_at, old, 64 * n], workgroups=(n, 1, 1), per_supergroup=n)
    got = rig.u32(cells, 11)
    before = rig.u32(old, 16 * n * 11).reshape(11, 16 * n)
    s, flat = x.view(np.int32), x.ravel()
    total = int(x.sum(dtype=np.int64))
    assert got[:2].tolist() == [(7 + total) & 0xFFFFFFFF, (7 - total) & 0xFFFFFFFF]
    assert sorted([*before[2].tolist(), int(got[2])]) == sorted([7, *flat.tolist()])
    assert (before[3] == 0).sum() == 1  # one winner
    assert (got[3] == flat[before[3] == 0]).all()
    assert (before[3][before[3] != 0] == got[3]).all()
    assert [got[4], got[5], got[8], got[9]] == [
        x.min(),
        x.max(),
        np.bitwise_and.reduce(flat),
        np.bitwise_or.reduce(flat),
    ]
    assert [got[6].view(np.int32), got[7].view(np.int32)] == [s.min(), s.max()]
    assert got[10] == np.bitwise_xor.reduce(flat) ^ U(0x1234)
    for k, step in ((0, lambda m, v: m + v), (1, lambda m, v: m - v), (10, lambda m, v: m ^ v)):
        after = step(before[k], flat)
        assert sorted([*before[k].tolist(), int(got[k])]) == sorted([int(start[k]), *after.tolist()])


@program()
def test_atomics_without_data_under_contention(isa: Isa) -> None:
    """Increment, decrement and not: their old values tell how often each value was seen."""
    rig, n = Rig(isa), 6
    cells = rig.buffer(np.array([10, 10, 0x0F], U))
    old = rig.buffer(3 * 64 * n)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7])
        row_address(q, r[8], r[6], r[4])
        for _ in range(3):
            take(q, r[10])
            move(q, q.tmuc, r[10])
            move(q, q.tmua, r[5])
            q.nop(sig=q.ldtmu(r[11]))
            store(q, r[11], r[8])
            q.add(r[5], r[5], 4)
            q.add(r[8], r[8], r[7])
        q.end()

    rig.run(whole, [cells, old, 64 * n, config(8), config(9), config(10)], workgroups=(n, 1, 1), per_supergroup=n)
    m = 16 * n
    before = rig.u32(old, 3 * m).reshape(3, m)
    assert rig.u32(cells, 3).tolist() == [10 + m, (10 - m) & 0xFFFFFFFF, 0x0F]
    assert (np.sort(before[0]) == 10 + np.arange(m)).all()
    assert (np.sort(before[1].view(np.int32)) == 11 - m + np.arange(m)).all()
    assert sorted(before[2].tolist()) == [0x0F] * (m // 2) + [0xFFFFFFF0] * (m // 2)


@program()
def test_spin_lock(isa: Isa) -> None:
    """Compare-and-exchange takes the lock; loads and stores inside it are not atomic themselves."""
    rig, n, turns = Rig(isa), 9, 3
    lock, account = rig.buffer(64), rig.buffer(64)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8])
        with rounds(q, r[8]):
            q.eidx(r[10])
            with q.loop() as spin:
                switch(q)
                move(q, q.null, r[10], push="pushz")  # A: lane 0
                move(q, q.tmuc, r[7])
                move(q, q.tmud, 0)
                move(q, q.tmud, 1)
                move(q, q.tmua, r[5], cond="ifa")
                q.nop(sig=q.ldtmu(r[11]))
                move(q, q.null, r[11], push="pushz")
                jump(q, spin.start, "na0")
            load(q, r[12], r[6])
            switch(q)  # others run in the middle of the section
            q.add(r[12], r[12], r[4])
            q.add(r[12], r[12], 1)
            store(q, r[12], r[6])
            switch(q)
            move(q, q.null, r[10], push="pushz")
            move(q, q.tmud, 0)
            move(q, q.tmua, r[5], cond="ifa")
            q.tmuwt(q.null)
        q.end()

    rig.run(whole, [lock, account, CMPXCHG, turns], workgroups=(n, 1, 1), per_supergroup=n, limit=ALWAYS)
    assert rig.u32(account, 1)[0] == turns * sum(range(1, n + 1))
    assert rig.u32(lock, 1)[0] == 0


@program()
def test_ticket_lock_serves_in_order(isa: Isa) -> None:
    """Tickets by an atomic; a common word holds the number that is served; each holder appends itself to a log."""
    rig, n = Rig(isa), 11
    cells = rig.buffer(np.zeros(2, U))  # next ticket, now serving
    log = rig.buffer(4 * n)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7])
        q.eidx(r[8])
        move(q, q.null, r[8], push="pushz")
        move(q, q.tmuc, r[7])
        move(q, q.tmud, 1)
        move(q, q.tmua, r[5], cond="ifa")
        q.nop(sig=q.ldtmu(r[10]))
        move(q, q.r5rep if isa is Isa.V3D42 else q.rep, r[10])
        move(q, r[10], q.r5 if isa is Isa.V3D42 else r[0])
        q.add(r[11], r[5], 4)
        with q.loop() as spin:
            switch(q)
            load(q, r[12], r[11])
            q.sub(q.null, r[12], r[10], push="pushz")
            jump(q, spin.start, "na0")
        q.shl(r[13], r[12], 2)
        q.add(r[13], r[13], r[6])
        move(q, q.null, r[8], push="pushz")
        move(q, q.tmud, r[4])
        move(q, q.tmua, r[13], cond="ifa")
        q.tmuwt(q.null)
        q.add(r[12], r[12], 1)
        move(q, q.tmud, r[12])
        move(q, q.tmua, r[11], cond="ifa")
        q.tmuwt(q.null)
        return r[10]

    tickets = rows_of(rig, n, body, (cells, log, ADD), limit=ALWAYS)[:, 0]
    assert sorted(tickets) == list(range(n))
    assert (rig.u32(log, n)[tickets] == np.arange(n)).all()
    assert rig.u32(cells, 2).tolist() == [n, n]


@program()
def test_work_queue(isa: Isa) -> None:
    """Threads fetch jobs of very different length until there are none; every job is done exactly once."""
    rig, n, jobs = Rig(isa), 7, 40
    lengths = np.random.default_rng(5).integers(1, 30, jobs).astype(U)
    head, sizes, done = rig.buffer(64), rig.buffer(lengths), rig.buffer(4 * jobs)

    def whole(q: Any) -> None:
        r = q.rf
        take(q, r[5], r[6], r[7], r[8], r[10])
        with q.loop() as loop:
            first_lane(q, r[11])
            move(q, q.tmuc, r[8])
            move(q, q.tmud, r[11])
            move(q, q.tmua, r[5])
            q.nop(sig=q.ldtmu(r[12]))
            move(q, q.r5rep if isa is Isa.V3D42 else q.rep, r[12])
            move(q, r[12], q.r5 if isa is Isa.V3D42 else r[0])
            q.sub(q.null, r[12], r[10], push="pushn")
            jump(q, loop.end, "na0")
            q.shl(r[12], r[12], 2)
            q.add(r[13], r[12], r[6])
            load(q, r[14], r[13])
            move(q, r[15], 0)
            with rounds(q, r[14]):
                q.add(r[15], r[15], r[14])
            q.eidx(r[11])
            move(q, q.null, r[11], push="pushz")
            q.add(r[13], r[12], r[7])
            move(q, q.tmuc, r[8])
            move(q, q.tmud, r[15])
            move(q, q.tmua, r[13], cond="ifa")
            q.nop(sig=q.ldtmu(r[16]))
            jump(q, loop.start)
        q.end()

    rig.run(whole, [head, sizes, done, ADD, jobs], workgroups=(n, 1, 1), per_supergroup=n, limit=ALWAYS)
    assert (rig.u32(done, jobs) == lengths * (lengths + 1) // 2).all()
    assert rig.u32(head, 1)[0] >= jobs


@program()
def test_float_sum_by_compare_and_exchange(isa: Isa) -> None:
    """No atomic adds floats: lanes repeat until no other lane came between. Sums of small integers are exact."""
    rig, n = Rig(isa), 3
    cell = rig.buffer(64)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6])
        q.eidx(r[7])
        q.add(r[7], r[7], r[4])
        q.itof(r[7], r[7])
        move(q, r[8], 1)  # still to do
        with q.loop() as loop:
            move(q, q.null, r[8], push="pushz")  # A: done
            jump(q, loop.end, "alla")
            load(q, r[10], r[5])
            q.fadd(r[11], r[10], r[7])
            move(q, q.tmuc, r[6])
            move(q, q.tmud, r[10])
            move(q, q.tmud, r[11])
            move(q, q.tmua, r[5], cond="ifna")
            q.nop(sig=q.ldtmu(r[12]))
            q.xor(r[12], r[12], r[10])
            move(q, r[8], r[12], cond="ifna")
            jump(q, loop.start)
        q.end()

    rig.run(whole, [cell, CMPXCHG], workgroups=(n, 1, 1), per_supergroup=n, limit=ALWAYS)
    assert rig.f32(cell, 1)[0] == sum(120 + 16 * i for i in range(n))


@program()
def test_ring_buffer_between_two_threads(isa: Isa) -> None:
    """One thread writes rows, the other reads them: four slots, read and write counts in memory."""
    rig, rows = Rig(isa), 12
    counts, ring, out = rig.buffer(np.zeros(32, U)), rig.buffer(4 * 64), rig.buffer(64 * rows)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8], r[10])
        q.eidx(r[11])
        move(q, r[12], 0)  # rows handled
        q.add(r[13], r[5], r[10])  # count of rows read; rf5: of rows written
        move(q, q.null, r[4], push="pushz")
        jump(q, "consumer", "na0")
        with q.loop() as loop:
            with q.loop() as full:
                switch(q)
                load(q, r[14], r[13])
                q.sub(r[14], r[12], r[14])
                q.sub(q.null, r[14], 4, push="pushn")
                jump(q, full.start, "na0")
            q.and_(r[15], r[12], 3)
            row_address(q, r[16], r[6], r[15])
            q.shl(r[17], r[12], 8)
            q.add(r[17], r[17], r[11])
            store(q, r[17], r[16])
            q.add(r[12], r[12], 1)
            store(q, r[12], r[5])
            q.sub(q.null, r[12], r[8], push="pushz")
            jump(q, loop.start, "na0")
        jump(q, "end")
        q.label("consumer")
        with q.loop() as loop:
            with q.loop() as empty:
                switch(q)
                load(q, r[14], r[5])
                q.sub(q.null, r[14], r[12], push="pushz")
                jump(q, empty.start, "a0")
            q.and_(r[15], r[12], 3)
            row_address(q, r[16], r[6], r[15])
            load(q, r[17], r[16])
            row_address(q, r[16], r[7], r[12])
            store(q, r[17], r[16])
            q.add(r[12], r[12], 1)
            store(q, r[12], r[13])
            q.sub(q.null, r[12], r[8], push="pushz")
            jump(q, loop.start, "na0")
        q.label("end")
        q.end()

    rig.run(whole, [counts, ring, out, rows, 64], workgroups=(2, 1, 1), per_supergroup=2, limit=ALWAYS)
    assert (rig.u32(out, 16 * rows).reshape(rows, 16) == (np.arange(rows) << 8)[:, None] + LANE).all()
