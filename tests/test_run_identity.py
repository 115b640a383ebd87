"""Tests that statistics and warnings of a launch are its own, not those of the job that ended last."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.drivers.board import detect
from qpu.drivers.vc4.adapter import Vc4Driver
from qpu.emu.port import EmuPort
from qpu.errors import EmuWarning, GpuResetError, GpuTimeoutError

V3D_END = (
    "nop ; nop ; thrsw\nnop ; nop ; thrsw\nnop ; nop\nnop ; nop\nnop ; nop ; thrsw\nnop ; nop\nnop ; nop\nnop ; nop\n"
)
VC4_END = "mov interrupt, 1\nthrend\nnop\nnop\n"
WILD = 0x7F000000


def program(isa: Isa, idle: int, body: str = "") -> qpu.Program:
    """`body`, then that many instructions that do nothing."""
    nop, end = ("nop\n", VC4_END) if isa is Isa.VC4 else ("nop ; nop\n", V3D_END)
    return qpu.assemble(body + nop * idle + end, isa=isa)


def wild(isa: Isa) -> qpu.Program:
    """A fault that hardware survives: a load outside of every buffer, on VideoCore IV an SFU result read early."""
    if isa is Isa.VC4:
        return program(isa, 0, "mov r0, unif\nmov recip, r0\nmov r1, r4\n")
    return program(isa, 0, "nop ; nop ; ldunifrf.rf11\nor tmua, rf11, rf11 ; nop\nnop ; nop ; ldtmu.rf13\n")


def endless(isa: Isa) -> qpu.Program:
    if isa is Isa.VC4:
        return qpu.assemble("l: brr -, :l\nnop\nnop\nnop\n" + VC4_END, isa=isa)
    return qpu.assemble("l: b l\nnop ; nop\nnop ; nop\nnop ; nop\n" + V3D_END, isa=isa)


@pytest.fixture(params=["pi3", "pi3 by registers", "pi4", "pi5"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Device]:
    board, _, way = request.param.partition(" ")
    port = EmuPort(board, strict=False)
    device = Device(Vc4Driver(port, detect(port), launch="registers"), port) if way else qpu.open_device(port=port)
    with device:
        yield device


def executed(gpu: Device, idle: int) -> int:
    """Instructions of `program(idle)`."""
    return gpu_instructions(gpu.run(program(gpu.isa, idle)))


def gpu_instructions(launch: qpu.device.Launch) -> int:
    assert launch.stats is not None
    return launch.stats.instructions


@pytest.mark.parametrize("first", [0, 1])
def test_two_launches_in_flight(gpu: Device, first: int) -> None:
    short, long = executed(gpu, 1), executed(gpu, 1000)
    assert long == short + 999
    launches = [gpu.submit(program(gpu.isa, 1000), []), gpu.submit(program(gpu.isa, 1), [])]
    launches[first].wait()
    launches[1 - first].wait()
    assert [gpu_instructions(x) for x in launches] == [long, short]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_warning_belongs_to_its_launch(gpu: Device, first: int, order: tuple[int, int]) -> None:
    programs = [(wild(gpu.isa), [WILD]), (program(gpu.isa, 5), [])]
    launches: dict[int, qpu.device.Launch] = {}
    for which in order:
        launches[which] = gpu.submit(*programs[which])
    found = {}
    for which in (first, 1 - first):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            launches[which].wait()
        found[which] = [w for w in caught if issubclass(w.category, EmuWarning)]
    assert found[0] and not found[1]
    assert ("mov r1, r4" if gpu.isa is Isa.VC4 else f"{WILD:#x}") in str(found[0][0].message)


def test_statistics_of_a_launch_that_was_reset() -> None:
    """The check whether the GPU still works runs a program of its own, which must not be taken for the job."""
    for board in ("pi4", "pi5"):
        with qpu.open_device(board) as gpu:
            launch = gpu.submit(endless(gpu.isa), [])
            with pytest.raises(GpuResetError, match="trivial job"):
                launch.wait()
            assert gpu_instructions(launch) > 1000


def test_statistics_of_a_launch_that_timed_out() -> None:
    port = EmuPort("pi3")
    with qpu.open_device(port=port) as gpu:
        launch = gpu.submit(endless(gpu.isa), [], timeout_s=0.1)
        with pytest.raises(GpuTimeoutError):
            launch.wait()
        gpu.run(program(gpu.isa, 1))
        assert gpu_instructions(launch) > 1000


def test_parts_of_a_dispatch_count_together() -> None:
    with qpu.open_device("pi5") as gpu:
        whole = gpu.run(program(gpu.isa, 10), [], qpu.v3d.Dispatch(workgroups=8))
        other = gpu.submit(program(gpu.isa, 700), [])
        parts = gpu.submit(program(gpu.isa, 10), [], qpu.v3d.Dispatch(workgroups=8, max_batches=2))
        gpu.run(program(gpu.isa, 1))
        parts.wait()
        other.wait()
        assert gpu_instructions(parts) == gpu_instructions(whole)


def test_a_real_board_has_no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with qpu.open_device("pi5") as gpu:
        monkeypatch.delattr(EmuPort, "submitted")
        assert gpu.run(program(gpu.isa, 1)).stats is None
