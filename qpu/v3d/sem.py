"""Semantics of the V3D operations, lane by lane, written over `LaneOps`: raw 32-bit patterns in and out.

The rows of `qpu.v3d.ops` refer to these functions, and both engines run them. Operands have their input modifiers
applied. Where the sources do not give a result, the choice is marked "assumed"; the rows carry the evidence grade.
Sources: device tests of py-videocore6 (4.2) and py-videocore7 (7.1), Mesa's compiler for this hardware.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from qpu.core.semantics import binary, mul24, unary

# Both engines call through `Semantics`, which does not know the types `V` and `M` of `LaneOps`.
Ops: TypeAlias = Any
Vec: TypeAlias = Any
Mask: TypeAlias = Any
Fn: TypeAlias = Callable[..., Any]

ONE = 0x3F800000
MINUS_ONE = 0xBF800000
HALF = 0x3F000000
MINUS_HALF = 0xBF000000


# -- helpers


def low(v: Ops, a: Vec) -> Vec:
    return v.and_(a, v.const(0xFFFF))


def high(v: Ops, a: Vec) -> Vec:
    return v.shr(a, v.const(16))


def halves(v: Ops, lo: Vec, hi: Vec) -> Vec:
    """lo[15:0] | hi[15:0] << 16; both arguments have their upper bits clear."""
    return v.or_(lo, v.shl(hi, v.const(16)))


def spread(v: Ops, a: Vec, lane: int) -> Vec:
    """Lane `lane` of a in all lanes."""
    return v.permute(a, v.const(lane))


def is_nan(v: Ops, a: Vec) -> Mask:
    return v.mnot(v.feq(a, a))


def clamp(v: Ops, a: Vec, lo: int, hi: int) -> Vec:
    """a clamped to lo..hi (float patterns); NaN becomes lo (assumed)."""
    floor, ceiling = v.const(lo), v.const(hi)
    a = v.select(v.fle(floor, a), a, floor)
    return v.select(v.flt(ceiling, a), ceiling, a)


def _per_half(f: Fn) -> Fn:
    """A two-operand binary32 function applied to each pair of binary16 halves, rounded once."""

    def op(v: Ops, a: Vec, b: Vec) -> Vec:
        lo = v.f2h(f(v, v.h2f(low(v, a)), v.h2f(low(v, b))))
        hi = v.f2h(f(v, v.h2f(high(v, a)), v.h2f(high(v, b))))
        return halves(v, lo, hi)

    return op


def _butterfly(v: Ops, a: Vec, join: Fn) -> Vec:
    """All 16 lanes reduced by an associative, commutative function; every lane gets the result."""
    lane = v.lane_id()
    for step in (1, 2, 4, 8):
        a = join(a, v.permute(a, v.xor(lane, v.const(step))))
    return a


# -- one primitive each: fadd, fsub, fmul to nearest even; ftoiz, ftouz toward zero, saturating out of range (assumed)

fadd, fsub, fmul = map(binary, ("fadd", "fsub", "fmul"))
fround, ftrunc, ffloor, fceil = map(unary, ("fround", "ftrunc", "ffloor", "fceil"))
itof, utof, ftoiz, ftouz = map(unary, ("itof", "utof", "ftoi", "ftou"))
recip, rsqrt, exp, log = map(unary, ("recip", "rsqrt", "exp2", "log2"))
not_, clz = map(unary, ("not_", "clz"))


# -- float


def fmin(v: Ops, a: Vec, b: Vec) -> Vec:
    """The smaller; with one NaN the other operand (assumed), of two zeros the first (assumed)."""
    return v.select(is_nan(v, a), b, v.select(v.flt(b, a), b, a))


def fmax(v: Ops, a: Vec, b: Vec) -> Vec:
    """The larger; NaN and zeros as in fmin."""
    return v.select(is_nan(v, a), b, v.select(v.flt(a, b), b, a))


def fcmp_zero(v: Ops, a: Vec, b: Vec, result: Vec) -> Mask:
    return v.feq(a, b)


def fcmp_negative(v: Ops, a: Vec, b: Vec, result: Vec) -> Mask:
    return v.flt(a, b)


def fcmp_carry(v: Ops, a: Vec, b: Vec, result: Vec) -> Mask:
    return v.fle(a, b)


def ftoin(v: Ops, a: Vec) -> Vec:
    """To signed integer, ties to even; out of range saturates (assumed)."""
    return v.ftoi(v.fround(a))


def fdx(v: Ops, a: Vec) -> Vec:
    """Both lanes of a pair get x[odd] - x[even]."""
    lane = v.lane_id()
    return v.fsub(v.permute(a, v.or_(lane, v.const(1))), v.permute(a, v.and_(lane, v.const(14))))


def fdy(v: Ops, a: Vec) -> Vec:
    """Lanes 0, 2 of a quad get x[2] - x[0], lanes 1, 3 get x[3] - x[1]."""
    lane = v.lane_id()
    return v.fsub(v.permute(a, v.or_(lane, v.const(2))), v.permute(a, v.and_(lane, v.const(13))))


def vfpack(v: Ops, a: Vec, b: Vec) -> Vec:
    """f16(a) in the low half, f16(b) in the high half, to nearest even."""
    return halves(v, v.f2h(a), v.f2h(b))


vfmin = _per_half(fmin)
vfmax = _per_half(fmax)
vfmul = _per_half(fmul)


# -- special functions


def sin(v: Ops, a: Vec) -> Vec:
    """sin(pi a) for |a| <= 0.5; beyond it +-1 (measured on 4.2, assumed on 7.1). NaN stays NaN (assumed)."""
    limited = v.select(v.flt(v.const(HALF), a), v.const(HALF), a)
    limited = v.select(v.flt(limited, v.const(MINUS_HALF)), v.const(MINUS_HALF), limited)
    return v.sinpi(limited)


# -- integer


def umin(v: Ops, a: Vec, b: Vec) -> Vec:
    return v.select(v.ult(b, a), b, a)


def umax(v: Ops, a: Vec, b: Vec) -> Vec:
    return v.select(v.ult(a, b), b, a)


def unsigned_greater(v: Ops, a: Vec, b: Vec, result: Vec) -> Mask:
    return v.ult(b, a)


def neg(v: Ops, a: Vec) -> Vec:
    return v.sub(v.const(0), a)


def vadd(v: Ops, a: Vec, b: Vec) -> Vec:
    """Two independent 16-bit sums, each modulo 2**16."""
    top = v.const(0xFFFF0000)
    return v.or_(low(v, v.add(a, b)), v.add(v.and_(a, top), v.and_(b, top)))


def vsub(v: Ops, a: Vec, b: Vec) -> Vec:
    """Two independent 16-bit differences, each modulo 2**16."""
    top = v.const(0xFFFF0000)
    return v.or_(low(v, v.sub(a, b)), v.sub(v.and_(a, top), v.and_(b, top)))


def umul24(v: Ops, a: Vec, b: Vec, rtop: Vec) -> tuple[Vec, Vec]:
    """Low 32 bits of a[23:0] * b[23:0] + (rtop << 24); rtop becomes 0."""
    return v.add(mul24(v, a, b), v.shl(rtop, v.const(24))), v.const(0)


def smul24(v: Ops, a: Vec, b: Vec) -> Vec:
    """Low 32 bits of the product of both operands sign-extended from bit 23."""
    eight = v.const(8)
    return v.mul(v.asr(v.shl(a, eight), eight), v.asr(v.shl(b, eight), eight))


def multop(v: Ops, a: Vec, b: Vec) -> tuple[Vec, Vec]:
    """rtop = a[31:24] * b[23:0] + a[23:0] * b[31:24]. The result itself is unknown; 0 here (assumed)."""
    mask, n = v.const(0xFFFFFF), v.const(24)
    rtop = v.add(v.mul(v.shr(a, n), v.and_(b, mask)), v.mul(v.and_(a, mask), v.shr(b, n)))
    return v.const(0), rtop


def mov(v: Ops, a: Vec) -> Vec:
    return a


# -- flags, ids. A flag register is a vector of two bits a lane: bit 0 low half, bit 1 high half.


def flpush(v: Ops, a: Vec, flags: Vec) -> Vec:
    """(a << 2) | the two flag bits."""
    return v.or_(v.shl(a, v.const(2)), flags)


def flpop(v: Ops, a: Vec) -> tuple[Vec, Vec]:
    """a >> 2; flag A = a[1:0] (assumed)."""
    return v.shr(a, v.const(2)), v.and_(a, v.const(3))


def vfl(v: Ops, flags: Vec) -> Vec:
    """1 in each 16-bit half whose flag is set."""
    one = v.const(1)
    return halves(v, v.and_(flags, one), v.and_(v.shr(flags, one), one))


def vfln(v: Ops, flags: Vec) -> Vec:
    """1 in each 16-bit half whose flag is clear."""
    return v.xor(vfl(v, flags), v.const(0x00010001))


def _first(v: Ops, wanted: Mask) -> Vec:
    return v.select(v.eq(v.lane_id(), v.first(wanted)), v.const(1), v.const(0))


def flafirst(v: Ops, flags: Vec) -> Vec:
    """1 in the lowest lane whose flag is set (either half, assumed), else 0."""
    return _first(v, v.mnot(v.eq(flags, v.const(0))))


def flnafirst(v: Ops, flags: Vec) -> Vec:
    """1 in the lowest lane whose flag is clear (both halves, assumed), else 0."""
    return _first(v, v.eq(flags, v.const(0)))


def eidx(v: Ops) -> Vec:
    return v.lane_id()


def resource(v: Ops, value: Vec) -> Vec:
    """The value of the implicit resource that the row reads."""
    return value


def setbit(v: Ops, a: Vec) -> tuple[Vec, Vec]:
    """Sample mask or facing bit of the lane: 1 where a is not 0. The result itself is a (assumed)."""
    return a, v.select(v.eq(a, v.const(0)), v.const(0), v.const(1))


# -- lane movement (7.1)


def rot(v: Ops, a: Vec, b: Vec) -> Vec:
    """d[j] = a[(j + b[0]) mod 16]."""
    return v.permute(a, v.add(v.lane_id(), spread(v, b, 0)))


def rotq(v: Ops, a: Vec, b: Vec) -> Vec:
    """d[j] = a[4q + (j + b[4q]) mod 4], q = j / 4."""
    lane = v.lane_id()
    base = v.and_(lane, v.const(12))
    within = v.and_(v.add(lane, v.permute(b, base)), v.const(3))
    return v.permute(a, v.or_(base, within))


def shuffle(v: Ops, a: Vec, b: Vec) -> Vec:
    """d[j] = a[b[j] mod 16]."""
    return v.permute(a, b)


def bcastf(v: Ops, a: Vec) -> Vec:
    """Lane 0 in all lanes."""
    return spread(v, a, 0)


def ballot(v: Ops, a: Vec) -> Vec:
    """Bit j is set when lane j is not 0."""
    zero = v.const(0)
    return _butterfly(v, v.select(v.eq(a, zero), zero, v.shl(v.const(1), v.lane_id())), v.or_)


def _all(v: Ops, m: Mask) -> Vec:
    return _butterfly(v, v.select(m, v.const(1), v.const(0)), v.and_)


def alleq(v: Ops, a: Vec) -> Vec:
    """1 when all lanes hold the same bits, else 0."""
    return _all(v, v.eq(a, spread(v, a, 0)))


def allfeq(v: Ops, a: Vec) -> Vec:
    """1 when all lanes are equal as floats, else 0."""
    return _all(v, v.feq(a, spread(v, a, 0)))


# -- packing operations (7.1)


def vpack(v: Ops, a: Vec, b: Vec) -> Vec:
    return v.or_(low(v, a), v.shl(b, v.const(16)))


def _fields(v: Ops, *parts: tuple[Vec, int, int, int]) -> Vec:
    """OR of (value >> shift & mask) << place."""
    total = v.const(0)
    for value, shift, mask, place in parts:
        total = v.or_(total, v.shl(v.and_(v.shr(value, v.const(shift)), v.const(mask)), v.const(place)))
    return total


def v8pack(v: Ops, a: Vec, b: Vec) -> Vec:
    return _fields(v, (a, 0, 255, 0), (a, 16, 255, 8), (b, 0, 255, 16), (b, 16, 255, 24))


def v10pack(v: Ops, a: Vec, b: Vec) -> Vec:
    return _fields(v, (a, 0, 1023, 0), (a, 16, 1023, 10), (b, 0, 1023, 20), (b, 16, 3, 30))


def _small_float(v: Ops, h: Vec, drop: int) -> Vec:
    """binary16 to an unsigned float of the same exponent with `drop` bits fewer; to nearest even.

    Assumed: negative numbers give 0, NaN gives a NaN.
    """
    magnitude = v.and_(h, v.const(0x7FFF))
    shift = v.const(drop)
    odd = v.and_(v.shr(magnitude, shift), v.const(1))
    rounded = v.shr(v.add(v.add(magnitude, v.const((1 << (drop - 1)) - 1)), odd), shift)
    negative = v.ult(v.const(0x7FFF), low(v, h))
    rounded = v.select(negative, v.const(0), rounded)
    nan = v.ult(v.const(0x7C00), magnitude)
    return v.select(nan, v.const(0x7E00 >> drop), rounded)


def v11fpack(v: Ops, a: Vec, b: Vec) -> Vec:
    """f11(a.lo) | f11(a.hi) << 11 | f10(b.lo) << 22."""
    x, y, z = _small_float(v, low(v, a), 4), _small_float(v, high(v, a), 4), _small_float(v, low(v, b), 5)
    return v.or_(x, v.or_(v.shl(y, v.const(11)), v.shl(z, v.const(22))))


# -- normalised integers (7.1); scaling assumed from the formats' definitions


def _unorm(v: Ops, a: Vec, scale: int) -> Vec:
    return v.ftou(v.fround(v.fmul(clamp(v, a, 0, ONE), scale_bits(v, scale))))


def _snorm(v: Ops, a: Vec, scale: int) -> Vec:
    """scale: 2**n - 1, for n + 1 bits of result."""
    found = v.ftoi(v.fround(v.fmul(clamp(v, a, MINUS_ONE, ONE), scale_bits(v, scale))))
    return v.and_(found, v.const(2 * scale + 1))


def scale_bits(v: Ops, n: int) -> Vec:
    """The integer n as a float in every lane."""
    return v.itof(v.const(n))


def ftounorm16(v: Ops, a: Vec) -> Vec:
    return _unorm(v, a, 65535)


def ftosnorm16(v: Ops, a: Vec) -> Vec:
    return _snorm(v, a, 32767)


def _halves_norm(norm: Callable[[Ops, Vec, int], Vec], lo: int, hi: int) -> Fn:
    def op(v: Ops, a: Vec) -> Vec:
        return halves(v, norm(v, v.h2f(low(v, a)), lo), norm(v, v.h2f(high(v, a)), hi))

    return op


vftounorm8 = _halves_norm(_unorm, 255, 255)
vftosnorm8 = _halves_norm(_snorm, 127, 127)
vftounorm10lo = _halves_norm(_unorm, 1023, 1023)
vftounorm10hi = _halves_norm(_unorm, 1023, 3)


def _from_unorm(v: Ops, x: Vec) -> Vec:
    return v.fmul(v.utof(x), v.const(0x37800080))  # 1 / 65535


def _from_snorm(v: Ops, x: Vec) -> Vec:
    scaled = v.fmul(v.itof(x), v.const(0x38000100))  # 1 / 32767
    return v.select(v.flt(scaled, v.const(MINUS_ONE)), v.const(MINUS_ONE), scaled)


def funpackunormlo(v: Ops, a: Vec) -> Vec:
    return _from_unorm(v, low(v, a))


def funpackunormhi(v: Ops, a: Vec) -> Vec:
    return _from_unorm(v, high(v, a))


def funpacksnormlo(v: Ops, a: Vec) -> Vec:
    return _from_snorm(v, unpack_il(v, a))


def funpacksnormhi(v: Ops, a: Vec) -> Vec:
    return _from_snorm(v, unpack_ih(v, a))


# -- input modifiers


def unpack_abs(v: Ops, a: Vec) -> Vec:
    return v.and_(a, v.const(0x7FFFFFFF))


def unpack_l(v: Ops, a: Vec) -> Vec:
    return v.h2f(low(v, a))


def unpack_h(v: Ops, a: Vec) -> Vec:
    return v.h2f(high(v, a))


def unpack_sat(v: Ops, a: Vec) -> Vec:
    return clamp(v, a, 0, ONE)


def unpack_nsat(v: Ops, a: Vec) -> Vec:
    return clamp(v, a, MINUS_ONE, ONE)


def unpack_max0(v: Ops, a: Vec) -> Vec:
    """max(a, 0); NaN becomes 0 (assumed)."""
    return v.select(v.fle(v.const(0), a), a, v.const(0))


def unpack_ff(v: Ops, a: Vec) -> Vec:
    h = v.f2h(a)
    return halves(v, h, h)


def unpack_ll(v: Ops, a: Vec) -> Vec:
    return halves(v, low(v, a), low(v, a))


def unpack_hh(v: Ops, a: Vec) -> Vec:
    return halves(v, high(v, a), high(v, a))


def unpack_swp(v: Ops, a: Vec) -> Vec:
    return halves(v, high(v, a), low(v, a))


def unpack_ul(v: Ops, a: Vec) -> Vec:
    return low(v, a)


def unpack_uh(v: Ops, a: Vec) -> Vec:
    return high(v, a)


def unpack_il(v: Ops, a: Vec) -> Vec:
    n = v.const(16)
    return v.asr(v.shl(a, n), n)


def unpack_ih(v: Ops, a: Vec) -> Vec:
    return v.asr(a, v.const(16))


# -- output modifiers: (v, old destination, result) -> new destination


def pack_l(v: Ops, old: Vec, result: Vec) -> Vec:
    """f16(result) in the low half, to nearest even; the high half keeps its value."""
    return v.or_(v.and_(old, v.const(0xFFFF0000)), v.f2h(result))


def pack_h(v: Ops, old: Vec, result: Vec) -> Vec:
    """f16(result) in the high half; the low half keeps its value."""
    return v.or_(low(v, old), v.shl(v.f2h(result), v.const(16)))
