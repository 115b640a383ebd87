"""Tests of forms in programs that ran on silicon: no fault in strict mode, and the values of the hardware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qpu.emu.vc4.vpm_setup import LoadPitch, StoreSetup, parse_read_setup, parse_write_setup, unused_bits
from qpu.errors import AsmError, EmuFault
from qpu.vc4 import vpm
from qpu.vc4.builder import Asm
from qpu.vc4.encode import encode
from qpu.vc4.instr import Alu, LoadImm
from tests.emu.vc4.rig import Rig, store_rows


def test_an_add_nop_with_a_destination_writes_nothing() -> None:
    def program(q: Asm) -> None:
        q.ldi(q.r0, 7)
        q.mov(q.ra[5], q.uniform)
        q.raw(encode(Alu(cond_add=1, waddr_add=32)))  # py-videocore's nop() names r0
        store_rows(q, [q.r0], q.ra[5])
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    assert not rig.run(program, [out], check=False).stats.faults
    assert y.tolist() == [7] * 16


@pytest.mark.parametrize("address", [32, 37, 38])  # r0, r5, host interrupt
def test_two_identical_writes_are_harmless(address: int) -> None:
    both = Alu(op_add=21, cond_add=1, waddr_add=address, op_mul=4, cond_mul=1, waddr_mul=address)

    def program(q: Asm) -> None:
        q.ldi(q.r0, 1)
        q.mov(q.ra[5], q.uniform)
        q.raw(encode(both))
        q.raw(encode(LoadImm(cond_add=1, cond_mul=1, waddr_add=32, waddr_mul=32, imm=9)))
        store_rows(q, [q.r0, q.r5], q.ra[5])
        q.end()

    rig = Rig()
    out, y = rig.zeros((2, 16))
    execution = rig.run(program, [out], check=False)
    assert not execution.stats.faults
    assert y[0].tolist() == [9] * 16
    if address == 37:
        assert y[1].tolist() == [1] * 16
    assert execution.host_interrupts == (3 if address == 38 else 1)  # one of them is that of `exit`


def load_rows(q: Asm, rows: int, pitch: int | None) -> None:
    """A DMA load of `rows` rows with MPITCH 0 into row 0 of the VPM; the address is in ra0."""
    if pitch is not None:
        q.setup_dma_load_stride(pitch)
    q.setup_dma_load(rows, 16, mpitch=0)
    q.start_dma_load(q.ra[0])
    q.wait_dma_load()
    q.setup_dma_store(rows, 16)
    q.setup_dma_store_stride(0)
    q.start_dma_store(q.ra[1])
    q.wait_dma_store()


def dma(rows: int, pitch: int | None, times: int = 1) -> tuple[Rig, np.ndarray, np.ndarray]:
    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.ra[1], q.uniform)
        for _ in range(times):
            load_rows(q, rows, pitch)
        q.end()

    rig = Rig()
    given = np.arange(rows * max(64, pitch or 0) // 4 + 16, dtype=np.uint32)
    source, x = rig.array(given)
    out, y = rig.zeros((rows, 16))
    assert not rig.run(program, [source, out], check=False).stats.faults
    return rig, x, y


@pytest.mark.parametrize("pitch", [64, 8188, 8192, 12288, 65532])
def test_the_extended_pitch_of_loads_has_16_bits(pitch: int) -> None:
    _, x, y = dma(3, pitch, times=20)
    for row in range(3):
        assert y[row].tolist() == x[row * pitch // 4 :][:16].tolist()


@pytest.mark.parametrize("pitch", [None, 64, 2])
def test_the_pitch_of_one_row_does_not_matter(pitch: int | None) -> None:
    _, x, y = dma(1, pitch, times=20)
    assert y[0].tolist() == x[:16].tolist()


def test_several_rows_need_a_pitch() -> None:
    with pytest.raises(EmuFault) as caught:
        dma(2, None)
    assert caught.value.rule == "vpm-no-setup"


GENERIC = 0x1A00
READS = [GENERIC | 1 << 24, GENERIC | 1 << 18, 0x90010000, 0x98000040, 0x83011400]
WRITES = [GENERIC | 1 << 24, GENERIC | 1 << 19, 0xC0020000, 0xE0000000, 0x8090C000]


@pytest.mark.parametrize(("read", "word"), [*((True, w) for w in READS), *((False, w) for w in WRITES)])
def test_set_up_bits_that_mean_nothing_are_faults(read: bool, word: int) -> None:
    def program(q: Asm) -> None:
        q.ldi(q.vr_setup if read else q.vw_setup, word)
        q.nops(8)
        q.end()

    with pytest.raises(EmuFault) as caught:
        Rig().run(program, check=False)
    assert caught.value.rule == "vpm-setup" and f"0x{word:08x}" in str(caught.value)
    lenient = Rig(strict=False).run(program, check=False)
    assert [f.partition(":")[0] for f in lenient.stats.faults] in (["vpm-setup"], ["vpm-setup", "H25"])


def test_builder_and_emulator_agree_on_every_bit() -> None:
    """The builder sets no bits without meaning, which the emulator would refuse."""
    made = [
        vpm.vpm_read(16, "8bit vertical laned", y=48, x=15, part=3, stride=64),
        vpm.dma_load(16, 16, "8bit vertical", y=63, x=15, part=3, vpitch=16, mpitch=15),
        vpm.dma_load_stride(65535),
    ]
    for word in made:
        assert not unused_bits(word, parse_read_setup(word))
    assert parse_read_setup(made[2]) == LoadPitch(65535)
    made = [
        vpm.vpm_write("16bit vertical packed", y=48, x=15, part=1, stride=64),
        vpm.dma_store(128, 128, "8bit horizontal", y=63, x=15, part=3),
        vpm.dma_store_stride(65535, blockmode=True),
    ]
    for word in made:
        assert not unused_bits(word, parse_write_setup(word))
    for wrong in (-1, 65536):
        for function in (vpm.dma_load_stride, vpm.dma_store_stride):
            with pytest.raises(AsmError, match="stride"):
                function(wrong)


def test_a_store_from_rows_that_do_not_exist_is_a_fault() -> None:
    setup = parse_write_setup(0x80904000 | 64 << 7)
    assert isinstance(setup, StoreSetup) and setup.y == 64

    def program(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.ldi(q.vw_setup, 0x80904000 | 64 << 7)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.end()

    rig = Rig()
    with pytest.raises(EmuFault) as caught:
        rig.run(program, [rig.zeros(16)[0]], check=False)
    assert caught.value.rule == "vpm-dma-row"


def test_a_register_written_in_the_last_delay_slot_has_arrived_at_the_target() -> None:
    """vc4asm's hello_fft: ``xor rb2, rb2, r2`` in the last slot, ``mov vr_setup, rb2`` at the target."""

    def source(cond: Any) -> Callable[[Asm], None]:
        def program(q: Asm) -> None:
            q.mov(q.ra[5], q.uniform)
            q.mov(q.rb[2], q.uniform)
            q.mov(q.null, q.element_number, push="z")
            there = q.new_label()
            q.b(there, cond=cond)
            q.nops(2)
            q.mov(q.rb[2], q.uniform)
            q.mov(q.r0, q.rb[2])
            q.nops(12)
            q.label(there)
            q.mov(q.r1, q.rb[2])
            store_rows(q, [q.r1], q.ra[5])
            q.end()

        return program

    rig = Rig()
    out, y = rig.zeros(16)
    execution = rig.run(source("always"), [out, 7, 8], check=False)
    assert y.tolist() == [8] * 16
    assert [f.partition(":")[0] for f in execution.stats.faults] == ["H1"]
    with pytest.raises(EmuFault) as caught:  # without the branch it is still a fault
        Rig().run(source("alln"), [out, 7, 8], check=False)
    assert caught.value.rule == "H1"
