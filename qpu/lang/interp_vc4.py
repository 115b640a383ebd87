"""The MIR interpreter's VideoCore IV: flags Z, N and C, the TMU, the VPM with its DMA, the mutex and semaphores."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.lang.interp_mir import ALL, NONE, NUMBERS, Machine, State, Vector, splat, spread
from qpu.lang.mir import STREAM, UNPACKS, Fixed, MOp, Operand
from qpu.lang.select_vc4 import ELEMENT, LDTMU0, R4, R5, R5REP, TMU0, UNIFORM_ADDRESS
from qpu.lang.select_vpm import ADDRESS_LOAD, ADDRESS_STORE, MUTEX, NOP, SETUP_LOAD, SETUP_STORE, VPM
from qpu.vc4.ops import SFU, TABLE
from qpu.vc4.regs import small_imm_value

__all__ = ["Vc4Machine"]

_ROW = 64  # bytes of a row of the VPM
_WAITS: Final = (ADDRESS_LOAD, ADDRESS_STORE)  # reading them waits for the DMA, which has ended here


class _Access:
    """A set-up of reads or writes of the VPM: bytes of an element, position in the units of the address, step."""

    def __init__(self, word: int) -> None:
        self.size = 1 << (word >> 8 & 3)
        self.at = word & 255
        self.step = (word >> 12 & 63) or 64
        if not word >> 11 & 1 or word >> 10 & 1:
            raise MirVpmError("only horizontal and packed accesses are known")

    def next(self) -> int:
        """The first byte of the next vector."""
        found = self.at * 16 * self.size
        self.at += self.step
        return found % (64 * _ROW)


class MirVpmError(AssertionError):
    """A set-up that the compiler does not make."""


class Vc4Machine(Machine):
    """The chip: one VPM, one mutex and 16 semaphores for all workers."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.vpm: NDArray[np.uint8] = np.zeros(64 * _ROW, np.uint8)
        self.semaphores = [0] * 16
        self.holder: int | None = None
        self.setups: dict[int, dict[str, Any]] = {}

    def start(self, n: int) -> State:
        self.setups[n] = {"stride": 0}
        return State(n)

    def immediate(self, n: int) -> int:
        return small_imm_value(n)

    def read(self, w: State, m: MOp, x: Fixed) -> Vector | None:
        if x == STREAM:
            return self.uniform(w, m.uniform) if m.uniform is not None else self.next_word(w)
        if x == ELEMENT:
            return NUMBERS
        if x == VPM:
            access: _Access = self.setups[w.number]["read"]
            first = access.next()
            return self.vpm[first : first + 16 * access.size].view(f"u{access.size}").astype(np.uint32)
        if x == MUTEX:
            if self.holder not in (None, w.number):
                raise self.fault(w, m, f"the mutex is held by worker {self.holder}")
            self.holder = w.number
            return splat(0)
        return splat(0) if x in _WAITS else None

    def resume(self, w: State, m: MOp) -> None:
        w.waits = False
        self.one(w, m)

    def one(self, w: State, m: MOp) -> None:
        if m.op == "ldi":
            assert m.dst is not None
            self.put(w, m.dst, splat(m.byte), None)
        elif m.op == "sema":
            self._semaphore(w, m.byte & 15, bool(m.byte >> 4 & 1))
        elif m.op:
            self._operation(w, m)
        if m.sig == LDTMU0:
            if not w.results:
                raise self.fault(w, m, "no result is there")
            w.registers[R4] = w.results.pop(0)

    def _semaphore(self, w: State, number: int, down: bool) -> None:
        full = self.semaphores[number] == (0 if down else 15)
        w.waits = full
        if not full:
            self.semaphores[number] += -1 if down else 1

    def _operation(self, w: State, m: MOp) -> None:
        assert m.a is not None
        a = self.get(w, m, m.a)
        if m.amod:
            a = a >> np.uint32(8 * UNPACKS.index(m.amod)) & np.uint32(0xFF)
        b = a if m.b is None or m.b == m.a else self.get(w, m, m.b)
        if m.rot is not None:
            amount = int(w.registers[R5][0]) & 15 if m.rot < 0 else m.rot
            a = a[(NUMBERS - amount) & 15]
        mask = self.holds(w, m.cond[2:]) if m.cond else None
        carry: Any = NONE
        if m.op == "mov":
            result = a
        else:
            row = TABLE[m.op]
            assert row.sem is not None
            result = spread(row.sem(self.v, a, b))
            if m.push and row.carry is not None:
                carry = spread(row.carry(self.v, a, b, result))
        if m.dst is not None:
            self._write(w, m, m.dst, result, mask)
        if m.push:
            for name, new in (("z", result == 0), ("n", result.view(np.int32) < 0), ("c", carry)):
                w.flags[name] = new if mask is None else np.where(mask, new, w.flags[name])

    def _write(self, w: State, m: MOp, dst: Operand, result: Vector, mask: NDArray[np.bool_] | None) -> None:
        if not isinstance(dst, Fixed) or dst.kind in ("a", "b", "acc"):
            self.put(w, dst, result, mask)
        elif dst == NOP:
            pass
        elif mask is not None:
            raise self.fault(w, m, "a write to the hardware under a condition")
        elif dst == R5REP:
            w.registers[R5] = splat(int(result[0]))
        elif dst == Fixed("io", TMU0):
            w.results.append(self.space.read(result.view(np.int32).astype(np.int64), 4, ALL))
        elif dst.kind == "io" and dst.n in SFU:
            w.registers[R4] = spread(SFU[dst.n].sem(self.v, result))
        elif dst == UNIFORM_ADDRESS:
            w.stream = int(result[0])
        elif dst == MUTEX:
            if self.holder != w.number:
                raise self.fault(w, m, "the mutex is not its own")
            self.holder = None
        else:
            self._memory(w, m, dst, result)

    # -- the VPM

    def _memory(self, w: State, m: MOp, dst: Fixed, result: Vector) -> None:
        state, word = self.setups[w.number], int(result[0])
        if dst == VPM:
            access: _Access = state["write"]
            first = access.next()
            self.vpm[first : first + 16 * access.size] = result.astype(f"u{access.size}").view(np.uint8)
        elif dst == SETUP_STORE:
            if word >> 30 == 3:
                state["stride"] = word & 0xFFFF
            elif word >> 30 == 2:
                state["store"] = word
            else:
                state["write"] = _Access(word)
        elif dst == SETUP_LOAD:
            if word >> 31:
                state["load"] = word
            else:
                state["read"] = _Access(word)
        elif dst == ADDRESS_STORE:
            self._store(w, m, state["store"], state["stride"], word)
        elif dst == ADDRESS_LOAD:
            self._load(state["load"], word)
        else:
            raise self.fault(w, m, f"writes to {dst}")

    @staticmethod
    def _width(code: int) -> tuple[int, int]:
        """Bytes of an element, and which part of a word it is."""
        return (1, code & 3) if code >= 4 else (2, code & 1) if code >= 2 else (4, 0)

    def _store(self, w: State, m: MOp, word: int, stride: int, address: int) -> None:
        size, part = self._width(word & 7)
        count, rows = (word >> 16 & 127) or 128, (word >> 23 & 127) or 128
        horizontal, y, x = word >> 14 & 1, word >> 7 & 127, word >> 3 & 15
        for r in range(rows):
            elements = np.arange(count)
            if horizontal:  # elements follow each other in a row, rows are below each other
                cells = (y + r) * _ROW + part * 16 * size + (x + elements) * size
            else:  # a row of memory is a column
                cells = (y + elements) * _ROW + (x + r) * 4 + part * size
            values = sum(self.vpm[(cells + k) % len(self.vpm)].astype(np.uint32) << 8 * k for k in range(size))
            at = address + size * elements
            wrong = self.space.write(at, size, np.asarray(values), np.ones(count, np.bool_))
            if wrong:
                raise self.fault(w, m, wrong)
            address += size * count + stride

    def _load(self, word: int, address: int) -> None:
        size, part = self._width(word >> 28 & 7)
        count, y = (word >> 20 & 15) or 16, word >> 4 & 63
        at = address + size * np.arange(count)
        values = self.space.read(at, size, np.ones(count, np.bool_))
        first = y * _ROW + part * 16 * size
        self.vpm[first : first + count * size] = values.astype(f"u{size}").view(np.uint8)
