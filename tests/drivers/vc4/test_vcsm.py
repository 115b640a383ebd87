"""Tests of memory sources: recorded calls, failures at every call, choice and reasons."""

from __future__ import annotations

import errno
import gc
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qpu.drivers.uapi.vcsm import Cache
from qpu.drivers.vc4.mailbox import Mailbox
from qpu.drivers.vc4.mailbox_tags import MemoryFlag
from qpu.drivers.vc4.vcsm import (
    PROVIDERS,
    GpuMemory,
    MailboxMemory,
    MemoryProvider,
    RpiVcsmMemory,
    VcsmCmaMemory,
    VcsmMemory,
    mailbox_flags,
    open_memory,
    vcsm_cache,
)
from qpu.errors import DriverError, UsageError
from tests.drivers.vc4.fake_linux import PAGE, FakeLinux

ABI = json.loads((Path(__file__).parents[2] / "vectors" / "abi" / "vcsm.json").read_text())
STAND_INS = str(Path(__file__).parents[2] / "stand_ins")


def number(pointer: int, name: str) -> int:
    return int(ABI[f"abi_{8 * pointer}"]["ioctls"][name]["request"])


def calls(linux: FakeLinux) -> list[Any]:
    return [e[2] if e[0] == "ioctl" else e[0] for e in linux.log]


@pytest.fixture
def rpi_vcsm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(STAND_INS)
    from rpi_vcsm import VCSM as module

    yield module.VCSM
    gc.collect()
    assert module.VCSM.open_ones == []
    for name in [n for n in sys.modules if n.split(".")[0] == "rpi_vcsm"]:
        del sys.modules[name]


@pytest.mark.parametrize("pointer", [4, 8])
def test_cma_calls(pointer: int) -> None:
    linux = FakeLinux(pointer_size=pointer)
    memory = VcsmCmaMemory(linux)
    bo = memory.alloc(5000)
    assert (bo.size, bo.address >> 30) == (2 * PAGE, 3)
    assert bytes(bo.view) == bytes(2 * PAGE)
    bo.view[:4] = b"abcd"
    assert bytes(bo.view[:5]) == b"abcd\0"
    bo.close()
    bo.close()
    memory.close()
    memory.close()
    sync = number(pointer, "DMA_BUF_IOCTL_SYNC")
    assert calls(linux) == [
        "open",
        number(pointer, "VC_SM_CMA_IOCTL_MEM_ALLOC"),
        "mmap",
        sync,
        "munmap",
        sync,
        "close",
        "close",
    ]
    flags = [struct.unpack("<Q", e[3])[0] for e in linux.log if e[0] == "ioctl" and e[2] == sync]
    assert flags == [3, 7]
    assert linux.left() == []


@pytest.mark.parametrize("pointer", [4, 8])
def test_vcsm_calls(pointer: int) -> None:
    linux = FakeLinux(pointer_size=pointer, nodes=("vcsm",))
    memory = VcsmMemory(linux, Cache.NONE)
    bo = memory.alloc(PAGE)
    guid = next(iter(linux.guids))
    assert bo.address == linux.guids[guid][4]
    assert bytes(bo.view) == bytes(PAGE)
    bo.close()
    memory.close()
    assert ("mmap", PAGE, guid) in linux.log
    assert calls(linux) == [
        "open",
        number(pointer, "VMCS_SM_IOCTL_MEM_ALLOC"),
        "mmap",
        number(pointer, "VMCS_SM_IOCTL_MEM_LOCK"),
        number(pointer, "VMCS_SM_IOCTL_MAP_VC_ADDR_FR_HDL"),
        "munmap",
        number(pointer, "VMCS_SM_IOCTL_MEM_UNLOCK"),
        number(pointer, "VMCS_SM_IOCTL_MEM_FREE"),
        "close",
    ]
    assert linux.left() == []


def test_mailbox_calls() -> None:
    linux = FakeLinux(nodes=("vcio", "mem"))
    with Mailbox(linux) as mailbox:
        memory = MailboxMemory(linux, mailbox, MemoryFlag.DIRECT)
        bo = memory.alloc(100)
        assert bo.size == PAGE
        assert ("mmap", PAGE, bo.address & 0x3FFFFFFF) in linux.log
        assert ("open", "/dev/mem", False, True) in linux.log
        bo.close()
        memory.close()
    assert linux.tags == [0x3000C, 0x3000D, 0x3000E, 0x3000F]
    assert linux.left() == []


def test_cache_choice_by_soc() -> None:
    assert mailbox_flags("BCM2835") == 12
    assert {mailbox_flags(s) for s in ("BCM2836", "BCM2837")} == {4}
    assert {vcsm_cache(s) for s in ("BCM2836", "BCM2837")} == {Cache.NONE}
    # The Arm never caches this memory, on any chip.
    assert vcsm_cache("BCM2835") & Cache.HOST == 0


def makers(linux: FakeLinux, mailbox: Mailbox) -> dict[str, Any]:
    return {
        "vcsm-cma": lambda: VcsmCmaMemory(linux),
        "vcsm": lambda: VcsmMemory(linux, Cache.NONE),
        "mailbox": lambda: MailboxMemory(linux, mailbox, MemoryFlag.DIRECT),
    }


NAMES = ("vcsm-cma", "vcsm", "mailbox")
FAILURES = [OSError(errno.ENOMEM, "x"), OSError(errno.EIO, "x"), KeyboardInterrupt()]
CASES = [(f, "before") for f in FAILURES] + [(FAILURES[2], "after")]


def case_id(value: Any) -> str:
    return value if isinstance(value, str) else f"{type(value).__name__}{getattr(value, 'errno', '')}"


class Bench:
    """A scripted Linux with an open mailbox; `inject` counts from the next call on."""

    def __init__(self) -> None:
        self.linux = FakeLinux(nodes=("vcio", "vcsm", "vcsm-cma", "mem"))
        self.mailbox = Mailbox(self.linux)

    def inject(self, n: int, error: BaseException, when: str) -> None:
        (self.linux.fail if when == "before" else self.linux.after)[self.linux.calls + n] = error

    def provider(self, name: str) -> MemoryProvider:
        made: MemoryProvider = makers(self.linux, self.mailbox)[name]()
        return made

    def left(self) -> list[str]:
        self.mailbox.close()
        gc.collect()
        return self.linux.left()


def count(name: str) -> tuple[int, int]:
    bench = Bench()
    provider = bench.provider(name)
    start = bench.linux.calls
    bo = provider.alloc(PAGE)
    middle = bench.linux.calls
    bo.close()
    return middle - start, bench.linux.calls - middle


@pytest.mark.parametrize(("error", "when"), CASES, ids=case_id)
@pytest.mark.parametrize("name", NAMES)
def test_failure_at_every_call_of_alloc(name: str, error: BaseException, when: str) -> None:
    steps = count(name)[0]
    assert steps >= 3
    for n in range(steps):
        bench = Bench()
        provider = bench.provider(name)
        adopted: list[GpuMemory] = []
        bench.inject(n, error, when)
        with pytest.raises((DriverError, KeyboardInterrupt)):
            provider.alloc(PAGE, adopted.append)
        assert adopted == []
        provider.close()
        left = bench.left()
        if when == "after" and bench.linux.log[-1][0] != "mmap":
            left = [x for x in left if not x.startswith("map")]  # a map without an owner is unmapped with its object
        assert left == [], (n, bench.linux.log[-8:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("error", "when"), CASES, ids=case_id)
def test_failure_at_every_call_of_close(name: str, error: BaseException, when: str) -> None:
    for n in range(count(name)[1]):
        bench = Bench()
        provider = bench.provider(name)
        bo = provider.alloc(PAGE)
        bench.inject(n, error, when)
        if isinstance(error, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                bo.close()
        else:
            bo.close()  # tried again
        if isinstance(error, KeyboardInterrupt):
            assert not bo.closed
            try:
                bo.close()  # continues where it was
            except DriverError:
                assert when == "after"  # the step had been done
        assert bo.closed
        provider.close()
        left = bench.left()
        assert left == [], (n, bench.linux.log[-8:])


@pytest.mark.parametrize("error", FAILURES, ids=case_id)
@pytest.mark.parametrize("name", NAMES)
def test_failure_of_open(name: str, error: BaseException) -> None:
    bench = Bench()
    bench.inject(0, error, "before")
    with pytest.raises((DriverError, KeyboardInterrupt)):
        bench.provider(name)
    assert bench.left() == []


@pytest.mark.parametrize("name", ["vcsm-cma", "vcsm"])
def test_interrupted_calls_are_repeated(name: str) -> None:
    bench = Bench()
    provider = bench.provider(name)
    interrupts = 0
    ioctl = bench.linux.ioctl

    def interrupted(fd: int, request: int, arg: bytearray) -> int:
        nonlocal interrupts
        interrupts += 1
        if interrupts % 2:
            raise InterruptedError(errno.EINTR, "x")
        return ioctl(fd, request, arg)

    bench.linux.ioctl = interrupted  # type: ignore[method-assign]
    provider.alloc(PAGE).close()
    provider.close()
    assert interrupts >= 6
    assert bench.left() == []


@pytest.mark.parametrize("name", ["vcsm-cma", "vcsm", "mailbox"])
def test_views_block_the_close(name: str) -> None:
    linux = FakeLinux(nodes=("vcio", "vcsm", "vcsm-cma", "mem"))
    with Mailbox(linux) as mailbox:
        provider = makers(linux, mailbox)[name]()
        bo = provider.alloc(PAGE)
        part = bo.view[8:16]
        before = linux.left()
        with pytest.raises(BufferError):
            bo.close()
        assert linux.left() == before
        assert not bo.closed
        part[0] = 7
        assert bo.view[8] == 7
        del part
        bo.close()
        provider.close()
    assert linux.left() == []


def test_forced_close_keeps_only_the_map() -> None:
    linux = FakeLinux()
    provider = VcsmCmaMemory(linux)
    bo = provider.alloc(PAGE)
    part = bo.view[:4]
    bo.close(force=True)
    assert bo.closed
    provider.close()
    assert len(linux.left()) == len(linux.maps) == 1
    assert bytes(part) == bytes(4)
    with pytest.raises(UsageError, match="closed"):
        _ = bo.view


def test_a_failing_unlock_does_not_stop_the_release() -> None:
    linux = FakeLinux(nodes=("vcsm",))
    provider = VcsmMemory(linux, Cache.NONE)
    bo = provider.alloc(PAGE)
    sync = linux.calls
    linux.fail[sync] = OSError(errno.EINVAL, "x")
    entry = next(iter(linux.guids.values()))
    entry[2] = False
    with pytest.raises(DriverError, match="UNLOCK"):
        bo.close()
    assert bo.closed
    assert linux.guids == {}
    provider.close()


@pytest.mark.parametrize("size", [0, -1, 1 << 30, 1 << 40])
def test_sizes(size: int) -> None:
    linux = FakeLinux()
    provider = VcsmCmaMemory(linux)
    with pytest.raises(UsageError, match="allows 1"):
        provider.alloc(size)
    provider.close()
    assert calls(linux) == ["open", "close"]


# -- choice


def choose(linux: FakeLinux, name: str = "auto", soc: str = "BCM2837") -> str:
    with Mailbox(linux) as mailbox:
        provider, bo = open_memory(linux, soc, mailbox, name)
        bo.close()
        provider.close()
    assert linux.left() == []
    return provider.name


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (("vcio", "vcsm-cma", "vcsm", "mem"), "vcsm-cma"),
        (("vcio", "vcsm", "mem"), "vcsm"),
        (("vcio", "mem"), "mailbox"),
    ],
)
def test_order(nodes: tuple[str, ...], expected: str) -> None:
    assert choose(FakeLinux(nodes=nodes)) == expected


def test_named_source() -> None:
    linux = FakeLinux(nodes=("vcio", "vcsm-cma", "vcsm", "mem"))
    assert choose(linux, "vcsm") == "vcsm"
    assert ("open", "/dev/vcsm-cma", False, False) not in linux.log
    with pytest.raises(UsageError, match="allowed: auto, rpi-vcsm, vcsm-cma, vcsm, mailbox"):
        choose(linux, "cma")


def test_a_source_that_opens_but_cannot_allocate_is_passed_over() -> None:
    linux = FakeLinux(nodes=("vcio", "vcsm", "mem"))
    linux.fail[2] = OSError(errno.ENOTTY, "32-bit process on a 64-bit linux")
    assert choose(linux) == "mailbox"


def test_all_fail_with_every_reason() -> None:
    linux = FakeLinux(nodes=("vcio",))
    linux.nodes["/dev/vcsm"] = errno.EACCES
    with Mailbox(linux) as mailbox, pytest.raises(DriverError, match="no source of memory") as caught:
        open_memory(linux, "BCM2837", mailbox)
    text = str(caught.value)
    for part in (
        "VCSM-CMA: open /dev/vcsm-cma: ENOENT",
        "VCSM: open /dev/vcsm: EACCES",
        "mailbox memory: open /dev/mem: ENOENT",
        "help: sudo modprobe vc_sm_cma",
        "help: sudo usermod",
    ):
        assert part in text, text
    assert linux.left() == []


@pytest.mark.parametrize(
    ("name", "code", "help"),
    [
        ("vcsm-cma", errno.ENOMEM, "cma=128M"),
        ("vcsm", errno.ENOMEM, "gpu_mem=128"),
        ("vcsm", errno.ENOTTY, "64-bit Python"),
        ("vcsm-cma", errno.EPERM, "gpu_mem at 32"),
        ("mailbox", errno.EPERM, "sudo"),
    ],
)
def test_advice(name: str, code: int, help: str) -> None:
    linux = FakeLinux(nodes=("vcio", "vcsm", "vcsm-cma", "mem"))
    with Mailbox(linux) as mailbox:
        if name == "mailbox":
            linux.strict_devmem = True
        else:
            linux.fail[2] = OSError(code, "x")
        with pytest.raises(DriverError) as caught:
            open_memory(linux, "BCM2837", mailbox, name)
    assert caught.value.errno == code
    assert help in str(caught.value)
    assert linux.left() == []


# -- rpi-vcsm


def test_rpi_vcsm_is_used_on_the_real_machine(rpi_vcsm: Any) -> None:
    linux = FakeLinux()
    linux.emulated = None
    with Mailbox(linux) as mailbox:
        provider, bo = open_memory(linux, "BCM2837", mailbox, first=100)
        assert isinstance(provider, RpiVcsmMemory)
        assert provider.node == "/dev/vcsm-cma"
        ((buffer, name, cached),) = rpi_vcsm.open_ones[0].live.values()
        assert (len(buffer), name, cached) == (PAGE, "qpu", 0)
        del buffer
        assert bytes(bo.view) == bytes(PAGE)
        part = bo.view[:8]
        with pytest.raises(BufferError):
            bo.close()
        part[0] = 1
        assert bo.view[0] == 1
        del part
        bo.close()
        assert rpi_vcsm.open_ones[0].live == {}
        provider.close()
        provider.close()
    assert [e[1] for e in linux.log if e[0] == "open"] == ["/dev/vcio"]


def test_rpi_vcsm_never_behind_an_emulated_board(rpi_vcsm: Any) -> None:
    assert choose(FakeLinux()) == "vcsm-cma"
    with pytest.raises(UsageError, match="cannot reach an emulated board"):
        choose(FakeLinux(), "rpi-vcsm")


@pytest.mark.parametrize("step", ["nodes", "malloc"])
def test_rpi_vcsm_failures_fall_through(rpi_vcsm: Any, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    if step == "nodes":
        monkeypatch.setattr(rpi_vcsm, "nodes", {"/dev/vcsm-cma": errno.EACCES})
    else:
        monkeypatch.setattr(rpi_vcsm, "fail_malloc", errno.ENOMEM)
    linux = FakeLinux()
    linux.emulated = None
    assert choose(linux) == "vcsm-cma"
    with Mailbox(linux) as mailbox, pytest.raises(DriverError, match="rpi-vcsm") as caught:
        open_memory(linux, "BCM2837", mailbox, "rpi-vcsm")
    assert caught.value.errno == (errno.EACCES if step == "nodes" else errno.ENOMEM)


def test_rpi_vcsm_old_driver_gets_the_cache_of_the_chip(rpi_vcsm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpi_vcsm, "nodes", {"/dev/vcsm": 0})
    linux = FakeLinux()
    linux.emulated = None
    provider = RpiVcsmMemory(linux, Cache.VC)
    bo = provider.alloc(1)
    assert provider.node == "/dev/vcsm"
    assert [c for _, _, c in rpi_vcsm.open_ones[0].live.values()] == [2]
    bo.close()
    provider.close()


def test_rpi_vcsm_not_installed() -> None:
    assert "rpi_vcsm" not in sys.modules
    linux = FakeLinux()
    linux.emulated = None
    try:
        import rpi_vcsm  # noqa: F401
    except ImportError:
        with pytest.raises(DriverError, match="not installed"):
            RpiVcsmMemory(linux, Cache.NONE)
        assert choose(linux) == "vcsm-cma"


def test_provider_names() -> None:
    assert PROVIDERS[-1] == "mailbox"  # the one that leaks when the process is killed
