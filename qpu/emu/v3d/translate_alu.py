"""The emitter of ALU instructions for translated V3D code: the `qpu.emu.v3d.alu.Machine` of the compiled engine."""

from __future__ import annotations

from typing import Protocol

from llvmlite import ir

from qpu.emu.engine.llvm_lanes import I16, I32, LlvmLanes
from qpu.emu.v3d import alu
from qpu.emu.v3d.prepare import Prepared
from qpu.emu.v3d.translate_state import Slot
from qpu.emu.v3d.translate_values import Values

__all__ = ["AluEmitter", "Broken", "Host"]


class Broken(Exception):
    """An instruction that breaks a rule whenever it executes. Its report has been emitted; the chain ends there."""


class Host(Protocol):
    """The methods of the translator that the emitter calls."""

    def rule(self, index: int, rule: str, message: str, condition: ir.Value | None) -> None:
        """End the code with a report, if `condition`: hardware does not define what happens."""
        ...

    def request(self, address: ir.Value, live: ir.Value) -> ir.Value:
        """Start a TMU request. Returns: the condition under which the host must perform it."""
        ...


class AluEmitter:
    """Emits ALU instructions into the chain of `values`."""

    def __init__(self, values: Values, v: LlvmLanes, host: Host) -> None:
        self.values = values
        self.v = v
        self.b = v.b
        self.host = host
        self.index = 0
        self.slow: ir.Value | None = None
        self.previous: Prepared | None = None
        self._steps: dict[int, alu.Step] = {}  # by word: some instructions are emitted with several pending effects

    def emit(self, index: int, p: Prepared, before: Prepared | None) -> ir.Value | None:
        """Emit an instruction.

        before: the instruction that was executed before, where it matters. Returns: the condition under which the host
        must perform its TMU request; None without a request. Raises: Broken.
        """
        self.index, self.slow, self.previous = index, None, before
        step = self._steps.get(p.word)
        if step is None:
            step = self._steps[p.word] = alu.build(p, self.v)
        step(self.values, self)
        return self.slow

    def uniform(self, t: Values) -> ir.Value:
        return t.word("u", self.index)

    def unifa_word(self, t: Values) -> ir.Value:
        return t.word("a", self.index)

    def result(self, t: Values) -> ir.Value:
        return t.result(self.index)

    def lane0(self, t: Values, value: ir.Value, on: ir.Value | None = None, old: ir.Value | None = None) -> ir.Value:
        first = self.b.extract_element(value, I32(0))
        return first if on is None else self.b.select(self.b.extract_element(on, I32(0)), first, old)

    def request(self, t: Values, address: ir.Value, live: ir.Value) -> None:
        self.slow = self.host.request(address, self.b.bitcast(live, I16))

    def move_unifa(self, t: Values, pointer: ir.Value) -> None:
        t.move_stream("a", pointer)

    def sfu_result(self, t: Values, value: ir.Value, on: ir.Value | None) -> None:
        t.put_vector(Slot.LATE, value)
        t.put_scalar(Slot.LATE_MASK, I32(0xFFFF) if on is None else t.bits(on))

    def join_barrier(self, t: Values, on: ir.Value | None) -> None:
        """Set `Slot.SYNC`: the barrier is joined; also the instruction, if results are outstanding."""
        b = self.b
        pending = b.icmp_unsigned("!=", t.scalar(Slot.COUNT), I32(0))
        here = b.select(pending, I32(1 | (self.index + 1) << 1), I32(1))
        if on is not None:
            here = b.select(self.some(t, on), here, I32(0))
        t.put_scalar(Slot.SYNC, b.or_(t.scalar(Slot.SYNC), here))

    def barrier_slot(self, t: Values) -> ir.Value:
        return t.splat(t.scalar(Slot.SLOT))

    def before(self, t: Values) -> Prepared | None:
        return self.previous

    def hazard(self, t: Values, rule: str, message: str) -> None:
        self.host.rule(self.index, rule, message, None)
        raise Broken

    def hazard_in(self, t: Values, rule: str, message: str, lanes: ir.Value) -> None:
        self.host.rule(self.index, rule, message, self.some(t, lanes))

    def some(self, t: Values, lanes: ir.Value) -> ir.Value:
        """Whether a lane is set."""
        return self.b.icmp_unsigned("!=", self.b.bitcast(lanes, I16), I16(0))
