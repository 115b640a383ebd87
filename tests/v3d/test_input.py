"""Tests of unusual text: every answer is a program or a located AsmError, after a short time."""

from __future__ import annotations

import importlib

import pytest

import qpu
from qpu.core.isa import Isa
from qpu.errors import AsmError
from qpu.v3d.decode import decode
from qpu.v3d.parser import assemble_text
from qpu.v3d.printer import note, text
from tests.v3d import vectors as vec

NINES = "9" * 3500
WRONG = [
    ("mov rf0, " + "9" * 5000, 1, 4001),
    ("nop\n" + "(" * 10**6, 2, 4001),
    ("mov rf0, " + "1+" * 1500 + "1", 1, 10),
    ("mov rf0, " + "-" * 1500 + "1", 1, 10),
    (f"mov rf0, rf{NINES}", 1, 10),
    (f".word {NINES}", 1, 7),
    (f"b {NINES}", 1, 3),
    (f"nop; nop; ldunifrf.rf{NINES}", 1, 20),
    (f"waddr UNKNOWN {NINES}", 1, 1),
    (".set a, 1<<127", 1, 9),
    (".set a, 1<<40\n.set b, a*a", 2, 9),
    (f".set a, 1.5*{'9' * 400}", 1, 9),
    ("or rf\u0663, rf0, rf0", 1, 4),
    ("mov rf0, \u0663", 1, 10),
    ("mov rf0, \u00b2", 1, 10),
    ("nop; nop; rot.1\u0663", 1, 11),
    ("nop\0", 1, 1),
    ("n\u00f6p", 1, 1),
    ("\ud800", 1, 1),
    ("nop\x0cnop", 1, 5),
    ("nop # one line\u2028still\x85the\x0bsame\nfoo", 2, 1),
    ("nop\r\nnop\rfoo\r\n", 3, 1),
]


@pytest.mark.parametrize("isa", vec.ISAS)
@pytest.mark.parametrize("case", range(len(WRONG)))
def test_refused_at_its_place(isa: Isa, case: int) -> None:
    source, line, column = WRONG[case]
    with pytest.raises(AsmError) as e:
        assemble_text(isa, source)
    loc = e.value.diagnostics[0].loc
    assert loc is not None
    assert (loc.line, loc.column) == (line, column)
    assert len(str(e.value)) < 5000


@pytest.mark.parametrize("isa", vec.ISAS)
def test_accepted(isa: Isa) -> None:
    nop = assemble_text(isa, "nop").code
    for source in (
        "\ufeffnop",
        "nop\r\n",
        "\tnop\t;\tnop\n\n",
        "nop # \u00e4\u2028",
        " " * 3000 + "nop",
        "nop #" + "x" * 10**6,
    ):
        assert assemble_text(isa, source).code == nop
    assert assemble_text(isa, "").code == assemble_text(isa, "# nothing").code == ()
    assert assemble_text(Isa.V3D42, "nop; nop; rot.01").code == assemble_text(Isa.V3D42, "nop; nop; rot.1").code


@pytest.mark.parametrize("isa", vec.ISAS)
def test_a_note_stands_where_the_text_gives_another_word(isa: Isa) -> None:
    rows = vec.rows(isa)
    code = [int(row["word"], 16) for row in rows]
    again = assemble_text(isa, "\n".join(text(decode(isa, word)) for word in code)).code
    for row, word, other in zip(rows, code, again, strict=True):
        noted = note(decode(isa, word), word) or ""
        assert ("not canonical" in noted) == (word != other), row
        assert word == other or f"0x{other:016x}" in noted
        assert not (row["text_canonical"] and "not canonical" in noted), row


def test_the_module_of_the_decoder_does_not_hide_its_function() -> None:
    module = importlib.import_module("qpu.v3d.decode")
    assert qpu.v3d.decode is module.decode and "decode" in dir(qpu.v3d)
    assert qpu.v3d.decode(Isa.V3D71, 0x38203186BB03F000).sig is qpu.v3d.Sig.THRSW
