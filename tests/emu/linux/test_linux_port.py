"""Tests of `EmuPort` as a whole: files, injected failures, recording, threads, determinism, freed memory."""

from __future__ import annotations

import errno
import gc
import resource
import stat
import threading
from pathlib import Path

import pytest

import qpu
from qpu.drivers.port import Port
from qpu.emu.boards import BOARDS
from qpu.emu.port import EmuPort
from qpu.emu.testing import RecordingPort, ioctl_name
from qpu.errors import UsageError
from tests.emu.linux.linux_rig import Rig


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda e: e.errno == number)


# -- files


@pytest.mark.parametrize("board", BOARDS)
def test_detection_files(board: str) -> None:
    port = EmuPort(board)
    p = port.profile
    assert port.read_bytes("/proc/device-tree/model") == p.model.encode() + b"\0"
    compatible = port.read_bytes("/proc/device-tree/compatible").split(b"\0")
    assert compatible == [p.compatible.encode(), b"brcm," + p.soc.lower().encode(), b""]
    revision = int.from_bytes(port.read_bytes("/sys/firmware/devicetree/base/system/linux,revision"), "big")
    assert revision == p.revision
    assert f"Revision\t: {p.revision:04x}" in port.read_bytes("/proc/cpuinfo").decode()
    assert ("dri" in port.listdir("/dev")) == p.is_drm


@pytest.mark.parametrize(
    ("board", "at", "base"), [("pi0", 4, 0x20000000), ("pi3", 4, 0x3F000000), ("pi4", 8, 0xFE000000)]
)
def test_peripheral_address(board: str, at: int, base: int) -> None:
    data = EmuPort(board).read_bytes("/proc/device-tree/soc/ranges")
    if at == 8:
        assert data[4:8] == bytes(4)
    assert int.from_bytes(data[at : at + 4], "big") == base


def test_drm_files() -> None:
    port = EmuPort("pi5,card=1")
    assert port.listdir("/dev/dri") == ["by-path", "card0", "card1", "renderD128"]
    assert port.readlink("/dev/dri/by-path/platform-1002000000.v3d-card") == "../card1"
    assert port.readlink("/dev/dri/by-path/platform-axi:gpu-card") == "../card0"
    assert port.readlink("/sys/class/drm/renderD128/device/driver").endswith("/v3d")
    assert b"DRIVER=v3d\nOF_COMPATIBLE_0=brcm,2712-v3d" in port.read_bytes("/sys/class/drm/card1/device/uevent")
    found = port.stat("/dev/dri/renderD128")
    assert stat.S_ISCHR(found.mode) and stat.S_IMODE(found.mode) == 0o660 and found.group == "render"


@pytest.mark.parametrize(("board", "status"), [("pi3", b"disabled\0"), ("pi3,kms=1", b"okay\0")])
def test_kms(board: str, status: bytes) -> None:
    port = EmuPort(board)
    assert port.read_bytes("/proc/device-tree/soc/v3d@7ec00000/status") == status
    assert ("dri" in port.listdir("/dev")) == board.endswith("kms=1")


def test_file_errors() -> None:
    port = EmuPort("pi5")
    for call, path, number in (
        (port.read_bytes, "/proc/nothing", errno.ENOENT),
        (port.read_bytes, "/dev/dri", errno.EISDIR),
        (port.read_bytes, "/proc/cpuinfo/x", errno.ENOTDIR),
        (port.listdir, "/proc/cpuinfo", errno.ENOTDIR),
        (port.readlink, "/proc/cpuinfo", errno.EINVAL),
        (port.stat, "/.dockerenv", errno.ENOENT),
    ):
        with refused(number):
            call(path)


def test_is_a_port() -> None:
    assert isinstance(EmuPort("pi5"), Port)
    assert isinstance(RecordingPort(EmuPort("pi5")), Port)
    with pytest.raises(UsageError, match="engine"):
        EmuPort("pi5", engine="quantum")
    with pytest.raises(UsageError, match="allowed: pi0"):
        EmuPort("pi9")


# -- failures on demand, recording


def test_inject() -> None:
    rig = Rig("pi5")
    rig.port.inject("CREATE_BO", errno.ENOMEM, at=2, count=2)
    rig.port.inject("open:/dev/vcio", errno.EACCES)
    rig.port.inject("ioctl:*WAIT_BO", errno.EINTR)
    fd = rig.open()
    bo = rig.bo(fd)
    for _ in range(2):
        with refused(errno.ENOMEM):
            rig.bo(fd)
    rig.bo(fd)
    with refused(errno.EACCES):
        rig.port.open("/dev/vcio")
    rig.port.open("/dev/vcio")
    rig.submit(fd, [bo.handle])
    with pytest.raises(InterruptedError):
        rig.wait(fd, bo.handle)
    rig.wait(fd, bo.handle)
    with pytest.raises(ValueError, match="at=0"):
        rig.port.inject("open", errno.EIO, at=0)


def test_record() -> None:
    port = RecordingPort(EmuPort("pi5"))
    port.inject("ioctl:DRM_IOCTL_V3D_CREATE_BO", errno.ENOMEM)
    fd = port.open("/dev/dri/card0")
    with refused(errno.ENOMEM):
        port.ioctl(fd, 0xC0106442, bytearray(16))
    port.ioctl(fd, 0xC0106444, bytearray(b"\x08" + bytes(15)))
    port.close(fd)
    assert [str(c) for c in port.calls] == [
        "open:/dev/dri/card0",
        "ioctl:DRM_IOCTL_V3D_CREATE_BO -> ENOMEM",
        "ioctl:DRM_IOCTL_V3D_GET_PARAM",
        "close",
    ]
    assert port.calls[2].before[8:] == bytes(8) and port.calls[2].after[8] == 1
    assert port.names("open") == ["/dev/dri/card0"]


@pytest.mark.parametrize(
    ("request_code", "name"),
    [
        (0xC0106442, "DRM_IOCTL_V3D_CREATE_BO"),
        (0x40486447, "DRM_IOCTL_V3D_SUBMIT_CSD"),
        (0xC0086400, "IOCTL_MBOX_PROPERTY"),
        (0xC0046400, "IOCTL_MBOX_PROPERTY"),
        (0xC0406400, "DRM_IOCTL_VERSION"),
        (0x80404A5A, "VC_SM_CMA_IOCTL_MEM_ALLOC"),
        (0x40086200, "DMA_BUF_IOCTL_SYNC"),
        (0x12345678, "0x12345678"),
    ],
)
def test_names_of_requests(request_code: int, name: str) -> None:
    assert ioctl_name(request_code) == name


# -- time, threads


def test_time_is_emulated() -> None:
    port = EmuPort("pi5")
    start = port.monotonic()
    assert port.monotonic() > start
    port.sleep(100)
    assert 100 < port.monotonic() - start < 100.01


def test_for_submit_from_another_thread() -> None:
    rig = Rig("pi5")
    fd = rig.open()
    bo = rig.bo(fd)
    s = rig.call(fd, "DRM_IOCTL_SYNCOBJ_CREATE").handle
    submitter = threading.Timer(0.05, lambda: rig.submit(fd, [bo.handle], out_sync=s))
    submitter.start()
    rig.sync_wait(fd, [s], (1 << 63) - 1, 2)
    submitter.join()
    assert len(rig.machine.seen) == 1


def test_threads_share_a_board() -> None:
    rig = Rig("pi5")
    errors: list[BaseException] = []

    def work() -> None:
        try:
            fd = rig.open("/dev/dri/renderD128")
            for _ in range(20):
                bo = rig.bo(fd)
                handles = (bo.handle,)
                mine = Rig.__new__(Rig)  # its own scratch fields
                mine.port, mine.profile, mine.board, mine.machine = rig.port, rig.profile, rig.board, rig.machine
                mine.submit(fd, handles)
                mine.wait(fd, bo.handle)
                mine.call(fd, "DRM_IOCTL_GEM_CLOSE", handle=bo.handle)
            rig.port.close(fd)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    assert len(rig.machine.seen) == 80
    assert rig.port.allocated() == []


# -- with the real machines

ENDING = {
    "pi5": "nop ; nop ; thrsw\n" * 2 + "nop ; nop\n" * 2 + "nop ; nop ; thrsw\n" + "nop ; nop\n" * 3,
    "pi3": "mov interrupt, 1\nnop\nthrend\nnop\nnop\n",
}


def cycle(board: str, n: int) -> list[str]:
    leaks: list[str] = []
    for _ in range(n):
        port = EmuPort(board, engine="reference")
        with qpu.open_device(port=port) as gpu:
            program = qpu.assemble(ENDING[board], isa=gpu.isa)
            gpu.array(range(16))
            gpu.run(program)
            assert len(port.runs) == 1
        leaks += port.leaked
    return leaks


def resident() -> int:
    """KiB of memory in use after a garbage collection."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 10


@pytest.mark.parametrize("board", ENDING)
def test_nothing_leaks(board: str) -> None:
    assert cycle(board, 5) == []
    growth = []
    for _ in range(3):
        before = resident()
        assert cycle(board, 12) == []
        growth.append(resident() - before)
    # a leak shows in every batch; the allocator takes or returns a page table of 7 MiB now and then
    assert min(growth) < 1 << 10


@pytest.mark.soak
@pytest.mark.parametrize("board", ENDING)
def test_a_thousand_cycles(board: str) -> None:
    assert cycle(board, 20) == []
    before = resident()
    assert cycle(board, 1000) == []
    assert resident() - before < 12 << 10  # the allocator keeps or returns one page table of 7 MiB


def test_two_runs_are_the_same() -> None:
    seen = []
    for _ in range(2):
        port = EmuPort("pi5", engine="reference")
        with qpu.open_device(port=port) as gpu:
            program = qpu.assemble(ENDING["pi5"], isa=gpu.isa)
            buffer = gpu.array(range(64))
            gpu.run(program, shape=qpu.v3d.Dispatch(workgroups=40))
            stats = port.runs[-1]
            seen.append((buffer.address, stats.instructions, stats.clocks, stats.per_qpu, port.monotonic()))
    assert seen[0] == seen[1]


def test_processes_on_one_board() -> None:
    """Descriptors and handles are each one's own; memory, clock and GPU are shared; the board outlives the first."""
    first = Rig("pi5")
    second = first.port.process()
    fd = first.open()
    bo = first.bo(fd)
    with pytest.raises(OSError, match="Bad file"):
        second.ioctl(fd, 0, bytearray(8))
    other = second.open("/dev/dri/renderD128")
    assert other == fd and second.allocated() == first.port.allocated()
    before = second.monotonic()
    first.submit(fd, [bo.handle])
    first.wait(fd, bo.handle)
    assert second.monotonic() > before
    first.port.shutdown()
    assert first.port.leaked == [f"fd {fd}: /dev/dri/card0"]
    assert second.allocated() == [f"fd {other}: /dev/dri/renderD128"]
    with pytest.raises(OSError, match="Bad file"):
        first.port.open("/dev/dri/renderD128")
    second.close(other)
    second.shutdown()
    assert second.leaked == [] and second.board.closed
    with pytest.raises(OSError, match="Bad file"):
        second.process()


def test_two_boards_do_not_disturb_each_other() -> None:
    a, b = Rig("pi5"), Rig("pi5")
    fa, fb = a.open(), b.open()
    x, y = a.bo(fa), b.bo(fb)
    assert x.offset == y.offset
    a.board.memory.view(x.offset, 1)[0] = 1
    assert b.board.memory.view(y.offset, 1)[0] == 0
    a.port.shutdown()
    b.submit(fb, [y.handle])
    b.wait(fb, y.handle)
