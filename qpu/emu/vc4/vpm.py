"""The VPM unit of VideoCore IV for the reference engine: set-up registers, FIFOs, and DMA between VPM and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.vc4.faults import Level, Reporter
from qpu.emu.vc4.state import BUS_MASK, CLOCKS_PER_INSTRUCTION, Group, Vector
from qpu.emu.vc4.vpm_setup import (
    Concern,
    GenericSetup,
    LoadPitch,
    LoadSetup,
    ReadSetup,
    StoreSetup,
    StoreStride,
    Vpm,
    WriteSetup,
    load_geometry,
    parse_read_setup,
    parse_write_setup,
    store_geometry,
    unused_bits,
)

__all__ = ["LOAD_BUSY", "STORE_BUSY", "Port", "Setups", "VpmUnit"]

# Instructions from the start of a DMA transfer until its busy flag clears. Real times depend on the memory; at least 6
# and 10 were reported. `Basis.ASSUMED`: nothing but the busy flags depends on these numbers.
LOAD_BUSY, STORE_BUSY = 8, 12


S = TypeVar("S", bound=ReadSetup | WriteSetup)
Read: TypeAlias = tuple[GenericSetup, int, int]
Setups: TypeAlias = tuple[
    Read | None,
    Read | None,
    tuple[GenericSetup, int] | None,
    LoadSetup | None,
    int | None,
    StoreSetup | None,
    StoreStride,
]


class Port:
    """The VPM and DMA set-ups of one QPU. `read` and `queued` hold (set-up, next address, vectors left)."""

    __slots__ = ("load", "load_until", "pitch", "queued", "read", "store", "store_until", "stride", "write")

    def __init__(self) -> None:
        self.read: Read | None = None
        self.queued: Read | None = None
        self.write: tuple[GenericSetup, int] | None = None
        self.load: LoadSetup | None = None
        self.pitch: int | None = None
        self.store: StoreSetup | None = None
        self.stride = StoreStride(0, False)  # programs that never set it rely on 0; `Basis.ASSUMED`
        self.load_until = self.store_until = 0  # emulated clock at which the busy flag clears

    @property
    def setups(self) -> Setups:
        """All set-ups, without the busy times."""
        return self.read, self.queued, self.write, self.load, self.pitch, self.store, self.stride


class VpmUnit:
    """VPM accesses of all QPUs.

    A DMA transfer is complete as soon as it starts. Vectors of a generic read are read from the VPM when the program
    pops them; hardware fetches them some time between set-up and pop.
    """

    __slots__ = ("_faults", "_memory", "_stats", "ports", "vpm")

    def __init__(self, n: int, memory: Memory, stats: RunStats, faults: Reporter, vpm: Vpm) -> None:
        self._memory = memory
        self._stats = stats
        self._faults = faults
        self.vpm = vpm
        self.ports = [Port()] * n  # `reset` makes one for each QPU that starts a program

    def reset(self, q: int) -> None:
        """A program starts on QPU `q`."""
        self.ports[q] = Port()

    def unread(self, q: int) -> int:
        """Vectors of generic reads that QPU `q` has not popped."""
        port = self.ports[q]
        return sum(entry[2] for entry in (port.read, port.queued) if entry is not None)

    # -- set-up
    def setup_read(self, g: Group, value: Vector) -> None:
        """A write to address 49, file A."""
        for i, port, setup in self._setups(g, value, "read", parse_read_setup):
            if isinstance(setup, LoadPitch):
                port.pitch = setup.pitch
            elif isinstance(setup, LoadSetup):
                port.load = setup
            else:
                self._start_read(g, i, port, setup)

    def setup_write(self, g: Group, value: Vector) -> None:
        """A write to address 49, file B."""
        for i, port, setup in self._setups(g, value, "write", parse_write_setup):
            if isinstance(setup, StoreStride):
                port.stride = setup
            elif isinstance(setup, StoreSetup):
                port.store = setup
            else:
                self._check_row(g, i, setup)
                port.write = (setup, setup.address)

    def _setups(self, g: Group, value: Vector, what: str, parse: Callable[[int], S]) -> Iterator[tuple[int, Port, S]]:
        """The members whose set-up word is valid; reports invalid words, and bits without a meaning."""
        for i, q in enumerate(g.ids):
            word = int(value[i, 0])
            try:
                setup = parse(word)
            except ValueError as error:
                self._faults.report(Level.UNKNOWN, "vpm-setup", f"VPM {what} setup {error}", g, i)
                continue
            unused = unused_bits(word, setup)
            if unused:
                text = f"VPM {what} setup 0x{word:08x}: bits 0x{unused:08x} have no meaning; emulated as if they were 0"
                self._faults.report(Level.UNKNOWN, "vpm-setup", text, g, i)
            yield i, self.ports[q], setup

    def _start_read(self, g: Group, i: int, port: Port, setup: GenericSetup) -> None:
        self._check_row(g, i, setup)
        left = self.unread(g.ids[i])
        entry = (setup, setup.address, setup.num)
        if left > 1:
            # Measured (vc4.md 14.2); the guide says that two set-ups may be queued.
            text = f"VPM read setup while {left} vectors of the last one are unread: hardware ignores it"
            self._faults.report(Level.WARN, "H25", text, g, i)
        elif left == 1 and port.queued is None:
            port.queued = entry
        else:
            port.read = entry

    def _check_row(self, g: Group, i: int, setup: GenericSetup) -> None:
        limit = 64 << (2 - setup.size)
        if setup.address >= limit:
            text = f"VPM address {setup.address} is past row 63 (limit {limit - 1}); emulated as wrapping round"
            self._faults.report(Level.WARN, "vpm-row", text, g, i)

    def _set_up(self, g: Group, name: str, text: str, file: str) -> Iterator[tuple[int, Port, Any]]:
        """The members that have this set-up; reports the others."""
        for i, q in enumerate(g.ids):
            setup = getattr(self.ports[q], name)
            if setup is not None:
                yield i, self.ports[q], setup
            else:
                self._faults.report(Level.UNKNOWN, "vpm-no-setup", f"{text} (address 49, file {file})", g, i)

    # -- generic access
    def read(self, g: Group) -> Vector:
        """Pop one vector for each member, shape (members, 16)."""
        out = np.empty((g.n, 16), np.uint32)
        for i, q in enumerate(g.ids):
            port = self.ports[q]
            if port.read is None:
                text = "VPM read with no vector left to read: the QPU would wait forever"
                self._faults.report(Level.STOP, "vpm-empty", text, g, i)
                raise AssertionError("unreachable")
            setup, address, left = port.read
            out[i] = self.vpm.read(setup, address)
            self._stats.vpm_read_bytes += 16 << setup.size
            if left > 1:
                port.read = (setup, (address + setup.stride) & 255, left - 1)
            else:
                port.read, port.queued = port.queued, None
        return out

    def write(self, g: Group, value: Vector) -> None:
        """Store one vector for each member, in the order of QPU numbers."""
        for i, port, (setup, address) in self._set_up(g, "write", "VPM write before any VPM write setup", "B"):
            if not self.vpm.write(setup, address, value[i]):
                self._reserved(g, i)
            self._stats.vpm_write_bytes += 16 << setup.size
            port.write = (setup, (address + setup.stride) & 255)

    def _reserved(self, g: Group, i: int) -> None:
        text = f"VPM write past the {self.vpm.reserved} rows reserved for user programs: dropped"
        self._faults.report(Level.WARN, "vpm-reserved", text, g, i)

    # -- DMA
    def start_load(self, g: Group, value: Vector) -> None:
        """A write to address 50, file A: memory to VPM."""
        for i, port, setup in self._set_up(g, "load", "DMA load started before any DMA load setup", "A"):
            pitch = 8 << setup.mpitch if setup.mpitch else port.pitch
            if setup.rows == 1:
                pitch = 0  # one row needs no pitch: such loads work although no pitch was ever written (vc4.md 14.3)
            if pitch is None:
                text = "DMA load of several rows with MPITCH 0 before the extended pitch was set"
                self._faults.report(Level.UNKNOWN, "vpm-no-setup", text, g, i)
                continue
            geometry = load_geometry(setup)
            self._concerns(g, i, geometry.concerns)
            values = self._fetch(g, i, int(value[i, 0]), geometry.cells.shape, pitch, setup.width)
            if not self.vpm.load(geometry.cells, setup.width, values):
                self._reserved(g, i)
            self._stats.dma_read_bytes += values.size * setup.width
            port.load_until = g.clock(i) + LOAD_BUSY * CLOCKS_PER_INSTRUCTION

    def start_store(self, g: Group, value: Vector) -> None:
        """A write to address 50, file B: VPM to memory."""
        for i, port, setup in self._set_up(g, "store", "DMA store started before any DMA store setup", "B"):
            geometry = store_geometry(setup, port.stride.blockmode)
            self._concerns(g, i, geometry.concerns)
            values = self.vpm.fetch(geometry.cells, setup.width)
            pitch = 0 if setup.units == 1 else setup.depth * setup.width + port.stride.stride
            self._put(g, i, int(value[i, 0]), values, pitch, setup.width)
            self._stats.dma_write_bytes += values.size * setup.width
            port.store_until = g.clock(i) + STORE_BUSY * CLOCKS_PER_INSTRUCTION

    def load_busy(self, g: Group) -> Vector:
        """Reading address 49, file A: 1 while the member's load is in progress."""
        return self._busy(g, [self.ports[q].load_until for q in g.ids])

    def store_busy(self, g: Group) -> Vector:
        """Reading address 49, file B: 1 while the member's store is in progress."""
        return self._busy(g, [self.ports[q].store_until for q in g.ids])

    def wait_load(self, g: Group) -> None:
        """Reading address 50, file A: wait for the load. This takes no emulated time: DMA times are not modelled."""
        for q in g.ids:
            self.ports[q].load_until = 0

    def wait_store(self, g: Group) -> None:
        """Reading address 50, file B: wait for the store, without emulated time as in `wait_load`."""
        for q in g.ids:
            self.ports[q].store_until = 0

    @staticmethod
    def _busy(g: Group, until: list[int]) -> Vector:
        flags = np.array([g.clock(i) < t for i, t in enumerate(until)], np.uint32)
        return np.repeat(flags[:, None], 16, axis=1)

    def _concerns(self, g: Group, i: int, concerns: tuple[Concern, ...]) -> None:
        for c in concerns:
            self._faults.report(Level.UNKNOWN if c.fatal else Level.WARN, c.rule, c.message, g, i)

    def _block(self, word: int, shape: tuple[int, ...], pitch: int, width: int) -> NDArray[np.unsignedinteger] | None:
        """The elements of a DMA block in memory, as a view; None when they are not aligned or not all in one buffer."""
        address = word & BUS_MASK
        rows, columns = shape
        last = address + (rows - 1) * pitch + columns * width - 1
        memory = self._memory
        if address % width or pitch % width or not memory.owns(address, last + 1 - address):
            return None
        return np.ndarray(shape, f"<u{width}", memory.bytes, address, (pitch, width))

    def _rows(
        self, g: Group, i: int, word: int, shape: tuple[int, ...], pitch: int, width: int, what: str
    ) -> tuple[NDArray[np.int64], bool]:
        """Byte address of every element, shape (rows, columns), and whether all are multiples of the width."""
        address = word & BUS_MASK
        rows, columns = shape
        start = address + np.arange(rows, dtype=np.int64) * pitch
        length = columns * width
        legal = self._memory.legal((start & 0xFFFFFFFF).astype(np.uint32), length)
        if not legal.all():
            bad = int(start[int(np.flatnonzero(~legal)[0])])
            if self._memory.owns(bad, 1):  # the row starts inside a buffer and leaves it
                region = self._memory.region_at(bad)
                assert region is not None
                bad = min(region.last + 1, bad + length - 1)
            raise self._faults.out_of_bounds(what, bad, g, i)
        aligned = not (address % width or pitch % width)
        if not aligned:
            text = f"{what}: address 0x{address:08x} or pitch {pitch} is not a multiple of the element size {width}"
            self._faults.report(Level.UNKNOWN, "dma-misaligned", text, g, i, address=address)
        return start[:, None] + np.arange(columns, dtype=np.int64) * width, aligned

    def _fetch(self, g: Group, i: int, word: int, shape: tuple[int, ...], pitch: int, width: int) -> NDArray[np.uint32]:
        memory = self._memory
        block = self._block(word, shape, pitch, width)
        if block is not None:
            return block.astype(np.uint32)
        at, aligned = self._rows(g, i, word, shape, pitch, width, "DMA load")
        if aligned:
            values: NDArray[np.uint32] = memory.bytes.view(f"<u{width}")[at // width].astype(np.uint32)
            return values
        total = np.zeros(shape, np.uint32)
        for byte in range(width):
            total |= memory.bytes[at + byte].astype(np.uint32) << np.uint32(8 * byte)
        return total

    def _put(self, g: Group, i: int, word: int, values: NDArray[np.uint32], pitch: int, width: int) -> None:
        memory = self._memory
        block = self._block(word, values.shape, pitch, width)
        if block is not None:  # rows do not overlap: the stride counts from the end of the row before
            block[...] = values
            return
        at, aligned = self._rows(g, i, word, values.shape, pitch, width, "DMA store")
        if aligned:
            view = memory.bytes.view(f"<u{width}")
            view[at // width] = values.astype(view.dtype)
            return
        for byte in range(width):
            memory.bytes[at + byte] = (values >> np.uint32(8 * byte)).astype(np.uint8)
