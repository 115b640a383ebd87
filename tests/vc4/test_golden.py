"""Tests of golden words: decoding to fields and encoding from fields."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from qpu.vc4.decode import decode, reserved
from qpu.vc4.encode import encode
from qpu.vc4.instr import Alu, Branch, LoadImm, LoadMode, Reserved, Semaphore
from qpu.vc4.pairing import clashes, combine, fits, halves
from qpu.vc4.printer import canonical

VECTORS = Path(__file__).parent.parent / "vectors" / "vc4.jsonl.gz"
MODES = {
    "load_imm_32": LoadMode.WORD,
    "load_imm_per_elmt_signed": LoadMode.PER_ELEMENT_SIGNED,
    "load_imm_per_elmt_unsigned": LoadMode.PER_ELEMENT_UNSIGNED,
}


def rows() -> list[dict[str, Any]]:
    with gzip.open(VECTORS, "rt") as f:
        return [json.loads(line) for line in f]


def instruction(word: int, fields: dict[str, Any]) -> Any:
    """The instruction that a row's fields describe."""
    f = dict(fields)
    kind = f.pop("type")
    if kind == "reserved":
        return Reserved(word)
    sig = f.pop("sig")
    if kind in ("alu", "alu_small_imm"):
        if kind == "alu_small_imm":
            assert sig == 13
            f["raddr_b"] = f.pop("small_immed")
        return Alu(sig=sig, **f)
    if kind == "branch":
        assert sig == 15
        f["cond"] = f.pop("cond_br")
        f["imm"] = f.pop("immediate")
        return Branch(**f)
    assert sig == 14
    unpack = f.pop("unpack")
    if kind == "sema":
        assert unpack == 4
        f["imm"] = f.pop("dontcare") << 5 | f.pop("sa") << 4 | f.pop("semaphore")
        return Semaphore(**f)
    if kind != "load_imm_32":
        assert unpack == MODES[kind]
        f["immediate"] = f.pop("immediate_ms") << 16 | f.pop("immediate_ls")
    f["imm"] = f.pop("immediate")
    return LoadImm(mode=MODES[kind], **f)


def test_every_row_both_ways() -> None:
    checked = 0
    for row in rows():
        word = int(row["word"], 16)
        instr = instruction(word, row["fields"])
        assert decode(word) == instr, row
        assert encode(instr) == word, row
        checked += 1
    assert checked > 6000


def test_reserved_rows_are_told() -> None:
    noted = 0
    for row in rows():
        word = int(row["word"], 16)
        if row.get("quirk") == 1:
            continue  # the reference takes MUL pack 11 for the replicating one
        notes = [n for n in row.get("vc4dis_notes", ()) if n.startswith("Invalid")]
        assert bool(notes) == (reserved(decode(word)) is not None), row
        noted += bool(notes)
    assert noted > 20


@pytest.mark.parametrize("word", [-1, 1 << 64])
def test_not_a_word(word: int) -> None:
    with pytest.raises(ValueError, match="64-bit"):
        decode(word)


def test_every_row_is_the_pair_of_its_halves() -> None:
    """Pairing chooses the ports, packs and write swap of foreign words, except for inputs that both files offer."""
    pairs, refused, moved = 0, 0, 0
    for row in rows():
        i = instruction(int(row["word"], 16), row["fields"])
        if not isinstance(i, Alu):
            continue
        add, mul = halves(i)
        sig = 1 if i.sig == 13 else i.sig
        found = combine(add, mul, sig, strict=False)
        assert isinstance(found, Alu), row
        if canonical(found) != canonical(i):
            assert halves(found) == (add, mul) and i.raddr_b in (32, 35, 48, 51), row
            moved += 1
        pairs += 1
        if not fits(add, mul, sig):
            assert [c.rule for c in clashes(add, mul, sig)] == ["unpack-type"], row
            refused += 1
    assert (pairs > 4900, refused, moved) == (True, 5, 18)
