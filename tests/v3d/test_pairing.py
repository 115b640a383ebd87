"""Tests of pairing: `fits` and `combine` agree, decoded halves give the same word, kernels are bundled again."""

from __future__ import annotations

import timeit
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpu.core.isa import Isa, Unit
from qpu.errors import AsmError, DecodeError, Diagnostic
from qpu.instruction_sets import isa as toolkit
from qpu.kernels import sgemm_v3d
from qpu.kernels.tiles import Shape
from qpu.v3d.codes import CONDS, IMM_MASK, PUSHES, SIGNALS, UPDATES, WRITING_SIGS
from qpu.v3d.decode import decode
from qpu.v3d.encode import HalfKey, encode, half_key
from qpu.v3d.instr import Alu, AluHalf, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import BY_NAME, table, variants
from qpu.v3d.pairing import combine, fits, idle
from qpu.v3d.printer import note

from .strategies import halves
from .vectors import ISAS

BOTH = pytest.mark.parametrize("isa", ISAS)
ROT = int(Sig.ROT)
FLAGS = [
    ("", "", ""),
    *((c, "", "") for c in CONDS),
    *(("", p, "") for p in PUSHES[1:]),
    *(("", "", u) for u in UPDATES),
]


def rf(n: int, mod: str = "") -> Src:
    return Src(SrcKind.RF, n, mod)


def imm(n: int) -> Src:
    return Src(SrcKind.IMM, n)


def acc(n: int) -> Src:
    return Src(SrcKind.ACC, n)


def half(name: str, *sources: Src, d: int = 9, cond: str = "", push: str = "") -> AluHalf:
    a, b = (*sources, None, None)[:2]
    return AluHalf(BY_NAME[name], Dst(d), a, b, "", cond, push)


def keys(isa: Isa, add: AluHalf, mul: AluHalf) -> tuple[HalfKey, HalfKey]:
    return half_key(isa, Unit.ADD, add), half_key(isa, Unit.MUL, mul)


@BOTH
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_fits_is_what_combine_says(isa: Isa, data: st.DataObject) -> None:
    """Halves that are valid by themselves, with any signal set: both answers are the same, and the word decodes."""

    def any_half(unit: Unit) -> AluHalf:
        registers = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
        drawn = data.draw(halves(isa, unit, registers, data.draw(st.none() | st.integers(0, 2))))
        flags = data.draw(st.sampled_from(FLAGS) | st.just(FLAGS[0]))
        return drawn._replace(cond=flags[0], push=flags[1], update=flags[2])

    add, mul = any_half(Unit.ADD), any_half(Unit.MUL)
    sig = int(data.draw(st.sampled_from([s for s in SIGNALS[isa] if s is not None]))) & ~IMM_MASK
    sig_dst = data.draw(st.none() | st.builds(Dst, st.integers(0, 63), st.booleans()))
    if sig & WRITING_SIGS and sig_dst is None and data.draw(st.booleans()):
        sig_dst = Dst(3)
    rot = data.draw(st.integers(0, 31)) if sig & ROT else None
    found = combine(isa, add, mul, sig, sig_dst, rot)
    try:
        made = keys(isa, add, mul)
    except AsmError:
        assert isinstance(found, Diagnostic)
        return
    assert fits(*made, sig & ~ROT, sig_dst, rot) == isinstance(found, Alu), found
    if isinstance(found, Alu):
        again = decode(isa, encode(found))
        assert isinstance(again, Alu)
        # operands whose order selects the operation may change places, and their immediate's signal with them
        assert (int(again.sig) & ~IMM_MASK, again.sig_dst) == (int(found.sig) & ~IMM_MASK, sig_dst)
        ports = [h._replace(a=None, b=None) for h in (again.add, again.mul)]
        assert ports == [h._replace(a=None, b=None) for h in (add, mul)]
    else:
        assert found.allowed or found.help, found


CASES_42 = [
    # two registers, a third
    ((half("add", rf(1), rf(2)), half("fmul", rf(2), rf(1))), {}, None),
    ((half("add", rf(1), rf(2)), half("fmul", rf(3), rf(1))), {}, "read-ports"),
    ((half("add", rf(1), acc(2)), half("fmul", rf(3), acc(0))), {}, None),
    # an immediate takes port B, and all may use it
    ((half("add", rf(1), imm(3)), half("sub", imm(3), rf(1))), {}, None),
    ((half("add", rf(1), imm(3)), half("sub", imm(4), rf(1))), {}, "small-imm"),
    ((half("add", rf(1), imm(3)), half("sub", rf(2), rf(1))), {}, "read-ports"),
    ((half("add", rf(1), imm(3)), half("sub", acc(2), rf(1))), {"sig": Sig.LDUNIF}, "signal"),
    ((half("add", rf(1), imm(3)), half("sub", acc(2), rf(1))), {"sig": Sig.LDTMU, "sig_dst": Dst(5)}, None),
    # so does a rotation
    ((half("add", rf(1), acc(3)), half("mov", acc(0))), {"rot": 3}, None),
    ((half("add", rf(1), rf(2)), half("mov", acc(0))), {"rot": 2}, "read-ports"),
    ((half("add", rf(1), imm(3)), half("mov", acc(0))), {"rot": 3}, "small-imm"),
    ((half("add", acc(1), acc(2)), half("mov", acc(0))), {"sig": Sig.ROT}, "rotate"),
    # fmax of a register with itself reads it through both ports
    ((half("fmax", rf(5), rf(5)), half("mov", rf(5))), {}, None),
    ((half("fmax", rf(5), rf(5)), half("mov", rf(6))), {}, "operand-order"),
    ((half("fmax", rf(5), rf(5)), half("mov", acc(0))), {"rot": 5}, "operand-order"),
    ((half("fmax", acc(1), acc(1)), half("mov", acc(0))), {}, "operand-order"),
]
CASES_71 = [
    ((half("add", rf(1), rf(2)), half("fmul", rf(3), rf(4))), {}, None),
    ((half("add", rf(1), imm(3)), half("fmul", rf(3), rf(4))), {}, None),
    ((half("add", rf(1), imm(3)), half("sub", rf(3), imm(3))), {}, "small-imm"),
    ((half("add", rf(1), imm(3)), half("sub", rf(3), rf(4))), {"sig": Sig.THRSW}, "signal"),
    ((half("add", rf(1), acc(3)), half("sub", rf(3), rf(4))), {}, "register"),
    ((half("fmax", rf(5), rf(5)), half("mov", rf(6))), {}, "operand-order"),
    ((half("add", rf(1), rf(2)), half("mov", rf(3))), {"rot": 3}, "signal"),
    ((half("add", rf(1), rf(2), push="pushz"), half("mov", rf(3), push="pushz")), {}, "condition"),
    (
        (half("add", rf(1), rf(2), cond="ifa"), half("mov", rf(3))),
        {"sig": Sig.LDTMU, "sig_dst": Dst(5)},
        "condition-field",
    ),
    ((half("add", rf(1), rf(2)), half("mov", rf(3))), {"sig": Sig.LDTMU}, "signal-destination"),
    ((half("add", rf(1), rf(2)), half("mov", rf(3))), {"sig_dst": Dst(5)}, "signal-destination"),
    ((half("fmul", rf(1), rf(2)), idle()), {}, "operation"),
    ((half("fadd", rf(1, "ff"), rf(2)), idle()), {}, "modifier"),
]


@pytest.mark.parametrize(
    ("isa", "case"), [(Isa.V3D42, c) for c in CASES_42] + [(Isa.V3D71, c) for c in CASES_71], ids=lambda c: ""
)
def test_room_of_an_instruction(isa: Isa, case: tuple[tuple[AluHalf, AluHalf], dict[str, int], str | None]) -> None:
    (add, mul), signals, rule = case
    found = combine(isa, add, mul, **signals)  # type: ignore[arg-type] # of several types
    assert (found.rule if isinstance(found, Diagnostic) else None) == rule, found
    if isinstance(found, Diagnostic):
        assert found.allowed or found.help
    elif found.sig & Sig.ROT:
        assert found.raddr_b == signals["rot"]


def rebundled(isa: Isa, words: tuple[int, ...]) -> Iterator[Alu]:
    """Every instruction made again from its halves, signals and rotation alone."""
    for word in words:
        instr = decode(isa, word)
        if not isinstance(instr, Alu):
            continue
        sig = int(instr.sig) & ~IMM_MASK
        rot = instr.raddr_b if sig & ROT else None
        add, mul = (h._replace(a=h.a and h.a._replace(port_b=False)) for h in (instr.add, instr.mul))
        assert fits(*keys(isa, add, mul), sig & ~ROT, instr.sig_dst, rot)
        found = combine(isa, instr.add, instr.mul, sig, instr.sig_dst, rot)
        assert isinstance(found, Alu), found
        yield found


@BOTH
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(
    "shape", [sgemm_v3d.UNIFORM, sgemm_v3d.LOW, sgemm_v3d.ROTATE], ids=["uniform", "low", "rotate"]
)
def test_sgemm_comes_back_from_its_halves(isa: Isa, shape: Shape, accumulate: bool) -> None:
    """All kernels: the same number of instructions, and the same words."""
    words = toolkit(isa).assemble(sgemm_v3d.kernel, args=(shape, True, accumulate)).code
    alus = [w for w in words if w >> 58]
    assert [encode(i) for i in rebundled(isa, words)] == alus
    assert len(alus) > 200


@BOTH
def test_every_row_has_a_key_on_its_unit_only(isa: Isa) -> None:
    for op in table(isa):
        for unit in (Unit.ADD, Unit.MUL):
            sources = [rf(1), rf(2)][: op.arity]
            dst = None if op.operand("d") is None else Dst(3)
            mods = (variants(op, isa, unit) or [("", "", "", 0, 0)])[0]
            a, b = (*(s._replace(mod=m) for s, m in zip(sources, mods, strict=False)), None, None)[:2]
            made = AluHalf(op, dst, a, b, mods[2])
            if unit in op.units_on(isa):
                assert half_key(isa, unit, made).cond == 0
            else:
                with pytest.raises(AsmError) as e:
                    half_key(isa, unit, made)
                assert e.value.diagnostics[0].rule == "operation"


@BOTH
def test_fits_is_fast(isa: Isa) -> None:
    """At most 5 us a call, which a scheduler makes for every pair it considers."""
    add, mul = half("fadd", rf(1), rf(2)), half("fmul", rf(1), rf(2))
    a, m = keys(isa, add, mul)
    sig, dst = int(Sig.LDTMU), Dst(4)
    seconds = min(timeit.repeat(lambda: fits(a, m, sig, dst), number=1000, repeat=20)) / 1000
    assert seconds < 5e-6


@BOTH
def test_operands_that_do_not_exist(isa: Isa) -> None:
    """Not even those whose number would be another operand in the word: r6 and r7 are the multiplexer's ports."""
    top = 5 if isa is Isa.V3D42 else -1
    for make, last in ((acc, top), (rf, 63)):
        for n in (-1, 0, last, last + 1, last + 2):
            found = combine(isa, half("add", make(n), make(n)), None)
            if 0 <= n <= last:
                assert isinstance(found, Alu)
            else:
                assert isinstance(found, Diagnostic) and found.rule == "register", (make, n)


@pytest.mark.parametrize("name", ["fadd", "faddnf", "fmin", "fmax"])
@pytest.mark.parametrize("sources", [(imm(5), rf(9)), (rf(9), imm(5)), (imm(12), rf(3)), (rf(3), imm(12))])
def test_an_immediate_keeps_its_signal_when_operands_change_places(name: str, sources: tuple[Src, Src]) -> None:
    """The order of the operands selects the operation, so one of the two orders is turned round in the word."""
    found = combine(Isa.V3D71, half(name, *sources), None)
    assert isinstance(found, Alu)
    back = decode(Isa.V3D71, encode(found))
    assert isinstance(back, Alu) and back.add.op.name == name
    assert {back.add.a, back.add.b} == set(sources)


@pytest.mark.parametrize(("rot", "shown"), [(0, "r5"), (1, "1"), (5, "5"), (15, "15"), (16, "-16"), (31, "-1")])
def test_the_note_about_a_rotation(rot: int, shown: str) -> None:
    found = combine(Isa.V3D42, None, half("mov", acc(0)), rot=rot)
    assert isinstance(found, Alu)
    assert note(found) == f"signal rot: the mul operands are rotated by {shown}"


@BOTH
def test_reserved_uniform_destinations_of_branches(isa: Isa) -> None:
    for number in range(8):
        word = 2 << 56 | 1 << 14 | number << 15
        if number < 4:
            assert encode(decode(isa, word)) == word
        else:
            with pytest.raises(DecodeError, match=f"uniform destination {number} is reserved"):
                decode(isa, word)
