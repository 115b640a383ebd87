"""Hazard rules of VideoCore IV that count events along the control flow: TMU and VPM FIFOs, DMA stores, switches.

`flow_findings` is a forward data-flow analysis. Where the state is not known (after calls and computed branches) it
reports nothing. All findings are warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qpu.core.effects import Effects
from qpu.vc4.instr import Instr, LoadImm, LoadMode

__all__ = ["flow_findings"]

_CAP = 9  # beyond the depth of every FIFO


@dataclass(frozen=True, slots=True)
class _State:
    """The state before an instruction. tmu: largest number of outstanding results of each TMU. carried: of these,
    the ones requested before the last switch. vpm: vectors still to be read, None when unknown. storing: whether a DMA
    store may run."""

    tmu: tuple[int, int] = (0, 0)
    carried: tuple[int, int] = (0, 0)
    used: bool = False
    last: bool = False
    locked: bool = False
    vpm: int | None = None
    storing: bool = False

    def join(self, other: _State) -> _State:
        return _State(
            (max(self.tmu[0], other.tmu[0]), max(self.tmu[1], other.tmu[1])),
            (max(self.carried[0], other.carried[0]), max(self.carried[1], other.carried[1])),
            self.used or other.used,
            self.last or other.last,
            self.locked or other.locked,
            self.vpm if self.vpm == other.vpm else None,
            self.storing or other.storing,
        )


Report = Callable[[str, str], None]


def _read_setup(i: Instr) -> int | None:
    """Vectors that a write of the VPM read set-up asks for, 0 when it sets up a DMA load; None when it is not known."""
    if isinstance(i, LoadImm) and i.mode is LoadMode.WORD and not i.pack:
        return (i.imm >> 20 & 15 or 16) if i.imm >> 30 == 0 else 0
    return None


def _change(pair: tuple[int, int], unit: int, by: int) -> tuple[int, int]:
    value = max(0, min(_CAP, pair[unit] + by))
    return (value, pair[1]) if unit == 0 else (pair[0], value)


def _step(s: _State, i: Instr, e: Effects, report: Report) -> _State:
    """The state after `i`, whose effects are `e`; findings go to `report`."""
    if "tmu_noswap" in e.writes and s.used:
        report("H10", "TMU_NOSWAP is changed after the TMU was used")
    for unit in (0, 1):
        if any(f"tmu{unit}_{part}" in e.writes for part in "trb"):
            s = replace(s, used=True)
        if f"tmu{unit}_s" in e.writes:
            s = _request(s, unit, report)
    if "tlb write" in e.events:
        s = replace(s, locked=True)
    if "vdw_wait" in e.reads or "vdw_busy" in e.reads:
        s = replace(s, storing=False)
    elif "vw_addr" in e.writes:
        s = replace(s, storing=True)
    return _signal_step(_vpm_step(s, i, e, report), e.events, report)


def _request(s: _State, unit: int, report: Report) -> _State:
    s = replace(s, tmu=_change(s.tmu, unit, 1), used=True)
    if s.tmu[unit] > 4:
        report(
            "H26",
            f"more than 4 requests to TMU{unit} are outstanding, which was seen to be unreliable; over 8 it stalls",
        )
    return s


def _vpm_step(s: _State, i: Instr, e: Effects, report: Report) -> _State:
    if "vpm_read" in e.reads and s.vpm is not None:
        if s.vpm == 0:
            report("H25", "the VPM is read more often than its set-up asked for")
        s = replace(s, vpm=max(0, s.vpm - 1))
    if "vr_setup" not in e.writes:
        return s
    asked = _read_setup(i)
    if asked is None:
        return replace(s, vpm=None)
    if asked:
        if s.vpm is not None and s.vpm > 1:
            report("H25", f"a VPM read set-up while {s.vpm} vectors of the last one are outstanding is ignored")
        # After an unknown state, assume that all vectors of earlier set-ups have been read.
        return replace(s, vpm=asked if s.vpm is None else s.vpm + asked)
    return s


def _signal_step(s: _State, events: frozenset[str], report: Report) -> _State:
    for unit in (0, 1):
        if f"ldtmu{unit}" in events:
            if s.tmu[unit] == 0:
                report("H26", f"a result of TMU{unit} is loaded, but none was requested: the QPU waits forever")
            s = replace(s, tmu=_change(s.tmu, unit, -1), carried=_change(s.carried, unit, -1))
    if "thread switch" in events:
        if s.last:
            report("H28", "a thread switch after the last one")
        if s.locked:
            report("H28", "a thread switch while the scoreboard is locked")
        if any(s.carried):
            report("H28", "TMU results requested before the previous thread switch were not collected")
        s = replace(s, carried=s.tmu, last=s.last or "lthrsw" in events)
    if "sbwait" in events or "load tlb" in events:
        s = replace(s, locked=True)
    elif "sbdone" in events:
        s = replace(s, locked=False)
    if "program end" in events and s.storing:
        report("H33", "the program ends without waiting for its DMA store")
    if "program end" in events and s.vpm:
        report("H25", f"the program ends with {s.vpm} vectors of the VPM read set-up not read")
    return s


def flow_findings(
    count: int,
    relevant: Mapping[int, tuple[Instr, Effects]],
    successors: Callable[[int], Sequence[int]],
    unknown: Collection[int],
) -> Iterator[tuple[str, int, str]]:
    """(rule, index, message). relevant: the instructions, of `count`, that change the state.

    successors: of an instruction. unknown: instructions that are entered with an unknown state.
    """
    before: dict[int, _State | None] = {0: _State(), **dict.fromkeys(unknown)}
    work = list(before)
    found: dict[int, list[tuple[str, str]]] = {}
    while work:
        index = work.pop()
        state = before[index]
        after = state
        here = relevant.get(index)
        if state is not None and here is not None:
            # the last visit is the one with the final state
            notes = found[index] = []
            after = _step(state, *here, lambda rule, message, notes=notes: notes.append((rule, message)))  # type: ignore[misc]
        elif index in found:
            del found[index]
        for nxt in successors(index):
            if nxt >= count:
                continue
            if nxt not in before:
                before[nxt] = after
            else:
                old = before[nxt]
                joined = None if old is None or after is None else old.join(after)
                if joined == old:
                    continue
                before[nxt] = joined
            work.append(nxt)
    for index in sorted(found):
        for rule, message in found[index]:
            yield rule, index, message
