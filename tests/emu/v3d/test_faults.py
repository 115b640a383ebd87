"""Tests of faults: what the machine refuses, the reported place, and what a lenient machine tolerates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.emu.engine.trace import Trace
from qpu.errors import EmuFault
from tests.emu.v3d.rig import ISAS, Rig, move, payload

both = pytest.mark.parametrize("isa", ISAS)
LANE = np.arange(16)


def fault(rig: Rig, program: Any, uniforms: Any = (), **options: Any) -> EmuFault:
    with pytest.raises(EmuFault) as caught:
        rig.run(program, uniforms, check=False, **options)
    return caught.value


def load_far(q: Any) -> None:
    r = q.rf
    q.nop(sig=q.ldunifrf(r[1]))
    q.eidx(r[3])
    q.shl(r[3], r[3], 2)
    q.add(q.tmua, r[3], r[1])
    q.nop(sig=q.ldtmu(r[4]))
    q.end()


@both
def test_load_outside_names_buffer_distance_and_place(isa: Isa) -> None:
    rig = Rig(isa)
    data = rig.buffer(4096, "samples")
    e = fault(rig, load_far, [data + 4096 - 40])
    assert e.rule == "out-of-bounds"
    p = e.place
    assert (p.board, p.qpu, p.thread, p.instruction, p.lane, p.address) == (rig.profile.name, 0, 0, 3, 10, data + 4096)
    assert p.disassembly is not None
    assert "add tmua, rf3, rf1" in p.disassembly
    assert "'samples'" in e.message
    assert "1 byte past its end" in e.message


@both
def test_the_thread_that_faults_is_named(isa: Isa) -> None:
    rig = Rig(isa)
    data = rig.buffer(4096)

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[1]))
        q.shl(r[5], payload(q), -16)
        q.shr(r[5], r[5], -16)
        q.shl(r[5], r[5], 10)
        q.add(q.tmua, r[5], r[1])
        q.nop(sig=q.ldtmu(r[4]))
        q.end()

    e = fault(rig, program, [data], workgroups=(6, 1, 1), per_supergroup=6)
    assert (e.place.qpu, e.place.lane, e.place.address) == (4, 0, data + 4096)


@both
def test_lenient_accesses_use_the_scratch_page_and_are_recorded(isa: Isa) -> None:
    rig = Rig(isa, strict=False)
    data, out = rig.buffer(np.full(1024, 3, np.uint32)), rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[1]))
        q.nop(sig=q.ldunifrf(r[2]))
        q.eidx(r[3])
        q.shl(r[3], r[3], 2)
        q.add(r[4], r[3], r[1])
        move(q, q.tmud, r[3])
        move(q, q.tmua, r[4])  # half of the lanes store outside
        q.tmuwt(q.null)
        move(q, q.tmua, r[4])
        q.nop(sig=q.ldtmu(r[5]))
        q.add(r[4], r[3], r[2])
        move(q, q.tmud, r[5])
        move(q, q.tmua, r[4])
        q.end()

    run = rig.run(program, [data + 4096 - 32, out])
    assert (rig.u32(out, 16) == LANE * 4).all()  # the scratch page keeps the value
    assert (rig.u32(data + 4096 - 32, 8) == np.arange(8) * 4).all()
    assert len(run.stats.faults) == 2
    assert all("MMU error" in f for f in run.stats.faults)


@both
def test_misaligned_access(isa: Isa) -> None:
    rig = Rig(isa)
    data = rig.buffer(4096)
    e = fault(rig, load_far, [data + 2])
    assert e.rule == "misaligned"
    rig = Rig(isa, strict=False)
    data = rig.buffer(4096)
    assert rig.run(load_far, [data + 2], check=False).stats.faults[0].startswith("misaligned")


@both
def test_uniforms_outside(isa: Isa) -> None:
    rig = Rig(isa)
    e = fault(rig, load_far, 0x7000_0000)
    assert e.rule == "out-of-bounds"
    assert "uniform fetch" in e.message


@both
@pytest.mark.parametrize("strict", [True, False])
def test_empty_fifo_always_faults(isa: Isa, strict: bool) -> None:
    rig = Rig(isa, strict=strict)

    def program(q: Any) -> None:
        q.nop()
        q.nop(sig=q.ldtmu(q.rf[1]))
        q.end()

    e = fault(rig, program)
    assert e.rule == "tmu-empty"
    assert e.place.instruction == 1


@both
def test_undefined_words_and_running_off_the_code(isa: Isa) -> None:
    rig = Rig(isa)
    e = fault(rig, [0x0300_0000_0000_0000])
    assert (e.rule, e.place.instruction) == ("decode", 0)

    def jump(q: Any) -> None:
        q.b(q.absolute(0x4000_0000))
        for _ in range(3):
            q.nop()

    e = fault(rig, jump)
    assert e.rule == "code-out-of-bounds"


@both
def test_graphics_and_textures_are_named(isa: Isa) -> None:
    for write, rule in ((14, "graphics"), (7, "graphics"), (33, "texture"), (17, "syncu"), (10, "reserved-address")):
        rig = Rig(isa)
        e = fault(rig, lambda q, n=write: (q.eidx(q.magic(n)), q.end())[1])
        assert e.rule == rule, write
    rig = Rig(isa)
    assert fault(rig, lambda q: (q.iid(q.rf[1]), q.end())[1]).rule == "graphics"


@both
def test_unifa_too_early(isa: Isa) -> None:
    def program(q: Any) -> None:
        q.nop(sig=q.ldunifrf(q.rf[1]))
        move(q, q.unifa, q.rf[1])
        q.nop()
        q.nop()
        q.nop(sig=q.ldunifarf(q.rf[2]))
        q.end()

    rig = Rig(isa)
    data = rig.buffer(64)
    assert fault(rig, program, [data]).rule == "unifa-early"
    rig = Rig(isa, strict=False)
    data = rig.buffer(64)
    assert len(rig.run(program, [data], check=False).stats.faults) == 1


def test_sfu_rules_of_42() -> None:
    def early(q: Any) -> None:
        q.nop().mov(q.magic(19), 1.0)
        q.add(q.r0, q.r4, 1)
        q.end()

    def slot(q: Any) -> None:
        q.nop(sig=q.thrsw)
        q.nop().mov(q.magic(19), 1.0)
        q.nop()
        q.end()

    assert fault(Rig(Isa.V3D42), early).rule == "sfu-r4-read"
    assert fault(Rig(Isa.V3D42), slot).rule == "thrsw-sfu"


def test_rotation_rules_of_42() -> None:
    def amount(q: Any) -> None:
        q.or_(q.r5, 3, 3)
        q.nop(sig=q.rot(q.r5)).mov(q.r1, q.r0)
        q.end()

    def source(q: Any) -> None:
        q.nop(sig=q.ldunifrf(q.rf[1]))
        move(q, q.tmua, q.rf[1])
        q.nop(sig=q.ldtmu(q.r0))
        q.nop(sig=q.rot(1)).mov(q.r1, q.r0)
        q.end()

    assert fault(Rig(Isa.V3D42), amount).rule == "rot-amount"
    rig = Rig(Isa.V3D42)
    assert fault(rig, source, [rig.buffer(64)]).rule == "rot-ldtmu"


@both
def test_branches_in_delay_slots(isa: Isa) -> None:
    def in_branch(q: Any) -> None:
        q.b("x")
        q.b("x")
        q.nop()
        q.nop()
        q.label("x")
        q.end()

    def in_switch(q: Any) -> None:
        q.nop(sig=q.thrsw)
        q.b("x")
        q.nop()
        q.nop()
        q.nop()
        q.label("x")
        q.end()

    def switch_in_branch(q: Any) -> None:
        q.b("x")
        q.nop(sig=q.thrsw)
        q.nop()
        q.nop()
        q.label("x")
        q.end()

    assert fault(Rig(isa), in_branch).rule == "branch-slot"
    assert fault(Rig(isa), in_switch).rule == "branch-slot"
    assert fault(Rig(isa), switch_in_branch).rule == "branch-slot"


@both
def test_two_results_for_one_register(isa: Isa) -> None:
    def program(q: Any) -> None:
        q.eidx(q.rf[1]).mov(q.rf[1], q.rf[2])
        q.end()

    assert fault(Rig(isa), program).rule == "same-destination"

    def select(q: Any) -> None:
        q.eidx(q.rf[1])
        q.sub(q.null, q.rf[1], 4, push="pushz")
        q.add(q.rf[2], q.rf[1], q.rf[1], cond="ifa").mov(q.rf[2], q.rf[1], cond="ifna")
        q.end()

    assert Rig(isa).run(select, check=False).done


@both
def test_upper_registers_do_not_exist_with_four_threads(isa: Isa) -> None:
    def program(q: Any) -> None:
        q.eidx(q.rf[40])
        q.end()

    assert fault(Rig(isa), program, threads=4).rule == "register-range"
    assert Rig(isa).run(program, threads=2).done


@both
def test_a_faulted_run_stays_faulted(isa: Isa) -> None:
    rig = Rig(isa)
    run = rig.start([0])
    for _ in range(2):
        with pytest.raises(EmuFault):
            run.run()
    assert not run.done


@both
def test_registers_start_with_a_recognisable_pattern(isa: Isa) -> None:
    rig = Rig(isa)
    out = rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[1]))
        q.eidx(r[3])
        q.shl(r[3], r[3], 2)
        q.add(r[3], r[3], r[1])
        move(q, q.tmud, r[7])
        move(q, q.tmua, r[3])
        q.end()

    rig.run(program, [out])
    assert (rig.u32(out, 16) == 0xDEAD0700 + LANE).all()


@both
def test_trace_of_a_program(isa: Isa) -> None:
    trace = Trace(qpus=[1], first=1, last=2)
    rig = Rig(isa, trace=trace)

    def program(q: Any) -> None:
        q.nop()
        q.eidx(q.rf[5])
        q.sub(q.null, q.rf[5], 3, push="pushz")
        q.end()

    rig.run(program, workgroups=(3, 1, 1), per_supergroup=3)
    entries = list(trace)
    assert [(e.qpu, e.thread, e.index) for e in entries] == [(1, 0, 1), (1, 0, 2)]
    assert entries[0].changes == {"rf5": tuple(range(16))}
    assert entries[1].changes["a"] == tuple(int(i == 3) for i in range(16))
    assert entries[0].text.startswith("eidx rf5")


def test_trace_shows_special_functions_when_they_arrive() -> None:
    """4.2: r4 changes after the instruction between the write and the first that may read it."""
    trace = Trace()
    rig = Rig(Isa.V3D42, trace=trace)

    def program(q: Any) -> None:
        q.nop().fmov(q.magic(19), 4.0)
        q.nop()
        q.fadd(q.r1, q.r4, q.r4)
        q.end()

    rig.run(program)
    entries = list(trace)
    assert "r4" not in entries[0].changes
    assert entries[1].changes == {"r4": (0x3E800000,)}
    assert entries[2].changes == {"r1": (0x3F000000,)}


@both
def test_trace_of_threads_that_part(isa: Isa) -> None:
    """Entries of one thread are in order whatever the others do; filters select one thread or a range."""

    def program(q: Any) -> None:
        q.shl(q.rf[4], payload(q), -16, push="pushz")  # A: the first workgroup
        q.b("out", cond="a0")
        q.nop()
        q.nop()
        q.nop()
        q.add(q.rf[5], q.rf[4], 1)
        q.label("out")
        q.add(q.rf[6], q.rf[4], 2)
        q.end()

    def traced(**filters: Any) -> list[tuple[int, int]]:
        trace = Trace(**filters)
        Rig(isa, trace=trace).run(program, workgroups=(3, 1, 1), per_supergroup=3)
        return [(e.qpu, e.index) for e in trace]

    whole = traced()
    for qpu in range(3):
        path = [index for q, index in whole if q == qpu]
        assert path[:6] == ([0, 1, 2, 3, 4, 6] if qpu == 0 else [0, 1, 2, 3, 4, 5])
        assert traced(qpus=[qpu]) == [(qpu, i) for i in path]
    assert traced(first=5, last=5) == [(1, 5), (2, 5)]
    assert traced(qpus=[1], first=5, last=6) == [(1, 5), (1, 6)]
    assert len(traced(limit=7)) == 7
    assert traced(limit=7) == whole[-7:]
    assert traced(limit=7, keep="first") == whole[:7]
