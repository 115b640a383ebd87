"""Generated kernels: plain Python, the KIR interpreter, what every pass makes (in the interpreters of KIR and MIR) and
the boards agree bit for bit, and no program breaks a rule.

Two hundred small ones here; ten thousand in `pytest -m soak`, in shards that go on where they were stopped:
QPU_FUZZ_DIR is where they note what is done, QPU_FUZZ_COUNT how many seeds there are.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.lang import select_v3d
from tests.lang.conftest import BOARDS, Boards
from tests.lang.fuzz import Case, case_of

pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
COUNT, SHARDS = 200, 20
SOAK, SOAK_SHARDS = int(os.environ.get("QPU_FUZZ_COUNT", "10000")), 50


def agree(case: Case, device: Device, *, brief: bool = False) -> None:
    """brief: not every pass by itself. Raises: AssertionError naming the seed and the first stage that differs."""
    isa = device.isa
    python = case.python(isa)
    assert len(case.checked(isa, brief=brief)) >= 8
    same(case, "the KIR interpreter", python, case.interpreted(isa, ieee=True))
    want = case.interpreted(isa) if isa is qpu.Isa.VC4 else python
    same(case, f"{device.info.emulated}", want, case.launched(device))


def same(case: Case, stage: str, want: list[np.ndarray], got: list[np.ndarray]) -> None:
    for name, a, b in zip(case.arguments.outputs, want, got, strict=True):
        assert np.array_equal(a, b), f"seed {case.seed}: {stage}: {name}: {np.flatnonzero(a != b)[:5]}\n{case.text}"


@pytest.mark.parametrize("shard", range(SHARDS))
def test_generated_kernels(shard: int, boards: Boards) -> None:
    """Each on one board by the reference engine, every tenth by the compiled one, too; every pass of every fourth."""
    for seed in range(shard * COUNT // SHARDS, (shard + 1) * COUNT // SHARDS):
        case, turn = case_of(seed, small=True), seed % len(BOARDS)
        agree(case, boards(BOARDS[turn]), brief=seed % 4 > 0)
        if not seed % 10:
            same(case, "the compiled engine", case.launched(boards(BOARDS[turn])),
                 case.launched(boards(BOARDS[turn], "compiled")))  # fmt: skip


def test_seeds_of_the_long_runs_that_found_faults() -> None:
    """1063: the last slot of a branch wrote what its target reads first; a loop had padded the block."""
    assert case_of(1063).kernel.compile("vc4").program.check() == []


@pytest.mark.soak
@pytest.mark.parametrize("shard", range(SOAK_SHARDS))
def test_many_generated_kernels(shard: int, boards: Boards, tmp_path: Path) -> None:
    """On all boards."""
    note = Path(os.environ.get("QPU_FUZZ_DIR", tmp_path)) / f"lang-{shard}"
    first, stop = 1000 + shard * SOAK // SOAK_SHARDS, 1000 + (shard + 1) * SOAK // SOAK_SHARDS
    if note.exists():
        first = max(first, int(note.read_text()))
    for seed in range(first, stop):
        case = case_of(seed)
        for board in BOARDS:
            agree(case, boards(board, "reference" if seed % 10 else "compiled"))
        note.write_text(str(seed + 1))


@pytest.fixture(autouse=True)
def _compile_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from the disk has no passes that could be checked, and wrong programs must not be kept there."""
    monkeypatch.setenv("QPU_CACHE_DIR", "off")


SWAPPED = [("add", "sub"), ("sub", "add"), ("min", "max"), ("fmul", "fadd"), ("xor", "or"), ("asr", "shr")]


@pytest.mark.parametrize(("operation", "other"), SWAPPED)
def test_a_wrong_row_of_selection_is_found(operation: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within ten kernels: 10 to 19, since those before have no minimum of i32."""
    monkeypatch.setenv("QPU_EMU_HOST_LIMIT_S", "20")  # a wrong loop may not end
    monkeypatch.setitem(select_v3d._OPERATIONS, operation, other)
    with qpu.open_device("pi5", engine="reference") as device:
        for seed in range(10, 20):
            try:
                agree(case_of(seed, small=True), device)
            except (AssertionError, qpu.EmuFault):
                return
    pytest.fail(f"{operation} computed by {other} was not found")
