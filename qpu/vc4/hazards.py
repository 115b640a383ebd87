"""The hazard checker of VideoCore IV programs: applies the rules of `qpu.vc4.rules` along every control-flow path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from qpu.core.code import Code
from qpu.core.effects import Effects
from qpu.core.hazards import Facts, Finding, Hit, Memo, jumps, raise_errors
from qpu.core.isa import Isa, Unit
from qpu.vc4 import hazards_flow
from qpu.vc4.decode import decode, shape
from qpu.vc4.effects import effects, parts, read_addresses, sources, write_targets
from qpu.vc4.hazards_same import same_instruction
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm
from qpu.vc4.regs import MUX_A, MUX_B, NOP, File
from qpu.vc4.rules import BRANCH_SLOTS, RULES, SWITCH_SLOTS

__all__ = ["RULES", "check", "enforce", "facts_of"]

_WINDOWS: Final = RULES.windows[Isa.VC4]
_BRANCH, _TMU, _FLOW, _ENDS, _END = _WINDOWS.watch.values()
_TAKES_UNIFORM: Final = Effects(frozenset({"uniform"}))


def facts_of(instr: Instr) -> Facts:
    """What the rules need to know of an instruction alone."""
    return _WINDOWS.facts(parts(instr), same_instruction(instr))


class _Shape(NamedTuple):
    """The facts of a word without its registers. registers: bit position in the word, window masks by number."""

    facts: Facts
    registers: tuple[tuple[int, Sequence[tuple[int, int]]], ...] = ()


_READS: Final = tuple(
    tuple(_WINDOWS.masks(Effects(reads=frozenset({f"{file.prefix}{n}"}))) for n in range(32)) for file in File
)
_WRITES: Final = tuple(
    tuple(_WINDOWS.masks(Effects(writes=frozenset({f"{file.prefix}{n}"}))) for n in range(32)) for file in File
)


def _shaped(word: int) -> _Shape:
    instr = decode(word)
    facts = facts_of(instr)
    if not isinstance(instr, Alu):
        return _Shape(facts)
    found = [(12 if file else 18, _READS[file]) for file, n in read_addresses(instr) if n < 32]
    found += [
        (38 if file == instr.ws else 32, _WRITES[file]) for file, n, cond in write_targets(instr) if n < 32 and cond
    ]
    after, before, breaches = facts
    for _, table in found:  # the word has register 0 instead of all others
        after, before = after & ~(table[0][0] & ~table[1][0]), before & ~(table[0][1] & ~table[1][1])
    return _Shape(Facts(after, before, breaches), tuple(found))


_SHAPES: Final = Memo(_shaped)
_new: Final = tuple.__new__  # twice as fast as calling the class


def _facts(word: int) -> Facts:
    facts, registers = _SHAPES[shape(word)]
    if not registers:
        return facts
    after, before, breaches = facts
    for at, table in registers:
        opens, closed = table[word >> at & 31]
        after |= opens
        before |= closed
    return _new(Facts, (after, before, breaches))


def check(words: Iterable[int]) -> list[Finding]:
    """All findings of a program, by instruction: rules H1..H33, and ``decode`` for reserved encodings."""
    return _Checker(tuple(words)).run()


def enforce(program: Code) -> None:
    """Raise HazardError for the findings of severity error, at their source lines; return if there are none."""
    raise_errors(check(program.code), program)


class _Checker:
    """One run over one program."""

    def __init__(self, words: tuple[int, ...]) -> None:
        self.words = words
        self.facts = list(map(_facts, words))
        self.instrs: dict[int, Instr] = {}
        self.branches: dict[int, Branch] = {}

    def instr(self, index: int) -> Instr:
        found = self.instrs.get(index)
        if found is None:
            found = self.instrs[index] = decode(self.words[index])
        return found

    def effects(self, index: int) -> Effects:
        return effects(self.instr(index))

    def run(self) -> list[Finding]:
        facts, count = self.facts, len(self.words)
        used = 0
        for f in facts:
            used |= f[0]
        if used & _BRANCH:
            for index, f in enumerate(facts):
                if f[0] & _BRANCH:
                    instr = self.instr(index)
                    assert isinstance(instr, Branch)
                    self.branches[index] = instr
        if used & _TMU:
            self.mark_textures()
        taken = jumps({at: b.target(at) for at, b in self.branches.items()}, count, BRANCH_SLOTS)
        breaks = self.breaks({jump.target for jump in taken})
        found = [RULES.finding(rule, i, message) for i, f in enumerate(facts) if f[2] for rule, message in f[2]]
        found += [
            _WINDOWS.finding(hit, self.effects)
            for hit in _WINDOWS.walk(facts, breaks, taken)
            if not self.exclusive(hit)
        ]
        if used & _ENDS:
            found += [RULES.finding("H22", i) for i in range(min(2, count)) if self.touches_tile_buffer(i)]
        if used & _FLOW:
            over: dict[int, list[int]] = {}
            for jump in taken:
                over.setdefault(jump.last[-1], []).append(jump.target)
            found += self.flow(breaks, over)
        return RULES.sorted([*found, *self.ends(bool(used & _END))])

    def ends(self, any_: bool) -> Iterator[Finding]:
        """Findings about the program end: there is none, or its two slots are not there."""
        count = len(self.words)
        if any_:
            for index in range(max(0, count - SWITCH_SLOTS), count):
                if self.facts[index].after & _END:
                    slots = f"{count - 1 - index} of the two instructions that belong to the program end are there"
                    yield RULES.finding("H31", index, slots)
        elif count and not any(b.target(at) is None for at, b in self.branches.items()):
            yield RULES.finding("H31", count)

    def breaks(self, entered: set[int]) -> frozenset[int]:
        """Instructions never reached from the one before: those after an unconditional branch and its delay slots."""
        return frozenset(
            at + BRANCH_SLOTS + 1
            for at, b in self.branches.items()
            if b.cond == 15 and not any(at + slot in entered for slot in range(1, BRANCH_SLOTS + 1))
        )

    def mark_textures(self) -> None:
        """Mark S writes after T, R or B writes, in text order: they belong to texture requests and take a uniform."""
        pending = [False, False]
        for index, f in enumerate(self.facts):
            if not f.after & _TMU:
                continue
            writes = self.effects(index).writes
            for unit in (0, 1):
                if any(f"tmu{unit}_{part}" in writes for part in "trb"):
                    pending[unit] = True
                if f"tmu{unit}_s" in writes and pending[unit]:
                    pending[unit] = False
                    breaches = same_instruction(self.instr(index), texture=True)
                    self.facts[index] = f._replace(breaches=()) | _WINDOWS.facts((_TAKES_UNIFORM,), breaches)

    def exclusive(self, hit: Hit) -> bool:
        """True for an H1 hit where no lane reads what was written."""
        if hit.rule.id != "H1":
            return False
        return _apart(self.instr(hit.other), self.instr(hit.index))

    def touches_tile_buffer(self, index: int) -> bool:
        events = self.effects(index).events
        return not events.isdisjoint(("tlb write", "load tlb", "sbwait"))

    def flow(self, breaks: frozenset[int], over: Mapping[int, Sequence[int]]) -> list[Finding]:
        count = len(self.words)
        relevant = {i: (self.instr(i), self.effects(i)) for i, f in enumerate(self.facts) if f.after & _FLOW}
        slots = BRANCH_SLOTS + 1
        unknown = {
            at + slots
            for at, b in self.branches.items()
            if at + slots < count and (b.waddr_add != NOP or b.waddr_mul != NOP)
        }

        def successors(index: int) -> list[int]:
            following = [] if index + 1 in breaks else [index + 1]
            return [*following, *over.get(index, ())]

        found = hazards_flow.flow_findings(count, relevant, successors, unknown)
        return [RULES.finding(rule, index, message) for rule, index, message in found]


def _apart(writer: Instr, reader: Instr) -> bool:
    """True when no lane reads the written value: opposite conditions, and flags that have not changed in between.

    The test holds for operations that set flags, too: they read only in the lanes of their condition.
    """
    if not isinstance(reader, Alu) or not isinstance(writer, Alu | LoadImm) or writer.sf:
        return False
    for file, addr, cond in write_targets(writer):
        mux, port = (MUX_B, reader.raddr_b) if file else (MUX_A, reader.raddr_a)
        if addr >= 32 or not cond or addr != port:
            continue
        conds = {
            read
            for unit, read in ((Unit.ADD, reader.cond_add), (Unit.MUL, reader.cond_mul))
            if mux in sources(reader, unit)
        }
        if not conds or not all(c == 0 or (c == cond ^ 1 and cond > 1) for c in conds):
            return False
    return True
