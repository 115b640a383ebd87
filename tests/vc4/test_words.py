"""Tests of words: decoding is total, encoding inverts it, fields that do not fit are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpu.errors import AsmError, Diagnostic
from qpu.vc4.decode import decode, reserved
from qpu.vc4.encode import ALU, BRANCH, LOAD_IMM, NOP_WORD, encode
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, LoadMode, Reserved, Semaphore
from qpu.vc4.pairing import clashes, combine, fits, halves
from qpu.vc4.printer import canonical, disassemble, note
from qpu.vc4.regs import small_imm_code, small_imm_text, small_imm_value

WORDS = st.integers(0, 2**64 - 1)


def bits(n: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**n - 1)


HALVES = {
    "pm": bits(1), "pack": bits(4), "cond_add": bits(3), "cond_mul": bits(3), "sf": bits(1), "ws": bits(1),
    "waddr_add": bits(6), "waddr_mul": bits(6),
}  # fmt: skip
ALUS = st.builds(
    Alu, sig=st.integers(0, 13), unpack=bits(3), op_mul=bits(3), op_add=bits(5), raddr_a=bits(6), raddr_b=bits(6),
    add_a=bits(3), add_b=bits(3), mul_a=bits(3), mul_b=bits(3), **HALVES,
)  # fmt: skip
LOADS = st.builds(LoadImm, mode=st.sampled_from(LoadMode), imm=bits(32), **HALVES)
SEMAPHORES = st.builds(Semaphore, imm=bits(32), **HALVES)
BRANCHES = st.builds(
    Branch, cond=bits(4), rel=bits(1), reg=bits(1), raddr_a=bits(5), ws=bits(1), waddr_add=bits(6), waddr_mul=bits(6),
    imm=bits(32), unused=bits(4),
)  # fmt: skip
INSTRS = st.one_of(ALUS, LOADS, SEMAPHORES, BRANCHES)


@given(WORDS)
def test_decode_is_total(word: int) -> None:
    instr = decode(word)
    assert encode(instr) == word
    assert isinstance(instr, Reserved) == (word >> 60 == 14 and word >> 57 & 7 in (2, 5, 6, 7))


@given(INSTRS)
def test_decode_inverts_encode(instr: Instr) -> None:
    assert decode(encode(instr)) == instr


@given(WORDS)
def test_every_word_has_text(word: int) -> None:
    text = disassemble(word)
    assert text
    assert text.startswith(".int64 ") == (reserved(decode(word)) is not None)
    if text.startswith(".int64"):
        assert int(text.split()[1], 16) == word
        assert note(word)


@given(WORDS)
def test_canonical_is_stable(word: int) -> None:
    usual = canonical(decode(word))
    assert canonical(usual) == usual
    if note(word) is None:
        assert usual == decode(word)


def test_layouts_agree_with_decode() -> None:
    word = 0x0123456789ABCDEF
    fields = ALU.unpack(word)
    instr = decode(word)
    assert isinstance(instr, Alu)
    assert {name: getattr(instr, name) for name in fields} == fields
    word = 0xF123456789ABCDEF
    fields = BRANCH.unpack(word)
    assert fields.pop("sig") == 15
    branch = decode(word)
    assert {name: getattr(branch, name) for name in fields} == fields
    word = 0xE823456789ABCDEF
    fields = LOAD_IMM.unpack(word)
    assert (fields.pop("sig"), fields.pop("unpack")) == (14, 4)
    semaphore = decode(word)
    assert {name: getattr(semaphore, name) for name in fields} == fields


TOO_LARGE = {
    "sig": 14, "unpack": 8, "pm": 2, "pack": 16, "cond_add": 8, "cond_mul": 8, "sf": 2, "ws": 2, "waddr_add": 64,
    "waddr_mul": 64, "op_mul": 8, "op_add": 32, "raddr_a": 64, "raddr_b": 64, "add_a": 8, "add_b": 8, "mul_a": 8,
    "mul_b": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_LARGE)
@pytest.mark.parametrize("low", [False, True])
def test_fields_that_do_not_fit(name: str, low: bool) -> None:
    with pytest.raises(AsmError) as e:
        encode(Alu()._replace(**{name: -1 if low else TOO_LARGE[name]}))
    assert [d.rule for d in e.value.diagnostics] == ["field-range"]
    assert "allowed" in str(e.value)


@pytest.mark.parametrize(
    "instr",
    [LoadImm(imm=1 << 32), Semaphore(imm=-1), Branch(raddr_a=32), Branch(imm=1 << 32), Branch(cond=16), Reserved(-1)],
)
def test_other_fields_that_do_not_fit(instr: Instr) -> None:
    with pytest.raises(AsmError, match="field-range"):
        encode(instr)


def test_nothing() -> None:
    assert encode(Alu()) == NOP_WORD
    assert disassemble(NOP_WORD) == "nop"


@pytest.mark.parametrize("code", range(48))
def test_small_immediates(code: int) -> None:
    value = small_imm_value(code)
    assert small_imm_code(value) == code
    text = small_imm_text(code)
    if code < 32:
        assert int(text) & 0xFFFFFFFF == value
    else:
        number = 2.0 ** (code - 32) if code < 40 else 2.0 ** (code - 48)
        assert value == int.from_bytes(__import__("struct").pack("<f", number), "little")
        assert eval(text) == number


def test_rotation_codes_are_constants_too() -> None:
    assert [small_imm_value(48 + n) for n in range(16)] == [(n - 16) & 0xFFFFFFFF for n in range(16)]


# -- combine

FADD = Alu(op_add=1, cond_add=1, waddr_add=32, add_a=0, add_b=1)
FMUL = Alu(op_mul=1, cond_mul=1, waddr_mul=33, mul_a=0, mul_b=1)


def half(base: Alu, **changes: int) -> Alu:
    return base._replace(**changes)


def pair(add: Alu, mul: Alu, sig: int = 1) -> Alu | Diagnostic:
    """The ADD half of one instruction with the MUL half of another; what `fits` and `combine` say is the same."""
    first, second = halves(add)[0], halves(mul)[1]
    found = combine(first, second, sig)
    assert fits(first, second, sig) is isinstance(found, Alu)
    assert [c.rule for c in clashes(first, second, sig)][:1] == ([] if isinstance(found, Alu) else [found.rule])
    return found


def joined(add: Alu, mul: Alu) -> Alu:
    found = pair(add, mul)
    assert isinstance(found, Alu), found
    return found


def test_combine_accumulators() -> None:
    both = joined(FADD, FMUL)
    assert (both.op_add, both.op_mul, both.waddr_add, both.waddr_mul) == (1, 1, 32, 33)


def test_combine_shares_a_port() -> None:
    both = joined(half(FADD, raddr_a=5, add_a=6), half(FMUL, raddr_a=5, mul_b=6))
    assert both.raddr_a == 5


def test_combine_moves_a_uniform_to_the_free_port() -> None:
    both = joined(half(FADD, raddr_a=5, add_a=6), half(FMUL, raddr_a=32, mul_b=6))
    assert (both.raddr_a, both.raddr_b, both.add_a, both.mul_b) == (5, 32, 6, 7)


def test_combine_chooses_the_write_swap() -> None:
    both = joined(FADD, half(FMUL, waddr_mul=3, ws=1))
    assert both.ws == 1
    both = joined(half(FADD, waddr_add=3, ws=1), FMUL)
    assert both.ws == 1


def test_combine_lets_a_rotation_serve_its_constant() -> None:
    both = joined(half(FADD, sig=13, raddr_b=27, add_b=7), half(FMUL, sig=13, raddr_b=59))
    assert both.raddr_b == 59


def test_a_rotation_within_quads_serves_constants_of_the_same_count_modulo_four() -> None:
    within = half(FMUL, sig=13, raddr_b=52, mul_a=4, mul_b=4)
    assert joined(half(FADD, sig=13, raddr_b=28, add_b=7), within).raddr_b == 60
    assert isinstance(pair(half(FADD, sig=13, raddr_b=27, add_b=7), within), Diagnostic)
    assert isinstance(pair(half(FADD, sig=13, raddr_b=28, add_b=7), half(FMUL, sig=13, raddr_b=52)), Diagnostic)


def test_combine_takes_a_signal() -> None:
    both = combine(halves(FADD)[0], halves(FMUL)[1], 10)
    assert isinstance(both, Alu) and both.sig == 10
    assert not fits(halves(half(FADD, sig=13, raddr_b=5, add_b=7))[0], halves(FMUL)[1], 10)


@pytest.mark.parametrize(
    ("add", "mul", "rule", "word"),
    [
        (half(FADD, raddr_a=5, add_a=6), half(FMUL, raddr_a=6, mul_a=6), "port-a", "one read port of register file A"),
        (half(FADD, raddr_b=5, add_a=7), half(FMUL, raddr_b=6, mul_a=7), "port-b", "one read port of register file B"),
        (half(FADD, sig=13, raddr_b=5, add_a=7), half(FMUL, raddr_b=6, mul_a=7), "port-b", "small immediate 5 takes"),
        (half(FADD, sig=13, raddr_b=5, add_a=7), half(FMUL, sig=13, raddr_b=6, mul_a=7), "small-imm", "one small imm"),
        (half(FADD, waddr_add=1), half(FMUL, waddr_mul=2, ws=1), "write-swap", "same register file"),
        (half(FADD, waddr_add=1, pack=1), half(FMUL, pm=1, pack=4), "pm", "pm"),
        (half(FADD, waddr_add=33, pack=1), half(FMUL, waddr_mul=3, ws=1), "pack", "would apply to ra3"),
        (half(FADD, raddr_a=5, add_a=6, unpack=1), half(FMUL, raddr_a=5, mul_a=6), "unpack", "the other operand too"),
        (
            half(FADD, raddr_a=5, add_a=6, unpack=1), half(FMUL, raddr_a=5, mul_a=6, unpack=2), "unpack",
            "one unpack field",
        ),
        (
            half(FADD, raddr_a=5, add_a=6, unpack=1), half(FMUL, raddr_a=5, mul_a=6, unpack=1, op_mul=2),
            "unpack-type", "deliver floats",
        ),
        (FADD, half(FMUL, sf=1), "flags", "flags come from the ADD"),
    ],
)  # fmt: skip
def test_combine_refuses(add: Alu, mul: Alu, rule: str, word: str) -> None:
    found = pair(add, mul)
    assert isinstance(found, Diagnostic) and found.rule == rule
    assert word in found.message and found.allowed and found.help
    slots = clashes(halves(add)[0], halves(mul)[1])[0].slots
    assert all(slot.split(".")[0] in ("add", "mul") for slot in slots)


def test_combine_wants_halves() -> None:
    add, mul = halves(joined(FADD, FMUL))
    assert [c.rule for c in clashes(mul, add)] == ["dual-issue"]
    assert [c.rule for c in clashes(add, add)] == ["dual-issue"]


@given(ALUS, ALUS)
def test_combine_keeps_both_halves(a: Alu, b: Alu) -> None:
    add = a._replace(op_add=a.op_add or 1, op_mul=0, waddr_mul=39, mul_a=0, mul_b=0, cond_mul=0)
    mul = b._replace(op_mul=b.op_mul or 1, op_add=0, waddr_add=39, add_a=0, add_b=0, cond_add=0)
    both = pair(add, mul)
    if isinstance(both, Diagnostic):
        return
    assert (both.op_add, both.cond_add, both.waddr_add) == (add.op_add, add.cond_add, add.waddr_add)
    assert (both.op_mul, both.cond_mul, both.waddr_mul) == (mul.op_mul, mul.cond_mul, mul.waddr_mul)
    encode(both)


@given(ALUS)
def test_an_instruction_is_the_pair_of_its_halves(i: Alu) -> None:
    add, mul = halves(i)
    again = combine(add, mul, 1 if i.sig == 13 else i.sig)
    if isinstance(again, Alu):
        assert halves(again) == (add, mul)
