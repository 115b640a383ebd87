"""The decoder of V3D 4.2 and 7.1, from words to instructions. Layouts and code tables are in `codes.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Final

from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op
from qpu.errors import DecodeError, UsageError
from qpu.v3d.codes import (
    ALU_42,
    ALU_71,
    BDI,
    BRANCH_COND_NAMES,
    COND_KEYS,
    IMM_BITS,
    IMM_MASK,
    MSFIGN,
    SIGNALS,
    WRITING_SIGS,
    sub_codes,
)
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Sig, Src, SrcKind
from qpu.v3d.ops import code_of, table

__all__ = ["decode", "shape"]

_IMM_B: Final = IMM_BITS[1]
_IMM_AB: Final = IMM_BITS[0] | _IMM_B
# Enum members are slow to reach through their class.
_V3D42 = Isa.V3D42
_tuple: Final = tuple.__new__  # twice as fast as calling the class
_RF, _ACC, _IMM_KIND = SrcKind.RF, SrcKind.ACC, SrcKind.IMM

# By number: the set, the set as an integer, and whether it writes an address.
_SIGNALS_42, _SIGNALS_71 = (
    tuple(None if sig is None else (sig, int(sig), bool(sig & WRITING_SIGS)) for sig in SIGNALS[isa])
    for isa in (Isa.V3D42, Isa.V3D71)
)
_DSTS: Final = tuple(Dst(i & 63, i >= 64) for i in range(128))
_HALF_CACHE: Final = 1 << 14


# -- tables -----------------------------------------------------------------------------------------------------------


class Entry:
    """An operation with one combination of modifiers."""

    __slots__ = ("a", "arity", "b", "has_dst", "magic", "op", "pack", "waddr")

    def __init__(self, op: Op, a: str, b: str, pack: str, magic: int | None, waddr: int | None) -> None:
        self.op, self.a, self.b, self.pack = op, a, b, pack
        self.magic, self.waddr = magic, waddr
        self.arity = op.arity
        self.has_dst = op.operand("d") is not None


# Per opcode: by sub-opcodes (second operand field, first operand field), None where that field is an operand.
Slot = dict[tuple[int | None, int | None], list[Entry]]


class Tables:
    """Operations of one unit of one instruction set by opcode, for the decoder."""

    __slots__ = ("decode", "plain")

    def __init__(self, isa: Isa, unit: Unit) -> None:
        fields = ALU_42 if isa is Isa.V3D42 else ALU_71
        self.decode: list[Slot | None] = [None] * (fields["op_add" if unit is Unit.ADD else "op_mul"].max + 1)
        for op in table(isa):
            code = code_of(op, isa, unit)
            if code is None:
                continue
            for (a, b, pack, _, _), number, sub_a, sub_b in sub_codes(op, isa, unit):
                slot = self.decode[number]
                if slot is None:
                    slot = self.decode[number] = {}
                slot.setdefault((sub_b, sub_a), []).append(Entry(op, a, b, pack, code.magic, code.waddr))
        # Where the opcode alone decides, and nothing modifies the two operands
        self.plain = [_plain(slot) for slot in self.decode]

    def find(self, number: int, sub_b: int, sub_a: int) -> list[Entry] | None:
        """Candidates for an opcode and its two operand fields."""
        slot = self.decode[number]
        if slot is None:
            return None
        return slot.get((None, None)) or slot.get((sub_b, None)) or slot.get((sub_b, sub_a))


def _plain(slot: Slot | None) -> tuple[Op, str] | None:
    """Operation and output modifier of an opcode for which `_pick` and `_half` need not look further."""
    entries = (slot or {}).get((None, None), ())
    if len(entries) != 1:
        return None
    e = entries[0]
    free = e.op.order is None and e.magic is None and e.waddr is None and not (e.a or e.b)
    return (e.op, e.pack) if free and e.arity == 2 and e.has_dst else None


@cache
def tables(isa: Isa, unit: Unit) -> Tables:
    """The tables of one unit, built on first use."""
    return Tables(isa, unit)


# -- words -----------------------------------------------------------------------------------------------------------


def decode(isa: Isa, word: int) -> Instr:
    """The instruction of a 64-bit word. Raises: DecodeError with the word and its first undefined field."""
    if not 0 <= word < 1 << 64:
        raise UsageError(f"{word:#x} is not a 64-bit word", help="pass an instruction word: 0..2**64-1")
    if not word >> 58:
        return _decode_branch(isa, word)
    v42 = isa is _V3D42
    signal = (_SIGNALS_42 if v42 else _SIGNALS_71)[word >> 53 & 31]
    if signal is None:
        raise DecodeError(word, "sig", f"signal {word >> 53 & 31} is reserved on {isa.label}")
    sig, bits, writing = signal
    sig_dst = None
    cond = word >> 46 & 127
    if writing:
        sig_dst = _DSTS[cond]
        cond = 0
    elif cond == 16:
        raise DecodeError(word, "cond", "condition field 16 is invalid")
    # Programs repeat halves: they are cached by the bits that determine them.
    if v42:
        imm = bits & _IMM_B
        add = _add_42(word & 0x103FFF03FFFF, cond, imm)
        mul = _mul_42(word & 0xFC002FC000FC0FFF, cond, imm)
        left_a, left_b = word >> 6 & 63, word & 63
    else:
        imm = bits & IMM_MASK
        add = _add_71(word & 0x103FFF000FFF, cond, imm & _IMM_AB)
        mul = _mul_71(word & 0xFC002FC000FFF000, cond, imm & ~_IMM_AB)
        left_a = word >> 6 & 63 if add is not None and add.a is None else 0
        left_b = word >> 18 & 63 if mul is not None and mul.a is None else 0
    if add is None:
        raise DecodeError(word, "op_add", f"no operation has op_add {word >> 24 & 255} with these operand fields")
    if mul is None:
        raise DecodeError(word, "op_mul", f"no operation has op_mul {word >> 58} with these operand fields")
    return _tuple(Alu, (isa, add, mul, sig, sig_dst, left_a, left_b))


# Bit 2 of each six-bit field that may hold a register; signal, magic bits, and on 7.1 the opcodes say whether it does.
_BITS_2: Final = 1 << 40 | 1 << 34 | 1 << 20 | 1 << 14 | 1 << 8 | 1 << 2
_ROT: Final = int(Sig.ROT)
_HIGH_BITS: Final = _BITS_2 * 15
_BY_MAGIC: Final = (~0, ~(1 << 34), ~(1 << 40), ~(1 << 40 | 1 << 34))


@cache
def shape(isa: Isa) -> Callable[[int], int]:
    """A function that replaces rf5..rf63 by rf4 in a word.

    Hazard rules treat rf4..rf63 alike, so all words with the same result have the same facts.
    """
    if isa is _V3D42:  # two read ports; rotations compare registers
        fields = _BITS_2 & ~(1 << 20 | 1 << 14)
        marks: tuple[tuple[int, int], ...] = (_ROT, 8), (_ROT | IMM_MASK, 2)
        by_signal, add_b, mul_b = _SIGNALS_42, 0, 0
    else:
        fields, marks = _BITS_2, tuple(zip(IMM_BITS, (8, 2, 20, 14), strict=True))
        by_signal, add_b, mul_b = _SIGNALS_71, 1 << 2, 1 << 14
    signals = [fields & ~sum(1 << at for bits, at in marks if s is not None and s[1] & bits) for s in by_signal]
    adds, muls = (
        [-1 if slot is None or (None, None) in slot else ~field for slot in tables(isa, unit).decode]
        for unit, field in ((Unit.ADD, add_b), (Unit.MUL, mul_b))
    )

    def find(word: int) -> int:
        if not 0x3FFFFFFFFFFFFFF < word < 1 << 64:
            return word
        high = word & _HIGH_BITS
        high |= high >> 2
        high = (
            (high | high >> 1)
            & _BY_MAGIC[word >> 44 & 3]
            & signals[word >> 53 & 31]
            & adds[word >> 24 & 255]
            & muls[word >> 58]
        )
        return word & ~((high >> 2) * 63) | high

    return find


def _pick(entries: list[Entry] | None, waddr: int, magic: int, swapped: bool) -> Entry | None:
    if entries is not None:
        for e in entries:
            order = e.op.order
            if order is not None and (order == "swapped") != swapped:
                continue
            if (e.waddr is None or e.waddr == waddr) and (e.magic is None or e.magic == magic):
                return e
    return None


def _half(e: Entry, waddr: int, magic: int, sources: Sequence[Src], conds: Sequence[str]) -> AluHalf:
    a = b = None
    if e.arity:
        a = sources[0]
        if e.a:
            a = a._replace(mod=e.a)
        if e.arity > 1:
            b = sources[1]
            if e.b:
                b = b._replace(mod=e.b)
    dst = _DSTS[waddr | (64 if magic and e.magic is None else 0)] if e.has_dst else None
    return _tuple(AluHalf, (e.op, dst, a, b, e.pack, *conds))


# Shared sources without modifiers, by number.
_RF_SRCS: Final = tuple(Src(_RF, n) for n in range(64))
_IMM_SRCS: Final = tuple(Src(_IMM_KIND, n) for n in range(64))
_THROUGH_B: Final = tuple(Src(_RF, n, "", True) for n in range(64))
_ACC_SRCS: Final = tuple(Src(_ACC, n) for n in range(6))


def _sources_42(mux_a: int, mux_b: int, raddr_a: int, raddr_b: int, imm: int) -> tuple[Src, Src]:
    last = (_IMM_SRCS if imm else _THROUGH_B if raddr_a == raddr_b else _RF_SRCS)[raddr_b]
    by_mux = (*_ACC_SRCS, _RF_SRCS[raddr_a], last)
    return by_mux[mux_a], by_mux[mux_b]


def _decoder(isa: Isa, unit: Unit) -> Callable[[int, int, int], AluHalf | None]:
    """A cached function from the bits of a half, the condition field and the immediate signals to the half."""
    v42, add = isa is _V3D42, unit is Unit.ADD
    shift_a, shift_b = ((12, 15) if add else (18, 21)) if v42 else ((6, 0) if add else (18, 12))
    opcode, magic_bit, address = (24, 44, 32) if add else (58, 45, 38)
    mask, scale = (7, 8) if v42 else (63, 64)
    imm_a, imm_b = (0, 0) if v42 else IMM_BITS[:2] if add else IMM_BITS[2:]

    known: Tables | None = None

    @lru_cache(_HALF_CACHE)
    def half(bits: int, cond: int, imm: int) -> AluHalf | None:
        nonlocal known
        if known is None:
            known = tables(isa, unit)
        a, b, number = bits >> shift_a & mask, bits >> shift_b & mask, bits >> opcode & 255
        magic, waddr = bits >> magic_bit & 1, bits >> address & 63
        key, entry = COND_KEYS[cond], None
        plain = known.plain[number]
        if plain is None:
            swapped = False
            if add:  # modifiers of two-source float operations are in the low opcode bits, that of a above that of b
                rank_a = (256 if imm & imm_a else 0) + (number >> 2 & 3) * scale + a
                swapped = rank_a > (256 if imm & imm_b else 0) + (number & 3) * scale + b
            entry = _pick(known.find(number, b, a), waddr, magic, swapped)
        if key is None or (entry is None and plain is None):
            return None
        if v42:
            sources = _sources_42(a, b, bits >> 6 & 63, bits & 63, imm)
        else:
            sources = (_IMM_SRCS if imm & imm_a else _RF_SRCS)[a], (_IMM_SRCS if imm & imm_b else _RF_SRCS)[b]
        conds = key[:3] if add else key[3:]
        if plain is not None:
            op, pack = plain
            return _tuple(AluHalf, (op, _DSTS[waddr | magic << 6], *sources, pack, *conds))
        assert entry is not None
        return _half(entry, waddr, magic, sources, conds)

    return half


_add_42, _mul_42, _add_71, _mul_71 = (
    _decoder(isa, unit) for isa in (Isa.V3D42, Isa.V3D71) for unit in (Unit.ADD, Unit.MUL)
)


def _decode_branch(isa: Isa, word: int) -> Branch:
    if word >> 56 & 3 != 2:
        raise DecodeError(word, "op_mul", "op_mul is 0, but bits 57:56 are not 2, as in a branch")
    ignore = word >> 21 & 3
    if ignore == 3:
        raise DecodeError(word, "msfign", "msfign 3 is invalid")
    bdi, ub = BDI[word >> 12 & 3], bool(word >> 14 & 1)
    number = word >> 15 & 7
    if ub and number > 3:
        raise DecodeError(word, "bdu", f"uniform destination {number} is reserved")
    bdu = BDI[number] if ub else ""
    offset = (word >> 35 & 0x1FFFFF) << 3 | (word >> 24 & 255) << 24 if bdi in ("abs", "rel") else 0
    return Branch(
        isa,
        BRANCH_COND_NAMES[word >> 32 & 7],
        MSFIGN[ignore],
        bdi,
        offset,
        ub,
        bdu,
        word >> 6 & 63 if bdi == "rf" or bdu == "rf" else 0,
        bool(word >> 23 & 1),
    )
