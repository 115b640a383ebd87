"""Hazard rules of VideoCore IV that count over a program: TMU and VPM FIFOs, TMU exchange, thread switches.

A forward analysis over the control flow. Where it cannot know (after calls, behind computed branches) it stays silent.
All of these rules are warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from qpu.vc4.effects import read_addresses, write_targets
from qpu.vc4.instr import Alu, Instr, LoadImm, LoadMode
from qpu.vc4.regs import File

__all__ = ["RELEVANT_SIGNALS", "RELEVANT_WRITES", "flow_findings"]

RELEVANT_WRITES = frozenset({36, *range(43, 48), *range(56, 64)})
RELEVANT_SIGNALS = frozenset({2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})

_CAP = 9  # beyond the depth of every FIFO


@dataclass(frozen=True, slots=True)
class _State:
    """What is known before an instruction. tmu: results outstanding, at most. carried: of those, requested before the
    last switch. vpm: vectors still to be read, None when unknown."""

    tmu: tuple[int, int] = (0, 0)
    carried: tuple[int, int] = (0, 0)
    used: bool = False
    last: bool = False
    locked: bool = False
    vpm: int | None = None

    def join(self, other: _State) -> _State:
        return _State(
            (max(self.tmu[0], other.tmu[0]), max(self.tmu[1], other.tmu[1])),
            (max(self.carried[0], other.carried[0]), max(self.carried[1], other.carried[1])),
            self.used or other.used,
            self.last or other.last,
            self.locked or other.locked,
            self.vpm if self.vpm == other.vpm else None,
        )


def _read_setup(i: Instr) -> int | None:
    """Vectors that a generic VPM read set-up asks for; 0 when the instruction has none, None when it is not known."""
    for side, (file, addr, _) in enumerate(write_targets(i)):
        if (file, addr) == (File.A, 49):
            del side
            if isinstance(i, LoadImm) and i.mode is LoadMode.WORD and not i.pack:
                return (i.imm >> 20 & 15 or 16) if i.imm >> 30 == 0 else 0
            return None
    return 0


def _change(pair: tuple[int, int], unit: int, by: int) -> tuple[int, int]:
    value = max(0, min(_CAP, pair[unit] + by))
    return (value, pair[1]) if unit == 0 else (pair[0], value)


def _step(s: _State, i: Instr, tell: Callable[[str, str], None]) -> _State:
    """The state after `i`; findings go to `tell`."""
    for _, addr, _ in write_targets(i):
        if addr >= 56:
            s = replace(s, used=True) if addr & 3 else _request(s, addr >> 2 & 1, tell)
        elif addr == 36 and s.used:
            tell("H10", "TMU_NOSWAP is changed after the TMU was used")
        elif 43 <= addr <= 47 and not s.locked:
            s = replace(s, locked=True)
    s = _vpm_step(s, i, tell)
    return _signal_step(s, i.sig, tell) if isinstance(i, Alu) else s


def _request(s: _State, unit: int, tell: Callable[[str, str], None]) -> _State:
    s = _State(_change(s.tmu, unit, 1), s.carried, True, s.last, s.locked, s.vpm)
    if s.tmu[unit] > 4:
        tell(
            "H26",
            f"more than 4 requests to TMU{unit} are outstanding, which was seen to be unreliable; over 8 it stalls",
        )
    return s


def _vpm_step(s: _State, i: Instr, tell: Callable[[str, str], None]) -> _State:
    if any(addr == 48 for _, addr in read_addresses(i)) and s.vpm is not None:
        if s.vpm == 0:
            tell("H25", "the VPM is read more often than its set-up asked for")
        s = _State(s.tmu, s.carried, s.used, s.last, s.locked, max(0, s.vpm - 1))
    asked = _read_setup(i)
    if asked is None:
        return replace(s, vpm=None)
    if asked:
        if s.vpm is not None and s.vpm > 1:
            tell("H25", f"a VPM read set-up while {s.vpm} vectors of the last one are outstanding is ignored")
        # A set-up after an unknown past starts a known one: what was fetched before should have been read.
        return replace(s, vpm=asked if s.vpm is None else s.vpm + asked)
    return s


def _signal_step(s: _State, sig: int, tell: Callable[[str, str], None]) -> _State:
    if sig in (10, 11):
        unit = sig - 10
        if s.tmu[unit] == 0:
            tell("H26", f"a result of TMU{unit} is loaded, but nothing was requested: the QPU waits for ever")
        return _State(_change(s.tmu, unit, -1), _change(s.carried, unit, -1), s.used, s.last, s.locked, s.vpm)
    if sig in (2, 6):
        if s.last:
            tell("H28", "a thread switch after the last one")
        if s.locked:
            tell("H28", "a thread switch while the scoreboard is locked")
        if any(s.carried):
            tell("H28", "TMU results requested before the previous thread switch were not collected")
        return replace(s, carried=s.tmu, last=s.last or sig == 6)
    if sig in (4, 7, 8, 9, 12):
        s = replace(s, locked=True)
    elif sig == 5 and s.locked:
        s = replace(s, locked=False)
    if sig in (3, 9) and s.vpm:
        tell("H25", f"the program ends with {s.vpm} vectors of the VPM read set-up not read")
    return s


def flow_findings(
    instrs: Sequence[Instr],
    relevant: frozenset[int],
    successors: Callable[[int], Sequence[int]],
    unknown: frozenset[int],
) -> Iterator[tuple[str, int, str]]:
    """(rule, index, message). relevant: instructions that change the state; the others are not looked at.

    successors: of an instruction. unknown: instructions entered with an unknown past.
    """
    before: dict[int, _State | None] = {0: _State(), **dict.fromkeys(unknown)}
    work = list(before)
    found: dict[int, list[tuple[str, str]]] = {}
    while work:
        index = work.pop()
        state = before[index]
        after = state
        if state is not None and index in relevant:
            # the last visit is the one with the final state
            told = found[index] = []
            after = _step(state, instrs[index], lambda rule, message, told=told: told.append((rule, message)))  # type: ignore[misc]
        elif index in found:
            del found[index]
        for nxt in successors(index):
            if nxt >= len(instrs):
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
