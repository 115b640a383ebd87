"""The loop in which a program was stopped, for errors of jobs that took too long on an emulated board."""

from __future__ import annotations

from collections.abc import Sequence

from qpu.core.code import Code
from qpu.core.isa import BRANCH_SLOTS, Isa
from qpu.drivers.errors_table import ADVICE, HELP, reason_of
from qpu.errors import DecodeError, GpuResetError, GpuTimeoutError

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
    found = f"{len(instructions)} threads, the first" if len(instructions) > 1 else "the program"
    text = f"{found} was stopped at instruction {_named(program, at)}"
    loop = _loop(program, at)
    if loop is None:
        return text
    first, last = loop
    return f"{text}, in the loop of instructions {_named(program, first)} to {_named(program, last)}"


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
    word = program.code[index]
    if program.isa is Isa.VC4:
        from qpu.vc4.decode import decode as decode_vc4
        from qpu.vc4.instr import Branch as BranchVc4

        found = decode_vc4(word)
        return found.target(index) if isinstance(found, BranchVc4) else None
    from qpu.v3d.decode import decode
    from qpu.v3d.instr import Branch

    try:
        instr = decode(program.isa, word)
    except DecodeError:
        return None
    return instr.target(index) if isinstance(instr, Branch) else None
