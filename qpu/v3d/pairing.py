"""The pairing rules of V3D 4.2 and 7.1: read ports, small immediates, signals and flags of one instruction.

`fits` works on precomputed keys and is for schedulers. `combine` makes the instruction, or the diagnostic that says why
the parts do not fit together. `encode` refuses every instruction that breaks the rules, whoever made it.
"""

from __future__ import annotations

from typing import Final

from qpu.core.isa import Isa, Unit
from qpu.errors import AsmError, Diagnostic
from qpu.v3d.advice import mistake, signal_and_flags
from qpu.v3d.codes import COND_PAIRS, IMM_MASK, SIG_NUMBERS, SIGNALS, WRITING_SIGS, sig_names
from qpu.v3d.encode import KEYS, HalfKey, encode, half_key, same_operands
from qpu.v3d.instr import Alu, AluHalf, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import table

__all__ = ["ADD", "ADD_FLAGS", "MUL", "MUL_FLAGS", "SIGNAL", "combine", "draft", "explain", "fits", "idle"]

_WRITING: Final = int(WRITING_SIGS)
_OTHERS: Final = ~IMM_MASK  # signals that are not about small immediates
_IMM_B: Final = int(Sig.IMM_B)
_ROT: Final = int(Sig.ROT)
_V3D42, _ADD, _MUL = Isa.V3D42, Unit.ADD, Unit.MUL
_RF, _IMM = SrcKind.RF, SrcKind.IMM
_SIG_42, _SIG_71 = SIG_NUMBERS[Isa.V3D42], SIG_NUMBERS[Isa.V3D71]
_ADD_42, _MUL_42, _ADD_71, _MUL_71 = KEYS.values()
_alu: Final = tuple.__new__  # twice as fast as calling the class
_SETS: Final[dict[int, Sig]] = {int(sig): sig for row in SIGNALS.values() for sig in row if sig is not None}

# Parts of an instruction that `explain` returns, besides its operands 0..3.
SIGNAL: Final = 4
ADD_FLAGS: Final = 5
MUL_FLAGS: Final = 6
ADD: Final = 7
MUL: Final = 8


_IDLE: Final = AluHalf(table(Isa.V3D71)["nop"], Dst(6, True))  # the row is the same on both


def idle() -> AluHalf:
    """The half with the operation nop."""
    return _IDLE


def fits(add: HalfKey, mul: HalfKey, sig: int = 0, sig_dst: Dst | None = None, rot: int | None = None) -> bool:
    """Whether one instruction holds both halves (keys of `half_key`) with these signals.

    sig: signals as an integer, without those of small immediates and rotation. rot: 4.2: rotation amount of the mul
    operands, 0 for r5.
    """
    if add.v42:
        imm, room = add.imm, 2
        if imm < 0:
            imm = mul.imm
        elif mul.imm >= 0 and mul.imm != imm:
            return False
        if imm >= 0:
            sig |= _IMM_B
            room = 1
        if rot is not None:
            sig |= _ROT
            room = 1
        elif sig & _ROT:
            return False
        regs = add.regs | mul.regs
        if regs and regs.bit_count() + add.twin > room:
            return False
        if sig not in _SIG_42:
            return False
    elif sig | add.word_imm | mul.word_imm not in _SIG_71 or rot is not None:
        return False
    cond = add.cond + mul.cond
    if sig & _WRITING:
        return not cond and sig_dst is not None
    return sig_dst is None and COND_PAIRS[cond] >= 0


def combine(
    isa: Isa, add: AluHalf | None, mul: AluHalf | None, sig: int = 0, sig_dst: Dst | None = None, rot: int | None = None
) -> Alu | Diagnostic:
    """One instruction of two halves (None: nop), or why they do not fit together.

    An operation that both ALUs have (mov, add, sub, fmov) may be either half. Signals for small immediates and
    rotation are added; operands need no ports assigned. rot: 4.2: rotation amount of the mul operands, modulo 32, 0
    for r5.
    """
    try:
        instr, keys = draft(isa, add or _IDLE, mul or _IDLE, int(sig) & _OTHERS, sig_dst, rot)
        encode(instr, keys)
    except AsmError as error:
        return explain(error, isa, add or _IDLE, mul or _IDLE, sig, sig_dst, rot)[0]
    return instr


def draft(
    isa: Isa,
    add: AluHalf,
    mul: AluHalf,
    sig: int,
    sig_dst: Dst | None = None,
    rot: int | None = None,
    keys: tuple[HalfKey, HalfKey] | None = None,
) -> tuple[Alu, tuple[HalfKey, HalfKey]]:
    """The instruction of two halves, with read ports, immediate and rotation assigned, and the keys of the halves.

    sig: without small immediates. keys: those of the halves, for callers that have them. Where the parts do not fit
    together, `encode` refuses the result; `explain` says why. Raises: AsmError where a half is not valid.
    """
    if isa is not _V3D42:
        if rot is not None:
            sig |= _ROT
        add_key, mul_key = keys = keys or (_ADD_71[add], _MUL_71[mul])
        sig |= add_key.imm | mul_key.imm
        return _alu(Alu, (isa, add, mul, _SETS.get(sig, sig), sig_dst, 0, 0)), keys
    add_key, mul_key = keys = keys or (_ADD_42[add], _MUL_42[mul])
    _, _, _, _, regs, reads, imm, _, _, twin, add_decoded = add_key
    _, _, _, _, mul_regs, mul_reads, mul_imm, _, _, _, mul_decoded = mul_key
    if add_decoded or mul_decoded:
        return draft(isa, _no_port(add), _no_port(mul), sig, sig_dst, rot)
    raddr_a = raddr_b = 0
    regs |= mul_regs
    if regs:
        raddr_a = reads[0][0] if reads else mul_reads[0][0]
        raddr_b = (regs & ~(1 << raddr_a)).bit_length()
        if raddr_b:
            raddr_b -= 1
        elif twin:
            assert add.a is not None
            raddr_b = raddr_a
            add = add._replace(a=add.a._replace(port_b=True))
            keys = _ADD_42[add], mul_key
    if rot is not None:
        if regs & (regs - 1) or twin:
            raise AsmError.of(mistake("read-ports", "the rotation amount occupies read port B"))
        sig |= _ROT
        raddr_b = rot
    elif sig & _ROT:
        raise AsmError.of(mistake("rot-amount", "signal rot needs an amount"))
    if imm >= 0 or mul_imm >= 0:
        sig |= _IMM_B
        raddr_b = imm if imm >= 0 else mul_imm
    return _alu(Alu, (isa, add, mul, _SETS.get(sig, sig), sig_dst, raddr_a, raddr_b)), keys


def _no_port(half: AluHalf) -> AluHalf:
    return half._replace(a=half.a and half.a._replace(port_b=False), b=half.b and half.b._replace(port_b=False))


def explain(
    error: AsmError, isa: Isa, add: AluHalf, mul: AluHalf, sig: int, sig_dst: Dst | None, rot: int | None
) -> tuple[Diagnostic, int]:
    """Why `draft` or the encoder refused the parts, and which part is one too many.

    Returns: the diagnostic, and an operand 0..3 (add a, add b, mul a, mul b), SIGNAL, ADD_FLAGS, MUL_FLAGS, or the half
    that is not valid by itself: ADD, MUL.
    """
    for part, unit, half in ((ADD, _ADD, add), (MUL, _MUL, mul)):
        try:
            half_key(isa, unit, half)
        except AsmError as invalid:
            return invalid.diagnostics[0], part
    return _conflict(isa, add, mul, int(sig) & _OTHERS, sig_dst, rot) or (error.diagnostics[0], ADD)


def _conflict(
    isa: Isa, add: AluHalf, mul: AluHalf, sig: int, sig_dst: Dst | None, rot: int | None
) -> tuple[Diagnostic, int] | None:
    """Why two halves, each of them valid, do not fit together, and which part is one too many."""
    if rot is not None:
        sig &= ~_ROT
    sources = (add.a, add.b, mul.a, mul.b)
    found = _conflict_42(isa, add, sources, sig, rot) if isa is _V3D42 else _conflict_71(isa, sources, sig, rot)
    if found is not None:
        return found
    add_flags, mul_flags = (next((x for x in half[5:] if x), "") for half in (add, mul))
    if sig & _WRITING:
        names = sig_names(sig & _WRITING)
        if sig_dst is None:
            help = f"name the register: {names}.rf0"
            return mistake("signal-needs-one", f"signal {names} needs a destination", help=help), SIGNAL
        if add_flags or mul_flags:
            return signal_and_flags(sig & _WRITING), ADD_FLAGS if add_flags else MUL_FLAGS
    if sig_dst is not None and not sig & _WRITING:
        return mistake("signal-takes-none", f"signal {sig_names(sig) or '(none)'} takes no destination"), SIGNAL
    if fits(half_key(isa, _ADD, add), half_key(isa, _MUL, mul), sig, sig_dst, rot):
        return None
    why = f"{add_flags} in the add half and {mul_flags} in the mul half cannot be combined"
    return mistake("cond-pair", why), MUL_FLAGS


def _conflict_71(isa: Isa, sources: tuple[Src | None, ...], sig: int, rot: int | None) -> tuple[Diagnostic, int] | None:
    imms = [i for i, src in enumerate(sources) if src is not None and src.kind is _IMM]
    if len(imms) > 1:
        return mistake("one-imm-71", f"{len(imms)} small immediates in one instruction"), imms[1]
    if rot is not None or sig & _ROT:
        return mistake("rot-signal", "signal rot exists on V3D 4.2 only"), SIGNAL
    return _signal_conflict(isa, sig, bool(imms), imms)


def _conflict_42(
    isa: Isa, add: AluHalf, sources: tuple[Src | None, ...], sig: int, rot: int | None
) -> tuple[Diagnostic, int] | None:
    imm: int | None = None
    imms: list[int] = []
    held: list[int] = []
    for i, src in enumerate(sources):
        if src is None or src.kind is SrcKind.ACC:
            continue
        if src.kind is _RF:
            if src.n not in held:
                held.append(src.n)
        elif rot is not None:
            return mistake("imm-or-rotation", "a small immediate and a rotation in one instruction"), i
        elif imm is not None and src.n != imm:
            return mistake("one-imm-42", "two different small immediates in one instruction"), i
        else:
            imm = src.n
            imms.append(i)
        room = 2 if imm is None and rot is None else 1
        if len(held) > room:
            names = ", ".join(f"rf{n}" for n in held)
            what = f", and the {'rotation amount' if imm is None else 'small immediate'} occupies one"
            return mistake("read-ports", f"{names} need {len(held)} read ports{what if room == 1 else ''}"), i
    if half_key(isa, _ADD, add).twin and len(held) > (1 if imm is None and rot is None else 0):
        try:
            same_operands(add.op)
        except AsmError as error:
            return error.diagnostics[0], 1
    if sig & _ROT and rot is None:
        return mistake("rot-amount", "signal rot needs an amount"), SIGNAL
    return _signal_conflict(isa, sig | (_ROT if rot is not None else 0), bool(imms), imms)


def _signal_conflict(isa: Isa, sig: int, with_imm: bool, imms: list[int]) -> tuple[Diagnostic, int] | None:
    codes = SIG_NUMBERS[isa]
    if sig not in codes:
        partners = sorted({sig_names(other & _OTHERS) for other in codes if other & sig == sig})
        allowed = "combinations with them: " + "; ".join(partners) if partners else "one of them at a time"
        return mistake("signal-set", f"{isa.label} cannot combine the signals {sig_names(sig)}", allowed), SIGNAL
    if with_imm and sig:
        imm = _IMM_B if isa is _V3D42 else int(Sig.IMM_A) << imms[0]
        if sig | imm not in codes:
            allowed = "an immediate with ldvary or ldtmu" if isa is _V3D42 else "an immediate without other signals"
            why = f"signal {sig_names(sig)} cannot be combined with a small immediate on {isa.label}"
            return mistake("imm-and-signal", why, allowed), imms[0]
    return None
