"""Property tags of the VideoCore firmware: one row per tag, encoding of messages, decoding of replies.

Source: drivers.md 4.1 to 4.3 (firmware documentation and Linux driver).
"""

from __future__ import annotations

import enum
import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from qpu.drivers.errors_table import HELP, fault
from qpu.drivers.uapi.mailbox import CODE_REQUEST, CODE_SUCCESS, PROPERTY, TAG_END, TAG_REPLY
from qpu.errors import DriverError, UsageError, counted

__all__ = [
    "TAGS", "Clock", "MemoryFlag", "Tag", "TagCall", "Throttled", "UnsupportedTagError", "build_message",
    "parse_reply", "property_request", "unsupported",
]  # fmt: skip


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
    """Answer of GET_THROTTLED: conditions that hold now, and conditions that have held since boot."""

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
    changes: the tag changes a state; only the other tags may be repeated after a failure.
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
            raise UsageError(
                f"{self.tag.name} takes {words}; {counted(len(self.values), 'value')} given",
                help="give one value per word",
            )
        for word, value in zip(self.tag.request, self.values, strict=True):
            if not 0 <= value < 1 << 32:
                raise UsageError(
                    f"{self.tag.name}: {word} = {value} does not fit a u32 word; allowed: 0..0xffffffff",
                    help="mask a negative number to 32 bits yourself: value & 0xffffffff",
                )


class UnsupportedTagError(DriverError):
    """A tag that the firmware does not know."""


def unsupported(names: str, detail: str = "") -> UnsupportedTagError:
    """The error for tags that the firmware did not answer."""
    return UnsupportedTagError(str(fault("unknown-tag", f"mailbox: {names}", errno.EINVAL, detail)), errno.EINVAL)


def property_request(pointer_size: int) -> int:
    """Request number of the property ioctl, ``_IOWR(100, 0, char *)``, for a process with pointers of 4 or 8 bytes."""
    if pointer_size not in (4, 8):
        raise UsageError(
            f"pointers of {pointer_size} bytes; allowed: 4, 8", help="give the pointer size of the calling process"
        )
    return PROPERTY.request(pointer_size)


def build_message(calls: Sequence[TagCall]) -> bytearray:
    """The message: total bytes, request code, the tags, and the end tag as the very last word.

    The driver strips eight bytes at the start and four at the end, so nothing may follow the end tag.
    """
    if not calls:
        raise UsageError("a property message without tags; it needs at least one tag", help="pass a TagCall")
    words: list[int] = [0, CODE_REQUEST]
    for call in calls:
        area = call.tag.value_bytes // 4
        words += [call.tag.id, 4 * area, 4 * len(call.values), *call.values]
        words += [0] * (area - len(call.values))
    words.append(TAG_END)
    words[0] = 4 * len(words)
    return bytearray(struct.pack(f"<{len(words)}I", *words))


def parse_reply(message: bytearray, calls: Sequence[TagCall]) -> list[tuple[int, ...] | bytes]:
    """The answers to `calls`, one for each: u32 words, or bytes for tags without fixed words.

    Raises: UnsupportedTagError when the overall status or bit 31 of a tag shows that the firmware did not answer.
    """
    names = ", ".join(call.tag.name for call in calls)
    status = struct.unpack_from("<I", message, 4)[0]
    if status != CODE_SUCCESS:
        raise unsupported(names, f"the overall status is 0x{status:08x}, not 0x{CODE_SUCCESS:08x}")
    answers: list[tuple[int, ...] | bytes] = []
    at = 8
    for call in calls:
        tag = call.tag
        code = struct.unpack_from("<I", message, at + 8)[0]
        if not code & TAG_REPLY:
            raise unsupported(f"{tag.name} (0x{tag.id:08x})", f"bit 31 of the tag's third word 0x{code:08x} is clear")
        length = code & ~TAG_REPLY
        held = min(length, tag.value_bytes)  # the firmware has cut a longer answer
        if tag.response is None:
            answers.append(bytes(message[at + 12 : at + 12 + held]))
        else:
            if held < 4 * len(tag.response):
                raise DriverError(
                    f"mailbox: {tag.name} answered {counted(length, 'byte')}, {4 * len(tag.response)} are needed "
                    f"({', '.join(tag.response)}){HELP}update the firmware: sudo apt full-upgrade, then reboot",
                    errno.EPROTO,
                )
            answers.append(struct.unpack_from(f"<{len(tag.response)}I", message, at + 12))
        at += 12 + tag.value_bytes
    return answers
