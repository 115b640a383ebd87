"""Forms of generated V3D programs: lists to draw from, and the forms found in a program's words.

A form is a tuple of strings and numbers. `catalogue` lists what the generator must produce; `forms_of` says what a
word is. A test compares the two, so that no operation or addressing form drops out unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op
from qpu.emu.v3d.tmu import Action, decode_request
from qpu.v3d.codes import CONDS, IMM_SIGS, MSFIGN, PUSHES, SIGNALS, UPDATES, cond_field
from qpu.v3d.decode import decode
from qpu.v3d.instr import Alu, AluHalf, Branch, Sig, Src, SrcKind
from qpu.v3d.ops import table, variants

Form = tuple[Any, ...]
UNITS = (Unit.ADD, Unit.MUL)
BRANCH_CONDS = ("", "a0", "na0", "alla", "anyna", "anya", "allna")
NOT_COMPUTE = Sig.LDVARY | Sig.LDTLB | Sig.LDTLBU
NO_RESULT = {"nop", "tmuwt"}  # written by pieces of their own
SFU_MAGIC = range(19, 25)
DATA_NAMES = (11, 38, 39)
ROUTES = ("none", "tmuc", "wrtmuc", "tmuau", "ldunifrf")


def _ordered(op: Op, a: str, b: str) -> tuple[str, str]:
    """The modifiers of both operands; in a fixed order where the order of operands chooses the operation."""
    return (a, b) if op.order is None or a >= b else (b, a)


@cache
def operations(isa: Isa) -> tuple[Form, ...]:
    """("op", name, unit, a, b, d): every operation with a meaning, on each unit, with every modifier it can fold."""
    found: list[Form] = []
    for op in table(isa):
        if op.graphics or op.name in NO_RESULT:
            continue
        for unit in UNITS:
            if unit not in op.code[isa]:
                continue
            kinds = variants(op, isa, unit)
            for role in range(3):
                for name in dict.fromkeys(k[role] for k in kinds):
                    match = next(k for k in kinds if k[role] == name and not any(k[r] for r in range(3) if r != role))
                    form = ("op", op.name, str(unit), *_ordered(op, match[0], match[1]), match[2])
                    if form not in found:
                        found.append(form)
    return tuple(found)


@cache
def conditions() -> tuple[Form, ...]:
    """("cond", add cond, push, update, mul cond, push, update): all that encode."""
    names = [(c, "", "") for c in ("", *CONDS)]
    names += [("", p, "") for p in PUSHES if p] + [("", "", u) for u in UPDATES]
    keys = [a + m for a in names for m in names]
    return tuple(("cond", *k) for k in keys if cond_field(k) is not None)


@cache
def immediates(isa: Isa) -> tuple[Form, ...]:
    """("imm", operand slot, index)."""
    return tuple(("imm", slot, n) for n in range(48) for slot in ("add a", "add b", "mul a", "mul b"))


@cache
def signals(isa: Isa) -> tuple[Form, ...]:
    """("sig", bits): every signal set of compute programs, immediates and rotations apart."""
    other = NOT_COMPUTE | Sig.ROT | Sig.IMM_A | Sig.IMM_B | Sig.IMM_C | Sig.IMM_D
    return tuple(("sig", int(s)) for s in SIGNALS[isa] if s and not s & other)


@cache
def rotations(isa: Isa) -> tuple[Form, ...]:
    """("rot", amount index, operand kind): 4.2 only."""
    if isa is not Isa.V3D42:
        return ()
    return tuple(("rot", n, kind) for n in range(32) for kind in ("ACC", "RF"))


@cache
def destinations(isa: Isa) -> tuple[Form, ...]:
    """("dst", unit, magic number): broadcast, null and, on 4.2, SFU destinations."""
    numbers = [5, 6, 55, *([0, 1, 2, 3, *SFU_MAGIC] if isa is Isa.V3D42 else [])]
    return tuple(("dst", str(unit), n) for n in numbers for unit in UNITS)


@cache
def requests() -> tuple[Form, ...]:
    """("tmu", configuration byte, data words, route of the byte): everything that has a known result."""
    found: list[Form] = []
    kinds = [
        (byte, data)
        for byte in range(256)
        for data in range(5)
        if not (r := decode_request(byte, data)).problem
        and (r.expected == data or (r.action is Action.CACHE and byte & 7 == 7))
    ]
    kinds = [(b, d) for b, d in kinds if decode_request(b, d).action is not Action.CACHE or b & 7 == 7 or b == 0x80]
    for i, (byte, data) in enumerate(kinds):
        routes = ROUTES if byte == 0xFF else ROUTES[1:]
        found += [("tmu", byte, data, routes[(i + k) % len(routes)]) for k in range(2)]
    found += [("tmu", 0xFF, 0, "none"), ("tmu", 0xFF, 1, "none")]
    return tuple(dict.fromkeys(found))


@cache
def branches() -> tuple[Form, ...]:
    """("branch", condition, ignored lanes, target kind, uniform move, link)."""
    found: list[Form] = [("branch", c, m, "rel", "", False) for c in BRANCH_CONDS for m in MSFIGN]
    found += [
        ("branch", BRANCH_CONDS[(i + j) % 7], MSFIGN[(i + j) % 3], bdi, bdu, bool((i + j) % 2))
        for i, bdi in enumerate(("abs", "rel", "rf", "lri"))
        for j, bdu in enumerate(("", "abs", "rel", "rf"))
    ]
    return tuple(found)


_PIECES = ("loop", "rewind", "unifa", "stale", "switch", "tmuwt", "mask", "together", "call", "sequence", "numbers")
SPECIAL: tuple[Form, ...] = tuple(("piece", name) for name in _PIECES)


@cache
def catalogue(isa: Isa) -> tuple[tuple[Form, ...], ...]:
    """The lists a generator takes turns in drawing from."""
    return (
        operations(isa),
        conditions(),
        immediates(isa),
        signals(isa),
        rotations(isa),
        destinations(isa),
        requests(),
        branches(),
        SPECIAL,
    )


def _sources(half: AluHalf) -> list[Src]:
    return [s for s in (half.a, half.b) if s is not None]


def forms_of(isa: Isa, word: int) -> Iterator[Form]:
    """The forms of one instruction word, TMU requests and pieces apart."""
    i = decode(isa, word)
    if isinstance(i, Branch):
        yield "branch", i.cond, i.msfign, i.bdi, i.bdu if i.ub else "", i.link
        return
    assert isinstance(i, Alu)
    imms = Sig.NONE
    for sig in IMM_SIGS:
        imms |= i.sig & sig
    for unit, half in zip(UNITS, (i.add, i.mul), strict=True):
        mods = [s.mod for s in _sources(half)] + ["", ""]
        yield "op", half.op.name, str(unit), *_ordered(half.op, mods[0], mods[1]), half.pack
        for name, src in (("a", half.a), ("b", half.b)):
            if src is not None and src.kind is SrcKind.IMM:
                yield "imm", f"{unit} {name}", src.n
            if src is not None and i.sig & Sig.ROT and unit is Unit.MUL:
                yield "rot", i.raddr_b, src.kind.name
        if half.dst is not None and half.dst.magic:
            yield "dst", str(unit), half.dst.n
    if i.sig_dst is None:
        a, m = i.add, i.mul
        yield "cond", a.cond, a.push, a.update, m.cond, m.push, m.update
    rest = i.sig & ~(imms | Sig.ROT)
    if rest:
        yield "sig", int(rest)
