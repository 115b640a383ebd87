"""Tests of two processes on one VideoCore IV: the right to launch, power, and the state after a killed process."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

import qpu
from qpu.device import Device
from qpu.drivers.board import detect
from qpu.drivers.doctor import examine
from qpu.drivers.port import Lock
from qpu.drivers.vc4 import exit_guard, power
from qpu.drivers.vc4.adapter import Launch, Vc4Driver
from qpu.drivers.vc4.power import clean_up
from qpu.emu.port import EmuPort
from qpu.errors import DriverError, GpuTimeoutError, NoDeviceError

END = "mov interrupt, 1\nthrend\nnop\nnop\n"
SHORT = qpu.assemble(END, isa="vc4")
LOOP = qpu.assemble(f"ldi r0, 2000\n:l\nsub.setf r0, r0, 1\nbrr.anynz -, :l\nnop\nnop\nnop\n{END}", isa="vc4")
ENDLESS = qpu.assemble(":l\nbrr -, :l\nnop\nnop\nnop\n", isa="vc4")


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """Killed processes do not release anything at the end of this one."""
    yield
    exit_guard._held.clear()
    power._known.clear()


def opened(port: EmuPort, launch: Launch = "mailbox") -> Device:
    return Device(Vc4Driver(port, detect(port), launch=launch), port)


def powered(port: EmuPort) -> bool:
    assert port.board.vc4 is not None
    return port.board.vc4.enabled


def test_the_first_to_close_does_not_power_off() -> None:
    first = EmuPort("pi3")
    second = first.process()
    a, b = opened(first), opened(second)
    a.run(SHORT)
    b.run(SHORT)
    b.close()
    assert powered(first)
    a.run(SHORT)
    a.close()
    assert first.leaked == [] and second.leaked == []


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_last_to_close_powers_off(order: tuple[int, ...]) -> None:
    port = EmuPort("pi3")
    ports = [port.process() for _ in range(3)]
    devices = [opened(p) for p in ports]
    for n, which in enumerate(order):
        assert powered(port)
        devices[which].close()
        assert powered(port) == (n < 2)


def test_several_devices_of_one_process_count_as_one() -> None:
    port = EmuPort("pi3")
    other = port.process()
    devices = [opened(port), opened(port)]
    with opened(other):
        devices[0].close()
        devices[1].run(SHORT)
        devices[1].close()
        assert powered(other)


@pytest.mark.parametrize("open_again", [lambda p: opened(p), lambda p: opened(p, "registers")])
def test_registers_exclude_everybody(open_again: Callable[[EmuPort], Device]) -> None:
    first = EmuPort("pi3")
    second = first.process()
    with opened(first, "registers") as a:
        launch = a.submit(LOOP, [], qpu.vc4.Programs(12))
        with pytest.raises(DriverError, match=r"EBUSY .*: another program uses the QPUs") as caught:
            open_again(second)
        assert caught.value.errno == errno.EBUSY
        launch.wait()
        assert second.allocated() == first.allocated()
    with open_again(second) as b:
        b.run(SHORT)


def test_the_last_of_several_that_use_registers_lets_others_in() -> None:
    port = EmuPort("pi3")
    other = port.process()
    mailbox = opened(port)
    one, two = opened(port, "registers"), opened(port, "registers")
    one.close()
    with pytest.raises(DriverError, match="EBUSY"):
        opened(other)
    two.run(SHORT)
    two.close()
    with opened(other) as device:
        device.run(SHORT)
    mailbox.close()


def test_the_lock_of_another_process_is_waited_for() -> None:
    first = EmuPort("pi3")
    second = first.process()
    with opened(first, "registers"):
        before = second.monotonic()
        with pytest.raises(DriverError, match="EBUSY"):
            opened(second)
        assert power.LOCK_WAIT_S <= second.monotonic() - before < power.LOCK_WAIT_S + 0.1


def test_registers_are_refused_beside_the_mailbox() -> None:
    first = EmuPort("pi3")
    second = first.process()
    with opened(first) as a:
        with pytest.raises(DriverError, match="EBUSY"):
            opened(second, "registers")
        a.run(SHORT)
        assert powered(first)
    with opened(second, "registers") as b:
        b.run(SHORT)


def test_both_ways_in_one_process() -> None:
    port = EmuPort("pi3")
    other = port.process()
    mailbox = opened(port)
    with opened(port, "registers") as registers:
        registers.run(SHORT)
        mailbox.run(SHORT)
        with pytest.raises(DriverError, match="EBUSY"):
            opened(other)
    with opened(other) as b:  # shared again
        b.run(SHORT)
    mailbox.run(SHORT)
    mailbox.close()
    assert not powered(port) or port.board.closed


def test_a_refused_upgrade_keeps_what_was_there() -> None:
    first = EmuPort("pi3")
    second, third = first.process(), first.process()
    with opened(first) as a, opened(second) as b:
        with pytest.raises(DriverError, match="EBUSY"):
            opened(first, "registers")
        b.close()
        assert powered(first)  # the lock of the first is still there
        with pytest.raises(DriverError, match="EBUSY"):
            opened(third, "registers")
        a.run(SHORT)


def test_opening_by_name_says_who_is_in_the_way() -> None:
    first = EmuPort("pi3")
    second = first.process()
    with opened(first, "registers"), pytest.raises(NoDeviceError, match="qpu doctor --clean") as caught:
        qpu.open_device(port=second)
    assert caught.value.errno == errno.EBUSY


# programs of other libraries, which do not take the lock


def start_by_register(port: EmuPort, code: int, *, clear: bool) -> None:
    base = port.profile.v3d_base
    block = port.mmio(base, 0x1000)
    if clear:
        block.write32(0x43C, 0x10180)
    block.write32(0x434, 0)
    block.write32(0x430, code)


def loaded(port: EmuPort, program: qpu.Program) -> int:
    """Bus address of a program in memory of this process."""
    from qpu.drivers.vc4.mailbox import Mailbox
    from qpu.drivers.vc4.vcsm import open_memory

    _, memory = open_memory(port, "BCM2837", Mailbox(port), "vcsm-cma")
    memory.view[: len(program.data)] = program.data
    port.keep = memory  # type: ignore[attr-defined]  # as long as the port
    return memory.address


def test_a_launch_while_programs_of_others_run() -> None:
    first = EmuPort("pi3")
    second = first.process()
    with opened(first, "registers") as a:
        start_by_register(second, loaded(second, LOOP), clear=True)
        with pytest.raises(DriverError, match="have not ended") as caught:
            a.run(SHORT)
        assert caught.value.errno == errno.EBUSY
        second.sleep(0.01)
        for _ in range(100):
            try:
                a.run(SHORT)  # works again when they have ended
                break
            except DriverError as error:
                assert error.errno == errno.EBUSY
                second.sleep(0.001)
        else:
            pytest.fail("the other program ended and is still in the way")


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("timeout_s", [None, 2.0])
def test_programs_of_others_during_a_launch(clear: bool, timeout_s: float | None) -> None:
    first = EmuPort("pi3")
    second = first.process()
    code = loaded(second, SHORT)
    a = opened(first, "registers")
    launch = a.submit(LOOP, [], qpu.vc4.Programs(12))
    start_by_register(second, code, clear=clear)
    with pytest.raises(DriverError, match="counts cleared") as caught:
        launch.wait(timeout_s)
    assert caught.value.errno == errno.EBUSY and launch.done
    a.close()
    assert [x for x in first.leaked if x != "fd 3: /dev/vcio"] == []


@pytest.mark.parametrize("launch", ["mailbox", "registers"])
def test_a_launch_that_finds_v3d_off_enables_it(launch: Launch) -> None:
    first = EmuPort("pi3")
    second = first.process()
    from qpu.drivers.vc4.mailbox import Mailbox

    with opened(first, launch) as a, Mailbox(second) as mailbox:
        for _ in range(2):
            mailbox.enable_qpu(False)
            a.run(SHORT)
        if launch == "registers":
            running = a.submit(LOOP)
            mailbox.enable_qpu(False)
            with pytest.raises(qpu.errors.GpuResetError, match="powered off"):
                running.wait()
            a.run(SHORT)


def test_without_registers_the_launch_after_enables_it() -> None:
    """Whether V3D is on cannot be seen without /dev/mem: the launch fails, the next one works."""
    first = EmuPort("pi3,devmem=0")
    second = first.process()
    from qpu.drivers.vc4.mailbox import Mailbox

    with opened(first) as a, Mailbox(second) as mailbox:
        mailbox.enable_qpu(False)
        with pytest.raises(qpu.errors.EmuFault, match="while V3D is off"):
            a.run(SHORT)
        a.run(SHORT)


def test_a_hung_launch_of_one_process_leaves_the_other_usable() -> None:
    first = EmuPort("pi3")
    second = first.process()
    with opened(first) as a, opened(second) as b:
        with pytest.raises(GpuTimeoutError):
            a.run(ENDLESS, timeout_s=0.1)
        b.run(SHORT)
        a.run(SHORT)


# after a killed process


@pytest.mark.parametrize("launch", ["mailbox", "registers"])
def test_after_a_killed_process(launch: Launch) -> None:
    board = EmuPort("pi3")
    victim, doctor = board.process(), board.process()
    device = opened(victim, launch)
    if launch == "registers":
        device.submit(ENDLESS)
    during = {check.name: check for check in examine(doctor).checks}
    assert "another" in during["QPUs"].found and not during["QPUs"].helps
    with pytest.raises(DriverError, match="EBUSY"):
        clean_up(doctor)
    victim.shutdown()
    assert powered(board)
    after = {check.name: check for check in examine(doctor).checks}
    assert after["QPUs"].helps == ("qpu doctor --clean",)
    clean_up(doctor)
    assert not powered(board)
    clean = {check.name: check for check in examine(doctor).checks}
    assert clean["QPUs"].status == "ok"
    with opened(doctor, launch) as b:
        b.run(SHORT)


def test_programs_left_running_by_a_killed_process() -> None:
    board = EmuPort("pi3,vcsm=none")  # firmware memory outlives its process, and the program in it continues
    victim, other, third = board.process(), board.process(), board.process()
    opened(victim, "registers").submit(ENDLESS)
    victim.shutdown()
    with opened(other, "registers") as b, pytest.raises(DriverError, match="qpu doctor --clean"):
        b.run(SHORT)
    with opened(third, "registers") as b:  # closing powered V3D off, and with it the program
        b.run(SHORT)


# faults of the lock itself


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.EINTR])
@pytest.mark.parametrize("call", ["flock:shared", "flock:exclusive", "flock:none"])
def test_faults_of_the_lock(call: str, number: int) -> None:
    port = EmuPort("pi3")
    port.inject(call, number)
    try:
        with opened(port) as device:
            device.run(SHORT)
    except DriverError as error:
        assert call == "flock:shared" and error.errno == number != errno.EINTR
    assert port.leaked == [] or port.allocated() == []
    assert port.board.closed or not powered(port)


def test_a_lock_is_of_the_open_file() -> None:
    port = EmuPort("pi3")
    one, two = port.open("/dev/vcio"), port.open("/dev/vcio")
    other = port.open("/dev/vcsm-cma")
    port.flock(one, Lock.SHARED)
    port.flock(two, Lock.SHARED)
    port.flock(other, Lock.EXCLUSIVE)
    with pytest.raises(BlockingIOError):
        port.flock(two, Lock.EXCLUSIVE)
    port.flock(one, Lock.EXCLUSIVE)  # the failed conversion dropped the lock of `two`
    with pytest.raises(BlockingIOError):
        port.flock(two, Lock.SHARED)
    port.close(one)
    port.flock(two, Lock.EXCLUSIVE)
    port.shutdown()
