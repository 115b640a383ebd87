"""Tests of the columns of operation rows against their own semantic functions, on every instruction set."""

from __future__ import annotations

import itertools
import math

import pytest

from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op, OperandType, Table
from qpu.core.scalar_lanes import ScalarLanes, float_bits, float_of
from qpu.v3d.encode import half_key
from qpu.v3d.instr import AluHalf, Dst, Src, SrcKind
from qpu.v3d.ops import table
from qpu.v3d.regs import imm_index
from qpu.v3d.timing import latency
from qpu.vc4.ops import TABLE, is_move

TABLES: dict[Isa, Table] = {Isa.VC4: TABLE, Isa.V3D42: table(Isa.V3D42), Isa.V3D71: table(Isa.V3D71)}
V = ScalarLanes()
INTEGERS = [0, 1, 2, 5, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0xFFFFFFFE, 0x12345678, 0x00FF00FF]
FLOATS = [float_bits(x) for x in (0.0, -0.0, 1.0, -1.0, 1.5, 3.25, -7.5, 1e30, -1e-30, 100.0)]
SPECIAL = [float_bits(x) for x in (math.inf, -math.inf, math.nan)]


def signed(bits: int) -> int:
    return bits - (1 << 32) if bits >> 31 else bits


RELATIONS = {
    "eq": lambda a, b: a == b,
    "lt_u": lambda a, b: a < b,
    "gt_u": lambda a, b: a > b,
    "lt_s": lambda a, b: signed(a) < signed(b),
    "gt_s": lambda a, b: signed(a) > signed(b),
    "eq_f": lambda a, b: float_of(a) == float_of(b),
    "lt_f": lambda a, b: float_of(a) < float_of(b),
    "gt_f": lambda a, b: float_of(a) > float_of(b),
    "le_f": lambda a, b: float_of(a) <= float_of(b),
}


def result_of(op: Op, *operands: int) -> int:
    assert op.sem is not None
    second = operands[:1] if Isa.VC4 in op.code and op.arity == 1 else ()  # ignored there
    got = op.sem(V, *operands, *second)
    return int(got[0] if isinstance(got, tuple) else got) & 0xFFFFFFFF


def flag_of(op: Op, flag: str, a: int, b: int) -> bool:
    result = result_of(op, a, b)
    function = {"z": op.zero, "n": op.negative, "c": op.carry}[flag]
    if function is not None:
        return bool(function(V, a, b, result))
    return {"z": result == 0, "n": bool(result >> 31), "c": False}[flag]


def rows(column: str) -> list[tuple[Isa, Op]]:
    return [(isa, op) for isa, ops in TABLES.items() for op in ops if getattr(op, column)]


@pytest.mark.parametrize(("isa", "op"), rows("relation"), ids=lambda x: getattr(x, "name", str(x)))
def test_flags_say_what_the_relation_says(isa: Isa, op: Op) -> None:
    floats = op.parsed[-1].type is OperandType.F32
    values = FLOATS + (SPECIAL if op.name == "fcmp" else []) if floats else INTEGERS
    for a, b in itertools.product(values, values):
        if isa is not Isa.VC4 and op.name == "fsub" and not (a | b) & 0x7FFFFFFF:
            continue  # of two zeros the difference may be -0.0
        for flag, name in op.relation.items():
            assert flag_of(op, flag, a, b) == RELATIONS[name](a, b), (op.name, flag, hex(a), hex(b))


def test_the_rows_that_schedulers_ask_for_have_relations() -> None:
    for isa in (Isa.V3D42, Isa.V3D71):
        names = {op.name for op in TABLES[isa] if op.relation}
        assert names >= {"min", "max", "umin", "umax", "sub", "fcmp", "fsub", "xor"}
    assert TABLES[Isa.V3D71]["min"].relation == {"c": "gt_s"}
    names = {op.name for op in TABLES[Isa.VC4] if op.relation}
    assert names >= {"min", "max", "sub", "fmin", "fmax", "fsub", "xor"}


@pytest.mark.parametrize(("isa", "op"), rows("idioms"), ids=lambda x: getattr(x, "name", str(x)))
def test_idioms_do_what_they_say(isa: Isa, op: Op) -> None:
    for a, (what, operands) in itertools.product(INTEGERS + FLOATS, op.idioms.items()):
        values = [a if o == "a" else int(o) & 0xFFFFFFFF for o in operands]
        wanted = {"move": a, "zero": 0, "ones": 0xFFFFFFFF}[what]
        if result_of(op, *values) != wanted:
            assert op.name in ("fmin", "fmax"), (op.name, what, hex(a))
            assert float_of(a) != float_of(a) or abs(float_of(a)) < 2**-126, (op.name, hex(a))


def test_every_alu_can_move_and_clear() -> None:
    for isa, ops in TABLES.items():
        for unit in (Unit.ADD, Unit.MUL):
            assert ops.idioms(unit, "move"), (isa, unit)
            assert ops.idioms(unit, "zero"), (isa, unit)
    old, new = TABLES[Isa.V3D42], TABLES[Isa.V3D71]
    assert "or" in [op.name for op, _ in old.idioms(Unit.ADD, "move")]
    assert old.idioms(Unit.MUL, "move")[0][0].name == "fmov"
    assert "mov" in [op.name for op, _ in new.idioms(Unit.ADD, "move")][:2]
    assert {op.name for op in TABLE if is_move(op)} == {"or", "and", "min", "max", "fmin", "fmax", "v8min", "v8max"}


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_idioms_of_v3d_encode(isa: Isa) -> None:
    for unit in (Unit.ADD, Unit.MUL):
        for what in ("move", "zero", "ones"):
            for op, operands in TABLES[isa].idioms(unit, what):
                sources = [
                    Src(SrcKind.RF, 7) if o == "a" else Src(SrcKind.IMM, imm_index(int(o)) or 0) for o in operands
                ]
                if isa is Isa.V3D71 and sum(s.kind is SrcKind.IMM for s in sources) > 1:
                    continue  # one immediate an instruction
                a, b = (*sources, None, None)[:2]
                assert half_key(isa, unit, AluHalf(op, Dst(3), a, b))


@pytest.mark.parametrize(("isa", "op"), rows("commutes"), ids=lambda x: getattr(x, "name", str(x)))
def test_operands_that_commute(isa: Isa, op: Op) -> None:
    floats = op.parsed[-1].type in (OperandType.F32, OperandType.F16X2)
    for a, b in itertools.combinations(FLOATS if floats else INTEGERS, 2):
        if "rtop" in op.implicit_reads:
            assert op.sem is not None
            assert op.sem(V, a, b, 0) == op.sem(V, b, a, 0)
        else:
            one, two = result_of(op, a, b), result_of(op, b, a)
            assert one == two or (floats and {one, two} == {0, 0x80000000}), (op.name, hex(a), hex(b))


def test_latency_of_results() -> None:
    ops = TABLES[Isa.V3D42]

    def half(name: str, dst: Dst) -> AluHalf:
        op = ops[name]
        sources = [Src(SrcKind.RF, 1), Src(SrcKind.RF, 2)][: op.arity]
        a, b = (*sources, None, None)[:2]
        return AluHalf(op, dst, a, b)

    for isa in (Isa.V3D42, Isa.V3D71):
        assert latency(isa, half("add", Dst(5)), "rf5") == 1
        assert latency(isa, half("recip", Dst(5)), "rf5") == 2  # waits
        assert latency(isa, half("recip", Dst(5)), "rf6") == 1
        assert latency(isa, half("mov", Dst(9, True)), "unifa") == 4
    assert latency(Isa.V3D42, half("mov", Dst(19, True)), "r4") == 2
