"""Tests of disassembly: the assembler accepts all of it; listings; the toolkit's common interface."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from qpu.core.isa import Isa
from qpu.errors import AsmError, HazardError, UsageError
from qpu.instruction_sets import assemble, isa
from qpu.program import Program
from qpu.vc4.builder import Asm, build
from qpu.vc4.decode import decode, reserved
from qpu.vc4.encode import encode
from qpu.vc4.instr import Alu, Instr, LoadImm, Semaphore
from qpu.vc4.printer import canonical, disassemble, listing, note
from qpu.vc4.vc4asm import assemble_text

VECTORS = Path(__file__).parent.parent / "vectors" / "vc4.jsonl.gz"


def two_sided_colour_load(i: Instr) -> bool:
    """A load immediate with two destinations, the second packed as a colour."""
    return isinstance(i, LoadImm | Semaphore) and bool(i.pm and i.pack) and i.waddr_add != 39


def test_golden_words_come_back() -> None:
    back = 0
    with gzip.open(VECTORS, "rt") as f:
        for line in f:
            row = json.loads(line)
            word = int(row["word"], 16)
            text = disassemble(word)
            (got,) = assemble_text(text).words
            if note(word) is None:
                assert got == word, (row["word"], text)
                back += 1
            elif row["roundtrip_MF"] and row.get("quirk") is None:
                assert got == word, (row["word"], text, note(word))
    assert back > 5400


def test_random_words_are_legal_text() -> None:
    rnd = random.Random(11)
    back = 0
    for _ in range(1500):
        word = rnd.getrandbits(64)
        if rnd.random() < 0.7:
            word = word & ~(15 << 60) | rnd.choice([1, 1, 10, 13, 3]) << 60
        if rnd.random() < 0.5:
            word &= ~(7 << 57 | 15 << 52 | 1 << 56)
        if two_sided_colour_load(decode(word)):
            continue
        text = disassemble(word)
        (got,) = assemble_text(text).words
        if note(word) is None or reserved(decode(word)) is not None:
            assert got == word, (hex(word), text)
            back += 1
    assert back > 300


def test_canonical_words_of_ordinary_instructions_come_back() -> None:
    """Typical combinations, all of them canonical: nothing may be lost."""
    rnd = random.Random(12)
    for _ in range(1500):
        pick = rnd.choice
        add, mul = pick([1, 2, 3, 12, 14, 20, 30, 7]), pick([0, 1, 2, 4, 5, 6])
        i = Alu(
            sig=pick([1, 1, 10, 2]), op_add=add, op_mul=mul, sf=pick([0, 1]),
            cond_add=pick([1, 1, 2, 5]), cond_mul=pick([1, 1, 3, 6]) if mul else 0,
            waddr_add=pick([32, 33, 3, 9, 48]), waddr_mul=pick([34, 35, 5, 0, 56]) if mul else 39,
            raddr_a=pick([39, 5, 38]), raddr_b=pick([39, 7, 0]),
        )  # fmt: skip
        muxes = [0, 1, 4, 5] + [6] * (i.raddr_a != 39) + [7] * (i.raddr_b != 39)
        i = Alu(**{name: getattr(i, name) for name in Alu.__slots__} | {
            "add_a": pick(muxes), "add_b": pick(muxes), "mul_a": pick(muxes) if mul else 0,
            "mul_b": pick(muxes) if mul else 0})  # fmt: skip
        i = canonical(i)  # type: ignore[assignment]
        assert note(encode(i)) is None
        assert assemble_text(disassemble(encode(i))).words == (encode(i),)


def test_notes_say_what_differs() -> None:
    assert note(0x100009E7009E7000) is None
    text = note(0xE80249E700000013)
    assert text is not None
    assert "0xe80009e700000013" in text
    assert "cond_add 1 (usual: 0)" in text
    assert "reserved" in (note(0xE4020827243CF317) or "")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (0x100248212C042DF7, "add r0, ra1, rb2;  fmul r1, ra1, rb2"),
        (0xA00009E7009E7000, "nop;  ldtmu0"),
        (0xD00049E0809F3009, "nop;  mov r0, r1>>3"),
        (0xE80009E700000013, "sacq -, 19"),
        (0xF0F809E7FFFFFFE0, "brr -, -32"),
        (0xF0F489E700000000, "bra -, ra4"),
        (0xE6020827CCCCAAAA, "ldipeu r0, [0,1,2,3,0,1,2,3,0,1,2,3,0,1,2,3]"),
        (0xE00208273F800000, "ldi r0, 0x3f800000"),
        (0x10020827159E0FC0, "mov r0, rb32"),
        (0xE4020827243CF317, ".int64 0xe4020827243cf317"),
    ],
)
def test_texts(word: int, text: str) -> None:
    assert disassemble(word) == text


def kernel(q: Asm) -> None:
    q.mov(q.r0, q.uniform)
    q.b("end", cond="allz")
    q.nops(3)
    with q.loop() as loop:
        q.sub(q.r0, q.r0, 1, push="z")
        q.b(loop.start, cond="anynz")
        q.nops(3)
    q.b(0, link=q.ra[3])
    q.nops(3)
    q.label("end")
    q.end()


def test_listing() -> None:
    program = build(kernel)
    text = listing(program)
    assert ":loop0\n    sub.setf r0, r0, 1\n    brr.anynz -, :loop0\n" in text
    assert "    brr.allz -, :end\n" in text
    assert Program.of(program).text == text
    # The one-constant move at the end assembles to a load immediate; everything else comes back as it was.
    again = assemble_text(text).words
    assert [n for n, (a, b) in enumerate(zip(again, program.code, strict=True)) if a != b] == [
        n for n, w in enumerate(program.code) if note(w)
    ]


def test_listing_invents_labels() -> None:
    words = build(kernel).code
    program = assemble(words, isa="vc4")
    text = program.text
    assert ":L5\n" in text
    assert "brr.anynz -, :L5" in text
    assert program.labels == {}


def test_toolkit() -> None:
    kit = isa("vc4")
    assert kit.isa is Isa.VC4
    assert kit.disassemble(0x100009E7009E7000) == "nop"
    assert kit.encode(kit.decode(0x100248212C042DF7)) == 0x100248212C042DF7
    program = kit.assemble("add r0, r0, 1\n:x nop\n", filename="f.qasm")
    assert program.labels == {"x": 1}
    place = program.loc(1)
    assert place is not None
    assert (place.file, place.line) == ("f.qasm", 2)
    assert len(kit.assemble(kernel)) == 18
    assert kit.assemble(lambda q, n: q.nops(n), args=(3,)).code == (0x100009E7009E7000,) * 3
    assert kit.check([0xE4020827243CF317])[0].rule == "decode"
    with pytest.raises(UsageError, match="word 1"):
        kit.assemble([0, 1 << 64])
    with pytest.raises(UsageError, match="arguments"):
        kit.assemble([0], args=(1,))


def test_checks_are_on_for_builders_only() -> None:
    def wrong(q: Asm) -> None:
        q.mov(q.ra[0], q.r0)
        q.mov(q.r0, q.ra[0])
        q.end()

    with pytest.raises(HazardError):
        assemble(wrong, isa="vc4")
    program = assemble(wrong, isa="vc4", check=False)
    assert [f.rule for f in program.check()] == ["H1"]
    assemble(program.code, isa="vc4")
    assemble("mov ra0, r0\nmov r0, ra0\n", isa="vc4")
    with pytest.raises(HazardError) as e:
        assemble("mov ra0, r0\nmov r0, ra0\n", isa="vc4", check=True)
    assert e.value.diagnostics[0].loc is not None
    assert e.value.diagnostics[0].loc.line == 2
    with pytest.raises(AsmError):
        assemble("bogus r0", isa="vc4")


def test_public_names() -> None:
    import qpu.vc4

    for name in qpu.vc4.__all__:
        assert getattr(qpu.vc4, name) is not None
    assert dir(qpu.vc4) == sorted(qpu.vc4.__all__)
    with pytest.raises(AttributeError, match="bogus"):
        _ = qpu.vc4.bogus


def test_a_note_stands_where_a_load_gives_another_word() -> None:
    """Conditions of dropped results and packs that pack nothing, on random load immediates."""
    rnd = random.Random(11)
    words = []
    for _ in range(2000):
        word = rnd.getrandbits(64) & ~(0x7F << 57) | 14 << 60 | rnd.choice([0, 1, 3]) << 57
        if rnd.random() < 0.6:
            word = word & ~(63 << 32) | 39 << 32 if rnd.random() < 0.5 else word & ~(63 << 38) | 39 << 38
        if not disassemble(word).startswith(".int64"):
            words.append(word)
    again = assemble_text("\n".join(disassemble(w) for w in words)).words
    assert [w for w, other in zip(words, again, strict=True) if (note(w) is None) != (w == other)] == []
    assert any(w != other for w, other in zip(words, again, strict=True))
