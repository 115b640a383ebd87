"""Tests of TMU requests of translated V3D programs, every configuration byte, against the reference engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

import qpu
from qpu.core.isa import Isa
from qpu.emu.boards import parse_board
from qpu.emu.engine.memory import Memory
from qpu.emu.v3d.compiled import CompiledV3dExecution, V3dCompiledMachine
from qpu.emu.v3d.reference import V3dReferenceMachine
from qpu.emu.v3d.tmu import Action, decode_request
from qpu.errors import EmuFault

CODE, UNIFORMS, TABLE, DATA, SIZE = 0x100000, 0x200000, 0x300000, 0x400000, 1 << 13
BOARDS = {Isa.V3D42: "pi4", Isa.V3D71: "pi5"}
HOLE = DATA + SIZE  # nothing is there


class Case(NamedTuple):
    """A request: configuration byte, data words, and by lane: addresses, data, and not 0 where the lane takes part."""

    byte: int
    words: int
    rows: np.ndarray


def requests(cases: Sequence[Case]) -> Any:
    """Make the requests one after another; results and flags are stored after the table."""

    def program(q: Any) -> None:
        r = q.rf
        table, out, step, at, live, config, found = (r[n] for n in (10, 11, 12, 20, 24, 25, 26))
        for x in (table, out, step):
            q.nop(sig=q.ldunifrf(x))
        q.eidx(at)
        q.shl(at, at, 2)
        q.add(table, table, at)
        q.add(out, out, at)
        for byte, words, _ in cases:
            for k in range(4):
                q.nop().mov(q.tmua, table)
                q.add(table, table, step)
                q.nop(sig=q.ldtmu(r[20 + k if k < 3 else 24]))
            q.nop(sig=q.ldunifrf(config))
            q.nop().mov(q.null, live, push="pushz")
            q.nop().mov(q.tmuc, config)
            for k in range(words):
                q.nop().mov(q.tmud, r[21 + k % 2])
            q.nop().mov(q.tmua, at, cond="ifna")
            for _ in range(decode_request(byte, words).results):
                q.nop(sig=q.ldtmu(found))
                q.nop().mov(q.tmud, found)
                q.nop().mov(q.tmua, out)
                q.add(out, out, step)
        q.end()

    return program


class Board:
    """One engine and the memory of its own."""

    def __init__(self, isa: Isa, made: Any, **options: Any) -> None:
        self.isa = isa
        self.memory = memory = Memory(1 << 26)
        for at, size, name in ((CODE, SIZE * 2, "code"), (UNIFORMS, SIZE, "uniforms"), (TABLE, 1 << 16, "table")):
            memory.map(at, size, name)
        memory.map(DATA, SIZE, "data")
        rng = np.random.default_rng(3)
        memory.words[DATA // 4 : (DATA + SIZE) // 4] = rng.integers(0, 1 << 32, SIZE // 4, np.uint32)
        self.machine = made(parse_board(BOARDS[isa]), memory, **({"strict": True} | options))

    def run(self, program: Any, uniforms: Sequence[int], batches: int = 1, cut: int | None = None) -> Any:
        words = list(qpu.assemble(program, isa=self.isa, check=False).code)
        assert 8 * len(words) <= SIZE * 2
        self.memory.bytes[CODE : CODE + 8 * len(words)] = np.array(words, np.uint64).view(np.uint8)
        self.memory.words[UNIFORMS // 4 : UNIFORMS // 4 + len(uniforms)] = uniforms
        count = batches if self.isa is Isa.V3D71 else batches - 1
        self.execution = self.machine.dispatch(
            [batches << 16, 1 << 16, 1 << 16, 16 | 1 << 8 | 63 << 20, count, CODE, UNIFORMS]
        )
        while not self.execution.run(cut):
            assert cut is not None
        return self.execution.stats

    def cases(self, cases: Sequence[Case]) -> Any:
        table = np.concatenate([c.rows for c in cases]).astype(np.uint32)
        self.memory.words[TABLE // 4 : TABLE // 4 + table.size] = table.ravel()
        out = TABLE + 4 * table.size
        return self.run(requests(cases), [TABLE, out, 64, *[0xFFFFFF00 | c.byte for c in cases]])

    def contents(self) -> np.ndarray:
        return np.concatenate([self.memory.words[at // 4 : at // 4 + 0x800 * 8] for at in (TABLE, DATA)])


@pytest.fixture
def boards(isa: Isa) -> Iterator[tuple[Board, Board]]:
    made = Board(isa, V3dReferenceMachine), Board(isa, V3dCompiledMachine)
    yield made
    for board in made:
        board.memory.close()


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Requests that translated code passes to the host, by configuration byte."""
    seen: list[int] = []
    request = CompiledV3dExecution._request

    def counted(self: Any, thread: int) -> None:
        from qpu.emu.v3d.translate_state import Slot

        seen.append(int(self._states[thread, Slot.CONFIG]) & 0xFF)
        request(self, thread)

    monkeypatch.setattr(CompiledV3dExecution, "_request", counted)
    return seen


def regular() -> list[tuple[int, int]]:
    """Bytes and numbers of data words of all requests that hardware is known to do."""
    pairs = [(byte, words) for byte in range(256) for words in range(5)]
    found = []
    for byte, words in pairs:
        r = decode_request(byte, words)
        if not r.problem and words == r.expected and (r.action is not Action.CACHE or byte & 7 == 7):
            found.append((byte, words))
    return found


def case(rng: np.random.Generator, isa: Isa, byte: int, words: int) -> Case:
    r = decode_request(byte, words)
    size = 4 if r.components > 1 else r.size
    near = rng.integers(0, SIZE if rng.random() < 0.5 else 64, 16)  # far apart, or one on the other
    at = DATA + np.minimum(near, SIZE - 16) // size * size
    rows = np.stack([at, *rng.integers(0, 1 << 32, (2, 16)), np.ones(16, np.int64)])
    if rng.random() < 0.7:
        rows[3] = rng.integers(0, 2, 16)
    if rng.random() < 0.2:
        rows[2] = rows[1] = rng.integers(0, 4, 16)  # so that some compare as equal
    dead = rows[3] == 0
    rows[0, dead] = np.where(rng.random(16) < 0.5, rows[0], rng.integers(HOLE, 1 << 32, 16))[dead]
    return Case(byte, words, rows)


@pytest.mark.parametrize("isa", list(BOARDS))
@pytest.mark.parametrize("part", range(1))
def test_every_configuration_byte(boards: tuple[Board, Board], part: int, isa: Isa, host: list[int]) -> None:
    """Same memory, results and counts; the host does nothing but stores to the page of a uniform stream."""
    rng = np.random.default_rng(part)
    pairs = regular()
    assert len(pairs) > 50
    cases = [case(rng, isa, *pairs[i]) for i in rng.permutation(len(pairs))]
    for start in range(0, len(cases), 40):
        want, got = (b.cases(cases[start : start + 40]) for b in boards)
        assert got.engine == "compiled", got.fallbacks
        np.testing.assert_array_equal(boards[1].contents(), boards[0].contents())
        for name in ("tmu_requests", "tmu_read_bytes", "tmu_write_bytes", "instructions"):
            assert getattr(got, name) == getattr(want, name), name
    assert not host


@pytest.mark.parametrize("isa", list(BOARDS))
@pytest.mark.parametrize(
    ("byte", "words", "bad"),
    [
        (byte, words, bad)
        for byte, words in [(0xF8, 0), (0xF9, 1), (0xFD, 1), (0x87, 1), (0x9A, 2), (0xC7, 0), (0x79, 0), (0x7B, 0)]
        for bad in ("hole", "odd")
        if bad == "hole" or decode_request(byte, words).size > 1  # bytes are always aligned
    ],
)
def test_one_lane_astray(boards: tuple[Board, Board], byte: int, words: int, bad: str) -> None:
    """A live lane outside of all buffers, or misaligned: the report of the reference engine, and nothing is done."""
    rows = np.zeros((4, 16), np.int64)
    rows[0], rows[3] = DATA + 16 * np.arange(16), 1
    rows[0, 11] = HOLE + 64 if bad == "hole" else DATA + 65
    faults = []
    before = boards[1].memory.words[DATA // 4 : HOLE // 4].copy()
    for board in boards:
        with pytest.raises(EmuFault) as fault:
            board.cases([Case(byte, words, rows)])
        faults.append((fault.value.rule, str(fault.value)))
    assert faults[0] == faults[1]
    np.testing.assert_array_equal(boards[1].memory.words[DATA // 4 : HOLE // 4], before)


def contended(q: Any, *, switches: bool) -> None:
    """Every thread adds its number plus 1 to one word again and again, and mixes the old values."""
    r = q.rf
    cell, out, config, count, mine, old, mixed, at = (r[n] for n in (10, 11, 12, 13, 20, 21, 22, 23))
    for x in (cell, out, config, count):
        q.nop(sig=q.ldunifrf(x))
    payload = r[0] if q.isa is Isa.V3D42 else r[3]
    q.shl(old, payload, 12)
    q.shr(mine, old, 12)
    q.shr(old, old, 6)
    q.eidx(at)
    q.shl(at, at, 2)
    q.add(at, at, out)
    q.add(at, at, old)
    q.add(mine, mine, 1)
    q.sub(mixed, mixed, mixed)
    with q.loop() as loop:
        q.sub(count, count, 1, push="pushz")
        q.nop().mov(q.tmuc, config)
        q.nop().mov(q.tmud, mine)
        if switches:
            q.nop(sig=q.thrsw).mov(q.tmua, cell)
            q.nop()
            q.nop()
        else:
            q.nop().mov(q.tmua, cell)
        q.nop(sig=q.ldtmu(old))
        q.ror(mixed, mixed, 3)
        q.add(mixed, mixed, old)
        q.b(loop.start, cond="na0")
        q.nop()
        q.nop()
        q.nop()
    q.nop().mov(q.tmud, mixed)
    q.nop().mov(q.tmua, at)
    q.end()


@pytest.mark.parametrize("isa", list(BOARDS))
@pytest.mark.parametrize("switches", [False, True])
@pytest.mark.parametrize("op", [0, 2])
def test_old_values_are_those_of_the_reference_engine(
    boards: tuple[Board, Board], switches: bool, op: int, host: list[int]
) -> None:
    """All threads contend for one word; each sees what it sees there, in every round."""
    uniforms = [DATA, TABLE, 0xFFFFFF87 | op << 3, 40]
    for board in boards:
        board.run(lambda q: contended(q, switches=switches), uniforms, batches=16)
    np.testing.assert_array_equal(boards[1].contents(), boards[0].contents())
    assert not host


@pytest.mark.parametrize("isa", list(BOARDS))
@pytest.mark.parametrize("switches", [False, True])
def test_many_atomics_need_few_turns(
    isa: Isa, switches: bool, host: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """64,000 requests without the host; any number of host threads gives the same old values."""
    turns: list[int] = []
    turn = CompiledV3dExecution._run_round
    monkeypatch.setattr(
        CompiledV3dExecution, "_run_round", lambda self, budget: (turns.append(1), turn(self, budget))[1]
    )
    monkeypatch.setattr("qpu.emu.v3d.compiled.PARALLEL", 1000)
    seen = []
    for workers in (1, 3):
        board = Board(isa, V3dCompiledMachine, workers=workers)
        uniforms = [DATA, TABLE, 0xFFFFFF87, 2000]
        first = int(board.memory.words[DATA // 4])
        board.run(lambda q: contended(q, switches=switches), uniforms, batches=32)
        total = 2000 * 16 * sum(range(1, 33))
        assert int(board.memory.words[DATA // 4]) == (first + total) & 0xFFFFFFFF
        seen.append(board.contents())
        board.memory.close()
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not host
    assert len(turns) < 400


def strays(q: Any) -> None:
    """Every other thread branches by a register to code with two writes of one register; all store, and add."""
    r = q.rf
    cell, out, config, goal, mine, old, mixed, at = (r[n] for n in (10, 11, 12, 13, 20, 21, 22, 23))
    for x in (cell, out, config, goal):
        q.nop(sig=q.ldunifrf(x))
    payload = r[0] if q.isa is Isa.V3D42 else r[3]
    q.shl(old, payload, 12)
    q.shr(mine, old, 12)
    q.shr(old, old, 6)
    q.eidx(at)
    q.shl(at, at, 2)
    q.add(at, at, out)
    q.add(at, at, old)
    q.nop(sig=q.thrsw).mov(q.tmua, at)
    q.nop()
    q.nop()
    q.band(mixed, mine, 1, push="pushz")
    q.nop().mov(q.tmuc, config)
    q.nop().mov(q.tmud, mine)
    q.nop().mov(q.tmua, cell)
    q.b(goal, cond="na0")
    q.add(mixed, mine, mine)
    q.nop()
    q.nop()
    q.label("home")
    q.nop(sig=q.ldtmu(old))
    q.add(mixed, mixed, old)
    q.nop(sig=q.ldtmu(old))
    q.add(mixed, mixed, old)
    q.eidx(old, cond="ifa")
    q.add(mixed, mixed, old)
    q.nop().mov(q.tmud, mixed)
    q.nop().mov(q.tmua, at)
    q.end()
    q.label("away")
    q.add(old, mixed, 1).mov(old, mixed)
    q.b("home")
    q.add(mixed, old, old)
    q.nop(sig=q.ldunifrf(old))
    q.add(mixed, mixed, old)


@pytest.mark.parametrize("isa", list(BOARDS))
def test_computed_branch_out_of_the_translation(isa: Isa) -> None:
    """In a lenient run the reference engine does what remains, with the same outcome; the statistics say so."""
    seen = []
    program = qpu.assemble(strays, isa=isa, check=False)
    goal = CODE + 8 * program.labels["away"]
    for made in (V3dReferenceMachine, V3dCompiledMachine):
        board = Board(isa, made, strict=False)
        for cut in (None, 400):
            stats = board.run(strays, [DATA, TABLE, 0xFFFFFF87, goal, 77], batches=40, cut=cut)
            counts = ("instructions", "tmu_requests", "tmu_read_bytes", "tmu_write_bytes", "add_ops", "mul_ops")
            more = ("branches", "thread_switches", "uniform_bytes", "faults")
            seen.append((board.contents(), {name: getattr(stats, name) for name in counts + more}))
            if made is V3dCompiledMachine:
                assert stats.engine == "compiled"
                (reason,) = stats.fallbacks
                assert reason.startswith("same-destination at instruction")
                assert 0 < stats.fallbacks[reason] < stats.instructions
        board.memory.close()
    for (want, reference), (got, compiled) in zip(seen[:2], seen[2:], strict=True):
        np.testing.assert_array_equal(got, want)
        assert compiled == reference
