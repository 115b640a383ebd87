"""Validity rules about one instruction alone, and all that the checker keeps of a word.

Sources: Mesa's QPU validator (errors) and scheduler (warnings); the lane operations: py-videocore7 device tests.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from qpu.core.isa import Isa
from qpu.errors import Severity
from qpu.v3d.decode import decode
from qpu.v3d.effects import Effects, effects
from qpu.v3d.instr import Alu, AluHalf, Instr, Sig, SrcKind
from qpu.v3d.regs import COUNTS, MAGIC, RESERVED_71, SFU_WRITES, SYNC_WRITES, TLB_WRITES, TMU_WRITES, VPM_WRITES

__all__ = ["Known", "Remark", "known_42", "known_71"]

# (rule, severity, message)
Remark = tuple[str, Severity, str]

_ERROR, _WARN = Severity.ERROR, Severity.WARNING
_IMM = SrcKind.IMM
# Flags are slow to combine: integers of their own.
_IMM_AB, _IMM_CD = int(Sig.IMM_A | Sig.IMM_B), int(Sig.IMM_C | Sig.IMM_D)
_LDTMU, _LDTLB, _LDTLBU, _WRTMUC = int(Sig.LDTMU), int(Sig.LDTLB), int(Sig.LDTLBU), int(Sig.WRTMUC)
_UNIFORM: Final = int(Sig.LDUNIF | Sig.LDUNIFRF)
_UNIFA: Final = int(Sig.LDUNIFA | Sig.LDUNIFARF)


class Known(NamedTuple):
    """A decoded word. first, later: remarks that come before and after those about distances."""

    instr: Instr
    effects: Effects
    first: tuple[Remark, ...]
    later: tuple[Remark, ...]


def _know(isa: Isa, word: int) -> Known:
    instr = decode(isa, word)
    found = effects(instr)
    if not isinstance(instr, Alu):
        return Known(instr, found, (), ())
    v42 = isa is Isa.V3D42
    return Known(instr, found, tuple(_immediates(instr, v42)), tuple(_accesses(instr, found, v42)))


@lru_cache(1 << 13)
def known_42(word: int) -> Known:
    """What there is to know about a word of 4.2. Raises: DecodeError."""
    return _know(Isa.V3D42, word)


@lru_cache(1 << 13)
def known_71(word: int) -> Known:
    """What there is to know about a word of 7.1. Raises: DecodeError."""
    return _know(Isa.V3D71, word)


def _immediates(instr: Alu, v42: bool) -> list[Remark]:
    remarks: list[Remark] = []
    sig = int(instr.sig)
    if not v42:
        if sig & _IMM_AB and instr.add.op.name == "nop":
            remarks.append(("small-imm-unused", _ERROR, "small_imm_a or small_imm_b, but no add operation"))
        if sig & _IMM_CD and instr.mul.op.name == "nop":
            remarks.append(("small-imm-unused", _ERROR, "small_imm_c or small_imm_d, but no mul operation"))
    for src in (instr.add.a, instr.add.b, instr.mul.a, instr.mul.b):
        if src is not None and src.kind is _IMM and src.n >= 48:
            message = f"small immediate {src.n} is reserved; 0..47 have a value"
            remarks.append(("small-imm-reserved", _WARN, message))
    return remarks


def _writes(half: AluHalf) -> int:
    """The magic address that a half writes, or -1."""
    dst = half.dst
    return dst.n if dst is not None and dst.magic and half.op.name != "nop" else -1


def _accesses(instr: Alu, found: Effects, v42: bool) -> list[Remark]:
    remarks: list[Remark] = []
    sig = int(instr.sig)
    written = [n for n in (_writes(instr.add), _writes(instr.mul)) if n >= 0]
    count = bool(sig & _LDTLB) + bool(sig & _LDTLBU) + (v42 and bool(sig & _LDTMU))
    for n in written:
        count += COUNTS[n]
    if count > 1:
        what = "TMU write, SFU write, VPM write, TLB access, TSY write" + (", ldtmu" if v42 else "")
        remarks.append(("peripheral", _ERROR, f"{count} of {what}; one is allowed"))
    elif v42:
        if sig & _WRTMUC and any(n == 32 or (COUNTS[n] and n not in TMU_WRITES) for n in written):
            message = "wrtmuc is combined with nothing but one TMU write other than tmuc"
            remarks.append(("peripheral-pair", _WARN, message))
    elif written or sig or not found.tokens.isdisjoint(_PERIPHERAL_TOKENS):
        remarks += _pairs_71(instr, found, sig, written)
    readers = bool(sig & _UNIFORM) + bool(sig & _WRTMUC) + bool(sig & _LDTLBU) + bool(sig & _UNIFA)
    readers += sum(n in (8, 13, 15, 17) for n in written)
    if readers > 1:
        remarks.append(("uniform-pair", _WARN, f"{readers} readers of the uniform streams; one is allowed"))
    if written and "lane_op" in found.events and any(n in (11, 12, 32) for n in written):
        message = "a lane operation together with a write of tmua, tmud or tmuc hangs or corrupts"
        remarks.append(("lane-op-tmu", _WARN, message))
    if instr.sig_dst is not None and instr.sig_dst.magic:
        written.append(instr.sig_dst.n)
    for n in written:
        remarks += _address(instr.isa, n)
    return remarks


_PERIPHERAL_TOKENS: Final = frozenset({"sfu", "vpm_read", "vpm_write"})


def _pairs_71(instr: Alu, found: Effects, sig: int, written: list[int]) -> list[Remark]:
    """What the validator of 7.1 lets pass and the scheduler does not."""
    wrtmuc = bool(sig & _WRTMUC)
    tlb_read = bool(sig & (_LDTLB | _LDTLBU))
    ops = (instr.add.op.name, instr.mul.op.name)
    kinds = (
        any(n in TMU_WRITES for n in written) and not (wrtmuc and 32 not in written),
        wrtmuc,
        any(n in SYNC_WRITES for n in written),
        tlb_read,
        "sfu_op" in found.events,
        any(name.startswith("ldvpm") for name in ops),
        any(n in VPM_WRITES for n in written) or any(name.startswith("stvpm") for name in ops),
    )
    remarks: list[Remark] = []
    if sum(kinds) > 1:
        message = "more than one of TMU write, wrtmuc, TSY, TLB read, SFU operation, VPM read, VPM write"
        remarks.append(("peripheral-pair", _WARN, message))
    if tlb_read and any(n in TLB_WRITES for n in written):
        remarks.append(("peripheral-pair", _WARN, "more than one TLB access"))
    return remarks


def _address(isa: Isa, n: int) -> list[Remark]:
    names = MAGIC[isa]
    if n not in names:
        return [("reserved-address", _WARN, f"destination {n} is not assigned on {isa.label}")]
    if isa is Isa.V3D71 and n in RESERVED_71:
        what = "an SFU address of V3D 4.2" if n in SFU_WRITES else "an accumulator of V3D 4.2"
        return [("reserved-address", _WARN, f"destination {n} ({names[n]}) is {what}, reserved on V3D 7.1")]
    return []
