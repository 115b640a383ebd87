"""The hazard checker of V3D programs: applies the rules of `qpu.v3d.rules` to instruction words.

Errors are found by one walk over the instructions in order, whether they are reached or not. Violations along a taken
branch only, and branch targets outside the program, are warnings.

Where the words do not determine what an instruction does, the checker assumes the least: a TLB access counts as a Z
write, and a TMU request returns at least one result. The emulator checks the rest at run time.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from qpu.core.effects import Effects
from qpu.core.hazards import Breach, Facts, Finding, Memo, Windows, jumps
from qpu.core.isa import Isa
from qpu.errors import DecodeError, Severity
from qpu.v3d.decode import decode, shape
from qpu.v3d.effects import effects, parts
from qpu.v3d.instr import Branch, Instr
from qpu.v3d.rules import BRANCH_SLOTS, RULES, SWITCH_SLOTS
from qpu.v3d.single import same_instruction

__all__ = ["RULES", "check", "facts_of"]

PENDING: Final = 8  # result words that a thread has room for with two threads per QPU (v3d.md 9.5)
_ACCUMULATORS: Final = tuple(f"r{n}" for n in range(6))
_SWITCH: Final = Effects(events=frozenset({"switch"}))
_END: Final = Effects(events=frozenset({"end"}))


def facts_of(instr: Instr) -> Facts:
    """What the rules need to know of an instruction alone."""
    return RULES.windows[instr.isa].facts(parts(instr), same_instruction(instr))


def _facts(isa: Isa, word: int) -> Facts:
    try:
        return facts_of(decode(isa, word))
    except (DecodeError, ValueError) as error:
        why = error.diagnostics[0].message if isinstance(error, DecodeError) else str(error).partition("\n")[0]
        message = f"0x{word:016x} is not an instruction of {isa.label}: {why}"
        return Facts(0, 0, (Breach("decode", message),))


_KNOWN: Final = {isa: Memo(partial(_facts, isa)) for isa in RULES.windows}


def check(isa: Isa, words: Iterable[int], *, single_segment: bool = False) -> list[Finding]:
    """All findings of a program, in program order; findings about the whole program have ``index == len(words)``.

    single_segment: the launch mode in which the first thread switch ends the program.
    """
    words = list(words)
    known, windows = _KNOWN[isa], RULES.windows[isa]
    mask, branch = sum(windows.watch.values()), windows.watch["branch"]
    facts = [known[word] for word in map(shape(isa), words)]
    alone = {
        i: _facts(isa, words[i]).breaches for i, f in enumerate(facts) if f[2]
    }  # of the words themselves, not of their shapes
    found = [RULES.finding(rule, i, message) for i, breaches in alone.items() for rule, message in breaches]
    watched = [i for i, f in enumerate(facts) if f[0] & mask]
    found += _switches(windows, facts, watched, single_segment)
    found += _state(windows, facts, watched)
    branches = {i: decode(isa, words[i]) for i in watched if facts[i].after & branch}
    targets = {i: to for i, b in branches.items() if isinstance(b, Branch) and (to := b.target(i)) is not None}
    n = len(words)
    for i, to in targets.items():
        if not 0 <= to < n:
            message = f"the branch leads to instruction {to}; the program has 0..{n - 1}"
            found.append(RULES.finding("branch-target", i, message))
    if isa is Isa.V3D42:
        always = {i + BRANCH_SLOTS + 1 for i, b in branches.items() if isinstance(b, Branch) and not b.cond}
        found += _accumulators(windows, facts, words, always.union(targets.values()))
    for hit in windows.walk(facts, (), jumps(targets, n, BRANCH_SLOTS)):
        found.append(windows.finding(hit, lambda i: effects(decode(isa, words[i])), Severity.WARNING))
    return RULES.sorted(found)


def _switches(windows: Windows, facts: list[Facts], at: Iterable[int], single_segment: bool) -> Iterator[Finding]:
    """Findings about the last thread switch and the program end; marks both in `facts`.

    A thrsw right after a switch is not a switch, but marks that one as the last; the next one ends the program.
    """
    bit = windows.watch["thrsw"]
    marked, ended = single_segment, False
    switch, count = -10, 0
    for i in at:
        if not facts[i].after & bit:
            continue
        marker = switch == i - 1
        extra = [] if marker else [_SWITCH]
        if marked and not (marker and ended):
            extra.append(_END)
        ended |= marked
        if marker:
            if marked:
                yield RULES.finding("last-thrsw-twice", i, other=i - 1)
            marked = True
        else:
            count += 1
            switch = i
        if extra:
            facts[i] |= windows.facts(extra)
    if not marked and count > 1:
        yield RULES.finding("no-last-thrsw", len(facts))
    if not ended:
        yield RULES.finding("no-end-thrsw", len(facts))


def _state(windows: Windows, facts: Sequence[Facts], watched: Iterable[int]) -> Iterator[Finding]:
    """Rules that count: TMU requests split by a switch, results pending, TLB accesses before any switch."""
    watch = windows.watch
    ldtmu, starts, datum, switches = watch["ldtmu"], watch["tmu_start write"], watch["tmu_data write"], watch["switch"]
    tlb = watch["tlb write"] | watch["ldtlb"] | watch["ldtlbu"]
    switched, data, reported = False, False, False
    pending = 0
    start: int | None = None  # first TMU data write of the request that is not started yet
    due: int | None = None  # index at which the pending switch happens
    for i in watched:
        events = facts[i].after
        if due is not None and i >= due:
            if start is not None and start < due:
                yield _cut(due, start)
                start = None
            due = None
        if events & tlb and not switched:
            yield RULES.finding("tlb-early", i)
        if events & ldtmu:
            pending = max(0, pending - 1)
        if events & datum:
            data = True
            start = i if start is None else start
        if events & starts:
            # The number of result words depends on the configuration: at least one.
            pending += not data
            data, start = False, None
            if pending > PENDING and not reported:
                reported = True
                message = f"at least {pending} TMU results are pending; {PENDING} are known to fit"
                yield RULES.finding("tmu-pending", i, message)
        if events & switches:
            due, switched = i + SWITCH_SLOTS + 1, True
    if due is not None and start is not None and start < due < len(facts):
        yield _cut(due, start)


def _accumulators(
    windows: Windows, facts: Sequence[Facts], words: Sequence[int], unknown: Container[int]
) -> Iterator[Finding]:
    """Reads of accumulators, of 4.2, that no instruction wrote since a thread switch.

    unknown: instructions with a predecessor other than the preceding one (branch targets), or without any (after an
    unconditional branch); the accumulators are unknown there.
    """
    switches, used = windows.watch["switch"], windows.watch["read acc | write acc"]
    lost: set[str] = set()
    switch, due = 0, -1
    for i, f in enumerate(facts):
        if i == due:
            lost = set(_ACCUMULATORS)
        if i in unknown:
            lost = set()
        if lost and f.after & used:
            e = effects(decode(Isa.V3D42, words[i]))
            for name in sorted(lost & e.reads):
                message = f"{name} is read after a thread switch, which loses it"
                yield RULES.finding("acc-switch", i, message, switch)
            lost -= e.reads | e.writes
        if f.after & switches and not f.after & windows.watch["end"]:
            switch, due = i, i + SWITCH_SLOTS + 1


def _cut(at: int, start: int) -> Finding:
    return RULES.finding("tmu-sequence", at, other=start)
