"""What an instruction reads, writes and does: the facts that the checker and a scheduler work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qpu.core.isa import Isa
from qpu.core.optable import Token
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Sig, SrcKind
from qpu.v3d.ops import LANE_OPS, SFU_OPS
from qpu.v3d.regs import (
    R5REP,
    SFU_WRITES,
    SYNC_WRITES,
    TLB_WRITES,
    TMU_WRITES,
    UNIFORM_WRITES,
    VPM_WRITES,
    magic_name,
)

__all__ = ["EVENTS", "Effects", "effects"]

EVENTS: Final = (
    "branch",
    "msf_branch",  # reads the sample masks of several lanes
    "thrsw",
    "ldvary",
    "ldunif_acc",  # ldunif or ldunifa: a load into r5 (4.2) or rf0 (7.1)
    "uniform_read",
    "unifa_read",
    "unifa_write",
    "ldtmu",
    "rot_acc",  # a rotated accumulator or register
    "rot_r5",  # a rotation by r5
    "sfu_write",
    "sfu_op",
    "r4_read",
    "r4_write",
    "r5_read",
    "r5_write",
    "rf0_read",
    "rf0_write",
    "tmu_write",
    "tmua_write",
    "tmu_data",
    "setmsf",
    "tmuwt",
    "vpmwt",
    "payload_read",  # registers that the next thread's payload may already occupy
    "lane_op",
    "switch",  # a thrsw that does not mark the last switch; needs the instruction before, so the checker adds it
)
"""Names that `Distance` rows and `Effects.events` use."""

_LDTLB = int(Sig.LDTLB)
_LDTLBU = int(Sig.LDTLBU)
_LDTMU = int(Sig.LDTMU)
_LDUNIF = int(Sig.LDUNIF)
_LDUNIFA = int(Sig.LDUNIFA)
_LDUNIFARF = int(Sig.LDUNIFARF)
_LDUNIFRF = int(Sig.LDUNIFRF)
_LDVARY = int(Sig.LDVARY)
_ROT = int(Sig.ROT)
_THRSW = int(Sig.THRSW)
_WRTMUC = int(Sig.WRTMUC)

_TMU_DATA: Final = frozenset({11, 34, 35, 36, 37, 38, 39})
_TMU_START: Final = frozenset({12, 13, 33, 40, 41, 42, 43, 44, 45, 46})


@dataclass(frozen=True, slots=True)
class Effects:
    """Resources of one instruction.

    reads, writes: ``rf0``..``rf63``, ``r0``..``r5``, ``flags_a``, ``flags_b``, ``rtop``, ``link``, ``msf``, ``revf``,
    ``tidx``, magic destinations by name, ``uniform`` and ``unifa`` (streams, read and advanced), ``tmu`` (results),
    ``tlb``, ``vpm`` and ``varying`` (queues that are read). A register that is written in some lanes or bits only is
    among the reads, too.
    tokens: sequences whose order must be kept. events: names of EVENTS, for `Distance` rows.
    """

    reads: frozenset[str]
    writes: frozenset[str]
    tokens: frozenset[Token]
    events: frozenset[str]


def _write(isa: Isa, dst: Dst) -> str:
    if not dst.magic:
        return f"rf{dst.n}"
    if isa is Isa.V3D42:
        if dst.n == R5REP:
            return "r5"
    elif dst.n in (5, R5REP):
        return "rf0"
    return magic_name(isa, dst.n) or f"magic{dst.n}"


def effects(instr: Instr) -> Effects:
    """The effects of an instruction, explicit and implicit."""
    if isinstance(instr, Branch):
        return _branch(instr)
    reads: set[str] = set()
    writes: set[str] = set()
    tokens: set[Token] = set()
    events: set[str] = set()
    merged: set[str] = set()  # r4, r5 as far as they are read only because they are written in part
    for half in (instr.add, instr.mul):
        _half(instr, half, reads, writes, tokens, events, merged)
    _signals(instr, reads, writes, tokens, events)
    writes.discard("-")
    isa = instr.isa
    if isa is Isa.V3D42:
        merged -= {f"r{src.n}" for half in (instr.add, instr.mul) for src in (half.a, half.b)
                   if src is not None and src.kind is SrcKind.ACC}  # fmt: skip
        if int(instr.sig) & _ROT and instr.raddr_b == 0:
            merged.discard("r5")
        events |= {f"{r}_read" for r in ("r4", "r5") if r in reads and r not in merged}
        if "r5" in writes:
            events.add("r5_write")
        if not reads.isdisjoint(("rf0", "rf1", "rf2")):
            events.add("payload_read")
    else:
        if "rf0" in reads:
            events.add("rf0_read")
        if not reads.isdisjoint(("rf2", "rf3")):
            events.add("payload_read")
    return Effects(frozenset(reads), frozenset(writes), frozenset(tokens), frozenset(events))


def _branch(b: Branch) -> Effects:
    reads: set[str] = set()
    events = {"branch"}
    if b.cond:
        reads.add("flags_a")
    if b.msfign:
        reads.add("msf")
        if b.cond not in ("", "a0", "na0"):
            events.add("msf_branch")
    if b.bdi == "lri" or b.bdu == "lri":
        reads.add("link")
    if b.bdi == "rf" or b.bdu == "rf":
        reads.add(f"rf{b.raddr_a}")
    tokens: set[Token] = set()
    writes = {"link"} if b.link else set()
    if b.ub:
        tokens.add(Token.UNIFORM)
        writes.add("uniform")
        if b.bdu in ("abs", "rel"):
            reads.add("uniform")
            events.add("uniform_read")
    return Effects(frozenset(reads), frozenset(writes), frozenset(tokens), frozenset(events))


def _is_register(isa: Isa, n: int) -> bool:
    """True when magic address n is an accumulator, or rf0 by another name."""
    return n in (5, R5REP) or (isa is Isa.V3D42 and n < 6)


def _half(
    instr: Alu,
    half: AluHalf,
    reads: set[str],
    writes: set[str],
    tokens: set[Token],
    events: set[str],
    merged: set[str],
) -> None:
    op, isa = half.op, instr.isa
    for src in (half.a, half.b):
        if src is None or src.kind is SrcKind.IMM:
            continue
        reads.add(f"rf{src.n}" if src.kind is SrcKind.RF else f"r{src.n}")
        if half is instr.mul and int(instr.sig) & _ROT:
            events.add("rot_acc")
    reads.update(op.implicit_reads)
    if Token.VPM_READ in op.tokens:
        reads.add("vpm")
    writes.update(op.implicit_writes)
    tokens |= op.tokens
    if half.cond:
        reads.add("flags_b" if half.cond.endswith("b") else "flags_a")
    if half.push:
        reads.add("flags_a")
        writes |= {"flags_a", "flags_b"}
    if half.update:
        reads.add("flags_a")
        writes.add("flags_a")
    if op.name in SFU_OPS:
        events.add("sfu_op")
    elif op.name in LANE_OPS:
        events |= {"sfu_op", "lane_op"}
    elif op.name in ("setmsf", "tmuwt", "vpmwt"):
        events.add(op.name)
    dst = half.dst
    if dst is None or op.name == "nop":
        return
    name = _write(isa, dst)
    writes.add(name)
    if (half.pack or half.cond) and (not dst.magic or _is_register(isa, dst.n)):
        reads.add(name)  # the rest of the register is kept
        if name in ("r4", "r5"):
            merged.add(name)
    if not dst.magic:
        if dst.n == 0:
            events.add("rf0_write")
        return
    _magic(isa, dst.n, reads, writes, tokens, events)


def _magic(isa: Isa, n: int, reads: set[str], writes: set[str], tokens: set[Token], events: set[str]) -> None:
    if n in TMU_WRITES:
        tokens.add(Token.TMU_REQUEST)
        events.add("tmu_write")
        if n in _TMU_DATA:
            events.add("tmu_data")
        elif n in _TMU_START:
            events.add("tmua_write")
    elif n in SFU_WRITES:
        tokens.add(Token.SFU)
        events |= {"sfu_write", "r4_write"}
        if isa is Isa.V3D42:
            writes.add("r4")
    elif n in VPM_WRITES:
        tokens.add(Token.VPM_WRITE)
    elif n in TLB_WRITES:
        tokens.add(Token.TLB)
    elif n in SYNC_WRITES:
        tokens.add(Token.BARRIER)
    elif n == 9:
        tokens.add(Token.UNIFA)
        events.add("unifa_write")
        writes.add("unifa")
    elif n == 4:
        events.add("r4_write")
    elif isa is Isa.V3D71 and n in (5, R5REP):
        events.add("rf0_write")
    if n in UNIFORM_WRITES:
        tokens.add(Token.UNIFORM)
        events.add("uniform_read")
        reads.add("uniform")


def _signals(instr: Alu, reads: set[str], writes: set[str], tokens: set[Token], events: set[str]) -> None:
    sig, isa = int(instr.sig), instr.isa
    if not sig:
        return
    acc = "r5" if isa is Isa.V3D42 else "rf0"
    if sig & _THRSW:
        events.add("thrsw")
    if sig & (_LDUNIF | _LDUNIFRF | _WRTMUC):
        events.add("uniform_read")
        reads.add("uniform")
        tokens.add(Token.UNIFORM)
    if sig & (_LDUNIFA | _LDUNIFARF):
        events.add("unifa_read")
        reads.add("unifa")
        tokens.add(Token.UNIFA)
    if sig & (_LDUNIF | _LDUNIFA):
        events.add("ldunif_acc")
        writes.add(acc)
    if sig & _WRTMUC:
        tokens.add(Token.TMU_REQUEST)
        writes.add("tmuc")
    if sig & _LDTMU:
        events.add("ldtmu")
        reads.add("tmu")
        tokens.add(Token.TMU_RESULT)
    if sig & _LDVARY:
        events.add("ldvary")
        reads.add("varying")
        writes.add(acc)
        tokens.add(Token.VARYING)
    if sig & (_LDTLB | _LDTLBU):
        tokens.add(Token.TLB)
        reads.add("tlb")
        if sig & _LDTLBU:
            events.add("uniform_read")
            reads.add("uniform")
            tokens.add(Token.UNIFORM)
    if sig & _ROT and instr.raddr_b == 0:
        events.add("rot_r5")
        reads.add("r5")
    dst = instr.sig_dst
    if dst is not None:
        writes.add(_write(isa, dst))
        if not dst.magic and dst.n == 0:
            events.add("rf0_write")
        if dst.magic:
            _magic(isa, dst.n, reads, writes, tokens, events)
