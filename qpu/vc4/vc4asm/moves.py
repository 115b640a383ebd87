"""Moves: of registers, of constants by whatever operation makes them, load immediates, semaphores."""

from __future__ import annotations

from collections.abc import Sequence

from qpu.vc4.regs import small_imm_value
from qpu.vc4.vc4asm import constants
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.names import DST_PACKS, OP_PACKS
from qpu.vc4.vc4asm.ports import Ports, show
from qpu.vc4.vc4asm.registers import ROTATE_BY_R5, Reg
from qpu.vc4.vc4asm.state import (
    ADD_TO_MUL,
    ADD_TO_MUL_SAME,
    FIXED,
    FREE,
    IMMEDIATE,
    MOVABLE,
    MUL_TO_ADD,
    MUL_TO_ADD_SAME,
    OR,
    SIG_LOAD_IMM,
    V8MIN,
    V8SUBS_M,
    XOR,
    Operand,
    Operation,
)
from qpu.vc4.vc4asm.values import LabelRef, PerElement, described, float_bits, word32

__all__ = ["Moves"]


class Moves(Ports):
    """mov, ldi, sacq and srel."""

    __slots__ = ()

    # -- mov -----------------------------------------------------------------------------------------------------

    def _mov(self, op: Operation) -> None:
        self._count_operands(op, 2, 3)
        operands = op.operands
        source = operands[-1]
        value = source.value
        if isinstance(value, Reg) and value.semaphore < 0:
            self._mov_register(op, source, value)
        elif isinstance(value, Reg):
            if source.exts:
                raise Fault("unpack-source", "only registers can be unpacked", source.exts[0][1])
            self._load(op, operands[:-1], 4, value.semaphore)
        elif isinstance(value, LabelRef):
            raise Fault("label-operand", "a label alone is an operand of branches only", source.pos)
        else:
            if source.exts:
                raise Fault("unpack-source", "only registers can be unpacked", source.exts[0][1])
            self._mov_constant(op, source, value)

    def _wants_mul(self, op: Operation) -> bool:
        """True when an extension of the operation, or of its first destination, packs a MUL result."""
        for name, _ in op.exts:
            if name in OP_PACKS and OP_PACKS[name][0]:
                return True
        for dst in op.operands[:1]:
            reg = dst.value
            for name, _ in dst.exts:
                row = DST_PACKS.get(name)
                if row is not None and row.mul > 0:
                    in_a = isinstance(reg, Reg) and reg.write_files == 1 and reg.waddr < 32
                    if row.file_a < 0 or not in_a:
                        return True
        return False

    def _destination_rotation(self, op: Operand) -> int:
        """Rotation up that a rotated destination asks of the source: the other way round; -1 by r5, 0 none."""
        reg = op.value
        if not isinstance(reg, Reg) or not reg.rotation:
            return 0
        return ROTATE_BY_R5 if reg.rotation == ROTATE_BY_R5 else -reg.rotation & 15

    def _mov_register(self, op: Operation, source: Operand, reg: Reg) -> None:
        info, operands = op.info, op.operands
        rotation = self._destination_rotation(operands[0])
        if rotation:
            if reg.rotation:
                raise Fault("rotate-twice", "source and destination are both rotated", operands[0].pos)
            reg = reg.rotated(rotation)
            source = Operand(reg, source.exts, source.pos)
        if len(operands) == 3:
            self._take(op, mul=False)
            sets, _ = self._operation_exts(op, mul=False)
            self._destination(operands[0], mul=False)
            self._mov_one(op, operands[1], source, mul=True, again=True)
            if sets and not self.sf:
                self._set_flags(op.pos, mul=True)
            self._note(
                "mov-two-destinations",
                "the first destination is written by an ADD nop, as in the reference assembler",
                operands[0].pos,
                "write two mov",
            )
            return
        mul = info.add < 0
        if not mul:
            must = reg.rotation != 0 or self._wants_mul(op)
            if must and info.mul < 0:
                raise Fault("rotate-add", "only the MUL ALU rotates and packs colours", op.pos, help="use mov")
            mul = must or (info.mul >= 0 and self.add_used and not self.mul_used)
        self._mov_one(op, operands[0], source, mul=mul)

    def _mov_one(self, op: Operation, dst: Operand, source: Operand, *, mul: bool, again: bool = False) -> None:
        self._take(op, mul=mul)
        if mul:
            self.op_mul = V8MIN
        else:
            self.op_add = OR
        sets, unpack = self._operation_exts(op, mul=mul) if op.exts else (False, None)
        sets |= self._destination(dst, mul=mul)
        mux = self._source(source, mul=mul, float_op=False, move=True)
        if mul:
            self.mul_a = self.mul_b = mux
        else:
            self.add_a = self.add_b = mux
        if unpack:
            self._operation_unpack(unpack, False)
        if sets and not (again and self.sf):
            self._set_flags(op.pos, mul=mul)

    def _mov_constant(self, op: Operation, source: Operand, value: int | float | PerElement) -> None:
        info, operands = op.info, op.operands
        destinations = operands[:-1]
        for dst in destinations:
            if isinstance(dst.value, Reg) and dst.value.rotation:
                raise Fault("rotate-destination", "a constant is the same in all lanes; it is not rotated", dst.pos)
        if isinstance(value, PerElement):
            self._load(op, destinations, 1 if value.signed else 3, value.bits)
            return
        bits = word32(value, source.pos)
        if isinstance(value, float) and bits & 0x7FFFFFFF == 0x7F800000 and abs(value) != float("inf"):
            self._note("float-range", f"{value} is out of range and becomes infinity", source.pos)
        if len(destinations) == 2:
            self._load(op, destinations, 0, bits, mul=self._wants_mul(op))
            return
        if self.sig == SIG_LOAD_IMM:
            if self._share_load(op, destinations[0], bits):
                return
            raise Fault("load-immediate-full", "this instruction already loads an immediate", op.pos)
        dst = destinations[0]
        self._reject_saturating_pack(op, dst)
        mul_only = info.add < 0 or self._wants_mul(op)
        if mul_only and info.mul < 0:
            raise Fault("pack-mul-only", "the pack is done by the MUL ALU only", op.pos)
        for mul in (False, True):
            if (mul_only and not mul) or (mul and info.mul < 0):
                continue
            if self.mul_used if mul else self.add_used:
                continue
            choice = self._choose(bits, dst, op, mul=mul)
            if choice is not None:
                self._mov_with(op, dst, source, choice, mul=mul)
                return
        if self.add_used != self.mul_used and not mul_only:
            # The other ALU may have a way, if what it does can come over here.
            mul = self.mul_used
            if (info.mul if mul else info.add) >= 0 and self._can_swap():
                choice = self._choose(bits, dst, op, mul=mul)
                if choice is not None:
                    self._mov_beside(op, dst, source, choice, mul=mul)
                    return
        if (self.add_used and self.op_add) or (self.mul_used and self.op_mul):
            raise Fault(
                "constant",
                f"no operation gives {show(value)} in the half of the instruction that is left",
                source.pos,
                help="load it in an instruction of its own",
            )
        self._load(op, destinations, 0, bits, mul=mul_only or self.add_used)

    def _reject_saturating_pack(self, op: Operation, dst: Operand) -> None:
        for name, pos in (*op.exts, *dst.exts):
            if name in ("pack32s", "pack32clamp", "32s", "32si", "32clamp"):
                raise Fault(
                    "pack-constant", "a constant does not saturate at 32 bits", pos, help="leave the extension out"
                )

    def _can_swap(self) -> bool:
        if self.sf or self.rotation >= 0 or (self.pm and self.pack):
            return False
        if self.add_used:
            return self.op_add in ADD_TO_MUL or (self.add_a == self.add_b and self.op_add in ADD_TO_MUL_SAME)
        return self.op_mul in MUL_TO_ADD or (self.mul_a == self.mul_b and self.op_mul in MUL_TO_ADD_SAME)

    def _choose(self, bits: int, dst: Operand, op: Operation, *, mul: bool) -> constants.Candidate | None:
        """The best way to make `bits` on an ALU, given what ports, signal and packs are taken."""
        if bits == 0:
            return constants.Candidate(V8SUBS_M if mul else XOR, -1, 0, 0)
        if self.sig not in (1, 13) or self.rb_state == FIXED:
            return None
        if self.rb_state == MOVABLE and not self.zero_b and self.ra_state != FREE and self.raddr_a != self.raddr_b:
            return None
        packs = self.pack_set or any(n in DST_PACKS for n, _ in dst.exts) or any(n in OP_PACKS for n, _ in op.exts)
        reg = dst.value
        in_a = isinstance(reg, Reg) and reg.write_files == 1 and reg.waddr < 32
        held = small_imm_value(self.raddr_b) if self.rb_state == IMMEDIATE else None
        for choice in constants.candidates(bits, mul=mul):
            if held is not None and small_imm_value(choice.code) != held:
                continue
            if choice.pack:
                if packs or (not choice.pm and not in_a) or (self.pm_why and self.pm != choice.pm):
                    continue
                if choice.pm and isinstance(reg, Reg) and reg.waddr >= 36:
                    continue  # peripherals do not take packed results
            return choice
        return None

    def _mov_with(
        self, op: Operation, dst: Operand, source: Operand, choice: constants.Candidate, *, mul: bool
    ) -> None:
        self._take(op, mul=mul)
        self._fill_constant(op, dst, source, choice, mul=mul)

    def _fill_constant(
        self, op: Operation, dst: Operand, source: Operand, choice: constants.Candidate, *, mul: bool
    ) -> None:
        # Type checks of packs see a move of an integer, whatever operation makes the constant.
        if mul:
            self.op_mul = V8MIN
        else:
            self.op_add = OR
        sets, unpack = self._operation_exts(op, mul=mul) if op.exts else (False, None)
        if unpack:
            raise Fault("unpack-source", "only registers can be unpacked", op.exts[0][1])
        sets |= self._destination(dst, mul=mul)
        self._finish_constant(source, choice, mul=mul)
        if sets:
            self._set_flags(op.pos, mul=mul)

    def _finish_constant(self, source: Operand, choice: constants.Candidate, *, mul: bool) -> None:
        if choice.code >= 0:
            mux = self._small_immediate(choice.code, source.pos)
        else:
            mux = 7
            if self.rb_state == FREE:
                self.zero_b, self.rb_state = True, MOVABLE
        if mul:
            self.op_mul, self.mul_a, self.mul_b = choice.op, mux, mux
        else:
            self.op_add, self.add_a, self.add_b = choice.op, mux, mux
        if choice.pack:
            self._want_pm(choice.pm, "pack", source.pos)
            self._set_pack(choice.pack, source.pos)
            if choice.pm and choice.pack > 7:
                self._note(
                    "reserved-pack",
                    f"this constant is made with pack code {choice.pack}, which the guide leaves undefined",
                    source.pos,
                    "load the constant in an instruction of its own",
                )

    def _mov_beside(
        self, op: Operation, dst: Operand, source: Operand, choice: constants.Candidate, *, mul: bool
    ) -> None:
        """Place the mov on the ALU in use after moving what is there to the other; ws turns with the exchange."""
        other = not mul
        if other:
            self.mul_used, self.cond_mul, self.op_mul = True, 1, V8MIN
        else:
            self.add_used, self.cond_add, self.op_add = True, 1, OR
        sets, unpack = self._operation_exts(op, mul=other)
        if unpack:
            raise Fault("unpack-source", "only registers can be unpacked", op.exts[0][1])
        sets |= self._destination(dst, mul=other)
        if not self._swap():
            raise Fault("alu-taken", "the ALUs cannot be exchanged", op.pos)
        self._finish_constant(source, choice, mul=mul)
        if sets:
            self._set_flags(op.pos, mul=mul)

    # -- load immediate and semaphores ---------------------------------------------------------------------------

    def _share_load(self, op: Operation, dst: Operand, bits: int) -> bool:
        """A second mov of the same constant joins a load immediate that has an ALU's destination left."""
        if self.mode or self.imm != bits or op.exts or dst.exts or self.pack_set:
            return False
        if self.add_used and self.mul_used:
            return False
        mul = self.add_used
        if (op.info.mul if mul else op.info.add) < 0:
            return False
        if mul:
            self.mul_used, self.cond_mul = True, 1
        else:
            self.add_used, self.cond_add = True, 1
        self._destination(dst, mul=mul)
        return True

    def _ldi(self, op: Operation) -> None:
        self._count_operands(op, 2, 3)
        source = op.operands[-1]
        value = source.value
        destinations = op.operands[:-1]
        mode = op.info.code
        if source.exts:
            raise Fault("unpack-source", "a constant cannot be unpacked", source.exts[0][1])
        if isinstance(value, LabelRef):
            raise Fault("label-operand", "a label alone is an operand of branches only", source.pos)
        if isinstance(value, Reg):
            if value.semaphore >= 0 and not mode:
                self._load(op, destinations, 4, value.semaphore)
                return
            raise Fault("value-type", f"{op.info.name} loads a constant, not {described(value)}", source.pos)
        if isinstance(value, PerElement):
            if (mode == 1 and not value.signed) or (mode == 3 and not value.unsigned):
                raise Fault("per-element", f"an element is out of range for {op.info.name}", source.pos)
            self._load(op, destinations, mode or (1 if value.signed else 3), value.bits)
            return
        if isinstance(value, float) and float_bits(value) & 0x7FFFFFFF == 0x7F800000 and abs(value) != float("inf"):
            self._note("float-range", f"{value} is out of range and becomes infinity", source.pos)
        self._load(op, destinations, mode, word32(value, source.pos), mul=self._wants_mul(op))

    def _semaphore(self, op: Operation) -> None:
        self._count_operands(op, 2, 3)
        source = op.operands[-1]
        value = source.value
        if not isinstance(value, int) or source.exts:
            raise Fault("semaphore", f"a semaphore number is an integer, not {described(value)}", source.pos)
        bits = word32(value, source.pos)
        if not op.info.code and bits & 16:
            raise Fault("semaphore", f"srel {value}: bit 4 of the number would make it an acquire", source.pos,
                        allowed="0..15")  # fmt: skip
        self._load(op, op.operands[:-1], 4, bits | op.info.code)

    def _load(self, op: Operation, destinations: Sequence[Operand], mode: int, imm: int, *, mul: bool = False) -> None:
        """Fill in a load immediate (mode 0, 1, 3) or semaphore (mode 4)."""
        occupied = (self.add_used and (self.op_add or self.waddr_add != 39)) or (
            self.mul_used and (self.op_mul or self.waddr_mul != 39)
        )
        if self.sig != 1 or occupied or self.ra_state or self.rb_state or self.unpack:
            what = "a semaphore" if mode == 4 else "a load immediate"
            raise Fault("load-immediate-full", f"{what} is an instruction of its own", op.pos)
        self.sig, self.mode, self.imm = SIG_LOAD_IMM, mode, imm
        sets = False
        for i, dst in enumerate(destinations):
            if isinstance(dst.value, Reg) and dst.value.rotation:
                raise Fault("rotate-destination", "a load immediate does not rotate", dst.pos)
            on_mul = mul != (i == 1)
            if on_mul:
                self.mul_used, self.cond_mul = True, 1
            else:
                self.add_used, self.cond_add = True, 1
            more, unpack = self._operation_exts(op, mul=on_mul, packs=not i)
            if len(destinations) > 1:
                self.asked_pack = None  # it applies to whichever goes to file A
            if unpack:
                raise Fault("unpack-source", "a constant cannot be unpacked", op.exts[0][1])
            sets |= more | self._destination(dst, mul=on_mul)
        if sets:
            self.sf = 1
