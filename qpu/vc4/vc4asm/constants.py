"""Constants by other means: which operation turns one small immediate into the value a `mov` asks for.

``mov d, constant`` has no encoding of its own. It becomes an operation whose two operands are the same small immediate
s, such that op(s, s) is the value: ``or`` for the 48 immediates themselves, ``add`` for twice an immediate, ``shl``
for s << (s & 31) and so on, and, where the destination packs, the same followed by a pack. The table is computed here
from the meaning of the operations.

Order of preference on an ALU: the plain move; then operations in the order of `_ADD_RANK` and `_MUL_RANK`, where an
integer operation on a float immediate counts as less natural than any on an integer one; then the smaller immediate.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from qpu.vc4.regs import small_imm_value

__all__ = ["Candidate", "candidates", "colour_byte", "fold", "pack_constant"]

_M32 = 0xFFFFFFFF
FADD, FSUB, FTOI, ITOF, ADD, SHR, ROR, SHL, OR, NOT, CLZ = 1, 2, 7, 8, 12, 14, 16, 17, 21, 23, 24
FMUL, MUL24, V8MULD, V8MIN, V8ADDS = 1, 2, 3, 4, 6


class Candidate(NamedTuple):
    """op(s, s) with `code` for s; pm and pack as in the instruction word."""

    op: int
    code: int
    pm: int
    pack: int


def _signed(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x


def _to_float(x: int) -> float:
    value: float = struct.unpack("<f", struct.pack("<I", x))[0]
    return value


def _to_bits(x: float) -> int:
    try:
        bits: int = struct.unpack("<I", struct.pack("<f", x))[0]
    except OverflowError:
        return 0xFF800000 if x < 0 else 0x7F800000
    return bits


def _special(x: int) -> bool:
    return x >> 23 & 255 == 255


def _fadd(x: int) -> int:
    # A NaN operand gives an infinity of its sign (measured with VC4C); small integers are denormal and sum to zero.
    if _special(x):
        return (x & 0x80000000) | 0x7F800000
    return _to_bits(2 * _to_float(x)) if x >> 23 & 255 else 0


def _fmul(x: int) -> int:
    if not x >> 23 & 255:
        return 0
    return 0x7F800000 if _special(x) else _to_bits(_to_float(x) ** 2)


def _ftoi(x: int) -> int:
    if _special(x) or abs(_to_float(x)) >= 2.0**31:
        return 0
    return int(_to_float(x)) & _M32


def _bytes(f: Callable[[int], int]) -> Callable[[int], int]:
    return lambda x: sum(f(x >> i & 255) << i for i in (0, 8, 16, 24))


def _rotate_right(x: int) -> int:
    n = x & 31
    return (x >> n | x << (32 - n)) & _M32


# Opcode -> op(x, x). Only operations whose result is neither zero nor x are of use to the search.
_ADD: dict[int, Callable[[int], int]] = {
    OR: lambda x: x,
    ADD: lambda x: 2 * x & _M32,
    FTOI: _ftoi,
    ITOF: lambda x: _to_bits(float(_signed(x))),
    FADD: _fadd,
    FSUB: lambda x: _fadd(x) ^ 0x80000000 if _special(x) else 0,
    CLZ: lambda x: 32 - x.bit_length(),
    NOT: lambda x: ~x & _M32,
    SHR: lambda x: x >> (x & 31),
    ROR: _rotate_right,
    SHL: lambda x: x << (x & 31) & _M32,
}
_ADD_RANK = (OR, ADD, FTOI, ITOF, FADD, FSUB, CLZ, NOT, SHR, ROR, SHL)
_MUL: dict[int, Callable[[int], int]] = {
    V8MIN: lambda x: x,
    V8ADDS: _bytes(lambda b: min(2 * b, 255)),
    MUL24: lambda x: (x & 0xFFFFFF) ** 2 & _M32,
    V8MULD: _bytes(lambda b: (b * b + 127) // 255),
    FMUL: _fmul,
}
_MUL_RANK = (V8MIN, V8ADDS, MUL24, V8MULD, FMUL)
_ON_FLOATS_TOO = frozenset({OR, FTOI, FADD, FSUB})  # natural for a float immediate
_MUL_ON_FLOATS_TOO = frozenset({V8MIN, FMUL})


def colour_byte(x: int) -> int:
    """A MUL result as a colour: 0.0..1.0 to 0..255. Rounding of ties is an assumption."""
    if not x >> 23 & 255 or x >> 31:
        return 0
    if _special(x):
        return 255
    return min(int(_to_float(x) * 255 + 0.5), 255)


def _packs(mul: bool) -> tuple[tuple[int, int, Callable[[int], int]], ...]:
    """Packs that write all 32 bits, as (pm, code, meaning)."""
    everywhere = (0, 3, lambda x: (x & 255) * 0x01010101)
    if mul:
        # Code 11, not the guide's 3: see `qpu.vc4.vc4asm.names`.
        return (everywhere, (1, 11, lambda x: colour_byte(x) * 0x01010101))
    return (everywhere,)


@cache
def _table(mul: bool) -> dict[int, tuple[Candidate, ...]]:
    ops, rank, floats = (_MUL, _MUL_RANK, _MUL_ON_FLOATS_TOO) if mul else (_ADD, _ADD_RANK, _ON_FLOATS_TOO)
    found: dict[int, list[tuple[tuple[int, ...], Candidate]]] = {}

    def note(value: int, stage: int, op: int, code: int, pm: int, pack: int) -> None:
        unnatural = code >= 32 and op not in floats
        move = rank.index(op) == 0
        key = (
            (stage, not move, unnatural, code, rank.index(op))
            if mul
            else (stage, not move, unnatural, rank.index(op), code)
        )
        found.setdefault(value, []).append((key, Candidate(op, code, pm, pack)))

    for op, f in ops.items():
        for code in range(48):
            value = f(small_imm_value(code))
            note(value, 0, op, code, 0, 0)
            for stage, (pm, pack, g) in enumerate(_packs(mul), 1):
                note(g(value), stage, op, code, pm, pack)
            if op == ADD and not mul:
                exact = 2 * _signed(small_imm_value(code))
                if not -(1 << 31) <= exact < 1 << 31:
                    note(0x7FFFFFFF if exact > 0 else 0x80000000, 2, op, code, 0, 8)
    return {value: tuple(c for _, c in sorted(rows)) for value, rows in found.items()}


def candidates(value: int, *, mul: bool) -> tuple[Candidate, ...]:
    """Ways to make the 32-bit `value` on one ALU, best first. Packing ones need a destination that can pack."""
    return _table(mul).get(value, ())


# What ADD operations give for equal operands when the whole instruction can become a load immediate.
_FOLD_ADD: dict[int, Callable[[int], int]] = {
    **_ADD,
    # The reference adds denormals as they are and takes fsub for fadd here.
    FADD: lambda x: _to_bits(2 * _to_float(x)) if not _special(x) else _fadd(x),
    FSUB: lambda x: _to_bits(2 * _to_float(x)) if not _special(x) else _fadd(x),
    3: lambda x: x,
    4: lambda x: x,
    5: lambda x: x & 0x7FFFFFFF,
    6: lambda x: x & 0x7FFFFFFF,
    13: lambda x: 0,
    15: lambda x: _signed(x) >> (x & 31) & _M32,
    18: lambda x: x,
    19: lambda x: x,
    20: lambda x: x,
    22: lambda x: 0,
    30: _MUL[V8ADDS],
    31: lambda x: 0,
}
_FOLD_MUL: dict[int, Callable[[int], int]] = {**_MUL, 5: lambda x: x, 7: lambda x: 0}


def fold(op: int, code: int, *, mul: bool) -> int | None:
    """op(s, s) for the small immediate with that code; None when nothing is known about it."""
    f = (_FOLD_MUL if mul else _FOLD_ADD).get(op)
    return None if f is None else f(small_imm_value(code))


def pack_constant(value: int, pm: int, pack: int) -> int | None:
    """`value` after a pack that writes all 32 bits; None for packs that keep part of the destination."""
    if pack == 0:
        return value
    if pm:
        return colour_byte(value) * 0x01010101 if pack in (3, 11) else None
    if pack == 3:
        return (value & 255) * 0x01010101
    if pack == 11:
        return min(max(_signed(value), 0), 255) * 0x01010101
    return None
