"""The instruction set of VideoCore IV (Raspberry Pi 0 to 3): instructions, builder, text, checker.

Names are imported on first use. `encode`, `decode` and `effects` are modules; their functions have the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpu.core.lazy import lazy

if TYPE_CHECKING:
    from qpu.core.effects import Effects
    from qpu.vc4.builder import Asm, assemble, build
    from qpu.vc4.hazards import check
    from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, LoadMode, Reserved, Semaphore
    from qpu.vc4.instruction_set import Vc4Toolkit
    from qpu.vc4.launch import Programs
    from qpu.vc4.pairing import combine
    from qpu.vc4.printer import disassemble

__all__ = [
    "Alu", "Asm", "Branch", "Effects", "Instr", "LoadImm", "LoadMode", "Programs", "Reserved", "Semaphore",
    "Vc4Toolkit", "assemble", "build", "check", "combine", "disassemble",
]  # fmt: skip

__getattr__, __dir__ = lazy(
    __name__,
    {
        "builder": "Asm assemble build",
        "effects": "Effects",
        "pairing": "combine",
        "hazards": "check",
        "instr": "Alu Branch Instr LoadImm LoadMode Reserved Semaphore",
        "printer": "disassemble",
        "instruction_set": "Vc4Toolkit",
        "launch": "Programs",
    },
)
