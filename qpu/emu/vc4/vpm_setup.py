"""Set-up words and addressing of the VideoCore IV vertex pipe memory (VPM), for both engines.

The module decodes set-up words and finds where lanes, rows and elements lie; it needs no QPU, clock or GPU memory.
Source: VideoCore IV 3D architecture guide, VPM and VCD/VDW chapters; on-hardware tests of py-videocore for the
32-bit modes. The 8- and 16-bit modes follow the guide only (`Basis.MANUAL`); what the guide leaves open is a `Concern`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COLUMNS", "GENERIC_BITS", "LOAD_BITS", "PITCH_BITS", "ROWS", "STRIDE_BITS", "Concern", "GenericSetup",
    "Geometry", "LoadPitch", "LoadSetup", "StoreSetup", "StoreStride", "Vpm", "generic_cells", "load_geometry",
    "parse_read_setup", "parse_write_setup", "store_geometry", "unused_bits",
]  # fmt: skip

ROWS, COLUMNS = 64, 16  # what user programs can access: rows from 64 on are out of reach (hardware issue 2253)
Cells: TypeAlias = NDArray[np.intp]  # element numbers, in units of the access width, row-major from word (0, 0)


@dataclass(frozen=True, slots=True)
class Concern:
    """A point that the documentation leaves open. fatal: the result on hardware is unknown, not only untested."""

    rule: str
    message: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class GenericSetup:
    """Set-up of reads or writes by a QPU.

    size: 0, 1, 2 for 8, 16, 32 bits; address: as encoded; stride: 1..64; num: vectors of a read, 1..16.
    """

    size: int
    laned: bool
    horizontal: bool
    address: int
    stride: int
    num: int

    @property
    def word(self) -> int:
        """The set-up word."""
        mode = self.horizontal << 11 | self.laned << 10 | self.size << 8
        return (self.num & 15) << 20 | (self.stride & 63) << 12 | mode | self.address


@dataclass(frozen=True, slots=True)
class LoadSetup:
    """Set-up of a DMA load, from memory to VPM.

    mpitch: exponent field, 0 = use the extended pitch; vpitch, rows, columns: 1..16. width: bytes of an element; sub:
    half or byte offset of the first element in its word.
    """

    width: int
    sub: int
    mpitch: int
    columns: int
    rows: int
    vpitch: int
    vertical: bool
    y: int
    x: int

    @property
    def word(self) -> int:
        """The set-up word."""
        counts = (self.columns & 15) << 20 | (self.rows & 15) << 16 | (self.vpitch & 15) << 12
        mode = _modew(self.width, self.sub) << 28
        return 1 << 31 | mode | self.mpitch << 24 | counts | self.vertical << 11 | self.y << 4 | self.x


@dataclass(frozen=True, slots=True)
class LoadPitch:
    """Extended pitch of DMA loads: bytes from row start to row start."""

    pitch: int


@dataclass(frozen=True, slots=True)
class StoreSetup:
    """Set-up of a DMA store, from VPM to memory.

    units: rows in memory, 1..128; depth: elements of a row, 1..128; width and sub as in `LoadSetup`.
    """

    width: int
    sub: int
    units: int
    depth: int
    laned: bool
    horizontal: bool
    y: int
    x: int

    @property
    def word(self) -> int:
        """The set-up word."""
        counts = (self.units & 127) << 23 | (self.depth & 127) << 16
        place = self.laned << 15 | self.horizontal << 14 | self.y << 7 | self.x << 3
        return 2 << 30 | counts | place | _modew(self.width, self.sub)


@dataclass(frozen=True, slots=True)
class StoreStride:
    """Stride of DMA stores: bytes from the end of one memory row to the start of the next. blockmode: vc4.md 14.4."""

    stride: int
    blockmode: bool


ReadSetup: TypeAlias = GenericSetup | LoadSetup | LoadPitch
WriteSetup: TypeAlias = GenericSetup | StoreSetup | StoreStride


def _modew(width: int, sub: int) -> int:
    """The MODEW field of elements of `width` bytes, `sub` elements from the start of a word."""
    return 0 if width == 4 else 4 // width | sub


def _mode(modew: int) -> tuple[int, int]:
    """(bytes of an element, offset in the word) of a MODEW field other than 1."""
    if modew >= 4:
        return 1, modew & 3
    return (2, modew & 1) if modew >= 2 else (4, 0)


def _generic(word: int) -> GenericSetup:
    return GenericSetup(
        size=word >> 8 & 3,
        laned=bool(word >> 10 & 1),
        horizontal=bool(word >> 11 & 1),
        address=word & 255,
        stride=(word >> 12 & 63) or 64,
        num=(word >> 20 & 15) or 16,
    )


@lru_cache(maxsize=1024)
def parse_read_setup(word: int) -> ReadSetup:
    """Decode a word written to the VPM-read and DMA-load setup register (address 49, file A).

    Raises: ValueError for reserved encodings.
    """
    if word >> 31:
        modew = word >> 28 & 7
        if modew == 1:
            # 16 bits as programs that ran on silicon need them (vc4.md 14.3); the guide has 13.
            return LoadPitch(word & 0xFFFF)
        width, sub = _mode(modew)
        return LoadSetup(
            width=width,
            sub=sub,
            mpitch=word >> 24 & 15,
            columns=(word >> 20 & 15) or 16,
            rows=(word >> 16 & 15) or 16,
            vpitch=(word >> 12 & 15) or 16,
            vertical=bool(word >> 11 & 1),
            y=word >> 4 & 63,
            x=word & 15,
        )
    if word >> 30:
        raise ValueError(
            f"0x{word:08x}: bits 31:30 are 1, which is reserved; 0 is a generic read, 2 and 3 are DMA loads"
        )
    setup = _generic(word)
    if setup.size == 3:
        raise ValueError(f"0x{word:08x}: SIZE 3 (bits 9:8) is reserved; 0, 1 and 2 are 8, 16 and 32 bits")
    return setup


@lru_cache(maxsize=1024)
def parse_write_setup(word: int) -> WriteSetup:
    """Decode a word written to the VPM-write and DMA-store setup register (address 49, file B).

    Raises: ValueError for reserved encodings.
    """
    kind = word >> 30
    if kind == 3:
        # 16 bits by measurement; the guide has 13.
        return StoreStride(word & 0xFFFF, bool(word >> 16 & 1))
    if kind == 2:
        if word & 7 == 1:
            raise ValueError(f"0x{word:08x}: MODEW 1 (bits 2:0) is reserved; 0: 32 bit, 2-3: 16 bit, 4-7: 8 bit")
        width, sub = _mode(word & 7)
        return StoreSetup(
            width=width,
            sub=sub,
            units=(word >> 23 & 127) or 128,
            depth=(word >> 16 & 127) or 128,
            laned=bool(word >> 15 & 1),
            horizontal=bool(word >> 14 & 1),
            y=word >> 7 & 127,
            x=word >> 3 & 15,
        )
    if kind == 1:
        raise ValueError(
            f"0x{word:08x}: bits 31:30 are 1, which is reserved; 0 is a generic write, 2 and 3 are DMA stores"
        )
    setup = _generic(word)
    if setup.size == 3:
        raise ValueError(f"0x{word:08x}: SIZE 3 (bits 9:8) is reserved; 0, 1 and 2 are 8, 16 and 32 bits")
    return setup


# Bits of set-up words that have a meaning (vc4.md 14). LANED of 32-bit vectors is documented as ignored. Programs that
# ran on silicon use one word for reads and writes, so the set-up of a write may contain the NUM of a read.
GENERIC_BITS = 0x00F3FFFF
LOAD_BITS, PITCH_BITS = 0xFFFFFBFF, 0xF000FFFF
STRIDE_BITS = 0xC001FFFF
_LANED = 1 << 15


def unused_bits(word: int, setup: ReadSetup | WriteSetup) -> int:
    """The bits that are set in a set-up word but have no documented meaning."""
    if isinstance(setup, StoreSetup):
        return word & _LANED if setup.width == 4 else 0
    for kind, bits in (
        (GenericSetup, GENERIC_BITS),
        (LoadSetup, LOAD_BITS),
        (LoadPitch, PITCH_BITS),
        (StoreStride, STRIDE_BITS),
    ):
        if isinstance(setup, kind):
            return word & ~bits
    raise AssertionError(setup)


_ADDRESS_BITS = (8, 7, 6)  # by size: rows 0..63 in units of bytes, halves and words of a row


@lru_cache(maxsize=2048)
def generic_cells(size: int, laned: bool, horizontal: bool, address: int) -> Cells:
    """Element numbers of the 16 lanes for one generic access. `address` wraps at row 64.

    Returns: shape (16,), in elements of 8, 16 or 32 bits (size 0, 1, 2). Read-only.
    """
    address &= (1 << _ADDRESS_BITS[size]) - 1
    per_word = 4 >> size
    lane = np.arange(16)
    sub, place = address % per_word, address // per_word
    if per_word == 1 or laned:
        word, part = lane, np.full(16, sub)
    else:
        word, part = sub * (16 // per_word) + lane // per_word, lane % per_word
    if horizontal:
        y, x = np.full(16, place), word
    else:
        y, x = (place >> 4 << 4) + word, np.full(16, place & 15)
    cells: Cells = ((y * COLUMNS + x) * per_word + part).astype(np.intp)
    cells.flags.writeable = False
    return cells


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Element numbers of a DMA block, shape (memory rows, elements of a row), and what is uncertain about them."""

    cells: Cells
    concerns: tuple[Concern, ...]


_OFFSET = "the meaning of a half or byte offset of packed rows is uncertain"
_WRAP = "hardware behaviour past the edge is undocumented; emulated as continuing with the next row"


@lru_cache(maxsize=1024)
def load_geometry(setup: LoadSetup) -> Geometry:
    """Where each element of a DMA load goes.

    Element k of row r of a 32-bit load goes to (Y + r*VPITCH, X + k), or (Y + r*VPITCH + k, X) when vertical
    (measured). 16- and 8-bit rows are packed; VPITCH moves {Y, half} or {Y, byte}. That the offset names the half or
    byte of the first word where the row starts is `Basis.ASSUMED`.
    """
    per_word = 4 // setup.width
    rows, k = np.arange(setup.rows)[:, None], np.arange(setup.columns)[None, :]
    start = setup.y * per_word + setup.sub + rows * setup.vpitch
    y, part = start // per_word, start % per_word
    concerns: list[Concern] = []
    if bool((part != 0).any()):
        concerns.append(Concern("vpm-dma-offset", _OFFSET, False))
    y, x, part = _place(y, np.full_like(y, setup.x), part + k, per_word, not setup.vertical)
    return _finish(y, x, part, per_word, concerns, "DMA load")


@lru_cache(maxsize=1024)
def store_geometry(setup: StoreSetup, blockmode: bool) -> Geometry:
    """Where each element of a DMA store comes from.

    32 bit, BLOCKMODE 0: element k of row r comes from (Y + r, X + k), or (Y + k, X + r) when vertical (measured).
    BLOCKMODE 1: rows follow one another without gap. 16- and 8-bit rows are packed.
    """
    per_word = 1 if setup.laned else 4 // setup.width
    rows, k = np.arange(setup.units)[:, None], np.arange(setup.depth)[None, :]
    concerns: list[Concern] = []
    if setup.sub:
        concerns.append(Concern("vpm-dma-offset", _OFFSET, False))
    if setup.laned and setup.width < 4:
        concerns.append(Concern("vpm-dma-laned", "laned DMA stores are not documented beyond the bit's name", False))
    first = 0 if setup.laned else setup.sub
    if blockmode:
        part, step = first + rows * setup.depth + k, np.zeros_like(rows)
    else:
        part, step = first + k + np.zeros_like(rows), rows
    y, x = np.full_like(step, setup.y), np.full_like(step, setup.x)
    if setup.horizontal:
        y = y + step
    else:
        x = x + step
    if blockmode and setup.horizontal:  # "packed consecutively": elements continue in the next row
        word = y * COLUMNS + x + part // per_word
        y, x, part = word // COLUMNS, word % COLUMNS, part % per_word
    else:
        y, x, part = _place(y, x, part, per_word, setup.horizontal)
    if setup.laned and setup.width < 4:
        part = part + setup.sub
        per_word = 4 // setup.width
    return _finish(y, x, part, per_word, concerns, "DMA store")


def _place(y: Cells, x: Cells, part: Cells, per_word: int, horizontal: bool) -> tuple[Cells, Cells, Cells]:
    """Spread packed elements over the words of a row or column."""
    word, part = part // per_word, part % per_word
    if horizontal:
        return y + np.zeros_like(word), x + word, part
    return y + word, x + np.zeros_like(word), part


def _finish(y: Cells, x: Cells, part: Cells, per_word: int, concerns: list[Concern], what: str) -> Geometry:
    if bool((x >= COLUMNS).any()):
        concerns.append(Concern("vpm-dma-column", f"{what} runs past column 15, to column {x.max()}; {_WRAP}", True))
    word = y * COLUMNS + x
    if bool((word >= ROWS * COLUMNS).any()):
        concerns.append(Concern("vpm-dma-row", f"{what} runs past row 63, to row {y.max()}; {_WRAP}", True))
    cells = ((word % (ROWS * COLUMNS)) * per_word + part).astype(np.intp)
    cells.flags.writeable = False
    return Geometry(cells, tuple(concerns))


class Vpm:
    """The 4 KiB of VPM that user programs see: 64 rows x 16 columns of 32-bit words, common to all QPUs.

    reserved: rows that V3D_VPMBASE gives to user programs; writes past them are dropped, reads are not (guide).
    """

    __slots__ = ("bytes", "reserved", "views", "words")

    def __init__(self, reserved: int = ROWS) -> None:
        self.words: NDArray[np.uint32] = np.zeros(ROWS * COLUMNS, np.uint32)
        self.bytes: NDArray[np.uint8] = self.words.view(np.uint8)
        self.views = (self.bytes, self.words.view("<u2"), self.words)  # by size
        self.reserved = reserved

    def read(self, setup: GenericSetup, address: int) -> NDArray[np.uint32]:
        """One vector, shape (16,); 8- and 16-bit elements zero-extended (`Basis.ASSUMED`)."""
        cells = generic_cells(setup.size, setup.laned, setup.horizontal, address)
        values: NDArray[np.uint32] = self.views[setup.size][cells].astype(np.uint32)
        return values

    def write(self, setup: GenericSetup, address: int, values: NDArray[np.uint32]) -> bool:
        """Store the low bits of 16 lanes. Returns False when elements outside the reserved rows were dropped."""
        cells = generic_cells(setup.size, setup.laned, setup.horizontal, address)
        view = self.views[setup.size]
        return self._put(view, cells, values.astype(view.dtype))

    def load(self, cells: Cells, width: int, values: NDArray[np.uint32]) -> bool:
        """Store a DMA block; values have the shape of `cells`. Returns as `write` does."""
        view = self.views[width >> 1]
        return self._put(view, cells, values.astype(view.dtype))

    def fetch(self, cells: Cells, width: int) -> NDArray[np.uint32]:
        """The elements of a DMA block, zero-extended, in the shape of `cells`."""
        values: NDArray[np.uint32] = self.views[width >> 1][cells].astype(np.uint32)
        return values

    def _put(self, view: NDArray[np.generic], cells: Cells, values: NDArray[np.generic]) -> bool:
        if self.reserved >= ROWS:
            view[cells] = values
            return True
        inside = cells < self.reserved * COLUMNS * 4 // view.dtype.itemsize
        view[cells[inside]] = values[inside]
        return bool(inside.all())
