"""What the typed builders of V3D 4.2 and 7.1 share: emission, dual issue, conditions, signals, labels, diagnostics.

The operation methods are generated (`ops42.py`, `ops71.py`) and call `_add` and `_mul` of the issue modules. An error
is recorded at the user's line and a nop takes the instruction's place, so that one run reports every error of a
program.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op, OperandType
from qpu.errors import AsmError, Diagnostic, Loc, UnknownNameError
from qpu.v3d.codes import (
    BDI,
    BRANCH_CONDS,
    COND_ALLOWED,
    CONDS,
    MSFIGN,
    PUSHES,
    SIG_CODE,
    SIGNALS,
    UPDATES,
    cond_field,
    sig_names,
    tables,
)
from qpu.v3d.codes import WRITING_SIGS as _WRITING_SIGS
from qpu.v3d.instr import Sig
from qpu.v3d.locs import Locs
from qpu.v3d.operands import LAYERS, Imm, Label, Place, Signal, _Dest, here, line_of, make_imm, table_key
from qpu.v3d.ops import code_of, modifiers

__all__ = [
    "BranchCond",
    "Builder",
    "Cond",
    "Enc",
    "Msfign",
    "MulSlotBase",
    "Push",
    "SigArg",
    "UnifTarget",
    "Update",
    "encs",
]

Cond: TypeAlias = Literal["ifa", "ifb", "ifna", "ifnb"]
Push: TypeAlias = Literal["pushz", "pushn", "pushc"]
Update: TypeAlias = Literal[
    "andz", "andnz", "nornz", "norz", "andn", "andnn", "nornn", "norn", "andc", "andnc", "nornc", "norc"
]
BranchCond: TypeAlias = Literal["a0", "na0", "alla", "anyna", "anya", "allna"]
Msfign: TypeAlias = Literal["p", "q"]
UnifTarget: TypeAlias = Literal["abs", "rel", "lri"]
SigArg: TypeAlias = "Signal | Sequence[Signal]"

_WRITING: Final = int(_WRITING_SIGS)
_IMM: Final = int(Sig.IMM_A | Sig.IMM_B | Sig.IMM_C | Sig.IMM_D)

# Condition of one half: 0 none, then conditions, pushes, updates. Rows of the table: add half, columns: mul half.
_HALF_CONDS: Final = ((None, None, None), *((c, None, None) for c in CONDS), *((None, p, None) for p in PUSHES[1:]),
                      *((None, None, u) for u in UPDATES))  # fmt: skip
_HALF_COND_ID: Final[dict[tuple[object, object, object], int]] = {key: i for i, key in enumerate(_HALF_CONDS)}
_N: Final = len(_HALF_CONDS)


def _cond_table() -> tuple[int, ...]:
    """Condition field in place, or -1, by add half * _N + mul half."""
    out: list[int] = []
    for ac, ap, au in _HALF_CONDS:
        for mc, mp, mu in _HALF_CONDS:
            field = cond_field((ac or "", ap or "", au or "", mc or "", mp or "", mu or ""))
            out.append(-1 if field is None else field << 46)
    return tuple(out)


COND_TABLE: Final = _cond_table()
SIG_BITS: Final = {isa: {int(s): n << 53 for s, n in SIG_CODE[isa].items()} for isa in (Isa.V3D42, Isa.V3D71)}


class Enc:
    """An operation of one ALU as the builder uses it. t: word bits by combination of modifiers."""

    __slots__ = ("op", "order", "register_only", "swapped", "t", "unit")

    def __init__(self, op: Op, unit: Unit, register_only: bool) -> None:
        self.op = op
        self.unit = unit
        self.t: dict[int, int] = {}
        self.order = op.order is not None
        self.swapped = op.order == "swapped"
        self.register_only = register_only


@cache
def encs(isa: Isa, unit: Unit) -> Mapping[str, Enc]:
    """All operations of one ALU by name; made once, shared, never changed."""
    found: dict[str, Enc] = {}
    for (op, a, b, pack), bits in tables(isa, unit).encode.items():
        e = found.get(op.name)
        if e is None:
            code = code_of(op, isa, unit)
            e = found[op.name] = Enc(op, unit, code is not None and code.magic is not None)
        e.t[table_key(a, b, pack)] = bits
    return found


class _Absent:
    """Stands for an operand or destination that an operation does not have."""

    __slots__ = ("da", "dm", "e42", "e71", "magic", "mid", "mod", "mux", "n", "order", "pid", "sa", "sb", "sc", "sd")

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)
        self.mod = ""
        self.magic = False


ABSENT: Final[Any] = _Absent()


class MulSlotBase:
    """The free mul half of the instruction just begun."""

    __slots__ = ("_i", "_q")
    _i: int
    _q: Any

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            known = [n for n in dir(type(self)) if not n.startswith("_")]
            raise self._q._unknown(name, known, f"the mul half of {self._q.isa.label}")


class Builder:
    """Base of the typed builders; see `Asm42` and `Asm71`."""

    __slots__ = (
        "_ca",
        "_errors",
        "_fixups",
        "_half",
        "_labels",
        "_locs",
        "_names",
        "_open",
        "_pa",
        "_pb",
        "_sd",
        "_sig",
        "_words",
    )

    isa: Isa
    _nop: int  # a nop
    _nop_mul: int  # its mul half
    _mul_names: frozenset[str]

    def __init__(self) -> None:
        self._words: list[int] = []
        self._locs: list[Place] = []
        self._errors: list[Diagnostic] = []
        self._labels: dict[str, int] = {}
        self._fixups: list[tuple[int, str]] = []
        self._names = 0
        self._open = -1  # index of the instruction whose mul half is free
        self._half = 0  # its add half
        self._ca = 0  # its condition
        self._sig = 0  # its signals
        self._sd = 0  # its signal destination, in place
        self._pa = self._pb = -1  # 4.2: its read ports

    # -- diagnostics

    def _loc(self) -> Loc:
        code, offset = here()
        return Loc(code.co_filename, line_of(code, offset))

    def _error(self, rule: str, message: str, allowed: str | None = None, help: str | None = None) -> None:
        self._errors.append(
            Diagnostic(rule, message, loc=self._loc(), allowed=allowed, help=help, index=max(len(self._words) - 1, 0))
        )

    def _bad_register(self, n: object) -> Any:
        what = f"rf{n}" if isinstance(n, int) else f"rf[{n!r}]"
        self._error("register", f"{what} does not exist", "rf[0] .. rf[63]")
        return self._stand_in()

    def _stand_in(self) -> Any:
        raise NotImplementedError

    def _unknown(self, name: str, known: Sequence[str], what: str) -> UnknownNameError:
        return UnknownNameError.among(name, known, what, self._loc(), self._errors)

    # -- operands

    def _number(self, value: object, role: str, op: Op) -> Imm | None:
        """The immediate of a plain number, or None after an error."""
        operand = op.operand(role)
        type_ = operand.type if operand is not None else OperandType.B32
        number: int | float
        if isinstance(value, float):
            number = float(value)
        elif isinstance(value, bool) or not hasattr(value, "__index__"):
            if not hasattr(value, "__float__") or isinstance(value, bool):
                self._error("operand", f"{value!r} is no operand of {op.name}", "registers, integers, floats")
                return None
            number = float(value)
        else:
            number = int(value)
        imm = make_imm(number)
        if imm is None:
            self._error(
                "small-imm",
                f"{value!r} is not a small immediate on {self.isa.label}",
                "-16..15 as integers; 2**-8..2**7 as floats",
                "load it as a uniform: "
                + (
                    "q.nop(sig=q.ldunifrf(q.rf[5]))"
                    if self.isa is Isa.V3D71
                    else "q.nop(sig=q.ldunifrf(q.rf[5])) or q.ldunif (r5)"
                ),
            )
            return None
        is_float = isinstance(number, float)
        if imm.n and is_float and type_ not in (OperandType.F32, OperandType.B32):
            self._error(
                "imm-type",
                f"the float {value!r} is an operand of {op.name}, which takes {type_}",
                f"integers; q.imm({value!r}) where the bit pattern is meant",
            )
            return None
        if imm.n and not is_float and type_ in (OperandType.F32, OperandType.F16X2):
            self._error(
                "imm-type",
                f"the integer {value!r} is an operand of {op.name}, which takes {type_}",
                f"floats: {float(number)!r}; q.imm({value!r}) where the bit pattern is meant",
            )
            return None
        return imm

    def imm(self, value: int | float) -> Imm:
        """The small immediate of a number, or of a 32-bit pattern, for any operation whatever its operand type.

        Allowed: integers -16..15, floats 2**-8 .. 2**7, and their patterns.
        """
        found = make_imm(value)
        if found is None:
            self._error(
                "small-imm",
                f"{value!r} is not a small immediate on {self.isa.label}",
                "-16..15 as integers; 2**-8..2**7 as floats",
            )
            return Imm(0, 0)
        return found

    def _modifier_error(self, e: Enc, d: Any, a: Any, b: Any) -> None:
        op = e.op
        allowed = modifiers(op, self.isa, e.unit)
        for role, thing in (("d", d), ("a", a), ("b", b)):
            if thing is ABSENT or not thing.mod or thing.mod in allowed.get(role, ()):
                continue
            names = ", ".join(f".{m}" for m in allowed.get(role, ())) or "none"
            what = "its destination" if role == "d" else f"operand {role}"
            self._error("modifier", f"{op.name} has no modifier .{thing.mod} for {what}", names)
            return
        self._error("modifier", f"{op.name} cannot combine these modifiers", "fewer modifiers")

    def _dest_ok(self, e: Enc, d: Any, kind: type) -> bool:
        if d is ABSENT:
            return True
        if not isinstance(d, kind):
            if isinstance(d, _Dest):
                self._error("register", f"{d!r} belongs to {d.isa.label}, this program is for {self.isa.label}")
            else:
                self._error(
                    "register",
                    f"{d!r} is no destination of {e.op.name}",
                    "rf[n], accumulators of 4.2, q.null, q.tmua, ...",
                )
            return False
        if e.register_only and isinstance(d, _Dest) and d.magic:
            self._error("register", f"{e.op.name} writes registers only", "rf[0] .. rf[63]")
            return False
        return True

    # -- conditions and signals

    def _cond_id(self, cond: object, push: object, update: object) -> int:
        number = _HALF_COND_ID.get((cond, push, update))
        if number is not None:
            return number
        for value, name, allowed in (
            (cond, "condition", CONDS),
            (push, "push", PUSHES[1:]),
            (update, "update", UPDATES),
        ):
            if value is not None and value not in allowed:
                close = difflib.get_close_matches(str(value), allowed, 1)
                self._error(
                    "condition",
                    f"unknown {name} {value!r}",
                    ", ".join(allowed),
                    f"did you mean {close[0]!r}?" if close else None,
                )
                return 0
        self._error("condition", "one half has one of: condition, push, update", COND_ALLOWED)
        return 0

    def _signal(self, sig: SigArg) -> Signal:
        if isinstance(sig, Signal):
            return sig
        parts: object = sig
        if isinstance(parts, (list, tuple)) and all(isinstance(s, Signal) for s in parts):
            merged = Signal(0)
            for s in parts:
                merged = self._merge(merged, s)
            return merged
        help_ = None
        if isinstance(parts, str) or callable(parts):
            help_ = "signals are names of the builder: q.thrsw, q.ldunif, q.ldunifrf(q.rf[0]), q.ldtmu(q.rf[0])"
        self._error("signal", f"{sig!r} is no signal", "a signal, or several joined by |", help_)
        return Signal(0)

    def _merge(self, a: Signal, b: Signal) -> Signal:
        try:
            return a | b
        except AsmError as error:
            self._errors += error.diagnostics
            return a

    def _field(self, ca: int, cm: int, sig: int) -> int:
        """Signal and condition bits of the word, or -1 after an error."""
        bits = SIG_BITS[self.isa].get(sig)
        if bits is None:
            self._sig_error(sig)
            return -1
        if sig & _WRITING:
            if ca or cm:
                self._error(
                    "condition-field",
                    f"signal {sig_names(Sig(sig & _WRITING))} writes a register, so the instruction cannot have "
                    "conditions or flags",
                    help="put the signal or the condition into another instruction",
                )
                return -1
            return bits | self._sd
        field = COND_TABLE[ca * _N + cm]
        if field < 0:
            names = [next((x for x in _HALF_CONDS[i] if x), None) for i in (ca, cm)]
            self._error(
                "condition",
                f"{names[0]} in the add half and {names[1]} in the mul half cannot be combined",
                COND_ALLOWED,
            )
            return -1
        return bits | field

    def _sig_error(self, sig: int) -> None:
        rest = sig & ~_IMM
        partners = sorted(
            {sig_names(s & ~Sig(_IMM)) for s in SIGNALS[self.isa] if s is not None and (s & rest) == rest and s != sig}
        )
        if sig & _IMM and rest:
            self._error(
                "signal",
                f"signal {sig_names(Sig(rest))} cannot be combined with a small immediate on {self.isa.label}",
                "an immediate with ldvary or ldtmu" if self.isa is Isa.V3D42 else "an immediate without other signals",
                "put the signal into another instruction",
            )
            return
        self._error(
            "signal",
            f"{self.isa.label} cannot combine the signals {sig_names(Sig(rest))}",
            "combinations with them: " + "; ".join(p for p in partners if p) if any(partners) else "one at a time",
            "spread them over several instructions",
        )

    # -- labels, branches, raw words

    def label(self, name: str | Label | None = None) -> Label:
        """Define a label here. Without a name one is made up; a `Label` from `new_label` is put here.

        Returns: the label, to be used as a branch target.
        """
        if name is None:
            name = self.new_label()
        text = name.name if isinstance(name, Label) else name
        self._open = -1
        if text in self._labels:
            self._error("label", f"label {text!r} is defined twice", help="give one of them another name")
        else:
            self._labels[text] = len(self._words)
        return name if isinstance(name, Label) else Label(text)

    def new_label(self, name: str | None = None) -> Label:
        """A label to be placed later with `label`; a unique name is derived from `name`."""
        self._names += 1
        return Label(f"{name or 'L'}.{self._names}")

    @contextmanager
    def loop(self, name: str | None = None) -> Iterator[Loop]:
        """``with q.loop() as loop: ... q.b(loop.start, cond="anyna")``: labels at the start and behind the body.

        It emits nothing; the branch and its three delay slots are the body's.
        """
        loop = Loop(self.new_label(name or "loop"), self.new_label((name or "loop") + ".end"))
        self.label(loop.start)
        yield loop
        self.label(loop.end)

    def _emit_branch(
        self,
        target: object,
        cond: str | None,
        msfign: str | None,
        unif: object,
        link: bool,
        register: type,
    ) -> None:
        self._words.append(self._nop)
        self._locs.append(here())
        self._open = -1
        word = 2 << 56 | (1 << 23 if link else 0)
        number = BRANCH_CONDS.get(cond or "")
        if number is None:
            self._error(
                "branch-condition", f"unknown branch condition {cond!r}", ", ".join(c for c in BRANCH_CONDS if c)
            )
            return
        if (msfign or "") not in MSFIGN:
            self._error("branch-condition", f"unknown msfign {msfign!r}", "'p' (per lane), 'q' (per quad)")
            return
        word |= number << 32 | MSFIGN.index(msfign or "") << 21
        raddr: int | None = None
        if isinstance(target, Label):
            target = target.name
        if isinstance(target, register) and isinstance(target, _Dest):
            if target.magic or target.mod:
                self._error(
                    "branch-target", f"{target!r} cannot be a branch target", "rf[n] without modifier, labels, q.lri"
                )
                return
            word |= 3 << 12
            raddr = target.n
        elif isinstance(target, Absolute):
            if not 0 <= target.address < 1 << 32 or target.address & 7:
                self._error("branch-target", f"address {target.address:#x} is no multiple of 8 in 32 bits")
                return
            word |= _offset_bits(target.address)
        elif target is LRI:
            word |= 2 << 12
        elif isinstance(target, str):
            word |= 1 << 12
            self._fixups.append((len(self._words) - 1, target))
        elif isinstance(target, int) and not isinstance(target, bool):
            if not -(1 << 31) <= target < 1 << 31 or target & 7:
                self._error("branch-target", f"byte offset {target} is no multiple of 8 in 32 bits", help="use a label")
                return
            word |= 1 << 12 | _offset_bits(target & 0xFFFFFFFF)
        else:
            self._error(
                "branch-target",
                f"{target!r} is no branch target",
                "labels, byte offsets, rf[n], q.lri, q.absolute(address)",
            )
            return
        if unif is not None:
            word |= 1 << 14
            if isinstance(unif, register) and isinstance(unif, _Dest) and not unif.magic and not unif.mod:
                if raddr is not None and raddr != unif.n:
                    self._error(
                        "branch-target",
                        f"rf{raddr} and rf{unif.n}: a branch reads one register",
                        "the same register for both",
                    )
                    return
                raddr = unif.n
                word |= 3 << 15
            elif unif in BDI[:3]:
                word |= BDI.index(str(unif)) << 15
            else:
                self._error("branch-target", f"unknown uniform destination {unif!r}", "'abs', 'rel', 'lri', rf[n]")
                return
        self._words[-1] = word | (raddr or 0) << 6

    def end(self, *, single_segment: bool = False) -> None:
        """The usual tail: the last-switch marker and two slots, then the program end with its two slots.

        single_segment: for programs launched in that mode, which have no marker.
        """
        thrsw = 1 << 53
        for bits in (thrsw, 0, 0) if single_segment else (thrsw, thrsw, 0, 0, thrsw, 0, 0):
            self._words.append(self._nop | bits)
            self._locs.append(here())
        self._open = -1

    def raw(self, word: int) -> None:
        """Emit a 64-bit instruction word as it is."""
        self._words.append(self._nop)
        self._locs.append(here())
        self._open = -1
        if not isinstance(word, int) or not 0 <= word < 1 << 64:
            self._error("word", f"{word!r} is no instruction word", "integers 0 .. 2**64 - 1")
            return
        self._words[-1] = int(word)

    def __len__(self) -> int:
        """Instructions emitted so far."""
        return len(self._words)

    def _finish(self) -> tuple[list[int], dict[str, int], Locs]:
        """Resolve labels. Raises: AsmError with every diagnostic."""
        words = self._words
        locs = Locs(self._locs)
        for index, name in self._fixups:
            at = self._labels.get(name)
            if at is None:
                close = difflib.get_close_matches(name, self._labels, 1)
                self._errors.append(
                    Diagnostic(
                        "label",
                        f"label {name!r} is not defined",
                        loc=locs.loc(index),
                        allowed=", ".join(sorted(self._labels)[:12]) or "no label is defined",
                        help=f"did you mean {close[0]!r}?" if close else f"define it with q.label({name!r})",
                        index=index,
                    )
                )
            else:
                words[index] |= _offset_bits((at - index - 4) * 8 & 0xFFFFFFFF)
        if self._errors:
            raise AsmError.of(self._errors)
        return words, dict(self._labels), locs


class Loop:
    """Labels of a loop: `start`, and `end` right behind its body."""

    __slots__ = ("end", "start")

    def __init__(self, start: Label, end: Label) -> None:
        self.start = start
        self.end = end


class Absolute:
    """A GPU address as a branch target."""

    __slots__ = ("address",)

    def __init__(self, address: int) -> None:
        self.address = address


class _LinkTarget:
    __slots__ = ()

    def __repr__(self) -> str:
        return "lri"


LRI: Final = _LinkTarget()


def _offset_bits(offset: int) -> int:
    return (offset >> 3 & 0x1FFFFF) << 35 | offset >> 24 << 24


LAYERS.update((__file__, contextmanager.__code__.co_filename))
