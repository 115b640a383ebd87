"""The work budget of one pass, which limits the expansion of nested macros and functions."""

from __future__ import annotations

from qpu.vc4.vc4asm.fault import Fault

__all__ = ["CALL_CHARACTERS", "DEPTH_LIMIT", "FUNCTION_CHARACTERS", "IF_LIMIT", "INCLUDE_SIZE", "Budget"]

DEPTH_LIMIT = 120
"""Macros, functions, repetitions and includes inside each other."""
IF_LIMIT = 400
"""Conditional blocks that are open at the same time."""
INCLUDE_SIZE = 1 << 20
"""Bytes of an included file."""
CALL_CHARACTERS = 600_000
"""Characters of functions that one call may evaluate, including calls whose results are cached."""
FUNCTION_CHARACTERS = 10_000_000
"""Characters of functions that one pass may evaluate: about two seconds."""
_CHARACTERS_PER_LINE = 1_000  # more of them for every line of source text
_EXPANDED = 4_000_000  # steps of macros and repetitions
_CACHED_STEPS = 2
_CALL_COST = 80  # characters that take as long as the call itself
_LINE_STEPS = 8  # of a line that is read again, in addition to its characters
_INCLUDE_STEPS = 2_000


class Budget:
    """Remaining work of one pass.

    Evaluation takes time in proportion to the characters evaluated, so these are counted where text is executed again:
    in functions (`evaluate`), macros and repetitions (`enter`, `line`). called: characters of the outermost call so
    far; cached results count in full, so that the limit does not depend on the cache.
    """

    __slots__ = ("called", "characters", "ifs", "level", "steps")

    def __init__(self) -> None:
        self.characters = FUNCTION_CHARACTERS
        self.called = 0
        self.steps = _EXPANDED
        self.level = 0
        self.ifs = 0

    def text(self, lines: int) -> None:
        """Count lines of source text that are about to be read."""
        self.characters += _CHARACTERS_PER_LINE * lines

    def evaluate(self, characters: int, pos: int, known: int = 0) -> None:
        """Count characters of a function that are evaluated. known: the characters of a cached result."""
        self.characters -= characters + _LINE_STEPS
        self.called += characters + known + _LINE_STEPS
        if self.called > CALL_CHARACTERS:
            raise Fault("expansion", "this function evaluates too many expressions", pos,
                        allowed=f"{CALL_CHARACTERS} characters in one call",
                        help="let functions call each other less, or write the result as a number")  # fmt: skip
        if self.characters < 0:
            raise Fault("expansion", "the functions of this text evaluate too many expressions", pos,
                        allowed=f"{FUNCTION_CHARACTERS} characters, and {_CHARACTERS_PER_LINE} more for each line",
                        help="let functions call each other less, or write their results as data")  # fmt: skip

    def _spend(self, steps: int, pos: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise Fault("expansion", "macros and repetitions of this text execute too many lines", pos,
                        allowed=f"{_EXPANDED // _CACHED_STEPS} lines, fewer of directives and expressions",
                        help="split the program, or keep its tables as .int64 data")  # fmt: skip

    def line(self, characters: int) -> None:
        """Count a line inside a macro or repetition, with its expressions."""
        self._spend(2 * characters + _LINE_STEPS, 0)

    def include(self, pos: int) -> None:
        """Count an included file."""
        self._spend(_INCLUDE_STEPS, pos)

    def enter(self, lines: int, what: str, pos: int, *, call: bool = False) -> None:
        """Count a nested block of `lines`; call: it is a function. Call `leave` at its end."""
        if call:
            self.characters -= _CALL_COST
        if self.level >= DEPTH_LIMIT:
            raise Fault("recursion", f"{what} are nested more than {DEPTH_LIMIT} deep", pos,
                        help="end the recursion with a condition")  # fmt: skip
        self._spend(_CACHED_STEPS * lines + _LINE_STEPS, pos)
        self.level += 1

    def leave(self) -> None:
        """End a nested block."""
        self.level -= 1

    def enter_if(self, pos: int) -> None:
        """Count a branch of a conditional block. Call `leave_if` at its end."""
        if self.ifs >= IF_LIMIT:
            raise Fault("recursion", f".if blocks are nested more than {IF_LIMIT} deep", pos,
                        help="use .elseif, or join the conditions with &&")  # fmt: skip
        self.ifs += 1

    def leave_if(self) -> None:
        """End a branch of a conditional block."""
        self.ifs -= 1
