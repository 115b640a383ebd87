"""The builder of PyVideoCore: ``@qpu``, `assemble`, and the words of the language by ``import *``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qpu.compat.dialect import Assembly, Label, assembled, decorator
from qpu.compat.vc4_words import WORDS, Register
from qpu.core.isa import Isa
from qpu.errors import AsmError as AssembleError

__all__ = [
    "AssembleError", "Assembly", "Label", "Register", "assemble", "get_label_position", "print_qbin", "print_qhex",
    "qpu", *WORDS,
]  # fmt: skip

globals().update(WORDS)
qpu = decorator(WORDS)


def assemble(function: Callable[..., Any], *args: Any, **named: Any) -> bytes:
    """The bytes of a builder function's program. Raises: AssembleError with every diagnostic."""
    return assembled(Isa.VC4, WORDS, function, *args, **named).data


def get_label_position(function: Callable[..., Any], label: str, *args: Any, **named: Any) -> int:
    """The byte offset of a label. Raises: KeyError."""
    return 8 * assembled(Isa.VC4, WORDS, function, *args, **named).labels[label]


def print_qbin(program: Callable[..., Any] | bytes, *args: Any, **named: Any) -> None:
    """Write the program's bytes to standard output."""
    import sys

    sys.stdout.buffer.write(program if isinstance(program, bytes) else assemble(program, *args, **named))


def print_qhex(program: Callable[..., Any] | bytes, *args: Any, **named: Any) -> None:
    """Print the program, two words of 32 bits an instruction, low word first."""
    data = program if isinstance(program, bytes) else assemble(program, *args, **named)
    for at in range(0, len(data), 8):
        low, high = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4))
        print(f"0x{low:08x}, 0x{high:08x},")
