"""Tests of threads that exchange values through memory and atomics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from tests.emu.v3d.idioms import program, take
from tests.emu.v3d.rig import Rig, move, payload, store_lanes


@program()
def test_barrier_exchange_between_batches(isa: Isa) -> None:
    """Neighbours read each other's values after the barrier, and overwrite their own without a second one."""
    rig = Rig(isa)
    n = 8
    out = rig.buffer(64 * n)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16)
        take(q, r[1])
        take(q, r[4])
        q.shl(r[5], r[3], 6)
        q.add(r[5], r[5], r[1])  # own row
        q.eidx(r[6])
        q.shl(r[6], r[6], 2)
        q.add(r[5], r[5], r[6])
        move(q, q.tmud, r[3])
        move(q, q.tmua, r[5])
        q.tmuwt(q.null)
        q.barrierid(q.syncb, sig=q.thrsw)
        q.nop()
        q.nop()
        q.add(r[7], r[3], 1)
        q.and_(r[7], r[7], n - 1)
        q.shl(r[7], r[7], 6)
        q.add(r[7], r[7], r[1])
        q.add(q.tmua, r[7], r[6])
        q.nop(sig=q.ldtmu(r[8]))
        q.add(q.tmud, r[8], r[4])
        move(q, q.tmua, r[5])
        q.tmuwt(q.null)
        q.end()

    rig.run(program, [out, 100], workgroups=(n, 1, 1), per_supergroup=n)
    got = rig.u32(out, 16 * n).reshape(n, 16)
    assert (got == (100 + (np.arange(n) + 1) % n)[:, None]).all()


@program()
def test_contended_atomic_counter(isa: Isa) -> None:
    """All lanes of all threads take a number from one counter: every number once, in order of threads and lanes."""
    rig = Rig(isa)
    n = 6
    counter = rig.buffer(np.array([1000], np.uint32))
    out = rig.buffer(64 * n)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16)
        take(q, r[1])
        take(q, r[4])
        take(q, r[10])
        move(q, q.tmuc, r[10])
        move(q, q.tmud, 1)
        move(q, q.tmua, r[4])
        q.nop(sig=q.ldtmu(r[5]))
        q.shl(r[6], r[3], 6)
        q.add(r[1], r[1], r[6])
        store_lanes(q, r[5], r[1], r[9])
        q.end()

    rig.run(program, [out, counter, 0xFFFFFF00 | 0x80 | 0 << 3 | 7], workgroups=(n, 1, 1), per_supergroup=n)
    assert (rig.u32(out, 16 * n) == 1000 + np.arange(16 * n)).all()
    assert rig.u32(counter, 1)[0] == 1000 + 16 * n


@program()
@pytest.mark.parametrize("parted", [False, True])
def test_atomics_are_served_in_rounds_of_threads(isa: Isa, parted: bool) -> None:
    """Every thread draws twice: first all threads once, in order, then again; also when odd threads part."""
    rig = Rig(isa)
    n = 6
    counter = rig.buffer(64)
    out = rig.buffer(128 * n)

    def draw(q: Any, d: Any) -> None:
        r = q.rf
        move(q, q.tmuc, r[10])
        move(q, q.tmud, 1)
        move(q, q.tmua, r[4])
        q.nop(sig=q.ldtmu(d))

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16)
        for k in (1, 4, 10):
            take(q, r[k])
        q.and_(q.null, r[3], 1, push="pushz")
        if parted:
            q.b("odd", cond="na0")
            q.nop()
            q.nop()
            q.nop()
            draw(q, r[5])
            draw(q, r[6])
            q.b("store")
            q.nop()
            q.nop()
            q.nop()
            q.label("odd")
        draw(q, r[5])
        draw(q, r[6])
        q.label("store")
        q.shl(r[7], r[3], 7)
        q.add(r[1], r[1], r[7])
        store_lanes(q, r[5], r[1], r[9])
        move(q, r[7], 1)
        q.shl(r[7], r[7], 6)
        q.add(r[1], r[1], r[7])
        store_lanes(q, r[6], r[1], r[9])
        q.end()

    rig.run(program, [out, counter, 0xFFFFFF87], workgroups=(n, 1, 1), per_supergroup=n)
    got = rig.u32(out, 32 * n).reshape(n, 2, 16)
    want = np.arange(32 * n).reshape(2, n, 16).transpose(1, 0, 2)
    assert (got == want).all()


@program()
def test_producer_and_consumer_through_memory(isa: Isa) -> None:
    """One thread spins on a flag that another one sets later: no thread starves."""
    rig = Rig(isa)
    cells = rig.buffer(64)
    out = rig.buffer(64 * 2)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16, push="pushz")  # A: workgroup 0
        take(q, r[1])
        take(q, r[4])
        q.shl(r[6], r[3], 6)
        q.add(r[1], r[1], r[6])
        q.b("producer", cond="na0")
        q.nop()
        q.nop()
        q.nop()
        with q.loop() as loop:
            move(q, q.tmua, r[4])
            q.nop(sig=q.ldtmu(r[5]))
            move(q, q.null, r[5], push="pushz")
            q.b(loop.start, cond="a0")
            q.nop()
            q.nop()
            q.nop()
        q.b("store")
        q.nop()
        q.nop()
        q.nop()
        q.label("producer")
        move(q, r[7], 15)
        with q.loop() as loop:
            q.sub(r[7], r[7], 1, push="pushz")
            q.b(loop.start, cond="na0")
            q.nop()
            q.nop()
            q.nop()
        move(q, r[5], 9)
        move(q, q.tmud, r[5])
        move(q, q.tmua, r[4])
        q.label("store")
        store_lanes(q, r[5], r[1], r[9])
        q.end()

    rig.run(program, [out, cells], workgroups=(2, 1, 1), per_supergroup=2)
    assert (rig.u32(out, 32) == 9).all()


@program()
def test_histogram_by_atomics(isa: Isa) -> None:
    rig = Rig(isa)
    rng = np.random.default_rng(6)
    n = 4
    data = rng.integers(0, 8, 16 * n).astype(np.uint32)
    src, bins = rig.buffer(data), rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16)
        take(q, r[1])
        take(q, r[4])
        q.shl(r[3], r[3], 6)
        q.eidx(r[5])
        q.shl(r[5], r[5], 2)
        q.add(r[5], r[5], r[3])
        q.add(q.tmua, r[5], r[1])
        q.nop(sig=q.ldtmu(r[6]))
        q.shl(r[6], r[6], 2)
        q.nop(sig=q.wrtmuc)
        q.add(q.tmua, r[6], r[4])  # increment: no data word
        q.nop(sig=q.ldtmu(q.null))
        q.end()

    rig.run(program, [src, bins, 0xFFFFFF00 | 0x80 | 8 << 3 | 7], workgroups=(n, 1, 1), per_supergroup=n)
    assert (rig.u32(bins, 8) == np.bincount(data, minlength=8)).all()
