"""The base class of the typed builders of all three instruction sets: recording, labels, loops, locations, errors.

A builder method records one `Instr` of its family with the caller's place. An operand or instruction that cannot be
encoded raises `Refused`; the builder method passes it to `_refuse`, which records a diagnostic at the user's line, and
records a nop in place of the instruction, so that one run reports every error of a program.

An operation of the add ALU leaves its instruction open for one operation of the mul ALU: the family sets `_open` to
the index and keeps the recorded half in `_half`; `_join` closes the instruction, or reports that it is closed already.

This module knows no instruction set. A family provides `_idle` (its nop), `_link` (a branch with its target) and the
methods; every file that has builder methods adds itself to `qpu.core.locations.LAYERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar

from qpu.core.code import UNIFORM_KINDS
from qpu.core.isa import BRANCH_SLOTS, Isa
from qpu.core.locations import LAYERS, Place, Places, here, loc_of
from qpu.errors import AsmError, Diagnostic, UnknownNameError, suggest

__all__ = ["Builder", "Label", "Loop", "MulSlot", "Refused", "run"]

T = TypeVar("T")
B = TypeVar("B", bound="Builder[Any]")
P = ParamSpec("P")


class Refused(Exception):
    """Raised for an operand or instruction that cannot be encoded: a diagnostic without a location."""

    def __init__(self, rule: str, message: str, allowed: str | None = None, help: str | None = None) -> None:
        super().__init__(message)
        self.found = Diagnostic(rule, message, allowed=allowed, help=help)

    @classmethod
    def of(cls, found: Diagnostic) -> Refused:
        """The exception for a diagnostic without a location."""
        return cls(found.rule, found.message, found.allowed, found.help)


class Label:
    """A place in the program under construction. A branch takes the label, or its name, as target."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<label {self.name}>"


class Loop:
    """Labels of a loop: `start`, and `end` right after its body."""

    __slots__ = ("end", "start")

    def __init__(self, start: Label, end: Label) -> None:
        self.start = start
        self.end = end


class MulSlot:
    """The free mul half of the instruction just recorded; the classes of the families add a method per operation."""

    __slots__ = ("_index", "_q")

    def __init__(self, q: Any, index: int) -> None:
        self._q = q
        self._index = index

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            raise self._q._unknown(name, type(self), f"the mul half of {self._q.isa.label}")


class Builder(ABC, Generic[T]):
    """Base class of the typed builders; `T` is the family's instruction."""

    __slots__ = (
        "_branch_at",
        "_errors",
        "_fixups",
        "_half",
        "_instrs",
        "_labels",
        "_numbers",
        "_open",
        "_places",
        "_uniforms",
    )

    isa: ClassVar[Isa]
    _foreign: ClassVar[Mapping[str, str]] = {}  # names of other builders -> what is written here
    _idle: ClassVar[Any]
    _half: Any

    def __init__(self) -> None:
        self._instrs: list[T] = []
        self._places: list[Place] = []
        self._errors: list[Diagnostic] = []
        self._labels: dict[str, int] = {}
        self._fixups: list[tuple[int, str]] = []
        self._numbers: dict[str, int] = {}  # next number of generated names, by prefix
        self._open = -1  # index of the instruction that still takes a second operation
        self._half = None  # the half recorded there
        self._branch_at = -1 - BRANCH_SLOTS  # index of the last branch
        self._uniforms: tuple[tuple[str, str], ...] | None = None  # declared: names and kinds

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            raise self._unknown(name, type(self), f"the builder of {self.isa.label}")

    def __len__(self) -> int:
        """Instructions so far."""
        return len(self._instrs)

    # -- recording

    def _record(self, instr: T) -> int:
        """Append an instruction that takes no second operation; returns its index."""
        self._settle()
        self._places.append(here())
        self._instrs.append(instr)
        return len(self._instrs) - 1

    def _record_branch(self, instr: T, label: str | None) -> None:
        """Append a branch; `label` is the name of its target, which `_link` fills in at the end."""
        self._branch_at = self._record(instr)
        if label is not None:
            self._fixups.append((self._branch_at, label))

    def _join(self, index: int, name: str) -> bool:
        """Close instruction `index` for its second operation `name`; False after an error."""
        if index != self._open:
            why = f"{name} cannot join: the instruction already has a mul half, or a later instruction was begun"
            help = "chain the mul operation directly: q.add(...).mov(...)"
            self._error("dual-issue", why, "one mul operation beside an add operation", help)
            return False
        self._open = -1
        return True

    @abstractmethod
    def _link(self, instr: T, index: int, target: int) -> T:
        """The branch at `index` with instruction `target` as its target."""

    # -- diagnostics

    def _refuse(self, found: Refused | Diagnostic) -> None:
        """Record a diagnostic at the user's line."""
        what = found.found if isinstance(found, Refused) else found
        self._errors.append(replace(what, loc=loc_of(here()), index=len(self._instrs)))

    def _error(self, rule: str, message: str, allowed: str | None = None, help: str | None = None) -> None:
        """Record a diagnostic at the user's line, from its fields."""
        self._refuse(Refused(rule, message, allowed, help))

    def _unknown(self, name: str, kind: type, what: str) -> UnknownNameError:
        self._settle()
        known = [n for n in dir(kind) if not n.startswith("_")]
        return UnknownNameError.among(name, known, what, loc_of(here()), self._errors, self._foreign.get(name))

    def uniforms(self, **kinds: str) -> None:
        """Declare the uniforms of the program, in the order of its stream: ``q.uniforms(x="ptr", a="f32", n="i32")``.

        Launches then take one value each and convert it: ``ptr`` a buffer or an address, ``f32`` any number, ``i32``
        and ``u32`` integers. Without a declaration the type of a value decides: an int is an integer word.
        """
        if self._uniforms is not None:
            self._error("uniforms", "the uniforms are declared twice", "once", "declare all of them in one call")
        for name, kind in kinds.items():
            if kind not in UNIFORM_KINDS:
                help = suggest(str(kind), UNIFORM_KINDS) or f"write one of these: {name}={UNIFORM_KINDS[0]!r}"
                self._error("uniforms", f"{name}={kind!r} is not a kind of uniform", ", ".join(UNIFORM_KINDS), help)
        self._uniforms = tuple(kinds.items())

    # -- labels and loops

    def label(self, name: str | Label | None = None) -> Label:
        """Define a label at the next instruction and return it. name: None generates one; branches take either."""
        place = name if isinstance(name, Label) else self.new_label() if name is None else Label(name)
        self._settle()
        if place.name in self._labels:
            why = f"label {place.name!r} already names instruction {self._labels[place.name]}"
            self._error("label", why, "each name once", "give one of them another name, or none: q.label()")
        else:
            self._labels[place.name] = len(self._instrs)
        return place

    def new_label(self, name: str = "label") -> Label:
        """A label with a unique name derived from `name`, to be defined later with `label`."""
        return Label(self._fresh(name))

    def _fresh(self, prefix: str) -> str:
        """A name that no label has: the prefix and a number from 0."""
        number = self._numbers.get(prefix, 0)
        while f"{prefix}{number}" in self._labels:
            number += 1
        self._numbers[prefix] = number + 1
        return f"{prefix}{number}"

    @contextmanager
    def loop(self, name: str | None = None) -> Iterator[Loop]:
        """``with q.loop() as again: ... q.b(again.start, cond=...)``: labels at the start and after the body.

        The three delay slots of a branch belong to the body: if it ends before them, they are filled with nops.
        """
        text = self._fresh("loop") if name is None else name
        loop = Loop(Label(text), Label(f"{text}_end"))
        start = len(self._instrs)
        self.label(loop.start)
        yield loop
        if self._branch_at >= start:
            while len(self._instrs) <= self._branch_at + BRANCH_SLOTS:
                self._record(self._idle)
        self.label(loop.end)

    # -- end

    def _settle(self) -> None:
        """Close the open instruction, if any, without a mul operation. May record errors about it."""
        self._open = -1

    def _finish(self) -> tuple[list[T], dict[str, int], Places]:
        """The instructions, branches linked, with labels and places. Raises: AsmError with every diagnostic."""
        self._settle()
        places = Places(self._places)
        for index, name in self._fixups:
            target = self._labels.get(name)
            if target is not None:
                self._instrs[index] = self._link(self._instrs[index], index, target)
                continue
            self._errors.append(
                Diagnostic(
                    "undefined-label",
                    f"label {name!r} is not defined",
                    loc=places.loc(index),
                    allowed=", ".join(list(self._labels)[:12]) or "no label is defined",
                    help=suggest(name, self._labels) or f"define it with q.label({name!r})",
                    index=index,
                )
            )
        self._fixups.clear()
        if self._errors:
            raise AsmError.of(self._errors)
        return self._instrs, dict(self._labels), places


def run(q: B, fn: Callable[Concatenate[B, P], object], /, *args: P.args, **kwargs: P.kwargs) -> B:
    """Run a builder function and return its builder.

    An exception that the function raises gets the diagnostics found so far as notes.
    """
    try:
        fn(q, *args, **kwargs)
    except AsmError:
        raise
    except Exception as error:
        q._settle()
        for found in q._errors:
            error.add_note(found.render())
        raise
    return q


LAYERS.update((__file__, contextmanager.__code__.co_filename))
