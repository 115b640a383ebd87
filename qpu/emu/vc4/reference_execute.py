"""Executes instructions of VideoCore IV with NumPy: one call does one instruction for all QPUs of a group."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.numpy_lanes import LANES, NumpyLanes
from qpu.emu.vc4.faults import Level
from qpu.emu.vc4.prepare import R5_ROTATION, Dest, Half, Place, Plan, Read, Source
from qpu.emu.vc4.reference_shortcuts import shortcut
from qpu.emu.vc4.state import Bank, Flag, Group, Vector
from qpu.vc4 import sem
from qpu.vc4.instr import Branch, LoadImm, Semaphore
from qpu.vc4.ops import SFU, saturated
from qpu.vc4.regs import BRANCH_CONDS, MUX_A, MUX_B, File

if TYPE_CHECKING:
    from qpu.emu.vc4.units import Units

__all__ = ["BranchStep", "Step", "make_step"]

V = NumpyLanes()
Reader: TypeAlias = Callable[[Group], Vector]
Handler: TypeAlias = "Callable[[Units, Group, Vector], None]"

_LANE = np.arange(LANES)
_FULL = [(_LANE - n) % LANES for n in range(LANES)]
_QUAD = [(_LANE & 12) | ((_LANE - n) & 3) for n in range(LANES)]
_QUAD_FIRST = _LANE & 12
_ZERO: Vector = V.const(0)


def _const(value: int) -> Vector:
    return V.const(value)


class Step(Protocol):
    """An instruction that is ready to execute."""

    plan: Plan

    def run(self, g: Group) -> None:
        """Execute for all members of `g`."""
        ...


# -- operands


def _read_a(index: int) -> Reader:
    def read(g: Group) -> Vector:
        values: Vector = g.bank.a[index][g.sel]
        return values

    return read


def _read_b(index: int) -> Reader:
    def read(g: Group) -> Vector:
        values: Vector = g.bank.b[index][g.sel]
        return values

    return read


def _latched(file: File) -> Reader:
    def read(g: Group) -> Vector:
        latch = g.bank.latch_a if file is File.A else g.bank.latch_b
        return np.tile(latch[g.sel], 4)

    return read


def _element(g: Group) -> Vector:
    return g.units.element_number(g)


def _number(g: Group) -> Vector:
    return g.units.qpu_number(g)


def _wait_load(g: Group) -> Vector:
    g.units.vpm.wait_load(g)
    g.suspend = True
    return _element(g)


def _wait_store(g: Group) -> Vector:
    g.units.vpm.wait_store(g)
    g.suspend = True
    return _number(g)


_INPUTS: dict[tuple[File, int], Reader] = {
    **{(f, 32): lambda g: g.units.read_uniform(g) for f in File},
    (File.A, 38): _element,
    (File.B, 38): _number,
    **{(f, 48): lambda g: g.units.vpm.read(g) for f in File},
    (File.A, 49): lambda g: g.units.vpm.load_busy(g),
    (File.B, 49): lambda g: g.units.vpm.store_busy(g),
    (File.A, 50): _wait_load,
    (File.B, 50): _wait_store,
    (File.A, 51): _element,  # what a mutex read returns; taking it is the scheduler's work
    (File.B, 51): _number,
}


def _reader(source: Source | None, file: File) -> Reader | None:
    """What a read port does, or None when nothing can be observed of it."""
    if source is None or source.read is Read.SHARED:
        return None
    if source.read is Read.REGISTER:
        return (_read_a if file is File.A else _read_b)(source.index)
    if source.read is Read.SMALL_IMM:
        value = _const(source.index)
        return lambda g: value
    if source.read is Read.LATCH:
        return _latched(file)
    if source.read is Read.NUMBER:
        return _element if file is File.A else _number
    return _INPUTS[file, source.index]


def _mask(code: int) -> Callable[[Bank, Any], Flag] | None:
    """Lanes in which a write condition of 2..7 holds, as a new array; None for never and always."""
    if code < 2:
        return None
    name, inverted = ("z", "neg", "c")[(code >> 1) - 1], bool(code & 1)

    def evaluate(bank: Bank, sel: Any) -> Flag:
        flag: Flag = getattr(bank, name)[sel]
        return ~flag if inverted else np.array(flag)

    return evaluate


# -- results


def _whole(value: Vector, g: Group) -> Vector:
    """A value with one row for each member; constants are stored once."""
    return value if value.ndim == 2 else np.broadcast_to(value, (g.n, LANES))


def _sfu(address: int) -> Handler:
    function = SFU[address].sem

    def start(units: Units, g: Group, value: Vector) -> None:
        g.start_sfu(function(V, value))

    return start


def _tmu(address: int) -> Handler:
    unit, component = divmod(address - 56, 4)

    def write(units: Units, g: Group, value: Vector) -> None:
        units.tmu.write(g, unit, component, value)

    return write


_OUTPUTS: dict[tuple[File, int], Handler] = {
    **{(f, 36): lambda u, g, x: u.tmu.set_noswap(g, x) for f in File},
    (File.A, 40): lambda u, g, x: u.set_uniforms(g, x),
    (File.B, 40): lambda u, g, x: u.move_uniforms(g, x),
    **{(f, 48): lambda u, g, x: u.vpm.write(g, x) for f in File},
    (File.A, 49): lambda u, g, x: u.vpm.setup_read(g, x),
    (File.B, 49): lambda u, g, x: u.vpm.setup_write(g, x),
    (File.A, 50): lambda u, g, x: u.vpm.start_load(g, x),
    (File.B, 50): lambda u, g, x: u.vpm.start_store(g, x),
    **{(f, 51): lambda u, g, x: u.release_mutex(g) for f in File},
    **{(f, a): _sfu(a) for f in File for a in range(52, 56)},
    **{(f, a): _tmu(a) for f in File for a in range(56, 64)},
}
_SCALAR = frozenset({36, 40, 49, 50, 51})  # lane 0 is all that counts; of 51 not even that


class Writer:
    """Write-back of one half."""

    __slots__ = ("cond", "half", "handler", "index", "mask", "pack", "place")

    def __init__(self, half: Half) -> None:
        self.half = half
        self.place = half.dest.place
        self.index = half.dest.number
        self.cond = half.cond
        self.pack = half.pack
        self.mask = _mask(half.cond)
        self.handler = _handler(half.dest)

    def write(self, g: Group, value: Vector, mask: Flag | None) -> None:
        """Store `value` in the lanes of `mask` (None: all)."""
        place, bank, sel = self.place, g.bank, g.sel
        if place is Place.NONE:
            return
        if place is Place.A or place is Place.B or place is Place.ACC:
            if place is Place.A:
                target = bank.a[self.index]
                g.wrote_a = mask
            elif place is Place.B:
                target = bank.b[self.index]
                g.wrote_b = mask
            else:
                target = bank.acc[self.index]
            if self.pack is not None:
                value = self.pack.sem(V, target[sel], value, self.half.is_float)
            target[sel] = value if mask is None else np.where(mask, value, target[sel])
            return
        value = _whole(value, g)
        if place is Place.R5_ALL or place is Place.R5_QUADS:
            r5 = bank.acc[5]
            first = _QUAD_FIRST if place is Place.R5_QUADS else np.zeros(LANES, np.intp)
            if self.pack is not None:
                value = self.pack.sem(V, r5[sel], value, self.half.is_float)
            value = value[:, first]
            r5[sel] = value if mask is None else np.where(mask[:, first], value, r5[sel])
            return
        if self.pack is not None:
            value = self.pack.sem(V, _const(0), value, self.half.is_float)
        if place is Place.HOST:
            g.units.host_interrupt(g, value, mask)
        elif self.handler is not None:
            if mask is not None:
                self._conditional(g, mask)
            self.handler(g.units, g, value)

    def _conditional(self, g: Group, mask: Flag) -> None:
        """H14: an output register is triggered in all lanes, with undefined data where the condition fails."""
        fails = ~(mask[:, 0] if self.index in _SCALAR else mask.all(axis=1))
        if fails.any():
            i = int(np.flatnonzero(fails)[0])
            text = f"a conditional write to output register {self.index}: lanes that fail send undefined data"
            g.units.faults.report(Level.UNKNOWN, "H14", text, g, i)


def _handler(dest: Dest) -> Handler | None:
    return _OUTPUTS[dest.file, dest.number] if dest.place is Place.IO else None


def _set_flags(g: Group, result: Vector, carry: Flag | None, mask: Flag | None) -> None:
    bank, sel = g.bank, g.sel
    zero, negative = result == 0, result.view(np.int32) < 0
    if mask is None:
        bank.z[sel], bank.neg[sel] = zero, negative
        bank.c[sel] = False if carry is None else carry
        return
    bank.z[sel] = np.where(mask, zero, bank.z[sel])
    bank.neg[sel] = np.where(mask, negative, bank.neg[sel])
    bank.c[sel] = np.where(mask, False if carry is None else carry, bank.c[sel])


def _origin(place: Place) -> NDArray[np.intp]:
    """The lane whose value each lane of a destination takes."""
    if place is Place.R5_ALL:
        return np.zeros(LANES, np.intp)
    return _QUAD_FIRST if place is Place.R5_QUADS else _LANE


def _check_clash(g: Group, add: Writer, mul: Writer, one: Vector, two: Vector, masks: tuple[Flag | None, ...]) -> None:
    """H13: two values for one lane of a destination. Two equal ones are harmless (vc4.md 19)."""
    lanes = np.ones((g.n, LANES), np.bool_)
    for mask in masks:
        if mask is not None:
            lanes &= mask
    if add.pack is None and mul.pack is None:
        lanes = lanes & (one[..., _origin(add.place)] != two[..., _origin(mul.place)])
    if lanes.any():
        i, lane = (int(x) for x in np.argwhere(lanes)[0])
        text = "both ALUs write the same destination in the same lane; emulated as the MUL result winning"
        g.units.faults.report(Level.UNKNOWN, "H13", text, g, i, lane=lane)


class AluStep:
    """An ALU instruction."""

    __slots__ = (
        "add",
        "add_a",
        "add_b",
        "add_sem",
        "binary",
        "latch_b",
        "mul",
        "mul_a",
        "mul_b",
        "mul_sem",
        "plan",
        "read_a",
        "read_b",
        "rotate",
        "saturate_add",
        "shared",
        "simple_a",
        "simple_b",
    )

    def __init__(self, plan: Plan) -> None:
        assert plan.add is not None and plan.mul is not None
        self.plan = plan
        self.read_a = _reader(plan.read_a, File.A)
        self.read_b = _reader(plan.read_b, File.B)
        self.shared = plan.read_b is not None and plan.read_b.read is Read.SHARED
        # Reading address 39 does not change the latch; everything else does.
        self.simple_a = plan.read_a is None or plan.read_a.read is Read.LATCH
        self.simple_b = plan.read_b is None or plan.read_b.read is Read.LATCH
        self.add = Writer(plan.add) if plan.add.active else None
        self.mul = Writer(plan.mul) if plan.mul.active else None
        self.add_sem = shortcut(plan.add.op, same=plan.add.a == plan.add.b)
        self.mul_sem = shortcut(plan.mul.op, same=plan.mul.a == plan.mul.b)
        self.add_a, self.add_b = plan.add.a, plan.add.b
        self.mul_a, self.mul_b = plan.mul.a, plan.mul.b
        self.binary = plan.add.op.arity == 2
        self.saturate_add = plan.add.pack is not None and plan.add.pack.saturate_first

    def run(self, g: Group) -> None:
        """Execute for all members of `g`."""
        plan, bank, sel = self.plan, g.bank, g.sel
        acc: Vector = bank.acc
        va: Vector | None = None
        vb: Vector | None = None
        if self.read_a is not None:
            va = self.read_a(g)
            if not self.simple_a:
                bank.latch_a[sel] = va[..., 12:]
        if self.read_b is not None:
            vb = self.read_b(g)
            if not self.simple_b:
                bank.latch_b[sel] = vb[..., 12:]
        elif self.shared and va is not None:
            vb = va
            bank.latch_b[sel] = vb[..., 12:]
        r4: Vector | None = None
        if plan.unpack is not None:
            convert = plan.unpack.as_float if plan.unpack_float else plan.unpack.as_int
            if plan.unpack_r4:
                r4 = convert(V, acc[4][sel])
            elif va is not None:
                va = convert(V, va)

        def operand(mux: int) -> Vector:
            if mux == MUX_A:
                assert va is not None
                return va
            if mux == MUX_B:
                assert vb is not None
                return vb
            if mux == 4 and r4 is not None:
                return r4
            values: Vector = acc[mux][sel]
            return values

        add, mul = self.add, self.mul
        add_result = mul_result = None
        add_mask = mul_mask = None
        flags: tuple[Vector, Flag | None, Flag | None] | None = None
        if add is not None:
            assert self.add_sem is not None
            a, b = operand(self.add_a), operand(self.add_b) if self.binary else _ZERO
            add_result = self.add_sem(V, a, b)
            if add.mask is not None:
                add_mask = add.mask(bank, sel)
            if plan.flags_from == "add":
                carry = add.half.op.carry
                flags = add_result, None if carry is None else carry(V, a, b, add_result), add_mask
            if self.saturate_add:
                add_result = saturated(V, add.half.op, a, b, add_result)
        if mul is not None:
            if self.mul_sem is None:
                mul_result = np.tile(bank.latch_mul[sel], 4)
                carry_flag = None
            else:
                a, b = operand(self.mul_a), operand(self.mul_b)
                if plan.rotate is not None:
                    a, b = self._rotated(g, a, self.mul_a), self._rotated(g, b, self.mul_b)
                mul_result = self.mul_sem(V, a, b)
                carry = mul.half.op.carry
                carry_flag = None
                if plan.flags_from == "mul" and carry is not None:
                    carry_flag = carry(V, a, b, mul_result)
                bank.latch_mul[sel] = mul_result[..., 12:]
            if mul.mask is not None:
                mul_mask = mul.mask(bank, sel)
            if plan.flags_from == "mul":
                flags = mul_result, carry_flag, mul_mask
        if plan.merged and add is not None and mul is not None:
            assert add_result is not None and mul_result is not None and mul_mask is not None
            mul.write(g, np.where(mul_mask, _whole(mul_result, g), add_result), None)
        else:
            if plan.clash and add is not None and mul is not None:
                assert add_result is not None and mul_result is not None
                _check_clash(g, add, mul, add_result, mul_result, (add_mask, mul_mask))
            if add_result is not None and add is not None:
                add.write(g, add_result, add_mask)
            if mul_result is not None and mul is not None:
                mul.write(g, mul_result, mul_mask)
        if flags is not None:
            _set_flags(g, *flags)
        if plan.load is not None:
            g.units.tmu.load(g, plan.load)

    def _rotated(self, g: Group, value: Vector, mux: int) -> Vector:
        if mux == MUX_B:
            return value
        n = self.plan.rotate
        assert n is not None
        if n == R5_ROTATION:
            amount: Vector = g.bank.acc[5][g.sel][:, :1] & np.uint32(15)
            return sem.rotate_full(V, value, amount) if mux < 4 else sem.rotate_in_quads(V, value, amount)
        rotated: Vector = value[..., _FULL[n] if mux < 4 else _QUAD[n]]
        return rotated


class LoadStep:
    """A load immediate, or the load that a semaphore instruction does besides."""

    __slots__ = ("add", "mul", "plan", "value")

    def __init__(self, plan: Plan) -> None:
        instr = plan.instr
        assert plan.add is not None and plan.mul is not None and isinstance(instr, LoadImm | Semaphore)
        self.plan = plan
        mode = int(instr.mode) if isinstance(instr, LoadImm) else 0
        self.value: Vector = sem.load_immediate(V, mode, instr.imm)
        self.add = Writer(plan.add)
        self.mul = Writer(plan.mul)

    def run(self, g: Group) -> None:
        """Execute for all members of `g`."""
        plan, bank, sel, value = self.plan, g.bank, g.sel, self.value
        assert plan.add is not None and plan.mul is not None
        add_mask = None if self.add.mask is None else self.add.mask(bank, sel)
        mul_mask = None if self.mul.mask is None else self.mul.mask(bank, sel)
        if plan.merged:
            self.mul.write(g, value, None)
        else:
            if self.add.cond or plan.add.dest.place is Place.IO:
                self.add.write(g, value, add_mask)
            if self.mul.cond or plan.mul.dest.place is Place.IO:
                self.mul.write(g, value, mul_mask)
        if plan.flags_from:
            # The carry of a load is untested on hardware; clear, as if the value were added to 0.
            _set_flags(g, _whole(value, g), None, add_mask)


_LINKS = frozenset({Place.A, Place.B, Place.ACC, Place.R5_ALL, Place.R5_QUADS})


class BranchStep:
    """A branch: decides now, and the scheduler jumps after three more instructions."""

    __slots__ = ("add", "every", "flag", "instr", "mul", "plan", "when")

    def __init__(self, plan: Plan) -> None:
        assert plan.add is not None and plan.mul is not None and isinstance(plan.instr, Branch)
        self.plan = plan
        self.instr = plan.instr
        row = next((c for c in BRANCH_CONDS if c.code == plan.instr.cond), BRANCH_CONDS[-1])
        self.flag = {"z": "z", "n": "neg", "c": "c", "": ""}[row.flag]
        self.when = row.when
        self.every = row.every
        self.add = Writer(plan.add)
        self.mul = Writer(plan.mul)

    def run(self, g: Group) -> None:
        """Leave the decision in `g.branch_taken` and `g.branch_target`."""
        instr, bank, sel = self.instr, g.bank, g.sel
        if self.flag:
            flag = getattr(bank, self.flag)[sel]
            if not self.when:
                flag = ~flag
            taken = flag.all(axis=1) if self.every else flag.any(axis=1)
        else:
            taken = np.ones(g.n, np.bool_)
        following = g.pc + 32
        offset = instr.imm + (following if instr.rel else 0)
        target = np.full(g.n, offset, np.int64)
        if instr.reg:
            register = bank.a[instr.raddr_a][sel]
            differs = taken & (register[:, 0] != register[:, 15])
            if differs.any():
                text = (
                    "lanes 0 and 15 of the branch register differ: sources disagree on which one counts; lane 0 taken"
                )
                g.units.faults.report(Level.UNKNOWN, "branch-lane", text, g, int(np.flatnonzero(differs)[0]))
            target = target + register[:, 0]
        g.branch_taken = taken
        g.branch_target = target & 0xFFFFFFFF
        if not taken.any():
            return
        link = np.full((g.n, LANES), following, np.uint32)
        mask = None if taken.all() else np.repeat(taken[:, None], LANES, axis=1)
        for writer in (self.add, self.mul):
            if writer.place in _LINKS:
                writer.write(g, link, mask)
        if instr.reg and instr.raddr_a & 1:
            text = (
                "a taken branch through an odd register also sets the flags; from what is uncertain (link value here)"
            )
            g.units.faults.report(Level.WARN, "H24", text, g, int(np.flatnonzero(taken)[0]))
            _set_flags(g, link, None, mask)


class StopStep:
    """An instruction that cannot execute; its issue has already stopped the program."""

    __slots__ = ("plan",)

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, g: Group) -> None:
        """Never reached: issues of level STOP raise."""
        raise AssertionError("a reserved instruction was executed")


def make_step(plan: Plan) -> Step:
    """The executable form of a plan."""
    if isinstance(plan.instr, Branch):
        return BranchStep(plan)
    if isinstance(plan.instr, LoadImm | Semaphore):
        return LoadStep(plan)
    if plan.add is None:
        return StopStep(plan)
    return AluStep(plan)
