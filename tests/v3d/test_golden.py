"""Tests of every golden vector, from an independent source: words, fields, text, verdicts."""

from __future__ import annotations

import pytest

from qpu.core.isa import Isa
from qpu.errors import DecodeError, Severity
from qpu.v3d.decode import decode
from qpu.v3d.encode import encode
from qpu.v3d.hazards import check
from qpu.v3d.parser import assemble_text
from qpu.v3d.printer import text

from . import vectors as vec


@pytest.mark.parametrize("isa", vec.ISAS)
def test_words_decode_to_fields_and_back(isa: Isa) -> None:
    wrong = []
    for row in vec.rows(isa):
        word = int(row["word"], 16)
        instr = decode(isa, word)
        found, expected = vec.fields_of(instr), dict(row["fields"])
        for fields in (found, expected):
            if "sig" in fields:
                fields["sig"] = sorted(fields["sig"])  # the vectors' order has no meaning
        if found != expected:
            wrong.append((row["word"], "fields"))
        if encode(instr) != word:
            wrong.append((row["word"], "word"))
    assert not wrong[:20]


@pytest.mark.parametrize("isa", vec.ISAS)
def test_fields_encode_to_words(isa: Isa) -> None:
    wrong = [row["word"] for row in vec.rows(isa) if encode(vec.instr_of(isa, row["fields"])) != int(row["word"], 16)]
    assert not wrong[:20]


@pytest.mark.parametrize("isa", vec.ISAS)
def test_text_of_words(isa: Isa) -> None:
    wrong = [
        (row["disasm"], found)
        for row in vec.rows(isa)
        if (found := text(decode(isa, int(row["word"], 16)))) != row["disasm"]
    ]
    assert not wrong[:20]


def parts(line: str) -> list[str]:
    """The items of a line in an order of their own."""
    return sorted(line.replace(",", " ").replace(";", " ").split())


@pytest.mark.parametrize("isa", vec.ISAS)
def test_text_assembles(isa: Isa) -> None:
    """Text marked canonical gives its word; every text is accepted and means the same."""
    rows = vec.rows(isa)
    code = assemble_text(isa, "\n".join(row["disasm"] for row in rows)).code
    assert len(code) == len(rows)
    wrong = [
        (row["word"], hex(word), row["disasm"])
        for row, word in zip(rows, code, strict=True)
        if row["text_canonical"] and word != int(row["word"], 16)
    ]
    assert not wrong[:20]
    # what differs is operand order of commuting operations, ports and surplus bits
    same = [text(decode(isa, w)) == row["disasm"] for row, w in zip(rows, code, strict=True) if row["text_canonical"]]
    assert all(same)
    others = [(row, w) for row, w in zip(rows, code, strict=True) if not row["text_canonical"]]
    for row, word in others:
        assert parts(text(decode(isa, word))) == parts(row["disasm"])


@pytest.mark.parametrize("isa", vec.ISAS)
def test_invalid_words_are_refused(isa: Isa) -> None:
    for (word,) in vec.words(f"{isa}_invalid.txt"):
        with pytest.raises(DecodeError) as e:
            decode(isa, word)
        assert e.value.word == word
        assert e.value.field


@pytest.mark.parametrize("isa", vec.ISAS)
def test_noncanonical_words(isa: Isa) -> None:
    pairs = vec.words(f"{isa}_noncanonical.txt")
    assert [encode(decode(isa, word)) for word, _ in pairs] == [canonical for _, canonical in pairs]


# The validator's messages and our rules.
RULES = {
    "ADD RF write at THREND": "end-rf-write",
    "MUL RF write at THREND": "end-rf-write",
    "RF write after THREND": "end-rf-write",
    "RF2-3 write after THREND": "end-payload-write",
    "LDUNIF after a LDVARY": "ldvary-ldunif",
    "LDVARY during THRSW delay slots": "thrsw-ldvary",
    "LDVARY in 2nd THRSW delay slot": "thrsw-ldvary",
    "No program-end THRSW found": "no-end-thrsw",
    "Only one of [TMU, SFU, TSY, TLB read, VPM] allowed": "peripheral",
    "R4 read too soon after SFU": "sfu-r4-read",
    "R4 write too soon after SFU": "sfu-r4-write",
    "SFU write started during THRSW delay slots": "thrsw-sfu",
    "THRSW too close to another THRSW.": "thrsw-close",
    "Two last-THRSW signals": "last-thrsw-twice",
    "thread switch found without last-THRSW in program": "no-last-thrsw",
    "small imm c/d used but no MUL inst": "small-imm-unused",
    "small imm a/b used but no ADD inst": "small-imm-unused",
}


def test_verdicts_of_sequences() -> None:
    wrong = []
    for number, row in enumerate(vec.sequences()):
        isa = Isa.V3D42 if row["ver"] == 42 else Isa.V3D71
        findings = check(isa, [int(w, 16) for w in row["words"]], single_segment=row["single_seg"])
        errors = [(f.index, f.rule) for f in findings if f.severity is Severity.ERROR]
        expected = None if row["verdict"] == "ok" else (row["ip"], RULES[row["rule"].strip()])
        if expected != (errors[0] if errors else None):
            wrong.append((number, expected, errors))
    assert not wrong
