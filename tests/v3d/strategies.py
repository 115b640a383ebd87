"""Random instructions for hypothesis: everything that the tables of rows allow."""

from __future__ import annotations

from hypothesis import strategies as st

from qpu.core.isa import Isa, Unit
from qpu.errors import Diagnostic
from qpu.v3d.codes import BDI, BRANCH_CONDS, CONDS, MSFIGN, PUSHES, SIGNALS, UPDATES, WRITING_SIGS, cond_field
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import code_of, table, variants
from qpu.v3d.pairing import combine

_IMM = Sig.IMM_A | Sig.IMM_B | Sig.IMM_C | Sig.IMM_D
_COND_KEYS = [
    (ac, ap, au, mc, mp, mu)
    for ac in ("", *CONDS)
    for ap in PUSHES
    for au in ("", *UPDATES)
    for mc in ("", *CONDS)
    for mp in PUSHES
    for mu in ("", *UPDATES)
    if cond_field((ac, ap, au, mc, mp, mu)) is not None
]


def dests(magic: bool = True) -> st.SearchStrategy[Dst]:
    return st.builds(Dst, st.integers(0, 63), st.booleans() if magic else st.just(False))


@st.composite
def halves(draw: st.DrawFn, isa: Isa, unit: Unit, registers: list[int], imm: int | None) -> AluHalf:
    """A half whose register operands come from `registers`; imm: the one immediate it may use."""
    op = draw(st.sampled_from([op for op in table(isa) if variants(op, isa, unit)]))
    a_mod, b_mod, pack, _, _ = draw(st.sampled_from(variants(op, isa, unit)))
    sources: list[Src | None] = []
    for position, mod in enumerate((a_mod, b_mod)):
        if position >= op.arity:
            sources.append(None)
            continue
        choices = [st.builds(Src, st.just(SrcKind.RF), st.sampled_from(registers), st.just(mod), st.just(False))]
        if isa is Isa.V3D42:
            choices.append(st.builds(Src, st.just(SrcKind.ACC), st.integers(0, 5), st.just(mod), st.just(False)))
        if imm is not None:
            choices.append(st.just(Src(SrcKind.IMM, imm, mod)))
        sources.append(draw(st.one_of(choices)))
    code = code_of(op, isa, unit)
    assert code is not None
    if op.operand("d") is None:
        dst = None
    elif op.name == "nop":
        dst = Dst(6, True)
    else:
        dst = draw(dests(code.magic is None))
    return AluHalf(op, dst, sources[0], sources[1], pack)


@st.composite
def alus(draw: st.DrawFn, isa: Isa) -> Alu:
    """Instructions as assemblers make them: ports placed, surplus bits zero, operand order as the encoder leaves it."""
    signals = [s & ~_IMM for s in SIGNALS[isa] if s is not None and not s & Sig.ROT]
    with_imm = draw(st.booleans())
    if with_imm:
        signals = [s & ~_IMM for s in SIGNALS[isa] if s is not None and s & _IMM]
    sig = draw(st.sampled_from(signals))
    imm = draw(st.integers(0, 47)) if with_imm else None
    registers = draw(st.lists(st.integers(0, 63), min_size=1, max_size=4 if isa is Isa.V3D71 else 1 + (imm is None)))
    add = draw(halves(isa, Unit.ADD, registers, imm))
    imm_used = any(s is not None and s.kind is SrcKind.IMM for s in (add.a, add.b))
    mul = draw(halves(isa, Unit.MUL, registers, None if isa is Isa.V3D71 and imm_used else imm))
    sig_dst = None
    if sig & WRITING_SIGS:
        sig_dst = draw(dests())
    else:
        ac, ap, au, mc, mp, mu = draw(st.sampled_from(_COND_KEYS))
        add = AluHalf(add.op, add.dst, add.a, add.b, add.pack, ac, ap, au)
        mul = AluHalf(mul.op, mul.dst, mul.a, mul.b, mul.pack, mc, mp, mu)
    found = combine(isa, add, mul, sig, sig_dst)
    if isinstance(found, Diagnostic):
        # two immediates in one add half of 7.1, an order without encoding: another draw
        assert found.rule in ("small-imm", "operand-order", "signal"), found
        from hypothesis import reject

        reject()
    assert isinstance(found, Alu)
    return found


@st.composite
def branches(draw: st.DrawFn, isa: Isa) -> Branch:
    bdi = draw(st.sampled_from(BDI))
    ub = draw(st.booleans())
    bdu = draw(st.sampled_from(BDI)) if ub else ""
    return Branch(
        isa,
        draw(st.sampled_from(list(BRANCH_CONDS))),
        draw(st.sampled_from(MSFIGN)),
        bdi,
        draw(st.integers(0, (1 << 29) - 1)) * 8 if bdi in ("abs", "rel") else 0,
        ub,
        bdu,
        draw(st.integers(0, 63)) if "rf" in (bdi, bdu) else 0,
        draw(st.booleans()),
    )
