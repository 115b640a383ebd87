"""Property tests over all words and over generated instructions: totality, inverses, equal results of all makers."""

from __future__ import annotations

import keyword
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpu.core.effects import Effects
from qpu.core.isa import Isa, Unit
from qpu.errors import AsmError, DecodeError
from qpu.v3d.asm import assemble
from qpu.v3d.codes import SIGNALS
from qpu.v3d.decode import decode, shape
from qpu.v3d.effects import effects, half_effects
from qpu.v3d.encode import encode
from qpu.v3d.hazards import RULES, check, facts_of
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Sig, Src, SrcKind
from qpu.v3d.operands import Dest
from qpu.v3d.ops import ROWS, table, variants
from qpu.v3d.parser import assemble_text
from qpu.v3d.printer import text
from qpu.v3d.regs import MAGIC, imm_bits
from qpu.v3d.single import peripherals, same_instruction

from .strategies import alus, branches
from .vectors import ISAS, rows

BOTH = pytest.mark.parametrize("isa", ISAS)


@BOTH
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_decode_is_total(isa: Isa, data: st.DataObject) -> None:
    word = data.draw(st.integers(0, 2**64 - 1))
    try:
        instr = decode(isa, word)
    except DecodeError as e:
        assert e.word == word
        return
    again = encode(instr)
    assert decode(isa, again) == instr
    assert encode(decode(isa, again)) == again


@BOTH
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_everything_printed_assembles(isa: Isa, data: st.DataObject) -> None:
    """Any word that decodes prints as text that the assembler takes; its own word prints the same items."""
    word = data.draw(st.integers(0, 2**64 - 1))
    word |= 1 << 58  # a part that is not branches
    try:
        instr = decode(isa, word)
    except DecodeError:
        return
    line = text(instr)
    (again,) = assemble_text(isa, line).code
    assert items(text(decode(isa, again))) == items(line)


def items(line: str) -> list[str]:
    """The items of a line, without order and punctuation."""
    return sorted(line.replace(";", " ").replace(",", " ").split())


@BOTH
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_decode_inverts_encode(isa: Isa, data: st.DataObject) -> None:
    instr = data.draw(st.one_of(alus(isa), branches(isa)))
    word = encode(instr)
    again = decode(isa, word)
    assert encode(again) == word
    if isinstance(instr, Branch):
        assert again == instr
        return
    assert isinstance(again, Alu)
    if again.add.a != instr.add.a:  # the encoder may swap operands whose order selects the operation
        assert instr.add.op.order is not None
        assert (again.add.a, again.add.b) == (instr.add.b, instr.add.a)
    else:
        assert again == instr


@BOTH
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_builder_text_and_decoder_agree(isa: Isa, data: st.DataObject) -> None:
    instrs = data.draw(st.lists(st.one_of(alus(isa), branches(isa)), min_size=1, max_size=4))
    code = assemble(isa, lambda q: [build(q, i) for i in instrs], check=False).code  # type: ignore[arg-type,return-value]
    assert list(code) == [encode(i) for i in instrs]
    printed = [i for i in instrs if isinstance(i, Branch) or not i.sig & Sig.UCB]  # ucb is not printed
    source = "\n".join(text(i) for i in printed)
    assert list(assemble_text(isa, source).code) == [encode(i) for i in printed]
    assert [encode(decode(isa, w)) for w in code] == list(code)


def build(q: Any, i: Alu | Branch) -> None:
    """Write one instruction with the typed builder."""
    if isinstance(i, Branch):
        register = q.rf[i.raddr_a]
        offset = i.offset - (1 << 32) if i.offset >> 31 else i.offset
        target = {"abs": q.absolute(i.offset), "rel": offset, "lri": q.lri, "rf": register}[i.bdi]
        unif = register if i.bdu == "rf" else i.bdu or None
        q.b(target, cond=i.cond or None, msfign=i.msfign or None, unif=unif, link=i.link)
        return

    def dst(d: Dst, pack: str = "") -> Any:
        made = Dest(i.isa, d.n) if d.magic else q.rf[d.n]
        return made._with(pack) if pack else made

    def src(s: Src) -> Any:
        if s.kind is SrcKind.RF:
            made: Any = q.rf[s.n]
        elif s.kind is SrcKind.ACC:
            made = (q.r0, q.r1, q.r2, q.r3, q.r4, q.r5)[s.n]
        else:
            made = q.imm(imm_bits(s.n))
        return made._with(s.mod) if s.mod else made

    def call(owner: Any, half: AluHalf, sig: Any) -> Any:
        args = []
        if half.dst is not None and half.op.name != "nop":
            args.append(dst(half.dst, half.pack))
        args += [src(s) for s in (half.a, half.b) if s is not None]
        name = half.op.name + "_" if keyword.iskeyword(half.op.name) else half.op.name
        flags = {"cond": half.cond or None, "push": half.push or None, "update": half.update or None}
        return getattr(owner, name)(*args, **flags, sig=sig)

    signals = []
    for bit in Sig:
        if not i.sig & bit or bit in (Sig.IMM_A, Sig.IMM_B, Sig.IMM_C, Sig.IMM_D):
            continue
        made = getattr(q, str(bit.name).lower())
        signals.append(made(dst(i.sig_dst)) if callable(made) and i.sig_dst is not None else made)
    if Unit.ADD not in i.add.op.units_on(i.isa):
        raise AssertionError(i)
    call(call(q, i.add, signals or None), i.mul, None)


@BOTH
def test_signal_table_is_complete(isa: Isa) -> None:
    """Every signal number decodes with a plain instruction, reserved ones are refused."""
    for number, sig in enumerate(SIGNALS[isa]):
        word = (0x3C003186BB800000 if isa is Isa.V3D42 else 0x38003186BB03F000) | number << 53
        if sig is None:
            with pytest.raises(DecodeError) as e:
                decode(isa, word)
            assert e.value.field == "sig"
        else:
            instr = decode(isa, word)
            assert isinstance(instr, Alu)
            assert instr.sig == sig


@BOTH
def test_every_row_with_every_modifier_round_trips(isa: Isa) -> None:
    """All operations, all modifiers, both units, through words and text."""
    lines = 0
    for op in table(isa):
        for unit in (Unit.ADD, Unit.MUL):
            for a_mod, b_mod, pack, _, _ in variants(op, isa, unit):
                sources = [Src(SrcKind.RF, n, m) for n, m in ((5, a_mod), (9, b_mod))][: op.arity]
                dst = None if op.operand("d") is None else Dst(6, True) if op.name == "nop" else Dst(17)
                half = AluHalf(op, dst, *sources, *[None] * (2 - op.arity), pack)  # type: ignore[arg-type]
                nop = AluHalf(table(isa)["nop"], Dst(6, True))
                add, mul = (half, nop) if unit is Unit.ADD else (nop, half)
                ports = (5, 9)[: op.arity] + (0, 0)[op.arity :] if isa is Isa.V3D42 else (0, 0)
                word = encode(Alu(isa, add, mul, raddr_a=ports[0], raddr_b=ports[1]))
                again = decode(isa, word)
                assert isinstance(again, Alu)
                back = again.add if unit is Unit.ADD else again.mul
                assert (back.op, back.dst, back.pack) == (op, dst, pack)
                assert {back.a, back.b} == {half.a, half.b}
                assert assemble_text(isa, text(again)).code[0] == word or op.order is not None
                lines += 1
    assert lines > 400


def test_rows_are_complete() -> None:
    for op in ROWS:
        assert op.doc.endswith("."), op.name
        assert op.source
        if op.sem is None:
            assert op.graphics or op.name in ("nop", "barrierid", "tmuwt"), op.name


def test_rows_carry_latency_and_purity() -> None:
    for isa in ISAS:
        rows = table(isa)
        assert all(op.latency >= 1 for op in rows)
        assert {op.name for op in rows if op.latency > 1} >= {"recip", "rsqrt", "exp", "log", "sin"}
        assert rows["recip"].pure
        assert rows["fadd"].pure
        assert not any(rows[name].pure for name in ("nop", "tidx", "lr", "setmsf", "tmuwt", "umul24", "barrierid"))


def test_effects_beyond_the_operands() -> None:
    def of(isa: Isa, line: str) -> tuple[frozenset[str], frozenset[str]]:
        found = effects(decode(isa, assemble_text(isa, line).code[0]))
        return found.needs, found.writes

    old, new = Isa.V3D42, Isa.V3D71
    # a register that is written in part is read, a queue is not
    assert of(old, "add.ifa r0, r1, r2") == ({"flags_a", "r0", "r1", "r2"}, {"r0"})
    assert of(old, "add.ifb r5rep, r1, r2") == ({"flags_b", "r5", "r1", "r2"}, {"r5"})
    assert of(old, "fadd r3.l, r1, r2") == ({"r3", "r1", "r2"}, {"r3"})
    assert of(new, "add.ifna rep, rf1, rf2") == ({"flags_a", "rf0", "rf1", "rf2"}, {"rf0"})
    assert of(new, "fadd tmud.l, rf1, rf2") == ({"rf1", "rf2"}, {"tmud"})
    assert of(new, "add.ifa tmud, rf1, rf2") == ({"flags_a", "rf1", "rf2"}, {"tmud"})
    # queues and streams
    assert of(new, "nop; nop; ldvary.rf3") == ({"varying"}, {"rf0", "rf3"})
    assert of(new, "nop; nop; ldtlbu.rf3") == ({"tlb", "uniform"}, {"rf3"})
    assert of(new, "nop; nop; ldunifarf.rf3") == ({"unifa"}, {"rf3"})
    assert of(new, "nop; nop; ldtmu.rf3") == ({"tmu"}, {"rf3"})
    assert of(old, "nop; nop; ldunif") == ({"uniform"}, {"r5"})
    assert of(new, "ldvpmp rf3, rf4") == ({"rf4", "vpm"}, {"rf3"})
    assert of(old, "add recip, r0, r1") == ({"r0", "r1"}, {"recip", "r4"})
    # keeping a value is not a read for the rules of latency
    for line in ("add.ifa r4, r0, r1", "add.ifa r5, r0, r1"):
        found = effects(decode(old, assemble_text(old, line).code[0]))
        assert found.reads.isdisjoint({"r4", "r5"})


@BOTH
def test_windows_name_effects_that_occur(isa: Isa) -> None:
    """Every term of a window is an effect that some word has, or one that the checker adds."""
    seen = {"switch", "end"}
    old = isa is Isa.V3D42
    lines = [f"{op} {d}, {a}, {a}" for op in ("add", "umul24") for d, a in [("rf0", "rf0"), ("rf2", "rf2")]]
    lines += [f"add {name}, rf1, rf1" for name in MAGIC[isa].values()]
    lines += [f"add {'rf1'}, rf{n}, rf{n}" for n in range(64)] + [f"nop; nop; ldtmu.rf{n}" for n in range(64)]
    lines += [f"{op} rf{n}" for op in ("tidx",) for n in range(64)]
    signals = ("thrsw", "ldunif", "ldtmu.rf0", "ldvary.rf1", "ldunifrf.rf2", "ldunifarf.rf2", "ldunifa", "wrtmuc")
    lines += [f"nop; nop; {signal}" for signal in (*signals, "ldtlb.rf1", "ldtlbu.rf1")]
    lines += ["setmsf -, rf1", "tmuwt -", "msf rf1", "multop rf1, rf2", "add.pushz rf1, rf1, rf1", "b alla, ra0"]
    lines += ["vpmwt -"] if old else []
    if old:
        registers = [*(f"r{n}" for n in range(6)), *(f"rf{n}" for n in range(64))]
        lines += [f"nop; mov r0, {src}; rot.3" for src in registers]
        lines += [f"nop; nop; ldtmu.r{n}" for n in range(6)] + ["nop; mov r0, r1; rot.r5"]
    found: list[Effects] = []
    for line in lines:
        try:
            found.append(effects(decode(isa, assemble_text(isa, line).code[0])))
        except AsmError:
            continue
    found.append(effects(Branch(isa, "anya", "p")))
    for e in found:
        seen |= e.events | {f"read {r}" for r in e.reads} | {f"write {r}" for r in e.writes}
    assert RULES.windows[isa].effects() - seen == set()


def test_rules_say_what_to_do() -> None:
    for rule in RULES.values():
        assert rule.source
        assert rule.help
        assert rule.summary[-1] != "."


@BOTH
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_effects_use_known_names(isa: Isa, data: st.DataObject) -> None:
    instr = data.draw(st.one_of(alus(isa), branches(isa)))
    found = effects(instr)
    if isinstance(instr, Alu):
        for half in (instr.add, instr.mul):
            if half.dst is not None and not half.dst.magic and half.op.name != "nop":
                assert f"rf{half.dst.n}" in found.writes


@BOTH
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_halves_have_the_effects_of_the_whole(isa: Isa, data: st.DataObject) -> None:
    instr = data.draw(alus(isa))
    halves = half_effects(isa, Unit.ADD, instr.add) | half_effects(isa, Unit.MUL, instr.mul)
    whole = effects(instr)
    if not instr.sig & ~(Sig.IMM_A | Sig.IMM_B | Sig.IMM_C | Sig.IMM_D):
        assert halves == whole
    for name in ("reads", "writes", "partial", "tokens", "events"):
        assert getattr(halves, name) <= getattr(whole, name), name


@BOTH
def test_shared_units_of_a_half(isa: Isa) -> None:
    def of(line: str) -> int:
        instr = decode(isa, assemble_text(isa, line).code[0])
        assert isinstance(instr, Alu)
        return peripherals(isa, instr.add)

    assert of("add tmud, rf1, rf2") == of("add syncb, rf1, rf2") == of("add vpm, rf1, rf2") == 1
    assert of("add rf3, rf1, rf2") == of("nop") == of("add unifa, rf1, rf2") == 0
    assert [r.rule for r in same_instruction(decode(isa, assemble_text(isa, "add tmud, rf1, rf2").code[0]))] == []


def _near(rnd: random.Random, word: int) -> int:
    """The word with other registers, or what a register would be."""
    for at in (0, 6, 12, 18, 32, 38):
        if rnd.random() < 0.5:
            word = word & ~(63 << at) | rnd.choice((0, 1, 2, 3, 4, 5, 9, 47, 48, 63)) << at
    return word


@BOTH
def test_words_of_one_shape_have_the_same_facts(isa: Isa) -> None:
    rnd, known = random.Random(3), shape(isa)
    golden = rnd.sample([int(row["word"], 16) for row in rows(isa)], 1500)
    words = [*golden, *(_near(rnd, word) for word in golden), *(rnd.getrandbits(64) for _ in range(5000))]
    changed = 0
    for word in words:
        changed += known(word) != word
        try:
            instr = decode(isa, word)
        except DecodeError:
            with pytest.raises(DecodeError):
                decode(isa, known(word))
            continue
        assert facts_of(instr) == facts_of(decode(isa, known(word))), f"{word:#x} {text(instr)}"
    assert changed > 3000
    named = {name.rpartition(" ")[2] for name in RULES.windows[isa].effects() if name.startswith(("read", "write"))}
    assert not named & {f"rf{n}" for n in range(4, 64)}


@BOTH
def test_findings_quote_the_word_itself(isa: Isa) -> None:
    reserved = SIGNALS[isa].index(None)
    word = assemble_text(isa, "add rf9, rf7, rf8").code[0] & ~(31 << 53) | reserved << 53
    assert shape(isa)(word) != word
    assert f"0x{word:016x} is not" in check(isa, [word])[0].message
