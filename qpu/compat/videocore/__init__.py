"""PyVideoCore's names: ``from qpu.compat.videocore.assembler import qpu``, ``.driver import Driver``."""

from __future__ import annotations

from qpu.compat.videocore.assembler import assemble, qpu
from qpu.compat.videocore.driver import Driver

__all__ = ["Driver", "assemble", "qpu"]
