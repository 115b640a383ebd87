"""VideoCore IV instruction semantics around the operation: operands, rotation, conditions, packs, flags and links.

Written once, over `LaneOps` and a `Thread`. The reference engine runs these functions on the registers of a group of
QPUs; the compiled engine calls them to emit code. The steps and their order: docs/hardware/vc4.md 6.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import BRANCH_SLOTS, SWITCH_SLOTS
from qpu.core.lanes import LaneOps, M, V
from qpu.core.optable import Op
from qpu.emu.vc4.prepare import R5_ROTATION, Dest, Half, Place, Plan, Read, Source
from qpu.vc4 import sem
from qpu.vc4.instr import Branch, LoadImm, Semaphore
from qpu.vc4.ops import SFU, saturated
from qpu.vc4.regs import MUX_A, MUX_B, BranchCond, File
from qpu.vc4.rules import RULES

__all__ = [
    "ACCUMULATORS", "BRANCH_SLOTS", "END_SLOTS", "LATCH_MUL", "R4", "SFU_LATENCY", "SWITCH_SLOTS", "Thread", "branch",
    "load", "operate", "origin",
]  # fmt: skip

X = TypeVar("X")
Index = NDArray[np.intp]

END_SLOTS = SWITCH_SLOTS
SFU_LATENCY = RULES["H2"].windows[0].distance + 1  # instructions from an SFU write on until r4 holds the result

ACCUMULATORS = 64  # number of r0; ra0 is 0, rb0 is 32
R4, R5 = ACCUMULATORS + 4, ACCUMULATORS + 5
LATCH_A, LATCH_B, LATCH_MUL = range(3)

_LANE: Index = np.arange(16)
_FIRST: Index = np.zeros(16, np.intp)
_QUAD_FIRST: Index = _LANE & 12
_FULL: list[Index] = [(_LANE - n) & 15 for n in range(16)]
_IN_QUADS: list[Index] = [(_LANE & 12) | ((_LANE - n) & 3) for n in range(16)]


class Thread(Protocol[X, V, M]):
    """The state that an instruction reads and writes: that of one QPU, or of several QPUs in step.

    X: the content of a register; `plain(x)` gives its bits.
    """

    @property
    def v(self) -> LaneOps[V, M]:
        """Lane operations on V and M."""
        ...

    def value(self, bits: V) -> X:
        """Register content with these bits."""
        ...

    def plain(self, x: X) -> V:
        """The bits of a register content."""
        ...

    def register(self, number: int) -> X:
        """ra0..31 are 0..31, rb0..31 are 32..63, r0..r5 are 64..69."""
        ...

    def put(self, number: int, x: X, mask: M | None) -> None:
        """Write a register in the lanes of `mask`; None means all lanes."""
        ...

    def move(self, x: X) -> X:
        """The result of a move."""
        ...

    def compute(self, op: Op, a: X, b: X | None) -> X:
        """The result of an operation; b is None for unary ones."""
        ...

    def shuffle(self, bits: V, lanes: Index) -> V:
        """Lane i of the result is lane lanes[i]."""
        ...

    def shuffle_mask(self, mask: M, lanes: Index) -> M:
        """Lane i of the resulting mask is lane lanes[i]."""
        ...

    def latch(self, which: int, x: X) -> None:
        """Record what port A (0), port B (1) or the MUL ALU (2) delivered; only lanes 12..15 are kept."""
        ...

    def latched(self, which: int) -> V:
        """The kept lanes, repeated in every quad."""
        ...

    def flag(self, name: str) -> M:
        """Flag ``z``, ``n`` or ``c``."""
        ...

    def set_flags(self, z: M, n: M, c: M, mask: M | None) -> None:
        """Write all flags in the lanes of `mask`."""
        ...

    def input(self, file: File, address: int) -> V:
        """Read an input register, with its side effect."""
        ...

    def output(self, dest: Dest, bits: V, mask: M | None) -> None:
        """Write an output register other than those of the SFU."""
        ...

    def start_sfu(self, dest: Dest, result: V, mask: M | None) -> None:
        """r4 gets `result` after `SFU_LATENCY` instructions."""
        ...

    def tmu_result(self, tmu: int) -> V:
        """Pop the oldest result from the queue of a TMU."""
        ...

    def clash(self, plan: Plan, add: V, mul: V, masks: tuple[M | None, M | None]) -> None:
        """Handle two halves that write one register or accumulator in the same lanes."""
        ...

    def every(self, mask: M) -> Any:
        """Whether all lanes are set, for each QPU."""
        ...

    def some(self, mask: M) -> Any:
        """Whether any lane is set, for each QPU."""
        ...

    def branch(self, instr: Branch, taken: Any) -> None:
        """Start a branch, which takes effect after its delay slots. taken: from `every` or `some`; None: always."""
        ...

    def link(self, taken: Any) -> tuple[V, M | None]:
        """The address after the delay slots, and the lanes of the QPUs that take the branch; None: all lanes."""
        ...


# -- operands


def _read(t: Thread[X, V, M], source: Source, port: int) -> X:
    """The value that a read port delivers. The latch of the port keeps it; a read of address 39 returns the latch."""
    kind = source.read
    if kind is Read.REGISTER:
        x = t.register(source.index + 32 * port)
    elif kind is Read.SMALL_IMM:
        x = t.value(t.v.const(source.index))
    elif kind is Read.LATCH:
        return t.value(t.latched(port))
    else:
        x = t.value(t.input(File.B if port else File.A, source.index))
    t.latch(port, x)
    return x


def _rotated(t: Thread[X, V, M], rotate: int, x: X, mux: int) -> X:
    """An operand of a rotated MUL operation: r0..r3 rotate fully, others within quads (docs/hardware/vc4.md 8)."""
    if mux == MUX_B:
        return x
    bits = t.plain(x)
    if rotate == R5_ROTATION:
        amount = t.v.and_(t.shuffle(t.plain(t.register(R5)), _FIRST), t.v.const(15))
        return t.value((sem.rotate_full if mux < 4 else sem.rotate_in_quads)(t.v, bits, amount))
    return t.value(t.shuffle(bits, (_FULL if mux < 4 else _IN_QUADS)[rotate]))


def _condition(t: Thread[X, V, M], code: int) -> M | None:
    """Lanes in which a write condition holds; None for always and never."""
    if code < 2:
        return None
    flag = t.flag("znc"[(code >> 1) - 1])
    return t.v.mnot(flag) if code & 1 else flag


# -- results


def origin(place: Place) -> Index | None:
    """The lane whose result each lane of r5 takes; None for other places."""
    if place is Place.R5_ALL:
        return _FIRST
    return _QUAD_FIRST if place is Place.R5_QUADS else None


def _write(t: Thread[X, V, M], h: Half, x: X, mask: M | None) -> None:
    """Write back the result of one half in the lanes of `mask`."""
    dest, v = h.dest, t.v
    number = dest.register
    if number >= 0:
        if h.pack is not None:
            x = t.value(h.pack.sem(v, t.plain(t.register(number)), t.plain(x), h.is_float))
        if number == R5:
            lanes = origin(dest.place)
            assert lanes is not None
            x = t.value(t.shuffle(t.plain(x), lanes))
            mask = None if mask is None else t.shuffle_mask(mask, lanes)
        t.put(number, x, mask)
    elif dest.place is Place.IO or dest.place is Place.HOST:
        bits = t.plain(x)
        if h.pack is not None:
            bits = h.pack.sem(v, v.const(0), bits, h.is_float)
        if dest.number in SFU:
            t.start_sfu(dest, SFU[dest.number].sem(v, bits), mask)
        else:
            t.output(dest, bits, mask)


def _set_flags(t: Thread[X, V, M], bits: V, carry: M | None, mask: M | None) -> None:
    """Set Z and N from a result that is not yet packed, and C from `carry`."""
    v = t.v
    zero = v.const(0)
    t.set_flags(v.eq(bits, zero), v.slt(bits, zero), v.mconst(False) if carry is None else carry, mask)


# -- instructions


def operate(t: Thread[X, V, M], p: Plan) -> None:
    """Execute an ALU instruction."""
    v, add, mul = t.v, p.add, p.mul
    va: X | None = None
    vb: X | None = None
    r4: X | None = None
    if p.read_a is not None:
        va = _read(t, p.read_a, LATCH_A)
    if p.read_b is not None:
        if p.read_b.read is not Read.SHARED:
            vb = _read(t, p.read_b, LATCH_B)
        elif va is not None:
            vb = va
            t.latch(LATCH_B, va)
    if p.unpack is not None:
        if p.unpack_r4:
            r4 = t.value(p.unpack(v, t.plain(t.register(R4))))
        elif va is not None:
            va = t.value(p.unpack(v, t.plain(va)))

    def operand(mux: int) -> X:
        if mux == MUX_A:
            assert va is not None
            return va
        if mux == MUX_B:
            assert vb is not None
            return vb
        return r4 if mux == 4 and r4 is not None else t.register(ACCUMULATORS + mux)

    def carry(h: Half, a: X, b: X | None, result: X) -> M | None:
        if h.op.carry is None:
            return None
        found: M = h.op.carry(v, t.plain(a), v.const(0) if b is None else t.plain(b), t.plain(result))
        return found

    one: X | None = None
    two: X | None = None
    mask_one: M | None = None
    mask_two: M | None = None
    flags: tuple[X, M | None, M | None] | None = None
    if add.active:
        a = operand(add.a)
        b = None if not add.binary else a if add.b == add.a else operand(add.b)
        one = t.move(a) if add.move else t.compute(add.op, a, b)
        mask_one = _condition(t, add.cond)
        if p.flags_from == "add":
            flags = one, carry(add, a, b, one), mask_one
        if add.pack is not None and add.pack.saturate_first and b is not None:
            one = t.value(saturated(v, add.op, t.plain(a), t.plain(b), t.plain(one)))
    if mul.active:
        mask_two = _condition(t, mul.cond)
        if mul.op.sem is None:  # the MUL nop repeats the last result (docs/hardware/vc4.md 9.4)
            two = t.value(t.latched(LATCH_MUL))
            if p.flags_from == "mul":
                flags = two, None, mask_two
        else:
            a = operand(mul.a)
            b = a if mul.b == mul.a else operand(mul.b)
            if p.rotate is not None:
                a, same = _rotated(t, p.rotate, a, mul.a), mul.b == mul.a
                b = a if same else _rotated(t, p.rotate, b, mul.b)
            two = t.move(a) if mul.move else t.compute(mul.op, a, b)
            if p.flags_from == "mul":
                flags = two, carry(mul, a, b, two), mask_two
            t.latch(LATCH_MUL, two)
    if one is not None and two is not None and p.merged:
        assert mask_two is not None
        _write(t, mul, t.value(v.select(mask_two, t.plain(two), t.plain(one))), None)
    else:
        if one is not None:
            if two is not None and p.clash:
                t.clash(p, t.plain(one), t.plain(two), (mask_one, mask_two))
            _write(t, add, one, mask_one)
        if two is not None:
            _write(t, mul, two, mask_two)
    if flags is not None:
        result, c, mask = flags
        _set_flags(t, t.plain(result), c, mask)
    if p.load is not None:
        t.put(R4, t.value(t.tmu_result(p.load)), None)


def load(t: Thread[X, V, M], p: Plan) -> None:
    """Execute a load immediate, or the load that is part of a semaphore instruction.

    What a load does to C is untested on hardware. Here it clears C, as if the value were added to 0.
    """
    instr = p.instr
    assert isinstance(instr, LoadImm | Semaphore)
    bits = sem.load_immediate(t.v, int(instr.mode) if isinstance(instr, LoadImm) else 0, instr.imm)
    x = t.value(bits)
    masks = _condition(t, p.add.cond), _condition(t, p.mul.cond)
    if p.merged:
        _write(t, p.mul, x, None)
    else:
        for h, mask in zip((p.add, p.mul), masks, strict=True):
            if h.active:
                _write(t, h, x, mask)
    if p.flags_from:
        _set_flags(t, bits, None, masks[0])


def branch(t: Thread[X, V, M], p: Plan) -> None:
    """Execute a branch: decide and link now; the jump follows after `BRANCH_SLOTS` more instructions."""
    instr, row = p.instr, p.branch
    assert isinstance(instr, Branch) and isinstance(row, BranchCond)
    taken: Any = None
    if row.flag:
        flag = t.flag(row.flag)
        if not row.when:
            flag = t.v.mnot(flag)
        taken = t.every(flag) if row.every else t.some(flag)
    t.branch(instr, taken)
    odd = bool(instr.reg and instr.raddr_a & 1)
    links = [h for h in (p.add, p.mul) if h.dest.register >= 0]
    if links or odd:
        bits, mask = t.link(taken)
        for h in links:
            _write(t, h, t.value(bits), mask)
        if odd:  # H24: the branch sets the flags; from which value is uncertain, the link value is assumed
            _set_flags(t, bits, None, mask)
