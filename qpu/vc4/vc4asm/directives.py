"""The directives of the language, one function each. A directive that opens a block also executes it."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from qpu.vc4.encode import NOP_WORD
from qpu.vc4.vc4asm.budget import INCLUDE_SIZE
from qpu.vc4.vc4asm.engine import STANDARD_INCLUDE, Engine, Handler
from qpu.vc4.vc4asm.expr import Parser
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.symbols import ExpressionFunction, LineFunction, Macro
from qpu.vc4.vc4asm.text import Block, Lines, strip_comment
from qpu.vc4.vc4asm.values import LabelRef, Value, described, float_bits, truth

__all__ = ["DIRECTIVES"]

_NAME = re.compile(r"[A-Za-z_]\w*")
_BRANCH = re.compile(r".*?\.\s*(elseif|elif|else|endif)\b")
_REPEAT_LIMIT = 1_000_000
_INCLUDE_DEPTH = 32


def _inner(block: Block, at: int, closer: str, pos: int) -> Block:
    """The block that the directive on line `at` opens."""
    inner = block.inner(at)
    if inner is None:
        raise Fault("block-end", f"there is no .{closer} for this block", pos, help=f"end it with .{closer}")
    return inner


def _name(parser: Parser, what: str) -> tuple[str, int]:
    pos = parser.skip()
    match = _NAME.match(parser.text, pos)
    if match is None:
        raise Fault("directive-name", f"expected the name of {what}, found {parser.rest()}", pos)
    parser.pos = match.end()
    return match.group(), pos


def _end(parser: Parser) -> None:
    if parser.peek():
        raise Fault("trailing-text", f"unexpected {parser.rest()}", parser.pos)


def _values(parser: Parser) -> list[tuple[Value, int]]:
    found = parser.listed(parser.placed)
    _end(parser)
    return found


def _integer(value: Value, pos: int, what: str, low: int, high: int) -> int:
    if not isinstance(value, int):
        raise Fault("value-type", f"{what} is an integer, not {described(value)}", pos)
    if not low <= value <= high:
        raise Fault("value-range", f"{what} is {value}", pos, allowed=f"{low}..{high}")
    return value


def _parameters(parser: Parser) -> tuple[str, ...]:
    parser.expect("(", "before the parameters")
    names: list[str] = []
    if not parser.accept(")"):
        while True:
            name, pos = _name(parser, "a parameter")
            if name in names:
                raise Fault("parameter-twice", f"the parameter {name!r} appears twice", pos)
            names.append(name)
            if not parser.accept(","):
                break
        parser.expect(")", "after the parameters")
    return tuple(names)


# -- constants and functions ---------------------------------------------------------------


def _set(local: bool, final: bool, engine: Engine, parser: Parser, block: Block, at: int) -> None:
    name, pos = _name(parser, "a constant")
    if parser.pos < len(parser.text) and parser.text[parser.pos] == "(":
        parameters = _parameters(parser)
        parser.accept(",")
        start = parser.skip()
        if not parser.peek():
            raise Fault("missing-operand", f"the expression of {name} is missing", start)
        function = ExpressionFunction(name, parameters, engine.source, parser.text, start)
        engine.symbols.define_function(function, pos, local=local, final=final)
        return
    parser.expect(",", f"between {name} and its value")
    value = parser.expression()
    _end(parser)
    engine.symbols.define(name, value, pos, local=local, final=final)


def _unset(local: bool, engine: Engine, parser: Parser, block: Block, at: int) -> None:
    name, pos = _name(parser, "a constant")
    _end(parser)
    if not engine.symbols.remove(name, pos, local=local):
        engine.warn("unset", f"{name!r} is not defined here", pos)


def _func(engine: Engine, parser: Parser, block: Block, at: int) -> int:
    name, pos = _name(parser, "a function")
    parameters = _parameters(parser)
    _end(parser)
    body = _inner(block, at, "endf", pos)
    engine.symbols.define_function(LineFunction(name, parameters, engine.source, body), pos)
    return body.stop + 1


def _local(engine: Engine, parser: Parser, block: Block, at: int) -> int:
    pos = parser.pos - len(".local")
    _end(parser)
    body = _inner(block, at, "endloc", pos)
    engine.nested(body, {}, None, pos)
    return body.stop + 1


# -- macros and repetition ---------------------------------------------------------------


def _macro(engine: Engine, parser: Parser, block: Block, at: int) -> int:
    name, pos = _name(parser, "a macro")
    parameters: list[str] = []
    parser.accept(",")
    while parser.peek():
        parameter, where = _name(parser, "a parameter")
        if parameter in parameters:
            raise Fault("parameter-twice", f"the parameter {parameter!r} appears twice", where)
        parameters.append(parameter)
        if not parser.accept(","):
            _end(parser)
    body = _inner(block, at, "endm", pos)
    inner = block.lines.structure.nested.get(at)
    if inner is not None and inner < body.stop:
        engine.source = block.lines.sources[inner]
        raise Fault("macro-nested", "a macro cannot be defined inside another", engine.source[0].find("."),
                    help="define it before or after this one")  # fmt: skip
    engine.symbols.shadow(name, macro=True)
    engine.symbols.macros[name] = Macro(name, tuple(parameters), engine.source, body)
    return body.stop + 1


def _rep(engine: Engine, parser: Parser, block: Block, at: int) -> int:
    name, pos = _name(parser, "the counter")
    parser.expect(",", "between the counter and the number of repetitions")
    where = parser.skip()
    count = _integer(parser.expression(), where, "the number of repetitions", 0, _REPEAT_LIMIT)
    _end(parser)
    body = _inner(block, at, "endr", pos)
    source = engine.source
    for k in range(count):
        engine.nested(body, {name: k}, None, pos)
        engine.source = source
    return body.stop + 1


def _foreach(engine: Engine, parser: Parser, block: Block, at: int) -> int:
    name, pos = _name(parser, "the variable")
    parser.expect(",", "between the variable and its values")
    values = _values(parser)
    body = _inner(block, at, "endfor", pos)
    source = engine.source
    for value, _ in values:
        engine.nested(body, {name: value}, None, pos)
        engine.source = source
    return body.stop + 1


# -- conditions ---------------------------------------------------------------


def _conditional(engine: Engine, holds: bool, block: Block, at: int, pos: int) -> int:
    """Execute the branch of an .if that applies; returns the line after .endif."""
    end = _inner(block, at, "endif", pos).stop
    opened, lines = engine.source, block.lines
    chosen: Block | None = None
    seen_else = False
    start = at + 1
    for branch in lines.structure.branches[at]:
        if holds and chosen is None:
            chosen = Block(lines, start, branch)
        engine.source = lines.sources[branch]
        text = strip_comment(engine.source[0])
        match = _BRANCH.match(text)
        assert match is not None  # the structure found it
        name = match.group(1)
        parser = Parser(text, engine, match.end())
        start = branch + 1
        if name == "endif":
            _end(parser)
            break
        if seen_else:
            raise Fault("else-order", f".{name} after .else", text.find("."), help="make .else the last branch")
        if name == "else":
            _end(parser)
            seen_else = True
            holds = chosen is None
        else:
            where = parser.skip()
            holds = False
            if chosen is None:
                holds = truth(parser.expression(), where)
                _end(parser)
    engine.source = opened
    if chosen is not None:
        engine.budget.enter_if(pos)
        try:
            engine.run_block(chosen)
        finally:
            engine.budget.leave_if()
    return end + 1


def _if(engine: Engine, parser: Parser, block: Block, at: int) -> int:
    pos = parser.skip()
    holds = truth(parser.expression(), pos)
    _end(parser)
    return _conditional(engine, holds, block, at, pos)


def _ifset(engine: Engine, parser: Parser, block: Block, at: int) -> int:
    name, pos = _name(parser, "a constant, function or macro")
    _end(parser)
    symbols = engine.symbols
    defined = symbols.scope.find(name) is not None or symbols.scope.find_function(name) is not None
    holds = defined or name in symbols.macros
    return _conditional(engine, holds, block, at, pos)


def _no_block(what: str, engine: Engine, parser: Parser, block: Block, at: int) -> NoReturn:
    raise Fault("block-start", f"there is no {what} before this", len(parser.text) - len(parser.text.lstrip()))


def _assert(engine: Engine, parser: Parser, block: Block, at: int) -> None:
    pos = parser.skip()
    value = parser.expression()
    _end(parser)
    if not truth(value, pos):
        raise Fault("assertion", f"the assertion {parser.text[pos:].strip()!r} does not hold", pos)


# -- files ---------------------------------------------------------------


def _within(path: Path, root: str | None) -> Path | None:
    """`path` if it is inside `root` after following all links, else None."""
    if root is None:
        return path
    real = Path(os.path.realpath(path))
    return real if real.is_relative_to(os.path.realpath(root)) else None


def _read(path: Path, pos: int) -> str | None:
    """The text of a regular file of limited size; None when the file does not exist."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise Fault("include", f"{path} cannot be read: {why}", pos, help="check its name and permissions") from None
    try:
        state = os.fstat(fd)
        if stat.S_ISDIR(state.st_mode):
            return None
        if not stat.S_ISREG(state.st_mode):
            raise Fault("include", f"{path} is not a regular file", pos, help="copy its content to a file")
        if state.st_size > INCLUDE_SIZE:
            raise Fault("include", f"{path} is too large: {state.st_size} bytes", pos, allowed=f"{INCLUDE_SIZE} bytes",
                        help="split the file")  # fmt: skip
        data = os.read(fd, INCLUDE_SIZE)
    finally:
        os.close(fd)
    return data.decode("utf-8", "surrogateescape")


def _include(engine: Engine, parser: Parser, block: Block, at: int) -> None:
    pos = parser.skip()
    text = parser.text[pos:].strip()
    if len(text) < 3 or (text[0], text[-1]) not in (('"', '"'), ("<", ">")):
        raise Fault("include-name", 'a file name is written in "" or <>', pos, help='write .include "name"')
    name = text[1:-1]
    places = [Path(p) for p in engine.include_path]
    if text[0] == '"':
        places.insert(0, Path(engine.source[1]).parent)
    if sum(call.startswith("included ") for call in engine.report.calls) >= _INCLUDE_DEPTH:
        raise Fault("recursion", f"files include each other more than {_INCLUDE_DEPTH} deep", pos,
                    help="guard the file: .ifset GUARD")  # fmt: skip
    engine.budget.include(pos)
    outside = False
    for place in places:
        path = place / name
        real = _within(path, engine.include_root)
        if real is None:
            outside = True
            continue
        content = _read(real, pos)
        if content is not None:
            lines = Lines.of(content, str(path))
            engine.budget.text(len(lines.sources))
            engine.nested(lines.whole, {}, f"included at {engine.source[1]}:{engine.source[2]}", pos)
            return
    if name == STANDARD_INCLUDE and engine.symbols.standard is not None:
        symbols, standard = engine.symbols, engine.symbols.standard
        symbols.root.constants.update(standard.constants)
        symbols.root.functions.update(standard.functions)
        symbols.changed((*standard.constants, *standard.functions))
        return
    if outside:
        raise Fault("include", f"{name} is outside the include root", pos, allowed=f"files in {engine.include_root}",
                    help="copy the file there")  # fmt: skip
    looked = ", ".join(str(p) for p in places) or "nowhere: no include path is given"
    raise Fault("include", f"{name} is not found; looked in {looked}", pos)


# -- data ---------------------------------------------------------------


def _integers(bits: int, engine: Engine, parser: Parser, block: Block, at: int) -> None:
    for value, pos in _values(parser):
        if isinstance(value, LabelRef):
            raise Fault("label-operand", "a label alone is not data; a difference of two labels is", pos)
        if not isinstance(value, int):
            raise Fault("value-type", f"data of {bits} bits are integers, not {described(value)}", pos)
        if bits < 64 and not -(1 << (bits - 1)) <= value < 1 << bits:
            engine.warn(
                "data-range", f"{value} does not fit {bits} bits; the low {bits} bits are kept", pos,
                f"write ({value} & {hex((1 << bits) - 1)}) if that is meant",
            )  # fmt: skip
        engine.out.data(value, bits, engine.source)


def _half_bits(value: float) -> int:
    try:
        bits: int = struct.unpack("<H", struct.pack("<e", value))[0]
    except OverflowError:
        return 0xFC00 if value < 0 else 0x7C00
    return bits


def _double_bits(value: float) -> int:
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return bits


def _floats(
    bits: int, encode: Callable[[float], int], infinity: int, engine: Engine, parser: Parser, block: Block, at: int
) -> None:
    for value, pos in _values(parser):
        if not isinstance(value, int | float):
            raise Fault("value-type", f"a number is needed, not {described(value)}", pos)
        pattern = encode(float(value))
        if pattern & infinity == infinity and abs(value) != float("inf") and value == value:
            engine.warn("float-range", f"{value} is out of range and becomes infinity", pos)
        engine.out.data(pattern, bits, engine.source)


def _align(engine: Engine, parser: Parser, block: Block, at: int) -> None:
    values = _values(parser)
    if len(values) > 2:
        raise Fault("operand-count", ".align takes an alignment and a base", values[2][1])
    to = _integer(values[0][0], values[0][1], "the alignment", 1, 64)
    if to & (to - 1):
        raise Fault("value-range", f"the alignment is {to}", values[0][1], allowed="1, 2, 4, 8, 16, 32, 64")
    base = 0
    if len(values) == 2:
        value, pos = values[1]
        base = (
            engine.labels.address(value)
            if isinstance(value, LabelRef)
            else _integer(value, pos, "the base", 0, 1 << 31)
        )
    engine.out.align(to, base, engine.source)


def _region(code: bool, engine: Engine, parser: Parser, block: Block, at: int) -> None:
    _end(parser)
    engine.out.region = code


def _global(engine: Engine, parser: Parser, block: Block, at: int) -> None:
    pos = parser.skip()
    value: Value
    if parser.peek() == ":":
        value = parser.expression()
        _end(parser)
        if not isinstance(value, LabelRef) or value.addend:
            raise Fault("global", "an exported label is written without addition: .global :name", pos)
        name = value.key[0]
        if value.key[1]:
            raise Fault("label-export", f"the local label {name} cannot be exported", pos)
    else:
        name, pos = _name(parser, "a symbol")
        parser.expect(",", f"between {name} and its value")
        where = parser.skip()
        value = parser.expression()
        _end(parser)
        if not isinstance(value, int | float | LabelRef):
            raise Fault("value-type", f"a symbol is a number or a label, not {described(value)}", where)
    if name in engine.exports and engine.exports[name][0] != value:
        raise Fault("global-twice", f"the symbol {name!r} is already exported", pos)
    engine.exports[name] = (value, engine.source)


# -- moving and copying instructions ---------------------------------------------------------------


def _back(engine: Engine, parser: Parser, block: Block, at: int) -> int:
    pos = parser.skip()
    n = _integer(parser.expression(), pos, "the number of instructions", 0, 10)
    _end(parser)
    body = _inner(block, at, "endb", pos)
    source = engine.source
    try:
        cut = engine.out.cut(n)
    except Fault as fault:
        fault.pos = pos
        raise
    try:
        engine.nested(body, {}, None, pos)
    finally:
        engine.source = source
        cut.restore(source)
    return body.stop + 1


def _clone(engine: Engine, parser: Parser, block: Block, at: int) -> None:
    pos = parser.skip()
    label = parser.expression()
    if not isinstance(label, LabelRef):
        raise Fault("value-type", f".clone starts at a label, not at {described(label)}", pos)
    parser.expect(",", "between the label and the number of instructions")
    where = parser.skip()
    n = _integer(parser.expression(), where, "the number of instructions", 0, 3)
    _end(parser)
    out = engine.out
    first = engine.labels.address(label)
    if first % 8:
        raise Fault("clone", f"{first} is not the address of an instruction", pos)
    first //= 8
    here = len(out.words) + bool(out.tail_bits)
    origin = out
    if first + n > len(out.words) and engine.previous is not None:
        origin = engine.previous
    for k in range(first, first + n):
        word = origin.words[k] if 0 <= k < len(origin.words) else NOP_WORD
        out.word(word, engine.source, origin.fixups.get(k))
    engine.clones.append((label.key, label.addend, here, n))
    return


DIRECTIVES: dict[str, Handler] = {
    **dict.fromkeys(("set", "define", "equ"), partial(_set, False, False)),
    "const": partial(_set, False, True),
    "lset": partial(_set, True, False),
    "lconst": partial(_set, True, True),
    **dict.fromkeys(("unset", "undef"), partial(_unset, False)),
    "lunset": partial(_unset, True),
    "local": _local,
    "endloc": partial(_no_block, ".local"),
    "func": _func,
    **dict.fromkeys(("endf", "endfunc"), partial(_no_block, ".func")),
    "macro": _macro,
    "endm": partial(_no_block, ".macro"),
    "rep": _rep,
    **dict.fromkeys(("endr", "endrep"), partial(_no_block, ".rep")),
    "foreach": _foreach,
    "endfor": partial(_no_block, ".foreach"),
    "if": _if,
    "ifset": _ifset,
    **dict.fromkeys(("elseif", "elif", "else", "endif"), partial(_no_block, ".if")),
    "assert": _assert,
    "include": _include,
    "back": _back,
    "endb": partial(_no_block, ".back"),
    "clone": _clone,
    **dict.fromkeys(("bit", "int1"), partial(_integers, 1)),
    "int2": partial(_integers, 2),
    "int4": partial(_integers, 4),
    **dict.fromkeys(("byte", "int8"), partial(_integers, 8)),
    **dict.fromkeys(("short", "word", "int16"), partial(_integers, 16)),
    **dict.fromkeys(("int", "dword", "int32"), partial(_integers, 32)),
    **dict.fromkeys(("long", "qword", "int64"), partial(_integers, 64)),
    **dict.fromkeys(("half", "float16"), partial(_floats, 16, _half_bits, 0x7C00)),
    **dict.fromkeys(("float", "float32"), partial(_floats, 32, float_bits, 0x7F800000)),
    **dict.fromkeys(("double", "float64"), partial(_floats, 64, _double_bits, 0x7FF0000000000000)),
    "align": _align,
    "global": _global,
    **dict.fromkeys(("code", "text"), partial(_region, True)),
    "rodata": partial(_region, False),
}
"""Every directive."""
