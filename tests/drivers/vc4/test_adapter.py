"""Tests of the VideoCore IV adapter on a scripted Linux: call sequences, launches, time-outs, failures, exit."""

from __future__ import annotations

import errno
import gc
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qpu.core.isa import Isa
from qpu.drivers.base import CsdJob, QpuJob
from qpu.drivers.board import Board
from qpu.drivers.vc4 import adapter as vc4_adapter
from qpu.drivers.vc4 import exit_guard, power
from qpu.drivers.vc4.adapter import Vc4Driver, open_adapter
from qpu.errors import DriverError, GpuResetError, GpuTimeoutError, UsageError
from tests.drivers.vc4.fake_linux import PAGE, PI1, PI3, FakeLinux
from tests.limits import HUNG_S

TAG_NAMES = {
    0x00001: "firmware",
    0x30004: "max-clock",
    0x30010: "vpu",
    0x30011: "execute",
    0x30012: "enable",
    0x3000C: "allocate",
    0x3000D: "lock",
    0x3000E: "unlock",
    0x3000F: "release",
}


def brief(linux: FakeLinux) -> list[str]:
    """The log in words: tags by name with their first value, ioctls by number, the rest by call."""
    out: list[str] = []
    for entry in linux.log:
        if entry[0] == "ioctl" and entry[1] == "/dev/vcio":
            tag, value = struct.unpack_from("<I8xI", entry[3], 8)
            out.append(TAG_NAMES[tag] + (f"({value})" if tag == 0x30012 else ""))
        elif entry[0] == "ioctl":
            out.append({0x80404A5A: "cma-alloc", 0x40086200: "sync"}[entry[2]])
        elif entry[0] in ("open", "close"):
            out.append(f"{entry[0]} {entry[1]}")
        elif entry[0] in ("read32", "write32"):
            out.append(f"{entry[0]} {entry[1]:x}")
        elif entry[0] == "flock":
            out.append(f"flock {entry[2]}")
        else:
            out.append(entry[0])
    return out


@pytest.fixture(autouse=True)
def nothing_guarded() -> Iterator[None]:
    yield
    gc.collect()
    held = dict(exit_guard._held)
    exit_guard.release_all()  # or one failure would show in every later test
    assert held == {}
    assert power._known == {} or all(m.users == 0 for m in power._known.values())


def a_job(driver: Vc4Driver, count: int = 1) -> QpuJob:
    bo = driver.alloc(PAGE)
    return QpuJob([(bo.address + 256 + 4 * i, bo.address) for i in range(count)], [bo])


OPEN = [
    "open /dev/vcio",
    "open /dev/vcsm-cma",
    "cma-alloc",
    "mmap",
    "sync",
    "open /dev/vcio",
    "flock shared",
    "enable(1)",
    "mmio",
]
OPEN += ["read32 0", "read32 4", "max-clock", "firmware"]
CLOSE = [
    "munmap",
    "sync",
    "close dmabuf",
    "flock exclusive",
    "enable(0)",
    "flock none",
    "close /dev/vcio",
    "close /dev/vcsm-cma",
    "close /dev/vcio",
]


def test_open_and_close() -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3)
    assert brief(linux) == OPEN
    info = driver.info
    assert (info.isa, info.slices, info.qpus_per_slice, info.tmus_per_slice, info.qpus) == (Isa.VC4, 3, 4, 2, 12)
    assert info.clock_hz == 400_000_000
    assert (info.adapter, info.node) == ("mailbox", "/dev/vcio, /dev/vcsm-cma")
    assert info.revision == "2.1"
    assert info.emulated == "fake"
    linux.log.clear()
    driver.close()
    driver.close()
    assert brief(linux) == CLOSE
    assert linux.left() == []
    with pytest.raises(UsageError, match="closed"):
        driver.alloc(4096)


def test_without_dev_mem_the_board_is_believed() -> None:
    linux = FakeLinux(nodes=("vcio", "vcsm-cma"))
    linux.nodes["/dev/mem"] = errno.EACCES
    linux.unknown_tags = {0x30004: "einval", 0x00001: "bit31"}
    driver = open_adapter(linux, PI3)
    assert driver.registers is None
    assert (driver.info.slices, driver.info.qpus_per_slice) == (3, 4)
    assert driver.info.clock_hz == PI3.clock_hz
    assert driver.info.revision == ""
    with pytest.raises(DriverError, match="sudo"), driver.counters(["QPU-total-idle-clk-cycles"]):
        pass
    driver.close()
    assert linux.left() == []


def test_ident_has_the_last_word() -> None:
    linux = FakeLinux()
    linux.ident1 = 1 << 12 | 4 << 8 | 2 << 4
    driver = open_adapter(linux, PI3)
    assert (driver.info.qpus, driver.info.tmus_per_slice) == (8, 1)
    driver.close()


def test_mailbox_launch() -> None:
    linux = FakeLinux()
    seen: list[tuple[int, ...]] = []
    linux.execute = lambda *v: seen.append(v) or 0  # type: ignore[func-returns-value]
    driver = open_adapter(linux, PI3)
    job = a_job(driver, 12)
    linux.log.clear()
    fence = driver.submit(job, 0.5)
    assert brief(linux) == ["read32 0", "execute"]
    assert fence.poll()
    fence.wait(0.1)
    assert linux.executed == [list(job.entries)]
    assert [(s[0], s[2], s[3]) for s in seen] == [(12, 0, 500)]
    driver.submit(QpuJob(job.entries[:1], flush=False), 30.0)
    assert (seen[-1][0], seen[-1][2], seen[-1][3]) == (1, 1, 1000)  # Linux waits one second at most
    driver.close()
    assert linux.left() == []


def test_register_launch() -> None:
    linux = FakeLinux()
    linux.steps = 5
    driver = open_adapter(linux, PI3, launch="registers")
    assert (driver.info.adapter, driver.info.node) == ("v3d_regs", "/dev/vcio, /dev/vcsm-cma, /dev/mem")
    job = a_job(driver, 3)
    linux.log.clear()
    fence = driver.submit(job)
    writes = [e[1:] for e in linux.log if e[0] == "write32"]
    assert [e[1] for e in linux.log[:2]] == [0x000, 0x43C]  # is it powered, is it idle
    expected = [(0xE00, 0), (0xE2C, 0), (0xE30, 0xFFFFFFFF), (0x20, 4), (0x24, 0xFFFFFFFF), (0x43C, 0x10180)]
    for uniforms, code in job.entries:
        expected += [(0x434, uniforms), (0x430, code)]
    assert writes == expected
    assert not fence.poll()
    fence.wait(1.0)
    assert fence.poll()
    fence.wait(0.0)
    # A second job waits for the first, because the completed count is cleared.
    first, second = driver.submit(job), driver.submit(job)
    assert first.poll()
    second.wait()
    assert linux.executed == []
    driver.close()
    assert linux.left() == []


def test_register_launch_needs_dev_mem() -> None:
    linux = FakeLinux()
    linux.nodes["/dev/mem"] = errno.EACCES
    with pytest.raises(DriverError, match="/dev/mem") as caught:
        open_adapter(linux, PI3, launch="registers")
    assert caught.value.errno == errno.EACCES
    assert linux.left() == []


@pytest.mark.parametrize("status", [b"okay\0", b"ok\0", None])
def test_kms_owns_v3d(status: bytes | None) -> None:
    linux = FakeLinux()
    node = "/proc/device-tree/soc/v3d@7ec00000"
    linux.files[f"{node}/compatible"] = b"brcm,bcm2835-v3d\0"
    linux.nodes[node] = 0
    if status is not None:
        linux.files[f"{node}/status"] = status
    for launch in vc4_adapter.LAUNCHES:
        with pytest.raises(DriverError, match="vc4-kms-v3d") as caught:
            open_adapter(linux, PI3, launch=launch)
        assert caught.value.errno == errno.EBUSY
    assert linux.log == []
    linux.files[f"{node}/status"] = b"disabled\0"
    open_adapter(linux, PI3).close()


def test_firmware_refuses() -> None:
    linux = FakeLinux()
    linux.refuse_enable = True
    with pytest.raises(DriverError, match="vc4-fkms-v3d"):
        open_adapter(linux, PI3)
    assert linux.left() == []
    assert linux.tags == [0x30012]


def test_other_boards_and_options() -> None:
    linux = FakeLinux()
    with pytest.raises(UsageError, match="no VideoCore IV"):
        open_adapter(linux, Board("Raspberry Pi 5", soc="BCM2712", generation=7))
    with pytest.raises(UsageError, match="no VideoCore IV"):
        open_adapter(linux, Board("laptop"))
    with pytest.raises(UsageError, match="allowed: mailbox, registers"):
        open_adapter(linux, PI3, launch="magic")  # type: ignore[arg-type]
    assert linux.log == []
    with pytest.raises(UsageError, match="no memory source"):
        open_adapter(linux, PI3, memory="cma")
    assert linux.left() == []


@pytest.mark.parametrize(("board", "flags"), [(PI1, 12), (PI3, 4)])
def test_memory_flags_by_chip(board: Board, flags: int) -> None:
    linux = FakeLinux(nodes=("vcio", "mem"))
    driver = open_adapter(linux, board)
    assert [h[1] for h in linux.handles.values()] == [flags]
    driver.close()
    assert linux.left() == []


# -- refused before anything is started


def test_bad_jobs() -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3)
    bo = driver.alloc(PAGE)
    at = bo.address
    linux.log.clear()
    bad: list[tuple[Any, str]] = [
        (CsdJob(at, at, [bo]), "submit a QpuJob"),
        (QpuJob([]), r"allowed: 1\.\.12"),
        (QpuJob([(at, at)] * 13), r"allowed: 1\.\.12"),
        (QpuJob([(at, at), (at, at + 4)]), "program 1: .*multiples of 4 and of 8"),
        (QpuJob([(at + 2, at)]), "multiples of 4"),
        (QpuJob([(at, at + PAGE)]), "code at .* is in no buffer"),
        (QpuJob([(at - 4, at)]), "uniforms at .* is in no buffer"),
        (QpuJob([(at, 0)]), "code at 0x0"),
        (QpuJob([(at + (1 << 32), at)]), "no buffer"),
    ]
    for job, message in bad:
        with pytest.raises(UsageError, match=message):
            driver.submit(job)
    for timeout_s in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="must be positive"):
            driver.submit(QpuJob([(at, at)]), timeout_s)
    assert linux.log == []
    driver.submit(QpuJob([(0, at)]))  # no uniforms
    driver.submit(QpuJob([(at & 0x3FFFFFFF | 0x40000000, at)]))  # another alias of the same memory
    other = open_adapter(FakeLinux(), PI3)
    with pytest.raises(UsageError, match="another device"):
        driver.submit(QpuJob([(at, at)], [other.alloc(PAGE)]))
    other.close()
    bo.close()
    with pytest.raises(UsageError, match="closed or belongs"):
        driver.submit(QpuJob([(at, at)], [bo]))
    with pytest.raises(UsageError, match="no buffer"):
        driver.submit(QpuJob([(at, at)]))
    driver.close()
    with pytest.raises(UsageError, match="closed"):
        driver.submit(QpuJob([(at, at)]))


def test_fork_is_refused() -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3)
    job = a_job(driver)
    linux.pid += 1
    linux.log.clear()
    with pytest.raises(UsageError, match="before fork"):
        driver.alloc(PAGE)
    with pytest.raises(UsageError, match="before fork"):
        driver.submit(job)
    driver.close()  # the parent's: left alone
    assert linux.log == []
    assert linux.powered
    linux.pid -= 1
    driver.close()
    assert linux.left() == []


# -- time-outs


@pytest.mark.parametrize("how", ["firmware", "linux"])
def test_mailbox_timeout(how: str) -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3)
    job = a_job(driver)
    linux.log.clear()
    if how == "firmware":
        linux.execute = lambda *_: 0x80000000
    else:
        linux.fail[linux.calls + 1] = OSError(errno.ETIMEDOUT, "x")
    with pytest.raises(GpuTimeoutError, match="takes jobs again") as caught:
        driver.submit(job, 0.2)
    assert isinstance(caught.value, TimeoutError)
    assert "help:" in str(caught.value)
    assert brief(linux) == ["read32 0", "execute", "enable(0)", "enable(1)"]
    linux.execute = lambda *_: 0
    driver.submit(job)
    driver.close()
    assert linux.left() == []


def test_lost_device_says_so_and_comes_back() -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3)
    job = a_job(driver)
    linux.execute = lambda *_: 0x80000000
    linux.fail[linux.calls + 2] = OSError(errno.ETIMEDOUT, "x")
    with pytest.raises(GpuTimeoutError, match="does not answer any more"):
        driver.submit(job)
    linux.fail[linux.calls] = OSError(errno.ETIMEDOUT, "x")
    with pytest.raises(DriverError, match="could not be powered off and on") as caught:
        driver.submit(job)
    assert "reboot" in str(caught.value)
    linux.execute = lambda *_: 0
    driver.submit(job)
    driver.close()
    assert linux.left() == []


def test_register_timeout_then_next_job() -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3, launch="registers")
    job = a_job(driver)
    linux.hang = True
    fence = driver.submit(job)
    with pytest.raises(GpuTimeoutError, match="0 of 1"):
        fence.wait(0.1)
    assert not fence.poll()
    linux.log.clear()
    powered = driver._mailbox
    assert powered is not None
    linux.hang = False
    linux.steps = 1000
    second = driver.submit(job)  # the first is late: V3D is powered off and on
    assert brief(linux)[1:3] == ["enable(0)", "enable(1)"]
    with pytest.raises(GpuResetError, match="powered off"):
        fence.wait(1.0)
    assert fence.poll()
    second.wait()
    driver.close()
    assert linux.left() == []


def test_late_job_that_ends_after_all() -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3, launch="registers")
    job = a_job(driver)
    linux.hang = True
    fence = driver.submit(job)
    with pytest.raises(GpuTimeoutError):
        fence.wait(0.1)
    linux.hang = False
    fence.wait(1.0)  # waiting again is allowed
    driver.submit(job).wait(1.0)
    driver.close()


def test_close_stops_a_running_job_before_memory_goes() -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3, launch="registers")
    linux.hang = True
    fence = driver.submit(a_job(driver))
    linux.log.clear()
    driver.close()
    words = brief(linux)
    assert words.index("enable(0)") < words.index("munmap")
    assert linux.left() == []
    with pytest.raises(GpuResetError):
        fence.wait(1.0)


def test_interrupt_in_a_launch_stops_it() -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3)
    job = a_job(driver)
    linux.log.clear()
    linux.fail[linux.calls + 1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        driver.submit(job)
    assert brief(linux) == ["read32 0", "execute", "enable(0)", "enable(1)"]
    driver.submit(job)
    driver.close()
    assert linux.left() == []


# -- power


def test_enabled_once_per_process() -> None:
    linux = FakeLinux()
    one, two = open_adapter(linux, PI3), open_adapter(linux, PI3)
    assert brief(linux).count("enable(1)") == 1
    one.close()
    assert linux.powered
    two.submit(a_job(two))
    two.close()
    assert brief(linux).count("enable(0)") == 1
    assert linux.left() == []
    three = open_adapter(linux, PI3)
    assert linux.powered
    three.close()
    assert linux.left() == []


def test_real_machine_is_one_whatever_the_port() -> None:
    kernels = [FakeLinux(), FakeLinux()]
    for linux in kernels:
        linux.emulated = None
    drivers = [open_adapter(k, PI3, memory="vcsm-cma") for k in kernels[:1]]
    kernels[1].powered = True  # the same V3D
    drivers.append(open_adapter(kernels[1], PI3, memory="vcsm-cma"))
    assert "enable(1)" not in brief(kernels[1])
    drivers[0].close()
    assert "enable(0)" not in brief(kernels[0])
    drivers[1].close()
    assert "enable(0)" in brief(kernels[1])


def test_emulated_boards_are_apart() -> None:
    kernels = [FakeLinux(), FakeLinux()]
    drivers = [open_adapter(k, PI3) for k in kernels]
    assert all(k.powered for k in kernels)
    for driver in drivers:
        driver.close()
    assert [k.left() for k in kernels] == [[], []]


def test_threads() -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3)
    jobs = [a_job(driver) for _ in range(4)]
    busy = threading.Lock()

    def execute(*_: int) -> int:
        assert busy.acquire(blocking=False), "two launches at once"
        busy.release()
        return 0

    linux.execute = execute
    failures: list[BaseException] = []

    def work(job: QpuJob) -> None:
        try:
            for _ in range(50):
                driver.submit(job)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(j,)) for j in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    assert len(linux.executed) == 200
    blocks = {tuple(b) for b in linux.executed}
    assert blocks == {tuple(j.entries) for j in jobs}
    driver.close()


def test_exit_does_not_wait_for_a_thread_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vc4_adapter, "EXIT_PATIENCE_S", 0.05)
    linux = FakeLinux()
    driver = open_adapter(linux, PI3)
    taken, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with driver._power.lock:
            taken.set()
            leave.wait(HUNG_S)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    taken.wait(HUNG_S)
    exit_guard.release_all()
    assert thread.is_alive()  # it holds the lock still
    leave.set()
    thread.join()
    assert linux.left() == []


# -- memory at the end


def test_views_outlive_a_close_with_linux_memory() -> None:
    linux = FakeLinux()
    driver = open_adapter(linux, PI3)
    view = driver.alloc(PAGE).view
    view[0] = 9
    driver.close()
    assert len(linux.left()) == 1  # the map alone
    assert view[0] == 9
    assert exit_guard._held == {}


def test_views_keep_firmware_memory_until_they_go() -> None:
    linux = FakeLinux(nodes=("vcio", "mem"))
    driver = open_adapter(linux, PI3)
    bo = driver.alloc(PAGE)
    view = bo.view
    driver.close()
    assert not linux.powered
    assert len(linux.handles) == 1
    assert id(driver) in exit_guard._held
    del view
    bo.close()
    assert linux.left() == []


def test_exit_releases_firmware_memory_in_spite_of_views() -> None:
    linux = FakeLinux(nodes=("vcio", "mem"))
    driver = open_adapter(linux, PI3)
    view = driver.alloc(PAGE).view
    exit_guard.release_all()
    assert linux.handles == {}
    assert not linux.powered
    assert driver.info.qpus == 12
    assert len(view) == PAGE


def test_failing_release_is_reported_and_the_rest_released() -> None:
    linux = FakeLinux(nodes=("vcio", "mem"))
    driver = open_adapter(linux, PI3)
    driver.alloc(PAGE)
    driver.alloc(PAGE)
    for n in range(3):
        linux.fail[linux.calls + n] = OSError(errno.EIO, "x")
    with pytest.raises(DriverError, match="UNLOCK"):
        driver.close()
    assert len(linux.handles) <= 1
    assert not linux.powered
    assert linux.fds == {}


@pytest.mark.parametrize("error", [errno.EIO, errno.EINTR, errno.EAGAIN])
@pytest.mark.parametrize("nodes", [("vcio", "mem"), ("vcio", "vcsm", "mem"), ("vcio", "vcsm-cma", "mem")], ids=str)
def test_a_release_that_fails_twice_is_tried_again(nodes: tuple[str, ...], error: int) -> None:
    clean = FakeLinux(nodes=nodes)
    driver = open_adapter(clean, PI3)
    driver.alloc(PAGE)
    opened = clean.calls
    driver.close()
    for n in range(opened, clean.calls):
        if clean.log_index(n)[0] != "ioctl":
            continue  # only what outlives the process, the power of the QPUs included
        linux = FakeLinux(nodes=nodes)
        driver = open_adapter(linux, PI3)
        driver.alloc(PAGE)
        linux.fail |= dict.fromkeys((n, n + 1), OSError(error, "x"))
        driver.close()
        assert linux.left() == []


# -- a failure at every single call


def scenario(linux: FakeLinux, launch: Any) -> None:
    driver = open_adapter(linux, PI3, launch=launch)
    try:
        bo = driver.alloc(PAGE)
        for _ in range(2):
            driver.submit(QpuJob([(bo.address, bo.address)] * 2, [bo]), 0.5).wait(0.5)
        with driver.counters(["QPU-total-idle-clk-cycles"]):
            driver.submit(QpuJob([(bo.address, bo.address)], [bo])).wait(0.5)
        bo.close()
    finally:
        driver.close()


CASES = [
    (OSError(errno.EIO, "x"), "fail"),
    (OSError(errno.ETIMEDOUT, "x"), "fail"),
    (OSError(errno.EINVAL, "x"), "fail"),
]
CASES += [(KeyboardInterrupt(), "fail"), (KeyboardInterrupt(), "after"), (OSError(errno.EACCES, "x"), "fail")]


@pytest.mark.parametrize("nodes", [("vcio", "vcsm-cma", "mem"), ("vcio", "vcsm", "mem"), ("vcio", "mem")], ids=str)
@pytest.mark.parametrize("launch", vc4_adapter.LAUNCHES)
@pytest.mark.parametrize(("error", "when"), CASES, ids=lambda v: v if isinstance(v, str) else repr(v))
def test_failure_at_every_call(nodes: tuple[str, ...], launch: str, error: BaseException, when: str) -> None:
    clean = FakeLinux(nodes=nodes)
    scenario(clean, launch)
    assert clean.left() == []
    closing = clean.calls
    met = 0
    for n in range(closing):
        linux = FakeLinux(nodes=nodes)
        getattr(linux, when)[n] = error
        try:
            scenario(linux, launch)
        except (DriverError, KeyboardInterrupt, OSError):
            met += 1
        # What a second Ctrl-C or an error of Linux left allocated is released at exit.
        exit_guard.release_all()
        left = linux.left()
        entry = clean.log_index(n)
        if when == "after":
            # An interrupt between a system call and the port's return: the caller does not get the descriptor or map.
            if entry[0] == "open":
                left = [x for x in left if not x.endswith(entry[1])]
            if entry[0] == "mmap":
                left = [x for x in left if not x.startswith("map")]
        elif isinstance(error, OSError) and entry[0] == "ioctl":
            tag = struct.unpack_from("<I", entry[3], 8)[0] if entry[1] == "/dev/vcio" else entry[2] & 255
            if tag in (0x3000E, 0x3000F, 0x5E, 0x61):  # Linux refused to release it
                left = [x for x in left if not x.startswith(("firmware", "vcsm"))]
            if tag == 0x30012 and entry[3][20] == 0:  # or to power off
                left = [x for x in left if x != "V3D powered"]
        assert left == [], (n, entry, linux.log[-6:])
        assert all(m.users == 0 for m in power._known.values())
    assert met > closing // 3  # the release is repeated
