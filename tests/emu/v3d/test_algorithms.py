"""Tests of whole algorithms: matrices, transforms, sorting, number theory, random numbers, signal processing."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.core.isa import Isa
from tests.emu.v3d.idioms import (
    LANE,
    barrier,
    config,
    jump,
    lane_address,
    lanes_of,
    load,
    program,
    rounds,
    row_address,
    rows_of,
    store,
    take,
)
from tests.emu.v3d.rig import Rig, move, word

U = np.uint32


def rotated(q: Any, d: Any, s: Any, n: int) -> None:
    """d[lane] = s[(lane + n) % 16]; on 4.2 through r0."""
    if q.isa is Isa.V3D42:
        move(q, q.r0, s)
        n = -n % 16
        q.nop(sig=q.rot(n)).mov(d, q.r0)
    else:
        move(q, q.rf[30], n)
        q.rot(d, s, q.rf[30])


@program()
def test_matrix_product_from_unifa_and_registers(isa: Isa) -> None:
    """16 x 16: rows of B in registers, elements of A from the unifa stream, one row of C a thread."""
    rig = Rig(isa)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 16, 16)).astype(np.float32)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        q.shl(r[7], r[4], 6)
        q.add(r[5], r[5], r[7])
        move(q, q.unifa, r[5])
        lane_address(q, r[7], r[6])
        move(q, r[8], 1)
        q.shl(r[8], r[8], 6)
        for k in range(16):
            move(q, q.tmua, r[7])
            q.add(r[7], r[7], r[8])
            q.nop(sig=q.ldtmu(r[12 + k]))
        for k in range(16):
            q.nop(sig=q.ldunifarf(r[10]))
            if k:
                q.nop().fmul(r[10], r[10], r[12 + k])
                q.fadd(r[11], r[11], r[10])
            else:
                q.nop().fmul(r[11], r[10], r[12 + k])
        return r[11]

    got = rows_of(rig, 16, body, (rig.buffer(a), rig.buffer(b))).view(np.float32)
    want = a[:, :1] * b[0]
    for k in range(1, 16):
        want = want + a[:, k : k + 1] * b[k]
    assert (got == want).all()


@program()
def test_matrix_times_vector_by_rotation(isa: Isa) -> None:
    """Diagonals of the matrix times the rotated vector: no memory traffic but the loads of the diagonals."""
    rig = Rig(isa)
    rng = np.random.default_rng(2)
    m = rng.integers(-100, 100, (16, 16))
    x = rng.integers(-100, 100, 16)
    diagonals = np.stack([m[LANE, (LANE + k) % 16] for k in range(16)]).astype(np.int32)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        lane_address(q, r[7], r[6])
        load(q, r[8], r[7])
        lane_address(q, r[7], r[5])
        move(q, r[10], 1)
        q.shl(r[10], r[10], 6)
        move(q, r[11], 0)
        for _ in range(16):
            load(q, r[12], r[7])
            q.add(r[7], r[7], r[10])
            q.nop().smul24(r[12], r[12], r[8])
            q.add(r[11], r[11], r[12])
            rotated(q, r[13], r[8], 1)
            q.nop()
            move(q, r[8], r[13])
        return r[11]

    got = lanes_of(rig, body, (rig.buffer(diagonals), rig.buffer(x.astype(np.int32))))
    assert (got.view(np.int32) == m @ x).all()


@program()
def test_fourier_transform_of_sixteen_points(isa: Isa) -> None:
    """Four radix-2 stages in the lanes: partners by rotation and selection, twiddles from tables."""
    rig = Rig(isa)
    rng = np.random.default_rng(3)
    x = (rng.normal(size=16) + 1j * rng.normal(size=16)).astype(np.complex64)
    bit_reversed = np.array([int(f"{i:04b}"[::-1], 2) for i in range(16)])
    tables = np.empty((4, 3, 16), np.float32)
    for stage in range(4):
        half = 1 << stage
        upper = LANE & half != 0
        w = np.exp(-1j * np.pi * (LANE % half) / half)
        tables[stage] = np.where(upper, -1, 1), w.real, w.imag
    start = rig.buffer(np.stack([x[bit_reversed].real, x[bit_reversed].imag]).astype(np.float32))
    out = rig.buffer(128)

    def whole(q: Any) -> None:
        r = q.rf
        take(q, r[5], r[6], r[7])
        move(q, r[8], 1)
        q.shl(r[8], r[8], 6)
        lane_address(q, r[10], r[5])
        load(q, r[11], r[10])
        q.add(r[10], r[10], r[8])
        load(q, r[12], r[10])
        lane_address(q, r[10], r[6])
        q.eidx(r[13])
        for stage in range(4):
            half = 1 << stage
            for d in (14, 15, 16):
                load(q, r[d], r[10])
                q.add(r[10], r[10], r[8])
            # the upper partner is multiplied by its twiddle first
            q.and_(q.null, r[13], half, push="pushz")  # A: lower
            q.nop().fmul(r[17], r[11], r[15])
            q.nop().fmul(r[18], r[12], r[16])
            q.fsub(r[17], r[17], r[18])
            q.nop().fmul(r[18], r[11], r[16])
            q.nop().fmul(r[19], r[12], r[15])
            q.fadd(r[18], r[18], r[19])
            move(q, r[11], r[17], cond="ifna")
            move(q, r[12], r[18], cond="ifna")
            for d in (11, 12):
                rotated(q, r[20], r[d], half)
                q.nop()
                rotated(q, r[21], r[d], -half)
                q.nop()
                move(q, r[21], r[20], cond="ifa")  # the partner's value
                q.nop().fmul(r[d], r[d], r[14])
                q.fadd(r[d], r[d], r[21])
        lane_address(q, r[10], r[7])
        for d in (11, 12):
            move(q, q.tmud, r[d])
            move(q, q.tmua, r[10])
            q.tmuwt(q.null)
            q.add(r[10], r[10], r[8])
        q.end()

    rig.run(whole, [start, rig.buffer(tables), out])
    got = rig.f32(out, 32).reshape(2, 16)
    assert np.allclose(got[0] + 1j * got[1], np.fft.fft(x), atol=2e-6 * 16)


@program()
def test_bitonic_sort_in_the_lanes(isa: Isa) -> None:
    """Ten compare-and-exchange steps among sixteen lanes, for many threads at once."""
    rig, n = Rig(isa), 6
    keys = np.random.default_rng(4).integers(-1000, 1000, (n, 16)).astype(np.int32)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        row_address(q, r[6], r[5], r[4])
        load(q, r[7], r[6])
        q.eidx(r[8])
        for k in (2, 4, 8, 16):
            j = k // 2
            while j:
                rotated(q, r[10], r[7], j)
                q.nop()
                rotated(q, r[11], r[7], -j)
                q.nop()
                q.and_(q.null, r[8], j, push="pushz")  # A: lower lane of the pair
                move(q, r[11], r[10], cond="ifa")
                q.vfla(r[12])
                if k < 16:
                    q.and_(q.null, r[8], k, push="pushz")
                    q.vfla(r[13])
                    q.xor(r[12], r[12], r[13])
                    move(q, q.null, r[12], push="pushz")  # A: keeps the smaller one
                else:
                    move(q, q.null, r[12], push="pushz")
                    q.vfla(r[12])
                    move(q, q.null, r[12], push="pushz")
                q.min(r[13], r[7], r[11])
                q.max(r[14], r[7], r[11])
                move(q, r[7], r[14])
                move(q, r[7], r[13], cond="ifa")
                j //= 2
        return r[7]

    got = rows_of(rig, n, body, (rig.buffer(keys),)).view(np.int32)
    assert (got == np.sort(keys, axis=1)).all()


@program()
def test_filter_with_taps_from_unifa(isa: Isa) -> None:
    """A FIR filter: the taps are read again for every row by writing unifa anew."""
    rig, n, taps, rows = Rig(isa), 3, 7, 2
    rng = np.random.default_rng(12)
    x = rng.normal(size=16 * n * rows + taps).astype(np.float32)
    h = rng.normal(size=taps).astype(np.float32)
    out = rig.buffer(64 * n * rows)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7])
        q.shl(r[8], r[4], 7)
        q.add(r[5], r[5], r[8])
        q.add(r[7], r[7], r[8])
        lane_address(q, r[8], r[5])
        lane_address(q, r[10], r[7])
        move(q, r[11], rows)
        move(q, r[16], 1)
        q.shl(r[16], r[16], 6)
        with rounds(q, r[11]):
            move(q, q.unifa, r[6])
            move(q, r[12], 0)
            move(q, r[13], r[8])
            move(q, r[14], taps)
            with rounds(q, r[14]):
                load(q, r[15], r[13])
                q.add(r[13], r[13], 4)
                q.nop(sig=q.ldunifa)
                q.nop().fmul(r[15], r[15], word(q))
                q.fadd(r[12], r[12], r[15])
            move(q, q.tmud, r[12])
            move(q, q.tmua, r[10])
            q.tmuwt(q.null)
            q.add(r[8], r[8], r[16])
            q.add(r[10], r[10], r[16])
        return r[12]

    rows_of(rig, n, body, (rig.buffer(x), rig.buffer(h), out))
    m = 16 * n * rows
    want = np.zeros(m, np.float32)
    for k in range(taps):
        want = want + x[k : k + m] * h[k]
    assert (rig.f32(out, m) == want).all()


@program()
def test_edit_distances(isa: Isa) -> None:
    """Levenshtein distances of sixteen pairs of words: a table row in memory, strings as bytes."""
    rig, m, k = Rig(isa), 6, 5
    rng = np.random.default_rng(13)
    s, t = rng.integers(97, 101, (16, m)).astype(np.uint8), rng.integers(97, 101, (16, k)).astype(np.uint8)
    row = rig.buffer(np.repeat(np.arange(k + 1, dtype=U)[:, None], 16, axis=1))

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7], r[8], r[10])
        q.eidx(r[11])
        for base, length in ((r[5], m), (r[6], k)):
            move(q, r[12], length)
            q.nop().umul24(r[12], r[12], r[11])
            q.add(base, base, r[12])
        lane_address(q, r[13], r[7])
        move(q, r[7], r[13])
        move(q, r[13], 0)  # row number
        move(q, r[14], m)
        with rounds(q, r[14]):
            move(q, q.tmuc, r[8])
            move(q, q.tmua, r[5])
            q.nop(sig=q.ldtmu(r[15]))
            q.add(r[5], r[5], 1)
            move(q, r[16], r[7])  # the place in the row
            move(q, r[17], r[6])
            load(q, r[18], r[16])  # diagonal
            q.add(r[13], r[13], 1)
            move(q, r[19], r[13])  # left neighbour
            move(q, q.tmud, r[19])
            move(q, q.tmua, r[16])
            q.tmuwt(q.null)
            move(q, r[20], k)
            with rounds(q, r[20]):
                q.add(r[16], r[16], r[10])
                load(q, r[21], r[16])  # above
                move(q, q.tmuc, r[8])
                move(q, q.tmua, r[17])
                q.nop(sig=q.ldtmu(r[22]))
                q.add(r[17], r[17], 1)
                q.sub(q.null, r[22], r[15], push="pushz")
                q.add(r[18], r[18], 1, cond="ifna")
                q.min(r[19], r[19], r[21])
                q.add(r[19], r[19], 1)
                q.min(r[19], r[19], r[18])
                move(q, r[18], r[21])
                move(q, q.tmud, r[19])
                move(q, q.tmua, r[16])
                q.tmuwt(q.null)
        return r[19]

    got = lanes_of(rig, body, (rig.buffer(s), rig.buffer(t), row, config(15, 5), 64))
    for lane in range(16):
        line = list(range(k + 1))
        for i, a in enumerate(s[lane]):
            new = [i + 1]
            for j, b in enumerate(t[lane]):
                new.append(min(new[j] + 1, line[j + 1] + 1, line[j] + (a != b)))
            line = new
        assert got[lane] == line[-1]


@program()
def test_forces_among_sixteen_bodies(isa: Isa) -> None:
    """All pairs by rotating positions; softened inverse square roots."""
    rig = Rig(isa)
    p = np.random.default_rng(14).normal(size=(2, 16)).astype(np.float32)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        lane_address(q, r[6], r[5])
        load(q, r[7], r[6])
        move(q, r[8], 1)
        q.shl(r[8], r[8], 6)
        q.add(r[6], r[6], r[8])
        load(q, r[8], r[6])
        move(q, r[10], r[7])
        move(q, r[11], r[8])
        move(q, r[12], 0)
        for _ in range(15):
            for d in (r[10], r[11]):
                rotated(q, r[13], d, 1)
                q.nop()
                move(q, d, r[13])
            q.fsub(r[13], r[10], r[7])
            q.fsub(r[14], r[11], r[8])
            q.nop().fmul(r[15], r[13], r[13])
            q.nop().fmul(r[14], r[14], r[14])
            q.fadd(r[15], r[15], r[14])
            q.fadd(r[15], r[15], 0.125)
            q.rsqrt(r[16], r[15])
            q.nop()
            q.nop().fmul(r[13], r[13], r[16])
            q.nop().fmul(r[16], r[16], r[16])
            q.nop().fmul(r[13], r[13], r[16])
            q.fadd(r[12], r[12], r[13])
        return r[12]

    got = lanes_of(rig, body, (rig.buffer(p),)).view(np.float32)
    d = p.astype(np.float64)[:, None, :] - p.astype(np.float64)[:, :, None]
    want = (d[0] / ((d**2).sum(axis=0) + 0.125) ** 1.5).sum(axis=1)
    assert np.allclose(got, want, rtol=1e-4, atol=1e-5)


@program()
def test_game_of_life(isa: Isa) -> None:
    """A torus of 16 columns and one row a thread: neighbours above and below from memory, sideways by rotation."""
    rig, n, generations = Rig(isa), 16, 5
    world = np.random.default_rng(15).integers(0, 2, (n, 16)).astype(U)
    at = rig.buffer(world)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        row_address(q, r[7], r[5], r[4])
        move(q, r[8], 15)
        q.add(r[10], r[4], 1)
        q.and_(r[10], r[10], r[8])
        row_address(q, r[11], r[5], r[10])
        q.sub(r[10], r[4], 1)
        q.and_(r[10], r[10], r[8])
        row_address(q, r[12], r[5], r[10])
        with rounds(q, r[6]):
            load(q, r[13], r[7])
            load(q, r[14], r[11])
            load(q, r[15], r[12])
            q.add(r[14], r[14], r[15])
            q.add(r[15], r[14], r[13])  # column sums
            rotated(q, r[16], r[15], 1)
            q.nop()
            rotated(q, r[17], r[15], -1)
            q.nop()
            q.add(r[14], r[14], r[16])
            q.add(r[14], r[14], r[17])  # neighbours
            q.or_(r[14], r[14], r[13])
            q.sub(q.null, r[14], 3, push="pushz")
            move(q, r[13], 0)
            move(q, r[13], 1, cond="ifa")
            barrier(q)
            store(q, r[13], r[7])
            barrier(q)
        return r[13]

    got = rows_of(rig, n, body, (at, generations))
    for _ in range(generations):
        around = sum(np.roll(world, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy)
        world = ((around == 3) | (world == 1) & (around == 2)).astype(U)
    assert (got == world).all()


@program()
def test_sieve_of_primes(isa: Isa) -> None:
    """Threads strike out the multiples of their primes; bytes of a table, no locks needed."""
    rig, n, limit = Rig(isa), 4, 256
    table = rig.buffer(np.ones(limit, np.uint8))
    primes = rig.buffer(np.array([2, 3, 5, 7, 11, 13, 2, 2], U))

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7], r[8])
        q.shl(r[10], r[4], 3)
        q.add(r[10], r[10], r[6])
        for _ in range(2):
            load(q, r[11], r[10])
            q.add(r[10], r[10], 4)
            q.eidx(r[12])
            q.add(r[12], r[12], 2)
            q.nop().umul24(r[12], r[12], r[11])  # multiples 2p .. 17p
            q.shl(r[13], r[11], 4)
            with q.loop() as loop:
                q.sub(q.null, r[12], r[8], push="pushn")  # A: inside
                jump(q, loop.end, "allna")
                q.add(r[14], r[12], r[5])
                move(q, q.tmuc, r[7])
                move(q, q.tmud, 0)
                move(q, q.tmua, r[14], cond="ifa")
                q.add(r[12], r[12], r[13])
                jump(q, loop.start)
        q.tmuwt(q.null)
        barrier(q)
        q.shl(r[10], r[4], 6)  # count what is left in 64 bytes: four to a lane
        q.add(r[10], r[10], r[5])
        lane_address(q, r[11], r[10], 2)
        move(q, r[12], 0)
        for _ in range(4):
            move(q, q.tmuc, r[7])
            move(q, q.tmua, r[11])
            q.nop(sig=q.ldtmu(r[13]))
            q.add(r[12], r[12], r[13])
            q.add(r[11], r[11], 1)
        return r[12]

    got = rows_of(rig, n, body, (table, primes, config(15, 5), limit))
    is_prime = [x < 2 or all(x % d for d in range(2, int(x**0.5) + 1)) for x in range(limit)]
    assert (got == np.array(is_prime).reshape(4, 16, 4).sum(axis=2)).all()
