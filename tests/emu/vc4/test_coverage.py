"""Tests that everything has a model: operations, packs, unpacks, conditions, immediates, functions, registers.

The lists here are typed from the reference (vc4.md), not taken from the package: a row that is added to the package
without a model and a test fails here.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable

import numpy as np
import pytest

from qpu.core.optable import Unit
from qpu.emu.engine.numpy_lanes import quiet
from qpu.emu.vc4.fetch import step
from qpu.vc4 import pack, regs
from qpu.vc4.builder import Asm
from qpu.vc4.decode import decode
from qpu.vc4.encode import encode
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, LoadMode, Semaphore
from qpu.vc4.ops import ADD_OPS, MUL_OPS, SFU, TABLE
from tests.emu.vc4 import model as model
from tests.emu.vc4.chip import ADD_CODES, EDGES, Chip
from tests.emu.vc4.rig import Rig, addresses, store_rows

ADD_NAMES = {
    "fadd": 1, "fsub": 2, "fmin": 3, "fmax": 4, "fminabs": 5, "fmaxabs": 6, "ftoi": 7, "itof": 8, "add": 12, "sub": 13,
    "shr": 14, "asr": 15, "ror": 16, "shl": 17, "min": 18, "max": 19, "and": 20, "or": 21, "xor": 22, "not": 23,
    "clz": 24, "v8adds": 30, "v8subs": 31,
}  # fmt: skip
MUL_NAMES = {"fmul": 1, "mul24": 2, "v8muld": 3, "v8min": 4, "v8max": 5, "v8adds": 6, "v8subs": 7}
UNARY = {"ftoi", "itof", "not", "clz"}


def test_every_operation_has_a_model() -> None:
    for names, ops, unit in ((ADD_NAMES, ADD_OPS, Unit.ADD), (MUL_NAMES, MUL_OPS, Unit.MUL)):
        found = {op.name: code for code, op in enumerate(ops) if op is not None and op.name != "nop"}
        assert found == names, unit
    assert sorted(ADD_NAMES.values()) == ADD_CODES
    modelled = {*ADD_NAMES, *MUL_NAMES, "nop"}
    assert {op.name for op in TABLE} == modelled
    for code in ADD_NAMES.values():
        result = model.add_op(code, 0x3F800000, 3)
        assert 0 <= result <= 0xFFFFFFFF and model.add_carry(code, 0x3F800000, 3, result) in (True, False)
    for code in MUL_NAMES.values():
        assert 0 <= model.mul_op(code, 0x3F800000, 3) <= 0xFFFFFFFF
    for code in set(range(32)) - {0, *ADD_NAMES.values()}:
        with pytest.raises(KeyError):
            model.add_op(code, 1, 1)  # a reserved code has no meaning to agree on


@pytest.mark.parametrize("name", ADD_NAMES)
@pytest.mark.parametrize("cond", range(8))
def test_every_add_operation_under_every_condition(name: str, cond: int) -> None:
    """Flags, registers and write-back on all lanes, with edge values, new flags set and not."""
    check_op(ADD_NAMES[name], cond, mul=False)


@pytest.mark.parametrize("name", MUL_NAMES)
@pytest.mark.parametrize("cond", range(8))
def test_every_mul_operation_under_every_condition(name: str, cond: int) -> None:
    check_op(MUL_NAMES[name], cond, mul=True)


@functools.cache
def one_chip() -> Chip:
    return Chip(1)


def check_op(code: int, cond: int, *, mul: bool) -> None:
    chip, rng = one_chip(), np.random.default_rng(1000 * code + cond)
    for sf in (0, 1):
        for to in (2, 7, 33):  # file A, file B or an accumulator
            chip.randomise(rng)
            chip.bank.acc[0, 0] = rng.choice(np.array(EDGES, np.uint32), 16)
            fields = {"op_mul": code, "cond_mul": cond, "waddr_mul": to, "mul_a": 0, "mul_b": 1}
            if not mul:
                fields = {"op_add": code, "cond_add": cond, "waddr_add": to, "add_a": 0, "add_b": 1}
            instr = Alu(sf=sf, ws=int(to == 7), **fields)
            want = chip.state(0)
            model.execute(want, instr)
            with quiet():
                step(encode(instr)).run(chip.group([0]), chip.units)
            assert chip.state(0) == want, instr


def test_every_pack_unpack_condition_and_immediate_is_in_a_test() -> None:
    assert [row.code for row in pack.UNPACK] == list(range(8))  # test_unpack
    assert [row.code for row in pack.PACK_A] == list(range(16))  # test_pack_file_a
    assert sorted(pack.PACK_MUL) == [0, 3, 4, 5, 6, 7]  # test_pack_mul
    assert [c.code for c in regs.CONDS] == list(range(8))  # above
    assert sorted(SFU) == [52, 53, 54, 55]  # below
    assert {m.value for m in LoadMode} == {0, 1, 3}  # below
    for code in range(64):  # test_small_immediates_and_rotations
        assert regs.small_imm_value(code) == model.small_imm(code)
    branches = importlib.import_module("tests.emu.vc4.test_branches")
    tested = {name for name, *_ in branches.BRANCHES} | {"always"}
    assert {c.name for c in regs.BRANCH_CONDS} == tested


@pytest.mark.parametrize("mode", list(LoadMode))
@pytest.mark.parametrize("cond", range(8))
def test_load_immediates(mode: LoadMode, cond: int) -> None:
    """Both destinations under their own conditions, flags, packs; vc4.md 2.2, 5.4 and 7."""
    chip, rng = one_chip(), np.random.default_rng(10 * mode + cond)
    for imm in (0, 1, 0x80000000, 0xFFFFFFFF, 0xCCCCAAAA, 0x00010002, int(rng.integers(0, 1 << 32))):
        for sf, ws, pack_code in ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 0, 4), (0, 0, 1), (0, 0, 8)):
            other = int(rng.integers(0, 8))
            instr = LoadImm(
                mode, pack=pack_code, cond_add=cond, cond_mul=other, sf=sf, ws=ws, waddr_add=3, waddr_mul=4, imm=imm
            )
            chip.randomise(rng)
            want = chip.state(0)
            high, low = imm >> 16, imm & 0xFFFF
            lanes = [
                imm
                if mode == LoadMode.WORD
                else (low >> e & 1) - 2 * (high >> e & 1)
                if mode == LoadMode(1)
                else (low >> e & 1) + 2 * (high >> e & 1)
                for e in range(16)
            ]
            lanes = [x & 0xFFFFFFFF for x in lanes]
            flags = [[True] * 16, want.z[:], want.n[:], want.c[:]]

            def holds(c: int, e: int, flags: list[list[bool]] = flags) -> bool:
                return c == 1 if c < 2 else flags[c // 2][e] != bool(c & 1)

            for e in range(16):
                for is_mul, c, at in ((False, cond, 3), (True, other, 4)):
                    if holds(c, e):
                        file_a = bool(ws) == is_mul
                        target = (want.a if file_a else want.b)[at]
                        target[e] = (
                            model.pack_a(pack_code, target[e], lanes[e], False) if file_a and pack_code else lanes[e]
                        )
                if sf and holds(cond, e):
                    want.z[e], want.n[e], want.c[e] = lanes[e] == 0, bool(lanes[e] >> 31), False
            with quiet():
                step(encode(instr)).run(chip.group([0]), chip.units)
            got = chip.state(0)
            assert (got.a, got.b, got.acc) == (want.a, want.b, want.acc), instr
            assert (got.z, got.n, got.c) == (want.z, want.n, want.c), instr


def reciprocal(x: float) -> float:
    return 1 / x if x else math.inf


def root(x: float) -> float:
    return 1 / math.sqrt(abs(x)) if x else math.inf


def power(x: float) -> float:
    return math.inf if x >= 128 else 2.0**x if x > -200 else 0.0


def logarithm(x: float) -> float:
    return math.log2(abs(x)) if x else -math.inf


SFU_MODEL: dict[str, Callable[[float], float]] = {
    "sfu_recip": reciprocal,
    "sfu_rsqrt": root,
    "sfu_exp2": power,
    "sfu_log2": logarithm,
}


@pytest.mark.parametrize("name", SFU_MODEL)
@pytest.mark.parametrize("by_mul", [False, True])
def test_special_functions_of_edge_values(name: str, by_mul: bool) -> None:
    """In all lanes; infinities exactly, finite values to the accuracy that the reference promises."""
    numbers = [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 3.0, -3.5, 1e-30, 1e30, 127.0, 128.0, -126.0, 100.25, -1e10, 7.0]

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.t0s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        to = getattr(q, name)
        if by_mul:
            q.nop().v8min(to, q.r0, q.r0)
        else:
            q.mov(to, q.r0)
        q.nops(2)
        q.mov(q.r1, q.r4)
        store_rows(q, [q.r1], q.ra[0])
        q.end()

    rig = Rig()
    at, _ = rig.array(numbers, np.float32)
    out, y = rig.zeros(16, np.float32)
    rig.run(program, [out, at])
    for x, got in zip(numbers, y.tolist(), strict=True):
        want = SFU_MODEL[name](x)
        if math.isinf(want):
            assert got == want, (x, got)
        elif abs(want) < 2.0**-126:
            assert abs(got) < 2.0**-125, (x, got)
        else:
            assert math.isclose(got, want, rel_tol=1e-4, abs_tol=1e-4 if "log" in name else 0), (x, got, want)


# Where each register is tried by a program. Graphics registers are refused by name (test_vc4_faults).
READ_IN = {
    "unif": "test_together", "elem_num": "test_programs", "qpu_num": "test_together",
    "nop": "test_faults", "vpm": "test_vpm", "vr_busy": "test_programs", "vw_busy": "test_programs",
    "vr_wait": "test_vpm",
    "vw_wait": "test_vpm", "mutex": "test_together",
}  # fmt: skip
WRITTEN_IN = {
    **{f"r{n}": "test_alu" for n in range(4)}, "tmurs": "test_faults", "r5quad": "test_alu",
    "r5rep": "test_alu", "irq": "test_together", "-": "test_alu", "unif_addr": "test_together",
    "unif_addr_rel": "test_faults", "vpm": "test_vpm", "vr_setup": "test_vpm", "vw_setup": "test_vpm",
    "vr_addr": "test_vpm", "vw_addr": "test_vpm", "mutex": "test_together", "recip": "here",
    "recipsqrt": "here", "exp": "here", "log": "here", **{f"t{n}{c}": "test_texture" for n in "01" for c in "strb"},
}  # fmt: skip


def test_every_register_has_a_program() -> None:
    for rows, known in ((regs.READS, READ_IN), (regs.WRITES, WRITTEN_IN)):
        assert {r.names[0] for r in rows if not r.graphics} == set(known)
        for module in set(known.values()) - {"here"}:
            importlib.import_module(f"tests.emu.vc4.{module}")


# -- the worked examples of the reference (vc4.md 24), executed

EXAMPLES = {
    0x100009E7009E7000: Alu(sig=1, add_a=0, add_b=0),
    0xE00208273F800000: LoadImm(LoadMode.WORD, cond_add=1, waddr_add=32, imm=0x3F800000),
    0x10020827159E7240: Alu(op_add=21, cond_add=1, waddr_add=32, add_a=1, add_b=1),
    0x100248212C042DF7: Alu(
        op_add=12, op_mul=1, cond_add=1, cond_mul=1, waddr_add=32, waddr_mul=33, raddr_a=1, raddr_b=2, add_a=6, add_b=7,
        mul_a=6, mul_b=7,
    ),
    0xD00049E0809F3009: Alu(sig=13, op_mul=4, cond_mul=1, waddr_mul=32, raddr_b=51, mul_a=1, mul_b=1),
    0xA00009E7009E7000: Alu(sig=10),
    0xE80009E700000013: Semaphore(imm=19),
    0xF0F809E7FFFFFFE0: Branch(rel=1, imm=-32 & 0xFFFFFFFF),
    0xF0F489E700000000: Branch(reg=1, raddr_a=4),
    0xE6020827CCCCAAAA: LoadImm(LoadMode(3), cond_add=1, waddr_add=32, imm=0xCCCCAAAA),
}  # fmt: skip


@pytest.mark.parametrize(("word", "instr"), EXAMPLES.items(), ids=[f"{w:016x}" for w in EXAMPLES])
def test_worked_examples_are_what_the_reference_says(word: int, instr: Instr) -> None:
    assert decode(word) == instr and encode(instr) == word
    if isinstance(instr, Alu) and instr.sig != 10:
        chip = Chip(1)
        chip.randomise(np.random.default_rng(3))
        want = chip.state(0)
        model.execute(want, instr)
        with quiet():
            step(word).run(chip.group([0]), chip.units)
        assert chip.state(0) == want


def test_worked_examples_in_a_program() -> None:
    """All of them in one program: the jump to itself is left out of the way, the semaphore is raised before."""
    words = list(EXAMPLES)
    rig = Rig()
    table, _ = rig.array(np.arange(100, 116), np.uint32)
    out, y = rig.zeros((4, 16), np.uint32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.ldi(q.ra[1], 1.5)
        q.ldi(q.rb[2], 4.0)
        q.sema_up(3)
        q.mov(q.r1, q.element_number)
        q.mov(q.t0s, q.uniform)
        q.raw(words[0])
        q.raw(words[1])  # r0 = 1.0
        q.mov(q.ra[10], q.r0)
        q.raw(words[2])  # r0 = r1
        q.mov(q.ra[11], q.r0)
        q.raw(words[4])  # r0 = r1 rotated by 3
        q.mov(q.ra[12], q.r0)
        q.raw(words[3])  # r0 = ra1 + rb2 as integers, r1 = ra1 * rb2
        q.raw(words[5])  # ldtmu0
        q.raw(words[6])  # takes semaphore 3
        q.add(q.ra[13], q.r4, q.r1)
        q.b("on", link=q.ra[4])
        q.nops(3)
        q.b("end")
        q.nops(3)
        q.label("on")
        q.raw(words[8])  # returns through ra4
        q.raw(words[9])  # r0 = 0, 1, 2, 3, ... in its delay slot
        q.nops(2)
        q.label("end")
        q.mov(q.ra[14], q.r0)
        q.nop()
        store_rows(q, [q.ra[10], q.ra[11], q.ra[12], q.ra[14]], q.ra[0])
        q.end()

    rig.run(program, [out, table])
    assert (y[0] == 0x3F800000).all() and y[1].tolist() == list(range(16))
    assert y[2].tolist() == np.roll(np.arange(16), 3).tolist()
    assert y[3].tolist() == [0, 1, 2, 3] * 4
    assert rig.machine.semaphores == (0,) * 16


# -- how many programs there are

PROGRAMS = {
    "test_programs": set(),
    "test_patterns": set(),
    "test_control": set(),
    "test_branches": set(),
    "test_together": set(),
    "test_texture": {"test_what_is_not_emulated_is_named"},
}


def test_there_are_more_than_sixty_programs_in_which_units_interact() -> None:
    """Each test function once, however many parameters it has. The sets name tests that are not such programs."""
    table = {}
    for name, others in PROGRAMS.items():
        module = importlib.import_module(f"tests.emu.vc4.{name}")
        found = [k for k, v in vars(module).items() if k.startswith("test_") and v.__module__ == module.__name__]
        table[name] = len(set(found) - others)
    print(table)
    assert sum(table.values()) >= 75, table
