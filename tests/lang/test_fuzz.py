"""Generated kernels: plain Python, the KIR interpreter, what every pass makes (in the interpreters of KIR and MIR) and
the boards agree bit for bit, and no program breaks a rule.

Two hundred small ones here; ten thousand in `pytest -m soak`, in shards that go on where they were stopped:
QPU_FUZZ_DIR is where they note what is done, QPU_FUZZ_COUNT how many seeds there are.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.lang import passes, select_v3d, select_vc4
from tests.lang.conftest import BOARDS, Boards
from tests.lang.fuzz import Case, case_of

pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
COUNT, SHARDS = 200, 20
SOAK, SOAK_SHARDS = int(os.environ.get("QPU_FUZZ_COUNT", "10000")), 50


BRIEF = ("front", "order", "colour", "modulo")
"""Passes of the cases of which not every pass is checked: what the front end made, and what the program is made of."""


def agree(case: Case, device: Device, *, brief: bool = False) -> None:
    """brief: not every pass by itself. Raises: AssertionError naming the seed and the first stage that differs."""
    placed, python = case.on(device), case.python(device.isa)
    compiled, made = passes.stages(placed.compiled, BRIEF if brief else None)
    names = [stage.name for stage in made]
    assert names[0] == "front" and "colour" in names and (brief or len(names) >= 8), f"seed {case.seed}: {names}"
    assert compiled.program.check() == [], f"seed {case.seed}, {device.info.emulated}"
    try:
        case.checked(compiled, made)
    except passes.PassError as error:
        raise AssertionError(f"seed {case.seed}: {error}\n{case.text}") from error
    same(case, "the KIR interpreter", python, case.interpreted(compiled, ieee=True))
    want = case.interpreted(compiled) if device.isa is qpu.Isa.VC4 else python
    same(case, f"{device.info.emulated}", want, placed.launched())


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


def test_seeds_of_the_long_runs_that_found_faults(boards: Boards) -> None:
    """1063: the last slot of a branch wrote what its target reads first; a loop had padded the block. 3585: the sign of
    a zero that `ceil` gives on VideoCore IV.
    """
    assert case_of(1063).kernel.compile("vc4").program.check() == []
    agree(long_case(3585), boards("pi3"))


def long_case(seed: int) -> Case:
    """One in a hundred is of any size, one in three of the others reads further arrays."""
    return case_of(seed) if seed % 100 == 0 else case_of(seed, small=True, loads=seed % 3 == 0)


@pytest.mark.soak
@pytest.mark.parametrize("shard", range(SOAK_SHARDS))
def test_many_generated_kernels(shard: int, boards: Boards, tmp_path: Path) -> None:
    """On all boards; every pass of every tenth."""
    note = Path(os.environ.get("QPU_FUZZ_DIR", tmp_path)) / f"lang-{shard}"
    first, stop = 1000 + shard * SOAK // SOAK_SHARDS, 1000 + (shard + 1) * SOAK // SOAK_SHARDS
    if note.exists():
        first = max(first, int(note.read_text()))
    for seed in range(first, stop):
        case = long_case(seed)
        for board in BOARDS:
            agree(case, boards(board), brief=seed % 10 != 5)
            if seed % 10 == 0:
                same(case, f"{board}, compiled engine", case.launched(boards(board)),
                     case.launched(boards(board, "compiled")))  # fmt: skip
        note.write_text(str(seed + 1))


@pytest.fixture(autouse=True)
def _compile_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from the disk has no passes that could be checked, and wrong programs must not be kept there."""
    monkeypatch.setenv("QPU_CACHE_DIR", "off")


ROWS: dict[qpu.Isa, Any] = {qpu.Isa.VC4: select_vc4, qpu.Isa.V3D42: select_v3d, qpu.Isa.V3D71: select_v3d}
SWAPPED = {
    "add": "sub", "sub": "add", "and": "or", "or": "xor", "xor": "or", "shl": "shr", "shr": "asr", "asr": "shr",
    "ror": "shr", "min": "max", "max": "min", "umin": "umax", "umax": "umin", "fadd": "fsub", "fsub": "fadd",
    "fmul": "fadd", "fmin": "fmax", "fmax": "fmin", "umul24": "add", "not": "clz", "clz": "not", "itof": "not",
    "utof": "not", "ffloor": "fceil", "fceil": "ffloor", "ftrunc": "fround", "fround": "ftrunc", "ftoi": "not",
    "ftou": "not",
}  # fmt: skip
"""A row of selection, and a wrong one of as many operands. Without the special functions, which generated kernels leave
out: they are approximations."""
OFTEN = ("add", "sub", "min", "fmul", "xor", "asr")
EVERY = [(name, isa) for isa in ROWS for name in SWAPPED if name in ROWS[isa]._OPERATIONS]


TEN = range(10, 20)
"""Seeds of kernels of which three need each row."""


@pytest.mark.parametrize("turn", range(len(BOARDS)))
def test_kernels_that_need_every_row(turn: int, boards: Boards) -> None:
    """With right rows nothing is found in them."""
    for seed in TEN:
        agree(case_of(seed, small=True, every=True), boards(BOARDS[turn]), brief=True)


def found(operation: str, device: Device, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether one of ten kernels tells that an operation is computed by another one."""
    monkeypatch.setenv("QPU_EMU_HOST_LIMIT_S", "20")
    monkeypatch.setitem(ROWS[device.isa]._OPERATIONS, operation, SWAPPED[operation])

    def endless(*_: object) -> None:
        raise AssertionError("a wrong loop does not end")

    before = signal.signal(signal.SIGVTALRM, endless)
    try:
        for seed in TEN:
            try:
                signal.setitimer(signal.ITIMER_VIRTUAL, 5)  # seconds, of the interpreters as well
                agree(case_of(seed, small=True, every=True), device, brief=True)
            except (AssertionError, qpu.EmuFault):
                return True
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return False


@pytest.mark.parametrize("number", range(len(OFTEN)), ids=OFTEN)
def test_a_wrong_row_of_selection_is_found(number: int, boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within ten kernels, of the rows that most kernels need; the instruction sets take turns."""
    assert found(OFTEN[number], boards(BOARDS[number % len(BOARDS)]), monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize(("operation", "isa"), EVERY)
def test_every_wrong_row_is_found(
    operation: str, isa: qpu.Isa, boards: Boards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within ten kernels."""
    assert found(operation, boards.of(isa), monkeypatch)
