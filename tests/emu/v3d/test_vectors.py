"""Tests of requests of vectors and of small types, and of configurations that change from request to request."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.core.isa import Isa
from tests.emu.v3d.idioms import (
    INT8,
    INT16,
    LANE,
    UINT8,
    UINT16,
    VEC2,
    VEC3,
    VEC4,
    config,
    group_x,
    lane_address,
    lanes_of,
    load,
    program,
    rows_of,
    store,
    take,
)
from tests.emu.v3d.rig import Rig, move

U = np.uint32


def load_as(q: Any, registers: list[Any], at: Any, word: Any) -> None:
    """One request with the configuration in a register."""
    move(q, q.tmuc, word)
    move(q, q.tmua, at)
    for d in registers:
        q.nop(sig=q.ldtmu(d))


def store_as(q: Any, values: list[Any], at: Any, word: Any) -> None:
    move(q, q.tmuc, word)
    for v in values:
        move(q, q.tmud, v)
    move(q, q.tmua, at)
    q.tmuwt(q.null)


@program()
def test_complex_products_of_pairs(isa: Isa) -> None:
    rig, n = Rig(isa), 5
    rng = np.random.default_rng(6)
    x, y = (rng.normal(size=(2, 16 * n)) + 1j * rng.normal(size=(2, 16 * n))).astype(np.complex64)
    xs, ys, out = rig.buffer(x), rig.buffer(y), rig.buffer(x.nbytes)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8])
        q.shl(r[10], r[4], 7)
        for base in (r[5], r[6], r[7]):
            q.add(base, base, r[10])
            lane_address(q, r[11], base, 3)
            move(q, base, r[11])
        load_as(q, [r[12], r[13]], r[5], r[8])
        load_as(q, [r[14], r[15]], r[6], r[8])
        q.nop().fmul(r[16], r[12], r[14])
        q.nop().fmul(r[17], r[13], r[15])
        q.fsub(r[16], r[16], r[17])
        q.nop().fmul(r[17], r[12], r[15])
        q.nop().fmul(r[18], r[13], r[14])
        q.fadd(r[17], r[17], r[18])
        store_as(q, [r[16], r[17]], r[7], r[8])
        q.end()

    rig.run(whole, [xs, ys, out, VEC2], workgroups=(n, 1, 1), per_supergroup=n)
    got = rig.f32(out, 32 * n).reshape(-1, 2)
    assert (got[:, 0] == x.real * y.real - x.imag * y.imag).all()
    assert (got[:, 1] == x.real * y.imag + x.imag * y.real).all()


@program()
def test_luminance_of_three_component_pixels(isa: Isa) -> None:
    """Pixels of three floats in sixteen bytes: vec3 by an aligned address."""
    rig = Rig(isa)
    rgb = np.random.default_rng(7).random((16, 4)).astype(np.float32)
    weights = [0.25, 0.625, 0.125]

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7], r[8], r[10])
        lane_address(q, r[11], r[5], 4)
        load_as(q, [r[12], r[13], r[14]], r[11], r[6])
        q.nop().fmul(r[12], r[12], r[7])
        q.nop().fmul(r[13], r[13], r[8])
        q.fadd(r[12], r[12], r[13])
        q.nop().fmul(r[14], r[14], r[10])
        q.fadd(r[12], r[12], r[14])
        return r[12]

    got = lanes_of(rig, body, (rig.buffer(rgb), VEC3, *weights)).view(np.float32)
    w = np.array(weights, np.float32)
    assert (got == rgb[:, 0] * w[0] + rgb[:, 1] * w[1] + rgb[:, 2] * w[2]).all()


@program()
def test_four_by_four_transform_of_vertices(isa: Isa) -> None:
    """vec4 in, vec4 out, the matrix from the unifa stream, read again for every workgroup."""
    rig, n = Rig(isa), 4
    rng = np.random.default_rng(8)
    m = rng.normal(size=(4, 4)).astype(np.float32)
    v = rng.normal(size=(16 * n, 4)).astype(np.float32)
    src, dst, matrix = rig.buffer(v), rig.buffer(v.nbytes), rig.buffer(m)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8])
        q.shl(r[10], r[4], 8)
        for base in (r[5], r[6]):
            q.add(base, base, r[10])
            lane_address(q, r[11], base, 4)
            move(q, base, r[11])
        move(q, q.unifa, r[7])
        load_as(q, [r[12], r[13], r[14], r[15]], r[5], r[8])
        for row in range(4):
            for column in range(4):
                q.nop(sig=q.ldunifarf(r[20]))
                q.nop().fmul(r[21], r[20], r[12 + column])
                if column:
                    q.fadd(r[16 + row], r[16 + row], r[21])
                else:
                    move(q, r[16 + row], r[21])
        store_as(q, [r[16], r[17], r[18], r[19]], r[6], r[8])
        q.end()

    rig.run(whole, [src, dst, matrix, VEC4], workgroups=(n, 1, 1), per_supergroup=n)
    want = v[:, 0:1] * m[:, 0]
    for k in range(1, 4):
        want = want + v[:, k : k + 1] * m[:, k]
    assert (rig.f32(dst, 64 * n).reshape(-1, 4) == want).all()


@program()
def test_saturating_blend_of_bytes(isa: Isa) -> None:
    """Unsigned bytes in, clamped sums out; neighbouring bytes of a word belong to different lanes."""
    rig, n = Rig(isa), 3
    rng = np.random.default_rng(9)
    x, y = rng.integers(0, 256, (2, 16 * n)).astype(np.uint8)
    xs, ys, out = rig.buffer(x), rig.buffer(y), rig.buffer(np.full(64, 0xEE, np.uint8))

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8], r[10])
        q.shl(r[11], r[4], 4)
        for base in (r[5], r[6], r[7]):
            q.add(base, base, r[11])
            lane_address(q, r[12], base, 0)
            move(q, base, r[12])
        load_as(q, [r[13]], r[5], r[8])
        load_as(q, [r[14]], r[6], r[8])
        q.add(r[13], r[13], r[14])
        q.umin(r[13], r[13], r[10])
        store_as(q, [r[13]], r[7], r[8])
        q.end()

    rig.run(whole, [xs, ys, out, UINT8, 255], workgroups=(n, 1, 1), per_supergroup=n)
    got = np.asarray(rig.memory.view(out, 64)).copy()
    assert (got[: 16 * n] == np.minimum(x.astype(int) + y, 255)).all()
    assert (got[16 * n :] == 0xEE).all()


@program()
def test_mix_of_16_bit_samples(isa: Isa) -> None:
    """Signed halves: gain as a fixed-point product, the sum clamped with min and max."""
    rig = Rig(isa)
    rng = np.random.default_rng(10)
    x, y = rng.integers(-32768, 32768, (2, 16)).astype(np.int16)
    out = rig.buffer(64)

    def whole(q: Any) -> None:
        r = q.rf
        take(q, r[5], r[6], r[7], r[8], r[10], r[11])
        for base in (r[5], r[6], r[7]):
            lane_address(q, r[12], base, 1)
            move(q, base, r[12])
        load_as(q, [r[13]], r[5], r[8])
        load_as(q, [r[14]], r[6], r[8])
        for v in (r[13], r[14]):
            q.nop().smul24(v, v, r[10])
            q.asr(v, v, 8)
        q.add(r[13], r[13], r[14])
        q.min(r[13], r[13], r[11])
        q.not_(r[11], r[11])
        q.max(r[13], r[13], r[11])
        store_as(q, [r[13]], r[7], r[8])
        q.end()

    rig.run(whole, [rig.buffer(x), rig.buffer(y), out, INT16, 200, 32767])
    want = np.clip((x.astype(int) * 200 >> 8) + (y.astype(int) * 200 >> 8), -32768, 32767)
    assert (np.asarray(rig.memory.view(out, 32)).copy().view(np.int16) == want).all()


@program()
def test_signed_bytes_meet_unsigned_halves(isa: Isa) -> None:
    """The same bytes read with both signs, and as halves."""
    rig = Rig(isa)
    x = np.random.default_rng(11).integers(0, 256, 32).astype(np.uint8)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7], r[8])
        lane_address(q, r[10], r[5], 1)
        load_as(q, [r[11]], r[10], r[6])
        q.add(r[10], r[10], 1)
        load_as(q, [r[12]], r[10], r[7])
        q.sub(r[10], r[10], 1)
        load_as(q, [r[13]], r[10], r[8])
        q.shl(r[11], r[11], -16)
        q.xor(r[11], r[11], r[12])
        q.add(r[11], r[11], r[13])
        return r[11]

    got = lanes_of(rig, body, (rig.buffer(x), INT8, UINT8, UINT16))
    low = x[::2].view(np.int8).astype(np.int64)
    want = ((low << 16) ^ x[1::2].astype(np.int64)) + x.view(np.uint16).astype(np.int64)
    assert (got == want & 0xFFFFFFFF).all()


@program()
def test_derivatives_in_quads_with_dead_lanes(isa: Isa) -> None:
    """Per-quad loads also fill lanes without samples of a live quad, so that differences across the quad exist."""
    rig = Rig(isa)
    x = (np.arange(16) ** 2 * 0.5).astype(np.float32)
    out = rig.buffer(np.zeros(16, U))

    def whole(q: Any) -> None:
        r = q.rf
        take(q, r[5], r[6], r[7])
        lane_address(q, r[8], r[5])
        lane_address(q, r[10], r[6])
        q.eidx(r[11])
        q.and_(r[11], r[11], 3)
        q.sub(r[11], r[11], 3)
        q.msf(r[14])
        q.setmsf(q.null, r[11])  # the last lane of every quad is dead
        q.nop()
        load_as(q, [r[12]], r[8], r[7])
        q.fdx(r[13], r[12])
        store(q, r[13], r[10])
        q.setmsf(q.null, r[14])
        q.end()

    rig.run(whole, [rig.buffer(x), out, config(15, 7, pixel=False)])
    want = np.where(LANE % 4 == 3, np.float32(0), np.repeat(x[1::2] - x[::2], 2))
    assert (rig.f32(out, 16) == want).all()


@program()
def test_one_configuration_word_for_four_kinds_of_request(isa: Isa) -> None:
    """Load of bytes, vec2 load, atomic and plain store draw their bytes in order; then plain requests for ever."""
    rig = Rig(isa)
    rng = np.random.default_rng(14)
    octets = rng.integers(0, 256, 16).astype(np.uint8)
    pairs = rng.integers(0, 1 << 16, (16, 2)).astype(U)
    cell, out = rig.buffer(64), rig.buffer(64)
    word = (UINT8 & 0xFF) | (VEC2 & 0xFF) << 8 | (config(5) & 0xFF) << 16 | (config(15) & 0xFF) << 24

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7], r[8])
        q.nop(sig=q.wrtmuc)
        lane_address(q, r[10], r[5], 0)
        move(q, q.tmua, r[10])
        lane_address(q, r[10], r[6], 3)
        move(q, q.tmua, r[10])
        q.nop(sig=q.ldtmu(r[11]))
        q.nop(sig=q.ldtmu(r[12]))
        q.nop(sig=q.ldtmu(r[13]))
        q.add(r[11], r[11], r[12])
        q.xor(r[11], r[11], r[13])
        move(q, q.tmud, r[11])
        move(q, q.tmua, r[7])  # umax
        q.nop(sig=q.ldtmu(r[14]))
        lane_address(q, r[10], r[8])
        store(q, r[14], r[10])
        load(q, r[15], r[10])
        q.add(r[15], r[15], r[11])
        return r[15]

    got = lanes_of(rig, body, (rig.buffer(octets), rig.buffer(pairs), cell, out, word))
    x = (octets + pairs[:, 0]) ^ pairs[:, 1]
    before = np.maximum.accumulate(np.concatenate([[0], x[:-1]]))
    assert (rig.u32(out, 16) == before).all()
    assert (got == x + before).all()
    assert rig.u32(cell, 1)[0] == x.max()


@program()
def test_palette_image(isa: Isa) -> None:
    """Indices of a byte each, colours of a word each."""
    rig, n = Rig(isa), 6
    rng = np.random.default_rng(15)
    palette = rng.integers(0, 1 << 32, 256, dtype=U)
    image = rng.integers(0, 256, 16 * n).astype(np.uint8)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7])
        q.shl(r[8], r[4], 4)
        q.add(r[8], r[8], r[5])
        lane_address(q, r[10], r[8], 0)
        load_as(q, [r[11]], r[10], r[7])
        q.shl(r[11], r[11], 2)
        q.add(r[11], r[11], r[6])
        load(q, r[12], r[11])
        return r[12]

    got = rows_of(rig, n, body, (rig.buffer(image), rig.buffer(palette), UINT8))
    assert (got.ravel() == palette[image]).all()


@program()
def test_box_filter_of_a_byte_image(isa: Isa) -> None:
    """3 x 3 sums of bytes, divided by a fixed-point reciprocal: unaligned byte addresses, three rows."""
    rig, width, height = Rig(isa), 18, 8
    image = np.random.default_rng(17).integers(0, 256, (height, width)).astype(np.uint8)
    rows = height - 2
    out = rig.buffer(16 * rows)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6], r[7], r[8], r[10])
        q.nop().umul24(r[11], r[4], r[7])
        q.add(r[5], r[5], r[11])
        lane_address(q, r[12], r[5], 0)
        move(q, r[13], 0)
        for _ in range(3):
            for dx in range(3):
                q.add(r[14], r[12], dx)
                load_as(q, [r[15]], r[14], r[8])
                q.add(r[13], r[13], r[15])
            q.add(r[12], r[12], r[7])
        q.nop().umul24(r[13], r[13], r[10])
        q.shr(r[13], r[13], -16)
        q.shl(r[11], r[4], 4)
        q.add(r[6], r[6], r[11])
        lane_address(q, r[12], r[6], 0)
        store_as(q, [r[13]], r[12], r[8])
        q.end()

    rig.run(whole, [rig.buffer(image), out, width, UINT8, 65536 // 9 + 1], workgroups=(rows, 1, 1), per_supergroup=rows)
    sums = sum(image[y : y + rows, x : x + 16].astype(int) for y in range(3) for x in range(3))
    got = np.asarray(rig.memory.view(out, 16 * rows)).copy().reshape(rows, 16)
    assert (got == sums * (65536 // 9 + 1) >> 16).all()


@program()
def test_axpy_of_halves(isa: Isa) -> None:
    """Packed halves: unpack in the operand, multiply and add in single precision, pack in the destination."""
    rig = Rig(isa)
    rng = np.random.default_rng(18)
    x, y = rng.normal(size=(2, 16, 2)).astype(np.float16)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7])
        for base, d in ((r[5], r[10]), (r[6], r[11])):
            lane_address(q, r[8], base)
            load(q, d, r[8])
        q.nop().fmul(r[12], r[10].l, r[7])
        q.nop().fmul(r[13], r[10].h, r[7])
        q.fadd(r[14].l, r[12], r[11].l)
        q.fadd(r[14].h, r[13], r[11].h)
        return r[14]

    got = lanes_of(rig, body, (rig.buffer(x), rig.buffer(y), 1.5)).view(np.float16).reshape(16, 2)
    want = (x.astype(np.float32) * np.float32(1.5) + y.astype(np.float32)).astype(np.float16)
    assert (got == want).all()


@program()
def test_address_and_configuration_in_one_write(isa: Isa) -> None:
    """tmuau takes its configuration from the uniforms: three different requests in a row."""
    rig = Rig(isa)
    x = np.random.default_rng(19).integers(0, 1 << 32, 64, dtype=U)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        lane_address(q, r[6], r[5], 4)
        for _ in range(3):
            move(q, q.tmuau, r[6])
        for k in range(4):
            q.nop(sig=q.ldtmu(r[10 + k]))
        q.xor(r[10], r[10], r[11])
        q.add(r[10], r[10], r[12])
        q.sub(r[10], r[10], r[13])
        return r[10]

    got = lanes_of(rig, body, (rig.buffer(x), UINT16, VEC2, INT8))
    v = x.reshape(16, 4)
    want = ((v[:, 0] & U(0xFFFF)) ^ v[:, 0]) + v[:, 1] - v[:, 0].astype(np.uint8).view(np.int8).astype(np.int32).view(U)
    assert (got == want).all()
