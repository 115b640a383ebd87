"""The instruction of VideoCore IV, and the half: what builder, text and decoder make, and everything else takes.

`Instr` is one whole instruction. Fields carry the names and values of the instruction word
(docs/hardware/vc4.md 2), because every 64-bit word is an instruction; `qpu.vc4.regs` and `qpu.vc4.ops` have the names.

`Half` is the work of one ALU before it shares an instruction: operation, destination and sources, without read ports,
write swap or pm bit. `qpu.vc4.pairing` makes one instruction of two halves.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from qpu.core.isa import Unit
from qpu.vc4.regs import NOP, File

__all__ = [
    "NO_DST", "Alu", "Branch", "Claims", "Dst", "Half", "Instr", "LoadImm", "LoadMode", "Port", "Reserved", "Semaphore",
    "Src", "claims",
]  # fmt: skip


class LoadMode(enum.IntEnum):
    """Variant of a load immediate (bits 59:57)."""

    WORD = 0
    PER_ELEMENT_SIGNED = 1
    PER_ELEMENT_UNSIGNED = 3


class Alu(NamedTuple):
    """ALU instruction, signals 0..13. With sig 13 `raddr_b` is the small-immediate code."""

    sig: int = 1
    unpack: int = 0
    pm: int = 0
    pack: int = 0
    cond_add: int = 0
    cond_mul: int = 0
    sf: int = 0
    ws: int = 0
    waddr_add: int = NOP
    waddr_mul: int = NOP
    op_mul: int = 0
    op_add: int = 0
    raddr_a: int = NOP
    raddr_b: int = NOP
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
    waddr_add: int = NOP
    waddr_mul: int = NOP
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
    waddr_add: int = NOP
    waddr_mul: int = NOP
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
    waddr_add: int = NOP
    waddr_mul: int = NOP
    imm: int = 0
    unused: int = 0


@dataclass(frozen=True, slots=True)
class Reserved:
    """A word whose encoding is reserved; kept raw."""

    word: int


Instr: TypeAlias = Alu | LoadImm | Semaphore | Branch | Reserved


# -- halves


class Port(enum.IntEnum):
    """How a source reaches an ALU."""

    ACC = 0  # an accumulator: no port
    A = 1  # through the read port of register file A
    B = 2
    ANY = 3  # through either port: the address means the same in both files
    IMM = 4  # a small immediate, which takes port B and the signal field


class Src(NamedTuple):
    """A source. n: mux of an accumulator (0..5), address of a register, code 0..47 of a small immediate."""

    port: Port
    n: int
    unpack: int = 0


class Dst(NamedTuple):
    """A destination. n: address. file: the register file it needs, None when both do. pm = 1: the MUL result's pack."""

    n: int = NOP
    file: File | None = None
    pack: int = 0
    pm: int = 0


NO_DST: Final = Dst()


Claims: TypeAlias = tuple[int, int, int, tuple[int, ...]]
"""Address through port A, through port B, constant (-1: none), addresses through either port."""


def claims(sources: Sequence[Src]) -> Claims | None:
    """What sources want of the read ports; None when they want two things of one port."""
    a = b = imm = -1
    either: tuple[int, ...] = ()
    for port, n, _ in sources:
        if port is Port.A:
            if a not in (-1, n):
                return None
            a = n
        elif port is Port.B:
            if b not in (-1, n):
                return None
            b = n
        elif port is Port.IMM:
            if imm not in (-1, n):
                return None
            imm = n
        elif port is Port.ANY and n not in either:
            either += (n,)
    return a, b, imm, either


class Half:
    """One operation of one ALU. Immutable; equal halves are equal and hash alike.

    op: opcode of the unit, 0 for nop. cond: condition code; None gives "always" to a result that is used and "never" to
    one that is not. rotate: code 48..63 of a rotation of the MUL operands, 0 for none. reads: inputs that are named but
    not operands. pack, unpack: a mode that no operand carries, as (pm, code); the text language can say that.
    """

    __slots__ = (
        "_hash", "_key", "a", "b", "claims", "cond", "dst", "imm", "modes", "op", "pack", "packs", "push", "reads",
        "rotate", "unit", "unpack", "unpacks", "whole",
    )  # fmt: skip

    def __init__(
        self,
        unit: Unit,
        op: int = 0,
        dst: Dst = NO_DST,
        a: Src | None = None,
        b: Src | None = None,
        *,
        cond: int | None = None,
        push: bool = False,
        rotate: int = 0,
        reads: Sequence[Src] = (),
        pack: tuple[int, int] | None = None,
        unpack: tuple[int, int] | None = None,
    ) -> None:
        self.unit = unit
        self.op = op
        self.dst = dst
        self.a = a
        self.b = b
        self.cond = int(push or dst.n != NOP) if cond is None else cond
        self.push = push
        self.rotate = rotate
        self.reads = tuple(reads)
        self.pack = pack
        self.unpack = unpack
        self._key = (unit, op, dst, a, b, self.cond, push, rotate, self.reads, pack, unpack)
        self._hash = hash(self._key)
        # what pairing asks for
        operands = [s for s in (a, b) if s is not None]
        self.claims = claims((*operands, *self.reads))
        self.imm = rotate > 0 or any(s.port is Port.IMM for s in (*operands, *self.reads))
        self.whole = any(s.port is Port.ACC and s.n < 4 for s in operands)
        """A rotation of these operands moves all 16 lanes; others rotate within quads."""
        self.packs = pack if pack is not None else (dst.pm, dst.pack) if dst.pack else None
        found: tuple[set[int], set[int]] = (set(), set())
        if unpack is not None:
            found[unpack[0]].add(unpack[1])
        for s in operands:
            if s.port is Port.A and s.n < 32:
                found[0].add(s.unpack)
            elif s.port is Port.ACC and s.n == 4:
                found[1].add(s.unpack)
        self.unpacks: tuple[frozenset[int], frozenset[int]] = (frozenset(found[0]), frozenset(found[1]))
        """Unpack modes wanted of register file A (pm = 0) and of r4 (pm = 1); 0 is the plain value."""
        self.modes = self.packs is not None or any(found[0]) or any(found[1])
        """Whether the half packs or unpacks."""

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Half) and self._key == other._key)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Half{self._key}"
