"""Operands of an instruction: destinations and packs, sources with their read ports, immediates, rotations."""

from __future__ import annotations

from typing import TypeAlias

from qpu.vc4.regs import small_imm_code, small_imm_text, small_imm_value
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.names import ALU_CONDS, BRANCH_CONDS, DST_CONDS, DST_PACKS, OP_PACKS, OP_UNPACKS, SRC_UNPACKS
from qpu.vc4.vc4asm.registers import ROTATE_BY_R5, Reg
from qpu.vc4.vc4asm.state import (
    ALWAYS,
    FIXED,
    FLOAT_ADD,
    FLOAT_RESULT_ADD,
    FMIN,
    FREE,
    IMMEDIATE,
    MOVABLE,
    SMALL_IMMEDIATES,
    Operand,
    Operation,
    State,
)
from qpu.vc4.vc4asm.values import LabelRef, PerElement, Value, described, word32

Unpack: TypeAlias = tuple[int, str, str, int]
"""An unpack asked for on an operation: code, type that its name insists on, name, position."""

__all__ = ["Ports", "show", "unknown_extension"]


class Ports(State):
    """Operands find their place."""

    __slots__ = ()

    # -- extensions ----------------------------------------------------------------------------------------------

    def _operation_exts(self, op: Operation, *, mul: bool, packs: bool = True) -> tuple[bool, Unpack | None]:
        """Apply extensions after the operation's name; returns whether it sets flags and its unpack request."""
        sets = False
        unpack: Unpack | None = None
        for name, pos in op.exts:
            if name in ("setf", "sf"):
                sets = True
            elif name in ALU_CONDS:
                self._condition(ALU_CONDS[name], pos, mul=mul)
            elif name in OP_PACKS:
                pm, code = OP_PACKS[name]
                if code and packs:
                    self._want_pm(pm, "pack", pos)
                    self._set_pack(code, pos)
                    self.asked_pack = (name, pm, pos)
                if pm and not mul:
                    raise Fault("pack-mul-only", f".{name} packs a MUL result", pos)
            elif name in OP_UNPACKS:
                if unpack is not None:
                    raise Fault("unpack-twice", "an instruction unpacks in one way", pos)
                unpack = (*OP_UNPACKS[name], name, pos)
            else:
                raise unknown_extension(name, pos, "an operation")
        return sets, unpack

    def _condition(self, code: int, pos: int, *, mul: bool) -> None:
        before = self.cond_mul if mul else self.cond_add
        if before not in (ALWAYS, code):
            raise Fault(
                "condition-twice", "an operation has one condition", pos, help="leave one of the conditions out"
            )
        if mul:
            self.cond_mul = code
        else:
            self.cond_add = code

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
        if self.pack_set:
            raise Fault("pack-twice", "an instruction packs one result, once", pos, help="leave one of the packs out")
        self.pack, self.pack_set = code, True

    def _destination(self, op: Operand, *, mul: bool, only_mul_packs: bool = False) -> bool:
        """Set an ALU's destination; returns whether an extension asks to set flags."""
        reg = op.value
        if not isinstance(reg, Reg):
            raise Fault("destination", f"a destination is a register, not {described(reg)}", op.pos)
        files = reg.write_files
        if not files:
            note = "use r5rep (lane 0 to all lanes) or r5quad" if reg.mux == 5 else None
            raise Fault("not-writable", f"{reg.name} cannot be written", op.pos, help=note)
        req = None if files == 3 else (files == 2) ^ mul
        if mul:
            self.waddr_mul, self.req_mul = reg.waddr, None if req is None else int(req)
        else:
            self.waddr_add, self.req_add = reg.waddr, None if req is None else int(req)
        if self.req_add is not None and self.req_mul not in (None, self.req_add):
            raise Fault(
                "write-file",
                "both results go to the same register file",
                op.pos,
                allowed="one destination in file A and one in file B, or an accumulator",
            )
        if self.req_add is not None:
            self.ws = self.req_add
        elif self.req_mul is not None:
            self.ws = self.req_mul
        elif not mul:
            self.ws = 0  # a destination of the MUL ALU keeps what an exchange left, as in the reference assembler
        if self.asked_pack is not None:
            name, pm, pos = self.asked_pack
            self.asked_pack = None
            if not pm and not (files == 1 and reg.waddr < 32):
                message, help = f".{name} has no effect on {reg.name}", "name one of ra0..ra31, or leave the pack out"
                self._note("pack-file-a", message, pos, help)
            elif not pm:
                wrong = self._pack_type(name, DST_PACKS[name.removeprefix("pack")].needs, pos, mul=mul)
                if wrong is not None:
                    self._note(wrong.rule, wrong.message, pos, wrong.help)
        sets = False
        for name, pos in op.exts:
            if name in DST_CONDS:
                self._condition(DST_CONDS[name], pos, mul=mul)
            elif name in ("setf", "sf"):
                sets = True
            elif name in DST_PACKS:
                self._destination_pack(name, reg, pos, mul=mul)
            else:
                raise unknown_extension(name, pos, "a destination")
        return sets

    def _destination_pack(self, name: str, reg: Reg, pos: int, *, mul: bool) -> None:
        row = DST_PACKS[name]
        if row.file_a == 0:
            return
        if row.file_a >= 0 and reg.write_files == 1 and reg.waddr < 32:
            pm, code = 0, row.file_a
            wrong = self._pack_type(name, row.needs, pos, mul=mul)
            if wrong is not None:
                raise wrong
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

    def _pack_type(self, name: str, needs: str, pos: int, *, mul: bool) -> Fault | None:
        """The fault of a pack whose name insists on the other type of result."""
        result = bool(self.op_mul == 1) if mul else self.op_add in FLOAT_RESULT_ADD
        if not needs or result == (needs == "f"):
            return None
        kinds = ("an integer", "a float")
        return Fault("pack-type", f".{name} packs {kinds[not result]} result; this one is {kinds[result]}", pos,
                     help="leave the last letter of the extension out")  # fmt: skip

    # -- sources -------------------------------------------------------------------------------------------------

    def _exchange_b_to_a(self) -> None:
        """Move the register on port B, which both files offer, to the free port A."""
        self.raddr_a, self.ra_state = self.raddr_b, self.rb_state
        self.raddr_b, self.rb_state = 39, FREE
        self._remap(7, 6)

    def _exchange_a_to_b(self) -> None:
        self.raddr_b, self.rb_state = self.raddr_a, self.ra_state
        self.raddr_a, self.ra_state = 39, FREE
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
            if self.ra_state == FREE or self.raddr_a == addr:
                if self.ra_state == FREE:
                    self.raddr_a, self.ra_state = addr, MOVABLE
                return 6
            if self.rb_state == FREE or self.zero_b or (self.rb_state != IMMEDIATE and self.raddr_b == addr):
                if self.rb_state == FREE or self.zero_b:
                    self.raddr_b, self.rb_state, self.zero_b = addr, MOVABLE, False
                return 7
            raise self._no_port(reg, pos)
        if files == 1:
            if self.ra_state == FREE or self.raddr_a == addr:
                self.raddr_a, self.ra_state = addr, FIXED
                return 6
            if self.ra_state == MOVABLE:
                if self.rb_state == FREE or self.zero_b:
                    self.zero_b = False
                    self._exchange_a_to_b()
                elif self.rb_state != IMMEDIATE and self.raddr_b == self.raddr_a:
                    self._remap(6, 7)
                else:
                    raise self._no_port(reg, pos)
                self.raddr_a, self.ra_state = addr, FIXED
                return 6
            raise self._no_port(reg, pos)
        if self.rb_state == IMMEDIATE:
            raise Fault(
                "small-imm-port",
                f"{reg.name} needs the read port of register file B, which the immediate "
                f"{small_imm_text(self.raddr_b)} takes",
                pos,
                help="copy one of them to an accumulator first",
            )
        if self.rb_state == FREE or (self.raddr_b == addr and not self.zero_b):
            self.raddr_b, self.rb_state = addr, FIXED
            return 7
        if self.rb_state == MOVABLE:
            if self.zero_b:
                if self.ra_state == FREE:
                    self._remap(7, 6)
                self.zero_b = False
            elif self.ra_state == FREE:
                self._exchange_b_to_a()
            elif self.raddr_a == self.raddr_b:
                self._remap(7, 6)
            else:
                raise self._no_port(reg, pos)
            self.raddr_b, self.rb_state = addr, FIXED
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
        if self.rb_state == IMMEDIATE:
            if self.raddr_b == code or small_imm_value(self.raddr_b) == small_imm_value(code):
                self.rotation_shared = True
                return 7
            free = self.rotation > 48 and not self.rotation_whole and not self.rotation_shared
            if free and 16 < code < 32 and (code + 32 - self.rotation) % 4 == 0:
                # Within quads, only the count modulo 4 matters.
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
        if self.rb_state != FREE and not self.zero_b:
            if self.rb_state == MOVABLE and (self.ra_state == FREE or self.raddr_a == self.raddr_b):
                if self.ra_state == FREE:
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
        self.sig, self.raddr_b, self.rb_state, self.zero_b = 13, code, IMMEDIATE, False
        return 7

    def _immediate(self, value: Value, pos: int) -> int:
        """The mux of a constant operand."""
        code = small_imm_code(word32(value, pos))
        if code is None:
            raise Fault(
                "small-imm",
                f"{show(value)} is not a small immediate",
                pos,
                allowed=SMALL_IMMEDIATES,
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
        if not op.exts and (mux == 4 or (value.read_files == 1 and value.raddr < 32)):
            self.plain.append((int(mux == 4), value.name, op.pos, self.current))
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
        row = SRC_UNPACKS.get(name.removeprefix("unpack"))
        if row is None:
            raise unknown_extension(name, pos, "a source")
        code, needs = row
        if not code:
            return
        if reg.mux == 4:
            if needs == "i":
                raise Fault("unpack-type", f".{name}: r4 is unpacked to floats only", pos)
            self._want_pm(1, "unpack", pos)
        elif reg.read_files == 1 and reg.raddr < 32:
            if needs == "f" and move:
                self.op_add = FMIN
            if code != 3:
                self.unpack_requests.append((name, float_op if not needs else needs == "f", pos, self.current))
            self._want_pm(0, "unpack", pos)
        else:
            raise Fault("unpack-source", f"{reg.name} cannot be unpacked", pos, allowed="ra0..ra31 and r4")
        self._set_unpack(code, pos)

    def _set_unpack(self, code: int, pos: int) -> None:
        if self.unpack and self.unpack != code:
            raise Fault("unpack-twice", "an instruction unpacks in one way", pos)
        self.unpack = code

    def _check_unpack(self) -> None:
        """Refuse an unpack that reaches an operand written without it, or that gives another type than was written.

        An unpack of file A applies to every read of it, and gives floats to both ALUs as soon as one of them takes it
        in a float operation (vc4.md 5.1).
        """
        for pm, name, pos, operation in self.plain:
            if pm == self.pm:
                self.current = operation
                raise Fault("unpack-leak", f"the unpack of this instruction applies to this {name} as well", pos,
                            help=f"write the unpack on every {name}, or use two instructions")  # fmt: skip
        floats = (self.op_add in FLOAT_ADD and 6 in (self.add_a, self.add_b)) or (
            self.op_mul == 1 and 6 in (self.mul_a, self.mul_b)
        )
        for name, to_float, pos, operation in self.unpack_requests:
            if floats == to_float or self.pm:
                continue
            self.current = operation
            given, taken = ("floats", "integers") if floats else ("integers", "floats")
            if name[-1] in "if":
                raise Fault("unpack-type", f".{name} needs an operation on {taken}", pos, help="use two instructions")
            self._note("unpack-type", f".{name} gives {given} to both operations; this one takes {taken}", pos,
                       f"write .{name}{given[0]} if that is meant, or use two instructions")  # fmt: skip

    def _operation_unpack(self, request: Unpack, float_op: bool) -> None:
        """An unpack asked for on the operation: of r4 if that is read, else of register file A; with ``i`` always of A.

        When the operation reads neither, it goes with whatever else the instruction packs.
        """
        code, needs, name, pos = request
        if not code:
            return
        reads = {pm for pm, _, _, operation in self.plain if operation == self.current}
        if len(reads) == 2 and needs != "i":
            raise Fault("unpack-ambiguous", "this unpack could be of r4 or of register file A", pos,
                        help="write it on the source instead: ra1.16a")  # fmt: skip
        if needs == "i":
            self._want_pm(0, "unpack", pos)
        elif reads:
            self._want_pm(min(reads), "unpack", pos)
        self.plain = [row for row in self.plain if row[3] != self.current or row[0] != self.pm]
        self._set_unpack(code, pos)
        if needs == "f" and not float_op and not self.pm:
            self._note("unpack-type", "this operation takes integers: the unpack gives integers, too", pos)
        if self.pm not in reads:
            what = "r4" if self.pm else "register file A"
            self._note("unpack-unused", f"this operation reads nothing of {what} that could be unpacked", pos,
                       "leave the unpack out")  # fmt: skip
        elif not self.pm and code != 3:
            self.unpack_requests.append((name, float_op, pos, self.current))

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
        if self.rb_state == IMMEDIATE:
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


def show(value: Value) -> str:
    if isinstance(value, int):
        return str(value) if -65536 < value < 65536 else f"{value} (0x{value & 0xFFFFFFFF:x})"
    return str(value)


def unknown_extension(name: str, pos: int, what: str) -> Fault:
    import difflib

    everything = [*DST_CONDS, *DST_PACKS, *SRC_UNPACKS, *BRANCH_CONDS, *OP_PACKS, *OP_UNPACKS, "setf"]
    if name in everything:
        return Fault("extension-place", f".{name} cannot follow {what}", pos)
    close = difflib.get_close_matches(name, everything, 1)
    return Fault("extension", f"unknown extension .{name}", pos, help=f"did you mean .{close[0]}?" if close else None)
