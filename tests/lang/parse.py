"""KIR and MIR from their text forms (`qpu.lang.text`)."""

from __future__ import annotations

import re
from typing import Any

from qpu.lang.inline_asm import Asm, Register, Step
from qpu.lang.kir import Access, Loop, Region, Request, Skip, Value
from qpu.lang.mir import Block, Fixed, Function, Imm, MOp, Operand

__all__ = ["kir_of", "mir_of"]

_NAMES = {c.__name__: c for c in (Access, Asm, Register, Request, Step)}


def kir_of(text: str) -> Region:
    """The region of a kernel."""
    return _Kir(text).top


class _Kir:
    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.values: dict[str, Value] = {}
        self.at = 0
        self.top = Region(None)
        self.block(self.top, 0)

    def block(self, region: Region, depth: int) -> str:
        """Operations up to the region's yield, whose line is the result."""
        pad = "  " * depth
        while self.at < len(self.lines):
            line = self.lines[self.at].removeprefix(pad)
            self.at += 1
            if line.startswith("yield"):
                return line
            self.one(line, region, depth)
        return ""

    def name(self, text: str, op: str, args: tuple[Value, ...], attr: Any, region: Region) -> Value:
        found = re.fullmatch(r"(%\d+):(\w)(~?)", text)
        assert found is not None, text
        made = Value(op, args, found[2], attr, region, None, bool(found[3]))
        self.values[found[1]] = made
        return made

    def some(self, text: str) -> tuple[Value, ...]:
        return tuple(self.values[n] for n in re.findall(r"%\d+", text))

    def one(self, line: str, region: Region, depth: int) -> None:
        line, _, attr = line.partition(" !")
        made, _, rest = line.rpartition(" = ")
        op, _, operands = rest.partition(" ")
        if op not in ("loop", "if_any"):
            value = eval(attr, {"__builtins__": {}}, _NAMES) if attr else None
            args = self.some(operands)
            if made:
                region.ops.append(self.name(made, op, args, value, region))
            else:
                region.ops.append(Value(op, args, "", value, region, None, False))
            return
        inner = Region(region, loop=op == "loop")
        items, operands = operands.endswith(" items"), operands.removesuffix(" items")
        operands, _, parameters = operands.partition(" (")
        args = self.some(operands)
        if op == "loop":
            for n, p in enumerate(x for x in parameters.rstrip(")").split(", ") if x):
                inner.parameters.append(self.name(p, "parameter", (), n, inner))
        end = self.block(inner, depth + 1)
        yields, _, cond = end.partition(" while ")
        news = list(self.some(yields))
        done = Loop(inner, news, self.values[cond], items=items) if op == "loop" else Skip(inner, news)
        of = Value(op, args, "", done, region, None, False)
        region.ops.append(of)
        for n, r in enumerate(x for x in made.split(", ") if x):
            done.results.append(self.name(r, "result", (of,), n, region))


def mir_of(text: str) -> Function:
    """The function of a program."""
    first, *lines = text.splitlines()
    blocks: dict[str, Block] = {}
    for line in lines:
        found = re.fullmatch(r"(\w+): depth=(\d+) pending=(-?\d+)", line)
        if found:
            blocks[found[1]] = Block(found[1], int(found[2]), pending=int(found[3]))
    now = next(iter(blocks.values()))
    for line in lines:
        if not line.startswith("  "):
            now = blocks[line.partition(":")[0]]
        elif line.startswith("  -> "):
            target, _, condition = line[5:].partition(" ")
            now.branch = (blocks[target], condition)
        elif line.startswith("  | "):
            now.falls = blocks[line[4:]]
        else:
            now.ops.append(_operation(line[2:]))
    return Function(list(blocks.values()), int(first.split()[1]))


def _operation(line: str) -> MOp:
    op, _, rest = line.partition(" ")
    words = rest.split(" ")
    dst, a, b = (_operand(x.rstrip(",")) for x in words[:3])
    m = MOp("" if op == "-" else op, dst, a, b)
    for word in words[3:]:
        name, _, value = word.partition("=")
        setattr(m, name, _operand(value) if name == "sig_dst" else eval(value, {"__builtins__": {}}, {"Sig": int}))
    return m


def _operand(text: str) -> Operand | None:
    if text == "-":
        return None
    if text.startswith("#"):
        return Imm(int(text[1:]))
    kind, colon, n = text.partition(":")
    return Fixed(kind, int(n)) if colon else int(text[1:])
