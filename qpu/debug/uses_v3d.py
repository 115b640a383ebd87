"""The registers that a V3D instruction uses, as bits and halves, for the sanitizer and the debugger."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from qpu.core.isa import Isa
from qpu.emu.v3d.alu import ACC
from qpu.emu.v3d.prepare import Prepared
from qpu.v3d import regs
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Sig, Src, SrcKind

__all__ = ["ACCUMULATORS", "FLAG_A", "FLAG_B", "NAMES", "REGISTERS", "HalfUse", "Use", "use_of"]

FLAG_A, FLAG_B = ACC + 6, ACC + 7
REGISTERS = ACC + 8
ACCUMULATORS = sum(1 << n for n in range(ACC, ACC + 6))
NAMES = [f"rf{n}" for n in range(64)] + [f"r{n}" for n in range(6)] + ["flags a", "flags b"]
_IMPLICIT = {"flags_a": FLAG_A, "flags_b": FLAG_B}  # rtop is 0 at the start


class HalfUse(NamedTuple):
    """What one ALU does. reads: registers. cond: register of the flags of its condition, -1 for none; inverted: the
    condition holds where the flag is not set. register: the register it writes, -1 for none. sink: what else it
    writes: ``address``, ``data``, ``lane0`` or empty. push, update: it writes flags. mixes: lanes of the result come
    from other lanes. known: the result does not depend on the operands."""

    reads: tuple[int, ...]
    cond: int
    inverted: bool
    register: int
    sink: str
    push: bool
    update: bool
    mixes: bool
    known: bool
    implied: tuple[int, ...]


class Use(NamedTuple):
    """What an instruction does with registers. needs: bits of those whose old value matters. writes: bits of those
    that it writes in all lanes. loads: registers that signals load. pops: ldtmu takes a result, for register `popped`
    (-1: for something else)."""

    needs: int
    writes: int
    halves: tuple[HalfUse, ...]
    loads: tuple[int, ...]
    pops: bool = False
    popped: int = -1


def _source(src: Src) -> int:
    return src.n + (ACC if src.kind is SrcKind.ACC else 0)


def _register(isa: Isa, dst: Dst) -> int:
    """The number of a destination, -1 when it is not a register."""
    if not dst.magic:
        return dst.n
    row = regs.magic(isa, dst.n)
    kind = "" if row is None else row.kind
    if kind == "acc":
        return ACC + (5 if dst.n == regs.R5REP else dst.n)
    if kind == "sfu" and isa is Isa.V3D42:
        return ACC + 4
    return 0 if kind == "rf0" else -1


def _sink(isa: Isa, dst: Dst) -> str:
    row = regs.magic(isa, dst.n) if dst.magic else None
    kinds = {"tmu_start": "address", "tmu_data": "data", "tmu_config": "lane0", "unifa": "lane0"}
    return "" if row is None else kinds.get(row.kind, "")


def _half(isa: Isa, i: Alu, half: AluHalf, rotates: bool) -> HalfUse:
    op, dst = half.op, half.dst
    reads = [_source(s) for s in (half.a, half.b) if s is not None and s.kind is not SrcKind.IMM]
    if rotates and not i.raddr_b:
        reads.append(ACC + 5)
    same = half.a is not None and half.b is not None and half.a == half.b and not half.a.mod
    reads += [_IMPLICIT[name] for name in op.implicit_reads if name in _IMPLICIT]
    register, sink = -1, ""
    if dst is not None and op.name not in ("nop", "tmuwt"):
        register, sink = _register(isa, dst), _sink(isa, dst)
    return HalfUse(
        tuple(reads),
        -1 if not half.cond else FLAG_B if half.cond.endswith("b") else FLAG_A,
        half.cond.startswith("ifn"),
        register,
        sink,
        bool(half.push),
        bool(half.update),
        rotates or op.lane_op or (register in (0, ACC + 5) and dst is not None and dst.magic),
        op.sem is None or (same and op.name in ("sub", "xor")),
        tuple(_IMPLICIT[name] for name in op.implicit_writes if name in _IMPLICIT),
    )


@lru_cache(maxsize=1 << 14)
def use_of(p: Prepared) -> Use:
    """What an instruction does with registers."""
    i = p.instr
    if isinstance(i, Branch):
        needs = 1 << FLAG_A if i.cond else 0
        if "rf" in (i.bdi, i.bdu):
            needs |= 1 << i.raddr_a
        return Use(needs, 0, (), ())
    rot = bool(i.sig & Sig.ROT)
    halves = [_half(p.isa, i, i.add, False), _half(p.isa, i, i.mul, rot)]
    halves = [h for h in halves if h.reads or h.register >= 0 or h.push or h.update or h.sink or h.implied]
    loads = [] if i.sig_dst is None else [_register(p.isa, i.sig_dst)]
    if i.sig & (Sig.LDUNIF | Sig.LDUNIFA):
        loads.append(ACC + 5 if p.isa is Isa.V3D42 else 0)
    needs = writes = 0
    for h in halves:
        needs |= 0 if h.known else sum(1 << r for r in set(h.reads))
        if h.cond >= 0:
            needs |= 1 << h.cond
        if h.register >= 0:
            if h.cond >= 0:
                needs |= 1 << h.register
            else:
                writes |= 1 << h.register
        if h.push:
            writes |= 1 << FLAG_A | 1 << FLAG_B
        if h.update:
            needs |= 1 << FLAG_A
        for r in h.implied:
            writes |= 1 << r
    for r in loads:
        if r >= 0:
            writes |= 1 << r
    pops = bool(i.sig & Sig.LDTMU)
    return Use(needs, writes, tuple(halves), tuple(r for r in loads if r >= 0), pops, loads[0] if pops else -1)
