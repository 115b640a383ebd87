"""Tests of several QPUs that synchronise, diverge and queue; plain Python predicts every result."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.vc4.builder import Asm
from tests.emu.vc4.rig import Rig, addresses, store_rows

U = np.uint32


def mailbox_add(q: Asm, row: int, amount: Any) -> None:
    """vpm[row] += amount, read and written by the QPU; r0 holds the new value."""
    q.setup_vpm_read(1, y=row)
    q.mov(q.r0, q.vpm)
    q.add(q.r0, q.r0, amount)
    q.setup_vpm_write(y=row)
    q.mov(q.vpm, q.r0)


def test_mutex_protected_counter() -> None:
    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.mov(q.r3, q.uniform)
        with q.loop() as loop:
            q.mutex_acquire()
            mailbox_add(q, 7, q.qpu_number)
            q.mutex_release()
            q.sub(q.r3, q.r3, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        q.sema_up(0)
        q.mov(q.null, q.qpu_number, push="z")
        q.b("end", cond="allnz")
        q.nops(3)
        for _ in range(12):
            q.sema_down(0)
        q.setup_vpm_read(1, y=7)
        q.mov(q.r1, q.vpm)
        store_rows(q, [q.r1], q.r2)
        q.label("end")
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    execution = rig.run(program, *[[out, 20 + i] for i in range(12)])
    assert y.tolist() == [sum(i * (20 + i) for i in range(12))] * 16
    assert rig.machine.semaphores == (0,) * 16
    assert execution.host_interrupts == 12


def test_semaphore_as_a_lock() -> None:
    """The master gives the first token; each QPU takes it, counts and gives it back; one interrupt at the end."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.mov(q.null, q.qpu_number, push="z")
        q.b("worker", cond="anynz")
        q.nops(3)
        q.ldi(q.r0, 0)
        q.setup_vpm_write(y=0)
        q.mov(q.vpm, q.r0)
        q.sema_up(0)
        q.label("worker")
        q.sema_down(0)
        mailbox_add(q, 0, 1)
        q.sema_up(0)
        q.sema_up(1)
        q.mov(q.null, q.qpu_number, push="z")
        q.b("end", cond="anynz")
        q.nops(3)
        for _ in range(10):
            q.sema_down(1)
        q.sema_down(0)
        q.setup_vpm_read(1, y=0)
        q.mov(q.r0, q.vpm)
        store_rows(q, [q.r0], q.r2)
        q.mov(q.host_interrupt, 1)
        q.label("end")
        q.end(interrupt=False)

    rig = Rig()
    out, y = rig.zeros(16)
    execution = rig.run(program, *[[out]] * 10)
    assert y[0] == 10
    assert execution.host_interrupts == 1
    assert rig.machine.semaphores == (0,) * 16


def test_semaphore_pipeline() -> None:
    """Eight stages joined by VPM rows; semaphore i says row i is full, 8 + i that it is free. 10 items go through."""

    def program(q: Asm, stage: int) -> None:
        q.mov(q.ra[0], q.uniform)
        q.ldi(q.r3, 10)
        q.ldi(q.r1, 0)
        if stage < 7:
            q.sema_up(8 + stage)
        with q.loop() as loop:
            if stage:
                q.sema_down(stage - 1)
                q.setup_vpm_read(1, y=stage - 1)
                q.mov(q.r0, q.vpm)
                q.sema_up(8 + stage - 1)
                q.add(q.r0, q.r0, stage)
            else:
                q.mov(q.r0, q.r3)
            if stage < 7:
                q.sema_down(8 + stage)
                q.setup_vpm_write(y=stage)
                q.mov(q.vpm, q.r0)
                q.sema_up(stage)
            else:
                q.shl(q.r1, q.r1, 2)
                q.add(q.r1, q.r1, q.r0)
            q.sub(q.r3, q.r3, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        if stage < 7:
            q.sema_down(8 + stage)
        else:
            store_rows(q, [q.r1], q.ra[0], row=20)
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    entries = [(rig.uniforms([out]), rig.program(lambda q, s=s: program(q, s))) for s in range(8)]
    rig.launch(entries)
    assert rig.machine.semaphores == (0,) * 16
    expected = 0
    for item in range(10, 0, -1):
        expected = (expected * 4 + item + sum(range(1, 8))) & 0xFFFFFFFF
    assert y.tolist() == [expected] * 16


def test_strict_hand_over_between_two_programs() -> None:
    """Two different programs, two semaphores: every item arrives once and in order."""

    def producer(q: Asm) -> None:
        q.ldi(q.r3, 20)
        with q.loop() as loop:
            q.sema_down(2)  # room
            q.setup_vpm_write(y=5)
            q.nop().mul24(q.vpm, q.r3, q.r3)
            q.sema_up(3)
            q.sub(q.r3, q.r3, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        q.end(interrupt=False)

    def consumer(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.r3, 20)
        q.ldi(q.r1, 0)
        q.sema_up(2)
        with q.loop() as loop:
            q.sema_down(3)
            q.setup_vpm_read(1, y=5)
            q.mov(q.r0, q.vpm)
            q.sema_up(2)
            q.shl(q.r1, q.r1, 1)
            q.add(q.r1, q.r1, q.r0)
            q.sub(q.r3, q.r3, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        q.sema_down(2)
        store_rows(q, [q.r1], q.r2)
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    rig.launch([(0, rig.program(producer)), (rig.uniforms([out]), rig.program(consumer))])
    expected = 0
    for k in range(20, 0, -1):
        expected = (expected * 2 + k * k) & 0xFFFFFFFF
    assert y[0] == expected


def test_master_and_slaves_barrier() -> None:
    """GPU_FFT style: slaves report on one semaphore and wait on another, three phases over shared VPM rows."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.r2, q.qpu_number)
        q.ldi(q.r1, 0x1A00)
        q.mov(q.r3, q.qpu_number)
        for phase in range(3):
            q.ldi(q.r1, 0x1A00)
            q.or_(q.vw_setup, q.r1, q.r2)
            q.mov(q.vpm, q.r3)
            q.mov(q.null, q.r2, push="z")
            q.b(f"slave{phase}", cond="anynz")
            q.nops(3)
            for _ in range(11):
                q.sema_down(0)
            for _ in range(11):
                q.sema_up(1)
            q.b(f"next{phase}")
            q.nops(3)
            q.label(f"slave{phase}")
            q.sema_up(0)
            q.sema_down(1)
            q.label(f"next{phase}")
            q.sub(q.r0, q.r2, 1, push="z")
            q.ldi(q.r0, 11, cond="ifn")
            q.ldi(q.r1, 0x101A00)
            q.or_(q.vr_setup, q.r1, q.r0)  # the row of the neighbour below
            q.add(q.r3, q.vpm, q.r2)
            # Nobody may overwrite its row before its neighbour has read it.
            q.mov(q.null, q.r2, push="z")
            q.b(f"slave{phase}b", cond="anynz")
            q.nops(3)
            for _ in range(11):
                q.sema_down(2)
            for _ in range(11):
                q.sema_up(3)
            q.b(f"next{phase}b")
            q.nops(3)
            q.label(f"slave{phase}b")
            q.sema_up(2)
            q.sema_down(3)
            q.label(f"next{phase}b")
        q.mutex_acquire()
        store_rows(q, [q.r3], q.ra[0], row=30)
        q.mutex_release()
        q.end()

    rig = Rig()
    out, y = rig.zeros((12, 16))
    execution = rig.run(program, *[[out + 64 * i] for i in range(12)])
    values = list(range(12))
    for _ in range(3):
        values = [values[i - 1] + i for i in range(12)]
    assert y[:, 9].tolist() == values
    assert rig.machine.semaphores == (0,) * 16
    assert execution.done


def test_thirty_programs_on_twelve_qpus() -> None:
    """More entries than QPUs: each takes a job number from its uniforms; work grows with it."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.mov(q.r3, q.uniform)
        q.mov(q.r1, 0)
        with q.loop() as loop:
            q.add(q.r1, q.r1, q.r3)
            q.sub(q.r3, q.r3, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        q.mutex_acquire()
        store_rows(q, [q.r1], q.r2)
        q.mutex_release()
        q.end()

    rig = Rig()
    out, y = rig.zeros((30, 16))
    execution = rig.run(program, *[[out + 64 * i, i + 1] for i in range(30)])
    assert y[:, 0].tolist() == [(i + 1) * (i + 2) // 2 for i in range(30)]
    assert execution.stats.threads == 30
    assert execution.batches_done == 30
    assert set(execution.stats.per_qpu) == set(range(12))
    assert sum(execution.stats.per_qpu.values()) == execution.stats.instructions


def test_four_different_programs_at_once() -> None:
    def make(n: int) -> Any:
        def program(q: Asm) -> None:
            q.mov(q.r2, q.uniform)
            q.ldi(q.r0, n)
            q.nops(7 * n)
            q.mutex_acquire()
            store_rows(q, [q.r0, q.qpu_number], q.r2)
            q.mutex_release()
            q.end()

        return program

    rig = Rig()
    out, y = rig.zeros((12, 2, 16))
    codes = [rig.program(make(n)) for n in range(4)]
    rig.launch([(rig.uniforms([out + 128 * i]), codes[i % 4]) for i in range(12)])
    assert y[:, :, 0].tolist() == [[i % 4, i] for i in range(12)]


def test_uniforms_are_re_addressed() -> None:
    """A loop goes through a table of uniform blocks by setting the pointer."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.mov(q.ra[0], q.uniform)
        q.mov(q.r0, 0)
        q.label("again")
        q.mov(q.unif_addr, q.ra[0])
        q.nops(2)
        q.add(q.r0, q.r0, q.uniform)
        q.mov(q.ra[0], q.uniform, push="z")
        q.b("again", cond="anynz")
        q.nops(3)
        store_rows(q, [q.r0], q.r2)
        q.end()

    rig = Rig()
    blocks = [[3, 0], [50, 0], [700, 0]]
    third = rig.uniforms(blocks[2])
    second = rig.uniforms([blocks[1][0], third])
    first = rig.uniforms([blocks[0][0], second])
    out, y = rig.zeros(16)
    rig.run(program, [out, first])
    assert y[7] == 753


def test_collatz_lengths_diverge_across_qpus_and_lanes() -> None:
    starts = np.arange(1, 193, dtype=U)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.add(q.r0, q.element_number, q.uniform)
        q.mov(q.r1, 0)
        q.label("loop")
        q.sub(q.null, q.r0, 1, push="z")
        q.b("done", cond="allz")
        q.nops(3)
        q.add(q.r1, q.r1, 1, cond="ifnz")
        q.ldi(q.r3, 3)
        q.nop().mul24(q.r2, q.r0, q.r3)
        q.add(q.r2, q.r2, 1)
        q.mov(q.r3, q.r0, cond="ifz")
        q.mov(q.r3, 0, cond="ifnz")
        q.and_(q.null, q.r0, 1, push="z")
        q.shr(q.r2, q.r0, 1, cond="ifz")
        q.sub(q.null, q.r3, 1, push="z")  # lanes that had finished stay at 1
        q.mov(q.r0, q.r2, cond="ifnz")
        q.b("loop")
        q.nops(3)
        q.label("done")
        q.mutex_acquire()
        store_rows(q, [q.r1], q.ra[0])
        q.mutex_release()
        q.end()

    def length(n: int) -> int:
        steps = 0
        while n != 1:
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            steps += 1
        return steps

    rig = Rig()
    out, y = rig.zeros((12, 16))
    execution = rig.run(program, *[[out + 64 * i, 16 * i + 1] for i in range(12)])
    assert y.reshape(-1).tolist() == [length(int(n)) for n in starts]
    assert execution.stats.clocks >= 4 * max(execution.stats.per_qpu.values())


def test_greatest_common_divisors_lane_by_lane() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.integers(1, 5000, (2, 12, 16)).astype(U)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.t0s, q.uniform)
        addresses(q, q.t1s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        q.nop(sig=q.ldtmu1)
        q.mov(q.r1, q.r4)
        q.label("loop")
        q.max(q.r2, q.r0, q.r1)
        q.min(q.r1, q.r0, q.r1)
        q.sub(q.r0, q.r2, q.r1, push="z")
        q.b("loop", cond="anynz")
        q.mov(q.r0, q.r1, cond="ifz")
        q.nops(2)
        q.mutex_acquire()
        store_rows(q, [q.r1], q.ra[0])
        q.mutex_release()
        q.end()

    rig = Rig()
    ax, _ = rig.array(a)
    bx, _ = rig.array(b)
    out, y = rig.zeros((12, 16))
    rig.run(program, *[[out + 64 * i, ax + 64 * i, bx + 64 * i] for i in range(12)])
    assert (y == np.gcd(a, b)).all()


def test_only_the_master_interrupts() -> None:
    """Every QPU writes its uniform to the interrupt register; zero does nothing."""

    def program(q: Asm) -> None:
        q.mov(q.host_interrupt, q.uniform)
        q.end(interrupt=False)

    execution = Rig().run(program, *[[int(i == 0)] for i in range(12)])
    assert execution.host_interrupts == 1


def test_conditional_host_interrupt() -> None:
    def program(q: Asm) -> None:
        q.mov(q.null, q.qpu_number, push="z")
        q.mov(q.host_interrupt, 1, cond="ifz")
        q.end(interrupt=False)

    assert Rig().run(program, *[[]] * 5).host_interrupts == 1
