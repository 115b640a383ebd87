"""PyVideoCore's registers and performance counters: ``from qpu.compat.videocore.v3d import *``."""

from __future__ import annotations

from qpu.compat.registers import REGISTERS, PerformanceCounter, RegisterMapping

__all__ = ["PerformanceCounter", "RegisterMapping", *REGISTERS]

globals().update(REGISTERS)
