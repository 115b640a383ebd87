"""Tests of the first errors that users see: wrong node, no node, no permission, unknown names, too large buffers."""

from __future__ import annotations

import errno

import numpy as np
import pytest

import qpu
from qpu.emu.port import EmuPort
from qpu.errors import DriverError, NoDeviceError, UsageError

MIB = 1 << 20


@pytest.mark.parametrize("card", [0, 1])
@pytest.mark.parametrize("by", ["hardware", "/dev/dri/renderD128", "the card of v3d"])
def test_v3d_is_found_whatever_its_number(card: int, by: str) -> None:
    name = f"/dev/dri/card{card}" if by.startswith("the") else by
    with qpu.open_device(name, port=EmuPort(f"pi5,card={card}")) as gpu:
        assert gpu.info.node == ("/dev/dri/renderD128" if by == "hardware" else name)
        assert gpu.array(np.arange(16, dtype=np.uint32)).numpy().sum() == 120


@pytest.mark.parametrize(
    ("board", "name", "number", "reason", "help_"),
    [
        ("pi5,card=0", "/dev/dri/card1", None, "its driver is vc4", "ls -l /dev/dri/by-path"),
        ("pi5,card=1", "/dev/dri/card0", None, "its driver is vc4", "ls -l /dev/dri/by-path"),
        ("pi5", "/dev/dri/card7", errno.ENOENT, "there is no such node", "ls /dev/dri"),
        ("pi5", "/dev/dri/renderD129", errno.ENOENT, "there is no such node", "ls /dev/dri"),
        ("pi5", "/dev/dri", errno.EISDIR, "the path is not the node of a GPU", "/dev/dri/renderD128"),
        ("pi5", "/dev/vcio", None, "VideoCore IV only", "pi5"),
        ("pi3", "/dev/dri/renderD128", None, "starts no programs on VideoCore IV; use /dev/vcio", "device 'pi5'"),
        ("pi4,deny=1", "hardware", errno.EACCES, "this is the v3d node", "sudo usermod -aG video,render"),
        ("pi3,vcsm=none,devmem=0", "hardware", errno.ENOENT, "no source of memory for the GPU", "modprobe vc_sm_cma"),
        ("pi3,kms=1", "hardware", errno.EBUSY, "owns V3D", "dtoverlay=vc4-kms-v3d"),
    ],
)
def test_a_node_that_does_not_do(board: str, name: str, number: int | None, reason: str, help_: str) -> None:
    with pytest.raises(NoDeviceError) as caught:
        qpu.open_device(name, port=EmuPort(board))
    first, *helps = str(caught.value).split("\n  help: ")
    assert reason in first and any(help_ in line for line in helps), str(caught.value)
    assert caught.value.errno == number
    assert "no known cause" not in first


@pytest.mark.parametrize("name", ["pi6", "pi5,slices=9", "pi5,slice=3", "pi4,page=8k", "cm5", "Pi5", "gpu0", "cuda:0"])
def test_names_that_do_not_exist(name: str) -> None:
    with pytest.raises(UsageError, match="allowed: "):
        qpu.open_device(name)


@pytest.mark.parametrize(
    ("board", "sizes", "fits", "number", "help_"),
    [
        ("pi3,cma=16M,vcsm=cma", [20 * MIB], 0, errno.ENOMEM, "cma="),
        ("pi3,cma=16M,vcsm=cma", [MIB] * 20, 15, errno.ENOMEM, "cma="),
        ("pi0", [300 * MIB], 0, errno.ENOMEM, "cma="),
        ("pi3,gpu_mem=16M,vcsm=plain", [20 * MIB], 0, errno.ENOMEM, "gpu_mem="),
        ("pi4,mem=64M", [100 * MIB], 0, errno.ENOMEM, "free -m"),
        ("pi5", [1000 * MIB] * 5, 4, errno.ENOSPC, "one large buffer"),
        ("pi5", [5000 * MIB], 0, None, ""),
        ("pi3,vcsm=none", [MIB], 1, None, ""),
    ],
)
def test_buffers_that_do_not_fit(board: str, sizes: list[int], fits: int, number: int | None, help_: str) -> None:
    """The error says what to do, and the device still works."""
    port = EmuPort(board)
    with qpu.open_device(port=port) as gpu:
        held: list[qpu.Buffer] = []
        error: Exception | None = None
        try:
            for size in sizes:
                held.append(gpu.empty(size // 4, np.uint32))
        except (DriverError, UsageError) as refused:
            error = refused
        assert len(held) == fits
        assert (error is None) == (fits == len(sizes))
        if number is not None:
            assert isinstance(error, DriverError) and error.errno == number and help_ in str(error)
        for buffer in held:
            buffer.close()
        gpu.empty(1024, np.uint32).close()
    assert port.leaked == []


def test_the_largest_buffer_that_is_asked_for() -> None:
    """Linux rounds up to a page in 32 bits, and never allocates one page of addresses."""
    port = EmuPort("pi4")
    with qpu.open_device(port=port) as gpu:
        largest = (1 << 32) - 2 * port.page_size
        with pytest.raises(UsageError, match=f"allowed: 1..{largest}"):
            gpu.driver.alloc(largest + 1)
        gpu.driver.alloc(largest).close()
