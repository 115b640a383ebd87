"""The instruction sets V3D 4.2 (Raspberry Pi 4) and V3D 7.1 (Raspberry Pi 5): instructions, builders, text, checker.

Names are imported on first use. `qpu.v3d.decode` is the function; `encode` and `effects` are modules with a function
of the same name (`qpu.v3d.encode.encode`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpu.core.lazy import lazy
from qpu.v3d.decode import decode  # at once: a later import of the module would put the module in its place

if TYPE_CHECKING:
    from qpu.core.effects import Effects
    from qpu.v3d.asm import Asm, Asm42, Asm71
    from qpu.v3d.hazards import check
    from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Sig, Src, SrcKind
    from qpu.v3d.instruction_set import V3dToolkit
    from qpu.v3d.launch import Dispatch
    from qpu.v3d.pairing import combine

__all__ = [
    "Alu", "AluHalf", "Asm", "Asm42", "Asm71", "Branch", "Dispatch", "Dst", "Effects", "Instr", "Sig", "Src",
    "SrcKind", "V3dToolkit", "check", "combine", "decode",
]  # fmt: skip

__getattr__, __dir__ = lazy(
    __name__,
    {
        "asm": "Asm Asm42 Asm71",
        "effects": "Effects",
        "pairing": "combine",
        "decode": "decode",
        "hazards": "check",
        "instr": "Alu AluHalf Branch Dst Instr Sig Src SrcKind",
        "instruction_set": "V3dToolkit",
        "launch": "Dispatch",
    },
)
