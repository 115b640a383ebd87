"""Tests of what the compiled engine of VideoCore IV translates, and when: often executed parts of long programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from qpu.emu.vc4 import compiled_programs
from qpu.emu.vc4.compiled import Vc4CompiledMachine
from qpu.vc4.builder import Asm
from tests.emu.test_engines_vc4 import DATA, bench, execute, place, same, store

USUAL = compiled_programs.WARM  # the other tests of this folder change it


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    monkeypatch.setattr(compiled_programs, "WARM", USUAL)
    monkeypatch.setattr(compiled_programs, "_PROGRAMS", [])


def work(q: Asm, n: int) -> None:
    """`n` instructions with much code each."""
    for k in range(n):
        if k % 4 == 0:
            q.v8muld(q.r1, q.r0, q.r2)
        elif k % 4 == 1:
            q.fadd(q.r2, q.r1, q.r0)
        elif k % 4 == 2:
            q.v8muld(q.r0, q.r2, q.r1)
        else:
            q.mov(q.t0s if k % 64 == 3 else q.r3, q.uniform)
            if k % 64 == 3:
                q.nop(sig=q.ldtmu0)


def loops(q: Asm, times: int, body: Callable[[], None]) -> None:
    q.ldi(q.ra[20], times)
    with q.loop() as again:
        body()
        q.sub(q.ra[20], q.ra[20], 1, push="z")
        q.b(again.start, cond="anynz")
        q.nops(3)


UNIFORMS = [[DATA] * 2000]


def long_program(q: Asm) -> None:
    for n in range(4):
        q.ldi(getattr(q, f"r{n}"), 1.5 + n)
    work(q, 1000)
    q.end()


def test_a_long_program_that_runs_once_is_not_translated() -> None:
    words = place(long_program)
    assert len(words) > 1000
    got = execute(Vc4CompiledMachine, words, UNIFORMS)
    assert not compiled_programs._PROGRAMS or not any(p.builds for p in compiled_programs._PROGRAMS)
    assert not got.stats.translate_s and got.stats.cache_misses == 0
    assert sum(got.stats.fallbacks.values()) == got.stats.instructions
    same(words, UNIFORMS)


def test_a_long_program_that_runs_often_is_translated() -> None:
    words = place(long_program)
    got = execute(Vc4CompiledMachine, words, UNIFORMS, launches=30)
    assert got.stats.instructions > 1000
    assert sum(got.stats.fallbacks.values()) < 200


def test_only_the_loop_of_a_long_program_is_translated() -> None:
    def source(q: Asm) -> None:
        for n in range(4):
            q.ldi(getattr(q, f"r{n}"), 1.5 + n)
        work(q, 500)
        loops(q, 2000, lambda: work(q, 8))
        work(q, 500)
        q.end()

    words = place(source)
    uniforms = [[DATA] * 6000]
    got = execute(Vc4CompiledMachine, words, uniforms)
    (program,) = compiled_programs._PROGRAMS
    assert program.builds == 1 and len(program.nodes) < 50
    assert sum(got.stats.fallbacks.values()) < 2500
    same(words, uniforms)


def test_loops_around_a_loop_are_translated_with_it() -> None:
    def source(q: Asm) -> None:
        for n in range(4):
            q.ldi(getattr(q, f"r{n}"), 1.5 + n)
        q.ldi(q.ra[21], 20)
        with q.loop() as again:
            q.nop()
            work(q, 64)
            q.nops(200)
            loops(q, 40, lambda: work(q, 8))
            q.sub(q.ra[21], q.ra[21], 1, push="z")
            q.b(again.start, cond="anynz")
            q.nops(3)
        q.end()

    words = place(source)
    uniforms = [[DATA] * 14000]
    got = execute(Vc4CompiledMachine, words, uniforms)
    (program,) = compiled_programs._PROGRAMS
    assert program.builds == 1
    assert sum(got.stats.fallbacks.values()) < 800
    same(words, uniforms)


def test_the_next_process_translates_nothing_and_interprets_little(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", str(tmp_path))

    def source(q: Asm) -> None:
        q.ldi(q.r0, 1.5)
        q.ldi(q.r1, 1.25)
        q.nops(300)
        loops(q, 200, lambda: q.fadd(q.r0, q.r0, q.r1))
        store(q, q.r0)

    outcomes = []
    for _ in range(2):
        monkeypatch.setattr(compiled_programs, "_PROGRAMS", [])
        outcomes.append(execute(Vc4CompiledMachine, place(source), [[DATA]]))
    first, second = outcomes
    assert first.data.tolist() == second.data.tolist() and first.stats.instructions == second.stats.instructions
    assert (first.stats.cache_misses, second.stats.cache_misses, second.stats.cache_hits) == (1, 0, 1)
    assert sum(second.stats.fallbacks.values()) < sum(first.stats.fallbacks.values())


def test_short_programs_are_translated_as_a_whole() -> None:
    def source(q: Asm) -> None:
        loops(q, 500, lambda: q.nops(4))
        q.nops(8)
        q.end()

    execute(Vc4CompiledMachine, place(source), [[0]])
    (program,) = compiled_programs._PROGRAMS
    assert program.builds == 1 and not any(r == compiled_programs.COLD for r in program.graph.reasons.values())


def test_the_largest_translation_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_programs, "LARGEST", 100)

    def source(q: Asm) -> None:
        loops(q, 60, lambda: work(q, 400))
        q.end()

    words = place(source)
    uniforms = [[DATA] * 12000]
    execute(Vc4CompiledMachine, words, uniforms)
    assert all(len(p.nodes) < 900 for p in compiled_programs._PROGRAMS)
    same(words, uniforms)


def test_programs_at_one_address_are_told_apart() -> None:
    """Found by random programs: one that had not been explored yet was taken for any other of its length."""
    outcomes = []
    for value in (3, 5):

        def source(q: Asm, value: int = value) -> None:
            q.ldi(q.r0, 0)
            loops(q, 100, lambda: q.add(q.r0, q.r0, value))
            store(q, q.r0)

        words = place(source)
        _, got = same(words, [[DATA]])
        outcomes.append(got.data[:16].tolist())
    assert outcomes == [[300] * 16, [500] * 16]
    assert len(compiled_programs._PROGRAMS) == 2


def test_engines_agree_where_parts_are_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    for warm in (2, 24):
        monkeypatch.setattr(compiled_programs, "WARM", warm)
        for seed in range(32):
            bench().compare(seed, small=seed % 4 > 0)
