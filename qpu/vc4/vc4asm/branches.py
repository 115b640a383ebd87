"""The reader of branch operations: condition, link registers and target."""

from __future__ import annotations

from qpu.vc4.instr import Branch
from qpu.vc4.pairing import RULES, Clash, results
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.names import ALU_CONDS, BRANCH_CONDS
from qpu.vc4.vc4asm.operands import BranchTarget, Operand, Operation, count_operands, unknown_extension
from qpu.vc4.vc4asm.registers import Reg
from qpu.vc4.vc4asm.sides import Reader, Side
from qpu.vc4.vc4asm.values import LabelRef, described, word32

__all__ = ["read_branch"]


def read_branch(op: Operation, reader: Reader) -> tuple[Branch, BranchTarget | None]:
    """The branch instruction of `op`, and the label whose address must be added to it, if any."""
    count_operands(op, 2, 4)
    operands = op.operands
    relative = op.info.code
    cond, sets = 15, False
    for name, pos in op.exts:
        if name in BRANCH_CONDS:
            cond = BRANCH_CONDS[name]
        elif name in ("setf", "sf"):
            sets = True
        elif name in ALU_CONDS:
            raise Fault(
                "branch-condition", f".{name} is not a branch condition", pos, allowed="." + " .".join(BRANCH_CONDS)
            )
        else:
            raise unknown_extension(name, pos, "a branch")
    links = [Side(), Side()]
    _link(operands[0], links[0], reader, mul=False)
    targets = operands[1:]
    if len(operands) == 4:
        _link(operands[1], links[1], reader, mul=True)
        targets = operands[2:]
    reg, imm = -1, 0
    label: LabelRef | None = None
    reg_pos = op.pos
    for i, operand in enumerate(targets):
        value = operand.value
        if operand.exts:
            raise Fault("branch-target", "a branch target takes no extension", operand.exts[0][1])
        if isinstance(value, Reg):
            if value.family == "nop":
                continue
            if value.family != "ra" or value.number > 31 or value.rotation:
                raise Fault(
                    "branch-target", f"{value.name} cannot hold a branch target", operand.pos, allowed="ra0..ra31"
                )
            if reg >= 0:
                raise Fault("branch-target", "a branch has one register target", operand.pos)
            reg, reg_pos = value.number, operand.pos
        elif i and not isinstance(targets[0].value, Reg):
            raise Fault("branch-target", "a branch has one constant target", operand.pos)
        elif isinstance(value, LabelRef):
            label = value
            if not relative:
                reader.note("branch-absolute",
                            "bra jumps to an absolute bus address; a label is an offset in the program", operand.pos,
                            "use brr, or add the load address")  # fmt: skip
        else:
            if not isinstance(value, int):
                raise Fault("branch-target", f"a branch target is not {described(value)}", operand.pos)
            imm = word32(value, operand.pos)
            if imm & 7 and reg < 0:
                reader.note("branch-alignment", f"{value} is not a multiple of 8 bytes", operand.pos)
    if reg < 0 and label is None and not any(not isinstance(t.value, Reg) for t in targets):
        raise Fault(
            "branch-target", "a branch needs a target", targets[0].pos, allowed="a label, a constant, ra0..ra31"
        )
    raddr = max(reg, 0)
    if sets:
        if reg >= 0 and not reg & 1:
            raise Fault("branch-setf", "a branch through an even register cannot set flags", reg_pos,
                        allowed="odd registers")  # fmt: skip
        raddr |= 1
    elif reg & 1 and reg >= 0:
        reader.note("branch-odd", f"a branch through ra{reg}, an odd register, sets the flags as well", reg_pos,
                   "use an even register, or .setf to show that it is meant")  # fmt: skip
    found = results(links[0].dst, links[1].dst)
    if isinstance(found, Clash):
        advice = RULES[found.rule]
        raise Fault(found.rule, found.message, operands[1].pos, allowed=advice.allowed, help=advice.help)
    branch = Branch(cond, relative, int(reg >= 0), raddr, found.ws, links[0].dst.n, links[1].dst.n, imm)
    return branch, None if label is None else BranchTarget(label, branch)


def _link(op: Operand, side: Side, reader: Reader, *, mul: bool) -> None:
    """The destination of the return address."""
    if op.exts:
        raise Fault("branch-destination", "the link of a branch takes no extension", op.exts[0][1])
    if isinstance(op.value, Reg) and op.value.rotation:
        raise Fault("branch-destination", "the link of a branch is not rotated", op.pos)
    reader.destination(op, side, mul=mul)
