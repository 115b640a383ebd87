"""Tests of the V3D registers of VideoCore IV: identity, launch order, polling, counters."""

from __future__ import annotations

import errno
import json

import pytest

from qpu.drivers.vc4.registers import COUNTERS, Ident, Reg, V3dRegisters, block_address, counter_index
from qpu.errors import DriverError, GpuResetError, GpuTimeoutError, UsageError
from tests.drivers.vc4.fake_linux import IDENT0, IDENT1, FakeLinux


@pytest.fixture
def linux() -> FakeLinux:
    linux = FakeLinux()
    linux.powered = True
    return linux


@pytest.fixture
def regs(linux: FakeLinux) -> V3dRegisters:
    made = V3dRegisters(linux, 0x3FC00000)
    linux.log.clear()
    return made


def test_block_address() -> None:
    linux = FakeLinux()
    assert block_address(linux, "BCM2835") == 0x20C00000
    assert block_address(linux, "BCM2836") == block_address(linux, "BCM2837") == 0x3FC00000
    linux.files["/proc/device-tree/soc/ranges"] = bytes.fromhex("7e0000003f00000001000000")
    assert block_address(linux, "BCM2837") == 0x3FC00000
    linux.files["/proc/device-tree/soc/ranges"] = bytes.fromhex("7e0000002000000001000000")
    assert block_address(linux, "BCM2837") == 0x20C00000  # the device tree takes precedence
    for soc in ("BCM2711", "BCM2712", "BCM9999"):
        with pytest.raises(UsageError, match="allowed: BCM2835, BCM2836, BCM2837"):
            block_address(linux, soc)


def test_ident() -> None:
    ident = Ident.decode(IDENT0, IDENT1)
    assert ident == Ident(2, 1, 3, 4, 2, 16, 16384)
    assert Ident.decode(0x02443356, 0xC0100431).vpm_size == 12 << 10
    with pytest.raises(DriverError, match="0xdeadbeef") as caught:
        Ident.decode(0xDEADBEEF, 0xDEADBEEF)
    assert "enable the QPUs" in str(caught.value)


def test_launch_order(linux: FakeLinux, regs: V3dRegisters) -> None:
    regs.start([(0xC0001000, 0xC0002000), (0xC0001040, 0xC0002000)])
    assert linux.log == [
        ("read32", 0x43C),
        ("write32", 0xE00, 0),
        ("write32", 0xE2C, 0),
        ("write32", 0xE30, 0xFFFFFFFF),
        ("write32", 0x020, 4),
        ("write32", 0x024, 0xFFFFFFFF),
        ("write32", 0x43C, 0x10180),
        ("write32", 0x434, 0xC0001000),
        ("write32", 0x430, 0xC0002000),
        ("write32", 0x434, 0xC0001040),
        ("write32", 0x430, 0xC0002000),
    ]
    regs.wait(2, 1.0)
    assert linux.log[-1] == ("read32", 0x43C)
    linux.log.clear()
    regs.start([(0, 8)], flush=False)
    assert ("write32", 0x020, 4) not in linux.log
    assert regs.completed(1) == 0  # the count starts again


def test_many_launches_do_not_overflow_the_count(linux: FakeLinux, regs: V3dRegisters) -> None:
    for _ in range(300):
        regs.start([(0, 8)] * 12)
        regs.wait(12, 1.0)
    assert len(linux.started) == 3600


def test_wait_times_out_and_may_be_repeated(linux: FakeLinux, regs: V3dRegisters) -> None:
    linux.hang = True
    regs.start([(0, 8)])
    with pytest.raises(GpuTimeoutError, match=r"0 of 1 program ended within 0\.25 s") as caught:
        regs.wait(1, 0.25)
    assert caught.value.errno == errno.ETIMEDOUT
    assert 0.25 <= linux.time < 0.27
    linux.hang = False
    regs.wait(1, 0.25)


def test_wait_is_quick_for_short_jobs_and_gentle_for_long_ones(linux: FakeLinux, regs: V3dRegisters) -> None:
    linux.steps = 1
    regs.start([(0, 8)])
    regs.wait(1, None)
    assert linux.time < 1e-4
    linux.hang = True
    regs.start([(0, 8)])
    linux.log.clear()
    with pytest.raises(GpuTimeoutError):
        regs.wait(1, 10.0)
    assert len(linux.log) < 12_000


@pytest.mark.parametrize("what", ["overflow", "another program", "counts cleared", "too many completions"])
@pytest.mark.parametrize("timeout_s", [None, 1.0])
def test_others_during_a_launch(linux: FakeLinux, regs: V3dRegisters, what: str, timeout_s: float | None) -> None:
    """No endless wait, and no launch that counts programs of another process as its own."""
    linux.hang = True
    regs.start([(0, 8)])
    if what == "overflow":
        linux.overflow = 1
    elif what == "another program":
        linux.requested += 1
    elif what == "counts cleared":
        linux.requested = 0
    else:
        linux.completed = 2
    with pytest.raises(DriverError, match="counts cleared") as caught:
        regs.wait(1, timeout_s)
    assert caught.value.errno == errno.EBUSY


@pytest.mark.parametrize("what", ["waiting", "running"])
def test_others_before_a_launch(linux: FakeLinux, regs: V3dRegisters, what: str) -> None:
    if what == "waiting":
        linux.foreign = 3
    else:
        linux.requested, linux.completed = 2, 1
    with pytest.raises(DriverError, match="have not ended") as caught:
        regs.start([(0, 8)])
    assert caught.value.errno == errno.EBUSY
    assert all(entry[0] == "read32" for entry in linux.log)  # nothing was touched


def test_the_counts_of_eight_bits_wrap(linux: FakeLinux, regs: V3dRegisters) -> None:
    linux.requested = linux.completed = 255
    regs.start([(0, 8)])
    linux.requested, linux.completed = 3, 253
    with pytest.raises(DriverError, match="EBUSY"):
        regs.start([(0, 8)])


def test_power_off_during_a_launch(linux: FakeLinux, regs: V3dRegisters) -> None:
    regs.start([(0, 8)])
    linux.powered = False
    with pytest.raises(GpuResetError, match="powered off"):
        regs.wait(1, None)


@pytest.mark.parametrize("count", [0, 17])
def test_launch_size(regs: V3dRegisters, count: int) -> None:
    with pytest.raises(UsageError, match=r"programs in one launch; allowed: 1\.\.16"):
        regs.start([(0, 8)] * count)


def test_counters(linux: FakeLinux, regs: V3dRegisters) -> None:
    linux.regs[0x680], linux.regs[0x688] = 111, 222
    names = ["QPU-total-idle-clk-cycles", "L2C-total-cache-miss"]
    with regs.counters(names) as values:
        assert values == {}
        assert linux.log == [
            ("write32", 0x684, 13),
            ("write32", 0x68C, 29),
            ("write32", 0x670, 0xFFFF),
            ("write32", 0x674, 0x80000003),
        ]
    assert values == dict(zip(names, (111, 222), strict=True))
    assert linux.log[-1] == ("write32", 0x674, 0)


def test_counters_stop_when_the_block_fails(linux: FakeLinux, regs: V3dRegisters) -> None:
    with pytest.raises(RuntimeError), regs.counters(COUNTERS[:16]):
        raise RuntimeError
    assert linux.log[-1] == ("write32", 0x674, 0)


@pytest.mark.parametrize("names", [[], COUNTERS[:17], [COUNTERS[0], COUNTERS[0]], ["cycle-count"]])
def test_wrong_counters(linux: FakeLinux, regs: V3dRegisters, names: list[str]) -> None:
    with pytest.raises(UsageError), regs.counters(names):
        pass
    assert linux.log == []


def test_counter_names() -> None:
    assert len(COUNTERS) == len(set(COUNTERS)) == 30
    # numbers from vc4.md 18.1
    known = {13: "idle", 16: "executing", 17: "waiting-TMU", 20: "instr-cache-hit", 21: "instr-cache-miss"}
    known |= {22: "uniform-cache-hit", 23: "uniform-cache-miss", 24: "text-quads", 25: "text-cache-miss"}
    known |= {26: "VDW-stalled", 27: "VCD-stalled", 28: "L2C-total-cache-hit", 29: "L2C-total-cache-miss"}
    for n, part in known.items():
        assert part in COUNTERS[n]
        assert counter_index(COUNTERS[n]) == n


def test_register_offsets() -> None:
    wanted = {"IDENT0": 0, "SRQPC": 0x430, "SRQUA": 0x434, "SRQCS": 0x43C, "PCTRC": 0x670, "PCTRE": 0x674}
    wanted |= {"VPMBASE": 0x504, "DBQITE": 0xE2C, "DBQITC": 0xE30, "ERRSTAT": 0xF20, "SQRSV0": 0x410}
    assert {n: Reg[n].value for n in wanted} == wanted, json.dumps(wanted)


@pytest.mark.parametrize(("code", "help"), [(errno.EACCES, "sudo"), (errno.EPERM, "sudo"), (errno.EBUSY, "again")])
def test_open_fails(code: int, help: str) -> None:
    linux = FakeLinux()
    linux.nodes["/dev/mem"] = code
    with pytest.raises(DriverError, match="0x3fc00000") as caught:
        V3dRegisters(linux, 0x3FC00000)
    assert caught.value.errno == code
    assert help in str(caught.value)


def test_closed(linux: FakeLinux, regs: V3dRegisters) -> None:
    regs.close()
    regs.close()
    linux.powered = False
    assert linux.left() == []
    with pytest.raises(UsageError, match="closed"):
        regs.read(Reg.IDENT0)
    with pytest.raises(UsageError, match="closed"):
        regs.write(Reg.SRQUA, 0)
