"""Scopes, functions and macros of a source text."""

from __future__ import annotations

from dataclasses import dataclass, field

from qpu.vc4.vc4asm.output import Source
from qpu.vc4.vc4asm.values import Value

__all__ = ["ExpressionFunction", "LineFunction", "Macro", "Scope"]


@dataclass(frozen=True, slots=True)
class ExpressionFunction:
    """``.set name(a, b) expression``. text, pos: the line and where the expression starts in it."""

    name: str
    parameters: tuple[str, ...]
    source: Source
    text: str
    pos: int


@dataclass(frozen=True, slots=True)
class LineFunction:
    """``.func`` .. ``.endf``: lines with exactly one value among those that are executed."""

    name: str
    parameters: tuple[str, ...]
    source: Source
    body: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Macro:
    """``.macro`` .. ``.endm``."""

    name: str
    parameters: tuple[str, ...]
    source: Source
    body: tuple[Source, ...]


@dataclass(slots=True)
class Scope:
    """Constants and functions visible from here on; what is not found is looked up in `parent`.

    final: names that must not be defined again.
    """

    parent: Scope | None = None
    constants: dict[str, Value] = field(default_factory=dict)
    functions: dict[str, ExpressionFunction | LineFunction] = field(default_factory=dict)
    final: set[str] = field(default_factory=set)

    def find(self, name: str) -> Value | None:
        """The constant `name`, innermost scope first."""
        scope: Scope | None = self
        while scope is not None:
            value = scope.constants.get(name)
            if value is not None:
                return value
            scope = scope.parent
        return None

    def find_function(self, name: str) -> ExpressionFunction | LineFunction | None:
        """The function `name`, innermost scope first."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.functions.get(name)
            if found is not None:
                return found
            scope = scope.parent
        return None
