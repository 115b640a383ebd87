"""Tests of the edges of memory and of the VPM, one step on each side: the last legal access works, the next faults.

Small mutations of bounds checks survived the other tests. Native code has checks of its own, so the legal twin of each
access must be executed natively (`mostly_native`), or the test would show nothing about it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from qpu.emu.engine.memory import PAGE, Memory
from qpu.errors import EmuFault
from qpu.vc4.builder import Asm
from tests.emu.vc4.rig import CODE, Rig, addresses

ROW = 64  # bytes


def busy(q: Asm, n: int = 12) -> None:
    """Plain instructions: native code is entered for a few in a row."""
    for _ in range(n):
        q.add(q.r2, q.r2, 1)


def mostly_native(execution: Any) -> None:
    if Rig.engine == "compiled":
        assert sum(execution.stats.fallbacks.values()) < execution.stats.instructions // 2


def strategy() -> str:
    """How translated code adds and multiplies on this host; empty where nothing is translated."""
    if find_spec("llvmlite") is None:
        return ""
    from qpu.emu.engine.directed import fastest
    from qpu.emu.engine.host_cpu import host

    return fastest(host()).value


class Edge(Rig):
    """Memory whose data region ends in the middle of the window. beyond: what follows, `nothing` or a `region`."""

    def __init__(self, beyond: str = "nothing", **more: Any) -> None:
        super().__init__(**more)
        if beyond == "region":
            self.memory.map(self.data.end, PAGE, "next")
            self.memory.map(self.data.address - PAGE, PAGE, "before")


def store(rows: int, columns: int, stride: int = 0, *, y: int = 0, x: int = 0) -> Callable[[Asm], None]:
    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        busy(q)
        q.setup_dma_store(rows, columns, y=y, x=x)
        q.setup_dma_store_stride(stride)
        busy(q)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        busy(q)
        q.end()

    return program


def load(rows: int, columns: int, *, mpitch: int = 3, y: int = 0, x: int = 0, vertical: bool = False) -> Any:
    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        busy(q)
        q.setup_dma_load(rows, columns, "32bit vertical" if vertical else "32bit horizontal", mpitch=mpitch, y=y, x=x)
        busy(q)
        q.start_dma_load(q.ra[0])
        q.wait_dma_load()
        busy(q)
        q.end()

    return program


@pytest.mark.parametrize("beyond", ["nothing", "region"])
@pytest.mark.parametrize("what", ["store", "load"])
@pytest.mark.parametrize("short", [4, 32, 60])
def test_every_byte_of_a_dma_row_is_checked(what: str, beyond: str, short: int) -> None:
    program = store(1, 16) if what == "store" else load(1, 16)
    rig = Edge(beyond)
    rig.machine.vpm.words[:] = 7
    mostly_native(rig.run(program, [rig.data.end - ROW]))
    before = rig.memory.bytes[rig.data.end - PAGE : rig.data.end + PAGE].copy()
    rig.machine.vpm.words[:] = 9
    with pytest.raises(EmuFault) as caught:
        rig.run(program, [rig.data.end - ROW + short])
    assert caught.value.rule == "out-of-bounds"
    assert (rig.memory.bytes[rig.data.end - PAGE : rig.data.end + PAGE] == before).all()
    assert (rig.machine.vpm.words == 9).all()
    with pytest.raises(EmuFault):
        rig.run(program, [rig.data.address - short])


@pytest.mark.parametrize("row", [1, 2, 3])
def test_every_row_of_a_dma_store_is_checked(row: int) -> None:
    """Row `row` of four leaves the buffer with its last word."""
    stride = 3 * ROW
    rig = Edge()
    last = rig.data.end - ROW + 4 - row * (ROW + stride)
    rig.machine.vpm.words[:] = 7
    with pytest.raises(EmuFault) as caught:
        rig.run(store(4, 16, stride), [last])
    assert caught.value.rule == "out-of-bounds"
    assert not rig.memory.bytes[rig.data.end - PAGE : rig.data.end].any()
    mostly_native(rig.run(store(row + 1, 16, stride), [last - 4]))


RANGES = [  # rows, columns, y, x; whether they lie inside the VPM
    ("store", (4, 16, 60, 0), True),
    ("store", (5, 16, 60, 0), False),
    ("store", (1, 16, 63, 0), True),
    ("store", (64, 16, 0, 0), True),
    ("store", (65, 16, 0, 0), False),
    ("store", (2, 15, 0, 1), True),
    ("store", (2, 16, 0, 1), False),
    ("store", (2, 17, 0, 0), False),
    ("store", (1, 1, 0, 15), True),
    ("load", (2, 15, 0, 1), True),
    ("load", (2, 16, 0, 1), False),
    ("load", (1, 2, 0, 14), True),
    ("load", (1, 3, 0, 14), False),
    ("load", (4, 16, 60, 0), True),
    ("load", (5, 16, 60, 0), False),
    ("upright", (1, 16, 48, 0), True),
    ("upright", (1, 16, 49, 0), False),
]


@pytest.mark.parametrize(("what", "shape", "inside"), RANGES)
def test_blocks_that_leave_the_vpm(what: str, shape: tuple[int, int, int, int], inside: bool) -> None:
    rows, columns, y, x = shape
    source = (
        store(rows, columns, y=y, x=x) if what == "store" else load(rows, columns, y=y, x=x, vertical=what == "upright")
    )
    pattern = np.arange(1, 1025, dtype=np.uint32)
    results = []
    for strict in (True, False):
        rig = Edge(strict=strict)
        at, data = rig.array(np.arange(5000, 5000 + 65 * 17, dtype=np.uint32))
        rig.machine.vpm.words[:] = pattern
        if strict and not inside:
            with pytest.raises(EmuFault) as caught:
                rig.run(source, [at])
            assert caught.value.rule in ("vpm-dma-row", "vpm-dma-column")
            continue
        execution = rig.run(source, [at])
        if inside:
            mostly_native(execution)
            assert not execution.stats.faults
        results.append((data.copy(), rig.machine.vpm.words.copy()))
    for data, words in results:
        cells = np.arange(columns)[None, :] + 16 * np.arange(rows)[:, None] + 16 * y + x
        if what == "store":
            assert (data[: rows * columns].reshape(rows, columns) == pattern[cells % 1024]).all()
        elif what == "load":
            given = 5000 + np.arange(rows)[:, None] * 16 + np.arange(columns)[None, :]
            assert (words[cells % 1024] == given).all()
            rest = np.ones(1024, bool)
            rest[cells % 1024] = False
            assert (words[rest] == pattern[rest]).all()


@pytest.mark.parametrize("mpitch", range(1, 15))
def test_every_pitch_of_a_load(mpitch: int) -> None:
    rig = Rig()
    pitch = 8 << mpitch
    at, data = rig.array(np.arange((pitch + ROW) // 4, dtype=np.uint32))
    mostly_native(rig.run(load(2, 16, mpitch=mpitch), [at]))
    words = rig.machine.vpm.words
    assert (words[:16] == data[:16]).all() and (words[16:32] == data[pitch // 4 :][:16]).all()


@pytest.mark.parametrize("short", [0, 4, 32, 60])
def test_a_tmu_row_at_the_end_of_the_window(short: int) -> None:
    """Memory after the page table, and after the window, must not be used."""

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        busy(q)
        addresses(q, q.r1, q.ra[0])
        q.mov(q.t0s, q.r1)
        busy(q)
        q.nop(sig=q.ldtmu0)
        busy(q)
        q.end()

    rig = Rig()
    memory: Memory = rig.memory
    table = np.ones(len(memory.pages) + 64, np.uint32)
    table[: len(memory.pages)] = memory.pages
    memory.pages = table[: len(memory.pages)]
    memory.map(memory.size - PAGE, PAGE, "last")
    address = memory.size - ROW + short
    if not short:
        mostly_native(rig.run(program, [address]))
        return
    with pytest.raises(EmuFault) as caught:
        rig.run(program, [address])
    assert caught.value.rule == "out-of-bounds" and caught.value.place.lane == 16 - short // 4


def test_legal_accesses_lie_in_one_region() -> None:
    memory = Memory(1 << 24)
    memory.map(CODE, PAGE, "one")
    memory.map(CODE + PAGE, PAGE, "two")
    for size in (1, 4, 64):
        last = CODE + 2 * PAGE - size
        starts = np.array([CODE - 1, CODE, CODE + PAGE - size, CODE + PAGE - size + 1, last], np.uint32)
        want = [False, True, True, size == 1, True]
        assert memory.legal(starts, size).tolist() == want
        ends = np.array([last + 1, memory.size - 1, 0xFFFFFFFF], np.uint32)
        assert not memory.legal(ends, size).any()


@pytest.mark.parametrize("product", [False, True])
def test_denormal_operands_of_sums_count_as_zero(product: bool) -> None:
    """Truncation toward zero makes one unit of the least denormal visible: -1 + tiny is not -1."""

    def program(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, q.uniform)
        q.mov(q.ra[0], q.uniform)
        busy(q)
        if product:
            q.fmul(q.r0, q.r0, q.r0)
        q.fadd(q.r3, q.r0, q.r1)
        q.fsub(q.r0, q.r1, q.r0)
        busy(q)
        q.setup_vpm_write(y=0)
        q.mov(q.vpm, q.r3)
        q.mov(q.vpm, q.r0)
        q.setup_dma_store(nrows=2, ncols=16)
        q.setup_dma_store_stride(0)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.end()

    rig = Rig()
    out, y = rig.zeros((2, 16), np.float32)
    tiny = 0x1F800000 if product else 0x007FFFFF  # 2**-64, whose square is denormal
    execution = rig.run(program, [tiny, -1.0, out])
    if not product or strategy() != "directed":  # which leaves products that are too small to the reference engine
        mostly_native(execution)
    assert y[0].tolist() == [-1.0] * 16
    rig.run(program, [tiny | 0x80000000, -1.0, out])
    assert y[1].tolist() == [-1.0] * 16
