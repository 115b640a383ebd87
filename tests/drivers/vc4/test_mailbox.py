"""Tests of property messages: bytes against the vectors, replies, retries, errors."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from qpu.drivers.vc4.mailbox import Mailbox, read_info
from qpu.drivers.vc4.mailbox_tags import (
    TAGS,
    Clock,
    MemoryFlag,
    TagCall,
    Throttled,
    UnsupportedTagError,
    build_message,
    parse_reply,
    property_request,
)
from qpu.errors import DriverError, GpuTimeoutError, UsageError
from tests.drivers.vc4.fake_linux import FakeLinux

ABI = json.loads((Path(__file__).parents[2] / "vectors" / "abi" / "vcsm.json").read_text())["mailbox"]

EXAMPLES: dict[str, TagCall] = {
    "enable_qpu(1)": TagCall(TAGS["SET_ENABLE_QPU"], (1,)),
    "enable_qpu(0)": TagCall(TAGS["SET_ENABLE_QPU"], (0,)),
    "allocate_memory(4096 bytes, align 4096, flags 0x4 DIRECT)": TagCall(TAGS["ALLOCATE_MEMORY"], (4096, 4096, 4)),
    "lock_memory(handle 7)": TagCall(TAGS["LOCK_MEMORY"], (7,)),
    "unlock_memory(handle 7)": TagCall(TAGS["UNLOCK_MEMORY"], (7,)),
    "release_memory(handle 7)": TagCall(TAGS["RELEASE_MEMORY"], (7,)),
    "execute_qpu(12 threads, control 0xfe400000, noflush 1, 2000 ms)": TagCall(
        TAGS["EXECUTE_QPU"], (12, 0xFE400000, 1, 2000)
    ),
    "execute_qpu that timed out": TagCall(TAGS["EXECUTE_QPU"], (1, 0xFE400000, 0, 10)),
    "get_clock_rate(V3D)": TagCall(TAGS["GET_CLOCK_RATE"], (Clock.V3D,)),
    "get_clock_measured(V3D)": TagCall(TAGS["GET_CLOCK_MEASURED"], (5,)),
    "set_clock_rate(V3D, 300 MHz, skip_turbo 0)": TagCall(TAGS["SET_CLOCK_RATE"], (5, 300000000, 0)),
    "get_temperature(0)": TagCall(TAGS["GET_TEMPERATURE"], (0,)),
    "get_board_revision()": TagCall(TAGS["GET_BOARD_REVISION"]),
    "get_vc_memory()": TagCall(TAGS["GET_VC_MEMORY"]),
    "get_arm_memory()": TagCall(TAGS["GET_ARM_MEMORY"]),
}


def words(data: bytes | bytearray) -> list[int]:
    return list(struct.unpack(f"<{len(data) // 4}I", data))


@pytest.mark.parametrize("row", ABI["examples"], ids=lambda r: r["call"])
def test_examples(row: Any) -> None:
    call = EXAMPLES[row["call"]]
    assert words(build_message([call])) == [int(w, 16) for w in row["request_words"]]
    reply = [int(w, 16) for w in row["example_reply_words"]]
    (answer,) = parse_reply(bytearray(struct.pack(f"<{len(reply)}I", *reply)), [call])
    assert list(answer) == reply[5 : 5 + (reply[4] & 0x7FFFFFFF) // 4]


@pytest.mark.parametrize("name", ABI["tags"])
def test_every_tag(name: str) -> None:
    row, tag = ABI["tags"][name], TAGS[name]
    assert tag.id == row["id"]
    assert 4 * len(tag.request) == row["request_bytes"]
    if tag.response is not None:
        assert 4 * len(tag.response) == row["response_bytes"]
    elif row["response_bytes"] is not None:
        assert tag.area == row["response_bytes"]
    assert tag.value_bytes % 4 == 0
    assert tag.changes == (name.startswith("SET_") or tag.id in range(0x3000C, 0x30013))


def test_no_tag_is_missing() -> None:
    assert set(TAGS) == set(ABI["tags"])


def test_constants() -> None:
    assert {c.name: c.value for c in Clock} == ABI["clock_ids"]
    flags = {name: int(flag) for name, flag in MemoryFlag.__members__.items()}
    assert flags == ABI["mem_flags"]
    for bits in ("32", "64"):
        assert property_request(int(bits) // 8) == ABI["ioctl"][bits]["request"]
    with pytest.raises(UsageError, match="allowed: 4, 8"):
        property_request(2)


def test_end_tag_is_the_last_word_of_a_long_message() -> None:
    calls = [TagCall(TAGS["GET_BOARD_MAC_ADDRESS"]), TagCall(TAGS["SET_CLOCK_RATE"], (5, 1, 0))]
    message = words(build_message(calls))
    assert message == [56, 0, 0x10003, 8, 0, 0, 0, 0x38002, 12, 12, 5, 1, 0, 0]


@pytest.mark.parametrize(("pointer_size", "request_"), [(4, 0xC0046400), (8, 0xC0086400)])
def test_request_by_pointer_size(pointer_size: int, request_: int) -> None:
    linux = FakeLinux(pointer_size=pointer_size)
    with Mailbox(linux) as mailbox:
        assert mailbox.board_revision() == 0xA02082
    assert linux.log[0] == ("open", "/dev/vcio", True, False)
    assert linux.log[1][:3] == ("ioctl", "/dev/vcio", request_)
    assert linux.left() == []


def test_typed_calls() -> None:
    linux = FakeLinux()
    with Mailbox(linux) as mailbox:
        assert mailbox.firmware_revision() == 1700000000
        assert mailbox.serial() == 0x0123456789ABCDEF
        assert mailbox.vc_memory() == (0x3B400000, 0x04C00000)
        assert mailbox.clock_hz(Clock.V3D) == 300_000_000
        assert mailbox.clock_max_hz(Clock.V3D) == 400_000_000
        assert mailbox.clock_measured_hz(Clock.V3D) == 299_000_000
        assert mailbox.temperature_c() == 48.312
        assert mailbox.max_temperature_c() == 85.0
        assert mailbox.voltage_uv(1) == -100
        assert mailbox.command_line() == "root=/dev/x"
        assert mailbox.throttled() == (
            Throttled.UNDER_VOLTAGE
            | Throttled.THROTTLED
            | Throttled.UNDER_VOLTAGE_HAPPENED
            | Throttled.THROTTLED_HAPPENED
        )
        assert mailbox.set_clock_hz(Clock.V3D, 250_000_000) == 250_000_000
        assert mailbox.set_clock_on(Clock.V3D, True)
        assert mailbox.set_turbo(1) == 1
        assert mailbox.set_domain_on(10, True)


def test_several_tags_in_one_message() -> None:
    linux = FakeLinux()
    with Mailbox(linux) as mailbox:
        answers = mailbox.transact(
            [TagCall(TAGS["GET_CLOCK_RATE"], (5,)), TagCall(TAGS["GET_COMMAND_LINE"]), TagCall(TAGS["GET_ARM_MEMORY"])]
        )
    assert answers == [(5, 300_000_000), b"root=/dev/x\0", (0, 0x3B400000)]
    assert len(linux.tags) == 3


@pytest.mark.parametrize("manner", ["einval", "bit31"])
def test_unknown_tag(manner: str) -> None:
    linux = FakeLinux()
    linux.unknown_tags[TAGS["GET_TEMPERATURE"].id] = manner
    with Mailbox(linux) as mailbox, pytest.raises(UnsupportedTagError, match="GET_TEMPERATURE") as caught:
        mailbox.temperature_c()
    assert caught.value.errno == errno.EINVAL
    assert "help: nothing to do" in str(caught.value)
    assert len(linux.tags) == 2  # read-only: once more, no more


def test_read_only_queries_survive_one_refusal() -> None:
    linux = FakeLinux()
    linux.unknown_tags[TAGS["GET_TEMPERATURE"].id] = "once"
    with Mailbox(linux) as mailbox:
        assert mailbox.temperature_c() == 48.312


@pytest.mark.parametrize("name", [n for n, t in TAGS.items() if t.changes])
def test_changes_are_never_repeated(name: str) -> None:
    linux = FakeLinux()
    linux.unknown_tags[TAGS[name].id] = "once"
    with Mailbox(linux) as mailbox, pytest.raises(UnsupportedTagError):
        mailbox.call(name, *range(1, 1 + len(TAGS[name].request)))
    assert linux.tags == [TAGS[name].id]


@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN])
def test_interrupted_calls_are_repeated(error: int) -> None:
    """The interruption comes before the message is sent, so that messages with effects are repeated as well."""
    linux = FakeLinux()
    linux.fail |= {n: OSError(error, "signal") for n in (1, 2, 4)}
    with Mailbox(linux) as mailbox:
        assert mailbox.temperature_c() == 48.312
        assert mailbox.set_turbo(1) == 1
    assert linux.tags == [TAGS["GET_TEMPERATURE"].id, TAGS["SET_TURBO"].id]


def test_an_interrupted_call_is_not_repeated_for_ever() -> None:
    linux = FakeLinux()
    linux.fail |= {n: OSError(errno.EINTR, "signal") for n in range(1, 20_000)}
    with Mailbox(linux) as mailbox, pytest.raises(DriverError, match="EINTR"):
        mailbox.set_turbo(1)
    assert linux.calls < 11_000


def test_repetition_stops_when_the_owner_says_so() -> None:
    linux = FakeLinux()
    linux.fail |= {n: OSError(errno.EINTR, "signal") for n in range(1, 100)}

    def check() -> None:
        if linux.calls > 5:
            raise DriverError("closed meanwhile")

    with Mailbox(linux, check=check) as mailbox:
        with pytest.raises(DriverError, match="closed meanwhile"):
            mailbox.execute_qpu(1, 0xC0000000, noflush=False, timeout_ms=100)
        linux.fail |= {n: OSError(errno.EINTR, "signal") for n in range(linux.calls, linux.calls + 100)}
        assert mailbox.set_turbo(1) == 1  # what has to be done at the end, such as powering off, is repeated


def test_bad_status_without_an_errno() -> None:
    message = build_message([TagCall(TAGS["GET_TURBO"], (0,))])
    struct.pack_into("<I", message, 4, 0x80000001)
    with pytest.raises(UnsupportedTagError, match="0x80000001"):
        parse_reply(message, [TagCall(TAGS["GET_TURBO"], (0,))])


def test_short_answer() -> None:
    calls = [TagCall(TAGS["GET_VC_MEMORY"])]
    message = build_message(calls)
    struct.pack_into("<I", message, 4, 0x80000000)
    struct.pack_into("<I", message, 16, 0x80000004)
    with pytest.raises(DriverError, match="answered 4 bytes, 8 are needed"):
        parse_reply(message, calls)


def test_answer_longer_than_the_area_is_cut() -> None:
    calls = [TagCall(TAGS["GET_BOARD_MODEL"])]
    message = build_message(calls)
    struct.pack_into("<I", message, 4, 0x80000000)
    struct.pack_into("<2I", message, 16, 0x80000040, 9)
    assert parse_reply(message, calls) == [(9,)]


@pytest.mark.parametrize(
    ("code", "help"),
    [
        (errno.ENOENT, "Linux kernel of Raspberry Pi OS"),
        (errno.EACCES, "sudo usermod -aG video"),
        (errno.ENODEV, "reboot"),
        (errno.ENXIO, "reboot"),
    ],
)
def test_open_fails(code: int, help: str) -> None:
    linux = FakeLinux()
    linux.nodes["/dev/vcio"] = code
    with pytest.raises(DriverError, match="open /dev/vcio") as caught:
        Mailbox(linux)
    assert caught.value.errno == code
    assert help in str(caught.value)
    if code == errno.EACCES:
        assert "root:video" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "help"),
    [
        (errno.ETIMEDOUT, "reboot"),
        (errno.ENOTTY, "device node itself"),
        (errno.EPERM, "usermod"),
        (errno.ENODEV, "reboot"),
    ],
)
def test_call_fails(code: int, help: str) -> None:
    linux = FakeLinux()
    linux.fail[1] = OSError(code, "x")
    with Mailbox(linux) as mailbox, pytest.raises(DriverError, match="SET_TURBO") as caught:
        mailbox.set_turbo(0)
    assert caught.value.errno == code
    assert help in str(caught.value)
    assert linux.left() == []


def test_memory_handles() -> None:
    linux = FakeLinux()
    with Mailbox(linux) as mailbox:
        handle = mailbox.allocate_memory(8192, 4096, MemoryFlag.DIRECT)
        bus = mailbox.lock_memory(handle)
        assert bus >> 30 == 3
        mailbox.unlock_memory(handle)
        mailbox.release_memory(handle)
        assert linux.left() == ["fd 257: /dev/vcio"]
        with pytest.raises(DriverError, match="UNLOCK_MEMORY of handle 99 returned status"):
            mailbox.unlock_memory(99)
        with pytest.raises(DriverError, match="RELEASE_MEMORY"):
            mailbox.release_memory(handle)
        with pytest.raises(DriverError, match="LOCK_MEMORY"):
            mailbox.lock_memory(handle)
        linux.no_memory = True
        with pytest.raises(DriverError, match=r"8192 bytes.*76 MiB") as caught:
            mailbox.allocate_memory(8192, 4096, MemoryFlag.DIRECT)
        assert caught.value.errno == errno.ENOMEM
        assert "gpu_mem=128" in str(caught.value)


def test_interrupt_behind_an_allocation_leaves_nothing() -> None:
    linux = FakeLinux()
    linux.after[1] = KeyboardInterrupt()
    with Mailbox(linux) as mailbox, pytest.raises(KeyboardInterrupt):
        mailbox.allocate_memory(4096, 4096, MemoryFlag.DIRECT)
    assert linux.left() == []


def test_execute() -> None:
    linux = FakeLinux()
    linux.memory.append((0xC0001000, bytearray(struct.pack("<4I", 16, 32, 48, 64))))
    with Mailbox(linux) as mailbox:
        mailbox.enable_qpu(True)
        mailbox.execute_qpu(2, 0xC0001000, noflush=True, timeout_ms=500)
        assert linux.executed == [[(16, 32), (48, 64)]]
        linux.execute = lambda *_: 0x80000000
        with pytest.raises(GpuTimeoutError, match="within 500 ms") as caught:
            mailbox.execute_qpu(2, 0xC0001000, noflush=True, timeout_ms=500)
        assert "host interrupt" in str(caught.value)
        linux.execute = lambda *_: 0x80000001
        with pytest.raises(DriverError, match="status 0x80000001"):
            mailbox.execute_qpu(2, 0xC0001000, noflush=True, timeout_ms=500)
        for count in (0, 13):
            with pytest.raises(UsageError, match=r"allowed: 1\.\.12"):
                mailbox.execute_qpu(count, 0xC0001000, noflush=True, timeout_ms=500)
        linux.refuse_enable = True
        with pytest.raises(DriverError, match="vc4-kms-v3d"):
            mailbox.enable_qpu(True)


def test_kernel_timeout_is_a_timeout() -> None:
    linux = FakeLinux()
    linux.fail[1] = OSError(errno.ETIMEDOUT, "x")
    with Mailbox(linux) as mailbox, pytest.raises(GpuTimeoutError):
        mailbox.execute_qpu(1, 0xC0001000, noflush=True, timeout_ms=500)


def test_execute_code() -> None:
    linux = FakeLinux()
    with Mailbox(linux) as mailbox:
        mailbox.execute_code(0x1000, [1, 2])
        assert words(linux.log[-1][3])[2:12] == [0x30010, 28, 28, 0x1000, 1, 2, 0, 0, 0, 0]
        with pytest.raises(UsageError, match="takes r0"):
            mailbox.execute_code(0, range(7))


def test_usage_errors() -> None:
    linux = FakeLinux()
    with Mailbox(linux) as mailbox:
        with pytest.raises(UsageError, match="no property tag"):
            mailbox.call("GET_NOTHING")
        with pytest.raises(UsageError, match="takes clock; 0 values"):
            mailbox.call("GET_CLOCK_RATE")
        with pytest.raises(UsageError, match="does not fit"):
            mailbox.clock_hz(1 << 32)
        with pytest.raises(UsageError, match="call_bytes"):
            mailbox.call("GET_COMMAND_LINE")
        with pytest.raises(UsageError, match=r"call\(\)"):
            mailbox.call_bytes("GET_TURBO", 0)
        with pytest.raises(UsageError, match="at least one"):
            mailbox.transact([])
    assert mailbox.closed
    mailbox.close()
    with pytest.raises(UsageError, match="closed"):
        mailbox.temperature_c()
    assert [e[0] for e in linux.log] == ["open", "close"]


def test_info_leaves_out_what_the_firmware_does_not_know() -> None:
    linux = FakeLinux()
    linux.unknown_tags = {TAGS["GET_THROTTLED"].id: "bit31", TAGS["GET_VC_MEMORY"].id: "einval"}
    with Mailbox(linux) as mailbox:
        info = read_info(mailbox)
    assert info.throttled is None
    assert info.vc_memory is None
    assert info.arm_memory == 0x3B400000
    assert info.clocks_hz == {"ARM": 1_200_000_000, "V3D": 300_000_000}
    assert info.measured_hz == {"ARM": 299_000_000, "V3D": 299_000_000}
    text = "\n".join(info.lines())
    assert "temperature: 48.3 °C" in text
    assert "VideoCore memory" not in text
