"""Tests of branches, uniform streams, thread switches and ends of programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.v3d.asm import assemble
from tests.emu.v3d.idioms import LANE, jump, lanes_of, program, rows_of, take
from tests.emu.v3d.rig import Rig, move, payload, store_lanes, word


@program()
@pytest.mark.parametrize(
    ("cond", "value", "taken"),
    [
        ("a0", lambda i: i == 0, True),
        ("a0", lambda i: i == 1, False),
        ("na0", lambda i: i == 0, False),
        ("na0", lambda i: i == 1, True),
        ("alla", lambda i: i >= 0, True),
        ("alla", lambda i: i < 15, False),
        ("anyna", lambda i: i < 15, True),
        ("anyna", lambda i: i >= 0, False),
        ("anya", lambda i: i == 9, True),
        ("anya", lambda i: i > 20, False),
        ("allna", lambda i: i > 20, True),
        ("allna", lambda i: i == 9, False),
        (None, lambda i: i > 20, True),
    ],
)
def test_branch_conditions(isa: Isa, cond: str | None, value: Any, taken: bool) -> None:
    rig = Rig(isa)
    data = rig.buffer(np.where(value(LANE), 0, 7).astype(np.uint32))

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[2])
        q.eidx(r[3])
        q.shl(r[3], r[3], 2)
        q.add(r[3], r[3], r[2])
        move(q, q.tmua, r[3])
        q.nop(sig=q.ldtmu(r[4]))
        move(q, r[5], 0)
        move(q, q.null, r[4], push="pushz")  # A where the condition holds; the next instruction sees it
        q.b("there", cond=cond)
        q.add(r[5], r[5], 1)  # three delay slots are always executed
        q.add(r[5], r[5], 1)
        q.add(r[5], r[5], 1)
        q.add(r[5], r[5], 8)  # only when not taken
        q.label("there")
        return r[5]

    assert (lanes_of(rig, body, (data,)) == (3 if taken else 11)).all()


@program()
def test_absolute_and_register_branches(isa: Isa) -> None:
    rig = Rig(isa)
    out = rig.buffer(64)
    code = rig._next  # the code buffer comes next

    def program(q: Any) -> None:
        r = q.rf
        take(q, r[1])
        take(q, r[2])
        move(q, r[3], 1)
        q.b(q.absolute(code + 8 * 9))  # over the next add
        for _ in range(3):
            q.nop()
        q.add(r[3], r[3], 15)
        q.nop()
        q.b(r[2])
        for _ in range(3):
            q.nop()
        q.add(r[3], r[3], 14)
        assert len(q) == 14
        store_lanes(q, r[3], r[1], r[9])
        q.end()

    # rf2 differs in lanes other than 0 only in what must be ignored
    program_start = code
    rig.run(program, [out, program_start + 8 * 14])
    assert (rig.u32(out, 16) == 1).all()


@program()
def test_call_and_return_by_link(isa: Isa) -> None:
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        move(q, r[5], 1)
        for _ in range(3):
            q.b("double", link=True)
            q.nop()
            q.nop()
            q.nop()
        q.lr(r[6])
        q.b("out")
        q.nop()
        q.nop()
        q.nop()
        q.label("double")
        q.add(r[5], r[5], r[5])
        q.b(q.lri)
        q.nop()
        q.nop()
        q.nop()
        q.label("out")
        return r[5]

    assert (lanes_of(rig, body) == 8).all()


@program()
def test_loop_sums_with_carry_flags(isa: Isa) -> None:
    """64-bit addition by carry."""
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        move(q, r[2], 15)
        move(q, r[3], 0)
        move(q, r[4], 0)
        take(q, r[5])
        with q.loop() as loop:
            q.add(r[3], r[3], r[5], push="pushc")
            q.add(r[4], r[4], 1, cond="ifa")
            q.sub(r[2], r[2], 1, push="pushz")
            q.b(loop.start, cond="anyna")
            q.nop()
            q.nop()
            q.nop()
        return r[4]

    step = 0x70000000
    got = lanes_of(rig, body, (step,))
    assert (got == (15 * step) >> 32).all()


@program()
def test_divergent_loops_between_threads(isa: Isa) -> None:
    """Every thread runs its own number of rounds, parts with the others and meets them again."""
    rig = Rig(isa)
    n = 12
    out = rig.buffer(64 * n)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[2], payload(q), -16)
        q.shr(r[2], r[2], -16)  # workgroup x
        take(q, r[1])
        q.shl(r[3], r[2], 6)
        q.add(r[1], r[1], r[3])
        q.add(r[4], r[2], 1)
        move(q, r[5], 0)
        with q.loop() as loop:
            q.and_(q.null, r[4], 1, push="pushz")
            q.b("even", cond="a0")
            q.nop()
            q.nop()
            q.nop()
            q.add(r[5], r[5], 7)
            q.label("even")
            q.add(r[5], r[5], 1)
            q.sub(r[4], r[4], 1, push="pushz")
            q.b(loop.start, cond="na0")
            q.nop()
            q.nop()
            q.nop()
        store_lanes(q, r[5], r[1], r[9])
        q.end()

    rig.run(program, [out], workgroups=(n, 1, 1), per_supergroup=n)
    want = [sum(1 + 7 * (k % 2) for k in range(1, i + 2)) for i in range(n)]
    assert (rig.u32(out, 16 * n).reshape(n, 16) == np.array(want)[:, None]).all()


@program()
def test_uniform_stream_branches(isa: Isa) -> None:
    """Relative, absolute and register re-addressing; the relative case as measured: word 1 holding 8 -> word 4."""
    rig = Rig(isa)
    out = rig.buffer(64)
    side = rig.buffer(np.array([0, 111, 222, 333], np.uint32))
    stream = [out, 8, 0xBAD, 0xBAD, 44, side + 4]

    def program(q: Any) -> None:
        r = q.rf
        take(q, r[1])
        q.b(0, unif="rel")
        q.nop()
        q.nop()
        q.nop()
        take(q, r[2])
        q.b(0, unif="abs")
        q.nop()
        q.nop()
        q.nop()
        take(q, r[3])
        q.add(r[2], r[2], r[3])
        store_lanes(q, r[2], r[1], r[9])
        q.end()

    rig.run(program, stream)
    assert (rig.u32(out, 16) == 44 + 111).all()


@program()
def test_uniform_stream_from_a_register(isa: Isa) -> None:
    rig = Rig(isa)
    side = rig.buffer(np.array([0, 5, 7, 9], np.uint32))

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[2])  # side
        q.eidx(r[3])
        q.shl(r[3], r[3], 2)
        q.add(r[3], r[3], r[2])  # lane 1: side + 4, whose low bits are dropped
        q.b(0, unif=r[3])
        q.nop()
        q.nop()
        q.nop()
        take(q, r[4])
        take(q, r[5])
        take(q, r[6])
        q.add(r[5], r[5], r[4])
        q.add(r[5], r[5], r[6])
        return r[5]

    assert (lanes_of(rig, body, (side,)) == 12).all()


@program()
def test_untaken_branch_consumes_its_uniform(isa: Isa) -> None:
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        q.eidx(r[2])
        q.add(q.null, r[2], 1, push="pushz")  # nowhere zero
        q.b(0, cond="anya", unif="abs")
        q.nop()
        q.nop()
        q.nop()
        take(q, r[3])
        return r[3]

    assert (lanes_of(rig, body, (0xDEADBEE0, 77)) == 77).all()


@program()
def test_unifa_and_uniforms_alternate(isa: Isa) -> None:
    rig = Rig(isa)
    side = rig.buffer(np.arange(100, 110, dtype=np.uint32))

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[2])
        move(q, q.unifa, r[2])
        q.nop()
        q.nop()
        q.nop()
        q.nop(sig=q.ldunifarf(r[3]))
        q.nop(sig=q.ldunifrf(r[4]))
        q.nop(sig=q.ldunifa)
        move(q, r[5], word(q), sig=q.ldunif)
        q.add(r[6], r[5], word(q))
        q.add(r[6], r[6], r[3])
        q.add(r[6], r[6], r[4])
        return r[6]

    assert (lanes_of(rig, body, (side, 1000, 20000)) == 100 + 1000 + 101 + 20000).all()


@program()
def test_uniforms_see_memory_as_it_was_at_the_start(isa: Isa) -> None:
    """A word stored in the same program reads back through the TMU, but not as a uniform (asserted by device tests)."""
    rig = Rig(isa)
    cell = rig.buffer(np.full(1024, 5, np.uint32))

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[2])
        store_lanes(q, r[2], r[2], r[9])
        q.sub(q.unifa, r[2], 0)
        move(q, q.tmua, r[2])
        q.nop(sig=q.ldtmu(r[3]))  # the new value
        q.nop()
        q.nop(sig=q.ldunifarf(r[4]))  # the old one
        q.sub(r[5], r[3], r[2])
        q.add(r[5], r[5], r[4])
        return r[5]

    assert (lanes_of(rig, body, (cell,)) == 5).all()


@program()
def test_rtop_does_not_survive_a_switch(isa: Isa) -> None:
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[2])
        q.nop().multop(q.null, r[2], r[2])
        q.nop(sig=q.thrsw)
        q.nop()
        q.nop()
        q.nop().umul24(r[4], r[2], r[2])
        return r[4]

    assert (lanes_of(rig, body, (0x03000005,)) == 25).all()


@program()
def test_per_lane_loop_ignores_dead_lanes(isa: Isa) -> None:
    """msfign p: lanes without samples do not keep a loop alive."""
    rig = Rig(isa)
    out = rig.buffer(64 * 2)

    def program(q: Any) -> None:
        r = q.rf
        take(q, r[1])
        take(q, r[4])
        q.shr(r[3], r[2], r[4])
        q.msf(r[5])
        move(q, q.null, r[5], push="pushz")  # A: dead lanes
        move(q, r[6], 0)
        move(q, r[6], -1, cond="ifa")  # would loop for ever in dead lanes
        with q.loop() as loop:
            q.sub(q.null, r[6], 3, push="pushz")
            q.add(r[6], r[6], 1, cond="ifna")
            q.b(loop.start, cond="anyna", msfign="p")
            q.nop()
            q.nop()
            q.nop()
        q.shl(r[5], r[3], 2)
        q.add(r[5], r[5], r[1])
        move(q, q.tmud, r[6])
        move(q, q.tmua, r[5])
        q.end()

    rig.run(program, [out, 26], size=20)
    assert (rig.u32(out, 20) == 3).all()


@program()
def test_switch_signals_at_distance_two(isa: Isa) -> None:
    """A second thrsw in the second slot is one more switch (works on hardware, though the validator rejects it)."""
    rig = Rig(isa)
    out = rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        take(q, r[1])
        move(q, r[2], 1)
        move(q, r[3], 1)
        q.add(r[2], r[2], r[3], sig=q.thrsw)
        q.add(r[2], r[2], 1)
        q.add(r[2], r[2], r[3], sig=q.thrsw)
        q.add(r[2], r[2], 1)
        q.add(r[2], r[2], 1)
        store_lanes(q, r[2], r[1], r[9])
        q.end()

    run = rig.run(program, [out], check=False)
    assert (rig.u32(out, 16) == 6).all()
    assert run.stats.thread_switches == 3


@program()
def test_single_segment_ends_at_the_first_switch(isa: Isa) -> None:
    rig = Rig(isa)
    out = rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        take(q, r[1])
        q.eidx(r[2])
        q.shl(r[3], r[2], 2)
        q.add(r[3], r[3], r[1])
        move(q, q.tmud, r[2])
        q.nop(sig=q.thrsw)
        move(q, q.tmua, r[3])  # the delay slots still run
        q.nop()
        q.raw(0)  # never reached

    run = rig.run(program, [out], single=True, check=False)
    assert (rig.u32(out, 16) == LANE).all()
    assert run.stats.thread_switches == 0


@program(Isa.V3D42)
def test_accumulators_survive_alone_but_not_beside_another_thread(isa: Isa) -> None:
    """r0..r5 are shared by the threads of a QPU (4.2): kept over a switch only when no other thread ran."""
    for n, kept in ((8, True), (16, False)):
        rig = Rig(Isa.V3D42)
        out = rig.buffer(64 * n)

        def program(q: Any) -> None:
            q.shl(q.rf[3], payload(q), -16)
            q.shr(q.rf[3], q.rf[3], -16)
            q.nop(sig=q.ldunifrf(q.rf[1]))
            q.shl(q.rf[4], q.rf[3], 6)
            q.add(q.rf[1], q.rf[1], q.rf[4])
            q.add(q.r0, q.rf[3], 5)
            q.nop(sig=q.thrsw)
            q.nop()
            q.nop()
            store_lanes(q, q.r0, q.rf[1], q.rf[9])
            q.end()

        rig.run(program, [out], workgroups=(n, 1, 1), per_supergroup=n)
        got = rig.u32(out, 16 * n).reshape(n, 16)
        same = (got == (np.arange(n) + 5)[:, None]).all(axis=1)
        assert same.all() if kept else not same.any()


def far_function(q: Any) -> None:
    """Called with a value in rf20; returns to the link register."""
    q.add(q.rf[20], q.rf[20], q.rf[20])
    jump(q, q.lri)


@program()
def test_code_in_front_of_the_program(isa: Isa, engine: str) -> None:
    """One buffer holds a function and after it the program that calls it, as in drivers with one code area."""
    rig = Rig(isa)
    function = assemble(isa, far_function, check=False).code
    out = rig.buffer(64)
    at = rig._next  # address of the code

    def whole(q: Any) -> None:
        r = q.rf
        take(q, r[1], r[5])
        move(q, r[20], 3)
        jump(q, q.absolute(at), link=True)  # by its address
        jump(q, r[5], link=True)  # by a register
        store_lanes(q, r[20], r[1], r[9])
        q.end()

    words = [*function, *assemble(isa, whole, check=False).code]
    assert rig.buffer(np.array(words, np.uint64), "code") == at
    uniforms = rig.buffer(np.array([out, at], np.uint32))
    count = 1 if rig.profile.exact_batches else 0
    cfg = [1 << 16, 1 << 16, 1 << 16, 16 | 1 << 8, count, at + 8 * len(function), uniforms]
    assert rig.machine.dispatch(cfg).run(400_000)
    assert (rig.u32(out, 16) == 12).all()


@program()
def test_code_in_another_buffer(isa: Isa, engine: str) -> None:
    """A function in a buffer of its own, called by address and by register, from several threads."""
    rig, n = Rig(isa), 5
    function = rig.buffer(np.array(assemble(isa, far_function, check=False).code, np.uint64), "library")

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        q.add(r[20], r[4], 1)
        jump(q, q.absolute(function), link=True)
        q.add(r[20], r[20], 1)
        jump(q, r[5], link=True)
        return r[20]

    got = rows_of(rig, n, body, (function,), check=False)
    assert (got == (4 * np.arange(n) + 6)[:, None]).all()


@program()
def test_link_register_names_the_instruction_behind_the_slots(isa: Isa) -> None:
    """The third delay slot of a call is executed once; branches that are not taken leave the link alone (assumed)."""
    rig = Rig(isa)
    place: list[int] = []

    def body(q: Any) -> Any:
        r = q.rf
        move(q, r[5], 0)
        q.b("function", link=True)
        q.nop()
        q.nop()
        q.add(r[5], r[5], 1)
        place.append(len(q))
        jump(q, "out")
        q.label("function")
        q.lr(r[6])
        q.b(q.lri)
        q.nop()
        q.nop()
        q.add(r[5], r[5], 15)
        q.label("out")
        q.shl(r[6], r[6], 8)
        q.add(r[6], r[6], r[5])
        return r[6]

    got = lanes_of(rig, body)
    code = rig.buffers[-2][0]
    assert (got >> 8 == code + 8 * place[0]).all()
    assert (got & 0xFF == 16).all()
