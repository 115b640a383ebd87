"""What happens when an executing VideoCore IV program breaks a rule at a distance: H1 to H9, H17, H18, H28.

Hardware fails silently here. Strict runs fault; lenient runs record the finding and go on with the likeliest result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qpu.emu.engine.numpy_lanes import LANES
from qpu.emu.vc4.faults import Level, Reporter
from qpu.emu.vc4.prepare import Effect, Place, Plan
from qpu.emu.vc4.state import Flag, Group, Vector
from qpu.vc4.instr import Branch
from qpu.vc4.regs import MUX_A, MUX_B

__all__ = ["Patch", "broken_rule", "keep_old", "restore"]

_REGISTERS = (1 << 64) - 1


@dataclass(slots=True)
class Patch:
    """Registers that show old values to one instruction. cancel: that branch and the pending one do not happen."""

    registers: list[tuple[Vector, Vector, Vector]]  # (register of all QPUs, what it shows, what it holds)
    cancel: bool = False


def keep_old(g: Group, plan: Plan) -> None:
    """Remember what the physical registers held that `plan` is about to write (lenient runs only)."""
    g.old_a = g.old_b = None
    for half in (plan.add, plan.mul):
        if half.dest.place is Place.A:
            g.old_a = g.bank.a[half.dest.number][g.sel].copy()
        elif half.dest.place is Place.B:
            g.old_b = g.bank.b[half.dest.number][g.sel].copy()


def broken_rule(faults: Reporter, g: Group, plan: Plan, history: tuple[int, int, int]) -> Patch | None:
    """Report what `plan` breaks, given the effects of the last three instructions.

    Raises: EmuFault in strict runs. Returns: what to undo after the instruction in lenient ones.
    """
    one, two, three = history
    registers = plan.forbid1 & one & _REGISTERS
    patch = _stale_registers(faults, g, plan, registers) if registers else None
    rest = (plan.forbid1 & one & ~_REGISTERS) | (plan.forbid2 & two) | (plan.forbid3 & three)
    if rest & Effect.SFU:
        _sfu(faults, g, plan)
    if rest & Effect.R5:
        text = "r5 was written by the instruction before a rotation by r5"
        faults.report(Level.UNKNOWN, "H5", text, g)
    if rest & (Effect.ACC0 * 15):
        text = "a rotated operand was written by the instruction before; emulated as if it had arrived"
        faults.report(Level.WARN, "H6", text, g)
    if rest & Effect.UNIFORMS:
        text = "the uniforms address was set one or two instructions before; the third may read uniforms"
        faults.report(Level.UNKNOWN, "H8", text, g)
    if rest & Effect.NOSWAP:
        text = "tmu_noswap was written within the last three instructions before a TMU write"
        faults.report(Level.UNKNOWN, "H9", text, g)
    if rest & Effect.END:
        text = "a program end and its two delay slots must not read uniforms, use the VPM or touch ra14/rb14"
        faults.report(Level.UNKNOWN, "H18", text, g)
    if rest & Effect.SWITCH:
        faults.report(Level.WARN, "H28", "a thread switch within the delay slots of another", g)
    if rest & Effect.BRANCH:
        text = "a branch one or two instructions after another: neither is taken reliably; emulated as none taken"
        faults.report(Level.UNKNOWN, "H17", text, g)
        patch = patch or Patch([])
        patch.cancel = True
    return patch


def _sfu(faults: Reporter, g: Group, plan: Plan) -> None:
    if plan.load is not None:
        rule, text = "H3", "a TMU load signal one or two instructions after an SFU write"
    elif any(h.dest.place is Place.IO and 52 <= h.dest.number < 56 for h in (plan.add, plan.mul)):
        rule, text = "H4", "an SFU write one or two instructions after another"
    else:
        rule, text = "H2", "r4 is read one or two instructions after an SFU write; the third sees the result"
    faults.report(Level.UNKNOWN, rule, text, g)


def _stale_registers(faults: Reporter, g: Group, plan: Plan, registers: int) -> Patch | None:
    """H1: a physical register read by the instruction after the one that wrote it."""
    patches: list[tuple[Vector, Vector, Vector]] = []
    for shift, mux, name, wrote, old in (
        (0, MUX_A, "ra", g.wrote_a, g.old_a),
        (32, MUX_B, "rb", g.wrote_b, g.old_b),
    ):
        bits = registers >> shift & 0xFFFFFFFF
        if not bits:
            continue
        number = bits.bit_length() - 1
        lanes = _lanes_read(g, plan, mux)
        if wrote is not None:
            lanes = lanes & wrote
        if not lanes.any():
            continue
        i, lane = (int(x) for x in np.argwhere(lanes)[0])
        text = f"{name}{number} is read by the instruction after the one that wrote it; it can be read one later"
        faults.report(Level.UNKNOWN, "H1", text, g, i, lane=lane)
        if old is not None:
            register = (g.bank.b if shift else g.bank.a)[number]
            held = register[g.sel].copy()
            shown = old if wrote is None else np.where(wrote, old, held)
            register[g.sel] = shown
            patches.append((register, shown, held))
    return Patch(patches) if patches else None


def _lanes_read(g: Group, plan: Plan, mux: int) -> Flag:
    """Lanes in which the value of a read port can reach a result."""
    none = np.zeros((g.n, LANES), np.bool_)
    if isinstance(plan.instr, Branch) or plan.rotate is not None:
        return ~none
    lanes = none
    for half in (plan.add, plan.mul):
        if half.active and mux in half.sources:
            lanes = lanes | _condition(g, half.cond)
    return lanes


def _condition(g: Group, code: int) -> Flag:
    if code < 2:
        return np.ones((g.n, LANES), np.bool_)
    flag: Flag = (g.bank.z, g.bank.neg, g.bank.c)[(code >> 1) - 1][g.sel]
    return ~flag if code & 1 else flag


def restore(g: Group, patch: Patch) -> None:
    """Take the old values back after the instruction that saw them, except where it wrote itself."""
    for register, shown, held in patch.registers:
        now = register[g.sel]
        register[g.sel] = np.where(now == shown, held, now)
