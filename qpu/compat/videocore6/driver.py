"""The driver of py-videocore6."""

from __future__ import annotations

from qpu.compat.driver_v3d import Array, DriverError, V3dDriver
from qpu.compat.videocore6.assembler import WORDS
from qpu.core.isa import Isa

__all__ = ["Array", "Driver", "DriverError"]


class Driver(V3dDriver):
    """``with Driver() as drv``: arrays, programs and launches on V3D 4.2."""

    isa = Isa.V3D42
    words = WORDS
