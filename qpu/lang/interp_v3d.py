"""The MIR interpreter's V3D 4.2 and 7.1: flag A, the TMU, streams, barriers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.lang.interp_mir import ALL, NONE, NUMBERS, Machine, State, Vector, splat, spread
from qpu.lang.memory import ATOMICS
from qpu.lang.mir import Fixed, MOp
from qpu.lang.select_v3d import NOP, PAYLOAD, R5REP, SYNCB, TMUA, TMUC, TMUD, UNIFA
from qpu.v3d.ops import PACK, UNPACK, table
from qpu.v3d.regs import Sig, imm_bits

__all__ = ["V3dMachine"]

_SIZE: Final = {0: 1, 1: 2, 4: 4, 5: 1, 6: 2, 7: 4}
_SIGNED: Final = {0: 8, 1: 16}
_VEC4 = 4
_SIGNED_MIN, _UNSIGNED_MIN = 6, 4  # and the maximum after each
_ATOMIC: Final[dict[int, Any]] = {
    ATOMICS["add"]: lambda old, x: old + x,
    ATOMICS["and"]: lambda old, x: old & x,
    ATOMICS["or"]: lambda old, x: old | x,
    ATOMICS["xor"]: lambda old, x: old ^ x,
    _SIGNED_MIN: lambda old, x: min(_signed(old), _signed(x)),
    _SIGNED_MIN + 1: lambda old, x: max(_signed(old), _signed(x)),
    _UNSIGNED_MIN: min,
    _UNSIGNED_MIN + 1: max,
}


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


class V3dMachine(Machine):
    """One of the two instruction sets."""

    isa: Isa

    def start(self, n: int) -> State:
        w = State(n)
        w.registers[Fixed("rf", PAYLOAD[self.isa])] = splat(n)
        w.flags["a"] = NONE
        return w

    def resume(self, w: State, m: MOp) -> None:
        w.waits = False

    def immediate(self, n: int) -> int:
        return imm_bits(n)

    def read(self, w: State, m: MOp, x: Fixed) -> Vector | None:
        return None

    def one(self, w: State, m: MOp) -> None:
        if m.op:
            self._operation(w, m)
        sig = Sig(m.sig)
        if m.sig_dst is None:
            return
        if sig & Sig.LDTMU:
            if not w.results:
                raise self.fault(w, m, "no result is there")
            self.put(w, m.sig_dst, w.results.pop(0), None)
        elif m.uniform is not None:
            self.put(w, m.sig_dst, self.uniform(w, m.uniform), None)
        else:
            self.put(w, m.sig_dst, self.next_word(w), None)

    def _operation(self, w: State, m: MOp) -> None:
        row, v = table(self.isa)[m.op], self.v
        operands = [self.get(w, m, x) for x in (m.a, m.b) if x is not None]
        for k, mod in enumerate((m.amod, m.bmod)):
            if mod:
                operands[k] = UNPACK[mod](v, operands[k])
        if m.rot is not None:
            operands[0] = operands[0][(NUMBERS - m.rot) & 15]
        if m.op == "eidx":
            result = NUMBERS
        elif m.op == "rot":
            result = operands[0][(NUMBERS + operands[1]) & 15]
        elif m.op == "shuffle":
            result = operands[0][operands[1] & 15]
        elif row.sem is None or m.op == "barrierid":
            result = splat(0)
        else:
            found = row.sem(v, *operands, *(w.rtop for name in row.implicit_reads if name == "rtop"))
            if row.implicit_writes:
                found, w.rtop = found
            result = spread(found)
        mask = self.holds(w, m.cond[2:]) if m.cond else None
        if m.push or m.update:
            self._flags(w, m, self.flag_of((m.push or m.update)[-1], row, operands, result))
        if m.pack:
            result = PACK[m.pack](v, self.get(w, m, m.dst) if m.dst is not None else splat(0), result)
        if isinstance(m.dst, Fixed) and m.dst.kind == "magic":
            self._magic(w, m, m.dst.n, result, mask)
        elif m.dst is not None:
            self.put(w, m.dst, result, mask)

    @staticmethod
    def _flags(w: State, m: MOp, new: NDArray[np.bool_]) -> None:
        if m.push:
            w.flags["b"], w.flags["a"] = w.flags["a"], new
            return
        new = ~new if len(m.update) == 5 else new
        w.flags["a"] = ~(w.flags["a"] | new) if m.update.startswith("nor") else w.flags["a"] & new

    def _magic(self, w: State, m: MOp, n: int, result: Vector, mask: NDArray[np.bool_] | None) -> None:
        if n == TMUD:
            w.data.append(result)
        elif n == TMUA:
            self._request(w, m, result.view(np.int32).astype(np.int64), ALL if mask is None else mask)
        elif n == TMUC:
            w.config = int(result[0])
        elif n == UNIFA:
            w.stream = int(result[0])
        elif n == R5REP:
            w.registers[Fixed("acc", 5)] = splat(int(result[0]))
        elif n == SYNCB:
            w.waits = True
        elif n != NOP:
            raise self.fault(w, m, f"writes to place {n}")

    # -- the TMU

    def _request(self, w: State, m: MOp, at: NDArray[np.int64], live: NDArray[np.bool_]) -> None:
        byte = w.config & 0xFF
        w.config = w.config >> 8 | 0xFF000000
        if byte != m.byte:
            raise self.fault(w, m, f"its configuration is {byte:#x} instead of {m.byte:#x}")
        data, w.data = w.data, []
        if byte & 0x78 != 0x78:
            self._atomic(w, m, at, live, byte >> 3 & 15, data)
            return
        kind = byte & 7
        size = _SIZE[kind]
        if m.role == "store":
            if len(data) != (4 if kind == _VEC4 else 1):
                raise self.fault(w, m, f"{len(data)} words of data")
            for k, word in enumerate(data):
                wrong = self.space.write(self._of(at, k, kind), size, word, live)
                if wrong:
                    raise self.fault(w, m, wrong)
            return
        if data:
            raise self.fault(w, m, "a load with data")
        for k in range(m.words):
            word = self.space.read(self._of(at, k, kind), size, live)
            if kind in _SIGNED:
                up = 32 - _SIGNED[kind]
                word = ((word << up).view(np.int32) >> up).view(np.uint32)
            w.results.append(word)

    def _of(self, at: NDArray[np.int64], k: int, kind: int) -> NDArray[np.int64]:
        """The address of the k-th word; on 4.2 it stays within 16 bytes."""
        if kind == _VEC4 and self.isa is Isa.V3D42:
            return (at & ~15) | ((at + 4 * k) & 15)
        return at + 4 * k

    def _atomic(
        self, w: State, m: MOp, at: NDArray[np.int64], live: NDArray[np.bool_], number: int, data: list[Vector]
    ) -> None:
        old = self.space.read(at, 4, NONE)
        for lane in np.flatnonzero(live):
            one = ALL & (lane == NUMBERS)
            before = int(self.space.read(at, 4, one)[lane])
            words = [int(x[lane]) for x in data]
            if number == ATOMICS["cas"]:
                after = words[1] if before == words[0] else before
            else:
                after = _ATOMIC[number](before, words[0])
            wrong = self.space.write(at, 4, splat(after), one)
            if wrong:
                raise self.fault(w, m, wrong)
            old[lane] = before
        w.results.append(old)


class V3d42Machine(V3dMachine):
    """V3D 4.2."""

    isa = Isa.V3D42


class V3d71Machine(V3dMachine):
    """V3D 7.1."""

    isa = Isa.V3D71
