"""Layouts and code tables of the instruction words of V3D 4.2 and 7.1, for encoder, decoder, printer and parser.

Source of every layout and table here: Mesa's QPU encoder (`Basis.DRIVER`); the link bit of branches was found by the
py-videocore6 and py-videocore7 device tests (`Basis.MEASURED`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from qpu.core.bits import Layout
from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op
from qpu.v3d.instr import Sig
from qpu.v3d.ops import Variant, code_of, variants
from qpu.v3d.regs import SIGNAL_ROWS, SIGNALS

__all__ = [
    "ALU_42", "ALU_71", "BDI", "BRANCH", "BRANCH_CONDS", "BRANCH_COND_NAMES", "CONDS", "COND_CODE",
    "COND_KEYS", "COND_PAIRS", "HALF_CONDS", "HALF_COND_ID", "IMM_BITS", "IMM_MASK", "IMM_SIGS", "MSFIGN", "PUSHES",
    "SIGNALS", "SIG_NUMBERS", "UPDATES", "WRITING_SIGS", "CondKey", "cond_field", "sig_names", "sub_codes",
]  # fmt: skip

ALU_42: Final = Layout(
    "op_mul:6 sig:5 cond:7 mm:1 ma:1 waddr_m:6 waddr_a:6 op_add:8 mul_b:3 mul_a:3 add_b:3 add_a:3 raddr_a:6 raddr_b:6"
)
ALU_71: Final = Layout(
    "op_mul:6 sig:5 cond:7 mm:1 ma:1 waddr_m:6 waddr_a:6 op_add:8 raddr_c:6 raddr_d:6 raddr_a:6 raddr_b:6"
)
BRANCH: Final = Layout(
    "op_mul:6 kind:2 addr_lo:21 cond:3 addr_hi:8 link:1 msfign:2 zero1:3 bdu:3 ub:1 bdi:2 raddr_a:6 zero0:6"
)

# -- signals ----------------------------------------------------------------------------------------------------------

SIG_NUMBERS: Final[Mapping[Isa, Mapping[int, int]]] = MappingProxyType(
    {isa: {int(sig): i for i, sig in enumerate(row) if sig is not None} for isa, row in SIGNALS.items()}
)
"""Number of each set of signals; plain dictionaries, since encoder and pairing ask for every instruction."""
# Signals with a destination, which takes the condition field.
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


# Condition, push or update of one half by number (0: none); a word holds the pair of both halves.
HALF_CONDS: Final[tuple[tuple[str, str, str], ...]] = (
    ("", "", ""),
    *((c, "", "") for c in CONDS),
    *(("", p, "") for p in PUSHES[1:]),
    *(("", "", u) for u in UPDATES),
)
HALF_COND_ID: Final[Mapping[tuple[str, str, str], int]] = {key: i for i, key in enumerate(HALF_CONDS)}
COND_PAIRS: Final = tuple(COND_CODE.get((*add, *mul), -1) for add in HALF_CONDS for mul in HALF_CONDS)
"""The condition field of a pair, by number of the add half * len(HALF_CONDS) + number of the mul half; -1: none."""


def cond_field(key: CondKey) -> int | None:
    """The condition field of (add cond, push, update, mul cond, push, update), or None where it cannot be encoded."""
    return COND_CODE.get(key)


def sig_names(sig: int) -> str:
    """Names of a set of signals, for messages."""
    return " ".join(s.name.lower() for s in Sig if s & sig and s.name is not None)


# -- tables -----------------------------------------------------------------------------------------------------------


def sub_codes(op: Op, isa: Isa, unit: Unit) -> Iterator[tuple[Variant, int, int | None, int | None]]:
    """Per combination of modifiers: opcode, and the sub-opcodes in the fields of operand a and b (None: an operand)."""
    code = code_of(op, isa, unit)
    if code is None:
        return
    for variant in variants(op, isa, unit):
        sub_a, sub_b = code.a, code.b
        # the output modifier of a 4.2 operation without sources counts in its first field
        if isa is Isa.V3D42 and op.arity == 0 and sub_a is not None:
            sub_a += variant[4]
        elif sub_b is not None:
            sub_b += variant[4]
        yield variant, code.op + variant[3], sub_a, sub_b
