"""Tests of programs started by register on an emulated board: the queue, its status, parallel work, the counters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from qpu.emu.linux.gpu_jobs import Run
from qpu.emu.port import EmuPort
from qpu.errors import EmuFault
from qpu.vc4.builder import Asm, assemble

V3D = 0x3FC00000
SRQPC, SRQUA, SRQUL, SRQCS, PCTRC, PCTRE = 0x430, 0x434, 0x438, 0x43C, 0x670, 0x674
CLEAR = 1 << 16 | 1 << 8 | 1 << 7


class Chip:
    """An emulated Pi 3 with V3D on and a piece of memory."""

    def __init__(self, engine: str, *, strict: bool = True) -> None:
        self.port = EmuPort("pi3", engine=engine, strict=strict)
        board = self.port.board
        assert board.vc4 is not None
        board.vc4.enabled = True
        self.gpu = board.vc4
        region = board.memory.map(0x100000, 1 << 18, "test")
        self.words = board.memory.bytes[region.address : region.end].view(np.uint32)
        self.regs = self.port.mmio(V3D, 0x1000)
        self._at = 0
        self.start()

    def place(self, words: Any) -> int:
        data = np.asarray(words, np.uint32)
        at = self._at
        self.words[at : at + len(data)] = data
        self._at = (at + len(data) + 15) & ~15
        return 0xC0100000 + 4 * at

    def program(self, source: Any) -> int:
        return self.place(np.array(assemble(source).code, np.uint64).view(np.uint32))

    def start(self) -> None:
        """The protocol of vc4.md 18.2."""
        for register, value in ((0xE00, 0), (0xE2C, 0), (0xE30, 0xFFFFFFFF), (0x20, 4), (0x24, 0xFFFFFFFF)):
            self.regs.write32(register, value)
        self.regs.write32(SRQCS, CLEAR)

    def queue(self, code: int, *uniforms: int) -> None:
        self.regs.write32(SRQUA, self.place(uniforms or (0,)))
        self.regs.write32(SRQPC, code)

    def status(self) -> tuple[int, int, int, int]:
        """Completed, made, overflow, waiting."""
        value = self.regs.read32(SRQCS)
        return value >> 16 & 255, value >> 8 & 255, value >> 7 & 1, value & 63

    def finish(self, count: int) -> None:
        for _ in range(2000):
            if self.status()[0] == count:
                return
        raise AssertionError(self.status())


@pytest.fixture
def chip(engine: str) -> Iterator[Chip]:
    made = Chip(engine)
    yield made
    made.port.shutdown()


def count_down(q: Asm) -> None:
    """Uniforms: rounds, address. Stores `rounds` after that many rounds."""
    q.mov(q.r0, q.uniform)
    q.mov(q.ra[0], q.r0)
    q.mov(q.rb[0], q.uniform)
    with q.loop() as loop:
        q.sub(q.r0, q.r0, 1, push="z")
        q.b(loop.start, cond="anynz")
        q.nops(3)
    q.mutex_acquire()
    q.setup_vpm_write(y=0)
    q.mov(q.vpm, q.ra[0])
    q.setup_dma_store(nrows=1, ncols=16, y=0)
    q.setup_dma_store_stride(0)
    q.start_dma_store(q.rb[0])
    q.wait_dma_store()
    q.mutex_release()
    q.end(interrupt=False)


def test_waiting_count_of_more_programs_than_qpus(chip: Chip) -> None:
    code = chip.program(count_down)
    out = chip.place(np.zeros(28 * 16))
    # Long enough that several polls see each stage: a poll lets 20 us pass at first, twice as much each time.
    for n in range(28):
        chip.queue(code, 20_000 + n, out + 64 * n)
    assert chip.gpu.active is None
    seen = [chip.status()]
    # 12 QPUs took theirs at once, 16 wait: the queue is full but has not overflowed.
    assert seen[0] == (0, 28, 0, 16)
    while seen[-1][0] < 28:
        seen.append(chip.status())
        assert len(seen) < 1000
    for completed, made, overflow, waiting in seen:
        assert (made, overflow) == (28, 0)
        assert waiting == max(0, 28 - 12 - completed)  # a QPU that becomes free takes the next at once
    assert len({s[3] for s in seen}) >= 2 and seen[-1] == (28, 28, 0, 0)
    at = (out - 0xC0100000) // 4
    assert (chip.words[at : at + 28 * 16].reshape(28, 16) == 20_000 + np.arange(28)[:, None]).all()


def test_overflow_and_emptying(chip: Chip) -> None:
    code = chip.program(count_down)
    out = chip.place(np.zeros(40 * 16))
    for n in range(29):
        chip.queue(code, 8_000, out + 64 * n)
    assert chip.status() == (0, 29, 1, 16)  # the 29th was lost
    chip.regs.write32(SRQCS, 1 << 7)
    assert chip.status()[2] == 0
    chip.regs.write32(SRQCS, 1)  # empties the queue, not the QPUs
    assert chip.status() == (0, 29, 0, 0)
    chip.queue(code, 5, out)  # there is room again, but no free QPU
    assert chip.status() == (0, 30, 0, 1)
    chip.finish(13)
    chip.regs.write32(SRQCS, 1 << 8)
    assert chip.status() == (13, 0, 0, 0)
    chip.regs.write32(SRQCS, 1 << 16)
    assert chip.status() == (0, 0, 0, 0)


def test_the_counts_are_eight_bits_wide(chip: Chip) -> None:
    code = chip.program(lambda q: q.end(interrupt=False))
    for n in range(300):
        chip.queue(code)
        chip.finish((n + 1) & 255)
    assert chip.status() == (300 & 255, 300 & 255, 0, 0)


def test_a_program_queued_later_releases_one_that_waits(chip: Chip) -> None:
    """The first spins on memory; the second, queued after several polls, writes what it waits for."""

    def spin(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.nop()
        with q.loop() as loop:
            q.mov(q.t0s, q.ra[0])
            q.nop(sig=q.ldtmu0)
            q.mov(q.null, q.r4, push="z")
            q.b(loop.start, cond="anyz")
            q.nops(3)
        q.end(interrupt=False)

    flag = chip.place(np.zeros(16))
    chip.queue(chip.program(spin), flag)
    for _ in range(5):
        assert chip.status() == (0, 1, 0, 0)
    chip.queue(chip.program(count_down), 3, flag)
    chip.finish(2)
    assert chip.gpu.active is None


def down(q: Asm) -> None:
    q.sema_down(3)
    q.end(interrupt=False)


def up(q: Asm) -> None:
    q.sema_up(3)
    q.end(interrupt=False)


@pytest.mark.parametrize("strict", [True, False])
def test_a_semaphore_is_raised_by_a_program_that_is_queued_after_polls(engine: str, strict: bool) -> None:
    """No deadlock: the program that releases the first one had not been queued yet."""
    made = Chip(engine, strict=strict)
    made.queue(made.program(down))
    for _ in range(4):
        assert made.status() == (0, 1, 0, 0)
    made.queue(made.program(up))
    made.finish(2)
    assert not made.port.board.faults
    made.port.shutdown()


def test_a_deadlock_is_told_when_strict(chip: Chip) -> None:
    chip.queue(chip.program(down))
    start = chip.port.monotonic()
    with pytest.raises(EmuFault, match=r"QPU 0 .* waits for semaphore 3"):
        chip.finish(1)
    assert 1 <= chip.port.monotonic() - start < 1.2
    chip.queue(chip.program(up))  # the machine is free again
    chip.finish(1)


def test_a_deadlock_is_a_warning_when_lenient(engine: str) -> None:
    made = Chip(engine, strict=False)
    made.queue(made.program(down))
    for _ in range(300):
        assert made.status() == (0, 1, 0, 0)
    assert [text.partition(":")[0] for text in made.port.board.faults] == ["deadlock"]
    made.queue(made.program(up))
    made.finish(2)
    made.port.shutdown()


def test_uniform_length_and_off(chip: Chip) -> None:
    out = chip.place(np.zeros(16))
    chip.regs.write32(SRQUL, 1024)  # unlimited
    chip.queue(chip.program(count_down), 2, out)
    chip.finish(1)
    assert (chip.words[(out - 0xC0100000) // 4 :][:16] == 2).all()
    assert chip.regs.read32(SRQUL) == 1024


def test_performance_counters(chip: Chip) -> None:
    """All sixteen counters at once, of all sources in two rounds (vc4.md 18.1)."""
    code = chip.program(count_down)
    out = chip.place(np.zeros(16))
    found: dict[int, int] = {}
    for first in (0, 14):
        for slot in range(16):
            chip.regs.write32(0x684 + 8 * slot, first + slot)
        chip.regs.write32(PCTRC, 0xFFFF)
        chip.regs.write32(PCTRE, 1 << 31 | 0xFFFF)
        chip.regs.write32(SRQCS, CLEAR)
        chip.queue(code, 1000, out)
        chip.finish(1)
        found |= {first + slot: chip.regs.read32(0x680 + 8 * slot) for slot in range(16)}
        chip.regs.write32(PCTRE, 0)
    executed = chip.port.runs[-1].instructions
    assert executed > 5000 and found[16] == 4 * executed
    assert found[13] == 11 * found[16]  # the other QPUs are idle as long
    assert found[20] > 0 and found[22] + found[23] >= 1
    assert all(found[n] == 0 for n in range(30) if n not in (13, 16, 17, 20, 21, 22, 23, 24, 25, 28, 29))
    with pytest.raises(EmuFault, match="source 30"):
        chip.regs.write32(0x684, 30)
    chip.regs.write32(0x680, 5)  # writing a counter clears it
    assert chip.regs.read32(0x680) == 0


def test_identity_and_storage(chip: Chip) -> None:
    regs = chip.regs
    assert regs.read32(0) == 0x02443356
    ident = regs.read32(4)
    assert (ident >> 4 & 15, ident >> 8 & 15, ident >> 12 & 15, ident >> 16 & 255) == (3, 4, 2, 16)
    for offset in (0x010, 0x410, 0x414, 0x418, 0x434, 0x438, 0xE00, 0xE2C):
        regs.write32(offset, 0x12345678)
        assert regs.read32(offset) == 0x12345678
    with pytest.raises(EmuFault, match="0xabc"):
        regs.read32(0xABC)
    with pytest.raises(EmuFault, match="0xabc"):
        regs.write32(0xABC, 0)
    chip.gpu.power_off()
    assert regs.read32(0) == 0xDEADBEEF


def test_reserved_qpus_are_refused_by_name(chip: Chip) -> None:
    chip.regs.write32(0x410, 1)
    chip.queue(chip.program(count_down), 1, chip.place(np.zeros(16)))
    with pytest.raises(EmuFault, match="SQRSV"):
        chip.status()


def test_register_and_mailbox_launches_do_not_mix_up(chip: Chip) -> None:
    """A mailbox job that ends between two polls is not counted by SRQCS."""
    code = chip.program(count_down)
    out = chip.place(np.zeros(32))
    uniforms = chip.place([4, out])
    execution = chip.gpu.launch([(uniforms, code)], Run())
    chip.queue(code, 6, out + 64)
    chip.finish(1)
    assert execution.done and chip.status() == (1, 1, 0, 0)
    at = (out - 0xC0100000) // 4
    assert chip.words[at] == 4 and chip.words[at + 16] == 6
