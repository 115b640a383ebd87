"""V3D registers of VideoCore IV through /dev/mem: identity, launches without the firmware, event counters."""

from __future__ import annotations

import enum
import errno
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from qpu.drivers.board import GENERATIONS, PERIPHERALS, tree_bytes
from qpu.drivers.counters import VC4_COUNTERS as COUNTERS
from qpu.drivers.errors_table import HELP, failure, fault
from qpu.drivers.port import Port, Registers
from qpu.drivers.vc4.mailbox import check_programs
from qpu.drivers.vc4.vcsm import MEM_ROWS
from qpu.errors import DriverError, GpuTimeoutError, UsageError, counted

__all__ = ["COUNTERS", "COUNTER_SLOTS", "QUEUE_DEPTH", "Ident", "Reg", "V3dRegisters", "block_address", "counter_index"]

BLOCK_SIZE = 0x1000
V3D_OFFSET = 0xC00000  # from the peripheral base (drivers.md 6.1)
MAGIC = 0x443356  # "V3D", bits 23:0 of IDENT0
QUEUE_DEPTH = 16
COUNTER_SLOTS = 16
CLEAR_QUEUE = 1 << 7 | 1 << 8 | 1 << 16  # SRQCS: error flag, request count, completed count
CLEAR_L2 = 4
CLEAR_SLICES = 0xFFFFFFFF
COUNTER_ENABLE = 1 << 31  # PCTRE: bit 31 must be set besides the mask (MEASURED, vc4.md 18.1)


class Reg(enum.IntEnum):
    """Offsets in bytes (vc4.md 18.1, MANUAL unless said otherwise there)."""

    IDENT0 = 0x000
    IDENT1 = 0x004
    IDENT2 = 0x008
    SCRATCH = 0x010
    L2CACTL = 0x020
    SLCACTL = 0x024
    INTCTL = 0x030
    INTENA = 0x034
    INTDIS = 0x038
    SQRSV0 = 0x410
    SQRSV1 = 0x414
    SQCNTL = 0x418
    SRQPC = 0x430
    SRQUA = 0x434
    SRQUL = 0x438
    SRQCS = 0x43C
    VPACNTL = 0x500
    VPMBASE = 0x504
    PCTRC = 0x670
    PCTRE = 0x674
    PCTR0 = 0x680  # counter n at +8n
    PCTRS0 = 0x684  # its source at +8n
    DBCFG = 0xE00
    DBQITE = 0xE2C
    DBQITC = 0xE30
    ERRSTAT = 0xF20


@dataclass(frozen=True, slots=True)
class Ident:
    """IDENT0 and IDENT1. vpm_size: bytes."""

    version: int
    revision: int
    slices: int
    qpus_per_slice: int
    tmus_per_slice: int
    semaphores: int
    vpm_size: int

    @classmethod
    def decode(cls, ident0: int, ident1: int) -> Ident:
        """Raises: DriverError when IDENT0 is not that of a powered V3D."""
        if ident0 & 0xFFFFFF != MAGIC:
            raise DriverError(
                f"V3D registers: IDENT0 reads 0x{ident0:08x}, not 0x02{MAGIC:06x}: V3D is powered off or not at this "
                f"address{HELP}enable the QPUs first",
                errno.ENODEV,
            )
        return cls(
            version=ident0 >> 24,
            revision=ident1 & 15,
            slices=ident1 >> 4 & 15,
            qpus_per_slice=ident1 >> 8 & 15,
            tmus_per_slice=ident1 >> 12 & 15,
            semaphores=ident1 >> 16 & 255,
            vpm_size=((ident1 >> 28) or 16) << 10,
        )


def block_address(port: Port, soc: str) -> int:
    """Physical address of the V3D block on the Arm side: from the device tree, else by SoC (drivers.md 6.1).

    Raises: UsageError for a SoC without VideoCore IV.
    """
    if GENERATIONS.get(soc) != 4:
        known = ", ".join(name for name, generation in GENERATIONS.items() if generation == 4)
        raise UsageError(
            f"{soc} has no VideoCore IV register block; allowed: {known}", help="use the DRM adapter on a Pi 4 or 5"
        )
    ranges = tree_bytes(port, "soc/ranges")
    base = struct.unpack_from(">I", ranges, 4)[0] if ranges is not None and len(ranges) >= 8 else 0
    return (base or PERIPHERALS[soc]) + V3D_OFFSET


def counter_index(name: str) -> int:
    """Number of a counter source. Raises: UsageError with the names that exist."""
    try:
        return COUNTERS.index(name)
    except ValueError:
        raise UsageError(
            f"no counter {name!r} on VideoCore IV; known: {', '.join(COUNTERS)}", help="use one of the known names"
        ) from None


def _busy(detail: str) -> DriverError:
    return fault("qpus-busy", "V3D registers: launch", errno.EBUSY, detail)


class V3dRegisters:
    """The mapped block. V3D must be powered (QPUs enabled) and used by this process only."""

    def __init__(self, port: Port, address: int) -> None:
        """Map the block. Raises: DriverError with cause and help."""
        self.port = port
        self.address = address
        self._closed = False
        self._counting = False
        try:
            self._registers = port.mmio(address, BLOCK_SIZE)
        except OSError as error:
            raise failure(f"V3D registers: /dev/mem at 0x{address:08x}", error, MEM_ROWS) from error

    @property
    def _open(self) -> Registers:
        if self._closed:
            raise UsageError("the V3D registers are closed", help="open the device again")
        return self._registers

    def read(self, reg: int) -> int:
        """One register, u32."""
        return self._open.read32(reg)

    def write(self, reg: int, value: int) -> None:
        """Write one register, u32."""
        self._open.write32(reg, value)

    def ident(self) -> Ident:
        """Identity of V3D. Raises: DriverError when V3D does not answer."""
        return Ident.decode(self.read(Reg.IDENT0), self.read(Reg.IDENT1))

    def close(self) -> None:
        """Unmap; idempotent."""
        if not self._closed:
            self._closed = True
            self._registers.close()

    # launches

    def clear_caches(self) -> None:
        """Clear L2 and the caches of every slice."""
        self.write(Reg.L2CACTL, CLEAR_L2)
        self.write(Reg.SLCACTL, CLEAR_SLICES)

    def start(self, entries: Sequence[tuple[int, int]], *, flush: bool = True) -> None:
        """Queue one program per (uniforms, code) pair, 1..16; the QPUs start at once.

        The count of completed programs has eight bits and is cleared here. Order as in vc4.md 18.2. Raises: DriverError
        EBUSY when programs of another process are queued or running.
        """
        check_programs(len(entries), QUEUE_DEPTH)
        self.check_idle()
        self.write(Reg.DBCFG, 0)  # no host interrupts: a program is complete when its thread ends
        self.write(Reg.DBQITE, 0)
        self.write(Reg.DBQITC, 0xFFFFFFFF)
        if flush:
            self.clear_caches()
        self.write(Reg.SRQCS, CLEAR_QUEUE)
        for uniforms, code in entries:
            self.write(Reg.SRQUA, uniforms)
            self.write(Reg.SRQPC, code)

    @property
    def powered(self) -> bool:
        """True when V3D answers: the QPUs are enabled."""
        return self.read(Reg.IDENT0) & 0xFFFFFF == MAGIC

    @property
    def idle(self) -> bool:
        """True when no program is queued or running."""
        status = self.read(Reg.SRQCS)
        return not status & 63 and not ((status >> 8) - (status >> 16)) & 255

    def check_idle(self) -> None:
        """Raise DriverError EBUSY when programs are queued or running: a launch would clear their process's count."""
        if not self.idle:
            raise _busy(f"programs of another process have not ended, SRQCS 0x{self.read(Reg.SRQCS):08x}")

    def completed(self, count: int) -> int:
        """Programs that ended since `start` queued `count` of them.

        Raises: DriverError EBUSY when the counts include programs of another process; GpuResetError when V3D was
        powered off.
        """
        status = self.read(Reg.SRQCS)
        done = status >> 16 & 255
        if status >> 7 & 1 or status >> 8 & 255 != count or done > count:
            if not self.powered:
                raise fault("powered-off", "V3D registers")
            raise _busy(f"programs were started or counts cleared during the launch, SRQCS 0x{status:08x}")
        return done

    def wait(self, count: int, timeout_s: float | None, *, check: Callable[[], None] | None = None) -> None:
        """Poll until `count` programs have ended. The hardware has no interrupt and no time limit for that.

        timeout_s: None waits for ever. check: called between polls; an exception that it raises ends the wait.
        Raises: GpuTimeoutError naming how many ended; they may still be running.
        """
        clock = self.port.monotonic
        deadline = None if timeout_s is None else clock() + timeout_s
        pause = 0.0
        while (done := self.completed(count)) != count:
            if check is not None:
                check()
            if deadline is not None:
                left = deadline - clock()
                if left <= 0:
                    raise GpuTimeoutError(
                        f"V3D registers: {done} of {counted(count, 'program')} ended within {timeout_s} s (ERRSTAT "
                        f"0x{self.read(Reg.ERRSTAT):08x}); the hardware has no time limit, so the others may still run"
                        f"{HELP}wait again on the same launch, or look for a program that never ends",
                        errno.ETIMEDOUT,
                    )
                pause = min(pause, left)
            if pause:
                self.port.sleep(pause)
            pause = min(0.001, pause + 0.00002)

    # counters

    @contextmanager
    def counters(self, names: Sequence[str]) -> Iterator[dict[str, int]]:
        """Count events while the block runs; the dictionary has the values, u32 each, when the block has ended.

        names: 1..16 of `COUNTERS`, each once. Raises: UsageError before anything is touched.
        """
        sources = [counter_index(name) for name in names]
        if not 1 <= len(sources) <= COUNTER_SLOTS or len(set(sources)) != len(sources):
            raise UsageError(
                f"{len(sources)} counters were asked for; allowed: 1..{COUNTER_SLOTS}, each once",
                help="name each counter once, and count more of them in several runs",
            )
        if self._counting:
            raise UsageError("counters are being read already on this device", help="name all counters in one block")
        self._counting = True
        values: dict[str, int] = {}
        try:
            with self._counted(sources):
                yield values
                for slot, name in enumerate(names):
                    values[name] = self.read(Reg.PCTR0 + 8 * slot)
        finally:
            self._counting = False

    @contextmanager
    def _counted(self, sources: Sequence[int]) -> Iterator[None]:
        """Count `sources` in the first slots, from zero, while the block runs."""
        for slot, source in enumerate(sources):
            self.write(Reg.PCTRS0 + 8 * slot, source)
        self.write(Reg.PCTRC, (1 << COUNTER_SLOTS) - 1)
        self.write(Reg.PCTRE, COUNTER_ENABLE | (1 << len(sources)) - 1)
        try:
            yield
        finally:
            if not self._closed:
                self.write(Reg.PCTRE, 0)
