"""Tests of performance counters of devices: every family, by the names of Linux."""

from __future__ import annotations

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.emu.port import EmuPort
from qpu.emu.testing import RecordingPort
from tests.hw.programs import binary

BUSY = {
    "pi3": "QPU-total-clk-cycles-executing-valid-instr",
    "pi4": "QPU-total-clk-cycles-executing-valid-instr",
    "pi5": "QPU-active",
}
READS = {"pi3": "TMU-total-text-quads-processed", "pi4": "TMU-total-text-quads-access", "pi5": "TMU-active-cycles"}
BOARDS = tuple(BUSY)


def work(gpu: Device, times: int = 1) -> int:
    """Run the same launch some times; instructions executed."""
    x, out = gpu.array(np.ones(16, np.uint32)), gpu.empty(16, np.uint32)
    program = binary(gpu.isa, "add")
    total = 0
    for _ in range(times):
        gpu.run(program, [x, x, out])
        assert gpu.stats is not None
        total += gpu.stats.instructions
    return total


@pytest.mark.parametrize("board", BOARDS)
def test_counts_follow_the_instructions(board: str) -> None:
    """Four clocks an instruction, and requests of the TMU are seen."""
    with qpu.open_device(board) as gpu:
        work(gpu)
        with gpu.counters(BUSY[board], READS[board]) as values:
            assert values == {}  # filled at the end
            instructions = work(gpu, 3)
        assert list(values) == [BUSY[board], READS[board]]
        assert values[BUSY[board]] == 4 * instructions
        assert values[READS[board]] > 0
        work(gpu)
        assert values[BUSY[board]] == 4 * instructions  # nothing outside the block


@pytest.mark.parametrize("board", ["pi4", "pi5"])
def test_cycles(board: str) -> None:
    with qpu.open_device(board) as gpu:
        with gpu.counters("cycle-count") as once:
            work(gpu)
        with gpu.counters("cycle-count") as twice:
            work(gpu, 2)
        assert 0 < once["cycle-count"] < twice["cycle-count"]


@pytest.mark.parametrize("board", BOARDS)
def test_asynchronous_launches_are_counted(board: str) -> None:
    with qpu.open_device(board) as gpu:
        x, out = gpu.array(np.ones(16, np.uint32)), gpu.empty(16, np.uint32)
        with gpu.counters(BUSY[board]) as values:
            launch = gpu.submit(binary(gpu.isa, "add"), [x, x, out])
        launch.wait()
        assert launch.stats is not None
        assert values[BUSY[board]] == 4 * launch.stats.instructions


@pytest.mark.parametrize("board", BOARDS)
def test_no_launch_no_count(board: str) -> None:
    with qpu.open_device(board) as gpu, gpu.counters(BUSY[board]) as values:
        pass
    assert values == {BUSY[board]: 0}


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("QPU-actve",), "QPU"),
        (("nonsense",), "nonsense"),
        ((), "name at least one|were asked for"),
        (("twice", "twice"), "twice"),
    ],
)
def test_wrong_names_are_refused_before_any_call(board: str, names: tuple[str, ...], message: str) -> None:
    inner = EmuPort(board)
    port = RecordingPort(inner)
    with qpu.open_device(port=port) as gpu:
        with pytest.raises(qpu.UsageError, match=message), gpu.counters(*names):
            pytest.fail("the block must not run")
        changing = [c for c in port.calls if "PERFMON_CREATE" in c.name]
        assert changing == []
        work(gpu)
    assert inner.leaked == []


@pytest.mark.parametrize("board", BOARDS)
def test_known_twice_is_refused(board: str) -> None:
    with (
        qpu.open_device(board) as gpu,
        pytest.raises(qpu.UsageError, match=r"twice|once"),
        gpu.counters(BUSY[board], BUSY[board]),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("board", BOARDS)
def test_too_many(board: str) -> None:
    with qpu.open_device(board) as gpu:
        if gpu.isa is Isa.VC4:
            from qpu.drivers.vc4.registers import COUNTERS as TABLE

            names = TABLE[:17]
        else:
            from qpu.drivers.counters import COUNTERS

            names = COUNTERS[gpu.isa][:33]
        with pytest.raises(qpu.UsageError), gpu.counters(*names):
            pytest.fail("the block must not run")
        with gpu.counters(*names[:16]) as values:
            work(gpu)
        assert list(values) == list(names[:16]) and any(values.values())


@pytest.mark.parametrize("board", ["pi4,linux=old", "pi5,linux=old"])
def test_old_linux_say_so(board: str) -> None:
    with qpu.open_device(board) as gpu:
        with (
            pytest.raises(qpu.DriverError, match=r"performance counters \(Linux 5\.15 and newer\)"),
            gpu.counters("cycle-count"),
        ):
            pytest.fail("the block must not run")
        work(gpu)


def test_without_root_videocore_iv_says_so() -> None:
    with qpu.open_device("pi3,devmem=0") as gpu:
        with pytest.raises(qpu.DriverError, match=r"/dev/mem|root|registers"), gpu.counters(BUSY["pi3"]):
            pytest.fail("the block must not run")
        work(gpu)


@pytest.mark.parametrize("board", BOARDS)
def test_an_exception_inside_frees_the_monitor(board: str) -> None:
    port = EmuPort(board)
    with qpu.open_device(port=port) as gpu:
        work(gpu)
        before = port.allocated()
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), gpu.counters(BUSY[board]):
                raise ZeroDivisionError
        assert port.allocated() == before
        with gpu.counters(BUSY[board]) as values:
            work(gpu)
        assert values[BUSY[board]] > 0
    assert port.leaked == []


@pytest.mark.parametrize("board", BOARDS)
def test_blocks_do_not_nest(board: str) -> None:
    """V3D has one monitor for each launch, VideoCore IV one set of registers."""
    with qpu.open_device(board) as gpu, gpu.counters(BUSY[board]) as values:
        with pytest.raises(qpu.UsageError), gpu.counters(BUSY[board]):
            pytest.fail("the block must not run")
        instructions = work(gpu)
    assert values[BUSY[board]] == 4 * instructions
