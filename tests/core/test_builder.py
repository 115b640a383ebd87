"""Tests of the builder core, with an instruction set of two operations."""

from __future__ import annotations

from typing import Any

import pytest

from qpu.core.builder import Builder, Label, run
from qpu.core.locations import LAYERS, Places, here, loc_of
from qpu.errors import AsmError, UnknownNameError

Word = tuple[str, ...]

SOURCE = """
from qpu.core.builder import Builder, MulSlot, Refused
from qpu.core.isa import Isa


class Slot(MulSlot):
    __slots__ = ()

    def mul(self, name):
        self._q._mul(self._index, name)


class Asm(Builder):
    __slots__ = ()
    isa = Isa.VC4
    _idle = ("nop",)

    def add(self, name):
        index = self._record(("add", name))
        if not name.isidentifier():
            self._refuse(Refused("name", f"{name} is not a name", "identifiers", "write a name"))
            self._instrs[index] = self._idle
        self._open = index
        return Slot(self, index)

    def _mul(self, index, name):
        if self._join(index, name):
            self._instrs[index] += ("mul", name)

    def b(self, target):
        self._record_branch(("b",), target if isinstance(target, str) else target.name)

    def _link(self, instr, index, target):
        return (*instr, str(target - index))
"""
_NAMES: dict[str, Any] = {}
exec(compile(SOURCE, "toy_builder.py", "exec"), _NAMES)
LAYERS.add("toy_builder.py")
Toy: Any = _NAMES["Asm"]


def built(fn: Any) -> tuple[list[Word], dict[str, int], list[int]]:
    instrs, labels, places = run(Toy(), fn)._finish()
    first = fn.__code__.co_firstlineno
    return instrs, labels, [places.loc(n).line - first for n in range(len(places))]


def test_halves_labels_and_places() -> None:
    def program(q: Any) -> None:
        q.b("end")
        q.add("x").mul(
            "y",
        )
        here_ = q.label()
        q.b(here_)
        q.label("end")

    instrs, labels, lines = built(program)
    assert instrs == [("b", "3"), ("add", "x", "mul", "y"), ("b", "0")]
    assert labels == {"label0": 2, "end": 3}
    assert lines == [1, 2, 6]


def test_a_loop_fills_the_slots_of_its_last_branch() -> None:
    def program(q: Any) -> None:
        with q.loop() as again:
            q.add("x")
            q.b(again.start)
            q.add("y")
        with q.loop() as other:
            q.b(other.end)
            for _ in range(3):
                q.add("z")
        with q.loop("named"):
            q.add("w")

    instrs, labels, lines = built(program)
    nop = ("nop",)
    assert instrs[:5] == [("add", "x"), ("b", "-1"), ("add", "y"), nop, nop]
    assert instrs[5:] == [("b", "4"), *[("add", "z")] * 3, ("add", "w")]
    assert labels == {"loop0": 0, "loop0_end": 5, "loop1": 5, "loop1_end": 9, "named": 9, "named_end": 10}
    assert lines == [2, 3, 4, 1, 1, 6, 8, 8, 8, 10]


def test_every_error_at_its_line_in_order() -> None:
    def program(q: Any) -> None:
        q.b("nowher")
        q.add("1")
        q.label("nowhere")
        q.label("nowhere")
        slot = q.add("x")
        q.add("y")
        slot.mul("z")

    with pytest.raises(AsmError) as caught:
        built(program)
    first = program.__code__.co_firstlineno
    found = [(d.rule, d.loc.line - first, d.help is not None) for d in caught.value.diagnostics if d.loc]
    assert found == [
        ("undefined-label", 1, True), ("name", 2, True), ("label", 4, True), ("dual-issue", 7, True),
    ]  # fmt: skip
    assert "did you mean 'nowhere'?" in str(caught.value)


def test_unknown_names_and_exceptions_carry_the_errors_before() -> None:
    def unknown(q: Any) -> None:
        q.add("1")
        q.adds("x")

    with pytest.raises(UnknownNameError) as caught:
        built(unknown)
    assert [d.rule for d in caught.value.diagnostics] == ["name", "name"]
    assert "did you mean add" in str(caught.value)
    with pytest.raises(UnknownNameError, match="the mul half of VideoCore IV has no 'mull'"):
        built(lambda q: q.add("x").mull("y"))

    def stops(q: Any) -> None:
        q.add("1")
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as stopped:
        built(stops)
    assert any("1 is not a name" in note for note in stopped.value.__notes__)


def test_made_up_names_keep_clear_of_given_ones() -> None:
    q: Builder[Word] = Toy()
    q.label("loop0")
    with q.loop() as loop:
        pass
    assert (loop.start.name, loop.end.name) == ("loop1", "loop1_end")
    assert (q.new_label().name, q.new_label().name, q.new_label("x").name) == ("label0", "label1", "x0")
    label = q.label(Label("mine"))
    assert repr(label) == "<label mine>"


def test_places_are_lines_on_demand() -> None:
    place = here()
    assert loc_of(place).file == __file__
    places = Places([place, place])
    assert places[0] == places[0:2][1] == (place[0], loc_of(place).line)
