"""What the dialects of the predecessors' builders share: the program being assembled, injected names, the decorator.

The words of a dialect are symbols that a call resolves on the builder of the program being assembled. So one set of
them serves every program, both as names injected into a function's module while it runs (as the old ``@qpu`` does it)
and by ``from ... import *``.
"""

from __future__ import annotations

import functools
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from qpu.core.builder import Builder
from qpu.core.isa import Isa
from qpu.core.locations import LAYERS
from qpu.errors import Severity, UsageError
from qpu.instruction_sets import assemble as assemble_ours
from qpu.program import Program

__all__ = ["Assembly", "CompatWarning", "Label", "assembled", "current", "decorator", "injected", "pack_unpack"]


class CompatWarning(UserWarning):
    """An old program does what our checker calls an error; it is run as it is."""


class Label:
    """A label that was mentioned: a definition, unless a branch takes it as its target at once."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Assembly:
    """The program being assembled: the builder, and what the dialect remembers. Passed to builder functions."""

    def __init__(self, q: Builder[Any], names: Mapping[str, Any]) -> None:
        self.q: Any = q
        self.names = names
        self.pending: list[Label] = []  # mentioned labels that no branch has taken
        self.space: list[str] = []  # open namespaces

    def __getattr__(self, name: str) -> Any:
        """A word of the dialect: ``asm.fadd``."""
        try:
            return self.__dict__["names"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __len__(self) -> int:
        """Instructions so far."""
        return len(self.q)

    def label(self, name: str) -> Label:
        """Mention a label."""
        found = Label(self.full(name))
        self.pending.append(found)
        return found

    def full(self, name: str) -> str:
        """The name inside the open namespaces."""
        return ".".join([*self.space, name])

    def take(self, label: Label) -> str:
        """Use a mentioned label as a branch target, which is no definition."""
        self.pending = [each for each in self.pending if each is not label]
        return label.name

    def settle(self) -> Any:
        """Define the labels that were mentioned since the last instruction. Returns: the builder."""
        for label in self.pending:
            self.q.label(label.name)
        self.pending.clear()
        return self.q


_stack: list[Assembly] = []


def current() -> Assembly:
    """The program being assembled. Raises: UsageError outside of one."""
    if not _stack:
        raise UsageError(
            "an instruction outside of a program", help="write it in a function under @qpu and assemble that function"
        )
    return _stack[-1]


@contextmanager
def injected(space: dict[str, Any], names: Mapping[str, Any]) -> Iterator[None]:
    """While the block runs, a module's global variables have the dialect's names."""
    hidden = {name: space[name] for name in names if name in space}
    space.update(names)
    try:
        yield
    finally:
        for name in names:
            if name in hidden:
                space[name] = hidden[name]
            else:
                space.pop(name, None)


def decorator(names: Mapping[str, Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The ``@qpu`` of a dialect: the function's global names are the dialect's while it runs."""

    def qpu(function: Callable[..., Any]) -> Callable[..., Any]:
        """Mark a builder function; its first parameter is the program being assembled."""

        @functools.wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            with injected(function.__globals__, names):
                return function(*args, **named)

        return call

    return qpu


def assembled(isa: Isa, names: Mapping[str, Any], function: Callable[..., Any], *args: Any, **named: Any) -> Program:
    """The program of a builder function. Hazard rules that it breaks are warnings: it ran on hardware before.

    Raises: AsmError with every diagnostic.
    """

    def build(q: Builder[Any]) -> None:
        asm = Assembly(q, names)
        _stack.append(asm)
        try:
            function(asm, *args, **named)
            asm.settle()
        finally:
            _stack.pop()

    program = assemble_ours(build, isa=isa, check=False)
    for found in program.check():
        if found.severity is Severity.ERROR:
            place = program.loc(found.index)
            at = "" if place is None else f"{place}: {place.source.strip()}: "
            warnings.warn(CompatWarning(f"{at}{found.label}: {found.message}"), stacklevel=3)
    return program


def pack_unpack(pack: str, unpack: str, val: Any) -> Any:
    """Numbers of one `struct` format read as another: ``pack_unpack("f", "I", 1.0)``. val: a number or a list."""
    if isinstance(val, (list, tuple)):
        return [pack_unpack(pack, unpack, each) for each in val]
    return struct.unpack(unpack, struct.pack(pack, val))[0]


LAYERS.update((__file__, contextmanager.__code__.co_filename))
