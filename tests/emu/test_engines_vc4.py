"""Tests of the compiled engine of VideoCore IV against the reference engine: registers, memory, counts and findings."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from qpu.emu.engine.memory import Memory
from qpu.emu.vc4 import compiled_programs as vc4_programs
from qpu.emu.vc4.compiled import Vc4CompiledMachine
from qpu.emu.vc4.reference import Vc4ReferenceMachine
from qpu.errors import EmuFault
from qpu.vc4.builder import Asm, assemble
from tests.emu.forms_vc4 import catalogue
from tests.emu.generate_vc4 import CODE, DATA, SIDE, SIDE_WORDS, UNIFORMS, Program, form_names, generate
from tests.emu.hosts import lacks, use_vectors
from tests.emu.seeds import steadily

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
QUICK = 20  # programs in the normal tests
PARTS, SHARE = 100, 50  # of the soak: parts of as many programs
LESSER = [vectors for vectors in ("avx2", "sse2") if not lacks(vectors)] or ["auto"]
EVERYWHERE = ["auto", *(name for name in LESSER if name != "auto")]
MACHINES = {"reference": Vc4ReferenceMachine, "compiled": Vc4CompiledMachine}


@dataclass(frozen=True)
class Profile:
    name: str = "pi3"
    qpus: int = 12


@dataclass
class Outcome:
    """State after a launch."""

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
    agree(want, got, len(uniforms))
    return want, got


class Bench:
    """Both machines over one memory, for many programs."""

    def __init__(self) -> None:
        self.memory = memory = Memory(1 << 24)
        memory.map(CODE, 1 << 12, "code")
        memory.map(UNIFORMS, 1 << 16, "uniforms")
        memory.map(SIDE, 4 * SIDE_WORDS, "side")
        memory.map(DATA, 1 << 16, "data")
        self.machines = [made(Profile(), memory, strict=False) for made in MACHINES.values()]
        random = np.random.default_rng(7)
        self.image = random.integers(0, 2**32, 1 << 14, np.uint32)
        self.vpm = random.integers(0, 2**32, 1024, np.uint32)
        # Registers at the start: raw bits, numbers near 1, small integers; or, for tame programs, ordinary floats.
        raw = random.integers(0, 2**32, (4, 70 * 12 * 16), np.uint32)
        near = (raw & np.uint32(0x807FFFFF)) | random.integers(110, 134, raw.shape, np.uint32) << np.uint32(23)
        pick = random.integers(0, 4, raw.shape)
        self.wild = np.where(pick == 0, raw & np.uint32(31), np.where(pick == 1, near, raw)).reshape(4, 70, 12, 16)
        self.tame = near.reshape(4, 70, 12, 16)

    def run(self, machine: Any, program: Program, seed: int, qpus: int) -> Outcome:
        memory, p = self.memory, program
        words = np.array(p.words, np.uint64)
        memory.bytes[CODE : CODE + (1 << 12)] = 0
        memory.bytes[CODE : CODE + 8 * len(words)] = words.view(np.uint8)
        memory.words[SIDE // 4 : SIDE // 4 + SIDE_WORDS] = p.side
        memory.words[DATA // 4 : DATA // 4 + (1 << 14)] = self.image
        entries = []
        for q in range(qpus):
            at = UNIFORMS + 0x1000 * q
            first = 17 * q % 97
            memory.words[at // 4 : at // 4 + len(p.uniforms)] = p.uniforms[first:] + p.uniforms[:first]
            entries.append((at, CODE))
        machine.reset()
        machine.vpm.words[:] = self.vpm
        execution = machine.launch(entries)
        bank = execution._bank
        values = (self.tame if p.tame else self.wild)[seed % 4]
        bank.a[:26], bank.b[:28], bank.acc[...] = values[:26], values[32:60], values[64:]
        bank.b[31] = values[63]
        for q in range(qpus):
            bank.a[28, q] = 1 << 12 | 1 << 11 | 2 << 8 | 4 * q  # VPM write: rows from 4 q on
            bank.a[29, q] = DATA + 0x8000 + 0x400 * q
            bank.a[30, q] = DATA + 4 * np.arange(16, dtype=np.uint32)
            bank.b[28, q] = 2 << 30 | 2 << 23 | 16 << 16 | 1 << 14 | 4 * q << 7
            bank.b[29, q] = 3 << 30
            bank.b[30, q] = DATA + 64 * q + 4 * (np.arange(16, dtype=np.uint32) * 37 % 512)
        fault = ""
        try:
            assert execution.run()
        except EmuFault as error:
            fault = str(error)
        registers = {name: getattr(bank, name).copy() for name in REGISTERS}
        registers["vpm"] = machine.vpm.words.copy()
        registers["semaphores"] = np.array(machine.semaphores)
        registers["interrupts"] = np.array(execution.host_interrupts)
        return Outcome(registers, memory.words[DATA // 4 : DATA // 4 + (1 << 14)].copy(), execution.stats, fault)

    def compare(self, seed: int, qpus: int = 3, *, small: bool = False) -> float:
        """A generated program on both engines; returns the part of the instructions executed natively.

        Every other one as on hosts with less than this one has.
        """
        program = generate(seed, small=small)
        assert len(program.words) < 512
        if program.alone:
            qpus = 1
        vectors = os.environ.get("QPU_EMU_VECTORS", "auto") if seed % 2 else LESSER[seed // 2 % len(LESSER)]
        with patch.dict(os.environ, QPU_EMU_VECTORS=vectors):
            want, got = (self.run(m, program, seed, qpus) for m in self.machines)
        agree(want, got, qpus, f"seed {seed}: ")
        return 1 - sum(got.stats.fallbacks.values()) / got.stats.instructions


def agree(want: Outcome, got: Outcome, qpus: int, what: str = "") -> None:
    """Raises AssertionError where two outcomes differ."""
    assert got.stats.engine == "compiled"
    assert got.fault == want.fault, what
    if not want.fault:
        for name in want.registers:
            different = np.argwhere(got.registers[name] != want.registers[name])
            assert not len(different), f"{what}{name}{different[0].tolist()}"
        for name in COUNTS:
            assert getattr(got.stats, name) == getattr(want.stats, name), what + name
        if qpus == 1:
            assert got.stats.faults == want.stats.faults, what
        else:  # a group of QPUs that came there on different ways forgets what only some of them did
            assert {plain(f) for f in got.stats.faults} >= {plain(f) for f in want.stats.faults}, what
    assert np.array_equal(got.data, want.data), what


_BENCHES: list[Bench] = []


def bench() -> Bench:
    """The bench; kept, so that programs cost little."""
    if not _BENCHES:
        _BENCHES.append(Bench())
    return _BENCHES[0]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")


@pytest.mark.parametrize("part", range(4))
def test_engines_agree(part: int) -> None:
    for seed in steadily(range(part, QUICK, 4)):
        bench().compare(seed)


@given(seed=st.integers(10**6, 10**12))
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_engines_agree_anywhere(seed: int) -> None:
    bench().compare(seed)


@pytest.mark.parametrize("cond", ["always", "ifz"])
def test_computed_branch_to_an_early_read(cond: Any) -> None:
    """Found by a generated program: the write of the last delay slot was lost at the target of the branch."""
    from qpu.vc4.decode import decode

    def source(q: Asm) -> None:
        busy(q)
        q.mov(q.rb[10], q.uniform)
        q.mov(q.ra[26], q.uniform)
        q.mov(q.null, q.element_number, push="z")
        q.nop()
        q.b(q.ra[26])
        q.nops(2)
        q.mov(q.rb[10], q.element_number, cond=cond)
        busy(q)
        q.mov(q.ra[21], q.rb[10])
        busy(q)
        q.end()

    words = place(source)
    target = next(i for i, w in enumerate(words) if getattr(decode(w), "waddr_add", 0) == 21)
    want, _ = same(words, [[7, CODE + 8 * target]])
    assert any("H1" in f for f in want.stats.faults)


def test_noswap_after_native_requests() -> None:
    """Found by a generated program: a request made and collected natively was lost."""

    def source(q: Asm) -> None:
        busy(q)
        q.mov(q.t0s, q.uniform)
        busy(q)
        q.nop(sig=q.ldtmu0)
        busy(q)
        q.mov(q.tmu_noswap, 1)
        busy(q)
        q.end()

    want, _ = same(place(source), [[DATA]])
    assert any("tmu_noswap" in f for f in want.stats.faults)


def test_generated_programs_show_every_form() -> None:
    found: set[Any] = set()
    for seed in range(180):
        found |= form_names(generate(seed))
    missing = [form for forms in catalogue() for form in forms if form not in found]
    assert not missing, missing[:20]


@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
def test_engines_agree_for_long(part: int) -> None:
    for seed in steadily(range(1000 + SHARE * part, 1000 + SHARE * (part + 1))):
        bench().compare(seed, small=seed % 4 > 0)


def test_most_of_a_tame_program_runs_natively() -> None:
    assert min(bench().compare(seed, 1) for seed in range(4, 40, 6)) > 0.3
    assert max(bench().compare(seed, 1) for seed in range(4, 40, 6)) > 0.9


def store(q: Asm, register: Any) -> None:
    """Store one vector at the next uniform."""
    q.setup_vpm_write(y=0)
    q.mov(q.vpm, register)
    q.setup_dma_store(nrows=1, ncols=16, y=0)
    q.setup_dma_store_stride(0)
    q.start_dma_store(q.uniform)
    q.wait_dma_store()
    q.end()


def bits(*values: float) -> list[int]:
    return [int(np.float32(v).view(np.uint32)) for v in values]


@pytest.fixture(params=EVERYWHERE)
def everywhere(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """This host, and with less than it has. Programs that several cases have in common are translated once."""
    monkeypatch.setenv("QPU_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "translations"))
    monkeypatch.setattr(vc4_programs, "_PROGRAMS", [])
    use_vectors(request.param, monkeypatch)


@pytest.mark.usefixtures("everywhere")
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


SPECIAL = list(
    itertools.product(
        [INFINITY, INFINITY | ZERO, NAN, NAN | ZERO, TINY, ZERO, 0x00800000, 0x7F7FFFFF],
        [INFINITY, INFINITY | ZERO, NAN, NAN | ZERO, TINY, ZERO, 0x80800001, 0xFF7FFFFF],
    )
)


@pytest.mark.parametrize(  # each pair on one kind of host, each number on all
    ("x", "y", "everywhere"),
    [(*pair, EVERYWHERE[(i + i // 8) % len(EVERYWHERE)]) for i, pair in enumerate(SPECIAL)],
    indirect=["everywhere"],
)
@pytest.mark.usefixtures("everywhere")
def test_special_floats(x: int, y: int) -> None:
    def source(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, q.uniform)
        q.fadd(q.r2, q.r0, q.r1).fmul(q.r3, q.r0, q.r1)
        q.fsub(q.r0, q.r2, q.r3).fmul(q.r1, q.r2, q.r1)
        q.fadd(q.r2, q.r2, q.r1, push="z").fmul(q.r3, q.r3, q.r0)
        q.fadd(q.r0, q.r3, q.r2)
        store(q, q.r0)

    same(place(source), [[x, y, DATA]], strict=True)


MINUS, SMALL, SMALLER = bits(-1.0, 2.0**-100, 2.0**-30)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(
    ("x", "y", "cond"),
    [
        (MINUS, 0, "ifnz"),
        (SMALL, SMALLER, "always"),
        (MINUS, 5, "always"),
        (SMALL, MINUS, "ifnz"),
        (NAN, MINUS, "always"),
    ],
)
def test_sums_and_products_of_the_turn_before(x: int, y: int, cond: Any) -> None:
    """Registers hold integers in one turn of a loop and products of the host in the next; every use sees the bits that
    VideoCore IV would have."""

    def source(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, q.uniform)
        q.mov(q.r3, q.uniform)
        q.ldi(q.ra[1], 3)  # integers: denormal as floats
        q.ldi(q.ra[2], 0x80000000)
        q.ldi(q.ra[4], 7)
        q.ldi(q.rb[6], 1)
        q.mov(q.rb[5], 0)
        q.nop()
        with q.loop() as again:
            q.add(q.rb[5], q.rb[5], q.ra[1])
            q.nop()
            q.xor(q.ra[7], q.rb[5], q.ra[2])
            q.nop()
            q.mov(q.rb[3], q.ra[4])
            q.mov(q.null, q.element_number, push="z")
            q.fmul(q.ra[1], q.r0, q.r1, cond=cond)
            q.nop()
            q.fsub(q.ra[2], q.r1, q.r0, cond=cond)
            q.nop()
            q.mov(q.ra[4], q.rb[6])
            q.mov(q.r2, q.ra[1])
            q.fadd(q.rb[6], q.r2, q.ra[2])
            q.sub(q.r3, q.r3, 1, push="z")
            q.b(again.start, cond="anynz")
            q.nops(3)
        store(q, q.ra[7])

    for turns in (1, 2, 300):
        want, _ = same(place(source), [[x, y, turns, DATA]])
        assert not want.fault


def test_loops_outlast_a_turn() -> None:
    def source(q: Asm) -> None:
        q.mov(q.r0, q.uniform)
        q.mov(q.r1, 0)
        again = q.label("again")
        q.add(q.r1, q.r1, 3)
        q.nops(4)
        q.sub(q.r0, q.r0, 1, push="z")
        q.b(again, cond="anynz")
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
    q.nop(sig=q.ldtmu0)
    busy(q)
    q.end()


@fault(0x900000)
def uniforms_outside(q: Asm) -> None:
    busy(q)
    q.mov(q.uniforms_address, q.uniform)
    q.nops(2)
    q.mov(q.r1, q.uniform)
    busy(q)
    q.end()


@fault(DATA)
def nothing_requested(q: Asm) -> None:
    busy(q)
    q.mov(q.tmu0_s, q.uniform)
    q.nop(sig=q.ldtmu0)
    q.nop(sig=q.ldtmu0)
    busy(q)
    q.end()


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
    q.end()


@pytest.mark.parametrize("name", FAULTS)
def test_faults_read_the_same(name: str) -> None:
    source, uniforms = FAULTS[name]
    from qpu.vc4.builder import build

    want, _ = same(list(build(source).code), [uniforms], strict=True)
    assert want.fault


def test_a_rule_broken_is_reported() -> None:
    from qpu.vc4.builder import build

    def source(q: Asm) -> None:
        busy(q)
        q.mov(q.ra[3], q.r0)
        q.mov(q.r1, q.ra[3])
        busy(q)
        q.end()

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
