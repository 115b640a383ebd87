"""VideoCore IV on every tier of the compiled engine: quick and full translations, new and from the cache, interpreted
parts, each float strategy, any number of host threads. Results are those of the reference engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from qpu.emu.engine import native
from qpu.emu.engine.directed import Floats
from qpu.emu.engine.native import FULL, Improvement
from qpu.emu.vc4 import compiled
from qpu.emu.vc4 import compiled_programs as programs
from qpu.emu.vc4.compiled import Vc4CompiledMachine
from qpu.emu.vc4.reference import Vc4ReferenceMachine
from qpu.vc4.builder import Asm
from tests.emu.generate_vc4 import generate
from tests.emu.hosts import use_vectors
from tests.emu.seeds import steadily
from tests.emu.test_engines_vc4 import DATA, LESSER, Profile, agree, bench, execute, place, store

HOSTS = ["auto", *(name for name in LESSER if name != "auto")]
SEEDS = (21,)
Tier = Callable[[pytest.MonkeyPatch, Path], None]


def exact(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(programs, "fastest", lambda processor: Floats.EXACT)


def full(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(native, "QUICK", FULL)


def cached(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", str(cache))


def interpreted_first(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(programs, "WARM", 2)


def short_slices(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(compiled, "FIRST_CHUNK", 64)
    monkeypatch.setattr(compiled, "CHUNK", 128)


def quick(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """As it is."""


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    monkeypatch.setattr(programs, "_PROGRAMS", [])


@pytest.mark.parametrize("vectors", HOSTS)
@pytest.mark.parametrize("tier", [quick, full, cached, exact, interpreted_first, short_slices])
def test_generated_programs(tier: Tier, vectors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_vectors(vectors, monkeypatch)
    tier(monkeypatch, tmp_path)
    compare(SEEDS, tier, vectors)


@pytest.mark.soak
@pytest.mark.parametrize("vectors", HOSTS)
@pytest.mark.parametrize("tier", [quick, full, cached, exact, interpreted_first, short_slices])
def test_generated_programs_for_long(tier: Tier, vectors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_vectors(vectors, monkeypatch)
    tier(monkeypatch, tmp_path)
    compare(range(6000, 6060), tier, vectors)


def compare(seeds: Iterable[int], tier: Tier, vectors: str) -> None:
    b = bench()
    for seed in steadily(seeds):
        program = generate(seed)
        qpus = 1 if program.alone else 3
        want = b.run(b.machines[0], program, seed, qpus)
        for workers in (1, 3) if tier is quick else (2,):
            for _ in range(1 + (tier is cached)):  # the second time from the cache
                machine = Vc4CompiledMachine(Profile(), b.memory, strict=False, workers=workers)
                got = b.run(machine, program, seed, qpus)
                agree(want, got, qpus, f"seed {seed}, {tier.__name__}, {vectors}: ")
                programs._PROGRAMS.clear()
        if tier is cached:
            assert got.stats.cache_hits >= got.stats.cache_misses == 0


def floats(q: Asm) -> None:
    """Turns of sums, products, special functions, conversions and packs; some overflow, some underflow."""
    q.mov(q.r3, q.uniform)
    for n in range(3):
        q.mov(getattr(q, f"r{n}"), q.uniform)
        q.mov(q.ra[n], getattr(q, f"r{n}"))
        q.mov(q.rb[n], q.element_number)
    with q.loop() as again:
        q.fadd(q.ra[4], q.r0, q.r1).fmul(q.r2, q.r1, q.r0)
        q.itof(q.r1, q.r3)
        q.mov(q.recip, q.r2)
        q.fsub(q.r0, q.ra[4], q.r2).fmul(q.rb[4], q.r2, q.r2)
        q.nop()
        q.fadd(q.r0, q.r0, q.r4)
        q.fmul(q.r2, q.rb[4], q.ra[1])
        q.fadd(q.r1, q.r1, q.rb[4]).fmul(q.ra[5].pack("8a"), q.r1, q.r4)
        q.mov(q.exp, q.r0)
        q.nop()
        q.ftoi(q.ra[7], q.r0)
        q.fmin(q.r0, q.r0, q.r4)
        q.xor(q.rb[5], q.ra[7], q.ra[7])
        q.sub(q.r3, q.r3, 1, push="z")
        q.b(again.start, cond="anynz")
        q.nops(3)
    q.fadd(q.r0, q.r0, q.r1)
    q.fadd(q.r0, q.r0, q.r2)
    store(q, q.r0)


def word(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


@pytest.mark.parametrize("vectors", HOSTS)
def test_the_full_level_takes_over_in_the_middle(vectors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_vectors(vectors, monkeypatch)
    monkeypatch.setattr(programs.Program, "HOT", 1)
    words = place(floats)
    cases = ((1.5, 0.75, 0.999), (3e38, 2.0, 1e-3), (1e-30, 1e-12, 3.0), (0.0, -1.0, float("inf")))
    for operands in cases[HOSTS.index(vectors) % 2 :: 2]:
        uniforms = [[400 + n, *map(word, operands), DATA + 64 * n] for n in range(3)]
        want = execute(Vc4ReferenceMachine, words, uniforms)
        levels = set()
        for _ in range(3):
            got = execute(Vc4CompiledMachine, words, uniforms, launches=2)
            Improvement.wait()
            (program,) = programs._PROGRAMS
            levels.add(program.level)
            agree(want, got, 3)
        assert FULL in levels
        programs._PROGRAMS.clear()
