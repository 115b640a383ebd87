"""Tests of programs with several units: TMU, VPM, DMA, packs, rotations, SFU. NumPy predicts every result."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.vc4.builder import Asm
from tests.emu.vc4.rig import Rig, addresses, store_rows

U = np.uint32


def load(q: Asm, d: Any, address: Any) -> None:
    """d = 16 words from `address` on, through TMU0."""
    addresses(q, q.t0s, address)
    q.nop(sig=q.ldtmu0)
    q.mov(d, q.r4)


def random(seed: int, *shape: int, dtype: Any = U) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 1 << 32, shape, U).view(dtype)


# -- TMU


def test_both_tmus_in_lock_step() -> None:
    """Dot product of two streams: TMU0 brings one factor, TMU1 the other, two requests ahead each."""
    a, b = np.random.default_rng(20).integers(-2048, 2048, (2, 10, 16), np.int32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.r0, q.uniform)
        addresses(q, q.r1, q.uniform)
        q.ldi(q.ra[1], 64)
        q.ldi(q.r2, 0)
        for _ in range(2):
            q.mov(q.t0s, q.r0)
            q.mov(q.t1s, q.r1)
            q.add(q.r0, q.r0, q.ra[1])
            q.add(q.r1, q.r1, q.ra[1])
        for n in range(10):
            q.nop(sig=q.ldtmu0)
            q.mov(q.rb[2], q.r4)
            q.nop(sig=q.ldtmu1)
            if n < 8:
                q.mov(q.t0s, q.r0)
                q.mov(q.t1s, q.r1)
                q.add(q.r0, q.r0, q.ra[1])
                q.add(q.r1, q.r1, q.ra[1])
            q.nop().mul24(q.r3, q.r4, q.rb[2])
            q.add(q.r2, q.r2, q.r3)
        store_rows(q, [q.r2], q.ra[0])
        q.end()

    a, b = np.abs(a), np.abs(b)  # mul24 is unsigned
    rig = Rig()
    at, _ = rig.array(a)
    bt, _ = rig.array(b)
    out, y = rig.zeros(16)
    rig.run(program, [out, at, bt])
    assert (y == (a * b).sum(axis=0)).all()


def test_scatter_of_lanes_to_one_address() -> None:
    """All lanes gather the same word: a broadcast through the TMU, for each of 16 words in turn."""
    x = random(21, 16)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.r0, q.uniform)
        q.ldi(q.r2, 0)
        q.ldi(q.r1, 4)
        for _ in range(16):
            q.mov(q.t0s, q.r0)
            q.add(q.r0, q.r0, q.r1, sig=q.ldtmu0)
            q.xor(q.r2, q.r2, q.r4)
        store_rows(q, [q.r2], q.ra[0])
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros(16)
    rig.run(program, [out, at])
    assert (y == np.bitwise_xor.reduce(x)).all()


def test_two_level_table() -> None:
    """table[index[index2[lane]]] with reversal of lanes in between."""
    rng = np.random.default_rng(22)
    table, one, two = random(22, 64), rng.integers(0, 64, 64, U), rng.integers(0, 64, 16, U)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.ra[1], q.uniform)
        q.mov(q.ra[2], q.uniform)
        load(q, q.r0, q.uniform)
        for base in (q.ra[2], q.ra[1]):
            q.shl(q.r0, q.r0, 2)
            q.add(q.t1s, q.r0, base)
            q.nop(sig=q.ldtmu1)
            q.mov(q.r0, q.r4)
        store_rows(q, [q.r0], q.ra[0])
        q.end()

    rig = Rig()
    ta, tb, tc = (rig.array(t)[0] for t in (table, one, two))
    out, y = rig.zeros(16)
    rig.run(program, [out, ta, tb, tc])
    assert (y == table[one[two]]).all()


def test_stencil_of_unaligned_neighbours() -> None:
    """y[i] = x[i-1] + 2 x[i] + x[i+1] by three TMU requests of overlapping words."""
    x = np.random.default_rng(23).integers(0, 1 << 20, 66, U)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.r0, q.uniform)
        q.ldi(q.ra[1], 64)
        q.ldi(q.rb[1], 64)
        q.ldi(q.r2, 4)
        with q.loop() as loop:
            q.mov(q.t0s, q.r0)
            q.add(q.t0s, q.r0, 4)
            q.add(q.t0s, q.r0, 8)
            q.add(q.r0, q.r0, q.ra[1], sig=q.ldtmu0)
            q.mov(q.r1, q.r4)
            q.nop(sig=q.ldtmu0)
            q.shl(q.r3, q.r4, 1)
            q.add(q.r1, q.r1, q.r3, sig=q.ldtmu0)
            q.add(q.r1, q.r1, q.r4)
            store_rows(q, [q.r1], q.ra[0])
            q.mov(q.r1, q.ra[0])
            q.add(q.ra[0], q.r1, q.rb[1])
            q.sub(q.r2, q.r2, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros(64)
    rig.run(program, [out, at])
    assert (y == x[:-2] + 2 * x[1:-1] + x[2:]).all()


def test_tmu_sees_what_dma_stored() -> None:
    """Memory is the way from one loop round to the next: store, load back through the TMU, double."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.ldi(q.r2, 10)
        q.mov(q.r0, q.element_number)
        q.add(q.ra[1], q.r0, 1)
        with q.loop() as loop:
            store_rows(q, [q.ra[1]], q.ra[0])
            load(q, q.r0, q.ra[0])
            q.add(q.ra[1], q.r0, q.r0)
            q.sub(q.r2, q.r2, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    rig.run(program, [out])
    assert y.tolist() == [(e + 1) << 9 for e in range(16)]


# -- VPM and DMA


def test_matrix_transpose_of_bytes_in_the_vpm() -> None:
    """DMA loads 64x16 bytes; vertical 8-bit packed reads give the columns."""
    x = np.random.default_rng(24).integers(0, 256, (16, 64), np.uint8)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.setup_dma_load(nrows=16, ncols=16, y=0)
        q.start_dma_load(q.uniform)
        q.wait_dma_load()
        q.ldi(q.r3, 0)
        q.setup_vpm_read(16, "32bit horizontal", y=0)
        for _ in range(16):
            q.mov(q.r0, q.vpm)
            q.add(q.r3, q.r3, q.r0)
        q.setup_vpm_write("32bit vertical", y=16, x=0)
        q.setup_vpm_read(16, "32bit horizontal", y=0)
        for _ in range(16):
            q.mov(q.r0, q.vpm)
            q.mov(q.vpm, q.r0)
        q.setup_dma_store(nrows=16, ncols=16, y=16)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros((16, 16))
    rig.run(program, [out, at])
    assert (y == x.view(U).T).all()


def test_widths_change_on_the_way_through_the_vpm() -> None:
    """Words in, bytes out: rows are written as 32 bit and read back as packed and laned 8 and 16 bit vectors."""
    x = random(25, 16)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        load(q, q.r0, q.uniform)
        q.setup_vpm_write(y=0)
        q.mov(q.vpm, q.r0)
        at = 0
        for mode, parts in (
            ("8bit horizontal packed", 4),
            ("8bit horizontal laned", 4),
            ("16bit horizontal packed", 2),
            ("16bit horizontal laned", 2),
        ):
            for part in range(parts):
                q.setup_vpm_read(1, mode, y=0, part=part)  # type: ignore[arg-type]  # names of the table
                q.mov(q.ra[1 + at], q.vpm)
                at += 1
        q.nop()
        store_rows(q, [q.ra[1 + n] for n in range(12)], q.ra[0], row=1)
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros((12, 16))
    rig.run(program, [out, at])
    b, h = x.view(np.uint8), x.view(np.uint16)
    want = [b[16 * p : 16 * p + 16] for p in range(4)] + [b[p::4] for p in range(4)]
    want += [h[16 * p : 16 * p + 16] for p in range(2)] + [h[p::2] for p in range(2)]
    assert (y == np.array([w.astype(U) for w in want])).all()


def test_tiles_of_an_image_through_dma_pitches() -> None:
    """A 16x8 tile out of a 100-word-wide image, mirrored in y by the VPM rows, back into another image."""
    image = random(26, 20, 100)

    def program(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, q.uniform)
        for row in range(8):
            q.setup_dma_load(nrows=1, ncols=16, y=7 - row)
            q.start_dma_load(q.r0)
            q.wait_dma_load()
            q.ldi(q.r2, 400)
            q.add(q.r0, q.r0, q.r2)
        q.setup_dma_store(nrows=8, ncols=16, y=0)
        q.setup_dma_store_stride(400 - 64)
        q.start_dma_store(q.r1)
        q.wait_dma_store()
        q.end()

    rig = Rig()
    at, _ = rig.array(image)
    out, y = rig.zeros(image.shape)
    rig.run(program, [at + 4 * (3 * 100 + 17), out + 4 * (5 * 100 + 50)])
    want = np.zeros_like(image)
    want[5:13, 50:66] = image[3:11, 17:33][::-1]
    assert (y == want).all()


def test_extended_pitch_gathers_rows_far_apart() -> None:
    x = random(27, 16, 700)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.setup_dma_load_stride(2800)
        q.setup_dma_load(nrows=16, ncols=16, y=0, mpitch=0)
        q.start_dma_load(q.uniform)
        q.wait_dma_load()
        q.setup_dma_store(nrows=16, ncols=16, y=0)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros((16, 16))
    rig.run(program, [out, at + 4 * 600])
    assert (y == x[:, 600:616]).all()


def test_vertical_store_makes_columns() -> None:
    """16 vectors written as rows, stored as columns."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.setup_vpm_write(y=0)
        for n in range(16):
            q.ldi(q.r0, 1000 * n)
            q.add(q.vpm, q.r0, q.element_number)
        q.setup_dma_store(nrows=16, ncols=16, mode="32bit vertical", y=0)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.end()

    rig = Rig()
    out, y = rig.zeros((16, 16))
    rig.run(program, [out])
    assert (y == 1000 * np.arange(16)[None, :] + np.arange(16)[:, None]).all()


def test_double_buffered_copy() -> None:
    """The DMA engine loads the next block while the QPU works on this one, two VPM areas alternately."""
    x = random(28, 8, 4, 16)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.ra[1], q.uniform)
        q.ldi(q.rb[1], 256)

        def begin(y: int) -> None:
            q.setup_dma_load(nrows=4, ncols=16, y=y)
            q.start_dma_load(q.ra[1])
            q.mov(q.r0, q.ra[1])
            q.add(q.ra[1], q.r0, q.rb[1])

        begin(0)
        for n in range(8):
            here, there = (0, 4) if n % 2 == 0 else (4, 0)
            q.wait_dma_load()
            if n < 7:
                begin(there)
            q.setup_vpm_read(4, y=here)
            q.setup_vpm_write(y=8 + here)
            for _ in range(4):
                q.not_(q.r0, q.vpm)
                q.mov(q.vpm, q.r0)
            if n:
                q.wait_dma_store()
            q.setup_dma_store(nrows=4, ncols=16, y=8 + here)
            q.setup_dma_store_stride(0)
            q.start_dma_store(q.ra[0])
            q.mov(q.r0, q.ra[0])
            q.add(q.ra[0], q.r0, q.rb[1])
        q.wait_dma_store()
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros(x.shape)
    rig.run(program, [out, at])
    assert (y == ~x).all()


def test_halves_of_rows_change_places_by_16_bit_stores() -> None:
    """16 halves from column 8 on, then 16 from column 0 on, each time with a gap for the others."""
    x = random(29, 8, 16)

    def program(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, q.uniform)
        q.setup_dma_load(nrows=8, ncols=16, y=0)
        q.start_dma_load(q.uniform)
        q.wait_dma_load()
        for column, to in ((8, q.r0), (0, q.r1)):
            q.setup_dma_store(nrows=8, ncols=16, mode="16bit horizontal", y=0, x=column)
            q.setup_dma_store_stride(32)
            q.start_dma_store(to)
            q.wait_dma_store()
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros((8, 32), np.uint16)
    rig.run(program, [out, out + 32, at])
    assert (y == np.roll(x.view(np.uint16), 16, axis=1)).all()


def test_strided_generic_writes_interleave_two_vectors() -> None:
    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        for first, step in ((0, 10), (1, 20)):
            q.setup_vpm_write(y=first, stride=2)
            q.mov(q.r0, step) if step < 16 else q.ldi(q.r0, step)
            q.mov(q.r1, q.element_number)
            for _ in range(4):
                q.mov(q.vpm, q.r1)
                q.add(q.r1, q.r1, q.r0)
        q.setup_dma_store(nrows=8, ncols=16, y=0)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.end()

    rig = Rig()
    out, y = rig.zeros((8, 16))
    rig.run(program, [out])
    for n in range(4):
        assert y[2 * n].tolist() == [e + 10 * n for e in range(16)]
        assert y[2 * n + 1].tolist() == [e + 20 * n for e in range(16)]


# -- packs, rotations, SFU, ALU together


def test_saturating_mix_of_two_images() -> None:
    """v8adds, v8subs, v8min, v8max and v8muld on packed bytes."""
    a, b = random(30, 2, 16)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        load(q, q.r0, q.uniform)
        load(q, q.r1, q.uniform)
        q.v8adds(q.ra[1], q.r0, q.r1)
        q.v8subs(q.ra[2], q.r0, q.r1)
        q.nop().v8min(q.ra[3], q.r0, q.r1)
        q.nop().v8max(q.ra[4], q.r0, q.r1)
        q.nop().v8muld(q.ra[5], q.r0, q.r1)
        q.nop()
        store_rows(q, [q.ra[n] for n in range(1, 6)], q.ra[0])
        q.end()

    rig = Rig()
    at, bt = rig.array(a)[0], rig.array(b)[0]
    out, y = rig.zeros((5, 64), np.uint8)
    rig.run(program, [out, at, bt])
    p, r = (v.view(np.uint8).astype(int) for v in (a, b))
    assert (y[0] == np.minimum(p + r, 255)).all() and (y[1] == np.maximum(p - r, 0)).all()
    assert (y[2] == np.minimum(p, r)).all() and (y[3] == np.maximum(p, r)).all()
    assert np.abs(y[4] - p * r / 255).max() <= 0.5001


def test_argument_reduction_of_a_sum_of_bytes_by_unpack() -> None:
    """Each byte of a file-A register through its unpack, summed; the bytes come from DMA."""
    x = random(31, 16)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        load(q, q.ra[1], q.uniform)
        q.nop()
        q.ldi(q.r0, 0)
        for byte in "abcd":
            q.mov(q.r1, q.ra[1].unpack(f"8{byte}"))  # type: ignore[arg-type]  # built from a letter
            q.add(q.r0, q.r0, q.r1)
        store_rows(q, [q.r0], q.ra[0])
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros(16)
    rig.run(program, [out, at])
    assert (y == x.view(np.uint8).reshape(16, 4).sum(axis=1)).all()


def test_packing_with_saturation_in_file_a() -> None:
    """32 -> 16 and 8 bits saturating and plain, several packs into one register."""
    x = np.array(
        [0, 1, -1, 200, 255, 256, -200, 32767, 32768, -32768, -32769, 70000, -70000, 128, 127, 1 << 30], np.int32
    )

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        load(q, q.r0, q.uniform)
        q.ldi(q.ra[1], 0)
        q.ldi(q.ra[2], 0)
        q.nop()
        q.mov(q.ra[1].pack("16as"), q.r0)
        q.mov(q.ra[1].pack("16b"), q.r0)
        q.mov(q.ra[2].pack("8as"), q.r0)
        q.mov(q.ra[2].pack("8b"), q.r0)
        q.mov(q.ra[2].pack("8ds"), q.r0)
        q.mov(q.ra[3].pack("8888s"), q.r0)
        q.nop()
        store_rows(q, [q.ra[1], q.ra[2], q.ra[3]], q.ra[0])
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros((3, 16))
    rig.run(program, [out, at])
    s16 = np.clip(x, -32768, 32767).astype(np.int16).view(np.uint16).astype(U)
    u8 = np.clip(x, 0, 255).astype(U)
    low16, low8 = x.view(U) & 0xFFFF, x.view(U) & 0xFF
    assert (y[0] == (s16 | low16 << 16)).all()
    assert (y[1] == (u8 | low8 << 8 | u8 << 24)).all()
    assert (y[2] == u8 * 0x01010101).all()


def test_half_floats_there_and_back() -> None:
    """float32 -> float16 by pack, both halves, and back by unpack in a float operation."""
    x = np.random.default_rng(33).uniform(-4, 4, (2, 16)).astype(np.float16).astype(np.float32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        load(q, q.r0, q.uniform)
        load(q, q.r1, q.uniform)
        q.ldi(q.ra[1], 0)
        q.nop()
        q.fadd(q.ra[1].pack("16a"), q.r0, 0)
        q.fadd(q.ra[1].pack("16b"), q.r1, 0)
        q.nop()
        q.mov(q.ra[2], q.ra[1])
        q.fadd(q.ra[3], q.ra[1].unpack("16a"), 0)
        q.fadd(q.ra[4], q.ra[1].unpack("16b"), 0)
        q.nop()
        store_rows(q, [q.ra[2], q.ra[3], q.ra[4]], q.ra[0])
        q.end()

    rig = Rig()
    at, bt = rig.array(x[0])[0], rig.array(x[1])[0]
    out, y = rig.zeros((3, 16))
    rig.run(program, [out, at, bt])
    halves = x.astype(np.float16).view(np.uint16).astype(U)
    assert (y[0] == (halves[0] | halves[1] << 16)).all()
    assert (y[1:].view(np.float32) == x).all()


def test_convolution_by_full_rotations() -> None:
    """Circular convolution of 16 integers: 16 rotations, 16 multiplications by a broadcast uniform."""
    rng = np.random.default_rng(34)
    x, taps = rng.integers(0, 1000, 16, U), rng.integers(0, 1000, 16, U)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        load(q, q.r0, q.uniform)
        q.ldi(q.r2, 0)
        for n in range(16):
            if n:
                q.rotate(q.r1, q.r0, n)
            else:
                q.mov(q.r1, q.r0)
            q.nop().mul24(q.r1, q.r1, q.uniform)
            q.add(q.r2, q.r2, q.r1)
        store_rows(q, [q.r2], q.ra[0])
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros(16)
    rig.run(program, [out, at, *taps])
    assert (y == sum(np.roll(x, n) * taps[n] for n in range(16))).all()


def test_square_roots_of_integers_by_sfu_and_correction() -> None:
    """floor(sqrt(n)): rsqrt of the SFU, one multiplication, then exact integer correction under flags."""
    n = np.random.default_rng(35).integers(1, 1 << 22, (4, 16), np.int32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.ra[1], q.uniform)
        q.nop()
        for k in range(4):
            q.mov(q.t0s, q.ra[1])
            q.ldi(q.r1, 64)
            q.nop(sig=q.ldtmu0)
            q.mov(q.r0, q.r4)
            q.add(q.ra[1], q.ra[1], q.r1)
            q.itof(q.r1, q.r0)
            q.mov(q.sfu_rsqrt, q.r1)
            q.nops(2)
            q.nop().fmul(q.r1, q.r1, q.r4)
            q.ftoi(q.r1, q.r1)
            q.add(q.r1, q.r1, 2)  # too large for certain; go down
            for _ in range(4):
                q.nop().mul24(q.r2, q.r1, q.r1)
                q.sub(q.null, q.r0, q.r2, push="z")
                q.sub(q.r1, q.r1, 1, cond="ifn")
            q.mov(q.rb[k], q.r1)
        q.nop()
        store_rows(q, [q.rb[k] for k in range(4)], q.ra[0])
        q.end()

    rig = Rig()
    at, _ = rig.array(n)
    out, y = rig.zeros((4, 16))
    rig.run(program, [out, at])
    assert (y == np.floor(np.sqrt(n)).astype(U)).all()


def test_powers_by_exp_and_log() -> None:
    x = np.linspace(0.5, 8, 16).astype(np.float32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        load(q, q.sfu_log2, q.uniform)
        q.nops(2)
        q.nop().fmul(q.sfu_exp2, q.r4, q.uniform)
        q.nops(2)
        q.mov(q.r0, q.r4)
        q.mov(q.sfu_recip, q.r0)
        q.nops(2)
        q.nop().fmul(q.r1, q.r0, q.r4)
        store_rows(q, [q.r0, q.r1], q.ra[0])
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros((2, 16), np.float32)
    rig.run(program, [out, at, np.float32(2.5)])
    assert np.allclose(y[0], x**2.5, rtol=5e-3) and np.allclose(y[1], 1, rtol=1e-4)


def test_multiword_addition_by_carry() -> None:
    """128-bit additions lane by lane: the C flag, a conditional increment and its own carry."""
    a, b = random(36, 4, 16), random(37, 4, 16)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.ra[1], q.uniform)
        q.mov(q.ra[2], q.uniform)
        q.ldi(q.rb[0], 64)
        q.ldi(q.rb[2], 0)  # carry into this word
        for n in range(4):
            load(q, q.r0, q.ra[1])
            load(q, q.r1, q.ra[2])
            q.mov(q.r2, 0)
            q.add(q.r0, q.r0, q.r1, push="z")
            q.mov(q.r2, 1, cond="ifc")
            q.add(q.r0, q.r0, q.rb[2], push="z")
            q.mov(q.r2, 1, cond="ifc")
            q.mov(q.rb[2], q.r2)
            q.mov(q.ra[10 + n], q.r0)
            q.mov(q.r2, q.rb[0])
            q.add(q.ra[1], q.ra[1], q.r2)
            q.add(q.ra[2], q.ra[2], q.r2)
            q.nop()
        store_rows(q, [q.ra[10 + n] for n in range(4)], q.ra[0])
        q.end()

    rig = Rig()
    at, bt = rig.array(a)[0], rig.array(b)[0]
    out, y = rig.zeros((4, 16))
    rig.run(program, [out, at, bt])
    for e in range(16):
        one, two = (sum(int(v[n, e]) << 32 * n for n in range(4)) for v in (a, b))
        total = (one + two) % (1 << 128)
        assert [int(y[n, e]) for n in range(4)] == [total >> 32 * n & 0xFFFFFFFF for n in range(4)]


def test_full_32_bit_product_of_mul24_parts() -> None:
    a, b = random(38, 2, 16)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        load(q, q.r0, q.uniform)
        load(q, q.r1, q.uniform)
        q.ldi(q.rb[0], 16)
        q.mov(q.ra[1], q.r0)
        q.mov(q.ra[2], q.r1)
        q.shr(q.r2, q.r0, q.rb[0])
        q.shr(q.r3, q.r1, q.rb[0])
        q.ldi(q.rb[1], 0xFFFF)
        q.nop()
        q.and_(q.r0, q.r0, q.rb[1])
        q.and_(q.r1, q.r1, q.rb[1])
        q.nop().mul24(q.r2, q.r2, q.r1)
        q.nop().mul24(q.r3, q.r3, q.r0)
        q.add(q.r2, q.r2, q.r3).mul24(q.r0, q.r0, q.r1)
        q.shl(q.r2, q.r2, q.rb[0])
        q.add(q.r0, q.r0, q.r2)
        store_rows(q, [q.r0], q.ra[0])
        q.end()

    rig = Rig()
    at, bt = rig.array(a)[0], rig.array(b)[0]
    out, y = rig.zeros(16)
    rig.run(program, [out, at, bt])
    assert (y == a * b).all()


def test_population_count_and_leading_zeros() -> None:
    x = np.concatenate([random(39, 14), np.array([0, 0xFFFFFFFF], U)])

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        load(q, q.r0, q.uniform)
        q.clz(q.ra[1], q.r0)
        q.ldi(q.r2, 0)
        with q.loop() as loop:  # lanes are done at different times
            q.mov(q.null, q.r0, push="z")
            q.add(q.r2, q.r2, 1, cond="ifnz")
            q.sub(q.r1, q.r0, 1)
            q.and_(q.r0, q.r0, q.r1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        store_rows(q, [q.r2, q.ra[1]], q.ra[0])
        q.end()

    rig = Rig()
    at, _ = rig.array(x)
    out, y = rig.zeros((2, 16))
    rig.run(program, [out, at])
    assert y[0].tolist() == [int(v).bit_count() for v in x]
    assert y[1].tolist() == [32 - int(v).bit_length() for v in x]
