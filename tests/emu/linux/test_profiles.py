"""Tests of every option of a board's name with the drivers of the package: it works, or the error names the cause."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.emu.boards import BOARDS
from qpu.emu.port import EmuPort
from qpu.emu.testing import RecordingPort


def store_v3d(q: Any) -> None:
    """Stores 7 * lane at the first uniform."""
    q.nop(sig=q.ldunifrf(q.rf[12]))
    q.eidx(q.rf[10])
    q.smul24(q.rf[11], q.rf[10], 7)
    q.shl(q.rf[10], q.rf[10], 2)
    q.mov(q.tmud, q.rf[11])
    q.add(q.tmua, q.rf[12], q.rf[10])
    q.tmuwt(q.null)
    q.end()


def store_vc4(q: Any) -> None:
    q.setup_vpm_write()
    q.mov(q.r0, q.element_number)
    q.nop().mul24(q.vpm, q.r0, 7)
    q.setup_dma_store(nrows=1)
    q.setup_dma_store_stride(0)
    q.start_dma_store(q.uniform)
    q.wait_dma_store()
    q.end()


def endless(isa: Isa) -> qpu.Program:
    text = ":l\nbrr -, :l\nnop\nnop\nnop\n" if isa is Isa.VC4 else "l:\nb l\nnop\nnop\nnop\n"
    return qpu.assemble(text, isa=isa, check=False)


def runs(gpu: Any) -> None:
    program = qpu.assemble(store_vc4 if gpu.isa is Isa.VC4 else store_v3d, isa=gpu.isa)
    out = gpu.zeros(16, np.uint32)
    gpu.run(program, [out])
    assert out.numpy().tolist() == [7 * e for e in range(16)]


USABLE = [
    *BOARDS,
    "pi5,slices=3", "pi5,slices=1", "pi4,slices=1", "pi3,slices=1", "pi5,rev=5", "pi5,rev=10", "pi4,rev=1",
    "pi5,page=4k", "pi5,page=16k", "pi4,page=4k", "pi4,page=16k", "pi3,page=4k",
    "pi4,card=0", "pi4,card=1", "pi5,card=0", "pi5,card=1", "pi4,linux=old", "pi5,linux=old", "pi3,linux=old",
    "pi5,root=0", "pi5,devmem=1", "pi4,devmem=1", "pi3,devmem=0", "pi5,zero=skip", "pi5,zero=65536", "pi5,mem=64M",
    "pi3,vcsm=both", "pi3,vcsm=cma", "pi3,vcsm=plain", "pi3,tag=clear", "pi5,tag=clear", "pi3,cma=32M",
    "pi3,gpu_mem=32M", "pi5,watchdog=1",
]  # fmt: skip


@pytest.mark.parametrize("board", USABLE)
def test_usable_profiles_run_a_program(board: str) -> None:
    port = EmuPort(board)
    with qpu.open_device(port=port) as gpu:
        runs(gpu)
        runs(gpu)
    assert port.allocated() == []


@pytest.mark.parametrize(
    ("board", "words"),
    [
        ("pi5,deny=1", ("EACCES", "usermod -aG video,render")),
        ("pi4,deny=1", ("EACCES", "usermod -aG video,render")),
        ("pi3,deny=1", ("EACCES", "usermod")),
        ("pi3,kms=1", ("vc4-kms-v3d", "config.txt")),
        ("pi0,kms=1", ("vc4-kms-v3d", "config.txt")),
        ("pi3,vcsm=none,devmem=0", ("vcsm",)),
    ],
)
def test_unusable_profiles_say_why(board: str, words: tuple[str, ...]) -> None:
    with pytest.raises(qpu.DriverError) as caught, qpu.open_device(port=EmuPort(board)) as gpu:
        runs(gpu)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("board", "page"), [("pi5,page=16k", 16384), ("pi5,page=4k", 4096), ("pi4", 4096)])
def test_page_size_decides_sizes_and_offsets(board: str, page: int) -> None:
    port = RecordingPort(EmuPort(board))
    assert port.page_size == page
    with qpu.open_device(port=port) as gpu:
        out = gpu.zeros(1, np.uint32)
        assert out.address % 4096 == 0 or out.address % 4 == 0
        maps = [c for c in port.calls if c.kind == "mmap"]
        assert maps and all(c.offset is not None and c.offset % page == 0 and c.offset > 0xFFFFFFFF for c in maps)


@pytest.mark.parametrize("board", ["pi4,card=1", "pi5,card=1"])
def test_the_node_is_found_wherever_it_is(board: str) -> None:
    port = EmuPort(board)
    with qpu.open_device(port=port) as gpu:
        assert gpu.info.isa in (Isa.V3D42, Isa.V3D71)
        assert port.readlink("/sys/class/drm/card1/device/driver").endswith("/v3d")
    with pytest.raises(qpu.DriverError, match="vc4"):
        qpu.open_device("/dev/dri/card0", port=EmuPort(board))
    with qpu.open_device("/dev/dri/card1", port=EmuPort(board)) as gpu:
        runs(gpu)


@pytest.mark.parametrize("board", ["pi5,watchdog=1", "pi4,watchdog=1"])
def test_the_watchdog_is_a_reset_error_and_the_device_stays_usable(board: str) -> None:
    with qpu.open_device(port=EmuPort(board)) as gpu:
        with pytest.raises(qpu.GpuResetError):
            gpu.run(endless(gpu.isa), [0], timeout_s=10)
        runs(gpu)


@pytest.mark.parametrize("board", ["pi3", "pi3,linux=old"])
def test_the_mailbox_second_is_a_time_out(board: str) -> None:
    port = EmuPort(board)
    with qpu.open_device(port=port) as gpu:
        before = port.monotonic()
        with pytest.raises(qpu.GpuTimeoutError):
            gpu.run(endless(gpu.isa), timeout_s=30)
        assert port.monotonic() - before < 40  # emulated seconds


@pytest.mark.parametrize(
    ("board", "size", "word"),
    [
        ("pi3,cma=16M,vcsm=cma", 64 << 20, "cma="),
        ("pi3,vcsm=none,gpu_mem=32M", 64 << 20, "gpu_mem"),
        ("pi5,mem=64M", 1 << 28, "free -m"),
    ],
)
def test_small_memories_refuse_large_buffers_with_advice(board: str, size: int, word: str) -> None:
    with qpu.open_device(port=EmuPort(board)) as gpu:
        with pytest.raises(qpu.DriverError) as caught:
            gpu.zeros(size // 4, np.uint32)
        assert caught.value.errno in (errno.ENOMEM, errno.ENOSPC) and word in str(caught.value), str(caught.value)
        runs(gpu)


# -- errno by errno, where the driver can meet them

INJECTED = [
    ("pi5", "open:/dev/dri/*", errno.EACCES), ("pi5", "open:/dev/dri/*", errno.ENODEV),
    ("pi5", "open:/dev/dri/*", errno.ENXIO),
    ("pi5", "CREATE_BO", errno.ENOMEM), ("pi5", "CREATE_BO", errno.ENOSPC), ("pi5", "CREATE_BO", errno.EINVAL),
    ("pi5", "SUBMIT_CSD", errno.EACCES), ("pi5", "SUBMIT_CSD", errno.EINVAL), ("pi5", "SUBMIT_CSD", errno.ENOENT),
    ("pi5", "SUBMIT_CSD", errno.ENOMEM), ("pi4", "WAIT_BO", errno.ENODEV), ("pi4", "MMAP_BO", errno.ENOENT),
    ("pi3", "open:/dev/vcio", errno.ENOENT), ("pi3", "open:/dev/vcio", errno.EACCES),
    ("pi3", "IOCTL_MBOX_PROPERTY", errno.EINVAL), ("pi3", "IOCTL_MBOX_PROPERTY", errno.ETIMEDOUT),
    ("pi3", "open:/dev/vcsm*", errno.EACCES), ("pi3", "open:/dev/vcsm*", errno.ENOTTY),
]  # fmt: skip


@pytest.mark.parametrize(("board", "call", "number"), INJECTED, ids=lambda v: str(v).replace("/", "_"))
def test_every_errno_is_an_error_that_names_the_call_and_leaves_nothing(board: str, call: str, number: int) -> None:
    """From the first such call on, for ever: opening fails, or the launch does; nothing stays allocated."""
    port = EmuPort(board)
    port.inject(call, number, count=10**6)
    try:
        with qpu.open_device(port=port) as gpu:
            runs(gpu)
    except qpu.DriverError as error:
        text = str(error)
        assert errno.errorcode[number] in text, text
        assert "\n" in text or ":" in text
    else:
        # Something else can do the work: memory through the mailbox where VCSM is not to be had, for one.
        assert (board, call) in {("pi3", "open:/dev/vcsm*")}, "the failure was swallowed"
    assert port.allocated() == []


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN])
def test_interrupted_waits_are_repeated(number: int) -> None:
    port = EmuPort("pi5")
    with qpu.open_device(port=port) as gpu:
        port.inject("WAIT_BO", number, count=3)
        runs(gpu)
