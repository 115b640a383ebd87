"""Tests of random words through decoder, encoder, printer, assembler and checker: a result or the documented error.

The suite takes a sample of each instruction set; ``-m soak`` takes a million words each, in shards that run by seed.
"""

from __future__ import annotations

import random

import pytest

import qpu
from qpu.core.isa import Isa
from qpu.errors import DecodeError, Severity

SAMPLE = 1_500
SHARD = 50_000
PROGRAM = 25  # words checked together


def words(isa: Isa, seed: int, count: int) -> list[int]:
    """Uniform words, and words close to valid ones: what a damaged program looks like."""
    rng = random.Random(f"{isa}{seed}")
    toolkit = qpu.isa(isa)
    known = [0x100009E7009E7000] if isa is Isa.VC4 else [toolkit.assemble("nop").code[0]]
    out: list[int] = []
    while len(out) < count:
        kind = rng.random()
        if kind < 0.4:
            word = rng.getrandbits(64)
        else:
            word = rng.choice(known)
            for _ in range(rng.randrange(1, 5)):
                word ^= rng.getrandbits(rng.choice((1, 3, 6, 8))) << rng.randrange(64) & 0xFFFFFFFFFFFFFFFF
        out.append(word)
        try:
            toolkit.decode(word)
        except DecodeError:
            continue
        if len(known) < 500:
            known.append(word)
        elif rng.random() < 0.05:
            known[rng.randrange(len(known))] = word
    return out


def fuzz(isa: Isa, seed: int, count: int) -> tuple[int, int]:
    """Decodable words and findings of `count` words."""
    toolkit = qpu.isa(isa)
    decodable = findings = 0
    todo = words(isa, seed, count)
    for word in todo:
        try:
            instr = toolkit.decode(word)
        except DecodeError as error:
            assert isa is not Isa.VC4, "every word of VideoCore IV decodes"
            assert str(error)
            continue
        decodable += 1
        again = toolkit.encode(instr)
        assert toolkit.decode(again) == instr, f"{word:#018x}"  # the canonical word of the same instruction
        if isa is Isa.VC4:
            assert again == word, f"{word:#018x}"
        text = toolkit.disassemble(word)
        assert text and "\n" not in text, f"{word:#018x}"
    for at in range(0, count, PROGRAM):
        program = todo[at : at + PROGRAM]
        for finding in toolkit.check(program):
            findings += 1
            assert finding.rule and finding.message and finding.severity in Severity
            assert 0 <= finding.index <= len(program), (
                finding
            )  # past the last instruction: findings about the whole program
            assert finding.other is None or 0 <= finding.other < len(program), finding
    return decodable, findings


@pytest.mark.parametrize("isa", list(Isa), ids=str)
def test_random_words(isa: Isa) -> None:
    decodable, findings = fuzz(isa, 0, SAMPLE)
    assert decodable > SAMPLE // 5 and findings > 10


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 21))
@pytest.mark.parametrize("isa", list(Isa), ids=str)
def test_a_million_random_words(isa: Isa, seed: int) -> None:
    fuzz(isa, seed, SHARD)


@pytest.mark.parametrize("isa", list(Isa), ids=str)
def test_text_of_random_words_is_taken_back(isa: Isa) -> None:
    """The assembler accepts the output of the disassembler; on V3D the result prints the same text."""
    toolkit = qpu.isa(isa)
    for word in words(isa, 7, 400):
        try:
            text = toolkit.disassemble(word)
        except DecodeError:
            continue
        program = toolkit.assemble(text)
        assert len(program) == 1, text
        if isa is not Isa.VC4:  # one meaning has several texts there; tests/vc4 compares the golden ones
            assert toolkit.disassemble(program.code[0]) == text
