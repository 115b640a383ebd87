"""Tests of board detection from device trees, revision codes, /proc/cpuinfo and the identity of the GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qpu.drivers import board
from qpu.drivers.board import Board, board_from, decode_revision, detect, parse_revision
from tests.drivers.fakes import FakePort

CODES = json.loads((Path(__file__).parent.parent / "vectors" / "abi" / "revision_codes.json").read_text())


@pytest.mark.parametrize("row", CODES["boards"], ids=lambda r: r["code"])
def test_revision_code(row: Any) -> None:
    got = decode_revision(int(row["code"], 16))
    assert got.model == row["model"]
    assert got.board_revision == row["board_revision"]
    assert got.memory_mb == row["memory_mb"]
    assert got.manufacturer == row["manufacturer"]
    assert got.soc == row["soc"]
    assert got.compatible == row["compatible"]
    assert got.new_style == (row["style"] == "new")
    whole = board_from(revision=int(row["code"], 16).to_bytes(4, "big"))
    assert (whole.gpu, whole.generation) == (row["gpu"]["name"], row["gpu"]["generation"])


@pytest.mark.parametrize("row", CODES["special_forms"], ids=lambda r: r["code"])
def test_flags_and_white_space(row: Any) -> None:
    code, plain = parse_revision(row["code"].replace("\\n", "\n")), parse_revision(row["equals"])
    assert code is not None
    assert plain is not None
    a, b = decode_revision(code), decode_revision(plain)
    assert (a.model, a.soc, a.memory_mb, a.board_revision) == (b.model, b.soc, b.memory_mb, b.board_revision)


@pytest.mark.parametrize("code", [0x0000_000E, 0x00A0_2082])
@pytest.mark.parametrize("bits", [0x0100_0000, 0x0200_0000, 0x0400_0000])
def test_warranty_and_overvoltage_bits_change_no_field(code: int, bits: int) -> None:
    assert replace(decode_revision(code | bits), code=code) == decode_revision(code)


def test_field_tables_are_complete() -> None:
    meta = CODES["meta"]
    for key, soc in meta["processor"].items():
        assert decode_revision(1 << 23 | int(key) << 12).soc == soc
    for key, name in meta["type"].items():
        assert decode_revision(1 << 23 | int(key, 16) << 4).model == f"Raspberry Pi {name}"
    for key, name in meta["manufacturer"].items():
        assert decode_revision(1 << 23 | int(key) << 16).manufacturer == name
    for key, size in meta["memory_mb"].items():
        assert decode_revision(1 << 23 | int(key) << 20).memory_mb == size


def test_unknown_codes_are_accepted() -> None:
    new = decode_revision(1 << 23 | 0xFE << 4 | 15 << 12 | 15 << 16 | 9)
    assert new.model == "Raspberry Pi (unknown type 0xfe)"
    assert (new.soc, new.manufacturer, new.board_revision) == (None, None, "1.9")
    old = decode_revision(0x0099)
    assert "0099" in old.model
    assert old.soc == "BCM2835"
    with pytest.raises(ValueError, match="32-bit"):
        decode_revision(1 << 32)


@pytest.mark.parametrize(
    ("name", "chip", "soc", "generation"),
    [
        ("model-b", "bcm2835", "BCM2835", 4),
        ("2-model-b", "bcm2836", "BCM2836", 4),
        ("2-model-b-rev2", "bcm2837", "BCM2837", 4),
        ("3-model-b", "bcm2837", "BCM2837", 4),
        ("model-zero-2-w", "bcm2837", "BCM2837", 4),
        ("3-model-b", "bcm2710", "BCM2837", 4),
        ("4-model-b", "bcm2711", "BCM2711", 6),
        ("400", "bcm2711", "BCM2711", 6),
        ("5-model-b", "bcm2712", "BCM2712", 7),
        ("5-compute-module", "bcm2712", "BCM2712", 7),
        ("9-model-z", "bcm2712", "BCM2712", 7),
    ],
)
def test_device_tree(name: str, chip: str, soc: str, generation: int) -> None:
    got = board_from(
        compatible=f"raspberrypi,{name}\0brcm,{chip}\0".encode(), model=b"Raspberry Pi Something Rev 1.0\0"
    )
    assert (got.soc, got.generation, got.source) == (soc, generation, "device-tree")
    assert got.model == "Raspberry Pi Something Rev 1.0"
    assert got.compatible[0] == f"raspberrypi,{name}"


def test_the_code_decides_between_2836_and_2837_only() -> None:
    tree = b"raspberrypi,2-model-b\0brcm,bcm2836\0"
    assert board_from(compatible=tree, revision=bytes.fromhex("00a02042")).soc == "BCM2837"
    assert board_from(compatible=tree, revision=bytes.fromhex("00a01041")).soc == "BCM2836"
    assert board_from(compatible=tree).soc == "BCM2836"
    four = b"raspberrypi,4-model-b\0brcm,bcm2711\0"
    assert board_from(compatible=four, revision=bytes.fromhex("00a02082")).soc == "BCM2711"


def test_cpuinfo_is_the_last_resort_and_its_hardware_line_means_nothing() -> None:
    text = "processor\t: 0\n\nHardware\t: BCM2835\nRevision\t: c03111\nModel\t\t: Raspberry Pi 4 Model B Rev 1.1\n"
    got = board_from(cpuinfo=text)
    assert (got.soc, got.revision, got.source) == ("BCM2711", 0xC03111, "cpuinfo")
    assert got.model == "Raspberry Pi 4 Model B Rev 1.1"
    assert got.memory_mb == 4096
    assert board_from(cpuinfo="Hardware : BCM2835\n").soc is None


@pytest.mark.parametrize(
    "evidence",
    [
        {},
        {"cpuinfo": "model name : some laptop\nflags : fpu\n"},
        {"cpuinfo": "Hardware : Allwinner sun8i\nRevision : 0000\n"},
        {"cpuinfo": "Revision : not a number\n"},
        {"compatible": b"pine64,rockpro64\0rockchip,rk3399\0", "cpuinfo": "Revision : 0010\n"},
        {"compatible": b"", "model": b"\0", "revision": b"\0\0"},
    ],
)
def test_other_computers(evidence: Any) -> None:
    got = board_from(**evidence)
    assert (got.soc, got.generation, got.is_pi) == (None, None, False)
    assert got.gpu == "unknown GPU"


def test_a_new_chip_on_a_raspberry_pi_is_unknown_not_an_error() -> None:
    got = board_from(compatible=b"raspberrypi,6-model-b\0brcm,bcm2799\0", model=b"Raspberry Pi 6\0")
    assert (got.model, got.soc) == ("Raspberry Pi 6", None)


def test_clock_by_board() -> None:
    def clock(code: str) -> int | None:
        return board_from(revision=bytes.fromhex("00" + code)).clock_hz

    assert clock("a01041") == 250_000_000
    assert clock("900093") == 300_000_000
    assert clock("902120") == 300_000_000
    assert clock("a02082") == 400_000_000
    assert clock("c03111") == 500_000_000
    assert Board("?").clock_hz is None


def test_detect_reads_the_tree_through_the_port() -> None:
    tree = "/sys/firmware/devicetree/base"
    port = FakePort(
        files={
            f"{tree}/compatible": b"raspberrypi,3-model-b\0brcm,bcm2837\0",
            f"{tree}/model": b"Raspberry Pi 3 Model B Rev 1.2\0",
            f"{tree}/system/linux,revision": bytes.fromhex("00a02082"),
        }
    )
    got = detect(port)
    assert (got.model, got.soc, got.revision) == ("Raspberry Pi 3 Model B Rev 1.2", "BCM2837", 0xA02082)
    assert (got.peripheral_base, got.container) == (0x3F00_0000, None)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"/.dockerenv": b""}, "docker"),
        ({"/run/.containerenv": b""}, "podman"),
        ({"/run/systemd/container": b"lxc\n"}, "lxc"),
        ({"/proc/1/environ": b"PATH=/bin\0container=systemd-nspawn\0"}, "systemd-nspawn"),
        ({"/proc/1/cgroup": b"0::/kubepods/pod12\n"}, "kubepods"),
        ({"/proc/1/cgroup": b"0::/init.scope\n"}, None),
    ],
)
def test_containers(files: dict[str, bytes], name: str | None) -> None:
    assert detect(FakePort(files=files)).container == name


def test_the_gpu_has_the_last_word() -> None:
    lost = board.with_gpu(board.UNKNOWN, 71)
    assert (lost.soc, lost.generation, lost.source) == ("BCM2712", 7, "gpu")
    known = board_from(revision=bytes.fromhex("00c03111"))
    assert board.with_gpu(known, 42) is known


@pytest.mark.parametrize(
    ("files", "owned"),
    [
        ({"status": b"okay\0"}, True),
        ({"reg": b""}, True),  # no status counts as okay
        ({"status": b"disabled\0"}, False),
        ({}, False),
    ],
)
def test_kms_owns_v3d(files: dict[str, bytes], owned: bool) -> None:
    node = "/proc/device-tree/soc/v3d@7ec00000/"
    port = FakePort(files={node + name: data for name, data in files.items()} | {"/proc/device-tree/model": b""})
    assert board.kms_owns_v3d(port) is owned


@pytest.mark.parametrize(("code", "known"), [("0000", False), ("0001", False), ("0002", True), ("000f", True)])
def test_revision_lines_of_other_arm_boards(code: str, known: bool) -> None:
    assert board_from(cpuinfo=f"Hardware\t: x\nRevision\t: {code}\n").is_pi == known
