"""Tests of wrong sources: each gives its rule at its place, as an AsmError."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpu.errors import AsmError, Severity
from qpu.vc4.vc4asm import assemble_text
from qpu.vc4.vc4asm.report import ERROR_LIMIT

from .corpus import WRONG


def test_corpus_is_large() -> None:
    assert len(WRONG) >= 130
    assert len({source for *_, source in WRONG}) == len(WRONG)


@pytest.mark.parametrize(("rule", "line", "column", "source"), WRONG, ids=[w[3][:50] for w in WRONG])
def test_wrong(rule: str, line: int, column: int, source: str) -> None:
    with pytest.raises(AsmError) as caught:
        assemble_text(source, filename="t.qasm")
    first = caught.value.diagnostics[0]
    assert first.loc is not None
    assert (first.rule, first.loc.line, first.loc.column) == (rule, line, column)
    assert first.severity is Severity.ERROR
    assert first.loc.file == "t.qasm"
    assert first.loc.text == source.splitlines()[line - 1]
    assert first.message[0] != " "
    assert first.help
    assert f"t.qasm:{line}:{column}: error[{rule}]" in str(caught.value)


def test_caret_and_help() -> None:
    with pytest.raises(AsmError) as caught:
        assemble_text("  add r0, r1, 99", filename="a.qasm")
    lines = str(caught.value).splitlines()
    assert lines[0] == "a.qasm:1:15: error[small-imm]: 99 is not a small immediate"
    assert lines[1][lines[2].index("^") :] == "99"
    assert lines[3].startswith("  allowed: -16..15")
    assert lines[4].startswith("  help: ")


def test_several_errors_in_order() -> None:
    source = "foo\nnop\nadd r0, r1\nbrr -, :x\nmov r0, zzz\n"
    with pytest.raises(AsmError) as caught:
        assemble_text(source)
    found = [(d.loc.line if d.loc else 0, d.rule) for d in caught.value.diagnostics]
    assert found == [
        (1, "unknown-instruction"),
        (3, "operand-count"),
        (4, "label-undefined"),
        (5, "undefined-name"),
    ]


def test_limit() -> None:
    with pytest.raises(AsmError) as caught:
        assemble_text("foo\n" * 1000)
    assert len(caught.value.diagnostics) == ERROR_LIMIT == 20


def test_limit_with_forward_labels() -> None:
    with pytest.raises(AsmError) as caught:
        assemble_text("ldi r0, :b - :a\n" + "foo\n" * 30 + ":a nop\n.if :a - :b < 0\nnop\n.endif\n:b nop\n")
    assert len(caught.value.diagnostics) == ERROR_LIMIT


def test_an_error_keeps_the_addresses_of_what_follows() -> None:
    with pytest.raises(AsmError) as caught:
        assemble_text("foo\n:a nop\n.assert :a - :b == 8\n:b nop\n.assert :b - :a == 8")
    assert [d.rule for d in caught.value.diagnostics] == ["unknown-instruction", "assertion"]


def test_error_inside_macro_names_both_places() -> None:
    source = ".macro m, a\n add r0, r1, a\n.endm\n.macro n, a\n m a\n.endm\nnop\nn 77"
    with pytest.raises(AsmError) as caught:
        assemble_text(source, filename="f.qasm")
    (found,) = caught.value.diagnostics
    assert found.loc is not None
    assert (found.loc.line, found.loc.column) == (2, 14)
    assert "in macro m called at f.qasm:5, in macro n called at f.qasm:8" in found.message


def test_error_inside_include(tmp_path: Path) -> None:
    (tmp_path / "inner.qinc").write_text("nop\n add r0, ra1, ra2\n")
    main = tmp_path / "main.qasm"
    with pytest.raises(AsmError) as caught:
        assemble_text('nop\n.include "inner.qinc"\n', filename=str(main))
    (found,) = caught.value.diagnostics
    assert found.loc is not None
    assert found.loc.file == str(tmp_path / "inner.qinc")
    assert (found.loc.line, found.loc.column) == (2, 15)
    assert f"included at {main}:2" in found.message


def test_misspelt_names_get_a_suggestion() -> None:
    for source, hint in (
        ("faddd r0, r1, r2", "fadd"),
        ("mov r0, elem_nun", "elem_num"),
        (".sett a, 1", ".set"),
        (":loop nop\nbrr -, :lop", ":loop"),
        ("add.setff r0, r1, r2", ".setf"),
        ("ldi r0, vpm_setp(1,1,h32(0))", "vpm_setup"),
        (".macro next\nnop\n.endm\nnxt", "next"),
    ):
        with pytest.raises(AsmError) as caught:
            assemble_text(source)
        assert hint in (caught.value.diagnostics[0].help or ""), source


_PIECES = st.sampled_from(
    "add fadd mov ldi nop fmul v8min brr bra read sacq ldtmu0 r0 r1 r4 r5 ra1 rb2 ra3 unif vpm - , , , ; ; : :x x: 1: "
    ".setf .ifz .8a .16af .allz << >> 5 -16 2.0 0x1234 ( ) [ ] [0,1] + - * .set .rep .endr .if .else .endif .macro "
    ':1f .endm .func .endf .back .endb .int .float .align .clone .global .include "x" i , 3 # \n \n \n \n'.split(" ")
)


@settings(max_examples=120, deadline=None)
@given(st.lists(_PIECES, max_size=40))
def test_garbage_gives_asm_error_or_words(pieces: list[str]) -> None:
    text = " ".join(pieces)
    try:
        result = assemble_text(text)
    except AsmError as error:
        assert error.diagnostics
        lines = text.splitlines()
        for d in error.diagnostics:
            assert d.loc is not None
            assert 1 <= d.loc.line <= len(lines)
            assert d.loc.column is not None
            assert 1 <= d.loc.column <= len(lines[d.loc.line - 1]) + 1
    else:
        assert len(result.words) == len(result.locs)
        assert all(0 <= w < 1 << 64 for w in result.words)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_any_text_gives_asm_error_or_words(text: str) -> None:
    try:
        assemble_text(text)
    except AsmError as error:
        assert error.diagnostics
