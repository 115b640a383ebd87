"""The base class of builder operands, which refuses Python's tests: a register has no value at build time."""

from __future__ import annotations

from sys import _getframe
from typing import NoReturn

from qpu.core.locations import LAYERS, here, loc_of
from qpu.errors import AsmError, Diagnostic

__all__ = ["NoTruth"]


class NoTruth:
    """An operand that Python must not test: ``if q.rf[1] == 0`` would ask at build time what only the GPU knows.

    Operands are equal to themselves only, and hashed by identity, as the builders' caches need.
    """

    __slots__ = ()

    __hash__ = object.__hash__

    def __bool__(self) -> NoReturn:
        _refuse(f"{self!r} has no truth value: the program runs later, on the GPU")

    def __eq__(self, other: object) -> bool:
        if self is not other and _getframe(1).f_code.co_filename not in LAYERS:  # those are the builders' caches
            _refuse(f"{self!r} cannot be compared here: the program runs later, on the GPU")
        return self is other

    def __ne__(self, other: object) -> bool:
        if self is not other and _getframe(1).f_code.co_filename not in LAYERS:
            _refuse(f"{self!r} cannot be compared here: the program runs later, on the GPU")
        return self is not other


def _refuse(message: str) -> NoReturn:
    found = Diagnostic(
        "truth",
        message,
        loc=loc_of(here()),
        allowed="Python's `if` and `while` over numbers that are known while the program is built",
        help="set flags by an instruction with push=, then use cond= on others, or branch: q.b(label, cond=...)",
    )
    raise AsmError.of(found)


LAYERS.add(__file__)
