"""/dev/mem of an emulated board: the firmware's memory and the V3D register block (drivers.md 6, vc4.md 18)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

from qpu.core.isa import Isa
from qpu.drivers.counters import COUNTERS, VC4_COUNTERS
from qpu.emu.boards import BoardProfile
from qpu.emu.engine.machine import RunStats, Vc4Execution
from qpu.emu.linux.core import NS, Linux, OpenFile, RegisterBlock, Run, Span, fail, fail_if
from qpu.emu.linux.events import count_event
from qpu.emu.linux.gpu_jobs import Vc4Gpu
from qpu.emu.linux.heap import Heap
from qpu.emu.linux.identity import v3d_identity
from qpu.errors import EmuFault

__all__ = ["Mem", "MemFile", "V3dRegisters", "Vc4Registers"]

POWERED_OFF = 0xDEADBEEF  # the value of registers of VideoCore IV while V3D is off (drivers.md 6.1)
BLOCK = 0x1000  # bytes of the V3D block of VideoCore IV
QUEUE_DEPTH = 16
FIRST_POLL_NS = 20_000  # emulated time that a read of a status register takes; doubled at each read
LAST_POLL_NS = NS // 50
U32 = 0xFFFFFFFF


class EventCounters:
    """Performance counters that registers show. Each of the `slots` has a source, and counts while it is enabled."""

    def __init__(self, slots: int, count: Callable[[int], int]) -> None:
        self._count = count
        self.source = [0] * slots
        self._base = [0] * slots  # value when counting last stopped
        self._since = [0] * slots  # count of the source when counting began
        self.enabled = 0  # one bit for each slot

    def value(self, slot: int) -> int:
        """The counter in `slot`, u32."""
        value = self._base[slot]
        if self.enabled >> slot & 1:
            value += self._count(self.source[slot]) - self._since[slot]
        return value & U32

    def enable(self, mask: int) -> None:
        """Count in the slots of `mask` only."""
        for slot in range(len(self.source)):
            was, now = self.enabled >> slot & 1, mask >> slot & 1
            if was and not now:
                self._base[slot] = self.value(slot)
            elif now and not was:
                self._since[slot] = self._count(self.source[slot])
        self.enabled = mask & (1 << len(self.source)) - 1

    def clear(self, mask: int) -> None:
        """Set the counters of `mask` to 0."""
        for slot in range(len(self.source)):
            if mask >> slot & 1:
                self._base[slot] = 0
                self._since[slot] = self._count(self.source[slot])

    def select(self, slot: int, source: int) -> None:
        """Count another event in a slot."""
        self._base[slot] = self.value(slot)
        self.source[slot] = source
        self._since[slot] = self._count(source)


_RECENT = 64  # runs


class Totals:
    """Event counts of all runs of a board so far."""

    def __init__(self, profile: BoardProfile) -> None:
        self._profile = profile
        self._sum = RunStats(profile.isa)
        self._recent: list[RunStats] = []  # runs that are not in the sum yet
        self.clocks = 0

    def add(self, stats: RunStats, clocks: int) -> None:
        """Add a run that has ended."""
        self._recent.append(stats)
        if len(self._recent) > _RECENT:
            self._settle()
        self.clocks += clocks

    def _settle(self) -> None:
        self._sum = RunStats.total((self._sum, *self._recent))
        self._sum.faults.clear()
        self._recent.clear()

    def count(self, name: str, running: RunStats | None = None, clocks: int = 0) -> int:
        """How often the event happened. running, clocks: of a run that has not ended."""
        if self._recent:
            self._settle()
        stats = self._sum if running is None else RunStats.total((self._sum, running))
        return count_event(name, stats, self.clocks + clocks, self._profile)


class Vc4Registers:
    """The V3D block of VideoCore IV: identity, launches by SRQPC, counters.

    QPUs take queued programs as soon as they are free. Emulated time passes only while the program polls the status, so
    programs that are queued before the first poll start together.
    """

    def __init__(self, linux: Linux, gpu: Vc4Gpu) -> None:
        self.linux = linux
        self.gpu = gpu
        p = linux.profile
        # 3:0 revision, 7:4 slices, 11:8 QPUs, 15:12 TMUs, 23:16 semaphores, 31:28 VPM KiB; the VPM has 12 KiB.
        ident1 = 1 | p.slices << 4 | p.qpus_per_slice << 8 | p.tmus_per_slice << 12 | 16 << 16 | 12 << 28
        self._fixed = {0x000: 0x02443356, 0x004: ident1, 0x008: 0x00000A20, 0xF20: 0}
        self._reset()
        self._running: Vc4Execution | None = None
        self._seen = 0  # programs of the running launch that are already counted as completed
        self._launched = 0  # programs of the running launch
        self._interrupts = 0
        self._poll_ns = FIRST_POLL_NS
        self._queued_ns = 0  # when the last program was queued
        self._run = Run()  # identity of the programs that wait or run
        self._reported: Vc4Execution | None = None  # the execution whose deadlock was reported in a lenient run
        self._fault: EmuFault | None = None  # fault of a `step`; the next read of the status raises it
        self.totals = Totals(p)
        self.counters = EventCounters(16, self._events)
        gpu.finished.append(self._ended)
        gpu.on_power_off.append(self._reset)

    def _reset(self) -> None:
        """Set the registers to their values after V3D was powered off and on (ASSUMED: nothing survives)."""
        self._stored = {
            **dict.fromkeys((0x010, 0x030, 0x034, 0x038, 0x410, 0x414, 0x418, 0x434, 0x500, 0x504, 0xE00, 0xE2C), 0),
            0x438: U32,
        }
        self._waiting: list[tuple[int, int]] = []
        self._made = 0
        self._completed = 0
        self._overflow = False

    def _events(self, source: int) -> int:
        name = VC4_COUNTERS[source]
        active = self.gpu.active
        if active is None:
            return self.totals.count(name)
        return self.totals.count(name, active.stats, active.clocks)

    def _ended(self, execution: Vc4Execution) -> None:
        self.totals.add(execution.stats, execution.clocks)
        if execution is self._running:
            self._take(execution)
            self._running = None

    def _take(self, execution: Vc4Execution) -> None:
        self._completed += execution.batches_done - self._seen
        self._seen = execution.batches_done
        if execution.host_interrupts:
            self._interrupts |= self._stored[0xE2C] & 0xFFFF

    def _poll(self) -> None:
        """Advance emulated time, because the program reads the status."""
        gpu = self.gpu
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault
        clock = self.linux.clock
        until = clock.now_ns + self._poll_ns
        busy = gpu.active is not None or bool(self._waiting)
        while True:
            if gpu.active is None:
                if not self._waiting:
                    break
                entries, self._waiting = self._waiting, []
                self._reserved()
                self._running, self._seen, self._launched = None, 0, len(entries)
                self._running = gpu.launch(entries, self._run)
                self._running.open_ended = True
            elif self._running is gpu.active and self._waiting:
                self._running.extend(self._waiting)
                self._launched += len(self._waiting)
                self._waiting = []
            idle = gpu.run(until)
            if self._running is not None:
                self._take(self._running)
            if not idle:
                break
            clock.reach(min(gpu.now_ns, until))
        if busy:
            if gpu.active is not None:
                clock.reach(until)
            self._poll_ns = min(LAST_POLL_NS, 2 * self._poll_ns)
        self._report_hung()

    def _report_hung(self) -> None:
        """Report a deadlock, after a second in which no program was queued that could release the others."""
        gpu, running = self.gpu, self._running
        if running is None or running.hung is None or self.linux.clock.now_ns - self._queued_ns < NS:
            return
        if self.linux.strict:
            gpu.abandon()
            raise running.hung
        if running is not self._reported:
            self._reported = running
            self.linux.warn(str(running.hung))

    def step(self) -> bool:
        """Run a slice although nothing reads the status; False when there is nothing to do."""
        if self._fault is not None or (self._running is None and not self._waiting):
            return False
        if self._running is not None and self._running.hung is not None and not self._waiting:
            return False
        try:
            self._poll()
        except EmuFault as fault:
            self._fault = fault
        return True

    def _reserved(self) -> None:
        if (self._stored[0x410] | self._stored[0x414]) & 0x11111111:
            raise self.linux.not_modelled("reserving QPUs (SQRSV0, SQRSV1, bit 0 of a field)")

    def read(self, offset: int) -> int:
        """A register."""
        gpu = self.gpu
        if not gpu.enabled and not self.linux.profile.kms:
            return POWERED_OFF
        if offset in self._fixed:
            return self._fixed[offset]
        if offset == 0x43C:
            self._poll()
            overflow = int(self._overflow) << 7
            return (self._completed & 255) << 16 | (self._made & 255) << 8 | overflow | self._queued()
        if offset == 0xE30:
            self._poll()
            return self._interrupts
        if offset in (0x020, 0x024, 0x670, 0x430):
            return 0
        if offset == 0x674:
            return self.counters.enabled | (1 << 31 if self.counters.enabled else 0)
        if 0x680 <= offset < 0x700:
            slot = (offset - 0x680) // 8
            return self.counters.source[slot] if offset & 4 else self.counters.value(slot)
        if offset in self._stored:
            return self._stored[offset]
        raise self.linux.not_modelled(f"V3D register 0x{offset:03x}")

    def write(self, offset: int, value: int) -> None:
        """Set a register."""
        gpu = self.gpu
        if not gpu.enabled and not self.linux.profile.kms:
            return  # powered off
        if offset == 0x430:
            self._launch(value)
        elif offset == 0x43C:
            self._control(value)
        elif offset == 0xE30:
            self._interrupts &= ~value
        elif offset in (0x020, 0x024):
            pass  # the emulated caches are coherent with memory
        elif offset == 0x670:
            self.counters.clear(value)
        elif offset == 0x674:
            self.counters.enable(value if value >> 31 else 0)
        elif 0x680 <= offset < 0x700:
            slot = (offset - 0x680) // 8
            if offset & 4:
                if not 0 <= value < len(VC4_COUNTERS):
                    raise self.linux.not_modelled(f"V3D performance counter source {value}")
                self.counters.select(slot, value)
            else:
                self.counters.clear(1 << slot)
        elif offset in self._stored:
            self._stored[offset] = value
        elif offset not in self._fixed:
            raise self.linux.not_modelled(f"V3D register 0x{offset:03x}")

    def _queued(self) -> int:
        """Programs that no QPU has started."""
        queued = len(self._waiting)
        if self._running is not None:
            queued += self._launched - self._running.stats.threads
        return queued

    def _room(self) -> int:
        """Programs that can still be queued: 16, and one more for each free QPU, which would start it at once."""
        qpus = self.linux.profile.qpus
        active = self.gpu.active
        free = qpus if active is None else max(0, qpus - (active.stats.threads - active.batches_done))
        return QUEUE_DEPTH + free - self._queued()

    def _launch(self, code: int) -> None:
        if self.linux.profile.kms:
            raise EmuFault(
                "kms-owns-v3d",
                "a program was started by register (SRQPC) while a driver of Linux owns V3D",
                help="disable the vc4-kms driver; for an emulated board, remove the option kms=1",
            )
        self._made += 1
        if self._room() <= 0:
            self._overflow = True
            return
        if not self._waiting and self._running is None:
            self._run = Run()
        self.linux.submitted.run = self._run
        uniforms = self._stored[0x434] if self._stored[0x438] else 0
        self._waiting.append((uniforms, code))
        self._queued_ns = self.linux.clock.now_ns
        self.linux.wake()
        self._poll_ns = FIRST_POLL_NS

    def _control(self, value: int) -> None:
        if value & 1:
            self._waiting.clear()
            if self._running is not None:
                self._launched -= self._running.withdraw()
        if value >> 7 & 1:
            self._overflow = False
        if value >> 8 & 1:
            self._made = 0
        if value >> 16 & 1:
            self._completed = 0


class V3dRegisters:
    """The identity and counter registers of V3D 4.2 and 7.1. Launches use DRM instead.

    The offsets of the identity registers are those of Linux's driver, `Basis.DRIVER`.
    """

    SLOTS = 32

    def __init__(self, linux: Linux) -> None:
        self.linux = linux
        self.totals = Totals(linux.profile)
        self.counters = EventCounters(self.SLOTS, self._events)

    def _events(self, source: int) -> int:
        names = COUNTERS[self.linux.profile.isa]
        return self.totals.count(names[source]) if source < len(names) else 0

    def read_hub(self, offset: int) -> int:
        """A register of the hub."""
        param = {0x004: 0, 0x00C: 1, 0x010: 2, 0x014: 3}.get(offset)
        if param is None:
            raise self.linux.not_modelled(f"V3D hub register 0x{offset:03x}")
        return v3d_identity(self.linux.profile)[param]

    def read(self, offset: int) -> int:
        """A register of the core."""
        if offset in (0x000, 0x004, 0x008):
            return v3d_identity(self.linux.profile)[4 + offset // 4]
        if offset == 0x650:
            return self.counters.enabled
        if offset in (0x654, 0x658):
            return 0
        if 0x660 <= offset < 0x680:
            first = offset - 0x660
            return sum(self.counters.source[first + i] << 8 * i for i in range(4))
        if 0x680 <= offset < 0x700:
            return self.counters.value((offset - 0x680) // 4)
        raise self.linux.not_modelled(f"V3D core register 0x{offset:03x}")

    def write(self, offset: int, value: int) -> None:
        """Set a register of the core."""
        if offset == 0x650:
            self.counters.enable(value)
        elif offset == 0x654:
            self.counters.clear(value)
        elif offset == 0x658:
            pass  # overflow flags: the emulated counters do not overflow within a job
        elif 0x660 <= offset < 0x680:
            width = 0x7F if self.linux.profile.isa is Isa.V3D42 else 0xFF
            for i in range(4):
                self.counters.select(offset - 0x660 + i, value >> 8 * i & width)
        else:
            raise self.linux.not_modelled(f"writing V3D core register 0x{offset:03x}")


class PhysicalRegisters(RegisterBlock):
    """A map of physical register space."""

    def __init__(self, mem: Mem, base: int, size: int) -> None:
        super().__init__(base, size)
        self._mem = mem

    def _address(self, offset: int) -> int:
        if offset % 4 or not 0 <= offset <= self.size - 4:
            raise ValueError(f"register offset {offset:#x}; allowed: multiples of 4 below {self.size:#x}")
        return self.base + offset

    def read32(self, offset: int) -> int:
        """The register at `offset` bytes from the start of the map."""
        return self._mem.read32(self._address(offset))

    def write32(self, offset: int, value: int) -> None:
        """Set the register at `offset` to a u32."""
        if not 0 <= value <= U32:
            raise ValueError(f"register value {value:#x}; allowed: 0..0xffffffff")
        self._mem.write32(self._address(offset), value)


# First physical address, bytes, functions that read and write a register by offset (None: not modelled).
Block = tuple[int, int, Callable[[int], int], "Callable[[int, int], None] | None"]


class Mem:
    """The physical addresses that /dev/mem can map."""

    def __init__(self, linux: Linux, gpu: Vc4Gpu | None, heap: Heap | None) -> None:
        self.linux = linux
        self.heap = heap
        p = linux.profile
        if p.is_drm:
            v3d = V3dRegisters(linux)
            linux.counters.append(v3d.totals.add)
            hub = 0xFEC0_0000 if p.isa is Isa.V3D42 else 0x10_0200_0000
            self._blocks: list[Block] = [(hub, 0x4000, v3d.read_hub, None), (p.v3d_base, 0x4000, v3d.read, v3d.write)]
            first, size = {Isa.V3D42: (p.peripheral_base, 0x0180_0000)}.get(p.isa, (0x10_0000_0000, 0x1_0000_0000))
        else:
            assert gpu is not None
            vc4 = Vc4Registers(linux, gpu)
            linux.steppers.append(vc4.step)
            self._blocks = [(p.v3d_base, BLOCK, vc4.read, vc4.write)]
            first, size = p.peripheral_base, 0x0100_0000
        self._first, self._end = first, first + size
        linux.openers["mem"] = partial(MemFile, self)

    def registers(self, base: int, size: int) -> RegisterBlock | None:
        """A map of [base, base + size) if that is register space; else None."""
        if self._first <= base and base + size <= self._end and size > 0:
            return PhysicalRegisters(self, base, size)
        return None

    def read32(self, address: int) -> int:
        """A device register by physical address."""
        for first, size, read, _ in self._blocks:
            if first <= address < first + size:
                return read(address - first)
        raise self.linux.not_modelled(f"the device register at physical address 0x{address:x}")

    def write32(self, address: int, value: int) -> None:
        """Set a device register by physical address."""
        for first, size, _, write in self._blocks:
            if first <= address < first + size and write is not None:
                write(address - first, value)
                return
        raise self.linux.not_modelled(f"writing the device register at physical address 0x{address:x}")


class MemFile(OpenFile):
    """An open /dev/mem of a Linux with STRICT_DEVMEM: peripherals and the firmware's memory, but not ordinary RAM."""

    label = "mem"

    def __init__(self, mem: Mem, path: str) -> None:
        super().__init__(mem.linux, path)
        self._mem = mem

    def mmap(self, size: int, offset: int) -> Span | RegisterBlock:
        """Map physical addresses from `offset`."""
        fail_if(size <= 0 or offset % self.linux.profile.page_size, errno.EINVAL)
        fail_if(not self.writable, errno.EACCES)
        registers = self._mem.registers(offset, size)
        if registers is not None:
            return registers
        heap = self._mem.heap
        if heap is not None and heap.holds(offset, size):
            return Span(offset, size, lambda: None)
        raise fail(errno.EPERM)
