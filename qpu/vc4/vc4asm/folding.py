"""Replacement of instructions that only make a constant by load immediates, as in the reference assembler."""

from __future__ import annotations

from qpu.vc4.instr import Alu, LoadImm, LoadMode
from qpu.vc4.regs import NOP, SIG_ALU, SIG_SMALL_IMM
from qpu.vc4.vc4asm import constants
from qpu.vc4.vc4asm.sides import Reader, Side

__all__ = ["load_instead"]

FSUB, ISUB, XOR, V8SUBS_M = 2, 13, 22, 7


def load_instead(i: Alu, add: Side, mul: Side, reader: Reader, *, b_free: bool) -> LoadImm | None:
    """The load immediate of the ADD ALU that is equivalent to `i`, which reads no register; None when there is none.

    b_free: port B is not used.
    """
    imm = i.sig == SIG_SMALL_IMM
    if imm:
        if i.sf:
            return None
        if i.op_add and add.b is not None and i.add_a == i.add_b == 7 and mul.idle:
            side, on_mul = add, False
        elif i.op_mul and i.mul_a == i.mul_b == 7 and add.idle:
            side, on_mul = mul, True
        else:
            return None
        folded = constants.fold(side.op, i.raddr_b, mul=on_mul)
        value = None if folded is None else constants.pack_constant(folded, i.pm, i.pack)
        if value is None:
            return None
        if side is add and i.op_add == FSUB and folded:
            message = f"fsub of two equal constants becomes a load of 0x{folded:x}"
            reader.note("fsub-folded", f"{message}, as in the reference assembler", 0,
                        "write mov with the constant you want")  # fmt: skip
        i = i._replace(pm=0, pack=0)
    elif i.sig == SIG_ALU and b_free:
        value = 0
        if i.op_add in (XOR, ISUB) and i.add_a == i.add_b:
            if not mul.idle:
                return None
            side, on_mul = add, False
        elif i.op_mul == V8SUBS_M and i.mul_a == i.mul_b and add.idle and not i.sf:
            side, on_mul = mul, True
        else:
            return None
        if i.pack:
            return _load_of(i, 0)
        if on_mul and i.waddr_mul != NOP:
            message = "zeroing on the MUL ALU alone becomes a load immediate that is never executed"
            reader.note("zero-lost", f"{message}, as in the reference assembler", 0,
                       "write mov without the leading nop, or use the ADD ALU")  # fmt: skip
        if on_mul:
            i = i._replace(cond_mul=0)
    else:
        return None
    if on_mul:
        ws = 0 if side.dst.file is None else int(side.dst.file)
        i = i._replace(cond_add=i.cond_mul, waddr_add=i.waddr_mul, waddr_mul=NOP, ws=ws)
    return _load_of(i._replace(cond_mul=0), value)


def _load_of(i: Alu, value: int) -> LoadImm:
    """A load immediate with the results of an ALU instruction."""
    return LoadImm(LoadMode.WORD, i.pm, i.pack, i.cond_add, i.cond_mul, i.sf, i.ws, i.waddr_add, i.waddr_mul, value)
