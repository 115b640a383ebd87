"""Instruction sets and execution units, and the grades of evidence (`Basis`)."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["BRANCH_SLOTS", "SWITCH_SLOTS", "Basis", "Isa", "Unit"]

BRANCH_SLOTS: Final = 3
"""Instructions after a branch that are executed in any case, on every instruction set."""
SWITCH_SLOTS: Final = 2
"""Instructions after a thread switch or program end that are executed before it happens."""


class Isa(enum.StrEnum):
    """An instruction set; the value is its name everywhere in the package."""

    VC4 = "vc4"
    V3D42 = "v3d42"
    V3D71 = "v3d71"

    @property
    def label(self) -> str:
        """Name for people."""
        return {"vc4": "VideoCore IV", "v3d42": "V3D 4.2", "v3d71": "V3D 7.1"}[self.value]


class Unit(enum.StrEnum):
    """Where an operation is issued."""

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
