"""The operations of V3D 4.2 and 7.1, one row each, and the input and output modifiers.

A row has the encoding (`V3dCode`), the operands and other effects, the semantics (`sem`) and the evidence grades.
Encoder, decoder, printer, builder, checker and emulator read these rows.

Semantics: ``sem(v, *operands, *implicit reads)`` returns the result, or ``(result, *implicit writes)``. Operands have
their input modifiers applied; the engines apply output modifiers, conditions and flags. Flag columns are
``(v, *operands, result) -> mask``. Implicit resources: ``rtop``, ``flags_a``, ``flags_b`` (two bits a lane, bit 0
for the low half), ``tidx``, ``link``, ``msf``, ``revf``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from qpu.core import semantics as core
from qpu.core.isa import Basis, Isa, Unit
from qpu.core.optable import Code, Flags, Op, Semantics, Table, Token
from qpu.v3d import sem as s

if TYPE_CHECKING:
    from qpu.v3d.instr import AluHalf

__all__ = [
    "BY_NAME", "FORMS", "MODIFIERS", "PACK", "ROWS", "UNPACK", "V3dCode", "Variant", "code_of", "modifiers", "table",
    "untried", "variants",
]  # fmt: skip

# (modifier of a, modifier of b, output modifier, addend to the opcode, addend to the sub-opcode)
Variant = tuple[str, str, str, int, int]

F32_MODIFIERS: Final = ("abs", "", "l", "h", "sat", "nsat", "max0")  # by code; 4.2 and two-source forms have 0..3
F16_MODIFIERS: Final = ("", "ff", "ll", "hh", "swp")
INT_MODIFIERS: Final = ("", "ul", "uh", "il", "ih")
PACKS: Final = ("", "l", "h")


def _forms() -> dict[str, tuple[Variant, ...]]:
    f32, packs = F32_MODIFIERS, PACKS
    two = [(i, j) for i in range(4) for j in range(4)]
    return {
        "": (("", "", "", 0, 0),),
        # two float sources, output modifier
        "f2p": tuple((f32[i], f32[j], p, 16 * k + 4 * i + j, 0) for k, p in enumerate(packs) for i, j in two),
        "f2": tuple((f32[i], f32[j], "", 4 * i + j, 0) for i, j in two),
        "vfpack": tuple((f32[i], f32[j], "", 4 * i + j, 0) for i, j in two if i and j),
        # two sources of two halves each, modifier on a
        "h": tuple((m, "", "", i, 0) for i, m in enumerate(F16_MODIFIERS)),
        # 4.2: one float source whose modifier is in the opcode; output modifier in the sub-opcode
        "f1": tuple((f32[i], "", p, 4 * i, k) for i in (1, 2, 3) for k, p in enumerate(packs)),
        "f1i": tuple((f32[i], "", "", 4 * i, 0) for i in (1, 2, 3)),
        # 7.1: both in the sub-opcode. `abs` decodes, but Mesa's encoder refuses it (meaning assumed).
        "s1": tuple((f32[i], "", p, 0, 4 * i + k) for i in range(4) for k, p in enumerate(packs)),
        "s1i": tuple((f32[i], "", "", 0, 4 * i) for i in range(4)),
        # output modifier alone in the sub-opcode; the reference tools emit only the first (others assumed)
        "p": tuple(("", "", p, 0, k) for k, p in enumerate(packs)),
        "fmov42": tuple(
            (f32[i], "", p, (4 * k + i) >> 3, (4 * k + i) & 7) for k, p in enumerate(packs) for i in range(4)
        ),
        "fmov71": tuple((f32[i], "", p, 0, 4 * i + k) for i in range(7) for k, p in enumerate(packs)),
        "mov71": tuple((m, "", "", 0, 4 * i) for i, m in enumerate(INT_MODIFIERS)),
    }


FORMS: Final[Mapping[str, tuple[Variant, ...]]] = MappingProxyType(_forms())

UNPACK: Final[Mapping[str, Semantics]] = MappingProxyType(
    {
        "abs": s.unpack_abs,
        "l": s.unpack_l,
        "h": s.unpack_h,
        "sat": s.unpack_sat,
        "nsat": s.unpack_nsat,
        "max0": s.unpack_max0,
        "ff": s.unpack_ff,
        "ll": s.unpack_ll,
        "hh": s.unpack_hh,
        "swp": s.unpack_swp,
        "ul": s.unpack_ul,
        "uh": s.unpack_uh,
        "il": s.unpack_il,
        "ih": s.unpack_ih,
    }
)
"""Input modifiers: ``(v, operand) -> operand``."""

PACK: Final[Mapping[str, Semantics]] = MappingProxyType({"l": s.pack_l, "h": s.pack_h})
"""Output modifiers: ``(v, old destination, result) -> new destination``."""

MODIFIERS: Final = tuple(UNPACK)


@dataclass(frozen=True, slots=True)
class V3dCode(Code):
    """`Code` with the form of its modifiers.

    form: a key of FORMS. magic: value of the destination's magic bit that selects the operation (the destination is a
    register then). waddr: destination address that selects it (there is no destination then).
    """

    form: str = ""
    magic: int | None = None
    waddr: int | None = None


C42, C71 = Isa.V3D42, Isa.V3D71
_TABLES = "Mesa QPU encoder tables"
_ALU_TEST = "py-videocore6/py-videocore7 device tests of the ALU"
_SFU = frozenset({Token.SFU})
_MOVE: Final[dict[str, tuple[str | int, ...]]] = {"move": ("a",)}
_SAME: Final[dict[str, tuple[str | int, ...]]] = {"move": ("a", "a")}
# Instructions until the result of an SFU operation of the add ALU can be read; an earlier read stalls. The distance
# after a write of a magic SFU address is in the row of the rule.
_STALL = 2

Units = dict[Unit, V3dCode]


def _a(op: int, form: str = "", *, a: int | None = None, b: int | None = None) -> Units:
    return {Unit.ADD: V3dCode(op, a, b, form=form)}


def _m(op: int, form: str = "", *, a: int | None = None, b: int | None = None) -> Units:
    return {Unit.MUL: V3dCode(op, a, b, form=form)}


def _row(
    name: str, operands: str, on42: Units | None, on71: Units | None, sem: Semantics | None, doc: str, *,
    source: str = _TABLES, code_basis: Basis = Basis.DRIVER, sem_basis: Basis = Basis.DRIVER,
    reads: tuple[str, ...] = (), writes: tuple[str, ...] = (), **more: Any,
) -> Op:  # fmt: skip
    """A row; more: other columns of `Op`."""
    return Op(
        name=name, operands=operands,
        code={isa: units for isa, units in ((C42, on42), (C71, on71)) if units is not None}, sem=sem, doc=doc,
        source=source, code_basis=code_basis, sem_basis=sem_basis, implicit_reads=reads, implicit_writes=writes,
        **more,
    )  # fmt: skip


def _two(name: str, type_: str, op: int, sem: Semantics, doc: str, **more: Any) -> Op:
    """Add-ALU row of two sources of one type, at the same opcode on both versions."""
    code = _a(op)
    return _row(name, f"d:{type_} a:{type_} b:{type_}", code, code, sem, doc, **more)


def _sfu(name: str, b42: tuple[int, int], b71: int, sem: Semantics, doc: str) -> Op:
    # ASSUMED: the last bits of the results are not known
    return _row(
        name, "d:f32 a:f32", _a(b42[0], b=b42[1]), _a(188, b=b71), sem, doc, sem_basis=Basis.ASSUMED,
        source=_TABLES + "; results: device tests of py-videocore6 and py-videocore7, within their tolerance",
        tokens=_SFU, latency=_STALL,
    )  # fmt: skip


def _lane(name: str, operands: str, op: int, b: int | None, sem: Semantics, doc: str) -> Op:
    return _row(
        name, operands, None, _a(op, b=b), sem, doc, sem_basis=Basis.MEASURED, code_basis=Basis.MEASURED,
        source="py-videocore7 device tests; newer Mesa tables", tokens=_SFU, latency=_STALL, lane_op=True,
    )  # fmt: skip


def _gfx(name: str, operands: str, on42: Units | None, on71: Units | None, doc: str, **more: Any) -> Op:
    return _row(name, operands, on42, on71, None, doc, graphics=True, sem_basis=Basis.ASSUMED, **more)


def _round(name: str, op42: int, sub42: int, base71: int, sem: Semantics, doc: str) -> Op:
    # op42: the opcode without input modifier, whose code is 1; form f1 counts from code 0
    return _row(
        name, "d:f32 a:f32", _a(op42 - 4, "f1", b=sub42),
        _a(245 if name not in ("fdx", "fdy") else 246, "s1", b=base71), sem, doc, sem_basis=Basis.MEASURED,
        source=_ALU_TEST,
    )  # fmt: skip


def _to_int(name: str, op42: int, sub42: int, base71: int, type_: str, sem: Semantics | None, doc: str) -> Op:
    return _row(
        name, f"d:{type_} a:f32", _a(op42 - 4, "f1i", b=sub42), _a(245, "s1i", b=base71 + 3), sem, doc,
        sem_basis=Basis.MEASURED if sem else Basis.ASSUMED, source=_ALU_TEST, graphics=sem is None,
    )  # fmt: skip


def _norm(name: str, operands: str, b: int, sem: Semantics, doc: str) -> Op:
    halves = operands.startswith("d:i16x2")
    if halves:
        doc += " Flags by halves: assumed, as for every operation whose result is two halves."
    flags = Flags.HALVES if halves else Flags.WORD
    return _row(name, operands, None, _m(14, b=b), sem, doc, sem_basis=Basis.ASSUMED, flags=flags)


def _vpm(name: str, operands: str, op: int, b: int | None, magic: int | None, doc: str) -> Op:
    code = {Unit.ADD: V3dCode(op, None, b, magic=magic)}
    return _gfx(name, operands, code, code, doc, tokens=frozenset({Token.VPM_READ}))


def _stvpm(name: str, waddr: int, doc: str) -> Op:
    def code(op: int) -> Units:
        return {Unit.ADD: V3dCode(op, waddr=waddr)}

    return _gfx(name, "a:b32 b:b32", code(248), code(190), doc, tokens=frozenset({Token.VPM_WRITE}))


_TMU = frozenset({Token.TMU_REQUEST})

ROWS: Final[tuple[Op, ...]] = (
    # -- both units
    _row("nop", "d:none", {**_a(187, a=0, b=0), **_m(15, a=0, b=4)}, {**_a(187, b=0), **_m(14, b=63)}, None, "Nothing.",
        flags=Flags.NONE),
    _row("add", "d:i32 a:i32 b:i32", {**_a(56), **_m(1)}, {**_a(56), **_m(1)}, core.add, "a + b. Carry: carry out.",
        carry=core.carry_add, commutes=True, idioms={"move": ("a", 0)}, source=_ALU_TEST),
    _row("sub", "d:i32 a:i32 b:i32", {**_a(60), **_m(2)}, {**_a(60), **_m(2)}, core.sub, "a - b. Carry: borrow.",
        carry=core.carry_sub, relation={"z": "eq", "c": "lt_u"}, idioms={"zero": ("a", "a")}, sem_basis=Basis.MEASURED,
        source="py-videocore6/py-videocore7 device tests of conditions"),
    _row("fmov", "d:f32 a:f32", _m(14, "fmov42", b=0), {**_a(249, "fmov71", b=0), **_m(14, "fmov71", b=0)}, s.mov,
        "a as a float: copies, with input and output modifiers.", idioms=_MOVE),
    _row("mov", "d:b32 a:b32", _m(15, b=7), {**_a(249, "mov71", b=3), **_m(14, "mov71", b=3)}, s.mov, "Copies a.",
        idioms=_MOVE | {"zero": (0,), "ones": (-1,)}),
    # -- add ALU, two floats
    _row("fadd", "d:f32 a:f32 b:f32", _a(0, "f2p"), _a(0, "f2p"), s.fadd, "a + b.", order="natural", commutes=True,
        source=_ALU_TEST, counts="fadd"),
    _row("faddnf", "d:f32 a:f32 b:f32", _a(0, "f2p"), _a(0, "f2p"), s.fadd,
        'a + b with another NaN rule, which is not known ("nf"); sums are as fadd\'s.', order="swapped",
        same_operands="fadd", commutes=True, sem_basis=Basis.ASSUMED, source=_ALU_TEST, counts="fadd"),
    _row("fsub", "d:f32 a:f32 b:f32", _a(64, "f2p"), _a(64, "f2p"), s.fsub, "a - b.",
        relation={"z": "eq_f", "n": "lt_f"}, source=_ALU_TEST, counts="fadd"),
    _row("fmin", "d:f32 a:f32 b:f32", _a(128, "f2p"), _a(128, "f2p"), s.fmin,
        "The smaller. NaN and the order of zeros: assumed.", order="natural", commutes=True, source=_ALU_TEST),
    _row("fmax", "d:f32 a:f32 b:f32", _a(128, "f2p"), _a(128, "f2p"), s.fmax,
        "The larger. NaN and the order of zeros: assumed.", order="swapped", same_operands="mov", commutes=True,
        source=_ALU_TEST),
    _row("fcmp", "d:f32 a:f32 b:f32", _a(192, "f2p"), _a(192, "f2"), s.fsub,
        "Compares: Z a == b, N a < b, C a <= b, all false with NaN; the result is a - b.", zero=s.fcmp_zero,
        negative=s.fcmp_negative, carry=s.fcmp_carry, relation={"z": "eq_f", "n": "lt_f", "c": "le_f"},
        source=_ALU_TEST),
    _row("vfpack", "d:f16x2 a:f32 b:f32", _a(48, "vfpack"), _a(48, "vfpack"), s.vfpack,
        "Low half f16(a), high half f16(b).", flags=Flags.HALVES, sem_basis=Basis.MEASURED, source=_ALU_TEST),
    _row("vfmin", "d:f16x2 a:f16x2 b:f16x2", _a(176, "h"), _a(176, "h"), s.vfmin, "The smaller, half by half.",
        flags=Flags.HALVES, commutes=True, sem_basis=Basis.MEASURED, source=_ALU_TEST),
    _row("vfmax", "d:f16x2 a:f16x2 b:f16x2", _a(240, "h"), _a(240, "h"), s.vfmax, "The larger, half by half.",
        flags=Flags.HALVES, commutes=True, sem_basis=Basis.MEASURED,
        source=_ALU_TEST + " (7.1: not in the driver's tables, but works)"),
    # -- add ALU, two integers
    _two("min", "i32", 120, core.smin, "Signed minimum. Carry: a > b.", carry=core.signed_greater,
        relation={"c": "gt_s"}, idioms=_SAME, commutes=True, aliases=("imin",)),
    _two("max", "i32", 121, core.smax, "Signed maximum. Carry: a > b (assumed).", carry=core.signed_greater,
        relation={"c": "gt_s"}, idioms=_SAME, commutes=True, aliases=("imax",)),
    _two("umin", "u32", 122, s.umin, "Unsigned minimum. Carry: a > b (assumed).", carry=s.unsigned_greater,
        relation={"c": "gt_u"}, idioms=_SAME, commutes=True),
    _two("umax", "u32", 123, s.umax, "Unsigned maximum. Carry: a > b (assumed).", carry=s.unsigned_greater,
        relation={"c": "gt_u"}, idioms=_SAME, commutes=True),
    _two("shl", "u32", 124, core.shl, "a << b[4:0]. Carry: not known.", sem_basis=Basis.MEASURED, source=_ALU_TEST),
    _two("shr", "u32", 125, core.shr, "a >> b[4:0], logical. Carry: not known.", sem_basis=Basis.MEASURED,
        source=_ALU_TEST),
    _two("asr", "i32", 126, core.asr, "a >> b[4:0], arithmetic. Carry: not known.", sem_basis=Basis.MEASURED,
        source=_ALU_TEST),
    _two("ror", "u32", 127, core.ror, "a rotated right by b[4:0]. Carry: not known.", sem_basis=Basis.MEASURED,
        source=_ALU_TEST),
    _two("and", "b32", 181, core.and_, "Bitwise and.", idioms=_SAME, commutes=True, aliases=("band",)),
    _two("or", "b32", 182, core.or_, "Bitwise or.", idioms=_SAME | {"zero": (0, 0), "ones": (-1, -1)}, commutes=True,
        aliases=("bor",)),
    _two("xor", "b32", 183, core.xor, "Bitwise exclusive or.", relation={"z": "eq"}, idioms={"zero": ("a", "a")},
        commutes=True, aliases=("bxor",)),
    _two("vadd", "i16x2", 184, s.vadd, "Two 16-bit sums.", flags=Flags.HALVES, commutes=True),
    _two("vsub", "i16x2", 185, s.vsub, "Two 16-bit differences.", flags=Flags.HALVES),
    # -- add ALU, one source
    _row("not", "d:b32 a:b32", _a(186, b=0), _a(186, b=0), s.not_, "Bitwise complement.", idioms={"ones": (0,)},
        aliases=("bnot",)),
    _row("neg", "d:i32 a:i32", _a(186, b=1), _a(186, b=1), s.neg, "0 - a."),
    _row("flapush", "d:b32 a:b32", _a(186, b=2), _a(186, b=2), s.flpush, "(a << 2) | the two bits of flag A.",
        reads=("flags_a",), sem_basis=Basis.MEASURED, source="py-videocore7 device tests of conditions"),
    _row("flbpush", "d:b32 a:b32", _a(186, b=3), _a(186, b=3), s.flpush, "(a << 2) | the two bits of flag B.",
        reads=("flags_b",), sem_basis=Basis.MEASURED, source="py-videocore7 device tests of conditions"),
    _row("flpop", "d:b32 a:b32", _a(186, b=4), _a(186, b=4), s.flpop, "a >> 2; flag A = a[1:0] (assumed).",
        writes=("flags_a",), sem_basis=Basis.ASSUMED, source="py-videocore7 device tests of conditions"),
    _row("clz", "d:i32 a:b32", _a(252, b=3), _a(186, b=5), s.clz, "Leading zero bits; 32 for 0."),
    _row("setmsf", "d:b32 a:b32", _a(186, b=6), _a(186, b=6), s.setbit,
        "Sets the sample mask of the lanes that the condition enables.", writes=("msf",)),
    _row("setrevf", "d:b32 a:b32", _a(186, b=7), _a(186, b=7), s.setbit,
        "Sets the facing bit of the lanes that the condition enables (0 or 1, as setmsf does: assumed).",
        writes=("revf",), sem_basis=Basis.ASSUMED),
    _sfu("recip", (186, 5), 32, s.recip, "Approximate 1 / a."),
    _sfu("rsqrt", (188, 3), 33, s.rsqrt, "Approximate 1 / sqrt(a)."),
    _sfu("exp", (188, 4), 34, s.exp, "Approximate 2 to the power a."),
    _sfu("log", (188, 5), 35, s.log, "Approximate base-2 logarithm."),
    _sfu("sin", (188, 6), 36, s.sin, "Approximate sin(pi a) for |a| <= 0.5; beyond it +-1 (7.1: assumed)."),
    _sfu("rsqrt2", (188, 7), 37, s.rsqrt, "Approximate 1 / sqrt(a); how it differs from rsqrt is not known."),
    _lane("ballot", "d:u32 a:b32", 188, 38, s.ballot, "Bit j set when lane j is not 0; same in all lanes."),
    _lane("bcastf", "d:b32 a:b32", 188, 39, s.bcastf, "Lane 0 to all lanes (with a condition: not known)."),
    _lane("alleq", "d:u32 a:b32", 188, 40, s.alleq, "1 when all lanes hold the same bits, else 0."),
    _lane("allfeq", "d:u32 a:f32", 188, 41, s.allfeq, "1 when all lanes are equal floats, else 0."),
    _lane("rotq", "d:b32 a:b32 b:u32", 252, None, s.rotq, "Rotates inside each quad: lane j gets lane (j + b) mod 4."),
    _lane("rot", "d:b32 a:b32 b:u32", 253, None, s.rot, "Rotates: lane j gets lane (j + b of lane 0) mod 16."),
    _lane("shuffle", "d:b32 a:b32 b:u32", 254, None, s.shuffle, "Lane j gets lane b[j] mod 16 of a."),
    _round("fround", 245, 0, 0, s.fround, "To an integral float, ties to even."),
    _round("ftrunc", 245, 4, 16, s.ftrunc, "To an integral float, toward zero."),
    _round("ffloor", 246, 0, 32, s.ffloor, "To an integral float, toward minus infinity."),
    _round("fceil", 246, 4, 48, s.fceil, "To an integral float, toward plus infinity."),
    _to_int("ftoin", 245, 3, 0, "i32", s.ftoin, "To signed integer, ties to even; out of range: assumed to saturate."),
    _to_int("ftoiz", 245, 7, 16, "i32", s.ftoiz, "To signed integer, toward zero; out of range: assumed to saturate."),
    _to_int("ftouz", 246, 3, 32, "u32", s.ftouz, "To unsigned integer, toward zero; negative gives 0."),
    _to_int("ftoc", 246, 7, 48, "u32", None, "Alpha to coverage mask."),
    _round("fdx", 247, 0, 0, s.fdx, "Horizontal difference inside a lane pair."),
    _round("fdy", 247, 4, 16, s.fdy, "Vertical difference inside a quad."),
    _row("itof", "d:f32 a:i32", _a(252, "p", b=0), _a(246, "p", b=32), s.itof,
        "Signed integer to float, to nearest even. Output modifiers: assumed.", source=_ALU_TEST),
    _row("utof", "d:f32 a:u32", _a(252, "p", b=4), _a(246, "p", b=36), s.utof,
        "Unsigned integer to float, to nearest even. Output modifiers: assumed.", source=_ALU_TEST),
    # -- add ALU, no source
    _row("tidx", "d:u32", _a(187, a=1, b=0), _a(187, b=1), s.resource, "Thread and QPU number.", reads=("tidx",)),
    _row("eidx", "d:u32", _a(187, a=2, b=0), _a(187, b=2), s.eidx, "Lane number, 0..15.", source=_ALU_TEST),
    _row("lr", "d:u32", _a(187, a=3, b=0), _a(187, b=3), s.resource, "Link register.", reads=("link",)),
    _row("vfla", "d:i16x2", _a(187, a=4, b=0), _a(187, b=4), s.vfl, "1 in each half where flag A is set.",
        reads=("flags_a",), flags=Flags.HALVES),
    _row("vflna", "d:i16x2", _a(187, a=5, b=0), _a(187, b=5), s.vfln, "1 in each half where flag A is clear.",
        reads=("flags_a",), flags=Flags.HALVES),
    _row("vflb", "d:i16x2", _a(187, a=6, b=0), _a(187, b=6), s.vfl, "1 in each half where flag B is set.",
        reads=("flags_b",), flags=Flags.HALVES),
    _row("vflnb", "d:i16x2", _a(187, a=7, b=0), _a(187, b=7), s.vfln, "1 in each half where flag B is clear.",
        reads=("flags_b",), flags=Flags.HALVES),
    _gfx("xcd", "d:i32", _a(187, a=3, b=1), _a(187, b=8), "Pixel column."),
    _gfx("ycd", "d:i32", _a(187, a=7, b=1), _a(187, b=9), "Pixel row."),
    _row("msf", "d:b32", _a(187, a=0, b=2), _a(187, b=10), s.resource, "Sample mask of the lane.", reads=("msf",)),
    _row("revf", "d:b32", _a(187, a=1, b=2), _a(187, b=11), s.resource,
        "Facing bit of the lane; 0 before a setrevf (assumed).", reads=("revf",), sem_basis=Basis.ASSUMED),
    _gfx("iid", "d:u32", _a(187, a=2, b=2), _a(187, b=12), "Instance or invocation number."),
    _gfx("sampid", "d:u32", _a(187, a=3, b=2), _a(187, b=13), "Sample number."),
    _row("barrierid", "d:u32", _a(187, a=4, b=2), _a(187, b=14), None,
        "Barrier number; written to syncb it joins the barrier at the next thread switch.",
        tokens=frozenset({Token.BARRIER})),
    _row("tmuwt", "d:none", _a(187, a=5, b=2), _a(187, b=15), None,
        "Waits until all TMU writes of the thread are done.", tokens=_TMU, flags=Flags.NONE),
    _gfx("vpmwt", "d:none", _a(187, a=6, b=2), _a(187, b=16), "Waits for VPM writes.",
        tokens=frozenset({Token.VPM_WRITE}), flags=Flags.NONE),
    _row("flafirst", "d:u32", _a(187, a=7, b=2), _a(187, b=17), s.flafirst, "1 in the lowest lane whose flag A is set.",
        reads=("flags_a",)),
    _row("flnafirst", "d:u32", _a(187, a=0, b=3), _a(187, b=18), s.flnafirst,
        "1 in the lowest lane whose flag A is clear.", reads=("flags_a",)),
    _gfx("fxcd", "d:f32", _a(187, "p", a=0, b=1), _a(187, "p", b=32), "Pixel column as a float."),
    _gfx("fycd", "d:f32", _a(187, "p", a=4, b=1), _a(187, "p", b=36), "Pixel row as a float."),
    # -- VPM (graphics)
    _vpm("ldvpmv_in", "d:b32 a:u32", 188, 0, 0, "Reads the VPM input segment, vertical."),
    _vpm("ldvpmv_out", "d:b32 a:u32", 188, 0, 1, "Reads the VPM output segment, vertical."),
    _vpm("ldvpmd_in", "d:b32 a:u32", 188, 1, 0, "Reads the VPM input segment, diagonal."),
    _vpm("ldvpmd_out", "d:b32 a:u32", 188, 1, 1, "Reads the VPM output segment, diagonal."),
    _vpm("ldvpmp", "d:b32 a:u32", 188, 2, None, "Reads VPM, patch."),
    _vpm("ldvpmg_in", "d:b32 a:u32 b:u32", 189, None, 0, "Reads the VPM input segment, general."),
    _vpm("ldvpmg_out", "d:b32 a:u32 b:u32", 189, None, 1, "Reads the VPM output segment, general."),
    _stvpm("stvpmv", 0, "Writes b to VPM address a, vertical."),
    _stvpm("stvpmd", 1, "Writes b to VPM address a, diagonal."),
    _stvpm("stvpmp", 2, "Writes b to VPM address a, patch."),
    # -- add ALU, packing (7.1)
    _row("vpack", "d:i16x2 a:b32 b:b32", None, _a(247), s.vpack, "a[15:0] | b[15:0] << 16.", flags=Flags.HALVES),
    _row("v8pack", "d:u8x4 a:i16x2 b:i16x2", None, _a(248), s.v8pack, "The low bytes of the halves of a, then of b."),
    _row("v10pack", "d:b32 a:i16x2 b:i16x2", None, _a(250), s.v10pack,
        "Fields of 10, 10, 10 and 2 bits from the halves of a, b."),
    _row("v11fpack", "d:b32 a:f16x2 b:f16x2", None, _a(251), s.v11fpack,
        "Floats of 11, 11 and 10 bits from a.lo, a.hi, b.lo."),
    # -- mul ALU
    _row("fmul", "d:f32 a:f32 b:f32", _m(16, "f2p"), _m(16, "f2p"), s.fmul,
        "a * b. Output modifiers are measured on 4.2 only.", commutes=True, source=_ALU_TEST, counts="fmul"),
    _row("vfmul", "d:f16x2 a:f16x2 b:f16x2", _m(4, "h"), _m(4, "h"), s.vfmul, "Products, half by half.",
        flags=Flags.HALVES, commutes=True, sem_basis=Basis.MEASURED, source=_ALU_TEST),
    _row("umul24", "d:u32 a:u32 b:u32", _m(3), _m(3), s.umul24,
        "Low 32 bits of a[23:0] * b[23:0] + (rtop << 24); clears rtop.", reads=("rtop",), writes=("rtop",),
        commutes=True),
    _row("smul24", "d:i32 a:i32 b:i32", _m(9), _m(9), s.smul24,
        "Low 32 bits of the product of the operands, sign-extended from bit 23.", commutes=True,
        sem_basis=Basis.MEASURED, source="qpu-xla integer matrix product (7.1)"),
    _row("multop", "d:none a:u32 b:u32", _m(10), _m(10), s.multop,
        "Prepares rtop, so that umul24 of the same operands gives the full low 32 bits. The result is not known.",
        writes=("rtop",), commutes=True),
    _norm("ftounorm16", "d:u32 a:f32", 32, s.ftounorm16, "Float 0..1 to 16 bits."),
    _norm("ftosnorm16", "d:u32 a:f32", 33, s.ftosnorm16, "Float -1..1 to 16 bits, signed."),
    _norm("vftounorm8", "d:i16x2 a:f16x2", 34, s.vftounorm8, "Two halves 0..1 to 8 bits each."),
    _norm("vftosnorm8", "d:i16x2 a:f16x2", 35, s.vftosnorm8, "Two halves -1..1 to 8 bits each, signed."),
    _norm("funpackunormlo", "d:f32 a:b32", 36, s.funpackunormlo, "Low 16 bits to a float 0..1."),
    _norm("funpackunormhi", "d:f32 a:b32", 37, s.funpackunormhi, "High 16 bits to a float 0..1."),
    _norm("funpacksnormlo", "d:f32 a:b32", 38, s.funpacksnormlo, "Low 16 bits, signed, to a float -1..1."),
    _norm("funpacksnormhi", "d:f32 a:b32", 39, s.funpacksnormhi, "High 16 bits, signed, to a float -1..1."),
    _norm("vftounorm10lo", "d:i16x2 a:f16x2", 48, s.vftounorm10lo, "Two halves 0..1 to 10 bits each."),
    _norm("vftounorm10hi", "d:i16x2 a:f16x2", 49, s.vftounorm10hi, "Two halves 0..1 to 10 and 2 bits."),
)  # fmt: skip

BY_NAME: Final[Mapping[str, Op]] = MappingProxyType({op.name: op for op in ROWS})


@cache
def table(isa: Isa) -> Table:
    """The operations of `isa` (4.2 or 7.1)."""
    return Table(isa, ROWS)


def code_of(op: Op, isa: Isa, unit: Unit) -> V3dCode | None:
    """The encoding of the operation for `unit` of `isa`, or None where it has none."""
    code = op.code.get(isa, {}).get(unit)
    assert code is None or isinstance(code, V3dCode)
    return code


def variants(op: Op, isa: Isa, unit: Unit) -> tuple[Variant, ...]:
    """All combinations of modifiers that encode; empty when `unit` has no such operation."""
    code = code_of(op, isa, unit)
    return () if code is None else FORMS[code.form]


def modifiers(op: Op, isa: Isa, unit: Unit) -> dict[str, tuple[str, ...]]:
    """Names of the modifiers that the operation takes, by role: ``a``, ``b`` for inputs, ``d`` for the output."""
    found = variants(op, isa, unit)
    names = {"a": [v[0] for v in found], "b": [v[1] for v in found], "d": [v[2] for v in found]}
    return {role: tuple(dict.fromkeys(n for n in values if n)) for role, values in names.items() if any(values)}


# (form, role, modifier) that decode, but that no known tool emits.
_UNTRIED: Final = frozenset({("p", "d", "l"), ("p", "d", "h"), ("s1", "a", "abs"), ("s1i", "a", "abs")})


def untried(half: AluHalf, isa: Isa, unit: Unit) -> bool:
    """True when the half uses a form that no program is known to have run on hardware (v3d.md 6.3)."""
    code = code_of(half.op, isa, unit)
    if code is None:
        return False
    mods = ("d", half.pack), ("a", half.a.mod if half.a is not None else "")
    return any((code.form, role, mod) in _UNTRIED for role, mod in mods)
