"""Hazard rules within one V3D instruction: small immediates, shared units, uniform streams, reserved destinations.

Sources: Mesa's QPU validator (errors) and scheduler (warnings); lane operations: py-videocore7 device tests.
"""

from __future__ import annotations

from typing import Final

from qpu.core.effects import Effects
from qpu.core.hazards import Breach
from qpu.core.isa import Isa
from qpu.core.optable import MagicRow
from qpu.v3d.effects import effects
from qpu.v3d.instr import Alu, AluHalf, Dst, Instr, Sig, SrcKind
from qpu.v3d.regs import PERIPHERAL_KINDS, SIGNAL_ROWS, TMU_KINDS, magic

__all__ = ["LANE_OP_BARS", "peripherals", "same_instruction"]

# Plain integers: operations on enum flags are slow.
_IMM_AB, _IMM_CD = int(Sig.IMM_A | Sig.IMM_B), int(Sig.IMM_C | Sig.IMM_D)
_LDTMU, _LDTLB, _LDTLBU, _WRTMUC = int(Sig.LDTMU), int(Sig.LDTLB), int(Sig.LDTLBU), int(Sig.WRTMUC)
_TLB_READS: Final = _LDTLB | _LDTLBU
_TAKES: Final = tuple(row.bit for row in SIGNAL_ROWS if row.words)
LANE_OP_BARS: Final = frozenset({"tmua", "tmud", "tmuc"})  # py-videocore7, test_guard.py
"""Magic addresses that an instruction with a lane operation may not write."""
_BROADCASTS: Final = frozenset({"quad", "rep"})  # of 7.1


def peripherals(isa: Isa, half: AluHalf) -> int:
    """How many writes of the half go to units of which an instruction may use one."""
    row = _written(isa, half.dst if half.op.name != "nop" else None)
    return int(row is not None and row.kind in PERIPHERAL_KINDS)


def _written(isa: Isa, dst: Dst | None) -> MagicRow | None:
    return magic(isa, dst.n) if dst is not None and dst.magic else None


def same_instruction(instr: Instr) -> list[Breach]:
    """The violations within an instruction."""
    if not isinstance(instr, Alu):
        return []
    add, mul = instr.add, instr.mul
    if not (instr.sig or _notable(add) or _notable(mul)):
        return []
    found = effects(instr)
    halves = [half for half in (add, mul) if half.op.name != "nop"]
    breaches = _immediates(instr)
    rows = [row for half in halves if (row := _written(instr.isa, half.dst)) is not None]
    if rows or int(instr.sig) or "sfu op" in found.events:
        breaches += _units(instr, found, rows)
        breaches += _uniforms(instr, rows)
        if "lane op" in found.events and any(row.name in LANE_OP_BARS for row in rows):
            breaches.append(Breach("lane-op-tmu", ""))
    for half in halves:
        if half.op.lane_op and (row := _written(instr.isa, half.dst)) is not None and row.name in _BROADCASTS:
            message = f"`{half.op.name}` writes `{row.name}`: there is no broadcast, rf0 gets the lanes as they are"
            breaches.append(Breach("lane-op-broadcast", message))
    for dst in (*(half.dst for half in halves), instr.sig_dst):
        if dst is not None and dst.magic:
            breaches += _address(instr.isa, dst.n)
    return breaches


def _notable(half: AluHalf) -> bool:
    """True for a half that a rule may concern: a magic destination, or an operation of a shared unit."""
    return bool(half.op.tokens) or (half.dst is not None and half.dst.magic and half.op.name != "nop")


def _immediates(instr: Alu) -> list[Breach]:
    breaches: list[Breach] = []
    sig = int(instr.sig)
    if instr.isa is Isa.V3D71:
        for bits, half, name in ((_IMM_AB, instr.add, "add"), (_IMM_CD, instr.mul, "mul")):
            if sig & bits and half.op.name == "nop":
                breaches.append(Breach("small-imm-unused", f"a small immediate of the {name} ALU, but no operation"))
    for src in (instr.add.a, instr.add.b, instr.mul.a, instr.mul.b):
        if src is not None and src.kind is SrcKind.IMM and src.n >= 48:
            breaches.append(Breach("small-imm-reserved", f"small immediate {src.n} is reserved; 0..47 have a value"))
    return breaches


def _units(instr: Alu, found: Effects, rows: list[MagicRow]) -> list[Breach]:
    sig, v42 = int(instr.sig), instr.isa is Isa.V3D42
    count = peripherals(instr.isa, instr.add) + peripherals(instr.isa, instr.mul)
    count += bool(sig & _LDTLB) + bool(sig & _LDTLBU) + (v42 and bool(sig & _LDTMU))
    if count > 1:
        what = "TMU write, SFU write, VPM write, TLB access, TSY write" + (", ldtmu" if v42 else "")
        return [Breach("peripheral", f"{count} of {what}; one is allowed")]
    kinds = [row.kind for row in rows]
    if v42:
        other = any(k in PERIPHERAL_KINDS and k not in TMU_KINDS for k in kinds)
        if sig & _WRTMUC and ("tmu_config" in kinds or other):
            return [Breach("peripheral-pair", "wrtmuc is combined with more than one TMU write other than tmuc")]
        return []
    wrtmuc, tlb_read = bool(sig & _WRTMUC), bool(sig & _TLB_READS)
    ops = [event for event in found.events if event.startswith("op ")]
    used = (
        any(k in TMU_KINDS for k in kinds) and not (wrtmuc and "tmu_config" not in kinds),
        wrtmuc,
        "sync" in kinds,
        tlb_read,
        "sfu op" in found.events,
        any(op.startswith("op ldvpm") for op in ops),
        "vpm" in kinds or any(op.startswith("op stvpm") for op in ops),
    )
    breaches: list[Breach] = []
    if sum(used) > 1:
        message = "more than one of TMU write, wrtmuc, TSY, TLB read, SFU operation, VPM read, VPM write"
        breaches.append(Breach("peripheral-pair", message))
    if tlb_read and "tlb" in kinds:
        breaches.append(Breach("peripheral-pair", "more than one TLB access"))
    return breaches


def _uniforms(instr: Alu, rows: list[MagicRow]) -> list[Breach]:
    sig = int(instr.sig)
    words = sum(bool(sig & bit) for bit in _TAKES) + sum(row.uniform_words > 0 for row in rows)
    if words < 2:
        return []
    return [Breach("uniform-pair", f"{words} words are taken from the uniform streams; one is allowed")]


def _address(isa: Isa, n: int) -> list[Breach]:
    row = magic(isa, n)
    if row is None:
        return [Breach("reserved-address", f"destination {n} is not assigned on {isa.label}")]
    if row.kind == "reserved" or row.kind == "sfu_reserved":
        what = row.doc[0].lower() + row.doc[1:-1]
        return [Breach("reserved-address", f"destination {n} ({row.name}) is {what}, reserved on {isa.label}")]
    return []
