"""Tests of VPM reads and DMA of VideoCore IV in native code: results, counts and clocks of the reference engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from qpu.vc4.builder import Asm
from tests.emu.generate_vc4 import DATA
from tests.emu.test_engines_vc4 import Outcome, place, same

ROUNDS = 40
OUT = DATA + 0x8000
BLOCK = 0x800  # bytes of `OUT` that belong to a QPU


def load(*, rows: int, columns: int = 16, vpitch: int = 1, upright: bool = False, y: int = 0, x: int = 0) -> int:
    """A DMA load with rows 128 bytes apart."""
    counts = (columns & 15) << 20 | (rows & 15) << 16 | (vpitch & 15) << 12
    return 1 << 31 | 4 << 24 | counts | upright << 11 | y << 4 | x


def vectors(count: int, y: int, stride: int = 1, *, upright: bool = False) -> int:
    """A VPM access."""
    return (count & 15) << 20 | stride << 12 | (not upright) << 11 | 2 << 8 | y


def loop(q: Asm, setups: int, reads: int, *, poll: bool) -> None:
    """Uniforms: source, target, VPM write, DMA store, `setups` words for address 49. Sums what it reads."""
    for n in range(4 + setups):
        q.mov(q.ra[n], q.uniform)
    q.ldi(q.r3, ROUNDS)
    q.ldi(q.rb[1], 64)
    q.mov(q.r1, 0)
    q.setup_dma_load_stride(96)
    q.setup_dma_store_stride(0)
    again = q.label("again")
    q.mov(q.vr_setup, q.ra[4])
    q.mov(q.vr_addr, q.ra[0])
    if poll:
        busy = q.label("busy")
        q.mov(q.null, q.vr_busy, push="z")
        q.b(busy, cond="anynz")
        q.add(q.r1, q.r1, 1)
        q.nops(2)
    q.wait_dma_load()
    for n in range(5, 4 + setups):
        q.mov(q.vr_setup, q.ra[n])
    q.nops(3)
    q.mov(q.vw_setup, q.ra[2])
    for _ in range(reads):
        q.add(q.r1, q.r1, q.vpm)
        q.ror(q.r1, q.r1, 5)
        q.mov(q.vpm, q.r1)
    q.mov(q.vw_setup, q.ra[3])
    q.mov(q.vw_addr, q.ra[1])
    q.wait_dma_store()
    q.add(q.ra[0], q.ra[0], q.rb[1])
    q.sub(q.r3, q.r3, 1, push="z")
    q.b(again, cond="anynz")
    q.nops(3)
    q.end()


def both(words: list[int], setups: Any, reads: int, qpus: int) -> tuple[Outcome, Outcome]:
    """Run on both engines; `setups(q)`: the words of QPU `q`, its rows of the VPM begin at 4 q."""
    uniforms = []
    for n in range(qpus):
        write = vectors(0, 4 * n)
        store = 2 << 30 | min(reads, 4) << 23 | 16 << 16 | 1 << 14 | 4 * n << 7
        uniforms.append([DATA + 256 * n, OUT + BLOCK * n, write, store, *setups(n)])
    return same(words, uniforms)


def spent(outcome: Outcome) -> int:
    """Instructions of the reference engine."""
    return sum(outcome.stats.fallbacks.values())


WAYS = {
    "rows": (lambda n: [load(rows=4, y=4 * n), vectors(4, 4 * n)], 4),
    "every second row": (lambda n: [load(rows=2, vpitch=2, y=4 * n), vectors(2, 4 * n, 2)], 2),
    "part of rows": (lambda n: [load(rows=3, columns=5, y=4 * n, x=7), vectors(3, 4 * n)], 3),
    "columns": (lambda n: [load(rows=1, columns=4, upright=True, y=4 * n, x=n), vectors(4, 4 * n)], 4),
    "columns that overlap": (lambda n: [load(rows=2, columns=3, upright=True, y=4 * n, x=n), vectors(4, 4 * n)], 4),
    "extended pitch": (lambda n: [load(rows=4, y=4 * n) & ~(15 << 24), vectors(4, 4 * n)], 4),
    "a queued read": (lambda n: [load(rows=4, y=4 * n), vectors(1, 4 * n), vectors(3, 4 * n + 1)], 4),
}


@pytest.mark.parametrize("poll", [False, True], ids=["wait", "poll"])
@pytest.mark.parametrize("way", WAYS)
def test_loads_and_reads_are_native(way: str, poll: bool) -> None:
    setups, reads = WAYS[way]
    words = place(lambda q: loop(q, len(setups(0)), reads, poll=poll))
    want, got = both(words, setups, reads, 6)
    assert want.stats.dma_read_bytes > 0
    assert want.stats.vpm_read_bytes == 6 * ROUNDS * reads * 64
    assert want.data[(OUT - DATA) // 4 :].any()
    assert spent(got) < got.stats.instructions // 20


def test_columns_are_read_by_the_reference_engine() -> None:
    words = place(lambda q: loop(q, 2, 2, poll=False))
    want, got = both(words, lambda n: [load(rows=4, y=4 * n), vectors(2, n, upright=True)], 2, 1)
    assert spent(got) > ROUNDS * 2
    assert want.stats.vpm_read_bytes == ROUNDS * 2 * 64


def test_a_load_from_nowhere_is_reported_the_same() -> None:
    words = place(lambda q: loop(q, 2, 4, poll=False))
    store = 2 << 30 | 1 << 23 | 16 << 16
    uniforms = [[DATA + (1 << 16) - 64 * 16, OUT, vectors(0, 0), store, load(rows=4), vectors(4, 0)]]
    want, got = same(words, uniforms)
    assert "DMA load" in want.fault
    assert np.array_equal(want.data, got.data)


def test_unread_vectors_are_reported_the_same() -> None:
    def source(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.nop()
        for _ in range(3):
            q.mov(q.vr_setup, q.ra[0])
            q.nops(3)
            q.mov(q.r0, q.vpm)
        q.nops(4)
        q.end()

    want, got = same(place(source), [[vectors(2, 3)]])
    assert any("unread" in f for f in want.stats.faults)
    assert got.stats.faults == want.stats.faults


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize(
    ("rows", "depth", "x", "y", "beyond"),
    [
        (4, 16, 0, 0, ""),
        (4, 15, 1, 0, ""),
        (1, 16, 0, 63, ""),
        (4, 16, 1, 0, "past column 15"),
        (4, 2, 15, 0, "past column 15"),
        (2, 16, 0, 63, "past row 63"),
    ],
)
def test_stores_past_the_edges_are_reported_the_same(
    rows: int, depth: int, x: int, y: int, beyond: str, strict: bool
) -> None:
    """The reference engine executes the set-up before a loop; the loop performs the stores."""

    def source(q: Asm) -> None:
        for n in range(3):
            q.mov(q.ra[n], q.uniform)
        q.ldi(q.r3, ROUNDS)
        q.setup_dma_store_stride(0)
        q.mov(q.vw_setup, q.ra[1])
        for _ in range(4):
            q.mov(q.vpm, q.r3)
        q.mov(q.vw_setup, q.ra[2])
        q.nops(3)
        again = q.label("again")
        q.mov(q.vw_addr, q.ra[0])
        q.wait_dma_store()
        q.sub(q.r3, q.r3, 1, push="z")
        q.b(again, cond="anynz")
        q.nops(3)
        q.end()

    store = 2 << 30 | rows << 23 | depth << 16 | 1 << 14 | y << 7 | x << 3
    want, got = same(place(source), [[OUT, vectors(0, 0), store]], strict=strict)
    told = [want.fault] if strict else want.stats.faults
    assert any(beyond in text for text in told) if beyond else not any(told)
    assert np.array_equal(want.data, got.data)
    if not strict:
        assert (spent(got) >= ROUNDS) == bool(beyond)
