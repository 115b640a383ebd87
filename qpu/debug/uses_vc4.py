"""The registers that a VideoCore IV instruction uses, as bits and halves, for the sanitizer and the debugger."""

from __future__ import annotations

from typing import NamedTuple

from qpu.emu.vc4.alu import ACCUMULATORS, R4
from qpu.emu.vc4.prepare import Half, Place, Plan, Read
from qpu.vc4.instr import Branch, LoadImm, Semaphore
from qpu.vc4.ops import SFU
from qpu.vc4.regs import MUX_A, MUX_B

__all__ = ["FLAGS", "NAMES", "REGISTERS", "HalfUse", "Use", "use_of"]

FLAGS = ACCUMULATORS + 6
REGISTERS = FLAGS + 1
NAMES = [f"ra{n}" for n in range(32)] + [f"rb{n}" for n in range(32)] + [f"r{n}" for n in range(6)] + ["flags"]
_SINKS = {40: "lane0", 48: "vpm", 49: "lane0", 50: "lane0", 56: "address", 60: "address"}


class HalfUse(NamedTuple):
    """What one ALU does. reads: registers. flag, when: its condition; flag is empty for none. register: the register
    it writes, -1 for none. sink: what else it writes: ``address``, ``vpm``, ``lane0`` or empty. flags: it sets them.
    mixes: lanes of the result come from other lanes. vpm: an operand is popped from the VPM."""

    reads: tuple[int, ...]
    flag: str
    when: bool
    register: int
    sink: str
    flags: bool
    mixes: bool
    vpm: bool


class Use(NamedTuple):
    """needs: bits of registers whose old value matters. writes: bits of those that are written in all lanes. pops: the
    instruction takes a vector from the VPM or a TMU."""

    needs: int
    writes: int
    halves: tuple[HalfUse, ...]
    pops: bool


def _half(p: Plan, h: Half, *, mul: bool) -> HalfUse | None:
    flags = p.flags_from == ("mul" if mul else "add")
    if not h.active and not flags:  # an immediate that only sets flags is active in neither
        return None
    reads: set[int] = set()
    vpm = False
    if not isinstance(p.instr, LoadImm | Semaphore | Branch):
        same = h.binary and h.a == h.b and h.op.name in ("xor", "sub", "v8subs", "v8min")
        for mux in h.sources if not same or h.op.name not in ("xor", "sub", "v8subs") else ():
            source, base = (p.read_a, 0) if mux == MUX_A else (p.read_b, 32) if mux == MUX_B else (None, 0)
            if source is not None and source.read is Read.SHARED:
                source, base = p.read_a, 0
            if mux < MUX_A:
                reads.add(ACCUMULATORS + mux)
            elif source is not None and source.read is Read.REGISTER:
                reads.add(source.index + base)
            elif source is not None and source.read is Read.INPUT and source.index == 48:
                vpm = True
    number, sink = h.dest.register, ""
    if h.dest.place is Place.IO:
        number, sink = (R4, "") if h.dest.number in SFU else (-1, _SINKS.get(h.dest.number, ""))
    flag = "" if h.cond < 2 else ("z", "neg", "c")[(h.cond >> 1) - 1]
    mixes = (mul and p.rotate is not None) or number == ACCUMULATORS + 5
    return HalfUse(tuple(reads), flag, not h.cond & 1, number, sink, flags, mixes, vpm)


_uses: dict[int, Use] = {}


def use_of(p: Plan) -> Use:
    """What an instruction does with registers."""
    found = _uses.get(p.word)
    if found is None:
        if len(_uses) > 1 << 14:
            _uses.clear()
        found = _uses[p.word] = _use(p)
    return found


def _use(p: Plan) -> Use:
    if isinstance(p.instr, Branch):
        needs = 1 << FLAGS if p.branch is not None and p.branch.flag else 0
        if p.instr.reg:
            needs |= 1 << p.instr.raddr_a
        links = sum(1 << h.dest.register for h in (p.add, p.mul) if h.dest.register >= 0)
        return Use(needs, links, (), False)
    halves = [h for h in (_half(p, p.add, mul=False), _half(p, p.mul, mul=True)) if h is not None]
    needs = writes = 0
    for h in halves:
        needs |= sum(1 << r for r in h.reads)
        if h.flag:
            needs |= 1 << FLAGS
        if h.register >= 0:
            if h.flag:
                needs |= 1 << h.register
            else:
                writes |= 1 << h.register
        if h.flags:
            if h.flag:
                needs |= 1 << FLAGS
            else:
                writes |= 1 << FLAGS
    if p.load is not None:
        writes |= 1 << R4
    return Use(needs, writes, tuple(halves), p.load is not None or any(h.vpm for h in halves))
