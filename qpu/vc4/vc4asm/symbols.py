"""The symbol table of one pass: constants, functions and macros of the source text, and their scopes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from qpu.errors import suggest
from qpu.vc4.vc4asm.builtins import PREDICATES
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.names import OPCODES
from qpu.vc4.vc4asm.registers import REGISTERS
from qpu.vc4.vc4asm.text import Block, Source
from qpu.vc4.vc4asm.values import NAMED, Value

__all__ = ["ExpressionFunction", "LineFunction", "Macro", "Scope", "Symbols"]

_WORD = re.compile(r"\b[A-Za-z_]\w*")
_RESULTS = 100_000  # largest number of cached results


@dataclass(frozen=True, eq=False)
class ExpressionFunction:
    """``.set name(a, b) expression``. text, pos: the line and where the expression starts in it."""

    name: str
    parameters: tuple[str, ...]
    source: Source
    text: str
    pos: int

    @cached_property
    def words(self) -> frozenset[str]:
        """All names in the body, and its own."""
        return frozenset((self.name, *_WORD.findall(self.text, self.pos)))


@dataclass(frozen=True, eq=False)
class LineFunction:
    """``.func`` .. ``.endf``: lines with exactly one value among those that are executed."""

    name: str
    parameters: tuple[str, ...]
    source: Source
    body: Block

    @cached_property
    def words(self) -> frozenset[str]:
        """All names in the body, and its own."""
        lines, start, stop = self.body
        return frozenset((self.name, *(w for text, _, _ in lines.sources[start:stop] for w in _WORD.findall(text))))


class Macro(LineFunction):
    """``.macro`` .. ``.endm``."""


class Known(NamedTuple):
    """A cached result. cost: characters evaluated for it. names: names that it may depend on, besides arguments."""

    value: Value
    cost: int
    names: frozenset[str]


@dataclass(slots=True)
class Scope:
    """Constants and functions of one scope; other names are looked up in `parent`.

    final: names that cannot be defined again.
    """

    parent: Scope | None = None
    constants: dict[str, Value] = field(default_factory=dict)
    functions: dict[str, ExpressionFunction | LineFunction] = field(default_factory=dict)
    final: set[str] = field(default_factory=set)

    def chain(self) -> Iterator[Scope]:
        """The scope and those around it, innermost first."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def find(self, name: str) -> Value | None:
        """The constant `name`, innermost scope first."""
        scope: Scope | None = self
        while scope is not None and name not in scope.constants:
            scope = scope.parent
        return None if scope is None else scope.constants[name]

    def find_function(self, name: str) -> ExpressionFunction | LineFunction | None:
        """The function `name`, innermost scope first."""
        scope: Scope | None = self
        while scope is not None and name not in scope.functions:
            scope = scope.parent
        return None if scope is None else scope.functions[name]


class Symbols:
    """The names that are defined at the current line.

    standard: the scope of the standard include, searched last; None while that file is read. tainted: a name of the
    source text was used, so the meaning of the line depends on more than its text. plain: no name of the language has
    been redefined, so lines can come from a cache. results: (function, integers) -> its value, until a name that it
    depends on is redefined. effects: number of side effects of evaluations so far.
    """

    def __init__(self, standard: Scope | None) -> None:
        self.standard = standard
        self.root = Scope()
        self.scope = self.root
        self.macros: dict[str, Macro] = {}
        self.tainted = False
        self.plain = True
        self.results: dict[tuple[object, ...], Known] = {}
        self.effects = 0
        self._watched: set[str] = set()  # all names in `results`
        self._sets: dict[frozenset[str], frozenset[str]] = {}  # and each set of them, once

    def changed(self, names: Iterable[str]) -> None:
        """Clear the cached results if they depend on one of `names`, which are redefined in the outermost scope."""
        self.effects += 1
        if not self._watched.isdisjoint(names):
            self.results.clear()
            self._watched.clear()

    def outermost(self, names: Set[str]) -> bool:
        """True when none of `names` is defined in an inner scope."""
        inner = (s for s in self.scope.chain() if s is not self.root)
        return all(s.constants.keys().isdisjoint(names) and s.functions.keys().isdisjoint(names) for s in inner)

    def remember(self, key: tuple[object, ...], value: Value, cost: int, names: Set[str]) -> None:
        """Cache the result of a call; for the arguments see `Known`."""
        if len(self.results) >= _RESULTS:
            self.results.clear()
            self._sets.clear()
        kept = frozenset(names)
        self._watched |= kept
        self.results[key] = Known(value, cost, self._sets.setdefault(kept, kept))

    def lookup(self, name: str) -> Value | None:
        """The value of a constant or register."""
        value = self.scope.find(name)
        if value is not None:
            self.tainted = True
            return value
        if self.scope.find_function(name) is not None:
            return None
        register = REGISTERS.get(name)
        if register is not None:
            return register
        if self.standard is not None and name not in NAMED:
            value = self.standard.constants.get(name)
            if value is not None:
                self.tainted = True
            return value
        return None

    def find_function(self, name: str) -> ExpressionFunction | LineFunction | None:
        """The function `name` of the source text, else of the standard include unless a predicate has that name."""
        found = self.scope.find_function(name)
        if found is None and name not in PREDICATES and self.standard is not None:
            found = self.standard.functions.get(name)
        if found is not None:
            self.tainted = True
        return found

    def scope_of(self, name: str, pos: int, *, local: bool, final: bool = False) -> Scope:
        """The scope for a definition of `name`: the current one if `local`, else the outermost one."""
        scope = self.scope if local else self.root
        if name in scope.final:
            raise Fault("constant-final", f"{name!r} is a .const and cannot be defined again", pos,
                        help="use .set where it is defined first")  # fmt: skip
        if final and (name in scope.constants or name in scope.functions):
            raise Fault("constant-final", f"{name!r} is already defined and cannot become a .const", pos,
                        help="use .const where it is defined first")  # fmt: skip
        self.shadow(name)
        if scope is self.root:
            self.changed((name,))
        if final:
            scope.final.add(name)
        return scope

    def define(self, name: str, value: Value, pos: int, *, local: bool = False, final: bool = False) -> None:
        """Define a constant."""
        scope = self.scope_of(name, pos, local=local, final=final)
        scope.constants[name] = value
        scope.functions.pop(name, None)

    def define_function(
        self, function: ExpressionFunction | LineFunction, pos: int, *, local: bool = False, final: bool = False
    ) -> None:
        """Define a function."""
        scope = self.scope_of(function.name, pos, local=local, final=final)
        scope.functions[function.name] = function
        scope.constants.pop(function.name, None)

    def remove(self, name: str, pos: int, *, local: bool) -> bool:
        """Remove a constant or function; returns whether there was one."""
        scope = self.scope if local else self.root
        if name in scope.final:
            raise Fault("constant-final", f"{name!r} is a .const and cannot be removed", pos,
                        help="use .set where it is defined first")  # fmt: skip
        if scope is self.root:
            self.changed((name,))
        found = name in scope.constants or name in scope.functions
        scope.constants.pop(name, None)
        scope.functions.pop(name, None)
        return found

    def shadow(self, name: str, *, macro: bool = False) -> None:
        """Record a definition: lines are not cached once a name of the language is redefined."""
        if macro:
            self.changed((name,))
        if name in OPCODES if macro else (name in REGISTERS or name in NAMED):
            self.plain = False

    def enter(self, constants: Mapping[str, Value]) -> Scope:
        """Open a scope with `constants`; returns the one to restore."""
        before = self.scope
        self.scope = Scope(before, dict(constants))
        for name in constants:
            self.shadow(name)
        return before

    def unknown(self, name: str, pos: int) -> Fault:
        """The fault for a name that is not defined."""
        known: list[str] = [*REGISTERS, *NAMED, *PREDICATES]
        for scope in (*([] if self.standard is None else [self.standard]), *self.scope.chain()):
            known += [*scope.constants, *scope.functions]
        if name in OPCODES:
            return Fault("undefined-name", f"{name!r} is an instruction, not a value", pos)
        help = suggest(name, known) or f"define it: .set {name[:40]}, ..."
        return Fault("undefined-name", f"{name!r} is not defined", pos, help=help)
