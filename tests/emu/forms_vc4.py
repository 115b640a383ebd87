"""Forms of generated VideoCore IV programs: lists to draw from, and the forms found in a program's words.

A form is a tuple. `catalogue` lists what the generator must produce, `forms_of` says what a word is; a test compares
the two, so that no operation or addressing form drops out unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

from qpu.vc4.decode import decode
from qpu.vc4.instr import Alu, Branch, LoadImm, Semaphore
from qpu.vc4.ops import ADD_OPS, MUL_OPS, float_operands

Form = tuple[Any, ...]
ADD = tuple(n for n, op in enumerate(ADD_OPS) if op is not None and n)
MUL = tuple(n for n, op in enumerate(MUL_OPS) if op is not None and n)
FLOAT_ADD = tuple(n for n in ADD if float_operands(ADD_OPS[n]))  # type: ignore[arg-type]
INT_ADD = tuple(n for n in ADD if n not in FLOAT_ADD)
READS_A = (32, 38, 39, 49, 50)  # pieces do the rest: the VPM and the mutex
READS_B = (32, 38, 39, 49, 50)
WRITES = (*range(32, 36), 37, 39, *range(52, 56))
BRANCH_CONDS = (*range(12), 15)


@cache
def catalogue() -> tuple[tuple[Form, ...], ...]:
    """The lists a generator takes turns in drawing from."""
    operations: list[Form] = [("add", n, a) for n in ADD for a in range(8)]
    operations += [("mul", n, a) for n in MUL for a in range(8)]
    unpacks: list[Form] = [("unpack", u, pm, kind) for u in range(1, 8) for pm in (0, 1) for kind in ("float", "int")]
    packs: list[Form] = [
        ("pack", p, kind) for p in range(1, 16) for kind in ("add float", "add int", "mul float", "mul int")
    ]
    packs += [("pack mul", p, acc) for p in (3, 4, 5, 6, 7) for acc in (False, True)]
    conditions: list[Form] = [("cond", a, m) for a in range(8) for m in range(8)]
    conditions += [("flags", unit, c) for unit in ("add", "mul") for c in range(8)]
    immediates: list[Form] = [("imm", n) for n in range(48)]
    rotations: list[Form] = [("rotate", n, mux) for n in range(48, 64) for mux in (0, 1, 2, 3, 4, 5, 6)]
    ports: list[Form] = [("read", "a", n) for n in READS_A] + [("read", "b", n) for n in READS_B]
    ports += [("write", unit, n, ws) for unit in ("add", "mul") for n in WRITES for ws in (0, 1)]
    loads: list[Form] = [("ldi", mode, p) for mode in (0, 1, 3) for p in range(16)]
    loads += [("ldi flags", c) for c in range(8)]
    branches: list[Form] = [("branch", c, "rel", "none") for c in BRANCH_CONDS]
    branches += [
        ("branch", 15, kind, link)
        for kind in ("rel", "abs", "reg", "reg rel", "odd")
        for link in ("none", "add", "mul", "both")
    ]
    branches += [("branch", c, "reg", "add") for c in BRANCH_CONDS[::3]]
    vpm: list[Form] = [
        ("vpm", what, size, laned, h)
        for what in ("write", "read")
        for size in range(3)
        for laned in (0, 1)
        for h in (0, 1)
    ]
    vpm += [
        ("dma load", modew, v, pitch)
        for modew in (0, 2, 3, 4, 5, 6, 7)
        for v in (0, 1)
        for pitch in ("field", "extended")
    ]
    vpm += [("dma store", modew, h, block) for modew in (0, 2, 3, 4, 5, 6, 7) for h in (0, 1) for block in (0, 1)]
    others: list[Form] = [("tmu", tmu, n) for tmu in (0, 1) for n in (1, 2, 3, 4)]
    others += [("texture", tmu, kind) for tmu in (0, 1) for kind in ("raster", "lt", "t")]
    others += [("semaphore", n) for n in range(16)]
    others += [
        ("piece", n)
        for n in ("mutex", "host", "switch", "last switch", "uniforms", "relative uniforms", "noswap", "loop")
    ]
    return tuple(
        map(tuple, (operations, unpacks, packs, conditions, immediates, rotations, ports, loads, branches, vpm, others))
    )


def forms_of(word: int) -> Iterator[Form]:
    """The forms of one instruction word; pieces of several words apart."""
    i = decode(word)
    if isinstance(i, Semaphore):
        yield "semaphore", i.number
    elif isinstance(i, LoadImm):
        yield "ldi", i.mode, i.pack
        if i.sf:
            yield "ldi flags", i.cond_add
    elif isinstance(i, Branch):
        kind = ("odd" if i.raddr_a & 1 else "reg rel" if i.rel else "reg") if i.reg else "rel" if i.rel else "abs"
        link = {(True, True): "none", (False, True): "add", (True, False): "mul", (False, False): "both"}
        yield "branch", i.cond, kind, link[i.waddr_add == 39, i.waddr_mul == 39]
    elif isinstance(i, Alu):
        yield from _alu(i)


def _alu(i: Alu) -> Iterator[Form]:
    add, mul = ADD_OPS[i.op_add], MUL_OPS[i.op_mul]
    muxes: set[int] = set()
    floats = False
    if i.op_add and add is not None:
        yield "add", i.op_add, i.add_a
        muxes |= {i.add_a, i.add_b} if add.arity == 2 else {i.add_a}
    if i.op_mul:
        yield "mul", i.op_mul, i.mul_a
        muxes |= {i.mul_a, i.mul_b}
    place = 4 if i.pm else 6
    for op, taken in ((add, {i.add_a, i.add_b}), (mul, {i.mul_a, i.mul_b})):
        floats |= op is not None and float_operands(op) and place in taken
    if i.unpack and place in muxes and (i.pm or i.raddr_a < 32):
        yield "unpack", i.unpack, i.pm, "float" if floats else "int"
    if i.pack and i.pm and i.op_mul:
        yield "pack mul", i.pack, 32 <= i.waddr_mul < 36
    elif i.pack and not i.pm:
        unit = "mul" if i.ws else "add"
        op, waddr = (i.op_mul, i.waddr_mul) if i.ws else (i.op_add, i.waddr_add)
        if op and waddr < 32:
            kind = op == 1 if i.ws else op in (1, 2, 3, 4, 5, 6, 8)
            yield "pack", i.pack, f"{unit} {'float' if kind else 'int'}"
    yield "cond", i.cond_add, i.cond_mul
    if i.sf and (i.op_add or i.op_mul):
        yield ("flags", "add", i.cond_add) if i.op_add else ("flags", "mul", i.cond_mul)
    if i.sig == 13:
        if i.raddr_b < 48 and 7 in muxes:
            yield "imm", i.raddr_b
        if i.raddr_b >= 48 and i.op_mul:
            yield from (("rotate", i.raddr_b, mux) for mux in {i.mul_a, i.mul_b})
    elif i.raddr_b >= 32:
        yield "read", "b", i.raddr_b
    if i.raddr_a >= 32:
        yield "read", "a", i.raddr_a
    yield "write", "add", i.waddr_add, i.ws
    yield "write", "mul", i.waddr_mul, i.ws


def overrides(form: Form) -> list[dict[str, int]]:
    """Fields of an ALU instruction that show a form, alternatives to choose from."""
    kind, *rest = form
    if kind == "add":
        return [{"op_add": rest[0], "add_a": rest[1]}]
    if kind == "mul":
        return [{"op_mul": rest[0], "mul_a": rest[1]}]
    if kind == "unpack":
        u, pm, what = rest
        mux = 4 if pm else 6
        ops = FLOAT_ADD if what == "float" else INT_ADD
        return [{"unpack": u, "pm": pm, "pack": 0, "op_add": op, "add_a": mux, "mul_a": 0, "mul_b": 1} for op in ops]
    if kind == "pack":
        p, what = rest
        unit, number = what.split()
        if unit == "add":
            ops = (1, 2, 3, 8) if number == "float" else (7, 12, 13, 17, 20, 21)
            return [{"pack": p, "pm": 0, "ws": 0, "op_add": op, "waddr_add": r} for op in ops for r in (3, 9, 20)]
        ops = (1,) if number == "float" else MUL[1:]
        return [{"pack": p, "pm": 0, "ws": 1, "op_mul": op, "waddr_mul": r} for op in ops for r in (3, 9, 20)]
    if kind == "pack mul":
        return [{"pack": rest[0], "pm": 1, "op_mul": 1, "waddr_mul": r} for r in ((32, 33) if rest[1] else (3, 9, 20))]
    if kind == "cond":
        return [{"cond_add": rest[0], "cond_mul": rest[1]}]
    if kind == "flags":
        if rest[0] == "add":
            return [{"sf": 1, "op_add": op, "cond_add": rest[1]} for op in ADD]
        return [{"sf": 1, "op_add": 0, "waddr_add": 39, "op_mul": op, "cond_mul": rest[1]} for op in MUL]
    if kind == "imm":
        return [{"sig": 13, "raddr_b": rest[0], "op_add": op, "add_a": 7} for op in ADD]
    if kind == "rotate":
        return [{"sig": 13, "raddr_b": rest[0], "op_mul": op, "mul_a": rest[1]} for op in MUL]
    if kind == "read":
        field, mux = ("raddr_a", 6) if rest[0] == "a" else ("raddr_b", 7)
        return [{"sig": 1, field: rest[1], "op_add": op, "add_a": mux, "unpack": 0} for op in INT_ADD]
    assert kind == "write"
    unit, number, ws = rest
    op = {"op_add": 21} if unit == "add" else {"op_mul": 4}
    return [{f"waddr_{unit}": number, "ws": ws, f"cond_{unit}": c, **op, "pack": 0} for c in (1, 1, 2, 5)]


ALU_FORMS = frozenset({"add", "mul", "unpack", "pack", "pack mul", "cond", "flags", "imm", "rotate", "read", "write"})
VPM_MODES = tuple(product(range(3), (0, 1), (0, 1)))
