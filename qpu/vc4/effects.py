"""What a VideoCore IV instruction touches, by name: read by the checker, meant for a scheduler too.

Names are ``read X`` and ``write X`` for resources, plus a few marks. Resources: ra0..ra31, rb0..rb31, r0..r5, flags,
and the effects of the rows in `qpu.vc4.regs` (``uniform``, ``vpm_read``, ``sfu``, ``tmu0_s`` ...). Marks: see `MARKS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from qpu.core.optable import Token
from qpu.vc4 import regs
from qpu.vc4.decode import decode
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, Reserved, Semaphore
from qpu.vc4.pack import ALL, PACK_A, PACK_MUL
from qpu.vc4.regs import MUX_A, NOP, SIG_SMALL_IMM, File

__all__ = ["MARKS", "Effects", "effects", "has_rotation", "mul_sources", "read_addresses", "write_targets"]

MARKS = {
    "write sfu": "a special function is started (addresses 52..55)",
    "read r4": "an operand comes from r4",
    "load r4": "a signal loads r4 from TMU or tile buffer",
    "write r5": "r5 is written (address 37)",
    "rotate by r5": "the MUL output is rotated by r5",
    "rotate r0..r3": "a rotated MUL operand is an accumulator; see also `rotated`",
    "write unif_addr": "the uniform pointer is written (address 40)",
    "uniform access": "a uniform is read, or a texture write takes one",
    "write tmu_noswap": "the TMU exchange is configured (address 36)",
    "write tmu": "a TMU register is written (addresses 56..63)",
    "write tlb_z": "tile buffer Z is written",
    "read ms_mask": "the multisample mask is read",
    "branch": "a branch",
    "program end": "signals thrend and ldcend",
    "thread switch": "signals thrsw and lthrsw",
}


@dataclass(frozen=True, slots=True)
class Effects:
    """Effects of one instruction.

    reads, writes: resource names. marks: keys of `MARKS`. tokens: sequences whose order matters. rotated: accumulators
    that a rotation reads. conditional: resources that are written in some lanes or bits at most. A special function
    writes ``sfu`` and, later, ``r4``. T, R and B writes of a TMU read ``uniform``; so does the S write that ends such
    a request, which one instruction alone does not tell.
    """

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()
    tokens: frozenset[Token] = frozenset()
    rotated: frozenset[str] = frozenset()
    conditional: frozenset[str] = frozenset()


_UNARY = frozenset({7, 8, 23, 24})


def add_sources(i: Alu) -> tuple[int, ...]:
    """Muxes that the ADD operation reads."""
    if not i.op_add:
        return ()
    return (i.add_a,) if i.op_add in _UNARY else (i.add_a, i.add_b)


def mul_sources(i: Alu) -> tuple[int, ...]:
    """Muxes that the MUL operation reads."""
    return (i.mul_a, i.mul_b) if i.op_mul else ()


def has_rotation(i: Instr) -> bool:
    """True when the MUL output is rotated: code 48..63 and an operand that is not the constant itself."""
    return isinstance(i, Alu) and i.sig == SIG_SMALL_IMM and i.raddr_b >= 48 and any(m != 7 for m in mul_sources(i))


def read_addresses(i: Instr) -> tuple[tuple[File, int], ...]:
    """(file, address) of every register-file read that the instruction names; address 39 is none."""
    if isinstance(i, Branch):
        return ((File.A, i.raddr_a),) if i.reg else ()
    if not isinstance(i, Alu):
        return ()
    found: list[tuple[File, int]] = []
    if i.raddr_a != NOP:
        found.append((File.A, i.raddr_a))
    if i.raddr_b != NOP and i.sig != SIG_SMALL_IMM:
        found.append((File.B, i.raddr_b))
    return tuple(found)


def write_targets(i: Instr) -> tuple[tuple[File, int, int], ...]:
    """(file, address, condition) of both results, the ADD side first; address 39 is left out."""
    if isinstance(i, Reserved):
        return ()
    cond_add, cond_mul = (1, 1) if isinstance(i, Branch) else (i.cond_add, i.cond_mul)
    first, second = (File.B, File.A) if i.ws else (File.A, File.B)
    add, mul = (first, i.waddr_add, cond_add), (second, i.waddr_mul, cond_mul)
    if add[1] == NOP:
        return () if mul[1] == NOP else (mul,)
    return (add,) if mul[1] == NOP else (add, mul)


def _place(file: File, addr: int, *, read: bool) -> tuple[str, frozenset[Token]]:
    if addr < 32:
        return f"{file.prefix}{addr}", frozenset()
    row = regs.reader(file, addr) if read else regs.writer(file, addr)
    return ("none", frozenset()) if row is None else (row.effect, row.tokens)


def effects(instr: Instr | int) -> Effects:
    """Effects of an instruction or word."""
    return _effects(decode(instr) if isinstance(instr, int) else instr)


@lru_cache(maxsize=4096)
def _effects(i: Instr) -> Effects:
    reads: set[str] = set()
    writes: set[str] = set()
    marks: set[str] = set()
    tokens: set[Token] = set()
    conditional: set[str] = set()
    rotated: set[str] = set()
    for file, addr in read_addresses(i):
        name, order = _place(file, addr, read=True)
        reads.add(name)
        tokens |= order
    for file, addr, cond in write_targets(i):
        name, order = _place(file, addr, read=False)
        tokens |= order
        if cond or addr >= 36:  # a peripheral is triggered whatever the condition
            writes.add(name)
            if cond != 1 or _partial(i, file, addr):
                conditional.add(name)
        _mark_write(addr, marks)
        if 52 <= addr <= 55:
            writes.add("r4")
        elif addr >= 56 and addr & 3:
            reads.add("uniform")
            tokens.add(Token.UNIFORM)
    if isinstance(i, Alu):
        _alu_effects(i, reads, writes, marks, tokens, rotated)
    elif isinstance(i, LoadImm | Semaphore):
        if i.sf:
            writes.add("flags")
        if {i.cond_add, i.cond_mul} - {0, 1}:
            reads.add("flags")
        if isinstance(i, Semaphore):
            tokens.add(Token.SEMAPHORE)
            writes.add(f"semaphore{i.number}")
    elif isinstance(i, Branch):
        marks.add("branch")
        if i.cond != 15:
            reads.add("flags")
        if i.reg and i.raddr_a & 1:
            writes.add("flags")
    if "uniform" in reads:
        marks.add("uniform access")
    if "ms_mask" in reads:
        marks.add("read ms_mask")
    if "r4" in reads:
        marks.add("read r4")
    reads.discard("none")
    writes.discard("none")
    return Effects(*map(frozenset, (reads, writes, marks, tokens, rotated, conditional)))  # type: ignore[arg-type]


def _partial(i: Instr, file: File, addr: int) -> bool:
    """True when the pack of the instruction leaves bits of this destination as they were."""
    if isinstance(i, Branch | Reserved) or not i.pack:
        return False
    if i.pm:
        row = PACK_MUL.get(i.pack)
        return row is not None and row.lanes != ALL and file is File(1 - i.ws) and addr == i.waddr_mul
    return file is File.A and addr < 32 and PACK_A[i.pack].lanes != ALL


def _mark_write(addr: int, marks: set[str]) -> None:
    if addr == 37:
        marks.add("write r5")
    elif addr == 36:
        marks.add("write tmu_noswap")
    elif addr == 40:
        marks.add("write unif_addr")
    elif addr == 44:
        marks.add("write tlb_z")
    elif 52 <= addr <= 55:
        marks.add("write sfu")
    elif addr >= 56:
        marks.add("write tmu")
        if addr & 3:
            marks.add("uniform access")  # T, R and B take a word of texture set-up


def _alu_effects(
    i: Alu, reads: set[str], writes: set[str], marks: set[str], tokens: set[Token], rotated: set[str]
) -> None:
    for mux in (*add_sources(i), *mul_sources(i)):
        if mux < MUX_A:
            reads.add(regs.ACCUMULATORS[mux])
    if has_rotation(i):
        rotated.update(regs.ACCUMULATORS[m] for m in mul_sources(i) if m < 4)
        if rotated:
            marks.add("rotate r0..r3")
        if i.raddr_b == 48:
            marks.add("rotate by r5")
            reads.add("r5")
    if i.sf:
        writes.add("flags")
    if {i.cond_add, i.cond_mul} - {0, 1}:
        reads.add("flags")
    signal = regs.SIGNALS[i.sig]
    tokens |= signal.tokens
    if signal.loads_r4:
        marks.add("load r4")
        writes.add("r4")
        reads.add(f"{signal.loads_r4}_result")
    if signal.ends:
        marks.add("program end")
    if i.sig in (2, 6):
        marks.add("thread switch")
