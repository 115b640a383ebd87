"""Destination addresses of V3D 4.2 and 7.1: names, groups, and the small immediates.

Source: the register tables of Mesa's QPU encoder (`Basis.DRIVER`); the broadcast destinations r5, r5rep, quad and rep
were confirmed by the device tests of py-videocore6 and py-videocore7 (`Basis.MEASURED`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from qpu.core.isa import Isa

__all__ = [
    "ALIASES",
    "COUNTS",
    "MAGIC",
    "MAGIC_NUMBER",
    "NOP",
    "R5REP",
    "RESERVED_71",
    "RF_COUNT",
    "SFU_MAGIC",
    "SFU_WRITES",
    "SYNC_WRITES",
    "TLB_WRITES",
    "TMU_WRITES",
    "UNIFORM_WRITES",
    "VPM_WRITES",
    "imm_bits",
    "imm_index",
    "magic_name",
]

RF_COUNT: Final = 64

_SHARED: Final[dict[int, str]] = {
    6: "-",
    7: "tlb",
    8: "tlbu",
    9: "unifa",
    10: "tmul",
    11: "tmud",
    12: "tmua",
    13: "tmuau",
    14: "vpm",
    15: "vpmu",
    16: "sync",
    17: "syncu",
    18: "syncb",
    19: "recip",
    20: "rsqrt",
    21: "exp",
    22: "log",
    23: "sin",
    24: "rsqrt2",
    32: "tmuc",
    33: "tmus",
    34: "tmut",
    35: "tmur",
    36: "tmui",
    37: "tmub",
    38: "tmudref",
    39: "tmuoff",
    40: "tmuscm",
    41: "tmusf",
    42: "tmuslod",
    43: "tmuhs",
    44: "tmuhscm",
    45: "tmuhsf",
    46: "tmuhslod",
}
_ACC: Final[dict[int, str]] = {n: f"r{n}" for n in range(5)}

# Number -> name as printed. On 7.1 the numbers 0..4 and 19..24 are reserved; they print with their 4.2 names.
MAGIC: Final[Mapping[Isa, Mapping[int, str]]] = MappingProxyType(
    {
        Isa.V3D42: MappingProxyType({**_ACC, 5: "r5", **_SHARED, 55: "r5rep"}),
        Isa.V3D71: MappingProxyType({**_ACC, 5: "quad", **_SHARED, 55: "rep"}),
    }
)
# Further names the text assembler takes.
ALIASES: Final[Mapping[str, int]] = MappingProxyType({"nop": 6, "null": 6})
# Name -> number, aliases included.
MAGIC_NUMBER: Final[Mapping[Isa, Mapping[str, int]]] = MappingProxyType(
    {isa: MappingProxyType({**{name: n for n, name in names.items()}, **ALIASES}) for isa, names in MAGIC.items()}
)
RESERVED_71: Final = frozenset({0, 1, 2, 3, 4, 19, 20, 21, 22, 23, 24})

NOP: Final = 6
R5REP: Final = 55

TMU_WRITES: Final = frozenset({11, 12, 13, *range(32, 47)})
SFU_WRITES: Final = frozenset(range(19, 25))
VPM_WRITES: Final = frozenset({14, 15})
TLB_WRITES: Final = frozenset({7, 8})
SYNC_WRITES: Final = frozenset({16, 17, 18})
UNIFORM_WRITES: Final = frozenset({8, 13, 15, 17})  # take a configuration word from the uniform stream
# 4.2: destinations 19..24 start the operation of this name; its result appears in r4.
SFU_MAGIC: Final[Mapping[int, str]] = MappingProxyType({n: _SHARED[n] for n in SFU_WRITES})

# How many of the "one per instruction" peripherals a destination counts as, by number (validity rule 2).
COUNTS: Final = tuple(
    int(n in TMU_WRITES or n in SFU_WRITES or n in VPM_WRITES or n in TLB_WRITES or n in SYNC_WRITES) for n in range(64)
)


def magic_name(isa: Isa, n: int) -> str | None:
    """The name of magic address n as printed, or None where there is none."""
    return MAGIC[isa].get(n)


_IMM_BITS: Final = tuple(
    i if i < 16 else (i - 32) & 0xFFFFFFFF if i < 32 else 0x3B800000 + ((i - 32) << 23) for i in range(48)
)
_IMM_INDEX: Final = {bits: i for i, bits in enumerate(_IMM_BITS)}
_IMM_FLOAT: Final = {2.0 ** (i - 40): i for i in range(32, 48)}


def imm_bits(index: int) -> int:
    """The 32-bit pattern of small immediate `index`, 0..47. Raises: ValueError (48..63 are reserved)."""
    if not 0 <= index < 48:
        raise ValueError(f"small immediate {index} is reserved; 0..47 have a value")
    return _IMM_BITS[index]


def imm_index(value: int | float) -> int | None:
    """The index of a small immediate, or None where there is none.

    Integers -16..15 or the 32-bit pattern of any immediate; floats 2**-8, 2**-7, ... 2**7 and 0.0 (not -0.0). 1.0
    is index 40, the integer 1 is index 1.
    """
    if isinstance(value, float):
        if value == 0.0:
            return 0 if math.copysign(1.0, value) > 0 else None
        return _IMM_FLOAT.get(value)
    if -16 <= value < 0:
        return value + 32
    return _IMM_INDEX.get(value)
