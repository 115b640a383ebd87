"""The instruction under construction: fields, what they are taken by, and the exchange of the two ALUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qpu.vc4.instr import Branch
from qpu.vc4.vc4asm.fault import Fault, Note
from qpu.vc4.vc4asm.names import OpInfo
from qpu.vc4.vc4asm.values import LabelRef, Value

__all__ = ["BranchTarget", "Operand", "Operation", "State"]

FREE, MOVABLE, FIXED, IMMEDIATE = 0, 1, 2, 3
OR, FMIN, XOR, V8ADDS_A, V8SUBS_A, V8MIN, V8ADDS_M, V8SUBS_M = 21, 3, 22, 30, 31, 4, 6, 7
ADD, SUB = 12, 13
ALWAYS = 1
SEMAPHORE = 4  # the variant of a load immediate that is a semaphore
SIG_LOAD_IMM = 14
SHIFTS = frozenset({14, 15, 16, 17})
FLOAT_ADD = frozenset({1, 2, 3, 4, 5, 6, 7})  # ADD operations that read floats
FLOAT_RESULT_ADD = frozenset({1, 2, 3, 4, 5, 6, 8})
UNARY_ADD = frozenset({7, 8, 23, 24})
# ADD operations that the MUL ALU can do as well: always, or when both sources are the same.
ADD_TO_MUL = {0: 0, V8ADDS_A: V8ADDS_M, V8SUBS_A: V8SUBS_M}
ADD_TO_MUL_SAME = {OR: V8MIN, 20: V8MIN, 18: V8MIN, 19: V8MIN, XOR: V8SUBS_M, SUB: V8SUBS_M}
MUL_TO_ADD = {0: 0, V8ADDS_M: V8ADDS_A, V8SUBS_M: V8SUBS_A}
MUL_TO_ADD_SAME = {V8MIN: OR, 5: OR}
SMALL_IMMEDIATES = "-16..15, and the floats 1/256, 1/128 .. 128.0 (powers of two)"


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
    """A branch whose immediate awaits the address of a label, which is added to it."""

    label: LabelRef
    branch: Branch


class State:
    """Fields of an instruction word, and which of them are spoken for."""

    __slots__ = (
        "add_a", "add_b", "add_used", "asked_pack", "branch", "cond_add", "cond_mul", "current", "imm", "mode", "mul_a",
        "mul_b", "mul_used", "notes", "op_add", "op_mul", "pack", "pack_set", "plain", "pm", "pm_why",
        "ra_state", "raddr_a", "raddr_b", "rb_state", "req_add", "req_mul", "rotation", "rotation_shared",
        "rotation_whole", "sf", "sf_mul", "sig", "target", "unpack", "unpack_requests", "waddr_add",
        "waddr_mul", "ws", "zero_b",
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
        self.ra_state = self.rb_state = FREE
        self.req_add: int | None = None
        self.req_mul: int | None = None
        self.rotation = -1  # small-immediate code of the rotation, or -1
        self.zero_b = False  # port B is named by operations that make zero of anything
        self.rotation_whole = self.rotation_shared = False
        self.pm_why = ""
        self.imm = self.mode = 0
        self.branch: Branch | None = None
        self.target: BranchTarget | None = None
        self.unpack_requests: list[tuple[str, bool, int, int]] = []  # name, to float, position, operation
        self.plain: list[tuple[int, str, int, int]] = []  # operands without unpack: pm, name, position, operation
        self.asked_pack: tuple[str, int, int] | None = None  # of the operation at work: name, pm, position
        self.notes: list[Note] = []
        self.current = 0  # index of the operation at work

    def _note(self, rule: str, message: str, pos: int, help: str | None = None) -> None:
        self.notes.append(Note(rule, message, pos, help, self.current))

    # -- the two ALUs --------------------------------------------------------------------------------------------

    def _swap(self) -> bool:
        """Exchange the ALUs' work; False when an operation exists on one ALU only."""
        if self.sf or self.rotation >= 0 or (self.pm and self.pack):
            return False
        to_mul = ADD_TO_MUL.get(self.op_add)
        if to_mul is None and self.add_a == self.add_b:
            to_mul = ADD_TO_MUL_SAME.get(self.op_add)
        to_add = MUL_TO_ADD.get(self.op_mul)
        if to_add is None and self.mul_a == self.mul_b:
            to_add = MUL_TO_ADD_SAME.get(self.op_mul)
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
        if self.sig == SIG_LOAD_IMM:
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
