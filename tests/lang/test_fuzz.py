"""Generated kernels: plain Python, the KIR interpreter and the boards agree bit for bit, and no program breaks a rule.

Two hundred here; ten thousand in `pytest -m soak`, in shards that go on where they were stopped: QPU_FUZZ_DIR is where
they note what is done, QPU_FUZZ_COUNT how many seeds there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.lang import select_v3d
from tests.lang.fuzz import Case, case_of

pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
BOARDS = ("pi3", "pi4", "pi5")
COUNT, SHARDS = 200, 20
SOAK, SOAK_SHARDS = int(os.environ.get("QPU_FUZZ_COUNT", "10000")), 50


@pytest.fixture(scope="module")
def boards() -> Iterator[dict[str, Device]]:
    found = {f"{b} {e}": qpu.open_device(b, engine=e) for b in BOARDS for e in ("reference", "compiled")}
    yield found
    for device in found.values():
        device.close()


def agree(case: Case, device: Device) -> None:
    """Raises: AssertionError naming the seed and the first stage that differs."""
    isa = device.isa
    python = case.python(isa)
    same(case, "the KIR interpreter", python, case.interpreted(isa, ieee=True))
    want = case.interpreted(isa) if isa is qpu.Isa.VC4 else python
    same(case, f"{device.info.emulated}", want, case.launched(device))


def same(case: Case, stage: str, want: list[np.ndarray], got: list[np.ndarray]) -> None:
    for name, a, b in zip(case.arguments.outputs, want, got, strict=True):
        assert np.array_equal(a, b), f"seed {case.seed}: {stage}: {name}: {np.flatnonzero(a != b)[:5]}\n{case.text}"


@pytest.mark.parametrize("shard", range(SHARDS))
def test_generated_kernels(shard: int, boards: dict[str, Device]) -> None:
    """Each on one board by the reference engine, every tenth by the compiled one, too."""
    for seed in range(shard * COUNT // SHARDS, (shard + 1) * COUNT // SHARDS):
        case, board = case_of(seed), BOARDS[seed % len(BOARDS)]
        agree(case, boards[f"{board} reference"])
        if not seed % 10:
            same(case, "the compiled engine", case.launched(boards[f"{board} reference"]),
                 case.launched(boards[f"{board} compiled"]))  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("shard", range(SOAK_SHARDS))
def test_many_generated_kernels(shard: int, boards: dict[str, Device], tmp_path: Path) -> None:
    """On all boards."""
    note = Path(os.environ.get("QPU_FUZZ_DIR", tmp_path)) / f"lang-{shard}"
    first, stop = 1000 + shard * SOAK // SOAK_SHARDS, 1000 + (shard + 1) * SOAK // SOAK_SHARDS
    if note.exists():
        first = max(first, int(note.read_text()))
    for seed in range(first, stop):
        case = case_of(seed)
        for board in BOARDS:
            agree(case, boards[f"{board} {'reference' if seed % 10 else 'compiled'}"])
        note.write_text(str(seed + 1))


SWAPPED = [("add", "sub"), ("sub", "add"), ("min", "max"), ("fmul", "fadd"), ("xor", "or"), ("asr", "shr")]


@pytest.mark.parametrize(("operation", "other"), SWAPPED)
def test_a_wrong_row_of_selection_is_found(
    operation: str, other: str, boards: dict[str, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within ten kernels: 10 to 19, since those before have no minimum of i32. Wrong programs are not kept on disk."""
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    monkeypatch.setitem(select_v3d._OPERATIONS, operation, other)
    for seed in range(10, 20):
        try:
            agree(case_of(seed), boards["pi5 reference"])
        except (AssertionError, qpu.EmuFault):
            return
    pytest.fail(f"{operation} computed by {other} was not found")
