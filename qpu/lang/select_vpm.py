"""Memory beside the TMU on VideoCore IV, in selection: a row of the VPM that belongs to the worker, and DMA between it
and memory (vc4.md 14).

A row is written as 16 words, or packed as 16 halves or bytes, and stored as one row of memory; up to ROWS rows that
follow each other in memory are one store. Elements that are further apart are written as words and stored as a column:
one element a row of memory, with a stride between them; neighbours that each lane has in several rows are one store of
columns.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

from qpu.lang.kir import Region, Request, Value, walk
from qpu.lang.mir import Fixed, MOp, Operand
from qpu.lang.select import Selector, Uniform
from qpu.lang.types import DTYPES
from qpu.vc4.vpm import DmaMode, VpmMode, dma_load, dma_store, dma_store_stride, vpm_read, vpm_write

__all__ = ["NOP", "ROWS", "WAIT_STORE", "StoreSelector"]

NOP = Fixed("io", 39)
VPM, SETUP_STORE, ADDRESS_STORE, WAIT_STORE = Fixed("io", 48), Fixed("io_b", 49), Fixed("io_b", 50), Fixed("io_b", 50)
SETUP_LOAD, ADDRESS_LOAD, WAIT_LOAD, MUTEX = Fixed("io_a", 49), Fixed("io_a", 50), Fixed("io_a", 50), Fixed("io", 51)
ROWS = 4  # of the VPM, for the stores and loads of each worker

_WRITE: Final[dict[int, VpmMode]] = {
    1: "8bit horizontal packed",
    2: "16bit horizontal packed",
    4: "32bit horizontal",
}
_ROW: Final[dict[int, DmaMode]] = {1: "8bit horizontal", 2: "16bit horizontal", 4: "32bit horizontal"}
_COLUMN: Final[dict[int, DmaMode]] = {1: "8bit vertical", 2: "16bit vertical", 4: "32bit vertical"}
_UNITS, _DEPTH = 23, 16  # fields of a store's set-up: rows of memory, elements of a row
_LENGTH = 20  # field of a load's set-up: elements of a row


def size_of(request: Request) -> int:
    """Bytes of a request's elements in memory."""
    return min(DTYPES[request.access.dtype].size, 4)


class StoreSelector(Selector):
    """Selection with the set-up words of the worker's row: what registers hold them. strides: whether some stores have
    a stride of their own.
    """

    def __init__(self, top: Region) -> None:
        super().__init__(top)
        self.setups: dict[tuple[str, int, int], int] = {}
        self.strides = any(v.op == "commit" and (v.attr.step or len(v.args) > 3) for v in walk(top))

    @abstractmethod
    def uniform(self, what: Uniform) -> int:
        """The register of a uniform."""

    @abstractmethod
    def constant(self, value: int) -> int:
        """The register of a constant."""

    @abstractmethod
    def in_register(self, v: Value) -> Operand:
        """As operand, but never an immediate."""

    @abstractmethod
    def address(self, dst: Fixed, v: Value, role: str) -> None:
        """Write the sum of base and offset to where an access starts."""

    def _setup(self, kind: str, size: int, count: int = 0) -> int:
        """The register with a set-up word for the worker's rows. kind: "write", "row" and "column" of stores, "load"
        from memory, "read". count: fields of a store for its elements and rows; 0: they are added later.
        """
        found = self.setups.get((kind, size, count))
        if found is not None:
            return found
        lean, self.lean = self.lean, False
        row = self.setups.get(("", 0, 0))
        if row is None:
            row = self.setups["", 0, 0] = self.uniform(("row", None))
            self.entry.append(MOp("mov", SETUP_STORE, self.constant(dma_store_stride(0)), role="vpm"))
        if kind == "write":
            shift, word = 2 - (size.bit_length() - 1), vpm_write(_WRITE[size], y=0)
        elif kind == "read":
            shift, word = 2 - (size.bit_length() - 1), vpm_read(1, _WRITE[size], y=0)
        elif kind == "load":
            shift, word = 4, dma_load(1, 16, _ROW[size], y=0)  # 16 elements: a length of 0
        elif kind == "row":
            shift, word = 7, dma_store(1, 1, _ROW[size], y=0) & ~(127 << _DEPTH)
        else:
            shift, word = 7, dma_store(1, 1, _COLUMN[size], y=0) & ~(127 << _UNITS)
        at = row
        if shift:
            at = self.register()
            self.entry.append(MOp("shl", at, row, self.bits(shift)))
        found = self.setups[kind, size, count] = self.register()
        self.entry.append(MOp("add", found, at, self.constant(word + count)))
        self.lean = lean
        return found

    def data(self, v: Value) -> None:
        """16 values into the row, when the store before has ended. The attribute is the bytes of an element there."""
        self.op("mov", NOP, WAIT_STORE, role="vpm")
        self.op("mov", SETUP_STORE, self._setup("write", v.attr or 4), role="vpm")
        self.row(v)

    def row(self, v: Value) -> None:
        """16 values into the next row."""
        x = v.args[0]
        if id(x) in self.folded:
            self.emit(x, VPM)
        else:
            self.op("mov", VPM, self.operand(x))
        self.now.ops[-1].role = "vpm"

    def commit(self, v: Value) -> None:
        """Start the store of what is in the row: all lanes, the first ones (an operand says how many), or lane 0."""
        request: Request = v.attr
        size = size_of(request)
        apart = v.args[3] if len(v.args) > 3 else None  # bytes between the elements
        kind, field = ("column", _UNITS) if request.step or apart else ("row", _DEPTH)
        if len(v.args) > 2:
            store = self._setup(kind, size)
            shifted, setup = self.register(), self.register()
            self.op("shl", shifted, self.in_register(v.args[2]), self.constant(field))
            self.op("add", setup, store, shifted)
            self.op("mov", SETUP_STORE, setup, role="vpm")
        else:
            other = _DEPTH if request.step else _UNITS  # columns of several rows take the rows' lanes in turn
            setup = self._setup(kind, size, request.words << field | (request.rows - 1) << other)
            self.op("mov", SETUP_STORE, setup, role="vpm")
            self._early(request.rows)
        if apart is not None:
            stride = self.register()
            self.op("add", stride, self.in_register(apart), self.constant(dma_store_stride(0)))
            self.op("mov", SETUP_STORE, stride, role="vpm")
        elif request.step:
            self.op("mov", SETUP_STORE, self.constant(dma_store_stride(request.step - size * request.rows)), role="vpm")
        elif request.rows > 1 and self.strides:  # a column may have left its own
            self.op("mov", SETUP_STORE, self.constant(dma_store_stride(0)), role="vpm")
        self.address(ADDRESS_STORE, v, "vpm")

    def _early(self, rows: int) -> None:
        """Move a set-up of DMA, the last operation, in front of the rows, so that it does not wait for them."""
        ops = self.now.ops
        at = len(ops) - 1
        while rows and at:
            at -= 1
            if ops[at].dst == VPM:
                rows -= 1
            elif ops[at].dst == ADDRESS_STORE:
                return
        if not rows:
            ops.insert(at, ops.pop())

    def fetch(self, v: Value) -> None:
        """A DMA from memory into the row, when the store before has ended, and the row into a register."""
        request: Request = v.attr
        size = size_of(request)
        load = self._setup("load", size)
        count: Operand
        if len(v.args) > 2:  # 16 is 0
            count, shifted = self.register(), self.register()
            self.op("shl", shifted, self.in_register(v.args[2]), self.constant(28))
            self.op("shr", count, shifted, self.bits(8))
        else:
            count = self.constant((request.words & 15) << _LENGTH)
        setup, r = self.register(), self.register()
        self.op("or", setup, load, count)
        self.op("mov", NOP, WAIT_STORE, role="vpm")
        self.op("mov", SETUP_LOAD, setup, role="vpm")
        self.address(ADDRESS_LOAD, v, "vpm")
        self.op("mov", NOP, WAIT_LOAD, role="vpm")
        self.op("mov", SETUP_LOAD, self._setup("read", size), role="vpm")
        self.op("mov", r, VPM, role="vpm")
        self.place[id(v)] = r

    def wait(self, v: Value) -> None:
        """The end of the worker's stores."""
        self.op("mov", NOP, WAIT_STORE, role="vpm")

    def semaphore(self, v: Value) -> None:
        """Count up or down, waiting where there is nothing to take."""
        number, down = v.attr
        self.op("sema", byte=number | down << 4, role="vpm")

    def lock(self, v: Value) -> None:
        """Wait for the mutex."""
        self.op("mov", NOP, MUTEX, role="vpm")

    def unlock(self, v: Value) -> None:
        """Give the mutex back when the store has ended."""
        self.op("mov", NOP, WAIT_STORE, role="vpm")
        self.op("mov", MUTEX, self.bits(0), role="vpm")
