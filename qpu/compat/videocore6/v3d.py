"""py-videocore6's performance counters: ``from qpu.compat.videocore6.v3d import *``."""

from __future__ import annotations

from qpu.compat.registers import PerformanceCounter, RegisterMapping

__all__ = ["PerformanceCounter", "RegisterMapping"]
