"""Tests of hazard windows as bits against a plain model: distances, classes, the walk, queries of a scheduler."""

from __future__ import annotations

import random

import pytest

from qpu.core.effects import NOTHING, Effects, union
from qpu.core.hazards import REST, Rule, Rules, Window, jumps
from qpu.core.isa import Basis, Isa
from qpu.core.optable import Token
from qpu.errors import Severity

ISA = Isa.VC4


def rule(name: str, *windows: Window, severity: Severity = Severity.ERROR) -> Rule:
    return Rule(
        id=name, name="", severity=severity, summary=f"{name} is broken", help=f"avoid {name}",
        isas=frozenset({ISA}), source="test", basis=Basis.ASSUMED, windows=windows,
    )  # fmt: skip


RULES = Rules(
    (
        rule("same", Window(after="write file", before="read file", distance=1, same=True, message="{} is early")),
        rule("any", Window(after="write unit", before="read r4", distance=3)),
        rule("second", Window(after="a", before="b", distance=2, first=2)),
        rule("own", Window(after="end", before="write file | b", distance=2, first=0, message="{} at the end")),
        rule("rest", Window(after="last", before="c", distance=REST)),
        rule("elsewhere", Window(after="a", before="a", distance=1, isas=frozenset({Isa.V3D71}))),
    ),
    {ISA: {"file": ("x0", "x1", "x2"), "unit": ("s0", "s1")}},
    watch=("a", "write unit"),
)
WINDOWS = RULES.windows[ISA]


def e(text: str) -> Effects:
    """Effects from words: ``>x`` written, ``<x`` read, else an event."""
    words = text.split()
    return Effects(
        frozenset(w[1:] for w in words if w[0] == "<"),
        frozenset(w[1:] for w in words if w[0] == ">"),
        events=frozenset(w for w in words if w[0] not in "<>"),
    )


def found(*program: str, breaks: frozenset[int] = frozenset()) -> list[tuple[str, int, int]]:
    facts = [WINDOWS.facts([e(text)] if text else []) for text in program]
    return [(hit.rule.id, hit.index, hit.other) for hit in WINDOWS.walk(facts, breaks)]


def test_same_register_only() -> None:
    assert found(">x1", "<x1") == [("same", 1, 0)]
    assert found(">x1", "<x2") == []
    assert found(">x1", "", "<x1") == []


@pytest.mark.parametrize("distance", range(1, 6))
def test_distance(distance: int) -> None:
    want = [("any", distance, 0)] if distance <= 3 else []
    assert found(">s1", *[""] * (distance - 1), "<r4") == want


def test_only_the_nearest_cause_counts() -> None:
    assert found(">s0", ">s1", "<r4") == [("any", 2, 1)]


def test_a_window_that_begins_late() -> None:
    assert found("a", "b") == []
    assert found("a", "", "b") == [("second", 2, 0)]
    assert found("a", "", "", "b") == []


def test_the_same_instruction_counts_from_distance_0() -> None:
    assert found("end >x0") == [("own", 0, 0)]
    assert found(">x0", "end") == []


def test_to_the_end_of_the_program() -> None:
    assert found("last", *[""] * 20, "c", "c") == [("rest", 21, 0), ("rest", 22, 0)]
    assert found("last c") == []


def test_breaks_cut_windows() -> None:
    assert found(">x1", "<x1", breaks=frozenset({1})) == []
    assert found(">s1", "", "<r4", breaks=frozenset({1})) == []


def test_windows_of_other_chips_do_not_count() -> None:
    assert found("a", "a") == []
    assert "elsewhere" in RULES


def test_taken_branches() -> None:
    program = ["<r4", "", "branch", "", ">s0", ""]
    effects = [e(text) for text in program]
    facts = [WINDOWS.facts([found]) for found in effects]
    taken = jumps({2: 0}, len(program), 3)
    assert [(j.branch, j.last, j.target) for j in taken] == [(2, (3, 4, 5), 0)]
    (hit,) = WINDOWS.walk(facts, (), taken)
    assert (hit.rule.id, hit.index, hit.other, hit.distance, hit.over) == ("any", 0, 4, 2, 2)
    finding = WINDOWS.finding(hit, effects.__getitem__, Severity.WARNING)
    assert finding.severity is Severity.WARNING
    assert finding.message == "any is broken (along the branch of instruction 2)"
    assert WINDOWS.finding(hit, effects.__getitem__).severity is Severity.ERROR


def test_jumps() -> None:
    assert jumps({0: None, 1: 99, 8: 0}, 10, 3) == []  # computed, outside, cut short by the end
    # a branch in the last slot: its own slots are at the target of the first
    assert [(j.branch, j.last, j.target) for j in jumps({0: 5, 3: 9}, 20, 3)] == [
        (0, (1, 2, 3), 5),
        (3, (5, 6, 7), 9),
        (3, (4, 5, 6), 9),
    ]
    # with slots that just fit, and with slots past the end
    assert [(j.branch, j.last) for j in jumps({0: 5, 3: 1}, 8, 3)] == [(0, (1, 2, 3)), (3, (5, 6, 7)), (3, (4, 5, 6))]
    assert [(j.branch, j.last) for j in jumps({0: 5, 3: 1}, 7, 3)] == [(0, (1, 2, 3)), (3, (4, 5, 6))]


def test_messages_name_the_resources() -> None:
    effects = [e(">x1 >x2"), e("<x1 <x0")]
    (hit,) = WINDOWS.walk([WINDOWS.facts([found]) for found in effects])
    assert WINDOWS.describe(hit, effects.__getitem__) == "x1 is early"
    assert WINDOWS.finding(hit, effects.__getitem__).help == "put 1 more instruction between this one and instruction 0"
    effects = [e("end >x1 b")]
    (hit,) = WINDOWS.walk([WINDOWS.facts([found]) for found in effects])
    assert WINDOWS.describe(hit, effects.__getitem__) == "x1 and b at the end"
    assert WINDOWS.finding(hit, effects.__getitem__).help == "avoid own"


def test_findings_are_sorted_by_instruction_and_row() -> None:
    some = [RULES.finding(name, i) for i in (1, 0) for name in ("rest", "same")]
    assert [(f.index, f.rule) for f in RULES.sorted(some + some)] == [
        (0, "same"),
        (0, "rest"),
        (1, "same"),
        (1, "rest"),
    ]


def test_a_rule_has_one_row() -> None:
    with pytest.raises(ValueError, match="two rules"):
        Rules((rule("x"), rule("x")), {})


def test_watched_events_have_bits_of_their_own() -> None:
    assert WINDOWS.facts([e("a")]).after & WINDOWS.watch["a"]
    assert WINDOWS.facts([e(">s0")]).after & WINDOWS.watch["write unit"]
    assert not WINDOWS.facts([e("b")]).after & WINDOWS.watch["a"]


def test_what_a_scheduler_asks_agrees_with_the_walk() -> None:
    """`earliest` is the first place where the walk finds nothing; `broken` are the windows that it finds."""
    rnd = random.Random(1)
    texts = ["", ">x0", "<x0", ">x1 <x0", ">s0", "<r4", "a", "b", "end", "<r4 b", "last", ">s1 a"]
    for _ in range(500):
        program = [rnd.choice(texts) for _ in range(4)]
        last = rnd.choice([t for t in texts if "end" not in t])
        history = [WINDOWS.masks(e(text))[0] for text in program]
        before = WINDOWS.masks(e(last))[1]
        wait = next(n for n in range(9) if not [h for h in found(*program, *[""] * n, last) if h[1] == 4 + n])
        assert WINDOWS.earliest(history, before) == wait
        hits = {name for name, index, _ in found(*program, last) if index == 4}
        assert {row.id for row, _ in WINDOWS.lanes(WINDOWS.broken(history, before))} == hits


def test_latency_is_what_the_windows_say() -> None:
    assert WINDOWS.latency(e(">x0"), "x0") == 2
    assert WINDOWS.latency(e(">x0"), "x1") == 1
    assert WINDOWS.latency(e(">s0"), "r4") == 4


def test_effects_add_up() -> None:
    a = Effects(frozenset({"r"}), frozenset({"w"}), frozenset({"w"}), frozenset({Token.TLB}), frozenset({"v"}))
    b = Effects(frozenset({"s"}))
    assert a.needs == {"r", "w"}
    assert union([]) is NOTHING
    assert union([NOTHING, a]) is a
    assert union([a, b]) == a | b == Effects(a.reads | b.reads, a.writes, a.partial, a.tokens, a.events)
