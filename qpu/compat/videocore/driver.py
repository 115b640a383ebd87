"""The driver of PyVideoCore."""

from __future__ import annotations

from qpu.compat.driver_vc4 import Array, Driver, DriverError, Program

__all__ = ["Array", "Driver", "DriverError", "Program"]
