"""Placement for the VideoCore IV builder: do contributions share one instruction, and if not, what do they collide on.

The builder's fast path ors contributions and tests for trouble; what it cannot decide comes here. File-free reads
(uniform, varying, VPM, mutex) may move from port A to port B, and a rotation may serve the constant it implies.
"""

from __future__ import annotations

from qpu.vc4 import regs
from qpu.vc4.asm_operands import (
    BASE,
    IMM,
    MASK64,
    PM0,
    PM1,
    RADDR_A,
    RADDR_B,
    ROTATES,
    SIGNAL,
    UNPACK_FIELD,
    USED_A,
    USED_B,
    USED_R4,
    WS0,
    WS1,
)
from qpu.vc4.regs import File

__all__ = ["AGREE", "EXCLUDED", "place"]

AGREE = tuple(
    (RADDR_A | UNPACK_FIELD if used & 1 else 0) | (RADDR_B | IMM if used & 2 else 0) | (UNPACK_FIELD if used & 4 else 0)
    for used in range(8)
)
"""By the bits 66:64 that two contributions share: where they must agree for the fast path."""

EXCLUDED = tuple(bool(flags & flags >> 1 & 0b010101) for flags in range(64))
"""By the bits 75:70 of a union: two of a pair that excludes itself are set."""


def _raddr_a(d: int) -> int:
    return (d ^ BASE) >> 18 & 63


def _raddr_b(d: int) -> int:
    return (d ^ BASE) >> 12 & 63


def _name_a(d: int) -> str:
    name = regs.read_name(File.A, _raddr_a(d))
    code = d >> 57 & 7 if d & PM0 else 0
    return f"{name} unpacked" if code else name


def _name_b(d: int) -> str:
    code = _raddr_b(d)
    if d & ROTATES:
        return "the rotation by r5" if code == 48 else f"the rotation by {code - 48}"
    if d & IMM:
        return f"the small immediate {regs.small_imm_text(code)}"
    return regs.read_name(File.B, code)


def _move_to_b(d: int) -> int | None:
    """The contribution with its file-free read through port B; None when that cannot be."""
    if not d & USED_A or d & USED_B or _raddr_a(d) not in regs.FILE_FREE_READS:
        return None
    if d & PM0 and d & UNPACK_FIELD:
        return None
    for shift in (9, 6, 3, 0):
        if d >> shift & 7 == regs.MUX_A:
            d |= regs.MUX_B << shift
    addr = _raddr_a(d)
    return (d & ~(RADDR_A | USED_A)) | (addr ^ regs.NOP) << 12 | USED_B


def _problems(x: int, y: int) -> tuple[int, list[tuple[str, str]]]:
    """The union of two contributions, and what speaks against it as (rule, message)."""
    found: list[tuple[str, str]] = []
    if x & y & USED_A:
        if _raddr_a(x) != _raddr_a(y):
            found.append(("port-a", f"{_name_a(x)} and {_name_a(y)} both need the one read port of register file A"))
        elif (x >> 57 & 7 if x & PM0 else 0) != (y >> 57 & 7 if y & PM0 else 0):
            name = regs.read_name(File.A, _raddr_a(x))
            found.append(("unpack", f"{name} is wanted with two unpack modes; one mode serves the whole instruction"))
    if x & y & USED_R4 and (x >> 57 & 7 if x & PM1 else 0) != (y >> 57 & 7 if y & PM1 else 0):
        found.append(("unpack", "r4 is wanted with two unpack modes; one mode serves the whole instruction"))
    if x & y & USED_B and (_raddr_b(x) != _raddr_b(y) or (x ^ y) & IMM):
        if x & y & IMM and (x | y) & ROTATES and not x & y & ROTATES and _same_constant(x, y):
            if y & ROTATES:
                x = x & ~RADDR_B | y & RADDR_B
            else:
                y = y & ~RADDR_B | x & RADDR_B
        elif (x | y) & IMM:
            text = "is in the place of" if not x & y & IMM else "and"
            rule = "small-imm" if x & y & IMM else "port-b"
            first, second = (y, x) if x & IMM and not y & IMM else (x, y)
            if x & y & IMM:
                found.append((rule, f"{_name_b(x)} {text} {_name_b(y)} both need the one small-immediate field"))
            else:
                found.append(
                    (rule, f"{_name_b(second)} takes the read port of register file B, which {_name_b(first)} needs")
                )
        else:
            found.append(("port-b", f"{_name_b(x)} and {_name_b(y)} both need the one read port of register file B"))
    z = x | y
    if z & WS0 and z & WS1:
        found.append(("write-swap", "both results go to the same register file; one instruction writes each file once"))
    if z & PM0 and z & PM1:
        found.append(("pm", "register file A packing or unpacking excludes r4 unpacking and MUL packing"))
    if z & IMM and z & SIGNAL:
        found.append(("signal", "a small immediate or rotation takes the signal field, so no signal fits"))
    return z, found


def _same_constant(x: int, y: int) -> bool:
    return regs.small_imm_value(_raddr_b(x)) == regs.small_imm_value(_raddr_b(y))


def place(x: int, y: int) -> tuple[int, list[tuple[str, str]]]:
    """The union of two contributions to one instruction, or what they collide on as (rule, message) pairs."""
    union, problems = _problems(x, y)
    if not problems:
        return union, problems
    for u in (x, _move_to_b(x)):
        for w in (y, _move_to_b(y)):
            if u is not None and w is not None:
                z, found = _problems(u, w)
                if not found:
                    return z, found
    return union, problems


def word(d: int) -> int:
    """The instruction word of a complete contribution."""
    return (d ^ BASE) & MASK64
