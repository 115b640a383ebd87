"""Placement: operations of one line into one instruction word.

An `Instruction` takes the operations of a line one after the other and decides what the language leaves open: the ALU,
the read ports of registers that both files offer, the write swap, small immediates against load immediates. Faults say
which operands compete for what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qpu.vc4.assembler import constants
from qpu.vc4.assembler.fault import Fault, Note
from qpu.vc4.assembler.names import (
    ALU_CONDS,
    BRANCH_CONDS,
    DST_CONDS,
    DST_PACKS,
    OP_PACKS,
    OP_UNPACKS,
    SRC_UNPACKS,
    OpInfo,
)
from qpu.vc4.assembler.values import ROTATE_BY_R5, LabelRef, PerElement, Reg, Value, float_bits, kind_of, word32
from qpu.vc4.regs import small_imm_code, small_imm_text, small_imm_value

__all__ = ["NOP_WORD", "BranchTarget", "Instruction", "Operand", "Operation"]

NOP_WORD = 0x100009E7009E7000
"""The instruction that does nothing, as every tool encodes it."""

_FREE, _MOVABLE, _FIXED, _IMMEDIATE = 0, 1, 2, 3
_OR, _FMIN, _XOR, _V8ADDS_A, _V8SUBS_A, _V8MIN, _V8ADDS_M, _V8SUBS_M = 21, 3, 22, 30, 31, 4, 6, 7
_ADD, _SUB = 12, 13
_SHIFTS = frozenset({14, 15, 16, 17})
_FLOAT_ADD = frozenset({1, 2, 3, 4, 5, 6, 7})  # ADD operations that read floats
_FLOAT_RESULT_ADD = frozenset({1, 2, 3, 4, 5, 6, 8})
_UNARY_ADD = frozenset({7, 8, 23, 24})
# ADD operations that the MUL ALU can do as well: always, or when both sources are the same.
_ADD_TO_MUL = {0: 0, _V8ADDS_A: _V8ADDS_M, _V8SUBS_A: _V8SUBS_M}
_ADD_TO_MUL_SAME = {_OR: _V8MIN, 20: _V8MIN, 18: _V8MIN, 19: _V8MIN, _XOR: _V8SUBS_M, _SUB: _V8SUBS_M}
_MUL_TO_ADD = {0: 0, _V8ADDS_M: _V8ADDS_A, _V8SUBS_M: _V8SUBS_A}
_MUL_TO_ADD_SAME = {_V8MIN: _OR, 5: _OR}
_SMALL_IMMEDIATES = "-16..15, and the floats 1/256, 1/128 .. 128.0 (powers of two)"


@dataclass(slots=True)
class Operand:
    """An operand: its value, the extensions after it as (name, position), its own position."""

    value: Value
    exts: Sequence[tuple[str, int]]
    pos: int


@dataclass(slots=True)
class Operation:
    """One operation of a line: instruction name, extensions as (name, position), operands."""

    info: OpInfo
    exts: Sequence[tuple[str, int]]
    operands: Sequence[Operand]
    pos: int


@dataclass(frozen=True, slots=True)
class BranchTarget:
    """A branch whose immediate awaits the address of a label."""

    label: LabelRef
    relative: bool


class Instruction:
    """An instruction under construction; use one object for many lines, with `reset()` between."""

    __slots__ = (
        "add_a", "add_b", "add_used", "cond_add", "cond_mul", "current", "imm", "mode", "mul_a", "mul_b", "mul_used", "notes",
        "op_add", "op_mul", "pack", "pack_set", "pm", "pm_why", "ra_state", "raddr_a", "raddr_b", "rb_state", "req_add",
        "req_mul", "rotation", "rotation_shared", "rotation_whole", "sf", "sf_mul", "sig", "target", "unpack", "unpack_requests", "waddr_add", "waddr_mul",
        "word", "ws", "zero_b",
    )  # fmt: skip

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Back to an empty instruction."""
        self.sig = 1
        self.unpack = self.pm = self.pack = self.cond_add = self.cond_mul = self.sf = self.ws = 0
        self.waddr_add = self.waddr_mul = self.raddr_a = self.raddr_b = 39
        self.op_mul = self.op_add = self.add_a = self.add_b = self.mul_a = self.mul_b = 0
        self.add_used = self.mul_used = self.pack_set = self.sf_mul = False
        self.ra_state = self.rb_state = _FREE
        self.req_add: int | None = None
        self.req_mul: int | None = None
        self.rotation = -1  # small-immediate code of the rotation, or -1
        self.zero_b = False  # port B is named by operations that make zero of anything
        self.rotation_whole = self.rotation_shared = False
        self.pm_why = ""
        self.imm = self.mode = 0
        self.word: int | None = None  # set for branches
        self.target: BranchTarget | None = None
        self.unpack_requests: list[tuple[str, str, int, int]] = []
        self.notes: list[Note] = []
        self.current = 0  # index of the operation at work

    # -- the line ------------------------------------------------------------------------------------------------

    def assemble(self, operations: Sequence[Operation]) -> int:
        """The word of one line's operations. `target` tells whether a label must still be added."""
        self.reset()
        for index, op in enumerate(operations):
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
                if len(operations) > 1:
                    other = operations[0] if op is not operations[0] else operations[1]
                    raise Fault("branch-alone", "a branch is an instruction of its own", other.pos)
                self._branch(op)
        return self._finish()

    def _finish(self) -> int:
        if self.word is not None:
            return self.word
        if self.sig == 14:
            if not self.sf:
                if self.waddr_add == 39:
                    self.cond_add = 0
                if self.waddr_mul == 39:
                    self.cond_mul = 0
            return self._head() | self.mode << 57 | self.imm
        if self.unpack_requests:
            self._check_unpack()
        if not self.sf:
            if self.waddr_add == 39:
                self.cond_add = 0
            if self.waddr_mul == 39:
                self.cond_mul = 0
        elif self.sf_mul:
            if not self.op_add and self.waddr_add == 39:
                self.cond_add = 1
        elif self.waddr_mul == 39:
            self.cond_mul = 0
        if self.ra_state == _FREE and self.rotation < 0 and self._to_load_immediate():
            return self._head() | self.imm
        op_add = self.op_add
        if op_add in _UNARY_ADD:
            self.add_b = self.add_a
        elif (op_add == _XOR or op_add == _SUB) and self.add_a == self.add_b and not self.mul_used:
            self.cond_mul = 1  # as the reference assembler has it; without effect, for nothing is written
        return (
            self._head()
            | self.unpack << 57
            | self.op_mul << 29
            | op_add << 24
            | self.raddr_a << 18
            | self.raddr_b << 12
            | self.add_a << 9
            | self.add_b << 6
            | self.mul_a << 3
            | self.mul_b
        )

    def _head(self) -> int:
        return (
            self.sig << 60
            | self.pm << 56
            | self.pack << 52
            | self.cond_add << 49
            | self.cond_mul << 46
            | self.sf << 45
            | self.ws << 44
            | self.waddr_add << 38
            | self.waddr_mul << 32
        )

    def _note(self, rule: str, message: str, pos: int, help: str | None = None) -> None:
        self.notes.append(Note(rule, message, pos, help, self.current))

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
        elif self.sig == 1 and (self.rb_state == _FREE or self.zero_b):
            value = 0
            op = self.op_add
            if (op == _XOR or op == _SUB) and self.add_a == self.add_b:
                if self.op_mul or self.waddr_mul != 39:
                    return False
                if self.pack:
                    return self._load_packed_zero()
            elif (
                self.op_mul == _V8SUBS_M
                and self.mul_a == self.mul_b
                and not op
                and self.waddr_add == 39
                and not self.sf
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
        self.sig, self.mode, self.imm = 14, 0, value
        self.pm = self.pack = self.cond_mul = 0
        return True

    def _load_packed_zero(self) -> bool:
        self.sig, self.mode, self.imm = 14, 0, 0
        return True

    def _mul_to_add_side(self) -> None:
        self.cond_add, self.waddr_add = self.cond_mul, self.waddr_mul
        self.waddr_mul, self.cond_mul = 39, 0
        self.ws = 1 - self.req_mul if self.req_mul is not None else 0

    # -- the two ALUs --------------------------------------------------------------------------------------------

    def _swap(self) -> bool:
        """Exchange the ALUs' work; False when an operation exists on one ALU only."""
        if self.sf or self.rotation >= 0 or (self.pm and self.pack):
            return False
        to_mul = _ADD_TO_MUL.get(self.op_add)
        if to_mul is None and self.add_a == self.add_b:
            to_mul = _ADD_TO_MUL_SAME.get(self.op_add)
        to_add = _MUL_TO_ADD.get(self.op_mul)
        if to_add is None and self.mul_a == self.mul_b:
            to_add = _MUL_TO_ADD_SAME.get(self.op_mul)
        if to_mul is None or to_add is None:
            return False
        self.op_add, self.op_mul = to_add, to_mul
        self.add_a, self.mul_a = self.mul_a, self.add_a
        self.add_b, self.mul_b = self.mul_b, self.add_b
        self.cond_add, self.cond_mul = self.cond_mul, self.cond_add
        self.waddr_add, self.waddr_mul = self.waddr_mul, self.waddr_add
        self.add_used, self.mul_used = self.mul_used, self.add_used
        self.req_add, self.req_mul = (
            None if self.req_mul is None else 1 - self.req_mul,
            None if self.req_add is None else 1 - self.req_add,
        )
        self.ws ^= 1
        return True

    def _take(self, op: Operation, *, mul: bool) -> None:
        """Reserve an ALU for `op`, moving what is there to the other one if need be."""
        if self.sig == 14:
            raise Fault("load-immediate-full", f"{op.info.name} does not fit a load immediate instruction", op.pos)
        used = self.mul_used if mul else self.add_used
        if used and ((self.add_used and self.mul_used) or not self._swap()):
            alu = "MUL" if mul else "ADD"
            raise Fault(
                "alu-taken",
                f"{op.info.name} needs the {alu} ALU, which this instruction already uses",
                op.pos,
                help="move it to an instruction of its own",
            )
        if mul:
            self.mul_used = True
            self.cond_mul = 1
        else:
            if self.sf_mul:
                raise Fault(
                    "flags-taken",
                    "the flags would come from the ADD ALU, but the MUL operation sets them",
                    op.pos,
                    help="set the flags in an instruction of its own",
                )
            self.add_used = True
            self.cond_add = 1

    # -- extensions ----------------------------------------------------------------------------------------------

    def _operation_exts(self, op: Operation, *, mul: bool) -> tuple[bool, tuple[int, str] | None]:
        """Apply extensions after the operation's name; returns whether it sets flags and its unpack request."""
        sets = False
        unpack: tuple[int, str] | None = None
        for name, pos in op.exts:
            if name in ("setf", "sf"):
                sets = True
            elif name in ALU_CONDS:
                if mul:
                    self.cond_mul = ALU_CONDS[name]
                else:
                    self.cond_add = ALU_CONDS[name]
            elif name in OP_PACKS:
                pm, code = OP_PACKS[name]
                if code:
                    self._want_pm(pm, "pack", pos)
                    self._set_pack(code, pos)
                if pm and not mul:
                    raise Fault("pack-mul-only", f".{name} packs a MUL result", pos)
            elif name in OP_UNPACKS:
                unpack = OP_UNPACKS[name]
            else:
                raise _unknown_ext(name, pos, "an operation")
        return sets, unpack

    def _want_pm(self, pm: int, why: str, pos: int) -> None:
        if self.pm_why and self.pm != pm:
            kinds = ("register file A", "r4 or the MUL result")
            raise Fault(
                "pm-conflict",
                f"this {why} is for {kinds[pm]}, the instruction's {self.pm_why} for {kinds[self.pm]}; "
                "one bit selects for both",
                pos,
                help="use two instructions",
            )
        self.pm, self.pm_why = pm, why

    def _set_pack(self, code: int, pos: int) -> None:
        if self.pack_set and self.pack != code:
            raise Fault("pack-twice", "an instruction packs one result in one way", pos)
        self.pack, self.pack_set = code, True

    def _destination(self, op: Operand, *, mul: bool, only_mul_packs: bool = False) -> bool:
        """Set an ALU's destination; returns whether an extension asks to set flags."""
        reg = op.value
        if not isinstance(reg, Reg):
            raise Fault("destination", f"a destination is a register, not a {kind_of(reg)}", op.pos)
        files = reg.write_files
        if not files:
            note = "use r5rep (lane 0 to all lanes) or r5quad" if reg.mux == 5 else None
            raise Fault("not-writable", f"{reg.name} cannot be written", op.pos, help=note)
        req = None if files == 3 else (files == 2) ^ mul
        if mul:
            self.waddr_mul, self.req_mul = reg.waddr, None if req is None else int(req)
        else:
            self.waddr_add, self.req_add = reg.waddr, None if req is None else int(req)
        if self.req_add is None:
            self.ws = self.req_mul or 0
        elif self.req_mul is None or self.req_mul == self.req_add:
            self.ws = self.req_add
        else:
            raise Fault(
                "write-file",
                "both results go to the same register file",
                op.pos,
                allowed="one destination in file A and one in file B, or an accumulator",
            )
        sets = False
        for name, pos in op.exts:
            if name in DST_CONDS:
                if mul:
                    self.cond_mul = DST_CONDS[name]
                else:
                    self.cond_add = DST_CONDS[name]
            elif name in ("setf", "sf"):
                sets = True
            elif name in DST_PACKS:
                self._destination_pack(name, reg, pos, mul=mul)
            else:
                raise _unknown_ext(name, pos, "a destination")
        return sets

    def _destination_pack(self, name: str, reg: Reg, pos: int, *, mul: bool) -> None:
        row = DST_PACKS[name]
        if row.file_a == 0:
            return
        if row.file_a >= 0 and reg.write_files == 1 and reg.waddr < 32:
            pm, code = 0, row.file_a
            if row.needs:
                result = bool(self.op_mul == 1) if mul else self.op_add in _FLOAT_RESULT_ADD
                if result != (row.needs == "f"):
                    kinds = ("an integer", "a float")
                    raise Fault(
                        "pack-type", f".{name} packs {kinds[not result]} result; this one is {kinds[result]}", pos
                    )
        elif row.mul < 0:
            raise Fault("pack-file-a", f".{name} needs a destination in register file A", pos, allowed="ra0..ra31")
        elif not mul:
            raise Fault("pack-mul-only", f".{name} on {reg.name} packs a MUL result; this is an ADD operation", pos)
        else:
            pm, code = 1, row.mul
            if code > 7:
                self._note(
                    "reserved-pack",
                    f".{name} gets code {code}, which the guide leaves undefined",
                    pos,
                    "write ." + (f"8{'abcd'[code - 12]}sf" if code >= 12 else "8888sf"),
                )
        self._want_pm(pm, "pack", pos)
        self._set_pack(code, pos)

    # -- sources -------------------------------------------------------------------------------------------------

    def _exchange_b_to_a(self) -> None:
        """Move the register on port B, which both files offer, to the free port A."""
        self.raddr_a, self.ra_state = self.raddr_b, self.rb_state
        self.raddr_b, self.rb_state = 39, _FREE
        self._remap(7, 6)

    def _exchange_a_to_b(self) -> None:
        self.raddr_b, self.rb_state = self.raddr_a, self.ra_state
        self.raddr_a, self.ra_state = 39, _FREE
        self._remap(6, 7)

    def _remap(self, old: int, new: int) -> None:
        if self.add_a == old:
            self.add_a = new
        if self.add_b == old:
            self.add_b = new
        if self.mul_a == old:
            self.mul_a = new
        if self.mul_b == old:
            self.mul_b = new

    def _port(self, reg: Reg, pos: int) -> int:
        """The mux of a register that is read through a port."""
        files, addr = reg.read_files, reg.raddr
        if files == 3:
            if self.ra_state == _FREE or self.raddr_a == addr:
                if self.ra_state == _FREE:
                    self.raddr_a, self.ra_state = addr, _MOVABLE
                return 6
            if self.rb_state == _FREE or self.zero_b or (self.rb_state != _IMMEDIATE and self.raddr_b == addr):
                if self.rb_state == _FREE or self.zero_b:
                    self.raddr_b, self.rb_state, self.zero_b = addr, _MOVABLE, False
                return 7
            raise self._no_port(reg, pos)
        if files == 1:
            if self.ra_state == _FREE or self.raddr_a == addr:
                self.raddr_a, self.ra_state = addr, _FIXED
                return 6
            if self.ra_state == _MOVABLE:
                if self.rb_state == _FREE or self.zero_b:
                    self.zero_b = False
                    self._exchange_a_to_b()
                elif self.rb_state != _IMMEDIATE and self.raddr_b == self.raddr_a:
                    self._remap(6, 7)
                else:
                    raise self._no_port(reg, pos)
                self.raddr_a, self.ra_state = addr, _FIXED
                return 6
            raise self._no_port(reg, pos)
        if self.rb_state == _IMMEDIATE:
            raise Fault(
                "small-imm-port",
                f"{reg.name} needs the read port of register file B, which the immediate "
                f"{small_imm_text(self.raddr_b)} takes",
                pos,
                help="copy one of them to an accumulator first",
            )
        if self.rb_state == _FREE or (self.raddr_b == addr and not self.zero_b):
            self.raddr_b, self.rb_state = addr, _FIXED
            return 7
        if self.rb_state == _MOVABLE:
            if self.zero_b:
                if self.ra_state == _FREE:
                    self._remap(7, 6)
                self.zero_b = False
            elif self.ra_state == _FREE:
                self._exchange_b_to_a()
            elif self.raddr_a == self.raddr_b:
                self._remap(7, 6)
            else:
                raise self._no_port(reg, pos)
            self.raddr_b, self.rb_state = addr, _FIXED
            return 7
        raise self._no_port(reg, pos)

    def _no_port(self, reg: Reg, pos: int) -> Fault:
        which = {1: "the read port of register file A", 2: "the read port of register file B"}
        what = which.get(reg.read_files, "a read port")
        return Fault(
            "read-port",
            f"{reg.name} needs {what}, which another register already uses",
            pos,
            allowed="one register of file A and one of file B per instruction",
            help="copy one of them to an accumulator first",
        )

    def _small_immediate(self, code: int, pos: int) -> int:
        """Put small immediate `code` on port B; returns its mux."""
        if self.rb_state == _IMMEDIATE:
            if self.raddr_b == code or small_imm_value(self.raddr_b) == small_imm_value(code):
                self.rotation_shared = True
                return 7
            if self.rotation > 48 and not self.rotation_whole and not self.rotation_shared and 16 < code < 32:
                if (code + 32 - self.rotation) % 4 == 0:  # within quads, only the count modulo 4 matters
                    self.rotation_shared = True
                    self.raddr_b = self.rotation = code + 32
                    return 7
            raise Fault(
                "small-imm-twice",
                f"{small_imm_text(code)} and {small_imm_text(self.raddr_b)}: an instruction has one small immediate",
                pos,
            )
        if self.sig != 1:
            raise Fault("signal-imm", "a signal and a small immediate do not fit one instruction", pos)
        if self.rb_state != _FREE and not self.zero_b:
            if self.rb_state == _MOVABLE and (self.ra_state == _FREE or self.raddr_a == self.raddr_b):
                if self.ra_state == _FREE:
                    self._exchange_b_to_a()
                else:
                    self._remap(7, 6)
            else:
                raise Fault(
                    "small-imm-port",
                    f"{small_imm_text(code)} needs the read port of register file B, which a register uses",
                    pos,
                    help="copy the register to an accumulator first",
                )
        self.sig, self.raddr_b, self.rb_state, self.zero_b = 13, code, _IMMEDIATE, False
        return 7

    def _immediate(self, value: Value, pos: int) -> int:
        """The mux of a constant operand."""
        code = small_imm_code(word32(value, pos))
        if code is None:
            raise Fault(
                "small-imm",
                f"{_show(value)} is not a small immediate",
                pos,
                allowed=_SMALL_IMMEDIATES,
                help="load it into a register first: ldi ra0, ...",
            )
        return self._small_immediate(code, pos)

    def _source(self, op: Operand, *, mul: bool, float_op: bool, move: bool = False) -> int:
        """The mux of a source operand."""
        value = op.value
        if not isinstance(value, Reg):
            if op.exts:
                raise Fault("unpack-source", "only registers can be unpacked", op.exts[0][1])
            if isinstance(value, LabelRef):
                raise Fault("label-operand", "a label alone is an operand of branches only", op.pos)
            if isinstance(value, PerElement):
                raise Fault("value-type", "a per-element vector can only be loaded, with ldi or mov", op.pos)
            return self._immediate(value, op.pos)
        if value.mux >= 0:
            mux = value.mux
        elif value.read_files:
            mux = self._port(value, op.pos)
        else:
            what = "a semaphore is no operand" if value.semaphore >= 0 else f"{value.name} cannot be read"
            raise Fault("not-readable", what, op.pos)
        for name, pos in op.exts:
            self._source_unpack(name, value, pos, float_op=float_op, move=move and not mul)
        if value.rotation:
            if not mul:
                raise Fault("rotate-add", "only the MUL ALU rotates", op.pos, help="use mov, or a MUL operation")
            self._rotate(value.rotation, op.pos, whole=mux < 4)
            if mux == 5:
                self._note("rotate-r5", "r5 is the same in all lanes of a quad: rotating it has no effect", op.pos)
            elif mux in (4, 6, 7) and value.rotation in range(4, 13):
                self._note("rotate-quad", f"{value.name} rotates within quads only, by the count modulo 4", op.pos)
        return mux

    def _source_unpack(self, name: str, reg: Reg, pos: int, *, float_op: bool, move: bool) -> None:
        row = SRC_UNPACKS.get(name)
        if row is None:
            raise _unknown_ext(name, pos, "a source")
        code, needs = row
        if not code:
            return
        if reg.mux == 4:
            if needs == "i":
                raise Fault("unpack-type", f".{name}: r4 is unpacked to floats only", pos)
            self._want_pm(1, "unpack", pos)
        elif reg.read_files == 1 and reg.raddr < 32:
            if needs:
                if needs == "f" and move:
                    self.op_add = _FMIN
                self.unpack_requests.append((name, needs, pos, self.current))
            self._want_pm(0, "unpack", pos)
        else:
            raise Fault("unpack-source", f"{reg.name} cannot be unpacked", pos, allowed="ra0..ra31 and r4")
        self._set_unpack(code, pos)

    def _set_unpack(self, code: int, pos: int) -> None:
        if self.unpack and self.unpack != code:
            raise Fault("unpack-twice", "an instruction unpacks in one way", pos)
        self.unpack = code

    def _check_unpack(self) -> None:
        """An unpack of file A gives floats to both ALUs when a float operation takes the value, else integers."""
        floats = (self.op_add in _FLOAT_ADD and 6 in (self.add_a, self.add_b)) or (
            self.op_mul == 1 and 6 in (self.mul_a, self.mul_b)
        )
        for name, needs, pos, operation in self.unpack_requests:
            if floats != (needs == "f"):
                self.current = operation
                kinds = "integers" if floats else "floats"
                raise Fault("unpack-type", f".{name} needs an operation on {kinds}", pos)

    def _operation_unpack(self, request: tuple[int, str], reads_r4: bool, float_op: bool, pos: int) -> None:
        code, needs = request
        if not code:
            return
        self._want_pm(int(reads_r4 and needs != "i"), "unpack", pos)
        self._set_unpack(code, pos)
        if needs == "f" and not float_op and not self.pm:
            self._note("unpack-type", "this operation takes integers: the unpack gives integers, too", pos)

    def _rotate(self, rotation: int, pos: int, *, whole: bool) -> None:
        """Rotate by a count; only r0..r3 rotate across quads (whole), so for others it counts modulo 4."""
        code = 48 if rotation == ROTATE_BY_R5 else 48 + rotation
        if self.rotation >= 0:
            if self.rotation != code:
                by_r5 = 48 in (self.rotation, code)
                if by_r5 or (self.rotation - code) % 4 or (whole and self.rotation_whole):
                    raise Fault("rotate-twice", "an instruction has one rotation", pos)
                if whole:
                    self._change_rotation(code, pos)
            self.rotation_whole |= whole
            return
        self.rotation_whole = whole
        if self.rb_state == _IMMEDIATE:
            held = self.raddr_b
            if not whole and code > 48 and 16 < held < 32 and (held + 32 - code) % 4 == 0:
                code = held + 32
            if small_imm_value(held) != small_imm_value(code):
                raise Fault(
                    "rotate-imm",
                    f"a rotation cannot stand beside the immediate {small_imm_text(self.raddr_b)}",
                    pos,
                    allowed=f"the constant {small_imm_text(code)}, which is what this rotation encodes as well",
                )
            self.raddr_b = code
            self.rotation_shared = True
        else:
            self._small_immediate(code, pos)
        self.rotation = code

    def _change_rotation(self, code: int, pos: int) -> None:
        if self.rotation_shared:
            raise Fault("rotate-imm", "the rotation is fixed by the small immediate beside it", pos)
        self.raddr_b = self.rotation = code

    # -- kinds of operation --------------------------------------------------------------------------------------

    def _count_operands(self, op: Operation, low: int, high: int) -> None:
        n = len(op.operands)
        if not low <= n <= high:
            need = str(low) if low == high else f"{low} to {high}"
            where = op.operands[high].pos if n > high else op.pos
            raise Fault("operand-count", f"{op.info.name} takes {need} operands, not {n}", where)

    def _set_flags(self, pos: int, *, mul: bool) -> None:
        if self.sf:
            raise Fault("flags-taken", "two operations of one instruction set the flags", pos)
        if mul and self.add_used and self.op_add:
            if not self._swap():
                raise Fault(
                    "flags-taken",
                    "the MUL operation cannot set the flags: they come from the ADD operation beside it",
                    pos,
                    help="set the flags in an instruction of its own",
                )
            mul = False
        self.sf = 1
        self.sf_mul = mul

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
            float_op = info.add in _FLOAT_ADD
        sets, unpack = self._operation_exts(op, mul=mul) if op.exts else (False, None)
        sets |= self._destination(operands[0], mul=mul)
        dst = operands[0].value
        if isinstance(dst, Reg) and dst.rotation:
            raise Fault("rotate-destination", "only mov rotates at its destination", operands[0].pos)
        if mul:
            self.mul_a = self._source(operands[1], mul=True, float_op=float_op)
            self.mul_b = self._source(operands[2], mul=True, float_op=float_op)
            if self.rotation >= 0:
                self._mixed_rotation(operands)
            if unpack:
                self._operation_unpack(unpack, 4 in (self.mul_a, self.mul_b), float_op, op.exts[0][1])
        else:
            self.add_a = self._source(operands[1], mul=False, float_op=float_op)
            if info.sources == 2:
                self.add_b = self._second(operands[2], float_op=float_op)
            if unpack:
                both = (self.add_a, self.add_b) if info.sources == 2 else (self.add_a,)
                self._operation_unpack(unpack, 4 in both, float_op, op.exts[0][1])
        if sets:
            self._set_flags(op.pos, mul=mul)

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
        if self.op_add in _SHIFTS:
            return self._small_immediate(word32(value, op.pos) & 31, op.pos)
        if isinstance(value, int) and self.op_add in (_ADD, _SUB):
            held = small_imm_value(self.raddr_b) if self.rb_state == _IMMEDIATE else 0xFFFFFFF0
            negative = -value & 0xFFFFFFFF
            if negative == held and (value == 16 or self.rb_state == _IMMEDIATE):
                self.op_add = _ADD + _SUB - self.op_add
                return self._small_immediate(16 if value == 16 else self.raddr_b, op.pos)
        return self._immediate(value, op.pos)

    def _nop(self, op: Operation) -> None:
        self._count_operands(op, 0, 1)
        info = op.info
        if self.sig == 14:
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
            raise Fault("unpack-source", "nop reads nothing", op.exts[0][1])
        if op.operands:
            sets |= self._destination(op.operands[0], mul=mul)
        if sets:
            self._set_flags(op.pos, mul=mul)

    def _signal(self, op: Operation) -> None:
        self._count_operands(op, 0, 0)
        if op.exts:
            raise _unknown_ext(op.exts[0][0], op.exts[0][1], "a signal")
        if self.sig != 1:
            why = {13: "a small immediate or rotation", 14: "a load immediate"}.get(self.sig, "another signal")
            raise Fault("signal-conflict", f"{op.info.name} and {why} do not fit one instruction", op.pos)
        self.sig = op.info.code

    def _read(self, op: Operation) -> None:
        self._count_operands(op, 1, 1)
        if op.exts:
            raise _unknown_ext(op.exts[0][0], op.exts[0][1], "read")
        if self.sig == 14:
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
                "value-type", f"read takes a register or a small immediate, not a {kind_of(value)}", operand.pos
            )

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
        """True when an extension of a mov packs a MUL result."""
        for name, _ in op.exts:
            if name in OP_PACKS and OP_PACKS[name][0]:
                return True
        for dst in op.operands[:-1]:
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
            self.op_mul = _V8MIN
        else:
            self.op_add = _OR
        sets, unpack = self._operation_exts(op, mul=mul) if op.exts else (False, None)
        sets |= self._destination(dst, mul=mul)
        mux = self._source(source, mul=mul, float_op=False, move=True)
        if mul:
            self.mul_a = self.mul_b = mux
        else:
            self.add_a = self.add_b = mux
        if unpack:
            self._operation_unpack(unpack, mux == 4, False, op.exts[0][1])
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
            self._load(op, destinations, 0, bits)
            return
        if self.sig == 14:
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
                f"no operation gives {_show(value)} in the half of the instruction that is left",
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
            return self.op_add in _ADD_TO_MUL or (self.add_a == self.add_b and self.op_add in _ADD_TO_MUL_SAME)
        return self.op_mul in _MUL_TO_ADD or (self.mul_a == self.mul_b and self.op_mul in _MUL_TO_ADD_SAME)

    def _choose(self, bits: int, dst: Operand, op: Operation, *, mul: bool) -> constants.Candidate | None:
        """The best way to make `bits` on an ALU, given what ports, signal and packs are taken."""
        if bits == 0:
            return constants.Candidate(_V8SUBS_M if mul else _XOR, -1, 0, 0)
        if self.sig not in (1, 13) or self.rb_state == _FIXED:
            return None
        if self.rb_state == _MOVABLE and not self.zero_b and self.ra_state != _FREE and self.raddr_a != self.raddr_b:
            return None
        packs = self.pack_set or any(n in DST_PACKS for n, _ in dst.exts) or any(n in OP_PACKS for n, _ in op.exts)
        reg = dst.value
        in_a = isinstance(reg, Reg) and reg.write_files == 1 and reg.waddr < 32
        held = small_imm_value(self.raddr_b) if self.rb_state == _IMMEDIATE else None
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
            self.op_mul = _V8MIN
        else:
            self.op_add = _OR
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
            if self.rb_state == _FREE:
                self.zero_b, self.rb_state = True, _MOVABLE
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
            self.mul_used, self.cond_mul, self.op_mul = True, 1, _V8MIN
        else:
            self.add_used, self.cond_add, self.op_add = True, 1, _OR
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
            raise Fault("value-type", f"{op.info.name} loads a constant, not a {kind_of(value)}", source.pos)
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
            raise Fault("semaphore", f"a semaphore number is an integer, not a {kind_of(value)}", source.pos)
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
        self.sig, self.mode, self.imm = 14, mode, imm
        sets = False
        for i, dst in enumerate(destinations):
            if isinstance(dst.value, Reg) and dst.value.rotation:
                raise Fault("rotate-destination", "a load immediate does not rotate", dst.pos)
            on_mul = mul or i == 1
            if on_mul:
                self.mul_used, self.cond_mul = True, 1
            else:
                self.add_used, self.cond_add = True, 1
            if len(destinations) == 2 and i == 1:
                saved, self.pack_set = self.pack_set, False
                more, unpack = self._operation_exts(op, mul=on_mul)
                self.pack_set |= saved
            else:
                more, unpack = self._operation_exts(op, mul=on_mul)
            if unpack:
                raise Fault("unpack-source", "a constant cannot be unpacked", op.exts[0][1])
            sets |= more | self._destination(dst, mul=on_mul)
        if sets:
            self.sf = 1

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
                raise _unknown_ext(name, pos, "a branch")
        self._branch_destination(operands[0], mul=False)
        targets = operands[1:]
        if len(operands) == 4:
            self._branch_destination(operands[1], mul=True)
            targets = operands[2:]
        reg, imm = -1, 0
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
                self.target = BranchTarget(value, bool(relative))
                if not relative:
                    self._note(
                        "branch-absolute",
                        "bra jumps to an absolute bus address; a label is an offset in the program",
                        operand.pos,
                        "use brr, or add the load address",
                    )
            else:
                if not isinstance(value, int):
                    raise Fault("branch-target", f"a branch target is not a {kind_of(value)}", operand.pos)
                imm = word32(value, operand.pos)
                if imm & 7 and reg < 0:
                    self._note(
                        "branch-alignment", f"{value} is no multiple of 8, the size of an instruction", operand.pos
                    )
        if reg < 0 and self.target is None and not any(not isinstance(t.value, Reg) for t in targets):
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
        self.word = (
            15 << 60
            | cond << 52
            | relative << 51
            | int(reg >= 0) << 50
            | raddr << 45
            | self.ws << 44
            | self.waddr_add << 38
            | self.waddr_mul << 32
            | imm
        )

    def _branch_destination(self, op: Operand, *, mul: bool) -> None:
        if op.exts:
            raise Fault("branch-destination", "the link of a branch takes no extension", op.exts[0][1])
        if isinstance(op.value, Reg) and op.value.rotation:
            raise Fault("branch-destination", "the link of a branch is not rotated", op.pos)
        self._destination(op, mul=mul)


def _show(value: Value) -> str:
    if isinstance(value, int):
        return str(value) if -65536 < value < 65536 else f"{value} (0x{value & 0xFFFFFFFF:x})"
    return str(value)


def _unknown_ext(name: str, pos: int, what: str) -> Fault:
    import difflib

    everything = [*DST_CONDS, *DST_PACKS, *SRC_UNPACKS, *BRANCH_CONDS, *OP_PACKS, *OP_UNPACKS, "setf"]
    if name in everything:
        return Fault("extension-place", f".{name} cannot follow {what}", pos)
    close = difflib.get_close_matches(name, everything, 1)
    return Fault("extension", f"unknown extension .{name}", pos, help=f"did you mean .{close[0]}?" if close else None)
