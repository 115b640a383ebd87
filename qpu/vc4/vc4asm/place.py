"""Placement of the operations of a line in one instruction.

The text does not say which ALU executes an operation, which operation makes a constant, and whether a line becomes a
load immediate. `Instruction` decides that, one operation after the other; `qpu.vc4.pairing` decides which operations
fit one instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from qpu.core.isa import Unit
from qpu.vc4.instr import Alu, Half, Instr, LoadImm, LoadMode, Port, Semaphore, Src
from qpu.vc4.ops import ADD_OPS, MUL_OPS, float_operands
from qpu.vc4.pairing import IDLE_ADD, IDLE_MUL, RULES, Clash, clashes, combine, results
from qpu.vc4.regs import NOP, SIG_ALU, SIG_SMALL_IMM, File, small_imm_value
from qpu.vc4.vc4asm import constants
from qpu.vc4.vc4asm.branches import read_branch
from qpu.vc4.vc4asm.fault import Fault, Note
from qpu.vc4.vc4asm.folding import load_instead
from qpu.vc4.vc4asm.names import DST_PACKS, OP_PACKS, SRC_UNPACKS
from qpu.vc4.vc4asm.operands import BranchTarget, Operand, Operation, count_operands, show, unknown_extension
from qpu.vc4.vc4asm.registers import Reg
from qpu.vc4.vc4asm.sides import ALWAYS, Reader, Side, short
from qpu.vc4.vc4asm.values import LabelRef, PerElement, described, float_bits, word32

__all__ = ["Instruction"]

ADD, MUL = False, True
OR, FMIN, IADD, ISUB, XOR, V8SUBS_A = 21, 3, 12, 13, 22, 31  # opcodes of the ADD ALU
V8MIN, V8SUBS_M = 4, 7  # and of the MUL ALU
SHIFTS = frozenset({14, 15, 16, 17})
# Operations that the other ALU can do as well: always, or when both sources are the same.
TO_MUL = {0: 0, 30: 6, V8SUBS_A: V8SUBS_M}
TO_MUL_SAME = {OR: V8MIN, 20: V8MIN, 18: V8MIN, 19: V8MIN, XOR: V8SUBS_M, ISUB: V8SUBS_M}
TO_ADD = {0: 0, 6: 30, V8SUBS_M: V8SUBS_A}
TO_ADD_SAME = {V8MIN: OR, 5: OR}
_USES_A = (Port.A, Port.ANY)
_FLOAT = [[row is not None and float_operands(row) for row in rows] for rows in (ADD_OPS, MUL_OPS)]


class _Misfit(Exception):
    """Raised when the operations do not fit one instruction."""


class Instruction:
    """An instruction under construction; one object is reused for all lines.

    target: set when the address of a label must still be added.
    """

    __slots__ = ("careful", "load", "reader", "reads", "sides", "sig", "target", "ws", "zero_mux")

    def __init__(self) -> None:
        self.careful = False  # whether each operation is checked when it is placed
        self._reset()

    def _reset(self) -> None:
        self.sides: list[Side | None] = [None, None]  # ADD, MUL
        self.sig = SIG_ALU
        self.reads: list[Src] = []
        self.load: tuple[int, int] | None = None  # variant and immediate of a load immediate or semaphore
        self.target: BranchTarget | None = None
        self.reader = Reader()
        self.ws = 0  # write swap if both files have the destinations; exchanging the ALUs flips it
        self.zero_mux = 7

    # -- the line ------------------------------------------------------------------------------------------------

    def assemble(self, operations: Sequence[Operation]) -> Instr:
        """The instruction of one line's operations."""
        order = list(enumerate(operations))
        self.careful = False
        try:
            return self._assemble(order)
        except (Fault, _Misfit):
            pass
        # Check after each operation, to find the first that does not fit.
        self.careful = True
        try:
            return self._assemble(order)
        except Fault:
            failed = self.reader
            # A rotation determines the small immediate of the instruction, so constants beside it are placed last.
            late = [_is_constant(op) and any(map(_rotates, operations[i + 1 :])) for i, op in order]
            if any(late):
                try:
                    return self._assemble(sorted(order, key=lambda row: late[row[0]]))
                except Fault:
                    self.reader = failed
            raise

    def _assemble(self, order: Sequence[tuple[int, Operation]]) -> Instr:
        self._reset()
        for index, op in order:
            self.reader.current = index
            if op.info.kind != "bra":
                _PLACE[op.info.kind](self, op)
            elif len(order) > 1:
                raise Fault("branch-alone", "a branch is an instruction of its own", op.pos, help="use its own line")
            else:
                instr, self.target = read_branch(op, self.reader)
                return instr
        return self._finish()

    @property
    def notes(self) -> Sequence[Note]:
        """Warnings about the line."""
        return self.reader.notes

    @property
    def current(self) -> int:
        """The index of the operation that was placed last or that failed."""
        return self.reader.current

    # -- the two ALUs --------------------------------------------------------------------------------------------

    def _half(self, mul: bool) -> Half:
        side = self.sides[mul]
        if side is None:
            if mul:
                return IDLE_MUL
            return Half(Unit.ADD, reads=self.reads) if self.reads else IDLE_ADD
        return side.half(mul, () if mul else self.reads)

    def _check(self, pos: int) -> None:
        """Raise the fault if the current operation, written at `pos`, does not fit those placed before."""
        if not self.careful:
            return
        clash = next(iter(clashes(self._half(ADD), self._half(MUL), self.sig, strict=False)), None)
        if clash is not None:
            for slot in reversed(clash.slots) if clash.rule != "flags" else ():
                unit, _, role = slot.partition(".")
                side = self.sides[unit == "mul"]
                if side is not None and side.index == self.current:
                    pos = side.places.get(role, pos)
                    break
            advice = RULES[clash.rule]
            raise Fault(clash.rule, clash.message, pos, allowed=advice.allowed, help=advice.help)

    def _swap(self) -> bool:
        """Exchange the operations of the ALUs; False when one of them exists on one ALU only."""
        add, mul = self.sides
        found: list[Side | None] = [None, None]
        for side, always, same, to in ((add, TO_MUL, TO_MUL_SAME, MUL), (mul, TO_ADD, TO_ADD_SAME, ADD)):
            if side is None:
                continue
            op = always.get(side.op)
            if op is None and side.same:
                op = same.get(side.op)
            packs = side.pack or (side.dst.pm, side.dst.pack)
            if op is None or side.push or side.rotate or (packs[0] and packs[1]):
                return False
            found[to] = replace(side, op=op)
        self.sides = found
        self.ws ^= 1
        return True

    def _take(self, op: Operation, *, mul: bool) -> None:
        """Free an ALU for `op`; an operation there moves to the other ALU."""
        if self.load is not None:
            raise Fault("load-immediate-full", f"{op.info.name} does not fit a load immediate instruction", op.pos,
                        help="move it to an instruction of its own")  # fmt: skip
        if self.sides[mul] is not None and (self.sides[not mul] is not None or not self._swap()):
            alu = "MUL" if mul else "ADD"
            raise Fault("alu-taken", f"{op.info.name} needs the {alu} ALU, which this instruction already uses", op.pos,
                        help="move it to an instruction of its own")  # fmt: skip

    def _put(self, side: Side, op: Operation, *, mul: bool, push: bool) -> None:
        """Place a complete operation on a free ALU."""
        side.index = self.current
        self._avoid_zero(side.a, side.b)
        self.sides[mul] = side
        if not mul and self._unconstrained():
            self.ws = 0  # of the MUL ALU it stays as an exchange set it, as in the reference assembler
        if push:
            self._set_flags(op.pos, mul=mul)
        self._check(op.pos)

    def _avoid_zero(self, *sources: Src | None) -> None:
        """Let an operation that makes zero use port A where that is free and an operand uses port B, as in vc4asm."""
        add, mul = self.sides
        if (add is not None and add.zero) or (mul is not None and mul.zero):
            used = any(s.port in _USES_A for s in self._sources())
            for s in sources:
                if s is not None and s.port is Port.B and not used:
                    self.zero_mux = 6
                used |= s is not None and s.port in _USES_A

    def _sources(self) -> list[Src]:
        return [s for side in self.sides if side for s in (side.a, side.b) if s is not None] + self.reads

    def _unconstrained(self) -> bool:
        add, mul = self.sides
        return (add is None or add.dst.file is None) and (mul is None or mul.dst.file is None)

    def _set_flags(self, pos: int, *, mul: bool) -> None:
        add = self.sides[ADD]
        if any(side is not None and side.push for side in self.sides):
            raise Fault("flags", "two operations of one instruction set the flags", pos, help=RULES["flags"].help)
        if mul and add is not None and add.op and self._swap():
            mul = False
        side = self.sides[mul]
        assert side is not None
        side.push, side.made = True, None

    # -- operations ----------------------------------------------------------------------------------------------

    def _alu(self, op: Operation) -> None:
        info = op.info
        count_operands(op, info.sources + 1, info.sources + 1)
        mul = info.mul >= 0 and (info.add < 0 or self.sides[MUL] is None or self.sides[ADD] is not None)
        self._take(op, mul=mul)
        if self._placed(op, mul=mul):
            return
        asked = len(self.reader.requests), len(self.reader.notes)
        side = Side(info.mul if mul else info.add)
        float_op = _FLOAT[mul][side.op]
        push, unpack, pack = self.reader.exts(op, side)
        push |= self.reader.destination(op.operands[0], side, mul=mul, asked=pack, rotated=True)
        operands = self.reader.rotate_destination(op.operands, mul=mul)
        sources = operands[1:]
        if self.careful:
            side.places.update(zip("ab", (s.pos for s in sources), strict=False))
        side.a = self.reader.source(sources[0], float_op=float_op)
        alone = True
        if len(sources) == 2:
            side.b = self._second(side, sources[1], float_op=float_op, mul=mul)
            alone = mul or info.add not in (IADD, ISUB) or side.b.port is not Port.IMM
        if mul:
            self.reader.rotation(sources, side)
        else:
            self.reader.no_rotation(sources)
        if unpack is not None:
            self.reader.unpack(unpack, side, self.sides, float_op=float_op)
        if alone and unpack is None and not push:
            self._keep(op, side, asked, mul=mul)
        self._put(side, op, mul=mul, push=push)

    def _placed(self, op: Operation, *, mul: bool) -> bool:
        """Place the cached result for `op` from an earlier line, if there is one."""
        kept = None if self.careful or op.placed is None else op.placed[mul]
        if kept is None:
            return False
        side, requests = kept
        self.reader.requests += [(*request[:3], self.current) for request in requests]
        self._put(side, op, mul=mul, push=False)
        return True

    def _keep(self, op: Operation, side: Side, asked: tuple[int, int], *, mul: bool) -> None:
        """Cache the side of `op` if it does not depend on the line. asked: numbers of requests and notes before."""
        requests, notes = asked
        if not self.careful and not side.push and len(self.reader.notes) == notes:
            op.placed = op.placed or [None, None]
            op.placed[mul] = side, self.reader.requests[requests:]

    def _held(self, side: Side) -> Src | None:
        """The small immediate that the instruction has already."""
        for other in (*self.sides, side):
            if other is not None:
                for s in (other.a, other.b):
                    if s is not None and s.port is Port.IMM:
                        return s
                if other.rotate:
                    return Src(Port.IMM, other.rotate - 32)
        return next((s for s in self.reads if s.port is Port.IMM), None)

    def _second(self, side: Side, op: Operand, *, float_op: bool, mul: bool) -> Src:
        """The second source; for the ADD ALU, shift counts and the constant 16 are special cases."""
        value = op.value
        if mul or not isinstance(value, int | float) or op.exts:
            return self.reader.source(op, float_op=float_op)
        if side.op in SHIFTS:
            return Src(Port.IMM, word32(value, op.pos) & 31)
        if isinstance(value, int) and side.op in (IADD, ISUB):
            held = self._held(side)
            negative = -value & 0xFFFFFFFF
            if (value == 16 and held is None) or (held is not None and negative == small_imm_value(held.n)):
                side.op = IADD + ISUB - side.op
                return Src(Port.IMM, 16) if value == 16 or held is None else held
        return self.reader.immediate(value, op.pos)

    def _nop(self, op: Operation) -> None:
        count_operands(op, 0, 1)
        add, mul_side = self.sides
        if not op.operands and not op.exts and add is not None and mul_side is not None:
            return
        mul = op.info.add < 0 or (op.info.mul >= 0 and add is not None)
        self._take(op, mul=mul)
        side = Side()
        push, unpack, pack = self.reader.exts(op, side)
        if op.operands:
            push |= self.reader.destination(op.operands[0], side, mul=mul, asked=pack, rotated=True)
        self.reader.unpack(unpack, side, self.sides, float_op=False)
        self._put(side, op, mul=mul, push=push)

    def _signal(self, op: Operation) -> None:
        count_operands(op, 0, 0)
        if op.exts:
            raise unknown_extension(op.exts[0][0], op.exts[0][1], "a signal")
        if self.sig != SIG_ALU or self.load is not None:
            why = "another signal" if self.load is None else "a load immediate"
            raise Fault("signal", f"{op.info.name} and {why} do not fit one instruction", op.pos,
                        help="put it on a nop")  # fmt: skip
        self.sig = op.info.code
        self._check(op.pos)

    def _read(self, op: Operation) -> None:
        count_operands(op, 1, 1)
        if op.exts:
            raise unknown_extension(op.exts[0][0], op.exts[0][1], "read")
        if self.load is not None:
            raise Fault("load-immediate-full", "read does not fit a load immediate instruction", op.pos)
        operand = op.operands[0]
        value = operand.value
        if isinstance(value, Reg):
            if not value.read_files or value.rotation or operand.exts:
                what = "accumulators are not read through a port" if value.mux >= 0 else f"{value.name} cannot be read"
                raise Fault("not-readable", what, operand.pos)
        elif not isinstance(value, int | float):
            raise Fault("value-type", f"read takes a register or a number, not {described(value)}", operand.pos)
        source = self.reader.source(operand, float_op=False)
        self._avoid_zero(source)
        self.reads.append(source)
        self._check(operand.pos)

    # -- mov -----------------------------------------------------------------------------------------------------

    def _mov(self, op: Operation) -> None:
        count_operands(op, 2, 3)
        source = op.operands[-1]
        value = source.value
        if isinstance(value, Reg) and value.semaphore < 0:
            self._mov_register(op, source)
            return
        if isinstance(value, LabelRef):
            raise Fault("label-operand", "a label alone is an operand of branches only", source.pos)
        if source.exts:
            raise Fault("unpack-source", "only registers can be unpacked", source.exts[0][1])
        if isinstance(value, Reg):
            self._load(op, op.operands[:-1], 4, value.semaphore)
        else:
            self._mov_constant(op, source, value)

    @staticmethod
    def _wants_mul(op: Operation) -> bool:
        """True when an extension of the operation, or of its first destination, packs a MUL result."""
        if any(name in OP_PACKS and OP_PACKS[name][0] for name, _ in op.exts):
            return True
        reg = op.operands[0].value
        in_a = isinstance(reg, Reg) and reg.write_files == 1 and reg.waddr < 32
        rows = [DST_PACKS[name] for name, _ in op.operands[0].exts if name in DST_PACKS]
        return any(row.mul > 0 and (row.file_a < 0 or not in_a) for row in rows)

    def _mov_register(self, op: Operation, source: Operand) -> None:
        info, operands = op.info, op.operands
        source = self.reader.rotate_destination((operands[0], source), mul=True)[1]
        if len(operands) == 3:
            self._take(op, mul=False)
            nop = Side()
            push, _, pack = self.reader.exts(op, nop)
            push |= self.reader.destination(operands[0], nop, mul=False, asked=pack, rotated=True)
            self._put(nop, op, mul=ADD, push=False)
            packless = replace(op, exts=[e for e in op.exts if e[0] not in OP_PACKS])
            push |= self._mov_one(packless, operands[1], source, mul=MUL, push=False)
            if push:
                self._set_flags(op.pos, mul=MUL)
            self.reader.note("mov-two-destinations",
                             "the first destination is written by an ADD nop, as in the reference assembler",
                             operands[0].pos, "write two mov")  # fmt: skip
            return
        reg = source.value
        mul = info.add < 0
        if not mul:
            must = (isinstance(reg, Reg) and reg.rotation != 0) or self._wants_mul(op)
            if must and info.mul < 0:
                raise Fault("rotate-add", "only the MUL ALU rotates and packs colours", op.pos, help="use mov")
            mul = must or (info.mul >= 0 and self.sides[ADD] is not None and self.sides[MUL] is None)
        self._mov_one(op, operands[0], source, mul=mul)

    def _mov_one(self, op: Operation, dst: Operand, source: Operand, *, mul: bool, push: bool | None = None) -> bool:
        """Place a move of a register; returns whether it sets flags, which it does unless `push` is given."""
        self._take(op, mul=mul)
        if push is None and self._placed(op, mul=mul):
            return False
        asked = len(self.reader.requests), len(self.reader.notes)
        side = Side(V8MIN if mul else OR)
        file_a = isinstance(source.value, Reg) and source.value.mux != 4
        if file_a and not mul and any(SRC_UNPACKS.get(short(n), (0, ""))[1] == "f" for n, _ in source.exts):
            side.op = FMIN
        sets, unpack, pack = self.reader.exts(op, side)
        sets |= self.reader.destination(dst, side, mul=mul, asked=pack, rotated=True)
        side.a = side.b = self.reader.source(source, float_op=side.op == FMIN)
        side.places.update(a=source.pos, b=source.pos)
        if mul:
            self.reader.rotation((source,), side)
        self.reader.unpack(unpack, side, self.sides, float_op=False)
        side.b = side.a
        if push is None and unpack is None and not sets:
            self._keep(op, side, asked, mul=mul)
        self._put(side, op, mul=mul, push=sets if push is None else push)
        return sets

    def _mov_constant(self, op: Operation, source: Operand, value: int | float | PerElement) -> None:
        info, destinations = op.info, op.operands[:-1]
        for dst in destinations:
            if isinstance(dst.value, Reg) and dst.value.rotation:
                raise Fault("rotate-destination", "a constant is the same in all lanes; it is not rotated", dst.pos,
                            help="leave the rotation out")  # fmt: skip
        if isinstance(value, PerElement):
            self._load(op, destinations, 1 if value.signed else 3, value.bits)
            return
        bits = self._word(value, source.pos)
        wants_mul = self._wants_mul(op)
        if len(destinations) == 2:
            self._load(op, destinations, 0, bits, mul=wants_mul)
            return
        dst = destinations[0]
        if self.load is not None:
            self._share_load(op, dst, bits)
            return
        for name, pos in (*op.exts, *dst.exts):
            if name in ("pack32s", "pack32clamp", "32s", "32si", "32clamp"):
                raise Fault(
                    "pack-constant", f"the pack .{name} has no effect on a constant", pos, help=f"leave out .{name}"
                )
        mul_only = info.add < 0 or wants_mul
        if mul_only and info.mul < 0:
            raise Fault("pack-mul-only", "the pack is done by the MUL ALU only", op.pos, help="use mov")
        for mul in (ADD, MUL):
            if (mul_only and not mul) or (mul and info.mul < 0) or self.sides[mul] is not None:
                continue
            if self._make(op, dst, source, bits, mul=mul):
                return
        used = [side is not None for side in self.sides]
        if used[ADD] != used[MUL] and not mul_only:
            # The other ALU may be able to make the constant, if its operation can move here.
            before, ws, mul = self.sides, self.ws, used[MUL]
            if (info.mul if mul else info.add) >= 0 and self._swap():
                if self._make(op, dst, source, bits, mul=mul):
                    self.ws = 1
                    return
                self.sides, self.ws = before, ws
        if any(side is not None and side.op for side in self.sides):
            raise Fault("constant", f"no operation gives {show(value)} in the half of the instruction that is left",
                        source.pos, help="load it in an instruction of its own")  # fmt: skip
        self._load(op, destinations, 0, bits, mul=mul_only or used[ADD])

    def _word(self, value: int | float, pos: int) -> int:
        if isinstance(value, float) and float_bits(value) & 0x7FFFFFFF == 0x7F800000 and abs(value) != float("inf"):
            self.reader.note(
                "float-range", f"{value} is out of range and becomes infinity", pos, "write a smaller number"
            )
        return word32(value, pos)

    def _make(self, op: Operation, dst: Operand, source: Operand, bits: int, *, mul: bool) -> bool:
        """Place the best operation for the constant `bits` on a free ALU; False when none fits."""
        found = constants.candidates(bits, mul=mul)
        if bits and not found:
            return False
        side = Side(
            V8MIN if mul else OR, places={"a": source.pos, "b": source.pos}
        )  # as packs check it: a move of an integer
        notes = len(self.reader.notes)
        push, unpack, pack = self.reader.exts(op, side)
        if unpack is not None:
            raise Fault("unpack-source", "only registers can be unpacked", unpack[3])
        push |= self.reader.destination(dst, side, mul=mul, asked=pack)
        if bits == 0:
            side.op, side.zero = V8SUBS_M if mul else XOR, True
            self._put(side, op, mul=mul, push=push)
            return True
        free = side.pack is None and not side.dst.pack
        free = free and not any(n in DST_PACKS for n, _ in dst.exts) and not any(n in OP_PACKS for n, _ in op.exts)
        in_a = side.dst.file is File.A and side.dst.n < 32
        for choice in found:
            if choice.pack and (not free or (not choice.pm and not in_a) or (choice.pm and side.dst.n >= 36)):
                continue  # I/O registers take no packed results
            imm = Src(Port.IMM, choice.code)
            side.op, side.a, side.b = choice.op, imm, imm
            packed = side.dst._replace(pack=choice.pack, pm=choice.pm) if choice.pack else side.dst
            self.sides[mul] = replace(side, dst=packed)
            against = clashes(self._half(ADD), self._half(MUL), self.sig)
            self.sides[mul] = None
            if any(clash.rule != "write-swap" for clash in against):
                continue
            side.dst = packed
            if choice.pm and choice.pack > 7:
                self.reader.note("reserved-pack", f"this takes the undefined pack code {choice.pack}", source.pos,
                                 "load the constant in an instruction of its own")  # fmt: skip
            self._put(side, op, mul=mul, push=push)
            return True
        del self.reader.notes[notes:]
        return False

    # -- load immediate and semaphores ---------------------------------------------------------------------------

    def _share_load(self, op: Operation, dst: Operand, bits: int) -> None:
        """Add a second mov of the same constant to a load immediate that has a free destination."""
        mul = self.sides[ADD] is not None
        packed = any(side is not None and (side.pack or side.dst.pack) for side in self.sides)
        full = self.load != (0, bits) or op.exts or dst.exts or packed or all(side is not None for side in self.sides)
        if full or (op.info.mul if mul else op.info.add) < 0:
            raise Fault("load-immediate-full", "this instruction already loads an immediate", op.pos,
                        help="load it in an instruction of its own")  # fmt: skip
        side = Side(index=self.current)
        self.reader.destination(dst, side, mul=mul)
        self.sides[mul] = side
        self._results(op.pos)

    def _ldi(self, op: Operation) -> None:
        count_operands(op, 2, 3)
        source, mode = op.operands[-1], op.info.code
        value, destinations = source.value, op.operands[:-1]
        if source.exts:
            raise Fault("unpack-source", "a constant cannot be unpacked", source.exts[0][1])
        if isinstance(value, LabelRef):
            raise Fault("label-operand", "a label alone is an operand of branches only", source.pos)
        if isinstance(value, Reg):
            if value.semaphore < 0 or mode:
                raise Fault("value-type", f"{op.info.name} loads a constant, not {described(value)}", source.pos)
            self._load(op, destinations, 4, value.semaphore)
        elif isinstance(value, PerElement):
            if (mode == 1 and not value.signed) or (mode == 3 and not value.unsigned):
                raise Fault("per-element", f"an element is out of range for {op.info.name}", source.pos)
            self._load(op, destinations, mode or (1 if value.signed else 3), value.bits)
        else:
            self._load(op, destinations, mode, self._word(value, source.pos), mul=self._wants_mul(op))

    def _semaphore(self, op: Operation) -> None:
        count_operands(op, 2, 3)
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
        occupied = any(side is not None and (not side.idle or side.unpack) for side in self.sides)
        if self.sig != SIG_ALU or self.load is not None or occupied or self.reads:
            what = "a semaphore" if mode == 4 else "a load immediate"
            raise Fault("load-immediate-full", f"{what} is an instruction of its own", op.pos,
                        help="write it on a line of its own")  # fmt: skip
        self.load = (mode, imm)
        for i, dst in enumerate(destinations):
            on_mul = mul != (i == 1)
            side = Side(index=self.current)
            push, unpack, pack = self.reader.exts(op, side)
            if unpack is not None:
                raise Fault("unpack-source", "a constant cannot be unpacked", unpack[3])
            if i:
                side.pack = None  # it belongs to the first destination
            # A pack applies to the one of two destinations that is in file A.
            push |= self.reader.destination(dst, side, mul=on_mul, asked=pack if len(destinations) == 1 else None)
            side.push = push
            self.sides[on_mul] = side
        self._results(op.pos)

    def _results(self, pos: int) -> LoadImm | Semaphore:
        """The load immediate or semaphore of the operations so far. Raises: Fault for a clash of the destinations."""
        assert self.load is not None
        add, mul = (side or Side(cond=0) for side in self.sides)
        found = results(add.dst, mul.dst)
        if isinstance(found, Clash):
            advice = RULES[found.rule]
            raise Fault(found.rule, found.message, max(add.places.get("d", pos), mul.places.get("d", pos)),
                        allowed=advice.allowed, help=advice.help)  # fmt: skip
        pm, pack = add.pack or mul.pack or (found.pm, found.pack)
        sf = int(add.push or mul.push)
        conds = [side.cond if sf or side.dst.n != NOP else 0 for side in (add, mul)]
        ws = self.ws if self._unconstrained() else found.ws
        mode, imm = self.load
        fields = (pm, pack, conds[0], conds[1], sf, ws, add.dst.n, mul.dst.n, imm)
        return Semaphore(*fields) if mode == 4 else LoadImm(LoadMode(mode), *fields)

    # -- the finished instruction --------------------------------------------------------------------------------

    def _check_unpacks(self) -> None:
        """Warn where a float operation makes the unpack of the other operation deliver floats, too (vc4.md 5.1)."""
        floats = False
        for side, takes_floats in zip(self.sides, _FLOAT, strict=True):
            if side is not None and takes_floats[side.op]:
                floats |= any(s is not None and s.port is Port.A for s in (side.a, side.b))
        for name, to_float, pos, operation in self.reader.requests:
            if floats == to_float:
                continue
            self.reader.current = operation
            given, taken = ("floats", "integers") if floats else ("integers", "floats")
            if name[-1] in "if":
                raise Fault("unpack-type", f".{name} needs an operation on {taken}", pos, help="use two instructions")
            self.reader.note("unpack-type", f".{name} gives {given} to both operations; this one takes {taken}", pos,
                       f"write .{name}{given[0]} if that is meant, or use two instructions")  # fmt: skip

    def _finish(self) -> Instr:
        if self.load is not None:
            return self._results(0)
        if self.reader.requests:
            self._check_unpacks()
        i = combine(self._half(ADD), self._half(MUL), self.sig, strict=False)
        if not isinstance(i, Alu):
            raise _Misfit
        add, mul = self.sides
        cond_add, cond_mul = i.cond_add, i.cond_mul
        if not i.sf:
            cond_add, cond_mul = cond_add if i.waddr_add != NOP else 0, cond_mul if i.waddr_mul != NOP else 0
        elif mul is not None and mul.push:
            cond_add = ALWAYS if not i.op_add and i.waddr_add == NOP else cond_add
        elif i.waddr_mul == NOP:
            cond_mul = 0
        ws = self.ws if self._unconstrained() else i.ws
        if (cond_add, cond_mul, ws) != (i.cond_add, i.cond_mul, i.ws):
            i = i._replace(cond_add=cond_add, cond_mul=cond_mul, ws=ws)
        if add is not None and add.zero:
            i = i._replace(add_a=self.zero_mux, add_b=self.zero_mux)
        if mul is not None and mul.zero:
            i = i._replace(mul_a=self.zero_mux, mul_b=self.zero_mux)
        if i.raddr_a == NOP and (i.sig == SIG_SMALL_IMM or i.op_add in (XOR, ISUB) or i.op_mul == V8SUBS_M):
            sources = self._sources()
            if not any(s.port in _USES_A for s in sources) and not any(s and s.rotate for s in self.sides):
                b_free = not any(s.port is Port.B for s in sources)
                folded = load_instead(i, add or Side(), mul or Side(), self.reader, b_free=b_free)
                if folded is not None:
                    return folded
        if add is not None and add.op in (XOR, ISUB) and add.same and mul is None:
            i = i._replace(cond_mul=1)  # as in the reference assembler; no effect, because nothing is written
        return i


_PLACE: dict[str, Callable[[Instruction, Operation], None]] = {
    "alu": Instruction._alu, "mov": Instruction._mov, "sig": Instruction._signal, "ldi": Instruction._ldi,
    "nop": Instruction._nop, "read": Instruction._read, "sem": Instruction._semaphore,
}  # fmt: skip


def _is_constant(op: Operation) -> bool:
    return op.info.kind == "mov" and bool(op.operands) and isinstance(op.operands[-1].value, int | float)


def _rotates(op: Operation) -> bool:
    return any(isinstance(operand.value, Reg) and operand.value.rotation for operand in op.operands)
