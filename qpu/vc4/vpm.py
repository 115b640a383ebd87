"""Functions for the set-up words of VPM and DMA on VideoCore IV, with named and checked arguments.

User programs have 64 rows (y) of 16 words (x) of the VPM. Source: docs/hardware/vc4.md 14.1 to 14.4;
strides of stores and the direction of `vpitch` as measured by vc4asm's and py-videocore's authors.
All functions raise AsmError for an argument out of range.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from qpu.errors import AsmError, Diagnostic

__all__ = [
    "DmaMode", "VpmMode", "dma_load", "dma_load_stride", "dma_store", "dma_store_stride", "vpm_read", "vpm_write",
]  # fmt: skip

VpmMode: TypeAlias = Literal[
    "32bit horizontal", "32bit vertical",
    "16bit horizontal packed", "16bit horizontal laned", "16bit vertical packed", "16bit vertical laned",
    "8bit horizontal packed", "8bit horizontal laned", "8bit vertical packed", "8bit vertical laned",
]  # fmt: skip
DmaMode: TypeAlias = Literal[
    "32bit horizontal", "32bit vertical", "16bit horizontal", "16bit vertical", "8bit horizontal", "8bit vertical"
]

_SIZES = {"32bit": 2, "16bit": 1, "8bit": 0}
_VPM_MODES = tuple(f"{s} {d}{lane}" for s in _SIZES for d in ("horizontal", "vertical")
                   for lane in (("",) if s == "32bit" else (" packed", " laned")))  # fmt: skip
_DMA_MODES = tuple(f"{s} {d}" for s in _SIZES for d in ("horizontal", "vertical"))


def _refuse(message: str, allowed: str, help: str) -> AsmError:
    return AsmError.of(Diagnostic("vpm-setup", message, allowed=allowed, help=help))


def _field(name: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _refuse(f"{name} = {value!r}", f"{low}..{high}", f"give {name} as an integer in this range")
    return value


def _mode(mode: str, allowed: tuple[str, ...]) -> tuple[int, bool, bool]:
    """size (2: 32, 1: 16, 0: 8 bits), horizontal, laned."""
    if mode not in allowed:
        raise _refuse(f"mode = {mode!r}", "; ".join(allowed), "write one of these modes")
    words = mode.split()
    return _SIZES[words[0]], words[1] == "horizontal", words[-1] == "laned"


def _part(size: int, part: int) -> int:
    """Which half or byte of the words; 0 for 32 bits."""
    return _field("part", part, 0, (3, 1, 0)[size])


def _vpm_access(mode: str, y: int, x: int, part: int, stride: int) -> int:
    size, horizontal, laned = _mode(mode, _VPM_MODES)
    _field("y", y, 0, 63)
    _field("x", x, 0, 15)
    if horizontal and x:
        raise _refuse(
            f"x = {x} of a horizontal access",
            "0: a horizontal vector is a whole row",
            "leave x out, or use a vertical mode",
        )
    if not horizontal and y % 16:
        raise _refuse(f"y = {y} of a vertical access", "0, 16, 32, 48", "give the first row of a block of 16")
    _part(size, part)
    _field("stride", stride, 1, 64)
    row = y if horizontal else y | x
    addr = row << (2 - size) | part
    return (stride & 63) << 12 | horizontal << 11 | laned << 10 | size << 8 | addr


def vpm_read(
    n: int, mode: VpmMode = "32bit horizontal", *, y: int = 0, x: int = 0, part: int = 0, stride: int = 1
) -> int:
    """Set-up of `n` (1..16) vector reads from the VPM.

    y: row 0..63 (vertical: a multiple of 16). x: column 0..15, vertical only. part: half 0..1 or byte 0..3 of
    the narrow modes. stride: 1..64, added to the address after each vector, in units of the mode's address field.
    """
    return (_field("n", n, 1, 16) & 15) << 20 | _vpm_access(mode, y, x, part, stride)


def vpm_write(mode: VpmMode = "32bit horizontal", *, y: int = 0, x: int = 0, part: int = 0, stride: int = 1) -> int:
    """Set-up of vector writes to the VPM; arguments as of `vpm_read`."""
    return _vpm_access(mode, y, x, part, stride)


def _dma_width(size: int, part: int) -> int:
    _part(size, part)
    return (4 | part, 2 | part, 0)[size]


def dma_load(
    nrows: int = 1,
    ncols: int = 16,
    mode: DmaMode = "32bit horizontal",
    *,
    y: int = 0,
    x: int = 0,
    part: int = 0,
    vpitch: int = 1,
    mpitch: int = 3,
) -> int:
    """Set-up of a DMA load, memory to VPM.

    nrows, ncols: 1..16 rows of 1..16 elements in memory. vpitch: 1..16 added to the VPM row after each of them.
    mpitch: rows start 8 * 2**mpitch bytes apart (1..15); 0: as `dma_load_stride` says. y, x: first word.
    part: first half or byte of the narrow modes, whose layout in the VPM is documented incompletely.
    """
    size, horizontal, _ = _mode(mode, _DMA_MODES)
    return (
        1 << 31
        | _dma_width(size, part) << 28
        | _field("mpitch", mpitch, 0, 15) << 24
        | (_field("ncols", ncols, 1, 16) & 15) << 20
        | (_field("nrows", nrows, 1, 16) & 15) << 16
        | (_field("vpitch", vpitch, 1, 16) & 15) << 12
        | (not horizontal) << 11
        | _field("y", y, 0, 63) << 4
        | _field("x", x, 0, 15)
    )


def dma_load_stride(stride: int) -> int:
    """Distance in bytes (0..65535) from row start to row start in memory, for loads with ``mpitch=0``.

    The guide gives the field 13 bits; programs that ran on silicon need 16 (uncertain: not measured by itself,
    vc4.md 14.3).
    """
    return 9 << 28 | _field("stride", stride, 0, 65535)


def dma_store(
    nrows: int = 1, ncols: int = 16, mode: DmaMode = "32bit horizontal", *, y: int = 0, x: int = 0, part: int = 0
) -> int:
    """Set-up of a DMA store, VPM to memory: nrows (1..128) rows of ncols (1..128) elements in memory."""
    size, horizontal, _ = _mode(mode, _DMA_MODES)
    return (
        2 << 30
        | (_field("nrows", nrows, 1, 128) & 127) << 23
        | (_field("ncols", ncols, 1, 128) & 127) << 16
        | horizontal << 14
        | _field("y", y, 0, 63) << 7
        | _field("x", x, 0, 15) << 3
        | _dma_width(size, part)
    )


def dma_store_stride(stride: int, *, blockmode: bool = False) -> int:
    """Distance in bytes (0..65535) from the *end* of a row in memory to the start of the next.

    blockmode: rows are contiguous in the VPM; without it, each starts one VPM row (column) further.
    The guide gives the field 13 bits; 16 were measured (vc4asm).
    """
    return 3 << 30 | bool(blockmode) << 16 | _field("stride", stride, 0, 65535)
