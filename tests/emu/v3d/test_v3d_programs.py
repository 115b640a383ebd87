"""Programs in which units interact, on both instruction sets, with results predicted by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from v3d_rig import ISAS, Rig, move, payload, store_lanes, word

from qpu.core.isa import Isa
from qpu.emu.trace import Trace

LANE = np.arange(16)
both = pytest.mark.parametrize("isa", ISAS)

WORKED = {
    Isa.V3D42: """
        3d803180bb802000 3de032c17ce38002 3c00318c3880e000 3c003186bb815000 3c203186bb800000 3c203186bb800000
        3c003186bb800000 3c003186bb800000 3c203186bb800000 3c003186bb800000 3c003186bb800000""",
    Isa.V3D71: """
        3980618abb03f002 39e022cb7c283282 3800318c3803f04b 38003186bb03f00f 38203186bb03f000 38203186bb03f000
        38003186bb03f000 38003186bb03f000 38203186bb03f000 38003186bb03f000 38003186bb03f000""",
}


def uniform_to(q: Any, register: Any) -> None:
    q.nop(sig=q.ldunifrf(register))


def finish(q: Any) -> None:
    q.end()


def lanes_of(rig: Rig, body: Callable[[Any], Any], uniforms: tuple[Any, ...] = (), **options: Any) -> np.ndarray:
    """Run a body that returns the register whose lanes are stored; rf1 holds the base, rf9 is scratch."""
    out = rig.buffer(64)

    def program(q: Any) -> None:
        uniform_to(q, q.rf[1])
        value = body(q)
        store_lanes(q, value, q.rf[1], q.rf[9])
        finish(q)

    rig.run(program, [out, *uniforms], **options)
    return rig.u32(out, 16)


@both
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


@both
@pytest.mark.parametrize(
    ("cond", "value", "taken"),
    [
        ("a0", lambda i: i == 0, True),
        ("a0", lambda i: i == 1, False),
        ("na0", lambda i: i == 0, False),
        ("na0", lambda i: i == 1, True),
        ("alla", lambda i: i >= 0, True),
        ("alla", lambda i: i < 15, False),
        ("anyna", lambda i: i < 15, True),
        ("anyna", lambda i: i >= 0, False),
        ("anya", lambda i: i == 9, True),
        ("anya", lambda i: i > 20, False),
        ("allna", lambda i: i > 20, True),
        ("allna", lambda i: i == 9, False),
        (None, lambda i: i > 20, True),
    ],
)
def test_branch_conditions(isa: Isa, cond: str | None, value: Any, taken: bool) -> None:
    rig = Rig(isa)
    data = rig.buffer(np.where(value(LANE), 0, 7).astype(np.uint32))

    def body(q: Any) -> Any:
        r = q.rf
        uniform_to(q, r[2])
        q.eidx(r[3])
        q.shl(r[3], r[3], 2)
        q.add(r[3], r[3], r[2])
        move(q, q.tmua, r[3])
        q.nop(sig=q.ldtmu(r[4]))
        move(q, r[5], 0)
        move(q, q.null, r[4], push="pushz")  # A where the condition holds; the next instruction sees it
        q.b("there", cond=cond)
        q.add(r[5], r[5], 1)  # three delay slots run in any case
        q.add(r[5], r[5], 1)
        q.add(r[5], r[5], 1)
        q.add(r[5], r[5], 8)  # only when not taken
        q.label("there")
        return r[5]

    assert (lanes_of(rig, body, (data,)) == (3 if taken else 11)).all()


@both
def test_absolute_and_register_branches(isa: Isa) -> None:
    rig = Rig(isa)
    out = rig.buffer(64)
    code = rig._next  # the code buffer comes next

    def program(q: Any) -> None:
        r = q.rf
        uniform_to(q, r[1])
        uniform_to(q, r[2])
        move(q, r[3], 1)
        q.b(q.absolute(code + 8 * 9))  # over the next add
        for _ in range(3):
            q.nop()
        q.add(r[3], r[3], 15)
        q.nop()
        q.b(r[2])
        for _ in range(3):
            q.nop()
        q.add(r[3], r[3], 14)
        assert len(q) == 14
        store_lanes(q, r[3], r[1], r[9])
        finish(q)

    # rf2 differs in lanes other than 0 only in what must be ignored
    program_start = code
    rig.run(program, [out, program_start + 8 * 14])
    assert (rig.u32(out, 16) == 1).all()


@both
def test_call_and_return_by_link(isa: Isa) -> None:
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        move(q, r[5], 1)
        for _ in range(3):
            q.b("double", link=True)
            q.nop()
            q.nop()
            q.nop()
        q.lr(r[6])
        q.b("out")
        q.nop()
        q.nop()
        q.nop()
        q.label("double")
        q.add(r[5], r[5], r[5])
        q.b(q.lri)
        q.nop()
        q.nop()
        q.nop()
        q.label("out")
        return r[5]

    assert (lanes_of(rig, body) == 8).all()


@both
def test_loop_sums_with_carry_flags(isa: Isa) -> None:
    """64-bit addition by carry."""
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        move(q, r[2], 15)
        move(q, r[3], 0)
        move(q, r[4], 0)
        uniform_to(q, r[5])
        with q.loop() as loop:
            q.add(r[3], r[3], r[5], push="pushc")
            q.add(r[4], r[4], 1, cond="ifa")
            q.sub(r[2], r[2], 1, push="pushz")
            q.b(loop.start, cond="anyna")
            q.nop()
            q.nop()
            q.nop()
        return r[4]

    step = 0x70000000
    got = lanes_of(rig, body, (step,))
    assert (got == (15 * step) >> 32).all()


@both
def test_divergent_loops_between_threads(isa: Isa) -> None:
    """Every thread runs its own number of rounds, parts with the others and meets them again."""
    rig = Rig(isa)
    n = 12
    out = rig.buffer(64 * n)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[2], payload(q), -16)
        q.shr(r[2], r[2], -16)  # workgroup x
        uniform_to(q, r[1])
        q.shl(r[3], r[2], 6)
        q.add(r[1], r[1], r[3])
        q.add(r[4], r[2], 1)
        move(q, r[5], 0)
        with q.loop() as loop:
            q.and_(q.null, r[4], 1, push="pushz")
            q.b("even", cond="a0")
            q.nop()
            q.nop()
            q.nop()
            q.add(r[5], r[5], 7)
            q.label("even")
            q.add(r[5], r[5], 1)
            q.sub(r[4], r[4], 1, push="pushz")
            q.b(loop.start, cond="na0")
            q.nop()
            q.nop()
            q.nop()
        store_lanes(q, r[5], r[1], r[9])
        finish(q)

    rig.run(program, [out], workgroups=(n, 1, 1), per_supergroup=n)
    want = [sum(1 + 7 * (k % 2) for k in range(1, i + 2)) for i in range(n)]
    assert (rig.u32(out, 16 * n).reshape(n, 16) == np.array(want)[:, None]).all()


@both
def test_uniform_stream_branches(isa: Isa) -> None:
    """Relative, absolute and register re-addressing; the relative case as measured: word 1 holding 8 -> word 4."""
    rig = Rig(isa)
    out = rig.buffer(64)
    side = rig.buffer(np.array([0, 111, 222, 333], np.uint32))
    stream = [out, 8, 0xBAD, 0xBAD, 44, side + 4]

    def program(q: Any) -> None:
        r = q.rf
        uniform_to(q, r[1])
        q.b(0, unif="rel")
        q.nop()
        q.nop()
        q.nop()
        uniform_to(q, r[2])
        q.b(0, unif="abs")
        q.nop()
        q.nop()
        q.nop()
        uniform_to(q, r[3])
        q.add(r[2], r[2], r[3])
        store_lanes(q, r[2], r[1], r[9])
        finish(q)

    rig.run(program, stream)
    assert (rig.u32(out, 16) == 44 + 111).all()


@both
def test_uniform_stream_from_a_register(isa: Isa) -> None:
    rig = Rig(isa)
    side = rig.buffer(np.array([0, 5, 7, 9], np.uint32))

    def body(q: Any) -> Any:
        r = q.rf
        uniform_to(q, r[2])  # side
        q.eidx(r[3])
        q.shl(r[3], r[3], 2)
        q.add(r[3], r[3], r[2])  # lane 1: side + 4, whose low bits are dropped
        q.b(0, unif=r[3])
        q.nop()
        q.nop()
        q.nop()
        uniform_to(q, r[4])
        uniform_to(q, r[5])
        uniform_to(q, r[6])
        q.add(r[5], r[5], r[4])
        q.add(r[5], r[5], r[6])
        return r[5]

    assert (lanes_of(rig, body, (side,)) == 12).all()


@both
def test_untaken_branch_consumes_its_uniform(isa: Isa) -> None:
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        q.eidx(r[2])
        q.add(q.null, r[2], 1, push="pushz")  # nowhere zero
        q.b(0, cond="anya", unif="abs")
        q.nop()
        q.nop()
        q.nop()
        uniform_to(q, r[3])
        return r[3]

    assert (lanes_of(rig, body, (0xDEADBEE0, 77)) == 77).all()


@both
def test_unifa_and_uniforms_alternate(isa: Isa) -> None:
    rig = Rig(isa)
    side = rig.buffer(np.arange(100, 110, dtype=np.uint32))

    def body(q: Any) -> Any:
        r = q.rf
        uniform_to(q, r[2])
        move(q, q.unifa, r[2])
        q.nop()
        q.nop()
        q.nop()
        q.nop(sig=q.ldunifarf(r[3]))
        q.nop(sig=q.ldunifrf(r[4]))
        q.nop(sig=q.ldunifa)
        move(q, r[5], word(q), sig=q.ldunif)
        q.add(r[6], r[5], word(q))
        q.add(r[6], r[6], r[3])
        q.add(r[6], r[6], r[4])
        return r[6]

    assert (lanes_of(rig, body, (side, 1000, 20000)) == 100 + 1000 + 101 + 20000).all()


@both
def test_uniforms_see_memory_as_it_was_at_the_start(isa: Isa) -> None:
    """A word stored in the same program reads back through the TMU, but not as a uniform (asserted by device tests)."""
    rig = Rig(isa)
    cell = rig.buffer(np.full(1024, 5, np.uint32))

    def body(q: Any) -> Any:
        r = q.rf
        uniform_to(q, r[2])
        store_lanes(q, r[2], r[2], r[9])
        q.sub(q.unifa, r[2], 0)
        move(q, q.tmua, r[2])
        q.nop(sig=q.ldtmu(r[3]))  # the new value
        q.nop()
        q.nop(sig=q.ldunifarf(r[4]))  # the old one
        q.sub(r[5], r[3], r[2])
        q.add(r[5], r[5], r[4])
        return r[5]

    assert (lanes_of(rig, body, (cell,)) == 5).all()


@both
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


@both
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


@both
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


@both
def test_full_32_bit_product(isa: Isa) -> None:
    """multop and umul24 give the full low 32 bits; without multop the plain 24-bit product."""
    rig = Rig(isa)
    a, b = 0x89ABCDEF, 0x12345679

    def body(q: Any) -> Any:
        r = q.rf
        uniform_to(q, r[2])
        uniform_to(q, r[3])
        q.nop().multop(q.null, r[2], r[3])
        q.nop().umul24(r[4], r[2], r[3])
        q.nop().umul24(r[5], r[2], r[3])
        q.sub(r[4], r[4], r[5])
        return r[4]

    mask = 0xFFFFFF
    want = (a * b - (a & mask) * (b & mask)) & 0xFFFFFFFF
    assert (lanes_of(rig, body, (a, b)) == want).all()


@both
def test_rtop_does_not_survive_a_switch(isa: Isa) -> None:
    rig = Rig(isa)

    def body(q: Any) -> Any:
        r = q.rf
        uniform_to(q, r[2])
        q.nop().multop(q.null, r[2], r[2])
        q.nop(sig=q.thrsw)
        q.nop()
        q.nop()
        q.nop().umul24(r[4], r[2], r[2])
        return r[4]

    assert (lanes_of(rig, body, (0x03000005,)) == 25).all()


@both
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


@both
@pytest.mark.parametrize("name", ["recip", "rsqrt", "exp", "log", "sin"])
def test_special_functions(isa: Isa, name: str) -> None:
    rig = Rig(isa)
    x = np.linspace(-0.5 if name in ("exp", "sin") else 0.1, 0.5, 16).astype(np.float32)
    data = rig.buffer(x)

    def body(q: Any) -> Any:
        r = q.rf
        uniform_to(q, r[2])
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


@both
def test_half_precision_pipeline(isa: Isa) -> None:
    """Packs, half-wise arithmetic, unpacks; every step rounds to binary16."""
    rig = Rig(isa)
    x = (np.arange(16) * 0.37 - 2).astype(np.float32)
    data = rig.buffer(x)

    def body(q: Any) -> Any:
        r = q.rf
        uniform_to(q, r[2])
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


@both
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


def test_rotation_of_42() -> None:
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


def test_lane_operations_of_71() -> None:
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


@both
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


def test_sfu_register_of_42() -> None:
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


@both
def test_tail_lanes_do_not_store(isa: Isa) -> None:
    """A workgroup of 20 items: the second batch has four live lanes, seen by msf and by stores."""
    rig = Rig(isa)
    out = rig.buffer(np.full(64, 0xFFFF, np.uint32))

    def program(q: Any) -> None:
        r = q.rf
        uniform_to(q, r[1])
        uniform_to(q, r[4])
        q.shr(r[3], r[2], r[4])  # local index
        q.shl(r[5], r[3], 2)
        q.add(r[5], r[5], r[1])
        move(q, q.tmud, r[3])
        move(q, q.tmua, r[5])
        q.tmuwt(q.null)
        finish(q)

    rig.run(program, [out, 26], size=20)
    got = rig.u32(out, 64)
    assert (got[:20] == np.arange(20)).all()
    assert (got[20:] == 0xFFFF).all()


@both
def test_per_lane_loop_ignores_dead_lanes(isa: Isa) -> None:
    """msfign p: lanes without samples do not keep a loop alive."""
    rig = Rig(isa)
    out = rig.buffer(64 * 2)

    def program(q: Any) -> None:
        r = q.rf
        uniform_to(q, r[1])
        uniform_to(q, r[4])
        q.shr(r[3], r[2], r[4])
        q.msf(r[5])
        move(q, q.null, r[5], push="pushz")  # A: dead lanes
        move(q, r[6], 0)
        move(q, r[6], -1, cond="ifa")  # would loop for ever in dead lanes
        with q.loop() as loop:
            q.sub(q.null, r[6], 3, push="pushz")
            q.add(r[6], r[6], 1, cond="ifna")
            q.b(loop.start, cond="anyna", msfign="p")
            q.nop()
            q.nop()
            q.nop()
        q.shl(r[5], r[3], 2)
        q.add(r[5], r[5], r[1])
        move(q, q.tmud, r[6])
        move(q, q.tmua, r[5])
        finish(q)

    rig.run(program, [out, 26], size=20)
    assert (rig.u32(out, 20) == 3).all()


@both
def test_barrier_exchange_between_batches(isa: Isa) -> None:
    """Neighbours read each other's values after the barrier, and overwrite their own without a second one."""
    rig = Rig(isa)
    n = 8
    out = rig.buffer(64 * n)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16)
        uniform_to(q, r[1])
        uniform_to(q, r[4])
        q.shl(r[5], r[3], 6)
        q.add(r[5], r[5], r[1])  # own row
        q.eidx(r[6])
        q.shl(r[6], r[6], 2)
        q.add(r[5], r[5], r[6])
        move(q, q.tmud, r[3])
        move(q, q.tmua, r[5])
        q.tmuwt(q.null)
        q.barrierid(q.syncb, sig=q.thrsw)
        q.nop()
        q.nop()
        q.add(r[7], r[3], 1)
        q.and_(r[7], r[7], n - 1)
        q.shl(r[7], r[7], 6)
        q.add(r[7], r[7], r[1])
        q.add(q.tmua, r[7], r[6])
        q.nop(sig=q.ldtmu(r[8]))
        q.add(q.tmud, r[8], r[4])
        move(q, q.tmua, r[5])
        q.tmuwt(q.null)
        finish(q)

    rig.run(program, [out, 100], workgroups=(n, 1, 1), per_supergroup=n)
    got = rig.u32(out, 16 * n).reshape(n, 16)
    assert (got == (100 + (np.arange(n) + 1) % n)[:, None]).all()


@both
def test_contended_atomic_counter(isa: Isa) -> None:
    """All lanes of all threads take a number from one counter: every number once, in order of threads and lanes."""
    rig = Rig(isa)
    n = 6
    counter = rig.buffer(np.array([1000], np.uint32))
    out = rig.buffer(64 * n)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16)
        uniform_to(q, r[1])
        uniform_to(q, r[4])
        uniform_to(q, r[10])
        move(q, q.tmuc, r[10])
        move(q, q.tmud, 1)
        move(q, q.tmua, r[4])
        q.nop(sig=q.ldtmu(r[5]))
        q.shl(r[6], r[3], 6)
        q.add(r[1], r[1], r[6])
        store_lanes(q, r[5], r[1], r[9])
        finish(q)

    rig.run(program, [out, counter, 0xFFFFFF00 | 0x80 | 0 << 3 | 7], workgroups=(n, 1, 1), per_supergroup=n)
    assert (rig.u32(out, 16 * n) == 1000 + np.arange(16 * n)).all()
    assert rig.u32(counter, 1)[0] == 1000 + 16 * n


@both
@pytest.mark.parametrize("parted", [False, True])
def test_atomics_are_served_in_rounds_of_threads(isa: Isa, parted: bool) -> None:
    """Every thread draws twice: first all threads once, in order, then again; also when odd threads part."""
    rig = Rig(isa)
    n = 6
    counter = rig.buffer(64)
    out = rig.buffer(128 * n)

    def draw(q: Any, d: Any) -> None:
        r = q.rf
        move(q, q.tmuc, r[10])
        move(q, q.tmud, 1)
        move(q, q.tmua, r[4])
        q.nop(sig=q.ldtmu(d))

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16)
        for k in (1, 4, 10):
            uniform_to(q, r[k])
        q.and_(q.null, r[3], 1, push="pushz")
        if parted:
            q.b("odd", cond="na0")
            q.nop()
            q.nop()
            q.nop()
            draw(q, r[5])
            draw(q, r[6])
            q.b("store")
            q.nop()
            q.nop()
            q.nop()
            q.label("odd")
        draw(q, r[5])
        draw(q, r[6])
        q.label("store")
        q.shl(r[7], r[3], 7)
        q.add(r[1], r[1], r[7])
        store_lanes(q, r[5], r[1], r[9])
        move(q, r[7], 1)
        q.shl(r[7], r[7], 6)
        q.add(r[1], r[1], r[7])
        store_lanes(q, r[6], r[1], r[9])
        finish(q)

    rig.run(program, [out, counter, 0xFFFFFF87], workgroups=(n, 1, 1), per_supergroup=n)
    got = rig.u32(out, 32 * n).reshape(n, 2, 16)
    want = np.arange(32 * n).reshape(2, n, 16).transpose(1, 0, 2)
    assert (got == want).all()


@both
def test_producer_and_consumer_through_memory(isa: Isa) -> None:
    """One thread spins on a flag that another one sets later: nobody starves."""
    rig = Rig(isa)
    cells = rig.buffer(64)
    out = rig.buffer(64 * 2)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16, push="pushz")  # A: workgroup 0
        uniform_to(q, r[1])
        uniform_to(q, r[4])
        q.shl(r[6], r[3], 6)
        q.add(r[1], r[1], r[6])
        q.b("producer", cond="na0")
        q.nop()
        q.nop()
        q.nop()
        with q.loop() as loop:
            move(q, q.tmua, r[4])
            q.nop(sig=q.ldtmu(r[5]))
            move(q, q.null, r[5], push="pushz")
            q.b(loop.start, cond="a0")
            q.nop()
            q.nop()
            q.nop()
        q.b("store")
        q.nop()
        q.nop()
        q.nop()
        q.label("producer")
        move(q, r[7], 15)
        with q.loop() as loop:
            q.sub(r[7], r[7], 1, push="pushz")
            q.b(loop.start, cond="na0")
            q.nop()
            q.nop()
            q.nop()
        move(q, r[5], 9)
        move(q, q.tmud, r[5])
        move(q, q.tmua, r[4])
        q.label("store")
        store_lanes(q, r[5], r[1], r[9])
        finish(q)

    rig.run(program, [out, cells], workgroups=(2, 1, 1), per_supergroup=2)
    assert (rig.u32(out, 32) == 9).all()


@both
def test_dot_product_streamed_with_vec4(isa: Isa) -> None:
    rig = Rig(isa)
    rng = np.random.default_rng(5)
    x = rng.normal(size=16 * 4 * 8).astype(np.float32)
    y = rng.normal(size=16 * 4 * 8).astype(np.float32)
    xs, ys = rig.buffer(x), rig.buffer(y)

    def body(q: Any) -> Any:
        r = q.rf
        uniform_to(q, r[2])
        uniform_to(q, r[3])
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


@both
def test_histogram_by_atomics(isa: Isa) -> None:
    rig = Rig(isa)
    rng = np.random.default_rng(6)
    n = 4
    data = rng.integers(0, 8, 16 * n).astype(np.uint32)
    src, bins = rig.buffer(data), rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16)
        uniform_to(q, r[1])
        uniform_to(q, r[4])
        q.shl(r[3], r[3], 6)
        q.eidx(r[5])
        q.shl(r[5], r[5], 2)
        q.add(r[5], r[5], r[3])
        q.add(q.tmua, r[5], r[1])
        q.nop(sig=q.ldtmu(r[6]))
        q.shl(r[6], r[6], 2)
        q.nop(sig=q.wrtmuc)
        q.add(q.tmua, r[6], r[4])  # increment: no data word
        q.nop(sig=q.ldtmu(q.null))
        finish(q)

    rig.run(program, [src, bins, 0xFFFFFF00 | 0x80 | 8 << 3 | 7], workgroups=(n, 1, 1), per_supergroup=n)
    assert (rig.u32(bins, 8) == np.bincount(data, minlength=8)).all()


@both
def test_prefix_sum_with_memory_round_trips(isa: Isa) -> None:
    """Write, tmuwt, read of neighbours in one thread is coherent."""
    rig = Rig(isa)
    work = rig.buffer(128 * 4)

    def body(q: Any) -> Any:
        r = q.rf
        uniform_to(q, r[2])
        q.eidx(r[3])
        q.add(r[4], r[3], 1)  # values 1..16
        move(q, r[5], 1)
        q.shl(r[5], r[5], 6)
        q.add(r[6], r[2], r[5])  # 64 bytes of zeros stand before
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


@both
def test_switch_signals_at_distance_two(isa: Isa) -> None:
    """A second thrsw in the second slot is one more switch (works on hardware, though the validator rejects it)."""
    rig = Rig(isa)
    out = rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        uniform_to(q, r[1])
        move(q, r[2], 1)
        move(q, r[3], 1)
        q.add(r[2], r[2], r[3], sig=q.thrsw)
        q.add(r[2], r[2], 1)
        q.add(r[2], r[2], r[3], sig=q.thrsw)
        q.add(r[2], r[2], 1)
        q.add(r[2], r[2], 1)
        store_lanes(q, r[2], r[1], r[9])
        finish(q)

    run = rig.run(program, [out], check=False)
    assert (rig.u32(out, 16) == 6).all()
    assert run.stats.thread_switches == 3


@both
def test_single_segment_ends_at_the_first_switch(isa: Isa) -> None:
    rig = Rig(isa)
    out = rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        uniform_to(q, r[1])
        q.eidx(r[2])
        q.shl(r[3], r[2], 2)
        q.add(r[3], r[3], r[1])
        move(q, q.tmud, r[2])
        q.nop(sig=q.thrsw)
        move(q, q.tmua, r[3])  # the delay slots still run
        q.nop()
        q.raw(0)  # never reached

    run = rig.run(program, [out], single=True, check=False)
    assert (rig.u32(out, 16) == LANE).all()
    assert run.stats.thread_switches == 0


@both
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


def test_accumulators_survive_alone_but_not_beside_another_thread() -> None:
    """r0..r5 are shared by the threads of a QPU (4.2): kept over a switch only when no other thread ran."""
    for n, kept in ((8, True), (16, False)):
        rig = Rig(Isa.V3D42)
        out = rig.buffer(64 * n)

        def program(q: Any) -> None:
            q.shl(q.rf[3], payload(q), -16)
            q.shr(q.rf[3], q.rf[3], -16)
            q.nop(sig=q.ldunifrf(q.rf[1]))
            q.shl(q.rf[4], q.rf[3], 6)
            q.add(q.rf[1], q.rf[1], q.rf[4])
            q.add(q.r0, q.rf[3], 5)
            q.nop(sig=q.thrsw)
            q.nop()
            q.nop()
            store_lanes(q, q.r0, q.rf[1], q.rf[9])
            q.end()

        rig.run(program, [out], workgroups=(n, 1, 1), per_supergroup=n)
        got = rig.u32(out, 16 * n).reshape(n, 16)
        same = (got == (np.arange(n) + 5)[:, None]).all(axis=1)
        assert same.all() if kept else not same.any()


@both
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
                uniform_to(q, r[k])
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
            finish(q)

        run = rig.run(program, [out, counter, 0xFFFFFF00 | 0x87], workgroups=(n, 1, 1), per_supergroup=n)
        return bytes(rig.memory.view(out, 64 * n)), trace.json_lines, run.stats.instructions

    assert once() == once()
