"""Table of the pack and unpack modes of VideoCore IV: one row each, with names, code and semantics.

Text assembler, builder, printer and both engines read the rows. There are three kinds:

* `UNPACK`: ``as_float(v, x)`` and ``as_int(v, x)``. With pm = 0 they apply to file A reads (raddr_a < 32), and the
  float form is used by *both* ALUs when either consumes the value in an operation with float operands
  (`qpu.vc4.ops.float_operands`); with pm = 1 they apply to r4, always in the float form.
* `PACK_A` (pm = 0, for the ALU that writes a physical register of file A): ``sem(v, old, x, is_float)``; `old` is the
  register's content, `x` the result, `is_float` whether the operation has a float result. When `saturate_first` is
  set, `x` is to be saturated to 32 bits beforehand if the operation overflowed: `qpu.vc4.ops.saturated`.
* `PACK_MUL` (pm = 1, for the MUL result): ``sem(v, old, x, is_float)``, where `x` is read as a float and `is_float` is
  ignored.

`lanes` is the mask of the bits that a mode writes; the other bits keep their value of `old`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qpu.core.isa import Basis
from qpu.core.lanes import LaneOps, M, V
from qpu.vc4.regs import Named

__all__ = ["PACK_A", "PACK_MUL", "UNPACK", "Pack", "Unpack", "pack_a", "pack_mul", "unpack_mode"]

ALL = 0xFFFFFFFF
INF = 0x7F800000


@dataclass(frozen=True, slots=True)
class Unpack(Named):
    """An unpack mode. as_float, as_int: ``f(v, x) -> V``."""

    code: int
    names: tuple[str, ...]
    as_float: Callable[[Any, Any], Any]
    as_int: Callable[[Any, Any], Any]
    doc: str
    basis: Basis = Basis.MEASURED


@dataclass(frozen=True, slots=True)
class Pack(Named):
    """A pack mode. sem: ``f(v, old, x, is_float) -> V``; lanes: the bits it writes."""

    code: int
    names: tuple[str, ...]
    sem: Callable[[Any, Any, Any, bool], Any]
    doc: str
    lanes: int = ALL
    saturate_first: bool = False
    basis: Basis = Basis.MEASURED


def half_to_float(v: LaneOps[V, M], x: V) -> V:
    """Low 16 bits as binary16. A denormal is not renormalised: mantissa with exponent 0 (measured, VC4C)."""
    sign = v.shl(v.and_(x, v.const(0x8000)), v.const(16))
    rest = v.shl(v.and_(x, v.const(0x7FFF)), v.const(13))
    exponent = v.and_(x, v.const(0x7C00))
    bias = v.select(v.eq(exponent, v.const(0x7C00)), v.const(224 << 23), v.const(112 << 23))
    bias = v.select(v.eq(exponent, v.const(0)), v.const(0), bias)
    return v.or_(sign, v.add(rest, bias))


def float_to_half(v: LaneOps[V, M], x: V) -> V:
    """Binary16 in the low 16 bits: inexact values away from zero, denormal results +0, NaN and overflow infinity.

    Uncertain: one source (VC4C). py-videocore's test asks for three digits only.
    """
    mag = v.and_(x, v.const(0x7FFFFFFF))
    half = v.sub(v.shr(v.add(mag, v.const(0x1FFF)), v.const(13)), v.const(112 << 10))
    half = v.select(v.ult(v.const(0x477FE000), mag), v.const(0x7C00), half)  # beyond 65504
    sign = v.and_(v.shr(x, v.const(16)), v.const(0x8000))
    return v.select(v.ult(mag, v.const(0x38800000)), v.const(0), v.or_(sign, half))  # below 2**-14


def byte_to_unit(v: LaneOps[V, M], byte: V) -> V:
    """byte / 255 as a float, toward zero (uncertain in the last bit: VC4C's model).

    In base 256, n/255 is the digit n repeated without end, so its first 31 bits are the byte times a constant.
    """
    digits = v.shr(v.mul(byte, v.const(0x01010101)), v.const(1))
    scaled = v.sub(v.itof_rz(digits), v.const(31 << 23))
    scaled = v.select(v.eq(byte, v.const(255)), v.const(0x3F800000), scaled)
    return v.select(v.eq(byte, v.const(0)), v.const(0), scaled)


def _same(v: LaneOps[V, M], x: V) -> V:
    return x


def _half_float(shift: int) -> Callable[[Any, Any], Any]:
    def unpack(v: LaneOps[V, M], x: V) -> V:
        return half_to_float(v, v.shr(x, v.const(shift)) if shift else x)

    return unpack


def _half_int(shift: int) -> Callable[[Any, Any], Any]:
    def unpack(v: LaneOps[V, M], x: V) -> V:
        return v.asr(x if shift else v.shl(x, v.const(16)), v.const(16))

    return unpack


def _byte(v: LaneOps[V, M], x: V, index: int) -> V:
    return v.and_(v.shr(x, v.const(8 * index)), v.const(255))


def _byte_float(index: int) -> Callable[[Any, Any], Any]:
    def unpack(v: LaneOps[V, M], x: V) -> V:
        return byte_to_unit(v, _byte(v, x, index))

    return unpack


def _byte_int(index: int) -> Callable[[Any, Any], Any]:
    def unpack(v: LaneOps[V, M], x: V) -> V:
        return _byte(v, x, index)

    return unpack


def _top_byte_everywhere(v: LaneOps[V, M], x: V) -> V:
    return v.mul(v.shr(x, v.const(24)), v.const(0x01010101))


UNPACK: tuple[Unpack, ...] = (
    Unpack(0, ("32", ""), _same, _same, "All 32 bits."),
    Unpack(1, ("16a",), _half_float(0), _half_int(0), "Low half: binary16 to float, or sign-extended."),
    Unpack(2, ("16b",), _half_float(16), _half_int(16), "High half, likewise."),
    Unpack(3, ("8dr", "8ddupe", "8d rep"), _top_byte_everywhere, _top_byte_everywhere, "Top byte in all four bytes."),
    *(
        Unpack(4 + i, (f"8{c}",), _byte_float(i), _byte_int(i), f"Byte {c}: 0..255 to 0.0..1.0, or zero-extended.")
        for i, c in enumerate("abcd")
    ),
)


def _merge(v: LaneOps[V, M], old: V, value: V, lanes: int) -> V:
    return v.or_(v.and_(old, v.const(lanes ^ ALL)), v.and_(value, v.const(lanes)))


def _plain(v: LaneOps[V, M], old: V, x: V, is_float: bool) -> V:
    return x


def _clamp(v: LaneOps[V, M], x: V, low: int, high: int) -> V:
    x = v.select(v.slt(x, v.const(low)), v.const(low), x)
    return v.select(v.slt(v.const(high), x), v.const(high), x)


def _to_half(index: int, saturate: bool) -> Callable[[Any, Any, Any, bool], Any]:
    def pack(v: LaneOps[V, M], old: V, x: V, is_float: bool) -> V:
        if is_float:
            x = float_to_half(v, x)
        elif saturate:
            x = _clamp(v, x, -32768, 32767)
        return _merge(v, old, v.shl(x, v.const(16)) if index else x, 0xFFFF << 16 * index)

    return pack


def _to_byte(index: int, saturate: bool) -> Callable[[Any, Any, Any, bool], Any]:
    def pack(v: LaneOps[V, M], old: V, x: V, is_float: bool) -> V:
        if saturate:
            x = _clamp(v, x, 0, 255)
        return _merge(v, old, v.shl(x, v.const(8 * index)) if index else x, 0xFF << 8 * index)

    return pack


def _to_bytes(saturate: bool) -> Callable[[Any, Any, Any, bool], Any]:
    def pack(v: LaneOps[V, M], old: V, x: V, is_float: bool) -> V:
        x = _clamp(v, x, 0, 255) if saturate else v.and_(x, v.const(255))
        return v.mul(x, v.const(0x01010101))

    return pack


def _bytes(saturate: bool) -> tuple[Pack, ...]:
    base, suffix = (12, "s") if saturate else (4, "")
    doc = "Saturated to 0..255, into byte {}." if saturate else "Low byte into byte {}."
    other = "clamp" if saturate else ""
    return tuple(
        Pack(
            base + i,
            (f"8{c}{suffix}", *((f"8{c}{other}", f"8{c} sat") if saturate else ())),
            _to_byte(i, saturate),
            doc.format(c),
            0xFF << 8 * i,
            True,
        )
        for i, c in enumerate("abcd")
    )


# That the 32-bit saturation comes first in all of these is VC4C's observation (uncertain); the modes themselves were
# measured by py-videocore's pack tests.
PACK_A: tuple[Pack, ...] = (
    Pack(0, ("32", ""), _plain, "All 32 bits."),
    Pack(1, ("16a",), _to_half(0, False), "Float to binary16, or the low half, into the low half.", 0xFFFF, True),
    Pack(2, ("16b",), _to_half(1, False), "The same into the high half.", 0xFFFF0000, True),
    Pack(3, ("8888", "8abcd", "8 rep"), _to_bytes(False), "Low byte into all four bytes.", ALL, True),
    *_bytes(False),
    Pack(8, ("32s", "32clamp", "32 sat"), _plain, "Saturated to signed 32 bits.", ALL, True),
    Pack(9, ("16as", "16aclamp", "16a sat"), _to_half(0, True), "Saturated (or binary16), low half.", 0xFFFF, True),
    Pack(10, ("16bs", "16bclamp", "16b sat"), _to_half(1, True), "The same, high half.", 0xFFFF0000, True),
    Pack(11, ("8888s", "8abcds", "8888clamp", "8abcdclamp", "8 rep sat"), _to_bytes(True), "0..255, everywhere.",
         ALL, True),
    *_bytes(True),
)  # fmt: skip
"""By code, 0..15."""


def _colour(v: LaneOps[V, M], x: V) -> V:
    """clamp(round(x * 255), 0, 255). Hardware was checked to +-1 only (uncertain)."""
    return _clamp(v, v.ftoi(v.fround(v.fmul(x, v.const(0x437F0000)))), 0, 255)


def _colour_all(v: LaneOps[V, M], old: V, x: V, is_float: bool) -> V:
    return v.mul(_colour(v, x), v.const(0x01010101))


def _colour_byte(index: int) -> Callable[[Any, Any, Any, bool], Any]:
    def pack(v: LaneOps[V, M], old: V, x: V, is_float: bool) -> V:
        return _merge(v, old, v.shl(_colour(v, x), v.const(8 * index)), 0xFF << 8 * index)

    return pack


PACK_MUL: dict[int, Pack] = {
    0: Pack(0, ("32", ""), _plain, "All 32 bits."),
    3: Pack(3, ("8888sf", "8abcdsf", "8888f", "8abcdf"), _colour_all, "0.0..1.0 to 0..255, all bytes."),
    **{
        4 + i: Pack(
            4 + i, (f"8{c}sf", f"8{c}f"), _colour_byte(i), f"0.0..1.0 to 0..255, byte {c}.", 0xFF << 8 * i
        )
        for i, c in enumerate("abcd")
    },
}  # fmt: skip
"""By code; all other codes are reserved with pm = 1."""

_UNPACK_NAMES = {name: row for row in UNPACK for name in row.names}
_PACK_A_NAMES = {name: row for row in PACK_A for name in row.names}
_PACK_MUL_NAMES = {name: row for row in PACK_MUL.values() for name in row.names}


def unpack_mode(name: str) -> Unpack | None:
    """The unpack mode of that name or alias, or None."""
    return _UNPACK_NAMES.get(name)


def pack_a(name: str) -> Pack | None:
    """The file A pack mode of that name or alias, or None."""
    return _PACK_A_NAMES.get(name)


def pack_mul(name: str) -> Pack | None:
    """The MUL (colour) pack mode of that name or alias, or None."""
    return _PACK_MUL_NAMES.get(name)
