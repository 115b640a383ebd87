"""The table of results: which instruction of a compiled program leaves the value of which source place in a register.

Compilers fill it when somebody asks, such as the debugger, which shows variables of kernels by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from qpu.core.code import Code
from qpu.errors import Loc

__all__ = ["RESULTS", "Result"]


class Result(NamedTuple):
    """A result. at: number of the instruction; register: its name in the debugger, such as ``rf12`` or ``ra3``; type:
    ``f``, ``i``, ``u``, ``b``, or empty; loc: place of the expression that it is for, with line and column."""

    at: int
    register: str
    type: str
    loc: Loc


RESULTS: WeakKeyDictionary[Code, Callable[[], Sequence[Result]]] = WeakKeyDictionary()
"""For each compiled program, a function that gives its results, in the order of the instructions."""
