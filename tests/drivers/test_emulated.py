"""Tests of adapter and detection on emulated boards, with the same code as on a real board, including programs."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from qpu.core.isa import Isa
from qpu.drivers import doctor
from qpu.drivers.base import CsdJob
from qpu.drivers.drm.adapter import DrmBo, DrmV3d
from qpu.drivers.errors_table import ADVICE, reason_of
from qpu.drivers.probe import EMULATE, open_driver
from qpu.emu.port import EmuPort
from qpu.emu.testing import RecordingPort
from qpu.errors import DriverError, GpuResetError, GpuTimeoutError, NoDeviceError, UsageError

# Each lane stores its number to base + 4 * lane (v3d.md section 15).
EIDX = {
    Isa.V3D42: (
        *(0x3D803180BB802000, 0x3DE032C17CE38002, 0x3C00318C3880E000, 0x3C003186BB815000, 0x3C203186BB800000),
        *(0x3C203186BB800000, 0x3C003186BB800000, 0x3C003186BB800000, 0x3C203186BB800000, 0x3C003186BB800000),
        0x3C003186BB800000,
    ),
    Isa.V3D71: (
        *(0x3980618ABB03F002, 0x39E022CB7C283282, 0x3800318C3803F04B, 0x38003186BB03F00F, 0x38203186BB03F000),
        *(0x38203186BB03F000, 0x38003186BB03F000, 0x38003186BB03F000, 0x38203186BB03F000, 0x38003186BB03F000),
        0x38003186BB03F000,
    ),
}
DRM_BOARDS = ["pi4", "pi4,linux=old", "pi4,card=1", "pi5", "pi5,slices=3", "pi5,rev=10", "pi5,page=16k", "pi5,card=0"]


def eidx(driver: DrmV3d) -> tuple[DrmBo, CsdJob]:
    bo = driver.alloc(8192)
    code = b"".join(word.to_bytes(8, "little") for word in EIDX[driver.info.isa])
    bo.view[: len(code)] = code
    bo.view[2048:2052] = (bo.address + 4096).to_bytes(4, "little")
    return bo, CsdJob(code=bo.address, uniforms=bo.address + 2048, bos=(bo,), threads=2)


def endless(driver: DrmV3d) -> CsdJob:
    import qpu

    bo = driver.alloc(4096)
    program = qpu.assemble(LOOP, isa=driver.info.isa)
    bo.view[: len(program.data)] = program.data
    return CsdJob(code=bo.address, uniforms=bo.address + 2048, bos=(bo,))


LOOP = "loop:\nb loop\nnop\nnop\nnop"


@pytest.mark.parametrize("board", DRM_BOARDS)
def test_a_program_runs(board: str) -> None:
    port = EmuPort(board)
    driver: Any = open_driver(port)
    bo, job = eidx(driver)
    fence = driver.submit(job)
    fence.wait(1.0)
    assert bytes(bo.view[4096:4160]) == b"".join(i.to_bytes(4, "little") for i in range(16))
    bo.close()
    driver.close()
    assert port.allocated() == []
    port.shutdown()


@pytest.mark.parametrize(
    ("board", "soc", "generation", "isa", "qpus"),
    [
        ("pi0", "BCM2835", 4, "vc4", 12),
        ("pi1", "BCM2835", 4, "vc4", 12),
        ("pi2", "BCM2836", 4, "vc4", 12),
        ("pi3", "BCM2837", 4, "vc4", 12),
        ("pi4", "BCM2711", 6, "v3d42", 8),
        ("pi5", "BCM2712", 7, "v3d71", 16),
        ("pi5,slices=3", "BCM2712", 7, "v3d71", 12),
    ],
)
def test_info(board: str, soc: str, generation: int, isa: str, qpus: int) -> None:
    port = EmuPort(board)
    data = doctor.info(port)
    assert (data["board"]["soc"], data["board"]["generation"]) == (soc, generation)
    device = data["device"]
    assert (device["isa"], device["qpus"], device["emulated"], device["emulated_board"]) == (isa, qpus, True, board)
    assert data["reason"] is None
    assert port.allocated() == []
    port.shutdown()


@pytest.mark.parametrize("board", ["pi0", "pi3", *DRM_BOARDS])
def test_doctor_finds_nothing_wrong(board: str) -> None:
    port = EmuPort(board)
    report = doctor.examine(port)
    assert report.usable, doctor.checks_text(report)
    assert [c for c in report.checks if c.status is doctor.Status.FAIL] == []
    assert port.allocated() == []
    port.shutdown()


def test_permission_denied() -> None:
    port = EmuPort("pi5,deny=1")
    with pytest.raises(NoDeviceError) as caught:
        open_driver(port)
    assert caught.value.errno == errno.EACCES
    assert reason_of(caught.value)[1] == (ADVICE["eacces-open"].help, EMULATE)
    assert not doctor.examine(port).usable
    assert port.allocated() == []
    port.shutdown()


def test_linux_owns_v3d_on_a_pi_3() -> None:
    port = EmuPort("pi3,kms=1")
    with pytest.raises(NoDeviceError) as caught:
        open_driver(port)
    assert ADVICE["enable-refused"].help in reason_of(caught.value)[1]
    report = doctor.examine(port)
    (check,) = (c for c in report.checks if c.name == "display driver")
    assert check.helps[0] == ADVICE["enable-refused"].help
    assert all("[uncertain]" in text for text in check.helps[1:])  # which images work without that line
    assert port.allocated() == []
    port.shutdown()


def test_the_display_card_is_refused() -> None:
    port = EmuPort("pi5,card=1")
    with pytest.raises(NoDeviceError, match="its driver is vc4"):
        open_driver(port, "/dev/dri/card0")
    open_driver(port, "/dev/dri/card1").close()
    assert port.allocated() == []
    port.shutdown()


@pytest.mark.parametrize("board", ["pi4", "pi5"])
def test_a_timeout_on_emulated_time_and_then_the_watchdog(board: str) -> None:
    port = EmuPort(board)
    driver: Any = open_driver(port)
    fence = driver.submit(endless(driver))
    with pytest.raises(GpuTimeoutError, match="0 resets so far"):
        fence.wait(0.1)
    with pytest.raises(GpuResetError, match="1 reset, 0 before the job; it runs a trivial job again") as caught:
        fence.wait(10.0)
    assert reason_of(caught.value)[1] == (ADVICE["reset"].help,)
    bo, job = eidx(driver)
    driver.submit(job).wait(1.0)
    assert bo.view[4096 + 60] == 15
    driver.close()
    assert port.allocated() == []
    port.shutdown()


def test_launches_are_awaited_one_by_one() -> None:
    port = RecordingPort(EmuPort("pi5"))
    driver: Any = open_driver(port)
    _, job = eidx(driver)
    fences = [driver.submit(job) for _ in range(5)]
    fences[2].wait(1.0)
    assert [f.done for f in fences] == [True, True, True, False, False]
    while not fences[4].poll():
        pass
    assert all(f.done for f in fences)
    driver.close()
    port.shutdown()


def test_two_devices_on_one_board_wait_for_each_other() -> None:
    port = EmuPort("pi5")
    one: Any = open_driver(port)
    two: Any = open_driver(port)
    _, job_one = eidx(one)
    _, job_two = eidx(two)
    earlier = [two.submit(job_two), two.submit(job_two)]
    one.submit(job_one, after=earlier).wait(1.0)
    assert all(f.poll() for f in earlier)
    one.close()
    two.close()
    assert port.allocated() == []
    port.shutdown()


def test_counters() -> None:
    port = EmuPort("pi5")
    driver: Any = open_driver(port)
    _, job = eidx(driver)
    with driver.counters(["cycle-count", "QPU-active"]) as values:
        driver.submit(job)
    assert set(values) == {"cycle-count", "QPU-active"}
    assert values["cycle-count"] > 0
    driver.close()
    assert port.allocated() == []
    port.shutdown()


def test_old_linux_have_no_counters() -> None:
    port = EmuPort("pi4,linux=old")
    driver: Any = open_driver(port)
    with pytest.raises(DriverError) as caught, driver.counters(["cycle-count"]):
        pass
    assert reason_of(caught.value)[1] == (ADVICE["old-linux"].help,)
    driver.close()
    port.shutdown()


def scenario(port: Any) -> None:
    driver: Any = open_driver(port)
    try:
        bo, job = eidx(driver)
        driver.submit(job).wait(1.0)
        with driver.counters(["cycle-count"]):
            driver.submit(job)
        bo.close()
    finally:
        driver.close()


@pytest.mark.parametrize("call", ["open", "ioctl", "mmap"])
def test_a_failure_at_any_call_leaves_nothing(call: str) -> None:
    clean = RecordingPort(EmuPort("pi5"))
    scenario(clean)
    total = len(clean.names(call))
    clean.shutdown()
    # Reading the 93 counter names is one loop: its middle is left out.
    for at in [n for n in range(1, total + 1) if n < 40 or n > total - 15]:
        port = EmuPort("pi5")
        port.inject(call, errno.EIO, at=at)
        try:
            scenario(port)
        except (DriverError, UsageError):
            pass
        assert port.allocated() == [], f"{call} {at}"
        port.shutdown()
