"""The public class of programs: assembled code with text, check and notebook display."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.core.toolkit import Toolkit

if TYPE_CHECKING:
    from qpu.core.hazards import Finding

__all__ = ["Program", "toolkit"]


@cache
def toolkit(isa: Isa) -> Toolkit:
    """The toolkit of an instruction set; its package is imported on first use."""
    if isa is Isa.VC4:
        from qpu.vc4.instruction_set import Vc4Toolkit

        return Vc4Toolkit()
    from qpu.v3d.instruction_set import V3dToolkit

    return V3dToolkit(isa)


class Program(Code):
    """Instructions of one instruction set, ready to launch; `Code` plus text, check and display."""

    __slots__ = ()

    @classmethod
    def of(cls, code: Code) -> Program:
        """The program of assembled code, with the same labels and source locations."""
        return cls(code.isa, code.code, code.labels, code.locs, code.warnings, code.uniforms)

    @property
    def text(self) -> str:
        """Disassembly, one instruction a line, each label on a line of its own."""
        return toolkit(self.isa).listing(self)

    def check(self, *, single_segment: bool = False) -> list[Finding]:
        """All hazard and validity findings, in program order. single_segment: V3D launch mode."""
        return toolkit(self.isa).check(self.code, single_segment=single_segment)

    def _repr_html_(self) -> str:
        from qpu.display.program import program_html

        return program_html(self, self.check(), toolkit(self.isa).disassemble)
