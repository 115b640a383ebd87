"""The unpacked instruction of VideoCore IV: what text, builder and decoder produce, and everything else consumes.

Fields carry the names and values of the instruction word (reference: VideoCore IV 3D architecture guide), because
every 64-bit word is an instruction there; readers that want names use `qpu.vc4.regs` and `qpu.vc4.ops`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Alu", "Branch", "Instr", "LoadImm", "LoadMode", "Reserved", "Semaphore"]


class LoadMode(enum.IntEnum):
    """Variant of a load immediate (bits 59:57)."""

    WORD = 0
    PER_ELEMENT_SIGNED = 1
    PER_ELEMENT_UNSIGNED = 3


@dataclass(frozen=True, slots=True)
class Alu:
    """ALU instruction, signals 0..13. With sig 13 `raddr_b` is the small-immediate code."""

    sig: int = 1
    unpack: int = 0
    pm: int = 0
    pack: int = 0
    cond_add: int = 0
    cond_mul: int = 0
    sf: int = 0
    ws: int = 0
    waddr_add: int = 39
    waddr_mul: int = 39
    op_mul: int = 0
    op_add: int = 0
    raddr_a: int = 39
    raddr_b: int = 39
    add_a: int = 0
    add_b: int = 0
    mul_a: int = 0
    mul_b: int = 0


@dataclass(frozen=True, slots=True)
class LoadImm:
    """Load immediate (signal 14, variants 0, 1, 3). imm: the low 32 bits as encoded."""

    mode: LoadMode = LoadMode.WORD
    pm: int = 0
    pack: int = 0
    cond_add: int = 0
    cond_mul: int = 0
    sf: int = 0
    ws: int = 0
    waddr_add: int = 39
    waddr_mul: int = 39
    imm: int = 0


@dataclass(frozen=True, slots=True)
class Semaphore:
    """Semaphore (signal 14, variant 4). imm: low 32 bits; bit 4 set = acquire (down), 3:0 = number."""

    pm: int = 0
    pack: int = 0
    cond_add: int = 0
    cond_mul: int = 0
    sf: int = 0
    ws: int = 0
    waddr_add: int = 39
    waddr_mul: int = 39
    imm: int = 0

    @property
    def number(self) -> int:
        """Which of the 16 semaphores."""
        return self.imm & 15

    @property
    def acquire(self) -> bool:
        """True to decrement (wait while 0), False to increment (wait while 15)."""
        return bool(self.imm & 16)


@dataclass(frozen=True, slots=True)
class Branch:
    """Branch (signal 15). imm: low 32 bits, unsigned; unused: bits 59:56, kept so that decoding loses nothing."""

    cond: int = 15
    rel: int = 0
    reg: int = 0
    raddr_a: int = 0
    ws: int = 0
    waddr_add: int = 39
    waddr_mul: int = 39
    imm: int = 0
    unused: int = 0


@dataclass(frozen=True, slots=True)
class Reserved:
    """A word whose encoding is reserved; kept raw."""

    word: int


Instr: TypeAlias = Alu | LoadImm | Semaphore | Branch | Reserved
