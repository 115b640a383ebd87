"""Work budget of one pass: nested macros and functions of a source text can multiply work without limit."""

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
"""Characters of functions that one call evaluates, with those of calls whose results are remembered."""
FUNCTION_CHARACTERS = 10_000_000
"""Characters of functions that one pass evaluates: about two seconds."""
_CHARACTERS_PER_LINE = 1_000  # more of them for every line of source text
_EXPANDED = 4_000_000  # steps of macros and repetitions
_CACHED_STEPS = 2
_CALL_COST = 80  # characters that take as long as the call itself
_LINE_STEPS = 8  # of a line that must be read again, besides its characters
_INCLUDE_STEPS = 2_000


class Budget:
    """Remaining work of one pass.

    Evaluation takes time in proportion to the characters evaluated, so these are counted where text is executed again:
    in functions (`evaluate`), macros and repetitions (`enter`, `line`). called: characters of the outermost call so
    far, where remembered results count in full, so that this limit does not depend on what is remembered.
    """

    __slots__ = ("called", "characters", "ifs", "level", "steps")

    def __init__(self) -> None:
        self.characters = FUNCTION_CHARACTERS
        self.called = 0
        self.steps = _EXPANDED
        self.level = 0
        self.ifs = 0

    def text(self, lines: int) -> None:
        """Lines of source text are about to be read for the first time."""
        self.characters += _CHARACTERS_PER_LINE * lines

    def evaluate(self, characters: int, pos: int, known: int = 0) -> None:
        """Characters of a function are evaluated. known: those behind a result that is remembered."""
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
        """A line inside a macro or repetition is read, with its expressions."""
        self._spend(2 * characters + _LINE_STEPS, 0)

    def include(self, pos: int) -> None:
        """A file is read."""
        self._spend(_INCLUDE_STEPS, pos)

    def enter(self, lines: int, what: str, pos: int, *, call: bool = False) -> None:
        """A nested block of `lines` is executed, perhaps a function; `leave` it afterwards."""
        if call:
            self.characters -= _CALL_COST
        if self.level >= DEPTH_LIMIT:
            raise Fault("recursion", f"{what} are nested more than {DEPTH_LIMIT} deep", pos,
                        help="end the recursion with a condition")  # fmt: skip
        self._spend(_CACHED_STEPS * lines + _LINE_STEPS, pos)
        self.level += 1

    def leave(self) -> None:
        """The nested block ends."""
        self.level -= 1

    def enter_if(self, pos: int) -> None:
        """A branch of a conditional block is executed; `leave_if` it afterwards."""
        if self.ifs >= IF_LIMIT:
            raise Fault("recursion", f".if blocks are nested more than {IF_LIMIT} deep", pos,
                        help="use .elseif, or join the conditions with &&")  # fmt: skip
        self.ifs += 1

    def leave_if(self) -> None:
        """The branch ends."""
        self.ifs -= 1
