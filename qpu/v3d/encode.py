"""The instruction words of V3D 4.2 and 7.1: `encode`. Layouts and tables, with their sources, are in `codes.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NoReturn

from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op
from qpu.errors import AsmError, Diagnostic
from qpu.v3d.codes import (
    BDI,
    BRANCH_CONDS,
    COND_ALLOWED,
    COND_CODE,
    IMM_BITS,
    MSFIGN,
    WRITING_SIGS,
    Pair,
    pair_42,
    pair_71,
    sig_names,
)
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Src, SrcKind
from qpu.v3d.ops import variants

__all__ = ["encode", "explain_missing"]

_WRITING: Final = int(WRITING_SIGS)
_IMM_A, _IMM_B = IMM_BITS[:2]
_IMM_AB: Final = _IMM_A | _IMM_B
# Enum members are slow to reach through their class.
_V3D42, _ADD, _MUL = Isa.V3D42, Unit.ADD, Unit.MUL
_RF, _ACC, _IMM_KIND = SrcKind.RF, SrcKind.ACC, SrcKind.IMM

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
    pair = pair_42() if v42 else pair_71()
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
        field = COND_CODE.get((add.cond, add.push, add.update, mul.cond, mul.push, mul.update))
        if field is None:
            _fail("condition", "these conditions, pushes and updates cannot be combined", COND_ALLOWED)
        word |= field << 46
    if v42:
        return word | _encode_42(pair, instr, sig)
    return _encode_71(pair, instr, sig, word)


def _half_bits(pair: Pair, unit: Unit, half: AluHalf) -> int:
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


def _swap_needed(pair: Pair, half: AluHalf, key_a: int, key_b: int) -> bool:
    """Whether the operands must change places for the word to mean the operation."""
    swapped = half.op.order == "swapped"
    if (key_a > key_b) == swapped:
        return False
    if key_a == key_b:
        _same_operands(half.op)
    return True


def _ordered(pair: Pair, half: AluHalf) -> tuple[Src, Src]:
    """The operands of an operation that operand order selects."""
    a, b = half.a, half.b
    if a is None or b is None:
        _fail("operands", f"{half.op.name} has 2 source operand(s)")
    if a.mod not in _F32_CODE or b.mod not in _F32_CODE:
        explain_missing(pair.isa, Unit.ADD, half)
    return a, b


def _encode_71(pair: Pair, instr: Alu, sig: int, word: int) -> int:
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
    if (kind is _IMM_KIND) != bool(sig & IMM_BITS[slot]):
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


def _encode_42(pair: Pair, instr: Alu, sig: int) -> int:
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
