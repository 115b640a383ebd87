"""Tests of the real port, limited to files and calls that every Linux machine has."""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from pathlib import Path

import pytest

from qpu.drivers.board import detect
from qpu.drivers.drm.nodes import find_v3d
from qpu.drivers.errors_table import ADVICE, reason_of
from qpu.drivers.linux import LinuxPort
from qpu.drivers.port import Port
from qpu.errors import DriverError, UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="system calls of Linux")


def test_it_is_a_port() -> None:
    port = LinuxPort()
    assert isinstance(port, Port)
    assert port.emulated is None
    assert port.pointer_size == struct.calcsize("P")
    assert port.page_size == os.sysconf("SC_PAGESIZE")
    assert port.getpid() == os.getpid()
    a = port.monotonic()
    port.sleep(0.001)
    assert port.monotonic() >= a + 0.001


def test_ioctl_on_something_else() -> None:
    port = LinuxPort()
    fd = port.open("/dev/null")
    try:
        assert os.get_inheritable(fd) is False
        with pytest.raises(OSError, match="ioctl") as caught:
            port.ioctl(fd, 0xC0406400, bytearray(64))
        assert caught.value.errno == errno.ENOTTY
    finally:
        port.close(fd)
    with pytest.raises(OSError, match="descriptor") as caught:
        port.ioctl(fd, 0xC0406400, bytearray(64))
    assert caught.value.errno == errno.EBADF


def test_ioctl_writes_back() -> None:
    port = LinuxPort()
    reader, writer = os.pipe()
    try:
        os.write(writer, b"12345")
        arg = bytearray(4)
        assert port.ioctl(reader, 0x541B, arg) == 0  # FIONREAD
        assert int.from_bytes(arg, sys.byteorder) == 5
    finally:
        os.close(reader)
        os.close(writer)


def test_missing_and_forbidden_files() -> None:
    port = LinuxPort()
    for call in (port.open, port.read_bytes, port.listdir, port.stat, port.readlink):
        with pytest.raises(FileNotFoundError):
            call("/dev/no-such-node")


def test_files(tmp_path: Path) -> None:
    port = LinuxPort("")
    (tmp_path / "b").write_bytes(b"hello\0")
    (tmp_path / "a").symlink_to("b")
    assert port.read_bytes(f"{tmp_path}/a") == b"hello\0"
    assert port.listdir(str(tmp_path)) == ["a", "b"]
    assert port.readlink(f"{tmp_path}/a") == "b"
    found = port.stat(f"{tmp_path}/b")
    assert stat.S_ISREG(found.mode)
    assert found.uid == os.getuid()


def test_mappings(tmp_path: Path) -> None:
    port = LinuxPort("")
    file = tmp_path / "memory"
    file.write_bytes(bytes(2 * port.page_size))
    fd = port.open(str(file))
    mapping = port.mmap(fd, port.page_size, port.page_size)
    port.close(fd)
    view = mapping.view
    view[:4] = b"abcd"
    assert mapping.address % port.page_size == 0
    with pytest.raises(BufferError):
        mapping.close()
    assert bytes(mapping.view[:4]) == b"abcd"  # nothing happened
    del view
    mapping.close()
    mapping.close()
    assert file.read_bytes()[port.page_size :][:4] == b"abcd"
    with pytest.raises(ValueError, match="unmapped"):
        _ = mapping.view


def sysroot(root: Path) -> LinuxPort:
    for name in ("proc", "sys/firmware/devicetree/base/system", "dev/dri", "run"):
        (root / name).mkdir(parents=True)
    return LinuxPort(str(root))


def test_sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = sysroot(tmp_path)
    base = tmp_path / "sys/firmware/devicetree/base"
    (base / "compatible").write_bytes(b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    (base / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    (base / "system/linux,revision").write_bytes(bytes.fromhex("00c04170"))
    (tmp_path / "proc/device-tree").symlink_to("/sys/firmware/devicetree/base")  # absolute: stays inside
    assert port.read_bytes("/proc/device-tree/model").startswith(b"Raspberry Pi 5")
    board = detect(port)
    assert (board.soc, board.revision, board.container) == ("BCM2712", 0xC04170, None)
    monkeypatch.setenv("QPU_SYSROOT", str(tmp_path))
    assert detect(LinuxPort()) == board
    assert port.readlink("/proc/device-tree") == "/sys/firmware/devicetree/base"
    with pytest.raises(FileNotFoundError):
        port.read_bytes("/proc/cpuinfo")  # not the host's
    with pytest.raises(FileNotFoundError):
        port.read_bytes("/proc/../../../../proc/cpuinfo")
    assert port.read_bytes(__file__) == Path(__file__).read_bytes()  # other names are not redirected


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_sysroot_that_is_no_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QPU_SYSROOT", str(tmp_path / name))
    with pytest.raises(UsageError, match="is not a directory"):
        LinuxPort()


def test_sysroot_link_loops(tmp_path: Path) -> None:
    port = sysroot(tmp_path)
    (tmp_path / "dev/a").symlink_to("b")
    (tmp_path / "dev/b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links") as caught:
        port.open("/dev/a")
    assert caught.value.errno == errno.ELOOP


def test_registers(tmp_path: Path) -> None:
    port = sysroot(tmp_path)
    memory = tmp_path / "dev/mem"
    memory.write_bytes(bytes(4 * port.page_size))
    registers = port.mmio(port.page_size + 0x100, 0x40)
    registers.write32(4, 0xDEADBEEF)
    assert registers.read32(4) == 0xDEADBEEF
    assert memory.read_bytes()[port.page_size + 0x104 :][:4] == struct.pack("=I", 0xDEADBEEF)
    for offset in (-4, 2, 0x40):
        with pytest.raises(ValueError, match="multiples of 4 below 0x40"):
            registers.read32(offset)
    with pytest.raises(ValueError, match="invalid value"):
        registers.write32(0, 1 << 32)
    registers.close()
    registers.close()
    with pytest.raises(ValueError, match="unmapped"):
        registers.read32(0)


def test_registers_leak_nothing_when_mapping_fails(tmp_path: Path) -> None:
    port = sysroot(tmp_path)
    (tmp_path / "dev/mem").write_bytes(b"")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, ValueError)):
        port.mmio(0, port.page_size)
    assert len(os.listdir("/proc/self/fd")) == before


def test_systems_without_ioctl_or_shared_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    import mmap

    port = LinuxPort("")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delattr(mmap, "MAP_SHARED")
    calls = (lambda: port.ioctl(0, 0, bytearray(4)), lambda: port.mmap(0, 4096, 0), lambda: port.mmio(0, 4096))
    for call in calls:
        with pytest.raises(OSError, match="use an emulated board") as caught:
            call()
        assert caught.value.errno == errno.ENOSYS
    with pytest.raises(DriverError) as refused:
        find_v3d(port, "/dev/null")
    assert reason_of(refused.value)[1] == (ADVICE["not-linux"].help,)


def test_unknown_owners_have_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pwd", None)
    monkeypatch.setitem(sys.modules, "grp", None)
    found = LinuxPort("").stat("/dev/null")
    assert (found.owner, found.group) == ("", "")
