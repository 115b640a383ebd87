"""Tests of programs in which units interact, on both instruction sets, with results predicted by NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.emu.engine.trace import Trace
from tests.emu.v3d.idioms import LANE, lanes_of, program, take
from tests.emu.v3d.rig import Rig, move, payload, store_lanes, word

WORKED = {
    Isa.V3D42: """
        3d803180bb802000 3de032c17ce38002 3c00318c3880e000 3c003186bb815000 3c203186bb800000 3c203186bb800000
        3c003186bb800000 3c003186bb800000 3c203186bb800000 3c003186bb800000 3c003186bb800000""",
    Isa.V3D71: """
        3980618abb03f002 39e022cb7c283282 3800318c3803f04b 38003186bb03f00f 38203186bb03f000 38203186bb03f000
        38003186bb03f000 38003186bb03f000 38203186bb03f000 38003186bb03f000 38003186bb03f000""",
}


@program()
def test_worked_example(isa: Isa) -> None:
    rig = Rig(isa)
    out = rig.buffer(64)
    run = rig.run([int(w, 16) for w in WORKED[isa].split()], [out])
    assert (rig.u32(out, 16) == LANE).all()
    s = run.stats
    assert (s.instructions, s.add_ops, s.mul_ops, s.tmu_write_bytes, s.uniform_bytes) == (11, 4, 1, 64, 4)
    assert s.clocks == 44
    assert s.thread_switches == 1
    assert s.per_qpu == {0: 11}


@program()
def test_conditional_writes_and_select(isa: Isa) -> None:
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        q.eidx(r[2])
        q.sub(q.null, r[2], 5, push="pushn")  # A: lane < 5
        q.sub(q.null, r[2], 12, push="pushn")  # B: lane < 5, A: lane < 12
        move(q, r[3], 0)
        q.add(r[3], r[2], 1, cond="ifb")
        q.add(r[3], r[3], 15, cond="ifna")
        q.add(r[3], r[3], 4, cond="ifnb")
        return r[3]

    want = np.where(LANE < 5, LANE + 1, 0) + np.where(LANE >= 12, 15, 0) + np.where(LANE >= 5, 4, 0)
    assert (lanes_of(rig, body) == want).all()


@program()
def test_flag_updates(isa: Isa) -> None:
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        q.eidx(r[2])
        q.and_(q.null, r[2], 1, push="pushz")  # even lanes
        q.sub(q.null, r[2], 8, update="andn")  # and below 8
        q.vfla(r[3])
        q.sub(q.null, r[2], 4, update="norz")  # neither those nor lane 4
        q.vfla(r[4])
        q.add(r[4], r[4], r[4])
        q.or_(r[3], r[3], r[4])
        return r[3]

    first = (LANE % 2 == 0) & (LANE < 8)
    second = ~(first | (LANE == 4))
    assert (lanes_of(rig, body) == first * 0x10001 + second * 0x20002).all()


@program()
def test_flpop_returns_what_flapush_saved(isa: Isa) -> None:
    """flapush appends the two flag bits; the result of flpop drops them again."""
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        q.eidx(r[2])
        q.and_(q.null, r[2], 2, push="pushz")
        q.flapush(r[3], r[2])
        q.flpop(r[4], r[3])
        q.shl(r[3], r[3], 8)
        q.or_(r[3], r[3], r[4])
        return r[3]

    pushed = LANE << 2 | np.where(LANE & 2, 0, 3)
    assert (lanes_of(rig, body) == (pushed << 8 | LANE)).all()


@program()
def test_full_32_bit_product(isa: Isa) -> None:
    """multop and umul24 give the full low 32 bits; without multop the plain 24-bit product."""
    rig = Rig(isa)
    a, b = 0x89ABCDEF, 0x12345679

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[2])
        take(q, r[3])
        q.nop().multop(q.null, r[2], r[3])
        q.nop().umul24(r[4], r[2], r[3])
        q.nop().umul24(r[5], r[2], r[3])
        q.sub(r[4], r[4], r[5])
        return r[4]

    mask = 0xFFFFFF
    want = (a * b - (a & mask) * (b & mask)) & 0xFFFFFFFF
    assert (lanes_of(rig, body, (a, b)) == want).all()


@program()
def test_newton_reciprocal(isa: Isa) -> None:
    """SFU seed and two steps of refinement, in float32."""
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        q.eidx(r[2])
        q.add(r[2], r[2], 3)
        q.itof(r[2], r[2])
        q.recip(r[3], r[2])
        q.nop()
        for _ in range(2):
            q.nop().fmul(r[4], r[2], r[3])
            q.fsub(r[4], 2.0, r[4])
            q.nop().fmul(r[3], r[3], r[4])
        return r[3]

    got = lanes_of(rig, body).view(np.float32)
    assert np.allclose(got, 1 / (LANE + 3), rtol=2e-7)


@program()
@pytest.mark.parametrize("name", ["recip", "rsqrt", "exp", "log", "sin"])
def test_special_functions(isa: Isa, name: str) -> None:
    rig = Rig(isa)
    x = np.linspace(-0.5 if name in ("exp", "sin") else 0.1, 0.5, 16).astype(np.float32)
    data = rig.buffer(x)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[2])
        q.eidx(r[3])
        q.shl(r[3], r[3], 2)
        q.add(q.tmua, r[3], r[2])
        q.nop(sig=q.ldtmu(r[4]))
        getattr(q, name)(r[5], r[4])
        q.nop()
        move(q, r[6], r[5])
        return r[6]

    f = {
        "recip": lambda v: 1 / v,
        "rsqrt": lambda v: v**-0.5,
        "exp": np.exp2,
        "log": np.log2,
        "sin": lambda v: np.sin(np.pi * v),
    }[name]
    want = f(x.astype(np.float64))
    assert np.allclose(lanes_of(rig, body, (data,)).view(np.float32), want, rtol=1e-6, atol=1e-7)


@program()
def test_half_precision_pipeline(isa: Isa) -> None:
    """Packs, half-wise arithmetic, unpacks; every step rounds to binary16."""
    rig = Rig(isa)
    x = (np.arange(16) * 0.37 - 2).astype(np.float32)
    data = rig.buffer(x)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[2])
        q.eidx(r[3])
        q.shl(r[3], r[3], 2)
        q.add(q.tmua, r[3], r[2])
        q.nop(sig=q.ldtmu(r[4]))
        q.vfpack(r[5], r[4], r[3])
        q.nop().vfmul(r[6], r[5].ll, r[5])
        q.vfmax(r[6], r[6].swp, r[5])
        q.fadd(r[7].l, r[6].l, r[6].h)
        q.fsub(r[7].h, r[6].l, r[6].h)
        return r[7]

    y = (LANE * 4).astype(np.uint32).view(np.float32)  # denormals: 0 in binary16
    lo, hi = x.astype(np.float16), y.astype(np.float16)
    p0, p1 = (lo * lo).astype(np.float16), (lo * hi).astype(np.float16)
    m0, m1 = np.maximum(p1, lo), np.maximum(p0, hi)
    add = (m0.astype(np.float32) + m1.astype(np.float32)).astype(np.float16)
    sub = (m0.astype(np.float32) - m1.astype(np.float32)).astype(np.float16)
    want = add.view(np.uint16).astype(np.uint32) | sub.view(np.uint16).astype(np.uint32) << 16
    got = lanes_of(rig, body, (data,))
    zero = lambda v: np.where((v & 0x7FFF) == 0, 0, v)  # noqa: E731 # the sign of zero is not known in maxima
    assert (zero(got & 0xFFFF) == zero(want & 0xFFFF)).all()
    assert (zero(got >> 16) == zero(want >> 16)).all()


@program()
def test_lane_sum_by_rotation(isa: Isa) -> None:
    """A butterfly over rotations; the two versions rotate in opposite directions."""
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        if isa is Isa.V3D42:
            q.eidx(q.r0)
            q.nop()
            for n in (1, 2, 4, 8):
                q.nop(sig=q.rot(n)).mov(q.r1, q.r0)
                q.add(q.r0, q.r0, q.r1)
            return q.r0
        q.eidx(r[2])
        for n in (1, 2, 4, 8):
            q.rot(r[3], r[2], n)
            q.nop()
            q.add(r[2], r[2], r[3])
        return r[2]

    assert (lanes_of(rig, body) == 120).all()


@program(Isa.V3D42)
def test_rotation_of_42(isa: Isa) -> None:
    rig = Rig(Isa.V3D42)

    def body(q: Any) -> Any:
        q.eidx(q.r0)
        q.eidx(q.rf[2])
        q.nop(sig=q.rot(3)).mov(q.r1, q.r0)  # accumulator: all 16 lanes
        q.nop(sig=q.rot(1)).mov(q.r2, q.rf[2])  # register: inside quads
        q.or_(q.r5, 13, 13)
        q.nop()
        q.nop(sig=q.rot(q.r5)).mov(q.r3, q.r0)
        q.shl(q.r2, q.r2, 8)
        q.or_(q.r1, q.r1, q.r2)
        q.shl(q.r3, q.r3, 15)
        q.or_(q.r1, q.r1, q.r3)
        return q.r1

    first = (LANE - 3) % 16
    second = LANE & ~3 | (LANE - 1) % 4
    third = (LANE - 13) % 16
    assert (lanes_of(rig, body) == (first | second << 8 | third << 15)).all()


@program(Isa.V3D71)
def test_lane_operations_of_71(isa: Isa) -> None:
    rig = Rig(Isa.V3D71)

    def body(q: Any) -> Any:
        r = q.rf
        q.eidx(r[2])
        q.sub(r[3], 15, r[2])
        q.shuffle(r[4], r[2], r[3])
        q.rotq(r[5], r[2], 1)
        q.and_(r[6], r[2], 1)
        q.ballot(r[7], r[6])
        q.bcastf(r[8], r[3])
        q.alleq(r[10], r[8])
        q.shl(r[5], r[5], 4)
        q.or_(r[4], r[4], r[5])
        q.shl(r[8], r[8], 8)
        q.or_(r[4], r[4], r[8])
        q.shl(r[10], r[10], 12)
        q.or_(r[4], r[4], r[10])
        q.shl(r[7], r[7], -16)
        q.or_(r[4], r[4], r[7])
        return r[4]

    quad = LANE & ~3 | (LANE + 1) % 4
    assert (lanes_of(rig, body) == (15 - LANE | quad << 4 | 15 << 8 | 1 << 12 | 0xAAAA << 16)).all()


@program()
def test_broadcast_destinations(isa: Isa) -> None:
    rig = Rig(isa)

    def body(q: Any) -> Any:
        quad, rep = (q.r5, q.r5rep) if isa is Isa.V3D42 else (q.quad, q.rep)
        r = q.rf
        q.eidx(r[2])
        q.add(quad, r[2], 1)
        q.shl(r[3], word(q), 8)
        q.add(rep, r[2], 7)
        q.or_(r[3], r[3], word(q))
        return r[3]

    assert (lanes_of(rig, body) == (((LANE & ~3) + 1) << 8 | 7)).all()


@program(Isa.V3D42)
def test_sfu_register_of_42(isa: Isa) -> None:
    """The result reaches r4 for the second instruction after the write."""
    rig = Rig(Isa.V3D42)

    def body(q: Any) -> Any:
        q.eidx(q.r0)
        q.add(q.r0, q.r0, 1)
        q.itof(q.r0, q.r0)
        q.nop().fmov(q.magic(19), q.r0)
        q.nop()
        q.fadd(q.r1, q.r4, q.r4)
        return q.r1

    assert np.allclose(lanes_of(rig, body).view(np.float32), 2 / (LANE + 1), rtol=1e-6)


@program()
def test_tail_lanes_do_not_store(isa: Isa) -> None:
    """A workgroup of 20 items: the second batch has four live lanes, seen by msf and by stores."""
    rig = Rig(isa)
    out = rig.buffer(np.full(64, 0xFFFF, np.uint32))

    def program(q: Any) -> None:
        r = q.rf
        take(q, r[1])
        take(q, r[4])
        q.shr(r[3], r[2], r[4])  # local index
        q.shl(r[5], r[3], 2)
        q.add(r[5], r[5], r[1])
        move(q, q.tmud, r[3])
        move(q, q.tmua, r[5])
        q.tmuwt(q.null)
        q.end()

    rig.run(program, [out, 26], size=20)
    got = rig.u32(out, 64)
    assert (got[:20] == np.arange(20)).all()
    assert (got[20:] == 0xFFFF).all()


@program()
def test_dot_product_streamed_with_vec4(isa: Isa) -> None:
    rig = Rig(isa)
    rng = np.random.default_rng(5)
    x = rng.normal(size=16 * 4 * 8).astype(np.float32)
    y = rng.normal(size=16 * 4 * 8).astype(np.float32)
    xs, ys = rig.buffer(x), rig.buffer(y)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[2])
        take(q, r[3])
        q.eidx(r[4])
        q.shl(r[4], r[4], 4)
        q.add(r[2], r[2], r[4])
        q.add(r[3], r[3], r[4])
        move(q, r[5], 8)
        q.sub(r[6], r[6], r[6])
        move(q, r[7], 1)
        q.shl(r[7], r[7], 8)
        with q.loop() as loop:
            q.not_(q.tmuc, 3)  # 0xfffffffc: one vec4 request
            move(q, q.tmua, r[2])
            q.not_(q.tmuc, 3)
            move(q, q.tmua, r[3])
            for i in range(4):
                q.nop(sig=q.ldtmu(r[10 + i]))
            for i in range(4):
                q.nop(sig=q.ldtmu(r[14 + i]))
            for i in range(4):
                q.nop().fmul(r[10 + i], r[10 + i], r[14 + i])
                q.fadd(r[6], r[6], r[10 + i])
            q.sub(r[5], r[5], 1, push="pushz")
            q.b(loop.start, cond="na0")
            q.add(r[2], r[2], r[7])
            q.add(r[3], r[3], r[7])
            q.nop()
        return r[6]

    got = lanes_of(rig, body, (xs, ys)).view(np.float32)
    p = (x * y).reshape(8, 16, 4)
    want = np.zeros(16, np.float32)
    for row in p:
        for k in range(4):
            want = want + row[:, k]
    assert (got == want).all()


@program()
def test_prefix_sum_with_memory_round_trips(isa: Isa) -> None:
    """Write, tmuwt, read of neighbours in one thread is coherent."""
    rig = Rig(isa)
    work = rig.buffer(128 * 4)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[2])
        q.eidx(r[3])
        q.add(r[4], r[3], 1)  # values 1..16
        move(q, r[5], 1)
        q.shl(r[5], r[5], 6)
        q.add(r[6], r[2], r[5])  # preceded by 64 bytes of zeros
        for shift in (1, 2, 4, 8):
            q.shl(r[7], r[3], 2)
            q.add(r[7], r[7], r[6])
            move(q, q.tmud, r[4])
            move(q, q.tmua, r[7])
            q.tmuwt(q.null)
            move(q, r[8], shift)
            q.shl(r[8], r[8], 2)
            q.sub(q.tmua, r[7], r[8])
            q.nop(sig=q.ldtmu(r[10]))
            q.add(r[4], r[4], r[10])
        return r[4]

    assert (lanes_of(rig, body, (work,)) == np.cumsum(LANE + 1)).all()


@program()
def test_dual_issue_reads_old_values(isa: Isa) -> None:
    """Both ALUs and a load in one word: all read the state before the instruction."""
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        q.eidx(r[2])
        q.add(r[3], r[2], 1)
        q.add(r[2], r[2], r[3], sig=q.ldunifrf(r[4])).add(r[3], r[2], r[2])
        q.shl(r[3], r[3], 8)
        q.or_(r[3], r[3], r[2])
        q.shl(r[4], r[4], -16)
        q.or_(r[3], r[3], r[4])
        return r[3]

    assert (lanes_of(rig, body, (3,)) == (2 * LANE + 1 | 2 * LANE << 8 | 3 << 16)).all()


@program()
def test_runs_are_repeatable(isa: Isa) -> None:
    """Two runs give the same memory, statistics and trace."""

    def once() -> tuple[bytes, str, Any]:
        trace = Trace()
        rig = Rig(isa, trace=trace)
        n = 5
        out, counter = rig.buffer(64 * n), rig.buffer(64)

        def program(q: Any) -> None:
            r = q.rf
            q.shl(r[3], payload(q), -16)
            q.shr(r[3], r[3], -16)
            for k in (1, 4, 10):
                take(q, r[k])
            q.add(r[5], r[3], 1)
            with q.loop() as loop:
                move(q, q.tmuc, r[10])
                move(q, q.tmud, r[5])
                move(q, q.tmua, r[4])
                q.nop(sig=q.ldtmu(r[6]))
                q.sub(r[5], r[5], 1, push="pushz")
                q.b(loop.start, cond="na0")
                q.nop()
                q.nop()
                q.nop()
            q.shl(r[7], r[3], 6)
            q.add(r[1], r[1], r[7])
            store_lanes(q, r[6], r[1], r[9])
            q.end()

        run = rig.run(program, [out, counter, 0xFFFFFF00 | 0x87], workgroups=(n, 1, 1), per_supergroup=n)
        return bytes(rig.memory.view(out, 64 * n)), trace.json_lines, run.stats.instructions

    assert once() == once()
