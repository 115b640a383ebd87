"""Checks of MIR find what they are for; `test_fuzz` makes them after each pass."""

from __future__ import annotations

import pytest

from qpu.core.isa import Isa
from qpu.lang.bundle import bundle
from qpu.lang.liveness import mutual
from qpu.lang.mir import Block, Fixed, Function, Imm, MOp
from qpu.lang.target_v3d import V3dTarget
from qpu.lang.verify_mir import MirError, verify_mir

CAPACITY = 8


TMUA = Fixed("magic", 12)


def pop(r: int) -> MOp:
    return MOp("", sig=4, sig_dst=r, role="pop")


@pytest.mark.parametrize(
    ("ops", "what"),
    [
        ([MOp("add", 1, 0, 0)], "register 0 may not be written yet"),
        ([MOp("mov", 0, Imm(1), cond="ifa")], "register 0 may not be written yet"),
        ([MOp("mov", 9, Imm(1))], "register 9 of 2"),
        ([MOp("add", 0, Imm(1), Imm(2))], "two small immediates"),
        ([pop(0)], "that nothing asked for"),
        ([MOp("mov", TMUA, Imm(0), role="request", words=9)], "9 words are pending"),
    ],
)
def test_findings(ops: list[MOp], what: str) -> None:
    with pytest.raises(MirError, match=what):
        verify_mir(Function([Block("entry0", ops=ops)], 2), CAPACITY)


def test_a_register_that_one_path_skips() -> None:
    end = Block("end", ops=[MOp("mov", 1, 0)])
    then = Block("then", ops=[MOp("mov", 0, Imm(1))], falls=end)
    entry = Block("entry", branch=(end, "alla"), falls=then)
    with pytest.raises(MirError, match=r"end\[0\].*register 0 may not be written yet"):
        verify_mir(Function([entry, then, end], 2), CAPACITY)


def test_a_uniform_that_one_path_skips() -> None:
    end = Block("end")
    then = Block("then", ops=[MOp("", sig=16, sig_dst=0, role="uniform", uniform=("param", "n"))], falls=end)
    entry = Block("entry", branch=(end, "alla"), falls=then)
    with pytest.raises(MirError, match="a path may skip or repeat"):
        verify_mir(Function([entry, then, end], 2), CAPACITY)


def test_an_operation_that_no_instruction_takes() -> None:
    ops = [MOp("mov", 0, Imm(1)), MOp("rot", Fixed("magic", 11), 0, Imm(4), role="data")]  # lanes go to registers only
    target = V3dTarget(Isa.V3D71, {0: Fixed("rf", 5)})
    with pytest.raises(AssertionError, match=r"no instruction can take rot"):
        bundle(Function([Block("entry0", ops=ops)], 1), target, CAPACITY)


def test_conflicts_in_both_directions() -> None:
    rows = [0b0110, 0b0000, 0b1001, 0b0001]
    assert mutual(rows) == [0b1110, 0b0001, 0b1001, 0b0101]
