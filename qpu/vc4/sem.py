"""Semantics of the VideoCore IV operations, written over `LaneOps`: raw 32-bit patterns in and out.

The rows of `qpu.vc4.ops` refer to these functions, and both engines run them. Operations: ``sem(v, a, b) -> V`` with
operands already unpacked and rotated; unary operations take ``b`` too and ignore it. Carry: ``carry(v, a, b, result)
-> M``.

Arithmetic follows the measurements recorded in VC4C and vc4asm's notes: no denormals, no NaNs, additions toward zero,
multiplications to nearest. Where these sources do not give a result, the choice is marked "uncertain".
"""

from __future__ import annotations

from qpu.core.lanes import LaneOps, M, V
from qpu.core.semantics import carry_add, carry_sub, count
from qpu.errors import UsageError

INF = 0x7F800000
SIGN = 0x80000000
MAG = 0x7FFFFFFF
FLT_MAX = 0x7F7FFFFF


# -- floats


def flush(v: LaneOps[V, M], a: V) -> V:
    """Denormals and -0 become +0."""
    return v.select(v.eq(v.and_(a, v.const(INF)), v.const(0)), v.const(0), a)


def _is_special(v: LaneOps[V, M], a: V) -> M:
    """Inf or NaN."""
    return v.eq(v.and_(a, v.const(INF)), v.const(INF))


def _is_nan(v: LaneOps[V, M], a: V) -> M:
    return v.ult(v.const(INF), v.and_(a, v.const(MAG)))


def _inf_like(v: LaneOps[V, M], a: V) -> V:
    """Infinity with the sign of `a`."""
    return v.or_(v.and_(a, v.const(SIGN)), v.const(INF))


def fadd(v: LaneOps[V, M], a: V, b: V) -> V:
    """a + b toward zero. Denormals and -0 count as +0; a denormal result is +0.

    With a NaN operand: infinity with the sign of b if that is a NaN, else of a (measured). Inf + -Inf is not recorded;
    vc4asm's model, infinity with the sign of b, is used (uncertain), as is overflow to the largest finite value.
    """
    plain = flush(v, v.fadd_rz(flush(v, a), flush(v, b)))
    by_b = v.mor(_is_nan(v, b), v.mand(_is_special(v, a), _is_special(v, b)))
    by_a = v.mand(_is_nan(v, a), v.mnot(_is_nan(v, b)))
    result = v.select(by_b, _inf_like(v, b), plain)
    return v.select(by_a, _inf_like(v, a), result)


def fsub(v: LaneOps[V, M], a: V, b: V) -> V:
    """a - b: `fadd` with the sign of b inverted, a NaN's too (measured)."""
    return fadd(v, a, v.xor(b, v.const(SIGN)))


def fmul(v: LaneOps[V, M], a: V, b: V) -> V:
    """a * b to nearest (uncertain; the sources' model). +0 when an operand is zero or denormal, even against infinity.

    Otherwise an infinite or NaN operand gives infinity with the product's sign. A denormal result is +0.
    """
    zero = v.const(0)
    none = v.mor(v.eq(v.and_(a, v.const(INF)), zero), v.eq(v.and_(b, v.const(INF)), zero))
    huge = v.mor(_is_special(v, a), _is_special(v, b))
    plain = flush(v, v.fmul(a, b))
    return v.select(none, zero, v.select(huge, _inf_like(v, v.xor(a, b)), plain))


def _order(v: LaneOps[V, M], a: V) -> V:
    """A signed integer that orders floats as the comparisons do: -NaN < -Inf ... -0 = +0 ... +Inf < +NaN."""
    mag = v.and_(a, v.const(MAG))
    return v.select(v.slt(a, v.const(0)), v.sub(v.const(0), mag), mag)


def _fgt(v: LaneOps[V, M], a: V, b: V) -> M:
    return v.slt(_order(v, b), _order(v, a))


def fmin(v: LaneOps[V, M], a: V, b: V) -> V:
    """The smaller float, its pattern unchanged; of equal ones (+0, -0) the first (uncertain)."""
    return v.select(_fgt(v, a, b), b, a)


def fmax(v: LaneOps[V, M], a: V, b: V) -> V:
    """The larger float, its pattern unchanged; of +0 and -0 the second (measured)."""
    return v.select(_fgt(v, a, b), a, b)


def fminabs(v: LaneOps[V, M], a: V, b: V) -> V:
    """The smaller magnitude, not negative; a NaN loses (measured)."""
    x, y = v.and_(a, v.const(MAG)), v.and_(b, v.const(MAG))
    return v.select(v.ult(y, x), y, x)


def fmaxabs(v: LaneOps[V, M], a: V, b: V) -> V:
    """The larger magnitude, not negative; a NaN wins (measured)."""
    x, y = v.and_(a, v.const(MAG)), v.and_(b, v.const(MAG))
    return v.select(v.ult(y, x), x, y)


def ftoi(v: LaneOps[V, M], a: V, b: V) -> V:
    """Truncates toward zero. 0 for NaN, infinity and abs(a) >= 2**31.

    +-FLT_MAX gives 0x80000000 in one measurement (uncertain, kept as recorded).
    """
    mag = v.and_(a, v.const(MAG))
    inside = v.ult(mag, v.const(0x4F000000))  # 2**31
    odd = v.select(v.eq(mag, v.const(FLT_MAX)), v.const(SIGN), v.const(0))
    return v.select(inside, v.ftoi(a), odd)


def itof(v: LaneOps[V, M], a: V, b: V) -> V:
    """Signed integer to float, toward zero (uncertain: one source)."""
    return v.itof_rz(a)


# -- integers


def not_(v: LaneOps[V, M], a: V, b: V) -> V:
    """Bitwise complement."""
    return v.not_(a)


def clz(v: LaneOps[V, M], a: V, b: V) -> V:
    """Leading zero bits; 32 for 0."""
    return v.clz(a)


# -- bytes: even and odd bytes separately, in 16-bit fields, which have room for a carry

_EVEN = 0x00FF00FF
_ONES = 0x00010001


def _halves(v: LaneOps[V, M], a: V) -> tuple[V, V]:
    even = v.const(_EVEN)
    return v.and_(a, even), v.and_(v.shr(a, v.const(8)), even)


def _join(v: LaneOps[V, M], even: V, odd: V) -> V:
    return v.or_(even, v.shl(odd, v.const(8)))


def _adds(v: LaneOps[V, M], a: V, b: V) -> V:
    total = v.add(a, b)
    over = v.mul(v.and_(v.shr(total, v.const(8)), v.const(_ONES)), v.const(255))
    return v.and_(v.or_(total, over), v.const(_EVEN))


def _subs(v: LaneOps[V, M], a: V, b: V) -> V:
    rest = v.sub(v.or_(a, v.const(0x01000100)), b)
    keep = v.mul(v.and_(v.shr(rest, v.const(8)), v.const(_ONES)), v.const(255))
    return v.and_(rest, keep)


def v8adds(v: LaneOps[V, M], a: V, b: V) -> V:
    """Byte by byte min(a + b, 255)."""
    (a0, a1), (b0, b1) = _halves(v, a), _halves(v, b)
    return _join(v, _adds(v, a0, b0), _adds(v, a1, b1))


def v8subs(v: LaneOps[V, M], a: V, b: V) -> V:
    """Byte by byte max(a - b, 0)."""
    (a0, a1), (b0, b1) = _halves(v, a), _halves(v, b)
    return _join(v, _subs(v, a0, b0), _subs(v, a1, b1))


def v8min(v: LaneOps[V, M], a: V, b: V) -> V:
    """Byte by byte the smaller, unsigned. With equal operands it is the MUL ALU's move."""
    return v.sub(a, v8subs(v, a, b))


def v8max(v: LaneOps[V, M], a: V, b: V) -> V:
    """Byte by byte the larger, unsigned."""
    return v.add(b, v8subs(v, a, b))


def v8muld(v: LaneOps[V, M], a: V, b: V) -> V:
    """Byte by byte (a * b + 127) / 255. Hardware was checked to +-1 only (uncertain)."""
    byte, half = v.const(255), v.const(127)
    result = v.const(0)
    for shift in (0, 8, 16, 24):
        n = v.const(shift)
        x, y = v.and_(v.shr(a, n), byte), v.and_(v.shr(b, n), byte)
        result = v.or_(result, v.shl(v.udiv(v.add(v.mul(x, y), half), 255), n))
    return result


# -- carry flags


def _shifted_out(v: LaneOps[V, M], a: V, b: V, at: V) -> M:
    one = v.const(1)
    bit = v.eq(v.and_(v.shr(a, v.and_(at, v.const(31))), one), one)
    return v.mand(bit, v.mnot(v.eq(count(v, b), v.const(0))))


def carry_shl(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """The last bit shifted out on the left; clear for a count of 0."""
    return _shifted_out(v, a, b, v.sub(v.const(32), count(v, b)))


def carry_shr(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """The last bit shifted out on the right; clear for a count of 0."""
    return _shifted_out(v, a, b, v.sub(count(v, b), v.const(1)))


def carry_fgreater(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """a > b in the order of `fmin` and `fmax`."""
    return _fgt(v, a, b)


def carry_abs_greater(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """abs(a) > abs(b)."""
    return v.ult(v.and_(b, v.const(MAG)), v.and_(a, v.const(MAG)))


def carry_positive(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """result > 0, infinities included (measured)."""
    return v.slt(v.const(0), result)


def carry_itof(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """a > 0, signed (uncertain: VC4C's measurement; vc4asm's model keeps it clear)."""
    return v.slt(v.const(0), a)


def carry_mul24(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """The 48-bit product exceeds 32 bits (uncertain: VC4C's measurement; vc4asm's model looks at 24 bits)."""
    mask = v.const(0xFFFFFF)
    return v.mnot(v.eq(v.umulh(v.and_(a, mask), v.and_(b, mask)), v.const(0)))


# -- saturation of a 32-bit overflow


def overflow_add(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """Signed overflow of a + b."""
    return v.slt(v.and_(v.xor(a, result), v.xor(b, result)), v.const(0))


def overflow_sub(v: LaneOps[V, M], a: V, b: V, result: V) -> M:
    """Signed overflow of a - b."""
    return v.slt(v.and_(v.xor(a, b), v.xor(a, result)), v.const(0))


def saturate_add(v: LaneOps[V, M], a: V, b: V, result: V) -> V:
    """The sum, saturated to 32 signed bits (measured)."""
    limit = v.select(carry_add(v, a, b, result), v.const(SIGN), v.const(MAG))
    return v.select(overflow_add(v, a, b, result), limit, result)


def saturate_sub(v: LaneOps[V, M], a: V, b: V, result: V) -> V:
    """The difference, saturated; the limit follows the carry flag, which gives the "wrong" end (uncertain: VC4C)."""
    limit = v.select(carry_sub(v, a, b, result), v.const(SIGN), v.const(MAG))
    return v.select(overflow_sub(v, a, b, result), limit, result)


# -- special functions (SFU)


def recip(v: LaneOps[V, M], a: V) -> V:
    """1/a; infinity for 0. Hardware gives 10 to 12 correct bits of the mantissa; this is the rounded exact value."""
    return flush(v, v.recip(flush(v, a)))


def rsqrt(v: LaneOps[V, M], a: V) -> V:
    """1/sqrt(abs(a)); infinity for 0."""
    return flush(v, v.rsqrt(v.and_(flush(v, a), v.const(MAG))))


def exp2(v: LaneOps[V, M], a: V) -> V:
    """2**a; infinity on overflow, 0 on underflow."""
    return flush(v, v.exp2(flush(v, a)))


def log2(v: LaneOps[V, M], a: V) -> V:
    """log2(abs(a)); -infinity for 0."""
    return flush(v, v.log2(v.and_(flush(v, a), v.const(MAG))))


# -- rotation, immediates, conditions


def rotate_full(v: LaneOps[V, M], a: V, n: V) -> V:
    """Lane i goes to lane (i + n) mod 16: MUL operands r0..r3."""
    return v.permute(a, v.and_(v.sub(v.lane_id(), n), v.const(15)))


def rotate_in_quads(v: LaneOps[V, M], a: V, n: V) -> V:
    """Lane 4q + e goes to 4q + (e + n) mod 4: MUL operands r4, r5 and register files (py-videocore's rotate test)."""
    lane = v.lane_id()
    inner = v.and_(v.sub(lane, n), v.const(3))
    return v.permute(a, v.or_(v.and_(lane, v.const(12)), inner))


def load_immediate(v: LaneOps[V, M], mode: int, imm: int) -> V:
    """The value of a load immediate of variant `mode`: 0 word, 1 per element signed, 3 per element unsigned."""
    if mode == 0:
        return v.const(imm)
    lane, one = v.lane_id(), v.const(1)
    low = v.and_(v.shr(v.const(imm & 0xFFFF), lane), one)
    high = v.shl(v.and_(v.shr(v.const(imm >> 16), lane), one), one)
    if mode == 3:
        return v.or_(high, low)
    if mode != 1:
        raise UsageError(f"load immediate variant {mode} is reserved", help="pass 0, 1 or 3")
    return v.sub(low, high)


def condition(v: LaneOps[V, M], code: int, z: M, n: M, c: M) -> M:
    """Lanes where write condition `code` (0..7) holds, given the flags."""
    if code < 2:
        return v.mconst(code == 1)
    flag = (z, n, c)[(code >> 1) - 1]
    return v.mnot(flag) if code & 1 else flag
