"""Checked operations: destination, sources, condition, packs and rotation for one ALU (`Side`).

A `Reader` checks operands and extensions and fills in a `Side`; `qpu.vc4.vc4asm.place` decides which ALU executes it
and which operations fit one instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from qpu.core.isa import Unit
from qpu.vc4.instr import NO_DST, Dst, Half, Port, Src
from qpu.vc4.ops import ADD_OPS, MUL_OPS, float_result
from qpu.vc4.regs import NOP, File, small_imm_code
from qpu.vc4.vc4asm.fault import Fault, Note
from qpu.vc4.vc4asm.names import ALU_CONDS, DST_CONDS, DST_PACKS, OP_PACKS, OP_UNPACKS, SRC_UNPACKS
from qpu.vc4.vc4asm.operands import Operand, Operation, show, unknown_extension
from qpu.vc4.vc4asm.registers import ROTATE_BY_R5, Reg
from qpu.vc4.vc4asm.values import LabelRef, PerElement, Value, described, word32

__all__ = ["ALWAYS", "Reader", "Side", "Unpack", "short"]

ALWAYS = 1
SMALL_IMMEDIATES = "-16..15, and the floats 1/256, 1/128 .. 128.0 (powers of two)"
_KINDS = ("an integer", "a float")

Unpack: TypeAlias = tuple[int, str, str, int]
"""An unpack written on an operation: code, type that its name requires, name, position."""


@dataclass(slots=True)
class Side:
    """The operation of one ALU. places: positions of its destination (``d``), sources (``a``, ``b``) and rotation.

    zero: both sources are port B, whose value does not matter, because the result is zero. index: number of the
    operation in the line.
    """

    op: int = 0
    dst: Dst = NO_DST
    a: Src | None = None
    b: Src | None = None
    cond: int = ALWAYS
    push: bool = False
    rotate: int = 0
    pack: tuple[int, int] | None = None
    unpack: tuple[int, int] | None = None
    zero: bool = False
    index: int = 0
    places: dict[str, int] = field(default_factory=dict)
    made: Half | None = field(default=None, init=False)  # cache of `half`

    @property
    def same(self) -> bool:
        """True when both sources are the same."""
        return self.zero or self.a == self.b

    @property
    def idle(self) -> bool:
        """True when it computes and writes nothing."""
        return not self.op and self.dst.n == NOP

    def half(self, mul: bool, reads: Sequence[Src] = ()) -> Half:
        """The `Half` for the pairing rules."""
        if self.made is not None and not reads:
            return self.made
        made = Half(
            Unit.MUL if mul else Unit.ADD, self.op, self.dst, self.a, self.b, cond=self.cond, push=self.push,
            rotate=self.rotate, reads=reads, pack=self.pack, unpack=self.unpack,
        )  # fmt: skip
        if not reads:
            self.made = made
        return made


class Reader:
    """The checker of the operands and extensions of one line.

    notes: warnings. requests: unpacks of register file A as (name, to float, position, operation). current: index of
    the current operation.
    """

    __slots__ = ("current", "notes", "requests")

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.requests: list[tuple[str, bool, int, int]] = []
        self.current = 0

    def note(self, rule: str, message: str, pos: int, help: str | None = None) -> None:
        """Record a warning at `pos` of the current operation."""
        self.notes.append(Note(rule, message, pos, help, self.current))

    # -- extensions ----------------------------------------------------------------------------------------------

    def exts(self, op: Operation, side: Side) -> tuple[bool, Unpack | None, tuple[str, int] | None]:
        """Extensions after the operation's name: whether it sets flags, its unpack, its pack (name, position)."""
        push, unpack, pack = False, None, None
        for name, pos in op.exts:
            if name in ("setf", "sf"):
                push = True
            elif name in ALU_CONDS:
                self._condition(side, ALU_CONDS[name], pos)
            elif name in OP_PACKS:
                pm, code = OP_PACKS[name]
                if code:
                    self._only_pack(side, pos)
                    side.pack, pack = (pm, code), (name, pos)
            elif name in OP_UNPACKS:
                if unpack is not None:
                    raise Fault("unpack-twice", "an instruction unpacks in one way", pos, help="leave one of them out")
                unpack = (*OP_UNPACKS[name], name, pos)
            else:
                raise unknown_extension(name, pos, "an operation")
        return push, unpack, pack

    @staticmethod
    def _only_pack(side: Side, pos: int) -> None:
        if side.pack is not None or side.dst.pack:
            raise Fault("pack-twice", "an instruction packs one result, once", pos, help="leave one of the packs out")

    @staticmethod
    def _condition(side: Side, code: int, pos: int) -> None:
        if side.cond not in (ALWAYS, code):
            raise Fault("condition-twice", "an operation has one condition", pos, help="leave one of them out")
        side.cond = code

    def destination(
        self, op: Operand, side: Side, *, mul: bool, asked: tuple[str, int] | None = None, rotated: bool = False
    ) -> bool:
        """Set a side's destination; returns whether an extension asks to set flags. asked: the operation's pack."""
        reg = op.value
        if not isinstance(reg, Reg):
            raise Fault("destination", f"a destination is a register, not {described(reg)}", op.pos)
        files = reg.write_files
        if not files:
            note = "use r5rep (lane 0 to all lanes) or r5quad" if reg.mux == 5 else None
            raise Fault("not-writable", f"{reg.name} cannot be written", op.pos, help=note)
        if reg.rotation and not rotated:
            raise Fault("rotate-destination", "a constant is the same in all lanes; it is not rotated", op.pos,
                        help="leave the rotation out")  # fmt: skip
        in_a = files == 1 and reg.waddr < 32
        side.dst = Dst(reg.waddr, None if files == 3 else File.A if files == 1 else File.B)
        side.places["d"] = op.pos
        if asked is not None and side.pack is not None and not side.pack[0]:
            self._asked_pack(asked, reg, side, mul=mul, in_a=in_a)
        push = False
        for name, pos in op.exts:
            if name in DST_CONDS:
                self._condition(side, DST_CONDS[name], pos)
            elif name in ("setf", "sf"):
                push = True
            elif name in DST_PACKS:
                self._destination_pack(name, reg, side, pos, mul=mul, in_a=in_a)
            else:
                raise unknown_extension(name, pos, "a destination")
        return push

    def _asked_pack(self, asked: tuple[str, int], reg: Reg, side: Side, *, mul: bool, in_a: bool) -> None:
        name, pos = asked
        wrong = self._pack_type(name, DST_PACKS[name.removeprefix("pack")].needs, side.op, pos, mul=mul)
        if not in_a:
            help = "name one of ra0..ra31, or leave the pack out"
            self.note("pack-file-a", f".{name} has no effect on {reg.name}", pos, help)
        elif wrong is not None:
            self.note(wrong.rule, wrong.message, pos, wrong.help)

    @staticmethod
    def _pack_type(name: str, needs: str, op: int, pos: int, *, mul: bool) -> Fault | None:
        """The fault of a pack whose name requires the other type of result."""
        row = MUL_OPS[op] if mul else ADD_OPS[op]
        result = row is not None and float_result(row)
        if not needs or result == (needs == "f"):
            return None
        return Fault("pack-type", f".{name} packs {_KINDS[not result]} result; this one is {_KINDS[result]}", pos,
                     help="leave the last letter of the extension out")  # fmt: skip

    def _destination_pack(self, name: str, reg: Reg, side: Side, pos: int, *, mul: bool, in_a: bool) -> None:
        row = DST_PACKS[name]
        if row.file_a == 0:
            return
        if row.file_a >= 0 and in_a:
            pm, code = 0, row.file_a
            wrong = self._pack_type(name, row.needs, side.op, pos, mul=mul)
            if wrong is not None:
                raise wrong
        elif row.mul < 0:
            raise Fault("pack-file-a", f".{name} needs a destination in register file A", pos, allowed="ra0..ra31")
        elif not mul:
            raise Fault("pack-mul-only", f".{name} on {reg.name} packs a MUL result; this is an ADD operation", pos)
        else:
            pm, code = 1, row.mul
            if code > 7:
                form = f"8{'abcd'[code - 12]}sf" if code >= 12 else "8888sf"
                self.note("reserved-pack", f".{name} gets code {code}, which the guide leaves undefined", pos,
                           f"write .{form}")  # fmt: skip
        self._only_pack(side, pos)
        side.dst = side.dst._replace(pack=code, pm=pm)

    # -- sources -------------------------------------------------------------------------------------------------

    def source(self, op: Operand, *, float_op: bool) -> Src:
        """A source operand without its rotation."""
        value = op.value
        if not isinstance(value, Reg):
            if op.exts:
                raise Fault("unpack-source", "only registers can be unpacked", op.exts[0][1])
            if isinstance(value, LabelRef):
                raise Fault("label-operand", "a label alone is an operand of branches only", op.pos)
            if isinstance(value, PerElement):
                raise Fault("value-type", "a per-element vector can only be loaded, with ldi or mov", op.pos)
            return self.immediate(value, op.pos)
        if value.mux >= 0:
            source = Src(Port.ACC, value.mux)
        elif value.read_files:
            source = Src((Port.A, Port.B, Port.ANY)[value.read_files - 1], value.raddr)
        else:
            what = "a semaphore is not an operand" if value.semaphore >= 0 else f"{value.name} cannot be read"
            raise Fault("not-readable", what, op.pos)
        for name, pos in op.exts:
            code = self._source_unpack(name, value, pos, float_op=float_op)
            if source.unpack and code and source.unpack != code:
                raise Fault("unpack-twice", "an instruction unpacks in one way", pos, help="leave one of them out")
            source = source._replace(unpack=code or source.unpack)
        return source

    @staticmethod
    def immediate(value: Value, pos: int) -> Src:
        code = small_imm_code(word32(value, pos))
        if code is None:
            raise Fault("small-imm", f"{show(value)} is not a small immediate", pos, allowed=SMALL_IMMEDIATES,
                        help="load it into a register first: ldi ra0, ...")  # fmt: skip
        return Src(Port.IMM, code)

    def _source_unpack(self, name: str, reg: Reg, pos: int, *, float_op: bool) -> int:
        row = SRC_UNPACKS.get(short(name))
        if row is None:
            raise unknown_extension(name, pos, "a source")
        code, needs = row
        if not code:
            return 0
        if reg.mux == 4:
            if needs == "i":
                raise Fault("unpack-type", f".{name}: r4 is unpacked to floats only", pos)
        elif reg.read_files == 1 and reg.raddr < 32:
            if code != 3:
                self.requests.append((name, float_op if not needs else needs == "f", pos, self.current))
        else:
            raise Fault("unpack-source", f"{reg.name} cannot be unpacked", pos, allowed="ra0..ra31 and r4")
        return code

    def unpack(self, request: Unpack | None, side: Side, others: Sequence[Side | None], *, float_op: bool) -> None:
        """Apply an unpack extension of the operation: to r4 if that is read, else to register file A; with ``i`` to A.

        When the operation reads neither, the unpack gets the pm bit of the other packs of the instruction.
        """
        if request is None or not request[0]:
            return
        code, needs, name, pos = request
        kinds = [_unpacks(s) for s in (side.a, side.b)]
        if 0 in kinds and 1 in kinds and needs != "i":
            raise Fault("unpack-ambiguous", "this unpack could be of r4 or of register file A", pos,
                        help="write it on the source instead: ra1.16a")  # fmt: skip
        if needs == "i":
            pm = 0
        elif 0 in kinds or 1 in kinds:
            pm = int(1 in kinds)
        else:
            packs = [s.pack or (s.dst.pm, s.dst.pack) for s in (*others, side) if s is not None]
            pm = next((row[0] for row in packs if row[1]), 0)
        if pm not in kinds:
            what = "r4" if pm else "register file A"
            self.note("unpack-unused", f"this operation reads nothing of {what} that could be unpacked", pos,
                       "leave the unpack out")  # fmt: skip
            side.unpack = (pm, code)
            return
        if needs == "f" and not float_op and not pm:
            self.note("unpack-type", "this operation takes integers: the unpack gives integers, too", pos,
                       "write the unpack without its last letter")  # fmt: skip
        elif not pm and code != 3:
            self.requests.append((name, float_op, pos, self.current))
        if side.a is not None and kinds[0] == pm:
            side.a = side.a._replace(unpack=code)
        if side.b is not None and kinds[1] == pm:
            side.b = side.b._replace(unpack=code)

    def rotation(self, operands: Sequence[Operand], side: Side) -> None:
        """Read the rotation of a MUL operation. Only r0..r3 rotate across quads; for others the count is modulo 4."""
        whole = False
        for operand in operands:
            reg = operand.value
            if not isinstance(reg, Reg) or not reg.rotation:
                continue
            code = 48 if reg.rotation == ROTATE_BY_R5 else 48 + reg.rotation
            across = 0 <= reg.mux < 4
            if side.rotate and side.rotate != code:
                if 48 in (side.rotate, code) or (side.rotate - code) % 4 or (across and whole):
                    raise Fault("rotate-twice", "an instruction has one rotation", operand.pos)
                code = code if across else side.rotate
            side.rotate, whole = code, whole or across
            side.places["rotate"] = operand.pos
            if reg.mux == 5:
                self.note("rotate-r5", "r5 is the same in all lanes of a quad: rotating it has no effect", operand.pos)
            elif not across and reg.rotation in range(4, 13):
                self.note("rotate-quad", f"{reg.name} rotates within quads only, by the count modulo 4", operand.pos)
        if not side.rotate:
            return
        rotated = [o for o in operands if isinstance(o.value, Reg) and o.value.rotation]
        if len(operands) == 2 and len(rotated) == 1:
            plain = operands[1] if rotated[0] is operands[0] else operands[0]
            if isinstance(plain.value, Reg) and plain.value.mux in (0, 1, 2, 3):
                self.note("rotate-both", f"{plain.value.name} is rotated as well", plain.pos,
                           "rotate with a mov of its own")  # fmt: skip

    @staticmethod
    def no_rotation(sources: Sequence[Operand]) -> None:
        for source in sources:
            if isinstance(source.value, Reg) and source.value.rotation:
                raise Fault("rotate-add", "only the MUL ALU rotates", source.pos, help="use mov, or a MUL operation")

    def rotate_destination(self, operands: Sequence[Operand], *, mul: bool) -> Sequence[Operand]:
        """The operands with the rotation of the destination applied to the sources, in the opposite direction."""
        reg, where = operands[0].value, operands[0].pos
        if not isinstance(reg, Reg) or not reg.rotation:
            return operands
        if not mul:
            raise Fault("rotate-destination", "only the MUL ALU rotates", where, help="rotate with a mov of its own")
        found = [operands[0]]
        for source in operands[1:]:
            value = source.value
            if isinstance(value, Reg):
                if value.rotation:
                    raise Fault("rotate-twice", "source and destination are both rotated", where)
                by = ROTATE_BY_R5 if reg.rotation == ROTATE_BY_R5 else -reg.rotation & 15
                source = Operand(value.rotated(by), source.exts, source.pos)
            found.append(source)
        if not any(isinstance(s.value, Reg) for s in found[1:]):
            raise Fault("rotate-destination", "constants are the same in all lanes; they are not rotated", where)
        return found


def short(name: str) -> str:
    """An unpack extension without ``unpack``."""
    return name.removeprefix("unpack")


def _unpacks(source: Src | None) -> int:
    """Which unpack applies to a source: 0 that of register file A, 1 that of r4, -1 none."""
    if source is None:
        return -1
    if source.port is Port.A and source.n < 32:
        return 0
    return 1 if source.port is Port.ACC and source.n == 4 else -1
