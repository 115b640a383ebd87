"""Hazard rules at their exact distances, along every path; programs that are fine; effects."""

from __future__ import annotations

import random
from typing import Any

import pytest

from qpu.core.isa import Isa
from qpu.errors import Severity
from qpu.vc4.asm import Asm, assemble, build
from qpu.vc4.decode import decode
from qpu.vc4.effects import MARKS, effects
from qpu.vc4.encode import encode
from qpu.vc4.hazards import DISTANCES, ERRORS, check
from qpu.vc4.instr import Alu

NOP = 0x100009E7009E7000


def rules(fn: Any) -> set[tuple[str, int]]:
    return {(f.rule, f.index) for f in check(build(fn).code)}


PAIRS = {
    "H1": (lambda q: q.mov(q.ra[1], q.r0), lambda q: q.mov(q.r0, q.ra[1])),
    "H2": (lambda q: q.mov(q.sfu_recip, q.r0), lambda q: q.mov(q.r0, q.r4)),
    "H3": (lambda q: q.mov(q.sfu_recip, q.r0), lambda q: q.nop(sig="loadc")),
    "H4": (lambda q: q.mov(q.sfu_recip, q.r0), lambda q: q.mov(q.sfu_recip, q.r0)),
    "H5": (lambda q: q.mov(q.broadcast, q.r0), lambda q: q.rotate(q.r0, q.r1, q.r5)),
    "H6": (lambda q: q.mov(q.r1, q.r0), lambda q: q.rotate(q.r0, q.r1, 1)),
    "H8": (lambda q: q.mov(q.unif_addr, q.r0), lambda q: q.mov(q.r0, q.uniform)),
    "H9": (lambda q: q.mov(q.tmu_noswap, q.r0), lambda q: q.mov(q.tmu0_s, q.r0)),
    "H11": (lambda q: q.mov(q.tlb_z, q.r0), lambda q: q.mov(q.r0, q.ms_mask)),
}
ROWS = {row.rule: row for row in DISTANCES}


@pytest.mark.parametrize("rule", PAIRS)
def test_distance(rule: str) -> None:
    """Exactly the instructions within the distance are blamed."""
    first, second = PAIRS[rule]
    limit = ROWS[rule].distance
    for distance in range(1, limit + 3):

        def kernel(q: Asm, d: int = distance) -> None:
            q.nops(4)
            first(q)
            q.nops(d - 1)
            second(q)
            q.nops(3)

        found = [f for f in check(build(kernel).code) if f.rule == rule]
        if distance <= limit:
            (f,) = found
            assert (f.index, f.other, f.distance) == (4 + distance, 4, distance)
            assert f.severity is (Severity.ERROR if rule in ERRORS else Severity.WARNING)
        else:
            assert not found


@pytest.mark.parametrize("rule", PAIRS)
@pytest.mark.parametrize("cond", ["always", "anyz"])
def test_distance_over_a_branch(rule: str, cond: Any) -> None:
    """The window reaches from the delay slots to the target, and to the fall-through of a conditional branch."""
    first, second = PAIRS[rule]
    limit = ROWS[rule].distance
    for slot in (1, 2, 3):
        for ahead in (0, 1, 2):

            def kernel(q: Asm, slot: int = slot, ahead: int = ahead) -> None:
                q.nops(4)
                q.brr("target", cond=cond)
                for n in (1, 2, 3):
                    first(q) if n == slot else q.nop()
                q.nops(ahead)
                second(q)  # the fall-through
                q.nops(5)
                q.label("target")
                q.nops(ahead)
                second(q)
                q.nops(3)

            program = build(kernel)
            through, target = 8 + ahead, program.labels["target"] + ahead
            distance = 3 - slot + ahead + 1
            want = set()
            if distance <= limit:
                want = {target} if cond == "always" else {through, target}
            found = {f.index for f in check(program.code) if f.rule == rule and f.other == 4 + slot}
            assert found == want, (slot, ahead)


def test_a_loop_closes_the_window() -> None:
    def kernel(q: Asm) -> None:
        with q.loop() as loop:
            q.mov(q.r0, q.r4)
            loop.repeat(cond="anyz")
            q.nop()
            q.mov(q.sfu_recip, q.r0)
            q.nop()
        q.nops(2)

    assert rules(kernel) == {("H2", 0)}


def test_a_branch_in_the_last_delay_slot() -> None:
    """Allowed; its delay slots are at the target of the first, and its own target follows those."""

    def kernel(q: Asm) -> None:
        q.brr("a")
        q.nops(2)
        q.brr("b")
        q.nop()
        q.label("a")
        q.nops(2)
        q.mov(q.sfu_recip, q.r0)
        q.nops(5)
        q.label("b")
        q.nop()
        q.mov(q.r0, q.r4)

    program = build(kernel)
    assert {(f.rule, f.index) for f in check(program.code)} == {("H2", program.labels["b"] + 1)}


def test_conditions_that_exclude_each_other() -> None:
    def kernel(q: Asm) -> None:
        q.mov(q.ra[1], q.r0, cond="ifz")
        q.mov(q.r1, q.ra[1], cond="ifnz")
        q.mov(q.r0, q.r1, cond="ifn").mov(q.r0, q.r2, cond="ifnn")
        q.mov(q.vpm, q.r1, cond="ifz").mov(q.vpm, q.r2, cond="ifnz")
        q.mov(q.ra[2], q.r0, cond="never")
        q.mov(q.r0, q.ra[2])

    assert rules(kernel) == set()


def test_reading_while_writing_is_fine() -> None:
    def kernel(q: Asm) -> None:
        q.add(q.ra[1], q.ra[1], 1)
        q.nop()
        q.add(q.ra[1], q.ra[1], q.ra[1])
        q.mov(q.rb[1], q.r0)
        q.mov(q.r0, q.ra[2])

    assert rules(kernel) == set()


def test_a_typical_program_is_fine() -> None:
    def kernel(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.ra[0], q.uniform)
        q.shl(q.r1, q.element_number, 2)
        q.add(q.tmu0_s, q.r0, q.r1)
        q.setup_vpm_write()
        q.nop(sig="ldtmu0")
        q.mov(q.sfu_recip, q.r4)
        q.nops(2)
        q.fmul(q.vpm, q.r4, 2.0)
        q.setup_dma_store(1, 16)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.setup_vpm_read(1)
        q.mov(q.r0, q.vpm)
        q.exit()

    program = assemble(kernel)
    assert check(program.code) == []


def test_a_colour_read_with_a_colour_write_is_one_access() -> None:
    def kernel(q: Asm) -> None:
        q.nops(2)
        q.mov(q.tlb_color_all, q.r0, sig="loadc")

    assert rules(kernel) == set()


def test_pipelined_requests_are_fine() -> None:
    def kernel(q: Asm) -> None:
        for _ in range(4):
            q.mov(q.tmu0_s, q.r0)
        with q.loop() as loop:
            q.nop(sig="ldtmu0")
            q.mov(q.tmu0_s, q.r4)
            loop.repeat(cond="anyz")
            q.nops(3)
        for _ in range(4):
            q.nop(sig="ldtmu0")

    assert rules(kernel) == set()


def test_subroutines_do_not_confuse_the_counts() -> None:
    def kernel(q: Asm) -> None:
        q.mov(q.tmu0_s, q.r0)
        q.brr("sub", link=q.ra[2])
        q.nops(3)
        q.nop(sig="ldtmu0")
        q.nop(sig="ldtmu0")
        q.exit()
        q.label("sub")
        q.mov(q.tmu0_s, q.r0)
        q.bra(q.ra[2])
        q.nops(3)

    assert rules(kernel) == set()


def test_severities() -> None:
    assert {row.rule for row in DISTANCES} <= {f"H{n}" for n in range(1, 31)}
    errors = {"H1", "H2", "H3", "H4", "H5", "H8", "H9", "H23", "H27", *(f"H{n}" for n in range(11, 21))}
    assert errors == ERRORS
    for row in DISTANCES:
        assert row.isas == {Isa.VC4}
        assert row.source
        assert row.severity is (Severity.ERROR if row.rule in errors else Severity.WARNING)


def test_the_fast_scan_agrees_with_effects() -> None:
    """The window's tables against `effects`, on random words."""
    from qpu.vc4.hazards import _BIT, _REGISTER_BIT, _scan, _tables

    rnd = random.Random(4)
    tables = _tables()
    for _ in range(3000):
        word = rnd.getrandbits(64)
        if rnd.random() < 0.5:
            word = word & ~(15 << 60) | rnd.choice([1, 10, 13, 14, 15]) << 60
        e = effects(word)
        marks, write, read = _scan(word, tables)
        want = sum(_BIT.get(mark, 0) for mark in e.marks)
        i = decode(word)
        if isinstance(i, Alu) or word >> 57 & 7 in (0, 1, 3, 4) or word >> 60 == 15:
            if word >> 60 == 15:
                want &= _BIT["branch"]
            assert marks & (sum(_BIT.values())) == want, hex(word)
            assert write == sum(_REGISTER_BIT.get(n, 0) for n in e.writes), hex(word)
            files = sum(_REGISTER_BIT.get(n, 0) for n in e.reads if n[:2] in ("ra", "rb"))
            assert read == files | sum(_REGISTER_BIT[n] for n in e.rotated), hex(word)


def test_effects() -> None:
    def of(fn: Any) -> Any:
        return effects(build(fn).code[0])

    e = of(lambda q: q.fadd(q.ra[1], q.uniform, q.r4, sf=True, cond="ifz", sig="ldtmu1").mov(q.broadcast, q.r0))
    assert e.reads == {"uniform", "r4", "r0", "flags", "tmu1_result"}
    assert e.writes == {"ra1", "r5", "flags", "r4"}
    assert e.marks == {"uniform access", "read r4", "load r4", "write r5"}
    assert e.conditional == {"ra1"}
    e = of(lambda q: q.brr(0, cond="anyz", link=q.ra[3], reg=q.ra[5]))
    assert e.reads == {"flags", "ra5"}
    assert e.writes == {"ra3", "flags"}
    assert e.marks == {"branch"}
    e = of(lambda q: q.sema_down(3))
    assert e.writes == {"semaphore3"}
    assert {t.value for t in e.tokens} == {"semaphore"}
    e = of(lambda q: q.rotate(q.r0, q.r1, q.r5))
    assert e.rotated == {"r1"}
    assert e.reads == {"r1", "r5"}
    assert of(lambda q: q.raw(0xE4020827243CF317)).reads == set()
    assert set().union(*(effects(encode(Alu(sig=s))).marks for s in range(14))) <= set(MARKS)


def test_effects_beyond_the_operands() -> None:
    def of(fn: Any) -> Any:
        return effects(build(fn).code[0])

    e = of(lambda q: q.mov(q.sfu_recip, q.r0))
    assert e.writes == {"sfu", "r4"}
    for token, write in (
        ("tmu_request", lambda q: q.mov(q.tmu0_t, q.r0)),
        ("tmu1_request", lambda q: q.mov(q.tmu1_b, q.r0)),
    ):
        e = of(write)
        assert e.reads == {"r0", "uniform"}
        assert {t.value for t in e.tokens} == {token, "uniform"}
    assert of(lambda q: q.mov(q.tmu0_s, q.r0)).reads == {"r0"}
    # what is left of a register that is written in part
    assert of(lambda q: q.add(q.ra[1].pack("8b"), q.r0, q.r1)).conditional == {"ra1"}
    assert of(lambda q: q.add(q.ra[1].pack("32s"), q.r0, q.r1)).conditional == set()
    assert of(lambda q: q.add(q.ra[1].pack("16a"), q.r0, q.r1).fmul(q.r2, q.r0, q.r1)).conditional == {"ra1"}
    assert of(lambda q: q.fmul(q.r0.pack("8csf"), q.r0, q.r1)).conditional == {"r0"}


def test_check_is_total() -> None:
    rnd = random.Random(7)
    words = [rnd.getrandbits(64) for _ in range(400)]
    words += [rnd.getrandbits(60) | 15 << 60 for _ in range(50)]
    rnd.shuffle(words)
    found = check(words)
    assert [f.index for f in found] == sorted(f.index for f in found)
    assert check([]) == []
    assert check([NOP] * 5) == []
