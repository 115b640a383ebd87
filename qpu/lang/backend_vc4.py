"""The passes for VideoCore IV in order: from KIR to a program."""

from __future__ import annotations

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.errors import CompileError, Diagnostic, Loc
from qpu.lang.bundle import Scheduled, bundle
from qpu.lang.coalesce import coalesce
from qpu.lang.compile import KernelIR, remove_dead
from qpu.lang.layout import Laid
from qpu.lang.legalise import legalise
from qpu.lang.legalise_vc4 import legalise_vc4
from qpu.lang.mir import Block, Function, OutOfRegisters
from qpu.lang.order import order
from qpu.lang.select import Uniform
from qpu.lang.select_vc4 import select_vc4
from qpu.lang.target_vc4 import Vc4Target, colour_vc4
from qpu.vc4.builder import build
from qpu.vc4.decode import decode
from qpu.vc4.encode import encode
from qpu.vc4.instr import Branch

__all__ = ["compile_vc4"]

CAPACITY = 4  # requests that may be pending (vc4.md 13.1)


def compile_vc4(ir: KernelIR) -> Laid:
    """A program for VideoCore IV. Raises: CompileError (lang-reg)."""
    names = [p.name for p in ir.parameters if p.kind == "array"]
    legal = legalise_vc4(legalise(ir.region, "vc4"), names, ir.notes, inputs=ir.inputs)
    remove_dead(legal)
    for lean, limit in [(lean, limit) for lean in (False, True) for limit in (44, 32, 20, 8)]:
        function = select_vc4(legal, lean=lean)
        coalesce(function)
        order(function, Vc4Target({}).slots, CAPACITY, limit)
        try:
            colour = colour_vc4(function)
        except OutOfRegisters:
            continue
        laid = _lay_out(function, bundle(function, Vc4Target(colour), CAPACITY))
        laid.registers = len(set(colour.values()))
        return laid
    finding = Diagnostic("lang-reg", "more values are live than the 64 registers hold", help="coarsen=1")
    raise CompileError(finding.render(), [finding])


def _lay_out(function: Function, scheduled: dict[Block, list[Scheduled]]) -> Laid:
    rows: list[Scheduled] = []
    labels: dict[Block, int] = {}
    for block in function.blocks:
        labels[block] = len(rows)
        rows += scheduled[block]
    rows += [Scheduled(decode(word), []) for word in build(lambda q: q.end()).code]
    words: list[int] = []
    locs: list[Loc | None] = []
    uniforms: list[Uniform] = []
    for i, row in enumerate(rows):
        instr = row.instr
        if isinstance(instr, Branch):
            assert row.target is not None
            instr = Branch(cond=instr.cond, rel=1, imm=(labels[row.target] - i - 4) * 8 & 0xFFFFFFFF)
        words.append(encode(instr))
        locs.append(next((m.loc for m in row.ops if m.loc is not None), None))
        uniforms += [m.uniform for m in row.ops if m.uniform is not None]
    names = {b.name: at for b, at in labels.items()}
    spans = {b: (at, at + len(scheduled[b])) for b, at in labels.items()}
    return Laid(Code(Isa.VC4, tuple(words), names, locs), uniforms, names, function, spans)
