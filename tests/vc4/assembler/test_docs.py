"""Test that the examples of the language reference assemble without warnings (tests/test_docs.py runs the page)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qpu.vc4.vc4asm import assemble_text

PAGE = Path(__file__).parents[3] / "docs" / "vc4-assembly.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
SOURCES = [text for language, text in BLOCKS if language == "vc4"]


def test_there_are_examples() -> None:
    assert len(SOURCES) >= 5


@pytest.mark.parametrize("source", SOURCES, ids=[s.split("\n")[0].strip() for s in SOURCES])
def test_example(source: str) -> None:
    result = assemble_text(source)
    assert result.words or ".func" in source
    assert not result.warnings


def test_examples_of_constants() -> None:
    for source in SOURCES:
        for line in source.splitlines():
            text, _, comment = line.partition("#")
            if "mov r0, 24" in text or "0x80000000" in text:
                assert assemble_text(text).words == assemble_text(comment).words, line


def test_the_first_program_breaks_no_rule_of_the_hardware() -> None:
    import qpu.instruction_sets

    (first,) = (source for source in SOURCES if "thrend" in source)
    words = assemble_text(first).words
    assert qpu.instruction_sets.isa("vc4").check(words) == []
