"""Tests of the builder: placement, labels, locations, helpers, threads, the generated file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qpu.errors import AsmError, HazardError, UnknownNameError
from qpu.vc4 import vpm
from qpu.vc4.builder import Asm, assemble, build
from qpu.vc4.decode import decode
from qpu.vc4.instr import Alu, Branch, LoadImm, LoadMode, Semaphore
from qpu.vc4.printer import disassemble

ROOT = Path(__file__).parent.parent.parent


def texts(fn: Any, *args: Any) -> list[str]:
    return [disassemble(w) for w in build(fn, *args).code]


def one(fn: Any) -> Any:
    program = build(fn)
    assert len(program) == 1
    return decode(program.code[0])


def test_worked_examples() -> None:
    """Words of the reference's worked examples."""

    def kernel(q: Asm) -> None:
        q.nop()
        q.ldi(q.r0, 1.0)
        q.mov(q.r0, q.r1)
        q.add(q.r0, q.ra[1], q.rb[2]).fmul(q.r1, q.ra[1], q.rb[2])
        q.nop().mov(q.r0, q.r1, rotate=3)
        q.nop(sig=q.ldtmu0)
        q.sema_down(3)
        q.b(-32)
        q.b(q.ra[4])
        q.ldi(q.r0, [0, 1, 2, 3] * 4)

    assert [f"{w:016x}" for w in build(kernel).code] == [
        "100009e7009e7000", "e00208273f800000", "10020827159e7240", "100248212c042df7", "d00049e0809f3009",
        "a00009e7009e7000", "e80009e700000013", "f0f809e7ffffffe0", "f0f489e700000000", "e6020827ccccaaaa",
    ]  # fmt: skip


def test_placement_moves_a_uniform_to_port_b() -> None:
    def kernel(q: Asm) -> None:
        q.fadd(q.r0, q.ra[1], q.uniform)
        q.fadd(q.r0, q.uniform, q.ra[1])
        q.fadd(q.r0, q.uniform, q.r1).fmul(q.r1, q.ra[2], q.r0)
        q.fadd(q.r0, q.uniform, q.rb[1])
        q.fadd(q.r0, q.ra[1], q.r1).fmul(q.r1, q.vpm, q.vpm)

    assert texts(kernel) == [
        "fadd r0, ra1, unif",
        "fadd r0, unif, ra1",
        "fadd r0, unif, r1;  fmul r1, ra2, r0",
        "fadd r0, unif, rb1",
        "fadd r0, ra1, r1;  fmul r1, vpm, vpm",
    ]
    assert [(i.raddr_a, i.raddr_b) for i in map(decode, build(kernel).code) if isinstance(i, Alu)] == [
        (1, 32), (1, 32), (2, 32), (32, 1), (1, 48),
    ]  # fmt: skip


def test_placement_chooses_the_write_swap() -> None:
    def kernel(q: Asm) -> None:
        q.add(q.ra[1], q.r0, q.r1).fmul(q.rb[2], q.r0, q.r1)
        q.add(q.rb[1], q.r0, q.r1).fmul(q.ra[2], q.r0, q.r1)
        q.add(q.r0, q.r0, q.r1).fmul(q.ra[2], q.r0, q.r1)
        q.fmul(q.ra[2], q.r0, q.r1)
        q.add(q.vw_setup, q.r0, q.r1)
        q.mov(q.broadcast, q.r0)
        q.mov(q.r5quad, q.r0)

    swaps = [i.ws for i in map(decode, build(kernel).code) if isinstance(i, Alu)]
    assert swaps == [0, 1, 1, 1, 1, 1, 0]


def test_a_rotation_serves_the_constant_it_implies() -> None:
    def kernel(q: Asm) -> None:
        q.add(q.r0, q.r0, -5).mov(q.r1, q.r2, rotate=11)
        q.nop().mul24(q.r1, q.r0, -6, rotate=10)
        q.nop().mov(q.r1, q.r0, rotate=-1)
        q.rotate(q.r1, q.r0, q.r5)

    assert texts(kernel) == [
        "add r0, r0, -5;  mov r1, r2<<5",
        "nop;  mul24 r1, r0<<6, -6",
        "nop;  mov r1, r0<<1",
        "nop;  mov r1, r0<<r5",
    ]


def test_conditions_and_flags() -> None:
    def kernel(q: Asm) -> None:
        q.add(q.r0, q.r1, q.r2, cond="ifz", push="z").fmul(q.r1, q.r1, q.r2, cond="ifcc")
        q.sub(q.null, q.r1, q.r2, push="z")
        q.sub(q.null, q.r1, q.r2)
        q.fmul(q.null, q.r1, q.r2, push="z")
        q.ldi(q.r0, [0, 1] * 8, push="z", cond="ifn")

    assert texts(kernel) == [
        "add.setf.ifz r0, r1, r2;  fmul.ifcc r1, r1, r2",
        "sub.setf -, r1, r2",
        "sub.never -, r1, r2",
        "nop;  fmul.setf -, r1, r2",
        "ldipes.setf r0.ifn, [0,1,0,1,0,1,0,1,0,1,0,1,0,1,0,1]",
    ]


def test_pack_and_unpack() -> None:
    def kernel(q: Asm) -> None:
        q.fadd(q.ra[1].pack("16a"), q.ra[2].unpack("16b"), q.r0)
        q.fmul(q.r0.pack("8asf"), q.r4.unpack("8c"), q.r1)
        q.fmul(q.ra[3].pack("8888sf"), q.r0, q.r1)
        q.add(q.rb[3], q.r0, q.r1).v8min(q.ra[3].pack("8bs"), q.ra[0].unpack("8dr"), q.ra[0].unpack("8dr"))
        q.ldi(q.ra[5].pack("8a"), 0x12345678)

    assert texts(kernel) == [
        "fadd ra1.16a, ra2.16b, r0",
        "nop;  fmul r0.8asf, r4.8c, r1",
        "nop;  fmul ra3.8888sf, r0, r1",
        "add rb3, r0, r1;  mov ra3.8bs, ra0.8dr",
        "ldi ra5.8a, 0x12345678",
    ]


def test_a_plain_read_of_r4_beside_an_unpacked_register() -> None:
    def kernel(q: Asm) -> None:
        q.fadd(q.r0, q.ra[1].unpack("16a"), q.r4).fmul(q.r1, q.ra[1].unpack("16a"), q.r4)
        q.fadd(q.r0, q.ra[1], q.r4.unpack("8a")).fmul(q.r1, q.ra[1], q.r4.unpack("8a"))

    assert texts(kernel) == [
        "fadd r0, ra1.16a, r4;  fmul r1, ra1.16a, r4",
        "fadd r0, ra1, r4.8a;  fmul r1, ra1, r4.8a",
    ]


def test_constants() -> None:
    def kernel(q: Asm) -> None:
        q.add(q.r0, q.r0, -16)
        q.fmul(q.r0, q.r0, 0.00390625)
        q.fadd(q.r0, 128.0, q.r1)
        q.mov(q.r0, 0.0)
        q.ldi(q.r0, -1, dst2=q.rb[3])
        q.ldi(q.r0, 0xFFFFFFFF)
        q.ldi(q.r0, 1 / 3)

    assert texts(kernel) == [
        "add r0, r0, -16",
        "nop;  fmul r0, r0, 1./256",
        "fadd r0, 128.0, r1",
        "or r0, 0, 0",
        "ldi r0, rb3, -1",
        "ldi r0, -1",
        "ldi r0, 0x3eaaaaab",
    ]


def test_numpy_scalars_are_numbers() -> None:
    np = pytest.importorskip("numpy")

    def kernel(q: Asm) -> None:
        q.add(q.r0, q.r0, np.int64(3))
        q.fmul(q.r0, q.r0, np.float32(0.5))
        q.ldi(q.r0, np.uint32(1 << 31))
        q.ldi(q.r0, np.float64(1.5))
        q.ldi(q.r0, np.zeros(16, np.int32))
        q.b(np.int32(-32))

    assert texts(kernel)[:2] == ["add r0, r0, 3", "nop;  fmul r0, r0, 1./2"]


def test_per_element_constants() -> None:
    def load(values: list[int]) -> LoadImm:
        found = one(lambda q: q.ldi(q.r0, values))
        assert isinstance(found, LoadImm)
        return found

    assert load([-2, -1, 0, 1] * 4) == LoadImm(LoadMode.PER_ELEMENT_SIGNED, cond_add=1, waddr_add=32, imm=0x3333AAAA)
    assert load([0, 1, 2, 3] * 4).mode is LoadMode.PER_ELEMENT_UNSIGNED
    assert load([0] * 16).mode is LoadMode.PER_ELEMENT_SIGNED


def test_labels_and_loops() -> None:
    def kernel(q: Asm) -> None:
        q.b("end", cond="allz", link=q.ra[3])
        q.nops(3)
        start = q.label("start")
        with q.loop() as loop:
            q.sub(q.r0, q.r0, 1, push="z")
            q.b(loop.end, cond="anyn")
            q.nops(3)
            q.b(loop.start, cond="anynz")
            q.nops(3)
        with q.loop("named"):
            q.b(start)
            q.nops(3)
        q.label("end")
        q.b(q.absolute("start"), reg=q.ra[2])

    program = build(kernel)
    assert program.labels == {"start": 4, "loop0": 4, "loop0_end": 13, "named": 13, "named_end": 17, "end": 17}
    branches = {n: i for n, i in enumerate(map(decode, program.code)) if isinstance(i, Branch)}

    def reach(n: int) -> int:
        offset = branches[n].imm - (branches[n].imm >> 31 << 32)
        return n + 4 + offset // 8

    assert {n: reach(n) for n in branches if branches[n].rel} == {0: 17, 5: 13, 9: 4, 13: 4}
    assert (branches[0].waddr_add, branches[0].ws, branches[0].cond) == (3, 0, 0)
    assert (branches[17].imm, branches[17].reg, branches[17].raddr_a, branches[17].rel) == (32, 1, 2, 0)


def test_locations() -> None:
    def kernel(q: Asm) -> None:
        q.nop()
        q.fadd(
            q.r0,
            q.r1,
            q.r2,
        ).fmul(q.r1, q.r1, q.r2)
        q.end()
        for _ in range(2):
            q.setup_vpm_read(1)
        with q.loop() as loop:
            q.b(loop.start)
        q.raw(0)

    program = build(kernel)
    first = kernel.__code__.co_firstlineno
    lines = [place.line - first for n in range(len(program)) if (place := program.loc(n))]
    assert lines == [1, 2, 7, 7, 7, 7, 9, 9, 11, 10, 10, 10, 12]
    files = {place.file for n in range(len(program)) if (place := program.loc(n))}
    assert files == {__file__}
    assert program.loc(99) is None


def test_a_subroutine_of_the_user_is_the_place() -> None:
    def store(q: Asm) -> None:
        q.wait_dma_store()

    program = build(lambda q: store(q))
    place = program.loc(0)
    assert place is not None
    assert place.line == store.__code__.co_firstlineno + 1


def test_semaphores_and_mutex() -> None:
    def kernel(q: Asm) -> None:
        q.sema_up(0)
        q.sema_down(15)
        q.mutex_acquire()
        q.mutex_release()
        q.interrupt()

    program = build(kernel)
    assert decode(program.code[0]) == Semaphore(imm=0)
    assert decode(program.code[1]) == Semaphore(imm=31)
    assert texts(kernel)[2:] == ["nop;  read mutex", "or mutex, 1, 1", "or irq, 1, 1"]


def test_exit() -> None:
    assert texts(lambda q: q.end()) == ["or irq, 1, 1", "nop;  thrend", "nop", "nop"]
    assert texts(lambda q: q.end(interrupt=False)) == ["nop;  thrend", "nop", "nop"]


def test_vpm_and_dma_words() -> None:
    """Values worked out from the field tables of the guide; two are printed in vc4asm's include file."""
    assert vpm.vpm_read(1) == 0x101A00
    assert vpm.vpm_read(16, "32bit vertical", y=16, x=3, stride=64) == 0x213
    assert vpm.vpm_write("16bit horizontal packed", y=5, part=1) == 0x190B
    assert vpm.vpm_write("8bit vertical laned", y=48, x=15, part=3, stride=4) == 4 << 12 | 1 << 10 | (63 << 2 | 3)
    assert vpm.dma_store(16, 16) == 0x88104000
    assert vpm.dma_store(128, 1, "32bit vertical", y=63, x=15) == 0x80010000 | 63 << 7 | 15 << 3
    assert vpm.dma_store(1, 16, "16bit horizontal", part=1) == 0x80904003
    assert vpm.dma_store_stride(4096, blockmode=True) == 0xC0011000
    assert vpm.dma_load(8, 8, y=4, x=4, vpitch=1, mpitch=2) == 0x80000000 | 2 << 24 | 8 << 20 | 8 << 16 | 1 << 12 | 0x44
    assert vpm.dma_load(16, 16, "32bit vertical", vpitch=16, mpitch=0) == 0x80000800
    assert vpm.dma_load(1, 16, "8bit horizontal", part=2) >> 28 & 7 == 6
    assert vpm.dma_load_stride(8191) == 0x90001FFF


def test_helpers_write_the_set_up_registers() -> None:
    def kernel(q: Asm) -> None:
        q.setup_vpm_read(1)
        q.setup_vpm_write()
        q.setup_dma_load()
        q.setup_dma_load_stride(64)
        q.setup_dma_store()
        q.setup_dma_store_stride(0)
        q.start_dma_load(q.r0)
        q.wait_dma_load()
        q.start_dma_store(q.ra[1])
        q.wait_dma_store()

    assert texts(kernel) == [
        "ldi vr_setup, 0x101a00", "ldi vw_setup, 6656", "ldi vr_setup, 0x83011000", "ldi vr_setup, 0x90000040",
        "ldi vw_setup, 0x80904000", "ldi vw_setup, 0xc0000000", "mov vr_addr, r0", "nop;  read vr_wait",
        "mov vw_addr, ra1", "nop;  read vw_wait",
    ]  # fmt: skip


def test_set_up_methods_show_the_parameters_of_their_functions() -> None:
    shown = str(inspect.signature(Asm().setup_vpm_read))
    assert shown.startswith("(n: 'int', mode: 'VpmMode' = '32bit horizontal', *, y: 'int' = 0")
    assert Asm.setup_dma_store_stride.__name__ == "setup_dma_store_stride"
    for name in ("vpm_read", "vpm_write", "dma_load", "dma_load_stride", "dma_store", "dma_store_stride"):
        assert getattr(Asm, f"setup_{name}").__name__ == f"setup_{name}"


def test_all_mistakes_are_reported_together_in_order() -> None:
    def kernel(q: Asm) -> None:
        q.add(q.r0, q.r0, 99)
        q.fadd(q.r0, q.ra[1], q.ra[2])
        q.b("nowhere")
        q.nops(3)
        q.fmul(q.r0, q.r1, q.ra[32])

    with pytest.raises(AsmError) as e:
        build(kernel)
    first = kernel.__code__.co_firstlineno
    found = [(d.rule, d.loc.line - first) for d in e.value.diagnostics if d.loc]
    assert found == [("small-imm", 1), ("port-a", 2), ("undefined-label", 3), ("register", 5)]
    message = str(e.value)
    assert "99 is not a small immediate" in message
    assert "allowed: -16..15" in message
    assert "help: load it: q.ldi(q.r0, 99)" in message
    assert "q.add(q.r0, q.r0, 99)" in message
    assert "ra1 and ra2 both need the one read port of register file A" in message


def test_hazards_raise_at_the_line() -> None:
    def kernel(q: Asm) -> None:
        q.mov(q.ra[1], q.r0)
        q.mov(q.r1, q.ra[1])
        q.end()

    with pytest.raises(HazardError) as e:
        assemble(kernel)
    (d,) = e.value.diagnostics
    assert (d.rule, d.index, d.other, d.distance) == ("H1", 1, 0, 1)
    assert d.loc is not None
    assert d.loc.line == kernel.__code__.co_firstlineno + 2
    assert "put 1 more instruction between" in str(e.value)
    assert len(build(kernel)) == 6


def test_an_exception_of_the_kernel_carries_the_diagnostics() -> None:
    def kernel(q: Asm) -> None:
        q.add(q.r0, q.r0, 99)
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as e:
        build(kernel)
    assert any("small-imm" in note for note in e.value.__notes__)


def test_names_of_other_chips_and_slips() -> None:
    def kernel(q: Any) -> None:
        q.add(q.r0, q.r0, 99)
        q.fad(q.r0, q.r0, q.r1)

    with pytest.raises(UnknownNameError) as caught:
        build(kernel)
    first, second = caught.value.diagnostics
    assert (first.rule, second.rule) == ("small-imm", "name")
    assert second.loc is not None and second.loc.file == __file__
    assert second.loc.line == kernel.__code__.co_firstlineno + 2
    assert "the builder of VideoCore IV has no 'fad'" in str(caught.value) and "did you mean fadd" in str(caught.value)
    assert not hasattr(Asm(), "eidx")
    with pytest.raises(UnknownNameError, match=r"the mul half of VideoCore IV has no 'fmull'(.|\n)*did you mean fmul"):
        build(lambda q: q.nop().fmull(q.r0, q.r0, q.r0))  # type: ignore[attr-defined] # wrong on purpose


def test_registers_cannot_be_replaced() -> None:
    q = Asm()
    with pytest.raises(AttributeError):
        q.r0 = q.r1  # type: ignore[misc]
    assert len(list(q.ra)) == 32
    assert repr(q.ra[3]) == "<ra3>"


def test_two_programs_at_once() -> None:
    results: dict[int, list[int]] = {}
    barrier = threading.Barrier(4)

    def kernel(q: Asm, seed: int) -> None:
        for n in range(500):
            q.add(q.ra[(seed + n) % 32], q.r0, n % 16)
            if n % 100 == 0:
                barrier.wait()

    def work(seed: int) -> None:
        results[seed] = list(build(kernel, seed).code)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for seed in range(4):
        assert [decode(w).waddr_add for w in results[seed]] == [(seed + n) % 32 for n in range(500)]  # type: ignore[union-attr]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_asm_vc4", ROOT / "tools" / "gen_asm_vc4.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gen_asm_vc4"] = module
    spec.loader.exec_module(module)
    return module


def test_generated_file_is_up_to_date() -> None:
    path = ROOT / "qpu" / "vc4" / "generated" / "ops.py"
    assert path.read_text() == _generator().source()
    assert path.read_text().startswith("# Generated by")


def test_importing_the_builder_loads_no_numpy() -> None:
    import subprocess

    code = "import sys, qpu.vc4.builder, qpu.vc4.hazards, qpu.vc4.printer; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_flags_of_a_constant_without_destination() -> None:
    """They are set in every lane, or in those of the condition."""

    def kernel(q: Asm) -> None:
        q.ldi(q.null, 1, push="z")
        q.ldi(q.null, 1, push="z", cond="ifn")
        q.ldi(q.null, 1)
        q.ldi(q.null, 1, dst2=q.r1, push="z")

    found = [decode(word) for word in build(kernel).code]
    assert [(i.cond_add, i.cond_mul, i.sf) for i in found if isinstance(i, LoadImm)] == [
        (1, 0, 1),
        (4, 0, 1),
        (0, 0, 0),
        (0, 1, 1),
    ]
