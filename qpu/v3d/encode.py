"""Instruction words of V3D 4.2 and 7.1: `encode`, `decode`, and `combine` for scheduling.

Source of every layout and table here: Mesa's QPU encoder (`Basis.DRIVER`); the link bit of branches was found by the
py-videocore6 and py-videocore7 device tests (`Basis.MEASURED`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Final, NoReturn

from qpu.core.bits import Layout
from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op
from qpu.errors import AsmError, DecodeError, Diagnostic
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Sig, Src, SrcKind
from qpu.v3d.ops import code_of, table, variants

__all__ = [
    "ALU_42",
    "ALU_71",
    "BDI",
    "BRANCH",
    "BRANCH_CONDS",
    "CONDS",
    "IMM_SIGS",
    "MSFIGN",
    "NOP_WORD",
    "PUSHES",
    "SIGNALS",
    "SIG_CODE",
    "UPDATES",
    "WRITING_SIGS",
    "combine",
    "cond_field",
    "decode",
    "encode",
    "place_ports",
]

ALU_42: Final = Layout(
    "op_mul:6 sig:5 cond:7 mm:1 ma:1 waddr_m:6 waddr_a:6 op_add:8 mul_b:3 mul_a:3 add_b:3 add_a:3 raddr_a:6 raddr_b:6"
)
ALU_71: Final = Layout(
    "op_mul:6 sig:5 cond:7 mm:1 ma:1 waddr_m:6 waddr_a:6 op_add:8 raddr_c:6 raddr_d:6 raddr_a:6 raddr_b:6"
)
BRANCH: Final = Layout(
    "op_mul:6 kind:2 addr_lo:21 cond:3 addr_hi:8 link:1 msfign:2 zero1:3 bdu:3 ub:1 bdi:2 raddr_a:6 zero0:6"
)

NOP_WORD: Final[Mapping[Isa, int]] = MappingProxyType({Isa.V3D42: 0x3C003186BB800000, Isa.V3D71: 0x38003186BB03F000})

# -- signals ----------------------------------------------------------------------------------------------------------

_T, _LU, _LT, _LV, _LR = Sig.THRSW, Sig.LDUNIF, Sig.LDTMU, Sig.LDVARY, Sig.LDUNIFRF
_WT, _IB = Sig.WRTMUC, Sig.IMM_B
_COMMON: tuple[Sig | None, ...] = (
    Sig.NONE, _T, _LU, _T | _LU, _LT, _T | _LT, _LT | _LU, _T | _LT | _LU,
    _LV, _T | _LV, _LV | _LU, _T | _LV | _LU, _LR, _T | _LR,
)  # fmt: skip
SIGNALS: Final[Mapping[Isa, tuple[Sig | None, ...]]] = MappingProxyType(
    {
        Isa.V3D42: (
            *_COMMON, _IB | _LV, _IB, Sig.LDTLB, Sig.LDTLBU, _WT, _T | _WT, _LV | _WT, _T | _LV | _WT,
            Sig.UCB, Sig.ROT, Sig.LDUNIFA, Sig.LDUNIFARF, None, None, None, None, None, _IB | _LT,
        ),
        Isa.V3D71: (
            *_COMMON, Sig.IMM_A, _IB, Sig.LDTLB, Sig.LDTLBU, _WT, _T | _WT, _LV | _WT, _T | _LV | _WT,
            Sig.UCB, None, Sig.LDUNIFA, Sig.LDUNIFARF, _LT | _WT, _T | _LT | _WT, None, None, Sig.IMM_C, Sig.IMM_D,
        ),
    }
)  # fmt: skip
"""Signal sets by number; None is reserved. 26 and 27 of 7.1 are in newer tables only."""

SIG_CODE: Final[Mapping[Isa, Mapping[Sig, int]]] = MappingProxyType(
    {isa: MappingProxyType({s: i for i, s in enumerate(row) if s is not None}) for isa, row in SIGNALS.items()}
)
# Signals that write an address of their own; they take the condition field.
WRITING_SIGS: Final = Sig.LDTMU | Sig.LDVARY | Sig.LDTLB | Sig.LDTLBU | Sig.LDUNIFRF | Sig.LDUNIFARF
_WRITING: Final = int(WRITING_SIGS)
IMM_SIGS: Final = (Sig.IMM_A, Sig.IMM_B, Sig.IMM_C, Sig.IMM_D)
_IMM_BITS: Final = tuple(int(sig) for sig in IMM_SIGS)
_IMM_A, _IMM_B = _IMM_BITS[:2]
_IMM_AB: Final = _IMM_A | _IMM_B
# Enum members are slow to reach through their class.
_V3D42, _ADD, _MUL = Isa.V3D42, Unit.ADD, Unit.MUL
_RF, _ACC, _IMM_KIND = SrcKind.RF, SrcKind.ACC, SrcKind.IMM
_IMM_MASK: Final = int(Sig.IMM_A | Sig.IMM_B | Sig.IMM_C | Sig.IMM_D)

# -- conditions -------------------------------------------------------------------------------------------------------

CONDS: Final = ("ifa", "ifb", "ifna", "ifnb")
PUSHES: Final = ("", "pushz", "pushn", "pushc")
UPDATES: Final = ("andz", "andnz", "nornz", "norz", "andn", "andnn", "nornn", "norn", "andc", "andnc", "nornc", "norc")
BRANCH_CONDS: Final[Mapping[str, int]] = MappingProxyType(
    {"": 0, "a0": 2, "na0": 3, "alla": 4, "anyna": 5, "anya": 6, "allna": 7}
)
_BRANCH_COND_NAMES: Final = ("", "", "a0", "na0", "alla", "anyna", "anya", "allna")
MSFIGN: Final = ("", "p", "q")
BDI: Final = ("abs", "rel", "lri", "rf")

# (add cond, add push, add update, mul cond, mul push, mul update)
CondKey = tuple[str, str, str, str, str, str]


def _cond_decode(field: int) -> CondKey | None:
    if field == 0:
        return "", "", "", "", "", ""
    if field < 0b0010000:
        return ("", PUSHES[field], "", "", "", "") if field < 4 else ("", "", UPDATES[field - 4], "", "", "")
    if field < 0b0100000:
        low = field & 15
        if low == 0:
            return None
        return ("", "", "", "", PUSHES[low], "") if low < 4 else ("", "", "", "", "", UPDATES[low - 4])
    if field < 0b0110000:
        return CONDS[field >> 2 & 3], "", "", "", PUSHES[field & 3], ""
    if field < 0b1000000:
        return "", PUSHES[field & 3], "", CONDS[field >> 2 & 3], "", ""
    low, mul = field & 15, CONDS[field >> 4 & 3]
    return (CONDS[low], "", "", mul, "", "") if low < 4 else ("", "", UPDATES[low - 4], mul, "", "")


_COND: Final = tuple(_cond_decode(f) for f in range(128))
_COND_CODE: Final[Mapping[CondKey, int]] = {key: f for f, key in enumerate(_COND) if key is not None}
COND_ALLOWED: Final = (
    "one flag push or update per instruction; a condition together with a push of the other half only, "
    "an add update together with a mul condition; no others"
)


def cond_field(key: CondKey) -> int | None:
    """The condition field of (add cond, push, update, mul cond, push, update), or None where it cannot be encoded."""
    return _COND_CODE.get(key)


# -- tables -----------------------------------------------------------------------------------------------------------


class Entry:
    """One row at one combination of modifiers, as the decoder finds it."""

    __slots__ = ("a", "arity", "b", "has_dst", "magic", "op", "pack", "waddr")

    def __init__(self, op: Op, a: str, b: str, pack: str, magic: int | None, waddr: int | None) -> None:
        self.op, self.a, self.b, self.pack = op, a, b, pack
        self.magic, self.waddr = magic, waddr
        self.arity = op.arity
        self.has_dst = op.operand("d") is not None


# Per opcode: by sub-opcodes (second operand field, first operand field), None where that field is an operand.
Slot = dict[tuple[int | None, int | None], list[Entry]]
EncodeKey = tuple[Op, str, str, str]  # operation, modifier of a, of b, output modifier


class _Tables:
    """Encode and decode tables of one unit of one instruction set."""

    __slots__ = ("decode", "encode", "rows")

    def __init__(self, isa: Isa, unit: Unit) -> None:
        add = unit is Unit.ADD
        v42 = isa is Isa.V3D42
        fields = ALU_42 if v42 else ALU_71
        op_field = fields["op_add" if add else "op_mul"]
        if v42:
            a_field, b_field = (fields["add_a"], fields["add_b"]) if add else (fields["mul_a"], fields["mul_b"])
        else:
            a_field, b_field = (fields["raddr_a"], fields["raddr_b"]) if add else (fields["raddr_c"], fields["raddr_d"])
        waddr_field, magic_field = fields["waddr_a" if add else "waddr_m"], fields["ma" if add else "mm"]
        self.decode: list[Slot | None] = [None] * (op_field.max + 1)
        self.encode: dict[EncodeKey, int] = {}
        # the same by identity, with what else the encoder asks: bits, sources, has a destination, writes registers only
        self.rows: dict[tuple[int, str, str, str], tuple[int, int, bool, bool]] = {}
        for op in table(isa):
            code = code_of(op, isa, unit)
            if code is None:
                continue
            arity, has_dst = op.arity, op.operand("d") is not None
            for a, b, pack, d_op, d_sub in variants(op, isa, unit):
                number = code.op + d_op
                sub_a, sub_b = code.a, code.b
                # the output modifier of a 4.2 operation without sources counts in its first field
                if v42 and op.arity == 0 and sub_a is not None:
                    sub_a += d_sub
                elif sub_b is not None:
                    sub_b += d_sub
                bits = op_field.put(number) | a_field.put(sub_a or 0) | b_field.put(sub_b or 0)
                bits |= waddr_field.put(code.waddr or 0) | magic_field.put(code.magic or 0)
                self.encode[op, a, b, pack] = bits
                self.rows[id(op), a, b, pack] = bits, arity, has_dst, code.magic is not None
                slot = self.decode[number]
                if slot is None:
                    slot = self.decode[number] = {}
                slot.setdefault((sub_b, sub_a), []).append(Entry(op, a, b, pack, code.magic, code.waddr))

    def find(self, number: int, sub_b: int, sub_a: int) -> list[Entry] | None:
        """Candidates for an opcode and its two operand fields."""
        slot = self.decode[number]
        if slot is None:
            return None
        return slot.get((None, None)) or slot.get((sub_b, None)) or slot.get((sub_b, sub_a))


@cache
def tables(isa: Isa, unit: Unit) -> _Tables:
    """Built on first use, then shared; never changed."""
    return _Tables(isa, unit)


class _Pair:
    """The tables of both units of one instruction set, found without hashing."""

    __slots__ = ("add", "isa", "mul", "sig_bits", "signals")

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self.add, self.mul = tables(isa, Unit.ADD), tables(isa, Unit.MUL)
        self.sig_bits = {int(sig): n << 53 for sig, n in SIG_CODE[isa].items()}
        # by number: the set, as an integer, and whether it writes an address
        self.signals = [None if sig is None else (sig, int(sig), bool(sig & WRITING_SIGS)) for sig in SIGNALS[isa]]


@cache
def _pair_42() -> _Pair:
    return _Pair(Isa.V3D42)


@cache
def _pair_71() -> _Pair:
    return _Pair(Isa.V3D71)


# -- operand order ----------------------------------------------------------------------------------------------------

_F32_CODE: Final = {"abs": 0, "": 1, "l": 2, "h": 3}


def _order_key_42(src: Src, mux: int) -> int:
    return _F32_CODE[src.mod] * 8 + mux


def _order_key_71(src: Src) -> int:
    return (256 if src.kind is _IMM_KIND else 0) + _F32_CODE[src.mod] * 64 + src.n


# -- encode -----------------------------------------------------------------------------------------------------------


def _fail(rule: str, message: str, allowed: str | None = None, help: str | None = None) -> NoReturn:
    raise AsmError.of(Diagnostic(rule, message, allowed=allowed, help=help))


def _dst(dst: Dst, shift: int, magic_bit: int) -> int:
    if not 0 <= dst.n < 64:
        _fail("register", f"destination {dst.n} does not exist", "0..63")
    return dst.n << shift | dst.magic << magic_bit


def encode(instr: Instr) -> int:
    """The 64-bit word of an instruction. Operand order is adapted where it selects the operation.

    Raises: AsmError when the instruction has no encoding; nothing is masked to fit.
    """
    if isinstance(instr, Branch):
        return _encode_branch(instr)
    add, mul, sig = instr.add, instr.mul, int(instr.sig)
    v42 = instr.isa is _V3D42
    pair = _pair_42() if v42 else _pair_71()
    word = pair.sig_bits.get(sig)
    if word is None:
        names = sig_names(instr.sig)
        _fail("signal", f"{pair.isa.label} has no signal for {names}", "the combinations of the signal table")
    if sig & _WRITING:
        if instr.sig_dst is None:
            _fail("signal-destination", f"signal {sig_names(instr.sig)} needs a destination")
        if add.cond or add.push or add.update or mul.cond or mul.push or mul.update:
            _fail(
                "condition-field",
                f"signal {sig_names(instr.sig)} writes a register, so the instruction cannot have conditions or flags",
                help="put the signal or the condition into another instruction",
            )
        word |= _dst(instr.sig_dst, 46, 52)
    else:
        if instr.sig_dst is not None:
            _fail("signal-destination", f"signal {sig_names(instr.sig) or '(none)'} takes no destination")
        field = _COND_CODE.get((add.cond, add.push, add.update, mul.cond, mul.push, mul.update))
        if field is None:
            _fail("condition", "these conditions, pushes and updates cannot be combined", COND_ALLOWED)
        word |= field << 46
    if v42:
        return word | _encode_42(pair, instr, sig)
    return _encode_71(pair, instr, sig, word)


def _half_bits(pair: _Pair, unit: Unit, half: AluHalf) -> int:
    op, dst = half.op, half.dst
    src_a, src_b = half.a, half.b
    add = unit is _ADD
    found = (pair.add if add else pair.mul).rows.get(
        (id(op), src_a.mod if src_a is not None else "", src_b.mod if src_b is not None else "", half.pack)
    )
    if found is None:
        explain_missing(pair.isa, unit, half)
    bits, arity, has_dst, register_only = found
    if arity != (src_a is not None) + (src_b is not None) or (src_b is not None and src_a is None):
        _fail("operands", f"{op.name} has {arity} source operand(s)")
    if dst is None:
        if has_dst:
            _fail("operands", f"{op.name} needs a destination")
        return bits
    if not has_dst:
        _fail("operands", f"{op.name} has no destination")
    if register_only and dst.magic:
        _fail("register", f"{op.name} writes registers only", "rf0..rf63")
    return bits | (_dst(dst, 32, 44) if add else _dst(dst, 38, 45))


def explain_missing(isa: Isa, unit: Unit, half: AluHalf) -> NoReturn:
    """Raise the error that says why the operation with these modifiers has no code."""
    op = half.op
    if not variants(op, isa, unit):
        others = sorted(u.value for u in op.units_on(isa))
        help_ = f"{op.name} is issued by the {' and '.join(others)} ALU" if others else f"{isa.label} has no {op.name}"
        _fail("operation", f"{op.name} is no operation of the {unit.value} ALU of {isa.label}", help=help_)
    found = variants(op, isa, unit)
    for role, index, name in (("a", 0, half.a and half.a.mod), ("b", 1, half.b and half.b.mod), ("d", 2, half.pack)):
        if name and not any(v[index] == name for v in found):
            allowed = ", ".join(f".{n}" for n in dict.fromkeys(str(v[index]) for v in found) if n)
            what = "output" if role == "d" else f"operand {role}"
            _fail("modifier", f"{op.name} has no modifier .{name} for its {what}", allowed or "no modifier")
    _fail("modifier", f"{op.name} cannot combine these modifiers")


def _swap_needed(pair: _Pair, half: AluHalf, key_a: int, key_b: int) -> bool:
    """Whether the operands must change places for the word to mean the operation."""
    swapped = half.op.order == "swapped"
    if (key_a > key_b) == swapped:
        return False
    if key_a == key_b:
        _same_operands(half.op)
    return True


def _ordered(pair: _Pair, half: AluHalf) -> tuple[Src, Src]:
    """The operands of an operation that operand order selects."""
    a, b = half.a, half.b
    if a is None or b is None:
        _fail("operands", f"{half.op.name} has 2 source operand(s)")
    if a.mod not in _F32_CODE or b.mod not in _F32_CODE:
        explain_missing(pair.isa, Unit.ADD, half)
    return a, b


def _encode_71(pair: _Pair, instr: Alu, sig: int, word: int) -> int:
    add, mul = instr.add, instr.mul
    if add.op.order is not None:
        a, b = _ordered(pair, add)
        if _swap_needed(pair, add, _order_key_71(a), _order_key_71(b)):
            add = replace(add, a=b, b=a)
            if sig & _IMM_AB in (_IMM_A, _IMM_B):
                word ^= pair.sig_bits[sig]
                sig ^= _IMM_AB
                word |= pair.sig_bits[sig]
    word |= _half_bits(pair, _ADD, add) | _half_bits(pair, _MUL, mul)
    if add.a is None:
        word |= _raddr(instr.raddr_a) << 6
    else:
        word |= _operand_71(add.a, sig, 0, 6)
        if add.b is not None:
            word |= _operand_71(add.b, sig, 1, 0)
    if mul.a is None:
        word |= _raddr(instr.raddr_b) << 18
    else:
        word |= _operand_71(mul.a, sig, 2, 18)
        if mul.b is not None:
            word |= _operand_71(mul.b, sig, 3, 12)
    return word


def _operand_71(src: Src, sig: int, slot: int, shift: int) -> int:
    kind, n = src.kind, src.n
    if kind is _ACC:
        _fail("register", f"r{n} is an accumulator of V3D 4.2", "rf0..rf63", "V3D 7.1 has registers only")
    if not 0 <= n < 64:
        _fail("register", f"operand {n} does not exist", "0..63")
    if (kind is _IMM_KIND) != bool(sig & _IMM_BITS[slot]):
        _fail("small-imm", f"the small immediate and signal small_imm_{'abcd'[slot]} disagree")
    return n << shift


def _same_operands(op: Op) -> NoReturn:
    plain = {"fmax": "fmin", "faddnf": "fadd"}[op.name]
    _fail(
        "operand-order",
        f"{op.name} of two identical operands has no encoding: the order of the operands tells it from {plain}",
        help="use mov" if op.name == "fmax" else f"use {plain}",
    )


def _raddr(n: int) -> int:
    if not 0 <= n < 64:
        _fail("register", f"read address {n} does not exist", "0..63")
    return n


def _encode_42(pair: _Pair, instr: Alu, sig: int) -> int:
    add, mul = instr.add, instr.mul
    ports = _raddr(instr.raddr_a), _raddr(instr.raddr_b)
    imm = bool(sig & _IMM_B)
    mux_a, mux_b = _mux(add.a, ports, imm), _mux(add.b, ports, imm)
    if add.op.order is not None:
        a, b = _ordered(pair, add)
        if _swap_needed(pair, add, _order_key_42(a, mux_a), _order_key_42(b, mux_b)):
            add = replace(add, a=b, b=a)
            mux_a, mux_b = mux_b, mux_a
    word = _half_bits(pair, _ADD, add) | _half_bits(pair, _MUL, mul)
    word |= mux_a << 12 | mux_b << 15 | _mux(mul.a, ports, imm) << 18 | _mux(mul.b, ports, imm) << 21
    return word | ports[0] << 6 | ports[1]


def _mux(src: Src | None, ports: tuple[int, int], imm: bool) -> int:
    if src is None:
        return 0
    if src.kind is _ACC:
        if not 0 <= src.n < 6:
            _fail("register", f"accumulator r{src.n} does not exist", "r0..r5")
        return src.n
    if src.kind is _IMM_KIND:
        if not imm:
            _fail("small-imm", "a small immediate needs the small_imm signal")
        if src.n != ports[1]:
            _fail(
                "small-imm", f"small immediate {src.n}, but the B port holds {ports[1]}", "one immediate an instruction"
            )
        return 7
    if src.n == ports[0] and not (src.port_b and src.n == ports[1] and not imm):
        return 6
    if src.n == ports[1] and not imm:
        return 7
    _fail("read-ports", f"rf{src.n} is on neither read port (rf{ports[0]}, {'immediate' if imm else f'rf{ports[1]}'})")


def _encode_branch(b: Branch) -> int:
    cond = BRANCH_CONDS.get(b.cond)
    if cond is None:
        _fail("branch-condition", f"unknown branch condition {b.cond!r}", ", ".join(c for c in BRANCH_CONDS if c))
    if b.msfign not in MSFIGN:
        _fail("branch-condition", f"unknown msfign {b.msfign!r}", "p, q or nothing")
    if b.bdi not in BDI or (b.bdu not in BDI if b.ub else b.bdu != ""):
        _fail("branch-target", f"unknown branch destination {b.bdi!r}, {b.bdu!r}", ", ".join(BDI))
    word = 2 << 56 | cond << 32 | b.link << 23 | MSFIGN.index(b.msfign) << 21 | BDI.index(b.bdi) << 12
    if b.ub:
        word |= 1 << 14 | BDI.index(b.bdu) << 15
    if b.bdi in ("abs", "rel"):
        if not 0 <= b.offset < 1 << 32 or b.offset & 7:
            _fail("branch-target", f"branch target {b.offset:#x} is no multiple of 8 in 32 bits")
        word |= (b.offset >> 3 & 0x1FFFFF) << 35 | b.offset >> 24 << 24
    elif b.offset:
        _fail("branch-target", f"a branch to {b.bdi} has no offset")
    if b.bdi == "rf" or b.bdu == "rf":
        word |= _raddr(b.raddr_a) << 6
    elif b.raddr_a:
        _fail("branch-target", "only destinations in the register file take a register")
    return word


# -- decode -----------------------------------------------------------------------------------------------------------


def sig_names(sig: Sig) -> str:
    """Names of a set of signals, for messages."""
    return " ".join(s.name.lower() for s in Sig if s & sig and s.name is not None)


_DSTS: Final = tuple(Dst(i & 63, i >= 64) for i in range(128))
_HALF_CACHE: Final = 1 << 14


def decode(isa: Isa, word: int) -> Instr:
    """The instruction of a 64-bit word. Raises: DecodeError with the word and the first field that makes no sense."""
    if not 0 <= word < 1 << 64:
        raise ValueError(f"an instruction word has 64 bits, not {word:#x}")
    if not word >> 58:
        return _decode_branch(isa, word)
    v42 = isa is _V3D42
    signal = (_pair_42() if v42 else _pair_71()).signals[word >> 53 & 31]
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
    # Halves are immutable and repeat a lot: they are kept by the bits that make them.
    if v42:
        imm = bits & _IMM_B
        add = _add_42(word & 0x103FFF03FFFF, cond, imm)
        mul = _mul_42(word & 0xFC002FC000FC0FFF, cond, imm)
        left_a, left_b = word >> 6 & 63, word & 63
    else:
        imm = bits & _IMM_MASK
        add = _add_71(word & 0x103FFF000FFF, cond, imm & _IMM_AB)
        mul = _mul_71(word & 0xFC002FC000FFF000, cond, imm & ~_IMM_AB)
        left_a = word >> 6 & 63 if add is not None and add.a is None else 0
        left_b = word >> 18 & 63 if mul is not None and mul.a is None else 0
    if add is None:
        raise DecodeError(word, "op_add", f"no operation has op_add {word >> 24 & 255} with these operand fields")
    if mul is None:
        raise DecodeError(word, "op_mul", f"no operation has op_mul {word >> 58} with these operand fields")
    return Alu(isa, add, mul, sig, sig_dst, left_a, left_b)


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
            a = Src(a.kind, a.n, e.a, a.port_b)
        if e.arity > 1:
            b = sources[1]
            if e.b:
                b = Src(b.kind, b.n, e.b, b.port_b)
    dst = _DSTS[waddr | (64 if magic and e.magic is None else 0)] if e.has_dst else None
    return AluHalf(e.op, dst, a, b, e.pack, *conds)


def _source_42(mux: int, raddr_a: int, raddr_b: int, imm: int) -> Src:
    if mux < 6:
        return Src(_ACC, mux)
    if mux == 6:
        return Src(_RF, raddr_a)
    if imm:
        return Src(_IMM_KIND, raddr_b)
    return Src(_RF, raddr_b, "", raddr_a == raddr_b)


@lru_cache(_HALF_CACHE)
def _add_42(bits: int, cond: int, imm: int) -> AluHalf | None:
    a, b = bits >> 12 & 7, bits >> 15 & 7
    number = bits >> 24 & 255
    # the modifiers of two-source float operations sit in the low opcode bits, a above b
    swapped = (number >> 2 & 3) * 8 + a > (number & 3) * 8 + b
    magic, waddr = bits >> 44 & 1, bits >> 32 & 63
    entry = _pick(_pair_42().add.find(number, b, a), waddr, magic, swapped)
    key = _COND[cond]
    if entry is None or key is None:
        return None
    sources = [_source_42(mux, bits >> 6 & 63, bits & 63, imm) for mux in (a, b)]
    return _half(entry, waddr, magic, sources, key[:3])


@lru_cache(_HALF_CACHE)
def _mul_42(bits: int, cond: int, imm: int) -> AluHalf | None:
    a, b = bits >> 18 & 7, bits >> 21 & 7
    magic, waddr = bits >> 45 & 1, bits >> 38 & 63
    entry = _pick(_pair_42().mul.find(bits >> 58, b, a), waddr, magic, False)
    key = _COND[cond]
    if entry is None or key is None:
        return None
    sources = [_source_42(mux, bits >> 6 & 63, bits & 63, imm) for mux in (a, b)]
    return _half(entry, waddr, magic, sources, key[3:])


@lru_cache(_HALF_CACHE)
def _add_71(bits: int, cond: int, imm: int) -> AluHalf | None:
    a, b = bits >> 6 & 63, bits & 63
    number = bits >> 24 & 255
    key_a = (256 if imm & _IMM_A else 0) + (number >> 2 & 3) * 64 + a
    key_b = (256 if imm & _IMM_B else 0) + (number & 3) * 64 + b
    magic, waddr = bits >> 44 & 1, bits >> 32 & 63
    entry = _pick(_pair_71().add.find(number, b, a), waddr, magic, key_a > key_b)
    key = _COND[cond]
    if entry is None or key is None:
        return None
    sources = Src(_IMM_KIND if imm & _IMM_A else _RF, a), Src(_IMM_KIND if imm & _IMM_B else _RF, b)
    return _half(entry, waddr, magic, sources, key[:3])


@lru_cache(_HALF_CACHE)
def _mul_71(bits: int, cond: int, imm: int) -> AluHalf | None:
    a, b = bits >> 18 & 63, bits >> 12 & 63
    magic, waddr = bits >> 45 & 1, bits >> 38 & 63
    entry = _pick(_pair_71().mul.find(bits >> 58, b, a), waddr, magic, False)
    key = _COND[cond]
    if entry is None or key is None:
        return None
    sources = Src(_IMM_KIND if imm & _IMM_BITS[2] else _RF, a), Src(_IMM_KIND if imm & _IMM_BITS[3] else _RF, b)
    return _half(entry, waddr, magic, sources, key[3:])


def _decode_branch(isa: Isa, word: int) -> Branch:
    if word >> 56 & 3 != 2:
        raise DecodeError(word, "op_mul", "op_mul is 0, but bits 57:56 do not say branch")
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
        _BRANCH_COND_NAMES[word >> 32 & 7],
        MSFIGN[ignore],
        bdi,
        offset,
        ub,
        bdu,
        word >> 6 & 63 if bdi == "rf" or bdu == "rf" else 0,
        bool(word >> 23 & 1),
    )


# -- placement and pairing --------------------------------------------------------------------------------------------


def place_ports(sources: Sequence[Src | None], rot_index: int | None = None) -> tuple[int, int] | Diagnostic:
    """The two read ports of 4.2 for the operands add a, add b, mul a, mul b.

    rot_index: rotation amount, which takes the B port as a small immediate does. The first distinct register goes to
    port A, the second to port B. Returns: (raddr_a, raddr_b), or why it is impossible.
    """
    registers = list(dict.fromkeys(s.n for s in sources if s is not None and s.kind is SrcKind.RF))
    imms = list(dict.fromkeys(s.n for s in sources if s is not None and s.kind is SrcKind.IMM))
    if rot_index is not None:
        imms = list(dict.fromkeys([*imms, rot_index]))
    if len(imms) > 1:
        return Diagnostic(
            "small-imm",
            f"{len(imms)} different small immediates in one instruction",
            allowed="one small immediate, which all four operands may use",
            help="load one of them as a uniform, or split the instruction",
        )
    room = 1 if imms else 2
    if len(registers) > room:
        names = ", ".join(f"rf{n}" for n in registers)
        return Diagnostic(
            "read-ports",
            f"{names} need {len(registers)} read ports" + (", and the small immediate occupies one" if imms else ""),
            allowed="two different rf registers an instruction, or one and a small immediate; r0..r5 cost no port",
            help="copy one to an accumulator first, or split the instruction",
        )
    first = registers[0] if registers else 0
    return first, imms[0] if imms else registers[1] if len(registers) > 1 else 0


def combine(
    isa: Isa, add: AluHalf | None, mul: AluHalf | None, sig: Sig = Sig.NONE, sig_dst: Dst | None = None
) -> Alu | Diagnostic:
    """One instruction of two halves (None: nop), by the encoder's own rules, or why they do not fit together.

    An operation that both ALUs have (mov, add, sub, fmov) may stand in either half. Signals for small immediates are
    added; operands need no ports assigned.
    """
    nop = table(isa)["nop"]
    idle = AluHalf(nop, Dst(6, True))
    add, mul = add or idle, mul or idle
    sources = (add.a, add.b, mul.a, mul.b)
    imms = [i for i, src in enumerate(sources) if src is not None and src.kind is SrcKind.IMM]
    sig &= ~Sig(_IMM_MASK)
    raddr_a = raddr_b = 0
    if isa is Isa.V3D42:
        if imms:
            sig |= Sig.IMM_B
        ports = place_ports(sources)
        if isinstance(ports, Diagnostic):
            return ports
        raddr_a, raddr_b = ports
    else:
        for i in imms:
            sig |= IMM_SIGS[i]
        if len(imms) > 1:
            return Diagnostic(
                "small-imm",
                f"{len(imms)} small immediates in one instruction",
                allowed="one operand of V3D 7.1 may be a small immediate",
                help="load one as a uniform, or split the instruction",
            )
    instr = Alu(isa, add, mul, sig, sig_dst, raddr_a, raddr_b)
    try:
        encode(instr)
    except AsmError as error:
        return error.diagnostics[0]
    return instr
