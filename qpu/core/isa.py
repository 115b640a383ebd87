"""Enumerations that all layers use: instruction sets, execution units, and the grades of evidence (`Basis`)."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["BRANCH_SLOTS", "SWITCH_SLOTS", "Basis", "Isa", "Unit"]

BRANCH_SLOTS: Final = 3
"""Delay slots of a branch: instructions after it that are executed in any case, on every instruction set."""
SWITCH_SLOTS: Final = 2
"""Delay slots of a thread switch or program end: instructions after it that are executed before it happens."""


class Isa(enum.StrEnum):
    """An instruction set; the value is its name everywhere in the package."""

    VC4 = "vc4"
    V3D42 = "v3d42"
    V3D71 = "v3d71"

    @property
    def label(self) -> str:
        """The name in messages and documents."""
        return {"vc4": "VideoCore IV", "v3d42": "V3D 4.2", "v3d71": "V3D 7.1"}[self.value]


class Unit(enum.StrEnum):
    """The part of a QPU that executes an operation."""

    ADD = "add"
    MUL = "mul"
    BRANCH = "branch"
    LOAD_IMM = "load_imm"


class Basis(enum.StrEnum):
    """Evidence grade of a hardware fact, strongest first."""

    MANUAL = "manual"
    MEASURED = "measured"
    DRIVER = "driver"
    ASSUMED = "assumed"
