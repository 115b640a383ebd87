"""Tests of the advice rows (drivers.md section 8): each is provoked, and the error has exactly its advice.

The system is an emulated board: a profile that has the fault, or an errno injected into one call.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import qpu
from qpu.drivers import doctor
from qpu.drivers.base import CsdJob, QpuJob
from qpu.drivers.drm.adapter import TRIVIAL
from qpu.drivers.errors_table import ADVICE, errno_name
from qpu.drivers.probe import open_driver
from qpu.drivers.vc4 import exit_guard
from qpu.drivers.vc4.mailbox import Mailbox
from qpu.drivers.vc4.mailbox_tags import Tag, TagCall, Throttled
from qpu.drivers.vc4.vcsm import open_memory
from qpu.emu.port import EmuPort
from qpu.errors import DriverError, GpuResetError, GpuTimeoutError
from tests.drivers.fakes import FakePort
from tests.hw.programs import endless

GIB = 1 << 30
PI4 = {"/proc/device-tree/compatible": b"raspberrypi,4-model-b\0brcm,bcm2711\0"}


def injected(board: str, call: str, number: int, *, count: int = 10**6) -> EmuPort:
    port = EmuPort(board)
    port.inject(call, number, count=count)
    return port


def opening(port: Any, name: str = "hardware") -> Callable[[], object]:
    return lambda: open_driver(port, name)


def driver_of(port: Any, name: str = "hardware") -> Any:
    return open_driver(port, name)


def launched(driver: Any, timeout_s: float = 1.0) -> None:
    bo = driver.alloc(4096)
    code = b"".join(word.to_bytes(8, "little") for word in TRIVIAL[driver.info.isa])
    bo.view[: len(code)] = code
    driver.submit(CsdJob(code=bo.address, uniforms=bo.address, bos=(bo,), single_segment=True)).wait(timeout_s)


def hangs(driver: Any, timeout_s: float) -> None:
    program = endless(driver.info.isa)
    bo = driver.alloc(4096)
    bo.view[: len(program.data)] = program.data
    job = (
        QpuJob([(0, bo.address)], [bo])
        if driver.info.isa is qpu.Isa.VC4
        else CsdJob(code=bo.address, uniforms=bo.address, bos=(bo,))
    )
    driver.submit(job, timeout_s).wait(timeout_s)


def first_launch(board: str, call: str, number: int) -> Callable[[], object]:
    port = EmuPort(board)
    driver = driver_of(port)
    port.inject(call, number)
    return lambda: launched(driver)


def second_user_of_a_card_node() -> object:
    port = EmuPort("pi5,root=0,card=1")
    driver_of(port, "/dev/dri/card1")
    return launched(driver_of(port, "/dev/dri/card1"))


def counting(port: EmuPort) -> object:
    driver = driver_of(port)
    with driver.counters(["cycle-count"]):
        launched(driver)
    return None


def space_runs_out() -> object:
    driver = driver_of(EmuPort("pi5"))
    return [driver.alloc(3 * GIB), driver.alloc(2 * GIB)]


def memory_of(board: str, name: str, call: str = "", number: int = 0) -> object:
    port = EmuPort(board)
    if call:
        port.inject(call, number, count=10**6)
    with Mailbox(port) as mailbox:
        return open_memory(port, port.profile.soc, mailbox, name)


def ask(board: str) -> object:
    with Mailbox(EmuPort(board)) as mailbox:
        return mailbox.transact([TagCall(Tag("GET_NEWS", 0x7777, (), ("news",)), ())])


# Symptom in the table, key of the advice, errno of the error or None, function that provokes it, class of the error.
Row = tuple[str, str, int | None, Callable[[], object], type[DriverError]]
ROWS: list[Row] = [
    ("no /dev/dri", "no-dri", errno.ENOENT, opening(FakePort(nodes={}, files=dict(PI4))), DriverError),
    (
        "sysfs shows the driver v3d, /dev/dri has no node",
        "no-node-file",
        errno.ENOENT,
        opening(FakePort(nodes={}, files=PI4 | {"/sys/class/drm/renderD128/device/uevent": b"DRIVER=v3d"})),
        DriverError,
    ),
    (
        "/dev/dri/card* but none is v3d",
        "no-v3d",
        None,
        opening(FakePort(nodes={"/dev/dri/card0": "vc4", "/dev/dri/card1": "udl"}, files=dict(PI4))),
        DriverError,
    ),
    (
        "no /dev/dri in a container",
        "no-dri-container",
        errno.ENOENT,
        opening(FakePort(nodes={}, files=PI4 | {"/.dockerenv": b""})),
        DriverError,
    ),
    ("EACCES opening", "eacces-open", errno.EACCES, opening(EmuPort("pi5,deny=1")), DriverError),
    ("EPERM opening", "eacces-open", errno.EPERM, opening(injected("pi4", "open", errno.EPERM)), DriverError),
    ("EACCES opening", "eacces-open", errno.EACCES, opening(EmuPort("pi3,deny=1")), DriverError),
    ("EACCES on submit only", "eacces-submit", errno.EACCES, second_user_of_a_card_node, DriverError),
    (
        "ENOENT /dev/vcio",
        "no-vcio",
        errno.ENOENT,
        opening(injected("pi3", "open:/dev/vcio", errno.ENOENT)),
        DriverError,
    ),
    (
        "ENOENT vcsm and vcsm-cma",
        "no-vcsm",
        errno.ENOENT,
        lambda: memory_of("pi3,vcsm=none", "vcsm-cma"),
        DriverError,
    ),
    ("ENODEV opening", "enodev", errno.ENODEV, opening(injected("pi5", "open", errno.ENODEV)), DriverError),
    ("ENXIO opening", "enodev", errno.ENXIO, opening(injected("pi3", "open:/dev/vcio", errno.ENXIO)), DriverError),
    (
        "ENOTTY, not the device",
        "enotty",
        errno.ENOTTY,
        opening(FakePort(nodes={"/dev/null": "null"}), "/dev/null"),
        DriverError,
    ),
    (
        "ENOTTY, 32-bit process and /dev/vcsm",
        "enotty-vcsm",
        errno.ENOTTY,
        lambda: memory_of("pi3,vcsm=plain", "vcsm", "ioctl:*VMCS*", errno.ENOTTY),
        DriverError,
    ),
    (
        "EINVAL from the first CREATE_BO",
        "wrong-card",
        errno.EINVAL,
        first_launch("pi5", "CREATE_BO", errno.EINVAL),
        DriverError,
    ),
    (
        "EINVAL from the first GET_PARAM",
        "wrong-card",
        errno.EINVAL,
        opening(injected("pi5", "GET_PARAM", errno.EINVAL)),
        DriverError,
    ),
    ("wrong card by path", "wrong-card", None, opening(EmuPort("pi5,card=1"), "/dev/dri/card0"), DriverError),
    (
        "EINVAL from SUBMIT",
        "einval-submit",
        errno.EINVAL,
        first_launch("pi4", "SUBMIT_CSD", errno.EINVAL),
        DriverError,
    ),
    ("EINVAL from GET_PARAM > 12", "old-linux", None, lambda: counting(EmuPort("pi4,linux=old")), DriverError),
    (
        "ENOENT from SUBMIT",
        "enoent-submit",
        errno.ENOENT,
        first_launch("pi5", "SUBMIT_CSD", errno.ENOENT),
        DriverError,
    ),
    (
        "ENOMEM (BO)",
        "enomem-bo",
        errno.ENOMEM,
        lambda: driver_of(EmuPort("pi5,mem=64M")).alloc(1 << 27),
        DriverError,
    ),
    (
        "ENOMEM (VC4), CMA",
        "enomem-cma",
        errno.ENOMEM,
        lambda: driver_of(EmuPort("pi3,cma=16M,vcsm=cma")).alloc(1 << 25),
        DriverError,
    ),
    (
        "handle 0 (VC4), gpu_mem",
        "enomem-vc4",
        errno.ENOMEM,
        lambda: driver_of(EmuPort("pi3,gpu_mem=16M,vcsm=none")).alloc(1 << 25),
        DriverError,
    ),
    ("ENOSPC", "enospc", errno.ENOSPC, space_runs_out, DriverError),
    (
        "EBUSY, /dev/mem range claimed",
        "ebusy",
        errno.EBUSY,
        lambda: memory_of("pi3,vcsm=none", "mailbox", "mmap", errno.EBUSY),
        DriverError,
    ),
    (
        "EAGAIN, global perfmon",
        "eagain-perfmon",
        errno.EAGAIN,
        lambda: counting(injected("pi5", "SUBMIT_CSD", errno.EAGAIN)),
        DriverError,
    ),
    ("ETIME", "etime", errno.ETIME, lambda: hangs(driver_of(EmuPort("pi5")), 0.1), GpuTimeoutError),
    ("WAIT_BO ok, data incomplete", "reset", None, lambda: hangs(driver_of(EmuPort("pi4")), 5.0), GpuResetError),
    (
        "ETIMEDOUT (vcio)",
        "etimedout-vcio",
        errno.ETIMEDOUT,
        lambda: hangs(driver_of(EmuPort("pi3")), 5.0),
        GpuTimeoutError,
    ),
    (
        "execute status 0x80000000",
        "execute-timeout",
        None,
        lambda: hangs(driver_of(EmuPort("pi3")), 0.01),
        GpuTimeoutError,
    ),
    ("enable_qpu status != 0", "enable-refused", errno.EBUSY, opening(EmuPort("pi3,kms=1")), DriverError),
    ("EINVAL from vcio on a well-formed tag", "unknown-tag", errno.EINVAL, lambda: ask("pi3,tag=einval"), DriverError),
    ("reply without bit 31", "unknown-tag", errno.EINVAL, lambda: ask("pi3,tag=clear"), DriverError),
]
# Not an error: the call is repeated (below), or a warning of the doctor (below).
REPEATED = {"eagain-wait": errno.EAGAIN, "eintr": errno.EINTR}
WARNED = {"throttled"}
# Advice beyond the table; `test_probe.py`, `test_mailbox.py`, `test_v3d_regs.py` and `test_sticky.py` have it.
BEYOND = {
    "no-csd",
    "no-node",
    "emfile",
    "strict-devmem",
    "not-linux",
    "powered-off",
    "qpus-busy",
    "still-powered",
    "unexpected",
}


@pytest.fixture(autouse=True)
def nothing_guarded() -> Iterator[None]:
    """Drivers of Pi 0-3 are left open above; they are closed as at the end of a process."""
    yield
    exit_guard.release_all()


@pytest.mark.parametrize(("symptom", "key", "number", "provoke", "kind"), ROWS, ids=[row[0] for row in ROWS])
def test_row(
    symptom: str, key: str, number: int | None, provoke: Callable[[], object], kind: type[DriverError]
) -> None:
    with pytest.raises(kind) as caught:
        provoke()
    text = str(caught.value)
    row = ADVICE[key]
    assert row.cause in text, symptom
    head, *helps = text.split("\n  help: ")
    known = {a.help for k, a in ADVICE.items() if k != key} - {row.help}
    assert row.help in helps
    assert not known & set(helps), "advice of another row"
    if number is not None:
        assert caught.value.errno == number
        assert errno_name(number) in head
    assert "/dev/" in head or "mailbox" in head or "device tree" in head  # what was tried


def test_no_row_is_missing() -> None:
    assert {row[1] for row in ROWS} | set(REPEATED) | WARNED | BEYOND == set(ADVICE)


@pytest.mark.parametrize(("key", "number"), REPEATED.items())
@pytest.mark.parametrize("count", [1, 5])
def test_a_wait_is_repeated(key: str, number: int, count: int) -> None:
    assert "repeated" in ADVICE[key].help
    port = EmuPort("pi5")
    driver = driver_of(port)
    port.inject("WAIT_BO", number, count=count)
    launched(driver)
    driver.close()
    assert port.allocated() == []


def test_power_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Throttled.UNDER_VOLTAGE | Throttled.THROTTLED_HAPPENED
    monkeypatch.setattr(Mailbox, "throttled", lambda self: limits)
    report = doctor.examine(EmuPort("pi3"))
    found = [check for check in report.checks if check.name == "power"]
    assert [(check.status.value, check.helps) for check in found] == [("warn", (ADVICE["throttled"].help,))]
    assert "under voltage" in found[0].found
