"""Listings of VideoCore IV programs, for people and as assembler input."""

from __future__ import annotations

from qpu.core.code import Code
from qpu.vc4.decode import decode
from qpu.vc4.instr import Branch
from qpu.vc4.printer import instruction_text

__all__ = ["branch_target", "listing"]


def branch_target(instr: Branch, index: int) -> int | None:
    """Index of the instruction that a relative branch at `index` reaches; None when that is not known."""
    if not instr.rel or instr.reg:
        return None
    offset = instr.imm - (1 << 32) if instr.imm >> 31 else instr.imm
    return None if offset % 8 else index + 4 + offset // 8


def listing(program: Code) -> str:
    """One instruction a line; labels on lines of their own, branches to them by name. The text assembles again."""
    instrs = [decode(word) for word in program.code]
    names = {index: [name] for name, index in reversed(program.labels.items())}
    for name, index in program.labels.items():
        if name not in names[index]:
            names[index].append(name)
    taken = set(program.labels)
    for index, instr in enumerate(instrs):
        if isinstance(instr, Branch):
            target = branch_target(instr, index)
            if target is not None and 0 <= target <= len(instrs) and target not in names:
                name = f"L{target}"
                while name in taken:
                    name += "_"
                taken.add(name)
                names[target] = [name]
    lines: list[str] = []
    for index, instr in enumerate(instrs):
        lines += [f":{name}" for name in names.get(index, ())]
        where = None
        if isinstance(instr, Branch):
            target = branch_target(instr, index)
            if target is not None and target in names:
                where = f":{names[target][0]}"
        lines.append("    " + instruction_text(instr, where))
    lines += [f":{name}" for name in names.get(len(instrs), ())]
    return "\n".join(lines) + "\n" if lines else ""
