"""Decoded V3D instructions with the facts that both engines need: effects, hazards, problems, counts; one per word."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, lru_cache

from qpu.core.effects import Effects
from qpu.core.isa import Isa
from qpu.core.optable import Token
from qpu.errors import DecodeError
from qpu.v3d import regs
from qpu.v3d.decode import decode
from qpu.v3d.effects import parts
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Sig, SrcKind
from qpu.v3d.regs import signal_rows
from qpu.v3d.rules import RULES, SWITCH_SLOTS
from qpu.v3d.single import LANE_OP_BARS

__all__ = [
    "COUNTS", "SFU_LATENCY", "UNIFA_EARLY", "Prepared", "after_thrsw", "broken", "disassembly", "pending", "prepare",
    "requests", "rotations", "same_lanes",
]  # fmt: skip

# Statistics (of `RunStats`) that follow from the number of times each instruction executes.
COUNTS = ("add_ops", "mul_ops", "fadds", "fmuls", "sfu_ops", "branches", "uniform_bytes")
# Instructions from an SFU write until r4 holds the result. It must be 2: nodes of the translator have one bit for it.
SFU_LATENCY = RULES["sfu-r4-read"].windows[0].distance + 1
UNIFA_EARLY = RULES["unifa-early"].windows[0].distance  # instructions after a write of unifa that must not read it
# Rules about distances that engines check; the other rules of `qpu.v3d.rules` are about whole programs.
_RUNNING = (
    "thrsw-sfu", "sfu-r4-read", "sfu-r4-write", "sfu-sfu", "branch-slot", "unifa-early", "rot-amount", "rot-ldtmu",
)  # fmt: skip
_COMPLEMENTS = ({"ifa", "ifna"}, {"ifb", "ifnb"})


@dataclass(slots=True, eq=False)
class Prepared:
    """The facts about one instruction word on one instruction set.

    problem: (rule, message) when no engine can execute the instruction: always a fault. hazards: (rule, message) of
    what hardware does not define; faults in strict mode, warnings otherwise. uniforms: words read from the uniform
    stream. starts_request: writes tmua or tmuau. after, before: windows of the rules about distances that the
    instruction opens, and in which it must not be, see `broken`.
    """

    isa: Isa
    word: int
    instr: Instr
    problem: tuple[str, str] | None = None
    hazards: list[tuple[str, str]] = field(default_factory=list)
    thrsw: bool = False
    counts: tuple[int, ...] = ()  # what one execution adds to the statistics `COUNTS`
    sfu_ops: int = 0
    uniforms: int = 0
    unifa_words: int = 0
    max_rf: int = -1
    starts_request: bool = False
    config_from_uniform: bool = False  # the same instruction reads the configuration of the request (tmuau, wrtmuc)
    data_writes: int = 0  # words that the instruction queues for the TMU
    sfu_write: bool = False
    joins_barrier: bool = False  # writes syncb
    writes_unifa: bool = False
    writes_rf0: bool = False
    volatile_rf0: bool = False  # 7.1: implicit rf0 write beside another register-writing signal
    addressed_signal: bool = False
    after: int = 0
    before: int = 0

    @property
    def branch(self) -> bool:
        """Whether the instruction is a branch."""
        return isinstance(self.instr, Branch)


@cache
def _watched(isa: Isa) -> int:
    return sum(RULES.windows[isa].bits(rule) for rule in _RUNNING)


@cache
def pending(isa: Isa, *, late: bool = False, unifa: bool = False, switch: bool = False, branch: bool = False) -> int:
    """The windows of rules that are open in a situation.

    late: the instruction before wrote an SFU address. unifa: unifa was written at most `UNIFA_EARLY` instructions ago.
    switch, branch: the next instruction is in the delay slots of a thread switch, of a branch.
    """
    events = {"sfu write": late, "switch": switch, "branch": branch}
    names = frozenset(name for name, on in events.items() if on)
    effects = Effects(events=names, writes=frozenset({"unifa"}) if unifa else frozenset())
    return RULES.windows[isa].masks(effects)[0] & _watched(isa)


@cache
def rotations(isa: Isa) -> int:
    """The windows of the rules about rotations, which depend on the instruction before."""
    return RULES.windows[isa].bits("rot-amount") | RULES.windows[isa].bits("rot-ldtmu")


def broken(p: Prepared, after: int) -> list[tuple[str, str]]:
    """The rules that the instruction breaks, with messages. after: the windows that are open.

    The order is the reverse of the rows, because the first rule becomes the fault: for an SFU write after another one
    that is `sfu-sfu`, not `sfu-r4-write`.
    """
    found = RULES.windows[p.isa].lanes(p.before & after) if p.before & after else ()
    texts = ((rule.id, rule.summary if "{" in w.message else w.message or rule.summary) for rule, w in found)
    return list(dict.fromkeys(texts))[::-1]


def after_thrsw(
    switch: tuple[int, ...], marked: bool, ending: int, *, single_segment: bool
) -> tuple[tuple[int, ...], bool, int]:
    """The state after a `thrsw`: countdowns of pending thread switches, last switch marked, countdown to the end.

    Countdowns include the instruction itself. Two `thrsw` in succession mark the last switch; the next `thrsw` ends the
    program.
    """
    if ending:
        return switch, marked, ending
    if marked or single_segment:
        return switch, marked, SWITCH_SLOTS + 1
    if switch and switch[-1] == SWITCH_SLOTS:
        return switch, True, 0
    return (*switch, SWITCH_SLOTS + 1), marked, 0


def same_lanes(add: AluHalf, mul: AluHalf) -> bool:
    """Whether both halves may write the same lane of a register."""
    return not (add.cond and mul.cond and {add.cond, mul.cond} in _COMPLEMENTS)


@lru_cache(maxsize=1 << 16)
def prepare(isa: Isa, word: int) -> Prepared:
    """The facts about a word. A word that is not an instruction gets the problem ``decode``."""
    try:
        instr = decode(isa, word)
    except DecodeError as error:
        return Prepared(isa, word, Branch(isa), ("decode", f"0x{word:016x}: {error.diagnostics[0].message}"))
    p = Prepared(isa, word, instr)
    facts = RULES.windows[isa].facts(parts(instr))
    p.after, p.before = facts.after & _watched(isa), facts.before & _watched(isa)
    if isinstance(instr, Branch):
        if instr.bdi == "rf" or instr.bdu == "rf":
            p.max_rf = instr.raddr_a
        p.uniforms = int(instr.ub and instr.bdu in ("abs", "rel"))
        p.counts = (0, 0, 0, 0, 0, 1, 4 * p.uniforms)
        return p
    _alu(p, instr)
    return p


def _alu(p: Prepared, i: Alu) -> None:
    sig = i.sig
    p.thrsw = bool(sig & Sig.THRSW)
    p.addressed_signal = i.sig_dst is not None
    signals = signal_rows(sig)
    p.unifa_words = sum(row.words for row in signals if row.stream == "unifa")
    p.uniforms = sum(row.words for row in signals) - p.unifa_words
    writes: list[tuple[str, int]] = []
    starts = 0
    for half in (i.add, i.mul):
        if half.op.graphics:
            p.problem = ("graphics", f"`{half.op.name}` has no meaning in a compute program")
        p.sfu_ops += Token.SFU in half.op.tokens
        for src in (half.a, half.b):
            if src is None:
                continue
            if src.kind is SrcKind.RF:
                p.max_rf = max(p.max_rf, src.n)
            elif src.kind is SrcKind.IMM and src.n >= 48:
                p.problem = ("small-imm-reserved", f"small immediate {src.n} is reserved; 0..47 are defined")
        if half.op.name in ("nop", "tmuwt") or half.dst is None:
            continue
        place = _destination(p, half.dst)
        if place is not None:
            writes.append(place)
        starts += requests(p.isa, half.dst)
    loaded = None
    if i.sig_dst is not None:
        loaded = _destination(p, i.sig_dst)
        starts += requests(p.isa, i.sig_dst)
        if loaded is not None and loaded in writes:
            p.hazards.append(("same-destination", f"an ALU and the signal both write {_name(loaded)}"))
    for row in signals:
        if row.graphics:
            p.problem = ("graphics", f"signal `{row.name}` has no meaning in a compute program")
    if len(writes) == 2 and writes[0] == writes[1] and same_lanes(i.add, i.mul) and not (i.add.pack or i.mul.pack):
        p.hazards.append(("same-destination", f"both ALUs write {_name(writes[0])} and may do so in the same lane"))
    implicit = ("r", 5) if p.isa is Isa.V3D42 else ("rf", 0)
    if sig & (Sig.LDUNIF | Sig.LDUNIFA):
        if implicit in writes or (sig & Sig.LDTMU and loaded == implicit):
            p.hazards.append(("same-destination", f"the uniform load and another result both write {_name(implicit)}"))
        p.volatile_rf0 = p.isa is Isa.V3D71 and i.sig_dst is not None
    p.writes_rf0 = ("rf", 0) in writes or any(row.implicit for row in signals)
    if i.sig_dst is not None and not i.sig_dst.magic and i.sig_dst.n == 0:
        p.writes_rf0 = True
    lane_ops = [h.op.name for h in (i.add, i.mul) if h.op.lane_op]
    if lane_ops and any(h.dst is not None and _magic_name(p.isa, h.dst) in LANE_OP_BARS for h in (i.add, i.mul)):
        p.hazards.append(
            ("lane-op-tmu", f"`{lane_ops[0]}` together with a write of tmua, tmud or tmuc hangs or corrupts")
        )
    if starts > 1:
        p.hazards.append(("peripheral", "two TMU requests start in one instruction"))
    p.starts_request = starts > 0
    p.config_from_uniform |= p.starts_request and bool(sig & Sig.WRTMUC)
    if p.uniforms > 1 or (p.uniforms and p.unifa_words):
        p.hazards.append(("uniform-pair", "one instruction reads more than one word from the uniform streams"))
    if sig & Sig.ROT:
        _rotation(p, i)
    ops = (i.add.op.name != "nop", i.mul.op.name != "nop", i.add.op.counts == "fadd", i.mul.op.counts == "fmul")
    p.counts = (*map(int, ops), p.sfu_ops, 0, 4 * (p.uniforms + p.unifa_words))


def _rotation(p: Prepared, i: Alu) -> None:
    if i.raddr_b >= 32:
        p.problem = ("rotate", f"rotation amount index {i.raddr_b} is not defined; 0 (r5) and 1..31 are defined")
    for src in (i.add.a, i.add.b, i.mul.a, i.mul.b):
        if src is not None and src.kind is SrcKind.RF and src.n == i.raddr_b and src.n != i.raddr_a:
            p.problem = ("rotate", "the field that holds the rotation amount is read as a register too")


def _name(place: tuple[str, int]) -> str:
    return f"{place[0]}{place[1]}"


def _magic_name(isa: Isa, dst: Dst) -> str:
    return regs.magic_name(isa, dst.n) or f"magic address {dst.n}" if dst.magic else ""


def requests(isa: Isa, dst: Dst) -> bool:
    """Whether a write of the destination starts a TMU request. Texture lookups do not count: they are a problem."""
    return dst.magic and _magic_name(isa, dst) in ("tmua", "tmuau")


def _destination(p: Prepared, dst: Dst) -> tuple[str, int] | None:
    """The register that is written, or None; enters the effects and problems of the destination."""
    if not dst.magic:
        p.max_rf = max(p.max_rf, dst.n)
        return ("rf", dst.n)
    row, name = regs.magic(p.isa, dst.n), _magic_name(p.isa, dst)
    kind = "" if row is None else row.kind
    if row is not None:
        p.uniforms += row.uniform_words
    if kind == "acc":
        return ("r", 5 if dst.n == regs.R5REP else dst.n)
    if kind == "rf0":
        return ("rf", 0)
    if kind == "sfu":
        p.sfu_write = True
        p.sfu_ops += 1
    elif kind == "tmu_data":
        # Device tests store through tmudref and tmuoff, so the data registers are taken to be equivalent (assumed).
        # Texture lookups are a problem of the write that starts them.
        p.data_writes += 1
    elif kind == "tmu_start":
        p.config_from_uniform |= name == "tmuau"
        if not requests(p.isa, dst):
            p.problem = ("texture", f"writing {name} starts a texture lookup, which is not emulated")
    elif kind == "sync":
        p.joins_barrier |= name == "syncb"
        if name == "syncu":
            p.problem = ("syncu", "the configuration word of syncu is not known; use syncb")
    elif kind in ("vpm", "tlb"):
        p.problem = ("graphics", f"destination {name} has no meaning in a compute program")
    elif kind == "unifa":
        p.writes_unifa = True
    elif kind not in ("nop", "tmu_config"):
        p.problem = ("reserved-address", f"destination {name} is reserved or unassigned on {p.isa.label}")
    return None


@lru_cache(maxsize=1 << 12)
def disassembly(isa: Isa, word: int) -> str:
    """The instruction as text; as `.word` if it cannot be decoded."""
    from qpu.v3d.printer import text  # only messages and traces need it

    try:
        return " ".join(text(decode(isa, word)).split())
    except DecodeError:
        return f".word 0x{word:016x}"
