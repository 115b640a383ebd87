"""Tests of system calls that fail for ever from some point on: drivers report it after a bounded number of attempts."""

from __future__ import annotations

import errno
import functools

import numpy as np
import pytest

import qpu
from qpu.drivers import port as drivers_port
from qpu.drivers.vc4 import exit_guard
from qpu.drivers.vc4.power import clean_up
from qpu.emu.port import EmuPort
from qpu.emu.testing import RecordingPort
from qpu.errors import DriverError, QpuError
from tests.hw.programs import binary

BOARDS = {  # profile -> device
    "pi3": "hardware",
    "pi3,vcsm=plain": "hardware",
    "pi3,vcsm=none": "/dev/mem",
    "pi4": "hardware",
    "pi5,linux=old": "hardware",
}
OFF = ("ioctl:IOCTL_MBOX_PROPERTY", "flock:exclusive")  # without these the QPUs cannot be powered off


class Counting(EmuPort):
    """Counts calls."""

    calls = 0

    def ioctl(self, fd: int, request: int, arg: bytearray) -> int:
        self.calls += 1
        return super().ioctl(fd, request, arg)

    def flock(self, fd: int, lock: qpu.drivers.port.Lock) -> None:
        self.calls += 1
        super().flock(fd, lock)


def scenario(port: EmuPort | RecordingPort, device: str) -> None:
    with qpu.open_device(device, port=port) as gpu:
        program = binary(gpu.isa, "add")
        x, out = gpu.array(np.ones(16, np.uint32)), gpu.zeros(16, np.uint32)
        gpu.run(program, [x, x, out], timeout_s=0.2)
        gpu.submit(program, [x, x, out]).wait()
        x.close()


@functools.cache
def places(board: str) -> list[tuple[str, int]]:
    """Every system call of the scenario: its first, its middle and its last time."""
    port = RecordingPort(EmuPort(board, engine="reference"))
    scenario(port, BOARDS[board])
    times: dict[str, int] = {}
    for call in port.calls:
        if call.kind in ("ioctl", "flock", "mmap", "mmio", "close"):
            name = str(call) if call.kind in ("ioctl", "flock") else call.kind
            times[name] = times.get(name, 0) + 1
    return [(name, at) for name, n in times.items() for at in sorted({1, (n + 1) // 2, n})]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # finalizers report failing releases
@pytest.mark.parametrize("number", [errno.EIO, errno.EINTR, errno.EAGAIN], ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("board", BOARDS)
def test_a_call_that_fails_for_ever(
    board: str, number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers_port, "RETRIES", 1000)  # the tests below have the limit of users
    for name, at in places(board):
        port = Counting(board, engine="reference")
        port.inject(name, number, at=at, count=10**9)
        told: QpuError | None = None
        try:
            scenario(port, BOARDS[board])
        except QpuError as error:
            told = error
        where = (name, at, told)
        assert port.calls < 30_000, where
        held = port.leaked if port.board.closed else port.allocated()
        exit_guard.release_all()
        if board.startswith("pi3") and name in OFF and port.board.vc4 is not None and port.board.vc4.enabled:
            # the error is reported, and QPUs that another process may use stay powered
            assert isinstance(told, DriverError) or (name, number) == ("flock:exclusive", errno.EAGAIN), where
            continue
        assert port.board.vc4 is None or not port.board.vc4.enabled, where
        gone = [line for line in held if "firmware" not in line or name != OFF[0]]
        assert gone == [], where
    capsys.readouterr()


@pytest.mark.parametrize("call", OFF)
def test_a_power_off_that_fails_for_ever(call: str) -> None:
    port = Counting("pi3")
    gpu = qpu.open_device(port=port)
    before = port.calls
    port.inject(call, errno.EIO, count=10**9)
    with pytest.raises(DriverError, match="the QPUs stay powered on\n  help: sudo qpu doctor --clean") as caught:
        gpu.close()
    assert caught.value.errno == errno.EIO and "EIO" in str(caught.value)
    assert port.calls - before < 20
    assert port.board.vc4 is not None and port.board.vc4.enabled


def test_after_a_power_off_that_failed() -> None:
    board = EmuPort("pi3")
    victim, doctor = board.process(), board.process()
    gpu = qpu.open_device(port=victim)
    victim.inject(OFF[0], errno.EIO, count=10**9)
    with pytest.raises(DriverError):
        gpu.close()
    clean_up(doctor)
    assert board.board.vc4 is not None and not board.board.vc4.enabled


def test_an_interrupted_wait_without_a_time_limit_ends() -> None:
    port = Counting("pi5")
    with qpu.open_device(port=port) as gpu:
        x = gpu.zeros(16, np.uint32)
        launch = gpu.submit(binary(gpu.isa, "add"), [x, x, x])
        port.inject("WAIT_BO", errno.EINTR, count=10**9)
        with pytest.raises(DriverError, match="WAIT_BO: EINTR"):
            launch.wait()
        assert port.calls < 30_000


def test_a_lock_whose_call_is_interrupted_for_ever() -> None:
    port = Counting("pi3")
    port.inject("flock:shared", errno.EINTR, count=10**9)
    with pytest.raises(DriverError, match="EINTR"):
        qpu.open_device(port=port)
    assert port.calls < 30_000 and port.leaked == []


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_a_close_that_fails_is_told_and_the_rest_is_given_back(board: str) -> None:
    port = EmuPort(board)
    gpu = qpu.open_device(port=port)
    gpu.zeros(16)
    port.inject("close", errno.EIO, count=10**9)
    with pytest.raises(DriverError, match="close: EIO"):
        gpu.close()
    assert port.leaked == []
    assert port.board.vc4 is None or not port.board.vc4.enabled
