"""The rows of advice for V3D programs: each is used, and each text of a row arrives in the error."""

from __future__ import annotations

import re
from pathlib import Path

from qpu.v3d import advice
from qpu.v3d.advice import ADVICE, mistake

SOURCES = Path(advice.__file__).parent


def test_every_row_is_used() -> None:
    text = "\n".join(p.read_text() for p in SOURCES.glob("*.py"))
    used = set(
        re.findall(r'(?:mistake|wrong|_wrong|_fail|_refuse|_refused|parts)\(\s*(?:[^"\n]*, )?"([a-z0-9-]+)"', text)
    )
    assert used == set(ADVICE)


def test_cells_of_a_row() -> None:
    row = ADVICE["expression"]
    assert row == ("syntax", "numbers, names, + - * / ( ); on integers << >> & | ^ ~", "write a constant expression")
    assert ADVICE["empty-part"].allowed is None
    assert ADVICE["one-imm-42"].help == "load one of them as a uniform with ldunifrf, or use two instructions"


def test_arguments_replace_the_cells_of_the_row() -> None:
    found = mistake("rf", "rf64 does not exist", "0..63")
    assert (found.rule, found.allowed, found.help) == ("register", "0..63", "use one of the 64 registers")
    assert mistake("rf", "rf64 does not exist", help="use rf0").help == "use rf0"
