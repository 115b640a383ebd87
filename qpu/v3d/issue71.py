"""Emission of V3D 7.1 instructions by the builder: four independent read addresses, one small immediate."""

from __future__ import annotations

import sys
from typing import Any, Final

from qpu.core.isa import Isa, Unit
from qpu.v3d.builder import ABSENT, Builder, Enc, encs
from qpu.v3d.codes import NOP_WORD
from qpu.v3d.instr import Sig
from qpu.v3d.operands import LAYERS, Dest71, Imm, Reg71, RegFile

__all__ = ["Issue71"]

_REGISTERS: Final = {n: Reg71(n, False) for n in range(64)}
_NULL: Final = Dest71(6, True)
_NOP_WORD: Final = NOP_WORD[Isa.V3D71]
_MUL_FIELDS: Final = 0x3F << 58 | 1 << 45 | 0x3F << 38 | 0xFFF << 12
_NOP_MUL: Final = _NOP_WORD & _MUL_FIELDS
_SLOTS: Final = ((int(Sig.IMM_A), 6), (int(Sig.IMM_B), 0), (int(Sig.IMM_C), 18), (int(Sig.IMM_D), 12))
_IMM: Final = int(Sig.IMM_A | Sig.IMM_B | Sig.IMM_C | Sig.IMM_D)
LAYERS.add(__file__)
_NOP_ADD: Final = encs(Isa.V3D71, Unit.ADD)["nop"]


class Issue71(Builder):
    """The part of `Asm71` that places operands and joins halves."""

    __slots__ = ("rf",)

    isa = Isa.V3D71
    _nop = _NOP_WORD
    _nop_mul = _NOP_MUL
    rf: RegFile[Reg71]

    def __init__(self) -> None:
        super().__init__()
        self.rf = RegFile[Reg71](_REGISTERS, self)  # type: ignore[call-arg] # a plain class for the checker

    def _stand_in(self) -> Reg71:
        return _REGISTERS[0]

    def _slow(self, e: Enc, d: Any, a: Any, b: Any, first: int) -> tuple[int, int] | None:
        """(bits, immediate signal) of a half with immediates, or None after an error. first: slot of operand a."""
        if not self._dest_ok(e, d, Dest71):
            return None
        sources: list[Any] = []
        for role, value in (("a", a), ("b", b)):
            if value is not ABSENT and not isinstance(value, (Reg71, Imm)):
                if isinstance(value, Dest71) or hasattr(value, "e42"):
                    what = "is a register of V3D 4.2" if hasattr(value, "e42") else "can only be written"
                    self._error("register", f"{value!r} {what}", "rf[0] .. rf[63], small immediates")
                    return None
                value = self._number(value, role, e.op)
                if value is None:
                    return None
            sources.append(value)
        a, b = sources
        imms = [s for s in sources if isinstance(s, Imm)]
        if len(imms) > 1:
            self._error(
                "small-imm",
                "two small immediates in one instruction",
                "one operand of an instruction on V3D 7.1",
                "load one as a uniform: q.nop(sig=q.ldunifrf(q.rf[5]))",
            )
            return None
        if e.order:
            keys = [
                (256 + s.rank * 64 + s.n if s.rank >= 0 else -1) if isinstance(s, Imm) else s.order for s in sources
            ]
            if min(keys) < 0:
                self._modifier_error(e, d, a, b)
                return None
            if (keys[0] > keys[1]) != e.swapped:
                if e.swapped and keys[0] == keys[1]:
                    self._identical(e)
                    return None
                a, b = b, a
        bits = e.t.get(a.mid * 48 + b.mid * 3 + d.pid)
        if bits is None:
            self._modifier_error(e, d, a, b)
            return None
        bits |= d.da if first == 0 else d.dm
        sig = 0
        for slot, value in ((first, a), (first + 1, b)):
            if isinstance(value, Imm):
                sig = _SLOTS[slot][0]
            if value is not ABSENT:
                bits |= value.n << _SLOTS[slot][1]
        return bits, sig

    def _identical(self, e: Enc) -> None:
        plain = "fmin" if e.op.name == "fmax" else "fadd"
        self._error(
            "operand-order",
            f"{e.op.name} of two identical operands has no encoding: operand order tells it from {plain}",
            help="use mov" if plain == "fmin" else "use fadd",
        )

    def _add(self, e: Enc, d: Any, a: Any, b: Any, cond: Any, push: Any, update: Any, sig: Any) -> int:
        frame = sys._getframe(2)
        while frame.f_code.co_filename in LAYERS:
            frame = frame.f_back  # type: ignore[assignment] # somebody called us
        self._locs.append((frame.f_code, frame.f_lasti))
        words = self._words
        index = len(words)
        self._open = index
        signals = 0
        try:
            half = e.t[a.mid * 48 + b.mid * 3 + d.pid] | d.e71 | a.sa | b.sb
            if e.order and (a.order > b.order) != e.swapped:
                if e.swapped and a.order == b.order:
                    raise KeyError
                half = e.t[b.mid * 48 + a.mid * 3 + d.pid] | d.e71 | b.sa | a.sb
            if e.register_only and d.magic:
                raise KeyError
        except (AttributeError, KeyError):
            words.append(_NOP_WORD)
            found = self._slow(e, d, a, b, 0)
            words.pop()
            half, signals = found or (-1, 0)
        if cond is None and push is None and update is None:
            condition = 0
        else:
            condition = self._cond_id(cond, push, update)
        self._sd = 0
        if sig is not None:
            sig = self._signal(sig)
            signals |= sig.bits
            if sig.dst is not None:
                self._sd = sig.dst.ds
        self._ca = condition
        self._sig = signals
        field = self._field(condition, 0, signals) if condition or signals else 0
        if half < 0 or field < 0:
            self._half = -1
            words.append(_NOP_WORD)
        else:
            self._half = half
            words.append(half | _NOP_MUL | field)
        return index

    def _mul(self, index: int, e: Enc, d: Any, a: Any, b: Any, cond: Any, push: Any, update: Any, sig: Any) -> None:
        if index != self._open:
            self._error(
                "dual-issue",
                f"{e.op.name} comes too late: the instruction already has a mul half, or another one was begun since",
                help="chain the mul operation directly: q.fadd(...).fmul(...)",
            )
            return
        self._open = -1
        signals = self._sig
        try:
            half = e.t[a.mid * 48 + b.mid * 3 + d.pid] | d.dm | a.sc | b.sd
            d.e71  # noqa: B018 # a destination of 4.2 has no such attribute
        except (AttributeError, KeyError):
            found = self._slow(e, d, a, b, 2)
            if found is None:
                return
            half, imm = found
            if self._half >= 0 and imm and signals & _IMM:
                self._error(
                    "small-imm",
                    "small immediates in both halves of the instruction",
                    "one operand of an instruction on V3D 7.1",
                    "load one as a uniform: q.nop(sig=q.ldunifrf(q.rf[5]))",
                )
                return
            signals |= imm
        if cond is None and push is None and update is None:
            condition = 0
        else:
            condition = self._cond_id(cond, push, update)
        if sig is not None:
            sig = self._signal(sig)
            if signals & sig.bits or (self._sd and sig.dst is not None):
                self._error(
                    "signal", f"{sig!r} collides with a signal of the add half", "each signal once, one destination"
                )
                return
            signals |= sig.bits
            if sig.dst is not None:
                self._sd = sig.dst.ds
        if self._half < 0:
            return  # the add half was reported
        if condition or signals or self._ca:
            field = self._field(self._ca, condition, signals)
            if field >= 0:
                self._words[index] = self._half | half | field
        else:
            self._words[index] = self._half | half

    def _mul_only(self, e: Enc, d: Any, a: Any, b: Any, cond: Any, push: Any, update: Any, sig: Any) -> None:
        index = self._add(_NOP_ADD, _NULL, ABSENT, ABSENT, None, None, None, None)
        self._mul(index, e, d, a, b, cond, push, update, sig)
