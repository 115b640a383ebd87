"""Hazard rules as table rows, and the part of the checkers that applies rules about distances.

One table per family (`qpu.v3d.rules`, `qpu.vc4.rules`) holds each rule once: identifier, summary, help, severity,
evidence and windows. A window says how many instructions two effects must be apart. Checkers, both engines of the
emulator and schedulers read the table.

A term of a window names effects: an event (``thrsw``), ``read X`` or ``write X`` of a resource, or alternatives of
these separated by ``|``. Where X is a class of resources of the family (``file``: all registers of the register file),
the term means each member; with `same`, both sides must be the same member.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Final, NamedTuple, Protocol, TypeVar

from qpu.core.effects import Effects
from qpu.core.isa import Basis, Isa
from qpu.errors import Diagnostic, HazardError, Loc, Severity

__all__ = [
    "REST", "Breach", "Facts", "Finding", "Hit", "Jump", "Memo", "Rule", "Rules", "Window", "Windows",
    "diagnostics", "jumps", "raise_errors",
]  # fmt: skip

T = TypeVar("T")

REST: Final = 1 << 30  # distance of a window that reaches to the end of the program


@dataclass(frozen=True, slots=True)
class Window:
    """A rule of distance: no `before` from `first` to `distance` instructions after an `after` (1: the next one).

    message: text of a finding, with ``{}`` for the resources concerned; empty: the summary of the rule. isas, source,
    basis: None or empty where those of the rule apply. along: severity where only a taken branch leads from one to the
    other; None: the severity of the rule.
    """

    after: str
    before: str
    distance: int
    message: str = ""
    _: KW_ONLY
    first: int = 1
    same: bool = False
    isas: frozenset[Isa] | None = None
    source: str = ""
    basis: Basis | None = None
    along: Severity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One hazard rule.

    id: identifier in findings, verdicts and faults. name: the name in words, where the id is a number. summary: what a
    program that breaks the rule does. help: what to do instead.
    """

    id: str
    name: str
    severity: Severity
    summary: str
    help: str
    isas: frozenset[Isa]
    source: str
    basis: Basis
    windows: tuple[Window, ...] = ()

    @property
    def label(self) -> str:
        """Identifier and name, as messages show them."""
        return f"{self.id} {self.name}" if self.name else self.id


class Breach(NamedTuple):
    """A violation within one instruction. message: what was found; empty: the summary of the rule."""

    rule: str
    message: str


class Facts(NamedTuple):
    """What the checker needs to know of an instruction.

    after, before: masks of windows, see `Windows.masks`. breaches: violations within the instruction.
    """

    after: int
    before: int
    breaches: tuple[Breach, ...] = ()

    def __or__(self, other: Facts) -> Facts:
        """The union of both."""
        return Facts(self.after | other.after, self.before | other.before, self.breaches + other.breaches)


class Memo(dict[int, T]):
    """A cache of values by instruction word: computed on first use, cleared when it holds `LIMIT` values."""

    LIMIT: ClassVar = 1 << 15

    def __init__(self, make: Callable[[int], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, word: int) -> T:
        if len(self) >= self.LIMIT:
            self.clear()
        found = self[word] = self._make(word)
        return found


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a program breaks. index: the offending instruction; other: the earlier one concerned, if any."""

    rule: str
    severity: Severity
    index: int
    message: str
    other: int | None = None
    distance: int | None = None
    help: str = ""
    name: str = ""  # of the rule, in words, where its identifier is a number

    @property
    def label(self) -> str:
        """Identifier and name, as messages show them."""
        return f"{self.rule} {self.name}" if self.name else self.rule


@dataclass(frozen=True, slots=True)
class Hit:
    """A violated window. over: the taken branch on the way from `other` to `index`; None where there is none."""

    rule: Rule
    window: Window
    index: int
    other: int
    distance: int
    over: int | None


class Jump(NamedTuple):
    """A taken branch: its index, the instructions executed between it and its target, and the target."""

    branch: int
    last: tuple[int, ...]
    target: int


class Rules(Mapping[str, Rule]):
    """The rules of a family by id, in the order in which findings about one instruction are reported."""

    def __init__(
        self,
        rows: Iterable[Rule],
        classes: Mapping[Isa, Mapping[str, tuple[str, ...]]],
        watch: Iterable[str] = (),
    ) -> None:
        self._rows: dict[str, Rule] = {}
        for row in rows:
            if row.id in self._rows:
                raise ValueError(f"{row.id!r} names two rules")
            self._rows[row.id] = row
        self.order = {name: n for n, name in enumerate(self._rows)}
        self.windows = {isa: Windows(isa, self, found, watch) for isa, found in classes.items()}

    def __getitem__(self, rule: str) -> Rule:
        return self._rows[rule]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def finding(self, rule: str, index: int, message: str = "", other: int | None = None) -> Finding:
        """A finding of a rule, with severity and help of its row."""
        row = self._rows[rule]
        distance = None if other is None else index - other
        return Finding(rule, row.severity, index, message or row.summary, other, distance, row.help, row.name)

    def sorted(self, findings: Iterable[Finding]) -> list[Finding]:
        """By instruction, then in the order of the table, nearest cause first; without duplicates."""
        order = self.order
        return sorted(
            dict.fromkeys(findings),
            key=lambda f: (f.index, order[f.rule], f.index if f.other is None else f.index - f.other),
        )


class Windows:
    """The windows of one instruction set as bits: one for each window, or for each register of a window with `same`.

    watch: events that a family wants to find quickly; each has a bit of its own among the `after` bits.

    An instruction has a mask of the windows that it opens (`after`) and one of those that exclude it (`before`);
    ``before & after_of_the_instruction_d_earlier & at[d]`` are the windows it breaks. `at` has an entry for each
    distance 0..`reach`; `rest` has the windows that stay open after that.
    """

    def __init__(
        self, isa: Isa, rules: Rules, classes: Mapping[str, tuple[str, ...]], watch: Iterable[str] = ()
    ) -> None:
        self.isa = isa
        self._classes = classes
        self._parts: dict[int, tuple[int, int, Effects]] = {}
        self._lanes: list[tuple[Rule, Window]] = []  # by bit
        self._after: dict[str, int] = {}
        self._before: dict[str, int] = {}
        rows = [(rule, w) for rule in rules.values() for w in rule.windows if isa in (w.isas or rule.isas)]
        self.reach = max((w.distance for _, w in rows if w.distance != REST), default=0)
        self.at = [0] * (self.reach + 1)
        self.rest = 0
        for rule, window in rows:
            self._add(rule, window)
        self.watch: dict[str, int] = {}
        for n, term in enumerate(watch, len(self._lanes)):
            self.watch[term] = 1 << n
            for one in self.terms(term):
                self._after[one] = self._after.get(one, 0) | 1 << n

    def _add(self, rule: Rule, window: Window) -> None:
        after, before = self.terms(window.after), self.terms(window.before)
        sides: list[tuple[tuple[str, ...], tuple[str, ...]]] = [(after, before)]
        if window.same:
            sides = [((a,), (b,)) for a, b in zip(after, before, strict=True)]
        for opens, closed in sides:
            bit = 1 << len(self._lanes)
            self._lanes.append((rule, window))
            for term in opens:
                self._after[term] = self._after.get(term, 0) | bit
            for term in closed:
                self._before[term] = self._before.get(term, 0) | bit
            for d in range(window.first, min(window.distance, self.reach) + 1):
                self.at[d] |= bit
            if window.distance == REST:
                self.rest |= bit

    def terms(self, text: str) -> tuple[str, ...]:
        """The effects that a term of a window stands for, classes resolved."""
        found: list[str] = []
        for item in text.split("|"):
            verb, _, name = item.strip().rpartition(" ")
            found += [f"{verb} {one}" if verb else one for one in self._classes.get(name, (name,))]
        return tuple(found)

    @staticmethod
    def _named(effects: Effects) -> list[str]:
        return [*effects.events, *(f"read {r}" for r in effects.reads), *(f"write {r}" for r in effects.writes)]

    def masks(self, effects: Effects) -> tuple[int, int]:
        """Windows that an instruction opens, and windows that exclude it."""
        after = before = 0
        opens, closed = self._after, self._before
        for name in self._named(effects):
            after |= opens.get(name, 0)
            before |= closed.get(name, 0)
        return after, before

    def facts(self, parts: Sequence[Effects], breaches: Iterable[Breach] = ()) -> Facts:
        """The facts of an instruction from the effects of its parts. Masks are cached by part: few may be different."""
        after = before = 0
        known = self._parts
        for part in parts:
            found = known.get(id(part))
            if found is None:
                found = known[id(part)] = (*self.masks(part), part)  # the reference keeps the id valid
            after |= found[0]
            before |= found[1]
        return Facts(after, before, tuple(breaches))

    def effects(self) -> frozenset[str]:
        """Every effect that a window names."""
        return frozenset(self._after) | frozenset(self._before)

    def lanes(self, bits: int) -> Iterator[tuple[Rule, Window]]:
        """Rule and window of each bit of a mask, in the order of the table."""
        while bits:
            low = bits & -bits
            bits ^= low
            yield self._lanes[low.bit_length() - 1]

    def bits(self, rule: str) -> int:
        """All bits of a rule."""
        return sum(1 << n for n, (row, _) in enumerate(self._lanes) if row.id == rule)

    def broken(self, history: Sequence[int], before: int) -> int:
        """Windows that an instruction breaks. history: `after` masks of the instructions before it, the latest last."""
        found = 0
        for distance, after in enumerate(reversed(history), 1):
            if distance <= self.reach:
                found |= before & after & self.at[distance]
            else:
                found |= before & after & self.rest
        return found

    def earliest(self, history: Sequence[int], before: int) -> int:
        """How many other instructions must be issued before one with the mask `before`; 0: it may be next."""
        recent = list(enumerate(reversed(history[-self.reach :] if self.reach else ()), 1))
        for wait in range(self.reach + 1):
            if not any(before & after & self.at[d + wait] for d, after in recent if d + wait <= self.reach):
                return wait
        return self.reach

    def latency(self, writer: Effects, resource: str) -> int:
        """Instructions from `writer` to the first one that can read `resource` correctly; 1: the next instruction."""
        after, _ = self.masks(writer)
        before = self._before.get(f"read {resource}", 0)
        return max((d for d in range(1, self.reach + 1) if after & before & self.at[d]), default=0) + 1

    # -- programs

    def walk(self, facts: Sequence[Facts], breaks: Collection[int] = (), jumps: Iterable[Jump] = ()) -> Iterator[Hit]:
        """The violated windows of a program: first in the order of the text, then along taken branches.

        breaks: instructions that execution never reaches from the one before. Of each window only the nearest cause is
        reported.
        """
        one = two = three = stay = 0
        near, rest = self.reach <= 3, self.rest
        for i, (after, before, _) in enumerate(facts):
            if i in breaks:
                one = two = three = 0
            if before:
                recent = one | two | three | stay | after
                if not near:
                    for f in facts[max(0, i - self.reach) : i]:
                        recent |= f.after
                if before & recent:
                    yield from self._back(facts, breaks, i, before)
            three, two, one = two, one, after
            stay |= after & rest
        for jump in jumps:
            yield from self._over(facts, jump)

    def _back(self, facts: Sequence[Facts], breaks: Collection[int], i: int, before: int) -> Iterator[Hit]:
        for distance in range(self.reach + 1):
            at = i - distance
            if at < 0:
                return
            found = before & facts[at].after & self.at[distance]
            if found:
                before &= ~found
                for rule, window in self.lanes(found):
                    yield Hit(rule, window, i, at, distance, None)
            if at in breaks:
                return
        before &= self.rest
        for at in range(i - self.reach - 1, -1, -1) if before else ():
            found = before & facts[at].after
            if found:
                before &= ~found
                for rule, window in self.lanes(found):
                    yield Hit(rule, window, i, at, i - at, None)

    def _over(self, facts: Sequence[Facts], jump: Jump) -> Iterator[Hit]:
        for index in range(jump.target, min(jump.target + self.reach, len(facts))):
            before = facts[index].before
            for back, at in enumerate(reversed(jump.last)):
                distance = index - jump.target + back + 1
                if distance > self.reach:
                    break
                found = before & facts[at].after & self.at[distance]
                if found:
                    before &= ~found
                    for rule, window in self.lanes(found):
                        yield Hit(rule, window, index, at, distance, jump.branch)

    def describe(self, hit: Hit, effects: Callable[[int], Effects]) -> str:
        """The message of a hit, with the resources concerned. effects: of an instruction, by index."""
        text = hit.window.message or hit.rule.summary
        if "{}" not in text:
            return text
        opened = self._resources(effects(hit.other), hit.window.after)
        used = self._resources(effects(hit.index), hit.window.before)
        names = [name for name in used if name in opened] if hit.window.same else used
        return text.format(" and ".join(names))

    def _resources(self, effects: Effects, text: str) -> list[str]:
        named = set(self._named(effects))
        return list(dict.fromkeys(term.rpartition(" ")[2] for term in self.terms(text) if term in named))

    def finding(self, hit: Hit, effects: Callable[[int], Effects], along: Severity | None = None) -> Finding:
        """The finding of a hit. along: severity where only a taken branch leads to it; None: that of the row."""
        message, severity = self.describe(hit, effects), hit.rule.severity
        along = along or hit.window.along
        if hit.over is not None and along is not None:
            message += f" (along the branch of instruction {hit.over})"
            severity = along
        other = None if hit.other == hit.index else hit.other
        rule = hit.rule
        return Finding(rule.id, severity, hit.index, message, other, hit.distance, self._help(hit), rule.name)

    def _help(self, hit: Hit) -> str:
        if hit.window.first > 1 or hit.window.distance == REST or hit.other == hit.index:
            return hit.rule.help
        missing = hit.window.distance + 1 - hit.distance
        return (
            f"put {missing} more instruction{'s' if missing > 1 else ''} between this one and instruction {hit.other}"
        )


def jumps(targets: Mapping[int, int | None], count: int, slots: int) -> list[Jump]:
    """Taken branches whose target is known. targets: by index of every branch; None: computed at run time.

    A branch in the last delay slot of another is taken too: its delay slots are then at the target of the first.
    """
    known = {at: to for at, to in targets.items() if to is not None and 0 <= to < count and at + slots < count}
    found: list[Jump] = []
    for at, to in known.items():
        found.append(Jump(at, tuple(range(at + 1, at + slots + 1)), to))
        nested = known.get(at + slots)
        if nested is not None and to + slots - 1 < count:
            found.append(Jump(at + slots, tuple(range(to, to + slots)), nested))
    return found


class _Located(Protocol):
    def loc(self, index: int) -> Loc | None: ...
    def __len__(self) -> int: ...


def diagnostics(findings: Iterable[Finding], program: _Located) -> list[Diagnostic]:
    """The findings with the source lines of the program's instructions."""
    last = len(program) - 1

    def where(index: int) -> str:
        loc = program.loc(min(index, last))
        return f"instruction {index}" if loc is None else f"line {loc.line}"

    return [
        Diagnostic(
            f.rule,
            f.message,
            f.severity,
            program.loc(min(f.index, last)),
            help=f.help.replace(f"instruction {f.other}", where(f.other)) if f.other is not None else f.help,
            index=f.index,
            other=f.other,
            distance=f.distance,
            name=f.name,
        )
        for f in findings
    ]


def raise_errors(findings: Iterable[Finding], program: _Located) -> None:
    """Raise HazardError for the findings of severity error, each at its source line; return if there are none."""
    found = diagnostics((f for f in findings if f.severity is Severity.ERROR), program)
    if found:
        raise HazardError.of(found)
