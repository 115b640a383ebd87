"""Tests of launches: order, time, resuming, interruption, statistics, trace, several machines."""

from __future__ import annotations

import itertools
import pickle
import signal
import threading
from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.emu.engine.trace import Trace
from qpu.errors import EmuFault
from qpu.vc4.builder import Asm
from tests.emu.vc4.rig import Rig, store_rows


def contended(q: Asm) -> None:
    """Diverging loops with a mutex and a shared VPM row: the order of QPUs shows in the result."""
    q.mov(q.ra[0], q.uniform)
    q.mov(q.r3, q.uniform)
    with q.loop() as loop:
        q.mov(q.r2, q.r3)
        with q.loop() as inner:
            q.sub(q.r2, q.r2, 1, push="z")
            q.b(inner.start, cond="anynz")
            q.nops(3)
        q.mutex_acquire()
        q.setup_vpm_read(1, y=9)
        q.shl(q.r0, q.vpm, 1)
        q.add(q.r0, q.r0, q.qpu_number)
        q.setup_vpm_write(y=9)
        q.mov(q.vpm, q.r0)
        q.mutex_release()
        q.sub(q.r3, q.r3, 1, push="z")
        q.b(loop.start, cond="anynz")
        q.nops(3)
    q.mutex_acquire()
    store_rows(q, [q.r0], q.ra[0])
    q.mutex_release()
    q.end()


def start(rig: Rig, n: int = 12) -> tuple[Any, Any]:
    out, y = rig.zeros((n, 16))
    code = rig.program(contended)
    return rig.machine.launch([(rig.uniforms([out + 64 * i, 3 + i % 5]), code) for i in range(n)]), y


def test_two_runs_are_identical_and_slicing_changes_nothing() -> None:
    results = []
    for clocks in (None, None, 1, 400, 100_000):
        rig = Rig(trace=Trace(1_000_000, registers=False))
        execution, y = start(rig)
        while not execution.run(clocks):
            assert clocks is not None
        assert rig.machine.trace is not None
        stats = execution.stats
        stats.execute_s = 0.0
        results.append((y.tolist(), rig.machine.trace.text, stats))
    assert all(r == results[0] for r in results[1:])
    assert len(results[0][1]) > 1000


def test_time_advances_in_slices() -> None:
    rig = Rig()
    execution, _ = start(rig)
    seen = [execution.clocks]
    while not execution.run(500):
        assert execution.clocks >= seen[-1] + 500
        assert execution.clocks <= seen[-1] + 500 + 3 * 4096
        seen.append(execution.clocks)
    assert len(seen) > 1
    assert execution.done
    assert execution.run(10)
    assert execution.stats.clocks == execution.clocks


def test_endless_loop_can_be_watched() -> None:
    def endless(q: Asm) -> None:
        q.label("here")
        q.b("here")
        q.nops(3)
        q.end()

    rig = Rig()
    execution = rig.machine.launch([(0, rig.program(endless))] * 2)
    for _ in range(3):
        assert not execution.run(20_000)
    assert execution.batches_done == 0
    assert 60_000 <= execution.clocks < 80_000
    assert execution.stuck
    assert not execution.run(400_000_000)  # no work for a state that repeats
    assert 400_060_000 <= execution.clocks < 400_080_000
    with pytest.raises(EmuFault, match="endless-loop"):
        execution.run()


@pytest.mark.parametrize("kind", ["memory", "counter", "semaphore"])
def test_loops_that_wait_for_something_are_not_given_up(kind: str) -> None:
    """A flag in memory that the host sets, a long count, another QPU's semaphore."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.r0, 9000)
        q.label("again")
        if kind == "memory":
            q.mov(q.t0s, q.r2)
            q.nop(sig=q.ldtmu0)
            q.mov(q.null, q.r4, push="z")
            q.b("again", cond="allz")
        else:
            q.sub(q.r0, q.r0, 1, push="z")
            q.b("again", cond="anynz")
        q.nops(3)
        if kind == "semaphore":
            q.sema_up(0)
        q.end()

    def waiter(q: Asm) -> None:
        q.sema_down(0)
        q.end()

    rig = Rig()
    at, flag = rig.zeros(16)
    entries = [(rig.uniforms([at]), rig.program(program))]
    if kind == "semaphore":
        entries.append((0, rig.program(waiter)))
    execution = rig.machine.launch(entries)
    assert not execution.run(100_000)
    assert not execution.stuck
    flag[:] = 1
    assert execution.run()


def test_signals_pass_and_the_run_can_be_resumed(engine: str) -> None:
    turns = 400_000 if engine == "compiled" else 8_000  # of the loop: many time slices of the scheduler

    def long(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.r0, turns)
        q.mov(q.r1, 0)
        with q.loop() as loop:
            q.add(q.r1, q.r1, 1)
            q.sub(q.r0, q.r0, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        store_rows(q, [q.r1], q.r2)
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    execution = rig.machine.launch([(rig.uniforms([out]), rig.program(long))])
    at: dict[int, int] = {
        2: signal.SIGINT,
        4: signal.SIGALRM,
        6: signal.SIGALRM,
    }  # in order of time slices, independent of the host's time
    begin, begun = execution._next_slice, itertools.count(1)

    def next_slice() -> None:
        begin()
        if (number := at.get(next(begun))) is not None:
            signal.raise_signal(number)

    execution._next_slice = next_slice
    with pytest.raises(KeyboardInterrupt):
        execution.run()
    assert not execution.done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert 0 < execution.stats.instructions < 6 * turns

    class Late(Exception):
        pass

    def late(*_: object) -> None:
        came.append(1)
        if len(came) == 2:
            raise Late

    came: list[int] = []
    before = signal.signal(signal.SIGALRM, late)  # a handler of the program: once it returns, then it raises
    try:
        with pytest.raises(Late):
            execution.run()
        assert signal.getsignal(signal.SIGALRM) is late
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not execution.done
    assert execution.run()
    assert y.tolist() == [turns] * 16


def test_runs_outside_the_main_thread() -> None:
    rig = Rig()
    execution, y = start(rig)
    thread = threading.Thread(target=execution.run)
    thread.start()
    thread.join()
    assert execution.done
    again = Rig()
    other, z = start(again)
    other.run()
    assert (y == z).all()


def test_statistics_are_exact() -> None:
    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.mov(q.t0s, q.uniform)
        q.ldi(q.r0, 1.0)
        q.nop(sig=q.ldtmu0)
        for _ in range(3):
            q.fadd(q.r0, q.r0, q.r0).fmul(q.r1, q.r0, q.r0)
        q.fsub(q.r0, q.r0, 1.0)
        q.nop().v8min(q.r1, q.r0, q.r0)
        q.mov(q.sfu_exp2, q.r0)
        q.b("on")
        q.nops(3)
        q.label("on")
        q.setup_vpm_write()
        q.mov(q.vpm, q.r0)
        q.setup_dma_store(nrows=1, ncols=8)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.r2)
        q.end()

    rig = Rig()
    out, _ = rig.zeros(16)
    code = rig.program(program)
    s = rig.launch([(rig.uniforms([out, out]), code)] * 5).stats
    assert s.isa is Isa.VC4
    assert s.instructions == 5 * 23
    assert s.per_qpu == dict.fromkeys(range(5), 23)
    assert s.add_ops == 5 * 10
    assert s.mul_ops == 5 * 4
    assert (s.fadds, s.fmuls) == (5 * 4, 5 * 3)
    assert s.float_share == (20 + 15) / (2 * 115)
    assert s.clocks == 4 * 23
    assert (s.tmu_requests, s.tmu_read_bytes) == (5, 5 * 64)
    assert s.uniform_bytes == 5 * 8
    assert (s.vpm_read_bytes, s.vpm_write_bytes, s.dma_write_bytes) == (0, 5 * 64, 5 * 32)
    assert (s.sfu_ops, s.branches, s.thread_switches, s.threads) == (5, 5, 0, 5)
    assert s.execute_s > 0


def test_clocks_of_waiting_qpus_follow_who_lets_them_go() -> None:
    def late(q: Asm) -> None:
        q.nops(100)
        q.sema_up(4)
        q.end(interrupt=False)

    def early(q: Asm) -> None:
        q.sema_down(4)
        q.end(interrupt=False)

    rig = Rig()
    execution = rig.launch([(0, rig.program(early)), (0, rig.program(late))])
    assert execution.stats.per_qpu == {0: 4, 1: 104}
    assert execution.stats.clocks == 4 * 104
    assert execution._qpus[0].clock == 4 * 104  # 100 nops waited for, then 4 instructions


@pytest.mark.parametrize("lock", ["mutex", "semaphore"])
def test_a_lock_goes_round(lock: str) -> None:
    """A QPU that releases a lock does not get it again before the others that wait."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.r3, 8)
        with q.loop() as loop:
            if lock == "mutex":
                q.mutex_acquire()
            else:
                q.sema_down(0)
            q.setup_vpm_read(1)
            q.shl(q.r0, q.vpm, 1)
            q.add(q.r0, q.r0, q.qpu_number)
            q.setup_vpm_write()
            q.mov(q.vpm, q.r0)
            if lock == "mutex":
                q.mutex_release()
            else:
                q.sema_up(0)
            q.sub(q.r3, q.r3, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        q.end()

    rig = Rig()
    rig.machine.sync.counters[0] = 1
    rig.run(program, [0], [0])
    assert rig.machine.vpm.words[0] == 0b0101010101010101


def test_semaphores_and_vpm_persist_across_launches_the_mutex_does_not() -> None:
    def first(q: Asm) -> None:
        q.sema_up(3)
        q.setup_vpm_write(y=50)
        q.mov(q.vpm, 9)
        q.mutex_acquire()
        q.end()

    def second(q: Asm) -> None:
        q.sema_down(3)
        q.mutex_acquire()
        q.mutex_release()
        q.setup_vpm_read(1, y=50)
        q.mov(q.r0, q.vpm)
        store_rows(q, [q.r0], q.uniform)
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    rig.run(first, [])
    assert rig.machine.semaphores[3] == 1
    rig.run(second, [out])
    assert y[0] == 9
    assert rig.machine.semaphores == (0,) * 16
    rig.machine.sync.counters[2] = 3
    rig.machine.reset()
    assert rig.machine.semaphores == (0,) * 16
    assert not rig.machine.vpm.words.any()


def test_two_machines_do_not_disturb_each_other() -> None:
    one, two = Rig(), Rig()
    a, y = start(one)
    b, z = start(two)
    while not (a.done and b.done):
        a.run(1000)
        b.run(700)
    assert (y == z).all()


def test_code_is_fetched_per_launch() -> None:
    """A program that is overwritten between launches runs anew."""
    rig = Rig()
    out, y = rig.zeros(16)

    def program(q: Asm, n: int) -> None:
        q.ldi(q.r0, n)
        q.mov(q.r2, q.uniform)
        store_rows(q, [q.r0], q.r2)
        q.end()

    for n in (100, 200):
        rig._code_at = rig.code.address
        rig.run(lambda q, n=n: program(q, n), [out])
        assert y[0] == n


def test_trace_records_register_changes() -> None:
    trace = Trace(qpus={1}, first=1, last=4)
    rig = Rig(trace=trace)

    def program(q: Asm) -> None:
        q.mov(q.r0, q.element_number)
        q.ldi(q.ra[3], 7)
        q.mov(q.rb[4], q.qpu_number).fmul(q.r1, q.r0, q.r0)
        q.mov(q.sfu_recip, 1.0)
        q.nops(2)
        q.mov(q.r2, q.r4)
        q.end()

    rig.run(program, *[[]] * 3)
    entries = list(trace)
    assert [e.index for e in entries] == [1, 2, 3, 4]
    assert {e.qpu for e in entries} == {1}
    assert entries[0].changes == {"ra3": (7,)}
    assert entries[1].changes["rb4"] == (1,)
    assert entries[1].changes["r1"] == (0,)
    assert [e.step for e in entries] == [1, 2, 3, 4]
    assert "ldi" in entries[0].text or "ra3" in entries[0].text
    assert trace.json_lines.count("\n") == 3
    whole = Trace()
    rig.machine.trace = whole
    rig.run(program, *[[]] * 3)
    landing = [e for e in whole if "r4" in e.changes]
    assert [e.index for e in landing] == [5, 5, 5]  # the second instruction after the SFU write
    assert landing[0].changes["r4"] == (0x3F800000,)


def test_faults_survive_pickling() -> None:
    rig = Rig()

    def program(q: Asm) -> None:
        q.nop(sig=q.ldtmu0)
        q.end()

    with pytest.raises(EmuFault) as caught:
        rig.run(program, [], check=False)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.rule, copy.place) == (caught.value.rule, caught.value.place)


def test_no_entries_is_done_at_once() -> None:
    execution = Rig().machine.launch([])
    assert execution.done
    assert execution.run()


def test_diverged_groups_meet_again() -> None:
    """After a mutex section the QPUs execute as one group again: the number of groups stays small."""
    rig = Rig()
    calls: list[int] = []
    execution, _ = start(rig)
    run_group = execution._run_group

    def counted(g: Any, stop: Any) -> None:
        calls.append(g.n)
        run_group(g, stop)

    execution._run_group = counted
    execution.run()
    if Rig.engine == "reference":  # the other one takes and releases the mutex in native code
        assert max(calls) == 12
    work = sum(execution.stats.per_qpu.values())
    assert len(calls) < work / 5


def test_uniform_pointer_alias_and_alignment() -> None:
    rig = Rig()
    out, y = rig.zeros(16)

    def program(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        store_rows(q, [q.r0], q.uniform)
        q.end()

    uniforms = rig.uniforms([55, out ^ 0x80000000])
    rig.launch([(uniforms | 0xC0000000, rig.program(program) | 0x80000000)])
    assert np.all(y == 55)
