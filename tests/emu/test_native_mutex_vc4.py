"""Tests of the mutex of VideoCore IV in native code: order of its holders and time, as on the reference engine."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from qpu.emu.engine.memory import Memory
from qpu.emu.vc4 import compiled as compiled_vc4
from qpu.vc4.builder import Asm
from tests.emu.generate_vc4 import CODE, DATA, UNIFORMS
from tests.emu.test_engines_vc4 import COUNTS, MACHINES, Profile, execute, place, same

OUT = DATA + 0x8000


def ticket(q: Asm, sections: int, inside: str) -> None:
    """Uniforms: counter's load, read, write and store words, own write and store words, own log, work, sections.

    Each section takes the number at `DATA` and leaves the next; the log is the sum of those taken. The work before
    it, in rounds of 4 instructions, differs between QPUs. inside: what keeps a section from being native in one piece.
    """
    for n in range(9):
        q.mov(q.ra[n], q.uniform)
    q.ldi(q.rb[1], DATA)
    q.ldi(q.rb[2], 64)
    q.setup_dma_store_stride(0)
    q.mov(q.r2, q.ra[8])
    q.mov(q.r1, 0)
    again = q.label("again")
    q.mov(q.r3, q.ra[7])
    work = q.label("work")
    q.sub(q.r3, q.r3, 1, push="z")
    q.b(work, cond="anynz")
    q.nops(3)
    q.mutex_acquire()
    q.mov(q.vr_setup, q.ra[0])
    q.mov(q.vr_addr, q.rb[1])
    q.wait_dma_load()
    q.mov(q.vr_setup, q.ra[1])
    if inside == "semaphore":
        q.sema_up(3)
        q.sema_down(3)
    elif inside == "long":
        q.ldi(q.r3, 1200)
        hold = q.label("hold")
        q.sub(q.r3, q.r3, 1, push="z")
        q.b(hold, cond="anynz")
        q.nops(3)
    q.nops(3)
    q.mov(q.r0, q.vpm)
    q.mov(q.vw_setup, q.ra[2])
    q.add(q.vpm, q.r0, 1)
    q.mov(q.vw_setup, q.ra[3])
    q.mov(q.vw_addr, q.rb[1])
    q.wait_dma_store()
    q.mutex_release()
    q.add(q.r1, q.r1, q.r0)
    q.sub(q.r2, q.r2, 1, push="z")
    q.b(again, cond="anynz")
    q.nops(3)
    q.mov(q.vw_setup, q.ra[4])
    q.mov(q.vpm, q.r1)
    q.mov(q.vw_setup, q.ra[5])
    q.mov(q.vw_addr, q.ra[6])
    q.wait_dma_store()
    q.end()


def lists(qpus: int, sections: int, work: list[int]) -> list[list[int]]:
    """The uniforms; the counter passes through row 0, the logs through rows from 1 on."""
    shared = [
        1 << 31 | 1 << 24 | 1 << 16 | 1 << 12,
        1 << 20 | 1 << 12 | 1 << 11 | 2 << 8,
        1 << 12 | 1 << 11 | 2 << 8,
        2 << 30 | 1 << 23 | 16 << 16 | 1 << 14,
    ]
    found = []
    for n in range(qpus):
        own = [shared[2] | n + 1, shared[3] | n + 1 << 7, OUT + 64 * n]
        found.append([*shared, *own, work[n % len(work)], sections])
    return found


@pytest.mark.parametrize(
    ("qpus", "work", "inside"),
    [
        (1, [9, 1, 4], "semaphore"),
        (2, [1], "nothing"),
        (2, [9, 1, 4], "long"),
        (12, [9, 1, 4], "nothing"),
        (12, [1], "semaphore"),
        (12, [1], "long"),
    ],
)
def test_critical_sections(qpus: int, work: list[int], inside: str) -> None:
    """Time slices decide who gets which number, and engines may end slices elsewhere; all other results are equal."""
    sections = 3 if inside == "long" else 20
    words = place(lambda q: ticket(q, sections, inside))
    uniforms = lists(qpus, sections, work)
    want, got = (execute(made, words, uniforms, strict=True) for made in MACHINES.values())
    assert (want.fault, got.fault) == ("", "")
    before = np.random.default_rng(7).integers(0, 2**32, 8192, np.uint32)[:16]
    taken = np.arange(qpus * sections, dtype=np.uint32)[:, None] + before
    for outcome in (want, got):
        assert np.array_equal(outcome.data[:16], before + np.uint32(qpus * sections))
        logs = outcome.data[(OUT - DATA) // 4 :][: 16 * qpus].reshape(qpus, 16)
        assert np.array_equal(logs.sum(0, dtype=np.uint32), taken.sum(0, dtype=np.uint32))
        assert outcome.stats.clocks >= qpus * sections * 4 * 14  # sections follow one another in emulated time
    for name in COUNTS:
        assert name == "clocks" or getattr(got.stats, name) == getattr(want.stats, name), name
    if inside == "nothing":
        assert sum(got.stats.fallbacks.values()) < got.stats.instructions // 20
    again = execute(MACHINES["compiled"], words, uniforms, strict=True)
    assert np.array_equal(again.data, got.data)
    assert again.stats.clocks == got.stats.clocks


def test_release_without_holding_is_reported_the_same() -> None:
    def source(q: Asm) -> None:
        q.nops(8)
        q.mutex_release()
        q.nops(8)
        q.end()

    want, got = same(place(source), [[]])
    assert any("mutex" in f for f in want.stats.faults)
    assert got.stats.faults == want.stats.faults


def test_a_mutex_taken_twice_is_a_deadlock() -> None:
    def source(q: Asm) -> None:
        q.nops(8)
        q.mutex_acquire()
        q.nops(8)
        q.mutex_acquire()
        q.nops(8)
        q.end()

    want, got = same(place(source), [[], []], strict=True)
    assert "deadlock" in want.fault
    assert got.fault == want.fault


def test_release_in_a_delay_slot() -> None:
    def source(q: Asm) -> None:
        q.ldi(q.r3, 50)
        q.mov(q.r1, 0)
        again = q.label("again")
        q.nops(7)
        q.mutex_acquire()
        q.add(q.r1, q.r1, 1)
        q.sub(q.r3, q.r3, 1, push="z")
        q.b(again, cond="anynz")
        q.nops(2)
        q.mutex_release()
        q.nops(8)
        q.end()

    same(place(source), [[]] * 5, strict=True)


@pytest.mark.parametrize("inside", ["nothing", "semaphore"])
def test_turns_do_not_depend_on_the_host(inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of each QPU and its time, on one worker and on three, in one call and split into many."""
    monkeypatch.setattr(compiled_vc4, "PARALLEL", 0)
    words = np.array(place(lambda q: ticket(q, 20, inside)), np.uint64)
    outcomes = []
    for workers, cut in ((1, None), (3, None), (1, 60), (3, 1000), (2, 7)):
        memory = Memory(1 << 24)
        try:
            for address, name in ((CODE, "code"), (UNIFORMS, "uniforms"), (DATA, "data")):
                memory.map(address, 1 << 16, name)
            memory.bytes[CODE : CODE + 8 * len(words)] = words.view(np.uint8)
            entries = []
            for n, values in enumerate(lists(12, 20, [9, 1, 4])):
                at = UNIFORMS + 64 * n
                memory.words[at // 4 : at // 4 + len(values)] = values
                entries.append((at, CODE))
            execution = compiled_vc4.Vc4CompiledMachine(Profile(), memory, workers=workers).launch(entries)
            while not execution.run(cut):
                pass
            logs = memory.words[OUT // 4 : OUT // 4 + 16 * 12 : 16].tolist()
            outcomes.append([logs, execution.stats.clocks, execution.stats.instructions])
        finally:
            memory.close()
    assert outcomes == outcomes[:1] * len(outcomes)
    assert sum(outcomes[0][0]) == sum(range(12 * 20))
