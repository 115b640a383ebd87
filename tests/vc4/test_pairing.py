"""Tests of the queries of a scheduler: fits, effects, latencies; and of pairing rules that text cannot reach."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from qpu.core.isa import Isa, Unit
from qpu.errors import AsmError, Diagnostic
from qpu.vc4 import regs
from qpu.vc4.builder import build
from qpu.vc4.decode import decode
from qpu.vc4.effects import effects
from qpu.vc4.instr import Alu, Dst, Half, Port, Src
from qpu.vc4.pairing import RULES, Clash, Results, clashes, combine, diagnostic, fits, halves, results
from qpu.vc4.regs import File
from qpu.vc4.timing import half_effects, latency

R0, R1, R4 = Src(Port.ACC, 0), Src(Port.ACC, 1), Src(Port.ACC, 4)
TO_R0, TO_R1 = Dst(32), Dst(33)


def add(a: Src = R0, b: Src = R1, dst: Dst = TO_R0, op: int = 12, **more: Any) -> Half:
    return Half(Unit.ADD, op, dst, a, b, **more)


def mul(a: Src = R0, b: Src = R1, dst: Dst = TO_R1, op: int = 1, **more: Any) -> Half:
    return Half(Unit.MUL, op, dst, a, b, **more)


def one(fn: Any) -> Alu:
    found = decode(build(fn).code[0])
    assert isinstance(found, Alu)
    return found


def test_halves_are_values() -> None:
    assert add() == add() and hash(add()) == hash(add())
    assert add() != add(push=True) and add() != mul()
    assert (add().cond, add(dst=Dst()).cond, add(dst=Dst(), push=True).cond, add(cond=3).cond) == (1, 0, 1, 3)
    assert "Half" in repr(add())


def test_fits_is_combine_without_the_instruction() -> None:
    """Every pair of a hundred halves: `fits`, `combine` and `clashes` agree, and the pair has the effects of both."""
    sources = [R0, R4, Src(Port.A, 3), Src(Port.A, 4), Src(Port.B, 3), Src(Port.ANY, 32), Src(Port.ANY, 48),
               Src(Port.IMM, 5), Src(Port.A, 3, 1), Src(Port.ACC, 4, 1)]  # fmt: skip
    targets = [TO_R1, Dst(1, File.A), Dst(1, File.B), Dst(2, File.A, 1, 0), Dst(33, None, 4, 1)]
    adds = [add(a, R1, d, 1) for a in sources for d in targets]
    muls = [mul(a, R1, d) for a in sources for d in targets]
    joined = 0
    for first, second in itertools.product(adds, muls):
        for sig in (1, 10):
            found = combine(first, second, sig)
            assert fits(first, second, sig) is isinstance(found, Alu) is (not clashes(first, second, sig))
            if isinstance(found, Alu) and sig == 1:
                joined += 1
                both, parts = effects(found), half_effects(first) | half_effects(second)
                assert (both.reads, both.writes, both.partial) == (parts.reads, parts.writes, parts.partial)
    assert joined > 500


def test_every_clash_says_what_is_allowed_and_what_to_do() -> None:
    cases = {
        "port-a": (add(Src(Port.A, 1)), mul(Src(Port.A, 2))),
        "port-b": (add(Src(Port.B, 1)), mul(Src(Port.IMM, 2))),
        "small-imm": (add(Src(Port.IMM, 1)), mul(rotate=50)),
        "write-swap": (add(dst=Dst(1, File.A)), mul(dst=Dst(49, File.A))),
        "unpack": (add(Src(Port.A, 1, 1), op=1), mul(Src(Port.A, 1))),
        "unpack-type": (add(Src(Port.A, 1, 1), op=1), mul(Src(Port.A, 1, 1), op=4)),
        "pack": (add(dst=Dst(33, None, 4, 1)), mul()),
        "pm": (add(Src(Port.A, 1, 1), op=1), mul(Src(Port.ACC, 4, 1))),
        "flags": (add(), mul(push=True)),
        "dual-issue": (mul(), mul()),
    }
    assert set(cases) | {"signal"} == set(RULES)
    for rule, pair in cases.items():
        (clash,) = clashes(*pair)
        assert clash.rule == rule and clash.slots
        found = diagnostic(clash)
        assert found.allowed and found.help and found.message
    assert [c.rule for c in clashes(add(Src(Port.IMM, 1)), mul(), 10)] == ["signal"]


def test_all_clashes_are_listed() -> None:
    pair = (add(Src(Port.A, 1), dst=Dst(1, File.A)), mul(Src(Port.A, 2), dst=Dst(2, File.A), push=True))
    assert [c.rule for c in clashes(*pair)] == ["port-a", "write-swap", "flags"]


def test_an_input_of_both_files_yields_to_registers() -> None:
    uniform, vpm = Src(Port.ANY, 32), Src(Port.ANY, 48)
    found = combine(add(uniform, Src(Port.A, 7)), mul(vpm))
    assert isinstance(found, Diagnostic) and found.rule == "port-a"
    found = combine(add(uniform, vpm), mul(vpm))
    assert isinstance(found, Alu) and (found.raddr_a, found.raddr_b, found.add_a, found.add_b) == (32, 48, 6, 7)
    found = combine(add(vpm, Src(Port.B, 48)), mul(uniform))
    assert isinstance(found, Alu) and (found.raddr_a, found.raddr_b) == (32, 48)


def test_a_mul_half_alone_may_set_flags() -> None:
    found = combine(None, mul(dst=Dst(), push=True))
    assert isinstance(found, Alu) and (found.sf, found.cond_add, found.cond_mul) == (1, 1, 1)


def test_results_of_load_immediates_and_branches() -> None:
    assert results(Dst(1, File.B), Dst(2, File.A, 3)) == Results(1, 0, 3)
    assert results(TO_R0, Dst(1, File.A)) == Results(1, 0, 0)
    for pair, rule in (
        ((Dst(1, File.A), Dst(2, File.A)), "write-swap"),
        ((Dst(1, File.A, 1), Dst(33, None, 4, 1)), "pack"),
        ((Dst(33, None, 4, 1), Dst()), "pack"),
    ):
        found = results(*pair)
        assert isinstance(found, Clash) and found.rule == rule


def test_latencies() -> None:
    def after(fn: Any, resource: str) -> int:
        i = one(fn)
        first, second = halves(i)
        half = first if first.op or first.dst.n != 39 else second
        assert latency(Isa.VC4, i, resource) == latency(Isa.VC4, half, resource)
        return latency(Isa.VC4, i, resource)

    assert after(lambda q: q.mov(q.ra[5], q.r0), "ra5") == 2
    assert after(lambda q: q.mov(q.rb[5], q.r0), "ra5") == 1
    assert after(lambda q: q.mov(q.r1, q.r0), "r1") == 1
    assert after(lambda q: q.mov(q.sfu_recip, q.r0), "r4") == 3
    assert after(lambda q: q.mov(q.uniforms_address, q.r0), "uniform") == 3
    assert after(lambda q: q.nop().mov(q.ra[5], q.r0), "ra5") == 2


def test_half_effects() -> None:
    e = half_effects(add(Src(Port.ANY, 32), Src(Port.A, 3), Dst(4, File.B), cond=2, push=True))
    assert (e.reads, e.writes, e.partial) == ({"uniform", "ra3", "flags"}, {"rb4", "flags"}, {"rb4"})
    with pytest.raises(AsmError, match="read port"):
        half_effects(add(Src(Port.A, 1), Src(Port.A, 2)))


def test_a_rotation_beside_every_constant() -> None:
    """A pair exists exactly if one code is the constant and rotates as asked; within quads by the count modulo 4."""
    for imm, rotate, a in itertools.product(range(48), range(48, 64), (R0, Src(Port.ACC, 3), R4, Src(Port.A, 5))):
        whole = a.port is Port.ACC and a.n < 4

        def turns(code: int, rotate: int = rotate, whole: bool = whole) -> bool:
            return code == rotate or (not whole and 48 not in (code, rotate) and code % 4 == rotate % 4)

        codes = {c for c in range(48, 64) if turns(c) and regs.small_imm_value(c) == regs.small_imm_value(imm)}
        found = combine(add(b=Src(Port.IMM, imm)), mul(a, a, rotate=rotate))
        assert ({found.raddr_b} if isinstance(found, Alu) else set()) == codes, (imm, rotate, a)


def test_the_unpack_that_is_the_same_for_floats_and_integers_joins_both() -> None:
    assert fits(add(Src(Port.A, 1, 3), op=1), mul(Src(Port.A, 1, 3), op=4))
    assert not fits(add(Src(Port.A, 1, 4), op=1), mul(Src(Port.A, 1, 4), op=4))


def test_a_constant_is_not_the_input_with_its_number() -> None:
    """Small immediate 32 (1.0) beside the uniform, address 32, when port A is taken."""
    uniform, one_point_nought = Src(Port.ANY, 32), Src(Port.IMM, 32)
    found = combine(add(uniform, Src(Port.A, 7)), mul(one_point_nought))
    assert isinstance(found, Diagnostic) and found.rule == "port-b"
    found = combine(add(uniform), mul(one_point_nought))
    assert isinstance(found, Alu) and (found.raddr_a, found.raddr_b, found.add_a, found.mul_a) == (32, 32, 6, 7)
