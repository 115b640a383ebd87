"""The sanitizer: launches on emulated boards with every access observed, as a context or by QPU_SANITIZE."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from qpu.core.isa import Isa
from qpu.debug.findings import KINDS, Findings
from qpu.emu.boards import BoardProfile
from qpu.emu.engine.memory import Memory
from qpu.emu.engines import observed
from qpu.errors import UsageError, block

if TYPE_CHECKING:
    from qpu.emu.engine.machine import V3dMachine, Vc4Machine

__all__ = ["Sanitizer", "from_environment", "sanitize", "set_environment"]


class Sanitizer:
    """What makes the machines of boards while the sanitizer is on."""

    def __init__(self, findings: Findings) -> None:
        self.findings, self.name = findings, "qpu.sanitize()"

    def machine(self, profile: BoardProfile, memory: Memory, *, strict: bool) -> V3dMachine | Vc4Machine:
        """The machine of a board, under the sanitizer."""
        from qpu.debug.memory import ShadowMemory

        if profile.isa is Isa.VC4:
            from qpu.debug.watch_vc4 import WatchedVc4Machine

            chip = WatchedVc4Machine(profile, memory, strict=strict)
            chip.findings, chip.shadow, chip.increments = self.findings, ShadowMemory(memory), {}
            return chip
        from qpu.debug.watch_v3d import WatchedV3dMachine

        machine = WatchedV3dMachine(profile, memory, strict=strict)
        machine.findings, machine.shadow = self.findings, ShadowMemory(memory)
        return machine


def _kinds(kinds: str | Collection[str]) -> frozenset[str]:
    names = kinds.split(",") if isinstance(kinds, str) else kinds
    if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"kinds = {kinds!r}; allowed: {', '.join(KINDS)}", help='write such as "init,race", or all')
    chosen = frozenset(name.strip() for name in names)
    if chosen == {"all"} or chosen == {"1"}:
        return frozenset(KINDS)
    if not chosen <= set(KINDS):
        wrong = sorted(chosen - set(KINDS))[0]
        raise UsageError(
            f"{wrong!r} is not a kind of finding; allowed: {', '.join(KINDS)}", help="write mem,init,race,sync, or all"
        )
    return chosen


@block
def sanitize(kinds: str | Collection[str] = KINDS, *, stop: bool = True) -> Iterator[Findings]:
    """Run the launches of the block that are on emulated boards under the sanitizer.

    kinds: of ``mem`` (exact bounds), ``init`` (registers, flags, VPM and memory that nobody wrote), ``race`` (accesses
    without order, rows and memory in use by DMA), ``sync`` (deadlocks, semaphores left, accumulators across a thread
    switch); names or text such as ``"init,race"``. stop: the first finding of a launch is an `EmuFault`; otherwise
    findings are collected, and each is an `EmuWarning` when its launch ends.
    Yields: the findings, in order. Devices may be opened outside of the block. Launches run on the reference engine.
    Raises: UsageError for an unknown kind.
    """
    if not isinstance(stop, bool):
        raise UsageError(
            f"stop = {stop!r}; allowed: True, False", help="False collects findings; True stops at the first"
        )
    watch = Sanitizer(Findings(_kinds(kinds), stop))
    with observed(watch):
        yield watch.findings


def set_environment(kinds: str, *, stop: bool) -> None:
    """Turn the sanitizer on for this process and its children. Raises: UsageError for an unknown kind."""
    _kinds(kinds)
    os.environ["QPU_SANITIZE"], os.environ["QPU_SANITIZE_STOP"] = kinds, "1" if stop else "0"


_from_environment: dict[str, Sanitizer] = {}


def from_environment() -> Sanitizer | None:
    """The sanitizer that QPU_SANITIZE asks for; None when it is not set. Raises: UsageError for an unknown kind."""
    text = os.environ.get("QPU_SANITIZE", "")
    if text in ("", "0"):
        return None
    if text not in _from_environment:
        stop = os.environ.get("QPU_SANITIZE_STOP", "")
        if stop not in ("", "0", "1"):
            raise UsageError(f"QPU_SANITIZE_STOP={stop!r}", help="set it to 0 (continue after a finding) or 1 (stop)")
        _from_environment[text] = Sanitizer(Findings(_kinds(text), stop != "0"))
    return _from_environment[text]
