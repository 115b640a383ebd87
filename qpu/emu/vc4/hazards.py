"""Run-time checks of the VideoCore IV rules about distances (`qpu.vc4.rules`), for the reference engine.

Hardware reports nothing when a program breaks one. Strict runs fault; lenient runs record the finding and continue with
the most likely result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qpu.emu.engine.numpy_lanes import LANES
from qpu.emu.vc4.faults import Level, Reporter
from qpu.emu.vc4.prepare import DISTANCES, WINDOWS, Place, Plan, file_registers, level
from qpu.emu.vc4.state import Flag, Group, Vector
from qpu.vc4.instr import Branch
from qpu.vc4.regs import MUX_A, MUX_B
from qpu.vc4.rules import RULES

__all__ = ["Patch", "broken_rule", "keep_old", "restore"]


@dataclass(slots=True)
class Patch:
    """Registers whose old values one instruction reads. cancel: the instruction is a branch; neither this branch
    nor the pending one is taken."""

    registers: list[tuple[Vector, Vector, Vector]]  # (register of all QPUs, old value that is read, new value)
    cancel: bool = False


def keep_old(g: Group, plan: Plan) -> None:
    """Save the contents of the physical registers that `plan` is about to write (lenient runs only)."""
    g.old_a = g.old_b = None
    for half in (plan.add, plan.mul):
        if half.dest.place is Place.A:
            g.old_a = g.bank.a[half.dest.number][g.sel].copy()
        elif half.dest.place is Place.B:
            g.old_b = g.bank.b[half.dest.number][g.sel].copy()


def broken_rule(faults: Reporter, g: Group, plan: Plan, history: tuple[int, int, int]) -> Patch | None:
    """Report the rules that `plan` breaks after the instructions whose effects are in `history`, newest first.

    Raises: EmuFault in strict runs. Returns: in lenient runs, what to undo after the instruction.
    """
    one, two, three = history
    broken = (plan.forbid1 & one) | (plan.forbid2 & two) | (plan.forbid3 & three)
    patch = _stale_registers(faults, g, plan, broken)
    for rule in dict.fromkeys(rule.id for rule, _ in WINDOWS.lanes(broken & DISTANCES)):
        faults.report(level(RULES[rule]), rule, RULES[rule].summary + _EMULATED.get(rule, ""), g)
        if rule == "H17":
            patch = patch or Patch([])
            patch.cancel = True
    return patch


# How lenient runs continue, where that is not obvious: added to the message.
_EMULATED = {
    "H2": "; emulated as the old value",
    "H6": "; emulated as if the new value had arrived",
    "H17": "; emulated as neither taken",
}


def _stale_registers(faults: Reporter, g: Group, plan: Plan, broken: int) -> Patch | None:
    """Report H1: a physical register is read by the instruction after the one that wrote it.

    An instruction at the target of a taken branch reads the new value already; that is a warning.
    """
    patches: list[tuple[Vector, Vector, Vector]] = []
    for number, over in file_registers(broken):
        in_b = number >= 32
        wrote, old = (g.wrote_b, g.old_b) if in_b else (g.wrote_a, g.old_a)
        lanes = _lanes_read(g, plan, MUX_B if in_b else MUX_A)
        if wrote is not None:
            lanes = lanes & wrote
        if not lanes.any():
            continue
        i, lane = (int(x) for x in np.argwhere(lanes)[0])
        name = f"{'rb' if in_b else 'ra'}{number % 32}"
        text = f"{name} is read by the instruction after the one that wrote it; it can be read one instruction later"
        if over:
            text = (
                f"{name} is read by the target of a branch whose last delay slot writes it; emulated as the new value"
            )
        faults.report(Level.WARN if over else level(RULES["H1"]), "H1", text, g, i, lane=lane)
        if old is not None and not over:
            register = g.bank.rows[number]
            held = register[g.sel].copy()
            shown = old if wrote is None else np.where(wrote, old, held)
            register[g.sel] = shown
            patches.append((register, shown, held))
    return Patch(patches) if patches else None


def _lanes_read(g: Group, plan: Plan, mux: int) -> Flag:
    """The lanes in which the value of a read port can reach a result."""
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
    """Restore the new values after the instruction that read the old ones, except where it wrote the register."""
    for register, shown, held in patch.registers:
        now = register[g.sel]
        register[g.sel] = np.where(now == shown, held, now)
