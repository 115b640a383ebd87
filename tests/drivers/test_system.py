"""Tests of what `qpu doctor` reads from Linux about a GPU in use: users, load, power, missing nodes, the log."""

from __future__ import annotations

from typing import Any

import pytest

from qpu.drivers import doctor
from qpu.drivers.doctor import Report, Status, examine
from qpu.drivers.system import explain_log, users
from qpu.emu.port import EmuPort
from tests.drivers.fakes import FakePort

PI4 = {"/proc/device-tree/compatible": b"raspberrypi,4-model-b\0brcm,bcm2711\0"}
PI3 = {"/proc/device-tree/compatible": b"raspberrypi,3-model-b\0brcm,bcm2837\0"}
V3D = {"/sys/class/drm/renderD128/device/uevent": b"DRIVER=v3d\n"}


def found(report: Report, name: str) -> list[Any]:
    return [check for check in report.checks if check.name == name]


def test_other_users_with_load_and_memory() -> None:
    info = b"pos:\t0\ndrm-driver:\tv3d\ndrm-client-id:\t7\ndrm-engine-csd:\t%d ns\ndrm-resident-memory:\t2048 KiB\n"
    port = FakePort(
        files=PI4 | V3D | {"/proc/41/comm": b"glmark2\n", "/proc/41/fdinfo/3": info % 0, "/proc/42/comm": b"bash\n"},
        links={"/proc/41/fd/3": "/dev/dri/renderD128", "/proc/42/fd/0": "/dev/pts/0", "/proc/7/fd/3": "/dev/dri/card0"},
    )
    reads = iter(range(0, 10**9, 25_000_000))
    real = port.read_bytes

    def counting(path: str) -> bytes:
        return info % next(reads) if path.endswith("fdinfo/3") else real(path)

    port.read_bytes = counting  # type: ignore[method-assign]
    (user,) = users(port)
    assert (user.pid, user.name, user.memory) == (41, "glmark2", 2 << 20)
    assert 0.2 < user.load["csd"] < 0.26 and str(user) == "glmark2 (41) on /dev/dri/renderD128: csd 25%, 2 MiB"
    (check,) = found(examine(port), "in use by")
    assert check.status is Status.NOTE and check.found.startswith("glmark2 (41) on /dev/dri/renderD128: csd")


def test_users_of_the_firmware_on_a_pi_3() -> None:
    port = FakePort(nodes={}, files=PI3 | {"/proc/9/comm": b"vcgencmd\n"}, links={"/proc/9/fd/5": "/dev/vcio"})
    assert [str(user) for user in users(port)] == ["vcgencmd (9) on /dev/vcio"]


def test_a_driver_without_device_files() -> None:
    """Alpine without mdev or udev: sysfs has the node, /dev/dri does not exist."""
    report = examine(FakePort(nodes={}, files=PI4 | V3D))
    (check,) = found(report, "nodes")
    assert check.status is Status.FAIL and "the driver is loaded" in check.found and "renderD128" in check.found
    assert "mdev -s" in check.helps[0] and "config.txt" not in "".join(check.helps)
    gpu = found(report, "GPU")[0]
    assert not any("config.txt" in help for help in gpu.helps) and "mdev -s" in gpu.helps[0]


def test_power_and_clock() -> None:
    port = FakePort(files=PI4 | V3D | {"/sys/class/drm/renderD128/device/power/runtime_status": b"suspended\n"})
    (check,) = found(examine(port), "power of V3D")
    assert check.found == "suspended while idle; the first launch takes longer"
    (clock,) = found(examine(EmuPort("pi4")), "clock")
    assert clock.found.startswith("V3D 500 MHz asked for, 500 measured")


def test_kms_on_old_boards_names_an_image_that_works() -> None:
    (check,) = found(examine(EmuPort("pi3,kms=1")), "display driver")
    assert (
        "vc4-kms-v3d" in check.helps[0] and "Raspberry Pi OS Lite" in check.helps[1] and "[uncertain]" in check.helps[1]
    )


def test_a_named_node_of_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    port = FakePort(files=PI4 | V3D)
    report = examine(port, "/dev/dri/card0")
    (check,) = (check for check in found(report, "/dev/dri/card0") if check.status is Status.FAIL)
    assert (
        check.status is Status.FAIL
        and "vc4" in check.found
        and check.helps == ("name /dev/dri/renderD128, or hardware",)
    )
    gone = examine(port, "/dev/dri/card7")
    (check,) = found(gone, "/dev/dri/card7")
    assert "there is no such node" in check.found and "renderD128" in check.helps[0]
    for name in ("/dev/dri/renderD128", "hardware"):
        assert not any(check.status is Status.FAIL for check in found(examine(port, name), name))


LOG = """
[  10.1] v3d fec00000.v3d: [drm] *ERROR* V3D_ERR_STAT: 0x00000480
[  10.2] v3d fec00000.v3d: MMU error from client L2T (0) at 0x3f8000, pte invalid
[  10.2] v3d fec00000.v3d: MMU error from client TFU (4) at 0x1000, write violation, cap exceeded
[  10.3] [drm] Resetting GPU for hang.
[  11.0] usb 1-1: new device
[  12.0] v3d fec00000.v3d: V3D_ERR_STAT: 0x00010000
[  12.3] [drm] Resetting GPU for hang.
"""


UNSURE = "(names of bits: uncertain)"


def test_messages_of_the_log() -> None:
    assert explain_log(LOG) == [
        f"V3D_ERR_STAT 0x00000480: VPM: write of rows that are not allocated, VDW: address overflow {UNSURE}",
        "MMU error at 0x3f8000, by the TMU or the instruction cache: the address is in no buffer",
        "MMU error at 0x1000, by unit TFU: the buffer may not be written; the address is above the GPU's memory",
        "the GPU was reset: no batch of a program ended within half a second",
        "V3D_ERR_STAT 0x00010000: unknown bits 0x10000 (names of bits: uncertain)",
    ]
    port = FakePort(files=PI4 | V3D | {"/var/log/kern.log": LOG.encode()})
    checks = found(examine(port), "log")
    assert len(checks) == 5 and all(check.status is Status.WARN for check in checks)
    assert not found(examine(FakePort(files=PI4 | V3D)), "log")
    assert doctor.LOG_FILES[0] == "/var/log/kern.log"
