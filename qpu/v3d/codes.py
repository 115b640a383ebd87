"""Fields and code tables of the instruction words of V3D 4.2 and 7.1, which encoder, decoder and texts share.

Source of every layout and table here: Mesa's QPU encoder (`Basis.DRIVER`); the link bit of branches was found by the
py-videocore6 and py-videocore7 device tests (`Basis.MEASURED`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from qpu.core.bits import Layout
from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op
from qpu.v3d.instr import Sig
from qpu.v3d.ops import code_of, table, variants
from qpu.v3d.regs import SIGNAL_ROWS, SIGNALS

__all__ = [
    "ALU_42",
    "ALU_71",
    "BDI",
    "BRANCH",
    "BRANCH_CONDS",
    "BRANCH_COND_NAMES",
    "CONDS",
    "COND_ALLOWED",
    "COND_CODE",
    "COND_KEYS",
    "IMM_BITS",
    "IMM_MASK",
    "IMM_SIGS",
    "MSFIGN",
    "NOP_WORD",
    "PUSHES",
    "SIGNALS",
    "SIG_CODE",
    "UPDATES",
    "WRITING_SIGS",
    "CondKey",
    "Entry",
    "Pair",
    "cond_field",
    "pair_42",
    "pair_71",
    "sig_names",
    "tables",
]

ALU_42: Final = Layout(
    "op_mul:6 sig:5 cond:7 mm:1 ma:1 waddr_m:6 waddr_a:6 op_add:8 mul_b:3 mul_a:3 add_b:3 add_a:3 raddr_a:6 raddr_b:6"
)
ALU_71: Final = Layout(
    "op_mul:6 sig:5 cond:7 mm:1 ma:1 waddr_m:6 waddr_a:6 op_add:8 raddr_c:6 raddr_d:6 raddr_a:6 raddr_b:6"
)
BRANCH: Final = Layout(
    "op_mul:6 kind:2 addr_lo:21 cond:3 addr_hi:8 link:1 msfign:2 zero1:3 bdu:3 ub:1 bdi:2 raddr_a:6 zero0:6"
)

NOP_WORD: Final[Mapping[Isa, int]] = MappingProxyType({Isa.V3D42: 0x3C003186BB800000, Isa.V3D71: 0x38003186BB03F000})

# -- signals ----------------------------------------------------------------------------------------------------------

SIG_CODE: Final[Mapping[Isa, Mapping[Sig, int]]] = MappingProxyType(
    {isa: MappingProxyType({s: i for i, s in enumerate(row) if s is not None}) for isa, row in SIGNALS.items()}
)
# Signals that write an address of their own; they take the condition field.
WRITING_SIGS: Final = Sig(sum(row.bit for row in SIGNAL_ROWS if row.names_destination))
IMM_SIGS: Final = (Sig.IMM_A, Sig.IMM_B, Sig.IMM_C, Sig.IMM_D)
IMM_BITS: Final = tuple(int(sig) for sig in IMM_SIGS)
IMM_MASK: Final = int(Sig.IMM_A | Sig.IMM_B | Sig.IMM_C | Sig.IMM_D)

# -- conditions -------------------------------------------------------------------------------------------------------

CONDS: Final = ("ifa", "ifb", "ifna", "ifnb")
PUSHES: Final = ("", "pushz", "pushn", "pushc")
UPDATES: Final = ("andz", "andnz", "nornz", "norz", "andn", "andnn", "nornn", "norn", "andc", "andnc", "nornc", "norc")
BRANCH_CONDS: Final[Mapping[str, int]] = MappingProxyType(
    {"": 0, "a0": 2, "na0": 3, "alla": 4, "anyna": 5, "anya": 6, "allna": 7}
)
BRANCH_COND_NAMES: Final = ("", "", "a0", "na0", "alla", "anyna", "anya", "allna")
MSFIGN: Final = ("", "p", "q")
BDI: Final = ("abs", "rel", "lri", "rf")

# (add cond, add push, add update, mul cond, mul push, mul update)
CondKey = tuple[str, str, str, str, str, str]


def _cond_decode(field: int) -> CondKey | None:
    if field == 0:
        return "", "", "", "", "", ""
    if field < 0b0010000:
        return ("", PUSHES[field], "", "", "", "") if field < 4 else ("", "", UPDATES[field - 4], "", "", "")
    if field < 0b0100000:
        low = field & 15
        if low == 0:
            return None
        return ("", "", "", "", PUSHES[low], "") if low < 4 else ("", "", "", "", "", UPDATES[low - 4])
    if field < 0b0110000:
        return CONDS[field >> 2 & 3], "", "", "", PUSHES[field & 3], ""
    if field < 0b1000000:
        return "", PUSHES[field & 3], "", CONDS[field >> 2 & 3], "", ""
    low, mul = field & 15, CONDS[field >> 4 & 3]
    return (CONDS[low], "", "", mul, "", "") if low < 4 else ("", "", UPDATES[low - 4], mul, "", "")


COND_KEYS: Final = tuple(_cond_decode(f) for f in range(128))
COND_CODE: Final[Mapping[CondKey, int]] = {key: f for f, key in enumerate(COND_KEYS) if key is not None}
COND_ALLOWED: Final = (
    "one flag push or update per instruction; a condition together with a push of the other half only, "
    "an add update together with a mul condition; no others"
)


def sig_names(sig: Sig) -> str:
    """Names of a set of signals, for messages."""
    return " ".join(s.name.lower() for s in Sig if s & sig and s.name is not None)


def cond_field(key: CondKey) -> int | None:
    """The condition field of (add cond, push, update, mul cond, push, update), or None where it cannot be encoded."""
    return COND_CODE.get(key)


# -- tables -----------------------------------------------------------------------------------------------------------


class Entry:
    """One row at one combination of modifiers, as the decoder finds it."""

    __slots__ = ("a", "arity", "b", "has_dst", "magic", "op", "pack", "waddr")

    def __init__(self, op: Op, a: str, b: str, pack: str, magic: int | None, waddr: int | None) -> None:
        self.op, self.a, self.b, self.pack = op, a, b, pack
        self.magic, self.waddr = magic, waddr
        self.arity = op.arity
        self.has_dst = op.operand("d") is not None


# Per opcode: by sub-opcodes (second operand field, first operand field), None where that field is an operand.
Slot = dict[tuple[int | None, int | None], list[Entry]]
EncodeKey = tuple[Op, str, str, str]  # operation, modifier of a, of b, output modifier


class Tables:
    """Encode and decode tables of one unit of one instruction set."""

    __slots__ = ("decode", "encode", "rows")

    def __init__(self, isa: Isa, unit: Unit) -> None:
        add = unit is Unit.ADD
        v42 = isa is Isa.V3D42
        fields = ALU_42 if v42 else ALU_71
        op_field = fields["op_add" if add else "op_mul"]
        if v42:
            a_field, b_field = (fields["add_a"], fields["add_b"]) if add else (fields["mul_a"], fields["mul_b"])
        else:
            a_field, b_field = (fields["raddr_a"], fields["raddr_b"]) if add else (fields["raddr_c"], fields["raddr_d"])
        waddr_field, magic_field = fields["waddr_a" if add else "waddr_m"], fields["ma" if add else "mm"]
        self.decode: list[Slot | None] = [None] * (op_field.max + 1)
        self.encode: dict[EncodeKey, int] = {}
        # the same by identity, with what else the encoder asks: bits, sources, has a destination, writes registers only
        self.rows: dict[tuple[int, str, str, str], tuple[int, int, bool, bool]] = {}
        for op in table(isa):
            code = code_of(op, isa, unit)
            if code is None:
                continue
            arity, has_dst = op.arity, op.operand("d") is not None
            for a, b, pack, d_op, d_sub in variants(op, isa, unit):
                number = code.op + d_op
                sub_a, sub_b = code.a, code.b
                # the output modifier of a 4.2 operation without sources counts in its first field
                if v42 and op.arity == 0 and sub_a is not None:
                    sub_a += d_sub
                elif sub_b is not None:
                    sub_b += d_sub
                bits = op_field.put(number) | a_field.put(sub_a or 0) | b_field.put(sub_b or 0)
                bits |= waddr_field.put(code.waddr or 0) | magic_field.put(code.magic or 0)
                self.encode[op, a, b, pack] = bits
                self.rows[id(op), a, b, pack] = bits, arity, has_dst, code.magic is not None
                slot = self.decode[number]
                if slot is None:
                    slot = self.decode[number] = {}
                slot.setdefault((sub_b, sub_a), []).append(Entry(op, a, b, pack, code.magic, code.waddr))

    def find(self, number: int, sub_b: int, sub_a: int) -> list[Entry] | None:
        """Candidates for an opcode and its two operand fields."""
        slot = self.decode[number]
        if slot is None:
            return None
        return slot.get((None, None)) or slot.get((sub_b, None)) or slot.get((sub_b, sub_a))


@cache
def tables(isa: Isa, unit: Unit) -> Tables:
    """Built on first use, then shared; never changed."""
    return Tables(isa, unit)


class Pair:
    """The tables of both units of one instruction set, found without hashing."""

    __slots__ = ("add", "isa", "mul", "sig_bits", "signals")

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self.add, self.mul = tables(isa, Unit.ADD), tables(isa, Unit.MUL)
        self.sig_bits = {int(sig): n << 53 for sig, n in SIG_CODE[isa].items()}
        # by number: the set, as an integer, and whether it writes an address
        self.signals = [None if sig is None else (sig, int(sig), bool(sig & WRITING_SIGS)) for sig in SIGNALS[isa]]


@cache
def pair_42() -> Pair:
    return Pair(Isa.V3D42)


@cache
def pair_71() -> Pair:
    return Pair(Isa.V3D71)
