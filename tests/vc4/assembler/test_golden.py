"""Tests of the assembler against the output of the reference assembler for several thousand snippets."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from qpu.errors import AsmError
from qpu.vc4.vc4asm import assemble_text

VECTORS = Path(__file__).parents[2] / "vectors"


def _rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(VECTORS / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _grouped(name: str) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(name):
        groups[row["category"]].append(row)
    return groups


TEXTS = _grouped("vc4_text.jsonl.gz")
WORDS = _grouped("vc4.jsonl.gz")


@pytest.mark.parametrize("category", sorted(TEXTS))
def test_snippets(category: str) -> None:
    wrong: list[str] = []
    for row in TEXTS[category]:
        if row.get("quirk"):
            continue
        try:
            words: list[str] | None = [f"0x{w:016x}" for w in assemble_text(row["text"]).words]
        except AsmError:
            words = None
        if words != (row["words"] if row["ok"] else None):
            wrong.append(f"{row['text']!r}: {words}, expected {row.get('words') if row['ok'] else 'an error'}")
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("style", ["vc4asm", "vc4asm_MF"])
@pytest.mark.parametrize("category", sorted(WORDS))
def test_reference_disassembly(category: str, style: str) -> None:
    wrong: list[str] = []
    for row in WORDS[category]:
        expected = row[f"{style}_word"]
        if row.get("quirk") or expected is None:
            continue
        try:
            words: tuple[int, ...] | str = assemble_text(row[style]).words
        except AsmError as error:
            words = str(error)
        if words != (int(expected, 16),):
            wrong.append(f"{row[style]!r}: {words}, expected {expected}")
    assert not wrong, "\n".join(wrong[:20])


def test_quirks_are_done_sensibly() -> None:
    """Rows where the reference is known to be wrong, with the right result."""
    expected = {
        "ldi r0, 0b1011": 0xE00208270000000B,
        "ldi r0, 0d10": 0xE00208270000000A,
        "ldi r0, 1.5e-3": 0xE00208273AC49BA6,
        "ldi r0, exp 1.0": 0xE0020827402DF854,
        "ldi r0, log 10": 0xE002082740135D8E,
        ".float 1.0, 2.0": 0x400000003F800000,
        ".half 1.0, -2.0, 0.5, 65504.0": 0x7BFF3800C0003C00,
        "fmul r0.8888sf, r1, r2": 0x113049E0209E700A,
        "mov r0, r1>>r5": 0xD00049E0809F0009,
        "mov r0, r1<<r5": 0xD00049E0809F0009,
    }
    for text, word in expected.items():
        assert assemble_text(text).words == (word,), text
