"""The engine under the VideoCore IV builder: emission, labels, locations and diagnostics."""

from __future__ import annotations

import difflib
import operator
import struct
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from sys import _getframe
from types import CodeType, FrameType
from typing import Any, Literal, TypeAlias, overload

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.errors import AsmError, Diagnostic, Loc, UnknownNameError
from qpu.vc4 import regs
from qpu.vc4.asm_operands import (
    ALWAYS_ADD,
    ALWAYS_MUL,
    BASE,
    IMM,
    MASK64,
    MUL_TAKEN,
    PM0,
    PM1,
    REG_R5,
    ROTATIONS,
    SIGNALS,
    SMALL_IMMS,
    WHOLE,
    WS_BIT,
    BadOperand,
    Operand,
    RegA,
    SmallImm,
)
from qpu.vc4.asm_place import AGREE, EXCLUDED, place

__all__ = ["BranchCondName", "CondName", "Core", "Label", "SigName"]

CondName: TypeAlias = Literal["always", "never", "ifz", "ifnz", "ifn", "ifnn", "ifc", "ifcc"]
BranchCondName: TypeAlias = Literal[
    "always", "allz", "allnz", "anyz", "anynz", "alln", "allnn", "anyn", "anynn", "allc", "allcc", "anyc", "anycc"
]
SigName: TypeAlias = Literal[
    "bkpt", "thrsw", "thrend", "sbwait", "sbdone", "lthrsw", "loadcv", "loadc", "ldcend", "ldtmu0", "ldtmu1", "loadam"
]

_CONDS = {c.name: c.code for c in regs.CONDS}
_ADD_CONDS = {name: code << 49 for name, code in _CONDS.items()}
_MUL_CONDS = {name: code << 46 for name, code in _CONDS.items()}
_CLEAR_ADD, _CLEAR_MUL = ~(7 << 49), ~(7 << 46)
_SF = 1 << 45
_UPPER = 0x0FFFFFFF00000000
_LAYER = ("qpu.vc4.", "qpu.core.")

_IMM_ALLOWED = "-16..15 as integers; 0.0 and 2**-8..2**7 as floats"


class _Refused(Exception):
    """A diagnostic on its way to the place where the instruction is recorded."""

    def __init__(self, rule: str, message: str, allowed: str | None = None, help: str | None = None) -> None:
        self.rule = rule
        self.message = message
        self.allowed = allowed
        self.help = help


def _user_frame(frame: FrameType) -> FrameType:
    """The first frame at or above `frame` that is not the builder's own."""
    while str(frame.f_globals.get("__name__", "")).startswith(_LAYER) and frame.f_back is not None:
        frame = frame.f_back
    return frame


class Label:
    """A place in a program; forward references by name become the same place."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<label {self.name}>"


class Places(Sequence[tuple[CodeType, int] | None]):
    """Source places of a program: (code object, line) pairs, looked up only when asked for."""

    __slots__ = ("_codes", "_lines", "_offsets")

    def __init__(self, codes: list[CodeType], offsets: list[int]) -> None:
        self._codes = codes
        self._offsets = offsets
        self._lines: dict[CodeType, tuple[list[int], list[int]]] = {}

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, index: int) -> tuple[CodeType, int] | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[CodeType, int] | None]: ...
    def __getitem__(self, index: int | slice) -> tuple[CodeType, int] | Sequence[tuple[CodeType, int] | None] | None:
        if isinstance(index, slice):
            return [self._place(i) for i in range(*index.indices(len(self)))]
        return self._place(index)

    def _place(self, index: int) -> tuple[CodeType, int]:
        code = self._codes[index]
        table = self._lines.get(code)
        if table is None:
            spans = [(start, line) for start, _, line in code.co_lines() if line is not None]
            table = self._lines[code] = ([s for s, _ in spans], [n for _, n in spans])
        starts, lines = table
        at = bisect_right(starts, self._offsets[index]) - 1
        return code, lines[at] if at >= 0 else code.co_firstlineno


class Core:
    """State of one program under construction and the emission routines that the generated methods call."""

    __slots__ = ("_codes", "_deltas", "_errors", "_fixups", "_labels", "_offsets", "_thread")

    def __init__(self) -> None:
        self._deltas: list[int] = []
        self._codes: list[CodeType] = []
        self._offsets: list[int] = []
        self._errors: list[Diagnostic] = []
        self._labels: dict[str, int] = {}
        self._fixups: list[tuple[int, str, bool, Loc]] = []
        self._thread = threading.get_ident()

    def __len__(self) -> int:
        """Number of instructions so far."""
        return len(self._deltas)

    # -- fast paths; `depth` counts frames from here to the user

    def _add(self, op: int, dst: Any, a: Any, b: Any, cond: str, sf: bool, sig: str | None) -> int:
        """Emit an ADD operation; returns its index."""
        frame = _getframe(2)
        try:
            x = a.adda
            y = b.addb
            z = op | x | y | dst.add
            shared = x & y
            if (shared >> 64 and (x ^ y) & AGREE[shared >> 64 & 7]) or EXCLUDED[z >> 70]:
                z = self._add_slow(op, dst, a, b, frame)
        except AttributeError:
            z = self._add_slow(op, dst, a, b, frame)
        if cond != "always":
            z = self._cond_add(z, cond, frame)
        if sf:
            z |= _SF if cond != "always" else _SF | ALWAYS_ADD
        if sig is not None:
            z = self._signal(z, sig, frame)
        deltas = self._deltas
        index = len(deltas)
        deltas.append(z)
        self._codes.append(frame.f_code)
        self._offsets.append(frame.f_lasti)
        return index

    def _mul(self, index: int, op: int, dst: Any, a: Any, b: Any, cond: str, rotate: Any) -> None:
        """Put a MUL operation into instruction `index`."""
        deltas = self._deltas
        old = deltas[index]
        try:
            x = a.mula
            y = b.mulb
            z = op | x | y | dst.mul
            shared = x & y
            if rotate != 0 or (shared >> 64 and (x ^ y) & AGREE[shared >> 64 & 7]):
                z = self._mul_slow(op, dst, a, b, rotate, _getframe(2))
        except AttributeError:
            z = self._mul_slow(op, dst, a, b, rotate, _getframe(2))
        if cond != "always":
            z = self._cond_mul(z, cond, _getframe(2))
        shared = old & z
        both = old | z
        if (shared >> 64 and (shared >> 67 or (old ^ z) & AGREE[shared >> 64 & 7])) or EXCLUDED[both >> 70]:
            both = self._join(old, z, _getframe(2))
        deltas[index] = both

    def _mul_only(self, op: int, dst: Any, a: Any, b: Any, cond: str, sf: bool, sig: str | None, rotate: Any) -> None:
        """Emit an instruction that has a MUL operation only."""
        frame = _getframe(2)
        try:
            x = a.mula
            y = b.mulb
            z = op | x | y | dst.mul
            shared = x & y
            if rotate != 0 or (shared >> 64 and (x ^ y) & AGREE[shared >> 64 & 7]) or EXCLUDED[z >> 70]:
                z = self._mul_slow(op, dst, a, b, rotate, frame)
        except AttributeError:
            z = self._mul_slow(op, dst, a, b, rotate, frame)
        if cond != "always":
            z = self._cond_mul(z, cond, frame)
        if sf:
            # The idle ADD half is left on "always", as vc4asm does; flags come from the MUL result all the same.
            z |= _SF | ALWAYS_ADD if cond != "always" else _SF | ALWAYS_ADD | ALWAYS_MUL
        if sig is not None:
            z = self._signal(z, sig, frame)
        self._deltas.append(z)
        self._codes.append(frame.f_code)
        self._offsets.append(frame.f_lasti)

    # -- slow paths

    def _add_slow(self, op: int, dst: Any, a: Any, b: Any, frame: FrameType) -> int:
        try:
            d = _destination(dst, "add", "the ADD ALU")
            x, y = _source(a, "adda"), _source(b, "addb")
        except _Refused as e:
            self._record(e, frame)
            return 0
        return self._joined(op | d, x, y, frame)

    def _mul_slow(self, op: int, dst: Any, a: Any, b: Any, rotate: Any, frame: FrameType) -> int:
        try:
            d = _destination(dst, "mul", "the MUL ALU")
            x, y = _source(a, "mula"), _source(b, "mulb")
            r = _rotation(rotate)
        except _Refused as e:
            self._record(e, frame)
            return MUL_TAKEN
        if r:
            x, problems = place(x, r)
            if problems:
                self._collide(problems, frame)
                return MUL_TAKEN
        return self._joined(op | d, x, y, frame)

    def _joined(self, base: int, x: int, y: int, frame: FrameType) -> int:
        z, problems = place(x, y)
        if not problems:
            z, problems = place(base, z)
        if problems:
            self._collide(problems, frame)
            return base & MUL_TAKEN
        return z

    def _join(self, old: int, new: int, frame: FrameType) -> int:
        if old & WHOLE:
            message = "this instruction cannot take a MUL operation"
            self._record(_Refused("dual-issue", message, "one MUL operation beside an ADD operation"), frame)
            return old
        if old & new & MUL_TAKEN:
            self._record(_Refused("dual-issue", "the instruction already has a MUL operation", "one"), frame)
            return old
        z, problems = place(old, new)
        if problems:
            self._collide(problems, frame)
            return old
        return z

    def _cond_add(self, z: int, cond: str, frame: FrameType) -> int:
        code = _ADD_CONDS.get(cond)
        if code is None:
            self._record(_bad_name("condition", cond, _CONDS), frame)
            return z
        return z & _CLEAR_ADD | code

    def _cond_mul(self, z: int, cond: str, frame: FrameType) -> int:
        code = _MUL_CONDS.get(cond)
        if code is None:
            self._record(_bad_name("condition", cond, _CONDS), frame)
            return z
        return z & _CLEAR_MUL | code

    def _signal(self, z: int, sig: str, frame: FrameType) -> int:
        code = SIGNALS.get(sig)
        if code is None:
            self._record(_bad_name("signal", sig, (s.name for s in regs.SIGNALS if s.name in SIGNALS)), frame)
            return z
        if z & IMM:
            _, problems = place(z, code)
            self._collide(problems, frame, "use a register instead of the constant, or put the signal on a nop")
            return z
        return z | code

    def _append(self, delta: int, frame: FrameType) -> int:
        index = len(self._deltas)
        self._deltas.append(delta)
        self._codes.append(frame.f_code)
        self._offsets.append(frame.f_lasti)
        return index

    # -- other instructions

    def _nop(self, sig: str | None) -> int:
        frame = _getframe(2)
        return self._append(0 if sig is None else self._signal(0, sig, frame), frame)

    def _read(self, src: Any, sig: str | None) -> int:
        frame = _getframe(2)
        delta = 0
        try:
            delta = _source(src, "port")
        except _Refused as e:
            self._record(e, frame)
        return self._append(delta if sig is None else self._signal(delta, sig, frame), frame)

    def _load(
        self, variant: int, imm: int, dst: Any, dst2: Any, cond: str, cond2: str, sf: bool, frame: FrameType
    ) -> None:
        """Load immediate or semaphore; `dst` is written by the ADD side, `dst2` by the MUL side."""
        try:
            d = 0 if dst is None else _destination(dst, "add", "the ADD side; give it as `dst2`")
            m = 0 if dst2 is None else _destination(dst2, "mul", "the MUL side")
        except _Refused as e:
            self._record(e, frame)
            self._append(WHOLE, frame)
            return
        z, problems = place(d, m)
        if problems:
            self._collide(problems, frame)
        if cond != "always":
            z = self._cond_add(z, cond, frame)
        if cond2 != "always":
            z = self._cond_mul(z, cond2, frame)
        if sf:
            z |= _SF if d & ALWAYS_ADD or m & ALWAYS_MUL or cond != "always" else _SF | ALWAYS_ADD
        word = 0xE << 60 | variant << 57 | (z ^ BASE) & (_UPPER & ~(7 << 57)) | imm
        self._append(word ^ BASE | WHOLE, frame)

    def _branch(self, rel: bool, target: Any, cond: str, reg: Any, link: Any, link2: Any, frame: FrameType) -> None:
        try:
            self._append(self._branch_word(rel, target, cond, reg, link, link2, frame) ^ BASE | WHOLE, frame)
        except _Refused as e:
            self._record(e, frame)
            self._append(WHOLE, frame)

    def _branch_word(self, rel: bool, target: Any, cond: str, reg: Any, link: Any, link2: Any, frame: FrameType) -> int:
        code = regs.branch_cond(cond)
        if code is None or not isinstance(cond, str):
            raise _bad_name("branch condition", cond, (c.name for c in regs.BRANCH_CONDS))
        if isinstance(target, BadOperand):
            raise _Refused(target.rule, target.message, target.allowed, target.help)
        if isinstance(target, RegA) and reg is None:
            target, reg = 0, target
        word = 0xF << 60 | code.code << 52 | rel << 51
        if reg is not None:
            if isinstance(reg, BadOperand):
                raise _Refused(reg.rule, reg.message, reg.allowed, reg.help)
            if not isinstance(reg, RegA):
                raise _Refused("branch-register", f"{_show(reg)} cannot give a branch its target", "ra[0]..ra[31]")
            word |= 1 << 50 | reg.n << 45
        d = 0 if link is None else _destination(link, "add", "the ADD side; give it as `link2`")
        m = 0 if link2 is None else _destination(link2, "mul", "the MUL side")
        z, problems = place(d, m)
        if problems:
            self._collide(problems, frame)
        if z & (PM0 | PM1):
            raise _Refused("link", "a link value cannot be packed", "a register without pack mode")
        word |= (z ^ BASE) & (0xFFF << 32 | WS_BIT)
        if isinstance(target, Label):
            target = target.name
        if isinstance(target, str):
            if not rel and reg is None:
                raise _Refused(
                    "branch-target",
                    f"an absolute branch cannot reach label {target!r}: where the program lies is not known",
                    "a bus address, or a register that holds the program's address",
                    "write q.brr(...)",
                )
            self._fixups.append((len(self._deltas), target, rel, _loc(frame)))
            return word
        offset = _integer(target)
        if offset is None or not -(1 << 31) <= offset < 1 << 32:
            raise _Refused(
                "branch-target", f"{_show(target)} is no branch target", "a label, 32 bits, or ra[0]..ra[31]"
            )
        return word | offset & 0xFFFFFFFF

    # -- labels, diagnostics, end

    def _define(self, name: str, frame: FrameType) -> None:
        if name in self._labels:
            at = self._labels[name]
            self._record(_Refused("label", f"label {name!r} already names instruction {at}", "each name once"), frame)
            return
        self._labels[name] = len(self._deltas)

    def _record(self, e: _Refused, frame: FrameType) -> None:
        loc = _loc(_user_frame(frame))
        self._errors.append(
            Diagnostic(e.rule, e.message, loc=loc, allowed=e.allowed, help=e.help, index=len(self._deltas))
        )

    def _unknown(self, name: str, kind: type, what: str, frame: FrameType) -> UnknownNameError:
        known = [n for n in dir(kind) if not n.startswith("_")]
        return UnknownNameError.among(name, known, what, _loc(_user_frame(frame)), self._errors)

    def _collide(self, problems: list[tuple[str, str]], frame: FrameType, help: str | None = None) -> None:
        for rule, message in problems:
            self._record(_Refused(rule, message, help=help or _ADVICE.get(rule)), frame)

    def _resolve(self) -> None:
        for index, name, rel, loc in self._fixups:
            at = self._labels.get(name)
            if at is None:
                close = difflib.get_close_matches(name, self._labels, 1)
                names = ", ".join(self._labels) or "none is defined"
                self._errors.append(
                    Diagnostic(
                        "undefined-label",
                        f"label {name!r} is not defined",
                        loc=loc,
                        allowed=names,
                        help=f"did you mean {close[0]!r}?" if close else f"q.label({name!r}) defines it",
                        index=index,
                    )
                )
                continue
            offset = 8 * at - (8 * index + 32 if rel else 0)
            self._deltas[index] ^= offset & 0xFFFFFFFF
        self._fixups.clear()

    def _finish(self) -> Code:
        """The program. Raises AsmError with every diagnostic."""
        self._resolve()
        if self._errors:
            raise AsmError.of(self._errors)
        words = tuple([(d ^ BASE) & MASK64 for d in self._deltas])
        return Code(Isa.VC4, words, dict(self._labels), Places(self._codes, self._offsets))

    def _relocate(self, start: int, frame: FrameType) -> None:
        """Instructions from `start` on came from a helper called at `frame`."""
        count = len(self._deltas) - start
        self._codes[start:] = [frame.f_code] * count
        self._offsets[start:] = [frame.f_lasti] * count

    def _checked(self, make: Callable[[], int], frame: FrameType) -> int:
        """The value of a set-up function; its errors are recorded at the user's line."""
        try:
            return make()
        except AsmError as e:
            loc = _loc(_user_frame(frame))
            self._errors += [replace(d, loc=loc, index=len(self._deltas)) for d in e.diagnostics]
            return 0


_ADVICE = {
    "port-a": "copy one of them to an accumulator or to register file B first",
    "port-b": "copy one of them to an accumulator or to register file A first",
    "small-imm": "load one of them into a register with q.ldi",
    "write-swap": "write one result to an accumulator or to the other file",
    "unpack": "copy the value to another register first",
    "pm": "write two instructions",
    "signal": "use a register instead of the constant, or put the signal on a nop",
}


def _loc(frame: FrameType) -> Loc:
    return Loc(frame.f_code.co_filename, frame.f_lineno)


def _show(value: object) -> str:
    if isinstance(value, Operand):
        return value.name
    return repr(value)


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # asking is the point
    except TypeError:
        return None


def _bad_name(kind: str, name: object, allowed: Iterable[str]) -> _Refused:
    names = list(allowed)
    close = difflib.get_close_matches(str(name), names, 1)
    help = f"did you mean {close[0]!r}?" if close else None
    return _Refused(kind.replace(" ", "-"), f"there is no {kind} {name!r}", ", ".join(names), help)


def _destination(dst: Any, role: str, side: str) -> int:
    if isinstance(dst, BadOperand):
        raise _Refused(dst.rule, dst.message, dst.allowed, dst.help)
    if not isinstance(dst, Operand):
        raise _Refused(
            "operand", f"{_show(dst)} is no destination", "a register such as q.r0, q.ra[1], q.rb[2], q.null"
        )
    bits = getattr(dst, role, None)
    if bits is None:
        if hasattr(dst, "mul" if role == "add" else "add"):
            raise _Refused("pack", f"{dst.name} cannot be written by {side}", "MUL packing works on MUL results")
        if dst.name in ("r4", "r5"):
            help = "r5: write q.r5rep or q.r5quad" if dst.name == "r5" else "r4 is loaded by SFU, TMU and tile buffer"
            raise _Refused("operand", f"{dst.name} cannot be written", "r0..r3, ra, rb and outputs", help)
        raise _Refused("operand", f"{dst.name} cannot be written", "registers and outputs")
    return int(bits)


def _source(src: Any, role: str) -> int:
    if isinstance(src, BadOperand):
        raise _Refused(src.rule, src.message, src.allowed, src.help)
    if isinstance(src, Operand):
        bits = getattr(src, role, None)
        if bits is None:
            raise _Refused("operand", f"{src.name} cannot be read", "registers, inputs and small immediates")
        return int(bits)
    return int(getattr(_small_imm(src), role))


def float_pattern(value: float) -> int | None:
    """The binary32 pattern of `value`, rounded to nearest; None when a finite value overflows."""
    try:
        return int.from_bytes(struct.pack("<f", value), "little")
    except OverflowError:
        return None


def _small_imm(value: Any) -> SmallImm:
    code: int | None = None
    number = _integer(value)
    if number is not None:
        if -(1 << 31) <= number < 1 << 32:
            code = regs.small_imm_code(number & 0xFFFFFFFF)
        load = "q.ldi(q.r0, {}) loads it"
    elif not isinstance(value, bool | str) and hasattr(value, "__float__"):
        value = float(value)
        pattern = float_pattern(value)
        if pattern is not None and (pattern == 0 or not _rounded(value, pattern)):
            code = regs.small_imm_code(pattern)
        load = "q.ldi(q.r0, {}) loads it"
    else:
        raise _Refused("operand", f"{_show(value)} is no operand", f"a register, or {_IMM_ALLOWED}")
    if code is None:
        raise _Refused(
            "small-imm", f"{value!r} is not a small immediate of VideoCore IV", _IMM_ALLOWED, load.format(repr(value))
        )
    return SMALL_IMMS[code]


def _rounded(value: float, pattern: int) -> bool:
    return bool(struct.unpack("<f", pattern.to_bytes(4, "little"))[0] != value)


def _rotation(rotate: Any) -> int:
    """Contribution of a rotation amount; 0 for none."""
    if rotate is REG_R5:
        return ROTATIONS[0].port
    n = _integer(rotate)
    if n is None or not -15 <= n <= 15:
        raise _Refused(
            "rotation",
            f"{_show(rotate)} is no rotation",
            "-15..15 lanes, or q.r5",
            "rotate=n moves lane i to lane i + n",
        )
    return ROTATIONS[n % 16].port if n else 0
