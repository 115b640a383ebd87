"""Tests of hot programs: another host thread translates them at the full level, and later processes start with that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.limits import HUNG_S

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from qpu.core.isa import Isa
from qpu.emu.engine import native as compiled
from qpu.emu.engine.native import FULL, QUICK, Improvement, build
from qpu.emu.v3d import compiled_programs as v3d_programs
from qpu.emu.v3d.compiled import V3dCompiledMachine
from tests.emu.test_native_tmu_v3d import DATA, TABLE, Board, contended

IR = "define i32 @run() {{ ret i32 {} }}"


def run(board: Board) -> tuple[Any, np.ndarray, int]:
    """One dispatch; its program, memory afterwards, and what the cache did not have."""
    stats = board.run(lambda q: contended(q, switches=False), [DATA, TABLE, 0xFFFFFF87, 300], batches=16)
    return board.execution._program, board.contents(), stats.cache_misses


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_hot_programs_get_better_while_they_run(isa: Isa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(v3d_programs.Program, "HOT", 1000)
    monkeypatch.setattr(v3d_programs, "_PROGRAMS", {})
    v3d_programs._library.cache_clear()
    Improvement.wait()
    seen = []
    for _ in range(2):
        board = Board(isa, V3dCompiledMachine)
        levels = []
        for _ in range(4):
            program, memory, misses = run(board)
            Improvement.wait()
            levels.append((program.level, misses))
            seen.append(memory)
        if len(seen) == 4:
            assert levels[0] == (QUICK, 1)
            assert levels[-1] == (FULL, 0)
            assert program._code.text == ""  # nothing keeps the IR
            assert len(list(tmp_path.glob("*.qpuc"))) == 3  # two levels, and the library
        else:
            assert levels == [(FULL, 0)] * 4
        board.memory.close()
        v3d_programs._PROGRAMS.clear()
    for first, second in zip(seen[:4], seen[4:], strict=True):
        np.testing.assert_array_equal(first, second)


def test_one_at_a_time_and_only_what_can_take_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", str(tmp_path))
    Improvement.wait()
    code = build(b"one", lambda: (IR.format(1), {"numbers": 1}), level=0)
    hold = compiled.threading.Event()
    original = compiled._compile

    def held(*arguments: Any) -> Any:
        assert hold.wait(HUNG_S)
        return original(*arguments)

    monkeypatch.setattr(compiled, "_compile", held)
    first = Improvement.of(code, lambda: ("", {}), 2)
    assert first is not None
    assert first.busy
    assert first.result() is None
    assert Improvement.of(code, lambda: ("", {}), 2) is None
    hold.set()
    Improvement.wait()
    better = first.result()
    assert better is not None
    assert better.level == 2
    again = build(b"one", lambda: pytest.fail("it is in the cache"), level=0, better=2)
    assert again.from_cache
    assert again.level == 2
    # The IR of cached code has to be made again; when it is numbered otherwise, nothing happens.
    other = Improvement.of(again, lambda: (IR.format(2), {"numbers": 2}), 3)
    Improvement.wait()
    assert other is not None
    assert other.result() is None
    same = Improvement.of(again, lambda: (IR.format(1), {"numbers": 1}), 3)
    Improvement.wait()
    assert same is not None
    assert same.result() is not None


HOT_LAUNCH = """
import threading
import qpu
from qpu.emu.vc4 import compiled_programs as vc4_programs

vc4_programs.Program.HOT = 1000
WORK = "\\n".join(
    f"fadd ra{i % 30}, r{i % 4}, ra{(i + 5) % 30}; v8min r{(i + 1) % 4}, r{i % 3}, rb{i % 30}" for i in range(150)
)
gpu = qpu.open_device("pi3", engine="compiled")
program = qpu.assemble(
    "mov r3, unif\\n:loop\\n" + WORK.replace("r3", "r2") + "\\nsub.setf r3, r3, 1\\nbrr.allnz -, :loop\\n"
    "nop\\nnop\\nnop\\nmov interrupt, 1\\nnop\\nthrend\\nnop\\nnop\\n",
    isa=gpu.isa,
)
for _ in range(2):
    gpu.submit(program, uniforms=[3000]).wait()
print("done", len([t for t in threading.enumerate() if t.name == "qpu-translator"]))
"""


def test_the_interpreter_does_not_end_inside_llvm(tmp_path: Path) -> None:
    environment = dict(os.environ, QPU_CACHE_DIR=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", HOT_LAUNCH], env=environment, capture_output=True, text=True, timeout=HUNG_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "done 1\n"  # the translator was still running
    assert len(list(tmp_path.glob("*.qpuc"))) == 3  # code of both levels, and the note on what is worth it: it finished
