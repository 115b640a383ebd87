"""/dev/vcio of an emulated board: property messages to the firmware, which also launch QPU programs (drivers.md 4)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from qpu.drivers.uapi import mailbox
from qpu.emu.engine.memory import PAGE, Region
from qpu.emu.linux.core import NS, Linux, OpenFile, Run, fail, fail_if
from qpu.emu.linux.gpu_jobs import Vc4Gpu
from qpu.emu.linux.heap import Heap
from qpu.errors import EmuFault, FaultPlace, counted

__all__ = ["Firmware", "VcioFile"]

LINUX_LIMIT_NS = NS  # Linux waits one second for an answer (drivers.md 4.1)
TIMED_OUT = 0x8000_0000
BUS_MASK = 0x3FFF_FFFF
MAX_MESSAGE = 1 << 20
V3D_CLOCK = 5
# Bits 3:2 of the allocation flags -> cache alias of the bus address (drivers.md 4.3).
_ALIAS = {0: 0x0, 1: 0xC000_0000, 2: 0x8000_0000, 3: 0x4000_0000}
_NAMES = {0x0003_0010: "EXECUTE_CODE", 0x0001_0007: "GET_CLOCKS"}


@dataclass(slots=True)
class _Block:
    region: Region
    alias: int
    locks: int = 0


class _ParseError(Exception):
    """A message that the firmware cannot read."""


class VcioFile(OpenFile):
    """An open /dev/vcio."""

    label = "vcio"

    def __init__(self, firmware: Firmware, path: str) -> None:
        super().__init__(firmware.linux, path)
        self._firmware = firmware

    def argument_size(self, request: int, peek: Callable[[int], bytes]) -> int:
        """Bytes of the message, which its first word holds."""
        return max(4, min(MAX_MESSAGE, int.from_bytes(peek(4), "little")))

    def ioctl(self, request: int, arg: bytearray) -> int:
        """IOCTL_MBOX_PROPERTY; any other number is EINVAL. The buffer is copied back on success only."""
        linux = self.linux
        width = linux.width_of(mailbox.PROPERTY, request)
        fail_if(request != mailbox.PROPERTY.request(width), errno.EINVAL)
        fail_if(len(arg) < 4, errno.EFAULT)
        total = int.from_bytes(arg[:4], "little")
        fail_if(total < 12 or total % 4, errno.EINVAL)
        fail_if(total > MAX_MESSAGE, errno.ENOMEM)
        fail_if(len(arg) < total, errno.EFAULT)
        # The driver removes eight bytes at the start and four at the end, and makes them anew.
        tags = bytearray(arg[8 : total - 4])
        try:
            self._firmware.process(tags)
        except _ParseError:
            raise fail(errno.EINVAL) from None
        arg[8 : total - 4] = tags
        arg[4:8] = mailbox.CODE_SUCCESS.to_bytes(4, "little")
        arg[total - 4 : total] = bytes(4)
        return 0


class Firmware:
    """The VideoCore firmware: memory, clocks, launches. Its memory handles do not belong to a process."""

    def __init__(self, linux: Linux, gpu: Vc4Gpu | None) -> None:
        self.linux = linux
        self.gpu = gpu
        self.profile = linux.profile
        p = linux.profile
        # On boards with DRM, the firmware's memory is not in the GPU's address space and not emulated.
        self.heap = Heap(linux.memory, p.gpu_mem_base, p.gpu_mem) if not p.is_drm else None
        self.blocks: dict[int, _Block] = {}
        self.clocks: dict[int, int] = dict(_CLOCKS) | {V3D_CLOCK: p.clock_hz}
        self.turbo: dict[int, int] = {}
        self.domains: dict[int, int] = {}
        linux.openers["vcio"] = partial(VcioFile, self)
        linux.holders.append(self.allocated)

    def allocated(self) -> list[str]:
        """Memory handles, one line each."""
        return [f"firmware memory handle {h}" for h in sorted(self.blocks)]

    # messages

    def process(self, tags: bytearray) -> None:
        """Answer the tags of a message in place. Raises: _ParseError, OSError ETIMEDOUT, EmuFault."""
        at = 0
        while at + 4 <= len(tags):
            tag = int.from_bytes(tags[at : at + 4], "little")
            if tag == mailbox.TAG_END:
                return
            if at + 12 > len(tags):
                raise _ParseError
            room, sent = struct.unpack_from("<2I", tags, at + 4)
            # The top bit of the request length marks a reply; the firmware ignores the length and reads the value area.
            end = at + 12 + (room + 3) // 4 * 4
            if end > len(tags):
                raise _ParseError
            value = bytes(tags[at + 12 : at + 12 + room])
            reply = self._answer(tag, value, sent)
            if reply is None:
                if self.profile.unknown_tag == "einval":
                    raise _ParseError
            else:
                tags[at + 12 : at + 12 + min(room, len(reply))] = reply[:room]
                struct.pack_into("<I", tags, at + 8, mailbox.TAG_REPLY | len(reply))
            at = end

    def _answer(self, tag: int, value: bytes, sent: int) -> bytes | None:
        """Value bytes of the reply; None for a tag that the firmware does not know."""
        handler = _TAGS.get(tag)
        if handler is None:
            if tag in _NAMES:
                raise self.linux.not_modelled(f"mailbox tag {_NAMES[tag]} (0x{tag:08x})")
            return None
        words, answer = handler
        if len(value) < 4 * words:
            raise _ParseError
        return answer(self, struct.unpack_from(f"<{words}I", value))

    # memory

    def allocate(self, a: Sequence[int]) -> bytes:
        size, alignment, flags = a
        if self.heap is None or size == 0 or size > self.heap.size:
            return _words(0)
        size = (size + PAGE - 1) // PAGE * PAGE
        region = self.heap.allocate(size, max(1, alignment), f"firmware memory of {size} bytes")
        if region is None:
            return _words(0)
        handle = 1
        while handle in self.blocks:
            handle += 1
        self.blocks[handle] = _Block(region, _ALIAS[flags >> 2 & 3])
        return _words(handle)

    def lock(self, a: Sequence[int]) -> bytes:
        block = self.blocks.get(a[0])
        if block is None:
            return _words(0)
        block.locks += 1
        return _words(block.region.address | block.alias)

    def unlock(self, a: Sequence[int]) -> bytes:
        block = self.blocks.get(a[0])
        if block is None or block.locks == 0:
            return _words(TIMED_OUT)
        block.locks -= 1
        return _words(0)

    def release(self, a: Sequence[int]) -> bytes:
        block = self.blocks.pop(a[0], None)
        if block is None or self.heap is None:
            return _words(TIMED_OUT)
        self.heap.free(block.region)
        return _words(0)

    # QPUs

    def enable_qpu(self, a: Sequence[int]) -> bytes:
        gpu = self.gpu
        if gpu is None or self.profile.kms:
            return _words(TIMED_OUT)  # refused: drivers.md 4.4
        if a[0]:
            gpu.enabled = True
        else:
            # Whether enables are counted is uncertain; here one disable powers V3D off.
            gpu.power_off()
        return _words(0)

    def execute_qpu(self, a: Sequence[int]) -> bytes:
        count, control, _, timeout_ms = a
        gpu = self.gpu
        if gpu is None or self.profile.kms:
            return _words(TIMED_OUT)
        if not gpu.enabled:
            return self._unknown_result("v3d-off", "EXECUTE_QPU while V3D is off", "enable it with SET_ENABLE_QPU")
        if not 1 <= count <= mailbox.MAX_PROGRAMS:
            advice = f"launch 1 to {mailbox.MAX_PROGRAMS} programs at a time"
            return self._unknown_result("execute-count", f"EXECUTE_QPU of {counted(count, 'program')}", advice)
        return _words(self._execute(gpu, self._control_block(control, count), timeout_ms))

    def _unknown_result(self, rule: str, message: str, advice: str) -> bytes:
        """The reply to a request whose result on hardware is unknown. Raises: EmuFault in strict mode."""
        fault = EmuFault(rule, f"{message}, on the emulated {self.profile.name}", help=advice)
        if self.linux.strict:
            raise fault
        self.linux.warn(str(fault))
        return _words(TIMED_OUT)

    def _control_block(self, control: int, count: int) -> list[tuple[int, int]]:
        at, size = control & BUS_MASK, 8 * count
        memory = self.linux.memory
        first, last = memory.region_at(at), memory.region_at(at + size - 1)
        if first is None or last is not first or at % 4:
            raise EmuFault(
                "out-of-bounds",
                f"the control block of EXECUTE_QPU, {counted(size, 'byte')} at 0x{control:08x}, is not GPU memory",
                FaultPlace(self.profile.name, address=control),
                help="pass the bus address of memory that was allocated and locked",
            )
        words = struct.unpack(f"<{2 * count}I", memory.view(at, size))
        return [(words[2 * i], words[2 * i + 1]) for i in range(count)]

    def _execute(self, gpu: Vc4Gpu, entries: list[tuple[int, int]], timeout_ms: int) -> int:
        """Run to the end or to a limit of emulated time. Returns: the status.

        Rule (drivers.md 4.4): the status is 0 when every program has ended and at least one of them wrote a non-zero
        value to the host-interrupt register; without such a write it is 0x80000000. If programs do not end, it is
        0x80000000 after the firmware's timeout, or the call fails with ETIMEDOUT after Linux's second if that is
        earlier. The programs keep running, and later calls find the QPUs busy.
        """
        clock = self.linux.clock
        limit = min(timeout_ms * (NS // 1000), LINUX_LIMIT_NS)
        deadline = clock.now_ns + limit
        if gpu.active is None or gpu.run(deadline):
            clock.reach(gpu.now_ns)
            run = self.linux.submitted.run = Run()
            execution = gpu.launch(entries, run)
            if gpu.run(deadline):
                clock.reach(gpu.now_ns)
                if execution.host_interrupts:
                    return 0
                clock.reach(deadline)
                return TIMED_OUT
        clock.reach(deadline)
        fail_if(limit >= LINUX_LIMIT_NS, errno.ETIMEDOUT)
        return TIMED_OUT

    # facts

    def set_clock_rate(self, a: Sequence[int]) -> bytes:
        clock, rate, _ = a
        if clock in self.clocks:
            low, high = self.range(clock)
            self.clocks[clock] = min(max(rate, low), high)
            if clock == V3D_CLOCK:
                self.linux.hz = self.clocks[clock]
        return _words(clock, self.clocks.get(clock, 0))

    def range(self, clock: int) -> tuple[int, int]:
        high = self.profile.clock_hz if clock == V3D_CLOCK else _CLOCKS.get(clock, 0)
        if clock == V3D_CLOCK:
            return min(high, 500_000_000 if self.profile.soc == "BCM2712" else 250_000_000), high
        return high, high

    def arm_memory(self, a: Sequence[int]) -> bytes:
        size = self.profile.gpu_mem_base if not self.profile.is_drm else min(self.profile.memory, 0x3C00_0000)
        return _words(0, size)

    def vc_memory(self, a: Sequence[int]) -> bytes:
        if self.profile.is_drm:
            return _words(0x3C00_0000, 0x0400_0000)
        return _words(self.profile.gpu_mem_base, self.profile.gpu_mem)


def _words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


# Clock rates in Hz, plausible for a board under load. That of V3D is in the profile.
_CLOCKS: Mapping[int, int] = {
    1: 250_000_000,
    2: 48_000_000,
    3: 1_200_000_000,
    4: 400_000_000,
    6: 300_000_000,
    7: 300_000_000,
    8: 450_000_000,
    9: 25_200_000,
    10: 100_000_000,
}

_Answer = Callable[["Firmware", "Sequence[int]"], bytes]


def _fact(*values: int) -> _Answer:
    return lambda firmware, a: _words(*values)


def _by_id(table: Callable[[Firmware], dict[int, int]]) -> _Answer:
    """Answer with the number and the value of a clock or domain, after setting the value if the request has one."""

    def answer(firmware: Firmware, a: Sequence[int]) -> bytes:
        values = table(firmware)
        if len(a) > 1:
            values[a[0]] = a[1]
        return _words(a[0], values.get(a[0], 0))

    return answer


_clock_rate = _by_id(lambda f: f.clocks)
_turbo = _by_id(lambda f: f.turbo)
_domain = _by_id(lambda f: f.domains)


def _clock_state(firmware: Firmware, a: Sequence[int]) -> bytes:
    return _words(a[0], 1 if a[0] in firmware.clocks else 2)


# tag -> words of request, answer
_TAGS: Mapping[int, tuple[int, _Answer]] = {
    0x0000_0001: (0, _fact(0x60000000)),
    0x0001_0001: (0, _fact(0)),
    0x0001_0002: (0, lambda f, a: _words(f.profile.revision)),
    0x0001_0003: (0, lambda f, a: bytes((0xB8, 0x27, 0xEB, 0xAD, 0xBE, 0xEF))),
    0x0001_0004: (0, lambda f, a: struct.pack("<Q", 0x10000000DEADBEEF)),
    0x0001_0005: (0, Firmware.arm_memory),
    0x0001_0006: (0, Firmware.vc_memory),
    0x0003_0001: (1, _clock_state),
    0x0003_8001: (2, _clock_state),
    0x0003_0002: (1, _clock_rate),
    0x0003_8002: (3, Firmware.set_clock_rate),
    0x0003_0004: (1, lambda f, a: _words(a[0], f.range(a[0])[1])),
    0x0003_0007: (1, lambda f, a: _words(a[0], f.range(a[0])[0])),
    0x0003_0047: (1, _clock_rate),
    0x0003_0003: (1, lambda f, a: _words(a[0], 1_200_000)),
    0x0003_0006: (1, lambda f, a: _words(a[0], 45_000)),
    0x0003_000A: (1, lambda f, a: _words(a[0], 85_000)),
    0x0003_0009: (1, _turbo),
    0x0003_8009: (2, _turbo),
    0x0003_0046: (0, _fact(0)),
    0x0003_000C: (3, Firmware.allocate),
    0x0003_000D: (1, Firmware.lock),
    0x0003_000E: (1, Firmware.unlock),
    0x0003_000F: (1, Firmware.release),
    0x0003_0011: (4, Firmware.execute_qpu),
    0x0003_0012: (1, Firmware.enable_qpu),
    0x0003_0030: (1, _domain),
    0x0003_8030: (2, _domain),
    0x0005_0001: (0, lambda f, a: b"console=tty1 root=/dev/mmcblk0p2 rootwait"),
    0x0006_0001: (0, _fact(0x7F35)),
}
