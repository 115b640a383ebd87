"""py-videocore6's names: ``from qpu.compat.videocore6.assembler import *``, ``.driver import Driver``."""

from __future__ import annotations

from qpu.compat.dialect import pack_unpack
from qpu.compat.videocore6.assembler import assemble, qpu
from qpu.compat.videocore6.driver import Driver

__all__ = ["Driver", "assemble", "pack_unpack", "qpu"]
