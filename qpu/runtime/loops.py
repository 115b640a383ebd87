"""The loop in which a program was stopped, for errors of jobs that took too long on an emulated board."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qpu.core.code import Code
from qpu.core.isa import BRANCH_SLOTS, Isa
from qpu.drivers.errors_table import ADVICE, HELP, reason_of
from qpu.errors import DecodeError, GpuResetError, GpuTimeoutError, counted
from qpu.v3d import instr as v3d
from qpu.v3d.decode import decode as decode_v3d
from qpu.v3d.effects import effects as effects_v3d
from qpu.vc4 import instr as vc4
from qpu.vc4.decode import decode as decode_vc4
from qpu.vc4.effects import effects as effects_vc4
from qpu.vc4.regs import branch_cond

__all__ = ["located", "where_stopped"]


def located(
    error: GpuTimeoutError | GpuResetError, program: Code, stopped: Sequence[int]
) -> GpuTimeoutError | GpuResetError:
    """The error with the place where an emulated board stopped the program.

    stopped: the next instruction of each thread.
    """
    if not stopped:
        return error
    reason, helps = reason_of(error)
    for key in ("etimedout-vcio", "execute-timeout"):  # rows with several causes, of which the board knows the one
        reason = reason.replace(ADVICE[key].cause, "the programs ran for over a second, the limit of the firmware")
    where = f"{reason}\n  emulated: {where_stopped(program, stopped)}"
    return type(error)(HELP.join((where, *helps)), error.errno)


def where_stopped(program: Code, instructions: Sequence[int]) -> str:
    """Where the threads were, and the innermost loop around the first of them. instructions: not empty."""
    at = min(instructions)
    found = f"{counted(len(instructions), 'thread')}, the first" if len(instructions) > 1 else "the program"
    text = f"{found} was stopped at instruction {_named(program, at)}"
    loop = _loop(program, at)
    if loop is None:
        return text
    first, last = loop
    text = f"{text}, in the loop of instructions {_named(program, first)} to {_named(program, last)}"
    return f"{text}; {_waits_for(program, first, last)}"


def _waits_for(program: Code, first: int, last: int) -> str:
    """What ends the loop of instructions `first` to the branch `last`: its condition, and where the flags come from."""
    cond = _condition(_decoded(program, last))
    if not cond:
        return "nothing ends it: its branch has no condition"
    inside = [n for n in range(first, last) if _sets_flags(program, n)]
    repeats = f"it repeats while {cond} holds"
    if inside:
        return f"{repeats}, by the flags that instruction {_named(program, inside[-1])} sets"
    return f"{repeats}, but no instruction of the loop sets the flags"


def _named(program: Code, at: int) -> str:
    loc = program.loc(at)
    return str(at) if loc is None else f"{at} ({loc}: {loc.source.strip()})"


def _loop(program: Code, at: int) -> tuple[int, int] | None:
    """First instruction and branch of the smallest loop around an instruction, the slots of the branch included."""
    best: tuple[int, int] | None = None
    for index in range(max(0, at - BRANCH_SLOTS), len(program)):
        first = _target(program, index)
        if first is not None and first <= at and first <= index and (best is None or index - first < best[1] - best[0]):
            best = first, index
    return best


def _target(program: Code, index: int) -> int | None:
    """Where a branch at `index` leads; None for other instructions and when that is not known."""
    found = _decoded(program, index)
    return found.target(index) if isinstance(found, v3d.Branch | vc4.Branch) else None


def _decoded(program: Code, index: int) -> Any:
    """The instruction at `index`; None for a word that is not one."""
    word = program.code[index]
    if program.isa is Isa.VC4:
        return decode_vc4(word)
    try:
        return decode_v3d(program.isa, word)
    except DecodeError:
        return None


def _condition(branch: v3d.Branch | vc4.Branch) -> str:
    """The condition of a branch by its name in assembly text; empty for none."""
    if isinstance(branch, v3d.Branch):
        return branch.cond
    found = branch_cond(branch.cond)
    name = f"condition {branch.cond}" if found is None else found.names[0]
    return "" if name == "always" else name


def _sets_flags(program: Code, index: int) -> bool:
    found = _decoded(program, index)
    if found is None:
        return False
    writes = (effects_vc4(program.code[index]) if program.isa is Isa.VC4 else effects_v3d(found)).writes
    return not writes.isdisjoint({"flags", "flags_a"})
