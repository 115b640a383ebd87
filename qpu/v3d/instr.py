"""The instruction classes of V3D 4.2 and 7.1: unpacked instructions, halves and operands.

Text assembler, builders and decoder make them; encoder, printer, checker and engines take them. The classes are named
tuples: immutable, compared and hashed by value in C, which the caches of encoder, pairing and decoder rely on.
``half._replace(cond="ifa")`` makes a changed copy.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

from qpu.core.isa import BRANCH_SLOTS, Isa
from qpu.core.optable import Op
from qpu.v3d.regs import Sig

__all__ = ["Alu", "AluHalf", "Branch", "Dst", "Instr", "Sig", "Src", "SrcKind"]


class SrcKind(enum.IntEnum):
    """Where a source operand comes from."""

    RF = 0  # register file, n = 0..63
    ACC = 1  # accumulator r0..r5, 4.2 only
    IMM = 2  # small immediate, n = its index 0..47 (48..63 decode, but have no value)

    __hash__ = int.__hash__  # the hash of enumerations is a Python function, which is slower


class Src(NamedTuple):
    """A source operand. mod: input modifier as printed without its dot (``abs l h ff ll hh swp ul ...``) or empty.

    port_b: on 4.2, when both read ports name register n, this operand is read through the second. That matters for
    the word only, and where the operand order selects one of two operations.
    """

    kind: SrcKind
    n: int
    mod: str = ""
    port_b: bool = False


class Dst(NamedTuple):
    """A destination: register rf[n], or magic address n."""

    n: int
    magic: bool = False


class AluHalf(NamedTuple):
    """The operation of one ALU. dst is None for operations without a destination (stvpm*).

    pack: output modifier ``l``, ``h`` or empty. cond: ``ifa ifb ifna ifnb`` or empty. push: ``pushz pushn pushc`` or
    empty. update: ``andz`` ... ``norc`` or empty.
    """

    op: Op
    dst: Dst | None
    a: Src | None = None
    b: Src | None = None
    pack: str = ""
    cond: str = ""
    push: str = ""
    update: str = ""


class Alu(NamedTuple):
    """An ALU instruction.

    sig_dst: destination of a signal that names one. raddr_a, raddr_b: on 4.2 the two read ports as encoded (an
    operand of kind RF always equals one of them; raddr_b is also the rotation or immediate index). On 7.1 they are
    the bits of the fields `raddr_a` and `raddr_c` where a half has no sources, else 0.
    """

    isa: Isa
    add: AluHalf
    mul: AluHalf
    sig: Sig = Sig.NONE
    sig_dst: Dst | None = None
    raddr_a: int = 0
    raddr_b: int = 0


class Branch(NamedTuple):
    """A branch. cond: ``"" a0 na0 alla anyna anya allna``; msfign: ``"" p q``; bdi, bdu: ``abs rel lri rf``.

    offset: unsigned 32-bit byte offset or address, 0 unless bdi is abs or rel. raddr_a: register of bdi or bdu
    ``rf``, else 0. bdu is empty without ub. link: also set the link register (bit 23).
    """

    isa: Isa
    cond: str = ""
    msfign: str = ""
    bdi: str = "rel"
    offset: int = 0
    ub: bool = False
    bdu: str = ""
    raddr_a: int = 0
    link: bool = False

    @property
    def distance(self) -> int:
        """The offset of a relative branch as a signed number."""
        return self.offset - (1 << 32) if self.offset >> 31 else self.offset

    def target(self, index: int) -> int | None:
        """Index of the instruction that a relative branch at `index` reaches; None for others."""
        return index + 1 + BRANCH_SLOTS + self.distance // 8 if self.bdi == "rel" else None


Instr: TypeAlias = Alu | Branch
