"""Tests of control flow: every kind of branch, nested and divergent loops, calls, uniform streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.v3d.asm import assemble
from tests.emu.v3d.idioms import (
    LANE,
    group_x,
    jump,
    lane_address,
    lanes_of,
    program,
    rows_of,
    store,
    take,
)
from tests.emu.v3d.rig import Rig, move


@program()
@pytest.mark.parametrize("size", [16, 18, 21, 32])
def test_reductions_ignore_dead_lanes_or_quads(isa: Isa, size: int) -> None:
    """alla, anyna, anya and allna, with lanes ignored not at all, one by one, or by quads, on partial batches."""
    kinds = [(c, m) for c in ("a0", "na0", "alla", "anyna", "anya", "allna") for m in (None, "p", "q")]
    for pattern in (0x0000, 0x0001, 0x0003, 0x0007, 0x001F, 0xFFF8, 0xFFFC, 0xFFFF, 0x0030):
        rig = Rig(isa)
        out = rig.buffer(128)

        def whole(q: Any) -> None:
            r = q.rf
            take(q, r[5], r[6], r[7])
            q.shr(r[8], r[2], r[7])  # local index
            q.eidx(r[10])
            q.shr(r[11], r[6], r[10])
            q.and_(r[11], r[11], 1)
            q.sub(r[11], r[11], 1)
            move(q, r[12], 0)
            q.nop()
            q.nop()
            move(q, q.null, r[11], push="pushz")  # A: lanes of the pattern
            for i, (cond, ignore) in enumerate(kinds):
                move(q, r[13], 1)
                q.b(f"l{i}", cond=cond, **({"msfign": ignore} if ignore else {}))
                q.nop()
                q.nop()
                q.nop()
                move(q, r[13], 0)
                q.label(f"l{i}")
                q.add(r[12], r[12], r[12])
                q.or_(r[12], r[12], r[13])
            q.shl(r[8], r[8], 2)
            q.add(r[8], r[8], r[5])
            store(q, r[12], r[8])
            q.end()

        rig.run(whole, [out, pattern, 26], size=size)
        got = rig.u32(out, size)
        for batch in range(-(-size // 16)):
            a = pattern >> LANE & 1 != 0
            live = LANE + 16 * batch < size
            bits = 0
            for cond, ignore in kinds:
                counted = np.ones(16, bool)
                if ignore == "p":
                    counted = live
                elif ignore == "q":
                    counted = np.repeat(live.reshape(4, 4).any(axis=1), 4)
                taken = {
                    "a0": a[0],
                    "na0": not a[0],
                    "alla": a[counted].all(),
                    "anyna": (~a)[counted].any(),
                    "anya": a[counted].any(),
                    "allna": (~a)[counted].all(),
                }[cond]
                bits = bits << 1 | int(taken)
            assert (got[16 * batch : 16 * batch + 16] == bits).all(), (hex(pattern), batch)


@program()
def test_jump_table(isa: Isa) -> None:
    """Threads branch to addresses in registers: five blocks of equal length, chosen by workgroup."""
    rig, n = Rig(isa), 15
    place: list[int] = []
    out = rig.buffer(64 * n)

    def whole(q: Any) -> None:
        r = q.rf
        group_x(q, r[4])
        take(q, r[5], r[6])
        move(q, r[7], r[4])
        with q.loop() as loop:  # modulo 5
            q.sub(q.null, r[7], 5, push="pushn")
            jump(q, loop.end, "a0")
            q.sub(r[7], r[7], 5)
            jump(q, loop.start)
        q.shl(r[7], r[7], 3)
        q.shl(r[8], r[7], 2)
        q.add(r[7], r[7], r[8])  # blocks of five words
        q.add(r[7], r[7], r[6])
        jump(q, r[7])
        place.append(len(q))
        for k in range(5):
            q.b("join")
            q.add(r[10], r[4], 3 * k)
            q.sub(r[10], r[10], k * k - 1 if k < 4 else 15)
            q.nop()
            q.nop()
        q.label("join")
        q.shl(r[8], r[4], 6)
        q.add(r[5], r[5], r[8])
        lane_address(q, r[9], r[5])
        store(q, r[10], r[9])
        q.end()

    words = assemble(isa, whole).code
    uniforms = rig.buffer(np.array([out, 0], np.uint32))
    rig.memory.words[uniforms // 4 + 1] = rig._next + 8 * place[0]  # the code comes next
    rig.run(words, uniforms, workgroups=(n, 1, 1), per_supergroup=n)
    want = [i + 3 * (i % 5) - ((i % 5) ** 2 - 1 if i % 5 < 4 else 15) for i in range(n)]
    assert (rig.u32(out, 16 * n).reshape(n, 16).view(np.int32) == np.array(want)[:, None]).all()


@program()
def test_nested_calls_save_the_link_register(isa: Isa) -> None:
    """A function that calls another keeps its return address in a register and branches to that."""

    def body(q: Any) -> Any:
        r = q.rf
        move(q, r[5], 3)
        for _ in range(2):
            jump(q, "outer", link=True)
        jump(q, "out")
        q.label("outer")
        q.lr(r[6])
        jump(q, "inner", link=True)
        q.add(r[5], r[5], 1)
        jump(q, "inner", link=True)
        jump(q, r[6])
        q.label("inner")
        q.shl(r[7], r[5], 1)
        q.add(r[5], r[5], r[7])
        jump(q, q.lri)
        q.label("out")
        return r[5]

    value = 3
    for _ in range(2):
        value = (3 * value + 1) * 3
    assert (lanes_of(Rig(isa), body) == value).all()


@program()
def test_linked_list_in_the_uniform_stream(isa: Isa) -> None:
    """Every node names the next one: the loop's branch moves the stream there."""
    rig = Rig(isa)
    at = rig.buffer(4096)
    order = [5, 2, 9, 0, 7, 3]
    values = [11, 22, 33, 44, 55, 66]
    for k, (slot, value) in enumerate(zip(order, values, strict=True)):
        following = order[k + 1] if k + 1 < len(order) else slot
        rig.memory.words[at // 4 + 4 * slot : at // 4 + 4 * slot + 3] = [
            value,
            k + 1 < len(order),
            at + 16 * following,
        ]

    def body(q: Any) -> Any:
        r = q.rf
        move(q, r[5], 0)
        q.b(0, unif="abs")
        q.nop()
        q.nop()
        q.nop()
        with q.loop() as loop:
            take(q, r[6], r[7])
            q.shl(r[5], r[5], 1)
            q.add(r[5], r[5], r[6])
            move(q, q.null, r[7], push="pushz")
            jump(q, loop.start, "na0", unif="abs")
        return r[5]

    total = 0
    for v in values:
        total = 2 * total + v
    assert (lanes_of(rig, body, (at + 16 * order[0],)) == total).all()


@program()
def test_uniform_block_rewound_every_round(isa: Isa) -> None:
    """A relative move takes the stream back to the coefficients: Horner with one table for many rounds."""
    coefficients = [3, 1, 4, 1, 5]

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        q.eidx(r[6])
        move(q, r[7], 1)
        with q.loop() as loop:
            move(q, r[8], 0)
            for _ in coefficients:
                take(q, r[10])
                q.nop().umul24(r[8], r[8], r[6])
                q.add(r[8], r[8], r[10])
            q.xor(r[7], r[7], r[8])
            q.add(r[6], r[6], 1)
            q.sub(r[5], r[5], 1, push="pushz")
            jump(q, loop.start, "na0", unif="rel")
        return r[7]

    rewind = -4 * (len(coefficients) + 1)
    got = lanes_of(Rig(isa), body, (7, *coefficients, rewind))
    want = np.ones(16, np.int64)
    for k in range(7):
        p = np.zeros(16, np.int64)
        for c in coefficients:
            p = (p & 0xFFFFFF) * (LANE + k) + c
        want ^= p
    assert (got == want & 0xFFFFFFFF).all()


@program()
def test_threads_move_their_uniforms_apart(isa: Isa) -> None:
    """The stream moves to a register: every workgroup reads a row of its own and comes back by a relative move."""
    rig, n = Rig(isa), 9
    table = np.random.default_rng(3).integers(0, 1 << 32, (n, 4), dtype=np.uint32)
    rows = rig.buffer(table)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        q.shl(r[6], r[4], 4)
        q.add(r[5], r[5], r[6])
        q.b(0, unif=r[5])
        q.nop()
        q.nop()
        q.nop()
        take(q, r[6], r[7], r[8], r[10])
        q.xor(r[6], r[6], r[7])
        q.sub(r[6], r[6], r[8])
        q.add(r[6], r[6], r[10])
        return r[6]

    got = rows_of(rig, n, body, (rows,))
    want = (table[:, 0] ^ table[:, 1]) - table[:, 2] + table[:, 3]
    assert (got == want[:, None]).all()


@program()
def test_memory_traffic_in_delay_slots(isa: Isa) -> None:
    """Data, address and pop in branch delay slots, taken or not."""
    rig = Rig(isa)
    data = rig.buffer(np.arange(16 * 6, dtype=np.uint32))
    out = rig.buffer(16 * 6 * 4)

    def whole(q: Any) -> None:
        r = q.rf
        take(q, r[5], r[6])
        lane_address(q, r[7], r[5])
        lane_address(q, r[8], r[6])
        move(q, r[10], 6)
        move(q, r[11], 1)
        q.shl(r[11], r[11], 6)
        with q.loop() as loop:
            move(q, q.tmua, r[7])
            q.sub(r[10], r[10], 1, push="pushz")
            q.add(r[7], r[7], r[11])
            q.nop(sig=q.ldtmu(r[12]))
            q.add(r[12], r[12], 1)
            q.b(loop.start, cond="na0")
            move(q, q.tmud, r[12])
            move(q, q.tmua, r[8])
            q.add(r[8], r[8], r[11])
        jump(q, "read")
        q.label("read")
        q.sub(r[8], r[8], r[11])
        q.tmuwt(q.null)
        q.b("end")
        move(q, q.tmua, r[8])
        q.nop(sig=q.ldtmu(r[12]))
        q.add(r[12], r[12], 1)
        q.label("end")
        store(q, r[12], r[8])
        q.end()

    rig.run(whole, [data, out])
    want = np.arange(16 * 6) + 1
    want[80:] += 1
    assert (rig.u32(out, 96) == want).all()


@program()
def test_setmsf_masks_stores(isa: Isa) -> None:
    """A program takes lanes out of the sample mask and puts them back."""
    rig = Rig(isa)
    out = rig.buffer(np.full(32, 7, np.uint32))

    def whole(q: Any) -> None:
        r = q.rf
        take(q, r[5])
        lane_address(q, r[6], r[5])
        q.eidx(r[7])
        q.msf(r[8])
        q.and_(r[10], r[7], 6)
        q.setmsf(q.null, r[10])
        q.nop()
        store(q, r[7], r[6])
        q.setmsf(q.null, r[8])
        q.nop()
        move(q, r[11], 1)
        q.shl(r[11], r[11], 6)
        q.add(r[6], r[6], r[11])
        store(q, r[7], r[6])
        q.end()

    rig.run(whole, [out])
    assert (rig.u32(out, 16) == np.where(LANE & 6, LANE, 7)).all()
    assert (rig.u32(out + 64, 16) == LANE).all()
