"""Table of the operations of VideoCore IV: one row each, which encoder, printer, builder, checker and emulator read.

Semantics: ``op.sem(v, a, b) -> V`` with operands already unpacked and rotated, ``op.carry(v, a, b,
result) -> M`` or None for "always clear". Z and N come from the 32-bit result, before packing. The engines apply packs,
conditions, write-back and flags, with the functions of `qpu.vc4.pack` and `qpu.vc4.sem`.

Operand types select conversions: unpacks deliver floats to operations with sources of type f32, and 16-bit packs
convert results of type f32 to binary16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qpu.core import semantics as core
from qpu.core.isa import Basis, Isa, Unit
from qpu.core.lanes import LaneOps, M, V
from qpu.core.optable import Code, Flags, Op, OperandType, Semantics, Table
from qpu.vc4 import sem

__all__ = [
    "ADD_OPS", "MUL_OPS", "SFU", "TABLE", "SfuFunction", "float_operands", "float_result", "is_move", "mul_op",
    "saturated",
]  # fmt: skip

_GUIDE = "VideoCore IV 3D architecture guide, QPU instruction encoding"
_HW = "py-videocore device tests"
_VC4C = "VC4C measurements"


def _op(
    name: str, operands: str, function: Semantics | None, doc: str, *, add: int | None = None, mul: int | None = None,
    sem_source: str = _HW, sem_basis: Basis = Basis.MEASURED, **columns: Any,
) -> Op:  # fmt: skip
    codes = {Unit.ADD: add, Unit.MUL: mul}
    return Op(
        name=name, operands=operands, code={Isa.VC4: {unit: Code(n) for unit, n in codes.items() if n is not None}},
        sem=function, doc=doc, source=f"code: {_GUIDE}; meaning: {sem_source}", code_basis=Basis.MANUAL,
        sem_basis=sem_basis, flags=Flags.NONE if name == "nop" else Flags.WORD, **columns,
    )  # fmt: skip


_F3, _I3, _B3, _U3 = "d:f32 a:f32 b:f32", "d:i32 a:i32 b:i32", "d:b32 a:b32 b:b32", "d:u32 a:u32 b:u32"
_V3 = "d:u8x4 a:u8x4 b:u8x4"
_ASSUMED, _MANUAL = Basis.ASSUMED, Basis.MANUAL
_MOVE: dict[str, tuple[str | int, ...]] = {"move": ("a", "a")}
_ZERO: dict[str, tuple[str | int, ...]] = {"zero": ("a", "a")}
_GT, _GT_F = {"c": "gt_s"}, {"c": "gt_f"}

TABLE = Table(
    Isa.VC4,
    (
        _op(
            "nop", "", None, "Nothing. The MUL nop with a destination writes old results (measured).",
            add=0, mul=0, sem_source="vc4asm addendum",
        ),
        _op("fadd", _F3, sem.fadd, "a + b, toward zero.", add=1, carry=sem.carry_positive, commutes=True,
            sem_source=f"{_HW}; rounding and special values: {_VC4C}"),
        # relation of fsub: unless the difference is a denormal, which counts as 0
        _op("fsub", _F3, sem.fsub, "a - b, toward zero.", add=2, carry=sem.carry_positive,
            relation={"z": "eq_f", "n": "lt_f", "c": "gt_f"},
            sem_source=f"{_HW}; rounding and special values: {_VC4C}"),
        _op("fmin", _F3, sem.fmin, "The smaller float.", add=3, carry=sem.carry_fgreater, relation=_GT_F,
            idioms=_MOVE),
        _op("fmax", _F3, sem.fmax, "The larger float.", add=4, carry=sem.carry_fgreater, relation=_GT_F,
            idioms=_MOVE),
        _op("fminabs", _F3, sem.fminabs, "The smaller magnitude.", add=5, carry=sem.carry_abs_greater),
        _op("fmaxabs", _F3, sem.fmaxabs, "The larger magnitude.", add=6, carry=sem.carry_abs_greater),
        _op("ftoi", "d:i32 a:f32", sem.ftoi, "Float to signed integer, toward zero; 0 when out of range.", add=7),
        _op("itof", "d:f32 a:i32", sem.itof, "Signed integer to float, toward zero.", add=8, carry=sem.carry_itof,
            sem_source=_VC4C, sem_basis=_ASSUMED),
        _op("add", _I3, core.add, "a + b modulo 2**32.", add=12, carry=core.carry_add, commutes=True, aliases=("iadd",),
            saturate=sem.saturate_add),
        _op("sub", _I3, core.sub, "a - b modulo 2**32.", add=13, carry=core.carry_sub, aliases=("isub",),
            relation={"z": "eq", "c": "lt_u"}, idioms=_ZERO, saturate=sem.saturate_sub),
        _op("shr", _U3, core.shr, "Logical shift right by b mod 32.", add=14, carry=sem.carry_shr),
        _op("asr", _I3, core.asr, "Arithmetic shift right by b mod 32.", add=15, carry=sem.carry_shr),
        _op("ror", _B3, core.ror, "Rotate right by b mod 32.", add=16),
        _op("shl", _B3, core.shl, "Shift left by b mod 32.", add=17, carry=sem.carry_shl),
        _op("min", _I3, core.smin, "The smaller signed integer.", add=18, carry=core.signed_greater, commutes=True,
            aliases=("imin",), relation=_GT, idioms=_MOVE),
        _op("max", _I3, core.smax, "The larger signed integer.", add=19, carry=core.signed_greater, commutes=True,
            aliases=("imax",), relation=_GT, idioms=_MOVE),
        _op("and", _B3, core.and_, "Bitwise and.", add=20, commutes=True, aliases=("band",), idioms=_MOVE),
        _op("or", _B3, core.or_, "Bitwise or; with equal operands the ADD ALU's move.", add=21, commutes=True,
            aliases=("bor",), idioms=_MOVE | {"zero": (0, 0), "ones": (-1, -1)}),
        _op("xor", _B3, core.xor, "Bitwise exclusive or.", add=22, commutes=True, aliases=("bxor",),
            relation={"z": "eq"}, idioms=_ZERO),
        _op("not", "d:b32 a:b32", sem.not_, "Bitwise complement.", add=23, aliases=("bnot",), idioms={"ones": (0,)}),
        _op("clz", "d:u32 a:b32", sem.clz, "Leading zero bits; 32 for 0.", add=24),
        _op("fmul", _F3, sem.fmul, "a * b, to nearest.", mul=1, commutes=True, sem_source=f"{_HW}; rounding: {_VC4C}",
            sem_basis=_ASSUMED),
        _op("mul24", _U3, core.mul24, "Product of the low 24 bits, unsigned, low 32 bits.", mul=2,
            carry=sem.carry_mul24, commutes=True, aliases=("imul24",)),
        _op("v8muld", _V3, sem.v8muld, "Byte by byte (a * b + 127) / 255.", mul=3, commutes=True, sem_basis=_ASSUMED),
        _op("v8min", _V3, sem.v8min, "Byte by byte the smaller; with equal operands the MUL ALU's move.", mul=4,
            commutes=True, idioms=_MOVE),
        _op("v8max", _V3, sem.v8max, "Byte by byte the larger.", mul=5, commutes=True, idioms=_MOVE),
        _op("v8adds", _V3, sem.v8adds, "Byte by byte min(a + b, 255).", add=30, mul=6, commutes=True),
        _op("v8subs", _V3, sem.v8subs, "Byte by byte max(a - b, 0).", add=31, mul=7, idioms=_ZERO),
    ),
)  # fmt: skip
"""Every operation, by name or alias."""


def _by_code(unit: Unit, size: int) -> tuple[Op | None, ...]:
    rows: list[Op | None] = [None] * size
    for op in TABLE:
        code = op.code[Isa.VC4].get(unit)
        if code is not None:
            rows[code.op] = op
    return tuple(rows)


ADD_OPS: tuple[Op | None, ...] = _by_code(Unit.ADD, 32)
"""Operations of the ADD ALU by opcode; None where the code (9..11, 25..29) is reserved."""

MUL_OPS: tuple[Op | None, ...] = _by_code(Unit.MUL, 8)
"""Operations of the MUL ALU by opcode."""


def mul_op(code: int) -> Op:
    """The MUL operation with opcode 0..7."""
    op = MUL_OPS[code]
    assert op is not None
    return op


def float_operands(op: Op) -> bool:
    """True when the operation reads floats: an unpacked file A operand is then converted to float."""
    return any(o.type is OperandType.F32 and o.role != "d" for o in op.parsed)


def float_result(op: Op) -> bool:
    """True when the operation produces a float: a 16-bit pack then produces binary16."""
    return any(o.type is OperandType.F32 and o.role == "d" for o in op.parsed)


def is_move(op: Op) -> bool:
    """True when the operation with two equal operands returns them unchanged."""
    return op.idioms.get("move") == ("a", "a")


def saturated(v: LaneOps[V, M], op: Op, a: V, b: V, result: V) -> V:
    """The result as packing sees it: saturated to 32 signed bits where `add` or `sub` overflowed, else unchanged."""
    if op.saturate is None:
        return result
    out: V = op.saturate(v, a, b, result)
    return out


@dataclass(frozen=True, slots=True)
class SfuFunction:
    """A special function: started by writing `address` (either file), result in r4 (rule H2 says when)."""

    name: str
    address: int
    sem: Callable[[Any, Any], Any]
    doc: str
    basis: Basis = Basis.MEASURED


SFU: dict[int, SfuFunction] = {
    52: SfuFunction("recip", 52, sem.recip, "1/a; infinity for 0."),
    53: SfuFunction("recipsqrt", 53, sem.rsqrt, "1/sqrt(abs(a))."),
    54: SfuFunction("exp", 54, sem.exp2, "2**a."),
    55: SfuFunction("log", 55, sem.log2, "log2(abs(a))."),
}
"""Special functions by write address."""
