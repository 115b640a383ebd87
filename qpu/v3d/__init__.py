"""V3D 4.2 (Raspberry Pi 4) and V3D 7.1 (Raspberry Pi 5): instructions, builders, text, checker.

Names are loaded when first used. `encode` and `effects` are modules here; their functions have the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpu.core.effects import Effects
    from qpu.v3d.asm import Asm, Asm42, Asm71
    from qpu.v3d.decode import decode
    from qpu.v3d.hazards import check
    from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Sig, Src, SrcKind
    from qpu.v3d.instruction_set import V3dToolkit
    from qpu.v3d.launch import Dispatch
    from qpu.v3d.pairing import combine

_HOME = {
    "Asm": "asm",
    "Asm42": "asm",
    "Asm71": "asm",
    "Effects": "effects",
    "combine": "pairing",
    "decode": "decode",
    "check": "hazards",
    "Alu": "instr",
    "AluHalf": "instr",
    "Branch": "instr",
    "Dst": "instr",
    "Instr": "instr",
    "Sig": "instr",
    "Src": "instr",
    "SrcKind": "instr",
    "V3dToolkit": "instruction_set",
    "Dispatch": "launch",
}

__all__ = [
    "Alu",
    "AluHalf",
    "Asm",
    "Asm42",
    "Asm71",
    "Branch",
    "Dispatch",
    "Dst",
    "Effects",
    "Instr",
    "Sig",
    "Src",
    "SrcKind",
    "V3dToolkit",
    "check",
    "combine",
    "decode",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
