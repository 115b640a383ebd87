"""Tests of the sanitizer: every planted fault is found at its line, and correct programs have no findings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu import v3d
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.kernels import move
from qpu.kernels.sgemm import Sgemm
from tests.debug import faults_v3d, faults_vc4
from tests.lang import ten_kernels

V3D = [
    (board, fault)
    for board, isa in (("pi4", Isa.V3D42), ("pi5", Isa.V3D71))
    for fault in faults_v3d.FAULTS
    if fault.only in (None, isa)
]


@pytest.fixture(scope="module")
def boards() -> Iterator[dict[str, Device]]:
    opened = {name: qpu.open_device(name) for name in ("pi3", "pi4", "pi5")}
    yield opened
    for gpu in opened.values():
        gpu.close()


def caught(run: Any) -> qpu.EmuFault:
    with qpu.sanitize(), pytest.raises(qpu.EmuFault) as found:
        run()
    return found.value


def check(fault: qpu.EmuFault, rule: str) -> None:
    """The finding has the rule, names its line, and the second line where the program marks one."""
    assert fault.rule == rule, fault
    loc = fault.place.loc
    assert loc is not None and "# here" in loc.source, fault
    with open(loc.file) as file:
        body = file.read().splitlines()
    start = max(n for n in range(loc.line) if body[n].startswith("def "))
    stop = next((n for n in range(loc.line, len(body)) if body[n].startswith(("def ", "@"))), len(body))
    if any("# there" in line for line in body[start:stop]):
        assert fault.other is not None and fault.other.loc is not None, fault
        assert "# there" in fault.other.loc.source, fault
        assert fault.other.disassembly and fault.place.qpu is not None


@pytest.mark.parametrize(("board", "fault"), V3D, ids=lambda v: v if isinstance(v, str) else v.name)
def test_faults_of_v3d(boards: dict[str, Device], board: str, fault: faults_v3d.Fault) -> None:
    gpu = boards[board]
    x, y = gpu.array(np.arange(fault.x, dtype=np.uint32)), gpu.empty(fault.y, np.uint32)
    program = qpu.assemble(fault.build, isa=gpu.isa, check=False)
    together = fault.threads if fault.together else 1
    shape = v3d.Dispatch(workgroups=fault.threads, workgroups_per_supergroup=together)
    check(caught(lambda: gpu.run(program, [x, y], shape)), fault.rule)


@pytest.mark.parametrize("fault", faults_vc4.FAULTS, ids=lambda fault: fault.name)
def test_faults_of_vc4(fault: faults_vc4.Fault) -> None:
    with qpu.open_device("pi3") as gpu:
        x, y = gpu.array(np.arange(fault.x, dtype=np.uint32)), gpu.empty(fault.y, np.uint32)
        program = qpu.assemble(fault.build, isa=gpu.isa, check=False)

        def run() -> None:
            for _ in range(fault.launches):
                gpu.run(program, [[x, y, n] for n in range(fault.qpus)])

        check(caught(run), fault.rule)


def test_there_are_twenty_faults_of_each_instruction_set() -> None:
    count = [len([f for b, f in V3D if b == board]) for board in ("pi4", "pi5")]
    assert min(*count, len(faults_vc4.FAULTS)) >= 20


def test_the_planted_faults_of_each_instruction_set_are_of_all_kinds() -> None:
    kinds = {"out-of-bounds": "mem", "uniforms-end": "mem", "uninitialised": "init", "race": "race", "dma-race": "race"}
    kinds |= {"dma-twice": "race", "dma-end": "race", "deadlock": "sync", "semaphore-left": "sync", "lost": "sync"}
    for rules in ({f.rule for b, f in V3D if b == board} for board in ("pi4", "pi5")):
        assert {kinds[rule] for rule in rules} == {"mem", "init", "race", "sync"}, rules
    rules = {f.rule for f in faults_vc4.FAULTS}
    assert {kinds[rule] for rule in rules} == {"mem", "init", "race", "sync"} and {"dma-end", "semaphore-left"} <= rules


# -- programs without a fault


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_correct_programs_have_no_findings(boards: dict[str, Device], board: str) -> None:
    """In-place updates, lanes that are off, scratch memory, atomics, a prefix sum over workers."""
    gpu = boards[board]
    rng = np.random.default_rng(3)
    with qpu.sanitize() as findings:
        x, y = gpu.array(rng.standard_normal(65).astype(np.float32)), gpu.array(np.ones(65, np.float32))
        ten_kernels.saxpy(2.0, x, y)
        numbers = gpu.array(rng.integers(0, 8, 77).astype(np.uint8))
        if gpu.isa is not Isa.VC4:
            bins = gpu.zeros(256, np.int32)
            ten_kernels.histogram(numbers, bins)
            assert bins.numpy().sum() == 77
        both = gpu.array(np.ones(75, np.float32))
        ten_kernels.saxpy(2.0, x[::2], both[74::-2][:33])  # lanes that are off load the first element, at the end
        empty = gpu.empty(65)
        ten_kernels.saxpy(0.0, x, y)
        assert empty.numpy().sum() == 0
    assert not len(findings)


def test_rows_outside_of_a_product_are_not_loaded_while_they_are_stored(boards: dict[str, Device]) -> None:
    """Rows below C and columns right of it, of which the last tile has many."""
    with qpu.sanitize() as findings, Sgemm(boards["pi3"], 19, 18, 4, kernel="rotate") as job:
        job.load(*(np.ones(shape, np.float32) for shape in ((19, 4), (4, 18), (19, 18))), 1.5, -0.5)
        job.launch().wait()
        assert (job.result() == 5.5).all()
    assert not len(findings)


def test_an_immediate_may_set_flags_only(boards: dict[str, Device]) -> None:
    """As programs of py-videocore fill a vector from uniforms, lane by lane."""

    def fill(q: Any) -> None:
        for lane in range(2):
            q.ldi(q.null, [int(n != lane) for n in range(16)], push="z")
            q.mov(q.r2, q.uniform, cond="ifz")
        q.nop()
        q.nop().mov(q.r5rep, q.r2, rotate=15)
        q.setup_vpm_write()
        q.mov(q.vpm, q.r5)
        q.setup_dma_store(nrows=1)
        q.nop().mov(q.r5rep, q.r2)
        q.start_dma_store(q.r5)
        q.wait_dma_store()
        q.end()

    gpu = boards["pi3"]
    y = gpu.empty(16, np.uint32)
    with qpu.sanitize() as findings:
        gpu.run(qpu.assemble(fill, isa=gpu.isa), [y, 7])
    assert not len(findings) and (y.numpy() == 7).all()


@pytest.mark.parametrize("board", ["pi3", "pi5"])
def test_words_of_which_some_bytes_were_written(boards: dict[str, Device], board: str) -> None:
    gpu = boards[board]
    with qpu.sanitize() as findings:
        mask, out = gpu.array(np.array([True])), gpu.zeros(1, np.int16)
        assert move.compact(gpu.array(np.array([5], np.int16)), mask, out) == 1  # flags of one byte go through memory
        assert out.numpy()[0] == 5
    assert not len(findings)


CLEAN = """tests/lang/test_ten_kernels.py tests/lang/test_others.py tests/lang/test_harder.py tests/test_examples.py
           tests/compat tests/kernels""".split()
FAST = "a_whole_launch_with_packing"
"""A test of the compiled engine, which the sanitizer replaces: 60 million instructions take the reference engine an
hour. Smaller products are there."""


@pytest.mark.soak
def test_the_suite_has_no_findings(tmp_path: Path) -> None:
    """All examples, programs of the predecessors, kernels of the language and the library: more than 200 programs that
    differ, on boards of each generation. No finding."""
    root, counted = Path(__file__).parents[2], tmp_path / "count.json"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "--durations=30", "-p", "tests.debug.counted", *CLEAN,
               "-k", f"not {FAST}"]  # fmt: skip
    environment = os.environ | {"QPU_SANITIZE": "all", "QPU_TEST_COUNT": str(counted)}
    subprocess.run(command, cwd=root, env=environment, check=True, timeout=7200)
    programs = json.loads(counted.read_text())
    print(programs)
    assert min(programs[isa] for isa in Isa) >= 50 and sum(programs.values()) >= 200


# -- what happens with findings


def race(q: Any) -> None:
    faults_v3d.two_stores_to_one_word(q)


def test_findings_can_be_collected(boards: dict[str, Device]) -> None:
    gpu = boards["pi5"]
    x, y = gpu.array(np.zeros(16, np.uint32)), gpu.empty(16, np.uint32)
    program, shape = qpu.assemble(race, isa=gpu.isa), v3d.Dispatch(workgroups=2)
    with qpu.sanitize("race", stop=False) as findings, pytest.warns(qpu.EmuWarning, match="not ordered"):
        launch = gpu.run(program, [x, y], shape)
    assert launch.stats is not None and launch.stats.engine == "reference"
    found = list(findings)
    assert [f.rule for f in found] == ["race"] and found[0].other is not None
    assert "uint32[16] + 0 bytes" in found[0].message and "QPU 0" in found[0].message and len(findings) == 1
    with qpu.sanitize("init"):
        gpu.run(program, [x, y], shape)  # not what was asked for
    assert gpu.run(program, [x, y], shape).stats is not None  # off again


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(qpu.UsageError, match="'races' is not a kind"), qpu.sanitize("races"):
        pass


def test_the_environment_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is when the board is opened."""

    def launch() -> None:
        with qpu.open_device("pi4") as gpu:
            x, y = gpu.array(np.zeros(16, np.uint32)), gpu.empty(16, np.uint32)
            gpu.run(qpu.assemble(race, isa=gpu.isa), [x, y], v3d.Dispatch(workgroups=2))

    monkeypatch.setenv("QPU_SANITIZE", "race,sync")
    with pytest.raises(qpu.EmuFault, match="race"):
        launch()
    monkeypatch.setenv("QPU_SANITIZE", "0")
    launch()
    monkeypatch.setenv("QPU_SANITIZE", "everything")
    with pytest.raises(qpu.UsageError, match="everything"):
        launch()


def test_semaphores_and_vpm_are_those_of_the_board(boards: dict[str, Device]) -> None:
    """Launches with and without the sanitizer share the chip."""

    def up(q: Any) -> None:
        q.sema_up(2)
        q.end()

    def down(q: Any) -> None:
        q.sema_down(2)
        q.end()

    gpu = boards["pi3"]
    gpu.run(qpu.assemble(up, isa=gpu.isa))
    with qpu.sanitize(stop=False) as findings, pytest.warns(qpu.EmuWarning, match="semaphore 2 is 1"):
        gpu.run(qpu.assemble(down, isa=gpu.isa))
    assert [f.rule for f in findings] == ["semaphore-left"]


@pytest.mark.skipif(sys.platform != "linux", reason="qpu emulate needs Linux")
def test_qpu_emulate_sanitizes(tmp_path: Path) -> None:
    script = tmp_path / "race.py"
    script.write_text(
        "import numpy as np, qpu\nfrom qpu import v3d\nfrom tests.debug.faults_v3d import two_stores_to_one_word as f\n"
        "with qpu.open_device('hardware') as gpu:\n"
        "    x, y = gpu.zeros(16, np.uint32), gpu.zeros(16, np.uint32)\n"
        "    gpu.run(qpu.assemble(f, isa=gpu.isa), [x, y], v3d.Dispatch(workgroups=2))\n"
    )
    command = [sys.executable, "-m", "qpu", "emulate", "--board", "pi5", "--sanitize=race", str(script)]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert "not ordered" in ran.stderr and ran.returncode == 0


def test_text_that_relies_on_accumulators_across_a_switch(boards: dict[str, Device]) -> None:
    """Also where the value is not used: flags and accumulators of 4.2 after a thread switch."""
    text = (
        "or r0, 5, 5\nsub.pushz -, r0, 5\nnop; nop; thrsw\nnop\nnop\nor.ifa rf1, r0, r0\nnop ; nop ; thrsw\n"
        "nop ; nop ; thrsw\nnop\nnop\nnop ; nop ; thrsw\nnop\nnop\n"
    )
    gpu = boards["pi4"]
    found = caught(lambda: gpu.run(qpu.assemble(text, isa=gpu.isa)))
    assert (found.rule, found.place.instruction) == ("lost", 5)
    assert found.other is not None and found.other.instruction == 2


def test_wrong_options_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, text in (
        ({"kinds": 5}, "kinds = 5"),
        ({"kinds": [1]}, r"kinds = \[1\]"),
        ({"stop": "no"}, "stop = 'no'"),
    ):
        with pytest.raises(qpu.UsageError, match=f"{text}; allowed: "), qpu.sanitize(**given):  # type: ignore[arg-type]
            pass
    monkeypatch.setenv("QPU_SANITIZE", "init,init")  # not asked for by another test
    monkeypatch.setenv("QPU_SANITIZE_STOP", "perhaps")
    with pytest.raises(qpu.UsageError, match="QPU_SANITIZE_STOP='perhaps'\n  help: set it to 0"):
        qpu.open_device("pi5")
