"""Placement: operations of one line into one instruction.

An `Instruction` takes the operations of a line one after the other and decides what the language leaves open: the ALU,
the read ports of registers that both files offer, the write swap, small immediates against load immediates. Faults say
which operands compete for what.
"""

from __future__ import annotations

from collections.abc import Sequence

from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, LoadMode, Semaphore
from qpu.vc4.regs import NOP, small_imm_value
from qpu.vc4.vc4asm import constants
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.moves import Moves
from qpu.vc4.vc4asm.names import ALU_CONDS, BRANCH_CONDS
from qpu.vc4.vc4asm.ports import unknown_extension
from qpu.vc4.vc4asm.registers import Reg
from qpu.vc4.vc4asm.state import (
    ADD,
    FLOAT_ADD,
    FREE,
    IMMEDIATE,
    SEMAPHORE,
    SHIFTS,
    SIG_LOAD_IMM,
    SUB,
    UNARY_ADD,
    V8SUBS_M,
    XOR,
    BranchTarget,
    Operand,
    Operation,
)
from qpu.vc4.vc4asm.values import LabelRef, described, word32

__all__ = ["Instruction"]


def _is_constant(op: Operation) -> bool:
    return op.info.kind == "mov" and bool(op.operands) and isinstance(op.operands[-1].value, int | float)


def _rotates(op: Operation) -> bool:
    return any(isinstance(operand.value, Reg) and operand.value.rotation for operand in op.operands)


class Instruction(Moves):
    """An instruction under construction; one object serves many lines."""

    __slots__ = ()

    def assemble(self, operations: Sequence[Operation]) -> Instr:
        """The instruction of one line's operations. `target` tells whether a label must still be added."""
        order = list(enumerate(operations))
        try:
            return self._assemble(order)
        except Fault:
            failed = self.current
            # A rotation leaves one small immediate to choose from, so the constants beside it come last.
            late = [_is_constant(op) and any(map(_rotates, operations[i + 1 :])) for i, op in order]
            if any(late):
                try:
                    return self._assemble(sorted(order, key=lambda row: late[row[0]]))
                except Fault:
                    self.current = failed
            raise

    def _assemble(self, order: Sequence[tuple[int, Operation]]) -> Instr:
        self.reset()
        for index, op in order:
            self.current = index
            kind = op.info.kind
            if kind == "alu":
                self._alu(op)
            elif kind == "mov":
                self._mov(op)
            elif kind == "sig":
                self._signal(op)
            elif kind == "ldi":
                self._ldi(op)
            elif kind == "nop":
                self._nop(op)
            elif kind == "read":
                self._read(op)
            elif kind == "sem":
                self._semaphore(op)
            else:
                if len(order) > 1:
                    raise Fault("branch-alone", "a branch is an instruction of its own", op.pos)
                self._branch(op)
        return self._finish()

    def _finish(self) -> Instr:
        if self.branch is not None:
            return self.branch
        if self.sig != SIG_LOAD_IMM and self.unpack:
            self._check_unpack()
        if not self.sf:
            if self.waddr_add == NOP:
                self.cond_add = 0
            if self.waddr_mul == NOP:
                self.cond_mul = 0
        elif self.sig == SIG_LOAD_IMM:
            pass
        elif self.sf_mul:
            if not self.op_add and self.waddr_add == NOP:
                self.cond_add = 1
        elif self.waddr_mul == NOP:
            self.cond_mul = 0
        if self.sig == SIG_LOAD_IMM or (self.ra_state == FREE and self.rotation < 0 and self._to_load_immediate()):
            fields = (self.pm, self.pack, self.cond_add, self.cond_mul, self.sf, self.ws, self.waddr_add,
                      self.waddr_mul, self.imm)  # fmt: skip
            return Semaphore(*fields) if self.mode == SEMAPHORE else LoadImm(LoadMode(self.mode), *fields)
        if self.op_add in UNARY_ADD:
            self.add_b = self.add_a
        elif self.op_add in (XOR, SUB) and self.add_a == self.add_b and not self.mul_used:
            self.cond_mul = 1  # as the reference assembler has it; without effect, for nothing is written
        return Alu(
            self.sig, self.unpack, self.pm, self.pack, self.cond_add, self.cond_mul, self.sf, self.ws, self.waddr_add,
            self.waddr_mul, self.op_mul, self.op_add, self.raddr_a, self.raddr_b, self.add_a, self.add_b, self.mul_a,
            self.mul_b,
        )  # fmt: skip

    # -- load immediate instead of a small immediate -------------------------------------------------------------

    def _to_load_immediate(self) -> bool:
        """Turn op(s, s) with nothing beside it into a load immediate on the ADD side."""
        if self.sig == 13:
            if self.sf:
                return False
            code = self.raddr_b
            if self.op_add and self.add_a == 7 and self.add_b == 7 and not self.op_mul and self.waddr_mul == 39:
                value = constants.fold(self.op_add, code, mul=False)
                if self.op_add == 2 and value:
                    self._note(
                        "fsub-folded",
                        f"fsub of two equal constants becomes a load of 0x{value:x}, as in the reference assembler",
                        0,
                        "write mov with the constant you want",
                    )
            elif self.op_mul and self.mul_a == 7 and self.mul_b == 7 and not self.op_add and self.waddr_add == 39:
                value = constants.fold(self.op_mul, code, mul=True)
                if value is None or constants.pack_constant(value, self.pm, self.pack) is None:
                    return False
                self._mul_to_add_side()
            else:
                return False
            value = None if value is None else constants.pack_constant(value, self.pm, self.pack)
            if value is None:
                return False
        elif self.sig == 1 and (self.rb_state == FREE or self.zero_b):
            value = 0
            op = self.op_add
            if op in (XOR, SUB) and self.add_a == self.add_b:
                if self.op_mul or self.waddr_mul != 39:
                    return False
                if self.pack:
                    return self._load_packed_zero()
            elif (
                self.op_mul == V8SUBS_M and self.mul_a == self.mul_b and not op and self.waddr_add == 39 and not self.sf
            ):
                if self.pack:
                    return self._load_packed_zero()
                self._mul_to_add_side()
                if self.waddr_add != 39:
                    self._note(
                        "zero-lost",
                        "zeroing on the MUL ALU alone becomes a load immediate that is never executed, "
                        "as in the reference assembler",
                        0,
                        "write mov without the leading nop, or use the ADD ALU",
                    )
                self.cond_add = 0
            else:
                return False
        else:
            return False
        self.sig, self.mode, self.imm = SIG_LOAD_IMM, 0, value
        self.pm = self.pack = self.cond_mul = 0
        return True

    def _load_packed_zero(self) -> bool:
        self.sig, self.mode, self.imm = SIG_LOAD_IMM, 0, 0
        return True

    def _mul_to_add_side(self) -> None:
        self.cond_add, self.waddr_add = self.cond_mul, self.waddr_mul
        self.waddr_mul, self.cond_mul = 39, 0
        self.ws = 1 - self.req_mul if self.req_mul is not None else 0

    def _alu(self, op: Operation) -> None:
        info, operands = op.info, op.operands
        if len(operands) != info.sources + 1:
            self._count_operands(op, info.sources + 1, info.sources + 1)
        mul = info.mul >= 0 and (info.add < 0 or not self.mul_used or self.add_used)
        self._take(op, mul=mul)
        if mul:
            self.op_mul = info.mul
            float_op = info.mul == 1
        else:
            self.op_add = info.add
            float_op = info.add in FLOAT_ADD
        sets, unpack = self._operation_exts(op, mul=mul) if op.exts else (False, None)
        sets |= self._destination(operands[0], mul=mul)
        operands = self._rotate_destination(operands, mul=mul)
        if mul:
            self.mul_a = self._source(operands[1], mul=True, float_op=float_op)
            self.mul_b = self._source(operands[2], mul=True, float_op=float_op)
            if self.rotation >= 0:
                self._mixed_rotation(operands)
            if unpack:
                self._operation_unpack(unpack, float_op)
        else:
            self.add_a = self._source(operands[1], mul=False, float_op=float_op)
            if info.sources == 2:
                self.add_b = self._second(operands[2], float_op=float_op)
            if unpack:
                self._operation_unpack(unpack, float_op)
        if sets:
            self._set_flags(op.pos, mul=mul)

    def _rotate_destination(self, operands: Sequence[Operand], *, mul: bool) -> Sequence[Operand]:
        """The operands with the rotation of the destination moved to the sources, the other way round."""
        by = self._destination_rotation(operands[0])
        if not by:
            return operands
        where = operands[0].pos
        if not mul:
            raise Fault("rotate-destination", "only the MUL ALU rotates", where, help="rotate with a mov of its own")
        found = [operands[0]]
        for source in operands[1:]:
            value = source.value
            if isinstance(value, Reg):
                if value.rotation:
                    raise Fault("rotate-twice", "source and destination are both rotated", where)
                source = Operand(value.rotated(by), source.exts, source.pos)
            found.append(source)
        if not any(isinstance(s.value, Reg) for s in found[1:]):
            raise Fault("rotate-destination", "constants are the same in all lanes; they are not rotated", where)
        return found

    def _mixed_rotation(self, operands: Sequence[Operand]) -> None:
        rotated = [o for o in operands[1:] if isinstance(o.value, Reg) and o.value.rotation]
        if len(rotated) == 1:
            plain = operands[1] if rotated[0] is operands[2] else operands[2]
            if isinstance(plain.value, Reg) and plain.value.mux in (0, 1, 2, 3):
                self._note("rotate-both", f"{plain.value.name} is rotated as well", plain.pos)

    def _second(self, op: Operand, *, float_op: bool) -> int:
        """The second source of an ADD operation; shift counts and 16 have forms of their own."""
        value = op.value
        if not isinstance(value, int | float):
            return self._source(op, mul=False, float_op=float_op)
        if op.exts:
            raise Fault("unpack-source", "only registers can be unpacked", op.exts[0][1])
        if self.op_add in SHIFTS:
            return self._small_immediate(word32(value, op.pos) & 31, op.pos)
        if isinstance(value, int) and self.op_add in (ADD, SUB):
            held = small_imm_value(self.raddr_b) if self.rb_state == IMMEDIATE else 0xFFFFFFF0
            negative = -value & 0xFFFFFFFF
            if negative == held and (value == 16 or self.rb_state == IMMEDIATE):
                self.op_add = ADD + SUB - self.op_add
                return self._small_immediate(16 if value == 16 else self.raddr_b, op.pos)
        return self._immediate(value, op.pos)

    def _nop(self, op: Operation) -> None:
        self._count_operands(op, 0, 1)
        info = op.info
        if self.sig == SIG_LOAD_IMM:
            raise Fault("load-immediate-full", "nop does not fit a load immediate instruction", op.pos)
        if not op.operands and not op.exts and self.add_used and self.mul_used:
            return
        mul = info.add < 0 or (info.mul >= 0 and self.add_used)
        if (mul and self.mul_used) or (not mul and self.add_used):
            self._take(op, mul=mul)
        if mul:
            self.mul_used, self.cond_mul = True, 1
        else:
            self.add_used, self.cond_add = True, 1
        sets, unpack = self._operation_exts(op, mul=mul)
        if unpack:
            self._operation_unpack(unpack, False)
        if op.operands:
            sets |= self._destination(op.operands[0], mul=mul)
        if sets:
            self._set_flags(op.pos, mul=mul)

    def _signal(self, op: Operation) -> None:
        self._count_operands(op, 0, 0)
        if op.exts:
            raise unknown_extension(op.exts[0][0], op.exts[0][1], "a signal")
        if self.sig != 1:
            why = {13: "a small immediate or rotation", 14: "a load immediate"}.get(self.sig, "another signal")
            raise Fault("signal-conflict", f"{op.info.name} and {why} do not fit one instruction", op.pos)
        self.sig = op.info.code

    def _read(self, op: Operation) -> None:
        self._count_operands(op, 1, 1)
        if op.exts:
            raise unknown_extension(op.exts[0][0], op.exts[0][1], "read")
        if self.sig == SIG_LOAD_IMM:
            raise Fault("load-immediate-full", "read does not fit a load immediate instruction", op.pos)
        operand = op.operands[0]
        value = operand.value
        if isinstance(value, Reg):
            if not value.read_files or value.rotation or operand.exts:
                what = "accumulators are not read through a port" if value.mux >= 0 else f"{value.name} cannot be read"
                raise Fault("not-readable", what, operand.pos)
            self._port(value, operand.pos)
        elif isinstance(value, int | float):
            self._immediate(value, operand.pos)
        else:
            raise Fault(
                "value-type", f"read takes a register or a small immediate, not {described(value)}", operand.pos
            )

    # -- branches ------------------------------------------------------------------------------------------------

    def _branch(self, op: Operation) -> None:
        self._count_operands(op, 2, 4)
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
                    "branch-condition", f".{name} is no branch condition", pos, allowed="." + " .".join(BRANCH_CONDS)
                )
            else:
                raise unknown_extension(name, pos, "a branch")
        self._branch_destination(operands[0], mul=False)
        targets = operands[1:]
        if len(operands) == 4:
            self._branch_destination(operands[1], mul=True)
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
                    self._note(
                        "branch-absolute",
                        "bra jumps to an absolute bus address; a label is an offset in the program",
                        operand.pos,
                        "use brr, or add the load address",
                    )
            else:
                if not isinstance(value, int):
                    raise Fault("branch-target", f"a branch target is not {described(value)}", operand.pos)
                imm = word32(value, operand.pos)
                if imm & 7 and reg < 0:
                    self._note(
                        "branch-alignment", f"{value} is no multiple of 8, the size of an instruction", operand.pos
                    )
        if reg < 0 and label is None and not any(not isinstance(t.value, Reg) for t in targets):
            raise Fault(
                "branch-target", "a branch needs a target", targets[0].pos, allowed="a label, a constant, ra0..ra31"
            )
        raddr = max(reg, 0)
        if sets:
            if reg >= 0 and not reg & 1:
                raise Fault(
                    "branch-setf",
                    "a branch through an even register cannot set flags",
                    reg_pos,
                    allowed="odd registers",
                )
            raddr |= 1
        elif reg & 1 and reg >= 0:
            self._note("branch-odd", f"a branch through ra{reg}, an odd register, sets the flags as well", reg_pos,
                       "use an even register, or .setf to show that it is meant")  # fmt: skip
        self.branch = Branch(cond, relative, int(reg >= 0), raddr, self.ws, self.waddr_add, self.waddr_mul, imm)
        if label is not None:
            self.target = BranchTarget(label, self.branch)

    def _branch_destination(self, op: Operand, *, mul: bool) -> None:
        if op.exts:
            raise Fault("branch-destination", "the link of a branch takes no extension", op.exts[0][1])
        if isinstance(op.value, Reg) and op.value.rotation:
            raise Fault("branch-destination", "the link of a branch is not rotated", op.pos)
        self._destination(op, mul=mul)
