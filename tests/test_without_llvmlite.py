"""Tests without llvmlite: everything works, but slower."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HUNG_S

ROOT = Path(__file__).resolve().parent.parent

# What the import system does with a package that is not there, for `import` and for `find_spec`.
BLOCK = """
import sys
sys.modules["llvmlite"] = None
"""

RUN = """
import numpy as np
import qpu
from qpu.kernels import sgemm

draw = np.random.default_rng(0)
for board in ("pi0", "pi3", "pi4", "pi5"):
    with qpu.open_device(board) as gpu:
        a, b, c = (draw.uniform(-1, 1, s).astype(np.float32) for s in ((30, 9), (9, 40), (30, 40)))
        with sgemm.Sgemm(gpu, 30, 40, 9) as job:
            job.load(a, b, c, 1.5, -0.5)
            job.launch()
            error = abs(job.result() - sgemm.reference(1.5, a, b, -0.5, c))
        assert (error <= sgemm.error_bound(gpu.isa, 1.5, a, b, -0.5, c)).all()
        assert gpu.stats.engine == "reference", gpu.stats.engine
print("fine")
"""


PROGRAMS = """
import os, runpy
os.chdir({root!r})
sys.argv = {argv!r}
sys.path[0] = "examples"
runpy.run_path({script!r}, run_name="__main__")
"""

TESTS = """
import os, pytest
os.chdir({root!r})
sys.exit(pytest.main(["-q", "-n0", "-p", "no:cacheprovider", *{files!r}]))
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=HUNG_S)


def test_boards_run_on_the_reference_engine() -> None:
    done = python(RUN)
    assert done.stdout.strip() == "fine", done.stderr


@pytest.mark.parametrize("board", ["pi3", "pi5"])
def test_asking_for_the_compiled_engine_says_what_to_install(board: str) -> None:
    code = f"""
import qpu
try:
    qpu.open_device({board!r}, engine="compiled")
except qpu.UsageError as error:
    print(error)
"""
    done = python(code)
    assert "llvmlite" in done.stdout and "fast" in done.stdout, done.stderr


@pytest.mark.parametrize("board", ["pi0", "pi4", "pi5"])
def test_sgemm_example(board: str) -> None:
    script = "examples/sgemm.py"
    argv = [script, "--device", board, "--size", "48", "--json"]
    done = python(PROGRAMS.format(root=str(ROOT), argv=argv, script=script))
    assert done.returncode == 0, done.stderr
    (result,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert "reference" in done.stdout and "compiled" not in done.stdout, result


def test_engine_tests_pass() -> None:
    """Programs of all three instruction sets; those of the compiled engine are skipped, not failed."""
    files = ["tests/emu/vc4/test_branches.py", "tests/emu/v3d/test_loops.py", "tests/emu/test_engines_vc4.py"]
    done = python(TESTS.format(root=str(ROOT), files=files))
    assert done.returncode == 0, done.stdout[-2000:]
    assert "skipped" in done.stdout and "[compiled" not in done.stdout
