"""Effects of VideoCore IV instructions and of their halves, for hazard checker, emulator and schedulers.

Resources: ``ra0``..``ra31``, ``rb0``..``rb31``, ``r0``..``r5``, ``flags``, ``semaphore0``..``semaphore15``,
``tmu0_result``, ``tmu1_result``, ``tlb_result``, and the effects of the rows in `qpu.vc4.regs` (``uniform``, ``sfu``,
``vpm_read``, ``tmu0_s`` ...). A special function writes ``sfu`` and, later, ``r4``. T, R and B writes of a TMU read
``uniform``; so does the S write that ends such a request, but that depends on earlier instructions.

Events: every signal by its first name but ``none``; ``load r4``, ``load tlb``, ``program end``, ``thread switch``;
``tlb write``; ``rotate X``, ``rotate by r5``; ``branch``; ``flow``: relevant to `qpu.vc4.hazards_flow`.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final

from qpu.core.effects import Effects, union
from qpu.core.isa import Unit
from qpu.core.optable import Token
from qpu.vc4 import regs
from qpu.vc4.decode import decode
from qpu.vc4.instr import Alu, Branch, Instr, Reserved, Semaphore
from qpu.vc4.ops import ADD_OPS
from qpu.vc4.pack import ALL, PACK_A, PACK_MUL
from qpu.vc4.regs import MUX_A, MUX_B, NOP, SIG_SMALL_IMM, File

__all__ = ["effects", "has_rotation", "mul_sources", "parts", "read_addresses", "sources", "write_targets"]

_A, _B = File.A, File.B  # enum members are slow to reach through their class
_FLOW_RESOURCES: Final = frozenset({"tmu_noswap", "vpm_read", "vr_setup", "vw_addr", "vdw_busy", "vdw_wait"})


def add_sources(i: Alu) -> tuple[int, ...]:
    """Muxes that the ADD operation reads."""
    op = ADD_OPS[i.op_add]
    if op is None:
        return (i.add_a, i.add_b)
    return (i.add_a, i.add_b)[: op.arity]


def mul_sources(i: Alu) -> tuple[int, ...]:
    """Muxes that the MUL operation reads."""
    return (i.mul_a, i.mul_b) if i.op_mul else ()


def sources(i: Alu, unit: Unit) -> tuple[int, ...]:
    """Muxes that the operation of one ALU reads."""
    return add_sources(i) if unit is Unit.ADD else mul_sources(i)


def has_rotation(i: Instr) -> bool:
    """True when the MUL output is rotated: code 48..63 and an operand that is not the constant itself."""
    return isinstance(i, Alu) and i.sig == SIG_SMALL_IMM and i.raddr_b >= 48 and any(m != MUX_B for m in mul_sources(i))


def read_addresses(i: Instr) -> tuple[tuple[File, int], ...]:
    """(file, address) of each register-file read of the instruction; address 39 reads nothing."""
    if isinstance(i, Branch):
        return ((_A, i.raddr_a),) if i.reg else ()
    if not isinstance(i, Alu):
        return ()
    found: list[tuple[File, int]] = []
    if i.raddr_a != NOP:
        found.append((_A, i.raddr_a))
    if i.raddr_b != NOP and i.sig != SIG_SMALL_IMM:
        found.append((_B, i.raddr_b))
    return tuple(found)


def write_targets(i: Instr) -> tuple[tuple[File, int, int], ...]:
    """(file, address, condition) of both results, the ADD side first; address 39 is left out.

    An ADD nop writes nothing to registers (vc4.md 9.4, measured): those are left out, too.
    """
    if isinstance(i, Reserved):
        return ()
    cond_add, cond_mul = (1, 1) if isinstance(i, Branch) else (i.cond_add, i.cond_mul)
    first, second = (_B, _A) if i.ws else (_A, _B)
    add, mul = (first, i.waddr_add, cond_add), (second, i.waddr_mul, cond_mul)
    if add[1] == NOP or (isinstance(i, Alu) and not i.op_add and _is_register(add[1])):
        return () if mul[1] == NOP else (mul,)
    return (add,) if mul[1] == NOP else (add, mul)


def _is_register(addr: int) -> bool:
    return addr < 36 or addr == 37


# The effects of parts are cached, so that values derived from them can be cached by identity.


@cache
def _read(file: File, addr: int) -> Effects:
    if addr < 32:
        return Effects(reads=frozenset({f"{file.prefix}{addr}"}))
    row = regs.reader(file, addr)
    if row is None or row.effect == "none":
        return Effects()
    events = {"flow"} if row.effect in _FLOW_RESOURCES else set()
    return Effects(reads=frozenset({row.effect}), tokens=row.tokens, events=frozenset(events))


@cache
def _write(file: File, addr: int, never: bool, whole: bool) -> Effects:
    """The effects of a result. never: its condition is `never`. whole: it is written in all lanes and bits."""
    row = regs.writer(file, addr) if addr >= 32 else None
    name = f"{file.prefix}{addr}" if row is None else row.effect
    if never and addr < 36:
        return Effects(tokens=frozenset() if row is None else row.tokens)
    if row is None or _is_register(addr):
        found = frozenset({name})
        return Effects(writes=found, partial=frozenset() if whole else found)
    events: set[str] = set()
    if row.unit in ("tlb", "colour"):
        events |= {"tlb write", "flow"}
    elif row.unit == "tmu" or row.effect in _FLOW_RESOURCES:
        events.add("flow")
    takes = row.unit == "tmu" and not name.endswith("_s")
    return Effects(
        frozenset({"uniform"} if takes else ()),
        frozenset({name, "r4"} if row.unit == "sfu" else {name}),
        tokens=row.tokens | {Token.UNIFORM} if takes else row.tokens,
        events=frozenset(events),
    )


@cache
def _accumulator(mux: int) -> Effects:
    return Effects(reads=frozenset({regs.ACCUMULATORS[mux]}))


@cache
def _rotation(rotated: frozenset[int], by_r5: bool) -> Effects:
    events = {f"rotate {regs.ACCUMULATORS[m]}" for m in rotated} | ({"rotate by r5"} if by_r5 else set())
    return Effects(frozenset({"r5"} if by_r5 else ()), events=frozenset(events))


@cache
def _flags(read: bool, written: bool) -> Effects:
    return Effects(frozenset({"flags"} if read else ()), frozenset({"flags"} if written else ()))


@cache
def _signal(code: int) -> Effects:
    row = regs.SIGNALS[code]
    events = {row.name}
    if row.loads_r4:
        events |= {"load r4", "load tlb"} if row.loads_r4 == "tlb" else {"load r4"}
    if row.ends:
        events.add("program end")
    if row.switches:
        events.add("thread switch")
    if code not in (0, SIG_SMALL_IMM):
        events.add("flow")
    loads = frozenset({f"{row.loads_r4}_result"} if row.loads_r4 else ())
    writes = frozenset({"r4"} if row.loads_r4 else ())
    return Effects(loads, writes, tokens=row.tokens, events=frozenset(events))


@cache
def _semaphore(number: int) -> Effects:
    return Effects(writes=frozenset({f"semaphore{number}"}), tokens=frozenset({Token.SEMAPHORE}))


_BRANCH: Final = Effects(events=frozenset({"branch"}))


def parts(i: Instr) -> list[Effects]:
    """The effects of the parts of an instruction; equal parts are the same object."""
    out: list[Effects] = [_read(file, addr) for file, addr in read_addresses(i)]
    for file, addr, cond in write_targets(i):
        out.append(_write(file, addr, not cond, cond == 1 and not _partial(i, file, addr)))
    if isinstance(i, Alu):
        out += [_accumulator(mux) for mux in (*add_sources(i), *mul_sources(i)) if mux < MUX_A]
        if has_rotation(i):
            out.append(_rotation(frozenset(m for m in mul_sources(i) if m < 4), i.raddr_b == 48))
        if i.sig != regs.SIG_ALU:
            out.append(_signal(i.sig))
    elif isinstance(i, Branch):
        out.append(_BRANCH)
        out.append(_flags(i.cond != 15, bool(i.reg and i.raddr_a & 1)))
        return out
    elif isinstance(i, Semaphore):
        out.append(_semaphore(i.number))
    elif isinstance(i, Reserved):
        return out
    if i.sf or i.cond_add > 1 or i.cond_mul > 1:
        out.append(_flags(i.cond_add > 1 or i.cond_mul > 1, bool(i.sf)))
    return out


def _partial(i: Instr, file: File, addr: int) -> bool:
    """True when the pack of the instruction does not write all bits of this destination."""
    if isinstance(i, Branch | Reserved) or not i.pack:
        return False
    if i.pm:
        row = PACK_MUL.get(i.pack)
        return row is not None and row.lanes != ALL and file is File(1 - i.ws) and addr == i.waddr_mul
    return file is _A and addr < 32 and PACK_A[i.pack].lanes != ALL


@lru_cache(1 << 12)
def _effects(i: Instr) -> Effects:
    return union(parts(i))


def effects(instr: Instr | int) -> Effects:
    """The effects of an instruction or word."""
    return _effects(decode(instr) if isinstance(instr, int) else instr)
