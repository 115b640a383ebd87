"""KIR and MIR as text, a line an operation, for reports of faults and for tests, which parse it back.

KIR: `%3:f~ = fadd %1, %2`; `~` for values whose lanes may differ, `!` before an attribute. A loop or skipped part is
followed by its region, indented, which ends with `yield`. MIR: blocks by name, `r3` for registers, `#4` for small
immediates, `rf:3` for places, then whatever is not ordinary by name.
"""

from __future__ import annotations

from typing import Any

from qpu.lang.kir import Loop, Region, Skip, Value
from qpu.lang.mir import Fixed, Function, Imm, MOp, Operand

__all__ = ["kir_text", "mir_text"]


def kir_text(top: Region) -> str:
    """A kernel's region as text."""
    printer = _Kir()
    printer.region(top, 0)
    return "\n".join(printer.lines) + "\n"


class _Kir:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[int, str] = {}

    def _named(self, v: Value) -> str:
        """The name of a value that is made here."""
        name = self.names.setdefault(id(v), f"%{len(self.names)}")
        return f"{name}:{v.type}{'~' if v.varying else ''}"

    def _list(self, values: Any) -> str:
        return ", ".join(self.names[id(v)] for v in values)

    def region(self, region: Region, depth: int) -> None:
        for v in region.ops:
            self._one(v, depth)

    def _one(self, v: Value, depth: int) -> None:
        attr, pad = v.attr, "  " * depth
        if not isinstance(attr, Loop | Skip):
            operands = self._list(v.args)
            made = f"{self._named(v)} = " if v.type else ""
            more = "" if attr is None else f" !{attr!r}"
            self.lines.append(f"{pad}{made}{v.op}{' ' + operands if operands else ''}{more}")
            return
        operands = self._list(v.args)
        inside = ""
        if isinstance(attr, Loop):
            inside = f" ({', '.join(self._named(p) for p in attr.region.parameters)}){' items' if attr.items else ''}"
        at = len(self.lines)
        self.lines.append("")
        self.region(attr.region, depth + 1)
        end = f" while {self.names[id(attr.cond)]}" if isinstance(attr, Loop) else ""
        self.lines.append(f"{pad}  yield {self._list(attr.yields)}{end}".rstrip())
        results = ", ".join(self._named(r) for r in attr.results)
        self.lines[at] = f"{pad}{results + ' = ' if results else ''}{v.op} {operands}{inside}"


def mir_text(function: Function) -> str:
    """A function as text."""
    lines = [f"registers {function.registers}"]
    for block in function.blocks:
        lines.append(f"{block.name}: depth={block.depth} pending={block.pending}")
        lines += [f"  {_operation(m)}" for m in block.ops]
        if block.branch is not None:
            lines.append(f"  -> {block.branch[0].name} {block.branch[1]}".rstrip())
        if block.falls is not None:
            lines.append(f"  | {block.falls.name}")
    return "\n".join(lines) + "\n"


_PLAIN = MOp("")
_SLOTS = tuple(n for n in MOp.__slots__ if n not in ("op", "dst", "a", "b", "loc"))


def _operation(m: MOp) -> str:
    operands = ", ".join(_operand(x) for x in (m.dst, m.a, m.b))
    more = " ".join(_more(n, getattr(m, n)) for n in _SLOTS if getattr(m, n) != getattr(_PLAIN, n))
    return f"{m.op or '-'} {operands} {more}".rstrip()


def _more(name: str, value: Any) -> str:
    return f"{name}={_operand(value) if name == 'sig_dst' else repr(value).replace(' ', '')}"


def _operand(x: Operand | None) -> str:
    if x is None:
        return "-"
    if isinstance(x, Imm):
        return f"#{x.n}"
    return f"{x.kind}:{x.n}" if isinstance(x, Fixed) else f"r{x}"
