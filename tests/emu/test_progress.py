"""Tests of the progress of long runs on a terminal: what it shows on each board, and that it disappears."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HUNG_S

pty = pytest.importorskip("pty", reason="this system has no pseudo terminals")
fcntl = pytest.importorskip("fcntl", reason="this system has no pseudo terminals")
termios = pytest.importorskip("termios", reason="this system has no pseudo terminals")
pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

LAUNCH = """
import sys
import qpu
from qpu.core.isa import Isa
from qpu.emu.engine import progress

board, engine, tqdm = sys.argv[1:]
if tqdm == "without":
    sys.modules["tqdm"] = None
progress.FIRST_S = progress.AGAIN_S = 0.0

def v3d(q):
    q.nop(sig=q.ldunifrf(q.rf[10]))
    with q.loop() as body:
        q.sub(q.rf[10], q.rf[10], 1, push="pushz")
        q.b(body.start, cond="na0")
        q.nop()
        q.nop()
        q.nop()
    q.end()

def vc4(q):
    q.mov(q.r0, q.uniform)
    again = q.label("again")
    q.sub(q.r0, q.r0, 1, push="z")
    q.b(again, cond="anynz")
    q.nop()
    q.nop()
    q.nop()
    q.end()

with qpu.open_device(board, engine=engine) as gpu:
    program = qpu.assemble(vc4 if gpu.isa is Isa.VC4 else v3d, isa=gpu.isa)
    gpu.run(program, [100_000 if engine == "compiled" else 300])
"""


def terminal(board: str, engine: str, tqdm: str, cache: Path) -> str:
    """What a launch writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))  # lines, columns
    environment = dict(os.environ, QPU_CACHE_DIR=str(cache))
    try:
        command = [sys.executable, "-c", LAUNCH, board, engine, tqdm]
        process = subprocess.Popen(command, env=environment, stderr=theirs)
    finally:
        os.close(theirs)
    found = b""
    try:
        while part := os.read(ours, 1 << 16):
            found += part
    except OSError:  # how Linux reports that the other end was closed
        pass
    finally:
        os.close(ours)
    assert process.wait(HUNG_S) == 0, found
    return found.decode()


@pytest.mark.parametrize(("board", "tqdm"), [("pi3", "without"), ("pi4", "with"), ("pi5", "without"), ("pi3", "with")])
def test_translation_and_run_are_shown_and_disappear(board: str, tqdm: str, tmp_path: Path) -> None:
    if tqdm == "with":
        pytest.importorskip("tqdm", reason="tqdm is not installed: the bar is an extra")
    shown = terminal(board, "compiled", tqdm, tmp_path)
    assert f"qpu: emulating {board}, translating a program that is not in the cache\r\x1b[K" in shown
    what = "QPU programs" if board == "pi3" else "compute dispatch"
    assert f"qpu: emulating {board}, {what}: " in shown
    assert "s of emulated time" in shown
    if tqdm == "without":
        assert shown.endswith("\r\x1b[K")
        assert "\n" not in shown


def test_reference_engine(tmp_path: Path) -> None:
    shown = terminal("pi5", "reference", "without", tmp_path)
    assert "qpu: emulating pi5, compute dispatch: " in shown
    assert " of 1 threads, " in shown
    assert "translating" not in shown


def test_nothing_in_a_file(tmp_path: Path) -> None:
    environment = dict(os.environ, QPU_CACHE_DIR=str(tmp_path))
    command = [sys.executable, "-c", LAUNCH, "pi4", "compiled", "without"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HUNG_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
