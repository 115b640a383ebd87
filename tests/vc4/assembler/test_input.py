"""Tests of unusual text: every answer is a program or a located AsmError, after a short time."""

from __future__ import annotations

import pytest

from qpu.errors import AsmError
from qpu.vc4.vc4asm import assemble_text

DOUBLING = "".join(f".macro m{n}\nm{n + 1}\nm{n + 1}\n.endm\n" for n in range(40)) + ".macro m40\nnop\n.endm\nm0\n"
WRONG = [
    ("number", 1, 9, "mov r0, " + "9" * 3900),
    ("number", 1, 9, "mov r0, 0x" + "f" * 3900),
    ("number", 1, 8, ".int64 " + "9" * 3900),
    ("syntax", 1, 9, "mov r0, \u00b2"),
    ("syntax", 1, 9, "mov r0, \u0663"),
    ("syntax", 1, 1, "\0"),
    ("syntax", 1, 9, "mov r0, \ud800"),
    ("unknown-instruction", 1, 1, "a" * 4000),
    ("syntax", 1, 4001, "a" * 10**6),
    ("syntax", 1, 4001, "mov r0, " + "(" * 10**5),
    ("recursion", 1, 209, "mov r0, " + "(" * 3900),
]


@pytest.mark.parametrize(("rule", "line", "column", "source"), WRONG)
def test_refused_at_its_place(rule: str, line: int, column: int, source: str) -> None:
    with pytest.raises(AsmError) as e:
        assemble_text(source)
    d = e.value.diagnostics[0]
    assert d.loc is not None
    assert (d.rule, d.loc.line, d.loc.column) == (rule, line, column)
    assert len(str(e.value)) < 40_000


@pytest.mark.parametrize("source", [DOUBLING, ".rep i, 2\n" * 60 + "nop\n" + ".endr\n" * 60])
def test_text_that_doubles_forever_is_refused(source: str) -> None:
    with pytest.raises(AsmError) as e:
        assemble_text(source)
    assert {d.rule for d in e.value.diagnostics} == {"expansion"}


def test_accepted() -> None:
    nop = assemble_text("nop").words
    for source in (
        "\ufeffnop",
        "nop\r\n",
        "\tnop\n\n",
        "nop # \u00e4\u2028",
        "nop" + " " * 3997,
        "nop #" + " " * 10**5,
    ):
        assert assemble_text(source).words == nop
