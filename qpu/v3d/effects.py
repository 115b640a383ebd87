"""Effects of V3D instructions and of their halves, for hazard checker, emulator and schedulers.

Resources: ``rf0``..``rf63``, ``r0``..``r5`` (4.2), ``flags_a``, ``flags_b``, ``rtop``, ``link``, ``msf``, ``revf``,
``tidx``, magic destinations by name, the streams ``uniform`` and ``unifa``, the queues ``tmu`` (results), ``tlb``,
``vpm``, ``varying``.

Events: every signal by name; ``X load`` for a signal that reads the stream X; ``op X`` for the operation X; ``X write``
for a write of a magic destination of kind X; ``branch``; ``msf branch`` (looks at the sample masks of several lanes);
``sfu op``, ``lane op``; ``add writes rf``, ``mul writes rf``, ``signal writes rf`` (a register of the register file; as
in Mesa's validator also stvpm*); ``writes rf0`` (named, not implied by a signal); ``load X`` (ldtmu to register X);
``rotate X``, ``rotate by r5``. The checker adds ``switch`` and ``end`` to a `thrsw` that switches or ends: which do
depends on earlier instructions.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final

from qpu.core.effects import Effects, union
from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op, Token
from qpu.v3d.instr import AluHalf, Branch, Dst, Instr, Sig, Src, SrcKind
from qpu.v3d.regs import SIGNAL_ROWS, magic

__all__ = ["effects", "half_effects", "half_parts", "parts", "resource"]

_ROT: Final = int(Sig.ROT)
_REGISTER_KINDS: Final = frozenset({"acc", "rf0"})


def resource(isa: Isa, dst: Dst) -> str:
    """The name of the resource that a destination writes."""
    if not dst.magic:
        return f"rf{dst.n}"
    row = magic(isa, dst.n)
    if row is None:
        return f"magic{dst.n}"
    if row.kind == "rf0":
        return "rf0"
    return "r5" if row.name == "r5rep" else row.name


def _source(src: Src) -> str:
    return f"rf{src.n}" if src.kind is SrcKind.RF else f"r{src.n}"


# The effects of parts are cached, so that values derived from them can be cached by identity.


@cache
def _read(register: str) -> Effects:
    return Effects(reads=frozenset({register}))


@cache
def _event(*names: str) -> Effects:
    return Effects(events=frozenset(names))


@cache
def _flags(cond: str, push: str, update: str) -> Effects:
    reads = {"flags_b" if cond.endswith("b") else "flags_a"} if cond else set()
    writes: set[str] = set()
    if push or update:
        reads.add("flags_a")
        writes |= {"flags_a", "flags_b"} if push else {"flags_a"}
    return Effects(frozenset(reads), frozenset(writes))


@cache
def _operation(op: Op) -> Effects:
    reads = {*op.implicit_reads, "vpm"} if Token.VPM_READ in op.tokens else set(op.implicit_reads)
    events = {f"op {op.name}"}
    if Token.SFU in op.tokens:
        events |= {"sfu op", "lane op"} if op.lane_op else {"sfu op"}
    return Effects(frozenset(reads), frozenset(op.implicit_writes), tokens=op.tokens, events=frozenset(events))


@cache
def _written(isa: Isa, n: int, is_magic: bool, by: str, whole: bool) -> Effects:
    """A write by the add ALU, the mul ALU or a signal. whole: in all lanes and bits."""
    name = resource(isa, Dst(n, is_magic))
    if not is_magic:
        events = {f"{by} writes rf", "writes rf0"} if n == 0 else {f"{by} writes rf"}
        found = frozenset({name})
        return Effects(writes=found, partial=frozenset() if whole else found, events=frozenset(events))
    row = magic(isa, n)
    kind = "" if row is None else row.kind.removesuffix("_reserved")
    writes = {name, "r4"} if kind == "sfu" else set() if kind == "nop" else {name}
    partial = {name} if kind in _REGISTER_KINDS and not whole else set()
    events = {f"{kind} write"} | ({"writes rf0"} if name == "rf0" else set())
    return Effects(
        frozenset({"uniform"} if row is not None and row.uniform_words else ()),
        frozenset(writes),
        frozenset(partial),
        frozenset() if row is None else row.tokens,
        frozenset(events),
    )


Written = tuple[tuple[Effects, ...], tuple[Effects, ...]]  # by `whole`, then by number; + 64 for magic destinations


@cache
def _destinations(isa: Isa, by: str) -> Written:
    part, whole = (tuple(_written(isa, n & 63, n > 63, by, w) for n in range(128)) for w in (False, True))
    return part, whole


@cache
def _signals(isa: Isa, sig: int, loaded: str) -> Effects:
    """The effects of a set of signals, without rotation and destination. loaded: the register that ldtmu writes."""
    reads: set[str] = set()
    writes: set[str] = set()
    tokens: set[Token] = set()
    events: set[str] = set()
    for row in SIGNAL_ROWS:
        if not row.bit & sig or row.kind:
            continue
        events.add(row.name)
        tokens |= row.tokens
        writes.update(row.writes)
        if row.stream:
            reads.add(row.stream)
            events.add(f"{row.stream} load")
        if Token.UNIFORM in row.tokens:
            reads.add("uniform")
        if row.implicit:
            writes.add("r5" if isa is Isa.V3D42 else "rf0")
        if row.stream == "tmu":
            events.add(f"load {loaded}")
    return Effects(frozenset(reads), frozenset(writes), tokens=frozenset(tokens), events=frozenset(events))


def _half(out: list[Effects], isa: Isa, half: AluHalf, by: str) -> None:
    op = half.op
    if half.cond or half.push or half.update:
        out.append(_flags(half.cond, half.push, half.update))
    if op.name == "nop":
        return
    out.append(_operation(op))
    for src in (half.a, half.b):
        if src is not None and src.kind is not SrcKind.IMM:
            out.append(_read(_source(src)))
    dst = half.dst
    if dst is None:
        out.append(
            _event(f"{by} writes rf")
        )  # stvpm* count too, as in Mesa's validator: their destination is not magic
    else:
        written = _destinations(isa, by)[not (half.pack or half.cond)]
        out.append(written[dst.n + 64 if dst.magic else dst.n])


@cache
def _branch(cond: bool, msfign: bool, several: bool, link: bool, bdu: str | None) -> Effects:
    """The effects of a branch without its register. several: it tests the sample masks of several lanes."""
    reads = ({"flags_a"} if cond else set()) | ({"msf"} if msfign else set())
    writes = {"link"} if link else set()
    if bdu is not None:
        writes.add("uniform")
        if bdu in ("abs", "rel"):
            reads.add("uniform")
    tokens = frozenset({Token.UNIFORM}) if bdu is not None else frozenset()
    events = {"branch", "msf branch"} if several else {"branch"}
    return Effects(frozenset(reads), frozenset(writes), tokens=tokens, events=frozenset(events))


def parts(instr: Instr) -> list[Effects]:
    """The effects of the parts of an instruction; equal parts are the same object."""
    if isinstance(instr, Branch):
        b = instr
        several = bool(b.msfign) and b.cond not in ("", "a0", "na0")
        found = [_branch(bool(b.cond), bool(b.msfign), several, b.link, b.bdu if b.ub else None)]
        if "lri" in (b.bdi, b.bdu):
            found.append(_read("link"))
        if "rf" in (b.bdi, b.bdu):
            found.append(_read(f"rf{b.raddr_a}"))
        return found
    isa, sig = instr.isa, int(instr.sig)
    out: list[Effects] = []
    _half(out, isa, instr.add, "add")
    _half(out, isa, instr.mul, "mul")
    if sig:
        dst = instr.sig_dst
        out.append(_signals(isa, sig, "" if dst is None else resource(isa, dst)))
        if dst is not None:
            out.append(_destinations(isa, "signal")[True][dst.n + 64 if dst.magic else dst.n])
        if sig & _ROT:
            out += [
                _event(f"rotate {_source(s)}") for s in (instr.mul.a, instr.mul.b) if s and s.kind is not SrcKind.IMM
            ]
            if not instr.raddr_b:
                out += [_event("rotate by r5"), _read("r5")]
    return out


def half_parts(isa: Isa, unit: Unit, half: AluHalf) -> list[Effects]:
    """As `parts`, of one half of an instruction."""
    out: list[Effects] = []
    _half(out, isa, half, str(unit))
    return out


@lru_cache(1 << 14)
def half_effects(isa: Isa, unit: Unit, half: AluHalf) -> Effects:
    """The effects of one half of an instruction, explicit and implicit."""
    return union(half_parts(isa, unit, half))


def effects(instr: Instr) -> Effects:
    """The effects of an instruction, explicit and implicit."""
    return union(parts(instr))
