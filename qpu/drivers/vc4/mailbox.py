"""Property mailbox of the VideoCore firmware (/dev/vcio): typed calls for its tags."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from qpu.drivers.errors_table import HELP, close_node, errno_rows, failure, fault, open_failure
from qpu.drivers.port import Port, retrying
from qpu.drivers.uapi.mailbox import MAX_PROGRAMS
from qpu.drivers.vc4 import mailbox_tags as tags
from qpu.drivers.vc4.mailbox_tags import TAGS, Clock, MemoryFlag, Tag, TagCall, Throttled, UnsupportedTagError
from qpu.errors import DriverError, UsageError, counted

__all__ = ["LINUX_LIMIT_MS", "Mailbox", "MailboxInfo", "Node", "persist", "read_info"]

NODE = "/dev/vcio"
EXECUTE_TIMEOUT = 0x80000000  # status of EXECUTE_QPU when the firmware gave up
LINUX_LIMIT_MS = 1000  # Linux stops waiting for the firmware after one second, whatever time-out the message has

T = TypeVar("T")
_AGAIN = (errno.EINTR, errno.EAGAIN)
TRIES = 3  # attempts to release something

_OPEN_ROWS = errno_rows("no-vcio: ENOENT, eacces-open: EACCES EPERM, enodev: ENODEV ENXIO, emfile: EMFILE")
_CALL_ROWS = errno_rows("eacces-open: EACCES EPERM, enotty: ENOTTY, etimedout-vcio: ETIMEDOUT, enodev: ENODEV")


def check_programs(count: int, most: int) -> None:
    """Raise UsageError for a launch of no programs, or of more than the queue takes."""
    if not 1 <= count <= most:
        help = "start more programs by several launches"
        raise UsageError(f"{counted(count, 'program')} in one launch; allowed: 1..{most}", help=help)


def persist(give_back: Callable[[], None]) -> None:
    """Call a function that releases what outlives the process, again when it fails.

    Raises: the last OSError; at once a BufferError, which means that views are alive, and what `retrying` gave up.
    """
    for left in range(TRIES - 1, -1, -1):
        try:
            give_back()
            return
        except OSError as error:
            if not left or (isinstance(error, DriverError) and error.errno == errno.EINTR):
                raise


# -- calls


class Node:
    """An open device node of VideoCore IV. Safe to close twice."""

    def __init__(
        self, label: str, port: Port, path: str, rows: Mapping[int, str], *, read_only: bool = False, sync: bool = False
    ) -> None:
        """label: begins the messages. rows: errno -> row. Raises: DriverError with cause and help."""
        self.label = label
        self.port = port
        self.path = path
        self._fd: int | None = None
        try:
            self._fd = port.open(path, read_only=read_only, sync=sync)
        except OSError as error:
            raise open_failure(label, port, path, error, rows) from error

    @property
    def fd(self) -> int:
        """The open descriptor. Raises: UsageError after `close`."""
        if self._fd is None:
            raise UsageError(f"this {self.label} is closed", help="open the device again")
        return self._fd

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._fd is None

    def close(self) -> None:
        """Close the node."""
        fd, self._fd = self._fd, None
        if fd is not None:
            close_node(self.port, fd, self.path)


class Mailbox(Node):
    """An open /dev/vcio. Safe to close twice; usable as a context manager."""

    def __init__(self, port: Port, path: str = NODE, check: Callable[[], None] | None = None) -> None:
        """Open the node (read-only is enough).

        check: called before an interrupted launch is repeated; an exception that it raises stops the repetition.
        Raises: DriverError with cause and help.
        """
        self._check = check
        self._request = tags.property_request(port.pointer_size)
        super().__init__("mailbox", port, path, _OPEN_ROWS, read_only=True)

    def __enter__(self) -> Mailbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def transact(self, calls: Sequence[TagCall]) -> list[tuple[int, ...] | bytes]:
        """Send tags in one message and return their answers.

        Messages that only read are repeated once when the firmware refuses them: some pairs of firmware and Linux
        refuse valid tags now and then (drivers.md 4.1). Raises: UnsupportedTagError, DriverError.
        """
        if not any(call.tag.changes for call in calls):
            try:
                return self._exchange(calls)
            except UnsupportedTagError:
                pass
        return self._exchange(calls)

    def _exchange(self, calls: Sequence[TagCall]) -> list[tuple[int, ...] | bytes]:
        message = tags.build_message(calls)
        self._ioctl(message, calls)
        return tags.parse_reply(message, calls)

    def _ioctl(self, message: bytearray, calls: Sequence[TagCall]) -> None:
        check = self._check if any(call.tag.name == "EXECUTE_QPU" for call in calls) else None
        try:
            # EINTR comes before the message is sent (ASSUMED): Linux's wait for the answer is uninterruptible.
            retrying(self.port, self.fd, self._request, message, _AGAIN, check)
        except OSError as error:
            if isinstance(error, DriverError):
                raise  # raised by `check`
            names = ", ".join(f"{call.tag.name} (0x{call.tag.id:08x})" for call in calls)
            if error.errno == errno.EINVAL:
                raise tags.unsupported(f"{names} on {self.path}") from error
            raise failure(f"mailbox: {names} on {self.path}", error, _CALL_ROWS) from error

    def call(self, name: str, *values: int) -> tuple[int, ...]:
        """One tag whose answer is words: `call("GET_CLOCK_RATE", Clock.V3D)` -> (5, hz)."""
        tag = _named(name)
        if tag.response is None:
            raise UsageError(f"{name} answers bytes, not words", help="use call_bytes()")
        answer = self.transact([TagCall(tag, values)])[0]
        assert isinstance(answer, tuple)
        return answer

    def call_bytes(self, name: str, *values: int) -> bytes:
        """One tag whose answer is bytes, such as GET_COMMAND_LINE."""
        tag = _named(name)
        if tag.response is not None:
            raise UsageError(f"{name} answers words, not bytes", help="use call()")
        answer = self.transact([TagCall(tag, values)])[0]
        assert isinstance(answer, bytes)
        return answer

    # identity and state

    def firmware_revision(self) -> int:
        """Build time of the firmware, Unix seconds."""
        return self.call("GET_FIRMWARE_REVISION")[0]

    def board_model(self) -> int:
        """Board model; always 0 in practice."""
        return self.call("GET_BOARD_MODEL")[0]

    def board_revision(self) -> int:
        """Revision code as the firmware reports it; high bits may be set."""
        return self.call("GET_BOARD_REVISION")[0]

    def mac_address(self) -> bytes:
        """MAC address of the board, six bytes."""
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
        """Command line of Linux as the firmware composed it; cut after 1024 bytes."""
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
        """Measured rate in Hz. Idle clocks run slower: measure under load."""
        return self.call("GET_CLOCK_MEASURED", clock)[1]

    def clock_max_hz(self, clock: int) -> int:
        """Highest rate in Hz, which is the nominal rate."""
        return self.call("GET_MAX_CLOCK_RATE", clock)[1]

    def clock_min_hz(self, clock: int) -> int:
        """Lowest rate in Hz."""
        return self.call("GET_MIN_CLOCK_RATE", clock)[1]

    def set_clock_hz(self, clock: int, hz: int, *, skip_turbo: bool = False) -> int:
        """Ask for a rate; returns the rate that the firmware chose, in Hz."""
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

    def domain_on(self, domain: int = 10) -> bool:
        """Whether a power domain is on; V3D is number 10."""
        return bool(self.call("GET_DOMAIN_STATE", domain)[1])

    def set_domain_on(self, domain: int, on: bool) -> bool:
        """Switch a power domain; returns the state afterwards."""
        return bool(self.call("SET_DOMAIN_STATE", domain, int(on))[1])

    # memory

    def allocate_memory(self, size: int, align: int, flags: MemoryFlag, held: list[int] | None = None) -> int:
        """Memory of the VideoCore side; returns its handle.

        It belongs to no process: without `release_memory` it stays allocated until the next boot. size, align: bytes.
        held: list that the handle is appended to before an interrupt can be raised; its owner releases the handles.
        Raises: DriverError (ENOMEM) with the size of the memory of the VideoCore side.
        """
        calls = [TagCall(TAGS["ALLOCATE_MEMORY"], (size, align, int(flags)))]
        message = tags.build_message(calls)
        kept: list[int] = [] if held is None else held
        before = len(kept)
        try:
            self._ioctl(message, calls)
            handle = int(tags.parse_reply(message, calls)[0][0])
            if handle:
                kept.append(handle)
        except BaseException:
            # KeyboardInterrupt may be raised after the firmware has answered.
            if len(kept) == before:
                self._give_back(message, calls)
            raise
        if handle == 0:
            raise fault("enomem-vc4", f"mailbox: ALLOCATE_MEMORY of {size} bytes", errno.ENOMEM, self._split())
        return handle

    def _give_back(self, message: bytearray, calls: Sequence[TagCall]) -> None:
        try:
            handle = int(tags.parse_reply(message, calls)[0][0])
            if handle:
                self.release_memory(handle)
        except DriverError:
            pass  # nothing was allocated, or the firmware does not answer; the first error is raised

    def _split(self) -> str:
        try:
            return f"the VideoCore side has {self.vc_memory()[1] >> 20} MiB in all"
        except DriverError:
            return ""

    def lock_memory(self, handle: int) -> int:
        """Pin memory; returns its bus address. Raises: DriverError when the firmware refuses."""
        bus = self.call("LOCK_MEMORY", handle)[0]
        if bus == 0:
            raise fault("enomem-vc4", f"mailbox: LOCK_MEMORY of handle {handle}", errno.ENOMEM, self._split())
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
                f"mailbox: {name} of handle {handle} returned status 0x{status:08x}; the handle is not allocated, or "
                f"not any more{HELP}release each handle once",
                errno.EINVAL,
            )

    # programs

    def enable_qpu(self, on: bool) -> None:
        """Power V3D on or off, for all programs. Raises: DriverError when the firmware refuses."""
        status = self.call("SET_ENABLE_QPU", int(on))[0]
        if status != 0:
            what = f"mailbox: SET_ENABLE_QPU({int(on)})"
            raise fault("enable-refused", what, None, f"status 0x{status:08x}")

    def execute_qpu(self, count: int, control: int, *, noflush: bool, timeout_ms: int) -> None:
        """Run `count` programs (1..12) to their end.

        control: bus address of `count` pairs (uniforms, code) of u32 bus addresses. noflush: skip the cache flush.
        timeout_ms: of the firmware; current versions of Linux give up after 1000 ms in any case.
        Raises: GpuTimeoutError when the firmware or Linux gave up; DriverError otherwise.
        """
        check_programs(count, MAX_PROGRAMS)
        status = self.call("EXECUTE_QPU", count, control, int(noflush), timeout_ms)[0]
        if status == EXECUTE_TIMEOUT:
            raise fault("execute-timeout", f"mailbox: EXECUTE_QPU within {timeout_ms} ms")
        if status != 0:
            raise fault("enable-refused", "mailbox: EXECUTE_QPU", None, f"status 0x{status:08x}")

    def execute_code(self, pc: int, registers: Sequence[int] = ()) -> int:
        """Run code on the VPU (not the QPUs) at bus address `pc` with r0..r5; returns r0."""
        if len(registers) > 6:
            raise UsageError(
                f"{counted(len(registers), 'register')}; the VPU call takes r0..r5",
                help="pass further values through memory",
            )
        values = [*registers, *[0] * (6 - len(registers))]
        return self.call("EXECUTE_CODE", pc, *values)[0]


def _named(name: str) -> Tag:
    try:
        return TAGS[name]
    except KeyError:
        raise UsageError(
            f"no property tag {name!r}; known: {', '.join(sorted(TAGS))}",
            help="use a known name, or send a Tag of your own with transact()",
        ) from None


# -- facts for display


@dataclass(frozen=True, slots=True)
class MailboxInfo:
    """Facts that the firmware reports of a board; None where it does not know the tag.

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
        """The known facts as lines of text."""
        rows = (
            ("firmware build: {}", self.firmware),
            ("board revision: {:x}", self.board_revision),
            ("serial: {:016x}", self.serial),
            ("Arm memory: {:.0f} MiB", None if self.arm_memory is None else self.arm_memory / (1 << 20)),
            ("VideoCore memory: {:.0f} MiB", None if self.vc_memory is None else self.vc_memory / (1 << 20)),
            ("temperature: {:.1f} °C", self.temperature_c),
        )
        yield from (text.format(value) for text, value in rows if value is not None)
        if self.throttled is not None:
            names = ", ".join(str(flag.name).lower().replace("_", " ") for flag in self.throttled)
            yield f"limits: {names or 'none'}"
        for name, hz in self.clocks_hz.items():
            measured = self.measured_hz.get(name)
            yield f"clock {name}: {hz / 1e6:.1f} MHz" + ("" if measured is None else f", measured {measured / 1e6:.1f}")


def read_info(mailbox: Mailbox) -> MailboxInfo:
    """Read all facts of `MailboxInfo`; unknown tags and clocks that do not exist are left out."""

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
