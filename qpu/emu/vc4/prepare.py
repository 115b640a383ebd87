"""What an instruction of VideoCore IV will do, worked out once: operands, destinations, hazards, issues, counts.

Nothing here executes: a `Plan` is plain data that every engine can read.
Rule names H1..H30 are those of the checker (`qpu.vc4.hazards`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from qpu.core.optable import Op, Semantics
from qpu.emu.vc4.faults import Level
from qpu.vc4.decode import decode
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, Semaphore
from qpu.vc4.ops import ADD_OPS, MUL_OPS, float_operands, float_result, is_move
from qpu.vc4.pack import PACK_A, PACK_MUL, UNPACK, Pack
from qpu.vc4.regs import (
    FILE_FREE_READS,
    MUX_A,
    MUX_B,
    NOP,
    READS,
    WRITES,
    BranchCond,
    File,
    branch_cond,
    reader,
    small_imm_value,
    writer,
)

__all__ = [
    "COUNTS",
    "Counts",
    "Dest",
    "Effect",
    "Half",
    "Issue",
    "Place",
    "Plan",
    "Read",
    "Source",
    "plan",
]


class Effect:
    """What an instruction leaves behind for the next three. Bits 0..31: write of ra0..31; 32..63: of rb0..31.

    Plain integers: the scheduler combines them for every instruction.
    """

    SFU = 1 << 64
    R5 = 1 << 65
    UNIFORMS = 1 << 66  # the uniform pointer was set
    NOSWAP = 1 << 67
    BRANCH = 1 << 68
    END = 1 << 69
    SWITCH = 1 << 70
    ACC0 = 1 << 71  # r0..r3: four bits


class Place(enum.Enum):
    """Where a result goes."""

    NONE = "none"
    A = "a"
    B = "b"
    ACC = "acc"
    R5_QUADS = "r5_quads"
    R5_ALL = "r5_all"
    HOST = "host"
    IO = "io"
    GRAPHICS = "graphics"


class Dest(NamedTuple):
    """A destination. number: register or accumulator number, or the address of an output register.

    register: ra0..31 are 0..31, rb0..31 are 32..63, r0..r5 are 64..69; -1 elsewhere.
    """

    place: Place
    number: int
    file: File = File.A
    register: int = -1


class Read(enum.Enum):
    """What a read port delivers."""

    LATCH = "latch"
    REGISTER = "register"
    SMALL_IMM = "small_imm"
    INPUT = "input"
    SHARED = "shared"  # the same pop as port A


@dataclass(frozen=True, slots=True)
class Source:
    """A read port. index: register number, input address or small-immediate value. used: an operand takes it."""

    read: Read
    index: int
    used: bool


class Issue(NamedTuple):
    """Something wrong with the instruction by itself."""

    level: Level
    rule: str
    message: str


@dataclass(frozen=True, slots=True)
class Half:
    """One ALU's part. cond: write condition; pack: applied to the result; active: it has an effect; move: its result
    is its operand; sources: the operands that the operation takes.
    """

    op: Op
    a: int
    b: int
    cond: int
    dest: Dest
    pack: Pack | None
    is_float: bool
    active: bool
    move: bool = False
    sources: frozenset[int] = frozenset()
    binary: bool = False


class Counts(NamedTuple):
    """What the instruction adds to the statistics, for each QPU."""

    instructions: int = 1
    add_ops: int = 0
    mul_ops: int = 0
    fadds: int = 0
    fmuls: int = 0
    sfu_ops: int = 0
    branches: int = 0
    thread_switches: int = 0


COUNTS = Counts._fields
R5_ROTATION = -1


def _nop() -> Op:
    row = ADD_OPS[0]
    assert row is not None
    return row


_IDLE = Half(_nop(), 0, 0, 0, Dest(Place.NONE, NOP), None, False, False)


@dataclass(slots=True)
class Plan:
    """All about one instruction."""

    word: int
    instr: Instr
    effects: int = 0
    forbid1: int = 0  # effects that must not stem from the instruction before
    forbid2: int = 0  # ... from the one before that
    forbid3: int = 0
    issues: tuple[Issue, ...] = ()
    counts: Counts = field(default_factory=Counts)
    # ALU
    read_a: Source | None = None
    read_b: Source | None = None
    unpack: Semantics | None = None  # f(v, x)
    unpack_r4: bool = False
    add: Half = _IDLE
    mul: Half = _IDLE
    flags_from: str = ""  # "add", "mul" or empty
    rotate: int | None = None  # 1..15, or R5_ROTATION
    merged: bool = False  # both halves write one output register under complementary conditions
    clash: bool = False  # both halves write one accumulator: two values for one lane are a fault
    load: int | None = None  # TMU whose answer goes to r4
    ends: bool = False
    switches: bool = False
    needs_mutex: bool = False
    s_with_uniform: int | None = None  # TMU number when S is written beside a uniform read
    branch: BranchCond | None = None
    # For the scheduler's inner loop, from the above
    blocks: bool = False  # mutex or semaphore
    is_branch: bool = False
    redirects: bool = False  # branch, program end, thread switch
    checked: bool = False  # there is something to check whenever it executes


def _dest(waddr: int, file: File) -> Dest:
    if waddr < 32:
        return Dest(Place.A, waddr, file, waddr) if file is File.A else Dest(Place.B, waddr, file, 32 + waddr)
    if waddr < 36:
        return Dest(Place.ACC, waddr - 32, file, 32 + waddr)
    if waddr == 37:
        return Dest(Place.R5_QUADS if file is File.A else Place.R5_ALL, 37, file, 69)
    if waddr == 38:
        return Dest(Place.HOST, 38, file)
    if waddr == NOP:
        return Dest(Place.NONE, 39, file)
    row = writer(file, waddr)
    graphics = row is None or row.graphics
    return Dest(Place.GRAPHICS if graphics else Place.IO, waddr, file)


def _dests(waddr_add: int, waddr_mul: int, ws: int) -> tuple[Dest, Dest]:
    add_file, mul_file = (File.B, File.A) if ws else (File.A, File.B)
    return _dest(waddr_add, add_file), _dest(waddr_mul, mul_file)


_POPS = frozenset(r.addr for r in READS if r.pops)
_SAME_WRITE = frozenset(r.addr for r in WRITES if len(r.files) == 2)
_VPM_READS = frozenset({48, 49, 50})
_SFU_WRITES = frozenset({52, 53, 54, 55})
_TMU_WRITES = frozenset(range(56, 64))


def _same(x: Dest, y: Dest) -> bool:
    """Whether two destinations are one and the same thing."""
    if x.place in (Place.R5_QUADS, Place.R5_ALL):
        return y.place in (Place.R5_QUADS, Place.R5_ALL)
    if x.place is Place.NONE or x.number != y.number:
        return False
    if x.place is not y.place:
        return False
    return x.place is Place.ACC or x.number in _SAME_WRITE


def _write_effect(dest: Dest, cond: int) -> int:
    if dest.place is Place.IO:
        if dest.number in _SFU_WRITES:
            return Effect.SFU
        if dest.number == 40:
            return Effect.UNIFORMS
        if dest.number == 36:
            return Effect.NOSWAP
        return 0
    if cond == 0:
        return 0
    if dest.place is Place.A:
        return 1 << dest.number
    if dest.place is Place.B:
        return 1 << 32 + dest.number
    if dest.place is Place.ACC:
        return Effect.ACC0 << dest.number
    if dest.place in (Place.R5_QUADS, Place.R5_ALL):
        return Effect.R5
    return 0


def _complementary(x: int, y: int) -> bool:
    return x >= 2 and x ^ 1 == y


def _destination_issues(add: Dest, mul: Dest, cond_add: int, cond_mul: int, partial: bool, merged: bool) -> list[Issue]:
    issues: list[Issue] = []
    unknown = Level.UNKNOWN
    if _same(add, mul) and add.place is Place.IO and cond_add and cond_mul and not merged:
        issues.append(Issue(unknown, "H13", "both ALUs write the same output register"))
    for dest, cond in ((add, cond_add), (mul, cond_mul)):
        if dest.place is Place.GRAPHICS:
            text = f"output register {dest.number} belongs to graphics, which is not emulated"
            issues.append(Issue(unknown, "graphics-register", text))
        if dest.place is Place.IO and not cond and not merged:
            text = f"a write to output register {dest.number} that never happens: hardware triggers it all the same"
            issues.append(Issue(unknown, "H14", text))
    if partial and mul.place is Place.IO:
        issues.append(Issue(unknown, "H15", "output registers take no partial (packed) writes"))
    written = {(d.file, d.number) for d in (add, mul) if d.place is Place.IO}
    setups = {(f, a) for f, a in written if a == 49}
    if len(setups) == 2:
        issues.append(Issue(unknown, "H16", "VPM read and write set-up in one instruction"))
    if setups and any(a == 48 for _, a in written):
        issues.append(Issue(unknown, "H16", "VPM write together with a VPM set-up"))
    return issues


def _end_forbid(dests: tuple[Dest, Dest], reads: tuple[tuple[File, int], ...]) -> bool:
    """H18 and H20: things that must not stand in a program end or its two delay slots."""
    inputs = any(addr in (32, 35, 14) or addr in _VPM_READS for _, addr in reads)
    outputs = any(
        (d.place is Place.IO and d.number in _VPM_READS) or (d.place in (Place.A, Place.B) and d.number == 14)
        for d in dests
    )
    return inputs or outputs


def plan(word: int) -> Plan:
    """Work out one instruction word. Total: reserved encodings become issues."""
    p = _plan(word, decode(word))
    p.blocks = p.needs_mutex or isinstance(p.instr, Semaphore)
    p.is_branch = isinstance(p.instr, Branch)
    p.redirects = p.is_branch or p.ends or p.switches
    p.checked = bool(p.issues) or p.s_with_uniform is not None
    return p


def _plan(word: int, instr: Instr) -> Plan:
    if isinstance(instr, Alu):
        return _alu(word, instr)
    if isinstance(instr, LoadImm | Semaphore):
        return _load(word, instr)
    if isinstance(instr, Branch):
        return _branch(word, instr)
    text = f"0x{word:016x} is a reserved encoding"
    return Plan(word, instr, issues=(Issue(Level.STOP, "reserved-instruction", text),))


def _finish(p: Plan, dests: tuple[Dest, Dest], conds: tuple[int, int]) -> None:
    """Effects of the destinations and the rules about what may follow what."""
    for dest, cond in zip(dests, conds, strict=True):
        p.effects |= _write_effect(dest, cond)
        if dest.place is Place.IO:
            if dest.number in _SFU_WRITES:
                p.forbid1 |= Effect.SFU
                p.forbid2 |= Effect.SFU
            if dest.number in _TMU_WRITES:
                p.forbid1 |= Effect.NOSWAP
                p.forbid2 |= Effect.NOSWAP
                p.forbid3 |= Effect.NOSWAP
                if (dest.number - 56) & 3:
                    p.forbid1 |= Effect.UNIFORMS
                    p.forbid2 |= Effect.UNIFORMS


def _load(word: int, i: LoadImm | Semaphore) -> Plan:
    p = Plan(word, i)
    add, mul = _dests(i.waddr_add, i.waddr_mul, i.ws)
    issues: list[Issue] = []
    p.merged = _same(add, mul) and add.place is Place.IO and _complementary(i.cond_add, i.cond_mul)
    p.clash = _same(add, mul) and add.place is not Place.IO
    add_pack, mul_pack = _packs(i.pm, i.pack, add, mul, issues)
    partial = mul_pack is not None and bool(i.pm) and i.pack >= 4
    issues += _destination_issues(add, mul, i.cond_add, i.cond_mul, partial, p.merged)
    if isinstance(i, Semaphore):
        bad = [d.number for d in (add, mul) if d.place is Place.GRAPHICS or (d.place is Place.IO and d.number >= 52)]
        if bad:
            text = f"a semaphore instruction must not write output register {bad[0]}"
            issues.append(Issue(Level.UNKNOWN, "H27", text))
    p.add = Half(_nop(), 0, 0, i.cond_add, add, add_pack, False, _writes(add, i.cond_add))
    p.mul = Half(_nop(), 0, 0, i.cond_mul, mul, mul_pack, False, _writes(mul, i.cond_mul))
    p.flags_from = "add" if i.sf and i.cond_add else ""
    _finish(p, (add, mul), (i.cond_add, i.cond_mul))
    if _end_forbid((add, mul), ()):
        p.forbid1 |= Effect.END
        p.forbid2 |= Effect.END
    sfu = sum(d.place is Place.IO and d.number in _SFU_WRITES for d in (add, mul))
    p.counts = Counts(sfu_ops=sfu)
    p.issues = tuple(issues)
    return p


def _branch(word: int, i: Branch) -> Plan:
    p = Plan(word, i)
    issues: list[Issue] = []
    p.branch = branch_cond(i.cond)
    if p.branch is None:
        issues.append(Issue(Level.STOP, "reserved-instruction", f"branch condition {i.cond} is reserved"))
    add, mul = _dests(i.waddr_add, i.waddr_mul, i.ws)
    for dest in (add, mul):
        if dest.place in (Place.IO, Place.GRAPHICS, Place.HOST):
            text = f"a branch link to output register {dest.number} has an unknown result"
            issues.append(Issue(Level.UNKNOWN, "branch-link", text))
    p.add = Half(_nop(), 0, 0, 1, add, None, False, _writes(add, 1))
    p.mul = Half(_nop(), 0, 0, 1, mul, None, False, _writes(mul, 1))
    p.effects = Effect.BRANCH | _write_effect(add, 1) | _write_effect(mul, 1)
    p.forbid1 = Effect.BRANCH
    p.forbid2 = Effect.BRANCH
    if i.reg:
        p.forbid1 |= 1 << i.raddr_a
    p.counts = Counts(branches=1)
    p.issues = tuple(issues)
    return p


def _writes(dest: Dest, cond: int) -> bool:
    """Whether a result is wanted. Output registers are triggered whatever the condition (H14)."""
    if dest.place is Place.NONE:
        return False
    return bool(cond) or dest.place is Place.IO


def _packs(pm: int, pack: int, add: Dest, mul: Dest, issues: list[Issue]) -> tuple[Pack | None, Pack | None]:
    """The pack rows of both halves."""
    if not pack:
        return None, None
    if not pm:
        row = PACK_A[pack]
        return (row if add.place is Place.A else None), (row if mul.place is Place.A else None)
    mode = PACK_MUL.get(pack)
    if mode is None:
        issues.append(Issue(Level.UNKNOWN, "reserved-pack", f"pack mode {pack} with pm = 1 is reserved"))
        mode = PACK_MUL[3] if pack == 11 else None  # vc4asm writes 11 for 3
    return None, mode


_SIGNAL_ISSUES: dict[int, Issue] = {
    0: Issue(Level.STOP, "breakpoint", "software breakpoint: the QPU stops"),
    4: Issue(Level.UNKNOWN, "scoreboard", "scoreboard signals belong to fragment shaders"),
    5: Issue(Level.UNKNOWN, "scoreboard", "scoreboard signals belong to fragment shaders"),
    6: Issue(Level.WARN, "thread-switch", "user programs are single-threaded: a switch loses accumulators and flags"),
    2: Issue(Level.WARN, "thread-switch", "user programs are single-threaded: a switch loses accumulators and flags"),
    **{
        sig: Issue(Level.UNKNOWN, "graphics-signal", f"signal {sig} loads from the tile buffer, which is not emulated")
        for sig in (7, 8, 9, 12)
    },
}


def _half(op: Op, a: int, b: int, cond: int, dest: Dest, pack: Pack | None, active: bool) -> Half:
    sources = frozenset((a, b)[: op.arity])
    return Half(op, a, b, cond, dest, pack, float_result(op), active, a == b and is_move(op), sources, op.arity == 2)


def _alu(word: int, i: Alu) -> Plan:
    p = Plan(word, i)
    issues: list[Issue] = []
    if i.sig in _SIGNAL_ISSUES:
        issues.append(_SIGNAL_ISSUES[i.sig])
    p.ends = i.sig in (3, 9)
    p.switches = i.sig in (2, 6)
    p.load = {10: 0, 11: 1}.get(i.sig)
    op_add, op_mul = ADD_OPS[i.op_add], MUL_OPS[i.op_mul]
    assert op_mul is not None
    if op_add is None:
        issues.append(Issue(Level.STOP, "undefined-opcode", f"ADD opcode {i.op_add} is reserved"))
        op_add = _nop()
    add, mul = _dests(i.waddr_add, i.waddr_mul, i.ws)
    p.merged = _same(add, mul) and add.place is Place.IO and _complementary(i.cond_add, i.cond_mul)
    p.clash = _same(add, mul) and add.place is not Place.IO
    add_pack, mul_pack = _packs(i.pm, i.pack, add, mul, issues)
    issues += _destination_issues(add, mul, i.cond_add, i.cond_mul, bool(i.pm) and i.pack >= 4, p.merged)
    if i.sf:
        if i.op_add:
            p.flags_from = "add" if i.cond_add else ""
        else:
            p.flags_from = "mul" if i.cond_mul else ""
    add_active = bool(i.op_add) and (_writes(add, i.cond_add) or p.flags_from == "add")
    if not i.op_add and add.place in (Place.IO, Place.HOST):
        # To registers it writes nothing (vc4.md 9.4, measured).
        text = f"an ADD nop names output register {add.number}: what happens is unknown; emulated as nothing"
        issues.append(Issue(Level.UNKNOWN, "add-nop-write", text))
    # A MUL operation feeds the latch that MUL nops repeat, even without a destination.
    mul_active = bool(i.op_mul and i.cond_mul) or _writes(mul, i.cond_mul) or p.flags_from == "mul"
    p.add = _half(op_add, i.add_a, i.add_b, i.cond_add, add, add_pack, add_active)
    p.mul = _half(op_mul, i.mul_a, i.mul_b, i.cond_mul, mul, mul_pack, mul_active)
    muxes: set[int] = set()
    floats: set[int] = set()
    for half in (p.add, p.mul):
        if float_operands(half.op):
            floats |= half.sources
        if half.active:
            muxes |= half.sources
    _reads(p, i, muxes, issues)
    if i.unpack:
        row = UNPACK[i.unpack]
        p.unpack = row.as_float if i.pm or MUX_A in floats else row.as_int
        p.unpack_r4 = bool(i.pm)
        if not i.pm and i.raddr_a >= 32:
            p.unpack = None
            if MUX_A in muxes and i.raddr_a != NOP:
                text = "unpacking an input register: unknown on hardware; emulated as no unpacking"
                issues.append(Issue(Level.UNKNOWN, "unpack-input", text))
    _rotation(p, i, mul_active, issues)
    _alu_rules(p, i, (add, mul), muxes, issues)
    p.counts = Counts(
        add_ops=int(i.op_add != 0),
        mul_ops=int(i.op_mul != 0),
        fadds=int(i.op_add in (1, 2)),
        fmuls=int(i.op_mul == 1),
        sfu_ops=sum(d.place is Place.IO and d.number in _SFU_WRITES for d in (add, mul)),
        thread_switches=int(p.switches),
    )
    p.issues = tuple(issues)
    return p


def _reads(p: Plan, i: Alu, muxes: set[int], issues: list[Issue]) -> None:
    """What the two read ports do."""
    p.read_a = _source(i.raddr_a, File.A, MUX_A in muxes, issues)
    if i.sig == 13:
        p.read_b = Source(Read.SMALL_IMM, small_imm_value(i.raddr_b), MUX_B in muxes)
    elif i.raddr_b == i.raddr_a and i.raddr_b in _POPS:
        p.read_b = Source(Read.SHARED, i.raddr_b, MUX_B in muxes)
    else:
        p.read_b = _source(i.raddr_b, File.B, MUX_B in muxes, issues)
    p.needs_mutex = i.raddr_a == 51 or (i.sig != 13 and i.raddr_b == 51)


def _source(addr: int, file: File, used: bool, issues: list[Issue]) -> Source | None:
    if addr < 32:
        return Source(Read.REGISTER, addr, used)
    if addr == NOP:
        return Source(Read.LATCH, addr, used) if used else None
    row = reader(file, addr)
    if row is None:
        if used:
            text = f"input address {addr} is unassigned; emulated as the element number (A) or QPU number (B)"
            issues.append(Issue(Level.UNKNOWN, "unassigned-read", text))
        return Source(Read.INPUT, addr, used)
    if row.graphics:
        text = f"input register {row.name} belongs to graphics, which is not emulated"
        issues.append(Issue(Level.UNKNOWN, "graphics-register", text))
        return Source(Read.INPUT, addr, used)
    return Source(Read.INPUT, addr, used)


def _rotation(p: Plan, i: Alu, mul_active: bool, issues: list[Issue]) -> None:
    """MUL rotation by small-immediate codes 48..63, with its hazards."""
    if i.sig != 13 or i.raddr_b < 48 or not i.op_mul or not mul_active:
        return
    p.rotate = R5_ROTATION if i.raddr_b == 48 else i.raddr_b - 48
    operands = {i.mul_a, i.mul_b}
    if p.rotate == R5_ROTATION and operands - {MUX_B}:
        p.forbid1 |= Effect.R5
    for n in range(4):
        if n in operands:
            p.forbid1 |= Effect.ACC0 << n
    if 4 <= p.rotate <= 12 and not operands & {0, 1, 2, 3} and operands & {4, MUX_A}:
        text = f"rotation by {p.rotate} of operands that only rotate within quads"
        issues.append(Issue(Level.WARN, "H7", text))


def _alu_rules(p: Plan, i: Alu, dests: tuple[Dest, Dest], muxes: set[int], issues: list[Issue]) -> None:
    """Hazards and same-instruction restrictions."""
    _finish(p, dests, (i.cond_add if i.op_add else 0, i.cond_mul))
    reads: list[tuple[File, int]] = [(File.A, i.raddr_a)]
    if i.sig != 13:
        reads.append((File.B, i.raddr_b))
    if MUX_A in muxes and i.raddr_a < 32:
        p.forbid1 |= 1 << i.raddr_a
    if MUX_B in muxes and i.sig != 13 and i.raddr_b < 32:
        p.forbid1 |= 1 << 32 + i.raddr_b
    if 4 in muxes or i.sig in (7, 8, 9, 10, 11, 12):
        p.forbid1 |= Effect.SFU
        p.forbid2 |= Effect.SFU
    uniform = any(addr == 32 for _, addr in reads)
    if uniform:
        p.forbid1 |= Effect.UNIFORMS
        p.forbid2 |= Effect.UNIFORMS
    if p.ends:
        p.effects |= Effect.END
        if any(
            d.place in (Place.A, Place.B) and _writes(d, c)
            for d, c in zip(dests, (i.cond_add, i.cond_mul), strict=True)
        ):
            issues.append(Issue(Level.UNKNOWN, "H19", "the program end instruction writes a physical register"))
    if p.switches:
        p.effects |= Effect.SWITCH
        p.forbid1 |= Effect.SWITCH
        p.forbid2 |= Effect.SWITCH
    if _end_forbid(dests, tuple(reads)):
        p.forbid1 |= Effect.END
        p.forbid2 |= Effect.END
        if p.ends:
            text = "a program end must not read uniforms, use the VPM or touch ra14/rb14"
            issues.append(Issue(Level.UNKNOWN, "H18", text))
    written = [d for d in dests if d.place is Place.IO]
    tmu = sorted({d.number for d in written if d.number in _TMU_WRITES})
    busy = len(tmu)
    busy += any(d.number in _SFU_WRITES for d in written)
    busy += p.load is not None
    busy += p.needs_mutex
    if busy > 1:
        text = "more than one of: TMU write, TMU load, SFU write, mutex read"
        issues.append(Issue(Level.UNKNOWN, "H12", text))
    if uniform and any((a - 56) & 3 for a in tmu):
        text = "a texture write takes a uniform of its own and cannot stand beside a uniform read"
        issues.append(Issue(Level.UNKNOWN, "H23", text))
    if uniform:
        p.s_with_uniform = next(((a - 56) >> 2 for a in tmu if not (a - 56) & 3), None)
    if any(addr == 48 for _, addr in reads) and any(d.number == 49 for d in written):
        issues.append(Issue(Level.UNKNOWN, "H16", "VPM read together with a VPM set-up"))


assert FILE_FREE_READS >= _POPS
