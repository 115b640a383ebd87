"""Tests of more control flow: loops, calls, uniforms, and many QPUs at once. Plain Python predicts every result."""

from __future__ import annotations

import numpy as np

from qpu.vc4.builder import Asm
from tests.emu.vc4.rig import Rig, addresses, store_rows

U = np.uint32
M = 0xFFFFFFFF


# -- one QPU


def test_nested_loops_over_three_counters() -> None:
    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.ldi(q.r0, 0)
        q.ldi(q.r1, 5)
        with q.loop() as outer:
            q.mov(q.r2, q.r1)
            with q.loop() as middle:
                q.ldi(q.r3, 3)
                with q.loop() as inner:
                    q.sub(q.r3, q.r3, 1, push="z")
                    q.b(inner.start, cond="anynz")
                    q.add(q.r0, q.r0, q.r1)
                    q.add(q.r0, q.r0, q.r2)
                    q.nop()
                q.sub(q.r2, q.r2, 1, push="z")
                q.b(middle.start, cond="anynz")
                q.nops(3)
            q.sub(q.r1, q.r1, 1, push="z")
            q.b(outer.start, cond="anynz")
            q.nops(3)
        store_rows(q, [q.r0], q.ra[0])
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    rig.run(program, [out])
    assert y.tolist() == [sum(3 * (i + j) for i in range(1, 6) for j in range(1, i + 1))] * 16


def test_leaving_a_loop_from_its_middle() -> None:
    """Linear search, lane by lane, ends when every lane has found its value or the table ends."""
    rng = np.random.default_rng(50)
    table = rng.integers(0, 20, 40, U)
    wanted = np.array([*range(14), 100, 200], U)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.ra[1], q.uniform)
        addresses(q, q.t0s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.rb[1], q.r4)
        q.ldi(q.r0, 0)  # index
        q.ldi(q.r1, -1)  # found at
        q.ldi(q.rb[2], 40)
        with q.loop() as loop:
            q.mov(q.t0s, q.ra[1])
            q.mov(q.r2, q.ra[1])
            q.add(q.ra[1], q.r2, 4)
            q.nop(sig=q.ldtmu0)
            q.xor(q.r3, q.r4, q.rb[1])
            q.mov(q.r2, q.r1)
            q.not_(q.r2, q.r2)  # 0 where nothing was found
            q.or_(q.null, q.r2, q.r3, push="z")
            q.mov(q.r1, q.r0, cond="ifz")
            q.add(q.null, q.r1, 1, push="z")
            q.b(loop.end, cond="allnz")
            q.add(q.r0, q.r0, 1)
            q.nops(2)
            q.sub(q.null, q.r0, q.rb[2], push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        store_rows(q, [q.r1, q.r0], q.ra[0])
        q.end()

    first = [int(np.flatnonzero(table == w)[0]) if (table == w).any() else M for w in wanted]
    rig = Rig()
    at, _ = rig.array(table)
    wants, _ = rig.array(wanted)
    out, y = rig.zeros((2, 16))
    rig.run(program, [out, at, wants])
    assert y[0].tolist() == first and y[1].tolist() == [40] * 16


def test_recursion_with_a_stack_in_the_vpm() -> None:
    """Fibonacci by calling itself: return addresses and arguments on a stack of VPM rows."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.ldi(q.ra[4], 0)  # stack pointer, rows
        q.ldi(q.ra[5], 0)  # result
        q.mov(q.ra[1], q.uniform)
        q.ldi(q.rb[0], 0x1A00)
        q.ldi(q.rb[1], 0x201A00)
        q.b("fib", link=q.ra[2])
        q.nops(3)
        store_rows(q, [q.ra[5]], q.ra[0], row=60)
        q.end()

        q.label("fib")
        q.sub(q.null, q.ra[1], 2, push="z")
        q.b("leaf", cond="alln")
        q.nops(3)
        q.mov(q.r0, q.ra[4])
        q.or_(q.vw_setup, q.r0, q.rb[0])
        q.mov(q.vpm, q.ra[2])
        q.mov(q.vpm, q.ra[1])
        q.add(q.ra[4], q.r0, 2)
        q.mov(q.r1, q.ra[1])
        q.sub(q.ra[1], q.r1, 1)
        q.b("fib", link=q.ra[2])
        q.nops(3)
        q.mov(q.r0, q.ra[4])
        q.sub(q.r0, q.r0, 2)
        q.or_(q.vr_setup, q.r0, q.rb[1])
        q.mov(q.ra[3], q.vpm)
        q.mov(q.r1, q.vpm)
        q.or_(q.vw_setup, q.r0, q.rb[0])
        q.mov(q.vpm, q.ra[3])
        q.sub(q.ra[1], q.r1, 2)
        q.b("fib", link=q.ra[2])
        q.nops(3)
        q.mov(q.r0, q.ra[4])
        q.sub(q.r0, q.r0, 2)
        q.mov(q.ra[4], q.r0)
        q.or_(q.vr_setup, q.r0, q.rb[1])
        q.mov(q.ra[2], q.vpm)
        q.mov(q.r1, q.vpm)
        q.nop()
        q.b(q.ra[2])
        q.nops(3)
        q.label("leaf")
        q.mov(q.r1, q.ra[5])
        q.add(q.ra[5], q.r1, q.ra[1])
        q.b(q.ra[2])
        q.nops(3)

    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    rig = Rig()
    out, y = rig.zeros(16)
    execution = rig.run(program, [out, 10])
    assert y.tolist() == [fib(10)] * 16
    assert execution.stats.branches > 300


def test_interpreter_of_a_byte_code() -> None:
    """Opcodes come as uniforms; each is an offset into a table of code that a relative branch adds."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.ldi(q.r0, 1)
        q.label("next")
        q.mov(q.r1, q.uniform)
        q.shl(q.r1, q.r1, 5)  # four instructions an opcode
        q.add(q.ra[2], q.r1, q.r1)
        q.nop()
        q.b("table", reg=q.ra[2])
        q.nops(3)
        q.label("table")
        for k in range(5):
            if k == 4:
                q.b("done")
                q.nops(7)
                continue
            [
                lambda: q.add(q.r0, q.r0, q.uniform),
                lambda: q.nop().mul24(q.r0, q.r0, q.uniform),
                lambda: q.xor(q.r0, q.r0, q.element_number),
                lambda: q.shl(q.r0, q.r0, 1),
            ][k]()
            q.b("next")
            q.nops(6)
        q.label("done")
        store_rows(q, [q.r0], q.ra[0])
        q.end()

    code = [0, 6, 1, 5, 2, 3, 0, 9, 2, 1, 3, 3, 4]
    rig = Rig()
    out, y = rig.zeros(16)
    rig.run(program, [out, *code])
    want = np.arange(16)
    value = (((1 + 6) * 5) ^ want) * 2 + 9
    value = ((value ^ want) * 3) * 2
    assert (y == value).all()


def test_early_out_of_a_loop_with_the_end_in_a_branch_slot() -> None:
    """Two exits: the program that meets the odd uniform first ends at once, without an interrupt."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.ldi(q.r0, 0)
        q.label("again")
        q.mov(q.r1, q.uniform)
        q.and_(q.null, q.r1, 1, push="z")
        q.b("odd", cond="anynz")
        q.nops(3)
        q.mov(q.null, q.r1, push="z")
        q.b("again", cond="anynz")
        q.add(q.r0, q.r0, q.r1)
        q.nops(2)
        q.mutex_acquire()
        store_rows(q, [q.r0], q.ra[0])
        q.mutex_release()
        q.end()
        q.label("odd")
        q.end(interrupt=False)

    rig = Rig()
    out, y = rig.zeros((3, 16))
    execution = rig.run(program, [out, 2, 4, 0], [out + 64, 2, 3, 0], [out + 128, 8, 0])
    assert y[:, 0].tolist() == [6, 0, 8]
    assert execution.host_interrupts == 2


def test_divergent_powers_with_square_and_multiply() -> None:
    """base**exponent modulo 2**24 per lane: exponents differ, the loop runs to the longest."""
    rng = np.random.default_rng(51)
    base, exponent = rng.integers(0, 1 << 12, 16, U), rng.integers(0, 1 << 10, 16, U)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        for d in (q.ra[1], q.ra[2]):
            addresses(q, q.t0s, q.uniform)
            q.nop(sig=q.ldtmu0)
            q.mov(d, q.r4)
        q.ldi(q.r0, 1)
        q.mov(q.r1, q.ra[1])
        q.mov(q.r2, q.ra[2])
        q.ldi(q.rb[0], 0xFFFFFF)
        with q.loop() as loop:
            q.and_(q.null, q.r2, 1, push="z")
            q.nop().mul24(q.r3, q.r0, q.r1)
            q.and_(q.r3, q.r3, q.rb[0])
            q.mov(q.r0, q.r3, cond="ifnz")
            q.nop().mul24(q.r1, q.r1, q.r1)
            q.and_(q.r1, q.r1, q.rb[0])
            q.shr(q.r2, q.r2, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        store_rows(q, [q.r0], q.ra[0])
        q.end()

    rig = Rig()
    b, _ = rig.array(base)
    e, _ = rig.array(exponent)
    out, y = rig.zeros(16)
    rig.run(program, [out, b, e])
    assert y.tolist() == [pow(int(x), int(n), 1 << 24) for x, n in zip(base, exponent, strict=True)]


def test_uniform_streams_as_a_list_of_commands() -> None:
    """The stream is re-addressed in a loop along a linked list of blocks: count, values, next block."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.ldi(q.r0, 0)
        q.label("block")
        q.mov(q.r1, q.uniform)
        with q.loop() as loop:
            q.sub(q.r1, q.r1, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.mov(q.r2, q.uniform)
            q.add(q.r0, q.r0, q.r2)
            q.nop()
        q.mov(q.r3, q.uniform)
        q.mov(q.uniforms_address, q.r3)
        q.mov(q.null, q.r3, push="z")
        q.b("block", cond="anynz")
        q.nops(3)
        store_rows(q, [q.r0], q.ra[0])
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    third = rig.uniforms([1, 1000, 0])
    second = rig.uniforms([4, 5, 6, 7, 8, third])
    first = rig.uniforms([out, 3, 100, 200, 300, second])
    rig.launch([(first, rig.program(program))])
    assert y.tolist() == [600 + 26 + 1000] * 16


# -- many QPUs


def test_histogram_under_the_mutex() -> None:
    """24 programs on 12 QPUs add their counts to one histogram of 16 bins, one lane a bin."""
    data = np.random.default_rng(52).integers(0, 16, (24, 16), U)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.t0s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        q.mov(q.r2, q.element_number)
        q.ldi(q.r1, 0)
        for _ in range(16):  # compare each value, going round, with the lane number
            q.sub(q.null, q.r0, q.r2, push="z")
            q.add(q.r1, q.r1, 1, cond="ifz")
            q.nop()
            q.rotate(q.r0, q.r0, 1)
        q.mutex_acquire()
        q.setup_dma_load(nrows=1, ncols=16, y=0)
        q.start_dma_load(q.ra[0])
        q.wait_dma_load()
        q.setup_vpm_read(1, y=0)
        q.add(q.r1, q.r1, q.vpm)
        store_rows(q, [q.r1], q.ra[0])
        q.mutex_release()
        q.end()

    rig = Rig()
    at, _ = rig.array(data)
    out, y = rig.zeros(16)
    execution = rig.run(program, *[[out, at + 64 * i] for i in range(24)])
    assert (y == np.bincount(data.ravel(), minlength=16)).all()
    assert execution.stats.threads == 24 and execution.host_interrupts == 24


def test_ring_of_twelve_by_semaphores() -> None:
    """A token is passed on: QPU i waits on semaphore i and raises i + 1; each adds its number to the VPM row."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.ra[1], q.uniform)  # logical number
        q.ldi(q.r3, 5)
        q.ldi(q.ra[2], 1)
        for k in range(12):
            q.mov(q.r0, q.ra[1])
            q.sub(q.null, q.r0, k, push="z")
            q.b(f"part{k}", cond="allz")
            q.nops(3)
        for k in range(12):
            q.label(f"part{k}")
            with q.loop() as loop:
                q.sema_down(k)
                q.setup_vpm_read(1, y=0)
                q.mov(q.r0, q.vpm)
                q.shl(q.r0, q.r0, 1)
                q.setup_vpm_write(y=0)
                q.add(q.vpm, q.r0, q.ra[1])
                q.sub(q.r3, q.r3, 1, push="z")
                q.b(loop.start, cond="anynz")
                q.sema_up((k + 1) % 12)
                q.nops(2)
            if k == 0:
                q.sema_down(0)
                q.setup_dma_store(nrows=1, ncols=16, y=0)
                q.setup_dma_store_stride(0)
                q.start_dma_store(q.ra[0])
                q.wait_dma_store()
            q.end(interrupt=k == 0)

    def start(q: Asm) -> None:
        q.setup_vpm_write(y=0)
        q.mov(q.vpm, q.element_number)
        q.setup_vpm_read(1, y=0)
        q.mov(q.r0, q.vpm)
        q.sema_up(0)
        q.end(interrupt=False)

    rig = Rig()
    out, y = rig.zeros(16)
    code, first = rig.program(program), rig.program(start)
    rig.launch([*[(rig.uniforms([out, i]), code) for i in range(12)][:11], (0, first), (rig.uniforms([out, 11]), code)])
    values = list(range(16))
    for step in range(60):
        values = [(2 * v + step % 12) & M for v in values]
    assert y.tolist() == values and rig.machine.semaphores == (0,) * 16


def test_reduction_tree_through_vpm_rows() -> None:
    """Eight QPUs sum 16 vectors each; partners add up in three rounds, one semaphore a round and pair."""
    data = np.random.default_rng(53).integers(0, 1 << 24, (8, 16, 16), U)

    def program(q: Asm, me: int) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.r0, q.uniform)
        q.ldi(q.r1, 0)
        q.ldi(q.r2, 64)
        for _ in range(16):
            q.mov(q.t0s, q.r0)
            q.add(q.r0, q.r0, q.r2, sig=q.ldtmu0)
            q.add(q.r1, q.r1, q.r4)
        for distance in (1, 2, 4):
            if me % (2 * distance) == 0:
                q.sema_down(me + distance)
                q.setup_vpm_read(1, y=me + distance)
                q.add(q.r1, q.r1, q.vpm)
            else:
                q.setup_vpm_write(y=me)
                q.mov(q.vpm, q.r1)
                q.setup_vpm_read(1, y=me)  # the row has arrived once it can be read back
                q.read(q.vpm)
                q.sema_up(me)
                break
        if me == 0:
            store_rows(q, [q.r1], q.ra[0], row=20)
        q.end(interrupt=me == 0)

    rig = Rig()
    at, _ = rig.array(data)
    out, y = rig.zeros(16)
    entries = [(rig.uniforms([out, at + 1024 * i]), rig.program(lambda q, i=i: program(q, i))) for i in range(8)]
    execution = rig.launch(entries)
    assert (y == data.sum(axis=(0, 1), dtype=U)).all() and execution.host_interrupts == 1


def test_work_queue_in_memory() -> None:
    """Twelve QPUs take items from a counter under the mutex until none is left; items cost different times."""
    n = 50

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)  # counter
        q.mov(q.ra[1], q.uniform)  # results
        q.ldi(q.rb[0], n)
        q.label("take")
        q.mutex_acquire()
        q.mov(q.t0s, q.ra[0])
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        q.add(q.r1, q.r0, 1)
        store_rows(q, [q.r1], q.ra[0])
        q.mutex_release()
        q.sub(q.null, q.r0, q.rb[0], push="z")
        q.b("done", cond="allnn")
        q.nops(3)
        q.mov(q.r1, q.r0)
        q.ldi(q.r2, 0)
        with q.loop() as loop:
            q.add(q.r2, q.r2, q.r1)
            q.sub(q.r1, q.r1, 1, push="z")
            q.b(loop.start, cond="anynn")
            q.nops(3)
        q.shl(q.r1, q.r0, 6)
        q.add(q.r1, q.r1, q.ra[1])
        q.mutex_acquire()
        store_rows(q, [q.r2], q.r1)
        q.mutex_release()
        q.b("take")
        q.nops(3)
        q.label("done")
        q.end()

    rig = Rig()
    counter, c = rig.zeros(16)
    out, y = rig.zeros((n, 16))
    execution = rig.run(program, *[[counter, out]] * 12)
    assert c[0] == n + 12
    assert y[:, 7].tolist() == [i * (i + 1) // 2 for i in range(n)]
    assert len(execution.stats.per_qpu) == 12


def test_twenty_four_queued_programs_with_state_of_their_own() -> None:
    """Registers of a program that took over a QPU do not come from its predecessor's results."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.r0, q.uniform)
        q.ldi(q.r1, 0)
        with q.loop() as loop:
            q.add(q.r1, q.r1, q.r0)
            q.sub(q.r0, q.r0, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        q.mutex_acquire()
        store_rows(q, [q.r1], q.ra[0])
        q.mutex_release()
        q.end()

    rig = Rig()
    out, y = rig.zeros((24, 16))
    lengths = [1 + (7 * i) % 24 for i in range(24)]
    execution = rig.run(program, *[[out + 64 * i, n] for i, n in enumerate(lengths)])
    assert y[:, 3].tolist() == [n * (n + 1) // 2 for n in lengths]
    assert execution.stats.threads == 24


def test_rows_of_life_on_twelve_qpus() -> None:
    """Conway's Life on a torus, 12 rows of 16 cells, 6 generations: rotations in a row, VPM and barriers between."""
    start = np.random.default_rng(54).integers(0, 2, (12, 16), U)

    def program(q: Asm, me: int) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.t0s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.ra[1], q.r4)

        def barrier(first: int) -> None:
            if me == 0:
                for _ in range(11):
                    q.sema_down(first)
                for _ in range(11):
                    q.sema_up(first + 1)
            else:
                q.sema_up(first)
                q.sema_down(first + 1)

        for _ in range(6):
            q.setup_vpm_write(y=me)
            q.mov(q.vpm, q.ra[1])
            q.setup_vpm_read(1, y=me)
            q.read(q.vpm)
            barrier(0)
            q.ldi(q.r2, 0)
            for row in ((me - 1) % 12, me, (me + 1) % 12):
                q.setup_vpm_read(1, y=row)
                q.mov(q.r0, q.vpm)
                q.nop()
                q.rotate(q.r1, q.r0, 1)
                q.add(q.r2, q.r2, q.r1)
                q.rotate(q.r1, q.r0, 15)
                q.add(q.r2, q.r2, q.r1)
                if row != me:
                    q.add(q.r2, q.r2, q.r0)
            q.mov(q.r1, q.ra[1])
            q.or_(q.r1, q.r1, q.r2)  # 3 for three neighbours, or two of a living cell
            q.sub(q.null, q.r1, 3, push="z")
            q.ldi(q.r0, 0)
            q.mov(q.r0, 1, cond="ifz")
            q.mov(q.ra[1], q.r0)
            barrier(2)
        q.mutex_acquire()
        store_rows(q, [q.ra[1]], q.ra[0], row=20)
        q.mutex_release()
        q.end()

    rig = Rig()
    at, _ = rig.array(start)
    out, y = rig.zeros((12, 16))
    entries = [
        (rig.uniforms([out + 64 * i, at + 64 * i]), rig.program(lambda q, i=i: program(q, i))) for i in range(12)
    ]
    rig.launch(entries)
    cells = start.astype(int)
    for _ in range(6):
        near = sum(np.roll(cells, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j)
        cells = ((cells | near) == 3).astype(int)
    assert (y == cells).all() and 0 < cells.sum() < 192
    assert rig.machine.semaphores == (0,) * 16


def test_thousands_of_rounds_on_all_qpus() -> None:
    """A linear congruential generator in every lane of 12 QPUs; long enough that hot code is translated."""
    rounds = 3_000

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.r0, q.uniform)
        q.add(q.r0, q.r0, q.element_number)
        q.ldi(q.r2, rounds)
        q.ldi(q.rb[0], 1013)
        q.ldi(q.rb[1], 0xFFFFFF)
        with q.loop() as loop:
            q.nop().mul24(q.r0, q.r0, q.rb[0])
            q.add(q.r0, q.r0, 11)
            q.sub(q.r2, q.r2, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.and_(q.r0, q.r0, q.rb[1])
            q.nops(2)
        q.mutex_acquire()
        store_rows(q, [q.r0], q.ra[0])
        q.mutex_release()
        q.end()

    rig = Rig()
    out, y = rig.zeros((12, 16))
    rig.run(program, *[[out + 64 * i, 1000 * i] for i in range(12)])
    state = [[1000 * i + e for e in range(16)] for i in range(12)]
    for _ in range(rounds):
        state = [[(x * 1013 + 11) & 0xFFFFFF for x in row] for row in state]
    assert y.tolist() == state


def test_host_interrupt_by_the_last_of_ten() -> None:
    """The py-videocore protocol: a semaphore as a lock, a counter of the finished, one interrupt by the master."""

    def program(q: Asm, master: bool) -> None:
        q.mov(q.ra[0], q.uniform)
        if master:
            q.setup_vpm_write(y=0)
            q.ldi(q.vpm, 0)
            q.sema_up(0)
        q.sema_down(0)
        q.setup_vpm_read(1, y=0)
        q.add(q.r0, q.vpm, 1)
        q.setup_vpm_write(y=0)
        q.mov(q.vpm, q.r0)
        q.setup_vpm_read(1, y=0)
        q.read(q.vpm)
        q.sema_up(0)
        q.sema_up(1)
        if master:
            for _ in range(10):
                q.sema_down(1)
            q.sema_down(0)
            q.setup_dma_store(nrows=1, ncols=16, y=0)
            q.setup_dma_store_stride(0)
            q.start_dma_store(q.ra[0])
            q.wait_dma_store()
        q.end(interrupt=master)

    rig = Rig()
    out, y = rig.zeros(16)
    one, all_others = (rig.program(lambda q, m=m: program(q, m)) for m in (True, False))
    execution = rig.launch([(rig.uniforms([out]), one if i == 9 else all_others) for i in range(10)])
    assert y.tolist() == [10] * 16 and execution.host_interrupts == 1 and execution.done
