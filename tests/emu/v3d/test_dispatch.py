"""Tests of dispatches: payload, placement, supergroups, barriers, emulated time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.emu.v3d.dispatch import Dispatch, Placement
from qpu.errors import EmuFault
from tests.emu.v3d.rig import ISAS, Rig, move, payload, store_lanes

both = pytest.mark.parametrize("isa", ISAS)


def take_numbers(q: Any) -> None:
    """Each batch draws a ticket and stores tidx, ids and index word at 64 * 3 * ticket."""
    r = q.rf
    for k in (10, 11, 12):
        q.nop(sig=q.ldunifrf(r[k]))
    q.tidx(r[13])
    q.eidx(r[14])
    q.sub(q.null, r[14], 0, push="pushz")
    # the ticket: one atomic in lane 0, spread to all lanes through memory order is not needed: all lanes add 0 or 1
    move(q, q.tmuc, r[12])
    move(q, r[15], 0)
    move(q, r[15], 1, cond="ifa")
    move(q, q.tmud, r[15])
    move(q, q.tmua, r[11])
    q.nop(sig=q.ldtmu(r[16]))
    rep = q.r5rep if q.isa is Isa.V3D42 else q.rep
    if q.isa is Isa.V3D71:
        move(q, r[17], payload(q))
    move(q, rep, r[16])
    source = q.r5 if q.isa is Isa.V3D42 else r[0]
    q.nop().umul24(r[18], source, 3) if q.isa is Isa.V3D71 else q.add(r[18], source, source)
    if q.isa is Isa.V3D42:
        q.add(r[18], r[18], source)
    q.shl(r[18], r[18], 6)
    q.add(r[10], r[10], r[18])
    move(q, r[20], 1)
    q.shl(r[20], r[20], 6)
    for value in (r[13], payload(q), r[2]):
        store_lanes(q, value, r[10], r[9])
        q.add(r[10], r[10], r[20])
    q.end()


def tickets(isa: Isa, batches: int, board: str | None = None, **options: Any) -> np.ndarray:
    """(batches, 3, 16): tidx, ids, index word, in the order in which the batches drew their tickets."""
    rig = Rig(isa, board=board)
    out, cell = rig.buffer(192 * batches), rig.buffer(64)
    rig.run(take_numbers, [out, cell, 0xFFFFFF87], **options)
    return rig.u32(out, 48 * batches).reshape(batches, 3, 16)


@both
@pytest.mark.parametrize("threads", [2, 4])
def test_breadth_first_placement_and_tidx(isa: Isa, threads: int) -> None:
    qpus = 8 if isa is Isa.V3D42 else 16
    n = qpus * threads
    got = tickets(isa, n, workgroups=(n, 1, 1), per_supergroup=1, max_id=63, threads=threads)
    tidx = got[:, 0, 0]
    slots = (0, 2) if threads == 2 else (0, 1, 2, 3)
    assert tidx.tolist() == [q << 2 | s for s in slots for q in range(qpus)]
    assert (got[:, 1, 0] & 0xFFFF).tolist() == list(range(n))


def test_three_slices_have_twelve_qpus() -> None:
    got = tickets(Isa.V3D71, 24, board="pi5,slices=3", workgroups=(24, 1, 1), max_id=63)
    assert got[:, 0, 0].tolist() == [q << 2 | s for s in (0, 2) for q in range(12)]


@both
def test_ids_and_local_index(isa: Isa) -> None:
    got = tickets(isa, 12, workgroups=(2, 3, 2), first=(5, 6, 7), max_id=63)
    ids = [(x + 5, y + 6, z + 7) for z in range(2) for y in range(3) for x in range(2)]
    assert [(int(v & 0xFFFF), int(v >> 16)) for v in got[:, 1, 3]] == [(x, y) for x, y, _ in ids]
    assert (got[:, 2, 3] & 0xFFFF).tolist() == [z for _, _, z in ids]
    assert (got[:, 2] >> 26 == np.arange(16)).all()


@both
@pytest.mark.parametrize("size", [16, 64, 100, 128, 256])
def test_local_index_has_six_to_eight_bits(isa: Isa, size: int) -> None:
    batches = -(-size // 16)
    got = tickets(isa, batches, size=size)
    width = 6 if size <= 64 else 7 if size <= 128 else 8
    local = (got[:, 2] >> (32 - width)).ravel()[:size]
    assert (local == np.arange(size)).all()


@both
def test_workgroups_pack_into_batches(isa: Isa) -> None:
    """Three workgroups of 8 in a supergroup: two batches, the second half dead; then a rest of one workgroup."""
    d = Rig(isa)
    flow = d.start([0], workgroups=(4, 1, 1), size=8, per_supergroup=3)
    dispatch = flow._dispatch
    assert dispatch.batches == 3
    p = dispatch.payload([0, 1, 2], [0, 0, 0])
    assert (p.ids[0] & 0xFFFF).tolist() == [0] * 8 + [1] * 8
    assert p.live.sum(axis=1).tolist() == [16, 8, 8]
    assert (p.ids[1] & 0xFFFF)[:8].tolist() == [2] * 8
    assert (p.ids[2] & 0xFFFF)[:8].tolist() == [3] * 8
    assert ((p.index[0] >> 16) & 0x3FF).tolist() == [0] * 8 + [1] * 8  # slots of shared memory
    assert (p.index[2][:8] >> 26).tolist() == list(range(8))


def test_contradicting_cfg3() -> None:
    """24 batches of one workgroup each with 24 cut to four bits: the batches field decides which batches meet."""
    cfg = [16 << 16, 1 << 16, 1 << 16, 16 | (24 << 8) | (23 << 12), 24, 0x1000, 0x2000]
    d = Dispatch.from_cfg(cfg, exact_batches=True)
    assert (d.batches_per_supergroup, d.supergroup_workgroups, d.supergroups) == (24, 24, 1)
    p = d.payload(list(range(24)), [0] * 24)
    assert p.live.all()
    assert (p.ids[:, 0] & 0xFFFF).tolist() == [*range(16), *range(8)]
    assert (p.index[:, 0] & 0xFFFF).tolist() == [0] * 16 + [1] * 8  # z counts on past its limit


@both
def test_barrier_counts_the_batches_field(isa: Isa) -> None:
    """All batches of the supergroup meet, whatever the workgroup count says."""
    rig = Rig(isa)
    n = 24 if isa is Isa.V3D71 else 16
    out = rig.buffer(64 * n)
    counter = rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        for k in (10, 11, 12):
            q.nop(sig=q.ldunifrf(r[k]))
        q.tidx(r[13])
        q.shr(r[13], r[13], 1)
        q.shl(r[13], r[13], 6)
        q.add(r[10], r[10], r[13])
        move(q, q.tmuc, r[12])
        move(q, q.tmud, 1)
        move(q, q.tmua, r[11])
        q.nop(sig=q.ldtmu(r[14]))
        q.barrierid(q.syncb, sig=q.thrsw)
        q.nop()
        q.nop()
        move(q, q.tmua, r[11])
        q.nop(sig=q.ldtmu(r[15]))
        store_lanes(q, r[15], r[10], r[9])
        q.end()

    rig.start(
        program,
        [out, counter, 0xFFFFFF87],
        workgroups=(16, 1, 1),
        per_supergroup=n,
        batches_per_supergroup=n,
        batches=n,
    ).run()
    used = rig.u32(out, 16 * n)
    assert (used[used != 0] == 16 * n).all()
    assert (used != 0).sum() >= 16 * 16


@both
def test_at_most_max_id_plus_one_supergroups_in_flight(isa: Isa) -> None:
    rig = Rig(isa)
    flow = rig.start([0], workgroups=(12, 1, 1), per_supergroup=2, max_id=1)
    p = Placement(flow._dispatch, 8)
    assert [s.batch for s in p.start()] == [0, 1, 2, 3]
    assert p.start() == []
    p.finish(0)
    assert p.start() == []
    p.finish(1)
    again = p.start()
    assert [(s.batch, s.supergroup, s.supergroup_slot, s.thread) for s in again] == [(4, 2, 0, 4), (5, 2, 0, 5)]
    with pytest.raises(KeyError):
        p.finish(1)


@both
def test_the_lowest_free_supergroup_slot_comes_next(isa: Isa) -> None:
    """In any order in which the earlier supergroups ended."""
    flow = Rig(isa).start([0], workgroups=(6, 1, 1), max_id=2)
    p = Placement(flow._dispatch, 8)
    assert [(s.batch, s.supergroup_slot) for s in p.start()] == [(0, 0), (1, 1), (2, 2)]
    for thread in (2, 1, 0):
        p.finish(thread)
    assert [(s.batch, s.supergroup_slot) for s in p.start()] == [(3, 0), (4, 1), (5, 2)]


@both
def test_more_batches_than_threads_are_queued(isa: Isa) -> None:
    n = 100
    got = tickets(isa, n, workgroups=(n, 1, 1), max_id=63)
    assert sorted(got[:, 1, 0] & 0xFFFF) == list(range(n))


@both
def test_deadlock_says_who_waits(isa: Isa) -> None:
    rig = Rig(isa)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[10], payload(q), -16)
        move(q, q.null, r[10], push="pushz")
        q.b("skip", cond="a0")
        q.nop()
        q.nop()
        q.nop()
        q.barrierid(q.syncb, sig=q.thrsw)
        q.nop()
        q.nop()
        q.label("skip")
        q.end()

    with pytest.raises(EmuFault) as caught:
        rig.run(program, workgroups=(3, 1, 1), per_supergroup=3)
    assert caught.value.rule == "deadlock"
    assert "2 of 3 batches wait at the barrier" in str(caught.value)
    assert caught.value.place.qpu == 1


@both
def test_the_barrier_of_a_partial_last_supergroup(isa: Isa) -> None:
    """It waits for the existing batches (assumed; see `Dispatch.supergroup_batches`)."""

    def program(q: Any) -> None:
        q.barrierid(q.syncb, sig=q.thrsw)
        q.nop()
        q.nop()
        q.end()

    execution = Rig(isa).run(program, workgroups=(8, 1, 1), per_supergroup=3, max_id=3)
    assert execution.done and execution.batches_done == 8
    p = Placement(execution._dispatch, 8)
    threads = {s.batch: s.thread for s in p.start()}
    for batch in (6, 0, 1):
        p.arrive(threads[batch])
    assert p.missing() == {2: (1, 2), 0: (2, 3)} and p.release() == set()
    p.arrive(threads[7])
    assert p.release() == {2} and p.missing() == {0: (2, 3)}


@both
def test_supergroup_larger_than_the_machine_deadlocks(isa: Isa) -> None:
    rig = Rig(isa)
    n = rig.machine.qpus * 2 + 1

    def program(q: Any) -> None:
        q.barrierid(q.syncb, sig=q.thrsw)
        q.nop()
        q.nop()
        q.end()

    with pytest.raises(EmuFault, match="threads can run"):
        rig.run(program, workgroups=(n, 1, 1), batches_per_supergroup=n, per_supergroup=16, batches=n)


@both
def test_endless_programs_stop_by_clocks_and_resume(isa: Isa) -> None:
    rig = Rig(isa)
    flag = rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[1]))
        with q.loop() as loop:
            move(q, q.tmua, r[1])
            q.nop(sig=q.ldtmu(r[2]))
            move(q, q.null, r[2], push="pushz")
            q.b(loop.start, cond="a0")
            q.nop()
            q.nop()
            q.nop()
        q.end()

    run = rig.start(program, [flag])
    assert not run.run(10_000)
    assert 10_000 <= run.clocks <= 20_000
    assert run.clocks == 4 * run.stats.instructions
    assert not run.run(10_000)
    assert run.clocks >= 20_000
    assert run.batches_done == 0
    rig.memory.words[flag // 4] = 1
    assert run.run(10_000)
    assert run.done
    assert run.batches_done == 1
    assert run.run()  # nothing is left to do


@both
def test_small_steps_give_the_same_result(isa: Isa) -> None:
    def once(clocks: int | None) -> tuple[bytes, int]:
        rig = Rig(isa)
        n = 10
        out, cell = rig.buffer(192 * n), rig.buffer(64)
        run = rig.start(take_numbers, [out, cell, 0xFFFFFF87], workgroups=(n, 1, 1), max_id=3)
        while not run.run(clocks):
            pass
        return bytes(rig.memory.view(out, 192 * n)), run.stats.instructions

    whole, stepped = once(None), once(40)
    assert whole[1] == stepped[1]
    assert whole[0] == stepped[0]


@both
def test_signals_stop_between_instructions(isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal
    import threading

    rig = Rig(isa)
    flag = rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[1]))
        with q.loop() as loop:
            move(q, q.tmua, r[1])
            q.nop(sig=q.ldtmu(r[2]))
            move(q, q.null, r[2], push="pushz")
            q.b(loop.start, cond="a0")
            q.nop()
            q.nop()
            q.nop()
        q.end()

    run = rig.start(program, [flag], workgroups=(4, 1, 1), per_supergroup=4)
    timer = threading.Timer(0.05, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run.run(400_000_000)
    timer.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    class Late(Exception):
        pass

    def late(*_: object) -> None:
        came.append(1)
        if len(came) == 3:
            raise Late

    came: list[int] = []
    before = signal.signal(signal.SIGALRM, late)  # a handler of the program: twice it returns, then it raises
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        with pytest.raises(Late):
            run.run(4_000_000_000)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert signal.getsignal(signal.SIGALRM) is late
    finally:
        signal.signal(signal.SIGALRM, before)
    rig.memory.words[flag // 4] = 1
    assert run.run(400_000)


def test_registers_that_make_no_sense() -> None:
    good = [1 << 16, 1 << 16, 1 << 16, 16 | 1 << 8, 1, 0x1000, 0x2000]
    Dispatch.from_cfg(good, exact_batches=True)
    for index, value in ((4, 0), (6, 0x2002), (0, -1), (0, 1 << 32)):
        cfg = list(good)
        cfg[index] = value
        with pytest.raises(EmuFault):
            Dispatch.from_cfg(cfg, exact_batches=True)
    with pytest.raises(EmuFault):
        Dispatch.from_cfg(good[:5], exact_batches=True)
    assert Dispatch.from_cfg([0, *good[1:]], exact_batches=True).workgroups == (65536, 1, 1)
