"""Tests of programs from words: only 64-bit integers are accepted, and none is rounded or truncated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.errors import AsmError, UsageError
from qpu.instruction_sets import assemble


@pytest.mark.parametrize("isa", list(Isa))
@pytest.mark.parametrize("source", [[1.5], ["x"], [None], [b"x"], 5, None, {"a": 1}, [1 << 64], [-1]])
def test_refused(isa: Isa, source: Any) -> None:
    with pytest.raises((AsmError, UsageError)):
        assemble(source, isa=isa)


@pytest.mark.parametrize("isa", list(Isa))
def test_integers_of_all_kinds(isa: Isa) -> None:
    assert assemble(np.array([0, 1, 2**64 - 1], np.uint64), isa=isa).code == (0, 1, 2**64 - 1)


def test_warnings_of_text_stay_with_the_program() -> None:
    from qpu.vc4.instruction_set import Vc4Toolkit

    program = Vc4Toolkit().assemble("mov r0, 010\nmov r1, X", defines={"X": 3}, filename="a.qasm")
    (warning,) = program.warnings
    assert (warning.rule, str(warning.loc)) == ("leading-zero", "a.qasm:1:9")
    assert len(program) == 2
