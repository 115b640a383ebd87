"""The base class of the typed builders of V3D 4.2 and 7.1: operands, dual issue, branches and program ends.

A builder records halves, joins them with `qpu.v3d.pairing` and encodes them with `qpu.v3d.encode`. The methods of
operations, the destinations and the signals are generated (`qpu/v3d/generated`); the methods call `_add`, `_mul` and
`_mul_only`. An operation of the add ALU leaves its instruction open until a mul operation is chained or the next
instruction begins.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final, Literal, TypeAlias

from qpu.core.builder import Builder, Label, MulSlot, Refused
from qpu.core.isa import Isa, Unit
from qpu.core.locations import LAYERS, Places, loc_of
from qpu.core.optable import Op, OperandType
from qpu.errors import AsmError, suggest
from qpu.v3d.advice import FOREIGN, mistake
from qpu.v3d.codes import BDI, BRANCH_CONDS, MSFIGN
from qpu.v3d.encode import KEYS, HalfKey, Keys, encode
from qpu.v3d.instr import Alu, AluHalf, Branch, Instr, Sig
from qpu.v3d.operands import ABSENT, LRI, Absolute, Dest, Imm, LinkRegister, Reg, RegFile, Signal, immediate
from qpu.v3d.pairing import ADD, draft, explain, idle
from qpu.v3d.regs import imm_index

__all__ = [
    "BranchCond", "Cond", "Label", "Msfign", "MulSlot", "Push", "SigArg", "Source", "UnifTarget", "Update",
    "V3dBuilder", "registers",
]  # fmt: skip

Cond: TypeAlias = Literal["ifa", "ifb", "ifna", "ifnb"]
Push: TypeAlias = Literal["pushz", "pushn", "pushc"]
Update: TypeAlias = Literal[
    "andz", "andnz", "nornz", "norz", "andn", "andnn", "nornn", "norn", "andc", "andnc", "nornc", "norc"
]
BranchCond: TypeAlias = Literal["a0", "na0", "alla", "anyna", "anya", "allna"]
Msfign: TypeAlias = Literal["p", "q"]
UnifTarget: TypeAlias = Literal["abs", "rel", "lri"]
Source: TypeAlias = Reg | Imm | int | float
SigArg: TypeAlias = "Signal | Sequence[Signal]"

_UNIFORM_HELP: Final = "load it as a uniform: q.nop(sig=q.ldunifrf(q.rf[5]))"
_NUMBERS: Final[dict[tuple[type, int | float, OperandType], Imm]] = {}
"""A cache of the immediates of plain numbers by operand type."""


_ADD, _MUL = Unit.ADD, Unit.MUL  # enum members are slow to reach through their class
_half: Final = tuple.__new__  # twice as fast as calling the class
_NO_SIGNAL: Final = Signal(0)
_NOP: Final = idle()
_KEPT: Final = 1 << 15  # halves that are cached
Recorded: TypeAlias = tuple[AluHalf, HalfKey | None]
"""A half and its key; None where it is not valid."""


def _refused(kind: str, message: str, allowed: str | None = None, help: str | None = None) -> Refused:
    return Refused.of(mistake(kind, message, allowed, help))


def registers(isa: Isa) -> dict[int, Reg]:
    """rf0..rf63 by number, for `RegFile`."""
    return {n: Reg(isa, n) for n in range(64)}


class V3dBuilder(Builder["Instr | int"]):
    """Base class of `Asm42` and `Asm71`. It records instructions, and the words of those that are complete."""

    __slots__ = ("_sig", "rf")

    _foreign = FOREIGN
    _registers: ClassVar[dict[int, Reg]]
    _idle: ClassVar[Alu]
    # of each ALU: halves by the arguments of the method, and the cache of their keys
    _known_add: ClassVar[tuple[dict[Any, Recorded], Keys]]
    _known_mul: ClassVar[tuple[dict[Any, Recorded], Keys]]
    null: ClassVar[Dest]
    rf: RegFile

    lri: Final = LRI
    """The link register as a branch target."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if hasattr(cls, "isa"):
            cls._known_add, cls._known_mul = (({}, KEYS[cls.isa, unit]) for unit in (_ADD, _MUL))

    def __init__(self) -> None:
        super().__init__()
        self._sig = _NO_SIGNAL  # of the open instruction
        self.rf = RegFile(self._registers, self)  # type: ignore[call-arg] # a plain class for the checker

    def _bad_register(self, n: object) -> Reg:
        what = f"rf{n}" if isinstance(n, int) else f"rf[{n!r}]"
        self._wrong("rf-index", f"{what} does not exist")
        return self._registers[0]

    def _wrong(self, kind: str, message: str, allowed: str | None = None, help: str | None = None) -> None:
        """Record a mistake, with arguments as for `mistake`, at the user's line."""
        self._refuse(mistake(kind, message, allowed, help))

    # -- halves

    def _add(self, op: Op, d: Any, a: Any, b: Any, cond: Any, push: Any, update: Any, sig: Any) -> int:
        if self._open >= 0:
            self._settle()
        frame = sys._getframe(2)
        while frame.f_code.co_filename in LAYERS:
            frame = frame.f_back  # type: ignore[assignment] # the outermost caller is outside
        self._places.append((frame.f_code, frame.f_lasti))
        instrs = self._instrs
        index = self._open = len(instrs)
        instrs.append(self._idle)
        try:
            half = self._known_add[0].get((op, d, a, b, cond, push, update))
        except TypeError:
            half = None
        self._half = half or self._recorded(_ADD, op, d, a, b, cond, push, update)
        self._sig = _NO_SIGNAL if sig is None else self._signal(sig)
        return index

    def _mul(self, index: int, op: Op, d: Any, a: Any, b: Any, cond: Any, push: Any, update: Any, sig: Any) -> None:
        if index != self._open and not self._join(index, op.name):
            return
        self._open = -1
        half: Recorded | None
        try:
            half = self._known_mul[0].get((op, d, a, b, cond, push, update))
        except TypeError:
            half = None
        half = half or self._recorded(_MUL, op, d, a, b, cond, push, update)
        if sig is not None and not self._also(self._signal(sig)):
            return
        signal = self._sig
        if self._half is None or half is None:
            return  # reported
        (add, add_key), (mul, mul_key) = self._half, half
        try:
            given = (add_key, mul_key) if add_key and mul_key else None
            instr, keys = draft(self.isa, add, mul, signal.bits, signal.dst, signal.rot, given)
            self._instrs[index] = encode(instr, keys)
        except AsmError as error:
            found, part = explain(error, self.isa, add, mul, signal.bits, signal.dst, signal.rot)
            if part == ADD:
                self._alone(index)
            else:
                self._refuse(found)

    def _also(self, signal: Signal) -> bool:
        """Add the signal of the mul half to that of the add half; False after an error."""
        mine = self._sig
        if mine.bits & signal.bits or (mine.dst is not None and signal.dst is not None):
            self._wrong("signals-of-halves", f"{signal!r} collides with a signal of the add half")
            return False
        self._sig = mine | signal
        return True

    def _settle(self) -> None:
        if self._open >= 0:
            self._alone(self._open)
            self._open = -1

    def _alone(self, index: int) -> None:
        """Make an instruction of the open add half and a nop."""
        signal = self._sig
        if self._half is None:
            return  # reported
        add, _ = self._half
        try:
            instr, keys = draft(self.isa, add, _NOP, signal.bits, signal.dst, signal.rot)
            self._instrs[index] = encode(instr, keys)
        except AsmError as error:
            found = explain(error, self.isa, add, _NOP, signal.bits, signal.dst, signal.rot)[0]
            self._errors.append(replace(found, loc=loc_of(self._places[index]), index=index))

    def _mul_only(self, op: Op, d: Any, a: Any, b: Any, cond: Any, push: Any, update: Any, sig: Any) -> None:
        index = self._add(idle().op, self.null, ABSENT, ABSENT, None, None, None, None)
        self._mul(index, op, d, a, b, cond, push, update, sig)

    def _recorded(
        self, unit: Unit, op: Op, d: Any, a: Any, b: Any, cond: Any, push: Any, update: Any
    ) -> Recorded | None:
        """The half of a builder call, or None after an error. Valid halves of operand objects are cached."""
        try:
            self._check_dest(op, d)
            one, two = self._source(op, "a", a), self._source(op, "b", b)
        except Refused as refused:
            self._refuse(refused)
            return None
        half = _half(AluHalf, (op, d.dst, one.src, two.src, d.mod, cond or "", push or "", update or ""))
        known, keys = self._known_add if unit is _ADD else self._known_mul
        try:
            key = keys.make(half)
        except AsmError:
            return half, None  # reported with the instruction
        if one is a and two is b:
            if len(known) >= _KEPT:
                known.clear()
            known[op, d, a, b, cond, push, update] = half, key
        return half, key

    def _check_dest(self, op: Op, d: Any) -> None:
        if d is ABSENT:
            return
        if not isinstance(d, Dest):
            raise _refused("destination-first", f"{d!r} is not a destination of {op.name}")
        if d.isa is not self.isa:
            raise _refused("other-chip", f"{d!r} belongs to {d.isa.label}, this program is for {self.isa.label}")

    def _source(self, op: Op, role: str, value: Any) -> Any:
        """The operand of a value: registers of this chip and immediates as they are, numbers as immediates."""
        if value is ABSENT or isinstance(value, Imm) or (isinstance(value, Reg) and value.isa is self.isa):
            return value
        if isinstance(value, Dest):
            what = "can only be written" if value.isa is self.isa else f"is a register of {value.isa.label}"
            accumulators = "r0 .. r5, " if self.isa is Isa.V3D42 else ""
            allowed = f"rf[0] .. rf[63], {accumulators}small immediates"
            raise _refused("write-only", f"{value!r} {what}", allowed)
        operand = op.operand(role)
        type_ = operand.type if operand is not None else OperandType.B32
        key = value.__class__, value if isinstance(value, (int, float)) and value else 0.5, type_
        found = _NUMBERS.get(key) if key[1] != 0.5 else None
        if found is None:
            found = self._number(op, value, type_)
            if key[1] != 0.5:
                _NUMBERS[key] = found
        return found

    def _number(self, op: Op, value: Any, type_: OperandType) -> Imm:
        number: int | float
        if isinstance(value, float):
            number = float(value)
        elif isinstance(value, bool) or not hasattr(value, "__index__"):
            if not hasattr(value, "__float__") or isinstance(value, bool):
                raise _refused("number-operand", f"{value!r} is not an operand of {op.name}")
            number = float(value)
        else:
            number = int(value)
        imm = immediate(number)
        if imm is None:
            help = _UNIFORM_HELP + (" or q.ldunif (r5)" if self.isa is Isa.V3D42 else "")
            raise _refused("small-imm", f"{value!r} is not a small immediate on {self.isa.label}", help=help)
        floats = (OperandType.F32, OperandType.F16X2)
        if imm.src.n and isinstance(number, float) and type_ not in (OperandType.F32, OperandType.B32):
            kind, others = "float", f"integers; q.imm({value!r}) where the bit pattern is meant"
        elif imm.src.n and not isinstance(number, float) and type_ in floats:
            kind, others = "integer", f"floats: {float(number)!r}; q.imm({value!r}) where the bit pattern is meant"
        else:
            return imm
        raise _refused("imm-type", f"the {kind} {value!r} is an operand of {op.name}, which takes {type_}", others)

    def imm(self, value: int | float) -> Imm:
        """The small immediate of a number, or of a 32-bit pattern, for any operation whatever its operand type.

        Allowed: integers -16..15, floats 2**-8 .. 2**7, and their patterns.
        """
        found = immediate(value)
        if found is None:
            why = f"{value!r} is not a small immediate on {self.isa.label}"
            self._wrong("small-imm", why, help=_UNIFORM_HELP)
            return Imm(0, 0)
        return found

    def magic(self, n: int) -> Dest:
        """Magic destination n, 0..63, named or not."""
        if not 0 <= n < 64:
            self._wrong("address", f"magic destination {n} does not exist")
            return self.null
        return Dest(self.isa, n)

    # -- signals

    def _signal(self, sig: SigArg) -> Signal:
        if isinstance(sig, Signal):
            return sig
        parts: object = sig
        if isinstance(parts, (list, tuple)) and all(isinstance(s, Signal) for s in parts):
            merged = Signal(0)
            for s in parts:
                try:
                    merged = merged | s
                except AsmError as error:
                    self._errors += error.diagnostics
            return merged
        self._wrong("signal-value", f"{sig!r} is not a signal")
        return Signal(0)

    def _writing(self, bit: int, d: object) -> Signal:
        """The signal `bit` with its destination."""
        if isinstance(d, Dest) and d.isa is self.isa and not d.mod:
            return Signal(bit, d.dst)
        self._wrong("signal-place", f"{d!r} is not a destination of {str(Sig(bit).name).lower()}")
        return Signal(0)

    def _rotation(self, amount: object) -> Signal:
        if isinstance(amount, Reg) and amount.dst == (5, True) and not amount.mod:
            return Signal(int(Sig.ROT), None, 0)
        if isinstance(amount, int) and not isinstance(amount, bool) and amount and -16 <= amount <= 15:
            return Signal(int(Sig.ROT), None, imm_index(amount))
        self._wrong("rotation", f"{amount!r} is not a rotation amount", "1..15, -16..-1, q.r5")
        return Signal(0)

    # -- branches, tails, raw words

    def absolute(self, address: int) -> Absolute:
        """A GPU address as a branch target; a multiple of 8."""
        return Absolute(address)

    def b(
        self,
        target: str | Label | int | Reg | Absolute | LinkRegister,
        *,
        cond: BranchCond | None = None,
        msfign: Msfign | None = None,
        unif: UnifTarget | Reg | None = None,
        link: bool = False,
    ) -> None:
        """Branch; the three instructions after it are executed in any case.

        target: label, byte offset from the fourth instruction after the branch, register (lane 0), ``q.lri``, or
        ``q.absolute(address)``. cond: on flag A. msfign: ignore lanes (p) or quads (q) without live samples.
        unif: also move the uniform stream: to the address (abs) or by the offset (rel) that the next uniform
        holds, to the link register, or to a register. link: set the link register to the fourth instruction after
        the branch.
        """
        label = target.name if isinstance(target, Label) else target if isinstance(target, str) else None
        try:
            branch = self._branch(target if label is None else 0, cond, msfign, unif, link)
        except Refused as refused:
            self._refuse(refused)
            branch, label = Branch(self.isa), None
        self._record_branch(branch, label)

    def _branch(self, target: Any, cond: Any, msfign: Any, unif: Any, link: bool) -> Branch:
        for value, allowed, what in (
            (cond, [c for c in BRANCH_CONDS if c], "branch condition"),
            (msfign, [m for m in MSFIGN if m], "msfign"),
        ):
            if value is not None and value not in allowed:
                help = suggest(value, allowed) or "use one of them"
                raise _refused("branch-cond", f"unknown {what} {value!r}", ", ".join(allowed), help)
        branch = Branch(self.isa, cond or "", msfign or "", link=bool(link))
        if self._is_register(target):
            branch = branch._replace(bdi="rf", raddr_a=target.dst.n)
        elif isinstance(target, Absolute):
            if not 0 <= target.address < 1 << 32 or target.address & 7:
                raise _refused("instruction-address", f"{target.address:#x} is not the address of an instruction")
            branch = branch._replace(bdi="abs", offset=target.address)
        elif target is LRI:
            branch = branch._replace(bdi="lri")
        elif isinstance(target, int) and not isinstance(target, bool):
            if not -(1 << 31) <= target < 1 << 31 or target & 7:
                raise _refused("byte-offset", f"{target} is not a byte offset")
            branch = branch._replace(offset=target & 0xFFFFFFFF)
        else:
            raise _refused("branch-to", f"{target!r} is not a branch target")
        if unif is None:
            return branch
        if self._is_register(unif):
            if branch.bdi == "rf" and branch.raddr_a != unif.dst.n:
                why = f"rf{branch.raddr_a} and rf{unif.dst.n}: a branch reads one register"
                raise _refused("one-branch-register", why)
            return branch._replace(ub=True, bdu="rf", raddr_a=unif.dst.n)
        if unif not in BDI[:3]:
            raise _refused("uniform-kind", f"unknown uniform destination {unif!r}")
        return branch._replace(ub=True, bdu=unif)

    def _is_register(self, value: object) -> bool:
        return isinstance(value, Reg) and value.isa is self.isa and not value.dst.magic and not value.mod

    def _link(self, instr: Instr | int, index: int, target: int) -> Instr:
        assert isinstance(instr, Branch)
        return instr._replace(offset=(target - index - 4) * 8 & 0xFFFFFFFF)

    def end(self, *, single_segment: bool = False) -> None:
        """End the program: the last-switch marker with its two delay slots, then the program end with its two.

        single_segment: for programs launched in that mode, which have no last-switch marker.
        """
        switch = self._idle._replace(sig=Sig.THRSW)
        nop = self._idle
        for instr in (switch, nop, nop) if single_segment else (switch, switch, nop, nop, switch, nop, nop):
            self._record(instr)

    def raw(self, word: int) -> None:
        """Record a 64-bit instruction word without any check of its fields."""
        if not isinstance(word, int) or not 0 <= word < 1 << 64:
            self._wrong("word", f"{word!r} is not an instruction word", help="write an integer of 64 bits")
            word = 0
        self._record(int(word))

    # -- end

    def _words(self) -> tuple[list[int], dict[str, int], Places]:
        """The program. Raises: AsmError with every diagnostic."""
        instrs, labels, places = self._finish()
        return [i if isinstance(i, int) else encode(i) for i in instrs], labels, places


LAYERS.add(__file__)
