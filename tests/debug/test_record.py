"""Tests of records: launches run again with the same result, and damaged or hostile files are refused."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu import v3d
from qpu.__main__ import main
from qpu.core.isa import Isa
from qpu.debug.record import MAGIC, read_records
from tests.debug import faults_v3d
from tests.test_bounds import copy16


def recorded(path: Path, board: str) -> None:
    with qpu.open_device(board) as gpu, qpu.record(path):
        x, y = gpu.array(np.arange(16, dtype=np.uint32) + 7), gpu.zeros(16, np.uint32)
        program = qpu.assemble(copy16, isa=gpu.isa)
        gpu.run(program, [x, y])
        x.array[:] = 5
        gpu.submit(program, [x, y]).wait()


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5,slices=2"])
def test_a_record_runs_again(tmp_path: Path, board: str) -> None:
    path = tmp_path / "run.qpu"
    recorded(path, board)
    first, second = list(qpu.replay(path, engine="reference"))
    assert first.differs == [] and second.differs is None  # nobody waited at once for the second
    assert first.recorded.board == board and first.stats.instructions > 0
    y = [m for m in first.recorded.memory if m.kind == "buffer"][1]
    mask = 0x3FFFFFFF if first.recorded.isa is Isa.VC4 else 0xFFFFFFFF
    for run, want in ((first, np.arange(16) + 7), (second, np.full(16, 5))):
        found = np.frombuffer(run.memory.view(y.address & mask, 64), np.uint32)
        assert (found == want).all()


def test_a_replay_finds_what_the_sanitizer_finds(tmp_path: Path) -> None:
    path = tmp_path / "race.qpu"
    with qpu.open_device("pi5") as gpu, qpu.record(path):
        x, y = gpu.zeros(16, np.uint32), gpu.zeros(16, np.uint32)
        program = qpu.assemble(faults_v3d.two_stores_to_one_word, isa=gpu.isa)
        gpu.run(program, [x, y], v3d.Dispatch(workgroups=2))
    assert [run.differs for run in qpu.replay(path)] == [[]]
    with qpu.sanitize(), pytest.raises(qpu.EmuFault, match="not ordered") as caught:
        list(qpu.replay(path))
    loc = caught.value.place.loc
    assert loc is not None and "# here" in loc.source
    with pytest.raises(qpu.UsageError, match=r"V3D 4\.2.*V3D 7\.1"):
        list(qpu.replay(path, board="pi4"))


def test_a_faulty_launch_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "fault.qpu"
    with qpu.open_device("pi4") as gpu, qpu.record(path), pytest.raises(qpu.EmuFault):
        gpu.run(qpu.assemble(copy16, isa=gpu.isa), [gpu.zeros(16)])
    with pytest.raises(qpu.EmuFault, match="uniform 2 of 1"):
        list(qpu.replay(path))


def edited(data: bytes, change: Any) -> bytes:
    """The file with another description of its first launch."""
    length = int.from_bytes(data[12:20], "little")
    head = json.loads(data[20 : 20 + length])
    change(head)
    body = json.dumps(head).encode()
    chunk = b"HEAD" + len(body).to_bytes(8, "little") + body + zlib.crc32(body).to_bytes(4, "little")
    return data[:8] + chunk + data[24 + length :]


def _overlapping(head: Any) -> None:
    head["memory"][1]["address"] = head["memory"][0]["address"]


HOSTILE = {
    "another instruction set": lambda h: h.update(isa="x86"),
    "a size that is too large": lambda h: h["memory"][0].update(size=1 << 40),
    "half a page": lambda h: h["memory"][0].update(size=100),
    "beyond the address space": lambda h: h["memory"][0].update(address=0xFFFFF000),
    "more used than there is": lambda h: h["memory"][0].update(used=1 << 30),
    "a stream elsewhere": lambda h: h["memory"][-1].update(streams=[[0, 4]]),
    "threads": lambda h: h["job"].update(threads=1 << 20),
    "a text for a number": lambda h: h["job"].update(code="1"),
    "words": lambda h: h.update(program=["0x1" + 16 * "0"]),
    "no memory": lambda h: h.update(memory=None),
    "overlap": _overlapping,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_wrong_descriptions_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.qpu"
    recorded(path, "pi5")
    path.write_bytes(edited(path.read_bytes(), HOSTILE[name]))
    with pytest.raises(qpu.UsageError, match=r"record"):
        list(qpu.replay(path, engine="reference"))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.qpu"
    recorded(path, "pi5")
    data = path.read_bytes()
    rng = random.Random(5)
    cuts = [data[:n] for n in (0, 7, 10, 19, len(data) - 3)]
    flips = []
    for _ in range(20):
        changed = bytearray(data)
        changed[rng.randrange(len(MAGIC) + 12, len(data))] ^= 1 << rng.randrange(8)
        flips.append(bytes(changed))
    bomb = zlib.compress(bytes(1 << 22))
    chunk = b"DATA" + len(bomb).to_bytes(8, "little") + bomb + zlib.crc32(bomb).to_bytes(4, "little")
    at = data.index(b"DATA")
    for damaged in (*cuts, *flips, data[:at] + chunk + data[at:], data[:8] + chunk):
        path.write_bytes(damaged)
        try:
            for found in read_records(path):
                assert len(found.memory) == 4
        except qpu.UsageError:
            continue
        assert damaged in flips  # a flipped bit in a name of a chunk or in a length can leave a shorter file


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 3, 4095, 4096, 1 << 31, (1 << 32) - 1, 1 << 64, 10**30, 1e308, float("nan"), "", "x" * 2000,
    "0x", [], [[]], {}, [1, 2, 3], [[0, 0]], "buffer", "code", "uniforms", "vc4", "v3d42",
)  # fmt: skip


def _mutated(rng: random.Random, value: Any) -> Any:
    """A JSON value with something odd in one place."""
    if rng.random() < 0.15 or not value or not isinstance(value, dict | list):
        return rng.choice(ODD)
    made: Any = dict(value) if isinstance(value, dict) else list(value)
    key: Any = rng.choice(list(made)) if isinstance(made, dict) else rng.randrange(len(made))
    if rng.random() < 0.1:
        del made[key]
    else:
        made[key] = _mutated(rng, made[key])
    return made


def _part(rng: random.Random, head: Any) -> Any:
    """A change of one field of a description."""
    name = rng.choice(list(head))
    return {name: _mutated(rng, head[name])}


def _fuzzed(tmp_path: Path, board: str, count: int) -> int:
    """Replay mutated files; anything but an error of this package fails. Returns how many were refused."""
    rng, path, refused = random.Random(count), tmp_path / "run.qpu", 0
    recorded(path, board)
    data = path.read_bytes()
    for _ in range(count):
        path.write_bytes(edited(data, lambda head: head.update(_part(rng, head))))
        try:
            for run in qpu.replay(path, engine="reference"):
                assert run.stats.instructions >= 0
        except qpu.QpuError:
            refused += 1
    return refused


@pytest.mark.parametrize("board", ["pi3", "pi5"])
def test_odd_values_anywhere_do_not_crash(tmp_path: Path, board: str) -> None:
    assert 5 < _fuzzed(tmp_path, board, 25) <= 25


@pytest.mark.soak
@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_many_odd_values(tmp_path: Path, board: str) -> None:
    assert _fuzzed(tmp_path, board, 3000)


def test_every_length_is_checked(tmp_path: Path) -> None:
    """Each length of a file made 0, a little wrong, and huge: refused, or a file with fewer launches."""
    path = tmp_path / "run.qpu"
    recorded(path, "pi3")
    data, at, lengths = path.read_bytes(), len(MAGIC), []
    while at < len(data):
        lengths.append((at + 4, int.from_bytes(data[at + 4 : at + 12], "little")))
        at += 16 + lengths[-1][1]
    assert len(lengths) == 11
    for at, n in lengths:
        for wrong in (0, n - 1, n + 1, n + 16, 1 << 30, (1 << 30) + 1, (1 << 32) + n, (1 << 64) - 1):
            path.write_bytes(data[:at] + wrong.to_bytes(8, "little") + data[at + 8 :])
            with pytest.raises(qpu.UsageError, match="not a record"):
                list(read_records(path))


def test_texts_of_strangers_do_not_command_the_terminal(tmp_path: Path) -> None:
    def change(head: Any) -> None:
        head["locs"] = [["a\x1b]0;b\x07", 1, "\x1b[2J\u202e\ud800\n  help: é"]] * len(head["locs"])
        head["memory"] = [m | {"used": min(m["used"], 8), "name": "x\x1b[31m\ud800"} for m in head["memory"]]

    path = tmp_path / "run.qpu"
    recorded(path, "pi5")
    path.write_bytes(edited(path.read_bytes(), change))
    with pytest.raises(qpu.EmuFault, match="outside") as caught:
        list(qpu.replay(path))
    text = str(caught.value)
    assert text.replace("\n", "").isprintable() and r"a\x1b]0;b\x07:1: \x1b[2J\u202e\ud800\n  help: é" in text


def test_a_replay_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def long(q: Any) -> None:  # 2**32 turns
        with q.loop() as loop:
            q.sub(q.rf[1], q.rf[1], 1, push="pushz")
            q.b(loop.start, cond="anyna")
            for _ in range(3):
                q.nop()
        q.end()

    path = tmp_path / "run.qpu"
    with qpu.open_device("pi5", host_limit_s=0.05) as gpu, qpu.record(path), pytest.raises(qpu.EmuFault):
        gpu.run(qpu.assemble(long, isa=gpu.isa, check=False))
    monkeypatch.setenv("QPU_EMU_HOST_LIMIT_S", "0.05")
    with pytest.raises(qpu.EmuFault, match=r"more than 0\.05 s of host time"):
        list(qpu.replay(path))


def test_a_long_chunk_in_a_short_file_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "run.qpu"
    path.write_bytes(MAGIC + b"HEAD" + ((1 << 30) - 1).to_bytes(8, "little") + b"{}")
    with pytest.raises(qpu.UsageError, match="no more than there are"):
        list(read_records(path))


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.qpu"
    recorded(path, "pi5")
    assert main(["replay", str(path)]) == 0
    assert "launch 0: V3D 7.1" in capsys.readouterr().out
    data = path.read_bytes()
    done = data.index(b"DONE") + 12
    digests = bytearray(data)
    at = data.index(b'": "', data.index(b'": "', done) + 4) + 4
    digests[at] ^= 1
    end = data.index(b"}", done) + 1
    digests[end : end + 4] = zlib.crc32(bytes(digests[done:end])).to_bytes(4, "little")
    path.write_bytes(digests)
    assert main(["replay", "--sanitize", "--board", "pi5", str(path)]) == 1
    assert "results differ in uint32[16]" in capsys.readouterr().out
    path.write_bytes(b"something else")
    assert main(["replay", str(path)]) == 2
    assert "QPUREC1" in capsys.readouterr().err


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    gone = tmp_path / "none" / "run.qpu"
    for path, text in (
        (gone, "cannot write .*No such file"),
        (tmp_path, "cannot write .*directory"),
        (None, "path = None"),
    ):
        with pytest.raises(qpu.UsageError, match=f"{text}[^$]*help: name a file"), qpu.record(path):  # type: ignore[arg-type]
            pass
        with pytest.raises(qpu.UsageError, match=r"path = None|cannot read"):
            list(qpu.replay(path))  # type: ignore[arg-type]
    full = Path("/dev/full")
    if full.exists():
        with pytest.raises(qpu.UsageError, match=r"write /dev/full: .*\n  help: look for room"), qpu.record(full):
            pass


def test_a_record_can_be_replayed_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "run.qpu"
    with qpu.open_device("pi5") as gpu, qpu.record(path):
        assert list(qpu.replay(path)) == []
        gpu.run(qpu.assemble(copy16, isa=gpu.isa), [gpu.zeros(16), gpu.zeros(16)])
        assert [r.differs for r in qpu.replay(path)] == [[]]
