"""The VPM under the sanitizer: rows in use by a DMA transfer, rows that were never written, and their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.debug.defined import Origin
from qpu.debug.findings import Finding
from qpu.debug.shadow import Epochs, Ints
from qpu.debug.watcher_vc4 import Watcher
from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.vc4.faults import Reporter
from qpu.emu.vc4.state import BUS_MASK, Group, Vector
from qpu.emu.vc4.vpm import Port, VpmUnit
from qpu.emu.vc4.vpm_setup import COLUMNS, ROWS, GenericSetup, Vpm, generic_cells, load_geometry, store_geometry
from qpu.errors import FaultPlace

__all__ = ["WatchedVpm"]

Mask: TypeAlias = NDArray[np.bool_]
_WORDS = ROWS * COLUMNS


@dataclass(slots=True)
class _Transfer:
    """A DMA transfer that nobody has waited for. words: of the VPM. at, size: memory. harmless: elements of a store
    that do not change memory."""

    place: FaultPlace
    index: int
    words: Mask
    at: Ints
    size: int
    harmless: Mask


class WatchedVpm(VpmUnit):
    """The VPM unit with accesses observed."""

    __slots__ = ("_cells", "_good", "_loads", "_origins", "_stores", "watcher")

    def __init__(self, n: int, memory: Memory, stats: RunStats, faults: Reporter, vpm: Vpm, watcher: Watcher) -> None:
        super().__init__(n, memory, stats, faults, vpm)
        self.watcher = watcher
        self._good: Mask = np.zeros(_WORDS, np.bool_)
        self._origins: dict[int, Origin] = {}  # row -> why its words have no value
        self._cells = Epochs(_WORDS, watcher.clocks)
        self._loads: dict[int, _Transfer] = {}  # QPU -> transfer to the VPM
        self._stores: dict[int, _Transfer] = {}

    # -- checks

    @staticmethod
    def _words(setup: GenericSetup, address: int) -> NDArray[np.intp]:
        return generic_cells(setup.size, setup.laned, setup.horizontal, address) >> (2 - setup.size)

    def _in_use(self, g: Group, i: int, words: NDArray[np.intp], what: str, transfers: dict[int, _Transfer]) -> None:
        """Report words that a transfer may still use."""
        if not self.watcher.race:
            return
        for q, transfer in transfers.items():
            hit = transfer.words[words]
            if hit.any():
                lane = int(np.flatnonzero(hit)[0])
                kind = "load" if transfers is self._loads else "store"
                row, column = divmod(int(words[lane]), COLUMNS)
                text = f"{what} row {row}, column {column} of the VPM, while a DMA {kind} of QPU {q} may still use it"
                place = self.watcher.place(g, i, lane & 15)
                self.watcher.report(Finding("race", "dma-race", text, place, transfer.place))

    def in_flight(self, g: Group, i: int, at: Ints) -> None:
        """A TMU load of a member: report memory that its own DMA store may still change."""
        transfer = self._stores.get(g.ids[i])
        if transfer is None or not self.watcher.race:
            return
        hit = np.isin(at & ~3, transfer.at & ~3)
        if hit.any():
            lane = int(np.flatnonzero(hit)[0])
            text = f"load of {self.watcher.memory.where(int(at[lane]))}, while the DMA store to it may still run"
            self.watcher.report(Finding("race", "dma-race", text, self.watcher.place(g, i, lane), transfer.place))

    def _ordered(self, g: Group, i: int, words: NDArray[np.intp], write: bool) -> None:
        watcher = self.watcher
        if not watcher.race:
            return
        cells: Ints = words
        threads = np.full(len(cells), g.ids[i], np.int64)
        places = np.uint32(g.index(i) << 4) | (np.arange(len(cells), dtype=np.uint32) & np.uint32(15))
        if write:
            found = self._cells.store(cells, threads, places, np.zeros(len(cells), np.bool_))
        else:
            found = self._cells.load(cells, threads, places)
        if found is not None:

            def text(n: int) -> str:
                row, column = divmod(int(words[n]), COLUMNS)
                return f"row {row}, column {column} of the VPM (it holds 0x{int(self.vpm.words[words[n]]):08x})"

            watcher.conflict(g, i, found, text, write=write)

    # -- accesses by the QPU

    def _start_read(self, g: Group, i: int, port: Port, setup: GenericSetup) -> None:
        super()._start_read(g, i, port, setup)
        for k in range(setup.num):  # hardware may fetch the vectors from now on
            words = self._words(setup, (setup.address + k * setup.stride) & 255)
            self._in_use(g, i, words, "reads", self._loads)

    def read(self, g: Group) -> Vector:
        """See `VpmUnit.read`."""
        watcher = self.watcher
        entries = [self.ports[q].read for q in g.ids]
        values = super().read(g)
        for i, entry in enumerate(entries):
            assert entry is not None
            words = self._words(entry[0], entry[1])
            self._in_use(g, i, words, "reads", self._loads)
            self._ordered(g, i, words, False)
            good = self._good[words]
            if not good.all():
                if watcher.taken is None:
                    watcher.taken = np.ones((g.n, 16), np.bool_)
                watcher.taken[i] = good
                row = int(words[int(np.flatnonzero(~good)[0])]) // COLUMNS
                watcher.origin = self._origins.get(row, (f"row {row} of the VPM", g.index(i)))
        return values

    def write(self, g: Group, value: Vector) -> None:
        """See `VpmUnit.write`."""
        watcher = self.watcher
        entries = [self.ports[q].write for q in g.ids]
        for i, entry in enumerate(entries):
            if entry is None:
                continue
            words = self._words(*entry)
            self._in_use(g, i, words, "writes", self._stores)
            self._in_use(g, i, words, "writes", self._loads)
            self._ordered(g, i, words, True)
            self._good[words] = True if watcher.given is None else watcher.given[i]
            if watcher.given is not None:
                for row in set((words // COLUMNS).tolist()):
                    self._origins[row] = watcher.origin
        super().write(g, value)

    # -- DMA

    def _twice(self, g: Group, i: int, transfers: dict[int, _Transfer], what: str) -> None:
        transfer = transfers.get(g.ids[i])
        if transfer is not None and self.watcher.race:
            text = f"a DMA {what} is started while the one before may still run"
            self.watcher.report(Finding("race", "dma-twice", text, self.watcher.place(g, i), transfer.place))

    @staticmethod
    def _rows_of(word: int, shape: tuple[int, ...], pitch: int, width: int) -> Ints:
        rows, columns = shape
        start = (word & BUS_MASK) + np.arange(rows, dtype=np.int64) * pitch
        return start[:, None] + np.arange(columns, dtype=np.int64) * width

    def start_load(self, g: Group, value: Vector) -> None:
        """See `VpmUnit.start_load`."""
        watcher = self.watcher
        super().start_load(g, value)
        for i, q in enumerate(g.ids):
            port = self.ports[q]
            setup = port.load
            if setup is None:
                continue
            self._twice(g, i, self._loads, "load")
            pitch = 0 if setup.rows == 1 else 8 << setup.mpitch if setup.mpitch else port.pitch or 0
            geometry = load_geometry(setup)
            cells = geometry.cells // (4 // setup.width)
            at = self._rows_of(int(value[i, 0]), cells.shape, pitch, setup.width)
            at -= at % setup.width
            words = np.unique(cells)
            self._in_use(g, i, words, "loads into", self._stores)
            self._in_use(g, i, words, "loads into", {o: t for o, t in self._loads.items() if o != q})
            self._ordered(g, i, words, True)
            good = watcher.loads(g, i, at, setup.width)
            self._good[cells] = True if good is None else good
            if good is not None and not good.all():
                where = watcher.memory.where(int(at[~good][0]))
                for row in set((cells[~good] // COLUMNS).tolist()):
                    self._origins[row] = where, g.index(i)
            self._loads[q] = self._transfer(g, i, words, at, setup.width, np.zeros(at.shape, np.bool_))

    def start_store(self, g: Group, value: Vector) -> None:
        """See `VpmUnit.start_store`."""
        watcher = self.watcher
        pending: list[tuple[int, _Transfer]] = []
        for i, q in enumerate(g.ids):
            port = self.ports[q]
            setup = port.store
            if setup is None:
                continue
            self._twice(g, i, self._stores, "store")
            geometry = store_geometry(setup, port.stride.blockmode)
            cells = geometry.cells // (4 // setup.width)
            pitch = 0 if setup.units == 1 else setup.depth * setup.width + port.stride.stride
            at = self._rows_of(int(value[i, 0]), cells.shape, pitch, setup.width)
            at -= at % setup.width
            words = np.unique(cells)
            self._in_use(g, i, words, "stores", self._loads)
            self._ordered(g, i, words, False)
            if watcher.init and not self._good[cells].all():
                row, column = divmod(int(cells[~self._good[cells]][0]), COLUMNS)
                origin = self._origins.get(row, (f"row {row} of the VPM", g.index(i)))
                watcher.undefined(g, i, column, f"stored data (row {row}, column {column} of the VPM)", origin)
            harmless = np.zeros(at.shape, np.bool_)
            last = int(at.max()) + setup.width
            if last <= self._memory.size:
                values = self.vpm.fetch(geometry.cells, setup.width)
                held = self._memory.bytes.view(f"<u{setup.width}")[at // setup.width]
                harmless = held == values
            pending.append((q, self._transfer(g, i, words, at, setup.width, harmless)))
        super().start_store(g, value)
        for q, transfer in pending:
            if watcher.init:
                watcher.memory.written(transfer.at.ravel().astype(np.uint32), transfer.size)
            self._stores[q] = transfer

    def _transfer(self, g: Group, i: int, words: NDArray[np.intp], at: Ints, size: int, harmless: Mask) -> _Transfer:
        used = np.zeros(_WORDS, np.bool_)
        used[words] = True
        return _Transfer(self.watcher.place(g, i), g.index(i), used, at, size, harmless)

    def wait_load(self, g: Group) -> None:
        """See `VpmUnit.wait_load`."""
        super().wait_load(g)
        for q in g.ids:
            self._loads.pop(q, None)

    def wait_store(self, g: Group) -> None:
        """See `VpmUnit.wait_store`."""
        super().wait_store(g)
        for i, _ in enumerate(g.ids):
            self._stored(g, i)

    def _stored(self, g: Group, i: int) -> None:
        transfer = self._stores.pop(g.ids[i], None)
        if transfer is not None:
            self.watcher.stores(g, i, transfer.at, transfer.size, transfer.harmless, transfer.index)

    def load_busy(self, g: Group) -> Vector:
        """See `VpmUnit.load_busy`; a program that sees 0 has waited."""
        busy = super().load_busy(g)
        for i, q in enumerate(g.ids):
            if not busy[i, 0]:
                self._loads.pop(q, None)
        return busy

    def store_busy(self, g: Group) -> Vector:
        """See `VpmUnit.store_busy`; a program that sees 0 has waited."""
        busy = super().store_busy(g)
        for i in range(g.n):
            if not busy[i, 0]:
                self._stored(g, i)
        return busy

    def end(self, g: Group) -> None:
        """Programs end: report transfers that nobody has waited for."""
        for i, q in enumerate(g.ids):
            for transfers, what in ((self._loads, "load"), (self._stores, "store")):
                transfer = transfers.pop(q, None)
                if transfer is not None and self.watcher.race:
                    text = f"the program ends while a DMA {what} may still run"
                    self.watcher.report(Finding("race", "dma-end", text, self.watcher.place(g, i), transfer.place))
