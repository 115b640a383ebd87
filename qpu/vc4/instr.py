"""The instruction classes of VideoCore IV: whole instructions (`Instr`) and halves (`Half`).

Text assembler, builder and decoder make them; encoder, printer, checker and engines take them. The fields of an
instruction have the names and values of the instruction word (docs/hardware/vc4.md 2), because every 64-bit word is an
instruction; the names of registers and operations are in `qpu.vc4.regs` and `qpu.vc4.ops`.

A half is the operation of one ALU with its destination and sources, without read ports, write swap or pm bit;
`qpu.vc4.pairing` makes one instruction of two halves.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from qpu.core.isa import Unit
from qpu.vc4.regs import MUX_A, MUX_B, NOP, File

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
    """Branch (signal 15). imm: low 32 bits, unsigned; unused: bits 59:56, kept so that encoding gives the word back."""

    cond: int = 15
    rel: int = 0
    reg: int = 0
    raddr_a: int = 0
    ws: int = 0
    waddr_add: int = NOP
    waddr_mul: int = NOP
    imm: int = 0
    unused: int = 0

    def target(self, index: int) -> int | None:
        """Index of the instruction that a relative branch at `index` reaches; None when that is not known."""
        if not self.rel or self.reg:
            return None
        offset = self.imm - (1 << 32) if self.imm >> 31 else self.imm
        return None if offset % 8 else index + 4 + offset // 8


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


ACC, A, B, ANY, IMM = Port
_NONE: Final = frozenset[int]()
_MODES: Final = tuple(frozenset((mode,)) for mode in range(8))


def claims(sources: Sequence[Src | None]) -> Claims | None:
    """The read ports that sources need; None when they need two values of one port."""
    a = b = imm = -1
    either: tuple[int, ...] = ()
    for s in sources:
        if s is None:
            continue
        port, n, _ = s
        if port is A:
            if a not in (-1, n):
                return None
            a = n
        elif port is B:
            if b not in (-1, n):
                return None
            b = n
        elif port is IMM:
            if imm not in (-1, n):
                return None
            imm = n
        elif port is ANY and n not in either:
            either += (n,)
    return a, b, imm, either


def _mux(s: Src | None) -> int:
    """The mux of a source; port A where both ports are possible."""
    if s is None:
        return 0
    port, n, _ = s
    return n if port is ACC else MUX_A if port is A or port is ANY else MUX_B


class Half:
    """One operation of one ALU. Immutable, compared and hashed by value.

    op: opcode of the unit, 0 for nop. cond: condition code; None gives "always" to a result that is used and "never" to
    one that is not. rotate: code 48..63 of a rotation of the MUL operands, 0 for none. reads: inputs that are read but
    are not operands. pack, unpack: a mode that is not part of an operand, as (pm, code); text can ask for that.
    """

    __slots__ = (
        "_hash", "a", "b", "claims", "cond", "dst", "either", "imm", "modes", "muxes", "op", "pack", "packs", "push",
        "reads", "rotate", "unit", "unpack", "unpacks", "whole", "ws",
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
        self._hash = 0  # computed on first use
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
        self.ws = -1 if dst.file is None else int(dst.file) if unit is Unit.ADD else 1 - int(dst.file)
        """The write swap that the destination needs; -1 when either will do."""
        self.claims = claims((a, b, *self.reads))
        self.muxes = (_mux(a), _mux(a if b is None else b))
        """Operand muxes; port A for an input that both files have."""
        self.packs = pack if pack is not None else (dst.pm, dst.pack) if dst.pack else None
        files = _NONE if unpack is None or unpack[0] else frozenset((unpack[1],))
        fours = _NONE if unpack is None or not unpack[0] else frozenset((unpack[1],))
        either = whole = False
        for s in (a, b):
            if s is None:
                continue
            port, n, mode = s
            if port is ACC:
                if n < 4:
                    whole = True
                elif n == 4:
                    fours |= _MODES[mode]
            elif port is A:
                if n < 32:
                    files |= _MODES[mode]
            elif port is ANY:
                either = True
        self.either = either
        self.whole = whole
        """A rotation of these operands moves all 16 lanes; others rotate within quads."""
        self.imm = rotate > 0 or (self.claims is not None and self.claims[2] >= 0)
        self.unpacks = (files, fours)
        """Unpack modes needed for register file A (pm = 0) and for r4 (pm = 1); 0 is the plain value."""
        self.modes = self.packs is not None or any(files) or any(fours)
        """Whether the half packs or unpacks."""

    @property
    def _key(self) -> tuple[object, ...]:
        return (
            self.unit, self.op, self.dst, self.a, self.b, self.cond, self.push, self.rotate, self.reads, self.pack,
            self.unpack,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Half) and self._key == other._key)

    def __hash__(self) -> int:
        if not self._hash:
            self._hash = hash(self._key) or 1
        return self._hash

    def __repr__(self) -> str:
        return f"Half{self._key}"
