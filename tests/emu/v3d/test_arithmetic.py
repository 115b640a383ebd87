"""Tests of arithmetic in lanes: checksums, random numbers, long arithmetic, special functions."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from qpu.core.isa import Isa
from tests.emu.v3d.idioms import (
    LANE,
    config,
    jump,
    lane_address,
    lanes_of,
    load,
    program,
    rounds,
    take,
)
from tests.emu.v3d.rig import Rig, move

U = np.uint32


@program()
def test_crc32_of_sixteen_messages(isa: Isa) -> None:
    """Bit by bit, a message a lane."""
    rig, length = Rig(isa), 12
    messages = np.random.default_rng(5).integers(0, 256, (16, length)).astype(np.uint8)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7], r[8])
        q.eidx(r[10])
        q.nop().umul24(r[10], r[10], r[8])
        q.add(r[5], r[5], r[10])
        q.not_(r[11], 0)
        with rounds(q, r[8]):
            move(q, q.tmuc, r[6])
            move(q, q.tmua, r[5])
            q.nop(sig=q.ldtmu(r[12]))
            q.add(r[5], r[5], 1)
            q.xor(r[11], r[11], r[12])
            move(q, r[13], 8)
            with rounds(q, r[13]):
                q.and_(q.null, r[11], 1, push="pushz")
                q.shr(r[11], r[11], 1)
                q.xor(r[11], r[11], r[7], cond="ifna")
        q.not_(r[11], r[11])
        return r[11]

    got = lanes_of(rig, body, (rig.buffer(messages), config(15, 5), 0xEDB88320, length))
    assert got.tolist() == [zlib.crc32(m.tobytes()) for m in messages]


@program()
def test_galois_shift_registers(isa: Isa) -> None:
    """Maximal-length LFSRs; after 2**10 - 1 steps of a ten-bit register every lane is back where it began."""

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        q.eidx(r[7])
        q.add(r[7], r[7], 1)
        move(q, r[8], r[7])
        move(q, r[10], 0)
        with rounds(q, r[6]):
            q.and_(q.null, r[7], 1, push="pushz")
            q.shr(r[7], r[7], 1)
            q.xor(r[7], r[7], r[5], cond="ifna")
            q.sub(q.null, r[7], r[8], push="pushz")
            q.add(r[10], r[10], 1, cond="ifa")  # returns to the start
        q.shl(r[10], r[10], -16)
        q.or_(r[10], r[10], r[7])
        return r[10]

    assert (lanes_of(Rig(isa), body, (0x240, 1023)) == (1 << 16 | LANE + 1)).all()


@program()
def test_fnv_hashes(isa: Isa) -> None:
    """32-bit products from multop and umul24."""
    rig, length = Rig(isa), 9
    data = np.random.default_rng(6).integers(0, 256, (16, length)).astype(np.uint8)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7], r[8], r[10])
        q.eidx(r[11])
        q.nop().umul24(r[11], r[11], r[10])
        q.add(r[5], r[5], r[11])
        with rounds(q, r[10]):
            move(q, q.tmuc, r[8])
            move(q, q.tmua, r[5])
            q.nop(sig=q.ldtmu(r[12]))
            q.add(r[5], r[5], 1)
            q.xor(r[6], r[6], r[12])
            q.nop().multop(q.null, r[6], r[7])
            q.nop().umul24(r[6], r[6], r[7])
        return r[6]

    got = lanes_of(rig, body, (rig.buffer(data), 0x811C9DC5, 0x01000193, config(15, 5), length))
    for lane in range(16):
        h = 0x811C9DC5
        for byte in data[lane].tolist():
            h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
        assert got[lane] == h


@program()
def test_high_half_of_a_product(isa: Isa) -> None:
    """32 x 32 -> upper 32 bits out of 16-bit pieces and carries."""
    rig = Rig(isa)
    rng = np.random.default_rng(7)
    x, y = rng.integers(0, 1 << 32, (2, 16), dtype=U)
    x[:2] = 0xFFFFFFFF
    y[0] = 0xFFFFFFFF

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        for base, lo, hi in ((r[5], r[7], r[8]), (r[6], r[10], r[11])):
            lane_address(q, r[12], base)
            load(q, lo, r[12])
            q.shr(hi, lo, -16)
            q.shl(lo, lo, -16)
            q.shr(lo, lo, -16)
        q.nop().umul24(r[12], r[7], r[10])  # lo * lo
        q.nop().umul24(r[13], r[7], r[11])
        q.nop().umul24(r[14], r[8], r[10])
        q.nop().umul24(r[15], r[8], r[11])  # hi * hi
        move(q, r[17], 0)
        q.add(r[16], r[13], r[14], push="pushc")
        q.add(r[17], r[17], 1, cond="ifa")
        q.shl(r[17], r[17], -16)
        q.shl(r[18], r[16], -16)
        q.shr(r[16], r[16], -16)
        q.add(r[12], r[12], r[18], push="pushc")
        q.add(r[15], r[15], 1, cond="ifa")
        q.add(r[15], r[15], r[16])
        q.add(r[15], r[15], r[17])
        return r[15]

    got = lanes_of(rig, body, (rig.buffer(x), rig.buffer(y)))
    assert got.tolist() == [int(a) * int(b) >> 32 for a, b in zip(x, y, strict=True)]


@program()
def test_long_division(isa: Isa) -> None:
    """Unsigned division by shifting and subtracting: quotient and remainder of every lane."""
    rig = Rig(isa)
    rng = np.random.default_rng(8)
    x = rng.integers(0, 1 << 32, 16, dtype=U)
    y = (rng.integers(1, 1 << 31, 16, dtype=U) >> rng.integers(0, 31, 16).astype(U)) + U(1)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        for base, d in ((r[5], r[7]), (r[6], r[8])):
            lane_address(q, r[10], base)
            load(q, d, r[10])
        move(q, r[11], 0)  # remainder
        move(q, r[12], 8)
        q.shl(r[12], r[12], 2)
        with rounds(q, r[12]):
            q.add(r[11], r[11], r[11])
            q.add(r[7], r[7], r[7], push="pushc")
            q.add(r[11], r[11], 1, cond="ifa")
            q.sub(r[13], r[11], r[8], push="pushc")  # A: does not fit
            move(q, r[11], r[13], cond="ifna")
            q.add(r[7], r[7], 1, cond="ifna")
        q.shl(r[14], r[11], 7)
        q.xor(r[14], r[14], r[7])
        return r[14]

    quotient, rest = x // y, x % y
    assert (lanes_of(rig, body, (rig.buffer(x), rig.buffer(y))) == rest << U(7) ^ quotient).all()


@program()
def test_bit_tricks(isa: Isa) -> None:
    """Population count, reversal and Morton interleaving with masks from the uniforms."""
    rig = Rig(isa)
    x = np.random.default_rng(9).integers(0, 1 << 32, 16, dtype=U)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[10], r[11], r[12])
        lane_address(q, r[6], r[5])
        load(q, r[7], r[6])
        q.shr(r[8], r[7], 1)
        q.and_(r[8], r[8], r[10])
        q.sub(r[13], r[7], r[8])
        q.shr(r[8], r[13], 2)
        q.and_(r[8], r[8], r[11])
        q.and_(r[13], r[13], r[11])
        q.add(r[13], r[13], r[8])
        q.shr(r[8], r[13], 4)
        q.add(r[13], r[13], r[8])
        q.and_(r[13], r[13], r[12])
        q.shr(r[8], r[13], 8)
        q.add(r[13], r[13], r[8])
        q.shr(r[8], r[13], -16)
        q.add(r[13], r[13], r[8])
        q.and_(r[13], r[13], r[12])
        move(q, r[14], r[7])
        for mask, n in ((r[10], 1), (r[11], 2), (r[12], 4)):
            q.shr(r[8], r[14], n)
            q.and_(r[8], r[8], mask)
            q.and_(r[14], r[14], mask)
            q.shl(r[14], r[14], n)
            q.or_(r[14], r[14], r[8])  # reversed inside every byte
        q.clz(r[15], r[7])
        q.shl(r[15], r[15], 8)
        q.add(r[14], r[14], r[15])
        q.ror(r[14], r[14], 5)
        q.add(r[14], r[14], r[13])
        return r[14]

    masks = (0x55555555, 0x33333333, 0x0F0F0F0F)
    got = lanes_of(rig, body, (rig.buffer(x), *masks))
    for lane, v in enumerate(x.tolist()):
        p = v - (v >> 1 & masks[0])
        p = (p & masks[1]) + (p >> 2 & masks[1])
        p = p + (p >> 4) & masks[2]
        p += p >> 8
        p += p >> 16
        p &= masks[2]
        flipped = int.from_bytes(bytes(int(f"{b:08b}"[::-1], 2) for b in v.to_bytes(4, "little")), "little")
        flipped = flipped + ((32 - v.bit_length()) << 8) & 0xFFFFFFFF
        flipped = (flipped >> 5 | flipped << 27) & 0xFFFFFFFF
        assert got[lane] == flipped + p & 0xFFFFFFFF


@program()
def test_square_roots_by_newton(isa: Isa) -> None:
    """rsqrt as the seed, two refinements, multiplied back: correct to an ulp or two."""
    rig = Rig(isa)
    x = np.random.default_rng(10).uniform(1e-3, 1e6, 16).astype(np.float32)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        lane_address(q, r[6], r[5])
        load(q, r[7], r[6])
        q.rsqrt(r[8], r[7])
        q.nop()
        q.nop().fmul(r[10], r[7], 0.5)
        for _ in range(2):
            q.nop().fmul(r[11], r[8], r[8])
            q.nop().fmul(r[11], r[11], r[10])
            q.fsub(r[11], 0.5, r[11])
            q.nop().fmul(r[11], r[11], r[8])
            q.fadd(r[8], r[8], r[11])
        q.nop().fmul(r[8], r[8], r[7])
        return r[8]

    got = lanes_of(rig, body, (rig.buffer(x),)).view(np.float32)
    assert np.allclose(got, np.sqrt(x.astype(np.float64)), rtol=3e-7)


@program()
def test_box_muller(isa: Isa) -> None:
    """log, rsqrt, recip and sin in one pipeline."""
    rig = Rig(isa)
    u, v = np.random.default_rng(11).uniform(0.01, 0.99, (2, 16)).astype(np.float32)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7])
        for base, d in ((r[5], r[8]), (r[6], r[10])):
            lane_address(q, r[11], base)
            load(q, d, r[11])
        q.log(r[12], r[8])
        q.fsub(r[10], r[10], 0.5)  # the unit takes -1/2 .. 1/2
        q.sin(r[13], r[10])
        q.nop().fmul(r[12], r[12], r[7])  # -2 ln u
        q.rsqrt(r[14], r[12])
        q.nop()
        q.recip(r[14], r[14])
        q.nop()
        q.nop().fmul(r[14], r[14], r[13])
        return r[14]

    got = lanes_of(rig, body, (rig.buffer(u), rig.buffer(v), float(-2 * np.log(2)))).view(np.float32)
    want = np.sqrt(-2 * np.log(u.astype(np.float64))) * np.sin(np.pi * (v.astype(np.float64) - 0.5))
    assert np.allclose(got, want, rtol=2e-5, atol=1e-6)


@program()
def test_logistic_function_in_halves(isa: Isa) -> None:
    """1 / (1 + 2**-x) packed into halves."""
    rig = Rig(isa)
    x = np.random.default_rng(16).uniform(-4, 4, 16).astype(np.float32)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        lane_address(q, r[6], r[5])
        load(q, r[7], r[6])
        q.fsub(r[8], r[7], r[7])
        q.fsub(r[8], r[8], r[7])
        q.exp(r[8], r[8])
        q.nop()
        q.fadd(r[8], r[8], 1.0)
        q.recip(r[8], r[8])
        q.nop()
        q.fsub(r[10], 1.0, r[8])
        q.vfpack(r[11], r[8], r[10])
        return r[11]

    got = lanes_of(rig, body, (rig.buffer(x),)).view(np.float16).reshape(16, 2)
    want = 1 / (1 + np.exp2(-x.astype(np.float64)))
    assert np.allclose(got[:, 0], want, rtol=2e-3)
    assert np.allclose(got[:, 1], 1 - want, rtol=2e-3)


@program()
def test_modular_powers(isa: Isa) -> None:
    """x ** e mod p by squaring; the reduction uses a float reciprocal and is corrected in integers."""
    rig, p, e = Rig(isa), 4093, 1234

    def reduce(q: Any, d: Any) -> None:
        """d mod rf5, for d below 2**24."""
        r = q.rf
        q.utof(r[10], d)
        q.nop().fmul(r[10], r[10], r[6])
        q.ftouz(r[10], r[10])
        q.nop().umul24(r[10], r[10], r[5])
        q.sub(d, d, r[10], push="pushn")
        q.add(d, d, r[5], cond="ifa")
        q.sub(r[10], d, r[5], push="pushn")
        move(q, d, r[10], cond="ifna")

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[7])
        q.utof(r[6], r[5])
        q.recip(r[6], r[6])
        q.eidx(r[8])
        q.add(r[8], r[8], 2)
        move(q, r[11], 1)
        with q.loop() as loop:
            q.and_(q.null, r[7], 1, push="pushz")
            jump(q, "even", "a0")
            q.nop().umul24(r[11], r[11], r[8])
            reduce(q, r[11])
            q.label("even")
            q.nop().umul24(r[8], r[8], r[8])
            reduce(q, r[8])
            q.shr(r[7], r[7], 1, push="pushz")
            jump(q, loop.start, "na0")
        return r[11]

    assert lanes_of(rig, body, (p, e)).tolist() == [pow(x + 2, e, p) for x in range(16)]
