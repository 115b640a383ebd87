"""Tests of exactness on every host: the same bits on smaller vector units, restored float modes, no contraction."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from llvmlite import binding, ir

from qpu.core.isa import Isa
from qpu.emu.engine import host_cpu as host
from qpu.emu.engine.directed import Floats, fastest
from qpu.emu.engine.host_cpu import Host
from qpu.emu.engine.llvm_lanes import F32X16, FloatMode, LlvmLanes
from qpu.emu.engine.native import build
from qpu.emu.v3d.translate import translate
from qpu.emu.v3d.translate_state import Node
from qpu.emu.vc4 import compiled_programs as vc4_programs
from qpu.emu.vc4.translate import translate as translate_vc4
from qpu.emu.vc4.translate_graph import Graph
from qpu.emu.vc4.translate_graph import Node as Vc4Node
from qpu.errors import UsageError
from tests.emu import test_engines_v3d as test_engines_v3d
from tests.emu import test_engines_vc4 as test_engines_vc4
from tests.emu import test_native_vpm_vc4 as test_native_vpm_vc4
from tests.emu.generate_v3d import generate
from tests.emu.hosts import use_vectors

x86 = pytest.mark.skipif(not host.is_x86(), reason="for x86-64 hosts")
FLUSH, TOWARD_ZERO, NORMAL = 0x8040, 0x6000, 0x1F80  # of MXCSR


@pytest.fixture(params=["avx2", "sse2"])
def lesser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """This host, but with less than it has."""
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    monkeypatch.setattr(vc4_programs, "_PROGRAMS", [])
    use_vectors(request.param, monkeypatch)
    return str(request.param)


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_v3d_programs_on_lesser_hosts(isa: Isa, lesser: str) -> None:
    assert not host.host().avx512
    for seed in (2, 5, 9, 24):
        test_engines_v3d.bench(isa).compare(seed)


def test_vc4_programs_on_lesser_hosts(lesser: str) -> None:
    for seed in range(4):
        test_engines_vc4.bench().compare(seed)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_programs_on_lesser_hosts_for_long(part: int, lesser: str) -> None:
    for seed in range(3000 + 30 * part, 3030 + 30 * part):
        for isa in (Isa.V3D42, Isa.V3D71):
            test_engines_v3d.bench(isa).compare(seed)
        test_engines_vc4.bench().compare(seed)


def test_limits_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_EMU_VECTORS", "mmx")
    with pytest.raises(UsageError, match=r"mmx.*allowed: auto, avx512, avx2, sse2"):
        host.host()


# -- float modes


def control(name: str) -> Any:
    """A function that reads or writes this thread's MXCSR through a pointer."""

    def make() -> tuple[str, dict[str, Any]]:
        module = ir.Module("mode")
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()]), "run")
        b = ir.IRBuilder(function.append_basic_block())
        LlvmLanes(b).intrinsic(f"llvm.x86.sse.{name}", ir.VoidType(), [function.args[0]])
        b.ret_void()
        return str(module), {}

    code = build(name.encode(), make)
    call = code.function(None, ctypes.c_void_p)
    call.code = code
    return call


@pytest.fixture
def mxcsr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """(read, write) of the control register; normal again afterwards."""
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    load, save = control("ldmxcsr"), control("stmxcsr")
    word = ctypes.c_uint32()

    def read() -> int:
        save(ctypes.addressof(word))
        return word.value & ~0x3F  # without the sticky exception flags

    def write(value: int) -> None:
        word.value = value
        load(ctypes.addressof(word))

    before = read()
    yield read, write
    write(before)


@x86
@pytest.mark.parametrize("family", ["v3d42", "v3d71", "vc4"])
def test_float_modes_are_set_and_restored(family: str, mxcsr: Any) -> None:
    """A host program that flushes denormals and rounds toward zero changes no result, and finds its mode again."""
    read, write = mxcsr
    strange = NORMAL | FLUSH | TOWARD_ZERO
    if family == "vc4":
        bench: Any = test_engines_vc4.bench()
        run, seeds = (lambda m, seed: bench.run(m, test_engines_vc4.generate(seed), seed, 3).data), (0, 3, 4)
    else:
        bench = test_engines_v3d.bench(Isa(family))
        image = test_engines_v3d.IMAGES[1]
        run, seeds = (lambda m, seed: bench.run(m, generate(Isa(family), seed), image)[0]), (5, 9, 24)
    machine = bench.machines[1]
    machine.workers = 1  # modes belong to host threads; this is the one
    for seed in seeds:
        want = run(machine, seed)
        write(strange)
        try:
            got = run(machine, seed)
            found = read()
        finally:
            write(NORMAL)
        assert found == strange
        np.testing.assert_array_equal(got, want)


@x86
def test_a_mode_shows_without_care(mxcsr: Any) -> None:
    """The test above could fail: without `FloatMode` the same sum comes out differently."""
    _, write = mxcsr
    results = []
    for careful in (False, True):

        def make(careful: bool = careful) -> tuple[str, dict[str, Any]]:
            module = ir.Module("sum")
            function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()]), "run")
            b = ir.IRBuilder(function.append_basic_block())
            lanes = LlvmLanes(b)
            mode = FloatMode(lanes) if careful else None
            x = b.load(function.args[0], typ=F32X16)
            x.align = 4
            b.store(b.fmul(x, ir.Constant(F32X16, [0.5] * 16)), function.args[0]).align = 4
            if mode is not None:
                mode.restore()
            b.ret_void()
            return str(module), {}

        code = build(b"sum%d" % careful, make)
        call = code.function(None, ctypes.c_void_p)
        data = np.full(16, 1.2e-38, np.float32)
        write(NORMAL | FLUSH)
        call(data.ctypes.data)
        write(NORMAL)
        results.append(float(data[0]))
    assert results[0] == 0.0
    assert results[1] == float(np.float32(1.2e-38) * np.float32(0.5))


# -- no contraction, other processors


def sums_of_products() -> list[int]:
    import qpu

    def program(q: Any) -> None:
        for n in range(10, 20):
            q.nop().fmul(q.rf[20], q.rf[n], q.rf[n])
            q.fadd(q.rf[21], q.rf[21], q.rf[20])
        q.end()

    return list(qpu.assemble(program, isa=Isa.V3D71).code)


def emit(processor: Host, triple: str) -> str:
    """Assembly of a program full of products that are added."""
    words = sums_of_products()
    made = translate(
        Isa.V3D71,
        lambda i: words[i] if 0 <= i < len(words) else None,
        [Node(0)],
        single_segment=False,
        strict=True,
        registers=64,
        avx512=processor.avx512,
    )
    for flag in ("fast", "contract", "reassoc", "afn", "nsz"):
        assert f" {flag} <" not in str(made.module)
    return assembly(made.module, processor, triple)


def assembly(ir_module: Any, processor: Host, triple: str) -> str:
    """Assembly of a translation, at the full level."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(triple).create_target_machine(
        cpu=processor.cpu, features=processor.features, opt=2
    )
    module = binding.parse_assembly(str(ir_module))
    module.verify()
    module.triple = triple
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    return str(machine.emit_assembly(module))


@x86
@pytest.mark.parametrize("cpu", ["x86-64-v3", "znver4"])
def test_products_and_sums_stay_apart(cpu: str) -> None:
    text = emit(Host(cpu, "", cpu == "znver4", False), "x86_64-unknown-linux-gnu")
    assert "vmulps" in text
    assert "vaddps" in text
    assert "vfmadd" not in text


def test_code_for_neon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code for 64-bit Arm comes out, in vectors of its own and without library calls. It is not executed here."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    try:
        text = emit(Host("cortex-a76", "", False, False), "aarch64-unknown-linux-gnu")
    except RuntimeError as error:
        pytest.skip(f"this LLVM has no Arm target: {error}")
    assert "fmul\tv" in text.replace(" ", "\t")
    assert "fmla" not in text
    assert "fpcr" in text.lower()


def vc4_code(processor: Host, triple: str, floats: Floats) -> str:
    """Assembly of a VideoCore IV loop of sums, products, conversions and special functions."""

    def source(q: Any) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r3, q.uniform)
        with q.loop() as again:
            q.fadd(q.r1, q.r0, q.r1).fmul(q.r2, q.r0, q.r1)
            q.fsub(q.ra[1], q.r2, q.r1)
            q.itof(q.r1, q.r3)
            q.mov(q.recip, q.r1)
            q.nops(2)
            q.fadd(q.r0, q.r0, q.r4)
            q.sub(q.r3, q.r3, 1, push="z")
            q.b(again.start, cond="anynz")
            q.nops(3)
        q.end()

    graph = Graph(test_engines_vc4.place(source))
    start = Vc4Node(0)
    graph.explore([start])
    graph.mark()
    return assembly(translate_vc4(graph, [start], floats=floats, avx512=processor.avx512).module, processor, triple)


@x86
@pytest.mark.parametrize("floats", [Floats.DIRECTED, Floats.EXACT])
def test_vc4_code_for_neon(floats: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code for 64-bit Arm comes out; it is not executed here. Its mode and its flags are set and read."""
    processor = Host("cortex-a76", "", False, False, True)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert fastest(processor) is Floats.DIRECTED
    try:
        text = vc4_code(processor, "aarch64-unknown-linux-gnu", floats).lower().replace(" ", "\t")
    except RuntimeError as error:
        pytest.skip(f"this LLVM has no Arm target: {error}")
    run = text.partition("\nrun:")[2].partition("\n.lfunc_end")[0]
    assert "fadd\tv" in text
    assert re.search(r"msr\s+fpcr", run)
    assert run.count("fmla\tv") == (8 if floats is Floats.DIRECTED else 0)  # error and correction, four lanes at a time
    assert bool(re.search(r"mrs\s+\w+,\s+fpsr", run)) == (floats is Floats.DIRECTED)


@x86
def test_vpm_code_for_neon(monkeypatch: pytest.MonkeyPatch) -> None:
    """VPM accesses and DMA come out for 64-bit Arm: only the end of the program is left, and no library is called."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    graph = Graph(test_engines_vc4.place(lambda q: test_native_vpm_vc4.loop(q, 5, 2, poll=True)))
    start = Vc4Node(0)
    graph.explore([start])
    graph.mark()
    assert set(graph.reasons.values()) == {"host interrupt", "program end"}
    module = translate_vc4(graph, [start], floats=Floats.DIRECTED, avx512=False).module
    try:
        text = assembly(module, Host("cortex-a76", "", False, False, True), "aarch64-unknown-linux-gnu")
    except RuntimeError as error:
        pytest.skip(f"this LLVM has no Arm target: {error}")
    made = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    called = set(re.findall(r"\bblr?\s+(\S+)", text))
    assert {"get_vector", "put_vector", "load_False", "store_False"} <= called <= made
    for name in ("get_vector", "put_vector"):
        body = text.partition(f"\n{name}:")[2].partition("\n.Lfunc_end")[0]
        assert re.search(r"\b[qv]\d+\b", body), name  # in vector registers


@x86
def test_vc4_code_for_avx2() -> None:
    processor = Host("x86-64-v3", "", False, False, True)
    text = vc4_code(processor, "x86_64-unknown-linux-gnu", Floats.DIRECTED)
    run = text.partition("\nrun:")[2].partition("\n.Lfunc_end")[0]
    checked = 0
    for block in re.split(r"\n\.LBB\w+:", run):
        before, read, after = block.partition("vstmxcsr")
        if read and re.search("v(add|sub|mul)ps", before):
            checked += 1
            assert not re.search("v(add|sub|mul|fm)", after)
    assert checked  # the flags are read behind all sums and products
    assert "vcvtdq2ps" in run  # toward zero by itself
    assert "vdiv" not in run  # behind the gate
