"""Instruction sequences that the V3D kernels of packing and multiplication have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpu import v3d

if TYPE_CHECKING:
    from qpu.v3d.operands import Reg

__all__ = ["add_workgroup", "load", "only_switch", "stop"]


def load(q: v3d.Asm, *registers: Reg) -> None:
    """The next uniforms, one to each register."""
    for register in registers:
        q.nop(sig=q.ldunifrf(register))


def add_workgroup(q: v3d.Asm, x: Reg, y: Reg, t: Reg) -> None:
    """Add the workgroup's ids to x and y. -16 shifts by 16: only the low five bits count."""
    payload = q.workgroup_x  # x in the low half, y in the high half
    q.shr(t, payload, -16)
    q.add(y, y, t)
    q.shl(t, payload, -16)
    q.shr(t, t, -16)
    q.add(x, x, t)


def only_switch(q: v3d.Asm) -> None:
    """The only thread switch, marked as the last: the thread does not switch after it."""
    q.nop(sig=q.thrsw)
    stop(q)


def stop(q: v3d.Asm) -> None:
    """A thread switch with its two delay slots; after the last switch, the program end."""
    q.nop(sig=q.thrsw)
    q.nop()
    q.nop()
