"""The driver of py-videocore7."""

from __future__ import annotations

from qpu.compat.driver_v3d import Array, DriverError, V3dDriver
from qpu.compat.videocore7.assembler import WORDS
from qpu.core.isa import Isa

__all__ = ["Array", "Driver", "DriverError"]


class Driver(V3dDriver):
    """``with Driver() as drv``: arrays, programs and launches on V3D 7.1."""

    isa = Isa.V3D71
    words = WORDS
