"""The parser of one operation: instruction name, extensions and operands."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qpu.errors import suggest
from qpu.vc4.vc4asm.expr import Environment, Parser, comment_help
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.names import OPCODES
from qpu.vc4.vc4asm.operands import Operand, Operation
from qpu.vc4.vc4asm.registers import NOP_REG, ROTATE_BY_R5, Reg
from qpu.vc4.vc4asm.values import Value, described

__all__ = ["parse_operand", "parse_operation"]

_HEAD = re.compile(r"\s*([A-Za-z_]\w*)((?:\.\w+)*)")
_SIMPLE = re.compile(r"\s*([A-Za-z_]\w*|-)((?:\.\w+)*)\s*(,|$)")
_EXT = re.compile(r"\s*\.(\w+)")
_ROTATE = re.compile(r"\s*(<<|>>)(?![<>])")


def extensions(parser: Parser) -> list[tuple[str, int]]:
    """The ``.ext`` suffixes that come next, with the position of each name."""
    found: list[tuple[str, int]] = []
    while True:
        match = _EXT.match(parser.text, parser.pos)
        if match is None:
            if parser.peek() == ".":
                raise Fault("extension", "an extension is missing after the dot", parser.pos)
            return found
        found.append((match.group(1), match.start(1)))
        parser.pos = match.end()


def _suffixes(match: re.Match[str]) -> Sequence[tuple[str, int]]:
    """The extensions in the second group of `match`, with the position of each name."""
    names = match.group(2)
    if not names:
        return ()
    at = match.start(2)
    return [(ext.group(1), at + ext.start(1)) for ext in _EXT.finditer(names)]


def parse_operand(parser: Parser) -> Operand:
    """Parse an operand: expression, extensions, and an optional rotation after them."""
    pos = parser.skip()
    value: Value = parser.expression()
    exts: list[tuple[str, int]] = []
    if parser.peek() == ".":
        exts = extensions(parser)
        match = _ROTATE.match(parser.text, parser.pos)
        if match is not None:
            if not isinstance(value, Reg):
                raise Fault("rotation", f"{described(value)} with extensions cannot be rotated", match.start(1))
            parser.pos = match.end()
            count = parser.expression(10)
            if isinstance(count, Reg) and count.mux == 5:
                value = value.rotated(ROTATE_BY_R5)
            elif isinstance(count, int):
                value = value.rotated((-count if match.group(1) == "<<" else count) & 15)
            else:
                raise Fault("rotation", f"a register rotates by an integer or by r5, not by {described(count)}", pos)
            exts += extensions(parser)
    return Operand(value, exts, pos)


def parse_operation(text: str, env: Environment) -> Operation:
    """Parse the operation in `text` (no labels, no ``;``); positions are relative to `text`."""
    match = _HEAD.match(text)
    if match is None:
        parser = Parser(text, env)
        raise Fault(
            "syntax", f"an instruction cannot start with {parser.rest()}", parser.skip(), help=comment_help(text)
        )
    name = match.group(1)
    pos = match.start(1)
    info = OPCODES.get(name)
    if info is None:
        raise unknown_instruction(name, pos)
    exts = _suffixes(match)
    operands: list[Operand] = []
    at = match.end()
    while (simple := _SIMPLE.match(text, at)) is not None:  # fast path: most operands are names
        word = simple.group(1)
        found = NOP_REG if word == "-" else env.lookup(word)
        if found is None:
            break
        operands.append(Operand(found, _suffixes(simple), simple.start(1)))
        at = simple.end()
        if not simple.group(3):
            return Operation(info, exts, operands, pos)
    parser = Parser(text, env, at)
    if not operands and parser.peek() == ".":
        exts = [*exts, *extensions(parser)]
    if operands or parser.peek():
        operands += parser.listed(lambda: parse_operand(parser))
        if parser.peek():
            raise Fault("syntax", f"expected ',' or ';' after an operand, found {parser.rest()}", parser.pos)
    return Operation(info, exts, operands, pos)


def unknown_instruction(name: str, pos: int) -> Fault:
    """The fault for a word that is neither instruction nor macro."""
    return Fault("unknown-instruction", f"{name!r} is neither an instruction nor a macro", pos,
                 help=suggest(name, OPCODES))  # fmt: skip
