"""The compiled engine of VideoCore IV against the reference engine: registers, memory, counts and findings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from generate_vc4 import generate

from qpu.emu.compiled_vc4 import Vc4CompiledMachine
from qpu.emu.memory import Memory
from qpu.emu.vc4 import Vc4ReferenceMachine
from qpu.errors import EmuFault
from qpu.vc4.asm import Asm, assemble

CODE, UNIFORMS, DATA = 0x100000, 0x200000, 0x300000
COUNTS = (
    "instructions",
    "add_ops",
    "mul_ops",
    "fadds",
    "fmuls",
    "sfu_ops",
    "branches",
    "thread_switches",
    "per_qpu",
    "threads",
    "clocks",
    "uniform_bytes",
    "tmu_read_bytes",
    "tmu_requests",
    "vpm_read_bytes",
    "vpm_write_bytes",
    "dma_read_bytes",
    "dma_write_bytes",
)
REGISTERS = ("a", "b", "acc", "z", "neg", "c", "uniform", "sfu_left")
MACHINES = {"reference": Vc4ReferenceMachine, "compiled": Vc4CompiledMachine}


@dataclass(frozen=True)
class Profile:
    name: str = "pi3"
    qpus: int = 12


@dataclass
class Outcome:
    """What a launch left behind."""

    registers: dict[str, np.ndarray]
    data: np.ndarray
    stats: Any
    fault: str


def place(source: Callable[..., None]) -> list[int]:
    """The words of a program."""
    return list(assemble(source).code)


def execute(
    make: Callable[..., Any], words: list[int], uniforms: list[list[int]], *, strict: bool = False, launches: int = 1
) -> Outcome:
    """Run a program on as many QPUs as there are uniform lists."""
    memory = Memory(1 << 24)
    try:
        memory.map(CODE, 1 << 16, "code")
        memory.map(UNIFORMS, 1 << 18, "uniforms")
        memory.map(DATA, 1 << 16, "data")
        memory.bytes[CODE : CODE + 8 * len(words)] = np.array(words, np.uint64).view(np.uint8)
        memory.words[DATA // 4 : DATA // 4 + 8192] = np.random.default_rng(7).integers(0, 2**32, 8192, np.uint32)
        entries = []
        for i, values in enumerate(uniforms):
            at = UNIFORMS + i * 0x5000
            memory.words[at // 4 : at // 4 + len(values)] = values
            entries.append((at, CODE))
        machine = make(Profile(), memory, strict=strict)
        fault = ""
        for _ in range(launches):
            execution = machine.launch(entries)
            try:
                assert execution.run()
            except EmuFault as error:
                fault = str(error)
        bank = execution._bank
        registers = {name: getattr(bank, name).copy() for name in REGISTERS}
        data = memory.words[DATA // 4 : DATA // 4 + 16384].copy()
        return Outcome(registers, data, execution.stats, fault)
    finally:
        memory.close()


def plain(fault: str) -> str:
    """A finding without the QPU and lane where it was seen first."""
    return re.sub(r"QPU \d+|, lane \d+", "", fault)


def same(words: list[int], uniforms: list[list[int]], *, strict: bool = False) -> tuple[Outcome, Outcome]:
    """Both engines' outcomes, compared."""
    want = execute(Vc4ReferenceMachine, words, uniforms, strict=strict)
    got = execute(Vc4CompiledMachine, words, uniforms, strict=strict)
    assert got.stats.engine == "compiled"
    assert got.fault == want.fault
    if not want.fault:
        for name in REGISTERS:
            different = np.argwhere(got.registers[name] != want.registers[name])
            assert not len(different), f"{name}{different[0].tolist()}"
        for name in COUNTS:
            assert getattr(got.stats, name) == getattr(want.stats, name), name
        if len(uniforms) == 1:
            assert got.stats.faults == want.stats.faults
        else:  # a group of QPUs that came there on different ways forgets what only some of them did
            assert {plain(f) for f in got.stats.faults} >= {plain(f) for f in want.stats.faults}
    assert np.array_equal(got.data, want.data)
    return want, got


def compare(seed: int, qpus: int = 3) -> float:
    """A generated program on both engines; returns the share of instructions executed natively."""
    program = generate(seed)
    uniforms = []
    for q in range(qpus):
        out = DATA + 0x8000 + 0x100 * q
        setup = 1 << 12 | 1 << 11 | 2 << 8 | 4 * q
        store = 2 << 30 | 2 << 23 | 16 << 16 | 1 << 14 | 4 * q << 7
        first = 17 * q % 97
        rest = program.uniforms[first:] + program.uniforms[:first]
        uniforms.append([DATA, DATA + 64 * q, out, setup, store, 3 << 30, *rest])
    _, got = same(program.words, uniforms)
    slow = sum(got.stats.fallbacks.values())
    return 1 - slow / got.stats.instructions


@pytest.mark.parametrize("seed", range(24))
def test_engines_agree(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    compare(seed)
    compare(seed, 1)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(100))
def test_engines_agree_for_long(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    for seed in range(1000 + 50 * part, 1050 + 50 * part):
        compare(seed)


def test_most_of_a_tame_program_runs_natively() -> None:
    assert min(compare(seed, 1) for seed in (1, 7)) > 0.5


def store(q: Asm, register: Any) -> None:
    """Store one vector at the next uniform."""
    q.setup_vpm_write(y=0)
    q.mov(q.vpm, register)
    q.setup_dma_store(nrows=1, ncols=16, y=0)
    q.setup_dma_store_stride(0)
    q.start_dma_store(q.uniform)
    q.wait_dma_store()
    q.exit()


def bits(*values: float) -> list[int]:
    return [int(np.float32(v).view(np.uint32)) for v in values]


def test_sums_are_truncated() -> None:
    def source(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, q.uniform)
        for _ in range(12):
            q.fadd(q.r0, q.r0, q.r1)
        store(q, q.r0)

    _, got = same(place(source), [[*bits(1.0, 0.75 * 2.0**-23), DATA]], strict=True)
    assert got.data[:16].tolist() == bits(1.0) * 16  # rounding to nearest would add one unit each time


INFINITY, NAN, TINY, ZERO = 0x7F800000, 0x7FC00001, 0x00000001, 0x80000000


@pytest.mark.parametrize("x", [INFINITY, INFINITY | ZERO, NAN, NAN | ZERO, TINY, ZERO, 0x00800000, 0x7F7FFFFF])
@pytest.mark.parametrize("y", [INFINITY, INFINITY | ZERO, NAN, NAN | ZERO, TINY, ZERO, 0x80800001, 0xFF7FFFFF])
def test_special_floats(x: int, y: int) -> None:
    def source(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, q.uniform)
        q.fadd(q.r2, q.r0, q.r1).fmul(q.r3, q.r0, q.r1)
        q.fsub(q.r0, q.r2, q.r3).fmul(q.r1, q.r2, q.r1)
        q.fadd(q.r2, q.r2, q.r1, sf=True).fmul(q.r3, q.r3, q.r0)
        q.fadd(q.r0, q.r3, q.r2)
        store(q, q.r0)

    same(place(source), [[x, y, DATA]], strict=True)


def test_loops_outlast_a_turn() -> None:
    def source(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, 0)
        again = q.label("again")
        q.add(q.r1, q.r1, 3)
        q.nops(4)
        q.sub(q.r0, q.r0, 1, sf=True)
        q.brr(again, cond="anynz")
        q.nops(3)
        store(q, q.r1)

    _, got = same(place(source), [[12_000, DATA], [9_000, DATA + 64]], strict=True)
    assert got.data[0] == 36_000
    assert sum(got.stats.fallbacks.values()) < 1000


FAULTS: dict[str, tuple[Callable[[Asm], None], list[int]]] = {}


def fault(*uniforms: int) -> Callable[[Callable[[Asm], None]], Callable[[Asm], None]]:
    def keep(source: Callable[[Asm], None]) -> Callable[[Asm], None]:
        FAULTS[source.__name__] = source, list(uniforms)
        return source

    return keep


def busy(q: Asm) -> None:
    for _ in range(12):
        q.add(q.r0, q.r0, q.r0)


@fault(0x900000)
def read_outside(q: Asm) -> None:
    busy(q)
    q.mov(q.r1, q.uniform)
    q.mov(q.tmu0_s, q.r1)
    q.nop(sig="ldtmu0")
    busy(q)
    q.exit()


@fault(0x900000)
def uniforms_outside(q: Asm) -> None:
    busy(q)
    q.mov(q.uniforms_address, q.uniform)
    q.nops(2)
    q.mov(q.r1, q.uniform)
    busy(q)
    q.exit()


@fault(DATA)
def nothing_requested(q: Asm) -> None:
    busy(q)
    q.mov(q.tmu0_s, q.uniform)
    q.nop(sig="ldtmu0")
    q.nop(sig="ldtmu0")
    busy(q)
    q.exit()


@fault(0x900000)
def stored_outside(q: Asm) -> None:
    busy(q)
    store(q, q.r0)


@fault(*[DATA] * 9)
def too_many_requests(q: Asm) -> None:
    busy(q)
    for _ in range(9):
        q.mov(q.tmu1_s, q.uniform)
    busy(q)
    q.exit()


@pytest.mark.parametrize("name", FAULTS)
def test_faults_read_the_same(name: str) -> None:
    source, uniforms = FAULTS[name]
    from qpu.vc4.asm import build

    want, _ = same(list(build(source).code), [uniforms], strict=True)
    assert want.fault


def test_a_rule_broken_is_reported() -> None:
    from qpu.vc4.asm import build

    def source(q: Asm) -> None:
        busy(q)
        q.mov(q.ra[3], q.r0)
        q.mov(q.r1, q.ra[3])
        busy(q)
        q.exit()

    want, _ = same(list(build(source).code), [[]], strict=True)
    assert "H1" in want.fault


@pytest.mark.parametrize("shape", [(64, 16, 32), (70, 33, 20), (1, 1, 1), (130, 50, 64)])
def test_sgemm(shape: tuple[int, int, int]) -> None:
    import qpu
    from qpu.kernels import sgemm

    m, n, k = shape
    random = np.random.default_rng(3)
    a, b, c = (random.uniform(-1, 1, s).astype(np.float32) for s in ((m, k), (k, n), (m, n)))
    results = []
    for engine in ("reference", "compiled"):
        with qpu.open_device("pi3", engine=engine) as gpu, sgemm.Sgemm(gpu, m, n, k) as job:
            job.load(a, b, c, 1.5, -0.5)
            job.launch()
            results.append((job.result().copy(), gpu.stats))
    (want, reference), (got, compiled) = results
    assert (reference.engine, compiled.engine) == ("reference", "compiled")
    assert np.array_equal(got.view(np.uint32), want.view(np.uint32))
    for name in COUNTS:
        assert getattr(compiled, name) == getattr(reference, name), name
