"""Tests of VPM access and DMA in every mode and width against an index model written from the tables."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from qpu.emu.vc4.vpm_setup import (
    GenericSetup,
    LoadPitch,
    LoadSetup,
    StoreSetup,
    StoreStride,
    Vpm,
    parse_read_setup,
    parse_write_setup,
)
from qpu.errors import EmuFault
from qpu.vc4.builder import Asm
from tests.emu.vc4.rig import Rig, store_rows


class Model:
    """The VPM as a dictionary of bytes at (row, column, byte)."""

    def __init__(self, words: Any) -> None:
        self.b = {
            (y, x, k): int(words[y * 16 + x]) >> 8 * k & 255 for y, x, k in product(range(64), range(16), range(4))
        }

    def get(self, y: int, x: int, byte: int, width: int) -> int:
        return sum(self.b[y, x, byte + k] << 8 * k for k in range(width))

    def put(self, y: int, x: int, byte: int, width: int, value: int) -> None:
        for k in range(width):
            self.b[y, x, byte + k] = value >> 8 * k & 255

    def words(self) -> list[int]:
        return [self.get(y, x, 0, 4) for y in range(64) for x in range(16)]


def lane_cell(bits: int, horizontal: bool, laned: bool, address: int, e: int) -> tuple[int, int, int]:
    """(row, column, byte) of lane e, from the table of generic accesses."""
    if bits == 32:
        if horizontal:
            return address & 63, e, 0
        return (address >> 4 & 3) * 16 + e, address & 15, 0
    if bits == 16:
        h, rest = address & 1, address >> 1 & 63
        if horizontal:
            return (rest, e, 2 * h) if laned else (rest, 8 * h + e // 2, 2 * (e & 1))
        y, x = (rest >> 4) * 16, rest & 15
        return (y + e, x, 2 * h) if laned else (y + 8 * h + e // 2, x, 2 * (e & 1))
    b, rest = address & 3, address >> 2 & 63
    if horizontal:
        return (rest, e, b) if laned else (rest, 4 * b + e // 4, e & 3)
    y, x = (rest >> 4) * 16, rest & 15
    return (y + e, x, b) if laned else (y + 4 * b + e // 4, x, e & 3)


MODES = [(bits, h, laned) for bits in (8, 16, 32) for h in (True, False) for laned in (True, False)]


@pytest.mark.parametrize(("bits", "horizontal", "laned"), MODES)
def test_generic_cells(bits: int, horizontal: bool, laned: bool) -> None:
    rng = np.random.default_rng(bits)
    vpm = Vpm()
    vpm.words[:] = rng.integers(0, 1 << 32, 1024, np.uint32)
    model = Model(vpm.words)
    size = {8: 0, 16: 1, 32: 2}[bits]
    setup = GenericSetup(size, laned, horizontal, 0, 1, 1)
    for address in range(64 * 32 // bits):
        got = vpm.read(setup, address)
        for e in range(16):
            y, x, byte = lane_cell(bits, horizontal, laned, address, e)
            assert got[e] == model.get(y, x, byte, bits // 8), (address, e)
    for address in rng.integers(0, 64 * 32 // bits, 20):
        values = rng.integers(0, 1 << 32, 16, np.uint32)
        vpm.write(setup, int(address), values)
        for e in range(16):
            model.put(*lane_cell(bits, horizontal, laned, int(address), e), bits // 8, int(values[e]))
    assert vpm.words.tolist() == model.words()


@pytest.mark.parametrize(
    ("bits", "horizontal", "laned", "stride"),
    [(*mode, stride) for n, mode in enumerate(MODES) for stride in ((1, 64) if n % 2 else (2, 5))],
)
def test_generic_access_by_a_program(bits: int, horizontal: bool, laned: bool, stride: int) -> None:
    """Write four vectors with one stride, read five back with another, both through set-up words."""
    size = {8: 0, 16: 1, 32: 2}[bits]
    word = (stride & 63) << 12 | horizontal << 11 | laned << 10 | size << 8 | 3
    back = 5 << 20 | (stride & 63) << 12 | horizontal << 11 | laned << 10 | size << 8 | 4

    def program(q: Asm) -> None:
        q.ldi(q.vw_setup, word)
        for _ in range(4):
            q.mov(q.r0, q.uniform)
            q.add(q.vpm, q.r0, q.element_number)
        q.ldi(q.vr_setup, back)
        q.mov(q.r1, q.uniform)
        for n in range(5):
            q.mov(q.ra[n], q.vpm)
        q.nop()
        store_rows(q, [q.ra[n] for n in range(5)], q.r1, row=40)
        q.end()

    rig = Rig()
    vpm = rig.machine.vpm
    vpm.words[:] = np.random.default_rng(1).integers(0, 1 << 32, 1024, np.uint32)
    model = Model(vpm.words)
    out, y = rig.zeros((5, 16))
    bases = [0x11223344, 0x55667788, 0x99AABBCC, 0xDDEEFF00]
    rig.run(program, [*bases, out])
    for n, base in enumerate(bases):
        for e in range(16):
            cell = lane_cell(bits, horizontal, laned, 3 + n * stride, e)
            model.put(*cell, bits // 8, (base + e) & 0xFFFFFFFF)
    for n in range(5):
        want = [model.get(*lane_cell(bits, horizontal, laned, 4 + n * stride, e), bits // 8) for e in range(16)]
        assert y[n].tolist() == want
    assert rig.last is not None
    assert rig.last.stats.vpm_read_bytes == 5 * 16 * bits // 8
    assert rig.last.stats.vpm_write_bytes == 4 * 16 * bits // 8 + 5 * 64


def load_program(q: Asm, words: list[int]) -> None:
    for word in words:
        q.ldi(q.vr_setup, word)
    q.start_dma_load(q.uniform)
    q.wait_dma_load()
    q.end()


def store_program(q: Asm, words: list[int]) -> None:
    for word in words:
        q.ldi(q.vw_setup, word)
    q.start_dma_store(q.uniform)
    q.wait_dma_store()
    q.end()


def load_word(modew: int, mpitch: int, columns: int, rows: int, vpitch: int, vert: bool, y: int, x: int) -> int:
    return (
        1 << 31 | modew << 28 | mpitch << 24 | (columns & 15) << 20 | (rows & 15) << 16 | (vpitch & 15) << 12
        | vert << 11 | y << 4 | x
    )  # fmt: skip


LOADS = [
    # bytes of an element, offset, pitch, columns, rows, vpitch, vertical, y, x
    (4, 0, 64, 16, 16, 1, False, 0, 0),
    (4, 0, 64, 16, 16, 1, True, 16, 0),
    (4, 0, 32, 8, 8, 1, False, 4, 4),
    (4, 0, 8, 1, 16, 1, False, 0, 15),
    (4, 0, 64, 16, 4, 16, True, 0, 5),
    (4, 0, 1024, 5, 3, 7, False, 40, 11),
    (4, 0, 100, 16, 7, 2, False, 3, 0),
    (4, 0, 4, 16, 16, 1, False, 0, 0),
    (4, 0, 8188, 3, 4, 3, True, 9, 2),
    (2, 0, 64, 16, 8, 2, False, 10, 0),
    (2, 0, 32, 16, 4, 4, False, 0, 8),
    (2, 0, 34, 7, 5, 2, True, 12, 3),
    (2, 1, 32, 8, 4, 2, False, 1, 1),
    (2, 0, 32, 8, 4, 1, False, 1, 1),
    (1, 0, 16, 16, 16, 4, False, 20, 12),
    (1, 0, 16, 16, 3, 4, True, 1, 1),
    (1, 2, 128, 9, 4, 8, False, 33, 5),
    (1, 3, 17, 5, 6, 3, True, 5, 9),
]


@pytest.mark.parametrize("case", LOADS, ids=str)
def test_dma_load(case: tuple[int, int, int, int, int, int, bool, int, int]) -> None:
    width, sub, pitch, columns, rows, vpitch, vert, y, x = case
    modew = {4: 0, 2: 2, 1: 4}[width] + sub
    exponent = (pitch // 8).bit_length() - 1
    simple = pitch >= 16 and pitch == 8 << exponent
    words = [load_word(modew, exponent if simple else 0, columns, rows, vpitch, vert, y, x)]
    if not simple:
        words.insert(0, 9 << 28 | pitch)
    rig = Rig()
    rng = np.random.default_rng(rows)
    source = rng.integers(0, 256, pitch * rows + 64, np.uint8)
    at, _ = rig.array(source)
    vpm = rig.machine.vpm
    vpm.words[:] = rng.integers(0, 1 << 32, 1024, np.uint32)
    model = Model(vpm.words)
    execution = rig.run(lambda q: load_program(q, words), [at])
    for r in range(rows):
        for k in range(columns):
            value = int.from_bytes(source[r * pitch + k * width :][:width].tobytes(), "little")
            per_word = 4 // width
            first = y * per_word + sub + r * vpitch  # {Y, half} or {Y, byte}
            row, part = first // per_word, first % per_word + k
            if vert:
                model.put(row + part // per_word, x, part % per_word * width, width, value)
            else:
                model.put(row, x + part // per_word, part % per_word * width, width, value)
    assert vpm.words.tolist() == model.words()
    assert execution.stats.dma_read_bytes == rows * columns * width
    uncertain = any((y * 4 // width + sub + r * vpitch) % (4 // width) for r in range(rows))
    assert any("vpm-dma-offset" in f for f in execution.stats.faults) == uncertain


def store_word(units: int, depth: int, laned: bool, horizontal: bool, y: int, x: int, modew: int) -> int:
    return (
        1 << 31 | (units & 127) << 23 | (depth & 127) << 16 | laned << 15 | horizontal << 14 | y << 7 | x << 3 | modew
    )


STORES = [
    # bytes of an element, offset, units, depth, laned, horizontal, y, x, stride, blockmode
    (4, 0, 16, 16, False, True, 0, 0, 0, False),
    (4, 0, 64, 16, False, True, 0, 0, 64, False),
    (4, 0, 16, 16, False, False, 16, 0, 0, False),
    (4, 0, 3, 64, False, False, 0, 13, 12, False),
    (4, 0, 5, 7, False, True, 3, 9, 4, False),
    (4, 0, 1, 1, False, True, 63, 15, 0, False),
    (4, 0, 8, 8, False, True, 5, 4, 65532, True),
    (4, 0, 8, 128, False, True, 0, 0, 0, True),
    (4, 0, 4, 16, False, False, 0, 2, 8, True),
    (2, 0, 6, 32, False, True, 7, 0, 0, False),
    (2, 0, 6, 9, False, True, 7, 3, 2, False),
    (2, 1, 4, 8, False, True, 1, 2, 6, False),
    (2, 0, 4, 40, False, False, 2, 5, 0, False),
    (2, 0, 8, 24, False, True, 2, 0, 10, True),
    (2, 1, 5, 16, True, True, 8, 0, 0, False),
    (2, 1, 5, 16, True, False, 8, 3, 0, False),
    (1, 0, 4, 64, False, True, 11, 0, 1, False),
    (1, 3, 4, 9, False, True, 11, 6, 3, False),
    (1, 0, 16, 128, False, False, 0, 0, 0, False),
    (1, 0, 9, 33, False, True, 11, 1, 0, True),
    (1, 2, 4, 16, True, True, 11, 0, 0, False),
]


@pytest.mark.parametrize("case", STORES, ids=str)
def test_dma_store(case: tuple[int, int, int, int, bool, bool, int, int, int, bool]) -> None:
    width, sub, units, depth, laned, horizontal, y, x, stride, blockmode = case
    modew = {4: 0, 2: 2, 1: 4}[width] + sub
    words = [3 << 30 | blockmode << 16 | stride, store_word(units, depth, laned, horizontal, y, x, modew)]
    rig = Rig()
    rng = np.random.default_rng(units)
    vpm = rig.machine.vpm
    vpm.words[:] = rng.integers(0, 1 << 32, 1024, np.uint32)
    model = Model(vpm.words)
    pitch = depth * width + stride
    at, memory = rig.array(rng.integers(0, 256, pitch * units + 64, np.uint8))
    expected = memory.copy()
    execution = rig.run(lambda q: store_program(q, words), [at])
    per_word = 4 // width
    for r in range(units):
        for k in range(depth):
            if laned:
                row, column = (y + r, x + k) if horizontal else (y + k, x + r)
                value = model.get(row, column, sub * width, width)
            else:
                part = sub + (r * depth if blockmode else 0) + k
                step = 0 if blockmode else r
                if horizontal:
                    word = (y + step) * 16 + x + part // per_word
                    row, column = divmod(word, 16) if blockmode else (y + step, x + part // per_word)
                else:
                    row, column = y + part // per_word, x + step
                value = model.get(row, column, part % per_word * width, width)
            expected[r * pitch + k * width :][:width] = list(value.to_bytes(width, "little"))
    assert (memory == expected).all()
    assert execution.stats.dma_write_bytes == units * depth * width


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ([store_word(1, 17, False, True, 0, 0, 0)], "vpm-dma-column"),
        ([store_word(1, 2, False, True, 0, 15, 0)], "vpm-dma-column"),
        ([store_word(2, 16, False, True, 63, 0, 0)], "vpm-dma-row"),
        ([store_word(1, 128, False, False, 0, 0, 0)], "vpm-dma-row"),
        ([store_word(1, 16, False, True, 0, 0, 1)], "vpm-setup"),
        ([1 << 30], "vpm-setup"),
        ([3 << 8], "vpm-setup"),
    ],
)
def test_doubtful_stores_fault(words: list[int], rule: str) -> None:
    rig = Rig()
    at, _ = rig.zeros(512)
    with pytest.raises(EmuFault) as caught:
        rig.run(lambda q: store_program(q, words), [at])
    assert caught.value.rule == rule


def test_set_up_words_are_taken_apart() -> None:
    assert parse_read_setup(0x101200) == GenericSetup(2, False, False, 0, 1, 1)
    assert parse_write_setup(0x88104000) == StoreSetup(4, 0, 16, 16, False, True, 0, 0)
    assert parse_write_setup(0xC0010040) == StoreStride(64, True)
    assert parse_read_setup(0x90000123) == LoadPitch(0x123)
    assert parse_read_setup(load_word(5, 3, 16, 2, 16, True, 63, 7)) == LoadSetup(1, 1, 3, 16, 2, 16, True, 63, 7)
    for word in (1 << 30, 3 << 8):
        with pytest.raises(ValueError, match="0x"):
            parse_read_setup(word)
        with pytest.raises(ValueError, match="0x"):
            parse_write_setup(word)


def test_reserved_rows_drop_writes_but_not_reads() -> None:
    rig = Rig()
    rig.machine.vpm.reserved = 8
    rig.machine.vpm.words[:] = 7
    out, y = rig.zeros((2, 16))

    def program(q: Asm) -> None:
        q.ldi(q.vw_setup, 0x1A00 | 7)
        q.mov(q.vpm, 1)
        q.mov(q.vpm, 2)
        q.setup_dma_store(nrows=2, ncols=16, y=7)
        q.start_dma_store(q.uniform)
        q.wait_dma_store()
        q.end()

    execution = rig.run(program, [out])
    assert y.tolist() == [[1] * 16, [7] * 16]
    assert any("vpm-reserved" in f for f in execution.stats.faults)


def test_a_second_read_setup_is_ignored_while_two_vectors_are_unread() -> None:
    rig = Rig()
    rig.machine.vpm.words[:] = np.arange(1024)
    out, y = rig.zeros((4, 16))

    def program(q: Asm) -> None:
        q.mov(q.r3, q.uniform)
        q.setup_vpm_read(3, y=0)
        q.setup_vpm_read(1, y=20)  # ignored: three vectors are unread
        q.mov(q.ra[0], q.vpm)
        q.mov(q.ra[1], q.vpm)
        q.setup_vpm_read(1, y=30)  # queued: one is unread
        q.mov(q.ra[2], q.vpm)
        q.mov(q.ra[3], q.vpm)
        q.nop()
        store_rows(q, [q.ra[n] for n in range(4)], q.r3, row=40)
        q.end()

    execution = rig.run(program, [out], check=False)
    assert y[:, 0].tolist() == [0, 16, 32, 30 * 16]
    assert [f for f in execution.stats.faults if f.startswith("H25")]


def test_a_queued_read_setup_is_read_once() -> None:
    def program(q: Asm, reads: int) -> None:
        q.setup_vpm_read(1, y=3)
        q.setup_vpm_read(1, y=5)
        q.nops(3)
        for n in range(reads):
            q.mov(q.ra[n], q.vpm)
        q.setup_vpm_read(1, y=7)  # neither queued nor ignored
        q.mov(q.ra[2], q.vpm)
        q.nop()
        store_rows(q, [q.ra[n] for n in range(3)], q.uniform, row=40)
        q.end()

    rig = Rig()
    rig.machine.vpm.words[:] = np.arange(1024)
    out, y = rig.zeros((3, 16))
    execution = rig.run(lambda q: program(q, 2), [out], check=False)
    assert y[:, 0].tolist() == [3 * 16, 5 * 16, 7 * 16] and not execution.stats.faults
    with pytest.raises(EmuFault, match="vpm-empty"):
        Rig().run(lambda q: program(q, 4), [out], check=False)


def test_misaligned_dma_faults_and_goes_on_when_lenient() -> None:
    words = [store_word(1, 16, False, True, 0, 0, 0)]
    with pytest.raises(EmuFault, match="dma-misaligned"):
        Rig().run(lambda q: store_program(q, words), [0x40400001])
    rig = Rig(strict=False)
    rig.machine.vpm.words[:16] = np.arange(16) * 0x01010101
    at, memory = rig.zeros(100, np.uint8)
    rig.run(lambda q: store_program(q, words), [at + 1])
    assert memory[1:65].tolist() == [e for e in range(16) for _ in range(4)]
    source, _ = rig.array(np.arange(100), np.uint8)
    rig.run(lambda q: load_program(q, [load_word(0, 3, 16, 1, 1, False, 2, 0)]), [source + 3])
    assert rig.machine.vpm.bytes[128:192].tolist() == list(range(3, 67))
