"""Tests of `qpu emulate --trace`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qpu.emu.process.trace_file import TraceFile
from qpu.errors import UsageError
from tests.emu.process.emulate_rig import DISPATCH, VC4, emulate, ok

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")

TWO_PROGRAMS = (
    VC4
    + """
load(STORE, *ARGS)
m[8000:8016] = struct.pack("4I", bus + 4096, bus, bus + 4096, bus)
assert prop(0x30011, 2, bus + 8000, 0, 500)[0] == 0
"""
)
DISPATCH_PROGRAM = "ISA, BATCHES = 'v3d71', 4\n" + DISPATCH + 'fd = os.open("/dev/dri/card0", os.O_RDWR)\n'
DISPATCH_PROGRAM += 'run(fd, "nop ; nop ; ldunifrf.rf1\\nadd rf2, rf1, rf1 ; nop\\n" + STOP, [21])\n'


def test_text_of_a_vc4_launch(tmp_path: Path) -> None:
    done = emulate(tmp_path, TWO_PROGRAMS, board="pi3", options=("--trace", "t.txt"), env={"QPU_EMU_ENGINE": "auto"})
    ok(done)
    lines = (tmp_path / "t.txt").read_text().splitlines()
    heads = [line for line in lines if not line.startswith(" " * 10)]
    assert len(heads) == 24 and {line.split()[2] for line in heads} == {"0.0", "1.0"}
    assert any("thrend" in line for line in heads)
    assert done.stderr == f"qpu emulate: 24 trace entries in {tmp_path}/t.txt\n"


def test_json_lines_of_a_v3d_dispatch(tmp_path: Path) -> None:
    # The value of an option may follow = or be the next word; a lone dash begins a range.
    options = ("--trace=t.jsonl", "--trace-qpu", "0,2-3", "--trace-range", "-1")
    ok(emulate(tmp_path, DISPATCH_PROGRAM, board="pi5", options=options))
    entries = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert {e["qpu"] for e in entries} == {0, 2, 3} and {e["index"] for e in entries} == {0, 1}
    assert any("0x0000002a" in e["changes"].get("rf2", []) for e in entries)
    form = ("--trace", "t.jsonl", "--trace-format", "text")
    ok(emulate(tmp_path, DISPATCH_PROGRAM, board="pi5", options=form))
    assert not (tmp_path / "t.jsonl").read_text().startswith("{")


def test_bounded(tmp_path: Path) -> None:
    done = emulate(tmp_path, TWO_PROGRAMS, board="pi3", options=("--trace", "t.jsonl", "--trace-limit", "5"))
    ok(done)
    entries = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert len(entries) == 5 and max(e["index"] for e in entries) == 11
    assert "19 earlier ones dropped" in done.stderr


def test_written_when_the_program_fails_too(tmp_path: Path) -> None:
    for ending, status in (("raise RuntimeError", 1), ("sys.exit(9)", 9)):
        done = emulate(tmp_path, TWO_PROGRAMS + ending, board="pi3", options=("--trace", "t.txt"))
        assert done.returncode == status and (tmp_path / "t.txt").stat().st_size > 1000
        (tmp_path / "t.txt").unlink()


def test_two_runs_give_the_same_trace(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        ok(emulate(tmp_path, TWO_PROGRAMS, board="pi3", options=("--trace", name)))
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()


def test_children_have_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(DISPATCH_PROGRAM.replace("import numpy", "import ctypes, fcntl, numpy"))
    program = (
        DISPATCH_PROGRAM
        + """
pid = os.fork()
if pid == 0:
    fd = os.open("/dev/dri/card0", os.O_RDWR)
    run(fd, STOP, [])
    sys.exit()
os.waitpid(pid, 0)
import subprocess
child = subprocess.Popen([sys.executable, "-c", "print(len(__import__('os').listdir('/dev/dri')))"])
child.wait()
print(pid, child.pid)
"""
    )
    out = ok(emulate(tmp_path, program, options=("--trace", "t.txt")))
    forked, started = out.splitlines()[-1].split()
    assert {p.name for p in tmp_path.glob("t*.txt")} == {"t.txt", f"t.{forked}.txt", f"t.{started}.txt"}
    assert "rf2" in (tmp_path / "t.txt").read_text()
    own = (tmp_path / f"t.{forked}.txt").read_text()
    assert own and "rf2" not in own


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--trace-qpu", "1"), "belong to --trace"),
        (("--trace", "t", "--trace-qpu", "x"), "0,3-5"),
        (("--trace", "t", "--trace-qpu", "3-"), "0..63"),
        (("--trace", "t", "--trace-range", "9-2"), "ends before"),
        (("--trace", "t", "--trace-limit", "0"), "numbers from 1"),
        (("--trace", "t", "--trace-format", "xml"), "text"),
        (("--trace", "no/where/t"), "cannot write"),
    ],
)
def test_wrong_use(tmp_path: Path, options: tuple[str, ...], what: str) -> None:
    done = emulate(tmp_path, "print('ran')", options=options)
    assert done.returncode == 2 and done.stdout == "" and what in done.stderr, done.stderr


def test_compiled_engine_is_refused(tmp_path: Path) -> None:
    done = emulate(tmp_path, "", options=("--trace", "t"), env={"QPU_EMU_ENGINE": "compiled"})
    assert done.returncode == 2 and "reference" in done.stderr


def test_options_as_data() -> None:
    t = TraceFile.parse("x/y.json", qpus="4,0-2", span="10-", limit="7")
    assert (t.form, t.qpus, t.first, t.last, t.limit) == ("jsonl", (0, 1, 2, 4), 10, None, 7)
    assert TraceFile.parse("x.log", span="3").last == 3
    child = TraceFile.load(t.dump(), 12)
    assert child.path == os.path.abspath("x/y.12.json") and child.qpus == t.qpus and child.first == 10
    for bad in ("a", "", "-", "1-2-3", "\u00b2"):
        with pytest.raises(UsageError):
            TraceFile.parse("x", span=bad)
