"""Tests of diagnostics as text: how long lines, long messages and long lists are cut."""

from __future__ import annotations

from qpu.errors import AsmError, Diagnostic, Loc


def test_caret_under_the_column() -> None:
    shown = Diagnostic("x", "wrong", loc=Loc("f", 3, 5, "\tab\tcd\n"), allowed="this", help="that").render()
    assert shown.splitlines() == [
        "f:3:5: error[x]: wrong",
        "     ab cd",
        "        ^",
        "  allowed: this",
        "  help: that",
    ]


def test_long_lines_are_shown_in_part() -> None:
    source = "a" * 5000 + "!" + "b" * 5000
    _, line, caret = Diagnostic("x", "wrong", loc=Loc("f", 1, 5001, source)).render().splitlines()
    assert len(line) < 300
    assert line[caret.index("^")] == "!"
    _, line = Diagnostic("x", "wrong", loc=Loc("f", 1, None, source)).render().splitlines()
    assert len(line) < 300


def test_long_messages_and_lists_are_cut() -> None:
    assert len(Diagnostic("x", "m" * 10**6).render()) < 2000
    error = AsmError.of([Diagnostic("x", "wrong", index=n) for n in range(10**4)])
    assert len(error.diagnostics) == 10**4
    assert str(error).splitlines()[-1] == "... and 9950 more"
