"""Tests of programs with undefined results: a named fault when strict, a record and the likeliest result otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qpu.errors import EmuFault
from qpu.vc4.builder import Asm
from qpu.vc4.encode import encode
from qpu.vc4.instr import Alu, Branch, LoadImm, Reserved, Semaphore
from tests.emu.vc4.rig import Rig, store_rows

NOP = encode(Alu())
END = [encode(Alu(sig=3)), NOP, NOP]
Source = Callable[[Asm], None]


def fault(rig: Rig, source: Any, *uniforms: Any) -> EmuFault:
    with pytest.raises(EmuFault) as caught:
        rig.run(source, *(uniforms or ([],)), check=False)
    return caught.value


def mov(dst: int, mux: int, **more: int) -> Alu:
    """ADD-side move from an accumulator or read port."""
    return Alu(**{"op_add": 21, "cond_add": 1, "waddr_add": dst, "add_a": mux, "add_b": mux, **more})  # type: ignore[arg-type]


UNKNOWN: list[tuple[str, list[Any], int]] = [
    # rule, instructions, index of the offending one
    ("H1", [mov(3, 0), mov(32, 6, raddr_a=3)], 1),
    ("H1", [mov(3, 0, ws=1), mov(32, 7, raddr_b=3)], 1),
    ("H1", [LoadImm(cond_add=1, waddr_add=4), Alu(), mov(4, 0), Branch(cond=15, rel=1, reg=1, raddr_a=4)], 3),
    ("H2", [mov(52, 0), mov(33, 4)], 1),
    ("H2", [mov(52, 0), Alu(), mov(33, 4)], 2),
    ("H3", [mov(56, 0), mov(52, 0), Alu(sig=10)], 2),
    ("H3", [mov(60, 0), mov(52, 0), Alu(), Alu(sig=11)], 3),
    ("H4", [mov(52, 0), mov(53, 0)], 1),
    ("H5", [mov(37, 0), Alu(sig=13, raddr_b=48, op_mul=4, cond_mul=1, waddr_mul=33)], 1),
    ("H8", [mov(40, 0), mov(32, 6, raddr_a=32)], 1),
    ("H8", [mov(40, 0), Alu(), mov(32, 6, raddr_a=32)], 2),
    ("H8", [mov(40, 0), Alu(), mov(57, 0)], 2),
    ("H13", [Alu(op_add=21, cond_add=1, waddr_add=32, op_mul=4, cond_mul=1, waddr_mul=32, mul_a=1, mul_b=1)], 0),
    ("H13", [Alu(op_add=21, cond_add=1, waddr_add=48, op_mul=4, cond_mul=1, waddr_mul=48)], 0),
    ("H14", [mov(48, 0, cond_add=0)], 0),
    ("H15", [Alu(op_mul=1, cond_mul=1, waddr_mul=48, pm=1, pack=4)], 0),
    ("H16", [Alu(op_add=21, cond_add=1, waddr_add=49, op_mul=4, cond_mul=1, waddr_mul=49)], 0),
    ("H17", [Branch(cond=15, rel=1), Branch(cond=15, rel=1)], 1),
    ("H17", [Branch(cond=15, rel=1), Alu(), Branch(cond=15, rel=1)], 2),
    ("H18", [Alu(sig=3, raddr_a=32)], 0),
    ("H18", [Alu(sig=3), Alu(raddr_a=32)], 1),
    ("H20", [Alu(sig=3), Alu(), mov(14, 0)], 2),
    ("H19", [mov(5, 0, sig=3)], 0),
    ("H27", [Semaphore(imm=0, cond_add=1, waddr_add=52)], 0),
    ("graphics-register", [mov(44, 0)], 0),
    ("graphics-register", [Alu(raddr_a=35)], 0),
    ("graphics-signal", [Alu(sig=8)], 0),
    ("scoreboard", [Alu(sig=4)], 0),
    ("unassigned-read", [mov(32, 6, raddr_a=40)], 0),
    ("unpack-input", [mov(32, 6, raddr_a=38, unpack=1)], 0),
    ("add-nop-write", [Alu(cond_add=1, waddr_add=48)], 0),
    ("decode", [Alu(op_mul=1, cond_mul=1, waddr_mul=32, pm=1, pack=9)], 0),
    ("uniforms-relative", [mov(40, 0, ws=1)], 0),
    ("vpm-no-setup", [mov(48, 0)], 0),
    ("vpm-no-setup", [mov(50, 0)], 0),
    ("vpm-no-setup", [mov(50, 0, ws=1)], 0),
    ("branch-link", [Branch(cond=15, rel=1, waddr_add=48)], 0),
]


@pytest.mark.parametrize(("rule", "instrs", "index"), UNKNOWN, ids=[f"{r}-{k}" for k, (r, _, _) in enumerate(UNKNOWN)])
def test_unknown_results_fault_when_strict_and_are_recorded_when_lenient(
    rule: str, instrs: list[Any], index: int
) -> None:
    words = [encode(LoadImm(cond_add=1, waddr_add=32, imm=0x40400000)), *map(encode, instrs), NOP, NOP, NOP, *END]
    e = fault(Rig(), words, [1, 2, 3, 4])
    assert e.rule == rule
    assert e.place.qpu == 0
    assert e.place.instruction == index + 1
    assert e.place.board == "pi3"
    assert e.place.disassembly
    rig = Rig(strict=False)
    rig.machine.sync.counters[0] = 1
    execution = rig.run(words, [1, 2, 3, 4])
    assert execution.done
    assert any(f.startswith(rule + ":") for f in execution.stats.faults)


STOPS: list[tuple[str, list[int]]] = [
    ("decode", [encode(Reserved(0xE4000000_00000000))]),
    ("decode", [encode(Branch(cond=13))]),
    ("decode", [encode(Alu(op_add=9, cond_add=1, waddr_add=32))]),
    ("decode", [encode(Alu(op_add=27))]),
    ("breakpoint", [encode(Alu(sig=0))]),
    ("tmu-empty", [encode(Alu(sig=10))]),
    ("tmu-empty", [encode(Alu(sig=11))]),
    ("vpm-empty", [encode(Alu(raddr_a=48))]),
    ("no-uniforms", [encode(Alu(raddr_a=32))]),
    ("out-of-bounds", [encode(LoadImm(cond_add=1, waddr_add=56, imm=0x40800000))]),
    ("out-of-bounds", [encode(Branch(cond=15, imm=0x8))] + [NOP] * 3),
    ("unaligned-code", [encode(Branch(cond=15, rel=1, imm=4))] + [NOP] * 3),
]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("rule", "words"), STOPS, ids=[f"{r}-{k}" for k, (r, _) in enumerate(STOPS)])
def test_what_cannot_go_on_always_faults(rule: str, words: list[int], strict: bool) -> None:
    rig = Rig(strict=strict)
    code = rig.program([*words, *END])
    execution = rig.machine.launch([(0, code)])
    for _ in range(2):  # asking again gives the same answer
        with pytest.raises(EmuFault) as caught:
            execution.run()
        assert caught.value.rule == rule


def test_old_register_value_and_old_r4_when_lenient() -> None:
    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.ra[1], 10)
        q.ldi(q.rb[1], 20)
        q.nop()
        q.ldi(q.ra[1], 11)
        q.mov(q.r0, q.ra[1])
        q.ldi(q.rb[1], 21)
        q.mov(q.r1, q.rb[1])
        q.add(q.r0, q.r0, q.ra[1])
        q.add(q.r1, q.r1, q.rb[1])
        q.ldi(q.r3, 4.0)
        q.mov(q.sfu_recip, q.r3)
        q.nops(2)
        q.mov(q.sfu_recip, 2.0)
        q.mov(q.ra[2], q.r4)
        q.mov(q.ra[3], q.r4)
        q.mov(q.ra[4], q.r4)
        q.nop()
        store_rows(q, [q.r0, q.r1, q.ra[2], q.ra[3], q.ra[4]], q.r2)
        q.end()

    rig = Rig(strict=False)
    out, y = rig.zeros((5, 16))
    execution = rig.run(program, [out], check=False)
    assert y[:2, 0].tolist() == [21, 41]
    assert y[2:].view(np.float32)[:, 7].tolist() == [0.25, 0.25, 0.5]
    rules = [f.partition(":")[0] for f in execution.stats.faults]
    assert rules == ["H1", "H1", "H2", "H2"]


def test_conditional_hazards_count_only_where_lanes_overlap() -> None:
    """A write under ifz and a read under ifnz of the next instruction do not meet."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.r0, [0, 1] * 8, push="z")
        q.mov(q.ra[1], 0)
        q.mov(q.r1, 0)
        q.mov(q.ra[1], 5, cond="ifz")
        q.mov(q.r1, q.ra[1], cond="ifnz")
        q.nop()
        store_rows(q, [q.r1, q.ra[1]], q.r2)
        q.end()

    rig = Rig()
    out, y = rig.zeros((2, 16))
    rig.run(program, [out], check=False)
    assert y.tolist() == [[0] * 16, [5, 0] * 8]


def test_complementary_conditions_write_one_register_and_one_peripheral() -> None:
    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.r0, [0, 1] * 8, push="z")
        q.mov(q.r1, 3, cond="ifz").mov(q.r1, 3, cond="ifnz")
        q.add(q.r3, q.r1, 1, cond="ifz").v8adds(q.r3, q.r1, q.r1, cond="ifnz")
        q.setup_vpm_write(y=0)
        q.mov(q.vpm, q.r3, cond="ifz").mov(q.vpm, q.r0, cond="ifnz")
        q.setup_dma_store(nrows=1)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.r2)
        q.wait_dma_store()
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    execution = rig.run(program, [out], check=False)
    assert y.tolist() == [4, 1] * 8
    assert execution.stats.vpm_write_bytes == 64


def test_dynamic_overlap_of_two_writes_faults() -> None:
    words = [encode(Alu(op_add=21, cond_add=2, waddr_add=33, op_mul=4, cond_mul=4, waddr_mul=33, add_a=0, mul_a=0))]
    setf = [encode(LoadImm(cond_add=1, waddr_add=32, imm=0x80000000, sf=1))]
    assert Rig().run([*setf, *words, *END]).done  # N but not Z: no lane in common
    both = [encode(Alu(op_add=13, cond_add=1, waddr_add=39, sf=1))]  # Z
    never_n = [encode(Alu(op_add=21, cond_add=2, waddr_add=33, op_mul=4, cond_mul=5, waddr_mul=33, mul_a=1, mul_b=1))]
    assert fault(Rig(), [*both, *never_n, *END]).rule == "H13"


def test_tmu_queue_limits() -> None:
    def program(q: Asm, n: int) -> None:
        q.mov(q.r0, q.uniform)
        for _ in range(n):
            q.mov(q.t0s, q.r0)
        for _ in range(n):
            q.nop(sig=q.ldtmu0)
        q.end()

    for n, rules in ((4, []), (5, ["H26"]), (8, ["H26"] * 4)):
        rig = Rig()
        execution = rig.run(lambda q, n=n: program(q, n), [rig.zeros(1)[0]], check=False)
        assert [f.partition(":")[0] for f in execution.stats.faults] == rules
    rig = Rig(strict=False)
    assert fault(rig, lambda q: program(q, 9), [rig.zeros(1)[0]]).rule == "tmu-overflow"


def test_out_of_bounds_names_lane_address_and_the_nearest_buffer() -> None:
    def program(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.shl(q.r1, q.element_number, 2)
        q.add(q.t0s, q.r0, q.r1)
        q.nop(sig=q.ldtmu0)
        q.end()

    for strict in (True, False):
        rig = Rig(strict=strict)
        end = rig.data.end
        e = fault(rig, program, [(end - 20) | 0xC0000000])
        assert (e.rule, e.place.lane, e.place.address, e.place.instruction) == ("out-of-bounds", 5, end, 2)
        assert "1 byte past the end of the nearest buffer, data" in e.message
        e = fault(rig, program, [rig.code.address - 64])
        assert "64 bytes before the nearest buffer, code" in e.message


@pytest.mark.parametrize("strict", [True, False])
def test_dma_outside_memory_always_faults(strict: bool) -> None:
    def store(q: Asm) -> None:
        q.setup_dma_store(nrows=2)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.uniform)
        q.end()

    def load(q: Asm) -> None:
        q.setup_dma_load(nrows=2)
        q.start_dma_load(q.uniform)
        q.end()

    for source in (store, load):
        rig = Rig(strict=strict)
        rig.machine.vpm.words[:] = 1
        tail = rig.memory.bytes[rig.data.end - 4096 : rig.data.end]
        e = fault(rig, source, [rig.data.end - 96])
        assert (e.rule, e.place.address) == ("out-of-bounds", rig.data.end)  # the first byte outside
        assert not tail.any()
    assert "DMA load" in e.message


def test_deadlocks_say_who_waits_for_what() -> None:
    def greedy(q: Asm) -> None:
        q.mutex_acquire()
        q.sema_down(5)
        q.end()

    rig = Rig()
    e = fault(rig, greedy, [], [], [])
    assert e.rule == "deadlock"
    assert "QPU 0 (instruction 1) waits for semaphore 5, which is 0, to be incremented" in e.message
    assert "QPU 1 (instruction 0) waits for the mutex, which QPU 0 holds; that QPU is waiting too" in e.message
    assert e.place.qpu == 0
    assert e.place.disassembly is not None
    assert "sacq" in e.place.disassembly

    def keeper(q: Asm) -> None:
        q.mutex_acquire()
        q.end()

    e = fault(Rig(), keeper, [], [])
    assert "holds; that QPU has ended" in e.message

    def full(q: Asm) -> None:
        for _ in range(16):
            q.sema_up(9)
        q.end()

    assert "semaphore 9, which is 15, to be decremented" in fault(Rig(), full).message


def test_a_lenient_deadlock_hangs_on_emulated_time() -> None:
    def stuck(q: Asm) -> None:
        q.sema_down(1)
        q.end()

    rig = Rig(strict=False)
    execution = rig.machine.launch([(0, rig.program(stuck))])
    assert not execution.run(1000)
    first = execution.clocks
    assert not execution.run(5000)
    assert execution.clocks == first + 5000
    assert [f.partition(":")[0] for f in execution.stats.faults] == ["deadlock"]
    with pytest.raises(EmuFault, match="deadlock"):
        execution.run()


def test_warnings_of_programs_that_leave_things_behind() -> None:
    def program(q: Asm) -> None:
        q.mov(q.t0s, q.uniform)
        q.setup_vpm_read(2)
        q.mutex_release()
        q.mutex_acquire()
        q.end()

    rig = Rig()
    execution = rig.run(program, [rig.zeros(1)[0]])
    rules = sorted(f.partition(":")[0] for f in execution.stats.faults)
    assert rules == ["H25", "mutex-held", "mutex-not-held", "tmu-uncollected"]


def test_noswap_rules() -> None:
    def program(q: Asm, gap: int, late: bool) -> None:
        q.mov(q.r0, q.uniform)
        if late:
            q.mov(q.t0s, q.r0)
            q.nop(sig=q.ldtmu0)
        q.mov(q.tmu_noswap, 1)
        q.nops(gap)
        q.mov(q.t1s, q.r0)
        q.nop(sig=q.ldtmu1)
        q.end()

    at = [0x40400000]
    assert not Rig().run(lambda q: program(q, 3, False), at, check=False).stats.faults
    for gap in range(3):
        assert fault(Rig(), lambda q, gap=gap: program(q, gap, False), at).rule == "H9"
    assert "H10" in Rig().run(lambda q: program(q, 3, True), at, check=False).stats.faults[0]


def test_undefined_registers_show_a_pattern() -> None:
    def program(q: Asm) -> None:
        q.setup_vpm_write()
        q.mov(q.vpm, q.ra[7])
        q.mov(q.vpm, q.rb[31])
        q.mov(q.vpm, q.r3)
        q.setup_dma_store(nrows=3)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.uniform)
        q.wait_dma_store()
        q.end()

    rig = Rig()
    out, y = rig.zeros((3, 16))
    rig.run(program, [out])
    assert [hex(x) for x in y[:, 5]] == ["0xdeada075", "0xdeadb1f5", "0xdeadc035"]


def test_thread_switch_loses_accumulators() -> None:
    def program(q: Asm) -> None:
        q.mov(q.ra[1], q.uniform)
        q.ldi(q.r0, 5)
        q.nop(sig=q.thrsw)
        q.mov(q.ra[2], q.r0)
        q.nop()
        q.mov(q.ra[3], q.r0)
        q.nop()
        store_rows(q, [q.ra[2], q.ra[3]], q.ra[1])
        q.end()

    rig = Rig()
    out, y = rig.zeros((2, 16))
    execution = rig.run(program, [out], check=False)
    assert y[:, 0].tolist() == [5, 0xDEADC000]
    assert execution.stats.thread_switches == 1
    assert "thread-switch" in execution.stats.faults[0]


def test_reading_address_39_repeats_the_last_quad() -> None:
    words_for: list[Any] = [
        LoadImm(cond_add=1, waddr_add=32, imm=0),
        mov(34, 6, raddr_a=38),  # element numbers through port A
        mov(33, 6),  # address 39: lanes 12..15 again
        Alu(op_mul=4, cond_mul=1, waddr_mul=39, mul_a=2, mul_b=2),
        Alu(cond_mul=1, waddr_mul=35),  # MUL nop with a destination
    ]

    def program(q: Asm) -> None:
        q.mov(q.ra[9], q.uniform)
        for instr in words_for:
            q.raw(encode(instr))
        store_rows(q, [q.r1, q.r3], q.ra[9])
        q.end()

    rig = Rig()
    out, y = rig.zeros((2, 16))
    rig.run(program, [out], check=False)
    assert y.tolist() == [[12, 13, 14, 15] * 4] * 2


def test_a_taken_branch_through_an_odd_register_sets_flags() -> None:
    def program(q: Asm, register: int, flagged: list[int]) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.ra[register], 0)
        q.mov(q.null, 0, push="z")
        q.b("on", reg=q.ra[register])
        q.nops(3)
        q.label("on")
        q.mov(q.r0, 0)
        q.mov(q.r0, 1, cond="ifnz")
        store_rows(q, [q.r0], q.r2)
        q.end()

    for register, expected in ((4, 0), (5, 1)):
        rig = Rig()
        out, y = rig.zeros(16)
        execution = rig.run(lambda q, r=register: program(q, r, []), [out], check=False)
        assert y[0] == expected
        assert bool(execution.stats.faults) == bool(expected)


def test_branch_register_lanes_must_agree() -> None:
    def program(q: Asm) -> None:
        q.mov(q.ra[4], q.element_number)
        q.nop()
        q.b(0, reg=q.ra[4])
        q.nops(3)
        q.end()

    assert fault(Rig(), program).rule == "branch-lane"


def test_lenient_double_branch_is_taken_by_neither() -> None:
    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.r0, 1)
        q.b("away")
        q.nop()
        q.b("away")
        q.nops(4)
        q.ldi(q.r0, 2)
        q.label("away")
        store_rows(q, [q.r0], q.r2)
        q.end()

    rig = Rig(strict=False)
    out, y = rig.zeros(16)
    rig.run(program, [out], check=False)
    assert y[0] == 2
