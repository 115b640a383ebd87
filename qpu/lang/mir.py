"""MIR: operations of one instruction set on virtual registers, in basic blocks.

An operation names a row of the assembler's table. Registers are numbers; immediates and places that the hardware fixes
(payload, peripherals) are `Imm` and `Fixed`. A conditional write keeps the rest of its destination, so it reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from qpu.errors import Loc

__all__ = ["Block", "Fixed", "Function", "Imm", "MOp", "Operand", "copied"]


class Imm(NamedTuple):
    """A small immediate by its index."""

    n: int


class Fixed(NamedTuple):
    """A place that is not ours to choose. kind: "rf", "acc", "magic" (V3D), "a", "b", "io" (VideoCore IV)."""

    kind: str
    n: int


Operand: TypeAlias = int | Imm | Fixed

UNPACKS: Final = ("8a", "8b", "8c", "8d")
"""Bytes of a register of file A as `MOp.amod` names them (VideoCore IV)."""
STREAM: Final = Fixed("io", 32)
"""The next uniform as an operand (VideoCore IV)."""


class MOp:
    """One operation. op: row name, empty for a signal alone. sig: signal bits, sig_dst: what the signal writes.

    role: "copy" (may vanish), "request" (a load's address; `words` results follow), "store" (a store's address), "data"
    (a word to store), "config" (TMU configuration), "pop" (takes a result), "uniform" (takes the uniform `uniform`),
    "stream" (begins or reads a stream), "payload" (reads what the launch left in a register), "lanes" (`and` of which
    one operand is 0 or -1 in each lane; the mul ALU of VideoCore IV has it as `v8min`). rot: rotation of a mul
    operand on 4.2. byte: configuration of a request, or the constant of "ldi". fixed: may not move to the other ALU.
    type: of the value that it is for, as of KIR, where that is known.
    """

    __slots__ = (
        "a", "amod", "b", "bmod", "byte", "cond", "dst", "loc", "op", "pack", "push", "rf_only", "role", "rot", "sig",
        "sig_dst", "type", "uniform", "update", "words",
    )  # fmt: skip

    def __init__(
        self,
        op: str,
        dst: Operand | None = None,
        a: Operand | None = None,
        b: Operand | None = None,
        *,
        cond: str = "",
        push: str = "",
        update: str = "",
        amod: str = "",
        bmod: str = "",
        pack: str = "",
        sig: int = 0,
        sig_dst: Operand | None = None,
        rot: int | None = None,
        role: str = "",
        words: int = 0,
        byte: int = 0xFF,
        uniform: tuple[str, object] | None = None,
        rf_only: bool = False,
        loc: Loc | None = None,
    ) -> None:
        self.op, self.dst, self.a, self.b = op, dst, a, b
        self.cond, self.push, self.update = cond, push, update
        self.amod, self.bmod, self.pack = amod, bmod, pack
        self.sig, self.sig_dst, self.rot = sig, sig_dst, rot
        self.role, self.words, self.byte, self.uniform = role, words, byte, uniform
        self.rf_only = rf_only
        self.loc = loc
        self.type = ""

    def copy(self) -> MOp:
        """The same operation, to be changed."""
        made = MOp(self.op, self.dst, self.a, self.b)
        made.cond, made.push, made.update = self.cond, self.push, self.update
        made.amod, made.bmod, made.pack = self.amod, self.bmod, self.pack
        made.sig, made.sig_dst, made.rot = self.sig, self.sig_dst, self.rot
        made.role, made.words, made.byte, made.uniform = self.role, self.words, self.byte, self.uniform
        made.rf_only, made.loc, made.type = self.rf_only, self.loc, self.type
        return made

    def sources(self) -> list[int]:
        """Registers among the operands."""
        return [x for x in (self.a, self.b) if type(x) is int]

    def reads(self) -> list[int]:
        """Registers whose earlier value matters."""
        found = self.sources()
        if (self.cond or self.pack) and type(self.dst) is int:
            found.append(self.dst)
        return found

    def writes(self) -> list[int]:
        """Registers that are written, wholly or in part."""
        return [x for x in (self.dst, self.sig_dst) if type(x) is int]

    def __repr__(self) -> str:
        parts = [self.op or "-", self.cond, self.push, self.update]
        operands = ", ".join(str(x) for x in (self.dst, self.a, self.b) if x is not None)
        signal = f" sig={self.sig:#x}->{self.sig_dst}" if self.sig else ""
        return ".".join(p for p in parts if p) + f" {operands}{signal} {self.role}".rstrip()


@dataclass(slots=True, eq=False)
class Block:
    """Operations in order, then perhaps a branch. depth: loops around it. branch: target and condition ("" always).
    pending: result words of the TMU that were asked for before it.
    """

    name: str
    depth: int = 0
    ops: list[MOp] = field(default_factory=list)
    branch: tuple[Block, str] | None = None
    falls: Block | None = None
    pending: int = 0
    loc: Loc | None = None

    @property
    def successors(self) -> list[Block]:
        """Blocks that may be next."""
        found = [] if self.branch is None else [self.branch[0]]
        if self.falls is not None:
            found.append(self.falls)
        return found

    def __repr__(self) -> str:
        return f"<block {self.name}: {len(self.ops)}>"


@dataclass(slots=True)
class Function:
    """A program. blocks: in order of layout, the first is the entry. registers: how many virtual ones there are."""

    blocks: list[Block]
    registers: int

    def ops(self) -> Iterator[MOp]:
        """All operations in order."""
        for block in self.blocks:
            yield from block.ops


def copied(function: Function) -> Function:
    """The same function, which later passes do not change."""
    blocks = {
        b: Block(b.name, b.depth, [m.copy() for m in b.ops], pending=b.pending, loc=b.loc) for b in function.blocks
    }
    for old, new in blocks.items():
        new.branch = old.branch and (blocks[old.branch[0]], old.branch[1])
        new.falls = old.falls and blocks[old.falls]
    return Function(list(blocks.values()), function.registers)


class OutOfRegisters(Exception):
    """More values are live than there are registers. registers: those that found no place."""

    def __init__(self, registers: list[int]) -> None:
        super().__init__(registers)
        self.registers = registers
