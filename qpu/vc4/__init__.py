"""VideoCore IV (Raspberry Pi 0 to 3): instructions, builder, text, checker.

Names are loaded when first used. `encode`, `decode` and `effects` are modules; their functions have the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpu.core.effects import Effects
    from qpu.vc4.builder import Asm, assemble, build
    from qpu.vc4.hazards import check
    from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, LoadMode, Reserved, Semaphore
    from qpu.vc4.instruction_set import Vc4Toolkit
    from qpu.vc4.launch import Programs
    from qpu.vc4.pairing import combine
    from qpu.vc4.printer import disassemble

_HOME = {
    "Asm": "builder",
    "assemble": "builder",
    "build": "builder",
    "Effects": "effects",
    "combine": "pairing",
    "check": "hazards",
    "Alu": "instr",
    "Branch": "instr",
    "Instr": "instr",
    "LoadImm": "instr",
    "LoadMode": "instr",
    "Reserved": "instr",
    "Semaphore": "instr",
    "disassemble": "printer",
    "Vc4Toolkit": "instruction_set",
    "Programs": "launch",
}

__all__ = [
    "Alu",
    "Asm",
    "Branch",
    "Effects",
    "Instr",
    "LoadImm",
    "LoadMode",
    "Programs",
    "Reserved",
    "Semaphore",
    "Vc4Toolkit",
    "assemble",
    "build",
    "check",
    "combine",
    "disassemble",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
