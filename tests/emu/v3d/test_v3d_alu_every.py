"""Every operation with every modifier, flag and condition against the independent model; encoded by ourselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from v3d_compare import EDGES, compare, make_state
from v3d_model import GRAPHICS, State

from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op
from qpu.emu.v3d_prepare import prepare
from qpu.v3d.encode import encode
from qpu.v3d.instr import Alu, AluHalf, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import LANE_OPS, table, variants

ISAS = (Isa.V3D42, Isa.V3D71)
A, B, D, OTHER = 1, 2, 10, 11  # registers
PUSHES = ("pushz", "pushn", "pushc")
CONDS = ("ifa", "ifb", "ifna", "ifnb")
UPDATES = tuple(f"{how}{f}" for how in ("and", "nor") for f in ("z", "nz", "n", "nn", "c", "nc"))
BARE = ("nop", "tmuwt")

Half = dict[str, Any]


def half_of(isa: Isa, op: Op, mods: tuple[str, str, str] = ("", "", ""), **flags: str) -> tuple[AluHalf, Half]:
    """The operation on rf1 and rf2 into rf10, for the encoder and in the terms of the vectors."""
    sources: list[Src | None] = [None, None]
    dst = Dst(6, True) if op.name in BARE else Dst(D)
    fields: Half = {"op": op.name, "waddr": dst.n, "magic_write": dst.magic, "output_pack": mods[2] or "none"}
    for k, (role, register) in enumerate((("a", A), ("b", B))):
        if op.operand(role) is None:
            continue
        sources[k] = Src(SrcKind.RF, register, mods[k], port_b=isa is Isa.V3D42 and k == 1)
        place = {"mux": role} if isa is Isa.V3D42 else {"raddr": register}
        fields[role] = {**place, "unpack": mods[k] or "none"}
    return AluHalf(op, dst, sources[0], sources[1], mods[2], **flags), fields


def word_of(isa: Isa, add: tuple[AluHalf, Half], mul: tuple[AluHalf, Half]) -> tuple[int, dict[str, Any]]:
    instr = Alu(isa, add[0], mul[0], Sig.NONE, None, *((A, B) if isa is Isa.V3D42 else (0, 0)))
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
        "sig": [],
        "flags": {k: v or "none" for k, v in flags.items()},
        "add": add[1],
        "mul": mul[1],
    }
    if isa is Isa.V3D42:
        fields.update(raddr_a=A, raddr_b=B)
    return encode(instr), fields


def alone(
    isa: Isa, unit: Unit, op: Op, mods: tuple[str, str, str] = ("", "", ""), **flags: str
) -> tuple[int, dict[str, Any]]:
    """The operation on one unit, nothing on the other."""
    nop = half_of(isa, table(isa)["nop"])
    this = half_of(isa, op, mods, **flags)
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
        if op.name in LANE_OPS and op.operand("b") is None:
            continue  # with a condition: not known
        for cond in CONDS:
            compare(*alone(isa, unit, op, cond=cond), isa, s)


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
    """What the model does not cover is refused by name, and the other way round."""
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
