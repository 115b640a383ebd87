"""Tests of the fence of a dispatch in several parts, when parts fault."""

from __future__ import annotations

import pytest

from qpu.errors import EmuFault
from qpu.runtime.fences import Parts


class Part:
    """The fence of a job. own: the rule of its fault, which every wait raises; other: that of another launch, once."""

    run = None

    def __init__(self, own: str = "", other: str = "") -> None:
        self.own, self.other = own, other
        self.done = False

    def wait(self, timeout_s: float | None = None) -> None:
        rule, self.other = self.other, ""
        if rule:
            raise EmuFault(rule, "found")
        self.done = True
        if self.own:
            raise EmuFault(self.own, "found")

    def poll(self, timeout_s: float = 0.0) -> bool:
        self.wait(timeout_s)
        return True


def parts(*fences: Part) -> Parts:
    return Parts(fences, lambda: 0.0)


@pytest.mark.parametrize("polled", [False, True])
def test_parts_after_one_that_faults_are_waited_for(polled: bool) -> None:
    fences = Part(), Part(own="first"), Part(own="second"), Part()
    whole = parts(*fences)
    if polled:
        assert whole.poll() and whole.done
    for _ in range(2):
        with pytest.raises(EmuFault, match="first"):
            whole.wait()
        assert whole.done and all(fence.done for fence in fences)


@pytest.mark.parametrize("ask", [Parts.wait, Parts.poll])
def test_a_fault_of_another_launch_interrupts_the_wait_only(ask: object) -> None:
    assert callable(ask)
    last = Part()
    whole = parts(Part(), Part(other="foreign"), last)
    with pytest.raises(EmuFault, match="foreign"):
        ask(whole)
    assert not whole.done and not last.done
    ask(whole)
    assert whole.done and last.done
