"""Reports of compiled kernels: loops, what bounds them, registers, bytes, instructions by source line."""

from __future__ import annotations

import linecache
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qpu.core.isa import Isa
from qpu.core.optable import Token
from qpu.errors import Diagnostic, counted
from qpu.program import Program

if TYPE_CHECKING:
    from qpu.lang.compile import KernelIR
    from qpu.lang.layout import Laid

__all__ = ["LoopReport", "Report", "report", "text_of"]

_MEMORY = frozenset({
    Token.TMU_REQUEST, Token.TMU_RESULT, Token.TMU1_REQUEST, Token.TMU1_RESULT, Token.VPM_READ, Token.VPM_WRITE,
    Token.DMA_LOAD, Token.DMA_STORE,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoopReport:
    """One loop. line: of its first instruction that has one; depth: loops around it, itself included; start, stop: its
    instructions; uses: how many of them use "add", "mul", "signal", "memory"; items: that a turn takes, 0 where that
    is not known; loaded, stored: bytes a turn and QPU thread.
    """

    line: int | None
    depth: int
    start: int
    stop: int
    uses: Mapping[str, int]
    items: int
    loaded: int
    stored: int

    @property
    def instructions(self) -> int:
        """Instructions of one turn when nothing inside is skipped."""
        return self.stop - self.start

    @property
    def bound(self) -> str:
        """What keeps the loop from being shorter: the part of the machine that is used most."""
        name, most = max(self.uses.items(), key=lambda item: item[1])
        return f"{name} ({most} of {counted(self.instructions, 'instruction')})"

    @property
    def per_16(self) -> float | None:
        """Instructions for 16 items."""
        return 16 * self.instructions / self.items if self.items else None


@dataclass(frozen=True, slots=True)
class Report:
    """What a kernel became. registers: used of the register files; loops: innermost ones last at each place."""

    instructions: int
    uniforms: int
    registers: int
    threads: int
    coarsen: int
    loops: tuple[LoopReport, ...]


def _uses_v3d(word: int, isa: Isa) -> list[str]:
    from qpu.v3d.decode import decode
    from qpu.v3d.effects import effects
    from qpu.v3d.instr import Alu

    instr = decode(isa, word)
    if not isinstance(instr, Alu):
        return []
    found = [name for name, half in (("add", instr.add), ("mul", instr.mul)) if half.op.name != "nop"]
    if instr.sig:
        found.append("signal")
    if effects(instr).tokens & _MEMORY:
        found.append("memory")
    return found


def _uses_vc4(word: int, isa: Isa) -> list[str]:
    from qpu.vc4.decode import decode
    from qpu.vc4.effects import effects
    from qpu.vc4.instr import Alu, LoadImm

    instr = decode(word)
    found: list[str] = []
    if isinstance(instr, Alu):
        found += [name for name, op in (("add", instr.op_add), ("mul", instr.op_mul)) if op]
        if instr.sig != 1:
            found.append("signal")
    elif isinstance(instr, LoadImm):
        found += ["add", "mul", "signal"]
    if effects(instr).tokens & _MEMORY:
        found.append("memory")
    return found


def report(isa: Isa, laid: Laid, ir: KernelIR) -> Report:
    """The report of a kernel that was laid out."""
    uses = _uses_vc4 if isa is Isa.VC4 else _uses_v3d
    spans: set[tuple[int, int]] = set()
    for block, (_, stop) in laid.spans.items():
        target = None if block.branch is None else laid.spans[block.branch[0]]
        if target is not None and target[0] < stop and target[0] <= laid.spans[block][0]:
            spans.add((target[0], stop))
    ordered = sorted(spans, key=lambda s: (s[0], -s[1]))
    loops = []
    for n, (start, stop) in enumerate(ordered):
        depth = sum(a <= start and stop <= b for a, b in ordered)
        facts = ir.loops[n] if len(ir.loops) == len(ordered) and ir.loops[n].depth == depth else None
        counts = Counter(u for word in laid.code.code[start:stop] for u in uses(word, isa))
        line = next((loc.line for i in range(start, stop) if (loc := laid.code.loc(i)) is not None), None)
        loops.append(
            LoopReport(line, depth, start, stop, {k: counts[k] for k in ("add", "mul", "signal", "memory")},
                       facts.items if facts else 0, facts.loaded if facts else 0, facts.stored if facts else 0)
        )  # fmt: skip
    return Report(len(laid.code), len(laid.uniforms), laid.registers, laid.threads, ir.coarsen, tuple(loops))


def text_of(name: str, isa: Isa, program: Program, r: Report, notes: Sequence[Diagnostic] = ()) -> str:
    """A page of text about a compiled kernel. notes: what costs."""
    knobs = f"coarsen={r.coarsen}" + ("" if isa is Isa.VC4 else f", threads={r.threads}")
    sizes = ", ".join(counted(getattr(r, f"{noun}s"), noun) for noun in ("instruction", "uniform", "register"))
    rows = [f"{name} on {isa.label}: {sizes}; {knobs}"]
    for loop in r.loops:
        where = "" if loop.line is None else f" at line {loop.line}"
        items = f", {counted(loop.items, 'item')} a turn: {loop.per_16:g} for 16" if loop.items else ""
        rows.append(f"{'  ' * loop.depth}loop{where}: {counted(loop.instructions, 'instruction')}{items}")
        bytes_ = (
            f"; {counted(loop.loaded, 'byte')} loaded, {loop.stored} stored a turn"
            if loop.loaded or loop.stored
            else ""
        )
        rows.append(f"{'  ' * loop.depth}  bound by {loop.bound}{bytes_}")
    rows += [f"  note at line {n.loc.line if n.loc else '?'}: {n.message}" for n in notes]
    rows += ["  line  instructions  source", *_lines(program)]
    return "\n".join(rows)


def _lines(program: Program) -> list[str]:
    counts: Counter[tuple[str, int]] = Counter()
    unknown = 0
    for i in range(len(program)):
        loc = program.loc(i)
        if loc is None:
            unknown += 1
        else:
            counts[loc.file, loc.line] += 1
    rows = []
    for (file, line), count in sorted(counts.items()):
        rows.append(f"  {line:4}  {count:12}  {linecache.getline(file, line).strip()}")
    if unknown:
        rows.append(f"     -  {unknown:12}  start, end, and what belongs to no line")
    return rows
