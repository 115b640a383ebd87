"""Findings of the sanitizer: what was found, both places, and what happens with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from qpu.emu.engine.machine import RunStats
from qpu.errors import EmuFault, FaultPlace

__all__ = ["HELP", "KINDS", "Finding", "Findings"]

KINDS = ("mem", "init", "race", "sync")

HELP = {
    "mem": "check the address arithmetic, the lanes that are enabled, and the sizes of the buffers",
    "uninitialised": "write the register or the memory before it is used, in every lane that counts",
    "race": "order the accesses: a barrier between threads of a supergroup, the mutex or a semaphore on VideoCore IV",
    "dma-race": "wait for the transfer first: q.wait_dma_store() or q.wait_dma_load()",
    "dma-twice": "wait for the first transfer before starting the second one",
    "dma-end": "wait for the transfer before the program ends",
    "semaphore-left": "leave every semaphore at 0 at the end of each launch",
    "deadlock": "let every thread reach the barrier; pair each decrement of a semaphore with an increment",
    "lost": "keep values in the register file across a thread switch; set flags again after it",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding. kind: one of `KINDS`. place: where it was noticed. other: the other access, or where it began."""

    kind: str
    rule: str
    message: str
    place: FaultPlace
    other: FaultPlace | None = None

    def fault(self) -> EmuFault:
        """The finding as a fault."""
        return EmuFault(self.rule, self.message, self.place, self.kind, HELP[self.rule], self.other)

    def __str__(self) -> str:
        return str(self.fault())


@dataclass(slots=True)
class Findings:
    """The findings of the launches under the sanitizer, in order. kinds: what is looked for.

    stop: the first finding of a launch ends it as an `EmuFault`; otherwise the launch continues, and each finding is an
    `EmuWarning` when the launch ends. A rule is reported once for each instruction of a launch.
    """

    kinds: frozenset[str]
    stop: bool = True
    found: list[Finding] = field(default_factory=list)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def add(self, finding: Finding, stats: RunStats, seen: set[tuple[str, int | None]]) -> None:
        """Record a finding, or raise it. seen: rules and instructions that this launch has reported."""
        key = finding.rule, finding.place.instruction
        if finding.kind not in self.kinds or key in seen:
            return
        seen.add(key)
        self.found.append(finding)
        if self.stop:
            raise finding.fault()
        stats.faults.append(str(finding))
