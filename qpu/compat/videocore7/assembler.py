"""The builder of py-videocore7, for V3D 7.1: ``@qpu``, `assemble`, and the words of the language by ``import *``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qpu.compat.dialect import Assembly, assembled, decorator
from qpu.compat.v3d_words import Register, words
from qpu.core.isa import Isa
from qpu.errors import AsmError as AssembleError

WORDS = words(Isa.V3D71)

__all__ = ["AssembleError", "Assembly", "Register", "assemble", "qpu", *WORDS]

globals().update(WORDS)
qpu = decorator(WORDS)


def assemble(function: Callable[..., Any], *args: Any, **named: Any) -> list[int]:
    """The words of a builder function's program. Raises: AssembleError with every diagnostic."""
    return list(assembled(Isa.V3D71, WORDS, function, *args, **named))
