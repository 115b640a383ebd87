"""Tests of loops of every kind: nested, divergent in lanes and threads, very long ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.core.isa import Isa
from tests.emu.v3d.idioms import (
    ADD,
    LANE,
    jump,
    lane_address,
    lanes_of,
    load,
    program,
    rounds,
    rows_of,
    switch,
    take,
)
from tests.emu.v3d.rig import Rig, move


@program()
def test_nested_loops(isa: Isa) -> None:
    """Three loops deep; the inner bounds depend on the outer counters."""

    def body(q: Any) -> Any:
        r = q.rf
        move(q, r[5], 5)
        move(q, r[8], 0)
        with rounds(q, r[5]):
            move(q, r[6], r[5])
            with rounds(q, r[6]):
                q.add(r[7], r[6], 2)
                with rounds(q, r[7]):
                    q.add(r[8], r[8], r[5])
                    q.xor(r[8], r[8], r[7])
        return r[8]

    total = 0
    for i in range(5, 0, -1):
        for j in range(i, 0, -1):
            for k in range(j + 2, 0, -1):
                total = total + i ^ k
    assert (lanes_of(Rig(isa), body) == total).all()


@program()
def test_collatz_lengths(isa: Isa) -> None:
    """Every lane loops as often as it must; finished lanes keep their count."""

    def body(q: Any) -> Any:
        r = q.rf
        q.eidx(r[5])
        q.add(r[5], r[5], 1)
        move(q, r[6], 0)
        with q.loop() as loop:
            q.sub(q.null, r[5], 1, push="pushz")  # A: finished
            jump(q, loop.end, "alla")
            q.add(r[6], r[6], 1, cond="ifna")
            q.and_(q.null, r[5], 1, push="pushz")  # A: even, B: finished
            q.shr(r[7], r[5], 1)
            q.add(r[8], r[5], r[5])
            q.add(r[8], r[8], r[5])
            q.add(r[8], r[8], 1)
            move(q, r[7], r[8], cond="ifna")
            move(q, r[5], r[7], cond="ifnb")
            jump(q, loop.start)
        return r[6]

    def steps(n: int) -> int:
        count = 0
        while n != 1:
            n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
        return count

    assert lanes_of(Rig(isa), body).tolist() == [steps(i + 1) for i in range(16)]


@program()
def test_greatest_common_divisors(isa: Isa) -> None:
    """Euclid by subtraction in every lane: umin and umax order the pair."""
    rig = Rig(isa)
    rng = np.random.default_rng(11)
    x, y = rng.integers(1, 120, (2, 16)).astype(np.uint32)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        for base, d in ((r[5], r[7]), (r[6], r[8])):
            lane_address(q, r[10], base)
            load(q, d, r[10])
        with q.loop() as loop:
            q.umin(r[11], r[7], r[8])
            q.umax(r[12], r[7], r[8])
            move(q, r[8], r[11])
            q.sub(r[7], r[12], r[11], push="pushz")
            move(q, r[7], r[8], cond="ifa")
            jump(q, loop.start, "anyna")
        return r[8]

    assert (lanes_of(rig, body, (rig.buffer(x), rig.buffer(y))) == np.gcd(x, y)).all()


@program()
def test_bytecode_interpreter(isa: Isa) -> None:
    """Each workgroup interprets a program of its own; the operation chooses the branch, so threads part and meet."""
    rig, n, length = Rig(isa), 12, 10
    rng = np.random.default_rng(21)
    codes = rng.integers(0, 4, (n, length))
    operands = rng.integers(0, 1000, (n, length))
    words = (codes << 16 | operands).astype(np.uint32)
    at = rig.buffer(words)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        q.nop().umul24(r[7], r[4], r[6])
        q.add(r[5], r[5], r[7])  # the program of this thread
        q.shr(r[10], r[6], 2)
        q.eidx(r[11])
        with rounds(q, r[10]):
            load(q, r[7], r[5])
            q.add(r[5], r[5], 4)
            q.shr(r[8], r[7], -16)
            q.shl(r[7], r[7], -16)
            q.shr(r[7], r[7], -16)
            for k in range(3):
                q.sub(q.null, r[8], k, push="pushz")
                jump(q, f"op{k}", "a0")
            q.xor(r[11], r[11], r[7])
            jump(q, "next")
            q.label("op0")
            q.add(r[11], r[11], r[7])
            jump(q, "next")
            q.label("op1")
            q.nop().umul24(r[11], r[11], r[7])
            jump(q, "next")
            q.label("op2")
            q.sub(r[11], r[7], r[11])
            q.label("next")
        return r[11]

    got = rows_of(rig, n, body, (at, 4 * length))
    want = np.empty((n, 16), np.int64)
    for i in range(n):
        v = LANE.astype(np.int64)
        for c, x in zip(codes[i].tolist(), operands[i].tolist(), strict=True):
            v = (v + x, (v & 0xFFFFFF) * x, x - v, v ^ x)[c] & 0xFFFFFFFF
        want[i] = v
    assert (got == want).all()


@program()
def test_hundreds_of_thousands_of_rounds(isa: Isa, engine: str) -> None:
    """A generator of random numbers in every lane of 24 threads: 300,000 rounds when compiled."""
    rig, n = Rig(isa), 24
    count = 300_000 if engine == "compiled" else 300

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        q.eidx(r[6])
        q.shl(r[7], r[4], 5)
        q.add(r[6], r[6], r[7])
        q.add(r[6], r[6], 1)
        with q.loop() as loop:
            q.shl(r[7], r[6], 13)
            q.xor(r[6], r[6], r[7])
            q.shr(r[7], r[6], -15)
            q.xor(r[6], r[6], r[7])
            q.shl(r[7], r[6], 5)
            q.sub(r[5], r[5], 1, push="pushz")
            q.b(loop.start, cond="anyna")
            q.xor(r[6], r[6], r[7])
            q.nop()
            q.nop()
        return r[6]

    got = rows_of(rig, n, body, (count,), batches=n, limit=4 * 40 * count)
    x = (np.arange(n)[:, None] * 32 + LANE + 1).astype(np.uint32)
    for _ in range(count):
        x ^= x << np.uint32(13)
        x ^= x >> np.uint32(17)
        x ^= x << np.uint32(5)
    assert (got == x).all()


@program()
def test_mandelbrot(isa: Isa) -> None:
    """Escape times: finished lanes wait for the others of their vector; vectors do not wait for one another."""
    rig, n, most = Rig(isa), 8, 40
    re = (-2.0 + 3.0 * np.arange(16) / 16).astype(np.float32)
    im = (-1.2 + 2.4 * np.arange(n) / n).astype(np.float32)
    at_re, at_im = rig.buffer(re), rig.buffer(im)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7])
        lane_address(q, r[8], r[5])
        load(q, r[10], r[8])
        q.shl(r[8], r[4], 2)
        q.add(r[8], r[8], r[6])
        load(q, r[11], r[8])
        move(q, r[12], 0)  # x
        move(q, r[13], 0)  # y
        move(q, r[14], 0)  # count
        with q.loop() as loop:
            q.nop().fmul(r[15], r[12], r[12])
            q.nop().fmul(r[16], r[13], r[13])
            q.fadd(r[17], r[15], r[16])
            q.fcmp(q.null, r[17], 4.0, push="pushn")  # A: inside
            jump(q, loop.end, "allna")
            q.add(r[14], r[14], 1, cond="ifa")
            q.nop().fmul(r[17], r[12], r[13])
            q.fsub(r[15], r[15], r[16])
            q.fadd(r[12], r[15], r[10], cond="ifa")
            q.fadd(r[17], r[17], r[17])
            q.fadd(r[13], r[17], r[11], cond="ifa")
            q.sub(r[7], r[7], 1, push="pushz")
            jump(q, loop.start, "na0")
        return r[14]

    got = rows_of(rig, n, body, (at_re, at_im, most))
    cx, cy = np.broadcast_to(re, (n, 16)), np.broadcast_to(im[:, None], (n, 16))
    x = y = np.zeros((n, 16), np.float32)
    count = np.zeros((n, 16), int)
    for _ in range(most):
        xx, yy = x * x, y * y
        inside = xx + yy < 4
        count += inside
        xy = x * y
        x, y = np.where(inside, (xx - yy) + cx, x), np.where(inside, (xy + xy) + cy, y)
    assert (got == count).all()
    assert len(np.unique(count)) > 5


@program()
def test_switches_inside_loops(isa: Isa) -> None:
    """A thread switch in every round, once with a store in its slots."""
    rig, n = Rig(isa), 10
    log = rig.buffer(64 * n * 4)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5])
        q.shl(r[6], r[4], 8)
        q.add(r[5], r[5], r[6])
        lane_address(q, r[6], r[5])
        move(q, r[7], 4)
        move(q, r[8], 1)
        q.shl(r[10], r[8], 6)
        with rounds(q, r[7]):
            q.add(r[8], r[8], r[8], sig=q.thrsw)
            move(q, q.tmud, r[8])
            move(q, q.tmua, r[6])
            q.add(r[6], r[6], r[10])
        switch(q)
        q.tmuwt(q.null)
        return r[8]

    assert (rows_of(rig, n, body, (log,), check=False) == 16).all()
    got = rig.u32(log, 64 * n).reshape(n, 4, 16)
    assert (got == np.array([2, 4, 8, 16])[None, :, None]).all()


@program()
def test_binary_search(isa: Isa) -> None:
    """Lanes search a sorted table: the step halves, addresses differ."""
    rig = Rig(isa)
    rng = np.random.default_rng(5)
    table = np.sort(rng.choice(10_000, 64, replace=False)).astype(np.uint32)
    keys = rng.integers(0, 10_500, 16).astype(np.uint32)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6], r[7])
        lane_address(q, r[8], r[6])
        load(q, r[10], r[8])
        move(q, r[11], 0)
        with q.loop() as loop:  # r11: number of entries known to be <= key
            q.add(r[12], r[11], r[7])
            q.shl(r[13], r[12], 2)
            q.add(r[13], r[13], r[5])
            q.sub(r[13], r[13], 4)
            load(q, r[14], r[13])
            q.sub(q.null, r[10], r[14], push="pushc")  # A: key < entry
            move(q, r[11], r[12], cond="ifna")
            q.shr(r[7], r[7], 1, push="pushz")
            jump(q, loop.start, "na0")
        return r[11]

    got = lanes_of(rig, body, (rig.buffer(table), rig.buffer(keys), 32))
    want = np.minimum(np.searchsorted(table, keys, side="right"), 63)
    assert (got == want).all()


@program()
def test_endless_wait_ends_when_memory_changes(isa: Isa) -> None:
    """All workgroups but the last spin until a counter has reached their number: a chain of wake-ups."""
    rig, n = Rig(isa), 14
    cell = rig.buffer(64)

    def body(q: Any) -> Any:
        r = q.rf
        take(q, r[5], r[6])
        q.eidx(r[10])
        move(q, r[11], 0)
        move(q, q.null, r[10], push="pushz")
        move(q, r[11], 1, cond="ifa")  # one arrival a thread
        q.sub(r[7], 13, r[4])
        with q.loop() as loop:
            switch(q)
            load(q, r[8], r[5])
            q.sub(q.null, r[8], r[7], push="pushz")
            jump(q, loop.start, "na0")
        move(q, q.tmuc, r[6])
        move(q, q.tmud, r[11])
        move(q, q.tmua, r[5])
        q.nop(sig=q.ldtmu(r[12]))
        return r[8]

    assert (rows_of(rig, n, body, (cell, ADD)) == (13 - np.arange(n))[:, None]).all()
    assert rig.u32(cell, 1)[0] == n
