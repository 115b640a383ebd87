"""Tests of every operation with every modifier, flag and condition against the independent model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op
from qpu.emu.v3d.prepare import prepare
from qpu.v3d.encode import encode
from qpu.v3d.instr import Alu, AluHalf, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import table, variants
from tests.emu.v3d.compare import EDGES, compare, make_state
from tests.emu.v3d.model import GRAPHICS, State, U

ISAS = (Isa.V3D42, Isa.V3D71)
A, B, D, OTHER = 1, 2, 10, 11  # registers
PUSHES = ("pushz", "pushn", "pushc")
CONDS = ("ifa", "ifb", "ifna", "ifnb")
UPDATES = tuple(f"{how}{f}" for how in ("and", "nor") for f in ("z", "nz", "n", "nn", "c", "nc"))
BARE = ("nop", "tmuwt")

Half = dict[str, Any]


def half_of(
    isa: Isa, op: Op, mods: tuple[str, str, str] = ("", "", ""), dst: Dst | None = None, **flags: str
) -> tuple[AluHalf, Half]:
    """The operation on rf1 and rf2 into rf10 or `dst`, for the encoder and in the terms of the vectors."""
    sources: list[Src | None] = [None, None]
    dst = Dst(6, True) if op.name in BARE else dst or Dst(D)
    fields: Half = {"op": op.name, "waddr": dst.n, "magic_write": dst.magic, "output_pack": mods[2] or "none"}
    for k, (role, register) in enumerate((("a", A), ("b", B))):
        if op.operand(role) is None:
            continue
        sources[k] = Src(SrcKind.RF, register, mods[k], port_b=isa is Isa.V3D42 and k == 1)
        place = {"mux": role} if isa is Isa.V3D42 else {"raddr": register}
        fields[role] = {**place, "unpack": mods[k] or "none"}
    return AluHalf(op, dst, sources[0], sources[1], mods[2], **flags), fields


def word_of(
    isa: Isa,
    add: tuple[AluHalf, Half],
    mul: tuple[AluHalf, Half],
    sig: Sig = Sig.NONE,
    ports: tuple[int, int] | None = None,
    sig_dst: Dst | None = None,
) -> tuple[int, dict[str, Any]]:
    """The word, and its fields in the terms of the vectors; the caller adds what belongs to signals but `rotate`."""
    ports = ports or (A, B)
    instr = Alu(isa, add[0], mul[0], sig, sig_dst, *(ports if isa is Isa.V3D42 else (0, 0)))
    flags = {
        "ac": add[0].cond,
        "mc": mul[0].cond,
        "apf": add[0].push,
        "mpf": mul[0].push,
        "auf": add[0].update,
        "muf": mul[0].update,
    }
    fields: dict[str, Any] = {
        "type": "alu",
        "sig": ["rotate"] if sig & Sig.ROT else [],
        "flags": {k: v or "none" for k, v in flags.items()},
        "add": add[1],
        "mul": mul[1],
    }
    if isa is Isa.V3D42:
        fields.update(raddr_a=ports[0], raddr_b=ports[1])
    return encode(instr), fields


def alone(
    isa: Isa, unit: Unit, op: Op, mods: tuple[str, str, str] = ("", "", ""), dst: Dst | None = None, **flags: str
) -> tuple[int, dict[str, Any]]:
    """The operation on one unit, nothing on the other."""
    nop = half_of(isa, table(isa)["nop"])
    this = half_of(isa, op, mods, dst, **flags)
    return word_of(isa, this, nop) if unit is Unit.ADD else word_of(isa, nop, this)


def operations(isa: Isa) -> list[tuple[Unit, Op]]:
    """Every operation of a compute program on every unit that has it."""
    return [
        (unit, op)
        for op in table(isa)
        for unit in (Unit.ADD, Unit.MUL)
        if variants(op, isa, unit) and op.name not in GRAPHICS
    ]


@pytest.fixture(scope="module")
def edges() -> State:
    """All pairs of edge values in rf1 and rf2."""
    n = -(-(len(EDGES) ** 2) // 16)
    s = make_state(np.random.default_rng(5), n=n)
    x, y = np.meshgrid(EDGES, EDGES)
    s.rf[A].ravel()[: x.size] = x.ravel()
    s.rf[B].ravel()[: y.size] = y.ravel()
    return s


@pytest.mark.parametrize("isa", ISAS)
def test_every_modifier_on_all_pairs_of_edge_values(isa: Isa, edges: State) -> None:
    """Each operation with each combination of input and output modifiers, and one flag after the other."""
    count = 0
    for unit, op in operations(isa):
        for k, (a, b, d, _, _) in enumerate(variants(op, isa, unit)):
            push = "" if op.name in BARE else PUSHES[k % 3]
            compare(*alone(isa, unit, op, (a, b, d), push=push), isa, edges)
            count += 1
    assert count > 450


@pytest.mark.parametrize("isa", ISAS)
def test_every_flag_and_condition_of_every_operation(isa: Isa) -> None:
    rng = np.random.default_rng(6)
    for unit, op in operations(isa):
        if op.name in BARE:
            continue
        s = make_state(rng)
        for push in PUSHES:
            compare(*alone(isa, unit, op, push=push), isa, s)
        for update in UPDATES:
            compare(*alone(isa, unit, op, update=update), isa, s)
        if op.lane_op and op.operand("b") is None:
            continue  # with a condition: not known
        for cond in CONDS:
            compare(*alone(isa, unit, op, cond=cond), isa, s)


@pytest.mark.parametrize("isa", ISAS)
def test_every_operation_into_the_destinations_that_broadcast(isa: Isa) -> None:
    """r5 and r5rep, or quad and rep: quads or all lanes get one lane; lane operations of 7.1 are not affected."""
    rng = np.random.default_rng(8)
    for unit, op in operations(isa):
        if op.name in BARE:
            continue
        s = make_state(rng)
        packs = sorted({v[2] for v in variants(op, isa, unit)})
        for number in (5, 55):
            for pack in packs:
                compare(*alone(isa, unit, op, ("", "", pack), Dst(number, True)), isa, s)


def test_every_rotation_of_42() -> None:
    """Each operation of the multiplier, each amount, accumulators and registers as operands."""
    isa, rng = Isa.V3D42, np.random.default_rng(9)
    nop = half_of(isa, table(isa)["nop"])
    accumulators = (Src(SrcKind.ACC, 0), Src(SrcKind.ACC, 3)), ({"mux": "r0"}, {"mux": "r3"})
    registers = (Src(SrcKind.RF, A), Src(SrcKind.RF, A)), ({"mux": "a"}, {"mux": "a"})
    for unit, op in operations(isa):
        if unit is not Unit.MUL or op.name in BARE:
            continue
        s = make_state(rng)
        s.acc[5] = rng.integers(0, 16, (len(s.tidx), 1)).astype(U)
        for amount in range(32):
            for sources, places in (accumulators, registers):
                half, fields = half_of(isa, op)
                pair = [src if op.operand(role) is not None else None for role, src in zip("ab", sources, strict=True)]
                half = AluHalf(op, half.dst, *pair)
                named = {r: {**p, "unpack": "none"} for r, p in zip("ab", places, strict=True) if r in fields}
                word, f = word_of(isa, nop, (half, {**fields, **named}), Sig.ROT, (A, amount))
                compare(word, f, isa, s)


@pytest.mark.parametrize("isa", ISAS)
def test_every_small_immediate(isa: Isa) -> None:
    """48 values in each operand that can hold one, of an integer, a float and a half operation."""
    rng = np.random.default_rng(10)
    ops = table(isa)
    values = [*range(16), *(v & 0xFFFFFFFF for v in range(-16, 0))]
    values += [int(np.float32(2.0**k).view(U)) for k in range(-8, 8)]
    nop = half_of(isa, ops["nop"])
    halves = ((Unit.ADD, "sub"), (Unit.ADD, "fsub"), (Unit.ADD, "vfmin"), (Unit.MUL, "fmul"), (Unit.MUL, "sub"))
    for unit, name in halves:
        for k, role in enumerate("ab"):
            sig = Sig.IMM_B
            if isa is Isa.V3D71:
                sig = (Sig.IMM_A, Sig.IMM_B, Sig.IMM_C, Sig.IMM_D)[k + 2 * (unit is Unit.MUL)]
            for index, value in enumerate(values):
                half, fields = half_of(isa, ops[name])
                sources = [half.a, half.b]
                sources[k] = Src(SrcKind.IMM, index)
                other = 1 - k
                if isa is Isa.V3D42:
                    sources[other] = Src(SrcKind.RF, A)
                    fields["ab"[other]] = {"mux": "a", "unpack": "none"}
                    fields[role] = {"mux": "b", "unpack": "none"}
                else:
                    fields[role] = {"imm_index": index, "imm": f"0x{value:08x}", "unpack": "none"}
                this = AluHalf(ops[name], half.dst, *sources), fields
                pair = (this, nop) if unit is Unit.ADD else (nop, this)
                word, f = word_of(isa, *pair, sig, (A, index))
                if isa is Isa.V3D42:
                    f["small_imm_b"] = f"0x{value:08x}"
                compare(word, f, isa, make_state(rng))


@pytest.mark.parametrize("isa", ISAS)
def test_every_load_signal_into_every_kind_of_destination(isa: Isa) -> None:
    """The instruction beside a load reads old values; r5, r5rep, quad and rep broadcast loads too."""
    rng = np.random.default_rng(11)
    ops = table(isa)
    places = [Dst(30), Dst(0), Dst(5, True), Dst(55, True), Dst(11, True)]
    if isa is Isa.V3D42:
        places += [Dst(k, True) for k in range(5)]
    implicit = {"ldunif": Sig.LDUNIF, "ldunifa": Sig.LDUNIFA}
    named = {"ldtmu": Sig.LDTMU, "ldunifrf": Sig.LDUNIFRF, "ldunifarf": Sig.LDUNIFARF}
    both = {("ldtmu", "ldunif"): Sig.LDTMU | Sig.LDUNIF}
    choices: list[tuple[tuple[str, ...], Sig, Dst | None]] = [((n,), s, None) for n, s in implicit.items()]
    choices += [((n,), s, d) for n, s in named.items() for d in places]
    choices += [(n, s, Dst(30)) for n, s in both.items()]
    for names, sig, dst in choices:
        word, f = word_of(isa, half_of(isa, ops["sub"]), half_of(isa, ops["nop"]), sig, None, dst)
        f["sig"] = list(names)
        if dst is not None:
            f["sig_addr"], f["sig_magic"] = dst.n, dst.magic
        compare(word, f, isa, make_state(rng))


@pytest.mark.parametrize("isa", ISAS)
def test_both_units_with_every_pair_of_conditions_and_flags(isa: Isa) -> None:
    """Conditions see the flags from before the instruction, also when the other unit pushes or updates."""
    rng = np.random.default_rng(7)
    ops = table(isa)

    def pair(add: dict[str, str], mul: dict[str, str]) -> tuple[int, dict[str, Any]]:
        product, fields = half_of(isa, ops["umul24"], **mul)
        moved = AluHalf(product.op, Dst(OTHER), product.a, product.b, "", product.cond, product.push, product.update)
        return word_of(isa, half_of(isa, ops["sub"], **add), (moved, {**fields, "waddr": OTHER}))

    choices = [({"cond": c}, {"push": p}) for c in CONDS for p in PUSHES]
    choices += [({"push": p}, {"cond": c}) for c in CONDS for p in PUSHES]
    choices += [({"cond": c}, {"cond": m}) for c in CONDS for m in CONDS]
    choices += [({"update": u}, {"cond": c}) for c in CONDS for u in UPDATES]
    for add, mul in choices:
        compare(*pair(add, mul), isa, make_state(rng))


@pytest.mark.parametrize("isa", ISAS)
def test_no_operation_is_left_out(isa: Isa) -> None:
    """Operations that the model does not cover are refused by name, and only those."""
    covered = {op.name for _, op in operations(isa)}
    left = {op.name for op in table(isa)} - covered
    assert left == {op.name for op in table(isa) if op.name in GRAPHICS}
    for op in table(isa):
        if op.name in left:
            for unit in (Unit.ADD, Unit.MUL):
                for variant in variants(op, isa, unit)[:1]:
                    half, _ = half_of(isa, op, variant[:3])
                    if op.operand("d") is None:
                        half = AluHalf(op, None, half.a, half.b)
                    nop, _ = half_of(isa, table(isa)["nop"])
                    pair = (half, nop) if unit is Unit.ADD else (nop, half)
                    ports = (A, B) if isa is Isa.V3D42 else (0, 0)
                    found = prepare(isa, encode(Alu(isa, *pair, Sig.NONE, None, *ports)))
                    assert found.problem is not None, op.name
                    assert found.problem[0] == "graphics"
                    assert op.name in found.problem[1]
