"""Tests of the search for the node, the choice of the adapter and the doctor: every symptom gets exactly its advice."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from qpu.drivers import doctor
from qpu.drivers import errors_table as advice
from qpu.drivers.base import CsdJob
from qpu.drivers.drm.nodes import BY_PATH, candidates, find_v3d
from qpu.drivers.errors_table import ADVICE, fault, reason_of
from qpu.drivers.port import FileStat
from qpu.drivers.probe import EMULATE, open_driver
from qpu.drivers.uapi.drm import Param
from qpu.errors import DriverError, GpuResetError, GpuTimeoutError, NoDeviceError, UsageError
from tests.drivers.fakes import PARAMS_71, FakePort, os_error

TREE = "/proc/device-tree"


def pi(name: str, chip: str, code: str) -> dict[str, bytes]:
    return {
        f"{TREE}/compatible": f"raspberrypi,{name}\0brcm,{chip}\0".encode(),
        f"{TREE}/model": f"Raspberry Pi {name}\0".encode(),
        f"{TREE}/system/linux,revision": bytes.fromhex("00" + code),
    }


PI5 = pi("5-model-b", "bcm2712", "c04170")
PI4 = pi("4-model-b", "bcm2711", "c03111")
PI3 = pi("3-model-b", "bcm2837", "a02082")
GROUPS = {
    "/proc/self/status": b"Name:\tpython\nUid:\t1000 1000 1000 1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t20 1000 \n",
    "/etc/group": b"root:x:0:\ndialout:x:20:pi\npi:x:1000:\n",
}


def helps(error: DriverError) -> tuple[str, ...]:
    return reason_of(error)[1]


# -- nodes


def test_order_of_candidates() -> None:
    nodes: dict[str, str | int] = {f"/dev/dri/{n}": "x" for n in ("card10", "card2", "renderD129", "renderD128", "by")}
    assert candidates(FakePort(nodes=nodes)) == [
        "/dev/dri/renderD128",
        "/dev/dri/renderD129",
        "/dev/dri/card2",
        "/dev/dri/card10",
    ]


@pytest.mark.parametrize(
    ("name", "is_v3d"),
    [
        ("platform-fec00000.v3d-card", True),
        ("platform-fec00000.v3d-render", True),
        ("platform-fec00000.gpu-render", True),
        ("platform-1002000000.v3d-card", True),
        ("platform-1002000000.gpu-card", True),
        ("platform-gpu-card", False),
        ("platform-axi:gpu-card", False),
        ("platform-107c580000.hdmi-card", False),
        ("pci-0000:01:00.0-card", False),
    ],
)
def test_by_path_names(name: str, is_v3d: bool) -> None:
    assert bool(BY_PATH.fullmatch(name)) is is_v3d


def test_by_path_reaches_a_node_with_another_name() -> None:
    port = FakePort(
        nodes={"/dev/dri/card0": "vc4", "/dev/dri/gpu7": "v3d"},
        links={"/dev/dri/by-path/platform-fec00000.gpu-render": "../gpu7"},
    )
    assert find_v3d(port).path == "/dev/dri/by-path/platform-fec00000.gpu-render"


@pytest.mark.parametrize(
    "nodes",
    [
        {"/dev/dri/card0": "vc4", "/dev/dri/card1": "v3d", "/dev/dri/renderD128": "v3d"},
        {"/dev/dri/card0": "v3d", "/dev/dri/card1": "vc4", "/dev/dri/renderD128": "v3d"},
        {"/dev/dri/card0": "amdgpu", "/dev/dri/renderD128": "amdgpu", "/dev/dri/renderD129": "v3d"},
        {"/dev/dri/card0": "vc4", "/dev/dri/card1": "v3d", "/dev/dri/renderD128": errno.EACCES},
        {"/dev/dri/card0": errno.EACCES, "/dev/dri/card1": errno.ENXIO, "/dev/dri/card2": "v3d"},
    ],
)
def test_the_driver_name_decides(nodes: dict[str, str | int]) -> None:
    port = FakePort(nodes=nodes)
    node = find_v3d(port)
    assert nodes[node.path] == "v3d"
    assert list(port.fds.values()) == [node.path]  # the others were closed
    if nodes.get("/dev/dri/renderD128") == "v3d":
        assert node.path == "/dev/dri/renderD128"


def test_explicit_path() -> None:
    port = FakePort(
        nodes={"/dev/dri/card0": "vc4", "/dev/dri/card1": "v3d", "/dev/dri/renderD128": "v3d"},
        links={"/dev/dri/by-path/platform-1002000000.v3d-card": "../card1"},
    )
    assert find_v3d(port, "/dev/dri/card1").path == "/dev/dri/card1"
    assert find_v3d(port, "/dev/dri/by-path/platform-1002000000.v3d-card").version == "1.0.0"
    with pytest.raises(DriverError, match="its driver is vc4") as caught:
        find_v3d(port, "/dev/dri/card0")
    assert helps(caught.value) == (ADVICE["wrong-card"].help,)


# -- one symptom, one advice


def denied(uevent: bytes) -> dict[str, bytes]:
    return {"/sys/class/drm/renderD128/device/uevent": uevent}


NODE_CASES: list[tuple[str, dict[str, str | int], dict[str, bytes], str | None, str]] = [
    ("no-dri", {}, PI4, None, "/dev/dri: ENOENT"),
    ("no-dri-container", {}, PI4 | {"/.dockerenv": b""}, None, "/dev/dri: ENOENT"),
    (
        "no-v3d",
        {"/dev/dri/card0": "vc4", "/dev/dri/card1": "drm-rp1-dsi"},
        PI5,
        None,
        "card0 is vc4, card1 is drm-rp1-dsi",
    ),
    ("eacces-open", {"/dev/dri/card0": "vc4", "/dev/dri/renderD128": errno.EACCES}, PI5, None, "EACCES"),
    ("eacces-open", {"/dev/dri/renderD128": errno.EPERM}, PI5, None, "EPERM"),
    ("enodev", {"/dev/dri/renderD128": errno.ENODEV}, PI5, None, "ENODEV"),
    ("enodev", {"/dev/dri/renderD128": errno.ENXIO}, PI5, None, "ENXIO"),
    ("enotty", {"/dev/dri/renderD128": "null"}, PI5, None, "ENOTTY"),
    ("enotty", {"/dev/null": "null"}, PI5, "/dev/null", "/dev/null: ENOTTY"),
    ("wrong-card", {"/dev/dri/card0": "vc4"}, PI5, "/dev/dri/card0", "its driver is vc4"),
    ("eacces-open", {"/dev/dri/card0": errno.EACCES}, PI5, "/dev/dri/card0", "EACCES"),
    ("no-node", {"/dev/dri/card0": "vc4"}, PI5, "/dev/dri/card7", "/dev/dri/card7: ENOENT"),
]


@pytest.mark.parametrize(("key", "nodes", "files", "path", "reason"), NODE_CASES)
def test_advice_for_nodes(
    key: str, nodes: dict[str, str | int], files: dict[str, bytes], path: str | None, reason: str
) -> None:
    port = FakePort(nodes=nodes, files=dict(files))
    with pytest.raises(NoDeviceError) as caught:
        open_driver(port, path or "hardware")
    assert helps(caught.value) == (ADVICE[key].help, EMULATE)
    assert ADVICE[key].cause in str(caught.value)
    assert reason in str(caught.value)
    assert port.leaks() == {}


def test_permission_shows_owner_mode_and_groups() -> None:
    port = FakePort(
        nodes={"/dev/dri/card0": "vc4", "/dev/dri/card1": errno.EACCES, "/dev/dri/renderD128": errno.EACCES},
        files=PI5 | GROUPS | denied(b"DRIVER=v3d\nOF_COMPATIBLE_0=brcm,2712-v3d\n"),
    )
    port.stats["/dev/dri/renderD128"] = FileStat(0o020660, 0, 105, "root", "render")
    with pytest.raises(NoDeviceError) as caught:
        open_driver(port)
    text = str(caught.value)
    assert text.startswith("no usable GPU (Raspberry Pi 5-model-b): drm_v3d: /dev/dri/renderD128: EACCES")
    assert "owner root:render, mode 0660; this process is in the groups pi dialout; this is the v3d node" in text
    assert "found card0 is vc4" in text
    assert "mailbox: the firmware starts no programs on VideoCore VII" in text
    assert caught.value.errno == errno.EACCES


CALL_CASES: list[tuple[str, str, int]] = [
    ("wrong-card", "CREATE_BO", errno.EINVAL),
    ("enomem-bo", "CREATE_BO", errno.ENOMEM),
    ("enospc", "CREATE_BO", errno.ENOSPC),
    ("eacces-submit", "SUBMIT_CSD", errno.EACCES),
    ("einval-submit", "SUBMIT_CSD", errno.EINVAL),
    ("enoent-submit", "SUBMIT_CSD", errno.ENOENT),
    ("etime", "WAIT_BO", errno.ETIME),
    ("emfile", "mmap", errno.EMFILE),
]


@pytest.mark.parametrize(("key", "call", "number"), CALL_CASES)
def test_advice_for_calls(key: str, call: str, number: int) -> None:
    port = FakePort(files=dict(PI5))
    driver: Any = open_driver(port)

    def before(n: int, what: str) -> None:
        if what == call:
            raise os_error(number)

    port.before = before
    with pytest.raises(DriverError) as caught:
        bo = driver.alloc(1)
        driver.submit(CsdJob(code=bo.address, uniforms=bo.address, bos=(bo,))).wait(0.1)
    assert helps(caught.value) == (ADVICE[key].help,)
    assert caught.value.errno == number
    assert advice.errno_name(number) in str(caught.value)
    driver.close()


def test_einval_from_the_first_get_param_is_the_wrong_card() -> None:
    port = FakePort(files=dict(PI5), params={})
    with pytest.raises(NoDeviceError) as caught:
        open_driver(port)
    assert helps(caught.value) == (ADVICE["wrong-card"].help, EMULATE)


def test_no_compute_dispatch() -> None:
    params = {p: v for p, v in PARAMS_71.items() if p < Param.SUPPORTS_CSD}
    with pytest.raises(NoDeviceError) as caught:
        open_driver(FakePort(files=dict(PI5), params=params))
    assert helps(caught.value) == (ADVICE["no-csd"].help, EMULATE)


def test_every_row_says_something() -> None:
    for key, row in ADVICE.items():
        assert row.key == key
        assert row.symptom
        assert row.cause
        assert row.help
        assert "\n" not in row.cause + row.help
        error = fault(key, "/dev/x: CALL", errno.EIO, "a fact")
        assert str(error).startswith(f"/dev/x: CALL: EIO (Input/output error): {row.cause} [a fact]\n  help: ")
        assert helps(error) == (row.help,)
    assert isinstance(fault("etime", "x"), GpuTimeoutError)
    assert isinstance(fault("etimedout-vcio", "x"), GpuTimeoutError)
    assert isinstance(fault("reset", "x"), GpuResetError)
    assert advice.errno_name(None) == "no errno"
    assert advice.errno_name(9999) == "errno 9999"


# -- probing


def test_hardware_on_a_pi_5() -> None:
    port = FakePort(files=dict(PI5))
    driver = open_driver(port)
    assert driver.info.board.model == "Raspberry Pi 5-model-b"
    driver.close()
    assert port.leaks() == {}


def test_another_computer() -> None:
    port = FakePort(nodes={"/dev/dri/card0": "i915", "/dev/dri/renderD128": "i915"})
    with pytest.raises(NoDeviceError) as caught:
        open_driver(port)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("no usable GPU (unknown board, not a known Raspberry Pi): drm_v3d: /dev/dri: ")
    assert "renderD128 is i915, card0 is i915" in first
    assert rest == [f"  help: {EMULATE}"]


def test_a_computer_without_any_gpu() -> None:
    with pytest.raises(NoDeviceError) as caught:
        open_driver(FakePort(nodes={}))
    assert "drm_v3d: there is no /dev/dri; mailbox: the board is not a Pi 0-3" in str(caught.value)
    assert helps(caught.value) == (EMULATE,)
    with pytest.raises(NoDeviceError) as caught:
        open_driver(FakePort(nodes={}, files={"/.dockerenv": b""}))
    assert helps(caught.value) == (ADVICE["no-dri-container"].help, EMULATE)


def test_names() -> None:
    with pytest.raises(UsageError, match="unknown device 'gpu'; allowed: hardware, or the path"):
        open_driver(FakePort(), "gpu")
    with pytest.raises(NoDeviceError, match=r"at /dev/vcio .*VideoCore IV only"):
        open_driver(FakePort(files=dict(PI5)), "/dev/vcio")


def test_a_pi_3_is_used_through_its_firmware() -> None:
    port = FakePort(nodes={"/dev/dri/card0": "vc4"}, files=dict(PI3))
    with pytest.raises(NoDeviceError) as caught:
        open_driver(port)
    assert "): mailbox: open /dev/vcio: " in str(caught.value)
    assert "ENOENT" in str(caught.value)
    assert helps(caught.value)[0] == ADVICE["no-vcio"].help
    assert "drm_v3d: VideoCore IV has no compute dispatch in DRM" in str(caught.value)
    assert port.leaks() == {}


# -- doctor and info


def found(report: doctor.Report, name: str) -> doctor.Check:
    (check,) = (c for c in report.checks if c.name == name)
    return check


def test_doctor_on_a_healthy_pi_5() -> None:
    files = PI5 | GROUPS | {"/proc/sys/kernel/osrelease": b"6.12.1\n", "/proc/meminfo": b"MemAvailable: 1048576 kB\n"}
    port = FakePort(files=files | denied(b"DRIVER=v3d\n"))
    report = doctor.examine(port)
    assert report.usable
    assert found(report, "GPU").found == "V3D 7.1 7.1.7, 4 x 4 QPUs, drm_v3d on /dev/dri/renderD128"
    assert found(report, "Linux").found == "6.12.1"
    assert found(report, "groups").found == "pi dialout"
    assert found(report, "memory").found == "1024 MiB available"
    assert found(report, "/dev/dri/renderD128").found == "root:render 0660, v3d"
    assert found(report, "/dev/dri/card0").status is doctor.Status.NOTE
    assert [c.status for c in report.checks].count(doctor.Status.FAIL) == 0
    assert port.leaks() == {}
    assert len(port.jobs) == 1
    assert "fail" not in doctor.checks_text(report)


def test_doctor_finds_a_hanging_gpu() -> None:
    port = FakePort(files=dict(PI5))
    port.hang = True
    report = doctor.examine(port)
    assert not report.usable
    assert found(report, "GPU").found == "opens, but does not run a trivial job"


def test_doctor_on_another_computer() -> None:
    """It begins with what matters there, and nothing on it is a failure; exit status 1 says that there is no GPU."""
    report = doctor.examine(FakePort(nodes={}))
    assert not report.usable
    text = doctor.checks_text(report)
    assert text.startswith("no Raspberry Pi: everything runs on emulated boards") and text.count(report.conclusion) == 1
    assert "fail" not in text
    data = json.loads(json.dumps(doctor.checks_json(report)))
    assert data["usable"] is False
    row = {"name": "board", "status": "note", "found": "unknown board: not a known Raspberry Pi", "helps": []}
    assert data["checks"][0] == row


@pytest.mark.parametrize(
    ("release", "warned"),
    [
        ("6.18.28", False), ("6.18.29+rpt-rpi-2712", True), ("6.18.36", True), ("6.18.37", False), ("6.6.47-v8", True),
        ("6.6.48", False), ("6.1", False),
    ],
)  # fmt: skip
def test_doctor_knows_releases_of_linux_with_faults(release: str, warned: bool) -> None:
    files = dict(PI4) | {"/proc/sys/kernel/osrelease": release.encode() + b"\n"}
    checks = [c for c in doctor.examine(FakePort(nodes={}, files=files)).checks if c.name == "Linux"]
    assert [str(c.status) for c in checks] == (["note", "warn"] if warned else ["note"])
    elsewhere = doctor.examine(FakePort(nodes={}, files={"/proc/sys/kernel/osrelease": release.encode()}))
    assert [str(c.status) for c in elsewhere.checks if c.name == "Linux"] == ["note"]


def test_doctor_on_a_pi_4_without_its_driver() -> None:
    report = doctor.examine(FakePort(nodes={}, files=dict(PI4)))
    assert found(report, "nodes").helps == (ADVICE["no-dri"].help,)
    text = doctor.checks_text(report)
    assert f"help: {ADVICE['no-dri'].help}" in text
    assert text.splitlines()[-1].startswith("the GPU is not usable yet")
    order = [c.name for c in report.checks]
    assert order == ["board", "Linux", "python", "container", "nodes", "groups", "GPU"]


def test_doctor_on_a_pi_3() -> None:
    node = f"{TREE}/soc/v3d@7ec00000/status"
    files = PI3 | {"/proc/meminfo": b"MemAvailable: 10240 kB\nCmaTotal: 32768 kB\nCmaFree: 1024 kB\n"}
    report = doctor.examine(FakePort(nodes={}, files=files | {node: b"okay\0"}))
    assert found(report, "display driver").helps[:1] == (ADVICE["enable-refused"].help,)
    assert found(report, "/dev/vcio").helps == (ADVICE["no-vcio"].help,)
    assert found(report, "/dev/vcsm-cma").helps == (ADVICE["no-vcsm"].help,)
    cma = found(report, "CMA")
    assert (cma.status, cma.found, cma.helps) == (doctor.Status.WARN, "1 of 32 MiB free", (ADVICE["enomem-cma"].help,))
    free = doctor.examine(FakePort(nodes={}, files=files | {node: b"disabled\0"}))
    assert found(free, "display driver").status is doctor.Status.OK


def test_doctor_sees_a_32_bit_process() -> None:
    port = FakePort(nodes={}, files=PI4 | {"/proc/sys/kernel/arch": b"aarch64\n"})
    port.pointer_size = 4
    assert "32-bit on a 64-bit Linux kernel" in found(doctor.examine(port), "python").found


def test_info() -> None:
    data = json.loads(json.dumps(doctor.info(FakePort(files=dict(PI5)))))
    assert data["board"] == {
        "model": "Raspberry Pi 5-model-b",
        "soc": "BCM2712",
        "generation": 7,
        "gpu": "VideoCore VII",
        "revision": "c04170",
        "board_revision": "1.0",
        "memory_mb": 4096,
        "manufacturer": "Sony UK",
        "container": None,
        "source": "device-tree",
    }
    device = data["device"]
    assert (device["isa"], device["emulated"], device["slices"], device["qpus"]) == ("v3d71", False, 4, 16)
    assert data["reason"] is None
    text = doctor.info_text(data)
    assert "QPUs      16 = 4 slices x 4, 910 MHz nominal" in text


def test_info_without_a_gpu() -> None:
    port = FakePort(nodes={})
    data = doctor.info(port)
    assert data["device"] is None
    assert data["board"]["generation"] is None
    assert data["reason"].startswith("no usable GPU")
    assert "device    none: no usable GPU" in doctor.info_text(data)
    stand_in = FakePort()
    data = doctor.info(port, lambda: stand_in)
    assert data["device"]["isa"] == "v3d71"
    assert data["board"]["soc"] is None
    assert stand_in.leaks() == {}
