"""Variables of kernels in the debugger: their values by name, as the instructions that compute them leave them.

A value is taken when the last instruction of its assignment has executed, and kept: its register may be used again. The
compiler moves, shares and removes operations, so a value may be there before its line, and a variable that is an item's
index, a counter or a constant has none. A variable that is assigned under a condition takes the new value in the lanes
where the condition holds. If it is assigned again under the same condition, only the last assignment does that; what an
earlier one computed is shown for all lanes until then.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.code import Code
from qpu.core.results import RESULTS
from qpu.debug.stepping import Moment

__all__ = ["Variable", "Variables"]

Thread: TypeAlias = tuple[int, int]
_TYPES = {"f": np.float32, "u": np.uint32}


class Variable(NamedTuple):
    """A variable's place. name; register; type: as of KIR."""

    name: str
    register: str
    type: str


class Variables:
    """The variables of a launch's program, by thread. Empty for programs that no kernel was compiled to."""

    def __init__(self, program: Code) -> None:
        found = RESULTS.get(program)
        self._at: dict[int, list[Variable]] = {}
        for result in () if found is None else found():
            text = "".join(linecache.getlines(result.loc.file))
            name = _assigned(text).get((result.loc.line, result.loc.column or 0))
            if name is not None:
                self._at.setdefault(result.at, []).append(Variable(name, result.register, result.type))
        self.of_kernel = found is not None
        self.names = sorted({v.name for row in self._at.values() for v in row})
        self.begin()

    def begin(self) -> None:
        """The launch begins, or begins again."""
        self._values: dict[Thread, dict[str, Any]] = {}
        self._pending: dict[Thread, list[Variable]] = {}

    def before(self, m: Moment, threads: list[Thread]) -> None:
        """An instruction is about to be executed by threads: take what their last one left."""
        if not self._at:
            return
        here = self._at.get(m.index)
        for row, thread in enumerate(threads):
            for v in self._pending.pop(thread, ()):
                bits: NDArray[np.uint32] = m.get(row, v.register)
                self._values.setdefault(thread, {})[v.name] = bits.view(_TYPES.get(v.type, np.int32))
            if here is not None:
                self._pending[thread] = here

    def of(self, thread: Thread) -> Mapping[str, Any]:
        """The values of a thread's variables that were assigned so far, by name: 16 lanes each."""
        return self._values.get(thread, {})

    def at(self, index: int) -> Iterator[Variable]:
        """The variables that an instruction computes."""
        yield from self._at.get(index, ())


@lru_cache(64)
def _assigned(text: str) -> Mapping[tuple[int, int], str]:
    """(line, column) of each name that the text of a file assigns -> the name."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    return {
        (node.lineno, node.col_offset + 1): node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
