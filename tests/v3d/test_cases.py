"""Tests of texts from other sources: dumps of the driver, and forms that were never tried on hardware."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpu.core.isa import Isa
from qpu.errors import AsmError, Severity
from qpu.v3d.parser import assemble_text

CORPUS = Path(__file__).parent / "corpus"


def test_a_dump_of_the_driver_assembles_to_its_words() -> None:
    """Words first, then uniforms, with a header above."""
    source = (CORPUS / "mesa_dump.txt").read_text(encoding="utf-8")
    words = [int(line[:18], 16) for line in source.splitlines() if line.startswith("0x")]
    found = assemble_text(Isa.V3D71, source)
    assert list(found.code) == words
    assert len(words) == 15
    loc = found.loc(3)
    assert loc is not None
    assert loc.line == 5


def test_a_dump_of_another_chip_is_refused() -> None:
    source = (CORPUS / "mesa_dump.txt").read_text(encoding="utf-8")
    with pytest.raises(AsmError) as e:
        assemble_text(Isa.V3D42, source, filename="dump.txt")
    assert {d.rule for d in e.value.diagnostics} == {"dump"}
    first = e.value.diagnostics[0]
    assert first.loc is not None
    assert (first.loc.line, first.loc.column) == (2, 20)
    assert first.help is not None
    assert "another chip" in first.help


def test_a_dumped_word_says_what_its_text_leaves_out() -> None:
    """`ucb` is not printed: the word counts."""
    ucb = 0x38003186BB03F000 | 22 << 53
    assert assemble_text(Isa.V3D71, f"0x{ucb:016x} nop ; nop").code == (ucb,)


def test_conversions_to_half_a_register() -> None:
    """They encode, with a warning about the grade; operands and other conversions take no modifier."""
    lines = (CORPUS / "utof_pack.v3d").read_text(encoding="utf-8").splitlines()
    for isa in (Isa.V3D42, Isa.V3D71):
        with pytest.raises(AsmError) as e:
            assemble_text(isa, "\n".join(lines))
        found = [(d.rule, d.loc.line, d.loc.column) for d in e.value.diagnostics if d.loc is not None]
        assert found == [("modifier", 4, 11), ("modifier", 6, 15), ("modifier", 7, 15)]
        code = assemble_text(isa, "\n".join([*lines[:3], "itof rf1.h, rf2"]))
        places = [(w.rule, w.severity, w.loc and (w.loc.line, w.loc.column)) for w in code.warnings]
        assert places == [("untried", Severity.WARNING, (n, c)) for n, c in ((2, 10), (3, 10), (4, 6))]
        assert all(w.help and "assumed" in w.message for w in code.warnings)
        assert not assemble_text(isa, "utof rf1, rf2\nfadd rf1.l, rf2, rf3").warnings


def test_rounding_of_an_absolute_value_is_untried() -> None:
    assert [w.rule for w in assemble_text(Isa.V3D71, "fround rf1, rf2.abs").warnings] == ["untried"]
    with pytest.raises(AsmError):
        assemble_text(Isa.V3D42, "fround rf1, rf2.abs")
