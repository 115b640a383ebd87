"""Tests that several host threads give the memory and statistics of one, also when a program races."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

import qpu
from qpu.core.isa import Isa
from qpu.emu.boards import parse_board
from qpu.emu.engine.memory import Memory
from qpu.emu.v3d import compiled as compiled_v3d
from qpu.emu.v3d.compiled import V3dCompiledMachine

CODE, UNIFORMS, DATA = 0x100000, 0x200000, 0x300000
BOARDS = {Isa.V3D42: "pi4", Isa.V3D71: "pi5"}
BATCHES = 70


def racing(q: Any) -> None:
    """Threads work for different times, then mix what all wrote to one place into it, again and again."""
    data, turns, mine, at, found, zero = (q.rf[n] for n in (10, 11, 20, 21, 22, 23))
    q.nop(sig=q.ldunifrf(data))
    q.nop(sig=q.ldunifrf(turns))
    q.eidx(at)
    q.shl(at, at, 2)
    q.add(at, at, data)
    q.tidx(mine)
    q.sub(zero, mine, mine)
    q.add(turns, turns, mine)
    with q.loop() as outer:
        q.sub(turns, turns, 1, push="pushz")
        q.add(mine, mine, turns)
        q.nop().mov(q.tmua, at)
        q.nop(sig=q.ldtmu(found))
        q.ror(mine, mine, 3)  # so that nothing is forgotten
        q.add(mine, mine, found)
        q.nop().mov(q.tmud, mine)
        q.nop().mov(q.tmua, at)
        q.b(outer.start, cond="na0")
        q.nop()
        q.nop()
        q.nop()
    q.end()


def independent(q: Any) -> None:
    """Each thread sums floats and stores them in its own place."""
    data, turns, total, at, step, one = (q.rf[n] for n in (10, 11, 20, 21, 22, 23))
    payload = q.rf[0] if q.isa is Isa.V3D42 else q.rf[3]
    q.shl(one, payload, 12)
    q.shr(one, one, 6)
    q.nop(sig=q.ldunifrf(data))
    q.nop(sig=q.ldunifrf(turns))
    q.eidx(at)
    q.itof(step, one)
    q.shl(at, at, 2)
    q.add(at, at, data)
    q.add(at, at, one)
    q.sub(total, total, total)
    with q.loop() as loop:
        q.sub(turns, turns, 1, push="pushz")
        q.fadd(total, total, step)
        q.b(loop.start, cond="na0")
        q.fadd(total, total, step)
        q.nop()
        q.nop()
    q.nop().mov(q.tmud, total)
    q.nop().mov(q.tmua, at)
    q.end()


def execute(isa: Isa, program: Any, turns: int, workers: int) -> tuple[np.ndarray, dict[str, Any]]:
    words = list(qpu.assemble(program, isa=isa, check=False).code)
    memory = Memory(1 << 26)
    try:
        memory.map(CODE, 1 << 12, "code")
        memory.map(UNIFORMS, 1 << 12, "uniforms")
        memory.map(DATA, 1 << 16, "data")
        memory.bytes[CODE : CODE + 8 * len(words)] = np.array(words, np.uint64).view(np.uint8)
        memory.words[UNIFORMS // 4 : UNIFORMS // 4 + 2] = DATA, turns
        machine = V3dCompiledMachine(parse_board(BOARDS[isa]), memory, strict=True, workers=workers)
        count = BATCHES if isa is Isa.V3D71 else BATCHES - 1
        execution = machine.dispatch([BATCHES << 16, 1 << 16, 1 << 16, 16 | 1 << 8 | 63 << 20, count, CODE, UNIFORMS])
        assert execution.run()
        stats = asdict(execution.stats)
        for name in ("translate_s", "execute_s", "cache_hits", "cache_misses"):
            del stats[name]
        return memory.words[DATA // 4 : (DATA + (1 << 16)) // 4].copy(), stats
    finally:
        memory.close()


@pytest.mark.parametrize("isa", list(BOARDS))
@pytest.mark.parametrize("program", [racing, independent])
def test_any_number_of_host_threads_gives_the_same(isa: Isa, program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    monkeypatch.setattr(compiled_v3d, "PARALLEL", 1)
    turns = 5000 if program is racing else 20_000
    used: set[int] = set()
    portions = compiled_v3d.CompiledV3dExecution._portions

    def counted(self: Any, threads: list[int]) -> list[list[int]]:
        found = portions(self, threads)
        used.add(len(found))
        return found

    monkeypatch.setattr(compiled_v3d.CompiledV3dExecution, "_portions", counted)
    want, reference = execute(isa, program, turns, 1)
    assert used == {1}
    assert want.any()
    for workers in (2, 3, 8):
        got, stats = execute(isa, program, turns, workers)
        np.testing.assert_array_equal(got, want)
        assert stats == reference
        assert workers in used
