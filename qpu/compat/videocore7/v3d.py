"""py-videocore7's performance counters: ``from qpu.compat.videocore7.v3d import *``."""

from __future__ import annotations

from qpu.compat.registers import PerformanceCounter, RegisterMapping

__all__ = ["PerformanceCounter", "RegisterMapping"]
