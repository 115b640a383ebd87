"""Execution plans of VideoCore IV instructions, made once per word: operands, destinations, hazards, issues, counts.

A `Plan` is data only; both engines read it. Hazards are those of `qpu.vc4.rules`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from qpu.core.hazards import Rule
from qpu.core.isa import Isa
from qpu.core.optable import Op, Semantics
from qpu.emu.vc4.faults import Level
from qpu.errors import Severity
from qpu.vc4.decode import decode
from qpu.vc4.hazards import facts_of
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, Reserved, Semaphore
from qpu.vc4.ops import ADD_OPS, MUL_OPS, float_operands, float_result, is_move
from qpu.vc4.pack import PACK_A, PACK_MUL, UNPACK, Pack
from qpu.vc4.regs import (
    MUX_A,
    MUX_B,
    NOP,
    READS,
    SIG_SMALL_IMM,
    SIGNALS,
    BranchCond,
    File,
    branch_cond,
    file_free_write,
    reader,
    small_imm_value,
    writer,
)
from qpu.vc4.rules import RULES

__all__ = [
    "COUNTS", "DISTANCES", "FILES", "WINDOWS", "Counts", "Dest", "Half", "Issue", "Place", "Plan", "Read", "Source",
    "file_registers", "level", "over_branch", "plan",
]  # fmt: skip

WINDOWS: Final = RULES.windows[Isa.VC4]
FILES: Final = WINDOWS.bits("H1")
"""Effect bits of writes to the registers of file A (the lower 32 of these bits) and file B."""
_FIRST_FILE: Final = (FILES & -FILES).bit_length() - 1
_SAME, _NEXT, _SECOND, _THIRD = WINDOWS.at
_LATER: Final = _NEXT | _SECOND | _THIRD
_OVER: Final = 256  # past all windows: shift of register writes when a taken branch follows them


def file_registers(bits: int) -> Iterator[tuple[int, bool]]:
    """The physical registers with set effect bits: number (file B from 32 on), whether a branch was taken since."""
    for over in (False, True):
        found = (bits >> (_OVER if over else 0) & FILES) >> _FIRST_FILE
        while found:
            yield found.bit_length() - 1, over
            found &= ~(1 << found.bit_length() - 1)


DISTANCES: Final = ((1 << _OVER) - 1) & ~FILES
"""Effect bits of the other rules about distances."""


def over_branch(effects: int) -> int:
    """The effects of a last delay slot, as they count at the target of the taken branch.

    vc4asm's hello_fft writes a register in that slot and reads the new value at the target, which works on silicon.
    So H1 is a warning there.
    """
    return effects & ~FILES | (effects & FILES) << _OVER


def level(rule: Rule) -> Level:
    """How the emulator treats a program that breaks a rule of the checker."""
    return Level.UNKNOWN if rule.severity is Severity.ERROR else Level.WARN


class Place(enum.Enum):
    """Kind of destination."""

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

    register: ra0..31 are 0..31, rb0..31 are 32..63, r0..r5 are 64..69; -1 elsewhere. unit: as of `regs.Register`.
    """

    place: Place
    number: int
    file: File = File.A
    register: int = -1
    unit: str = ""


class Read(enum.Enum):
    """What a read port delivers."""

    LATCH = "latch"
    REGISTER = "register"
    SMALL_IMM = "small_imm"
    INPUT = "input"
    SHARED = "shared"  # the value that port A pops


@dataclass(frozen=True, slots=True)
class Source:
    """A read port. index: register number, input address or small-immediate value. used: an operand takes it."""

    read: Read
    index: int
    used: bool


class Issue(NamedTuple):
    """A finding about an instruction by itself, whatever was executed before it."""

    level: Level
    rule: str
    message: str


@dataclass(frozen=True, slots=True)
class Half:
    """The part of an instruction that one ALU executes.

    cond: write condition; pack: applied to the result; active: it has an effect; move: its result is its operand;
    sources: the operands that the operation takes.
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
    """What one execution of an instruction adds to the statistics, for each QPU."""

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
    """One instruction, prepared for execution."""

    word: int
    instr: Instr
    effects: int = 0  # bits of `WINDOWS` that matter to the next three instructions
    forbid1: int = 0  # effects that the last instruction must not have
    forbid2: int = 0  # ... that the second last must not have
    forbid3: int = 0  # ... that the third last must not have
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
    load: int | None = None  # TMU whose answer is loaded into r4
    ends: bool = False
    switches: bool = False
    needs_mutex: bool = False
    reads_file: int = 0  # effect bits of the physical registers that operands take
    s_with_uniform: int | None = None  # TMU number when S is written beside a uniform read
    branch: BranchCond | None = None
    # Derived from the fields above, for the scheduler's inner loop
    blocks: bool = False  # mutex or semaphore
    is_branch: bool = False
    redirects: bool = False  # branch, program end, thread switch
    checked: bool = False  # every execution needs a check


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
    if row is None or row.graphics:
        return Dest(Place.GRAPHICS, waddr, file)
    return Dest(Place.IO, waddr, file, -1, row.unit)


def _dests(waddr_add: int, waddr_mul: int, ws: int) -> tuple[Dest, Dest]:
    add_file, mul_file = (File.B, File.A) if ws else (File.A, File.B)
    return _dest(waddr_add, add_file), _dest(waddr_mul, mul_file)


_POPS = frozenset(r.addr for r in READS if r.pops)


def _same(x: Dest, y: Dest) -> bool:
    """Whether two destinations are the same register."""
    if x.place in (Place.R5_QUADS, Place.R5_ALL):
        return y.place in (Place.R5_QUADS, Place.R5_ALL)
    if x.place is Place.NONE or x.number != y.number:
        return False
    if x.place is not y.place:
        return False
    return x.place is Place.ACC or file_free_write(x.number)


def plan(word: int) -> Plan:
    """The plan of an instruction word. Every word has one: reserved encodings become issues."""
    instr = decode(word)
    p = Plan(word, instr)
    if isinstance(instr, Alu):
        _alu(p, instr)
    elif isinstance(instr, LoadImm | Semaphore):
        _load(p, instr)
    elif isinstance(instr, Branch):
        _branch(p, instr)
    _rules(p)
    p.blocks = p.needs_mutex or isinstance(instr, Semaphore)
    p.is_branch = isinstance(instr, Branch)
    p.redirects = p.is_branch or p.ends or p.switches
    p.checked = bool(p.issues) or p.s_with_uniform is not None
    return p


def _rules(p: Plan) -> None:
    """Apply the rules of the checker: issues of the instruction by itself, and effects that must not precede it."""
    instr = p.instr
    facts = facts_of(instr)
    before = facts.before & ~(FILES & ~p.reads_file)
    p.effects = facts.after & _LATER
    p.forbid1, p.forbid2, p.forbid3 = before & _NEXT, before & _SECOND, before & _THIRD
    p.forbid1 |= (p.forbid1 & FILES) << _OVER
    issues: dict[str, Issue] = {}
    for breach in facts.breaches:
        if _static(p, breach.rule):
            found = _reserved(p) if breach.rule == "decode" else level(RULES[breach.rule])
            issues.setdefault(breach.rule, Issue(found, breach.rule, breach.message))
    for rule, _ in WINDOWS.lanes(before & facts.after & _SAME):
        issues.setdefault(rule.id, Issue(level(rule), rule.id, rule.summary))
    p.issues += tuple(issues.values())


def _static(p: Plan, rule: str) -> bool:
    """Whether a rule about one instruction is broken whatever the flags and values; engines check the other rules."""
    halves = (p.add, p.mul)
    if rule == "H13":
        return p.add.dest.place is Place.IO
    if rule == "H14":
        return not p.merged and any(h.dest.place is Place.IO and not h.cond for h in halves)
    return rule != "H24"


def _reserved(p: Plan) -> Level:
    """The level of a reserved encoding. Reserved packs have a likely meaning; the other encodings have none."""
    undefined = isinstance(p.instr, Reserved) or (isinstance(p.instr, Branch) and p.branch is None)
    return Level.STOP if undefined or (isinstance(p.instr, Alu) and ADD_OPS[p.instr.op_add] is None) else Level.UNKNOWN


def _destinations(p: Plan, i: Alu | LoadImm | Semaphore | Branch) -> tuple[Dest, Dest]:
    """Both destinations; sets whether both halves write the same register (`merged`, `clash`)."""
    add, mul = _dests(i.waddr_add, i.waddr_mul, i.ws)
    for dest in (add, mul):
        if dest.place is Place.GRAPHICS:
            text = f"output register {dest.number} belongs to graphics, which is not emulated"
            p.issues += (Issue(Level.UNKNOWN, "graphics-register", text),)
    if not isinstance(i, Branch):
        p.merged = _same(add, mul) and add.place is Place.IO and 2 <= i.cond_add ^ 1 == i.cond_mul
        p.clash = _same(add, mul) and add.place is not Place.IO
    return add, mul


def _sfu_ops(p: Plan) -> int:
    return sum(h.dest.unit == "sfu" for h in (p.add, p.mul))


def _load(p: Plan, i: LoadImm | Semaphore) -> None:
    add, mul = _destinations(p, i)
    add_pack, mul_pack = _packs(i.pm, i.pack, add, mul)
    p.add = Half(_nop(), 0, 0, i.cond_add, add, add_pack, False, _writes(add, i.cond_add))
    p.mul = Half(_nop(), 0, 0, i.cond_mul, mul, mul_pack, False, _writes(mul, i.cond_mul))
    p.flags_from = "add" if i.sf and i.cond_add else ""
    p.counts = Counts(sfu_ops=_sfu_ops(p))


def _branch(p: Plan, i: Branch) -> None:
    p.branch = branch_cond(i.cond)
    add, mul = _destinations(p, i)
    for dest in (add, mul):
        if dest.place in (Place.IO, Place.GRAPHICS, Place.HOST):
            text = f"a branch link to output register {dest.number} has an unknown result"
            p.issues += (Issue(Level.UNKNOWN, "branch-link", text),)
    p.add = Half(_nop(), 0, 0, 1, add, None, False, _writes(add, 1))
    p.mul = Half(_nop(), 0, 0, 1, mul, None, False, _writes(mul, 1))
    p.reads_file = _file_bit(File.A, i.raddr_a) if i.reg else 0
    p.counts = Counts(branches=1)


def _writes(dest: Dest, cond: int) -> bool:
    """Whether a result is written. A write triggers an output register whatever the condition (H14)."""
    if dest.place is Place.NONE:
        return False
    return bool(cond) or dest.place is Place.IO


def _packs(pm: int, pack: int, add: Dest, mul: Dest) -> tuple[Pack | None, Pack | None]:
    """The pack rows of both halves."""
    if not pack:
        return None, None
    if not pm:
        row = PACK_A[pack]
        return (row if add.place is Place.A else None), (row if mul.place is Place.A else None)
    return None, PACK_MUL.get(3 if pack == 11 else pack)  # vc4asm writes 11 for 3


def _file_bit(file: File, number: int) -> int:
    return 1 << _FIRST_FILE + 32 * file + number


def _signal(p: Plan, code: int) -> None:
    """Enter what the signal does, and the issues of signals that belong to shaders."""
    row = SIGNALS[code]
    p.ends, p.switches = row.ends, row.switches
    p.load = {"tmu0": 0, "tmu1": 1}.get(row.loads_r4)
    issue: tuple[Level, str, str] | None = None
    if row.name == "bkpt":
        issue = Level.STOP, "breakpoint", "software breakpoint: the QPU stops"
    elif row.switches:
        text = "user programs are single-threaded: a switch loses accumulators and flags"
        issue = Level.WARN, "thread-switch", text
    elif row.loads_r4 == "tlb":
        text = f"signal {row.name} loads from the tile buffer, which is not emulated"
        issue = Level.UNKNOWN, "graphics-signal", text
    elif row.graphics:
        issue = Level.UNKNOWN, "scoreboard", "scoreboard signals belong to fragment shaders"
    if issue is not None:
        p.issues += (Issue(*issue),)


def _half(op: Op, a: int, b: int, cond: int, dest: Dest, pack: Pack | None, active: bool) -> Half:
    sources = frozenset((a, b)[: op.arity])
    return Half(op, a, b, cond, dest, pack, float_result(op), active, a == b and is_move(op), sources, op.arity == 2)


def _alu(p: Plan, i: Alu) -> None:
    _signal(p, i.sig)
    op_add, op_mul = ADD_OPS[i.op_add] or _nop(), MUL_OPS[i.op_mul]
    assert op_mul is not None
    add, mul = _destinations(p, i)
    add_pack, mul_pack = _packs(i.pm, i.pack, add, mul)
    if i.sf:
        source, cond = ("add", i.cond_add) if i.op_add else ("mul", i.cond_mul)
        p.flags_from = source if cond else ""
    add_active = bool(i.op_add) and (_writes(add, i.cond_add) or p.flags_from == "add")
    if not i.op_add and add.place in (Place.IO, Place.HOST):
        # An ADD nop does not write to registers (docs/hardware/vc4.md 9.4, measured).
        text = f"an ADD nop names output register {add.number}: the result is unknown; emulated as no write"
        p.issues += (Issue(Level.UNKNOWN, "add-nop-write", text),)
    # A MUL operation feeds the latch that MUL nops repeat, even without a destination.
    mul_active = bool(i.op_mul and i.cond_mul) or _writes(mul, i.cond_mul) or p.flags_from == "mul"
    p.add = _half(op_add, i.add_a, i.add_b, i.cond_add, add, add_pack, add_active)
    p.mul = _half(op_mul, i.mul_a, i.mul_b, i.cond_mul, mul, mul_pack, mul_active)
    muxes: frozenset[int] = frozenset().union(*(h.sources for h in (p.add, p.mul) if h.active))
    _reads(p, i, muxes)
    if i.unpack:
        _unpack(p, i, muxes)
    if i.sig == SIG_SMALL_IMM and i.raddr_b >= 48 and i.op_mul and mul_active:
        p.rotate = R5_ROTATION if i.raddr_b == 48 else i.raddr_b - 48
    p.counts = Counts(
        add_ops=int(i.op_add != 0),
        mul_ops=int(i.op_mul != 0),
        fadds=int(op_add.name in ("fadd", "fsub")),
        fmuls=int(op_mul.name == "fmul"),
        sfu_ops=_sfu_ops(p),
        thread_switches=int(p.switches),
    )


def _unpack(p: Plan, i: Alu, muxes: frozenset[int]) -> None:
    """Enter the unpack of r4 (pm = 1) or of port A: as a float if any float operation takes the value."""
    floats = any(MUX_A in h.sources and float_operands(h.op) for h in (p.add, p.mul))
    p.unpack_r4 = bool(i.pm)
    if not i.pm and i.raddr_a >= 32:
        if MUX_A in muxes and i.raddr_a != NOP:
            text = "unpacking an input register: unknown on hardware; emulated as no unpacking"
            p.issues += (Issue(Level.UNKNOWN, "unpack-input", text),)
        return
    row = UNPACK[i.unpack]
    p.unpack = row.as_float if i.pm or floats else row.as_int


def _reads(p: Plan, i: Alu, muxes: frozenset[int]) -> None:
    """Enter what the two read ports deliver."""
    immediate = i.sig == SIG_SMALL_IMM
    p.read_a = _source(p, i.raddr_a, File.A, MUX_A in muxes)
    if immediate:
        p.read_b = Source(Read.SMALL_IMM, small_imm_value(i.raddr_b), MUX_B in muxes)
    elif i.raddr_b == i.raddr_a and i.raddr_b in _POPS:
        p.read_b = Source(Read.SHARED, i.raddr_b, MUX_B in muxes)
    else:
        p.read_b = _source(p, i.raddr_b, File.B, MUX_B in muxes)
    rows = [reader(File.A, i.raddr_a), None if immediate else reader(File.B, i.raddr_b)]
    p.needs_mutex = any(row is not None and row.unit == "mutex" for row in rows)
    if any(row is not None and row.effect == "uniform" for row in rows):
        tmu = [h.dest.number - 56 for h in (p.add, p.mul) if h.dest.unit == "tmu"]
        p.s_with_uniform = next((n >> 2 for n in tmu if not n & 3), None)


def _source(p: Plan, addr: int, file: File, used: bool) -> Source | None:
    if addr < 32:
        if used:
            p.reads_file |= _file_bit(file, addr)
        return Source(Read.REGISTER, addr, used)
    if addr == NOP:
        return Source(Read.LATCH, addr, used) if used else None
    row = reader(file, addr)
    issue: tuple[str, str] | None = None
    if row is not None and row.graphics:
        issue = "graphics-register", f"input register {row.name} belongs to graphics, which is not emulated"
    elif row is None and used:
        text = f"input address {addr} is unassigned; emulated as the element number (A) or QPU number (B)"
        issue = "unassigned-read", text
    if issue is not None:
        p.issues += (Issue(Level.UNKNOWN, *issue),)
    return Source(Read.INPUT, addr, used)
