"""The reference engine's `Thread`: NumPy arrays of all QPUs of a group, which execute one instruction together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.optable import Op
from qpu.emu.engine.numpy_lanes import LANES, NumpyLanes
from qpu.emu.vc4 import alu
from qpu.emu.vc4.faults import Level
from qpu.emu.vc4.prepare import Dest, Place, Plan
from qpu.emu.vc4.reference_shortcuts import SHORTCUTS
from qpu.emu.vc4.state import Flag, Group, Vector
from qpu.emu.vc4.units import Units
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, Semaphore
from qpu.vc4.regs import File

__all__ = ["ReferenceThread", "Step"]

Index: TypeAlias = NDArray[np.intp]
_LANES = NumpyLanes()
_ZERO: Vector = _LANES.const(0)
_NAMES = {"z": "z", "n": "neg", "c": "c"}


def _wait_load(u: Units, g: Group) -> Vector:
    u.vpm.wait_load(g)
    g.suspend = True
    return u.element_number(g)


def _wait_store(u: Units, g: Group) -> Vector:
    u.vpm.wait_store(g)
    g.suspend = True
    return u.qpu_number(g)


# Other inputs, such as the mutex (the scheduler acquires it), deliver the element number (file A) or QPU number (B).
_INPUTS: dict[tuple[File, int], Callable[[Units, Group], Vector]] = {
    **{(f, 32): lambda u, g: u.uniforms.read(g) for f in File},
    **{(f, 48): lambda u, g: u.vpm.read(g) for f in File},
    (File.A, 49): lambda u, g: u.vpm.load_busy(g),
    (File.B, 49): lambda u, g: u.vpm.store_busy(g),
    (File.A, 50): _wait_load,
    (File.B, 50): _wait_store,
}


def _tmu(address: int) -> Callable[[Units, Group, Vector], None]:
    unit, component = divmod(address - 56, 4)
    return lambda u, g, x: u.tmu.write(g, unit, component, x)


_OUTPUTS: dict[tuple[File, int], Callable[[Units, Group, Vector], None]] = {
    **{(f, 36): lambda u, g, x: u.tmu.set_noswap(g, x) for f in File},
    (File.A, 40): lambda u, g, x: u.uniforms.set(g, x),
    (File.B, 40): lambda u, g, x: u.uniforms.move(g, x),
    **{(f, 48): lambda u, g, x: u.vpm.write(g, x) for f in File},
    (File.A, 49): lambda u, g, x: u.vpm.setup_read(g, x),
    (File.B, 49): lambda u, g, x: u.vpm.setup_write(g, x),
    (File.A, 50): lambda u, g, x: u.vpm.start_load(g, x),
    (File.B, 50): lambda u, g, x: u.vpm.start_store(g, x),
    **{(f, 51): lambda u, g, x: u.release_mutex(g) for f in File},
    **{(f, a): _tmu(a) for f in File for a in range(56, 64)},
}
_SCALAR = frozenset({36, 40, 49, 50, 51})  # only lane 0 counts; for 51 no lane counts


class ReferenceThread:
    """The members of a group as an `alu.Thread`. Contents, bits and masks are arrays of shape (members, 16)."""

    __slots__ = ("_bank", "_group", "_latches", "_rows", "_sel", "_units")

    v = _LANES

    def __init__(self, group: Group, units: Units) -> None:
        self._group = group
        self._units = units
        self._bank = group.bank
        self._rows = group.bank.rows
        self._latches = group.bank.latch_a, group.bank.latch_b, group.bank.latch_mul
        self._sel = group.sel

    @property
    def group(self) -> Group:
        """The QPUs that execute."""
        return self._group

    def value(self, bits: Vector) -> Vector:
        return bits

    plain = value

    def register(self, number: int) -> Vector:
        values: Vector = self._rows[number][self._sel]
        return values

    def put(self, number: int, x: Vector, mask: Flag | None) -> None:
        target, sel = self._rows[number], self._sel
        target[sel] = x if mask is None else np.where(mask, x, target[sel])
        if number < 32:
            self._group.wrote_a = mask
        elif number < alu.ACCUMULATORS:
            self._group.wrote_b = mask

    def move(self, x: Vector) -> Vector:
        return x.copy()  # the register may change before the result is written

    def compute(self, op: Op, a: Vector, b: Vector | None) -> Vector:
        assert op.sem is not None
        result: Vector = SHORTCUTS.get(op.sem, op.sem)(_LANES, a, _ZERO if b is None else b)
        return result

    def shuffle(self, bits: Vector, lanes: Index) -> Vector:
        return bits[..., lanes]

    def shuffle_mask(self, mask: Flag, lanes: Index) -> Flag:
        return mask[..., lanes]

    def latch(self, which: int, x: Vector) -> None:
        self._latches[which][self._sel] = x[..., 12:]

    def latched(self, which: int) -> Vector:
        return np.tile(self._latches[which][self._sel], 4)

    def flag(self, name: str) -> Flag:
        flag: Flag = getattr(self._bank, _NAMES[name])[self._sel]
        return np.array(flag)

    def set_flags(self, z: Flag, n: Flag, c: Flag, mask: Flag | None) -> None:
        bank, sel = self._bank, self._sel
        for flag, new in ((bank.z, z), (bank.neg, n), (bank.c, c)):
            flag[sel] = new if mask is None else np.where(mask, new, flag[sel])

    def input(self, file: File, address: int) -> Vector:
        read = _INPUTS.get((file, address))
        if read is not None:
            return read(self._units, self._group)
        return self._units.qpu_number(self._group) if file is File.B else self._units.element_number(self._group)

    def output(self, dest: Dest, bits: Vector, mask: Flag | None) -> None:
        g = self._group
        bits = self._whole(bits)
        if dest.place is Place.HOST:
            self._units.host_interrupt(g, bits, mask)
            return
        self._check_condition(dest, mask)
        _OUTPUTS[dest.file, dest.number](self._units, g, bits)

    def start_sfu(self, dest: Dest, result: Vector, mask: Flag | None) -> None:
        self._check_condition(dest, mask)
        self._group.start_sfu(self._whole(result), alu.SFU_LATENCY)

    def tmu_result(self, tmu: int) -> Vector:
        return self._units.tmu.take(self._group, tmu)

    def clash(self, plan: Plan, add: Vector, mul: Vector, masks: tuple[Flag | None, Flag | None]) -> None:
        """Report H13: two values for one lane of a destination. Equal values are harmless (docs/hardware/vc4.md 19)."""
        lanes = np.ones((self._group.n, LANES), np.bool_)
        for mask in masks:
            if mask is not None:
                lanes &= mask
        if plan.add.pack is None and plan.mul.pack is None:
            one, two = alu.origin(plan.add.dest.place), alu.origin(plan.mul.dest.place)
            lanes = lanes & ((add if one is None else add[..., one]) != (mul if two is None else mul[..., two]))
        if lanes.any():
            i, lane = (int(x) for x in np.argwhere(lanes)[0])
            text = "both ALUs write the same destination in the same lane; emulated as the MUL result winning"
            self._units.faults.report(Level.UNKNOWN, "H13", text, self._group, i, lane=lane)

    def every(self, mask: Flag) -> Flag:
        return np.asarray(mask.all(axis=1))

    def some(self, mask: Flag) -> Flag:
        return np.asarray(mask.any(axis=1))

    def branch(self, instr: Branch, taken: Flag | None) -> None:
        """Store the decision in the group: `branch_taken` and `branch_target`."""
        g = self._group
        taken = np.ones(g.n, np.bool_) if taken is None else taken
        target = np.full(g.n, instr.imm + (self._following if instr.rel else 0), np.int64)
        if instr.reg:
            register = self.register(instr.raddr_a)
            self._check_branch(instr, taken, register)
            target = target + register[:, 0]
        g.branch_taken, g.branch_target = taken, target & 0xFFFFFFFF

    def link(self, taken: Flag | None) -> tuple[Vector, Flag | None]:
        g = self._group
        mask = None if taken is None or taken.all() else np.repeat(taken[:, None], LANES, axis=1)
        return np.full((g.n, LANES), self._following, np.uint32), mask

    @property
    def _following(self) -> int:
        return self._group.pc + 8 * (1 + alu.BRANCH_SLOTS)

    def _whole(self, bits: Vector) -> Vector:
        """One row for each member; `bits` may be a constant with a single row."""
        return bits if bits.ndim == 2 else np.broadcast_to(bits, (self._group.n, LANES))

    def _check_condition(self, dest: Dest, mask: Flag | None) -> None:
        """Report H14: an output register is triggered in all lanes, with undefined data where the condition fails."""
        if mask is None:
            return
        fails = ~(mask[:, 0] if dest.number in _SCALAR else mask.all(axis=1))
        if fails.any():
            i = int(np.flatnonzero(fails)[0])
            text = f"a conditional write to output register {dest.number}: lanes that fail send undefined data"
            self._units.faults.report(Level.UNKNOWN, "H14", text, self._group, i)

    def _check_branch(self, instr: Branch, taken: Flag, register: Vector) -> None:
        faults, g = self._units.faults, self._group
        differs = taken & (register[:, 0] != register[:, 15])
        if differs.any():
            text = "lanes 0 and 15 of the branch register differ: sources disagree on which counts; lane 0 is used"
            faults.report(Level.UNKNOWN, "branch-lane", text, g, int(np.flatnonzero(differs)[0]))
        if instr.raddr_a & 1 and taken.any():
            text = "a taken branch through an odd register also sets the flags, uncertain from what; emulated: the link"
            faults.report(Level.WARN, "H24", text, g, int(np.flatnonzero(taken)[0]))


def _stop(t: ReferenceThread, p: Plan) -> None:
    raise AssertionError("a reserved instruction was executed, although its issue of level STOP is always a fault")


def _function(instr: Instr) -> Callable[[ReferenceThread, Plan], None]:
    if isinstance(instr, Alu):
        return alu.operate
    if isinstance(instr, LoadImm | Semaphore):
        return alu.load
    return alu.branch if isinstance(instr, Branch) else _stop


class Step:
    """An instruction with the function that executes it: `step.execute(thread, step.plan)`."""

    __slots__ = ("execute", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.execute = _function(plan.instr)

    def run(self, g: Group, units: Units) -> None:
        """Execute for all members of `g`."""
        self.execute(ReferenceThread(g, units), self.plan)
