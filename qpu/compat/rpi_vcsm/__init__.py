"""The constants of rpi-vcsm; `qpu.compat.rpi_vcsm.VCSM` has its class (drivers.md 5.4)."""

from __future__ import annotations

__all__ = [
    "CACHE_BOTH",
    "CACHE_HOST",
    "CACHE_NONE",
    "CACHE_OP_CLEAN",
    "CACHE_OP_FLUSH",
    "CACHE_OP_INVALIDATE",
    "CACHE_OP_NOP",
    "CACHE_VC",
]

CACHE_NONE, CACHE_HOST, CACHE_VC, CACHE_BOTH = range(4)
CACHE_OP_NOP, CACHE_OP_INVALIDATE, CACHE_OP_CLEAN, CACHE_OP_FLUSH = range(4)
