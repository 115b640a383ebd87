"""Emission of V3D 4.2 instructions by the builder: accumulators by multiplexer, two shared register read ports.

The first distinct register of an instruction (add a, add b, mul a, mul b) takes port A, the second port B. A small
immediate, or the amount of a rotation, occupies port B.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from qpu.core.isa import Isa, Unit
from qpu.v3d.builder import ABSENT, Builder, Enc, encs
from qpu.v3d.codes import NOP_WORD
from qpu.v3d.instr import Sig
from qpu.v3d.operands import LAYERS, Dest42, Imm, Reg42, RegFile

__all__ = ["Issue42"]

_REGISTERS: Final = {n: Reg42(n, False) for n in range(64)}
_NULL: Final = Dest42(6, True)
_NOP_WORD: Final = NOP_WORD[Isa.V3D42]
_MUL_FIELDS: Final = 0x3F << 58 | 1 << 45 | 0x3F << 38 | 0x3F << 18
_NOP_MUL: Final = _NOP_WORD & _MUL_FIELDS
_IMM: Final = int(Sig.IMM_B)
_ROT: Final = int(Sig.ROT)
_B_IMM: Final = 64  # port B holds an immediate or rotation index, not a register
_NOP_ADD: Final = encs(Isa.V3D42, Unit.ADD)["nop"]
LAYERS.add(__file__)


class Issue42(Builder):
    """The part of `Asm42` that places operands and joins halves."""

    __slots__ = ("rf",)

    isa = Isa.V3D42
    _nop = _NOP_WORD
    _nop_mul = _NOP_MUL
    rf: RegFile[Reg42]

    def __init__(self) -> None:
        super().__init__()
        self.rf = RegFile[Reg42](_REGISTERS, self)  # type: ignore[call-arg] # a plain class for the checker

    def _stand_in(self) -> Reg42:
        return _REGISTERS[0]

    def _ports_error(self, wanted: str, pa: int, pb: int) -> None:
        if pb >= _B_IMM:
            held = f"rf{pa} and " if pa >= 0 else ""
            self._error(
                "read-ports",
                f"{wanted} finds no read port: {held}an immediate or rotation amount occupy them",
                "two different rf registers an instruction, or one and a small immediate; r0..r5 cost no port",
                "copy a register to an accumulator first, or split the instruction",
            )
        else:
            self._error(
                "read-ports",
                f"{wanted} finds no read port: rf{pa}" + (f" and rf{pb}" if pb >= 0 else "") + " occupy them",
                "two different rf registers an instruction, or one and a small immediate; r0..r5 cost no port",
                "copy a register to an accumulator first, or split the instruction",
            )

    def _slow(self, e: Enc, d: Any, a: Any, b: Any, pa: int, pb: int, shift: int) -> tuple[int, int, int, int] | None:
        """(bits, signal, port A, port B) of a half in full generality, or None after an error."""
        if not self._dest_ok(e, d, Dest42):
            return None
        sources: list[Any] = []
        for role, value in (("a", a), ("b", b)):
            if value is not ABSENT and not isinstance(value, (Reg42, Imm)):
                if isinstance(value, Dest42) or hasattr(value, "e71"):
                    what = "is a register of V3D 7.1" if hasattr(value, "e71") else "can only be written"
                    self._error("register", f"{value!r} {what}", "rf[0] .. rf[63], r0 .. r5, small immediates")
                    return None
                value = self._number(value, role, e.op)
                if value is None:
                    return None
            sources.append(value)
        a, b = sources
        if (a.mid * 48 + b.mid * 3 + d.pid) not in e.t:
            self._modifier_error(e, d, a, b)
            return None
        muxes: list[int] = []
        signal = 0
        for value in sources:
            mux = 0
            if isinstance(value, Imm):
                if pb not in (-1, _B_IMM | value.n):
                    if pb >= _B_IMM:
                        self._error(
                            "small-imm",
                            f"{value!r} is a second small immediate (or rotation amount) of the instruction",
                            "one small immediate, which all four operands may use",
                            "load one of them as a uniform, or split the instruction",
                        )
                    else:
                        self._ports_error(f"the small immediate {value!r}", pa, pb)
                    return None
                pb = _B_IMM | value.n
                mux, signal = 7, _IMM
            elif value.mux >= 0:
                mux = value.mux
            elif pa in (-1, value.n):
                pa, mux = value.n, 6
            elif pb in (-1, value.n):
                pb, mux = value.n, 7
            else:
                self._ports_error(f"rf{value.n}", pa, pb)
                return None
            muxes.append(mux)
        if e.order:
            keys = [(s.rank * 8 if isinstance(s, Imm) else s.order) + m for s, m in zip(sources, muxes, strict=True)]
            if keys[0] == keys[1] and e.swapped:
                # one register through both ports still has an order
                if muxes[0] != 6 or pb != -1:
                    self._identical(e)
                    return None
                pb, muxes = pa, [7, 6]
            elif (keys[0] > keys[1]) != e.swapped:
                a, b = b, a
                muxes.reverse()
        bits = e.t[a.mid * 48 + b.mid * 3 + d.pid] | (d.dm if shift else d.da)
        return bits | muxes[0] << 12 + shift | muxes[1] << 15 + shift, signal, pa, pb

    def _identical(self, e: Enc) -> None:
        plain = "fmin" if e.op.name == "fmax" else "fadd"
        self._error(
            "operand-order",
            f"{e.op.name} of two identical operands has no encoding: operand order tells it from {plain}",
            help="use mov" if plain == "fmin" else "use fadd",
        )

    def _rotate(self, amount: int) -> bool:
        """Put a rotation amount on port B."""
        if self._pb not in (-1, _B_IMM | amount):
            self._ports_error("the rotation amount", self._pa, self._pb)
            return False
        self._pb = _B_IMM | amount
        return True

    def _add(self, e: Enc, d: Any, a: Any, b: Any, cond: Any, push: Any, update: Any, sig: Any) -> int:
        frame = sys._getframe(2)
        while frame.f_code.co_filename in LAYERS:
            frame = frame.f_back  # type: ignore[assignment] # somebody called us
        self._locs.append((frame.f_code, frame.f_lasti))
        words = self._words
        index = len(words)
        self._open = index
        signals = 0
        pa = pb = -1
        try:
            half = e.t[a.mid * 48 + b.mid * 3 + d.pid] | d.e42
            mux_a = a.mux
            if mux_a < 0:
                pa, mux_a = a.n, 6
            mux_b = b.mux
            if mux_b < 0:
                mux_b = b.n
                if pa < 0 or pa == mux_b:
                    pa, mux_b = mux_b, 6
                else:
                    pb, mux_b = mux_b, 7
            if e.order:
                key_a, key_b = a.order + mux_a, b.order + mux_b
                if (key_a > key_b) != e.swapped:
                    if key_a == key_b:
                        raise KeyError
                    half = e.t[b.mid * 48 + a.mid * 3 + d.pid] | d.e42
                    mux_a, mux_b = mux_b, mux_a
            if e.register_only and d.magic:
                raise KeyError
            half |= mux_a << 12 | mux_b << 15
        except (AttributeError, KeyError):
            words.append(_NOP_WORD)
            half, signals, pa, pb = self._slow(e, d, a, b, -1, -1, 0) or (-1, 0, -1, -1)
            words.pop()
        if cond is None and push is None and update is None:
            condition = 0
        else:
            condition = self._cond_id(cond, push, update)
        self._sd = 0
        self._pa, self._pb = pa, pb
        if sig is not None:
            sig = self._signal(sig)
            signals |= sig.bits
            if sig.dst is not None:
                self._sd = sig.dst.ds
            if sig.rot is not None and not signals & _IMM:
                if self._rotate(sig.rot):
                    pb = self._pb
                else:
                    half = -1
        self._ca = condition
        self._sig = signals
        field = self._field(condition, 0, signals) if condition or signals else 0
        if half < 0 or field < 0:
            self._half = -1
            words.append(_NOP_WORD)
        else:
            self._half = half
            if pa > 0:
                half |= pa << 6
            if pb > 0:
                half |= pb & 63
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
        pa, pb = self._pa, self._pb
        try:
            half = e.t[a.mid * 48 + b.mid * 3 + d.pid] | d.dm
            d.e42  # noqa: B018 # a destination of 7.1 has no such attribute
            mux_a = a.mux
            if mux_a < 0:
                mux_a = a.n
                if pa < 0 or pa == mux_a:
                    pa, mux_a = mux_a, 6
                elif pb < 0 or pb == mux_a:
                    pb, mux_a = mux_a, 7
                else:
                    raise KeyError
            mux_b = b.mux
            if mux_b < 0:
                mux_b = b.n
                if pa < 0 or pa == mux_b:
                    pa, mux_b = mux_b, 6
                elif pb < 0 or pb == mux_b:
                    pb, mux_b = mux_b, 7
                else:
                    raise KeyError
            half |= mux_a << 18 | mux_b << 21
        except (AttributeError, KeyError):
            if self._half < 0:
                self._pa = self._pb = -1
            found = self._slow(e, d, a, b, self._pa, self._pb, 6)
            if found is None:
                return
            half, imm, pa, pb = found
            signals |= imm
        if cond is None and push is None and update is None:
            condition = 0
        else:
            condition = self._cond_id(cond, push, update)
        self._pa, self._pb = pa, pb
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
            if sig.rot is not None and not signals & _IMM:
                if not self._rotate(sig.rot):
                    return
                pb = self._pb
        if self._half < 0:
            return  # the add half was reported
        half |= self._half
        if pa > 0:
            half |= pa << 6
        if pb > 0:
            half |= pb & 63
        if condition or signals or self._ca:
            field = self._field(self._ca, condition, signals)
            if field >= 0:
                self._words[index] = half | field
        else:
            self._words[index] = half

    def _mul_only(self, e: Enc, d: Any, a: Any, b: Any, cond: Any, push: Any, update: Any, sig: Any) -> None:
        index = self._add(_NOP_ADD, _NULL, ABSENT, ABSENT, None, None, None, None)
        self._mul(index, e, d, a, b, cond, push, update, sig)
