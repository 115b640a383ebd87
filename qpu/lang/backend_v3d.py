"""The passes for V3D in order: from KIR to a program."""

from __future__ import annotations

from qpu.core.isa import Isa
from qpu.errors import CompileError, Diagnostic
from qpu.lang.bundle import bundle
from qpu.lang.coalesce import coalesce
from qpu.lang.colour import colour_v3d
from qpu.lang.compile import KernelIR, remove_dead
from qpu.lang.layout import Laid, lay_out_v3d
from qpu.lang.legalise import legalise
from qpu.lang.memory import plan_memory
from qpu.lang.mir import OutOfRegisters
from qpu.lang.order import order
from qpu.lang.select_v3d import select_v3d
from qpu.lang.target_v3d import V3dTarget

__all__ = ["compile_v3d"]


def compile_v3d(ir: KernelIR, isa: Isa, *, threads: int = 2, wide: frozenset[int] | None = None) -> Laid:
    """A program for one V3D. threads: on a QPU; wide: arrays whose accesses may be four words at once.

    Raises: CompileError (lang-reg) where more values are live than registers exist.
    """
    capacity = 16 // threads
    registers = 64 // (threads // 2)
    arrays = frozenset(range(sum(p.kind == "array" for p in ir.parameters)))
    legal = legalise(ir.region, str(isa))
    planned = plan_memory(legal, str(isa), capacity, arrays if wide is None else wide, ir.inputs)
    remove_dead(planned)
    tries = [(lean, limit) for lean in (False, True) for limit in (registers - 8, registers - 16, registers // 2, 10)]
    for lean, limit in tries:
        function = select_v3d(planned, isa, lean=lean)
        coalesce(function)
        order(function, V3dTarget(isa, {}).slots, capacity, limit)
        try:
            colour = colour_v3d(function, isa, registers)
        except OutOfRegisters:
            continue
        target = V3dTarget(isa, colour)
        laid = lay_out_v3d(function, bundle(function, target, capacity), isa)
        laid.threads = threads
        laid.registers = len(set(colour.values()))
        return laid
    finding = Diagnostic("lang-reg", f"more values are live than the {registers} registers hold", help="coarsen=1")
    raise CompileError(finding.render(), [finding])
