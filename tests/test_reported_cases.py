"""Situations that users reported against other libraries, each with the outcome that it must have here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.emu.port import EmuPort
from qpu.errors import DriverError, NoDeviceError, UsageError
from qpu.runtime.loops import where_stopped
from tests.hw.programs import long

MIB = 1 << 20


# -- nodes and names


def refused(board: str, device: str) -> str:
    with pytest.raises(NoDeviceError) as caught:
        qpu.open_device(device, port=EmuPort(board))
    return str(caught.value)


def test_a_node_that_is_not_there() -> None:
    text = refused("pi5", "/dev/dri/renderD129")
    assert "there is no such node [in /dev/dri are: card0, card1, renderD128; the v3d node is /dev/dri/renderD1" in text
    assert "help: name one of: ls /dev/dri; device 'hardware' finds the right one" in text


def test_a_render_node_on_a_pi_3() -> None:
    text = refused("pi3", "/dev/dri/renderD128")
    assert "starts no programs on VideoCore IV; use /dev/vcio, or device 'hardware'" in text
    assert "dtoverlay" not in text  # which would take V3D away from the firmware


@pytest.mark.parametrize(("card", "wrong"), [(0, 1), (1, 0)])
def test_the_card_of_the_display(card: int, wrong: int) -> None:
    assert "belongs to another driver (vc4, the display)" in refused(f"pi5,card={card}", f"/dev/dri/card{wrong}")
    with qpu.open_device(f"/dev/dri/card{card}", port=EmuPort(f"pi5,card={card}")) as gpu:
        assert gpu.info.node == f"/dev/dri/card{card}"


@pytest.mark.parametrize(
    ("name", "help"),
    [
        ("Pi5", "did you mean 'pi5'?"),
        ("cm5", "did you mean 'pi5'?"),
        ("raspberrypi4", "did you mean 'pi4'?"),
        ("zero", "did you mean 'pi0'?"),
        ("gpu0", "did you mean 'hardware'?"),
        ("cuda:0", "did you mean 'hardware'?"),
        ("atuo", "did you mean 'auto'?"),
        ("banana", "write one of these"),
        ("pi5,slice=3", "did you mean 'slices'?"),
    ],
)
def test_names_that_are_nearly_right(name: str, help: str) -> None:
    with pytest.raises(UsageError) as caught:
        qpu.open_device(name)
    assert f"help: {help}" in str(caught.value)


# -- memory


@pytest.mark.parametrize(
    ("board", "sizes", "error", "words"),
    [
        ("pi3,cma=16M,vcsm=cma", [20 * MIB], DriverError, "20971520 bytes asked for"),
        ("pi3,cma=16M,vcsm=cma", [MIB] * 20, DriverError, "1048576 bytes asked for"),
        ("pi3,gpu_mem=16M,vcsm=plain", [20 * MIB], DriverError, "20971520 bytes asked for"),
        ("pi3,vcsm=none", [300 * MIB], DriverError, "MiB in all"),
        ("pi0", [300 * MIB], DriverError, "314572800 bytes asked for"),
        ("pi4,mem=64M", [100 * MIB], DriverError, "104857600 bytes asked for"),
        ("pi5", [5000 * MIB], UsageError, "5242880000 bytes exceed the GPU's 4 GiB of addresses"),
        ("pi5", [1000 * MIB] * 5, DriverError, "have no free range of that size [1048576000 bytes asked for]"),
    ],
)
def test_buffers_that_do_not_fit(board: str, sizes: list[int], error: type[Exception], words: str) -> None:
    """The size is in the message, and the device goes on."""
    with qpu.open_device(board) as gpu:
        held = []
        with pytest.raises(error) as caught:
            for size in sizes:
                held.append(gpu.empty(size // 4, np.uint32))
        assert words in str(caught.value) and "help: " in str(caught.value)
        assert len(held) < len(sizes)
        for buffer in held:
            buffer.close()
        gpu.empty(1024).close()


def test_free_contiguous_memory_is_told() -> None:
    class Told(EmuPort):
        def read_bytes(self, path: str) -> bytes:
            if path == "/proc/meminfo":
                return b"CmaTotal:  262144 kB\nCmaFree:  1024 kB\n"
            return super().read_bytes(path)

    with qpu.open_device(port=Told("pi3,cma=16M,vcsm=cma")) as gpu, pytest.raises(DriverError) as caught:
        gpu.empty(20 * MIB)
    assert "CMA has 1048576 of 268435456 bytes free" in str(caught.value)


# -- data


@pytest.mark.parametrize(
    "data", ["abc", ["x"], np.array([b"ab"]), np.zeros(2, "M8[s]"), np.zeros(2, "m8[s]"), np.array([object()]), None]
)
def test_data_that_no_gpu_has(data: Any) -> None:
    with qpu.open_device("pi5") as gpu, pytest.raises(UsageError, match="dtype"):
        gpu.array(data)


@pytest.mark.parametrize("kind", [np.float16, np.bool_, np.uint8, np.int16, np.uint32, np.float32])
def test_data_of_the_gpu(kind: Any) -> None:
    with qpu.open_device("pi5") as gpu:
        data = np.arange(8).astype(kind)
        buffer = gpu.array(data)
        assert buffer.dtype == data.dtype and (buffer.numpy() == data).all()


@pytest.mark.parametrize("name", [["cycle-count"], None, 1, object()])
def test_counters_that_are_not_names(name: Any) -> None:
    with qpu.open_device("pi5") as gpu, pytest.raises(UsageError, match="names one by one"), gpu.counters(name):
        pass


# -- programs


@pytest.mark.parametrize(
    "name", ["rf", "ldunifrf", "eidx", "tidx", "tmua", "tmud", "tmuwt", "barrierid", "unifa", "smul24"]
)
def test_names_of_v3d_in_a_program_for_videocore_iv(name: str) -> None:
    def program(q: Any) -> None:
        getattr(q, name)

    with pytest.raises(qpu.AsmError, match=f"has no '{name}'(.|\n)*help: on VideoCore IV"):
        qpu.assemble(program, isa="vc4")


def test_a_signal_given_as_text() -> None:
    def program(q: Any) -> None:
        q.nop(sig="thrend")

    with pytest.raises(qpu.AsmError, match=r"'thrend' is not a signal(.|\n)*help: write sig=q\.thrend"):
        qpu.assemble(program, isa="vc4")


def test_a_method_given_as_register() -> None:
    def program(q: Any) -> None:
        q.mov(q.interrupt, 1)

    with pytest.raises(qpu.AsmError, match=r"the method q\.interrupt is not a destination"):
        qpu.assemble(program, isa="vc4")


@pytest.mark.parametrize("isa", list(Isa))
@pytest.mark.parametrize("part", ["nop; ", "(", ":a", '"', "1+"])
def test_a_line_of_a_megabyte(isa: Isa, part: str) -> None:
    with pytest.raises(qpu.AsmError, match=r"<text>:2:4001: error\[syntax\]: the line is too long") as caught:
        qpu.assemble("# " + "x" * (1 << 20) + "\n" + part * ((1 << 20) // len(part)), isa=isa)
    assert len(str(caught.value)) < 1000 and "help: split the line" in str(caught.value)


@pytest.mark.parametrize("check", [None, False])
def test_a_program_without_its_end(check: bool | None) -> None:
    """Refused before it runs; unchecked, the emulated board stops it and says what is missing."""

    def vc4(q: Any) -> None:
        q.mov(q.r0, 1)

    def no_slots(q: Any) -> None:
        q.interrupt()
        q.nop(sig=q.thrend)

    def v3d(q: Any) -> None:
        q.mov(q.rf[1], 1)

    def one_switch(q: Any) -> None:
        q.mov(q.rf[1], 1)
        q.nop(sig=q.thrsw)
        q.nop()
        q.nop()

    rules = {vc4: "H31", no_slots: "H31", v3d: "no-end-thrsw", one_switch: "no-end-thrsw"}
    for program, rule in rules.items():
        board = "pi3" if rule == "H31" else "pi5"
        with qpu.open_device(board) as gpu:
            if check is None and rule != "H31":
                with pytest.raises(qpu.HazardError, match=rule):
                    qpu.assemble(program, isa=gpu.isa)
                continue
            made = qpu.assemble(program, isa=gpu.isa, check=check)
            assert rule in {found.rule for found in made.check()}
            if program is no_slots:
                continue  # what follows in memory decides
            with pytest.raises(qpu.EmuFault, match="breakpoint" if program is vc4 else "decode"):
                gpu.run(made, [])


def test_accumulators_over_a_switch() -> None:
    text = "or r0, 5, 5\nsub.pushz -, r0, 5\nnop; nop; thrsw\nnop\nnop\nor.ifa rf1, r0, r0\n"
    end = "nop ; nop ; thrsw\n" * 2 + "nop\nnop\nnop ; nop ; thrsw\nnop\nnop\n"
    found = qpu.assemble(text + end, isa="v3d42").check()
    assert [(f.rule, f.index, f.other) for f in found] == [("acc-switch", 5, 2)]  # flags survive


def test_a_correct_program_of_two_seconds_on_a_pi_3() -> None:
    """The mailbox allows one second and says what to do; by register it runs to its end."""
    turns = 2 * 400_000_000 // 4 // 9
    port = EmuPort("pi3")
    with qpu.open_device(port=port) as gpu:
        with pytest.raises(qpu.GpuTimeoutError, match=r"over a second(.|\n)*by register \(device '/dev/mem', root\)"):
            gpu.run(long(gpu.isa), [turns])
        assert gpu.run(long(gpu.isa), [3]).done
    with qpu.open_device("/dev/mem", port=EmuPort("pi3")) as gpu:
        launch = gpu.run(long(gpu.isa), [turns])
        assert launch.stats is not None and launch.stats.clocks > 1.9 * 400_000_000


# -- uniforms that the host does not give


def ors(q: Any) -> None:
    """out[lane] = all uniforms or'ed; uniforms: out, how many, and that many."""
    if q.isa is Isa.VC4:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.r0, q.uniform)
        q.ldi(q.r1, 0)
        with q.loop() as again:
            q.or_(q.r1, q.r1, q.uniform)
            q.sub(q.r0, q.r0, 1, push="z")
            q.b(again.start, cond="anynz")
            q.nops(3)
        q.setup_vpm_write()
        q.mov(q.vpm, q.r1)
        q.setup_dma_store(nrows=1)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.end()
        return
    r = q.rf
    for n in (11, 12):
        q.nop(sig=q.ldunifrf(r[n]))
    q.eidx(r[10])
    q.shl(r[10], r[10], 2)
    q.add(r[11], r[11], r[10])
    q.sub(r[13], r[10], r[10])
    with q.loop() as again:
        q.nop(sig=q.ldunifrf(r[14]))
        q.or_(r[13], r[13], r[14])
        q.sub(r[12], r[12], 1, push="pushz")
        q.b(again.start, cond="anyna")
        for _ in range(3):
            q.nop()
    q.or_(q.tmud, r[13], r[13])
    q.or_(q.tmua, r[11], r[11])
    q.tmuwt(q.null)
    q.end()


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_uniforms_beyond_the_list(board: str) -> None:
    """The fault is at the line that takes the first one that was not given."""
    with qpu.open_device(board) as gpu:
        program, out = qpu.assemble(ors, isa=gpu.isa), gpu.zeros(16, np.uint32)
        with pytest.raises(qpu.EmuFault, match="uniform 4 of 3") as caught:
            gpu.run(program, [out, 10, 1])
        loc = caught.value.place.loc
        assert caught.value.rule == "uniforms-end"
        assert loc is not None and ("q.uniform" in loc.source or "ldunifrf" in loc.source)
        gpu.run(program, [out, 1, 5])
        assert (out.numpy() == 5).all()


# -- loops that never end

END = [
    "nop ; nop ; thrsw\n" * 2 + "nop\nnop\nnop ; nop ; thrsw\nnop\nnop\n",
    "mov interrupt, 1\nnop; thrend\nnop\nnop\n",
]
LOOPS = {  # the inner loop is the one that hangs; its first line and its branch
    "v3d": """eidx rf5 ; nop
outer: sub.pushz rf6, rf5, 0 ; nop
again: sub.pushz rf6, rf5, 0 ; nop
b.anyna again
nop
nop
nop
b outer
nop
nop
nop
nop ; nop ; thrsw
nop
nop
""",
    "vc4": """mov r0, 3
:outer
nop
:again
sub.setf r1, r0, 0
brr.anynz -, :again
nop
nop
nop
brr -, :outer
nop
nop
nop
nop; thrend
nop
nop
""",
}


@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_the_loop_that_never_ends_is_named(board: str, engine: str) -> None:
    if engine == "compiled":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")
    short = f"{board},watchdog=2" if board != "pi3" else board  # milliseconds: for the reference engine
    with qpu.open_device(short, engine=engine) as gpu:
        source = LOOPS["vc4" if board == "pi3" else "v3d"]
        program = qpu.assemble(source, isa=gpu.isa, filename="loop.txt")
        with pytest.raises((qpu.GpuResetError, qpu.GpuTimeoutError)) as caught:
            gpu.run(program, [])
        lines = source.splitlines()
        branch = next(n for n, line in enumerate(lines) if line.startswith(("b.anyna again", "brr.anynz -, :again")))
        text = str(caught.value)
        assert f"(loop.txt:{branch}: {lines[branch - 1]}) to " in text
        cond = "anynz" if board == "pi3" else "anyna"
        assert f"(loop.txt:{branch + 1}: {lines[branch]}); it repeats while {cond} holds, by the flags that " in text
        assert f"(loop.txt:{branch}: {lines[branch - 1]}) sets\n  help: " in text
        assert "in the loop of instructions" in text
        assert gpu.run(qpu.assemble(source.splitlines()[0] + "\n" + END[gpu.isa is Isa.VC4], isa=gpu.isa), []).done


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_where_no_loop_is_seen_the_instruction_is_named(board: str) -> None:
    """A loop over a register: its branch has no fixed target."""
    with qpu.open_device(board) as gpu:
        program = qpu.assemble(LOOPS["vc4" if board == "pi3" else "v3d"], isa=gpu.isa, filename="loop.txt")
    assert where_stopped(program, [0, 0]).startswith("2 threads, the first was stopped at instruction 0 (loop.txt:1")
    assert "loop of" not in where_stopped(program, [len(program) - 1])
    outer = where_stopped(program, [9])
    assert outer.endswith("; nothing ends it: its branch has no condition"), outer
    text = LOOPS["vc4" if board == "pi3" else "v3d"]
    flags = next(line for line in text.splitlines() if "setf" in line or line.startswith("again"))
    unset = qpu.assemble(text.replace(flags, ("again: " if ":" in flags else "") + "nop"), isa=program.isa)
    assert "but no instruction of the loop sets the flags" in where_stopped(unset, [4])
    assert where_stopped(program, [4]).count("loop.txt") == 4


# -- a store with fewer data words than its configuration


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("board", ["pi4", "pi5"])
def test_a_store_with_a_data_word_of_four(board: str, engine: str, strict: bool) -> None:
    """Hardware stored the words that are there, though hangs were noted (v3d.md 9.1): a warning in every mode."""
    if engine == "compiled":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[10]))
        q.eidx(r[11])
        q.shl(r[11], r[11], 4)
        q.add(r[10], r[10], r[11])
        q.nop(sig=q.wrtmuc)
        q.or_(q.tmud, r[11], r[11])
        q.or_(q.tmua, r[10], r[10])
        q.tmuwt(q.null)
        q.end()

    with qpu.open_device(board, engine=engine, strict=strict) as gpu:
        out = gpu.array(np.full(64, 7, np.uint32))
        with pytest.warns(qpu.EmuWarning, match="tmu-data: store takes 4 data words, 1 were written"):
            gpu.run(qpu.assemble(program, isa=gpu.isa), [out, 0xFFFFFFFC])
        want = np.full((16, 4), 7, np.uint32)
        want[:, 0] = 16 * np.arange(16)
        np.testing.assert_array_equal(out.numpy().reshape(16, 4), want)


@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("board", ["pi4", "pi5"])
def test_loads_outside_of_every_buffer(board: str, engine: str) -> None:
    """Strict: the first is the fault. Otherwise each reads as zeros, the run ends, and the statistics say so."""
    if engine == "compiled":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

    def program(q: Any) -> None:
        r = q.rf
        for n in (10, 14):
            q.nop(sig=q.ldunifrf(r[n]))
        q.eidx(r[11])
        q.shl(r[11], r[11], 2)
        q.add(r[10], r[10], r[11])
        q.add(r[14], r[14], r[11])
        q.or_(q.tmua, r[10], r[10])
        q.nop()
        q.nop(sig=q.ldtmu(r[13]))
        q.or_(q.tmud, r[13], r[13])
        q.or_(q.tmua, r[14], r[14])
        q.tmuwt(q.null)
        q.end()

    with qpu.open_device(board, engine=engine) as gpu:
        out = gpu.array(np.full(16, 7, np.uint32))
        with pytest.raises(qpu.EmuFault, match="load at 0xf0000000 is outside every buffer") as caught:
            gpu.run(qpu.assemble(program, isa=gpu.isa), [0xF0000000, out])
        assert caught.value.rule == "out-of-bounds"
    with qpu.open_device(board, engine=engine, strict=False) as gpu:
        out = gpu.array(np.full(16, 7, np.uint32))
        with pytest.warns(qpu.EmuWarning, match="out-of-bounds"):
            launch = gpu.run(qpu.assemble(program, isa=gpu.isa), [0xF0000000, out])
        assert launch.stats is not None and len(launch.stats.faults) == 1
        np.testing.assert_array_equal(out.numpy(), 0)
