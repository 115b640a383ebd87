"""Everything still works, slower, where llvmlite cannot be had."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llvmlite":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
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


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=120)


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
