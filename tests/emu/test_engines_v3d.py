"""Tests of the compiled engine against the reference engine on generated programs: memory bits, NaN as a class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from qpu.core.isa import Isa
from qpu.emu.boards import parse_board
from qpu.emu.engine.memory import Memory
from qpu.emu.v3d.compiled import V3dCompiledMachine
from qpu.emu.v3d.reference import V3dReferenceMachine
from tests.emu.forms_v3d import catalogue
from tests.emu.generate_v3d import CODE, DATA, UNIFORMS, Program, form_names, generate
from tests.emu.seeds import steadily

BOARDS = {Isa.V3D42: "pi4", Isa.V3D71: "pi5"}
DATA_BYTES, UNIFORM_BYTES = 64 * 2048 + 4096, 1 << 14
COUNTS = (
    "instructions",
    "add_ops",
    "mul_ops",
    "fadds",
    "fmuls",
    "sfu_ops",
    "branches",
    "thread_switches",
    "threads",
    "per_qpu",
    "uniform_bytes",
    "tmu_requests",
    "tmu_read_bytes",
    "tmu_write_bytes",
)
QUICK = 20  # programs of each ISA in the normal tests
PARTS, SHARE = 100, 50  # of the soak: parts of as many programs


def images() -> list[np.ndarray]:
    """Contents of the data buffer: raw bits, small integers, and floats and halves of all kinds."""
    random = np.random.default_rng(11)
    words = DATA_BYTES // 4
    special = np.array(
        [0, 1 << 31, 1, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x3F800000, 0xBF800000, 0x7F7FFFFF, 0x00800000,
         0x7C00FC00, 0x7E000001, 0x3C008000, 0xFFFFFFFF, 0x80000000, 0x4F000000, 0xCF000001, 0x7BFF0400, 0x3EFFFFFF],
        np.uint32,
    )  # fmt: skip
    made = []
    for _ in range(4):
        raw = random.integers(0, 2**32, words, np.uint32)
        near = (raw & np.uint32(0x807FFFFF)) | random.integers(118, 136, words, np.uint32) << np.uint32(23)
        halves = raw & np.uint32(0x83FF83FF) | np.uint32(0x38003C00)
        kinds = [raw, near, near, halves, raw & np.uint32(31), random.choice(special, words)]
        made.append(np.choose(random.integers(0, len(kinds), words), kinds).astype(np.uint32))
    return made


IMAGES = images()


class Bench:
    """Both machines of a board over one memory, for many programs."""

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self.memory = memory = Memory(1 << 26)
        memory.map(CODE, 1 << 13, "code")
        memory.map(UNIFORMS, UNIFORM_BYTES, "uniforms")
        memory.map(DATA, DATA_BYTES, "data")
        self.side = np.random.default_rng(5).integers(0, 2**32, UNIFORM_BYTES // 4, np.uint32)
        board = parse_board(BOARDS[isa])
        self.machines = [made(board, memory, strict=True) for made in (V3dReferenceMachine, V3dCompiledMachine)]

    def run(self, machine: Any, program: Program, image: np.ndarray) -> tuple[np.ndarray, Any]:
        memory, p = self.memory, program
        code = np.array(p.words, np.uint64).view(np.uint8)
        memory.bytes[CODE : CODE + (1 << 13)] = 0
        memory.bytes[CODE : CODE + code.size] = code
        memory.words[UNIFORMS // 4 : (UNIFORMS + UNIFORM_BYTES) // 4] = self.side
        memory.words[UNIFORMS // 4 : UNIFORMS // 4 + len(p.uniforms)] = p.uniforms
        memory.words[DATA // 4 : (DATA + DATA_BYTES) // 4] = image
        exact = machine.profile.exact_batches
        groups = -(-16 * p.batches // p.size)
        cfg = [groups << 16, 1 << 16, 1 << 16]
        cfg.append(p.size & 0xFF | 1 << 8 | p.batches - 1 << 12)
        cfg.append(p.batches if exact else p.batches - 1)
        cfg += [CODE | (p.threads == 4) | p.single << 1 | 4, UNIFORMS]
        execution = machine.dispatch(cfg)
        assert execution.run()
        return memory.words[DATA // 4 : (DATA + DATA_BYTES) // 4].copy(), execution.stats

    def compare(self, seed: int, *, small: bool = False) -> None:
        """A generated program on both engines: memory bit for bit, NaN as a class; counts."""
        program = generate(self.isa, seed, small=small)
        assert len(program.words) <= 1 << 10
        image = IMAGES[seed % len(IMAGES)]
        (want, reference), (got, compiled) = (self.run(m, program, image) for m in self.machines)
        assert compiled.engine == "compiled", compiled.fallbacks
        want, got = canonical(want, program), canonical(got, program)
        different = np.flatnonzero(got != want)
        where = [(int(i) // 512, int(i) % 512 - 256) for i in different[:4]]
        assert not len(different), f"{self.isa} seed {seed}: (thread, word of the results) {where}"
        for name in COUNTS:
            assert getattr(compiled, name) == getattr(reference, name), f"{self.isa} seed {seed}: {name}"


def canonical(words: np.ndarray, program: Program) -> np.ndarray:
    """NaNs of float and half registers replaced by one pattern."""
    # Results of a thread: requests of four components for 16 lanes.
    areas = words[: 64 * 512].reshape(64, 2, 4, 16, 4)
    for k, kind in enumerate(program.classes):
        row = areas[:, 1, k // 4, :, k % 4]
        if kind == "float":
            row[row & np.uint32(0x7FFFFFFF) > 0x7F800000] = 0x7FC00000
        elif kind == "half":
            for shift in (0, 16):
                half = row >> np.uint32(shift) & np.uint32(0x7FFF)
                nan = half > 0x7C00
                row[nan] = row[nan] & np.uint32(0xFFFF << (16 - shift)) | np.uint32(0x7E00 << shift)
    return words


_BENCHES: dict[Isa, Bench] = {}


def bench(isa: Isa) -> Bench:
    """The bench of a board; kept, so that programs cost little."""
    if isa not in _BENCHES:
        _BENCHES[isa] = Bench(isa)
    return _BENCHES[isa]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")


@pytest.mark.parametrize("isa", list(BOARDS))
@pytest.mark.parametrize("part", range(4))
def test_engines_agree(isa: Isa, part: int) -> None:
    for seed in steadily(range(part, QUICK, 4)):
        bench(isa).compare(seed)


@given(isa=st.sampled_from(list(BOARDS)), seed=st.integers(10**6, 10**12))
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_engines_agree_anywhere(isa: Isa, seed: int) -> None:
    bench(isa).compare(seed)


def flag_pop_with_update(q: Any) -> None:
    """flpop sets flag A after the update of its own instruction."""
    q.flpop(q.rf[20], 1, update="norz")
    q.nop().mov(q.rf[21], q.rf[20], push="pushz")
    q.vflb(q.rf[20])


def conditional_request_with_split_flags(q: Any) -> None:
    """A lane stores when either half of its flag holds."""
    q.flpop(q.rf[21], q.rf[20])
    q.nop().mov(q.tmud, q.rf[20])
    q.add(q.tmua, q.rf[10], q.rf[11], cond="ifa")
    q.vfla(q.rf[20])


def broadcast_under_a_condition(q: Any) -> None:
    wide = q.r5 if q.isa is Isa.V3D42 else q.quad
    q.sub(q.rf[21], q.rf[20], 3, push="pushn")
    q.add(wide, q.rf[20], q.rf[20], cond="ifa")
    q.nop().mov(q.rf[20], q.r5 if q.isa is Isa.V3D42 else q.rf[0])


def configuration_from_the_stream(q: Any) -> None:
    q.nop(sig=q.ldunifrf(q.tmuc))
    q.add(q.tmua, q.rf[10], q.rf[11])
    q.nop(sig=q.ldtmu(q.rf[20]))
    q.nop(sig=q.ldtmu(q.rf[21]))
    q.add(q.rf[20], q.rf[20], q.rf[21])


DIFFERED = [
    flag_pop_with_update,
    conditional_request_with_split_flags,
    broadcast_under_a_condition,
    configuration_from_the_stream,
]


@pytest.mark.parametrize("isa", list(BOARDS))
@pytest.mark.parametrize("piece", DIFFERED)
def test_what_once_differed(isa: Isa, piece: Any) -> None:
    """Found by generated programs: other results, or an unnecessary fallback to the reference engine."""
    import qpu

    def program(q: Any) -> None:
        q.nop(sig=q.ldunifrf(q.rf[10]))
        q.eidx(q.rf[20])
        q.shl(q.rf[11], q.rf[20], 2)
        piece(q)
        q.nop().mov(q.tmud, q.rf[20])
        q.nop(sig=q.ldunifrf(q.rf[12]))
        q.add(q.rf[11], q.rf[11], q.rf[12])
        q.add(q.tmua, q.rf[10], q.rf[11])
        q.end()

    uniforms = [DATA, *([0xFFFFFFFA] if piece is configuration_from_the_stream else []), 1024]
    made = Program(isa, list(qpu.assemble(program, isa=isa).code), uniforms)
    want, got = (bench(isa).run(m, made, IMAGES[0]) for m in bench(isa).machines)
    assert got[1].engine == "compiled", got[1].fallbacks
    np.testing.assert_array_equal(got[0], want[0])
    assert got[1].sfu_ops == want[1].sfu_ops
    assert (want[0][256:272] != IMAGES[0][256:272]).any()


@pytest.mark.parametrize("isa", list(BOARDS))
def test_generated_programs_show_every_form(isa: Isa) -> None:
    found: set[Any] = set()
    for seed in range(260):
        found |= form_names(generate(isa, seed))
    missing = [form for forms in catalogue(isa) for form in forms if form not in found]
    assert not missing, missing[:20]


@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("isa", list(BOARDS))
def test_engines_agree_for_long(isa: Isa, part: int) -> None:
    for seed in steadily(range(1000 + SHARE * part, 1000 + SHARE * (part + 1))):
        bench(isa).compare(seed, small=seed % 4 > 0)


@pytest.mark.parametrize("isa", list(BOARDS))
@pytest.mark.parametrize("engine", ["reference", "compiled"])
def test_sliced_execution(isa: Isa, engine: str) -> None:
    """`run` in slices of a few hundred clocks gives the memory of one run."""
    import qpu

    def program(q: Any) -> None:
        acc = q.r1 if isa is Isa.V3D42 else q.rf[20]
        for n in (10, 11):
            q.nop(sig=q.ldunifrf(q.rf[n]))
        q.eidx(q.rf[12])
        q.shl(q.rf[12], q.rf[12], 2)
        q.tidx(q.rf[13])
        q.shl(q.rf[13], q.rf[13], 6)
        q.add(q.rf[12], q.rf[12], q.rf[13])
        q.sub(acc, acc, acc)
        with q.loop() as loop:
            q.sub(q.rf[11], q.rf[11], 1, push="pushz")
            q.add(acc, acc, q.rf[11])
            q.b(loop.start, cond="na0")
            q.nop()
            q.nop()
            q.nop()
        q.nop().mov(q.tmud, acc)
        q.add(q.tmua, q.rf[10], q.rf[12])
        q.end()

    words = list(qpu.assemble(program, isa=isa).code)
    made = V3dCompiledMachine if engine == "compiled" else V3dReferenceMachine
    memories = []
    for clocks in (None, 300):
        memory = Memory(1 << 26)
        memory.map(CODE, 1 << 16, "code")
        memory.map(UNIFORMS, 1 << 14, "uniforms")
        memory.map(DATA, 1 << 14, "data")
        memory.bytes[CODE : CODE + 8 * len(words)] = np.array(words, np.uint64).view(np.uint8)
        memory.words[UNIFORMS // 4 : UNIFORMS // 4 + 2] = DATA, 200
        machine = made(parse_board(BOARDS[isa]), memory, strict=True)
        batches = 32
        count = batches if isa is Isa.V3D71 else batches - 1
        cfg = [batches << 16, 1 << 16, 1 << 16, 16 | 1 << 8 | 63 << 20, count, CODE, UNIFORMS]
        execution = machine.dispatch(cfg)
        while not execution.run(clocks):
            pass
        memories.append(memory.words[DATA // 4 : DATA // 4 + 1024].copy())
        memory.close()
    np.testing.assert_array_equal(memories[0], memories[1])
    assert set(memories[0].tolist()) <= {0, 200 * 199 // 2}
