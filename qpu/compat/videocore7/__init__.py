"""py-videocore7's names: ``from qpu.compat.videocore7.assembler import *``, ``.driver import Driver``."""

from __future__ import annotations

from qpu.compat.dialect import pack_unpack
from qpu.compat.videocore7.assembler import assemble, qpu
from qpu.compat.videocore7.driver import Driver

__all__ = ["Driver", "assemble", "pack_unpack", "qpu"]
