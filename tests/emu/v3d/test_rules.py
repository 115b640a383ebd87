"""Tests of every rule of the machine: a program that breaks it, on strict and lenient machines."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import qpu.emu.v3d.reference
from qpu.core.isa import Isa
from qpu.emu.v3d.faults import HELP
from qpu.emu.v3d.prepare import SFU_LATENCY
from qpu.errors import EmuFault
from qpu.v3d.asm import assemble
from qpu.v3d.encode import encode
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import table
from qpu.v3d.rules import RULES
from tests.emu.v3d.idioms import config, jump, take
from tests.emu.v3d.rig import ISAS, Rig, move

V42, V71 = (Isa.V3D42,), (Isa.V3D71,)
SOURCES = ("reference", "services", "reference_branches", "alu", "prepare", "dispatch", "execution", "tmu")
ELSEWHERE = {"dispatch", "interrupted", "code-out-of-bounds", "deadlock"}  # test_dispatch.py, test_faults.py


@dataclass(frozen=True)
class Case:
    """A program that breaks a rule. stops: a fault also when lenient; warns: a warning also when strict."""

    rule: str
    program: Callable[[Any], None]
    isas: tuple[Isa, ...] = ISAS
    stops: bool = False
    warns: bool = False
    uniforms: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def program(body: Callable[[Any], None]) -> Callable[[Any], None]:
    def whole(q: Any) -> None:
        take(q, q.rf[5])  # a buffer
        body(q)
        q.end()

    return whole


def words(q: Any, n: int) -> None:
    for _ in range(n):
        move(q, q.tmud, q.rf[5])


def load(q: Any, at: Any) -> None:
    move(q, q.tmua, at)
    q.nop(sig=q.ldtmu(q.rf[6]))


def pending(n: int) -> Callable[[Any], None]:
    def body(q: Any) -> None:
        for _ in range(n):
            move(q, q.tmua, q.rf[5])
        for _ in range(n):
            q.nop(sig=q.ldtmu(q.rf[6]))

    return body


def stored(count: int, word: int | None = None) -> Callable[[Any], None]:
    def body(q: Any) -> None:
        if word is not None:
            q.nop(sig=q.wrtmuc)
        words(q, count)
        move(q, q.tmua, q.rf[5])
        if word is not None and word >> 3 & 15 != 15:
            q.nop(sig=q.ldtmu(q.rf[6]))

    return body


def misaligned(q: Any) -> None:
    q.add(q.rf[5], q.rf[5], 2)
    load(q, q.rf[5])


def far(q: Any) -> None:
    move(q, q.rf[6], 15)
    q.shl(q.rf[6], q.rf[6], 10)
    q.add(q.rf[5], q.rf[5], q.rf[6])
    load(q, q.rf[5])


def unifa_early(q: Any) -> None:
    move(q, q.unifa, q.rf[5])
    q.nop()
    q.nop(sig=q.ldunifarf(q.rf[6]))


def two_uniforms(q: Any) -> None:
    move(q, q.unifa, q.rf[5])
    q.nop()
    q.nop()
    q.nop()
    q.nop(sig=q.ldunifa).mov(q.tmuau, q.rf[5])
    q.nop(sig=q.ldtmu(q.rf[6]))


def two_requests(q: Any) -> None:
    move(q, q.tmua, q.rf[5])
    q.add(q.tmua, q.rf[5], 0).mov(q.tmua, q.rf[5])
    for _ in range(3):
        q.nop(sig=q.ldtmu(q.rf[6]))


def unpopped(q: Any) -> None:
    move(q, q.tmua, q.rf[5])


def barrier_with_results(q: Any) -> None:
    move(q, q.tmua, q.rf[5])
    q.barrierid(q.syncb, sig=q.thrsw)
    q.nop()
    q.nop()
    q.nop(sig=q.ldtmu(q.rf[6]))


def in_slots(signal: str, *body: str) -> Callable[[Any], None]:
    def slots(q: Any) -> None:
        if signal == "thrsw":
            q.nop(sig=q.thrsw)
        else:
            q.b("out")
        if body[0] == "thrsw":
            q.nop(sig=q.thrsw)
        elif body[0] == "b":
            q.b("out")
        else:
            q.nop().mov(q.magic(19), 1.0)
        for _ in range(4):
            q.nop()
        q.label("out")

    return slots


def branch_target(q: Any) -> None:
    q.add(q.rf[5], q.rf[5], 4)
    jump(q, q.rf[5])


def uniforms_from_link(q: Any) -> None:

    q.raw(encode(Branch(q.isa, bdi="rel", offset=0, ub=True, bdu="lri")))
    q.nop()
    q.nop()
    q.nop()


def same_destination(q: Any) -> None:
    q.eidx(q.rf[6]).mov(q.rf[6], q.rf[5])


def sfu_early(q: Any) -> None:
    q.nop().mov(q.magic(19), 1.0)
    q.add(q.r0, q.r4, 1)


def sfu_then(what: str) -> Callable[[Any], None]:
    def body(q: Any) -> None:
        q.nop().mov(q.magic(19), 1.0)
        q.nop().mov(q.magic(19) if what == "sfu" else q.r4, 1.0)
        q.nop()

    return body


def rotate_loaded(q: Any) -> None:
    move(q, q.tmua, q.rf[5])
    q.nop(sig=q.ldtmu(q.r0))
    q.nop(sig=q.rot(1)).mov(q.r1, q.r0)


def rotate_early(q: Any) -> None:
    q.or_(q.r5, 3, 3)
    q.nop(sig=q.rot(q.r5)).mov(q.r1, q.r0)


def lane_op_tmu(q: Any) -> None:
    q.raw(ballot_to_tmud())
    move(q, q.tmua, q.rf[5])


def ballot_to_tmud() -> int:
    """`ballot tmud, rf5`, which the builder refuses."""

    ops = table(Isa.V3D71)
    nop = AluHalf(ops["nop"], Dst(6, True))
    return encode(Alu(Isa.V3D71, AluHalf(ops["ballot"], Dst(11, True), Src(SrcKind.RF, 5)), nop))


def small_immediate(isa: Isa) -> int:
    """An addition with immediate 48, which is reserved."""

    ops = table(isa)
    nop = AluHalf(ops["nop"], Dst(6, True))
    add = AluHalf(ops["add"], Dst(6), Src(SrcKind.RF, 5), Src(SrcKind.IMM, 47))
    word = encode(Alu(isa, add, nop, Sig.IMM_B, None, 5 if isa is Isa.V3D42 else 0, 47 if isa is Isa.V3D42 else 0))
    return word & ~0x3F | 48


def rotated_register(q: Any) -> None:
    q.nop(sig=q.rot(1)).mov(q.r1, q.r0)


CASES = [
    Case("decode", lambda q: q.raw(0x0300_0000_0000_0000), stops=True),
    Case("small-imm-reserved", lambda q: q.raw(small_immediate(q.isa)), stops=True),
    Case("graphics", lambda q: q.iid(q.rf[6]), stops=True),
    Case("texture", lambda q: q.eidx(q.magic(33)), stops=True),
    Case("syncu", lambda q: q.eidx(q.magic(17)), stops=True),
    Case("reserved-address", lambda q: q.eidx(q.magic(10)), stops=True),
    Case("tmu-empty", lambda q: q.nop(sig=q.ldtmu(q.rf[6])), stops=True),
    Case("branch-misaligned", branch_target, stops=True),
    Case("branch-slot", in_slots("b", "b"), stops=True),
    Case("branch-slot", in_slots("thrsw", "b")),
    Case("branch-slot", in_slots("b", "thrsw")),
    Case("register-range", lambda q: q.eidx(q.rf[40]), options={"threads": 4}),
    Case("same-destination", same_destination),
    Case("peripheral", two_requests),
    Case("uniform-pair", two_uniforms, uniforms=(0xFFFFFFFF,)),
    Case("unifa-early", unifa_early),
    Case("misaligned", misaligned),
    Case("out-of-bounds", far),
    Case("tmu-request", stored(3, config(0)), uniforms=(config(0),)),
    Case("tmu-data", stored(1, config(3)), uniforms=(config(3),)),
    Case("tmu-data", stored(1, config(15, 3)), warns=True, uniforms=(config(15, 3),)),
    Case("tmu-data-overflow", stored(9, config(15, 4)), stops=True, uniforms=(config(15, 4),)),
    Case("tmu-pending", pending(9), warns=True),
    Case("tmu-pending", pending(5), warns=True, options={"threads": 4}),
    Case("tmu-overflow", pending(33), stops=True),
    Case("tmu-unpopped", unpopped, warns=True),
    Case("barrier-tmu", barrier_with_results, warns=True),
    Case("uniforms-from-link", uniforms_from_link, warns=True),
    Case("sfu-r4-read", sfu_early, V42),
    Case("sfu-r4-write", sfu_then("r4"), V42),
    Case("sfu-sfu", sfu_then("sfu"), V42),
    Case("thrsw-sfu", in_slots("thrsw", "sfu"), V42),
    Case("rot-amount", rotate_early, V42),
    Case("rot-ldtmu", rotate_loaded, V42),
    Case("rotate", lambda q: q.raw(ROTATE_TOO_FAR), V42, stops=True),
    Case("lane-op-tmu", lane_op_tmu, V71),
]


def _rotate_too_far() -> int:

    word = assemble(Isa.V3D42, rotated_register, check=False).code[0]
    return word & ~0x3F | 33


ROTATE_TOO_FAR = _rotate_too_far()


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
@pytest.mark.parametrize(("isa", "case"), [pytest.param(i, c, id=f"{c.rule}-{i}") for c in CASES for i in c.isas])
def test_rule(isa: Isa, case: Case, strict: bool, engine: str) -> None:
    rig = Rig(isa, strict=strict)
    data = rig.buffer(4096)
    run = rig.start(program(case.program), (data, *case.uniforms), check=False, **case.options)
    if case.stops or (strict and not case.warns):
        with pytest.raises(EmuFault) as caught:
            run.run(400_000)
        e = caught.value
        assert e.rule == case.rule, e
        assert (e.place.board, e.place.qpu, e.place.thread) == (rig.profile.name, 0, 0)
        assert e.place.instruction is not None
        assert e.help and str(e).endswith(f"help: {e.help}")
        assert e.place.disassembly or e.rule == "branch-misaligned"
    else:
        assert run.run(400_000)
        warnings = [f for f in run.stats.faults if f.startswith(f"{case.rule}: ")]
        assert warnings, run.stats.faults
        assert f"{rig.profile.name}: QPU 0, thread 0, instruction" in warnings[0]


def _rules() -> set[str]:
    """Rule names in the machine's sources: arguments of reports, and pairs of a rule and a message."""
    found = set()
    folder = Path(qpu.emu.v3d.reference.__file__).parent
    for name in SOURCES:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.Call):
                function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if function in ("hazard", "fault", "warn", "report", "_tell"):
                    values = node.args[:2]
                else:
                    continue
            elif (
                isinstance(node, ast.Tuple)
                and len(node.elts) == 2
                and (
                    isinstance(node.elts[1], ast.JoinedStr)
                    or (isinstance(node.elts[1], ast.Constant) and " " in str(node.elts[1].value))
                )
            ):
                values = node.elts[:1]
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_RUNNING":
                values = list(ast.walk(node.value))  # type: ignore[arg-type]
            else:
                continue
            texts = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
            found |= {t for t in texts if " " not in t}
    return found


def test_every_rule_is_broken_here() -> None:
    rules = _rules()
    assert len(rules) > 25
    assert rules - {c.rule for c in CASES} <= ELSEWHERE


def test_every_rule_has_one_place_and_says_what_to_do() -> None:
    """Rules of the checker have their row; the others have their advice in `faults`, and nothing is in both."""
    rules = _rules()
    assert not set(HELP) & set(RULES)
    assert rules <= set(HELP) | set(RULES)
    assert set(HELP) - rules <= {"out-of-bounds", "misaligned", "uniforms-end"}  # these come from `AccessError`


def test_one_bit_of_a_node_is_enough_for_a_late_sfu_result() -> None:
    assert SFU_LATENCY == 2
