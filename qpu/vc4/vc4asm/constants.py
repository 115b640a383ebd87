"""Table of the constants that an operation can compute from one small immediate, for ``mov d, constant``.

``mov`` of a constant has no encoding of its own. It becomes an operation whose two operands are the same small
immediate s, such that op(s, s) is the value: ``or`` for the 48 immediates themselves, ``add`` for twice an immediate,
``shl`` for s << (s & 31) and so on; where the destination packs, the same followed by a pack. The table is computed
from the semantics of the operations.

Order of preference on an ALU: the plain move; then operations in the order of `_RANK`, with integer operations on float
immediates last; then the smaller immediate.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from qpu.core.scalar_lanes import ScalarLanes, float_bits, float_of
from qpu.vc4.ops import ADD_OPS, MUL_OPS
from qpu.vc4.regs import small_imm_value

__all__ = ["Candidate", "candidates", "colour_byte", "fold", "pack_constant"]

ADD = {op.name: code for code, op in enumerate(ADD_OPS) if op is not None}
MUL = {op.name: code for code, op in enumerate(MUL_OPS) if op is not None}


class Candidate(NamedTuple):
    """op(s, s) with `code` for s; pm and pack as in the instruction word."""

    op: int
    code: int
    pm: int
    pack: int


_LANES = ScalarLanes()


def _result(op: int, x: int, *, mul: bool) -> int | None:
    """op(x, x) by the semantics of the operation's row; None for reserved opcodes."""
    row = MUL_OPS[op] if mul else ADD_OPS[op]
    return None if row is None or row.sem is None else int(row.sem(_LANES, x, x))


# Operations to try, best first; and those that rank the same with a float immediate.
_RANK = {
    False: tuple(ADD[name] for name in "or add ftoi itof fadd fsub clz not shr ror shl".split()),
    True: tuple(MUL[name] for name in "v8min v8adds mul24 v8muld fmul".split()),
}
_ON_FLOATS_TOO = {
    False: frozenset(ADD[name] for name in ("or", "ftoi", "fadd", "fsub")),
    True: frozenset(MUL[name] for name in ("v8min", "fmul")),
}


def colour_byte(x: int) -> int:
    """A MUL result as a colour: 0.0..1.0 to 0..255. Rounding of ties: assumed."""
    if not x >> 23 & 255 or x >> 31:
        return 0
    return 255 if x >> 23 & 255 == 255 else min(int(float_of(x) * 255 + 0.5), 255)


def _packs(mul: bool) -> tuple[tuple[int, int, Callable[[int], int]], ...]:
    """Packs that write all 32 bits, as (pm, code, meaning)."""
    everywhere = (0, 3, lambda x: (x & 255) * 0x01010101)
    if mul:
        # Code 11, not the guide's 3: see `qpu.vc4.vc4asm.names`.
        return (everywhere, (1, 11, lambda x: colour_byte(x) * 0x01010101))
    return (everywhere,)


@cache
def _table(mul: bool) -> dict[int, tuple[Candidate, ...]]:
    rank, floats = _RANK[mul], _ON_FLOATS_TOO[mul]
    found: dict[int, list[tuple[tuple[int, ...], Candidate]]] = {}

    def note(value: int, stage: int, op: int, code: int, pm: int, pack: int) -> None:
        unnatural = code >= 32 and op not in floats
        order = rank.index(op)
        key = (stage, order != 0, unnatural, *((code, order) if mul else (order, code)))
        found.setdefault(value, []).append((key, Candidate(op, code, pm, pack)))

    for op in rank:
        for code in range(48):
            value = _result(op, small_imm_value(code), mul=mul)
            assert value is not None  # none of them is reserved
            note(value, 0, op, code, 0, 0)
            for stage, (pm, pack, g) in enumerate(_packs(mul), 1):
                note(g(value), stage, op, code, pm, pack)
            if op == ADD["add"] and not mul:
                exact = 2 * signed(small_imm_value(code))
                if not -(1 << 31) <= exact < 1 << 31:
                    note(0x7FFFFFFF if exact > 0 else 0x80000000, 2, op, code, 0, 8)
    return {value: tuple(c for _, c in sorted(rows)) for value, rows in found.items()}


def candidates(value: int, *, mul: bool) -> tuple[Candidate, ...]:
    """Ways to make the 32-bit `value` on one ALU, best first. Packing ones need a destination that can pack."""
    return _table(mul).get(value, ())


def _doubled(x: int) -> int:
    return (x & 0x80000000) | 0x7F800000 if x >> 23 & 255 == 255 else float_bits(2 * float_of(x))


# The reference assembler folds these operations differently: it keeps denormals, and fsub adds.
_FOLDED: dict[int, Callable[[int], int]] = {
    ADD["fadd"]: _doubled,
    ADD["fsub"]: _doubled,
    ADD["fmin"]: lambda x: x,
    ADD["fmax"]: lambda x: x,
    ADD["fminabs"]: lambda x: x & 0x7FFFFFFF,
    ADD["fmaxabs"]: lambda x: x & 0x7FFFFFFF,
}


def fold(op: int, code: int, *, mul: bool) -> int | None:
    """op(s, s) for the small immediate with that code; None when the result is not known."""
    x = small_imm_value(code)
    return _FOLDED[op](x) if not mul and op in _FOLDED else _result(op, x, mul=mul)


def signed(x: int) -> int:
    """A 32-bit pattern as a signed integer."""
    return x - (1 << 32) if x >> 31 else x


def pack_constant(value: int, pm: int, pack: int) -> int | None:
    """`value` after a pack that writes all 32 bits; None for packs that keep part of the destination."""
    if pack == 0:
        return value
    if pm:
        return colour_byte(value) * 0x01010101 if pack in (3, 11) else None
    if pack == 3:
        return (value & 255) * 0x01010101
    if pack == 11:
        return min(max(signed(value), 0), 255) * 0x01010101
    return None
