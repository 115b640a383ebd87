"""What an engine has to know of a V3D instruction before it runs it; decoded once, shared by all engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from qpu.core.isa import Isa
from qpu.errors import DecodeError
from qpu.v3d import regs
from qpu.v3d.decode import decode
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Sig, SrcKind
from qpu.v3d.ops import FLOAT_ADDS, FLOAT_MULS, LANE_OPS, SFU_OPS

__all__ = ["DATA_WRITES", "Prepared", "disassembly", "prepare", "same_lanes"]

# Writes that queue a data word. Device tests store through tmudref and tmuoff, so the name of the data register does
# not seem to matter (assumed); lookups proper are refused where they start.
DATA_WRITES = frozenset({11, 34, 35, 36, 37, 38, 39})
TMUA, TMUAU, TMUC = 12, 13, 32
_LANE_OP_BARS = frozenset({11, TMUA, TMUC})  # py-videocore7, test_guard.py
_TEXTURE_STARTS = frozenset({33, *range(40, 47)})
_COMPLEMENTS = ({"ifa", "ifna"}, {"ifb", "ifnb"})
_IMPLICIT = Sig.LDUNIF | Sig.LDUNIFA | Sig.LDVARY
_ADDRESSED = Sig.LDTMU | Sig.LDVARY | Sig.LDUNIFRF | Sig.LDTLB | Sig.LDTLBU | Sig.LDUNIFARF


@dataclass(slots=True, eq=False)
class Prepared:
    """Facts of one instruction word on one instruction set.

    problem: (rule, message) when nothing here can execute it: always a fault. hazards: (rule, message) of what
    hardware does not define; faults in strict mode, warnings otherwise. uniforms: words taken from the uniform
    stream. starts_request: writes tmua or tmuau. touches_r4: reads or writes r4 or starts an SFU operation (4.2).
    """

    isa: Isa
    word: int
    instr: Instr
    problem: tuple[str, str] | None = None
    hazards: list[tuple[str, str]] = field(default_factory=list)
    thrsw: bool = False
    add_op: bool = False
    mul_op: bool = False
    fadds: int = 0
    fmuls: int = 0
    sfu_ops: int = 0
    uniforms: int = 0
    unifa_words: int = 0
    max_rf: int = -1
    starts_request: bool = False
    config_from_uniform: bool = False  # the configuration of the request comes with it (tmuau, wrtmuc)
    data_writes: int = 0  # words this instruction queues for the TMU
    sfu_write: bool = False
    joins_barrier: bool = False  # writes syncb
    touches_r4: bool = False
    writes_rf0: bool = False
    doubtful_rf0: bool = False  # 7.1: implicit rf0 write beside another register-writing signal
    addressed_signal: bool = False
    writes: frozenset[tuple[str, int]] = frozenset()  # ("rf" | "r", n) written by the ALUs
    loaded: tuple[str, int] | None = None  # register written by ldtmu

    @property
    def branch(self) -> bool:
        """Whether it is a branch."""
        return isinstance(self.instr, Branch)


def same_lanes(add: AluHalf, mul: AluHalf) -> bool:
    """Whether both results may reach one lane of a register that both write."""
    return not (add.cond and mul.cond and {add.cond, mul.cond} in _COMPLEMENTS)


@lru_cache(maxsize=1 << 16)
def prepare(isa: Isa, word: int) -> Prepared:
    """Decode and judge one word. Undecodable words are a `Prepared` with the problem ``undefined-opcode``."""
    try:
        instr = decode(isa, word)
    except DecodeError as error:
        return Prepared(isa, word, Branch(isa), ("undefined-opcode", str(error)))
    p = Prepared(isa, word, instr)
    if isinstance(instr, Branch):
        if instr.bdi == "rf" or instr.bdu == "rf":
            p.max_rf = instr.raddr_a
        p.uniforms = int(instr.ub and instr.bdu in ("abs", "rel"))
        return p
    _alu(p, instr)
    return p


def _alu(p: Prepared, i: Alu) -> None:
    sig = i.sig
    p.thrsw = bool(sig & Sig.THRSW)
    p.add_op = i.add.op.name != "nop"
    p.mul_op = i.mul.op.name != "nop"
    p.fadds = int(i.add.op.name in FLOAT_ADDS)
    p.fmuls = int(i.mul.op.name in FLOAT_MULS)
    p.addressed_signal = bool(sig & _ADDRESSED)
    p.unifa_words = int(bool(sig & (Sig.LDUNIFA | Sig.LDUNIFARF)))
    p.uniforms = sum(bool(sig & s) for s in (Sig.LDUNIF, Sig.LDUNIFRF, Sig.WRTMUC))
    writes: list[tuple[str, int]] = []
    requests = 0
    for half in (i.add, i.mul):
        if half.op.graphics:
            p.problem = ("graphics", f"`{half.op.name}` has no meaning in a compute program")
        if half.op.name in SFU_OPS or half.op.name in LANE_OPS:
            p.sfu_ops += 1
        for src in (half.a, half.b):
            if src is None:
                continue
            if src.kind is SrcKind.RF:
                p.max_rf = max(p.max_rf, src.n)
            elif src.kind is SrcKind.IMM and src.n >= 48:
                p.problem = ("small-imm", f"small immediate {src.n} is reserved; 0..47 have a value")
            elif src.kind is SrcKind.ACC and src.n == 4:
                p.touches_r4 = True
        if half.op.name in ("nop", "tmuwt") or half.dst is None:
            continue
        place = _destination(p, half.dst)
        if place is not None:
            writes.append(place)
        if half.dst.magic and half.dst.n in (TMUA, TMUAU):
            requests += 1
            p.uniforms += half.dst.n == TMUAU
            p.config_from_uniform |= half.dst.n == TMUAU
    if i.sig_dst is not None:
        loaded = _destination(p, i.sig_dst)
        if i.sig_dst.magic and i.sig_dst.n in (TMUA, TMUAU):
            requests += 1
            p.uniforms += i.sig_dst.n == TMUAU
            p.config_from_uniform |= i.sig_dst.n == TMUAU
        if loaded is not None and loaded in writes:
            p.hazards.append(("same-destination", f"an ALU and the signal both write {_name(loaded)}"))
        if sig & Sig.LDTMU:
            p.loaded = loaded
    for s, name in ((Sig.LDVARY, "ldvary"), (Sig.LDTLB, "ldtlb"), (Sig.LDTLBU, "ldtlbu")):
        if sig & s:
            p.problem = ("graphics", f"signal `{name}` has no meaning in a compute program")
    if len(writes) == 2 and writes[0] == writes[1] and same_lanes(i.add, i.mul) and not (i.add.pack or i.mul.pack):
        p.hazards.append(("same-destination", f"both ALUs write {_name(writes[0])} and may do so in the same lane"))
    implicit = ("r", 5) if p.isa is Isa.V3D42 else ("rf", 0)
    if sig & (Sig.LDUNIF | Sig.LDUNIFA):
        if implicit in writes or (p.loaded == implicit):
            p.hazards.append(("same-destination", f"the uniform load and another result both write {_name(implicit)}"))
        p.doubtful_rf0 = p.isa is Isa.V3D71 and i.sig_dst is not None
    p.writes_rf0 = ("rf", 0) in writes or bool(sig & _IMPLICIT)
    if i.sig_dst is not None and not i.sig_dst.magic and i.sig_dst.n == 0:
        p.writes_rf0 = True
    lane_ops = [h.op.name for h in (i.add, i.mul) if h.op.name in LANE_OPS]
    if lane_ops and any(h.dst is not None and h.dst.magic and h.dst.n in _LANE_OP_BARS for h in (i.add, i.mul)):
        p.hazards.append(
            ("lane-op-tmu", f"`{lane_ops[0]}` together with a write of tmua, tmud or tmuc hangs or corrupts")
        )
    if requests > 1:
        p.hazards.append(("two-requests", "two TMU requests start in one instruction"))
    p.starts_request = requests > 0
    if p.starts_request and sig & Sig.WRTMUC:
        p.config_from_uniform = True
    if p.uniforms > 1 or (p.uniforms and p.unifa_words):
        p.hazards.append(("two-uniforms", "more than one word is taken from the uniform streams in one instruction"))
    if sig & Sig.ROT:
        _rotation(p, i)
    p.writes = frozenset(writes)
    if ("r", 4) in writes or p.loaded == ("r", 4):
        p.touches_r4 = True


def _rotation(p: Prepared, i: Alu) -> None:
    if i.raddr_b >= 32:
        p.problem = ("rotate", f"rotation amount index {i.raddr_b} is not defined; 0 (r5) and 1..31 are")
    for src in (i.add.a, i.add.b, i.mul.a, i.mul.b):
        if src is not None and src.kind is SrcKind.RF and src.n == i.raddr_b and src.n != i.raddr_a:
            p.problem = ("rotate", "the field that holds the rotation amount is read as a register too")


def _name(place: tuple[str, int]) -> str:
    return f"{place[0]}{place[1]}"


def _destination(p: Prepared, dst: Dst) -> tuple[str, int] | None:
    """The register written, or None; notes what cannot be executed."""
    if not dst.magic:
        p.max_rf = max(p.max_rf, dst.n)
        return ("rf", dst.n)
    n, v42 = dst.n, p.isa is Isa.V3D42
    p.data_writes += n in DATA_WRITES
    p.joins_barrier |= n == 18
    if n == regs.NOP or n in DATA_WRITES or n in (TMUA, TMUAU, TMUC, 9, 16, 18):
        return None
    if n <= 5 and v42:
        return ("r", n)
    if n == 55:
        return ("r", 5) if v42 else ("rf", 0)
    if n == 5:
        return ("rf", 0)
    if v42 and n in regs.SFU_WRITES:
        p.sfu_write = p.touches_r4 = True
        p.sfu_ops += 1
        return None
    name = regs.magic_name(p.isa, n) or f"magic address {n}"
    if n in _TEXTURE_STARTS:
        p.problem = ("texture", f"writing {name} starts a texture lookup, which is not emulated")
    elif n in regs.VPM_WRITES or n in regs.TLB_WRITES:
        p.problem = ("graphics", f"destination {name} has no meaning in a compute program")
    elif n == 17:
        p.problem = ("syncu", "the configuration word of syncu is not known; use syncb")
        p.uniforms += 1
    else:
        p.problem = ("reserved-register", f"destination {name} is reserved or unassigned on {p.isa.label}")
    return None


@lru_cache(maxsize=1 << 12)
def disassembly(isa: Isa, word: int) -> str:
    """The instruction as text; the bare word where it is none."""
    from qpu.v3d.printer import text  # loaded for messages and traces only

    try:
        return " ".join(text(decode(isa, word)).split())
    except DecodeError:
        return f".word 0x{word:016x}"
