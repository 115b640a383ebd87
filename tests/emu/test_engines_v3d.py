"""The compiled engine against the reference engine on generated programs: memory bit for bit, NaN as a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from generate_v3d import FLOATS, HALVES, generate

from qpu.core.isa import Isa
from qpu.emu.boards import parse_board
from qpu.emu.compiled_v3d import V3dCompiledMachine
from qpu.emu.memory import Memory
from qpu.emu.v3d import V3dReferenceMachine

CODE, UNIFORMS, DATA = 0x100000, 0x200000, 0x300000
BOARDS = {Isa.V3D42: "pi4", Isa.V3D71: "pi5"}


def execute(
    make: Callable[..., Any], isa: Isa, words: list[int], uniforms: list[int], batches: int = 1
) -> tuple[np.ndarray, Any]:
    """Memory of the data buffer after the program, and the statistics."""
    memory = Memory(1 << 26)
    try:
        memory.map(CODE, 1 << 16, "code")
        memory.map(UNIFORMS, 1 << 14, "uniforms")
        memory.map(DATA, 1 << 14, "data")
        memory.bytes[CODE : CODE + 8 * len(words)] = np.array(words, np.uint64).view(np.uint8)
        memory.words[UNIFORMS // 4 : UNIFORMS // 4 + len(uniforms)] = uniforms
        memory.words[DATA // 4 : DATA // 4 + 4096] = np.random.default_rng(7).integers(0, 2**32, 4096, np.uint32)
        machine = make(parse_board(BOARDS[isa]), memory, strict=True)
        count = batches if isa is Isa.V3D71 else batches - 1
        execution = machine.dispatch([batches << 16, 1 << 16, 1 << 16, 16 | 1 << 8 | 63 << 20, count, CODE, UNIFORMS])
        assert execution.run()
        return memory.words[DATA // 4 : DATA // 4 + 4096].copy(), execution.stats
    finally:
        memory.close()


def canonical(words: np.ndarray) -> np.ndarray:
    """NaNs of float and half registers replaced by one pattern."""
    out = words.copy().reshape(-1, 16)
    for n in FLOATS:
        row = out[64 + n]
        row[np.isnan(row.view(np.float32))] = 0x7FC00000
    for n in HALVES:
        halves = out[64 + n].view(np.uint16)
        halves[((halves & 0x7C00) == 0x7C00) & ((halves & 0x3FF) != 0)] = 0x7E00
    return out


def compare(isa: Isa, seed: int) -> None:
    program = generate(isa, seed)
    uniforms = [DATA, *program.uniforms]
    want, reference = execute(V3dReferenceMachine, isa, program.words, uniforms)
    got, compiled = execute(V3dCompiledMachine, isa, program.words, uniforms)
    assert compiled.engine == "compiled", compiled.fallbacks
    different = np.argwhere(canonical(got) != canonical(want))
    assert not len(different), f"{isa} seed {seed}: slot {different[0][0]} lane {different[0][1]}"
    for name in (
        "instructions",
        "add_ops",
        "mul_ops",
        "fadds",
        "fmuls",
        "uniform_bytes",
        "tmu_read_bytes",
        "tmu_write_bytes",
    ):
        assert getattr(compiled, name) == getattr(reference, name), name


@pytest.mark.parametrize("seed", range(14))
@pytest.mark.parametrize("isa", list(BOARDS))
def test_engines_agree(isa: Isa, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    compare(isa, seed)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(100))
@pytest.mark.parametrize("isa", list(BOARDS))
def test_engines_agree_for_long(isa: Isa, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    for seed in range(1000 + 50 * part, 1050 + 50 * part):
        compare(isa, seed)


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
