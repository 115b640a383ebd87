"""Tables of the magic destinations and signals of V3D 4.2 and 7.1, one row each, and the small immediates.

Encoder, printer, parser, builder, checker, emulator and documents read these rows. A new signal also needs its place
in `_SETS`.

Source: the register and signal tables of Mesa's QPU encoder (`Basis.DRIVER`); the broadcast destinations r5, r5rep,
quad and rep: device tests of py-videocore6 and py-videocore7 (`Basis.MEASURED`). Reference: v3d.md 3 and 5.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from qpu.core.isa import Isa
from qpu.core.optable import MagicRow, SignalRow, Token
from qpu.errors import UsageError
from qpu.v3d.rules import RULES

__all__ = [
    "ALIASES", "MAGIC", "MAGIC_NUMBER", "MAGIC_ROWS", "NOP", "PERIPHERAL_KINDS", "R5REP", "RF_COUNT", "SIGNALS",
    "SIGNAL_ROWS", "TMU_KINDS", "Sig", "imm_bits", "imm_index", "magic", "magic_kind", "magic_name", "signal_rows",
]  # fmt: skip

RF_COUNT: Final = 64
NOP: Final = 6
R5REP: Final = 55

_42: Final = frozenset({Isa.V3D42})
_71: Final = frozenset({Isa.V3D71})
_BOTH: Final = _42 | _71
_SFU: Final = RULES["sfu-r4-read"].windows[0].distance + 1

# -- signals ----------------------------------------------------------------------------------------------------------


class Sig(enum.IntFlag):
    """A set of signals. `IMM_*`: the operand slot (add a, add b, mul a, mul b) that is the small immediate."""

    NONE = 0
    THRSW = 1
    LDUNIF = 2
    LDTMU = 4
    LDVARY = 8
    LDUNIFRF = 16
    LDTLB = 32
    LDTLBU = 64
    WRTMUC = 128
    UCB = 256
    ROT = 512
    LDUNIFA = 1024
    LDUNIFARF = 2048
    IMM_A = 4096
    IMM_B = 8192  # on 4.2 the one small immediate, readable by all four operands
    IMM_C = 16384
    IMM_D = 32768


def _s(
    name: str, bit: Sig, isas: frozenset[Isa], dest: str, stream: str, words: int, tokens: str, doc: str,
    *, kind: str = "", writes: tuple[str, ...] = (), graphics: bool = False,
) -> SignalRow:  # fmt: skip
    order = frozenset(map(Token, tokens.split()))
    return SignalRow(name, int(bit), isas, dest, stream, words, order, doc, kind, writes, graphics)


_FS = "Fragment shaders only."

SIGNAL_ROWS: Final[tuple[SignalRow, ...]] = (
    # name, bit, chips, destination, stream, words, tokens, what it does
    _s("thrsw", Sig.THRSW, _BOTH, "", "", 0, "", "Thread switch after two more instructions."),
    _s("ldvary", Sig.LDVARY, _BOTH, "named implicit", "varying", 0, "varying",
       f"Next varying to d, its coefficient to r5 (7.1: rf0). {_FS}", graphics=True),
    _s("ldtmu", Sig.LDTMU, _BOTH, "named", "tmu", 0, "tmu_result", "Next TMU result vector to d; waits for it."),
    _s("ldtlb", Sig.LDTLB, _BOTH, "named", "tlb", 0, "tlb", f"Tile buffer read to d. {_FS}", graphics=True),
    _s("ldtlbu", Sig.LDTLBU, _BOTH, "named", "tlb", 1, "tlb uniform",
       f"Tile buffer read, configured by a uniform, to d. {_FS}", graphics=True),
    _s("ldunif", Sig.LDUNIF, _BOTH, "implicit", "uniform", 1, "uniform", "Next uniform to r5 (7.1: rf0)."),
    _s("ldunifrf", Sig.LDUNIFRF, _BOTH, "named", "uniform", 1, "uniform", "Next uniform to d."),
    _s("ldunifa", Sig.LDUNIFA, _BOTH, "implicit", "unifa", 1, "unifa",
       "Next word of the unifa stream to r5 (7.1: rf0)."),
    _s("ldunifarf", Sig.LDUNIFARF, _BOTH, "named", "unifa", 1, "unifa", "Next word of the unifa stream to d."),
    _s("wrtmuc", Sig.WRTMUC, _BOTH, "", "", 1, "tmu_request uniform", "Next uniform to the TMU configuration.",
       writes=("tmuc",)),
    _s("ucb", Sig.UCB, _BOTH, "", "", 0, "", "Uniform cache or breakpoint control; not used by compilers."),
    _s("rot", Sig.ROT, _42, "", "", 0, "", "Rotates the operands of the mul operation.", kind="rot"),
    _s("small_imm_a", Sig.IMM_A, _71, "", "", 0, "", "Operand a of the add ALU is a small immediate.", kind="imm"),
    _s("small_imm_b", Sig.IMM_B, _BOTH, "", "", 0, "", "Operand b of the add ALU (4.2: any) is a small immediate.",
       kind="imm"),
    _s("small_imm_c", Sig.IMM_C, _71, "", "", 0, "", "Operand a of the mul ALU is a small immediate.", kind="imm"),
    _s("small_imm_d", Sig.IMM_D, _71, "", "", 0, "", "Operand b of the mul ALU is a small immediate.", kind="imm"),
)  # fmt: skip
"""Every signal, in the order in which they print."""

# Sets by number, for 4.2 and for 7.1 (v3d.md 3); "=": as on 4.2, "none": no signal, "-": reserved. Older tables of
# Mesa do not have 26 and 27 of 7.1.
_SETS: Final = """
     0 none                =            16 ldtlb               =
     1 thrsw               =            17 ldtlbu              =
     2 ldunif              =            18 wrtmuc              =
     3 thrsw+ldunif        =            19 thrsw+wrtmuc        =
     4 ldtmu               =            20 ldvary+wrtmuc       =
     5 thrsw+ldtmu         =            21 thrsw+ldvary+wrtmuc =
     6 ldtmu+ldunif        =            22 ucb                 =
     7 thrsw+ldtmu+ldunif  =            23 rot                 -
     8 ldvary              =            24 ldunifa             =
     9 thrsw+ldvary        =            25 ldunifarf           =
    10 ldvary+ldunif       =            26 -                   ldtmu+wrtmuc
    11 thrsw+ldvary+ldunif =            27 -                   thrsw+ldtmu+wrtmuc
    12 ldunifrf            =            28 -                   =
    13 thrsw+ldunifrf      =            29 -                   =
    14 small_imm_b+ldvary  small_imm_a  30 -                   small_imm_c
    15 small_imm_b         =            31 small_imm_b+ldtmu   small_imm_d
"""


def _sets() -> dict[Isa, tuple[Sig | None, ...]]:
    bits = {row.name: Sig(row.bit) for row in SIGNAL_ROWS} | {"none": Sig.NONE}
    found: dict[Isa, list[Sig | None]] = {Isa.V3D42: [None] * 32, Isa.V3D71: [None] * 32}
    items = _SETS.split()
    for number, old, new in zip(items[::3], items[1::3], items[2::3], strict=True):
        for isa, text in ((Isa.V3D42, old), (Isa.V3D71, old if new == "=" else new)):
            if text != "-":
                total = Sig.NONE
                for name in text.split("+"):
                    total |= bits[name]
                found[isa][int(number)] = total
    return {isa: tuple(row) for isa, row in found.items()}


SIGNALS: Final[Mapping[Isa, tuple[Sig | None, ...]]] = MappingProxyType(_sets())
"""Signal sets by number; None is reserved."""


def signal_rows(sig: int) -> tuple[SignalRow, ...]:
    """The rows of a set of signals."""
    number = int(sig)  # enumerations are slow
    return tuple([row for row in SIGNAL_ROWS if row.bit & number])


# -- magic destinations -----------------------------------------------------------------------------------------------


def _m(
    n: int, isas: frozenset[Isa], names: str, kind: str, tokens: str, words: int, doc: str, attribute: str | None = None
) -> MagicRow:
    split = tuple(names.split())
    order = frozenset(map(Token, tokens.split()))
    return MagicRow(n, split, kind, order, words, isas, doc, split[0] if attribute is None else attribute)


MAGIC_ROWS: Final[tuple[MagicRow, ...]] = (
    # number, chips, names, kind, tokens, uniform words, what a write does, builder's name where it is another
    *(_m(n, _42, f"r{n}", "acc", "", 0, f"Accumulator {n}.") for n in range(5)),
    *(_m(n, _71, f"r{n}", "reserved", "", 0, "An accumulator of V3D 4.2.", "") for n in range(5)),
    _m(5, _42, "r5", "acc", "", 0, "Each lane of r5 gets the value of the first lane of its quad."),
    _m(5, _71, "quad", "rf0", "", 0, "Each lane of rf0 gets the value of the first lane of its quad."),
    _m(6, _BOTH, "- nop null", "nop", "", 0, "Discarded.", "null"),
    _m(7, _BOTH, "tlb", "tlb", "tlb", 0, "Tile buffer."),
    _m(8, _BOTH, "tlbu", "tlb", "tlb uniform", 1, "Tile buffer, configured by a uniform."),
    _m(9, _BOTH, "unifa", "unifa", "unifa", 0, "Address of the unifa stream, from lane 0."),
    _m(10, _BOTH, "tmul", "other", "", 0, "Not known."),
    _m(11, _BOTH, "tmud", "tmu_data", "tmu_request", 0, "Data word of a TMU request."),
    _m(12, _BOTH, "tmua", "tmu_start", "tmu_request", 0, "Addresses: starts a memory request of the TMU."),
    _m(13, _BOTH, "tmuau", "tmu_start", "tmu_request uniform", 1, "As tmua; its configuration is the next uniform."),
    _m(14, _BOTH, "vpm", "vpm", "vpm_write", 0, "Vertex pipe memory."),
    _m(15, _BOTH, "vpmu", "vpm", "vpm_write uniform", 1, "Vertex pipe memory, configured by a uniform."),
    _m(16, _BOTH, "sync", "sync", "barrier", 0, "Thread synchronisation unit."),
    _m(17, _BOTH, "syncu", "sync", "barrier uniform", 1, "Thread synchronisation unit, configured by a uniform."),
    _m(18, _BOTH, "syncb", "sync", "barrier", 0, "Joins the barrier of the workgroup."),
    *(
        row
        for n, name, doc in (
            (19, "recip", "1/a"), (20, "rsqrt", "1/sqrt(a)"), (21, "exp", "2**a"), (22, "log", "log2(a)"),
            (23, "sin", "sin(pi * a)"), (24, "rsqrt2", "1/sqrt(a)"),
        )
        for row in (
            _m(n, _42, name, "sfu", "sfu", 0, f"Starts {doc}; r4 holds the result {_SFU} instructions on.",
               f"sfu_{name}"),
            _m(n, _71, name, "sfu_reserved", "sfu", 0, "An SFU address of V3D 4.2.", ""),
        )
    ),
    _m(32, _BOTH, "tmuc", "tmu_config", "tmu_request", 0, "Configuration word of the TMU."),
    _m(33, _BOTH, "tmus", "tmu_start", "tmu_request", 0, "S coordinate: starts a texture lookup."),
    _m(34, _BOTH, "tmut", "tmu_data", "tmu_request", 0, "T coordinate."),
    _m(35, _BOTH, "tmur", "tmu_data", "tmu_request", 0, "R coordinate."),
    _m(36, _BOTH, "tmui", "tmu_data", "tmu_request", 0, "Array index."),
    _m(37, _BOTH, "tmub", "tmu_data", "tmu_request", 0, "LOD bias."),
    _m(38, _BOTH, "tmudref", "tmu_data", "tmu_request", 0, "Depth reference; data word of a memory request."),
    _m(39, _BOTH, "tmuoff", "tmu_data", "tmu_request", 0, "Texel offset; data word of a memory request."),
    _m(40, _BOTH, "tmuscm", "tmu_start", "tmu_request", 0, "S coordinate of a cube map: starts a texture lookup."),
    _m(41, _BOTH, "tmusf", "tmu_start", "tmu_request", 0, "S coordinate of a texel fetch: starts it."),
    _m(42, _BOTH, "tmuslod", "tmu_start", "tmu_request", 0, "S coordinate with explicit LOD: starts a lookup."),
    _m(43, _BOTH, "tmuhs", "tmu_start", "tmu_request", 0, "As tmus, with 16-bit operands."),
    _m(44, _BOTH, "tmuhscm", "tmu_start", "tmu_request", 0, "As tmuscm, with 16-bit operands."),
    _m(45, _BOTH, "tmuhsf", "tmu_start", "tmu_request", 0, "As tmusf, with 16-bit operands."),
    _m(46, _BOTH, "tmuhslod", "tmu_start", "tmu_request", 0, "As tmuslod, with 16-bit operands."),
    _m(55, _42, "r5rep", "acc", "", 0, "r5, all lanes from lane 0."),
    _m(55, _71, "rep", "rf0", "", 0, "rf0, all lanes from lane 0."),
)  # fmt: skip
"""Every magic destination. Kind ``reserved``, ``sfu_reserved``: reserved on 7.1, printed with the name of 4.2."""

TMU_KINDS: Final = frozenset({"tmu_data", "tmu_start", "tmu_config"})
# Kinds of which an instruction may hold one write; 7.1 counts the SFU addresses of 4.2 too (v3d.md 11, rule 2).
PERIPHERAL_KINDS: Final = TMU_KINDS | {"sfu", "sfu_reserved", "vpm", "tlb", "sync"}

_ROWS: Final[Mapping[Isa, Mapping[int, MagicRow]]] = MappingProxyType(
    {isa: {row.n: row for row in MAGIC_ROWS if isa in row.isas} for isa in (Isa.V3D42, Isa.V3D71)}
)
# Number -> name as printed.
MAGIC: Final[Mapping[Isa, Mapping[int, str]]] = MappingProxyType(
    {isa: MappingProxyType({n: row.name for n, row in sorted(rows.items())}) for isa, rows in _ROWS.items()}
)
# Further names that the text assembler accepts.
ALIASES: Final[Mapping[str, int]] = MappingProxyType({name: row.n for row in MAGIC_ROWS for name in row.names[1:]})
# Name -> number, aliases included.
MAGIC_NUMBER: Final[Mapping[Isa, Mapping[str, int]]] = MappingProxyType(
    {isa: MappingProxyType({name: n for n, row in rows.items() for name in row.names}) for isa, rows in _ROWS.items()}
)


def magic(isa: Isa, n: int) -> MagicRow | None:
    """The row of magic address n, or None where the address is not assigned."""
    return _ROWS[isa].get(n)


def magic_kind(isa: Isa, n: int) -> str:
    """The kind of magic address n; "" where it is not assigned."""
    row = _ROWS[isa].get(n)
    return "" if row is None else row.kind


def magic_name(isa: Isa, n: int) -> str | None:
    """The name of magic address n as printed, or None where there is none."""
    return MAGIC[isa].get(n)


# -- small immediates -------------------------------------------------------------------------------------------------

_IMM_BITS: Final = tuple(
    i if i < 16 else (i - 32) & 0xFFFFFFFF if i < 32 else 0x3B800000 + ((i - 32) << 23) for i in range(48)
)
_IMM_INDEX: Final = {bits: i for i, bits in enumerate(_IMM_BITS)}
_IMM_FLOAT: Final = {2.0 ** (i - 40): i for i in range(32, 48)}


def imm_bits(index: int) -> int:
    """The 32-bit pattern of small immediate `index`, 0..47. Raises: UsageError (48..63 are reserved)."""
    if not 0 <= index < 48:
        raise UsageError(f"small immediate {index} is reserved", help="pass 0..47")
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
