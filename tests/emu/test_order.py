"""Tests of programs that race: the result does not depend on the host's cores or on how a run is split into calls.

Every QPU, or thread, reads one shared word, computes with it, stores it back, and logs what it saw. Nothing orders
them, so the engines may differ from one another; each must agree with itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

import qpu
from qpu.core.isa import Isa
from qpu.emu.boards import parse_board
from qpu.emu.engine.memory import Memory
from qpu.emu.engine.trace import Trace
from qpu.emu.v3d import compiled as compiled_v3d
from qpu.emu.v3d.reference import V3dReferenceMachine
from qpu.emu.vc4 import compiled as compiled_vc4
from qpu.emu.vc4.reference import Vc4ReferenceMachine
from qpu.vc4.builder import Asm, assemble

CODE, UNIFORMS, DATA = 0x100000, 0x200000, 0x300000
SHARED = DATA + 0x4000
TURNS = 100
CUTS = (None, 1_000, 17_000)


@dataclass(frozen=True)
class Profile:
    name: str = "pi3"
    qpus: int = 12


def race(q: Asm, turns: int) -> None:
    """Uniforms: shared word, VPM write setup, DMA store setup, log."""
    for n in range(10, 14):
        q.mov(q.ra[n], q.uniform)
    q.ldi(q.r3, turns)
    q.mov(q.r1, 0)
    q.setup_dma_store_stride(0)
    again = q.label("again")
    q.mov(q.t0s, q.ra[10])
    q.nop(sig=q.ldtmu0)
    q.ror(q.r1, q.r1, 3)
    q.xor(q.r1, q.r1, q.r4)
    q.shl(q.r0, q.r4, 1)
    q.add(q.r0, q.r0, q.qpu_number)
    q.mov(q.vw_setup, q.ra[11])
    q.mov(q.vpm, q.r0)
    q.mov(q.vw_setup, q.ra[12])
    q.mov(q.vw_addr, q.ra[10])
    q.wait_dma_store()
    q.sub(q.r3, q.r3, 1, push="z")
    q.b(again, cond="anynz")
    q.nops(3)
    q.mov(q.vw_setup, q.ra[11])
    q.mov(q.vpm, q.r1)
    q.mov(q.vw_setup, q.ra[12])
    q.mov(q.vw_addr, q.ra[13])
    q.wait_dma_store()
    q.end()


def vc4(machine: Any, cut: int | None, turns: int = TURNS) -> list[int]:
    """What the 12 QPUs saw, the shared word at the end, and the clock."""
    memory = machine.memory
    words = np.array(assemble(race, turns).code, np.uint64)
    memory.bytes[CODE : CODE + 8 * len(words)] = words.view(np.uint8)
    memory.words[DATA // 4 : DATA // 4 + 0x2000] = 1
    entries = []
    for q in range(12):
        at = UNIFORMS + 64 * q
        setup = 1 << 12 | 1 << 11 | 2 << 8 | q
        store = 2 << 30 | 1 << 23 | 16 << 16 | 1 << 14 | q << 7
        memory.words[at // 4 : at // 4 + 4] = SHARED, setup, store, DATA + 64 * q
        entries.append((at, CODE))
    machine.reset()
    execution = machine.launch(entries)
    while not execution.run(cut):
        pass
    seen = memory.words[DATA // 4 : DATA // 4 + 12 * 16].tolist()
    return [*seen, int(memory.words[SHARED // 4]), execution.stats.clocks, execution.stats.instructions]


def race_v3d(q: Any) -> None:
    """Uniforms: shared word, rounds, log."""
    r = q.rf
    for n in (10, 11, 12):
        q.nop(sig=q.ldunifrf(r[n]))
    q.tidx(r[13])
    q.eidx(r[14])
    q.shl(r[14], r[14], 2)
    q.shl(r[15], r[13], 6)
    q.add(r[14], r[14], r[15])
    q.add(r[12], r[12], r[14])
    q.sub(r[16], r[16], r[16])
    with q.loop() as loop:
        q.nop().mov(q.tmua, r[10])
        q.nop(sig=q.ldtmu(r[17]))
        q.ror(r[16], r[16], 3)
        q.xor(r[16], r[16], r[17])
        q.shl(r[17], r[17], 1)
        q.add(q.tmud, r[17], r[13])
        q.nop().mov(q.tmua, r[10])
        q.sub(r[11], r[11], 1, push="pushz")
        q.b(loop.start, cond="na0")
        q.nop()
        q.nop()
        q.nop()
    q.nop().mov(q.tmud, r[16])
    q.nop().mov(q.tmua, r[12])
    q.end()


def v3d(isa: Isa, machine: Any, cut: int | None, turns: int = TURNS) -> list[int]:
    """As `vc4`, for 24 threads."""
    memory = machine.memory if hasattr(machine, "memory") else machine.reference.memory
    words = np.array(qpu.assemble(race_v3d, isa=isa).code, np.uint64)
    memory.bytes[CODE : CODE + 8 * len(words)] = words.view(np.uint8)
    memory.words[DATA // 4 : DATA // 4 + 0x2000] = 1
    memory.words[UNIFORMS // 4 : UNIFORMS // 4 + 3] = SHARED, turns, DATA
    batches = 16
    count = batches if isa is Isa.V3D71 else batches - 1
    execution = machine.dispatch([batches << 16, 1 << 16, 1 << 16, 16 | 1 << 8, count, CODE, UNIFORMS])
    while not execution.run(cut):
        pass
    seen = memory.words[DATA // 4 : DATA // 4 + 64 * 16].tolist()
    return [*seen, int(memory.words[SHARED // 4]), execution.stats.clocks, execution.stats.instructions]


@pytest.fixture
def memory() -> Any:
    made = Memory(1 << 26)
    made.map(CODE, 1 << 12, "code")
    made.map(UNIFORMS, 1 << 12, "uniforms")
    made.map(DATA, 1 << 15, "data")
    yield made
    made.close()


def test_vc4_races_end_the_same_way(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_vc4, "PARALLEL", 0)
    outcomes = [
        vc4(compiled_vc4.Vc4CompiledMachine(Profile(), memory, workers=workers), cut)
        for workers in (1, 2, 5)
        for cut in CUTS
        for _ in range(2)
    ]
    assert all(o == outcomes[0] for o in outcomes)
    assert len(set(outcomes[0][:-3])) > 1, "they did race"


def test_vc4_races_end_the_same_way_on_the_reference_engine(memory: Memory) -> None:
    outcomes = [vc4(Vc4ReferenceMachine(Profile(), memory), cut) for cut in CUTS]
    assert all(o == outcomes[0] for o in outcomes)


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_v3d_races_end_the_same_way(isa: Isa, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_v3d, "PARALLEL", 0)
    board = parse_board("pi4" if isa is Isa.V3D42 else "pi5")
    outcomes = [
        v3d(isa, compiled_v3d.V3dCompiledMachine(board, memory, strict=True, workers=workers), cut)
        for workers in (1, 2, 5)
        for cut in CUTS
    ]
    assert all(o == outcomes[0] for o in outcomes)
    assert len(set(outcomes[0][:-3])) > 1, "they did race"


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_v3d_races_end_the_same_way_on_the_reference_engine(isa: Isa, memory: Memory) -> None:
    board = parse_board("pi4" if isa is Isa.V3D42 else "pi5")
    outcomes = [v3d(isa, V3dReferenceMachine(board, memory, strict=True), None) for _ in range(2)]
    assert outcomes[0] == outcomes[1]


def test_vc4_traces_are_the_same(memory: Memory) -> None:
    traces = []
    for cut in (None, 100):
        trace = Trace()
        vc4(Vc4ReferenceMachine(Profile(), memory, trace=trace), cut, 4)
        traces.append(trace.json_lines)
    assert traces[0] == traces[1]
    assert traces[0].count("\n") > 500


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_v3d_traces_are_the_same(isa: Isa, memory: Memory) -> None:
    board = parse_board("pi4" if isa is Isa.V3D42 else "pi5")
    traces = []
    for _ in range(2):
        trace = Trace()
        v3d(isa, V3dReferenceMachine(board, memory, strict=True, trace=trace), None, 4)
        traces.append(trace.json_lines)
    assert traces[0] == traces[1]
    assert traces[0].count("\n") > 500
