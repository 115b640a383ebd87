"""Property messages of the VideoCore firmware through /dev/vcio: every tag as a row, and typed calls over them."""

from __future__ import annotations

import enum
import errno
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import ioctl_opt

from qpu.drivers.port import Port
from qpu.errors import DriverError, GpuTimeoutError, UsageError

__all__ = [
    "MAX_PROGRAMS",
    "TAGS",
    "Clock",
    "Mailbox",
    "MailboxInfo",
    "MemoryFlag",
    "Tag",
    "TagCall",
    "Throttled",
    "UnsupportedTagError",
    "build_message",
    "parse_reply",
    "property_request",
    "read_info",
]

NODE = "/dev/vcio"
REQUEST = 0x00000000
SUCCESS = 0x80000000
RESPONSE_BIT = 0x80000000  # of the third word of every tag
END_TAG = 0
EXECUTE_TIMEOUT = 0x80000000  # status of EXECUTE_QPU when the firmware gave up
MAX_PROGRAMS = 12  # per EXECUTE_QPU
KERNEL_LIMIT_MS = 1000  # current kernels stop waiting for the firmware after one second, whatever was asked for
POWER_DOMAIN_V3D = 10

T = TypeVar("T")


class Clock(enum.IntEnum):
    """Clock ids of the firmware. A rate of 0 means that the clock does not exist."""

    EMMC = 1
    UART = 2
    ARM = 3
    CORE = 4
    V3D = 5
    H264 = 6
    ISP = 7
    SDRAM = 8
    PIXEL = 9
    PWM = 10
    HEVC = 11
    EMMC2 = 12
    M2MC = 13
    PIXEL_BVB = 14


class MemoryFlag(enum.IntFlag):
    """Flags of ALLOCATE_MEMORY; two bits choose the bus alias."""

    NORMAL = 0  # alias 0x0
    DISCARDABLE = 1
    DIRECT = 4  # alias 0xC, uncached
    COHERENT = 8  # alias 0x8, not allocating in L2
    L1_NONALLOCATING = 12  # alias 0x4, allocating in L2
    ZERO = 16
    NO_INIT = 32
    HINT_PERMALOCK = 64


class Throttled(enum.IntFlag):
    """Answer of GET_THROTTLED: what happens now, and what has happened since boot."""

    UNDER_VOLTAGE = 1 << 0
    FREQUENCY_CAPPED = 1 << 1
    THROTTLED = 1 << 2
    SOFT_TEMPERATURE_LIMIT = 1 << 3
    UNDER_VOLTAGE_HAPPENED = 1 << 16
    FREQUENCY_CAPPED_HAPPENED = 1 << 17
    THROTTLED_HAPPENED = 1 << 18
    SOFT_TEMPERATURE_LIMIT_HAPPENED = 1 << 19


# -- the tags


@dataclass(frozen=True, slots=True)
class Tag:
    """One property tag.

    request, response: names of the u32 words, in order. response None: the answer is bytes, at most `area` of them.
    changes: the tag alters something; only the others may be repeated after a failure.
    """

    name: str
    id: int
    request: tuple[str, ...]
    response: tuple[str, ...] | None
    changes: bool = False
    area: int = 0

    @property
    def value_bytes(self) -> int:
        """Bytes of the value area: the longer of request and response, padded to whole words."""
        answer = self.area if self.response is None else 4 * len(self.response)
        return (max(4 * len(self.request), answer) + 3) // 4 * 4


def _tag(name: str, id: int, request: str, response: str | None, *, changes: bool = False, area: int = 0) -> Tag:
    return Tag(name, id, tuple(request.split()), None if response is None else tuple(response.split()), changes, area)


_ROWS = (
    _tag("GET_FIRMWARE_REVISION", 0x00000001, "", "revision"),
    _tag("GET_BOARD_MODEL", 0x00010001, "", "model"),
    _tag("GET_BOARD_REVISION", 0x00010002, "", "revision"),
    _tag("GET_BOARD_MAC_ADDRESS", 0x00010003, "", None, area=6),
    _tag("GET_BOARD_SERIAL", 0x00010004, "", "low high"),
    _tag("GET_ARM_MEMORY", 0x00010005, "", "base size"),
    _tag("GET_VC_MEMORY", 0x00010006, "", "base size"),
    _tag("GET_CLOCKS", 0x00010007, "", None, area=256),
    _tag("GET_CLOCK_STATE", 0x00030001, "clock", "clock state"),
    _tag("SET_CLOCK_STATE", 0x00038001, "clock state", "clock state", changes=True),
    _tag("GET_CLOCK_RATE", 0x00030002, "clock", "clock hz"),
    _tag("SET_CLOCK_RATE", 0x00038002, "clock hz skip_turbo", "clock hz", changes=True),
    _tag("GET_MAX_CLOCK_RATE", 0x00030004, "clock", "clock hz"),
    _tag("GET_MIN_CLOCK_RATE", 0x00030007, "clock", "clock hz"),
    _tag("GET_CLOCK_MEASURED", 0x00030047, "clock", "clock hz"),
    _tag("GET_TURBO", 0x00030009, "id", "id level"),
    _tag("SET_TURBO", 0x00038009, "id level", "id level", changes=True),
    _tag("GET_TEMPERATURE", 0x00030006, "id", "id millidegrees"),
    _tag("GET_MAX_TEMPERATURE", 0x0003000A, "id", "id millidegrees"),
    _tag("GET_VOLTAGE", 0x00030003, "id", "id microvolts"),
    _tag("GET_THROTTLED", 0x00030046, "mask", "bits"),
    _tag("ALLOCATE_MEMORY", 0x0003000C, "size align flags", "handle", changes=True),
    _tag("LOCK_MEMORY", 0x0003000D, "handle", "bus", changes=True),
    _tag("UNLOCK_MEMORY", 0x0003000E, "handle", "status", changes=True),
    _tag("RELEASE_MEMORY", 0x0003000F, "handle", "status", changes=True),
    _tag("EXECUTE_CODE", 0x00030010, "pc r0 r1 r2 r3 r4 r5", "r0", changes=True),
    _tag("EXECUTE_QPU", 0x00030011, "count control noflush timeout_ms", "status", changes=True),
    _tag("SET_ENABLE_QPU", 0x00030012, "enable", "status", changes=True),
    _tag("GET_DOMAIN_STATE", 0x00030030, "domain", "domain state"),
    _tag("SET_DOMAIN_STATE", 0x00038030, "domain state", "domain state", changes=True),
    _tag("GET_COMMAND_LINE", 0x00050001, "", None, area=1024),
    _tag("GET_DMA_CHANNELS", 0x00060001, "", "mask"),
)

TAGS: dict[str, Tag] = {row.name: row for row in _ROWS}
"""Every tag this package knows, by name."""

assert len(TAGS) == len(_ROWS) == len({row.id for row in _ROWS}), "tag names and ids are unique"


@dataclass(frozen=True, slots=True)
class TagCall:
    """A tag with the u32 values of its request words."""

    tag: Tag
    values: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.values) != len(self.tag.request):
            words = ", ".join(self.tag.request) or "nothing"
            raise UsageError(f"{self.tag.name} takes {words}; {len(self.values)} values were given")
        for word, value in zip(self.tag.request, self.values, strict=True):
            if not 0 <= value < 1 << 32:
                raise UsageError(f"{self.tag.name}: {word} = {value} does not fit a u32 word (0..0xffffffff)")


class UnsupportedTagError(DriverError):
    """The firmware does not know a tag."""


def property_request(pointer_size: int) -> int:
    """Request number of the property ioctl, ``_IOWR(100, 0, char *)``, for a process with pointers of 4 or 8 bytes."""
    if pointer_size not in (4, 8):
        raise UsageError(f"pointers of {pointer_size} bytes do not exist here; allowed: 4, 8")
    return int(ioctl_opt.IOC(ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE, 100, 0, pointer_size))


def build_message(calls: Sequence[TagCall]) -> bytearray:
    """The message: total bytes, request code, the tags, and the end tag as the very last word.

    The driver strips eight bytes in front and four behind, so nothing may follow the end tag.
    """
    if not calls:
        raise UsageError("a property message needs at least one tag")
    words: list[int] = [0, REQUEST]
    for call in calls:
        area = call.tag.value_bytes // 4
        words += [call.tag.id, 4 * area, 4 * len(call.values), *call.values]
        words += [0] * (area - len(call.values))
    words.append(END_TAG)
    words[0] = 4 * len(words)
    return bytearray(struct.pack(f"<{len(words)}I", *words))


def parse_reply(message: bytearray, calls: Sequence[TagCall]) -> list[tuple[int, ...] | bytes]:
    """The answers to `calls`, one each: u32 words, or bytes for tags without fixed words.

    Raises: UnsupportedTagError when the overall status or a tag's bit 31 says that the firmware did not answer.
    """
    names = ", ".join(call.tag.name for call in calls)
    status = struct.unpack_from("<I", message, 4)[0]
    if status != SUCCESS:
        raise UnsupportedTagError(
            f"mailbox {NODE}: {names}: the firmware returned status 0x{status:08x} instead of 0x{SUCCESS:08x}; "
            "it does not know the tag, treat the value as absent or update the firmware",
            errno.EINVAL,
        )
    answers: list[tuple[int, ...] | bytes] = []
    at = 8
    for call in calls:
        tag = call.tag
        code = struct.unpack_from("<I", message, at + 8)[0]
        if not code & RESPONSE_BIT:
            raise UnsupportedTagError(
                f"mailbox {NODE}: {tag.name} (0x{tag.id:08x}): the firmware left the tag unanswered (bit 31 of "
                f"0x{code:08x} is clear); it does not know the tag, treat the value as absent or update the firmware",
                errno.EINVAL,
            )
        length = code & ~RESPONSE_BIT
        held = min(length, tag.value_bytes)  # a longer answer was cut by the firmware
        if tag.response is None:
            answers.append(bytes(message[at + 12 : at + 12 + held]))
        else:
            if held < 4 * len(tag.response):
                raise DriverError(
                    f"mailbox {NODE}: {tag.name} answered {length} bytes, {4 * len(tag.response)} are needed "
                    f"({', '.join(tag.response)}); update the firmware",
                    errno.EPROTO,
                )
            answers.append(struct.unpack_from(f"<{len(tag.response)}I", message, at + 12))
        at += 12 + tag.value_bytes
    return answers


# -- errors


_OPEN_ADVICE = {
    errno.ENOENT: "no such node: mainline kernels lack it, use the Raspberry Pi kernel; "
    "in a container pass --device /dev/vcio",
    errno.EACCES: "permission denied: run `sudo usermod -aG video $USER` and log in again",
    errno.EPERM: "permission denied: run `sudo usermod -aG video $USER` and log in again",
    errno.ENODEV: "the driver is gone: reboot and look at `dmesg`",
    errno.ENXIO: "the driver is gone: reboot and look at `dmesg`",
}
_CALL_ADVICE = {
    errno.EINVAL: "the firmware does not know the tag; treat it as absent or run `sudo apt full-upgrade`",
    errno.EPERM: "this node allows only listed tags; use /dev/vcio",
    errno.ENOTTY: "this is not the mailbox device; use /dev/vcio",
    errno.ETIMEDOUT: "no answer within one second: a QPU program is stuck or a call blocks the firmware; "
    "wait and retry, then reboot",
    errno.ENOMEM: "the kernel has no memory for the message; free some and retry",
    errno.ENODEV: "the driver is gone: reboot and look at `dmesg`",
}
KMS_ADVICE = (
    "the kernel's display driver owns V3D: comment out `dtoverlay=vc4-kms-v3d` (or vc4-fkms-v3d) in config.txt and "
    "reboot; there is no hardware OpenGL meanwhile"
)
STUCK_ADVICE = (
    "keep programs well below one second, and let exactly one of the programs of a launch write a non-zero value to "
    "the host-interrupt register; reboot if a trivial program fails too"
)


def os_failure(what: str, error: OSError, advice: dict[int, str]) -> DriverError:
    """A DriverError that names the call, the errno and what mends it."""
    number = error.errno
    name = errno.errorcode.get(number, str(number)) if number is not None else type(error).__name__
    mend = advice.get(number or 0, "look at `dmesg`")
    return DriverError(f"{what}: {name}: {mend}", number)


# -- calls


class Mailbox:
    """An open /dev/vcio. Safe to close twice; usable as a context manager."""

    def __init__(self, port: Port, path: str = NODE) -> None:
        """Open the node (read-only is enough). Raises: DriverError with cause and mend."""
        self.port = port
        self.path = path
        self._request = property_request(port.pointer_size)
        self._fd: int | None = None
        try:
            self._fd = port.open(path, read_only=True)
        except OSError as error:
            raise os_failure(f"mailbox: open {path}", error, _OPEN_ADVICE) from error

    def __enter__(self) -> Mailbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the node."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self.port.close(fd)

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._fd is None

    def transact(self, calls: Sequence[TagCall]) -> list[tuple[int, ...] | bytes]:
        """Send tags in one message and return their answers.

        Messages that only read are repeated once when the firmware refuses them: some firmware and kernel pairs
        refuse valid tags now and then (drivers.md 4.1). Raises: UnsupportedTagError, DriverError.
        """
        again = not any(call.tag.changes for call in calls)
        while True:
            message = build_message(calls)
            try:
                self._ioctl(message, calls)
                return parse_reply(message, calls)
            except UnsupportedTagError:
                if not again:
                    raise
            except DriverError as error:
                if not again or error.errno != errno.EINTR:
                    raise
            again = False

    def _ioctl(self, message: bytearray, calls: Sequence[TagCall]) -> None:
        if self._fd is None:
            raise UsageError("this mailbox is closed; open another one")
        try:
            self.port.ioctl(self._fd, self._request, message)
        except OSError as error:
            names = ", ".join(f"{call.tag.name} (0x{call.tag.id:08x})" for call in calls)
            failure = os_failure(f"mailbox {self.path}: {names}", error, _CALL_ADVICE)
            if error.errno == errno.EINVAL:
                raise UnsupportedTagError(str(failure), errno.EINVAL) from error
            raise failure from error

    def call(self, name: str, *values: int) -> tuple[int, ...]:
        """One tag whose answer is words: `call("GET_CLOCK_RATE", Clock.V3D)` -> (5, hz)."""
        answer = self.transact([TagCall(_named(name), values)])[0]
        if isinstance(answer, bytes):
            raise UsageError(f"{name} answers bytes; use call_bytes()")
        return answer

    def call_bytes(self, name: str, *values: int) -> bytes:
        """One tag whose answer is bytes, such as GET_COMMAND_LINE."""
        answer = self.transact([TagCall(_named(name), values)])[0]
        if not isinstance(answer, bytes):
            raise UsageError(f"{name} answers words; use call()")
        return answer

    # identity and state

    def firmware_revision(self) -> int:
        """Build time of the firmware, Unix seconds."""
        return self.call("GET_FIRMWARE_REVISION")[0]

    def board_model(self) -> int:
        """Board model; always 0 in practice."""
        return self.call("GET_BOARD_MODEL")[0]

    def board_revision(self) -> int:
        """Revision code as the firmware has it; high bits may be set."""
        return self.call("GET_BOARD_REVISION")[0]

    def mac_address(self) -> bytes:
        """Six bytes."""
        return self.call_bytes("GET_BOARD_MAC_ADDRESS")[:6]

    def serial(self) -> int:
        """Serial number, u64."""
        low, high = self.call("GET_BOARD_SERIAL")
        return high << 32 | low

    def arm_memory(self) -> tuple[int, int]:
        """(base, bytes) of the memory of the Arm side."""
        base, size = self.call("GET_ARM_MEMORY")
        return base, size

    def vc_memory(self) -> tuple[int, int]:
        """(base, bytes) of the memory of the VideoCore side: the `gpu_mem` split."""
        base, size = self.call("GET_VC_MEMORY")
        return base, size

    def command_line(self) -> str:
        """The kernel command line as the firmware composed it; cut after 1024 bytes."""
        return self.call_bytes("GET_COMMAND_LINE").rstrip(b"\0").decode("utf-8", "replace")

    def dma_channels(self) -> int:
        """Mask of the DMA channels that the Arm side may use."""
        return self.call("GET_DMA_CHANNELS")[0]

    def clocks(self) -> list[int]:
        """Ids of the clocks that exist. The reply is a list of (parent, clock) pairs."""
        data = self.call_bytes("GET_CLOCKS")
        words = struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])
        return [clock for clock in words[1::2] if clock]

    def clock_on(self, clock: int) -> bool | None:
        """Whether a clock runs; None when it does not exist (bit 1 of the state)."""
        state = self.call("GET_CLOCK_STATE", clock)[1]
        return None if state & 2 else bool(state & 1)

    def set_clock_on(self, clock: int, on: bool) -> bool:
        """Start or stop a clock; returns the state afterwards."""
        return bool(self.call("SET_CLOCK_STATE", clock, int(on))[1] & 1)

    def clock_hz(self, clock: int) -> int:
        """Requested rate in Hz, 0 when the clock does not exist."""
        return self.call("GET_CLOCK_RATE", clock)[1]

    def clock_measured_hz(self, clock: int) -> int:
        """Rate that really runs, in Hz. Idle clocks are lower: measure under load."""
        return self.call("GET_CLOCK_MEASURED", clock)[1]

    def clock_max_hz(self, clock: int) -> int:
        """Highest rate in Hz: the nominal one."""
        return self.call("GET_MAX_CLOCK_RATE", clock)[1]

    def clock_min_hz(self, clock: int) -> int:
        """Lowest rate in Hz."""
        return self.call("GET_MIN_CLOCK_RATE", clock)[1]

    def set_clock_hz(self, clock: int, hz: int, *, skip_turbo: bool = False) -> int:
        """Ask for a rate; returns what the firmware chose, Hz."""
        return self.call("SET_CLOCK_RATE", clock, hz, int(skip_turbo))[1]

    def turbo(self) -> int:
        """Turbo level, 0 or 1."""
        return self.call("GET_TURBO", 0)[1]

    def set_turbo(self, level: int) -> int:
        """Set the turbo level; returns the level afterwards."""
        return self.call("SET_TURBO", 0, level)[1]

    def temperature_c(self) -> float:
        """Temperature of the SoC in degrees Celsius."""
        return self.call("GET_TEMPERATURE", 0)[1] / 1000

    def max_temperature_c(self) -> float:
        """Temperature at which overclocking ends, in degrees Celsius."""
        return self.call("GET_MAX_TEMPERATURE", 0)[1] / 1000

    def voltage_uv(self, rail: int) -> int:
        """Voltage offset of a rail in microvolts, signed."""
        value = self.call("GET_VOLTAGE", rail)[1]
        return value - (1 << 32) if value >> 31 else value

    def throttled(self) -> Throttled:
        """Power and heat limits, now and since boot."""
        return Throttled(self.call("GET_THROTTLED", 0)[0])

    def domain_on(self, domain: int = POWER_DOMAIN_V3D) -> bool:
        """Whether a power domain is on; V3D is number 10."""
        return bool(self.call("GET_DOMAIN_STATE", domain)[1])

    def set_domain_on(self, domain: int, on: bool) -> bool:
        """Switch a power domain; returns the state afterwards."""
        return bool(self.call("SET_DOMAIN_STATE", domain, int(on))[1])

    # memory

    def allocate_memory(self, size: int, align: int, flags: MemoryFlag, release: bool = True) -> int:
        """Memory of the VideoCore side; returns its handle.

        It belongs to nobody: without `release_memory` it stays allocated until the next boot. size, align: bytes.
        release: give the memory back when an exception such as KeyboardInterrupt strikes between the kernel's answer
        and the return from here. Raises: DriverError (ENOMEM) with the size of the VideoCore's share.
        """
        calls = [TagCall(TAGS["ALLOCATE_MEMORY"], (size, align, int(flags)))]
        message = build_message(calls)
        try:
            self._ioctl(message, calls)
            answer = parse_reply(message, calls)[0]
            handle = int(answer[0])
        except BaseException:
            if release:
                self._give_back(message, calls)
            raise
        if handle == 0:
            raise DriverError(
                f"mailbox: ALLOCATE_MEMORY of {size} bytes failed{self._share()}; raise `gpu_mem` in config.txt (for "
                "example gpu_mem=128) and reboot, or ask for less",
                errno.ENOMEM,
            )
        return handle

    def _give_back(self, message: bytearray, calls: Sequence[TagCall]) -> None:
        try:
            handle = int(parse_reply(message, calls)[0][0])
            if handle:
                self.release_memory(handle)
        except DriverError:
            pass  # nothing was allocated, or the firmware does not answer: the first error counts

    def _share(self) -> str:
        try:
            return f" (the VideoCore side has {self.vc_memory()[1] >> 20} MiB in all)"
        except DriverError:
            return ""

    def lock_memory(self, handle: int) -> int:
        """Pin memory; returns its bus address. Raises: DriverError when the firmware refuses."""
        bus = self.call("LOCK_MEMORY", handle)[0]
        if bus == 0:
            raise DriverError(
                f"mailbox: LOCK_MEMORY of handle {handle} failed; the handle is unknown or memory is too fragmented: "
                "raise `gpu_mem` in config.txt and reboot",
                errno.ENOMEM,
            )
        return bus

    def unlock_memory(self, handle: int) -> None:
        """Undo `lock_memory`. Raises: DriverError for an unknown handle."""
        self._status("UNLOCK_MEMORY", handle)

    def release_memory(self, handle: int) -> None:
        """Undo `allocate_memory`. Raises: DriverError for an unknown handle."""
        self._status("RELEASE_MEMORY", handle)

    def _status(self, name: str, handle: int) -> None:
        status = self.call(name, handle)[0]
        if status != 0:
            raise DriverError(
                f"mailbox: {name} of handle {handle} returned status 0x{status:08x}; the handle is not (or no longer) "
                "allocated",
                errno.EINVAL,
            )

    # programs

    def enable_qpu(self, on: bool) -> None:
        """Power V3D on or off, for everybody. Raises: DriverError when the firmware refuses."""
        status = self.call("SET_ENABLE_QPU", int(on))[0]
        if status != 0:
            verb = "enable" if on else "disable"
            raise DriverError(
                f"mailbox: the firmware refused to {verb} the QPUs (status 0x{status:08x}): {KMS_ADVICE}; "
                "or the firmware is very old: run `sudo apt full-upgrade`",
                errno.EBUSY,
            )

    def execute_qpu(self, count: int, control: int, *, noflush: bool, timeout_ms: int) -> None:
        """Run `count` programs (1..12) to their end.

        control: bus address of `count` pairs (uniforms, code) of u32 bus addresses. noflush: skip the cache flush.
        timeout_ms: for the firmware; current kernels give up after 1000 ms anyhow.
        Raises: GpuTimeoutError when the firmware or the kernel gave up; DriverError otherwise.
        """
        if not 1 <= count <= MAX_PROGRAMS:
            raise UsageError(f"{count} programs in one launch; allowed: 1..{MAX_PROGRAMS}")
        try:
            status = self.call("EXECUTE_QPU", count, control, int(noflush), timeout_ms)[0]
        except DriverError as error:
            if error.errno == errno.ETIMEDOUT:
                raise GpuTimeoutError(
                    f"mailbox: EXECUTE_QPU: ETIMEDOUT: the kernel waited {KERNEL_LIMIT_MS} ms for the firmware; "
                    f"{STUCK_ADVICE}",
                    errno.ETIMEDOUT,
                ) from error
            raise
        if status == EXECUTE_TIMEOUT:
            raise GpuTimeoutError(
                f"mailbox: EXECUTE_QPU: the firmware gave up after {timeout_ms} ms (status 0x{status:08x}); "
                f"{STUCK_ADVICE}",
                errno.ETIMEDOUT,
            )
        if status != 0:
            raise DriverError(
                f"mailbox: EXECUTE_QPU returned status 0x{status:08x}; are the QPUs enabled? {KMS_ADVICE}", errno.EIO
            )

    def execute_code(self, pc: int, registers: Sequence[int] = ()) -> int:
        """Run code on the VPU (not the QPUs) at bus address `pc` with r0..r5; returns r0."""
        if len(registers) > 6:
            raise UsageError(f"{len(registers)} registers; the VPU call takes r0..r5")
        values = [*registers, *[0] * (6 - len(registers))]
        return self.call("EXECUTE_CODE", pc, *values)[0]


def _named(name: str) -> Tag:
    try:
        return TAGS[name]
    except KeyError:
        raise UsageError(f"no property tag {name!r}; known: {', '.join(sorted(TAGS))}") from None


# -- everything a person wants to know


@dataclass(frozen=True, slots=True)
class MailboxInfo:
    """What the firmware says of a board; None where it does not know the tag.

    firmware: Unix seconds of the build. serial: u64. Memory in bytes, clocks in Hz by name (those that exist).
    """

    firmware: int | None
    board_revision: int | None
    serial: int | None
    arm_memory: int | None
    vc_memory: int | None
    temperature_c: float | None
    max_temperature_c: float | None
    throttled: Throttled | None
    clocks_hz: dict[str, int]
    measured_hz: dict[str, int]

    def lines(self) -> Iterator[str]:
        """The known values for people, one a line."""
        if self.firmware is not None:
            yield f"firmware build: {self.firmware}"
        if self.board_revision is not None:
            yield f"board revision: {self.board_revision:x}"
        if self.serial is not None:
            yield f"serial: {self.serial:016x}"
        if self.arm_memory is not None:
            yield f"Arm memory: {self.arm_memory >> 20} MiB"
        if self.vc_memory is not None:
            yield f"VideoCore memory: {self.vc_memory >> 20} MiB"
        if self.temperature_c is not None:
            yield f"temperature: {self.temperature_c:.1f} °C"
        if self.throttled is not None:
            names = ", ".join(str(flag.name).lower().replace("_", " ") for flag in self.throttled)
            yield f"limits: {names or 'none'}"
        for name, hz in self.clocks_hz.items():
            measured = self.measured_hz.get(name)
            yield f"clock {name}: {hz / 1e6:.1f} MHz" + ("" if measured is None else f", measured {measured / 1e6:.1f}")


def read_info(mailbox: Mailbox) -> MailboxInfo:
    """Ask the firmware everything; unknown tags and clocks that do not exist are left out."""

    def ask(query: Callable[[], T]) -> T | None:
        try:
            return query()
        except UnsupportedTagError:
            return None

    rates: dict[str, int] = {}
    measured: dict[str, int] = {}
    for clock in Clock:
        hz = ask(lambda clock=clock: mailbox.clock_hz(clock))  # type: ignore[misc]  # default binds the loop variable
        if not hz:
            continue
        rates[clock.name] = hz
        real = ask(lambda clock=clock: mailbox.clock_measured_hz(clock))  # type: ignore[misc]  # as above
        if real is not None:
            measured[clock.name] = real
    arm, vc = ask(mailbox.arm_memory), ask(mailbox.vc_memory)
    return MailboxInfo(
        firmware=ask(mailbox.firmware_revision),
        board_revision=ask(mailbox.board_revision),
        serial=ask(mailbox.serial),
        arm_memory=None if arm is None else arm[1],
        vc_memory=None if vc is None else vc[1],
        temperature_c=ask(mailbox.temperature_c),
        max_temperature_c=ask(mailbox.max_temperature_c),
        throttled=ask(mailbox.throttled),
        clocks_hz=rates,
        measured_hz=measured,
    )
