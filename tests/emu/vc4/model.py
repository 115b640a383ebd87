"""Independent model of one ALU instruction of VideoCore IV: plain integers, lane by lane, exact fractions.

Written from the reference text; shares no code with the package except the unpacked instruction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from qpu.vc4.instr import Alu

M32 = 0xFFFFFFFF
INF = 0x7F800000


def s32(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x


def bytes_of(x: int) -> list[int]:
    return [x >> s & 255 for s in (0, 8, 16, 24)]


def from_bytes(b: list[int]) -> int:
    return b[0] | b[1] << 8 | b[2] << 16 | b[3] << 24


def is_nan(x: int) -> bool:
    return (x & 0x7FFFFFFF) > INF


def is_inf(x: int) -> bool:
    return (x & 0x7FFFFFFF) == INF


def special(x: int) -> bool:
    return (x & INF) == INF


def zeroish(x: int) -> bool:
    return (x & INF) == 0


def value(x: int) -> Fraction:
    """The number a finite pattern stands for; denormals and zeros count as 0."""
    if zeroish(x):
        return Fraction(0)
    mantissa = (x & 0x7FFFFF) | 0x800000
    number = Fraction(mantissa) * Fraction(2) ** ((x >> 23 & 255) - 150)
    return -number if x >> 31 else number


def to_float(number: Fraction, *, nearest: bool) -> int:
    """Round a fraction to a pattern: toward zero or to nearest even. Denormal results are +0."""
    if number == 0:
        return 0
    sign = 0x80000000 if number < 0 else 0
    number = abs(number)
    exponent = 0
    while number >= 2:
        number /= 2
        exponent += 1
    while number < 1:
        number *= 2
        exponent -= 1
    # With gradual underflow a denormal has fewer bits; rounding up may reach the smallest normal number.
    scaled = number * (1 << 23)
    if exponent < -126:
        scaled /= 1 << (-126 - exponent)
        exponent = -126
        if scaled < 1 << 22:
            return 0
    mantissa = int(scaled)
    rest = scaled - mantissa
    if nearest and (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and mantissa & 1)):
        mantissa += 1
    if mantissa == 1 << 24:
        mantissa >>= 1
        exponent += 1
    if mantissa < 1 << 23:
        return 0
    if exponent > 127:
        return sign | (INF if nearest else 0x7F7FFFFF)
    return sign | (exponent + 127) << 23 | (mantissa & 0x7FFFFF)


def fadd(a: int, b: int) -> int:
    if is_nan(b):
        return (b & 0x80000000) | INF
    if is_nan(a):
        return (a & 0x80000000) | INF
    if is_inf(b):
        return b
    if is_inf(a):
        return a
    return to_float(value(a) + value(b), nearest=False)


def fsub(a: int, b: int) -> int:
    return fadd(a, b ^ 0x80000000)


def fmul(a: int, b: int) -> int:
    if zeroish(a) or zeroish(b):
        return 0
    if special(a) or special(b):
        return ((a ^ b) & 0x80000000) | INF
    return to_float(value(a) * value(b), nearest=True)


def order(x: int) -> int:
    """-NaN < -Inf < ... < 0 < ... < +Inf < +NaN."""
    return -(x & 0x7FFFFFFF) if x >> 31 else x


def ftoi(a: int) -> int:
    if (a & 0x7FFFFFFF) == 0x7F7FFFFF:
        return 0x80000000
    if special(a) or abs(value(a)) >= 1 << 31:
        return 0
    number = value(a)
    return (int(number) if number >= 0 else -int(-number)) & M32


def add_op(op: int, a: int, b: int) -> int:
    n = b & 31
    if op == 1:
        return fadd(a, b)
    if op == 2:
        return fsub(a, b)
    if op == 3:
        return b if order(a) > order(b) else a
    if op == 4:
        return a if order(a) > order(b) else b
    if op == 5:
        return min(a & 0x7FFFFFFF, b & 0x7FFFFFFF)
    if op == 6:
        return max(a & 0x7FFFFFFF, b & 0x7FFFFFFF)
    if op == 7:
        return ftoi(a)
    if op == 8:
        return to_float(Fraction(s32(a)), nearest=False)
    if op == 12:
        return (a + b) & M32
    if op == 13:
        return (a - b) & M32
    if op == 14:
        return a >> n
    if op == 15:
        return (s32(a) >> n) & M32
    if op == 16:
        return (a >> n | a << (32 - n)) & M32
    if op == 17:
        return (a << n) & M32
    if op == 18:
        return min(s32(a), s32(b)) & M32
    if op == 19:
        return max(s32(a), s32(b)) & M32
    if op == 20:
        return a & b
    if op == 21:
        return a | b
    if op == 22:
        return a ^ b
    if op == 23:
        return a ^ M32
    if op == 24:
        return 32 - a.bit_length()
    return byte_op({30: "adds", 31: "subs"}[op], a, b)


def byte_op(kind: str, a: int, b: int) -> int:
    rule = {
        "adds": lambda x, y: min(x + y, 255),
        "subs": lambda x, y: max(x - y, 0),
        "min": min,
        "max": max,
        "muld": lambda x, y: (x * y + 127) // 255,
    }[kind]
    return from_bytes([rule(x, y) for x, y in zip(bytes_of(a), bytes_of(b), strict=True)])


def mul_op(op: int, a: int, b: int) -> int:
    if op == 1:
        return fmul(a, b)
    if op == 2:
        return (a & 0xFFFFFF) * (b & 0xFFFFFF) & M32
    return byte_op({3: "muld", 4: "min", 5: "max", 6: "adds", 7: "subs"}[op], a, b)


def add_carry(op: int, a: int, b: int, result: int) -> bool:
    n = b & 31
    if op in (1, 2):
        return s32(result) > 0
    if op in (3, 4):
        return order(a) > order(b)
    if op in (5, 6):
        return (a & 0x7FFFFFFF) > (b & 0x7FFFFFFF)
    if op == 8:
        return s32(a) > 0
    if op == 12:
        return a + b > M32
    if op == 13:
        return a < b
    if op in (14, 15):
        return bool(n and a >> (n - 1) & 1)
    if op == 17:
        return bool(n and a >> (32 - n) & 1)
    if op in (18, 19):
        return s32(a) > s32(b)
    return False


def mul_carry(op: int, a: int, b: int) -> bool:
    return op == 2 and (a & 0xFFFFFF) * (b & 0xFFFFFF) > M32


def half_to_float(h: int) -> int:
    sign, exponent, mantissa = (h >> 15) << 31, h >> 10 & 31, h & 0x3FF
    if exponent == 31:
        return sign | INF | mantissa << 13
    if exponent == 0:
        return sign | mantissa << 13  # not renormalised
    return sign | (exponent - 15 + 127) << 23 | mantissa << 13


def float_to_half(x: int) -> int:
    """Inexact values away from zero; denormal results +0; NaN and out of range: infinity."""
    sign = x >> 31 << 15
    if special(x):
        return sign | 0x7C00
    magnitude = abs(value(x))
    if magnitude < Fraction(1, 1 << 14):
        return 0
    exponent = 0
    while magnitude >= 2:
        magnitude /= 2
        exponent += 1
    while magnitude < 1:
        magnitude *= 2
        exponent -= 1
    scaled = magnitude * 1024
    mantissa = int(scaled) + (scaled != int(scaled))
    if mantissa == 2048:
        mantissa, exponent = 1024, exponent + 1
    if exponent > 15:
        return sign | 0x7C00
    return sign | (exponent + 15) << 10 | (mantissa & 1023)


def unpack(mode: int, x: int, is_float: bool) -> int:
    if mode == 0:
        return x
    if mode in (1, 2):
        half = x >> 16 if mode == 2 else x & 0xFFFF
        if is_float:
            return half_to_float(half)
        return (half - 0x10000 if half >> 15 else half) & M32
    if mode == 3:
        return from_bytes([x >> 24] * 4)
    byte = bytes_of(x)[mode - 4]
    return to_float(Fraction(byte, 255), nearest=False) if is_float else byte


def clip(x: int, low: int, high: int) -> int:
    return max(low, min(high, s32(x))) & M32


def saturated(op: int, a: int, b: int, result: int) -> int:
    """32-bit saturation of an overflowing add or sub; the direction follows the carry."""
    if op == 12 and not -(1 << 31) <= s32(a) + s32(b) < 1 << 31:
        return 0x80000000 if add_carry(op, a, b, result) else 0x7FFFFFFF
    if op == 13 and not -(1 << 31) <= s32(a) - s32(b) < 1 << 31:
        return 0x80000000 if add_carry(op, a, b, result) else 0x7FFFFFFF
    return result


def pack_a(mode: int, old: int, x: int, is_float: bool) -> int:
    if mode in (0, 8):
        return x
    if mode in (1, 2, 9, 10):
        if is_float:
            half = float_to_half(x)
        elif mode >= 9:
            half = clip(x, -32768, 32767) & 0xFFFF
        else:
            half = x & 0xFFFF
        return (old & 0xFFFF0000) | half if mode in (1, 9) else (old & 0xFFFF) | half << 16
    byte = clip(x, 0, 255) if mode >= 11 else x & 255
    if mode in (3, 11):
        return from_bytes([byte] * 4)
    parts = bytes_of(old)
    parts[mode & 3] = byte
    return from_bytes(parts)


def colour(x: int) -> int:
    if is_nan(x):
        return 0
    if is_inf(x):
        return 0 if x >> 31 else 255
    number = value(x) * 255
    whole = int(number) if number >= 0 else 0
    rest = number - whole
    if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole & 1):
        whole += 1
    return max(0, min(255, whole))


def pack_mul(mode: int, old: int, x: int) -> int:
    if mode == 0:
        return x
    if mode == 3:
        return from_bytes([colour(x)] * 4)
    parts = bytes_of(old)
    parts[mode - 4] = colour(x)
    return from_bytes(parts)


FLOAT_SOURCES = {1, 2, 3, 4, 5, 6, 7}
FLOAT_RESULTS = {1, 2, 3, 4, 5, 6, 8}


@dataclass
class State:
    """Registers of one QPU: lists of 16 integers."""

    a: list[list[int]]
    b: list[list[int]]
    acc: list[list[int]]
    z: list[bool]
    n: list[bool]
    c: list[bool]
    latch_a: list[int] = field(default_factory=lambda: [0] * 4)
    latch_b: list[int] = field(default_factory=lambda: [0] * 4)
    latch_mul: list[int] = field(default_factory=lambda: [0] * 4)


def small_imm(code: int) -> int:
    if code < 16:
        return code
    if code < 32:
        return (code - 32) & M32
    if code < 48:
        return to_float(Fraction(2) ** (code - 32 if code < 40 else code - 48), nearest=True)
    return (code - 64) & M32


def execute(s: State, i: Alu) -> None:
    """One ALU instruction that uses no peripheral."""
    lanes = range(16)
    va = s.a[i.raddr_a] if i.raddr_a < 32 else [s.latch_a[e & 3] for e in lanes]
    if i.sig == 13:
        vb = [small_imm(i.raddr_b)] * 16
    else:
        vb = list(s.b[i.raddr_b]) if i.raddr_b < 32 else [s.latch_b[e & 3] for e in lanes]
    raw_a = list(va)
    floating = (6 in (i.add_a, i.add_b) and i.op_add in FLOAT_SOURCES) or (6 in (i.mul_a, i.mul_b) and i.op_mul == 1)
    if i.op_add == 7:
        floating = i.add_a == 6 or (6 in (i.mul_a, i.mul_b) and i.op_mul == 1)
    if i.unpack and not i.pm and i.raddr_a < 32:
        va = [unpack(i.unpack, x, floating) for x in va]
    r4 = s.acc[4]
    if i.unpack and i.pm:
        r4 = [unpack(i.unpack, x, True) for x in r4]
    sources = [*s.acc[:4], r4, s.acc[5], va, vb]

    def mul_source(mux: int) -> list[int]:
        x = sources[mux]
        if i.sig != 13 or i.raddr_b < 48 or mux == 7:
            return x
        n = s.acc[5][0] & 15 if i.raddr_b == 48 else i.raddr_b - 48
        out = [0] * 16
        for e in lanes:
            out[(e + n) % 16 if mux < 4 else (e & 12) + (e + n) % 4] = x[e]
        return out

    add_a, add_b = sources[i.add_a], sources[i.add_b]
    mul_a, mul_b = mul_source(i.mul_a), mul_source(i.mul_b)
    add = [add_op(i.op_add, x, y) for x, y in zip(add_a, add_b, strict=True)] if i.op_add else None
    if i.op_mul:
        mul = [mul_op(i.op_mul, x, y) for x, y in zip(mul_a, mul_b, strict=True)]
    else:
        mul = [s.latch_mul[e & 3] for e in lanes]

    def holds(cond: int) -> list[bool]:
        if cond < 2:
            return [cond == 1] * 16
        flag = (s.z, s.n, s.c)[cond // 2 - 1]
        return [f != bool(cond & 1) for f in flag]

    when_add, when_mul = holds(i.cond_add), holds(i.cond_mul)
    flags = None
    if i.sf and i.op_add and add is not None:
        carry = [add_carry(i.op_add, x, y, r) for x, y, r in zip(add_a, add_b, add, strict=True)]
        flags = add, carry, when_add
    elif i.sf:
        carry = [mul_carry(i.op_mul, x, y) for x, y in zip(mul_a, mul_b, strict=True)]
        flags = mul, carry, when_mul

    for is_mul, result, when, waddr in ((False, add, when_add, i.waddr_add), (True, mul, when_mul, i.waddr_mul)):
        if result is None:
            continue
        file_a = bool(i.ws) == is_mul
        for e in lanes:
            if waddr == 37:
                source = e & 12 if file_a else 0
                if when[source]:
                    x = result[source]
                    if i.pm and is_mul and i.pack:
                        x = pack_mul(i.pack, s.acc[5][source], x)
                    pending = s.__dict__.setdefault("_r5", {})
                    pending[e] = x
                continue
            if not when[e]:
                continue
            x = result[e]
            if waddr < 32:
                target = s.a[waddr] if file_a else s.b[waddr]
            elif waddr < 36:
                target = s.acc[waddr - 32]
            else:
                continue
            if i.pack and i.pm and is_mul:
                x = pack_mul(i.pack, target[e], x)
            elif i.pack and not i.pm and file_a and waddr < 32:
                if not is_mul:
                    x = saturated(i.op_add, add_a[e], add_b[e], x)
                is_float = i.op_mul == 1 if is_mul else i.op_add in FLOAT_RESULTS
                x = pack_a(i.pack, target[e], x, is_float)
            target[e] = x
        for e, x in s.__dict__.pop("_r5", {}).items():
            s.acc[5][e] = x
    if flags is not None:
        result, carry, when = flags
        for e in lanes:
            if when[e]:
                s.z[e], s.n[e], s.c[e] = result[e] == 0, bool(result[e] >> 31), carry[e]
    if i.raddr_a != 39:
        s.latch_a = raw_a[12:]
    if i.raddr_b != 39 or i.sig == 13:
        s.latch_b = list(vb[12:])
    if i.op_mul and i.cond_mul:
        s.latch_mul = mul[12:]
