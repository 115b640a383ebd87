"""Tests of hazard rules at their exact distances, along every path; of correct programs; of effects."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from qpu.core.hazards import Finding
from qpu.core.isa import Isa
from qpu.errors import Severity
from qpu.vc4.builder import Asm, assemble, build
from qpu.vc4.decode import decode, reserved, shape
from qpu.vc4.effects import effects
from qpu.vc4.encode import encode
from qpu.vc4.hazards import RULES, _facts, check, facts_of
from qpu.vc4.instr import Alu, LoadImm
from qpu.vc4.pairing import halves
from qpu.vc4.timing import half_effects

NOP = 0x100009E7009E7000
REFERENCE = Path(__file__).parents[2] / "docs" / "hardware" / "vc4.md"
VECTORS = Path(__file__).parent.parent / "vectors" / "vc4.jsonl.gz"


def fragment(words: Any) -> list[Finding]:
    """Findings of a part of a program, which need not have an end."""
    return [f for f in check(words) if f.rule != "H31"]


def rules(fn: Any) -> set[tuple[str, int]]:
    return {(f.rule, f.index) for f in fragment(build(fn).code)}


PAIRS = {
    "H1": (lambda q: q.mov(q.ra[1], q.r0), lambda q: q.mov(q.r0, q.ra[1])),
    "H2": (lambda q: q.mov(q.sfu_recip, q.r0), lambda q: q.mov(q.r0, q.r4)),
    "H3": (lambda q: q.mov(q.sfu_recip, q.r0), lambda q: q.nop(sig=q.loadc)),
    "H4": (lambda q: q.mov(q.sfu_recip, q.r0), lambda q: q.mov(q.sfu_recip, q.r0)),
    "H5": (lambda q: q.mov(q.broadcast, q.r0), lambda q: q.rotate(q.r0, q.r1, q.r5)),
    "H6": (lambda q: q.mov(q.r1, q.r0), lambda q: q.rotate(q.r0, q.r1, 1)),
    "H8": (lambda q: q.mov(q.unif_addr, q.r0), lambda q: q.mov(q.r0, q.uniform)),
    "H9": (lambda q: q.mov(q.tmu_noswap, q.r0), lambda q: q.mov(q.tmu0_s, q.r0)),
    "H11": (lambda q: q.mov(q.tlb_z, q.r0), lambda q: q.mov(q.r0, q.ms_mask)),
}
LIMITS = {rule.id: rule.windows[0].distance for rule in RULES.values() if rule.windows}


@pytest.mark.parametrize("rule", PAIRS)
def test_distance(rule: str) -> None:
    """Exactly the instructions within the distance have a finding."""
    first, second = PAIRS[rule]
    limit = LIMITS[rule]
    for distance in range(1, limit + 3):

        def kernel(q: Asm, d: int = distance) -> None:
            q.nops(4)
            first(q)
            q.nops(d - 1)
            second(q)
            q.nops(3)

        found = [f for f in fragment(build(kernel).code) if f.rule == rule]
        if distance <= limit:
            (f,) = found
            assert (f.index, f.other, f.distance) == (4 + distance, 4, distance)
            assert f.severity is RULES[rule].severity
        else:
            assert not found


@pytest.mark.parametrize("rule", PAIRS)
@pytest.mark.parametrize("cond", ["always", "anyz"])
def test_distance_over_a_branch(rule: str, cond: Any) -> None:
    """The window reaches from the delay slots to the target, and to the fall-through of a conditional branch."""
    first, second = PAIRS[rule]
    limit = LIMITS[rule]
    for slot in (1, 2, 3):
        for ahead in (0, 1, 2):

            def kernel(q: Asm, slot: int = slot, ahead: int = ahead) -> None:
                q.nops(4)
                q.b("target", cond=cond)
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
            found = {f.index for f in fragment(program.code) if f.rule == rule and f.other == 4 + slot}
            assert found == want, (slot, ahead)


def test_a_register_read_at_a_branch_target_is_a_warning() -> None:
    """vc4asm's hello_fft, which runs on silicon, writes rb2 in the last delay slot and reads it at the target."""

    def kernel(q: Asm) -> None:
        q.b("there", cond="allnz")
        q.nops(2)
        q.xor(q.rb[2], q.rb[2], q.r2)
        q.end()
        q.label("there")
        q.mov(q.r1, q.rb[2])
        q.end()

    (found,) = fragment(build(kernel).code)
    assert (found.rule, found.severity, found.other, found.distance) == ("H1", Severity.WARNING, 3, 1)
    assert "along the branch of instruction 0" in found.message


def test_a_loop_closes_the_window() -> None:
    def kernel(q: Asm) -> None:
        with q.loop() as loop:
            q.mov(q.r0, q.r4)
            q.b(loop.start, cond="anyz")
            q.nop()
            q.mov(q.sfu_recip, q.r0)
            q.nop()
        q.nops(2)

    assert rules(kernel) == {("H2", 0)}


def test_a_branch_in_the_last_delay_slot() -> None:
    """Allowed; its delay slots are at the target of the first, and its own target follows those."""

    def kernel(q: Asm) -> None:
        q.b("a")
        q.nops(2)
        q.b("b")
        q.nop()
        q.label("a")
        q.nops(2)
        q.mov(q.sfu_recip, q.r0)
        q.nops(5)
        q.label("b")
        q.nop()
        q.mov(q.r0, q.r4)

    program = build(kernel)
    assert {(f.rule, f.index) for f in fragment(program.code)} == {("H2", program.labels["b"] + 1)}


@pytest.mark.parametrize("entry", [0, 1, 2, 3, 4])
def test_behind_a_branch_whose_slots_are_entered(entry: int) -> None:
    """Effects that enter at a delay slot continue after the slots; otherwise none would reach the instruction there."""

    def kernel(q: Asm) -> None:
        q.b("in", cond="allz")
        q.nops(3)
        for n in range(4):  # the branch and its slots
            if n == entry:
                q.label("in")
            if n == 0:
                q.b("away")
            elif n == 3:
                q.mov(q.ra[0], q.r0)
            else:
                q.nop()
        if entry == 4:
            q.label("in")
        q.mov(q.r1, q.ra[0])
        q.label("away")
        q.end()

    found = {(f.rule, f.index) for f in fragment(build(kernel).code)}
    assert (("H1", 8) in found) is (entry in (1, 2, 3))


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
        q.nop(sig=q.ldtmu0)
        q.mov(q.sfu_recip, q.r4)
        q.nops(2)
        q.fmul(q.vpm, q.r4, 2.0)
        q.setup_dma_store(1, 16)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.setup_vpm_read(1)
        q.mov(q.r0, q.vpm)
        q.end()

    program = assemble(kernel)
    assert check(program.code) == []


def test_a_colour_read_with_a_colour_write_is_one_access() -> None:
    def kernel(q: Asm) -> None:
        q.nops(2)
        q.mov(q.tlb_color_all, q.r0, sig=q.loadc)

    assert rules(kernel) == set()


def test_pipelined_requests_are_fine() -> None:
    def kernel(q: Asm) -> None:
        for _ in range(4):
            q.mov(q.tmu0_s, q.r0)
        with q.loop() as loop:
            q.nop(sig=q.ldtmu0)
            q.mov(q.tmu0_s, q.r4)
            q.b(loop.start, cond="anyz")
            q.nops(3)
        for _ in range(4):
            q.nop(sig=q.ldtmu0)

    assert rules(kernel) == set()


@pytest.mark.parametrize("asked", [1, 2, 15, 16])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_vpm_reads_are_counted(asked: int, extra: int) -> None:
    """16 vectors are asked for by a 0 in the set-up."""

    def kernel(q: Asm) -> None:
        q.setup_vpm_read(asked)
        for _ in range(asked + extra):
            q.mov(q.r0, q.vpm)
        q.end()

    assert {rule for rule, _ in rules(kernel)} == ({"H25"} if extra else set())


def test_what_silicon_runs_is_not_an_error() -> None:
    """Forms of programs that were validated on hardware (vc4.md 9.4, 19 H13)."""
    nop = encode(Alu(cond_add=1, waddr_add=32))  # py-videocore's nop() names r0
    file = encode(Alu(cond_add=1, waddr_add=3))
    both = [
        encode(Alu(op_add=21, cond_add=1, waddr_add=n, op_mul=4, cond_mul=1, waddr_mul=n, raddr_a=1, raddr_b=39,
                   add_a=0, add_b=0, mul_a=0, mul_b=0))
        for n in (32, 37, 38)
    ]  # fmt: skip
    both += [encode(LoadImm(cond_add=1, cond_mul=1, waddr_add=n, waddr_mul=n, imm=9)) for n in (32, 38)]

    def kernel(q: Asm) -> None:
        q.mov(q.r0, q.r1)
        q.raw(nop)
        q.rotate(q.r2, q.r0, 1)
        q.mov(q.ra[3], q.r1)
        q.nop()
        q.raw(file)
        q.mov(q.r1, q.ra[3])
        for word in both:
            q.raw(word)
        q.end()

    assert rules(kernel) == set()


@pytest.mark.parametrize(
    "instr",
    [
        Alu(op_add=21, cond_add=1, waddr_add=32, op_mul=4, cond_mul=1, waddr_mul=32, mul_a=1, mul_b=1),
        Alu(op_add=12, cond_add=1, waddr_add=32, op_mul=4, cond_mul=1, waddr_mul=32),
        Alu(op_add=21, cond_add=1, waddr_add=48, op_mul=4, cond_mul=1, waddr_mul=48),
        Alu(op_add=21, cond_add=1, waddr_add=32, op_mul=4, cond_mul=1, waddr_mul=32, pm=1, pack=4),
        LoadImm(cond_add=1, cond_mul=1, waddr_add=48, waddr_mul=48),
        LoadImm(cond_add=1, cond_mul=1, waddr_add=32, waddr_mul=32, pm=1, pack=4),
    ],
)
def test_two_writes_that_differ_are_an_error(instr: Alu | LoadImm) -> None:
    assert [f.rule for f in fragment([encode(instr)])] == ["H13"]


def test_subroutines_do_not_confuse_the_counts() -> None:
    def kernel(q: Asm) -> None:
        q.mov(q.tmu0_s, q.r0)
        q.b("sub", link=q.ra[2])
        q.nops(3)
        q.nop(sig=q.ldtmu0)
        q.nop(sig=q.ldtmu0)
        q.end()
        q.label("sub")
        q.mov(q.tmu0_s, q.r0)
        q.b(q.ra[2])
        q.nops(3)

    assert rules(kernel) == set()


def test_severities() -> None:
    numbers = set(re.findall(r"^\| (H\d+) \|(?!.*\| encoding \|$)", REFERENCE.read_text(encoding="utf-8"), re.M))
    assert len(numbers) >= 29 and set(RULES) == {"decode", *numbers}
    errors = {"H1", "H2", "H3", "H4", "H5", "H8", "H9", "H23", "H27", "H32", *(f"H{n}" for n in range(11, 21))}
    assert {rule.id for rule in RULES.values() if rule.severity is Severity.ERROR} == errors | {"decode"}
    for rule in RULES.values():
        assert rule.isas == {Isa.VC4}
        assert rule.source
        assert rule.help
        assert bool(rule.name) is (rule.id != "decode")
    assert len({rule.name for rule in RULES.values()}) == len(RULES)


def test_windows_name_effects_that_occur() -> None:
    """Every term of a window is an effect that some word has."""
    seen: set[str] = set()
    rnd = random.Random(4)
    plain = [{"sig": s} for s in range(14)]
    plain += [{"waddr_add": n, "cond_add": 1, "op_add": 21, "ws": n & 1} for n in range(64)]
    plain += [{"waddr_mul": n, "cond_mul": 1, "ws": ws} for n in range(64) for ws in (0, 1)]
    plain += [{"raddr_a": n, "raddr_b": n} for n in range(64)]
    plain += [{"op_add": 21, "add_a": n, "add_b": n} for n in range(6)]
    rotations = [{"sig": 13, "raddr_b": 48, "op_mul": 1, "mul_a": n} for n in range(4)]
    words = [encode(Alu(**fields)) for fields in (*plain, *rotations)]
    words += [rnd.getrandbits(60) | 15 << 60 for _ in range(20)]
    for word in words:
        e = effects(word)
        seen |= e.events | {f"read {r}" for r in e.reads} | {f"write {r}" for r in e.writes}
    assert RULES.windows[Isa.VC4].effects() - seen == {
        # classes hold both directions of every register
        "read vr_setup", "read vw_setup", "read vr_addr", "read vw_addr", "read vpm_write",
        "write vpm_read", "write vdr_busy", "write vdw_busy", "write vdr_wait", "write vdw_wait",
    }  # fmt: skip


def test_effects() -> None:
    def of(fn: Any) -> Any:
        return effects(build(fn).code[0])

    e = of(lambda q: q.fadd(q.ra[1], q.uniform, q.r4, push="z", cond="ifz", sig=q.ldtmu1).mov(q.broadcast, q.r0))
    assert e.reads == {"uniform", "r4", "r0", "flags", "tmu1_result"}
    assert e.writes == {"ra1", "r5", "flags", "r4"}
    assert e.events == {"ldtmu1", "load r4", "flow"}
    assert e.partial == {"ra1"}
    assert e.needs == e.reads | {"ra1"}
    e = of(lambda q: q.b(0, cond="anyz", link=q.ra[3], reg=q.ra[5]))
    assert e.reads == {"flags", "ra5"}
    assert e.writes == {"ra3", "flags"}
    assert e.events == {"branch"}
    e = of(lambda q: q.sema_down(3))
    assert e.writes == {"semaphore3"}
    assert {t.value for t in e.tokens} == {"semaphore"}
    e = of(lambda q: q.rotate(q.r0, q.r1, q.r5))
    assert e.events == {"small_imm", "rotate r1", "rotate by r5"}
    assert e.reads == {"r1", "r5"}
    assert of(lambda q: q.raw(0xE4020827243CF317)).reads == set()


def test_halves_have_the_effects_of_the_whole() -> None:
    rnd = random.Random(3)
    count = 0
    for _ in range(4000):
        alu = decode(rnd.getrandbits(60) | rnd.choice([1, 1, 10, 13, 2]) << 60)
        assert isinstance(alu, Alu)
        if reserved(alu) is not None or not (alu.op_add and alu.op_mul):
            continue
        add, mul = halves(alu)
        if add.pack or mul.pack:
            continue
        count += 1
        assert half_effects(add) | half_effects(mul) | effects(Alu(sig=alu.sig)) == effects(alu), alu
    assert count > 500


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
    assert of(lambda q: q.add(q.ra[1].pack("8b"), q.r0, q.r1)).partial == {"ra1"}
    assert of(lambda q: q.add(q.ra[1].pack("32s"), q.r0, q.r1)).partial == set()
    assert of(lambda q: q.add(q.ra[1].pack("16a"), q.r0, q.r1).fmul(q.r2, q.r0, q.r1)).partial == {"ra1"}
    assert of(lambda q: q.fmul(q.r0.pack("8csf"), q.r0, q.r1)).partial == {"r0"}


def test_check_is_total() -> None:
    rnd = random.Random(7)
    words = [rnd.getrandbits(64) for _ in range(400)]
    words += [rnd.getrandbits(60) | 15 << 60 for _ in range(50)]
    rnd.shuffle(words)
    found = check(words)
    assert [f.index for f in found] == sorted(f.index for f in found)
    assert check([]) == []
    assert [(f.rule, f.index) for f in check([NOP] * 5)] == [("H31", 5)]


@pytest.mark.parametrize("slots", [0, 1, 2])
def test_the_end_and_its_slots(slots: int) -> None:
    def kernel(q: Asm) -> None:
        q.interrupt()
        q.nop(sig=q.thrend)
        for _ in range(slots):
            q.nop()

    found = check(build(kernel).code)
    assert [(f.rule, f.index) for f in found] == ([] if slots == 2 else [("H31", 1)])
    assert all(f"{slots} of the two instructions" in f.message and "q.end()" in f.help for f in found)


def test_a_program_without_an_end() -> None:
    def forgotten(q: Asm) -> None:
        q.mov(q.r0, 1)

    assert [f.rule for f in check(assemble(forgotten).code)] == [
        "H31"
    ]  # a warning: parts of programs are assembled too

    def endless(q: Asm) -> None:
        with q.loop() as again:
            q.b(again.start)
            q.nops(3)

    assert [f.rule for f in check(build(endless).code)] == ["H31"]

    def elsewhere(q: Asm) -> None:
        """A branch to an address, where code of others may end the program."""
        q.mov(q.ra[2], q.uniform)
        q.nop()
        q.b(q.ra[2])
        q.nops(3)

    assert check(build(elsewhere).code) == []


def test_facts_by_shape_are_those_of_the_instruction() -> None:
    """The checker joins its facts about a word without registers with those about the registers."""
    rnd = random.Random(5)
    with gzip.open(VECTORS, "rt") as f:
        words = rnd.sample([int(json.loads(line)["word"], 16) for line in f], 2000)
    words += [rnd.getrandbits(64) for _ in range(4000)]
    for word in list(words):
        for at in (12, 18, 32, 38):
            if rnd.random() < 0.6:
                word = word & ~(63 << at) | rnd.choice((0, 1, 13, 14, 15, 31, 32, 36, 38, 39, 48)) << at
        words.append(word)
    assert sum(shape(word) != word for word in words) > 5000
    for word in words:
        assert _facts(word) == facts_of(decode(word)), f"{word:#x}"
