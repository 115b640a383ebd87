"""Generator of the V3D builder methods, `qpu/v3d/generated/*.py`, from the rows of operations, signals and addresses.

`common.py` has the methods that the builders of 4.2 and 7.1 share, and the builder type of kernels that run on both;
`asm42.py` and `asm71.py` add the rest.

Usage: ``python tools/gen_asm.py`` rewrites the files, ``--check`` compares them and exits 1 when they differ.
"""

from __future__ import annotations

import argparse
import keyword
import sys
from collections.abc import Iterable
from pathlib import Path

from qpu.core.isa import Isa, Unit
from qpu.core.optable import MagicRow, Op, OperandType, SignalRow
from qpu.v3d.ops import ROWS, modifiers
from qpu.v3d.regs import MAGIC_ROWS, SIGNAL_ROWS

C42, C71 = Isa.V3D42, Isa.V3D71
BOTH = (C42, C71)
CLASSES = {C42: "Asm42", C71: "Asm71"}
FILES = ("common.py", "asm42.py", "asm71.py")
_PARAMS = "cond: Cond | None = None, push: Push | None = None, update: Update | None = None, sig: SigArg | None = None,"
_PAYLOAD_DOC = {
    "workgroup_x": "At the start: workgroup id, x in bits 15:0 and y in 31:16; x alone where the dispatch has one row.",
    "workgroup_y": "At the start: the same register as workgroup_x; y is in bits 31:16.",
    "workgroup_z": "At the start: workgroup id z in bits 15:0, the index word in 31:16.",
    "local_index": "At the start: the same register as workgroup_z. Shifted right by 32 - L it is the index of the "
    "invocation in its workgroup, with L the binary logarithm of the workgroup size, at least 6.",
}
# Registers of the payload (v3d.md 10).
PAYLOAD = {
    C42: {"workgroup_x": 0, "workgroup_y": 0, "workgroup_z": 2, "local_index": 2},
    C71: {"workgroup_x": 3, "workgroup_y": 3, "workgroup_z": 2, "local_index": 2},
}


def method_names(op: Op) -> list[str]:
    """The Python names of an operation: its own, with an underscore if it is a Python keyword, and its aliases."""
    own = op.name + "_" if keyword.iskeyword(op.name) else op.name
    return [own, *op.aliases]


def builder_unit(op: Op, isa: Isa) -> Unit:
    """The ALU that the builder's own method of an operation uses."""
    return Unit.ADD if Unit.ADD in op.code[isa] else Unit.MUL


def _modifiers(op: Op, isa: Isa, unit: Unit) -> str:
    return "; ".join(f"{role}: {' '.join('.' + m for m in names)}" for role, names in modifiers(op, isa, unit).items())


def _describe(op: Op, isas: Iterable[Isa], unit: Unit) -> str:
    doc = op.doc if op.doc.endswith(".") else op.doc + "."
    mods = {isa: _modifiers(op, isa, unit) for isa in isas}
    if len(set(mods.values())) == 1:
        (text,) = set(mods.values())
        doc += f" Modifiers: {text}." if text else ""
    else:
        doc += "".join(f" Modifiers on {isa.label}: {text or 'none'}." for isa, text in mods.items())
    if op.graphics:
        doc += " Graphics only."
    return doc


def _wrap(doc: str, indent: str) -> list[str]:
    one = f'{indent}"""{doc}"""'
    if len(one) <= 120:
        return [one]
    head, _, rest = doc.partition(". ")
    lines = [f'{indent}"""{head}.', ""]
    line = indent
    for word in rest.split():
        if len(line) + len(word) + 1 > 118:
            lines.append(line.rstrip())
            line = indent
        line += word + " "
    return [*lines, line.rstrip(), f'{indent}"""']


def _operands(op: Op, null: str) -> tuple[str, str]:
    """(parameters, arguments for the core) of an operation."""
    params: list[str] = []
    args: list[str] = []
    d = op.operand("d")
    if d is None:
        args.append("ABSENT")
    elif op.name == "nop":
        args.append(null)
    elif d.type is OperandType.NONE and op.arity == 0:
        params.append("d: Dest | None = None")
        args.append(f"{null} if d is None else d")
    else:
        params.append("d: Dest")
        args.append("d")
    for role in ("a", "b"):
        if op.operand(role) is None:
            args.append("ABSENT")
        else:
            params.append(f"{role}: Source")
            args.append(role)
    text = ", ".join(params)
    return (text + ", /, " if text else ""), ", ".join(args)


def _method(op: Op, name: str, isas: Iterable[Isa], unit: Unit, where: str, returns: str) -> list[str]:
    params, args = _operands(op, "self._q.null" if where == "slot" else "self.null")
    flags = f"op_{op.name}, {args}, cond, push, update, sig)"
    if where == "slot":
        body = [f"self._q._mul(self._index, {flags}"]
    elif where == "abstract":
        body = ["raise NotImplementedError"]
    elif unit is Unit.ADD:
        body = ["slot = _new(self._slot)", "slot._q = self", f"slot._index = self._add({flags}", "return slot"]
    else:
        body = [f"self._mul_only({flags}"]
    return [
        f"    def {name}(",
        f"        self, {params}*, {_PARAMS}",
        f"    ) -> {returns}:",
        *_wrap(_describe(op, isas, unit), "        "),
        *(f"        {line}" for line in body),
        "",
    ]


def _slot(name: str, base: str, doc: str, muls: list[Op], isas: tuple[Isa, ...]) -> list[str]:
    lines = [f"class {name}({base}):", f'    """{doc}"""', "", "    __slots__ = ()", ""]
    for op in muls:
        for method in method_names(op):
            lines += _method(op, method, isas, Unit.MUL, "slot", "None")
    return lines


def _signals(rows: Iterable[SignalRow]) -> list[str]:
    lines: list[str] = []
    for row in rows:
        if row.kind == "rot":
            lines += [
                f"    def {row.name}(self, amount: int | Reg) -> Signal:",
                f'        """{row.doc} Lane j gets lane j - amount.',
                "",
                "        Accumulators rotate over all 16 lanes, registers inside each quad (device tests of",
                "        py-videocore6).",
                "",
                "        amount: 1..15 or -16..-1, or r5. It occupies read port B.",
                '        """',
                "        return self._rotation(amount)",
                "",
            ]
        elif row.names_destination:
            lines += [
                f"    def {row.name}(self, d: Dest) -> Signal:",
                f'        """{row.doc}"""',
                f"        return self._writing({row.bit}, d)",
                "",
            ]
        elif row.kind != "imm":
            lines += [f"    {row.name}: Final = Signal({row.bit})", f'    """{row.doc}"""']
    return lines


def _destinations(rows: Iterable[MagicRow], isa: Isa) -> list[str]:
    lines: list[str] = []
    for row in rows:
        made = "Reg" if row.kind == "acc" and row.n < 6 else "Dest"
        lines += [
            f"    {row.attribute}: ClassVar[{made}] = {made}(Isa.{isa.name}, {row.n}, True)",
            f'    """{row.doc}"""',
        ]
    return lines


def _head(doc: str, names: list[str], imports: list[str], ops: list[Op], std: str = "") -> list[str]:
    return [
        "# Generated by tools/gen_asm.py from qpu/v3d/ops.py and qpu/v3d/regs.py. Do not edit: change the rows.",
        f'"""{doc}"""',
        "",
        "from __future__ import annotations",
        "",
        *([std, ""] if std else []),
        *imports,
        "from qpu.v3d.ops import BY_NAME",
        "",
        f"__all__ = {names!r}".replace("'", '"'),
        "",
        "_new = object.__new__",
        *(f'op_{op.name} = BY_NAME["{op.name}"]' for op in ops),
        "LAYERS.add(__file__)",
        "",
        "",
    ]


def _shared(op: Op) -> bool:
    return all(isa in op.code for isa in BOTH) and builder_unit(op, C42) is builder_unit(op, C71)


def _common_magic() -> list[str]:
    """Builder names of the destinations that both chips have."""
    names = [{row.attribute for row in MAGIC_ROWS if isa in row.isas and row.attribute} for isa in BOTH]
    return [row.attribute for row in MAGIC_ROWS if set(BOTH) <= row.isas and row.attribute in names[0] & names[1]]


def common() -> str:
    """The source of common.py, before formatting."""
    muls = [op for op in ROWS if all(Unit.MUL in op.code.get(isa, ()) for isa in BOTH)]
    methods = [op for op in ROWS if set(BOTH) <= set(op.code)]
    lines = _head(
        "Methods, signals and registers that the builders of V3D 4.2 and 7.1 share; `Asm` is the type of either.",
        ["Asm", "AsmBase", "MulSlot"],
        [
            "from qpu.core import builder as core",
            "from qpu.core.locations import LAYERS",
            "from qpu.v3d.builder import Cond, Push, SigArg, Source, Update, V3dBuilder",
            "from qpu.v3d.operands import ABSENT, Dest, Reg, Signal",
        ],
        [op for op in ROWS if op in muls or _shared(op)],
        "from typing import ClassVar, Final, Generic, TypeAlias, TypeVar",
    )
    lines += _slot("MulSlot", "core.MulSlot", "The free mul half of an instruction: chain one operation.", muls, BOTH)
    lines += [
        "",
        'S = TypeVar("S", bound=MulSlot, covariant=True)',
        "",
        "",
        "class AsmBase(V3dBuilder, Generic[S]):",
        '    """Operations of both chips. Those of the add ALU return the free mul half for chaining."""',
        "",
        "    __slots__ = ()",
        "    _slot: type[S]",
        *(f"    {name}: ClassVar[Dest]" for name in _common_magic()),
        *(line for name, doc in _PAYLOAD_DOC.items() for line in (f"    {name}: ClassVar[Reg]", *_wrap(doc, "    "))),
        "",
        *_signals(row for row in SIGNAL_ROWS if set(BOTH) <= row.isas),
    ]
    for op in methods:
        unit = builder_unit(op, C42)
        returns = "object" if not _shared(op) else "S" if unit is Unit.ADD else "None"
        for name in method_names(op):
            lines += _method(op, name, BOTH, unit, "builder" if _shared(op) else "abstract", returns)
    lines += ["", "Asm: TypeAlias = AsmBase[MulSlot]"]
    return "\n".join(lines)


def chip(isa: Isa) -> str:
    """The source of asm42.py or asm71.py, before formatting."""
    name = CLASSES[isa]
    muls = [op for op in ROWS if Unit.MUL in op.code.get(isa, ())]
    more = [op for op in muls if not all(Unit.MUL in op.code.get(other, ()) for other in BOTH)]
    own = [op for op in ROWS if isa in op.code and not _shared(op)]
    slot = f"MulSlot{name[3:]}" if more else "MulSlot"
    lines = _head(
        f"The builder of {isa.label}: `{name}`.",
        [name, slot] if more else [name],
        [
            "from qpu.core.isa import Isa",
            "from qpu.core.locations import LAYERS",
            "from qpu.v3d.builder import Cond, Push, SigArg, Source, Update, registers",
            "from qpu.v3d.generated.common import AsmBase, MulSlot",
            "from qpu.v3d.instr import Alu",
            "from qpu.v3d.operands import ABSENT, Dest, Reg, Signal",
            "from qpu.v3d.pairing import idle",
        ],
        [op for op in ROWS if op in own or op in more],
        "from typing import ClassVar, Final",
    )
    if more:
        lines += [*_slot(slot, "MulSlot", f"The free mul half of an instruction of {isa.label}.", more, (isa,)), ""]
    lines += [
        f"class {name}(AsmBase[{slot}]):",
        f'    """Builder of {isa.label} programs (Raspberry Pi {4 if isa is C42 else 5}): registers ``rf[0..63]``, '
        + ("accumulators ``r0``..``r5``." if isa is C42 else "no accumulators."),
        "",
        *(["    Read ports are assigned by the builder."] if isa is C42 else []),
        "    One builder is for one thread; any number can be used at the same time.",
        '    """',
        "",
        "    __slots__ = ()",
        f"    isa = Isa.{isa.name}",
        f"    _idle = Alu(Isa.{isa.name}, idle(), idle())",
        f"    _registers = registers(Isa.{isa.name})",
        f"    _slot = {slot}",
        "",
        *_destinations((row for row in MAGIC_ROWS if isa in row.isas and row.attribute), isa),
        *(f"    {attribute} = _registers[{n}]" for attribute, n in PAYLOAD[isa].items()),
        "",
        *_signals(row for row in SIGNAL_ROWS if row.isas == {isa}),
    ]
    for op in own:
        unit = builder_unit(op, isa)
        for method in method_names(op):
            lines += _method(op, method, (isa,), unit, "builder", slot if unit is Unit.ADD else "None")
    return "\n".join(lines)


def formatted(source: str) -> str:
    """The source as ruff formats it, without unused imports."""
    import subprocess

    ruff = [sys.executable, "-m", "ruff"]
    for command in (
        [
            *ruff,
            "check",
            "--quiet",
            "--fix-only",
            "--select",
            "F401,I",
            "--stdin-filename",
            "qpu/v3d/generated/x.py",
            "-",
        ],
        [*ruff, "format", "--line-length", "120", "--stdin-filename", "x.py", "-"],
    ):
        source = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout
    return source


def sources() -> dict[str, str]:
    """Every generated module by file name."""
    return {"common.py": common(), "asm42.py": chip(C42), "asm71.py": chip(C71)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent.parent / "qpu" / "v3d" / "generated"
    differing = 0
    for name, raw in sources().items():
        source, file = formatted(raw), folder / name
        if args.check:
            if not file.exists() or file.read_text(encoding="utf-8") != source:
                print(f"{file.name} differs from what tools/gen_asm.py writes")
                differing = 1
        else:
            file.write_text(source, encoding="utf-8")
    return differing


if __name__ == "__main__":
    sys.exit(main())
