"""Parsed operations: instruction name, extensions and operands with their positions in the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qpu.errors import suggest
from qpu.vc4.instr import Branch
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.names import BRANCH_CONDS, DST_CONDS, DST_PACKS, OP_PACKS, OP_UNPACKS, SRC_UNPACKS, OpInfo
from qpu.vc4.vc4asm.values import LabelRef, Value

__all__ = ["BranchTarget", "Operand", "Operation", "count_operands", "show", "unknown_extension"]


@dataclass(slots=True)
class Operand:
    """An operand: its value, the extensions after it as (name, position), its own position."""

    value: Value
    exts: Sequence[tuple[str, int]]
    pos: int


@dataclass(slots=True)
class Operation:
    """One operation of a line: instruction name, extensions as (name, position), operands.

    placed: cached result of `qpu.vc4.vc4asm.place` on each ALU, where that does not depend on the rest of the line.
    """

    info: OpInfo
    exts: Sequence[tuple[str, int]]
    operands: Sequence[Operand]
    pos: int
    placed: list[Any] | None = field(default=None, init=False)


@dataclass(frozen=True, slots=True)
class BranchTarget:
    """An unresolved branch: the address of a label is to be added to its immediate."""

    label: LabelRef
    branch: Branch


def count_operands(op: Operation, low: int, high: int) -> None:
    """Raise a fault unless the number of operands is `low` to `high`."""
    n = len(op.operands)
    if not low <= n <= high:
        need = str(low) if low == high else f"{low} to {high}"
        where = op.operands[high].pos if n > high else op.pos
        raise Fault("operand-count", f"{op.info.name} takes {need} operands, not {n}", where,
                    help="separate operands by commas")  # fmt: skip


def show(value: Value) -> str:
    """A number for messages; large ones also in hexadecimal."""
    if isinstance(value, int):
        return str(value) if -65536 < value < 65536 else f"{value} (0x{value & 0xFFFFFFFF:x})"
    return str(value)


def unknown_extension(name: str, pos: int, what: str) -> Fault:
    """The fault of an extension that does not exist, or that cannot follow `what`."""
    everything = [*DST_CONDS, *DST_PACKS, *SRC_UNPACKS, *BRANCH_CONDS, *OP_PACKS, *OP_UNPACKS, "setf"]
    if name in everything:
        return Fault("extension-place", f".{name} cannot follow {what}", pos)
    return Fault("extension", f"unknown extension .{name}", pos, help=suggest(name, everything, ".{}"))
