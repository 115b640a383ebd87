"""The compiled engine of VideoCore IV against the reference engine: registers, memory, counts and findings."""

from __future__ import annotations

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
        assert sorted(got.stats.faults) == sorted(want.stats.faults)
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
    program.words[:0] = address_prologue()
    _, got = same(program.words, uniforms)
    slow = sum(got.stats.fallbacks.values())
    return 1 - slow / got.stats.instructions


def address_prologue() -> list[int]:
    """Nothing yet: the rows come ready-made; every lane reads the same word of a scattered request."""
    return []


@pytest.mark.parametrize("seed", range(24))
def test_engines_agree(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    compare(seed)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(100))
def test_engines_agree_for_long(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    for seed in range(1000 + 50 * part, 1050 + 50 * part):
        compare(seed)


def test_most_of_a_tame_program_runs_natively() -> None:
    assert min(compare(seed, 1) for seed in (1, 7)) > 0.5
