"""The decoder of VideoCore IV, from 64-bit words to instructions.

Every word decodes. A word of a reserved load-immediate variant becomes `Reserved`; reserved opcodes, pack modes and
branch conditions keep their fields, and `reserved` explains them. Source: docs/hardware/vc4.md 2.
"""

from __future__ import annotations

from qpu.errors import UsageError
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, LoadMode, Reserved, Semaphore
from qpu.vc4.ops import ADD_OPS
from qpu.vc4.pack import PACK_MUL
from qpu.vc4.regs import SIG_SMALL_IMM

__all__ = ["decode", "reserved", "shape"]

_SEMAPHORE = 4
_MODES = {0: LoadMode.WORD, 1: LoadMode.PER_ELEMENT_SIGNED, 3: LoadMode.PER_ELEMENT_UNSIGNED}


def decode(word: int) -> Instr:
    """The instruction in a word; `encode` gives the word back. Raises: UsageError outside 0..2**64-1."""
    if not 0 <= word < 1 << 64:
        raise UsageError(f"{word:#x} is not a 64-bit word", help="pass an instruction word: 0..2**64-1")
    w = word
    sig = w >> 60
    if sig <= SIG_SMALL_IMM:
        return Alu(
            sig, w >> 57 & 7, w >> 56 & 1, w >> 52 & 15, w >> 49 & 7, w >> 46 & 7, w >> 45 & 1, w >> 44 & 1,
            w >> 38 & 63, w >> 32 & 63, w >> 29 & 7, w >> 24 & 31, w >> 18 & 63, w >> 12 & 63,
            w >> 9 & 7, w >> 6 & 7, w >> 3 & 7, w & 7,
        )  # fmt: skip
    if sig == 15:
        return Branch(
            w >> 52 & 15, w >> 51 & 1, w >> 50 & 1, w >> 45 & 31, w >> 44 & 1, w >> 38 & 63, w >> 32 & 63,
            w & 0xFFFFFFFF, w >> 56 & 15,
        )  # fmt: skip
    variant = w >> 57 & 7
    rest = (
        w >> 56 & 1, w >> 52 & 15, w >> 49 & 7, w >> 46 & 7, w >> 45 & 1, w >> 44 & 1,
        w >> 38 & 63, w >> 32 & 63, w & 0xFFFFFFFF,
    )  # fmt: skip
    if variant == _SEMAPHORE:
        return Semaphore(*rest)
    mode = _MODES.get(variant)
    return Reserved(word) if mode is None else LoadImm(mode, *rest)


_FIFTH = 1 << 43 | 1 << 37 | 1 << 23 | 1 << 17  # bit 5 of the four addresses of an ALU instruction: not a register
_OTHERS = (1 << 64) - 1 ^ (_FIFTH - (_FIFTH >> 5))  # all bits but 4:0 of these


def shape(word: int) -> int:
    """The word with register 0 instead of every ra0..ra31 and rb0..rb31 of an ALU instruction."""
    if not 0 <= word < 14 << 60:
        return word
    high = word & _FIFTH
    return word & (_OTHERS | high - (high >> 5))


def reserved(instr: Instr) -> str | None:
    """Why the encoding of an instruction is reserved; None when it is defined."""
    if isinstance(instr, Reserved):
        return f"load immediate variant {instr.word >> 57 & 7} is reserved (0, 1, 3 and 4 are defined)"
    if isinstance(instr, Branch):
        if 12 <= instr.cond <= 14:
            return f"branch condition {instr.cond} is reserved (0..11 and 15 are defined)"
        return None
    if instr.pm and instr.pack not in PACK_MUL:
        return f"pack mode {instr.pack} with pm = 1 is reserved (0 and 3..7 are defined)"
    if isinstance(instr, Alu) and ADD_OPS[instr.op_add] is None:
        return f"ADD opcode {instr.op_add} is reserved"
    return None
