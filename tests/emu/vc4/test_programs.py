"""Tests of whole programs that move and compute data; NumPy predicts every result."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.vc4.builder import Asm
from tests.emu.vc4.rig import Rig, addresses, store_rows

U = np.uint32


def test_gather_with_both_tmus_four_deep() -> None:
    rng = np.random.default_rng(1)
    table = rng.integers(0, 1 << 32, 256, U)
    index = rng.integers(0, 256, (8, 16), U)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.rb[1], q.uniform)
        addresses(q, q.r0, q.uniform)
        for n in range(8):
            q.mov(q.t1s if n % 2 else q.t0s, q.r0)
            q.ldi(q.r1, 64)
            q.add(q.r0, q.r0, q.r1)
        for n in range(8):
            q.nop(sig=q.ldtmu1 if n % 2 else q.ldtmu0)
            q.shl(q.r0, q.r4, 2)
            q.add(q.t1s if n % 2 else q.t0s, q.r0, q.ra[0])
        for n in range(8):
            q.nop(sig=q.ldtmu1 if n % 2 else q.ldtmu0)
            q.mov(q.ra[n + 8], q.r4)
        q.nop()
        store_rows(q, [q.ra[n + 8] for n in range(8)], q.rb[1])
        q.end()

    rig = Rig()
    at, _ = rig.array(table)
    indices, _ = rig.array(index)
    out, y = rig.zeros((8, 16))
    execution = rig.run(program, [at, out, indices])
    assert (y == table[index]).all()
    assert execution.stats.tmu_requests == 16
    assert execution.stats.tmu_read_bytes == 16 * 64
    assert not execution.stats.faults


def test_pointer_chase() -> None:
    """Each lane follows its own linked list through the TMU until all have reached the end."""
    rng = np.random.default_rng(2)
    rig = Rig()
    at, nodes = rig.zeros((64, 2))
    order = rng.permutation(np.arange(1, 64))
    heads, lengths = [], []
    for part in np.array_split(order, 16):
        for here, there in zip(part, [*part[1:], 0], strict=True):
            nodes[here] = (at + 8 * there if there else 0, 1)
        heads.append(at + 8 * part[0])
        lengths.append(len(part))
    nodes[0] = (at, 0)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.r2, q.uniform)
        addresses(q, q.t0s, q.uniform)
        q.mov(q.r1, 0)
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        with q.loop() as loop:
            q.add(q.t1s, q.r0, 4)
            q.mov(q.t0s, q.r0)
            q.nop(sig=q.ldtmu1)
            q.add(q.r1, q.r1, q.r4)
            q.nop(sig=q.ldtmu0)
            q.mov(q.r0, q.r4, push="z")
            q.mov(q.r0, q.ra[0], cond="ifz")
            q.sub(q.null, q.r0, q.ra[0], push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        store_rows(q, [q.r1], q.r2)
        q.end()

    start, _ = rig.array(heads, U)
    out, y = rig.zeros(16)
    rig.run(program, [at, out, start])
    assert y.tolist() == lengths


def test_saxpy_by_dma_on_twelve_qpus() -> None:
    """DMA loads and stores in a loop, a private VPM area each."""
    rng = np.random.default_rng(3)
    n, rows = 12, 4
    x, y0 = rng.random((n, 5, rows * 16), np.float32), rng.random((n, 5, rows * 16), np.float32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)  # a
        q.mov(q.ra[1], q.uniform)  # x
        q.mov(q.ra[2], q.uniform)  # y
        q.mov(q.ra[3], q.uniform)  # first VPM row
        q.ldi(q.r3, 5)
        with q.loop() as loop:
            q.shl(q.r0, q.ra[3], 4)
            for source in (q.ra[1], q.ra[2]):
                q.mutex_acquire()
                q.ldi(q.r1, 0x83041000)  # MPITCH 64, 16 columns, 4 rows, VPITCH 1
                q.or_(q.vr_setup, q.r1, q.r0)
                q.start_dma_load(source)
                q.wait_dma_load()
                q.ldi(q.r1, 4 << 20 | 1 << 12 | 0xA00)
                q.or_(q.vr_setup, q.r1, q.ra[3])
                first = 8 if source is q.ra[1] else 16
                for k in range(4):
                    q.mov(q.ra[first + k], q.vpm)
                q.mutex_release()
            q.ldi(q.r1, 0x1A00)
            q.or_(q.vw_setup, q.r1, q.ra[3])
            for k in range(4):
                q.mov(q.r1, q.ra[16 + k]).fmul(q.r2, q.ra[16 + k], 1.0)
                q.mov(q.r2, q.ra[8 + k])
                q.nop().fmul(q.r2, q.r2, q.ra[0])
                q.fadd(q.vpm, q.r1, q.r2)
            q.shl(q.r0, q.ra[3], 7)
            q.ldi(q.r1, 2 << 30 | 4 << 23 | 16 << 16 | 1 << 14)
            q.or_(q.vw_setup, q.r1, q.r0)
            q.setup_dma_store_stride(0)
            q.start_dma_store(q.ra[2])
            q.wait_dma_store()
            q.ldi(q.r1, 256)
            q.add(q.ra[1], q.ra[1], q.r1)
            q.add(q.ra[2], q.ra[2], q.r1)
            q.sub(q.r3, q.r3, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.nops(3)
        q.end()

    rig = Rig()
    ax, _ = rig.array(x)
    ay, y = rig.array(y0)
    execution = rig.run(program, *[[np.float32(1.5), ax + 1280 * i, ay + 1280 * i, 4 * i] for i in range(n)])
    product = (x * np.float32(1.5)).astype(np.float32)
    exact = product.astype(np.float64) + y0
    assert (np.abs(y - exact) <= np.spacing(np.abs(exact).astype(np.float32))).all()
    assert (y <= exact).all()  # additions round toward zero
    assert execution.stats.dma_read_bytes == 2 * n * 5 * rows * 64
    assert execution.stats.dma_write_bytes == n * 5 * rows * 64


def test_transpose_through_the_vpm() -> None:
    a = np.arange(256, dtype=U).reshape(16, 16)

    def program(q: Asm) -> None:
        q.setup_dma_load(nrows=16, ncols=16, mode="32bit vertical", y=0, x=0, vpitch=1)
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, q.uniform)
        for k in range(16):
            q.setup_dma_load(nrows=1, ncols=16, mode="32bit vertical", y=16, x=k)
            q.start_dma_load(q.r0)
            q.wait_dma_load()
            q.ldi(q.r2, 64)
            q.add(q.r0, q.r0, q.r2)
        q.setup_dma_store(nrows=16, ncols=16, y=16)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.r1)
        q.wait_dma_store()
        q.end()

    rig = Rig()
    source, _ = rig.array(a)
    out, y = rig.zeros((16, 16))
    rig.run(program, [source, out])
    assert (y == a.T).all()


def test_vertical_vpm_writes_transpose() -> None:
    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.setup_vpm_write("32bit vertical", y=32)
        for k in range(16):
            q.ldi(q.r0, 100 * k)
            q.add(q.vpm, q.r0, q.element_number)
        q.setup_dma_store(nrows=16, ncols=16, y=32)
        q.start_dma_store(q.r2)
        q.wait_dma_store()
        q.end()

    rig = Rig()
    out, y = rig.zeros((16, 16))
    rig.run(program, [out])
    assert (y == np.arange(16)[:, None] + 100 * np.arange(16)[None, :]).all()


def test_sum_and_maximum_over_lanes_by_rotation() -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(-(1 << 20), 1 << 20, 16).astype(np.int32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.t0s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        q.mov(q.r2, q.r4)
        for n in (8, 4, 2, 1):
            q.nop()
            q.rotate(q.r1, q.r0, n)
            q.add(q.r0, q.r0, q.r1)
            q.rotate(q.r1, q.r2, n)
            q.max(q.r2, q.r2, q.r1)
        store_rows(q, [q.r0, q.r2], q.ra[0])
        q.end()

    rig = Rig()
    source, _ = rig.array(x)
    out, y = rig.zeros((2, 16), np.int32)
    rig.run(program, [out, source])
    assert y.tolist() == [[x.sum()] * 16, [x.max()] * 16]


def test_prefix_sum_with_masked_lanes() -> None:
    x = np.arange(3, 19, dtype=U) ** 2

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.t0s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        for n in (1, 2, 4, 8):
            q.mov(q.r2, q.element_number)
            q.sub(q.null, q.r2, n, push="z")
            q.rotate(q.r1, q.r0, n)
            q.add(q.r0, q.r0, q.r1, cond="ifnn")
        store_rows(q, [q.r0], q.ra[0])
        q.end()

    rig = Rig()
    source, _ = rig.array(x)
    out, y = rig.zeros(16)
    rig.run(program, [out, source])
    assert y.tolist() == np.cumsum(x).tolist()


def test_bitonic_sort_of_sixteen_lanes() -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(-1000, 1000, (12, 16)).astype(np.int32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.t0s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        for k in (2, 4, 8, 16):
            for j in (k // 2, k // 4, k // 8, k // 16):
                if not j:
                    break
                q.and_(q.r3, q.element_number, j)
                q.rotate(q.r1, q.r0, j)
                q.rotate(q.r2, q.r0, 16 - j)
                q.mov(q.null, q.r3, push="z")
                q.mov(q.r1, q.r2, cond="ifz")  # r1: the partner's value
                q.ldi(q.r2, [int((e & k) != 0) ^ int((e & j) != 0) for e in range(16)], push="z")
                q.min(q.r2, q.r0, q.r1)
                q.max(q.r0, q.r0, q.r1)
                q.mov(q.r0, q.r2, cond="ifz")
        q.mutex_acquire()
        store_rows(q, [q.r0], q.ra[0])
        q.mutex_release()
        q.end()

    rig = Rig()
    source, _ = rig.array(x)
    out, y = rig.zeros((12, 16), np.int32)
    rig.run(program, *[[out + 64 * i, source + 64 * i] for i in range(12)])
    assert (y == np.sort(x, axis=1)).all()


def test_rotation_by_r5_in_a_loop() -> None:
    """A different amount on every QPU, read from r5."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.mov(q.r0, q.element_number)
        q.mov(q.r5rep, q.uniform)
        q.nop()
        q.rotate(q.r1, q.r0, q.r5)
        q.mutex_acquire()
        store_rows(q, [q.r1, q.r5], q.r2)
        q.mutex_release()
        q.end()

    rig = Rig()
    out, y = rig.zeros((12, 2, 16))
    rig.run(program, *[[out + 128 * i, 17 * i - 20] for i in range(12)])
    for i in range(12):
        assert y[i, 0].tolist() == np.roll(np.arange(16), (17 * i - 20) % 16).tolist()


def test_broadcast_every_lane_in_turn() -> None:
    """Matrix-vector product: lane k of a vector reaches all lanes through a rotated write to r5."""
    rng = np.random.default_rng(6)
    a, v = rng.integers(0, 100, (16, 16)).astype(np.float32), rng.integers(0, 100, 16).astype(np.float32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.t0s, q.uniform)
        addresses(q, q.r2, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        q.ldi(q.r1, 0.0)
        for k in range(16):
            q.mov(q.t0s, q.r2)
            if k:
                q.rotate(q.r5rep, q.r0, 16 - k)
            else:
                q.mov(q.r5rep, q.r0)
            q.ldi(q.r3, 64)
            q.add(q.r2, q.r2, q.r3, sig=q.ldtmu0)
            q.nop().fmul(q.r3, q.r4, q.r5)
            q.fadd(q.r1, q.r1, q.r3)
        store_rows(q, [q.r1], q.ra[0])
        q.end()

    rig = Rig()
    av, _ = rig.array(v)
    am, _ = rig.array(a)
    out, y = rig.zeros(16, np.float32)
    rig.run(program, [out, av, am])
    assert (y == v @ a).all()  # exact: small integers


def test_newton_reciprocal_and_roots() -> None:
    x = np.linspace(0.1, 50, 16).astype(np.float32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.t0s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        q.mov(q.sfu_recip, q.r0)
        q.nops(2)
        q.mov(q.r1, q.r4)
        q.mov(q.sfu_rsqrt, q.r0)
        q.nop().fmul(q.r2, q.r0, q.r1)
        q.ldi(q.r3, 2.0)
        q.mov(q.ra[1], q.r4)
        q.mov(q.sfu_log2, q.r0)
        q.fsub(q.r2, q.r3, q.r2)
        q.nop().fmul(q.rb[0], q.r1, q.r2)
        q.mov(q.ra[2], q.r4)
        q.mov(q.sfu_exp2, q.r4)
        q.nops(2)
        q.mov(q.ra[3], q.r4)
        q.mov(q.r1, q.rb[0])
        store_rows(q, [q.r1, q.ra[1], q.ra[2], q.ra[3]], q.ra[0])
        q.end()

    rig = Rig()
    source, _ = rig.array(x)
    out, y = rig.zeros((4, 16), np.float32)
    execution = rig.run(program, [out, source])
    exact = x.astype(np.float64)
    assert np.allclose(y[0], 1 / exact, rtol=1e-6)
    assert np.allclose(y[1], 1 / np.sqrt(exact), rtol=1e-4)
    assert np.allclose(y[2], np.log2(exact), rtol=1e-3, atol=1e-3)
    assert np.allclose(y[3], exact, rtol=1e-2)
    assert execution.stats.sfu_ops == 4


def test_mandelbrot_iterations() -> None:
    """Float loop with per-lane exit; compared with the same arithmetic in NumPy (sums toward zero)."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.itof(q.r0, q.element_number)
        q.mov(q.rb[5], q.uniform)
        q.nop().fmul(q.r0, q.r0, q.uniform)
        q.fadd(q.ra[4], q.r0, q.uniform)  # cr
        q.ldi(q.r0, 0.0)
        q.ldi(q.r1, 0.0)
        q.mov(q.ra[7], 0)
        q.ldi(q.rb[6], 24)
        q.label("loop")
        q.nop().fmul(q.r2, q.r0, q.r0)
        q.nop().fmul(q.r3, q.r1, q.r1)
        q.nop().fmul(q.r1, q.r0, q.r1)
        q.fadd(q.r1, q.r1, q.r1)
        q.fadd(q.r1, q.r1, q.rb[5])
        q.fsub(q.r0, q.r2, q.r3)
        q.fadd(q.r0, q.r0, q.ra[4])
        q.fadd(q.r2, q.r2, q.r3)
        q.fsub(q.r2, q.r2, 4.0, push="z")
        q.add(q.ra[7], q.ra[7], 1, cond="ifn")
        q.mov(q.r3, q.rb[6])
        q.sub(q.r3, q.r3, 1, push="z")
        q.b("loop", cond="anynz")
        q.mov(q.rb[6], q.r3)
        q.nops(2)
        q.mutex_acquire()
        store_rows(q, [q.ra[7]], q.ra[0])
        q.mutex_release()
        q.end()

    def add(x: Any, y: Any) -> Any:
        exact = x.astype(np.float64) + np.float64(y)
        near = exact.astype(np.float32)
        return np.where(np.abs(near.astype(np.float64)) > np.abs(exact), np.nextafter(near, np.float32(0)), near)

    rig = Rig()
    out, y = rig.zeros((12, 16))
    step, left = np.float32(0.18), np.float32(-2.0)
    rows = [np.float32(-1.1 + 0.2 * i) for i in range(12)]
    rig.run(program, *[[out + 64 * i, ci, step, left] for i, ci in enumerate(rows)])
    with np.errstate(all="ignore"):
        for i, ci in enumerate(rows):
            cr = add(np.arange(16, dtype=np.float32) * step, left)
            zr, zi, count = np.zeros(16, np.float32), np.zeros(16, np.float32), np.zeros(16, int)
            for _ in range(24):
                a, b = zr * zr, zi * zi
                zi = add(add(zr * zi, zr * zi), ci)
                zr = add(add(a, -b), cr)
                inside = add(add(a, b), -4.0) < 0
                count += inside
            small = np.abs(y[i].astype(int) - count)
            assert (small == 0).sum() >= 14  # lanes that overflow follow the chip's own rules for infinities


def test_colour_packing() -> None:
    """Four float channels into RGBA bytes with the MUL packs, and back with the r4 unpacks."""
    rng = np.random.default_rng(9)
    rgba = rng.random((4, 16), np.float32)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.r0, q.uniform)
        q.ldi(q.r2, 0)
        for byte in "abcd":
            q.mov(q.t0s, q.r0)
            q.ldi(q.r1, 64)
            q.add(q.r0, q.r0, q.r1, sig=q.ldtmu0)
            q.nop().fmul(q.r2.pack(f"8{byte}f"), q.r4, 1.0)
        store_rows(q, [q.r2], q.ra[0])
        q.end()

    rig = Rig()
    source, _ = rig.array(rgba)
    out, y = rig.zeros((16, 4), np.uint8)
    rig.run(program, [out, source])
    assert np.abs(y.astype(int) - rgba.T * 255).max() <= 0.5001


def test_sum_of_halves_by_unpack() -> None:
    rng = np.random.default_rng(10)
    x = rng.integers(-3000, 3000, (16, 2)).astype(np.int16)

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        addresses(q, q.t0s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.ra[1], q.r4)
        q.nop()
        q.mov(q.r0, q.ra[1].unpack("16a"))
        q.mov(q.r1, q.ra[1].unpack("16b"))
        q.add(q.r0, q.r0, q.r1)
        store_rows(q, [q.r0], q.ra[0])
        q.end()

    rig = Rig()
    source, _ = rig.array(x)
    out, y = rig.zeros(16, np.int32)
    rig.run(program, [out, source])
    assert y.tolist() == x.astype(int).sum(axis=1).tolist()


def test_per_element_immediates_as_masks() -> None:
    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.r0, [0, 1, 2, 3] * 4)
        q.ldi(q.r1, [-2, -1, 0, 1] * 4)
        q.ldi(q.null, [1] + [0] * 15, push="z")
        q.ldi(q.r3, 9, cond="ifnz")
        q.mov(q.r3, 5, cond="ifz")
        store_rows(q, [q.r0, q.r1, q.r3], q.r2)
        q.end()

    rig = Rig()
    out, y = rig.zeros((3, 16), np.int32)
    rig.run(program, [out])
    assert y.tolist() == [[0, 1, 2, 3] * 4, [-2, -1, 0, 1] * 4, [9] + [5] * 15]


def test_polling_the_dma_busy_flags() -> None:
    """Busy reads non-zero for a while after a start, and the loop that polls it ends."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.mov(q.r0, 0)
        q.setup_dma_load(nrows=1, ncols=16, y=3)
        q.mov(q.vr_addr, q.uniform)
        q.label("load")
        q.mov(q.null, q.vr_busy, push="z")
        q.b("load", cond="anynz")
        q.add(q.r0, q.r0, 1)
        q.nops(2)
        q.setup_dma_store(nrows=1, ncols=16, y=3)
        q.mov(q.vw_addr, q.r2)
        q.mov(q.r1, 0)
        q.label("store")
        q.mov(q.null, q.vw_busy, push="z")
        q.b("store", cond="anynz")
        q.add(q.r1, q.r1, 1)
        q.nops(2)
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    source, _ = rig.array(np.arange(16), U)
    execution = rig.run(program, [out, source])
    assert y.tolist() == list(range(16))
    assert execution.stats.branches >= 4


def test_matrix_product_of_one_tile() -> None:
    """16 x 16 tile: TMU for A, uniforms for B, accumulators in both files, results by vertical VPM writes."""
    rng = np.random.default_rng(11)
    a, b = rng.integers(-8, 8, (2, 16, 16)).astype(np.float32)

    def program(q: Asm) -> None:
        q.mov(q.rb[31], q.uniform)
        q.mov(q.ra[31], q.uniform)
        addresses(q, q.r2, q.ra[31])  # column k of A: stride 64 by lane
        q.shl(q.r3, q.element_number, 6)
        q.add(q.r2, q.ra[31], q.r3)
        for j in range(16):
            q.ldi(q.ra[j], 0.0)
        q.mov(q.r1, 0)
        for _ in range(16):
            q.mov(q.t0s, q.r2)
            q.add(q.r2, q.r2, 4)
            q.nop(sig=q.ldtmu0)
            for j in range(16):
                q.nop().fmul(q.r0, q.r4, q.uniform)
                q.fadd(q.ra[j], q.ra[j], q.r0)
        q.setup_vpm_write("32bit vertical", y=0)
        for j in range(16):
            q.mov(q.vpm, q.ra[j])
        q.setup_dma_store(nrows=16, ncols=16, y=0)
        q.start_dma_store(q.rb[31])
        q.wait_dma_store()
        q.end()

    rig = Rig()
    source, _ = rig.array(a)
    out, y = rig.zeros((16, 16), np.float32)
    execution = rig.run(program, [out, source, *b.reshape(-1)])
    assert (y == a @ b).all()
    assert execution.stats.fmuls == 256
    assert execution.stats.fadds == 256
