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
MODEW = {4: 0, 2: 2, 1: 4}
BLOCK = 0x800  # bytes of `OUT` that belong to a QPU


def load(
    *, rows: int, columns: int = 16, vpitch: int = 1, upright: bool = False, y: int = 0, x: int = 0, width: int = 4
) -> int:
    """A DMA load with rows 128 bytes apart. width: bytes of an element."""
    counts = (columns & 15) << 20 | (rows & 15) << 16 | (vpitch & 15) << 12
    return 1 << 31 | MODEW[width] << 28 | 4 << 24 | counts | upright << 11 | y << 4 | x


def store(*, units: int, depth: int = 16, upright: bool = False, y: int = 0, x: int = 0, width: int = 4) -> int:
    """A DMA store."""
    return 2 << 30 | units << 23 | depth << 16 | (not upright) << 14 | y << 7 | x << 3 | MODEW[width]


def vectors(count: int, y: int, stride: int = 1, *, upright: bool = False, laned: bool = False, size: int = 2) -> int:
    """A VPM access. y: the position as encoded. size: 0, 1, 2 for bytes, halves, words."""
    return (count & 15) << 20 | stride << 12 | (not upright) << 11 | laned << 10 | size << 8 | y


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


def both(words: list[int], setups: Any, reads: int, qpus: int, outputs: Any = None) -> tuple[Outcome, Outcome]:
    """Run on both engines; `setups(q)`: the words of QPU `q`, its rows of the VPM begin at 4 q.

    outputs(q): set-ups of VPM writes and the DMA store; None: `reads` rows.
    """
    uniforms = []
    for n in range(qpus):
        rows = vectors(0, 4 * n), store(units=min(reads, 4), y=4 * n)
        uniforms.append([DATA + 256 * n, OUT + BLOCK * n, *(rows if outputs is None else outputs(n)), *setups(n)])
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


@pytest.mark.parametrize("upright", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("size", [0, 1, 2], ids=["bytes", "halves", "words"])
def test_vectors_of_every_mode_are_native(size: int, upright: bool) -> None:
    """Packed and laned ones, and narrow elements that cross the end of a word or of the addresses."""
    last = (256 >> size) - 1
    for laned in (False, True):
        for at, stride in ((0, 1), (last - 2, 3), (17 << 2 >> size, 7)):
            read = vectors(4, at, stride, upright=upright, laned=laned, size=size)
            write = vectors(0, at ^ 5, stride, upright=upright, laned=laned, size=size)
            words = place(lambda q: loop(q, 2, 4, poll=False))
            want, got = both(words, lambda n, r=read: [load(rows=8), r], 4, 1, lambda n, w=write: (w, store(units=64)))
            assert want.stats.vpm_read_bytes == want.stats.vpm_write_bytes == ROUNDS * 4 * 16 << size
            assert spent(got) < got.stats.instructions // 20


NARROW = {
    "halves": (load(rows=3, columns=15, vpitch=2, width=2, y=1, x=2), store(units=3, depth=15, width=2, y=1, x=3)),
    "bytes": (load(rows=3, columns=13, vpitch=4, width=1, y=1), store(units=2, depth=61, width=1, y=1)),
    "pieces": (load(rows=2, columns=8, vpitch=8, width=1, x=1), store(units=5, depth=20, width=1, x=11)),
    "whole rows": (load(rows=4, width=2, vpitch=2), store(units=4, depth=64, width=1)),
    "upright halves": (
        load(rows=1, columns=9, width=2, upright=True, x=3),
        store(units=4, depth=33, width=2, y=2, upright=True),
    ),
    "upright bytes": (
        load(rows=2, columns=7, vpitch=12, width=1, upright=True),
        store(units=16, depth=5, width=1, upright=True),
    ),
    "upright words": (load(rows=2, columns=7, upright=True), store(units=3, depth=64, x=13, upright=True)),
}


@pytest.mark.parametrize("way", NARROW)
def test_blocks_of_narrow_elements_are_native(way: str) -> None:
    loaded, stored = NARROW[way]
    words = place(lambda q: loop(q, 2, 2, poll=False))
    want, got = both(words, lambda n: [loaded, vectors(2, 1)], 2, 1, lambda n: (vectors(0, 1), stored))
    assert want.stats.dma_read_bytes and want.stats.dma_write_bytes and not want.stats.faults
    assert spent(got) < got.stats.instructions // 20


UNSURE = {
    "an offset in a word": (load(rows=1, width=2) | 1 << 28, store(units=1)),
    "rows that begin inside words": (load(rows=2, vpitch=1, width=2), store(units=1)),
    "a store with an offset": (load(rows=1), store(units=1, width=2) | 1),
    "a laned store": (load(rows=1), store(units=1, width=2) | 1 << 15),
}


@pytest.mark.parametrize("way", UNSURE)
def test_blocks_that_the_documents_leave_open_are_reported(way: str) -> None:
    loaded, stored = UNSURE[way]
    words = place(lambda q: loop(q, 2, 1, poll=False))
    want, got = both(words, lambda n: [loaded, vectors(1, 0)], 1, 1, lambda n: (vectors(0, 0), stored))
    assert want.stats.faults and got.stats.faults == want.stats.faults
    assert spent(got) >= ROUNDS


def test_a_load_from_nowhere_is_reported_the_same() -> None:
    words = place(lambda q: loop(q, 2, 4, poll=False))
    uniforms = [
        [DATA + (1 << 16) - 64 * 16, OUT, vectors(0, 0), store(units=1, upright=True), load(rows=4), vectors(4, 0)]
    ]
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

    stored = store(units=rows, depth=depth, y=y, x=x)
    want, got = same(place(source), [[OUT, vectors(0, 0), stored]], strict=strict)
    told = [want.fault] if strict else want.stats.faults
    assert any(beyond in text for text in told) if beyond else not any(told)
    assert np.array_equal(want.data, got.data)
    if not strict:
        assert (spent(got) >= ROUNDS) == bool(beyond)
