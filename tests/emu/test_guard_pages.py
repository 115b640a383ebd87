"""Tests of edge addresses and random programs with guard pages: a stray access of native code ends in SIGSEGV."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HUNG_S

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mprotect and MAP_FIXED_NOREPLACE: Linux")
BOARDS = ("pi4", "pi5", "pi3")
ENGINES = ("reference", "compiled")
EDGES = 60  # launches of each board and engine in the normal tests
PARTS, SHARE = 20, 1000  # of the soak: parts of as many random programs


def child(script: str, *arguments: object) -> dict[str, int]:
    """Run a script; returns what it printed: how often launches ended in which way."""
    if "compiled" in arguments:
        pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")
    command = [sys.executable, str(HERE / "guarded" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S)
    assert done.returncode == 0, f"{command[1:]} ended with {done.returncode}\n{done.stderr[-4000:]}"
    found: dict[str, int] = ast.literal_eval(done.stdout.splitlines()[-1])
    return found


def edges(board: str, count: int, seed: int) -> None:
    """Both engines: launches end in the same ways, and some in each."""
    one, other = (child("edges.py", board, engine, count, seed) for engine in ENGINES)
    assert one == other
    assert sum(one.values()) == count
    assert min(one["ended"], one["out-of-bounds"]) > count // 20, one


@pytest.mark.parametrize("board", BOARDS)
def test_launches_at_the_edges_of_buffers_stay_inside(board: str) -> None:
    edges(board, EDGES, 1)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("board", BOARDS)
def test_launches_at_the_edges_of_buffers_stay_inside_for_long(board: str, part: int) -> None:
    edges(board, 3000, 100 + part)


@pytest.mark.parametrize("isa", ["v3d42", "v3d71", "vc4"])
def test_random_programs_stay_inside(isa: str) -> None:
    """Both engines run each program."""
    assert child("random_programs.py", isa, 0, 3) == {"agreed": 3}


@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("isa", ["v3d42", "v3d71", "vc4"])
def test_random_programs_stay_inside_for_long(isa: str, part: int) -> None:
    first = 10**7 + SHARE * part
    assert child("random_programs.py", isa, first, SHARE) == {"agreed": SHARE}
