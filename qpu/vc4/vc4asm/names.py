"""Tables of the instruction and extension names of the language, derived from `qpu.vc4.regs` and `qpu.vc4.ops`."""

from __future__ import annotations

from dataclasses import dataclass

from qpu.core.isa import Unit
from qpu.vc4 import ops, regs

__all__ = [
    "ALU_CONDS", "BRANCH_CONDS", "DST_CONDS", "DST_PACKS", "OPCODES", "OP_PACKS", "OP_UNPACKS", "SRC_UNPACKS",
    "OpInfo", "PackName",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class OpInfo:
    """An instruction name of the language.

    kind: ``alu``, ``mov``, ``ldi``, ``nop``, ``read``, ``sem``, ``bra``, ``sig``. add, mul: its opcode on that ALU, -1
    when the ALU lacks it or the name excludes that ALU. sources: number of source operands. code: a further
    number that depends on the kind.
    """

    name: str
    kind: str
    add: int = -1
    mul: int = -1
    sources: int = 0
    code: int = 0


def _opcodes() -> dict[str, OpInfo]:
    table: dict[str, OpInfo] = {}
    for op in ops.TABLE:
        if op.name == "nop":
            continue
        units = op.code[ops.TABLE.isa]
        add = units[Unit.ADD].op if Unit.ADD in units else -1
        mul = units[Unit.MUL].op if Unit.MUL in units else -1
        n = op.arity
        table[op.name] = OpInfo(op.name, "alu", add, mul, n)
        if add >= 0 and mul >= 0:
            table["a" + op.name] = OpInfo("a" + op.name, "alu", add, -1, n)
            table["m" + op.name] = OpInfo("m" + op.name, "alu", -1, mul, n)
    table["mov"] = OpInfo("mov", "mov", 21, 4)
    table["amov"] = OpInfo("amov", "mov", 21, -1)
    table["mmov"] = OpInfo("mmov", "mov", -1, 4)
    table["nop"] = OpInfo("nop", "nop", 0, 0)
    table["anop"] = OpInfo("anop", "nop", 0, -1)
    table["mnop"] = OpInfo("mnop", "nop", -1, 0)
    table["read"] = OpInfo("read", "read")
    table["ldi"] = OpInfo("ldi", "ldi", code=0)
    table["ldipes"] = OpInfo("ldipes", "ldi", code=1)
    table["ldipeu"] = OpInfo("ldipeu", "ldi", code=3)
    table["sacq"] = OpInfo("sacq", "sem", code=16)
    table["srel"] = OpInfo("srel", "sem", code=0)
    table["bra"] = OpInfo("bra", "bra", code=0)
    table["brr"] = OpInfo("brr", "bra", code=1)
    for row in regs.SIGNALS:
        if row.code <= 12 and row.code != 1:
            for name in row.names:
                table[name] = OpInfo(name, "sig", code=row.code)
    return table


OPCODES = _opcodes()
"""Every instruction name."""

_SHORT = frozenset("z zs nz zc n ns nn nc c cs cc".split())
DST_CONDS = {name: row.code for row in regs.CONDS for name in row.names if name != "always"}
"""Conditions after a destination."""
ALU_CONDS = {name: code for name, code in DST_CONDS.items() if name not in _SHORT}
"""Conditions after an operation."""
BRANCH_CONDS = {name: row.code for row in regs.BRANCH_CONDS for name in row.names if name.startswith(("all", "any"))}
"""Conditions after ``bra`` and ``brr``."""


@dataclass(frozen=True, slots=True)
class PackName:
    """The codes of a pack extension: for file A (-1: none) and for the MUL ALU (-1: none).

    needs: ``i`` or ``f`` when the result of the operation must be of that type, else empty.
    """

    file_a: int
    mul: int
    needs: str = ""


def _dst_packs() -> dict[str, PackName]:
    table = {"32": PackName(0, 0), "32s": PackName(8, -1), "32si": PackName(8, -1), "32clamp": PackName(8, -1)}
    for half, code in (("16a", 1), ("16b", 2)):
        for needs in ("", "i", "f"):
            table[half + needs] = PackName(code, -1, needs)
        table[half + "s"] = PackName(code + 8, -1)
        table[half + "si"] = PackName(code + 8, -1, "i")
        table[half + "clamp"] = PackName(code + 8, -1, "i")
    for name in ("8888", "8abcd"):
        table[name] = PackName(3, 3)
        table[name + "i"] = PackName(3, -1)
        table[name + "s"] = PackName(11, 11)
        table[name + "si"] = PackName(11, -1)
        table[name + "clamp"] = PackName(11, 11)
    table["8888sf"] = PackName(-1, 3)
    table["8abcdsf"] = PackName(-1, 11)
    table["8ddupe"] = PackName(3, 3)
    table["8ddupeclamp"] = PackName(11, 11)
    for i, c in enumerate("abcd"):
        table[f"8{c}"] = PackName(4 + i, 12 + i)
        table[f"8{c}i"] = PackName(4 + i, -1)
        table[f"8{c}s"] = PackName(12 + i, 4 + i)
        table[f"8{c}clamp"] = PackName(12 + i, 4 + i)
        table[f"8{c}si"] = PackName(12 + i, -1)
        table[f"8{c}sf"] = PackName(-1, 4 + i)
    return table


DST_PACKS = _dst_packs()
"""Pack extensions after a destination.

The reference assembler gives the colour forms that saturate all four bytes code 11 and the ones without ``s`` on a
single byte codes 12..15; the guide has 3 and 4..7 only. This assembler gives the same codes, with a warning, except for
``.8888sf``, which gives 3, so that the documented code has a form.
"""


def _op_packs() -> dict[str, tuple[int, int]]:
    table: dict[str, tuple[int, int]] = {}
    for name, row in DST_PACKS.items():
        if name == "32si":
            continue
        table["pack" + name] = (0, row.file_a) if row.file_a >= 0 else (1, row.mul)
    table["pack16bs"] = (0, 2)  # as in the reference assembler, which does not saturate here; .pack16bsi does
    return table


OP_PACKS = _op_packs()
"""Pack extensions after an operation: (pm, code), which do not depend on the destination."""


def _unpacks() -> dict[str, tuple[int, str]]:
    table = {"32": (0, ""), "8dr": (3, ""), "8ddupe": (3, "")}
    for name, code in (("16a", 1), ("16b", 2), ("8a", 4), ("8b", 5), ("8c", 6), ("8d", 7)):
        for needs in ("", "i", "f"):
            table[name + needs] = (code, needs)
    return table


SRC_UNPACKS = _unpacks()
"""Unpack extensions after a source: (code, type that the consuming operation must take)."""
OP_UNPACKS = {"unpack" + name: row for name, row in SRC_UNPACKS.items()}
"""Unpack extensions after an operation."""
